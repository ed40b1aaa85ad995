"""Site physics: sun, wind, cooling, battery; what the site's next kWh costs and emits; meters' sums.

Here: pure functions of numbers and instants, imported without numba. `series`, `steps` and `year` run the same
arithmetic compiled, over years of steps: import them by name. Not here: recordings and their provenance (`signals`),
how much energy an engine takes (`serving`), when a battery should act (`dispatch`). Flows are unsigned.
"""

from hanse.energy.cooling import pue_at, wet_bulb_c, wue_l_per_kwh_at
from hanse.energy.meters import EnergySplit, split_energy
from hanse.energy.plant import PLANTS, Contracts, Cooling, Plant, Storage, Ups, states, supplies
from hanse.energy.site import SiteSignals, site_signals
from hanse.energy.solar import clear_sky_ghi_w_per_m2, plane_irradiance_w_per_m2, pv_kw
from hanse.energy.supply import Battery, SiteFlows, battery_of, site_supply
from hanse.energy.wind import wind_kw

__all__ = [
    "PLANTS",
    "Battery",
    "Contracts",
    "Cooling",
    "EnergySplit",
    "Plant",
    "SiteFlows",
    "SiteSignals",
    "Storage",
    "Ups",
    "battery_of",
    "clear_sky_ghi_w_per_m2",
    "plane_irradiance_w_per_m2",
    "pue_at",
    "pv_kw",
    "site_signals",
    "site_supply",
    "split_energy",
    "states",
    "supplies",
    "wet_bulb_c",
    "wind_kw",
    "wue_l_per_kwh_at",
]

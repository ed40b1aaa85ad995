"""Site physics: sun, wind, cooling, battery; what the site's next kWh costs and emits; meters' sums.

Here: pure functions of numbers and instants. Not here: series and their provenance (`signals`), how
much energy an engine takes (`serving`), when a battery should act (`dispatch`). Flows are unsigned.
"""

from hanse.energy.cooling import pue_quick
from hanse.energy.meters import EnergySplit, split_energy
from hanse.energy.site import SiteSignals, site_signals
from hanse.energy.solar import clear_sky_ghi_w_per_m2, plane_irradiance_w_per_m2, pv_kw
from hanse.energy.supply import Battery, SiteFlows, battery_of, site_supply
from hanse.energy.wind import wind_kw

__all__ = [
    "Battery",
    "EnergySplit",
    "SiteFlows",
    "SiteSignals",
    "battery_of",
    "clear_sky_ghi_w_per_m2",
    "plane_irradiance_w_per_m2",
    "pue_quick",
    "pv_kw",
    "site_signals",
    "site_supply",
    "split_energy",
    "wind_kw",
]

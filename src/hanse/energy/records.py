"""Record arrays of the site balance: parameters, state, what comes from outside, what comes out, sums.

Here: the layouts, one row a site (or a site and step), every field in the unit its name ends in. Not here: what
is computed with them (`balance`), how parameters are made from a fleet (`plant`), how series are made (`series`).
Flows are unsigned mean powers over a step; `_kwh`, `_g`, `_l` and `usd_` are sums over it.
"""

from __future__ import annotations

from typing import Final

import numpy as np

BY_SURPLUS: Final = 0
"""Battery rule: surplus in, deficit out (self-consumption)."""
BY_PRICE: Final = 1
"""Battery rule: also from the grid at or below `signal_low` USD/kWh; out only at or above `signal_high`."""
BY_CARBON: Final = 2
"""Battery rule: the same by average grid carbon, gCO2e/kWh."""
BY_PLAN: Final = 3
"""Battery rule: `plan_charge_kw` and `plan_discharge_kw` of each step, as far as limits let."""

SUPPLY_DTYPE: Final = np.dtype(
    [
        ("grid_kw_max", "f8"),
        ("export_kw_max", "f8"),
        ("base_kw", "f8"),
        ("it_kw_rated", "f8"),
        ("pue_fixed", "f8"),
        ("pv_kw_peak", "f8"),
        ("wind_kw_rated", "f8"),
        ("pv_g_per_kwh", "f8"),
        ("wind_g_per_kwh", "f8"),
        ("battery_kwh", "f8"),
        ("battery_kw_max", "f8"),
        ("charge_efficiency", "f8"),
        ("discharge_efficiency", "f8"),
        ("self_discharge_per_h", "f8"),
        ("soc_min", "f8"),
        ("soc_max", "f8"),
        ("soc_reserve", "f8"),
        ("signal_low", "f8"),
        ("signal_high", "f8"),
        ("battery_rule", "i8"),
        ("battery_export", "i8"),
        ("island", "i8"),
        ("ups_kw_rated", "f8"),
        ("ups_k0", "f8"),
        ("ups_k1", "f8"),
        ("ups_k2", "f8"),
        ("ups_kwh", "f8"),
        ("ups_charge_kw_max", "f8"),
        ("ups_charge_efficiency", "f8"),
        ("distribution_share", "f8"),
        ("lights_share", "f8"),
        ("fan_share", "f8"),
        ("fan_fixed_share", "f8"),
        ("economiser", "i8"),
        ("evaporative", "i8"),
        ("free_c", "f8"),
        ("free_band_k", "f8"),
        ("tower_free_c", "f8"),
        ("tower_band_k", "f8"),
        ("condenser_approach_k", "f8"),
        ("condenser_c_min", "f8"),
        ("evaporator_c", "f8"),
        ("carnot_share", "f8"),
        ("concentration_cycles", "f8"),
        ("drift_share", "f8"),
        ("contract_share", "f8"),
        ("contract_g_per_kwh", "f8"),
        ("export_usd_per_kwh", "f8"),
        ("usd_per_kw_month", "f8"),
    ],
    align=True,
)
"""[site]: what a site's supply and plant are. `pue_fixed` 0: by physics; `ups_kw_rated` 0: no UPS; `island` 1: own
generation and battery work without the grid; `plant` gives every default its reason."""

STATE_DTYPE: Final = np.dtype(
    [
        ("battery_kwh", "f8"),
        ("battery_clean_kwh", "f8"),
        ("ups_kwh", "f8"),
        ("window_kwh", "f8"),
        ("window_s", "f8"),
        ("peak_import_kw", "f8"),
    ],
    align=True,
)
"""[site]: what carries over. `battery_clean_kwh`: the part of the battery's content that was carbon-free when it went
in; `peak_import_kw`: highest quarter-hour mean since the month began."""

OUTSIDE_DTYPE: Final = np.dtype(
    [
        ("outdoor_c", "f8"),
        ("wetbulb_c", "f8"),
        ("pv_kw", "f8"),
        ("wind_kw", "f8"),
        ("price_usd_per_kwh", "f8"),
        ("carbon_g_per_kwh", "f8"),
        ("marginal_g_per_kwh", "f8"),
        ("residual_g_per_kwh", "f8"),
        ("carbon_free_share", "f8"),
        ("contract_kw", "f8"),
        ("grid_up", "f8"),
        ("plan_charge_kw", "f8"),
        ("plan_discharge_kw", "f8"),
    ],
    align=True,
)
"""[site, step]: weather, own generation, grid. NaN in a carbon field: not known, and then the result is NaN too; NaN
in `wetbulb_c`: humidity unknown; NaN in `carbon_free_share`: unknown, counted as none. `contract_kw`: hourly matched
generation bought by contract; `grid_up` 0: outage."""

OUT_DTYPE: Final = np.dtype(
    [
        ("facility_kw", "f8"),
        ("it_kw", "f8"),
        ("ups_loss_kw", "f8"),
        ("cooling_kw", "f8"),
        ("other_kw", "f8"),
        ("pue", "f8"),
        ("water_l", "f8"),
        ("pv_used_kw", "f8"),
        ("wind_used_kw", "f8"),
        ("charge_kw", "f8"),
        ("discharge_kw", "f8"),
        ("ups_charge_kw", "f8"),
        ("ups_discharge_kw", "f8"),
        ("import_kw", "f8"),
        ("export_kw", "f8"),
        ("curtailed_kw", "f8"),
        ("unserved_kw", "f8"),
        ("battery_kwh", "f8"),
        ("storage_loss_kw", "f8"),
        ("carbon_location_g", "f8"),
        ("carbon_marginal_g", "f8"),
        ("avoided_marginal_g", "f8"),
        ("carbon_market_g", "f8"),
        ("carbon_own_g", "f8"),
        ("usd_import", "f8"),
        ("usd_export", "f8"),
        ("carbon_free_kwh", "f8"),
        ("peak_import_kw", "f8"),
    ],
    align=True,
)
"""[site, step] or [site]: what a step came to.

pv + wind + discharge + ups_discharge + import + unserved
    = facility + charge + ups_charge + export + curtailed,
and of own generation pv_used + wind_used went to load, UPS and battery. `facility_kw` is what was asked for, `unserved_kw` the
part that could not be given; `other_kw`: distribution, lights, and the whole overhead where PUE is declared; `pue` is
NaN without IT load. `carbon_location_g`, `carbon_marginal_g` and `carbon_market_g` are three answers to three
questions about the same imported kWh: never add them. `carbon_own_g` is lifecycle carbon of own generation not
exported, and stands beside each."""

REPORT_DTYPE: Final = np.dtype(
    [
        ("pue", "f8"),
        ("pv_kw", "f8"),
        ("wind_kw", "f8"),
        ("own_share", "f8"),
        ("carbon_g_per_kwh", "f8"),
        ("price_usd_per_kwh", "f8"),
        ("available_kw", "f8"),
    ],
    align=True,
)
"""[site]: what an agent tells routing (`energy.site.SiteSignals`) and shedding. Carbon and price are of the next kWh."""

SUMS_DTYPE: Final = np.dtype(
    [
        ("steps", "i8"),
        ("outage_steps", "i8"),
        ("facility_kwh", "f8"),
        ("it_kwh", "f8"),
        ("ups_loss_kwh", "f8"),
        ("cooling_kwh", "f8"),
        ("other_kwh", "f8"),
        ("water_l", "f8"),
        ("pv_kwh", "f8"),
        ("wind_kwh", "f8"),
        ("pv_used_kwh", "f8"),
        ("wind_used_kwh", "f8"),
        ("charge_kwh", "f8"),
        ("discharge_kwh", "f8"),
        ("ups_charge_kwh", "f8"),
        ("ups_discharge_kwh", "f8"),
        ("import_kwh", "f8"),
        ("export_kwh", "f8"),
        ("curtailed_kwh", "f8"),
        ("unserved_kwh", "f8"),
        ("storage_loss_kwh", "f8"),
        ("carbon_location_g", "f8"),
        ("carbon_marginal_g", "f8"),
        ("avoided_marginal_g", "f8"),
        ("carbon_market_g", "f8"),
        ("carbon_own_g", "f8"),
        ("usd_import", "f8"),
        ("usd_export", "f8"),
        ("usd_demand", "f8"),
        ("demand_kw_months", "f8"),
        ("carbon_free_kwh", "f8"),
        ("import_kw_max", "f8"),
    ],
    align=True,
)
"""[site]: sums over a run. `demand_kw_months`: the sum of monthly peaks, what a demand charge is levied on."""

HOUR_DTYPE: Final = np.dtype(
    [
        ("load_kwh", "f8"),
        ("carbon_free_kwh", "f8"),
        ("import_kwh", "f8"),
        ("export_kwh", "f8"),
        ("generated_kwh", "f8"),
    ],
    align=True,
)
"""[site, hour]: for the hourly carbon-free score. `load_kwh` is what was served."""

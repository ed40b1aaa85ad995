"""One step of a site's power, in plain arithmetic: plant, dispatch, books.

Here: the only place where the physics of cooling, UPS, battery and grid stands. The functions take rows of the
arrays in `records` (a structured scalar in Python, a record in compiled code), so that the live site calls them as
they are and `steps` compiles the same text for the twin. Everything that `run_steps` needs stands in this file: a
cached kernel is made anew only when its own file changes. Not here: parameters and their reasons (`plant`), series
(`series`), compilation (`steps`). docs/energy.md has the formulas with sources and the order of dispatch.
"""

from __future__ import annotations

import math
from typing import Any

from hanse.units import SECONDS_PER_HOUR

BY_PRICE, BY_CARBON, BY_PLAN = 1, 2, 3  # as in `records`, and named here for the compiler
EVAPORATED_L_PER_KWH = 1.48
"""Litres that carry off a kWh of heat: 3.6 MJ over the latent heat of 2.43 MJ/kg at 30 degC."""
KELVIN = 273.15
LOAD_SHARE_USUAL = 0.56
"""Average share of power capacity in use (451 Research, 2015); where the load share of a hall is not known."""
BLOCK_SHARE = 0.05
"""The next kWh is averaged over a block of this share of the grid connection: about what one table
refresh can move to a site, and wide enough that a passing cloud dims the signal, not flips it."""
WINDOW_S = 900.0
"""Demand charges are levied on the mean of a quarter of an hour."""


def clip(x: float, low: float, high: float) -> float:
    """x within low and high."""
    return max(low, min(high, x))


def ups_loss_kw(p: Any, it_kw: float) -> float:
    """P_rated (k0 + k1 L + k2 L^2), L = load over rating (Rasmussen, Schneider Electric WP 113). Valid for L to 1."""
    if p["ups_kw_rated"] <= 0.0:
        return 0.0
    load = it_kw / p["ups_kw_rated"]
    return p["ups_kw_rated"] * (p["ups_k0"] + p["ups_k1"] * load + p["ups_k2"] * load * load)  # type: ignore[no-any-return]


def heat_paths(p: Any, outdoor_c: float, wetbulb_c: float) -> tuple[float, float, float]:
    """Share of heat that needs a compressor, share that evaporates water, and the compressor's COP.

    Outside air takes all heat up to `free_c` and none from `free_band_k` above it; what is left goes to the tower
    (evaporative plant) and from there, the warmer the wet bulb, through the compressor. COP = g T_evap /
    (T_cond - T_evap), a share g of Carnot's. Valid for -40 to 50 degC. Without humidity the wet bulb is taken as the
    dry bulb, which is its upper end.
    """
    unmet = 1.0
    if p["economiser"] != 0:
        unmet = clip((outdoor_c - p["free_c"]) / p["free_band_k"], 0.0, 1.0)
    sink_c, need, evaporates = outdoor_c, unmet, 0.0
    if p["evaporative"] != 0:
        sink_c = outdoor_c if math.isnan(wetbulb_c) else min(wetbulb_c, outdoor_c)
        need = min(unmet, clip((sink_c - p["tower_free_c"]) / p["tower_band_k"], 0.0, 1.0))
        evaporates = unmet
    condenser_c = max(p["condenser_c_min"], sink_c + p["condenser_approach_k"])
    lift_k = condenser_c - p["evaporator_c"]
    return need, evaporates, p["carnot_share"] * (p["evaporator_c"] + KELVIN) / lift_k


def plant(
    p: Any, it_kw: float, outdoor_c: float, wetbulb_c: float
) -> tuple[float, float, float, float]:
    """UPS loss, cooling and other overhead in kW, and water in litres an hour, for an IT load."""
    need, evaporates, cop = heat_paths(p, outdoor_c, wetbulb_c)
    if p["pue_fixed"] > 0.0:
        ups, cooling, other = 0.0, 0.0, it_kw * (p["pue_fixed"] - 1.0)
        rejected_kw = it_kw * p["pue_fixed"]
    else:
        ups = ups_loss_kw(p, it_kw)
        distribution = it_kw * p["distribution_share"]
        other = distribution + p["lights_share"] * p["it_kw_rated"]
        heat = it_kw + ups + distribution
        steady, follows = p["fan_fixed_share"], 1.0 - p["fan_fixed_share"]
        fans = p["fan_share"] * (steady * p["it_kw_rated"] + follows * heat)
        compressor = (heat + fans) * need / cop
        cooling = fans + compressor
        rejected_kw = heat + fans + compressor
    blowdown = 1.0 / (p["concentration_cycles"] - 1.0)
    litres = EVAPORATED_L_PER_KWH * (1.0 + blowdown + p["drift_share"])
    return ups, cooling, other, rejected_kw * evaporates * litres


def site_step(p: Any, s: Any, x: Any, it_kw: float, step_s: float, out: Any) -> None:
    """One step of a whole site: IT load in, everything else out; `s` moves on."""
    ups, cooling, other, litres_per_h = plant(p, it_kw, x["outdoor_c"], x["wetbulb_c"])
    out["it_kw"] = it_kw
    out["ups_loss_kw"] = ups
    out["cooling_kw"] = cooling
    out["other_kw"] = other
    out["pue"] = (it_kw + ups + cooling + other) / it_kw if it_kw > 0.0 else math.nan
    out["water_l"] = litres_per_h * step_s / SECONDS_PER_HOUR
    load_kw = p["base_kw"] + it_kw + ups + cooling + other
    supply_step(p, s, x, load_kw, it_kw + ups, step_s, out)


def battery_kw(
    p: Any, x: Any, surplus: float, missing: float, import_max: float, limits: tuple[float, float]
) -> tuple[float, float]:
    """What the battery's rule asks: charge and discharge, at most one above zero. `limits`: what it could do.

    Without the grid every rule is self-consumption.
    """
    charge_max, discharge_max = limits
    from_grid_max = surplus + max(0.0, import_max - missing)
    rule = p["battery_rule"]
    if x["grid_up"] <= 0.0 or rule < BY_PRICE:
        return min(surplus, charge_max), min(missing, discharge_max)
    if rule == BY_PLAN:
        charge = clip(x["plan_charge_kw"], 0.0, min(charge_max, from_grid_max))
        if charge > 0.0:
            return charge, 0.0
        sale_max = p["battery_export"] * max(0.0, p["export_kw_max"] - surplus)
        return 0.0, clip(x["plan_discharge_kw"], 0.0, min(discharge_max, missing + sale_max))
    signal = x["price_usd_per_kwh"] if rule == BY_PRICE else x["carbon_g_per_kwh"]
    if signal <= p["signal_low"]:
        return min(charge_max, from_grid_max), 0.0
    if signal >= p["signal_high"] and missing > 0.0:
        return 0.0, min(missing, discharge_max)
    return min(surplus, charge_max), 0.0


def battery_limits(p: Any, held_kwh: float, hours: float) -> tuple[float, float, float]:
    """Most it can take, give above the reserve, and give down to its floor, kW over the step."""
    power, give = p["battery_kw_max"], p["discharge_efficiency"] / hours
    room_kwh = p["soc_max"] * p["battery_kwh"] - held_kwh
    above_floor_kwh = held_kwh - p["soc_min"] * p["battery_kwh"]
    above_reserve_kwh = held_kwh - max(p["soc_min"], p["soc_reserve"]) * p["battery_kwh"]
    return (
        clip(room_kwh / p["charge_efficiency"] / hours, 0.0, power),
        clip(above_reserve_kwh * give, 0.0, power),
        clip(above_floor_kwh * give, 0.0, power),
    )


def supply_step(
    p: Any, s: Any, x: Any, load_kw: float, backed_kw: float, step_s: float, out: Any
) -> None:
    """Serve a load for one step: own generation, battery, grid; `backed_kw` of it hangs on the UPS.

    The connection limits import; what it cannot give the battery gives, whatever its rule; what neither can is
    unserved. In an outage the UPS carries its own load last.
    """
    hours = step_s / SECONDS_PER_HOUR
    generated = x["pv_kw"] + x["wind_kw"]
    up = x["grid_up"] > 0.0
    usable = generated if up or p["island"] != 0 else 0.0
    import_max = p["grid_kw_max"] if up else 0.0
    export_max = p["export_kw_max"] if up else 0.0
    ups_charge = ups_charge_kw(p, s, usable + import_max - load_kw, hours) if up else 0.0
    need = load_kw + ups_charge
    own = min(need, usable)
    surplus, missing = usable - own, need - own

    held_kwh = s["battery_kwh"] * max(0.0, 1.0 - p["self_discharge_per_h"] * hours)
    charge_max, discharge_max, floor_max = battery_limits(p, held_kwh, hours)
    charge, discharge = battery_kw(p, x, surplus, missing, import_max, (charge_max, discharge_max))
    if missing > import_max:
        # No rule lets the lights go out while the battery holds energy; without the grid that is every deficit.
        charge, discharge = 0.0, max(discharge, min(missing - import_max, floor_max))

    to_load = min(missing, discharge)
    from_grid = min(missing - to_load, import_max)
    own_charge = min(charge, surplus)
    grid_charge = min(charge - own_charge, import_max - from_grid)
    charge = own_charge + grid_charge
    sold, spare = discharge - to_load, surplus - own_charge
    exported = min(spare + sold, export_max)
    short = missing - to_load - from_grid
    ups_discharge = 0.0 if up else min(short, backed_kw, s["ups_kwh"] / hours)

    out["facility_kw"] = load_kw
    out["charge_kw"] = charge
    out["discharge_kw"] = discharge
    out["ups_charge_kw"] = ups_charge
    out["ups_discharge_kw"] = ups_discharge
    out["import_kw"] = from_grid + grid_charge
    out["export_kw"] = exported
    out["curtailed_kw"] = spare + sold - exported + (generated - usable)
    out["unserved_kw"] = short - ups_discharge
    own_used = (own + own_charge) / generated if generated > 0.0 else 0.0
    out["pv_used_kw"] = x["pv_kw"] * own_used
    out["wind_used_kw"] = x["wind_kw"] * own_used
    clean = store(p, s, x, held_kwh, own_charge, grid_charge, hours, out)
    known = 0.0 if math.isnan(x["carbon_free_share"]) else x["carbon_free_share"]
    matched = own + to_load * clean + from_grid * known
    out["carbon_free_kwh"] = hours * matched * load_kw / need if need > 0.0 else 0.0
    account(p, s, x, exported - min(sold, exported), step_s, out)


def ups_charge_kw(p: Any, s: Any, spare_kw: float, hours: float) -> float:
    """What refills the UPS after an outage, never at the cost of the load."""
    room_kwh = p["ups_kwh"] - s["ups_kwh"]
    if room_kwh <= 0.0:
        return 0.0
    return clip(
        min(p["ups_charge_kw_max"], room_kwh / p["ups_charge_efficiency"] / hours),
        0.0,
        max(0.0, spare_kw),
    )


def store(
    p: Any,
    s: Any,
    x: Any,
    held_kwh: float,
    own_charge: float,
    grid_charge: float,
    hours: float,
    out: Any,
) -> float:
    """Move battery and UPS on; the carbon-free share of what the battery held.

    Content is mixed: a discharge takes the carbon-free and the other part in proportion.
    """
    before_kwh = s["battery_kwh"]
    clean_share = s["battery_clean_kwh"] / before_kwh if before_kwh > 0.0 else 0.0
    out_kwh = out["discharge_kw"] / p["discharge_efficiency"] * hours
    in_kwh = out["charge_kw"] * p["charge_efficiency"] * hours
    known = 0.0 if math.isnan(x["carbon_free_share"]) else x["carbon_free_share"]
    clean_in_kwh = (own_charge + grid_charge * known) * p["charge_efficiency"] * hours
    after_kwh = clip(held_kwh - out_kwh + in_kwh, 0.0, p["battery_kwh"])
    s["battery_kwh"] = after_kwh
    clean_kwh = clean_share * (held_kwh - out_kwh) + clean_in_kwh
    s["battery_clean_kwh"] = clip(clean_kwh, 0.0, after_kwh)
    ups_before_kwh = s["ups_kwh"]
    ups_in_kwh = out["ups_charge_kw"] * p["ups_charge_efficiency"] * hours
    ups_after_kwh = ups_before_kwh + ups_in_kwh - out["ups_discharge_kw"] * hours
    s["ups_kwh"] = clip(ups_after_kwh, 0.0, max(p["ups_kwh"], ups_before_kwh))
    stored_kw = (after_kwh - before_kwh + s["ups_kwh"] - ups_before_kwh) / hours
    went_in = out["charge_kw"] + out["ups_charge_kw"]
    came_out = out["discharge_kw"] + out["ups_discharge_kw"]
    out["battery_kwh"] = after_kwh
    out["storage_loss_kw"] = max(0.0, went_in - came_out - stored_kw)
    return clean_share


def account(p: Any, s: Any, x: Any, own_exported: float, step_s: float, out: Any) -> None:
    """Carbon by three methods, own lifecycle carbon, money, and the peak that a demand charge is levied on."""
    hours = step_s / SECONDS_PER_HOUR
    import_kwh, export_kwh = out["import_kw"] * hours, out["export_kw"] * hours
    out["carbon_location_g"] = import_kwh * x["carbon_g_per_kwh"]
    out["carbon_marginal_g"] = import_kwh * x["marginal_g_per_kwh"]
    out["avoided_marginal_g"] = export_kwh * x["marginal_g_per_kwh"]
    contracted = import_kwh * p["contract_share"] + x["contract_kw"] * hours
    covered_kwh = min(import_kwh, contracted)
    out["carbon_market_g"] = covered_kwh * p["contract_g_per_kwh"]
    if covered_kwh < import_kwh:
        out["carbon_market_g"] += (import_kwh - covered_kwh) * x["residual_g_per_kwh"]
    generated = x["pv_kw"] + x["wind_kw"]
    kept = 1.0 - own_exported / generated if generated > 0.0 else 0.0
    own_g_per_h = x["pv_kw"] * p["pv_g_per_kwh"] + x["wind_kw"] * p["wind_g_per_kwh"]
    out["carbon_own_g"] = own_g_per_h * hours * max(0.0, kept)
    out["usd_import"] = import_kwh * x["price_usd_per_kwh"]
    out["usd_export"] = export_kwh * p["export_usd_per_kwh"]
    s["window_kwh"] += import_kwh
    s["window_s"] += step_s
    # A hair of slack: steps of a third of a window sum up to it by rounding.
    if s["window_s"] >= WINDOW_S - 1e-6:
        mean_kw = s["window_kwh"] * SECONDS_PER_HOUR / s["window_s"]
        s["peak_import_kw"] = max(s["peak_import_kw"], mean_kw)
        s["window_kwh"] = 0.0
        s["window_s"] = 0.0
    out["peak_import_kw"] = s["peak_import_kw"]


def own_share(pv_kw: float, wind_kw: float, load_kw: float, block_kw: float) -> float:
    """Share of the next `block_kw` of load that surplus own generation covers, 0 to 1."""
    surplus_kw = max(0.0, pv_kw + wind_kw - load_kw)
    if block_kw > 0.0:
        return min(1.0, surplus_kw / block_kw)
    return 1.0 if surplus_kw > 0.0 else 0.0


def own_g_per_kwh(pv_kw: float, wind_kw: float, pv_g: float, wind_g: float) -> float:
    """Lifecycle carbon of the site's own mix, gCO2e/kWh."""
    if pv_kw + wind_kw <= 0.0:
        return 0.0
    return (pv_kw * pv_g + wind_kw * wind_g) / (pv_kw + wind_kw)


def available_kw(
    supply_kw: float, battery_kw_max: float, held_kwh: float, efficiency: float, step_s: float
) -> float:
    """What grid and own generation (`supply_kw`) give together with the battery for one step more."""
    hours = step_s / SECONDS_PER_HOUR
    return supply_kw + min(battery_kw_max, held_kwh * efficiency / hours)


def report(p: Any, s: Any, x: Any, load_kw: float, step_s: float, row: Any) -> None:
    """What a site's agent tells of itself: `load_kw` is all it draws, IT of the league included or not as the agent does.

    PUE at the usual load, as an agent has it that does not know the hall.
    """
    it_kw = LOAD_SHARE_USUAL * p["it_kw_rated"]
    ups, cooling, other, _ = plant(p, it_kw, x["outdoor_c"], x["wetbulb_c"])
    row["pue"] = 1.0 + (ups + cooling + other) / it_kw if it_kw > 0.0 else 1.0
    up = x["grid_up"] > 0.0
    lit = up or p["island"] != 0
    pv_kw, wind_kw = (x["pv_kw"], x["wind_kw"]) if lit else (0.0, 0.0)
    row["pv_kw"], row["wind_kw"] = pv_kw, wind_kw
    own = own_share(pv_kw, wind_kw, load_kw, BLOCK_SHARE * p["grid_kw_max"])
    own_g = own_g_per_kwh(pv_kw, wind_kw, p["pv_g_per_kwh"], p["wind_g_per_kwh"])
    row["own_share"] = own
    row["carbon_g_per_kwh"] = own * own_g + (1.0 - own) * x["carbon_g_per_kwh"]
    row["price_usd_per_kwh"] = (1.0 - own) * x["price_usd_per_kwh"]
    supply_kw = pv_kw + wind_kw + (p["grid_kw_max"] if up else 0.0)
    held_kwh = max(0.0, s["battery_kwh"] - p["soc_min"] * p["battery_kwh"])
    row["available_kw"] = available_kw(
        supply_kw, p["battery_kw_max"], held_kwh, p["discharge_efficiency"], step_s
    )


def report_sites(
    params: Any, state: Any, outside: Any, t: int, load_kw: Any, step_s: float, rows: Any
) -> None:
    """`report` of every site at step `t` of `outside` [site, step]; `load_kw` and `rows` are [site]."""
    for i in range(len(params)):
        report(params[i], state[i], outside[i, t], load_kw[i], step_s, rows[i])


def add_step(sums: Any, x: Any, out: Any, hours: float) -> None:
    """Add a step to a site's sums."""
    sums["steps"] += 1
    if x["grid_up"] <= 0.0:
        sums["outage_steps"] += 1
    sums["facility_kwh"] += out["facility_kw"] * hours
    sums["it_kwh"] += out["it_kw"] * hours
    sums["ups_loss_kwh"] += out["ups_loss_kw"] * hours
    sums["cooling_kwh"] += out["cooling_kw"] * hours
    sums["other_kwh"] += out["other_kw"] * hours
    sums["water_l"] += out["water_l"]
    sums["pv_kwh"] += x["pv_kw"] * hours
    sums["wind_kwh"] += x["wind_kw"] * hours
    sums["pv_used_kwh"] += out["pv_used_kw"] * hours
    sums["wind_used_kwh"] += out["wind_used_kw"] * hours
    sums["charge_kwh"] += out["charge_kw"] * hours
    sums["discharge_kwh"] += out["discharge_kw"] * hours
    sums["ups_charge_kwh"] += out["ups_charge_kw"] * hours
    sums["ups_discharge_kwh"] += out["ups_discharge_kw"] * hours
    sums["import_kwh"] += out["import_kw"] * hours
    sums["export_kwh"] += out["export_kw"] * hours
    sums["curtailed_kwh"] += out["curtailed_kw"] * hours
    sums["unserved_kwh"] += out["unserved_kw"] * hours
    sums["storage_loss_kwh"] += out["storage_loss_kw"] * hours
    sums["carbon_location_g"] += out["carbon_location_g"]
    sums["carbon_marginal_g"] += out["carbon_marginal_g"]
    sums["avoided_marginal_g"] += out["avoided_marginal_g"]
    sums["carbon_market_g"] += out["carbon_market_g"]
    sums["carbon_own_g"] += out["carbon_own_g"]
    sums["usd_import"] += out["usd_import"]
    sums["usd_export"] += out["usd_export"]
    sums["carbon_free_kwh"] += out["carbon_free_kwh"]
    sums["import_kw_max"] = max(sums["import_kw_max"], out["import_kw"])


def add_hour(hour: Any, x: Any, out: Any, hours: float) -> None:
    """Add a step to a site's hour."""
    hour["load_kwh"] += (out["facility_kw"] - out["unserved_kw"]) * hours
    hour["carbon_free_kwh"] += out["carbon_free_kwh"]
    hour["import_kwh"] += out["import_kw"] * hours
    hour["export_kwh"] += out["export_kw"] * hours
    hour["generated_kwh"] += (x["pv_kw"] + x["wind_kw"]) * hours


def run_steps(
    params: Any,
    state: Any,
    outside: Any,
    it_kw: Any,
    step_s: float,
    sums: Any,
    hourly: Any,
    hour: int,
    out: Any,
) -> None:
    """Run every site over the steps of `outside` [site, step].

    `it_kw` [site, step]; step 0 begins hour `hour` of `hourly` [site, hour]; `out` [site, step] keeps every step, or
    [site, 1] only the last.
    """
    hours = step_s / SECONDS_PER_HOUR
    keeps = out.shape[1] == outside.shape[1]
    for i in range(outside.shape[0]):
        p, s, total = params[i], state[i], sums[i]
        for t in range(outside.shape[1]):
            x, row = outside[i, t], out[i, t if keeps else 0]
            site_step(p, s, x, it_kw[i, t], step_s, row)
            add_step(total, x, row, hours)
            add_hour(hourly[i, hour + int((t + 0.5) * hours)], x, row, hours)


def step_sites(
    params: Any,
    state: Any,
    outside: Any,
    t: int,
    it_kw: Any,
    step_s: float,
    sums: Any,
    hourly: Any,
    hour: int,
    out: Any,
) -> None:
    """Step `t` of `outside` [site, step] for every site: `it_kw` and `out` are [site], `hour` its place in `hourly`."""
    hours = step_s / SECONDS_PER_HOUR
    for i in range(len(params)):
        x = outside[i, t]
        site_step(params[i], state[i], x, it_kw[i], step_s, out[i])
        add_step(sums[i], x, out[i], hours)
        add_hour(hourly[i, hour], x, out[i], hours)

"""Balance of a site over a short step, as values: what the live agent asks.

Here: `site_supply`, by the load-following rule (own power first, then battery, then grid; surplus into the battery,
then out to the grid) or by what a plan says. The arithmetic is `balance.supply_step`, the same that the twin runs. Not
here: plans (`dispatch.defer`, followed by `dispatch.follow`), tariffs, the plant's overhead (a live site measures or
estimates its load as a whole).
"""

from __future__ import annotations

import msgspec
import numpy as np

from hanse.energy.balance import supply_step
from hanse.energy.records import BY_SURPLUS, OUT_DTYPE, OUTSIDE_DTYPE, STATE_DTYPE, SUPPLY_DTYPE
from hanse.model.fleet import Power

CHARGE_EFFICIENCY = 0.95
DISCHARGE_EFFICIENCY = 0.95
"""One way each, battery and inverter: about 0.90 round trip, as lithium systems are rated."""
SELF_DISCHARGE_PER_H = 3e-5
"""About 2 % a month, the upper end for lithium cells."""


class Battery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A battery and what it holds."""

    capacity_kwh: float
    power_kw_max: float
    stored_kwh: float
    self_discharge_per_h: float = 0.0
    """Share of its content lost in an hour."""

    def __post_init__(self) -> None:
        # A hair of slack: sums of steps round.
        assert -1e-9 <= self.stored_kwh <= self.capacity_kwh + 1e-9, "stored within capacity"


class SiteFlows(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Mean power over a step, kW, none negative.

    load + charge + export + curtailed = generated + discharge + import + unserved.
    """

    load_kw: float
    generated_kw: float
    charge_kw: float
    discharge_kw: float
    import_kw: float
    export_kw: float
    curtailed_kw: float
    """Own generation that found neither load, battery nor room on the grid connection."""
    unserved_kw: float
    """Load beyond the grid connection: the site must shed it."""
    stored_kwh: float
    """In the battery at the end of the step."""


def battery_of(power: Power, charged_share: float) -> Battery:
    """The battery of a site's supply, filled to a share of 0 to 1."""
    assert 0.0 <= charged_share <= 1.0, charged_share
    return Battery(
        capacity_kwh=power.battery_kwh,
        power_kw_max=power.battery_kw_max,
        stored_kwh=power.battery_kwh * charged_share,
        self_discharge_per_h=SELF_DISCHARGE_PER_H,
    )


def site_supply(
    *,
    load_kw: float,
    pv_kw: float,
    wind_kw: float,
    grid_kw_max: float,
    battery: Battery,
    step_s: float,
    export_kw_max: float | None = None,
    rule: int = BY_SURPLUS,
    plan_charge_kw: float = 0.0,
    plan_discharge_kw: float = 0.0,
) -> SiteFlows:
    """Serve a load (IT and overhead) for one step; the battery by the load-following rule, or `BY_PLAN` as far as limits let.

    The grid connection limits import, and export too where nothing narrower is said. Valid for steps over which the inputs are
    steady; the battery's power is limited by its rating, its room and what it holds.
    """
    assert min(load_kw, pv_kw, wind_kw, grid_kw_max) >= 0.0, "flows are unsigned"
    assert step_s > 0.0, step_s
    p, s, x, out = (
        np.zeros(1, dtype)[0] for dtype in (SUPPLY_DTYPE, STATE_DTYPE, OUTSIDE_DTYPE, OUT_DTYPE)
    )
    p["grid_kw_max"] = grid_kw_max
    p["export_kw_max"] = grid_kw_max if export_kw_max is None else export_kw_max
    p["battery_kwh"], p["battery_kw_max"] = battery.capacity_kwh, battery.power_kw_max
    p["charge_efficiency"], p["discharge_efficiency"] = CHARGE_EFFICIENCY, DISCHARGE_EFFICIENCY
    p["self_discharge_per_h"] = battery.self_discharge_per_h
    p["soc_max"], p["battery_rule"] = 1.0, rule
    x["plan_charge_kw"], x["plan_discharge_kw"] = plan_charge_kw, plan_discharge_kw
    s["battery_kwh"] = battery.stored_kwh
    x["pv_kw"], x["wind_kw"], x["grid_up"] = pv_kw, wind_kw, 1.0
    supply_step(p, s, x, load_kw, 0.0, step_s, out)
    return SiteFlows(
        load_kw=load_kw,
        generated_kw=pv_kw + wind_kw,
        charge_kw=float(out["charge_kw"]),
        discharge_kw=float(out["discharge_kw"]),
        import_kw=float(out["import_kw"]),
        export_kw=float(out["export_kw"]),
        curtailed_kw=float(out["curtailed_kw"]),
        unserved_kw=float(out["unserved_kw"]),
        stored_kwh=float(s["battery_kwh"]),
    )

"""Balance of a site over a short step: own generation, battery, grid.

Here: the load-following rule (own power first, then battery, then grid; surplus into the battery,
then out to the grid) and its exact balance. Not here: battery schedules with foresight, tariffs.
"""

from __future__ import annotations

import msgspec

from hanse.model.fleet import Power
from hanse.units import SECONDS_PER_HOUR

CHARGE_EFFICIENCY = 0.95
DISCHARGE_EFFICIENCY = 0.95
"""One way each, battery and inverter: about 0.90 round trip, as lithium systems are rated."""


class Battery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A battery and what it holds."""

    capacity_kwh: float
    power_kw_max: float
    stored_kwh: float

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
    )


def site_supply(
    *,
    load_kw: float,
    pv_kw: float,
    wind_kw: float,
    grid_kw_max: float,
    battery: Battery,
    step_s: float,
) -> SiteFlows:
    """Serve a load (IT and overhead) for one step by the load-following rule.

    The grid connection limits import and export alike. Valid for steps over which the inputs are
    steady; the battery's power is limited by its rating, its room and what it holds.
    """
    assert min(load_kw, pv_kw, wind_kw, grid_kw_max) >= 0.0, "flows are unsigned"
    assert step_s > 0.0, step_s
    generated = pv_kw + wind_kw
    own = min(load_kw, generated)
    surplus, missing = generated - own, load_kw - own
    hours = step_s / SECONDS_PER_HOUR
    room_kw = (battery.capacity_kwh - battery.stored_kwh) / CHARGE_EFFICIENCY / hours
    held_kw = battery.stored_kwh * DISCHARGE_EFFICIENCY / hours
    charge = max(0.0, min(surplus, battery.power_kw_max, room_kw))
    discharge = max(0.0, min(missing, battery.power_kw_max, held_kw))
    export = min(surplus - charge, grid_kw_max)
    imported = min(missing - discharge, grid_kw_max)
    gained = (charge * CHARGE_EFFICIENCY - discharge / DISCHARGE_EFFICIENCY) * hours
    return SiteFlows(
        load_kw=load_kw,
        generated_kw=generated,
        charge_kw=charge,
        discharge_kw=discharge,
        import_kw=imported,
        export_kw=export,
        curtailed_kw=surplus - charge - export,
        unserved_kw=missing - discharge - imported,
        stored_kwh=min(battery.capacity_kwh, max(0.0, battery.stored_kwh + gained)),
    )

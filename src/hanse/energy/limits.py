"""How much power a site may draw now, and what bounds it: the connection, the battery, or the heat.

Here: `power_limit`, for a live agent and the twin alike. Not here: what is given up when it is not enough (`dispatch.shed`), flows
(`balance`), how warm it is (`signals`).
"""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from hanse.units import SECONDS_PER_HOUR

Cause = Literal["grid cap", "battery low", "heat", "load target"]
"""`load target`: nothing here is short; the grid's operator, or a person, asked for less (`dispatch.load_targets`)."""

BATTERY_LOW_SHARE: Final = 0.2
"""Of its capacity. Below, a battery is kept for what cannot be given up; at its rated power a one-hour battery lasts twelve
minutes more, time to end what runs."""
BATTERY_BACK_SHARE: Final = 0.3
"""It counts again from here on; between the two nothing changes, else it would flap."""
HEAT_LIMIT_C: Final = 35.0
"""Outdoor dry bulb at which air-cooled chillers are rated (AHRI 550/590, ambient of the standard rating conditions)."""
HEAT_LOSS_PER_K: Final = 0.015
"""Of cooling capacity for each degree above: an assumption, of the order that capacity tables of air-cooled chillers show.
Valid to 50 degC, where such machines end."""


def cooled_share(outdoor_c: float) -> float:
    """Of its rated IT power, what a plant cools at an outdoor temperature; valid to 50 degC. All, where nobody knows it (NaN)."""
    if not outdoor_c > HEAT_LIMIT_C:
        return 1.0
    return max(0.0, 1.0 - HEAT_LOSS_PER_K * (outdoor_c - HEAT_LIMIT_C))


class PowerLimit(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What may be drawn at the meter, kW, and by which bound."""

    available_kw: float
    cause: Cause
    battery_low: bool
    """Whether the battery no longer counts."""


def power_limit(
    *,
    grid_kw: float,
    generated_kw: float,
    load_kw: float,
    stored_kwh: float,
    battery_kwh: float,
    battery_kw_max: float,
    efficiency: float,
    step_s: float,
    outdoor_c: float | None,
    base_kw: float,
    it_kw_rated: float,
    pue: float,
    was_low: bool = False,
) -> PowerLimit:
    """The bound that holds at a load.

    Args:
        grid_kw: What the connection gives now: its rating, less what the grid's operator takes away.
        step_s: For how long the battery must last with what it gives.
        outdoor_c: None where nobody knows: then heat bounds nothing.
        base_kw: Drawn for others whatever is shed here.
        was_low: `battery_low` of the step before.
    """
    supply_kw = grid_kw + generated_kw
    share = stored_kwh / battery_kwh if battery_kwh > 0.0 else 1.0
    needed = load_kw > supply_kw
    low = share < (BATTERY_BACK_SHARE if was_low else BATTERY_LOW_SHARE) and (needed or was_low)
    held_kw = min(battery_kw_max, stored_kwh * efficiency * SECONDS_PER_HOUR / step_s)
    available_kw = supply_kw if low else supply_kw + max(held_kw, 0.0)
    cause: Cause = "battery low" if low else "grid cap"
    if outdoor_c is not None and outdoor_c > HEAT_LIMIT_C:
        cooled_kw = base_kw + it_kw_rated * cooled_share(outdoor_c) * pue
        if cooled_kw < available_kw:
            available_kw, cause = cooled_kw, "heat"
    return PowerLimit(available_kw=available_kw, cause=cause, battery_low=low)

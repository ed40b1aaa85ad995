"""Numbers as people read them: three significant digits, a unit for each, one scale for a row.

Here: formatting of finite and missing figures, instants and ages. Not here: what the figures mean.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

MISSING = "–"
_SECONDS_PER_MINUTE = 60
_MINUTES_SHOWN_AS_SECONDS = 2
"""Ages up to two minutes read better as seconds: they still count visibly."""


@dataclass(frozen=True)
class Scale:
    """A unit, and what to multiply a figure by to show it in that unit."""

    factor: float
    unit: str

    def show(self, value: float | None) -> str:
        return MISSING if value is None else number(value * self.factor)


_LADDERS: dict[str, tuple[Scale, ...]] = {
    "Wh": (Scale(1e-3, "kWh"), Scale(1.0, "Wh"), Scale(1e3, "mWh"), Scale(1e6, "µWh")),
    "gCO2e": (
        Scale(1e-3, "kgCO2e"),
        Scale(1.0, "gCO2e"),
        Scale(1e3, "mgCO2e"),
        Scale(1e6, "µgCO2e"),
    ),
    # Nobody says millidollar: small amounts are given for more answers, as price lists do.
    "USD": (
        Scale(1.0, "USD an answer"),
        Scale(1e3, "USD per 1,000 answers"),
        Scale(1e6, "USD per million answers"),
        Scale(1e9, "USD per billion answers"),
    ),
    "USD total": (Scale(1.0, "USD"), Scale(1e3, "mUSD"), Scale(1e6, "µUSD")),
}


def scale_for(values: Iterable[float | None], quantity: str) -> Scale:
    """The first unit of the ladder in which the largest value is at least one; the last if none."""
    largest = max(
        (abs(one) for one in values if one is not None and math.isfinite(one)), default=0.0
    )
    ladder = _LADDERS[quantity]
    if largest == 0.0:
        return next(scale for scale in ladder if scale.factor == 1.0)
    return next((scale for scale in ladder if largest * scale.factor >= 1.0), ladder[-1])


def number(value: float | None) -> str:
    """Three significant digits, whole numbers whole, thousands separated, never an exponent for small values."""
    if value is None or not math.isfinite(value):
        return MISSING
    size = abs(value)
    if size == 0.0:
        return "0"
    decimals = max(0, 2 - math.floor(math.log10(size)))
    return f"{value:,.{min(decimals, 12)}f}"


def rough(value: float) -> str:
    """Two significant digits: as much as a sentence needs."""
    if not math.isfinite(value) or value == 0.0:
        return number(value)
    return f"{value:,.{max(0, 1 - math.floor(math.log10(abs(value))))}f}"


def count(value: float) -> str:
    """A count, thousands separated; a mean of counts keeps one decimal."""
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:,.1f}"


def clock(at_s: float) -> str:
    """Time of day in UTC."""
    return datetime.fromtimestamp(at_s, UTC).strftime("%H:%M:%S")


def moment(at_s: float, now_s: float) -> str:
    """Hour and minute in UTC, with the date where it is another day's."""
    at, now = (datetime.fromtimestamp(s, UTC) for s in (at_s, now_s))
    return at.strftime("%H:%M" if at.date() == now.date() else "%-d %b %H:%M")


def stamp(at_s: float) -> str:
    """Date and time in UTC, as machines and people read it."""
    return datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def power(power_kw: float) -> str:
    """Power with its unit: sites range from a thread on a shared machine to a region."""
    size = abs(power_kw)
    if size == 0.0:
        return "0 kW"
    if size < 1.0:
        return f"{number(power_kw * 1e3)} W"
    return f"{number(power_kw / 1e3)} MW" if size >= 1e3 else f"{number(power_kw)} kW"


def age(age_s: float) -> str:
    """How long ago, in words short enough for a table."""
    if age_s < _MINUTES_SHOWN_AS_SECONDS * _SECONDS_PER_MINUTE:
        return f"{age_s:.1f} s" if age_s < 10 else f"{age_s:.0f} s"
    return f"{age_s / _SECONDS_PER_MINUTE:.0f} min"

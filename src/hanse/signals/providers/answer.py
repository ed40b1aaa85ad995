"""What a provider answered: histories and forecasts as values; dated points made into equal steps; instants read.

Here: `Answer` and the making of `Series` and `Forecast` from points. Not here: any provider's shape.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec
import numpy as np

from hanse.errors import FeedError
from hanse.signals.forecast.value import Forecast
from hanse.signals.providers.web import WebFault
from hanse.signals.series import Series, SignalType

STEPS_MAX = 100_000
"""A wrong year in one timestamp must not fill the memory; this is more than a year of five-minute steps."""


class Meaning(msgspec.Struct, frozen=True, kw_only=True):
    """What a provider's figures are."""

    quantity: str
    unit: str
    signal: SignalType
    zone: str
    """The name that Hanse's sites use for it."""
    source: str
    licence: str
    note: str = ""


class Answer(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """One answer of a provider."""

    series: tuple[Series, ...] = ()
    forecasts: tuple[Forecast, ...] = ()
    notes: tuple[str, ...] = ()
    no_forecast: str = ""
    """Why its forecast alone failed; all else that it answered stands."""
    forecast_wait_s: float = 0.0
    """How long the server asks that its forecast be left alone."""


def with_forecast(
    past: Answer, ahead: Callable[[], tuple[Forecast, ...]], plan: tuple[int, ...] = ()
) -> Answer:
    """An answer and, from a request of its own, the forecast; why there is none where that fails, since what is now known is no worse for it.

    `plan`: statuses by which a provider says that the operator's plan has no forecast.
    """
    try:
        return msgspec.structs.replace(past, forecasts=ahead())
    except FeedError as error:
        why, wait_s = str(error), 0.0
        if isinstance(error, WebFault):
            why = "the plan does not include it" if error.status in plan else why
            wait_s = error.retry_after_s
    except Exception as error:
        # A shape that no reader foresaw, as of any answer (`live`).
        why, wait_s = f"got an answer of another shape ({type(error).__name__})", 0.0
    return msgspec.structs.replace(past, no_forecast=why, forecast_wait_s=wait_s)


def history(
    points: Mapping[float, float], step_s: float, meaning: Meaning, *, phase_s: float = 0.0
) -> Series:
    """Points by their begin as equal steps, which begin `phase_s` after whole multiples of a step; what is missing between them is NaN."""
    start_s, values = _steps(points, step_s, meaning, phase_s)
    return Series(
        start_s=start_s,
        step_s=step_s,
        values=values,
        quantity=meaning.quantity,
        unit=meaning.unit,
        signal=meaning.signal,
        zone=meaning.zone,
        source=meaning.source,
        licence=meaning.licence,
    )


def provided(
    points: Mapping[float, float],
    step_s: float,
    meaning: Meaning,
    issued_at_s: float,
    *,
    phase_s: float = 0.0,
    settled: bool = False,
) -> Forecast:
    """A provider's own forecast; it ends before its first gap."""
    start_s, values = _steps(points, step_s, meaning, phase_s)
    gaps = np.nonzero(np.isnan(values))[0]
    mean = tuple(values[: gaps[0] if len(gaps) else len(values)].tolist())
    return Forecast(
        quantity=meaning.quantity,
        unit=meaning.unit,
        signal=meaning.signal,
        zone=meaning.zone,
        issued_at_s=issued_at_s,
        start_s=start_s,
        step_s=step_s,
        mean=mean,
        high=mean,
        expected_error=(),
        method=f"forecast of {meaning.source}",
        source=meaning.source,
        note=meaning.note,
        settled=settled,
    )


def instant(text: object, where: str) -> float:
    """ISO 8601 with an offset or Z as Unix seconds; local time is refused, since no DST day can be told from another."""
    try:
        found = datetime.fromisoformat(str(text))
    except ValueError:
        raise FeedError(
            where,
            got=f"instant {text!r}",
            allowed="ISO 8601, such as 2026-01-31T12:30Z",
            fix="write instants so, or as Unix seconds; of a provider: its form has changed",
        ) from None
    if found.tzinfo is None:
        raise FeedError(
            where,
            got=f"instant {text!r}",
            allowed="an offset or Z, not local time",
            fix="append Z where the times are UTC, else their offset, such as +01:00",
        )
    return found.timestamp()


def iso(now_s: float) -> str:
    """`2026-01-31T12:30Z`."""
    return datetime.fromtimestamp(now_s, UTC).strftime("%Y-%m-%dT%H:%MZ")


def figure(value: object, where: str) -> float:
    """A finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise FeedError(where, got=repr(value), allowed="a finite number")
    return float(value)


def field(document: object, name: str, where: str) -> Any:
    """A named part of a JSON object."""
    if not isinstance(document, dict) or name not in document:
        shape = sorted(document) if isinstance(document, dict) else type(document).__name__
        raise FeedError(where, got=f"{shape}", allowed=f"a field {name!r}")
    return document[name]


def _steps(
    points: Mapping[float, float], step_s: float, meaning: Meaning, phase_s: float
) -> tuple[float, np.ndarray[tuple[int, ...], np.dtype[np.float64]]]:
    if not points:
        raise FeedError(
            f"{meaning.quantity} of {meaning.zone}",
            got="no point",
            allowed="one at least",
            fix="check zone and region in the feed's setting, or wait: it may publish later",
        )

    def place(at_s: float) -> int:
        return math.floor((at_s - phase_s) / step_s + 1e-9)

    first = place(min(points))
    count = place(max(points)) - first + 1
    if count > STEPS_MAX:
        raise FeedError(
            f"{meaning.quantity} of {meaning.zone}",
            got=f"points from {iso(min(points))} to {iso(max(points))}",
            allowed=f"{STEPS_MAX} steps at most",
            fix="look for a wrong year among the instants, or cut the table",
        )
    total, seen = np.zeros(count), np.zeros(count)
    for at_s, value in points.items():
        i = place(at_s) - first
        total[i] += value
        seen[i] += 1.0
    return phase_s + first * step_s, np.where(seen > 0.0, total / np.maximum(seen, 1.0), np.nan)

"""`Forecast`: what a quantity is expected to be, step by step, as known at one instant.

Here: the value, and a provider's forecast put before one's own where both are of one kind. Not here: how one is
made (`make`), how good it is (`backtest`).
"""

from __future__ import annotations

import math

import msgspec

from hanse.model.fleet import Value
from hanse.signals.kinds import one_kind
from hanse.signals.series import SignalType

HIGH_SHARE = 0.95
"""Nineteen of twenty steps stay under `high`: what capacity is set aside for."""


class Forecast(Value, frozen=True, kw_only=True):
    """All tuples [step]; step i holds from `start_s + i * step_s`."""

    quantity: str
    unit: str
    signal: SignalType
    zone: str
    issued_at_s: float
    """Unix seconds UTC: nothing later was known."""
    start_s: float
    step_s: float
    mean: tuple[float, ...]
    high: tuple[float, ...]
    """What nineteen of twenty stay under."""
    expected_error: tuple[float, ...]
    """Mean absolute error of the method on steps it had not seen; empty where nobody measured it."""
    method: str
    source: str
    note: str = ""
    settled: bool = False
    """Fixed already, as by an auction, and no guess: it counts until its end, however long ago it was told."""

    def __post_init__(self) -> None:
        assert len(self.mean) == len(self.high) > 0, "one axis for all"
        assert len(self.expected_error) in (0, len(self.mean)), "an error for each step or for none"
        assert self.step_s > 0.0, "a step takes time"

    @property
    def until_s(self) -> float:
        """The first instant after the last step."""
        return self.start_s + self.step_s * len(self.mean)


def preferred(provider: Forecast | None, own: Forecast, running: float | None = None) -> Forecast:
    """The provider's forecast where it reaches over an axis, one's own where it does not; says which is which.

    Of the first step, which is running, any part that the provider tells of counts for all of it, since many begin their
    forecast at the next full interval; where it tells of none, `running` does, a reading that still counts.
    """
    if provider is None:
        return own
    one_kind(provider, own)
    starts = [own.start_s + i * own.step_s for i in range(len(own.mean))]
    reached = [provider.start_s <= s and s + own.step_s <= provider.until_s for s in starts]
    reached[0] = provider.start_s < starts[0] + own.step_s and provider.until_s > starts[0]
    if not any(reached):
        return own
    mean = [
        _over(provider, start, own.step_s) if here else value
        for here, start, value in zip(reached, starts, own.mean, strict=True)
    ]
    if running is not None and not reached[0]:
        mean[0], reached[0] = running, True
    # Providers publish no quantiles: one's own distance from mean to high stands in.
    high = [m + h - o for m, h, o in zip(mean, own.high, own.mean, strict=True)]
    rest = "" if all(reached) else f", then {own.method}"
    return msgspec.structs.replace(
        own,
        mean=tuple(mean),
        high=tuple(high),
        expected_error=(),
        method=f"{provider.method}{rest}",
        source=provider.source,
        note=provider.note,
    )


def _over(forecast: Forecast, from_s: float, duration_s: float) -> float:
    """Time-weighted mean over the part of an interval that the forecast covers."""
    total = covered_s = 0.0
    first = math.floor((from_s - forecast.start_s) / forecast.step_s)
    for i in range(max(0, first), len(forecast.mean)):
        begin_s = forecast.start_s + i * forecast.step_s
        shared_s = min(begin_s + forecast.step_s, from_s + duration_s) - max(begin_s, from_s)
        if shared_s <= 0.0:
            break
        total += forecast.mean[i] * shared_s
        covered_s += shared_s
    return total / covered_s

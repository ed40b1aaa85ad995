"""`Forecast`: what a quantity is expected to be, step by step, as known at one instant.

Here: the value, sums that refuse to mix kinds, and a provider's forecast put before one's own. Not here: how one is
made (`make`), how good it is (`backtest`).
"""

from __future__ import annotations

import math
from typing import Generic

import msgspec

from hanse.errors import ConfigError
from hanse.model.fleet import Value
from hanse.signals.kinds import S, one_kind

HIGH_SHARE = 0.95
"""Nineteen of twenty steps stay under `high`: what capacity is set aside for."""


class Forecast(Value, Generic[S], frozen=True, kw_only=True):
    """All tuples [step]; step i holds from `start_s + i * step_s`. The kind of signal is part of the type."""

    quantity: str
    unit: str
    signal: S
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

    def __post_init__(self) -> None:
        assert len(self.mean) == len(self.high) > 0, "one axis for all"
        assert len(self.expected_error) in (0, len(self.mean)), "an error for each step or for none"
        assert self.step_s > 0.0, "a step takes time"

    @property
    def until_s(self) -> float:
        """The first instant after the last step."""
        return self.start_s + self.step_s * len(self.mean)

    def at(self, now_s: float) -> float:
        """The mean of the step that holds an instant."""
        i = math.floor((now_s - self.start_s) / self.step_s)
        if not 0 <= i < len(self.mean):
            raise ConfigError(
                f"forecast of {self.quantity} in {self.zone}",
                got=f"instant {now_s:.0f}",
                allowed=f"{self.start_s:.0f} to {self.until_s:.0f}",
                fix="ask for more steps, or issue it anew",
            )
        return self.mean[i]

    def __add__(self, other: Forecast[S]) -> Forecast[S]:
        """Sum step by step; highs and errors add as if everything came together, which is their upper end."""
        if not isinstance(other, Forecast):
            return NotImplemented
        one_kind(self, other)
        _one_axis(self, other)
        return msgspec.structs.replace(
            self,
            zone=f"{self.zone}+{other.zone}",
            issued_at_s=min(self.issued_at_s, other.issued_at_s),
            mean=_sums(self.mean, other.mean),
            high=_sums(self.high, other.high),
            expected_error=_sums(self.expected_error, other.expected_error)
            if self.expected_error and other.expected_error
            else (),
            method=_named(self.method, other.method),
            source=_named(self.source, other.source),
        )

    def below(self, other: Forecast[S]) -> tuple[bool, ...]:
        """Whether this mean is the lower one, step by step."""
        one_kind(self, other)
        _one_axis(self, other)
        return tuple(a < b for a, b in zip(self.mean, other.mean, strict=True))


def preferred(provider: Forecast[S] | None, own: Forecast[S]) -> Forecast[S]:
    """The provider's forecast where it reaches over an axis, one's own where it does not; says which is which."""
    if provider is None:
        return own
    one_kind(provider, own)
    starts = [own.start_s + i * own.step_s for i in range(len(own.mean))]
    reached = [provider.start_s <= s and s + own.step_s <= provider.until_s for s in starts]
    if not any(reached):
        return own
    mean = [
        _over(provider, start, own.step_s) if here else value
        for here, start, value in zip(reached, starts, own.mean, strict=True)
    ]
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


def _over(forecast: Forecast[S], from_s: float, duration_s: float) -> float:
    """Time-weighted mean over an interval inside the forecast."""
    total = 0.0
    first = math.floor((from_s - forecast.start_s) / forecast.step_s)
    for i in range(first, len(forecast.mean)):
        begin_s = forecast.start_s + i * forecast.step_s
        shared_s = min(begin_s + forecast.step_s, from_s + duration_s) - max(begin_s, from_s)
        if shared_s <= 0.0:
            break
        total += forecast.mean[i] * shared_s
    return total / duration_s


def _one_axis(a: Forecast[S], b: Forecast[S]) -> None:
    axes = [(one.start_s, one.step_s, len(one.mean)) for one in (a, b)]
    if axes[0] != axes[1]:
        raise ConfigError(
            "forecasts", got=f"axes {axes[0]} and {axes[1]}", allowed="one start, step and length"
        )


def _sums(a: tuple[float, ...], b: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(x + y for x, y in zip(a, b, strict=True))


def _named(a: str, b: str) -> str:
    return a if a == b else f"{a} + {b}"

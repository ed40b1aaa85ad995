"""When conversations begin and where: a day's and a week's shape by local time, growth, crowds, bursts.

Here: expected beginnings by step and origin, and the factor that bursts put on them. Not here: drawing them (`generate`).
Steps are counted from the trace's start; those below 0 are a warm-up, so that a trace begins amid conversations.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from functools import cached_property
from typing import Final
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from hanse.catalogue import City, city
from hanse.catalogue.cities import fold
from hanse.errors import ConfigError
from hanse.signals.traces.draws import Draws
from hanse.signals.traces.spec import GammaBursts, MarkovBursts, TraceSpec
from hanse.signals.traces.trace import Origin
from hanse.units import SECONDS_PER_DAY, SECONDS_PER_HOUR, s_from_hours

Floats = NDArray[np.float64]
SECONDS_PER_YEAR: Final = 365.2425 * SECONDS_PER_DAY  # mean Gregorian year
EPOCH_WEEKDAY: Final = 3  # 1970-01-01 was a Thursday; Monday is 0
BURST_STREAM: Final = 1
INTERVALS_AT_ONCE: Final = 1024


class Demand:
    """Expected beginnings of conversations of a spec, relative to their mean over the trace."""

    def __init__(self, spec: TraceSpec) -> None:
        self.spec = spec
        self.start_s = spec.start.timestamp()
        self.duration_s = s_from_hours(spec.duration_h)
        places = [
            city(o.city, iso2=o.country or "", where=f"origin[{i}].city")
            for i, o in enumerate(spec.origins)
        ]
        ids = [o.id or _slug(c.name) for o, c in zip(spec.origins, places, strict=True)]
        if len(set(ids)) < len(ids):
            raise ConfigError("origin", got=", ".join(ids), allowed="each id once", fix="set `id`")
        self.origins = tuple(
            Origin(id=i, lat_deg=c.lat, lon_deg=c.lon, country=c.iso2)
            for i, c in zip(ids, places, strict=True)
        )
        weights = [
            float(c.population) if o.weight is None else o.weight
            for o, c in zip(spec.origins, places, strict=True)
        ]
        if sum(weights) <= 0.0:
            raise ConfigError("origin.weight", got=0, allowed="a weight above 0 for one at least")
        self.shares: Floats = np.array(weights) / sum(weights)
        self._zones = [_LocalTime(c, self.start_s, self.start_s + self.duration_s) for c in places]
        for i, flash in enumerate(spec.flashes):
            for name in flash.origins:
                if name not in ids:
                    allowed = f"one of {', '.join(ids)}"
                    raise ConfigError(f"flash[{i}].origins", got=repr(name), allowed=allowed)

    def relative(self, begin_s: Floats, step_s: float) -> Floats:
        """[step, origin] expected beginnings of a step over those of a mean step of the whole trace."""
        usual = self._usual(begin_s + step_s / 2.0) / self._mean
        for flash in self.spec.flashes:
            begin, end = s_from_hours(flash.from_h), s_from_hours(flash.until_h)
            inside = np.minimum(begin_s + step_s, end) - np.maximum(begin_s, begin)
            part = np.clip(inside, 0.0, step_s) / step_s
            here = np.array([not flash.origins or o.id in flash.origins for o in self.origins])
            usual *= 1.0 + np.outer(part, here) * (flash.factor - 1.0)
        return usual

    @cached_property
    def peak_factor(self) -> float:
        """How far a crowd may lift demand above the usual; sizes the generator's slabs."""
        return float(np.prod([max(1.0, flash.factor) for flash in self.spec.flashes]))

    @cached_property
    def _mean(self) -> float:
        # An hour resolves the day's shape, which is linear between the middles of hours; a short trace is divided finer.
        count = max(int(self.duration_s / SECONDS_PER_HOUR), 256)
        middle_s = (np.arange(count, dtype=np.float64) + 0.5) * (self.duration_s / count)
        mean = float(self._usual(middle_s).sum(axis=1).mean())
        if mean <= 0.0:
            allowed = "a factor above 0 at some hour of the trace"
            raise ConfigError(
                "hours, weekdays", got="no demand in the whole trace", allowed=allowed
            )
        return mean

    def _usual(self, at_s: Floats) -> Floats:
        hours = np.array([self.spec.hours[-1], *self.spec.hours, self.spec.hours[0]])
        middles = np.arange(-0.5, 25.0)
        weekdays = np.array(self.spec.weekdays)
        grown = (1.0 + self.spec.growth_per_year) ** (at_s / SECONDS_PER_YEAR)
        columns = []
        for zone, share in zip(self._zones, self.shares, strict=True):
            days = (self.start_s + at_s + zone.offsets_s(self.start_s + at_s)) / SECONDS_PER_DAY
            whole = np.floor(days)
            day = weekdays[(whole.astype(np.int64) + EPOCH_WEEKDAY) % 7]
            columns.append(share * grown * day * np.interp((days - whole) * 24.0, middles, hours))
        return np.stack(columns, axis=1)


def burst_factors(spec: TraceSpec, origins: int) -> Iterator[Floats]:
    """[origin] factor of demand, interval by interval from the warm-up's start; without bursts always 1."""
    bursts = spec.bursts
    if bursts is None:
        while True:
            yield np.ones(origins)
    count = 1 if bursts.scope == "all" else origins
    busy: NDArray[np.bool_] | None = None
    for block in range(1 << 62):
        draws = Draws(spec.seed, BURST_STREAM, block)
        if isinstance(bursts, GammaBursts):
            shape = 1.0 / bursts.cv**2
            factors = draws.gamma(shape, (INTERVALS_AT_ONCE, count)) / shape
        else:
            factors, busy = _spells(bursts, draws, count, busy)
        for row in factors:
            yield np.broadcast_to(row, (origins,))


def _spells(
    bursts: MarkovBursts, draws: Draws, count: int, busy: NDArray[np.bool_] | None
) -> tuple[Floats, NDArray[np.bool_]]:
    """Factors of the next intervals of a two-state chain, and the state that it is left in."""
    share = bursts.busy_s / (bursts.busy_s + bursts.calm_s)
    calm = 1.0 / (1.0 + share * (bursts.factor - 1.0))
    if busy is None:
        busy = draws.uniform(count) < share  # stationary from the start
    # A spell's mean length in intervals is 1 / P(end); one shorter than an interval lasts one.
    ends = min(1.0, bursts.interval_s / bursts.busy_s)
    begins = min(1.0, bursts.interval_s / bursts.calm_s)
    uniform = draws.uniform(INTERVALS_AT_ONCE * count).reshape(-1, count)
    factors = np.empty_like(uniform)
    for i, row in enumerate(uniform):
        factors[i] = np.where(busy, calm * bursts.factor, calm)
        busy = np.where(busy, row >= ends, row < begins)
    return factors, busy


class _LocalTime:
    """Offset of a city's clocks from UTC over a span, summer time included."""

    def __init__(self, place: City, from_s: float, until_s: float) -> None:
        zone = ZoneInfo(place.timezone)

        def offset(at_s: float) -> float:
            delta = datetime.fromtimestamp(at_s, UTC).astimezone(zone).utcoffset()
            assert delta is not None, place.timezone
            return delta.total_seconds()

        changes: list[float] = []
        known = [offset(from_s)]
        day_s = from_s
        while day_s < until_s:
            low, high = day_s, day_s + SECONDS_PER_DAY
            if offset(high) != known[-1]:
                while high - low > 1.0:
                    middle = (low + high) / 2.0
                    low, high = (middle, high) if offset(middle) == known[-1] else (low, middle)
                changes.append(round(high))
                known.append(offset(high))
            day_s += SECONDS_PER_DAY
        self._changes, self._offsets = np.array(changes), np.array(known)

    def offsets_s(self, at_s: Floats) -> Floats:
        """Seconds to add to UTC; before the span as at its start."""
        offsets: Floats = self._offsets[np.searchsorted(self._changes, at_s, side="right")]
        return offsets


def _slug(name: str) -> str:
    return "-".join("".join(c if c.isalnum() else " " for c in fold(name)).split())

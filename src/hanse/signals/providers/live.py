"""`LiveFeed`: providers asked in turn, their last good values kept, and how old each is.

Here: when to ask, when to back off, what was last said. Asking blocks on the network: run `ask` in a thread. Not here:
what stands in for a value that is too old (`feed`), the clock.

After a failure it waits a minute, then two, four ... to an hour, or as long as the server asks for; never at random, so
that a log can be read. One provider's failure delays no other's turn beyond its timeout. A forecast that fails alone is left
alone as long, while the rest is asked in its turn.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import msgspec
import numpy as np

from hanse.errors import HanseError
from hanse.model.fleet import Value
from hanse.signals.feed import Observed
from hanse.signals.forecast.value import Forecast
from hanse.signals.providers import (
    csv_table,
    electricity_maps,
    entsoe,
    open_meteo,
    uk_carbon,
    watttime,
)
from hanse.signals.providers.answer import Answer
from hanse.signals.providers.settings import FeedSetting, Provider
from hanse.signals.providers.web import WebFault
from hanse.signals.series import Series
from hanse.units import SECONDS_PER_DAY, SECONDS_PER_HOUR

Ask = Callable[[FeedSetting, float], Answer]
ASK: Final[dict[Provider, Ask]] = {
    "electricity-maps": electricity_maps.ask,
    "watttime": watttime.ask,
    "uk-carbon-intensity": uk_carbon.ask,
    "entsoe": entsoe.ask,
    "open-meteo": open_meteo.ask,
    "csv": csv_table.ask,
}
PAST: Final[dict[Provider, Ask]] = {
    "electricity-maps": electricity_maps.past,
    "watttime": watttime.past,
    "uk-carbon-intensity": uk_carbon.past,
}
"""Of those whose forecast is a request of its own: the rest, asked while that one is left alone."""
BACKOFF_S_MIN: Final = 60.0
BACKOFF_S_MAX: Final = SECONDS_PER_HOUR
KEPT_DAYS: Final = 200.0
"""Of what was said: the window that forecasts learn from and two weeks."""
FORECAST_DAYS_MIN: Final = 14.0
"""Shorter than this the recorded year is the better teacher."""


class FeedState(Value, frozen=True, kw_only=True):
    """How one feed does, for people."""

    name: str
    age_s: float | None
    """Of its newest value; None while there is none."""
    fresh: bool
    failures: int
    """In a row."""
    error: str
    next_s: float
    notes: tuple[str, ...] = ()


class _Kept:
    """One setting's memory."""

    def __init__(self) -> None:
        self.series: dict[str, Series] = {}
        self.forecasts: dict[str, Forecast] = {}
        self.notes: tuple[str, ...] = ()
        self.failures = 0
        self.error = ""
        self.next_s = 0.0
        self.no_forecast = ""
        self.forecast_failures = 0
        self.forecast_s = 0.0
        """When its forecast is asked for again, where that alone failed."""


class LiveFeed:
    """The feeds of one file. One thread asks; anybody may read."""

    def __init__(
        self, settings: Sequence[FeedSetting], ask: Mapping[Provider, Ask] | None = None
    ) -> None:
        self._settings = tuple(settings)
        self._ask = ask or ASK
        self._past = PAST if ask is None else {}
        self._kept = [_Kept() for _ in settings]

    def ask(self, now_s: float) -> tuple[str, ...]:
        """Ask whoever is due; lines for a log where something changed for the worse or the better."""
        said = []
        for setting, kept in zip(self._settings, self._kept, strict=True):
            if kept.next_s <= now_s:
                line = self._ask_one(setting, kept, now_s)
                said += [line] if line else []
        return tuple(said)

    def next_s(self) -> float:
        """When somebody is due; infinity without feeds."""
        return min((kept.next_s for kept in self._kept), default=float("inf"))

    def observed(self, now_s: float) -> tuple[Observed, ...]:
        """Last good values for a `Feed`; their age is read at its instant."""
        return tuple(
            found
            for setting, kept in zip(self._settings, self._kept, strict=True)
            for series in kept.series.values()
            if (found := _newest(series, setting, now_s)) is not None
        )

    def brought(self, now_s: float) -> dict[tuple[str, str], Series]:
        """Hourly histories long and young enough to forecast from, for `energy.outlook`."""
        return {
            (one.zone, one.quantity): hourly
            for setting, kept in self._last_first()
            for one in kept.series.values()
            if one.until_s - one.start_s >= FORECAST_DAYS_MIN * SECONDS_PER_DAY
            and (newest := _newest(one, setting, now_s)) is not None
            and newest.fresh(now_s)
            and (hourly := _hourly(one)) is not None
        }

    def provided(self, now_s: float) -> dict[tuple[str, str], Forecast]:
        """Providers' own forecasts that are settled or not too old, for `energy.outlook`."""
        return {
            (one.zone, one.quantity): one
            for setting, kept in self._last_first()
            for one in kept.forecasts.values()
            if now_s - one.issued_at_s <= setting.stale_after_s
            or (one.settled and now_s < one.until_s)
        }

    def _last_first(self) -> list[tuple[FeedSetting, _Kept]]:
        """So that of two that speak of the same the first stays."""
        return list(zip(self._settings, self._kept, strict=True))[::-1]

    def states(self, now_s: float) -> tuple[FeedState, ...]:
        """How every feed does."""
        return tuple(
            self._state(setting, kept, now_s)
            for setting, kept in zip(self._settings, self._kept, strict=True)
        )

    def _state(self, setting: FeedSetting, kept: _Kept, now_s: float) -> FeedState:
        newest = [_newest(series, setting, now_s) for series in kept.series.values()]
        known = [one for one in newest if one is not None]
        return FeedState(
            name=setting.name,
            age_s=max((one.age_s(now_s) for one in known), default=None),
            fresh=bool(known) and all(one.fresh(now_s) for one in known),
            failures=kept.failures,
            error=kept.error,
            next_s=kept.next_s,
            notes=(
                *kept.notes,
                *([f"no forecast: {kept.no_forecast}"] if kept.no_forecast else []),
            ),
        )

    def _ask_one(self, setting: FeedSetting, kept: _Kept, now_s: float) -> str:
        past = self._past.get(setting.provider) if kept.forecast_s > now_s else None
        try:
            answer = (past or self._ask[setting.provider])(setting, now_s)
        except HanseError as error:
            return _failed(setting, kept, str(error), _asked_to_wait_s(error), now_s)
        except Exception as error:
            # A shape that no reader foresaw: the provider's fault, and no reason to end the controller.
            got = f"an answer of another shape ({type(error).__name__})"
            return _failed(setting, kept, f"{setting.name}: got {got}", 0.0, now_s)
        for one in answer.series:
            kept.series[one.quantity] = _joined(kept.series.get(one.quantity), one)
        kept.forecasts.update({one.quantity: one for one in answer.forecasts})
        lines = ["answers again"] if kept.failures > 0 else []
        kept.failures, kept.error, kept.notes = 0, "", answer.notes
        kept.next_s = now_s + setting.every_s
        if past is None:
            lines += _forecast_looked_at(kept, answer, now_s)
        return f"feed {setting.name}: {'; '.join(lines)}" if lines else ""


def backoff_s(failures: int) -> float:
    """Pause after so many failures in a row."""
    return min(BACKOFF_S_MAX, BACKOFF_S_MIN * 2.0 ** min(failures - 1, 30))


def _failed(setting: FeedSetting, kept: _Kept, error: str, wait_s: float, now_s: float) -> str:
    kept.failures += 1
    kept.error = error
    pause_s = max(backoff_s(kept.failures), min(wait_s, SECONDS_PER_DAY))
    kept.next_s = now_s + pause_s
    return f"feed {setting.name}: {error}; again in {pause_s:.0f} s"


def _forecast_looked_at(kept: _Kept, answer: Answer, now_s: float) -> list[str]:
    """Whether a provider's forecast alone failed; what changed, for a log."""
    before, kept.no_forecast = kept.no_forecast, answer.no_forecast
    if not answer.no_forecast:
        kept.forecast_failures = 0
        return ["forecasts again"] if before else []
    kept.forecast_failures += 1
    wait_s = min(answer.forecast_wait_s, SECONDS_PER_DAY)
    kept.forecast_s = now_s + max(backoff_s(kept.forecast_failures), wait_s)
    return [] if before else [f"no forecast: {answer.no_forecast}"]


def _asked_to_wait_s(error: HanseError) -> float:
    return error.retry_after_s if isinstance(error, WebFault) else 0.0


def _newest(series: Series, setting: FeedSetting, now_s: float) -> Observed | None:
    """The last value that has begun by now."""
    begins = series.start_s + np.arange(len(series.values)) * series.step_s
    known = np.nonzero(~np.isnan(series.values) & (begins <= now_s))[0]
    if not len(known):
        return None
    last = int(known[-1])
    return Observed(
        quantity=series.quantity,
        place=series.zone,
        value=float(series.values[last]),
        unit=series.unit,
        signal=series.signal,
        until_s=float(begins[last] + series.step_s),
        stale_after_s=setting.stale_after_s,
        source=series.source,
        licence=series.licence,
        note=setting.price_note,
    )


def _joined(before: Series | None, new: Series) -> Series:
    """Both, the newer where both know; a gap in the newer keeps what was known."""
    if before is None or before.step_s != new.step_s or before.unit != new.unit:
        return new
    apart = (before.start_s - new.start_s) / new.step_s
    if abs(apart - round(apart)) > 1e-6:
        return new  # a table that was put on other instants: of no use to each other
    until_s = max(before.until_s, new.until_s)
    start_s = max(min(before.start_s, new.start_s), until_s - KEPT_DAYS * SECONDS_PER_DAY)
    values = np.full(round((until_s - start_s) / new.step_s), np.nan)
    for one in (before, new):
        first = round((one.start_s - start_s) / one.step_s)
        known = one.values[max(0, -first) :]
        here = values[max(0, first) : max(0, first) + len(known)]
        here[:] = np.where(np.isnan(known), here, known)
    return msgspec.structs.replace(new, start_s=start_s, values=values)


def _hourly(series: Series) -> Series | None:
    """Means of whole hours of what is known in each, whenever its steps begin."""
    per = SECONDS_PER_HOUR / series.step_s
    if per < 1.0 or per != round(per):
        return None
    first = math.ceil(series.start_s / SECONDS_PER_HOUR)
    hours = np.arange(first, math.floor(series.until_s / SECONDS_PER_HOUR) + 1) * SECONDS_PER_HOUR
    edges = series.start_s + np.arange(len(series.values) + 1) * series.step_s
    known = ~np.isnan(series.values)
    # Running sums read at full hours: a step that two hours share counts in each by its part.
    total, covered = (
        np.diff(np.interp(hours, edges, np.concatenate(([0.0], np.cumsum(each * series.step_s)))))
        for each in (np.where(known, series.values, 0.0), known)
    )
    values = np.where(covered > 1.0, total / np.maximum(covered, 1.0), np.nan)
    start_s = first * SECONDS_PER_HOUR
    return msgspec.structs.replace(series, start_s=start_s, step_s=SECONDS_PER_HOUR, values=values)

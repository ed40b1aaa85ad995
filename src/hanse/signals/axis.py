"""A site's signals on an axis of equal steps (five minutes): weather, price, carbon, all at once.

Here: `StepAxis` and its months, looking recordings up for every step, the same order of preference and overrides as
`Feed`, and one `SourceNote` a quantity. Not here: what a site makes of the weather (`energy.series`).

A step takes its values at its middle. Weather is recorded at the full hour and runs linearly to the next; price, carbon
and carbon-free share hold for their hour, as they were settled and metered.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from hanse.errors import ConfigError, FeedError
from hanse.model.fleet import Site
from hanse.signals.feed import Feed, Reading, Weather, site_places
from hanse.signals.replay import replay
from hanse.signals.series import Series
from hanse.units import SECONDS_PER_DAY, SECONDS_PER_HOUR

Steps = NDArray[np.float64]
Own = Literal[
    "price_usd_per_kwh",
    "carbon_g_per_kwh",
    "marginal_g_per_kwh",
    "residual_g_per_kwh",
    "carbon_free_share",
    "contract_kw",
]
"""What an operator may bring a series of, in the unit of its name."""

STEP_S: float = 300.0
"""Five minutes: the interval of balancing markets, and short enough that a cloud or a request burst shows."""


class StepAxis(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`count` steps from an instant."""

    start_s: float
    count: int
    step_s: float = STEP_S

    def __post_init__(self) -> None:
        if self.count < 1 or self.step_s <= 0.0 or SECONDS_PER_HOUR % self.step_s != 0.0:
            got = f"{self.count} steps of {self.step_s:g} s"
            raise ConfigError("axis", got=got, allowed="steps that divide an hour")

    @property
    def until_s(self) -> float:
        """The end of the last step."""
        return self.start_s + self.count * self.step_s

    def middles_s(self) -> Steps:
        """The middle of every step."""
        return self.start_s + np.arange(0.5, self.count) * self.step_s

    def months(self) -> Iterator[StepAxis]:
        """The same steps in pieces that end with calendar months, UTC: a run of any length in the memory of one."""
        begun_s = self.start_s
        while begun_s < self.until_s:
            end_s = min(_next_month_s(begun_s), self.until_s)
            # A start off the hour puts a month's end inside a step, which then belongs to the month it begins in.
            count = math.ceil((end_s - begun_s) / self.step_s - 1e-9)
            yield StepAxis(start_s=begun_s, count=count, step_s=self.step_s)
            begun_s += count * self.step_s


class SourceNote(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where one quantity of one site comes from."""

    quantity: str
    method: str
    """How: recorded hour, yearly mean, list price, declared, own series, none ..."""
    zone: str
    source: str
    licence: str
    recorded_year: int | None = None
    note: str = ""


class SiteSignalSteps(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """Signals of one site [step]; NaN where unknown."""

    temp_c: Steps
    rh_pct: Steps
    cloud_pct: Steps
    wind10_ms: Steps
    price_usd_per_kwh: Steps
    carbon_g_per_kwh: Steps
    marginal_g_per_kwh: Steps
    """Estimates ship for eight US grids; elsewhere NaN unless the operator brings a series."""
    residual_g_per_kwh: Steps
    """Of the grid's mix less what was sold by contract; the average where no such series is brought."""
    carbon_free_share: Steps
    contract_kw: Steps
    notes: tuple[SourceNote, ...]


def site_steps(
    site: Site, feed: Feed, axis: StepAxis, own: Mapping[Own, Series] | None = None
) -> SiteSignalSteps:
    """All signals of a site over an axis; a series of the operator's own comes before recordings."""
    assert feed.clock_speed == 1.0, "an axis is on the feed's own clock (`Feed.by_its_clock`)"
    series = own or {}
    weather, weather_notes = _weather(site, feed, axis)
    carbon, carbon_note = _carbon(site, feed, axis, series)
    price, price_note = _price(site, feed, axis, series)
    free, free_note = _carbon_free(site, feed, axis, series)
    marginal, marginal_note = _marginal(site, feed, axis, series)
    residual, residual_note = _residual(axis, series, carbon, carbon_note)
    contract, contract_note = _contract(site, axis, series)
    return SiteSignalSteps(
        **weather,
        price_usd_per_kwh=price,
        carbon_g_per_kwh=carbon,
        marginal_g_per_kwh=marginal,
        residual_g_per_kwh=residual,
        carbon_free_share=free,
        contract_kw=contract,
        notes=(
            *weather_notes,
            price_note,
            carbon_note,
            marginal_note,
            residual_note,
            free_note,
            contract_note,
        ),
    )


def series_steps(series: Series, axis: StepAxis, *, offset_s: float = 0.0, linear: bool) -> Steps:
    """A series over an axis: as dated where it reaches over all of it, else its year replayed."""
    middles_s = axis.middles_s() + offset_s
    phase_s = series.start_s % series.step_s
    first = math.floor((middles_s[0] - phase_s) / series.step_s)
    last = math.floor((middles_s[-1] - phase_s) / series.step_s) + 1
    knots_s = phase_s + np.arange(first, last + 1) * series.step_s
    values = series.values[_places(series, knots_s)]
    if linear:
        return np.interp(middles_s, knots_s, values)
    held: Steps = values[np.floor((middles_s - knots_s[0]) / series.step_s).astype(np.int64)]
    return held


def _places(series: Series, knots_s: Steps) -> NDArray[np.int64]:
    """Index into a series for each instant."""
    count = len(series.values)
    as_dated = np.rint((knots_s - series.start_s) / series.step_s).astype(np.int64)
    # The knot after the last step is only the far end of a line: the last value serves.
    if as_dated[0] >= 0 and as_dated[-1] <= count:
        return np.minimum(as_dated, count - 1)
    key = (series.start_s, series.until_s, series.step_s)
    return _replayed(key, float(knots_s[0]), len(knots_s))


@lru_cache(maxsize=64)
def _replayed(key: tuple[float, float, float], knot_s: float, count: int) -> NDArray[np.int64]:
    """`replay_within` for equally spaced instants; zones recorded by the same clock share the answer."""
    start_s, until_s, step_s = key
    if until_s - start_s < 365 * SECONDS_PER_DAY:
        raise FeedError(
            "series",
            got=f"{(until_s - start_s) / SECONDS_PER_DAY:.1f} days from {start_s:.0f}",
            allowed="all of the run, or a whole year to replay",
            fix="bring a longer series",
        )
    knots_s = knot_s + np.arange(count) * step_s
    days, which = np.unique(np.floor(knots_s / SECONDS_PER_DAY), return_inverse=True)
    year = datetime.fromtimestamp(start_s, UTC).year
    found = np.full(count, -1, np.int64)
    for candidate in (year + 1, year):
        midnights_s = np.array([replay(float(day) * SECONDS_PER_DAY, candidate) for day in days])
        played_s = midnights_s[which] + knots_s % SECONDS_PER_DAY
        within = (start_s <= played_s) & (played_s < until_s)
        found[within] = np.floor((played_s[within] - start_s) / step_s)
    assert (found >= 0).all(), "a year has a place for every instant"
    return found


def _weather(
    site: Site, feed: Feed, axis: StepAxis
) -> tuple[dict[str, Steps], tuple[SourceNote, ...]]:
    if site.weather_zone:
        found = feed.weather(site.weather_zone, axis.start_s, site=site.id)
    else:
        found = feed.weather_near(site.lat_deg, site.lon_deg, axis.start_s, site=site.id)
    steps: dict[str, Steps] = {}
    for quantity in ("temp_c", "rh_pct", "cloud_pct", "wind10_ms"):
        series = feed.recorded(found.zone, quantity) if found.zone else None
        steps[quantity] = (
            np.full(axis.count, math.nan)
            if series is None
            else series_steps(series, axis, offset_s=feed.clock_offset_s, linear=True)
        )
    places = (site.id, site.weather_zone, found.zone)
    steps["cloud_pct"] = _overridden(feed, axis, "cloud_pct", places, steps["cloud_pct"])
    return steps, (_weather_note(found),)


def _carbon(
    site: Site, feed: Feed, axis: StepAxis, own: Mapping[Own, Series]
) -> tuple[Steps, SourceNote]:
    zone = site.grid_zone or site.country
    if "carbon_g_per_kwh" in own:
        return _own("carbon_g_per_kwh", axis, own)
    reading = msgspec.structs.replace(feed, overrides=()).carbon_g_per_kwh(zone, axis.start_s)
    steps = _played(reading, feed.recorded(zone, "carbon_intensity"), feed, axis)
    factor = _overridden(
        feed, axis, "carbon_factor", (*site_places(site), reading.zone), np.ones(axis.count)
    )
    return steps * factor, _note("carbon_g_per_kwh", reading)


def _price(
    site: Site, feed: Feed, axis: StepAxis, own: Mapping[Own, Series]
) -> tuple[Steps, SourceNote]:
    if "price_usd_per_kwh" in own:
        return _own("price_usd_per_kwh", axis, own)
    declared = site.power.price_usd_per_kwh
    plain = msgspec.structs.replace(feed, overrides=())
    own_places = site_places(site)
    reading = plain.price_usd_per_kwh(
        site.country, axis.start_s, places=own_places, declared=declared
    )
    steps = _played(reading, feed.price_recording(own_places), feed, axis)
    places = (*own_places, reading.zone)
    factor = _overridden(feed, axis, "price_factor", places, np.ones(axis.count))
    return steps * factor, _note("price_usd_per_kwh", reading)


def _carbon_free(
    site: Site, feed: Feed, axis: StepAxis, own: Mapping[Own, Series]
) -> tuple[Steps, SourceNote]:
    zone = site.grid_zone or site.country
    if "carbon_free_share" in own:
        return _own("carbon_free_share", axis, own)
    reading = feed.carbon_free_share(zone, axis.start_s)
    if reading is None:
        return np.full(axis.count, math.nan), _none("carbon_free_share", zone, "counted as none")
    series = feed.recorded(zone, "carbon_free_pct")
    if series is None:
        return np.full(axis.count, reading.value), _note("carbon_free_share", reading)
    percent = series_steps(series, axis, offset_s=feed.clock_offset_s, linear=False)
    return percent / 100.0, _note("carbon_free_share", reading)


def _residual(
    axis: StepAxis, own: Mapping[Own, Series], carbon: Steps, note: SourceNote
) -> tuple[Steps, SourceNote]:
    if "residual_g_per_kwh" in own:
        return _own("residual_g_per_kwh", axis, own)
    why = "no residual mix known: the average stands in, which is its lower end"
    return carbon, msgspec.structs.replace(note, quantity="residual_g_per_kwh", note=why)


def _marginal(
    site: Site, feed: Feed, axis: StepAxis, own: Mapping[Own, Series]
) -> tuple[Steps, SourceNote]:
    zone = site.grid_zone or site.country
    if "marginal_g_per_kwh" in own:
        return _own("marginal_g_per_kwh", axis, own)
    reading = feed.marginal_g_per_kwh(zone, axis.start_s)
    if reading is None:
        return np.full(axis.count, math.nan), _none("marginal_g_per_kwh", zone, "unknown")
    steps = _played(reading, feed.recorded(zone, "marginal_intensity"), feed, axis)
    return steps, _note("marginal_g_per_kwh", reading)


def _contract(site: Site, axis: StepAxis, own: Mapping[Own, Series]) -> tuple[Steps, SourceNote]:
    if "contract_kw" in own:
        return _own("contract_kw", axis, own)
    return np.zeros(axis.count), _none("contract_kw", site.grid_zone or site.country, "no contract")


def _own(quantity: Own, axis: StepAxis, own: Mapping[Own, Series]) -> tuple[Steps, SourceNote]:
    series = own[quantity]
    year = datetime.fromtimestamp(series.start_s, UTC).year
    note = SourceNote(
        quantity=quantity,
        method="own series",
        zone=series.zone,
        source=series.source,
        licence=series.licence,
        recorded_year=year,
    )
    return series_steps(series, axis, linear=False), note


def _played(reading: Reading, series: Series | None, feed: Feed, axis: StepAxis) -> Steps:
    if series is None:
        return np.full(axis.count, reading.value)
    return series_steps(series, axis, offset_s=feed.clock_offset_s, linear=False)


def _overridden(
    feed: Feed, axis: StepAxis, kind: str, places: tuple[str, ...], steps: Steps
) -> Steps:
    """Values with the feed's overrides of a kind in force; of two that hold, the later added counts."""
    middles_s = axis.middles_s()
    names = tuple(name for name in places if name)
    for change in feed.overrides:
        if change.kind != kind or (change.place != "*" and change.place not in names):
            continue
        holds = (change.from_s <= middles_s) & (middles_s < change.until_s)
        steps = np.where(holds, change.value, steps)
    return steps


def _note(quantity: str, reading: Reading) -> SourceNote:
    return SourceNote(
        quantity=quantity,
        method=reading.method,
        zone=reading.zone,
        source=reading.source,
        licence=reading.licence,
        recorded_year=_year(reading.recorded_at_s),
        note=reading.note,
    )


def _weather_note(weather: Weather) -> SourceNote:
    return SourceNote(
        quantity="weather",
        method=weather.method,
        zone=weather.zone,
        source=weather.source,
        licence=weather.licence,
        recorded_year=_year(weather.recorded_at_s),
        note=weather.note,
    )


def _none(quantity: str, zone: str, meant: str) -> SourceNote:
    return SourceNote(
        quantity=quantity, method="none", zone=zone, source="nobody's", licence="-", note=meant
    )


def _year(instant_s: float | None) -> int | None:
    return None if instant_s is None else datetime.fromtimestamp(instant_s, UTC).year


def _next_month_s(now_s: float) -> float:
    now = datetime.fromtimestamp(now_s, UTC)
    year, month = (now.year, now.month + 1) if now.month < 12 else (now.year + 1, 1)
    return datetime(year, month, 1, tzinfo=UTC).timestamp()

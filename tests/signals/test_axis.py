"""Signals on an axis of steps are the feed's, line by line, and say where they come from."""

from datetime import UTC, datetime

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from effort import effort
from hanse.errors import ConfigError, FeedError
from hanse.model.fleet import Site
from hanse.signals import Feed, Override, Series, StepAxis, recorded, recorded_zones, site_steps
from hanse.signals.axis import series_steps
from hanse.units import SECONDS_PER_DAY, SECONDS_PER_HOUR

INSTANT = st.integers(1_500_000_000, 2_500_000_000).map(float)
RAW = {
    "id": "somewhere",
    "kind": "micro",
    "city": "Somewhere",
    "operator_hq": "DE",
    "power": {"grid_kw_max": 60},
}
PLACES = [
    {"country": "DE", "lat_deg": 50.1, "lon_deg": 8.7, "grid_zone": "DE", "weather_zone": "DE-LU"},
    {"country": "US", "lat_deg": 37.4, "lon_deg": -122, "grid_zone": "US-CAL-CISO"},
    {"country": "IN", "lat_deg": 19.1, "lon_deg": 72.9, "weather_zone": "IN-WE"},
    {"country": "AU", "lat_deg": -33.8, "lon_deg": 151.2, "weather_zone": "AU-NSW"},
    {"country": "EE", "lat_deg": 59.4, "lon_deg": 24.8},
]
SITES = st.sampled_from(PLACES).map(lambda place: msgspec.convert({**RAW, **place}, Site))
BERLIN_S = datetime(2026, 3, 1, tzinfo=UTC).timestamp()


def series(values: np.ndarray, start_s: float = BERLIN_S, step_s: float = 3600.0) -> Series:
    return Series(
        start_s=start_s,
        step_s=step_s,
        values=values.astype(float),
        quantity="price",
        unit="USD/kWh",
        signal="price",
        zone="DE",
        source="a contract",
        licence="own",
    )


@settings(max_examples=effort(60))
@given(SITES, INSTANT, st.integers(1, 400), st.sampled_from([60.0, 300.0, 900.0]))
def test_held_signals_are_the_feeds_at_every_step(
    site: Site, start_s: float, count: int, step_s: float
) -> None:
    axis, feed = StepAxis(start_s=start_s, count=count, step_s=step_s), Feed()
    got = site_steps(site, feed, axis)
    zone = site.grid_zone or site.country
    for t in range(0, count, 37):
        now_s = start_s + (t + 0.5) * step_s
        assert got.carbon_g_per_kwh[t] == feed.carbon_g_per_kwh(zone, now_s).value
        assert got.price_usd_per_kwh[t] == feed.price_usd_per_kwh(site.country, now_s).value
        free = feed.carbon_free_share(zone, now_s)
        assert free is not None and got.carbon_free_share[t] == pytest.approx(free.value)


@settings(max_examples=effort(60))
@given(st.sampled_from(recorded_zones("temp_c")), INSTANT, st.integers(1, 400))
def test_weather_runs_linearly_between_the_recorded_hours(
    zone: str, start_s: float, count: int
) -> None:
    site = msgspec.convert({**RAW, **PLACES[0], "weather_zone": zone}, Site)
    axis, feed = StepAxis(start_s=start_s, count=count), Feed()
    got = site_steps(site, feed, axis)
    found = recorded(zone, "temp_c")
    assert found is not None
    for t in range(0, count, 41):
        now_s = start_s + (t + 0.5) * axis.step_s
        whole_s = now_s - (now_s - found.start_s) % SECONDS_PER_HOUR
        share = (now_s - whole_s) / SECONDS_PER_HOUR
        ends = [feed.weather(zone, at_s) for at_s in (whole_s, whole_s + SECONDS_PER_HOUR)]
        for name in ("temp_c", "rh_pct", "cloud_pct", "wind10_ms"):
            low, high = (getattr(w, name) for w in ends)
            line = low + share * (high - low)
            assert getattr(got, name)[t] == pytest.approx(line, rel=1e-9, abs=1e-9)


@given(SITES, INSTANT)
def test_every_quantity_says_where_it_comes_from(site: Site, start_s: float) -> None:
    got = site_steps(site, Feed(), StepAxis(start_s=start_s, count=12))
    notes = {note.quantity: note for note in got.notes}
    assert set(notes) == {
        "weather",
        "price_usd_per_kwh",
        "carbon_g_per_kwh",
        "marginal_g_per_kwh",
        "residual_g_per_kwh",
        "carbon_free_share",
        "contract_kw",
    }
    assert all(note.source and note.licence and note.method for note in got.notes)
    for note in got.notes:
        assert (note.recorded_year is None) == ("hour" not in note.method)
    known = site.country == "US"
    assert np.isfinite(got.marginal_g_per_kwh).all() == known
    assert notes["marginal_g_per_kwh"].method == ("estimated hour" if known else "none")
    if site.country == "EE":
        assert notes["weather"].method == "none" and np.isnan(got.temp_c).all()
        assert notes["carbon_g_per_kwh"].method == "yearly mean"


def test_overrides_hold_at_their_steps_only() -> None:
    site = msgspec.convert({**RAW, **PLACES[0]}, Site)
    axis = StepAxis(start_s=BERLIN_S, count=24)
    feed = Feed()
    for kind, value in (("carbon_factor", 2.0), ("price_factor", 3.0), ("cloud_pct", 100.0)):
        change = {"kind": kind, "place": "somewhere", "value": value, "reason": "a scenario"}
        times = {"from_s": BERLIN_S + 3600.0, "until_s": BERLIN_S + 5400.0}
        feed = feed.with_override(msgspec.convert({**change, **times}, Override))
    plain, got = site_steps(site, Feed(), axis), site_steps(site, feed, axis)
    within = (np.arange(24) >= 12) & (np.arange(24) < 18)
    np.testing.assert_array_equal(got.carbon_g_per_kwh / plain.carbon_g_per_kwh, 1.0 + within)
    ratio = got.price_usd_per_kwh / plain.price_usd_per_kwh
    np.testing.assert_allclose(ratio, 1.0 + 2.0 * within)
    np.testing.assert_array_equal(got.cloud_pct, np.where(within, 100.0, plain.cloud_pct))


def test_a_clock_offset_plays_another_hour() -> None:
    site = msgspec.convert({**RAW, **PLACES[0]}, Site)
    axis = StepAxis(start_s=BERLIN_S, count=48)
    moved = StepAxis(start_s=BERLIN_S + 6 * SECONDS_PER_HOUR, count=48)
    offset = site_steps(site, Feed(clock_offset_s=6 * SECONDS_PER_HOUR), axis)
    later = site_steps(site, Feed(), moved)
    for name in ("temp_c", "cloud_pct", "carbon_g_per_kwh"):
        np.testing.assert_allclose(getattr(offset, name), getattr(later, name), rtol=1e-12)


def test_a_series_of_ones_own_comes_first_as_dated() -> None:
    site = msgspec.convert({**RAW, **PLACES[0]}, Site)
    axis = StepAxis(start_s=BERLIN_S, count=36)
    own = {"price_usd_per_kwh": series(np.array([0.1, 0.2, -0.1]))}
    got = site_steps(site, Feed(), axis, own)
    np.testing.assert_array_equal(got.price_usd_per_kwh, np.repeat([0.1, 0.2, -0.1], 12))
    note = next(n for n in got.notes if n.quantity == "price_usd_per_kwh")
    assert (note.method, note.source) == ("own series", "a contract")


def test_a_short_series_that_does_not_reach_is_refused_and_a_years_is_replayed() -> None:
    axis = StepAxis(start_s=BERLIN_S + SECONDS_PER_HOUR, count=36)
    with pytest.raises(FeedError, match="a whole year to replay"):
        series_steps(series(np.arange(3)), axis, linear=False)
    last_year_s = datetime(2025, 3, 1, tzinfo=UTC).timestamp()
    year = series(np.arange(365 * 24), last_year_s)
    got = series_steps(year, axis, linear=False)
    np.testing.assert_array_equal(got, np.repeat([1.0, 2.0, 3.0], 12))


@given(INSTANT.map(lambda s: s - s % 300.0), st.integers(1, 20_000))
def test_months_are_the_same_steps_in_pieces(start_s: float, count: int) -> None:
    axis = StepAxis(start_s=start_s, count=count)
    months = list(axis.months())
    assert sum(m.count for m in months) == count
    np.testing.assert_array_equal(np.concatenate([m.middles_s() for m in months]), axis.middles_s())
    for month in months:
        days = month.middles_s()[[0, -1]]
        first, last = (datetime.fromtimestamp(s, UTC) for s in days)
        assert (first.year, first.month) == (last.year, last.month)
        assert month.count * 300.0 <= 31 * SECONDS_PER_DAY


def test_an_axis_has_steps_that_divide_an_hour() -> None:
    for wrong in ({"count": 0}, {"count": 1, "step_s": 0.0}, {"count": 1, "step_s": 700.0}):
        with pytest.raises(ConfigError, match="axis"):
            StepAxis(start_s=0.0, **wrong)


def test_marginal_carbon_is_a_thermal_plants_and_differs_from_the_average() -> None:
    for zone, low, high in (("US-TEX-ERCO", 450, 650), ("US-CAL-CISO", 200, 500)):
        marginal, average = recorded(zone, "marginal_intensity"), recorded(zone, "carbon_intensity")
        assert marginal is not None and average is not None
        assert low < marginal.values.min() <= marginal.values.max() < high
        assert marginal.values.mean() > 1.2 * average.values.mean()
        assert marginal.signal == "marginal" != average.signal
    assert Feed().marginal_g_per_kwh("DE", BERLIN_S) is None


def test_carbon_free_shares_are_the_mix_and_follow_the_sun_in_california() -> None:
    free = recorded("US-CAL-CISO", "carbon_free_pct")
    carbon = recorded("US-CAL-CISO", "carbon_intensity")
    assert free is not None and carbon is not None
    assert np.corrcoef(free.values, carbon.values)[0, 1] < -0.9
    france = Feed().carbon_free_share("FR", BERLIN_S)
    assert france is not None and france.method == "yearly mean" and 0.85 < france.value < 1.0

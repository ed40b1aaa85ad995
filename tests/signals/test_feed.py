"""The feed says where each figure comes from, and scenarios change exactly what they name."""

from datetime import UTC, datetime

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hanse.catalogue import all_countries, country_electricity
from hanse.errors import ConfigError, FeedError
from hanse.signals import Feed, Override, Series, recorded, recorded_zones
from hanse.signals.series import SignalType
from hanse.units import SECONDS_PER_HOUR

INSTANT = st.floats(1.5e9, 2.5e9)
CARBON_ZONES = st.sampled_from(recorded_zones("carbon_intensity"))
WEATHER_ZONES = st.sampled_from(recorded_zones("temp_c"))
NOON_S = datetime(2026, 11, 22, 12, tzinfo=UTC).timestamp()


def override(kind: str = "carbon_factor", value: float = 2.0, place: str = "lyon") -> Override:
    raw = {"kind": kind, "place": place, "value": value, "from_s": 100.0, "until_s": 200.0}
    return msgspec.convert({**raw, "reason": "a scenario"}, Override)


@given(CARBON_ZONES, INSTANT)
def test_a_recorded_zone_plays_the_hour_it_names(zone: str, now_s: float) -> None:
    reading = Feed().carbon_g_per_kwh(zone, now_s)
    series = recorded(zone, "carbon_intensity")
    assert series is not None
    assert reading.recorded_at_s is not None
    assert reading.value == series.at(reading.recorded_at_s)
    assert reading.method == "recorded hour"
    assert reading.source and reading.licence
    now, then = (datetime.fromtimestamp(t, UTC) for t in (now_s, reading.recorded_at_s))
    assert (now.month, now.hour) == (then.month, then.hour)


@given(st.sampled_from(sorted(all_countries())), INSTANT)
def test_a_country_without_recording_gives_its_yearly_mean_or_refuses(
    iso2: str, now_s: float
) -> None:
    try:
        reading = Feed().carbon_g_per_kwh(iso2, now_s)
    except (FeedError, ConfigError):
        known = {c for c in all_countries() if recorded(c, "carbon_intensity")}
        assert iso2 not in known
        return
    assert reading.value > 0.0
    assert reading.source
    if reading.method == "yearly mean":
        assert reading.value == country_electricity(iso2).carbon_g_per_kwh
        assert iso2 in reading.note


def test_a_zone_without_recording_falls_back_to_its_country_and_says_so() -> None:
    reading = Feed().carbon_g_per_kwh("US-FLA-FPL", NOON_S)
    assert (reading.method, reading.zone) == ("yearly mean", "US")
    assert "US-FLA-FPL" in reading.note


@pytest.mark.parametrize("zone", ["Germany", "DEU", "", "ZZ"])
def test_a_zone_of_no_country_is_refused(zone: str) -> None:
    with pytest.raises(ConfigError):
        Feed().carbon_g_per_kwh(zone, NOON_S)


def test_price_comes_from_the_country_or_the_declaration_with_its_source() -> None:
    assert Feed().price_usd_per_kwh("PJM", NOON_S).value == 0.0813
    assert "stale" in Feed().price_usd_per_kwh("GB", NOON_S).source
    declared = Feed().price_usd_per_kwh("GB", NOON_S, declared=0.2)
    assert (declared.value, declared.method, declared.source) == (0.2, "declared", "fleet file")


def test_a_country_without_price_gets_the_median_and_says_so() -> None:
    reading = Feed().price_usd_per_kwh("AF", NOON_S)
    assert reading.method == "median price"
    assert "AF" in reading.note


@given(WEATHER_ZONES, INSTANT)
def test_weather_is_complete_and_attributed_where_recorded(zone: str, now_s: float) -> None:
    weather = Feed().weather(zone, now_s)
    assert None not in (weather.temp_c, weather.rh_pct, weather.cloud_pct, weather.wind10_ms)
    assert "Open-Meteo" in weather.source
    assert weather.licence == "CC BY 4.0"


def test_an_unknown_weather_zone_is_refused() -> None:
    with pytest.raises(FeedError, match="weather zone"):
        Feed().weather("EE", NOON_S)


def test_the_nearest_weather_is_named_with_its_distance_and_a_far_one_is_not_used() -> None:
    lyon = Feed().weather_near(45.76, 4.84, NOON_S)
    assert lyon.zone == "DE-LU"
    assert "km away" in lyon.note
    tallinn = Feed().weather_near(59.44, 24.75, NOON_S)
    assert tallinn.method == "none"
    assert tallinn.temp_c is None
    assert tallinn.note


def test_a_clock_offset_plays_another_hour_and_leaves_overrides_on_the_true_clock() -> None:
    six_h_s = 6 * SECONDS_PER_HOUR
    later = Feed(clock_offset_s=six_h_s).carbon_g_per_kwh("DE", NOON_S)
    assert later.value == Feed().carbon_g_per_kwh("DE", NOON_S + six_h_s).value
    scenario = Feed(clock_offset_s=six_h_s, overrides=(override(),))
    plain = Feed(clock_offset_s=six_h_s).carbon_g_per_kwh("DE", 150.0, places=("lyon",))
    assert scenario.carbon_g_per_kwh("DE", 150.0, places=("lyon",)).value == 2.0 * plain.value


@given(st.floats(0, 300), st.sampled_from(["lyon", "london"]), st.floats(0, 10))
def test_an_override_holds_at_its_place_and_time_only(
    now_s: float, site: str, factor: float
) -> None:
    plain = Feed().carbon_g_per_kwh("FR", now_s, places=(site,))
    changed = (
        Feed().with_override(override(value=factor)).carbon_g_per_kwh("FR", now_s, places=(site,))
    )
    if site == "lyon" and 100.0 <= now_s < 200.0:
        assert changed.value == plain.value * factor
        assert "a scenario" in changed.note
    else:
        assert changed == plain


def test_a_cloud_passes_over_one_site_and_the_rest_of_its_zone_stays_clear() -> None:
    feed = Feed(overrides=(override("cloud_pct", 100.0, "frankfurt"),))
    assert feed.weather("DE-LU", 150.0, site="frankfurt").cloud_pct == 100.0
    assert feed.weather("DE-LU", 150.0, site="mainz") == Feed().weather("DE-LU", 150.0)
    assert feed.weather_near(50.11, 8.68, 150.0, site="frankfurt").cloud_pct == 100.0


def test_of_two_overrides_the_later_added_counts() -> None:
    feed = Feed().with_override(override(value=2.0)).with_override(override(value=3.0))
    plain = Feed().carbon_g_per_kwh("FR", 150.0)
    assert feed.carbon_g_per_kwh("FR", 150.0, places=("lyon",)).value == 3.0 * plain.value


def test_an_impossible_override_is_refused() -> None:
    with pytest.raises(FeedError):
        override("cloud_pct", 101.0)
    for impossible in (-1.0, float("nan"), 1e300):
        with pytest.raises((FeedError, msgspec.ValidationError)):
            override("carbon_factor", impossible)


def test_a_feed_survives_the_wire() -> None:
    feed = Feed(overrides=(override(),), clock_offset_s=60.0)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(feed), type=Feed) == feed


def test_a_brought_recording_is_replayed_in_place_of_the_shipped_one() -> None:
    hours = np.arange(8760.0)
    start_s = datetime(2022, 1, 1, tzinfo=UTC).timestamp()

    def series(quantity: str, unit: str, signal: SignalType, values: np.ndarray) -> Series:
        return Series(
            start_s=start_s, step_s=3600.0, values=values, quantity=quantity, unit=unit,
            signal=signal, zone="DE", source="a test", licence="none",
        )  # fmt: skip

    feed = Feed(
        recordings=(
            series("carbon_intensity", "gCO2e/kWh", "average_location", hours),
            series("price_usd_per_kwh", "USD/kWh", "price", hours / 1e4),
        )
    )
    now_s = start_s + 100.5 * 3600.0
    assert feed.carbon_g_per_kwh("DE", now_s).value == 100.0
    price = feed.price_usd_per_kwh("DE", now_s, declared=0.3)
    assert (price.value, price.method) == (pytest.approx(0.01), "recorded hour")
    assert Feed().price_usd_per_kwh("DE", now_s, declared=0.3).value == 0.3
    assert feed.carbon_g_per_kwh("FR", now_s) == Feed().carbon_g_per_kwh("FR", now_s)

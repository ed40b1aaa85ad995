"""A live value counts while it is young, ages in sight, and gives way to a default that says why."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hanse.catalogue import country_electricity
from hanse.energy.site import other_carbon, site_carbon, site_price, site_signals
from hanse.model.read import read_fleet
from hanse.signals import Feed, Observed
from hanse.signals.forecast import Forecast
from hanse.signals.providers import FeedSetting, LiveFeed
from hanse.signals.providers.answer import Answer
from signals.forecast.histories import history
from signals.providers.provider_server import NOON_S

HOUR_S = 3600.0
SITE = read_fleet(Path(__file__).parents[3] / "examples" / "league.toml").sites[0]


def said(
    quantity: str = "carbon_intensity", signal: str = "average_location", place: str = "GB"
) -> Observed:
    return Observed(
        quantity=quantity, place=place, value=123.0, unit="gCO2e/kWh", signal=signal,  # type: ignore[arg-type]
        until_s=NOON_S, stale_after_s=2.0 * HOUR_S, source="somebody", licence="-",
    )  # fmt: skip


@given(age_h=st.floats(-0.5, 100.0))
def test_it_counts_for_its_limit_with_its_age_and_then_the_yearly_mean_does(age_h: float) -> None:
    now_s = NOON_S + age_h * HOUR_S
    reading = Feed(observed=(said(),)).carbon_g_per_kwh("GB", now_s)
    assert reading.age_s == max(0.0, now_s - NOON_S)
    if reading.age_s <= 2.0 * HOUR_S:
        assert (reading.method, reading.value, reading.source) == ("live", 123.0, "somebody")
        return
    assert reading.method == "yearly mean"
    assert reading.value == country_electricity("GB", where="-").carbon_g_per_kwh
    assert "somebody last told 123" in reading.note and " h ago, counts 2.0 h" in reading.note


def test_a_marginal_value_never_answers_for_an_average_one() -> None:
    feed = Feed(observed=(said(signal="marginal"), said("marginal_intensity", "average_location")))
    assert feed.carbon_g_per_kwh("GB", NOON_S).method == "recorded hour"
    assert feed.marginal_g_per_kwh("GB", NOON_S) is None


def test_direct_grams_are_not_counted_and_that_is_said() -> None:
    direct = msgspec.structs.replace(said(place="london"), unit="gCO2/kWh")
    reading = Feed(observed=(direct,)).carbon_g_per_kwh("GB", NOON_S, places=("london",))
    assert reading.method == "recorded hour"
    assert "somebody tells average_location in gCO2/kWh: not counted" in reading.note
    both = Feed(observed=(direct, said())).carbon_g_per_kwh("GB", NOON_S, places=("london",))
    assert (both.method, both.value) == ("live", 123.0)


@pytest.mark.parametrize("name", ["london", "GB-LDN", "GB"])
def test_a_feed_may_call_a_sites_grid_by_site_zone_or_country(name: str) -> None:
    site = msgspec.structs.replace(SITE, id="london", grid_zone="GB-LDN", country="GB")
    told = (
        said(place=name), said("price_usd_per_kwh", "price", name),
        said("marginal_intensity", "marginal", name), said("residual_intensity", "average_market", name),
    )  # fmt: skip
    feed = Feed(observed=told)
    assert site_carbon(site, feed, NOON_S).value == 123.0
    assert site_price(site, feed, NOON_S).value == 123.0
    signals = msgspec.structs.replace(site_signals(site, feed, NOON_S, load_kw=5.0), own_share=0.0)
    other = other_carbon(site, feed, NOON_S, signals)
    assert (other.marginal_g_per_kwh, other.market_g_per_kwh) == (123.0, 123.0)


def test_direct_grams_are_not_added_to_the_lifecycle_grams_of_own_generation() -> None:
    told = [said("marginal_intensity", "marginal"), said("residual_intensity", "average_market")]
    direct = [msgspec.structs.replace(one, unit="gCO2/kWh") for one in told]
    site = msgspec.structs.replace(SITE, id="london", grid_zone="GB", country="GB")
    signals = site_signals(site, Feed(), NOON_S, load_kw=5.0)
    counted = other_carbon(site, Feed(observed=tuple(told)), NOON_S, signals)
    assert counted.marginal_g_per_kwh is not None and counted.market_g_per_kwh is not None
    unknown = other_carbon(site, Feed(observed=tuple(direct)), NOON_S, signals)
    assert (unknown.marginal_g_per_kwh, unknown.market_g_per_kwh) == (None, None)


def test_a_site_far_from_every_recording_sees_its_own_weather() -> None:
    told = said("temp_c", "weather", "tallinn")
    found = Feed(observed=(told,)).weather_near(59.44, 24.75, NOON_S, site="tallinn")
    assert (found.temp_c, found.method, found.age_s) == (123.0, "live", 0.0)


def test_the_age_of_live_weather_is_that_of_what_is_live() -> None:
    old = msgspec.structs.replace(said("rh_pct", "weather"), until_s=NOON_S - 9 * HOUR_S)
    found = Feed(observed=(said("temp_c", "weather"), old)).weather("GB", NOON_S)
    assert (found.temp_c, found.age_s) == (123.0, 0.0) and "9.0 h ago" in found.note


def test_a_providers_forecast_ages_too() -> None:
    one = Forecast(
        quantity="carbon_intensity", unit="gCO2e/kWh", signal="average_location", zone="XX",
        issued_at_s=NOON_S, start_s=NOON_S, step_s=HOUR_S, mean=(1.0,) * 48, high=(1.0,) * 48,
        expected_error=(), method="theirs", source="somebody",
    )  # fmt: skip
    setting = FeedSetting(provider="csv", zone="XX", path="x")
    live = LiveFeed([setting], ask={"csv": lambda _, __: Answer(forecasts=(one,))})
    live.ask(NOON_S)
    assert live.provided(NOON_S + 2.0 * HOUR_S) == {("XX", "carbon_intensity"): one}
    assert live.provided(NOON_S + 2.1 * HOUR_S) == {}


def test_a_sites_own_feed_goes_before_its_zones() -> None:
    own = msgspec.structs.replace(said(place="london"), value=7.0)
    feed = Feed(observed=(said(), own))
    assert feed.carbon_g_per_kwh("GB", NOON_S, places=("london",)).value == 7.0
    assert feed.carbon_g_per_kwh("GB", NOON_S, places=("leeds",)).value == 123.0


def test_live_weather_replaces_what_is_fresh_and_says_how_old_it_is() -> None:
    feed = Feed(observed=(said("temp_c", "weather"),))
    young, old = feed.weather("GB", NOON_S), feed.weather("GB", NOON_S + 5 * HOUR_S)
    plain = Feed().weather("GB", NOON_S)
    assert (young.temp_c, young.method, young.age_s) == (123.0, "live", 0.0)
    assert young.cloud_pct == plain.cloud_pct
    assert old.method == "recorded hour" and old.age_s == 5 * HOUR_S and "5.0 h ago" in old.note


def test_a_price_falls_back_to_the_declared_one() -> None:
    feed = Feed(observed=(said("price_usd_per_kwh", "price"),))
    assert feed.price_usd_per_kwh("GB", NOON_S, declared=0.2).method == "live"
    late = feed.price_usd_per_kwh("GB", NOON_S + 9 * HOUR_S, declared=0.2)
    assert (late.value, late.method) == (0.2, "declared") and "9.0 h ago" in late.note


@pytest.mark.parametrize("stale_first", [True, False])
@pytest.mark.parametrize(
    ("quantity", "signal"),
    [
        ("carbon_intensity", "average_location"),
        ("marginal_intensity", "marginal"),
        ("price_usd_per_kwh", "price"),
        ("temp_c", "weather"),
    ],
)
def test_a_feed_that_fell_silent_hides_no_other(
    quantity: str, signal: str, stale_first: bool
) -> None:
    old = msgspec.structs.replace(said(quantity, signal), value=1.0, until_s=NOON_S - 99 * HOUR_S)
    new = msgspec.structs.replace(old, value=2.0, until_s=NOON_S)
    feed = Feed(observed=(old, new) if stale_first else (new, old))
    marginal = feed.marginal_g_per_kwh("GB", NOON_S)
    found = {
        "carbon_intensity": feed.carbon_g_per_kwh("GB", NOON_S).value,
        "marginal_intensity": None if marginal is None else marginal.value,
        "price_usd_per_kwh": feed.price_usd_per_kwh("GB", NOON_S, declared=9.0).value,
        "temp_c": feed.weather("GB", NOON_S).temp_c,
    }
    assert found[quantity] == 2.0


def test_of_two_feeds_of_one_zone_the_first_is_forecast_from() -> None:
    series = history(30)
    settings = [FeedSetting(provider="csv", zone="XX", path=path) for path in ("one", "two")]
    answers = {
        "one": Answer(series=(series,)),
        "two": Answer(series=(msgspec.structs.replace(series, values=series.values + 1.0),)),
    }
    live = LiveFeed(settings, ask={"csv": lambda setting, _: answers[setting.path]})
    live.ask(0.0)
    found = live.brought(series.until_s)["XX", "carbon_intensity"]
    assert abs(found.values - series.values).max() < 1e-9


@given(cut=st.integers(1, 500), overlap=st.integers(0, 40))
def test_what_was_said_adds_up_to_one_history(cut: int, overlap: int) -> None:
    whole = history(30, step_s=1800.0)
    first = whole.window(whole.start_s, whole.start_s + (cut + overlap) * 1800.0)
    second = whole.window(whole.start_s + cut * 1800.0, whole.until_s)
    answers = iter([Answer(series=(first,)), Answer(series=(second,))])
    one = FeedSetting(provider="csv", zone="XX", path="x")
    live = LiveFeed([one], ask={"csv": lambda _, __: next(answers)})
    live.ask(0.0)
    live.ask(10_000.0)
    key = ("XX", "carbon_intensity")
    assert key not in live.brought(whole.until_s + 2.1 * HOUR_S), "too old to forecast from"
    found = live.brought(whole.until_s)[key]
    assert found.step_s == HOUR_S and found.start_s == whole.start_s
    hourly = whole.values.reshape(-1, 2).mean(axis=1)
    assert abs(found.values - hourly).max() < 1e-9


@pytest.mark.parametrize(("step_s", "phase_s"), [(HOUR_S, 1800.0), (900.0, 420.0), (HOUR_S, 0.0)])
def test_hours_of_a_table_off_the_full_hour_are_means_of_what_falls_into_them(
    step_s: float, phase_s: float
) -> None:
    whole = history(30, step_s=step_s)
    gone = whole.values.copy()
    gone[200:210] = np.nan
    series = msgspec.structs.replace(whole, start_s=whole.start_s + phase_s, values=gone)
    one = FeedSetting(provider="csv", zone="XX", path="x")
    live = LiveFeed([one], ask={"csv": lambda _, __: Answer(series=(series,))})
    live.ask(0.0)
    found = live.brought(series.until_s)["XX", "carbon_intensity"]
    assert found.start_s % HOUR_S == 0.0 and found.until_s <= series.until_s
    for i, value in enumerate(found.values):
        minutes = found.start_s + i * HOUR_S + np.arange(0.0, HOUR_S, 60.0)
        told = [v for m in minutes if m >= series.start_s and not np.isnan(v := series.at(m))]
        assert value == pytest.approx(np.mean(told)) if told else np.isnan(value)


def test_a_table_put_on_other_instants_begins_anew() -> None:
    first = history(30)
    moved = msgspec.structs.replace(first, start_s=first.start_s + 1800.0)
    answers = iter([Answer(series=(first,)), Answer(series=(moved,))])
    one = FeedSetting(provider="csv", zone="XX", path="x")
    live = LiveFeed([one], ask={"csv": lambda _, __: next(answers)})
    for at_s in (0.0, 10_000.0):
        live.ask(at_s)
    (said,) = live.observed(moved.until_s)
    assert (said.value, said.until_s) == (moved.values[-1], moved.until_s)

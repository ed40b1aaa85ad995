"""Every provider's shape over a real socket, with keys where they belong, and every way in which an answer can fail."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hanse.errors import ConfigError, FeedError, HanseError
from hanse.signals import Feed
from hanse.signals.providers import FeedSetting, LiveFeed, csv_table, entsoe, open_meteo, web
from hanse.signals.providers import electricity_maps as em
from hanse.signals.providers import uk_carbon as uk
from hanse.signals.providers import watttime as wt
from hanse.signals.providers.answer import instant
from hanse.signals.providers.settings import Provider, read_settings
from hanse.signals.providers.web import WebFault
from signals.providers import shapes
from signals.providers.provider_server import NOON_S, Asked, ProviderServer, Said, speaking

HOUR_S = 3600.0
SPEAK: dict[Provider, Callable[[Asked], Said]] = {
    "electricity-maps": shapes.electricity_maps,
    "watttime": shapes.watttime,
    "uk-carbon-intensity": shapes.uk_carbon,
    "entsoe": shapes.generation,
    "open-meteo": shapes.open_meteo,
}
KEYS = {"electricity-maps": "sesame", "watttime": "user:pass", "entsoe": "open-sesame"}


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for provider, key in KEYS.items():
        monkeypatch.setenv(f"KEY_OF_{provider.replace('-', '_').upper()}", key)


def setting(provider: Provider, url: str, **more: object) -> FeedSetting:
    given: dict[str, object] = {"provider": provider, "zone": "XX", "url": url}
    if provider in KEYS:
        given["token_env"] = f"KEY_OF_{provider.replace('-', '_').upper()}"
    if provider == "watttime":
        given["region"] = "CAISO_NORTH"
    if provider == "open-meteo":
        given |= {"lat_deg": 52.5, "lon_deg": 13.4}
    return FeedSetting(**{**given, **more})  # type: ignore[arg-type]


@pytest.fixture
def server(keys: None) -> Iterator[ProviderServer]:
    with speaking(lambda _: Said(status=500)) as one:
        yield one


def test_electricity_maps_gives_a_day_with_its_gap_and_its_own_forecast(
    server: ProviderServer,
) -> None:
    server.speak = shapes.electricity_maps
    answer = em.ask(setting("electricity-maps", server.url, region="DE"), NOON_S)
    (series,), (ahead,) = answer.series, answer.forecasts
    assert series.at(NOON_S) == 302.0 and series.at(NOON_S - HOUR_S) == 299.0
    assert np.isnan(series.at(NOON_S - 3 * HOUR_S))
    assert (series.signal, series.unit) == ("average_location", "gCO2e/kWh")
    assert (ahead.issued_at_s, ahead.mean[:2]) == (NOON_S - 900.0, (310.0, 311.0))
    assert ahead.method == "forecast of Electricity Maps"
    assert {a.query["zone"] for a in server.asked} == {"DE"}


def test_a_plan_without_forecast_keeps_the_history(server: ProviderServer) -> None:
    def speak(asked: Asked) -> Said:
        return (
            Said(status=401) if asked.path.endswith("forecast") else shapes.electricity_maps(asked)
        )

    server.speak = speak
    answer = em.ask(setting("electricity-maps", server.url), NOON_S)
    assert answer.series and not answer.forecasts and "plan" in answer.no_forecast


def test_watttime_is_marginal_and_turned_from_pounds_a_megawatt_hour(
    server: ProviderServer,
) -> None:
    server.speak = shapes.watttime
    answer = wt.ask(setting("watttime", server.url), NOON_S)
    (series,), (ahead,) = answer.series, answer.forecasts
    assert series.signal == ahead.signal == "marginal" and series.step_s == 300.0
    assert series.values[0] == pytest.approx(453.59237)
    assert ahead.mean[1] == pytest.approx(1001.0 * 0.45359237) and ahead.issued_at_s == NOON_S
    assert [a.path for a in server.asked] == ["/login", "/v3/historical", "/v3/forecast"]


def test_watttime_in_another_unit_is_refused(server: ProviderServer) -> None:
    def speak(asked: Asked) -> Said:
        said = shapes.watttime(asked)
        return said._replace(body=said.body.replace(b"lbs_co2_per_mwh", b"kg_co2_per_mwh"))

    server.speak = speak
    with pytest.raises(FeedError, match="kg_co2_per_mwh"):
        wt.ask(setting("watttime", server.url), NOON_S)


def test_the_uk_api_gives_measured_half_hours_and_two_days_ahead(server: ProviderServer) -> None:
    server.speak = shapes.uk_carbon
    answer = uk.ask(setting("uk-carbon-intensity", server.url, zone="GB"), NOON_S)
    (series,), (ahead,) = answer.series, answer.forecasts
    assert series.at(NOON_S - HOUR_S / 2.0) == 189.0
    assert series.at(NOON_S - 2.0 * HOUR_S) == 196.0, "its forecast where nothing was measured"
    assert series.unit == "gCO2/kWh", "direct emissions are no lifecycle figure"
    assert len(ahead.mean) == 96 and ahead.mean[0] == 200.0
    assert server.asked[0].path == "/intensity/2026-07-31T12:00Z/2026-08-01T12:00Z"


def test_a_british_region_is_read_and_its_mix_counted_over_lifecycles(
    server: ProviderServer,
) -> None:
    server.speak = shapes.uk_carbon
    plain = setting("uk-carbon-intensity", server.url, region="13")
    assert uk.ask(plain, NOON_S).forecasts[0].mean[0] == 200.0
    counted = setting("uk-carbon-intensity", server.url, region="13", lifecycle=True)
    found = uk.ask(counted, NOON_S).forecasts[0]
    assert found.mean[0] == pytest.approx((490.0 + 11.0) / 2.0) and found.unit == "gCO2e/kWh"
    assert server.asked[-1].path == "/regional/intensity/2026-08-01T12:00Z/fw48h/regionid/13"


def test_entsoe_counts_generation_not_storage_and_points_left_out_hold_on(
    server: ProviderServer,
) -> None:
    server.speak = shapes.generation
    answer = entsoe.ask(setting("entsoe", server.url, region="10Y1001A1001A82H"), NOON_S)
    (series,) = answer.series
    assert series.values[0] == pytest.approx((490.0 + 11.0) / 2.0)
    assert series.values[1:] == pytest.approx(np.full(11, (490.0 + 3 * 11.0) / 4.0))
    query = server.asked[0].query
    assert (query["documentType"], query["in_Domain"]) == ("A75", "10Y1001A1001A82H")
    assert query["securityToken"] == "open-sesame" and query["periodStart"] == "202607301200"


@pytest.mark.parametrize(
    ("start", "end", "hours"),
    [
        ("2026-03-28T23:00Z", "2026-03-29T22:00Z", 23),
        ("2026-10-24T22:00Z", "2026-10-25T23:00Z", 25),
    ],
)
def test_days_of_23_and_25_hours_have_each_hour_once(
    server: ProviderServer, start: str, end: str, hours: int
) -> None:
    values = [float(i) for i in range(hours)]
    server.speak = lambda _: shapes.prices(start=start, end=end, values=values)
    now_s = instant(start, "") + 4.0 * HOUR_S
    asked = setting("entsoe", server.url, quantity="price", usd_per_unit=1.1, add_usd_per_kwh=0.2)
    answer = entsoe.ask(asked, now_s)
    past, ahead = answer.series[0], answer.forecasts[0]
    assert past.values == pytest.approx([v * 1.1 / 1000.0 + 0.2 for v in range(hours)])
    assert len(ahead.mean) == hours - 4 and ahead.until_s == instant(end, "")
    assert ahead.mean == pytest.approx([v * 1.1 / 1000.0 + 0.2 for v in range(4, hours)])


@pytest.mark.parametrize(("contract", "sequence"), [("A01", "2"), ("A07", "1")])
def test_of_several_auctions_the_coupled_day_ahead_one_counts(
    server: ProviderServer, contract: str, sequence: str
) -> None:
    """Germany's documents hold the Austrian exchange's auction too, Spain's the intraday ones, in whatever order."""
    start, end = "2026-08-01T00:00Z", "2026-08-02T00:00Z"
    others = shapes.other_auction(start=start, end=end, contract=contract, sequence=sequence)
    server.speak = lambda _: shapes.prices(start=start, end=end, values=[50.0], others=others)
    asked = setting("entsoe", server.url, quantity="price", usd_per_unit=1.0, add_usd_per_kwh=0.0)
    past = entsoe.ask(asked, instant(start, "") + 4.0 * HOUR_S).series[0]
    assert past.step_s == HOUR_S
    assert past.values == pytest.approx([0.05] * 24)


def test_settled_prices_count_until_their_end_while_the_platform_is_down(
    server: ProviderServer,
) -> None:
    """Known until midnight: 20 by day, 320 from 16:00 on."""
    day = instant("2026-08-01T00:00Z", "")
    values = [20.0 if h < 16 else 320.0 for h in range(24)]
    server.speak = lambda _: shapes.prices(
        start="2026-08-01T00:00Z", end="2026-08-02T00:00Z", values=values
    )
    asked = setting("entsoe", server.url, quantity="price", usd_per_unit=1.0, add_usd_per_kwh=0.1)
    live, key = LiveFeed([asked]), ("XX", "price_usd_per_kwh")
    live.ask(day + 14.75 * HOUR_S)
    server.speak = lambda _: Said(status=503)
    for hour in (14.9, 15.9, 16.1, 20.5, 23.9):
        now_s = day + hour * HOUR_S
        live.ask(now_s)
        feed = Feed(observed=live.observed(now_s))
        reading = feed.price_usd_per_kwh("DE", now_s, places=("XX",), declared=9.0)
        assert (reading.method, reading.age_s) == ("live", 0.0)
        assert reading.value == pytest.approx(0.1 + values[int(hour)] / 1000.0)
        assert live.provided(now_s)[key].until_s == day + 24 * HOUR_S
    later_s = day + 26.1 * HOUR_S
    feed = Feed(observed=live.observed(later_s))
    assert feed.price_usd_per_kwh("DE", later_s, places=("XX",), declared=9.0).value == 9.0
    assert live.provided(later_s) == {}


def test_prices_in_euro_need_a_rate_and_no_data_says_why(server: ProviderServer) -> None:
    server.speak = lambda _: shapes.prices(
        start="2026-08-01T00:00Z", end="2026-08-02T00:00Z", values=[1.0]
    )
    asked = setting("entsoe", server.url, quantity="price", add_usd_per_kwh=0.0)
    with pytest.raises(ConfigError, match="usd_per_unit"):
        entsoe.ask(asked, NOON_S)
    server.speak = lambda _: shapes.no_data()
    with pytest.raises(FeedError, match=r"reason 999: No matching data.*To fix: check that region"):
        entsoe.ask(asked, NOON_S)


def test_a_wholesale_price_stands_for_what_a_kwh_costs_delivered(server: ProviderServer) -> None:
    server.speak = lambda _: shapes.prices(
        start="2026-08-01T00:00Z", end="2026-08-02T00:00Z", values=[50.0], currency="USD"
    )
    live = LiveFeed([setting("entsoe", server.url, quantity="price", add_usd_per_kwh=0.11)])
    assert live.ask(NOON_S) == ()
    reading = Feed(observed=live.observed(NOON_S)).price_usd_per_kwh(
        "DE", NOON_S, places=("XX",), declared=0.3
    )
    assert reading.value == pytest.approx(0.16) and reading.method == "live"
    assert "wholesale plus 0.11 USD/kWh" in reading.note


def test_direct_figures_say_in_the_feeds_state_that_they_do_not_count(
    server: ProviderServer,
) -> None:
    server.speak = shapes.uk_carbon
    for more, says in (({}, 1), ({"region": "13"}, 1), ({"region": "13", "lifecycle": True}, 0)):
        live = LiveFeed([setting("uk-carbon-intensity", server.url, zone="GB", **more)])
        live.ask(NOON_S)
        notes = [n for n in live.states(NOON_S)[0].notes if "not counted" in n]
        method = Feed(observed=live.observed(NOON_S)).carbon_g_per_kwh("GB", NOON_S).method
        assert (len(notes), method) == (says, "recorded hour" if says else "live")


def test_an_hour_in_which_a_plant_type_fell_silent_is_a_gap_not_a_cleaner_hour(
    server: ProviderServer,
) -> None:
    body = shapes.generation(server_asked()).body.decode()
    cut = body.replace("10:00Z</end></timeInterval><resolution>PT15M</resolution>\n  <Point><position>1</position><quantity>100.0</quantity></Point></Period>",
                       "09:00Z</end></timeInterval><resolution>PT15M</resolution>\n  <Point><position>1</position><quantity>100.0</quantity></Point></Period>", 1)  # fmt: skip
    assert cut != body
    server.speak = lambda _: Said(body=cut.encode())
    (series,) = entsoe.ask(setting("entsoe", server.url), NOON_S).series
    assert len(series.values) == 11, "the hour without gas is left out"


def hours_counted(server: ProviderServer, **fuels: list[float | None]) -> np.ndarray:
    """Which of two days' hours are no gaps."""
    start_s = NOON_S - 48 * HOUR_S
    server.speak = lambda _: shapes.generation_by_hour(start_s, fuels)
    (series,) = entsoe.ask(setting("entsoe", server.url), NOON_S).series
    counted = np.zeros(48, bool)
    first = round((series.start_s - start_s) / HOUR_S)
    counted[first : first + len(series.values)] = ~np.isnan(series.values)
    return counted


@pytest.mark.parametrize("silent_h", [1, 20, 24, 30, 47])
@pytest.mark.parametrize("back", [False, True])
def test_a_large_plant_type_is_due_however_long_it_has_been_silent(
    server: ProviderServer, silent_h: int, back: bool
) -> None:
    """France without its nuclear is not France on gas, neither while it is silent nor when it is back."""
    nuclear = [40_000.0] * (48 - silent_h) + [None] * silent_h
    told = [mw is not None for mw in nuclear]
    if back:
        nuclear, told = nuclear[::-1], told[::-1]
    rest: dict[str, list[float | None]] = {"B04": [4_000.0] * 48, "B11": [6_000.0] * 48}
    np.testing.assert_array_equal(hours_counted(server, B14=nuclear, **rest), told)


def test_plants_that_stand_still_a_dark_sky_and_small_ones_make_no_gap(
    server: ProviderServer,
) -> None:
    day = [None] * 6 + [500.0 * h for h in (1, 2, 3, 2, 1)] + [None] * 13
    counted = hours_counted(
        server, B04=[4_000.0] * 48, B14=[6_000.0] * 12 + [0.0] * 36, B06=[100.0] * 9 + [None] * 39,
        B16=day * 2,
    )  # fmt: skip
    assert counted.all()
    dark = day[:7] + [None] * 17
    counted = hours_counted(server, B04=[4_000.0] * 48, B16=day + dark)
    np.testing.assert_array_equal(np.nonzero(~counted)[0], [31, 32, 33, 34])


def test_what_is_told_first_of_the_newest_hour_is_not_large_for_being_alone(
    server: ProviderServer,
) -> None:
    gas: list[float | None] = [4_000.0] * 47 + [None]
    counted = hours_counted(server, B04=gas, B09=[None] * 47 + [50.0])
    assert counted[:47].all() and not counted[47]


def server_asked() -> Asked:
    return Asked("/api", {}, {})


def test_open_meteo_gives_history_now_and_forecast_of_each_quantity(server: ProviderServer) -> None:
    server.speak = shapes.open_meteo
    answer = open_meteo.ask(setting("open-meteo", server.url), NOON_S)
    named = {one.quantity: one for one in answer.series}
    assert set(named) == {"temp_c", "rh_pct", "cloud_pct", "wind10_ms"}
    assert named["cloud_pct"].at(NOON_S) == 55.5 and named["cloud_pct"].at(NOON_S - HOUR_S) == 31.0
    ahead = {one.quantity: one for one in answer.forecasts}["temp_c"]
    assert ahead.start_s == NOON_S and ahead.mean[1] == 13.0
    assert len(ahead.mean) == 3 * 24 - 12 - 1, "it ends before its gap"
    assert server.asked[0].query["wind_speed_unit"] == "ms"


def test_a_table_gives_history_gap_and_forecast(tmp_path: Path, server: ProviderServer) -> None:
    text = "utc,g\n2026-08-01T09:00Z,100\n2026-08-01T12:00+02:00,110\n2026-08-01T11:00Z,\n1785585600,130\n2026-08-01T13:00Z,140\n"
    path = tmp_path / "own.csv"
    path.write_text(text)
    server.speak = lambda _: Said(body=text.encode())
    for one in (setting("csv", "", path=str(path)), setting("csv", f"{server.url}/own.csv")):
        answer = csv_table.ask(one, NOON_S)
        np.testing.assert_array_equal(answer.series[0].values, [100.0, 110.0, np.nan, 130.0])
        assert answer.forecasts[0].mean == (130.0, 140.0)


@pytest.mark.parametrize(
    ("first", "step_s"),
    [("2026-08-01T00:30Z", 3600.0), ("2026-07-20T00:00+02:00", 86_400.0), ("2026-08-01T00:07Z", 900.0)],
)  # fmt: skip
def test_rows_of_a_table_hold_from_their_own_instants(
    tmp_path: Path, first: str, step_s: float
) -> None:
    first_s, path = instant(first, ""), tmp_path / "own.csv"
    rows = [first_s + i * step_s for i in range(20 * 4)]
    path.write_text("t,g\n" + "".join(f"{at_s:.0f},{i}\n" for i, at_s in enumerate(rows)))
    live = LiveFeed([setting("csv", "", path=str(path), stale_after_s=86_400.0)])
    for now_s in (NOON_S - step_s, NOON_S):  # the second answer adds to the first
        live.ask(now_s)
        (said,) = live.observed(now_s)
        begun = int((now_s - first_s) // step_s)
        assert (said.value, said.until_s) == (begun, rows[begun] + step_s)
        (ahead,) = live.provided(now_s).values()
        assert (ahead.start_s, ahead.mean[:2]) == (rows[begun], (begun, begun + 1))


@pytest.mark.parametrize(
    "row",
    [
        "2026-08-01T09:00,100",
        "yesterday,100",
        "2026-08-01T09:00Z,lots",
        "2026-08-01T09:00Z,inf",
        "x",
    ],
)
def test_a_table_in_local_time_or_with_a_bad_row_is_refused(tmp_path: Path, row: str) -> None:
    path = tmp_path / "own.csv"
    path.write_text(f"utc,g\n{row}\n")
    with pytest.raises(FeedError):
        csv_table.ask(setting("csv", "", path=str(path)), NOON_S)


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ("2026-08-01T09:00,1", "To fix: append Z"),
        ("yesterday,1", "To fix: write instants"),
        ("0,1\n3600,1\n9100,1\n10800,1", "one at 3600 between them.*To fix: put every row on one grid"),
        ("0,1\n60,1\n9e9,1", "To fix: look for a wrong year"),
    ],
)  # fmt: skip
def test_a_table_that_cannot_be_read_says_what_to_do(tmp_path: Path, rows: str, says: str) -> None:
    path = tmp_path / "own.csv"
    path.write_text(f"utc,g\n{rows}\n")
    with pytest.raises(FeedError, match=says):
        csv_table.ask(setting("csv", "", path=str(path)), 1e10)


@pytest.mark.parametrize("provider", SPEAK)
@pytest.mark.parametrize(
    "fault", ["401", "429", "500", "cut", "garbage", "empty", "list", "hang", "moved"]
)
def test_no_failure_ends_the_feed_or_shows_a_key(
    provider: Provider, fault: str, server: ProviderServer
) -> None:
    said = {
        "401": Said(status=401), "429": Said(status=429, headers=(("Retry-After", "7200"),)),
        "500": Said(status=500, body=b"oops"), "cut": Said(body=b'{"data": [', cut=True),
        "garbage": Said(body=b"<html>sorry"), "empty": Said(), "list": Said(body=b"[1]"),
        "hang": Said(silent=True), "moved": Said(status=302, headers=(("Location", "http://127.0.0.1:9/"),)),
    }[fault]  # fmt: skip
    server.speak = SPEAK[provider]
    live = LiveFeed([setting(provider, server.url)])
    assert live.ask(NOON_S) == ()
    before = live.observed(NOON_S)
    assert before and live.states(NOON_S)[0].fresh
    server.speak = lambda _: said
    later_s = live.next_s()
    with pytest.MonkeyPatch.context() as impatient:
        for module in (em, wt, uk, entsoe, open_meteo):
            impatient.setattr(module, "get", functools.partial(web.get, timeout_s=0.2))
        (line,) = live.ask(later_s)
    (state,) = live.states(later_s)
    assert (
        state.failures == 1
        and state.error
        and state.next_s == later_s + (7200.0 if fault == "429" else 60.0)
    )
    for key in (*KEYS.values(), "dXNlcjpwYXNz", "abcdef"):
        assert key not in line + state.error
    assert live.observed(later_s) == before, "the last good value stays"
    server.speak = SPEAK[provider]
    assert "answers again" in live.ask(live.next_s())[0]


@pytest.mark.parametrize("provider", ["electricity-maps", "watttime", "uk-carbon-intensity"])
@pytest.mark.parametrize("fault", ["403", "429", "500", "garbage", "empty", "odd", "hang"])
def test_a_forecast_that_fails_alone_takes_no_live_value_with_it_and_is_left_alone(
    provider: Provider, fault: str, server: ProviderServer
) -> None:
    said = {
        "403": Said(status=403), "429": Said(status=429, headers=(("Retry-After", "7200"),)),
        "500": Said(status=500), "garbage": Said(body=b"<html>"), "empty": Said(body=b"{}"),
        "odd": Said(body=b'{"data": null, "meta": null, "forecast": null}'), "hang": Said(silent=True),
    }[fault]  # fmt: skip

    def of_forecast(asked: Asked) -> bool:
        return asked.path.endswith("forecast") or "fw48h" in asked.path

    server.speak = lambda asked: said if of_forecast(asked) else SPEAK[provider](asked)
    live, lines = LiveFeed([setting(provider, server.url, every_s=600.0)]), list[str]()
    with pytest.MonkeyPatch.context() as impatient:
        for module in (em, wt, uk):
            impatient.setattr(module, "get", functools.partial(web.get, timeout_s=0.2))
        for i in range(12):
            lines += live.ask(NOON_S + i * 600.0)
    (state,) = live.states(NOON_S)
    assert live.observed(NOON_S) and state.fresh and (state.error, state.failures) == ("", 0)
    assert "no forecast: " in state.notes[-1]
    assert len(lines) == 1 and "no forecast: " in lines[0]
    tries = sum(map(of_forecast, server.asked))
    # At 0, 10, 20 ... while pauses are shorter than the feed's own, then less and less often.
    assert tries == (1 if fault == "429" else 7)
    assert len(server.asked) > 12
    server.speak = SPEAK[provider]
    (line,) = live.ask(NOON_S + 4 * HOUR_S)
    assert "forecasts again" in line and live.provided(NOON_S)
    assert not any("no forecast" in note for note in live.states(NOON_S)[0].notes)


@given(count=st.integers(1, 40))
def test_pauses_double_to_an_hour_and_are_the_same_each_time(count: int) -> None:
    def fail(_: FeedSetting, __: float) -> None:
        raise WebFault("there", got="nothing")

    live = LiveFeed([setting("csv", "", path="x")], ask={"csv": fail})  # type: ignore[dict-item]
    for i in range(count):
        at_s = max(NOON_S, live.next_s())
        live.ask(at_s)
        assert live.next_s() - at_s == min(60.0 * 2.0**i, 3600.0)


GERMAN = '[[feed]]\nprovider = "entsoe"\nzone = "DE"\ntoken_env = "K"\n'


def test_a_file_is_checked_and_errors_name_the_place(tmp_path: Path) -> None:
    path = tmp_path / "feeds.toml"
    good = '[[feed]]\nprovider = "uk-carbon-intensity"\nzone = "GB"\n'
    path.write_text(good)
    assert read_settings(path)[0].zone == "GB"
    for wrong, says in [
        ('[[feed]]\nprovider = "watttime"\nzone = "GB"\n', "token_env"),
        ('[[feed]]\nprovider = "open-meteo"\nzone = "GB"\n', "lat_deg"),
        ('[[feed]]\nprovider = "csv"\nzone = "GB"\n', "path or url"),
        (good + 'url = "file:///etc/passwd"\n', "http"),
        (good + "every_s = 1\n", "every_s"),
        (good + "tokn = 1\n", "tokn"),
        (good + "lifecycle = true\n", "without a region.*To fix"),
        (GERMAN + "lifecycle = true\nregion = 'DE'\n", "true for entsoe.*To fix"),
        (GERMAN + "quantity = 'price'\n", "add_usd_per_kwh: got nothing.*To fix"),
        (GERMAN + "add_usd_per_kwh = 0.1\n", "0.1 for entsoe carbon_intensity.*To fix"),
        (GERMAN + "quantity = 'load'\n", "quantity"),
        ("[[feed]", "docs/feeds.md"),
    ]:
        path.write_text(wrong)
        with pytest.raises(ConfigError, match=says):
            read_settings(path)


def test_a_missing_key_says_where_it_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(HanseError, match="NO_SUCH_KEY"):
        setting("entsoe", "http://127.0.0.1:1", token_env="NO_SUCH_KEY").secret()
    (tmp_path / "key").write_text("hidden\n")
    assert (
        setting("entsoe", "", token_env="", token_file=str(tmp_path / "key")).secret() == "hidden"
    )

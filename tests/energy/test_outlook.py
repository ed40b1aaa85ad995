"""A fleet's outlook: nothing later than its issue, night without sun, one kind of carbon, providers first."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest

from hanse.energy.outlook import outlook_from, outlooks_from
from hanse.energy.solar import pv_kw
from hanse.errors import ConfigError, FeedError
from hanse.model.read import read_fleet
from hanse.signals import Feed, Observed, Override, Series, recorded
from hanse.signals.forecast import Forecast

FLEET = read_fleet(Path(__file__).parents[2] / "examples" / "league.toml")
JULY_S = 1_783_000_800.0
HOUR_S = 3600.0


def brought(values: np.ndarray, quantity: str, until_s: float) -> Series:
    return Series(
        start_s=until_s - len(values) * HOUR_S, step_s=HOUR_S, values=values, quantity=quantity,
        unit="gCO2e/kWh", signal="average_location", zone="-", source="made", licence="-",
    )  # fmt: skip


def test_many_outlooks_hold_what_each_alone_holds_and_none_has_sun_beyond_a_clear_sky() -> None:
    instants = [JULY_S + i * HOUR_S for i in range(6)]
    many = outlooks_from(FLEET.sites, Feed(), instants, steps=36)
    for issued_at_s, found in zip(instants, many, strict=True):
        assert found == outlook_from(FLEET.sites, Feed(), issued_at_s, steps=36)
        assert found.start_s <= found.issued_at_s < found.start_s + found.step_s
        for site, one in zip(FLEET.sites, found.sites, strict=True):
            for h in range(36):
                middle_s = found.start_s + (h + 0.5) * HOUR_S
                clear = pv_kw(
                    pv_kw_peak=site.power.pv_kw_peak, lat_deg=site.lat_deg, lon_deg=site.lon_deg,
                    tilt_deg=site.power.pv_tilt_deg, now_s=middle_s, cloud_pct=0.0,
                    temp_c=-30.0, wind_ms=20.0,
                )  # fmt: skip
                assert 0.0 <= one.pv_kw[h] <= clear + 1e-9
            assert min(one.pue) >= 1.0 and min(one.carbon_g_per_kwh) >= 0.0
            assert min(one.wind_kw) >= 0.0 and max(one.wind_kw) <= site.power.wind_kw_rated


def test_values_after_issue_change_nothing() -> None:
    site = FLEET.sites[0]
    values = 200.0 + 50.0 * np.sin(np.arange(60 * 24) / 24.0 * 2.0 * np.pi)
    later = values.copy()
    later[-48:] = 9_999.0
    issued_at_s = JULY_S - 48 * HOUR_S
    one, other = (
        outlook_from(
            [site], Feed(), issued_at_s, steps=24,
            brought={(site.id, "carbon_intensity"): brought(v, "carbon_intensity", JULY_S)},
        )
        for v in (values, later)
    )  # fmt: skip
    assert one == other
    assert np.abs(np.subtract(one.sites[0].carbon_g_per_kwh, values[-48:-24])).max() < 1.0


def test_a_providers_forecast_goes_before_ones_own_unless_it_is_issued_later() -> None:
    site = FLEET.sites[0]
    theirs = Forecast(
        quantity="carbon_intensity", unit="gCO2e/kWh", signal="average_location", zone="-",
        issued_at_s=JULY_S, start_s=JULY_S, step_s=HOUR_S, mean=(7.0,) * 12, high=(9.0,) * 12,
        expected_error=(), method="somebody's", source="somebody",
    )  # fmt: skip
    provided = {(site.grid_zone or site.country, "carbon_intensity"): theirs}
    early, late = outlooks_from(
        [site], Feed(), [JULY_S - 2 * HOUR_S, JULY_S], steps=24, provided=provided
    )
    assert late.sites[0].carbon_g_per_kwh[:12] == (7.0,) * 12
    assert min(late.sites[0].carbon_g_per_kwh[12:]) > 7.0
    assert 7.0 not in early.sites[0].carbon_g_per_kwh


def test_a_kind_of_carbon_that_nobody_tells_is_refused_and_never_given_the_average() -> None:
    sites = [
        s for s in FLEET.sites if recorded(s.grid_zone or s.country, "marginal_intensity") is None
    ]
    assert sites
    with pytest.raises(FeedError, match="marginal_intensity"):
        outlook_from(sites, Feed(), JULY_S, steps=3, carbon_signal="marginal")


def dipping(quantity: str, until_s: float, **changes: object) -> Series:
    values = 200.0 + 50.0 * np.sin(np.arange(60 * 24) / 24.0 * 2.0 * np.pi)
    return msgspec.structs.replace(brought(values, quantity, until_s), **changes)


def issued(site, now_s=JULY_S, feed=None, **more):  # type: ignore[no-untyped-def]
    return outlook_from([site], feed or Feed(), now_s, steps=24, **more).sites[0]


def test_a_history_that_ends_before_the_running_hour_is_continued() -> None:
    site = FLEET.sites[0]
    key, now_s = (site.id, "carbon_intensity"), JULY_S + 1_234.0
    whole = issued(site, now_s, brought={key: dipping(key[1], JULY_S)})
    early = dipping(key[1], JULY_S).window(0.0, JULY_S - 3 * HOUR_S)
    found = issued(site, now_s, brought={key: early})
    difference = np.subtract(found.carbon_g_per_kwh, whole.carbon_g_per_kwh)
    assert np.abs(difference).max() < 5.0


@pytest.mark.parametrize("late_h", [1, 2])
def test_while_a_provider_is_late_the_last_hour_told_says_how_things_stand(late_h: int) -> None:
    """Dirty since six hours; hours not told yet were clean a day ago, and say nothing of now."""
    site, key = FLEET.sites[0], "carbon_intensity"
    values = np.where(np.arange(60 * 24) < 60 * 24 - 6, 200.0, 400.0)
    told = brought(values[: len(values) - late_h], key, JULY_S - late_h * HOUR_S)
    found = issued(site, brought={(site.id, key): told})
    assert found.carbon_g_per_kwh[0] > 340.0


def test_gaps_of_a_history_are_not_taken_for_calm() -> None:
    windy = next(s for s in FLEET.sites if s.power.wind_kw_rated > 0.0)
    strong = msgspec.structs.replace(
        dipping("wind10_ms", JULY_S - 3 * HOUR_S), values=np.full(60 * 24, 11.0)
    )
    found = issued(windy, brought={(windy.id, "wind10_ms"): strong})
    assert min(found.wind_kw) == pytest.approx(max(found.wind_kw)) and min(found.wind_kw) > 0.0


@pytest.mark.parametrize("later_h", [0.3, 47.0, 49.5, 200.0])
def test_where_only_a_provider_tells_its_mean_goes_on_however_long_ago_that_was(
    later_h: float,
) -> None:
    site = FLEET.sites[0]
    theirs = Forecast(
        quantity="price_usd_per_kwh", unit="USD/kWh", signal="price", zone="-", issued_at_s=JULY_S,
        start_s=JULY_S + 1_800.0, step_s=1_800.0, mean=(0.1, 0.3), high=(0.1, 0.3), expected_error=(),
        method="somebody's", source="somebody",
    )  # fmt: skip
    found = issued(
        site, JULY_S + later_h * HOUR_S, provided={(site.country, "price_usd_per_kwh"): theirs}
    )
    running = 0.1 if later_h == 0.3 else 0.2  # the half of it that the provider tells of
    assert found.price_usd_per_kwh == pytest.approx((running, *(0.2,) * 23))


@pytest.mark.parametrize("first_m", [0, 30, 45, 60, 75])
@pytest.mark.parametrize("age_h", [0, 9])
def test_the_running_hour_comes_from_where_the_next_ones_do(first_m: int, age_h: int) -> None:
    """A provider's forecast may begin within the hour, or after it; what its feed last said stands for it then."""
    site, now_s = FLEET.sites[0], JULY_S + 0.7 * HOUR_S
    key = (site.grid_zone or site.country, "carbon_intensity")
    theirs = Forecast(
        quantity=key[1], unit="gCO2e/kWh", signal="average_location", zone=key[0],
        issued_at_s=JULY_S, start_s=JULY_S + first_m * 60.0, step_s=300.0, mean=(7.0,) * 600,
        high=(7.0,) * 600, expected_error=(), method="somebody's", source="somebody",
    )  # fmt: skip
    said = Observed(
        quantity=key[1], place=key[0], value=8.0, unit=theirs.unit, signal=theirs.signal,
        until_s=now_s - age_h * HOUR_S, stale_after_s=2 * HOUR_S, source="somebody", licence="-",
    )  # fmt: skip
    direct = msgspec.structs.replace(said, unit="gCO2/kWh", value=9.0)
    found = issued(site, now_s, Feed(observed=(direct, said)), provided={key: theirs})
    own = issued(site, now_s, Feed()).carbon_g_per_kwh
    running = 7.0 if first_m < 60 else 8.0 if age_h == 0 else own[0]
    late = own[1] if first_m == 75 else 7.0
    assert found.carbon_g_per_kwh[:3] == pytest.approx((running, late, 7.0))


def test_the_running_hour_of_a_sky_is_what_its_feed_said_of_clouds() -> None:
    site = next(s for s in FLEET.sites if s.power.pv_kw_peak > 0.0)
    key = (site.id, "cloud_pct")
    clear = Forecast(
        quantity=key[1], unit="%", signal="weather", zone=site.id, issued_at_s=JULY_S,
        start_s=JULY_S + HOUR_S, step_s=HOUR_S, mean=(0.0,) * 30, high=(0.0,) * 30,
        expected_error=(), method="somebody's", source="somebody",
    )  # fmt: skip
    said = Observed(
        quantity=key[1], place=site.id, value=100.0, unit="%", signal="weather", until_s=JULY_S,
        stale_after_s=HOUR_S, source="somebody", licence="-",
    )  # fmt: skip
    found = issued(site, feed=Feed(observed=(said,)), provided={key: clear}).pv_kw
    grey = msgspec.structs.replace(clear, mean=(100.0,) * 30)
    assert 0.0 < found[0] == issued(site, provided={key: grey}).pv_kw[0]
    assert found[1:] == issued(site, provided={key: clear}).pv_kw[1:]


def test_direct_grams_are_no_lifecycle_grams() -> None:
    site = FLEET.sites[0]
    key = (site.id, "carbon_intensity")
    direct = dipping(key[1], JULY_S, unit="gCO2/kWh")
    assert issued(site, brought={key: direct}) == issued(site)


def test_marginal_grams_of_two_units_are_refused_in_one_outlook() -> None:
    keys = [(s.id, "marginal_intensity") for s in FLEET.sites[:2]]
    units = ("gCO2/kWh", "gCO2e/kWh")
    told = {
        key: dipping(key[1], JULY_S, unit=unit, signal="marginal")
        for key, unit in zip(keys, units, strict=True)
    }
    with pytest.raises(ConfigError, match="gCO2/kWh and gCO2e/kWh"):
        outlook_from(
            FLEET.sites[:2], Feed(), JULY_S, steps=3, carbon_signal="marginal", brought=told
        )


@pytest.mark.parametrize("name", ["id", "grid_zone", "country"])
@pytest.mark.parametrize("quantity", ["carbon_intensity", "price_usd_per_kwh"])
def test_a_sites_grid_goes_by_three_names(name: str, quantity: str) -> None:
    site = msgspec.structs.replace(FLEET.sites[0], grid_zone="US-CAL-CISO", country="US")
    told = {(getattr(site, name), quantity): dipping(quantity, JULY_S)}
    found = issued(site, brought=told)
    values = found.carbon_g_per_kwh if quantity == "carbon_intensity" else found.price_usd_per_kwh
    assert np.abs(np.subtract(values, dipping(quantity, JULY_S).values[-24:])).max() < 1.0


def test_scenarios_in_force_change_the_steps_that_they_reach_and_those_to_come_none() -> None:
    site = next(s for s in FLEET.sites if s.power.pv_kw_peak > 0.0)

    def change(kind: str, value: float, from_h: float = -1.0, until_h: float = 6.5) -> Override:
        raw = {"kind": kind, "place": "*", "value": value, "reason": "a scenario"}
        span = {"from_s": JULY_S + from_h * HOUR_S, "until_s": JULY_S + until_h * HOUR_S}
        return msgspec.convert({**raw, **span}, Override)

    plain = issued(site, JULY_S)
    kinds = {"grid_factor": 0.25, "carbon_factor": 3.0, "price_factor": 5.0, "cloud_pct": 100.0}
    feed = Feed(overrides=tuple(change(kind, value) for kind, value in kinds.items()))
    found = issued(site, JULY_S, feed)
    for field, factor in (
        ("grid_kw_max", 0.25), ("carbon_g_per_kwh", 3.0), ("price_usd_per_kwh", 5.0)
    ):  # fmt: skip
        wanted = np.array(getattr(plain, field))
        wanted[:7] *= factor
        np.testing.assert_allclose(getattr(found, field), wanted)
    assert found.pv_kw[7:] == plain.pv_kw[7:]
    assert sum(found.pv_kw[:7]) < 0.8 * sum(plain.pv_kw[:7])
    later = Feed(overrides=tuple(change(kind, value, 2.0) for kind, value in kinds.items()))
    assert issued(site, JULY_S, later) == plain

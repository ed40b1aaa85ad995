"""The signals of a site's next kWh: bounded by own power and grid, and always explained."""

from datetime import UTC, datetime

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from hanse.energy import site_signals
from hanse.energy.balance import own_share
from hanse.energy.site import own_carbon_g_per_kwh
from hanse.model.fleet import Site
from hanse.signals import Feed, Override

JUNE_NOON_S = datetime(2026, 6, 9, 12, tzinfo=UTC).timestamp()
FRANKFURT = {
    "id": "frankfurt",
    "kind": "micro",
    "city": "Frankfurt am Main",
    "country": "DE",
    "lat_deg": 50.11,
    "lon_deg": 8.68,
    "operator_hq": "DE",
    "grid_zone": "DE",
    "weather_zone": "DE-LU",
    "power": {"grid_kw_max": 60, "pv_kw_peak": 80},
}
KW = st.floats(0, 500)
INSTANT = st.floats(1.5e9, 2.5e9)


def site(**changes: object) -> Site:
    return msgspec.convert({**FRANKFURT, **changes}, Site)


def clear(now_s: float, cloud_pct: float = 0.0) -> Feed:
    return Feed(
        overrides=(
            Override(
                kind="cloud_pct",
                place="frankfurt",
                value=cloud_pct,
                from_s=now_s,
                until_s=now_s + 60,
                reason="a test's sky",
            ),
        )
    )


@given(INSTANT, KW)
def test_carbon_lies_between_own_power_and_the_grid_and_price_below_the_grid(
    now_s: float, load: float
) -> None:
    s = site_signals(site(), Feed(), now_s, load_kw=load)
    own = own_carbon_g_per_kwh(s.pv_kw, s.wind_kw)
    low, high = sorted((own, s.grid_carbon.value))
    assert low - 1e-9 <= s.carbon_g_per_kwh <= high + 1e-9 or s.own_share == 0.0
    assert 0.0 <= s.price_usd_per_kwh <= s.grid_price.value
    assert 0.0 <= s.own_share <= 1.0
    assert s.pue >= 1.0


@given(INSTANT, KW, st.floats(0, 100))
def test_more_load_never_makes_the_next_kwh_more_own(
    now_s: float, load: float, more: float
) -> None:
    one = site_signals(site(), Feed(), now_s, load_kw=load)
    other = site_signals(site(), Feed(), now_s, load_kw=load + more)
    assert other.own_share <= one.own_share
    assert other.price_usd_per_kwh >= one.price_usd_per_kwh - 1e-12


@given(KW, KW, KW, st.floats(0, 100))
def test_own_share_is_a_share(pv: float, wind: float, load: float, block: float) -> None:
    share = own_share(pv, wind, load, block)
    assert 0.0 <= share <= 1.0
    assert share == 0.0 or pv + wind > load


def test_a_cloud_over_a_sunny_site_raises_carbon_and_price() -> None:
    sunny = site_signals(site(), clear(JUNE_NOON_S), JUNE_NOON_S, load_kw=40.0)
    dull = site_signals(site(), clear(JUNE_NOON_S, 100.0), JUNE_NOON_S, load_kw=40.0)
    assert sunny.pv_kw > 2 * dull.pv_kw * 0.9
    assert (sunny.own_share, dull.own_share) == (1.0, 0.0)
    assert sunny.carbon_g_per_kwh == 41.0  # lifecycle of rooftop PV
    assert dull.carbon_g_per_kwh == dull.grid_carbon.value > sunny.carbon_g_per_kwh
    assert dull.price_usd_per_kwh > sunny.price_usd_per_kwh == 0.0


def test_a_site_without_own_power_has_the_signals_of_its_grid() -> None:
    s = site_signals(site(power={"grid_kw_max": 60}), Feed(), JUNE_NOON_S, load_kw=0.0)
    assert s.carbon_g_per_kwh == s.grid_carbon.value
    assert s.price_usd_per_kwh == s.grid_price.value == 0.1552


def test_declared_pue_and_price_win_and_are_said_to_be_declared() -> None:
    power = {"grid_kw_max": 60, "pue": 1.3, "price_usd_per_kwh": 0.05}
    s = site_signals(site(power=power), Feed(), JUNE_NOON_S, load_kw=0.0)
    assert (s.pue, s.price_usd_per_kwh) == (1.3, 0.05)
    assert s.grid_price.method == "declared"
    assert any("declared" in n for n in s.notes)


@given(INSTANT, st.floats(-60, 70), st.floats(-180, 180))
def test_a_site_anywhere_gets_an_answer_that_explains_itself(
    now_s: float, lat: float, lon: float
) -> None:
    power = {"grid_kw_max": 60, "pv_kw_peak": 10, "wind_kw_rated": 10}
    s = site_signals(
        site(weather_zone="", grid_zone="", country="EE", lat_deg=lat, lon_deg=lon, power=power),
        Feed(),
        now_s,
        load_kw=1.0,
    )
    assert s.grid_carbon.source and s.grid_price.source and s.weather.source
    assert len(s.notes) >= 3
    assert all(n.split(": ", 1)[1] for n in s.notes)
    if s.weather.temp_c is None:
        assert any(n.startswith("pue: by kind and weather") for n in s.notes)
        assert any(n.startswith("pv: no clouds") for n in s.notes)
        assert s.wind_kw == 0.0


def test_the_clock_offset_moves_sun_and_grid_together() -> None:
    half_day_s = 12 * 3600.0
    night = site_signals(site(), Feed(clock_offset_s=half_day_s), JUNE_NOON_S, load_kw=0.0)
    same = site_signals(site(), Feed(), JUNE_NOON_S + half_day_s, load_kw=0.0)
    assert night.pv_kw == same.pv_kw == 0.0
    assert night.grid_carbon.value == same.grid_carbon.value

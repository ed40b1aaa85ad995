from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from effort import effort
from hanse.energy import PLANTS, Contracts, Storage, wind
from hanse.errors import ConfigError
from hanse.model.check import _power
from hanse.model.fleet import Power
from hanse.plan.own_power_lp import Hours, OwnPowerModel, Terms
from hanse.plan.renewables import (
    DAYS_MORE,
    DIFFERENCE_MAX,
    DUST_KW,
    YEAR_2026,
    Case,
    OwnPower,
    Prices,
    Room,
    SiteHours,
    Sized,
    World,
    battery_plan,
    days_of,
    own_power_year,
    site_hours,
    size_own_power,
    spread,
    without_dust,
)
from hanse.signals import Series, StepAxis
from hanse.units import SECONDS_PER_HOUR
from plan.places import place

PRICES = Prices(
    pv_usd_per_kw=70.0, wind_usd_per_kw=120.0, battery_usd_per_kwh=25.0, battery_usd_per_kw=20.0
)
EIGHT = ("DE-LU", "GB", "US-NY-NYIS", "US-TEX-ERCO", "US-CAL-CISO", "JP-TK", "IN-WE", "KR")
MATCH_PV_PCT = {0: (38, 42), 4: (51, 59), 12: (71, 87)}
"""The facts' ranges: published of eight cities that are not named; the test gives a point of slack for other cities than those."""
MATCH_HALF_PCT = {0: (48, 59), 4: (61, 72), 12: (73, 81)}
"""Regression values, no facts: what this house gave for these eight zones with the turbine of `energy.wind` and a battery that loses a tenth, written down anew
when the turbine's curve changed (before: 46-58, 59-71, 71-80). Published are `PUBLISHED_HALF_PCT`: one point, three and five above at the low end."""
PUBLISHED_HALF_PCT = {0: (49, 60), 4: (64, 73), 12: (78, 83)}
"""The facts' ranges for half PV, half wind, of the same eight unnamed cities."""


@pytest.fixture(scope="module")
def eight() -> tuple[list[Case], tuple[SiteHours, ...]]:
    cases = [Case(site=place(zone, pue=1.0), it_kw=100.0, prices=PRICES) for zone in EIGHT]
    return cases, site_hours(cases)


@pytest.mark.parametrize(("pv_part", "ranges"), [(1.0, MATCH_PV_PCT), (0.5, MATCH_HALF_PCT)])
def test_own_power_of_the_years_volume_matches_the_hours_it_is_known_to_match(
    eight: tuple[list[Case], tuple[SiteHours, ...]],
    pv_part: float,
    ranges: dict[int, tuple[float, float]],
) -> None:
    """PV alone: the facts' ranges. Half wind: regression values, which only say that nothing moved; what is published of it is the next test's."""
    cases, hours = eight
    for battery_h, (low, high) in ranges.items():
        sizes = [
            OwnPower(
                pv_kw=pv_part * h.load_kw.sum() / h.pv_share.sum(),
                wind_kw=(1.0 - pv_part) * h.load_kw.sum() / h.wind_share.sum(),
                battery_kwh=100.0 * battery_h,
                battery_kw=25.0 * battery_h,
            )
            for h in hours
        ]
        for case, year in zip(cases, own_power_year(cases, sizes), strict=True):
            assert year.generated_kwh == pytest.approx(year.load_kwh, rel=1e-3)
            assert low - 1 <= 100 * year.own_share <= high + 1, (case.site.id, battery_h)


@pytest.mark.long
def test_without_losses_of_the_battery_and_at_a_higher_hub_half_wind_matches_what_is_published(
    eight: tuple[list[Case], tuple[SiteHours, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ends of the facts' ranges, within two points, by seven of these zones. Hub height and losses are not published and were chosen so that they are met
    (found: 48-60, 62-73, 79-84). Seoul's line is a regression value: its 75 % at twelve hours is three below anything published.
    """
    monkeypatch.setattr(wind, "HUB_M", 50.0)
    lossless = msgspec.structs.replace(
        PLANTS["micro"],
        storage=Storage(charge_efficiency=1.0, discharge_efficiency=1.0, self_discharge_per_h=0.0),
    )
    cases = [msgspec.structs.replace(case, plant=lossless) for case in eight[0]]
    hours = site_hours(cases)
    for battery_h, (low, high) in PUBLISHED_HALF_PCT.items():
        sizes = [
            OwnPower(
                pv_kw=0.5 * h.load_kw.sum() / h.pv_share.sum(),
                wind_kw=0.5 * h.load_kw.sum() / h.wind_share.sum(),
                battery_kwh=100.0 * battery_h,
                battery_kw=25.0 * battery_h,
            )
            for h in hours
        ]
        found = [100 * year.own_share for year in own_power_year(cases, sizes)]
        seoul = found.pop(EIGHT.index("KR"))
        assert [min(found), max(found)] == pytest.approx([low, high], abs=2.0)
        assert low - 3.0 < seoul < low + 2.0, "as it was found"


@pytest.fixture(scope="module")
def sized() -> tuple[Sized, ...]:
    zones = ("BR-SP", "AU-VIC", "GB")
    prices = msgspec.structs.replace(PRICES, carbon_usd_per_t=100.0)
    cases = [
        Case(
            site=place(z, price_usd_per_kwh=0.2),
            it_kw=100.0,
            prices=prices,
            room=Room(wind_kw_max=100),
        )
        for z in zones
    ]
    return size_own_power(cases)


def test_what_is_chosen_pays_in_the_year_that_counts(sized: tuple[Sized, ...]) -> None:
    for one in sized:
        assert one.own.pv_kw > 0 and one.year.usd < one.none.usd
        assert one.year.unserved_kwh == 0.0
        assert one.none.own_share == pytest.approx(0.0) and one.none.capital_usd == 0.0
        assert one.year.own_share > 0.5 and one.year.carbon_location_g < one.none.carbon_location_g


def test_a_program_that_misses_the_year_gets_more_days(sized: tuple[Sized, ...]) -> None:
    assert all(abs(one.difference) <= DIFFERENCE_MAX or one.days == DAYS_MORE for one in sized)
    assert any(one.days < DAYS_MORE for one in sized), "and one that does not is done"


def test_the_chosen_sizes_are_near_the_best_in_the_year(sized: tuple[Sized, ...]) -> None:
    prices = msgspec.structs.replace(PRICES, carbon_usd_per_t=100.0)
    one = sized[0]
    case = Case(site=place("BR-SP", price_usd_per_kwh=0.2), it_kw=100.0, prices=prices)
    for pv, battery in ((0.8, 1.0), (1.25, 1.0), (1.0, 0.7), (1.0, 1.4), (0.5, 0.5)):
        other = OwnPower(
            pv_kw=one.own.pv_kw * pv,
            battery_kwh=one.own.battery_kwh * battery,
            battery_kw=one.own.battery_kw * battery,
        )
        (year,) = own_power_year([case], [other])
        assert year.usd > one.year.usd * 0.99


def test_books_of_the_year_close(sized: tuple[Sized, ...]) -> None:
    for one in sized:
        for f in (one.year, one.program):
            assert f.own_share == pytest.approx(1 - (f.import_kwh + f.unserved_kwh) / f.load_kwh)
            used = f.self_used_share * f.generated_kwh
            assert used + f.export_kwh + f.curtailed_kwh == pytest.approx(f.generated_kwh, rel=1e-6)
            assert 0 <= f.own_share <= f.carbon_free_share + 0.01
            spent = f.capital_usd + f.import_usd + f.demand_usd + f.carbon_usd - f.export_usd
            assert f.usd == pytest.approx(spent)


def test_roof_and_land_are_limits() -> None:
    case = Case(
        site=place("ZA", price_usd_per_kwh=0.3),
        it_kw=100.0,
        prices=PRICES,
        room=Room(pv_kw_max=40.0, wind_kw_max=0.0, battery_kwh_max=10.0, c_rate_max=0.25),
    )
    (one,) = size_own_power([case])
    assert one.own.pv_kw == pytest.approx(40.0) and one.own.wind_kw == 0.0
    assert one.own.battery_kwh <= 10.0 and one.own.battery_kw <= 0.25 * one.own.battery_kwh + 1e-9


def test_nothing_is_built_where_it_does_not_pay() -> None:
    dear = Prices(
        pv_usd_per_kw=1e4, wind_usd_per_kw=1e4, battery_usd_per_kwh=1e4, battery_usd_per_kw=1e4
    )
    (one,) = size_own_power(
        [Case(site=place("ZA", price_usd_per_kwh=0.1), it_kw=50.0, prices=dear)]
    )
    assert one.own == OwnPower() and one.difference == pytest.approx(0.0, abs=0.001)


KILOWATTS = st.one_of(
    st.sampled_from([0.0, 5e-324, 3.1e-14, DUST_KW / 2, DUST_KW]), st.floats(0.0, 1e5)
)


@given(pv=KILOWATTS, wind=KILOWATTS, kwh=KILOWATTS, kw=KILOWATTS)
def test_whatever_a_solver_leaves_is_a_site_that_a_fleet_file_may_name(
    pv: float, wind: float, kwh: float, kw: float
) -> None:
    """3e-14 kWh of battery without a kW stopped a study after minutes."""
    left = OwnPower(pv_kw=pv, wind_kw=wind, battery_kwh=kwh, battery_kw=kw)
    own = without_dust(left)
    power = Power(
        grid_kw_max=1.0, pv_kw_peak=own.pv_kw, wind_kw_rated=own.wind_kw,
        battery_kwh=own.battery_kwh, battery_kw_max=own.battery_kw,
    )  # fmt: skip
    assert not list(_power("power", power))
    if min(pv, wind, kwh, kw) >= DUST_KW:
        assert own == left, "what is worth building stays as it is"


def _day(rng: np.random.Generator, terms: dict[str, Any], days: int = 2) -> tuple[Hours, Terms]:
    shape = (days, 24)
    sun = np.maximum(0.0, np.sin(np.pi * (np.arange(24) - 6) / 12)) * rng.uniform(
        0.3, 1.0, (days, 1)
    )
    hours = Hours(
        load_kw=rng.uniform(5.0, 15.0, shape),
        pv_share=sun,
        wind_share=rng.random(shape) * 0.5,
        price_usd_per_kwh=rng.uniform(0.05, 0.3, shape),
        carbon_g_per_kwh=rng.uniform(50.0, 500.0, shape),
        residual_g_per_kwh=np.full(shape, 400.0),
        carbon_free_share=np.zeros(shape),
        weight=np.array([300.0, 65.0])[:days],
        in_month=np.ones((1, days), bool),
    )
    usual = {
        "pv_usd_per_kw": 60.0,
        "wind_usd_per_kw": 150.0,
        "battery_usd_per_kwh": 15.0,
        "battery_usd_per_kw": 10.0,
        "pv_kw_max": 200.0,
        "wind_kw_max": 50.0,
        "battery_kwh_max": 500.0,
        "c_rate_max": 0.5,
        "charge_efficiency": 0.95,
        "discharge_efficiency": 0.95,
        "self_discharge_per_h": 0.0,
        "grid_kw_max": 100.0,
        "export_kw_max": 20.0,
        "export_usd_per_kwh": 0.02,
        "usd_per_kw_month": 5.0,
        "carbon_usd_per_g": 1e-4,
        "pv_g_per_kwh": 41.0,
        "wind_g_per_kwh": 11.0,
        "grid_charges": False,
        "cyclic_days": True,
    }
    return hours, Terms(**{**usual, **terms})


def _usd(hours: Hours, terms: Terms) -> float:
    model = OwnPowerModel(hours, terms)
    return model.solver.relaxed().objective


@settings(max_examples=effort(30))
@given(
    st.integers(0, 2**32),
    st.sampled_from(
        [
            "pv_usd_per_kw",
            "wind_usd_per_kw",
            "battery_usd_per_kwh",
            "battery_usd_per_kw",
            "usd_per_kw_month",
            "pv_g_per_kwh",
        ]
    ),
)
def test_own_power_never_gets_cheaper_by_a_higher_price(seed: int, name: str) -> None:
    rng = np.random.default_rng(seed)
    hours, terms = _day(rng, {})
    dearer = msgspec.structs.replace(terms, **{name: getattr(terms, name) * 1.5})
    assert _usd(hours, dearer) >= _usd(hours, terms) * (1 - 1e-7)
    more_room = msgspec.structs.replace(terms, pv_kw_max=400.0, grid_charges=True)
    assert _usd(hours, more_room) <= _usd(hours, terms) * (1 + 1e-7)


@settings(max_examples=effort(20))
@given(st.integers(0, 2**32))
def test_repriced_is_as_if_built_anew(seed: int) -> None:
    rng = np.random.default_rng(seed)
    hours, terms = _day(rng, {})
    model = OwnPowerModel(hours, terms)
    model.solve()
    other = msgspec.structs.replace(
        terms, pv_usd_per_kw=20.0, pv_kw_max=30.0, carbon_usd_per_g=1e-3
    )
    model.reprice(other)
    assert model.solver.relaxed().objective == pytest.approx(_usd(hours, other), rel=1e-7)


@settings(max_examples=effort(20))
@given(st.integers(0, 2**32), st.booleans())
def test_the_programs_battery_keeps_the_balances_rules(seed: int, grid_charges: bool) -> None:
    rng = np.random.default_rng(seed)
    hours, terms = _day(rng, {"grid_charges": grid_charges, "self_discharge_per_h": 0.001})
    model = OwnPowerModel(hours, terms)
    v = model.solve()
    pv, wind, kwh, kw = v[model.size]
    made = pv * hours.pv_share + wind * hours.wind_share
    came = made + v[model.discharge] + v[model.load] + v[model.short]
    went = hours.load_kw + v[model.charge] + v[model.export] + v[model.spare]
    assert np.allclose(came, went, atol=1e-6)
    held = v[model.held]
    before = np.roll(held, 1, axis=1) * (1 - terms.self_discharge_per_h)
    moved = (
        terms.charge_efficiency * v[model.charge] - v[model.discharge] / terms.discharge_efficiency
    )
    assert np.allclose(held, before + moved, atol=1e-6)
    assert held.max() <= kwh + 1e-6 and kw <= terms.c_rate_max * kwh + 1e-6
    assert max(v[model.charge].max(), v[model.discharge].max()) <= kw + 1e-6
    assert v[model.peak].max() >= v[model.load].max() - 1e-6
    if not grid_charges:
        assert (v[model.load] + v[model.discharge] <= hours.load_kw + 1e-6).all()


def test_a_case_by_hand_pv_alone_at_half_the_night_price() -> None:
    # One flat day of 10 kW; PV gives its rating for twelve hours; each kW costs 100 USD and saves 12 h x 365 x 0.1 USD.
    hours, terms = _day(np.random.default_rng(0), {}, days=1)
    shape = (1, 24)
    hours = msgspec.structs.replace(
        hours,
        load_kw=np.full(shape, 10.0),
        pv_share=(np.arange(24) < 12).astype(float)[None],
        wind_share=np.zeros(shape),
        price_usd_per_kwh=np.full(shape, 0.1),
        weight=np.array([365.0]),
    )
    plain = {"pv_usd_per_kw": 100.0, "carbon_usd_per_g": 0.0, "usd_per_kw_month": 0.0}
    plain |= {"battery_usd_per_kwh": 1e3, "export_usd_per_kwh": 0.0}
    terms = msgspec.structs.replace(terms, **plain)
    model = OwnPowerModel(hours, terms)
    found = model.solver.relaxed()
    assert found.values[model.size] == pytest.approx([10.0, 0.0, 0.0, 0.0], abs=1e-6)
    assert found.objective == pytest.approx(1000.0 + 12 * 365 * 10 * 0.1)


def test_typical_days_keep_the_years_sums(eight: tuple[list[Case], tuple[SiteHours, ...]]) -> None:
    hours = eight[1][0]
    days = days_of(hours, 12)
    for name in ("load_kw", "pv_share", "wind_share", "price_usd_per_kwh", "carbon_g_per_kwh"):
        stands_for = (getattr(days, name) * days.weight[:, None]).sum()
        assert stands_for == pytest.approx(getattr(hours, name).sum())
    assert days.in_month.shape == (12, 12) and days.in_month.any(axis=1).all()


@given(st.integers(0, 2**32))
def test_a_plan_keeps_its_energy_when_it_is_spread_over_steps(seed: int) -> None:
    rng = np.random.default_rng(seed)
    plan, room = (
        rng.random(5) * rng.integers(0, 2, 5),
        rng.random((5, 12)) * rng.integers(0, 2, (5, 12)),
    )
    steps = spread(plan, room).reshape(5, 12)
    assert np.allclose(steps.mean(axis=1), plan) and (steps >= 0).all()
    fits = plan <= room.mean(axis=1)
    assert (steps[fits] <= room[fits] + 1e-12).all(), (
        "no cloud's minute buys what the hour can spare"
    )


def test_a_plan_follows_a_price_that_the_surplus_rule_does_not_see() -> None:
    axis = StepAxis(start_s=YEAR_2026.start_s, count=31 * 288)
    night = np.where(np.arange(8760) % 24 < 8, 0.05, 0.4)
    price = Series(
        start_s=axis.start_s,
        step_s=SECONDS_PER_HOUR,
        values=night,
        quantity="price_usd_per_kwh",
        unit="USD/kWh",
        signal="price",
        zone="made",
        source="made",
        licence="none",
    )
    site = place("DE-LU")
    world = World(axis=axis, series={site.id: {"price_usd_per_kwh": price}})
    plant = msgspec.structs.replace(
        PLANTS["micro"], storage=Storage(start_share=0.0), contracts=Contracts(export_kw_max=0.0)
    )
    own = [OwnPower(battery_kwh=800.0, battery_kw=200.0)]
    bills = {}
    for rule in ("surplus", "plan"):
        case = Case(site=site, it_kw=50.0, prices=PRICES, plant=plant, rule=rule)  # type: ignore[arg-type]
        hours = site_hours([case], world)
        (bills[rule],) = own_power_year([case], own, world, hours)
    charge, discharge = battery_plan(case, hours[0], own[0])
    assert charge[night[: len(charge)] > 0.3].max() < 1e-6 and discharge.sum() > 0
    assert bills["plan"].import_usd < 0.7 * bills["surplus"].import_usd


def test_what_cannot_be_sized_is_refused() -> None:
    case = Case(site=place("ZA"), it_kw=1.0, prices=PRICES)
    with pytest.raises(ConfigError, match="cases"):
        size_own_power([case, case])
    with pytest.raises(ConfigError, match="axis"):
        size_own_power([case], World(axis=StepAxis(start_s=YEAR_2026.start_s, count=288)))

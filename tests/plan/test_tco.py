"""What a design costs: sums, directions, scale, and single items by hand."""

from __future__ import annotations

from datetime import date

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from effort import effort
from hanse.errors import ConfigError
from hanse.plan.assumptions import read
from hanse.plan.study_file import PolicyEntry
from hanse.plan.tco import FLEET_ITEMS, GROUPS, costs
from plan.designs import SIZE, changed, design, nothing, study, values

FIGURES = read().figures
PRICED = sorted(id for id, f in FIGURES.items() if f.priced)
DIRECTED = sorted(id for id, f in FIGURES.items() if f.cost in ("up", "down"))
ITEMS = sorted(name for names in GROUPS.values() for name in names)
CONSTANT = {
    "build_exponent": 1.0,
    "staff_exponent": 1.0,
    "wan_exponent": 1.0,
    "audited_sites_exponent": 1.0,
    "small_user_price_factor": 1.0,
    "remote_fte_per_site": 0.0,
    "truck_rolls_per_site_year": 0.0,
    "operator_actions_per_site_month": 0.0,
    "software_usd_per_site_year": 0.0,
    "staffed_above_kw": 1.0,
}
"""Constant returns, and nothing that costs the same at any size."""


CHIP_PRICES = ("_chip_usd", "_cloud_usd_per_h", "_reserved_usd_per_h")
DUTY = PolicyEntry(
    id="duty", kind="efficiency_duty", from_=date(2026, 1, 1), value=1.2, source="made up"
)
"""Without it nothing is paid for better plants."""


def mixed_fleet(**changes: object):
    return design(("tower", "room", "hall", "hyperscale"), **changes)  # type: ignore[arg-type]


@given(seed=st.integers(0, 1000))
@settings(max_examples=effort(20))
def test_items_sum_to_the_total(seed: int) -> None:
    found = costs(mixed_fleet(), read().draws(seed, 4), study())
    assert sorted(found.items) == ITEMS
    total = found.annual()
    by_name = sum(found.annual(name) for name in found.items)
    by_group = sum(found.by_group().values())
    by_site = found.by_site().sum(axis=0) + found.annual(*sorted(FLEET_ITEMS))
    assert total == pytest.approx(by_name, rel=1e-12)
    assert total == pytest.approx(by_group, rel=1e-12)
    assert total == pytest.approx(by_site, rel=1e-12)
    assert found.npv() == pytest.approx(sum(found.npv(name) for name in found.items), rel=1e-9)


def test_every_item_but_income_is_a_cost() -> None:
    found = costs(mixed_fleet(), read().draws(1, 20), study())
    for name, array in found.items.items():
        if name in ("export_revenue", "feed_in_tariff", "investment_credit"):
            assert (array <= 0.0).all(), name
        else:
            assert (array >= 0.0).all(), name


@pytest.mark.parametrize("id", PRICED)
def test_every_price_moves_the_cost_the_way_it_says(id: str) -> None:
    """A dearer thing makes a design dearer, where the design has it at all."""
    figure = FIGURES[id]
    chip = next((id.removesuffix(s) for s in CHIP_PRICES if id.endswith(s)), "h100-sxm")
    fleet, plan = mixed_fleet(chip=chip), study(policies=(DUTY,))
    if f"{chip}_cloud_usd_per_h" not in FIGURES:
        fleet = msgspec.structs.replace(fleet, rented_chip_h={})
    low = costs(fleet, changed(values(), {id: figure.low}), plan).npv()
    raised = figure.high if figure.high > figure.low else figure.mid + 10.0
    high = costs(fleet, changed(values(), {id: raised}), plan).npv()
    assert figure.cost == "up"
    assert high > low


@given(
    id=st.sampled_from(DIRECTED),
    shares=st.tuples(st.floats(0.0, 1.0), st.floats(0.0, 1.0)),
    seed=st.integers(0, 50),
)
@settings(max_examples=effort(200))
def test_cost_is_monotone_in_every_directed_figure(
    id: str, shares: tuple[float, float], seed: int
) -> None:
    figure, drawn, plan = FIGURES[id], read().draws(seed, 3), study(policies=(DUTY,))
    low, high = figure.quantiles(np.array(sorted(shares)))
    below = costs(mixed_fleet(), changed(drawn, {id: low}), plan).annual()
    above = costs(mixed_fleet(), changed(drawn, {id: high}), plan).annual()
    slack = 1e-9 * np.abs(below)
    if figure.cost == "up":
        assert (above >= below - slack).all()
    else:
        assert (above <= below + slack).all()


EVERY_TIER = ("b200-sxm", "l4", "rtx-4090", "jetson-agx-thor", "xeon-6980p", "x86-thread")


@pytest.mark.parametrize("id", sorted(i for i in FIGURES if not i.endswith(CHIP_PRICES)))
def test_a_figure_is_part_of_the_cost_if_and_only_if_it_says_so(id: str) -> None:
    figure, tenth = FIGURES[id], msgspec.structs.replace(SIZE["hall"], it_kw=400.0)
    fleet = design(("tower", "room", tenth, "hall", "hyperscale"))
    growing = np.array([1.0, 1.5, 2.0]).reshape(1, -1, 1)
    owned = ("pv_kw", "wind_kw", "battery_kwh", "battery_kw", "it_kw")
    fleet = msgspec.structs.replace(
        fleet,
        chips=dict.fromkeys(EVERY_TIER, fleet.it_kw / 10.0 * growing),
        **{name: getattr(fleet, name) * growing for name in owned},
    )
    high = figure.high if figure.high > figure.low else figure.mid + 1.0
    found = [
        costs(fleet, changed(values(), {id: end}), study(policies=(DUTY,))).npv()[0]
        for end in (figure.low, high)
    ]
    assert (found[0] == found[1]) == (figure.cost == "none")


def test_nothing_costs_only_the_central_team() -> None:
    found = costs(nothing(), values(), study())
    staff = FIGURES["central_fte"].mid * FIGURES["staff_usd_per_fte_year"].mid
    assert found.annual() == pytest.approx(staff)
    assert found.annual("central_staff") == pytest.approx(staff)
    assert np.isnan(found.usd_per_mtoken()).all()


@given(seed=st.integers(0, 100), kind=st.sampled_from(["room", "hall", "hyperscale"]))
@settings(max_examples=effort(20))
def test_at_constant_returns_a_site_of_twice_the_size_costs_twice(seed: int, kind: str) -> None:
    drawn = changed(read().draws(seed, 3), CONSTANT)
    if kind == "room":
        drawn = changed(drawn, {"remote_hands_h_per_site_month": 0.0})
    large = msgspec.structs.replace(SIZE[kind], it_kw=2.0 * SIZE[kind].it_kw)
    one = costs(design((kind,)), drawn, study()).by_site()
    two = costs(design((large,)), drawn, study()).by_site()
    assert two == pytest.approx(2.0 * one, rel=1e-9)


@given(seed=st.integers(0, 100))
@settings(max_examples=effort(20))
def test_without_returns_to_scale_many_small_halls_cost_as_one_large(seed: int) -> None:
    drawn = changed(read().draws(seed, 3), CONSTANT)
    tenth = msgspec.structs.replace(SIZE["hall"], it_kw=100.0, module_kw=10.0)
    alone = study(sites_lost=0)
    ten = design((tenth,) * 10)
    here = tuple(msgspec.structs.replace(p, city="Berlin", country="DE") for p in ten.places)
    ten = msgspec.structs.replace(ten, places=here)
    one = design(("hall",))
    one = msgspec.structs.replace(
        one, places=(msgspec.structs.replace(one.places[0], city="Berlin"),)
    )
    many = costs(ten, drawn, alone).by_site().sum(axis=0)
    assert many == pytest.approx(costs(one, drawn, alone).by_site().sum(axis=0), rel=1e-9)


def test_returns_to_scale_make_small_halls_dearer() -> None:
    unit = {}
    for exponent in (0.8, 0.95, 1.0):
        for kind in ("hall", "hyperscale"):
            found = costs(design((kind,)), values(build_exponent=exponent), study())
            unit[kind, exponent] = found.npv("plant", "building")[0] / SIZE[kind].it_kw
    assert unit["hall", 0.8] > unit["hall", 0.95] > unit["hall", 1.0]
    assert unit["hyperscale", 0.8] < unit["hyperscale", 0.95] < unit["hyperscale", 1.0]


def test_servers_cost_chips_with_what_stands_around_them() -> None:
    drawn = values(
        h100_sxm_chip_usd=30_000.0,
        datacenter_server_share=0.3,
        network_share=0.1,
        install_share=0.02,
        chip_price_decline_per_year=0.1,
        server_life_years=4.0,
        discount_rate=0.0,
    )
    chips = {"h100-sxm": np.array([8.0, 16.0, 16.0]).reshape(1, -1, 1)}
    found = costs(design(("hall",), chips=chips), drawn, study())
    node = 8.0 * 30_000.0 * 1.3 * 1.12
    assert found.annual("servers")[:, 0] == pytest.approx(
        [node / 4.0, node * 1.9 / 4.0, node * 1.9 / 4.0]
    )


def test_a_hall_costs_its_watts_at_the_price_of_its_size_and_market() -> None:
    drawn = values(
        build_usd_per_w=11.0,
        build_reference_kw=20_000.0,
        build_exponent=0.9,
        build_market_factor=1.0,
        build_drift_per_year=0.0,
        module_premium_share=0.05,
        mep_share=0.65,
        mep_life_years=10.0,
        shell_life_years=25.0,
        discount_rate=0.08,
    )
    found = costs(design(("hall",)), drawn, study())
    market = 11.60 / (160.40 / 14)  # Frankfurt over the mean of the 14 markets
    capex = 11.0 * 1e6 * (1000.0 / 20_000.0) ** -0.1 * market * 1.05
    assert found.annual("plant")[0, 0] == pytest.approx(capex * 0.65 * 0.149029, rel=1e-5)
    assert found.annual("building")[0, 0] == pytest.approx(capex * 0.35 * 0.093679, rel=1e-5)


def test_a_room_needs_no_shell_and_pays_rent() -> None:
    found = costs(design(("room",)), values(room_rent_usd_per_kw_month=25.0), study())
    assert found.annual("building") == pytest.approx(0.0)
    assert found.annual("land") == pytest.approx(0.0)
    assert found.annual("rent") == pytest.approx(100.0 * 25.0 * 12.0)
    tower = costs(design(("tower",)), values(tower_lease_usd_per_month=800.0), study())
    assert tower.annual("rent") == pytest.approx(800.0 * 12.0)
    hall = costs(design(("hall",)), values(), study())
    assert hall.annual("rent") == pytest.approx(0.0)
    assert (hall.annual("land") > 0.0).all()


def test_only_chips_that_need_liquid_pay_for_it() -> None:
    dear = values(liquid_premium_share=0.10)
    plain = values(liquid_premium_share=0.0)
    cool = design(("hyperscale",), chip="b200-sxm")
    ratio = costs(cool, dear, study()).npv("plant") / costs(cool, plain, study()).npv("plant")
    assert ratio == pytest.approx(1.10)
    air = design(("hyperscale",), chip="h100-sxm")
    assert costs(air, dear, study()).npv() == pytest.approx(costs(air, plain, study()).npv())


def test_the_bill_does_not_change_with_the_demand_charge_at_the_load_factor_of_the_tariff() -> None:
    hours = 8760.0 * 0.6
    flat = design(("hyperscale",))
    flat = msgspec.structs.replace(flat, peak_kw=flat.import_kwh / hours)
    none = costs(flat, values(demand_charge_share=0.0, tariff_load_factor=0.6), study())
    half = costs(flat, values(demand_charge_share=0.5, tariff_load_factor=0.6), study())
    assert half.annual("energy") == pytest.approx(none.annual("energy"))
    bill = flat.import_kwh[0, 0, 0] * 0.1
    assert none.annual("energy")[0, 0] == pytest.approx(bill)
    peaky = msgspec.structs.replace(flat, peak_kw=2.0 * flat.peak_kw)
    dearer = costs(peaky, values(demand_charge_share=0.5, tariff_load_factor=0.6), study())
    assert dearer.annual("energy")[0, 0] == pytest.approx(1.5 * bill)


def test_small_sites_pay_a_small_users_price() -> None:
    drawn = values(small_user_price_factor=1.4, demand_charge_share=0.0)
    per_kwh = {}
    for kind in ("tower", "room", "hall", "hyperscale"):
        one = design((kind,))
        found = costs(one, drawn, study()).annual("energy")[0, 0]
        per_kwh[kind] = found / one.import_kwh[0, 0, 0]
    assert per_kwh["tower"] == pytest.approx(0.14)
    assert per_kwh["hyperscale"] == pytest.approx(0.10)
    assert per_kwh["tower"] > per_kwh["room"] > per_kwh["hall"] > per_kwh["hyperscale"]


def test_people_stand_where_sites_are_large_and_drive_where_they_are_small() -> None:
    found = costs(
        design(("tower", "room", "hall", "hyperscale")),
        values(staff_fte_at_1mw=5.0, staff_exponent=0.6, staff_usd_per_fte_year=100_000.0),
        study(),
    )
    staff, trips = found.items["staff"][:, 0, 0], found.items["truck_rolls"][:, 0, 0]
    assert staff[2] == pytest.approx(500_000.0)
    assert staff[3] == pytest.approx(500_000.0 * 50.0**0.6)
    assert staff[0] < staff[1] < 50_000.0
    assert (trips[:2] > 0.0).all()
    assert trips[2:] == pytest.approx(0.0)
    assert found.items["remote_hands"][:, 0, 0] == pytest.approx([0.0, 165.0 * 12.0, 0.0, 0.0])


def test_the_eea_is_one_jurisdiction() -> None:
    drawn = values(
        compliance_usd_per_jurisdiction_year=50_000.0, transfer_tool_usd_per_year=10_000.0
    )
    four = design(("room",) * 4, rented_chip_h={})  # DE, US, IN, FR
    found = costs(four, drawn, study())
    assert found.annual("compliance") == pytest.approx(3 * 50_000.0 + 2 * 10_000.0)
    unaudited = msgspec.structs.replace(four, personal=False)
    assert costs(unaudited, drawn, study()).annual("compliance", "audits") == pytest.approx(0.0)
    later = four.it_kw.copy()
    later[1:, 0] = 0.0
    grown = costs(msgspec.structs.replace(four, it_kw=later), drawn, study())
    assert grown.annual("compliance")[:, 0] == pytest.approx([50_000.0, 170_000.0, 170_000.0])


def test_outages_are_mostly_taken_over_where_sites_hold_reserve() -> None:
    drawn = values(outage_usd_per_kwh=20.0, outage_taken_over_share=0.8)
    one, two = design(("hall",)), design(("hall", "hall"))
    alone = costs(one, drawn, study()).annual("outages")[0, 0]
    assert alone == pytest.approx((1.0 - 0.99982) * 1000.0 * 8760.0 * 0.6 * 20.0)
    assert costs(two, drawn, study()).annual("outages")[0, 0] == pytest.approx(2 * 0.2 * alone)
    bare = costs(two, drawn, study(sites_lost=0)).annual("outages")[0, 0]
    assert bare == pytest.approx(2 * alone)


def test_rented_chips_are_priced_and_emit() -> None:
    drawn = values(
        cloud_reserved_share=0.75,
        cloud_extra_share=0.2,
        cloud_price_decline_per_year=0.1,
        cloud_power_share=0.5,
        cloud_pue=1.2,
        cloud_grid_g_per_kwh=300.0,
        carbon_usd_per_t=100.0,
    )
    drawn = changed(drawn, {"h100-sxm_cloud_usd_per_h": 4.0, "h100-sxm_reserved_usd_per_h": 2.0})
    hours = {"h100-sxm": np.full((1, 3, 1), 1000.0)}
    bare = msgspec.structs.replace(nothing(), rented_chip_h=hours, tokens=np.full((1, 3, 1), 1e9))
    found = costs(bare, drawn, study())
    first = 1000.0 * 2.5 * 1.2
    assert found.annual("cloud_rent")[:, 0] == pytest.approx([first, 0.9 * first, 0.81 * first])
    kwh = 1000.0 * 0.7 * 1.45 * 0.5 * 1.2
    assert found.use.facility_kwh == pytest.approx(kwh)
    assert found.use.location_t == pytest.approx(kwh * 300e-6)
    emitted = kwh * 300e-6 + found.use.embodied_t[0, 0]
    assert found.annual("cloud_carbon")[0, 0] == pytest.approx(emitted * 100.0)
    assert found.per_mtoken()["location_g"] == pytest.approx(kwh * 0.3)
    assert found.annual("compliance")[0, 0] == pytest.approx(60_000.0)


def test_emissions_by_different_methods_stay_apart() -> None:
    one = design(("hall",), rented_chip_h={}, marginal_t=np.full((1, 3, 1), np.nan))
    found = costs(one, values(carbon_usd_per_t=100.0), study())
    shown = found.per_mtoken()
    assert np.isnan(shown["marginal_g"]).all()
    assert not np.isnan(found.npv()).any()
    assert shown["market_g"] > shown["location_g"]
    tonnes = one.location_t + one.own_t
    assert found.annual("operational_carbon")[0, 0] == pytest.approx(100.0 * tonnes[0, 0, 0])
    dirtier = msgspec.structs.replace(one, market_t=2.0 * one.market_t)
    assert costs(dirtier, values(carbon_usd_per_t=100.0), study()).npv() == pytest.approx(
        found.npv()
    )


def test_embodied_carbon_is_spread_over_lives() -> None:
    drawn = values(
        datacenter_embodied_kg=300.0,
        server_life_years=5.0,
        building_embodied_kg_per_kw=1000.0,
        shell_life_years=25.0,
        battery_embodied_kg_per_kwh=100.0,
        battery_life_years=10.0,
    )
    found = costs(design(("hall",), rented_chip_h={}), drawn, study()).use.embodied_t
    assert found == pytest.approx(1000.0 * 300e-3 / 5 + 1000.0 / 25 + 400.0 * 100e-3 / 10)


def test_present_value_annuity_and_levelised_cost_agree() -> None:
    found = costs(design(("hall",)), values(discount_rate=0.1), study())
    yearly = found.annual()[:, 0]
    worth = sum(y / 1.1**k for k, y in enumerate(yearly, 1))
    assert found.npv()[0] == pytest.approx(worth)
    assert found.annualised()[0] == pytest.approx(worth * 0.1 * 1.1**3 / (1.1**3 - 1.0))
    tokens = sum(3.65e11 / 1e6 / 1.1**k for k in (1, 2, 3))
    assert found.usd_per_mtoken()[0] == pytest.approx(worth / tokens)


def test_draws_of_the_design_and_of_the_figures_meet() -> None:
    drawn = read().draws(5, 7)
    found = costs(mixed_fleet(draws=7), drawn, study())
    assert found.npv().shape == (7,)
    third = {id: v[2:3] for id, v in drawn.items()}
    alone = costs(mixed_fleet(draws=1), third, study())
    assert found.npv()[2] == pytest.approx(alone.npv()[0], rel=1e-12)


def test_a_chip_without_a_price_is_asked_for() -> None:
    with pytest.raises(ConfigError, match=r"groq-lpu-v1_chip_usd.*add groq-lpu-v1_chip_usd"):
        costs(design(("hall",), chip="groq-lpu-v1"), values(), study())


def test_single_items_by_hand() -> None:
    drawn = values(
        water_usd_per_m3=2.0,
        wan_port_usd_per_month=1500.0,
        wan_exponent=0.5,
        wan_ports_per_site=2.0,
        micro_transit_usd_per_gb=0.004,
        software_usd_per_site_year=3000.0,
        software_usd_per_chip_year=10.0,
        maintenance_share_per_year=0.03,
        insurance_share_per_year=0.002,
        lost_work_usd_per_mtoken=5.0,
        cloud_egress_usd_per_gb=0.07,
        operator_actions_per_site_month=2.0,
        operator_action_h=0.5,
        staff_usd_per_fte_year=88_000.0,
        discount_rate=0.0,
        mep_life_years=10.0,
        shell_life_years=20.0,
    )
    one = design(("hall",))
    found = costs(one, drawn, study())

    def first(name: str) -> float:
        return float(found.annual(name)[0, 0])

    assert first("water") == pytest.approx(one.it_kwh[0, 0, 0] * 0.3 / 1000.0 * 2.0)
    assert first("wan_ports") == pytest.approx(2 * 1500.0 * 10**0.5 * 12)
    assert first("wan_transit") == pytest.approx(1000.0 * 1000.0 * 0.004)
    assert first("software") == pytest.approx(3000.0 + 1000.0 * 10.0)
    assert first("operations") == pytest.approx(24 * 0.5 * 88_000.0 / 1760.0)
    assert first("lost_work") == pytest.approx(365.0 * 5.0)
    assert first("cloud_egress") == pytest.approx(1e4 * 0.07)
    worth = first("plant") * 10.0 + first("building") * 20.0
    assert first("maintenance") == pytest.approx(0.03 * worth)
    lives = {"servers": 5.0, "pv": 30.0, "wind": 25.0}
    worth += sum(first(name) * life for name, life in lives.items())
    euros = 1.12 * 1.25
    worth += euros * (400.0 * 250.0 + 200.0 * 287.0)
    assert first("insurance") == pytest.approx(0.002 * worth)


def test_own_power_costs_what_its_kind_of_site_pays() -> None:
    drawn = values(eur_usd=1.1, eur_price_level=1.2, discount_rate=0.0, pv_life_years=30.0)
    for kind, euros in (("hall", 904.0), ("hyperscale", 595.0)):
        one = design((kind,))
        found = costs(one, drawn, study())
        price = one.pv_kw[0, 0, 0] * euros * 1.1 * 1.2
        assert found.annual("pv")[0, 0] == pytest.approx(price / 30.0)

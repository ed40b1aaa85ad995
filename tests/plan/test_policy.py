"""Rules with dates: shares of years, places, and their effect on cost by hand."""

from __future__ import annotations

from datetime import date
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hanse.plan.policy import cure, cured, holds_at, localised, share_of_year
from hanse.plan.study_file import PolicyEntry
from hanse.plan.tco import costs, policy_effects
from plan.designs import changed, design, study, values


def rule(kind: str, **changes: Any) -> PolicyEntry:
    given_fields = {"id": kind.replace("_", "-"), "kind": kind, "from_": date(2026, 1, 1)}
    return PolicyEntry(**(given_fields | {"source": "made up for a test"} | changes))


def test_a_year_is_counted_by_its_days() -> None:
    half = rule("carbon_tax", from_=date(2026, 7, 2), until=date(2027, 4, 1))
    assert share_of_year(half, date(2026, 1, 1), 3) == pytest.approx([183 / 365, 90 / 365, 0.0])
    assert share_of_year(half, date(2026, 7, 2), 2) == pytest.approx([273 / 365, 0.0])
    leap = rule("carbon_tax", from_=date(2028, 2, 29), until=date(2028, 3, 1))
    assert share_of_year(leap, date(2028, 1, 1), 1) == pytest.approx([1 / 366])
    assert share_of_year(leap, date(2028, 2, 29), 2) == pytest.approx([1 / 366, 0.0])


@given(
    first=st.dates(date(2020, 1, 1), date(2035, 1, 1)),
    middle=st.integers(0, 4000),
    last=st.integers(0, 4000),
    start=st.dates(date(2020, 1, 1), date(2030, 1, 1)),
)
def test_a_rule_in_two_parts_holds_as_long_as_the_whole(
    first: date, middle: int, last: int, start: date
) -> None:
    split = date.fromordinal(first.toordinal() + middle)
    end = date.fromordinal(split.toordinal() + last)
    parts = [
        share_of_year(rule("carbon_tax", from_=a, until=b), start, 12)
        for a, b in ((first, split), (split, end), (first, end))
    ]
    assert parts[0] + parts[1] == pytest.approx(parts[2])
    assert ((parts[2] >= 0.0) & (parts[2] <= 1.0)).all()


def test_a_rule_holds_in_its_countries_or_its_bloc() -> None:
    assert holds_at(rule("carbon_tax"), "BR")
    assert holds_at(rule("carbon_tax", countries=("BR",)), "BR")
    assert not holds_at(rule("carbon_tax", countries=("BR",)), "DE")
    assert holds_at(rule("carbon_tax", bloc="EU"), "DE")
    assert not holds_at(rule("carbon_tax", bloc="EU"), "NO")
    assert holds_at(rule("carbon_tax", bloc="EEA"), "NO")


def test_a_carbon_tax_is_paid_on_imports_by_location_for_the_days_it_holds() -> None:
    tax = rule("carbon_tax", value=50.0, countries=("DE",), from_=date(2027, 7, 2))
    fleet = design(("hall", "hall"))  # DE, US
    found = costs(fleet, values(), study(policies=(tax,))).items["carbon_tax"]
    tonnes = fleet.location_t[0, 0, 0]
    assert found[0, :, 0] == pytest.approx([0.0, tonnes * 50.0 * 183 / 365, tonnes * 50.0])
    assert found[1] == pytest.approx(0.0)


def test_a_credit_is_paid_on_what_is_bought_while_it_holds() -> None:
    credit = rule(
        "investment_credit",
        value=0.3,
        on=("servers",),
        from_=date(2027, 1, 1),
        until=date(2027, 7, 2),
    )
    chips = {"h100-sxm": np.array([8.0, 16.0, 24.0]).reshape(1, -1, 1)}
    drawn = values(
        h100_sxm_chip_usd=1000.0,
        datacenter_server_share=0.0,
        network_share=0.0,
        install_share=0.0,
        chip_price_decline_per_year=0.0,
        server_life_years=5.0,
        discount_rate=0.0,
    )
    fleet = design(("hall",), chips=chips)
    found = costs(fleet, drawn, study(policies=(credit,)))
    # Only the eight chips of 2027 get it, for 182 of 365 days, spread over five years of life.
    paid = 8.0 * 1000.0 * 0.3 * 182 / 365 / 5.0
    assert found.annual("investment_credit")[:, 0] == pytest.approx([0.0, -paid, -paid])
    assert found.annual("insurance") == pytest.approx(
        costs(fleet, drawn, study()).annual("insurance")
    )


def test_a_credit_is_for_own_generation_unless_it_says_more() -> None:
    credit = rule("investment_credit", value=0.5)
    found = costs(design(("hall",)), values(), study(policies=(credit,)))
    own = found.annual("pv", "wind", "battery")
    assert found.annual("investment_credit") == pytest.approx(-0.5 * own)
    everything = rule(
        "investment_credit", value=1.0, on=("pv", "wind", "battery", "plant", "servers")
    )
    free = costs(design(("hall",)), values(), study(policies=(everything, credit)))
    capital = free.annual("servers", "plant", "building", "pv", "wind", "battery")
    assert free.annual("investment_credit") == pytest.approx(-capital)


def test_a_tariff_pays_the_difference_to_the_market_and_never_takes() -> None:
    fleet = design(("hall",))
    exported = fleet.export_kwh[0, 0, 0]
    drawn = values(export_price_share=0.4, electricity_drift_per_year=0.0)
    good = rule("feed_in_tariff", value=0.10)
    found = costs(fleet, drawn, study(policies=(good,)))
    assert found.annual("export_revenue") == pytest.approx(-exported * 0.04)
    assert found.annual("feed_in_tariff") == pytest.approx(-exported * 0.06)
    poor = rule("feed_in_tariff", value=0.01)
    assert costs(fleet, drawn, study(policies=(poor,))).annual("feed_in_tariff") == pytest.approx(
        0.0
    )


def test_localisation_binds_from_the_year_it_begins() -> None:
    law = rule("localisation", laws=("health",), countries=("IN",), from_=date(2027, 12, 31))
    plan = study(policies=(law,))
    assert localised(plan.policies, "health", "IN", plan).tolist() == [False, True, True]
    assert not localised(plan.policies, "health", "DE", plan).any()
    assert not localised(plan.policies, "personal", "IN", plan).any()


def test_a_duty_counts_above_its_threshold_and_its_pue() -> None:
    duty = rule("efficiency_duty", value=1.3, above_kw=500.0)
    fleet = design(("room", "hall"))  # both at PUE 1.4
    needed = cure((duty,), fleet, study())
    assert needed.breach[:, 0, 0].tolist() == [False, True]
    it_kwh = fleet.it_kwh[1, 0, 0]
    assert needed.saved_kwh[1, 0, 0] == pytest.approx(0.1 * it_kwh)
    lawful = rule("efficiency_duty", value=1.5)
    assert not cure((lawful,), fleet, study()).breach.any()


def test_a_cured_site_is_lawful_and_imports_less() -> None:
    duty = rule("efficiency_duty", value=1.3, above_kw=500.0)
    fleet = design(("room", "hall"))
    mended = cured(fleet, cure((duty,), fleet, study()))
    pue = mended.facility_kwh / mended.it_kwh
    assert pue[:, 0, 0] == pytest.approx([1.4, 1.3])
    saved = fleet.import_kwh - mended.import_kwh
    assert saved == pytest.approx(fleet.facility_kwh - mended.facility_kwh)
    assert mended.location_t / mended.import_kwh == pytest.approx(
        fleet.location_t / fleet.import_kwh
    )
    assert (
        not cure((duty,), mended, study()).breach.any()
        or np.max(cure((duty,), mended, study()).pue_excess) < 1e-9
    )


def test_a_cure_costs_by_kw_and_tenth_of_pue() -> None:
    duty = rule("efficiency_duty", value=1.2)
    drawn = values(efficiency_upgrade_usd_per_kw=250.0, mep_life_years=10.0, discount_rate=0.08)
    found = costs(design(("hall",)), drawn, study(policies=(duty,)))
    assert found.annual("efficiency_cure") == pytest.approx(1000.0 * 2 * 250.0 * 0.149029, rel=1e-5)
    dear = changed(drawn, {"efficiency_upgrade_usd_per_kw": 500.0})
    assert costs(design(("hall",)), dear, study(policies=(duty,))).npv() > found.npv()
    assert found.duty.breach.all()


@given(saved=st.floats(0.0, 1.0), limit=st.floats(1.0, 1.4))
def test_a_cure_never_makes_flows_negative(saved: float, limit: float) -> None:
    fleet = design(("hall",))
    fleet = msgspec.structs.replace(fleet, import_kwh=fleet.import_kwh * saved)
    mended = cured(fleet, cure((rule("efficiency_duty", value=limit),), fleet, study()))
    for name in ("facility_kwh", "import_kwh", "peak_kw", "location_t"):
        assert (getattr(mended, name) >= 0.0).all()
        assert (getattr(mended, name) <= getattr(fleet, name) * (1 + 1e-12)).all()


def test_the_effect_of_each_policy_is_the_cost_with_all_less_the_cost_without_it() -> None:
    tax = rule("carbon_tax", value=50.0)
    credit = rule("investment_credit", value=0.3)
    plan = study(policies=(tax, credit))
    fleet = design(("hall", "room"))
    found = policy_effects(fleet, values(), plan)
    assert list(found) == ["carbon-tax", "investment-credit"]
    with_all = costs(fleet, values(), plan)
    assert found["carbon-tax"] == pytest.approx(with_all.npv("carbon_tax"))
    assert found["investment-credit"] == pytest.approx(with_all.npv("investment_credit"))
    assert found["investment-credit"][0] < 0.0 < found["carbon-tax"][0]
    none = costs(fleet, values(), plan, policies=())
    both = sum(found.values())
    assert with_all.npv() - none.npv() == pytest.approx(both, rel=1e-9)


def test_rules_of_one_kind_that_follow_each_other_both_count() -> None:
    spring = rule("feed_in_tariff", id="a", value=0.10, until=date(2026, 7, 2))
    autumn = rule("feed_in_tariff", id="b", value=0.24, from_=date(2026, 7, 2))
    always = rule("feed_in_tariff", id="c", value=0.14)
    fleet = design(("hall",))
    drawn = values(export_price_share=0.4, electricity_drift_per_year=0.0)
    found = costs(fleet, drawn, study(policies=(spring, autumn, always)))
    mean = (0.10 * 182 + 0.20 * 183) / 365
    assert found.annual("feed_in_tariff")[0, 0] == pytest.approx(-fleet.export_kwh[0, 0, 0] * mean)


def test_a_stricter_duty_takes_over_on_its_day() -> None:
    now = rule("efficiency_duty", id="a", value=1.3)
    later = rule("efficiency_duty", id="b", value=1.2, from_=date(2027, 7, 2), countries=("DE",))
    fleet = design(("hall", "hall"))  # DE, US
    needed = cure((now, later), fleet, study())
    it_kwh = fleet.it_kwh[0, 0, 0]
    tenths = (1.0, (182 * 1 + 183 * 2) / 365, 2.0)
    assert needed.saved_kwh[0, :, 0] == pytest.approx([0.1 * t * it_kwh for t in tenths])
    assert needed.saved_kwh[1, :, 0] == pytest.approx(0.1 * it_kwh)
    assert needed.pue_excess[0, :, 0] == pytest.approx([0.1, 0.2, 0.2])


def test_credits_at_once_pay_no_more_than_the_price() -> None:
    first = rule("investment_credit", id="a", value=0.7, until=date(2026, 7, 2))
    second = rule("investment_credit", id="b", value=0.7, until=date(2026, 7, 2))
    found = costs(design(("hall",)), values(), study(policies=(first, second)))
    own = found.annual("pv", "wind", "battery")
    assert found.annual("investment_credit")[0] == pytest.approx(-own[0] * 182 / 365)

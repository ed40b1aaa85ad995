"""Own power as it pays: with credits, tariffs and taxes of a study's rules."""

from __future__ import annotations

from datetime import date

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from hanse.plan.answer import DesignAnswer
from hanse.plan.assumptions import of_study
from hanse.plan.demand import demand_of
from hanse.plan.design import Design
from hanse.plan.doubt import most_likely, outcome
from hanse.plan.drawn import draw
from hanse.plan.figures import Facts, design_answer
from hanse.plan.meter import Meter
from hanse.plan.operate import expected_meter
from hanse.plan.own_power import _delivered_usd, _sold_usd, with_own_power
from hanse.plan.physics import Own
from hanse.plan.study_file import PolicyEntry, Study
from hanse.plan.tco import costs
from plan import designs, hand


def rule(kind: str, value: float, **changes: object) -> PolicyEntry:
    given = {"id": kind.replace("_", "-"), "kind": kind, "from_": date(2020, 1, 1), "value": value, "source": "made up"}  # fmt: skip
    return PolicyEntry(**(given | changes))  # type: ignore[arg-type]


def powered(*policies: PolicyEntry) -> tuple[Study, Design]:
    study = hand.study(policies=policies)
    return study, with_own_power(
        hand.design(study, demand_of(study), (2,)), study, demand_of(study)
    )


def usd(study: Study, design: Design) -> float:
    demand = demand_of(study)
    x = most_likely(of_study(study), 1)
    return float(outcome(design, study, demand, x, expected_meter(design, study, demand)).costs.npv()[0])  # fmt: skip


@pytest.fixture(scope="module")
def bare() -> Design:
    return powered()[1]


def test_a_credit_buys_more_of_what_it_is_paid_on(bare: Design) -> None:
    _, credited = powered(rule("investment_credit", 0.8, on=("pv", "battery")))
    assert credited.own[0].battery_kwh > 1.2 * bare.own[0].battery_kwh + 1.0
    _, sun = powered(rule("investment_credit", 0.6, on=("pv",)))
    assert sun.own[0].pv_kw >= bare.own[0].pv_kw


def test_a_rule_that_ended_before_anything_is_bought_changes_nothing(bare: Design) -> None:
    _, late = powered(rule("investment_credit", 0.6, until=date(2026, 1, 1)))
    assert late.own == bare.own
    _, elsewhere = powered(rule("investment_credit", 0.6, countries=("US",)))
    assert elsewhere.own == bare.own


def test_a_tariff_below_the_market_changes_nothing_and_a_good_one_builds_more(bare: Design) -> None:
    _, low = powered(rule("feed_in_tariff", 0.001))
    assert low.own == bare.own
    _, good = powered(rule("feed_in_tariff", 0.3))
    assert good.own[0].pv_kw > 1.05 * bare.own[0].pv_kw


@pytest.mark.parametrize(("kind", "value"), [("investment_credit", 0.5), ("feed_in_tariff", 0.25)])
def test_what_is_sized_with_a_rule_costs_less_under_it_than_what_was_sized_without(
    bare: Design, kind: str, value: float
) -> None:
    study, design = powered(rule(kind, value))
    assert usd(study, design) <= usd(study, bare) * 1.0005


def with_sun(battery_kwh: float) -> tuple[Meter, DesignAnswer]:
    """A hall with so much sun that its battery is filled on most days."""
    study = hand.study(years=1, draws=10)
    demand = demand_of(study)
    own = Own(pv_kw=300.0, battery_kwh=battery_kwh, battery_kw=100.0)
    design = replace(hand.design(study, demand, (2,)), own=(own,))
    meter = expected_meter(design, study, demand)
    facts = Facts(
        study=study, demand=demand, meter=meter, design=design, drawn=draw(design, study, meter, 0, study.draws),
        x=of_study(study).mid(), held=(), shifting=None,
    )  # fmt: skip
    return meter, design_answer(facts, win_share=1.0, win_share_carbon=1.0)


@pytest.mark.parametrize("battery_kwh", [0.0, 50.0])
def test_own_generation_hour_by_hour_is_what_need_not_be_bought(battery_kwh: float) -> None:
    meter, answer = with_sun(battery_kwh)
    facility = float(meter.lines["facility_kwh"].value.sum())
    bought = float(meter.lines["import_kwh"].value.sum())
    assert answer.hourly_match_share is not None and answer.own_power_used_share is not None
    # The battery begins half full, of nobody knows what.
    spared = 1.0 - bought / facility
    assert answer.hourly_match_share <= spared + 1e-9
    assert answer.hourly_match_share == pytest.approx(
        spared, abs=1e-9 + 0.5 * battery_kwh / facility
    )
    taken = answer.own_power_used_share * float(meter.made_kwh.sum()) / facility
    if battery_kwh:
        assert answer.hourly_match_share < taken - 1e-3, "charging loses"
    else:
        assert answer.hourly_match_share == pytest.approx(taken)


@given(st.floats(-0.05, 0.1), st.sampled_from(["room", "hall"]))
def test_own_power_is_sized_at_the_prices_of_the_full_bill_in_the_mean_of_its_years(
    drift: float, size: str
) -> None:
    study, x = designs.study(), designs.values(electricity_drift_per_year=drift)
    one = designs.design((size,))
    flat = replace(one, peak_kw=np.zeros(one.peak_kw.shape))
    bill = costs(flat, x, study).items
    energy = 1.0 - x["demand_charge_share"][0]
    bought = (bill["energy"] / flat.import_kwh).mean()
    assert _delivered_usd(study, x, one.places[0]) * energy == pytest.approx(bought)
    exported = replace(flat, export_kwh=np.ones(flat.import_kwh.shape))
    sold = -costs(exported, x, study).items["export_revenue"].mean()
    assert _sold_usd(study, x, one.places[0]) == pytest.approx(sold)

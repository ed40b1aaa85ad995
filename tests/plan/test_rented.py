"""Renting a part: the search decides by cost, and what it rents is paid, stands by, and is counted when a site is gone."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from effort import effort
from hanse.plan.assumptions import of_study
from hanse.plan.candidates import site_plan
from hanse.plan.curves import resited
from hanse.plan.demand import demand_of
from hanse.plan.design import Design
from hanse.plan.designs import ground_of
from hanse.plan.doubt import apart, most_likely, outcome, wins
from hanse.plan.operate import expected_meter
from hanse.plan.quick import QuickOptions, quick_study
from hanse.plan.rented import PARTS, rent_usd_per_kw, standby_kw, with_rented
from hanse.plan.sited import sited
from hanse.plan.siting_problem import Siting
from hanse.plan.solve import solve
from hanse.plan.study_file import DESIGNS, Study, StudyCity
from plan import hand
from plan.random_sitings import EXACT, by_trying, problem

MIX = next(d for d in DESIGNS if d.id == "mix")


def cheapest_by_hand(p: Siting, usd_per_unit: float) -> float:
    """One row of demand, every set of sizes of the sites, every step of rent; the cheapest sites are filled first."""
    need = float(p.demand[0, 0])
    best = np.inf
    sizes = [range(-1, len(p.size_ids))] * len(p.site_ids)
    for plan in itertools.product(*sizes):
        built = [(j, k) for j, k in enumerate(plan) if k >= 0]
        fixed = sum(p.fixed_usd[j, k] for j, k in built)
        for part in (0.0, *PARTS):
            rented = part * need
            usd, left = fixed + rented * usd_per_unit, need
            # Rented room is free once it is paid.
            left -= min(left, rented)
            for j, k in sorted(built, key=lambda b: p.unit_usd[0, b[0]]):
                done = min(left, p.capacity[k])
                usd += done * p.unit_usd[0, j]
                left -= done
            if left <= 1e-9:
                best = min(best, usd)
    return best


@settings(max_examples=effort(40))
@given(st.integers(0, 2**32), st.floats(0.2, 4.0))
def test_the_search_rents_where_that_is_cheaper_and_as_much(seed: int, usd: float) -> None:
    rng = np.random.default_rng(seed)
    p = problem(rng, n=1, m=2, k=2, unserved_usd=1e4)
    p = replace(p, refusal=np.zeros((1, 2), int), demand=np.array([[rng.uniform(0.5, 6.0)]]))
    answer = site_plan(with_rented(p, np.array([usd]), np.array([True])), EXACT)
    assert answer.usd == pytest.approx(cheapest_by_hand(p, usd), rel=1e-5)
    assert answer.unserved.max() < 1e-6


@settings(max_examples=effort(20))
@given(st.integers(0, 2**32))
def test_rows_that_may_not_be_rented_never_are_and_the_plan_is_the_best(seed: int) -> None:
    rng = np.random.default_rng(seed)
    p = problem(rng, n=3, m=2, k=1, unserved_usd=20.0)
    ok = rng.random(3) < 0.6
    usd = rng.uniform(0.3, 3.0, 3)
    less = with_rented(p, usd, ok)
    answer = site_plan(less, EXACT)
    if not ok.any():
        assert less is p
        return
    assert not answer.shares[:, ~ok, 2].any()
    assert answer.usd + answer.penalty_usd <= site_plan(p, EXACT).usd + site_plan(p, EXACT).penalty_usd + 20.0 * p.demand.sum()  # fmt: skip
    few = replace(less, allowed=less.sizes_allowed & _few(less))
    assert objective(site_plan(few, EXACT)) == pytest.approx(by_trying(few), rel=1e-4)


def _few(p: Siting) -> np.ndarray:
    """Three sizes of rent, so that every plan can be tried."""
    kept = np.ones(p.sizes_allowed.shape, bool)
    rent = np.flatnonzero(p.sizes_allowed[-1])
    kept[-1] = False
    kept[-1, rent[[0, len(rent) // 2, -1]]] = True
    return kept


def objective(answer) -> float:  # type: ignore[no-untyped-def]
    return answer.usd + answer.penalty_usd


def test_a_rented_row_needs_no_room_after_a_failure(rng: np.random.Generator) -> None:
    p = problem(rng, n=4, m=3, k=2, survive_share=np.ones(4), unserved_usd=1e4, uncovered_usd=1e4)
    p = replace(p, refusal=np.zeros((4, 3), int))
    cheap = site_plan(with_rented(p, np.full(4, 1e-3), np.ones(4, bool)), EXACT)
    assert [s.id for s in cheap.sites] == ["rented"] and not cheap.violations
    dear = site_plan(with_rented(p, np.full(4, 1e3), np.ones(4, bool)), EXACT)
    assert "rented" not in [s.id for s in dear.sites] and not dear.violations
    # Between, what is paid for serves: it is own room that stands by.
    prices = np.linspace(0.2, 3.0, 15)
    found = [with_rented(p, np.full(4, usd), np.ones(4, bool)) for usd in prices]
    answers = [site_plan(f, EXACT) for f in found]
    assert all(not a.violations for a in answers)
    assert [objective(a) for a in answers] == sorted(objective(a) for a in answers)
    held = [standby_kw(f, a, 3) for f, a in zip(found, answers, strict=True)]
    assert not any(held)


def most(study: Study, design: Design) -> float:
    demand = demand_of(study)
    x = most_likely(of_study(study), 1)
    made = outcome(design, study, demand, x, expected_meter(design, study, demand))
    return float(made.usd_per_mtoken[0])


LONG = pytest.mark.long


@pytest.mark.parametrize(
    "tokens_per_day", [pytest.param(2e8, marks=LONG), 2e9, pytest.param(2e10, marks=LONG)]
)
def test_the_mix_is_no_dearer_than_own_sites_or_rent_alone(tokens_per_day: float) -> None:
    study = quick_study(
        QuickOptions(cities=("frankfurt", "lyon", "milan"), tokens_per_day=tokens_per_day)
    )
    points = resited(study).by_design
    cost = {d: p.usd_per_mtoken for d, p in points.items()}
    # 3 % of gap, and straight lines for what is built in whole modules and replicas.
    assert all(cost["mix"] <= 1.05 * cost[d] for d in ("rent", "micro", "edge-region")), cost


def test_the_price_of_rent_is_what_a_year_of_it_costs() -> None:
    study = replace(hand.study(years=1), draws=1)
    demand = demand_of(study)
    ground = ground_of(study, demand)
    usd = rent_usd_per_kw(study, demand, ground.cloud, ground.fits)
    rent = sited(study, next(d for d in DESIGNS if d.id == "rent"), True)
    x = most_likely(of_study(study), 1)
    paid = outcome(rent, study, demand, x, expected_meter(rent, study, demand)).costs
    total = float(paid.annual("cloud_rent", "cloud_egress", "cloud_carbon")[0, 0])
    need = np.array([ground.need_kw[demand.workload == w].sum() for w in range(2)])
    # `need_kw` has headroom for whole replicas and the spread of arrivals, which the rented ones take too.
    assert float(need @ usd) == pytest.approx(total, rel=0.15)


def test_standby_is_paid_and_serves_when_a_site_is_gone() -> None:
    from hanse.plan.figures import _routed

    study = hand.study()
    demand = demand_of(study)
    design = hand.design(study, demand, (0,), rent=True)
    peak = demand.tokens_per_s * demand.day.max(axis=1)
    chat = float(peak[demand.workload == 0].sum())
    ready = replace(design, standby=np.array([0.5 * chat, 0.0]))
    assert most(study, ready) > most(study, design)
    rows = np.flatnonzero(demand.workload == 0)
    served, asked = _routed(ready, demand, rows, np.zeros(1), {0}, 0.5 * chat)
    assert served == pytest.approx(0.5 * asked)
    forbidden = replace(ready, cloud_may=np.zeros(len(demand.rows), bool))
    assert _routed(forbidden, demand, rows, np.zeros(1), {0}, 0.5 * chat)[0] == 0.0


@pytest.mark.long
def test_a_mix_that_comes_to_renting_lets_renting_win(monkeypatch: pytest.MonkeyPatch) -> None:
    hand.without_curves(monkeypatch)
    study = quick_study(QuickOptions(cities=("lyon", "milan"), tokens_per_day=1e8, draws=20))
    answer = solve(study, quick=True)
    mix, rent = answer.design("mix"), answer.design("rent")
    assert mix.sites == () and mix.rented_share == 1.0
    assert mix.usd_per_mtoken == rent.usd_per_mtoken
    assert rent.win_share > 0.0 == mix.win_share and answer.designs[0].id == "rent"
    assert any("same as renting" in note for note in mix.notes)
    assert answer.swings, "the tornado compares with a design that differs"
    assert sum(d.win_share for d in answer.designs) == pytest.approx(1.0)


@given(st.lists(st.lists(st.floats(0.1, 9.0), min_size=4, max_size=4), min_size=2, max_size=2))
def test_only_what_is_the_very_same_is_counted_once(scores: list[list[float]]) -> None:
    study = hand.study(cities=(StudyCity(city="Lyon"),))
    demand = demand_of(study)
    plain = hand.design(study, demand, (0,))
    mix = replace(plain, spec=MIX)
    one, other = (np.array(s) for s in scores)
    shares = wins(apart([mix, plain], [one, one.copy()]))
    assert shares.tolist() == [0.0, 1.0]
    assert apart([mix, plain], [one, other + 10.0])[0] is not None
    np.testing.assert_array_equal(apart([mix, plain], [one, other + 10.0])[0], one)

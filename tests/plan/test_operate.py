from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from effort import effort
from hanse.plan.assumptions import of_study
from hanse.plan.capacity import fit_of, slots_needed
from hanse.plan.demand import demand_of
from hanse.plan.doubt import corners, most_likely, outcome, scorer, tornado, wins
from hanse.plan.latency import ttft_quantiles_ms
from hanse.plan.operate import (
    SECONDS_PER_YEAR,
    _replicas,
    capacity_tokens_s,
    expected_meter,
    expected_path,
    growth_paths,
    operate,
)
from hanse.serving.open_loop import weighted_quantile
from plan import hand

STUDY = hand.study()
DEMAND = demand_of(STUDY)
FIGURES = of_study(STUDY)
X = FIGURES.draws(1, 50)


@pytest.mark.parametrize("rent", [False, True])
@pytest.mark.parametrize("size", ["room", "hall", "hyperscale"])
def test_what_is_asked_is_delivered_or_lost(size, rent):
    design = hand.design(STUDY, DEMAND, (0, 1), size, rent=rent)
    inventory = operate(design, STUDY, DEMAND, X, expected_meter(design, STUDY, DEMAND))
    asked = growth_paths(STUDY, X) * SECONDS_PER_YEAR
    asked *= np.array([2e10, 1e10])[:, None, None] / 86_400
    assert inventory.tokens + inventory.tokens_lost == pytest.approx(asked)
    assert (inventory.tokens >= 0).all() and (inventory.tokens_lost >= -1e-6).all()
    if rent:
        assert inventory.tokens_lost.max() <= asked.max() * 1e-9
    for chip, held in inventory.chips.items():
        assert (inventory.chips_used[chip] <= held + 1e-9).all()
    assert (np.diff(inventory.it_kw, axis=1) >= 0).all(), "plant is never taken down"
    whole = inventory.it_kw / design.places[0].size.module_kw
    assert whole == pytest.approx(np.round(whole))
    assert (inventory.it_kwh <= inventory.it_kw * 8760 * 1.0001).all()
    assert (inventory.facility_kwh >= inventory.it_kwh).all()


@given(st.floats(0.0, 1e7), st.sampled_from(["chat", "batch"]))
def test_capacity_is_the_peak_that_replicas_were_counted_for(peak, name):
    w = [work.id for work in STUDY.workloads].index(name)
    fit = fit_of(STUDY.workloads[w], "l4")
    count = _replicas(fit, STUDY, w, np.array(peak))
    assert float(capacity_tokens_s(fit, STUDY, w, count)) == pytest.approx(peak, rel=1e-6, abs=1e-6)


@given(st.floats(0.0, 1e5), st.floats(0.0, 1e5))
def test_one_pool_needs_fewer_slots_than_two(a, b):
    assert slots_needed(a + b) <= slots_needed(a) + slots_needed(b) + 1e-6


@given(st.floats(-0.5, 3.0), st.floats(0.0, 3.0))
def test_demand_that_grows_as_planned_is_expected_rightly(growth, lead):
    path = ((1.0 + growth) ** np.arange(5.0))[:, None]
    assert expected_path(path, growth, lead) == pytest.approx(path)


def test_a_longer_lead_misses_demand_that_outgrows_the_plan():
    path = (2.0 ** np.arange(5.0))[:, None]
    near, far = expected_path(path, 0.4, 0.5), expected_path(path, 0.4, 2.0)
    assert (far[2:] < near[2:]).all() and (near[1:] < path[1:]).all()


def test_wins_are_shares_and_common_draws_make_equals_equal():
    design = hand.design(STUDY, DEMAND, (0,))
    meters = {design.spec.id: expected_meter(design, STUDY, DEMAND)}
    score = scorer(STUDY, DEMAND, meters)
    a, b = score(design, X), score(design, X)
    assert (a == b).all()
    assert wins([a, b]) == pytest.approx([0.5, 0.5])
    assert tornado(design, design, FIGURES, score) == ()


def test_corners_move_one_figure_at_a_time():
    ids = ["carbon_usd_per_t", "discount_rate"]
    x = corners(FIGURES, ids)
    base = most_likely(FIGURES, 4)
    moved = {id for id in x for k in range(4) if x[id][k] != base[id][k]}
    assert moved == set(ids)
    low, high = FIGURES.figures[ids[1]].low, FIGURES.figures[ids[1]].high
    assert x[ids[1]].tolist()[2:] == [low, high]


def test_dearer_carbon_never_makes_a_design_cheaper():
    design = hand.design(STUDY, DEMAND, (0, 2))
    meter = expected_meter(design, STUDY, DEMAND)
    x = dict(X)
    cheap = outcome(design, STUDY, DEMAND, x, meter).usd_per_mtoken
    x["carbon_usd_per_t"] = x["carbon_usd_per_t"] + 50.0
    assert (outcome(design, STUDY, DEMAND, x, meter).usd_per_mtoken > cheap).all()


@settings(max_examples=effort(50))
@given(
    st.lists(st.tuples(st.floats(0, 100), st.floats(0.01, 5)), min_size=1, max_size=20),
    st.floats(0.0, 1.0),
)
def test_weighted_quantiles_leave_their_share_below(pairs, share):
    values, weight = (np.array(v) for v in zip(*pairs, strict=True))
    found = weighted_quantile(values, weight, share)
    assert weight[values <= found].sum() >= share * weight.sum() * (1 - 1e-9)
    assert weight[values < found].sum() <= share * weight.sum() * (1 + 1e-9)


def test_far_users_wait_longer():
    near = hand.design(STUDY, DEMAND, (0, 1, 2))
    far = hand.design(STUDY, DEMAND, (0,))
    shares = (0.5, 0.95)
    assert (
        ttft_quantiles_ms(near, STUDY, DEMAND, shares)[0]
        < ttft_quantiles_ms(far, STUDY, DEMAND, shares)[0]
    )

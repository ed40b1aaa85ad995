"""Moves of replicas: what they say a placement costs, what they keep in mind while moving, how good they are."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from dispatch.place_problems import least_usd, random_problem
from effort import effort
from hanse.dispatch import place_cost as pc
from hanse.dispatch.place import check, solve
from hanse.dispatch.place_local import Local
from hanse.dispatch.place_model import PlaceModel
from hanse.dispatch.place_moves import descend
from hanse.dispatch.place_rows import Rows
from hanse.dispatch.place_search import lose
from hanse.dispatch.place_values import PlaceProblem, with_what_runs
from hanse.dispatch.place_warm import _tiny, warm
from hanse.milp import Floats, Limits, Solver

SEEDS = st.integers(0, 100_000)
MOVES_ONLY = Limits(gap=1e-6, nodes_max=0)


def local_of(seed: int) -> Local:
    rng = np.random.default_rng(seed)
    p = random_problem(rng, sites=5, services=3, offers=14, rows=12)
    return Local(PlaceModel(Rows(with_what_runs(p))))


def wanted(local: Local, seed: int) -> Floats:
    most = local.model.rows.offer_max
    return np.asarray(np.floor(np.random.default_rng(seed).random(len(most)) * (most + 1.0)))


def exact_usd(local: Local, n: Floats) -> float:
    model = local.model
    solver = Solver(model.model)
    solver.set_columns(model.n, n, n)
    while True:
        found = solver.search(Limits(gap=0.0))
        if not lose(model, solver, found.values):
            return found.objective


def anew(local: Local, n: Floats) -> float:
    local.seen[:] = 0
    state = local.state(n)
    state.touched[:] = 1
    return float(pc.cost(local.fixed, state))


@settings(max_examples=effort(60), deadline=None)
@given(SEEDS)
def test_a_placement_costs_at_most_what_moves_say(seed: int) -> None:
    local = local_of(seed)
    n = local.fitted(wanted(local, seed))
    said, exact = anew(local, n), exact_usd(local, n)
    assert said >= exact * (1.0 - 1e-9) - 1e-7


@settings(max_examples=effort(60), deadline=None)
@given(SEEDS)
def test_what_is_kept_in_mind_while_moving_is_what_is_so(seed: int) -> None:
    local = local_of(seed)
    local.fixed.offer_at[:, pc.CANDIDATE] = 1
    n = local.fitted(wanted(local, seed))
    moved, usd = local.descend(n, 5_000, opens=True)
    assert anew(local, moved) == pytest.approx(usd, rel=1e-9, abs=1e-9)
    assert usd <= anew(local, n) + 1e-9
    r = local.model.rows
    assert (moved <= r.offer_max).all() and (moved >= np.where(r.offer_fixed, moved, 0.0)).all()
    assert (local.fitted(moved) == moved).all(), "it fits"


@settings(max_examples=effort(40), deadline=None)
@given(SEEDS)
def test_what_was_routed_before_costs_the_same_to_the_last_bit(seed: int) -> None:
    local, fresh = local_of(seed), local_of(seed)
    for one in (local, fresh):
        one.fixed.offer_at[:, pc.CANDIDATE] = 1
    ways = [
        local.descend(local.fitted(wanted(local, seed + k)), 2_000, opens=True) for k in range(3)
    ]
    assert len(np.unique(local.seen)) > 1, "something is kept"
    for k, (n, usd) in enumerate(ways):
        fresh.seen[:] = 0
        alone, alone_usd = fresh.descend(fresh.fitted(wanted(fresh, seed + k)), 2_000, opens=True)
        assert (alone == n).all() and alone_usd == usd


@settings(max_examples=effort(40), deadline=None)
@given(SEEDS)
def test_replicas_are_told_apart_however_they_came_to_stand(seed: int) -> None:
    local = local_of(seed)
    local.fixed.offer_at[:, pc.CANDIDATE] = 1
    state = local.state(local.fitted(wanted(local, seed)))
    state.spent[1] = 500
    descend(local.fixed, state, True)
    found = np.empty(len(state.n))
    found[local.offers] = state.n
    assert (local.state(found).mark == state.mark).all()


@settings(max_examples=effort(40), deadline=None)
@given(SEEDS)
def test_without_a_tree_an_answer_may_be_applied_and_tells_its_gap(seed: int) -> None:
    p = random_problem(np.random.default_rng(seed), sites=4, services=2, offers=8, rows=8)
    answer = solve(p, MOVES_ONLY)
    assert check(p, answer) == [] and answer.nodes == 0
    proven = answer.cost.usd - answer.bound_usd
    assert proven >= -1e-6 * max(1.0, answer.cost.usd)
    assert answer.gap == pytest.approx(max(0.0, proven) / max(answer.cost.usd, 1e-12), abs=1e-6)
    assert solve(p, MOVES_ONLY) == answer


def test_moves_alone_find_the_best_of_most_small_problems() -> None:
    over = []
    for seed in range(60):
        p = random_problem(np.random.default_rng(seed))
        least = least_usd(p)
        over.append((solve(p, MOVES_ONLY).cost.usd - least) / max(abs(least), 1e-9))
    worst = np.array(over)
    assert (worst >= -1e-4).all()
    assert (worst < 1e-4).mean() >= 0.9, worst.round(4)
    assert worst.mean() < 0.01


def queue() -> PlaceProblem:
    """Four sites of one chip. x may go to a and b, y to b and c, w to c and d, z to a alone; y, w and z run, so that x has no room, and
    d, where w would make way for y and y for x, is the dearest.
    """
    one, sites, services = _tiny(), "abcd", "xywz"
    may = {"x": "ab", "y": "bc", "w": "cd", "z": "a"}
    runs = {"y": "b", "w": "c", "z": "a"}
    return replace(
        one,
        sites=tuple(
            replace(one.sites[0], id=s, price_usd_per_kwh=0.1 + 0.05 * i)
            for i, s in enumerate(sites)
        ),
        pools=tuple(
            replace(one.pools[0], id="p", site=i, chips=1, chips_count=1) for i in range(len(sites))
        ),
        services=tuple(replace(one.services[0], id=q) for q in services),
        offers=tuple(
            replace(
                one.offers[0], service=q, pool=sites.index(s), replicas=int(runs.get(name) == s)
            )
            for q, name in enumerate(services)
            for s in may[name]
        ),
        demand=tuple(
            replace(one.demand[0], service=q, law=q, unserved_usd_per_request=5.0)
            for q in range(len(services))
        ),
        laws=tuple(tuple(sites.index(s) for s in may[name]) for name in services),
        rtt_ms=((0.0,) * len(sites),) * len(sites),
        usd_per_gb=((0.0,) * len(sites),) * len(sites),
        gateways=(True,) * len(sites),
        failures=(),
    )


def test_replicas_make_way_for_each_other() -> None:
    """Each move alone costs more than it brings."""
    p = queue()
    local = Local(PlaceModel(Rows(with_what_runs(p))))
    local.fixed.offer_at[:, pc.CANDIDATE] = 1
    n, _ = local.descend(local.model.rows.offer_now, 10_000, opens=True)
    where = {
        (p.services[o.service].id, p.pools[o.pool].site)
        for o, k in zip(p.offers, n, strict=True)
        if k
    }
    assert where == {("x", 1), ("y", 2), ("w", 3), ("z", 0)}


def test_what_is_placed_to_compile_has_an_answer() -> None:
    warm()
    answer = solve(_tiny(), MOVES_ONLY)
    assert [one.replicas for one in answer.replicas] == [1] and check(_tiny(), answer) == []

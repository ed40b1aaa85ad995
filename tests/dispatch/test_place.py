"""Placement: against every placement there is, and what must hold of any answer."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dispatch.place_problems import least_usd, random_problem
from hanse.dispatch.place import PlaceAnswer, PlaceProblem, check, solve
from hanse.milp import Limits

SEEDS = st.integers(0, 100_000)
EXACT = Limits(gap=1e-6, nodes_max=10_000)


def problem(seed: int, **sizes: int) -> PlaceProblem:
    return random_problem(np.random.default_rng(seed), **sizes)


@settings(max_examples=60, deadline=None)
@given(SEEDS)
def test_an_answer_costs_as_little_as_the_best_of_all_placements(seed: int) -> None:
    p = problem(seed)
    answer = solve(p, EXACT)
    assert answer.cost.usd == pytest.approx(least_usd(p), rel=1e-4, abs=1e-6)
    assert answer.bound_usd <= answer.cost.usd * (1.0 + 1e-9)


@settings(max_examples=60, deadline=None)
@given(SEEDS)
def test_an_answer_may_be_applied(seed: int) -> None:
    p = problem(seed, sites=5, services=3, offers=14, rows=12)
    assert check(p, solve(p)) == []


@settings(max_examples=40, deadline=None)
@given(SEEDS)
def test_demand_is_served_where_law_allows_or_named(seed: int) -> None:
    p = problem(seed, sites=4, services=2, offers=8, rows=8)
    answer = solve(p)
    named = {(v.kind, v.what.split(" ")[0]) for v in answer.violated}
    for i, d in enumerate(p.demand):
        mine = [f for f in answer.flows if f.demand == i]
        assert all(p.pools[p.offers[f.offer].pool].site in p.laws[d.law] for f in mine)
        if d.requests_per_s_high > 0.0 and sum(f.share for f in mine) < 1.0 - 1e-6:
            name = p.services[d.service].id
            assert ("unserved", name) in named or ("unlawful", name) in named


@settings(max_examples=25, deadline=None)
@given(SEEDS)
def test_the_same_problem_has_the_same_bytes(seed: int) -> None:
    p = problem(seed, sites=4, services=2, offers=8, rows=8)
    again = msgspec.msgpack.decode(msgspec.msgpack.encode(p), type=PlaceProblem)
    assert again == p and again.digest() == p.digest()
    first = msgspec.msgpack.encode(solve(p))
    assert msgspec.msgpack.encode(solve(again)) == first
    assert msgspec.msgpack.encode(msgspec.msgpack.decode(first, type=PlaceAnswer)) == first


@settings(max_examples=25, deadline=None)
@given(SEEDS, st.floats(1.0, 5.0))
def test_dearer_power_costs_no_less(seed: int, times: float) -> None:
    p = problem(seed)
    dear = msgspec.structs.replace(
        p,
        sites=tuple(
            msgspec.structs.replace(s, price_usd_per_kwh=times * s.price_usd_per_kwh)
            for s in p.sites
        ),
    )
    assert solve(dear, EXACT).cost.usd >= solve(p, EXACT).cost.usd * (1.0 - 1e-4) - 1e-6

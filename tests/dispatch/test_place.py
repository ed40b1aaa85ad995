"""Placement: against every placement there is, and what must hold of any answer."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from dispatch.place_problems import least_usd, random_problem
from effort import effort
from hanse.dispatch import place_rows
from hanse.dispatch.place import FailureSet, PlaceAnswer, PlaceProblem, check, explain, solve
from hanse.dispatch.place_model import PlaceModel
from hanse.dispatch.place_rows import Rows
from hanse.dispatch.place_search import search, tightened
from hanse.dispatch.place_solved import solved
from hanse.dispatch.place_values import with_what_runs
from hanse.dispatch.place_warm import _tiny
from hanse.errors import ConfigError
from hanse.milp import Limits, Solver

SEEDS = st.integers(0, 100_000)
EXACT = Limits(gap=1e-6, nodes_max=10_000)


def problem(seed: int, **sizes: int) -> PlaceProblem:
    return random_problem(np.random.default_rng(seed), **sizes)


@settings(max_examples=effort(60), deadline=None)
@given(SEEDS)
def test_an_answer_costs_as_little_as_the_best_of_all_placements(seed: int) -> None:
    p = problem(seed)
    answer, least = solve(p, EXACT), least_usd(p)
    assert answer.cost.usd == pytest.approx(least, rel=1e-4, abs=1e-6)
    assert answer.bound_usd <= least * (1.0 + 1e-6) + 1e-9


@settings(max_examples=effort(60), deadline=None)
@given(SEEDS)
def test_an_answer_may_be_applied(seed: int) -> None:
    p = problem(seed, sites=5, services=3, offers=14, rows=12)
    assert check(p, solve(p)) == []


@settings(max_examples=effort(40), deadline=None)
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


@settings(max_examples=effort(25), deadline=None)
@given(SEEDS)
def test_the_same_problem_has_the_same_bytes(seed: int) -> None:
    p = problem(seed, sites=4, services=2, offers=8, rows=8)
    again = msgspec.msgpack.decode(msgspec.msgpack.encode(p), type=PlaceProblem)
    assert again == p and again.digest() == p.digest()
    first = msgspec.msgpack.encode(solve(p))
    assert msgspec.msgpack.encode(solve(again)) == first
    assert msgspec.msgpack.encode(msgspec.msgpack.decode(first, type=PlaceAnswer)) == first


@settings(max_examples=effort(25), deadline=None)
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


@settings(max_examples=effort(25), deadline=None)
@given(SEEDS)
def test_what_runs_stays_where_nothing_is_proven_better_and_never_costs_less_than_the_bound(
    seed: int,
) -> None:
    p = problem(seed, sites=5, services=2, offers=10, rows=10)
    searched = solved(with_what_runs(p), Limits())
    answer = solve(p)
    # The bound is of all placements, what runs is one of them.
    assert answer.cost.usd >= searched.bound_usd * (1.0 - 1e-6) - 1e-9
    assert answer.cost.usd <= searched.cost.usd + 0.01 * answer.cost.own_usd + 1e-9
    again = solve(running(p, answer))
    assert not any(one.starts or one.stops for one in again.replicas), (
        "a settled fleet is left alone"
    )


def running(p: PlaceProblem, answer: PlaceAnswer) -> PlaceProblem:
    """The same problem with an answer carried out."""
    counts = {one.offer: one.replicas for one in answer.replicas}
    on = {one.pool: one.on for one in answer.pools}
    offers = tuple(
        msgspec.structs.replace(o, replicas=counts.get(i, 0)) for i, o in enumerate(p.offers)
    )
    pools = tuple(msgspec.structs.replace(k, nodes_on=on[i]) for i, k in enumerate(p.pools))
    return msgspec.structs.replace(p, offers=offers, pools=pools)


@settings(max_examples=effort(60), deadline=None)
@given(SEEDS)
def test_what_clusters_prove_holds_for_every_placement(seed: int) -> None:
    p, least = problem(seed, rows=9), least_usd(problem(seed, rows=9))
    with pytest.MonkeyPatch.context() as few:
        for name in ("ROWS_ALL_MAX", "ROWS_MAX", "ROWS_EACH_MIN"):
            few.setattr(place_rows, name, 1)
        rows = Rows(with_what_runs(p))
        moved, searched = (solve(p, Limits(gap=1e-6, nodes_max=n)) for n in (0, 10_000))
    assume(rows.coarse and not rows.offer_fixed.all())
    small = 1e-6 * least + 1e-9
    for answer in (moved, searched):
        assert answer.clusters == len(rows.service) < len(Rows(p).service)
        assert answer.bound_usd <= least + small and least <= answer.cost.usd + small
        assert check(p, answer) == []
    # A tree of clusters knows only nearly what a placement costs.
    assert searched.bound_usd >= moved.bound_usd - small
    assert searched.cost.usd <= moved.cost.usd + small


@settings(max_examples=effort(25), deadline=None)
@given(SEEDS)
def test_demand_of_one_origin_with_other_peaks_is_a_row_of_its_own(seed: int) -> None:
    p = problem(seed, rows=6)
    few, many = (
        [
            msgspec.structs.replace(
                d,
                requests_per_s_high=peak * d.requests_per_s,
                requests_per_s_kept=kept * d.requests_per_s,
            )
            for d in p.demand[:3]
        ]
        for peak, kept in ((1.0, 0.0), (4.0, 4.0))
    )
    p = msgspec.structs.replace(p, demand=(*few, *many))
    least = least_usd(p)
    assert solve(p, EXACT).bound_usd <= least * (1.0 + 1e-6) + 1e-9


@settings(max_examples=effort(25), deadline=None)
@given(SEEDS)
def test_nodes_that_nobody_needs_stay_off_where_power_is_free(seed: int) -> None:
    p = problem(seed)
    sites = tuple(
        msgspec.structs.replace(s, price_usd_per_kwh=0.0, carbon_g_per_kwh=0.0) for s in p.sites
    )
    p = msgspec.structs.replace(p, sites=sites)
    answer = solve(p)
    n = np.zeros(len(p.offers))
    for one in answer.replicas:
        n[one.offer] = one.replicas
    needed = PlaceModel(Rows(with_what_runs(p))).nodes_for(n)
    assert [k.on for k in answer.pools] == needed.astype(int).tolist()


@settings(max_examples=effort(25), deadline=None)
@given(SEEDS)
def test_pairs_that_come_in_late_and_rows_put_together_change_no_bound(seed: int) -> None:
    p = problem(seed)
    model = PlaceModel(Rows(with_what_runs(p)), all_pairs=False)
    found = search(model, EXACT)
    assert found.bound <= least_usd(p) * (1.0 + 1e-6) + 1e-9


def test_even_the_relaxed_program_keeps_a_whole_replica_for_a_failure() -> None:
    """Of two sites with replicas far larger than demand, however much dearer one of them is."""
    one = _tiny()
    dear = msgspec.structs.replace(one.sites[0], id="b", price_usd_per_kwh=10.0)
    two = msgspec.structs.replace(
        one,
        sites=(*one.sites, dear),
        pools=(*one.pools, msgspec.structs.replace(one.pools[0], id="r", site=1)),
        offers=tuple(
            msgspec.structs.replace(one.offers[0], pool=k, requests_per_s=1000.0) for k in (0, 1)
        ),
        services=(msgspec.structs.replace(one.services[0], uncovered_usd_per_request=1.0),),
        laws=((0, 1),),
        rtt_ms=((0.0, 0.0), (0.0, 0.0)),
        usd_per_gb=((0.0, 0.0), (0.0, 0.0)),
        gateways=(True, True),
        failures=tuple(FailureSet(id=s, sites=(i,)) for i, s in enumerate("ab")),
    )
    model = PlaceModel(Rows(two))
    relaxed = tightened(model, Solver(model.model))
    assert relaxed.values[model.n] == pytest.approx([1.0, 1.0], abs=1e-6)
    assert [one.replicas for one in solve(two).replicas] == [1, 1]


@settings(max_examples=effort(40), deadline=None)
@given(SEEDS, st.integers(0, 6))
def test_a_bad_answer_is_found(seed: int, how: int) -> None:
    p = problem(seed, sites=4, services=2, offers=8, rows=8)
    answer = solve(p)
    bad = spoiled(p, answer, how)
    if bad is not None:
        assert check(p, bad) != []


def spoiled(p: PlaceProblem, answer: PlaceAnswer, how: int) -> PlaceAnswer | None:
    """An answer with one thing wrong; None where this one has nothing to spoil."""
    replicas, flows = list(answer.replicas), list(answer.flows)
    if how == 0:
        return msgspec.structs.replace(answer, problem="another")
    if how == 1 and answer.placements:
        return msgspec.structs.replace(answer, placements=answer.placements[1:])
    if how == 2 and replicas:
        more = msgspec.structs.replace(replicas[0], replicas=replicas[0].replicas + 1000)
        return msgspec.structs.replace(answer, replicas=(more, *replicas[1:]))
    if how == 3 and flows:
        d = p.demand[flows[0].demand]
        barred = [
            i for i, o in enumerate(p.offers)
            if o.service == d.service and p.pools[o.pool].site not in p.laws[d.law]
        ]  # fmt: skip
        if barred:
            moved = msgspec.structs.replace(flows[0], offer=barred[0])
            return msgspec.structs.replace(answer, flows=(moved, *flows[1:]))
    if how == 4 and flows and flows[0].share > 0.01:
        return msgspec.structs.replace(answer, flows=tuple(flows[1:]), violated=())
    if how == 5 and answer.pools:
        off = msgspec.structs.replace(answer.pools[0], on=answer.pools[0].on + 1)
        return msgspec.structs.replace(answer, pools=(off, *answer.pools[1:]))
    if how == 6 and flows:
        elsewhere = msgspec.structs.replace(flows[0], offer=len(p.offers))
        return msgspec.structs.replace(answer, flows=(elsewhere, *flows[1:]))
    return None


@settings(max_examples=effort(25), deadline=None)
@given(SEEDS)
def test_the_next_best_costs_no_less_than_the_best(seed: int) -> None:
    p = problem(seed)
    answer = solve(p, EXACT)
    for service in ("q0", "q1"):
        for place in ("s0", "s1"):
            said = explain(p, answer, service, place, EXACT)
            assert said.usd_more >= -1e-4 * abs(answer.cost.usd) - 1e-6
            assert said.usd_more_min <= said.usd_more + 1e-4 * abs(answer.cost.usd) + 1e-6
            assert said.why and said.instead
    with pytest.raises(ConfigError, match="q0, q1"):
        explain(p, answer, "nothing", "s0")

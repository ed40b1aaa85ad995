"""What runs goes on: engines too slow for their promise, run by others, at a site that is cut off, on odd numbers of chips, under a drain."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from dispatch.fleets import NOW_S
from dispatch.placing import OWN, Fleet, placed
from hanse.dispatch import actions as act
from hanse.dispatch import events as ev
from hanse.dispatch.place import PlaceProblem, check, solve
from hanse.dispatch.place_offers import NODE_CHIPS
from hanse.dispatch.place_values import FailureSet, room_chips
from hanse.dispatch.place_warm import _tiny
from hanse.milp import Limits
from hanse.model.fleet import Kubernetes, Placement, Pool, Slo


def test_what_became_too_slow_for_its_promise_goes_on_and_is_named() -> None:
    two = (placed("a", chips=1, slots=16, replicas=2), placed("b", chips=1, slots=16, replicas=2))
    league = Fleet(OWN, OWN, placements=two)
    for tokens_in in (400.0, 2000.0, 6000.0):
        league.expect(rate=1.0, tokens_in=tokens_in)
        problem, answer = league.place()
        assert answer.placements
        assert all(o.late for o in problem.offers) == (tokens_in > 400.0)
        assert ("late" in {v.kind for v in answer.violated}) == (tokens_in > 400.0)
        assert sum(f.share for f in answer.flows) > 0.5


def test_where_nothing_is_in_time_late_replicas_are_begun_rather_than_none() -> None:
    league = Fleet(OWN, OWN, placements=())
    league.expect(rate=0.5, tokens_in=4000.0)
    _, answer = league.place()
    assert answer.placements
    (late,) = (v for v in answer.violated if v.kind == "late")
    assert "too long for it" in late.why


def test_where_something_is_in_time_late_ways_are_no_offers() -> None:
    slow = Pool(id="gpu", accelerator="l4", count=1)
    fast = Pool(id="gpu", accelerator="h100-sxm", count=1)
    league = Fleet(slow, fast, placements=())
    league.expect(rate=0.5, tokens_in=2000.0)
    problem = league.asked()
    assert {problem.pools[o.pool].site for o in problem.offers} == {1}
    assert not any(o.late for o in problem.offers)


def test_whoever_asks_for_what_stands_nowhere_is_placed_at_once() -> None:
    league = Fleet(OWN, OWN, placements=(placed("a", chips=1, slots=16),))
    league.expect()
    league.place()
    league.expect()
    soon = league.tell(ev.Ticked(at_s=league.at_s + 30.0))  # place_every_s is 900
    assert not any(isinstance(one, act.SolvePlacement) for one in soon)
    belief = league.dispatcher.belief
    assert belief is not None
    empty = ev.PlacementDecided(at_s=league.at_s + 40.0, source="a person", placements=())
    league.tell(empty)
    assert not league.at("a")
    league.expect()
    asked = league.tell(ev.Ticked(at_s=league.at_s + 50.0))
    assert any(isinstance(one, act.SolvePlacement) for one in asked)


@pytest.mark.parametrize(("slots", "tpot_ms"), [(4, 100.0), (16, 20.0), (200, 100.0)])
def test_external_engines_stand_in_an_answer_word_for_word(slots: int, tpot_ms: float) -> None:
    urls = ("http://127.0.0.1:9000", "http://127.0.0.1:9001")
    others = replace(OWN, count=2, driver="external", urls=urls)
    theirs = placed("a", replicas=2, slots=slots)
    league = Fleet(
        others,
        OWN,
        placements=(theirs, placed("b", chips=1, slots=16)),
        slo=Slo(ttft_ms=1000.0, tpot_ms=tpot_ms),
    )
    league.expect()
    for _ in range(2):
        problem, _ = league.place()
        (offer,) = (o for o in problem.offers if o.fixed)
        assert (offer.placed, offer.slots, offer.replicas) == (theirs, slots, 2)
        assert league.at("a") == [theirs]


def test_more_slots_of_an_external_engine_hold_more() -> None:
    def rate(slots: int) -> float:
        others = replace(OWN, count=1, driver="external", urls=("http://127.0.0.1:9000",))
        league = Fleet(others, OWN, placements=(placed("a", slots=slots),))
        league.expect()
        return next(o.requests_per_s for o in league.asked().offers if o.fixed)

    assert rate(2) < rate(4) < rate(16)


@pytest.mark.parametrize("fields", [{"chips": 1, "slots": 16}, {"slots": 16}, {"chips": 1}])
def test_a_site_that_is_cut_off_stops_nobody_elsewhere(fields: dict[str, int]) -> None:
    there = placed("b", **fields)
    here = placed("a", chips=1, slots=16), placed("c", chips=1, slots=16)
    league = Fleet(OWN, OWN, OWN, placements=(*here, there))
    for name in "abc":
        league.tell(ev.SiteHeard(at_s=NOW_S, site=name, epoch=1, table_version=1, unheard=()))
    league.expect(rate=20.0)
    league.tell(ev.SiteLost(at_s=NOW_S + 1.0, site="b"))
    assert league.dispatcher.belief is not None
    assert league.dispatcher.belief.sites["b"].apart
    for _ in range(2):
        league.place()
        assert league.at("b") == [there]
    assert sum(p.replicas for p in (*league.at("a"), *league.at("c"))) > 2


@pytest.mark.parametrize(
    ("count", "replicas", "chips", "driver"),
    [
        (16, 1, None, "process"),
        (12, 1, None, "process"),
        (16, 5, 3, "process"),
        (16, 2, 3, "process"),
        (16, 5, None, "external"),
        (16, 5, 3, "external"),
        (16, 1, None, "external"),
        (3, 5, 2, "external"),
    ],
)
def test_odd_numbers_of_chips_are_refused_by_nobody(
    count: int, replicas: int, chips: int | None, driver: str
) -> None:
    urls = tuple(f"http://127.0.0.1:{9000 + i}" for i in range(replicas))
    pool = replace(OWN, count=count)
    if driver == "external":
        pool = replace(pool, driver="external", urls=urls)
    mine = placed("a", slots=16, replicas=replicas, chips=chips)
    league = Fleet(pool, OWN, placements=(mine, placed("b", slots=16, chips=1)))
    for rate in (3.0, 60.0, 1.0):
        league.expect(rate=rate)
        league.place()


@pytest.mark.parametrize(("chips", "count"), [(16, 32), (6, 24), (2, 16)])
def test_a_deployments_replicas_fill_nodes_of_their_own(chips: int, count: int) -> None:
    pool = replace(
        OWN,
        accelerator="h100-sxm",
        count=count,
        driver="kubernetes",
        kubernetes=Kubernetes(
            kind="LeaderWorkerSet" if chips > NODE_CHIPS else "Deployment", name="chat", chips=chips
        ),
    )
    league = Fleet(pool, OWN, placements=(placed("a", slots=16, chips=chips),))
    league.expect(rate=3000.0, grid_kw=500.0)
    problem, answer = league.place()
    assert problem.pools[0].chips == (NODE_CHIPS if chips == 2 else chips)
    assert (
        sum(p.chips * p.replicas for p in answer.placements if p.site == "a" and p.chips) == count
    )


def test_a_replica_takes_an_equal_share_of_a_node() -> None:
    (pool,) = _tiny().pools
    wide = replace(pool, nodes=2, chips=8, chips_count=16)
    assert [room_chips(wide, c) for c in range(1, 10)] == [1, 2, 4, 4, 8, 8, 8, 8, 17]
    assert [room_chips(replace(wide, nodes=1), c) for c in (1, 3, 8)] == [1, 3, 8]


def test_sun_that_no_plant_cools_away_feeds_nothing() -> None:
    league = Fleet(replace(OWN, count=32), placements=())
    supply = []
    for pv_kw in (0.0, 60.0):
        league.expect(rate=200.0, cooled=0.6, pv_kw=pv_kw)
        problem, answer = league.place()
        (one,) = problem.sites
        assert one.cap == "heat"
        supply.append(one.grid_kw_max + one.own_kw_low)
        for v in answer.violated:
            assert "grid_kw_max" not in v.cure
    assert supply[0] == pytest.approx(supply[1])


def test_a_drained_sites_placements_are_kept_and_move_nobody() -> None:
    both = (placed("a", chips=1, slots=16, replicas=2), placed("b", chips=1, slots=16))
    league = Fleet(OWN, OWN, placements=both)
    league.tell(ev.DrainRequested(at_s=NOW_S, site="b", drained=True))
    league.expect()
    league.place()
    for _ in range(2):
        problem, answer = league.place()
        assert league.at("b") == [both[1]] == list(problem.kept)
        assert all(one.starts == one.stops == 0 for one in answer.replicas)


def test_what_nothing_can_rate_is_kept_and_its_chips_are_no_others() -> None:
    """Prompts longer than all memory: no formula tells what a replica serves of them."""
    mine = placed("a", chips=1, slots=16)
    league = Fleet(OWN, OWN, placements=(mine,))
    league.expect(tokens_in=5e6)
    problem, answer = league.place()
    assert not problem.offers
    assert (problem.kept, answer.placements) == ((mine,), (mine,))
    assert problem.pools[0].chips_count == OWN.count - 1
    assert {v.kind for v in answer.violated} == {"unserved"}


# --- causes and cures


def cures(problem: PlaceProblem) -> dict[str, tuple[str, str]]:
    answer = solve(problem, Limits())
    assert check(problem, answer) == []
    return {v.kind: (v.why, v.cure) for v in answer.violated}


def test_causes_of_what_is_unserved_are_told_apart() -> None:
    tiny = _tiny()
    much = replace(
        tiny.demand[0],
        requests_per_s=400.0,
        requests_per_s_high=400.0,
        requests_per_s_kept=0.0,
        unserved_usd_per_request=1.0,
    )
    (at,), (pool,), (offer,) = tiny.sites, tiny.pools, tiny.offers[:1]
    wide = replace(pool, nodes=64, chips=2, chips_count=128)
    many = replace(tiny, offers=(offer,), demand=(much,), failures=(FailureSet(id="x", sites=()),))

    rich = replace(at, grid_kw_max=1e4, engines_max=64)
    why, cure = cures(replace(many, sites=(rich,), pools=(wide,)))["unserved"]
    assert "agent watches" in why and "more chips a replica" in cure

    theirs = replace(offer, fixed=True, replicas=1)
    why, cure = cures(replace(many, pools=(wide,), offers=(theirs,)))["unserved"]
    assert "external" in why and "by hand" in cure

    for cap, word in (("grid", "raise grid_kw_max"), ("heat", "more cooling")):
        weak = replace(at, grid_kw_max=0.05, cap=cap)
        poor = replace(many, sites=(weak,), pools=(wide,), over_usd_per_kwh=1e7)
        why, cure = cures(poor)["unserved"]
        assert "no power is left" in why and word in cure

    full = replace(many, sites=(rich,), pools=(replace(pool, nodes=1, chips=2, chips_count=2),))
    why, cure = cures(full)["unserved"]
    assert "every chip" in why and "add chips" in cure

    better = replace(much, quality_min=offer.quality)
    two = replace(full, demand=(replace(much, quality_min=0.0), better))
    whats = [v.what for v in solve(two, Limits()).violated if v.kind == "unserved"]
    assert len(whats) == len(set(whats)) == 2, "classes of one service and origin"
    assert any(f"classes of quality {offer.quality:g} or more" in what for what in whats)
    assert all("(lawful at " in what for what in whats)


def test_a_slot_holds_what_the_file_says_and_what_its_model_reads_at_most() -> None:
    def per_slot(*placements: Placement, tokens_in: float = 100.0) -> set[int]:
        league = Fleet(OWN, OWN, placements=placements)
        league.expect(tokens_in=tokens_in)
        return {o.context_tokens // o.slots for o in league.asked().offers}

    assert per_slot() == {2048}
    assert per_slot(placed("a", chips=1, slots=2, context_tokens=6000)) == {3000}
    (long,) = per_slot(tokens_in=1000.0)
    assert long > 4000  # four times a mean request, where that is more

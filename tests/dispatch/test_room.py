"""Room that replicas leave: what people use is not there, what was seen goes before what was predicted, and work asks for replicas only in need."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dispatch.fleets import NOW_S
from dispatch.test_slow import made, outlook
from dispatch.test_snapshot import job
from effort import effort
from hanse.dispatch import events as ev
from hanse.dispatch.belief import Belief
from hanse.dispatch.defer import check, solve
from hanse.dispatch.defer_build import Measured, problem_from
from hanse.dispatch.dispatcher import Dispatcher
from hanse.dispatch.room import (
    SPARE_SHARE,
    asked_for,
    busy_shares,
    by_clock,
    rooms_of,
    with_rooms,
)
from hanse.signals.clock import Clock

replace = msgspec.structs.replace


def belief() -> Belief:
    dispatcher = Dispatcher("fleet")
    dispatcher.handle(ev.FleetLoaded(at_s=NOW_S, fleet=made()))
    assert dispatcher.belief is not None
    return dispatcher.belief


def test_rooms_are_the_replicas_that_are_placed() -> None:
    rooms = rooms_of(belief())
    assert [(r.site, r.pool, r.chips, r.slots, r.replicas) for r in rooms] == [
        (site, "gpu-chat-v0", 1, 16, 1) for site in "abc"
    ]


@settings(max_examples=effort(50))
@given(st.floats(0.0, 200.0), st.floats(0.0, 200.0))
def test_more_people_never_leave_more_room(few: float, many: float) -> None:
    known, (low, high) = belief(), sorted((few, many))
    chips = [
        [
            pool.chips_free
            for site in problem_from(
                known, outlook(rate), [job(10.0)], start_s=NOW_S, step_s=(300.0,) * 4
            ).sites
            for pool in site.pools
            if pool.pool == "gpu-chat-v0"
        ]
        for rate in (low, high)
    ]
    for quiet, busy in zip(*chips, strict=True):
        assert all(0.0 <= b <= q <= SPARE_SHARE + 1e-9 for q, b in zip(quiet, busy, strict=True))


def test_demand_is_where_a_placement_expects_it() -> None:
    known = belief()
    rooms = rooms_of(known)
    shares = busy_shares(known, outlook(3.0), rooms, {("chat", "b"): 3.0})
    assert shares["a/gpu-chat-v0"][0] == 0.0 < shares["b/gpu-chat-v0"][0]
    spread = busy_shares(known, outlook(3.0), rooms, {})
    assert len({tuple(v) for v in spread.values()}) == 1


@settings(max_examples=effort(30))
@given(st.floats(0.01, 100.0), st.floats(0.01, 100.0))
def test_what_was_seen_goes_first_and_tells_of_the_others(at_a: float, at_b: float) -> None:
    rooms = rooms_of(belief())
    plain = with_rooms(belief(), job(100.0), rooms).chip_s
    seen = with_rooms(belief(), replace(job(100.0), request_s={"a": at_a, "b": at_b}), rooms).chip_s
    assert seen["a/gpu-chat-v0"] == pytest.approx(100.0 * at_a / 16)
    assert seen["b/gpu-chat-v0"] == pytest.approx(100.0 * at_b / 16)
    off = seen["c/gpu-chat-v0"] / plain["c/gpu-chat-v0"]
    offs = [seen[k] / plain[k] for k in ("a/gpu-chat-v0", "b/gpu-chat-v0")]
    assert min(offs) * (1 - 1e-9) <= off <= max(offs) * (1 + 1e-9)


def test_how_many_chips_a_job_may_have_depends_on_no_order_of_rooms() -> None:
    one, *others = rooms_of(belief())
    large = replace(one, chips=8, slots=8, replicas=1)
    small = replace(others[0], chips=1, slots=64, replicas=1)
    found = {
        with_rooms(belief(), job(1e4), rooms).chips_max
        for rooms in ((large, small), (small, large))
    }
    assert found == {9}


def test_a_variant_below_the_class_is_no_room() -> None:
    known = belief()
    classes = tuple(replace(c, quality_min=1.0) for c in known.fleet.classes)
    known.fleet = replace(known.fleet, classes=classes)
    assert with_rooms(known, job(10.0), rooms_of(known)).chip_s == {}


@given(st.floats(1.0, 600.0))
def test_a_faster_clock_changes_no_chip(speed: float) -> None:
    """Two hours to a deadline are as many played hours more; the work in a chip's seconds, too."""
    clock = Clock(speed=speed, from_s=NOW_S)
    one = replace(job(5000.0), chip_s={"l4": 3600.0}, restart_s=20.0)
    told = by_clock(one, clock)
    assert clock.true_s(told.deadline_at_s) == pytest.approx(one.deadline_at_s)
    left_s, played_s = one.deadline_at_s - NOW_S, told.deadline_at_s - NOW_S
    assert told.chip_s["l4"] / played_s == pytest.approx(one.chip_s["l4"] / left_s)
    assert told.restart_s == pytest.approx(speed * one.restart_s)


def test_a_schedule_of_requests_keeps_its_promises() -> None:
    problem = problem_from(belief(), outlook(), [job(2000.0)], start_s=NOW_S, measured=Measured())
    answer = solve(problem)
    assert check(problem, answer) == []
    (plan,) = answer.jobs
    assert plan.finish_at_s is not None and plan.late_s == 0.0
    assert {run.pool for run in plan.runs} == {"gpu-chat-v0"}


def test_replicas_are_asked_for_only_where_nobody_else_does_or_time_runs_out() -> None:
    seen, one = outlook(), job(3600.0)
    assert asked_for([one], seen, frozenset(), NOW_S) == ()
    (late,) = asked_for([one], seen, frozenset(["batch-1"]), NOW_S)
    assert late.requests_per_s_high[0] == pytest.approx(0.5)
    assert late.waits, "it need not survive a failure"
    alone = replace(seen, demand=())
    (found,) = asked_for([one], alone, frozenset(), NOW_S)
    assert found.origin == "a" and found.service == "chat"
    assert asked_for([replace(one, service=None)], alone, frozenset(), NOW_S) == ()


def test_a_batch_that_nobody_else_asks_for_gets_a_replica() -> None:
    from dispatch.test_snapshot import Shell

    shell = Shell()
    fleet = replace(made(), placements=())
    shell.tell(ev.FleetLoaded(at_s=NOW_S, fleet=fleet))
    shell.tell(ev.EpochGranted(at_s=NOW_S, epoch=1))
    for site in "abc":
        shell.tell(ev.SiteHeard(at_s=NOW_S, site=site, epoch=1, table_version=1))
    shell.tell(ev.OutlookIssued(at_s=NOW_S, outlook=replace(outlook(), demand=())))
    shell.tell(ev.JobsChanged(at_s=NOW_S, jobs=(job(500.0),), measured=Measured()))
    for n in range(1, 5):
        shell.tell(ev.Ticked(at_s=NOW_S + 10.0 * n))
    known = shell.dispatcher.belief
    assert known is not None and sum(p.replicas for p in known.placements) == 1

"""What sites may draw: load targets, outages and batteries, in placements and as soon as they are foreseen."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatch.fleets import NOW_S
from dispatch.test_slow import SITES, Shell, made, outlook
from hanse.dispatch import actions as act
from hanse.dispatch import events as ev
from hanse.dispatch.dispatcher import Dispatcher
from hanse.dispatch.eventlog import Changes, frame, repeat
from hanse.dispatch.place import solve
from hanse.dispatch.place_problem import battery_kw, problem_from
from hanse.dispatch.snapshot import restored, state_of
from hanse.model.fleet import Power
from hanse.signals.outlook import UNBOUND_KW, Outlook


def bound(known: Outlook, **kw: tuple[float, ...]) -> Outlook:
    """With load targets, by site."""
    sites = tuple(msgspec.structs.replace(s, load_kw_max=kw.get(s.site, ())) for s in known.sites)
    return msgspec.structs.replace(known, sites=sites)


def test_a_load_target_bounds_what_is_placed_and_is_followed_at_once() -> None:
    one = Shell()
    one.tell(ev.OutlookIssued(at_s=NOW_S, outlook=outlook(40.0)))
    assert one.answer(one.asked(NOW_S + 1.0), NOW_S + 1.5)
    assert sum(p.replicas for p in one.placements if p.site == "a") >= 1
    asked = bound(outlook(40.0), a=(0.01, UNBOUND_KW))
    one.tell(ev.OutlookIssued(at_s=NOW_S + 10.0, outlook=asked))
    problem = one.asked(NOW_S + 11.0)
    assert problem is not None, "long before its time"
    assert [(s.grid_kw_max, s.cap) for s in problem.sites] == [
        (0.01, "load target"), (20.0, "grid"), (20.0, "grid"),
    ]  # fmt: skip
    assert one.answer(problem, NOW_S + 11.5)
    assert not any(p.replicas for p in one.placements if p.site == "a")
    one.tell(ev.OutlookIssued(at_s=NOW_S + 20.0, outlook=asked))
    assert one.asked(NOW_S + 21.0) is None, "nothing is new"
    kept = restored(state_of(one.dispatcher))
    one.dispatcher = kept
    assert one.asked(NOW_S + 22.0) is None
    later = msgspec.structs.replace(asked, issued_at_s=NOW_S + 3601.0)
    one.tell(ev.OutlookIssued(at_s=NOW_S + 3601.0, outlook=later))
    again = one.asked(NOW_S + 3602.0)
    assert again is not None and again.sites[0].cap == "grid", "the target is over"


def test_an_outage_and_its_end_are_followed_at_once_and_a_battery_counts_in_it() -> None:
    one = Shell()
    one.tell(ev.OutlookIssued(at_s=NOW_S, outlook=outlook(40.0)))
    assert one.answer(one.asked(NOW_S + 1.0), NOW_S + 1.5)
    dark = outlook(40.0)
    a, *others = dark.sites
    dark = msgspec.structs.replace(
        dark, sites=(msgspec.structs.replace(a, grid_kw_max=(0.0, 0.0)), *others)
    )
    one.tell(ev.OutlookIssued(at_s=NOW_S + 10.0, outlook=dark))
    problem = one.asked(NOW_S + 11.0)
    assert problem is not None and problem.sites[0].grid_kw_max == 0.0
    assert one.answer(problem, NOW_S + 11.5)
    assert not any(p.replicas for p in one.placements if p.site == "a")
    one.tell(ev.OutlookIssued(at_s=NOW_S + 20.0, outlook=outlook(40.0)))
    assert one.asked(NOW_S + 21.0) is not None, "the grid is back"


@given(st.floats(0.0, 100.0), st.floats(600.0, 7200.0))
def test_a_battery_counts_for_what_it_can_give_all_through_the_window(
    held_kwh: float, window_s: float
) -> None:
    plain = made().sites[0]
    power = Power(grid_kw_max=20.0, battery_kwh=100.0, battery_kw_max=25.0)
    stored = msgspec.structs.replace(plain, power=power)
    kw = battery_kw(stored, held_kwh, window_s)
    assert 0.0 <= kw <= 25.0
    assert kw * window_s / 3600.0 <= held_kwh + 1e-9
    assert battery_kw(plain, 0.0, window_s) == 0.0
    league = made()
    sites = (stored, *league.sites[1:])
    dispatcher = Dispatcher("fleet")
    dispatcher.handle(
        ev.FleetLoaded(at_s=NOW_S, fleet=msgspec.structs.replace(league, sites=sites))
    )
    assert dispatcher.belief is not None
    dark = outlook(40.0)
    a, *others = dark.sites
    dark = msgspec.structs.replace(
        dark, sites=(msgspec.structs.replace(a, grid_kw_max=(0.0, 0.0)), *others)
    )
    found = problem_from(dispatcher.belief, dark, window=(0, 1), held_kwh={"a": held_kwh})
    assert found.sites[0].grid_kw_max == pytest.approx(battery_kw(stored, held_kwh, 3600.0))


def test_what_a_load_target_leaves_unserved_is_cured_by_a_higher_one() -> None:
    one = Shell()
    low = dict.fromkeys(SITES, (0.05, 0.05))
    one.tell(ev.OutlookIssued(at_s=NOW_S, outlook=bound(outlook(40.0), **low)))
    problem = one.asked(NOW_S + 1.0)
    assert problem is not None
    answer = solve(problem)
    cures = " ".join(v.cure for v in answer.violated)
    assert "load target" in cures and "grid_kw_max" not in cures


def test_targets_that_come_and_go_while_a_placement_is_open_are_in_the_log() -> None:
    """What a tick changes without an order is not logged: such a tick would be another one in a replay."""
    changes, one = Changes(), Shell()

    def tell(event: ev.Event) -> list[act.Action]:
        actions = one.dispatcher.handle(event)
        if changes.needed(event, actions):
            one.log += frame(event, actions)
        return actions

    one.tell = tell  # type: ignore[method-assign]
    one.tell(ev.OutlookIssued(at_s=NOW_S, outlook=outlook(40.0)))
    problem = one.asked(NOW_S + 1.0)
    asked = bound(outlook(40.0), a=(0.01, UNBOUND_KW))
    for at_s, known in ((2.0, asked), (4.0, outlook(40.0))):
        one.tell(ev.OutlookIssued(at_s=NOW_S + at_s, outlook=known))
        assert one.asked(NOW_S + at_s + 1.0) is None, "the question is open"
    assert one.answer(problem, NOW_S + 6.0)
    assert one.asked(NOW_S + 7.0) is not None
    assert repeat(one.log).differ == ()

"""A Dispatcher that was put to bytes and back decides as the one that was not."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dispatch.fleets import NOW_S
from dispatch.test_eventlog import EVENTS, happening
from dispatch.test_slow import made, outlook
from effort import effort
from hanse.dispatch import actions as act
from hanse.dispatch import events as ev
from hanse.dispatch.defer import solve as solve_schedule
from hanse.dispatch.defer_build import Measured
from hanse.dispatch.dispatcher import Dispatcher
from hanse.dispatch.eventlog import MAGIC, digest_of, frame, repeat, state_frame
from hanse.dispatch.place import solve as solve_placement
from hanse.dispatch.snapshot import restored, state_of
from hanse.model.job import Job


def job(requests: float) -> Job:
    return Job(
        id="batch-1",
        kind="batch",
        tenant="t",
        data_class=made().tenants[0].classes[0],
        country="DE",
        home="a",
        submitted_at_s=NOW_S,
        deadline_at_s=NOW_S + 7200.0,
        chip_s={},
        service="chat",
        requests=requests,
        input_tokens=300.0,
        output_tokens=100.0,
    )


def life(happened: list[tuple[float, int, str, int]], answers: bool) -> list[ev.Event]:
    """Events of a controller's life; every fifth is of the slow loop. Answers of solvers are the shell's (`Shell`)."""
    at_s = NOW_S
    events: list[ev.Event] = [
        ev.FleetLoaded(at_s=NOW_S, fleet=made()),
        ev.EpochGranted(at_s=NOW_S, epoch=1),
    ]
    for n, (later_s, kind, name, number) in enumerate(happened):
        at_s += later_s
        events.append(happening(at_s, kind, name, number))
        if answers and n % 5 == 0:
            seen = msgspec.structs.replace(outlook(), issued_at_s=at_s)
            events.append(ev.OutlookIssued(at_s=at_s, outlook=seen))
            events.append(ev.JobsChanged(at_s=at_s, jobs=(job(1000.0 - n),), measured=Measured()))
        events.append(ev.Ticked(at_s=at_s))
    return events


class Shell:
    """A Dispatcher, whose questions are answered at once."""

    def __init__(self) -> None:
        self.dispatcher = Dispatcher("fleet")
        self.all: list[tuple[ev.Event, list[act.Action]]] = []

    def tell(self, event: ev.Event) -> None:
        actions = self.dispatcher.handle(event)
        self.all.append((event, actions))
        for action in actions:
            if isinstance(action, act.SolvePlacement):
                self.tell(
                    ev.PlacementSolved(at_s=event.at_s, answer=solve_placement(action.problem))
                )
            elif isinstance(action, act.SolveSchedule):
                self.tell(ev.ScheduleSolved(at_s=event.at_s, answer=solve_schedule(action.problem)))


@settings(max_examples=effort(12), deadline=None)
@given(EVENTS, st.floats(0.0, 1.0), st.booleans())
def test_who_was_put_to_bytes_decides_as_who_was_not(
    happened: list[tuple[float, int, str, int]], where: float, slow: bool
) -> None:
    shell = Shell()
    for event in life(happened, slow):
        shell.tell(event)
    cut = int(where * len(shell.all))
    first, second = Dispatcher("fleet"), MAGIC
    for event, _ in shell.all[:cut]:
        first.handle(event)
    again = restored(state_of(first))
    assert state_of(again) == state_of(first)
    second += state_frame(state_of(first))
    for event, actions in shell.all[cut:]:
        assert digest_of(again.handle(event)) == digest_of(actions)
        second += frame(event, actions)
    whole, rest = repeat(MAGIC + b"".join(frame(*one) for one in shell.all)), repeat(second)
    assert whole.differ == rest.differ == ()
    assert rest.began and not whole.began
    assert rest.ended == whole.ended


def test_a_schedule_and_a_placement_are_among_them() -> None:
    shell = Shell()
    for event in life([(30.0, 3, "a", 0)] * 12, answers=True):
        shell.tell(event)
    kinds = {type(event) for event, _ in shell.all}
    assert {ev.PlacementSolved, ev.ScheduleSolved} <= kinds
    sent = [a for _, actions in shell.all for a in actions if isinstance(a, act.SendSchedule)]
    assert sent and {s.site for s in sent[-1].sites} == {"a", "b", "c"}
    (home,) = [s for s in sent[-1].sites if s.works]
    assert home.site == "a" and home.works[0].job == "batch-1"


def test_a_new_field_is_found() -> None:
    dispatcher = Dispatcher("fleet")
    dispatcher.slow.new = 1  # type: ignore[attr-defined]
    with pytest.raises(AssertionError, match="not kept"):
        state_of(dispatcher)

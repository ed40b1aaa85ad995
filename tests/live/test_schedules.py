"""What people see of a schedule that the controller decided."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from dispatch.fleets import NOW_S
from dispatch.test_slow import made, outlook
from dispatch.test_snapshot import Shell, job
from hanse.dispatch import events as ev
from hanse.dispatch.actions import SendSchedule
from hanse.dispatch.defer_build import Measured
from hanse.live.schedules import Schedules

LINES = 2_000.0


def decided(lines: float = LINES) -> SendSchedule:
    """What a league decides of one batch."""
    told = Shell()
    told.tell(ev.FleetLoaded(at_s=NOW_S, fleet=made()))
    told.tell(ev.EpochGranted(at_s=NOW_S, epoch=1))
    told.tell(ev.OutlookIssued(at_s=NOW_S, outlook=outlook()))
    told.tell(ev.JobsChanged(at_s=NOW_S, jobs=(job(lines),), measured=Measured()))
    told.tell(ev.Ticked(at_s=NOW_S + 1.0))
    (found,) = [a for _, actions in told.all for a in actions if isinstance(a, SendSchedule)]
    return found


def test_a_batch_is_shown_with_all_lines_that_are_planned() -> None:
    schedules, action, open_ = Schedules(), decided(), job(LINES)
    (before,) = schedules.shown([open_], NOW_S)
    assert not before.planned and before.spans == ()
    schedules.take(action)
    (row,) = schedules.shown([open_], NOW_S)
    (plan,) = action.answer.jobs
    assert row.planned and (row.left, row.home) == (LINES, open_.home)
    assert sum(one.lines for one in row.spans) == pytest.approx(LINES * plan.done_share, rel=1e-6)
    assert {one.site for one in row.spans} <= {run.site for run in plan.runs}
    begins = [one.begin_s for one in row.spans]
    assert begins == sorted(begins) and begins[0] >= NOW_S


def test_what_is_over_is_not_shown_and_a_new_batch_has_no_plan() -> None:
    schedules = Schedules()
    schedules.take(decided())
    open_ = job(LINES)
    last = max(one.end_s for one in schedules.shown([open_], NOW_S)[0].spans)
    later = replace(open_, id="batch-2", deadline_at_s=open_.deadline_at_s - 1.0)
    first, second = schedules.shown([open_, later], last)
    assert (first.job, first.planned) == ("batch-2", False)  # due first
    assert (second.planned, second.spans) == (True, ())


def test_what_the_schedule_does_not_keep_is_said_with_its_cure() -> None:
    schedules, too_many = Schedules(), 1e9
    action = decided(too_many)
    schedules.take(action)
    (violation,) = [one for one in action.answer.violations if one.where == "batch-1"]
    (row,) = schedules.shown([job(too_many)], NOW_S)
    assert violation.why in row.unmet and violation.cure in row.unmet
    schedules.take(decided())
    assert schedules.shown([job(LINES)], NOW_S)[0].unmet == ""


def test_who_no_longer_leads_shows_no_plan() -> None:
    schedules = Schedules()
    schedules.take(decided())
    schedules.drop()
    assert not schedules.shown([job(LINES)], NOW_S)[0].planned

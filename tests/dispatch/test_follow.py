"""Following a schedule: as foreseen it comes out as planned; otherwise no cloud is paid for, nothing is late for having waited."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dispatch.defer_cases import START_S, problem
from effort import effort
from hanse.dispatch.defer import solve
from hanse.dispatch.follow import (
    PACE_SHARE,
    PLAN_VALID_S,
    SAFETY_SHARE,
    BatteryPlan,
    WorkPlan,
    WorkRun,
    WorkState,
    battery_now,
    battery_plan_of,
    site_schedules,
    step_of,
    work_now,
    work_plan_of,
)
from hanse.energy import Battery, site_supply
from hanse.energy.records import BY_PLAN, BY_SURPLUS
from hanse.signals.clock import Clock

replace = msgspec.structs.replace
seeds = st.integers(0, 10_000)
kw = st.floats(0.0, 50.0)
HOUR_S = 3600.0


def battery(
    own: tuple[float, ...] = (0.0,),
    grid: tuple[float, ...] = (0.0,),
    out: tuple[float, ...] = (0.0,),
    peak: float | None = None,
) -> BatteryPlan:
    return BatteryPlan(
        start_s=0.0,
        step_s=(300.0,) * len(own),
        own_charge_kw=own,
        grid_charge_kw=grid,
        discharge_kw=out,
        peak_kw=peak,
    )


# --- batteries


@settings(max_examples=effort(40), deadline=None)
@given(seeds)
def test_a_battery_does_what_was_planned_where_all_is_as_foreseen(seed: int) -> None:
    one = problem(seed)
    answer = solve(one)
    for site, plan in zip(one.sites, answer.sites, strict=True):
        follows = battery_plan_of(answer, plan, site)
        if follows.peak_kw is not None:  # within a quarter of an hour a plan may go beyond its mean
            follows = replace(follows, peak_kw=max(follows.peak_kw, *plan.import_kw))
        at_s = one.start_s
        for t, length_s in enumerate(one.step_s):
            surplus = site.pv_kw[t] + site.wind_kw[t] - plan.facility_kw[t]
            # Only the rule is asked here, so the connection is taken to take all that is sold or lost.
            order = battery_now(follows, at_s, surplus_kw=surplus, export_kw_max=99.0, valid_s=1e9)
            assert order.rule == BY_PLAN
            assert order.charge_kw == pytest.approx(plan.charge_kw[t], abs=1e-6)
            assert order.discharge_kw == pytest.approx(plan.discharge_kw[t], abs=1e-6)
            at_s += length_s


@given(kw, kw, kw, kw, kw)
def test_a_cloud_is_not_paid_for(
    own: float, grid: float, out: float, surplus: float, export: float
) -> None:
    plan = battery((own,), (grid,), (out,))
    order = battery_now(plan, 10.0, surplus_kw=surplus, export_kw_max=export)
    assert order.charge_kw == 0.0 or order.discharge_kw == 0.0
    from_grid = max(0.0, order.charge_kw - surplus)
    assert from_grid <= grid + 1e-9, "what was to come from the sun is not bought"
    assert order.charge_kw >= min(surplus, max(0.0, surplus - export)) - 1e-9, "nothing is spilled"
    if order.discharge_kw:
        assert order.discharge_kw == out


@given(kw, kw, kw, st.floats(-50.0, 50.0), kw)
def test_no_new_peak_while_the_battery_can_help(
    own: float, grid: float, out: float, surplus: float, peak: float
) -> None:
    free = battery_now(battery((own,), (grid,), (out,)), 10.0, surplus_kw=surplus, export_kw_max=0)
    plan = battery((own,), (grid,), (out,), peak)
    held = battery_now(plan, 10.0, surplus_kw=surplus, export_kw_max=0.0)
    before_kw, import_kw = (o.charge_kw - o.discharge_kw - surplus for o in (free, held))
    assert import_kw <= max(peak, 0.0) + 1e-9
    assert held.charge_kw == 0.0 or held.discharge_kw == 0.0
    assert import_kw == pytest.approx(min(before_kw, peak)), "changed by no more than it takes"


@settings(max_examples=effort(30), deadline=None)
@given(seeds)
def test_a_peak_is_the_months_or_the_plans_where_one_is_charged(seed: int) -> None:
    one = problem(seed)
    answer = solve(one)
    for site, plan in zip(one.sites, answer.sites, strict=True):
        follows = battery_plan_of(answer, plan, site)
        levied = site.usd_per_kw_month > 0.0
        assert (follows.peak_kw is not None) == levied
        if follows.peak_kw is not None:
            assert site.peak_import_kw <= follows.peak_kw
            assert follows.peak_kw <= max(site.peak_import_kw, *plan.import_kw) + 1e-9


@given(st.floats(-1e5, 1e5), kw)
def test_an_old_plan_is_no_plan(at_s: float, surplus: float) -> None:
    plan = battery((5.0,) * 500, (5.0,) * 500, (0.0,) * 500)
    order = battery_now(plan, at_s, surplus_kw=surplus, export_kw_max=0.0)
    fresh = 0.0 <= at_s < PLAN_VALID_S
    assert order.rule == (BY_PLAN if fresh else BY_SURPLUS)
    none = battery_now(None, at_s, surplus_kw=surplus, export_kw_max=0.0)
    assert none.rule == BY_SURPLUS and none.charge_kw == none.discharge_kw == 0.0


@given(kw, kw, kw, kw, kw)
def test_what_the_connection_cannot_give_is_the_reason_of_what_the_battery_gives(
    own: float, grid: float, out: float, load: float, connection: float
) -> None:
    """The flows are those of the balance alone, whatever was planned."""
    held = Battery(capacity_kwh=100.0, power_kw_max=200.0, stored_kwh=50.0)
    flows = {}
    for known in (True, False):
        order = battery_now(
            battery((own,), (grid,), (0.0 if own + grid > 0.0 else out,)),
            0.0,
            surplus_kw=-load,
            export_kw_max=0.0,
            import_kw_max=connection if known else float("inf"),
        )
        flows[known] = site_supply(
            load_kw=load, pv_kw=0.0, wind_kw=0.0, grid_kw_max=connection, battery=held, step_s=60.0,
            rule=order.rule, plan_charge_kw=order.charge_kw, plan_discharge_kw=order.discharge_kw,
        )  # fmt: skip
        if known:
            short = load - connection
            waits_or_fills = own + grid > 0.0 or short > out
            assert ("connection" in order.why) == (short > 0.0 and waits_or_fills)
            assert order.charge_kw == 0.0 or flows[known].discharge_kw == 0.0
            assert order.why != "planned: it waits" or flows[known].discharge_kw == 0.0
    assert flows[True].stored_kwh == pytest.approx(flows[False].stored_kwh)
    assert flows[True].import_kw == pytest.approx(flows[False].import_kw)


# --- work


@settings(max_examples=effort(40), deadline=None)
@given(seeds)
def test_shares_of_a_plan_are_its_jobs_and_lawful(seed: int) -> None:
    one = problem(seed, restarts=False)
    answer = solve(one)
    for job in one.jobs:
        plan, said = work_plan_of(one, answer, job), answer.plan_of(job.job.id)
        assert plan is not None and said is not None
        done = sum(sum(run.shares) for run in plan.runs)
        assert min(1.0, done) == pytest.approx(said.done_share, abs=1e-4)
        assert {run.site for run in plan.runs} <= set(job.sites)


def run(plan: WorkPlan | None, state: WorkState, room: float, end_s: float, step_s: float) -> float:
    """Do what may be done, at most `room` of the job a second, from its submission on; when it was done."""
    at_s, left, begun, step = state.submitted_at_s, 1.0, dict[str, float](), -1
    while at_s < end_s and left > 1e-9:
        now = replace(state, done_share=1.0 - left, left_share=left, begun=begun)
        order = work_now(plan, now, at_s)
        if order.step != step:
            begun, step = {}, order.step
            order = work_now(plan, replace(now, begun=begun), at_s)
        most = room * step_s
        if order.anywhere:
            given = min(left, most, order.shares.get("", 1.0))
            left -= given
        for site, share in order.shares.items() if not order.anywhere else ():
            given = min(left, most, share)
            begun[site] = begun.get(site, 0.0) + given
            left, most = left - given, most - given
        at_s += step_s
    return at_s


@given(st.floats(100.0, 7000.0), st.floats(1.0, 20.0))
def test_without_a_plan_work_is_spread_and_in_time(window_s: float, speed: float) -> None:
    state = WorkState(submitted_at_s=0.0, deadline_at_s=window_s, done_share=0.0)
    room = speed / (PACE_SHARE * window_s)
    done_s = run(None, state, room, 2.0 * window_s, window_s / 400.0)
    assert done_s <= (PACE_SHARE + 0.01) * window_s
    assert done_s >= (PACE_SHARE - 0.01) * window_s, "no sooner than it has to be"


@given(st.floats(0.1, 1.0), st.integers(0, 5))
def test_a_step_gives_what_was_planned_for_it_and_no_more(share: float, late: int) -> None:
    """The plan runs it in step 2 of six; room is ample."""
    steps = (0.0, 0.0, share, 0.0, 0.0, 1.0 - share)
    plan = WorkPlan(
        job="j",
        start_s=0.0,
        step_s=(300.0,) * 6,
        runs=(WorkRun(site="a", shares=steps),),
        need_s=1.0,
    )
    state = WorkState(submitted_at_s=0.0, deadline_at_s=1e5, done_share=0.0)
    order = work_now(plan, state, 300.0 * late + 1.0)
    assert order.step == late
    assert order.shares == ({"a": steps[late]} if steps[late] > 0.0 else {})
    used = replace(state, begun={"a": steps[late]})
    assert work_now(plan, used, 300.0 * late + 1.0).kind == "waits"


@given(
    st.floats(10.0, 5000.0), st.floats(0.01, 1.0), st.floats(0.0, 7000.0), st.floats(1.0, 9000.0)
)
def test_a_deadline_presses_when_what_is_left_takes_the_time_that_is_left(
    need_s: float, left: float, at_s: float, deadline_s: float
) -> None:
    plan = WorkPlan(job="j", start_s=0.0, step_s=(7200.0,), runs=(), need_s=need_s)
    state = WorkState(submitted_at_s=0.0, deadline_at_s=deadline_s, done_share=0.0, left_share=left)
    presses = need_s * left * (1.0 + SAFETY_SHARE) >= deadline_s - at_s
    assert work_now(plan, state, at_s).kind == ("presses" if presses else "waits")


@settings(max_examples=effort(30), deadline=None)
@given(seeds)
def test_a_plan_followed_with_room_for_it_ends_in_time(seed: int) -> None:
    """Room as foreseen, and a plan made anew where it ends: the last hour of two is not a plan's."""
    one = problem(seed, jobs=1, restarts=False, step_s=(300.0,) * 24)
    answer = solve(one)
    job = one.jobs[0]
    plan = work_plan_of(one, answer, job)
    assert plan is not None
    said = answer.plan_of(job.job.id)
    assert said is not None
    if said.finish_at_s is None or plan.need_s == float("inf"):
        return
    state = WorkState(
        submitted_at_s=one.start_s, deadline_at_s=job.job.deadline_at_s, done_share=0.0
    )
    done_s = run(plan, state, 1.0, one.start_s + 3 * HOUR_S, 10.0)
    assert done_s <= max(said.finish_at_s, job.job.deadline_at_s) + 10.0


@settings(max_examples=effort(60), deadline=None)
@given(seeds)
def test_no_plan_counts_on_more_chips_than_its_job_may_have_at_once(seed: int) -> None:
    one = problem(seed, jobs=1, restarts=False)
    job = one.jobs[0]
    plan = work_plan_of(one, solve(one), job)
    assert plan is not None
    quickest_s = min(job.job.chip_s.values(), default=0.0)
    assert plan.need_s >= quickest_s / job.job.chips_max * (1.0 - 1e-9)


def test_steps_are_found() -> None:
    assert [step_of(10.0, (5.0, 5.0), at) for at in (9.9, 10.0, 14.9, 15.0, 19.9, 20.0)] == [
        -1, 0, 0, 1, 1, -1,
    ]  # fmt: skip
    assert START_S > 0.0


@settings(max_examples=effort(25), deadline=None)
@given(seeds, st.integers(0, 3), st.sampled_from([1.0, 30.0]))
def test_an_answer_read_back_from_a_log_leads_to_the_same_bytes(
    seed: int, jobs: int, speed: float
) -> None:
    """An int where a float is meant would be another byte after a log, and a decision that differs."""
    one = problem(seed, jobs=jobs)
    answer = solve(one)
    again = msgspec.msgpack.decode(msgspec.msgpack.encode(answer), type=type(answer))
    clock = Clock(speed=speed, from_s=START_S)
    sent = [
        msgspec.msgpack.encode((a, site_schedules(one, a, clock=clock, epoch=1, at_s=one.start_s)))
        for a in (answer, again)
    ]
    assert sent[0] == sent[1]

"""This second: interactive work first, whole chips, at most a checkpoint's work lost, no thrash."""

from __future__ import annotations

import random
from collections import Counter

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dispatch.defer_cases import START_S, problem, whole
from effort import effort
from hanse.dispatch.defer import solve
from hanse.dispatch.defer_now import (
    CALL_EVERY_S,
    NowState,
    PoolNow,
    RunningNow,
    SiteNow,
    now,
    step_at,
)
from hanse.dispatch.defer_problem import DeferAnswer, DeferProblem, JobRun

replace = msgspec.structs.replace
seeds = st.integers(0, 10_000)


def room(
    one: DeferProblem, chips: dict[str, int] | None = None, kw: dict[str, float] | None = None
) -> tuple[tuple[PoolNow, ...], tuple[SiteNow, ...]]:
    pools = tuple(
        PoolNow(site=s.site, pool=p.pool, chips_free=(chips or {}).get(s.site, 4))
        for s in one.sites
        for p in s.pools
    )
    sites = tuple(SiteNow(site=s.site, kw_free=(kw or {}).get(s.site, 99.0)) for s in one.sites)
    return pools, sites


class Shell:
    """Does what it is told, at once; keeps count of what is lost."""

    def __init__(self, one: DeferProblem, answer: DeferAnswer) -> None:
        self.problem, self.answer = one, answer
        self.running: dict[str, RunningNow] = {}
        self.starts: Counter[str] = Counter()
        self.lost_s: list[tuple[float, float]] = []
        self.chip_s: Counter[str] = Counter()
        self.at_s = one.start_s

    def call(self, at_s: float, chips: dict[str, int], kw: dict[str, float]) -> None:
        passed, before = at_s - self.at_s, step_at(self.problem, self.at_s)
        for name, one in self.running.items():
            self.chip_s[name] += passed * one.chips
            done = one.done_chip_s + passed * one.chips
            done = done if step_at(self.problem, at_s) == before else 0.0
            self.running[name] = replace(one, done_chip_s=done)
        self.at_s = at_s
        pools, sites = room(self.problem, chips, kw)
        state = NowState(at_s=at_s, pools=pools, sites=sites, running=tuple(self.running.values()))
        plan = now(self.problem, self.answer, state)
        assert plan == now(self.problem, self.answer, state), "the same again"
        for gone in plan.yields:
            if not gone.checkpoint_first:
                every = self.job(gone.job).checkpoint_every_s
                saved = self.running[gone.job].checkpoint_at_s
                self.lost_s.append((at_s - saved if every else 0.0, every))
                assert gone.lost_chip_s == pytest.approx(
                    self.lost_s[-1][0] * self.running[gone.job].chips
                )
        after = {}
        for run in plan.runs:
            old = self.running.get(run.job)
            same = (
                old is not None and old.chips > 0 and (old.site, old.pool) == (run.site, run.pool)
            )
            if not same:
                self.starts[run.job] += 1
            saved = old.checkpoint_at_s if same and old else at_s
            after[run.job] = RunningNow(
                job=run.job, site=run.site, pool=run.pool, chips=run.chips,
                since_s=old.since_s if same and old else at_s,
                checkpoint_at_s=at_s if run.job in plan.checkpoints else saved,
                done_chip_s=old.done_chip_s if old and (old.site, old.pool) == (run.site, run.pool) else 0.0,
            )  # fmt: skip
        for name, old in self.running.items():
            after.setdefault(name, replace(old, chips=0))
        self.running = after
        self.obeys(chips, kw)

    def job(self, name: str):  # type: ignore[no-untyped-def]
        return next(j.job for j in self.problem.jobs if j.job.id == name)

    def obeys(self, chips: dict[str, int], kw: dict[str, float]) -> None:
        held: Counter[str] = Counter()
        lawful = {j.job.id: j.sites for j in self.problem.jobs}
        for one in self.running.values():
            if one.chips:
                held[one.site] += one.chips
                assert one.site in lawful[one.job]
                assert self.job(one.job).chips_min <= one.chips <= self.job(one.job).chips_max
        t = step_at(self.problem, self.at_s)
        for site in self.problem.sites:
            assert held[site.site] <= chips.get(site.site, 4)
            pool = site.pools[0]
            each = site.pue[t] * (pool.chip_kw_full - pool.chip_kw_idle)
            assert held[site.site] * each <= kw.get(site.site, 99.0) + 1e-6


@settings(max_examples=effort(15), deadline=None)
@given(seed=seeds)
def test_whatever_interactive_work_does_jobs_yield_at_once_and_lose_one_interval_at_most(
    seed: int,
) -> None:
    one = problem(seed, jobs=5)
    shell = Shell(one, solve(one))
    rng = random.Random(seed)
    at_s = one.start_s
    while at_s < one.start_s + 3600.0:
        chips = {s.site: rng.choice([0, 1, 2, 4, 4, 4]) for s in one.sites}
        kw = {s.site: rng.choice([0.0, 1.0, 3.0, 99.0, 99.0]) for s in one.sites}
        if rng.random() < 0.9:
            chips, kw = {}, {}
        shell.call(at_s, chips, kw)
        at_s += rng.uniform(0.5, CALL_EVERY_S)
    for lost, every in shell.lost_s:
        assert lost <= every


def test_two_days_in_whole_chips_do_the_planned_work_without_thrash() -> None:
    one = whole(4, sites=3, jobs=6)
    one = replace(one, sites=tuple(replace(s, usd_per_kw_month=0.0) for s in one.sites))
    answer = solve(one)
    shell = Shell(one, answer)
    at_s = one.start_s
    while at_s < one.end_s:
        shell.call(at_s, {}, {})
        at_s += 60.0
    for plan in answer.jobs:
        planned = sum(
            c * s for run in plan.runs for c, s in zip(run.chips, one.step_s, strict=True)
        )
        steps = sum(c > 0.0 for run in plan.runs for c in run.chips)
        assert shell.chip_s[plan.job] >= 0.9 * planned - 600.0
        # Once a planned step, and once more where restarts have eaten the slack and the deadline presses.
        assert shell.starts[plan.job] <= steps + 1
    assert shell.lost_s == []


def test_a_fraction_of_a_chip_runs_whole_until_its_share_is_done() -> None:
    one, answer = half_planned()
    first = now(one, answer, state_of(one, 0.0, done=0.0))
    assert [r.chips for r in first.runs] == [1]
    later = now(one, answer, state_of(one, 151.0, done=151.0))
    assert (
        later.runs == () and later.yields[0].checkpoint_first and later.yields[0].lost_chip_s == 0
    )


def half_planned() -> tuple[DeferProblem, DeferAnswer]:
    one = problem(2, sites=1, jobs=1, restarts=False)
    job = replace(
        one.jobs[0], sites=("s0",), pool=None, chips=0,
        job=replace(one.jobs[0].job, chips_max=1, deadline_at_s=one.end_s + 1e6, checkpoint_every_s=60.0),
    )  # fmt: skip
    one = replace(one, jobs=(job,))
    answer = solve(one)

    run = JobRun(site="s0", pool="gpu", chips=(0.5, 0.0, 0.0, 0.0, 0.0, 0.0))
    return one, replace(answer, jobs=(replace(answer.jobs[0], runs=(run,)),))


def state_of(one: DeferProblem, after_s: float, *, done: float, chips_free: int = 4) -> NowState:
    pools, sites = room(one, {"s0": chips_free})
    at_s = one.start_s + after_s
    mine = RunningNow(
        job="j0", site="s0", pool="gpu", chips=1 if done else 0, since_s=one.start_s,
        checkpoint_at_s=at_s - 20.0, done_chip_s=done,
    )  # fmt: skip
    return NowState(at_s=at_s, pools=pools, sites=sites, running=(mine,) if done else ())


def test_it_yields_in_the_same_call_and_says_what_is_lost() -> None:
    one, answer = half_planned()
    gone = now(one, answer, state_of(one, 100.0, done=100.0, chips_free=0))
    assert gone.runs == ()
    (told,) = gone.yields
    assert not told.checkpoint_first and told.lost_chip_s == pytest.approx(20.0)
    assert "interactive" in told.why


def test_a_pressing_deadline_runs_without_a_plan() -> None:
    one, answer = half_planned()
    bare = replace(answer.jobs[0], runs=())
    job = one.jobs[0]
    pressed = replace(
        job, state_at=job.job.home, job=replace(job.job, deadline_at_s=one.start_s + 60.0)
    )
    one = replace(one, jobs=(pressed,))
    answer = replace(answer, problem=one.digest(), jobs=(bare,))
    found = now(one, answer, state_of(one, 1.0, done=0.0))
    assert [r.why for r in found.runs] == ["its deadline presses"]
    assert one.start_s == START_S


def test_a_job_that_is_withdrawn_stops() -> None:
    one, answer = half_planned()
    state = state_of(one, 10.0, done=10.0)
    other = replace(state.running[0], job="gone")
    found = now(one, answer, replace(state, running=(other,)))
    assert [y.job for y in found.yields] == ["gone"]


def test_a_drained_site_runs_nothing() -> None:
    one, answer = half_planned()
    state = state_of(one, 10.0, done=10.0)
    drained = replace(state, sites=tuple(replace(s, accepts=False) for s in state.sites))
    assert now(one, answer, drained).runs == ()


def test_a_job_that_finds_no_room_where_it_was_to_go_runs_on_where_it_is() -> None:
    one = problem(2, sites=2, jobs=1, restarts=False)
    job = replace(
        one.jobs[0], sites=("s0", "s1"), state_at="s0", pool=None, chips=0,
        job=replace(one.jobs[0].job, home="s0", chips_max=1, deadline_at_s=one.end_s + 1e6),
    )  # fmt: skip
    one = replace(one, jobs=(job,))
    answer = solve(one)
    there = JobRun(site="s1", pool="gpu", chips=(1.0,) * len(one.step_s))
    answer = replace(answer, jobs=(replace(answer.jobs[0], runs=(there,)),))
    state = state_of(one, 10.0, done=10.0)
    full = replace(state, pools=room(one, {"s1": 0})[0])
    found = now(one, answer, full)
    assert [(r.site, r.chips) for r in found.runs] == [("s0", 1)] and found.yields == ()
    moved = now(one, answer, state)
    assert [r.site for r in moved.runs] == ["s1"] and moved.yields[0].checkpoint_first

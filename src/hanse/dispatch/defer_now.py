"""What runs this second: a schedule of fractions of chips made whole, and who yields when interactive work needs them.

Here: `now`, a pure function of the schedule, of what interactive work and power leave right now, and of what is running. A
shell calls it whenever one of these changes, and at least every few seconds. Not here: the schedule (`defer`), carrying it out.

Rules, in this order:

* Interactive work comes first: a job whose pool or site has no room left loses its chips in the same call, whatever the plan
  says, whatever a restart costs. First to go: least weight, then most slack before the deadline, then by name.
* A job that yields loses what it did since its last checkpoint, `checkpoint_every_s` at most, because a checkpoint is asked for
  whenever that long has passed. One that stops by plan writes a checkpoint first and loses nothing.
* A step's mean is met in whole chips from the step's begin: so many until the planned chip seconds are done. One that has
  begun goes on over a gap shorter than twice its restart, and over a step's end where the next step wants it too.
* A job begins only for longer than twice its restart, unless its deadline presses: when no more slack is left than a restart
  and a safety share, it runs wherever it is planned or may run and chips are free.
* A job is at one site at a time; where the plan splits it, the site with most planned work from now on.
* Law and data: only at sites of its problem, and not before its state is there.
"""

from __future__ import annotations

import math
from typing import Final

from hanse.dispatch.defer_problem import DeferAnswer, DeferJob, DeferProblem
from hanse.model.fleet import Id, Value
from hanse.model.job import Job

RESTARTS_WORTH: Final = 2.0
"""A run shorter than so many restarts is more restarting than running."""
LOOK_AHEAD_S: Final = 900.0
"""Over a gap no longer a job keeps its chips if it restarts slowly; three fine steps."""
CALL_EVERY_S: Final = 5.0
"""A shell asks at least so often; checkpoints are asked for by that much before they are due."""
SAFETY_SHARE: Final = 0.05
"""Of the work left: a deadline presses when slack falls below it, since nobody knows speeds better than to a few percent."""


class PoolNow(Value, frozen=True, kw_only=True):
    """A pool at this instant."""

    site: Id
    pool: Id
    chips_free: int
    """Not needed by interactive work right now, whether or not a job is on them."""


class SiteNow(Value, frozen=True, kw_only=True):
    """A site at this instant."""

    site: Id
    kw_free: float
    """Facility power that deferrable work may draw right now: supply less all else."""
    accepts: bool = True
    """False: drained, lost or shedding."""


class RunningNow(Value, frozen=True, kw_only=True):
    """A job that runs, or has run under this schedule."""

    job: Id
    site: Id
    pool: Id
    chips: int
    """0: it pauses."""
    since_s: float
    """When it began or went on there."""
    checkpoint_at_s: float
    """Its newest checkpoint; its begin before the first."""
    done_chip_s: float = 0.0
    """At that pool within the current step of the schedule."""


class NowState(Value, frozen=True, kw_only=True):
    """Everything that is measured."""

    at_s: float
    pools: tuple[PoolNow, ...]
    sites: tuple[SiteNow, ...]
    running: tuple[RunningNow, ...] = ()


class RunNow(Value, frozen=True, kw_only=True):
    """A job is to have so many chips of a pool from now on."""

    job: Id
    site: Id
    pool: Id
    chips: int
    why: str


class YieldNow(Value, frozen=True, kw_only=True):
    """A job is to give up chips."""

    job: Id
    site: Id
    pool: Id
    chips: int
    """It gives up."""
    why: str
    checkpoint_first: bool
    """True: by plan, there is time. False: at once; the work since its last checkpoint is lost."""
    lost_chip_s: float
    """At most."""


class NowPlan(Value, frozen=True, kw_only=True):
    """What to do now; whoever is in none of the lists stays as it is."""

    runs: tuple[RunNow, ...]
    """All that run from now on, changed or not, by job."""
    yields: tuple[YieldNow, ...]
    checkpoints: tuple[Id, ...]
    """Jobs that are to write one now."""


class _Room:
    """Chips and power that are left while jobs are served one by one."""

    def __init__(self, problem: DeferProblem, state: NowState, step: int) -> None:
        accepts = {s.site: s.accepts for s in state.sites}
        self.chips = {
            (p.site, p.pool): p.chips_free if accepts.get(p.site, False) else 0 for p in state.pools
        }
        self.kw = {s.site: s.kw_free for s in state.sites}
        self.chip_kw = {
            (s.site, p.pool): s.pue[step] * max(0.0, p.chip_kw_full - p.chip_kw_idle)
            for s in problem.sites
            for p in s.pools
        }

    def most(self, key: tuple[str, str], wanted: int) -> int:
        """Chips of a pool that can be had, up to so many."""
        each = self.chip_kw.get(key, math.inf)
        by_power = self.kw.get(key[0], 0.0) / each if each > 0.0 else math.inf
        # A hair of slack: sums of equal chips round.
        fits = wanted if by_power == math.inf else math.floor(by_power + 1e-9)
        return max(0, min(wanted, self.chips.get(key, 0), fits))

    def take(self, key: tuple[str, str], chips: int) -> None:
        self.chips[key] = self.chips.get(key, 0) - chips
        self.kw[key[0]] = self.kw.get(key[0], 0.0) - chips * self.chip_kw.get(key, 0.0)


def now(problem: DeferProblem, answer: DeferAnswer, state: NowState) -> NowPlan:
    """Who runs where with how many whole chips, who yields, who writes a checkpoint."""
    # Whoever applied the answer has compared digests (`check`); here once a second that would be most of the work.
    assert (answer.start_s, answer.step_s) == (problem.start_s, problem.step_s), "its schedule"
    step = step_at(problem, state.at_s)
    room = _Room(problem, state, step)
    running = {one.job: one for one in state.running}
    wishes = {
        one.job.id: _wish(problem, answer, one, running.get(one.job.id), state, step)
        for one in problem.jobs
    }
    jobs = {one.job.id: one for one in problem.jobs}
    order = sorted(
        wishes, key=lambda name: _rank(jobs[name], running.get(name), wishes[name], state.at_s)
    )
    crowded = _crowded(room, state)
    runs, yields = [], []
    for name in order:
        wish, mine = wishes[name], running.get(name)
        chips = _granted(room, jobs[name], wish)
        if chips == 0 and _may_stay(jobs[name], mine, wish):
            assert mine is not None
            wish = RunNow(
                job=name,
                site=mine.site,
                pool=mine.pool,
                chips=mine.chips,
                why="no room yet elsewhere",
            )
            chips = _granted(room, jobs[name], wish)
        if chips > 0:
            runs.append(RunNow(job=name, site=wish.site, pool=wish.pool, chips=chips, why=wish.why))
        if mine is not None and mine.chips > 0:
            gone = _yield(jobs[name], mine, wish, chips, state.at_s, crowded)
            yields += [gone] if gone is not None else []
    for name in sorted(set(running) - set(jobs)):
        if running[name].chips > 0:
            yields.append(_stop(running[name], running[name].chips, "it is done or withdrawn", 0.0))
    return NowPlan(
        runs=tuple(sorted(runs, key=lambda run: run.job)),
        yields=tuple(sorted(yields, key=lambda one: one.job)),
        checkpoints=_due(jobs, runs, running, state.at_s),
    )


def _granted(room: _Room, one: DeferJob, wish: RunNow) -> int:
    """Chips that a job gets of what it would like; fewer than its least are none."""
    if wish.chips <= 0:
        return 0
    key = wish.site, wish.pool
    chips = room.most(key, wish.chips)
    chips = chips if chips >= one.job.chips_min else 0
    room.take(key, chips)
    return chips


def _may_stay(one: DeferJob, mine: RunningNow | None, wish: RunNow) -> bool:
    """Whether a job that was to move runs on where it is, since there is no room where it was to go."""
    if mine is None or mine.chips <= 0 or wish.chips <= 0 or mine.site not in one.sites:
        return False
    return (mine.site, mine.pool) != (wish.site, wish.pool)


def _crowded(room: _Room, state: NowState) -> set[tuple[str, str]]:
    """Pools whose jobs hold more than interactive work leaves: whoever goes there goes at once."""
    chips = {(one.site, one.pool): 0 for one in state.running}
    kw = dict.fromkeys((site for site, _ in chips), 0.0)
    for one in state.running:
        key = one.site, one.pool
        chips[key] += one.chips
        kw[one.site] += one.chips * room.chip_kw.get(key, 0.0)
    return {
        key
        for key, held in chips.items()
        if held > room.chips.get(key, 0) or kw[key[0]] > room.kw.get(key[0], 0.0) + 1e-9
    }


def step_at(problem: DeferProblem, at_s: float) -> int:
    """The step that holds an instant; the last one after the end."""
    end_s = problem.start_s
    for t, length_s in enumerate(problem.step_s):
        end_s += length_s
        if at_s < end_s:
            return t
    return len(problem.step_s) - 1


def latest_start_s(one: DeferJob, speed_chip_s: float) -> float:
    """When a job has to run on all chips it can use, to be in time at a pool that takes `speed_chip_s`."""
    needed = speed_chip_s / max(one.job.chips_max, 1) * (1.0 + SAFETY_SHARE) + one.job.restart_s
    return one.due_s - needed


def _wish(
    problem: DeferProblem,
    answer: DeferAnswer,
    one: DeferJob,
    mine: RunningNow | None,
    state: NowState,
    step: int,
) -> RunNow:
    """What a job would like, before anybody asks whether there is room."""
    job = one.job
    key, planned = _place(problem, answer, one, mine, step)
    nothing = RunNow(job=job.id, site="", pool="", chips=0, why="not planned now")
    if state.at_s < job.submitted_at_s or not any(job.chip_s.values()):
        return nothing
    pressing = _pressing(problem, one, mine, state)
    idle = key is None or planned[step] <= 0.0 or not _has_room(state, job, key)
    if key is None or (pressing is not None and idle):
        key = pressing
        if key is None:
            return nothing
        return RunNow(
            job=job.id, site=key[0], pool=key[1], chips=job.chips_max, why="its deadline presses"
        )
    here = mine is not None and (mine.site, mine.pool) == key
    active = mine is not None and here and mine.chips > 0
    # A job that must be elsewhere first has to be free of where it is: one place at a time.
    end_s = problem.start_s + sum(problem.step_s[: step + 1])
    done = mine.done_chip_s if mine is not None and here else 0.0
    left = planned[step] * problem.step_s[step] - done
    chips = min(job.chips_max, max(job.chips_min, math.ceil(planned[step] - 1e-6)))
    why = "planned"
    if left <= 1e-6 * problem.step_s[step] or planned[step] <= 0.0:
        chips, why = _bridge(
            problem, one, mine if active else None, planned, step, end_s - state.at_s
        )
    elif not active:
        run_s = left / chips + _ahead_s(problem, planned, step)
        if run_s < RESTARTS_WORTH * job.restart_s and pressing is None:
            return nothing
    if pressing is not None:
        chips, why = max(chips, job.chips_max), "its deadline presses"
    if chips <= 0:
        return nothing
    return RunNow(job=job.id, site=key[0], pool=key[1], chips=chips, why=why)


def _place(
    problem: DeferProblem, answer: DeferAnswer, one: DeferJob, mine: RunningNow | None, step: int
) -> tuple[tuple[str, str] | None, tuple[float, ...]]:
    """Where a job is to be, and its planned chips there: most work from now on; where it runs, if that is planned now."""
    plan = answer.plan_of(one.job.id)
    runs = [run for run in plan.runs if run.site in one.sites] if plan is not None else []
    if not runs:
        return None, ()
    if mine is not None and mine.chips > 0:
        for run in runs:
            if (run.site, run.pool) == (mine.site, mine.pool) and run.chips[step] > 0.0:
                return (run.site, run.pool), run.chips
    ahead = [
        sum(c * s for c, s in zip(run.chips[step:], problem.step_s[step:], strict=True))
        for run in runs
    ]
    best = max(range(len(runs)), key=lambda i: (runs[i].chips[step] > 0.0, ahead[i], -i))
    if ahead[best] <= 0.0:
        return None, ()
    return (runs[best].site, runs[best].pool), runs[best].chips


def _bridge(
    problem: DeferProblem,
    one: DeferJob,
    active: RunningNow | None,
    planned: tuple[float, ...],
    step: int,
    gap_s: float,
) -> tuple[int, str]:
    """Chips kept over a short gap: a restart would cost more than running on."""
    job = one.job
    if active is None or job.restart_s <= 0.0:
        return 0, ""
    limit_s = min(LOOK_AHEAD_S, RESTARTS_WORTH * job.restart_s)
    for t in range(step + 1, len(planned)):
        if gap_s > limit_s:
            return 0, ""
        if planned[t] > 0.0:
            return max(job.chips_min, math.ceil(planned[t] - 1e-6)), "goes on soon"
        gap_s += problem.step_s[t]
    return 0, ""


def _ahead_s(problem: DeferProblem, planned: tuple[float, ...], step: int) -> float:
    """How long the plan goes on without a gap after this step."""
    total = 0.0
    for t in range(step + 1, len(planned)):
        if planned[t] <= 0.0:
            break
        total += problem.step_s[t]
    return total


def _pressing(
    problem: DeferProblem, one: DeferJob, mine: RunningNow | None, state: NowState
) -> tuple[str, str] | None:
    """Pool where a job has to run now to be in time; None while there is slack, or where it may run nowhere.

    Where it is, else the fastest lawful pool that has free chips and its state, else one to which its state has a way; a job that is late
    already is pressing, too.
    """
    accepts = {s.site for s in state.sites if s.accepts}
    ways = {way.target for way in problem.paths if way.source == one.state_at and way.mbit_s > 0.0}
    found = []
    for site in problem.sites:
        if site.site not in one.sites or site.site not in accepts:
            continue
        for pool in site.pools:
            chip_s = one.job.chip_s.get(pool.accelerator, 0.0)
            here = mine is not None and (mine.site, mine.pool) == (site.site, pool.pool)
            reads = _reads(one, site.site) and (site.site == one.state_at or site.site in ways)
            if chip_s > 0.0 and (here or reads):
                room = _has_room(state, one.job, (site.site, pool.pool))
                moves = site.site != one.state_at
                found.append((not room, not here, moves, chip_s, site.site, pool.pool))
    if not found:
        return None
    best = min(found)
    if state.at_s < latest_start_s(one, best[3]):
        return None
    return best[4], best[5]


def _has_room(state: NowState, job: Job, key: tuple[str, str]) -> bool:
    """Whether interactive work leaves a pool chips enough for a job, whoever else is on them."""
    return any((p.site, p.pool) == key and p.chips_free >= job.chips_min for p in state.pools)


def _reads(one: DeferJob, site: str) -> bool:
    """Whether its data is there: unplanned work moves none over the WAN."""
    return one.job.data_gb <= 0.0 or site == one.job.home or site in one.data_at


def _rank(
    one: DeferJob, mine: RunningNow | None, wish: RunNow, at_s: float
) -> tuple[float, float, bool, str]:
    """Who is served first: most weight, least slack on the fastest chip, who runs already, then by name."""
    slack_s = latest_start_s(one, min(one.job.chip_s.values(), default=0.0)) - at_s
    runs = mine is not None and mine.chips > 0 and (mine.site, mine.pool) == (wish.site, wish.pool)
    return (-one.job.weight, slack_s, not runs, one.job.id)


def _yield(
    one: DeferJob,
    mine: RunningNow,
    wish: RunNow,
    chips: int,
    at_s: float,
    crowded: set[tuple[str, str]],
) -> YieldNow | None:
    """What a running job gives up."""
    stays = wish.chips > 0 and (wish.site, wish.pool) == (mine.site, mine.pool)
    kept = chips if stays else 0
    if kept >= mine.chips:
        return None
    short = stays and chips < min(wish.chips, mine.chips)
    by_plan = not short and (mine.site, mine.pool) not in crowded
    lost_s = 0.0 if by_plan else _unsaved_s(one, mine, at_s)
    if not by_plan:
        why = "interactive work or power needs its chips"
    elif wish.chips > 0 and not stays:
        why = f"moves to {wish.site}"
    else:
        why = "not planned now"
    return _stop(mine, mine.chips - kept, why, lost_s, by_plan=by_plan)


def _stop(
    mine: RunningNow, chips: int, why: str, lost_s: float, *, by_plan: bool = True
) -> YieldNow:
    return YieldNow(
        job=mine.job,
        site=mine.site,
        pool=mine.pool,
        chips=chips,
        why=why,
        checkpoint_first=by_plan,
        lost_chip_s=lost_s * mine.chips,
    )


def _unsaved_s(one: DeferJob, mine: RunningNow, at_s: float) -> float:
    """Time since its newest checkpoint; of a job whose results are committed one by one nothing is lost."""
    if one.job.checkpoint_every_s <= 0.0:
        return 0.0
    return max(0.0, at_s - mine.checkpoint_at_s)


def _due(
    jobs: dict[str, DeferJob], runs: list[RunNow], running: dict[str, RunningNow], at_s: float
) -> tuple[Id, ...]:
    found = []
    for run in runs:
        mine, every_s = running.get(run.job), jobs[run.job].job.checkpoint_every_s
        if mine is None or mine.chips == 0 or every_s <= 0.0:
            continue
        # Asked for early enough that it is written before the interval has passed.
        early_s = min(CALL_EVERY_S, 0.5 * every_s)
        stays = (mine.site, mine.pool) == (run.site, run.pool)
        if stays and at_s - mine.checkpoint_at_s >= every_s - early_s:
            found.append(run.job)
    return tuple(sorted(found))

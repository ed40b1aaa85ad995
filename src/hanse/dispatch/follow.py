"""What a schedule says right now, to whoever carries it out: a site's battery, and a job that is many small pieces of work.

Here: plans as they travel to sites, and two pure rules, `battery_now` and `work_now`, that the live league and the twin call alike; what
holds where a plan is missing or too old. Not here: the schedule (`defer`), jobs that hold whole chips and write checkpoints
(`defer_now`), doing any of it (`live`, `twin`).

Rules of a battery:

* A plan holds for `PLAN_VALID_S` from its begin. Before, after and without one a battery takes own surplus and serves the site's own
  load (`BY_SURPLUS`): that needs no forecast, and never imports a kWh that would not be imported without a battery.
* What a plan takes from the sun it takes from the sun: where less shines than was foreseen the battery charges by so much less, and
  does not fill up from the grid at whatever that costs now. What it was to take from the grid it takes.
* Own power that nobody could take goes into the battery, planned or not.
* Where import is charged by its highest quarter of an hour, the battery holds import at what this month has cost already or the plan was
  to cost: it takes less from the grid than planned, then gives more. A cloud, or people nobody foresaw, make no new peak while it lasts.
* What the connection cannot give of the load the battery gives, planned or not, as far as it can: `energy.balance` lets no other rule go before.

Rules of work in small pieces (lines of a batch):

* In each step of a plan so much is begun at each site as the plan's mean for the step comes to, from the step's begin on. What was missed
  is not carried into the next step: it is in the next plan. Where another plan breaks a step off, what was begun beyond its even pace counts
  in the new plan's step (`ahead`): a schedule that is made anew each minute lets no more begin than one each five.
* Work whose deadline presses begins wherever there is room: when what is left takes all the time that is left, less a safety share.
* Without a plan that holds, work is spread evenly over the first `PACE_SHARE` of its time: nobody knows better hours then, and nothing is
  late for having waited.

Whether there is room, and who gives way, is decided at the engines, by rules that no plan changes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final, Literal, NamedTuple, TypeVar

from msgspec.structs import replace

from hanse.dispatch.defer_problem import (
    DeferAnswer,
    DeferJob,
    DeferProblem,
    DeferSite,
    SitePlan,
    highest_quarter_kw,
)
from hanse.energy.records import BY_PLAN, BY_SURPLUS
from hanse.model.fleet import Id, Value
from hanse.signals.clock import Clock
from hanse.units import s_from_hours

PLAN_VALID_S: Final = s_from_hours(2.0)
"""The fine steps of a plan; twice the hour between two forecasts of weather and carbon, so that one missed is none."""
SAFETY_SHARE: Final = 0.25
"""Of what the work left will take: speeds are known to a few percent, room beside people is not."""
PACE_SHARE: Final = 0.8
"""Of a job's time, in which it would be done at an even pace; the rest is for hours without room."""


class BatteryPlan(Value, frozen=True, kw_only=True):
    """One site's battery; tuples are [step], kW at the site's supply."""

    start_s: float
    """Unix seconds UTC."""
    step_s: tuple[float, ...]
    own_charge_kw: tuple[float, ...]
    """From own generation beyond the load, as foreseen."""
    grid_charge_kw: tuple[float, ...]
    discharge_kw: tuple[float, ...]
    peak_kw: float | None = None
    """Import that the demand charge counts anyway: this month's highest quarter of an hour, or the plan's. None: none is levied."""


class BatteryOrder(Value, frozen=True, kw_only=True):
    """What a battery does now, as `energy.balance` takes it."""

    rule: int
    """`BY_PLAN` or `BY_SURPLUS` of `energy.records`."""
    charge_kw: float = 0.0
    discharge_kw: float = 0.0
    why: str
    """For people."""


class WorkRun(Value, frozen=True, kw_only=True):
    """A job at one site."""

    site: Id
    shares: tuple[float, ...]
    """[step] of what was left of the job when the plan was made."""


class WorkPlan(Value, frozen=True, kw_only=True):
    """When and where one job's pieces begin."""

    job: Id
    start_s: float
    step_s: tuple[float, ...]
    runs: tuple[WorkRun, ...]
    need_s: float
    """What was left takes so long in all the room foreseen for it; infinite where none was."""
    requests: float = 0.0
    """That were left, of a job of requests."""


class WorkState(Value, frozen=True, kw_only=True):
    """How a job stands."""

    submitted_at_s: float
    deadline_at_s: float
    done_share: float
    """Of the whole job."""
    left_share: float = 1.0
    """Of what was left when the plan was made."""
    begun: Mapping[Id, float] = {}
    """By site, within the step that holds now: in the unit of `WorkRun.shares`."""


class WorkOrder(Value, frozen=True, kw_only=True):
    """What may begin now."""

    kind: Literal["planned", "waits", "presses", "paced"]
    shares: dict[Id, float] = {}
    """By site, until the step ends. Without a plan: under the name `""`, anywhere, of the whole job."""
    step: int = -1
    """Of the plan; its counts begin anew with each."""

    @property
    def anywhere(self) -> bool:
        """Whether no site is named: law and room decide."""
        return self.kind in ("presses", "paced")


class SiteSchedule(Value, frozen=True, kw_only=True):
    """All that one site is to follow, on the true clock."""

    site: Id
    epoch: int
    issued_at_s: float
    """Of two schedules of an epoch the later holds."""
    valid_s: float
    """From each plan's begin."""
    battery: BatteryPlan | None = None
    works: tuple[WorkPlan, ...] = ()
    """Of jobs whose home the site is."""

    @property
    def version(self) -> tuple[int, float]:
        """Rises with every schedule."""
        return self.epoch, self.issued_at_s


def site_schedules(
    problem: DeferProblem, answer: DeferAnswer, *, clock: Clock, epoch: int, at_s: float
) -> tuple[SiteSchedule, ...]:
    """A schedule cut up by site, each plan brought to the true clock; a site with nothing to follow is told so too."""
    works: dict[str, list[WorkPlan]] = {}
    for one in problem.jobs:
        plan = work_plan_of(problem, answer, one)
        if plan is not None and one.job.service is not None:
            works.setdefault(one.job.home, []).append(_true(plan, clock))
    batteries = {
        site.site: _true(battery_plan_of(answer, plan, site), clock)
        for site, plan in zip(problem.sites, answer.sites, strict=True)
        if site.battery is not None
    }
    return tuple(
        SiteSchedule(
            site=site.site,
            epoch=epoch,
            issued_at_s=at_s,
            valid_s=PLAN_VALID_S / clock.speed,
            battery=batteries.get(site.site),
            works=tuple(works.get(site.site, ())),
        )
        for site in problem.sites
    )


P = TypeVar("P", BatteryPlan, WorkPlan)


def _true(plan: P, clock: Clock) -> P:
    """A plan by the true clock."""
    if clock.speed == 1.0:
        return plan
    moved = replace(
        plan,
        start_s=clock.true_s(plan.start_s),
        step_s=tuple(s / clock.speed for s in plan.step_s),
    )
    if isinstance(moved, WorkPlan):
        moved = replace(moved, need_s=moved.need_s / clock.speed)
    return moved


def step_of(start_s: float, step_s: tuple[float, ...], at_s: float) -> int:
    """The step that holds an instant; -1 before the first and after the last."""
    end_s = start_s
    if at_s < start_s:
        return -1
    for t, length_s in enumerate(step_s):
        end_s += length_s
        if at_s < end_s:
            return t
    return -1


class Span(NamedTuple):
    """Steps one after the other in which something goes on."""

    begin_s: float
    end_s: float
    mean: float


def spans(
    start_s: float, step_s: tuple[float, ...], values: Sequence[float], least: float = 0.0
) -> Iterator[Span]:
    """Where values [step] are above `least`."""
    begin, total, at = 0.0, 0.0, start_s
    for length, value in zip((*step_s, 0.0), (*values, 0.0), strict=True):
        if value > least:
            begin = begin if total else at
            total += value * length
        elif total:
            yield Span(begin, at, total / (at - begin))
            total = 0.0
        at += length


def holds(start_s: float, at_s: float, valid_s: float = PLAN_VALID_S) -> bool:
    """Whether a plan of `start_s` still counts."""
    return start_s <= at_s < start_s + valid_s


# --- batteries


def battery_plan_of(answer: DeferAnswer, plan: SitePlan, site: DeferSite) -> BatteryPlan:
    """A site's part of a schedule; of what charges it, own surplus comes first, as in the balance."""
    own, grid = [], []
    for t, charge_kw in enumerate(plan.charge_kw):
        given = plan.facility_kw[t] + charge_kw + plan.export_kw[t] + plan.curtailed_kw[t]
        other = plan.discharge_kw[t] + plan.import_kw[t] + plan.unserved_kw[t]
        surplus_kw = max(0.0, given - other - plan.facility_kw[t])
        own.append(min(charge_kw, surplus_kw))
        grid.append(max(0.0, charge_kw - surplus_kw))
    peak_kw = None
    if site.usd_per_kw_month > 0.0:
        peak_kw = max(site.peak_import_kw, highest_quarter_kw(plan.import_kw, answer.step_s))
    return BatteryPlan(
        start_s=answer.start_s,
        step_s=answer.step_s,
        own_charge_kw=tuple(own),
        grid_charge_kw=tuple(grid),
        discharge_kw=plan.discharge_kw,
        peak_kw=peak_kw,
    )


def battery_now(
    plan: BatteryPlan | None,
    at_s: float,
    *,
    surplus_kw: float,
    export_kw_max: float,
    import_kw_max: float = float("inf"),
    valid_s: float = PLAN_VALID_S,
) -> BatteryOrder:
    """What the battery does at an instant.

    Args:
        plan: The newest that the site got; None: it never got one.
        at_s: Now, on the plan's clock.
        surplus_kw: Own generation less the load, as last metered; below zero where the load is more.
        export_kw_max: What the connection takes of it.
        import_kw_max: What the connection gives; without it the order says nothing of what the balance takes beyond it.
        valid_s: How long a plan counts, on the same clock.
    """
    if plan is None:
        return BatteryOrder(rule=BY_SURPLUS, why="no plan: own surplus in, own load out")
    step = step_of(plan.start_s, plan.step_s, at_s)
    if step < 0 or not holds(plan.start_s, at_s, valid_s):
        return BatteryOrder(
            rule=BY_SURPLUS, why="the plan is too old: own surplus in, own load out"
        )
    own_kw = min(plan.own_charge_kw[step], max(surplus_kw, 0.0))
    charge_kw = own_kw + plan.grid_charge_kw[step]
    discharge_kw = plan.discharge_kw[step]
    spilled_kw = max(0.0, surplus_kw - export_kw_max)
    if spilled_kw > charge_kw:
        return BatteryOrder(
            rule=BY_PLAN, charge_kw=spilled_kw, why="own power that nobody else can take"
        )
    if charge_kw > 0.0 or discharge_kw <= 0.0:
        why = "planned" if charge_kw > 0.0 else "planned: it waits"
        order = BatteryOrder(rule=BY_PLAN, charge_kw=charge_kw, why=why)
    else:
        order = BatteryOrder(rule=BY_PLAN, discharge_kw=discharge_kw, why="planned")
    if plan.peak_kw is not None:
        order = _below_peak(order, surplus_kw, plan.peak_kw)
    return _in_shortage(order, -surplus_kw - import_kw_max)


def _in_shortage(order: BatteryOrder, short_kw: float) -> BatteryOrder:
    """The order, where the load takes so much more than own power and connection give."""
    if short_kw <= 0.0 or (order.charge_kw <= 0.0 and short_kw <= order.discharge_kw):
        return order
    return BatteryOrder(
        rule=BY_PLAN,
        discharge_kw=max(short_kw, order.discharge_kw),
        why="the connection gives too little: it covers the rest as far as it can",
    )


def _below_peak(order: BatteryOrder, surplus_kw: float, peak_kw: float) -> BatteryOrder:
    """The order, changed as little as keeps import at `peak_kw` as far as the battery can."""
    over_kw = order.charge_kw - order.discharge_kw - surplus_kw - peak_kw
    if over_kw <= 0.0:
        return order
    why = "it keeps import below this month's peak"
    if over_kw < order.charge_kw:
        return BatteryOrder(rule=BY_PLAN, charge_kw=order.charge_kw - over_kw, why=why)
    discharge_kw = order.discharge_kw + over_kw - order.charge_kw
    return BatteryOrder(rule=BY_PLAN, discharge_kw=discharge_kw, why=why)


# --- work


def work_plan_of(problem: DeferProblem, answer: DeferAnswer, one: DeferJob) -> WorkPlan | None:
    """A job's part of a schedule; None where it has none."""
    plan = answer.plan_of(one.job.id)
    if plan is None:
        return None
    chip_s = {
        (site.site, pool.pool): one.job.chip_s.get(pool.accelerator, 0.0)
        for site in problem.sites
        for pool in site.pools
    }
    by_site: dict[str, list[float]] = {}
    for run in plan.runs:
        shares = by_site.setdefault(run.site, [0.0] * len(answer.step_s))
        for t, chips in enumerate(run.chips):
            shares[t] += chips * answer.step_s[t] / chip_s[run.site, run.pool]
    return WorkPlan(
        job=one.job.id,
        start_s=answer.start_s,
        step_s=answer.step_s,
        runs=tuple(WorkRun(site=s, shares=tuple(by_site[s])) for s in sorted(by_site)),
        need_s=_need_s(problem, one),
        requests=one.job.requests,
    )


def _need_s(problem: DeferProblem, one: DeferJob) -> float:
    """All that is left, in as many chips as it may have at once, the quickest first, that are free at lawful sites on the mean of the time
    until its deadline.
    """
    starts_s, at_s = [], problem.start_s
    for length_s in problem.step_s:
        starts_s.append(at_s)
        at_s += length_s
    steps = max(1, sum(start_s < one.job.deadline_at_s for start_s in starts_s))
    whole_s = sum(problem.step_s[:steps])
    found: list[tuple[float, float]] = []
    """Chip seconds that all of it takes there, and chips."""
    for site in problem.sites:
        for pool in site.pools if site.site in one.sites else ():
            chip_s = one.job.chip_s.get(pool.accelerator, 0.0)
            if chip_s > 0.0:
                free = pool.chips_free[:steps]
                free_s = sum(c * s for c, s in zip(free, problem.step_s, strict=False))
                found.append((chip_s, free_s / whole_s))
    per_s, left = 0.0, float(one.job.chips_max)
    for chip_s, chips in sorted(found):
        per_s += min(chips, left) / chip_s
        left -= min(chips, left)
    return 1.0 / per_s if per_s > 0.0 else float("inf")


def work_now(
    plan: WorkPlan | None, state: WorkState, at_s: float, *, valid_s: float = PLAN_VALID_S
) -> WorkOrder:
    """What of a job may begin at an instant, and where; `plan` and `state` on one clock."""
    step = -1 if plan is None else step_of(plan.start_s, plan.step_s, at_s)
    if plan is None or step < 0 or not holds(plan.start_s, at_s, valid_s):
        return _paced(state, at_s)
    left_s = state.deadline_at_s - at_s
    if plan.need_s * state.left_share * (1.0 + SAFETY_SHARE) >= left_s:
        return WorkOrder(kind="presses", step=step)
    shares = {
        run.site: run.shares[step] - state.begun.get(run.site, 0.0)
        for run in plan.runs
        if run.shares[step] > 0.0
    }
    room = {site: share for site, share in shares.items() if share > 0.0}
    return WorkOrder(kind="planned" if room else "waits", shares=room, step=step)


def ahead(begun: float, planned: float, elapsed_share: float) -> float:
    """Of what was begun in a step: what an even pace would not have begun yet after a share of the step, 0 to 1."""
    return max(0.0, begun - planned * min(max(elapsed_share, 0.0), 1.0))


def _paced(state: WorkState, at_s: float) -> WorkOrder:
    whole_s = max(PACE_SHARE * (state.deadline_at_s - state.submitted_at_s), 1e-9)
    due = min(1.0, max(0.0, (at_s - state.submitted_at_s) / whole_s))
    if due <= state.done_share:
        return WorkOrder(kind="waits")
    return WorkOrder(kind="paced", shares={"": due - state.done_share})

"""The slow loop at fleet scope: when placement and schedule are decided anew, and whether an answer may be applied.

Here: `SlowScope`, the half of the fleet's Dispatcher that asks for solutions and takes them. Not here: the problems and their solution
(`place`, `defer`), forecasts (an `OutlookIssued` brings them), how a placement becomes another (`rolling`), doing any of it (`live`, `twin`).

Solving takes longer than an event may: the dispatcher asks by an action, the shell solves beside it, and the answer comes back as an
event. By then the world may be another one: an answer is applied only if it answers the question that is open, if a check apart from the
solver's program (it shares the maximum flow that says what a failure leaves) finds nothing wrong with it, if the same sites still host, and if
the fleet can carry it out. At most one question of each kind is open.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

from msgspec.structs import replace

from hanse.dispatch import actions as act
from hanse.dispatch import events as ev
from hanse.dispatch.actions import Action
from hanse.dispatch.belief import Belief
from hanse.dispatch.defer import DeferAnswer, DeferProblem
from hanse.dispatch.defer import check as defer_check
from hanse.dispatch.defer_build import Measured
from hanse.dispatch.defer_build import problem_from as defer_problem
from hanse.dispatch.follow import PLAN_VALID_S, site_schedules
from hanse.dispatch.place_check import check as place_check
from hanse.dispatch.place_explain import changes
from hanse.dispatch.place_problem import problem_from as place_problem
from hanse.dispatch.place_values import PlaceAnswer, PlaceProblem
from hanse.dispatch.rolling import league_problem
from hanse.dispatch.room import asked_for, by_clock
from hanse.model.fleet import Placement
from hanse.model.job import Job
from hanse.signals.clock import TRUE_CLOCK
from hanse.signals.outlook import UNBOUND_KW, Outlook

SOURCE: Final = "optimiser"
SLOTS_LEAST, SLOTS_MOST = 0.9, 1.25
"""A replica that runs stays as it is while its slots are within so many times what was sized for: fewer would serve less than the answer
counts on, more would write slower; forecasts of lengths are no better than that."""
CONTEXT_LEAST: Final = 0.5
"""And while a slot holds so many times the tokens that it is to hold, which are several times the mean request's."""
ANSWER_S_MAX: Final = 300.0
"""A question open for so long is asked anew: whoever was to answer is gone. 200 sites with thirty services take a minute, 100 with twenty a hundred seconds."""
NEWS_MAX: Final = 8
"""Sites in one line of the log."""
CALM_S: Final = 5.0
"""Between two questions asked because something happened: a site that is lost takes its engines with it, one by one."""


class SlowScope:
    """Questions out, answers in."""

    source = SOURCE
    """Whose placements these are."""

    def __init__(self) -> None:
        self.outlook: Outlook | None = None
        self.jobs: tuple[Job, ...] = ()
        self.measured = Measured()
        self._place_open: PlaceProblem | None = None
        self._defer_open: DeferProblem | None = None
        self._place_due = self._defer_due = False
        self._asked_at_s = {"place": float("-inf"), "defer": float("-inf")}
        self._defer_clock = TRUE_CLOCK
        """By which the open schedule is asked for."""
        self._served: dict[tuple[str, str], float] = {}
        """(service, site) -> requests a second that the placement in force expects to be served there."""
        self._supply_kw: dict[str, float] = {}
        """By site: what its connection, or a load target, lets it draw in the placement's window."""
        self._late: frozenset[str] = frozenset()
        """Jobs that a schedule found no room for in time; until they end, since the replica that they then get is why there is room."""
        self._said: tuple[str, ...] = ()
        """What people were last told of jobs."""
        self._epoch = 0

    def note(self, event: ev.Event, *, changed: bool) -> None:
        """Something that a placement rests on is not what it was."""
        if isinstance(event, ev.SiteLost | ev.SiteHeard | ev.EngineFailing | ev.DrainRequested):
            self._place_due |= changed
            self._defer_due |= changed
        elif isinstance(event, ev.FleetLoaded | ev.EpochGranted):
            # Who was asked under another fleet or leader answers in vain, and what an earlier leader foresaw is old.
            self._place_open = self._defer_open = self.outlook = None
            self._place_due = self._defer_due = True

    def place_again(self) -> None:
        """Whether a silent site is cut off or dead is known, or otherwise than before."""
        self._place_due = self._defer_due = True

    def handle(
        self, belief: Belief, event: ev.Event, epoch: int
    ) -> tuple[list[Action], tuple[Placement, ...] | None]:
        """What is to be done, and a placement that is to be in force from now on."""
        self._epoch = epoch
        if isinstance(event, ev.OutlookIssued):
            if self.outlook is not None and event.outlook.clock != self.outlook.clock:
                # Who was asked by another clock answers in vain, and what sites follow is of hours that nobody plays any more.
                self._place_open = self._defer_open = None
                self._place_due = self._defer_due = True
            self.outlook = event.outlook
            self._defer_due |= bool(self.jobs)
            # Whoever asks for what stands nowhere is not to wait until the next placement is due.
            asked = {d.service for d in event.outlook.demand if max(d.requests_per_s_high) > 0.0}
            self._place_due |= any(not is_placed(belief, service) for service in asked)
            return self._see_supply(belief, event.outlook, event.at_s), None
        if isinstance(event, ev.JobsChanged):
            self._defer_due |= _kinds(event.jobs) != _kinds(self.jobs)
            self.jobs, self.measured = event.jobs, event.measured
        elif isinstance(event, ev.PlacementSolved):
            return self._take_placement(belief, event.answer)
        elif isinstance(event, ev.ScheduleSolved):
            return self._take_schedule(event.answer, event.at_s), None
        return [], None

    def _see_supply(self, belief: Belief, outlook: Outlook, now_s: float) -> list[Action]:
        """Where a connection or a load target is not what it was, nobody waits until the next placement is due."""
        clock = outlook.clock
        window_s = clock.speed * belief.fleet.slow_loop.window_s
        known = supply_kw(outlook, steps_of(outlook, clock.played_s(now_s), window_s))
        before, self._supply_kw = self._supply_kw, known
        if not before or known == before:
            return []
        self._place_due = self._defer_due = True
        news = [f"{site} {kw:g} kW" for site, kw in known.items() if before.get(site) != kw]
        return [self._log("info", f"may draw now: {', '.join(news[:NEWS_MAX])}")] if news else []

    def ask(self, belief: Belief, now_s: float, epoch: int) -> list[Action]:
        """Questions that are due."""
        self._epoch = epoch
        done: list[Action] = []
        loop = belief.fleet.slow_loop
        if self.outlook is None or not loop.places:
            return done
        clock = self.outlook.clock
        played_s = clock.played_s(now_s)
        outlook = replace(
            self.outlook,
            demand=(
                *self.outlook.demand,
                *asked_for(self.jobs, self.outlook, self._late, now_s),
            ),
        )
        # An outlook without any demand says that nobody has counted yet, not that nobody will come.
        if outlook.demand and self._is_due(
            "place", now_s, self._place_due, self._place_open, loop.place_every_s
        ):
            self._place_due = False
            problem = place_problem(
                belief,
                outlook,
                window=steps_of(outlook, played_s, clock.speed * loop.window_s),
                peak_import_kw=self.measured.peak_import_kw,
                held_kwh=self.measured.held_kwh,
            )
            self._place_open = problem
            done.append(act.SolvePlacement(epoch=epoch, problem=problem))
        reaches_s = self.outlook.start_s + self.outlook.count * self.outlook.step_s
        if played_s >= reaches_s:
            return done  # nobody foresees these hours: plans run out, and batteries and batches go by their own rules
        busy = bool(self.jobs) or any(s.power.battery_kwh > 0.0 for s in belief.fleet.sites)
        # By a clock that runs ahead plans are soon over.
        every_s = min(loop.schedule_every_s, PLAN_VALID_S / clock.speed / 2.0)
        if busy and self._is_due("defer", now_s, self._defer_due, self._defer_open, every_s):
            self._defer_due = False
            schedule = defer_problem(
                belief,
                self.outlook,
                [by_clock(job, clock) for job in self.jobs],
                start_s=played_s,
                measured=self.measured,
                served=self._served,
            )
            self._defer_open, self._defer_clock = schedule, clock
            done.append(act.SolveSchedule(epoch=epoch, problem=schedule))
        return done

    def _is_due(
        self,
        what: Literal["place", "defer"],
        now_s: float,
        due: bool,
        unanswered: object | None,
        every_s: float,
    ) -> bool:
        waited_s = now_s - self._asked_at_s[what]
        lost = unanswered is not None
        if waited_s < (ANSWER_S_MAX if lost else CALM_S if due else every_s):
            return False
        self._asked_at_s[what] = now_s
        return True

    def _take_placement(
        self, belief: Belief, answer: PlaceAnswer
    ) -> tuple[list[Action], tuple[Placement, ...] | None]:
        asked, self._place_open = self._place_open, None
        if asked is None or answer.problem != asked.digest():
            return [self._log("warning", "an answer to a placement that nobody asks for")], None
        wrong = place_check(asked, answer)
        hosts = [belief.sites[site.id].hosts for site in asked.sites]
        if hosts != [site.hosts for site in asked.sites]:
            wrong.append("a site was lost, drained or came back while it was solved")
        unfit = league_problem(belief.fleet, answer.placements)
        placements = as_running(belief.placements, answer.placements)
        apart = {name for name, known in belief.sites.items() if known.apart}
        if _at(apart, placements) != _at(apart, belief.placements):
            wrong.append("a site was cut off while it was solved, and can be told nothing")
        if wrong or unfit:
            text = "; ".join([*wrong, unfit] if unfit else wrong)
            return [self._log("warning", f"placement refused, what runs goes on: {text}")], None
        plan_around(belief, asked)
        self._served = served_by(asked, answer)
        self._defer_due |= bool(self.jobs) and placements != belief.placements
        said = changes(belief.placements, placements)
        notes = [f"{one.kind} {one.what}: {one.why}; {one.cure}" for one in answer.violated]
        done: list[Action] = [self._log("warning", note) for note in notes]
        if said:
            done.append(self._log("info", f"placement: {said} ({answer.cost.usd:.4g} USD/h)"))
        return done, placements

    def _take_schedule(self, answer: DeferAnswer, at_s: float) -> list[Action]:
        asked, self._defer_open = self._defer_open, None
        if asked is None or answer.problem != asked.digest():
            return [self._log("warning", "an answer to a schedule that nobody asks for")]
        wrong = defer_check(asked, answer)
        if wrong:
            return [self._log("warning", f"schedule refused: {'; '.join(wrong)}")]
        jobs = {one.job.id for one in asked.jobs}
        late = {v.where for v in answer.violations}
        self._late = frozenset(jobs & (self._late | late))
        sites = site_schedules(asked, answer, clock=self._defer_clock, epoch=self._epoch, at_s=at_s)
        done: list[Action] = [act.SendSchedule(epoch=self._epoch, answer=answer, sites=sites)]
        said = runs_now(answer)
        if said != self._said:
            self._said = said
            done += [self._log("info", f"schedule: {line}") for line in said]
        return done

    def _log(self, level: Literal["info", "warning"], text: str) -> act.Log:
        return act.Log(epoch=self._epoch, level=level, text=text)


def plan_around(belief: Belief, asked: PlaceProblem) -> None:
    """What of what does not start an answer does not count on: what was kept, or stood as it is, in its question."""
    stands = {*asked.kept, *(offer.placed for offer in asked.offers)}
    for name, site in belief.sites.items():
        site.around = frozenset(
            key
            for p in belief.placements
            if p.site == name and p in stands
            if (key := (p.service, p.variant, p.pool)) in site.failing
        )


def is_placed(belief: Belief, service: str) -> bool:
    """Whether a site that hosts is to run any replica of a service."""
    return any(
        p.service == service and p.replicas > 0 and belief.sites[p.site].hosts
        for p in belief.placements
    )


def _kinds(jobs: Sequence[Job]) -> list[Job]:
    """Jobs without how far they are: progress alone asks for no new schedule before its time."""
    return [
        replace(
            job,
            chip_s=dict.fromkeys(job.chip_s, 0.0),
            requests=0.0,
            request_s={},
            data_gb=0.0,
            input_tokens=0.0,
            output_tokens=0.0,
        )
        for job in jobs
    ]


def served_by(problem: PlaceProblem, answer: PlaceAnswer) -> dict[tuple[str, str], float]:
    """(service, site) -> requests a second that a placement expects to be served there."""
    found: dict[tuple[str, str], float] = {}
    for flow in answer.flows:
        row, offer = problem.demand[flow.demand], problem.offers[flow.offer]
        site = problem.sites[problem.pools[offer.pool].site].id
        key = problem.services[row.service].id, site
        found[key] = found.get(key, 0.0) + row.requests_per_s * flow.share
    return found


def runs_now(answer: DeferAnswer) -> tuple[str, ...]:
    """Where each job of a schedule runs in its first step, in words."""
    said = []
    for plan in answer.jobs:
        sites = sorted({run.site for run in plan.runs if run.chips[0] > 0.0})
        if plan.runs or plan.done_share < 1.0:
            said.append(f"{plan.job}: {'at ' + ', '.join(sites) if sites else 'waits'}")
    return tuple(said)


def steps_of(outlook: Outlook, now_s: float, window_s: float) -> tuple[int, int]:
    """[first, end) of an outlook's steps that a window from now on touches; the last ones where the outlook is older than it reaches."""
    last = outlook.count - 1
    first = int((now_s - outlook.start_s) // outlook.step_s)
    end = -int(-(now_s + window_s - outlook.start_s) // outlook.step_s)
    first = min(max(first, 0), last)
    return first, min(max(end, first + 1), last + 1)


def supply_kw(outlook: Outlook, window: tuple[int, int]) -> dict[str, float]:
    """By site: the least that its connection gives, or that it is asked to draw at most, in some steps."""
    steps = slice(*window)
    return {
        site.site: min(*site.grid_kw_max[steps], *site.load_kw_max[steps], UNBOUND_KW)
        for site in outlook.sites
    }


def _at(sites: set[str], placements: Sequence[Placement]) -> list[Placement]:
    """Those of some sites, in one order."""
    mine = [p for p in placements if p.site in sites]
    return sorted(mine, key=lambda p: (p.site, p.pool, p.service, p.variant, p.chips or 0))


def as_running(before: Sequence[Placement], after: Sequence[Placement]) -> tuple[Placement, ...]:
    """A placement with slots and context of replicas that are there already: a forecast that is a little longer restarts nothing."""
    known = {(p.site, p.pool, p.service, p.variant, p.chips): p for p in before}
    found = []
    for p in after:
        old = known.get((p.site, p.pool, p.service, p.variant, p.chips))
        if (
            old is not None
            and SLOTS_LEAST * p.slots <= old.slots <= SLOTS_MOST * p.slots
            and old.context_tokens / old.slots >= CONTEXT_LEAST * p.context_tokens / p.slots
        ):
            p = replace(p, slots=old.slots, context_tokens=old.context_tokens)
        found.append(p)
    return tuple(found)

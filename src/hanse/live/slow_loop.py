"""The slow loop's shell at the controller: demand reports and forecasts in, questions solved beside, answers back as events.

Here: `SlowLoop`. Not here: when to ask and what to apply (`dispatch.slow`), solving (`dispatch.place`, `dispatch.defer`), forecasting
(`signals.forecast`, `energy.outlook`). A restarted controller goes on from the counts on its disk.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec

from hanse.dispatch import actions as act
from hanse.dispatch import events as ev
from hanse.dispatch.belief import Belief
from hanse.dispatch.defer import DeferSolver
from hanse.dispatch.place import solve as solve_placement
from hanse.dispatch.place_warm import warm
from hanse.dispatch.slow import is_placed
from hanse.energy.outlook import outlook_from
from hanse.errors import HanseError
from hanse.live.demand import REPORT_S, DemandReport
from hanse.live.hearsay import own_demand
from hanse.live.jobs import site_in
from hanse.live.logline import log_line
from hanse.live.runtime import replace_file
from hanse.model.fleet import Fleet
from hanse.model.told import UNREADABLE
from hanse.signals import Feed
from hanse.signals.demand_counts import KEEP_S, DemandCounts
from hanse.signals.forecast.expected import expected_demand, expected_totals
from hanse.signals.outlook import Bound, CarbonSignal, DemandOutlook, Outlook, bounded
from hanse.signals.providers import LiveFeed
from hanse.units import s_from_hours
from hanse.view import SiteStatus

OUTLOOK_STEPS: Final = 48
"""Hours: the schedule's horizon."""
SAVE_S: Final = 60.0
"""Counts that a crash of the controller loses are of the last minute at most."""

Tell = Callable[[ev.Event], None]


class SlowLoop:
    """Events for the Dispatcher, made beside it."""

    def __init__(
        self,
        fleet: Fleet,
        home: Path,
        feed: Callable[[], Feed],
        live: LiveFeed,
        tell: Tell,
        belief: Callable[[], Belief | None],
    ) -> None:
        """A loop that tells its events in the thread of the running event loop.

        Args:
            fleet: The operator's.
            home: Directory for the counts.
            feed: What is known of carbon, price and weather now.
            live: What providers say of past and future.
            tell: Hands an event to the Dispatcher and carries its actions out.
            belief: The Dispatcher's.
        """
        self._fleet = fleet
        self._path = home / "demand.msgpack"
        self._feed = feed
        self._live = live
        self._tell = tell
        self._belief = belief
        self._woken = asyncio.Event()
        self._woken_at_s: dict[str, float] = {}
        """By service that stands nowhere: when its users last had an outlook made for them."""
        self._solver = DeferSolver()
        self._solving: set[asyncio.Task[None]] = set()
        self._one_schedule = asyncio.Lock()
        """The solver keeps its last model: two questions at once would share it."""
        self._saved_s = time.monotonic()
        self._ahead: set[str] = set()
        """Sites whose clock runs ahead."""
        self._bounds: dict[str, tuple[Bound, ...]] = {}
        """By site: what it is asked to draw at most, and when."""
        self._lacking = ""
        """Why outlooks do not go by the carbon signal that they are to go by."""
        self.counts = self._read()
        if fleet.slow_loop.places:
            # Beside the league's start, not when the first question waits.
            threading.Thread(target=warm, name="warm", daemon=True).start()

    def follow(self, fleet: Fleet, live: LiveFeed) -> None:
        """Another fleet is in force; where it counts demand in other steps, it counts anew."""
        self._fleet, self._live = fleet, live
        if fleet.slow_loop.demand_bin_s != self.counts.bin_s:
            self.counts = DemandCounts(bin_s=fleet.slow_loop.demand_bin_s)
        self.look_soon()

    def look_soon(self) -> None:
        """What was foreseen is forgotten with the fleet or the epoch that it was foreseen for, and old with the scenario: nobody waits for the
        next outlook.
        """
        self._woken.set()

    def see(self, status: SiteStatus) -> None:
        """What a site is asked to draw at most. Where that changes nobody waits for the next outlook."""
        told = status.load_bounds
        if told is None:
            return
        before = self._bounds.get(status.site, ())
        self._bounds[status.site] = told
        if _from(told, status.at_s) != _from(before, status.at_s):
            self._woken.set()

    @property
    def every_s(self) -> float:
        """Between two outlooks: as often as demand is known anew, and never more often than placements change."""
        loop = self._fleet.slow_loop
        reach_s = s_from_hours(OUTLOOK_STEPS) / self._feed().clock.speed
        return max(1.0, min(loop.place_every_s, loop.demand_bin_s, reach_s / 2.0))

    async def hear(self, message: Any) -> None:
        """A site's report of its demand."""
        try:
            report = msgspec.msgpack.decode(bytes(message.data), type=DemandReport)
        except UNREADABLE as error:
            log_line(f"demand report not understood: {error}")
            return
        if why := own_demand(report, site_in(message.subject), self._fleet):
            log_line(f"demand report on {message.subject} not counted: {why}")
            return
        ahead = report.at_s > time.time() + self.counts.bin_s
        if ahead != (report.site in self._ahead):
            self._ahead ^= {report.site}
            said = "dated ahead of this clock: not counted" if ahead else "dated right again"
            log_line(f"demand report of {report.site}: {said}")
        if not ahead:
            self.counts.add(report.at_s, report.counts, report.site, REPORT_S)
            self._wake({one.key.service for one in report.counts if one.requests > 0.0})

    def _wake(self, asked: set[str]) -> None:
        """Whoever asks for what stands nowhere waits for one report and a load time, not for the next outlook."""
        belief, now_s = self._belief(), time.monotonic()
        if belief is None:
            return
        for service in asked:
            due = now_s - self._woken_at_s.get(service, -math.inf) >= self.every_s
            if due and not is_placed(belief, service):
                self._woken_at_s[service] = now_s
                self._woken.set()

    async def pause(self, pause_s: float) -> None:
        """Until the next outlook."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(pause_s):
                await self._woken.wait()
        self._woken.clear()

    async def look(self) -> None:
        """One outlook."""
        now_s = time.time()
        outlook = await asyncio.to_thread(self._outlook, now_s)
        self._tell(ev.OutlookIssued(at_s=time.time(), outlook=outlook))
        if time.monotonic() - self._saved_s >= SAVE_S:
            self._saved_s = time.monotonic()
            await asyncio.to_thread(replace_file, self._path, self.counts.to_bytes())

    def solve(self, action: act.SolvePlacement | act.SolveSchedule) -> None:
        """Beside everything else; the answer is told when it is there."""
        task = asyncio.ensure_future(self._solve(action))
        self._solving.add(task)
        task.add_done_callback(self._solving.discard)

    async def _solve(self, action: act.SolvePlacement | act.SolveSchedule) -> None:
        """A solver that fails is told to people; the question is asked anew when it was open for long."""
        started_s = time.monotonic()
        try:
            event = await self._answer(action)
        except Exception as error:
            log_line(f"{type(action).__name__} {action.problem.digest()} failed: {error!r}")
            return
        log_line(f"{type(event).__name__} in {time.monotonic() - started_s:.2f} s")
        self._tell(event)

    async def _answer(self, action: act.SolvePlacement | act.SolveSchedule) -> ev.Event:
        if isinstance(action, act.SolvePlacement):
            placed = await asyncio.to_thread(solve_placement, action.problem)
            return ev.PlacementSolved(at_s=time.time(), answer=placed)
        async with self._one_schedule:
            planned = await asyncio.to_thread(self._solver.solve, action.problem)
        return ev.ScheduleSolved(at_s=time.time(), answer=planned)

    def _outlook(self, now_s: float) -> Any:
        """By the feed's clock; demand is counted by the true one, and comes to the steps that it falls into."""
        feed = self._feed()
        clock = feed.clock
        demand = expected_demand(self.counts, now_s, steps=OUTLOOK_STEPS)
        own = clock.speed == 1.0

        def by(signal: CarbonSignal) -> Outlook:
            return outlook_from(
                self._fleet.sites,
                feed if own else feed.by_its_clock(),
                clock.played_s(now_s),
                steps=OUTLOOK_STEPS,
                demand=demand if own else sped_up(demand, clock.speed),
                carbon_signal=signal,
                # Histories and forecasts of providers are of true hours.
                brought=self._live.brought(now_s) if own else None,
                provided=self._live.provided(now_s) if own else None,
            )

        outlook = msgspec.structs.replace(self._of_one_kind(by), clock=clock)
        totals = expected_totals(self.counts, now_s, steps=OUTLOOK_STEPS) if own else ()
        return bounded(msgspec.structs.replace(outlook, totals=totals), dict(self._bounds))

    def _of_one_kind(self, by: Callable[[CarbonSignal], Outlook]) -> Outlook:
        """By the signal that the fleet is to decide by; while a site has none of that kind by averages, at all sites alike. People are not
        to wait for a placement until a feed speaks again.
        """
        wanted = self._fleet.slow_loop.carbon_signal
        try:
            outlook, lacking = by(wanted), ""
        except HanseError as error:
            if wanted == "average_location":
                raise
            outlook, lacking = by("average_location"), str(error)
        if lacking != self._lacking:
            self._lacking = lacking
            why = f"average_location instead of {wanted}: {lacking}" if lacking else wanted
            log_line(f"outlooks go by {why}")
        return outlook

    def _read(self) -> DemandCounts:
        bin_s = self._fleet.slow_loop.demand_bin_s
        try:
            known = DemandCounts.from_bytes(self._path.read_bytes())
        except FileNotFoundError:
            return DemandCounts(bin_s=bin_s)
        except (*UNREADABLE, OSError) as error:
            log_line(f"{self._path}: {error!r}; demand is counted anew")
            return DemandCounts(bin_s=bin_s)
        # An axis that lies wholly behind or ahead of this clock would let no report in.
        now_s = time.time()
        fits = known.bin_s == bin_s and known.start_s <= now_s <= known.until_s + KEEP_S
        return known if fits else DemandCounts(bin_s=bin_s)


def _from(pieces: tuple[Bound, ...], at_s: float) -> list[Bound]:
    """What is left of them from an instant on."""
    return [(max(a, at_s), b, kw) for a, b, kw in pieces if b > at_s]


def sped_up(demand: tuple[DemandOutlook, ...], speed: float) -> tuple[DemandOutlook, ...]:
    """Demand of true hours on steps of which `speed` pass in an hour."""
    found = []
    for one in demand:
        hours = [min(int(step / speed), OUTLOOK_STEPS - 1) for step in range(OUTLOOK_STEPS)]
        found.append(
            msgspec.structs.replace(
                one,
                requests_per_s=tuple(one.requests_per_s[h] for h in hours),
                requests_per_s_high=tuple(one.requests_per_s_high[h] for h in hours),
            )
        )
    return tuple(found)

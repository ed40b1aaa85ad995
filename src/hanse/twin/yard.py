"""Deferrable work of a simulated fleet: jobs on chips that requests leave free, by the schedule or as soon as there is room.

Here: `Yard`: which job is where, how far it has got, what it draws, what the Dispatcher is told of it. Not here: when and where
(`dispatch.defer`, `dispatch.defer_now`), engines (`keeper`), the balance (`power`).

A job that goes on somewhere loads for `restart_s`, and its state crosses the WAN first where it was elsewhere. One that yields at
once loses what it did since its last checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from msgspec.structs import replace

from hanse.dispatch.defer_build import Whereabouts
from hanse.dispatch.defer_now import NowState, PoolNow, RunningNow, SiteNow, YieldNow, now, step_at
from hanse.dispatch.defer_problem import DeferAnswer, DeferProblem
from hanse.energy.plant import chip_rated_w
from hanse.model.fleet import Fleet
from hanse.model.job import Job
from hanse.twin.nodes import PoolKey
from hanse.units import SECONDS_PER_HOUR

DONE: Final = 1e-9
"""Of a job: rounding of shares."""


@dataclass(slots=True)
class _Work:
    """One job on its way."""

    job: Job
    left: float = 1.0
    """Share of its work."""
    saved: float = 1.0
    """`left` at its newest checkpoint."""
    site: str = ""
    pool: str = ""
    chips: int = 0
    since_s: float = 0.0
    works_at_s: float = 0.0
    """After loading."""
    checkpoint_at_s: float = 0.0
    done_chip_s: float = 0.0
    """Within the schedule's current step."""


@dataclass(slots=True)
class YardBooks:
    """What became of the jobs."""

    submitted: int = 0
    done: int = 0
    late: int = 0
    """Done after their deadline, or not by the end of the run though that lies before it."""
    late_s: float = 0.0
    chip_h: float = 0.0
    lost_chip_h: float = 0.0
    """Worked twice: lost when a job yielded."""
    yields: int = 0


class Yard:
    """Jobs by submission; instants are Unix seconds."""

    def __init__(self, fleet: Fleet, jobs: Sequence[Job], *, at_once: bool) -> None:
        """`at_once` no schedule is asked: first come, first served, at home or else at the first site that has room."""
        self._coming = sorted(jobs, key=lambda job: (job.submitted_at_s, job.id), reverse=True)
        self._at_once = at_once
        self._open: dict[str, _Work] = {}
        self._chip_kind = {(s.id, p.id): p.accelerator for s in fleet.sites for p in s.pools}
        self._index = {site.id: i for i, site in enumerate(fleet.sites)}
        self._plan: tuple[DeferProblem, DeferAnswer] | None = None
        self._step = -1
        self._drawn_j = np.zeros(len(fleet.sites))
        self._at_s = float("-inf")
        self.books = YardBooks()

    # --- what others ask

    def chips(self) -> dict[PoolKey, int]:
        """Chips that jobs hold."""
        held: dict[PoolKey, int] = {}
        for work in self._open.values():
            if work.chips:
                key = work.site, work.pool
                held[key] = held.get(key, 0) + work.chips
        return held

    def left(self) -> tuple[Job, ...]:
        """Jobs that are not done, with what is left of them."""
        return tuple(
            replace(w.job, chip_s={a: w.left * s for a, s in w.job.chip_s.items()})
            for w in self._open.values()
        )

    def whereabouts(self) -> dict[str, Whereabouts]:
        """Of jobs that have begun."""
        return {
            name: Whereabouts(state_at=w.site, pool=w.pool if w.chips else None, chips=w.chips)
            for name, w in self._open.items()
            if w.site
        }

    def take_j(self) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        """[site] joules that jobs' chips drew since the last call, servers included."""
        drawn, self._drawn_j = self._drawn_j, np.zeros_like(self._drawn_j)
        return drawn

    def follow(self, problem: DeferProblem, answer: DeferAnswer) -> None:
        """A schedule holds from now on."""
        self._plan, self._step = (problem, answer), -1

    # --- time

    def advance(self, now_s: float) -> None:
        """Work is done until an instant."""
        for name, work in list(self._open.items()):
            if work.chips:
                self._work(name, work, now_s)
        self._at_s = now_s
        while self._coming and self._coming[-1].submitted_at_s <= now_s:
            job = self._coming.pop()
            self._open[job.id] = _Work(job=job)
            self.books.submitted += 1

    def _work(self, name: str, work: _Work, now_s: float) -> None:
        job, kind = work.job, self._chip_kind[work.site, work.pool]
        begun_s = max(self._at_s, work.since_s)
        worked_s = max(0.0, now_s - max(begun_s, work.works_at_s))
        per_s = work.chips / job.chip_s[kind]
        ended_s = now_s
        if work.left - worked_s * per_s <= DONE:
            worked_s = work.left / per_s
            ended_s = max(begun_s, work.works_at_s) + worked_s
        work.left -= worked_s * per_s
        work.done_chip_s += worked_s * work.chips
        chip_s = (ended_s - begun_s) * work.chips
        self.books.chip_h += chip_s / SECONDS_PER_HOUR
        self._drawn_j[self._index[work.site]] += chip_s * chip_rated_w(kind)
        every_s = job.checkpoint_every_s
        if every_s <= 0.0:
            work.saved = work.left
        elif ended_s - work.checkpoint_at_s >= every_s:
            work.checkpoint_at_s = ended_s
            work.saved = work.left
        if work.left <= DONE:
            del self._open[name]
            self.books.done += 1
            self._late(job, ended_s)

    def _late(self, job: Job, ended_s: float) -> None:
        if ended_s > job.deadline_at_s:
            self.books.late += 1
            self.books.late_s += ended_s - job.deadline_at_s

    def close(self, now_s: float) -> None:
        """The run ends."""
        self.advance(now_s)
        for work in self._open.values():
            self._late(work.job, now_s)

    # --- decisions carried out

    def decide(
        self, now_s: float, free: Mapping[PoolKey, int], kw_free: Mapping[str, float]
    ) -> None:
        """Who runs from now on. `free`: chips that requests do not need; `kw_free`: a site's power for jobs, absent: it takes none."""
        if self._at_once:
            self._first_come(now_s, free, kw_free)
        elif self._plan is not None:
            self._by_plan(*self._plan, now_s, free, kw_free)

    def _by_plan(
        self,
        problem: DeferProblem,
        answer: DeferAnswer,
        now_s: float,
        free: Mapping[PoolKey, int],
        kw_free: Mapping[str, float],
    ) -> None:
        step = step_at(problem, now_s)
        if step != self._step:
            self._step = step
            for work in self._open.values():
                work.done_chip_s = 0.0
        known = {one.job.id for one in problem.jobs}
        plan = now(
            problem,
            answer,
            NowState(
                at_s=now_s,
                pools=tuple(
                    PoolNow(site=s, pool=p, chips_free=chips) for (s, p), chips in free.items()
                ),
                sites=tuple(
                    SiteNow(site=s, kw_free=kw_free.get(s, 0.0), accepts=s in kw_free)
                    for s in self._index
                ),
                running=tuple(
                    RunningNow(
                        job=name,
                        site=w.site,
                        pool=w.pool,
                        chips=w.chips,
                        since_s=w.since_s,
                        checkpoint_at_s=w.checkpoint_at_s,
                        done_chip_s=w.done_chip_s,
                    )
                    for name, w in self._open.items()
                    if w.site and name in known
                ),
            ),
        )
        for name in plan.checkpoints:
            self._open[name].checkpoint_at_s = now_s
            self._open[name].saved = self._open[name].left
        for one in plan.yields:
            self._yield(one)
        ways = {(p.source, p.target): p.mbit_s * problem.link_share for p in problem.paths}
        for run in plan.runs:
            if run.job in self._open:
                self._run(self._open[run.job], run.site, run.pool, run.chips, now_s, ways)

    def _yield(self, one: YieldNow) -> None:
        work = self._open.get(one.job)
        if work is None:
            return
        self.books.yields += 1
        if not one.checkpoint_first:
            self._lose(work)
        work.chips -= one.chips
        work.saved = work.left

    def _lose(self, work: _Work) -> None:
        kind = self._chip_kind[work.site, work.pool]
        lost_chip_s = (work.saved - work.left) * work.job.chip_s[kind]
        self.books.lost_chip_h += lost_chip_s / SECONDS_PER_HOUR
        work.left = work.saved

    def _run(
        self,
        work: _Work,
        site: str,
        pool: str,
        chips: int,
        now_s: float,
        ways: Mapping[tuple[str, str], float],
    ) -> None:
        if work.chips and (work.site, work.pool) == (site, pool):
            work.chips = chips
            return
        way_s = 0.0
        if work.site and work.site != site and work.job.state_gb > 0.0:
            mbit_s = ways.get((work.site, site), 0.0)
            way_s = 8000.0 * work.job.state_gb / mbit_s if mbit_s > 0.0 else 0.0
        if (work.site, work.pool) != (site, pool):
            work.done_chip_s = 0.0
        work.site, work.pool, work.chips = site, pool, chips
        work.since_s = work.checkpoint_at_s = now_s
        work.works_at_s = now_s + way_s + work.job.restart_s
        work.saved = work.left

    def _first_come(
        self, now_s: float, free: Mapping[PoolKey, int], kw_free: Mapping[str, float]
    ) -> None:
        room = {key: chips for key, chips in free.items() if key[0] in kw_free}
        for work in self._open.values():
            key = work.site, work.pool
            if work.chips > room.get(key, 0):
                self.books.yields += 1
                self._lose(work)
                work.chips = 0
            elif work.chips:
                room[key] -= work.chips
        for work in self._open.values():
            if work.chips:
                continue
            able = (
                (site != work.job.home, self._index[site], pool)
                for (site, pool), chips in room.items()
                if chips >= work.job.chips_min and self._chip_kind[site, pool] in work.job.chip_s
            )
            found = min(able, default=None)
            if found is not None:
                site, pool = list(self._index)[found[1]], found[2]
                chips = min(work.job.chips_max, room[site, pool])
                room[site, pool] -= chips
                self._run(work, site, pool, chips, now_s, {})

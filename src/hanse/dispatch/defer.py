"""When and where work runs that may wait, and what batteries do meanwhile: one linear program, solved again on every change.

Here: `solve`, a function of a problem alone, and `DeferSolver`, which keeps the last model and starts the next solution from it.
Not here: values (`defer_problem`), how a problem is made (`defer_build`), whole chips and what yields this second (`defer_now`).

    answer = solve(problem)                       # the same bytes on every machine
    solver = DeferSolver(); solver.solve(p1); solver.solve(p2)   # the same cost, sooner; of equal schedules perhaps another
"""

from __future__ import annotations

from typing import Final

import numpy as np

from hanse.dispatch.defer_answer import Chosen, answer_of
from hanse.dispatch.defer_check import check
from hanse.dispatch.defer_frame import SOON_USD_PER_CHIP_H, Frame
from hanse.dispatch.defer_model import JobBlock, SiteBlock
from hanse.dispatch.defer_problem import DeferAnswer, DeferProblem
from hanse.milp import Floats, Ints, Model, Solver
from hanse.units import hours_from_s

__all__ = ["DeferAnswer", "DeferProblem", "DeferSolver", "check", "solve"]

ALIVE_SHARE_MIN: Final = 0.7
"""When more than three in ten of all pairs are of jobs that are gone, a new model is smaller and soon faster: over 81 schedules of two
simulated days 19.5 s, where half took 23.9, 0.85 22.4 and a new model at each solve 36.3."""

JobKey = tuple[object, ...]


def solve(problem: DeferProblem, warm: DeferSolver | None = None) -> DeferAnswer:
    """The cheapest schedule; `warm` starts from that solver's last solution."""
    return (warm or DeferSolver()).solve(problem)


class DeferSolver:
    """A model that is kept. Chips, power, prices, forecasts and jobs may change; other sites or steps begin it anew."""

    def __init__(self) -> None:
        self.frame: Frame | None = None
        self.solver: Solver | None = None
        self.sites: SiteBlock | None = None
        self.blocks: list[JobBlock] = []
        self.keys: dict[str, tuple[JobKey, int]] = {}
        """Job -> (what its columns rest on, number of its block)."""
        self.cold = 0
        """Models made from nothing."""

    def solve(self, problem: DeferProblem) -> DeferAnswer:
        """The cheapest schedule of a problem."""
        frame = Frame(problem)
        keys = _keys(frame)
        if not self._fits(frame, keys):
            self._begin(frame)
        assert self.sites is not None and self.solver is not None
        self._take_in(frame, keys)
        self.sites.follow(self.solver, frame)
        rows = {one.job.id: j for j, one in enumerate(problem.jobs)}
        for number, block in enumerate(self.blocks):
            mine = {n: rows[n] for n in block.names if self.keys.get(n, ((), -1))[1] == number}
            block.follow(self.solver, frame, mine)
        self.frame = frame
        return answer_of(frame, self._chosen(frame))

    def _fits(self, frame: Frame, keys: dict[str, JobKey]) -> bool:
        if self.frame is None or self.sites is None:
            return False
        if not self.sites.same_shape(frame, self.frame):
            return False
        held = sum(len(block.pair_owner) for block in self.blocks)
        kept = sum(len(key) for name, key in keys.items() if self.keys.get(name, ((),))[0] == key)
        return held == 0 or kept >= ALIVE_SHARE_MIN * held

    def _begin(self, frame: Frame) -> None:
        model = Model()
        self.sites = SiteBlock(model, frame)
        # Basis changes are cheap at this size, and simplex keeps its basis between solves.
        self.solver = Solver(model, options={"solver": "simplex"})
        self.blocks, self.keys = [], {}
        self.cold += 1

    def _take_in(self, frame: Frame, keys: dict[str, JobKey]) -> None:
        """One block for all jobs that are new or not what they were; those that are gone are forgotten."""
        assert self.sites is not None and self.solver is not None
        kept = {n: old for n, old in self.keys.items() if keys.get(n) == old[0]}
        new = [j for j, one in enumerate(frame.problem.jobs) if one.job.id not in kept]
        self.keys = kept
        if new:
            model = Model(after=self.solver)
            block = JobBlock(model, frame, np.array(new, np.int64), self.sites)
            self.solver.extend(model)
            number = len(self.blocks)
            self.blocks.append(block)
            self.keys |= {n: (keys[n], number) for n in block.names}

    def _chosen(self, frame: Frame) -> Chosen:
        assert self.sites is not None and self.solver is not None
        found = self.solver.relaxed()
        v = found.values
        steps, jobs = len(frame.hours), len(frame.problem.jobs)
        chips = np.zeros((len(frame.pairs), steps))
        restart_h = np.zeros((jobs, steps))
        later, hopeless = np.zeros(jobs), np.zeros(jobs)
        for block in self.blocks:
            here = block.pairs >= 0
            chips[block.pairs[here]] = v[block.x[here]]
            pair, step = block.begins
            on = here[pair]
            begun, rise = block.pairs[pair[on]], np.clip(v[block.rise[on]], 0.0, None)
            np.add.at(restart_h, (frame.pair_job[begun], step[on]), rise * frame.lost_h[begun])
            later[block.jobs[block.alive]] = v[block.later[block.alive]]
            hopeless[block.jobs[block.alive]] = v[block.hopeless[block.alive]]
        done_h = frame.column("speed")[:, None] * chips * frame.hours
        does_h = np.zeros((jobs, steps))
        np.add.at(does_h, frame.pair_job, done_h)
        # A first start that no counted step pays for stands where work begins.
        begins = np.argmax(does_h > 0.0, axis=1)
        unpaid = np.where(does_h.any(axis=1), frame.first_h - restart_h.sum(axis=1), 0.0)
        np.add.at(restart_h, (np.arange(jobs), begins), np.clip(unpaid, 0.0, None))
        restart_h += does_h * frame.restart_share
        return Chosen(
            chips=chips,
            restart_h=restart_h,
            later=np.clip(later, 0.0, None),
            hopeless=np.clip(hopeless, 0.0, None),
            charge_kw=self._by_site(frame, v, self.sites.charge),
            discharge_kw=self._by_site(frame, v, self.sites.discharge),
            bound_usd=found.objective - _sunk_usd(frame) - _soon_usd(frame, chips),
        )

    def _by_site(self, frame: Frame, values: Floats, block: Ints) -> Floats:
        assert self.sites is not None
        found = np.zeros(frame.pue.shape)
        found[self.sites.with_battery] = np.clip(values[block], 0.0, None)
        return found


def _keys(frame: Frame) -> dict[str, JobKey]:
    """What a job's columns and coefficients rest on; a change of it makes it another job."""
    found: dict[str, list[object]] = {one.job.id: [] for one in frame.problem.jobs}
    for pair in frame.pairs:
        one = frame.problem.jobs[pair.job].job
        ends = frame.path_ends[pair.path] if pair.path >= 0 else None
        found[one.id].append((pair.pool, pair.speed, ends, one.restart_s))
    return {name: tuple(key) for name, key in found.items()}


def _soon_usd(frame: Frame, chips: Floats) -> float:
    """What decides between equal schedules and nobody pays."""
    hours = frame.hours * hours_from_s(frame.starts_s - frame.problem.start_s)
    return SOON_USD_PER_CHIP_H * float(frame.column("speed") @ (chips @ hours))


def _sunk_usd(frame: Frame) -> float:
    """What the program counts and the accounts do not: a peak that stands already, what batteries held at the start."""
    usd = 0.0
    for site in frame.problem.sites:
        usd += site.usd_per_kw_month * site.peak_import_kw
        if site.battery is not None:
            usd -= site.battery.stored_usd_per_kwh * site.battery.held_kwh
    return usd

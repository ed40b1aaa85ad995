"""A run's course over time: looked at every five minutes, kept in at most a few hundred steps.

Here: `CourseTaker`, which puts itself on a simulation's calendar; peaks on the five-minute grid. Not here: what anything means
(`result`), hours of the site balance (`power`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from hanse.twin import arrays as ar
from hanse.twin.power import STEP_S
from hanse.twin.quantiles import quantile_ms
from hanse.twin.result import Course
from hanse.twin.simulate import Simulation
from hanse.units import SECONDS_PER_HOUR

POINTS_MAX: Final = 288
"""A day in five-minute steps, and about what a chart a hand wide can show."""
Numbers = NDArray[np.float64]


class CourseTaker:
    """Samples of cumulative counts, five minutes apart."""

    def __init__(self, simulation: Simulation, seen: Callable[[float], None] | None = None) -> None:
        """`seen` is told the simulated seconds at each sample."""
        self._simulation = simulation
        self._seen = seen
        self._site = simulation.world.engines["site"].astype(np.int64)
        self._every = max(1, math.ceil(simulation.duration_s / STEP_S / POINTS_MAX))
        self._batch: list[Numbers] = []
        self._ended: list[Numbers] = []
        self._origin: list[Numbers] = []
        self._kwh: list[Numbers] = []
        self._hist: list[NDArray[np.int64]] = []
        self._take(0.0)
        simulation.at(STEP_S, self._due)

    def _due(self, now_s: float) -> None:
        # Behind the power step of the same instant, whose energy belongs to this interval.
        self._simulation.at(now_s, self._take)
        self._simulation.at(now_s + STEP_S, self._due)

    def _take(self, now_s: float) -> None:
        world = self._simulation.world
        sites, origins = len(world.site_up), len(world.flow)
        sums = world.sums
        outcomes = sums[:, [ar.SUM_SERVED, ar.SUM_REFUSED, ar.SUM_FAILED, ar.SUM_BROKEN]]
        batch_s = np.bincount(self._site, world.engines["batch_s"], sites)
        self._batch.append(batch_s.astype(np.float64))
        self._ended.append(outcomes[0].copy())
        self._origin.append(outcomes[len(sums) - origins :].sum(axis=1))
        self._kwh.append(self._simulation.power.sums["facility_kwh"].copy())
        if (len(self._batch) - 1) % self._every == 0:
            self._hist.append(world.hist[0, 0].copy())
        if self._seen is not None:
            self._seen(now_s)

    def close(self) -> None:
        """Take what came after the last full five minutes, as one more."""
        if len(self._batch) - 1 < int(self._simulation.power.sums["steps"].max()):
            self._take(float(self._simulation.world.clock[0]["now_s"]))

    def slots_used(self) -> Numbers:
        """[five minutes, site] mean batch."""
        return np.diff(np.array(self._batch), axis=0) / STEP_S

    def origin_rps(self) -> Numbers:
        """[five minutes, origin] requests that ended, per second."""
        return np.diff(np.array(self._origin), axis=0) / STEP_S

    def course(self) -> Course:
        """All of it, in steps as long as the number of points asks for."""
        every = self._every
        ids = [site.id for site in self._simulation.fleet.sites]
        ended = np.diff(np.array(self._ended)[::every], axis=0) / (STEP_S * every)
        used = np.diff(np.array(self._batch)[::every], axis=0) / (STEP_S * every)
        kw = np.diff(np.array(self._kwh)[::every], axis=0) * (SECONDS_PER_HOUR / STEP_S / every)
        return Course(
            step_s=STEP_S * every,
            arrived_per_s=tuple(ended.sum(axis=1).tolist()),
            unanswered_per_s=tuple(ended[:, 1:].sum(axis=1).tolist()),
            ttft_ms_p95=tuple(
                quantile_ms(after - before, 0.95)
                for before, after in zip(self._hist, self._hist[1:], strict=False)
            ),
            slots_used={name: tuple(used[:, i].tolist()) for i, name in enumerate(ids)},
            facility_kw={name: tuple(kw[:, i].tolist()) for i, name in enumerate(ids)},
        )

"""A problem's figures as arrays, and what is derived from them before anything is solved.

Here: steps in hours, pools and sites as arrays, pairs of a job and a pool where it may run, what such a pair costs besides power,
and what work that is left for the time after the horizon will cost. Not here: rows and columns (`defer_model`).

Work is counted in hours of the fastest chip that a job names, so that one unit means the same at every pool.
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import NDArray

from hanse.dispatch.defer_problem import DeferJob, DeferPath, DeferProblem
from hanse.milp import INF, Bools, Floats, Ints
from hanse.model.fleet import Value
from hanse.units import (
    SECONDS_PER_HOUR,
    bytes_from_gb,
    bytes_per_s_from_mbit_s,
    hours_from_s,
    per_g_from_per_t,
)

SOON_USD_PER_CHIP_H: Final = 1e-6
"""For each hour later: of equal schedules the earlier, and the same one on every machine."""
RESTART_SHARE_MIN: Final = 0.05
"""Of a step. Where a restart takes less of it (a minute of an hour), beginnings are not counted one by one: half of all rows were for that."""
RESTART_SHARE_MAX: Final = 0.5
"""Of the work of a job that is nearly done: one restart may be longer than what is left of it."""
LATER_SHARE: Final = 0.5
"""Of the time between horizon and deadline, what a plan counts on: the other half is for interactive peaks nobody foresees."""


class Pair(Value, frozen=True, kw_only=True):
    """A job and a pool where it may run."""

    job: int
    site: int
    pool: int
    """Row of `Frame.free`."""
    speed: float
    """Work an hour of this chip does."""
    ready_s: float
    """Not before: its state has to arrive."""
    move_usd: float
    """Data and state for the whole job."""
    gb: float
    """Data that the whole job reads across the WAN from here."""
    path: int
    """Index into `DeferProblem.paths`, -1 at home."""


class Frame:
    """Arrays of one problem; T steps, S sites, P pools, J jobs, K pairs."""

    def __init__(self, problem: DeferProblem) -> None:
        self.problem = p = problem
        self.hours: Floats = hours_from_s(np.array(p.step_s, float))
        self.ends_s: Floats = p.start_s + np.cumsum(p.step_s)
        self.starts_s: Floats = self.ends_s - np.array(p.step_s)
        self.site_index = {site.site: i for i, site in enumerate(p.sites)}
        pools = [(i, pool) for i, site in enumerate(p.sites) for pool in site.pools]
        self.pool_site: Ints = np.array([i for i, _ in pools], np.int64)
        self.pool_names = tuple((p.sites[i].site, pool.pool) for i, pool in pools)
        self.pool_index = {name: i for i, name in enumerate(self.pool_names)}
        self.accelerators = tuple(pool.accelerator for _, pool in pools)
        shape = (len(pools), len(p.step_s))
        self.free: Floats = np.array([pool.chips_free for _, pool in pools], float).reshape(shape)
        self.idle_kw: Floats = np.array([pool.chip_kw_idle for _, pool in pools], float)
        full = np.array([pool.chip_kw_full for _, pool in pools], float)
        self.added_kw: Floats = full - self.idle_kw
        """[pool] IT power that work adds to a chip."""
        self.path_ends = tuple((way.source, way.target) for way in p.paths)
        self.usd_per_g = per_g_from_per_t(p.usd_per_tonne_co2e)

    def rows(self, name: str) -> Floats:
        """A series of all sites, [site, step]."""
        shape = (len(self.problem.sites), len(self.hours))
        return np.array([getattr(site, name) for site in self.problem.sites], float).reshape(shape)

    @cached_property
    def pue(self) -> Floats:
        """[site, step]"""
        return self.rows("pue")

    @cached_property
    def own_kw(self) -> Floats:
        """PV and wind, [site, step]."""
        return self.rows("pv_kw") + self.rows("wind_kw")

    @cached_property
    def import_usd(self) -> Floats:
        """Of a kWh imported with its carbon, [site, step]."""
        return self.rows("price_usd_per_kwh") + self.usd_per_g * self.rows("carbon_g_per_kwh")

    @cached_property
    def fixed_kw(self) -> Floats:
        """Facility power before any deferrable work, [site, step]."""
        idle = np.zeros_like(self.pue)
        np.add.at(idle, self.pool_site, self.free * self.idle_kw[:, None])
        return self.rows("base_kw") + self.pue * idle

    @cached_property
    def load_kw_max(self) -> Floats:
        """Facility power that deferrable work may bring a site to, [site, step]."""
        most = np.full(self.pue.shape, INF)
        for i, site in enumerate(self.problem.sites):
            if site.load_kw_max:
                most[i] = site.load_kw_max
        np.maximum(most, self.fixed_kw, out=most)
        return most

    @cached_property
    def chip_kw(self) -> Floats:
        """Facility power that one chip at work adds, [pool, step]."""
        return self.added_kw[:, None] * self.pue[self.pool_site]

    # --- jobs

    @cached_property
    def fastest(self) -> tuple[str, ...]:
        """[job] accelerator whose hours its work is counted in; of equals the first by name."""
        return tuple(
            min(one.job.chip_s, key=lambda name: (one.job.chip_s[name], name), default="")
            for one in self.problem.jobs
        )

    @cached_property
    def left_h(self) -> Floats:
        """[job] work that is left."""
        jobs = zip(self.problem.jobs, self.fastest, strict=True)
        return np.array([hours_from_s(j.job.chip_s.get(a, 0.0)) for j, a in jobs], float)

    @cached_property
    def pairs(self) -> tuple[Pair, ...]:
        """By job, and then in the order of pools."""
        by_site: dict[int, list[int]] = {}
        for pool, site in enumerate(self.pool_site.tolist()):
            by_site.setdefault(site, []).append(pool)
        ways = {
            ends: (i, way)
            for i, (ends, way) in enumerate(zip(self.path_ends, self.problem.paths, strict=True))
        }
        found = []
        for j, one in enumerate(self.problem.jobs):
            lawful = sorted(self.site_index[s] for s in one.sites if s in self.site_index)
            for site in lawful:
                for pool in by_site.get(site, ()):
                    pair = self._pair(j, one, site, pool, ways)
                    if pair is not None:
                        found.append(pair)
        return tuple(found)

    def _pair(
        self,
        j: int,
        one: DeferJob,
        site: int,
        pool: int,
        ways: dict[tuple[str, str], tuple[int, DeferPath]],
    ) -> Pair | None:
        job, name = one.job, self.problem.sites[site].site
        chip_s = job.chip_s.get(self.accelerators[pool], 0.0)
        if chip_s <= 0.0 or self.left_h[j] <= 0.0:
            return None
        usd, wait_s, gb, path = 0.0, 0.0, 0.0, -1
        if name != job.home and name not in one.data_at and job.data_gb > 0.0:
            way = ways.get((job.home, name))
            if way is None:
                return None
            path, gb = way[0], job.data_gb
            usd += gb * way[1].usd_per_gb
        if name != one.state_at and job.state_gb > 0.0:
            way = ways.get((one.state_at, name))
            if way is None:
                return None
            usd += job.state_gb * way[1].usd_per_gb
            bytes_per_s = bytes_per_s_from_mbit_s(way[1].mbit_s) * self.problem.link_share
            wait_s = bytes_from_gb(job.state_gb) / bytes_per_s if bytes_per_s > 0.0 else math.inf
        return Pair(
            job=j,
            site=site,
            pool=pool,
            speed=job.chip_s[self.fastest[j]] / chip_s,
            ready_s=max(job.submitted_at_s, self.problem.start_s + wait_s),
            move_usd=usd,
            gb=gb,
            path=path,
        )

    def column(self, name: str) -> Floats:
        """A field of all pairs, [pair]."""
        return np.array([getattr(pair, name) for pair in self.pairs], float)

    @cached_property
    def pair_job(self) -> Ints:
        """[pair]"""
        return np.array([pair.job for pair in self.pairs], np.int64)

    @cached_property
    def pair_pool(self) -> Ints:
        """[pair]"""
        return np.array([pair.pool for pair in self.pairs], np.int64)

    @cached_property
    def chips_max(self) -> Floats:
        """[job]"""
        return np.array([float(one.job.chips_max) for one in self.problem.jobs], float)

    @cached_property
    def pair_chips_max(self) -> Floats:
        """Mean chips of a step that a job may have at a pool, [pair, step]: none before its state is there."""
        ready = self.column("ready_s")[:, None]
        usable_s = np.clip(self.ends_s - np.maximum(self.starts_s, ready), 0.0, None)
        share = np.minimum(1.0, usable_s / (self.ends_s - self.starts_s))
        return np.asarray(share * self.chips_max[self.pair_job][:, None])

    @cached_property
    def running(self) -> Floats:
        """[pair] chips at work now."""
        jobs = self.problem.jobs
        found = np.zeros(len(self.pairs))
        for k, pair in enumerate(self.pairs):
            one = jobs[pair.job]
            if one.pool is not None and self.pool_names[pair.pool] == (one.state_at, one.pool):
                found[k] = one.chips
        return found

    @cached_property
    def lost_h(self) -> Floats:
        """[pair] work that a chip which begins does not do."""
        return np.asarray(self.column("speed") * self._restart_h[self.pair_job])

    @cached_property
    def first_h(self) -> Floats:
        """[job] work that its first start costs on all chips that help, whenever that is; 0 where it runs."""
        return np.where(self._runs, 0.0, self.chips_max * self._restart_h)

    @cached_property
    def need_h(self) -> Floats:
        """[job] work that is left, and what its first start costs."""
        return np.where(self.left_h > 0.0, self.left_h + self.first_h, 0.0)

    @cached_property
    def counts_begins(self) -> Bools:
        """[job, step] where chips that begin are counted: a restart takes a part of the step that matters."""
        restart_h = self._restart_h[:, None]
        return np.asarray((restart_h > 0.0) & (restart_h >= RESTART_SHARE_MIN * self.hours))

    @cached_property
    def restart_share(self) -> Floats:
        """[job, step] of the work of a job that runs, lost in steps where beginnings are not counted: as if it began there once more, on all
        its chips. One that does not run has to begin anyway.
        """
        once = self.chips_max * self._restart_h / np.maximum(self.left_h, 1e-12)
        share = np.where(self._runs, np.minimum(once, RESTART_SHARE_MAX), 0.0)
        return np.where(self.counts_begins, 0.0, share[:, None])

    @cached_property
    def _runs(self) -> Bools:
        return np.array([one.pool is not None and one.chips > 0 for one in self.problem.jobs], bool)

    @cached_property
    def _restart_h(self) -> Floats:
        return np.array([hours_from_s(one.job.restart_s) for one in self.problem.jobs], float)

    @cached_property
    def gb_per_h(self) -> Floats:
        """[pair] data read over the WAN per hour of work."""
        return np.asarray(self.column("gb") / np.maximum(self.left_h[self.pair_job], 1e-12))

    @cached_property
    def path_gb_per_h(self) -> Floats:
        """[path] what jobs may read over it."""
        rates = [
            bytes_per_s_from_mbit_s(way.mbit_s) * self.problem.link_share
            for way in self.problem.paths
        ]
        return np.array(rates, float) * SECONDS_PER_HOUR / bytes_from_gb(1.0)

    @cached_property
    def _pairs_by_job(self) -> dict[int, list[int]]:
        found: dict[int, list[int]] = {}
        for k, pair in enumerate(self.pairs):
            found.setdefault(pair.job, []).append(k)
        return found

    def pairs_of(self, job: int) -> list[int]:
        """Rows of its pairs."""
        return self._pairs_by_job.get(job, [])

    def moved_gb(self, k: int) -> float:
        """What crosses the WAN if the whole job runs there."""
        pair = self.pairs[k]
        one = self.problem.jobs[pair.job]
        moves = self.problem.sites[pair.site].site != one.state_at
        return pair.gb + (one.job.state_gb if moves else 0.0)

    # --- what lateness and postponing cost

    @cached_property
    def deadline_s(self) -> Floats:
        """[job] by which work is planned to be done: early enough for one yield."""
        return np.array([one.due_s for one in self.problem.jobs], float)

    @cached_property
    def weight(self) -> Floats:
        """[job]"""
        return np.array([one.job.weight for one in self.problem.jobs], float)

    @cached_property
    def late_usd(self) -> Floats:
        """Of an hour of work done in a step, [job, step]: the part after the deadline, dearer the later."""
        deadline = self.deadline_s[:, None]
        length_s = self.ends_s - self.starts_s
        late_s = np.clip(self.ends_s - np.maximum(self.starts_s, deadline), 0.0, length_s)
        share = late_s / length_s
        mean_h = (self.ends_s - 0.5 * late_s - deadline) / SECONDS_PER_HOUR
        return np.where(share > 0.0, share * self._late_at(mean_h), 0.0)

    def _late_at(self, late_h: Floats) -> Floats:
        p = self.problem
        rate = p.late_usd_per_chip_h + p.later_usd_per_chip_h * late_h
        return np.asarray(self.weight.reshape(-1, *[1] * (late_h.ndim - 1)) * rate)

    @cached_property
    def later(self) -> tuple[Floats, Floats, Floats]:
        """Work left at the end of the horizon, [job]: how much can still be in time, its guessed cost an hour of work,
        and the cost of what cannot.

        Power at its cheapest share of hours is expected to come again: a job that will need a tenth of the time between
        horizon and deadline finds the cheapest tenth.
        """
        end_s, jobs = self.problem.end_s, len(self.problem.jobs)
        beyond_h = np.clip(self.deadline_s - end_s, 0.0, None) / SECONDS_PER_HOUR
        room = LATER_SHARE * beyond_h * self.chips_max
        missed_h = np.clip(end_s - self.deadline_s, 0.0, None) / SECONDS_PER_HOUR
        hopeless = self._late_at(missed_h + self.hours[-1])
        guess = np.zeros(jobs)
        for j in np.flatnonzero(room > 0.0).tolist():
            mine = self.pairs_of(j)
            if not mine:
                room[j] = 0.0
                continue
            usd = np.stack([self._pair_usd(k) for k in mine]).min(axis=0)
            guess[j] = _cheapest(usd, self.hours, min(1.0, self.left_h[j] / room[j]))
        usd = self.chip_kw[self.pair_pool] * np.abs(self.import_usd)[self.pool_site[self.pair_pool]]
        dearest = float((usd / self.column("speed")[:, None]).max(initial=0.0))
        return np.minimum(room, self.need_h), guess, hopeless + np.abs(guess) + dearest

    def _pair_usd(self, k: int) -> Floats:
        """Of an hour of work there, [step]."""
        pair = self.pairs[k]
        usd = self.chip_kw[pair.pool] * self.import_usd[pair.site] / pair.speed
        return np.asarray(usd + pair.move_usd / self.left_h[pair.job])


def _cheapest(usd: Floats, hours: Floats, share: float) -> float:
    """Mean of the cheapest share of the time."""
    order = np.argsort(usd, kind="stable")
    before = np.concatenate([[0.0], np.cumsum(hours[order])])
    wanted = max(share * before[-1], 1e-9)
    used: NDArray[np.float64] = np.clip(wanted - before[:-1], 0.0, hours[order])
    return float(used @ usd[order] / used.sum())

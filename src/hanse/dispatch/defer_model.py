"""Rows and columns of the schedule: one block for sites, one for each set of jobs that came together.

Here: `SiteBlock` and `JobBlock`: what they add to a model, and how their bounds, costs and coefficients follow a later
problem of the same shape. Not here: which jobs are new (`defer`), what comes of the columns (`defer_answer`).

Sites, every step: `used` chips of a pool <= free; load = fixed + PUE x kW a chip x used <= its limit (a bound of `used` where there is one
pool); import + discharge + short + own = load + charge + export + spare; `held` of a battery moves on; the battery feeds the load only,
unless it may sell (a row where something can be sold or waste is paid for; elsewhere the balance says it); `peak` >= the mean import of
three fine steps (a quarter of an hour) or of one long one.
Jobs: x [pair, step] chips; work done - more restarts + left for later + hopeless = what is left and the first start; no more chips than
help; r >= rise of x, each chip that rises does nothing for `restart_s`, and what they lose beyond the first start are `more` restarts: when
a job begins is free, that it stops is not (in steps that are long beside a restart all work of a job that runs does a share less instead:
`Frame.restart_share`); data read over a path <= its share. No row can be broken: `short`, `later` and `hopeless` have prices (`milp`: slacks make every model feasible).
"""

from __future__ import annotations

from typing import Final

import numpy as np

from hanse.dispatch.defer_frame import SOON_USD_PER_CHIP_H, Frame
from hanse.dispatch.defer_problem import DeferBattery, quarters
from hanse.milp import INF, Bools, Floats, Ints, Model, Solver
from hanse.units import SECONDS_PER_HOUR

UNSERVED_USD_PER_KWH: Final = 10.0
"""Far above any energy price, so that load is left out only where the connection and all own power are too small."""
MOVED_USD_PER_KWH: Final = 1e-6
"""Least price of a kWh through a battery: none is moved for nothing."""


class SiteBlock:
    """Columns and rows of all sites."""

    def __init__(self, model: Model, frame: Frame) -> None:
        sites, steps = frame.pue.shape
        shape = (sites, steps)
        self.used = model.add_columns("used", np.zeros(frame.free.shape))
        self.load, self.export, self.spare, self.short = (
            model.add_columns(name, np.zeros(shape))
            for name in ("import", "export", "spare", "short")
        )
        self.with_battery = np.flatnonzero([s.battery is not None for s in frame.problem.sites])
        held = (len(self.with_battery), steps)
        self.charge, self.discharge, self.held = (
            model.add_columns(name, np.zeros(held)) for name in ("charge", "discharge", "held")
        )
        self.levied = np.flatnonzero([s.usd_per_kw_month > 0.0 for s in frame.problem.sites])
        self.peak = model.add_columns("peak", np.zeros(len(self.levied)))
        self.pool_site = frame.pool_site
        self.reads: dict[tuple[str, str], Ints] = {}
        """Rows of the paths that some job reads over, by a path's ends."""
        self._rows(model, frame)
        self._battery_rows(model, frame)
        self._peak_rows(model, frame)
        self.chip_kw = frame.chip_kw

    def batteries(self, frame: Frame) -> list[DeferBattery]:
        """Of the sites that have one."""
        found = [frame.problem.sites[i].battery for i in self.with_battery.tolist()]
        return [one for one in found if one is not None]

    def _rows(self, m: Model, frame: Frame) -> None:
        shape = frame.pue.shape
        self.chips = m.add_rows("chips", 0.0, 0.0, frame.free.shape)
        m.put(self.chips, self.used, -1.0)
        self.balance = m.add_rows("balance", 0.0, 0.0, shape)
        m.put(self.balance[self.pool_site], self.used, -frame.chip_kw)
        for block, sign in (
            (self.load, 1.0),
            (self.short, 1.0),
            (self.export, -1.0),
            (self.spare, -1.0),
        ):
            m.put(self.balance, block, sign)
        pools = np.bincount(self.pool_site, minlength=shape[0])
        self.shared = np.flatnonzero(pools > 1)
        self.limit = m.add_rows("limit", -INF, 0.0, (len(self.shared), shape[1]))
        row_of = np.full(shape[0], -1)
        row_of[self.shared] = np.arange(len(self.shared))
        among = row_of[self.pool_site] >= 0
        self.limited = np.flatnonzero(among)
        self.limited_row = self.limit[row_of[self.pool_site[among]]]
        m.put(self.limited_row, self.used[self.limited], frame.chip_kw[self.limited])
        m.put(self.balance[self.with_battery], self.discharge, 1.0)
        m.put(self.balance[self.with_battery], self.charge, -1.0)

    def _battery_rows(self, m: Model, frame: Frame) -> None:
        batteries, h = self.batteries(frame), frame.hours
        keep = self._keep(frame)
        into = np.array([b.charge_efficiency for b in batteries])[:, None]
        out = np.array([b.discharge_efficiency for b in batteries])[:, None]
        self.moves = m.add_rows("held", 0.0, 0.0, self.held.shape)
        m.put(self.moves, self.held, 1.0)
        m.put(self.moves[:, 1:], self.held[:, :-1], -keep[:, 1:])
        m.put(self.moves, self.charge, -into * h)
        m.put(self.moves, self.discharge, h / out)
        self.alone = np.flatnonzero(_to_load_only(frame)[self.with_battery])
        self.only = m.add_rows("to load", -INF, 0.0, (len(self.alone), len(h)))
        m.put(self.only, self.discharge[self.alone], 1.0)
        row_of = np.full(frame.pue.shape[0], -1)
        row_of[self.with_battery[self.alone]] = np.arange(len(self.alone))
        self.fed = np.flatnonzero(row_of[self.pool_site] >= 0)
        self.fed_row = self.only[row_of[self.pool_site[self.fed]]]
        m.put(self.fed_row, self.used[self.fed], -frame.chip_kw[self.fed])

    def _keep(self, frame: Frame) -> Floats:
        """Share of its content that a battery keeps over each step, [battery, step]."""
        losses = np.array([b.self_discharge_per_h for b in self.batteries(frame)])[:, None]
        return np.clip(1.0 - losses * frame.hours, 0.0, 1.0)

    def _peak_rows(self, m: Model, frame: Frame) -> None:
        windows = np.array(quarters(frame.problem.step_s), np.int64)
        rows = m.add_rows("peak", -INF, 0.0, (len(self.levied), int(windows.max()) + 1))
        length = np.bincount(windows, weights=frame.hours)
        m.put(rows[:, windows], self.load[self.levied], frame.hours / length[windows])
        m.put(rows, self.peak[:, None], -1.0)

    def same_shape(self, frame: Frame, before: Frame) -> bool:
        """Whether `follow` can take the problem over."""
        return _shape(frame) == _shape(before)

    def follow(self, solver: Solver, frame: Frame) -> None:
        """Bounds, costs and coefficients of another problem of the same shape; also those of the first."""
        sites = frame.problem.sites
        self._follow_used(solver, frame)
        own, hours = frame.own_kw, frame.hours
        left = frame.fixed_kw - own
        solver.set_rows(self.balance, left, left)
        solver.set_columns(self.load, 0.0, frame.rows("grid_kw_max"))
        solver.set_costs(self.load, hours * frame.import_usd)
        sold_max = np.array([s.export_kw_max for s in sites], float)[:, None]
        sellable = own.copy()
        for row, one in zip(self.with_battery.tolist(), self.batteries(frame), strict=True):
            sellable[row] += one.kw_max * one.export
        solver.set_columns(self.export, 0.0, np.minimum(sold_max, sellable))
        sale = np.array([s.export_usd_per_kwh for s in sites], float)[:, None]
        solver.set_costs(self.export, -hours * sale)
        solver.set_columns(self.spare, 0.0, own)
        solver.set_costs(self.short, np.broadcast_to(hours * UNSERVED_USD_PER_KWH, own.shape))
        peaks = [(sites[i].peak_import_kw, sites[i].usd_per_kw_month) for i in self.levied.tolist()]
        so_far, usd = np.array(peaks, float).reshape(-1, 2).T
        solver.set_columns(self.peak, so_far, INF)
        solver.set_costs(self.peak, usd)
        rates = dict(zip(frame.path_ends, frame.path_gb_per_h.tolist(), strict=True))
        for ends, rows in self.reads.items():
            solver.set_rows(rows, -INF, np.full(rows.shape, rates.get(ends, 0.0)))
        self._follow_batteries(solver, frame)

    def _follow_used(self, solver: Solver, frame: Frame) -> None:
        kw = frame.chip_kw
        changed = kw != self.chip_kw
        for rows, pools, sign in (
            (self.balance[self.pool_site], np.arange(len(kw)), -1.0),
            (self.limited_row, self.limited, 1.0),
            (self.fed_row, self.fed, -1.0),
        ):
            some = changed[pools]
            solver.set_entries(rows[some], self.used[pools][some], sign * kw[pools][some])
        self.chip_kw = kw
        spare_kw = frame.load_kw_max - frame.fixed_kw
        most = frame.free.copy()
        alone = np.setdiff1d(np.arange(len(kw)), self.limited)
        bound = np.full(kw[alone].shape, INF)
        np.divide(spare_kw[self.pool_site[alone]], kw[alone], out=bound, where=kw[alone] > 0.0)
        most[alone] = np.minimum(most[alone], bound)
        solver.set_columns(self.used, 0.0, most)
        solver.set_rows(self.limit, -INF, spare_kw[self.shared])
        fixed_kw = frame.fixed_kw[self.with_battery[self.alone]]
        solver.set_rows(self.only, -INF, fixed_kw)

    def _follow_batteries(self, solver: Solver, frame: Frame) -> None:
        batteries = self.batteries(frame)
        if not batteries:
            return
        keep = self._keep(frame)
        held = np.array([b.held_kwh for b in batteries])
        first = np.zeros(self.held.shape)
        first[:, 0] = held * keep[:, 0]
        solver.set_rows(self.moves, first, first)
        kept = held[:, None] * np.cumprod(keep, axis=1)
        floor = np.array([max(b.soc_min, b.soc_reserve) * b.kwh for b in batteries])[:, None]
        ceiling = np.array([b.soc_max * b.kwh for b in batteries])[:, None]
        # What lies outside may stay outside: no plan can be asked for more.
        solver.set_columns(self.held, np.minimum(floor, kept), np.maximum(ceiling, kept))
        power = np.array([b.kw_max for b in batteries])[:, None]
        solver.set_columns(self.charge, 0.0, np.broadcast_to(power, self.held.shape))
        solver.set_columns(self.discharge, 0.0, np.broadcast_to(power, self.held.shape))
        wear = np.array([max(b.usd_per_kwh_out, MOVED_USD_PER_KWH) for b in batteries])[:, None]
        solver.set_costs(self.discharge, wear * frame.hours)
        worth = np.array([b.stored_usd_per_kwh for b in batteries])
        solver.set_costs(self.held[:, -1], -worth)


def _shape(frame: Frame) -> tuple[object, ...]:
    sites = frame.problem.sites
    batteries = tuple(
        b and (b.charge_efficiency, b.discharge_efficiency, b.self_discharge_per_h, b.export)
        for b in (site.battery for site in sites)
    )
    names = frame.pool_names, frame.accelerators, tuple(site.site for site in sites)
    levied = tuple(site.usd_per_kw_month > 0.0 for site in sites)
    return (frame.problem.step_s, batteries, *names, levied, tuple(_to_load_only(frame).tolist()))


def _to_load_only(frame: Frame) -> Bools:
    """[site] whether a battery that may not sell needs a row for it: where own power is sold, it could stand in for that, and where import
    costs less than nothing, it could burn. Elsewhere what it gives can go nowhere but to the load.
    """
    sites = frame.problem.sites
    kept = np.array([s.battery is not None and not s.battery.export for s in sites], bool)
    sells = np.array([s.export_kw_max > 0.0 for s in sites], bool)
    return np.asarray(kept & (sells | (frame.import_usd < 0.0).any(axis=1)))


class JobBlock:
    """Columns and rows of some jobs; `jobs` and `pairs` are rows of the frame it was last brought in line with."""

    def __init__(self, model: Model, frame: Frame, jobs: Ints, sites: SiteBlock) -> None:
        self.names = tuple(frame.problem.jobs[j].job.id for j in jobs.tolist())
        self.alive = np.ones(len(jobs), bool)
        mine = np.isin(frame.pair_job, jobs)
        pairs = np.flatnonzero(mine)
        self.pair_owner: Ints = np.searchsorted(jobs, frame.pair_job[pairs])
        """[pair] row of `names`."""
        steps = len(frame.hours)
        self.x = model.add_columns("chips", np.zeros((len(pairs), steps)))
        self.begins = np.nonzero(frame.counts_begins[frame.pair_job[pairs]])
        """([begin] pair, [begin] step) where a chip that begins is counted."""
        self.rise = model.add_columns("rise", np.zeros(len(self.begins[0])))
        self.restart_share = frame.restart_share[jobs]
        self.more = model.add_columns("more restarts", np.zeros(len(jobs)))
        self.later = model.add_columns("later", np.zeros(len(jobs)))
        self.hopeless = model.add_columns("hopeless", np.zeros(len(jobs)))
        self.remote = np.flatnonzero(frame.gb_per_h[pairs] > 0.0)
        self.gb_per_h = frame.gb_per_h[pairs]
        self._rows(model, frame, pairs, sites)

    def _rows(self, m: Model, frame: Frame, pairs: Ints, sites: SiteBlock) -> None:
        self.speed = frame.column("speed")[pairs]
        speed = self.speed[:, None]
        self.work = m.add_rows("work", 0.0, 0.0, self.later.shape)
        does = speed * frame.hours * (1.0 - self.restart_share[self.pair_owner])
        m.put(self.work[self.pair_owner][:, None], self.x, does)
        m.put(self.work, self.later, 1.0)
        m.put(self.work, self.hopeless, 1.0)
        m.put(sites.chips[frame.pair_pool[pairs]], self.x, 1.0)
        pair, step = self.begins
        self.begun = m.add_rows("begun", -INF, 0.0, self.more.shape)
        m.put(self.begun[self.pair_owner[pair]], self.rise, frame.lost_h[pairs][pair])
        m.put(self.begun, self.more, -1.0)
        m.put(self.work, self.more, -1.0)
        self.rises = m.add_rows("rise", -INF, 0.0, self.rise.shape)
        m.put(self.rises, self.x[pair, step], 1.0)
        after = step > 0
        m.put(self.rises[after], self.x[pair[after], step[after] - 1], -1.0)
        m.put(self.rises, self.rise, -1.0)
        many = np.flatnonzero(np.bincount(self.pair_owner, minlength=len(self.names)) > 1)
        self.split = many
        self.most = m.add_rows("chips_max", -INF, 0.0, (len(many), len(frame.hours)))
        row_of = np.full(len(self.names), -1)
        row_of[many] = np.arange(len(many))
        shared = row_of[self.pair_owner] >= 0
        m.put(self.most[row_of[self.pair_owner[shared]]], self.x[shared], 1.0)
        over = [frame.path_ends[frame.pairs[k].path] for k in pairs[self.remote].tolist()]
        for ends in sorted(set(over) - set(sites.reads)):
            name = f"reads {ends[0]} {ends[1]}"
            sites.reads[ends] = m.add_rows(name, -INF, 0.0, (len(frame.hours),))
        self.read_row = np.array([sites.reads[ends] for ends in over], np.int64)
        self.read_row = self.read_row.reshape(len(self.remote), len(frame.hours))
        self.read_speed = speed[self.remote]
        read = self.read_speed * self.gb_per_h[self.remote][:, None]
        m.put(self.read_row, self.x[self.remote], read)

    def follow(self, solver: Solver, frame: Frame, index: dict[str, int]) -> None:
        """Bounds and costs of a later problem; `index`: name -> row of the frame's jobs. One that is gone gets nothing."""
        jobs = np.array([index.get(name, -1) for name in self.names], np.int64)
        self.alive = jobs >= 0
        self.jobs = jobs
        pairs = self._pairs(frame, jobs)
        self.pairs = pairs
        here = pairs >= 0
        bounds = np.where(here[:, None], _at(frame.pair_chips_max, pairs), 0.0)
        solver.set_columns(self.x, 0.0, bounds)
        soon = SOON_USD_PER_CHIP_H * (frame.starts_s - frame.problem.start_s) / SECONDS_PER_HOUR
        speed = _at(frame.column("speed"), pairs)[:, None]
        left = np.maximum(frame.left_h, 1e-12)[np.maximum(jobs, 0)] if len(frame.left_h) else None
        if left is not None:
            owner = self.pair_owner
            move = _at(frame.column("move_usd"), pairs)[:, None] / left[owner][:, None]
            usd = _at(frame.late_usd, jobs)[owner] + move + soon
            solver.set_costs(self.x, np.where(here[:, None], frame.hours * speed * usd, 0.0))
            self._follow_left(solver, frame, jobs)
            self._follow_restarts(solver, frame, jobs)
        pair, step = self.begins
        running = np.where(here, _at(frame.running, pairs), 0.0)[pair]
        solver.set_rows(self.rises, -INF, np.where(step == 0, running, 0.0))
        solver.set_columns(self.rise, 0.0, bounds[self.begins])
        most = np.where(self.alive, _at(frame.chips_max, jobs), 0.0)
        solver.set_rows(
            self.most, -INF, np.broadcast_to(most[self.split][:, None], self.most.shape)
        )
        self._follow_reads(solver, frame, pairs)

    def _follow_left(self, solver: Solver, frame: Frame, jobs: Ints) -> None:
        left = np.where(self.alive, _at(frame.need_h, jobs), 0.0)
        solver.set_rows(self.work, left, left)
        solver.set_rows(self.begun, -INF, np.where(self.alive, _at(frame.first_h, jobs), 0.0))
        room, guess, hopeless = (_at(one, jobs) for one in frame.later)
        solver.set_columns(self.later, 0.0, np.where(self.alive, room, 0.0))
        solver.set_costs(self.later, np.where(self.alive, guess, 0.0))
        solver.set_costs(self.hopeless, np.where(self.alive, hopeless, 0.0))
        solver.set_columns(self.hopeless, 0.0, left)

    def _follow_restarts(self, solver: Solver, frame: Frame, jobs: Ints) -> None:
        share = np.where(
            self.alive[:, None], _at(frame.restart_share, jobs), self.restart_share
        )  # of one that is gone nothing changes
        pair, step = np.nonzero((share != self.restart_share)[self.pair_owner])
        owner = self.pair_owner[pair]
        does = self.speed[pair] * frame.hours[step] * (1.0 - share[owner, step])
        solver.set_entries(self.work[owner], self.x[pair, step], does)
        self.restart_share = share

    def _follow_reads(self, solver: Solver, frame: Frame, pairs: Ints) -> None:
        if not len(self.remote):
            return
        now = np.where(pairs >= 0, _at(frame.gb_per_h, pairs), 0.0)
        changed = self.remote[now[self.remote] != self.gb_per_h[self.remote]]
        if len(changed):
            place = np.isin(self.remote, changed)
            read = self.read_speed[place] * now[changed][:, None]
            solver.set_entries(self.read_row[place], self.x[changed], read)
            self.gb_per_h = now

    def _pairs(self, frame: Frame, jobs: Ints) -> Ints:
        """[pair] rows of the frame's pairs, -1 where the job is gone."""
        found = np.full(len(self.pair_owner), -1, np.int64)
        wanted = jobs[self.pair_owner] >= 0
        alive = np.isin(frame.pair_job, jobs[self.alive])
        rows = np.flatnonzero(alive)
        order = np.argsort(jobs[self.pair_owner[wanted]], kind="stable")
        found[np.flatnonzero(wanted)[order]] = rows
        return found


def _at(rows: Floats, index: Ints) -> Floats:
    """Rows by index; any of them for -1, which the caller masks."""
    if not len(rows):
        return np.zeros((len(index), *rows.shape[1:]))
    return np.asarray(rows[np.maximum(index, 0)])

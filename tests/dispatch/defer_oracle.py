"""The schedule once more, by the book: plain loops over the values, solved by another algorithm. Shares no row with the program."""

from __future__ import annotations

import highspy
import numpy as np

from hanse.dispatch.defer_problem import DeferProblem
from hanse.milp import INF, Quiet


class Rows:
    def __init__(self) -> None:
        self.cost: list[float] = []
        self.bounds: list[tuple[float, float | None]] = []
        self.equal: list[tuple[dict[int, float], float]] = []
        self.most: list[tuple[dict[int, float], float]] = []

    def new(self, cost: float = 0.0, low: float = 0.0, high: float | None = None) -> int:
        self.cost.append(cost)
        self.bounds.append((low, high))
        return len(self.cost) - 1

    def solve(self) -> float:
        """By interior points, from all rows at once: neither the model nor the way of the schedule under test."""
        lp = highspy.HighsLp()
        rows = [(row, b, b) for row, b in self.equal] + [(row, -INF, b) for row, b in self.most]
        lp.num_col_, lp.num_row_ = len(self.cost), len(rows)
        lp.col_cost_ = np.array(self.cost)
        lp.col_lower_ = np.array([low for low, _ in self.bounds])
        lp.col_upper_ = np.array([INF if high is None else high for _, high in self.bounds])
        lp.row_lower_ = np.array([low for _, low, _ in rows])
        lp.row_upper_ = np.array([high for _, _, high in rows])
        lp.a_matrix_.format_ = highspy.MatrixFormat.kRowwise
        lp.a_matrix_.start_ = np.cumsum([0] + [len(row) for row, _, _ in rows]).astype(np.int32)
        lp.a_matrix_.index_ = np.array([c for row, _, _ in rows for c in row], np.int32)
        lp.a_matrix_.value_ = np.array([v for row, _, _ in rows for v in row.values()])
        highs = Quiet()
        highs.setOptionValue("output_flag", False)
        highs.setOptionValue("solver", "ipm")
        highs.setOptionValue("threads", 1)
        highs.passModel(lp)
        highs.run()
        assert highs.getModelStatus() == highspy.HighsModelStatus.kOptimal
        return float(highs.getInfo().objective_function_value)


def least_usd(p: DeferProblem) -> float:
    """The cost of the best schedule of fractions."""
    lp, const = Rows(), 0.0
    hours = [s / 3600.0 for s in p.step_s]
    steps = range(len(hours))
    begin = [p.start_s + sum(p.step_s[:t]) for t in steps]
    work_on = {(s.site, q.pool, t): {} for s in p.sites for q in s.pools for t in steps}
    for one in p.jobs:
        add_job(lp, p, one, hours, begin, work_on)
    for s in p.sites:
        const += add_site(lp, p, s, hours, work_on)
    return lp.solve() + const


def add_site(lp, p, s, hours, work_on) -> float:  # type: ignore[no-untyped-def]
    """Columns and rows of a site; what its cost begins at."""
    steps, const, carbon = range(len(hours)), 0.0, p.usd_per_tonne_co2e / 1e6
    b = s.battery
    held_before: int | None = None
    used = {}
    for q in s.pools:
        for t in steps:
            used[q.pool, t] = work_on[s.site, q.pool, t]
            lp.most.append((used[q.pool, t], q.chips_free[t]))
    peak = lp.new(s.usd_per_kw_month, s.peak_import_kw)
    const -= s.usd_per_kw_month * s.peak_import_kw
    window: dict[int, float] = {}
    window_h = 0.0
    for t in steps:
        usd = s.price_usd_per_kwh[t] + carbon * s.carbon_g_per_kwh[t]
        load = lp.new(usd * hours[t], 0.0, s.grid_kw_max[t])
        own = s.pv_kw[t] + s.wind_kw[t]
        out = lp.new(-s.export_usd_per_kwh * hours[t], 0.0, min(own, s.export_kw_max))
        spare, short = lp.new(0.0, 0.0, own), lp.new(10.0 * hours[t])
        draws = s.base_kw[t]
        row = {load: 1.0, short: 1.0, out: -1.0, spare: -1.0}
        extra: dict[int, float] = {}
        for q in s.pools:
            draws += s.pue[t] * q.chips_free[t] * q.chip_kw_idle
            for column in used[q.pool, t]:
                extra[column] = s.pue[t] * (q.chip_kw_full - q.chip_kw_idle)
        row |= {column: -kw for column, kw in extra.items()}
        if s.load_kw_max:
            lp.most.append((extra, max(0.0, s.load_kw_max[t] - draws)))
        if b is not None:
            keep = max(0.0, 1.0 - b.self_discharge_per_h * hours[t])
            kept = b.held_kwh
            for k in range(t + 1):
                kept *= max(0.0, 1.0 - b.self_discharge_per_h * hours[k])
            floor = min(max(b.soc_min, b.soc_reserve) * b.kwh, kept)
            worth = -b.stored_usd_per_kwh if t == steps[-1] else 0.0
            held = lp.new(worth, floor, max(b.soc_max * b.kwh, kept))
            into = lp.new(0.0, 0.0, b.kw_max)
            gives = lp.new(max(b.usd_per_kwh_out, 1e-6) * hours[t], 0.0, b.kw_max)
            row |= {gives: 1.0, into: -1.0}
            moves = {
                held: 1.0,
                into: -b.charge_efficiency * hours[t],
                gives: hours[t] / b.discharge_efficiency,
            }
            first = 0.0
            if held_before is None:
                first = b.held_kwh * keep
            else:
                moves[held_before] = -keep
            lp.equal.append((moves, first))
            held_before = held
            if not b.export:
                lp.most.append(({gives: 1.0} | {c: -kw for c, kw in extra.items()}, draws))
        lp.equal.append((row, draws - own))
        # Fine steps three by three, a long one alone.
        if window_h + hours[t] > 0.25 + 1e-9 and window:
            lp.most.append(({c: v / window_h for c, v in window.items()} | {peak: -1.0}, 0.0))
            window, window_h = {}, 0.0
        window[load] = hours[t]
        window_h += hours[t]
    lp.most.append(({c: v / window_h for c, v in window.items()} | {peak: -1.0}, 0.0))
    if b is not None:
        const += b.stored_usd_per_kwh * b.held_kwh
    return const


def add_job(lp, p, one, hours, begin, work_on) -> None:  # type: ignore[no-untyped-def]
    job, steps = one.job, range(len(hours))
    fast = min(job.chip_s.values())
    left = fast / 3600.0
    work: dict[int, float] = {}
    by_step: list[dict[int, float]] = [{} for _ in steps]
    carbon = p.usd_per_tonne_co2e / 1e6
    unit: list[list[float]] = []
    dearest = 0.0
    # Once it has to begin anyway: only what is lost beyond that counts.
    first = 0.0 if one.chips else job.chips_max * job.restart_s / 3600.0
    more = lp.new()
    work[more] = -1.0
    begun: dict[int, float] = {more: -1.0}
    for s in p.sites:
        for q in s.pools:
            if s.site not in one.sites or q.accelerator not in job.chip_s:
                continue
            speed = fast / job.chip_s[q.accelerator]
            move, ready = 0.0, p.start_s
            remote = s.site != job.home and s.site not in one.data_at and job.data_gb > 0.0
            if remote:
                way = next(w for w in p.paths if (w.source, w.target) == (job.home, s.site))
                move += job.data_gb * way.usd_per_gb
            if s.site != one.state_at and job.state_gb > 0.0:
                there = next(w for w in p.paths if (w.source, w.target) == (one.state_at, s.site))
                move += job.state_gb * there.usd_per_gb
                ready += job.state_gb * 8e3 / (there.mbit_s * p.link_share)
            before: int | None = None
            prices = []
            for t in steps:
                end = begin[t] + p.step_s[t]
                may = max(0.0, end - max(begin[t], ready, job.submitted_at_s)) / p.step_s[t]
                late_s = min(p.step_s[t], max(0.0, end - due_of(job)))
                price = move / left + 1e-6 * (begin[t] - p.start_s) / 3600.0
                if late_s > 0.0:
                    mean_h = (end - late_s / 2.0 - due_of(job)) / 3600.0
                    rate = p.late_usd_per_chip_h + p.later_usd_per_chip_h * mean_h
                    price += job.weight * rate * late_s / p.step_s[t]
                x = lp.new(hours[t] * speed * price, 0.0, may * job.chips_max)
                work_on[s.site, q.pool, t][x] = 1.0
                by_step[t][x] = 1.0
                # Where a restart is short beside a step, work of a job that runs does a share less: one restart, spread over all of it.
                short = 0.0 < job.restart_s < 0.05 * p.step_s[t] and one.chips > 0
                spread = min(0.5, job.chips_max * job.restart_s / 3600.0 / left) if short else 0.0
                work[x] = speed * hours[t] * (1.0 - spread)
                if remote:
                    rate_gb_h = way.mbit_s * p.link_share / 8e3 * 3600.0
                    lp.reads = getattr(lp, "reads", {})
                    row = lp.reads.setdefault((way.source, way.target, t), {})
                    if not row:
                        lp.most.append((row, rate_gb_h))
                    row[x] = speed * job.data_gb / left
                if job.restart_s >= 0.05 * p.step_s[t]:
                    r = lp.new(0.0, 0.0, may * job.chips_max)
                    begun[r] = speed * job.restart_s / 3600.0
                    rise = {x: 1.0, r: -1.0}
                    if before is not None:
                        rise[before] = -1.0
                    lp.most.append((rise, running(one, s.site, q.pool) if t == 0 else 0.0))
                before = x
                usd = s.price_usd_per_kwh[t] + carbon * s.carbon_g_per_kwh[t]
                power = (q.chip_kw_full - q.chip_kw_idle) * s.pue[t] * usd / speed
                dearest = max(dearest, power)
                prices.append(power + move / left)
            unit.append(prices)
    for t in steps:
        lp.most.append((by_step[t], float(job.chips_max)))
    lp.most.append((begun, first))
    add_left(lp, p, one, hours, begin, work, unit, dearest, first)


def running(one, site, pool) -> float:  # type: ignore[no-untyped-def]
    return float(one.chips) if (one.state_at, one.pool) == (site, pool) else 0.0


def due_of(job) -> float:  # type: ignore[no-untyped-def]
    """A yield costs what was not in a checkpoint, and a restart: planned work leaves time for one."""
    return float(job.deadline_at_s - job.checkpoint_every_s - job.restart_s)


def add_left(lp, p, one, hours, begin, work, unit, dearest, first) -> None:  # type: ignore[no-untyped-def]
    """Work that is left for later or not done, and the row that counts all work."""
    job = one.job
    left = min(job.chip_s.values()) / 3600.0
    end_s = begin[-1] + p.step_s[-1]
    room, guess = 0.0, 0.0
    if due_of(job) > end_s and unit:
        room = 0.5 * (due_of(job) - end_s) / 3600.0 * job.chips_max
        guess = cheapest([min(c) for c in zip(*unit, strict=True)], hours, min(1.0, left / room))
        room = min(room, left + first)
    missed = max(0.0, end_s - due_of(job)) / 3600.0 + hours[-1]
    never = job.weight * (p.late_usd_per_chip_h + p.later_usd_per_chip_h * missed)
    work[lp.new(guess, 0.0, room)] = 1.0
    all_dearest = getattr(lp, "dearest", [])
    lp.dearest = all_dearest
    hopeless = lp.new(never + abs(guess), 0.0, left + first)
    work[hopeless] = 1.0
    all_dearest.append((hopeless, dearest))
    # The dearest power of all jobs stands on every hopeless hour.
    top = max(d for _, d in all_dearest)
    lp.base = getattr(lp, "base", {})
    lp.base[hopeless] = never + abs(guess)
    for column, _ in all_dearest:
        lp.cost[column] = lp.base[column] + top
    lp.equal.append((work, left + first))


def cheapest(usd: list[float], hours: list[float], share: float) -> float:
    wanted, paid, got = share * sum(hours), 0.0, 0.0
    for price, length in sorted(zip(usd, hours, strict=True)):
        part = min(length, wanted - got)
        if part <= 0.0:
            break
        paid, got = paid + part * price, got + part
    return paid / got

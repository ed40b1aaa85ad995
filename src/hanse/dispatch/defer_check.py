"""Whether an answer keeps what its problem demands, found out without the program that made it.

Here: `check`, in plain loops over the values. Whoever is handed an answer runs it before acting. Not here: whether a cheaper
schedule exists (`bound_usd` says that).
"""

from __future__ import annotations

from collections.abc import Iterator

from hanse.dispatch.defer_problem import (
    DeferAnswer,
    DeferJob,
    DeferProblem,
    DeferSite,
    JobPlan,
    SitePlan,
)
from hanse.units import hours_from_s

SLACK = 1e-5
"""Relative: ten times a solver's tolerance."""


def check(problem: DeferProblem, answer: DeferAnswer) -> list[str]:
    """Everything that is wrong, in words; empty: it may be carried out."""
    if answer.problem != problem.digest():
        return ["it answers another problem"]
    if (answer.start_s, answer.step_s) != (problem.start_s, problem.step_s):
        return ["it has other steps"]
    if [plan.job for plan in answer.jobs] != [one.job.id for one in problem.jobs]:
        return ["it plans other jobs"]
    if [plan.site for plan in answer.sites] != [one.site for one in problem.sites]:
        return ["it plans other sites"]
    found: list[str] = []
    for one, plan in zip(problem.jobs, answer.jobs, strict=True):
        found += _job(problem, answer, one, plan)
    found += _pools(problem, answer)
    for site, its in zip(problem.sites, answer.sites, strict=True):
        found += _power(problem, answer, site, its)
        found += _battery(problem, site, its)
    return found


def _more(a: float, b: float) -> bool:
    """Whether a is above b by more than rounding."""
    return a > b + SLACK * max(1.0, abs(b))


def _job(problem: DeferProblem, answer: DeferAnswer, one: DeferJob, plan: JobPlan) -> Iterator[str]:
    job = one.job
    pools = {(s.site, p.pool): p for s in problem.sites for p in s.pools}
    work = 0.0
    total = [0.0] * len(problem.step_s)
    for run in plan.runs:
        if run.site not in one.sites:
            yield f"{job.id}: at {run.site}, where law does not let it run"
        pool = pools.get((run.site, run.pool))
        if pool is None or job.chip_s.get(pool.accelerator, 0.0) <= 0.0:
            yield f"{job.id}: at {run.site}/{run.pool}, which cannot run it"
            continue
        start_s = problem.start_s
        for t, chips in enumerate(run.chips):
            if chips < 0.0:
                yield f"{job.id}: {chips:g} chips at {run.site} in step {t}"
            total[t] += chips
            work += chips * problem.step_s[t] / job.chip_s[pool.accelerator]
            start_s += problem.step_s[t]
            if chips > 0.0 and start_s <= job.submitted_at_s:
                yield f"{job.id}: runs before it was submitted"
    for t, chips in enumerate(total):
        if _more(chips, job.chips_max):
            yield f"{job.id}: {chips:g} chips in step {t}, {job.chips_max} help"
    if plan.finish_at_s is not None and work < 1.0 - SLACK and any(job.chip_s.values()):
        yield f"{job.id}: said to be done with {work:.4f} of its work"
    named = any(v.where == job.id for v in answer.violations)
    late = plan.finish_at_s is None or plan.finish_at_s > job.deadline_at_s + 1.0
    if late and job.deadline_at_s <= problem.end_s and not named:
        yield f"{job.id}: late, and nothing says so"


def _pools(problem: DeferProblem, answer: DeferAnswer) -> Iterator[str]:
    used: dict[tuple[str, str], list[float]] = {}
    for plan in answer.jobs:
        for run in plan.runs:
            mine = used.setdefault((run.site, run.pool), [0.0] * len(problem.step_s))
            for t, chips in enumerate(run.chips):
                mine[t] += chips
    for site in problem.sites:
        for pool in site.pools:
            mine = used.get((site.site, pool.pool), [])
            for t, chips in enumerate(mine):
                if _more(chips, pool.chips_free[t]):
                    yield (
                        f"{site.site}/{pool.pool}: {chips:g} chips in step {t},"
                        f" {pool.chips_free[t]:g} are free"
                    )


def _power(
    problem: DeferProblem, answer: DeferAnswer, site: DeferSite, plan: SitePlan
) -> Iterator[str]:
    draws = _facility_kw(problem, answer, site)
    for t in range(len(problem.step_s)):
        where = f"{site.site}, step {t}"
        if abs(draws[t] - plan.facility_kw[t]) > SLACK * max(1.0, draws[t]):
            yield f"{where}: {plan.facility_kw[t]:g} kW planned, its work draws {draws[t]:g}"
        idle_kw = sum(site.pue[t] * p.chips_free[t] * p.chip_kw_idle for p in site.pools)
        most = max(site.load_kw_max[t], site.base_kw[t] + idle_kw) if site.load_kw_max else None
        if most is not None and _more(draws[t], most):
            yield f"{where}: {draws[t]:g} kW of the {most:g} that heat or a load target lets it draw"
        given = site.pv_kw[t] + site.wind_kw[t] + plan.discharge_kw[t] + plan.import_kw[t]
        given += plan.unserved_kw[t]
        taken = plan.facility_kw[t] + plan.charge_kw[t] + plan.export_kw[t] + plan.curtailed_kw[t]
        if abs(given - taken) > SLACK * max(1.0, given):
            yield f"{where}: {given:g} kW in, {taken:g} kW out"
        if _more(plan.import_kw[t], site.grid_kw_max[t]):
            yield f"{where}: imports {plan.import_kw[t]:g} kW of {site.grid_kw_max[t]:g}"
        if _more(plan.export_kw[t], site.export_kw_max):
            yield f"{where}: exports {plan.export_kw[t]:g} kW of {site.export_kw_max:g}"
        if min(plan.import_kw[t], plan.export_kw[t], plan.curtailed_kw[t], plan.unserved_kw[t]) < (
            -SLACK
        ):
            yield f"{where}: a flow below zero"


def _facility_kw(problem: DeferProblem, answer: DeferAnswer, site: DeferSite) -> list[float]:
    found = list(site.base_kw)
    for pool in site.pools:
        for t, free in enumerate(pool.chips_free):
            found[t] += site.pue[t] * free * pool.chip_kw_idle
        for plan in answer.jobs:
            for run in plan.runs:
                if (run.site, run.pool) == (site.site, pool.pool):
                    for t, chips in enumerate(run.chips):
                        found[t] += site.pue[t] * chips * (pool.chip_kw_full - pool.chip_kw_idle)
    return found


def _battery(problem: DeferProblem, site: DeferSite, plan: SitePlan) -> Iterator[str]:
    b = site.battery
    if b is None:
        if any(plan.charge_kw) or any(plan.discharge_kw):
            yield f"{site.site}: moves a battery that it has not"
        return
    held = b.held_kwh
    for t, length_s in enumerate(problem.step_s):
        hours = hours_from_s(length_s)
        where = f"{site.site}, step {t}"
        before, charge, discharge = held, plan.charge_kw[t], plan.discharge_kw[t]
        if _more(max(charge, discharge), b.kw_max) or min(charge, discharge) < -SLACK:
            yield f"{where}: battery at {max(charge, discharge):g} kW of {b.kw_max:g}"
        held *= max(0.0, 1.0 - b.self_discharge_per_h * hours)
        held += (b.charge_efficiency * charge - discharge / b.discharge_efficiency) * hours
        if abs(held - plan.battery_kwh[t]) > SLACK * max(1.0, b.kwh):
            yield f"{where}: {plan.battery_kwh[t]:g} kWh said, {held:g} held"
        if _more(held, max(b.soc_max * b.kwh, before)) or held < -SLACK:
            yield f"{where}: {held:g} kWh in a battery of {b.kwh:g}"
        floor = min(b.soc_min * b.kwh, before * (1.0 - b.self_discharge_per_h * hours))
        if held < floor - SLACK * max(1.0, b.kwh):
            yield f"{where}: {held:g} kWh, below its floor"

"""What a schedule leaves undone, why, and what would cure it, in words.

Here: `violations` of a finished schedule. Not here: prices of slacks (`defer_frame`, `defer_model`), the schedule.
"""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np

from hanse.dispatch.defer_frame import Frame
from hanse.dispatch.defer_problem import DeferViolation, JobPlan, ViolationKind
from hanse.milp import Floats
from hanse.units import hours_from_s

LATE_S_LEAST = 1.0
"""Less is rounding."""
NAMES_MAX = 5
"""A list of all sites helps nobody."""
FULL_SHARE = 0.999


def violations(
    frame: Frame, jobs: tuple[JobPlan, ...], unserved_kw: Floats, used: Floats
) -> tuple[DeferViolation, ...]:
    """Every job that is late or cannot run, every site that cannot serve its load."""
    found = []
    for j, plan in enumerate(jobs):
        one = _of_job(frame, plan, j, used)
        if one is not None:
            found.append(one)
    kwh = unserved_kw @ frame.hours
    for i in np.flatnonzero(kwh > 1e-6).tolist():
        site = frame.problem.sites[i]
        short = float(unserved_kw[i].max())
        found.append(
            DeferViolation(
                kind="power",
                where=site.site,
                amount=float(kwh[i]),
                why=f"connection, own generation and battery together lack up to {short:.3g} kW",
                cure=f"move interactive load away, or raise grid_kw_max by {short:.3g} kW",
            )
        )
    return tuple(found)


def _of_job(frame: Frame, plan: JobPlan, j: int, used: Floats) -> DeferViolation | None:
    one = frame.problem.jobs[j]
    left_h = frame.left_h[j] * (1.0 - plan.done_share)
    if not frame.pairs_of(j) and (frame.left_h[j] > 0.0 or not one.job.chip_s):
        kind, why, cure = _nowhere(frame, j)
        return _violation(kind, one.job.id, float(frame.left_h[j]), why, cure)
    if plan.late_s < LATE_S_LEAST:
        return None
    why, cure = _why(frame, plan, j, used)
    if plan.finish_at_s is None:
        return _violation("unfinished", one.job.id, float(left_h), why, cure)
    return _violation("late", one.job.id, plan.late_s, why, cure)


def _violation(
    kind: ViolationKind, where: str, amount: float, why: str, cure: str
) -> DeferViolation:
    return DeferViolation(kind=kind, where=where, amount=amount, why=why, cure=cure)


def _nowhere(frame: Frame, j: int) -> tuple[ViolationKind, str, str]:
    one = frame.problem.jobs[j]
    if not one.sites:
        told = "; ".join(f"{r.site}: {', '.join(r.rules)}" for r in one.refused[:NAMES_MAX])
        rules = sorted({rule for r in one.refused for rule in r.rules})
        cure = "name a site of its home's law"
        if rules:
            cure += f", or meet {' or '.join(rules[:NAMES_MAX])}"
        return "no_site", f"no site may hold it: {told or 'none is known'}", cure
    chips = ", ".join(sorted(one.job.chip_s)) or "none"
    held = sorted({a for a, (s, _) in zip(frame.accelerators, frame.pool_names, strict=True)
                   if s in one.sites})  # fmt: skip
    return (
        "no_chip",
        f"it runs on {chips}; lawful sites hold {', '.join(held) or 'no chips'}",
        "give chip_s for one of those, a path to a site that has its chip, or a pool at a lawful site",
    )


def _why(frame: Frame, plan: JobPlan, j: int, used: Floats) -> tuple[str, str]:
    job = frame.problem.jobs[j].job
    mine = frame.pairs_of(j)
    before = frame.starts_s < job.deadline_at_s
    speed = np.array([frame.pairs[k].speed for k in mine])[:, None]
    most = (speed * frame.pair_chips_max[mine]).max(axis=0)
    share = np.clip((job.deadline_at_s - frame.starts_s) / (frame.ends_s - frame.starts_s), 0, 1)
    alone_h = float(most @ (frame.hours * share))
    by = datetime.fromtimestamp(job.deadline_at_s + plan.late_s, UTC).strftime("%Y-%m-%d %H:%M")
    if alone_h < frame.left_h[j]:
        window_h = max(0.0, hours_from_s(job.deadline_at_s - frame.problem.start_s))
        needed = frame.left_h[j] / window_h if window_h > 0.0 else float("inf")
        cure = f"move the deadline to {by} UTC"
        if np.isfinite(needed):
            cure += f", or let it use {int(np.ceil(needed))} chips"
        return (
            f"time: {frame.left_h[j]:.3g} chip hours are left, {job.chips_max} chips do"
            f" {alone_h:.3g} until the deadline",
            cure,
        )
    pools = sorted({frame.pairs[k].pool for k in mine})
    names = _names([frame.pool_names[p][0] for p in pools])
    idle = frame.free[pools] - used[pools]
    if not (
        idle[:, before] > (1.0 - FULL_SHARE) * np.maximum(frame.free[pools], 1.0)[:, before]
    ).any():
        return "chips: until the deadline every pool that may run it is full", (
            f"free chips at {names}, move the deadline to {by} UTC, or raise its weight"
        )
    return (
        "power or price: chips are free, but cooling or power lacks, or what moving its data costs is dearer than lateness",
        (
            f"raise grid_kw_max or cooling at {names}, raise its weight, or move the deadline to {by} UTC"
        ),
    )


def _names(names: list[str]) -> str:
    told = ", ".join(dict.fromkeys(names[:NAMES_MAX]))
    return told + (f" or {len(names) - NAMES_MAX} more" if len(names) > NAMES_MAX else "")

"""From the columns of a solved schedule to an answer: plans by job and site, costs by item.

Here: `answer_of`. Not here: what the answer leaves undone and why (`defer_cures`), the model (`defer_model`).
"""

from __future__ import annotations

import numpy as np

from hanse.dispatch.defer_cures import violations
from hanse.dispatch.defer_frame import Frame
from hanse.dispatch.defer_model import UNSERVED_USD_PER_KWH
from hanse.dispatch.defer_problem import (
    DeferAnswer,
    DeferCosts,
    JobPlan,
    JobRun,
    SitePlan,
    highest_quarter_kw,
)
from hanse.dispatch.defer_settle import Flows, one_way, settle
from hanse.milp import Floats
from hanse.model.fleet import Value

CHIPS_LEAST = 1e-6
"""Below it a share of a chip is the solver's tolerance."""


class Chosen(Value, frozen=True, kw_only=True, eq=False):
    """Values of the columns, in the order of a frame."""

    chips: Floats
    """[pair, step]"""
    restart_h: Floats
    """[job, step] work that chips which begin do not do."""
    later: Floats
    """[job] work left that can still be in time."""
    hopeless: Floats
    """[job] work left that cannot."""
    charge_kw: Floats
    """[site, step]"""
    discharge_kw: Floats
    bound_usd: float


def answer_of(frame: Frame, chosen: Chosen) -> DeferAnswer:
    """The answer, and what it does not meet."""
    p = frame.problem
    chips = np.where(chosen.chips > CHIPS_LEAST, chosen.chips, 0.0)
    used = np.zeros(frame.free.shape)
    np.add.at(used, frame.pair_pool, chips)
    facility = frame.fixed_kw.copy()
    np.add.at(facility, frame.pool_site, used * frame.chip_kw)
    plan = one_way(frame, chosen.charge_kw, chosen.discharge_kw)
    flows = settle(frame, facility, *plan)
    jobs = tuple(_job_plan(frame, chosen, chips, j) for j in range(len(p.jobs)))
    return DeferAnswer(
        problem=p.digest(),
        issued_at_s=p.issued_at_s,
        start_s=p.start_s,
        step_s=p.step_s,
        jobs=jobs,
        sites=tuple(_site_plan(frame, flows, i) for i in range(len(p.sites))),
        costs=_costs(frame, chosen, chips, flows, jobs),
        bound_usd=chosen.bound_usd,
        violations=violations(frame, jobs, flows.unserved_kw, used),
    )


def _site_plan(frame: Frame, flows: Flows, i: int) -> SitePlan:
    rows = {name: tuple(getattr(flows, name)[i].tolist()) for name in Flows.__struct_fields__}
    return SitePlan(site=frame.problem.sites[i].site, **rows)


def _job_plan(frame: Frame, chosen: Chosen, chips: Floats, j: int) -> JobPlan:
    one = frame.problem.jobs[j]
    mine = frame.pairs_of(j)
    done = -chosen.restart_h[j]
    runs, share_at = [], np.zeros(len(mine))
    for row, k in enumerate(mine):
        pair = frame.pairs[k]
        used_h = pair.speed * chips[k] * frame.hours
        done += used_h
        share_at[row] = float(used_h.sum()) / frame.left_h[j]
        if chips[k].any():
            site, pool = frame.pool_names[pair.pool]
            runs.append(JobRun(site=site, pool=pool, chips=tuple(chips[k].tolist())))
    finish = _finish_s(frame, done, j)
    end = frame.problem.end_s if finish is None else finish
    moved = [frame.moved_gb(k) for k in mine]
    return JobPlan(
        job=one.job.id,
        runs=tuple(runs),
        finish_at_s=finish,
        late_s=max(0.0, end - one.job.deadline_at_s),
        done_share=min(1.0, float(done.sum() / left)) if (left := frame.left_h[j]) > 0.0 else 1.0,
        moved_gb=float(share_at @ moved) if mine else 0.0,
        move_usd=float(share_at @ [frame.pairs[k].move_usd for k in mine]) if mine else 0.0,
    )


def _finish_s(frame: Frame, done: Floats, j: int) -> float | None:
    """When the last of the work is done, at the chips of its step; a step's share stands at its begin."""
    left = frame.left_h[j]
    if left <= 0.0:
        return frame.problem.start_s
    total = np.cumsum(done)
    # A hair of slack: the solver's tolerance, relative to the work.
    reached = np.flatnonzero(total >= left * (1.0 - 1e-6) - 1e-9)
    if not len(reached):
        return None
    t = int(reached[0])
    most = max(
        (frame.pairs[k].speed * frame.pair_chips_max[k, t] for k in frame.pairs_of(j)), default=0.0
    )
    missing = max(0.0, left - (float(total[t - 1]) if t else 0.0))
    share = min(1.0, missing / (most * frame.hours[t])) if most > 0.0 else 1.0
    # What a step's mean does not say: work may stand at its end; never later than that.
    whole = float(done[t]) / (most * frame.hours[t]) if most > 0.0 else 1.0
    length_s = frame.ends_s[t] - frame.starts_s[t]
    return float(frame.starts_s[t] + length_s * max(share, min(1.0, whole)))


def _costs(
    frame: Frame, chosen: Chosen, chips: Floats, flows: Flows, jobs: tuple[JobPlan, ...]
) -> DeferCosts:
    p, hours = frame.problem, frame.hours
    imported = flows.import_kw * hours
    carbon_g = float((imported * frame.rows("carbon_g_per_kwh")).sum())
    work = frame.column("speed")[:, None] * chips * hours
    late = float((work * frame.late_usd[frame.pair_job]).sum()) if len(work) else 0.0
    _, guess, hopeless = frame.later
    sale = np.array([site.export_usd_per_kwh for site in p.sites])[:, None]
    wear = stored = 0.0
    for i, site in enumerate(p.sites):
        if site.battery is not None:
            wear += site.battery.usd_per_kwh_out * float(flows.discharge_kw[i] @ hours)
            kept = float(flows.battery_kwh[i, -1]) - site.battery.held_kwh
            stored += site.battery.stored_usd_per_kwh * kept
    return DeferCosts(
        energy_usd=float((imported * frame.rows("price_usd_per_kwh")).sum()),
        export_usd=float((flows.export_kw * hours * sale).sum()),
        carbon_usd=frame.usd_per_g * carbon_g,
        carbon_g=carbon_g,
        demand_usd=_demand_usd(frame, flows.import_kw),
        wear_usd=wear,
        move_usd=sum(
            (job.move_usd for job in jobs), 0.0
        ),  # a float without jobs, too: a log tells an int from it
        late_usd=late + float(hopeless @ chosen.hopeless),
        unserved_usd=UNSERVED_USD_PER_KWH * float((flows.unserved_kw * hours).sum()),
        later_usd=float(guess @ chosen.later),
        stored_usd=stored,
    )


def _demand_usd(frame: Frame, import_kw: Floats) -> float:
    usd = 0.0
    for i, site in enumerate(frame.problem.sites):
        highest_kw = highest_quarter_kw(import_kw[i].tolist(), frame.problem.step_s)
        usd += site.usd_per_kw_month * max(0.0, highest_kw - site.peak_import_kw)
    return usd

"""Where to build and how large: `site_plan` solves a siting problem, `next_best` asks what a site is worth.

Here: demand rows, candidate sites and size classes in, chosen sizes by year, shares and a proven gap out; what a chosen
site's next best would cost (`next_best`). The caller restricts designs ("one region", "only micro") by `allowed`.
Nothing is ever infeasible: what cannot be served, or would not survive a failure, is named with its cure
(`siting_cures`). Not here: prices, law and latency, which the caller has turned into `unit_usd`, `fixed_usd` and
`refusal`; rows and columns (`siting_model`), survival (`siting_survival`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hanse.milp import Limits, Outcome, Solver
from hanse.model.fleet import Value
from hanse.plan import siting_model
from hanse.plan.siting_cures import violations
from hanse.plan.siting_problem import ChosenSite, Siting, SitingAnswer, Violation
from hanse.plan.siting_survival import Survival

__all__ = [
    "ChosenSite",
    "Limits",
    "NextBest",
    "Siting",
    "SitingAnswer",
    "Violation",
    "next_best",
    "site_plan",
]
SHARE_MIN = 1e-7
"""Smaller shares are the solver's tolerance."""
NEAR_SITES = 5
"""Candidates that `next_best` looks at in place of a site: those that the relaxed problem would use most."""
STAGED_GAP = 0.02
"""Of staged plans, unless told otherwise: the plan is usually at hand in a tenth of the time, and the rest proves it; the last
percent of proof doubles it."""
ROUND_GAP = 0.03
"""While rows for survival are still being found, a plan need not be good; halves the time of the benchmark's instances."""
START_NODES_MAX = 500
NEXT_BEST_NODES_MAX = 50
NEXT_BEST_GAP = 0.002
"""A site of ten is often worth 1 % of all cost: the search for its loss must be finer than the plan's own gap."""


class NextBest(Value, frozen=True, kw_only=True):
    """What it costs to do without a site."""

    id: str
    usd_more: float
    """Found by a short search: an upper limit of the loss. Below zero where the plan itself was not the optimum."""
    usd_more_min: float
    """Proven: a lower limit of the loss against the plan's own cost, from the relaxed problem; 0 where nothing is proven."""
    instead: tuple[str, ...]
    """Sites that come in."""


def site_plan(problem: Siting, limits: Limits | None = None) -> SitingAnswer:
    """Solve a siting problem to a proven gap.

    Rows as in `siting_model.build`. Survival is added as it is found missing (`siting_survival`): first on the relaxed
    problem, which is cheap, then on integer plans until none is missing.
    """
    staged = len(problem.demand) > 1
    limits = limits or Limits(gap=STAGED_GAP if staged else Limits().gap)
    model = siting_model.build(problem)
    solver = Solver(model.model)
    survival = Survival(problem, model)
    while survival.add_missing(solver, solver.relaxed().values):
        pass
    start = _start(problem, limits) if staged else None
    nodes = 0
    if survival.failures:
        loose = Limits(gap=max(limits.gap, ROUND_GAP), nodes_max=limits.nodes_max)
        found, nodes = _settled(solver, survival, model, loose, start)
        start = model.sizes(found.values)
    found, more = _settled(solver, survival, model, limits, start)
    nodes += more
    if model.penalty_usd(found.values) > SHARE_MIN * abs(found.objective):
        # A gap relative to an objective full of penalties would say nothing of the plan's own cost.
        own = max(1e-9, limits.gap * (found.objective - model.penalty_usd(found.values)))
        sizes = model.sizes(found.values)
        found, more = _settled(solver, survival, model, limits, sizes, gap_absolute=own)
        nodes += more
    return _answer(problem, model, found, nodes, survival.cuts)


def next_best(
    problem: Siting,
    answer: SitingAnswer,
    limits: Limits | None = None,
    sites: NDArray[np.int64] | None = None,
) -> tuple[NextBest, ...]:
    """What each chosen site is worth: the plan without it, from a short search among few candidates.

    The other chosen sites stay and may become one size larger; the `NEAR_SITES` that the relaxed problem without it uses most
    may come in at any size. A wider search could only find less. `sites`: of the chosen ones those that are asked; absent: all.
    """
    limits = limits or Limits()
    short = Limits(
        gap=min(limits.gap, NEXT_BEST_GAP), nodes_max=min(limits.nodes_max, NEXT_BEST_NODES_MAX)
    )
    chosen = np.flatnonzero(answer.size[-1] >= 0)
    model = siting_model.build(problem)
    solver = Solver(model.model)
    free = problem.sizes_allowed
    total = answer.usd + answer.penalty_usd
    worth = model.worth[:, None] * np.maximum(problem.demand, 1e-12)
    price = model.lone_usd / worth
    end = answer.size[-1][:, None]
    steps = np.arange(free.shape[1])
    # Only built sites stay, and in a staged plan any smaller size may come first.
    stays = (end >= 0) & (steps <= end + 1) & ((steps >= end) | (len(problem.demand) > 1))
    found = []
    for site in chosen if sites is None else sites:
        allowed = free.copy()
        allowed[site] = False
        solver.set_columns(model.y, 0.0, np.broadcast_to(allowed.astype(float), model.y.shape))
        relaxed = solver.relaxed()
        use = relaxed.values[model.y[-1]].sum(axis=1)
        use[chosen] = -1.0
        near = np.argsort(-use, kind="stable")[:NEAR_SITES]
        allowed &= stays
        allowed[near] = free[near]
        allowed[site] = False
        forced = tuple(s for s in problem.forced if s != problem.site_ids[site])
        less = _replaced(problem, allowed=allowed, forced=forced, unserved_usd=price)
        other = site_plan(less, short)
        # Demand that now has no site at all is outside the objective; here it is what the site is worth.
        lost = ~(problem.eligible & allowed.any(axis=1)).any(axis=1) & ~model.hopeless
        lost_usd = float(model.lone_usd[:, lost].sum())
        came = np.flatnonzero((other.size[-1] >= 0) & (answer.size[-1] < 0))
        found.append(
            NextBest(
                id=problem.site_ids[site],
                usd_more=other.usd + other.penalty_usd + lost_usd - total,
                usd_more_min=max(0.0, relaxed.objective - total),
                instead=tuple(problem.site_ids[i] for i in came),
            )
        )
    return tuple(found)


def _settled(
    solver: Solver,
    survival: Survival,
    model: siting_model.SitingModel,
    limits: Limits,
    sizes: NDArray[np.int64] | None,
    gap_absolute: float | None = None,
) -> tuple[Outcome, int]:
    """Search until no failure is left uncovered unpriced; nodes of all rounds."""
    nodes = 0
    while True:
        start = _columns(model, sizes)
        found = solver.search(limits, start=start, gap_absolute=gap_absolute)
        nodes += found.nodes
        if not survival.add_missing(solver, found.values):
            return found, nodes
        sizes = model.sizes(found.values)


def _start(problem: Siting, limits: Limits) -> NDArray[np.int64]:
    """A staged plan to begin with: the last year alone, then when to build each of its sites.

    The last year's plan decides most, since its demand is the largest; with its sites given, the rest is small.
    """
    last = _last_year(problem)
    end = site_plan(last, Limits(gap=limits.gap, nodes_max=START_NODES_MAX)).size[0]
    allowed = problem.sizes_allowed & (np.arange(len(problem.size_ids)) <= end[:, None])
    model = siting_model.build(_replaced(problem, allowed=allowed))
    solver = Solver(model.model)
    Survival(problem, model).add_first(solver)
    short = Limits(gap=min(limits.gap, NEXT_BEST_GAP), nodes_max=START_NODES_MAX)
    return model.sizes(solver.search(short).values)


def _last_year(problem: Siting) -> Siting:
    at = {
        name: array[-1:] if name == "demand" or array.ndim == 2 else array[-1]
        for name in ("demand", "unit_usd", "fixed_usd")
        for array in [getattr(problem, name)]
    }
    for name in ("unit_usd", "fixed_usd"):
        if getattr(problem, name).ndim == 2:
            at[name] = getattr(problem, name)
    return _replaced(problem, **at)


def _replaced(problem: Siting, **changes: Any) -> Siting:
    """A copy with fields changed."""
    fields = {name: getattr(problem, name) for name in problem.__struct_fields__}
    return Siting(**{**fields, **changes})


def _columns(model: siting_model.SitingModel, size: NDArray[np.int64] | None) -> Any:
    """Size columns and their values for a plan [year, site]."""
    if size is None:
        return None
    on = size[:, :, None] == np.arange(model.y.shape[2])
    return model.y.ravel(), on.astype(float).ravel()


def _answer(
    problem: Siting, model: siting_model.SitingModel, found: Outcome, nodes: int, cuts: int
) -> SitingAnswer:
    size = model.sizes(found.values)
    shares, unserved = model.shares(found.values)
    fixed, running = model.yearly_usd(size, shares)
    worth = (1.0 + problem.rate) ** -np.arange(len(problem.demand))
    usd, penalty = float(worth @ (fixed + running)), model.penalty_usd(found.values)
    capacity = np.where(size >= 0, problem.capacity[size], 0.0)
    load = np.einsum("ti,tij->tj", problem.demand, shares)
    used = np.divide(load, capacity, out=np.zeros_like(load), where=capacity > 0.0)
    sites = tuple(
        ChosenSite(
            id=problem.site_ids[j],
            sizes=tuple(problem.size_ids[k] if k >= 0 else None for k in size[:, j]),
            used_share=tuple(used[:, j].tolist()),
        )
        for j in np.flatnonzero(size[-1] >= 0)
    )
    distance = max(0.0, usd + penalty - found.bound)
    return SitingAnswer(
        sites=sites,
        size=size,
        shares=shares,
        unserved=unserved,
        fixed_usd=fixed,
        running_usd=running,
        usd=usd,
        penalty_usd=penalty,
        bound_usd=found.bound,
        gap=distance / usd if usd > 0.0 else 0.0,
        stopped_by="gap" if found.status == "optimal" else "nodes",
        nodes=nodes,
        cuts=cuts,
        violations=violations(problem, size, shares, unserved),
    )

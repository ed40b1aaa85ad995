"""The search for a placement: relaxed program, columns and rows as they are called for, whole numbers, a proven gap.

Here: `search`. Not here: the program's blocks (`place_model`), what comes of its columns (`place_answer`).

Steps. The relaxed program is solved; pairs that its prices call for come in, and rows

    `link`  x_do <= min(1, r_o / a_d) n_o;   `lit`  x_do <= k_p

where it breaks them (Daskin, Network and Discrete Location, 2013: the strong form of opening what serves). When none is missing its
value is a bound on every placement. Then whole numbers: rounded up and thinned out, and HiGHS from there.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np

from hanse.dispatch.place_model import PlaceModel
from hanse.dispatch.place_rows import Bools, Floats, Ints
from hanse.milp import INF, Limits, Outcome, Solver

ROUNDS_MAX: Final = 12
"""Of rows and columns; the bound moves by under 0.1 % a round after eight."""
USED_MIN: Final = 1e-6
WIDE: Final = 1.3
KERNEL_MORE: Final = 6
"""Of each service, law and need of quality."""
KERNEL_GAP_SHARE: Final = 0.5
"""Of the gap asked for: the rest is for what the relaxed program does not know."""
LOSS_ROUNDS_MAX: Final = 3
KERNEL_NODES_MAX: Final = 5
"""Of the small search; it mostly ends at its root."""
BROKEN_MIN: Final = 1e-4
LINKS_MAX: Final = 4000
"""A round: the most broken first."""


class Found(NamedTuple):
    """Values by column of the model, and what is proven."""

    pairs: Floats
    """[pair] shares."""
    values: Floats
    bound: float
    nodes: int
    stopped_by: str


def search(model: PlaceModel, limits: Limits) -> Found:
    """A placement within the gap, or the best at the node limit.

    First among offers that the relaxed program uses (a kernel: Angelelli, Mansini, Speranza, Computers and Operations Research 37,
    2010), which is small; where its bound leaves more than the gap, among all that reduced costs do not rule out.
    """
    solver = Solver(model.model)
    relaxed = tightened(model, solver)
    reduced, n = solver.reduced_costs()[model.n], relaxed.values[model.n]
    most = model.rows.offer_max
    lower = np.where(model.rows.offer_fixed, most, 0.0)
    kernel = _kernel(model, n, reduced)
    solver.set_columns(model.n, lower, np.where(kernel, most, lower))
    _add_losses(model, solver, model.losses_of(kernel))
    short = Limits(gap=limits.gap, nodes_max=KERNEL_NODES_MAX)
    best, nodes = _whole(model, solver, short, None, KERNEL_GAP_SHARE)
    bound = relaxed.objective
    own = max(best.objective - model.penalty_usd(best.values), 1e-9)
    stopped_by = "gap"
    if best.objective - bound > limits.gap * own:
        out = (n < USED_MIN) & (reduced > best.objective - bound)
        solver.set_columns(model.n, lower, np.where(out, lower, most))
        widened(model, solver, relaxed.row_duals[model.serve])
        start = np.arange(len(best.values)), best.values
        better, more = _whole(model, solver, limits, start, 1.0)
        nodes += more
        # What was ruled out costs more than the best known.
        bound = max(bound, min(better.bound, best.objective))
        better = _grounded(model, solver, better, short)
        best = better if better.objective <= best.objective else best
        near = best.objective - bound <= limits.gap * own * 1.001
        stopped_by = "gap" if near else "nodes"
    return Found(shares(model, best.values), best.values, bound, nodes, stopped_by)


def widened(model: PlaceModel, solver: Solver, price: Floats) -> None:
    """Pairs whose way alone costs less than `WIDE` times what a row is worth to the relaxed program come in; `elsewhere` stands for all
    others at the cheapest of their ways, without room or power: a relaxation, so its bound holds for the whole problem.
    """
    worth = np.maximum(price, 0.0)[model.pair_row]
    _add_pairs(model, solver, np.flatnonzero(~model.taken & (model.pair_usd < WIDE * worth)))
    left = np.full(len(price), np.inf)
    out = np.flatnonzero(~model.taken)
    np.minimum.at(left, model.pair_row[out], model.pair_usd[out])
    some = np.isfinite(left)
    solver.set_costs(model.elsewhere, np.where(some, left, 0.0))
    solver.set_columns(model.elsewhere, 0.0, some.astype(float))


def _grounded(model: PlaceModel, solver: Solver, found: Outcome, limits: Limits) -> Outcome:
    """Near the same replicas, without what is served `elsewhere`: those rows may use all that stands."""
    gone = found.values[model.elsewhere] > USED_MIN
    solver.set_columns(model.elsewhere, 0.0, np.zeros(len(gone)))
    if not gone.any():
        return found
    n = np.rint(found.values[model.n])
    stands = n > 0.0
    come = ~model.taken & gone[model.pair_row] & stands[model.pair_offer]
    _add_pairs(model, solver, np.flatnonzero(come))
    lower = np.where(model.rows.offer_fixed, model.rows.offer_max, 0.0)
    solver.set_columns(model.n, lower, np.where(stands, model.rows.offer_max, lower))
    return solver.search(limits, start=(model.n, n))


def _kernel(model: PlaceModel, n: Floats, reduced: Floats) -> Bools:
    """[offer] what the relaxed program uses, what runs now, and of each service as many more that it nearly used."""
    r = model.rows
    used = (n > USED_MIN) | (r.offer_now > 0.0)
    spare = np.where(used | (r.offer_max <= 0.0), np.inf, reduced)
    kernel = used.copy()
    # Of each law and need of quality: whoever is pushed out of a scarce site needs somewhere to go.
    kinds = np.unique(np.stack([r.service, r.law, r.quality], 1), axis=0, return_index=True)[1]
    for row in kinds.tolist():
        mine = np.flatnonzero((r.offer_service == r.service[row]) & (r.offer_max > 0.0))
        mine = mine[model.usable(np.array([row]), mine)[0]]
        near = mine[np.argsort(spare[mine], kind="stable")[:KERNEL_MORE]]
        kernel[near[np.isfinite(spare[near])]] = True
    # A fraction of a large replica often stands for a small one.
    there = r.offer_service * len(model.problem.pools) + r.offer_pool
    return kernel | (np.isin(there, there[kernel]) & (r.offer_max > 0.0))


def _whole(
    model: PlaceModel,
    solver: Solver,
    limits: Limits,
    start: tuple[Ints, Floats] | None,
    gap_share: float,
) -> tuple[Outcome, int]:
    """Whole numbers, until no failure takes more than the program knows of."""
    found = solver.search(limits, start=start)
    nodes, own = found.nodes, 0.0
    for _ in range(LOSS_ROUNDS_MAX):
        cost = max(found.objective - model.penalty_usd(found.values), 1e-9)
        far = found.objective - found.bound > gap_share * limits.gap * cost
        # A gap of all cost, penalties with it, may hide one of the cost that decides; asked once more it is of the latter.
        far &= found.status == "optimal" and cost != own
        own = cost
        if not lose(model, solver, found.values) and not far:
            break
        start = model.n, np.rint(found.values[model.n])
        gap = gap_share * limits.gap * own
        found = solver.search(limits, start=start, gap_absolute=gap)
        nodes += found.nodes
    return found, nodes


def shares(model: PlaceModel, values: Floats) -> Floats:
    """[pair] of a solution."""
    x = np.zeros(len(model.pair_row))
    known = model.taken & (model.pair_column < len(values))
    x[known] = values[model.pair_column[known]]
    return x


def tightened(model: PlaceModel, solver: Solver) -> Outcome:
    """The relaxed program with all columns it calls for and most rows that it breaks."""
    found = solver.relaxed()
    for _ in range(ROUNDS_MAX):
        came = _price(model, solver, found)
        broken = lose(model, solver, found.values) + _link(model, solver, found.values)
        if not came and not broken:
            break
        found = solver.relaxed()
    while _price(model, solver, found):
        found = solver.relaxed()  # a bound needs every column
    return found


def lose(model: PlaceModel, solver: Solver, values: Floats) -> int:
    """Rows `loss` that a solution breaks: of failures that matter there are few."""
    broken = model.broken_losses(values)
    _add_losses(model, solver, broken)
    return len(broken)


def _add_losses(model: PlaceModel, solver: Solver, which: Ints) -> None:
    for i in which.tolist():
        c, _, offers = model.losses[i]
        columns = np.concatenate([model.n[offers], [model.most[c], model.short[i]]])
        taken = -model.rows.offer_rate[offers]
        solver.add_row(0.0, INF, columns, np.concatenate([taken, [1.0, 1.0]]))
    model.loss_known[which] = True


def _price(model: PlaceModel, solver: Solver, found: Outcome) -> int:
    """Pairs whose reduced cost is below zero become columns."""
    left = np.flatnonzero(~model.taken)
    if not len(left):
        return 0
    r, dual = model.rows, found.row_duals
    site = r.offer_site[model.pair_offer[left]]
    cost = model.pair_usd[left] - dual[model.serve[model.pair_row[left]]]
    cost -= model.pair_use[left] * dual[model.room[model.pair_offer[left]]]
    cost += r.pue[site] * model.pair_kw[left] * dual[model.energy[site]]
    cost -= r.pue[site] * model.pair_kw_high[left] * dual[model.cap[site]]
    scale = max(1.0, float(np.abs(model.pair_usd).max(initial=0.0)))
    come = left[cost < -1e-9 * scale]
    _add_pairs(model, solver, come)
    return len(come)


def _add_pairs(model: PlaceModel, solver: Solver, pairs: Ints) -> None:
    r = model.rows
    offer, row = model.pair_offer[pairs], model.pair_row[pairs]
    site = r.offer_site[offer]
    rows = np.stack([model.serve[row], model.room[offer], model.energy[site], model.cap[site]], 1)
    values = np.stack(
        [
            np.ones(len(pairs)),
            model.pair_use[pairs],
            -r.pue[site] * model.pair_kw[pairs],
            r.pue[site] * model.pair_kw_high[pairs],
        ],
        1,
    )
    model.pair_column[pairs] = solver.add_columns(model.pair_usd[pairs], rows, values)
    model.taken[pairs] = True


def _link(model: PlaceModel, solver: Solver, values: Floats) -> int:
    """Rows for pairs that use more of an offer than stands of it."""
    r = model.rows
    # Those that came this moment have no value yet.
    pairs = np.flatnonzero(model.taken & (model.pair_column < len(values)))
    column, offer = model.pair_column[pairs], model.pair_offer[pairs]
    x = values[column]
    fits = np.minimum(1.0, 1.0 / np.maximum(model.pair_use[pairs], 1e-12))
    short = x - fits * values[model.n[offer]]
    worst = np.argsort(-short, kind="stable")[:LINKS_MAX]
    worst = worst[short[worst] > BROKEN_MIN]
    pool = r.offer_pool[offer]
    dark = x - values[model.k[pool]]
    unlit = np.argsort(-dark, kind="stable")[:LINKS_MAX]
    unlit = unlit[dark[unlit] > BROKEN_MIN]
    columns = np.concatenate(
        [
            np.stack([column[worst], model.n[offer[worst]]], 1),
            np.stack([column[unlit], model.k[pool[unlit]]], 1),
        ]
    )
    coefficients = np.ones((len(columns), 2))
    coefficients[:, 1] = -np.concatenate([fits[worst], np.ones(len(unlit))])
    solver.add_rows(np.full(len(columns), -INF), np.zeros(len(columns)), columns, coefficients)
    return len(columns)

"""The search for a placement: relaxed program, columns and rows as they are called for, whole numbers, a proven gap.

Here: `search`, `standing`. Not here: the program's blocks (`place_model`), what comes of its columns (`place_answer`).

Steps. The relaxed program is solved; pairs that its prices call for come in, and rows

    `link`  x_do <= min(1, r_o / a_d) n_o;   `lit`  x_do <= k_p

where it breaks them (Daskin, Network and Discrete Location, 2013: the strong form of opening what serves). When none is missing its
value is a bound on every placement. Then whole numbers: moves of replicas, and HiGHS from there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

import numpy as np
from msgspec.structs import replace

from hanse.dispatch.place_bound import bound_of_all, soften
from hanse.dispatch.place_local import Local, candidates
from hanse.dispatch.place_model import PlaceModel
from hanse.dispatch.place_values import StoppedBy
from hanse.milp import INF, Bools, Floats, Ints, Limits, Outcome, Solver

ROUNDS_MAX: Final = 16
"""Of rows and columns; the bound moves by under 0.1 % a round after eight."""
USED_MIN: Final = 1e-6
ROUND_UP: Final = 0.3
"""Less of a replica is none to begin with."""
MOVES_GAP_SHARE: Final = 0.25
"""Of the gap asked for: what moves find so near the relaxed bound is not looked for from other beginnings."""
WIDE: Final = 1.3
LOSSES_ALL_MAX: Final = 20_000
"""Up to here all rows for failures are in before whole numbers are sought: cheaper than seeking again."""
NODES_ROWS: Final = 25_000
"""Nodes of the tree times rows, where nobody says how many: an answer every few minutes, whose gap is reported, beats a proof. HiGHS' root alone takes
3 s for twenty sites with ten services, 13,000 rows, 80 for 21,000 and minutes for the 37,000 of 200 sites with thirty, where moves are all."""
KERNEL_MORE: Final = 8
"""Offers a broken promise."""
KERNEL_ROUNDS_MAX: Final = 4
KERNEL_GAP_SHARE: Final = 0.5
"""Of the gap asked for: the rest is for what the relaxed program does not know."""
KERNEL_NODES_MAX: Final = 1
WIDE_ROUNDS_MAX: Final = 2
BROKEN_MIN: Final = 1e-4
LINKS_MAX: Final = 4000
"""A round: the most broken first."""
LINKS_ALL_MAX: Final = 20_000
"""Up to here all are in from the start: one larger program is solved sooner than sixteen that grow."""


class Found(NamedTuple):
    """Values by column of the model, and what is proven."""

    pairs: Floats
    """[pair] shares."""
    values: Floats
    bound: float
    nodes: int
    stopped_by: StoppedBy
    moved: Floats | None = None
    """[offer] replicas that moves came to, where a tree went on from there."""


def search(model: PlaceModel, limits: Limits) -> Found:
    """A placement within the gap, or the best at the node limit.

    Moves of replicas find one within milliseconds (`place_local`); where the relaxed program does not prove it near enough, HiGHS goes on
    from there: where failures make few rows, with all offers at once (`widened`). Else first in a kernel (Angelelli, Mansini, Speranza,
    Computers and Operations Research 37, 2010): offers that the relaxed program uses or nearly uses, more of them where promises are broken.
    Where rows are clusters the tree is of their `soften`ed costs, and what it finds is a placement whose shares are not yet anybody's.
    """
    solver = Solver(model.model)
    relaxed = tightened(model, solver)
    if limits.nodes_max < 0:
        limits = replace(limits, nodes_max=NODES_ROWS // max(solver.row_count, 1))
    reduced = solver.reduced_costs()
    bound, n = relaxed.objective, relaxed.values[model.n]
    best = _moved(
        model,
        solver,
        n,
        reduced[model.n],
        lambda usd: usd - bound <= MOVES_GAP_SHARE * _gap_usd(model, limits, usd),
    )
    known = bound_of_all(model, relaxed, reduced)
    over = best.objective + known.apart_usd - known.usd
    if over <= _gap_usd(model, limits, best.objective) or limits.nodes_max < 1:
        return _found_at(model, limits, best, known.usd, 0)
    moved = np.rint(best.values[model.n])
    if model.rows.coarse:
        soften(model, solver, relaxed, reduced)
        relaxed = _settled(model, solver)
        reduced = solver.reduced_costs()
        best = _standing(model, solver, moved)
        _free(model, solver)
    found = _in_tree(model, solver, limits, relaxed, reduced[model.n], best, known.usd)
    return found._replace(moved=moved)


def standing(model: PlaceModel, limits: Limits, n: Floats, bound: float | None = None) -> Found:
    """What replicas [offer] come to, none more and none less; `bound` where one of all placements is known, else that of just these."""
    stands = _standing(model, Solver(model.model), n)
    return _found_at(model, limits, stands, stands.bound if bound is None else bound, 0)


def _found_at(model: PlaceModel, limits: Limits, best: Outcome, bound: float, nodes: int) -> Found:
    near = best.objective - bound <= 1.001 * _gap_usd(model, limits, best.objective)
    return Found(shares(model, best.values), best.values, bound, nodes, "gap" if near else "nodes")


def _in_tree(
    model: PlaceModel,
    solver: Solver,
    limits: Limits,
    relaxed: Outcome,
    reduced: Floats,
    best: Outcome,
    known_usd: float,
) -> Found:
    """HiGHS from the best that moves found, with all offers or in a kernel; `known_usd` is a bound already."""
    n, nodes, bound = relaxed.values[model.n], 0, max(relaxed.objective, known_usd)
    if len(model.losses) <= LOSSES_ALL_MAX:
        _add_losses(model, solver, np.flatnonzero(~model.loss_known))
    else:
        kernel = _kernel(model, n, reduced) | (best.values[model.n] > 0.5)
        other, nodes = _in_kernel(model, solver, limits, kernel, reduced, relaxed)
        best = min(best, other, key=lambda one: one.objective)
    for _ in range(WIDE_ROUNDS_MAX):
        if best.objective - bound <= _gap_usd(model, limits, best.objective):
            break
        known = best.objective
        # Reduced costs belong to the relaxed program, whatever was proven since.
        out = (n < USED_MIN) & (reduced > known - relaxed.objective)
        wide = _wide(model, solver, limits, out, relaxed, best)
        nodes += wide.nodes
        # What was ruled out costs more than the best known.
        bound = max(bound, min(wide.bound, known))
        solver.set_columns(model.elsewhere, 0.0, np.zeros(len(model.elsewhere)))
        kernel = _around(model, solver, wide, reduced)
        if (wide.values[model.elsewhere] > USED_MIN).any() or len(model.broken_losses(wide.values)):
            wide, more = _in_kernel(model, solver, limits, kernel, reduced, wide)
            nodes += more
        stuck = wide.objective >= known * (1.0 - 1e-9)
        best = best if stuck else wide
        if stuck or wide.nodes >= limits.nodes_max:
            break  # the same search again would find the same
    return _found_at(model, limits, best, bound, nodes)


def _moved(
    model: PlaceModel,
    solver: Solver,
    n: Floats,
    reduced: Floats,
    enough: Callable[[float], bool],
) -> Outcome:
    """What moves come to from what runs, from the relaxed program's replicas `n` and from none, at what it costs."""
    r = model.rows
    now = np.minimum(r.offer_now, r.offer_max)
    starts = (now, np.ceil(n - ROUND_UP), np.rint(n), np.floor(n + USED_MIN), np.zeros(len(n)))
    moved = Local(model).best(starts, candidates(model, n, reduced), enough)
    found = _standing(model, solver, moved)
    _free(model, solver)
    return found


def _free(model: PlaceModel, solver: Solver) -> None:
    """Replicas and nodes may be as many as fit again."""
    lower = _lower(model)
    solver.set_columns(model.n, lower, np.maximum(model.rows.offer_max, lower))
    solver.set_columns(model.k, 0.0, model.nodes_most)


def _standing(model: PlaceModel, solver: Solver, n: Floats) -> Outcome:
    """What replicas come to, none more and none less."""
    _add_pairs(model, solver, np.flatnonzero(~model.taken & (n > 0.5)[model.pair_offer]))
    solver.set_columns(model.n, n, n)
    # More nodes than they take cost power and serve nobody.
    nodes = model.nodes_for(n)
    solver.set_columns(model.k, nodes, nodes)
    while True:
        found = solver.relaxed()
        if not lose(model, solver, found.values):
            return found


def _wide(
    model: PlaceModel,
    solver: Solver,
    limits: Limits,
    out: Bools,
    relaxed: Outcome,
    best: Outcome,
) -> Outcome:
    """Whole numbers of all offers but those ruled out, from the best known."""
    lower = _lower(model)
    solver.set_columns(model.n, lower, np.where(out, lower, model.rows.offer_max))
    widened(model, solver, relaxed.row_duals[model.serve])
    start = _whole_columns(model, best.values)
    return solver.search(limits, start=start, gap_absolute=_gap_usd(model, limits, best.objective))


def _lower(model: PlaceModel) -> Floats:
    return np.where(model.rows.offer_fixed, model.rows.offer_max, 0.0)


def _whole_columns(model: PlaceModel, values: Floats) -> tuple[Ints, Floats]:
    """Replicas and nodes of a solution, to begin with."""
    columns = np.concatenate([model.n, model.k])
    return columns, np.rint(values[columns])


def _gap_usd(model: PlaceModel, limits: Limits, usd: float) -> float:
    """How far from the bound is near enough: a share of what placing can change, penalties included."""
    return limits.gap * max(usd - model.lost_usd, 1e-9)


def _in_kernel(
    model: PlaceModel,
    solver: Solver,
    limits: Limits,
    kernel: Bools,
    reduced: Floats,
    hint: Outcome,
) -> tuple[Outcome, int]:
    """The best of a few rounds, each in a kernel that grew where the last broke a promise; `hint` says what cannot be served."""
    r = model.rows
    short = Limits(gap=limits.gap, nodes_max=KERNEL_NODES_MAX)
    gap = KERNEL_GAP_SHARE * _gap_usd(model, limits, hint.objective)
    best: Outcome | None = None
    nodes, start = 0, _whole_columns(model, hint.values) if hint.nodes else None
    found = hint
    for _ in range(KERNEL_ROUNDS_MAX):
        solver.set_columns(model.n, _lower(model), np.where(kernel, r.offer_max, _lower(model)))
        _add_losses(model, solver, model.losses_of(kernel))
        found = solver.search(short, start=start, gap_absolute=gap)
        nodes += found.nodes
        broken = model.broken_losses(found.values)
        if not len(broken) and (best is None or found.objective < best.objective):
            best = found
        lost = np.flatnonzero(found.values[model.u] > hint.values[model.u] + USED_MIN)
        if not len(broken) and not len(lost):
            break
        _add_losses(model, solver, broken)
        kernel = _grown(model, kernel, reduced, broken, lost, found.values[model.n])
        start = _whole_columns(model, found.values)
    while best is None:
        # The same replicas, at what they cost with all that failures take of them.
        n = np.rint(found.values[model.n])
        solver.set_columns(model.n, n, n)
        found = solver.search(short)
        best = None if lose(model, solver, found.values) else found
    return best, nodes


def _kernel(model: PlaceModel, n: Floats, reduced: Floats) -> Bools:
    """[offer] what the relaxed program uses, what runs now, and as many more that it nearly used."""
    r = model.rows
    used = (n > USED_MIN) | (r.offer_now > 0.0)
    return _small_too(model, used | _nearest(r.offer_max > 0.0, used, reduced, int(used.sum())))


def _small_too(model: PlaceModel, kernel: Bools) -> Bools:
    """With all ways to run a service in a pool: a fraction of a large replica often stands for a small one."""
    r = model.rows
    there = r.offer_service * len(model.problem.pools) + r.offer_pool
    return np.asarray(kernel | (np.isin(there, there[kernel]) & (r.offer_max > 0.0)))


def _nearest(among: Bools, known: Bools, reduced: Floats, count: int) -> Bools:
    """[offer] the `count` of some that would cost least more, beside those known."""
    left = np.flatnonzero(among & ~known)
    found = np.zeros(len(known), bool)
    found[left[np.argsort(reduced[left], kind="stable")[:count]]] = True
    return found


def _grown(
    model: PlaceModel, kernel: Bools, reduced: Floats, broken: Ints, lost: Ints, n: Floats
) -> Bools:
    """A kernel with ways out: other places for what a failure takes, for rows that nobody serves, and for who is in their way."""
    r, p = model.rows, model.problem
    grown = kernel.copy()
    for i in broken.tolist():
        c, f, _ = model.losses[i]
        among = np.zeros(len(kernel), bool)
        among[model.sets[c].offers] = True
        among &= ~np.isin(r.offer_site, p.failures[f].sites)
        grown |= _nearest(among, grown, reduced, KERNEL_MORE)
    for row in lost.tolist():
        mine = np.flatnonzero((r.offer_service == r.service[row]) & (r.offer_max > 0.0))
        mine = mine[model.usable(np.array([row]), mine)[0]]
        among = np.isin(np.arange(len(kernel)), mine)
        grown |= _nearest(among, grown, reduced, KERNEL_MORE)
        there = np.isin(r.offer_pool, r.offer_pool[mine]) & (n > 0.5)
        for q in np.unique(r.offer_service[there]).tolist():
            among = (r.offer_service == q) & (r.offer_max > 0.0)
            grown |= _nearest(among, grown, reduced, KERNEL_MORE)
    return _small_too(model, grown)


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


def _around(model: PlaceModel, solver: Solver, found: Outcome, reduced: Floats) -> Bools:
    """[offer] what a solution uses and some that it nearly does; rows that it serves `elsewhere` may from now on use all of that."""
    gone = found.values[model.elsewhere] > USED_MIN
    stands = found.values[model.n] > 0.5
    come = ~model.taken & gone[model.pair_row] & stands[model.pair_offer]
    _add_pairs(model, solver, np.flatnonzero(come))
    near = _nearest(model.rows.offer_max > 0.0, stands, reduced, 2 * int(stands.sum()))
    return _small_too(model, stands | near)


def shares(model: PlaceModel, values: Floats) -> Floats:
    """[pair] of a solution."""
    x = np.zeros(len(model.pair_row))
    known = model.taken & (model.pair_column < len(values))
    x[known] = values[model.pair_column[known]]
    return x


def tightened(model: PlaceModel, solver: Solver) -> Outcome:
    """The relaxed program with all columns it calls for and most rows that it breaks."""
    now = np.flatnonzero(model.taken)
    if len(now) <= LINKS_ALL_MAX:
        _add_links(model, solver, now)
    return _settled(model, solver)


def _settled(model: PlaceModel, solver: Solver) -> Outcome:
    """Relaxed again and again, as columns and rows are called for."""
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
        columns = np.append(model.n[offers], model.most[c])
        solver.add_row(0.0, INF, columns, np.append(-model.holds(c, offers), 1.0))
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
    short = x - _fits(model, pairs) * values[model.n[offer]]
    worst = _most_broken(short)
    _add_links(model, solver, pairs[worst])
    pool = r.offer_pool[offer]
    dark = x - values[model.k[pool]]
    unlit = _most_broken(dark)
    _add_most(solver, column[unlit], model.k[pool[unlit]], np.ones(len(unlit)))
    return len(worst) + len(unlit)


def _fits(model: PlaceModel, pairs: Ints) -> Floats:
    """[pair] share of a row that one replica serves at most."""
    return np.asarray(np.minimum(1.0, 1.0 / np.maximum(model.pair_use[pairs], 1e-12)))


def _add_links(model: PlaceModel, solver: Solver, pairs: Ints) -> None:
    """Rows `link` of pairs."""
    n = model.n[model.pair_offer[pairs]]
    _add_most(solver, model.pair_column[pairs], n, _fits(model, pairs))


def _add_most(solver: Solver, x: Ints, of: Ints, times: Floats) -> None:
    """Rows x <= times of."""
    coefficients = np.stack([np.ones(len(x)), -times], 1)
    solver.add_rows(np.full(len(x), -INF), np.zeros(len(x)), np.stack([x, of], 1), coefficients)


def _most_broken(by: Floats) -> Ints:
    """The first `LINKS_MAX`, worst first."""
    broken = np.flatnonzero(by > BROKEN_MIN)
    return np.asarray(broken[np.argsort(-by[broken], kind="stable")[:LINKS_MAX]])

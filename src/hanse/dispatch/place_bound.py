"""What is proven where rows of the program are clusters of demand: bounds on every placement, each member served its own way.

Here: `bound_of_all`, `soften`. Not here: who is clustered (`place_rows`), the search (`place_search`).

The program with a row for each member i has shares x_io, u_i in place of the x_do, u_d of its cluster d. With w_i = a_i / a_d and x_do = sum_i w_i x_io
every row of the clustered program holds there too (`room`, `cap`, `link` and `lit` as they stand; what means and kept demand change of `energy` and
`hold` is told apart below). Only costs differ. Members' prices pi_i, what each is worth being served at the clustered program's prices,

    pi_i = min(min_o c_io, c_i0),   c_io cost, room, power and its part of `link`, `lit`; c_i0 of leaving it out

give a bound at once (weak duality: all reduced costs stay at zero or more), and a relaxed clustered program that a tree may raise:

    soft_do = sum_i pi_i + min_i (usd_io - pi_i) / w_i,   soft_d0 likewise of leaving it out

so that sum_o soft_do x_do + soft_d0 u_d is no more than what all members pay, however each goes.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from hanse.dispatch.place_model import PlaceModel
from hanse.dispatch.place_rows import Rows
from hanse.milp import Floats, Ints, Outcome, Solver
from hanse.units import SECONDS_PER_HOUR


class Prices(NamedTuple):
    """Of the relaxed program, USD/h."""

    high: Floats
    """[offer] of a request/s at the peak: room, and power at the meter."""
    mean: Floats
    """[offer] of a request/s on average: energy."""
    links: Floats
    """[pair] of a whole row: rows `link` and `lit`."""
    kept: Floats
    """[row] of a whole row's `kept` that nobody serves: rows of survival."""
    fewest: Floats
    """[row] of its `high` that nobody serves."""


class Members(NamedTuple):
    """Of one service. Rows and offers are counted as `Rows.pairs` does."""

    row: Ints
    """[member] its row."""
    share: Floats
    """[member] w_i."""
    usd: Floats
    """[member, offer]; inf: may not."""
    worth: Floats
    """[member] pi_i."""


class Bound(NamedTuple):
    """What no placement costs less than, USD/h."""

    usd: float
    apart_usd: float
    """Waiting that rows have wherever they are served beyond what their members have: it is in `usd`, and in no cost of the clustered program."""


def bound_of_all(model: PlaceModel, found: Outcome, reduced: Floats) -> Bound:
    """Of the relaxed program `found`, whose columns have `reduced` costs; its own value where no row is a cluster."""
    r = model.rows
    if not r.coarse:
        return Bound(found.objective, 0.0)
    each, prices = Rows(model.problem, clusters=False), _prices(model, found, reduced)
    members = sum(
        float(_members(model, each, prices, q).worth.sum())
        for q in range(len(model.problem.services))
    )
    rows = found.row_duals[model.serve] + np.minimum(0.0, reduced[model.u])
    usd = found.objective - float(rows.sum()) + members
    earns = any(site.export_usd_per_kwh < 0.0 for site in model.problem.sites)
    apart = float(r.least_usd.sum() - each.least_usd.sum())
    return Bound(usd if earns else max(0.0, usd), apart)


def soften(model: PlaceModel, solver: Solver, found: Outcome, reduced: Floats) -> None:
    """Costs of shares, in the program and in `model.pair_usd`, that no placement of members undercuts: from here on a bound is one of all.

    `found` and `reduced` as for `bound_of_all`.
    """
    r, p = model.rows, model.problem
    each = Rows(p, clusters=False)
    prices = _prices(model, found, reduced)
    usd, left_out = model.pair_usd.copy(), r.unserved_usd.copy()
    for q, service in enumerate(p.services):
        rows, offers, _, _, _, _ = r.pairs(q)
        m = _members(model, each, prices, q)
        mine = np.flatnonzero(each.service == q)
        base = np.bincount(m.row, m.worth, len(rows))
        alone = m.usd + _energy_apart(model, each, mine, rows[m.row], offers)
        soft = np.full((len(rows), len(offers)), np.inf)
        np.minimum.at(soft, m.row, (alone - m.worth[:, None]) / m.share[:, None])
        pairs = np.flatnonzero(r.service[model.pair_row] == q)
        i, j = _places(model, pairs, rows, offers)
        usd[pairs] = base[i] + soft[i, j]
        # Where a member's part of what must survive is larger than its part of the peak, leaving it out helps more.
        helps = np.maximum(0.0, each.kept[mine] - m.share * r.kept[rows[m.row]])
        helps *= service.uncovered_usd_per_request * SECONDS_PER_HOUR
        out = np.full(len(rows), np.inf)
        np.minimum.at(out, m.row, (each.unserved_usd[mine] - helps - m.worth) / m.share)
        left_out[rows] = base + out
    now = np.flatnonzero(model.taken)
    solver.set_costs(model.pair_column[now], usd[now])
    solver.set_costs(model.u, left_out)
    model.pair_usd = usd


def _prices(model: PlaceModel, found: Outcome, reduced: Floats) -> Prices:
    r, dual = model.rows, found.row_duals
    power = r.pue[r.offer_site] * r.offer_kw_per_rps
    high = -dual[model.room] / r.offer_rate - power * dual[model.cap[r.offer_site]]
    mean = power * dual[model.energy[r.offer_site]]
    row, offer = model.pair_row, model.pair_offer
    alone = model.pair_usd + r.high[row] * high[offer] + r.mean[row] * mean[offer]
    alone -= dual[model.serve[row]]
    known = model.taken & (model.pair_column < len(reduced))
    links = np.zeros(len(row))
    links[known] = np.maximum(0.0, reduced[model.pair_column[known]] - alone[known])
    fewest = np.zeros(len(r.service))
    for q, rest in model.fewest.items():
        mine = np.flatnonzero((r.service == q) & (r.high > 0.0))
        fewest[mine] = -float(dual[model.model.rows[f"fewest {q}"]]) * r.high[mine] / rest
    left_out = reduced[model.u] + dual[model.serve]
    return Prices(high, mean, links, left_out - r.unserved_usd - fewest, fewest)


def _members(model: PlaceModel, each: Rows, prices: Prices, q: int) -> Members:
    r = model.rows
    rows, offers, may, _, _, _ = r.pairs(q)
    mine, _, may_each, usd, _, _ = each.pairs(q)
    links = np.zeros(may.shape)
    pairs = np.flatnonzero(r.service[model.pair_row] == q)
    links[_places(model, pairs, rows, offers)] = prices.links[pairs]
    of = r.member[each.head[mine]]
    at = np.searchsorted(rows, of)
    share = each.high[mine] / r.high[of]
    usd = np.where(may_each, usd, np.inf)
    served = usd + share[:, None] * links[at]
    served += each.high[mine][:, None] * prices.high[offers]
    served += each.mean[mine][:, None] * prices.mean[offers]
    kept = each.kept[mine] / np.maximum(r.kept[of], 1e-300)
    out = each.unserved_usd[mine] + kept * prices.kept[of] + share * prices.fewest[of]
    return Members(at, share, usd, np.minimum(served.min(axis=1, initial=np.inf), out))


def _energy_apart(model: PlaceModel, each: Rows, mine: Ints, of: Ints, offers: Ints) -> Floats:
    """[member, offer] USD/h at least of the energy that a member draws beyond its part w_i of its row's: a site's costs are convex in kW, with
    slopes from own power's to the grid's.
    """
    r, sites = model.rows, model.problem.sites
    own = np.array([s.own_kw > 0.0 for s in sites])
    export = np.where(own, [s.export_usd_per_kwh for s in sites], r.grid_usd)
    site = r.offer_site[offers]
    power = r.pue[site] * r.offer_kw_per_rps[offers]
    more = (each.mean[mine] - r.mean[of] * each.high[mine] / r.high[of])[:, None]
    least, most = np.minimum(export, r.grid_usd)[site], np.maximum(export, r.grid_usd)[site]
    return np.asarray(power * more * np.where(more > 0.0, least, most))


def _places(model: PlaceModel, pairs: Ints, rows: Ints, offers: Ints) -> tuple[Ints, Ints]:
    """Of pairs of one service: which of its rows, and of its offers."""
    return (
        np.searchsorted(rows, model.pair_row[pairs]),
        np.searchsorted(offers, model.pair_offer[pairs]),
    )

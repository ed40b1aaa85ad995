"""Rows and columns of the siting problem, in named blocks, and the way back from columns to a plan.

Here: `build` and `SitingModel`. Not here: the problem's fields (`siting_problem.Siting`), rows that survival needs
(`siting_survival`), HiGHS (`milp`).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hanse.milp import INF, Floats, Model
from hanse.plan.siting_problem import Siting

UNSERVED_TIMES, UNCOVERED_TIMES = 100.0, 1000.0
"""See `Siting.unserved_usd` and `Siting.uncovered_usd`; a larger factor would drown costs in the solver's tolerance."""


class SitingModel:
    """Columns of one problem: `x` [year, pair], `u` [year, demand], `y` [year, site, size], `v` [year, failure]."""

    def __init__(self, problem: Siting) -> None:
        self.problem = problem
        years = len(problem.demand)
        n, m, k = len(problem.demand_ids), len(problem.site_ids), len(problem.size_ids)
        self.worth = (1.0 + problem.rate) ** -np.arange(years)
        self.unit_usd = np.broadcast_to(problem.unit_usd, (years, n, m))
        self.fixed_usd = np.broadcast_to(problem.fixed_usd, (years, m, k))
        allowed = problem.sizes_allowed
        useful = problem.eligible & allowed.any(axis=1)
        self.pair_demand, self.pair_site = np.nonzero(useful)
        self.hopeless = ~useful.any(axis=1)
        """[demand]: no lawful site in time; unserved at no price, and named."""
        self.model = Model()
        served_usd = self.unit_usd[:, self.pair_demand, self.pair_site]
        worth = self.worth[:, None]
        self.x = self.model.add_columns(
            "share", worth * problem.demand[:, self.pair_demand] * served_usd
        )
        self.lone_usd = worth * self._unserved_usd()
        """[year, demand]: price of a row wholly left out, whether or not it is hopeless."""
        self.u_usd = np.where(self.hopeless, 0.0, self.lone_usd)
        self.u = self.model.add_columns(
            "unserved", self.u_usd, lower=np.where(self.hopeless, 1.0, 0.0), upper=1.0
        )
        self.y = self.model.add_columns(
            "size",
            worth[:, :, None] * self.fixed_usd,
            upper=np.broadcast_to(allowed, (years, m, k)).astype(float),
            integer=True,
        )
        failures = len(problem.failure_sets)
        self.v_usd = worth * np.full((years, failures), self._uncovered_usd())
        self.v = self.model.add_columns("uncovered", self.v_usd)
        reserves = len(problem.reserves)
        self.r = self.model.add_columns("standby", worth * np.full((years, reserves), problem.standby_usd))  # fmt: skip

    def _unserved_usd(self) -> Floats:
        """[year, demand]: price of leaving a row out for a year, not discounted."""
        p = self.problem
        if p.unserved_usd is not None:
            return np.asarray(p.demand * p.unserved_usd)
        allowed = p.sizes_allowed
        prices = np.zeros(p.demand.shape)
        for t, demand in enumerate(p.demand):
            # Several largest sites where one does not hold it.
            count = np.maximum(1.0, np.ceil(demand[:, None, None] / p.capacity))
            fixed = np.where(allowed, count * self.fixed_usd[t], np.inf).min(axis=2)
            alone = np.where(p.eligible, fixed + demand[:, None] * self.unit_usd[t], np.inf)
            prices[t] = alone.min(axis=1, initial=np.inf)
        return np.where(self.hopeless, 0.0, UNSERVED_TIMES * prices)

    def _uncovered_usd(self) -> float:
        p = self.problem
        if p.uncovered_usd is not None:
            return p.uncovered_usd
        total = float(p.demand.sum(axis=1).max())
        return UNCOVERED_TIMES * float(self.fixed_usd.max(initial=0.0)) / max(total, 1e-9)

    def sizes(self, values: Floats) -> NDArray[np.int64]:
        """[year, site]: chosen size, -1 for none."""
        on = values[self.y] > 0.5
        return np.where(on.any(axis=2), on.argmax(axis=2), -1)

    def shares(self, values: Floats) -> tuple[Floats, Floats]:
        """Shares [year, demand, site] and unserved [year, demand]; what tolerance left is cleaned away."""
        years, n = self.problem.demand.shape
        shares = np.zeros((years, n, len(self.problem.site_ids)))
        x = values[self.x]
        shares[:, self.pair_demand, self.pair_site] = np.where(x > 1e-7, x, 0.0)
        unserved = np.where(values[self.u] > 1e-7, values[self.u], 0.0)
        whole = shares.sum(axis=2) + unserved
        return shares / whole[:, :, None], unserved / whole

    def yearly_usd(self, size: NDArray[np.int64], shares: Floats) -> tuple[Floats, Floats]:
        """Fixed and running cost [year] of a plan, not discounted."""
        built = np.take_along_axis(self.fixed_usd, np.maximum(size, 0)[:, :, None], axis=2)[:, :, 0]
        fixed = np.where(size >= 0, built, 0.0).sum(axis=1)
        running = np.einsum("ti,tij,tij->t", self.problem.demand, shares, self.unit_usd)
        return fixed, running + self.problem.standby_usd * self.standby(shares)

    def standby(self, shares: Floats) -> Floats:
        """[year] units that stand by: of each class the most that one failing site has."""
        p = self.problem
        fails = sorted({site for group in p.failure_sets for site in group})
        total = np.zeros(len(p.demand))
        for kept in p.reserves:
            load = np.einsum("ti,tij->tj", p.demand * kept, shares)
            total += load[:, fails].max(axis=1, initial=0.0)
        return total

    def penalty_usd(self, values: Floats) -> float:
        """What slacks cost, discounted."""
        return float((self.u_usd * values[self.u]).sum() + (self.v_usd * values[self.v]).sum())


def build(problem: Siting) -> SitingModel:
    """The model of a problem without survival.

    min sum_t w_t [sum fixed_jk y_jkt + sum d_it unit_ij x_ijt + penalties], facts of the siting literature (Daskin,
    Network and Discrete Location, 2013, chapter 7):
    `serve`  sum_j x_ij + u_i = 1;
    `room`   sum_i d_i x_ij <= sum_k cap_k y_jk;
    `link`   x_ij <= sum_k min(1, cap_k / d_i) y_jk, which is tighter than sum_k y_jk and closes most of the gap;
    `all`    sum_jk cap_k y_jk + sum_i d_i u_i >= sum_i d_i, implied, and what the solver makes cover cuts of;
    `one`    sum_k y_jk <= 1;
    `grow`   sum_{k' >= k} y_jk't <= sum_{k' >= k} y_jk',t+1: a site only grows;
    `standby` what stands by for the loss of a site, where that has a price (`_standby`);
    `sites`, `budget` limits; where forced sites alone go beyond, what they need (the answer names it).
    """
    s = SitingModel(problem)
    m, p = s.model, problem
    years, sites, sizes = s.y.shape
    served = np.broadcast_to(p.demand[:, s.pair_demand], s.x.shape)
    serve = m.add_rows("serve", 1.0, 1.0, s.u.shape)
    m.put(serve[:, s.pair_demand], s.x, 1.0)
    m.put(serve, s.u, 1.0)
    room = m.add_rows("room", -INF, 0.0, (years, sites))
    m.put(room[:, s.pair_site], s.x, served)
    m.put(room[:, :, None], s.y, -p.capacity)
    link = m.add_rows("link", -INF, 0.0, s.x.shape)
    m.put(link, s.x, 1.0)
    fits = np.minimum(1.0, p.capacity / np.maximum(served, 1e-12)[:, :, None])
    m.put(link[:, :, None], s.y[:, s.pair_site], -fits)
    total = m.add_rows("all", p.demand.sum(axis=1), INF, (years,))
    m.put(total[:, None, None], s.y, np.broadcast_to(p.capacity, s.y.shape))
    m.put(total[:, None], s.u, p.demand)
    forced = np.array([site in p.forced for site in p.site_ids])
    one = m.add_rows("one", np.where(forced, 1.0, 0.0), 1.0, (years, sites))
    m.put(one[:, :, None], s.y, 1.0)
    for k in range(sizes if years > 1 else 0):
        grow = m.add_rows(f"grow {k}", 0.0, INF, (years - 1, sites))
        m.put(grow[:, :, None], s.y[1:, :, k:], 1.0)
        m.put(grow[:, :, None], s.y[:-1, :, k:], -1.0)
    _standby(s)
    _limit(s)
    return s


def _standby(s: SitingModel) -> None:
    """`standby` r_c >= sum_i s_i d_i x_ij over the rows of class c, for each site j that may fail."""
    m, p = s.model, s.problem
    fails = np.zeros(len(p.site_ids), np.bool_)
    fails[[site for group in p.failure_sets for site in group]] = True
    for c, kept in enumerate(p.reserves):
        pairs = np.flatnonzero((kept[s.pair_demand] > 0.0) & fails[s.pair_site])
        sites, row = np.unique(s.pair_site[pairs], return_inverse=True)
        rows = m.add_rows(f"standby {c}", -INF, 0.0, (len(p.demand), len(sites)))
        part = p.demand[:, s.pair_demand[pairs]] * kept[s.pair_demand[pairs]]
        m.put(rows[:, row.ravel()], s.x[:, pairs], part)
        m.put(rows, s.r[:, c : c + 1], -1.0)


def _limit(s: SitingModel) -> None:
    p, m = s.problem, s.model
    years = len(s.y)
    if p.sites_max is not None:
        rows = m.add_rows("sites", -INF, max(p.sites_max, len(p.forced)), (years,))
        m.put(rows[:, None, None], s.y, 1.0)
    if p.budget_usd is not None:
        rows = m.add_rows("budget", -INF, np.maximum(p.budget_usd, forced_usd(p)), (years,))
        m.put(rows[:, None, None], s.y, s.fixed_usd)


def forced_usd(problem: Siting) -> Floats:
    """[year]: the least that forced sites cost at sizes that may only grow."""
    years, sites = len(problem.demand), len(problem.site_ids)
    fixed = np.broadcast_to(problem.fixed_usd, (years, sites, len(problem.size_ids)))
    index = [problem.site_ids.index(site) for site in problem.forced]
    smallest = problem.sizes_allowed[index].argmax(axis=1)
    return np.asarray(fixed[:, index, smallest].sum(axis=1))

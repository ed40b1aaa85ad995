"""What is left must hold what has to survive: rows found as they are missing.

After a failure f, demand s_i d_i of every row must find room in lawful sites in time outside f. By the theorem of Gale and
Hoffman (Gale, Pacific J. Math. 7, 1957) it does exactly when for every set S of rows

    sum over sites j outside f that any row of S may use of cap_j >= sum over S of s_i d_i,

and the worst S is a minimum cut. So nothing but sizes stands in these rows: no second assignment for each failure, and few
of the 2^n sets matter. The column v_f is what does not fit, priced.

Here: finding the worst set and adding its row. Not here: who is served where after a failure (`dispatch` decides), the
time until then.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hanse.plan.milp import INF, Floats, Model, Solver
from hanse.plan.siting_model import SitingModel
from hanse.plan.siting_problem import Siting

SHORT_MIN = 1e-6
"""Of all demand: below it the solver's tolerance speaks."""


class Rescue:
    """The largest part of some demand that fits into some capacities: a maximum flow, re-solved from its last basis."""

    def __init__(self, may: NDArray[np.bool_]) -> None:
        self.may = may
        model = Model()
        rows, sites = may.shape
        demand, site = np.nonzero(may)
        flow = model.add_columns("flow", np.full(len(demand), -1.0))
        self.demand = model.add_rows("demand", -INF, 0.0, (rows,))
        self.room = model.add_rows("room", -INF, 0.0, (sites,))
        model.put(self.demand[demand], flow, 1.0)
        model.put(self.room[site], flow, 1.0)
        self.solver = Solver(model) if len(demand) else None

    def short(self, demand: Floats, capacity: Floats) -> tuple[float, NDArray[np.bool_]]:
        """What does not fit, and the rows of the worst set [row]."""
        if self.solver is None:
            return float(demand.sum()), np.ones(len(demand), bool)
        self.solver.set_rows(self.demand, -INF, demand)
        self.solver.set_rows(self.room, -INF, capacity)
        found = self.solver.relaxed()
        # A minimum cut: rows whose own demand does not bind.
        worst = np.abs(found.row_duals[self.demand]) < 0.5
        return float(demand.sum() + found.objective), worst


class Survival:
    """Failures of one problem, and the rows that its model has for them."""

    def __init__(self, problem: Siting, model: SitingModel) -> None:
        self.problem, self.model = problem, model
        self.cuts = 0
        self.failures = problem.failure_sets
        share = np.zeros(len(problem.demand_ids))
        if problem.survive_share is not None:
            share = problem.survive_share
        self.kept = np.flatnonzero((share > 0.0) & ~model.hopeless)
        self.must = problem.demand[:, self.kept] * share[self.kept]
        # Rows that may use the same sites are one row to a flow.
        may = problem.eligible[self.kept] & problem.sizes_allowed.any(axis=1)
        self.may, self.group = np.unique(may, axis=0, return_inverse=True)
        self.group = self.group.ravel()
        self.rescue = Rescue(self.may)
        self.known: set[tuple[int, int, bytes]] = set()

    def grouped(self, must: Floats) -> Floats:
        """Sums over rows [kept row] that may use the same sites [group]."""
        return np.bincount(self.group, must, len(self.may)).astype(float)

    def add_first(self, solver: Solver) -> None:
        """All demand together, for every failure and year."""
        for year in range(len(self.must)):
            for failure in range(len(self.failures)):
                self._add(solver, year, failure, np.ones(len(self.may), bool))

    def add_missing(self, solver: Solver, values: Floats) -> bool:
        """Add the rows that a solution breaks; whether there were any."""
        if not self.failures or not len(self.kept):
            return False
        before = self.cuts
        if before == 0:
            self.add_first(solver)
        capacity = values[self.model.y] @ self.problem.capacity
        for year, must in enumerate(self.must):
            grouped = self.grouped(must)
            for failure, gone in enumerate(self.failures):
                left = np.maximum(capacity[year], 0.0)
                left[list(gone)] = 0.0
                short, worst = self.rescue.short(grouped, left)
                covered = short - values[self.model.v[year, failure]]
                if covered > SHORT_MIN * self.problem.demand[year].sum():
                    # A set that one failure leaves short is short of room: other failures meet it next.
                    for other in range(len(self.failures)):
                        self._add(solver, year, other, worst)
        return self.cuts > before

    def _add(self, solver: Solver, year: int, failure: int, worst: NDArray[np.bool_]) -> None:
        key = (year, failure, worst.tobytes())
        if key in self.known:
            return
        self.known.add(key)
        usable = np.asarray(self.may[worst].any(axis=0))
        usable[list(self.failures[failure])] = False
        y = self.model.y[year, usable]
        columns = np.append(y.ravel(), self.model.v[year, failure])
        values = np.append(np.broadcast_to(self.problem.capacity, y.shape).ravel(), 1.0)
        need = float(self.grouped(self.must[year])[worst].sum())
        solver.add_row(need, INF, columns, values)
        self.cuts += 1


def shortfalls(problem: Siting, size: NDArray[np.int64]) -> list[tuple[int, int, float, list[int]]]:
    """Year, failure, units that do not fit and the rows of the worst set, for a plan [year, site]."""
    model = SitingModel(problem)
    survival = Survival(problem, model)
    found = []
    capacity = np.where(size >= 0, problem.capacity[size], 0.0)
    for year, must in enumerate(survival.must if len(survival.kept) else ()):
        grouped = survival.grouped(must)
        for failure, gone in enumerate(survival.failures):
            left = capacity[year].copy()
            left[list(gone)] = 0.0
            short, worst = survival.rescue.short(grouped, left)
            if short > SHORT_MIN * problem.demand[year].sum():
                rows = survival.kept[worst[survival.group]].tolist()
                found.append((year, failure, short, rows))
    return found

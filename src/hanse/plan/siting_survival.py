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

from hanse.milp import INF, Floats, Model, Solver
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
    """Failures of one problem, the sets of rows that are known to run short, and the rows that its model has for them."""

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
        self.most: dict[bytes, list[int]] = {}
        """Columns [year] of the sets of groups that the model knows: the most that a failure takes of what they may use."""
        self.known: set[tuple[bytes, int, int]] = set()
        """Set, year and failure of the `loss` rows that it has."""

    def grouped(self, must: Floats) -> Floats:
        """Sums over rows [kept row] that may use the same sites [group]."""
        return np.bincount(self.group, must, len(self.may)).astype(float)

    def add_first(self, solver: Solver) -> None:
        """All demand together, and each group alone: the sets that most failures leave short."""
        self._add(solver, np.ones(len(self.may), bool))
        for group in range(len(self.may)):
            self._add(solver, np.arange(len(self.may)) == group)

    def add_missing(self, solver: Solver, values: Floats) -> bool:
        """Add the sets that a solution leaves short; whether there were any."""
        if not self.failures or not len(self.kept):
            return False
        if not self.most:
            self.add_first(solver)
            return True
        before = self.cuts
        capacity = np.maximum(values[self.model.y] @ self.problem.capacity, 0.0)
        for year, must in enumerate(self.must):
            grouped = self.grouped(must)
            small = SHORT_MIN * self.problem.demand[year].sum()
            for failure, gone in enumerate(self.failures):
                left = capacity[year].copy()
                left[list(gone)] = 0.0
                short, worst = self.rescue.short(grouped, left)
                if short - values[self.model.v[year, failure]] > small:
                    self._add(solver, worst)
                    self._add_loss(solver, worst, year, failure)
        return self.cuts > before

    def _add(self, solver: Solver, worst: NDArray[np.bool_]) -> None:
        """Rows of a set of groups for all years and the failures that take of what the set may use.

        With m the most that any failure takes of it, less what is left out for that failure:
        `hold`  sum cap_j y_j - m >= need;
        `loss`  m >= sum over j in f cap_j y_j - v_f, for each failure f;
        `count` since a whole number of sites stands, one more than the fewest largest ones that hold the need.
        """
        if worst.tobytes() in self.most:
            return
        usable = np.asarray(self.may[worst].any(axis=0))
        taking = [f for f, gone in enumerate(self.failures) if usable[list(gone)].any()]
        all_fail = set(np.flatnonzero(usable)) <= {j for f in taking for j in self.failures[f]}
        years = range(len(self.must))
        self.most[worst.tobytes()] = [
            solver.add_column(0.0, -INF if taking else 0.0, INF) for _ in years
        ]
        for year in years:
            need = float(self.grouped(self.must[year])[worst].sum())
            if need <= 0.0:
                continue
            y = self.model.y[year, usable]
            held = np.broadcast_to(self.problem.capacity, y.shape).ravel()
            most = self.most[worst.tobytes()][year]
            solver.add_row(need, INF, np.append(y.ravel(), most), np.append(held, -1.0))
            self.cuts += 1
            for failure in taking:
                self._add_loss(solver, worst, year, failure)
            if len(taking) > 1 and all_fail:
                self._add_count(solver, year, usable, need)

    def _add_loss(self, solver: Solver, worst: NDArray[np.bool_], year: int, failure: int) -> None:
        key = (worst.tobytes(), year, failure)
        if key in self.known:
            return
        self.known.add(key)
        usable = np.asarray(self.may[worst].any(axis=0))
        y = self.model.y[year][[j for j in self.failures[failure] if usable[j]]]
        lost = np.broadcast_to(-self.problem.capacity, y.shape).ravel()
        columns = np.append(y.ravel(), [self.model.v[year, failure], self.most[key[0]][year]])
        solver.add_row(0.0, INF, columns.astype(np.int64), np.append(lost, [1.0, 1.0]))
        self.cuts += 1

    def _add_count(self, solver: Solver, year: int, usable: NDArray[np.bool_], need: float) -> None:
        largest = float((self.problem.sizes_allowed[usable] * self.problem.capacity).max())
        # With n sites, too few by q + 1 - n >= 1: a failure of one leaves out rest + (q - n) largest; with none, each of two failures all.
        fewest = np.ceil(need / largest - 1e-9)
        rest = need - (fewest - 1.0) * largest
        y, v = self.model.y[year, usable].ravel(), self.model.v[year]
        values = np.append(np.ones(len(y)), np.full(len(v), 1.0 / rest))
        solver.add_row(fewest + 1.0, INF, np.append(y, v), values)
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

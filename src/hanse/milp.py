"""A linear or mixed-integer model in named blocks of columns and rows, and HiGHS under the house's rules.

Here: `Model` (blocks in, one sparse matrix out), `Solver` (one HiGHS object that keeps its basis while rows are added and
bounds and costs change), limits by gap and nodes, one thread, a fixed seed; never a wall time, which would make the
answer depend on the machine. Not here: what the columns mean (`plan`, `dispatch.place`, `dispatch.defer`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import highspy
import numpy as np
from numpy.typing import NDArray

from hanse.model.fleet import Value

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
INF = highspy.kHighsInf


COST_ERROR: Final = 1e-5
"""Relative; sums of thousands of terms agree to 1e-9."""


OTHER_WAYS: Final = (
    ("presolve", "choose", "choose"),
    ("presolve", "off", "choose"),
    ("simplex_strategy", 4, 1),
    ("solver", "ipm", "choose"),
)
"""Options and their defaults, one after the other where HiGHS 1.16 gives up (`Unknown`, from a basis that rows were added to) or contradicts itself
(presolve undone wrongly, a solution that costs ten times what is said of it): afresh, without presolve, by the primal simplex method, by interior points."""


COST_MAX: Final = 1e4
"""Solvers' tolerances are absolute: dearer columns make all costs smaller by a power of two, inside."""


class Limits(Value, frozen=True, kw_only=True):
    """When a search may stop."""

    gap: float = 0.01
    """Of the objective. Costs of sites are not known to 1 % years ahead."""
    nodes_max: int = 20_000
    """About ten times what the benchmark's instances need; reached, the incumbent and its gap are the answer."""


class Outcome(Value, frozen=True, kw_only=True, eq=False):
    """A solution and what is proven of it."""

    status: str
    """`optimal` (within the gap) or `nodes`."""
    values: Floats
    """[column]."""
    row_duals: Floats
    """[row]; zeros after an integer search."""
    objective: float
    bound: float
    """No solution is cheaper; of a linear program the objective itself."""
    nodes: int


class Model:
    """Columns and rows in named blocks, each an array of indices of any shape.

    `after` a solver: blocks to be added to it (`Solver.extend`); coefficients may also stand in its rows.
    """

    def __init__(self, after: Solver | None = None) -> None:
        self.columns: dict[str, Ints] = {}
        self.rows: dict[str, Ints] = {}
        self._columns: list[tuple[Floats, Floats, Floats, bool]] = []
        self._rows: list[tuple[Floats, Floats]] = []
        self._entries: list[tuple[Ints, Ints, Floats]] = []
        self.first_column: int = 0 if after is None else after.column_count
        self.first_row: int = 0 if after is None else after.row_count
        self.column_count: int = self.first_column
        self.row_count: int = self.first_row

    def add_columns(
        self,
        name: str,
        cost: Any,
        *,
        lower: Any = 0.0,
        upper: Any = INF,
        integer: bool = False,
        shape: tuple[int, ...] | None = None,
    ) -> Ints:
        """A block of columns in the shape of `cost` (or `shape`); their indices."""
        assert name not in self.columns, name
        shape = np.shape(cost) if shape is None else shape
        arrays = [np.broadcast_to(_numbers(a, name), shape).ravel() for a in (cost, lower, upper)]
        index = self.column_count + np.arange(arrays[0].size).reshape(shape)
        self._columns.append((arrays[0], arrays[1], arrays[2], integer))
        self.column_count += index.size
        self.columns[name] = index
        return index

    def add_rows(self, name: str, lower: Any, upper: Any, shape: tuple[int, ...]) -> Ints:
        """A block of rows between two bounds; their indices."""
        assert name not in self.rows, name
        bounds = [np.broadcast_to(_numbers(a, name), shape).ravel() for a in (lower, upper)]
        index = self.row_count + np.arange(bounds[0].size).reshape(shape)
        self._rows.append((bounds[0], bounds[1]))
        self.row_count += index.size
        self.rows[name] = index
        return index

    def put(self, rows: Any, columns: Any, values: Any) -> None:
        """Coefficients, broadcast against each other; each place at most once."""
        r, c, v = np.broadcast_arrays(rows, columns, _numbers(values, "a coefficient"))
        self._entries.append((r.ravel(), c.ravel(), v.ravel()))

    def lp(self) -> Any:
        """The model as HiGHS takes it."""
        lp = highspy.HighsLp()
        lp.num_col_, lp.num_row_ = self.column_count, self.row_count
        lp.col_cost_, lp.col_lower_, lp.col_upper_ = self.column_arrays()
        lp.row_lower_, lp.row_upper_ = self.row_arrays()
        starts, index, values = self.matrix()
        lp.a_matrix_.format_ = highspy.MatrixFormat.kColwise
        lp.a_matrix_.start_, lp.a_matrix_.index_, lp.a_matrix_.value_ = starts, index, values
        return lp

    def column_arrays(self) -> tuple[Floats, Floats, Floats]:
        """Cost, lower and upper bound, [column]."""
        blocks = [block[:3] for block in self._columns]
        return tuple(np.concatenate([np.zeros(0), *(b[i] for b in blocks)]) for i in range(3))  # type: ignore[return-value]

    def row_arrays(self) -> tuple[Floats, Floats]:
        """Lower and upper bound, [row]."""
        return tuple(np.concatenate([np.zeros(0), *(b[i] for b in self._rows)]) for i in range(2))  # type: ignore[return-value]

    def matrix(self) -> tuple[NDArray[np.int32], NDArray[np.int32], Floats]:
        """Starts [column + 1], rows and values, column by column."""
        if not self._entries:
            r = c = np.zeros(0, np.int64)
            v = np.zeros(0)
        else:
            r, c, v = (np.concatenate([e[i] for e in self._entries]) for i in range(3))
        c = c - self.first_column
        kept = v != 0.0
        order = np.lexsort((r[kept], c[kept]))
        count = self.column_count - self.first_column
        starts = np.zeros(count + 1, np.int32)
        starts[1:] = np.cumsum(np.bincount(c[kept], minlength=count))
        return starts, r[kept][order].astype(np.int32), v[kept][order]

    def integer_columns(self) -> Ints:
        """Columns that take whole numbers only."""
        kinds = np.concatenate([np.full(block[0].size, block[3]) for block in self._columns])
        return np.flatnonzero(kinds)


def _numbers(values: Any, what: str) -> Floats:
    """As floats; of what is no number HiGHS would never come back."""
    given = np.asarray(values, float)
    if np.isnan(given).any():
        raise ValueError(f"{what} is not a number")
    return given


class Quiet(highspy.Highs):
    """HiGHS that says nothing, from its making on: standard output belongs to documents."""

    def enableCallbacks(self) -> None:  # noqa: N802
        """The constructor's last act, which would print who it is."""
        self.setOptionValue("output_flag", False)
        super().enableCallbacks()  # type: ignore[no-untyped-call]


class Solver:
    """HiGHS around one model. Solved again after a change it starts from where it was."""

    def __init__(self, model: Model, *, options: Mapping[str, Any] | None = None) -> None:
        self.highs: Any = Quiet()  # type: ignore[no-untyped-call]
        fixed = {"output_flag": False, "threads": 1, "random_seed": 0, "parallel": "off"}
        for name, value in {**fixed, **(options or {})}.items():
            self.highs.setOptionValue(name, value)
        lp = model.lp()
        dearest = float(np.abs(lp.col_cost_).max(initial=0.0))
        self.unit = 2.0 ** max(0.0, np.ceil(np.log2(max(dearest, 1.0) / COST_MAX)))
        """What one unit of HiGHS' objective costs."""
        lp.col_cost_ = np.array(lp.col_cost_) / self.unit
        status = self.highs.passModel(lp)
        assert status != highspy.HighsStatus.kError, "a malformed model"
        self.integers = model.integer_columns()
        self.column_count: int = model.column_count
        self.row_count: int = model.row_count

    def set_columns(self, columns: Ints, lower: Any, upper: Any) -> None:
        """New bounds of columns."""
        index = columns.ravel().astype(np.int32)
        low, high = (np.broadcast_to(np.asarray(a, float), columns.shape) for a in (lower, upper))
        self.highs.changeColsBounds(len(index), index, low.ravel().copy(), high.ravel().copy())

    def set_costs(self, columns: Ints, cost: Any) -> None:
        """New costs of columns."""
        index = columns.ravel().astype(np.int32)
        given = np.broadcast_to(np.asarray(cost, float), columns.shape)
        self.highs.changeColsCost(len(index), index, given.ravel() / self.unit)

    def set_rows(self, rows: Ints, lower: Any, upper: Any) -> None:
        """New bounds of rows."""
        index = rows.ravel().astype(np.int32)
        low, high = (np.broadcast_to(np.asarray(a, float), rows.shape) for a in (lower, upper))
        self.highs.changeRowsBounds(len(index), index, low.ravel().copy(), high.ravel().copy())

    def add_column(self, cost: float, lower: float, upper: float) -> int:
        """One more column, in no row yet; its index."""
        self.highs.addCol(cost / self.unit, lower, upper, 0, np.zeros(0, np.int32), np.zeros(0))
        self.column_count += 1
        return self.column_count - 1

    def add_columns(self, cost: Floats, rows: Ints, values: Floats) -> Ints:
        """Columns from 0 upwards, each with equally many entries [column, entry]; their indices."""
        count, each = rows.shape
        if count:
            zeros, most = np.zeros(count), np.full(count, INF)
            starts = (each * np.arange(count)).astype(np.int32)
            index = rows.ravel().astype(np.int32)
            entries = np.ascontiguousarray(values, float).ravel()
            cost, entries = _numbers(cost, "a new column"), _numbers(entries, "a new column")
            self.highs.addCols(
                count, cost / self.unit, zeros, most, index.size, starts, index, entries
            )
        self.column_count += count
        return np.arange(self.column_count - count, self.column_count)

    def add_rows(self, lower: Floats, upper: Floats, columns: Ints, values: Floats) -> None:
        """More rows, each with equally many entries [row, entry]."""
        count, each = columns.shape
        if count:
            starts = (each * np.arange(count)).astype(np.int32)
            index = columns.ravel().astype(np.int32)
            entries = np.ascontiguousarray(values, float).ravel()
            self.highs.addRows(count, lower, upper, index.size, starts, index, entries)
        self.row_count += count

    def add_row(self, lower: float, upper: float, columns: Ints, values: Floats) -> None:
        """One more row."""
        index = columns.astype(np.int32)
        self.highs.addRow(lower, upper, len(index), index, values)
        self.row_count += 1

    def extend(self, model: Model) -> None:
        """The blocks of a `Model(after=self)`; the basis stays, new columns at a bound."""
        assert (model.first_column, model.first_row) == (self.column_count, self.row_count)
        low, high = model.row_arrays()
        none = np.zeros(0, np.int32)
        # HiGHS wants a start a row even of rows without entries.
        self.highs.addRows(len(low), low, high, 0, np.zeros(len(low), np.int32), none, np.zeros(0))
        cost, lower, upper = model.column_arrays()
        starts, index, values = model.matrix()
        self.highs.addCols(
            len(cost), cost / self.unit, lower, upper, len(values), starts[:-1], index, values
        )
        self.column_count, self.row_count = model.column_count, model.row_count

    def set_entries(self, rows: Any, columns: Any, values: Any) -> None:
        """Other coefficients in the matrix; one call of HiGHS each."""
        r, c, v = np.broadcast_arrays(rows, columns, np.asarray(values, float))
        for row, column, value in zip(
            r.ravel().tolist(), c.ravel().tolist(), v.ravel().tolist(), strict=True
        ):
            self.highs.changeCoeff(row, column, value)

    def reduced_costs(self) -> Floats:
        """[column] after `relaxed`: what a unit more of it would add at least."""
        duals: Floats = np.asarray(self.highs.getSolution().col_dual, float) * self.unit
        return duals

    def relaxed(self) -> Outcome:
        """The linear program, integers taken as fractions."""
        self._set_kind(highspy.HighsVarType.kContinuous)
        return self._run("optimal")

    def search(
        self,
        limits: Limits,
        start: tuple[Ints, Floats] | None = None,
        gap_absolute: float | None = None,
    ) -> Outcome:
        """The integer program; `start` gives some columns' values to begin with. An absolute gap replaces the relative one."""
        self._set_kind(highspy.HighsVarType.kInteger)
        self.highs.setOptionValue("mip_rel_gap", limits.gap if gap_absolute is None else 0.0)
        # HiGHS' own absolute default: only rounding.
        self.highs.setOptionValue(
            "mip_abs_gap", 1e-6 if gap_absolute is None else gap_absolute / self.unit
        )
        self.highs.setOptionValue("mip_max_nodes", limits.nodes_max)
        if start is not None:
            index = start[0].astype(np.int32)
            self.highs.setSolution(len(index), index, np.asarray(start[1], float))
        return self._run("nodes")

    def _set_kind(self, kind: Any) -> None:
        if len(self.integers):
            index = self.integers.astype(np.int32)
            kinds = np.full(len(index), int(kind), np.uint8)
            self.highs.changeColsIntegrality(len(index), index, kinds)

    def _run(self, otherwise: str) -> Outcome:
        self.highs.run()
        good = self._answered() and self._consistent()
        for name, value, default in OTHER_WAYS:
            if good:
                break
            self.highs.setOptionValue(name, value)
            self.highs.clearSolver()
            self.highs.run()
            self.highs.setOptionValue(name, default)
            good = self._answered() and self._consistent()
        # Slacks make every model feasible, and costs keep it bounded: all else is a bug of ours.
        said = self.highs.modelStatusToString(self.highs.getModelStatus())
        assert good, f"HiGHS finds no way: {said}"
        optimal = self.highs.getModelStatus() == highspy.HighsModelStatus.kOptimal
        solution, info = self.highs.getSolution(), self.highs.getInfo()
        objective = float(info.objective_function_value) * self.unit
        whole = otherwise == "nodes" and len(self.integers) > 0
        duals = solution.row_dual
        return Outcome(
            status="optimal" if optimal else otherwise,
            values=np.array(solution.col_value),
            row_duals=np.array(duals) * self.unit
            if len(duals) == self.row_count
            else np.zeros(self.row_count),
            objective=objective,
            bound=float(info.mip_dual_bound) * self.unit if whole else objective,
            nodes=max(0, int(info.mip_node_count)) if whole else 0,
        )

    def _answered(self) -> bool:
        """Optimal, or as far as the limits let it go."""
        kinds = highspy.HighsModelStatus
        answers = kinds.kOptimal, kinds.kSolutionLimit, kinds.kIterationLimit
        return self.highs.getModelStatus() in answers

    def _consistent(self) -> bool:
        """The values cost what the solver says they do."""
        values = np.array(self.highs.getSolution().col_value)
        cost = np.array(self.highs.getLp().col_cost_)
        said = float(self.highs.getInfo().objective_function_value)
        return len(values) != len(cost) or abs(float(cost @ values) - said) <= COST_ERROR * max(
            1.0, abs(said)
        )

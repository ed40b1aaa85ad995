"""Moving load between places: who may go where, who has room, what is cleanest.

Here: the linear program that finds the least total cost exactly, and the sequential rule of the EuroSys 2024 study,
which is what its numbers come from. Not here: why a move is allowed (the caller's matrix says so), when it happens.

The program is a transportation problem with handling capacity at the destination:
minimise sum_ij c_j x_ij; sum_j x_ij = load_i; sum_i x_ij <= capacity_j; x_ij >= 0, only where a move is allowed
(Hitchcock 1941). Loads are divisible. Every place may keep its own load, so a solution exists whenever load <= capacity.
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from hanse.errors import ConfigError


def cheapest_moves(
    load: NDArray[np.float64],
    capacity: NDArray[np.float64],
    cost: NDArray[np.float64],
    allowed: NDArray[np.bool_],
) -> NDArray[np.float64]:
    """Flows [origin, destination] of least total cost; `cost` [destination] is per unit of load run there."""
    assert (load <= capacity + 1e-9).all() and allowed.diagonal().all(), (
        "every place can keep its own"
    )
    solver, optimal = _solver()
    origins, destinations = np.nonzero(allowed)
    n, moves = len(load), len(origins)
    nothing = (0, np.zeros(0, np.int32), np.zeros(0, np.int32), np.zeros(0))
    solver.addCols(moves, cost[destinations], np.zeros(moves), np.full(moves, np.inf), *nothing)
    for lower, upper, ends in (
        (load, load, origins),
        (np.zeros(n), capacity, destinations),
    ):
        order = np.argsort(ends, kind="stable").astype(np.int32)
        starts = np.searchsorted(ends[order], np.arange(n)).astype(np.int32)
        solver.addRows(n, lower, upper, moves, starts, order, np.ones(moves))
    solver.run()
    status = solver.getModelStatus()
    assert status == optimal, f"a transport problem ended as {status}"
    flows = np.zeros((n, n))
    flows[origins, destinations] = np.maximum(solver.getSolution().col_value, 0.0)
    return flows


def _solver() -> tuple[Any, Any]:
    """A silent HiGHS and its word for "optimal"."""
    try:
        import highspy
    except ImportError:
        raise ConfigError("highspy", got="not installed", fix="pip install highspy") from None

    class Silent(highspy.Highs):
        # The constructor writes a banner to standard output as soon as it registers callbacks.
        def enableCallbacks(self) -> None:  # noqa: N802
            self.setOptionValue("output_flag", False)
            cast(Any, super()).enableCallbacks()

    solver = cast(Any, Silent)()
    solver.setOptionValue("threads", 1)  # the same answer, bit by bit, on every machine
    solver.setOptionValue("random_seed", 0)
    return solver, highspy.HighsModelStatus.kOptimal


def sequential_moves(
    load: float, capacity: float, cost: NDArray[np.float64], allowed: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Load [place] after each place in turn, cleanest first, has sent its work to the cleanest places that have room.

    The rule of Sukprasert et al., EuroSys 2024 (sim_spatial/capacity_latency of their repository), places sorted by
    rising `cost`. What one place sends away is not weighed against what a later one could have gained there, which is why
    this is no optimum and why a longer reach can make it worse. A place's own load counts as filling it: where more than
    half is in use, part of it goes to dirtier places that have room. Load that finds no room stays.
    """
    assert (np.diff(cost) >= 0.0).all(), "places are sorted, cleanest first"
    after = np.full(len(cost), load)
    for origin in range(len(cost)):
        left = load
        for destination in np.flatnonzero(allowed[origin]):
            moved = min(left, capacity - after[destination])
            after[destination] += moved
            after[origin] -= moved
            left -= moved
            if left <= 0.0:
                break
    return after

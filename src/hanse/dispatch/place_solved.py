"""One placement program from its problem to its answer.

Here: `solved`, `as_it_stands`, `bound_with_any`. Not here: whether what runs now might stay (`place`), rows and columns (`place_model`), the search (`place_search`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
from msgspec.structs import replace

from hanse.dispatch.place_answer import Plan, answer_of, overlooked
from hanse.dispatch.place_bound import bound_of_all
from hanse.dispatch.place_model import PlaceModel, ShortKinds
from hanse.dispatch.place_rows import Rows
from hanse.dispatch.place_search import Found, search, standing, tightened
from hanse.dispatch.place_values import PlaceAnswer, PlaceProblem
from hanse.milp import INF, Floats, Limits, Solver

NODES_BY_SIZE: Final = -1
"""Of the search tree: as many as `place_search` finds fit for the program's size."""
SETS_ROUNDS: Final = 3
"""Of sets of demand that a failure leaves short and the program had not: one is nearly always enough."""


def solved(problem: PlaceProblem, limits: Limits) -> PlaceAnswer:
    """The search's own answer, whatever runs now."""
    rows = Rows(problem)
    if len(rows.offer_fixed) and rows.offer_fixed.all():
        return answer_of(*as_it_stands(problem, limits, rows.offer_max))
    plan, found, extra = _with_sets(lambda extra: _planned(rows, limits, extra))
    if not rows.coarse:
        return answer_of(plan, found)
    # Which of the two is cheaper with all demand by its own ways the clustered program cannot say.
    ways = [plan.n.astype(float)]
    if found.moved is not None and not np.array_equal(found.moved, ways[0]):
        ways.append(found.moved)
    each = [as_it_stands(problem, limits, n, bound=found.bound, extra=extra) for n in ways]
    answer = answer_of(*min(each, key=lambda one: one[0].cost().usd))
    return replace(answer, nodes=found.nodes, clusters=len(rows.service))


def as_it_stands(
    problem: PlaceProblem,
    limits: Limits,
    n: Floats,
    *,
    bound: float | None = None,
    extra: Sequence[ShortKinds] = (),
) -> tuple[Plan, Found]:
    """The best use of replicas [offer], none more and none less, all demand by its own ways; `bound`: of all placements, by default of just this."""
    rows = Rows(problem, clusters=False, only=n)

    def planned(extra: Sequence[ShortKinds]) -> tuple[Plan, Found]:
        model = PlaceModel(rows, extra=extra)
        found = standing(model, limits, n, bound)
        return Plan(model, found), found

    plan, found, _ = _with_sets(planned, extra)
    return plan, found


def _with_sets(
    planned: Callable[[Sequence[ShortKinds]], tuple[Plan, Found]], extra: Sequence[ShortKinds] = ()
) -> tuple[Plan, Found, list[ShortKinds]]:
    """A plan, once more with each set of demand that it leaves short after a failure and the program did not know; those sets."""
    known = list(extra)
    plan, found = planned(known)
    for _ in range(SETS_ROUNDS):
        more = [one for one in overlooked(plan, found) if one not in known]
        if not more:
            break
        known += more
        plan, found = planned(known)
    return plan, found, known


def bound_with_any(problem: PlaceProblem, offers: Sequence[int]) -> float:
    """USD/h; no placement with a replica of any of some offers costs less: the relaxed program with them."""
    model = PlaceModel(Rows(problem))
    some = model.model.add_rows("any", 1.0, INF, ())
    model.model.put(some, model.n[list(offers)], 1.0)
    solver = Solver(model.model)
    found = tightened(model, solver)
    return bound_of_all(model, found, solver.reduced_costs()).usd


def _planned(rows: Rows, limits: Limits, extra: Sequence[ShortKinds]) -> tuple[Plan, Found]:
    model = PlaceModel(rows, extra=extra)
    found = search(model, limits)
    return Plan(model, found), found

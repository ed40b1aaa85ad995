"""One placement program from its problem to its answer.

Here: `solved`, `as_it_stands`, `bound_with_any`. Not here: whether what runs now might stay (`place`), rows and columns (`place_model`), the search (`place_search`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

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
    plan, found = _planned(rows, limits, ())
    extra: list[ShortKinds] = []
    for _ in range(SETS_ROUNDS):
        more = [one for one in overlooked(plan, found) if one not in extra]
        if not more:
            break
        extra += more
        plan, found = _planned(rows, limits, extra)
    if not rows.coarse:
        return answer_of(plan, found)
    n = plan.n.astype(float)
    answer = answer_of(*as_it_stands(problem, limits, n, bound=found.bound, extra=extra))
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
    model = PlaceModel(Rows(problem, clusters=False, only=n), extra=extra)
    found = standing(model, limits, n, bound)
    return Plan(model, found), found


def bound_with_any(problem: PlaceProblem, offers: Sequence[int]) -> float:
    """USD/h; no placement with a replica of any of some offers costs less: the relaxed program with them."""
    model = PlaceModel(Rows(problem))
    some = model.model.add_rows("any", 1.0, INF, ())
    model.model.put(some, model.n[list(offers)], 1.0)
    solver = Solver(model.model)
    found = tightened(model, solver)
    return bound_of_all(model, found, solver.reduced_costs())


def _planned(rows: Rows, limits: Limits, extra: Sequence[ShortKinds]) -> tuple[Plan, Found]:
    model = PlaceModel(rows, extra=extra)
    found = search(model, limits)
    return Plan(model, found), found

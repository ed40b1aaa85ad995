"""One placement program from its problem to its answer.

Here: `solved`, `bound_with_any`. Not here: whether what runs now might stay (`place`), rows and columns (`place_model`), the search (`place_search`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from hanse.dispatch.place_answer import Plan, answer_of, overlooked
from hanse.dispatch.place_model import PlaceModel, ShortKinds
from hanse.dispatch.place_rows import Rows
from hanse.dispatch.place_search import Found, search, tightened
from hanse.dispatch.place_values import PlaceAnswer, PlaceProblem
from hanse.milp import INF, Limits, Solver

NODES_BY_SIZE: Final = -1
"""Of the search tree: as many as `place_search` finds fit for the program's size."""
SETS_ROUNDS: Final = 3
"""Of sets of demand that a failure leaves short and the program had not: one is nearly always enough."""


def solved(problem: PlaceProblem, limits: Limits) -> PlaceAnswer:
    """The search's own answer, whatever runs now."""
    rows = Rows(problem)
    plan, found = _planned(rows, limits, ())
    extra: list[ShortKinds] = []
    for _ in range(SETS_ROUNDS):
        more = [one for one in overlooked(plan, found) if one not in extra]
        if not more:
            break
        extra += more
        plan, found = _planned(rows, limits, extra)
    return answer_of(plan, found)


def bound_with_any(problem: PlaceProblem, offers: Sequence[int]) -> float:
    """USD/h; no placement with a replica of any of some offers costs less: the relaxed program with them."""
    model = PlaceModel(Rows(problem))
    some = model.model.add_rows("any", 1.0, INF, ())
    model.model.put(some, model.n[list(offers)], 1.0)
    return tightened(model, Solver(model.model)).objective


def _planned(rows: Rows, limits: Limits, extra: Sequence[ShortKinds]) -> tuple[Plan, Found]:
    model = PlaceModel(rows, extra=extra)
    found = search(model, limits)
    return Plan(model, found), found

"""Placement: which variant of which service runs where, with how many replicas, on which nodes, over the next window.

Here: `solve`, and the names that others use. The problem (`PlaceProblem`) comes of what a dispatcher believes and of an outlook
(`problem_from`); solving is done by a shell, outside of `Dispatcher.handle`; `check` judges an answer before it is applied. Pure and
deterministic: the same problem, the same bytes of answer. Not here: rows and columns (`place_model`), the search (`place_search`).

Nothing is ever infeasible: what cannot be served, or in time, or would not survive a failure, or draws more than the supply, has a
price, and the answer names it with its cure.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from hanse.dispatch.place_answer import Plan, answer_of, overlooked
from hanse.dispatch.place_check import check
from hanse.dispatch.place_model import PlaceModel, ShortKinds
from hanse.dispatch.place_problem import problem_from
from hanse.dispatch.place_rows import Rows
from hanse.dispatch.place_search import Found, search
from hanse.dispatch.place_values import (
    CostItems,
    Explanation,
    FailureSet,
    Flow,
    PlaceAnswer,
    PlaceDemand,
    PlacedPool,
    PlacedReplicas,
    PlaceOffer,
    PlacePool,
    PlaceProblem,
    PlaceService,
    PlaceSite,
    Violation,
)
from hanse.milp import Limits

__all__ = [
    "CostItems",
    "Explanation",
    "FailureSet",
    "Flow",
    "PlaceAnswer",
    "PlaceDemand",
    "PlaceOffer",
    "PlacePool",
    "PlaceProblem",
    "PlaceService",
    "PlaceSite",
    "PlacedPool",
    "PlacedReplicas",
    "Violation",
    "check",
    "problem_from",
    "solve",
]
NODES_MAX: Final = 10
"""Of the search tree: an answer every few minutes, whose gap is reported, beats a proof."""
SETS_ROUNDS: Final = 3
"""Of sets of demand that a failure leaves short and the program had not: one is nearly always enough."""


def solve(problem: PlaceProblem, limits: Limits | None = None) -> PlaceAnswer:
    """The placement of a problem, with its proven gap."""
    limits = limits or Limits(nodes_max=NODES_MAX)
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


def _planned(rows: Rows, limits: Limits, extra: Sequence[ShortKinds]) -> tuple[Plan, Found]:
    model = PlaceModel(rows, extra=extra)
    found = search(model, limits)
    return Plan(model, found), found

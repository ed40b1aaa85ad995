"""Placement: which variant of which service runs where, with how many replicas, on which nodes, over the next window.

Here: `solve`, and the names that others use. The problem (`PlaceProblem`) comes of what a dispatcher believes and of an outlook
(`problem_from`); solving is done by a shell, outside of `Dispatcher.handle`; `check` judges an answer before it is applied. Pure and
deterministic: the same problem, the same bytes of answer. Not here: rows and columns (`place_model`), the search (`place_search`).

Nothing is ever infeasible: what cannot be served, or in time, or would not survive a failure, or draws more than the supply, has a
price, and the answer names it with its cure.
"""

from __future__ import annotations

from hanse.dispatch.place_answer import answer_of
from hanse.dispatch.place_model import PlaceModel
from hanse.dispatch.place_problem import problem_from
from hanse.dispatch.place_rows import Rows
from hanse.dispatch.place_search import search
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
    "problem_from",
    "solve",
]
NODES_MAX = 200
"""Of the search tree: an answer every few minutes, whose gap is reported, beats a proof."""


def solve(problem: PlaceProblem, limits: Limits | None = None) -> PlaceAnswer:
    """The placement of a problem, with its proven gap."""
    model = PlaceModel(Rows(problem))
    return answer_of(model, search(model, limits or Limits(nodes_max=NODES_MAX)))

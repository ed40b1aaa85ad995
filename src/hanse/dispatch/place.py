"""Placement: which variant of which service runs where, with how many replicas, on which nodes, over the next window.

Here: `solve`, and the names that others use. The problem (`PlaceProblem`) comes of what a dispatcher believes and of an outlook
(`problem_from`); solving is done by a shell, outside of `Dispatcher.handle`; `check` judges an answer before it is applied. Pure and
deterministic: the same problem, the same bytes of answer. Not here: rows and columns (`place_model`), the search (`place_search`).

Nothing is ever infeasible: what cannot be served, or in time, or would not survive a failure, or draws more than the supply, has a
price, and the answer names it with its cure.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from msgspec.structs import replace

from hanse.dispatch.place_answer import answer_of
from hanse.dispatch.place_check import check
from hanse.dispatch.place_explain import explain
from hanse.dispatch.place_problem import problem_from
from hanse.dispatch.place_solved import NODES_BY_SIZE, as_it_stands, solved
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
    room_chips,
    with_what_runs,
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
    "explain",
    "problem_from",
    "solve",
]

BOUND_ERROR: Final = 1e-6
"""Relative: sums of thousands of terms agree to that."""


def solve(problem: PlaceProblem, limits: Limits | None = None) -> PlaceAnswer:
    """The placement of a problem, with its proven gap; what runs now, where that is within the gap.

    Of placements that are equally good as far as is proven the one that moves nothing is the best: a move takes a replica away for as long
    as it loads, and the price of that knows nothing of the requests that come meanwhile.
    """
    limits = limits or Limits(nodes_max=NODES_BY_SIZE)
    digest, problem = problem.digest(), with_what_runs(problem)
    answer = replace(solved(problem, limits), problem=digest)
    moves = any(one.starts or one.stops for one in answer.replicas)
    if moves and _can_stay(problem):
        # What runs now, none more and none less.
        now = np.array([offer.replicas for offer in problem.offers], float)
        stays, found = as_it_stands(problem, limits, now)
        cost = stays.cost()
        over_usd = cost.usd - answer.bound_usd
        # Not of all costs: where much cannot be served a hundredth of its price is half of what power costs.
        near = over_usd <= limits.gap * cost.own_usd or cost.usd <= answer.cost.usd
        # Below the bound one of the two is wrong, and nothing is proven: then the search's own answer stands.
        if over_usd >= -BOUND_ERROR * max(cost.own_usd, 1e-12) and near:
            return replace(
                answer_of(stays, found),
                problem=digest,
                bound_usd=answer.bound_usd,
                gap=max(0.0, over_usd) / max(cost.usd, 1e-12),
                stopped_by=answer.stopped_by,
                nodes=answer.nodes,
                clusters=answer.clusters,
            )
    return answer


def _can_stay(problem: PlaceProblem) -> bool:
    """Whether what runs now may all go on: its sites host it, and it fits."""
    chips = [0] * len(problem.pools)
    memory_gb = [0.0] * len(problem.pools)
    engines = [0] * len(problem.sites)
    for offer in problem.offers:
        pool = problem.pools[offer.pool]
        if offer.replicas and not problem.sites[pool.site].hosts:
            return False
        chips[offer.pool] += room_chips(pool, offer.chips) * offer.replicas
        memory_gb[offer.pool] += offer.memory_gb * offer.replicas
        engines[pool.site] += offer.replicas
    return all(
        chips[i] <= pool.chips_count
        and (pool.memory_gb <= 0.0 or memory_gb[i] <= pool.memory_gb * pool.chips_count)
        for i, pool in enumerate(problem.pools)
    ) and all(engines[i] <= site.engines_max for i, site in enumerate(problem.sites))

"""What each site of a design is worth, in words: the cost of doing without it, and what would come in its place.

Here: `regrets`. Not here: the searches (`candidates.next_best`).
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from hanse.plan.candidates import next_best
from hanse.plan.siting_problem import Siting, SitingAnswer

SITES_MAX: Final = 20
"""A search of at most 50 nodes each, seconds in a continent of places."""
DEAREST: Final = 8
"""Of designs with more sites: those that cost most are asked, which take a few minutes' searches at most; of the others one more or less is seldom a decision."""
LAST_RESORT_PCT: Final = 1000.0
"""Dearer than ten times the plan: not money, but the price of what is not done."""
NAMES_MAX: Final = 2
UNASKED: Final = "not asked"


def regrets(problem: Siting, answer: SitingAnswer) -> tuple[str, ...]:
    """[site that is built]; of more than `SITES_MAX` only the `DEAREST` are asked, and the others say so.

    The loss found is an upper limit, since the search without the site is a short one; the lower limit is proven. Yearly cost as the search sees
    it: demand of the last year, figures at their most likely values.
    """
    if not answer.sites:
        return ()
    chosen = np.flatnonzero(answer.size[-1] >= 0)
    asked = chosen
    if len(chosen) > SITES_MAX:
        dearest = np.argsort(-site_usd(problem, answer)[chosen], kind="stable")[:DEAREST]
        asked = np.sort(chosen[dearest])
    unasked = f"{UNASKED}: only of the {DEAREST} of {len(chosen)} sites that cost most"
    said = dict.fromkeys((int(s) for s in chosen), unasked)
    for site, other in zip(asked, next_best(problem, answer, sites=asked), strict=True):
        more = 100.0 * other.usd_more / max(answer.usd, 1e-9)
        least = 100.0 * other.usd_more_min / max(answer.usd, 1e-9)
        said[int(site)] = _words(more, least, _instead(other.instead))
    return tuple(said.values())


def site_usd(problem: Siting, answer: SitingAnswer) -> NDArray[np.float64]:
    """[site] what stands and what is used of it, in the last year; 0 where nothing is built."""
    years, sites = answer.size.shape
    n = len(problem.demand_ids)
    size = answer.size[-1]
    fixed = np.broadcast_to(problem.fixed_usd, (years, sites, len(problem.size_ids)))[-1]
    unit = np.broadcast_to(problem.unit_usd, (years, n, sites))[-1]
    built = np.where(size >= 0, fixed[np.arange(sites), np.maximum(size, 0)], 0.0)
    use = problem.demand[-1][:, None] * answer.shares[-1]
    return np.asarray(built + (use * np.where(use > 0.0, unit, 0.0)).sum(axis=0))


def _words(more_pct: float, least_pct: float, instead: str) -> str:
    if more_pct > LAST_RESORT_PCT:
        return "cannot be left out: no room elsewhere for its work, or for it after a failure"
    if more_pct <= 0.0:
        return f"not dearer without it: {instead}"
    proven = f", {least_pct:.1f} % at least" if least_pct >= 0.05 else ""
    return f"{more_pct:.1f} % dearer at most{proven}: {instead}"


def _instead(sites: tuple[str, ...]) -> str:
    if not sites:
        return "the other sites do its work"
    more = len(sites) - NAMES_MAX
    return f"{', '.join(sites[:NAMES_MAX])}{f' and {more} more' if more > 0 else ''} instead"

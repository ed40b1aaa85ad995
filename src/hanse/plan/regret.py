"""What each site of a design is worth, in words: the cost of doing without it, and what would come in its place.

Here: `regrets`. Not here: the searches (`candidates.next_best`).
"""

from __future__ import annotations

from typing import Final

from hanse.plan.candidates import next_best
from hanse.plan.siting_problem import Siting, SitingAnswer

SITES_MAX: Final = 20
"""A search of at most 50 nodes each, seconds in a continent of places; of more sites one more or less is seldom a decision."""
LAST_RESORT_PCT: Final = 1000.0
"""Dearer than ten times the plan: not money, but the price of what is not done."""
NAMES_MAX: Final = 2


def regrets(problem: Siting, answer: SitingAnswer) -> tuple[str, ...]:
    """[site that is built]; empty where it was not asked.

    The loss found is an upper limit, since the search without the site is a short one; the lower limit is proven. Yearly cost as the search sees
    it: demand of the last year, figures at their most likely values.
    """
    if not answer.sites:
        return ()
    if len(answer.sites) > SITES_MAX:
        return ("",) * len(answer.sites)
    found = []
    for other in next_best(problem, answer):
        more = 100.0 * other.usd_more / max(answer.usd, 1e-9)
        least = 100.0 * other.usd_more_min / max(answer.usd, 1e-9)
        said = _instead(other.instead)
        if more > LAST_RESORT_PCT:
            found.append(
                "cannot be left out: no room elsewhere for its work, or for it after a failure"
            )
        elif more <= 0.0:
            found.append(f"not dearer without it: {said}")
        else:
            proven = f", {least:.1f} % at least" if least >= 0.05 else ""
            found.append(f"{more:.1f} % dearer at most{proven}: {said}")
    return tuple(found)


def _instead(sites: tuple[str, ...]) -> str:
    if not sites:
        return "the other sites do its work"
    more = len(sites) - NAMES_MAX
    return f"{', '.join(sites[:NAMES_MAX])}{f' and {more} more' if more > 0 else ''} instead"

"""What a siting plan leaves undone, why, and what would cure it, in words.

Here: `violations` of a finished plan. Not here: prices of slacks (`siting_model`), the plan.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hanse.milp import Floats
from hanse.plan.siting_model import forced_usd
from hanse.plan.siting_problem import Siting, Violation
from hanse.plan.siting_survival import shortfalls

NAMES_MAX = 5
"""A list of all sites helps nobody."""


def violations(
    problem: Siting, size: NDArray[np.int64], shares: Floats, unserved: Floats
) -> tuple[Violation, ...]:
    """Everything the plan does not meet: limits that forced sites break, demand left out, failures not survived."""
    found = _limits(problem)
    for year, row in zip(*np.nonzero(unserved * problem.demand > 0.0), strict=True):
        why, cure = _unserved(problem, size[year], shares[year], int(row), int(year))
        amount = float(unserved[year, row] * problem.demand[year, row])
        found.append(
            Violation(
                kind="unserved",
                where=problem.demand_ids[row],
                year=int(year),
                amount=amount,
                why=why,
                cure=cure,
            )
        )
    for year, failure, short, rows in shortfalls(problem, size):
        found.append(_uncovered(problem, year, failure, short, rows))
    return tuple(found)


def _limits(problem: Siting) -> list[Violation]:
    found = []
    forced = ", ".join(problem.forced)
    if problem.sites_max is not None and len(problem.forced) > problem.sites_max:
        found.append(
            Violation(
                kind="sites_max",
                where=forced,
                year=0,
                amount=float(len(problem.forced) - problem.sites_max),
                why="more sites are forced than are allowed",
                cure=f"force fewer, or raise sites_max to {len(problem.forced)}",
            )
        )
    if problem.budget_usd is not None:
        for year, usd in enumerate(forced_usd(problem)):
            if usd > problem.budget_usd * (1.0 + 1e-9):
                found.append(
                    Violation(
                        kind="budget",
                        where=forced,
                        year=year,
                        amount=float(usd - problem.budget_usd),
                        why="forced sites alone cost more than the budget",
                        cure=f"force fewer, or raise budget_usd to {usd:,.0f}",
                    )
                )
    return found


def _unserved(
    problem: Siting, size: NDArray[np.int64], shares: Floats, row: int, year: int
) -> tuple[str, str]:
    allowed = problem.sizes_allowed.any(axis=1)
    lawful = problem.eligible[row]
    usable = lawful & allowed
    if not usable.any():
        counts = {
            reason: int(((problem.refusal[row] == code) & allowed).sum())
            for code, reason in enumerate(problem.reasons)
            if code > 0
        }
        told = ", ".join(f"{count} by {reason}" for reason, count in counts.items() if count)
        if lawful.any():
            return "sizes", f"allow a size at {_names(problem, lawful)}"
        fewest = min((c, r) for r, c in counts.items() if c) if told else (0, "")
        cure = "name candidate sites that may serve it"
        if told:
            cure += f", or lift {fewest[1]} at {_names(problem, _refused(problem, row, fewest[1]))}"
        return f"no site may serve it: {told or 'no candidate is allowed'}", cure
    largest = np.where(problem.sizes_allowed, problem.capacity, 0.0).max(axis=1)
    load = problem.demand[year] @ shares
    if (load[usable] >= largest[usable] * (1.0 - 1e-6)).all():
        return "room: every site that may serve it is full at its largest size", (
            f"allow larger sizes at {_names(problem, usable)}, or name more candidates near it"
        )
    if _binds(problem, size, year):
        return "limits: budget_usd or sites_max is used up", (
            f"raise it by a site at one of {_names(problem, usable & (size < 0))}"
        )
    return "price: what is left costs less unserved than another site", (
        f"raise unserved_usd to have {_names(problem, usable)} built or enlarged for it"
    )


def _refused(problem: Siting, row: int, reason: str) -> NDArray[np.bool_]:
    allowed = problem.sizes_allowed.any(axis=1)
    return np.asarray((problem.refusal[row] == problem.reasons.index(reason)) & allowed)


def _binds(problem: Siting, size: NDArray[np.int64], year: int) -> bool:
    built = size >= 0
    fixed = np.broadcast_to(problem.fixed_usd, (len(problem.demand), *problem.sizes_allowed.shape))[
        year
    ]
    spent = float(fixed[built, size[built]].sum())
    next_usd = float(
        np.where(problem.sizes_allowed & ~built[:, None], fixed, np.inf).min(initial=np.inf)
    )
    full = problem.sites_max is not None and int(built.sum()) >= problem.sites_max
    grown = np.where(
        problem.sizes_allowed & (np.arange(fixed.shape[1]) > size[:, None]), fixed, np.inf
    )
    dearer = grown - np.where(built, fixed[np.arange(len(size)), np.maximum(size, 0)], 0.0)[:, None]
    step_usd = min(next_usd, float(dearer.min(initial=np.inf)))
    return full or (problem.budget_usd is not None and spent + step_usd > problem.budget_usd)


def _uncovered(
    problem: Siting, year: int, failure: int, short: float, rows: list[int]
) -> Violation:
    gone = [problem.site_ids[j] for j in problem.failure_sets[failure]]
    usable = np.asarray(problem.eligible[rows].any(axis=0) & problem.sizes_allowed.any(axis=1))
    usable[list(problem.failure_sets[failure])] = False
    whose = ", ".join(problem.demand_ids[i] for i in rows[:NAMES_MAX])
    more = f" and {len(rows) - NAMES_MAX} more" if len(rows) > NAMES_MAX else ""
    cure = f"allow {short:g} units more at {_names(problem, usable)}"
    if not usable.any():
        cure = "name candidate sites outside this failure that may serve it"
    return Violation(
        kind="uncovered",
        where=" + ".join(gone),
        year=year,
        amount=short,
        why=f"if it fails, demand of {whose}{more} finds no room elsewhere",
        cure=cure,
    )


def _names(problem: Siting, which: NDArray[np.bool_]) -> str:
    index = np.flatnonzero(which)
    told = ", ".join(problem.site_ids[i] for i in index[:NAMES_MAX])
    return told + (f" or {len(index) - NAMES_MAX} more" if len(index) > NAMES_MAX else "")

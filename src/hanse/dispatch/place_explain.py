"""Why a service has what it has at a site: what the next best placement without that would cost.

Here: `explain`, by solving once more under one restriction; `changes`, two placements' difference in words. Not here: the search (`place`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from msgspec.structs import replace

from hanse.dispatch.place_rows import Rows
from hanse.dispatch.place_solved import NODES_BY_SIZE, bound_with_any, solved
from hanse.dispatch.place_values import (
    Explanation,
    PlaceAnswer,
    PlaceOffer,
    PlaceProblem,
    with_what_runs,
)
from hanse.errors import ConfigError
from hanse.milp import Limits
from hanse.model.fleet import Placement
from hanse.units import hours_from_s

TRIED_MAX = 3
"""Ways to put a replica where none is, fewest chips first: more chips of the same are seldom the cheaper start."""


def explain(
    problem: PlaceProblem,
    answer: PlaceAnswer,
    service: str,
    site: str,
    limits: Limits | None = None,
) -> Explanation:
    """The next best to what an answer has of a service at a site: none where it has some, one where it has none.

    Costs one more search, or up to three.

    Raises:
        ConfigError: the problem has no such service or site.
    """
    limits = limits or Limits(nodes_max=NODES_BY_SIZE)
    full = with_what_runs(problem)
    here = _offers_at(full, service, site)
    counts = {one.offer: one.replicas for one in answer.replicas}
    placed = sum(counts.get(i, 0) for i in here)
    if any(full.offers[i].fixed and full.offers[i].replicas for i in here):
        why = "it runs by itself (driver `external`), its site can be told nothing, or some of it does not start: what is up is counted on, none is moved"
        return _said(service, site, placed, why, "nothing else", 0.0, 0.0)
    able = _able(full, here)
    if not placed and not able:
        why = _why_not(full, here, service, site)
        return _said(service, site, 0, why, "nothing: it cannot stand there", math.inf, math.inf)
    if placed:
        found = [(solved(_without(full, here), limits), 0.0)]
        least = found[0][0].bound_usd
    else:
        found = [
            (solved(_with_one(full, i), limits), _start_usd(full, full.offers[i]))
            for i in sorted(able, key=lambda i: full.offers[i].chips)[:TRIED_MAX]
        ]
        least = bound_with_any(full, able)
    other, start_usd = min(found, key=lambda pair: pair[0].cost.usd + pair[1])
    usd_more = other.cost.usd + start_usd - answer.cost.usd
    items = {
        name: getattr(other.cost, name) - getattr(answer.cost, name)
        for name in answer.cost.__struct_fields__
    }
    items["switching_usd"] += start_usd
    item, worth = max(items.items(), key=lambda pair: pair[1])
    why = f"else {item.removesuffix('_usd')} would cost {worth:.4g} USD/h more"
    instead = changes(answer.placements, other.placements) or "the same elsewhere"
    # Below the answer nothing is proven but the gap.
    least_more = max(0.0, least - answer.cost.usd)
    return _said(service, site, placed, why, instead, usd_more, least_more)


def _said(
    service: str, site: str, replicas: int, why: str, instead: str, more: float, least: float
) -> Explanation:
    return Explanation(
        service=service,
        site=site,
        replicas=replicas,
        why=why,
        instead=instead,
        usd_more=more,
        usd_more_min=least,
        method="solved once more without it" if replicas else "solved once more with one there",
    )


def _offers_at(problem: PlaceProblem, service: str, site: str) -> list[int]:
    services = [q.id for q in problem.services]
    sites = [s.id for s in problem.sites]
    for what, name, known in (("service", service, services), ("site", site, sites)):
        if name not in known:
            raise ConfigError(what, got=repr(name), allowed=", ".join(known))
    return [
        i
        for i, offer in enumerate(problem.offers)
        if services[offer.service] == service and sites[problem.pools[offer.pool].site] == site
    ]


def _able(problem: PlaceProblem, offers: Sequence[int]) -> list[int]:
    """Of some offers at one site those of which one replica fits beside what nobody can move."""
    could = Rows(problem).offer_could
    taken: dict[int, int] = {}
    watched = 0
    site = problem.pools[problem.offers[offers[0]].pool].site if offers else -1
    for o in problem.offers:
        if o.fixed and problem.pools[o.pool].site == site:
            taken[o.pool] = taken.get(o.pool, 0) + o.replicas * o.chips
            watched += o.replicas
    return [
        i
        for i in offers
        if could[i] >= 1.0
        and not problem.offers[i].fixed
        and taken.get(problem.offers[i].pool, 0) + problem.offers[i].chips
        <= problem.pools[problem.offers[i].pool].chips_count
        and watched < problem.sites[site].engines_max
    ]


def _why_not(problem: PlaceProblem, offers: Sequence[int], service: str, site: str) -> str:
    if not next(s.hosts for s in problem.sites if s.id == site):
        return "the site is lost or drained: nothing may run there"
    if len(offers) and (Rows(problem).offer_could[list(offers)] >= 1.0).any():
        return "what runs there by itself leaves it no room"
    if not any(problem.services[d.service].id == service for d in problem.demand):
        return "nobody asks for it: nothing of it is begun"
    return "no pool there holds a replica that keeps the service's promise"


def _without(problem: PlaceProblem, offers: Sequence[int]) -> PlaceProblem:
    """None of some offers; what runs of them now is stopped, which costs nothing."""
    gone = set(offers)
    return replace(
        problem,
        offers=tuple(
            replace(offer, fixed=True, replicas=0) if i in gone else offer
            for i, offer in enumerate(problem.offers)
        ),
    )


def _with_one(problem: PlaceProblem, index: int) -> PlaceProblem:
    """One replica of an offer, whatever for."""
    offers = list(problem.offers)
    offers[index] = replace(offers[index], fixed=True, replicas=1)
    return replace(problem, offers=tuple(offers))


def _start_usd(problem: PlaceProblem, offer: PlaceOffer) -> float:
    """An hour of what starting it costs: a replica that counts as fixed starts for nothing."""
    return offer.start_usd / hours_from_s(problem.window_s) if not offer.replicas else 0.0


def changes(before: Sequence[Placement], after: Sequence[Placement]) -> str:
    """Replicas that come and go, for people; empty: none."""
    counts: dict[tuple[str, str, str], int] = {}
    for sign, placements in ((-1, before), (1, after)):
        for p in placements:
            key = p.site, p.service, p.variant
            counts[key] = counts.get(key, 0) + sign * p.replicas
    return ", ".join(
        f"{number:+d} {service}/{variant} at {site}"
        for (site, service, variant), number in sorted(counts.items())
        if number
    )

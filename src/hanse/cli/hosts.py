"""Where a fleet could run its services where the controller places: by what the pools hold.

Here: `could_run`, one replica a service and site; `misfits`, warnings of what fits nowhere, or not where it is placed. Not here: what is worth its energy
or keeps the SLO (`dispatch.place`).
"""

from __future__ import annotations

from typing import Final

from hanse.dispatch.place_offers import COUNTS, NODE_CHIPS
from hanse.dispatch.place_problem import USUAL
from hanse.model.fleet import Fleet, Placement, Pool, Service, Site
from hanse.model.problem import Problem
from hanse.model.workloads import any_chips
from hanse.serving.within_slo import rated_at

FIX: Final = "name a variant of a smaller model or precision, or a pool with more memory"


def could_run(fleet: Fleet) -> tuple[Placement, ...]:
    """One replica of every variant at every site where its weights and a usual request fit, and what the file places at engines that nobody
    can start (`external`): what the controller may choose among.
    """
    started = {(s.id, p.id) for s in fleet.sites for p in s.pools if p.driver != "external"}
    given = [p for p in fleet.placements if (p.site, p.pool) not in started]
    return (*given, *(p for site in fleet.sites for q in fleet.services for p in _at(site, q)))


def misfits(fleet: Fleet) -> list[Problem]:
    """Placements whose weights and one usual request do not fit in their pool; where the controller places, services that fit in none."""
    started = {(s.id, p.id): p for s in fleet.sites for p in s.pools if p.driver != "external"}
    if fleet.slow_loop.places:
        return _homeless(fleet, list(started.values()))
    models = {(q.id, v.id): v for q in fleet.services for v in q.variants}
    found = []
    for i, placed in enumerate(fleet.placements):
        pool = started.get((placed.site, placed.pool))
        variant = models.get((placed.service, placed.variant))
        if pool is None or variant is None:
            continue
        chips = placed.chips or pool.count
        if not _fits(variant.model, variant.precision, pool, chips):
            found.append(
                Problem(
                    where=f"placement[{i}]",
                    got=f"{variant.model} in {variant.precision} on {chips} x {pool.accelerator}, which cannot hold it",
                    allowed="a variant that fits",
                    fix=FIX,
                )
            )
    return found


def _homeless(fleet: Fleet, pools: list[Pool]) -> list[Problem]:
    most = sorted({f"{min(p.count, NODE_CHIPS)} x {p.accelerator}" for p in pools})
    housed = {p.service for p in could_run(fleet)} if pools else {q.id for q in fleet.services}
    return [
        Problem(
            where=f"service[{q}]",
            got=f"{service.id!r}, which no pool can hold: a replica has {' or '.join(most)} at most",
            allowed="a variant that fits",
            fix=FIX,
        )
        for q, service in enumerate(fleet.services)
        if service.id not in housed
    ]


def _at(site: Site, service: Service) -> list[Placement]:
    found = []
    for variant in service.variants:
        for pool in site.pools:
            chips = _chips(pool, variant.model, variant.precision)
            if chips:
                found.append(
                    Placement(
                        service=service.id,
                        variant=variant.id,
                        site=site.id,
                        pool=pool.id,
                        slots=1,
                        chips=chips,
                    )
                )
                break
    return found


def _chips(pool: Pool, model: str, precision: str) -> int:
    """The fewest that hold it; 0: no number does."""
    if pool.driver == "external":
        return 0
    counts = [c for c in COUNTS if c <= min(pool.count, NODE_CHIPS)]
    if pool.kubernetes is not None and not any_chips(pool.kubernetes):
        counts = [pool.kubernetes.chips]
    return next((c for c in counts if _fits(model, precision, pool, c)), 0)


def _fits(model: str, precision: str, pool: Pool, chips: int) -> bool:
    return rated_at(model, precision, pool.accelerator, chips, *USUAL, 1) is not None

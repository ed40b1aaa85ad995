"""The one big site that a fleet names in `[central]`, as a fleet of its own: what many small sites have to beat.

Here: `central_fleet`. Not here: the live shadow of it, which predicts and never runs (`dispatch.build`); both follow the same rule.

It holds as many replicas of each service's best variant as the whole fleet places of that service (or as `[central]` says), on its own
hardware, each with as many chips as one has there today. Users everywhere enter at it; there is no other site to help, and no
way between sites to pay for. What law closes to it stays unanswered.
"""

from __future__ import annotations

from msgspec.structs import replace

from hanse.dispatch.belief import engines_of
from hanse.errors import ConfigError
from hanse.model.fleet import Fleet, Placement, Pool, Service, Site


def central_fleet(fleet: Fleet) -> Fleet:
    """The counterpart of a fleet.

    Raises:
        ConfigError: the fleet names no central site, or that has no hardware.
    """
    site = next((s for s in fleet.sites if fleet.central and s.id == fleet.central.site), None)
    if site is None or not site.pools:
        raise ConfigError(
            "fleet, [central]",
            got="no such site" if site is None else f"{site.id} without a pool",
            allowed="a site with hardware that could serve everybody",
            fix='add `[central]` with `site = "..."` to the fleet file',
        )
    pools, placements = [], []
    for number, service in enumerate(fleet.services):
        made = _replicas(fleet, site, service, number)
        if made is not None:
            pools.append(made[0])
            placements.append(made[1])
    return replace(
        fleet,
        name=f"{fleet.name[:55]}-central",
        sites=(replace(site, pools=tuple(pools)),),
        links=(),
        placements=tuple(placements),
    )


def _replicas(
    fleet: Fleet, site: Site, service: Service, number: int
) -> tuple[Pool, Placement] | None:
    """Hardware and placement of one service; None where it is placed nowhere."""
    placed = [p for p in fleet.placements if p.service == service.id]
    if not placed:
        return None
    here = next((p for p in placed if p.site == site.id), None)
    pool = next(p for p in site.pools if here is None or p.id == here.pool)
    of_pool = [s for s in engines_of(fleet, fleet.placements, site.id) if s.pool == pool.id]
    chips = of_pool[0].chips if of_pool else pool.count
    declared = fleet.central.replicas if fleet.central else None
    replicas = sum(p.replicas for p in placed) if declared is None else declared
    model = here or placed[0]
    best = max(service.variants, key=lambda v: v.quality)
    bigger = replace(pool, id=f"{pool.id[:55]}-{number}", count=chips * replicas)
    return bigger, replace(model, variant=best.id, site=site.id, pool=bigger.id, replicas=replicas)

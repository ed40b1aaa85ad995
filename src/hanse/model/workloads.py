"""Which services and variants of a fleet would run as one workload of Kubernetes.

Here: `shared_workloads`, `odd_chips`, `workload_name`. Not here: the problem that it is (`model.check`), refusing it at a site (`dispatch.rolling`).
"""

from __future__ import annotations

from collections.abc import Iterator

from hanse.model.fleet import Fleet, Kubernetes


def shared_workloads(fleet: Fleet) -> Iterator[tuple[str, str, str]]:
    """(path of the pool's name, workload, who shares it) for each that more than one variant would be.

    What may come to a pool is what is placed there; everything, where the controller places.
    """
    everything = [(q.id, v.id) for q in fleet.services for v in q.variants]
    for s, site in enumerate(fleet.sites):
        for p, pool in enumerate(site.pools):
            if pool.kubernetes is None:
                continue
            here = [
                (o.service, o.variant)
                for o in fleet.placements
                if (o.site, o.pool) == (site.id, pool.id)
            ]
            sharing: dict[str, list[str]] = {}
            for one in dict.fromkeys(here + everything if fleet.slow_loop.places else here):
                sharing.setdefault(workload_name(pool.kubernetes, *one), []).append("/".join(one))
            for name, who in sharing.items():
                if len(who) > 1:
                    yield f"site[{s}].pool[{p}].kubernetes.name", name, ", ".join(who)


def odd_chips(fleet: Fleet) -> Iterator[tuple[str, int, str, int]]:
    """(path, chips placed, workload, chips of its replicas) of placements that no replica of their workload is."""
    pools = {(s.id, p.id): p.kubernetes for s in fleet.sites for p in s.pools}
    for i, placed in enumerate(fleet.placements):
        known = pools.get((placed.site, placed.pool))
        if known is None or any_chips(known) or placed.chips in (None, known.chips):
            continue
        yield f"placement[{i}].chips", placed.chips, known.name, known.chips


def workload_name(known: Kubernetes, service: str, variant: str, chips: int = 0) -> str:
    """As `str.format` fills it in, but of any text; without `chips` what workloads of any number have in common."""
    name = known.name.replace("{service}", service).replace("{variant}", variant)
    return name.replace("{chips}", str(chips or "N"))


def any_chips(known: Kubernetes) -> bool:
    """Whether there is a workload for each number of chips."""
    return "{chips}" in known.name

"""What of a fleet file a running league cannot follow: parts that a process reads once, when it starts.

Here: `restart_problems`. Everything else of a file takes effect while requests flow. Not here: wrong files (`model.check`), carrying a
change out (`live.controller`, `live.agent`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any, Final

import msgspec

from hanse.errors import ConfigError
from hanse.live.facility.listener import own_bus
from hanse.model.fleet import Facility, Fleet, Site

LISTENER: Final = ("driver", "user", "secret_env", "secret_file", "listen", "identifier")
"""Of a facility that speaks through the site's own bus: what stands in that bus's configuration, which NATS reads once for MQTT."""


def restart_problems(
    old: Fleet, new: Fleet, *, runs: Collection[str], emulated: bool
) -> list[ConfigError]:
    """Every part of a new fleet that needs something to be started anew; empty: all of it can change live.

    Args:
        old: In force.
        new: Wanted.
        runs: Sites that run, or may: on the hub's machine, or with a certificate that counts.
        emulated: Links are emulated by processes of `hanse up`.
    """
    return list(_problems(old, new, runs, emulated))


def _problems(
    old: Fleet, new: Fleet, runs: Collection[str], emulated: bool
) -> Iterator[ConfigError]:
    if new.name != old.name:
        yield _fixed("name", new.name, old.name, "start another league with `hanse up FILE`")
    yield from _fields(
        "hub", old.hub, new.hub, "end the hub, then start it with this file: `hanse hub FILE`"
    )
    yield from _sites(old, new, runs)
    if emulated:
        yield from _links(old, new)
    yield from _batch(old, new)


def _fixed(where: str, got: Any, allowed: Any, fix: str) -> ConfigError:
    allowed = f"{allowed!r} while it runs"
    return ConfigError(where, got=repr(got), allowed=allowed, fix=fix)


def _fields(where: str, old: Any, new: Any, fix: str) -> Iterator[ConfigError]:
    for name in old.__struct_fields__:
        before, after = getattr(old, name), getattr(new, name)
        if before != after:
            yield _fixed(f"{where}.{name}", after, before, fix)


def _sites(old: Fleet, new: Fleet, runs: Collection[str]) -> Iterator[ConfigError]:
    before = {site.id: site for site in old.sites}
    for index, site in enumerate(new.sites):
        known, where = before.get(site.id), f"site[{index}]"
        if known is None and site.id not in runs:
            yield ConfigError(
                where,
                got=f"{site.id!r}, which nobody runs",
                allowed="sites that run already",
                fix=f"let it join: `hanse token {site.id}` here, `hanse join` there "
                "(with emulated links: end `hanse up` and start it with this file)",
            )
        if known is not None:
            yield from _site(where, known, site)
            yield from _own_bus(old, new, site.id)


def _site(where: str, old: Site, new: Site) -> Iterator[ConfigError]:
    again = f"end site {new.id} and start it with this file, or let it join again with a new token"
    yield from _fields(f"{where}.gateway", old.gateway, new.gateway, again)
    pools = {pool.id: pool for pool in old.pools}
    for at, pool in enumerate(new.pools):
        known = pools.get(pool.id)
        if known is not None and known.kubernetes and pool.kubernetes:
            yield from _fields(
                f"{where}.pool[{at}].kubernetes",
                known.kubernetes,
                pool.kubernetes,
                "give the pool another id: its engines then move while requests flow",
            )


def _own_bus(old: Fleet, new: Fleet, site: str) -> Iterator[ConfigError]:
    def listeners(fleet: Fleet) -> dict[str, Facility]:
        return {facility.id: facility for facility in own_bus(fleet, site)}

    before, after = listeners(old), listeners(new)
    fix = f"end site {site} and start it with this file"
    for id in sorted(before.keys() | after.keys()):
        a, b = before.get(id), after.get(id)
        if a is None or b is None:
            got = "a listener that is not there" if a is None else "none of its listener"
            yield ConfigError(
                f"facility {id}", got=got, allowed="the listeners that the site's bus has", fix=fix
            )
            continue
        for name in LISTENER:
            if getattr(a, name) != getattr(b, name):
                yield _fixed(f"facility {id}.{name}", getattr(b, name), getattr(a, name), fix)


def _links(old: Fleet, new: Fleet) -> Iterator[ConfigError]:
    stay = {site.id for site in old.sites} & {site.id for site in new.sites}

    def ways(fleet: Fleet) -> dict[tuple[str, str], tuple[float, float]]:
        return {
            (min(link.a, link.b), max(link.a, link.b)): (link.rtt_ms, link.mbit_s)
            for link in fleet.links
            if {link.a, link.b} <= stay
        }

    before, after = ways(old), ways(new)
    for pair in sorted(before.keys() | after.keys()):
        if before.get(pair) != after.get(pair):
            yield ConfigError(
                f"link {pair[0]} {pair[1]}",
                got=_way(after.get(pair)),
                allowed=f"{_way(before.get(pair))}: the emulator of links reads them once",
                fix="end `hanse up` and start it with this file, or change the link with `hanse play`",
            )


def _way(one: tuple[float, float] | None) -> str:
    return "none" if one is None else f"{one[0]:g} ms, {one[1]:g} Mbit/s"


def _batch(old: Fleet, new: Fleet) -> Iterator[ConfigError]:
    """What gateways take of a file is decided before the batch process sees it."""
    name = "file_bytes_max"
    if getattr(old.batch, name) != getattr(new.batch, name):
        fix = "end the sites and start them with this file, one after the other"
        yield _fixed(f"batch.{name}", getattr(new.batch, name), getattr(old.batch, name), fix)


def without_joins(old: Fleet, new: Fleet, site: str) -> tuple[Fleet, Fleet]:
    """Both fleets without a site that comes (again) by itself, and so brings its own new addresses."""

    def others(fleet: Fleet) -> Fleet:
        sites = tuple(one for one in fleet.sites if one.id != site)
        return msgspec.structs.replace(fleet, sites=sites)

    return others(old), others(new)

"""Several hubs of one league: which there are, how they reach each other, what a majority of them has.

Here: answers from the fleet in force, and what hubs tell each other (`HubBeat`). Not here: the first hub's alone (`live.join.door`: the
authority's key), becoming one (`live.join.hub`), their buses (`live.bus`, `live.hub_bus`), who leads (`live.lease`).

A league has one hub, or three that decide while any two of them hear each other. With two, either's loss would stop the league, which is
worse than one: so a second hub waits, and takes part from the moment the third is there.
"""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Final

import msgspec

from hanse.live.runtime import HUB, HubAddress
from hanse.model.fleet import Fleet, Id, Value

TOGETHER: Final = 3
BEAT_S: Final = 2.0
SILENT_S: Final = 7.0
"""Three missed beats."""


class Cluster(Value, frozen=True, kw_only=True):
    """How one hub's bus is one with the others'."""

    port: int
    """Where it listens for them."""
    routes: tuple[str, ...]
    """`host:port` of each of them."""


class HubBeat(Value, frozen=True, kw_only=True, forbid_unknown_fields=False):
    """What a hub tells the others every two seconds, `hanse.hub.beat.<id>`."""

    hub: Id
    leads: bool = False
    epoch: int = 0
    release: str = ""
    revision: int = 0
    """Of the fleet in force, as it knows it."""
    held: dict[Id, int] = {}
    """Bytes of each site's seal log that it has on its own disk."""


def together(fleet: Fleet) -> bool:
    """Whether three hubs decide."""
    return len(fleet.hub.others) + 1 >= TOGETHER


def hub_ids(fleet: Fleet) -> tuple[str, ...]:
    """All that decide, the first one first."""
    return (HUB, *(other.id for other in fleet.hub.others)) if together(fleet) else (HUB,)


def cluster_of(fleet: Fleet, own: str) -> Cluster | None:
    """The others as one hub's bus dials them; None: it is alone, or this fleet does not know it."""
    if not together(fleet):
        return None
    ways = {HUB: (fleet.hub.reached_at, fleet.hub.cluster_port)}
    ways |= {other.id: (other.host, other.cluster_port) for other in fleet.hub.others}
    if own not in ways:
        return None
    routes = tuple(_address(*way) for name, way in ways.items() if name != own)
    return Cluster(port=ways[own][1], routes=routes)


def replicas(fleet: Fleet) -> int:
    """Copies of each stream at the hubs."""
    return TOGETHER if together(fleet) else 1


def other_leaves(fleet: Fleet) -> tuple[str, ...]:
    """Where sites reach the further hubs; the first one's address every site has had since it joined."""
    if not together(fleet):
        return ()
    return tuple(_address(other.host, other.leaf_port) for other in fleet.hub.others)


def names_of_hubs(fleet: Fleet, first: HubAddress) -> set[str]:
    """What stands for a hub in a certificate, and so for no site; each as `plain_name` writes it."""
    names = (first.reached_at, first.leaf_host, *(other.host for other in fleet.hub.others))
    return {plain_name(name) for name in names}


def plain_name(host: str) -> str:
    """One way to write a name or an address, whichever of those that mean the same it was written in."""
    name = host.lower().rstrip(".")
    try:
        address = ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return name
    return str(getattr(address, "ipv4_mapped", None) or address)


class Peers:
    """The hubs of the fleet in force as one of them hears the others."""

    def __init__(
        self, own: str, fleet: Callable[[], Fleet], leads: Callable[[], bool] = lambda: True
    ) -> None:
        self.own = own
        self._fleet = fleet
        self._leads = leads
        self._beats: dict[str, tuple[HubBeat, float]] = {}

    @property
    def alone(self) -> bool:
        """Whether one hub decides."""
        return not together(self._fleet())

    @property
    def acts(self) -> bool:
        """Whether this one does what one hub has to do for the league."""
        return self.alone or self._leads()

    def ids(self) -> tuple[str, ...]:
        """Of all hubs, the first one first."""
        return hub_ids(self._fleet())

    def hear(self, data: bytes) -> None:
        """Another hub's word; anything else is none."""
        try:
            beat = msgspec.msgpack.decode(data, type=HubBeat)
        except msgspec.DecodeError:
            return
        if beat.hub != self.own:
            self._beats[beat.hub] = beat, time.monotonic()

    def heard(self) -> dict[str, HubBeat]:
        """Who of the others was heard lately."""
        now_s, ids = time.monotonic(), self.ids()
        return {
            hub: beat
            for hub, (beat, at_s) in self._beats.items()
            if hub in ids and now_s - at_s < SILENT_S
        }

    def held(self, own: Mapping[str, int]) -> dict[str, int]:
        """Bytes of each site's log that most hubs have, also while one of them is away; alone: what this one has."""
        if self.alone:
            return dict(own)
        ids = self.ids()
        told = [beat.held for hub, (beat, _) in self._beats.items() if hub in ids]
        return held_by_most([own, *told], len(ids))


def held_by_most(held: Iterable[Mapping[str, int]], hubs: int) -> dict[str, int]:
    """Bytes of each site's log that more than half of so many hubs have; of one hub: what it has."""
    known = list(held)
    sites = {site for one in known for site in one}
    found = {}
    for site in sites:
        sizes = sorted((one.get(site, 0) for one in known), reverse=True)
        found[site] = sizes[hubs // 2] if len(sizes) > hubs // 2 else 0
    return found


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

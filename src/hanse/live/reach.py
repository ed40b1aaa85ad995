"""Who is reached where: gateways' URLs and hop ports of a fleet, from its file and from what runs on this machine.

Here: the two rules, and the small file in which an agent tells its site's other processes. Not here: ports of processes that this
machine starts (`live.runtime`).

What `runtime.json` says goes first (relays of emulated links, ports that were chosen); for sites on other machines the fleet file
says it, in `[site.gateway]`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec

from hanse.live.runtime import Runtime, client_url, replace_file
from hanse.model.fleet import Fleet, Value
from hanse.model.told import UNREADABLE

REACH: Final = "reach.json"
"""In a site's directory; by rename, by the agent."""


class Reach(Value, frozen=True, kw_only=True):
    """Ways from one site."""

    urls: dict[str, str] = {}
    """Site id -> base URL of its client port."""
    peers: dict[str, str] = {}
    """Site id -> `host:port` to dial for its hop port."""
    maintenance: bool = False
    """Whether clients should go elsewhere: the site's own gateway may end soon."""


def reach_of(fleet: Fleet, runtime: Runtime, site: str) -> Reach:
    """Ways from a site of this machine to all others."""
    own = runtime.sites.get(site)
    return Reach(
        urls=client_urls(fleet, runtime),
        peers=hop_addresses(fleet, without=site) | (own.peers if own is not None else {}),
    )


def client_urls(fleet: Fleet, runtime: Runtime) -> dict[str, str]:
    """Base URL of every gateway that is known, in the order of the fleet."""
    urls = {}
    for site in fleet.sites:
        here = runtime.sites.get(site.id)
        if here is not None:
            urls[site.id] = here.client_url
        elif site.gateway.port:
            urls[site.id] = client_url(site.gateway.reached_at, site.gateway.port)
    return urls


def hop_addresses(fleet: Fleet, *, without: str) -> dict[str, str]:
    """Hop ports that the fleet file names."""
    return {
        site.id: f"{site.gateway.reached_at}:{site.gateway.hop_port}"
        for site in fleet.sites
        if site.gateway.hop_port and site.id != without
    }


def write_reach(home: Path, reach: Reach) -> bool:
    """Tell the site's processes; False where they know."""
    data = msgspec.json.encode(reach)
    path = home / REACH
    if path.exists() and path.read_bytes() == data:
        return False
    replace_file(path, data)
    return True


class ReachFile:
    """The file as its readers follow it."""

    def __init__(self, home: Path) -> None:
        self._path = home / REACH
        self._seen: tuple[int, int] | None = None

    def newer(self) -> Reach | None:
        """What it says where it is another file than before; None else, and where there is none."""
        try:
            stat = self._path.stat()
            seen = stat.st_ino, stat.st_mtime_ns
            if seen == self._seen:
                return None
            found = msgspec.json.decode(self._path.read_bytes(), type=Reach)
        except (*UNREADABLE, OSError):
            return None
        self._seen = seen
        return found

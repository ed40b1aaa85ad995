"""The placement in force: from the controller over the bus, and on a site's disk for a start while cut off.

Here: sending and reading it, the file. Not here: deciding one (`dispatch`), doing it (`live.agent_engines`).
"""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec.structs import replace
from nats.aio.client import Client
from nats.js.errors import NotFoundError

from hanse.dispatch.events import PlacementDecided, event_from_bytes, event_to_bytes
from hanse.live import bus
from hanse.live.runtime import replace_file
from hanse.model.fleet import Placement, Value
from hanse.model.told import UNREADABLE

SEND_S_MAX: Final = 2.0
"""For the stream's acknowledgement; the hub's controller and its bus are one machine."""


async def send_placement(client: Client, content: bytes) -> None:
    """Publish what `SendPlacement` carries; returns when the stream has it on disk."""
    await client.jetstream(timeout=SEND_S_MAX).publish(bus.PLACEMENT_SUBJECT, content)


async def newest_placement(client: Client) -> PlacementDecided | None:
    """The last one in the stream of the connected server; None where there never was any."""
    try:
        newest: Any = await client.jetstream(timeout=SEND_S_MAX).get_last_msg(
            bus.TABLES, bus.PLACEMENT_SUBJECT
        )
    except NotFoundError:
        return None
    return read_placement(bytes(newest.data or b""))


def read_placement(content: bytes) -> PlacementDecided | None:
    """None for anything else than a placement."""
    try:
        event = event_from_bytes(content)
    except UNREADABLE:
        return None
    return event if isinstance(event, PlacementDecided) else None


class _Kept(Value, frozen=True, kw_only=True):
    fleet_sha256: str
    """Of the fleet file it was decided for."""
    decided: bytes


class PlacementFile:
    """`placement` in a site's directory; one writer (the agent)."""

    def __init__(self, home: Path, fleet_file: Path) -> None:
        self._path = home / "placement"
        self._fleet_sha256 = sha256(fleet_file.read_bytes()).hexdigest()

    def follow(self, fleet_text: bytes, goes_on: tuple[Placement, ...] | None) -> None:
        """Another fleet file is in force, for which what is written from now on is; and of what is kept what `goes_on`, if anything does."""
        kept = None if goes_on is None else self.read()
        self._fleet_sha256 = sha256(fleet_text).hexdigest()
        if kept is not None and goes_on is not None:
            self.write(event_to_bytes(replace(kept, placements=goes_on)))

    def read(self) -> PlacementDecided | None:
        """What was in force when the agent ended; None where the operator has changed the fleet file since: that is newer."""
        try:
            kept = msgspec.msgpack.decode(self._path.read_bytes(), type=_Kept)
        except (*UNREADABLE, OSError):
            return None
        return read_placement(kept.decided) if kept.fleet_sha256 == self._fleet_sha256 else None

    def write(self, content: bytes) -> None:
        """Keep it; by rename, so that a reader sees the old one or this."""
        kept = _Kept(fleet_sha256=self._fleet_sha256, decided=content)
        replace_file(self._path, msgspec.msgpack.encode(kept))

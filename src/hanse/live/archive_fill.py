"""Evidence from one hub's copy to another's, where the stream has it no more: a hub that is new, or was away for long.

Here: answering for the own copy, and asking for what the own copy lacks. Not here: what a copy accepts (`live.evidence.shipping`), the
usual way (`live.archive`).

What travels are the same messages that the site once sent, made again of the copy; the receiving end checks them as those.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, Final

import msgspec
from nats.aio.client import Client

from hanse.errors import HanseError
from hanse.live.evidence import ChainShipper, EvidenceCopy
from hanse.live.evidence.seal import SEALS_NAME
from hanse.live.hubs import Peers
from hanse.live.keep_on import end_if_cancelled
from hanse.live.logline import log_line
from hanse.model.fleet import Id, Value

SUBJECT: Final = "hanse.hub.copies"
LOOK_EVERY_S: Final = 5.0
"""What another hub has and this one still lacks at the second look does not come by itself."""
ANSWER_BYTES_MAX: Final = 2 * 1024 * 1024
ANSWER_S_MAX: Final = 20.0
"""That much over a WAN of 2 Mbit/s; and the other hub reads its seal log from the beginning."""


class Lacks(Value, frozen=True, kw_only=True):
    """A question on `hanse.hub.copies.<id>`; the answer is a list of messages, empty at the end."""

    site: Id
    seals_bytes: int
    """What the asker has of the site's seal log."""


async def fill(client: Client, directory: Path, copy: EvidenceCopy, peers: Peers) -> None:
    """Answer others, and catch up with them, until cancelled."""

    async def answer(message: Any) -> None:
        found = await asyncio.to_thread(_found, directory, bytes(message.data))
        await message.respond(msgspec.msgpack.encode(found))

    listening = await client.subscribe(f"{SUBJECT}.{peers.own}", cb=answer)
    try:
        behind: dict[str, int] = {}
        while True:
            end_if_cancelled()
            await asyncio.sleep(LOOK_EVERY_S)
            behind = await _look(client, directory, copy, peers, behind)
    finally:
        await listening.unsubscribe()


async def _look(
    client: Client, directory: Path, copy: EvidenceCopy, peers: Peers, before: dict[str, int]
) -> dict[str, int]:
    """Sites of which this copy is behind and was as far at the look before are filled; returns all that are behind, and how far they are."""
    behind: dict[str, int] = {}
    for hub, beat in peers.heard().items():
        for site, size in beat.held.items():
            own = _size(directory, site)
            if own < size:
                behind[site] = own
                if before.get(site) == own:
                    await _catch_up(client, directory, copy, hub, site)
    return behind


async def _catch_up(
    client: Client, directory: Path, copy: EvidenceCopy, hub: str, site: str
) -> None:
    began = _size(directory, site)
    while True:
        asked = msgspec.msgpack.encode(Lacks(site=site, seals_bytes=_size(directory, site)))
        answer = await client.request(f"{SUBJECT}.{hub}", asked, timeout=ANSWER_S_MAX)
        messages = msgspec.msgpack.decode(answer.data, type=list[bytes])
        stored = [copy.accept(message, site).outcome for message in messages]
        if "stored" not in stored:
            break
    if got := _size(directory, site) - began:
        log_line(f"evidence of {site}: {got} bytes of seals and what they cover from hub {hub}")


def _found(directory: Path, data: bytes) -> list[bytes]:
    try:
        asked = msgspec.msgpack.decode(data, type=Lacks)
        shipper = ChainShipper(directory / asked.site)
        return shipper.messages_after(asked.seals_bytes, ANSWER_BYTES_MAX)
    except (msgspec.DecodeError, HanseError, OSError) as error:
        log_line(f"evidence for another hub: {error}")
        return []


def _size(directory: Path, site: str) -> int:
    path = directory / site / SEALS_NAME
    return path.stat().st_size if path.exists() else 0

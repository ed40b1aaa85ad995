"""A site's records on their way to the hub, and what the hub has of them.

Here: `EvidenceShip`, a duty of the agent. Not here: messages (`live.evidence.shipping`), the receiving end (`live.archive`).

Messages wait in the leaf's own stream, which the hub reads when it can. That stream is bounded in size and age: a cut that is longer
loses what was in it, and nothing but that, for all is still on this disk. The hub tells how much of the seal log it has; where the
stream no longer begins early enough to go on from there, the agent puts the missing messages into it again.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any, Final

import msgspec
from nats.js.errors import NotFoundError

from hanse.live.bus import API_S_MAX, EVIDENCE, EvidencePublisher, site_subject
from hanse.live.evidence import ChainShipper
from hanse.live.evidence.shipping import Message
from hanse.live.keep_on import end_if_cancelled
from hanse.live.logline import log_line
from hanse.model.fleet import Value
from hanse.model.told import UNREADABLE, Count

SHIP_S: Final = 0.5
COMPARE_EVERY_S: Final = 30.0
"""Whether the hub lacks what the stream has lost: after a cut of weeks, half a minute more."""
HEARD_S: Final = 20.0
"""The hub tells every five seconds; older is of before a cut."""


class HubHolds(Value, frozen=True, kw_only=True):
    """What the hub says to a site, `site.<id>.kept`."""

    seals_bytes: Count
    """Of the site's seal log; of every chain it has what those seals cover."""


class EvidenceShip:
    """Ships until cancelled; `hear` takes what the hub says."""

    def __init__(self, home: Path, site: str) -> None:
        self._directory = home / "evidence"
        self._site = site
        self.held_until = 0
        self._heard_at_s = float("-inf")
        self._compared = -1

    def hear(self, data: bytes) -> None:
        """The hub's word; anything else is none."""
        try:
            told = msgspec.msgpack.decode(data, type=HubHolds)
        except UNREADABLE:
            return
        self.held_until, self._heard_at_s = told.seals_bytes, time.monotonic()

    async def run(self, client: Any) -> None:
        """Messages follow one another exactly once; what the leaf already has is not sent again."""
        shipper = ChainShipper(self._directory)
        publisher = EvidencePublisher(client, self._site)
        newest = await publisher.newest()
        if newest is not None:
            shipper.acked(msgspec.msgpack.decode(newest, type=Message).seq)
        compared_at_s = time.monotonic()
        while True:
            for payload in shipper.pending(shipper.acked_seq):
                await publisher.publish(payload)
                shipper.acked(msgspec.msgpack.decode(payload, type=Message).seq)
            if time.monotonic() - compared_at_s >= COMPARE_EVERY_S:
                compared_at_s = time.monotonic()
                await self._compare(client, shipper)
            end_if_cancelled()
            await asyncio.sleep(SHIP_S)

    async def _compare(self, client: Any, shipper: ChainShipper) -> None:
        """Send again what the hub lacks and the stream has no more."""
        before, self._compared = self._compared, self.held_until
        stuck = self.held_until == before and shipper.lacks(self.held_until)
        if not stuck or time.monotonic() - self._heard_at_s > HEARD_S:
            return  # it has all, or comes on by itself
        oldest = await _oldest(client, self._site)
        if oldest is not None and oldest <= shipper.next_after(self.held_until):
            return  # on its way
        if oldest is not None and shipper.rewind(self.held_until):
            log_line(
                f"evidence: the hub lacks what the stream has lost: again from {shipper.acked_seq + 1}"
            )


async def _oldest(client: Any, site: str) -> int | None:
    """Number of the oldest message in the stream; None where there is none."""
    js = client.jetstream(timeout=API_S_MAX)
    state = (await js.stream_info(EVIDENCE)).state
    if not state.messages:
        return None
    try:
        found = await js.get_msg(
            EVIDENCE, state.first_seq, subject=site_subject(site, "evidence"), next=True
        )
    except NotFoundError:
        return None
    return msgspec.msgpack.decode(bytes(found.data or b""), type=Message).seq

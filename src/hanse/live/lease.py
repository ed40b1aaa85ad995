"""Who leads: one key of a NATS bucket whose entry vanishes when it is not renewed.

Here: taking, renewing and giving back the lease, and the epoch that follows from it. Not here: what a
leader does (`live.controller`).

Safety rests on epochs, not on this lease's timing: sites refuse tables and orders of an epoch lower
than the highest they have seen, so a leader that does not know yet that it was replaced does no harm.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from nats.aio.client import Client
from nats.js.errors import KeyNotFoundError, KeyWrongLastSequenceError
from nats.js.kv import KeyValue

from hanse.live import bus
from hanse.live.runtime import replace_file

LEADER_KEY: Final = "leader"
RENEW_EVERY_S: Final = bus.LEASE_S / 4
"""Three tries before it is lost."""
ANSWER_S_MAX: Final = 1.5
"""While hubs elect who keeps the bucket nobody answers: asked again soon, the lease is taken as soon as somebody does. What a late answer
would have said is found out by the next question."""


class Lease:
    """One candidate's hold on the lease."""

    def __init__(self, client: Client, name: str, makes: Callable[[], bool] = lambda: True) -> None:
        """`makes`: whether it makes a bucket that is not there; one of several hubs does not, for there it is to be at all of them."""
        self._makes = makes
        self._client = client
        self._name = name.encode()
        self._revision = 0
        self._renewed_s = float("-inf")
        self.first_revision = 0
        """Revision under which it was taken: higher than that of every earlier leader of this bucket."""

    @property
    def held(self) -> bool:
        """Whether it is certainly ours now, by our own clock."""
        return self._revision > 0 and time.monotonic() - self._renewed_s < bus.LEASE_S

    async def keep(self) -> bool:
        """Take it where it is free, renew it where it is ours; True while it is ours."""
        try:
            store = await bus.lease_bucket(
                self._client, answer_s_max=ANSWER_S_MAX, make=self._makes()
            )
            if self._revision and not await self._renew(store):
                self._revision = 0
            if not self._revision:
                await self._take(store)
        except Exception:  # the hub is away: what we know by our own clock counts
            return self.held
        return self.held

    async def release(self) -> None:
        """Give it back, so that the next leader need not wait for it to vanish."""
        if self._revision:
            with contextlib.suppress(Exception):
                store = await bus.lease_bucket(self._client)
                await store.delete(LEADER_KEY, last=self._revision)
        self._revision = 0

    async def _take(self, store: KeyValue) -> None:
        asked_s = time.monotonic()
        with contextlib.suppress(KeyWrongLastSequenceError):
            self._revision = self.first_revision = await store.create(LEADER_KEY, self._name)
            self._renewed_s = asked_s
            return
        # Somebody has it: we do, where the answer to our last question was lost.
        if (lost := await self._ours(store)) and await self._update(store, lost):
            self.first_revision = self._revision

    async def _renew(self, store: KeyValue) -> bool:
        if await self._update(store, self._revision):
            return True
        lost = await self._ours(store)
        return bool(lost) and await self._update(store, lost)

    async def _update(self, store: KeyValue, revision: int) -> bool:
        asked_s = time.monotonic()
        try:
            self._revision = await store.update(LEADER_KEY, self._name, last=revision)
        except KeyWrongLastSequenceError:
            return False
        self._renewed_s = asked_s
        return True

    async def _ours(self, store: KeyValue) -> int:
        """Revision of the entry where it has our name, which no other candidate has; 0: it has not."""
        with contextlib.suppress(KeyNotFoundError):
            entry = await store.get(LEADER_KEY)
            return int(entry.revision or 0) if entry.value == self._name else 0
        return 0


class EpochFile:
    """The highest epoch a controller in this directory has led under or heard of."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self.epoch = int(path.read_text())
        except (OSError, ValueError):
            self.epoch = 0  # the lease's revision and the sites' own memory stand in

    def see(self, epoch: int) -> None:
        """Keep an epoch if it is the highest."""
        if epoch > self.epoch:
            self.epoch = epoch
            replace_file(self._path, f"{epoch}\n".encode())


def next_epoch(lease_revision: int, epochs_seen: int) -> int:
    """1 + max(lease revision, highest epoch any site has seen)."""
    return 1 + max(lease_revision, epochs_seen)

"""A site's disk in its agent's hands: what is kept how long, and what is given up first when there is no more room.

Here: `SiteRetention`. Not here: the rules (`live.retention`), sealing, shipping.

When the disk is low, in this order, each only as far as it takes: logs of processes; logs of decisions; chains that the hub has,
oldest first. When it is full all the same, requests are refused (503 `no_evidence`): the reserve, a file that was kept for this, is
deleted, and its room is for the ends of requests that have begun, their seals and their way to the hub. Never given up: what the hub
has not got, seals, energy quarters, files of batches. Once there is room again the bus is started anew (`live.retention.wake_bus`).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

from hanse.errors import HanseError
from hanse.live.evidence.chain import Dropped
from hanse.live.evidence.seal import Sealer
from hanse.live.gateway.settings import JOURNAL
from hanse.live.logline import log_line
from hanse.live.retention import (
    BACK,
    BYTES_PER_MB,
    Disk,
    bounds_of,
    chain_files,
    chains_due,
    dropped,
    give_up_inputs,
    give_up_logs,
    level_of,
    look_at,
    tend_inputs,
    tend_logs,
    wake_bus,
)
from hanse.live.shared import DISK_FULL, DISK_LOW, DISK_ROOM
from hanse.live.site_books import Place, SiteBooks, own_places
from hanse.model.fleet import Retention
from hanse.units import BYTES_PER_GB, SECONDS_PER_DAY
from hanse.view import DiskStatus

RESERVE: Final = "reserve"
RESERVE_BYTES: Final = 8 * 1024 * 1024
"""Ends and seals of some 50,000 requests."""
RESERVE_SHARE_MAX: Final = 0.01
"""Of the disk: half of what makes it full."""
TEND_EVERY_S: Final = 300.0
"""Rules of age are of days."""
LOOK_EVERY_S: Final = 1.0
GIVEN_UP_MAX: Final = 8


class SiteRetention:
    """See the module. `look` is called after each seal, from the same task, so that no chain changes hands meanwhile."""

    def __init__(
        self,
        home: Path,
        site: str,
        sealer: Sealer,
        books: SiteBooks,
        *,
        alone: bool,
        look_at_disk: Callable[[Path], Disk] = look_at,
    ) -> None:
        """`alone`: there is no hub, so this is the only copy of its records and is kept as long as the hub's would be."""
        self._home = home
        self._site = site
        self._evidence = home / "evidence"
        self._sealer = sealer
        self._books = books
        self._alone = alone
        self._look_at_disk = look_at_disk
        self.held_until = float("inf") if alone else 0.0
        """Bytes of the seal log that the hub has said to have."""
        self.level = DISK_ROOM
        self._disk = look_at_disk(home)
        self._given_up: list[str] = []
        self._tended_at_s = self._looked_at_s = float("-inf")
        self._to_delete: dict[str, tuple[Place, int]] = {}
        """Chain -> where its deletion is recorded, and how many bytes it will free."""
        for record, place in own_places(self._evidence):
            if isinstance(record, Dropped):
                # Its file may still be there: the crash came between the record and the deletion.
                self._to_delete[record.chain] = place, record.size_bytes
                sealer.forget(record.chain)

    def hear(self, held_until: float) -> None:
        """The hub says how much of the seal log it has; one that came back from an older copy has less than before."""
        if not self._alone:
            self.held_until = held_until

    def look(self, rule: Retention, now_s: float) -> None:
        """Delete what is due and was recorded; then see what else is due, and how full the disk is."""
        if now_s - self._looked_at_s < LOOK_EVERY_S:
            return
        self._looked_at_s = now_s
        self._delete_recorded()
        self._disk = self._look_at_disk(self._home)
        before, self.level = self.level, level_of(self._disk, rule, self.level)
        if self.level != before:
            names = {DISK_ROOM: "has room", DISK_LOW: "is low", DISK_FULL: "is full"}
            free_mb = self._disk.free_bytes / BYTES_PER_MB
            log_line(f"disk {names[self.level]}: {free_mb:.0f} MB free")
        if before >= DISK_FULL > self.level:
            wake_bus(self._home)
        if self.level >= DISK_LOW:
            self._give_up(rule, now_s)
        else:
            self._given_up.clear()
            self._reserve()
        if self.level >= DISK_FULL:
            (self._evidence / RESERVE).unlink(missing_ok=True)
        if now_s - self._tended_at_s >= TEND_EVERY_S:
            self._tended_at_s = now_s
            tend_logs(self._home / "log", rule, now_s)
            tend_inputs(self._home / JOURNAL, rule, now_s)
            self._drop(rule, now_s, 0.0)

    def status(self) -> DiskStatus:
        """For people."""
        names = {DISK_ROOM: "room", DISK_LOW: "low", DISK_FULL: "full"}
        return DiskStatus(
            free_gb=self._disk.free_bytes / BYTES_PER_GB,
            size_gb=self._disk.size_bytes / BYTES_PER_GB,
            level=names[self.level],  # type: ignore[arg-type]
            given_up=tuple(self._given_up),
        )

    # --- giving up, in order

    def _give_up(self, rule: Retention, now_s: float) -> None:
        low, _ = bounds_of(rule, self._disk.size_bytes)
        coming = sum(size for _, size in self._to_delete.values())
        wanted = low * BACK - self._disk.free_bytes - coming
        if wanted <= 0.0:
            return
        steps: tuple[tuple[str, Callable[[float], int]], ...] = (
            ("logs of processes", lambda _: give_up_logs(self._home / "log")),
            ("logs of decisions", lambda _: give_up_inputs(self._home / JOURNAL)),
            ("records that the hub has", lambda lacking: self._drop(rule, now_s, lacking)),
        )
        for what, act in steps:
            freed = act(wanted)
            if freed:
                self._note(f"{what}, {freed / BYTES_PER_MB:.1f} MB")
            wanted -= freed
            if wanted <= 0.0:
                return

    def _note(self, what: str) -> None:
        log_line(f"disk: gave up {what}")
        self._given_up = [*self._given_up, what][-GIVEN_UP_MAX:]

    def _drop(self, rule: Retention, now_s: float, bytes_wanted: float) -> int:
        """Record deletions; they are carried out once the record is under a seal. Bytes that they free."""
        days = rule.hub_days if self._alone else rule.site_days
        gb_max = rule.hub_gb_max if self._alone else rule.site_gb_max
        files = chain_files(self._evidence, self._sealer.sealed(), self.held_until)
        due = chains_due(
            [one for one in files if one.sealed.chain not in self._to_delete],
            kept_s=days * SECONDS_PER_DAY,
            bytes_max=gb_max * BYTES_PER_GB,
            now_s=now_s,
            # At a site without a hub nobody else has them: a full disk takes none.
            bytes_wanted=0.0 if self._alone else bytes_wanted,
        )
        freed = 0
        for one, why in due:
            record = dropped(self._site, one, why, days * SECONDS_PER_DAY, now_s)
            try:
                self._to_delete[record.chain] = self._books.drop(record), record.size_bytes
            except HanseError as error:
                log_line(f"evidence: chain {record.chain} stays: {error}")
                break
            freed += record.size_bytes
            log_line(f"evidence: chain {record.chain} goes by the rule of {why}")
        return freed

    def _delete_recorded(self) -> None:
        """Files whose deletion is under a seal now."""
        for chain, (place, _) in list(self._to_delete.items()):
            if self._sealer.covers(*place):
                self._sealer.forget(chain)
                (self._evidence / f"{chain}.log").unlink(missing_ok=True)
                del self._to_delete[chain]

    # --- the reserve

    def _reserve(self) -> None:
        path = self._evidence / RESERVE
        size = int(min(RESERVE_BYTES, RESERVE_SHARE_MAX * self._disk.size_bytes))
        if path.exists() or size <= 0 or self._disk.free_bytes < 4 * size:
            return
        with contextlib.suppress(OSError):
            fd = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
            try:
                os.posix_fallocate(fd, 0, size)
            finally:
                os.close(fd)

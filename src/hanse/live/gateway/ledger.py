"""Evidence before action: records reach the chain before the bytes they are about reach anyone.

Here: one batch per turn of the event loop. Requests that arrive in the same turn share one system call; each goes on only when
its record is in the kernel's hands. Not here: the records' meaning (`live.evidence.chain`), who signs (the agent).
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import msgspec

from hanse.errors import SiteError
from hanse.live.evidence.chain import ChainWriter, sized
from hanse.live.gateway.metrics import RECORDS, Counts

if TYPE_CHECKING:
    from hanse.live.evidence.chain import RequestRecord
    from hanse.live.gateway.attempt import Attempt

_encode = msgspec.msgpack.Encoder().encode

ENDS_MAX: Final = 50_000
"""Records that may wait for a disk that takes nothing, some 15 MB: more than twice what a gateway has under way. Of refusals by law, which
go on meanwhile, those beyond are lost."""


class Ledger:
    """The worker's chain, written once per loop turn."""

    __slots__ = (
        "_chain",
        "_count",
        "_counts",
        "_ends",
        "_loop",
        "_scheduled",
        "_sized",
        "_waiting",
        "refusing",
    )

    def __init__(self, chain: ChainWriter, loop: asyncio.AbstractEventLoop, counts: Counts) -> None:
        self._chain = chain
        self._loop = loop
        self._counts = counts
        self._sized: list[bytes] = []
        self._count = 0
        self._ends: list[bytes] = []
        """Those of what is to be written that nothing waits for: tried again where the disk does not take them."""
        self._waiting: list[Attempt] = []
        self._scheduled = False
        self.refusing = False
        """The disk is nearly full, or did not take the last write: what is left of it is for the ends of requests that have begun, and for
        their seals."""

    def before(self, raws: tuple[bytes, ...], attempt: Attempt) -> None:
        """Write records, then launch the attempt, still in this turn of the loop."""
        self.before_sized(b"".join(map(sized, raws)), len(raws), attempt)

    def before_sized(self, records: bytes, count: int, attempt: Attempt) -> None:
        """The same with so many records that are sized bytes already."""
        if self.refusing:
            self._loop.call_soon(self._refuse, attempt)
            return
        self._sized.append(records)
        self._count += count
        self._waiting.append(attempt)
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self.flush)

    def after(self, record: RequestRecord) -> None:
        """Write what has happened with the next batch, at the latest at the next tick: nothing waits for it. It is kept until the disk takes it."""
        self.after_sized(sized(_encode(record)))

    def after_sized(self, record: bytes) -> None:
        """The same with a record that is sized bytes already."""
        self._sized.append(record)
        self._ends.append(record)
        self._count += 1

    def flush(self) -> None:
        """Write now."""
        self._scheduled = False
        pieces, self._sized = self._sized, []
        ends, self._ends = self._ends, []
        count, self._count = self._count, 0
        waiting, self._waiting = self._waiting, []
        written = True
        if pieces:
            try:
                self._chain.append_sized(pieces, count)
            except SiteError:
                written = False
                del ends[ENDS_MAX:]
                # Nothing new is begun until these are written.
                self.refusing = bool(ends) or self.refusing
                self._sized, self._ends, self._count = [*ends], ends, len(ends)
            else:
                self._counts.row[RECORDS] += count
        for attempt in waiting:
            attempt.recorded(written=written)

    def turn_over(self, chain: ChainWriter) -> None:
        """Go on in another chain; the one before ends whole."""
        self.flush()
        self._chain.close()
        self._chain = chain

    @property
    def behind(self) -> bool:
        """There are records that the disk has not taken yet."""
        return bool(self._ends)

    @property
    def bytes_end(self) -> int:
        """Of the chain so far."""
        return self._chain.bytes_end

    def _refuse(self, attempt: Attempt) -> None:
        attempt.recorded(written=False)

    def close(self) -> None:
        """Write the rest and close the chain."""
        self.flush()
        self._chain.close()

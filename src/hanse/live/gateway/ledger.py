"""Evidence before action: records reach the chain before the bytes they are about reach anyone.

Here: one batch per turn of the event loop. Requests that arrive in the same turn share one system call; each goes on only when
its record is in the kernel's hands. Not here: the records' meaning (`live.evidence.chain`), who signs (the agent).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from hanse.errors import SiteError
from hanse.live.gateway.metrics import RECORDS, Counts

if TYPE_CHECKING:
    from hanse.live.evidence.chain import ChainWriter, RequestRecord

Go = Callable[[bool], None]
"""Called with True when the records are written, with False when they could not be: then nothing may go on."""


class Ledger:
    """The worker's chain, written once per loop turn."""

    __slots__ = ("_chain", "_counts", "_go", "_loop", "_records", "_scheduled")

    def __init__(self, chain: ChainWriter, loop: asyncio.AbstractEventLoop, counts: Counts) -> None:
        self._chain = chain
        self._loop = loop
        self._counts = counts
        self._records: list[RequestRecord] = []
        self._go: list[Go] = []
        self._scheduled = False

    def before(self, records: tuple[RequestRecord, ...], go: Go) -> None:
        """Write `records`, then call `go`, still in this turn of the loop."""
        self._records += records
        self._go.append(go)
        self._schedule()

    def after(self, record: RequestRecord) -> None:
        """Write what has happened; nothing waits for it."""
        self._records.append(record)
        self._schedule()

    def flush(self) -> None:
        """Write now."""
        self._scheduled = False
        records, self._records = self._records, []
        waiting, self._go = self._go, []
        written = True
        if records:
            try:
                self._chain.append_many(records)
            except SiteError:
                written = False
            else:
                self._counts.row[RECORDS] += float(len(records))
        for go in waiting:
            go(written)

    def close(self) -> None:
        """Write the rest and close the chain."""
        self.flush()
        self._chain.close()

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self.flush)

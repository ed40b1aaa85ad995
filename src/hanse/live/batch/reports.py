"""What others should know of this home's batches: names, counts and deadlines, no content.

Here: `site.<id>.batch` once a second while there are batches, for the controller's slow loop and for people. Not here: acting on it.
"""

from __future__ import annotations

import asyncio
import time
from typing import Final

import msgspec
from nats.aio.client import Client

from hanse.live.batch.store import Store
from hanse.live.batch.values import BatchMeta
from hanse.live.bus import site_subject
from hanse.model.fleet import Value

REPORT_S: Final = 1.0
KEPT_S: Final = 10.0
"""An ended batch is told of for so long, so that nobody misses its end."""


class BatchRow(Value, frozen=True, kw_only=True):
    """One batch as others may know it."""

    id: str
    tenant: str
    data_class: str
    country: str
    key_id: str
    home: str
    model: str
    status: str
    lines: int
    completed: int
    failed: int
    input_bytes: int
    submitted_at_s: float
    deadline_at_s: float
    tokens_in: int
    tokens_out: int
    energy_wh: float
    extra_runs: int
    extra_wh: float


class Reports:
    """Publishes the rows of one home."""

    def __init__(self, site: str, store: Store, client: Client) -> None:
        self._site = site
        self._store = store
        self._client = client

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(REPORT_S)
            rows = [self._row(meta) for meta in self._store.batches.values() if self._told(meta)]
            if rows and self._client.is_connected:
                subject = site_subject(self._site, "batch")
                await self._client.publish(subject, msgspec.msgpack.encode(rows))

    def _told(self, meta: BatchMeta) -> bool:
        ended_at_s = meta.at_s.get(meta.status, meta.created_at_s)
        recent = not meta.ended or time.time() - ended_at_s < KEPT_S
        return meta.home == self._site and recent

    def _row(self, meta: BatchMeta) -> BatchRow:
        file = self._store.files.get(meta.input_file_id)
        return BatchRow(
            id=meta.id,
            tenant=meta.tenant,
            data_class=meta.data_class,
            country=meta.country,
            key_id=meta.key_id,
            home=meta.home,
            model=meta.model,
            status=meta.status,
            lines=meta.lines,
            completed=meta.tally.completed,
            failed=meta.tally.failed,
            input_bytes=0 if file is None else file.size_bytes,
            submitted_at_s=meta.created_at_s,
            deadline_at_s=meta.expires_at_s,
            tokens_in=meta.tally.tokens_in,
            tokens_out=meta.tally.tokens_out,
            energy_wh=meta.tally.energy_wh,
            extra_runs=meta.tally.extra_runs + meta.lost_runs,
            extra_wh=meta.tally.extra_wh + meta.lost_wh,
        )

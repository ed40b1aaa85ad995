"""Copies of files that were deleted: who deletes a file wants it gone everywhere.

Here: at the site where a file is deleted, telling the sites that have a copy until each has heard it; there, deleting it. Not here:
files that expire, which copies do by themselves.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection
from typing import Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from hanse.errors import SiteError
from hanse.live.batch.access import not_found
from hanse.live.batch.api import PREFIX, peer_of
from hanse.live.batch.asking import Hops
from hanse.live.batch.pauses import Pauses
from hanse.live.batch.store import Store
from hanse.live.batch.values import (
    Drop,
    FileMeta,
    Problem,
    Who,
    checked_id,
    home_in,
    is_file_id,
)
from hanse.live.logline import log_line

LOOK_S: Final = 0.5
PAUSE_S_MAX: Final = 60.0
"""Between tries at a site that does not answer, until the file would have expired there."""


class Drops:
    """Both sides, at one site."""

    def __init__(self, site: str, store: Store, hops: Hops) -> None:
        self._site = site
        self._store = store
        self._hops = hops
        self._pauses = Pauses()

    def owe(self, file: FileMeta) -> None:
        """A file is about to be deleted here; on disk when this returns."""
        sites = {home_in(file.id), *self._sent(file.id)}
        for batch in self._store.batches.values():
            if file.id in (batch.input_file_id, batch.output_file_id, batch.error_file_id):
                sites |= {batch.home, batch.standby}
        self._owe(file, sites)

    def _sent(self, file_id: str) -> tuple[str, ...]:
        sent = self._store.sent.get(file_id)
        return sent.sites if sent is not None else ()

    def _owe(self, file: FileMeta, sites: Collection[str]) -> None:
        elsewhere = tuple(sorted(site for site in sites if site in self._hops.peers))
        if elsewhere:
            self._store.put_drop(Drop(id=file.id, file=file, sites=elsewhere))

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(LOOK_S)
            for drop in tuple(self._store.drops.values()):
                if self._pauses.over(drop.id):
                    await self._tell(drop)

    async def _tell(self, drop: Drop) -> None:
        file = drop.file
        who = Who(
            tenant=file.tenant,
            key_id=file.key_id,
            data_class=file.data_class,
            country=file.country,
        )
        left = []
        for site in drop.sites if time.time() < file.expires_at_s else ():
            try:
                answer = await self._hops.whole(site, "DELETE", f"{PREFIX}/data/{file.id}", who)
                if answer.status not in (200, 404):
                    raise SiteError(site, got=f"{answer.status}", allowed="200 or 404")
            except (SiteError, Problem) as error:
                log_line(f"batch: {file.id} is not deleted yet at {site}: {error}")
                left.append(site)
        self._store.put_drop(msgspec.structs.replace(drop, sites=tuple(left)))
        if left:
            self._pauses.failed(drop.id, PAUSE_S_MAX)
        else:
            self._pauses.forget(drop.id)

    async def take(self, request: Request) -> Response:
        """A site deleted a file of which a copy is here, or which is a copy of one that is here."""
        who = peer_of(request)
        file_id = checked_id(request.path_params["id"], is_file_id)
        file = self._store.files.get(file_id)
        if file is None and who.peer == home_in(file_id):
            self._store.drop_file(file_id)  # bytes of which nobody said what they are
        names = None if file is None else (file.tenant, file.data_class, file.country)
        if file is None or names != who.names or not self._may(file, who.peer):
            raise not_found(file_id)
        if self._store.in_use(file_id, self._site):
            raise Problem(409, "file_in_use", f"a batch that has not ended reads {file_id}", "id")
        self._owe(
            file, set(self._sent(file_id)) - {who.peer}
        )  # who has it from here knows this site alone
        self._store.drop_file(file_id)
        return Response(b"{}")

    def _may(self, file: FileMeta, peer: str) -> bool:
        """Whether a site has to do with a file: it made it, sent it here, or is the home of a batch with it."""
        batches = self._store.batches.values()
        homes = {
            batch.home
            for batch in batches
            if file.id in (batch.input_file_id, batch.output_file_id, batch.error_file_id)
        }
        return peer in (home_in(file.id), file.copy_of, *homes)

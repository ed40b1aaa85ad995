"""The second home of a batch: its copy, and its turn when the first is lost.

Here, for `home_copies = 2`: at the home, sending file, state and commits to one more eligible site; at that site, keeping them and taking
over when it has heard nothing for `TAKEOVER_S`; what either may still say (`may_end`, `may_begin`). Not here: who is right when both
want it (`owners`). Everything goes gateway to gateway over the hop port, under the law of the batch's subject.

    home      claims (epoch), copies the file, then every half second what was committed since; also nothing, so that it is heard
    standby   commits the same in its own stream; silent home: claims the next epoch, and goes on from there
    old home  is told 409 by the standby, or by the hub, and stops; what it committed meanwhile counts as extra runs. Where neither answers
              it begins no more lines after `SURE_S`, before the standby's turn, and goes on when one of them says that the batch is still its

A line's commit at the home is final only with the batch's end, and the end is a claim: of two homes that both believe to own it,
across whatever cut, one can say the last word. Without the hub nobody takes over and batches of two homes wait before their end.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator
from typing import Final, TypeGuard, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from hanse.errors import SiteError
from hanse.live.batch.access import Access, not_found
from hanse.live.batch.api import PREFIX, Api, peer_of, told
from hanse.live.batch.asking import Hops, Whole
from hanse.live.batch.beat import Beat, Row, beat_of
from hanse.live.batch.commits import Commits, Note
from hanse.live.batch.drops import Drops
from hanse.live.batch.keeper import Keeper
from hanse.live.batch.owners import Owners
from hanse.live.batch.pauses import Pauses
from hanse.live.batch.runner import Runner
from hanse.live.batch.store import fsync_file
from hanse.live.batch.values import (
    BatchMeta,
    FileMeta,
    Problem,
    Who,
    checked_id,
    home_in,
    is_file_id,
)
from hanse.live.logline import log_line

BEAT_S: Final = 0.5
TAKEOVER_S: Final = 10.0
"""Twenty beats: longer than a home's batch process, gateway or bus takes to come back, shorter than anybody waits for a batch."""
SURE_S: Final = 7.0
"""How long a home takes a batch for its own after its standby or the hub said so: less than `TAKEOVER_S` by more than the beat that its
standby heard last may have been on its way, so that the old home gives up by itself before there is a new one."""
ASK_HUB_S: Final = 3.0
"""How often a home that its standby does not hear asks the hub whether it still owns a batch."""
MESSAGE_BYTES_MAX: Final = 4 * 1024 * 1024
COPY_S_MAX: Final = 300.0
"""200 MB over 10 Mbit/s take 160 s."""
REFUSAL: Final = "x-hanse-refusal"
"""Header of a 409 of the peer's gateway: by its own table it may not read this (`law`), or it has none (`table`)."""
ROW_BYTES: Final = 256
"""What a note takes beside its content, generously."""
READ_AT_ONCE: Final = 16
"""Contents read at a time: enough that a round trip to the leaf does not count, few enough to hold."""
BEAT_PAUSE_S_MAX: Final = 2.0
"""Between failed beats: a fifth of what a standby waits for."""
BEAT_S_MAX: Final = 5.0
"""Of a beat that carries little; one with answers may take as long as `COPY_BYTES_PER_S` lets it."""
COPY_BYTES_PER_S: Final = 200e6 / COPY_S_MAX
PAUSE_S_MAX: Final = 60.0
"""Between failed copies of what has ended: nobody waits for them."""
T = TypeVar("T")


class Standby:
    """Both roles of one site."""

    def __init__(
        self,
        keeper: Keeper,
        runner: Runner,
        access: Access,
        hops: Hops,
        commits: Commits,
        owners: Owners,
        copies: int,
    ) -> None:
        self.site = keeper.site
        self._keeper = keeper
        self._store = keeper.store
        self._runner = runner
        self._access = access
        self._hops = hops
        self._commits = commits
        self._owners = owners
        self.copies = copies
        self._outbox: dict[str, dict[int, Note]] = {}
        """Commits that the standby has not got, by line; a batch is missing until its stream was read once."""
        self._owed: dict[str, tuple[BatchMeta, tuple[Row, ...]]] = {}
        """Runs of batches that were taken over, until their home has counted them as extra."""
        self._heard_at_s: dict[str, float] = {}
        self._asked_at_s: dict[str, float] = {}
        self._sure_at_s: dict[str, float] = {}
        """When the standby or the hub last said that a batch is ours."""
        self._turns: dict[str, asyncio.Task[None]] = {}
        self._pauses = Pauses()
        self._drops = Drops(self.site, keeper.store, hops)

    def join(self, api: Api) -> None:
        """Take part in what the others do."""
        self._keeper.may_end = self.may_end
        self._keeper.may_begin = self.may_begin
        self._keeper.deleting = self._drops.owe
        self._runner.committed = self.committed
        api.more += [
            Route(PREFIX + "/data/{id}", told(self._drops.take), methods=["DELETE"]),
            Route(PREFIX + "/data/{id}", told(self.take_data), methods=["POST"]),
            Route(PREFIX + "/beat", told(self.take_beat), methods=["POST"]),
            Route(PREFIX + "/holds/{id}", told(self.holds), methods=["GET"]),
        ]

    async def run(self) -> None:
        """Beat and watch, until cancelled."""
        drops = asyncio.create_task(self._drops.run())
        try:
            while True:
                await asyncio.sleep(BEAT_S)
                self._hold_unsure(time.monotonic())
                for meta in tuple(self._store.batches.values()):
                    if meta.id not in self._turns and self._pauses.over(meta.id):
                        self._begin_turn(meta)
        finally:
            tasks = (drops, *self._turns.values())
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _begin_turn(self, meta: BatchMeta) -> None:
        """Each batch by itself: a peer that hangs must not silence the others' beats."""
        if self._idle(meta):
            return

        async def turn() -> None:
            try:
                await self._turn(meta)
            except (SiteError, Problem, OSError) as error:
                log_line(f"batch {meta.id}: {error}")
                self._pauses.failed(meta.id, PAUSE_S_MAX if meta.ended else BEAT_PAUSE_S_MAX)
            else:
                self._pauses.forget(meta.id)

        task = asyncio.create_task(turn())
        self._turns[meta.id] = task
        task.add_done_callback(lambda _: self._turns.pop(meta.id, None))

    def _idle(self, meta: BatchMeta) -> bool:
        """Nothing is to be done for it any more, as for most."""
        if meta.home == self.site:
            if not meta.standby:
                return self.copies < 2 or meta.status != "in_progress"
            return meta.ended and "copied" in meta.at_s
        return meta.id not in self._owed and (meta.ended or meta.standby != self.site)

    async def _turn(self, meta: BatchMeta) -> None:
        if meta.home == self.site:
            await self._beat(meta)
        elif meta.standby == self.site and not meta.ended:
            await self._watch(meta)
        elif meta.id in self._owed:
            told, rows = self._owed[meta.id]
            await self._tell(meta.home, told, rows=rows)
            del self._owed[meta.id]

    # --- what may be said

    async def may_end(self, meta: BatchMeta) -> bool:
        """The last word about a batch of two homes is a claim."""
        if not meta.epoch:
            return True
        epoch = await self._owners.claim(meta.id, meta.epoch, ended=True)
        if not epoch:
            await self._give_up(meta)
            return False
        self._store.change(meta.id, epoch=epoch)
        return True

    async def may_begin(self, meta: BatchMeta) -> bool:
        """After a restart: is it still ours? Without the hub it is taken to be; the end asks again."""
        if not meta.epoch:
            return True
        asked_s = time.monotonic()
        try:
            owner = await self._owners.owner(meta.id)
        except SiteError:
            return True
        if owner is not None and owner.site != self.site:
            await self._give_up(meta)
            return False
        if owner is not None and owner.epoch > meta.epoch:
            self._store.change(meta.id, epoch=owner.epoch)  # we died before it was on disk
        self._sure_at_s[meta.id] = asked_s
        return True

    def _hold_unsure(self, now_s: float) -> None:
        """Begin no line of a batch that may have another home by now."""
        held = {
            meta.id
            for meta in self._store.batches.values()
            if meta.home == self.site
            and meta.standby
            and not meta.ended
            and now_s - self._sure_at_s.get(meta.id, float("-inf")) >= SURE_S
        }
        for batch_id in held ^ self._runner.held:
            how = "neither its standby nor the hub answers" if batch_id in held else "still ours"
            log_line(f"batch {batch_id}: {how}: {'waits' if batch_id in held else 'goes on'}")
        self._runner.hold(held)

    async def _give_up(self, meta: BatchMeta, counted: tuple[Row, ...] = ()) -> None:
        """Another site owns it now: stop, and say to the asking where it is.

        Args:
            meta: The batch.
            counted: Commits that its standby has counted as extra, if that is the new owner.
        """
        await self._stop(meta)
        owner = await self._owners.owner(meta.id)
        if owner is not None and owner.site == self.site:
            self._store.change(meta.id, epoch=owner.epoch)  # two claims of ours crossed
            return
        home = owner.site if owner is not None else meta.standby
        epoch = owner.epoch if owner is not None else meta.epoch
        log_line(f"batch {meta.id}: {home} has taken over (epoch {epoch})")
        unsent = self._outbox.pop(meta.id, {})
        for row in counted if home == meta.standby else ():
            unsent.pop(row.line, None)
        if unsent:
            told = msgspec.structs.replace(meta, home=home)
            self._owed[meta.id] = told, tuple(Row(line, note, b"") for line, note in unsent.items())
        self._store.change(meta.id, home=home, standby="", epoch=epoch)
        with contextlib.suppress(SiteError):
            await self._commits.forget(meta.id)

    async def _stop(self, meta: BatchMeta) -> None:
        work = await self._runner.remove(meta.id)
        if work is not None:
            work.close(ended=True)

    # --- the home

    def committed(self, batch_id: str, line: int, note: Note, content: bytes) -> None:
        """A line was committed here; its content is read from the stream when it is sent."""
        if batch_id in self._outbox:
            self._outbox[batch_id][line] = note

    async def _beat(self, meta: BatchMeta) -> None:
        if not meta.standby:
            await self._choose(meta)
            return
        if meta.ended:
            await self._last_beat(meta)
            return
        if meta.id not in self._outbox:
            await self._recall(meta.id)
        rows = await self._some(meta.id)
        asked_s = time.monotonic()
        try:
            if self._barred(meta.standby, meta):
                await self._part(meta)
                return
            files = self._files(meta.input_file_id)  # again: the first answer may have been lost
            answer = await self._tell(meta.standby, meta, files=files, rows=rows)
            refusal = answer.headers.get(REFUSAL, "")
            if refusal == "law":
                await self._part(meta)
                return
            if answer.status == 409 and not refusal:
                await self._give_up(self._store.batches[meta.id], rows)
                return
            _expect(answer, meta.standby)
        except (SiteError, Problem):
            await self._ask_hub(meta)
            raise
        self._sure_at_s[meta.id] = asked_s
        outbox = self._outbox.get(meta.id, {})
        for row in rows:
            outbox.pop(row.line, None)

    def _barred(self, site: str, meta: BatchMeta) -> bool:
        """Whether a site may not read a batch, or is in the table no more.

        Raises:
            Problem: there is no table to say so.
        """
        return not self._access.lawful((meta.tenant, meta.data_class, meta.country), site)

    async def _part(self, meta: BatchMeta) -> None:
        """Its standby may not have it any more: claim it anew, so that that one cannot take over, and choose another at the next turn."""
        if await self._claim(meta.id):
            log_line(f"batch {meta.id}: {meta.standby} may not have it any more")

    async def _recall(self, batch_id: str) -> None:
        """All that was committed before; from now on commits are added as they come."""
        self._outbox[batch_id] = {}
        try:
            before = {line: note async for line, note in self._commits.notes(batch_id)}
        except BaseException:
            self._outbox.pop(batch_id, None)  # else the standby would never hear of them
            raise
        if batch_id in self._outbox:  # not given up meanwhile
            self._outbox[batch_id] = before | self._outbox[batch_id]

    async def _some(self, batch_id: str) -> tuple[Row, ...]:
        """The first commits that fit one message."""
        found: list[Row] = []
        size, outbox = 0, self._outbox.get(batch_id, {})
        for some in batched(tuple(outbox.items()), READ_AT_ONCE):
            read = await asyncio.gather(*(self._commits.content(batch_id, n) for n, _ in some))
            for (line, note), content in zip(some, read, strict=True):
                if content is None:  # the batch has ended meanwhile
                    outbox.pop(line, None)
                    continue
                size += len(content) + ROW_BYTES
                if found and size > MESSAGE_BYTES_MAX:
                    return tuple(found)
                found.append(Row(line, note, content))
        return tuple(found)

    async def _choose(self, meta: BatchMeta) -> None:
        """Claim the batch, and copy it to the nearest eligible site that takes it."""
        names = (meta.tenant, meta.data_class, meta.country)
        lawful = self._access.lawful_sites(names)
        sites = [s for s in lawful if s != self.site and s in self._hops.peers]
        if not meta.epoch and not await self._claim(meta.id):
            return
        for site in sites:
            try:
                await self._try(site, meta)
                return
            except (SiteError, Problem) as error:
                log_line(f"batch {meta.id}: no copy at {site}: {error}")
            if self._store.batches[meta.id].standby and not await self._claim(meta.id):
                return
        if sites:
            raise SiteError(meta.id, got="no site that takes a copy", fix="ask them again")

    async def _claim(self, batch_id: str) -> bool:
        """Claim a batch once more, so that who was its standby cannot take it over; False where it is another's."""
        meta = self._store.batches[batch_id]
        epoch = await self._owners.claim(batch_id, meta.epoch)
        if not epoch:
            await self._give_up(meta)
            return False
        self._outbox.pop(batch_id, None)
        self._store.change(batch_id, standby="", epoch=epoch)
        return True

    async def _try(self, site: str, meta: BatchMeta) -> None:
        """Copy a batch to a site, unless it turns out to be another's by now.

        Once a site was told of a batch it may take it over, also where its answer was lost: that it is the standby is on disk before.
        """
        await self._send(site, meta, (meta.input_file_id,))
        if self._store.batches[meta.id].home != self.site:
            return
        self._sure_at_s[meta.id] = time.monotonic()  # nobody has heard of this epoch yet
        meta = self._store.change(meta.id, standby=site)
        answer = await self._tell(site, meta, files=self._files(meta.input_file_id))
        if answer.status == 409 and REFUSAL not in answer.headers:
            await self._give_up(meta)
            return
        _expect(answer, site)

    async def _send(self, site: str, meta: BatchMeta, file_ids: tuple[str, ...]) -> None:
        """Bytes of files."""
        for file in self._files(*file_ids):
            self._store.sends(file.id, site)
            path = f"{PREFIX}/data/{file.id}"
            data = self._store.data_path(file.id)
            answer = await self._hops.whole(
                site, "POST", path, _who(meta), data, timeout_s=COPY_S_MAX
            )
            _expect(answer, site)

    def _files(self, *file_ids: str) -> tuple[FileMeta, ...]:
        return tuple(self._store.files[one] for one in file_ids if one in self._store.files)

    async def _last_beat(self, meta: BatchMeta) -> None:
        """The end, and then its files: they may take long, and the standby must not think us dead meanwhile."""
        if self._barred(meta.standby, meta):
            self._store.change(meta.id, standby="")
            return
        _expect(await self._tell(meta.standby, meta), meta.standby)
        results = meta.output_file_id, meta.error_file_id
        await self._send(meta.standby, meta, results)
        files = self._files(meta.input_file_id, *results)
        _expect(await self._tell(meta.standby, meta, files=files), meta.standby)
        self._store.change(meta.id, at_s=meta.at_s | {"copied": time.time()})
        self._outbox.pop(meta.id, None)

    async def _ask_hub(self, meta: BatchMeta) -> None:
        """The standby does not hear us; perhaps it has taken over."""
        now_s = time.monotonic()
        if now_s - self._asked_at_s.get(meta.id, 0.0) > ASK_HUB_S:
            self._asked_at_s[meta.id] = now_s
            await self.may_begin(meta)

    async def _tell(
        self,
        site: str,
        meta: BatchMeta,
        *,
        files: tuple[FileMeta, ...] = (),
        rows: tuple[Row, ...] = (),
    ) -> Whole:
        body = msgspec.msgpack.encode(Beat(batch=meta, files=files, rows=rows))
        limit_s = BEAT_S_MAX + len(body) / COPY_BYTES_PER_S
        path = f"{PREFIX}/beat"
        return await self._hops.whole(site, "POST", path, _who(meta), body, timeout_s=limit_s)

    # --- the standby

    async def take_data(self, request: Request) -> Response:
        """Bytes of a file, before what it is."""
        peer_of(request)
        file_id = checked_id(request.path_params["id"], is_file_id)
        if file_id in self._store.files:
            async for _ in request.stream():
                pass
            return Response(b"{}")
        draft = self._store.draft()
        self._store.coming.add(file_id)
        try:
            with draft.open("xb") as file:  # a local disk
                draft.chmod(0o600)
                async for piece in request.stream():
                    file.write(piece)
                await asyncio.to_thread(fsync_file, file)
            if file_id not in self._store.coming:
                raise not_found(file_id)
            draft.rename(self._store.data_path(file_id))
        finally:
            self._store.coming.discard(file_id)
            draft.unlink(missing_ok=True)
        return Response(b"{}")

    async def take_beat(self, request: Request) -> Response:
        """State and commits of a batch that another site is home of."""
        who = peer_of(request)
        body = bytearray()
        async for piece in request.stream():
            if body:
                self._hears(who.peer)
            body += piece
        beat = beat_of(bytes(body), who)
        told, known = beat.batch, self._store.batches.get(beat.batch.id)
        if known is not None and (known.tenant, known.data_class, known.country) != who.names:
            raise not_found(told.id)
        if _replaced(known, told, who):
            self._count_lost(known, beat.rows)
            raise _moved(known)
        if told.home != who.peer or told.standby != self.site:
            raise Problem(400, "invalid_request", f"{self.site} is not its standby")
        if (home_in(told.id) if known is None else known.home) != who.peer:
            await self._check_owner(told.id, who.peer)
        if known is not None and known.home == self.site:
            await self._stop(known)  # its home once: the new one was here first with the news
        for file in beat.files:
            self._store.keep_copy(file, who.peer)
        for row in beat.rows:
            if _overtaken(self._store.batches.get(told.id), told):
                break
            await self._commits.commit(told.id, row.line, row.content, row.note)
        known = self._store.batches.get(told.id)
        if _replaced(known, told, who):  # our turn came while this was written
            raise _moved(known)
        self._heard_at_s[told.id] = time.monotonic()
        if _overtaken(known, told):
            return Response(b"{}")
        if known is None or told != known:
            self._store.put_batch(told)
        if told.ended:
            with contextlib.suppress(SiteError):
                await self._commits.forget(told.id)
        return Response(b"{}")

    def _hears(self, peer: str) -> None:
        """A site whose beat is on its way is not silent, however long its link takes for it."""
        now_s = time.monotonic()
        for meta in self._store.batches.values():
            if meta.home == peer and meta.id in self._heard_at_s:
                self._heard_at_s[meta.id] = now_s

    async def _check_owner(self, batch_id: str, peer: str) -> None:
        """Who says that it owns what another was known to own must be who the hub says."""
        try:
            owner = await self._owners.owner(batch_id)
        except SiteError as error:
            raise Problem(503, "no_hub", f"cannot ask who owns {batch_id}: {error}") from error
        if owner is None or owner.site != peer:
            raise Problem(403, "not_the_owner", f"{peer} does not own {batch_id}")

    async def holds(self, request: Request) -> Response:
        """Whether something is here, as home or as copy: asked where its home is silent."""
        thing_id = request.path_params["id"]
        here = thing_id in self._store.batches or thing_id in self._store.files
        return Response(b"true" if here else b"false", media_type="application/json")

    def _count_lost(self, meta: BatchMeta, rows: tuple[Row, ...]) -> None:
        """What an old home committed after its time is no answer, but it was run."""
        if rows:
            wh = sum(row.note.wh for row in rows)
            work = self._runner.works.get(meta.id)
            if work is not None:
                work.lost_runs += len(rows)
                work.lost_wh += wh
            self._store.change(
                meta.id, lost_runs=meta.lost_runs + len(rows), lost_wh=meta.lost_wh + wh
            )

    async def _watch(self, meta: BatchMeta) -> None:
        if self._barred(self.site, meta):
            log_line(f"batch {meta.id}: {self.site} may not read it any more; its copy is deleted")
            await self._discard(meta)
            return
        now_s = time.monotonic()
        heard_at_s = self._heard_at_s.setdefault(meta.id, now_s)
        if now_s - heard_at_s < TAKEOVER_S:
            return
        self._heard_at_s[meta.id] = now_s  # whatever comes of it, not at every turn
        owner = await self._owners.owner(meta.id)
        over = owner is None or owner.ended or owner.epoch != meta.epoch
        if over and owner is not None and not owner.ended:
            log_line(f"batch {meta.id}: {owner.site} has another standby; its copy is deleted")
            await self._discard(meta)
            return
        epoch = 0 if over else await self._owners.claim(meta.id, meta.epoch)
        if not epoch:
            log_line(f"batch {meta.id}: {meta.home} is silent, but has said its last word")
            return
        log_line(f"batch {meta.id}: {meta.home} is silent; taking over (epoch {epoch})")
        self._store.own(meta.input_file_id)
        at_s = meta.at_s | {"taken_over": time.time()}
        self._store.change(meta.id, home=self.site, standby="", epoch=epoch, at_s=at_s)

    async def _discard(self, meta: BatchMeta) -> None:
        """Nobody takes over here any more: the copy goes."""
        await self._commits.forget(meta.id)
        self._store.drop_batch(meta.id)
        self._heard_at_s.pop(meta.id, None)
        file = self._store.files.get(meta.input_file_id)
        if file is not None and file.copy_of and not self._store.in_use(file.id, self.site):
            self._store.drop_file(file.id)


def batched(items: tuple[T, ...], count: int) -> Iterator[tuple[T, ...]]:
    """So many at a time."""
    return (items[at : at + count] for at in range(0, len(items), count))


def _who(meta: BatchMeta) -> Who:
    return Who(
        tenant=meta.tenant,
        key_id=meta.key_id,
        data_class=meta.data_class,
        country=meta.country,
    )


def _replaced(known: BatchMeta | None, told: BatchMeta, who: Who) -> TypeGuard[BatchMeta]:
    """Whether who tells of a batch has lost it to another home."""
    return known is not None and known.epoch > told.epoch and known.home != who.peer


def _overtaken(known: BatchMeta | None, told: BatchMeta) -> bool:
    """Whether a home's later beat was here before this one."""
    return known is not None and (known.epoch > told.epoch or (known.ended and not told.ended))


def _moved(known: BatchMeta) -> Problem:
    return Problem(409, "moved", f"{known.home} has taken over", site=known.home)


def _expect(answer: Whole, site: str) -> None:
    if answer.status != 200:
        raise SiteError(site, got=f"{answer.status} {answer.body[:200]!r}", allowed="200")

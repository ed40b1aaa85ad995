"""What becomes of a batch: from validating to its last state, through any crash.

Here: creating, validating, running, finalizing, cancelling and expiring batches and files of this home. Not here: HTTP (`api`), which
line runs when (`runner`), the other home of a batch (`standby`).

    validating --lines good--> in_progress --all committed--> finalizing --> completed
        |  lines wrong             |  window over: expired        ^
        v                          |  cancel: cancelling ---------+--> expired, cancelled
      failed

Each state is on disk before it is acted on. A restart does the step of the state again; every step may be done twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Final

import msgspec

from hanse.errors import HanseError, SiteError
from hanse.live.batch.access import ENDPOINTS, Access
from hanse.live.batch.commits import Commits
from hanse.live.batch.follow import OpenBatch, open_batch
from hanse.live.batch.lines import Index, ModelFlaw, Rules, check_file
from hanse.live.batch.results import write_committed, write_results
from hanse.live.batch.runner import Runner
from hanse.live.batch.store import Store
from hanse.live.batch.values import (
    BatchMeta,
    FileMeta,
    LineError,
    Problem,
    Status,
    Who,
    checked_metadata,
    lives_s,
    new_batch_id,
    new_file_id,
    result_file_id,
    who_of,
    window_s,
)
from hanse.live.batch.work import Broken, InputGone, OutputFull, Work
from hanse.live.logline import log_line
from hanse.model.fleet import Batch as Limits
from hanse.units import SECONDS_PER_DAY

LOOK_S: Final = 0.5
AGAIN_S: Final = 1.0
"""After a step that the bus or the disk did not let through."""
BODY_BYTES_ANY: Final = 2**40
"""Of lines that were good once: what a service takes today is no question any more."""
SAVE_EVERY_S: Final = 1.0
"""Counts on disk are only for people; after a crash they are made again from the stream."""


class Ask(msgspec.Struct, frozen=True, kw_only=True):
    """Body of `POST /v1/batches`; what else clients send is ignored, as OpenAI does."""

    input_file_id: str
    endpoint: str
    completion_window: str
    metadata: dict[str, str] | None = None
    output_expires_after: dict[str, object] | None = None


def output_lives_s(ask: Ask) -> float:
    """Of its output and error file; 0: as long as any file.

    Raises:
        Problem: it is not what OpenAI allows.
    """
    name = "output_expires_after"
    fields = ask.output_expires_after or {}
    return lives_s({f"{name}[{key}]": value for key, value in fields.items()}, name)


class Keeper:
    """The batches and files of one home."""

    def __init__(
        self,
        site: str,
        store: Store,
        access: Access,
        commits: Commits,
        runner: Runner,
        limits: Limits,
    ) -> None:
        self.site = site
        self.store = store
        self.limits = limits
        self._access = access
        self._commits = commits
        self._runner = runner
        self._busy: dict[str, asyncio.Task[None]] = {}
        self._saved_at_s: dict[str, float] = {}
        self.may_end: Callable[[BatchMeta], Awaitable[bool]] = _always
        """Whether this home may say the last word about a batch; asked where there are two."""

        self.may_begin: Callable[[BatchMeta], Awaitable[bool]] = _always
        """Whether this home still owns a batch; asked after a restart."""
        self.deleting: Callable[[FileMeta], None] = lambda _: None
        """Told of a file that its owner wants gone, before it is."""

    # --- files

    def check_room(self, who: Who, size_bytes: int) -> None:
        """Is there room for so much more of this tenant?

        Raises:
            Problem: there is not.
        """
        used, most = self.store.stored_bytes(who.tenant), self.limits.tenant_bytes_max
        if used + size_bytes > most:
            message = f"files of {who.tenant} at {self.site} hold {used} of {most} bytes; delete some first"
            raise Problem(429, "quota_exceeded", message, "file")

    def new_file(
        self,
        who: Who,
        filename: str,
        size_bytes: int,
        *,
        purpose: str = "batch",
        lives_s: float = 0.0,
        file_id: str = "",
    ) -> FileMeta:
        """What is kept of a file."""
        now_s = time.time()
        return FileMeta(
            id=file_id or new_file_id(self.site),
            size_bytes=size_bytes,
            created_at_s=now_s,
            expires_at_s=now_s + (lives_s or self.limits.file_days * SECONDS_PER_DAY),
            filename=filename,
            purpose="batch" if purpose == "batch" else "batch_output",
            tenant=who.tenant,
            key_id=who.key_id,
            data_class=who.data_class,
            country=who.country,
        )

    def delete_file(self, file_id: str) -> None:
        """Remove it, unless a batch reads it.

        Raises:
            Problem: one does.
        """
        if self.store.in_use(file_id, self.site):
            raise Problem(409, "file_in_use", f"a batch that has not ended reads {file_id}", "id")
        self.deleting(self.store.files[file_id])
        self.store.drop_file(file_id)

    # --- batches

    def create(self, who: Who, file: FileMeta, ask: Ask) -> BatchMeta:
        """A new batch of a file of this home.

        Raises:
            Problem: what is asked cannot be done.
        """
        if ask.endpoint not in ENDPOINTS:
            message = f"endpoint is {ask.endpoint[:64]!r}; need one of {', '.join(ENDPOINTS)}"
            raise Problem(400, "invalid_endpoint", message, "endpoint")
        if file.purpose != "batch":
            message = f"{file.id} has purpose {file.purpose}, need batch"
            raise Problem(400, "invalid_file_purpose", message, "input_file_id")
        length_s, now_s = window_s(ask.completion_window), time.time()
        meta = BatchMeta(
            id=new_batch_id(self.site),
            tenant=file.tenant,
            key_id=who.key_id,
            data_class=file.data_class,
            country=file.country,
            endpoint=ask.endpoint,
            completion_window=ask.completion_window,
            input_file_id=file.id,
            metadata=checked_metadata(ask.metadata),
            output_lives_s=output_lives_s(ask),
            created_at_s=now_s,
            expires_at_s=now_s + length_s,
            home=self.site,
        )
        return self.store.put_batch(meta)

    def cancel(self, batch_id: str) -> BatchMeta:
        """Begin to cancel; an ended batch stays as it is.

        Raises:
            Problem: it has ended.
        """
        meta = self.store.batches[batch_id]
        if meta.ended:
            raise Problem(409, "batch_ended", f"{batch_id} is {meta.status} already", "id")
        if meta.status in ("validating", "in_progress"):
            meta = self._enter(batch_id, "cancelling")
        return meta

    def open_batches(self) -> list[OpenBatch]:
        """What is being worked on here, for the controller."""
        found = []
        for work in tuple(self._runner.works.values()):
            meta = self.store.batches.get(work.id)
            if meta is None or meta.status != "in_progress" or meta.home != self.site:
                continue
            service = self._access.service_of(meta.model)
            if service and work.left:
                found.append(open_batch(meta, work, service))
        return found

    # --- the clock

    async def run(self) -> None:
        """Look at every batch twice a second, until cancelled."""
        forgetting = asyncio.create_task(self._forget_ended())
        try:
            while True:
                with contextlib.suppress(HanseError):
                    self._access.refresh()
                for meta in tuple(self.store.batches.values()):
                    if not meta.ended and meta.home == self.site and meta.id not in self._busy:
                        self._look(meta)
                self._expire_files()
                await asyncio.sleep(LOOK_S)
        finally:
            tasks = (forgetting, *self._busy.values())
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _forget_ended(self) -> None:
        """Commits of batches that had ended before this start: the last forgetting may have failed."""
        for meta in tuple(self.store.batches.values()):
            while meta.ended:
                try:
                    await self._commits.forget(meta.id)
                except SiteError as error:
                    log_line(f"batch {meta.id}: {error}")
                    await asyncio.sleep(AGAIN_S)
                else:
                    break

    def progressed(self, work: Work) -> None:
        """A line of it ended in one way or another."""
        now_s = time.time()
        if work.left and now_s - self._saved_at_s.get(work.id, 0.0) < SAVE_EVERY_S:
            return
        self._saved_at_s[work.id] = now_s
        if work.id in self.store.batches:
            self.store.change(
                work.id, tally=work.tally, lost_runs=work.lost_runs, lost_wh=work.lost_wh
            )

    def _look(self, meta: BatchMeta) -> None:
        """Begin the step that a batch's state and the clock ask for."""
        work = self._runner.works.get(meta.id)
        over = time.time() >= meta.expires_at_s
        if meta.status == "validating" and not over:
            self._do(meta, self._validate(meta))
        elif meta.status == "cancelling":
            self._do(meta, self._end(meta, "cancelled"))
        elif over and meta.status != "finalizing":  # all lines of that one were answered in time
            self._do(meta, self._end(meta, "expired"))
        elif work is None:
            self._do(meta, self._resume(meta))
        elif work.broken is not None:
            self._do(meta, self._give_up(meta, work.broken))
        elif not work.left:
            self._do(meta, self._end(meta, "completed"))

    def _do(self, meta: BatchMeta, step: Awaitable[None]) -> None:
        async def guarded() -> None:
            try:
                await step
            except InputGone as error:
                await self._give_up(meta, error)
            except (HanseError, OSError, Problem) as error:
                log_line(f"batch {meta.id}: {error}")
                await asyncio.sleep(AGAIN_S)

        task = asyncio.create_task(guarded())
        self._busy[meta.id] = task
        task.add_done_callback(lambda _: self._busy.pop(meta.id, None))

    async def _validate(self, meta: BatchMeta) -> None:
        rules = Rules(
            endpoint=meta.endpoint,
            lines_max=self.limits.lines_max,
            body_bytes_max=self._access.body_bytes_max(),
        )
        flaw = self._access.model_flaw(meta.key_id, meta.endpoint)
        found = await self._checked(meta, rules, flaw)
        if self.store.batches[meta.id].status != "validating":
            return  # cancelled meanwhile
        if isinstance(found, tuple):
            self._enter(meta.id, "failed", errors=found)
            return
        queued = self.store.queued_lines(meta.tenant, self.site) + len(found)
        if queued > self.limits.tenant_lines_max:
            message = f"{meta.tenant} would have {queued} lines waiting at {self.site}, at most {self.limits.tenant_lines_max} may"
            error = LineError(code="quota_exceeded", message=message)
            self._enter(meta.id, "failed", errors=(error,))
            return
        meta = self._enter(meta.id, "in_progress", lines=len(found), model=found.model)
        await self._begin(meta, found)

    async def _resume(self, meta: BatchMeta) -> None:
        if await self.may_begin(meta):
            await self._begin(meta, await self._index(meta))

    async def _begin(self, meta: BatchMeta, index: Index) -> None:
        work = self._work(meta, index)
        with _closed_on_error(work):
            await work.recall(self._commits)
        now = self.store.batches.get(meta.id)
        if now is None or now.home != self.site:  # lost meanwhile: its commits here are forgotten
            work.close(ended=True)
        elif now.status in ("in_progress", "finalizing"):
            self._runner.add(work)
        else:
            work.close(ended=False)

    def _work(self, meta: BatchMeta, index: Index) -> Work:
        path = self.store.data_path(meta.input_file_id)
        return Work(meta, index, path, self.store.runs(meta.id))

    async def _index(self, meta: BatchMeta) -> Index:
        """Of a file that was found good before: services, keys and limits of today change nothing of what is committed.

        Raises:
            InputGone: it is not there, or not the file that it was.
        """
        rules = Rules(endpoint=meta.endpoint, lines_max=meta.lines, body_bytes_max=BODY_BYTES_ANY)
        found = await self._checked(meta, rules, lambda *_: None)
        if isinstance(found, tuple):
            raise InputGone(
                f"{meta.input_file_id} has changed since it was checked: {found[0].message}"
            )
        if len(found) != meta.lines:
            raise InputGone(
                f"{meta.input_file_id} has {len(found)} lines, and had {meta.lines} when it was checked"
            )
        return found

    async def _checked(
        self, meta: BatchMeta, rules: Rules, flaw: ModelFlaw
    ) -> Index | tuple[LineError, ...]:
        """Raises:
        InputGone: the file is not there.
        """
        path = self.store.data_path(meta.input_file_id)
        try:
            return await asyncio.to_thread(check_file, path, rules, flaw)
        except FileNotFoundError:
            raise InputGone(f"{meta.input_file_id} is gone from the disk of {self.site}") from None

    async def _give_up(self, meta: BatchMeta, error: Broken) -> None:
        """Nobody can run what nobody can read or keep: it has failed, and says why. What was committed before is in the output file."""
        log_line(f"batch {meta.id}: {error}")
        try:
            if not await self.may_end(meta):
                return
            work = self._runner.works.get(meta.id)  # it stays until there is room
            await self._runner.stop(meta.id)
            if work is not None and isinstance(error, OutputFull):
                changes = await self._write(meta, work, "failed")
            else:
                changes = await self._salvaged(meta)
        except (HanseError, OSError) as again:
            log_line(f"batch {meta.id}: {again}")
            await asyncio.sleep(AGAIN_S)
            return
        flaw = LineError(code=error.code, message=str(error), param=error.param)
        self._enter(meta.id, "failed", errors=(flaw,), **changes)
        with contextlib.suppress(SiteError):  # what stays is removed at the next start
            await self._commits.forget(meta.id)
        if work is not None:
            await self._runner.remove(meta.id)
            work.close(ended=True)

    async def _salvaged(self, meta: BatchMeta) -> dict[str, object]:
        """Files of what was committed; lines that never ran have no names without their file, and are only counted."""
        if not meta.lines:
            return {}
        with self._drafts() as drafts:
            good, bad, tally = await write_committed(self._commits.read(meta.id), *drafts)
            ids = self._keep_results(meta, drafts, (good, bad))
        never = meta.lines - good - bad
        tally = msgspec.structs.replace(tally, failed=tally.failed + never)
        return {"tally": tally, "output_file_id": ids[0], "error_file_id": ids[1]}

    # --- the end

    async def _end(self, meta: BatchMeta, end: Status) -> None:
        """Say the last word, stop, write the files from the stream, forget the commits."""
        if end == "completed" and meta.status != "finalizing":
            meta = self._enter(meta.id, "finalizing")
        await self._runner.stop(meta.id)  # the word may be long in coming, where the hub is away
        if not await self.may_end(meta):
            return
        work = await self._runner.remove(meta.id)
        meta = self.store.batches[meta.id]
        if work is None and meta.lines:
            work = self._work(meta, await self._index(meta))
            with _closed_on_error(work):
                await work.recall(self._commits)
        if work is None:
            self._enter(meta.id, end)
            return
        with _closed_on_error(work):
            changes = await self._write(meta, work, end)
            self._enter(meta.id, end, **changes)
        work.close(ended=True)
        with contextlib.suppress(SiteError):  # what stays is removed at the next start
            await self._commits.forget(meta.id)

    async def _write(self, meta: BatchMeta, work: Work, end: str) -> dict[str, object]:
        """Both files; what changes of the batch. Their ids follow from the batch's: written again, they are the same files."""
        commits = self._commits.read(meta.id)
        with self._drafts() as drafts:
            good, bad, tally = await write_results(work, commits, end, *drafts)
            ids = self._keep_results(meta, drafts, (good, bad))
        return {
            "tally": tally,
            "lost_runs": work.lost_runs,
            "lost_wh": work.lost_wh,
            "output_file_id": ids[0],
            "error_file_id": ids[1],
        }

    @contextlib.contextmanager
    def _drafts(self) -> Iterator[tuple[Path, Path]]:
        """Places of the output and the error file; what is not kept of them is gone afterwards."""
        drafts = self.store.draft(), self.store.draft()
        try:
            yield drafts
        finally:
            for draft in drafts:
                draft.unlink(missing_ok=True)

    def _keep_results(
        self, meta: BatchMeta, drafts: tuple[Path, Path], counts: tuple[int, int]
    ) -> list[str]:
        """Ids of the output and the error file; one without lines is none."""
        ids = []
        for draft, lines, kind in zip(drafts, counts, ("output", "error"), strict=True):
            if not lines:
                ids.append("")
                continue
            file = self.new_file(
                who_of(meta),
                f"{meta.id}_{kind}.jsonl",
                draft.stat().st_size,
                purpose="batch_output",
                lives_s=meta.output_lives_s,
                file_id=result_file_id(self.site, meta.id, kind),
            )
            self.store.add_file(file, draft)
            ids.append(file.id)
        return ids

    def _enter(self, batch_id: str, status: Status, **changes: object) -> BatchMeta:
        """Of the batch as it is now: others (its standby, its counts) may have changed it meanwhile."""
        at_s = self.store.batches[batch_id].at_s | {status: time.time()}
        return self.store.change(batch_id, status=status, at_s=at_s, **changes)

    def _expire_files(self) -> None:
        now_s = time.time()
        kept_s = self.limits.file_days * SECONDS_PER_DAY
        for batch in tuple(self.store.batches.values()):
            over = (
                batch.ended or batch.home != self.site
            )  # of those elsewhere no end may ever be told
            if over and now_s >= batch.expires_at_s + kept_s:
                self.store.drop_batch(batch.id)
        for meta in tuple(self.store.files.values()):
            if now_s >= meta.expires_at_s and not self.store.in_use(meta.id, self.site):
                self.store.drop_file(meta.id)


@contextlib.contextmanager
def _closed_on_error(work: Work) -> Iterator[None]:
    """The step is done again, with another `Work` of the same batch."""
    try:
        yield
    except BaseException:
        work.close(ended=False)
        raise


async def _always(_: BatchMeta) -> bool:
    return True

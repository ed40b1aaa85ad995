"""Files and states of batches on this site's disk.

Here: metadata as JSON beside the data, all of mode 0600, written by rename after an fsync; what a crash left half done is removed at
the next start. Not here: commits of lines (`commits`), who may see what (`access`).
"""

from __future__ import annotations

import os
import time
from array import array
from pathlib import Path
from secrets import token_hex
from typing import Any, BinaryIO, Final

import msgspec

from hanse.live.batch.values import BatchMeta, Drop, FileMeta, Sent
from hanse.live.logline import log_line
from hanse.model.told import UNREADABLE
from hanse.units import SECONDS_PER_DAY

ASIDE: Final = ".unreadable"
"""Ending of metadata that no longer says anything; a file's bytes stay beside it, for a person to mend."""
ASIDE_S_MAX: Final = 30 * SECONDS_PER_DAY
"""Since it was written: as long as a file lives by default. Nobody knows when this one was to expire."""

_encode = msgspec.json.Encoder().encode


GONE_MAX: Final = 10_000
"""Forgotten files of which is known when they were made: who deletes while a list is read goes on behind one."""


class Store:
    """One site's directory `batch/`."""

    def __init__(self, home: Path) -> None:
        self.home = home
        for name in ("files", "batches", "drops", "sent"):
            (home / name).mkdir(parents=True, exist_ok=True, mode=0o700)
        for aside in home.glob(f"*/*{ASIDE}"):
            if time.time() - aside.stat().st_mtime > ASIDE_S_MAX:
                aside.unlink()
        for draft in (*home.glob("*/*.draft"), *home.glob("*/.*.new")):
            draft.unlink()
        self.files: dict[str, FileMeta] = _read_all(home / "files", FileMeta)
        self.batches: dict[str, BatchMeta] = _read_all(home / "batches", BatchMeta)
        self.drops: dict[str, Drop] = _read_all(home / "drops", Drop)
        self.sent: dict[str, Sent] = _read_all(home / "sent", Sent)
        self.coming: set[str] = set()
        """Files whose bytes another site sends now; one that is deleted meanwhile is none of them any more."""
        self._gone: dict[str, float] = {}
        for data in (home / "files").glob("*.data"):
            aside = data.with_name(f"{data.stem}.json{ASIDE}")
            if data.stem not in self.files and not aside.exists():
                data.unlink()  # killed before its metadata was there

    # --- files

    def data_path(self, file_id: str) -> Path:
        """Where a file's bytes are."""
        return self.home / "files" / f"{file_id}.data"

    def draft(self) -> Path:
        """A place for bytes that are still coming."""
        return self.home / "files" / f"{token_hex(12)}.draft"

    def add_file(self, meta: FileMeta, draft: Path) -> None:
        """Keep a draft whose bytes are on disk."""
        draft.rename(self.data_path(meta.id))
        write_durably(self.home / "files" / f"{meta.id}.json", _encode(meta))
        self.files[meta.id] = meta

    def keep_copy(self, meta: FileMeta, home: str) -> None:
        """What a copy is whose bytes are here; again changes nothing."""
        if meta.id not in self.files and self.data_path(meta.id).exists():
            copy = msgspec.structs.replace(meta, copy_of=home)
            write_durably(self.home / "files" / f"{meta.id}.json", _encode(copy))
            self.files[meta.id] = copy

    def own(self, file_id: str) -> None:
        """A copy whose home is lost is a file of this home."""
        meta = self.files.get(file_id)
        if meta is not None:
            meta = msgspec.structs.replace(meta, copy_of="")
            write_durably(self.home / "files" / f"{file_id}.json", _encode(meta))
            self.files[file_id] = meta

    def drop_file(self, file_id: str) -> None:
        """Forget a file: what it is first, then its bytes."""
        self.coming.discard(file_id)
        meta = self.files.pop(file_id, None)
        if meta is not None:
            self._gone[file_id] = meta.created_at_s
            if len(self._gone) > GONE_MAX:
                del self._gone[next(iter(self._gone))]
        (self.home / "files" / f"{file_id}.json").unlink(missing_ok=True)
        self.data_path(file_id).unlink(missing_ok=True)
        if self.sent.pop(file_id, None) is not None:
            (self.home / "sent" / f"{file_id}.json").unlink(missing_ok=True)

    def sends(self, file_id: str, site: str) -> None:
        """Bytes of a file are about to go to a site; on disk when this returns, so that a deletion reaches it whatever it answers."""
        known = self.sent.get(file_id, Sent(id=file_id, sites=()))
        if site not in known.sites:
            known = Sent(id=file_id, sites=(*known.sites, site))
            write_durably(self.home / "sent" / f"{file_id}.json", _encode(known))
            self.sent[file_id] = known

    def gone_at_s(self, file_id: str) -> float | None:
        """When a file was made that was forgotten lately; None: nobody knows."""
        return self._gone.get(file_id)

    def put_drop(self, drop: Drop) -> None:
        """Keep what other sites still have to delete; forget it where none has to."""
        path = self.home / "drops" / f"{drop.id}.json"
        if drop.sites:
            write_durably(path, _encode(drop))
            self.drops[drop.id] = drop
        else:
            self.drops.pop(drop.id, None)
            path.unlink(missing_ok=True)

    def stored_bytes(self, tenant: str) -> int:
        """Of all files of a tenant here."""
        return sum(meta.size_bytes for meta in self.files.values() if meta.tenant == tenant)

    def in_use(self, file_id: str, site: str) -> bool:
        """Whether a batch still reads it at this site."""
        return any(
            batch.input_file_id == file_id and batch.runs_at(site)
            for batch in self.batches.values()
        )

    # --- batches

    def put_batch(self, meta: BatchMeta) -> BatchMeta:
        """Keep a batch's new state."""
        write_durably(self.home / "batches" / f"{meta.id}.json", _encode(meta))
        self.batches[meta.id] = meta
        return meta

    def change(self, batch_id: str, **changes: Any) -> BatchMeta:
        """The same with other values."""
        return self.put_batch(msgspec.structs.replace(self.batches[batch_id], **changes))

    def drop_batch(self, batch_id: str) -> None:
        """Forget a batch."""
        self.batches.pop(batch_id, None)
        for kind in ("json", "runs"):
            (self.home / "batches" / f"{batch_id}.{kind}").unlink(missing_ok=True)

    def queued_lines(self, tenant: str, site: str) -> int:
        """Of all unfinished batches of a tenant at this site."""
        unfinished = (meta for meta in self.batches.values() if meta.runs_at(site))
        return sum(meta.lines for meta in unfinished if meta.tenant == tenant)

    def runs(self, batch_id: str) -> RunLog:
        """What was begun of a batch."""
        return RunLog(self.home / "batches" / f"{batch_id}.runs")


class RunLog:
    """Which lines were begun, so that those that a crash ended are known to have run.

    Four bytes a note: line + 1 when it is sent, its negative when no engine got it. Not waited for: a crash of this process loses
    nothing, a crash of the machine at most what is counted as extra.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = -1

    def begun(self, line: int) -> None:
        """It is sent now."""
        self._note(line + 1)

    def undone(self, line: int) -> None:
        """No engine got it."""
        self._note(-line - 1)

    def counts(self) -> dict[int, int]:
        """Line -> runs that an engine may have begun."""
        found: dict[int, int] = {}
        notes = array("i")
        if self._path.exists():
            data = self._path.read_bytes()
            notes.frombytes(data[: len(data) // 4 * 4])
        for note in notes:
            line = abs(note) - 1
            found[line] = found.get(line, 0) + (1 if note > 0 else -1)
        return {line: count for line, count in found.items() if count > 0}

    def close(self, *, remove: bool = False) -> None:
        """No more notes."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        if remove:
            self._path.unlink(missing_ok=True)

    def _note(self, number: int) -> None:
        if self._fd < 0:
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
            self._fd = os.open(self._path, flags, 0o600)
        os.write(self._fd, array("i", (number,)).tobytes())


def fsync_file(file: BinaryIO) -> None:
    """All of it is on disk when this returns."""
    file.flush()
    os.fsync(file.fileno())


def write_durably(path: Path, data: bytes) -> None:
    """By rename, and on disk before it returns."""
    draft = path.with_name(f".{path.name}.{os.getpid()}.new")
    fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        try:
            left = memoryview(data)
            while left:
                left = left[os.write(fd, left) :]  # a disk that is nearly full takes a part
            os.fsync(fd)
        finally:
            os.close(fd)
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _read_all(directory: Path, kind: type[Any]) -> dict[str, Any]:
    found = {}
    for path in directory.glob("[!.]*.json"):
        try:
            meta = msgspec.json.decode(path.read_bytes(), type=kind)
        except (*UNREADABLE, OSError) as error:
            aside = path.with_name(path.name + ASIDE)
            log_line(f"batch: {path} cannot be read and is now {aside.name}: {error}")
            path.replace(aside)
        else:
            found[meta.id] = meta
    return found

"""The controller's log of events on disk: a file a start, and another whenever one is full.

Here: `EventLog`, `controller_logs`, `last_of`. Not here: frames and replay (`dispatch.eventlog`), the state that a second file begins with
(`dispatch.snapshot`). The log is for people who ask why: a full or broken disk ends it and stops nothing else.

Each file is replayed by itself: from its start, where the dispatcher knew nothing, or from the state of the dispatcher at the end of the file
before. Whatever ends a file, it holds whole frames.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

from hanse.dispatch import actions as act
from hanse.dispatch import events as ev
from hanse.dispatch.eventlog import MAGIC, Changes, frame, state_frame
from hanse.errors import ConfigError
from hanse.live.logline import log_line

Found = TypeVar("Found")

FILE_BYTES: Final = 64 * 1024**2
"""A full file is followed by another: two days of a league of twenty sites are read and replayed at once, and copied in a moment."""
BYTES_KEPT: Final = 1024**3
"""Of all files; the oldest go first. A month of a league of twenty sites. Encoded sizes from the log of a running league of four: of an
outlook 2.7 kB a site and 1.0 kB a kind of demand, an observed signal 125 bytes. At the default pace, an outlook in 300 s and signals in
30 s, that is 1.1 MB a day for each site and 0.3 MB for each kind of demand: about 30 MB for twenty of both
(`tests/live/test_event_log.py` adds it up)."""
FILES_KEPT: Final = 64
"""Beside that: a controller that is started again and again writes many small ones."""
SUFFIX: Final = ".events"


class EventLog:
    """Appends what matters; what is too old goes."""

    def __init__(
        self,
        folder: Path,
        started_at_s: float,
        state: Callable[[], bytes],
        *,
        file_bytes: int = FILE_BYTES,
        bytes_kept: int = BYTES_KEPT,
    ) -> None:
        """A new file in a folder.

        Args:
            folder: Made where it is missing.
            started_at_s: Unix seconds; names the file.
            state: The Dispatcher's, asked for when a file is full.
            file_bytes: A file that has so many is followed by another.
            bytes_kept: Of all files together.
        """
        self._folder = folder
        self._state = state
        self._changes = Changes()
        self._bytes = 0
        """Of whole frames in this file."""
        self._file_bytes = file_bytes
        self._bytes_kept = bytes_kept
        self._fd = -1
        self.path = folder
        self._begin(started_at_s, MAGIC)

    def add(self, event: ev.Event, actions: list[act.Action]) -> None:
        """One event and what followed."""
        if self._fd < 0 or not self._changes.needed(event, actions):
            return
        self._append(frame(event, actions))
        if self._fd >= 0 and self._bytes >= self._file_bytes:
            self.close()
            self._begin(event.at_s, MAGIC + state_frame(self._state()))

    def _begin(self, at_s: float, first: bytes) -> None:
        name_ms, self._bytes = int(at_s * 1000), 0
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            newest = max(self._folder.glob(f"*{SUFFIX}"), default=None)
            if newest is not None and newest.stem.isdigit():
                name_ms = max(name_ms, int(newest.stem) + 1)  # a clock that was set back
            self._drop_old(len(first))
            self.path = self._folder / f"{name_ms:016d}{SUFFIX}"
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND
            self._fd = os.open(self.path, flags, 0o600)
        except OSError as error:
            log_line(f"{self._folder}: {error}; decisions go on unlogged")
        self._append(first)

    def _drop_old(self, coming_bytes: int) -> None:
        """So that this file and those before fit."""
        room = self._bytes_kept - max(self._file_bytes, coming_bytes)
        for number, old in enumerate(sorted(self._folder.glob(f"*{SUFFIX}"), reverse=True), 2):
            room -= old.stat().st_size
            if room < 0 or number > FILES_KEPT:
                old.unlink(missing_ok=True)

    def close(self) -> None:
        """Nothing more is written."""
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1

    def _append(self, content: bytes) -> None:
        """All of it, or the file ends before it."""
        if self._fd < 0:
            return
        left = memoryview(content)
        try:
            while left:  # a disk that fills up takes the first bytes and says so with the next
                left = left[os.write(self._fd, left) :]
        except OSError as error:
            log_line(f"{self.path}: {error}; decisions go on unlogged")
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, self._bytes)
            self.close()
            return
        self._bytes += len(content)


def controller_logs(where: Path) -> list[Path]:
    """Logs of controllers: one file, those in a folder, or those of a state directory, in the order in which they were begun.

    Raises:
        ConfigError: there is none.
    """
    if where.is_file():
        return [where]
    places = (where, where / "hub" / "events", *sorted(where.glob("sites/*/events")))
    found = [path for place in places for path in sorted(place.glob(f"*{SUFFIX}"))]
    if not found:
        raise ConfigError(
            str(where),
            got="no log of a controller",
            allowed=f"a state directory with hub/events, a folder of *{SUFFIX}, or one such file",
            fix="give the directory that `hanse up` was started with (default .hanse/<fleet name>)",
        )
    return found


def last_of(where: Path, reading: Callable[..., Found | None]) -> Found | None:
    """What `reading` (`dispatch.eventlog.last_placement`, `last_schedule`) finds in the newest log of some that has any.

    Raises:
        ConfigError: there is no log, or one is damaged.
    """
    for path in reversed(controller_logs(where)):
        found = reading(path.read_bytes(), where=str(path))
        if found is not None:
            return found
    return None

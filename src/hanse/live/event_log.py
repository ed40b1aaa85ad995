"""The controller's log of events on disk, one file a start.

Here: `EventLog`, `controller_logs`. Not here: frames and replay (`dispatch.eventlog`). The log is for people who ask why: a full or
broken disk ends it and stops nothing else.

A file is replayed from its start, where the dispatcher knew nothing; nothing short of a restart brings it back there. So a file that
is full is not followed by another: the log ends, the process's own log says so, and the next start of the controller begins a new one.
Whatever ends it, the file holds whole frames.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Final

from hanse.dispatch import actions as act
from hanse.dispatch import events as ev
from hanse.dispatch.eventlog import MAGIC, Changes, frame
from hanse.errors import ConfigError
from hanse.live.logline import log_line

BYTES_MAX: Final = 1024**3
"""A month of a league of twenty sites. Encoded sizes from the log of a running league of four: of an outlook 2.7 kB a site and 1.0 kB a
kind of demand, an observed signal 125 bytes. At the default pace, an outlook in 300 s and signals in 30 s, that is 1.1 MB a day for each
site and 0.3 MB for each kind of demand: about 30 MB for twenty of both (`tests/live/test_event_log.py` adds it up)."""
FILES_KEPT: Final = 5
SUFFIX: Final = ".events"


class EventLog:
    """Appends what matters; what was before in older files goes when there are too many."""

    def __init__(self, folder: Path, started_at_s: float, *, bytes_max: int = BYTES_MAX) -> None:
        self.path = folder / f"{int(started_at_s * 1000):016d}{SUFFIX}"
        self._changes = Changes()
        self._bytes = 0
        """Of whole frames."""
        self._bytes_max = bytes_max
        self._fd = -1
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            for old in sorted(folder.glob(f"*{SUFFIX}"))[: -(FILES_KEPT - 1)]:
                old.unlink(missing_ok=True)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND
            self._fd = os.open(self.path, flags, 0o600)
        except OSError as error:
            log_line(f"{self.path}: {error}; decisions go on unlogged")
        self._append(MAGIC)

    def add(self, event: ev.Event, actions: list[act.Action]) -> None:
        """One event and what followed."""
        if self._fd < 0 or not self._changes.needed(event, actions):
            return
        content = frame(event, actions)
        if self._bytes + len(content) > self._bytes_max:
            log_line(
                f"{self.path}: full at {self._bytes_max} bytes; decisions go on unlogged until the next start"
            )
            self.close()
            return
        self._append(content)

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
    """Logs of controllers: one file, those in a folder, or those of a state directory, in the order of their starts.

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

"""The controller's log of events on disk, one file a start.

Here: `EventLog`. Not here: frames and replay (`dispatch.eventlog`). The log is for people who ask why: a full or broken disk ends it
and stops nothing else.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from hanse.dispatch import actions as act
from hanse.dispatch import events as ev
from hanse.dispatch.eventlog import MAGIC, Changes, frame
from hanse.live.logline import log_line

BYTES_MAX: Final = 256 * 1024 * 1024
"""A league of twenty sites that places every quarter of an hour writes about 10 MB a day."""
FILES_KEPT: Final = 5
SUFFIX: Final = ".events"


class EventLog:
    """Appends what matters; what was before in older files goes when there are too many."""

    def __init__(self, folder: Path, started_at_s: float) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for old in sorted(folder.glob(f"*{SUFFIX}"))[: -(FILES_KEPT - 1)]:
            old.unlink(missing_ok=True)
        self.path = folder / f"{int(started_at_s * 1000):016d}{SUFFIX}"
        self._changes = Changes()
        self._bytes = len(MAGIC)
        self._fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
        os.write(self._fd, MAGIC)

    def add(self, event: ev.Event, actions: list[act.Action]) -> None:
        """One event and what followed."""
        if self._fd < 0 or not self._changes.needed(event, actions):
            return
        content = frame(event, actions)
        if self._bytes + len(content) > BYTES_MAX:
            log_line(f"{self.path}: full at {BYTES_MAX} bytes; decisions go on unlogged")
            self.close()
            return
        try:
            os.write(self._fd, content)
        except OSError as error:
            log_line(f"{self.path}: {error}; decisions go on unlogged")
            self.close()
            return
        self._bytes += len(content)

    def close(self) -> None:
        """Nothing more is written."""
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1

"""Routing tables on a site's disk: written by rename, the newest named by `current`.

Here: what the agent writes and a cut-off site starts from. Not here: mapping a table in a worker
(`live.gateway`), making one (`dispatch`).
"""

from __future__ import annotations

from pathlib import Path

from hanse.dispatch.table import Table
from hanse.errors import HanseError
from hanse.live.runtime import replace_file

FILES_KEPT = 3
"""The one in force, the one before (a worker may still map it), and one more to compare."""


class TableFiles:
    """The table files of one site directory; one writer (the agent)."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._epoch_path = home / "epoch"
        self.epoch = int(_text(self._epoch_path) or 0)
        self.version = int(_text(home / "current") or 0)

    def accept(self, data: bytes) -> bool:
        """Write a table unless it is older than what is in force; True where it now is in force.

        The highest epoch seen stays on disk: a controller that lost its lease cannot bring an old table back.
        """
        try:
            meta = Table.from_bytes(data).meta
        except HanseError:
            return False
        if meta.epoch < self.epoch or (meta.epoch, meta.version) <= (self.epoch, self.version):
            return False
        if meta.epoch > self.epoch:
            replace_file(self._epoch_path, f"{meta.epoch}\n".encode())
        replace_file(self._home / f"table-{meta.version}.tbl", data)
        replace_file(self._home / "current", f"{meta.version}\n".encode())
        self.epoch, self.version = meta.epoch, meta.version
        self._forget_old()
        return True

    def _forget_old(self) -> None:
        files = sorted(self._home.glob("table-*.tbl"), key=lambda path: path.stat().st_mtime)
        for path in files[:-FILES_KEPT]:
            path.unlink(missing_ok=True)


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except FileNotFoundError:
        return ""

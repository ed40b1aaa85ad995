"""Routing tables on a site's disk: written by rename, the newest named by `current`.

Here: what the agent writes and a cut-off site starts from. Not here: mapping a table in a worker
(`live.gateway`), making one (`dispatch`).
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from hanse.dispatch.table import Table, TableMeta
from hanse.errors import HanseError
from hanse.live.logline import log_line
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
        self.flaw = ""
        """Why the last table that came was none for this version."""
        self.meta: TableMeta | None = None
        """Of the table in force."""
        self.pues: dict[str, float] = {}
        """By site, as that table has them: what requests are charged by."""
        with contextlib.suppress(OSError, HanseError):
            self._hold(Table.from_bytes((home / f"table-{self.version}.tbl").read_bytes()))

    def accept(self, data: bytes) -> bool:
        """Write a table unless it is older than what is in force; True where it now is in force.

        The highest epoch seen stays on disk: a controller that lost its lease cannot bring an old table back.
        """
        try:
            table = Table.from_bytes(data)
        except HanseError as error:
            if str(error) != self.flaw:
                self.flaw = str(error)
                log_line(f"table not taken: {error}")
            return False
        meta = table.meta
        in_force = self.epoch if self.meta is None else self.meta.epoch
        if meta.epoch < self.epoch or (meta.epoch, meta.version) <= (in_force, self.version):
            return False
        self.see_epoch(meta.epoch)
        replace_file(self._home / f"table-{meta.version}.tbl", data)
        replace_file(self._home / "current", f"{meta.version}\n".encode())
        self.version = meta.version
        self._hold(table)
        self._forget_old()
        return True

    def _hold(self, table: Table) -> None:
        self.meta = table.meta
        self.pues = {
            site: float(table.sites[index]["pue"]) for site, index in table.site_index.items()
        }

    def see_epoch(self, epoch: int) -> None:
        """Keep the highest epoch that anything obeyed came under."""
        if epoch > self.epoch:
            replace_file(self._epoch_path, f"{epoch}\n".encode())
            self.epoch = epoch

    def _forget_old(self) -> None:
        files = sorted(self._home.glob("table-*.tbl"), key=lambda path: path.stat().st_mtime)
        for path in files[:-FILES_KEPT]:
            path.unlink(missing_ok=True)


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except FileNotFoundError:
        return ""

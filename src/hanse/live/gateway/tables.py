"""The routing table file, mapped.

Here: finding the newest table on disk and mapping it. Not here: writing tables (`live.tablefile`, the agent).
"""

from __future__ import annotations

import mmap
from pathlib import Path

from hanse.dispatch.table import Table
from hanse.errors import ConfigError


class TableFile:
    """A table file, or a directory in which `current` names the version in force."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.version = 0
        self.problem = ""
        self._seen: tuple[int, int] | None = None

    def newer(self) -> Table | None:
        """The table in force where it is not the one returned last.

        Raises:
            ConfigError: the file is no table of this version.
        """
        pointer = self.path if self.path.is_file() else self.path / "current"
        try:
            stat = pointer.stat()
            seen = (stat.st_ino, stat.st_mtime_ns)
            if seen == self._seen:
                return None
            table = self._map(self._file(pointer))
        except FileNotFoundError:
            return None
        self._seen = seen
        self.version = table.meta.version
        self.problem = ""
        return table

    def _file(self, pointer: Path) -> Path:
        if pointer == self.path:
            return pointer
        text = pointer.read_text().strip()
        if not text.isdigit():
            raise ConfigError(str(pointer), got=repr(text[:32]), allowed="a table version")
        return self.path / f"table-{text}.tbl"

    def _map(self, path: Path) -> Table:
        with path.open("rb") as file:
            memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return Table.from_bytes(memoryview(memory))

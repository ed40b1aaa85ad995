"""Live traffic as a trace: rows appended over time, in a log that survives a crash, made a trace when it is wanted.

Here: `TraceRecorder`, one row a request with names in place of indices, and `recorded_trace`, which makes the file.
Not here: whose traffic it is and when to record; contents of requests, which are never recorded.

A Parquet file has no end before it is closed, so what must survive is one JSON object a line. Rows may come in any
order: a request's tokens are known when it has ended.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Final

import msgspec

from hanse.errors import FeedError
from hanse.model.fleet import Value
from hanse.signals.traces.trace import Origin, TraceMeta, write_trace

BUFFER_BYTES: Final = 65_536
"""What a crash of the machine or the process may cost, unless `flush` is called: a few hundred rows."""


class RecordedRequest(Value, frozen=True, kw_only=True):
    """One row. `session` is any text that is the same for one conversation and says nothing of it, such as a digest."""

    at: float
    """Unix seconds UTC at which the request arrived."""
    service: str
    cls: str = msgspec.field(name="class", default="")
    origin: str = ""
    tenant: str = ""
    tokens_in: int = msgspec.field(name="in")
    tokens_out: int = msgspec.field(name="out")
    session: str = ""


class TraceRecorder:
    """Appends rows to a log; opened again it goes on behind what is there, even behind half a row."""

    def __init__(self, path: Path) -> None:
        try:
            self._file = path.open("ab", buffering=BUFFER_BYTES)
        except OSError as error:
            fix = "name a file in a folder that can be written"
            raise FeedError(str(path), got=error.strerror or str(error), fix=fix) from error
        self._encoder = msgspec.json.Encoder()
        if self._file.tell() and not _ends_a_line(path):
            self._file.write(b"\n")

    def add(self, row: RecordedRequest) -> None:
        """Append one request, when it has ended."""
        self._file.write(self._encoder.encode(row) + b"\n")

    def flush(self, *, to_disk: bool = False) -> None:
        """Hand rows to the operating system; `to_disk`: and wait until they are on the disk."""
        self._file.flush()
        if to_disk:
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Write what is left."""
        self._file.close()

    def __enter__(self) -> TraceRecorder:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.close()


def recorded_trace(
    log: Path, out: Path, *, name: str, source: str, licence: str, origins: Sequence[Origin] = ()
) -> tuple[TraceMeta, int]:
    """Make a trace of a log, which may still grow: of whole rows that are there now. Returns what the trace says of itself and how many rows were broken.

    `origins` says where the recorded origins are; any other is looked up as a city or a country.

    Raises:
        FeedError: where there is no log, or no row in it.
    """
    from hanse.signals.traces.tables import (
        Columns,
        Table,
        read_table,
    )  # pyarrow is not for gateways

    columns = Columns(
        at="at",
        tokens_in="in",
        tokens_out="out",
        service="service",
        cls="class",
        origin="origin",
        tenant="tenant",
        session="session",
    )
    table = Table(
        path=log,
        form="jsonl",
        columns=columns,
        time="s",
        name=name,
        source=source,
        licence=licence,
        origins=tuple(origins),
        skip_bad=True,
        limit_bytes=log.stat().st_size if log.exists() else 0,
    )
    done = read_table(table)
    return write_trace(out, done.trace.meta, done.trace.chunks()), done.skipped


def _ends_a_line(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"

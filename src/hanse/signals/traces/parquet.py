"""Traces on disk: Parquet with zstd, what the trace says of itself in the file's key-value metadata.

Here: writing row group by row group under a temporary name, reading the same way, and what makes a file a trace.
Not here: what a chunk is (`trace`). Any Parquet reader can read the columns; `blocks` is a list of 64-bit ids.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import msgspec
import numpy as np
import pyarrow as pa  # type: ignore[import-untyped,unused-ignore]
import pyarrow.parquet as pq  # type: ignore[import-untyped,unused-ignore]

from hanse.errors import FeedError
from hanse.signals.traces.trace import (
    ASKED_COLUMNS,
    CHUNK_REQUESTS,
    NO_BLOCKS,
    REQUEST_DTYPE,
    Chunk,
    Trace,
    TraceMeta,
    checked,
    pack,
    resized,
)

META_KEY: Final = b"hanse_trace"
FORMAT: Final = "hanse-trace/1"
GROUP_BLOCKS_MAX: Final = 4_194_304
"""Block ids in a row group: 32 MB, so that a reader's memory has a bound whatever the prompts' length."""

COLUMNS: Final = tuple(
    name
    for name in REQUEST_DTYPE.names or ()
    if not name.startswith("block_") and name not in ASKED_COLUMNS
)
SCHEMA: Final = pa.schema(
    [
        *(pa.field(n, pa.from_numpy_dtype(REQUEST_DTYPE[n]), nullable=False) for n in COLUMNS),
        pa.field(
            "blocks", pa.list_(pa.field("element", pa.int64(), nullable=False)), nullable=False
        ),
    ]
)
# Times and ids are runs of close numbers: their high bytes are alike. Names and tokens repeat: dictionaries.
SPLIT_COLUMNS: Final = ["at_s", "session", "blocks.list.element"]
DICTIONARY_COLUMNS: Final = [name for name in COLUMNS if name not in SPLIT_COLUMNS]
ZSTD_LEVEL: Final = 3
"""zstd's own default; level 9 takes three times as long for some per cent."""


class _Header(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What stands under `META_KEY`."""

    format: str
    meta: TraceMeta


class TraceWriter:
    """Appends chunks to a file that appears under its name, whole, when it is closed.

    As a context manager it closes at the end, and leaves nothing behind where the block fails.
    """

    def __init__(self, path: Path, meta: TraceMeta) -> None:
        self.meta = meta
        self._path = path
        self._part = path.with_name(f"{path.name}.{os.getpid()}.part")
        self._count, self._last_s = 0, 0.0
        try:
            self._file: Any = pq.ParquetWriter(
                str(self._part),
                SCHEMA,
                compression="zstd",
                compression_level=ZSTD_LEVEL,
                use_dictionary=DICTIONARY_COLUMNS,
                use_byte_stream_split=SPLIT_COLUMNS,
                store_schema=False,
            )
        except OSError as error:
            raise FeedError(
                str(path), got=str(error), fix="name a file in a folder that can be written"
            ) from error

    def append(self, chunk: Chunk) -> None:
        """Write one packed chunk as a row group, or as several where it has very many blocks."""
        if len(chunk.requests) == 0:
            return
        table = _table(chunk)
        rows = len(chunk.requests) * GROUP_BLOCKS_MAX // max(len(chunk.blocks), GROUP_BLOCKS_MAX)
        self._file.write_table(table, row_group_size=max(1, rows))
        self._count += len(chunk.requests)
        self._last_s = float(chunk.requests["at_s"][-1])

    def close(self) -> TraceMeta:
        """Finish the file; returns what it says of itself."""
        duration_s = max(self.meta.duration_s, self._last_s)
        self.meta = msgspec.structs.replace(self.meta, count=self._count, duration_s=duration_s)
        header = msgspec.json.encode(_Header(format=FORMAT, meta=self.meta))
        self._file.add_key_value_metadata({META_KEY: header})
        self._file.close()
        self._part.replace(self._path)
        return self.meta

    def __enter__(self) -> TraceWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        if kind is None:
            self.close()
        else:
            self._file.close()
            self._part.unlink(missing_ok=True)


def write_parquet(path: Path, meta: TraceMeta, chunks: Iterable[Chunk]) -> TraceMeta:
    """See `trace.write_trace`. Row groups have `CHUNK_REQUESTS` requests, however the chunks were cut."""
    try:
        with TraceWriter(path, meta) as writer:
            for chunk in checked(resized(chunks, CHUNK_REQUESTS), meta, str(path)):
                writer.append(chunk)
    except OSError as error:
        raise FeedError(str(path), got=str(error), fix="make room where it is written") from error
    return writer.meta


def open_parquet(path: Path) -> Trace:
    """See `trace.open_trace`."""
    meta = _header(path)

    def pieces() -> Iterator[Chunk]:
        return checked(_row_groups(path), meta, str(path))

    return Trace(meta, pieces)


def _header(path: Path) -> TraceMeta:
    with _opened(path) as file:
        raw = (file.metadata.metadata or {}).get(META_KEY)
        fix = "make a trace of it with `hanse trace import`"
        if raw is None:
            allowed = f"a Parquet file with `{META_KEY.decode()}` in its metadata"
            raise FeedError(str(path), got="Parquet of another kind", allowed=allowed, fix=fix)
        try:
            header = msgspec.json.decode(raw, type=_Header)
        except msgspec.ValidationError as error:
            raise FeedError(str(path), got=str(error), allowed=FORMAT) from error
        if header.format != FORMAT:
            raise FeedError(str(path), got=header.format, allowed=FORMAT)
        found = {field.name: str(field.type) for field in file.schema_arrow}
        wrong = [f.name for f in SCHEMA if found.get(f.name) != str(f.type)]
        if wrong:
            allowed = ", ".join(f"{f.name} {f.type}" for f in SCHEMA if f.name in wrong)
            raise FeedError(f"{path}, columns", got=found, allowed=allowed, fix=fix)
    return header.meta


def _opened(path: Path) -> Any:
    try:
        # Not mapped: pages of a mapped file count as memory of whoever reads it.
        return pq.ParquetFile(str(path))
    except FileNotFoundError as error:
        raise FeedError(str(path), got="no such file", fix="name a trace that exists") from error
    except (OSError, pa.ArrowInvalid) as error:
        raise FeedError(str(path), got=str(error), allowed="a trace in Parquet") from error


def _row_groups(path: Path) -> Iterator[Chunk]:
    with _opened(path) as file:
        for group in range(file.num_row_groups):
            try:
                # One thread: whoever reads is simulating on the other cores.
                table = file.read_row_group(group, use_threads=False)
            except (OSError, pa.ArrowInvalid) as error:
                raise FeedError(f"{path}, row group {group}", got=str(error)) from error
            yield _chunk(table)


def _table(chunk: Chunk) -> Any:
    columns = [pa.array(np.ascontiguousarray(chunk.requests[name])) for name in COLUMNS]
    counts = chunk.requests["block_count"]
    offsets = np.zeros(len(counts) + 1, np.int32)
    np.cumsum(counts, out=offsets[1:])
    lists = pa.ListArray.from_arrays(
        pa.array(offsets), pa.array(chunk.blocks), type=SCHEMA.field("blocks").type
    )
    return pa.Table.from_arrays([*columns, lists], schema=SCHEMA)


def _chunk(table: Any) -> Chunk:
    requests = np.zeros(table.num_rows, REQUEST_DTYPE)
    for name in COLUMNS:
        requests[name] = table.column(name).to_numpy()
    lists = table.column("blocks").combine_chunks()
    requests["block_count"] = np.diff(lists.offsets.to_numpy())
    ids = lists.flatten()
    return pack(requests, ids.to_numpy() if len(ids) else NO_BLOCKS)

"""`Trace`: requests as data, in chunks, sorted by time; what a recording, a generator and a file have in common.

Here: the record of one request, what a trace says of itself, chunks and how they are cut and joined; `open_trace` and
`write_trace` by name. Not here: the file format (`parquet`), other people's formats (`tables`, `servegen`), making
requests (`generate`), changing them (`transform`). Nothing here holds more than a few chunks, however long a trace is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from hanse.errors import FeedError
from hanse.model.fleet import Value

CHUNK_REQUESTS: Final = 65_536
"""Requests in a chunk: 4.2 MB of records stay near the processor's cache, and a loop's own cost vanishes."""

REQUEST_DTYPE: Final = np.dtype(
    [
        ("at_s", "f8"),  # seconds from the trace's start
        ("service", "i4"),  # index in TraceMeta.services; -1 none, as in the three below
        ("cls", "i4"),  # data class, in TraceMeta.classes
        ("origin", "i4"),  # where the user is, in TraceMeta.origins
        ("tenant", "i4"),  # in TraceMeta.tenants
        ("tokens_in", "i4"),
        ("tokens_out", "i4"),
        ("limit_out", "i4"),  # answer tokens that the user allowed at most; 0 none or unknown
        ("guess_in", "i4"),  # prompt tokens as a gateway guesses them from bytes; 0: as they are
        ("session", "i8"),  # same number, same conversation; -1 none
        ("block_at", "i8"),  # where its prefix block ids begin in Chunk.blocks
        ("block_count", "i4"),
    ],
    align=True,
)
"""One request. Blocks of a chunk lie in the order of its requests, without gaps (`is_packed`). The last four bytes are
padding of no meaning: compare records with `==`, not byte by byte. `limit_out` and `guess_in` are what gateways decide by where it differs
from what comes of a request; files do not have them."""

ASKED_COLUMNS: Final = ("limit_out", "guess_in")

_MEMORY: Final = np.dtype((np.void, REQUEST_DTYPE.itemsize))

INDEX_COLUMNS: Final = ("service", "cls", "origin", "tenant")

SHIPPED: Final = Path(__file__).parents[1] / "data" / "traces"

Requests: TypeAlias = NDArray[np.void]
Blocks: TypeAlias = NDArray[np.int64]


class Origin(Value, frozen=True, kw_only=True):
    """A place where users are."""

    id: str
    lat_deg: float
    lon_deg: float
    country: str
    """ISO 3166-1 alpha-2."""


class TraceMeta(Value, frozen=True, kw_only=True):
    """What a trace says of itself. An empty tuple of names: the trace does not say, and the column is -1."""

    name: str
    source: str
    licence: str
    services: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    origins: tuple[Origin, ...] = ()
    tenants: tuple[str, ...] = ()
    block_tokens: int = 0
    """Tokens of one prefix block; 0: no blocks. Equal ids mean equal tokens from the prompt's start on."""
    count: int = -1
    """Requests; -1 unknown before it was read."""
    duration_s: float
    """Length of the window that was recorded or made; no request is later."""
    start_at_s: float = 0.0
    """Unix seconds UTC of at_s = 0; 0 unknown."""
    note: str = ""

    def names(self, column: str) -> tuple[str, ...]:
        """Names that an index column points into."""
        if column == "origin":
            return tuple(origin.id for origin in self.origins)
        names: tuple[str, ...] = getattr(
            self, {"service": "services", "cls": "classes", "tenant": "tenants"}[column]
        )
        return names


class Chunk(NamedTuple):
    """Some requests of a trace in order of time, and the ids of their prefix blocks, one after another."""

    requests: Requests
    blocks: Blocks


NO_BLOCKS: Final[Blocks] = np.empty(0, np.int64)


class Trace:
    """Requests in order of time, to be read as often as one likes.

    `pieces` makes a new iterator over chunks of any length at each call, each packed and all sorted.
    """

    def __init__(self, meta: TraceMeta, pieces: Callable[[], Iterator[Chunk]]) -> None:
        self.meta = meta
        self._pieces = pieces

    def chunks(self, size: int = CHUNK_REQUESTS) -> Iterator[Chunk]:
        """Chunks of `size` requests; only the last is shorter."""
        assert size > 0, "a chunk has requests"
        return resized(self._pieces(), size)

    @classmethod
    def of(cls, meta: TraceMeta, requests: Requests, blocks: Blocks = NO_BLOCKS) -> Trace:
        """A trace that is already in memory."""
        whole = Chunk(requests, blocks)
        if not is_packed(whole):
            whole = take(whole, np.arange(len(requests)))
        return cls(meta, lambda: iter((whole,)))


def open_trace(path: Path | str) -> Trace:
    """The trace of a file written by `write_trace`; read row group by row group, whenever asked.

    Raises:
        FeedError: where the file is missing, is no trace or is out of order.
    """
    from hanse.signals.traces.parquet import (
        open_parquet,
    )  # pyarrow takes 0.15 s and is not always needed

    return open_parquet(Path(path))


def shipped_trace() -> Trace:
    """The day of the example league that ships with Hanse; `league_day.toml` beside it says how it was made."""
    return open_trace(SHIPPED / "league_day.parquet")


def write_trace(path: Path | str, meta: TraceMeta, chunks: Iterable[Chunk]) -> TraceMeta:
    """Write chunks as they come; the file appears whole, under its name, at the end.

    Returns what the file says of itself: `count` is what was written, `duration_s` at least the last arrival.
    """
    from hanse.signals.traces.parquet import write_parquet

    return write_parquet(Path(path), meta, chunks)


def empty_requests(count: int) -> Requests:
    """Records with no names, no session and no blocks; times and tokens are 0."""
    requests = np.zeros(count, REQUEST_DTYPE)
    for column in (*INDEX_COLUMNS, "session"):
        requests[column] = -1
    return requests


def stacked(parts: list[Requests]) -> Requests:
    """Records one after another; as plain memory, because numpy compares fields for each part otherwise (15 us)."""
    memory = np.concatenate([part.view(_MEMORY) for part in parts])
    return memory.view(REQUEST_DTYPE)


def is_packed(chunk: Chunk) -> bool:
    """Blocks lie in the order of the requests, without gaps and without others."""
    counts = chunk.requests["block_count"].astype(np.int64)
    ends = np.cumsum(counts)
    total = int(ends[-1]) if len(ends) else 0
    return total == len(chunk.blocks) and bool(np.all(chunk.requests["block_at"] == ends - counts))


def pack(requests: Requests, blocks: Blocks) -> Chunk:
    """A chunk of requests whose `blocks` already lie in their order: sets where each one's begin."""
    counts = requests["block_count"].astype(np.int64)
    requests["block_at"] = np.cumsum(counts) - counts
    return Chunk(requests, blocks)


def take(chunk: Chunk, index: NDArray[Any]) -> Chunk:
    """The requests at `index` (numbers or a mask), in that order, with their blocks."""
    requests = chunk.requests[index]
    counts = requests["block_count"].astype(np.int64)
    total = int(counts.sum())
    if total == 0:
        requests["block_at"] = 0
        return Chunk(requests, NO_BLOCKS)
    at = np.cumsum(counts) - counts
    where = np.arange(total) + np.repeat(requests["block_at"] - at, counts)
    requests["block_at"] = at
    return Chunk(requests, chunk.blocks[where])


def cut(chunk: Chunk, first: int, last: int) -> Chunk:
    """Requests `[first, last)` of a packed chunk."""
    count = len(chunk.requests)
    if first == 0 and last >= count:
        return chunk
    requests = chunk.requests[first:last]
    if len(chunk.blocks) == 0 or len(requests) == 0:
        return Chunk(requests, NO_BLOCKS)
    begin = int(requests["block_at"][0])
    end = int(chunk.requests["block_at"][last]) if last < count else len(chunk.blocks)
    requests = requests.copy()
    requests["block_at"] -= begin
    return Chunk(requests, chunk.blocks[begin:end])


def join(chunks: list[Chunk]) -> Chunk:
    """Packed chunks one after another."""
    if len(chunks) == 1:
        return chunks[0]
    if not chunks:
        return Chunk(empty_requests(0), NO_BLOCKS)
    requests = stacked([chunk.requests for chunk in chunks])
    return pack(requests, np.concatenate([chunk.blocks for chunk in chunks]))


def resized(pieces: Iterable[Chunk], size: int) -> Iterator[Chunk]:
    """The same requests in chunks of `size`; only the last is shorter."""
    held: list[Chunk] = []
    missing = size
    for piece in pieces:
        first, count = 0, len(piece.requests)
        while count - first >= missing:
            held.append(cut(piece, first, first + missing))
            first += missing
            yield join(held)
            held, missing = [], size
        if first < count:
            held.append(cut(piece, first, count))
            missing -= count - first
    if held:
        yield join(held)


def checked(pieces: Iterable[Chunk], meta: TraceMeta, where: str) -> Iterator[Chunk]:
    """The same chunks, or an error at the first request that breaks what `Trace` promises."""
    last_s, seen = 0.0, 0
    limits = {column: len(meta.names(column)) for column in INDEX_COLUMNS}
    for piece in pieces:
        requests = piece.requests
        if len(requests) == 0:
            continue
        assert is_packed(piece), "blocks lie in the order of their requests"
        at_s = requests["at_s"]
        if not (at_s[0] >= last_s and np.all(at_s[1:] >= at_s[:-1]) and np.isfinite(at_s[-1])):
            raise _out_of_order(at_s, last_s, seen, where)
        for column, limit in limits.items():
            if requests[column].min() < -1 or requests[column].max() >= limit:
                bad = int(np.argmax((requests[column] < -1) | (requests[column] >= limit)))
                raise FeedError(
                    f"{where}, request {seen + bad}, {column}",
                    got=int(requests[column][bad]),
                    allowed=f"-1 to {limit - 1} (an index of the {limit} names in its meta)",
                )
        if min(requests["tokens_in"].min(), requests["tokens_out"].min()) < 0:
            raise FeedError(where, got="a negative number of tokens", allowed="0 or more")
        last_s = float(at_s[-1])
        seen += len(requests)
        yield piece


def _out_of_order(at_s: NDArray[np.float64], last_s: float, seen: int, where: str) -> FeedError:
    before = np.concatenate(([last_s], at_s[:-1]))
    bad = int(np.argmax(~(at_s >= before) | ~np.isfinite(at_s)))
    return FeedError(
        f"{where}, request {seen + bad}, at_s",
        got=repr(float(at_s[bad])),
        allowed=f"{before[bad]!r} or later: requests are in order of time, the first at 0 or later",
        fix="sort the requests; `hanse trace import` does",
    )

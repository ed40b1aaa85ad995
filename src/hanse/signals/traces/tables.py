"""Traces from tables: any CSV or JSON Lines file whose columns are named.

Here: a first reading that learns names, times and what is wrong, so that errors come before results, and further
readings that give requests. Not here: text to numbers (`rows`), which columns public traces have (`formats`).
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from hanse.catalogue.cities import cities, city
from hanse.errors import ConfigError, FeedError
from hanse.model.fleet import Value
from hanse.signals.traces import rows
from hanse.signals.traces.rows import BadRows, Batch, Form, Progress, Unit
from hanse.signals.traces.sorting import in_order
from hanse.signals.traces.trace import (
    INDEX_COLUMNS,
    NO_BLOCKS,
    Blocks,
    Chunk,
    Origin,
    Trace,
    TraceMeta,
    empty_requests,
    take,
)
from hanse.signals.traces.trace import pack as packed

Ints = NDArray[np.int64]
NAMES_MAX: Final = 10_000
"""Distinct services, classes, origins or tenants; a column with more is another one by mistake."""
EPOCH_S_MIN: Final = 1e9
"""Seconds from here on (2001) are a date; below, they count from a trace's start."""
HASHED_FROM: Final = 1 << 62
"""Conversations that are not numbered get numbers of 62 hashed bits above this one."""


class Columns(Value, frozen=True, kw_only=True):
    """Which column of a table is what; an empty name: the table does not have it."""

    at: str
    tokens_in: str = msgspec.field(name="in")
    tokens_out: str = msgspec.field(name="out")
    service: str = ""
    cls: str = msgspec.field(name="class", default="")
    origin: str = ""
    tenant: str = ""
    session: str = ""
    blocks: str = ""
    """Lists of prefix block ids; JSON Lines only."""


class Table(Value, frozen=True, kw_only=True):
    """A file and how to read it."""

    path: Path
    form: Form
    columns: Columns
    time: Unit | Literal["auto"] = "auto"
    zero_at_s: float = 0.0
    """Unix seconds UTC at which the file's times are 0, where it counts from a known instant."""
    service: str = ""
    """Name of all requests' service where no column says it."""
    block_tokens: int = 0
    origins: tuple[Origin, ...] = ()
    """Where origins are; any other name is a city's, or a country's code and stands for its largest city."""
    name: str = ""
    source: str = ""
    licence: str = "unknown"
    note: str = ""
    skip_bad: bool = False
    limit_bytes: int = 0
    """JSON Lines that are still being written: how much of the file to read, the same at each reading."""


class Imported(NamedTuple):
    """A trace and what was found out about its file."""

    trace: Trace
    said: tuple[str, ...]
    """What was assumed and left out, for people."""
    skipped: int
    """Bad rows left out."""


def read_table(table: Table, progress: Progress | None = None) -> Imported:
    """The trace in a table, after a first reading from front to back.

    Raises:
        FeedError: at the first bad row, unless `skip_bad`; where there is no row at all.
        ConfigError: where a named column does not exist.
    """
    _check_columns(table)
    found = _survey(table, progress)
    columns = table.columns
    origins = _places(list(found.names["origin"]), table)
    meta = TraceMeta(
        name=table.name or table.path.name.split(".")[0],
        source=table.source or table.path.name,
        licence=table.licence,
        services=tuple(found.names["service"]),
        classes=tuple(found.names["cls"]),
        origins=origins,
        tenants=tuple(found.names["tenant"]),
        block_tokens=table.block_tokens if columns.blocks else 0,
        count=found.count,
        duration_s=(found.last_ns - found.base_ns) / rows.NS_PER["s"],
        start_at_s=table.zero_at_s + found.base_ns / rows.NS_PER["s"] if found.dated else 0.0,
        note=table.note,
    )

    def pieces() -> Iterator[Chunk]:
        chunks = _chunks(table, found)
        return chunks if found.sorted else in_order(chunks, meta)

    return Imported(Trace(meta, pieces), tuple(found.said), found.bad.count)


class _Survey:
    """What the first reading learns."""

    def __init__(self, table: Table) -> None:
        self.bad = BadRows(table.path, table.form, skip=table.skip_bad)
        self.unit: Unit | None = None if table.time == "auto" else table.time
        self.names: dict[str, dict[str, int]] = {column: {} for column in INDEX_COLUMNS}
        if table.service:
            self.names["service"][table.service] = 0
        self.count = 0
        self.first_ns, self.last_ns = 1 << 62, -1
        self.base_ns = 0
        self.sorted = True
        self.dated = table.zero_at_s > 0.0
        self.said: list[str] = []


class _Parsed(NamedTuple):
    """A batch as numbers."""

    ok: NDArray[np.bool_]
    at_ns: Ints
    tokens_in: Ints
    tokens_out: Ints


def _survey(table: Table, progress: Progress | None) -> _Survey:
    found = _Survey(table)
    for batch in _batches(table, found.bad, progress):
        if found.unit is None:
            found.unit = rows.unit_of(batch, table.columns.at)
        parsed = _parsed(batch, table, found.unit, found.bad)
        found.bad.count += int((~parsed.ok).sum())
        at_ns = parsed.at_ns[parsed.ok]
        if not len(at_ns):
            continue
        found.sorted &= bool(at_ns[0] >= found.last_ns and np.all(at_ns[1:] >= at_ns[:-1]))
        found.first_ns = min(found.first_ns, int(at_ns.min()))
        found.last_ns = max(found.last_ns, int(at_ns.max()))
        found.count += len(at_ns)
        for column in INDEX_COLUMNS:
            _learn(found, batch, column, getattr(table.columns, column), parsed.ok)
    if not found.count:
        got = f"no row that can be read ({found.bad.count} bad)" if found.bad.count else "no row"
        raise FeedError(str(table.path), got=got, allowed="one request at least")
    found.dated |= found.first_ns >= EPOCH_S_MIN * rows.NS_PER["s"]
    minute_ns = 60 * rows.NS_PER["s"]
    found.base_ns = found.first_ns // minute_ns * minute_ns if found.dated else 0
    _tell(found, table)
    return found


def _tell(found: _Survey, table: Table) -> None:
    at = table.columns.at
    assumed = "" if table.time != "auto" else ", detected (say otherwise with --time)"
    words = (
        "ISO 8601 (UTC where no zone is given)"
        if found.unit == "iso"
        else f"numbers in {found.unit}"
    )
    found.said.append(
        f"{at}: {words}{assumed}; {'dates' if found.dated else 'counted from the start'}"
    )
    if not found.sorted:
        found.said.append("rows were not in order of time and were sorted")
    if found.bad.count:
        found.said.append(f"{found.bad.count} bad rows left out, such as:")
        found.said += [f"  {text}" for text in found.bad.named]


def _batches(table: Table, bad: BadRows, progress: Progress | None) -> Iterator[Batch]:
    used = [name for name in _used(table.columns) if name != table.columns.blocks]
    if table.form == "csv":
        return rows.csv_batches(table.path, used, bad, progress)
    lists = [table.columns.blocks] if table.columns.blocks else []
    return rows.jsonl_batches(table.path, used, lists, bad, progress, table.limit_bytes)


def _used(columns: Columns) -> list[str]:
    names = [getattr(columns, field) for field in columns.__struct_fields__]
    return list(dict.fromkeys(name for name in names if name))


def _parsed(batch: Batch, table: Table, unit: Unit, bad: BadRows) -> _Parsed:
    columns = table.columns
    at_ns, at_ok = rows.instants(batch, columns.at, unit, bad)
    tokens_in, in_ok = rows.whole_numbers(batch, columns.tokens_in, bad)
    tokens_out, out_ok = rows.whole_numbers(batch, columns.tokens_out, bad)
    ok = at_ok & in_ok & out_ok
    if columns.blocks:
        ok &= rows.lists_of_ids(batch, columns.blocks, bad)
    return _Parsed(ok, at_ns, tokens_in, tokens_out)


def _learn(found: _Survey, batch: Batch, column: str, name: str, ok: NDArray[np.bool_]) -> None:
    if not name:
        return
    known = found.names[column]
    codes, distinct = rows.texts(batch, name)
    for code in np.unique(codes[ok]).tolist():
        if distinct[code]:
            known.setdefault(distinct[code], len(known))
    if len(known) > NAMES_MAX:
        allowed = f"at most {NAMES_MAX} different values for `{column}`"
        raise FeedError(f"{found.bad.path}, {name}", got=f"{len(known)} and more", allowed=allowed)


def _chunks(table: Table, found: _Survey) -> Iterator[Chunk]:
    """A further reading: bad rows are left out without a word, as the first one has spoken."""
    bad = BadRows(table.path, table.form, skip=True)
    bad.named = [""] * rows.NAMED_BAD_ROWS
    assert found.unit is not None, "the survey has seen a row"
    for batch in _batches(table, bad, None):
        parsed = _parsed(batch, table, found.unit, bad)
        requests = empty_requests(len(batch))
        requests["at_s"] = (parsed.at_ns - found.base_ns) / rows.NS_PER["s"]
        requests["tokens_in"] = parsed.tokens_in
        requests["tokens_out"] = parsed.tokens_out
        for column in INDEX_COLUMNS:
            if name := getattr(table.columns, column):
                codes, distinct = rows.texts(batch, name)
                known = found.names[column]
                requests[column] = np.array([known.get(d, -1) for d in distinct], np.int32)[codes]
        if table.service and not table.columns.service:
            requests["service"] = 0
        if table.columns.session:
            requests["session"] = _sessions(batch, table.columns.session)
        blocks = _blocks(batch, table.columns.blocks, parsed.ok, requests)
        yield take(packed(requests, blocks), parsed.ok)


def _sessions(batch: Batch, name: str) -> Ints:
    values = batch.columns[name]
    numbers = isinstance(values, np.ndarray) and values.dtype.kind == "i"
    if numbers and values.min() >= 0 and values.max() < HASHED_FROM:
        ids: Ints = values.astype(np.int64)
        return ids
    codes, distinct = rows.texts(batch, name)
    return np.array([_session(text) for text in distinct], np.int64)[codes]


def _session(text: str) -> int:
    if text in ("", "-1"):
        return -1
    if text.isascii() and text.isdigit() and int(text) < HASHED_FROM:
        return int(text)
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return HASHED_FROM | int.from_bytes(digest, "big") >> 2


def _blocks(batch: Batch, name: str, ok: NDArray[np.bool_], requests: Any) -> Blocks:
    if not name:
        return NO_BLOCKS
    lists = [ids if good else () for ids, good in zip(batch.lists[name], ok.tolist(), strict=True)]
    requests["block_count"] = [len(ids) for ids in lists]
    total = int(requests["block_count"].sum())
    return np.fromiter(itertools.chain.from_iterable(lists), np.int64, count=total)


def _places(names: list[str], table: Table) -> tuple[Origin, ...]:
    known = {origin.id: origin for origin in table.origins}
    return tuple(
        known.get(name) or place(name, f"{table.path}, {table.columns.origin}") for name in names
    )


def place(name: str, where: str) -> Origin:
    """A city by name, or a country by its code: its largest city."""
    is_code = len(name) == 2 and name.isupper()
    largest = next((c for c in cities() if c.iso2 == name), None) if is_code else None
    at = largest or city(name, where=where)
    return Origin(id=name, lat_deg=at.lat, lon_deg=at.lon, country=at.iso2)


def _check_columns(table: Table) -> None:
    if table.form == "jsonl":
        with rows.opened(table.path):
            return
    header, _ = rows.header_of(table.path)
    if table.columns.blocks:
        raise ConfigError("--map blocks", got="a CSV file", allowed="JSON Lines, which has lists")
    for name in _used(table.columns):
        if name not in header:
            allowed = f"one of {', '.join(header)}"
            raise ConfigError(f"{table.path}, column", got=repr(name), allowed=allowed)

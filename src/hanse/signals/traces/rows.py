"""Rows of CSV and JSON Lines files, in batches of columns; which rows are bad, where they stand and why.

Here: opening (also .gz), cutting into batches, text to numbers and instants. Not here: what the columns mean (`tables`).
A file is read front to back in blocks of 4 MB; only a bad row's line number costs a second look.
"""

from __future__ import annotations

import array
import csv
import gzip
import itertools
import math
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, Final, Literal, NamedTuple, TypeAlias, cast

import msgspec
import numpy as np
import pyarrow as pa  # type: ignore[import-untyped,unused-ignore]
import pyarrow.csv as pa_csv  # type: ignore[import-untyped,unused-ignore]
from numpy.typing import NDArray

from hanse.errors import FeedError
from hanse.model.told import UNREADABLE

BLOCK_BYTES: Final = 4 * 1024 * 1024
NAMED_BAD_ROWS: Final = 3
CSV_TEXT: Final = "CSV in UTF-8, or .gz of it"
NS_PER: Final = {"s": 1_000_000_000, "ms": 1_000_000, "us": 1000, "ns": 1}
Unit: TypeAlias = Literal["s", "ms", "us", "ns", "iso"]
Form: TypeAlias = Literal["csv", "jsonl"]
Values: TypeAlias = Any
"""A column of a batch: an array of numbers, or an Arrow array of text."""
Progress: TypeAlias = Callable[[int], None]
"""Told how many bytes of the file were read so far."""

_OFFSET = re.compile(r"(Z|[+-]\d\d:?\d\d)$", re.I)


class Batch(NamedTuple):
    """Some rows, column by column."""

    first: int
    """Number of the first row among those that have the right shape."""
    columns: dict[str, Values]
    lists: dict[str, list[Any]]
    """Columns of lists, which only JSON has."""

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))


class BadRows:
    """What happens to rows that cannot be read: the first is an error, or all are counted and a few named."""

    def __init__(self, path: Path, form: Form, *, skip: bool) -> None:
        self.path = path
        self.form = form
        self.skip = skip
        self.count = 0
        self.named: list[str] = []
        self.unreadable: set[int] = set()
        """Rows of the batch at hand that have no cells at all; they are named once."""
        self._misshapen: list[int] = []

    def found(self, row: int, column: str, got: object, allowed: str) -> None:
        """A cell that cannot be what its column needs; whoever leaves the row out adds it to `count`."""
        self._name(lambda: self._line(row), column, got, allowed)

    def shape(self, record: int, got: str, allowed: str) -> None:
        """A row that has another number of cells than the header; `record` counts rows from the header on."""
        self.count += 1
        self._misshapen.append(record)
        self._name(lambda: line_of_record(self.path, self.form, record), "", got, allowed)

    def _line(self, row: int) -> int:
        if self.form == "jsonl":
            return line_of_record(self.path, self.form, row + 1)
        record = row + 2  # behind the header, and behind misshapen rows before it
        for other in self._misshapen:
            record += other <= record
        return line_of_record(self.path, self.form, record)

    def _name(self, line: Callable[[], int], column: str, got: object, allowed: str) -> None:
        if self.skip and len(self.named) >= NAMED_BAD_ROWS:
            return
        where = f"{self.path}, line {line()}" + (f", {column}" if column else "")
        if not self.skip:
            fix = "mend the row, or leave all such rows out with --skip-bad"
            raise FeedError(where, got=got, allowed=allowed, fix=fix)
        self.named.append(f"{where}: got {got}, need {allowed}")


@contextmanager
def opened(path: Path) -> Iterator[tuple[IO[bytes], IO[bytes]]]:
    """The file's text, unpacked, and the file itself, whose position says how far reading has come."""
    try:
        raw = path.open("rb")
    except OSError as error:
        fix = "name a file that can be read"
        raise FeedError(str(path), got=error.strerror or str(error), fix=fix) from error
    with raw:
        if path.suffix == ".gz":
            with gzip.GzipFile(fileobj=raw) as text:
                yield cast("IO[bytes]", text), raw
        else:
            yield raw, raw


def header_of(path: Path) -> tuple[list[str], str]:
    """Column names of a CSV file and what separates them."""
    with opened(path) as (text, _):
        try:
            first = text.readline().decode("utf-8-sig").strip("\r\n")
        except (OSError, EOFError, UnicodeDecodeError) as error:
            raise FeedError(str(path), got=str(error), allowed=CSV_TEXT) from error
    separator = max(",;\t", key=first.count)
    return next(csv.reader([first], delimiter=separator), []), separator


def csv_batches(
    path: Path, columns: list[str], bad: BadRows, progress: Progress | None = None
) -> Iterator[Batch]:
    """Batches of the named columns, as text."""
    header, separator = header_of(path)
    wanted = f"a row of {len(header)} cells"

    def misshapen(row: Any) -> str:
        # Raised here it would pass through Arrow's threads; kept, it is raised with the batch.
        found.append((row.number, f"{row.actual_columns} cells"))
        return "skip"

    found: list[tuple[int, str]] = []
    with opened(path) as (text, raw):
        try:
            reader = pa_csv.open_csv(
                text,
                read_options=pa_csv.ReadOptions(use_threads=False, block_size=BLOCK_BYTES),
                parse_options=pa_csv.ParseOptions(
                    delimiter=separator, invalid_row_handler=misshapen
                ),
                convert_options=pa_csv.ConvertOptions(
                    include_columns=columns,
                    column_types=dict.fromkeys(columns, pa.string()),
                    strings_can_be_null=False,
                ),
            )
            seen = 0
            for table in reader:
                for number, got in found:
                    bad.shape(number, got, wanted)
                found.clear()
                if table.num_rows:
                    yield Batch(seen, {n: table.column(n) for n in columns}, {})
                seen += table.num_rows
                if progress:
                    progress(raw.tell())
        except (pa.ArrowInvalid, OSError, EOFError) as error:
            raise FeedError(str(path), got=str(error), allowed=CSV_TEXT) from error
        for number, got in found:
            bad.shape(number, got, wanted)


def jsonl_batches(
    path: Path,
    columns: list[str],
    lists: list[str],
    bad: BadRows,
    progress: Progress | None = None,
    limit_bytes: int = 0,
) -> Iterator[Batch]:
    """Batches of the named fields of a file with one JSON object a line; a field that is missing is empty text.

    `limit_bytes`: whole lines within so many bytes, of a file that is still being written; 0: all of it.
    """
    decoder = msgspec.json.Decoder(dict[str, Any])
    seen = 0
    with opened(path) as (text, raw):
        for lines in _blocks_of_lines(path, text, limit_bytes):
            rows = _decoded(lines, seen, decoder, bad)
            yield Batch(
                seen,
                {name: _column([row.get(name, "") for row in rows]) for name in columns},
                {name: [row.get(name) or () for row in rows] for name in lists},
            )
            seen += len(rows)
            if progress:
                progress(raw.tell())


def whole_numbers(
    batch: Batch, column: str, bad: BadRows
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """A column of counts that fit 32 bits, and which rows have one."""
    values = batch.columns[column]
    try:
        numbers = _as_int(values)
    except (pa.ArrowInvalid, ValueError, OverflowError):
        numbers = np.array([_int_of(v) for v in _python(values)], np.int64)
    ok = (numbers >= 0) & (numbers < 1 << 31)
    _say_bad(batch, column, ok, bad, "a whole number of tokens, 0 to 2,147,483,647")
    return np.where(ok, numbers, 0), ok


def instants(
    batch: Batch, column: str, unit: Unit, bad: BadRows
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """A column of times in ns, and which rows have one. ISO 8601 without a zone is taken as UTC."""
    values = batch.columns[column]
    try:
        numbers = _as_ns(values, unit)
    except (pa.ArrowInvalid, ValueError, OverflowError):
        numbers = np.array([_ns_of(v, unit) for v in _python(values)], np.int64)
    ok = numbers >= 0
    words = {"iso": "a time such as 2026-01-14T09:30:00Z"}.get(
        unit, f"a time in {unit}, 0 or later"
    )
    _say_bad(batch, column, ok, bad, words)
    return numbers, ok


def texts(batch: Batch, column: str) -> tuple[NDArray[np.int64], list[str]]:
    """A column of names: for each row which of the distinct ones it has."""
    values = batch.columns[column]
    if isinstance(values, np.ndarray):
        distinct, codes = np.unique(values, return_inverse=True)
        return codes.astype(np.int64), [str(v) for v in distinct.tolist()]
    encoded = values.dictionary_encode()
    encoded = encoded.combine_chunks() if isinstance(encoded, pa.ChunkedArray) else encoded
    return encoded.indices.to_numpy().astype(np.int64), encoded.dictionary.to_pylist()


def numbers(batch: Batch, column: str, bad: BadRows) -> NDArray[np.float64]:
    """A column of numbers of 0 or more; for files of which no row may be left out."""
    values = batch.columns[column]
    try:
        found = np.asarray(values.cast(pa.float64()).to_numpy())
    except pa.ArrowInvalid:
        found = np.array([_float_of(v) for v in _python(values)])
    _say_bad(batch, column, np.isfinite(found) & (found >= 0.0), bad, "a number of 0 or more")
    return found


def lists_of_ids(batch: Batch, column: str, bad: BadRows) -> NDArray[np.bool_]:
    """Which rows have a list of 64-bit numbers, or nothing, in a column of lists."""
    lists = batch.lists[column]
    ok = np.ones(len(lists), np.bool_)
    for i, ids in enumerate(lists):
        try:
            array.array("q", ids)
        except (TypeError, OverflowError):
            ok[i] = False
            if batch.first + i not in bad.unreadable:
                bad.found(batch.first + i, column, repr(ids)[:80], "a list of 64-bit numbers")
    return ok


def unit_of(batch: Batch, column: str) -> Unit:
    """What a column of times is in, from its name and its first readable value; a large number means a finer unit."""
    for value in _python(batch.columns[column]):
        try:
            number = float(str(value))
        except ValueError:
            if _ns_of(value, "iso") >= 0:
                return "iso"
            continue
        if math.isfinite(number):
            return _unit_of_number(number, column)
    return "s"  # every row is bad, and will be named with this


def _unit_of_number(number: float, column: str) -> Unit:
    units: tuple[Unit, ...] = ("ms", "us", "ns")
    for unit in units:
        if column.lower().endswith(f"_{unit}"):
            return unit
    # 1e11 s is the year 5138, 1e11 ms is 1973: no clock of today is read wrongly.
    return "s" if number < 1e11 else "ms" if number < 1e14 else "us" if number < 1e17 else "ns"


def line_of_record(path: Path, form: Form, record: int) -> int:
    """Line on which the n-th row ends, counted from 1; blank lines are no rows, a CSV file's header is one."""
    with opened(path) as (text, _):
        seen = 0
        if form == "jsonl":
            numbers = (number for number, row in enumerate(text, 1) if row.strip())
            return next(itertools.islice(numbers, record - 1, None), record)
        decoded = (line.decode(errors="replace") for line in text)
        lines = csv.reader(decoded, delimiter=header_of(path)[1])
        for cells in lines:
            seen += bool(cells)
            if seen == record:
                break
        return lines.line_num


def _say_bad(batch: Batch, column: str, ok: NDArray[np.bool_], bad: BadRows, allowed: str) -> None:
    if ok.all():
        return
    for i in np.flatnonzero(~ok).tolist():
        if batch.first + i in bad.unreadable or (bad.skip and len(bad.named) >= NAMED_BAD_ROWS):
            continue
        got = _python(batch.columns[column][i : i + 1])[0]
        bad.found(batch.first + i, column, repr(got) if got != "" else "nothing", allowed)


def _as_int(values: Values) -> NDArray[np.int64]:
    if isinstance(values, np.ndarray):
        if values.dtype.kind == "f" and not np.array_equal(values, np.floor(values)):
            raise ValueError("a fraction")
        return values.astype(np.int64)
    return np.asarray(values.cast(pa.int64()).to_numpy(), np.int64)


def _as_ns(values: Values, unit: Unit) -> NDArray[np.int64]:
    if unit == "iso":
        if isinstance(values, np.ndarray):
            raise ValueError("numbers")
        zoned = _OFFSET.search(values[0].as_py()) is not None
        stamps = values.cast(pa.timestamp("ns", "UTC" if zoned else None))
        return np.asarray(stamps.cast(pa.int64()).to_numpy(), np.int64)
    scale = NS_PER[unit]
    if not isinstance(values, np.ndarray):
        values = values.cast(pa.float64()).to_numpy() if unit == "s" else _as_int(values)
    if not np.isfinite(values).all() or values.max(initial=0) > (1 << 63) / scale:
        raise ValueError("no time")
    rounded = np.rint(values * scale) if values.dtype.kind == "f" else values * scale
    return np.asarray(rounded, np.int64)


def _int_of(value: object) -> int:
    """The whole number in a cell, or -1."""
    try:
        number = float(str(value))
    except ValueError:
        return -1
    return int(number) if number.is_integer() and 0 <= number < 1 << 31 else -1


def _float_of(value: object) -> float:
    try:
        return float(str(value))
    except ValueError:
        return math.nan


def _ns_of(value: object, unit: Unit) -> int:
    """The time in a cell, or -1."""
    try:
        if unit == "iso":
            stamp = datetime.fromisoformat(str(value).strip())
            seconds = (stamp if stamp.tzinfo else stamp.replace(tzinfo=UTC)).timestamp()
            return round(seconds * 1e9)
        number = float(str(value)) * NS_PER[unit]
    except (ValueError, OverflowError):
        return -1
    return round(number) if math.isfinite(number) and number < 1 << 63 else -1


def _python(values: Values) -> list[Any]:
    return list(values.tolist() if isinstance(values, np.ndarray) else values.to_pylist())


def _column(cells: list[Any]) -> Values:
    kinds = {type(cell) for cell in cells}
    if kinds and kinds <= {int, float}:
        numbers = np.array(cells)
        if numbers.dtype.kind in "if":
            return numbers
    return pa.array(["" if cell is None else str(cell) for cell in cells], pa.string())


def _blocks_of_lines(path: Path, text: IO[bytes], limit_bytes: int) -> Iterator[bytes]:
    """Whole lines, about 4 MB at a time."""
    rest, left = b"", limit_bytes
    while True:
        try:
            block = text.read(min(left, BLOCK_BYTES) if limit_bytes else BLOCK_BYTES)
            left -= len(block)
        except (OSError, EOFError) as error:
            raise FeedError(str(path), got=str(error), allowed="a complete .gz file") from error
        if not block:
            if rest.strip() and not limit_bytes:
                yield rest
            return
        end = block.rfind(b"\n") + 1
        if end:
            yield rest + block[:end]
            rest = block[end:]
        else:
            rest += block


def _decoded(
    lines: bytes, seen: int, decoder: msgspec.json.Decoder[dict[str, Any]], bad: BadRows
) -> list[dict[str, Any]]:
    """The rows of whole lines; an unreadable one stays as a row without fields."""
    bad.unreadable.clear()
    try:
        return decoder.decode_lines(lines)
    except UNREADABLE:
        rows = []
        for i, line in enumerate(line for line in lines.splitlines() if line.strip()):
            try:
                rows.append(decoder.decode(line))
            except UNREADABLE as error:
                bad.found(seen + i, "", str(error), "one JSON object")
                bad.unreadable.add(seen + i)
                rows.append({})
        return rows

"""Tables of a planning report: figures once, shown as text on the page and the screen and written as they are to CSV.

Here: `Table`, `Column`, `shown`, `csv_text`, and how money and large counts read. Not here: which tables there are (`tables`), the page (`page`).
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterator
from typing import Final, Literal

from hanse.model.fleet import Value
from hanse.twin.report.tables import percent
from hanse.web.figures import MISSING, count, number

Cell = str | float | None
Kind = Literal["text", "number", "percent", "count", "usd", "nines", "figure"]
"""`usd`: large amounts in words. `nines`: a share near one. `figure`: id of a figure in the table of assumptions, shown as a link to its row."""
TINY: Final = 1e-4
"""Below it zeros fill the cell."""
STEPS: Final = ((1e12, "trillion"), (1e9, "billion"), (1e6, "million"))


class Column(Value, frozen=True, kw_only=True):
    """One column: what it is called, in which unit, and where it is said what it rests on."""

    key: str
    """In the CSV; carries the unit."""
    head: str
    unit: str = ""
    kind: Kind = "number"
    method: str = ""
    """Key of the line of `methods` that says how it is computed; names and words need none."""
    why: str = ""
    """Why a figure may be missing."""
    section: str = ""
    """Of a long table that stands on its side: heading above the row."""

    @property
    def numeric(self) -> bool:
        """Holds figures."""
        return self.kind not in ("text", "figure")


class Table(Value, frozen=True, kw_only=True):
    """Figures; the first column names the row."""

    key: str
    """Also the CSV's name."""
    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...] = ()

    def remarks(self) -> tuple[str, ...]:
        """Notes, and for each column with a dash the reason."""
        gaps: dict[str, list[str]] = {}
        for i, column in enumerate(self.columns):
            if column.why and any(missing(row[i]) for row in self.rows):
                gaps.setdefault(column.why, []).append(column.head)
        return (*self.notes, *(f"{MISSING} at {', '.join(h)}: {why}" for why, h in gaps.items()))


def missing(value: Cell) -> bool:
    """Nothing is known: None, NaN or infinite, or an empty text."""
    return value is None or value == "" or (isinstance(value, float) and not math.isfinite(value))


def shown(column: Column, value: Cell) -> str:
    """A cell for people: a dash where nothing is known."""
    if missing(value):
        return MISSING
    if isinstance(value, str):
        return value
    assert value is not None, "missing cells are dashes"
    if column.kind == "percent":
        return percent(value)
    if column.kind == "count":
        return count(value)
    if column.kind == "nines":
        return f"{value:.3%}"
    if 0.0 < abs(value) < TINY:
        return f"{value:.1e}"
    return usd(value) if column.kind == "usd" else number(value)


def csv_text(table: Table) -> str:
    """The table as CSV with full precision; empty where nothing is known."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([column.key for column in table.columns])
    for row in table.rows:
        writer.writerow(["" if missing(value) else value for value in row])
    return out.getvalue()


def usd(value: float | None) -> str:
    """An amount without its unit, which stands in the head: large ones in words."""
    return large(value)


def large(value: float | None) -> str:
    """Three digits and a word for the size: 1.25 million."""
    if value is None or not math.isfinite(value):
        return MISSING
    for step, word in STEPS:
        if abs(value) >= step:
            return f"{number(value / step)} {word}"
    return number(value)


def anchor(prefix: str, name: str) -> str:
    """Id of an element: safe in an address."""
    return f"{prefix}-" + re.sub(r"[^A-Za-z0-9_.-]", "_", name)


def chunks(names: tuple[str, ...], most: int) -> Iterator[range]:
    """Ranges of columns that a page is wide enough for."""
    for first in range(0, len(names), most):
        yield range(first, min(first + most, len(names)))

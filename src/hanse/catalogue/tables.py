"""Reading the tables in `data/` into frozen values, and looking an id up with a helping error.

Here: the only code of the catalogue that opens files. Not here: what the tables mean.
"""

from __future__ import annotations

import csv
import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TypeVar

import msgspec

from hanse.errors import ConfigError

DATA = Path(__file__).parent / "data"
V = TypeVar("V")


class Fact(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What every entry of the catalogue is: immutable, named fields only."""


def rows(name: str) -> list[dict[str, str]]:
    """Rows of a table; an empty cell means unknown and is left out, never read as zero."""
    with (DATA / name).open(encoding="utf-8", newline="") as f:
        return [{k: v for k, v in row.items() if v} for row in csv.DictReader(f)]


def facts(name: str, kind: type[V]) -> list[V]:
    """Rows of a table as values of one kind; text becomes numbers here and nowhere else."""
    return [msgspec.convert(row, kind, strict=False) for row in rows(name)]


def folded(name: str) -> str:
    """A name without case, blanks, hyphens and underscores: `H100 SXM` and `h100-sxm` are the same."""
    return "".join(c for c in name.casefold() if c not in " -_")


def look_up(
    table: Mapping[str, V], key: str, *, where: str, noun: str, names: Iterable[str] = ()
) -> V:
    """The entry for a key, or a `ConfigError` that names the closest known ones."""
    found = table.get(key)
    if found is not None:
        return found
    known = sorted(set(names) or set(table))
    close = difflib.get_close_matches(key, known, n=3, cutoff=0.5)
    if not close:
        folded = {k.casefold(): k for k in known}
        close = [folded[k] for k in difflib.get_close_matches(key.casefold(), folded, n=3)]
    hint = f"did you mean {', '.join(close)}?" if close else f"choose a known {noun}"
    raise ConfigError(where=where, got=repr(key), allowed=_listed(known, noun), fix=hint)


def _listed(known: list[str], noun: str) -> str:
    # Forty names still fit a terminal screen; cities and countries do not.
    if len(known) <= 40:
        return ", ".join(known)
    return f"one of {len(known)} known names of a {noun}"

"""Which engine sits in which row of a site's shared page: written by the agent, read by gateway workers and the next agent.

Here: the value and its file. Not here: who gets a row (`dispatch.site_scope`), what an engine's row says (`live.shared`).

A row is given again only to an engine that no worker takes for the old one: a worker writes the version it has read into
its own row of the page, and the agent marks no engine alive before all living workers have.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec

from hanse.dispatch.belief import EngineSpec
from hanse.live.runtime import replace_file
from hanse.model.fleet import Value
from hanse.model.told import UNREADABLE

SEATS: Final = "seats.json"
"""In a site's directory."""


class Seats(Value, frozen=True, kw_only=True):
    """All engines of a site that can be reached, each with its URL and row (`index`)."""

    version: int = 0
    engines: tuple[EngineSpec, ...] = ()


def read_seats(path: Path) -> Seats | None:
    """None where there is no such file yet, or one of another release."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Seats)
    except (*UNREADABLE, OSError):
        return None


def write_seats(path: Path, seats: Seats) -> None:
    """By rename: a reader sees all of it or the one before."""
    replace_file(path, msgspec.json.format(msgspec.json.encode(seats), indent=1))

"""What a site's agent knows of its plant, as a file for people: `hanse facility` shows it.

Here: `PlantSnapshot`, writing and reading it. Not here: taking the readings (`keeper`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec

from hanse.errors import ConfigError
from hanse.live.facility.readings import Reading
from hanse.live.runtime import replace_file
from hanse.model.fleet import Value
from hanse.model.told import UNREADABLE
from hanse.view import FacilityStatus

FILE: Final = "plant.json"
EVERY_S: Final = 5.0
"""People read it when they set up meters; more often would only wear the disk."""


class PlantSnapshot(Value, frozen=True, kw_only=True):
    """Devices and readings of one site."""

    at_s: float
    facilities: tuple[FacilityStatus, ...]
    readings: dict[str, tuple[Reading, ...]]
    """By facility, in the order of their names."""


def write_snapshot(home: Path, snapshot: PlantSnapshot) -> None:
    """Replace the file, whole."""
    replace_file(home / FILE, msgspec.json.encode(snapshot))


def read_snapshot(home: Path) -> PlantSnapshot | None:
    """The newest; None where no agent wrote one.

    Raises:
        ConfigError: it is of another version.
    """
    path = home / FILE
    try:
        return msgspec.json.decode(path.read_bytes(), type=PlantSnapshot)
    except FileNotFoundError:
        return None
    except (*UNREADABLE, OSError) as error:
        raise ConfigError(str(path), got=str(error), allowed="a snapshot of this version") from None

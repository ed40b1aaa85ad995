"""The recordings shipped with Hanse: hourly carbon intensity and weather, one year a zone.

Here: finding and reading them (`data/index.json` says what each file is). Not here: what to do in a
zone that has none (`feed`). Files are read at first use and kept.
"""

from __future__ import annotations

import gzip
from functools import cache
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np

from hanse.catalogue import distance_km
from hanse.signals.series import Series, SignalType

DATA = Path(__file__).parent / "data"
Quantity = Literal[
    "marginal_intensity",
    "carbon_intensity",
    "carbon_free_pct",
    "temp_c",
    "rh_pct",
    "cloud_pct",
    "wind10_ms",
]


class Column(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One quantity of a file."""

    quantity: Quantity
    unit: str
    signal: SignalType


class Recording(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One file: values only, one line a step."""

    file: str
    zone: str
    aliases: tuple[str, ...]
    columns: tuple[Column, ...]
    start_s: float
    step_s: float
    source: str
    licence: str
    lat_deg: float | None = None
    lon_deg: float | None = None


def recorded(zone: str, quantity: Quantity) -> Series | None:
    """The recorded series of a zone (or an alias of it), or None where there is none."""
    recording = _by_zone(quantity).get(zone)
    return None if recording is None else _read(recording.file)[quantity]


def recorded_zones(quantity: Quantity) -> tuple[str, ...]:
    """Zones that have a recording of a quantity, without aliases."""
    return tuple(sorted({r.zone for r in _by_zone(quantity).values()}))


def nearest_weather_zone(lat_deg: float, lon_deg: float) -> tuple[str, float]:
    """The zone whose weather was recorded closest to a place, and the distance in km."""
    found: list[tuple[float, str]] = []
    for recording in _by_zone("temp_c").values():
        assert recording.lat_deg is not None and recording.lon_deg is not None, recording.file
        away_km = distance_km(lat_deg, lon_deg, recording.lat_deg, recording.lon_deg)
        found.append((away_km, recording.zone))
    away_km, zone = min(found)
    return zone, away_km


def weather_place(zone: str) -> tuple[float, float]:
    """Where a zone's weather was recorded: latitude and longitude in degrees."""
    recording = _by_zone("temp_c")[zone]
    assert recording.lat_deg is not None and recording.lon_deg is not None, recording.file
    return recording.lat_deg, recording.lon_deg


@cache
def _index() -> tuple[Recording, ...]:
    text = (DATA / "index.json").read_bytes()
    return msgspec.json.decode(text, type=tuple[Recording, ...])


@cache
def _by_zone(quantity: Quantity) -> dict[str, Recording]:
    table: dict[str, Recording] = {}
    for recording in _index():
        if any(c.quantity == quantity for c in recording.columns):
            table.update(dict.fromkeys((recording.zone, *recording.aliases), recording))
    return table


@cache
def _read(file: str) -> dict[str, Series]:
    recording = next(r for r in _index() if r.file == file)
    with gzip.open(DATA / f"{file}.csv.gz", "rt", encoding="ascii") as f:
        values = np.loadtxt(f, delimiter=",", ndmin=2)
    return {
        column.quantity: Series(
            start_s=recording.start_s,
            step_s=recording.step_s,
            values=np.ascontiguousarray(values[:, i]),
            quantity=column.quantity,
            unit=column.unit,
            signal=column.signal,
            zone=recording.zone,
            source=recording.source,
            licence=recording.licence,
        )
        for i, column in enumerate(recording.columns)
    }

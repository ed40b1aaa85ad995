"""Histories that forecasts are measured on: the shipped recordings, and larger sets from a folder where there is one.

Here: reading them as `Series` by quantity. Not here: what is measured (`backtest`). Sets whose licence does not let them
ship (prices, carbon of 16 zones) are read from the folder that the caller names.
"""

from __future__ import annotations

import csv
import gzip
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Final, Literal

import numpy as np

from hanse.errors import FeedError
from hanse.signals.recorded import DATA, Quantity, recorded, recorded_zones
from hanse.signals.series import Series, SignalType
from hanse.units import SECONDS_PER_HOUR

Measured = Literal["carbon", "marginal", "price", "pv", "wind", "demand"]
QUANTITIES: Final[tuple[Measured, ...]] = ("carbon", "marginal", "price", "pv", "wind", "demand")
RECORDED: Final[dict[Measured, tuple[Quantity, ...]]] = {
    "carbon": ("carbon_intensity",),
    "marginal": ("marginal_intensity",),
    "pv": ("cloud_pct", "temp_c"),
    "wind": ("wind10_ms",),
}
DEMAND_STEP_S: Final = 600.0
SERVEGEN: Final = "ServeGen (alibaba/ServeGen); Xiang et al., arXiv 2505.09999"
FOLDERS: Final[dict[Measured, tuple[str, str, str, str, SignalType]]] = {
    "carbon": (
        "grid_ci_emaps_odbl/ci_2023_2024_hourly.csv.gz", "ci_lca", "carbon_intensity", "gCO2e/kWh",
        "average_location",
    ),
    "price": (
        "wholesale_price/price_2023_2024_hourly.csv.gz", "usd_mwh", "price", "USD/MWh", "price",
    ),
}  # fmt: skip
"""File, column, quantity, unit, kind."""


def histories(quantity: Measured, data: Path | None) -> dict[str, tuple[Series, ...]]:
    """Zone (or service) -> its series; more than one where a figure is made of several."""
    if data is not None and quantity in FOLDERS:
        return {zone: (series,) for zone, series in _folder(data, quantity).items()}
    if quantity == "demand":
        return {name: (series,) for name, series in demand_histories().items()}
    if quantity not in RECORDED:
        return {}
    wanted = RECORDED[quantity]
    return {zone: tuple(_shipped(zone, q) for q in wanted) for zone in recorded_zones(wanted[0])}


@cache
def demand_histories() -> dict[str, Series]:
    """Requests per second of three services over fourteen days; the clock hour is not published."""
    with gzip.open(DATA / "demand" / "servegen.csv.gz", "rt", encoding="ascii") as f:
        names = f.readline().strip().split(",")
        table = np.genfromtxt(f, delimiter=",")
    return {
        name: Series(
            start_s=0.0,
            step_s=DEMAND_STEP_S,
            values=np.ascontiguousarray(table[:, i]),
            quantity="demand",
            unit="requests/s",
            signal="demand",
            zone=name,
            source=SERVEGEN,
            licence="Apache-2.0",
        )
        for i, name in enumerate(names)
    }


def _shipped(zone: str, quantity: Quantity) -> Series:
    series = recorded(zone, quantity)
    assert series is not None, f"{zone} is listed for {quantity}"
    return series


def _folder(data: Path, quantity: Measured) -> dict[str, Series]:
    name, column, called, unit, signal = FOLDERS[quantity]
    path = data / name
    if not path.exists():
        raise FeedError(str(path), got="no such file", fix="name a folder that holds it in --data")
    begins: dict[str, float] = {}
    values: dict[str, list[float]] = {}
    with gzip.open(path, "rt", encoding="utf-8") as f:
        for row in csv.DictReader(f):
            zone = row["zone"]
            if zone not in values:
                begins[zone] = datetime.fromisoformat(row["utc"]).timestamp()
            values.setdefault(zone, []).append(float(row[column]))
    return {
        zone: Series(
            start_s=begins[zone],
            step_s=SECONDS_PER_HOUR,
            values=np.array(found),
            quantity=called,
            unit=unit,
            signal=signal,
            zone=zone,
            source=path.parent.name,
            licence="see the folder's README",
        )
        for zone, found in values.items()
    }

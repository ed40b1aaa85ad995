"""What moving work by the hour gains over the best fixed place: recorded hours of grids and markets, in gCO2e and in USD.

Definitions:

* A load of 1 kW, the same in every hour of a year, and grids that all may serve it with room for all of it; no cost of moving, perfect
  foresight. So each gain is the most that anybody could have.
* Mean: split evenly. Best fixed: all of it in the grid with the lowest mean of the year. By the hour: in each hour in the lowest grid.
* Gained: 1 - by the hour / best fixed. What siting gains is 1 - best fixed / mean.
* USD: wholesale price of the hour, nothing else. A delivered price has a flat part on top (network, levies, taxes): wholesale is 30 to 60 %
  of it (an assumption, `WHOLESALE_SHARE`), and so much of the gain is left of a bill.
* Both: price and carbon at 100 USD a tonne, the price that the studies here have in the middle of their range.

Not here: room, law, latency and who asks when (`plan.shifting` has them, with the prices that a plan knows, which are flat), waiting
(`temporal`), forecasts.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hanse.errors import ConfigError
from hanse.model.fleet import Value
from hanse.twin.reproduce.inputs import CARBON_FILE, hourly_carbon, table
from hanse.twin.reproduce.price_clock import true_hours
from hanse.twin.reproduce.temporal import CI_FILE
from hanse.twin.reproduce.values import Reproduction, Row, agreed, row

Floats = NDArray[np.float64]

PRICE_FILE = "wholesale_price/price_2023_2024_hourly.csv.gz"
PRICE_FILE_2022 = "wholesale_price_2022/price_2022_hourly.csv.gz"
WHOLESALE_SHARE = (0.3, 0.6)
CARBON_USD_PER_T = 100.0
US = ("US-CAL-CISO", "US-MIDA-PJM", "US-NY-NYIS", "US-TEX-ERCO")
US_PRICED_2023 = ("US-CAL-CISO", "US-NY-NYIS", "US-TEX-ERCO")
EUROPE = ("AT", "BE", "CH", "DE-LU", "ES", "FR", "NL", "PT")
EUROPE_2023 = ("DE-LU", "ES", "FR")
NAME_2022 = {"DE-LU": "DE"}
"""The carbon file of 2022 names the grid after the country."""
PUBLISHED = {"4 US, 2023": 11.0, "DE, GB, 2023": 0.0}
"""Percent of carbon that hours gain over the best fixed grid, without decimals."""
TOLERANCE = 0.6


class Moved(Value, frozen=True, kw_only=True):
    """Of a unit of load, mean of the year."""

    mean: float
    fixed: float
    hourly: float

    @property
    def gained(self) -> float:
        """By the hour, over the best fixed place."""
        return 1.0 - self.hourly / self.fixed

    @property
    def sited(self) -> float:
        """By the best fixed place, over the mean."""
        return 1.0 - self.fixed / self.mean


def moved(series: Floats) -> Moved:
    """Of a flat load under series [grid, hour]."""
    return Moved(
        mean=float(series.mean()),
        fixed=float(series.mean(axis=1).min()),
        hourly=float(series.min(axis=0).mean()),
    )


def year_of(data: Path, name: str, column: str, year: str) -> dict[str, Floats]:
    """Hourly values of a year by zone, from a table with one row a zone and hour."""
    found: dict[str, list[float]] = {}
    for line in table(data, name):
        if line["utc"].startswith(year):
            found.setdefault(line["zone"], []).append(float(line[column]))
    return {zone: np.array(values) for zone, values in found.items()}


def prices_of(data: Path, name: str, year: int) -> dict[str, Floats]:
    """USD/MWh of a year by zone, by UTC."""
    found = year_of(data, name, "usd_mwh", str(year))
    return {zone: true_hours(zone, year, values) for zone, values in found.items()}


def spatial_shift(data: Path) -> Reproduction:
    """Gain by the hour over the best fixed grid, by group of grids: carbon, wholesale price, both."""
    names, early = hourly_carbon(data)
    grids = {z: early[:8760, names.index(NAME_2022.get(z, z))] for z in (*EUROPE, *US)}
    markets = prices_of(data, PRICE_FILE_2022, 2022)
    carbon = year_of(data, CI_FILE, "ci_lca", "2023")
    price = prices_of(data, PRICE_FILE, 2023)
    rows = [
        _carbon("4 US, 2023", carbon, US),
        _carbon("DE, GB, 2023", carbon, ("DE-LU", "GB")),
    ]
    for name, zones, grams, usd in (
        ("3 US, 2023", US_PRICED_2023, carbon, price),
        ("4 US, 2022", US, grids, markets),
        ("DE, FR, ES, 2023", EUROPE_2023, None, price),
        ("8 European, 2022", EUROPE, grids, markets),
    ):
        rows += _group(name, zones, grams, usd)
    return Reproduction(
        name="spatial-shift",
        question="What moving a load by the hour gains over the best fixed grid, in gCO2e and in USD",
        source="this project's own measurement on the same series; published are figures of carbon in whole percent",
        method=(
            "A flat load, grids with room for all of it, perfect foresight, no cost of moving. Gained: 1 - mean of each hour's"
            " lowest / lowest yearly mean. USD: wholesale energy only. Both: wholesale and 100 USD a tonne."
        ),
        rows=tuple(rows),
        notes=(
            "Upper bounds: no room, law, latency or forecast. A plan's own bounds (`hanse plan`, moving work) have the first three.",
            "sited %: what the best fixed grid gains over the mean of all. Wholesale is 30 to 60 % of a delivered price (an"
            " assumption): so much of the gain is left of a bill.",
            "Prices of California, New York and PJM are brought to UTC: upstream's clock is shifted twice there.",
            "Prices are two-hour means (upstream's), so that spikes are halved, and 2022 was a year of dear gas: its grids differ"
            " by more than those of other years.",
        ),
        files=(CI_FILE, CARBON_FILE, PRICE_FILE, PRICE_FILE_2022),
        agrees=agreed(tuple(rows)),
    )


def _group(
    name: str, zones: tuple[str, ...], grams: dict[str, Floats] | None, usd: dict[str, Floats]
) -> list[Row]:
    prices = _stacked(usd, zones)
    found = moved(prices)
    rows = [_row(f"{name}: USD/MWh", found)]
    if grams is not None:
        stacked = _stacked(grams, zones)
        # g/kWh are kg/MWh.
        both = moved(prices + stacked * CARBON_USD_PER_T / 1000.0)
        rows.insert(0, _row(f"{name}: g/kWh", moved(stacked)))
        rows.append(_row(f"{name}: USD and carbon", both))
    low, high = (100.0 * found.gained * share for share in WHOLESALE_SHARE)
    rows.append(row(f"{name}: at least", "% of the bill", ours=low, also={"at most": high}))
    return rows


def _carbon(name: str, grams: dict[str, Floats], zones: tuple[str, ...]) -> Row:
    return _row(f"{name}: g/kWh", moved(_stacked(grams, zones)), paper=PUBLISHED[name])


def _row(name: str, found: Moved, *, paper: float | None = None) -> Row:
    return row(
        name,
        "% gained",
        paper=paper,
        ours=100.0 * found.gained,
        tolerance=None if paper is None else TOLERANCE,
        also={
            "sited %": 100.0 * found.sited,
            "fixed": found.fixed,
            "hourly": found.hourly,
        },
    )


def _stacked(series: dict[str, Floats], zones: tuple[str, ...]) -> Floats:
    missing = [z for z in zones if z not in series]
    if missing:
        raise ConfigError(
            "data", got=f"no hours of {', '.join(missing)}", allowed=", ".join(zones), fix="see docs/reproduce.md for the files"
        )  # fmt: skip
    return np.stack([series[z] for z in zones])

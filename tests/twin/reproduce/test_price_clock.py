"""The clock of wholesale prices: what upstream shifted is shifted back, and nothing else."""

from __future__ import annotations

import csv
import gzip
from pathlib import Path

import numpy as np
import pytest

from hanse.twin.reproduce.price_clock import AHEAD_H, true_hours

SHARED = Path(__file__).parents[3].parent / "shared" / "data"
PRICES = SHARED / "wholesale_price_2022" / "price_2022_hourly.csv.gz"
MIX = SHARED / "grid_mix_eia_2022" / "eia930_2022_hourly.csv.gz"
AUTHORITY = {
    "US-CAL-CISO": "CISO",
    "US-TEX-ERCO": "ERCO",
    "US-NY-NYIS": "NYIS",
    "US-MIDA-PJM": "PJM",
}


@pytest.mark.parametrize("zone", ["US-TEX-ERCO", "DE", *AHEAD_H])
def test_hours_are_local_offset_earlier_by_winter_and_summer(zone: str) -> None:
    hours = np.arange(8760.0)
    found = true_hours(zone, 2022, hours)
    ahead = AHEAD_H.get(zone, 0)
    summer = ahead - 1 if ahead else 0
    assert found[1000] - 1000 == ahead
    assert found[4000] - 4000 == summer
    if ahead:
        begins = (31 + 28 + 12) * 24 + 2 + ahead  # 13 March, 2:00
        ends = (304 + 5) * 24 + 1 + ahead  # 6 November, 2:00 in summer time
        assert found[begins - 1] - (begins - 1) == ahead and found[begins] - begins == summer
        assert found[ends - 1] - (ends - 1) == summer and found[ends] - ends == ahead
    assert found[-1] == 8759.0


@pytest.mark.parametrize("zone", sorted(AUTHORITY))
def test_prices_follow_the_same_grids_fossil_generation(zone: str) -> None:
    if not (PRICES.exists() and MIX.exists()):
        pytest.skip(f"needs {PRICES} and {MIX}")
    with gzip.open(PRICES, "rt") as file:
        told = {
            r["utc"][:13]: float(r["usd_mwh"]) for r in csv.DictReader(file) if r["zone"] == zone
        }
    with gzip.open(MIX, "rt") as file:
        mine = [r for r in csv.DictReader(file) if r["ba"] == AUTHORITY[zone]]
    fossil = np.array([float(r["gas"] or 0.0) + float(r["coal"] or 0.0) for r in mine])
    label = [r["utc"][:13] for r in mine]
    usd = true_hours(zone, 2022, np.array([told.get(at, np.nan) for at in label]))
    usd = np.nan_to_num(np.minimum(usd, np.nanquantile(usd, 0.98)), nan=float(np.nanmean(usd)))

    def beyond_the_day(values: np.ndarray) -> np.ndarray:
        return (values - np.convolve(values, np.ones(25) / 25.0, "same"))[50:-50]

    lags = {
        lag: np.corrcoef(np.roll(beyond_the_day(fossil), lag), beyond_the_day(usd))[0, 1]
        for lag in range(-12, 13)
    }
    assert abs(max(lags, key=lambda lag: lags[lag])) <= 1

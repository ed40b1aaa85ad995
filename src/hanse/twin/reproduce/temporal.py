"""What a batch job of four hours saves by waiting up to a day: 16 grid zones, perfect foresight and real forecasts.

Definitions, which reproduce the published figures to their last digit:

* A job is submitted at every full hour of 2023 (UTC) whose next 24 hours are in the year; it runs 4 h without a break and ends
  within 24 h of its submission, so it starts 0 to 20 h later. Power is constant.
* Saved: 1 - carbon over all jobs / carbon of starting them at once; per zone, and then the plain mean over zones.
* Carbon: hourly average, life-cycle, location-based (Electricity Maps).
* Forecast: at every full hour from submission on, the next 24 h are forecast from hours that have ended by then (the running
  hour is not known). A job starts when no later start that is still allowed is expected to be cleaner, else it waits an hour.
* Suspended: a job that may stop at full hours runs in an hour that is expected to be among the cleanest of those left to it, as
  many as it still needs; the saving is compared with perfect foresight of a job that may not stop.

History before 2023 is the year 2022 of another file of the same origin, in which three zones go by another name. 2024 is forecast
from 2023. Not here: capacity (every job finds room), the cost of suspending, other lengths, sites (`dispatch.defer`).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hanse.errors import ConfigError
from hanse.model.fleet import Value
from hanse.signals.forecast.by_hour import day_ahead
from hanse.signals.series import Series
from hanse.twin.reproduce.inputs import CARBON_FILE, hourly_carbon, table
from hanse.twin.reproduce.values import Reproduction, Row, agreed, row
from hanse.units import SECONDS_PER_HOUR

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

CI_FILE = "grid_ci_emaps_odbl/ci_2023_2024_hourly.csv.gz"
LENGTH_H, WITHIN_H = 4, 24
STARTS = WITHIN_H - LENGTH_H + 1
HOURS_2022 = HOURS_2023 = 8760
BEGIN_2022_S = 1_640_995_200.0
NAME_2022 = {"BR-SP": "BR-CS", "CL-SIC": "CL-SEN", "DE-LU": "DE"}
"""Zones of 2022 that cover nearly the same grid under another name."""
PUBLISHED = {
    "IN-WE": 2.0,
    "SG": 3.0,
    "US-MIDA-PJM": 5.0,
    "US-TEX-ERCO": 16.0,
    "DE-LU": 23.0,
    "GB": 27.0,
    "US-CAL-CISO": 29.0,
    "CA-ON": 41.0,
}
"""Percent, given without decimals."""
PUBLISHED_MEAN = 18.0
TOLERANCE = 0.5


class Saved(Value, frozen=True, kw_only=True):
    """Shares of carbon saved in one zone and year."""

    perfect: float
    forecast: float
    suspended: float


def windows(hourly: Floats) -> Floats:
    """Carbon of a job that starts in each hour; the last axis is hours."""
    return np.lib.stride_tricks.sliding_window_view(hourly, LENGTH_H, axis=-1).sum(axis=-1)


def best_starts(hourly: Floats, submitted: Ints) -> Ints:
    """With perfect foresight; the earliest of equals."""
    ahead = np.lib.stride_tricks.sliding_window_view(windows(hourly), STARTS)[submitted]
    return np.asarray(submitted + ahead.argmin(axis=1))


def forecast_starts(forecasts: Floats, submitted: Ints, first: int) -> Ints:
    """Start now or wait, anew each hour; `forecasts` [hour from `first`, 24]."""
    expected = windows(forecasts)
    start = np.full(len(submitted), -1, np.int64)
    for waited in range(STARTS):
        at = submitted + waited
        left = expected[at - first, : STARTS - waited]
        # A hair of slack: sums in another order.
        go = (start < 0) & (left[:, 0] <= left.min(axis=1) * (1.0 + 1e-12))
        start[go] = at[go]
    return start


def suspended_hours(forecasts: Floats, submitted: Ints, first: int) -> Ints:
    """Hours in which each job runs, [job, 4], if it may stop at full hours."""
    hours = np.full((len(submitted), LENGTH_H), -1, np.int64)
    done = np.zeros(len(submitted), np.int64)
    for waited in range(WITHIN_H):
        at = submitted + waited
        left = forecasts[at - first, : WITHIN_H - waited]
        cleaner = (left[:, 1:] < left[:, :1]).sum(axis=1)
        go = (done < LENGTH_H) & (cleaner < LENGTH_H - done)
        hours[go, done[go]] = at[go]
        done[go] += 1
    return hours


def saved(series: Series, first: int, count: int) -> Saved:
    """Of jobs submitted in `count` hours from index `first` whose day is within them."""
    hourly = series.values
    submitted = np.arange(first, first + count - WITHIN_H, dtype=np.int64)
    hours = np.arange(first, first + count, dtype=np.float64)
    issued_s: Floats = series.start_s + hours * SECONDS_PER_HOUR
    forecasts = day_ahead(series, issued_s)
    carbon = windows(hourly)
    at_once = float(carbon[submitted].sum())
    ran = hourly[suspended_hours(forecasts, submitted, first)]
    return Saved(
        perfect=1.0 - float(carbon[best_starts(hourly, submitted)].sum()) / at_once,
        forecast=1.0 - float(carbon[forecast_starts(forecasts, submitted, first)].sum()) / at_once,
        suspended=1.0 - float(ran.sum()) / at_once,
    )


def zone_series(data: Path) -> dict[str, Series]:
    """Hourly carbon of 2022 to 2024 by zone."""
    values: dict[str, list[float]] = {}
    for line in table(data, CI_FILE):
        values.setdefault(line["zone"], []).append(float(line["ci_lca"]))
    names, earlier = hourly_carbon(data)
    found = {}
    for zone, later in values.items():
        before = NAME_2022.get(zone, zone)
        if before not in names:
            raise ConfigError(f"{data / CARBON_FILE}", got="another file", allowed=f"zone {before}")
        found[zone] = Series(
            start_s=BEGIN_2022_S,
            step_s=SECONDS_PER_HOUR,
            values=np.concatenate([earlier[:HOURS_2022, names.index(before)], later]),
            quantity="carbon_intensity",
            unit="gCO2e/kWh",
            signal="average_location",
            zone=zone,
            source="Electricity Maps",
            licence="ODbL-1.0",
        )
    return found


def temporal_shift(data: Path) -> Reproduction:
    """Carbon saved by zone in 2023, and how much of it is left with forecasts in 2023 and 2024."""
    zones = zone_series(data)
    one = {z: saved(s, HOURS_2022, HOURS_2023) for z, s in zones.items()}
    begun = HOURS_2022 + HOURS_2023
    two = {z: saved(s, begun, len(s.values) - begun) for z, s in zones.items()}
    rows = [_row(zone, found, PUBLISHED.get(zone)) for zone, found in one.items()]
    rows.append(_row("mean of 16 zones", _mean(one), PUBLISHED_MEAN))
    for year, found in (("2023", one), ("2024", two)):
        mean = _mean(found)
        rows.append(
            row(
                f"{year}: mean with forecasts",
                "% of what perfect foresight saves",
                ours=100.0 * mean.forecast / mean.perfect,
                also={
                    "if suspended": 100.0 * mean.suspended / mean.perfect,
                    "mean of zones' shares": 100.0
                    * float(np.mean([s.forecast / s.perfect for s in found.values()])),
                    "perfect saves %": 100.0 * mean.perfect,
                },
            )
        )
    return Reproduction(
        name="temporal-shift",
        question="Carbon that a 4 h job saves by waiting up to a day, with perfect foresight and with forecasts",
        source="this project's own measurement on the same series; figures in whole percent",
        method=(
            "One job submitted each hour of the year; 4 h without a break, ended within 24 h. Saved: carbon of all jobs"
            " against starting at once, average life-cycle intensity. Forecast: each hour anew from hours that have ended:"
            " mean of the shipped blend and a ridge by hour of issue, both fitted on the past alone (2022 for 2023, 2022"
            " and 2023 for 2024). Suspended: the job may stop at full hours, at no cost."
        ),
        rows=tuple(rows),
        notes=(
            "Submitted so that 24 h is to the latest end; counted to the latest start (28 h to the end) the mean is 19.1 %.",
            "2022 is another file of the same origin, in whole g/kWh; BR-CS, CL-SEN and DE stand in for BR-SP, CL-SIC and"
            " DE-LU as history. The ridge's two constants were chosen with both years in view; weights are learnt from the past"
            " of each issue alone.",
            "IN-WE and JP-TK are estimated by the provider throughout, which makes them easy to forecast.",
        ),
        files=(CI_FILE, CARBON_FILE),
        agrees=agreed(tuple(rows)),
    )


def _row(name: str, found: Saved, published: float | None) -> Row:
    return row(
        name,
        "% of carbon saved, 2023",
        paper=published,
        ours=100.0 * found.perfect,
        tolerance=None if published is None else TOLERANCE,
        also={
            "forecast": 100.0 * found.forecast,
            "share %": 100.0 * found.forecast / found.perfect,
            "if suspended": 100.0 * found.suspended,
        },
    )


def _mean(found: dict[str, Saved]) -> Saved:
    return Saved(
        **{
            name: float(np.mean([getattr(one, name) for one in found.values()]))
            for name in Saved.__struct_fields__
        }
    )

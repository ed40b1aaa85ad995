"""The clock of the wholesale prices at hand, brought to UTC.

Here: `true_hours`. The column `utc` of `wholesale_price` and `wholesale_price_2022` is true for Texas and Europe. For California, New York and
PJM it is shifted by the local offset twice: prices there follow the same grid's fossil generation (EIA 2022) 7, 4 and 4 hours late
(r 0.75, 0.77, 0.67; at no lag -0.28, 0.26, 0.29; Texas -1 hour, 0.78), and California's would be lowest at sunset. Not here: prices
(`spatial`, `benchmarks/year_world.py`).
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

import numpy as np
from numpy.typing import NDArray

AHEAD_H: Final = {"US-CAL-CISO": 8, "US-MIDA-PJM": 5, "US-NY-NYIS": 5}
"""Hours that the column is ahead of UTC in winter; one less in summer time."""


def true_hours(zone: str, year: int, values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Hourly values from the year's first hour of UTC on, of a series that begins with it by the file's clock. The last hours repeat the last value."""
    ahead_h = AHEAD_H.get(zone)
    if ahead_h is None:
        return values
    hours = np.arange(len(values))
    begins, ends = _summer(year, ahead_h)
    index = hours + ahead_h - ((hours >= begins) & (hours < ends))
    return np.asarray(values[np.minimum(index, len(values) - 1)])


def _summer(year: int, offset_h: int) -> tuple[int, int]:
    """Hours of a year of UTC between which summer time holds in the United States: from the second Sunday of March, 2:00, to the first of November."""

    def sunday(month: int, number: int) -> datetime:
        first = datetime(year, month, 1, tzinfo=UTC)
        return first + timedelta(days=(6 - first.weekday()) % 7 + 7 * (number - 1))

    start = datetime(year, 1, 1, tzinfo=UTC)
    begins = sunday(3, 2) + timedelta(hours=2 + offset_h)
    ends = sunday(11, 1) + timedelta(hours=1 + offset_h)
    return tuple(round((at - start) / timedelta(hours=1)) for at in (begins, ends))  # type: ignore[return-value]

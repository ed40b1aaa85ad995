"""A history as arrays that only look back: values without gaps, daily and weekly profiles, deviations from them.

Here: `Past`, whose every element at index i depends on values before i alone (`values` and `off` on values up to i), so
that whatever is read at indices before an issue instant knows nothing later. Not here: what is made of it (`blend`).
"""

from __future__ import annotations

import math

import msgspec
import numpy as np
from numpy.typing import NDArray

from hanse.errors import FeedError
from hanse.signals.series import Series
from hanse.units import SECONDS_PER_DAY

Floats = NDArray[np.float64]

FAST_DAYS = 4.0
"""Half-life of the daily profile: weather systems pass in three to five days."""
SLOW_DAYS = 14.0
"""Half-life of the slow daily profile; a season's shape."""
WEEKLY_DAYS = 14.0
"""Half-life of the weekly profile."""


class Past(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """One history, all arrays [step]."""

    start_s: float
    step_s: float
    day: int
    """Steps a day."""
    values: Floats
    """Without gaps: a missing value takes that of a day before, else the last one known."""
    fast: Floats
    slow: Floats
    weekly: Floats
    """Expected from earlier days at the same time of day; from earlier weeks at the same time of week. They reach
    beyond the values by one day and one week, since that much is known of the future."""
    off: Floats
    """`values - fast`; 0 for the first."""
    off_sum: Floats
    """Running sum of `off`, [step + 1]."""
    sum: Floats
    """Running sum of `values`, [step + 1]."""

    def issue_index(self, issued_at_s: float) -> int:
        """Steps that have ended by an instant; the step of that index is the first one forecast."""
        return math.floor((issued_at_s - self.start_s) / self.step_s)


def past(history: Series) -> Past:
    """Look-back arrays of a series whose step divides a day."""
    day = round(SECONDS_PER_DAY / history.step_s)
    if abs(day * history.step_s - SECONDS_PER_DAY) > 1e-6:
        raise FeedError(
            f"history of {history.quantity} in {history.zone}",
            got=f"steps of {history.step_s:g} s",
            allowed="steps that divide a day",
        )
    values = without_gaps(history.values, day)
    fast = profile(values, day, FAST_DAYS)
    off = values - fast[: len(values)]
    return Past(
        start_s=history.start_s,
        step_s=history.step_s,
        day=day,
        values=values,
        fast=fast,
        slow=profile(values, day, SLOW_DAYS),
        weekly=profile(values, 7 * day, WEEKLY_DAYS / 7.0),
        off=off,
        off_sum=np.concatenate(([0.0], np.cumsum(off))),
        sum=np.concatenate(([0.0], np.cumsum(values))),
    )


def without_gaps(values: Floats, day: int) -> Floats:
    """NaN becomes the value of the day before, else the last one before, else 0 at the very beginning."""
    if not np.isnan(values).any():
        return values
    filled = values.copy()
    for i in np.nonzero(np.isnan(values))[0].tolist():
        before = filled[i - day] if i >= day else (filled[i - 1] if i else 0.0)
        filled[i] = before
    return filled


def profile(values: Floats, period: int, half_life: float) -> Floats:
    """Mean of the same place in earlier periods, weights halving every `half_life` periods, [step + period].

    In the first period there is none: the mean of all before stands in, and for the very first step itself.
    """
    count = len(values)
    rows = -(-count // period) + 1
    padded = np.zeros(rows * period)
    padded[:count] = values
    table = padded.reshape(rows, period)
    expected = np.zeros_like(table)
    keep = 0.5 ** (1.0 / half_life)
    total, weight = np.zeros(period), 0.0
    for row in range(1, rows):
        total = keep * total + table[row - 1]
        weight = keep * weight + 1.0
        expected[row] = total / weight
    flat: Floats = expected.reshape(-1)[: count + period].copy()
    first = min(period, count)
    flat[0] = values[0]
    flat[1 : first + 1] = np.cumsum(values[:first]) / np.arange(1, first + 1)
    if first == period:
        flat[first] = expected[1, 0]
    return flat

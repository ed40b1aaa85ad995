"""Every method by its name: what is expected from a history at an issue instant, for each lead.

Here: the plain methods that others are measured against, and the table of all. Not here: the shipped method (`blend`).
"""

from __future__ import annotations

import math
from typing import Final, Literal

import numpy as np

from hanse.signals.forecast import blend
from hanse.signals.forecast.blend import Fit, Ints, Predict
from hanse.signals.forecast.past import Floats, Past
from hanse.units import SECONDS_PER_DAY

Method = Literal["persistence", "day_before", "week_before", "climatology", "blend"]
THURSDAY: Final = 3  # 1 January 1970; Monday is 0


def persistence(p: Past, _: Fit, issue: Ints, lead: Ints) -> Floats:
    """The last value known, at every lead."""
    return np.repeat(p.values[issue - 1][:, None], len(lead), axis=1)


def day_before(p: Past, _: Fit, issue: Ints, lead: Ints) -> Floats:
    """The last value known at the same time of day."""
    return _periods_before(p, issue, lead, p.day)


def week_before(p: Past, _: Fit, issue: Ints, lead: Ints) -> Floats:
    """The last value known at the same time of the week; of the day before in the first week."""
    week = _periods_before(p, issue, lead, 7 * p.day)
    return np.where((issue >= 7 * p.day)[:, None], week, day_before(p, _, issue, lead))


def climatology(p: Past, _: Fit, issue: Ints, lead: Ints) -> Floats:
    """Mean of all whole days before, at the same time of day, of working days or of weekends (UTC)."""
    rows = len(p.values) // p.day
    weekend = _weekend(p, np.arange(rows * p.day, dtype=np.int64)).reshape(rows, p.day)
    table = p.values[: rows * p.day].reshape(rows, p.day)
    target = issue[:, None] + lead[None, :]
    known, slot, asked = issue[:, None] // p.day, target % p.day, _weekend(p, target)
    mean = np.where(known > 0, 0.0, persistence(p, _, issue, lead))
    for kind in (False, True):
        holds = weekend == kind
        total = _before(np.where(holds, table, 0.0))
        days = _before(holds.astype(np.float64))
        found = np.where(days > 0, total, _before(table)) / np.maximum(
            np.where(days > 0, days, np.arange(rows + 1)[:, None]), 1.0
        )
        mean = np.where((known > 0) & (asked == kind), found[np.minimum(known, rows), slot], mean)
    return mean


PREDICT: Final[dict[Method, Predict]] = {
    "persistence": persistence,
    "day_before": day_before,
    "week_before": week_before,
    "climatology": climatology,
    "blend": blend.predict,
}


def fit(p: Past, method: Method, at: int, steps: int, high_share: float, *, relative: bool) -> Fit:
    """What a method knows of itself at an index: errors and quantiles, and weights where it has any."""
    if method == "blend":
        return blend.fit(p, at, steps, high_share, relative=relative)
    none = np.zeros((steps, 0))
    trial = Fit(
        weights=none, error=np.full(steps, math.nan), spread=np.zeros(steps), relative=relative
    )
    return blend.measured(p, trial, PREDICT[method], blend.window(p, at, steps), high_share, at)


def _periods_before(p: Past, issue: Ints, lead: Ints, period: int) -> Floats:
    back = period * (lead // period + 1)
    index = issue[:, None] + (lead - back)[None, :]
    # In a history's first period the last value known stands in.
    return np.where(index >= 0, p.values[np.maximum(index, 0)], p.values[issue - 1][:, None])


def _weekend(p: Past, index: Ints) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    days = np.floor((p.start_s + index * p.step_s) / SECONDS_PER_DAY)
    weekend: np.ndarray[tuple[int, ...], np.dtype[np.bool_]] = (days + THURSDAY) % 7 >= 5
    return weekend


def _before(table: Floats) -> Floats:
    """Sum of the rows before each row, [row + 1, slot]."""
    return np.concatenate((np.zeros((1, table.shape[1])), np.cumsum(table, axis=0)))

"""A second opinion on the next day of an hourly series, and its mean with the shipped method: only `hanse reproduce temporal-shift` asks it.

Here: `day_ahead`. A ridge regression by hour of issue: the next 24 values from the last 48, the week before, and means of 7 and 28
days at the same hours, each less the week's mean. Issues of three hours around weigh in, by a Gaussian. Fitted every eight weeks
on the year before, so nothing later than an issue is read. Where less than `DAYS_MIN` are known the shipped method stands alone.
Not here: highs and errors (`make`), other steps than an hour. Outlooks, live and simulated, are of the shipped method alone.

Errors of the two are half independent: for 4 h jobs on 16 zones their mean keeps 0.4 to 0.5 percentage points more of the
saving that perfect foresight has than the shipped one (docs/defer.md).
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

from hanse.errors import FeedError
from hanse.signals.forecast.make import limits, many
from hanse.signals.forecast.past import Floats, without_gaps
from hanse.signals.series import Series
from hanse.units import SECONDS_PER_HOUR

Ints = NDArray[np.int64]

DAY: Final = 24
BACK: Final = 28 * DAY
"""Longest look back of a feature."""
YEAR: Final = 365 * DAY
REFIT: Final = 56 * DAY
DAYS_MIN: Final = 90
"""Known days before it is asked; with less than two months to learn from it errs more than the shipped method."""
RIDGE: Final = 300.0
AROUND: Final = 3
"""Hours. This and the ridge were chosen among a handful of values by what schedules saved in 2023 and 2024; every fit sees the past alone."""


def day_ahead(history: Series, issued_at_s: Floats) -> Floats:
    """Means of the 24 hours from each instant, [issue, hour], from values whose hour had ended by then."""
    if history.step_s != SECONDS_PER_HOUR:
        raise FeedError(
            f"history of {history.quantity} in {history.zone}",
            got=f"steps of {history.step_s:g} s",
            allowed="hours",
        )
    issued = np.asarray(issued_at_s, float)
    found = many(history, issued, steps=DAY).mean
    values = without_gaps(history.values, DAY)
    issue = np.floor((issued - history.start_s) / SECONDS_PER_HOUR + 1e-9).astype(np.int64)
    first_h = math.floor(history.start_s / SECONDS_PER_HOUR)
    # By Unix time, so that an issue's fit does not depend on which others are asked for with it.
    fitted = (issue + first_h) // REFIT * REFIT - first_h
    for at in np.unique(fitted).tolist():
        if at >= DAYS_MIN * DAY:
            here = np.flatnonzero(fitted == at)
            found[here] = 0.5 * (found[here] + _ridge(values, at, issue[here], first_h))
    return np.clip(found, *limits(history))


def _features(values: Floats, issue: Ints) -> tuple[Floats, Floats]:
    """Columns [issue, feature], and the week's mean that they are counted from, [issue, 1]."""
    i = issue[:, None]
    ahead = np.arange(DAY)
    week = values[i - 7 * DAY + np.arange(7 * DAY)]
    level = week.mean(axis=1, keepdims=True)
    days = values[i - BACK + np.arange(BACK)].reshape(-1, BACK // DAY, DAY)
    columns = [
        week[:, -2 * DAY :],
        values[i - 7 * DAY + ahead],
        days[:, -7:].mean(axis=1),
        days.mean(axis=1),
    ]
    return np.concatenate(columns, axis=1) - level, level


def _ridge(values: Floats, at: int, issue: Ints, first_h: int) -> Floats:
    """Forecasts of some issues by a fit on what was known at an index."""
    learnt = np.arange(max(BACK, at - YEAR), at - DAY + 1, dtype=np.int64)
    x, level = _features(values, learnt)
    y = values[learnt[:, None] + np.arange(DAY)] - level
    scale = max(float(x.std()), 1e-9)
    moments = _moments(x / scale, y, (learnt + first_h) % DAY)
    asked, base = _features(values, issue)
    hour = (issue + first_h) % DAY
    found = np.empty((len(issue), DAY))
    for h in np.unique(hour).tolist():
        weights, offset = _solved(moments, h, x.shape[1])
        found[hour == h] = asked[hour == h] / scale @ weights + offset + base[hour == h]
    return found


def _moments(x: Floats, y: Floats, hour: Ints) -> Floats:
    """Sums of products of (x, 1, y) by hour of issue, [hour, column, column]."""
    rows = np.concatenate([x, np.ones((len(x), 1)), y], axis=1)
    return np.stack([rows[hour == h].T @ rows[hour == h] for h in range(DAY)])


def _solved(moments: Floats, hour: int, features: int) -> tuple[Floats, Floats]:
    """Weights [feature, lead] and offset [lead] for an hour of issue."""
    away = np.arange(-AROUND, AROUND + 1)
    share = np.exp(-0.5 * (away / (AROUND / 2.0)) ** 2)
    total = np.tensordot(share, moments[(hour + away) % DAY], axes=1)
    count = total[features, features]
    mean_x, mean_y = total[features, :features] / count, total[features, features + 1 :] / count
    square = total[:features, :features] - count * np.outer(mean_x, mean_x)
    product = total[:features, features + 1 :] - count * np.outer(mean_x, mean_y)
    weights: Floats = np.linalg.solve(square + RIDGE * np.eye(features), product)
    return weights, mean_y - mean_x @ weights

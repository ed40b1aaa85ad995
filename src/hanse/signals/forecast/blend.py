"""The shipped method: the daily profile plus a damped deviation, corrected by a ridge regression on a trailing window.

Here: features, the fit, what it predicts, its error and high quantile on a part it had not seen. Not here: gaps and
profiles (`past`), other methods (`methods`).

For an issue index t (values before t are known) and lead h, with P the fast profile and d = y - P:
    mean = P(t+h) + a^((h+1) hours) d(t-1) + x(t, h) . b(h)
x are the slow and weekly profiles, the last two days at that hour, recent deviations; b is fitted by ridge for groups
of leads on the last `WINDOW_DAYS`, anew each Thursday (Unix weeks), so any number of issues in between share a fit.
What is not learnt from data thus falls back to a damped deviation from the profile, which needs one day of history.

All arithmetic on issues is elementwise, in one order: issues done together equal issues done one by one, bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import msgspec
import numpy as np
from numpy.typing import NDArray

from hanse.signals.forecast.past import Floats, Past
from hanse.units import SECONDS_PER_DAY, hours_from_s

Ints = NDArray[np.int64]
Predict = Callable[["Past", "Fit", Ints, Ints], Floats]

REFIT_DAYS = 7
YOUNG_DAYS = 42
"""A history this short learns daily: a week more is then a large part of all there is."""
WINDOW_DAYS = 180
"""Half a year: longer ones gained nothing on 16 zones, shorter ones lose where weather drives the grid."""
ISSUES_MAX = 900
"""Issue instants in a window; rows of neighbouring hours are almost copies of each other."""
ISSUES_MIN = 60
"""Five for each feature; with fewer nothing is learnt."""
GROUPS_MAX = 48
"""Leads beyond this many share fits with their neighbours: ten-minute steps over two days have 288."""
RIDGE_DAYS = 300.0
"""How much harder a short window is held back; errors of two weeks of demand fall by 3 to 7 %."""
RIDGE = 0.003
"""Relative to a variance of 1; between 0.003 and 0.01 errors on held-out zones differ by 0.2 %."""
DAMPING_PER_HOUR = 0.90
"""Of a deviation: half is left after seven hours, the usual life of an hour's surprise in a grid's carbon."""
SEEN_SHARE = 0.75
"""Of the window, which errors and quantiles are measured without; the rest they are measured on."""
FEATURES = 13


class Fit(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """What one window taught."""

    weights: Floats
    """[lead, feature], in units of the values."""
    error: Floats
    """[lead]: mean absolute error on the part not seen; NaN where there was none."""
    spread: Floats
    """[lead]: added to the mean gives what `high_share` of that part stayed under."""
    relative: bool
    """Whether `spread` is a share of the mean."""


def features(p: Past, issue: Ints, lead: Ints) -> tuple[list[Floats], Floats]:
    """Columns [issue, lead], and what they correct [issue, lead]."""
    t = issue[:, None]
    target = t + lead[None, :]
    near = target - p.day * (lead // p.day)[None, :]
    # The day before the target that is known, and the week.
    seen = near - p.day
    week = target - 7 * p.day * (lead // (7 * p.day) + 1)[None, :]
    fast, slow = _expected(p.fast, near, t, p.day), _expected(p.slow, near, t, p.day)
    hour = max(1, p.day // 24)
    off = partial(_off_mean, p, issue)
    last = off(1)
    hours = hours_from_s((lead + 1).astype(np.float64) * p.step_s)
    base = fast + DAMPING_PER_HOUR**hours * last
    level = _mean(p.sum, issue, p.day) - _mean(p.sum, issue, 7 * p.day)
    columns = [
        _at(p.values, seen) - fast,
        _at(p.values, seen - p.day) - fast,
        slow - fast,
        _at(p.values, week) - slow,
        _expected(p.weekly, week + 7 * p.day, t, 7 * p.day) - slow,
        last,
        off(hour),
        off(hour, hour),
        off(2 * hour, 2 * hour),
        off(6 * hour),
        off(p.day),
        level,
    ]
    shape = target.shape
    return [np.broadcast_to(column, shape) for column in columns], base


def predict(p: Past, fit: Fit, issue: Ints, lead: Ints) -> Floats:
    """Means [issue, lead]."""
    columns, mean = features(p, issue, lead)
    for k, column in enumerate(columns):
        mean = mean + fit.weights[None, :, k] * column
    return mean + fit.weights[None, :, len(columns)]


def anchor(p: Past, issue: int) -> int:
    """Index at which the fit that serves an issue was made: the last Thursday midnight UTC; any, of a young history."""
    issued_s = p.start_s + issue * p.step_s
    days = REFIT_DAYS if issue >= YOUNG_DAYS * p.day else 1
    period_s = days * SECONDS_PER_DAY
    fitted_s = math.floor(issued_s / period_s) * period_s
    return math.ceil((fitted_s - p.start_s) / p.step_s - 1e-9)


def fit(p: Past, at: int, steps: int, high_share: float, *, relative: bool) -> Fit:
    """Learn from what was known at an index; unlearnt while there is too little."""
    issue = window(p, at, steps)
    zeros = np.zeros((steps, FEATURES))
    trial = Fit(
        weights=zeros,
        error=np.full(steps, math.nan),
        spread=np.zeros(steps),
        relative=relative,
    )
    kept = issue[int(SEEN_SHARE * len(issue)) :]
    seen = issue[issue + steps <= kept[0]] if len(kept) else issue
    if len(seen) < ISSUES_MIN:
        return measured(p, trial, predict, issue, high_share, at)
    trial = msgspec.structs.replace(trial, weights=_ridge(p, seen, steps))
    known = measured(p, trial, predict, kept, high_share, at)
    return msgspec.structs.replace(known, weights=_ridge(p, issue, steps))


def window(p: Past, at: int, steps: int) -> Ints:
    """Issue indices whose steps had all ended at an index, rising, of the last half year."""
    first = max(2 * p.day, at - WINDOW_DAYS * p.day)
    last = at - steps
    stride = _stride(p.day, last - first)
    return np.arange(last, first, -stride, dtype=np.int64)[::-1].copy()


def measured(p: Past, trial: Fit, predict: Predict, issue: Ints, high_share: float, at: int) -> Fit:
    """A fit with its error and spread at some issues it had not seen, each lead pooled with two on either side."""
    if len(issue) < 8:
        return _unmeasured(p, trial, high_share, at)
    lead = np.arange(len(trial.error), dtype=np.int64)
    mean = predict(p, trial, issue, lead)
    missed = p.values[issue[:, None] + lead[None, :]] - mean
    scaled = missed / np.maximum(mean, _floor(p, int(issue[-1]))) if trial.relative else missed
    level = _level(p, issue, high_share)
    error, spread = np.empty(len(lead)), np.empty(len(lead))
    for h in range(len(lead)):
        around = slice(max(0, h - 2), h + 3)
        error[h] = np.mean(np.abs(missed[:, around]))
        spread[h] = np.quantile(scaled[:, around], level)
    return msgspec.structs.replace(trial, error=error, spread=np.maximum(spread, 0.0))


def _level(p: Past, issue: Ints, high_share: float) -> float:
    """The quantile that a new case stays under so often, of as many independent ones as there were quarter days.

    (n + 1)/n of the share: split conformal prediction (Lei et al., JASA 113, 2018). Errors of one day hang together, so
    issues are not counted but time.
    """
    count = 4.0 * (1.0 + float(issue[-1] - issue[0]) / p.day)
    return min(1.0, high_share * (count + 1.0) / count)


def _unmeasured(p: Past, trial: Fit, high_share: float, at: int) -> Fit:
    """Before any forecast has come true, highs lie as far off as values lay above their profile."""
    if at < 2:
        return trial
    above = max(0.0, float(np.quantile(p.off[1:at], high_share)))
    spread = above / max(_floor(p, at), float(p.sum[at]) / at) if trial.relative else above
    return msgspec.structs.replace(trial, spread=np.full(len(trial.spread), spread))


def spread_of(p: Past, fit: Fit, mean: Floats) -> Floats:
    """From mean to high [issue, lead]."""
    if not fit.relative:
        return np.broadcast_to(fit.spread[None, :], mean.shape)
    return fit.spread[None, :] * np.maximum(mean, 0.0)


def _ridge(p: Past, issue: Ints, steps: int) -> Floats:
    """Weights [lead, feature] by ridge regression on what the damped deviation leaves."""
    width = -(-steps // GROUPS_MAX)
    middle = np.minimum(np.arange(width // 2, steps + width // 2, width), steps - 1)
    columns, base = features(p, issue, middle)
    scale = max(float(np.std(p.values[issue])), 1e-9)
    x = np.stack([*columns, np.full(base.shape, scale)], axis=-1) / scale
    y = (p.values[issue[:, None] + middle[None, :]] - base) / scale
    x = np.ascontiguousarray(x.transpose(1, 2, 0))
    gram = x @ x.transpose(0, 2, 1)
    days = 1.0 + float(issue[-1] - issue[0]) / p.day
    gram += RIDGE * (1.0 + RIDGE_DAYS / days) * len(issue) * np.eye(x.shape[1])
    found = np.linalg.solve(gram, x @ y.T[:, :, None])[..., 0]
    found[:, -1] *= scale
    weights: Floats = np.repeat(found, width, axis=0)[:steps]
    return weights


def _floor(p: Past, until: int) -> float:
    """Below a twentieth of the usual level a share of the mean says nothing."""
    return max(1e-9, 0.05 * float(p.sum[until] / max(until, 1)))


def _stride(day: int, span: int) -> int:
    """Distance of issues in a window: few enough, and not locked to the hour of the day."""
    stride = max(1, math.ceil(span / ISSUES_MAX))
    while math.gcd(stride, day) > 1:
        stride += 1
    return stride


def _off_mean(p: Past, issue: Ints, count: int, skip: int = 0) -> Floats:
    """Mean deviation of `count` steps that ended `skip` steps before issue, [issue, 1]."""
    return _mean(p.off_sum, issue - skip, count)


def _mean(running: Floats, issue: Ints, count: int) -> Floats:
    until = np.maximum(issue, 1)
    begin = np.maximum(until - count, 0)
    mean: Floats = ((running[until] - running[begin]) / (until - begin))[:, None]
    return mean


def _expected(profile: Floats, index: Ints, t: Ints, period: int) -> Floats:
    """A profile at or after issue; in a history's first period only the mean until issue is known."""
    return _at(profile, np.where(index < period, np.minimum(index, t), index))


def _at(values: Floats, index: Ints) -> Floats:
    # Before a history begins its first value stands in; only issues of the first days read there.
    found: Floats = values[np.clip(index, 0, len(values) - 1)]
    return found

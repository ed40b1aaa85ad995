"""Forecasts from a history: one, or for many issue instants at once with the very same figures.

Here: `forecast` and `many`, `many_told` of a history that ends early, limits of what a quantity can be. Not here: methods (`methods`), what a provider forecasts
(`value.preferred`), sites (`energy.outlook`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import msgspec
import numpy as np

from hanse.errors import FeedError
from hanse.signals.forecast import blend, methods
from hanse.signals.forecast.methods import Method
from hanse.signals.forecast.past import Floats, Past, past
from hanse.signals.forecast.value import HIGH_SHARE, Forecast
from hanse.signals.series import Series
from hanse.units import SECONDS_PER_DAY

SHIPPED: Final[Method] = "blend"
LIMITS: Final[dict[str, tuple[float, float]]] = {
    "cloud_pct": (0.0, 100.0),
    "rh_pct": (0.0, 100.0),
    "carbon_free_pct": (0.0, 100.0),
    "temp_c": (-90.0, 60.0),
    "cloud_factor": (0.46, 1.0),
    "wind_share": (0.0, 0.9),
    "price": (-math.inf, math.inf),
}
"""Of a mean by quantity; everything else is 0 or more. Prices fall below 0; 60 degC is beyond any weather station."""
RELATIVE: Final = ("demand", "price")
"""Whose surprises grow with their level: bursts and spikes are multiples."""
LATE_DAYS_MAX: Final = 2
"""A longer silence is filled from the day before up to here: of a deviation that old less than a hundredth is left."""


class Batch(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """Forecasts of one history for many issue instants; arrays [issue, step]."""

    issued_at_s: Floats
    """[issue]."""
    start_s: Floats
    """[issue]: begin of the first step, which holds the issue instant."""
    mean: Floats
    high: Floats
    expected_error: Floats
    """NaN until there were issues to measure it on."""
    history: Series
    method: Method

    def one(self, i: int) -> Forecast:
        """The forecast of one issue."""
        error = self.expected_error[i]
        return Forecast(
            quantity=self.history.quantity,
            unit=self.history.unit,
            signal=self.history.signal,
            zone=self.history.zone,
            issued_at_s=float(self.issued_at_s[i]),
            start_s=float(self.start_s[i]),
            step_s=self.history.step_s,
            mean=tuple(self.mean[i].tolist()),
            high=tuple(self.high[i].tolist()),
            expected_error=() if np.isnan(error).any() else tuple(error.tolist()),
            method=self.method,
            source=self.history.source,
        )


def forecast(
    history: Series,
    issued_at_s: float,
    *,
    steps: int,
    method: Method = SHIPPED,
    high_share: float = HIGH_SHARE,
) -> Forecast:
    """What a history's next steps will be, from values whose step had ended at an instant.

    The first step is the one that holds the instant. Values dated later may be in the history: they are not read.
    """
    return many(history, [issued_at_s], steps=steps, method=method, high_share=high_share).one(0)


def many(
    history: Series,
    issued_at_s: Sequence[float] | Floats,
    *,
    steps: int,
    method: Method = SHIPPED,
    high_share: float = HIGH_SHARE,
) -> Batch:
    """Forecasts for many instants: each equals `forecast` at that instant, bit for bit."""
    p = past(history)
    issued = np.asarray(issued_at_s, np.float64)
    issue = _indices(p, issued, history)
    lead = np.arange(steps, dtype=np.int64)
    relative = history.signal in RELATIVE
    low, top = limits(history)
    mean, high, error = (np.empty((len(issue), steps)) for _ in range(3))
    anchors = np.array([blend.anchor(p, int(i)) for i in issue.tolist()], np.int64)
    for at in np.unique(anchors).tolist():
        here = anchors == at
        fit = methods.fit(p, method, at, steps, high_share, relative=relative)
        found = methods.PREDICT[method](p, fit, issue[here], lead)
        found = np.clip(found, low, top)
        mean[here] = found
        high[here] = np.clip(found + blend.spread_of(p, fit, found), low, top)
        error[here] = fit.error[None, :]
    return Batch(
        issued_at_s=issued,
        start_s=p.start_s + issue.astype(np.float64) * p.step_s,
        mean=mean,
        high=high,
        expected_error=error,
        history=history,
        method=method,
    )


def many_told(
    history: Series,
    issued_at_s: Sequence[float] | Floats,
    *,
    steps: int,
    method: Method = SHIPPED,
) -> Batch:
    """`many` of a history whose newest steps nobody has told yet: made at the end of the last step told, without the steps missing since.

    Were those filled from the day before, yesterday's level would pass for the present one.
    """
    issued = np.asarray(issued_at_s, np.float64)
    history = _reaching(history, float(issued.max()))
    index = np.floor((issued - history.start_s) / history.step_s).astype(np.int64)
    late = _late(history, index)
    mean, high, error = (np.empty((len(issued), steps)) for _ in range(3))
    for missing in np.unique(late).tolist():
        here = late == missing
        made_s = issued[here] - missing * history.step_s
        one = many(history, made_s, steps=steps + missing, method=method)
        mean[here], high[here] = one.mean[:, missing:], one.high[:, missing:]
        error[here] = one.expected_error[:, missing:]
    return Batch(
        issued_at_s=issued,
        start_s=history.start_s + index.astype(np.float64) * history.step_s,
        mean=mean,
        high=high,
        expected_error=error,
        history=history,
        method=method,
    )


def _reaching(history: Series, until_s: float) -> Series:
    """A history as far as an instant, with gaps where it ends before."""
    missing = math.floor((until_s - history.until_s) / history.step_s)
    if missing <= 0:
        return history
    values = np.concatenate((history.values, np.full(missing, math.nan)))
    return msgspec.structs.replace(history, values=values)


def _late(history: Series, index: blend.Ints) -> blend.Ints:
    """Steps missing right before each index; none where nothing was told before it."""
    known = np.flatnonzero(~np.isnan(history.values))
    before = np.searchsorted(known, index)
    told = np.where(before > 0, known[np.maximum(before, 1) - 1] + 1, index)
    day = round(SECONDS_PER_DAY / history.step_s)
    late: blend.Ints = np.minimum(index - told, LATE_DAYS_MAX * day)
    return late


def _indices(p: Past, issued_at_s: Floats, history: Series) -> blend.Ints:
    issue = np.array([p.issue_index(float(s)) for s in issued_at_s], np.int64)
    if len(issue) == 0 or issue.min() < 1 or issue.max() > len(p.values):
        raise FeedError(
            f"history of {history.quantity} in {history.zone}",
            got=f"instants from {issued_at_s.min():.0f} to {issued_at_s.max():.0f}"
            if len(issue)
            else "no instant",
            allowed=f"{history.start_s + history.step_s:.0f} to {history.until_s:.0f}: "
            "after a step has ended, and no later than what is known",
            fix="bring a longer history, or issue earlier",
        )
    return issue


def limits(history: Series) -> tuple[float, float]:
    """What a mean of the quantity can be."""
    family = "price" if history.signal == "price" else history.quantity
    return LIMITS.get(family, (0.0, math.inf))

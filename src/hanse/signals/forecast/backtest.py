"""How wrong forecasts were: every method issued again and again over a recorded year, against what then came.

Here: issue instants, errors by horizon, skill against persistence. Not here: histories (`cases`), own power
(`energy.backtest`), what a better forecast is worth (`dispatch`).

Everything is out of sample: at each issue a method knows what had ended by then, and fits on that alone. The first
`WARM_SHARE` of a history is for learning and not scored.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import msgspec
import numpy as np

from hanse.model.fleet import Value
from hanse.signals.forecast.make import Batch, many
from hanse.signals.forecast.methods import PREDICT, Method
from hanse.signals.forecast.past import Floats
from hanse.signals.series import Series
from hanse.units import SECONDS_PER_DAY, SECONDS_PER_HOUR

METHODS: Final[tuple[Method, ...]] = tuple(PREDICT)
HORIZONS_H: Final = (1, 6, 12, 24, 48)
WARM_SHARE: Final = 0.2
WARM_DAYS_MAX: Final = 60.0
ISSUE_EVERY_H: Final = 5
"""Coprime to 24: every hour of the day gets its turn, and neighbouring issues say much the same."""


class Score(Value, frozen=True, kw_only=True):
    """Errors of one method on one history, at leads up to a horizon and after the one before."""

    quantity: str
    zone: str
    unit: str
    method: str
    horizon: str
    """`1 h`, `2-6 h`, ... or `all`."""
    issues: int
    mae: float
    rmse: float
    bias: float
    """Mean of forecast less truth."""
    skill: float
    """1 - MAE over that of persistence: 0 is no better, 1 perfect."""
    under_high: float
    """Share of truths at or below the high figure, which aims at 0.95."""


def instants(history: Series, steps: int) -> Floats:
    """When forecasts are issued: after the warm-up, until the last whose steps are all known."""
    length_s = history.until_s - history.start_s
    warm_s = min(WARM_SHARE * length_s, WARM_DAYS_MAX * SECONDS_PER_DAY)
    first_s = history.start_s + np.ceil(warm_s / history.step_s) * history.step_s
    last_s = history.until_s - steps * history.step_s
    return np.arange(first_s, last_s, ISSUE_EVERY_H * SECONDS_PER_HOUR)


def backtest(
    history: Series, *, hours: float = 48.0, methods: Sequence[Method] = METHODS
) -> list[Score]:
    """Scores of methods on one history."""
    steps = round(hours * SECONDS_PER_HOUR / history.step_s)
    issued = instants(history, steps)
    made = [many(history, issued, steps=steps, method=m) for m in methods]
    index = np.rint((made[0].start_s - history.start_s) / history.step_s).astype(np.int64)
    truth = history.values[index[:, None] + np.arange(steps)]
    return scores(truth, {b.method: (b.mean, b.high) for b in made}, made[0])


def scores(truth: Floats, made: dict[Method, tuple[Floats, Floats]], like: Batch) -> list[Score]:
    """Errors by horizon; steps whose truth nobody recorded do not count."""
    history = like.history
    ends_h: Floats = np.arange(1.0, truth.shape[1] + 1.0) * history.step_s / SECONDS_PER_HOUR
    spans = list(_spans(ends_h))
    plain = {
        name: _mae(made["persistence"][0][:, part], truth[:, part])
        if "persistence" in made
        else np.nan
        for name, part in spans
    }
    found = []
    for method, (mean, high) in made.items():
        for name, part in spans:
            t, m, up = truth[:, part], mean[:, part], high[:, part]
            known = ~np.isnan(t)
            off = (m - t)[known]
            mae = float(np.abs(off).mean())
            found.append(
                Score(
                    quantity=history.quantity,
                    zone=history.zone,
                    unit=history.unit,
                    method=method,
                    horizon=name,
                    issues=len(truth),
                    mae=mae,
                    rmse=float(np.sqrt((off**2).mean())),
                    bias=float(off.mean()),
                    skill=1.0 - mae / plain[name] if plain[name] > 0.0 else 0.0,
                    under_high=float((t <= up + 1e-9)[known].mean()),
                )
            )
    return found


def renamed(found: Iterable[Score], quantity: str) -> list[Score]:
    """Scores under the name that a person asked for."""
    return [msgspec.structs.replace(one, quantity=quantity) for one in found]


def _spans(ends_h: Floats) -> Iterable[tuple[str, slice]]:
    before = 0
    for horizon in HORIZONS_H:
        until = int(np.searchsorted(ends_h, horizon + 1e-9))
        if until > before:
            first = HORIZONS_H[HORIZONS_H.index(horizon) - 1] + 1 if before else 1
            yield (
                f"{first}-{horizon} h" if first < horizon else f"{horizon} h",
                slice(before, until),
            )
            before = until
    yield "all", slice(0, len(ends_h))


def _mae(mean: Floats, truth: Floats) -> float:
    return float(np.nanmean(np.abs(mean - truth)))

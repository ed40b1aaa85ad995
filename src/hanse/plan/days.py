"""A few days that stand for a year: medoids of days, with weights that sum to it; extreme days stand for themselves.

Here: `typical_days` from hourly series. Not here: what is done with them (`renewables`), seasons of storage (a day's battery
ends as it began).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hanse.model.fleet import Value

Floats = NDArray[np.float64]
HOURS = 24
ROUNDS_MAX = 50
"""Alternation settles in fewer than ten on a year of days; the limit only guards against a cycle of ties."""


class TypicalDays(Value, frozen=True, kw_only=True, eq=False):
    """Chosen days of a year."""

    day: NDArray[np.int64]
    """[chosen]: index of the day, rising; the extreme days among them."""
    weight: Floats
    """[chosen]: days it stands for; they sum to all days."""
    stands_in: NDArray[np.int64]
    """[day]: index into `day` of the one that stands for it."""


def typical_days(series: Floats, count: int, extremes: Sequence[int]) -> TypicalDays:
    """Choose `count` days of `series` [quantity, hour]; the days in `extremes` are among them and stand for themselves alone.

    k-medoids on whole days, each quantity less its mean over its spread, so that all weigh alike (Teichgraeber, Brandt,
    Applied Energy 239, 2019: medoids with extreme days keep the cost of a design better than means). Greedy start
    (Kaufman, Rousseeuw, 1990, BUILD), then alternation (Park, Jun, Expert Systems with Applications 36(2), 2009); ties to
    the earliest day, so the same series give the same days.
    """
    quantities, hours = series.shape
    days, special = hours // HOURS, np.unique(np.asarray(extremes, np.int64))
    assert hours % HOURS == 0 and days >= count > len(special), (hours, count, len(special))
    spread = series.std(axis=1, keepdims=True)
    scaled = (series - series.mean(axis=1, keepdims=True)) / np.where(spread > 1e-12, spread, 1.0)
    points = scaled.reshape(quantities, days, HOURS).transpose(1, 0, 2).reshape(days, -1)
    squares = (points**2).sum(axis=1)
    far = np.sqrt(np.maximum(0.0, squares[:, None] + squares - 2.0 * points @ points.T))
    others = np.delete(np.arange(days), special)
    ordinary = others[_medoids(far[np.ix_(others, others)], count - len(special))]
    chosen = np.sort(np.concatenate([ordinary, special]))
    stands_in = np.searchsorted(chosen, np.arange(days))
    owner = ordinary[far[np.ix_(others, ordinary)].argmin(axis=1)]
    owner = np.where(np.isin(others, ordinary), others, owner)
    stands_in[others] = np.searchsorted(chosen, owner)
    weight = np.bincount(stands_in, minlength=count).astype(float)
    return TypicalDays(day=chosen, weight=weight, stands_in=stands_in)


def _medoids(far: Floats, count: int) -> NDArray[np.int64]:
    near = np.full(len(far), np.inf)
    chosen: list[int] = []
    for _ in range(count):
        total = np.minimum(near[:, None], far).sum(axis=0)
        total[chosen] = np.inf
        chosen.append(int(total.argmin()))
        near = np.minimum(near, far[:, chosen[-1]])
    medoids = np.sort(np.array(chosen))
    for _ in range(ROUNDS_MAX):
        owner = far[:, medoids].argmin(axis=1)
        # A medoid owns itself even where another one is equally near.
        owner[medoids] = np.arange(count)
        moved = medoids.copy()
        for k in range(count):
            members = np.flatnonzero(owner == k)
            moved[k] = members[far[np.ix_(members, members)].sum(axis=0).argmin()]
        moved = np.sort(moved)
        if (moved == medoids).all():
            break
        medoids = moved
    return medoids

"""Like for like: figures over the requests that every alternative answers.

Here: `Answers`, which keeps four figures of each request of a run (16 bytes), and `alike`. Not here: runs (`runs`), intervals (`compare`).

An alternative that refuses half of the requests has the figures of the other half. The mean over what all answer is free of that.
Requests have the same numbers in all alternatives, since they see the same draw.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from hanse.twin.arrays import ANSWERED

FIELDS: Final = ("ttft_ms", "e2e_ms", "energy_wh", "carbon_g")
Kept = NDArray[np.float32]
"""[request, field]; NaN where the request was not answered."""


class Answers:
    """Fed with finished requests in any order."""

    def __init__(self) -> None:
        self._kept: Kept = np.full((0, len(FIELDS)), np.nan, np.float32)

    def take(self, rows: Any) -> None:
        """Add some finished requests."""
        most = int(rows["request"].max(initial=-1)) + 1
        if most > len(self._kept):
            longer = np.full((max(most, 2 * len(self._kept)), len(FIELDS)), np.nan, np.float32)
            longer[: len(self._kept)] = self._kept
            self._kept = longer
        answered = rows[rows["outcome"] == ANSWERED]
        for i, name in enumerate(FIELDS):
            self._kept[answered["request"], i] = answered[name]

    def kept(self, count: int) -> Kept:
        """Of the first `count` requests: all of a run."""
        whole = np.full((count, len(FIELDS)), np.nan, np.float32)
        some = self._kept[:count]
        whole[: len(some)] = some
        return whole


def alike(runs: Sequence[Kept]) -> list[list[float | None]]:
    """[alternative] share of requests that all answer, then the mean of each field over those; of one draw."""
    common = ~np.isnan(np.stack([run[:, 0] for run in runs])).any(axis=0)
    if not common.any():
        return [[0.0, *([None] * len(FIELDS))] for _ in runs]
    share = float(common.mean())
    return [[share, *run[common].mean(axis=0, dtype=np.float64).tolist()] for run in runs]

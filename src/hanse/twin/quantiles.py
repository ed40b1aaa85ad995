"""Quantiles of the logarithmic latency histograms, and the interval that a mean of a few runs lies in.

Here: pure arithmetic. Not here: filling histograms (`books`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from hanse.twin.arrays import BIN_MS_MIN, BIN_RATIO

T_975: Final = (
    (12.706205, 4.302653, 3.182446, 2.776445, 2.570582, 2.446912, 2.364624, 2.306004, 2.262157, 2.228139)
    + (2.200985, 2.178813, 2.160369, 2.144787, 2.131450, 2.119905, 2.109816, 2.100922, 2.093024, 2.085963)
    + (2.079614, 2.073873, 2.068658, 2.063899, 2.059539, 2.055529, 2.051831, 2.048407, 2.045230, 2.042272)
)  # fmt: skip
"""97.5 % quantile of Student's t for 1 to 30 degrees of freedom (any table of the distribution)."""


def bin_ms(number: int) -> float:
    """Geometric middle of a bin, at most 1 % from anything in it; the first holds all below 0.1 ms and counts as 0."""
    return BIN_MS_MIN * BIN_RATIO ** (number - 0.5) if number > 0 else 0.0


def quantile_ms(counts: NDArray[Any], share: float) -> float | None:
    """The value that a share of the counted lie at or below; None where nothing was counted."""
    total = int(counts.sum())
    if total == 0:
        return None
    rank = max(1, math.ceil(share * total))
    return bin_ms(int(np.searchsorted(np.cumsum(counts), rank)))


def t_975(freedom: int) -> float:
    """97.5 % quantile of Student's t; beyond the table Fisher's expansion about the normal, good to 1e-4."""
    assert freedom >= 1, "an interval needs two values"
    if freedom <= len(T_975):
        return T_975[freedom - 1]
    z = NormalDist().inv_cdf(0.975)
    return (
        z
        + (z**3 + z) / (4.0 * freedom)
        + (5.0 * z**5 + 16.0 * z**3 + 3.0 * z) / (96.0 * freedom**2)
    )


def mean_and_half_width(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean, and half of its 95 % confidence interval by Student's t; None for a single value."""
    count = len(values)
    mean = math.fsum(values) / count
    if count < 2:
        return mean, None
    variance = math.fsum((v - mean) ** 2 for v in values) / (count - 1)
    return mean, t_975(count - 1) * math.sqrt(variance / count)

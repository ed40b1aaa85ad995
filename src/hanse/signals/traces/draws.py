"""Random numbers that are the same on every machine and with every version of numpy.

Here: raw bits of PCG64, which numpy promises never to change, uniform numbers made of them, and the frozen legacy
distributions where a count or a Gamma variate is needed (numpy's NEP 19: `Generator`'s distributions may change, those
of `RandomState` never do). Not here: what is drawn.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray


class Draws:
    """A stream of its own for each key: numbers of one place do not move when another place draws more."""

    def __init__(self, *key: int) -> None:
        self._bits = np.random.PCG64(np.random.SeedSequence(key))
        self._frozen = np.random.RandomState(self._bits)

    def raw(self, count: int) -> NDArray[np.uint64]:
        """64 random bits each."""
        return np.asarray(self._bits.random_raw(count), np.uint64)

    def quarters(self, count: int) -> NDArray[np.uint16]:
        """[count, 4] numbers of 16 bits: four for the price of one, for tables of 65,536 entries."""
        return self.raw(count).astype("<u8", copy=False).view("<u2").reshape(count, 4)

    def uniform(self, count: int) -> NDArray[np.float64]:
        """In [0, 1), 53 bits."""
        return (self.raw(count) >> np.uint64(11)).astype(np.float64) * 2.0**-53

    def poisson(self, mean: NDArray[np.float64]) -> NDArray[np.int64]:
        """Counts of the given means, same shape."""
        return np.asarray(self._frozen.poisson(mean), np.int64)

    def gamma(self, shape: float, size: tuple[int, ...]) -> NDArray[np.float64]:
        """Gamma variates of scale 1."""
        return np.asarray(self._frozen.standard_gamma(shape, size))

    def gaps(self, count: int, shape: float, weibull: bool) -> NDArray[np.float64]:
        """Gamma or Weibull variates of mean 1."""
        if weibull:
            return np.asarray(self._frozen.weibull(shape, count) / math.gamma(1.0 + 1.0 / shape))
        return self.gamma(shape, (count,)) / shape

"""`Series`: equally spaced values of one quantity, with unit, kind of signal, source and licence.

Here: looking a value up and cutting a window. Not here: reading files (`recorded`), mapping one
year onto another (`replay`), interpolation: a value holds until the next step begins.
"""

from __future__ import annotations

import math
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from hanse.errors import FeedError

SignalType = Literal[
    "average_location",
    "average_market",
    "marginal",
    "carbon_free",
    "price",
    "weather",
    "demand",
    "own_power",
]
"""What a value means. Average and marginal carbon give different best sites: never mix them (`kinds`)."""


class Series(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, eq=False):
    """Values `[step]` in `unit`; value i holds from `start_s + i * step_s` for `step_s` seconds."""

    start_s: float
    step_s: float
    values: NDArray[np.float64]
    quantity: str
    unit: str
    signal: SignalType
    zone: str
    source: str
    licence: str

    def __post_init__(self) -> None:
        assert self.step_s > 0.0, "a step takes time"
        assert self.values.ndim == 1 and len(self.values) > 0, "a series has values"
        assert self.source and self.licence, "a series says where it comes from"
        self.values.setflags(write=False)

    @property
    def until_s(self) -> float:
        """The first instant after the last step."""
        return self.start_s + self.step_s * len(self.values)

    def at(self, now_s: float) -> float:
        """The value that holds at an instant."""
        if not self.start_s <= now_s < self.until_s:
            raise FeedError(
                f"{self.quantity} of {self.zone}",
                got=f"instant {now_s:.0f}",
                allowed=f"{self.start_s:.0f} to {self.until_s:.0f}",
                fix="replay the instant into the recorded year first",
            )
        return float(self.values[self._index(now_s)])

    def window(self, from_s: float, until_s: float) -> Series:
        """The steps that overlap `[from_s, until_s)`."""
        first = max(0, self._index(from_s))
        last = min(len(self.values), math.ceil((until_s - self.start_s) / self.step_s))
        if first >= last:
            raise FeedError(
                f"{self.quantity} of {self.zone}",
                got=f"window {from_s:.0f} to {until_s:.0f}",
                allowed=f"an overlap with {self.start_s:.0f} to {self.until_s:.0f}",
            )
        start_s = self.start_s + first * self.step_s
        return msgspec.structs.replace(self, start_s=start_s, values=self.values[first:last].copy())

    def _index(self, now_s: float) -> int:
        return math.floor((now_s - self.start_s) / self.step_s)

"""Pauses after failures: longer each time, up to a bound.

Here: when to try something again. Not here: trying it.
"""

from __future__ import annotations

import time
from typing import Final

FIRST_S: Final = 0.5


class Pauses:
    """Of many things by name."""

    def __init__(self) -> None:
        self._until: dict[str, tuple[float, float]] = {}
        """Name -> (instant on the monotonic clock, pause that ends then)."""

    def over(self, name: str) -> bool:
        """Whether it may be tried now."""
        return time.monotonic() >= self._until.get(name, (0.0, 0.0))[0]

    def failed(self, name: str, s_max: float) -> None:
        """It was tried in vain: twice the last pause."""
        pause_s = min(s_max, max(FIRST_S, 2.0 * self._until.get(name, (0.0, 0.0))[1]))
        self._until[name] = time.monotonic() + pause_s, pause_s

    def forget(self, name: str) -> None:
        """It went well."""
        self._until.pop(name, None)

"""When a node is reset out of band: its engines do not come back, nothing answers, and it was not reset just now.

Here: `Resets`, a decision with its memory, which its keeper has on disk. Not here: the order itself (`redfish`), restarting engines (`dispatch.site_scope`), which is tried
first and much more often.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from hanse.view import EngineStatus

DEAD_S: Final = 180.0
"""All engines of a pool failing for so long: by then each was restarted three times and had most of a minute to answer."""
AGAIN_S: Final = 1800.0
"""A node takes up to ten minutes to boot and to read its weights; powerman's users wait a minute for the power alone."""
RESETS_MAX: Final = 3
"""In `RESETS_S`: what three resets do not cure needs hands."""
RESETS_S: Final = 86_400.0


class Resets:
    """Of one pool that may be reset."""

    def __init__(self, pool: str, done_at_s: Sequence[float] = ()) -> None:
        self.pool = pool
        self.done_at_s = list(done_at_s)
        """Of the last resets, also of those before this process; the clock's time, which a restart does not change."""
        self._dead_since_s: float | None = None

    def go_on_from(self, before: Resets) -> None:
        """What another keeper knew of the same pool at the same device."""
        self.done_at_s, self._dead_since_s = list(before.done_at_s), before._dead_since_s

    def due(self, engines: Sequence[EngineStatus], now_s: float, steady_s: float) -> bool:
        """Whether the node is to be reset now; it counts as done.

        Args:
            now_s: The clock.
            steady_s: A clock that nobody sets: a jump of the other is no time for which a node was dead.
        """
        own = [e for e in engines if e.pool == self.pool and e.state != "resting"]
        if not own or any(e.state != "failing" for e in own):
            self._dead_since_s = None
            return False
        if self._dead_since_s is None:
            self._dead_since_s = steady_s
        self.done_at_s = [at_s for at_s in self.done_at_s if now_s - at_s < RESETS_S]
        if steady_s - self._dead_since_s < DEAD_S or len(self.done_at_s) >= RESETS_MAX:
            return False
        if self.done_at_s and now_s - self.done_at_s[-1] < AGAIN_S:
            return False
        self.done_at_s.append(now_s)
        return True

"""What operators do today instead of planning: each site keeps its own replicas at a target share of their slots.

Here: `Autoscaler`, the rule of the Kubernetes horizontal pod autoscaler (desired = ceil(replicas x use / target), a tolerance of a
tenth, the highest wish of the last five minutes where fewer are wanted), for comparison with the slow loop. Not here: the slow loop.
"""

from __future__ import annotations

import math
from collections import deque
from typing import Any, Final

from msgspec.structs import replace

from hanse.model.fleet import Fleet, Placement

EVERY_S: Final = 60.0
"""Between two looks; Kubernetes takes 15 s, of metrics that are themselves a minute old."""
TOLERANCE: Final = 0.1
STABLE_S: Final = 300.0
"""Kubernetes' default before fewer replicas are wanted."""


class Autoscaler:
    """Replicas of every placement of the fleet file, each for itself; at least one, at most what its chips hold."""

    def __init__(self, fleet: Fleet, target: float) -> None:
        assert 0.0 < target <= 1.0, "a share of slots"
        self._target = target
        self._replicas = {self._key(p): p.replicas for p in fleet.placements}
        self._wishes: dict[tuple[str, ...], deque[int]] = {
            key: deque(maxlen=round(STABLE_S / EVERY_S)) for key in self._replicas
        }
        self._counts = {(s.id, p.id): p.count for s in fleet.sites for p in s.pools}
        self._placements = fleet.placements

    @staticmethod
    def _key(p: Placement) -> tuple[str, ...]:
        return p.site, p.pool, p.service, p.variant

    def look(self, used: dict[tuple[str, ...], Any]) -> tuple[Placement, ...]:
        """Placements from now on.

        Args:
            used: By (site, pool, service, variant): requests that its engines hold, waiting ones included.
        """
        free = dict(self._counts)
        for p in self._placements:
            free[p.site, p.pool] -= (p.chips or 1) * self._replicas[self._key(p)]
        for p in self._placements:
            key = self._key(p)
            now = self._replicas[key]
            share = float(used.get(key, 0.0)) / (now * p.slots)
            wish = now
            if abs(share / self._target - 1.0) > TOLERANCE:
                wish = max(1, math.ceil(now * share / self._target - 1e-9))
            self._wishes[key].append(wish)
            wish = max(wish, *self._wishes[key]) if wish < now else wish
            room = free[p.site, p.pool] // (p.chips or 1)
            wish = min(wish, now + max(room, 0))
            free[p.site, p.pool] -= (p.chips or 1) * (wish - now)
            self._replicas[key] = wish
        return tuple(replace(p, replicas=self._replicas[self._key(p)]) for p in self._placements)

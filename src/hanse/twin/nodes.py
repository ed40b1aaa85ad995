"""Servers of a simulated fleet: which are on, what they draw beside engines, how long one takes to wake.

Here: `Nodes`. Chips fill servers from the first on, so that as many stand empty as can. Not here: what engines and jobs draw
themselves (`power`, `yard`), who decides (`dispatch.place` counts nodes the same way).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hanse.dispatch.place_offers import NODE_CHIPS
from hanse.dispatch.place_problem import NODE_OFF_W, WAKE_S
from hanse.energy.plant import empty_w, host_w
from hanse.model.fleet import Fleet

PoolKey = tuple[str, str]
"""(site, pool)."""
ASLEEP: Final = float("inf")


class _Pool(NamedTuple):
    site: int
    chips: int
    per_node: int
    empty_w: float
    """Of one chip that holds nothing, with its share of the server."""


class Nodes:
    """Servers of every pool. Without `powers_down` all of them are always on."""

    def __init__(self, fleet: Fleet, *, powers_down: bool) -> None:
        self._powers_down = powers_down
        self._pools: dict[PoolKey, _Pool] = {}
        self._awake_at_s: dict[PoolKey, list[float]] = {}
        for s, site in enumerate(fleet.sites):
            for pool in site.pools:
                chip_w = empty_w(pool.accelerator) + host_w(pool.accelerator)
                per_node = min(pool.count, NODE_CHIPS)
                key = site.id, pool.id
                self._pools[key] = _Pool(s, pool.count, per_node, chip_w)
                begun = ASLEEP if powers_down else 0.0
                self._awake_at_s[key] = [begun] * -(-pool.count // per_node)
        self._sites = len(fleet.sites)

    def ready_s(self, key: PoolKey, used: int, more: int, now_s: float) -> float:
        """When so many chips more than are used can be worked on: now, unless a server has to wake first."""
        pool, awake = self._pools[key], self._awake_at_s[key]
        last = min(-(-(used + more) // pool.per_node), len(awake))
        for i in range(last):
            if awake[i] == ASLEEP:
                awake[i] = now_s + WAKE_S
        return max([now_s, *awake[:last]])

    def on(self) -> int:
        """Chips of servers that are on."""
        return sum(
            min(self._pools[key].chips, self._pools[key].per_node * sum(a != ASLEEP for a in awake))
            for key, awake in self._awake_at_s.items()
        )

    def asleep(self) -> list[PoolKey]:
        """Pools whose servers are all off."""
        return [key for key, awake in self._awake_at_s.items() if all(a == ASLEEP for a in awake)]

    def empty_w(
        self, site: str, engines: Mapping[PoolKey, int], jobs: Mapping[PoolKey, int]
    ) -> float:
        """What a site's chips draw now on which neither engines nor jobs are."""
        watts = 0.0
        for key, pool in self._pools.items():
            if key[0] == site:
                on = sum(at_s != ASLEEP for at_s in self._awake_at_s[key])
                held = engines.get(key, 0) + jobs.get(key, 0)
                watts += max(min(pool.chips, on * pool.per_node) - held, 0) * pool.empty_w
        return watts

    def step_w(self, used: Mapping[PoolKey, int], now_s: float) -> NDArray[np.float64]:
        """[site] what is drawn beside engines and jobs; servers that hold nothing any more are switched off."""
        watts = np.zeros(self._sites)
        for key, pool in self._pools.items():
            chips, awake = used.get(key, 0), self._awake_at_s[key]
            if self._powers_down:
                needed = min(-(-chips // pool.per_node), len(awake))
                for i in range(needed, len(awake)):
                    awake[i] = ASLEEP
                for i in range(needed):
                    awake[i] = min(awake[i], now_s)
            on = sum(at_s != ASLEEP for at_s in awake)
            held = min(pool.chips, on * pool.per_node)
            watts[pool.site] += max(held - chips, 0) * pool.empty_w
            watts[pool.site] += (len(awake) - on) * NODE_OFF_W
        return watts

"""Requests that are due in a later slab of time: put in at once, taken out slab by slab, each moved a few times only.

Here: a hierarchical timing wheel (Varghese and Lauck, SOSP 1987, doi 10.1145/41457.37504) of base 8, on arrays. Not here:
what a slab is (`generate`).
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from hanse.signals.traces.trace import Requests, empty_requests, stacked

BITS: Final = 3
"""Slabs of a bucket grow eightfold by level: ten levels hold a billion slabs, and a request moves once a level."""


class Wheel:
    """Buckets of requests by the slab that they are due in.

    A request due in slab s while c is at hand lies at the level of the highest base-8 digit in which s and c differ (the
    lowest where none does), in a bucket with all others that have that digit and those above in common with it.
    """

    def __init__(self) -> None:
        self._buckets: dict[tuple[int, int], list[tuple[Requests, NDArray[np.int64]]]] = {}

    def add(self, now: int, requests: Requests, slabs: NDArray[np.int64]) -> None:
        """Put requests in that are due in the given slabs, none before `now`."""
        if len(requests) == 0:
            return
        # frexp gives the bit length: exact, as numbers of slabs are far below 2^53.
        bits = np.frexp((slabs ^ now).astype(np.float64))[1]
        levels = np.maximum(bits - 1, 0) // BITS
        numbers = slabs >> (levels * BITS)
        keys = (numbers << 6) | levels
        order = np.argsort(keys, kind="stable")
        keys = keys[order]
        begins = np.flatnonzero(np.append(True, keys[1:] != keys[:-1]))
        for begin, end in zip(begins.tolist(), [*begins[1:].tolist(), len(keys)], strict=True):
            which = order[begin:end]
            key = (int(keys[begin]) & 63, int(keys[begin]) >> 6)
            self._buckets.setdefault(key, []).append((requests[which], slabs[which]))

    def take(self, now: int) -> Requests:
        """All that is due in slab `now`; slabs are taken one after another from 0 on."""
        level = 1
        while now and now % (1 << (BITS * level)) == 0:
            level += 1
        for above in range(level - 1, 0, -1):
            if parts := self._buckets.pop((above, now >> (BITS * above)), None):
                slabs = np.concatenate([slabs for _, slabs in parts])
                self.add(now, stacked([requests for requests, _ in parts]), slabs)
        due = self._buckets.pop((0, now), None)
        return stacked([requests for requests, _ in due]) if due else empty_requests(0)

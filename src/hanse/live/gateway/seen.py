"""Which other sites answer this site: a row of the shared page, written by each gateway worker, read by the agent.

Here: `PeerRow`, the worker's side, and `unheard`, the agent's. Not here: the checks themselves (`gateway.peers`), what the hub makes of
it (`dispatch.second_opinion`).
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b
from typing import Final

import numpy as np
from numpy.typing import NDArray

from hanse.live.shared import PEERS_MAX, Counts

UNASKED, ANSWERS, SILENT = 0, 1, 2
"""States of a peer; `UNASKED` until its first checks are answered or were missed as often as it takes."""
DIGEST, STATE = 0, 1
_FREE: Final = 0


def digest(site: str) -> int:
    """A site's name as a number that fits the page; never 0, which is a free slot."""
    return int.from_bytes(blake2b(site.encode(), digest_size=7).digest()) + 1


class PeerRow:
    """One worker's row. A league of more sites than the page has slots for is told of as far as it goes."""

    def __init__(self, row: NDArray[np.int64]) -> None:
        self._row = row
        self._slots: dict[str, int] = {}
        self._free = list(range(PEERS_MAX - 1, -1, -1))
        row[:] = _FREE

    def add(self, site: str) -> None:
        """A peer that is checked from now on."""
        if site in self._slots or not self._free:
            return
        slot = self._slots[site] = self._free.pop()
        self._row[slot] = digest(site), UNASKED

    def drop(self, site: str) -> None:
        """A peer that is checked no more."""
        slot = self._slots.pop(site, None)
        if slot is not None:
            self._row[slot] = _FREE
            self._free.append(slot)

    def answers(self, site: str) -> None:
        """It answered."""
        self._set(site, ANSWERS)

    def silent(self, site: str) -> None:
        """It missed as many checks in a row as make a peer count as gone."""
        self._set(site, SILENT)

    def _set(self, site: str, state: int) -> None:
        slot = self._slots.get(site)
        if slot is not None:
            self._row[slot, STATE] = state


def unheard(
    peers: Counts, alive: NDArray[np.bool_], sites: Iterable[str]
) -> tuple[str, ...] | None:
    """Sites that answer no living worker, in the order given; None where nothing can be said yet.

    Args:
        peers: `[worker, peer, (digest, state)]` of the shared page.
        alive: `[worker]`.
        sites: All other sites of the fleet.
    """
    rows = peers[alive].reshape(-1, 2)
    checked = rows[rows[:, DIGEST] != _FREE]
    # Just started: what was not asked yet would count as silent. One settled peer is not enough, for nobody knows which it is.
    if not len(checked) or (checked[:, STATE] == UNASKED).any():
        return None
    answers = set(checked[checked[:, STATE] == ANSWERS, DIGEST].tolist())
    return tuple(site for site in sites if digest(site) not in answers)

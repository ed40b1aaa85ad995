"""Counts that need more axes than the compiled books keep: class and country by site, reasons by origin, money for egress.

Here: `Tally`, fed with finished requests some ten thousand at a time. Not here: sums and histograms (`books`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from hanse.dispatch.reasons import Reason
from hanse.twin.arrays import (
    ANSWERED,
    FAILED_OUT,
    REASON_NO_ENTRY,
    REASON_NOT_ALLOWED,
    REASONS,
    REFUSED_OUT,
    World,
)
from hanse.twin.books import WIRE_BYTES_IN

Counts = NDArray[np.int64]
REASON_NAMES: Final = tuple(
    {REASON_NO_ENTRY: "NO_ENTRY", REASON_NOT_ALLOWED: "NOT_ALLOWED"}.get(i)
    or next(r.name for r in Reason if -int(r) == i)
    for i in range(REASONS)
)
"""By column: the gates of `dispatch.reasons`, and the two that end a request before it is read."""


class Tally:
    """Counts of finished requests: services Q, classes C, origins R, sites S."""

    def __init__(self, world: World) -> None:
        services, classes = world.refused.shape[:2]
        origins, sites = world.flow.shape
        self.executed: Counts = np.zeros((classes, origins, sites), np.int64)
        self.entered: Counts = np.zeros((classes, origins, sites), np.int64)
        self.refused: Counts = np.zeros((services, classes, origins, REASONS), np.int64)
        self.failed: Counts = np.zeros((services, classes, origins, REASONS), np.int64)
        self.egress_usd = np.zeros(sites)
        """[S] what answers of a site cost on their way to the entry site."""
        self._usd_per_byte = world.ways["usd_per_byte"].copy()

    def take(self, rows: Any) -> None:
        """Add some finished requests."""
        answered = rows[rows["outcome"] == ANSWERED]
        _add(self.executed, answered["cls"], answered["origin"], answered["site"])
        read = rows[rows["entry"] >= 0]
        _add(self.entered, read["cls"], read["origin"], read["entry"])
        for outcome, counts in ((REFUSED_OUT, self.refused), (FAILED_OUT, self.failed)):
            some = rows[rows["outcome"] == outcome]
            reason = np.clip(-some["reason"], 0, REASONS - 1)
            _add(counts, some["service"], some["cls"], some["origin"], reason)
        sent_bytes = WIRE_BYTES_IN + 4.0 * answered["tokens_in"] + 200.0 * answered["tokens_out"]
        usd = self._usd_per_byte[answered["entry"], answered["site"]] * sent_bytes
        self.egress_usd += np.bincount(answered["site"], usd, len(self.egress_usd))


def each(*takers: Callable[[Any], None]) -> Callable[[Any], None]:
    """One taker of rows that gives them to several."""

    def take(rows: Any) -> None:
        for taker in takers:
            taker(rows)

    return take


def by_reason(counts: Counts) -> dict[str, int]:
    """Counts [reason] by name, those that are not 0."""
    return {REASON_NAMES[i]: int(n) for i, n in enumerate(counts) if n}


def _add(counts: Counts, *index: NDArray[Any]) -> None:
    flat = np.ravel_multi_index(tuple(i.astype(np.int64) for i in index), counts.shape)
    counts += np.bincount(flat, minlength=counts.size).reshape(counts.shape)

"""Demand as it was counted: requests by service, subject of law and entry, in equal bins of time.

Here: `DemandCounts`, which live and simulated fleets fill alike, and its bytes for a restart. Not here: forecasting (`forecast`), who
counts (`live.demand`, `twin`).
"""

from __future__ import annotations

import math
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from hanse.model.fleet import CountryCode, Id, Value
from hanse.model.told import Amount

BIN_S: Final = 300.0
"""Five minutes: ten requests of a small service, and finer than any placement moves."""
KEEP_S: Final = 28.0 * 86_400.0
"""Four weeks: what a weekly pattern needs; a thousand kinds of demand take 194 MB, up to three times that before the oldest
bins go (twice the bins, half of them again for growth)."""


class DemandKey(Value, frozen=True, kw_only=True, order=True):
    """One kind of demand."""

    service: Id
    tenant: Id
    data_class: Id
    country: CountryCode
    """Of legal origin."""
    origin: Id
    """Site whose gateway was asked first."""


class DemandCount(Value, frozen=True, kw_only=True):
    """What one entry counted of one kind of demand in a stretch of time."""

    key: DemandKey
    requests: Amount
    """More than were looked at where rows are a sample."""
    tokens_in: Amount
    """All of these requests together."""
    tokens_out: Amount


class _Kept(msgspec.Struct, frozen=True, kw_only=True):
    bin_s: float
    first: int
    keys: tuple[DemandKey, ...]
    counts: tuple[bytes, ...]
    heard: dict[Id, bytes] = {}


class DemandCounts:
    """Counts [bin, (requests, tokens in, tokens out)] of every kind of demand, on one axis of bins, and which entries were heard.

    An entry that says of itself that it reports (`add` with `origin`) is unknown in the bins that it did not report in; of all
    others, simulated ones, every bin is known.
    """

    def __init__(self, *, bin_s: float = BIN_S, keep_s: float = KEEP_S) -> None:
        assert bin_s > 0.0 and keep_s >= bin_s
        self.bin_s = bin_s
        self._keep = int(keep_s // bin_s)
        self._first = -1
        """Number of the first bin since 1970; -1: nothing was counted."""
        self._length = 0
        self._counts: dict[DemandKey, NDArray[np.float64]] = {}
        self._heard: dict[Id, NDArray[np.bool_]] = {}

    @property
    def start_s(self) -> float:
        """Unix seconds of the first bin."""
        return max(self._first, 0) * self.bin_s

    def kinds(self) -> tuple[DemandKey, ...]:
        """Every kind that was counted, in a fixed order."""
        return tuple(sorted(self._counts))

    @property
    def until_s(self) -> float:
        """The end of the last bin."""
        return self.start_s + self._length * self.bin_s

    def add(
        self, at_s: float, counts: tuple[DemandCount, ...], origin: Id = "", over_s: float = 0.0
    ) -> None:
        """Put counts into the bin that holds an instant.

        What is older than all that is kept is dropped, and what lies so far ahead that all of it would have to go.

        Args:
            at_s: Unix seconds.
            counts: Requests; none at all say that nobody asked.
            origin: The entry that reports, of the `over_s` seconds before; empty where nobody needs to.
            over_s: How long it counted.
        """
        number = int(at_s // self.bin_s)
        if self._first < 0:
            self._first = number
        if not 0 <= number - self._first < max(1, self._length) + self._keep - 1:
            return
        self._reach(number)
        if origin:
            since = max(0, int((at_s - over_s) // self.bin_s) - self._first)
            self._marks(origin)[since : number - self._first + 1] = True
        for one in counts:
            rows = self._rows(one.key)
            rows[number - self._first] += (one.requests, one.tokens_in, one.tokens_out)

    def requests_per_s(self, key: DemandKey, until_s: float) -> NDArray[np.float64]:
        """[bin] mean rates from `start_s` on, of bins that ended by `until_s`: nothing of a bin that still counts.

        NaN where nothing was heard from the entry, which is not the same as that nobody asked.
        """
        count = self._closed(until_s)
        rates = np.zeros(count)
        known = self._counts.get(key)
        if known is not None:
            seen = min(count, len(known))
            rates[:seen] = known[:seen, 0] / self.bin_s
        heard = self._heard.get(key.origin)
        if heard is not None:
            rates[len(heard) :] = np.nan
            rates[: len(heard)][~heard[:count]] = np.nan
        return rates

    def begun_per_s(self, key: DemandKey, now_s: float) -> float:
        """What the bin that still counts has so far, over a whole bin."""
        known, at = self._counts.get(key), self._closed(now_s)
        return float(known[at, 0] / self.bin_s) if known is not None and at < len(known) else 0.0

    def heard_until_s(self, origin: Id) -> float:
        """The end of the last bin in which an entry was heard, also one that still counts; of one that never reports, infinity."""
        heard = self._heard.get(origin)
        if heard is None:
            return math.inf
        bins = np.flatnonzero(heard)
        return self.start_s + (int(bins[-1]) + 1 if len(bins) else 0) * self.bin_s

    def tokens(self, key: DemandKey, until_s: float) -> tuple[float, float]:
        """Mean tokens in and out of the kept requests of closed bins; 0, 0 where there were none."""
        known = self._counts.get(key)
        if known is None:
            return 0.0, 0.0
        total = known[: self._closed(until_s)].sum(axis=0)
        if total[0] <= 0.0:
            return 0.0, 0.0
        return float(total[1] / total[0]), float(total[2] / total[0])

    def to_bytes(self) -> bytes:
        """For a restart."""
        keys = self.kinds()
        counts = tuple(self._rows(key)[: self._length].astype("<f8").tobytes() for key in keys)
        heard = {origin: rows.tobytes() for origin, rows in sorted(self._heard.items())}
        kept = _Kept(bin_s=self.bin_s, first=self._first, keys=keys, counts=counts, heard=heard)
        return msgspec.msgpack.encode(kept)

    @classmethod
    def from_bytes(cls, content: bytes, *, keep_s: float = KEEP_S) -> DemandCounts:
        """What `to_bytes` wrote.

        Raises:
            msgspec.MsgspecError: it is something else.
        """
        kept = msgspec.msgpack.decode(content, type=_Kept)
        found = cls(bin_s=kept.bin_s, keep_s=keep_s)
        found._first = kept.first
        for key, raw in zip(kept.keys, kept.counts, strict=True):
            rows = np.frombuffer(raw, "<f8").reshape(-1, 3).astype(np.float64)
            found._counts[key] = rows
            found._length = max(found._length, len(rows))
        for origin, raw in kept.heard.items():
            found._heard[origin] = np.frombuffer(raw, np.bool_).copy()
            found._length = max(found._length, len(found._heard[origin]))
        return found

    def _closed(self, until_s: float) -> int:
        if self._first < 0:
            return 0
        return max(0, int(until_s // self.bin_s) - self._first)

    def _rows(self, key: DemandKey) -> NDArray[np.float64]:
        rows = self._counts.get(key)
        if rows is None or len(rows) < self._length:
            # By halves more than is needed: a bin every five minutes must not copy all of them.
            grown = np.zeros((self._length + self._length // 2 + 16, 3))
            if rows is not None:
                grown[: len(rows)] = rows
            rows = self._counts[key] = grown
        return rows

    def _marks(self, origin: Id) -> NDArray[np.bool_]:
        """Of every bin, whether an entry was heard in it."""
        marks = self._heard.get(origin)
        if marks is None:
            # What was counted by an earlier version counts as heard.
            known = any(key.origin == origin for key in self._counts)
            marks = np.full(self._length - 1, known)
        if len(marks) < self._length:
            marks = np.concatenate((marks, np.zeros(self._length - len(marks), np.bool_)))
        self._heard[origin] = marks
        return marks

    def _reach(self, number: int) -> None:
        self._length = max(self._length, number - self._first + 1)
        if self._length <= 2 * self._keep:
            return
        gone = self._length - self._keep
        self._first += gone
        self._length = self._keep
        self._counts = {
            key: rows[gone:].copy() for key, rows in self._counts.items() if rows[gone:].any()
        }
        self._heard = {
            origin: rows[gone:].copy() for origin, rows in self._heard.items() if rows[gone:].any()
        }

"""What a trace is like, in figures: how much, how even, how long, who, and how much of its prefixes comes again.

Here: one reading from front to back, with memory that does not grow with the trace. Not here: printing (`cli.trace`).
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from hanse.model.fleet import Value
from hanse.signals.traces.trace import INDEX_COLUMNS, Chunk, Trace
from hanse.signals.traces.transform import mixed

TOKENS_MAX: Final = 1 << 20
"""Quantiles are exact up to a million tokens; what is longer counts as that."""
BINS_LEAST: Final = 30
BIN_S: Final = 60.0
DISTINCT_KEPT: Final = 1 << 20
"""Distinct numbers that are counted exactly; more are estimated, to about 0.1 %."""


class Tokens(Value, frozen=True, kw_only=True):
    """Tokens of a request."""

    mean: float
    p50: int
    p95: int
    p99: int
    max: int


class Group(Value, frozen=True, kw_only=True):
    """Requests of one service, class, origin or tenant."""

    name: str
    requests: int
    share: float
    tokens_in_mean: float
    tokens_out_mean: float


class Prefixes(Value, frozen=True, kw_only=True):
    """Prefix blocks; a reused one was in an earlier request, so an unbounded cache would hit it."""

    block_tokens: int
    blocks: int
    distinct: int
    reused_share: float
    exact: bool


class Figures(Value, frozen=True, kw_only=True):
    """See the module."""

    requests: int
    duration_s: float
    requests_per_s: float
    peak_over_mean: float
    """Of the fullest bin of `bin_s`."""
    bin_s: float
    tokens_in: Tokens
    tokens_out: Tokens
    conversations: int
    turns_mean: float
    """Requests of a conversation; 0 where there is none."""
    services: tuple[Group, ...]
    classes: tuple[Group, ...]
    origins: tuple[Group, ...]
    tenants: tuple[Group, ...]
    prefixes: Prefixes | None


def figures_of(trace: Trace, chunks: Any = None) -> Figures:
    """Figures of a trace; `chunks` may be its chunks wrapped, such as with a progress bar."""
    tally = _Tally(trace)
    for chunk in chunks if chunks is not None else trace.chunks():
        tally.add(chunk)
    return tally.figures()


class _Tally:
    def __init__(self, trace: Trace) -> None:
        meta = trace.meta
        self.meta = meta
        self.count = self.in_sessions = self.blocks = 0
        self.bin_s = min(BIN_S, meta.duration_s / BINS_LEAST) or 1.0
        self.per_bin = np.zeros(int(meta.duration_s / self.bin_s) + 1, np.int64)
        self.tokens = {
            name: np.zeros(TOKENS_MAX + 1, np.int64) for name in ("tokens_in", "tokens_out")
        }
        self.sums = {"tokens_in": 0, "tokens_out": 0}
        self.groups = {c: np.zeros((3, len(meta.names(c)) + 1)) for c in INDEX_COLUMNS}
        self.sessions, self.ids = _Distinct(), _Distinct()

    def add(self, chunk: Chunk) -> None:
        """Count a chunk in."""
        requests = chunk.requests
        self.count += len(requests)
        self.per_bin += np.bincount(
            (requests["at_s"] / self.bin_s).astype(np.int64), minlength=len(self.per_bin)
        )[: len(self.per_bin)]
        for name, histogram in self.tokens.items():
            self.sums[name] += int(requests[name].sum(dtype=np.int64))
            counts = np.bincount(np.minimum(requests[name], TOKENS_MAX))
            histogram[: len(counts)] += counts
        for column, sums in self.groups.items():
            index, size = requests[column] + 1, sums.shape[1]  # -1, no name, is first
            sums[0] += np.bincount(index, minlength=size)
            sums[1] += np.bincount(index, weights=requests["tokens_in"], minlength=size)
            sums[2] += np.bincount(index, weights=requests["tokens_out"], minlength=size)
        sessions = requests["session"][requests["session"] >= 0]
        self.in_sessions += len(sessions)
        self.sessions.add(sessions)
        self.blocks += len(chunk.blocks)
        self.ids.add(chunk.blocks)

    def figures(self) -> Figures:
        """What was counted."""
        duration_s = self.meta.duration_s
        mean_per_bin = self.count * self.bin_s / duration_s if duration_s else 0.0
        distinct = self.ids.count
        prefixes = None
        if self.blocks:
            prefixes = Prefixes(
                block_tokens=self.meta.block_tokens,
                blocks=self.blocks,
                distinct=distinct,
                reused_share=1.0 - distinct / self.blocks,
                exact=self.ids.exact,
            )
        return Figures(
            requests=self.count,
            duration_s=duration_s,
            requests_per_s=self.count / duration_s if duration_s else 0.0,
            peak_over_mean=float(self.per_bin.max() / mean_per_bin) if mean_per_bin else 0.0,
            bin_s=self.bin_s,
            tokens_in=self._tokens("tokens_in"),
            tokens_out=self._tokens("tokens_out"),
            conversations=self.sessions.count,
            turns_mean=self.in_sessions / self.sessions.count if self.sessions.count else 0.0,
            services=self._groups("service"),
            classes=self._groups("cls"),
            origins=self._groups("origin"),
            tenants=self._groups("tenant"),
            prefixes=prefixes,
        )

    def _tokens(self, name: str) -> Tokens:
        upto = np.cumsum(self.tokens[name])
        # The smallest count that at least this share of requests does not exceed.
        p50, p95, p99 = (int(np.searchsorted(upto, q * self.count)) for q in (0.5, 0.95, 0.99))
        most = int(np.flatnonzero(self.tokens[name]).max(initial=0))
        mean = self.sums[name] / self.count if self.count else 0.0
        return Tokens(mean=mean, p50=p50, p95=p95, p99=p99, max=most)

    def _groups(self, column: str) -> tuple[Group, ...]:
        found = []
        for name, (count, tokens_in, tokens_out) in zip(
            ("(none)", *self.meta.names(column)), self.groups[column].T.tolist(), strict=True
        ):
            if count or name != "(none)":
                found.append(
                    Group(
                        name=name,
                        requests=int(count),
                        share=count / self.count if self.count else 0.0,
                        tokens_in_mean=tokens_in / count if count else 0.0,
                        tokens_out_mean=tokens_out / count if count else 0.0,
                    )
                )
        return tuple(found)


class _Distinct:
    """How many different numbers there were: exact while they fit, then by adaptive sampling.

    Kept are those whose hash is below a limit that halves whenever too many are kept (Wegman's algorithm; Flajolet, On
    Adaptive Sampling, Computing 43, 1990): relative error 1.2 / sqrt(kept).
    """

    def __init__(self) -> None:
        self._kept = np.empty(0, np.uint64)
        self._halvings = 0
        self._new: list[NDArray[np.uint64]] = []
        self._waiting = 0

    def add(self, numbers: NDArray[np.int64]) -> None:
        """Take some numbers in."""
        if len(numbers) == 0:
            return
        hashes = mixed(numbers, 0)
        if self._halvings:
            hashes = hashes[hashes < np.uint64(1 << (64 - self._halvings))]
        self._new.append(hashes)
        self._waiting += len(hashes)
        if self._waiting > DISTINCT_KEPT:
            self._settle()

    @property
    def count(self) -> int:
        """Different numbers so far."""
        self._settle()
        return len(self._kept) << self._halvings

    @property
    def exact(self) -> bool:
        """No number had to be left out."""
        return self._halvings == 0

    def _settle(self) -> None:
        # Sorted here: np.unique of numpy 2.4 hashes integers, which takes a hundred times as long for these.
        found = np.sort(np.concatenate((self._kept, *self._new)))
        self._kept = found[np.append(True, found[1:] != found[:-1])[: len(found)]]
        self._new, self._waiting = [], 0
        while len(self._kept) > DISTINCT_KEPT:
            self._halvings += 1
            self._kept = self._kept[self._kept < np.uint64(1 << (64 - self._halvings))]

"""Clients that ask again when they were answered: a closed loop around a simulation.

Here: `Clients`, what such a crowd must be able to say; `ClosedLoop`, a simulation that is fed by one. Not here: how crowds behave
(`benchmarks/multisite_clients.py` has conversations and trees), the loop itself (`loop`), which knows nothing of this.

A trace says when requests come, however long the answers before them took; a client waits. So what it sends depends on the run: slow
sites get fewer requests, and throughput is a result rather than an input. The compiled loop runs from look to look, `LOOK_S` apart;
at each, answers since the last one go to the clients, and what these send next follows `LOOK_S` after the answer's end, exactly, since
no answer is then looked at too late. Load generators poll about as often.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import Any, Final, NamedTuple, Protocol

import numpy as np

from hanse.signals.traces.trace import Trace, TraceMeta, empty_requests, pack
from hanse.twin import arrays as ar
from hanse.twin.loop import run
from hanse.twin.simulate import Simulation

LOOK_S: Final = 0.1


class Ask(NamedTuple):
    """One request of a client."""

    key: Any
    """Whatever the client knows it by."""
    origin: int
    """Index in the trace meta's origins."""
    tokens_in: int
    tokens_out: int
    blocks: Sequence[int]
    """Ids of the whole prefix blocks of the prompt and its answer."""


class Clients(Protocol):
    """A crowd; asked in an order that depends on nothing but the run, so that equal runs are equal."""

    def begin(self) -> Sequence[tuple[float, Ask]]:
        """What is sent when, from the start on."""

    def ended(self, key: Any, answered: bool) -> Sequence[Ask]:
        """What is sent after a request has ended."""


class ClosedLoop(Simulation):
    """A simulation whose requests come from clients; takes the arguments of `Simulation`, but `rows`."""

    def __init__(self, fleet: Any, meta: TraceMeta, clients: Clients, **options: Any) -> None:
        super().__init__(fleet, Trace(meta, lambda: iter(())), rows=self._take_rows, **options)
        self.clients = clients
        self._asked: list[Any] = []
        """Keys by number of the request."""
        self._sent: list[tuple[float, int, Ask]] = []
        self._count = 0
        self.rows: list[Any] = []
        """Every request that ended, `ROW_DTYPE`, in pieces."""

    def run(self, progress: Any = None) -> None:
        """Simulate until the trace's duration has passed; what is then in flight is left there."""
        self._schedule()
        for at_s, ask in self.clients.begin():
            self._send(at_s, ask)
        self.at(0.0, self._look)
        while True:
            until_s = self._calendar[0][0]
            if run(self.handle, until_s, False) == ar.ROOM:
                self._make_room()
                continue
            self._due(until_s)
            if until_s >= self.duration_s:
                break
        self._close()

    def _look(self, now_s: float) -> None:
        """Answers go to clients, and what they send until the next look becomes a chunk."""
        self._flush_rows()
        self.at(now_s + LOOK_S, self._look)
        asks = []
        while self._sent and self._sent[0][0] < now_s + LOOK_S:
            asks.append(heapq.heappop(self._sent))
        if not asks:
            return
        requests = empty_requests(len(asks))
        requests["service"] = requests["cls"] = requests["tenant"] = 0
        blocks: list[int] = []
        for row, (at_s, _, ask) in zip(requests, asks, strict=True):
            self._asked.append(ask.key)
            blocks += ask.blocks
            row["at_s"], row["origin"] = max(at_s, now_s), ask.origin
            row["tokens_in"], row["tokens_out"] = ask.tokens_in, ask.tokens_out
            row["block_count"] = len(ask.blocks)
        self._take_chunk(iter((pack(requests, np.array(blocks, np.int64)),)))

    def _take_rows(self, rows: Any) -> None:
        self.rows.append(rows.copy())
        for row in rows:
            end_s = float(row["at_s"]) + float(row["e2e_ms"]) * 0.001
            answered = int(row["outcome"]) == ar.ANSWERED
            for ask in self.clients.ended(self._asked[int(row["request"])], answered):
                self._send(end_s + LOOK_S, ask)

    def _send(self, at_s: float, ask: Ask) -> None:
        self._count += 1
        heapq.heappush(self._sent, (at_s, self._count, ask))

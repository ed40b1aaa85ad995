"""Decision rows for people: a Unix datagram to the agent, dropped when nobody listens fast enough.

Here: building a `view.DecisionRow` from a finished request, at most so many a second. Not here: sums (`metrics` count every request),
evidence. A row holds no content, no key and nothing that names a person.
"""

from __future__ import annotations

import socket
from pathlib import Path
from time import time
from typing import TYPE_CHECKING

import msgspec

from hanse.live.gateway.closing import predicted_of
from hanse.live.gateway.metrics import FEED_DROPPED, FEED_SENT, Counts
from hanse.live.gateway.shadow import LOST, REFUSED_LAW, SERVED
from hanse.view import CentralVerdict, Cost, DecisionRow

if TYPE_CHECKING:
    from hanse.live.evidence.chain import Decided
    from hanse.live.gateway.entry import Entry
    from hanse.live.gateway.kernels import Five

ROWS_PER_S_MAX = 200.0
"""What an agent passes on: four batches a second of fifty rows. More would cost the hot path and no eye could follow."""
RETRY_S = 1.0


class Feed:
    """The worker's end of the socket."""

    def __init__(self, path: str, counts: Counts) -> None:
        self._path = path
        self._counts = counts
        self._socket: socket.socket | None = None
        self._tokens = ROWS_PER_S_MAX
        self._again_at_s = 0.0

    def wanted(self) -> bool:
        """Whether the next row should be built at all."""
        if self._tokens < 1.0 or not self._path:
            if self._path:
                self._counts.row[FEED_DROPPED] += 1.0
            return False
        return True

    def refill(self, elapsed_s: float) -> None:
        """Called by the worker's slow tick."""
        self._tokens = min(ROWS_PER_S_MAX, self._tokens + ROWS_PER_S_MAX * elapsed_s)

    def send_entry(self, entry: Entry, outcome: str) -> None:
        """One finished request; of a line that its batch sends again there is nothing to tell yet."""
        if entry.deferrable and outcome != "answered" and entry.status >= 500:
            return
        last = entry.winner or (entry.attempts[-1] if entry.attempts else None)
        served = outcome == "answered"
        figures = entry.measured
        row = DecisionRow(
            at_s=entry.started_at_s,
            request_id=entry.request_id.hex(),
            key_id=entry.grant.key.id,
            data_class=entry.grant.data_class,
            country=entry.grant.country,
            service=entry.service.id,
            entry=entry.worker.site,
            site=last.offer.site if last is not None and served else "",
            variant=last.offer.variant if last is not None and served else "",
            outcome="served" if served else "refused" if not entry.attempts else "failed",
            reason=entry.refusal or ("" if served else outcome),
            rules=entry.rules,
            attempts=len(entry.attempts),
            deferrable=entry.deferrable,
            tokens_in=figures.tokens_in if figures is not None else 0,
            tokens_out=figures.tokens_out if figures is not None else 0,
            predicted=_cost(predicted_of(last.figures)) if last is not None else None,
            measured=_cost(figures.five()) if figures is not None else None,
            method=figures.method if figures is not None else "",
            central=_central(entry),
        )
        self._send(row)

    def send_refusal(self, record: Decided) -> None:
        """A request refused before its body was read."""
        row = DecisionRow(
            at_s=record.at_s,
            request_id=record.request_id.hex(),
            key_id=record.key_id,
            data_class=record.data_class,
            country=record.country,
            service=record.service,
            entry=record.entry_site,
            outcome="refused",
            reason=record.refusal,
            rules=record.rules,
            attempts=0,
        )
        self._send(row)

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _send(self, row: DecisionRow) -> None:
        self._tokens -= 1.0
        sock = self._socket or self._connect()
        if sock is None:
            self._counts.row[FEED_DROPPED] += 1.0
            return
        try:
            sock.send(msgspec.msgpack.encode(row))
            self._counts.row[FEED_SENT] += 1.0
        except BlockingIOError:
            self._counts.row[FEED_DROPPED] += 1.0
        except OSError:  # the agent restarted: its socket is another one
            self._counts.row[FEED_DROPPED] += 1.0
            self.close()

    def _connect(self) -> socket.socket | None:
        now_s = time()
        if now_s < self._again_at_s or not Path(self._path).exists():
            return None
        self._again_at_s = now_s + RETRY_S
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        sock.setblocking(False)
        try:
            sock.connect(self._path)
        except OSError:
            sock.close()
            return None
        self._socket = sock
        return sock


def _cost(five: Five) -> Cost:
    return Cost(
        ttft_ms=five[0], e2e_ms=five[1], energy_wh=five[2], carbon_g=five[3], cost_usd=five[4]
    )


def _central(entry: Entry) -> CentralVerdict | None:
    verdict, shadow = entry.verdict, entry.worker.shadow
    if verdict is None or shadow is None:
        return None
    if verdict.result == SERVED and verdict.figures is not None:
        f = verdict.figures
        return CentralVerdict(
            outcome="served",
            predicted=Cost(ttft_ms=f[0], e2e_ms=f[2], energy_wh=f[3], carbon_g=f[4], cost_usd=f[5]),
        )
    if verdict.result == REFUSED_LAW:
        rules = entry.worker.routing.table.rules(entry.grant.subject, shadow.site)
        return CentralVerdict(outcome="refused", rules=rules)
    return CentralVerdict(outcome="failed" if verdict.result == LOST else "refused")

"""What the one big site would have done: every decision asked again of the central table.

Here: the second router with its own load, which is made of predictions alone (begun now, first byte and end when predicted).
Not here: the comparison's sums (`metrics`), rows for people (`feed`). Labelled everywhere as predicted, on declared hardware.

The shadow is told one truth: whether the central site can be reached from here now. If not, the request would have been lost.
"""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING

from hanse.dispatch.load import Load, Ticket
from hanse.dispatch.reasons import Reason
from hanse.dispatch.router import Router
from hanse.live.gateway.metrics import CENTRAL, COST, Counts

if TYPE_CHECKING:
    from hanse.dispatch.table import Table

SERVED, REFUSED_LAW, REFUSED_OTHER, LOST = range(4)


class Verdict:
    """One answer of the shadow."""

    __slots__ = ("figures", "result")

    def __init__(self, result: int, figures: list[float] | None) -> None:
        self.result = result
        self.figures = figures


class Shadow:
    """The central router of one worker and table."""

    def __init__(self, table: Table, origin: int, counts: Counts) -> None:
        self._table = table
        self._load = Load.of_shadow(table)
        self._router = Router(table, self._load, origin)
        self._counts = counts
        self._due: list[tuple[float, int, int, Ticket]] = []
        self._serial = 0
        self.site = int(table.offers[0]["site"]) if len(table.offers) else -1

    def ask(
        self,
        service: int,
        subject: int,
        tokens_in: int,
        tokens_out: int,
        deadline_ms: float,
        body_bytes: int,
        now_s: float,
    ) -> Verdict:
        """Decide as the big site would, count it, and let its load rise until the predicted end."""
        offer = self._router.route(
            service,
            subject,
            tokens_in=tokens_in,
            tokens_out=tokens_out,
            deadline_ms=deadline_ms,
            body_bytes=body_bytes,
            now_s=now_s,
        )
        row = self._counts.row
        if offer < 0:
            result = _result_of(offer)
            row[CENTRAL + result] += 1.0
            return Verdict(result, None)
        figures: list[float] = self._router.out[0].tolist()
        row[CENTRAL + SERVED] += 1.0
        at = COST["central_predicted"]
        self._counts.add_cost(at, figures[0], figures[2], figures[3], figures[4], figures[5])
        ticket = self._load.begin(offer, tokens_in, tokens_out, now_s)
        self._serial += 1
        heapq.heappush(self._due, (now_s + figures[0] / 1000.0, self._serial, 0, ticket))
        heapq.heappush(self._due, (now_s + figures[2] / 1000.0, self._serial, 1, ticket))
        return Verdict(SERVED, figures)

    def tick(self, now_s: float, *, reachable: bool) -> None:
        """Let predicted first bytes and ends happen."""
        if self.site >= 0:
            self._load.sites[self.site]["reachable"] = 1 if reachable else 0
        due = self._due
        while due and due[0][0] <= now_s:
            _, _, ended, ticket = heapq.heappop(due)
            if ended:
                self._load.end(ticket)
            else:
                self._load.first_byte(ticket)


def _result_of(reason: int) -> int:
    if reason in (Reason.LAW, Reason.QUALITY):
        return REFUSED_LAW
    if reason in (Reason.DEAD, Reason.STALE):
        return LOST
    return REFUSED_OTHER

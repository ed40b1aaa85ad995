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
from hanse.live.gateway.direct import DirectRouter
from hanse.live.gateway.metrics import CENTRAL, COST, Counts

if TYPE_CHECKING:
    from hanse.dispatch.table import Table

LEARN_EVERY_S = 0.5
"""As often as loads are heard."""
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
        self._router = DirectRouter(table, self._load, origin)
        self._counts = counts
        self._due: list[tuple[float, int, int, Ticket]] = []
        self._serial = 0
        self._alike: list[list[int]] = []
        self._learned_at_s = 0.0
        self.site = int(table.offers[0]["site"]) if len(table.offers) else -1

    def ask(
        self,
        service: int,
        subject: int,
        request: tuple[float, float, float, float],
        now_s: float,
    ) -> Verdict:
        """Decide as the big site would, count it, and let its load rise until the predicted end."""
        offer = self._router.ask(service, subject, request, now_s, [], None)
        row = self._counts.row
        if offer < 0:
            result = _result_of(offer)
            row[CENTRAL + result] += 1.0
            return Verdict(result, None)
        figures = self._router.figures()
        row[CENTRAL + SERVED] += 1.0
        at = COST["central_predicted"]
        self._counts.add_cost(at, figures[0], figures[2], figures[3], figures[4], figures[5])
        ticket = self._load.begin(offer, int(request[0]), int(request[1]), now_s)
        self._serial += 1
        heapq.heappush(self._due, (now_s + figures[0] / 1000.0, self._serial, 0, ticket))
        heapq.heappush(self._due, (now_s + figures[2] / 1000.0, self._serial, 1, ticket))
        return Verdict(SERVED, figures)

    def tick(self, now_s: float, league: Load, *, reachable: bool) -> None:
        """Let predicted first bytes and ends happen, and hear what the league has learned.

        The big site's predictions are corrected by what the league's engines of the same variant on the same hardware were
        observed to take, and its load by what other gateways are known to send; else it would be compared on another ruler.
        """
        if now_s - self._learned_at_s >= LEARN_EVERY_S:
            self._learned_at_s = now_s
            self._load.follow(league)
            self._learn(league)
        if self.site >= 0:
            self._load.sites[self.site]["reachable"] = 1 if reachable else 0
        due = self._due
        while due and due[0][0] <= now_s:
            _, _, ended, ticket = heapq.heappop(due)
            if ended:
                self._load.end(ticket)
            else:
                self._load.first_byte(ticket)

    def _learn(self, league: Load) -> None:
        if not self._alike:
            self._alike = [
                _alike(self._table, i, league.table) for i in range(len(self._table.offers))
            ]
        own, theirs = self._load.offers, league.offers
        for index, alike in enumerate(self._alike):
            for name in ("ttft_factor", "tpot_factor") if alike else ():
                own[index][name] = sum(float(theirs[i][name]) for i in alike) / len(alike)


def _alike(table: Table, index: int, league: Table) -> list[int]:
    """League offers of the same variant whose hardware has the same coefficients."""
    key = table.offer_names[index][1:]
    pace = table.offers[index]["prefill_ms_per_token"]
    return [
        i
        for i, name in enumerate(league.offer_names)
        if name[1:] == key
        and league.offers[i]["prefill_ms_per_token"] == pace
        and league.offers[i]["replicas"] > 0
    ]


def _result_of(reason: int) -> int:
    if reason in (Reason.LAW, Reason.QUALITY):
        return REFUSED_LAW
    if reason in (Reason.DEAD, Reason.STALE):
        return LOST
    return REFUSED_OTHER

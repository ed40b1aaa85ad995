"""Work that may wait: lines of batches, in spare room only, and out of the way as soon as somebody wants an answer.

Here: the Unix socket on which this site's batch process sends lines (`InnerDoor`), and a line at its entry site (`Line`). Not here: how
much room is spare and who gives way (`spare`), what lines there are and in which order (`live.batch`), a line's serving side (`hop`).

Lines are never hedged. What was begun in vain is told in `x-hanse-extra`, with its energy.
"""

from __future__ import annotations

from time import time
from typing import TYPE_CHECKING, ClassVar

from hanse.dispatch.reasons import Reason
from hanse.live.gateway.attempt import Attempt
from hanse.live.gateway.closing import goes_back
from hanse.live.gateway.doors import ENDPOINTS, ClientDoor
from hanse.live.gateway.entry import Entry
from hanse.live.gateway.heads import KnownAnswer
from hanse.live.gateway.measured import read_site_note
from hanse.live.gateway.spare import engine_has_spare, offer_has_spare, prompt_wh, spent_wh

if TYPE_CHECKING:
    from hanse.live.gateway.incoming import Incoming
    from hanse.live.gateway.outgoing import Outgoing
    from hanse.live.gateway.policy import Grant, KeyRow, Policy
    from hanse.live.gateway.routing import OfferRow, Routing
    from hanse.live.gateway.worker import Worker

OFFERS_ASKED_MAX = 7
"""Offers without spare room before a line goes back: with the chosen one, what the kernel's list of tried offers holds."""
NEVER = frozenset((Reason.LAW, Reason.QUALITY, Reason.LENGTH))
"""Why a site takes a line at no time: a schedule that sends it there all the same is no reason to refuse it."""
LINE_S_MAX = 600.0
"""A line may take as long as 4,000 tokens at 7 a second; a service's own deadline is for people who wait."""


class InnerDoor(ClientDoor):
    """A Unix socket in the site's own directory: whoever may open it is the site."""

    def __init__(self, worker: Worker) -> None:
        super().__init__(worker)
        self._keys: dict[str, KeyRow] = {}
        self._keys_of: Policy | None = None

    def head_read(self, link: Incoming) -> None:
        if link.path not in ENDPOINTS or link.method != b"POST":
            link.refuse(404, "not_found", "only inference requests come in here")
            return
        grant = self._grant(link)
        if grant is None:
            return
        link.grant = grant
        if not grant.entry_lawful:
            self._not_here(link, grant)
        else:
            link.body_bytes_max = self.worker.body_bytes_max

    def take(self, entry: Entry, endpoint: str, now_s: float) -> None:
        line = Line.like(entry, now_s)
        line.at = entry.link.headers.get(b"x-hanse-at", b"").decode("latin-1")
        line.link.running = line
        self.worker.running.add(line)
        self.worker.deferred.add(line)
        line.seek(now_s)

    def _grant(self, link: Incoming) -> Grant | None:
        """By names: the batch process knows no API key."""
        worker, headers = self.worker, link.headers
        policy = worker.policy_or_none
        if policy is None or worker.routing.expired(time()):
            link.refuse(503, "no_table", "no routing table in force; nothing is admitted")
            return None
        if self._keys_of is not policy:
            self._keys_of, self._keys = policy, {key.id: key for key in policy.keys.values()}
        key = self._keys.get(headers.get(b"x-hanse-key", b"").decode("latin-1"))
        names = headers.get(b"x-hanse-class"), headers.get(b"x-hanse-country")
        grant = None if key is None else key.grants.get(names)
        if grant is None:
            link.refuse(403, "not_allowed_any_more", "the key, its class or its country is gone")
        return grant


class Line(Entry, eq=False, kw_only=True):
    """One line of a batch at its entry site."""

    deferrable: ClassVar[bool] = True
    trails: ClassVar[bool] = True
    at: str = ""
    """Site whose engines alone it may go to, as a schedule says, unless that one may never take it; empty: any."""
    extra_runs: int = 0
    extra_wh: float = 0.0
    """Of attempts that an engine got and that did not answer."""

    @classmethod
    def like(cls, entry: Entry, now_s: float) -> Line:
        """An admitted request as work that may wait."""
        return cls(
            entry.worker,
            entry.link,
            entry.request_id,
            entry.id_hex,
            now_s,
            now_s + max(LINE_S_MAX, entry.service.deadline_s),
            entry.head,
            entry.path,
            entry.body,
            entry.tokens_in,
            entry.tokens_out,
            grant=entry.grant,
            service=entry.service,
        )

    # --- only where there is room to spare

    def _find(self, now_s: float, tried: list[int]) -> Attempt | int:
        routing = self.worker.routing
        if self.grant.table is not routing.table:
            if not self._renewed():
                return Reason.LAW
            tried = self._offers_again(tried)
            routing = self.worker.routing
        for _ in range(OFFERS_ASKED_MAX):
            index = self._ask(routing, now_s, tried)
            if index < 0:
                return index
            offer = routing.offers[index]
            if offer_has_spare(routing, offer):
                found = self._at(offer, now_s)
                if found is not None:
                    return found
            tried = [*tried, index]
        return Reason.ROOM

    def _ask(self, routing: Routing, now_s: float, tried: list[int]) -> int:
        request, subject, service = self._request(now_s), self.grant.subject, self.service.index
        if self.at:
            site = routing.table.site_index.get(self.at, -1)
            if site < 0:
                return Reason.NO_OFFER
            index = routing.router.ask_at(site, service, subject, request, now_s, tried)
            if index not in NEVER:
                return index
        return routing.router.ask(service, subject, request, now_s, tried, None)

    def _at(self, offer: OfferRow, now_s: float) -> Attempt | None:
        routing = self.worker.routing
        if not offer.engines:
            target = offer.target
            return None if target is None else self._attempt(offer, -1, target, now_s)
        number = routing.engine(
            offer.index, self.tokens_in, self.tokens_out, self.tried_engines, None
        )
        if number < 0 or not engine_has_spare(routing.local[number], offer, routing.shed_level):
            return None
        return self._attempt(offer, number, routing.local[number].target, now_s)

    def answer_plain(self, attempt: Attempt, known: KnownAnswer, data: bytes) -> bool:
        return False  # its end is told to more than the straight stretch knows of

    def hedge(self, attempt: Attempt, now_s: float) -> None:
        """Never: nobody waits for a line."""

    # --- what was begun in vain

    def give_way(self, attempt: Attempt) -> None:
        """Its engine is wanted: stop, and look for another with room to spare."""
        self._wasted(attempt)
        attempt.drop()
        self._next(attempt, "refused")

    def turned_down(self, attempt: Attempt, out: Outgoing) -> None:
        note = read_site_note(out.headers.get(b"x-hanse-measured"))
        if note is not None and attempt.engine < 0:  # it gave way there: no failure, as here
            self.extra_wh += note.wh
            self.extra_runs += 1
            self._hear_load(attempt, out)
            self.last_failure = f"{attempt.offer.site}: it gave way"
            self._next(attempt, "refused")
            return
        if out.status != 409:
            self._wasted(attempt)
        super().turned_down(attempt, out)

    def failed(self, attempt: Attempt, kind: str, reason: str) -> None:
        if kind != "stale":
            self._wasted(attempt)
        super().failed(attempt, kind, reason)

    def overdue(self, attempt: Attempt, now_s: float) -> None:
        settled = attempt.settled
        super().overdue(attempt, now_s)
        if attempt.settled and not settled:
            self.extra_runs += 1
            self.extra_wh += prompt_wh(attempt, self.worker.routing, self.tokens_in)

    def client_gone(self) -> None:
        for attempt in self.attempts:
            if not attempt.settled and not attempt.won:  # that one is charged as the answer's own
                self._wasted(attempt)
        super().client_gone()

    def measure(self, attempt: Attempt, now_s: float) -> None:
        """The answer's own attempt as for any request; what was in vain is known better than by its prompt."""
        attempts, self.attempts = self.attempts, [attempt]
        super().measure(attempt, now_s)
        self.attempts = attempts
        measured = self.measured
        if measured is not None and self.extra_wh > 0.0:
            measured.energy_wh += self.extra_wh
            bytes_moved = 0 if attempt.engine >= 0 else attempt.body_bytes + len(self.body)
            routing = self.worker.routing
            measured.price(attempt, routing, self.service.usd_per_g, bytes_moved)

    def trailer_lines(self) -> bytes:
        assert self.measured is not None
        return self.measured.line(self.worker.kernels, len(self.attempts))

    def head_lines(self, attempt: Attempt) -> bytes:
        return super().head_lines(attempt) + self._extra_line()

    def id_line(self) -> bytes:
        return super().id_line() + self._extra_line()

    def conclude(self, outcome: str, now_s: float) -> None:
        self.worker.deferred.discard(self)
        if not goes_back(self):
            super().conclude(outcome, now_s)

    def _wasted(self, attempt: Attempt) -> None:
        if attempt.reached and not attempt.settled:
            self.extra_runs += 1
            self.extra_wh += spent_wh(self, attempt)

    def _extra_line(self) -> bytes:
        if not self.extra_runs:
            return b""
        return b"x-hanse-extra: runs=%d;wh=%.6g\r\n" % (self.extra_runs, self.extra_wh)

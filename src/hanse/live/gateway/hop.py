"""The serving side of a hop: another site's gateway sends a request for one of our offers.

Here: `Hop`: the checks again by this site's own table, the engine, the site's own records, its load on the answer. Not here: any
further forwarding: a hop never hops. A no is 409 with `x-hanse-refusal`, and nothing was executed.
"""

from __future__ import annotations

from time import time
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

import msgspec

from hanse.dispatch.choose import OUT_BATCH, OUT_COUNT
from hanse.dispatch.reasons import Reason
from hanse.dispatch.shed import OPEN
from hanse.live.evidence.chain import Ended, Executed
from hanse.live.gateway import body as bodies
from hanse.live.gateway.affinity import PROMPT_TOKENS_MIN
from hanse.live.gateway.attempt import Attempt
from hanse.live.gateway.exchange import Exchange
from hanse.live.gateway.measured import Measured
from hanse.live.gateway.metrics import CARBON_G, ENERGY_WH, HOPS_REFUSED, HOPS_SERVED
from hanse.live.gateway.spare import charge_given_up, engine_has_spare

if TYPE_CHECKING:
    from hanse.dispatch.prefix import Prefixes
    from hanse.live.gateway.incoming import Incoming
    from hanse.live.gateway.outgoing import Outgoing
    from hanse.live.gateway.routing import OfferRow
    from hanse.live.gateway.worker import Worker
    from hanse.live.identity import Envelope

Outcome = Literal["answered", "failed", "broken", "cancelled"]
_encode = msgspec.msgpack.Encoder().encode
ENGINES_TRIED_MAX = 3
"""Replicas of its own that a site tries before it says no: the entry site may know a better place."""


class Hop(Exchange, eq=False, kw_only=True):
    """One forwarded request at its serving site."""

    trails: ClassVar[bool] = True
    envelope: Envelope
    offer: OfferRow = cast("Any", None)
    """Set by `start`, before anything reads it."""
    subject: int = 0
    tried_engines: set[int] = set()
    prefixes: Prefixes | None = None
    refused: str = ""

    @classmethod
    def of(
        cls, worker: Worker, link: Incoming, envelope: Envelope, head: bodies.Head, now_s: float
    ) -> Hop:
        """What an envelope and a body ask for."""
        return cls(
            worker,
            link,
            envelope.request_id,
            envelope.request_id.hex().encode(),
            now_s,
            now_s + envelope.budget_ms / 1000.0,
            head,
            link.path,
            link.body,
            bodies.tokens_in(head),
            bodies.tokens_out_max(head) or 1,
            envelope=envelope,
        )

    def start(self) -> None:
        """Check law and room by this site's own knowledge, then hand it to an engine."""
        worker, envelope = self.worker, self.envelope
        why = barred(worker, envelope)  # again: a new table may have come with the body
        if why:
            self.refuse(why)
            return
        routing, policy = worker.routing, worker.policy
        table = routing.table
        self.subject = policy.subjects.get(_names(envelope), 0)
        index = table.offer_index.get(f"{worker.site}/{envelope.service}/{envelope.variant}")
        if index is None or not routing.offers[index].engines:
            self.refuse("dead")
            return
        if routing.gate != OPEN:
            # It was sent before its sender heard that this site gives up the work of others.
            self.refuse("power")
            return
        self.offer = routing.offers[index]
        service = routing.service_named[envelope.service]
        self.tokens_out = service.guess_tokens_out(bodies.tokens_out_max(self.head))
        if len(self.offer.engines) > 1 and self.tokens_in >= PROMPT_TOKENS_MIN:
            self.prefixes = worker.affinity.prefixes(self.head, envelope.tenant, service.id)
        worker.running.add(self)
        if envelope.deferrable:
            worker.deferred.add(self)
        self._seek(self.started_at_s)

    def refuse(self, why: str) -> None:
        """409: nothing was executed; the entry site tries its next offer."""
        self.refused = why
        self.finish("failed")
        turn_away(self.worker, self.link, self.envelope, why)

    def _seek(self, now_s: float) -> None:
        worker = self.worker
        held = None
        if self.prefixes is not None:
            held = worker.affinity.engines.held(self.prefixes, now_s)
        engine = worker.routing.engine(
            self.offer.index, self.tokens_in, self.tokens_out, self.tried_engines, held
        )
        if engine >= 0 and self.envelope.deferrable:
            spare = engine_has_spare(
                worker.routing.local[engine], self.offer, worker.routing.shed_level
            )
            engine = engine if spare else int(Reason.ROOM)
        if engine < 0 or len(self.attempts) >= ENGINES_TRIED_MAX:
            if self.attempts:
                self._give_up("every replica here failed")
            elif engine == Reason.ROOM:
                self.refuse("room")
            else:
                self.refuse("dead")
            return
        local = worker.routing.local[engine]
        figures = [0.0] * OUT_COUNT
        figures[OUT_BATCH] = float(local.running + 1)
        attempt = Attempt(
            self, self.offer, engine, local.target, self.envelope.attempt, figures, now_s
        )
        attempt.deadline_at_s = self.expires_at_s
        if self.prefixes is not None:
            worker.affinity.sent(attempt, self.prefixes, spread=False)
        self.attempts.append(attempt)
        worker.waiting.add(attempt)
        worker.routing.begin_engine(attempt, self.tokens_in, self.tokens_in + self.tokens_out)

        record = executed(worker, self.envelope, self.subject, engine=local.name)
        worker.ledger.before((_encode(record),), attempt)

    def unrecorded(self, attempt: Attempt) -> None:
        self._drop_all()
        self._give_up("the decision log cannot be written")

    def _give_up(self, message: str) -> None:
        if not self.finished:
            self.finish("failed")
            self.link.refuse(502, "upstream_failed", message, extra=self.id_line())

    # --- what attempts report

    def request_bytes(self, attempt: Attempt, out: Outgoing) -> bytes:
        if not self.up_body:
            self.up_body = bodies.splice(
                self.body, self.head, include_usage=False, model=self.offer.served_model
            )
        traceparent = self.link.headers.get(b"traceparent")
        trace = b"traceparent: " + traceparent + b"\r\n" if traceparent is not None else b""
        return b"%bcontent-length: %d\r\n%b%b\r\n%b" % (
            attempt.target.post_head(self.path),
            len(self.up_body),
            self.id_line(),
            trace,
            self.up_body,
        )

    def turned_down(self, attempt: Attempt, out: Outgoing) -> None:
        self._again(attempt, "status")

    def failed(self, attempt: Attempt, kind: str, reason: str) -> None:
        if not self.finished:
            self._again(attempt, kind)

    def overdue(self, attempt: Attempt, now_s: float) -> None:
        """The entry site keeps the deadline; here only the envelope's budget ends it."""
        attempt.deadline_at_s = now_s + 1.0

    def hedge(self, attempt: Attempt, now_s: float) -> None:
        """Hedging is the entry site's."""

    def give_way(self, attempt: Attempt) -> None:
        """A line of a batch whose engine is wanted: stop, and let the entry site find another."""
        self.measured = charge_given_up(self, attempt)
        attempt.drop()
        self.settle(attempt)
        note = self.trailer_lines()
        self.finish("failed")
        self.link.refuse(503, "gave_way", "somebody else came", extra=self.id_line() + note)

    def _again(self, attempt: Attempt, kind: str) -> None:
        self.count_failure(kind)
        self.settle(attempt)
        self.tried_engines.add(attempt.engine)
        self._seek(time())

    # --- what the entry site is told

    def head_lines(self, attempt: Attempt) -> bytes:
        return self.id_line() + attempt.offer.lines + self.worker.routing.frame_line(time())

    def whole_lines(self, attempt: Attempt) -> bytes:
        return self.head_lines(attempt) + self.trailer_lines()

    def trailer_lines(self) -> bytes:
        assert self.measured is not None
        return b"x-hanse-measured: " + self.measured.site_note() + b"\r\n"

    def last_comment(self) -> bytes:
        winner = self.winner
        assert winner is not None
        if self.measured is None:
            self.measure(winner, time())
        assert self.measured is not None
        return b": hanse " + self.measured.site_note() + b"\n\n"

    def measure(self, attempt: Attempt, now_s: float) -> None:
        routing = self.worker.routing
        tap = self.tap
        usage = tap.usage if tap is not None else self.usage
        measured = Measured.of(usage, self.tokens_in, tap.events if tap is not None else 0)
        measured.e2e_ms = (now_s - self.started_at_s) * 1000.0
        measured.ttft_ms = (self.first_byte_at_s - self.started_at_s) * 1000.0
        measured.charge_local(attempt, routing)
        for other in self.attempts:
            if other is not attempt and other.reached:
                measured.charge_dropped(other, routing)
        service = routing.service_named[self.envelope.service]
        measured.price(attempt, routing, service.usd_per_g, 0)
        self.measured = measured
        if self.prefixes is not None:
            found = measured.found(self.tokens_in)
            self.worker.affinity.answered(attempt, self.prefixes, found, now_s, spread=False)

    def won(self, attempt: Attempt, out: Outgoing) -> float:
        self.worker.routing.local[attempt.engine].answered()
        return super().won(attempt, out)

    # --- at the end

    def conclude(self, outcome: str, now_s: float) -> None:
        worker, measured = self.worker, self.measured
        worker.deferred.discard(self)
        if not self.attempts or all(attempt.unrecorded for attempt in self.attempts):
            return
        if worker.log is not None:
            worker.log.ended(self, outcome, now_s, serving=True)
        if outcome == "answered":
            worker.counts.row[HOPS_SERVED] += 1.0
        if measured is not None:
            worker.counts.row[ENERGY_WH] += measured.energy_wh
            worker.counts.row[CARBON_G] += measured.carbon_g
        worker.ledger.after(
            Ended(
                request_id=self.request_id,
                at_s=now_s,
                role="serving",
                outcome=cast("Outcome", outcome),
                attempt=self.envelope.attempt,
                attempts=self.envelope.attempt,
                tokens_in=measured.tokens_in if measured is not None else 0,
                tokens_out=measured.tokens_out if measured is not None else 0,
                ttft_ms=measured.ttft_ms if measured is not None else 0.0,
                e2e_ms=measured.e2e_ms if measured is not None else 0.0,
                energy_wh=measured.energy_wh if measured is not None else 0.0,
                carbon_g=measured.carbon_g if measured is not None else 0.0,
                cost_usd=measured.cost_usd if measured is not None else 0.0,
                method=cast("Any", measured.method if measured is not None else ""),
            )
        )


REFUSALS = {
    "law": "this site may not process the request by law",
    "table": "this site's routing table has expired",
    "room": "no replica here has room",
    "power": "this site is short of power and takes no work of other sites",
    "dead": "this site has no living replica of that variant",
}
"""`x-hanse-refusal` -> what it means."""


def _names(envelope: Envelope) -> tuple[str, str, str]:
    return envelope.tenant, envelope.data_class, envelope.country


def barred(worker: Worker, envelope: Envelope) -> str:
    """Why this site may not even read the request; empty: it may. By this site's own table, from names."""
    policy = worker.policy_or_none
    if policy is None or worker.routing.expired(time()):
        return "table"
    table = worker.routing.table
    subject = policy.subjects.get(_names(envelope), 0)
    entry = table.site_index.get(envelope.entry_site, -1)
    lawful = entry >= 0 and table.lawful(subject, entry)
    return "" if lawful and table.lawful(subject, worker.routing.origin) else "law"


def turn_away(worker: Worker, link: Incoming, envelope: Envelope, why: str) -> None:
    """409, on record: nothing was executed here, and the entry site tries its next offer."""
    worker.counts.row[HOPS_REFUSED] += 1.0
    policy = worker.policy_or_none
    lines = b""
    if policy is not None:
        subject = policy.subjects.get(_names(envelope), 0)
        worker.ledger.after(executed(worker, envelope, subject, refusal=why))
        lines = worker.routing.frame_line(time())
    head = b"x-hanse-refusal: %b\r\nx-request-id: %b\r\n" % (
        why.encode(),
        envelope.request_id.hex().encode(),
    )
    link.refuse(409, f"refused_{why}", REFUSALS[why], extra=head + lines)


def executed(
    worker: Worker, envelope: Envelope, subject: int, *, engine: str = "", refusal: str = ""
) -> Executed:
    """This site's record of a forwarded request: handed to an engine, or refused."""
    routing = worker.routing
    return Executed(
        request_id=envelope.request_id,
        at_s=time(),
        attempt=envelope.attempt,
        tenant=envelope.tenant,
        data_class=envelope.data_class,
        country=envelope.country,
        subject_row=subject,
        entry_site=envelope.entry_site,
        site=worker.site,
        engine=engine,
        refusal=refusal,
        variant=envelope.variant,
        allowed=routing.table.lawful(subject, routing.origin),
        table_version=routing.table.meta.version,
    )

"""The entry side of a request: choose an offer, try it, try another, and say what came of it.

Here: `Entry`: routing with evidence, retries, deadlines, hedges, refusals, the records and rows at the end. Not here: bytes on the
way to the client (`exchange`), who may ask (`doors`), the serving side of a hop (`hop`).

Which try comes next: a local engine that failed is excluded and its offer stays while another replica is up; a peer's offer that
failed or refused is tried once. Nothing is re-sent after a first byte has gone to the client.
"""

from __future__ import annotations

from time import time
from typing import TYPE_CHECKING, Any, Literal, cast

from hanse.dispatch.choose import OUT_E2E_MS, OUT_G, OUT_REQUESTS, OUT_TTFT_MS, OUT_USD, OUT_WH
from hanse.dispatch.reasons import RETRY_LATER, Reason
from hanse.live.evidence.chain import Decided, Ended, Executed
from hanse.live.gateway import body as bodies
from hanse.live.gateway.attempt import Attempt
from hanse.live.gateway.exchange import CANCELLED, Exchange
from hanse.live.gateway.frames import read_header
from hanse.live.gateway.measured import Five, Measured, read_site_note
from hanse.live.gateway.metrics import (
    ATTEMPTS_HOP,
    ATTEMPTS_LOCAL,
    CARBON_G,
    COST,
    COST_USD,
    ENERGY_WH,
    HEDGES,
    HEDGES_WON,
    LEAGUE,
    RETRIES,
    TOKENS_IN,
    TOKENS_OUT,
)
from hanse.live.gateway.notes import METHODS, OUTCOMES
from hanse.live.gateway.shadow import LOST, REFUSED_LAW, REFUSED_OTHER, SERVED
from hanse.live.identity import Envelope, seal_envelope

if TYPE_CHECKING:
    from hanse.dispatch.table import ServiceMeta
    from hanse.live.gateway.incoming import Incoming
    from hanse.live.gateway.outgoing import Outgoing
    from hanse.live.gateway.peers import PeerTarget
    from hanse.live.gateway.policy import Grant
    from hanse.live.gateway.routing import OfferRow
    from hanse.live.gateway.shadow import Verdict
    from hanse.live.gateway.worker import Worker

ATTEMPTS_MAX = 8
"""Tries of one request: more have never helped a request that eight could not."""
FIRST_BYTE_S_MIN = 1.0
"""Floor of the first-byte deadline: predictions of a few ms must not make a busy moment a failure."""
DEADLINE_FACTOR = 3.0
HEDGE_FACTOR = 2.0
HEDGE_S_MIN = 0.25
HEDGE_SHARE_MAX = 0.02
HEDGE_UTILISATION_MAX = 0.8
HOLD_BYTES_MAX = 1024 * 1024
"""A larger body is not held for a second try."""
NO_FIGURES: Five = (0.0, 0.0, 0.0, 0.0, 0.0)

Outcome = Literal["answered", "failed", "broken", "cancelled"]
_METHOD_INDEX = {name: i for i, name in enumerate(METHODS)}
_OUTCOME_INDEX = {name: i for i, name in enumerate(OUTCOMES)}


class Entry(Exchange):
    """One client's request at its entry site."""

    verdict: Verdict | None = None
    refusal = ""
    rules: tuple[str, ...] = ()
    status = 0
    last_failure = ""
    refused_only = True
    hedged = False
    switches = 0
    """Attempts given up as late. Each doubles the patience with the next: engines that are all merely slow must not be
    made slower by work that every one of them begins and none ends."""
    _up_name = ""
    _up_body = b""

    def __init__(
        self,
        worker: Worker,
        link: Incoming,
        request_id: bytes,
        grant: Grant,
        service: ServiceMeta,
        service_index: int,
        head: bodies.Head,
        now_s: float,
    ) -> None:
        super().__init__(worker, link, request_id, now_s)
        self.grant = grant
        self.service = service
        self.service_index = service_index
        self.head = head
        self.path = link.path
        self.body = link.body
        self.drop_usage = bodies.wants_usage_splice(head)
        self.tokens_in = bodies.tokens_in(head)
        self.tokens_out = worker.routing.guess_tokens_out(
            service.id, bodies.tokens_out_max(head), service.output_tokens_max
        )
        self.deadline_s = service.slo.deadline_s
        self.expires_at_s = now_s + self.deadline_s
        self.tried: list[int] = []
        self.tried_engines: set[int] = set()
        traceparent = link.headers.get(b"traceparent")
        self.forward_lines = self.id_line() + (
            b"traceparent: " + traceparent + b"\r\n" if traceparent is not None else b""
        )

    def start(self) -> None:
        """Ask the shadow, then find the first offer."""
        worker = self.worker
        worker.running.add(self)
        if worker.shadow is not None:
            self.verdict = worker.shadow.ask(
                self.service_index,
                self.grant.subject,
                self.tokens_in,
                self.tokens_out,
                self.deadline_s * 1000.0,
                len(self.body),
                self.started_at_s,
            )
        self._seek(self.started_at_s)

    # --- choosing

    def _seek(self, now_s: float) -> None:
        found = self._find(now_s, self.tried) if len(self.attempts) < ATTEMPTS_MAX else Reason.TRIED
        if isinstance(found, Attempt):
            self._go(found)
        elif all(attempt.settled for attempt in self.attempts):
            self._refuse(found, now_s)

    def _find(self, now_s: float, tried: list[int]) -> Attempt | int:
        """The next attempt, not yet begun, or why there is none."""
        routing = self.worker.routing
        tokens = self.tokens_in + self.tokens_out
        worst = 0
        while True:
            index = routing.route(
                self.service_index,
                self.grant.subject,
                self.tokens_in,
                self.tokens_out,
                (self.expires_at_s - now_s) * 1000.0,
                len(self.body),
                now_s,
                tried,
            )
            if index < 0:
                return min(index, worst)
            figures = routing.figures()
            offer = routing.offers[index]
            if offer.engines:
                engine = routing.engine(index, tokens, self.tried_engines)
                if engine >= 0:
                    target = routing.local[engine].target
                    return self._attempt(offer, engine, target, figures, now_s)
                worst = min(worst, Reason(engine))
            elif offer.target is not None:
                return self._attempt(offer, -1, offer.target, figures, now_s)
            else:
                worst = min(worst, Reason.DEAD)
            tried = [*tried, index]

    def _attempt(
        self, offer: OfferRow, engine: int, target: Any, figures: list[float], now_s: float
    ) -> Attempt:
        attempt = Attempt(self, offer, engine, target, len(self.attempts) + 1, figures, now_s)
        predicted_ms = figures[OUT_TTFT_MS] if self.head.stream else figures[OUT_E2E_MS]
        patience_s = max(FIRST_BYTE_S_MIN, DEADLINE_FACTOR * predicted_ms / 1000.0)
        attempt.deadline_at_s = now_s + patience_s * 2.0**self.switches
        attempt.hedge_at_s = now_s + max(HEDGE_S_MIN, HEDGE_FACTOR * predicted_ms / 1000.0)
        return attempt

    def _go(self, attempt: Attempt) -> None:
        """Count it, put it on record, send it."""
        worker = self.worker
        if self.attempts:
            worker.counts.row[RETRIES] += 1.0
        self.attempts.append(attempt)
        worker.waiting.add(attempt)
        worker.routing.begin(attempt, self.tokens_in, self.tokens_out, attempt.began_at_s)
        decided = self._decided(attempt.number, attempt.began_at_s, attempt)
        if attempt.engine < 0:
            worker.counts.row[ATTEMPTS_HOP] += 1.0
            records: tuple[Any, ...] = (decided,)
        else:
            worker.counts.row[ATTEMPTS_LOCAL] += 1.0
            records = (decided, self._executed(attempt))

        def go(written: bool) -> None:
            if written:
                attempt.launch()
            else:
                self._no_evidence()

        worker.ledger.before(records, go)

    # --- what attempts report

    def request_bytes(self, attempt: Attempt, out: Outgoing) -> bytes | None:
        if attempt.engine >= 0:
            data = self._engine_body(attempt.offer.served_model)
            extra = b""
        else:
            data = self._hop_body()
            target = cast("PeerTarget", attempt.target)
            if target.session is None:
                return None
            extra = b"x-hanse-envelope: " + self._envelope(attempt, target, len(data)) + b"\r\n"
        return b"%bcontent-length: %d\r\n%b%b\r\n%b" % (
            attempt.target.post_head(self.path),
            len(data),
            self.forward_lines,
            extra,
            data,
        )

    def turned_down(self, attempt: Attempt, out: Outgoing) -> None:
        self._hear_load(attempt, out)
        refusal = out.headers.get(b"x-hanse-refusal")
        if out.status == 409 and refusal is not None:
            self.last_failure = f"{attempt.offer.site} refused: {refusal.decode('latin-1')}"
            self._next(attempt, "refused")
        else:
            self.refused_only = False
            self.last_failure = f"{attempt.offer.site} answered {out.status}"
            self._next(attempt, "status")

    def failed(self, attempt: Attempt, kind: str, reason: str) -> None:
        if self.finished:
            return
        self.last_failure = f"{attempt.offer.site}: {reason}"
        self.refused_only = False
        if kind == "stale":
            self.settle(attempt)
            self._seek(time())
            return
        if attempt.engine < 0 and kind == "connect":
            self.worker.routing.lost(attempt.offer.site_index)
        self._next(attempt, kind)

    def overdue(self, attempt: Attempt, now_s: float) -> None:
        """Switch only where another offer would take it; else waiting is the better chance."""
        if not attempt.late:
            attempt.late = True
            if attempt.engine >= 0:
                self.worker.routing.local[attempt.engine].late(now_s)
            self.worker.routing.late(attempt, (now_s - attempt.began_at_s) * 1000.0)
        found = self._other(attempt, now_s)
        if isinstance(found, Attempt):
            self.switches += 1
            self.refused_only = False
            self.last_failure = f"{attempt.offer.site}: no first byte in time"
            self.count_failure("timeout")
            attempt.drop()
            self.settle(attempt)
            self._exclude(attempt)
            self._go(found)
        else:
            attempt.deadline_at_s = now_s + FIRST_BYTE_S_MIN

    def hedge(self, attempt: Attempt, now_s: float) -> None:
        """A second try beside a slow first one, within the budget and while there is room to spare."""
        attempt.hedge_at_s = float("inf")
        row = self.worker.counts.row
        if self.hedged or row[HEDGES] >= HEDGE_SHARE_MAX * self.worker.requests_begun:
            return
        found = self._other(attempt, now_s)
        if isinstance(found, Attempt) and self._has_room(found):
            self.hedged = True
            found.hedge = True
            row[HEDGES] += 1.0
            self._go(found)

    def _has_room(self, attempt: Attempt) -> bool:
        offer = attempt.offer
        replicas = float(self.worker.routing.load.offers[offer.index]["replicas"])
        requests = attempt.figures[OUT_REQUESTS] + 1.0
        return requests <= HEDGE_UTILISATION_MAX * max(1.0, replicas * offer.slots)

    def _other(self, attempt: Attempt, now_s: float) -> Attempt | int:
        """An attempt anywhere else than at this one's engine or peer."""
        if len(self.attempts) >= ATTEMPTS_MAX or len(self.body) > HOLD_BYTES_MAX:
            return Reason.TRIED
        if attempt.engine < 0:
            return self._find(now_s, [*self.tried, attempt.offer.index])
        before = set(self.tried_engines)
        self.tried_engines.add(attempt.engine)
        found = self._find(now_s, self.tried)
        self.tried_engines = before
        return found

    def _exclude(self, attempt: Attempt) -> None:
        if attempt.engine < 0:
            self.tried.append(attempt.offer.index)
        else:
            self.tried_engines.add(attempt.engine)

    def _next(self, attempt: Attempt, kind: str) -> None:
        self.count_failure(kind)
        self.settle(attempt)
        self._exclude(attempt)
        if len(self.body) > HOLD_BYTES_MAX:
            self._refuse(Reason.TRIED, time())
        elif all(other.settled for other in self.attempts):
            self._seek(time())

    # --- bytes for the other leg

    def _hop_body(self) -> bytes:
        if not self.drop_usage:
            return self.body
        if not self._up_name:
            self._up_name = "-"
            self._up_body = bodies.splice(self.body, self.head, include_usage=True, model=None)
        return self._up_body

    def _engine_body(self, served_model: str) -> bytes:
        if not self.drop_usage and served_model == self.head.model:
            return self.body
        if self._up_name != served_model:
            self._up_name = served_model
            self._up_body = bodies.splice(
                self.body, self.head, include_usage=self.drop_usage, model=served_model
            )
        return self._up_body

    def _envelope(self, attempt: Attempt, target: PeerTarget, body_bytes: int) -> bytes:
        grant, meta = self.grant, self.worker.routing.table.meta
        now_s = time()
        assert target.session is not None
        return seal_envelope(
            target.session,
            Envelope(
                request_id=self.request_id,
                attempt=attempt.number,
                entry_site=self.worker.site,
                tenant=grant.key.tenant,
                data_class=grant.data_class,
                country=grant.country,
                subject_row=grant.subject,
                service=self.service.id,
                variant=attempt.offer.variant,
                epoch=meta.epoch,
                table_version=meta.version,
                budget_ms=max(1.0, (self.expires_at_s - now_s) * 1000.0),
                sent_at_s=now_s,
                body_bytes=body_bytes,
            ),
        )

    # --- what the client is told

    def head_lines(self, attempt: Attempt) -> bytes:
        figures = attempt.figures
        return b"%b%bx-hanse-predicted: ttft_ms=%.2f;e2e_ms=%.2f;wh=%.4g;g=%.4g;usd=%.4g\r\n" % (
            self.id_line(),
            attempt.offer.lines,
            figures[OUT_TTFT_MS],
            figures[OUT_E2E_MS],
            figures[OUT_WH],
            figures[OUT_G],
            figures[OUT_USD],
        )

    def measured_line(self, attempt: Attempt) -> bytes:
        assert self.measured is not None
        return self.measured.line(len(self.attempts))

    def last_comment(self) -> bytes:
        winner = self.winner
        assert winner is not None
        if self.measured is None:
            self.measure(winner, time())
        assert self.measured is not None
        return self.measured.comment(len(self.attempts))

    def win(self, attempt: Attempt, out: Outgoing) -> None:
        self._hear_load(attempt, out)
        if attempt.engine >= 0:
            self.worker.routing.local[attempt.engine].answered()
        if attempt.hedge:
            self.worker.counts.row[HEDGES_WON] += 1.0
        self.status = out.status
        if attempt.engine < 0:
            self._site_note = out.headers.get(b"x-hanse-measured")
        super().win(attempt, out)

    _site_note: bytes | None = None

    def measure(self, attempt: Attempt, now_s: float) -> None:
        routing = self.worker.routing
        tap = self.tap
        usage = tap.usage if tap is not None else self.usage
        answered = self.status == 200
        seen = tap.events if tap is not None else 0
        measured = Measured(usage, self.tokens_in if answered else 0, seen)
        measured.e2e_ms = (now_s - self.started_at_s) * 1000.0
        measured.ttft_ms = (self.first_byte_at_s - self.started_at_s) * 1000.0
        if attempt.engine >= 0:
            measured.charge_local(attempt, routing)
        else:
            note = read_site_note(tap.note if tap is not None and tap.note else self._site_note)
            if note is not None:
                measured.charge_remote(note)
            else:
                measured.charge_dropped(attempt, routing)
        for other in self.attempts:
            if other is not attempt and other.reached:
                measured.charge_dropped(other, routing)
        moved = attempt.body_bytes + len(self.body) if attempt.engine < 0 else 0
        measured.price(attempt, routing, self.service_index, moved)
        self.measured = measured
        if answered and measured.tokens_out > 0:
            routing.seen_tokens_out(self.service.id, measured.tokens_out)
            ttft_ms = (
                (self.first_byte_at_s - attempt.began_at_s) * 1000.0 if tap is not None else 0.0
            )
            routing.observed(
                attempt, ttft_ms, (now_s - attempt.began_at_s) * 1000.0, measured.tokens_out
            )

    def _refuse(self, gate: int, now_s: float) -> None:
        """No offer (left): one answer that says why."""
        reason = Reason(gate)
        extra = self.id_line()
        if self.attempts and not self.refused_only and reason != Reason.TABLE_EXPIRED:
            self.refusal = "upstream_failed"
            self.status, message = 502, f"every attempt failed; the last: {self.last_failure}"
        elif reason in (Reason.LAW, Reason.QUALITY):
            self.refusal, self.status = "no_eligible_site", 451
            self.rules = self._rules(reason)
            message = "no site may process this request by law"
        elif reason == Reason.LENGTH:
            self.refusal, self.status = "context_length_exceeded", 400
            message = f"the prompt (about {self.tokens_in} tokens) is longer than any engine takes"
        elif reason == Reason.TABLE_EXPIRED:
            self.refusal, self.status = "no_table", 503
            message = "the routing table has expired; nothing is admitted"
        else:
            self.refusal, self.status = "no_room", 503
            message = f"no eligible site can take this request now ({reason.name.lower()})"
        if self.status == 503:
            extra += b"retry-after: 1\r\n" if reason in RETRY_LATER else b"retry-after: 5\r\n"
        self.worker.ledger.after(self._decided(len(self.attempts) + 1, now_s, None))
        self._answer_refusal(message, extra, gate=reason.name.lower())

    def _no_evidence(self) -> None:
        """The chain could not be written: nothing goes on."""
        if self.finished:
            return
        self._drop_all()
        self.refusal, self.status = "no_evidence", 503
        self._answer_refusal("the decision log cannot be written", self.id_line(), gate="evidence")

    def _answer_refusal(self, message: str, extra: bytes, *, gate: str) -> None:
        hanse: dict[str, object] = {"request_id": self.request_id.hex(), "gate": gate}
        if self.rules:
            hanse["rules"] = list(self.rules)
        self.finish("failed")
        self.link.refuse(self.status, self.refusal, message, extra=extra, hanse=hanse)

    def _rules(self, reason: Reason) -> tuple[str, ...]:
        if reason == Reason.QUALITY:
            return ("hanse:quality-min",)
        return self.worker.routing.table.rules_denying(self.grant.subject)

    # --- at the end

    def conclude(self, outcome: str, now_s: float) -> None:
        worker, winner, grant = self.worker, self.winner, self.grant
        status = CANCELLED if outcome == "cancelled" else self.status or 504
        worker.counts.answered(status)
        measured = self.measured
        five = measured.five() if measured is not None else NO_FIGURES
        predicted: Five = NO_FIGURES
        if self.attempts:
            f = (winner or self.attempts[-1]).figures
            predicted = (f[OUT_TTFT_MS], f[OUT_E2E_MS], f[OUT_WH], f[OUT_G], f[OUT_USD])
        if self.attempts:
            worker.ledger.after(self._ended(outcome, now_s, five))
        self._count(outcome, measured, five, predicted)
        worker.notes.write(
            self.request_id,
            grant.key.mark,
            self.started_at_s,
            (winner or self.attempts[-1]).offer.index if self.attempts else -1,
            len(self.attempts),
            _OUTCOME_INDEX["refused" if self.refusal and not self.attempts else outcome],
            _METHOD_INDEX[measured.method if measured is not None else ""],
            measured.tokens_in if measured is not None else 0,
            measured.tokens_out if measured is not None else 0,
            predicted,
            five,
        )
        if worker.feed.wanted():
            worker.feed.send_entry(self, outcome, predicted, five)

    def _count(self, outcome: str, measured: Measured | None, five: Five, predicted: Five) -> None:
        counts = self.worker.counts
        row = counts.row
        if measured is not None:
            row[TOKENS_IN] += measured.tokens_in
            row[TOKENS_OUT] += measured.tokens_out
            row[ENERGY_WH] += five[2]
            row[CARBON_G] += five[3]
            row[COST_USD] += five[4]
        if outcome == "answered":
            row[LEAGUE + SERVED] += 1.0
            counts.add_cost(COST["league_measured"], *five)
            counts.add_cost(COST["league_predicted"], *predicted)
        elif self.refusal == "no_eligible_site":
            row[LEAGUE + REFUSED_LAW] += 1.0
        elif self.refusal in ("no_room", "context_length_exceeded", "no_table"):
            row[LEAGUE + REFUSED_OTHER] += 1.0
        elif outcome != "cancelled":
            row[LEAGUE + LOST] += 1.0

    def _decided(self, number: int, at_s: float, attempt: Attempt | None) -> Decided:
        grant, meta = self.grant, self.worker.routing.table.meta
        figures = attempt.figures if attempt is not None else None
        return Decided(
            request_id=self.request_id,
            at_s=at_s,
            attempt=number,
            key_id=grant.key.id,
            tenant=grant.key.tenant,
            data_class=grant.data_class,
            country=grant.country,
            subject_row=grant.subject,
            service=self.service.id,
            entry_site=self.worker.site,
            site=attempt.offer.site if attempt is not None else "",
            variant=attempt.offer.variant if attempt is not None else "",
            refusal=self.refusal if attempt is None else "",
            rules=self.rules if attempt is None else (),
            table_version=meta.version,
            epoch=meta.epoch,
            ttft_ms_predicted=figures[OUT_TTFT_MS] if figures is not None else 0.0,
            e2e_ms_predicted=figures[OUT_E2E_MS] if figures is not None else 0.0,
            energy_wh_predicted=figures[OUT_WH] if figures is not None else 0.0,
            carbon_g_predicted=figures[OUT_G] if figures is not None else 0.0,
            cost_usd_predicted=figures[OUT_USD] if figures is not None else 0.0,
        )

    def _executed(self, attempt: Attempt) -> Executed:
        grant, worker = self.grant, self.worker
        return Executed(
            request_id=self.request_id,
            at_s=attempt.began_at_s,
            attempt=attempt.number,
            tenant=grant.key.tenant,
            data_class=grant.data_class,
            country=grant.country,
            subject_row=grant.subject,
            entry_site=worker.site,
            site=worker.site,
            engine=worker.routing.local[attempt.engine].name,
            variant=attempt.offer.variant,
            allowed=True,
            table_version=worker.routing.table.meta.version,
        )

    def _ended(self, outcome: str, now_s: float, five: Five) -> Ended:
        measured, winner = self.measured, self.winner
        return Ended(
            request_id=self.request_id,
            at_s=now_s,
            role="entry",
            outcome=cast("Outcome", outcome),
            attempt=winner.number if winner is not None else 0,
            attempts=len(self.attempts),
            tokens_in=measured.tokens_in if measured is not None else 0,
            tokens_out=measured.tokens_out if measured is not None else 0,
            ttft_ms=five[0],
            e2e_ms=five[1],
            energy_wh=five[2],
            carbon_g=five[3],
            cost_usd=five[4],
            method=cast("Any", measured.method if measured is not None else ""),
        )

    def _hear_load(self, attempt: Attempt, out: Outgoing) -> None:
        if attempt.engine < 0:
            value = out.headers.get(b"hanse-load")
            frame = read_header(value) if value is not None else None
            if frame is not None:
                self.worker.routing.heard(frame, attempt.offer.site, time())

"""The entry side of a request: choose an offer, try it, and try another.

Here: `Entry`: routing with evidence, retries, deadlines, hedges, bytes for the other leg. Not here: who may ask (`doors`), the first
attempt where it is a local engine (`opening`), bytes on the way to the client (`exchange`), refusals, the common end and what is booked
at any end (`closing`), the serving side of a hop (`hop`).

Which try comes next: a local engine that failed is excluded and its offer stays while another replica is up; a peer's offer that
failed or refused is tried once. After a first byte has gone to the client only the rest of an answer is asked for (`continued`).
"""

from __future__ import annotations

from time import time
from typing import TYPE_CHECKING, cast

from hanse.dispatch.choose import (
    OUT_E2E_MS,
    OUT_REQUESTS,
    OUT_TTFT_MS,
    TRIED_MAX,
)
from hanse.dispatch.patience import (
    FIRST_BYTE_FACTOR,
    FIRST_BYTE_S_MIN,
    HELD_ASKS_EVERY_S,
    HELD_S,
)
from hanse.dispatch.reasons import Reason
from hanse.live.gateway import body as bodies
from hanse.live.gateway import closing, continued
from hanse.live.gateway.attempt import Attempt
from hanse.live.gateway.exchange import Exchange
from hanse.live.gateway.frames import read_header
from hanse.live.gateway.measured import Measured, predicted_line, read_site_note
from hanse.live.gateway.metrics import ATTEMPTS_HOP, ATTEMPTS_LOCAL, HEDGES, HEDGES_WON, RETRIES
from hanse.live.gateway.records import decided_raw, executed_raw
from hanse.live.identity import Envelope, seal_envelope

if TYPE_CHECKING:
    from hanse.dispatch.prefix import Prefixes
    from hanse.live.gateway.outgoing import Outgoing, Target
    from hanse.live.gateway.peers import PeerTarget
    from hanse.live.gateway.policy import Grant
    from hanse.live.gateway.routing import OfferRow, ServiceRow
    from hanse.live.gateway.shadow import Verdict
    from hanse.live.gateway.sse import StreamTap

ATTEMPTS_MAX = 8
"""Tries of one request: more have never helped a request that eight could not."""
HEDGE_FACTOR = 2.0
HEDGE_S_MIN = 0.25
HEDGE_SHARE_MAX = 0.02
HEDGE_UTILISATION_MAX = 0.8
HOLD_BYTES_MAX = 1024 * 1024
"""A larger body is not held for a second try."""


class Entry(Exchange, eq=False, kw_only=True):
    """One client's request at its entry site."""

    grant: Grant
    service: ServiceRow
    verdict: Verdict | None = None
    """What the one big site would have done."""
    prefixes: Prefixes | None = None
    refusal: str = ""
    rules: tuple[str, ...] = ()
    last_failure: str = ""
    refused_only: bool = True
    """So far every attempt that failed was a peer's no: nothing was executed anywhere."""
    hedged: bool = False
    switches: int = 0
    """Attempts given up as late. Each doubles the patience with the next: engines that are all merely slow must not be
    made slower by work that every one of them begins and none ends."""
    site_note: bytes | None = None
    tried: list[int] = []
    tried_engines: set[int] = set()
    slow: list[Attempt] = []
    """Given up as late, and nothing worse: once nobody else is left, they may be asked again."""
    full: list[Attempt] = []
    """Refused by a peer without room, and nothing worse: after a while they may be asked again."""
    held_at_s: float = 0.0
    """Since when nobody takes what was begun and failed; 0: somebody has it, or it is new."""

    answer_plain = closing.answer_plain

    # --- choosing

    def _request(self, now_s: float) -> tuple[float, float, float, float]:
        """(tokens in, tokens out, deadline ms, body bytes), all floats: the kernels are called directly."""
        left_ms = (self.expires_at_s - now_s) * 1000.0
        return float(self.tokens_in), float(self.tokens_out), left_ms, float(len(self.body))

    def seek(self, now_s: float) -> None:
        """Find an offer and try it, or refuse."""
        found = self.again(now_s)
        if self.slow and not isinstance(found, Attempt) and len(self.attempts) < ATTEMPTS_MAX:
            self.forgive(self.slow)
            found = self._find(now_s, self.tried)
        if isinstance(found, Attempt):
            self.go(found)
        elif not all(attempt.settled for attempt in self.attempts):
            pass
        elif self.may_hold(found, now_s):
            self.hold(now_s)
        else:
            self._give_up(found, now_s)

    def may_hold(self, reason: int, now_s: float) -> bool:
        """Whether to ask again soon: what was begun and failed is not lost for a moment in which nobody takes it."""
        if self.refused_only or self.deferrable or len(self.attempts) >= ATTEMPTS_MAX:
            return False
        if len(self.body) > HOLD_BYTES_MAX:
            return False
        routing = self.worker.routing
        if self.held_at_s and now_s - self.held_at_s >= HELD_S:
            return False
        if self.grant.table is not routing.table:
            return False
        self.forgive(self.full)
        never: list[int] = []
        if self.carried is not None and self.carried.told.tokens:
            never = [offer.index for offer in routing.offers if not offer.continues]
        subject, tried = self.grant.subject, [*self.tried, *never]
        return routing.router.worth_holding(
            reason, self.service.index, subject, self.tokens_in, tried
        )

    def hold(self, now_s: float) -> None:
        """Ask again soon, unless it has ended meanwhile."""
        self.held_at_s = self.held_at_s or now_s
        self.worker.loop.call_later(HELD_ASKS_EVERY_S, self._ask_again)

    def _ask_again(self) -> None:
        if not self.finished:
            self.seek(time())

    def _give_up(self, gate: int, now_s: float) -> None:
        if self.carried is None:
            closing.refuse(self, gate, now_s)
            return
        last = self.last_failure or self.worker.routing.reason_name(gate).lower()
        self.not_continued = f"nobody else could; the last: {last}"
        self.break_stream(b"", self.carried.reason)

    def _find(self, now_s: float, tried: list[int]) -> Attempt | int:
        """The next attempt, not yet begun, or why there is none."""
        worker = self.worker
        routing = worker.routing
        if self.grant.table is not routing.table:
            if not self._renewed():
                return Reason.LAW
            tried = self._offers_again(tried)
        request = self._request(now_s)
        worst, prefixes, affinity = 0, self.prefixes, worker.affinity
        while True:
            cached = None
            if prefixes is not None and self.service.spread:
                cached = affinity.sites.held(prefixes, now_s)
            index = routing.router.ask(
                self.service.index, self.grant.subject, request, now_s, tried, cached
            )
            if index < 0:
                return min(index, worst)
            offer = routing.offers[index]
            if self.carried is not None and not (offer.continues or self.carried.told.tokens == 0):
                worst = min(worst, Reason.TRIED)
                if len(tried) >= TRIED_MAX:
                    return worst
            elif offer.engines:
                held = None
                if prefixes is not None and len(offer.engines) > 1:
                    held = affinity.engines.held(prefixes, now_s)
                engine = routing.engine(
                    index, self.tokens_in, self.tokens_out, self.tried_engines, held
                )
                if engine >= 0:
                    return self._attempt(offer, engine, routing.local[engine].target, now_s)
                worst = min(worst, engine)
            elif offer.target is not None:
                return self._attempt(offer, -1, offer.target, now_s)
            else:
                worst = min(worst, Reason.DEAD)
            tried = [*tried, index]

    def forgive(self, some: list[Attempt]) -> None:
        """Where they went may be asked again. An engine that was only slow is better than a refusal: who was to be quicker turned out to be
        gone, or to have no room. And who had no room may have some now.
        """
        index = self.worker.routing.table.offer_index
        for attempt in some:
            if attempt.engine >= 0:
                self.tried_engines.discard(attempt.engine)
            again = index.get(f"{attempt.offer.site}/{attempt.offer.key}", -1)
            self.tried = [offer for offer in self.tried if offer != again]
        some.clear()

    def _renewed(self) -> bool:
        """A new table came since the last attempt: look everything up again by its names; False: admitted no more."""
        worker = self.worker
        grant = worker.policy.current(self.grant)
        service = worker.routing.service_named.get(self.service.id)
        if grant is None or service is None:
            return False
        self.tried = self._offers_again(self.tried)
        self.grant, self.service = grant, service
        return grant.entry_lawful and service.id in grant.key.services

    def _offers_again(self, tried: list[int]) -> list[int]:
        """Indices in the table of now of offers that were tried under earlier ones."""
        index = self.worker.routing.table.offer_index
        keys = {f"{a.offer.site}/{a.offer.key}" for a in self.attempts if a.offer.index in tried}
        return [index[key] for key in keys if key in index]

    def _attempt(self, offer: OfferRow, engine: int, target: Target, now_s: float) -> Attempt:
        figures = self.worker.routing.router.figures()
        number = len(self.attempts) + 1
        late_s, hedge_s = self.patience_s(figures)
        return Attempt(
            self, offer, engine, target, number, figures, now_s, now_s + late_s, now_s + hedge_s
        )

    def patience_s(self, figures: list[float]) -> tuple[float, float]:
        """How long to wait for a first byte before trying elsewhere, and before trying elsewhere too."""
        predicted_s = (figures[OUT_TTFT_MS] if self.head.stream else figures[OUT_E2E_MS]) / 1000.0
        late_s, hedge_s = FIRST_BYTE_FACTOR * predicted_s, HEDGE_FACTOR * predicted_s
        if late_s < FIRST_BYTE_S_MIN:
            late_s = FIRST_BYTE_S_MIN
        if self.switches:
            late_s *= 2.0**self.switches
        return late_s, hedge_s if hedge_s > HEDGE_S_MIN else HEDGE_S_MIN

    def go(self, attempt: Attempt) -> None:
        """Count it, put it on record; `Attempt.recorded` sends it."""
        worker, routing, grant = self.worker, self.worker.routing, self.grant
        counts = worker.counts.row
        self.held_at_s = 0.0
        if self.attempts:
            counts[RETRIES] += 1.0
        self.attempts.append(attempt)
        worker.waiting.add(attempt)
        at_s, number, offer = attempt.began_at_s, attempt.number, attempt.offer
        if self.prefixes is not None:
            worker.affinity.sent(attempt, self.prefixes, spread=self.service.spread)
        routing.begin(attempt, self.service.index, self.tokens_in, self.tokens_out, at_s)
        if self.carried is None:
            middle = routing.decided_middle(grant, self.service.id, offer)
        else:
            middle = routing.continued_middle(grant, self.service.id, offer)
        raw = decided_raw(self.request_id, at_s, number, middle, attempt.figures)
        if attempt.engine < 0:
            counts[ATTEMPTS_HOP] += 1.0
            worker.ledger.before((raw,), attempt)
            return
        counts[ATTEMPTS_LOCAL] += 1.0
        middle = routing.executed_middle(grant, offer, attempt.engine)
        worker.ledger.before((raw, executed_raw(self.request_id, at_s, number, middle)), attempt)

    # --- what attempts report

    def unrecorded(self, attempt: Attempt) -> None:
        if self.finished:
            return
        if self.carried is not None:
            self.refusal = closing.UNRECORDED
            self.not_continued = "the decision log cannot be written"
            self.break_stream(b"", self.carried.reason)
            return
        self._drop_all()
        closing.refuse_unrecorded(self)

    def turned_down(self, attempt: Attempt, out: Outgoing) -> None:
        self._hear_load(attempt, out)
        refusal = out.headers.get(b"x-hanse-refusal")
        if out.status == 409 and refusal is not None:
            self.last_failure = f"{attempt.offer.site} refused: {refusal.decode('latin-1')}"
            if refusal == b"room":
                self.full.append(attempt)
            self._next(attempt, "refused")
        else:
            self.refused_only = False
            self.last_failure = f"{attempt.offer.site} answered {out.status}"
            self._next(attempt, "status")

    def failed(self, attempt: Attempt, kind: str, reason: str) -> None:
        if self.finished:
            return
        self.last_failure = f"{attempt.offer.site}: {reason}"
        if kind == "stale":
            self.refused_only = False
            self.settle(attempt)
            self.seek(time())
            return
        self.refused_only = False
        if attempt.engine < 0 and kind == "connect":
            self.worker.routing.lost(attempt.offer.site_index)
        self._next(attempt, kind)

    def overdue(self, attempt: Attempt, now_s: float) -> None:
        """Switch only where another offer would take it; else waiting is the better chance."""
        routing = self.worker.routing
        if not attempt.late:
            attempt.late = True
            if attempt.engine >= 0:
                routing.local[attempt.engine].late(now_s)
            routing.late(attempt, (now_s - attempt.began_at_s) * 1000.0)
        self.switches += 1  # before the next attempt is made: its patience counts this one
        found = self.other(attempt, now_s)
        if not isinstance(found, Attempt):
            self.switches -= 1
            attempt.deadline_at_s = now_s + FIRST_BYTE_S_MIN
            return
        self.refused_only = False
        self.last_failure = f"{attempt.offer.site}: no first byte in time"
        self.count_failure("timeout")
        attempt.drop()
        self.settle(attempt)
        self._exclude(attempt)
        self.slow.append(attempt)
        self.go(found)

    def hedge(self, attempt: Attempt, now_s: float) -> None:
        """A second try beside a slow first one, within the budget and while there is room to spare."""
        attempt.hedge_at_s = float("inf")
        row = self.worker.counts.row
        if self.hedged or row[HEDGES] >= HEDGE_SHARE_MAX * self.worker.requests_begun:
            return
        found = self.other(attempt, now_s)
        if isinstance(found, Attempt) and self._has_room(found):
            self.hedged = True
            found.hedge = True
            row[HEDGES] += 1.0
            self.go(found)

    def _has_room(self, attempt: Attempt) -> bool:
        offer = attempt.offer
        replicas = float(self.worker.routing.load.offers[offer.index]["replicas"])
        requests = attempt.figures[OUT_REQUESTS] + 1.0
        return requests <= HEDGE_UTILISATION_MAX * max(1.0, replicas * offer.slots)

    def other(self, attempt: Attempt, now_s: float) -> Attempt | int:
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
        self.leave(attempt, kind)
        if len(self.body) > HOLD_BYTES_MAX:
            self._give_up(Reason.TRIED, time())
        elif all(other.settled for other in self.attempts):
            self.seek(time())

    def leave(self, attempt: Attempt, kind: str = "broken", *, exclude: bool = True) -> None:
        """It failed: count it, take it back, and as a rule ask there no more."""
        self.count_failure(kind)
        self.settle(attempt)
        if exclude:
            self._exclude(attempt)

    def again(self, now_s: float) -> Attempt | int:
        """An attempt anywhere but where it was excluded."""
        more = len(self.attempts) < ATTEMPTS_MAX
        return self._find(now_s, self.tried) if more else Reason.TRIED

    # --- a stream that breaks, and who goes on with it

    def new_tap(self, attempt: Attempt) -> StreamTap:
        return continued.tap_of(self, attempt)

    def lose(self, attempt: Attempt, data: bytes, reason: str) -> None:
        self.write(data)
        self.last_failure = f"{attempt.offer.site}: {reason}"
        if not continued.go_on(self, attempt, reason):
            self.break_stream(b"", reason)

    def quiet(self, attempt: Attempt) -> None:
        """Where bytes still come, or the client does not take them, the stream is well."""
        before, attempt.quiet_bytes = attempt.quiet_bytes, attempt.body_bytes
        if before != attempt.body_bytes or attempt.out is None or self.link.write_paused:
            return
        if self.tap is not None and continued.go_on(self, attempt, continued.QUIET):
            attempt.drop()

    def win(self, attempt: Attempt, out: Outgoing) -> None:
        if self.carried is None:
            super().win(attempt, out)
        else:
            continued.resume(self, attempt, out)

    def win_whole(self, attempt: Attempt, out: Outgoing) -> None:
        if self.carried is None:
            super().win_whole(attempt, out)
        else:
            continued.resume(self, attempt, out)

    def failed_again(self, attempt: Attempt, kind: str) -> None:
        """Who was to go on did not."""
        self.refused_only = False
        self._next(attempt, kind)

    # --- bytes for the other leg

    def request_bytes(self, attempt: Attempt, out: Outgoing) -> bytes | None:
        extra = b""
        if attempt.engine >= 0:
            data = self._engine_body(attempt.offer.served_model)
        else:
            data = self._hop_body()
            target = cast("PeerTarget", attempt.target)
            if target.session is None:
                return None
            extra = b"x-hanse-envelope: " + self._envelope(attempt, target, len(data)) + b"\r\n"
        traceparent = self.link.headers.get(b"traceparent")
        if traceparent is not None:
            extra += b"traceparent: " + traceparent + b"\r\n"
        return b"%bcontent-length: %d\r\nx-request-id: %b\r\n%b\r\n%b" % (
            attempt.target.post_head(self.path),
            len(data),
            self.id_hex,
            extra,
            data,
        )

    def _hop_body(self) -> bytes:
        if not self.drop_usage:
            return self.body
        if not self.up_name:
            self.up_name = "-"
            self.up_body = bodies.splice(self.body, self.head, include_usage=True, model=None)
        return self.up_body

    def _engine_body(self, served_model: str) -> bytes:
        if not self.drop_usage and served_model == self.head.model:
            return self.body
        if self.up_name != served_model:
            self.up_name = served_model
            self.up_body = bodies.splice(
                self.body, self.head, include_usage=self.drop_usage, model=served_model
            )
        return self.up_body

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
                deferrable=self.deferrable,
            ),
        )

    # --- what the client is told

    def head_lines(self, attempt: Attempt) -> bytes:
        return b"x-request-id: %b\r\n%b%b" % (
            self.id_hex,
            attempt.offer.lines,
            predicted_line(self.worker.kernels, attempt.figures),
        )

    def whole_lines(self, attempt: Attempt) -> bytes:
        assert self.measured is not None
        return self.head_lines(attempt) + self.measured.line(
            self.worker.kernels, len(self.attempts)
        )

    def last_comment(self) -> bytes:
        winner = self.winner
        assert winner is not None
        if self.measured is None:
            self.measure(winner, time())
        assert self.measured is not None
        return self.measured.comment(len(self.attempts))

    def won(self, attempt: Attempt, out: Outgoing) -> float:
        if attempt.engine >= 0:
            self.worker.routing.local[attempt.engine].answered()
        else:
            self._hear_load(attempt, out)
            self.site_note = out.headers.get(b"x-hanse-measured")
        if attempt.hedge:
            self.worker.counts.row[HEDGES_WON] += 1.0
        return super().won(attempt, out)

    def end_wide(self, attempt: Attempt, out: Outgoing) -> None:
        if attempt.engine < 0:
            self.site_note = out.headers.get(b"x-hanse-measured")
        super().end_wide(attempt, out)

    def measure(self, attempt: Attempt, now_s: float) -> None:
        routing, tap, service = self.worker.routing, self.tap, self.service
        answered, carried = self.status == 200, self.carried
        if attempt.charged:  # it broke, and nobody went on
            measured = Measured(self.tokens_in, 0)
        else:
            measured = Measured.of(
                self.usage if tap is None else tap.usage,
                self.tokens_in if answered else 0,
                0 if tap is None else tap.events,
            )
        self.measured = measured
        measured.e2e_ms = (now_s - self.started_at_s) * 1000.0
        measured.ttft_ms = (self.first_byte_at_s - self.started_at_s) * 1000.0
        bytes_moved = 0
        if attempt.charged:
            pass
        elif attempt.engine >= 0:
            measured.charge_local(attempt, routing)
        else:
            bytes_moved = attempt.body_bytes + len(self.body)
            note = read_site_note(tap.note if tap is not None and tap.note else self.site_note)
            if note is not None:
                measured.charge_remote(note)
            else:
                measured.charge_dropped(attempt, routing)
        if len(self.attempts) > 1:
            for other in self.attempts:
                if other is not attempt and other.reached and not other.charged:
                    measured.charge_dropped(other, routing)
        if carried is not None:
            carried.charge(measured)
        measured.price(attempt, routing, service.usd_per_g, bytes_moved)
        if answered and self.prefixes is not None:
            self.worker.affinity.ended(self, attempt, measured, now_s)
        tokens_out = measured.tokens_out
        if carried is not None:
            measured.join(carried.tokens)
        if answered and measured.tokens_out > 0:
            service.seen_tokens_out(measured.tokens_out)
            ttft_ms = 0.0
            if tap is not None:
                first_s = self.first_byte_at_s if carried is None else carried.first_byte_at_s
                ttft_ms = (first_s - attempt.began_at_s) * 1000.0
            e2e_ms = (now_s - attempt.began_at_s) * 1000.0
            routing.observed(attempt, ttft_ms, e2e_ms, tokens_out)

    def conclude(self, outcome: str, now_s: float) -> None:
        worker = self.worker
        worker.books.add(self, outcome, now_s)
        if worker.log is not None:
            worker.log.ended(self, outcome, now_s, serving=False)
        if worker.feed.wanted():
            worker.feed.send_entry(self, outcome)

    def _hear_load(self, attempt: Attempt, out: Outgoing) -> None:
        value = out.headers.get(b"hanse-load") if attempt.engine < 0 else None
        frame = read_header(value) if value is not None else None
        if frame is not None:
            self.worker.routing.heard(frame, attempt.offer.site, time())

"""How a request at its entry site ends: refusals that say why, the last record, sums, rows for people.

Here: refusals, the common end of a plain answer in one straight stretch (`exchange` has all others), and `Books`. Not here: trying (`entry`), what a request took (`measured`).
"""

from __future__ import annotations

from time import time
from typing import TYPE_CHECKING

from hanse.dispatch.choose import OUT_BATCH, OUT_E2E_MS, OUT_G, OUT_TTFT_MS, OUT_USD, OUT_WH
from hanse.dispatch.reasons import RETRY_LATER, Reason
from hanse.live.evidence.chain import Decided
from hanse.live.gateway import body as bodies
from hanse.live.gateway.answers import STATUS_LINES
from hanse.live.gateway.kernels import COUNT_MAX
from hanse.live.gateway.measured import METHOD_INDEX, Measured
from hanse.live.gateway.metrics import code_index
from hanse.live.gateway.notes import OUTCOMES
from hanse.live.gateway.records import ENDED, ENTRY_OUTCOME, METHOD
from hanse.live.gateway.shadow import LOST, REFUSED_LAW, REFUSED_OTHER, SERVED

if TYPE_CHECKING:
    from hanse.live.gateway.attempt import Attempt
    from hanse.live.gateway.entry import Entry
    from hanse.live.gateway.heads import KnownAnswer
    from hanse.live.gateway.kernels import Five, Kernels
    from hanse.live.gateway.ledger import Ledger

UNRECORDED = "no_evidence"
CANCELLED = 499
"""nginx's code for a client that left; only metrics ever see it."""
NO_FIGURES: Five = (0.0, 0.0, 0.0, 0.0, 0.0)
QUALITY_RULE = "hanse:quality-min"
"""Names the refusal where sites are eligible and only their variants are below what the class asks for."""

WITHDRAWN_RULE = "hanse:withdrawn"
"""Names the refusal where a new table, come meanwhile, no longer knows the key's class, country or service."""

_LAST_WORDS = (
    ENDED,
    ENTRY_OUTCOME["answered"],
    METHOD[METHOD_INDEX["modelled"]],
    METHOD[METHOD_INDEX["estimated"]],
)
_OUTCOME_INDEX = {name: i for i, name in enumerate(OUTCOMES)}


def goes_back(entry: Entry) -> bool:
    """A line of a batch that nobody could take now: asked again within a second, for hours perhaps. Nothing was decided of it yet."""
    return entry.deferrable and not entry.attempts and entry.status == 503


def refuse(entry: Entry, gate: int, now_s: float) -> None:
    """No offer (left): one answer that says why."""
    reason = _found(entry, Reason(gate))
    more: dict[str, object] = {}
    param = None
    if entry.attempts and not entry.refused_only and reason != Reason.TABLE_EXPIRED:
        entry.refusal = "upstream_failed"
        entry.status, message = 502, f"every attempt failed; the last: {entry.last_failure}"
    elif reason in (Reason.LAW, Reason.QUALITY):
        entry.refusal, entry.status = "no_eligible_site", 451
        table = entry.worker.routing.table
        entry.rules = (QUALITY_RULE,)
        if reason == Reason.LAW:
            known = entry.grant.table is table
            entry.rules = table.rules_denying(entry.grant.subject) if known else (WITHDRAWN_RULE,)
        message = "no site may process this request by law"
    elif reason == Reason.LENGTH:
        entry.refusal, entry.status = "context_length_exceeded", 400
        param, message = bodies.prompt_field(entry.head), _too_long(entry)
    elif reason == Reason.TABLE_EXPIRED:
        entry.refusal, entry.status = "no_table", 503
        message = "the routing table has expired; nothing is admitted"
    else:
        entry.refusal, entry.status = "no_room", 503
        message = f"no eligible site can take this request now ({reason.name.lower()})"
        shed = entry.worker.routing.shed_for(entry.grant.data_class)
        if shed is not None:
            step, cause = shed
            more["shed"] = {"rule": step.rule, "class": entry.grant.data_class, "cause": cause}
            entry.refusal = "power"
            message = f"this site is short of power ({cause}) and gives up {step.text}; no other eligible site can take it now"
        elif reason == Reason.POWER:
            entry.refusal = "power"
            message = "the only eligible sites are short of power and take no work of other sites"
    extra = entry.id_line()
    if entry.status == 503:
        extra += b"retry-after: 1\r\n" if reason in RETRY_LATER else b"retry-after: 5\r\n"
    if not goes_back(entry):
        entry.worker.ledger.after(_refused(entry, now_s))
    _answer(entry, message, extra, reason.name.lower(), more, param)


def _found(entry: Entry, reason: Reason) -> Reason:
    """Law and quality bar what is placed. Where what they let in only is not placed now, that is no matter of law: it may be placed again."""
    table, subject = entry.worker.routing.table, entry.grant.subject
    if reason not in (Reason.LAW, Reason.QUALITY) or entry.grant.table is not table:
        return reason
    if not table.lawful(subject, entry.worker.routing.origin):
        return reason
    quality_min = float(table.subjects[subject]["quality_min"])
    able = any(
        row["service"] == entry.service.index
        and row["replicas"] == 0
        and row["quality"] >= quality_min
        and table.lawful(subject, int(row["site"]))
        for row in table.offers
    )
    return Reason.DEAD if able else reason


def _too_long(entry: Entry) -> str:
    """How many tokens the engines take that the request may go to."""
    table, subject = entry.worker.routing.table, entry.grant.subject
    quality_min = float(table.subjects[subject]["quality_min"])
    lengths = [
        int(row["request_tokens_max"])
        for row in table.offers
        if row["service"] == entry.service.index
        and row["replicas"] > 0
        and row["quality"] >= quality_min
        and table.lawful(subject, int(row["site"]))
    ]
    return (
        f"the prompt has about {entry.tokens_in} tokens (reckoned from its bytes); "
        f"{entry.service.id} takes {max(lengths, default=0)}, answer included; send a shorter one"
    )


def refuse_unrecorded(entry: Entry) -> None:
    """The chain could not be written: nothing goes on, and nothing can be recorded."""
    entry.refusal, entry.status = UNRECORDED, 503
    message = "the decision log cannot be written"
    if entry.worker.ledger.refusing:
        message = "this site's disk is full: nothing is served that could not be put on record"
    extra = entry.id_line() + b"retry-after: 30\r\n"
    _answer(entry, message, extra, "evidence")


def answer_plain(entry: Entry, attempt: Attempt, known: KnownAnswer, data: bytes) -> bool:
    """A whole 200 of the only attempt, from a local engine. False, and nothing was done: end it as any other."""
    worker, service, engine = entry.worker, entry.service, attempt.counted
    routing = worker.routing
    load = routing.load
    if (
        engine is None
        or attempt.load is not load
        or len(entry.attempts) != 1
        or worker.log is not None  # the input log wants to know how it ended
    ):
        return False
    now_s = time()
    measured = Measured.of(bodies.usage_of(data), entry.tokens_in, 0)
    tokens_in, tokens_out = measured.tokens_in, measured.tokens_out
    offer, f, tokens = attempt.offer, attempt.figures, attempt.tokens_counted
    index = offer.index
    engine.answered()
    if tokens_out > 0:
        service.seen_tokens_out(tokens_out)
        routing.observed(attempt, 0.0, (now_s - attempt.began_at_s) * 1000.0, tokens_out)
    if entry.prefixes is not None:
        worker.affinity.ended(entry, attempt, measured, now_s)
    kernels = worker.kernels
    packed = routing.end_plain(
        routing.places,
        routing.executing,
        kernels.row,
        kernels.notes,
        (routing.worker, engine.index, index, tokens, attempt.prefill_told),
        (f[OUT_TTFT_MS], f[OUT_E2E_MS], f[OUT_WH], f[OUT_G], f[OUT_USD]),
        f[OUT_BATCH],
        (
            entry.started_at_s,
            now_s,
            engine.share_wh - attempt.share_wh if engine.estimated else -1.0,
            service.usd_per_g,
        ),
        (tokens_in, measured.cached, tokens_out),
        (entry.request_id, entry.grant.key.mark, *_LAST_WORDS),
        kernels.buffer,
        kernels.made,
    )
    routing.kernels.end(load.own, routing.worker, index, attempt.prefill_counted, tokens)
    size = packed & 0xFFFF
    link = entry.link
    link.transport.write(
        b"%b%b%b%d\r\nx-request-id: %b\r\n%b%b%b%b"
        % (
            STATUS_LINES[200],
            link.door.date_line,
            known.opening,
            len(data),
            entry.id_hex,
            offer.lines,
            kernels.view[:size].tobytes(),
            b"connection: close\r\n\r\n" if link.close_after or not link.keep_alive else b"\r\n",
            data,
        )
    )
    worker.ledger.after_sized(kernels.view[size : size + (packed >> 16)].tobytes())
    attempt.won = attempt.settled = entry.finished = True
    attempt.load = attempt.counted = attempt.out = None
    worker.waiting.discard(attempt)
    worker.running.discard(entry)
    if worker.feed.wanted():
        _tell(entry, measured, kernels.made.tolist())
    entry.attempts = []
    link.ended()
    return True


def _tell(entry: Entry, measured: Measured, five: list[float]) -> None:
    """A row for people, of figures that were only written down so far."""
    measured.ttft_ms, measured.e2e_ms = five[:2]
    measured.energy_wh, measured.carbon_g, measured.cost_usd = five[2:]
    engine = entry.worker.routing.local[entry.attempts[0].engine]
    measured.method = "estimated" if engine.estimated else "modelled"
    entry.status, entry.measured = 200, measured
    entry.worker.feed.send_entry(entry, "answered")


class Books:
    """Writes down what ended: counters, the note for its client, the last record."""

    __slots__ = ("_kernels", "_ledger")

    def __init__(self, kernels: Kernels, ledger: Ledger) -> None:
        self._kernels = kernels
        self._ledger = ledger

    def add(self, entry: Entry, outcome: str, now_s: float) -> None:
        """One request ended, however that was."""
        winner, attempts, measured = entry.winner, entry.attempts, entry.measured
        if entry.refusal == UNRECORDED:
            # An end without a decision would look like a request whose log was cut.
            attempts = [attempt for attempt in attempts if not attempt.unrecorded]
        last = winner or (attempts[-1] if attempts else None)
        five = predicted = NO_FIGURES
        tokens_in = tokens_out = method = 0
        e2e_s = ttft_s = -1.0
        if measured is not None:
            five, method = measured.five(), METHOD_INDEX[measured.method]
            tokens_in, tokens_out = measured.tokens_in, measured.tokens_out
            e2e_s = now_s - entry.started_at_s
            if entry.tap is not None and entry.first_byte_at_s:
                ttft_s = entry.first_byte_at_s - entry.started_at_s
        if last is not None:
            predicted = predicted_of(last.figures)
        tokens_in = min(max(tokens_in, 0), COUNT_MAX)
        tokens_out = min(max(tokens_out, 0), COUNT_MAX)
        status = code_index(CANCELLED if outcome == "cancelled" else entry.status or 504)
        result = _result(outcome, entry.refusal)
        if entry.deferrable and result != SERVED and entry.status >= 500:
            result = -1  # its batch sends the line again: how it ends is not known yet
        kernels, request_id = self._kernels, entry.request_id
        kernels.count(
            kernels.row, status, result, tokens_in, tokens_out, predicted, five, e2e_s, ttft_s
        )
        shown = _OUTCOME_INDEX["refused" if entry.refusal and not attempts else outcome]
        offer = -1 if last is None else last.offer.index
        numbers = (offer, len(attempts), shown, method, tokens_in, tokens_out)
        mark, begun_at_s = entry.grant.key.mark, entry.started_at_s
        kernels.note(kernels.notes, request_id, mark, begun_at_s, numbers, predicted, five)
        if last is not None:
            size = kernels.ended(
                ENDED, request_id, now_s, ENTRY_OUTCOME[outcome], 0 if winner is None else winner.number,
                len(attempts), tokens_in, tokens_out, five, METHOD[method], kernels.buffer,
            )  # fmt: skip
            self._ledger.after_sized(kernels.view[:size].tobytes())


def predicted_of(figures: list[float]) -> Five:
    """The five figures of a prediction."""
    f = figures
    return (f[OUT_TTFT_MS], f[OUT_E2E_MS], f[OUT_WH], f[OUT_G], f[OUT_USD])


def _result(outcome: str, refusal: str) -> int:
    """Index of `metrics.RESULTS`; -1 for a client that left."""
    if outcome == "answered":
        return SERVED
    if refusal == "no_eligible_site":
        return REFUSED_LAW
    if refusal in ("no_room", "power", "context_length_exceeded", "no_table"):
        return REFUSED_OTHER
    return -1 if outcome == "cancelled" else LOST


def _answer(
    entry: Entry,
    message: str,
    extra: bytes,
    gate: str,
    more: dict[str, object] | None = None,
    param: str | None = None,
) -> None:
    hanse: dict[str, object] = {"request_id": entry.request_id.hex(), "gate": gate} | (more or {})
    if entry.rules:
        hanse["rules"] = list(entry.rules)
    entry.finish("failed")
    entry.link.refuse(entry.status, entry.refusal, message, extra=extra, param=param, hanse=hanse)


def _refused(entry: Entry, now_s: float) -> Decided:
    grant, meta = entry.grant, entry.worker.routing.table.meta
    return Decided(
        request_id=entry.request_id,
        at_s=now_s,
        attempt=len(entry.attempts) + 1,
        key_id=grant.key.id,
        tenant=grant.key.tenant,
        data_class=grant.data_class,
        country=grant.country,
        subject_row=grant.subject,
        service=entry.service.id,
        entry_site=entry.worker.site,
        site="",
        variant="",
        refusal=entry.refusal,
        rules=entry.rules,
        table_version=meta.version,
        epoch=meta.epoch,
    )

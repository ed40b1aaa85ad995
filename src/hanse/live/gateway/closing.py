"""How a request at its entry site ends: refusals that say why, the last record, sums, rows for people.

Here: refusals, and `Books`. Not here: trying (`entry`), what a request took (`measured`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hanse.dispatch.choose import OUT_E2E_MS, OUT_G, OUT_TTFT_MS, OUT_USD, OUT_WH
from hanse.dispatch.reasons import RETRY_LATER, Reason
from hanse.live.evidence.chain import Decided
from hanse.live.gateway.metrics import (
    CARBON_G,
    COST,
    COST_USD,
    E2E,
    ENERGY_WH,
    LEAGUE,
    TOKENS_IN,
    TOKENS_OUT,
    TTFT,
    Counts,
)
from hanse.live.gateway.notes import METHODS, OUTCOMES, Notes
from hanse.live.gateway.records import ended_raw
from hanse.live.gateway.shadow import LOST, REFUSED_LAW, REFUSED_OTHER, SERVED

if TYPE_CHECKING:
    from hanse.live.gateway.entry import Entry
    from hanse.live.gateway.ledger import Ledger
    from hanse.live.gateway.measured import Five, Measured

CANCELLED = 499
"""nginx's code for a client that left; only metrics ever see it."""
NO_FIGURES: Five = (0.0, 0.0, 0.0, 0.0, 0.0)
QUALITY_RULE = "hanse:quality-min"
"""Names the refusal where sites are eligible and only their variants are below what the class asks for."""

WITHDRAWN_RULE = "hanse:withdrawn"
"""Names the refusal where a new table, come meanwhile, no longer knows the key's class, country or service."""

BATCH = 32
_End = tuple[
    bytes,
    bytes,
    float,
    float,
    str,
    int,
    str,
    int,
    int,
    "list[float] | None",
    int,
    float,
    "Measured | None",
]
_METHOD_INDEX = {name: i for i, name in enumerate(METHODS)}
_OUTCOME_INDEX = {name: i for i, name in enumerate(OUTCOMES)}
_MEASURED = COST["league_measured"]
_PREDICTED = COST["league_predicted"]


def refuse(entry: Entry, gate: int, now_s: float) -> None:
    """No offer (left): one answer that says why."""
    reason = Reason(gate)
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
        message = f"the prompt (about {entry.tokens_in} tokens) is longer than any engine takes"
    elif reason == Reason.TABLE_EXPIRED:
        entry.refusal, entry.status = "no_table", 503
        message = "the routing table has expired; nothing is admitted"
    else:
        entry.refusal, entry.status = "no_room", 503
        message = f"no eligible site can take this request now ({reason.name.lower()})"
    extra = entry.id_line()
    if entry.status == 503:
        extra += b"retry-after: 1\r\n" if reason in RETRY_LATER else b"retry-after: 5\r\n"
    entry.worker.ledger.after(_refused(entry, now_s))
    _answer(entry, message, extra, reason.name.lower())


def refuse_unrecorded(entry: Entry) -> None:
    """The chain could not be written: nothing goes on, and nothing can be recorded."""
    entry.refusal, entry.status = "no_evidence", 503
    _answer(entry, "the decision log cannot be written", entry.id_line(), "evidence")


class Books:
    """What ended and is not written down yet.

    Requests are booked a few dozen at a time, and at every tick: the code that does it stays in the processor's caches, which
    costs a third of doing it request by request. Load is given back at once, not here.
    """

    def __init__(self, counts: Counts, notes: Notes, ledger: Ledger) -> None:
        self._counts = counts
        self._notes = notes
        self._ledger = ledger
        self._ended: list[_End] = []

    def add(self, entry: Entry, outcome: str, now_s: float) -> None:
        """One request ended."""
        winner, attempts, measured = entry.winner, entry.attempts, entry.measured
        last = winner or (attempts[-1] if attempts else None)
        self._ended.append(
            (
                entry.request_id,
                entry.grant.key.mark,
                entry.started_at_s,
                now_s,
                outcome,
                CANCELLED if outcome == "cancelled" else entry.status or 504,
                entry.refusal,
                len(attempts),
                -1 if last is None else last.offer.index,
                None if last is None else last.figures,
                0 if winner is None else winner.number,
                entry.first_byte_at_s if entry.tap is not None else 0.0,
                measured,
            )
        )
        if len(self._ended) >= BATCH:
            self.fold()

    def fold(self) -> None:
        """Write everything down."""
        ended, self._ended = self._ended, []
        for end in ended:
            self._book(*end)

    def _book(
        self,
        request_id: bytes,
        mark: bytes,
        started_at_s: float,
        now_s: float,
        outcome: str,
        status: int,
        refusal: str,
        attempts: int,
        offer: int,
        figures: list[float] | None,
        winner: int,
        first_byte_at_s: float,
        measured: Measured | None,
    ) -> None:
        counts = self._counts
        counts.answered(status)
        five = predicted = NO_FIGURES
        tokens_in = tokens_out = 0
        method = ""
        if measured is not None:
            five = measured.five()
            tokens_in, tokens_out = measured.tokens_in, measured.tokens_out
            method = measured.method
            counts.observe(E2E, now_s - started_at_s)
            if first_byte_at_s:
                counts.observe(TTFT, first_byte_at_s - started_at_s)
        if figures is not None:
            predicted = predicted_of(figures)
            self._ledger.after_raw(
                ended_raw(
                    request_id,
                    now_s,
                    outcome,
                    winner,
                    attempts,
                    tokens_in,
                    tokens_out,
                    five,
                    method,
                )
            )
        _count(counts.row, outcome, refusal, tokens_in, tokens_out, five, predicted)
        shown = "refused" if refusal and not attempts else outcome
        self._notes.write(
            request_id,
            mark,
            started_at_s,
            offer,
            attempts,
            _OUTCOME_INDEX[shown],
            _METHOD_INDEX[method],
            tokens_in,
            tokens_out,
            predicted,
            five,
        )


def predicted_of(figures: list[float]) -> Five:
    """The five figures of a prediction."""
    f = figures
    return (f[OUT_TTFT_MS], f[OUT_E2E_MS], f[OUT_WH], f[OUT_G], f[OUT_USD])


def _count(
    row: list[float],
    outcome: str,
    refusal: str,
    tokens_in: int,
    tokens_out: int,
    five: Five,
    predicted: Five,
) -> None:
    row[TOKENS_IN] += tokens_in
    row[TOKENS_OUT] += tokens_out
    row[ENERGY_WH] += five[2]
    row[CARBON_G] += five[3]
    row[COST_USD] += five[4]
    if outcome == "answered":
        row[LEAGUE + SERVED] += 1.0
        for i in (0, 1, 2, 3, 4):
            row[_MEASURED + i] += five[i]
            row[_PREDICTED + i] += predicted[i]
    elif refusal == "no_eligible_site":
        row[LEAGUE + REFUSED_LAW] += 1.0
    elif refusal in ("no_room", "context_length_exceeded", "no_table"):
        row[LEAGUE + REFUSED_OTHER] += 1.0
    elif outcome != "cancelled":
        row[LEAGUE + LOST] += 1.0


def _answer(entry: Entry, message: str, extra: bytes, gate: str) -> None:
    hanse: dict[str, object] = {"request_id": entry.request_id.hex(), "gate": gate}
    if entry.rules:
        hanse["rules"] = list(entry.rules)
    entry.finish("failed")
    entry.link.refuse(entry.status, entry.refusal, message, extra=extra, hanse=hanse)


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

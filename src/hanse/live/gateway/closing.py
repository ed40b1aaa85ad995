"""How a request at its entry site ends: refusals that say why, the last record, sums, rows for people.

Here: functions over `Entry`. Not here: trying (`entry`), what a request took (`measured`).
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
    ENERGY_WH,
    LEAGUE,
    TOKENS_IN,
    TOKENS_OUT,
)
from hanse.live.gateway.notes import METHODS, OUTCOMES
from hanse.live.gateway.records import ended_raw
from hanse.live.gateway.shadow import LOST, REFUSED_LAW, REFUSED_OTHER, SERVED

if TYPE_CHECKING:
    from hanse.live.gateway.entry import Entry
    from hanse.live.gateway.measured import Five

CANCELLED = 499
"""nginx's code for a client that left; only metrics ever see it."""
NO_FIGURES: Five = (0.0, 0.0, 0.0, 0.0, 0.0)
QUALITY_RULE = "hanse:quality-min"
"""Names the refusal where sites are eligible and only their variants are below what the class asks for."""

WITHDRAWN_RULE = "hanse:withdrawn"
"""Names the refusal where a new table, come meanwhile, no longer knows the key's class, country or service."""

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


def close(entry: Entry, outcome: str, now_s: float) -> None:
    """The last record, sums, the note, the row: once per request, however it ended."""
    worker, winner, measured = entry.worker, entry.winner, entry.measured
    attempts = entry.attempts
    worker.counts.answered(CANCELLED if outcome == "cancelled" else entry.status or 504)
    five = predicted = NO_FIGURES
    tokens_in = tokens_out = 0
    method = ""
    if measured is not None:
        five = measured.five()
        tokens_in, tokens_out = measured.tokens_in, measured.tokens_out
        method = measured.method
    offer = -1
    if attempts:
        last = winner or attempts[-1]
        f = last.figures
        predicted = (f[OUT_TTFT_MS], f[OUT_E2E_MS], f[OUT_WH], f[OUT_G], f[OUT_USD])
        offer = last.offer.index
        worker.ledger.after_raw(
            ended_raw(
                entry.request_id,
                now_s,
                outcome,
                winner.number if winner is not None else 0,
                len(attempts),
                tokens_in,
                tokens_out,
                five,
                method,
            )
        )
    _count(entry, outcome, tokens_in, tokens_out, five, predicted)
    worker.notes.write(
        entry.request_id,
        entry.grant.key.mark,
        entry.started_at_s,
        offer,
        len(attempts),
        _OUTCOME_INDEX["refused" if entry.refusal and not attempts else outcome],
        _METHOD_INDEX[method],
        tokens_in,
        tokens_out,
        predicted,
        five,
    )
    if worker.feed.wanted():
        worker.feed.send_entry(entry, outcome, predicted, five)


def _count(
    entry: Entry, outcome: str, tokens_in: int, tokens_out: int, five: Five, predicted: Five
) -> None:
    row = entry.worker.counts.row
    if entry.measured is not None:
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
    elif entry.refusal == "no_eligible_site":
        row[LEAGUE + REFUSED_LAW] += 1.0
    elif entry.refusal in ("no_room", "context_length_exceeded", "no_table"):
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

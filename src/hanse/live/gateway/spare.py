"""Spare room for work that may wait, and giving it back as soon as somebody wants an answer.

Here: how much room counts as spare, which line leaves an engine, what it took until then. Not here: where lines come in (`deferred`), a
line's serving side (`hop`).

Rule. A line begins only where all requests of an offer, this one with them, are at most `SPARE_SHARE` of its slots (one at least). A
line in flight gives way as soon as its engine holds more requests than slots, so that one of them would have to queue: at the next
tick, 20 ms, its connection to the engine is closed, which makes the engine stop. The two bounds differ, so that a single visitor does
not undo a line that was in nobody's way. A site that is short of power gives lines up before anything else (`dispatch.shed`).
"""

from __future__ import annotations

from time import time
from typing import TYPE_CHECKING

from hanse.dispatch.choose import OUT_E2E_MS
from hanse.live.gateway.measured import Measured
from hanse.live.gateway.metrics import LINES_YIELDED

if TYPE_CHECKING:
    from hanse.live.gateway.attempt import Attempt
    from hanse.live.gateway.deferred import Line
    from hanse.live.gateway.engines import Engine
    from hanse.live.gateway.exchange import Exchange
    from hanse.live.gateway.hop import Hop
    from hanse.live.gateway.routing import OfferRow, Routing
    from hanse.live.gateway.worker import Worker

SPARE_SHARE = 0.75
"""Of an offer's slots that lines may bring it to: the last quarter is free when somebody comes, as hedges stop at four fifths."""


def spare_requests(slots: float, replicas: float = 1.0) -> float:
    """How many requests an offer or engine may hold, a new line with them."""
    return max(1.0, float(int(SPARE_SHARE * slots * replicas))) if replicas > 0 else 0.0


def offer_has_spare(routing: Routing, offer: OfferRow) -> bool:
    """Whether one more request leaves the offer's last quarter free, as far as is known here."""
    load = routing.load
    row = load.offers[offer.index]
    own = int(load.own[:, offer.index]["requests"].sum())
    requests = max(float(row["requests"]) + own - int(row["own_requests_at"]), float(own))
    return requests + 1.0 <= spare_requests(offer.slots, float(row["replicas"]))


def engine_has_spare(engine: Engine, offer: OfferRow, shed_level: int) -> bool:
    """The same of one local engine, at a site that has the power for it."""
    return shed_level == 0 and engine.running + 1 <= spare_requests(offer.slots)


def spent_wh(exchange: Exchange, attempt: Attempt) -> float:
    """Wh of an attempt that is given up now: its share of the engine's power, else its prompt and what it may have written."""
    routing = exchange.worker.routing
    engine = attempt.counted
    if engine is None:
        return prompt_wh(attempt, routing, exchange.tokens_in)
    if engine.estimated:
        return (engine.share_wh - attempt.share_wh) * routing.sites[attempt.offer.site_index].pue
    predicted_s = attempt.figures[OUT_E2E_MS] / 1000.0
    share = (time() - attempt.began_at_s) / predicted_s if predicted_s > 0.0 else 1.0
    written = int(exchange.tokens_out * min(1.0, share))
    return routing.local_wh(attempt, exchange.tokens_in, 0, written)


def prompt_wh(attempt: Attempt, routing: Routing, tokens_in: int) -> float:
    """At least its prompt was read, as for any attempt that is lost from sight."""
    pue = routing.sites[attempt.offer.site_index].pue
    return attempt.offer.prefill_wh_per_token * tokens_in * pue


def make_room(worker: Worker) -> None:
    """Every tick with lines in flight: the newest line leaves an engine that holds more requests than slots."""
    short = worker.routing.shed_level > 0
    newest: dict[int, tuple[float, Line | Hop, Attempt]] = {}
    for exchange in worker.deferred:
        for attempt in exchange.attempts:
            if attempt.engine >= 0 and attempt.reached and not (attempt.settled or attempt.won):
                known = newest.get(attempt.engine)
                if known is None or attempt.began_at_s > known[0]:
                    newest[attempt.engine] = (attempt.began_at_s, exchange, attempt)
    for number, (_, exchange, attempt) in newest.items():
        if short or worker.engines[number].running > attempt.offer.slots:
            worker.counts.row[LINES_YIELDED] += 1.0
            exchange.give_way(attempt)


def charge_given_up(hop: Hop, attempt: Attempt) -> Measured:
    """What a forwarded line took at this site until it gave way."""
    measured = Measured(hop.tokens_in, 0)
    measured.energy_wh = spent_wh(hop, attempt)
    engine = attempt.counted
    measured.method = "estimated" if engine is not None and engine.estimated else "modelled"
    measured.e2e_ms = (time() - hop.started_at_s) * 1000.0
    service = hop.worker.routing.service_named[hop.envelope.service]
    measured.price(attempt, hop.worker.routing, service.usd_per_g, 0)
    return measured

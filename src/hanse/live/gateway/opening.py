"""How the common request begins: a head that was read before, a local engine at the first try.

Here: what `doors` and `entry` do from the head to the record, in two straight stretches without a call that is not needed: each
one saved is a tenth of a microsecond. Not here: anything out of the ordinary. That is handed to those modules before anything was
done of it, so one place says why a request is refused or tried elsewhere. Its end is in `closing`.
"""

from __future__ import annotations

from binascii import hexlify
from time import time
from typing import TYPE_CHECKING

from hanse.live.gateway import body as bodies
from hanse.live.gateway.affinity import PROMPT_TOKENS_MIN
from hanse.live.gateway.attempt import Attempt
from hanse.live.gateway.entry import Entry
from hanse.live.gateway.incoming import BUSY
from hanse.live.gateway.metrics import ATTEMPTS_LOCAL

if TYPE_CHECKING:
    from hanse.live.gateway.heads import KnownHead
    from hanse.live.gateway.incoming import Incoming
    from hanse.live.gateway.routing import Routing
    from hanse.live.gateway.worker import Worker

_NONE_TRIED: list[int] = []


def begin(worker: Worker, link: Incoming, known: KnownHead, body: bytes) -> bool:
    """A whole request with a known head. False, and nothing was done: read it as any other."""
    grant, now_s = known.grant, time()
    policy = worker.policy_or_none
    if (
        policy is None
        or grant.table is not policy.table
        or not now_s <= policy.valid_until_s
        or known.length > worker.body_bytes_max
        or grant.key.admit(now_s) > 0.0
    ):
        return False
    link.known = known
    link.method, link.path, link.query, link.headers = (
        b"POST",
        known.path,
        known.query,
        known.headers,
    )
    link.grant = grant
    link.keep_alive = True
    link.body = body
    link.state = BUSY
    routing = worker.routing
    try:
        head = bodies.read_head(body)
    except bodies.BadBody:
        head = None
    service = None if head is None else routing.service_named.get(head.model)
    if (
        head is None
        or service is None
        or service.id not in grant.key.services
        or known.endpoint not in service.endpoints
        or len(body) > service.body_bytes_max
    ):
        worker.client_door.begin(link, known.endpoint)  # which says why not
        return True
    worker.requests_begun += 1
    ids = worker.ids.ready
    request_id = ids.pop() if ids else worker.ids.make()
    entry = Entry(
        worker,
        link,
        request_id,
        hexlify(request_id),
        now_s,
        now_s + service.deadline_s,
        head,
        known.path,
        body,
        bodies.tokens_in(head),
        service.guess_tokens_out(bodies.tokens_out_max(head)),
        drop_usage=bodies.wants_usage_splice(head) if head.stream else False,
        grant=grant,
        service=service,
    )
    go(entry, routing, known, now_s)
    return True


def go(entry: Entry, routing: Routing, known: KnownHead | None, now_s: float) -> None:
    """A request that may be answered: ask the shadow, then make the first attempt."""
    worker, service, grant = entry.worker, entry.service, entry.grant
    entry.link.running = entry
    worker.running.add(entry)
    if service.prefixes and entry.tokens_in >= PROMPT_TOKENS_MIN:
        entry.prefixes = worker.affinity.prefixes(entry.head, grant.key.tenant, service.id)
    request = (
        float(entry.tokens_in),
        float(entry.tokens_out),
        service.deadline_s * 1000.0,
        float(len(entry.body)),
    )
    if worker.shadow is not None:
        entry.verdict = worker.shadow.ask(service.index, grant.subject, request, now_s)
    if not _go_local(entry, routing, known, request, now_s):
        entry.seek(now_s)


def _go_local(
    entry: Entry,
    routing: Routing,
    known: KnownHead | None,
    request: tuple[float, float, float, float],
    now_s: float,
) -> bool:
    """The first attempt, at a local engine; False where the choice is not that simple."""
    worker, service, grant = entry.worker, entry.service, entry.grant
    tokens_in = entry.tokens_in
    tokens = tokens_in + entry.tokens_out
    cached, prefixes = None, entry.prefixes
    if prefixes is not None and service.spread:
        cached = worker.affinity.sites.held(prefixes, now_s)
    router = routing.router
    index = router.ask(service.index, grant.subject, request, now_s, _NONE_TRIED, cached)
    offer = routing.offers[index] if index >= 0 else None
    number = -1
    if offer is not None and offer.engines:
        held = routing.none_held
        if prefixes is not None and len(offer.engines) > 1:
            held = worker.affinity.engines.held(prefixes, now_s)
        number = routing.choose_engine(*routing.replicas, index, request[0], request[1], held)
    if offer is None or number < 0:
        return False
    figures = router.figures()
    engine = routing.local[number]
    late_s, hedge_s = entry.patience_s(figures)
    load = routing.load
    attempt = Attempt(
        entry,
        offer,
        number,
        engine.target,
        1,
        figures,
        now_s,
        now_s + late_s,
        now_s + hedge_s,
        load,
        engine,
        tokens,
        tokens_in,
        tokens_in,
        engine.share_wh,
    )
    if known is not None and offer.served_model == entry.head.model and not entry.drop_usage:
        attempt.request = b"%b%b%b%b" % (
            known.post_head(engine.target),
            entry.id_hex,
            known.post_tail,
            entry.body,
        )
    if prefixes is not None:
        worker.affinity.sent(attempt, prefixes, spread=service.spread)
    entry.attempts.append(attempt)
    worker.waiting.add(attempt)
    routing.kernels.begin(load.own, routing.worker, index, tokens_in, tokens)
    routing.kernels.arrived(load.services, service.index, routing.share, now_s)
    routing.hand_over(*routing.handed, routing.worker, number, tokens, tokens_in)
    worker.counts.row[ATTEMPTS_LOCAL] += 1.0
    records = offer.first_local.get((grant, number)) or routing.first_local(grant, offer, number)
    worker.ledger.before_sized(records.pack(entry.request_id, now_s, figures), 2, attempt)
    return True

"""What the two ports do with requests: who may come in, and what each path means.

Here: `ClientDoor` (keys, classes, countries, entry law, before a byte of the body is read) and `HopDoor` (envelopes). Not here: HTTP
itself (`incoming`), a request's life after it was let in (`entry`, `hop`), the small GET answers (`desk`).
"""

from __future__ import annotations

import ssl
from functools import partial
from hashlib import sha256
from os import urandom
from time import time
from typing import TYPE_CHECKING

from hanse.live.evidence.chain import Decided
from hanse.live.gateway import body as bodies
from hanse.live.gateway import opening, tunnel
from hanse.live.gateway.answers import date_line
from hanse.live.gateway.entry import Entry
from hanse.live.gateway.heads import Heads, KnownHead
from hanse.live.gateway.hop import Hop, barred, turn_away
from hanse.live.gateway.metrics import CENTRAL, LEAGUE
from hanse.live.gateway.shadow import REFUSED_LAW
from hanse.live.identity import (
    Envelope,
    EnvelopeRefused,
    HopSession,
    open_envelope,
    peer_session,
)
from hanse.live.shared import DISK_LOW

if TYPE_CHECKING:
    from hanse.live.gateway.incoming import Incoming
    from hanse.live.gateway.policy import Grant
    from hanse.live.gateway.worker import Worker

ENDPOINTS = {
    b"/v1/chat/completions": "chat",
    b"/v1/completions": "completions",
    b"/v1/embeddings": "embeddings",
}
SMALL_BODY_BYTES = 64 * 1024
"""Cap of bodies that are no inference requests."""
PATHS = {kind: path.decode() for path, kind in ENDPOINTS.items()}
ALLOW_POST = b"allow: POST, OPTIONS\r\n"
ALLOW_GET = b"allow: GET, HEAD, OPTIONS\r\n"
READING = (b"GET", b"HEAD")
THERE_ARE = ", ".join((*PATHS.values(), "/v1/models", "/v1/files, /v1/batches"))
"""For who asks for something else."""


class Ids:
    """Request ids: 16 random bytes. Never the client's: one id names one request in the evidence, whoever repeats theirs."""

    __slots__ = ("ready",)

    def __init__(self) -> None:
        self.ready: list[bytes] = []

    def make(self) -> bytes:
        """A new id; randomness is fetched for 256 at a time."""
        ready = self.ready
        if not ready:
            pool = urandom(4096)
            ready += [pool[at : at + 16] for at in range(0, 4096, 16)]
        return ready.pop()


class ClientDoor:
    """The client port."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self.limits = worker.settings.limits
        self.open_connections: set[Incoming] = set()
        self.date_line = date_line(time())
        self.heads = Heads(KnownHead.resized)
        self.known_read = partial(opening.begin, worker)

    # --- headers are complete

    def head_read(self, link: Incoming) -> None:
        if link.path in ENDPOINTS:
            if link.method == b"POST":
                self._admit(link)
            else:
                self._other_method(link, ALLOW_POST)
            return
        if link.path.startswith(tunnel.PATHS):
            self._batch(link)
            return
        desk = self.worker.desk
        if desk.is_post(link.path):
            link.body_bytes_max = SMALL_BODY_BYTES
            if link.method != b"POST":
                self._other_method(link, ALLOW_POST)
        elif not desk.is_get(link.path):
            self.worker.counts.answered(404)
            shown = link.path.decode("latin-1")[:200]
            link.refuse(404, "not_found", f"no such path: {shown}; there are {THERE_ARE}")
        elif link.method not in READING:
            self._other_method(link, ALLOW_GET)

    def _other_method(self, link: Incoming, allow: bytes) -> None:
        if link.method == b"OPTIONS":
            return
        self.worker.counts.answered(405)
        methods = allow.decode().partition(":")[2].strip()
        message = f"{link.path.decode('latin-1')[:200]} takes {methods}, not {link.method.decode('latin-1')}"
        link.refuse(405, "method_not_allowed", message, extra=allow)

    def _admit(self, link: Incoming) -> None:
        """Everything that can be said without the body. An ineligible entry must not read it."""
        worker = self.worker
        policy, now_s = worker.policy_or_none, time()
        grant = None
        if policy is not None and now_s <= policy.valid_until_s:
            grant = policy.grant_for(link.headers)
        if grant is None:
            grant = worker.desk.grant_of(link)  # which says why not
            if grant is None:
                return
        link.grant = grant
        wait_s = grant.key.admit(now_s)
        if wait_s > 0.0:
            worker.counts.answered(429)
            link.refuse(
                429,
                "rate_limit_exceeded",
                f"this key may send {grant.key.meta.requests_per_s_max:g} requests a second",
                extra=b"retry-after: %d\r\n" % max(1, round(wait_s + 0.5)),
            )
            return
        if not grant.entry_lawful:
            self._not_here(link, grant)
            return
        link.body_bytes_max = worker.body_bytes_max

    def _batch(self, link: Incoming) -> None:
        """Files and batches: who may ask is asked as for any request, then the batch process has it."""
        if link.method not in tunnel.METHODS:
            self._other_method(link, tunnel.allow(link.path))
            return
        more = link.method == b"POST" and link.path in tunnel.PATHS
        if more and self.worker.disk_level >= DISK_LOW:
            message = "this site's disk is low: it takes no more files and batches now"
            link.refuse(503, "disk_low", message, extra=b"retry-after: 30\r\n")
            return
        self._admit(link)
        if link.grant is not None and not link.refused:
            grant = link.grant
            names = tunnel.Asker(grant.key.tenant, grant.key.id, grant.data_class, grant.country)
            tunnel.hand_over(self.worker, link, names)

    def _not_here(self, link: Incoming, grant: Grant) -> None:
        """421 with the nearest gateway that may read it, or 451 where no site may."""
        worker = self.worker
        routing = worker.routing
        request_id = worker.ids.make()
        entries = routing.router.lawful_entries(grant.subject)
        rules = routing.table.rules(grant.subject, routing.origin)
        status, code = (421, "entry_not_eligible") if entries else (451, "no_eligible_site")
        if not entries:
            rules = routing.table.rules_denying(grant.subject)
            worker.counts.row[LEAGUE + REFUSED_LAW] += 1.0
            if worker.shadow is not None:
                worker.counts.row[CENTRAL + REFUSED_LAW] += 1.0
        record = Decided(
            request_id=request_id,
            at_s=time(),
            attempt=1,
            key_id=grant.key.id,
            tenant=grant.key.tenant,
            data_class=grant.data_class,
            country=grant.country,
            subject_row=grant.subject,
            service="",
            entry_site=worker.site,
            site="",
            variant="",
            refusal=code,
            rules=rules,
            table_version=routing.table.meta.version,
            epoch=routing.table.meta.epoch,
        )
        worker.ledger.after(record)
        worker.counts.answered(status)
        if worker.feed.wanted():
            worker.feed.send_refusal(record)
        hanse: dict[str, object] = {"request_id": request_id.hex(), "rules": list(rules)}
        if entries:
            url = worker.around.urls.get(entries[0], "")
            hanse |= {"gateway": {"site": entries[0], "url": url}}
            message = f"this gateway may not read this request; ask {entries[0]} {url}".rstrip()
        else:
            message = "no site may process this request by law"
        extra = b"x-request-id: " + request_id.hex().encode() + b"\r\n"
        link.refuse(status, code, message, extra=extra, hanse=hanse)

    # --- the body is complete

    def request_read(self, link: Incoming) -> None:
        endpoint = ENDPOINTS.get(link.path)
        if link.method == b"OPTIONS":
            posts = endpoint is not None or self.worker.desk.is_post(link.path)
            allow = ALLOW_POST if posts else ALLOW_GET
            if link.path.startswith(tunnel.PATHS):
                allow = tunnel.allow(link.path)
            link.answer(204, b"", extra=allow)
        elif endpoint is not None:
            self.begin(link, endpoint)
        elif isinstance(link.running, tunnel.Tunnel):
            link.running.body_ended()
        else:
            self.worker.desk.answer(link)

    def begin(self, link: Incoming, endpoint: str) -> None:
        """A whole inference request is here: refuse it, or try to have it answered."""
        worker = self.worker
        # The body took its time: a new table may have come, in which rows mean other things.
        grant: Grant | None = link.grant
        if grant is not None and grant.table is not worker.policy.table:
            grant = worker.policy.current(grant)
        if grant is None:
            self._bad(link, 403, "not_allowed_any_more", "the key lost this class or country", None)
            return
        if not grant.entry_lawful:
            self._not_here(link, grant)
            return
        kind = link.headers.get(b"content-type")
        if kind is not None and b"json" not in kind.lower():
            message = f"content-type is {kind.decode('latin-1')[:64]!r}; send application/json"
            self._bad(link, 415, "unsupported_media_type", message, None)
            return
        try:
            head = bodies.read_head(link.body)
        except bodies.BadBody as error:
            self._bad(link, 400, "invalid_request", error.message, error.param)
            return
        service = worker.routing.service_named.get(head.model)
        if service is None or service.id not in grant.key.services:
            message = worker.desk.no_model(head.model, grant)
            self._bad(link, 404, "model_not_found", message, "model")
        elif endpoint not in service.endpoints:
            paths = ", ".join(PATHS[kind] for kind in sorted(service.endpoints))
            message = f"{service.id} does not serve {PATHS[endpoint]}; it serves {paths}"
            self._bad(link, 404, "endpoint_not_supported", message, "model")
        elif len(link.body) > service.body_bytes_max:
            message = f"the body has {len(link.body)} bytes; those for {service.id} are limited to {service.body_bytes_max}"
            self._bad(link, 413, "request_too_large", message, None)
        else:
            now_s = time()
            worker.requests_begun += 1
            request_id = worker.ids.make()
            entry = Entry(
                worker,
                link,
                request_id,
                request_id.hex().encode(),
                now_s,
                now_s + service.deadline_s,
                head,
                link.path,
                link.body,
                bodies.tokens_in(head),
                service.guess_tokens_out(bodies.tokens_out_max(head)),
                drop_usage=bodies.wants_usage_splice(head),
                grant=grant,
                service=service,
            )
            self.take(entry, endpoint, now_s)

    def take(self, entry: Entry, endpoint: str, now_s: float) -> None:
        """It may be answered."""
        link = entry.link
        link.learn_head(entry.grant, endpoint)
        opening.go(entry, self.worker.routing, link.known, now_s)

    def _bad(self, link: Incoming, status: int, code: str, message: str, param: str | None) -> None:
        self.worker.counts.answered(status)
        link.refuse(status, code, message, param=param)


class HopDoor:
    """The hop port: mutual TLS and an envelope on every request."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self.limits = worker.settings.limits
        self.open_connections: set[Incoming] = set()
        self.date_line = date_line(time())
        self.heads = Heads(KnownHead.resized)
        self._sessions: dict[bytes, HopSession | None] = {}

    def known_read(self, link: Incoming, known: KnownHead, body: bytes) -> bool:
        return False  # every hop has an envelope of its own: no head comes twice

    def head_read(self, link: Incoming) -> None:
        session = link.session
        if session is None:
            session = link.session = self._session(link)
        if session is None:
            link.refuse(403, "not_a_peer", "the certificate names no other site of this fleet")
        elif link.path in ENDPOINTS and link.method == b"POST":
            self._admit(link, session)
        elif link.path.startswith(tunnel.PEER_PATHS) and link.method in tunnel.METHODS:
            self._batch(link, session)
        elif not self.worker.desk.is_hop_get(link.path) or link.method not in READING:
            link.refuse(404, "not_found", "no such path on the hop port")

    def _batch(self, link: Incoming, session: HopSession) -> None:
        """A peer's batch process asks ours, for a tenant it names."""
        envelope = self._opened(link, session)
        if envelope is None:
            return
        if (link.content_length or 0) != envelope.body_bytes or link.chunked:
            link.refuse(400, "envelope_body", "the body is not what the envelope was sealed for")
            return
        key = link.headers.get(b"x-hanse-key", b"").decode("latin-1")
        names = tunnel.Asker(envelope.tenant, key, envelope.data_class, envelope.country)
        tunnel.hand_over(self.worker, link, names, peer=session.entry_site)

    def _admit(self, link: Incoming, session: HopSession) -> None:
        if self._opened(link, session) is not None:
            link.body_bytes_max = self.worker.body_bytes_max + 256  # room for the usage splice

    def _opened(self, link: Incoming, session: HopSession) -> Envelope | None:
        """The envelope of a request that this site may read; None where it was refused."""
        token = link.headers.get(b"x-hanse-envelope")
        if token is None:
            link.refuse(400, "envelope_missing", "a hop carries x-hanse-envelope")
            return None
        envelope = open_envelope(session, token, time(), self.worker.replays)
        if isinstance(envelope, EnvelopeRefused):
            status = 503 if envelope.reason == "busy" else 400
            link.refuse(status, f"envelope_{envelope.reason}", "the envelope was refused")
            return None
        link.envelope = envelope
        why = barred(self.worker, envelope)
        if why:  # law covers reading: a no comes before the body
            turn_away(self.worker, link, envelope, why)
            return None
        return envelope

    def request_read(self, link: Incoming) -> None:
        if isinstance(link.running, tunnel.Tunnel):
            link.running.body_ended()
            return
        if link.path not in ENDPOINTS:
            self.worker.desk.answer_hop(link)
            return
        envelope = link.envelope
        assert envelope is not None
        if len(link.body) != envelope.body_bytes:
            link.refuse(400, "envelope_body", "the body is not what the envelope was sealed for")
            return
        try:
            head = bodies.read_head(link.body)
        except bodies.BadBody as error:
            link.refuse(400, "invalid_request", error.message, param=error.param)
            return
        hop = Hop.of(self.worker, link, envelope, head, time())
        link.running = hop
        hop.start()

    def _session(self, link: Incoming) -> HopSession | None:
        tls = link.transport.get_extra_info("ssl_object")
        identity = self.worker.identity
        if tls is None or identity is None:
            return None
        der = tls.getpeercert(binary_form=True)
        if der is None:
            return None
        digest = sha256(der).digest()
        if digest not in self._sessions:
            assert isinstance(tls, ssl.SSLObject) or hasattr(tls, "getpeercert")
            trusted = self.worker.around.trusts(der)
            session = peer_session(identity, tls, dialled=False) if trusted else None
            self._sessions[digest] = session
        return self._sessions[digest]

    def forget_sessions(self) -> None:
        """Whom to trust has changed."""
        self._sessions.clear()

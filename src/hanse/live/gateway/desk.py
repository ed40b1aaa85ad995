"""The small answers: models, health, metrics, gateways, measured values, receipts, explanations.

Here: every path of either port that is not an inference request, and finding the grant of a request's headers. Not here: how a
receipt is made (`live.evidence`), the verdicts of an explanation (`dispatch.router`).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path
from time import time
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

import msgspec

from hanse.catalogue import distance_km
from hanse.dispatch.router import OfferVerdict
from hanse.live.evidence import Missing, ReceiptBook, decode_part, encode_part, make_receipt
from hanse.live.facility.exposition import fresh_text
from hanse.live.gateway.metrics import exposition
from hanse.live.gateway.outgoing import ask
from hanse.live.gateway.policy import offered
from hanse.live.gateway.wording import listed, no_model, unreadable
from hanse.model.fleet import Value
from hanse.model.told import UNREADABLE

if TYPE_CHECKING:
    from hanse.live.evidence import SitePart
    from hanse.live.gateway.incoming import Incoming
    from hanse.live.gateway.policy import Grant, KeyRow
    from hanse.live.gateway.worker import Worker

REQUESTS = b"/hanse/v1/requests/"
RECEIPT = b"/receipt"
EXPLAIN = b"/hanse/v1/explain"
CHECK = b"/hanse/v1/check"
TEXT = b"text/plain; version=0.0.4; charset=utf-8"
PART_TIMEOUT_S = 5.0
IN_MAINTENANCE = "in maintenance"
"""It serves, but whoever balances clients over gateways should send them elsewhere."""
NO_TABLE = "no routing table in force; nothing is admitted: ask again in some seconds"
EXPLAIN_EXAMPLE = '{"service": "chat", "tokens_in": 512, "tokens_out": 128}'
EXPLAIN_FORMS = {
    "service": 'a name that GET /v1/models lists, such as "chat"',
    "tokens_in": "a whole number such as 512",
    "tokens_out": "a whole number such as 128",
}
NOT_SEALED = b"not sealed yet"
"""A serving site's word that its part will be there in a second: a receipt without it would be unproven for ever."""


class ExplainAsk(Value, frozen=True, kw_only=True):
    """Body of `POST /hanse/v1/explain`; class and country come from headers, as for a request."""

    service: str
    tokens_in: int = 512
    tokens_out: int = 128


class ExplainAnswer(Value, frozen=True, kw_only=True):
    """What would be done with such a request now, and why."""

    entry: str
    data_class: str
    country: str
    service: str
    table_version: int
    chosen: str
    """`site/service/variant`, or empty."""
    gate: str
    """OK, or the gate at which the request would be refused."""
    offers: tuple[OfferVerdict, ...]


class GatewayRow(Value, frozen=True, kw_only=True):
    """One gateway that may read requests of a key and class."""

    site: str
    url: str
    kind: str
    city: str
    country: str
    rtt_ms: float | None
    """From the asked gateway, over the fleet's links; None where the list is sorted by distance."""
    distance_km: float | None


class Desk:
    """Answers of one worker."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self._gets: dict[bytes, Callable[[Incoming], None]] = {
            b"/v1/models": self._models,
            b"/healthz": self._health,
            b"/readyz": self._ready,
            b"/metrics": self._metrics,
            b"/.well-known/hanse": self._gateways,
        }
        self._tasks: set[asyncio.Task[None]] = set()
        self._book: ReceiptBook | None = None
        self._searching = asyncio.Lock()

    # --- which paths there are

    def is_get(self, path: bytes) -> bool:
        return path in self._gets or path.startswith((REQUESTS, b"/v1/models/"))

    def is_post(self, path: bytes) -> bool:
        return path == EXPLAIN

    def is_hop_get(self, path: bytes) -> bool:
        return path in (CHECK, b"/healthz") or path.startswith(REQUESTS)

    def answer(self, link: Incoming) -> None:
        """A request on the client port."""
        path = link.path
        known = self._gets.get(path)
        if known is not None:
            known(link)
        elif path == EXPLAIN:
            self._explain(link)
        elif path.startswith(REQUESTS):
            self._request(link)
        else:
            self._model(link)

    def answer_hop(self, link: Incoming) -> None:
        """A request on the hop port, from a peer."""
        if link.path == CHECK and self.worker.policy_or_none is None:
            link.refuse(503, "no_table", NO_TABLE, extra=b"retry-after: 5\r\n")
        elif link.path == CHECK:
            link.answer(200, msgspec.json.encode(self.worker.routing.frame()))
        elif link.path == b"/healthz":
            self._health(link)
        else:
            request_id = _request_id(link.path)
            if request_id is None or not link.path.endswith(RECEIPT):
                link.refuse(404, "not_found", "no such request")
            else:
                self._later(link, self._send_part(link, request_id))

    # --- who asks

    def grant_of(self, link: Incoming) -> Grant | None:
        """The grant that headers ask for; None when it was refused and answered."""
        worker = self.worker
        policy = worker.policy_or_none
        if policy is None or worker.routing.expired(time()):
            self._refuse(link, 503, "no_table", NO_TABLE)
            return None
        headers = link.headers
        key = policy.key_of(headers.get(b"authorization"))
        if key is None:
            message = _no_key(headers.get(b"authorization"))
            self._refuse(link, 401, "invalid_api_key", message)
            return None
        data_class = headers.get(b"x-hanse-class")
        country = headers.get(b"x-hanse-country")
        grant = key.grants.get((data_class, country))
        if grant is not None:
            return grant
        self._refuse(link, 403, *_not_granted(key, data_class, country))
        return None

    def _refuse(
        self, link: Incoming, status: int, code: str, message: str, param: str | None = None
    ) -> None:
        self.worker.counts.answered(status)
        extra = b"www-authenticate: Bearer\r\n" if status == 401 else b""
        extra += b"retry-after: 5\r\n" if status == 503 else b""
        link.refuse(status, code, message, extra=extra, param=param)

    # --- models

    def _models(self, link: Incoming) -> None:
        grant = self.grant_of(link)
        if grant is not None:
            rows = [self._model_row(name) for name in self._model_names(grant)]
            link.answer(200, msgspec.json.encode({"object": "list", "data": rows}))

    def _model(self, link: Incoming) -> None:
        grant = self.grant_of(link)
        if grant is None:
            return
        name = link.path.removeprefix(b"/v1/models/").decode("latin-1")
        if name in self._model_names(grant):
            link.answer(200, msgspec.json.encode(self._model_row(name)))
        else:
            self._refuse(link, 404, "model_not_found", self.no_model(name, grant), "model")

    def no_model(self, name: str, grant: Grant) -> str:
        """Why a name is no model for this key, and which are."""
        return no_model(name, self._model_names(grant))

    def _model_names(self, grant: Grant) -> list[str]:
        return offered(self.worker.routing.table, grant.key.services)

    def _model_row(self, name: str) -> dict[str, object]:
        issued_at_s = int(self.worker.routing.table.meta.issued_at_s)
        return {"id": name, "object": "model", "created": issued_at_s, "owned_by": "hanse"}

    # --- health

    def _health(self, link: Incoming) -> None:
        link.answer(200, b'{"status":"ok"}')

    def _ready(self, link: Incoming) -> None:
        worker = self.worker
        problem = "no routing table"
        if worker.policy_or_none is not None:
            if worker.routing.expired(time()):
                problem = "the routing table has expired"
            elif not worker.routing.ready:
                problem = "no engine here and no peer heard of"
            elif worker.around.maintenance:
                problem = IN_MAINTENANCE
            else:
                problem = ""
        body = {"status": problem or "ready", "site": worker.site}
        link.answer(503 if problem else 200, msgspec.json.encode(body))

    def _metrics(self, link: Incoming) -> None:
        """Counts say how much is asked and refused: on this machine anybody's, from others (who come by TLS) a key's."""
        if link.transport.get_extra_info("ssl_object") is not None and self.grant_of(link) is None:
            return
        self.worker.counts.publish()
        worker = self.worker
        own = exposition(worker.page, worker.site, worker.gauges())
        link.answer(
            200, own + fresh_text(Path(worker.evidence_dir).parent, time()), content_type=TEXT
        )

    # --- where else to go

    def _gateways(self, link: Incoming) -> None:
        grant = self.grant_of(link)
        if grant is None:
            return
        worker, table = self.worker, self.worker.routing.table
        at = _position(link.query)
        paths = table.paths_from(worker.routing.origin)
        rows = []
        for site_id in worker.routing.router.lawful_entries(grant.subject):
            site = table.meta.sites[table.site_index[site_id]]
            rtt_ms = float(paths[table.site_index[site_id]]["rtt_ms"])
            rows.append(
                GatewayRow(
                    site=site_id,
                    url=worker.around.urls.get(site_id, ""),
                    kind=site.kind,
                    city=site.city,
                    country=site.country,
                    rtt_ms=rtt_ms if at is None and rtt_ms < 1e9 else None,
                    distance_km=None
                    if at is None
                    else distance_km(*at, site.lat_deg, site.lon_deg),
                )
            )
        if at is not None:
            rows.sort(key=lambda row: (row.distance_km or 0.0, row.site))
        body = {"data_class": grant.data_class, "country": grant.country, "gateways": rows}
        link.answer(200, msgspec.json.encode(body))

    # --- one request

    def _request(self, link: Incoming) -> None:
        grant = self.grant_of(link)
        if grant is None:
            return
        request_id = _request_id(link.path)
        worker = self.worker
        note = worker.notes.read(request_id, grant.key.mark) if request_id is not None else None
        if note is None or request_id is None:
            self._refuse(link, 404, "request_not_found", "no such request of this key, or too old")
        elif link.path.endswith(RECEIPT):
            self._later(link, self._send_receipt(link, request_id, note.at_s, note.offer))
        else:
            names = worker.routing.table.offer_names
            site, service, variant = (
                names[note.offer] if 0 <= note.offer < len(names) else ("",) * 3
            )
            shown = msgspec.to_builtins(note)
            shown |= {"entry": worker.site, "site": site, "service": service, "variant": variant}
            shown.pop("offer")
            link.answer(200, msgspec.json.encode(shown))

    async def _send_receipt(
        self, link: Incoming, request_id: bytes, at_s: float, offer: int
    ) -> None:
        worker = self.worker
        own = await self._part(request_id, at_s - 5.0)
        if isinstance(own, Missing):
            self._refuse(link, 404, "receipt_not_ready", own.reason)
            return
        parts = [own]
        names = worker.routing.table.offer_names
        site = names[offer][0] if 0 <= offer < len(names) else worker.site
        if site != worker.site and site in worker.peers:
            path = REQUESTS + request_id.hex().encode() + RECEIPT
            status, body = await ask(worker.peers[site].target, path, PART_TIMEOUT_S)
            if status == 404 and NOT_SEALED in body:
                self._refuse(link, 404, "receipt_not_ready", f"{NOT_SEALED.decode()} at {site}")
                return
            if status == 200:
                with contextlib.suppress(
                    ValueError
                ):  # then the receipt says that this part is missing
                    parts.append(decode_part(body))
        link.answer(200, make_receipt(request_id, parts))

    async def _send_part(self, link: Incoming, request_id: bytes) -> None:
        part = await self._part(request_id, float("-inf"))
        if isinstance(part, Missing):
            link.refuse(404, "receipt_not_ready", part.reason)
        else:
            link.answer(200, encode_part(part))

    async def _part(self, request_id: bytes, since_s: float) -> SitePart | Missing:
        self.worker.ledger.flush()
        if self._book is None:
            self._book = ReceiptBook(Path(self.worker.evidence_dir))
        async with (
            self._searching
        ):  # the book is not thread-safe, and a search must not hold the loop
            return await asyncio.to_thread(self._book.part, request_id, since_s)

    def _later(self, link: Incoming, answer: object) -> None:
        """Run an answer that has to wait; a client that leaves meanwhile cancels it."""
        assert asyncio.iscoroutine(answer)
        task: asyncio.Task[None] = self.worker.loop.create_task(answer)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        link.running = _Waiting(task)

    # --- why

    def _explain(self, link: Incoming) -> None:
        grant = self.grant_of(link)
        if grant is None:
            return
        try:
            asked = msgspec.json.decode(link.body, type=ExplainAsk)
        except UNREADABLE as error:
            self._refuse(
                link,
                400,
                "invalid_request",
                *unreadable(link.body, error, EXPLAIN_FORMS, EXPLAIN_EXAMPLE),
            )
            return
        routing = self.worker.routing
        table = routing.table
        index = table.service_index.get(asked.service, -1)
        if index < 0 or table.meta.services[index].id not in grant.key.services:
            message = self.no_model(asked.service, grant)
            self._refuse(link, 404, "model_not_found", message, "service")
            return
        service = table.meta.services[index]
        chosen, offers = routing.router.explain(
            index,
            grant.subject,
            tokens_in=max(1, asked.tokens_in),
            tokens_out=max(1, asked.tokens_out),
            deadline_ms=service.slo.deadline_s * 1000.0,
            body_bytes=4 * asked.tokens_in,
            now_s=time(),
        )
        answer = ExplainAnswer(
            entry=self.worker.site,
            data_class=grant.data_class,
            country=grant.country,
            service=service.id,
            table_version=table.meta.version,
            chosen=table.meta.offers[chosen] if chosen >= 0 else "",
            gate="OK" if chosen >= 0 else routing.reason_name(chosen),
            offers=tuple(offers),
        )
        link.answer(200, msgspec.json.encode(answer))


def _no_key(authorization: bytes | None) -> str:
    """Why a request has no key that we know; nothing of what was sent is repeated."""
    if not authorization or not authorization.strip():
        return "no API key came; send the header `Authorization: Bearer KEY`"
    if authorization[:7].lower() != b"bearer ":
        return "the Authorization header is of another form; send `Authorization: Bearer KEY`"
    return "unknown API key; check that it is whole, or ask this league's operator for one"


def _not_granted(
    key: KeyRow, data_class: bytes | None, country: bytes | None
) -> tuple[str, str, str]:
    """(code, message, header) where a key does not have a class or a country."""
    shown = "" if data_class is None else data_class.decode("latin-1")[:64]
    if data_class is not None and data_class.decode("latin-1") not in key.meta.classes:
        message = f"x-hanse-class is {shown!r}; this key may send {_allowed(key.meta.classes)}"
        return "class_not_allowed", message, "x-hanse-class"
    shown = "" if country is None else country.decode("latin-1")[:64]
    message = f"x-hanse-country is {shown!r}; this key may speak for {_allowed(key.meta.countries)}"
    return "country_not_allowed", message, "x-hanse-country"


def _allowed(names: Sequence[str]) -> str:
    """Values of a header; without it the first of them holds."""
    return listed(names, "none") + (f" (without the header: {names[0]})" if names else "")


class _Waiting:
    """An answer in the making; implements `incoming.Running`."""

    def __init__(self, task: asyncio.Task[None]) -> None:
        self._task = task

    def client_gone(self) -> None:
        self._task.cancel()

    def client_paused(self) -> None:
        """Nothing flows yet."""

    def client_resumed(self) -> None:
        """Nothing flows yet."""


def _request_id(path: bytes) -> bytes | None:
    text = path.removeprefix(REQUESTS).removesuffix(RECEIPT)
    try:
        raw = bytes.fromhex(text.decode("ascii"))
    except ValueError:
        return None
    return raw if len(raw) == 16 else None


def _position(query: bytes) -> tuple[float, float] | None:
    """`?lat=..&lon=..` in degrees, or None where it is absent or not a place on Earth."""
    asked = parse_qs(query.decode("latin-1"))
    try:
        lat, lon = float(asked["lat"][0]), float(asked["lon"][0])
    except (KeyError, ValueError):
        return None
    return (lat, lon) if -90.0 <= lat <= 90.0 and -180.0 <= lon <= 180.0 else None

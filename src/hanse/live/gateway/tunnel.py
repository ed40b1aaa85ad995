"""Files and batches: the gateway lets in, the batch process of the site answers.

Here: handing a request over to that process's Unix socket after keys, rate and law were seen to, and its answer back, byte for byte
and without holding either: a file may be 200 MB. Not here: what files and batches are (`live.batch`), who may come in (`doors`).

The head that goes over is written here, so what it says of tenant, key, class, country and peer is the gateway's word. The answer comes
on a connection that ends with it, and so does the client's.
"""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Final, NamedTuple, cast

from hanse.live.gateway.incoming import BODY, BUSY

if TYPE_CHECKING:
    from hanse.live.gateway.incoming import Incoming
    from hanse.live.gateway.worker import Worker

PATHS: Final = (b"/v1/files", b"/v1/batches")
BETWEEN: Final = b"/hanse/v1/batch/"
"""Between batch processes alone."""
PEER_PATHS: Final = (*PATHS, BETWEEN)
METHODS: Final = (b"GET", b"POST", b"DELETE")
_ALLOWED: Final = (
    (re.compile(rb"/v1/(files|batches)"), b"GET, POST"),
    (re.compile(rb"/v1/files/[^/]+"), b"GET, DELETE"),
    (re.compile(rb"/v1/batches/[^/]+/cancel"), b"POST"),
)
"""Path -> methods; all others are read only. What the batch process takes is its own word: this is for methods that do not get there."""
FORM_BYTES_MAX: Final = 64 * 1024
"""What a multipart form may add to the file in it; also the cap of all other bodies."""
HOLD_BYTES_MAX: Final = 256 * 1024
"""Of a body, until the other side reads on."""


class Asker(NamedTuple):
    """For whom something is asked."""

    tenant: str
    key_id: str
    data_class: str
    country: str


def allow(path: bytes) -> bytes:
    """The `allow:` header line of a path."""
    found = (methods for form, methods in _ALLOWED if form.fullmatch(path))
    return b"allow: " + next(found, b"GET") + b", OPTIONS\r\n"


def hand_over(worker: Worker, link: Incoming, asker: Asker, *, peer: str = "") -> None:
    """The head was read and admitted: the batch process gets it, and the body as it comes."""
    if not worker.settings.batch_socket:
        link.refuse(404, "not_found", "this gateway has no batch process")
        return
    large = link.method == b"POST" and not link.path.startswith(b"/v1/batches")
    file_bytes_max = worker.settings.batch_file_bytes_max if large else 0
    link.body_bytes_max = file_bytes_max + FORM_BYTES_MAX
    if peer and link.path.startswith(BETWEEN):
        # What a batch's lines put out has no cap of its own. The door has compared this with the sealed envelope.
        link.body_bytes_max = link.content_length or 0
    if (link.content_length or 0) > link.body_bytes_max:
        return  # which is refused next
    tunnel = Tunnel(worker, link, _head(link, asker, peer))
    link.parts = _Parts(tunnel)
    link.running = tunnel
    tunnel.open()


def _head(link: Incoming, asker: Asker, peer: str) -> bytes:
    lines = [b"%b %b HTTP/1.1" % (link.method, link.url), b"host: batch", b"connection: close"]
    names = {
        "x-hanse-tenant": asker.tenant,
        "x-hanse-key": asker.key_id,
        "x-hanse-class": asker.data_class,
        "x-hanse-country": asker.country,
        "x-hanse-peer": peer,
    }
    lines += [f"{name}: {value}".encode("latin-1") for name, value in names.items() if value]
    kind = link.headers.get(b"content-type")
    if kind is not None:
        lines.append(b"content-type: " + kind)
    if link.chunked:
        lines.append(b"transfer-encoding: chunked")
    else:
        lines.append(b"content-length: %d" % (link.content_length or 0))
    return b"\r\n".join((*lines, b"", b""))


class _Parts(list[bytes]):
    """Takes the place of a request's body parts: what is appended goes on at once, and nothing is kept."""

    def __init__(self, tunnel: Tunnel) -> None:
        super().__init__()
        self._tunnel = tunnel

    def append(self, part: bytes) -> None:
        self._tunnel.body(part)


class Tunnel(asyncio.Protocol):
    """One request and its answer; implements `incoming.Running`."""

    def __init__(self, worker: Worker, link: Incoming, head: bytes) -> None:
        self._worker = worker
        self._link = link
        self._held: list[bytes] = [head]
        self._held_bytes = 0
        self._transport: asyncio.Transport | None = None
        self._task: asyncio.Task[None] | None = None
        self._answered = self._over = self._full = False

    def open(self) -> None:
        """Connect."""
        self._task = self._worker.loop.create_task(self._connect())

    async def _connect(self) -> None:
        path = self._worker.settings.batch_socket
        try:
            await self._worker.loop.create_unix_connection(lambda: self, path)
        except OSError:
            self._fail()

    # --- the request's body

    def body(self, part: bytes) -> None:
        """A piece of it, without transfer coding."""
        if self._over:
            return
        if self._link.chunked:
            part = b"%x\r\n%b\r\n" % (len(part), part)
        if self._transport is not None:
            self._transport.write(part)
            return
        self._held.append(part)
        self._held_bytes += len(part)
        if self._held_bytes > HOLD_BYTES_MAX:
            self._link.transport.pause_reading()

    def body_ended(self) -> None:
        """All of it is here."""
        if self._link.chunked and not self._over:
            if self._transport is not None:
                self._transport.write(b"0\r\n\r\n")
            else:
                self._held.append(b"0\r\n\r\n")

    # --- incoming.Running

    def client_gone(self) -> None:
        self._over = True
        if self._transport is not None:
            self._transport.abort()

    def client_paused(self) -> None:
        if self._transport is not None:
            self._transport.pause_reading()

    def client_resumed(self) -> None:
        if self._transport is not None:
            self._transport.resume_reading()

    # --- asyncio.Protocol, towards the batch process

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        if self._over:
            self._transport.abort()
            return
        self._transport.write(b"".join(self._held))
        self._held.clear()
        if not self._full:  # writing may have filled it just now
            self._read_on()

    def pause_writing(self) -> None:
        self._full = True
        if not self._over:
            self._link.transport.pause_reading()

    def resume_writing(self) -> None:
        self._full = False
        self._read_on()

    def data_received(self, data: bytes) -> None:
        if self._over:
            return
        if not self._answered:
            self._answered = self._link.answer_begun = True
            status = data[9:12]
            self._worker.counts.answered(int(status) if status.isdigit() else 500)
        self._link.transport.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._over:
            return
        if not self._answered:
            self._fail()
            return
        self._over = True
        self._link.broken()  # the end of the connection is the end of the answer

    def _read_on(self) -> None:
        if not self._over and self._link.state in (BODY, BUSY):
            self._link.transport.resume_reading()

    def _fail(self) -> None:
        if self._over:
            return
        self._over = True
        self._link.running = None
        self._worker.counts.answered(503)
        self._link.refuse(
            503,
            "batch_unavailable",
            "the site's batch process does not answer; ask again",
            extra=b"retry-after: 2\r\n",
        )
        self._read_on()

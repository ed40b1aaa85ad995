"""Connections to engines and to other sites' hop ports: keep-alive pools and strict answers in.

Here: one `Target` per engine or peer with its idle connections, `Outgoing` (one connection, one exchange at a time), the
one re-send on a pooled connection that turns out closed before any byte came. Not here: which target, when to give
up, what an answer means (`attempt`).

Reading is batched: everything one segment brought (head, first chunk, end) reaches the owner in a single call, so
that the client gets it in a single write.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from typing import Protocol, cast
from urllib.parse import urlsplit

import httptools

from hanse.errors import ConfigError
from hanse.live.gateway.heads import END, Heads, KnownAnswer

IDLE_MAX = 256
"""Kept connections per target; more than any engine's batch."""

RESPONSE_HEAD_BYTES_MAX = 64 * 1024

MEASURED = b"x-hanse-measured"
"""The one field that is read also after a body."""
WANTED = frozenset(
    (
        b"content-type",
        b"content-length",
        b"content-encoding",
        b"transfer-encoding",
        b"retry-after",
        b"hanse-load",
        b"x-hanse-refusal",
        b"x-hanse-variant",
        MEASURED,
    )
)

_canonical: dict[bytes, bytes | None] = {}
_CANONICAL_MAX = 1024


BODILESS = frozenset((204, 304))
"""Their content-length speaks of a body that does not come."""


_heads: Heads[KnownAnswer] = Heads(KnownAnswer.resized)


class Owner(Protocol):
    """Who waits for an answer on a connection."""

    abandoned: bool
    """True: nobody waits any more, whatever is still under way."""

    def request_for(self, out: Outgoing) -> bytes | None:
        """The whole request; asked once the connection stands, since hops seal it per peer. None: do not send."""

    def connected(self, out: Outgoing) -> None:
        """The answer will come on this connection."""

    def answer_read(self, out: Outgoing) -> None:
        """New parts, a complete head or the end: read `out.status`, `take()`, `out.done`."""

    def whole_read(self, known: KnownAnswer, body: bytes) -> bool:
        """A whole answer with a known head, all at once. False, and nothing was done: it comes by `answer_read`."""

    def unsent(self, out: Outgoing) -> None:
        """A kept connection turned out closed before any answer byte: the request may go again."""

    def answer_lost(self, out: Outgoing | None, reason: str) -> None:
        """The connection broke or could not be made before the answer was complete."""


class Target:
    """An address and its idle connections."""

    def __init__(
        self,
        url: str,
        loop: asyncio.AbstractEventLoop,
        *,
        tls: ssl.SSLContext | None = None,
        server_name: str | None = None,
        key: str = "",
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or parts.hostname is None:
            raise ConfigError(
                "engine url", got=url, allowed="http://host:port or https://host:port"
            )
        self.url = url
        self.host = parts.hostname
        self.port = parts.port or (443 if parts.scheme == "https" else 80)
        self.base = parts.path.rstrip("/").removesuffix("/v1").encode()
        self.tls = tls
        if parts.scheme == "https" and tls is None:
            self.tls = ssl.create_default_context()
        self.server_name = server_name
        self.loop = loop
        self.idle: list[Outgoing] = []
        self.open: set[Outgoing] = set()
        self.on_connect: Callable[[Outgoing], None] | None = None
        """Called with every new connection before its first request (a peer's session comes from its certificate)."""
        shown = f"authorization: Bearer {key}\r\n" if key else ""
        self.host_line = f"host: {parts.netloc}\r\n{shown}".encode()
        """With the credential, where the engine asks for one: the lines of every request."""
        self._post: dict[bytes, bytes] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def post_head(self, path: bytes) -> bytes:
        """The constant first lines of a POST to `path`."""
        head = self._post.get(path)
        if head is None:
            head = b"POST %s%s HTTP/1.1\r\n%scontent-type: application/json\r\n" % (
                self.base,
                path,
                self.host_line,
            )
            self._post[path] = head
        return head

    def get_head(self, path: bytes) -> bytes:
        """A whole GET request."""
        return b"GET %s%s HTTP/1.1\r\n%s\r\n" % (self.base, path, self.host_line)

    def send(self, owner: Owner, *, fresh: bool = False) -> None:
        """Send the owner's request on a kept connection, or make one first."""
        idle = self.idle
        while idle and not fresh:
            out = idle.pop()
            if not out.transport.is_closing():
                out.start(owner, reused=True)
                return
        task = self.loop.create_task(self._connect(owner))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connect(self, owner: Owner) -> None:
        out = Outgoing(self)
        try:
            await self.loop.create_connection(
                lambda: out,
                self.host,
                self.port,
                ssl=self.tls,
                server_hostname=self.server_name if self.tls is not None else None,
            )
        except (OSError, ssl.SSLError) as error:
            if not owner.abandoned:
                owner.answer_lost(None, f"connect: {error}")
            return
        if self.on_connect is not None:
            self.on_connect(out)
        if owner.abandoned:
            self.release(out)
        else:
            out.start(owner, reused=False)

    def release(self, out: Outgoing) -> None:
        """Keep a connection whose exchange ended cleanly."""
        if len(self.idle) < IDLE_MAX and not out.transport.is_closing():
            self.idle.append(out)
        else:
            out.transport.abort()

    def close(self) -> None:
        """Drop every connection, used or idle."""
        for out in tuple(self.open):
            out.transport.abort()
        self.idle.clear()


class Outgoing(asyncio.Protocol):
    """One connection to a target; httptools calls the `on_*` methods."""

    __slots__ = (
        "bodiless_bytes",
        "done",
        "got_bytes",
        "head_done",
        "headers",
        "keep",
        "last_head",
        "on_body",
        "on_header",
        "owner",
        "parser",
        "parts",
        "protocol_error",
        "raw_headers",
        "reused",
        "sized",
        "status",
        "target",
        "transport",
    )

    def __init__(self, target: Target) -> None:
        self.target = target
        self.transport: asyncio.Transport
        self.owner: Owner | None = None
        self.headers: dict[bytes, bytes] = {}
        """Wanted headers of the answer, lower-case, once its head is complete."""
        self.raw_headers: dict[bytes, bytes] = {}
        self.parts: list[bytes] = []
        # The parser fills both without a Python call for each header and piece; it looks these up once.
        self.on_header: Callable[[bytes, bytes], None] = self.raw_headers.__setitem__
        self.on_body: Callable[[bytes], None] = self.parts.append
        self.parser = httptools.HttpResponseParser(self)
        self.status = self.got_bytes = self.bodiless_bytes = 0
        self.head_done = self.done = self.keep = self.sized = self.reused = False
        self.protocol_error: str | None = None
        self.last_head: KnownAnswer | None = None

    def post(self, owner: Owner, data: bytes) -> None:
        """Send a whole request on this kept connection; the answer goes to `owner`, who knows of it."""
        self.owner = owner
        self.reused = True
        self.status = self.got_bytes = self.bodiless_bytes = 0
        self.head_done = self.done = self.sized = False
        self.transport.write(data)

    def start(self, owner: Owner, *, reused: bool) -> None:
        """Send one request; the answer goes to `owner`."""
        data = owner.request_for(self)
        if data is None:
            self.target.release(self)
            owner.answer_lost(None, "the peer is no site of this fleet")
            return
        self.owner = owner
        self.reused = reused
        self.status = self.got_bytes = self.bodiless_bytes = 0
        self.head_done = self.done = self.sized = False
        owner.connected(self)
        self.transport.write(data)

    def take(self) -> bytes:
        """Body bytes that came since the last call, without transfer coding."""
        parts = self.parts
        if not parts:
            return b""
        data = parts[0] if len(parts) == 1 else b"".join(parts)
        parts.clear()
        return data

    def abandon(self) -> None:
        """Nobody wants the rest: close, which makes the engine stop generating."""
        self.owner = None
        self.transport.abort()

    # --- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.target.open.add(self)
        sock = transport.get_extra_info("socket")
        if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def data_received(self, data: bytes) -> None:
        owner = self.owner
        if owner is None:  # an engine that talks unasked is out of step
            self.transport.abort()
            return
        if not self.got_bytes:
            known = self.last_head
            if known is None or not data.startswith(known.head):
                known = self.last_head = _heads.find(data)
            if known is not None and len(data) == len(known.head) + known.length:
                self._known_read(owner, known, data[len(known.head) :])
                return
        self.got_bytes += len(data)
        parts = len(self.parts)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserCallbackError as error:
            if self.protocol_error is None:
                raise error.__context__ or error from None
        except httptools.HttpParserError as error:
            self.protocol_error = f"not HTTP/1.1: {error}"
        if len(self.parts) == parts and not self.done:
            self.bodiless_bytes += len(data)
            if self.bodiless_bytes > RESPONSE_HEAD_BYTES_MAX:
                self.protocol_error = "headers of the answer exceed 64 KiB"
        else:
            self.bodiless_bytes = 0
        if self.protocol_error is not None and not self.done:
            self._fail(self.protocol_error)
            return
        if self.done:
            if self.got_bytes == len(data):
                self._learn(data)
            self._finish(owner)
        elif self.head_done:
            owner.answer_read(self)

    def _known_read(self, owner: Owner, known: KnownAnswer, body: bytes) -> None:
        """A whole answer with a head that was read before. The parser is between messages, and stays there."""
        self.owner = None
        self.head_done = self.done = self.sized = True
        if not (known.plain and owner.whole_read(known, body)):
            self.got_bytes = len(known.head) + len(body)
            self.status, self.headers = known.status, known.headers
            self.parts.append(body)
            owner.answer_read(self)
            self.parts.clear()
        if known.keep:
            self.target.release(self)
        else:
            self.transport.abort()

    def _learn(self, data: bytes) -> None:
        """A whole, ordinary answer in one read: the next with its head need not be parsed."""
        end = data.find(END) + 4
        length = self.headers.get(b"content-length")
        ordinary = self.status >= 200 and self.status not in BODILESS
        if self.protocol_error is not None or length is None or not ordinary:
            return
        if b"transfer-encoding" not in self.headers and len(data) == end + int(length):
            known = KnownAnswer(data[:end], self.status, self.headers, self.keep, int(length))
            _heads.learn(known.head, known, httptools.HttpResponseParser)

    def connection_lost(self, exc: Exception | None) -> None:
        self.target.open.discard(self)
        owner = self.owner
        if owner is None:
            return
        if not self.got_bytes and self.reused:
            # The engine closed an idle connection just as we used it: it has not seen the request.
            self.owner = None
            owner.unsent(self)
            return
        if self.head_done and not self.sized and exc is None:
            self.done = True  # HTTP/1.0 style: the end of the connection is the end of the body
            self.owner = None
            owner.answer_read(self)
            return
        self.owner = None
        owner.answer_lost(self, "the connection closed early")

    # --- httptools

    def on_message_begin(self) -> None:
        if self.done:
            self.protocol_error = "two answers to one request"
            raise _StopParsing

    def on_headers_complete(self) -> None:
        self.status = self.parser.get_status_code()
        raw = self.raw_headers
        if self.status >= 200:
            self.head_done = True
            headers = self.headers = {}
            for name, value in raw.items():
                known = _canonical[name] if name in _canonical else _canon(name)
                if known is not None:
                    headers[known] = value
            self.sized = b"content-length" in headers or b"transfer-encoding" in headers
        raw.clear()

    def on_message_complete(self) -> None:
        if self.status < 200:  # 100 Continue, 103 Early Hints
            return
        self.done = True
        for name, value in self.raw_headers.items():  # of a trailer
            if name.lower() == MEASURED:
                self.headers[MEASURED] = value
        self.raw_headers.clear()
        self.keep = self.parser.should_keep_alive()  # only true to ask here: the parser forgets

    # --- inside

    def _finish(self, owner: Owner) -> None:
        """Hand the end over, then keep the connection if it can serve again."""
        keep = self.protocol_error is None and self.keep
        self.owner = None
        owner.answer_read(self)
        self.raw_headers.clear()
        self.parts.clear()
        if keep:
            self.target.release(self)
        else:
            self.transport.abort()

    def _fail(self, reason: str) -> None:
        owner, self.owner = self.owner, None
        self.transport.abort()
        if owner is not None:
            owner.answer_lost(self, reason)


class Question:
    """One small GET; `answered(status, body)` is called once, with status 0 where no answer came."""

    def __init__(self, path: bytes, answered: Callable[[int, bytes], None]) -> None:
        self.abandoned = False
        self._path = path
        self._answered = answered
        self._out: Outgoing | None = None

    def drop(self) -> None:
        """Nobody waits any more."""
        self.abandoned = True
        if self._out is not None:
            self._out.abandon()

    def request_for(self, out: Outgoing) -> bytes:
        return out.target.get_head(self._path)

    def connected(self, out: Outgoing) -> None:
        self._out = out

    def answer_read(self, out: Outgoing) -> None:
        if out.done and not self.abandoned:
            self._answered(out.status, out.take())

    def whole_read(self, known: KnownAnswer, body: bytes) -> bool:
        return False

    def unsent(self, out: Outgoing) -> None:
        out.target.send(self, fresh=True)

    def answer_lost(self, out: Outgoing | None, reason: str) -> None:
        if not self.abandoned:
            self._answered(0, b"")


async def ask(target: Target, path: bytes, timeout_s: float) -> tuple[int, bytes]:
    """One GET, awaited; status 0 where no answer came in time."""
    done: asyncio.Future[tuple[int, bytes]] = target.loop.create_future()

    def answered(status: int, body: bytes) -> None:
        if not done.done():
            done.set_result((status, body))

    question = Question(path, answered)
    target.send(question)
    try:
        async with asyncio.timeout(timeout_s):
            return await done
    except TimeoutError:
        question.drop()
        return 0, b""


class _StopParsing(Exception):
    """Raised inside a parser callback once the answer is refused."""


def _canon(name: bytes) -> bytes | None:
    """Lower-case name if wanted; spellings are cached (bounded): engines repeat theirs for ever."""
    lower = name.lower()
    known = lower if lower in WANTED else None
    if len(_canonical) < _CANONICAL_MAX and len(name) <= 64:
        _canonical[name] = known
    return known

"""A client's (or a peer's) connection: strict HTTP/1.1 in, answers out.

Here: parsing with limits, one request at a time, keep-alive, `Expect`, slow and silent clients, back-pressure signals.
llhttp (through httptools) refuses doubled and conflicting lengths, bare line feeds, folded headers and control bytes by
itself; sizes, counts, times, doubled credentials and everything about who may ask are ours. A whole request whose head was read
before, byte for byte, needs no parser (`heads`). Not here: what a request means (`doors`), the other leg (`outgoing`).

Life of a connection:

    HEAD   --headers complete--> BODY --message complete--> BUSY --answer ended--> HEAD
    any    --our refusal with the rest of the body still coming--> LINGER --peer closes, or 1 s after it has all--> closed

Pipelined requests are refused safely: bytes that arrive while BUSY are never parsed; the answer in progress is finished,
then the connection closes, which RFC 9112 section 9.3.2 tells a client to expect.
"""

from __future__ import annotations

import asyncio
import socket
from time import monotonic
from typing import TYPE_CHECKING, cast

import httptools

from hanse.live.gateway import answers
from hanse.live.gateway.heads import END, KnownHead
from hanse.model.fleet import Value

if TYPE_CHECKING:
    from collections.abc import Callable

    from hanse.live.gateway.policy import Grant
    from hanse.live.gateway.ports import Door, Running
    from hanse.live.identity import Envelope, HopSession

HEAD, BODY, BUSY, LINGER, CLOSED = range(5)

WRITE_BUFFER_BYTES = 256 * 1024
"""Above this much unread output the other leg is paused: a slow reader costs this, not its answer."""

STALL_S = 60.0
"""A client that takes nothing for so long of an answer that is written is given up; nginx's `send_timeout`."""

LINGER_S = 1.0
"""How long a refused client may go on sending before we reset it; closing at once would make the
kernel throw away the refusal the client has not read yet."""


class Limits(Value, frozen=True, kw_only=True):
    """What one connection may ask of us before it is a nuisance."""

    head_bytes_max: int = 64 * 1024
    headers_max: int = 100
    head_s_max: float = 10.0
    """From the first byte of a request (or the accept) to the end of its headers."""
    body_grace_s: float = 5.0
    body_bytes_per_s_min: float = 1024.0
    """Slower than a 1990s modem for more than the grace is an attack or a dead client."""
    idle_s_max: float = 75.0
    """nginx's keep-alive default."""
    connections_max: int = 20_000


KNOWN = frozenset(
    (
        b"host",
        b"authorization",
        b"content-length",
        b"content-type",
        b"content-encoding",
        b"transfer-encoding",
        b"expect",
        b"x-request-id",
        b"traceparent",
        b"tracestate",
        b"x-hanse-at",
        b"x-hanse-class",
        b"x-hanse-country",
        b"x-hanse-conversation",
        b"x-hanse-envelope",
        b"x-hanse-key",
    )
)
"""Headers anybody here reads; each may appear once. All others are counted and dropped."""

_canonical: dict[bytes, bytes | None] = {}
_CANONICAL_MAX = 1024
_CANONICAL_BYTES_MAX = 64
"""Longer names are none of ours; strangers must not fill memory with them."""


def _canon(name: bytes) -> bytes | None:
    """Lower-case name if known. Spellings are cached (bounded): clients repeat theirs for ever."""
    lower = name.lower()
    known = lower if lower in KNOWN else None
    if len(_canonical) < _CANONICAL_MAX and len(name) <= _CANONICAL_BYTES_MAX:
        _canonical[name] = known
    return known


class Incoming(asyncio.Protocol):
    """One accepted connection; httptools calls the `on_*` methods."""

    __slots__ = (
        "answer_begun",
        "answered",
        "body",
        "body_bytes",
        "body_bytes_max",
        "chunked",
        "close_after",
        "content_length",
        "counts_head",
        "door",
        "envelope",
        "first_read",
        "grant",
        "head_bytes",
        "head_read_bytes",
        "header_count",
        "headers",
        "keep_alive",
        "known",
        "last_head",
        "method",
        "mid_message",
        "parser",
        "parts",
        "path",
        "query",
        "refused",
        "running",
        "session",
        "stage_at_s",
        "state",
        "taken_late",
        "transport",
        "unread_bytes",
        "url",
        "wire_bytes",
        "write_paused",
    )

    def __init__(self, door: Door) -> None:
        self.door = door
        self.transport: asyncio.Transport
        self.parser = httptools.HttpRequestParser(self)
        self.state = HEAD
        self.stage_at_s = 0.0
        self.answered = False
        """At least one request of this connection was answered: it may idle now."""
        self.answer_begun = False
        """Bytes of an answer went out before the request's body was whole."""
        self.write_paused = False
        self.unread_bytes = 0
        """Of the answer before, when last looked at."""
        self.taken_late: Callable[[], None] | None = None
        self.close_after = False
        self.running: Running | None = None
        self.session: HopSession | None = None
        """Which site is at the other end (hop port)."""
        self.mid_message = False
        """The parser has begun a message that is not complete."""
        # Of the request being read:
        self.method = self.url = self.path = self.query = self.body = b""
        self.headers: dict[bytes, bytes] = {}
        self.parts: list[bytes] = []
        self.keep_alive = True
        self.chunked = self.refused = self.counts_head = False
        self.content_length: int | None = None
        self.body_bytes_max = self.body_bytes = 0
        self.head_bytes = self.head_read_bytes = self.header_count = self.wire_bytes = 0
        self.last_head: KnownHead | None = None
        """Most connections repeat theirs: compared before it is looked up."""
        self.known: KnownHead | None = None
        """Its head, where that was known and the parser has not seen it."""
        self.first_read: bytes | None = None
        """What one read brought of a message and nothing before it."""
        self.grant: Grant | None = None
        """What its key may do (client port)."""
        self.envelope: Envelope | None = None
        """What the entry site says of it (hop port)."""

    # --- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.stage_at_s = monotonic()
        if len(self.door.open_connections) >= self.door.limits.connections_max:
            self.state = CLOSED
            self.transport.abort()
            return
        self.door.open_connections.add(self)
        self.transport.set_write_buffer_limits(high=WRITE_BUFFER_BYTES)
        sock = transport.get_extra_info("socket")
        if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def data_received(self, data: bytes) -> None:
        if self.state == HEAD and not self.head_bytes and not self.mid_message:
            known = self.last_head
            if known is None or not data.startswith(known.head):
                known = self.last_head = self.door.heads.find(data)
            if known is not None:
                body = data[len(known.head) :]
                if len(body) == known.length and self.door.known_read(self, known, body):
                    return
                self.last_head = None
            self.first_read = data
        self._feed(data)

    def _feed(self, data: bytes) -> None:
        state = self.state
        if state >= BUSY:
            if state == BUSY:  # pipelined: see the module's docstring
                self.close_after = True
                self.transport.pause_reading()
            return
        if state == HEAD and not self.head_bytes:
            self.stage_at_s = monotonic()
        if state == HEAD:
            self.head_bytes += len(data)
            self.counts_head = self.head_bytes > self.door.limits.head_bytes_max
        else:
            self.wire_bytes += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._malformed(
                "this gateway does not switch protocols; send the request without Upgrade"
            )
        except httptools.HttpParserError as error:
            self._parser_failed(error)
        else:
            self._check_sizes()

    def eof_received(self) -> bool:
        # A client that gives up and one that only half-closes look the same here. The first is common and must stop
        # the engine's work at once; so, like nginx, we take the end of its side for the end of its interest. From here on
        # the transport is closing, and nothing may be written to it any more.
        self._gone()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._gone()
        self._taken()
        self.door.open_connections.discard(self)

    def pause_writing(self) -> None:
        self.write_paused = True
        if self.running is not None:
            self.running.client_paused()

    def resume_writing(self) -> None:
        self.write_paused = False
        self._taken()
        if self.running is not None:
            self.running.client_resumed()
        elif self.state == HEAD:
            self.transport.resume_reading()

    # --- httptools

    def on_message_begin(self) -> None:
        self.mid_message = True
        if self.state != HEAD:
            self.close_after = True
            raise _StopParsing

    def on_url(self, url: bytes) -> None:
        self.url = self.url + url if self.url else url
        if self.counts_head:
            self._count_head(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        self.header_count += 1
        if self.header_count > self.door.limits.headers_max:
            self.refuse(431, "too_many_headers", "at most 100 headers are accepted")
            raise _StopParsing
        if self.counts_head:
            self._count_head(len(name) + len(value))
        try:
            known = _canonical[name]
        except KeyError:
            known = _canon(name)
        if known is None or self.state != HEAD:  # trailers mean nothing here
            return
        if known in self.headers:
            self._malformed(f"header {known.decode()} is given twice")
            raise _StopParsing
        self.headers[known] = value

    def _count_head(self, size: int) -> None:
        """A head may come whole in one read, before its bytes on the wire are looked at."""
        self.head_read_bytes += size
        if self.head_read_bytes > self.door.limits.head_bytes_max:
            self.refuse(431, "headers_too_large", "headers are limited to 64 KiB")
            raise _StopParsing

    def on_headers_complete(self) -> None:
        parser, headers = self.parser, self.headers
        if parser.should_upgrade():
            # Also CONNECT. Answered here, once, before anything of the request is acted on.
            self._malformed("this gateway does not switch protocols; send it without Upgrade")
            raise _StopParsing
        self.method = parser.get_method()
        self.keep_alive = parser.should_keep_alive()
        path, _, self.query = self.url.partition(b"?")
        self.path = path
        self.stage_at_s = monotonic()
        self.wire_bytes = 0
        problem = self._framing_problem(headers)
        if problem is not None:
            self._malformed(problem)
            raise _StopParsing
        self.state = BODY
        self.door.head_read(self)
        if self.refused:
            if self.state == LINGER:
                raise _StopParsing
            return
        if self.content_length is not None and self.content_length > self.body_bytes_max:
            self._too_large()
            raise _StopParsing
        if b"expect" in headers and not self.http10:
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        if self.refused:
            return
        self.body_bytes += len(body)
        if self.body_bytes > self.body_bytes_max:
            self._too_large()
            raise _StopParsing
        self.parts.append(body)

    def on_message_complete(self) -> None:
        self.mid_message = False
        if self.refused:
            self._next()
            return
        parts = self.parts
        self.body = parts[0] if len(parts) == 1 else b"".join(parts)
        self.state = BUSY
        self.door.request_read(self)

    @property
    def http10(self) -> bool:
        """Whether the request being read or answered is HTTP/1.0."""
        if self.known is not None:
            return False  # only heads of HTTP/1.1 are learned
        version: str = self.parser.get_http_version()  # costly: asked only where it matters
        return version == "1.0"

    def learn_head(self, grant: Grant, endpoint: str) -> None:
        """This request was admitted and begun: the next with its head need not be parsed."""
        data, length = self.first_read, self.content_length
        if data is None or self.known is not None or self.chunked or not length:
            return
        end = data.find(END) + 4
        ordinary = self.keep_alive and not self.http10 and b"expect" not in self.headers
        if ordinary and len(data) == end + length and data.startswith(b"POST "):
            known = KnownHead(
                data[:end], self.path, self.query, self.headers, length, grant, endpoint
            )
            self.door.heads.learn(known.head, known, httptools.HttpRequestParser)

    # --- for whoever answers

    def answer(
        self,
        status: int,
        body: bytes,
        *,
        content_type: bytes = b"application/json",
        extra: bytes = b"",
    ) -> None:
        """One whole answer of known length; ends the exchange."""
        keep = self.keep_alive and not self.close_after
        data = answers.head(
            status,
            length=len(body),
            content_type=content_type,
            extra=extra,
            keep_alive=keep,
            date=self.door.date_line,
        )
        self.transport.write(data if self.method == b"HEAD" else data + body)
        self.ended()

    def refuse(
        self,
        status: int,
        code: str,
        message: str,
        *,
        extra: bytes = b"",
        param: str | None = None,
        hanse: dict[str, object] | None = None,
    ) -> None:
        """An error answer at any stage. A body still on its way is skipped if small, else cut off."""
        if self.state >= LINGER:
            return
        if self.state == BODY and self.running is not None:
            # The body was passed on as it came: who takes it must write nothing after our no.
            running, self.running = self.running, None
            running.client_gone()
            if self.answer_begun:
                self.broken()
                return
        body = answers.error_body(status, code, message, param=param, hanse=hanse)
        if self.state == BUSY:
            self.answer(status, body, extra=extra)
            return
        self.refused = True
        length = self.content_length
        keep = (
            self.state == BODY
            and self.keep_alive
            and length is not None
            and length <= self.door.limits.head_bytes_max
            and b"expect" not in self.headers
        )
        data = answers.head(
            status, length=len(body), extra=extra, keep_alive=keep, date=self.door.date_line
        )
        self.transport.write(data if self.method == b"HEAD" else data + body)
        if not keep:
            self._linger()

    def reads_late(self, taken: Callable[[], None]) -> None:
        """Call `taken` once the client has most of what is written, or is gone."""
        self.taken_late = taken

    def ended(self) -> None:
        """The answer is written. The connection serves the next request, once most of the answer is read, or closes."""
        self.running = None
        if self.state == CLOSED:
            return
        if self.write_paused:
            self.transport.pause_reading()
        if self.close_after or not self.keep_alive:
            self._linger()
        elif self.known is not None:  # the parser was not asked, so nothing else has changed
            self.state = HEAD
            self.known = self.grant = None
            self.headers = {}
            self.body = b""
            self.answered = True
            self.stage_at_s = monotonic()
        else:
            self._next()

    def broken(self) -> None:
        """The answer cannot be finished: close, so that the client sees a cut, never a short body."""
        self.running = None
        if self.state != CLOSED:
            self._linger()

    def retire(self) -> None:
        """The worker is stopping: no further request on this connection."""
        self.close_after = True
        if self.state == HEAD and not self.head_bytes:
            self.transport.close()

    def check_times(self, now_s: float) -> None:
        """Called about twice a second: enforce the limits that only a clock can see."""
        limits, waited_s = self.door.limits, now_s - self.stage_at_s
        unread = self.transport.get_write_buffer_size()
        if unread and (self.state == LINGER or (self.state == HEAD and not self.head_bytes)):
            if unread != self.unread_bytes:
                self.unread_bytes, self.stage_at_s = unread, now_s
            elif waited_s > STALL_S:
                self.transport.abort()
        elif self.state == HEAD:
            if self.head_bytes and waited_s > limits.head_s_max:
                self.refuse(408, "request_timeout", "headers took longer than 10 s")
            elif waited_s > limits.idle_s_max or (
                not self.answered and waited_s > limits.head_s_max
            ):
                self.transport.close()
        elif self.state == BODY:
            if waited_s > limits.body_grace_s and (
                self.wire_bytes < limits.body_bytes_per_s_min * (waited_s - limits.body_grace_s)
            ):
                self.refuse(408, "request_timeout", "the body arrives too slowly")
                if self.state == BODY:
                    self._linger()
        elif self.state == LINGER and waited_s > LINGER_S:
            self.transport.abort()

    # --- inside

    def _taken(self) -> None:
        taken, self.taken_late = self.taken_late, None
        if taken is not None:
            taken()

    def _gone(self) -> None:
        self.state = CLOSED
        running, self.running = self.running, None
        if running is not None:
            running.client_gone()

    def _next(self) -> None:
        """Ready for the next request on this connection."""
        self.state = HEAD
        self.headers = {}
        self.parts = []
        self.url = self.body = b""
        self.body_bytes = self.head_bytes = self.head_read_bytes = 0
        self.header_count = self.wire_bytes = 0
        self.answered = True
        self.content_length = None
        self.refused = self.chunked = False
        self.known = self.first_read = None
        self.grant = None
        self.envelope = None
        self.stage_at_s = monotonic()

    def _linger(self) -> None:
        self.state = LINGER
        self.parts = []
        self.body = b""
        self.stage_at_s = monotonic()
        transport = self.transport
        if transport.is_closing():
            return
        transport.resume_reading()
        if transport.can_write_eof():
            transport.write_eof()
        else:
            transport.close()

    def _framing_problem(self, headers: dict[bytes, bytes]) -> str | None:
        if b"host" not in headers and not self.http10:
            return "header host is missing"
        length = headers.get(b"content-length")
        encoding = headers.get(b"transfer-encoding")
        if encoding is not None:
            # llhttp also lets `gzip, chunked` through, which we would pass on undecoded.
            if self.http10 or encoding.lower() != b"chunked":
                return "transfer-encoding may only be chunked, on HTTP/1.1"
            self.chunked = True
            self.content_length = None
        else:
            self.content_length = int(length) if length is not None else 0
        if b"content-encoding" in headers and headers[b"content-encoding"].lower() != b"identity":
            return "content-encoding is not supported in requests"
        if headers.get(b"expect", b"100-continue").lower() != b"100-continue":
            return "the only expectation supported is 100-continue"
        return None

    def _check_sizes(self) -> None:
        limits = self.door.limits
        if self.state == HEAD:
            if self.head_bytes > limits.head_bytes_max:
                self.refuse(431, "headers_too_large", "headers are limited to 64 KiB")
        elif self.state == BODY and self.wire_bytes > 4 * self.body_bytes_max + 65_536:
            # Chunk extensions and one-byte chunks can inflate a small body without end.
            self._too_large()

    def _too_large(self) -> None:
        self.refuse(413, "request_too_large", f"the body is limited to {self.body_bytes_max} bytes")
        if self.state == BODY:
            self._linger()

    def _malformed(self, message: str) -> None:
        if self.state >= BUSY:
            self.close_after = True
            return
        self.keep_alive = False
        self.refuse(400, "malformed_request", message)

    def _parser_failed(self, error: httptools.HttpParserError) -> None:
        if isinstance(error, httptools.HttpParserCallbackError):
            cause = error.__context__
            if not isinstance(cause, _StopParsing):
                self.transport.abort()
                raise cause or error  # our own bug: seen in the log, and no client waits for ever
            self.close_after = True
            return
        if self.state >= BUSY or self.refused:
            # Bytes after an answered last request, or in the rest of a refused body.
            self.close_after = True
            if self.state < LINGER and self.running is None:
                self._linger()
            return
        self._malformed(f"not HTTP/1.1: {error}")


class _StopParsing(Exception):
    """Raised inside a parser callback once the answer is decided."""

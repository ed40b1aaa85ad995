"""A small HTTP/1.1 client on bare asyncio protocols, for the load programs.

One connection, one request at a time, timestamps of the first event and the end. Not here: pacing,
counting (`stream_load`, `fault_load`).
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

import httptools


@dataclass(kw_only=True)
class Answer:
    """What came back; instants of `time.monotonic`, since uvloop's clock ticks in milliseconds."""

    status: int = 0
    sent_at_s: float = 0.0
    first_at_s: float = 0.0
    """First byte of a `data:` event of a stream, or of a plain body; 0 while there is none."""
    ended_at_s: float = 0.0
    events: int = 0
    broken: bool = False
    """The connection ended before the answer did."""


class Connection(asyncio.Protocol):
    """A keep-alive connection to the gateway under test."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.transport: asyncio.Transport | None = None
        self.parser = httptools.HttpResponseParser(self)
        self.answer = Answer()
        self.waiter: asyncio.Future[Answer] | None = None
        self.reusable = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        self.answer.broken = True
        self._finish()

    def data_received(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError:
            self.close()

    def on_body(self, body: bytes) -> None:
        answer = self.answer
        count = body.count(b"data:")
        if answer.first_at_s == 0.0 and (count or body.startswith(b"{")):
            answer.first_at_s = time.monotonic()
        answer.events += count

    def on_message_complete(self) -> None:
        self.answer.status = self.parser.get_status_code()
        self.reusable = self.parser.should_keep_alive()
        self._finish()
        self.parser = httptools.HttpResponseParser(self)

    def send(self, request: bytes) -> asyncio.Future[Answer]:
        """Send a request; the future holds its answer, also when it broke."""
        self.answer = Answer(sent_at_s=time.monotonic())
        self.waiter = waiter = self.loop.create_future()
        if self.transport is None:
            self.answer.broken = True
            self._finish()
        else:
            self.transport.write(request)
        return waiter

    def close(self) -> None:
        if self.transport is not None:
            self.transport.abort()
            self.transport = None

    def _finish(self) -> None:
        waiter, self.waiter = self.waiter, None
        if waiter is not None and not waiter.done():
            self.answer.ended_at_s = time.monotonic()
            waiter.set_result(self.answer)


async def connect(port: int) -> Connection:
    """A new connection to a port of this machine."""
    loop = asyncio.get_running_loop()
    _, connection = await loop.create_connection(lambda: Connection(loop), "127.0.0.1", port)
    return connection

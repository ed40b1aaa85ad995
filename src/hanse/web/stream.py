"""The live stream: one pump makes each picture once, any number of readers take the newest.

Here: pacing, fan-out and server-sent events. Not here: what a picture says. Rules of the house:
no reader, no work; a slow reader skips pictures and never delays the pump, the app or another
reader; a reader that takes nothing for `send_s_max` is let go.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Protocol

from starlette.responses import StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from hanse.view import LeagueView

log = logging.getLogger(__name__)


class ViewSource(Protocol):
    """Where the dashboard gets its pictures."""

    def snapshot(self) -> LeagueView:
        """The picture of this instant; cheap enough for a few calls a second."""
        ...

    async def changed(self) -> None:
        """Returns when there is news since the call; at most 4 times a second."""
        ...


@dataclass(frozen=True, kw_only=True)
class Pace:
    """How often, how long, how many."""

    frame_s_min: float = 0.5
    """Twice a second is as often as sites report; faster would show nothing new."""
    quiet_s_max: float = 1.0
    """A picture is sent this often without news too: a site that falls silent sends none."""
    beat_s: float = 10.0
    """A comment this often when no picture comes at all, well under common proxy time-outs."""
    send_s_max: float = 20.0
    """A reader whose socket takes nothing for so long has gone without saying so."""
    retry_ms: int = 1000
    streams_max: int = 64


@dataclass(frozen=True)
class Frame:
    """One picture, encoded once for all readers."""

    view: bytes
    """Server-sent event `view`: the JSON of a LeagueView."""
    page: bytes
    """Server-sent event `page`: JSON of {section id: HTML}."""


def event(name: str, data: bytes) -> bytes:
    """One server-sent event; JSON has no line break, so one data line holds it."""
    assert b"\n" not in data, "an event's data is one line"
    return b"event: " + name.encode() + b"\ndata: " + data + b"\n\n"


class Feed:
    """Makes frames while somebody reads."""

    def __init__(
        self, source: ViewSource, render: Callable[[LeagueView], Frame], pace: Pace
    ) -> None:
        self.pace = pace
        self.readers = 0
        self._source = source
        self._render = render
        self._latest: Frame | None = None
        self._number = 0
        self._turn = asyncio.Event()
        self._pump: asyncio.Task[None] | None = None

    def join(self) -> bool:
        """Count one more reader; False when the house is full."""
        if self.readers >= self.pace.streams_max:
            return False
        self.readers += 1
        if self._pump is None or self._pump.done():
            self._pump = asyncio.create_task(self._run(), name="dashboard pump")
            self._pump.add_done_callback(self._stopped)
        return True

    def leave(self) -> None:
        """Count one reader less; the last one stops the pump."""
        self.readers -= 1
        if self.readers == 0 and self._pump is not None:
            self._pump.cancel()
            self._pump = self._latest = None

    async def chunks(self, *, page: bool) -> AsyncIterator[bytes]:
        """What one reader is sent: always the newest frame, never a queue of old ones."""
        yield b"retry: %d\n\n" % self.pace.retry_ms
        seen = 0
        pump = self._pump
        while pump is not None and not pump.done():
            if self._latest is None or self._number == seen:
                try:
                    async with asyncio.timeout(self.pace.beat_s):
                        await self._turn.wait()
                except TimeoutError:
                    yield b": still here\n\n"
                continue
            seen, frame = self._number, self._latest
            yield frame.view + frame.page if page else frame.view

    async def _run(self) -> None:
        while True:
            news = asyncio.ensure_future(self._source.changed())
            try:
                self._publish(self._render(self._source.snapshot()))
                await asyncio.sleep(self.pace.frame_s_min)
                await asyncio.wait({news}, timeout=self.pace.quiet_s_max - self.pace.frame_s_min)
                if news.done():
                    news.result()
            finally:
                news.cancel()

    def _publish(self, frame: Frame) -> None:
        self._latest = frame
        self._number += 1
        self._wake()

    def _stopped(self, pump: asyncio.Task[None]) -> None:
        if not pump.cancelled() and pump.exception() is not None:
            log.error("the dashboard's pump stopped", exc_info=pump.exception())
        self._wake()

    def _wake(self) -> None:
        turn, self._turn = self._turn, asyncio.Event()
        turn.set()


class LiveResponse(StreamingResponse):
    """A server-sent event stream that counts its reader and lets a dead one go."""

    def __init__(self, feed: Feed, *, page: bool) -> None:
        super().__init__(
            feed.chunks(page=page),
            media_type="text/event-stream",
            headers={"cache-control": "no-store", "x-accel-buffering": "no"},
        )
        self._feed = feed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_in_time(message: Message) -> None:
            async with asyncio.timeout(self._feed.pace.send_s_max):
                await send(message)

        try:
            await super().__call__(scope, receive, send_in_time)
        except TimeoutError:
            log.info("a reader of the dashboard's stream took nothing for too long")
        finally:
            self._feed.leave()

"""One request while it is being answered: from the first byte upstream to the last byte downstream.

Here: what entry and serving side share: winning attempt, plain and streamed answers, back-pressure, cancellation, settling each
attempt exactly once. Not here: choosing and retrying across sites (`entry`), the hop's checks (`hop`), parsing (`incoming`).

    start --> attempts in flight --first byte--> winner --end--> finished
                    |  none left                    |  breaks
                    v                               v
                 refused           further attempts (`continued`), else error event, connection closed
"""

from __future__ import annotations

from functools import partial
from time import time
from typing import TYPE_CHECKING, ClassVar

import msgspec

from hanse.live.gateway import answers
from hanse.live.gateway import body as bodies
from hanse.live.gateway.attempt import HOLD_ALL_BYTES_MAX, HOLD_BYTES_MAX
from hanse.live.gateway.engine_error import in_openai_shape
from hanse.live.gateway.metrics import (
    BROKEN_STREAMS,
    FAILED,
    FAILURES,
)
from hanse.live.gateway.sse import BROKE_PREFIX, BROKEN, StreamTap, Usage

if TYPE_CHECKING:
    from hanse.live.gateway.attempt import Attempt
    from hanse.live.gateway.continued import Carried
    from hanse.live.gateway.heads import KnownAnswer
    from hanse.live.gateway.incoming import Incoming
    from hanse.live.gateway.measured import Measured
    from hanse.live.gateway.outgoing import Outgoing
    from hanse.live.gateway.worker import Worker

_FAILED_AT = {name: FAILED + i for i, name in enumerate(FAILURES)}


class Exchange(msgspec.Struct, eq=False):
    """Base of `Entry` and `Hop`; implements `incoming.Running`. A struct, since making one is a tenth of what a class takes."""

    worker: Worker
    link: Incoming
    request_id: bytes
    id_hex: bytes
    started_at_s: float
    expires_at_s: float
    head: bodies.Head
    path: bytes
    body: bytes
    tokens_in: int
    tokens_out: int
    attempts: list[Attempt] = []
    winner: Attempt | None = None
    tap: StreamTap | None = None
    finished: bool = False
    ends: bodies.Ends | None = None
    """What is kept of a plain answer too large to hold: passing through without measured values in its head."""
    raw_chunks: bool = False
    usage: Usage | None = None
    measured: Measured | None = None
    first_byte_at_s: float = 0.0
    status: int = 0
    drop_usage: bool = False
    """The usage chunk of the stream was asked for by us, not by the client."""
    trails: ClassVar[bool] = False
    """Who asked reads `trailer_lines`."""
    deferrable: ClassVar[bool] = False
    """It may wait: a line of a batch."""
    up_name: str = ""
    up_body: bytes = b""
    """The body as it goes upstream, and for which model's name it was made."""
    carried: Carried | None = None
    """Of a stream whose winner broke: what the client has of it. `winner` is that attempt until another goes on."""
    not_continued: str = ""

    # --- what entry and hop do differently

    def request_bytes(self, attempt: Attempt, out: Outgoing) -> bytes | None:
        raise NotImplementedError

    def turned_down(self, attempt: Attempt, out: Outgoing) -> None:
        """A complete answer that speaks of the engine or site only: try elsewhere."""
        raise NotImplementedError

    def failed(self, attempt: Attempt, kind: str, reason: str) -> None:
        """The attempt ended without a first byte: try elsewhere."""
        raise NotImplementedError

    def unrecorded(self, attempt: Attempt) -> None:
        """The attempt could not be put on record: nothing may go on."""
        raise NotImplementedError

    def overdue(self, attempt: Attempt, now_s: float) -> None:
        """No first byte by the attempt's deadline."""
        raise NotImplementedError

    def hedge(self, attempt: Attempt, now_s: float) -> None:
        """The attempt is slow: a second one beside it may be worth its cost."""
        raise NotImplementedError

    def head_lines(self, attempt: Attempt) -> bytes:
        """Header lines of an answer that an engine gave."""
        raise NotImplementedError

    def whole_lines(self, attempt: Attempt) -> bytes:
        """Header lines of a whole plain answer: `head_lines` and what was measured."""
        raise NotImplementedError

    def trailer_lines(self) -> bytes:
        """What was measured, after an answer that was not held; only for a receiver who reads it."""
        return b""

    def last_comment(self) -> bytes:
        """The comment before `[DONE]`; runs `measure`."""
        raise NotImplementedError

    def measure(self, attempt: Attempt, now_s: float) -> None:
        """Book what the winning attempt took."""
        raise NotImplementedError

    def conclude(self, outcome: str, now_s: float) -> None:
        """The last word: evidence, metrics, what people see."""
        raise NotImplementedError

    def answer_plain(self, attempt: Attempt, known: KnownAnswer, data: bytes) -> bool:
        """A whole 200 that is no stream; False where its end is not that simple, and nothing was done."""
        return False

    def lose(self, attempt: Attempt, data: bytes, reason: str) -> None:
        """A stream cannot go on from its winner; `data` is the last that came of it."""
        self.break_stream(data, reason)

    def quiet(self, attempt: Attempt) -> None:
        """The winner's site does not answer any more; whether it is dead or cut off nobody knows."""

    # --- the first byte

    def is_stream(self, out: Outgoing) -> bool:
        return out.headers.get(b"content-type", b"").startswith(b"text/event-stream")

    def won(self, attempt: Attempt, out: Outgoing) -> float:
        """This attempt answers the client; all others are dropped."""
        now_s = time()
        attempt.won = True
        self.winner = attempt
        self.status = out.status
        self.first_byte_at_s = now_s
        self.worker.waiting.discard(attempt)
        if len(self.attempts) > 1:
            for other in self.attempts:
                if other is not attempt and not other.settled:
                    other.drop()
                    self.settle(other)
        return now_s

    def win(self, attempt: Attempt, out: Outgoing) -> None:
        """The first byte of a stream, or of a plain answer too large to hold."""
        self.won(attempt, out)
        self.worker.routing.first_byte(attempt)
        if out.status == 200 and self.is_stream(out):
            self._open_stream(attempt, out)
        else:
            self._open_wide(attempt, out)

    def go_on(self, attempt: Attempt, out: Outgoing) -> None:
        """A plain answer is larger than what is held of any: it is held on while memory allows, else passed through."""
        worker = self.worker
        worker.waiting.discard(attempt)  # it answers, and only its end is to come
        more = out.got_bytes - attempt.held_bytes
        room = HOLD_ALL_BYTES_MAX - worker.held_bytes
        if out.got_bytes > HOLD_BYTES_MAX or more > room:
            self._let_go(attempt)
            self.win(attempt, out)
            return
        attempt.held_bytes += more
        worker.held_bytes += more

    def _let_go(self, attempt: Attempt) -> None:
        self.worker.held_bytes -= attempt.held_bytes
        attempt.held_bytes = 0

    def win_whole(self, attempt: Attempt, out: Outgoing) -> None:
        """A plain answer is here from first to last byte."""
        now_s = self.won(attempt, out)
        data = out.take()
        attempt.body_bytes = len(data)
        attempt.out = None
        kind = out.headers.get(b"content-type", b"application/json")
        if out.status == 200:
            self.usage = bodies.usage_of(data)
        elif out.status >= 400:
            data, kind = in_openai_shape(out.status, data, self.head), b"application/json"
        self.measure(attempt, now_s)
        link = self.link
        head = b"%b%bcontent-type: %b\r\ncontent-length: %d\r\n%b%b" % (
            answers.STATUS_LINES.get(out.status) or answers.status_line(out.status),
            link.door.date_line,
            kind,
            len(data),
            self.whole_lines(attempt),
            b"\r\n" if link.keep_alive and not link.close_after else b"connection: close\r\n\r\n",
        )
        link.transport.write(head + data)
        if attempt.held_bytes and link.write_paused:
            link.reads_late(partial(self._read_late, attempt.held_bytes))
            attempt.held_bytes = 0
        self.finish("answered")
        link.ended()

    def _read_late(self, held_bytes: int) -> None:
        """The client has an answer that was held, or never will."""
        self.worker.held_bytes -= held_bytes

    def more(self, attempt: Attempt, out: Outgoing) -> None:
        """Further bytes of the winner."""
        if self.finished:
            return
        data = out.take()
        attempt.body_bytes += len(data)
        tap = self.tap
        if tap is not None:
            self.pass_on(attempt, out, tap.feed(data))
            return
        assert self.ends is not None
        self.ends.feed(data)
        if out.done:
            attempt.out = None  # whoever writes to a slow client must not pause a connection that serves others next
        self.write(data)
        if out.done:
            self.end_wide(attempt, out)

    def end_wide(self, attempt: Attempt, out: Outgoing) -> None:
        """The last byte of a plain answer that passes through has come."""
        if self.status == 200 and self.ends is not None:
            self.usage = self.ends.usage()
        self.measure(attempt, time())
        self._close_body(self.trailer_lines())
        self.finish("answered")
        self.link.ended()

    def pass_on(self, attempt: Attempt, out: Outgoing, data: bytes) -> None:
        """What the tap let through, and the stream's end where it came."""
        assert self.tap is not None
        if self.tap.lost:
            attempt.drop()
            self.lose(attempt, data, self.tap.lost)
        elif out.done:
            self.end_stream(attempt, out, data)
        elif data:
            self.write(data)

    def broke(self, attempt: Attempt, reason: str) -> None:
        """The winner's connection broke after bytes had gone to the client."""
        if self.finished:
            return
        tap = self.tap
        if tap is not None and tap.done:  # complete; only the transfer's end was cut off
            self.end_stream(attempt, None, b"")
        elif tap is not None:
            self.lose(attempt, b"", reason)
        else:
            self.worker.counts.row[BROKEN_STREAMS] += 1.0
            self.finish("broken")
            self.link.broken()

    # --- incoming.Running

    def client_gone(self) -> None:
        if not self.finished:
            self._drop_all()
            # Clients close at `[DONE]`, before the transfer's end has come.
            whole = self.tap is not None and self.tap.done
            self.finish("answered" if whole else "cancelled")

    def client_paused(self) -> None:
        if self.winner is not None and self.winner.out is not None:
            self.winner.out.transport.pause_reading()

    def client_resumed(self) -> None:
        if self.winner is not None and self.winner.out is not None:
            self.winner.out.transport.resume_reading()

    # --- ends

    def expire(self) -> None:
        """The service's deadline passed."""
        if self.finished:
            return
        message = "the service's deadline passed"
        winner = self.winner
        self._drop_all()
        if winner is not None and self.tap is not None:
            self.break_stream(b"", message)
        elif winner is not None:
            self.finish("broken")
            self.link.broken()
        else:
            self.finish("failed")
            self.link.refuse(504, "deadline_exceeded", message, extra=self.id_line())

    def settle(self, attempt: Attempt) -> None:
        """Take the attempt's load back; exactly once."""
        if not attempt.settled:
            attempt.settled = True
            self.worker.waiting.discard(attempt)
            self._let_go(attempt)
            self.worker.routing.end(attempt)

    def finish(self, outcome: str) -> None:
        """Exactly once, however it ended."""
        if self.finished:
            return
        self.finished = True
        now_s = time()
        worker = self.worker
        winner = self.winner
        if winner is not None and self.measured is None:
            self.measure(winner, now_s)
        for attempt in self.attempts:
            self.settle(attempt)
        worker.running.discard(self)
        self.conclude(outcome, now_s)
        # Attempts, stream tap and this refer to each other: cut, so that nothing waits for the collector.
        self.attempts = []
        self.winner = self.tap = self.carried = None

    def count_failure(self, kind: str) -> None:
        """One attempt failed."""
        self.worker.counts.row[_FAILED_AT[kind]] += 1.0

    def id_line(self) -> bytes:
        """`x-request-id:` header line."""
        return b"x-request-id: " + self.id_hex + b"\r\n"

    # --- writing to the client

    def _open_wide(self, attempt: Attempt, out: Outgoing) -> None:
        self.ends = bodies.Ends()
        length = None if self.trails else out.headers.get(b"content-length")
        self.raw_chunks = length is None and not self.link.http10
        framing = (
            b"content-length: " + length + b"\r\n"
            if length is not None
            else self._unsized_framing()
        )
        kind = out.headers.get(b"content-type", b"application/json")
        self._write_head(out.status, kind, framing, attempt)
        self.pass_pause()
        self.more(attempt, out)

    def _open_stream(self, attempt: Attempt, out: Outgoing) -> None:
        self.tap = self.new_tap(attempt)
        self.raw_chunks = not self.link.http10
        head = self._stream_head(attempt)
        data = out.take()
        attempt.body_bytes += len(data)
        data = self.tap.feed(data)
        if out.done or self.tap.lost:
            self.link.transport.write(head)
            self.pass_on(attempt, out, data)
            return
        if data and self.raw_chunks:
            data = b"%b%x\r\n%b\r\n" % (head, len(data), data)
        else:
            data = head + data
        self.link.transport.write(data)  # head and first token in one segment
        self.pass_pause()

    def new_tap(self, attempt: Attempt) -> StreamTap:
        """What the winner's stream goes through."""
        return StreamTap(drop_usage=self.drop_usage, last_comment=self.last_comment)

    def _stream_head(self, attempt: Attempt) -> bytes:
        link = self.link
        return b"".join(
            (
                answers.STATUS_LINES[200],
                link.door.date_line,
                b"content-type: text/event-stream; charset=utf-8\r\ncache-control: no-cache\r\n",
                self.head_lines(attempt),
                self._unsized_framing(),
                b"\r\n" if link.keep_alive else b"connection: close\r\n\r\n",
            )
        )

    def _unsized_framing(self) -> bytes:
        if self.link.http10:  # the end of the connection is the end of the body
            self.link.keep_alive = False
            return b""
        return b"transfer-encoding: chunked\r\n"

    def _write_head(self, status: int, kind: bytes, framing: bytes, attempt: Attempt) -> None:
        link = self.link
        head = b"".join(
            (
                answers.status_line(status),
                link.door.date_line,
                b"content-type: ",
                kind,
                b"\r\n",
                self.head_lines(attempt),
                framing,
                b"\r\n" if link.keep_alive else b"connection: close\r\n\r\n",
            )
        )
        link.transport.write(head)

    def pass_pause(self) -> None:
        """A client that was slow before there was a winner must slow the winner too."""
        if self.link.write_paused:
            self.client_paused()

    def write(self, data: bytes) -> None:
        if data:
            if self.raw_chunks:
                data = b"%x\r\n%b\r\n" % (len(data), data)
            self.link.transport.write(data)

    def _close_body(self, trailer: bytes = b"") -> None:
        if self.raw_chunks:
            self.link.transport.write(b"0\r\n" + trailer + b"\r\n")

    def end_stream(self, attempt: Attempt, out: Outgoing | None, data: bytes) -> None:
        tap = self.tap
        assert tap is not None
        if out is not None and not tap.done and not tap.errored and not out.sized:
            # Without framing only `[DONE]` tells an end from a cut.
            attempt.out = None
            self.lose(attempt, data, "the connection closed before the end of the stream")
            return
        data += tap.end()
        attempt.out = None
        if self.raw_chunks and data:
            data = b"%x\r\n%b\r\n0\r\n\r\n" % (len(data), data)
        elif self.raw_chunks:
            data = b"0\r\n\r\n"
        if data:
            self.link.transport.write(data)
        self.finish("broken" if tap.errored and not tap.done else "answered")
        self.link.ended()

    def break_stream(self, data: bytes, reason: str) -> None:
        """End a stream that cannot go on with an error event; never silently."""
        hanse: dict[str, object] = {"request_id": self.request_id.hex()}
        if self.not_continued:
            hanse["not_continued"] = self.not_continued
        event = answers.stream_error(BROKEN, BROKE_PREFIX + reason, hanse=hanse)
        self.write(data + event)
        self._close_body()
        self.worker.counts.row[BROKEN_STREAMS] += 1.0
        self._drop_all()
        self.finish("broken")
        self.link.broken()

    def _drop_all(self) -> None:
        for attempt in self.attempts:
            if not attempt.settled:
                attempt.drop()

"""A stream of server-sent events on its way to the client: whole events only, one chunk dropped, one comment added.

Here: `StreamTap`, bytes in, bytes out; it counts tokens, catches usage, drops the usage chunk that only our own splice asked
for, puts the comment with measured values before `data: [DONE]`, and keeps what went out for `told`. Not here: sockets, chunked
coding.

Every event passes byte for byte. Only segments that could hold something to act on are looked at event by event; all
others cost one search for the last blank line.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import msgspec

from hanse.live.gateway.told import RAW_BYTES_MAX, Told
from hanse.model.told import UNREADABLE

EVENT_BYTES_MAX = 1024 * 1024
"""An event longer than this is no token of any engine."""

_USAGE = re.compile(rb'"usage"\s*:\s*\{')
"""Unescaped quotes: inside generated text they carry a backslash and never match."""
_BLANK = re.compile(rb"\r?\n\r?\n")

BROKEN = "stream_broken"
BROKE_PREFIX = "the stream broke: "
"""Code and message of the event that ends a stream that nobody goes on with."""
DONE_PREFIXES = (b"data: [DONE]", b"data:[DONE]")
NOTE_PREFIX = b": hanse "
ERROR_PREFIXES = (b"event: error", b"event:error", b'data: {"error"', b'data:{"error"')


class PromptDetails(msgspec.Struct):
    """The part of a prompt that was in the KV cache."""

    cached_tokens: int | None = None


class Usage(msgspec.Struct):
    """OpenAI's `usage`; other fields are ignored."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    prompt_tokens_details: PromptDetails | None = None


class _Chunk(msgspec.Struct):
    """What is read of a chunk that may carry usage."""

    choices: list[msgspec.Raw] = []
    usage: Usage | None = None


class _Error(msgspec.Struct):
    code: str | int | None = None
    message: str = ""


class _ErrorEvent(msgspec.Struct):
    error: _Error


_decode_chunk = msgspec.json.Decoder(_Chunk).decode
_decode_error = msgspec.json.Decoder(_ErrorEvent).decode


class StreamTap(msgspec.Struct, eq=False):
    """One stream. `feed` returns what may go to the client now."""

    drop_usage: bool
    """The chunk with `usage` was asked for by our own splice: the client must not see it."""
    last_comment: Callable[[], bytes]
    """Called once, when the stream is at its end: the comment before `[DONE]`."""
    tail: bytes = b""
    events: int = 0
    """Events with content so far: a lower bound of output tokens until `usage` arrives."""
    usage: Usage | None = None
    done: bool = False
    """`[DONE]` went by: the stream is complete whatever the connection does next."""
    errored: bool = False
    """The engine itself sent an error event: its stream ended clearly, but not well."""
    note: bytes = b""
    """The serving site's `: hanse {json}` comment, which the entry gateway replaces by its own."""
    lost: str = ""
    """Why nothing more is to be hoped for from here: an event without end, or a peer's word that its engine broke."""
    from_peer: bool = False
    """A peer's gateway says itself when its engine broke: another engine may go on, so the client need not hear of it."""
    told: Told | None = None
    """Where what went out is taken down, so that somebody else could go on; None: nobody could."""
    keeping: bool = False
    kept: list[bytes] = []
    """Events that went out and are not in `told` yet."""
    room: int = RAW_BYTES_MAX
    """Bytes that may be kept before `told` takes them in."""
    rewrite: Callable[[bytes], bytes] | None = None
    """Every chunk goes through this; empty: the client does not get it."""

    def feed(self, data: bytes) -> bytes:
        """Add bytes from the engine; whole events come out."""
        if self.tail:
            data = self.tail + data
        end = data.rfind(b"\n\n")
        cut = end + 2 if end >= 0 else 0
        if b"\r" in data:
            crlf = data.rfind(b"\r\n\r\n")
            cut = max(cut, crlf + 4 if crlf >= 0 else 0)
        if cut == len(data):
            whole, self.tail = data, b""
        else:
            whole, self.tail = data[:cut], data[cut:]
            if len(self.tail) > EVENT_BYTES_MAX:
                self.lost = "an event without end"
        if not whole:
            return whole
        if self.rewrite is None and not (
            b"[DONE]" in whole
            or b"error" in whole
            or b": hanse " in whole
            or (b'"usage"' in whole and _USAGE.search(whole) is not None)
        ):
            self.events += whole.count(b"\n\n") or whole.count(b"\r\n\r\n")
        else:
            whole = self._by_event(whole)
        if self.keeping:
            self.kept.append(whole)
            self.room -= len(whole)
            if self.room < 0:
                self.take_down(1 + len(self.kept) // 4)
        return whole

    def take_down(self, count: int | None = None) -> None:
        """Bring `told` up to date: with the oldest so many pieces that went out, or with all."""
        assert self.told is not None
        raw = b"".join(self.kept[:count])
        del self.kept[:count]
        self.told.add(raw)
        self.room += len(raw)
        if self.told.barred:
            self.kept, self.keeping = [], False

    def end(self) -> bytes:
        """The engine's stream ended properly: what is left to send."""
        rest, self.tail = self.tail, b""
        if rest.strip():
            rest = self._by_event(rest + b"\n\n")
        return rest if self.done or self.errored else rest + self.last_comment()

    def _by_event(self, whole: bytes) -> bytes:
        out: list[bytes] = []
        start = 0
        for blank in _BLANK.finditer(whole):
            event = whole[start : blank.end()]
            start = blank.end()
            if self._keep(event, out):
                out.append(event if self.rewrite is None else self.rewrite(event))
        if start < len(whole):
            out.append(whole[start:])
        return b"".join(out)

    def _keep(self, event: bytes, out: list[bytes]) -> bool:
        """Take note of one event; False where the client must not see it."""
        if event.startswith(DONE_PREFIXES):
            if not self.done:
                self.done = True
                out.append(self.last_comment())
            return True
        if event.startswith(NOTE_PREFIX):
            self.note = event[len(NOTE_PREFIX) :].strip()
            return False
        if event.startswith(ERROR_PREFIXES):
            self.lost = self.lost or (_lost_at_peer(event) if self.from_peer else "")
            self.errored = not self.lost
            return self.errored
        if _USAGE.search(event) is not None:
            chunk = _usage_of(event)
            if chunk is not None and chunk.usage is not None:
                self.usage = chunk.usage
                if self.drop_usage and not chunk.choices:
                    return False
        self.events += 1
        return True


def _lost_at_peer(event: bytes) -> str:
    """Why a peer could not go on; empty: it is the engine's own error, which is the answer."""
    try:
        error = _decode_error(event[event.index(b"data:") + 5 :].strip()).error
    except (*UNREADABLE, ValueError):
        return ""
    return error.message.removeprefix(BROKE_PREFIX) if error.code == BROKEN else ""


def _usage_of(event: bytes) -> _Chunk | None:
    line = event.strip()
    if not line.startswith(b"data:"):
        return None
    try:
        return _decode_chunk(line[5:])
    except UNREADABLE:
        return None

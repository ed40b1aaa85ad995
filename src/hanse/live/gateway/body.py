"""What the gateway reads of a request body, and the two things it may change in it.

Here: partial decoding (model, stream, token limits, conversation boundaries), the splices of `stream_options` and `model`,
usage of plain answers. Not here: meaning (`flow`), the stream's side (`sse`).

A splice changes exactly what it names. The fast way cuts bytes; where JSON's freedoms (escaped or repeated keys) could
make a cut land wrong, the top level is written anew with every other value copied verbatim.
"""

from __future__ import annotations

import json
import re
from typing import Any

import msgspec

from hanse.live.gateway.sse import Usage
from hanse.live.gateway.wording import unreadable
from hanse.model.told import UNREADABLE

BYTES_PER_TOKEN = 4.0
"""English text in the usual BPE vocabularies; only a guess until the engine's `usage` corrects it."""
TOKENS_PER_MESSAGE = 4
"""Role and separators that a chat template puts around one message."""

UNSET = msgspec.UNSET

EXAMPLE = '{"model": "chat", "messages": [{"role": "user", "content": "Hello"}]}'
FORMS = {
    "model": 'a name that GET /v1/models lists, such as "chat"',
    "messages": 'an array such as [{"role": "user", "content": "Hello"}]',
    "stream": "true or false",
    "stream_options": 'an object such as {"include_usage": true}',
    "max_tokens": "a whole number such as 256",
    "max_completion_tokens": "a whole number such as 256",
    "n": "a whole number such as 1",
}
"""Of the fields of `Head`, for who wrote them otherwise."""


class StreamOptions(msgspec.Struct):
    """OpenAI's `stream_options`."""

    include_usage: bool | None = None


class Head(msgspec.Struct):
    """The fields of a request that matter to routing; all others are not even built."""

    model: str
    stream: bool | None = False
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    stream_options: StreamOptions | msgspec.UnsetType | None = UNSET
    n: int | None = None
    messages: list[msgspec.Raw] | None = None
    prompt: msgspec.Raw = msgspec.Raw(b"")
    input: msgspec.Raw = msgspec.Raw(b"")


class _Answer(msgspec.Struct):
    usage: Usage | None = None


decode_head = msgspec.json.Decoder(Head).decode
_decode_answer = msgspec.json.Decoder(_Answer).decode
_decode_top = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode

_MODEL = re.compile(rb'"model"\s*:\s*("(?:[^"\\]|\\.)*")')
_USAGE = re.compile(rb'"usage"\s*:\s*\{')
_read_value = json.JSONDecoder().raw_decode
ENDS_BYTES = 4096
_OPENING = re.compile(rb"\s*\{")
_INCLUDE_USAGE = b'"stream_options":{"include_usage":true},'


class BadBody(Exception):
    """The body is not a request: `message` and `param` say why, in the client's terms."""

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param


def read_head(body: bytes) -> Head:
    """Decode what routing needs.

    Raises:
        BadBody: where the body is not JSON of that shape.
    """
    try:
        head = decode_head(body)
        if not body.isascii():
            body.decode()  # what the decoder skips it does not look at, and what is no UTF-8 is no JSON
        return head
    except UNREADABLE as error:
        raise BadBody(*unreadable(body, error, FORMS, EXAMPLE)) from None


def prompt_field(head: Head) -> str:
    """The field that a request's prompt is in."""
    if head.messages is not None:
        return "messages"
    return "input" if _length(head.input) else "prompt"


def tokens_in(head: Head) -> int:
    """Prompt tokens, guessed from bytes."""
    if head.messages is not None:
        size = 0
        for raw in head.messages:
            size += len(memoryview(raw))
        return int(size / BYTES_PER_TOKEN) + TOKENS_PER_MESSAGE
    return max(1, int(max(_length(head.prompt), _length(head.input)) / BYTES_PER_TOKEN))


def tokens_out_max(head: Head) -> int | None:
    """The client's own limit of output tokens (all choices), or None."""
    limit = head.max_completion_tokens
    if limit is None:
        limit = head.max_tokens
    if limit is None or limit < 0:
        return None
    choices = head.n
    return limit if choices is None or choices <= 1 else limit * choices


def wants_usage_splice(head: Head) -> bool:
    """True where a stream would end without its usage."""
    if not head.stream:
        return False
    options = head.stream_options
    return not (isinstance(options, StreamOptions) and options.include_usage)


def splice(body: bytes, head: Head, *, include_usage: bool, model: str | None) -> bytes:
    """The body with `stream_options.include_usage` true and/or another `model`; the rest untouched."""
    slow: dict[str, Any] = {}
    if model is not None and model != head.model:
        cut = _model_cut(body, head.model)
        if cut is None:
            slow["model"] = model
        else:
            body = b"".join((body[: cut[0]], msgspec.json.encode(model), body[cut[1] :]))
    if include_usage:
        opening = _OPENING.match(body)
        if head.stream_options is UNSET and opening is not None:
            at = opening.end()
            body = b"".join((body[:at], _INCLUDE_USAGE, body[at:]))
        else:
            slow["stream_options"] = None
    return _rewrite_top(body, slow) if slow else body


def usage_of(answer: bytes) -> Usage | None:
    """`usage` of a plain answer, or None where the engine gave none."""
    try:
        return _decode_answer(answer).usage
    except UNREADABLE:
        return None


class Ends:
    """The first and the last bytes of a plain answer that is not held: `usage` stands before or after what is long."""

    def __init__(self) -> None:
        self._first = bytearray()
        self._last = b""

    def feed(self, data: bytes) -> None:
        """Further bytes."""
        more = ENDS_BYTES - len(self._first)
        if more > 0:
            self._first += data[:more]
        self._last = (self._last + data[-ENDS_BYTES:])[-ENDS_BYTES:]

    def usage(self) -> Usage | None:
        """`usage`, or None where neither end has it whole."""
        for end in (self._last, bytes(self._first)):
            # Inside a string its quotes would be escaped.
            for found in _USAGE.finditer(end):
                try:
                    value, _ = _read_value(end.decode("latin-1"), found.end() - 1)
                    return msgspec.convert(value, Usage)
                except (ValueError, *UNREADABLE):
                    continue
        return None


def _length(raw: msgspec.Raw) -> int:
    return len(memoryview(raw))


def _model_cut(body: bytes, name: str) -> tuple[int, int] | None:
    """Span of the top-level model's value, or None where one search cannot be sure of it.

    Exactly one `"model"` in the whole body, spelt without escapes, must be the key that the decoder found.
    """
    if body.count(b'"model"') != 1 or b"\\u" in body:
        return None
    found = _MODEL.search(body)
    if found is None or msgspec.json.decode(found.group(1)) != name:
        return None
    return found.span(1)


def _rewrite_top(body: bytes, changes: dict[str, Any]) -> bytes:
    top: dict[str, Any] = _decode_top(body)
    for key, value in changes.items():
        if key != "stream_options":
            top[key] = value
            continue
        old = top.get(key)
        options = (msgspec.json.decode(old) if old is not None else None) or {}
        top[key] = {**options, "include_usage": True}
    return msgspec.json.encode(top)

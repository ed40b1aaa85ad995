"""What a client has been told of a streamed answer, so that another engine can go on where one stopped.

Here: `Told`, made of the events that went out; `go_on_with`, the request that asks for the rest; `Rewrite`, which makes the second
engine's chunks look like the first's. Not here: who goes on and when (`continued`), sockets, the tap that keeps the events (`sse`).

Rule. A chunk with text counts as one token, for engines send each token as they make it. An engine that sends several at once is
counted short: an answer may then be longer than its limit by the difference, never shorter.

Nothing here is looked at while a stream is well: events are kept as they are, and read when it breaks. Of an answer that goes on beyond
256 KiB of them, some 1,200 tokens, the oldest quarter is read to keep its text alone: 3 us a token, and never more than a millisecond
or two at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import msgspec

from hanse.model.told import UNREADABLE

RAW_BYTES_MAX: Final = 256 * 1024
"""Of events that are kept as they are."""
TEXT_BYTES_MAX: Final = 256 * 1024
"""Ten times the 4,096 tokens that a service answers with at most unless its file says otherwise."""

CHAT: Final = b"/v1/chat/completions"
COMPLETIONS: Final = b"/v1/completions"

_BARRED: Final = (
    "logprobs", "top_logprobs", "prompt_logprobs", "echo", "suffix", "grammar", "json_schema", "structured_outputs",
    "guided_json", "guided_regex", "guided_choice", "guided_grammar", "regex", "ebnf", "structural_tag",
    "include_stop_str_in_output", "return_token_ids", "continue_final_message", "audio",
)  # fmt: skip
"""Fields of a request with which an answer in two parts would be another than in one; a false or empty value is none."""
_LIMITS: Final = ("max_tokens", "max_completion_tokens", "n_predict", "min_tokens")


class _Choice(msgspec.Struct):
    index: int = 0
    delta: dict[str, Any] | None = None
    text: str | None = None
    finish_reason: str | None = None
    logprobs: Any = None


class _Chunk(msgspec.Struct):
    id: str | None = None
    choices: list[_Choice] = []


_Fields = dict[str, msgspec.Raw]
_decode_chunk = msgspec.json.Decoder(_Chunk).decode
_decode_fields = msgspec.json.Decoder(_Fields).decode
_decode_list = msgspec.json.Decoder(list[msgspec.Raw]).decode
_read: Any = msgspec.json.decode
_write = msgspec.json.encode
OF_ANSWER: Final = ("id", "created", "model")
"""Fields that are the same in all chunks of one answer."""


class Told(msgspec.Struct, eq=False):
    """One answer so far."""

    texts: list[str] = []
    text_bytes: int = 0
    tokens: int = 0
    role: bool = False
    """The chunk that names the role has gone out."""
    finish: str = ""
    """`finish_reason`, once it has gone out: nothing is missing then but the stream's own end."""
    barred: str = ""
    """Why nobody can go on with it."""
    first: _Fields | None = None
    """The first chunk's fields."""

    @property
    def text(self) -> str:
        return "".join(self.texts)

    def add(self, raw: bytes) -> None:
        """Take in whole events."""
        for event in raw.replace(b"\r\n", b"\n").split(b"\n\n"):
            data = _data_of(event)
            if data is None:
                self.barred = self.barred or "an event that is no chunk had been sent"
            elif data:
                self._chunk(data)

    def _chunk(self, data: bytes) -> None:
        try:
            chunk = _decode_chunk(data)
            if self.first is None and chunk.id is not None:
                self.first = _decode_fields(data)
        except UNREADABLE:
            self.barred = self.barred or "a chunk could not be read"
            return
        for choice in chunk.choices:
            why = self._choice(choice)
            self.barred = self.barred or why
        if self.text_bytes > TEXT_BYTES_MAX:
            self.barred = self.barred or "the answer was too long to be kept"
            self.texts.clear()

    def _choice(self, choice: _Choice) -> str:
        if choice.index != 0:
            return "several answers had begun"
        if choice.logprobs:
            return "it came with logprobs"
        delta = choice.delta or {}
        for name, value in delta.items():
            if name == "role":
                self.role = True
            elif name != "content" and value:
                return f"`{name}` had begun"
        text = choice.text if choice.delta is None else delta.get("content")
        if text and not isinstance(text, str):
            return "its content was no text"
        if text:
            self.texts.append(text)
            self.text_bytes += len(text)
            self.tokens += 1
        self.finish = self.finish or choice.finish_reason or ""
        return ""

    def last_chunk(self, path: bytes) -> bytes:
        """The event that ends an answer whose limit is reached."""
        end: dict[str, Any] = {"index": 0, "finish_reason": "length"}
        kind = "chat.completion.chunk" if path == CHAT else "text_completion"
        end["delta" if path == CHAT else "text"] = {} if path == CHAT else ""
        first = self.first or {}
        same = {name: first[name] for name in OF_ANSWER if name in first}
        return b"data: " + _write({**same, "object": kind, "choices": [end]}) + b"\n\n"


def _data_of(event: bytes) -> bytes | None:
    """What an event carries; empty: nothing (a comment, `[DONE]`); None: it is of another kind."""
    found = b""
    for line in event.split(b"\n"):
        if line.startswith(b"data:"):
            found += line[5:].strip()
        elif line and not line.startswith(b":"):
            return None
    return b"" if found == b"[DONE]" else found


class Further(msgspec.Struct, frozen=True):
    """The request for the rest."""

    body: bytes
    complete: bool = False
    """The client's limit is reached: there is no rest."""


def go_on_with(path: bytes, body: bytes, told: Told) -> Further | str:
    """The same request with the text so far as the beginning of its answer, or why there is none."""
    if path not in (CHAT, COMPLETIONS):
        return "answers of this path cannot be continued"
    if told.barred:
        return told.barred
    fields: _Fields = _decode_fields(body)
    if max(_number(fields, "n", 1), _number(fields, "best_of", 1)) > 1:
        return "several answers were asked for"
    if not told.tokens:
        return Further(body)  # nothing of it was said yet: any engine may begin again
    why = _barred_by(fields)
    if why:
        return why
    text = told.text
    if any(text.endswith(stop[:size]) for stop in _stops(fields) for size in range(1, len(stop))):
        return "it may have ended within a stop sequence"
    for name in _LIMITS:
        limit = _number(fields, name, -1)
        if limit < 0:
            continue
        if limit <= told.tokens and name != "min_tokens":
            return Further(body, complete=True)
        fields[name] = _raw(max(limit - told.tokens, 0))
    return _with_text(path, fields, text)


def _with_text(path: bytes, fields: _Fields, text: str) -> Further | str:
    if path == COMPLETIONS:
        prompt = _read(fields["prompt"]) if "prompt" in fields else None
        if not isinstance(prompt, str):
            return "its prompt was no single text"
        fields["prompt"] = _raw(prompt + text)
        return Further(_write(fields))
    messages = _decode_list(fields["messages"]) if "messages" in fields else []
    last = _read(messages[-1]) if messages else None
    if not isinstance(last, dict) or last.get("role") == "assistant":
        return "the client had begun the answer itself"
    said = _raw({"role": "assistant", "content": text})
    fields["messages"] = _raw([*messages, said])
    fields["add_generation_prompt"] = _raw(False)
    fields["continue_final_message"] = _raw(True)
    return Further(_write(fields))


def _barred_by(fields: _Fields) -> str:
    for name in _BARRED:
        if name in fields and _read(fields[name]):
            return f"`{name}` was asked for"
    shape = _read(fields["response_format"]) if "response_format" in fields else None
    if isinstance(shape, dict) and shape.get("type", "text") != "text":
        return "`response_format` was asked for"
    forced = _read(fields["tool_choice"]) if "tool_choice" in fields else None
    return "a tool call was asked for" if forced not in (None, "auto", "none") else ""


def _stops(fields: _Fields) -> Iterator[str]:
    stop = _read(fields["stop"]) if "stop" in fields else None
    for one in stop if isinstance(stop, list) else [stop]:
        if isinstance(one, str):
            yield one


def _number(fields: _Fields, name: str, otherwise: int) -> int:
    value = _read(fields[name]) if name in fields else None
    return value if isinstance(value, int) else otherwise


def _raw(value: Any) -> msgspec.Raw:
    return msgspec.Raw(_write(value))


class Rewrite:
    """Chunks of an engine that goes on, as if the first engine had sent them."""

    __slots__ = ("_fields", "_role", "_tokens")

    def __init__(self, told: Told) -> None:
        first = told.first or {}
        self._fields = {name: first[name] for name in OF_ANSWER if name in first}
        self._role, self._tokens = told.role, told.tokens

    def __call__(self, event: bytes) -> bytes:
        """The event as the client gets it; empty: it gets none."""
        data = _data_of(event.strip())
        if not data:
            return event
        try:
            fields = _decode_fields(data)
            choices = _read(fields["choices"]) if "choices" in fields else []
            usage = _read(fields["usage"]) if "usage" in fields else None
            if self._role and self._without_role(choices):
                if len(choices) == 1 and _says_nothing(choices[0]) and not usage:
                    return b""
                fields["choices"] = _raw(choices)
        except (*UNREADABLE, TypeError, AttributeError):
            return event
        if isinstance(usage, dict) and self._tokens:
            fields["usage"] = _raw(self._added(usage))
        return b"data: " + _write(fields | self._fields) + b"\n\n"

    @staticmethod
    def _without_role(choices: Any) -> bool:
        """Take out the role that the first engine told already; False where there is none."""
        found = False
        for choice in choices:
            if "role" in (choice.get("delta") or {}):
                del choice["delta"]["role"]
                found = True
        return found

    def _added(self, usage: dict[str, Any]) -> dict[str, Any]:
        """The prompt once, the completion of both: what was said before is prompt to the second engine."""
        before = self._tokens
        read = max(usage.get("prompt_tokens", 0) - before, 0)
        written = usage.get("completion_tokens", 0) + before
        added = usage | {"prompt_tokens": read, "completion_tokens": written}
        if "total_tokens" in usage:
            added["total_tokens"] = read + written
        details = usage.get("prompt_tokens_details")
        if isinstance(details, dict) and isinstance(details.get("cached_tokens"), int):
            details["cached_tokens"] = min(details["cached_tokens"], read)
        return added


def _says_nothing(choice: dict[str, Any]) -> bool:
    return not any((choice.get("delta") or {}).values()) and not choice.get("finish_reason")

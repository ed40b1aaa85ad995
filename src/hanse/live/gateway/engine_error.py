"""An engine's no to a request, in OpenAI's shape.

Here: what llama.cpp, vLLM and servers like them answer with a status from 400 on, put into `{"error": {message, type, param, code}}`. Not here:
answers that speak of the engine and are tried elsewhere (`attempt.RETRY_STATUS`), answers that succeed: those are not looked at.
"""

from __future__ import annotations

import re
from typing import Any, Final

import msgspec

from hanse.live.gateway.answers import KINDS, openai_error
from hanse.live.gateway.body import Head, prompt_field
from hanse.model.told import UNREADABLE

CONTEXT: Final = "context_length_exceeded"
TEXT_CHARACTERS_MAX: Final = 1000
"""Of an answer that is no JSON: a page of HTML helps nobody."""

_QUOTED: Final = re.compile(r"[`'\"]([a-z_]+)[`'\"]")
_WORD: Final = re.compile(r"[a-z_]+")
_TOO_LONG: Final = re.compile(r"maximum context length|available context size")
_FIELDS: Final = frozenset(
    (
        "best_of",
        "chat_template_kwargs",
        "dimensions",
        "echo",
        "encoding_format",
        "frequency_penalty",
        "grammar",
        "input",
        "json_schema",
        "logit_bias",
        "logprobs",
        "max_completion_tokens",
        "max_tokens",
        "messages",
        "min_p",
        "model",
        "n",
        "presence_penalty",
        "prompt",
        "repeat_penalty",
        "response_format",
        "seed",
        "stop",
        "stream",
        "stream_options",
        "suffix",
        "temperature",
        "tool_choice",
        "tools",
        "top_k",
        "top_logprobs",
        "top_p",
        "user",
    )
)
"""Of a request, as engines name them."""
_PLAIN: Final = frozenset(name for name in _FIELDS if "_" in name) | {"temperature", "logprobs"}
"""Those that are no everyday words: a message that has one means it."""
ERROR_BYTES_MAX: Final = 64 * 1024
"""More is text, whatever it is: nothing else waits while an engine's error is understood."""
_OTHER_NAMES: Final = {"n_predict": "max_tokens"}
"""An engine's own word -> the request's."""


def in_openai_shape(status: int, data: bytes, head: Head) -> bytes:
    """The same no, as OpenAI's clients parse it; one that is of that shape already comes back as it is."""
    said, error = _read(data)
    kind = KINDS.get(status, "invalid_request_error" if status < 500 else "server_error")
    if _is_openai(error, kind):
        return data
    message = _message(said, error) or f"the engine answered {status} and did not say why"
    code = error.get("code")
    param = error.get("param")
    if not isinstance(param, str) or not param:
        param = _param(message, head)
    if error.get("type") == "exceed_context_size_error" or _TOO_LONG.search(message):
        code, param = CONTEXT, prompt_field(head)
        most = error.get("n_ctx")
        if isinstance(most, int) and str(most) not in message:
            message += f"; the limit is {most} tokens"
    return openai_error(message, kind, param, code if _is_code(code) else None)


def _read(data: bytes) -> tuple[object, dict[str, Any]]:
    """(what was said, the part of it that has an error's fields)."""
    try:
        said = msgspec.json.decode(data if len(data) <= ERROR_BYTES_MAX else b"")
    except UNREADABLE:
        return data.decode("utf-8", "replace").strip()[:TEXT_CHARACTERS_MAX], {}
    inner = said.get("error") if isinstance(said, dict) else None
    if isinstance(inner, dict):
        return said, inner
    return said, said if isinstance(said, dict) else {}


def _is_openai(error: dict[str, Any], kind: str) -> bool:
    nulls = error.get("param", 0), error.get("code", 0)
    return (
        error.get("type") == kind
        and isinstance(error.get("message"), str)
        and isinstance(nulls[0], str | None)
        and (nulls[1] is None or _is_code(nulls[1]))
    )


def _is_code(code: object) -> bool:
    """A word, and no status once more."""
    return isinstance(code, str) and bool(code) and not code.isdigit()


def _message(said: object, error: dict[str, Any]) -> str:
    if isinstance(said, str):
        return said
    for part in (error.get("message"), error.get("error"), error.get("detail")):
        if isinstance(part, str) and part:
            return part
        if part:  # FastAPI's list of what is wrong where
            return msgspec.json.encode(part).decode()[:TEXT_CHARACTERS_MAX]
    return ""


def _param(message: str, head: Head) -> str | None:
    """The field that a message speaks of; None where that is not sure."""
    names: list[str] = [name for name in _QUOTED.findall(message) if name in _FIELDS]
    words = (_OTHER_NAMES.get(word, word) for word in _WORD.findall(message))
    names += [word for word in words if word in _PLAIN]
    if not names:
        return None
    if names[0] == "max_tokens" and head.max_tokens is None and head.max_completion_tokens:
        return "max_completion_tokens"
    return names[0]

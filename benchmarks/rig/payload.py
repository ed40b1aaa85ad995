"""Requests that every contender gets, byte for byte the same: body, key, raw HTTP.

Not here: the connection that carries them (`client`, wrk with `chat.lua`).
"""

from __future__ import annotations

import hashlib
import json

MODEL = "bench-model"
KEY = "sk-" + hashlib.sha256(b"key of the gateway benchmark, worth nothing").hexdigest()
"""Any 256-bit value: a constant makes runs comparable and protects only mock answers."""
CHAT_BYTES = 180
LONG_BYTES = 8192
TENANTS = 64
CHUNKS = 64
CHUNK_EVERY_S = 0.020


def build_chat(text: str, *, stream: bool = False, tokens_max: int = CHUNKS) -> bytes:
    """A chat body in the compact form that clients send."""
    body: dict[str, object] = {
        "model": MODEL,
        "messages": [{"role": "user", "content": text}],
        "max_tokens": tokens_max,
    }
    if stream:
        body["stream"] = True
    return json.dumps(body, separators=(",", ":")).encode()


def build_padded_chat(bytes_wanted: int, start: str = "") -> bytes:
    """A chat body of exactly so many bytes, its text beginning with `start`."""
    words = (
        "Which of the towns has room for one more ship, and what would the law of the place say? "
    )
    bare = len(build_chat(start))
    fill = (words * (bytes_wanted // len(words) + 1))[: bytes_wanted - bare]
    body = build_chat(start + fill)
    assert len(body) == bytes_wanted, (len(body), bytes_wanted)
    return body


def build_tenant_chat(tenant: int, turn: int) -> bytes:
    """A prompt that shares its first 800 characters with all prompts of its tenant."""
    preamble = f"You answer for house {tenant:02d} of the league. "
    return build_chat((preamble * 20)[:800] + f" Question {turn}: where next?")


def build_request(body: bytes, *, close: bool = False) -> bytes:
    """The whole HTTP/1.1 request around a chat body."""
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\n"
        "host: 127.0.0.1\r\n"
        f"authorization: Bearer {KEY}\r\n"
        "content-type: application/json\r\n"
        f"content-length: {len(body)}\r\n"
    )
    return (head + ("connection: close\r\n" if close else "") + "\r\n").encode() + body

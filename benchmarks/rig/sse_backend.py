"""A mock engine on uvloop: streams a chunk every 20 ms, or answers a plain completion.

Run as a module (`python -m rig.sse_backend`) with its ports. A stream's chunks follow an absolute schedule from its first byte,
so a late tick does not move the later ones. Not here: real tokens, batching, queues.
"""

from __future__ import annotations

import asyncio
import sys

import httptools
import msgspec
import uvloop

from rig.mock import build_completion
from rig.payload import CHUNK_EVERY_S, CHUNKS, MODEL

HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncache-control: no-cache\r\n"
    b"transfer-encoding: chunked\r\n\r\n"
)
END = b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"


class StreamOptions(msgspec.Struct):
    """What a client may ask of a stream."""

    include_usage: bool = False


class Chat(msgspec.Struct):
    """The fields of a chat request that this mock obeys."""

    stream: bool | None = False
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    """The newer name; sglang-router translates into it."""
    stream_options: StreamOptions | None = None


def build_chunk(delta: dict[str, str], finish: str | None) -> bytes:
    """One chat completion chunk as an SSE event inside one HTTP chunk."""
    value = {
        "id": "chatcmpl-bench",
        "object": "chat.completion.chunk",
        "created": 1700000000,
        "model": MODEL,
        "choices": [{"index": 0, "delta": delta, "finish_reason": finish}],
    }
    return wrap_event(msgspec.json.encode(value))


def build_usage(tokens: int) -> bytes:
    """The last chunk of a stream whose client asked for usage."""
    value = {
        "id": "chatcmpl-bench",
        "object": "chat.completion.chunk",
        "created": 1700000000,
        "model": MODEL,
        "choices": [],
        "usage": {"prompt_tokens": 24, "completion_tokens": tokens, "total_tokens": 24 + tokens},
    }
    return wrap_event(msgspec.json.encode(value))


def wrap_event(data: bytes) -> bytes:
    """`data:` line and HTTP chunk framing around a payload."""
    event = b"data: " + data + b"\n\n"
    return b"%x\r\n%b\r\n" % (len(event), event)


FIRST = build_chunk({"role": "assistant", "content": "ship"}, None)
NEXT = build_chunk({"content": " ship"}, None)
LAST = build_chunk({"content": " ship"}, "stop")
PLAIN = build_completion()
MODELS = msgspec.json.encode({"object": "list", "data": [{"id": MODEL, "object": "model"}]})


class Connection(asyncio.Protocol):
    """One client connection, one request at a time."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.parser = httptools.HttpRequestParser(self)
        self.transport: asyncio.Transport | None = None
        self.timer: asyncio.TimerHandle | None = None
        self.path = b""
        self.body = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        if self.timer is not None:
            self.timer.cancel()

    def data_received(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError:
            if self.transport is not None:
                self.transport.close()

    def on_message_begin(self) -> None:
        self.path, self.body = b"", b""

    def on_url(self, url: bytes) -> None:
        self.path += url

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        if self.path == b"/v1/chat/completions":
            self.answer_chat(msgspec.json.decode(self.body, type=Chat))
        elif self.path == b"/v1/models":
            self.answer(200, MODELS)
        elif self.path == b"/health":
            self.answer(200, b"{}")
        else:
            self.answer(404, b'{"error":{"message":"not found"}}')

    def answer(self, status: int, body: bytes) -> None:
        if self.transport is None:
            return
        reason = b"OK" if status == 200 else b"Not Found"
        head = b"HTTP/1.1 %d %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
        self.transport.write(head % (status, reason, len(body)) + body)
        if not self.parser.should_keep_alive():
            self.transport.close()

    def answer_chat(self, chat: Chat) -> None:
        if not chat.stream:
            self.answer(200, PLAIN)
            return
        options = chat.stream_options
        wants_usage = options is not None and options.include_usage
        self.send_chunk(
            0,
            max(2, chat.max_tokens or chat.max_completion_tokens or CHUNKS),
            wants_usage,
            self.loop.time(),
        )

    def send_chunk(self, index: int, count: int, wants_usage: bool, started_s: float) -> None:
        """Write chunk `index` of `count` and arm the timer of the next."""
        if self.transport is None:
            return
        if index < count - 1:
            self.transport.write(HEAD + FIRST if index == 0 else NEXT)
            due_s = started_s + (index + 1) * CHUNK_EVERY_S
            self.timer = self.loop.call_at(
                due_s, self.send_chunk, index + 1, count, wants_usage, started_s
            )
            return
        usage = build_usage(count) if wants_usage else b""
        self.transport.write(LAST + usage + END)


async def serve(ports: list[int]) -> None:
    """Listen on every port until killed."""
    loop = asyncio.get_running_loop()
    for port in ports:
        await loop.create_server(lambda: Connection(loop), "127.0.0.1", port, backlog=1024)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(serve([int(port) for port in sys.argv[1:]]))

"""A small engine that speaks the OpenAI API and misbehaves on demand; for tests only."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field


@dataclass
class Received:
    """One request as the engine got it."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> dict:
        return json.loads(self.body)


@dataclass
class MockEngine:
    """Behaviour is read when a request arrives; change it at any time.

    mode: ok | error (500) | hang (reads, never answers) | cut (dies before the first byte) | cut_mid (dies in the stream)
        | cut_plain (dies in the middle of a plain answer)
        | frozen (does not even read, probes included) | error_event (an SSE error, then the end)
    """

    mode: str = "ok"
    name: str = "engine"
    tokens: int = 4
    close_after_stream: bool = False
    chunked: bool = True
    done_marker: bool = True
    pieces: list[bytes] | None = None
    """Raw stream body parts instead of the usual ones."""
    answer: bytes | None = None
    raw: Callable[[asyncio.StreamWriter], Awaitable[None]] | None = None
    """Writes the answer byte for byte; the connection closes behind it."""
    no: tuple[int, bytes] | None = None
    """Status and body of what it answers to every request."""
    gate: asyncio.Event | None = None
    """A stream waits for it after its first event."""
    hold: asyncio.Event | None = None
    """An answer waits for it before its first byte."""
    wait_s: float = 0.0
    """An answer waits so long before its first byte."""
    flood_bytes: int = 0
    role: bool = False
    """Streams begin with a chunk that names the role, as those of llama.cpp and vLLM do."""
    answer_id: str = "c"
    broken_after: int = 2
    """Parts of a stream that `cut_mid` lets out."""
    cached: int | None = None
    """Of 7 prompt tokens; None: it does not tell."""
    received: list[Received] = field(default_factory=list)
    connections: int = 0
    broken: int = 0
    """Connections that the other side closed while an answer was under way."""
    sent_bytes: int = 0
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    gone: asyncio.Event = field(default_factory=asyncio.Event)

    async def start(self) -> str:
        self._writers: set[asyncio.StreamWriter] = set()
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return f"http://127.0.0.1:{self.port}"

    async def stop(self) -> None:
        """Like SIGKILL: every connection is reset, the port refuses."""
        self._server.close()
        for writer in tuple(self._writers):
            writer.transport.abort()

    async def restart(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)

    def posts(self) -> list[Received]:
        return [one for one in self.received if one.path != "/health"]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.add(writer)
        try:
            while await self._one(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # cancelled only when a test is over
        finally:
            self._writers.discard(writer)
            writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = await reader.readuntil(b"\r\n\r\n")
        lines = head.decode().split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines[1:] if line)
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        path = lines[0].split(" ")[1]
        if self.mode == "frozen":
            await asyncio.Event().wait()
        if path == "/health":
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")
            return True
        self.received.append(Received(path, headers, body))
        self.arrived.set()
        watcher = asyncio.create_task(self._watch(reader))
        try:
            return await self._answer(json.loads(body), writer)
        except ConnectionError:
            self.broken += 1
            self.gone.set()
            return False
        finally:
            watcher.cancel()
            await asyncio.gather(watcher, return_exceptions=True)

    async def _watch(self, reader: asyncio.StreamReader) -> None:
        """Notices a client that closes while the answer is under way."""
        if not await reader.read(1):
            self.broken += 1
            self.gone.set()

    async def _answer(self, asked: dict, writer: asyncio.StreamWriter) -> bool:
        if self.hold is not None:
            await self.hold.wait()
        if self.wait_s:
            await asyncio.sleep(self.wait_s)
        if self.mode == "hang":
            await asyncio.Event().wait()
        if self.mode == "cut":
            writer.transport.abort()
            return False
        if self.raw is not None:
            await self.raw(writer)
            return False
        if self.no is not None:
            status, body = self.no
            head = b"HTTP/1.1 %d X\r\ncontent-type: text/plain\r\ncontent-length: %d\r\n\r\n"
            writer.write(head % (status, len(body)) + body)
            return True
        if self.mode == "error":
            body = b'{"error":{"message":"engine on fire"}}'
            writer.write(b"HTTP/1.1 500 X\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))
            return True
        if asked.get("stream"):
            return await self._stream(asked, writer)
        body = self.answer if self.answer is not None else self._plain(asked)
        if self.mode == "cut_plain":
            return await self._half(body, writer)
        writer.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
            % (len(body), body)
        )
        await writer.drain()
        return True

    async def _half(self, body: bytes, writer: asyncio.StreamWriter) -> bool:
        head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
        writer.write(head % len(body) + body[: len(body) // 2])
        await writer.drain()
        await asyncio.sleep(0.05)  # let the bytes out before the reset
        writer.transport.abort()
        return False

    def _plain(self, asked: dict) -> bytes:
        choice = {
            "index": 0,
            "message": {"role": "assistant", "content": self.name},
            "finish_reason": "stop",
        }
        usage = self._usage()
        answer = {"id": "c", "object": "chat.completion", "created": 1, "model": asked["model"]}
        return json.dumps(answer | {"choices": [choice], "usage": usage}).encode()

    def _usage(self, said: int = 0) -> dict:
        usage = {
            "prompt_tokens": 7 + said,
            "completion_tokens": self.tokens - said,
            "total_tokens": 7 + self.tokens,
        }
        if self.cached is not None:
            usage["prompt_tokens_details"] = {"cached_tokens": self.cached}
        return usage

    async def _stream(self, asked: dict, writer: asyncio.StreamWriter) -> bool:
        framing = b"transfer-encoding: chunked\r\n" if self.chunked else b"connection: close\r\n"
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n" + framing + b"\r\n")
        parts = self.pieces if self.pieces is not None else self._events(asked)
        for number, part in enumerate(parts):
            self._send(writer, part)
            await writer.drain()
            if number == 0 and self.gate is not None:
                await self.gate.wait()
            if number == self.broken_after - 1 and self.mode == "cut_mid":
                await asyncio.sleep(0.05)  # let the bytes out before the reset
                writer.transport.abort()
                return False
        if self.chunked:
            writer.write(b"0\r\n\r\n")
        await writer.drain()
        return self.chunked and not self.close_after_stream

    def _send(self, writer: asyncio.StreamWriter, part: bytes) -> None:
        self.sent_bytes += len(part)
        writer.write(b"%x\r\n%b\r\n" % (len(part), part) if self.chunked else part)

    def _events(self, asked: dict) -> list[bytes]:
        """Its tokens are numbers; one that is asked to go on begins with the next."""
        kind = "chat.completion.chunk"
        base = {"id": self.answer_id, "object": kind, "created": 1, "model": asked["model"]}
        text = "x" * max(1, self.flood_bytes // max(1, self.tokens))
        said = 0
        if asked.get("continue_final_message"):
            assert asked["add_generation_prompt"] is False
            said = asked["messages"][-1]["content"].count(" ")
        deltas: list[dict] = [{"content": f"{text}{i} "} for i in range(said, self.tokens)]
        if self.role:
            deltas.insert(0, {"role": "assistant", "content": None})
        parts = [_event(base | {"choices": [{"index": 0, "delta": delta}]}) for delta in deltas]
        if self.mode == "error_event":
            return [*parts[:2], b'data: {"error":{"message":"out of memory"}}\n\n']
        parts.append(
            _event(base | {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
        )
        if (asked.get("stream_options") or {}).get("include_usage"):
            parts.append(_event(base | {"choices": [], "usage": self._usage(said)}))
        return [*parts, b"data: [DONE]\n\n"] if self.done_marker else parts


def _event(chunk: dict) -> bytes:
    return b"data: " + json.dumps(chunk).encode() + b"\n\n"

"""A server that speaks enough of the OpenAI API to be found and asked: `python openai_server.py PORT NAME`, until SIGTERM.

It answers as vLLM does: `/health`, `/v1/models` with its context, `/metrics` with its cache, completions plain and streamed.
"""

from __future__ import annotations

import json
import signal
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

SLOW_FROM = 20
"""Streams of so many tokens come slowly, one a chunk."""
CHUNK_S = 0.25

NAME = sys.argv[2] if len(sys.argv) > 2 else "model"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None:
        """Quiet."""

    def do_GET(self) -> None:
        if self.path == "/v1/models":
            row = {"id": NAME, "object": "model", "owned_by": "vllm", "max_model_len": 8192}
            self._answer(json.dumps({"object": "list", "data": [row]}).encode())
        elif self.path == "/metrics":
            self._answer(b'vllm:cache_config_info{block_size="16",num_gpu_blocks="1024"} 1.0\n')
        elif self.path == "/health":
            self._answer(b"{}")
        else:
            self._answer(b"{}", 404)

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        usage = {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}
        text = f"from {self.server.server_port}"
        if asked.get("stream") and asked.get("max_tokens", 0) >= SLOW_FROM:
            self._slowly(text, asked["max_tokens"], usage)
            return
        if asked.get("stream"):
            chunk = {
                "id": "x",
                "object": "chat.completion.chunk",
                "created": 1,
                "model": NAME,
                "choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}],
            }
            last = chunk | {"choices": [], "usage": usage}
            body = b"".join(b"data: %s\n\n" % json.dumps(c).encode() for c in (chunk, last))
            self._answer(body + b"data: [DONE]\n\n", kind="text/event-stream")
            return
        message = {"role": "assistant", "content": text}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        answer = {
            "id": "x",
            "object": "chat.completion",
            "created": 1,
            "model": NAME,
            "choices": [choice],
            "usage": usage,
        }
        self._answer(json.dumps(answer).encode())

    def _slowly(self, text: str, count: int, usage: dict[str, int]) -> None:
        """A stream of so many chunks, one every `CHUNK_S`."""
        head = {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": NAME}
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")
        self.end_headers()
        for number in range(count):
            delta = {"content": f"{text}:{number} "}
            chunk = head | {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]}
            self.wfile.write(b"data: %s\n\n" % json.dumps(chunk).encode())
            self.wfile.flush()
            time.sleep(CHUNK_S)
        last = head | {"choices": [], "usage": usage | {"completion_tokens": count}}
        self.wfile.write(b"data: %s\n\ndata: [DONE]\n\n" % json.dumps(last).encode())
        self.close_connection = True

    def _answer(self, body: bytes, status: int = 200, kind: str = "application/json") -> None:
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler)
    sys.stdout.write(f"{server.server_port}\n")
    sys.stdout.flush()
    server.serve_forever()

"""A server that speaks enough of the OpenAI API to be found and asked: `python openai_server.py PORT NAME`, until SIGTERM.

It answers as vLLM does: `/health`, `/v1/models` with its context, `/metrics` with its cache, completions plain and streamed.
"""

from __future__ import annotations

import json
import signal
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

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

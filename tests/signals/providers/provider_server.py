"""A local server that speaks providers' shapes over a real socket, and misbehaves on demand."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

NOON_S = 1_785_585_600.0  # 1 August 2026, 12:00Z


class Asked(NamedTuple):
    path: str
    query: dict[str, str]
    headers: dict[str, str]


class Said(NamedTuple):
    status: int = 200
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()
    cut: bool = False
    """Promise more bytes than are sent, then close."""
    silent: bool = False
    """Never answer."""


Speak = Callable[[Asked], Said]


def as_json(document: Any, **more: Any) -> Said:
    return Said(body=json.dumps(document).encode(), **more)


class ProviderServer:
    """Its `speak` may be changed at any time; `asked` keeps every request."""

    def __init__(self, speak: Speak) -> None:
        self.speak, self.asked, self.ended = speak, list[Asked](), threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                parts = urlsplit(self.path)
                query = {k: v[0] for k, v in parse_qs(parts.query).items()}
                heads = {k.lower(): v for k, v in self.headers.items()}
                asked = Asked(parts.path, query, heads)
                outer.asked.append(asked)
                said = outer.speak(asked)
                if said.silent:
                    outer.ended.wait(30.0)
                    return
                self.send_response(said.status)
                for name, value in said.headers:
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(said.body) + (100 if said.cut else 0)))
                self.end_headers()
                self.wfile.write(said.body)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"


@contextlib.contextmanager
def speaking(speak: Speak) -> Iterator[ProviderServer]:
    one = ProviderServer(speak)
    thread = threading.Thread(target=one.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield one
    finally:
        one.ended.set()
        one.server.shutdown()
        thread.join()
        one.server.server_close()

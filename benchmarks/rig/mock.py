"""Mock backends: nginx that answers one fixed completion, and a paced SSE server.

Both answer on four ports as four backends. Here: configuration and start. Not here: the SSE server
itself (`sse_backend`), requests (`payload`).
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from rig import process
from rig.payload import MODEL

BACKENDS = 4
COMPLETION_BYTES = 575
READY_S = 10.0


@dataclass(frozen=True, kw_only=True)
class Backends:
    """Running mock backends: their base URLs and the processes behind them, in the same order."""

    urls: tuple[str, ...]
    ports: tuple[int, ...]
    pids: tuple[int, ...]


def build_completion() -> bytes:
    """A chat completion of exactly COMPLETION_BYTES bytes, padded in its text."""
    answer = {
        "id": "chatcmpl-bench",
        "object": "chat.completion",
        "created": 1700000000,
        "model": MODEL,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": ""},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 24, "completion_tokens": 64, "total_tokens": 88},
    }
    bare = json.dumps(answer, separators=(",", ":"))
    words = "Lubeck, Hamburg, Bremen and Danzig kept their own law and traded as one. "
    text = (words * 9)[: COMPLETION_BYTES - len(bare)]
    return bare.replace('"content":""', f'"content":"{text}"').encode()


def build_nginx_config(ports: tuple[int, ...], work_dir: Path) -> str:
    """One nginx process, no master, answering on the given ports; unknown paths are 404."""
    models = json.dumps({"object": "list", "data": [{"id": MODEL, "object": "model"}]})
    listens = "\n".join(f"    listen 127.0.0.1:{port} backlog=1024;" for port in ports)
    return f"""daemon off;
master_process off;
worker_processes 1;
pid {work_dir}/nginx-{ports[0]}.pid;
error_log stderr error;
events {{ worker_connections 4096; }}
http {{
  access_log off;
  keepalive_requests 1000000000;
  keepalive_timeout 3600s;
  client_max_body_size 64m;
  client_body_buffer_size 64k;
  tcp_nodelay on;
  default_type application/json;
  client_body_temp_path {work_dir}/body;
  proxy_temp_path {work_dir}/proxy;
  fastcgi_temp_path {work_dir}/fastcgi;
  uwsgi_temp_path {work_dir}/uwsgi;
  scgi_temp_path {work_dir}/scgi;
  server {{
{listens}
    location = /v1/chat/completions {{ return 200 '{build_completion().decode()}'; }}
    location = /v1/models {{ return 200 '{models}'; }}
    location = /health {{ return 200 '{{}}'; }}
    location / {{ return 404 '{{"error":{{"message":"not found"}}}}'; }}
  }}
}}
"""


def say_missing() -> str | None:
    """Why the plain mock cannot run here and how to get it; None when it can."""
    if shutil.which("nginx") is None:
        return "nginx is not installed; get it: apt-get install nginx-light"
    return None


@contextmanager
def run_nginx(*, core: int, work_dir: Path, separate: bool) -> Iterator[Backends]:
    """Four backends: one nginx on four ports, or (`separate`) one freezable process for each."""
    ports = tuple(process.find_free_ports(BACKENDS))
    groups = [(port,) for port in ports] if separate else [ports]
    with ExitStack() as stack:
        pids = []
        for group in groups:
            pids += [_start_nginx(stack, group, core=core, work_dir=work_dir)] * len(group)
        yield _describe(ports, pids)


@contextmanager
def run_sse(*, core: int, work_dir: Path) -> Iterator[Backends]:
    """Four paced SSE backends in one process."""
    ports = tuple(process.find_free_ports(BACKENDS))
    command = [sys.executable, "-m", "rig.sse_backend", *map(str, ports)]
    env = process.build_rig_env()
    with ExitStack() as stack:
        started = process.start("sse-mock", command, core=core, work_dir=work_dir, env=env)
        stack.callback(process.stop, started)
        _wait_until_healthy(started, ports[-1])
        yield _describe(ports, [started.pid] * BACKENDS)


def _start_nginx(stack: ExitStack, ports: tuple[int, ...], *, core: int, work_dir: Path) -> int:
    work_dir.mkdir(parents=True, exist_ok=True)
    config = work_dir / f"mock-{ports[0]}.conf"
    config.write_text(build_nginx_config(ports, work_dir))
    command = ["nginx", "-p", str(work_dir), "-e", "stderr", "-c", str(config)]
    started = process.start(f"mock-{ports[0]}", command, core=core, work_dir=work_dir)
    stack.callback(process.stop, started)
    _wait_until_healthy(started, ports[-1])
    return started.pid


def _wait_until_healthy(started: process.Process, port: int) -> None:
    request = b"GET /health HTTP/1.1\r\nhost: mock\r\nconnection: close\r\n\r\n"
    process.wait_for_answer(started, port=port, request=request, wanted=b" 200 ", limit_s=READY_S)


def _describe(ports: tuple[int, ...], pids: list[int]) -> Backends:
    urls = tuple(f"http://127.0.0.1:{port}" for port in ports)
    return Backends(urls=urls, ports=ports, pids=tuple(pids))

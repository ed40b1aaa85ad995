"""Child processes of a measurement: start on one core, wait until they answer, end with all descendants.

Not here: what is started (`contenders`, `mock`) and what it costs (`cpu`).
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from rig.cpu import find_tree

POLL_S = 0.02
TERM_WAIT_S = 4.0
"""After SIGTERM; the slowest contender needs about 2 s to leave."""


class StartError(Exception):
    """A process that did not come up. The text is one line for the document, `detail` its log."""

    def __init__(self, text: str, detail: str) -> None:
        super().__init__(text)
        self.detail = detail


@dataclass(frozen=True, kw_only=True)
class Process:
    """One started process group and where it writes."""

    name: str
    popen: subprocess.Popen[bytes]
    log: Path

    @property
    def pid(self) -> int:
        return self.popen.pid

    def read_log_tail(self, bytes_max: int = 800) -> str:
        """The end of its log, and of those its children keep below its directory."""
        logs = [self.log, *sorted(self.log.parent.glob("**/log/*.log"))]
        tails = [
            f"{log.name}: {log.read_bytes()[-bytes_max:].decode(errors='replace')}" for log in logs
        ]
        return "\n".join(tails)


def start(
    name: str,
    command: Sequence[str],
    *,
    core: int | None,
    work_dir: Path,
    env: Mapping[str, str] | None = None,
    stdout: IO[bytes] | int | None = None,
) -> Process:
    """Start a command in its own session, pinned to one core from its first instruction.

    Pinning happens before exec: runtimes size their thread pools by the affinity they find.
    """
    work_dir.mkdir(parents=True, exist_ok=True)
    log = work_dir / f"{name}.log"
    with log.open("wb") as out, pinned(core):
        popen = subprocess.Popen(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=out if stdout is None else stdout,
            stderr=out,
            env=dict(env) if env is not None else None,
            cwd=work_dir,
            start_new_session=True,
        )
    return Process(name=name, popen=popen, log=log)


@contextlib.contextmanager
def pinned(core: int | None) -> Iterator[None]:
    """Run the body on one core, so that what it starts inherits that core."""
    if core is None:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def stop(process: Process) -> None:
    """End a process and everything below it, also what was frozen or moved to its own session."""
    pids = find_tree(process.pid)
    _signal_all(pids, signal.SIGCONT)
    _signal_all([process.pid], signal.SIGTERM)
    deadline = time.monotonic() + TERM_WAIT_S
    while time.monotonic() < deadline and any(_is_alive(pid) for pid in pids):
        process.popen.poll()
        time.sleep(POLL_S)
    _signal_all([pid for pid in pids if _is_alive(pid)], signal.SIGKILL)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.popen.wait(timeout=TERM_WAIT_S)


def wait_for_answer(
    process: Process, *, port: int, request: bytes, wanted: bytes, limit_s: float
) -> None:
    """Repeat one HTTP request until its answer contains `wanted`, or raise StartError."""
    deadline = time.monotonic() + limit_s
    got = b"nothing"
    while time.monotonic() < deadline:
        if process.popen.poll() is not None:
            code = process.popen.returncode
            raise StartError(f"ended by itself with code {code}", process.read_log_tail())
        try:
            got = exchange(port, request)
        except OSError as error:
            got = str(error).encode()
        if wanted in got:
            return
        time.sleep(0.1)
    shown = got[:300].decode(errors="replace")
    detail = f"got {shown!r}; log: {process.read_log_tail()}"
    raise StartError(f"no good answer in {limit_s:.0f} s", detail)


def exchange(port: int, request: bytes, *, timeout_s: float = 3.0) -> bytes:
    """Send one HTTP/1.1 request with `connection: close` and return the raw answer."""
    with socket.create_connection(("127.0.0.1", port), timeout=timeout_s) as connection:
        connection.sendall(request)
        answer = b""
        while chunk := connection.recv(65536):
            answer += chunk
    return answer


def find_free_ports(count: int) -> list[int]:
    """Ports the system just had free; held together so that they differ."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]


def build_rig_env() -> dict[str, str]:
    """Environment in which `python -m rig.NAME` finds this package from any directory."""
    return {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}


def _is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def _signal_all(pids: Sequence[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)

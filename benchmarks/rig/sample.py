"""One sample: a load program on the load core, with the CPU of everybody accounted.

Here: running wrk or one of our load programs between two CPU readings, waiting for a quiet machine,
repeating what strangers disturbed, within a bounded patience. Not here: which samples (`scenarios`).
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

import msgspec

from rig import cpu, process
from rig.payload import KEY

FOREIGN_CORE_MAX = 0.12
"""More CPU than this taken by strangers marks a sample noisy: about 6 % of two cores."""
RETRIES_MAX = 2
QUIET_LOOK_S = 0.15
LUA = Path(__file__).with_name("chat.lua")


class WrkResult(msgspec.Struct, frozen=True, kw_only=True):
    """What wrk printed through chat.lua."""

    requests: int
    wall_us: int
    p50_us: float
    p99_us: float
    max_us: float
    status_errors: int
    socket_errors: int
    timeouts: int


Result = TypeVar("Result")


class LoadError(Exception):
    """The load program failed; the text is its own."""


@dataclass(kw_only=True)
class Patience:
    """Seconds the whole run may still spend on waiting for quiet and on repeats."""

    left_s: float

    def spend(self, spent_s: float) -> None:
        self.left_s = max(0.0, self.left_s - spent_s)


@dataclass(frozen=True, kw_only=True)
class Target:
    """Whose CPU is whose during a sample."""

    port: int
    gateway_pids: tuple[int, ...]
    mock_pids: tuple[int, ...]
    load_core: int
    work_dir: Path


@dataclass(frozen=True, kw_only=True)
class Measured(Generic[Result]):
    """A load program's result with the CPU of its time."""

    result: Result
    usage: cpu.Usage
    attempts: int = 1
    noisy: bool = field(default=False)


def repeat_until_quiet(
    measure: Callable[[], Measured[Result]], patience: Patience
) -> Measured[Result]:
    """The quietest of at most 1 + RETRIES_MAX attempts; marked noisy when none was quiet."""
    wait_for_quiet(patience)
    best = measure()
    attempts = 1
    while best.usage.foreign_core > FOREIGN_CORE_MAX:
        if attempts > RETRIES_MAX or patience.left_s < best.usage.wall_s:
            break
        started = time.monotonic()
        again = measure()
        patience.spend(time.monotonic() - started)
        attempts += 1
        if again.usage.foreign_core < best.usage.foreign_core:
            best = again
    return Measured(
        result=best.result,
        usage=best.usage,
        attempts=attempts,
        noisy=best.usage.foreign_core > FOREIGN_CORE_MAX,
    )


def wait_for_quiet(patience: Patience) -> None:
    """Wait until the machine is idle, as long as patience lasts."""
    while patience.left_s > 0:
        if cpu.read_foreign_core(over_s=QUIET_LOOK_S) <= FOREIGN_CORE_MAX:
            return
        patience.spend(QUIET_LOOK_S)


def run_wrk(
    target: Target, *, clients: int, seconds: float, body: bytes, unique_first: int | None
) -> Measured[WrkResult]:
    """wrk with one thread; `unique_first` numbers the prompts from there on."""
    path = target.work_dir / "body.json"
    path.write_bytes(body)
    env = {
        **os.environ,
        "BENCH_BODY": str(path),
        "BENCH_KEY": KEY,
        "BENCH_UNIQUE": "" if unique_first is None else str(unique_first),
    }
    command = ["wrk", "-t1", f"-c{clients}", f"-d{max(1, round(seconds))}s", "--timeout", "10s"]
    command += ["-s", str(LUA), f"http://127.0.0.1:{target.port}/v1/chat/completions"]
    return _run(target, command, env, WrkResult, limit_s=seconds + 30)


def run_module(
    target: Target, module: str, plan: msgspec.Struct, kind: type[Result], *, limit_s: float
) -> Measured[Result]:
    """One of our own load programs with its plan."""
    command = [sys.executable, "-m", module, msgspec.json.encode(plan).decode()]
    return _run(target, command, process.build_rig_env(), kind, limit_s=limit_s)


def _run(
    target: Target,
    command: Sequence[str],
    env: dict[str, str],
    kind: type[Result],
    *,
    limit_s: float,
) -> Measured[Result]:
    before = cpu.read(target.gateway_pids, target.mock_pids)
    with process.pinned(target.load_core):
        popen = subprocess.Popen(
            list(command), env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
    try:
        out, err = popen.communicate(timeout=limit_s)
    except BaseException:
        popen.kill()
        popen.wait()
        raise
    usage = cpu.subtract(before, cpu.read(target.gateway_pids, target.mock_pids))
    lines = [line for line in out.splitlines() if line.startswith(b"RESULT ")]
    if popen.returncode != 0 or not lines:
        raise LoadError((out + err).decode(errors="replace")[-800:])
    result = msgspec.json.decode(lines[-1].removeprefix(b"RESULT "), type=kind)
    return Measured(result=result, usage=usage)

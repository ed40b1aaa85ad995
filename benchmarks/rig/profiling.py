"""Where a contender's CPU goes: by process, and by function where a profiler is installed.

Uses py-spy (`pip install py-spy`) or perf when they are on the path, else says how to get them.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from rig import cpu, scenarios


def profile(bench: scenarios.Bench, out_dir: Path, say: Callable[[str], None]) -> None:
    """Load the only contender with 16 clients and say where its CPU went."""
    cell = scenarios.CELLS[1]
    with scenarios.run_one(bench) as one:
        scenarios.sample_once(bench, one, cell)  # warm-up
        measured = scenarios.sample_once(bench, one, cell)
        requests = max(1, measured.result.requests)
        total_us = measured.usage.gateway_s * 1e6 / requests
        say(f"{one.name}: {requests} requests, {total_us:.1f} us CPU each, by process:")
        by_pid = sorted(measured.usage.gateway_by_pid_s.items(), key=lambda item: -item[1])
        for pid, spent_s in by_pid:
            say(f"  {spent_s * 1e6 / requests:8.1f} us  pid {pid}  {cpu.read_name(pid)}")
        busiest = by_pid[0][0]
        for command in _build_commands(busiest, bench.seconds, out_dir, say):
            watcher = subprocess.Popen(command, stdout=subprocess.DEVNULL)
            scenarios.sample_once(bench, one, cell)
            watcher.wait(timeout=60)
            say(f"wrote {command[command.index('-o') + 1]}")


def _build_commands(
    pid: int, seconds: int, out_dir: Path, say: Callable[[str], None]
) -> list[list[str]]:
    """The profilers that are here, each with its output file; hints for those that are not."""
    out_dir.mkdir(parents=True, exist_ok=True)
    commands = []
    if (spy := shutil.which("py-spy")) is not None:
        out = str(out_dir / "profile.svg")
        commands.append([spy, "record", "-p", str(pid), "-d", str(seconds), "-o", out])
    else:
        say(f"by Python function: pip install py-spy, then py-spy top --pid {pid} under load")
    if (perf := shutil.which("perf")) is not None:
        out = str(out_dir / "profile.perf")
        record = [perf, "record", "-q", "-g", "-p", str(pid), "-o", out]
        commands.append([*record, "--", "sleep", str(seconds)])
        say(f"by native function: perf report --no-children -i {out}")
    return commands

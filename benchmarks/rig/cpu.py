"""CPU time from /proc: of a process tree, of the machine, and what strangers took of it.

Not here: starting processes, deciding what a sample is worth (`sample`).
"""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def find_tree(root: int) -> list[int]:
    """The process and all its living descendants, by the parent column of /proc/PID/stat."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit() and (fields := _read_stat(int(entry))) is not None:
            children.setdefault(int(fields[1]), []).append(int(entry))
    found, queue = [], [root]
    while queue:
        pid = queue.pop()
        found.append(pid)
        queue.extend(children.get(pid, ()))
    return found


def read_tree_cpu_s(roots: Sequence[int]) -> dict[int, float]:
    """CPU seconds (user + system) so far of every process in the trees, by pid."""
    seen: dict[int, float] = {}
    for root in roots:
        for pid in find_tree(root):
            if (fields := _read_stat(pid)) is not None:
                seen[pid] = (int(fields[11]) + int(fields[12])) / TICKS_PER_S
    return seen


def read_name(pid: int) -> str:
    """Short command line of a process, for people."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return "gone"
    names = [Path(word).name if "/" in word else word for word in words if word]
    return " ".join(names[:4])[:60]


@dataclass(frozen=True, kw_only=True)
class Reading:
    """All counters at one moment, in CPU seconds since boot."""

    at_s: float
    machine_busy_s: float
    gateway_s: dict[int, float]
    mock_s: dict[int, float]
    rig_s: float
    """This process and the load generators it has already waited for."""


@dataclass(frozen=True, kw_only=True)
class Usage:
    """What happened between two readings, in CPU seconds."""

    wall_s: float
    gateway_s: float
    mock_s: float
    rig_s: float
    foreign_s: float
    gateway_by_pid_s: dict[int, float]

    @property
    def foreign_core(self) -> float:
        """CPU that was none of ours, in cores."""
        return self.foreign_s / self.wall_s if self.wall_s > 0 else 0.0


def read(gateway_roots: Sequence[int], mock_roots: Sequence[int]) -> Reading:
    """Read every counter once."""
    own = resource.getrusage(resource.RUSAGE_SELF)
    waited = resource.getrusage(resource.RUSAGE_CHILDREN)
    return Reading(
        at_s=time.monotonic(),
        machine_busy_s=_read_machine_busy_s(),
        gateway_s=read_tree_cpu_s(gateway_roots),
        mock_s=read_tree_cpu_s(mock_roots),
        rig_s=own.ru_utime + own.ru_stime + waited.ru_utime + waited.ru_stime,
    )


def subtract(before: Reading, after: Reading) -> Usage:
    """CPU spent between two readings; a process that ended in between counts up to `before`."""
    by_pid = _subtract_by_pid(before.gateway_s, after.gateway_s)
    mock_s = sum(_subtract_by_pid(before.mock_s, after.mock_s).values())
    rig_s = after.rig_s - before.rig_s
    gateway_s = sum(by_pid.values())
    busy_s = after.machine_busy_s - before.machine_busy_s
    return Usage(
        wall_s=after.at_s - before.at_s,
        gateway_s=gateway_s,
        mock_s=mock_s,
        rig_s=rig_s,
        foreign_s=max(0.0, busy_s - gateway_s - mock_s - rig_s),
        gateway_by_pid_s=by_pid,
    )


def read_foreign_core(*, over_s: float) -> float:
    """Cores the whole machine is busy with over a short while in which we do nothing."""
    before, started = _read_machine_busy_s(), time.monotonic()
    time.sleep(over_s)
    return (_read_machine_busy_s() - before) / (time.monotonic() - started)


def _subtract_by_pid(before: dict[int, float], after: dict[int, float]) -> dict[int, float]:
    return {pid: spent - before.get(pid, 0.0) for pid, spent in after.items()}


def _read_stat(pid: int) -> list[str] | None:
    """Fields of /proc/PID/stat after the name: 0 state, 1 parent, 11 user and 12 system ticks."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    return text.rpartition(")")[2].split()


def _read_machine_busy_s() -> float:
    """User, nice, system, irq and softirq time of all cores; stolen time is not ours to count."""
    with open("/proc/stat") as lines:
        fields = [int(word) for word in lines.readline().split()[1:]]
    user, nice, system, _idle, _iowait, irq, softirq = fields[:7]
    return (user + nice + system + irq + softirq) / TICKS_PER_S

"""One site's processes kept running until told to stop: its bus, its agent, its gateway workers, its batch process.

Here: which children a site has and in what order they start and end. `python -m hanse.live.site_keep --site S --state DIR` is what
a site group is once it is prepared (`live.site_group`), in the same process. Not here: how a child is kept (`live.supervise`), what
the children do.

It lives as long as the site and does next to nothing, so it imports next to nothing: a small site has no memory for a second
copy of the bus's and the numbers' libraries.

A site without a hub (`hub_leaf` empty) gets a controller of its own, which publishes tables on the
site's own bus: one way of getting tables, with or without a league.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
import sys
from pathlib import Path
from typing import Final

from hanse.errors import HanseError
from hanse.live.runtime import Runtime, StateDir
from hanse.live.supervise import (
    ChildReport,
    ChildSpec,
    Supervisor,
    end_on_signals,
    nats_command,
    python_command,
    sweep,
)

LIFELINE_VARIABLE: Final = "HANSE_LIFELINE_FD"
"""Environment variable of the agent: a pipe's read end that reaches end of file when the group is gone."""

GATEWAY_TERM_S_MAX: Final = 3.0
AGENT_TERM_S_MAX: Final = 2.0
BUS_TERM_S_MAX: Final = 1.5
"""With the limits above a group ends within 6.5 s at worst, so `up` can promise 10."""

ONE_THREAD: Final = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MALLOC_ARENA_MAX": "1",
    "PYTHONUNBUFFERED": "1",
}
"""A site's processes share few cores and little memory: libraries must not each start a thread and an arena a core."""


async def _run(runtime: Runtime, state: StateDir, site: str) -> int:
    ended = end_on_signals(asyncio.get_running_loop())
    home = state.site(site)
    lifeline_read, lifeline_write = os.pipe()
    supervisor = Supervisor(lambda report: _clear_row(home / "shared.mmap", report))
    for child in children(runtime, state, site, lifeline_fd=lifeline_read):
        supervisor.add(child)
    await ended.wait()
    workers = [report.name for report in supervisor.report() if report.name.startswith("gateway-")]
    await supervisor.stop_together(workers)
    await supervisor.stop()
    os.close(lifeline_write)
    sweep(home / "pid")  # engines that are frozen do not see the lifeline close
    return 0


def children(
    runtime: Runtime, state: StateDir, site: str, *, lifeline_fd: int
) -> tuple[ChildSpec, ...]:
    """The children of a site, in starting order."""
    address, home = runtime.site(site), state.site(site)
    where = ("--site", site, "--state", str(state.path))
    specs = [
        child_spec(
            home,
            "nats",
            nats_command(home / "leaf.conf"),
            term_s_max=BUS_TERM_S_MAX,
        ),
        child_spec(
            home,
            "agent",
            python_command("hanse.live.agent", *where),
            term_s_max=AGENT_TERM_S_MAX,
            environment={LIFELINE_VARIABLE: str(lifeline_fd)},
            pass_fds=(lifeline_fd,),
        ),
    ]
    if not address.hub_leaf:
        command = python_command(
            "hanse.live.controller", "--state", str(state.path), "--local", site
        )
        specs.append(child_spec(home, "controller", command, term_s_max=AGENT_TERM_S_MAX))
    specs += [
        child_spec(
            home,
            f"gateway-{worker}",
            python_command("hanse.live.gateway", *where, "--worker", str(worker)),
            term_s_max=GATEWAY_TERM_S_MAX,
        )
        for worker in range(address.workers)
    ]
    specs.append(
        child_spec(
            home,
            "batch",
            python_command("hanse.live.batch", *where),
            term_s_max=AGENT_TERM_S_MAX,
        )
    )
    return tuple(specs)


def child_spec(
    home: Path,
    name: str,
    command: tuple[str, ...],
    *,
    term_s_max: float,
    environment: dict[str, str] | None = None,
    pass_fds: tuple[int, ...] = (),
) -> ChildSpec:
    """A child whose log and pid file lie in its owner's directory."""
    return ChildSpec(
        name=name,
        command=command,
        log_path=str(home / "log" / f"{name}.log"),
        pid_path=str(home / "pid" / f"{name}.pid"),
        environment=ONE_THREAD | (environment or {}),
        pass_fds=pass_fds,
        term_s_max=term_s_max,
    )


def print_line(text: str) -> None:
    """One line to stderr: what a person or a log should see of a group."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def _clear_row(page: Path, report: ChildReport) -> None:
    """A dead worker's requests are over: its row must not count as load. In a process of its own, which may use numpy."""
    kind, _, number = report.name.rpartition("-")
    if kind == "gateway" and report.state in ("waiting", "held"):
        command = python_command("hanse.live.shared", str(page), number)
        subprocess.Popen(command, stdin=subprocess.DEVNULL)


def main() -> int:
    """Run until SIGTERM or Ctrl-C."""
    parser = argparse.ArgumentParser(prog="hanse.live.site_keep")
    parser.add_argument("--site", required=True)
    parser.add_argument("--state", type=Path, required=True)
    arguments = parser.parse_args()
    state = StateDir(arguments.state)
    try:
        return asyncio.run(_run(state.read_runtime(), state, arguments.site))
    except HanseError as error:
        print_line(str(error))
        return 2


if __name__ == "__main__":
    sys.exit(main())

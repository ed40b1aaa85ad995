"""One site's process group: its bus, its agent, its gateway workers, kept running until told to stop.

Here: which children a site has and in what order they start and end (`hanse site`). Not here: how a
child is kept (`live.supervise`), what the children do. `python -m hanse.live.site_group --site S --state DIR`
is the same for a prepared state directory.

A site without a hub (`hub_leaf` empty) gets a controller of its own, which publishes tables on the
site's own bus: one way of getting tables, with or without a league.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import os
import sys
from pathlib import Path
from typing import Final

from hanse.errors import ConfigError, HanseError, SiteError
from hanse.live import bus
from hanse.live.bus_sources import watch_sources
from hanse.live.first_start import Prepared, prepare, resume
from hanse.live.runtime import Runtime, StateDir
from hanse.live.shared import ENGINE_DEAD, ENGINE_STATE, WORKERS_MAX, SharedPage
from hanse.live.supervise import (
    ChildReport,
    ChildSpec,
    Supervisor,
    end_on_signals,
    python_command,
    running_pid,
    sweep,
    write_pid,
)

LIFELINE_VARIABLE: Final = "HANSE_LIFELINE_FD"
"""Environment variable of the agent: a pipe's read end that reaches end of file when the group is gone."""

GATEWAY_TERM_S_MAX: Final = 3.0
AGENT_TERM_S_MAX: Final = 2.0
BUS_TERM_S_MAX: Final = 1.5
"""With the limits above a group ends within 6.5 s at worst, so `up` can promise 10."""

ONE_THREAD: Final = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
"""A site's processes share few cores: libraries must not each start a thread a core."""


def run_site(site: str, fleet_path: Path | None, state_path: Path | None) -> int:
    """Run one site's group in the foreground until SIGTERM or Ctrl-C; returns the exit status.

    A state directory without `runtime.json` is prepared for this site alone: no hub, no peers.

    Raises:
        ConfigError: the site is unknown, already runs here, or the fleet file is wrong.
    """
    prepared = _prepared(site, fleet_path, state_path)
    address = prepared.runtime.site(site)
    home = prepared.state.site(site)
    own_pid = home / "pid" / "site.pid"
    running = running_pid(own_pid)
    if running is not None:
        raise ConfigError(
            "site", got=f"{site!r}, which runs already (process {running})", fix="end it first"
        )
    sweep(home / "pid")
    write_pid(own_pid, os.getpid())
    bus.write_leaf_conf(prepared.runtime, prepared.state, site)
    print_line(f"site {site}: {address.client_url} (state {home})")
    return asyncio.run(_run(prepared.runtime, prepared.state, site))


async def _run(runtime: Runtime, state: StateDir, site: str) -> int:
    ended = end_on_signals(asyncio.get_running_loop())
    home = state.site(site)
    lifeline_read, lifeline_write = os.pipe()
    page = _fresh_page(home / "shared.mmap")
    supervisor = Supervisor(lambda report: _clear_row(page, report))
    for child in children(runtime, state, site, lifeline_fd=lifeline_read):
        supervisor.add(child)
    watching = asyncio.create_task(_watch_tables(runtime, state, site))
    await ended.wait()
    watching.cancel()
    await asyncio.wait(
        {watching}, timeout=bus.LEAVE_S_MAX
    )  # while the bus is there: it must not outlive its client
    workers = [report.name for report in supervisor.report() if report.name.startswith("gateway-")]
    await supervisor.stop_together(workers)
    await supervisor.stop()
    os.close(lifeline_write)
    sweep(home / "pid")  # engines that are frozen do not see the lifeline close
    return 0


def _fresh_page(path: Path) -> SharedPage:
    """The shared page without what an earlier group left: nobody else has it open now."""
    try:
        page = SharedPage.open(path)
    except SiteError:  # of an earlier release: the counters in it are all that is lost
        path.unlink()
        page = SharedPage.open(path)
    for worker in range(WORKERS_MAX):
        page.clear_worker(worker)
    page.engines[:, ENGINE_STATE] = ENGINE_DEAD  # until the agent has heard from each
    return page


async def _watch_tables(runtime: Runtime, state: StateDir, site: str) -> None:
    """Keep tables flowing from the hub: after a start or a cut they would stand still for 10 to 30 s."""
    if not runtime.site(site).hub_leaf:
        return
    client = await bus.connect_when_up(
        lambda: bus.connect_leaf(runtime, state, site, name="site group"), give_up_s=math.inf
    )
    try:
        await watch_sources(client, bus.TABLES, standalone=True)
    finally:
        await bus.leave(client)


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
            tuple(bus.server_command(home / "leaf.conf")),
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


def _prepared(site: str, fleet_path: Path | None, state_path: Path | None) -> Prepared:
    if state_path is not None and StateDir(state_path).runtime_json.exists():
        return resume(state_path, site)
    if fleet_path is None:
        raise ConfigError(
            "--fleet", got="nothing", allowed="a fleet file: the state is not prepared"
        )
    return prepare(fleet_path, state_path, only_site=site)


def _clear_row(page: SharedPage, report: ChildReport) -> None:
    """A dead worker's requests are over: its row must not count as load."""
    kind, _, number = report.name.rpartition("-")
    if kind == "gateway" and report.state in ("waiting", "held", "stopped"):
        page.clear_worker(int(number))


def main() -> int:
    """Command line of the module, for `up`."""
    parser = argparse.ArgumentParser(prog="hanse.live.site_group")
    parser.add_argument("--site", required=True)
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--fleet", type=Path)
    arguments = parser.parse_args()
    try:
        return run_site(arguments.site, arguments.fleet, arguments.state)
    except HanseError as error:
        print_line(str(error))
        return 2


if __name__ == "__main__":
    sys.exit(main())

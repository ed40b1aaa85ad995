"""The hub's process group: its bus, the controller and the door, kept running until told to stop (`hanse hub`).

Here: the three children. Not here: what they do. `python -m hanse.live.hub --state DIR` is the same for
a prepared state directory. A hub that is gone stops no site: tables stay valid, sites route on.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import time
from pathlib import Path

from hanse.errors import ConfigError, HanseError
from hanse.live import bus
from hanse.live.ca import ensure_identity, seats
from hanse.live.first_start import Prepared, prepare, resume
from hanse.live.runtime import HUB, StateDir
from hanse.live.site_keep import AGENT_TERM_S_MAX, BUS_TERM_S_MAX, child_spec, print_line
from hanse.live.supervise import (
    ChildSpec,
    Supervisor,
    end_on_signals,
    python_command,
    running_pid,
    sweep,
    write_pid,
)


def run_hub(fleet_path: Path | None, state_path: Path | None) -> int:
    """Run the hub in the foreground until SIGTERM or Ctrl-C; returns the exit status.

    Raises:
        ConfigError: the hub already runs here, the state has no hub, or the fleet file is wrong.
    """
    prepared = _prepared(fleet_path, state_path)
    hub, state = prepared.runtime.hub, prepared.state
    if hub is None:
        raise ConfigError(str(state.runtime_json), got="no hub", fix="use a directory of its own")
    running = running_pid(state.hub / "pid" / "hub.pid")
    if running is not None:
        raise ConfigError(
            "hub", got=f"one that runs already (process {running})", fix="end it first"
        )
    sweep(state.hub / "pid")
    write_pid(state.hub / "pid" / "hub.pid", os.getpid())
    hosts = (hub.reached_at, hub.leaf_host)
    ensure_identity(state.path, prepared.fleet.name, HUB, time.time(), hosts=hosts)
    sites = (site.id for site in prepared.fleet.sites)
    bus.write_hub_conf(prepared.runtime, state, seats(state.ca_dir, sites))
    print_line(f"hub: {hub.dashboard_url} (state {state.hub})")
    return asyncio.run(_run(state))


async def _run(state: StateDir) -> int:
    ended = end_on_signals(asyncio.get_running_loop())
    supervisor = Supervisor()
    for child in children(state):
        supervisor.add(child)
    await ended.wait()
    await supervisor.stop()
    sweep(state.hub / "pid")
    return 0


def children(state: StateDir) -> tuple[ChildSpec, ...]:
    """The children of the hub, in starting order."""
    return (
        child_spec(
            state.hub,
            "nats",
            tuple(bus.server_command(state.hub / "hub.conf")),
            term_s_max=BUS_TERM_S_MAX,
        ),
        child_spec(
            state.hub,
            "controller",
            python_command("hanse.live.controller", "--state", str(state.path)),
            term_s_max=AGENT_TERM_S_MAX,
        ),
        child_spec(
            state.hub,
            "door",
            python_command("hanse.live.join.door", "--state", str(state.path)),
            term_s_max=AGENT_TERM_S_MAX,
        ),
    )


def _prepared(fleet_path: Path | None, state_path: Path | None) -> Prepared:
    """With a file: what is in force after a start with it. Without: what is in force."""
    if fleet_path is not None:
        return prepare(fleet_path, state_path)
    if state_path is not None and StateDir(state_path).runtime_json.exists():
        return resume(state_path)
    raise ConfigError("FLEET", got="nothing", allowed="a fleet file: the state is not prepared")


def main() -> int:
    """Command line of the module, for `up`."""
    parser = argparse.ArgumentParser(prog="hanse.live.hub")
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--fleet", type=Path)
    arguments = parser.parse_args()
    try:
        return run_hub(arguments.fleet, arguments.state)
    except HanseError as error:
        print_line(str(error))
        return 2


if __name__ == "__main__":
    sys.exit(main())

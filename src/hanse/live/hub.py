"""The hub's process group: its bus, the controller and the door, kept running until told to stop (`hanse hub`).

Here: the three children, and a further hub's wait for the third. Not here: what they do. `python -m hanse.live.hub --state DIR` is the same for
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
from hanse.live.hubs import cluster_of
from hanse.live.join.hub import until_together
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
from hanse.model.fleet import Fleet


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
    if hub.id == HUB:
        _write_conf(prepared, prepared.fleet)
    print_line(f"hub: {hub.dashboard_url} (state {state.hub})")
    return asyncio.run(_run(prepared))


def _write_conf(prepared: Prepared, fleet: Fleet) -> None:
    hub, state = prepared.runtime.hub, prepared.state
    assert hub is not None, "looked at before"
    known = seats(state.ca_dir, (site.id for site in fleet.sites))
    bus.write_hub_conf(prepared.runtime, state, known, cluster_of(fleet, hub.id))


async def _run(prepared: Prepared) -> int:
    state, hub = prepared.state, prepared.runtime.hub
    assert hub is not None, "looked at before"
    ended = end_on_signals(asyncio.get_running_loop())
    if hub.id != HUB:
        fleet = await until_together(prepared, ended, print_line)
        if fleet is None:
            return 0
        _write_conf(prepared, fleet)
    supervisor = Supervisor()
    for child in children(state):
        supervisor.add(child)
    await ended.wait()
    await supervisor.stop()
    sweep(state.hub / "pid")
    return 0


def children(state: StateDir) -> tuple[ChildSpec, ...]:
    """The children of the hub, in starting order; the door where the authority's key is."""
    door = child_spec(
        state.hub,
        "door",
        python_command("hanse.live.join.door", "--state", str(state.path)),
        term_s_max=AGENT_TERM_S_MAX,
    )
    return (
        child_spec(
            state.hub,
            "nats",
            python_command("hanse.live.hub_bus", "--state", str(state.path)),
            term_s_max=BUS_TERM_S_MAX,
        ),
        child_spec(
            state.hub,
            "controller",
            python_command("hanse.live.controller", "--state", str(state.path)),
            term_s_max=AGENT_TERM_S_MAX,
        ),
        *([door] if (state.ca_dir / "ca.key").exists() else []),
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

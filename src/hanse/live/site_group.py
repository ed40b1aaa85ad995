"""Starting one site: what it needs is made, then this process becomes the keeper of its children (`hanse site`).

Here: preparing, and refusing to start twice. Not here: the children (`live.site_keep`), what a state directory must hold
(`live.first_start`). `python -m hanse.live.site_group --site S --state DIR` is the same for a prepared state directory.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from hanse.errors import ConfigError, HanseError, SiteError
from hanse.live import bus
from hanse.live.first_start import Prepared, prepare, resume
from hanse.live.hubs import other_leaves
from hanse.live.interpreter import hand_over
from hanse.live.runtime import StateDir
from hanse.live.shared import ENGINE_DEAD, ENGINE_STATE, WORKERS_MAX, SharedPage
from hanse.live.site_keep import print_line
from hanse.live.supervise import python_command, running_pid, sweep, write_pid


def run_site(site: str, fleet_path: Path | None, state_path: Path | None) -> int:
    """Run one site's group in the foreground until SIGTERM or Ctrl-C; this process is the group's leader.

    A state directory without `runtime.json` is prepared for this site alone: no hub, no peers.

    Raises:
        ConfigError: the site is unknown, already runs here, or the fleet file is wrong.
    """
    if state_path is not None:
        where = ("--site", site, "--state", str(state_path.absolute()))
        hand_over(StateDir(state_path).site(site), "hanse.live.site_group", where)
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
    bus.write_leaf_conf(prepared.runtime, prepared.state, site, other_leaves(prepared.fleet))
    _fresh_page(home / "shared.mmap")
    print_line(f"site {site}: {address.client_url} (state {home})")
    command = python_command(
        "hanse.live.site_keep", "--site", site, "--state", str(prepared.state.path)
    )
    os.execv(command[0], command)  # noqa: S606  # the pid stays: who started the group still knows it


def _fresh_page(path: Path) -> None:
    """The shared page without what an earlier group left: nobody else has it open now."""
    try:
        page = SharedPage.open(path)
    except SiteError:  # of an earlier release: the counters in it are all that is lost
        path.unlink()
        page = SharedPage.open(path)
    for worker in range(WORKERS_MAX):
        page.clear_worker(worker)
    page.engines[:, ENGINE_STATE] = ENGINE_DEAD  # until the agent has heard from each


def _prepared(site: str, fleet_path: Path | None, state_path: Path | None) -> Prepared:
    if state_path is not None and StateDir(state_path).runtime_json.exists():
        return resume(state_path, site)
    if fleet_path is None:
        raise ConfigError(
            "--fleet", got="nothing", allowed="a fleet file: the state is not prepared"
        )
    return prepare(fleet_path, state_path, only_site=site)


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

"""Starting a joined site in the background and waiting until its gateway answers.

Here: one process group that outlives the command. Not here: what runs in it (`live.site_group`), units of the init system (`deploy/`).
"""

from __future__ import annotations

import asyncio
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from hanse.errors import SiteError
from hanse.live.probe import get, is_listening
from hanse.live.runtime import LOOPBACK, StateDir, is_loopback
from hanse.live.supervise import python_command, running_pid

READY_S_MAX: Final = 120.0
"""Kernels are compiled once on a new machine: half a minute on a small one."""
POLL_S: Final = 0.25
BEGUN_S: Final = 20.0
"""Until a hub's keeper has written that it runs."""


def start_hub(state: StateDir) -> int:
    """Start a hub's process group and return its leader.

    Raises:
        SiteError: it ended at once; says where its log is.
    """
    log_path = state.path / "log" / "hub.log"
    process = _begin(python_command("hanse.live.hub", "--state", str(state.path)), log_path)
    until_s = time.monotonic() + BEGUN_S
    while time.monotonic() < until_s and running_pid(state.hub / "pid" / "hub.pid") is None:
        if process.poll() is not None:
            raise SiteError("hub", got=f"exit {process.returncode}", fix=f"see {log_path}")
        time.sleep(POLL_S)
    return process.pid


def _begin(command: Sequence[str], log_path: Path) -> subprocess.Popen[bytes]:
    log_path.parent.mkdir(parents=True, exist_ok=True)
    with log_path.open("ab") as log:
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )


def start_site(state: StateDir, site: str, say: Callable[[str], None]) -> int:
    """Start a site's process group; returns its leader when the gateway has a routing table.

    Raises:
        SiteError: it ended, or is not ready in time; says where its log is.
    """
    log_path = state.path / "log" / "site.log"
    command = python_command("hanse.live.site_group", "--site", site, "--state", str(state.path))
    process = _begin(command, log_path)
    address = state.read_runtime().site(site)
    host = address.host if is_loopback(address.host) else LOOPBACK
    since_s, last = time.monotonic(), ""
    while time.monotonic() - since_s < READY_S_MAX:
        if process.poll() is not None:
            raise SiteError(f"site {site}", got=f"exit {process.returncode}", fix=f"see {log_path}")
        awaited = asyncio.run(_awaited(host, address.client_port, address.leaf_port))
        if not awaited:
            say(f"ready after {time.monotonic() - since_s:.0f} s")
            return process.pid
        if awaited != last:
            say(f"waiting for {awaited}")
            last = awaited
        time.sleep(POLL_S)
    raise SiteError(
        f"site {site}", got=f"not ready after {READY_S_MAX:.0f} s: {last}", fix=f"see {log_path}"
    )


async def _awaited(host: str, client_port: int, leaf_port: int) -> str:
    status, reason = await get(host, client_port, "/readyz", timeout_s=1.0)
    whole = b"no engine here" in reason or b"in maintenance" in reason
    if status == 200 or (status == 503 and whole):
        return ""
    if not await is_listening(LOOPBACK, leaf_port):
        return "its bus"
    return "its gateway" if status == 0 else reason.decode(errors="replace")[:80].strip()

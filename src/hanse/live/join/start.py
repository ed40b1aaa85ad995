"""Starting a joined site in the background and waiting until its gateway answers.

Here: one process group that outlives the command. Not here: what runs in it (`live.site_group`), units of the init system (`deploy/`).
"""

from __future__ import annotations

import asyncio
import subprocess
import time
from collections.abc import Callable
from typing import Final

from hanse.errors import SiteError
from hanse.live.probe import get, is_listening
from hanse.live.runtime import LOOPBACK, StateDir, is_loopback
from hanse.live.supervise import python_command

READY_S_MAX: Final = 120.0
"""Kernels are compiled once on a new machine: half a minute on a small one."""
POLL_S: Final = 0.25


def start_site(state: StateDir, site: str, say: Callable[[str], None]) -> int:
    """Start a site's process group; returns its leader when the gateway has a routing table.

    Raises:
        SiteError: it ended, or is not ready in time; says where its log is.
    """
    log_path = state.path / "log" / "site.log"
    log_path.parent.mkdir(parents=True, exist_ok=True)
    command = python_command("hanse.live.site_group", "--site", site, "--state", str(state.path))
    with log_path.open("ab") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
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

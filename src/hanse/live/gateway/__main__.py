"""`python -m hanse.live.gateway`: one gateway worker, until SIGTERM.

    --site SITE --state DIR [--worker N]     a worker of a site group
    SETTINGS.json                            a gateway by itself (`settings.GatewaySettings`)

Prints one JSON line with its ports once it listens. Not here: restarting it (the site group).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import os
import signal
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import msgspec
import uvloop

from hanse.compiled import stamp
from hanse.dispatch.router import warm
from hanse.errors import HanseError
from hanse.live.ca import locked
from hanse.live.gateway import kernels
from hanse.live.gateway.resident import give_back
from hanse.live.gateway.settings import GatewaySettings, read_settings, site_settings
from hanse.live.gateway.worker import Worker
from hanse.live.league_file import site_fleet
from hanse.live.runtime import StateDir
from hanse.live.supervise import python_command
from hanse.live.weights import default_cache_dir

GC_FIRST_GENERATION = 50_000
"""A request makes few cyclic objects; collecting after every 700 allocations would cost more than they hold."""


def main(argv: list[str] | None = None) -> int:
    """Serve until told to stop."""
    try:
        if (sys.argv[1:] if argv is None else argv) == ["--warm"]:
            warm()
            kernels.warm()
            return 0
        _compile_elsewhere()
        warm()  # from the cache on disk; else the first request would wait for the compiler
        kernels.warm()
        give_back("libllvmlite")
        settings = _settings(sys.argv[1:] if argv is None else argv)
        uvloop.run(_serve(settings))
    except HanseError as error:
        sys.stderr.write(f"hanse gateway: {error}\n")
        return 2
    return 0


async def _serve(settings: GatewaySettings) -> None:
    loop = asyncio.get_running_loop()
    worker = Worker(settings, loop)
    port, hop_port = await worker.listen()
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    address = {"site": settings.site, "port": port, "hop_port": hop_port}
    sys.stdout.write(msgspec.json.encode(address).decode() + "\n")
    sys.stdout.flush()
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_FIRST_GENERATION, 20, 50)
    await stopped.wait()
    await worker.stop()


def _compile_elsewhere() -> None:
    """What the compiler takes, 90 MB, is for a process that ends; once for each version of the kernels."""
    where = stamp() + os.environ.get("NUMBA_CACHE_DIR", "").encode()
    done = default_cache_dir() / f"warm-{sha256(where).hexdigest()[:16]}"
    if done.exists():
        return
    with locked(default_cache_dir()), contextlib.suppress(OSError):
        if not done.exists():
            command = python_command("hanse.live.gateway", "--warm")
            subprocess.run(command, stdin=subprocess.DEVNULL, stdout=sys.stderr, check=False)
            done.touch()


def _settings(argv: list[str]) -> GatewaySettings:
    parser = argparse.ArgumentParser(prog="python -m hanse.live.gateway")
    parser.add_argument("settings", nargs="?", type=Path)
    parser.add_argument("--site")
    parser.add_argument("--state", type=Path)
    parser.add_argument("--worker", type=int, default=0)
    asked = parser.parse_args(argv)
    if asked.settings is not None:
        return read_settings(asked.settings)
    if asked.site is None or asked.state is None:
        parser.error("give SETTINGS.json, or --site and --state")
    fleet = site_fleet(StateDir(asked.state), asked.site)
    return site_settings(fleet, asked.site, asked.state, asked.worker)


if __name__ == "__main__":
    sys.exit(main())

"""`python -m hanse.live.batch --site S --state DIR`: the batch process of one site, until SIGTERM.

Here: wiring and the Unix socket. Not here: restarting it (the site group).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import math
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import uvicorn
import uvloop

from hanse.live import bus
from hanse.live.batch.access import Access
from hanse.live.batch.api import Api
from hanse.live.batch.asking import Hops, Lines
from hanse.live.batch.commits import Commits
from hanse.live.batch.follow import Follower, reporting
from hanse.live.batch.keeper import Keeper
from hanse.live.batch.owners import Owners
from hanse.live.batch.runner import Runner
from hanse.live.batch.standby import Standby
from hanse.live.batch.store import Store
from hanse.live.gateway.settings import BATCH_SOCKET, inner_socket
from hanse.live.identity import load_identity
from hanse.live.league_file import LeagueCopy, site_fleet
from hanse.live.reach import ReachFile, reach_of
from hanse.live.runtime import StateDir, private_socket, replace_file
from hanse.model.fleet import Fleet

FOLLOW_S: Final = 1.0


async def serve(state: StateDir, site: str) -> None:
    """Run everything of one site until cancelled."""
    fleet, runtime, home = site_fleet(state, site), state.read_runtime(), state.site(site)
    address = runtime.site(site)
    identity = load_identity(home / "identity", fleet.name, site, time.time())
    reach = reach_of(fleet, runtime, site)
    access = Access(site, home, reach.urls)
    hops = Hops(identity, reach.peers, access)
    store = Store(home / "batch")
    lines = Lines(tuple(home / inner_socket(worker) for worker in range(address.workers)))
    client = await bus.connect_when_up(
        lambda: bus.connect_leaf(runtime, state, site, name="batch"), give_up_s=math.inf
    )
    own = await bus.connect_when_up(
        lambda: bus.connect_own(runtime, state, site, name="batch"), give_up_s=math.inf
    )
    try:
        commits = Commits(own)
        await commits.ensure()
        follower = Follower(site, scheduled=fleet.slow_loop.places)
        await client.subscribe(bus.site_subject(site, "schedule"), cb=follower.hear)
        runner = Runner(
            lines,
            commits,
            fleet.batch.lines_at_once_max,
            lambda work: keeper.progressed(work),
            follower,
        )
        keeper = Keeper(site, store, access, commits, runner, fleet.batch)
        api = Api(keeper, access, hops)
        copies = fleet.batch.home_copies if address.hub_leaf else 1
        standby = Standby(keeper, runner, access, hops, commits, Owners(client, site), copies)
        standby.join(api)
        async with asyncio.TaskGroup() as group:
            told = reporting(client, site, lambda: keeper.open_batches())

            def follow(fleet: Fleet) -> None:
                """Another fleet is in force: bounds hold for what comes from now on."""
                follower.scheduled = fleet.slow_loop.places
                runner.at_once_max = fleet.batch.lines_at_once_max
                keeper.limits = fleet.batch
                standby.copies = fleet.batch.home_copies if address.hub_leaf else 1

            following = _follow(home, access, hops, LeagueCopy(state, site), follow)
            for duty in (runner.run(), keeper.run(), standby.run(), following, told):
                group.create_task(duty)
            group.create_task(_listen(api, private_socket(home / BATCH_SOCKET)))
    finally:
        lines.close()
        await bus.leave(own)
        await bus.leave(client)


async def _follow(
    home: Path, access: Access, hops: Hops, copy: LeagueCopy, on_fleet: Callable[[Fleet], None]
) -> None:
    """Ways to other sites and the fleet in force, as the agent leaves them."""
    file = ReachFile(home)
    while True:
        fleet = copy.newer()
        if fleet is not None:
            on_fleet(fleet)
        reach = file.newer()
        if reach is not None:
            access.urls = reach.urls
            hops.peers = reach.peers
        hops.look()
        await asyncio.sleep(FOLLOW_S)


async def _listen(api: Api, listening: socket.socket) -> None:
    config = uvicorn.Config(
        api.app(), log_level="warning", access_log=False, timeout_graceful_shutdown=1
    )
    await _Server(config).serve(sockets=[listening])


class _Server(uvicorn.Server):
    """Leaves signals to the process it is a part of."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def main() -> None:
    """Run until SIGTERM; nothing has to be put in order, since any crash must be survived anyway."""
    parser = argparse.ArgumentParser(prog="hanse.live.batch")
    parser.add_argument("--site", required=True)
    parser.add_argument("--state", type=Path, required=True)
    arguments = parser.parse_args()
    state = StateDir(arguments.state)
    replace_file(state.site(arguments.site) / "pid" / "batch.pid", f"{os.getpid()}\n".encode())
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    uvloop.run(serve(state, arguments.site))


if __name__ == "__main__":
    main()

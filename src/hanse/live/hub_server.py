"""One hub's own bus server, asked and ordered about as no program of a site may.

Here: ending leaves' connections, counting routes to other hubs, whether the streams are there, and a server by itself that has a hub's
streams for nobody but its starter. Not here: configurations (`live.bus`), when to do it (`live.hub_seats`, `live.hub_bus`).
"""

from __future__ import annotations

import asyncio
import json
import random
import secrets
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from nats.aio.client import Client

from hanse.live import bus
from hanse.live.runtime import LOOPBACK, StateDir, free_port

_END_S_MAX: Final = 20.0


async def end_leaves(keeper: Client, hub: str, wait_s: float) -> int:
    """End every leaf's connection to one hub, `wait_s` after its configuration was to be read anew; how many there were."""
    await asyncio.sleep(wait_s)
    found = await _ask(keeper, hub, "LEAFZ")
    server, leaves = found["server"]["id"], found["data"].get("leafs") or []
    for leaf in leaves:
        kick = json.dumps({"cid": leaf["id"]}).encode()
        await keeper.request(f"$SYS.REQ.SERVER.{server}.KICK", kick, timeout=bus.API_S_MAX)
    return len(leaves)


async def routes_of(keeper: Client, hub: str) -> int:
    """How many connections one hub's server has to others'."""
    found = await _ask(keeper, hub, "ROUTEZ")
    return len(found["data"].get("routes") or [])


async def _ask(keeper: Client, hub: str, what: str) -> Any:
    """All servers of a cluster hear it; the one of this name answers."""
    only = json.dumps({"server_name": hub, "exact_match": True}).encode()
    answer = await keeper.request(f"$SYS.REQ.SERVER.PING.{what}", only, timeout=bus.API_S_MAX)
    return json.loads(answer.data)


async def streams_there(client: Client) -> None:
    """Raise where a further hub has nothing to follow yet: the first one makes the streams, of what it had alone."""
    js = client.jetstream(timeout=bus.API_S_MAX)
    for name in (bus.TABLES, bus.EVIDENCE, bus.OWNERS, bus.HUBS, f"KV_{bus.LEASES}"):
        await js.stream_info(name)


@contextmanager
def by_itself(state: StateDir) -> Iterator[tuple[int, str]]:
    """A server on the hub's streams that nobody else can reach, and that ends again; its port and its only user's password."""
    password = secrets.token_urlsafe(32)
    port = free_port(LOOPBACK, (), random.Random())
    conf = bus.write_restoring_conf(state, port, password)
    log = state.hub / "log" / "restore.log"
    try:
        with log.open("ab") as output:
            server = subprocess.Popen(bus.server_command(conf), stdout=output, stderr=output)
        try:
            yield port, password
        finally:
            server.terminate()
            try:
                server.wait(_END_S_MAX)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()
    finally:
        conf.unlink(missing_ok=True)
        log.unlink(missing_ok=True)

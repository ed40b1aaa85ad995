"""Real NATS servers: a bus that was alone becomes one of three and loses nothing, and one of the three may go."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from nats.aio.client import Client

from hanse.live import bus
from hanse.live.ca import ensure_identity
from hanse.live.hub_bus import ASIDE, CLUSTERED, MOVING, leave_alone, take_in
from hanse.live.hub_server import streams_there
from hanse.live.hubs import Cluster
from hanse.live.lease import Lease
from hanse.live.runtime import LOOPBACK, HubAddress, Runtime, StateDir, replace_file
from live.test_bus import when
from ports import free_port

HUBS = ("hub", "second", "third")
pytestmark = pytest.mark.timeout(120)


class Buses:
    """Three hubs' servers; the first has been alone so far."""

    def __init__(self, home: Path) -> None:
        self.states = {hub: StateDir(home / hub) for hub in HUBS}
        self.ports = {hub: free_port(LOOPBACK) for hub in HUBS}
        self.runtimes = {hub: self._runtime(hub) for hub in HUBS}
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        first = self.states["hub"]
        for hub, state in self.states.items():
            state.make(("hub",), hub=True)
            if hub == "hub":
                ensure_identity(state.path, "f", "hub", time.time(), hosts=(LOOPBACK,))
                bus.ensure_secrets(state, (), hub=True)
            else:
                shutil.copytree(
                    first.site("hub") / "identity",
                    state.site("hub") / "identity",
                    dirs_exist_ok=True,
                )
                bus.ensure_secrets(state, (), hub=True, cluster=bus.hub_secrets(first).cluster)
                replace_file(state.hub / CLUSTERED, b"")  # fmt: skip

    def _runtime(self, hub: str) -> Runtime:
        ports = [free_port(LOOPBACK) for _ in range(3)]
        address = HubAddress(id=hub, client_port=ports[0], leaf_port=ports[1], control_port=1)
        return Runtime(fleet="f", hub=address, sites={})

    def start(self, hub: str, *, alone: bool = False) -> None:
        routes = tuple(f"{LOOPBACK}:{port}" for one, port in self.ports.items() if one != hub)
        cluster = None if alone else Cluster(port=self.ports[hub], routes=routes)
        state = self.states[hub]
        bus.write_hub_conf(self.runtimes[hub], state, {}, cluster)
        command = [sys.executable, "-m", "hanse.live.hub_bus", "--state", str(state.path)]
        with (state.hub / "log" / "nats.log").open("ab") as log:
            self.processes[hub] = subprocess.Popen(command, stdout=log, stderr=log)

    def end(self, hub: str, *, kill: bool = False) -> None:
        process = self.processes.pop(hub)
        process.kill() if kill else process.terminate()
        process.wait(20)

    async def connect(self, hub: str) -> Client:
        runtime, state = self.runtimes[hub], self.states[hub]
        return await bus.connect_when_up(lambda: bus.connect_hub(runtime, state, name="test"))


async def claims(client: Client) -> list[int]:
    """Sequences of the claims of batches, which are their epochs."""
    js = client.jetstream()
    found = []
    for batch in ("a", "b"):
        message = await js.get_last_msg(bus.OWNERS, f"site.lyon.own.{batch}")
        found.append(int(message.seq or 0))
    return found


@pytest.mark.long
def test_what_a_bus_had_alone_three_have_and_one_of_them_may_go(tmp_path: Path) -> None:
    buses = Buses(tmp_path)

    async def body() -> None:
        first = buses.states["hub"]
        buses.start("hub", alone=True)
        client = await buses.connect("hub")
        await when(lambda: bus.ensure_hub_streams(client, ()))
        js = client.jetstream()
        for number in range(12):
            await js.publish(bus.TABLE_SUBJECT, b"table %d" % number)
        for batch in ("a", "x", "b"):
            await js.publish(f"site.lyon.own.{batch}", b"open")
        assert await claims(client) == [1, 3]
        await bus.leave(client)
        buses.end("hub")

        for hub in HUBS:
            buses.start(hub)
        client = await buses.connect("hub")
        assert (first.hub / MOVING).exists()
        await when(lambda: take_in(client, first, 3))
        await when(lambda: bus.ensure_hub_streams(client, (), 3))
        assert [p.name for p in first.hub.iterdir() if p.name in (MOVING, ASIDE)] == []
        js = client.jetstream()
        for name in (bus.TABLES, bus.OWNERS, bus.EVIDENCE, bus.HUBS, f"KV_{bus.LEASES}"):
            assert (await js.stream_info(name)).config.num_replicas == 3, name
        assert await claims(client) == [1, 3]
        state = (await js.stream_info(bus.TABLES)).state
        assert (state.messages, state.last_seq) == (bus.TABLES_KEPT, 12)
        await bus.leave(client)

        buses.end("hub", kill=True)
        client = await buses.connect("second")
        await when(lambda: streams_there(client))
        assert await claims(client) == [1, 3]
        ack = None
        while ack is None:
            try:
                ack = await client.jetstream(timeout=1.0).publish(bus.TABLE_SUBJECT, b"new")
            except Exception:
                await asyncio.sleep(0.1)
        assert ack.seq == 13
        lease = Lease(client, "two")
        while not await lease.keep():
            await asyncio.sleep(0.1)

        buses.end("third", kill=True)
        with pytest.raises(Exception, match=r"(?i)timeout|no response|unavailable"):
            await client.jetstream(timeout=2.0).publish(bus.TABLE_SUBJECT, b"alone")
        await bus.leave(client)

    try:
        asyncio.run(body())
    finally:
        for hub in list(buses.processes):
            buses.end(hub, kill=True)


def test_leaving_alone_is_gone_on_with_wherever_it_was_ended(tmp_path: Path) -> None:
    state = StateDir(tmp_path)
    state.make((), hub=True)
    for step in ("saved", "aside", "done"):
        (state.hub / CLUSTERED).unlink(missing_ok=True)
        for name in (MOVING, ASIDE, "jetstream"):
            shutil.rmtree(state.hub / name, ignore_errors=True)
        (state.hub / MOVING).mkdir()
        (state.hub / ("jetstream" if step == "saved" else ASIDE)).mkdir()
        (state.hub / ("jetstream" if step == "saved" else ASIDE) / "mark").touch()
        if step == "done":
            (state.hub / CLUSTERED).touch()
            (state.hub / "jetstream").mkdir()
        leave_alone(state)
        assert (state.hub / ASIDE / "mark").exists(), step
        assert list((state.hub / "jetstream").iterdir()) == []
        assert (state.hub / CLUSTERED).exists()

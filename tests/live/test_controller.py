"""A real hub bus and the controller: one leads, tables reach the sites, epochs only rise, a scenario moves the table."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nats.aio.client import Client

import views
from hanse.dispatch.table import Table
from hanse.live import bus
from hanse.live.control_client import Scenario, control_key
from hanse.live.controller import Controller
from hanse.live.first_start import Prepared, prepare
from hanse.live.lease import EpochFile, Lease, next_epoch
from hanse.live.probe import get
from hanse.signals import Feed, Override
from hanse.view import LeagueView

LEAGUE = Path(__file__).parents[2] / "examples" / "league.toml"


class Hub:
    """A prepared league with its hub's bus running; controllers run inside the test."""

    def __init__(self, directory: Path, more: str = "") -> None:
        text = LEAGUE.read_text() + more
        for port in range(8101, 8106):
            text = text.replace(f"port = {port}", "port = 0")
        feeds = directory / "feeds.toml"
        if feeds.exists():
            text = text.replace("\nname = ", '\nfeeds = "feeds.toml"\nname = ', 1)
        (directory / "league.toml").write_text(text)
        self.prepared: Prepared = prepare(directory / "league.toml", directory / "state")
        self.state = self.prepared.state
        self.log = directory / "nats.log"
        self.server: subprocess.Popen[bytes] | None = None
        self.controllers: dict[str, tuple[Controller, asyncio.Task[None]]] = {}
        self.client = Client()
        self.tables: list[Table] = []

    def start_bus(self) -> None:
        command = bus.server_command(self.state.hub / "hub.conf")
        with self.log.open("ab") as log:
            self.server = subprocess.Popen(command, stdout=log, stderr=log)

    def kill_bus(self) -> None:
        assert self.server is not None
        self.server.kill()
        self.server.wait()

    def start(self, name: str = "one") -> None:
        controller = Controller(self.prepared, None)
        controller._prepared = _without_web(self.prepared, keep=name == "one")
        self.controllers[name] = (controller, asyncio.create_task(controller.run()))

    async def kill(self, name: str = "one") -> None:
        """End it without a goodbye, as kill -9 does: the lease is not given back."""
        controller, task = self.controllers.pop(name)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError, BaseExceptionGroup):
            await task
        await controller._client.close()

    async def end(self, name: str = "one") -> None:
        controller, task = self.controllers.pop(name)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError, BaseExceptionGroup):
            await task
        await controller.close()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        try:
            self.start_bus()
            runtime = self.prepared.runtime
            self.client = await bus.connect_when_up(
                lambda: bus.connect_hub(runtime, self.state, name="test")
            )

            async def on_table(message: Any) -> None:
                self.tables.append(Table.from_bytes(bytes(message.data)))

            await self.client.subscribe(bus.TABLE_SUBJECT, cb=on_table)
            yield
        finally:
            for name in list(self.controllers):
                await self.kill(name)
            await self.client.close()
            self.kill_bus()

    async def table(self, claim: Callable[[Table], bool] = lambda table: True) -> Table:
        """The newest table, once it meets the claim."""
        await until(lambda: bool(self.tables) and claim(self.tables[-1]))
        return self.tables[-1]

    async def report(self, site: str, *, epoch: int = 0) -> None:
        """What the site's agent would say."""
        status = views.status(site, epoch=epoch, table_version=0)
        await self.client.publish(bus.site_subject(site, "status"), msgspec.msgpack.encode(status))

    async def view(self) -> LeagueView:
        hub = self.prepared.runtime.hub
        assert hub is not None
        status, body = await get(hub.host, hub.control_port, "/api/view.json", timeout_s=5.0)
        assert status == 200, body
        return msgspec.json.decode(body, type=LeagueView)

    async def post(self, body: bytes, **headers: str) -> tuple[int, bytes]:
        hub = self.prepared.runtime.hub
        assert hub is not None
        reader, writer = await asyncio.open_connection(hub.host, hub.control_port)
        shown = f"Bearer {control_key(self.state)}"
        lines = {"content-type": "application/json", "authorization": shown} | {
            name.replace("_", "-"): value for name, value in headers.items()
        }
        head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        start = "POST /api/scenario HTTP/1.0\r\nhost: localhost\r\n"
        writer.write(f"{start}content-length: {len(body)}\r\n{head}\r\n".encode() + body)
        answer = await reader.read()
        writer.close()
        return int(answer.split()[1]), answer.partition(b"\r\n\r\n")[2]


def _without_web(prepared: Prepared, *, keep: bool) -> Prepared:
    """A second controller on the same machine cannot have the same port."""
    if keep:
        return prepared
    hub = prepared.runtime.hub
    assert hub is not None
    other = msgspec.structs.replace(hub, control_port=0)
    runtime = msgspec.structs.replace(prepared.runtime, hub=other)
    return msgspec.structs.replace(prepared, runtime=runtime)


async def until(claim: Callable[[], bool], limit_s: float = 30.0) -> None:
    end_s = time.monotonic() + limit_s
    while not claim():
        assert time.monotonic() < end_s, "did not come true in time"
        await asyncio.sleep(0.02)


def run(tmp_path: Path, body: Callable[[Hub], Awaitable[None]], more: str = "") -> None:
    async def whole() -> None:
        hub = Hub(tmp_path, more)
        async with hub.running():
            await body(hub)

    asyncio.run(whole())


def test_a_table_is_published_under_an_epoch(tmp_path: Path) -> None:
    async def body(hub: Hub) -> None:
        hub.start()
        table = await hub.table()
        assert table.meta.epoch >= 1
        assert [site.id for site in table.meta.sites] == list(hub.prepared.runtime.sites)
        placed = {f"{p.site}/{p.service}/{p.variant}" for p in hub.prepared.fleet.placements}
        assert set(table.meta.offers) == placed
        assert {key.sha256 for tenant in hub.prepared.fleet.tenants for key in tenant.keys} == set(
            table.meta.keys
        )

    run(tmp_path, body)


def test_after_a_restart_epoch_and_version_rise_and_offers_stay(tmp_path: Path) -> None:
    async def body(hub: Hub) -> None:
        hub.start()
        first = await hub.table()
        await hub.end()
        hub.start()
        second = await hub.table(lambda table: table.meta.epoch > first.meta.epoch)
        assert second.meta.version > first.meta.version
        assert second.meta.offers == first.meta.offers

    run(tmp_path, body)


def test_a_leader_foresees_at_once_and_not_when_the_next_outlook_would_be_due(
    tmp_path: Path,
) -> None:
    async def body(hub: Hub) -> None:
        hub.start()
        controller = hub.controllers["one"][0]
        assert controller._slow.every_s == 300.0
        await until(lambda: controller._dispatcher.slow.outlook is not None)
        controller._take_epoch()
        assert controller._dispatcher.slow.outlook is None
        await until(lambda: controller._dispatcher.slow.outlook is not None)

    run(tmp_path, body, "\n[slow_loop]\nplaces = true\n")


def test_another_clock_is_foreseen_by_at_once_at_its_begin_and_at_its_end(tmp_path: Path) -> None:
    async def body(hub: Hub) -> None:
        hub.start()
        controller = hub.controllers["one"][0]
        assert controller._slow.every_s == 300.0
        slow = controller._dispatcher.slow
        await until(lambda: slow.outlook is not None)
        for speed in (60.0, 1.0):
            feed = Feed(clock_speed=speed, clock_from_s=time.time() if speed != 1.0 else 0.0)
            status, _ = await hub.post(msgspec.json.encode(Scenario.of(feed)))
            assert status == 200
            await until(lambda: slow.outlook is not None and slow.outlook.clock == feed.clock)  # noqa: B023

    run(tmp_path, body, "\n[slow_loop]\nplaces = true\n")


@pytest.mark.long
def test_of_two_controllers_one_leads_and_the_other_follows_it(tmp_path: Path) -> None:
    async def body(hub: Hub) -> None:
        hub.start("one")
        first = await hub.table()
        hub.start("two")
        await asyncio.sleep(2.0)  # the other has joined and asked for the lease more than once
        assert {table.meta.epoch for table in hub.tables} == {first.meta.epoch}
        leader = hub.controllers["one"][0]
        assert leader._leads
        assert not hub.controllers["two"][0]._leads
        killed_s = time.monotonic()
        await hub.kill("one")
        second = await hub.table(lambda table: table.meta.epoch > first.meta.epoch)
        print(f"led again {time.monotonic() - killed_s:.1f} s after the leader was killed")
        assert second.meta.version > first.meta.version

    run(tmp_path, body)


def test_an_epoch_that_a_site_has_seen_is_outdone(tmp_path: Path) -> None:
    async def body(hub: Hub) -> None:
        hub.start()
        first = await hub.table()
        await hub.report("tallinn", epoch=first.meta.epoch + 40)
        second = await hub.table(lambda table: table.meta.epoch > first.meta.epoch)
        assert second.meta.epoch == first.meta.epoch + 41

    run(tmp_path, body)


def test_it_outlives_a_restart_of_the_bus(tmp_path: Path) -> None:
    async def body(hub: Hub) -> None:
        hub.start()
        first = await hub.table()
        hub.kill_bus()
        await until(lambda: not hub.controllers["one"][0]._client.is_connected)
        hub.start_bus()
        await until(lambda: hub.client.is_connected)
        await hub.report("lyon", epoch=first.meta.epoch + 5)  # a reason for another table
        while not hub.controllers["one"][0]._leads:
            await asyncio.sleep(0.05)

        async def said_again() -> None:
            while hub.tables[-1].meta.epoch <= first.meta.epoch:
                await hub.report("lyon", epoch=first.meta.epoch + 5)
                await asyncio.sleep(0.2)

        await asyncio.wait_for(said_again(), 30.0)

    run(tmp_path, body)


def carbon(table: Table, site: str) -> float:
    return float(table.sites["g_per_wh"][table.site_index[site]])


def test_a_scenario_moves_the_table_and_reaches_the_sites(tmp_path: Path) -> None:
    async def body(hub: Hub) -> None:
        heard: list[Feed] = []

        async def on_control(message: Any) -> None:
            heard.append(msgspec.msgpack.decode(message.data, type=Feed))

        await hub.client.subscribe(bus.CONTROL_SUBJECT, cb=on_control)
        hub.start()
        first = await hub.table(lambda table: carbon(table, "virginia") > 0)
        change = Override(
            kind="carbon_factor",
            place="virginia",
            value=3.0,
            from_s=0.0,
            until_s=4e9,
            reason="coal burns in Virginia",
        )
        feed = Feed(overrides=(change,))
        status, answer = await hub.post(msgspec.json.encode(Scenario.of(feed)))
        assert (status, msgspec.json.decode(answer, type=Feed)) == (200, feed)
        wanted = 3.0 * carbon(first, "virginia")
        moved = await hub.table(lambda table: carbon(table, "virginia") > 0.98 * wanted)
        assert carbon(moved, "virginia") == pytest.approx(wanted, rel=0.02)
        assert carbon(moved, "lyon") == pytest.approx(carbon(first, "lyon"), rel=0.02)
        await until(lambda: feed in heard)
        assert (await hub.view()).notes == ("coal burns in Virginia",)

    run(tmp_path, body)


def test_what_a_provider_says_moves_the_table_and_reaches_the_sites(tmp_path: Path) -> None:
    table = tmp_path / "own.csv"
    hour_s = time.time() // 3600.0 * 3600.0
    table.write_text(f"utc,g\n{hour_s - 3600.0},700\n{hour_s},777\n")
    (tmp_path / "feeds.toml").write_text(
        f'[[feed]]\nprovider = "csv"\nzone = "virginia"\npath = "{table}"\n'
    )

    async def body(hub: Hub) -> None:
        heard: list[Feed] = []

        async def on_control(message: Any) -> None:
            heard.append(msgspec.msgpack.decode(message.data, type=Feed))

        await hub.client.subscribe(bus.CONTROL_SUBJECT, cb=on_control)
        hub.start()
        await hub.table(lambda table: carbon(table, "virginia") > 0.7)
        await until(lambda: any(one.observed for one in heard))
        (said,) = next(one.observed for one in heard if one.observed)
        assert (said.place, said.value) == ("virginia", 777.0)

    run(tmp_path, body)


def test_a_scenario_comes_from_who_knows_the_secret_of_the_hub(tmp_path: Path) -> None:
    async def body(hub: Hub) -> None:
        hub.start()
        await hub.table()
        empty = msgspec.json.encode(Scenario())
        assert (await hub.post(empty, origin="http://evil.example"))[0] == 403
        assert (await hub.post(empty, content_type="text/plain"))[0] == 415
        assert (await hub.post(empty, authorization="Bearer another"))[0] == 401
        assert (await hub.post(empty, authorization=""))[0] == 401
        assert (await hub.post(b'{"overrides": 3}'))[0] == 400
        assert (await hub.post(b'{"unknown": 3}'))[0] == 400
        assert (await hub.post(b" " * (1024 * 1024 + 1)))[0] == 413
        assert (await hub.post(b"[" * 100_000))[0] == 400
        assert (await hub.post(empty))[0] == 200
        assert (hub.state.hub / "control.key").stat().st_mode & 0o777 == 0o600

    run(tmp_path, body)


@pytest.mark.long
def test_the_picture_shows_who_reports_and_who_fell_silent(tmp_path: Path) -> None:
    async def body(hub: Hub) -> None:
        hub.start()
        await hub.table()
        await hub.report("lyon")
        states: dict[str, str] = {}

        async def becomes(wanted: str) -> None:
            while states.get("lyon") != wanted:
                states.update({site.id: site.state for site in (await hub.view()).sites})
                await asyncio.sleep(0.1)

        await asyncio.wait_for(becomes("degraded"), 20.0)  # it reports, and has no engine
        await asyncio.wait_for(becomes("silent"), 20.0)
        assert states["tallinn"] == "never seen"

    run(tmp_path, body)


def test_a_site_without_a_hub_gets_its_table_from_its_own_bus(tmp_path: Path) -> None:
    text = LEAGUE.read_text().replace("port = 8104", "port = 0")
    (tmp_path / "league.toml").write_text(text)
    prepared = prepare(tmp_path / "league.toml", tmp_path / "state", only_site="tallinn")
    command = bus.server_command(prepared.state.site("tallinn") / "leaf.conf")

    async def whole() -> None:
        with (tmp_path / "nats.log").open("ab") as log:
            server = subprocess.Popen(command, stdout=log, stderr=log)
        controller = Controller(prepared, "tallinn")
        task = asyncio.create_task(controller.run())
        try:
            client = await bus.connect_when_up(
                lambda: bus.connect_leaf(prepared.runtime, prepared.state, "tallinn", name="test")
            )
            newest = None
            while newest is None:
                with contextlib.suppress(Exception):
                    newest = await client.jetstream().get_last_msg(bus.TABLES, bus.TABLE_SUBJECT)
                await asyncio.sleep(0.05)
            table = Table.from_bytes(bytes(newest.data or b""))
            assert any(offer.startswith("tallinn/") for offer in table.meta.offers)
            await client.close()
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, BaseExceptionGroup):
                await task
            await controller._client.close()
            server.kill()
            server.wait()

    asyncio.run(asyncio.wait_for(whole(), 60.0))


@pytest.mark.long
def test_a_lease_is_held_by_one_given_back_at_once_and_lost_with_the_bus(tmp_path: Path) -> None:
    async def body(hub: Hub) -> None:
        first, second = Lease(hub.client, "a"), Lease(hub.client, "b")
        assert await first.keep()
        assert not await second.keep()
        assert await first.keep()
        await first.release()
        assert not first.held
        assert await second.keep()
        assert second.first_revision > first.first_revision
        hub.kill_bus()
        started_s = time.monotonic()
        while await second.keep():
            await asyncio.sleep(0.1)
        assert time.monotonic() - started_s <= 2 * bus.LEASE_S + bus.API_S_MAX
        hub.start_bus()

    run(tmp_path, body)


@given(st.integers(0, 2**40), st.integers(0, 2**40))
def test_the_next_epoch_is_above_every_epoch_before(revision: int, seen: int) -> None:
    epoch = next_epoch(revision, seen)
    assert epoch > revision
    assert epoch > seen
    assert epoch - 1 in (revision, seen)


def test_the_epoch_on_disk_only_rises(tmp_path: Path) -> None:
    path = tmp_path / "epoch"
    epochs = EpochFile(path)
    for epoch in (3, 7, 5):
        epochs.see(epoch)
    assert EpochFile(path).epoch == 7
    path.write_text("broken")
    assert EpochFile(path).epoch == 0

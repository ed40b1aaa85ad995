"""Real NATS servers: a site speaks for itself only, tables reach all, evidence arrives once and in order."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import shutil
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.js.errors import NotFoundError

from hanse.errors import SiteError
from hanse.live import bus
from hanse.live.batch.commits import Commits, Note
from hanse.live.bus_sources import watch_sources
from hanse.live.ca import ensure_identity, seats
from hanse.live.first_start import links_config
from hanse.live.link_control import LinkControl
from hanse.live.runtime import Runtime, StateDir, plan_runtime
from hanse.model.fleet import Fleet, Gateway, Link
from hanse.model.read import read_fleet

LEAGUE = read_fleet(Path(__file__).parents[2] / "examples" / "league.toml")
SITES = ("frankfurt", "lyon")


def two_sites() -> Fleet:
    sites = tuple(msgspec.structs.replace(s, gateway=Gateway()) for s in LEAGUE.sites[:2])
    links = (Link(a="frankfurt", b="lyon", rtt_ms=20, mbit_s=100),)
    return msgspec.structs.replace(LEAGUE, sites=sites, links=links, placements=(), central=None)


class Rig:
    """The bus of a fleet: hub and leaf servers, and relays between them."""

    def __init__(self, directory: Path) -> None:
        self.state = StateDir(directory)
        self.runtime: Runtime = plan_runtime(two_sites(), directory)
        self.state.make(SITES, hub=True)
        bus.ensure_secrets(self.state, SITES, hub=True)
        for site in ("hub", *SITES):
            ensure_identity(self.state.path, "league", site, time.time())
        self.hub_conf = bus.write_hub_conf(self.runtime, self.state, self.seats())
        self.confs = {site: bus.write_leaf_conf(self.runtime, self.state, site) for site in SITES}
        links = links_config(self.runtime, self.state)
        self.state.links_json.write_bytes(msgspec.json.encode(links))
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.control = LinkControl(self.state.links_sock)

    def seats(self) -> dict[str, str]:
        return seats(self.state.ca_dir, SITES)

    def start(self, name: str) -> None:
        command = {
            "links": [sys.executable, "-m", "hanse.live.links", str(self.state.links_json)],
            "hub": bus.server_command(self.hub_conf),
        }.get(name)
        command = command or bus.server_command(self.confs[name])
        with (self.state.path / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(command, stdout=log, stderr=log)

    def kill(self, name: str) -> None:
        process = self.processes.pop(name)
        process.kill()
        process.wait()

    def end(self) -> None:
        for process in self.processes.values():
            process.terminate()
        for process in self.processes.values():
            process.wait()

    async def leaf(self, site: str) -> Client:
        client = await bus.connect_when_up(
            lambda: bus.connect_leaf(self.runtime, self.state, site, name="test")
        )
        await when(lambda: bus.ensure_leaf_streams(client, site, hub=True))
        return client

    async def hub(self) -> Client:
        client = await bus.connect_when_up(
            lambda: bus.connect_hub(self.runtime, self.state, name="test")
        )
        await when(lambda: bus.ensure_hub_streams(client, SITES))
        return client

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[tuple[Client, dict[str, Client]]]:
        clients: list[Client] = []
        watches: list[asyncio.Task[None]] = []
        try:
            for name in ("links", "hub", *SITES):
                self.start(name)
            hub = await self.hub()
            clients.append(hub)
            leaves = {site: await self.leaf(site) for site in SITES}
            clients += leaves.values()
            watched = [(hub, bus.EVIDENCE), *((leaf, bus.TABLES) for leaf in leaves.values())]
            watches = [
                asyncio.create_task(watch_sources(c, name, standalone=name == bus.TABLES))
                for c, name in watched
            ]
            for leaf in leaves.values():
                await until(lambda leaf=leaf: bus.leaf_connected(leaf))  # type: ignore[misc]
            yield hub, leaves
        finally:
            for watch in watches:
                watch.cancel()
            for client in clients:
                await client.close()
            self.end()


async def until(claim: Callable[[], Awaitable[bool]], limit_s: float = 30.0) -> None:
    end_s = time.monotonic() + limit_s
    while not await claim():
        assert time.monotonic() < end_s, "did not come true in time"
        await asyncio.sleep(0.02)


async def when(act: Callable[[], Awaitable[None]]) -> None:
    """Do it once JetStream answers: a server listens a moment before that."""
    end_s = time.monotonic() + 30.0
    while True:
        try:
            return await act()
        except Exception:
            assert time.monotonic() < end_s, "JetStream did not answer in time"
            await asyncio.sleep(0.05)


async def messages(client: Client, stream: str) -> list[bytes]:
    """All payloads of a stream, in its order."""
    js = client.jetstream()
    try:
        state = (await js.stream_info(stream)).state
    except Exception:
        return []
    seqs = range(max(state.first_seq, 1), state.last_seq + 1)  # 0 and 0: nothing yet
    try:
        return [bytes((await js.get_msg(stream, seq)).data or b"") for seq in seqs]
    except NotFoundError:  # emptied in between
        return []


def run(tmp_path: Path, body: Callable[[Rig, Client, dict[str, Client]], Awaitable[None]]) -> None:
    async def whole() -> None:
        rig = Rig(tmp_path)
        async with rig.running() as (hub, leaves):
            await body(rig, hub, leaves)

    asyncio.run(whole())


async def hears(listener: Client, pattern: str, speaker: Client, subject: str) -> bool:
    """Whether what the speaker says on `subject` reaches the listener, who subscribes to `pattern`."""
    heard: list[str] = []

    async def on_message(message: Any) -> None:
        heard.append(message.subject)

    subscription = await listener.subscribe(pattern, cb=on_message)
    await listener.flush()
    await asyncio.sleep(0.06)  # the interest crosses to the other servers
    await speaker.publish(subject, b"x")
    await asyncio.sleep(0.1)  # a message takes 10 ms over this relay
    await subscription.unsubscribe()
    return subject in heard


def test_a_site_speaks_under_its_own_prefix_only(tmp_path: Path) -> None:
    async def body(rig: Rig, hub: Client, leaves: dict[str, Client]) -> None:
        lyon = leaves["lyon"]
        for subject, arrives in (
            ("site.lyon.status", True),
            ("site.frankfurt.status", False),
            ("hanse.control", False),
            ("hanse.table", False),
            ("other.subject", False),
        ):
            assert await hears(hub, subject, lyon, subject) == arrives, subject

    run(tmp_path, body)


def test_a_site_hears_the_hub_and_itself_and_no_other_site(tmp_path: Path) -> None:
    async def body(rig: Rig, hub: Client, leaves: dict[str, Client]) -> None:
        lyon, frankfurt = leaves["lyon"], leaves["frankfurt"]
        assert await hears(lyon, "hanse.control", hub, "hanse.control")
        assert await hears(lyon, "site.lyon.ask", hub, "site.lyon.ask")
        for subject in ("site.frankfurt.status", "site.frankfurt.evidence"):
            for pattern in (subject, "site.>", ">"):
                assert not await hears(lyon, pattern, frankfurt, subject), (subject, pattern)
                assert await hears(hub, pattern, frankfurt, subject), "the other could have heard"

    run(tmp_path, body)


def test_a_site_cannot_reach_anothers_streams_nor_manage_the_hubs(tmp_path: Path) -> None:
    async def body(rig: Rig, hub: Client, leaves: dict[str, Client]) -> None:
        await bus.EvidencePublisher(leaves["frankfurt"], "frankfurt").publish(b"private")
        lyon = leaves["lyon"]
        for subject in (
            "$JS.frankfurt.API.STREAM.INFO.EVIDENCE",
            "$JS.hub.API.STREAM.INFO.EVIDENCE",
            "$JS.hub.API.STREAM.DELETE.TABLES",
            "$JS.hub.API.STREAM.PURGE.TABLES",
            "$JS.hub.API.STREAM.NAMES",
            "$JS.hub.API.STREAM.MSG.GET.EVIDENCE",
            "$JS.hub.API.CONSUMER.CREATE.EVIDENCE",
            "$KV.leases.leader",
        ):
            with pytest.raises(Exception, match=r"no responders|timeout"):
                await lyon.request(subject, b"", timeout=0.5)
        answer = await lyon.request("$JS.hub.API.STREAM.INFO.TABLES", b"", timeout=2.0)
        assert b'"TABLES"' in answer.data, "the refusals above are about permission"

    run(tmp_path, body)


def test_the_hub_cannot_reach_what_a_leaf_keeps_to_itself(tmp_path: Path) -> None:
    """Neither by asking for the stream of commits nor by a stream of its own at the leaf that reads from it."""
    secret = b"an answer to a line"

    async def body(rig: Rig, hub: Client, leaves: dict[str, Client]) -> None:
        own = await bus.connect_own(rig.runtime, rig.state, "lyon", name="test")
        try:
            commits = Commits(own)
            await when(commits.ensure)
            await commits.commit("batch_lyon_1", 0, secret, Note(run="r", ok=True))
            source = {"name": "thief", "sources": [{"name": bus.BATCH}], "storage": "memory"}
            for client in (hub, leaves["lyon"], leaves["frankfurt"]):
                for ask, payload in (
                    (f"STREAM.INFO.{bus.BATCH}", {}),
                    (f"STREAM.MSG.GET.{bus.BATCH}", {"seq": 1}),
                    (f"CONSUMER.CREATE.{bus.BATCH}", {"stream_name": bus.BATCH, "config": {}}),
                    ("STREAM.CREATE.thief", source),
                    ("STREAM.MSG.GET.thief", {"seq": 1}),
                ):
                    with contextlib.suppress(NatsError):
                        subject = f"$JS.lyon.API.{ask}"
                        found = await client.request(subject, json.dumps(payload).encode(), 0.5)
                        assert secret not in base64.b64decode(
                            json.loads(found.data).get("message", {}).get("data", "")
                        )
                        assert client is leaves["lyon"] or b"error" in found.data, ask
            for pattern, listener in (("batch.>", hub), (">", leaves["frankfurt"])):
                assert not await hears(listener, pattern, own, "batch.batch_lyon_1.1.x")
            assert [content async for _, _, content in commits.read("batch_lyon_1")] == [secret]
        finally:
            await bus.leave(own)

    run(tmp_path, body)


def test_the_hub_may_not_manage_a_leafs_streams(tmp_path: Path) -> None:
    async def body(rig: Rig, hub: Client, leaves: dict[str, Client]) -> None:
        await bus.EvidencePublisher(leaves["lyon"], "lyon").publish(b"kept")
        for ask in ("STREAM.CREATE.NEW", "STREAM.PURGE.EVIDENCE", "STREAM.DELETE.EVIDENCE"):
            with pytest.raises(NatsError):
                await hub.request(f"$JS.lyon.API.{ask}", b"{}", timeout=0.5)
        answer = await hub.request("$JS.lyon.API.STREAM.INFO.EVIDENCE", b"", timeout=2.0)
        assert b"error" not in answer.data, "the refusals above are about permission"
        assert await messages(leaves["lyon"], bus.EVIDENCE) == [b"kept"]

    run(tmp_path, body)


def test_a_wrong_password_is_refused(tmp_path: Path) -> None:
    async def body(rig: Rig, hub: Client, leaves: dict[str, Client]) -> None:
        path = rig.state.site("lyon") / "bus.json"
        kept = path.read_bytes()
        path.write_bytes(msgspec.json.encode(bus.LeafSecrets(local="guess")))
        with pytest.raises(SiteError):
            await bus.connect_leaf(rig.runtime, rig.state, "lyon", name="test")
        path.write_bytes(kept)

    run(tmp_path, body)


def test_a_table_reaches_every_leafs_stream(tmp_path: Path) -> None:
    async def body(rig: Rig, hub: Client, leaves: dict[str, Client]) -> None:
        js = hub.jetstream()
        sent = [b"table %d" % number for number in range(12)]
        for table in sent:
            await js.publish(bus.TABLE_SUBJECT, table)
        kept = sent[-bus.TABLES_KEPT :]
        for leaf in leaves.values():
            await until(lambda leaf=leaf: _holds(leaf, bus.TABLES, kept))  # type: ignore[misc]

    run(tmp_path, body)


async def _holds(client: Client, stream: str, wanted: list[bytes]) -> bool:
    return await messages(client, stream) == wanted


async def _during_cut(rig: Rig, hub: Client, leaves: dict[str, Client], cut_s: float) -> None:
    """Publish at 50 a second before, in and after a cut of one leaf link; all arrive once, in order."""
    publisher = bus.EvidencePublisher(leaves["frankfurt"], "frankfurt")
    sent: list[bytes] = []

    async def publish(count: int, pause_s: float = 0.02) -> None:
        for _ in range(count):
            sent.append(b"evidence %06d" % len(sent))
            await publisher.publish(sent[-1])
            await asyncio.sleep(pause_s)

    await publish(50)
    await asyncio.to_thread(rig.control.cut, "frankfurt~hub")
    await publish(round(cut_s / 0.02))
    await asyncio.to_thread(rig.control.heal, "frankfurt~hub")
    healed_s = time.monotonic()
    await publish(50)
    await until(lambda: _arrived(hub, len(sent)))
    print(f"all {len(sent)} at the hub {time.monotonic() - healed_s:.1f} s after the heal")
    assert await messages(hub, bus.EVIDENCE) == sent


async def _arrived(hub: Client, count: int) -> bool:
    return (await hub.jetstream().stream_info(bus.EVIDENCE)).state.messages >= count


def test_evidence_of_a_short_cut_arrives_once_and_in_order(tmp_path: Path) -> None:
    run(tmp_path, lambda rig, hub, leaves: _during_cut(rig, hub, leaves, 2.0))


@pytest.mark.long
def test_evidence_of_a_cut_that_outlives_the_connection_arrives_once_and_in_order(
    tmp_path: Path,
) -> None:
    run(tmp_path, lambda rig, hub, leaves: _during_cut(rig, hub, leaves, 8.0))


@pytest.mark.long
def test_a_repeated_send_is_stored_once(tmp_path: Path) -> None:
    async def body(rig: Rig, hub: Client, leaves: dict[str, Client]) -> None:
        lyon = leaves["lyon"]
        publisher = bus.EvidencePublisher(lyon, "lyon")
        await publisher.publish(b"one")
        rig.kill("lyon")
        with pytest.raises(SiteError):
            await publisher.publish(b"two")
        rig.start("lyon")
        await when(lambda: _publish(publisher, b"two"))
        # A send whose answer was lost although it was stored: found, not stored again.
        publisher._unsure, publisher._last_seq = (1, b"two"), None
        assert await publisher.publish(b"two") == 2
        assert await bus.EvidencePublisher(lyon, "lyon").newest() == b"two"
        assert await messages(lyon, bus.EVIDENCE) == [b"one", b"two"]

    run(tmp_path, body)


async def _publish(publisher: bus.EvidencePublisher, payload: bytes) -> None:
    await publisher.publish(payload)


def test_two_writers_of_one_chain_are_found_out(tmp_path: Path) -> None:
    async def body(rig: Rig, hub: Client, leaves: dict[str, Client]) -> None:
        first, second = (bus.EvidencePublisher(leaves["lyon"], "lyon") for _ in range(2))
        await first.publish(b"one")
        await second.publish(b"two")
        with pytest.raises(SiteError):
            await first.publish(b"three")

    run(tmp_path, body)


def test_a_leaf_started_while_cut_off_keeps_its_streams(tmp_path: Path) -> None:
    async def body(rig: Rig, hub: Client, leaves: dict[str, Client]) -> None:
        await hub.jetstream().publish(bus.TABLE_SUBJECT, b"table 1")
        lyon = leaves["lyon"]
        await until(lambda: _holds(lyon, bus.TABLES, [b"table 1"]))
        await bus.EvidencePublisher(lyon, "lyon").publish(b"before")
        await asyncio.to_thread(rig.control.cut, "hub~lyon")
        rig.kill("lyon")
        rig.start("lyon")
        await when(lambda: bus.ensure_leaf_streams(lyon, "lyon", hub=True))
        assert await messages(lyon, bus.TABLES) == [b"table 1"]
        await bus.EvidencePublisher(lyon, "lyon").publish(b"cut off")
        assert await messages(lyon, bus.EVIDENCE) == [b"before", b"cut off"]
        assert not await bus.leaf_connected(lyon)
        await asyncio.to_thread(rig.control.heal, "hub~lyon")
        await hub.jetstream().publish(bus.TABLE_SUBJECT, b"table 2")
        await until(lambda: _holds(lyon, bus.TABLES, [b"table 1", b"table 2"]))
        await until(lambda: _holds(hub, bus.EVIDENCE, [b"before", b"cut off"]))

    run(tmp_path, body)


def test_the_hub_may_restart_while_sites_go_on(tmp_path: Path) -> None:
    async def body(rig: Rig, hub: Client, leaves: dict[str, Client]) -> None:
        publisher = bus.EvidencePublisher(leaves["lyon"], "lyon")
        await publisher.publish(b"1")
        rig.kill("hub")
        await publisher.publish(b"2")
        rig.start("hub")
        await publisher.publish(b"3")
        await until(lambda: _holds(hub, bus.EVIDENCE, [b"1", b"2", b"3"]))

    run(tmp_path, body)


def test_a_hub_that_lost_its_disk_is_followed_and_gets_all_evidence_again(tmp_path: Path) -> None:
    async def body(rig: Rig, hub: Client, leaves: dict[str, Client]) -> None:
        old = [b"old %d" % number for number in range(5)]
        for table in old:
            await hub.jetstream().publish(bus.TABLE_SUBJECT, table)
        lyon = leaves["lyon"]
        await until(lambda: _holds(lyon, bus.TABLES, old))
        publisher = bus.EvidencePublisher(lyon, "lyon")
        for payload in (b"1", b"2", b"3"):
            await publisher.publish(payload)
        await until(lambda: _holds(hub, bus.EVIDENCE, [b"1", b"2", b"3"]))
        rig.kill("hub")
        shutil.rmtree(rig.state.hub / "jetstream")
        rig.start("hub")
        await when(lambda: bus.ensure_hub_streams(hub, SITES))
        await hub.jetstream().publish(bus.TABLE_SUBJECT, b"new")
        await until(lambda: _holds(lyon, bus.TABLES, [b"new"]))
        await until(lambda: _holds(hub, bus.EVIDENCE, [b"1", b"2", b"3"]))

    run(tmp_path, body)


@pytest.mark.long
def test_a_hub_whose_tables_are_another_stream_that_is_further_on_is_read_anew(
    tmp_path: Path,
) -> None:
    """As after a restore: the leaf's place means something at the origin, which refuses it all the same."""

    async def body(rig: Rig, hub: Client, leaves: dict[str, Client]) -> None:
        await hub.jetstream().publish(bus.TABLE_SUBJECT, b"old")
        lyon = leaves["lyon"]
        await until(lambda: _holds(lyon, bus.TABLES, [b"old"]))
        rig.kill("hub")
        shutil.rmtree(rig.state.hub / "jetstream")
        rig.start("hub")
        await when(lambda: bus.ensure_hub_streams(hub, SITES))
        new = [b"new %d" % number for number in range(4)]
        for table in new:
            await hub.jetstream().publish(bus.TABLE_SUBJECT, table)
        await until(lambda: _holds(lyon, bus.TABLES, new))

    run(tmp_path, body)


def test_passwords_are_in_no_command_line_and_in_files_of_mode_0600(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    secrets = msgspec.json.decode((rig.state.hub / "bus.json").read_bytes(), type=bus.HubSecrets)
    known = [secrets.controller, secrets.door, secrets.keeper]
    assert len(set(known)) == 3
    assert min(len(word) for word in known) >= 43
    for conf in (rig.hub_conf, *rig.confs.values()):
        assert conf.stat().st_mode & 0o777 == 0o600
        assert not any(word in " ".join(bus.server_command(conf)) for word in known)
    for home in (rig.state.hub, *(rig.state.site(site) for site in SITES)):
        assert (home / "bus.json").stat().st_mode & 0o777 == 0o600


def test_a_second_start_keeps_the_passwords(tmp_path: Path) -> None:
    first = Rig(tmp_path).hub_conf.read_bytes()
    assert (
        msgspec.json.decode(first)["accounts"]
        == msgspec.json.decode(
            bus.write_hub_conf(
                Rig(tmp_path).runtime, StateDir(tmp_path), seats(tmp_path / "ca", SITES)
            ).read_bytes()
        )["accounts"]
    )

"""Real NATS servers: what a long cut pushed out of a site's stream is sent again, and the hub's stream holds no more than it must."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import pytest
from nats.aio.client import Client
from nats.js.api import AckPolicy, ConsumerConfig

from hanse.errors import SiteError
from hanse.live import archive, bus, evidence_ship
from hanse.live.archive import archive_evidence
from hanse.live.ca import ensure_identity
from hanse.live.evidence import ChainWriter, Opened, Sealer, audit
from hanse.live.evidence.seal import SEALS_NAME
from hanse.live.evidence.shipping import Message, Piece
from hanse.live.evidence_ship import EvidenceShip
from live.evidence.logbook import League
from live.test_bus import LEAGUE, Rig, until

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "TELL_EVERY_S", 0.2)
    monkeypatch.setattr(archive, "LET_GO_EVERY_S", 0.2)
    monkeypatch.setattr(archive, "REDELIVER_S", 1.0)
    monkeypatch.setattr(evidence_ship, "SHIP_S", 0.05)
    monkeypatch.setattr(evidence_ship, "COMPARE_EVERY_S", 0.5)


class Lyon(League):
    """The league of the logbook with its entry site called lyon, as the rig's is."""

    def __init__(self, rig: Rig) -> None:
        self.home = rig.state.site("lyon")
        self.now_s = time.time()
        self.identity = ensure_identity(rig.state.path, "league", "lyon", self.now_s)
        self.sealer = Sealer(self.home / "evidence", self.identity, durable=False)
        opened = Opened(
            at_s=self.now_s, site="lyon", worker=0, boot="0" * 8, software="1", table_version=1
        )
        self.writer = ChainWriter(self.home / "evidence", opened)
        self.count = 0

    def serve(self, requests: int) -> None:
        """So many requests, each under a seal of its own."""
        for _ in range(requests):
            self.count += 1
            self.now_s += 1.0
            self.writer.append(self.decided(self.count, site="lyon", entry_site="lyon"))
            self.writer.append(self.executed(self.count, site="lyon", entry_site="lyon"))
            self.writer.append(self.ended(self.count, role="entry"))
            self.sealer.seal(self.now_s)

    @property
    def sealed_bytes(self) -> int:
        return (self.home / "evidence" / SEALS_NAME).stat().st_size

    def close(self) -> None:
        self.writer.close()
        self.sealer.close()


@contextlib.asynccontextmanager
async def shipping(rig: Rig, hub: Client, leaf: Client):  # type: ignore[no-untyped-def]
    ship = EvidenceShip(rig.state.site("lyon"), "lyon")

    async def hear(message) -> None:  # type: ignore[no-untyped-def]
        ship.hear(bytes(message.data))

    async def keep_shipping() -> None:
        """As the agent does: begun anew after an error."""
        while True:
            with contextlib.suppress(SiteError):
                await ship.run(leaf)
            await asyncio.sleep(0.1)

    await leaf.subscribe(bus.site_subject("lyon", "kept"), cb=hear)
    tasks = [
        asyncio.create_task(archive_evidence(hub, rig.state, lambda: LEAGUE)),
        asyncio.create_task(keep_shipping()),
    ]
    try:
        yield ship
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def proven(rig: Rig) -> int:
    report = audit(rig.state.hub / "evidence", (rig.state.ca_dir / "ca.pem").read_bytes())
    assert report.findings == ()
    assert report.unproven == 0
    return report.proven


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path)


def test_what_the_stream_lost_in_a_cut_is_sent_again(rig: Rig) -> None:
    async def test() -> None:
        lyon = Lyon(rig)
        async with rig.running() as (hub, leaves):
            leaf = leaves["lyon"]
            async with shipping(rig, hub, leaf) as ship:

                async def all_held() -> bool:
                    return bool(ship.held_until == lyon.sealed_bytes)

                lyon.serve(5)
                await until(all_held)
                rig.kill("links")
                lyon.serve(6)
                js = leaf.jetstream(timeout=5.0)

                async def in_stream() -> bool:
                    return bool((await js.stream_info(bus.EVIDENCE)).state.messages >= 11)

                await until(in_stream)
                await js.purge_stream(bus.EVIDENCE)  # its bounds of age and size do so in weeks
                lyon.serve(2)
                rig.start("links")
                await until(all_held, 60.0)
                assert proven(rig) == 13
                lyon.serve(1)
                await until(all_held)
                assert proven(rig) == 14
        lyon.close()

    asyncio.run(test())


def test_a_gap_in_one_sites_evidence_holds_up_no_other_and_is_filled_behind(rig: Rig) -> None:
    """More messages behind the gap than a consumer has out by default, also at one that an earlier release made."""
    seals, more = b"s" * 100, 1_050

    def message(seq: int, offset: int, data: bytes, site: str = "lyon") -> bytes:
        piece = Piece(file=SEALS_NAME, offset=offset, data=data)
        return msgspec.msgpack.encode(Message(site=site, seq=seq, pieces=(piece,)))

    async def test() -> None:
        async with rig.running() as (hub, leaves):
            js = hub.jetstream(timeout=5.0)
            before = ConsumerConfig(ack_policy=AckPolicy.EXPLICIT, ack_wait=30.0)
            await js.add_consumer(bus.EVIDENCE, before, durable_name=archive.durable("hub"))
            held = rig.state.hub / "evidence"
            keeping = asyncio.create_task(archive_evidence(hub, rig.state, lambda: LEAGUE))

            async def send(site: str, data: bytes) -> None:
                leaf = leaves[site].jetstream(timeout=5.0)
                await leaf.publish(bus.site_subject(site, "evidence"), data)

            def has(site: str, content: bytes) -> Callable[[], Awaitable[bool]]:
                async def look() -> bool:
                    path = held / site / SEALS_NAME
                    return path.exists() and path.read_bytes() == content

                return look

            try:
                for i in range(more):
                    await send("lyon", message(2 + i, 100 + i, b"x"))
                await send("frankfurt", message(1, 0, b"other", "frankfurt"))
                await until(has("frankfurt", b"other"))
                await send("lyon", message(1, 0, seals))
                for i in range(more):  # as the site does that has heard what the hub holds
                    await send("lyon", message(2 + i, 100 + i, b"x"))
                await until(has("lyon", seals + b"x" * more), 60.0)
            finally:
                keeping.cancel()
                await asyncio.gather(keeping, return_exceptions=True)

    asyncio.run(test())


@pytest.mark.long  # a bus is filled
def test_the_hubs_stream_lets_go_of_what_is_in_files_and_goes_on_after_a_restart(rig: Rig) -> None:
    async def test() -> None:
        lyon = Lyon(rig)
        async with rig.running() as (hub, leaves), shipping(rig, hub, leaves["lyon"]) as ship:
            js = hub.jetstream(timeout=5.0)

            async def all_held() -> bool:
                return bool(ship.held_until == lyon.sealed_bytes)

            async def small() -> bool:
                return bool((await js.stream_info(bus.EVIDENCE)).state.messages <= 1)

            lyon.serve(20)
            await until(all_held)
            await until(small)
            last = (await js.stream_info(bus.EVIDENCE)).state.last_seq
            rig.kill("hub")
            lyon.serve(3)
            rig.start("hub")
            await until(all_held, 60.0)
            assert proven(rig) == 23
            again = (await js.stream_info(bus.EVIDENCE)).state.last_seq - last
            assert 3 <= again <= 6, "what was in files already was read again"

    asyncio.run(test())


def test_a_site_trusts_nobodys_word_but_one_that_it_can_read(tmp_path: Path) -> None:
    ship = EvidenceShip(tmp_path, "lyon")
    ship.hear(b"\xc1 nonsense")
    assert ship.held_until == 0

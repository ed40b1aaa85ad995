"""Many light sites in one process: each says over the hub's real bus what a site's leaf and agent say, and takes what they take.

Here: one NATS connection a site, as the site's own user with its permissions; the consumer that feeds the leaf's TABLES, with heartbeats and
flow control; answers to the hub's source of EVIDENCE; reports twice a second, demand and batches each ten seconds, the agent's questions whether
the hub answers; tables and revisions taken at the agent's paces and acknowledged by its next report. Not here: engines, gateways, evidence itself
(nobody asks these sites anything), TLS of leaf connections. Run by `scale.py`, which talks JSON lines over stdin and stdout.

A table is decoded once a process: a real site has a machine of its own for that, these have two cores together with the hub.
"""

from __future__ import annotations

import argparse
import asyncio
import heapq
import random
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import uvloop

from hanse.dispatch.table import Table
from hanse.live import bus
from hanse.live.agent import STATUS_S, TABLE_S
from hanse.live.agent_league import TAKE_S
from hanse.live.batch.follow import BatchReport
from hanse.live.ca import seats
from hanse.live.demand import REPORT_S, DemandReport
from hanse.live.gateway.worker import TICK_S
from hanse.live.runtime import StateDir
from hanse.model import versions
from hanse.model.fleet import Fleet, Placement
from hanse.model.read import read_fleet
from hanse.signals.demand_counts import DemandCount, DemandKey
from hanse.view import EngineStatus, PowerStatus, SiteStatus

RECONNECT_S = 1.0
HEARTBEAT = b"NATS/1.0 100 Idle Heartbeat\r\nNats-Last-Consumer: 0\r\nNats-Last-Stream: 0\r\n\r\n"
FED = b"1"
"""Number of the subscription that a site's consumer of TABLES delivers to; the message names the subject that it was stored under."""
KINDS_OF_DEMAND = 3
"""Tenants that ask at one entry."""


class _League(msgspec.Struct):
    epoch: int = 0
    revision: int = 0


class _Placed(msgspec.Struct):
    epoch: int = 0
    version: int = 0


class Books:
    """What all sites of this process have taken, for whoever measures."""

    def __init__(self, speaking_n: int) -> None:
        self.speaking_n = speaking_n
        self.watched = ""
        self.tables: dict[int, dict[str, Any]] = {}
        self.revisions: dict[int, dict[str, Any]] = {}
        self._read: dict[str, tuple[bytes, Any]] = {}

    def read(self, kind: str, data: bytes) -> Any:
        """What a message says, decoded once for all sites here."""
        known = self._read.get(kind)
        if known is not None and known[0] == data:
            return known[1]
        value: Any
        if kind == "table":
            value = self._table(data)
        else:
            value = msgspec.msgpack.decode(data, type=_League if kind == "fleet" else _Placed)
        self._read[kind] = data, value
        return value

    def _table(self, data: bytes) -> tuple[int, int]:
        table = Table.from_bytes(data)
        names = [site.id for site in table.meta.sites]
        rows = table.offers
        self.tables[table.meta.version] = {
            "table": table.meta.version,
            "issued_at_s": table.meta.issued_at_s,
            "bytes": len(data),
            "drained": [names[i] for i in table.sites["drained"].nonzero()[0]],
            "watched": [
                int(rows[i]["replicas"])
                for i, key in enumerate(table.meta.offers)
                if key.partition("/")[0] == self.watched
            ],
            "delivered": [],
            "acked": [],
        }
        return table.meta.epoch, table.meta.version

    def revision(self, number: int) -> dict[str, Any]:
        new = {"revision": number, "delivered": [], "acked": []}
        return self.revisions.setdefault(number, new)

    def ack(self, kind: dict[int, dict[str, Any]], before: int, now: int, at_s: float) -> None:
        """One site acts by `now`: by all before as well."""
        for number in [n for n in kind if before < n <= now]:
            entry = kind[number]
            entry["acked"].append(at_s)
            if len(entry["acked"]) == self.speaking_n:
                say(entry)
                del kind[number]


class LightSite(asyncio.Protocol):
    """One site."""

    def __init__(self, site: str, seat: str, served: tuple[Placement, ...], books: Books) -> None:
        self.site = site
        self.seat = seat
        self.served = served
        self.books = books
        self.silent = False
        self.phase_s = random.random()
        self.version = self.revision = self.placed = self.epoch = 0
        self._taken: list[tuple[float, int]] = []
        self._revised: list[tuple[float, int]] = []
        self._transport: Any = None
        self._buffer = bytearray()
        self._sync = b""
        """Deliver subject of the hub's source of evidence."""
        self._fed_at = ""
        self._turn = 0
        self._started_at_s = time.time()
        self.address: tuple[str, int] = ("", 0)

    # --- the connection

    async def connect(self) -> None:
        await asyncio.get_running_loop().create_connection(lambda: self, *self.address)

    def connection_made(self, transport: Any) -> None:
        self._transport, self._buffer = transport, bytearray()
        transport.set_write_buffer_limits(4 * 1024 * 1024)
        s = self.site
        hello = {
            "verbose": False, "pedantic": False, "user": self.seat, "pass": "scale", "name": s, "lang": "python",
            "version": "1", "headers": True, "no_responders": True, "protocol": 1,
        }  # fmt: skip
        own, fed = f"$JS.{s}.API", f"hanse.sync.{s}.{random.randrange(10**9)}"
        subjects = (
            fed, bus.CONTROL_SUBJECT, f"site.{s}.schedule", f"site.{s}.kept",
            f"_INBOX.{s}.>", f"{own}.CONSUMER.CREATE.{bus.EVIDENCE}",
            f"{own}.CONSUMER.CREATE.{bus.EVIDENCE}.>", f"{own}.STREAM.INFO.{bus.EVIDENCE}",
        )  # fmt: skip
        lines = [b"CONNECT " + msgspec.json.encode(hello)]
        lines += [f"SUB {subject} {i}".encode() for i, subject in enumerate(subjects, 1)]
        transport.write(b"\r\n".join(lines) + b"\r\n")
        self._feed(fed)

    def _feed(self, fed: str) -> None:
        """The consumer that a leaf's stream is sourced by."""
        s, self._fed_at = self.site, fed
        config = {
            "deliver_subject": fed,
            "deliver_policy": "last_per_subject", "filter_subject": "hanse.>",
            "ack_policy": "none", "max_deliver": 1, "replay_policy": "instant",
            "flow_control": True, "idle_heartbeat": 1_000_000_000, "mem_storage": True,
        }  # fmt: skip
        asked = msgspec.json.encode({"stream_name": bus.TABLES, "config": config})
        self.publish(
            f"$JS.{bus.HUB}.API.CONSUMER.CREATE.{bus.TABLES}", asked, f"_INBOX.{s}.created"
        )

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        asyncio.get_running_loop().call_later(
            RECONNECT_S, lambda: asyncio.ensure_future(self.connect())
        )

    def publish(self, subject: str, data: bytes, reply: str = "") -> None:
        if self._transport is not None and not self.silent:
            self._transport.write(
                f"PUB {subject} {reply} {len(data)}\r\n".encode() + data + b"\r\n"
            )

    def be_silent(self, silent: bool) -> None:
        """As behind a cut: nothing is said, nothing is read."""
        self.silent = silent
        if self._transport is not None:
            (self._transport.pause_reading if silent else self._transport.resume_reading)()

    # --- what comes

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer
        buffer += data
        at = 0
        while (end := buffer.find(b"\r\n", at, at + 4096)) >= 0:
            line = bytes(buffer[at:end])
            if line.startswith((b"MSG ", b"HMSG ")):
                words = line.split()
                size = int(words[-1])
                start = end + 2
                if len(buffer) < start + size + 2:
                    break
                head = int(words[-2]) if words[0] == b"HMSG" else 0
                reply = words[3] if len(words) == (5 if not head else 6) else b""
                message = bytes(memoryview(buffer)[start : start + size])
                if words[2] == FED:
                    self._fed(reply, message[:head], message[head:])
                else:
                    self._hear(words[1], reply, message[head:])
                at = start + size + 2
                continue
            if line == b"PING":
                self._transport.write(b"PONG\r\n")
            elif line.startswith(b"-ERR"):
                say({"error": f"{self.site}: {line.decode()}"})
            at = end + 2
        if at:
            del buffer[:at]

    def _hear(self, subject: bytes, reply: bytes, data: bytes) -> None:
        if subject.startswith(b"$JS."):
            self._asked(subject, reply, data)
        elif subject.endswith(b".created") and b'"error"' in data:
            # As a leaf does: again. Where the one before is not forgotten yet, the stream may have its most.
            asyncio.get_running_loop().call_later(RECONNECT_S, self._feed, self._fed_at)
        # The scenario, schedules and what the hub holds: read, as an agent would.

    def _fed(self, reply: bytes, head: bytes, data: bytes) -> None:
        if head.startswith(b"NATS/1.0 100"):
            to = reply
            if b"Nats-Consumer-Stalled: " in head:
                to = head.partition(b"Nats-Consumer-Stalled: ")[2].split()[0]
            if to:
                self.publish(to.decode(), b"")
            return
        now_s = time.time()
        if data.startswith(versions.TABLE.now.encode()):
            self.epoch, version = self.books.read("table", data)
            if version in self.books.tables:
                self.books.tables[version]["delivered"].append(now_s)
            self._taken.append((self._next(now_s, TABLE_S) + TICK_S, version))
        elif b"toml" in data[:4096]:
            league = self.books.read("fleet", data)
            self.books.revision(league.revision)["delivered"].append(now_s)
            self._revised.append((self._next(now_s, TAKE_S), league.revision))
        elif b"placement_decided" in data[:256]:
            self.placed = self.books.read("placement", data).version

    def _next(self, now_s: float, every_s: float) -> float:
        """When a duty that looks so often looks next."""
        return now_s + (self.phase_s - now_s) % every_s

    def _asked(self, subject: bytes, reply: bytes, data: bytes) -> None:
        """As the leaf's JetStream: an EVIDENCE stream with nothing new in it."""
        answer: dict[str, Any]
        state = {"consumer_seq": 0, "stream_seq": 0}
        created = "2026-01-01T00:00:00Z"
        if b"CONSUMER.CREATE" in subject:
            config = msgspec.json.decode(data)["config"]
            self._sync = config["deliver_subject"].encode()
            answer = {
                "type": "io.nats.jetstream.api.v1.consumer_create_response",
                "stream_name": bus.EVIDENCE, "name": config.get("name") or "source", "created": created,
                "config": config, "delivered": state, "ack_floor": state, "num_ack_pending": 0,
                "num_redelivered": 0, "num_waiting": 0, "num_pending": 0, "push_bound": True,
            }  # fmt: skip
        else:
            answer = {
                "type": "io.nats.jetstream.api.v1.stream_info_response", "created": created,
                "config": {"name": bus.EVIDENCE, "subjects": [f"site.{self.site}.evidence"]},
                "state": {"messages": 0, "bytes": 0, "first_seq": 0, "last_seq": 0, "consumer_count": 1},
            }  # fmt: skip
        self.publish(reply.decode(), msgspec.json.encode(answer))

    # --- what goes

    def speak(self, now_s: float) -> None:
        """Every half second."""
        if self.silent:
            return
        self._turn += 1
        version = max((v for at_s, v in self._taken if at_s <= now_s), default=self.version)
        revision = max((r for at_s, r in self._revised if at_s <= now_s), default=self.revision)
        self._taken = [one for one in self._taken if one[0] > now_s]
        self._revised = [one for one in self._revised if one[0] > now_s]
        before = self.version, self.revision
        self.version, self.revision = max(version, self.version), max(revision, self.revision)
        self.publish(f"site.{self.site}.status", self._status(now_s))
        sent_s = time.time()
        self.books.ack(self.books.tables, before[0], self.version, sent_s)
        self.books.ack(self.books.revisions, before[1], self.revision, sent_s)
        if self._turn % 2 == 0:  # `Agent._see_hub`, and the watch of sources each fifth time
            self._ask_hub()
            if self._turn % 10 == 0:
                self._ask_hub()
            self._beat()
        if self._turn % int(REPORT_S / STATUS_S) == int(20 * self.phase_s):
            self._demand(now_s)

    def _ask_hub(self) -> None:
        subject = f"$JS.{bus.HUB}.API.STREAM.INFO.{bus.TABLES}"
        self.publish(subject, b"", f"_INBOX.{self.site}.{self._turn}")

    def _beat(self) -> None:
        if self._sync and self._transport is not None:
            size = f" {len(HEARTBEAT)} {len(HEARTBEAT)}\r\n".encode()
            self._transport.write(b"HPUB " + self._sync + size + HEARTBEAT + b"\r\n")

    def _demand(self, now_s: float) -> None:
        counts = tuple(
            DemandCount(
                key=DemandKey(
                    service="chat", tenant=f"t{(hash(self.site) + i) % 20:02d}",
                    data_class="public", country="DE", origin=self.site,
                ),
                requests=20.0, tokens_in=12_000.0, tokens_out=4_000.0,
            )
            for i in range(KINDS_OF_DEMAND)
        )  # fmt: skip
        report = DemandReport(site=self.site, at_s=now_s, counts=counts, sampled=1.0)
        self.publish(f"site.{self.site}.demand", msgspec.msgpack.encode(report))
        batches = BatchReport(site=self.site, at_s=now_s, batches=())
        self.publish(f"site.{self.site}.batches", msgspec.msgpack.encode(batches))

    def _status(self, now_s: float) -> bytes:
        engines = tuple(
            EngineStatus(
                name=f"{p.service}-{p.variant}-{i}",
                service=p.service,
                variant=p.variant,
                state="up",
                pool=p.pool,
            )
            for p in self.served
            for i in range(p.replicas)
        )
        it_kw = 20.0 + random.random()
        status = SiteStatus(
            site=self.site, at_s=now_s, epoch=self.epoch, table_version=self.version, hub_connected=True,
            engines=engines, gateway_workers=1, running=float(random.randrange(40)), waiting=0.0,
            power=PowerStatus(
                it_kw=it_kw, pue=1.3, pv_kw=0.0, wind_kw=0.0, import_kw=it_kw * 1.3, export_kw=0.0,
                carbon_g_per_kwh=300.0, price_usd_per_kwh=0.2, sources=("grid",), drawn_kw=it_kw * 1.3,
                available_kw=60.0,
            ),
            placement_version=self.placed, serving=self.served, fleet_revision=self.revision,
            workers_table_version=self.version, entered=random.randrange(40), spoken=versions.BUS.now,
            release="scale", started_at_s=self._started_at_s,
        )  # fmt: skip
        return msgspec.msgpack.encode(status)

    def lose_replica(self, lost: bool, placed: tuple[Placement, ...]) -> None:
        """Its chat replicas run with other slots: another kind, which the next table lists."""
        slots = 8 if lost else placed[0].slots
        self.served = (msgspec.structs.replace(placed[0], slots=slots), *placed[1:])


def say(value: dict[str, Any]) -> None:
    """One line to whoever measures."""
    sys.stdout.write(msgspec.json.encode(value).decode() + "\n")
    sys.stdout.flush()


def served_of(fleet: Fleet) -> dict[str, tuple[Placement, ...]]:
    found: dict[str, tuple[Placement, ...]] = {site.id: () for site in fleet.sites}
    for placement in fleet.placements:
        found[placement.site] += (placement,)
    return found


async def _talk(sites: dict[str, LightSite], placed: dict[str, Any], books: Books) -> None:
    """Each site in its turn, by its own phase."""
    turns = [(time.time() + one.phase_s * STATUS_S, name) for name, one in sites.items()]
    heapq.heapify(turns)
    while True:
        now_s = time.time()
        while turns[0][0] <= now_s:
            due_s, name = turns[0]
            sites[name].speak(time.time())
            heapq.heapreplace(turns, (max(due_s + STATUS_S, now_s - STATUS_S), name))
        await asyncio.sleep(max(0.0, min(turns[0][0] - time.time(), 0.01)))


async def _obey(sites: dict[str, LightSite], placed: dict[str, Any], books: Books) -> None:
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        order = msgspec.json.decode(line)
        books.watched = order.get("watch", books.watched)
        if order.get("silence") in sites:
            sites[order["silence"]].be_silent(True)
            books.speaking_n -= 1
            say({"silent": order["silence"], "at_s": time.time()})
        if order.get("resume") in sites:
            sites[order["resume"]].be_silent(False)
            books.speaking_n += 1
        if order.get("change") in sites:
            name = order["change"]
            sites[name].lose_replica(order["lost"], placed[name])
            sites[name].speak(time.time())
            say({"changed": name, "at_s": time.time()})


async def _main(state: StateDir, address: tuple[str, int], names: list[str]) -> None:
    fleet = read_fleet(state.fleet_toml)
    placed = served_of(fleet)
    known = seats(state.ca_dir, names)
    books = Books(len(names))
    sites = {name: LightSite(name, known[name], placed[name], books) for name in names}
    for number, one in enumerate(sites.values()):
        one.address = address
        await one.connect()
        if number % 20 == 19:
            await asyncio.sleep(0.02)
    say({"connected": len(sites)})
    talking = asyncio.ensure_future(_talk(sites, placed, books))
    await _obey(sites, placed, books)
    talking.cancel()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--sites", required=True, help="names, by commas")
    arguments = parser.parse_args()
    random.seed(arguments.sites)
    names = arguments.sites.split(",")
    uvloop.run(_main(StateDir(arguments.state), ("127.0.0.1", arguments.port), names))


if __name__ == "__main__":
    main()

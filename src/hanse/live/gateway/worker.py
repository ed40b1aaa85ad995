"""One gateway worker: what all its connections share, its clocks, and the swap to a new table.

Here: wiring, the 20 ms tick (engine deaths, first-byte deadlines, hedges, load), the 500 ms tick (slow clients, checks of peers, new
tables). Not here: anything per request (`doors`, `entry`, `hop`).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from pathlib import Path
from secrets import token_hex
from time import monotonic, time
from typing import TYPE_CHECKING

from hanse import __version__
from hanse.errors import HanseError
from hanse.live.evidence import ChainWriter, Opened
from hanse.live.gateway.affinity import Affinity
from hanse.live.gateway.answers import date_line
from hanse.live.gateway.closing import Books
from hanse.live.gateway.deferred import InnerDoor, Line
from hanse.live.gateway.desk import Desk
from hanse.live.gateway.doors import ClientDoor, HopDoor, Ids
from hanse.live.gateway.engines import PROBE_EVERY_S, Engine
from hanse.live.gateway.feed import Feed
from hanse.live.gateway.incoming import Incoming
from hanse.live.gateway.journal import InputLog
from hanse.live.gateway.kernels import Kernels
from hanse.live.gateway.ledger import Ledger
from hanse.live.gateway.metrics import TABLES, Counts
from hanse.live.gateway.notes import Notes
from hanse.live.gateway.peers import Peer, PeerTarget
from hanse.live.gateway.policy import Policy
from hanse.live.gateway.routing import Routing
from hanse.live.gateway.seen import PeerRow
from hanse.live.gateway.settings import VACANT, EngineSeat, seats_of
from hanse.live.gateway.shadow import Shadow
from hanse.live.gateway.spare import make_room
from hanse.live.gateway.surroundings import Surroundings
from hanse.live.gateway.tables import TableFile
from hanse.live.identity import ReplayGuard
from hanse.live.runtime import LOOPBACK, is_loopback, private_socket
from hanse.live.seats import read_seats
from hanse.live.secret_file import ensure_secret
from hanse.live.shared import (
    DISK_FULL,
    FLAG_DISK_LEVEL,
    FLAG_SEATS_VERSION,
    WORKER_ALIVE_AT_S,
    WORKER_PID,
    WORKER_SEATS_VERSION,
    WORKER_TABLE_VERSION,
    SharedPage,
    cells,
)

if TYPE_CHECKING:
    from hanse.dispatch.table import Table
    from hanse.live.gateway.attempt import Attempt
    from hanse.live.gateway.entry import Entry
    from hanse.live.gateway.frames import LoadFrame
    from hanse.live.gateway.hop import Hop
    from hanse.live.gateway.settings import GatewaySettings

TICK_S = 0.02
SLOW_TICK_S = 0.5
"""Also the rate of checks between sites: 2 Hz."""
BODY_BYTES_MAX_FIRST = 4 * 1024 * 1024
BACKLOG = 2048
CHAIN_S_MAX = 86_400.0
CHAIN_BYTES_MAX = 256 * 1024 * 1024
"""A chain is of a day, or of some two million records: what is older can be deleted by rule while its writer goes on."""
SHUTDOWN_S = 5.0
"""SIGTERM: requests in flight get this long to end."""


class Worker:
    """See the module."""

    routing: Routing
    policy: Policy

    def __init__(self, settings: GatewaySettings, loop: asyncio.AbstractEventLoop) -> None:
        self.settings = settings
        self.loop = loop
        self.site = settings.site
        self.page = SharedPage.open(Path(settings.page)) if settings.page else SharedPage.private()
        self.page.clear_worker(settings.worker)
        self._flags = cells(self.page.flags)
        self.counts = Counts(self.page, settings.worker)
        self.notes = Notes(self.page)
        self.feed = Feed(settings.feed, self.counts)
        self.ids = Ids()
        self.replays = ReplayGuard()
        self.tables = TableFile(Path(settings.table))
        table_home = self.tables.path.parent if self.tables.path.is_file() else self.tables.path
        self.evidence_dir = settings.evidence_dir or str(table_home / "evidence")
        self.policy_or_none: Policy | None = None
        self.shadow: Shadow | None = None
        self.body_bytes_max = BODY_BYTES_MAX_FIRST
        self.requests_begun = 0
        self.held_bytes = 0
        """Of plain answers on their way that are larger than what is held of any."""
        self.waiting: set[Attempt] = set()
        """Attempts without a first byte."""
        self.running: set[Entry | Hop] = set()
        self.deferred: set[Line | Hop] = set()
        """Lines of batches among those."""
        self.engines: list[Engine] = []
        self._seats_version = 0.0
        self._take_seats()
        self.around = Surroundings(settings)
        self.identity = self.around.identity
        self.targets: dict[str, PeerTarget] = {}
        self.peers: dict[str, Peer] = {}
        self.seen = PeerRow(self.page.peers[settings.worker])
        self.around.make_peers(self)
        secret = Path(settings.prefix_secret) if settings.prefix_secret else None
        self.log = InputLog(Path(settings.journal_dir), settings) if settings.journal_dir else None
        if self.log is not None and self._seats_version:
            self.log.seats([(e.seat.service, e.seat.variant) for e in self.engines])
        affinity = Affinity if self.log is None else self.log.affinity
        self.affinity = affinity(self.page, secret)
        self.ledger = Ledger(self._open_chain(), loop, self.counts)
        self._chain_at_s = monotonic()
        self.kernels = Kernels(self.counts, self.page)
        self.books = Books(self.kernels, self.ledger)
        self.desk = Desk(self)
        self.client_door = ClientDoor(self)
        self.hop_door = HopDoor(self)
        self.inner_door = InnerDoor(self)
        self.doors = (self.client_door, self.hop_door, self.inner_door)
        self.servers: list[asyncio.Server] = []
        self._timers: list[asyncio.TimerHandle] = []
        self._stopping = False
        self._ticked_at_s = self._slow_at_s = self._probed_at_s = monotonic()
        self.take_table()

    # --- starting and stopping

    async def listen(self) -> tuple[int, int]:
        """Bind both ports; the numbers chosen where 0 was asked (hop: 0 where there is none)."""
        settings = self.settings
        client = await self._listen_clients(settings.host, settings.port)
        if not is_loopback(settings.host):
            port = client.sockets[0].getsockname()[1]
            await self._listen_clients(LOOPBACK, port)
        hop_port = 0
        if settings.hop_port is not None and self.around.tls_hop is not None:
            hop = await self.loop.create_server(
                lambda: Incoming(self.hop_door),
                settings.hop_host,
                settings.hop_port,
                ssl=self.around.tls_hop,
                reuse_port=True,
                backlog=BACKLOG,
            )
            self.servers.append(hop)
            hop_port = hop.sockets[0].getsockname()[1]
        if settings.inner_socket:
            sock = private_socket(Path(settings.inner_socket))
            inner = await self.loop.create_unix_server(lambda: Incoming(self.inner_door), sock=sock)
            self.servers.append(inner)
        self._write_pid()
        self._tick()
        self._slow_tick()
        return client.sockets[0].getsockname()[1], hop_port

    async def _listen_clients(self, host: str, port: int) -> asyncio.Server:
        """Keys and prompts in plain text over loopback only."""
        server = await self.loop.create_server(
            lambda: Incoming(self.client_door),
            host,
            port,
            ssl=None if is_loopback(host) else self.around.tls_client,
            reuse_port=True,
            backlog=BACKLOG,
        )
        self.servers.append(server)
        return server

    async def stop(self) -> None:
        """Take no more, let what runs end, write the last records."""
        for server in self.servers:
            server.close()
        deadline_s = monotonic() + SHUTDOWN_S
        for door in self.doors:
            for link in tuple(door.open_connections):
                link.retire()
        while self.running and monotonic() < deadline_s:  # noqa: ASYNC110  # no event on the hot path for this
            await asyncio.sleep(TICK_S)
        self._stopping = True
        for timer in self._timers:
            timer.cancel()
        for exchange in tuple(self.running):
            exchange.expire()
        for door in self.doors:
            for link in tuple(door.open_connections):
                link.transport.abort()
        for target in (*self.targets.values(), *(engine.target for engine in self.engines)):
            target.close()
        self.ledger.close()
        if self.log is not None:
            self.log.close()
        self.counts.publish()
        self.feed.close()
        self.page.clear_worker(self.settings.worker)

    # --- tables

    def take_table(self) -> None:
        """Swap to the newest table on disk, if it is newer than ours."""
        try:
            table = self.tables.newer()
        except HanseError as error:
            self.tables.problem = str(error)
            return
        if table is not None and self.settings.site in table.site_index:
            self.use_table(table)

    def use_table(self, table: Table) -> None:
        """Requests under way keep what they have; the next ones use this table."""
        self._route(table)
        self.policy = self.policy_or_none = Policy(table, self.site, self.page)
        self.client_door.heads.clear()
        central = table.central
        self.shadow = Shadow(central, self.routing.origin, self.counts) if central else None
        sizes = [service.body_bytes_max for service in table.meta.services]
        self.body_bytes_max = max(sizes, default=BODY_BYTES_MAX_FIRST)
        self.counts.row[TABLES] += 1.0
        self.page.workers[self.settings.worker, WORKER_TABLE_VERSION] = table.meta.version

    def _route(self, table: Table) -> None:
        before = self.routing if self.policy_or_none is not None else None
        self.routing = Routing(
            table,
            self.settings,
            self.page,
            list(self.engines),
            dict(self.targets),
            before,
            compiled=self.kernels,
            log=self.log,
        )

    # --- engines

    def _key_of(self, seat: EngineSeat) -> str:
        """What an engine asks for: those that this site starts, and no other, which must not hear it."""
        path = self.settings.engine_key
        return ensure_secret(Path(path)) if path and seat.driver == "process" else ""

    def _take_seats(self) -> None:
        """Engines as the site's agent lists them; what is asked of one that is there no more goes elsewhere."""
        settings = self.settings
        listed = read_seats(Path(settings.seats)) if settings.seats else None
        seats = settings.engines if listed is None else seats_of(listed.engines)
        if listed is not None:
            self._seats_version = float(listed.version)
        seats += (VACANT,) * (len(self.engines) - len(seats))
        for index, seat in enumerate(seats):
            made = Engine(
                index,
                seat,
                self.page,
                settings.worker,
                settings.workers,
                self.loop,
                self._key_of(seat),
            )
            if index == len(self.engines):
                self.engines.append(made)
            elif self.engines[index].seat != seat:
                self._engine_died(index, time())
                self.engines[index] = made

    def _follow_seats(self) -> None:
        """Every tick: the agent has written another list."""
        before = tuple(engine.seat for engine in self.engines)
        self._take_seats()
        if self.policy_or_none is not None and before != tuple(e.seat for e in self.engines):
            if self.log is not None:
                self.log.seats([(e.seat.service, e.seat.variant) for e in self.engines])
            self._route(self.routing.table)
        self.page.workers[self.settings.worker, WORKER_SEATS_VERSION] = self._seats_version

    @property
    def disk_level(self) -> float:
        """How full the agent found the site's disk: `shared.DISK_ROOM`, `DISK_LOW`, `DISK_FULL`."""
        return self._flags[FLAG_DISK_LEVEL]

    def gauges(self) -> dict[str, float]:
        """Values of now, for `/metrics`."""
        gauges = {
            "hanse_gateway_requests_running": float(len(self.running)),
            "hanse_gateway_connections_open": float(len(self.client_door.open_connections)),
            "hanse_gateway_engines_up": float(sum(e.usable(time()) for e in self.engines)),
        }
        if self.policy_or_none is not None:
            meta = self.routing.table.meta
            gauges["hanse_gateway_table_version"] = float(meta.version)
            gauges["hanse_gateway_table_age_seconds"] = time() - meta.issued_at_s
        return gauges

    # --- clocks

    def _tick(self) -> None:
        """Every 20 ms."""
        if self._stopping:
            return
        self._timers[:1] = [self.loop.call_later(TICK_S, self._tick)]
        self.ledger.flush()
        self.ledger.refusing = self.disk_level >= DISK_FULL or self.ledger.behind
        now_s, mono_s = time(), monotonic()
        elapsed_s, self._ticked_at_s = mono_s - self._ticked_at_s, mono_s
        if self.page.flags[FLAG_SEATS_VERSION] != self._seats_version and self.settings.seats:
            self._follow_seats()
        if mono_s - self._probed_at_s >= PROBE_EVERY_S:
            self._probed_at_s = mono_s
            for engine in self.engines:
                engine.probe(now_s)
        for engine in self.engines:
            engine.accrue(elapsed_s)
            if engine.died(now_s):
                self._engine_died(engine.index, now_s)
        if self.policy_or_none is None:
            return
        self.routing.refresh(now_s)
        if self.log is not None:
            self.log.tick(now_s)
        if self.deferred:
            make_room(self)
        if self.waiting:
            self._look_at_waiting(now_s)
        if self.shadow is not None:
            reachable = self._central_reachable(now_s)
            self.shadow.tick(now_s, self.routing.load, reachable=reachable)

    def _look_at_waiting(self, now_s: float) -> None:
        for attempt in tuple(self.waiting):
            if attempt.settled:
                continue
            if now_s >= attempt.deadline_at_s:
                attempt.exchange.overdue(attempt, now_s)
            elif now_s >= attempt.hedge_at_s:
                attempt.exchange.hedge(attempt, now_s)

    def _engine_died(self, index: int, now_s: float) -> None:
        """Its byteless requests go elsewhere at once, and nothing is held there any more."""
        self.affinity.engines.forget(index)
        if self.policy_or_none is not None:
            self.routing.refresh(now_s)
        for attempt in tuple(self.waiting):
            if attempt.engine == index and not attempt.settled:
                attempt.drop()
                attempt.exchange.failed(attempt, "dead", "the engine died")
        self.engines[index].target.close()

    def _slow_tick(self) -> None:
        """Every 500 ms."""
        if self._stopping:
            return
        self._timers[1:] = [self.loop.call_later(SLOW_TICK_S, self._slow_tick)]
        now_s, mono_s = time(), monotonic()
        self.feed.refill(mono_s - self._slow_at_s)
        self.counts.publish()
        self._slow_at_s = mono_s
        self.page.workers[self.settings.worker, WORKER_PID] = os.getpid()
        self.page.workers[self.settings.worker, WORKER_SEATS_VERSION] = self._seats_version
        self.page.workers[self.settings.worker, WORKER_ALIVE_AT_S] = now_s
        line = date_line(now_s)
        for door in self.doors:
            door.date_line = line
            for link in tuple(door.open_connections):
                link.check_times(mono_s)
        for exchange in tuple(self.running):
            if now_s >= exchange.expires_at_s:
                exchange.expire()
        self.take_table()
        self._turn_chain_over(mono_s)
        self.around.look(self)
        if self.policy_or_none is not None:
            for peer in self.peers.values():
                peer.check()

    # --- peers

    def drop_peer(self, site: str) -> None:
        """A site that is reached no more, or under another address."""
        self._lost_for_good(site)
        self.targets.pop(site).close()
        del self.peers[site]
        self.seen.drop(site)

    def reroute(self) -> None:
        """Where sites are reached has changed."""
        if self.policy_or_none is not None:
            self._route(self.routing.table)

    def _lost_for_good(self, site: str) -> None:
        if self.policy_or_none is not None:
            index = self.routing.table.site_index.get(site)
            if index is not None:
                self.routing.lost(index)
            self._peer_died(site)

    def heard(self, frame: LoadFrame, site: str, now_s: float) -> None:
        """A peer has told its load."""
        self.seen.answers(site)
        if self.policy_or_none is not None:
            self.routing.heard(frame, site, now_s)

    def lost(self, site: str) -> None:
        """A check of a peer went unanswered."""
        if site in self.peers and self.peers[site].silent:
            self.seen.silent(site)
        if self.policy_or_none is not None:
            index = self.routing.table.site_index.get(site)
            if index is not None:
                self.routing.lost(index)
            if site in self.peers and self.peers[site].silent:
                self._peer_died(site)

    def _peer_died(self, site: str) -> None:
        """A cut link or a frozen site says nothing: what it has not begun to answer goes elsewhere at once, streams when they stand still."""
        for attempt in tuple(self.waiting):
            if attempt.engine < 0 and attempt.offer.site == site and not attempt.settled:
                attempt.drop()
                attempt.exchange.failed(attempt, "dead", "the peer stopped answering")
        for exchange in tuple(self.running):
            winner = exchange.winner
            if winner is not None and winner.engine < 0 and winner.offer.site == site:
                exchange.quiet(winner)

    def _central_reachable(self, now_s: float) -> bool:
        assert self.shadow is not None
        site = self.shadow.site
        if site < 0:
            return False
        if site == self.routing.origin:
            there = [engine for engine in self.engines if not engine.vacant]
            return not there or any(engine.usable(now_s) for engine in there)
        row = self.routing.load.sites[site]
        age_s = now_s - float(row["sampled_at_s"])
        return bool(row["reachable"]) and age_s <= self.routing.table.meta.heard_stale_s

    # --- parts

    def _write_pid(self) -> None:
        if self.settings.pid_file:
            Path(self.settings.pid_file).write_text(f"{os.getpid()}\n")

    def _turn_chain_over(self, mono_s: float) -> None:
        if (
            mono_s - self._chain_at_s < CHAIN_S_MAX and self.ledger.bytes_end < CHAIN_BYTES_MAX
        ) or self.ledger.refusing:
            return
        self._chain_at_s = mono_s
        with contextlib.suppress(HanseError, OSError):  # a full disk: the chain goes on
            self.ledger.turn_over(self._open_chain())

    def _open_chain(self) -> ChainWriter:
        opened = Opened(
            at_s=time(),
            site=self.site,
            worker=self.settings.worker,
            boot=token_hex(8),
            software=__version__,
            table_version=self.tables.version,
        )
        return ChainWriter(Path(self.evidence_dir), opened)

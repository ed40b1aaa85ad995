"""A site's agent: engines, power, tables, evidence and reports of one site.

Run as `python -m hanse.live.agent --site S --state DIR`. It does the work that the site-scope Dispatcher
asks for and tells it what happened; it decides nothing itself. Each duty is a task of its own, so that a
hub that is gone or a slow bus never delays a probe. Not here: routing (`live.gateway`), what to restart
and when (`dispatch.dispatcher`), keeping this process alive (`live.site_group`).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import socket
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import uvloop

from hanse import __version__
from hanse.dispatch.belief import fleet_digest
from hanse.dispatch.events import event_to_bytes
from hanse.errors import HanseError
from hanse.live.agent_engines import EngineKeeper
from hanse.live.agent_league import RENEW_LOOK_S, TAKE_S, LeagueKeeper
from hanse.live.agent_power import PowerKeeper
from hanse.live.bus import (
    CONTROL_SUBJECT,
    TABLE_SUBJECT,
    TABLES,
    connect_leaf,
    connect_when_up,
    ensure_leaf_streams,
    leaf_connected,
    local_password,
    site_subject,
)
from hanse.live.bus_sources import watch_sources
from hanse.live.demand import REPORT_S, DemandMeter
from hanse.live.evidence import Sealer
from hanse.live.evidence_ship import EvidenceShip
from hanse.live.facility.keeper import PlantKeeper
from hanse.live.facility.metering import Measured
from hanse.live.gateway.metrics import FEED_DROPPED, FEED_SENT
from hanse.live.gateway.seen import unheard
from hanse.live.identity import load_identity
from hanse.live.keep_on import end_if_cancelled
from hanse.live.league_file import LeagueFile, closed_until_s
from hanse.live.link_watch import LinkKeeper
from hanse.live.logline import log_line
from hanse.live.placements import PlacementFile, newest_placement
from hanse.live.runtime import StateDir, replace_file
from hanse.live.shared import (
    FLAG_AGENT_AT_S,
    FLAG_DISK_LEVEL,
    FLAG_SEAL_COUNT,
    FLAG_TABLE_VERSION,
    WORKER_TABLE_VERSION,
    SharedPage,
)
from hanse.live.site_books import SiteBooks
from hanse.live.site_keep import LIFELINE_VARIABLE
from hanse.live.site_retention import SiteRetention
from hanse.live.tablefile import TableFiles
from hanse.live.weights import default_cache_dir
from hanse.model import versions
from hanse.model.fleet import Fleet
from hanse.model.told import UNREADABLE
from hanse.view import DecisionRow, SiteStatus

PROBE_S = 0.25
"""Dead after three misses: under a second from a freeze to re-routing."""
STATUS_S = 0.5
TABLE_S = 0.25
"""A new table is in force within this plus one worker poll; the leaf is on this machine."""
SEAL_S = 1.0
LOOK_S = 0.05
"""Energy books: an engine's turn from idle to busy is known to half of this, 5 % of an answer of half a second."""
CLUSTERS_S = 1.0
"""A pod takes seconds to come; a cluster's API should not be asked more often."""
DECISIONS_S = 0.25
DECISIONS_BATCH_MAX = 50
"""People cannot read more; counters in /metrics have every request."""
RETRY_S = 1.0
"""After an error of the bus or a disk: the next try."""
WORKER_SILENT_S = 2.0
"""A worker marks itself alive several times a second."""


class Agent:
    """One site's agent; `run` until cancelled."""

    def __init__(self, state: StateDir, site_id: str, lifeline_fd: int | None) -> None:
        self.state = state
        self.site_id = site_id
        self.home = state.site(site_id)
        self.runtime = state.read_runtime()
        self.league = LeagueKeeper(state, site_id, self.runtime, self._follow, self._renewed)
        self.fleet = self.league.fleet
        self.page = SharedPage.open(self.home / "shared.mmap")
        self.tables = TableFiles(self.home)
        self.placement = PlacementFile(self.home, state.fleet_toml)
        if self.league.league is not None:
            self.placement.follow(self.league.league.toml.encode(), None)
        self.engines = EngineKeeper(
            self.fleet,
            self.runtime.site(site_id),
            self.home,
            default_cache_dir(),
            self.page,
            lifeline_fd,
            placed=self.placement.read(),
            epoch=self.tables.epoch,
        )
        self._placement_seen = (0, 0)
        """The last that came, whether it could be followed or not."""
        self.power = PowerKeeper(self.fleet, site_id, self.home, time.time())
        self.plant: PlantKeeper | None = None
        """Made where its tasks run; also of a site without facilities, for what Prometheus is shown."""
        self._plant_changed = asyncio.Event()
        self._started_at_s = time.time()
        self.identity = load_identity(self.home / "identity", self.fleet.name, site_id, time.time())
        self._sealer = Sealer(self.home / "evidence", self.identity)
        self.books = SiteBooks(self.home, site_id)
        self.books.start_at(self._sealer.place)
        self.ship = EvidenceShip(self.home, site_id)
        alone = not self.runtime.site(site_id).hub_leaf
        self.retention = SiteRetention(self.home, site_id, self._sealer, self.books, alone=alone)
        self.hub_connected = False
        self._link = LinkKeeper(self.home, self.runtime.site(site_id).hub_leaf)
        self.client: Any = None
        self._decisions: asyncio.Queue[DecisionRow] = asyncio.Queue(maxsize=1000)
        self._demand = DemandMeter(self.fleet, site_id)

    async def run(self) -> None:
        """Every duty at once; a duty that fails is tried again, and the others go on."""
        duties: list[tuple[str, float, Callable[[], Awaitable[None]]]] = [
            ("probe engines", PROBE_S, self._probe),
            ("seal", SEAL_S, self._make_seal()),
            ("look at power", LOOK_S, self._look_at_power),
            ("act on clusters", CLUSTERS_S, self.engines.act_on_clusters),
        ]
        tasks = [asyncio.create_task(_every(name, s, duty)) for name, s, duty in duties]
        tasks.append(asyncio.create_task(_forever("hear decisions", self._hear_decisions)))
        tasks.append(asyncio.create_task(_forever("keep the plant", self._keep_plant)))
        tasks.append(asyncio.create_task(_forever("bus", self._bus_duties)))
        await asyncio.gather(*tasks)

    # --- engines

    async def _probe(self) -> None:
        self.engines.drain(self.league.drained())
        await self.engines.look()
        self.page.flags[FLAG_AGENT_AT_S] = time.time()

    # --- plant

    async def _keep_plant(self) -> None:
        """One after the other: another fleet may name other devices, which does not wait for a restart."""
        while True:
            self._plant_changed.clear()
            self.plant = self._make_plant(self.plant)
            keeping = asyncio.ensure_future(self.plant.run())
            changed = asyncio.ensure_future(self._plant_changed.wait())
            try:
                await asyncio.wait({keeping, changed}, return_when=asyncio.FIRST_COMPLETED)
                if keeping.done():
                    keeping.result()
            finally:
                keeping.cancel()
                changed.cancel()
                await asyncio.gather(keeping, changed, return_exceptions=True)

    def _make_plant(self, before: PlantKeeper | None) -> PlantKeeper:
        password = local_password(self.state, self.site_id)
        if before is not None:
            before.keep_accounts()
        plant = PlantKeeper(self.fleet, self.site_id, self.home, password, self.engines.see_targets)
        if before is not None:
            plant.go_on_from(before)
        self.engines.on_cap = plant.cap
        return plant

    # --- evidence

    def _make_seal(self) -> Callable[[], Awaitable[None]]:
        sealer = self._sealer

        async def seal() -> None:
            # First, for a full disk takes no seal; and here, so that no chain changes hands meanwhile.
            self.retention.look(self.fleet.retention, time.time())
            self.page.flags[FLAG_DISK_LEVEL] = self.retention.level
            # Waits for the disk: in a thread, so that probes go on.
            sealed = await asyncio.to_thread(sealer.seal, time.time())
            self.page.flags[FLAG_SEAL_COUNT] = sealer.count
            for chain, problem in sealed.problems.items():
                log_line(f"evidence: chain {chain}: {problem}")
            read = await asyncio.to_thread(self.books.reader.read)
            self.books.charge(read, self.tables.pues.get(self.site_id, 1.0))
            self._draw_up(time.time())

        return seal

    def _draw_up(self, now_s: float) -> None:
        """Quarters of an hour that are over."""
        for quarter in self.books.close_due(now_s):
            parts_wh = quarter.drawn_wh - quarter.missing_wh + quarter.excess_wh
            log_line(
                f"energy: {quarter.drawn_wh:.1f} Wh {quarter.drawn_method}, parts {parts_wh:.1f} Wh"
            )

    async def _look_at_power(self) -> None:
        seen = self.power.look(*self.engines.meter.busy_w(self.engines.seated()))
        if seen is not None:
            self.books.look(seen, time.time())

    # --- bus

    async def _bus_duties(self) -> None:
        self.client = await connect_when_up(
            lambda: connect_leaf(self.runtime, self.state, self.site_id, name="agent")
        )
        try:
            await ensure_leaf_streams(
                self.client, self.site_id, hub=bool(self.runtime.site(self.site_id).hub_leaf)
            )
            await self.client.subscribe(CONTROL_SUBJECT, cb=self._hear_control)
            schedule = site_subject(self.site_id, "schedule")
            await self.client.subscribe(schedule, cb=self._hear_schedule)
            kept = site_subject(self.site_id, "kept")
            await self.client.subscribe(kept, cb=self._hear_kept)
            duties = [
                _every("take tables", TABLE_S, self._take_table),
                _every("take placements", TABLE_S, self._take_placement),
                _every("take the fleet", TAKE_S, lambda: self.league.take(self.client)),
                _every("renew", RENEW_LOOK_S, lambda: self.league.renew(self.client)),
                _every("report", STATUS_S, self._report),
                _every("report decisions", DECISIONS_S, self._report_decisions),
                _every("see hub", 1.0, self._see_hub),
                _every("report demand", REPORT_S, self._report_demand),
            ]
            if self.runtime.site(self.site_id).hub_leaf:  # else nobody keeps a copy
                duties.append(_forever("ship evidence", self._ship))
                # After a start or a cut tables would stand still for 10 to 30 s.
                duties.append(watch_sources(self.client, TABLES, standalone=True))
            await asyncio.gather(*duties)
        finally:
            await self.client.close()

    async def _take_table(self) -> None:
        """The newest table of the leaf's stream becomes a file; an older epoch never does."""
        from nats.js.errors import NotFoundError

        try:
            newest = await self.client.jetstream(timeout=2.0).get_last_msg(TABLES, TABLE_SUBJECT)
        except NotFoundError:
            return
        if newest.data and self.tables.accept(bytes(newest.data)):
            self.page.flags[FLAG_TABLE_VERSION] = self.tables.version
            self.engines.obey(self.tables.epoch)

    async def _take_placement(self) -> None:
        """The newest placement is worked towards, and kept for a start while cut off."""
        decided = await newest_placement(self.client)
        if decided is None or decided.epoch < self.tables.epoch:
            return
        if decided.fleet_digest not in ("", fleet_digest(self.fleet)):
            return  # of the fleet before, or of one that has yet to come
        version = decided.epoch, decided.version
        if version == self._placement_seen or version <= self.engines.placement_version:
            return
        self._placement_seen = version
        if self.engines.place(decided):
            self.tables.see_epoch(decided.epoch)
            self.placement.write(event_to_bytes(decided))

    def _follow(self, fleet: Fleet, league: LeagueFile) -> None:
        """Another fleet is in force; no process is restarted for it."""
        self.fleet = fleet
        self.power.follow(fleet)
        self._demand.follow(fleet)
        self.placement.follow(league.toml.encode(), self.engines.follow(fleet))
        if self.plant is not None and not self.plant.follow(fleet):
            self._plant_changed.set()

    def _renewed(self) -> None:
        """Seals name the certificate that they are to be checked by."""
        self.identity = load_identity(
            self.home / "identity", self.fleet.name, self.site_id, time.time()
        )
        self._sealer.renew(self.identity)

    async def _report(self) -> None:
        now_s = time.time()
        alive = self.page.workers[:, 1] > now_s - WORKER_SILENT_S
        running = float(self.page.exec[:, :, 0].sum())
        slots = self.engines.slots_up()
        meter, plant = self.engines.meter, self.plant
        measured = Measured() if plant is None else plant.measured(now_s)
        meter.see_measured(measured, self.engines.seated())
        power = self.power.status(now_s, meter.it_w(), measured)
        self.engines.see_power(
            self.power.available_kw,
            self.power.drawn_kw,
            self.power.cause,
            meter.draws(self._local_offers(), power.pue, now_s),
        )
        status = SiteStatus(
            site=self.site_id,
            at_s=now_s,
            epoch=self.tables.epoch,
            table_version=self.tables.version,
            hub_connected=self.hub_connected,
            engines=self.engines.statuses(),
            gateway_workers=int(alive.sum()),
            running=min(running, slots),
            waiting=max(0.0, running - slots),
            power=power,
            shed_level=self.engines.shed_level,
            shed=self.engines.shed_reasons,
            placement_version=self.engines.placement_version[1],
            serving=self.engines.serving(),
            facilities=() if plant is None else plant.statuses(now_s),
            load_target=None if plant is None else plant.target(power.drawn_kw, now_s),
            load_bounds=() if plant is None else plant.load_bounds(now_s),
            disk=self.retention.status(),
            fleet_revision=self.league.revision,
            workers_table_version=int(
                min(self.page.workers[alive, WORKER_TABLE_VERSION], default=0)
            ),
            entered=int(self.page.own[:, :, 0].sum()),
            spoken=versions.BUS.now,
            release=__version__,
            started_at_s=self._started_at_s,
            unheard=unheard(self.page.peers, alive, self._others()),
        )
        if plant is not None:
            plant.closed_until_s = closed_until_s(self.league.standing)
            plant.look(status, self.engines.seated(), meter.idle(now_s), now_s)
            self.books.count(plant.accounts, now_s)
        await self._publish("status", status)

    def _others(self) -> Iterator[str]:
        return (site.id for site in self.fleet.sites if site.id != self.site_id)

    def _local_offers(self) -> tuple[int, ...]:
        offers = () if self.tables.meta is None else self.tables.meta.offers
        return tuple(i for i, key in enumerate(offers) if key.partition("/")[0] == self.site_id)

    async def _report_decisions(self) -> None:
        rows: list[DecisionRow] = []
        while len(rows) < DECISIONS_BATCH_MAX and not self._decisions.empty():
            rows.append(self._decisions.get_nowait())
        if rows:
            await self._publish("decisions", rows)

    async def _report_demand(self) -> None:
        total = float(self.page.counters[:, [FEED_SENT, FEED_DROPPED]].sum())
        # Also when nobody asked: silence would say that the site cannot be heard.
        await self._publish("demand", self._demand.take(time.time(), total))

    async def _see_hub(self) -> None:
        self.hub_connected = await leaf_connected(self.client)
        await self._link.see(self.hub_connected)

    async def _ship(self) -> None:
        await self.ship.run(self.client)

    async def _hear_kept(self, message: Any) -> None:
        self.ship.hear(bytes(message.data))
        self.retention.hear(self.ship.held_until)

    async def _hear_control(self, message: Any) -> None:
        self.power.hear_control(bytes(message.data))

    async def _hear_schedule(self, message: Any) -> None:
        self.power.hear_schedule(bytes(message.data), self.tables.epoch)

    async def _publish(self, what: str, value: Any) -> None:
        await self.client.publish(site_subject(self.site_id, what), msgspec.msgpack.encode(value))

    # --- decisions for people

    async def _hear_decisions(self) -> None:
        """Rows from this site's gateway workers; a full queue drops, people's eyes are slower anyway."""
        path = self.home / "feed.sock"
        path.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as feed:
            feed.bind(str(path))
            feed.setblocking(False)
            loop = asyncio.get_running_loop()
            while True:
                data = await loop.sock_recv(feed, 65_536)
                with contextlib.suppress(*UNREADABLE, asyncio.QueueFull):
                    row = msgspec.msgpack.decode(data, type=DecisionRow)
                    self._demand.add(row)
                    self.engines.meter.answered(row)
                    self._decisions.put_nowait(row)


async def _every(name: str, interval_s: float, duty: Callable[[], Awaitable[None]]) -> None:
    """Call a duty at an interval; an error is logged once per change and tried again."""
    last_error = ""
    while True:
        started_s = time.monotonic()
        try:
            await duty()
            last_error = ""
        except (HanseError, OSError, TimeoutError) as error:
            last_error = _log_once(name, error, last_error)
        except Exception as error:
            if not type(error).__module__.startswith("nats"):
                raise
            last_error = _log_once(name, error, last_error)
        end_if_cancelled()
        await asyncio.sleep(max(0.0, interval_s - (time.monotonic() - started_s)))


async def _forever(name: str, duty: Callable[[], Awaitable[None]]) -> None:
    """Keep a duty that never returns by itself running through errors."""

    async def once() -> None:
        await duty()

    await _every(name, RETRY_S, once)


def _log_once(name: str, error: Exception, last_error: str) -> str:
    text = f"{name}: {error!r}"
    if text != last_error:
        log_line(text)
    return text


def main() -> None:
    """Run until SIGTERM; engines go on, the next agent adopts them."""
    parser = argparse.ArgumentParser(prog="hanse.live.agent")
    parser.add_argument("--site", required=True)
    parser.add_argument("--state", type=Path, required=True)
    arguments = parser.parse_args()
    state = StateDir(arguments.state)
    replace_file(state.site(arguments.site) / "pid" / "agent.pid", f"{os.getpid()}\n".encode())
    lifeline = os.environ.get(LIFELINE_VARIABLE)
    agent = Agent(state, arguments.site, int(lifeline) if lifeline else None)
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    uvloop.run(agent.run())


if __name__ == "__main__":
    main()

"""A run: requests, decisions, faults, weather and power on one clock.

Here: `Simulation`, which lets the compiled loop run between rare events and deals with those: tables, signals, faults, power. Not here:
the loop (`loop`), results (`result`), policies other than the shipped decision (`policies`).

The slow path is the live one: a fleet-scope `Dispatcher` gets `SignalsObserved`, `FleetLoaded`, `DrainRequested` and `Ticked`, and what it
publishes reaches each gateway after the hub's delay, unless the hub or the way is gone.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from hanse.dispatch import actions as act
from hanse.dispatch import events as ev
from hanse.dispatch.belief import all_engines, known_offers
from hanse.dispatch.build import build_table
from hanse.dispatch.dispatcher import PUBLISH_EVERY_S, Dispatcher
from hanse.dispatch.policies import PolicyText
from hanse.dispatch.table import Table
from hanse.errors import ConfigError
from hanse.model.fleet import Fleet, Placement
from hanse.serving.measured import MeasuredTable
from hanse.signals import Feed
from hanse.signals.traces.trace import Chunk, Trace
from hanse.twin import arrays as ar
from hanse.twin import faults
from hanse.twin.arrays import World
from hanse.twin.brownout import Brownouts
from hanse.twin.handle import Handle
from hanse.twin.keeper import PROBE_EVERY_S, Berths, Keeper
from hanse.twin.loop import run
from hanse.twin.machine import Machine, run_on
from hanse.twin.operation import Operation, Operator, room_of
from hanse.twin.policies import Policy, resolve
from hanse.twin.power import STEP_S, SitePower
from hanse.twin.scenario import Fault, Scenario, with_overrides
from hanse.twin.world import build_world, write_table
from hanse.units import SECONDS_PER_HOUR

HUB_DELAY_S: Final = 0.1
"""From the controller to a gateway: bus, disk, and the worker that looks for new tables twice a second on average half of that."""
SILENCE_S: Final = 1.75
"""Three missed checks half a second apart, the first a quarter of a second after the fault on average."""
TAIL_S: Final = 5.0
NO_FAULTS: Final = Scenario()
HERE: Final = Path()
RECORDED: Final = Feed()
Rows = Callable[[Any], None]
Progress = Callable[[float, int], None]


class Simulation:
    """One fleet, one trace, one scenario."""

    def __init__(
        self,
        fleet: Fleet,
        trace: Trace,
        *,
        policies: tuple[PolicyText, ...] = (),
        scenario: Scenario = NO_FAULTS,
        scenario_dir: Path = HERE,
        feed: Feed = RECORDED,
        start_at_s: float = 0.0,
        policy: Policy | str = "shipped",
        engine_affinity: bool | None = None,
        rows: Rows | None = None,
        rows_max: int = 65_536,
        measured: MeasuredTable | None = None,
        machine: Machine | None = None,
        operation: Operation | None = None,
    ) -> None:
        """Prepare a run.

        Args:
            fleet: Checked fleet; its placements are in force from the start.
            trace: Requests; `at_s` counts from the start of the run.
            policies: Cedar texts of the operator.
            scenario: Faults.
            scenario_dir: Where the scenario's policy files are.
            feed: Carbon, price and weather.
            start_at_s: Unix seconds UTC of the start, a full hour; 0: as the trace says, else the first hour of 2026.
            policy: How gateways choose (`policies.resolve`).
            engine_affinity: Sites choose engines as live ones do, else by the fewest requests. None: as the policy's originals.
            rows: Gets finished requests (`ROW_DTYPE`) some ten thousand at a time; None: nobody wants them.
            rows_max: How many at a time.
            measured: Steps that engines take where it has their replica.
            machine: What all sites run on, as `hanse up` starts them; None: every engine has its own.
            operation: How placements change while it runs; None: the fleet file's hold.
        """
        self.fleet, self.trace, self.scenario = fleet, trace, scenario
        start_at_s = start_at_s or trace.meta.start_at_s or FIRST_HOUR_S
        self.start_at_s = start_at_s - start_at_s % SECONDS_PER_HOUR
        self.duration_s = trace.meta.duration_s
        self.feed = with_overrides(feed, scenario, self.start_at_s)
        self.policies = policies
        self._dir = scenario_dir
        self._rows = rows
        self.operator: Operator | None = None
        room = fleet.placements if operation is None else room_of(fleet)
        self.berths = Berths(all_engines(fleet, room))
        self._offers = tuple(known_offers([], fleet, room))
        self.dispatcher = Dispatcher("fleet")
        self._load_fleet(0.0)
        self.tables = 0
        table = self._publish(0.0)
        assert table is not None, "the first tick publishes"
        self.measured = measured
        self.policy = policy if isinstance(policy, Policy) else resolve(policy)
        world = build_world(
            fleet, room, self._table_of(room), trace.meta, rows=rows_max if rows else 0, measured=measured,
            one_entry=self.policy.one_entry,
        )  # fmt: skip
        write_table(world, 0, table, fleet, trace.meta)
        self._choose_by(self.policy, world, engine_affinity)
        run_on(machine, world)
        self.table = table
        self.handle = Handle(world)
        horizon_s = self.duration_s + 2.0 * SECONDS_PER_HOUR
        self.power = SitePower(
            fleet, self.berths.specs, self.feed, scenario, self.start_at_s, horizon_s
        )
        self._set_out(operation)

    def _set_out(self, operation: Operation | None) -> None:
        """Nothing has happened yet."""
        self.brownouts = Brownouts(self.fleet)
        self.index = {site.id: i for i, site in enumerate(self.fleet.sites)}
        self._outages, self._unpowered = set[int](), set[int]()
        self._keepers: dict[str, Keeper] = {}
        self._probing: set[str] = set()
        if operation is not None:
            self.operator = Operator(self, operation)
        self._calendar: list[tuple[float, int, Callable[[float], None]]] = []
        self._entries = 0
        self._hub_up = True
        self._steps = 0
        self._stop_s = float("inf")
        self.log: list[tuple[float, str]] = []
        """(seconds from the start, sentence) of what happened beside requests."""

    def _load_fleet(self, now_s: float) -> None:
        fleet = self.fleet
        keys = [key for tenant in fleet.tenants for key in tenant.keys]
        digests = {k.id: k.sha256 or sha256(k.id.encode()).hexdigest() for k in keys}
        at_s = self.start_at_s + now_s
        event = ev.FleetLoaded(
            at_s=at_s,
            fleet=fleet,
            policies=self.policies,
            digests=digests,
            offers_known=self._offers,
        )
        belief = self.dispatcher.belief
        if belief is not None:  # an operator's other law moves nothing
            epoch, version = belief.placement_version
            event = msgspec.structs.replace(
                event,
                placements=belief.placements,
                placement_epoch=epoch,
                placement_version=version,
            )
        self._tell(event)

    def _table_of(self, room: tuple[Placement, ...]) -> Table:
        """The table of a fleet that has all its room in use: what engines can hold stands in offers with a replica only."""
        belief = self.dispatcher.belief
        assert belief is not None
        full = replace(belief, placements=room, sites=dict(belief.sites))
        return _relative(build_table(full, self.start_at_s), self.start_at_s)

    def _choose_by(self, policy: Policy, world: World, affinity: bool | None) -> None:
        world.options[ar.OPTION_AFFINITY] = policy.engines if affinity is None else float(affinity)
        world.options[ar.OPTION_POLICY] = float(policy.number)
        world.options[ar.OPTION_SCORE] = float(policy.address)
        if policy.needs_central and self.fleet.central is None:
            raise ConfigError(
                f"policy {policy.name}",
                got="a fleet without [central]",
                allowed="a fleet that names its central site",
            )

    @property
    def world(self) -> World:
        """The arrays."""
        return self.handle.world

    def run(self, progress: Progress | None = None) -> None:
        """Simulate until every request has ended."""
        self._schedule()
        chunks = self.trace.chunks()
        more = self._take_chunk(chunks)
        while True:
            until_s = self._calendar[0][0]
            why = run(self.handle, until_s, more)
            if why == ar.RAN_OUT:
                more = self._take_chunk(chunks)
                if not more:
                    self._stop_s = self._last_s() + TAIL_S
                if progress is not None:
                    clock = self.world.clock[0]
                    progress(float(clock["now_s"]), int(clock["requests"]))
            elif why == ar.ROOM:
                self._make_room()
            else:
                self._due(until_s)
                idle = not more and int(self.world.clock[0]["attempts"]) == 0
                if (idle and until_s >= self.duration_s) or until_s >= self._stop_s:
                    break
        self._close()

    def _close(self) -> None:
        self.policy.check()
        self._flush_rows()
        ended_s = float(self.world.clock[0]["now_s"])
        if self._steps * STEP_S < ended_s:
            self._close_step(ended_s)  # what was drawn since the last whole step
        self.power.close()
        if self.operator is not None:
            self.operator.close(ended_s)
        self.table = self.dispatcher.table or self.table

    # --- calendar

    def at(self, at_s: float, action: Callable[[float], None]) -> None:
        """Do something at an instant of the run; the order of entries decides among equal instants."""
        self._entries += 1
        heapq.heappush(self._calendar, (at_s, self._entries, action))

    def _due(self, now_s: float) -> None:
        while self._calendar and self._calendar[0][0] <= now_s:
            heapq.heappop(self._calendar)[2](now_s)

    def _schedule(self) -> None:
        self.at(0.0, self._signals)
        self.at(STEP_S, self._power_step)
        if self.operator is not None:
            self.at(0.0, self.operator.begin)
        for fault in self.scenario.faults:
            self.at(fault.at_s, lambda now_s, fault=fault: self._strike(fault, now_s))  # type: ignore[misc]

    def _power_step(self, now_s: float) -> None:
        self._close_step(now_s)
        for s, what in self.brownouts.step(self.world, self.power, now_s):
            self.log.append((now_s, f"{self.fleet.sites[s].id}: {what}"))
        empty = self.power.unserved() & (self.world.site_up != 0)
        for s in sorted(self._outages & set(np.flatnonzero(empty).tolist())):
            self.log.append((now_s, f"out of power {self.fleet.sites[s].id}"))
            self._unpowered.add(s)
            self._darken(s, now_s)
        if self.operator is not None:
            self.operator.look_after_jobs(now_s)
        self._signals(now_s)
        self.at(now_s + STEP_S, self._power_step)

    def _close_step(self, now_s: float) -> None:
        beside = None if self.operator is None else self.operator.beside(now_s)
        self.power.step(self.handle, self._steps, beside)
        self._steps += 1

    def _signals(self, now_s: float) -> None:
        if self._hub_up:
            for event in self.power.signals(self.start_at_s + now_s):
                self._tell(event)
            self.tick(now_s)

    # --- the slow path

    def _tell(self, event: ev.Event) -> list[act.Action]:
        return self.dispatcher.handle(event)

    def tick(self, now_s: float) -> None:
        """Publish what has become stale, now or as soon as the dispatcher does."""
        if not self._hub_up:
            return
        table = self._publish(now_s)
        if table is not None:
            self.at(now_s + HUB_DELAY_S, lambda at_s: self._apply(table, at_s))
        elif self.dispatcher.stale:
            self.at(now_s + PUBLISH_EVERY_S, self.tick)

    def _publish(self, now_s: float) -> Table | None:
        actions = self._tell(ev.Ticked(at_s=self.start_at_s + now_s))
        table = None
        if any(isinstance(action, act.PublishTable) for action in actions):
            self.tables += 1
            assert self.dispatcher.table is not None
            table = _relative(self.dispatcher.table, self.start_at_s)
            if self.tables > 1:
                table.share_paths(self.table)
        if self.operator is not None:
            self.operator.carry_out(actions, now_s)
        return table

    # --- what an operator does

    def tell_fleet(self, event: ev.Event, now_s: float) -> None:
        """To the fleet's Dispatcher, if the hub is there."""
        if self._hub_up and self.operator is not None:
            self.operator.carry_out(self._tell(event), now_s)

    def grant(self, epoch: int) -> None:
        """Who places needs an epoch that sites obey."""
        self._tell(ev.EpochGranted(at_s=self.start_at_s, epoch=epoch))

    def send(self, now_s: float, arrive: Callable[[float], None]) -> None:
        """Something that sites get from the hub."""
        if self._hub_up:
            self.at(now_s + HUB_DELAY_S, arrive)

    def hears_hub(self, site: str) -> bool:
        """Whether a site and the hub hear each other."""
        return self._hub_up and bool(self.world.site_up[self.index[site]])

    def keepers(self) -> list[Keeper]:
        """Agents that are there."""
        return list(self._keepers.values())

    def take_down(self, e: int, now_s: float) -> None:
        """An engine that is not placed."""
        faults.kill_engine(self.handle, e, now_s, True)
        self.world.engine_state[e] = 0

    def _apply(self, table: Table, now_s: float) -> None:
        """Every gateway that can hear the hub takes the table; a cut-off one keeps what it has."""
        if not self._hub_up:
            return
        world = self.world
        free = set(range(ar.VERSIONS)) - set(world.version.tolist())
        if not free:
            return
        write_table(world, min(free), table, self.fleet, self.trace.meta)
        world.version[world.site_up != 0] = min(free)
        self.table = table

    # --- chunks, rows, room

    def _take_chunk(self, chunks: Iterator[Chunk]) -> bool:
        chunk = next(chunks, None)
        if chunk is None:
            return False
        blocks = chunk.blocks if len(chunk.blocks) else np.zeros(1, np.int64)
        # Writable, as generated ones are: a read-only array is another type, for which all kernels would compile anew.
        world = self.world._replace(
            chunk=np.require(chunk.requests, requirements=("C", "W")),
            chunk_blocks=np.require(blocks, np.int64, ("C", "W")),
        )
        world.clock[0]["arrived"] = 0
        self.handle = Handle(world)
        if self.operator is not None:
            self.operator.count(chunk.requests)
        return True

    def _last_s(self) -> float:
        return float(self.world.clock[0]["now_s"]) + max(
            s.slo.deadline_s for s in self.fleet.services
        )

    def _make_room(self) -> None:
        self._flush_rows()
        world = self.world
        clock = world.clock[0]
        if int(clock["attempts"]) + 2 * ar.SPARE < len(world.attempts):
            return
        twice = {
            name: np.concatenate([getattr(world, name), np.zeros_like(getattr(world, name))])
            for name in ("attempts", "tried", "heap_s", "heap_seq", "heap_item")
        }
        self.handle = Handle(world._replace(**twice))

    def _flush_rows(self) -> None:
        count = int(self.world.clock[0]["rows"])
        if self._rows is not None and count:
            self._rows(self.world.rows[:count])
        self.world.clock[0]["rows"] = 0

    # --- faults

    def _strike(self, fault: Fault, now_s: float) -> None:
        self.log.append((now_s, f"{fault.kind} {fault.site} {fault.other}".strip()))
        getattr(self, f"_begin_{fault.kind}")(fault, now_s)
        if fault.for_s < float("inf") and hasattr(self, f"_end_{fault.kind}"):
            self.at(
                now_s + fault.for_s, lambda at_s: getattr(self, f"_end_{fault.kind}")(fault, at_s)
            )

    def _engines(self, fault: Fault) -> range:
        s = self.index[fault.site]
        first, end = (int(self.world.engine_first[i]) for i in (s, s + 1))
        return (
            range(first, end)
            if fault.engine < 0
            else range(first + fault.engine, first + fault.engine + 1)
        )

    def keep(self, site: str, now_s: float) -> None:
        """The site's agent notices and acts, four times a second until all is well."""
        if site in self._probing:
            return
        self._probing.add(site)
        self.keeper(site, now_s)
        self.at(now_s + PROBE_EVERY_S, lambda at_s: self._probe(site, at_s))

    def keeper(self, site: str, now_s: float) -> Keeper:
        """The agent of a site, who is there from when he is first needed."""
        found = self._keepers.get(site)
        if found is None:
            number = self.index[site]
            found = Keeper(self.fleet, site, number, self.berths, self.handle, now_s)
            self._keepers[site] = found
        return found

    def _probe(self, site: str, now_s: float) -> None:
        keeper = self._keepers[site]
        keeper.tick(self.handle, now_s)
        if self.operator is not None:
            self.operator.changed(site, now_s)
        if keeper.busy:
            self.at(now_s + PROBE_EVERY_S, lambda at_s: self._probe(site, at_s))
        else:
            self._probing.discard(site)

    def _begin_engine_kill(self, fault: Fault, now_s: float) -> None:
        self.keep(fault.site, now_s)
        for e in self._engines(fault):
            faults.kill_engine(self.handle, e, now_s, True)

    def _begin_engine_freeze(self, fault: Fault, now_s: float) -> None:
        self.keep(fault.site, now_s)
        for e in self._engines(fault):
            faults.freeze_engine(self.handle, e, now_s)

    def _begin_engine_slow(self, fault: Fault, now_s: float) -> None:
        assert fault.factor is not None
        for e in self._engines(fault):
            faults.set_speed(self.handle, e, now_s, fault.factor)

    def _end_engine_slow(self, fault: Fault, now_s: float) -> None:
        for e in self._engines(fault):
            faults.set_speed(self.handle, e, now_s, 1.0)

    def _begin_site_down(self, fault: Fault, now_s: float) -> None:
        self._darken(self.index[fault.site], now_s)

    def _darken(self, s: int, now_s: float) -> None:
        faults.darken_site(self.handle, s, now_s)
        self.at(now_s + SILENCE_S, lambda at_s: self._all_notice(s, at_s))

    def _all_notice(self, s: int, now_s: float) -> None:
        if self.world.site_up[s]:
            return
        for g in range(len(self.fleet.sites)):
            if g != s:
                faults.notice_silence(self.handle, g, s, now_s)
        self._tell(ev.SiteLost(at_s=self.start_at_s + now_s, site=self.fleet.sites[s].id))

    def _end_site_down(self, fault: Fault, now_s: float) -> None:
        s = self.index[fault.site]
        if self.world.site_up[s]:
            return
        for g in range(len(self.fleet.sites)):
            if g != s:  # connections of before are reset
                faults.notice_silence(self.handle, g, s, now_s)
        self.world.site_up[s] = 1
        self.world.engine_state[self.world.engine_first[s] : self.world.engine_first[s + 1]] = 0
        if self.operator is not None:
            self.operator.changed(fault.site, now_s)
            self.operator.heard_again(now_s)
        self.keep(fault.site, now_s)

    def _begin_link_cut(self, fault: Fault, now_s: float) -> None:
        self._begin_link_cut_one_way(fault, now_s)
        faults.cut_link(self.handle, self.index[fault.other], self.index[fault.site])

    def _begin_link_cut_one_way(self, fault: Fault, now_s: float) -> None:
        a, b = self.index[fault.site], self.index[fault.other]
        faults.cut_link(self.handle, a, b)
        self.at(now_s + SILENCE_S, lambda at_s: self._pair_notices(a, b, at_s))

    def _pair_notices(self, a: int, b: int, now_s: float) -> None:
        """A check needs both directions, so both ends hear nothing of each other."""
        if self.world.link_up[a, b] and self.world.link_up[b, a]:
            return
        faults.notice_silence(self.handle, a, b, now_s)
        faults.notice_silence(self.handle, b, a, now_s)

    def _end_link_cut(self, fault: Fault, now_s: float) -> None:
        a, b = self.index[fault.site], self.index[fault.other]
        faults.heal_link(self.handle, a, b, now_s)
        faults.heal_link(self.handle, b, a, now_s)

    def _end_link_cut_one_way(self, fault: Fault, now_s: float) -> None:
        faults.heal_link(self.handle, self.index[fault.site], self.index[fault.other], now_s)

    def _begin_link_slow(self, fault: Fault, now_s: float) -> None:
        self._scale_way(fault, fault.factor or 1.0)

    def _end_link_slow(self, fault: Fault, now_s: float) -> None:
        self._scale_way(fault, 1.0)

    def _scale_way(self, fault: Fault, factor: float) -> None:
        a, b = self.index[fault.site], self.index[fault.other]
        for one, two in ((a, b), (b, a)):
            self.world.ways[one, two]["rtt_ms"] = self.world.paths[one, two]["rtt_ms"] * factor

    def _begin_hub_loss(self, fault: Fault, now_s: float) -> None:
        self._hub_up = False

    def _end_hub_loss(self, fault: Fault, now_s: float) -> None:
        self._hub_up = True
        if self.operator is not None:
            self.operator.heard_again(now_s)
        self._signals(now_s)

    def _begin_telemetry_lost(self, fault: Fault, now_s: float) -> None:
        self.world.telemetry[self.index[fault.site]] = -1.0

    def _begin_telemetry_wrong(self, fault: Fault, now_s: float) -> None:
        self.world.telemetry[self.index[fault.site]] = fault.factor

    def _end_telemetry_lost(self, fault: Fault, now_s: float) -> None:
        self.world.telemetry[self.index[fault.site]] = 1.0

    _end_telemetry_wrong = _end_telemetry_lost

    def _begin_drain(self, fault: Fault, now_s: float) -> None:
        self._drain(fault, now_s, drained=True)

    def _end_drain(self, fault: Fault, now_s: float) -> None:
        self._drain(fault, now_s, drained=False)

    def _drain(self, fault: Fault, now_s: float, *, drained: bool) -> None:
        self._tell(
            ev.DrainRequested(at_s=self.start_at_s + now_s, site=fault.site, drained=drained)
        )
        self.tick(now_s)

    def _begin_law(self, fault: Fault, now_s: float) -> None:
        """The operator publishes a policy: the same event as live."""
        path = self._dir / fault.policy
        try:
            text = path.read_text()
        except OSError as error:
            raise ConfigError(
                f"scenario policy {path}", got=str(error), allowed="a readable Cedar file"
            ) from None
        self.policies = (*self.policies, PolicyText(name=fault.policy, text=text))
        self._load_fleet(now_s)
        self.tick(now_s)

    def _begin_grid_outage(self, fault: Fault, now_s: float) -> None:
        """The balance knows of it; the site goes dark when UPS and battery are empty (`_power_step`)."""
        self._outages.add(self.index[fault.site])

    def _end_grid_outage(self, fault: Fault, now_s: float) -> None:
        s = self.index[fault.site]
        self._outages.discard(s)
        if s in self._unpowered:
            self._unpowered.discard(s)
            self._end_site_down(fault, now_s)

    def _begin_grid_cap(self, fault: Fault, now_s: float) -> None:
        """The grid's operator takes some of the connection away."""
        assert fault.factor is not None
        site = self.fleet.sites[self.index[fault.site]]
        self.power.params[self.index[fault.site]]["grid_kw_max"] = (
            site.power.grid_kw_max * fault.factor
        )

    def _end_grid_cap(self, fault: Fault, now_s: float) -> None:
        site = self.fleet.sites[self.index[fault.site]]
        self.power.params[self.index[fault.site]]["grid_kw_max"] = site.power.grid_kw_max

    def _begin_heat_wave(self, fault: Fault, now_s: float) -> None:
        """The balance knows of it."""

    _begin_clouds = _begin_carbon = _begin_price = _begin_heat_wave


FIRST_HOUR_S: Final = 1_767_225_600.0
"""1 January 2026, 0:00 UTC."""


def _relative(table: Table, start_s: float) -> Table:
    """The same table with its validity on the run's clock, where small numbers keep their microseconds."""
    meta = msgspec.structs.replace(
        table.meta,
        issued_at_s=table.meta.issued_at_s - start_s,
        valid_until_s=table.meta.valid_until_s - start_s,
    )
    return Table(meta, table.arrays)

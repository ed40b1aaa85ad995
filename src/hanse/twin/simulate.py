"""A run: requests, decisions, faults, weather and power on one clock.

Here: `Simulation`, which lets the compiled loop run between rare events and deals with those: tables, signals, power. Not here:
the loop (`loop`), faults (`strikes`), results (`result`), policies other than the shipped decision (`policies`).

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
from hanse.twin.scenario import Scenario, with_overrides
from hanse.twin.strikes import Strikes
from hanse.twin.world import build_world, write_table
from hanse.units import SECONDS_PER_HOUR

HUB_DELAY_S: Final = 0.1
"""From the controller to a gateway: bus, disk, and the worker that looks for new tables twice a second on average half of that."""
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
        self.scenario_dir = scenario_dir
        self._rows = rows
        self.operator: Operator | None = None
        room = fleet.placements if operation is None else room_of(fleet)
        self.berths = Berths(all_engines(fleet, room))
        self._offers = tuple(known_offers([], fleet, room))
        self.dispatcher = Dispatcher("fleet")
        self.load_fleet(0.0)
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
        self._strikes = Strikes(self)
        self._keepers: dict[str, Keeper] = {}
        self._probing: set[str] = set()
        if operation is not None:
            self.operator = Operator(self, operation)
        self._calendar: list[tuple[float, int, Callable[[float], None]]] = []
        self._entries = 0
        self.hub_up = True
        self._steps = 0
        self._stop_s = float("inf")
        self.log: list[tuple[float, str]] = []
        """(seconds from the start, sentence) of what happened beside requests."""
        self.until_s: dict[int, float] = {}
        """By place in the log: when it was over."""
        self._given_up: dict[tuple[int, int], int] = {}
        """By site and step of shedding that is in force: its place in the log."""

    def load_fleet(self, now_s: float) -> None:
        """To the fleet's Dispatcher: the fleet, with the policies in force."""
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
        self.tell(event)

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
        self.at(0.0, self.observe)
        self.at(STEP_S, self._power_step)
        if self.operator is not None:
            self.at(0.0, self.operator.begin)
        for fault in self.scenario.faults:
            self.at(fault.at_s, lambda now_s, fault=fault: self._strikes.strike(fault, now_s))  # type: ignore[misc]

    def _power_step(self, now_s: float) -> None:
        self._close_step(now_s)
        for s, before, reasons in self.brownouts.step(self.world, self.power, now_s):
            for level in range(len(reasons), before):  # work that comes back
                self.until_s[self._given_up.pop((s, level))] = now_s
            for level in range(before, len(reasons)):
                self._given_up[s, level] = len(self.log)
                self.log.append((now_s, f"{self.fleet.sites[s].id}: {reasons[level]}"))
        self._strikes.power_ends(now_s)
        if self.operator is not None:
            self.operator.look_after_jobs(now_s)
        self.observe(now_s)
        self.at(now_s + STEP_S, self._power_step)

    def _close_step(self, now_s: float) -> None:
        beside = None if self.operator is None else self.operator.beside(now_s)
        self.power.step(self.handle, self._steps, beside)
        self._steps += 1

    def observe(self, now_s: float) -> None:
        """Signals of now, to the fleet's Dispatcher, if the hub is there."""
        if self.hub_up:
            for event in self.power.signals(self.start_at_s + now_s):
                self.tell(event)
            self.tick(now_s)

    # --- the slow path

    def tell(self, event: ev.Event) -> list[act.Action]:
        """An event that needs no hub: what it asks for is done with the next tick."""
        return self.dispatcher.handle(event)

    def tick(self, now_s: float) -> None:
        """Publish what has become stale, now or as soon as the dispatcher does."""
        if not self.hub_up:
            return
        table = self._publish(now_s)
        if table is not None:
            self.at(now_s + HUB_DELAY_S, lambda at_s: self._apply(table, at_s))
        elif self.dispatcher.stale:
            self.at(now_s + PUBLISH_EVERY_S, self.tick)

    def _publish(self, now_s: float) -> Table | None:
        actions = self.tell(ev.Ticked(at_s=self.start_at_s + now_s))
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
        if self.hub_up and self.operator is not None:
            self.operator.carry_out(self.tell(event), now_s)

    def grant(self, epoch: int) -> None:
        """Who places needs an epoch that sites obey."""
        self.tell(ev.EpochGranted(at_s=self.start_at_s, epoch=epoch))

    def send(self, now_s: float, arrive: Callable[[float], None]) -> None:
        """Something that sites get from the hub."""
        if self.hub_up:
            self.at(now_s + HUB_DELAY_S, arrive)

    def hears_hub(self, site: str) -> bool:
        """Whether a site and the hub hear each other."""
        return self.hub_up and bool(self.world.site_up[self.index[site]])

    def keepers(self) -> list[Keeper]:
        """Agents that are there."""
        return list(self._keepers.values())

    def take_down(self, e: int, now_s: float) -> None:
        """An engine that is not placed."""
        faults.kill_engine(self.handle, e, now_s, True)
        self.world.engine_state[e] = 0

    def _apply(self, table: Table, now_s: float) -> None:
        """Every gateway that can hear the hub takes the table; a cut-off one keeps what it has."""
        if not self.hub_up:
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

    # --- agents

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

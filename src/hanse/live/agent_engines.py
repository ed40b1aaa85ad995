"""The engines of a site in the agent's hands: look at them, tell the dispatcher, do what it says.

Here: `EngineKeeper`, the shell around the site-scope Dispatcher. Not here: when an engine counts as dead or is
started again (`dispatch.dispatcher`), how one is started (`live.engines`).
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from hanse.catalogue import accelerator
from hanse.dispatch.actions import (
    Action,
    Log,
    MarkEngine,
    RestartEngine,
    Shed,
    StartEngine,
    StopEngine,
    Unshed,
)
from hanse.dispatch.belief import EngineBelief, EngineSpec
from hanse.dispatch.dispatcher import Dispatcher
from hanse.dispatch.events import (
    EngineDied,
    EngineProbed,
    EngineStarted,
    Event,
    FleetLoaded,
    PlacementDecided,
    PowerChanged,
    Ticked,
)
from hanse.live.engines import ProcessDriver, engine_specs, probe
from hanse.live.logline import log_line
from hanse.live.runtime import SiteAddress
from hanse.live.shared import (
    ENGINE_ALIVE,
    ENGINE_BUSY_S,
    ENGINE_CPU_W,
    ENGINE_DEAD,
    ENGINE_DRAINING,
    ENGINE_GENERATION,
    ENGINE_STATE,
    FLAG_POWER_SHED,
    SharedPage,
)
from hanse.model.fleet import Fleet
from hanse.view import EngineStatus

PROBE_TIMEOUT_S = 0.2
"""Also the pace of probes once one was missed. With an interval of 0.25 s and three misses a frozen engine is known
0.85 s after it froze at the latest, so that its requests are elsewhere within a second."""
STATES = {"up": ENGINE_ALIVE, "dead": ENGINE_DEAD, "draining": ENGINE_DRAINING}


METER_S = 1.0
"""CPU time counts in ticks of 10 ms: a second gives 1 %."""


class EngineKeeper:
    """Events from the engines into the dispatcher, its actions back to them."""

    def __init__(
        self,
        fleet: Fleet,
        address: SiteAddress,
        home: Path,
        cache_dir: Path,
        page: SharedPage,
        lifeline_fd: int | None,
    ) -> None:
        self._page = page
        self._driver = ProcessDriver(home, cache_dir, lifeline_fd)
        self._specs = {spec.name: spec for spec in engine_specs(fleet, address)}
        self._restarts = dict.fromkeys(self._specs, 0)
        self._cpu_s: dict[str, tuple[float, float]] = {}
        self._watts = dict.fromkeys(self._specs, 0.0)
        self._threads_w = {
            spec.name: _watts_of(fleet, address.site, spec) for spec in self._specs.values()
        }
        self.dispatcher = Dispatcher("site", site=address.site)
        now_s = time.time()
        self._handle(FleetLoaded(at_s=now_s, fleet=fleet))
        self._handle(PlacementDecided(at_s=now_s, source="fleet file", placements=fleet.placements))

    @property
    def shed_level(self) -> int:
        """0 takes all work, 1 none from other sites, 2 none."""
        return self.dispatcher.shed_level

    async def look(self) -> None:
        """Probe every engine at once, notice ended processes, let time pass; again soon while one is in doubt."""
        while True:
            started_s = time.monotonic()
            await self._look_once()
            if not any(engine.misses for engine in self._belief().values()):
                return
            await asyncio.sleep(max(0.0, PROBE_TIMEOUT_S - (time.monotonic() - started_s)))

    async def _look_once(self) -> None:
        specs = list(self._specs.values())
        answered = await asyncio.gather(*(probe(spec, PROBE_TIMEOUT_S) for spec in specs))
        now_s = time.time()
        for spec, answer in zip(specs, answered, strict=True):
            self._meter(spec, now_s)
            if spec.driver == "process" and not self._driver.pid(spec) and self._runs(spec):
                self._handle(EngineDied(at_s=now_s, engine=spec.name))
            else:
                self._handle(EngineProbed(at_s=now_s, engine=spec.name, answered=answer))
        self._handle(Ticked(at_s=now_s))

    def see_power(self, available_kw: float, drawn_kw: float) -> None:
        """What the supply gives and the site draws; the dispatcher may shed work."""
        now_s = time.time()
        self._handle(PowerChanged(at_s=now_s, available_kw=available_kw, drawn_kw=drawn_kw))

    def it_w(self) -> float:
        """Power of all engines by their CPU time, W (estimated: threads' figures of the catalogue)."""
        return sum(self._watts.values())

    def slots_up(self) -> float:
        """Requests that living engines decode at once."""
        belief = self._belief()
        return float(
            sum(spec.slots for name, spec in self._specs.items() if belief[name].state == "up")
        )

    def statuses(self) -> tuple[EngineStatus, ...]:
        """For people."""
        belief = self._belief()
        return tuple(
            EngineStatus(
                name=name,
                service=spec.service,
                variant=spec.variant,
                state=belief[name].state,
                pid=self._driver.pid(spec),
                restarts=self._restarts[name],
                cpu_w=self._watts[name],
            )
            for name, spec in self._specs.items()
        )

    # --- events and actions

    def _handle(self, event: Event) -> None:
        for action in self.dispatcher.handle(event):
            self._act(action)

    def _act(self, action: Action) -> None:
        if isinstance(action, StartEngine | RestartEngine):
            self._start(self._specs[action.engine.name], again=isinstance(action, RestartEngine))
        elif isinstance(action, StopEngine):
            self._driver.stop(self._specs[action.engine.name])
        elif isinstance(action, MarkEngine):
            self._page.engines[action.engine.index, ENGINE_STATE] = STATES[action.state]
        elif isinstance(action, Shed):
            self._page.flags[FLAG_POWER_SHED] = action.level
        elif isinstance(action, Unshed):
            self._page.flags[FLAG_POWER_SHED] = 0
        elif isinstance(action, Log):
            log_line(action.text)

    def _start(self, spec: EngineSpec, *, again: bool) -> None:
        if spec.driver == "process":
            if again:
                self._driver.stop(spec)
                self._restarts[spec.name] += 1
            pid = self._driver.start(spec)
            log_line(f"engine {spec.name}: process {pid} at {spec.url}")
        self._page.engines[spec.index, ENGINE_GENERATION] += 1
        self._handle(EngineStarted(at_s=time.time(), engine=spec.name))

    def _runs(self, spec: EngineSpec) -> bool:
        return self._belief()[spec.name].state != "dead"

    def _belief(self) -> dict[str, EngineBelief]:
        assert self.dispatcher.belief is not None, "the fleet was loaded"
        return self.dispatcher.belief.engines

    # --- energy

    def _meter(self, spec: EngineSpec, now_s: float) -> None:
        """Watts since the last look: idle and full power of the threads, by the share of time they ran."""
        if spec.driver != "process":
            return
        cpu_s = self._driver.cpu_s(spec)
        before_at_s, before_cpu_s = self._cpu_s.get(spec.name, (now_s, cpu_s))
        if now_s - before_at_s < METER_S and spec.name in self._cpu_s:
            return
        self._cpu_s[spec.name] = (now_s, cpu_s)
        if cpu_s >= before_cpu_s and now_s > before_at_s:
            idle_w, full_w = self._threads_w[spec.name]
            share = min(1.0, (cpu_s - before_cpu_s) / (now_s - before_at_s))
            self._watts[spec.name] = idle_w + (full_w - idle_w) * share
        row = self._page.engines[spec.index]
        row[ENGINE_CPU_W], row[ENGINE_BUSY_S] = self._watts[spec.name], cpu_s


def _watts_of(fleet: Fleet, site_id: str, spec: EngineSpec) -> tuple[float, float]:
    """(idle, full) power of one replica's share of its pool, W."""
    site = next(site for site in fleet.sites if site.id == site_id)
    pool = next(pool for pool in site.pools if pool.id == spec.pool)
    chip = accelerator(pool.accelerator)
    full_w = (chip.tdp_w or 0.0) * spec.chips
    return (chip.idle_w or 0.0) * spec.chips, full_w

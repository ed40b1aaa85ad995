"""The engines of a site in the agent's hands: look at them, tell the dispatcher, do what it says.

Here: `EngineKeeper`, the shell around the site-scope Dispatcher. Not here: when an engine counts as dead, is started, drained or
stopped (`dispatch.site_scope`), how that is done (`live.drivers`), what engines draw (`live.agent_work`).
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from hanse.dispatch.actions import (
    Action,
    CapPower,
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
    DrainRequested,
    EngineDied,
    EngineEmptied,
    EngineProbed,
    EngineStarted,
    EpochGranted,
    Event,
    FleetLoaded,
    LoadTargetsChanged,
    PlacementDecided,
    PowerChanged,
    Ticked,
)
from hanse.dispatch.failing import fails
from hanse.dispatch.load_targets import LoadTarget
from hanse.dispatch.rolling import carried_over, serving_of
from hanse.dispatch.shed import Draw
from hanse.energy.limits import Cause
from hanse.live.agent_work import Meter
from hanse.live.drivers import Driver, ExternalDriver, Seen
from hanse.live.engines import ProcessDriver, host_port, probe
from hanse.live.kubernetes import KubernetesDriver
from hanse.live.logline import log_line
from hanse.live.runtime import SiteAddress, free_port
from hanse.live.seats import SEATS, Seats, read_seats, write_seats
from hanse.live.shared import (
    CAUSES,
    ENGINE_ALIVE,
    ENGINE_DEAD,
    ENGINE_DRAINING,
    ENGINE_GENERATION,
    ENGINE_STATE,
    FLAG_POWER_CAUSE,
    FLAG_POWER_SHED,
    FLAG_SEATS_VERSION,
    WORKER_ALIVE_AT_S,
    WORKER_SEATS_VERSION,
    SharedPage,
)
from hanse.model.fleet import Fleet, Placement
from hanse.units import SECONDS_PER_HOUR
from hanse.view import EngineStatus

PROBE_TIMEOUT_S = 0.2
"""Also the pace of probes once one was missed. With an interval of 0.25 s and three misses a frozen engine is known
0.85 s after it froze at the latest, so that its requests are elsewhere within a second."""
STATES = {"up": ENGINE_ALIVE, "dead": ENGINE_DEAD, "draining": ENGINE_DRAINING}
LOADING_S_MAX = SECONDS_PER_HOUR
"""A start may wait so long for a pod that is there and not ready, and only then begins the time in which an engine must answer: clusters
load large models over slow networks, and kubelet itself says of a pod that fails what is wrong with it."""
WORKER_SILENT_S = 2.0
"""A worker marks itself alive twice a second; one that does not is waited for no longer."""


class EngineKeeper:
    """Events from the engines into the dispatcher, its actions back to them.

    `placed` is the placement in force where it is not the fleet file's, `epoch` the highest that this site has obeyed.
    """

    def __init__(
        self,
        fleet: Fleet,
        address: SiteAddress,
        home: Path,
        cache_dir: Path,
        page: SharedPage,
        lifeline_fd: int | None,
        placed: PlacementDecided | None = None,
        epoch: int = 0,
    ) -> None:
        self._page = page
        self._address = address
        self._rng = random.Random(address.site)
        self._drivers: dict[str, Driver] = {
            "process": ProcessDriver(home, cache_dir, lifeline_fd),
            "external": ExternalDriver(),
            "kubernetes": KubernetesDriver(fleet, address.site),
        }
        self._specs: dict[str, EngineSpec] = {}
        """By name, with the URL that an engine is reached under."""
        self.on_cap: Callable[[float | None], None] = lambda _limit_kw: None
        """Who holds devices to a power limit."""
        self._restarts: dict[str, int] = {}
        self._silent: set[str] = set()
        """Engines whose last probe went unanswered while they were not known to be dead."""
        self._loads_until_s: dict[str, float] = {}
        """How long an engine that was started may load."""
        self._alive_from: dict[str, int] = {}
        """Engines that answer, and the version of the seats that workers must know first."""
        page.flags[FLAG_POWER_SHED] = (
            0  # of an earlier agent; what holds is said again within a report
        )
        self._seats_path = home / SEATS
        self._seats = read_seats(self._seats_path) or Seats()
        self.meter = Meter(fleet, address.site, page)
        known = [s for s in self._seats.engines if self._drivers[s.driver].runs(s)]
        self._specs |= {spec.name: spec for spec in known}
        self.dispatcher = Dispatcher("site", site=address.site)
        now_s = time.time()
        self._handle(EpochGranted(at_s=now_s, epoch=epoch))
        self._handle(
            FleetLoaded(
                at_s=now_s,
                fleet=fleet,
                placements=None if placed is None else placed.placements,
                placement_epoch=0 if placed is None else placed.epoch,
                placement_version=0 if placed is None else placed.version,
                engines_known=tuple(known),
            )
        )

    # --- what the agent tells

    async def look(self) -> None:
        """Probe every engine at once, notice ended ones, let time pass; again soon while one is in doubt."""
        while True:
            started_s = time.monotonic()
            await self._look_once()
            if not any(engine.misses for engine in self._belief().values()):
                return
            await asyncio.sleep(max(0.0, PROBE_TIMEOUT_S - (time.monotonic() - started_s)))

    async def _look_once(self) -> None:
        self._flush_marks()
        looked = [(spec, self._observe(spec)) for spec in list(self._specs.values())]
        answered = await asyncio.gather(
            *(probe(self._specs[spec.name], PROBE_TIMEOUT_S) for spec, seen in looked if seen.url)
        )
        answers = iter(answered)
        now_s = time.time()
        for spec, seen in looked:
            answer = next(answers) if seen.url else False
            engine = self._belief().get(spec.name)
            if engine is None or engine.state == "resting":
                continue
            if spec.driver == "process":
                self.meter.look(spec, self._cpu_s(spec), now_s)
            self._note_silence(engine, seen, answer)
            away = seen.away if engine.state in ("up", "draining") else ""
            if (away or seen.gone) and engine.state != "dead":
                why = away or seen.gone
                self._handle(EngineDied(at_s=now_s, engine=spec.name, why=why))
            elif seen.url:
                self._handle(EngineProbed(at_s=now_s, engine=spec.name, answered=answer))
            elif self._loads(seen, engine, now_s):
                self._handle(EngineStarted(at_s=now_s, engine=spec.name))
            running = float(self._page.exec[:, spec.index, 0].sum())
            self.meter.busy(spec, running, now_s)
            if running == 0.0 and engine.state == "draining":
                self._handle(EngineEmptied(at_s=now_s, engine=spec.name))
        self._handle(Ticked(at_s=now_s))

    def _note_silence(self, engine: EngineBelief, seen: Seen, answered: bool) -> None:
        if answered or not seen.url:
            self._silent.discard(engine.spec.name)
        elif engine.state != "dead":
            self._silent.add(engine.spec.name)

    def _loads(self, seen: Seen, engine: EngineBelief, now_s: float) -> bool:
        """Whether an engine that starts has still to load before its time to answer begins; one that leaves is waited for no longer."""
        awaited = engine.state == "starting" and not engine.leaving
        return seen.loads and awaited and now_s < self._loads_until_s[engine.spec.name]

    def place(self, decided: PlacementDecided) -> bool:
        """A placement from the controller; whether it is in force now."""
        self._handle(msgspec.structs.replace(decided, at_s=time.time()))
        return self.placement_version == (decided.epoch, decided.version)

    def follow(self, fleet: Fleet) -> tuple[Placement, ...] | None:
        """Another fleet is in force: what is placed here by it and as it was decided since is worked towards, nothing else is touched.

        Returns what goes on of what was decided since; None: the fleet file's own placement holds.
        """
        belief = self.dispatcher.belief
        assert belief is not None, "the fleet was loaded"
        self.meter.follow(fleet)
        kubernetes = self._drivers["kubernetes"]
        assert isinstance(kubernetes, KubernetesDriver)
        kubernetes.follow(fleet, self._address.site)
        placements = carried_over(belief.fleet, belief.placements, fleet)
        epoch, version = (0, 0) if placements is None else belief.placement_version
        event = FleetLoaded(
            at_s=time.time(),
            fleet=fleet,
            placements=placements,
            placement_epoch=epoch,
            placement_version=version,
        )
        self._handle(event)
        return placements

    def drain(self, drained: bool) -> None:
        """The site takes no new requests, or takes them again; what runs goes on."""
        belief = self.dispatcher.belief
        assert belief is not None, "the fleet was loaded"
        site = self.dispatcher.site
        if belief.sites[site].drained != drained:
            now_s, epoch = time.time(), self.dispatcher.epoch
            self._handle(DrainRequested(at_s=now_s, site=site, drained=drained, epoch=epoch))

    def obey(self, epoch: int) -> None:
        """A table of a later epoch has come: nothing of an earlier one counts any more."""
        self._handle(EpochGranted(at_s=time.time(), epoch=epoch))

    def see_power(
        self, available_kw: float, drawn_kw: float, cause: Cause, draws: tuple[Draw, ...]
    ) -> None:
        """What the supply gives and the site draws; the dispatcher may shed work."""
        now_s = time.time()
        event = PowerChanged(
            at_s=now_s,
            available_kw=available_kw,
            drawn_kw=drawn_kw,
            cause=cause,
            draws=draws,
            idle=self.meter.idle(now_s),
        )
        self._handle(event)

    def see_targets(self, schedule: tuple[LoadTarget, ...]) -> None:
        """What the site is asked to draw at most, and when."""
        self._handle(LoadTargetsChanged(at_s=time.time(), schedule=schedule))

    async def act_on_clusters(self) -> None:
        """Say to clusters what was asked of their driver, and hear how it stands; takes as long as they take."""
        driver = self._drivers["kubernetes"]
        assert isinstance(driver, KubernetesDriver)
        await driver.sync()

    # --- what it shows

    @property
    def placement_version(self) -> tuple[int, int]:
        """Epoch and version of the placement in force."""
        assert self.dispatcher.belief is not None, "the fleet was loaded"
        return self.dispatcher.belief.placement_version

    @property
    def shed_level(self) -> int:
        """Steps in force of the order of shedding."""
        return self.dispatcher.at_site.shedding.level

    @property
    def shed_reasons(self) -> tuple[str, ...]:
        """The same for people."""
        return self.dispatcher.at_site.reasons

    def seated(self) -> tuple[EngineSpec, ...]:
        """Engines that are here, with the URL that each is reached under."""
        return tuple(self._specs.values())

    def slots_up(self) -> float:
        """Requests that living engines decode at once."""
        return float(sum(e.spec.slots for e in self._belief().values() if e.state == "up"))

    def serving(self) -> tuple[Placement, ...]:
        """Replicas that are up, as placements."""
        return serving_of(self.dispatcher.site, self._belief())

    def statuses(self) -> tuple[EngineStatus, ...]:
        """For people."""
        return tuple(self._status(engine) for engine in self._belief().values())

    def _status(self, engine: EngineBelief) -> EngineStatus:
        spec = self._specs.get(engine.spec.name, engine.spec)
        return EngineStatus(
            name=spec.name,
            service=spec.service,
            variant=spec.variant,
            state="failing" if fails(engine) else engine.state,
            pid=self._drivers[spec.driver].observe(spec).pid,
            restarts=self._restarts.get(spec.name, 0),
            cpu_w=self.meter.watts(spec.name),
            pool=spec.pool,
            attempts=engine.attempts,
            why=engine.why if engine.state != "up" else "",
            leaving=engine.leaving,
        )

    # --- events and actions

    def _handle(self, event: Event) -> None:
        seated = tuple(self._specs.values())
        for action in self.dispatcher.handle(event):
            self._act(action)
        if tuple(self._specs.values()) != seated:
            self._seat()

    def _act(self, action: Action) -> None:
        if isinstance(action, StartEngine):
            self._start(action.engine)
        elif isinstance(action, RestartEngine):
            self._restart(action.engine)
        elif isinstance(action, StopEngine):
            self._stop(action.engine)
        elif isinstance(action, MarkEngine):
            self._mark(action.engine, action.state)
        elif isinstance(action, Shed):
            self._page.flags[FLAG_POWER_CAUSE] = float(CAUSES.index(action.cause))
            self._page.flags[FLAG_POWER_SHED] = action.level
            log_line(f"sheds: {'; '.join(action.reasons)}")
        elif isinstance(action, Unshed):
            self._page.flags[FLAG_POWER_SHED] = 0
            log_line("sheds nothing any more")
        elif isinstance(action, CapPower):
            self.on_cap(action.limit_kw)
        elif isinstance(action, Log):
            log_line(action.text)

    def _start(self, spec: EngineSpec) -> None:
        if spec.name not in self._specs:
            self._specs[spec.name] = self._with_port(spec)
        spec = self._specs[spec.name]
        self._drivers[spec.driver].start(spec)
        self._started(spec, "started")

    def _restart(self, spec: EngineSpec) -> None:
        spec = self._specs[spec.name]
        if not self._drivers[spec.driver].observe(spec).pid:
            # What ended may have ended because another process has its port.
            spec = self._specs[spec.name] = self._with_port(spec)
        self._restarts[spec.name] = self._restarts.get(spec.name, 0) + 1
        if spec.driver == "kubernetes" and spec.name not in self._silent:
            self._drivers[spec.driver].start(spec)  # its pod came back, or another: nothing to end
        else:
            self._drivers[spec.driver].restart(spec)
        self._started(spec, "started again")

    def _started(self, spec: EngineSpec, how: str) -> None:
        log_line(f"engine {spec.name} ({spec.driver}) {how}{' at ' if spec.url else ''}{spec.url}")
        self._page.engines[spec.index, ENGINE_GENERATION] += 1
        now_s = time.time()
        self._loads_until_s[spec.name] = now_s + LOADING_S_MAX
        self._handle(EngineStarted(at_s=now_s, engine=spec.name))

    def _stop(self, spec: EngineSpec) -> None:
        known = self._specs[spec.name]
        self._drivers[known.driver].stop(known)
        log_line(f"engine {known.name} stopped")
        self.meter.forget(known)
        if spec.name not in self._belief():  # else it rests, and keeps its row
            del self._specs[spec.name]
            self._restarts.pop(spec.name, None)
            self._loads_until_s.pop(spec.name, None)
            self._silent.discard(spec.name)

    def _mark(self, spec: EngineSpec, state: str) -> None:
        self._alive_from.pop(spec.name, None)
        if state == "up":
            self._alive_from[spec.name] = self._seats.version
            self._flush_marks()
            self._drivers[spec.driver].keep(self._specs[spec.name])
            return
        self._page.engines[spec.index, ENGINE_STATE] = STATES[state]
        if state == "draining":
            self._drivers[spec.driver].drain(self._specs[spec.name])

    def _flush_marks(self) -> None:
        """Alive is said of a row once every living worker knows whose row it is."""
        workers = self._page.workers
        alive = workers[:, WORKER_ALIVE_AT_S] > time.time() - WORKER_SILENT_S
        known = float(workers[alive, WORKER_SEATS_VERSION].min()) if alive.any() else float("inf")
        for name, version in list(self._alive_from.items()):
            if version <= known:
                del self._alive_from[name]
                self._page.engines[self._specs[name].index, ENGINE_STATE] = ENGINE_ALIVE

    def _seat(self) -> None:
        """Tell the gateway workers who sits where."""
        reachable = tuple(spec for spec in self._specs.values() if spec.url)
        if reachable != self._seats.engines:
            self._seats = Seats(version=self._seats.version + 1, engines=reachable)
            write_seats(self._seats_path, self._seats)
        self._page.flags[FLAG_SEATS_VERSION] = self._seats.version

    def _observe(self, spec: EngineSpec) -> Seen:
        """Also takes note of an engine that is reached under another URL than before."""
        seen = self._drivers[spec.driver].observe(spec)
        if seen.url and seen.url != spec.url:
            self._specs[spec.name] = msgspec.structs.replace(spec, url=seen.url)
            self._page.engines[spec.index, ENGINE_GENERATION] += 1
            self._seat()
        return seen

    def _with_port(self, spec: EngineSpec) -> EngineSpec:
        """The planned ports first, in order; a process that runs beside more than were planned gets any that is free."""
        if spec.driver != "process":
            return spec
        driver = self._drivers["process"]
        assert isinstance(driver, ProcessDriver)
        if port := driver.port(spec):  # it runs, though no seats tell of it
            return msgspec.structs.replace(spec, url=f"http://127.0.0.1:{port}")
        others = (s for s in self._specs.values() if s.driver == "process" and s.name != spec.name)
        taken = {host_port(other)[1] for other in others}
        planned = [p for p in self._address.engine_ports if p not in taken]
        if spec.url:  # it had one: keep it where that is possible
            planned.insert(0, host_port(spec)[1])
        port = free_port("127.0.0.1", taken, self._rng, planned)
        return msgspec.structs.replace(spec, url=f"http://127.0.0.1:{port}")

    def _cpu_s(self, spec: EngineSpec) -> float:
        driver = self._drivers["process"]
        assert isinstance(driver, ProcessDriver)
        return driver.cpu_s(spec)

    def _belief(self) -> dict[str, EngineBelief]:
        assert self.dispatcher.belief is not None, "the fleet was loaded"
        return self.dispatcher.belief.engines

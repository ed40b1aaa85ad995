"""What a site does with its engines: the site's own Dispatcher, fed with what its agent would see.

Here: `Keeper`: probes every 250 ms while an engine is not well or a placement is not yet reached, and the Dispatcher's actions on the
simulated engines; `Berths`, which place in the arrays an engine has. Not here: the rules (`dispatch.site_scope`: three misses, back-off,
who comes before who goes), what a dying engine does to requests (`faults`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
from msgspec.structs import replace

from hanse.dispatch import actions as act
from hanse.dispatch import events as ev
from hanse.dispatch.belief import EngineSpec, FailingKey
from hanse.dispatch.choose import QUEUE_PER_SLOT_MAX
from hanse.dispatch.dispatcher import Dispatcher
from hanse.dispatch.failing import failing_of
from hanse.dispatch.rolling import serving_of
from hanse.model.fleet import Fleet, Placement
from hanse.serving.within_slo import LOAD_BYTES_PER_S, START_S
from hanse.twin import faults
from hanse.twin.arrays import DOWN, FROZEN
from hanse.twin.handle import Handle

PROBE_EVERY_S: Final = 0.25

Kind = tuple[str, str, str, str, int]
"""(site, service, variant, pool, chips): engines of one kind differ in their slots at most."""


def kind_of(spec: EngineSpec) -> Kind:
    """What must be equal for an engine to stand where another stood."""
    return spec.site, spec.service, spec.variant, spec.pool, spec.chips


class Berths:
    """Places of engines in the arrays, of which each holds one kind."""

    def __init__(self, specs: Sequence[EngineSpec]) -> None:
        """All engines that could ever be, in the order of the arrays."""
        self.specs = tuple(specs)
        self._free: dict[Kind, list[int]] = {}
        for number, spec in enumerate(specs):
            self._free.setdefault(kind_of(spec), []).append(number)

    def take(self, spec: EngineSpec) -> int | None:
        """The lowest free place for an engine; None: all are taken, so that it cannot start."""
        free = self._free.get(kind_of(spec), [])
        return free.pop(0) if free else None

    def give(self, number: int) -> None:
        """An engine is gone."""
        free = self._free[kind_of(self.specs[number])]
        free.append(number)
        free.sort()


class Keeper:
    """The agent of one site."""

    def __init__(
        self, fleet: Fleet, site: str, number: int, berths: Berths, handle: Handle, now_s: float
    ) -> None:
        """A site all of whose engines run."""
        self.site = site
        self._number = number
        self._berths = berths
        self._index: dict[str, int] = {}
        self._loading: dict[str, float] = {}
        """Engines that are being loaded, and when they will answer."""
        self._known_dead: set[str] = set()
        self.unable: tuple[str, ...] = ()
        """Services whose engines do not start here; `""`: all."""
        self._acted = False
        self._still_until_s = -math.inf
        self._watched: tuple[int, ...] = ()
        self._draining: tuple[int, ...] = ()
        """Places of engines that answered when last looked at, and of those that drain."""
        self._busy = False
        self._serving: tuple[Placement, ...] | None = None
        """Until the dispatcher is told anything; None: to be found."""
        self.wakes: Callable[[EngineSpec, float], float] | None = None
        """When an engine's server is on, where servers are switched off between."""
        self.dispatcher = Dispatcher("site", site=site)
        for action in self.dispatcher.handle(ev.FleetLoaded(at_s=now_s, fleet=fleet)):
            if isinstance(action, act.StartEngine):
                berth = berths.take(action.engine)
                assert berth is not None, "the arrays hold what the fleet file places"
                self._index[action.engine.name] = berth
        for name in self._index:
            self.dispatcher.handle(ev.EngineStarted(at_s=now_s, engine=name))
            self.dispatcher.handle(ev.EngineProbed(at_s=now_s, engine=name, answered=True))

    @property
    def busy(self) -> bool:
        """Whether any engine still had to come or to go when last looked at."""
        return self._busy

    def _waits(self, handle: Handle) -> bool:
        belief = self.dispatcher.belief
        assert belief is not None
        modes = handle.world.engines["mode"]
        return any(
            engine.leaving
            or name not in self._index
            or engine.state not in ("up", "resting")
            or (engine.state == "up" and modes[self._index[name]] in (FROZEN, DOWN))
            for name, engine in belief.engines.items()
        )

    def berths_used(self) -> list[int]:
        """Places of this site's engines in the arrays."""
        return list(self._index.values())

    def serving(self) -> tuple[Placement, ...]:
        """What is up here, as the agent reports it."""
        if self._serving is None:
            assert self.dispatcher.belief is not None
            self._serving = serving_of(self.site, self.dispatcher.belief.engines)
        return self._serving

    def failing(self) -> dict[FailingKey, str]:
        """What does not start here, as the agent reports it."""
        assert self.dispatcher.belief is not None
        return failing_of(self.dispatcher.belief.engines)

    def place(self, decided: ev.PlacementDecided, handle: Handle, now_s: float) -> None:
        """A placement reached the site."""
        self._still_until_s = -math.inf
        self._tell(replace(decided, at_s=now_s), handle, now_s)

    def tick(self, handle: Handle, now_s: float) -> None:
        """One round of probes; none where the last found nothing to do and nothing has come since."""
        if self._still(handle, now_s):
            return
        self._acted = False
        self._round(handle, now_s)
        self._still_until_s = -math.inf if self._acted else self._next_s()
        self._busy = self._waits(handle)
        self._watched = tuple(e for name, e in self._index.items() if name not in self._loading)
        self._draining = tuple(e for name, e in self._index.items() if self._drains(name))

    def _still(self, handle: Handle, now_s: float) -> bool:
        """Whether a round would tell the dispatcher what it knows: engines answer as before, none is empty or ready, no time is over."""
        if now_s >= self._still_until_s:
            return False
        engines = handle.world.engines
        modes = engines["mode"]
        return not (
            any(modes[e] in (FROZEN, DOWN) for e in self._watched)
            or any(_empty(engines[e]) for e in self._draining)
        )

    def _next_s(self) -> float:
        """When time alone changes something."""
        belief = self.dispatcher.belief
        assert belief is not None
        return min([self.dispatcher.at_site.due_s(belief), *self._loading.values()])

    def _round(self, handle: Handle, now_s: float) -> None:
        modes = handle.world.engines["mode"]
        for name, e in list(self._index.items()):
            if self._index.get(name) != e:
                continue  # gone meanwhile
            ready_at_s = self._loading.get(name)
            if ready_at_s is not None:
                if now_s < ready_at_s:
                    continue
                del self._loading[name]
                if self._berths.specs[e].service in self.unable or "" in self.unable:
                    died = ev.EngineDied(at_s=now_s, engine=name, why="it does not start")
                    self._tell(died, handle, now_s)
                    continue
                self._known_dead.discard(name)
                faults.start_engine(handle, e, now_s)
                self._tell(ev.EngineStarted(at_s=now_s, engine=name), handle, now_s)
            mode = int(modes[e])
            if mode == DOWN and name not in self._known_dead:
                self._known_dead.add(name)
                self._tell(
                    ev.EngineDied(at_s=now_s, engine=name, why="process ended"), handle, now_s
                )
            else:
                answered = mode not in (FROZEN, DOWN)
                self._tell(
                    ev.EngineProbed(at_s=now_s, engine=name, answered=answered), handle, now_s
                )
                if self._drained(handle, name):
                    self._tell(ev.EngineEmptied(at_s=now_s, engine=name), handle, now_s)
        self._tell(ev.Ticked(at_s=now_s), handle, now_s)

    def _drained(self, handle: Handle, name: str) -> bool:
        return self._drains(name) and _empty(handle.world.engines[self._index[name]])

    def _drains(self, name: str) -> bool:
        assert self.dispatcher.belief is not None
        engine = self.dispatcher.belief.engines.get(name)
        return engine is not None and engine.state == "draining"

    def _tell(self, event: ev.Event, handle: Handle, now_s: float) -> None:
        self._serving = None
        self._act(self.dispatcher.handle(event), handle, now_s)

    def _act(self, actions: list[act.Action], handle: Handle, now_s: float) -> None:
        world = handle.world
        self._acted = self._acted or bool(actions)
        for action in actions:
            if isinstance(action, act.MarkEngine):
                e = self._index.get(action.engine.name)
                if e is not None:
                    world.engine_state[e] = int(action.state == "up")
            elif isinstance(action, act.StartEngine | act.RestartEngine):
                self._start(action.engine, handle, now_s)
            elif isinstance(action, act.StopEngine):
                self._stop(action.engine, handle, now_s)

    def _start(self, spec: EngineSpec, handle: Handle, now_s: float) -> None:
        """Its weights are read; an engine that is restarted loses what it had."""
        e = self._index.get(spec.name)
        if e is None:
            e = self._berths.take(spec)
            if e is None:
                return  # never answers: found dead, tried again, told to the league
            self._index[spec.name] = e
        faults.kill_engine(handle, e, now_s, True)
        _set_up(handle, e, spec)
        self._known_dead.add(spec.name)
        load_s = float(handle.world.engines[e]["weights_bytes"]) / LOAD_BYTES_PER_S
        awake_s = now_s if self.wakes is None else self.wakes(spec, now_s)
        self._loading[spec.name] = awake_s + START_S + load_s

    def _stop(self, spec: EngineSpec, handle: Handle, now_s: float) -> None:
        e = self._index.pop(spec.name, None)
        if e is None:
            return
        faults.kill_engine(handle, e, now_s, True)
        handle.world.engine_state[e] = 0
        self._loading.pop(spec.name, None)
        self._known_dead.discard(spec.name)
        self._berths.give(e)


def _empty(row: np.void) -> bool:
    """Whether nothing runs or waits at an engine."""
    return int(row["running"]) == 0 and int(row["queue_head"]) < 0


def _set_up(handle: Handle, e: int, spec: EngineSpec) -> None:
    """What a start may change: slots, and memory set aside for them."""
    world = handle.world
    row = world.engines[e]
    held = int(min(spec.context_tokens, row["kv_tokens_max"]))
    row["slots"], row["kv_max"] = min(spec.slots, world.running.shape[1]), held
    world.engine_requests_max[e] = QUEUE_PER_SLOT_MAX * spec.slots
    world.engine_tokens_max[e] = QUEUE_PER_SLOT_MAX * held

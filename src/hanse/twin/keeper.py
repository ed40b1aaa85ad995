"""How a site brings its engines back: the site's own Dispatcher, fed with what its agent would see.

Here: `Keeper`: probes every 250 ms while an engine is not well, and the Dispatcher's actions on the simulated engines. Not here: the
rules (`dispatch.dispatcher`: three misses, back-off), what a dying engine does to requests (`faults`).
"""

from __future__ import annotations

from typing import Final

from hanse.dispatch import actions as act
from hanse.dispatch import events as ev
from hanse.dispatch.dispatcher import Dispatcher
from hanse.model.fleet import Fleet
from hanse.twin import faults
from hanse.twin.arrays import DOWN, FROZEN
from hanse.twin.handle import Handle

PROBE_EVERY_S: Final = 0.25
LOAD_BYTES_PER_S: Final = 2e9
"""Weights from a local NVMe disk into accelerator memory; 1 to 3 GB/s are usual, and engines add set-up of their own."""
START_S: Final = 5.0
"""Process start and warm-up of an inference server beside reading its weights."""


class Keeper:
    """The agent of one site."""

    def __init__(self, fleet: Fleet, site: str, number: int, handle: Handle, now_s: float) -> None:
        self._first = int(handle.world.engine_first[number])
        self._loading: dict[str, float] = {}
        """Engines that are being loaded, and when they will answer."""
        self.dispatcher = Dispatcher("site", site=site)
        self.dispatcher.handle(ev.FleetLoaded(at_s=now_s, fleet=fleet))
        assert self.dispatcher.belief is not None
        self._index = {
            name: self._first + engine.spec.index
            for name, engine in self.dispatcher.belief.engines.items()
        }
        for name in self._index:  # before the fault all of them ran
            self.dispatcher.handle(ev.EngineStarted(at_s=now_s, engine=name))
            self.dispatcher.handle(ev.EngineProbed(at_s=now_s, engine=name, answered=True))
        self._known_dead: set[str] = set()

    def busy(self, handle: Handle) -> bool:
        """Whether any engine still has to come back."""
        belief = self.dispatcher.belief
        assert belief is not None
        modes = handle.world.engines["mode"]
        return any(
            belief.engines[name].state != "up" or modes[e] in (FROZEN, DOWN)
            for name, e in self._index.items()
        )

    def tick(self, handle: Handle, now_s: float) -> None:
        """One round of probes."""
        modes = handle.world.engines["mode"]
        for name, e in self._index.items():
            ready_at_s = self._loading.get(name)
            if ready_at_s is not None:
                if now_s < ready_at_s:
                    continue
                del self._loading[name]
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
        self._tell(ev.Ticked(at_s=now_s), handle, now_s)

    def _tell(self, event: ev.Event, handle: Handle, now_s: float) -> None:
        self._act(self.dispatcher.handle(event), handle, now_s)

    def _act(self, actions: list[act.Action], handle: Handle, now_s: float) -> None:
        world = handle.world
        for action in actions:
            if isinstance(action, act.MarkEngine):
                world.engine_state[self._first + action.engine.index] = int(action.state == "up")
            elif isinstance(action, act.RestartEngine):
                e = self._first + action.engine.index
                faults.kill_engine(handle, e, now_s, True)
                self._known_dead.discard(action.engine.name)
                self._known_dead.add(action.engine.name)
                load_s = float(world.engines[e]["weights_bytes"]) / LOAD_BYTES_PER_S
                self._loading[action.engine.name] = now_s + START_S + load_s

"""What a site decides for itself: its engines' lives, its way to a new placement, what it gives up when power runs short.

Here: `SiteScope`, the site half of `Dispatcher`. Not here: which steps a change of placement takes (`rolling`), the order of
shedding (`shed`), doing any of it (`live`, `twin`).

An engine lives through

    starting --probe answered--> up --3 misses or died--> dead --tick after back-off--> starting
    up --placed no more--> draining --empty, or its limit--> (stopped, gone)
    up --idle in a brownout--> draining --empty--> resting --power is back--> starting

A site needs nobody's answer for any of it. Whatever must wait is looked at again with every event of an engine and every tick.
"""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from hanse.dispatch import actions as act
from hanse.dispatch import events as ev
from hanse.dispatch.actions import Action
from hanse.dispatch.belief import Belief, EngineBelief, EngineSpec, engines_of
from hanse.dispatch.load_targets import LoadTarget, in_force, next_cap
from hanse.dispatch.rolling import (
    DRAIN_SLACK_S,
    next_steps,
    number_of,
    one_workload,
    placement_problem,
    sort_out,
)
from hanse.dispatch.shed import NOTHING_SHED, Shedding, ShedStep, shed, shed_reasons, shed_steps
from hanse.model.fleet import Site

PROBE_MISSES_MAX: Final = 3
"""Of probes 250 ms apart: 0.75 s tells a stall from a death."""
START_S_MAX: Final = 300.0
"""A starting engine that answers no probe for so long is dead; 140 GB of weights take more than a minute to read."""
EXTERNAL_START_S_MAX: Final = 10.0
"""One that somebody else runs loads no weights for us: it answers, or it is not there."""
BACK_OFF_S_MIN: Final = 1.0
BACK_OFF_S_MAX: Final = 60.0
RAN_WELL_S: Final = 60.0
"""After so long up, the next death counts as the first."""
DRAIN_SEEN_S: Final = 0.5
"""An engine is empty for good only so long after it was marked: gateway workers look every 20 ms and may be late."""


class SiteScope:
    """One site's own decisions; `handle` is called with the belief and the epoch that the site obeys."""

    def __init__(self, site: str) -> None:
        self.site = site
        self.shedding: Shedding = NOTHING_SHED
        self.schedule: tuple[LoadTarget, ...] = ()
        self._cap_kw: float | None = None
        """What devices are held to."""
        self._epoch = 0
        self._drain_s: dict[str, float] = {}
        self._steps: tuple[ShedStep, ...] = ()
        self._wanted: tuple[EngineSpec, ...] = ()

    def load(self, belief: Belief, event: ev.FleetLoaded, epoch: int) -> list[Action]:
        """A fleet, and what an earlier agent left running."""
        self._epoch = epoch
        self._steps = shed_steps(belief.fleet.classes)
        self._drain_s = {s.id: s.slo.deadline_s + DRAIN_SLACK_S for s in belief.fleet.services}
        for spec in event.engines_known:
            if spec.name not in belief.engines:
                belief.engines[spec.name] = EngineBelief(
                    spec=spec, since_s=event.at_s, adopted=True
                )
        # What is there runs, or is started again where it does not: only then can it answer a probe, or be found dead.
        done: list[Action] = [
            act.StartEngine(epoch=epoch, engine=spec) for spec in event.engines_known
        ]
        return done + self._work_towards(belief, event.at_s)

    def handle(self, belief: Belief, event: ev.Event, epoch: int) -> list[Action]:
        """Take note of an event; what is to be done about it, in order."""
        self._epoch = epoch
        if isinstance(event, ev.Ticked):
            return self._tick(belief, event.at_s) + self._roll(belief, event.at_s)
        if isinstance(event, ev.PlacementDecided):
            return self._place(belief, event)
        if isinstance(event, ev.PowerChanged):
            return self._power(belief, event)
        if isinstance(event, ev.LoadTargetsChanged):
            self.schedule = event.schedule
            return []  # the next look at the power, half a second away, acts on it
        if isinstance(event, ev.DrainRequested):
            return self._drain(belief, event) if event.site == self.site else []
        if isinstance(event, ev.EngineStarted | ev.EngineProbed | ev.EngineDied | ev.EngineEmptied):
            engine = belief.engines.get(event.engine)
            if engine is None:
                return []  # a late word of an engine that is placed here no more
            done = self._engine(belief, engine, event)
            return done + self._roll(belief, event.at_s) if done else []
        return []

    @property
    def reasons(self) -> tuple[str, ...]:
        """What is given up and why, for people."""
        return shed_reasons(self._steps, self.shedding)

    def due_s(self, belief: Belief) -> float:
        """The first instant at which time alone gives something to do: a start takes too long, a drain is over, a restart is due."""
        due = [float("inf")]
        for engine in belief.engines.values():
            if engine.state == "starting":
                due.append(engine.since_s + _start_s_max(engine))
            elif engine.state == "draining" and engine.leaving:
                due.append(engine.since_s + self._drain_s.get(engine.spec.service, 0.0))
            elif engine.state == "dead":
                due.append(engine.restart_at_s)
        return min(due)

    # --- placement

    def _place(self, belief: Belief, event: ev.PlacementDecided) -> list[Action]:
        version = event.epoch, event.version
        if version < belief.placement_version:
            return [
                self._log("warning", f"placement {version}: {belief.placement_version} is known")
            ]
        problem = placement_problem(belief.fleet, self._at(belief), event.placements)
        if problem:
            text = f"placement {version} from {event.source}: {problem}; what runs goes on"
            return [self._log("warning", text)]
        belief.placement_version = version
        belief.placements, belief.floors = event.placements, event.floors
        return self._work_towards(belief, event.at_s)

    def _work_towards(self, belief: Belief, now_s: float) -> list[Action]:
        """Mark who stays and who leaves; an engine that is wanted again stays as if nothing had been."""
        self._wanted = engines_of(belief.fleet, belief.placements, self.site)
        stay, _ = sort_out(belief.engines, self._wanted)
        done: list[Action] = []
        for name, engine in belief.engines.items():
            if engine.leaving and name in stay and engine.state == "draining":
                done.append(self._mark(belief, engine, now_s))
            engine.leaving = name not in stay
        return done + self._roll(belief, now_s)

    def _roll(self, belief: Belief, now_s: float) -> list[Action]:
        floors = {f.service: f.replicas_min for f in belief.floors if f.site == self.site}
        done: list[Action] = []
        for step in next_steps(
            self._at(belief), belief.engines, self._wanted, floors, now_s, self._drain_s
        ):
            if step.kind == "start":
                done.append(self._start(belief, step.engine, now_s))
            elif step.kind == "drain":
                done.append(self._empty(belief.engines[step.engine.name], now_s))
            else:
                done += self._stop(belief, step.engine)
        return done

    def _start(self, belief: Belief, spec: EngineSpec, now_s: float) -> Action:
        """Under the first name and in the first row that are free."""
        stem = f"{spec.service}-{spec.variant}"
        # Replicas of a workload stay in the order of their numbers (`live.kubernetes`): a new one is its last.
        first = 1 + max(
            (number_of(e.spec) for e in belief.engines.values() if one_workload(e.spec, spec)),
            default=-1,
        )
        number = next(n for n in range(first, 10_000) if f"{stem}-{n}" not in belief.engines)
        rows = {engine.spec.index for engine in belief.engines.values()}
        row = next(r for r in range(10_000) if r not in rows)
        spec = msgspec.structs.replace(spec, name=f"{stem}-{number}", index=row)
        belief.engines[spec.name] = EngineBelief(spec=spec, since_s=now_s)
        return act.StartEngine(epoch=self._epoch, engine=spec)

    def _empty(self, engine: EngineBelief, now_s: float) -> Action:
        engine.state, engine.since_s, engine.emptied = "draining", now_s, False
        return act.MarkEngine(epoch=self._epoch, engine=engine.spec, state="draining")

    def _stop(self, belief: Belief, spec: EngineSpec) -> list[Action]:
        del belief.engines[spec.name]
        return [
            act.MarkEngine(epoch=self._epoch, engine=spec, state="dead"),
            act.StopEngine(epoch=self._epoch, engine=spec),
        ]

    def _mark(self, belief: Belief, engine: EngineBelief, now_s: float) -> Action:
        """An engine that answers, as good as the site lets it be."""
        drained = belief.sites[self.site].drained
        state: Literal["up", "draining"] = "draining" if drained else "up"
        engine.state, engine.since_s, engine.emptied, engine.rests = state, now_s, False, False
        return act.MarkEngine(epoch=self._epoch, engine=engine.spec, state=state)

    def _at(self, belief: Belief) -> Site:
        return next(site for site in belief.fleet.sites if site.id == self.site)

    # --- an engine's life

    def _engine(
        self,
        belief: Belief,
        engine: EngineBelief,
        event: ev.EngineStarted | ev.EngineProbed | ev.EngineDied | ev.EngineEmptied,
    ) -> list[Action]:
        if isinstance(event, ev.EngineStarted):
            if engine.state == "starting":
                engine.since_s = event.at_s  # its time to answer begins now
            return []
        if engine.state == "resting":
            return []
        if isinstance(event, ev.EngineEmptied):
            return self._emptied(engine, event.at_s)
        if isinstance(event, ev.EngineDied):
            return self._bury(engine, event.at_s, event.why or "process ended")
        if event.answered:
            engine.misses = 0
            return [self._mark(belief, engine, event.at_s)] if engine.state == "starting" else []
        if engine.state in ("up", "draining"):
            engine.misses += 1
            if engine.misses >= PROBE_MISSES_MAX:
                return self._bury(engine, event.at_s, f"{engine.misses} probes unanswered")
        return []

    def _emptied(self, engine: EngineBelief, now_s: float) -> list[Action]:
        if engine.state != "draining" or now_s - engine.since_s < DRAIN_SEEN_S:
            return []
        first, engine.emptied = not engine.emptied, True
        if engine.rests and not engine.leaving:
            engine.state, engine.since_s = "resting", now_s
            engine.attempts = 0  # it ran: what it died of before says nothing of its next start
            return [
                act.MarkEngine(epoch=self._epoch, engine=engine.spec, state="dead"),
                act.StopEngine(epoch=self._epoch, engine=engine.spec),
            ]
        return [self._log("info", f"engine {engine.spec.name}: empty")] if first else []

    def _bury(self, engine: EngineBelief, now_s: float, why: str) -> list[Action]:
        if engine.state == "dead":
            return []
        ran_well = engine.state != "starting" and now_s - engine.since_s >= RAN_WELL_S
        engine.attempts = 1 if ran_well else engine.attempts + 1
        wait_s = min(BACK_OFF_S_MAX, BACK_OFF_S_MIN * 2.0 ** min(engine.attempts - 1, 30))
        engine.state, engine.since_s, engine.misses = "dead", now_s, 0
        engine.restart_at_s, engine.why, engine.rests = now_s + wait_s, why, False
        text = f"engine {engine.spec.name}: {why}; restart in {wait_s:.0f} s"
        return [
            act.MarkEngine(epoch=self._epoch, engine=engine.spec, state="dead"),
            self._log("warning", text),
        ]

    def _tick(self, belief: Belief, now_s: float) -> list[Action]:
        done: list[Action] = []
        for engine in belief.engines.values():
            limit_s = _start_s_max(engine)
            if engine.state == "starting" and now_s - engine.since_s > limit_s:
                done += self._bury(engine, now_s, f"no answer {limit_s:.0f} s after its start")
            if engine.state == "dead" and now_s >= engine.restart_at_s and not engine.leaving:
                engine.state, engine.since_s = "starting", now_s
                engine.restart_at_s = float("inf")
                engine.adopted = False
                done.append(
                    act.RestartEngine(
                        epoch=self._epoch, engine=engine.spec, attempt=engine.attempts
                    )
                )
        return done

    def _drain(self, belief: Belief, event: ev.DrainRequested) -> list[Action]:
        belief.sites[self.site].drained = event.drained
        done: list[Action] = []
        for engine in belief.engines.values():
            drains = event.drained or engine.leaving or engine.rests
            state: Literal["up", "draining"] = "draining" if drains else "up"
            if engine.state in ("up", "draining") and engine.state != state:
                engine.state, engine.since_s, engine.emptied = state, event.at_s, False
                done.append(act.MarkEngine(epoch=self._epoch, engine=engine.spec, state=state))
        return done

    # --- power

    def _power(self, belief: Belief, event: ev.PowerChanged) -> list[Action]:
        before = self.shedding
        target = in_force(self.schedule, event.at_s)
        binds = target is not None and target.limit_kw < event.available_kw
        available_kw = target.limit_kw if target and binds else event.available_kw
        self.shedding = shed(
            self._steps,
            before,
            event.at_s,
            available_kw=available_kw,
            drawn_kw=event.drawn_kw,
            cause="load target" if binds else event.cause,
            draws=event.draws,
            supply_kw=event.available_kw,
            strict=binds and target is not None and not target.best_effort,
        )
        now = self.shedding
        done = self._cap(available_kw if binds or now.level else None)
        if now.level == 0 and before.level:
            done.append(act.Unshed(epoch=self._epoch))
        elif (now.level, now.cause) != (before.level, before.cause):
            done.append(
                act.Shed(epoch=self._epoch, level=now.level, cause=now.cause, reasons=self.reasons)
            )
        if any(step.work == "idle" for step in self._steps[: now.level]):
            return done + self._rest(belief, event.idle, event.at_s)
        return done + self._wake(belief, event.at_s)

    def _cap(self, bound_kw: float | None) -> list[Action]:
        """Devices are held to what binds the site, beside the work that is given up: a bound that no burst breaks."""
        cap_kw = next_cap(self._cap_kw, bound_kw)
        if cap_kw == self._cap_kw:
            return []
        self._cap_kw = cap_kw
        return [act.CapPower(epoch=self._epoch, limit_kw=cap_kw)]

    def _rest(self, belief: Belief, idle: tuple[str, ...], now_s: float) -> list[Action]:
        """Idle engines drain, then are stopped; one of each service stays, for the classes that are still served."""
        done: list[Action] = []
        for name in reversed(idle):
            engine = belief.engines.get(name)
            if engine is None or engine.state != "up" or engine.leaving:
                continue
            if any(
                one_workload(e.spec, engine.spec)
                and number_of(e.spec) > number_of(engine.spec)
                and e.state != "resting"
                for e in belief.engines.values()
            ):
                continue  # a workload is cut from its end, whatever runs there
            service = engine.spec.service
            up = [
                e for e in belief.engines.values() if e.state == "up" and e.spec.service == service
            ]
            floors = [
                f.replicas_min for f in belief.floors if (f.site, f.service) == (self.site, service)
            ]
            if len(up) > max([1, *floors]):
                engine.rests = True
                done.append(self._empty(engine, now_s))
        return done

    def _wake(self, belief: Belief, now_s: float) -> list[Action]:
        done: list[Action] = []
        for engine in belief.engines.values():
            if engine.rests and engine.state == "draining":
                done.append(self._mark(belief, engine, now_s))
            elif engine.state == "resting":
                engine.state, engine.since_s, engine.rests = "starting", now_s, False
                done.append(act.StartEngine(epoch=self._epoch, engine=engine.spec))
        return done

    def _log(self, level: Literal["info", "warning"], text: str) -> act.Log:
        return act.Log(epoch=self._epoch, level=level, text=text)


def _start_s_max(engine: EngineBelief) -> float:
    return EXTERNAL_START_S_MAX if engine.spec.driver == "external" else START_S_MAX

"""Events in, actions out: the slow path of the decision core, at the scope of a fleet or of one site.

Here: `Dispatcher`. Not here: routing one request (`choose`), solving for a placement, doing what actions say.

Theory of operation. `handle` is the one door to the belief, and the event's instant is the only clock. At `fleet`
scope whatever changes the belief marks the table stale; a tick publishes a stale table, at most every
`PUBLISH_EVERY_S`, and a fresh one early enough that it never expires. At `site` scope engines live through

    starting --probe answered--> up --3 misses or died--> dead --tick after back-off--> starting

and power moves the shed level. A site needs nobody's answer for either. Fleet wins on placement, site on power and
health. Anything that must wait is done by a tick, so the order of events within one instant does not matter.
"""

from __future__ import annotations

from typing import Final, Literal

from hanse.dispatch import actions as act
from hanse.dispatch import events as ev
from hanse.dispatch.actions import Action
from hanse.dispatch.belief import Belief, EngineBelief, engines_of, site_defaults
from hanse.dispatch.build import build_table, known_offers, possible_offers
from hanse.dispatch.events import Event
from hanse.dispatch.law import compile_law
from hanse.dispatch.table import Table

Scope = Literal["fleet", "site"]

PUBLISH_EVERY_S: Final = 0.5
"""A person sees a change within a second; a thousand sites get at most two tables a second."""
REPUBLISH_SHARE: Final = 0.5
"""Of a table's validity: a day's table is renewed twice a day, so a cut of half a day expires nothing."""
SIGNAL_CHANGE_MIN: Final = 0.01
"""Relative; smaller changes of price, carbon and PUE are below what the figures are good for."""
PROBE_MISSES_MAX: Final = 3
"""Of probes 250 ms apart: 0.75 s tells a stall from a death."""
START_S_MAX: Final = 300.0
"""A starting engine that answers no probe for so long is dead; 140 GB of weights take more than a minute to read."""
BACK_OFF_S_MIN: Final = 1.0
BACK_OFF_S_MAX: Final = 60.0
RAN_WELL_S: Final = 60.0
"""After so long up, the next death counts as the first."""
UNSHED_SHARE: Final = 0.9
"""Work comes back only below this share of the available power, else it would flap."""
SHED_ALL_SHARE: Final = 1.1
"""Above this share of the available power even local work is refused; between 1 and this, work of other sites."""


class Dispatcher:
    """Decides what to publish, start, restart and shed. Deterministic: same events, same actions."""

    def __init__(self, scope: Scope, *, site: str = "") -> None:
        assert (scope == "site") == bool(site), "site scope needs a site, fleet scope has none"
        self.scope: Scope = scope
        self.site = site
        self.belief: Belief | None = None
        self.table: Table | None = None
        self.stale = False
        self.published_at_s = float("-inf")
        self.shed_level = 0
        self._epoch = 0

    @property
    def epoch(self) -> int:
        """Under which this dispatcher acts, or the highest it has obeyed."""
        return self._epoch

    def handle(self, event: Event) -> list[Action]:
        """Take note of an event; what is to be done about it, in order."""
        if isinstance(event, ev.FleetLoaded):
            return self._load(event)
        if isinstance(event, ev.EpochGranted):
            return self._grant(event)
        if self.belief is None:
            return [self._log("warning", f"{type(event).__name__} before any fleet: ignored")]
        if isinstance(event, ev.PlacementDecided | ev.DrainRequested) and self._outdated(event):
            return [self._log("warning", f"{type(event).__name__} of epoch {event.epoch}: refused")]
        if self.scope == "fleet":
            return self._handle_fleet(self.belief, event)
        return self._handle_site(self.belief, event)

    # --- both scopes

    def _load(self, event: ev.FleetLoaded) -> list[Action]:
        fleet = event.fleet
        old = self.belief
        same_fleet = old is not None and old.fleet.name == fleet.name
        known = list(event.offers_known) or (old.offer_keys if old and same_fleet else [])
        # Indices of what is gone mean nothing any more; gateways notice and count anew.
        known = known if set(known) <= possible_offers(fleet) else []
        law = compile_law(fleet, event.policies, event.at_s)
        sites = {s.id: site_defaults(s) for s in fleet.sites}
        if old is not None:
            sites |= {name: known_site for name, known_site in old.sites.items() if name in sites}
        self.belief = Belief(
            fleet=fleet,
            policies=event.policies,
            law=law,
            law_at_s=event.at_s,
            placements=fleet.placements,
            digests=dict(event.digests),
            sites=sites,
            offer_keys=known_offers(known, fleet, fleet.placements),
            epoch=self._epoch,
            version=max(event.version_known, old.version if old else 0),
            engines=old.engines if old else {},
        )
        self.stale = True
        done: list[Action] = [self._log("warning", str(problem)) for problem in law.problems]
        if self.scope == "site":
            done += self._place(self.belief, event.at_s)
        return done

    def _grant(self, event: ev.EpochGranted) -> list[Action]:
        if event.epoch <= self._epoch:
            return []
        self._epoch = event.epoch
        if self.belief is not None:
            self.belief.epoch = event.epoch
            self.stale = True
        return []

    def _outdated(self, event: ev.PlacementDecided | ev.DrainRequested) -> bool:
        """A site obeys no epoch lower than the highest it has seen."""
        if self.scope == "fleet":
            return False
        if event.epoch < self._epoch:
            return True
        self._epoch = event.epoch
        return False

    def _log(self, level: Literal["info", "warning"], text: str) -> act.Log:
        return act.Log(epoch=self._epoch, level=level, text=text)

    # --- fleet scope

    def _handle_fleet(self, belief: Belief, event: Event) -> list[Action]:
        if isinstance(event, ev.Ticked):
            return self._publish(belief, event.at_s)
        if isinstance(event, ev.PlacementDecided):
            if event.placements != belief.placements:
                belief.placements = event.placements
                known = belief.offer_keys
                belief.offer_keys = known_offers(known, belief.fleet, event.placements)
                self.stale = True
            return []
        if isinstance(event, ev.KeysChanged):
            self.stale |= event.digests != belief.digests
            belief.digests = dict(event.digests)
            return []
        if isinstance(event, ev.SignalsObserved | ev.SiteHeard | ev.SiteLost | ev.DrainRequested):
            return self._hear(belief, event)
        return [self._log("warning", f"{type(event).__name__} at fleet scope: ignored")]

    def _hear(
        self,
        belief: Belief,
        event: ev.SignalsObserved | ev.SiteHeard | ev.SiteLost | ev.DrainRequested,
    ) -> list[Action]:
        site = belief.sites.get(event.site)
        if site is None:
            return [self._log("warning", f"{type(event).__name__} of unknown site {event.site}")]
        if isinstance(event, ev.SignalsObserved):
            for name in ("pue", "carbon_g_per_kwh", "price_usd_per_kwh"):
                new, old = getattr(event, name), getattr(site, name)
                if abs(new - old) > SIGNAL_CHANGE_MIN * abs(old):
                    setattr(site, name, new)
                    self.stale = True
            return []
        if isinstance(event, ev.DrainRequested):
            self.stale |= site.drained != event.drained
            site.drained = event.drained
            return []
        was_up, site.up = site.up, isinstance(event, ev.SiteHeard)
        if isinstance(event, ev.SiteLost):
            return [self._log("warning", f"site {event.site} is silent")] if was_up else []
        site.heard_at_s = max(site.heard_at_s, event.at_s)
        site.table_version, site.shed_level = event.table_version, event.shed_level
        if event.epoch > self._epoch:
            return [act.StepDown(epoch=self._epoch, epoch_seen=event.epoch)]
        return [] if was_up else [self._log("info", f"site {event.site} reports")]

    def _publish(self, belief: Belief, now_s: float) -> list[Action]:
        renew_s = REPUBLISH_SHARE * belief.fleet.policy.valid_s
        if now_s - self.published_at_s >= renew_s:
            self.stale = True
        if not self.stale or now_s - self.published_at_s < PUBLISH_EVERY_S:
            return []
        if now_s - belief.law_at_s >= renew_s:
            # Decisions end by themselves; law is compiled for an instant and is never older than half a table.
            belief.law = compile_law(belief.fleet, belief.policies, now_s)
            belief.law_at_s = now_s
        belief.version += 1
        self.table = build_table(belief, now_s)
        self.stale = False
        self.published_at_s = now_s
        content = self.table.to_bytes()
        return [act.PublishTable(epoch=self._epoch, version=belief.version, content=content)]

    # --- site scope

    def _handle_site(self, belief: Belief, event: Event) -> list[Action]:
        if isinstance(event, ev.Ticked):
            return self._tick_engines(belief, event.at_s)
        if isinstance(event, ev.PlacementDecided):
            belief.placements = event.placements
            return self._place(belief, event.at_s)
        if isinstance(event, ev.PowerChanged):
            return self._power(event)
        if isinstance(event, ev.DrainRequested):
            return self._drain(belief, event) if event.site == self.site else []
        if isinstance(event, ev.EngineStarted | ev.EngineProbed | ev.EngineDied):
            engine = belief.engines.get(event.engine)
            if engine is None:
                return []  # a late word of an engine that is placed here no more
            return self._engine(engine, event)
        return []

    def _place(self, belief: Belief, now_s: float) -> list[Action]:
        wanted = {s.name: s for s in engines_of(belief.fleet, belief.placements, self.site)}
        done: list[Action] = []
        for name, engine in list(belief.engines.items()):
            if wanted.get(name) != engine.spec:
                done.append(act.MarkEngine(epoch=self._epoch, engine=engine.spec, state="dead"))
                done.append(act.StopEngine(epoch=self._epoch, engine=engine.spec))
                del belief.engines[name]
        for name, spec in wanted.items():
            if name not in belief.engines:
                belief.engines[name] = EngineBelief(spec=spec, since_s=now_s)
                done.append(act.StartEngine(epoch=self._epoch, engine=spec))
        return done

    def _engine(
        self, engine: EngineBelief, event: ev.EngineStarted | ev.EngineProbed | ev.EngineDied
    ) -> list[Action]:
        if isinstance(event, ev.EngineStarted):
            if engine.state == "starting":
                engine.since_s = event.at_s  # its time to answer begins now
            return []
        if isinstance(event, ev.EngineDied):
            return self._bury(engine, event.at_s, event.why or "process ended")
        if event.answered:
            engine.misses = 0
            if engine.state != "starting":
                return []
            state: Literal["up", "draining"] = "draining" if self._drained() else "up"
            engine.state, engine.since_s = state, event.at_s
            return [act.MarkEngine(epoch=self._epoch, engine=engine.spec, state=state)]
        if engine.state in ("up", "draining"):
            engine.misses += 1
            if engine.misses >= PROBE_MISSES_MAX:
                return self._bury(engine, event.at_s, f"{engine.misses} probes unanswered")
        return []

    def _bury(self, engine: EngineBelief, now_s: float, why: str) -> list[Action]:
        if engine.state == "dead":
            return []
        ran_well = engine.state != "starting" and now_s - engine.since_s >= RAN_WELL_S
        engine.attempts = 1 if ran_well else engine.attempts + 1
        wait_s = min(BACK_OFF_S_MAX, BACK_OFF_S_MIN * 2.0 ** min(engine.attempts - 1, 30))
        engine.state, engine.since_s, engine.misses = "dead", now_s, 0
        engine.restart_at_s = now_s + wait_s
        text = f"engine {engine.spec.name}: {why}; restart in {wait_s:.0f} s"
        return [
            act.MarkEngine(epoch=self._epoch, engine=engine.spec, state="dead"),
            self._log("warning", text),
        ]

    def _tick_engines(self, belief: Belief, now_s: float) -> list[Action]:
        done: list[Action] = []
        for engine in belief.engines.values():
            if engine.state == "starting" and now_s - engine.since_s > START_S_MAX:
                done += self._bury(engine, now_s, f"no answer {START_S_MAX:.0f} s after its start")
            if engine.state == "dead" and now_s >= engine.restart_at_s:
                engine.state, engine.since_s = "starting", now_s
                engine.restart_at_s = float("inf")
                done.append(
                    act.RestartEngine(
                        epoch=self._epoch, engine=engine.spec, attempt=engine.attempts
                    )
                )
        return done

    def _drained(self) -> bool:
        assert self.belief is not None
        return self.belief.sites[self.site].drained

    def _drain(self, belief: Belief, event: ev.DrainRequested) -> list[Action]:
        belief.sites[self.site].drained = event.drained
        state: Literal["up", "draining"] = "draining" if event.drained else "up"
        done: list[Action] = []
        for engine in belief.engines.values():
            if engine.state in ("up", "draining") and engine.state != state:
                engine.state = state
                done.append(act.MarkEngine(epoch=self._epoch, engine=engine.spec, state=state))
        return done

    def _power(self, event: ev.PowerChanged) -> list[Action]:
        if event.drawn_kw > SHED_ALL_SHARE * event.available_kw:
            level = 2
        elif event.drawn_kw > event.available_kw:
            level = max(self.shed_level, 1)
        elif event.drawn_kw > UNSHED_SHARE * event.available_kw:
            level = min(self.shed_level, 1)
        else:
            level = 0
        if level == self.shed_level:
            return []
        self.shed_level = level
        if level == 0:
            return [act.Unshed(epoch=self._epoch)]
        return [act.Shed(epoch=self._epoch, level=2 if level == 2 else 1)]

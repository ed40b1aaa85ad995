"""Events in, actions out: the slow path of the decision core, at the scope of a fleet or of one site.

Here: `Dispatcher`. Not here: routing one request (`choose`), solving for a placement, what a site decides for itself
(`site_scope`), doing what actions say.

Theory of operation. `handle` is the one door to the belief, and the event's instant is the only clock. At `fleet`
scope whatever changes the belief marks the table stale; a tick publishes a stale table, at most every
`PUBLISH_EVERY_S`, and a fresh one early enough that it never expires. At `site` scope `site_scope` has the engines and the
power. Fleet wins on placement, site on power and health. Anything that must wait is done by a tick, so the order of events
within one instant does not matter.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

from hanse.dispatch import actions as act
from hanse.dispatch import events as ev
from hanse.dispatch.actions import Action
from hanse.dispatch.belief import (
    Belief,
    SiteBelief,
    fleet_digest,
    known_offers,
    possible_offers,
    site_defaults,
)
from hanse.dispatch.events import Event
from hanse.dispatch.law import compile_law, no_law
from hanse.dispatch.rolling import described, known_placements, league_floors, league_problem
from hanse.dispatch.second_opinion import Verdict, verdicts
from hanse.dispatch.site_scope import SiteScope
from hanse.dispatch.table import Table
from hanse.model.fleet import Placement

if TYPE_CHECKING:
    from hanse.dispatch.slow import SlowScope

Scope = Literal["fleet", "site"]

PUBLISH_EVERY_S: Final = 0.5
"""A person sees a change within a second; a thousand sites get at most two tables a second."""
REPUBLISH_SHARE: Final = 0.5
"""Of a table's validity: a day's table is renewed twice a day, so a cut of half a day expires nothing."""
VERDICT_TEXTS: Final[dict[Verdict, tuple[Literal["info", "warning"], str]]] = {
    "heard": ("info", "is heard by the hub again"),
    "cut": ("warning", "is cut off from the hub: others hear it, nothing of it is replaced"),
    "dead": ("warning", "is dead: nobody hears it, its work is placed anew"),
    "unsure": (
        "warning",
        "cannot be judged: those who could say are silent too, nothing is replaced",
    ),
}
SIGNAL_CHANGE_MIN: Final = 0.01
"""Relative; smaller changes of price, carbon and PUE are below what the figures are good for."""


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
        self.at_site = SiteScope(site)
        self._slow: SlowScope | None = _slow_scope() if scope == "fleet" else None
        self._epoch = 0
        self._placed_by = ""
        """Whose placement is to be sent; empty: the fleet file's, which sites have."""
        self._told: tuple[object, ...] = ()

    @property
    def slow(self) -> SlowScope:
        """What a fleet's dispatcher asks to be solved, and when."""
        assert self._slow is not None, "a site solves nothing"
        return self._slow

    @property
    def epoch(self) -> int:
        """Under which this dispatcher acts, or the highest it has obeyed."""
        return self._epoch

    def silent(self) -> dict[str, Verdict]:
        """Sites that are not heard, and what the others say of them."""
        sites = {} if self.belief is None else self.belief.sites
        return {name: known.verdict for name, known in sites.items() if known.lost}

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
        return self.at_site.handle(self.belief, event, self._epoch)

    # --- both scopes

    def _load(self, event: ev.FleetLoaded) -> list[Action]:
        fleet = event.fleet
        old = self.belief
        same_fleet = old is not None and old.fleet.name == fleet.name
        known = list(event.offers_known) or (old.offer_keys if old and same_fleet else [])
        # Indices of what is gone mean nothing any more; gateways notice and count anew.
        known = known if set(known) <= possible_offers(fleet) else []
        fleetwide = self.scope == "fleet"
        law = compile_law(fleet, event.policies, event.at_s) if fleetwide else no_law()
        placements, misfit = fleet.placements, ""
        if event.placements is not None:
            misfit = league_problem(fleet, event.placements)
            placements = fleet.placements if misfit else event.placements
        sites = {s.id: site_defaults(s) for s in fleet.sites}
        if old is not None:
            sites |= {name: known_site for name, known_site in old.sites.items() if name in sites}
            for name, known_site in sites.items():
                known_site.serving = known_placements(fleet, name, known_site.serving)
        self.belief = Belief(
            fleet=fleet,
            policies=event.policies,
            law=law,
            law_at_s=event.at_s,
            placements=placements,
            digests=dict(event.digests),
            sites=sites,
            offer_keys=known_offers(known, fleet, placements),
            epoch=self._epoch,
            version=max(event.version_known, old.version if old else 0),
            placement_version=(event.placement_epoch, event.placement_version),
            engines=old.engines if old else {},
        )
        self.stale = True
        self._told = ()  # a site takes no placement of another fleet file than its own
        done: list[Action] = [self._log("warning", str(problem)) for problem in law.problems]
        if misfit:
            done.append(self._log("warning", f"the fleet file's placement holds again: {misfit}"))
        elif event.placements is not None:
            self._placed_by = "an earlier leader"
        if self._slow is not None:
            self._slow.note(event, changed=True)
        if self.scope == "site":
            done += self.at_site.load(self.belief, event, self._epoch)
        return done

    def _grant(self, event: ev.EpochGranted) -> list[Action]:
        if event.epoch <= self._epoch:
            return []
        self._epoch = event.epoch
        if self._slow is not None:
            self._slow.note(event, changed=True)
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
            asked = self.slow.ask(belief, event.at_s, self._epoch)
            told = self._publish(belief, event.at_s) + self._tell_sites(belief, event.at_s)
            return asked + told
        if isinstance(event, ev.PlacementDecided):
            self._place(belief, event.placements, event.source)
            return []
        if isinstance(
            event, ev.OutlookIssued | ev.JobsChanged | ev.PlacementSolved | ev.ScheduleSolved
        ):
            done, placements = self.slow.handle(belief, event, self._epoch)
            if placements is not None:
                self._place(belief, placements, self.slow.source)
            return done
        if isinstance(event, ev.KeysChanged):
            self.stale |= event.digests != belief.digests
            belief.digests = dict(event.digests)
            return []
        if isinstance(
            event,
            ev.SignalsObserved | ev.SiteHeard | ev.SiteLost | ev.DrainRequested | ev.EngineFailing,
        ):
            before, said = _rests_on(belief, event.site), _said(belief, event.site)
            done = self._hear(belief, event)
            if isinstance(event, ev.SiteHeard | ev.SiteLost):
                done += self._judge(belief, _said(belief, event.site) != said)
            self.slow.note(event, changed=_rests_on(belief, event.site) != before)
            return done
        return [self._log("warning", f"{type(event).__name__} at fleet scope: ignored")]

    def _place(self, belief: Belief, placements: tuple[Placement, ...], source: str) -> None:
        self._placed_by = source
        if placements != belief.placements:
            belief.placements = placements
            belief.offer_keys = known_offers(belief.offer_keys, belief.fleet, placements)
            self.stale = True

    def _hear(
        self,
        belief: Belief,
        event: ev.SignalsObserved
        | ev.SiteHeard
        | ev.SiteLost
        | ev.DrainRequested
        | ev.EngineFailing,
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
        if isinstance(event, ev.EngineFailing):
            return self._failing(site, event)
        was_up, site.up = site.up, isinstance(event, ev.SiteHeard)
        if isinstance(event, ev.SiteLost):
            return [self._log("warning", f"site {event.site} is silent")] if was_up else []
        site.unheard = event.unheard
        site.heard_at_s = max(site.heard_at_s, event.at_s)
        site.table_version, site.shed_level = event.table_version, event.shed_level
        site.placement_version = event.placement_version
        if event.serving != site.serving:
            self._hear_serving(belief, event.site, site, event.serving)
        if event.epoch > self._epoch:
            return [act.StepDown(epoch=self._epoch, epoch_seen=event.epoch)]
        return [] if was_up else [self._log("info", f"site {event.site} reports")]

    def _hear_serving(
        self, belief: Belief, name: str, site: SiteBelief, said: tuple[Placement, ...]
    ) -> None:
        """What is up at a site is not what it was; a table that describes that site alike is the same table, whatever the others do."""
        serving = known_placements(belief.fleet, name, said)
        if serving == site.serving:
            return
        placed = tuple(p for p in belief.placements if p.site == name)
        before = described(placed, {name: site})
        site.serving = serving
        if described(placed, {name: site}) != before:
            every = described(belief.placements, belief.sites)
            belief.offer_keys = known_offers(belief.offer_keys, belief.fleet, every)
            self.stale = True

    def _judge(self, belief: Belief, news: bool) -> list[Action]:
        """Cut off or dead: anew whenever somebody falls silent, is heard again, or says other things of the others."""
        if not news:  # as nearly every report
            return []
        done: list[Action] = []
        for name, verdict in verdicts(belief.sites).items():
            if verdict != belief.sites[name].verdict:
                belief.sites[name].verdict = verdict
                level, text = VERDICT_TEXTS[verdict]
                done.append(self._log(level, f"site {name} {text}"))
                self.slow.place_again()
        return done

    def _tell_sites(self, belief: Belief, at_s: float) -> list[Action]:
        """The placement once, and again whenever what sites have to keep up for each other changes."""
        if not self._placed_by:
            return []
        floors = league_floors(belief.fleet, belief.placements, belief.sites)
        told = self._epoch, belief.placements, floors
        if told == self._told:
            return []
        self._told = told
        epoch, version = belief.placement_version
        version = version + 1 if epoch == self._epoch else 1
        belief.floors, belief.placement_version = floors, (self._epoch, version)
        decided = ev.PlacementDecided(
            at_s=at_s,
            source=self._placed_by,
            placements=belief.placements,
            epoch=self._epoch,
            version=version,
            floors=floors,
            fleet_digest=fleet_digest(belief.fleet),
        )
        content = ev.event_to_bytes(decided)
        return [act.SendPlacement(epoch=self._epoch, version=version, content=content)]

    def _failing(self, site: SiteBelief, event: ev.EngineFailing) -> list[Action]:
        """Noted for whoever places next; nothing here is started or stopped for it."""
        key = event.service, event.variant, event.pool
        known = site.failing.get(key, "")
        if not event.why:
            site.failing.pop(key, None)
        else:
            site.failing[key] = event.why
        if event.why == known:
            return []
        what = f"{event.site}: {event.service}/{event.variant} in pool {event.pool}"
        return [
            self._log("warning", f"{what} does not start: {event.why}")
            if event.why
            else self._log("info", f"{what} starts again")
        ]

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
        from hanse.dispatch.build import build_table  # see `_slow_scope`

        belief.version += 1
        self.table = build_table(belief, now_s)
        self.stale = False
        self.published_at_s = now_s
        content = self.table.to_bytes()
        return [act.PublishTable(epoch=self._epoch, version=belief.version, content=content)]


def _slow_scope() -> SlowScope:
    """Imported where it is needed: with solver and compiler a site's agent would take twice the memory that it takes."""
    from hanse.dispatch.slow import SlowScope

    return SlowScope()


def _rests_on(belief: Belief, site_id: str) -> tuple[object, ...]:
    """What of a site's state a placement rests on."""
    site = belief.sites.get(site_id)
    if site is None:
        return ()
    return site.up, site.drained, tuple(sorted(site.failing.items()))


def _said(belief: Belief, site_id: str) -> tuple[object, ...]:
    """What a verdict about others rests on."""
    site = belief.sites.get(site_id)
    return () if site is None else (site.up, site.unheard)

"""A league in memory around the decision core: real tables, real routers, mock engines that note what they read.

Here: `CoreLeague`: one Dispatcher that publishes, sites that hold the table they last got, frames that tell load and
liveness, outages, and one request's way: entry law before the body, choice, law again at the serving site, next try.
Not here: judging (`cedar_oracle`), sockets.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from hanse.dispatch import events as ev
from hanse.dispatch.actions import PublishTable
from hanse.dispatch.dispatcher import Dispatcher
from hanse.dispatch.load import Load, Ticket
from hanse.dispatch.policies import PolicyText
from hanse.dispatch.reasons import Reason
from hanse.dispatch.router import Router
from hanse.dispatch.table import KeyMeta, Table
from hanse.model.fleet import Fleet

TRIES_MAX: Final = 8
DEADLINE_MS: Final = 60_000.0


@dataclass(frozen=True)
class Ask:
    """What a client sends, headers first."""

    key: KeyMeta
    data_class: str
    country: str
    service: str
    entry: str


@dataclass
class Came:
    """What came of it."""

    status: int
    rules: tuple[str, ...] = ()
    reason: int = 0
    read_at: list[str] = field(default_factory=list)
    executed_at: str = ""
    tried: int = 0


@dataclass
class CoreSite:
    """A site: the table it holds, what its gateway believes, and what is true of its engines."""

    id: str
    table: Table
    load: Load
    router: Router
    policies: tuple[PolicyText, ...]
    """Those that its table was compiled from."""
    up: bool = True
    cut_off: bool = False
    """It gets no new tables and no frames, and gives none."""
    shedding: bool = False
    dead: set[int] = field(default_factory=set)
    """Offers whose engines have all died, which the site knows and its peers may not."""
    running: dict[int, int] = field(default_factory=dict)


class CoreLeague:
    """All sites of one fleet."""

    def __init__(self, fleet: Fleet, policies: tuple[PolicyText, ...], now_s: float) -> None:
        self.fleet = fleet
        self.now_s = now_s
        self.policies = policies
        self.dispatcher = Dispatcher("fleet")
        self.dispatcher.handle(ev.EpochGranted(at_s=now_s, epoch=1))
        self.sites: dict[str, CoreSite] = {}
        self._in_flight: list[tuple[CoreSite, Ticket, CoreSite, int]] = []
        self.newest = table = self._load(policies)
        for site in fleet.sites:
            load = Load(table)
            router = Router(table, load, table.site_index[site.id])
            self.sites[site.id] = CoreSite(site.id, table, load, router, policies)
        self.tell()

    # --- what changes

    def _load(self, policies: tuple[PolicyText, ...]) -> Table:
        self.policies = policies
        self.now_s += 1.0
        self.dispatcher.handle(ev.FleetLoaded(at_s=self.now_s, fleet=self.fleet, policies=policies))
        return self.publish()

    def publish(self) -> Table:
        """The dispatcher's newest table, through bytes, as a site gets it."""
        self.now_s += 1.0
        for action in self.dispatcher.handle(ev.Ticked(at_s=self.now_s)):
            if isinstance(action, PublishTable):
                self.newest = Table.from_bytes(action.content)
                return self.newest
        raise AssertionError("nothing was published")

    def change_policies(self, policies: tuple[PolicyText, ...]) -> None:
        """The operator's files change; sites that are cut off keep the table they have."""
        self.deliver(self._load(policies))

    def drain(self, site: str, drained: bool) -> None:
        """The operator empties a site, or fills it again."""
        event = ev.DrainRequested(at_s=self.now_s, site=site, drained=drained)
        self.dispatcher.handle(event)
        if self.dispatcher.stale:
            self.deliver(self.publish())

    def deliver(self, table: Table) -> None:
        for site in self.sites.values():
            if not site.cut_off:
                self.adopt(site, table)

    def heal(self, site: CoreSite) -> None:
        """The cut is over; the newest table comes with the first sync."""
        site.cut_off = False
        if site.table is not self.newest:
            self.adopt(site, self.newest)

    def adopt(self, site: CoreSite, table: Table) -> None:
        """As a gateway does: the load goes on where the new table continues the old one."""
        if not site.load.adopt(table):
            site.load = Load(table)
        site.table, site.policies = table, self.policies
        site.router = Router(table, site.load, table.site_index[site.id])

    def tell(self) -> None:
        """Every site that answers tells its load to all that can hear it."""
        for site in self.sites.values():
            if not site.up:
                continue
            offers = [self._figures(site, o) for o in self._offers_of(site.table, site.id)]
            for other in self.sites.values():
                heard = other is site or not (site.cut_off or other.cut_off)
                if heard and other.up:
                    other.load.heard(
                        other.table.site_index[site.id],
                        self.now_s,
                        age_s=0.02,
                        power_ok=not site.shedding,
                        offers=offers,
                    )

    def _figures(self, site: CoreSite, offer: int) -> tuple[int, float, float, float, float, float]:
        replicas = 0.0 if offer in site.dead else float(site.table.offers[offer]["replicas"])
        running = float(site.running.get(offer, 0))
        return offer, replicas, running, 100.0 * running, 0.0, 0.0

    @staticmethod
    def _offers_of(table: Table, site: str) -> list[int]:
        return [i for i, (where, _, _) in enumerate(table.offer_names) if where == site]

    def end_some(self, rng: np.random.Generator) -> None:
        """About half of what runs is answered."""
        going, self._in_flight = self._in_flight, []
        for flight in going:
            entry, ticket, serving, offer = flight
            if rng.random() < 0.5:
                self._in_flight.append(flight)
                continue
            entry.load.end(ticket)
            serving.running[offer] -= 1

    # --- one request

    def ask(self, asked: Ask) -> Came:
        """Route one request as a gateway does; a site is in `read_at` once it has the body."""
        entry = self.sites[asked.entry]
        assert entry.up, "a client asks a gateway that answers"
        table = entry.table
        subject = asked.key.subjects.get(asked.data_class, {}).get(asked.country, 0)
        if not entry.router.entry_lawful(subject):
            elsewhere = entry.router.lawful_entries(subject)
            status = 421 if elsewhere else 451
            rules = table.rules(subject, entry.router.origin)
            return Came(status, rules if elsewhere else table.rules_denying(subject))
        came = Came(0, read_at=[entry.id])
        tried: list[int] = []
        for offer in self._choices(entry, asked, subject, tried):
            if offer < 0:
                came.reason = offer
                law = offer in (Reason.LAW, Reason.QUALITY)
                came.status = 451 if law else 503
                if law:
                    own = table.rules_denying(subject)
                    came.rules = own if offer == Reason.LAW else ("hanse:quality-min",)
                return came
            tried.append(offer)
            came.tried = len(tried)
            if self._serve(entry, self.sites[table.offer_names[offer][0]], asked, offer, came):
                came.status = 200
                return came
        came.status = 503
        return came

    def _choices(
        self, entry: CoreSite, asked: Ask, subject: int, tried: list[int]
    ) -> Iterator[int]:
        for _ in range(TRIES_MAX):
            yield entry.router.route(
                entry.table.service_index[asked.service],
                subject,
                tokens_in=20,
                tokens_out=10,
                deadline_ms=DEADLINE_MS,
                body_bytes=400,
                now_s=self.now_s,
                tried=tried,
            )

    def _serve(
        self, entry: CoreSite, serving: CoreSite, asked: Ask, offer: int, came: Came
    ) -> bool:
        """The serving site asks its own table before it takes the body; False: the next offer, please."""
        if serving is not entry:
            if not serving.up or serving.cut_off or entry.cut_off:
                entry.load.lost(entry.table.site_index[serving.id])
                return False
            if not self._lawful_there(serving, asked, entry.id):
                return False
            came.read_at.append(serving.id)
        replicas = int(serving.table.offers[offer]["replicas"])
        room = replicas * float(serving.table.offers[offer]["requests_max"])
        if offer in serving.dead or serving.running.get(offer, 0) >= room:
            return False
        ticket = entry.load.begin(offer, 20, 10, self.now_s)
        serving.running[offer] = serving.running.get(offer, 0) + 1
        self._in_flight.append((entry, ticket, serving, offer))
        came.executed_at = serving.id
        return True

    @staticmethod
    def _lawful_there(serving: CoreSite, asked: Ask, entry: str) -> bool:
        table = serving.table
        held = next((k for k in table.meta.keys.values() if k.id == asked.key.id), None)
        if held is None:
            return False
        subject = held.subjects.get(asked.data_class, {}).get(asked.country, 0)
        own, theirs = table.site_index[serving.id], table.site_index[entry]
        return table.lawful(subject, own) and table.lawful(subject, theirs)

"""One read model for people: what the CLI's --json, the dashboard, and reports show.

Here: the rows that sites send for people's eyes, and `ViewState`, which folds them into one picture
of the league beside what the one big site would have done. Not here: any decision, any I/O.
No row carries content, keys or anything that names a person.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping
from typing import Literal

import msgspec

from hanse.model import versions
from hanse.model.fleet import Fleet, Placement, Value
from hanse.model.told import UNREADABLE, Count, Figure, Until

DECISIONS_KEPT_MAX = 200
"""Rows of the decision list: about a screen's worth of scrolling."""
REFUSAL_NAMES_MAX = 1000
"""Rules and reasons that are counted apart; the catalogue has a tenth, and a site may say anything."""
SITE_SILENT_S = 2.0
"""Four missed 2 Hz reports; the same age after which peers stop sending work."""
CENTRAL_LABEL = "predicted, declared hardware"

Outcome = Literal["served", "refused", "failed"]
SiteState = Literal["up", "degraded", "silent", "never seen"]


class Report(Value, frozen=True, kw_only=True, forbid_unknown_fields=False):
    """What sites send the hub: a newer one may say more than the hub knows (`model.versions`)."""


class Cost(Report, frozen=True, kw_only=True):
    """What one request took, or was predicted to take."""

    ttft_ms: Figure
    e2e_ms: Figure
    energy_wh: Figure
    carbon_g: Figure
    cost_usd: Figure
    """Energy, carbon price and egress; not the value of waiting."""


class CentralVerdict(Report, frozen=True, kw_only=True):
    """What the one big site would have done with the same request."""

    outcome: Outcome
    rules: tuple[str, ...] = ()
    predicted: Cost | None = None


class DecisionRow(Report, frozen=True, kw_only=True):
    """One finished request, as people may see it."""

    at_s: Figure
    request_id: str
    key_id: str
    data_class: str
    country: str
    service: str
    entry: str
    site: str = ""
    """Where it ran; empty when refused."""
    variant: str = ""
    outcome: Outcome
    reason: str = ""
    rules: tuple[str, ...] = ()
    attempts: Count = 1
    tokens_in: Count = 0
    tokens_out: Count = 0
    predicted: Cost | None = None
    measured: Cost | None = None
    method: str = ""
    """How the Wh came about: measured, estimated or modelled."""
    central: CentralVerdict | None = None
    deferrable: bool = False
    """A line of a batch: nobody waits for it."""


class EngineStatus(Report, frozen=True, kw_only=True):
    """One engine as its agent sees it."""

    name: str
    service: str
    variant: str
    state: Literal["starting", "up", "dead", "draining", "resting", "failing"]
    """`failing`: dead three times in a row or more, and tried again ever more rarely. `resting`: stopped to save power."""
    pid: Count = 0
    restarts: Count = 0
    cpu_w: Figure = 0.0
    pool: str = ""
    attempts: Count = 0
    """Deaths in a row."""
    why: str = ""
    """Of the last death."""
    leaving: bool = False
    """Placed here no more; gone when its requests have ended."""


class PowerStatus(Report, frozen=True, kw_only=True):
    """A site's supply right now. Flows are never signed."""

    it_kw: Figure
    pue: Figure
    pv_kw: Figure
    wind_kw: Figure
    import_kw: Figure
    export_kw: Figure
    carbon_g_per_kwh: Figure
    """Of the site's next kWh."""
    price_usd_per_kwh: Figure
    sources: tuple[str, ...]
    drawn_kw: Figure = 0.0
    """All the site draws."""
    available_kw: Figure = 0.0
    """What its supply can give."""
    it_method: Literal["measured", "estimated"] = "estimated"
    it_error_share: Figure | None = None
    """Two standard errors, of a measured figure; None: of an estimate nobody knows it."""
    drawn_method: Literal["measured", "estimated"] = "estimated"
    drawn_error_share: Figure | None = None
    charge_kw: Figure = 0.0
    discharge_kw: Figure = 0.0
    """Of the battery."""
    battery_kwh: Figure | None = None
    """What it holds; None: there is none."""
    battery_why: str = ""
    """By which rule it does what it does."""
    peak_import_kw: Figure = 0.0
    """Highest quarter of an hour of import this month, so far."""


class FacilityStatus(Report, frozen=True, kw_only=True):
    """One device of a site's plant."""

    id: str
    driver: str
    state: Literal["starting", "up", "failing", "unusable"]
    """`unusable`: its configuration, a key or a library is missing; nothing but the operator changes that."""
    age_s: Figure | None = None
    """Of its newest reading; None: it gave none yet."""
    readings: Count = 0
    why: str = ""
    """It is not up."""
    cap_w: Figure | None = None
    """Power limit that it holds for this site, as read back."""


class LoadTargetStatus(Report, frozen=True, kw_only=True):
    """What a site is asked to draw at most now."""

    id: str
    source: str
    limit_kw: Figure
    end_at_s: Until
    compliant: bool


class DiskStatus(Value, frozen=True, kw_only=True):
    """The disk of a site's directory."""

    free_gb: Figure
    size_gb: Figure
    level: Literal["room", "low", "full"]
    """`low`: things are given up, in order; `full`: requests are refused, since nothing could be put on record."""
    given_up: tuple[str, ...] = ()
    """What went, and how much of it, since the disk last had room."""


class SiteStatus(Report, frozen=True, kw_only=True):
    """What an agent reports twice a second."""

    site: str
    at_s: Figure
    epoch: Count
    table_version: Count
    hub_connected: bool
    engines: tuple[EngineStatus, ...]
    gateway_workers: Count
    running: Figure
    waiting: Figure
    power: PowerStatus
    shed_level: Count = 0
    """Steps in force of the order in docs/actuation.md."""
    shed: tuple[str, ...] = ()
    """What is given up, and why, one a step."""
    placement_version: Count = 0
    serving: tuple[Placement, ...] = ()
    """Replicas that are up."""
    facilities: tuple[FacilityStatus, ...] = ()
    load_target: LoadTargetStatus | None = None
    """The one in force."""
    load_bounds: tuple[tuple[Figure, Until, Figure], ...] | None = ()
    """What load targets let it draw in the next two days: from, until (Unix seconds UTC), kW; None: its agent has just begun to ask."""
    disk: DiskStatus | None = None
    fleet_revision: Count = 0
    """Of the fleet in force there; 0: the agent does not say."""
    workers_table_version: Count = 0
    """The oldest table that any of its gateway workers routes by; 0: the agent does not say."""
    entered: Count = 0
    """Requests under way that came in here, wherever they run."""
    spoken: str = versions.BUS.before[0]
    """Form of the bus that its agent speaks; who does not say speaks the one before."""
    release: str = ""
    started_at_s: Figure = 0.0
    """When its agent began; another instant: another process."""
    unheard: tuple[str, ...] | None = None
    """Other sites whose gateways do not answer its own; None: it does not say."""

    @property
    def failing(self) -> dict[tuple[str, str, str], str]:
        """(service, variant, pool) of what does not start there, and why."""
        return {
            (e.service, e.variant, e.pool): e.why or "no reason known"
            for e in self.engines
            if e.state == "failing"
        }


class WorkSpan(Value, frozen=True, kw_only=True):
    """Lines of a batch that are planned to begin at one site."""

    site: str
    begin_s: float
    end_s: float
    lines: float


class WorkView(Value, frozen=True, kw_only=True):
    """An open batch, and what the newest schedule says of it."""

    job: str
    service: str
    home: str
    tenant: str
    data_class: str
    left: float
    """Lines."""
    deadline_at_s: float
    planned: bool
    """False: it came after the newest schedule, and is spread over its time."""
    spans: tuple[WorkSpan, ...] = ()
    """By begin; what is over is not among them."""
    unmet: str = ""
    """What the schedule does not keep, why, and what would cure it."""


class LinkStatus(Value, frozen=True, kw_only=True):
    """One WAN link as the emulator (or a probe) sees it."""

    a: str
    b: str
    rtt_ms: float
    mbit_s: float
    a_to_b: Literal["open", "cut"] = "open"
    b_to_a: Literal["open", "cut"] = "open"
    bytes_a_to_b: int = 0
    bytes_b_to_a: int = 0


class StandingView(Value, frozen=True, kw_only=True):
    """A site that its operator has taken out of service."""

    state: Literal["drained", "maintenance"]
    since_s: float
    until_s: float | None = None
    """It takes work again by itself then."""
    by: str = ""
    why: str = ""


class SiteView(Value, frozen=True, kw_only=True):
    """A site on the map."""

    id: str
    kind: str
    city: str
    country: str
    lat_deg: float
    lon_deg: float
    gateway_url: str
    state: SiteState
    age_s: float
    served: int
    status: SiteStatus | None
    standing: StandingView | None = None
    """None: it is in service."""
    not_understood: str = ""
    """Why its reports are not read: it is of a version that this hub does not know."""
    fleet_in_force: bool = False
    """Whether it acts by the fleet and a table as new as the hub's."""
    verdict: str = ""
    """Of a silent site, as the others see it: `cut`, `dead` or `unsure`; empty: it is heard, or was never."""


class Tally(Value, frozen=True, kw_only=True):
    """Sums over requests of one way of doing it."""

    label: str
    requests: int
    served: int
    refused_law: int
    refused_other: int
    lost_failure: int
    ttft_ms_mean: float
    e2e_ms_mean: float
    energy_wh: float
    carbon_g: float
    cost_usd: float


class HubView(Value, frozen=True, kw_only=True):
    """One of several hubs, as the one that was asked hears it."""

    id: str
    state: str
    """leads, follows, or not heard."""


class LeagueView(Value, frozen=True, kw_only=True):
    """Everything a person sees at one instant."""

    at_s: float
    fleet: str
    table_version: int
    epoch: int
    hub_up: bool
    sites: tuple[SiteView, ...]
    links: tuple[LinkStatus, ...]
    tallies: tuple[Tally, ...]
    """League measured, league predicted, central predicted; over the same requests of people."""
    refusals: tuple[tuple[str, int], ...]
    """(rule id or reason, count), most frequent first."""
    decisions: tuple[DecisionRow, ...]
    """Newest first."""
    flows: tuple[tuple[str, str, int], ...]
    """(entry, serving site, requests in the kept rows)."""
    notes: tuple[str, ...] = ()
    fleet_revision: int = 0
    """In force at the hub."""
    hubs: tuple[HubView, ...] = ()
    """Where several decide."""
    places: bool = False
    """Whether the controller plans where engines and batches run; else homes tell it of no batch."""
    work: tuple[WorkView, ...] = ()
    """Open batches, by deadline; known to the hub that leads."""
    lines: Tally | None = None
    """Lines of batches, measured: nobody asked the big site of them. None where there were none."""

    @property
    def shown(self) -> tuple[Tally, ...]:
        """The comparison, and beside it the lines of batches where there were any."""
        return self.tallies if self.lines is None else (*self.tallies, self.lines)


class _Sum:
    """Running sums behind one Tally."""

    def __init__(self, label: str) -> None:
        self.label = label
        self.requests = self.served = self.refused_law = self.refused_other = self.lost = 0
        self.ttft_ms = self.e2e_ms = self.energy_wh = self.carbon_g = self.cost_usd = 0.0
        self.costed = 0

    def add(self, outcome: Outcome, rules: tuple[str, ...], cost: Cost | None) -> None:
        self.requests += 1
        if outcome == "served":
            self.served += 1
        elif outcome == "failed":
            self.lost += 1
        elif rules:
            self.refused_law += 1
        else:
            self.refused_other += 1
        if cost is not None and outcome == "served":
            self.costed += 1
            self.ttft_ms += cost.ttft_ms
            self.e2e_ms += cost.e2e_ms
            self.energy_wh += cost.energy_wh
            self.carbon_g += cost.carbon_g
            self.cost_usd += cost.cost_usd

    def tally(self) -> Tally:
        count = max(self.costed, 1)
        return Tally(
            label=self.label,
            requests=self.requests,
            served=self.served,
            refused_law=self.refused_law,
            refused_other=self.refused_other,
            lost_failure=self.lost,
            ttft_ms_mean=self.ttft_ms / count,
            e2e_ms_mean=self.e2e_ms / count,
            energy_wh=self.energy_wh,
            carbon_g=self.carbon_g,
            cost_usd=self.cost_usd,
        )


class ViewState:
    """Folds what sites report into `LeagueView`; bounded memory, no clock of its own."""

    def __init__(self, fleet: Fleet, gateway_urls: dict[str, str]) -> None:
        self.follow(fleet, gateway_urls)
        self.statuses: dict[str, SiteStatus] = {}
        self.heard_at_s: dict[str, float] = {}
        self.links: tuple[LinkStatus, ...] = ()
        self.decisions: deque[DecisionRow] = deque(maxlen=DECISIONS_KEPT_MAX)
        self.refusals: Counter[str] = Counter()
        self.served_by: Counter[str] = Counter()
        self.sums = (
            _Sum("league, measured here"),
            _Sum("league, predicted"),
            _Sum(f"one big site, {CENTRAL_LABEL}"),
        )
        self.lines = _Sum("lines of batches, measured here")
        self.hub_up = True
        self.table_version = self.epoch = 0
        self.standing: dict[str, StandingView] = {}
        self.not_understood: dict[str, str] = {}
        self.verdicts: Mapping[str, str] = {}
        self.fleet_revision = 0
        self.hubs: tuple[HubView, ...] = ()
        self.work: tuple[WorkView, ...] = ()
        self._fleet_table_version = 0
        """The first table that is made from the fleet in force."""
        self.notes: tuple[str, ...] = ()

    def follow(self, fleet: Fleet, gateway_urls: dict[str, str]) -> None:
        """Another fleet is in force."""
        self._placed = {p.site for p in fleet.placements}
        self.fleet, self.gateway_urls = fleet, gateway_urls
        self.site_ids = frozenset(site.id for site in fleet.sites)

    def see_league(self, revision: int, table_version: int) -> None:
        """The hub acts by this revision of the fleet, and by tables from this version on."""
        self.fleet_revision, self._fleet_table_version = revision, table_version

    def hear_status(self, status: SiteStatus, now_s: float) -> None:
        """Keep a site's newest report; its own clock orders them, ours ages them."""
        known = self.statuses.get(status.site)
        if known is None or status.at_s >= known.at_s:
            self.statuses[status.site] = status
            self.heard_at_s[status.site] = now_s

    def hear_decisions(self, rows: list[DecisionRow]) -> None:
        """Count finished requests once each, on both sides of the comparison."""
        measured, predicted, central = self.sums
        for row in rows:
            self.decisions.append(row)
            if row.deferrable:
                self.lines.add(row.outcome, row.rules, row.measured)
            else:
                measured.add(row.outcome, row.rules, row.measured)
                predicted.add(row.outcome, row.rules, row.predicted)
            if row.central is not None:
                central.add(row.central.outcome, row.central.rules, row.central.predicted)
            if row.outcome == "served":
                self.served_by[row.site] += 1
            elif row.outcome == "refused":
                self._count_refusal(row.rules or (row.reason,))

    def _count_refusal(self, why: tuple[str, ...]) -> None:
        for name in why[:REFUSAL_NAMES_MAX]:
            if name in self.refusals or len(self.refusals) < REFUSAL_NAMES_MAX:
                self.refusals[name] += 1

    def snapshot(self, now_s: float) -> LeagueView:
        """The picture at `now_s`."""
        flows = Counter((row.entry, row.site) for row in self.decisions if row.site)
        return LeagueView(
            at_s=now_s,
            fleet=self.fleet.name,
            table_version=self.table_version,
            epoch=self.epoch,
            hub_up=self.hub_up,
            sites=tuple(self._site(index, now_s) for index in range(len(self.fleet.sites))),
            links=self.links,
            tallies=tuple(one.tally() for one in self.sums),
            refusals=tuple(self.refusals.most_common(12)),
            decisions=tuple(reversed(self.decisions)),
            flows=tuple((entry, site, count) for (entry, site), count in sorted(flows.items())),
            notes=self.notes,
            fleet_revision=self.fleet_revision,
            hubs=self.hubs,
            places=self.fleet.slow_loop.places,
            work=self.work,
            lines=self.lines.tally() if self.lines.requests else None,
        )

    def _site(self, index: int, now_s: float) -> SiteView:
        site = self.fleet.sites[index]
        status = self.statuses.get(site.id)
        age_s = now_s - self.heard_at_s.get(site.id, now_s)
        return SiteView(
            id=site.id,
            kind=site.kind,
            city=site.city,
            country=site.country,
            lat_deg=site.lat_deg,
            lon_deg=site.lon_deg,
            gateway_url=self.gateway_urls.get(site.id, ""),
            state=_state(status, age_s, has_engines=site.id in self._placed),
            age_s=age_s,
            served=self.served_by[site.id],
            status=status,
            standing=self.standing.get(site.id),
            not_understood=self.not_understood.get(site.id, ""),
            fleet_in_force=status is not None and self._acts_by_it(status),
            verdict=self.verdicts.get(site.id, ""),
        )

    def _acts_by_it(self, status: SiteStatus) -> bool:
        """Fleet and table: keys, law and offers are in the table. An agent of the version before tells of its table alone."""
        table = status.workers_table_version or status.table_version
        known = status.fleet_revision in (0, self.fleet_revision)
        return known and 0 < self._fleet_table_version <= table


def _state(status: SiteStatus | None, age_s: float, *, has_engines: bool) -> SiteState:
    """`has_engines`: by the fleet file; a placement of the controller may have left it none on purpose."""
    if status is None:
        return "never seen"
    if age_s > SITE_SILENT_S:
        return "silent"
    engines_up = any(engine.state == "up" for engine in status.engines)
    if not status.engines:
        engines_up = not has_engines or status.placement_version > 0
    return "up" if engines_up and status.gateway_workers > 0 else "degraded"


class _Spoken(msgspec.Struct):
    """What a report of any version says of itself."""

    site: str = ""
    spoken: str = versions.BUS.before[0]


def read_status(data: bytes) -> tuple[SiteStatus | None, str]:
    """A site's report, or why it is not read."""
    try:
        head = msgspec.msgpack.decode(data, type=_Spoken)
        flaw = versions.BUS.refusal(head.spoken)
        return (None, flaw) if flaw else (msgspec.msgpack.decode(data, type=SiteStatus), "")
    except UNREADABLE as error:
        return None, f"not a report: {error}"


def link_id(a: str, b: str) -> str:
    """The one name of an undirected link: ends sorted, joined by a tilde."""
    return "~".join(sorted((a, b)))


def tally_line(tally: Tally) -> str:
    """One line of plain text for terminals without colour."""
    return (
        f"{tally.label}: {tally.served} served, {tally.refused_law} refused by law, "
        f"{tally.lost_failure} lost, mean TTFT {tally.ttft_ms_mean:.0f} ms, "
        f"{tally.energy_wh * 1e3:.2f} mWh, {tally.carbon_g * 1e3:.2f} mgCO2e, {tally.cost_usd * 1e6:.2f} uUSD"
    )


__all__ = [
    "CENTRAL_LABEL",
    "CentralVerdict",
    "Cost",
    "DecisionRow",
    "DiskStatus",
    "EngineStatus",
    "FacilityStatus",
    "LeagueView",
    "LinkStatus",
    "LoadTargetStatus",
    "PowerStatus",
    "SiteStatus",
    "SiteView",
    "StandingView",
    "Tally",
    "ViewState",
    "WorkSpan",
    "WorkView",
    "link_id",
    "read_status",
    "tally_line",
]

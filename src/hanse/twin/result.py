"""What a run came to, as one frozen value: what `--json` prints, Python gets and the report shows.

Here: the types, with what each figure means. Not here: computing them (`summary`), requests one by one (`request_table`).

Latency quantiles come from logarithmic histograms with bins of 2 % and err by at most 1 %; means and sums are exact. None: not
known, or of nothing. Flows are never signed. Location-based, marginal and market-based carbon answer three questions about the
same imported energy: they are never added.
"""

from __future__ import annotations

from typing import Literal

from hanse.model.fleet import Value

GroupKind = Literal["all", "service", "class", "site", "origin"]


class RunInfo(Value, frozen=True, kw_only=True):
    """Which run it was. The same command gives the same bytes."""

    fleet: str
    trace: str
    trace_source: str
    trace_licence: str
    policy: str
    scenario: str
    seed: int
    scale: float
    start_at: str
    """ISO 8601, UTC."""
    duration_s: float
    """Of the trace."""
    elapsed_s: float
    """Until the last request had ended; utilisation is over this."""
    metered_s: float
    """Whole steps of five minutes that power was counted over."""
    requests: int
    software: str
    command: str
    """Repeats the run; empty where it was started from Python with values instead of files."""


class Spread(Value, frozen=True, kw_only=True):
    """A latency over the answered requests of a group."""

    mean: float | None = None
    p50: float | None = None
    p95: float | None = None
    p99: float | None = None


class GroupResult(Value, frozen=True, kw_only=True):
    """Requests of one service, class, serving site or origin, or all. A request that is not answered counts at no site."""

    kind: GroupKind
    name: str
    requests: int
    served: int
    refused: dict[str, int]
    """By reason (docs/choosing.md); beside those `NO_ENTRY`: no gateway near that may read it is up, `NOT_ALLOWED`: no key may send it."""
    failed: dict[str, int]
    """Ended without an answer though an engine had it, by the last reason."""
    broken: int
    """Ended in the middle of an answer, or answered after the deadline."""
    good: int
    """Answered within the service's TTFT and TPOT."""
    goodput_share: float | None
    """`good` over all requests, refused ones too."""
    goodput_per_s: float
    ttft_ms: Spread
    """As the user sees it: with the round trip between user and gateway."""
    tpot_ms: Spread
    """Over answers of more than one token."""
    e2e_ms: Spread
    path_rtt_ms_mean: float | None
    """Between entry site and serving site; 0 where they are one."""
    tokens_in: int
    tokens_out: int
    tokens_cached: int
    """Prompt tokens that an engine still held."""
    forwarded: int
    """Served at another site than the one they entered at: one hop."""
    retries: int
    energy_wh: float
    """Dynamic energy at the meter (with PUE): what the requests caused. Idle power is nobody's; see `SiteResult.energy`."""
    carbon_g: float
    """Of that energy, by the site's average at that instant, own generation with its lifecycle."""
    cost_usd: float
    """Of that energy, and egress."""


class EnergyUse(Value, frozen=True, kw_only=True):
    """Where a site's energy went. The parts add up to the meter; what they miss it by is stated."""

    prefill_kwh: float
    decode_kwh: float
    idle_kwh: float
    """Engines loaded and waiting, what they draw anyway beside work, and the servers around the chips, empty ones too where a run
    knows of them."""
    deferrable_kwh: float
    """Jobs, with their share of servers."""
    cooling_kwh: float
    ups_kwh: float
    other_kwh: float
    """Distribution and lights; the whole overhead where the fleet file declares a PUE."""
    base_kwh: float
    """What the site draws for others whatever the engines do (`base_kw`)."""
    facility_kwh: float
    """The meter."""
    difference_kwh: float
    """Meter less parts."""
    wasted_kwh: float
    """Part of prefill and decode: spent on attempts whose answer nobody got."""


class SupplyUse(Value, frozen=True, kw_only=True):
    """Where a site's energy came from, its base load included."""

    import_kwh: float
    export_kwh: float
    pv_kwh: float
    pv_used_kwh: float
    wind_kwh: float
    wind_used_kwh: float
    curtailed_kwh: float
    charge_kwh: float
    discharge_kwh: float
    storage_loss_kwh: float
    battery_start_kwh: float
    battery_end_kwh: float
    """Content; what is lost of it during the run was not free, and is charged to the answers (`SiteResult.g_per_answer`)."""
    unserved_kwh: float
    import_kw_max: float
    """Highest five-minute mean."""
    water_l: float


class CarbonUse(Value, frozen=True, kw_only=True):
    """Three answers to three questions about the same imported energy; never add them."""

    location_g: float | None
    """Average of the grid: what the energy that was used is made with."""
    marginal_g: float | None
    """What the demand changed; None where nobody publishes it for the zone."""
    market_g: float | None
    """By contracts, else the residual mix."""
    own_g: float
    """Lifecycle of own generation that was not exported; stands beside each."""


class CostUse(Value, frozen=True, kw_only=True):
    """Money by item. Hardware, staff and buildings are not here."""

    energy_usd: float
    export_usd: float
    """Earned."""
    demand_usd: float
    egress_usd: float
    """For answers of this site that left it, as the links bill them."""


class SiteResult(Value, frozen=True, kw_only=True):
    """One site, or the whole fleet (`kind` fleet)."""

    id: str
    kind: str
    city: str
    country: str
    engines: int
    slots: int
    """Requests that its engines can decode at once."""
    served: int
    ttft_ms_p95: float | None
    busy_share: float | None
    """Of engine time, some request was being worked on."""
    slots_share: float | None
    """Mean batch over slots."""
    idle_share: float | None
    """1 - `busy_share`: capacity that stood by and drew idle power."""
    slots_used_max: float
    """Highest five-minute mean of the batch."""
    it_load_share: float | None
    """IT power over the rated IT power of the plant: PUE is worse the smaller this is."""
    pue: float | None
    pue_full_load: float | None
    """Of the same plant, in the mean weather of the run's first day, with all of its rated load."""
    energy: EnergyUse
    supply: SupplyUse
    carbon: CarbonUse
    cost: CostUse
    ai_share: float | None
    """Of the meter, what is not base load. Carbon and cost are of the whole meter; this share of them is the engines'."""
    wh_per_answer: float | None
    """All of the meter that is not base load, idle and overhead included, over answers."""
    g_per_answer: float | None
    """Location-based and own, what the battery lost of its first content at the grid's mean; the same share."""
    usd_per_answer: float | None
    """Energy less export plus demand, the same share, and egress."""
    carbon_free_share: float | None
    carbon_free_hourly: tuple[float | None, ...]
    """Hour by hour of the run: carbon-free over served energy."""


class Pooling(Value, frozen=True, kw_only=True):
    """What it costs that sites are separate: peaks that do not coincide need room at each site."""

    slots_fleet_max: float
    """Highest five-minute mean of slots in use, all sites together."""
    slots_sites_max: float
    """Each site's own highest, added."""
    loss_share: float | None
    """How much more room separate sites need than one pool with the same work: sites over fleet, less 1."""
    demand_fleet_rps_max: float
    demand_origins_rps_max: float
    """Each origin's own highest, added: the demand that sites would have to be built for if they shared nothing."""
    alone_share: float | None
    """The same for origins: what sharing saves."""
    slots_idle_share: float | None
    """Slots that stood empty on average."""


class Place(Value, frozen=True, kw_only=True):
    """Where an origin or a site is."""

    id: str
    lat_deg: float
    lon_deg: float
    country: str


class Flows(Value, frozen=True, kw_only=True):
    """Answered requests [origin][site]."""

    origins: tuple[Place, ...]
    """Empty where the trace has none: then there is one row, of users everywhere."""
    sites: tuple[Place, ...]
    served: tuple[tuple[int, ...], ...]


class ResidencyCell(Value, frozen=True, kw_only=True):
    """Requests of one class from one country at one site."""

    data_class: str
    country: str
    site: str
    site_country: str
    executed: int
    entered: int
    """Whose gateway terminated the connection; it reads the data too."""
    lawful: bool
    """By the table, for at least one tenant that may send the class."""


class Barred(Value, frozen=True, kw_only=True):
    """A site that law closes to a class from a country, for every tenant that may send it."""

    data_class: str
    country: str
    site: str
    rules: tuple[str, ...]


class Residency(Value, frozen=True, kw_only=True):
    """That no request was executed where its law forbids."""

    unlawful: int
    """Counted at the moment each request reached an engine, by its own subject's row of law; must be 0."""
    unlawful_recount: int
    """Counted again from the finished requests and the tables at start and end; must be 0."""
    cells: tuple[ResidencyCell, ...]
    barred: tuple[Barred, ...]
    rules: dict[str, str]
    """Rules that close a site here, with their citation."""
    refused_by_law: int
    """No lawful site, or none of the near gateways that may read it was up."""


class Course(Value, frozen=True, kw_only=True):
    """The run over time, in equal steps."""

    step_s: float
    arrived_per_s: tuple[float, ...]
    unanswered_per_s: tuple[float, ...]
    """Refused, failed and broken."""
    ttft_ms_p95: tuple[float | None, ...]
    slots_used: dict[str, tuple[float, ...]]
    """Mean batch by site."""
    facility_kw: dict[str, tuple[float, ...]]


class Distribution(Value, frozen=True, kw_only=True):
    """A latency's quantiles over all answered requests."""

    what: Literal["ttft_ms", "tpot_ms", "e2e_ms"]
    share: tuple[float, ...]
    ms: tuple[float, ...]


class Happened(Value, frozen=True, kw_only=True):
    """One fault."""

    at_s: float
    until_s: float | None
    """None: until the end."""
    text: str


class Assumption(Value, frozen=True, kw_only=True):
    """A figure that the result rests on."""

    about: str
    quantity: str
    method: str
    error: str
    source: str


class LatencyReturn(Value, frozen=True, kw_only=True):
    """What each added millisecond of waiting bought, against a reference; per answer.

    After "energy and carbon return on latency" (arXiv 2604.27855). None where nothing was paid (no latency added), so that
    there is no rate; `added_ms` and the savings say which of the two is better then. Negative savings cost.
    """

    reference: str
    added_ttft_ms: float | None
    added_e2e_ms: float | None
    saved_wh: float | None
    saved_g: float | None
    saved_usd: float | None
    wh_per_ms: float | None
    """Per added ms of mean E2E."""
    g_per_ms: float | None
    usd_per_ms: float | None


class Result(Value, frozen=True, kw_only=True):
    """All of it."""

    schema: Literal["hanse-result/1"] = "hanse-result/1"
    run: RunInfo
    notes: tuple[str, ...]
    """What a reader has to know first: what was assumed because trace or fleet did not say, what ran slowly or not at all because of what they say."""
    groups: tuple[GroupResult, ...]
    fleet: SiteResult
    sites: tuple[SiteResult, ...]
    pooling: Pooling
    flows: Flows
    residency: Residency
    distributions: tuple[Distribution, ...]
    course: Course
    happened: tuple[Happened, ...]
    assumptions: tuple[Assumption, ...]
    latency_return: LatencyReturn | None = None

    def group(self, kind: GroupKind, name: str = "all") -> GroupResult:
        """A group by name."""
        return next(g for g in self.groups if g.kind == kind and g.name == name)

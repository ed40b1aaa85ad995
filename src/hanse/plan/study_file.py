"""The nouns of a study file: who asks for what, where one could build, in which sizes, under which policies.

Here: frozen values, decoded from TOML as they stand (`[[workload]]` becomes `workloads`), and their defaults with reasons. Not here:
reading and checking a file (`plan.read`), figures with ranges (`plan.assumptions`), anything computed.
"""

from __future__ import annotations

from datetime import date
from typing import Annotated, Final, Literal

from msgspec import Meta

from hanse.model.fleet import CountryCode, Id, LawClass, SiteKind, Value

WorkloadKind = Literal["interactive", "batch", "finetune"]
PolicyKind = Literal[
    "investment_credit", "feed_in_tariff", "carbon_tax", "localisation", "efficiency_duty"
]
Share = Annotated[float, Meta(ge=0, le=1)]
Positive = Annotated[float, Meta(gt=0)]
NotNegative = Annotated[float, Meta(ge=0)]


class StudyCity(Value, frozen=True, kw_only=True):
    """Where users are."""

    city: str
    country: CountryCode | None = None
    """Where several cities have the name; else the largest."""
    weight: NotNegative | None = None
    """Share of demand over the sum of weights; absent: the city's population."""


class Workload(Value, frozen=True, kw_only=True):
    """One kind of work: what is asked, how much of it, how fast and under which law."""

    id: Id
    kind: WorkloadKind = "interactive"
    """`batch` and `finetune` may wait for `slack_h`; interactive work may not."""
    model: str
    """Id in the catalogue of AI models."""
    precision: str = "fp8"
    accelerator: str = ""
    """Id in the catalogue; empty: what the site's size class holds."""
    law: LawClass = "non_personal"
    own_country: bool = False
    """Served in the user's own country only, by contract: stricter than law."""
    tokens_per_day: Positive
    """Of all cities, prompts and answers together, in the first year."""
    tokens_in: Positive = 1155.0
    tokens_out: Positive = 211.0
    """Means of a request. Defaults: the conversation service of Azure's trace of 2023 (Patel et al., ISCA 2024)."""
    growth_per_year: Annotated[float, Meta(gt=-1)] | None = None
    """Absent: the study's."""
    cities: tuple[str, ...] = ()
    """Names of the study's cities that ask for it; empty: all."""
    rtt_ms_max: Positive | None = None
    """Longest round trip from city to site, last mile included; absent: anywhere."""
    ttft_ms: Positive = 1000.0
    tpot_ms: Positive = 100.0
    slack_h: NotNegative = 0.0
    """How long it may wait for sun, carbon or a free chip."""


class Training(Value, frozen=True, kw_only=True):
    """One large training job."""

    id: Id
    parameters_b: Positive
    """Billions."""
    tokens_b: Positive
    layers: Annotated[int, Meta(ge=1)] = 48
    """Decide how much of a streamed exchange hides behind computing; 32 to 80 for dense models of 7 to 70 billion."""
    batch_tokens_m: Positive = 4.0
    """Millions of tokens a step."""
    accelerator: str = "h100-sxm"
    law: LawClass = "non_personal"
    days_max: Positive = 90.0
    year: Annotated[int, Meta(ge=0)] = 0
    """In which year of the study it runs."""


class SizeClass(Value, frozen=True, kw_only=True):
    """How large a site is. Unit costs follow from size by the scale law of `plan.assumptions`."""

    id: Id
    kind: SiteKind
    plant: SiteKind
    """Its cooling, UPS and losses: `energy.PLANTS`."""
    it_kw: Positive
    """IT power when fully built."""
    module_kw: Positive
    """Built in steps of this."""
    accelerators: tuple[str, ...]
    """What may stand there, best first; ids in the catalogue."""
    lead_years: NotNegative
    """From decision to service."""
    room: bool = False
    """Stands in an existing building, with its connection."""
    leased: bool = False
    """A row in somebody's campus: land and ports are paid for what stands, at the unit cost of the whole."""
    availability: Annotated[float, Meta(gt=0, lt=1)]
    """Share of the year in which the site works at all, plant and connection."""


class Candidate(Value, frozen=True, kw_only=True):
    """A place where one could build."""

    city: str
    country: CountryCode | None = None
    sizes: tuple[Id, ...] = ()
    """Size classes that fit there; empty: all."""
    price_usd_per_kwh: Positive | None = None
    """Delivered; absent: the country's industrial price."""
    pv_kw_max: NotNegative | None = None
    """Roof and land; absent: five times the site's IT power."""
    wind_kw_max: NotNegative = 0.0
    grid_kw_max: Positive | None = None
    """What the utility can connect; absent: what is built."""


class Cloud(Value, frozen=True, kw_only=True):
    """A place where chips are for rent."""

    city: str
    country: CountryCode | None = None
    operator_hq: CountryCode = "US"
    """The three largest clouds are American: their law reaches their sites."""


class PolicyEntry(Value, frozen=True, kw_only=True, rename={"from_": "from"}):
    """A rule with dates that changes cash flow, law or duties. It holds on days from `from` to before `until`."""

    id: Id
    kind: PolicyKind
    from_: date
    until: date | None = None
    countries: tuple[CountryCode, ...] = ()
    """Or blocs by `bloc`; both empty: everywhere."""
    bloc: Literal["", "EU", "EEA"] = ""
    value: NotNegative = 0.0
    """`investment_credit`: share of capital cost paid back. `feed_in_tariff`: USD per exported kWh. `carbon_tax`: USD per tonne of
    location-based emissions. `efficiency_duty`: highest lawful PUE. `localisation`: unused."""
    on: tuple[Literal["pv", "wind", "battery", "plant", "servers"], ...] = ()
    """What an investment credit is paid on; empty: own generation and batteries."""
    laws: tuple[LawClass, ...] = ()
    """Classes that a localisation binds to their own country."""
    above_kw: NotNegative = 0.0
    """Site IT power above which a duty holds."""
    source: str
    """Act or paper; a policy without a source is an opinion."""


class DesignSpec(Value, frozen=True, kw_only=True):
    """A way to build: which sizes, how many sites, with own generation or without."""

    id: Id
    name: str
    sizes: tuple[Id, ...] = ()
    """Allowed size classes; empty: none is built, all is rented."""
    sites_max: Annotated[int, Meta(ge=1)] | None = None
    own_power: bool = True
    """PV, wind and batteries where they pay."""
    rent: bool = False
    """A part is rented for good where that costs less than own sites for it; a design without sizes rents all."""


SIZES: Final = (
    SizeClass(
        id="tower",
        kind="edge",
        plant="edge",
        it_kw=6.0,
        module_kw=3.0,
        accelerators=("l4",),
        lead_years=0.25,
        room=True,
        availability=0.995,
    ),
    SizeClass(
        id="room",
        kind="micro",
        plant="micro",
        it_kw=100.0,
        module_kw=20.0,
        accelerators=("l40s", "l4"),
        lead_years=0.5,
        room=True,
        availability=0.99741,
    ),
    SizeClass(
        id="hall",
        kind="micro",
        plant="region",
        it_kw=1000.0,
        module_kw=100.0,
        accelerators=("h100-sxm", "l40s"),
        lead_years=1.0,
        availability=0.99982,
    ),
    SizeClass(
        id="hyperscale",
        kind="region",
        plant="region",
        it_kw=50_000.0,
        module_kw=50.0,
        accelerators=("h100-sxm", "l40s"),
        lead_years=2.0,
        leased=True,
        availability=0.99995,
    ),
)
"""From cell tower to hyperscale. Powers of a tower cabinet are what a telco site has to spare (an assumption); lead times: 8 to 16 weeks for modular,
18 to 30 months for built (facts of vendors, 2026); a hyperscale campus is built or leased by the row, at the unit cost of the whole; availability: Tier II, III and IV (Uptime Institute) but for the tower, which has one feed."""

DESIGNS: Final = (
    DesignSpec(id="region", name="one hyperscale region", sizes=("hyperscale",), sites_max=1),
    DesignSpec(id="micro", name="many micro sites", sizes=("tower", "room", "hall")),
    DesignSpec(id="edge-region", name="edge plus regions", sizes=("tower", "room", "hyperscale")),
    DesignSpec(
        id="mix",
        name="the best mix, own and rented",
        sizes=("tower", "room", "hall", "hyperscale"),
        rent=True,
    ),
    DesignSpec(id="rent", name="renting from a cloud"),
)


CLOUDS: Final = tuple(
    Cloud(city=city, country=country)
    for city, country in (
        ("Frankfurt am Main", "DE"), ("Dublin", "IE"), ("London", "GB"), ("Paris", "FR"), ("Stockholm", "SE"), ("Milan", "IT"),
        ("Zaragoza", "ES"), ("Zürich", "CH"), ("Washington", "US"), ("Columbus", "US"), ("Portland", "US"), ("San Francisco", "US"),
        ("Montréal", "CA"), ("São Paulo", "BR"), ("Tokyo", "JP"), ("Osaka", "JP"), ("Seoul", "KR"), ("Singapore", "SG"),
        ("Sydney", "AU"), ("Melbourne", "AU"), ("Mumbai", "IN"), ("Hyderābād", "IN"), ("Jakarta", "ID"), ("Hong Kong", "HK"),
        ("Cape Town", "ZA"), ("Dubai", "AE"), ("Manama", "BH"), ("Tel Aviv", "IL"),
    )
)  # fmt: skip
"""Cities of Amazon's regions, the longest list (Green Software Foundation, region metadata of 2024)."""


class Study(
    Value,
    frozen=True,
    kw_only=True,
    rename={
        "cities": "city",
        "workloads": "workload",
        "trainings": "training",
        "sizes": "size",
        "candidates": "candidate",
        "clouds": "cloud",
        "policies": "policy",
        "designs": "design",
    },
):
    """Everything a planner writes."""

    schema: Literal["hanse-study/1"]
    name: Id
    start: date
    """First day of the first year."""
    years: Annotated[int, Meta(ge=1, le=30)] = 5
    growth_per_year: Annotated[float, Meta(gt=-1, le=10)] = 0.3
    operator_hq: CountryCode
    """Country whose law reaches the operator."""
    certifications: tuple[str, ...] = ()
    """What its sites hold, as in a fleet file."""
    mechanisms: tuple[str, ...] = ()
    """Transfer mechanisms that the users hold, e.g. `scc+tia`."""
    seed: Annotated[int, Meta(ge=0)] = 1
    draws: Annotated[int, Meta(ge=1, le=1_000_000)] = 1000
    sites_lost: Annotated[int, Meta(ge=0, le=1)] = 1
    """Interactive demand must fit into what is left when so many sites are gone."""
    cities: Annotated[tuple[StudyCity, ...], Meta(min_length=1)]
    workloads: tuple[Workload, ...] = ()
    trainings: tuple[Training, ...] = ()
    sizes: tuple[SizeClass, ...] = SIZES
    candidates: tuple[Candidate, ...] = ()
    """Empty: every city of the study."""
    designs: tuple[DesignSpec, ...] = DESIGNS
    clouds: tuple[Cloud, ...] = CLOUDS
    policies: tuple[PolicyEntry, ...] = ()
    assumptions: dict[str, float | tuple[float, float, float]] = {}
    """Figures that replace the shipped ones, by id: one number, or low, mid, high."""
    sources: dict[str, str] = {}
    """Where those come from, by the same ids."""

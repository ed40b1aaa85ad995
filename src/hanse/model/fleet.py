"""The nouns of a fleet file: sites, pools, links, services, tenants, classes, placement.

Here: frozen values, decoded from TOML as they stand (`[[site]]` becomes `sites`). Not here: the meaning checks (`model.check`),
reading files (`model.read`), facts about hardware or law (`catalogue`), anything computed.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from hanse.units import SECONDS_PER_HOUR

SiteKind = Literal["micro", "edge", "region"]
DriverKind = Literal["process", "external", "kubernetes"]
Protocol = Literal["openai"]
CarbonSignal = Literal["average_location", "average_market", "marginal"]
Endpoint = Literal["chat", "completions", "embeddings"]
FacilityDriver = Literal["redfish", "snmp", "modbus", "nvml", "dcgm", "mqtt", "dsx-flex", "openadr"]
Measures = Literal["it", "site", "pv", "wind"]
RegisterKind = Literal["u16", "i16", "u32", "i32", "u64", "f32", "f64"]
Quantity = Literal[
    "power_w", "energy_wh", "temp_c", "voltage_v", "current_a", "frequency_hz", "charge_share", "limit_w", "flow_l_per_min", "state",
]  # fmt: skip
"""What a reading of the plant may be; each has one unit."""
LawClass = Literal[
    "non_personal",
    "personal",
    "sensitive",
    "health",
    "payment",
    "telecom",
    "government",
    "important",
    "ci_operator",
]
"""Classes of data that the catalogue of law tells apart."""

Id = Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
"""Lower-case letters, digits, hyphens: safe in NATS subjects, file names and DNS labels."""
CountryCode = Annotated[str, Meta(pattern=r"^[A-Z]{2}$")]
"""ISO 3166-1 alpha-2, upper case."""


class Value(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What every noun is: immutable, named fields only, unknown fields refused."""


class Weights(Value, frozen=True, kw_only=True):
    """What the operator pays to be faster or cleaner."""

    usd_per_latency_s: float = 0.002
    """One second of a user's waiting. 0.002 is 7 USD an hour of attention: change it first."""
    usd_per_tonne_co2e: float = 100.0
    """Carbon price. 100 is near the upper end of EU allowance prices of 2023 to 2025."""


class Central(Value, frozen=True, kw_only=True):
    """The one big site that every live decision is also asked of (the shadow)."""

    site: Id
    replicas: int | None = None
    """Replicas it would hold of each service's best variant; absent: as many as the whole league places
    of that service, which is the fair comparison."""


class DataClass(Value, frozen=True, kw_only=True):
    """A class of data a request may carry, and which class of law governs it."""

    id: Id
    law: LawClass
    quality_min: float = 0.0
    """Lowest quality score (0 to 1) of a variant that may serve this class."""
    priority: int = 50
    """0 to 100. A site short of power refuses classes of lower priority first, those of equal priority together; 50, the
    middle, leaves room on both sides."""


class Power(Value, frozen=True, kw_only=True):
    """Electrical supply of a site. Flows are never signed."""

    grid_kw_max: float
    base_kw: float = 0.0
    """What the site draws for others (tenants, plant) whatever the league does; own generation
    covers it first."""
    pv_kw_peak: float = 0.0
    pv_tilt_deg: float = 30.0
    """Near the yearly optimum at 45 to 55 degrees north."""
    wind_kw_rated: float = 0.0
    battery_kwh: float = 0.0
    battery_kw_max: float = 0.0
    it_kw_rated: float | None = None
    """IT power that the hall was built for; absent: what its chips are rated for. A half-empty hall wastes more."""
    pue: float | None = None
    """Fixed power usage effectiveness; when absent it follows kind and outdoor temperature."""
    price_usd_per_kwh: float | None = None
    """Delivered price; when absent the country's industrial price."""
    usd_per_kw_month: float = 0.0
    """Demand charge on the month's highest quarter of an hour of import; 0 where the delivered price is all in."""
    export_kw_max: float | None = None
    """What the grid takes back; absent: as much as the connection imports. 0: own power that nobody uses is curtailed."""
    export_usd_per_kwh: float = 0.0
    """Paid for it."""


class Gateway(Value, frozen=True, kw_only=True):
    """Where a site listens. Port 0 lets the supervisor choose a free one."""

    host: str = "127.0.0.1"
    """Loopback: plain HTTP for programs on the machine. Anything else: TLS there, and plain HTTP on 127.0.0.1 beside it."""
    port: int = 0
    hop_port: int = 0
    workers: int = 1
    advertise: str = ""
    """Name or address under which others reach `host`; empty: `host` itself."""

    @property
    def reached_at(self) -> str:
        """Name or address that others dial."""
        return self.advertise or self.host


class OtherHub(Value, frozen=True, kw_only=True):
    """A further hub, on a machine that came with a token; it says here where it is reached."""

    id: Id
    host: str
    """Name or address under which sites and the other hubs reach it."""
    leaf_port: int
    """Sites' buses, by mutual TLS."""
    cluster_port: int
    """The other hubs' buses, by mutual TLS."""


class Hub(Value, frozen=True, kw_only=True):
    """Where the hub listens for sites on other machines. Port 0 lets a free one be chosen, and kept."""

    host: str = "127.0.0.1"
    leaf_port: int = 0
    """Sites' buses, by mutual TLS."""
    door_port: int = 0
    """Machines that join, by TLS and a token."""
    advertise: str = ""
    """Name or address under which sites reach it; empty: `host` itself."""
    cluster_port: int = 0
    """The other hubs' buses; 0: there never were any."""
    others: tuple[OtherHub, ...] = ()
    """None, or two, which decide together with this one. One waits for the second."""

    @property
    def reached_at(self) -> str:
        """Name or address that sites dial."""
        return self.advertise or self.host


class Kubernetes(Value, frozen=True, kw_only=True):
    """The workload of a `kubernetes` pool, whose replicas are engines. `{service}`, `{variant}` and `{chips}` in its name are filled in."""

    kind: Literal["Deployment", "LeaderWorkerSet"] = "Deployment"
    name: str
    namespace: str = "default"
    port: int = 8000
    """Where the engine in a pod listens; 8000 is what vLLM takes."""
    chips: int = 1
    """Of one replica, as its pod template asks for. With `{chips}` in the name there is a workload for each number, and this is not read."""
    kubeconfig: str = ""
    """File with server, CA and credentials; empty: the service account of the pod that the agent runs in."""


class Pool(Value, frozen=True, kw_only=True):
    """Identical engines' hardware at a site."""

    id: Id
    accelerator: str
    """Id in the catalogue of accelerators."""
    count: int
    """Chips (for `x86-thread`: threads)."""
    driver: DriverKind = "process"
    urls: tuple[str, ...] = ()
    """Base URLs of running engines, for `external`."""
    kubernetes: Kubernetes | None = None
    """What to scale, for `kubernetes`."""
    continues: bool | None = None
    """Whether its engines go on with an answer that others began: they take `continue_final_message`, as llama.cpp, vLLM and SGLang do.
    Absent: engines of driver `process` do, others do not."""

    @property
    def goes_on(self) -> bool:
        """What holds where the file does not say."""
        return self.driver == "process" if self.continues is None else self.continues


class Site(Value, frozen=True, kw_only=True, rename={"pools": "pool"}):
    """One data center, whatever its size."""

    id: Id
    kind: SiteKind
    city: str
    country: CountryCode
    lat_deg: Annotated[float, Meta(ge=-90, le=90)]
    lon_deg: Annotated[float, Meta(ge=-180, le=180)]
    operator_hq: CountryCode
    """Country whose law reaches the operator."""
    certifications: tuple[str, ...] = ()
    """What the site's operator holds, e.g. `hds_certified_host`, `dpf`, `baa`."""
    grid_zone: str = ""
    """Zone of carbon and weather series; empty means the country's annual mean."""
    weather_zone: str = ""
    plant: SiteKind | None = None
    """Whose cooling and UPS it has, where not its kind's: a new hall of a megawatt is a micro site with a region's plant."""
    power: Power
    gateway: Gateway = Gateway()
    pools: tuple[Pool, ...] = ()

    @property
    def plant_kind(self) -> SiteKind:
        """Which of `energy.PLANTS` it has."""
        return self.plant or self.kind


class Link(Value, frozen=True, kw_only=True):
    """A WAN path between two sites, the same both ways."""

    a: Id
    b: Id
    rtt_ms: float
    mbit_s: float
    usd_per_gb: float = 0.0


class Variant(Value, frozen=True, kw_only=True):
    """One model at one precision that can serve a service."""

    id: Id
    model: str
    """Id in the catalogue of AI models."""
    precision: str
    quality: Annotated[float, Meta(ge=0, le=1)]
    quality_source: str
    served_model: str = ""
    """Name the engine serves it under; empty means the service id (what clients send)."""


class Slo(Value, frozen=True, kw_only=True):
    """What a client of a service may expect; misses are served, counted and shown."""

    ttft_ms: float
    tpot_ms: float
    deadline_s: float = 60.0
    """A request not finished by then is ended; 60 s is the usual client default's tenth."""


class Service(Value, frozen=True, kw_only=True, rename={"variants": "variant"}):
    """What a client names in `model`."""

    id: Id
    protocol: Protocol = "openai"
    endpoints: tuple[Endpoint, ...] = ("chat", "completions")
    aliases: tuple[str, ...] = ()
    slo: Slo
    variants: tuple[Variant, ...]
    body_bytes_max: int = 4 * 1024 * 1024
    output_tokens_max: int = 4096
    usd_per_latency_s: float | None = None
    """Overrides the fleet's weight."""

    @property
    def embeds(self) -> bool:
        """Whether it makes embeddings and no text: its models need not generate."""
        return self.endpoints == ("embeddings",)


class Key(Value, frozen=True, kw_only=True):
    """An API key of a tenant: its digest, never itself."""

    id: Id
    sha256: str = ""
    """Hex SHA-256 of the key; empty: `hanse up` makes a key at first start and keeps it beside its
    state, mode 0600."""
    countries: tuple[CountryCode, ...]
    """Legal countries of origin this key may speak for; the first is the default."""
    requests_per_s_max: float = 100.0
    burst: int = 200


class Tenant(Value, frozen=True, kw_only=True, rename={"keys": "key"}):
    """A customer and its legal profile."""

    id: Id
    classes: tuple[Id, ...]
    """Data classes it may send; the first is the default of a request that names none."""
    services: tuple[Id, ...] = ()
    """Services it may use; empty means all."""
    mechanisms: tuple[str, ...] = ()
    """Transfer mechanisms it holds, e.g. `scc+tia`, `bcr`; ids as in the catalogue's rules."""
    sovereign: bool = False
    """True: no site whose operator a foreign disclosure law reaches."""
    keys: tuple[Key, ...]


class Placement(Value, frozen=True, kw_only=True):
    """Replicas of one variant in one pool of one site."""

    service: Id
    variant: Id
    site: Id
    pool: Id
    replicas: int = 1
    slots: int = 4
    """Requests one replica decodes at once (llama.cpp `n_parallel`, vLLM `max_num_seqs`)."""
    context_tokens: int = 8192
    """KV capacity of one replica over all slots, in tokens."""
    chips: int | None = None
    """Of one replica, for itself alone; absent: an equal share of the pool, which replicas that come or go change and which
    restarts nothing."""


class FailureGroup(Value, frozen=True, kw_only=True):
    """Sites that may fail together: one feeder, one landing station, one flood plain."""

    id: Id
    sites: tuple[Id, ...]


class Policy(Value, frozen=True, kw_only=True):
    """The operator's own law on top of the shipped rules."""

    cedar_files: tuple[str, ...] = ()
    """Paths, relative to the fleet file, of Cedar policies; `forbid` only ever narrows."""
    valid_s: float = 86_400.0
    """A table older than this admits nothing. One day outlives a night's cut; law changes slower."""
    heard_stale_s: float = 2.0
    """Age of heard load after which a peer is no candidate: four missed 2 Hz checks."""


class SlowLoop(Value, frozen=True, kw_only=True):
    """What the controller decides by itself, and how often."""

    places: bool = False
    """It decides which replicas run where; else `[[placement]]` holds."""
    place_every_s: float = 900.0
    """A quarter of an hour: loading a large model takes minutes, demand moves in tens of them."""
    window_s: float = SECONDS_PER_HOUR
    """How long a placement is made for; what switching costs once is spread over it."""
    schedule_every_s: float = 300.0
    """Deferrable work and batteries, on the five-minute grid of the balance."""
    demand_bin_s: float = 300.0
    """Length of the steps in which demand is counted and forecast."""
    carbon_signal: CarbonSignal = "average_location"
    """Which carbon intensity placement and schedules decide by. The other two need a feed (or a recording) of every site's grid."""


class Batch(Value, frozen=True, kw_only=True):
    """Batches: what each site keeps for them."""

    home_copies: int = 1
    """Sites that hold a batch. 2: one more eligible site stands by and takes over; without a hub there is none to decide that, so 1."""
    file_bytes_max: int = 200_000_000
    """OpenAI's limit."""
    lines_max: int = 50_000
    """OpenAI's limit of one batch."""
    tenant_lines_max: int = 200_000
    """Lines of all unfinished batches of a tenant at one home: four full batches."""
    tenant_bytes_max: int = 2_000_000_000
    """Files of a tenant at one home: ten full ones, a quarter of what a leaf's bus may store."""
    lines_at_once_max: int = 64
    """In flight from one home; spare room at engines is nearly always the lower bound."""
    file_days: float = 30.0
    """Files go after this, as OpenAI's of purpose `batch` do."""


class Retention(Value, frozen=True, kw_only=True):
    """How long what is written down is kept, and what a disk that fills up may cost. GB are 1e9 bytes."""

    site_days: float = 90.0
    """Chains of records at a site, once the hub has them: a quarter's questions are answered without asking the hub."""
    site_gb_max: float = 50.0
    """The same by size, oldest first: some 100 million requests."""
    hub_days: float = 400.0
    """Copies at the hub, and chains of a site without one: a year's statements can be made again, and a month to notice."""
    hub_gb_max: float = 1000.0
    log_days: float = 30.0
    """Logs of processes that were moved aside, and logs of decisions that were asked for (`HANSE_RECORD`)."""
    log_mb_max: float = 64.0
    """A process's log beyond this is moved aside; one is kept."""
    disk_low_gb: float = 2.0
    """Free room below which things are given up in the order of docs/backup.md; never more than a tenth of the disk."""
    disk_full_gb: float = 0.25
    """Free room below which requests are refused: minutes of records of a busy site; never more than a fiftieth of the disk."""


class Register(Value, frozen=True, kw_only=True):
    """One value in a Modbus device's holding or input registers: number x `scale` is the quantity."""

    point: Id
    quantity: Quantity
    address: int
    """As in the protocol, from 0: a maker's 40001 is 0 (holding), 30001 is 0 (input)."""
    kind: RegisterKind = "u16"
    scale: float = 1.0
    input: bool = False
    """Of the input registers (function 4), else the holding registers (function 3)."""
    low_word_first: bool = False
    """Order of the words of a longer number; most devices send the high word first."""


class Oid(Value, frozen=True, kw_only=True):
    """One object of an SNMP agent: number x `scale` is the quantity."""

    point: Id
    quantity: Quantity
    oid: str
    scale: float = 1.0


class Signer(Value, frozen=True, kw_only=True):
    """Who may set load targets: the key id in its messages, and the public key."""

    kid: str
    key_file: str
    """PEM of a public key: P-256 (ES256) or RSA (RS256)."""


class Facility(
    Value,
    frozen=True,
    kw_only=True,
    rename={"registers": "register", "oids": "oid", "signers": "signer"},
):
    """A thing of a site's plant that its agent asks over the network, or that tells it."""

    id: Id
    site: Id
    driver: FacilityDriver
    url: str = ""
    """`https://HOST` (redfish, openadr), `http://HOST:9400` (dcgm), `snmp://HOST`, `modbus://HOST`, `mqtt://HOST` or `mqtts://HOST`; absent for mqtt
    and dsx-flex: the site's own bus listens. nvml has none."""
    user: str = ""
    secret_env: str = ""
    """Environment variable of the agent that holds the password, token, community or, for SNMP v3, both passphrases, one a line."""
    secret_file: str = ""
    """The same in a file that only its owner may read; a relative path starts at the site's state directory."""
    ca_file: str = ""
    """PEM of who signed the device's certificate; absent: the machine's own roots."""
    fingerprint_sha256: str = ""
    """Of the device's own certificate, hex, where nobody signed it: exactly this one is trusted."""
    every_s: float = 5.0
    """A BMC takes most of a second for an answer; a site's power matters within some seconds."""
    profile: str = ""
    """snmp: `ups-mib`, `apc-pdu` or absent (only the `oid`s here); modbus: `sunspec` or absent (only the `register`s here)."""
    version: Literal["2c", "3"] = "2c"
    """Of SNMP."""
    auth: Literal["sha", "sha256"] = "sha256"
    """SNMP v3: of its HMAC (privacy is AES-128); agents from before 2015 know SHA-1 alone."""
    context: str = ""
    """SNMP v3: of an agent that answers for several devices."""
    unit: int = 1
    """Modbus unit of the device, behind a gateway; 1 is what most answer to."""
    registers: tuple[Register, ...] = ()
    oids: tuple[Oid, ...] = ()
    listen: str = "127.0.0.1:1883"
    """mqtt and dsx-flex without a `url`: where the site's own bus takes MQTT from `user`. Beyond this machine it does so over TLS, with the site's
    certificate. 1883 is MQTT's registered port."""
    topics: tuple[str, ...] = ("BMS/v1/PUB/Value/#",)
    """MQTT topics of points, with their wildcards."""
    identifier: str = ""
    """dsx-flex: this site's name in topics; absent: the site's id. openadr: the VEN's name."""
    feed: str = "main"
    """dsx-flex: tag of the feed that is this site's supply."""
    signers: tuple[Signer, ...] = ()
    signing_key_file: str = ""
    """dsx-flex: PEM of the private key of own messages; absent: one is made at first start, its public half beside it."""
    program: str = ""
    """openadr: id of the program whose events bind; absent: all that the VTN shows."""
    caps_power: bool = False
    """redfish, nvml: a load target or a brownout also lowers the power limit of the device itself, read back and lifted afterwards."""
    resets: tuple[Id, ...] = ()
    """redfish: ComputerSystems that may be reset when the node behind them is dead, by the id of the pool whose engines run there."""


class PlantMeter(Value, frozen=True, kw_only=True):
    """Which reading counts as what a site draws or makes. Meters of one kind at a site add up."""

    id: Id
    site: Id
    facility: Id
    point: str
    """Name of a power reading, as `hanse facility` lists them."""
    energy_point: str = ""
    """Name of the device's own energy counter, where it has one: better than power added up."""
    measures: Measures
    pool: Id | None = None
    """`it` alone: power of this pool's engines and no other."""
    error_share: float = 0.02
    """Two standard errors, of the reading; 2 % is a class 2 meter (IEC 62053-21), and what servers' own sensors reach at half load."""
    stale_s: float = 30.0
    """Age from which a reading no longer counts and an estimate takes its place: five missed readings at the default pace."""


class Fleet(
    Value,
    frozen=True,
    kw_only=True,
    rename={
        "classes": "class",
        "sites": "site",
        "links": "link",
        "services": "service",
        "tenants": "tenant",
        "placements": "placement",
        "failure_groups": "failure_group",
        "facilities": "facility",
        "meters": "meter",
    },
):
    """Everything an operator writes."""

    schema: Literal["hanse-fleet/1"]
    name: Id
    weights: Weights = Weights()
    policy: Policy = Policy()
    slow_loop: SlowLoop = SlowLoop()
    feeds: str = ""
    """Path, relative to the fleet file, of the file that names live feeds; absent: recorded years are replayed."""
    batch: Batch = Batch()
    retention: Retention = Retention()
    central: Central | None = None
    hub: Hub = Hub()
    classes: tuple[DataClass, ...]
    sites: tuple[Site, ...]
    links: tuple[Link, ...] = ()
    services: tuple[Service, ...]
    tenants: tuple[Tenant, ...]
    placements: tuple[Placement, ...] = ()
    failure_groups: tuple[FailureGroup, ...] = ()
    """What a placement has to survive, one at a time; none: any one site."""
    facilities: tuple[Facility, ...] = ()
    meters: tuple[PlantMeter, ...] = ()

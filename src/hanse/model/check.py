"""Every wrong meaning of a fleet, listed at once: `check_fleet`.

Here: references, doubles, ranges, reachability. Numbers have one table of ranges (`RANGES`); whatever names another
thing is followed. Not here: shapes (`model.read`), what the catalogue knows (`model.known_ids`), files that exist or not, law.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any, Final

import msgspec

from hanse.model.fleet import (
    Batch,
    Central,
    DataClass,
    Facility,
    Fleet,
    Gateway,
    Hub,
    Key,
    Kubernetes,
    Link,
    Oid,
    OtherHub,
    Placement,
    PlantMeter,
    Policy,
    Pool,
    Power,
    Register,
    Retention,
    Service,
    Site,
    Slo,
    SlowLoop,
    Value,
    Variant,
    Weights,
)
from hanse.model.hub_check import hub_problems
from hanse.model.known_ids import COUNTRY, country_codes
from hanse.model.plant_check import plant_problems
from hanse.model.problem import Problem as Problem
from hanse.model.problem import Range, unknown
from hanse.model.workloads import odd_chips, shared_workloads

HOUR_S: Final = 60.0 * 60.0
YEAR_S: Final = 365.0 * 86_400.0
KILOWATTS: Final = (
    ("grid_kw_max", "base_kw", "pv_kw_peak", "wind_kw_rated", "battery_kw_max", "export_kw_max")
)  # fmt: skip

RANGES: Final[dict[tuple[type, str], Range]] = {
    (Weights, "usd_per_latency_s"): Range(0, 100),  # 100 is 360,000 USD an hour of attention
    (Weights, "usd_per_tonne_co2e"): Range(0, 10_000),  # published social costs end near 2,000
    (Central, "replicas"): Range(1, 100_000),
    (DataClass, "quality_min"): Range(0, 1),
    (DataClass, "priority"): Range(0, 100),
    **{(Power, name): Range(0, 5e6) for name in KILOWATTS},  # 5 GW: the largest campus announced
    (Power, "pv_tilt_deg"): Range(0, 90),
    (Power, "battery_kwh"): Range(0, 5e7),
    (Power, "it_kw_rated"): Range(0, 5e6, above=True),
    (Power, "pue"): Range(1, 5),  # below 1 is impossible by definition; 5 is a nearly empty hall
    (Power, "price_usd_per_kwh"): Range(0, 10),
    (Power, "usd_per_kw_month"): Range(0, 1000),
    (Power, "export_usd_per_kwh"): Range(0, 10),
    (Gateway, "port"): Range(0, 65_535),
    (Gateway, "hop_port"): Range(0, 65_535),
    **{(Hub, name): Range(0, 65_535) for name in ("leaf_port", "door_port", "cluster_port")},
    **{(OtherHub, name): Range(1, 65_535) for name in ("leaf_port", "cluster_port")},
    (Gateway, "workers"): Range(1, 16),  # rows of the shared page
    (Pool, "count"): Range(1, 1_000_000),
    (Kubernetes, "port"): Range(1, 65_535),
    (Kubernetes, "chips"): Range(1, 1_024),
    (Site, "lat_deg"): Range(-90, 90),
    (Site, "lon_deg"): Range(-180, 180),
    (Link, "rtt_ms"): Range(0, 10_000, above=True),  # a geostationary hop is 600
    (Link, "mbit_s"): Range(0, 1e7, above=True),  # 10 Tbit/s: a fibre pair
    (Link, "usd_per_gb"): Range(0, 100),
    (Variant, "quality"): Range(0, 1),
    (Slo, "ttft_ms"): Range(0, 3_600_000, above=True),
    (Slo, "tpot_ms"): Range(0, 3_600_000, above=True),
    (Slo, "deadline_s"): Range(0, 86_400, above=True),
    (Service, "body_bytes_max"): Range(1, 1024**3),
    (Service, "output_tokens_max"): Range(1, 10_000_000),
    (Service, "usd_per_latency_s"): Range(0, 100),
    (Key, "requests_per_s_max"): Range(0, 1e6, above=True),
    (Key, "burst"): Range(1, 1e6),
    (Placement, "replicas"): Range(1, 100_000),
    (Placement, "slots"): Range(1, 65_536),
    (Placement, "context_tokens"): Range(1, 1e9),
    (Placement, "chips"): Range(1, 1_000_000),
    (SlowLoop, "place_every_s"): Range(5, 86_400),
    (SlowLoop, "window_s"): Range(60, 86_400),
    (SlowLoop, "schedule_every_s"): Range(5, 86_400),
    (SlowLoop, "demand_bin_s"): Range(1, 86_400),
    (Policy, "valid_s"): Range(0, YEAR_S, above=True),
    (Policy, "heard_stale_s"): Range(0, 86_400, above=True),
    (Facility, "every_s"): Range(
        0.2, HOUR_S
    ),  # a PDU answers in tens of milliseconds, a battery changes in minutes
    (Facility, "unit"): Range(0, 255),  # a byte of the Modbus header
    (Register, "address"): Range(0, 65_535),
    (Register, "scale"): Range(-1e12, 1e12),
    (Oid, "scale"): Range(-1e12, 1e12),
    (PlantMeter, "error_share"): Range(0, 1),
    (PlantMeter, "stale_s"): Range(0, 86_400, above=True),
    (Batch, "home_copies"): Range(1, 2),
    (Batch, "file_bytes_max"): Range(1, 1e10),
    (Batch, "lines_max"): Range(1, 100_000),  # subjects that one question to JetStream lists
    (Batch, "tenant_lines_max"): Range(1, 1e9),
    (Batch, "tenant_bytes_max"): Range(1, 1e13),
    (Batch, "lines_at_once_max"): Range(1, 4096),
    (Batch, "file_days"): Range(0, 3650, above=True),
    **{
        (Retention, name): Range(1, 36_500)  # under a day nobody could look; a century is for ever
        for name in ("site_days", "hub_days", "log_days")
    },
    **{(Retention, name): Range(0.001, 1e6) for name in ("site_gb_max", "hub_gb_max")},
    (Retention, "log_mb_max"): Range(1, 1e6),
    (Retention, "disk_low_gb"): Range(0, 1e6),
    (Retention, "disk_full_gb"): Range(0, 1e6),
}
"""What each number of a fleet may be: wide enough for anything sane, so that what falls out is a slip."""


def within_limits(value: Value) -> bool:
    """Whether each number of a value from another machine is what a fleet file may say."""
    kind = type(value)
    told = ((getattr(value, name), RANGES.get((kind, name))) for name in value.__struct_fields__)
    return all(found is None or limit is None or limit.holds(found) for found, limit in told)


ENGINES_PER_SITE_MAX: Final = 64
"""Engine slots of a site's shared page."""
RESERVED_SITE_IDS: Final = ("hub",)
_SHA256 = re.compile(r"^[0-9a-f]{64}$")
_URL = re.compile(r"^https?://[^/\s]+(/\S*)?$")
_WORKLOAD = re.compile(r"^([a-z0-9-]|\{service\}|\{variant\}|\{chips\})+$")


def check_fleet(fleet: Fleet) -> list[Problem]:
    """Everything wrong with a fleet that can be seen without looking outside it, in file order by subject."""
    subjects = (
        _numbers,
        _doubles,
        _empties,
        _central,
        _classes,
        _sites,
        _ports,
        hub_problems,
        _links,
        _reach,
        _services,
        _names_of_services,
        _tenants,
        _keys,
        _placements,
        _rooms,
        _workloads,
        _failure_groups,
        _policy,
        plant_problems,
    )
    return [problem for subject in subjects for problem in subject(fleet)]


def _numbers(fleet: Fleet) -> Iterator[Problem]:
    for where, owner, field, number in _walk(fleet, ""):
        allowed = RANGES[type(owner), field]
        if not allowed.holds(number):
            yield Problem(where=where, got=f"{number:g}", allowed=str(allowed))


def _walk(value: Value, path: str) -> Iterator[tuple[str, Value, str, float]]:
    """Every number below a value: its path in the file, its owner, its field name, itself."""
    for info in msgspec.structs.fields(value):
        inner: Any = getattr(value, info.name)
        where = f"{path}.{info.encode_name}" if path else info.encode_name
        if isinstance(inner, Value):
            yield from _walk(inner, where)
        elif isinstance(inner, tuple):
            for index, item in enumerate(inner):
                if isinstance(item, Value):
                    yield from _walk(item, f"{where}[{index}]")
        elif isinstance(inner, int | float) and not isinstance(inner, bool):
            yield where, value, info.name, inner


def _doubles(fleet: Fleet) -> Iterator[Problem]:
    yield from _doubled("class", [c.id for c in fleet.classes])
    yield from _doubled("site", [s.id for s in fleet.sites])
    for s, site in enumerate(fleet.sites):
        yield from _doubled(f"site[{s}].pool", [p.id for p in site.pools])
    yield from _doubled("service", [q.id for q in fleet.services])
    for q, service in enumerate(fleet.services):
        yield from _doubled(f"service[{q}].variant", [v.id for v in service.variants])
    yield from _doubled("tenant", [t.id for t in fleet.tenants])


def _doubled(where: str, ids: list[str]) -> Iterator[Problem]:
    first: dict[str, int] = {}
    for index, id in enumerate(ids):
        if id in first:
            yield Problem(
                where=f"{where}[{index}].id",
                got=repr(id),
                allowed=f"an id that {where}[{first[id]}] does not have",
                fix="rename one of the two",
            )
        first.setdefault(id, index)


def _empties(fleet: Fleet) -> Iterator[Problem]:
    for name, values in (
        ("class", fleet.classes),
        ("site", fleet.sites),
        ("service", fleet.services),
        ("tenant", fleet.tenants),
    ):
        if not values:
            yield Problem(where=name, got="none", allowed=f"at least one [[{name}]]")


def _central(fleet: Fleet) -> Iterator[Problem]:
    ids = {site.id for site in fleet.sites}
    if fleet.central is not None and fleet.central.site not in ids:
        yield unknown("central.site", fleet.central.site, ids, "site")


def _classes(fleet: Fleet) -> Iterator[Problem]:
    best = max((v.quality for q in fleet.services for v in q.variants), default=math.inf)
    for c, data_class in enumerate(fleet.classes):
        if best < data_class.quality_min <= 1:
            yield Problem(
                where=f"class[{c}].quality_min",
                got=f"{data_class.quality_min:g}",
                allowed=f"at most {best:g}, the best quality of any variant",
                fix="lower it, or add a better variant",
            )


def _sites(fleet: Fleet) -> Iterator[Problem]:
    for where, code in country_codes(fleet):
        if not COUNTRY.match(code):
            yield Problem(where=where, got=repr(code), allowed="two capital letters (ISO 3166-1)")
    for s, site in enumerate(fleet.sites):
        if site.id in RESERVED_SITE_IDS:
            yield Problem(
                where=f"site[{s}].id", got=repr(site.id), allowed="another name: reserved"
            )
        if not site.gateway.host.strip():
            yield Problem(
                where=f"site[{s}].gateway.host", got="''", allowed="a host name or address"
            )
        yield from _power(f"site[{s}].power", site.power)
        for p, pool in enumerate(site.pools):
            yield from _pool(f"site[{s}].pool[{p}]", pool)


def _power(where: str, power: Power) -> Iterator[Problem]:
    if power.grid_kw_max == power.pv_kw_peak == power.wind_kw_rated == 0:
        yield Problem(
            where=f"{where}.grid_kw_max", got="0", allowed="a supply: grid, pv or wind above 0"
        )
    if power.battery_kwh > 0 and power.battery_kw_max == 0:
        yield Problem(where=f"{where}.battery_kw_max", got="0", allowed="above 0, with battery_kwh")
    if power.battery_kw_max > 0 and power.battery_kwh == 0:
        yield Problem(where=f"{where}.battery_kwh", got="0", allowed="above 0, with battery_kw_max")


def _pool(where: str, pool: Pool) -> Iterator[Problem]:
    if pool.driver == "external" and not pool.urls:
        yield Problem(
            where=f"{where}.urls",
            got="none",
            allowed="the base URL of each running engine, with driver 'external'",
        )
    if pool.driver != "external" and pool.urls:
        yield Problem(
            where=f"{where}.urls",
            got=f"{len(pool.urls)} URLs",
            allowed=f"none with driver {pool.driver!r}",
            fix="set driver = 'external', or remove the URLs",
        )
    if (pool.driver == "kubernetes") != (pool.kubernetes is not None):
        yield Problem(
            where=f"{where}.kubernetes",
            got="none" if pool.kubernetes is None else "a workload",
            allowed="the workload to scale, with driver 'kubernetes' and no other",
        )
    elif pool.kubernetes is not None and not _WORKLOAD.match(pool.kubernetes.name):
        yield Problem(
            where=f"{where}.kubernetes.name",
            got=repr(pool.kubernetes.name),
            allowed="a name of lower-case letters, digits and hyphens, with {service}, {variant} and {chips} where they differ",
        )
    for u, url in enumerate(pool.urls):
        if not _URL.match(url):
            yield Problem(where=f"{where}.urls[{u}]", got=repr(url), allowed="http://HOST:PORT")


def _ports(fleet: Fleet) -> Iterator[Problem]:
    taken: dict[tuple[str, int], str] = {}
    for s, site in enumerate(fleet.sites):
        gateway = site.gateway
        for name, port in (("port", gateway.port), ("hop_port", gateway.hop_port)):
            where = f"site[{s}].gateway.{name}"
            if port and (gateway.reached_at, port) in taken:
                yield Problem(
                    where=where,
                    got=str(port),
                    allowed=f"a port that {taken[gateway.reached_at, port]} does not have",
                    fix="write 0 to let a free one be chosen",
                )
            taken.setdefault((gateway.reached_at, port), where)


def _links(fleet: Fleet) -> Iterator[Problem]:
    ids = {site.id for site in fleet.sites}
    first: dict[frozenset[str], int] = {}
    for index, link in enumerate(fleet.links):
        where = f"link[{index}]"
        for end, site in (("a", link.a), ("b", link.b)):
            if site not in ids:
                yield unknown(f"{where}.{end}", site, ids, "site")
        pair = frozenset((link.a, link.b))
        if len(pair) == 1:
            yield Problem(where=f"{where}.b", got=repr(link.b), allowed="another site than a")
        elif pair in first:
            yield Problem(
                where=where,
                got=f"{link.a} and {link.b} again",
                allowed=f"one link a pair; link[{first[pair]}] has these",
                fix="remove one of the two",
            )
        first.setdefault(pair, index)


def _reach(fleet: Fleet) -> Iterator[Problem]:
    """One problem for each site that no chain of links joins to the first site."""
    ids = [site.id for site in fleet.sites]
    near: dict[str, set[str]] = defaultdict(set)
    for link in fleet.links:
        near[link.a].add(link.b)
        near[link.b].add(link.a)
    reached, todo = set(ids[:1]), ids[:1]
    while todo:
        new = near[todo.pop()] - reached
        reached |= new
        todo += new
    for s, id in enumerate(ids):
        if id not in reached:
            yield Problem(
                where=f"site[{s}].id",
                got=f"{id!r}, which no chain of links joins to {ids[0]!r}",
                allowed="every site reachable from every other",
                fix=f"add a [[link]] with a or b = {id!r}",
            )


def _services(fleet: Fleet) -> Iterator[Problem]:
    for q, service in enumerate(fleet.services):
        where = f"service[{q}]"
        if not service.variants:
            yield Problem(
                where=f"{where}.variant", got="none", allowed="at least one [[service.variant]]"
            )
        if not service.endpoints:
            yield Problem(where=f"{where}.endpoints", got="none", allowed="at least one")
        slo = service.slo
        if 0 < slo.deadline_s * 1000 < slo.ttft_ms:
            yield Problem(
                where=f"{where}.slo.deadline_s",
                got=f"{slo.deadline_s:g}",
                allowed=f"at least ttft_ms = {slo.ttft_ms:g} milliseconds",
            )
        for v, variant in enumerate(service.variants):
            for name in ("model", "precision", "quality_source"):
                if not getattr(variant, name).strip():
                    yield Problem(where=f"{where}.variant[{v}].{name}", got="''", allowed="a text")


def _names_of_services(fleet: Fleet) -> Iterator[Problem]:
    """A client names a service by id or alias, so all of them are one set."""
    first = {service.id: f"service[{q}].id" for q, service in enumerate(fleet.services)}
    for q, service in enumerate(fleet.services):
        for a, alias in enumerate(service.aliases):
            where = f"service[{q}].aliases[{a}]"
            if not alias.strip():
                yield Problem(where=where, got=repr(alias), allowed="a name")
            elif alias in first:
                yield Problem(
                    where=where,
                    got=repr(alias),
                    allowed=f"a name that {first[alias]} does not have",
                )
            first.setdefault(alias, where)


def _tenants(fleet: Fleet) -> Iterator[Problem]:
    classes = {c.id for c in fleet.classes}
    services = {q.id for q in fleet.services}
    for t, tenant in enumerate(fleet.tenants):
        where = f"tenant[{t}]"
        if not tenant.classes:
            yield Problem(where=f"{where}.classes", got="none", allowed="at least one data class")
        if not tenant.keys:
            yield Problem(where=f"{where}.key", got="none", allowed="at least one [[tenant.key]]")
        for name, ids, known in (
            ("classes", tenant.classes, classes),
            ("services", tenant.services, services),
        ):
            for index, id in enumerate(ids):
                at = f"{where}.{name}[{index}]"
                if id not in known:
                    noun = "data class" if name == "classes" else "service"
                    yield unknown(at, id, known, noun)
                elif id in ids[:index]:
                    yield Problem(where=at, got=f"{id!r} again", allowed="each once")


def _keys(fleet: Fleet) -> Iterator[Problem]:
    """Key ids are one set over all tenants: secrets are kept in files named by them."""
    first: dict[str, str] = {}
    for t, tenant in enumerate(fleet.tenants):
        for k, key in enumerate(tenant.keys):
            where = f"tenant[{t}].key[{k}]"
            if not key.countries:
                yield Problem(
                    where=f"{where}.countries", got="none", allowed="at least one country of origin"
                )
            if key.sha256 and not _SHA256.match(key.sha256):
                yield Problem(
                    where=f"{where}.sha256",
                    got=f"{len(key.sha256)} characters",  # it may be the secret itself: never shown
                    allowed="64 lower-case hexadecimal digits",
                    fix="printf %s KEY | sha256sum",
                )
            for name, mark in (("id", key.id), ("sha256", key.sha256)):
                at = f"{where}.{name}"
                if mark and f"{name}={mark}" in first:
                    other = first[f"{name}={mark}"]
                    got = repr(mark) if name == "id" else "a digest"
                    yield Problem(where=at, got=got, allowed=f"one that {other} does not have")
                first.setdefault(f"{name}={mark}", at)


def _placements(fleet: Fleet) -> Iterator[Problem]:
    services = {q.id: {v.id for v in q.variants} for q in fleet.services}
    sites = {s.id: {p.id for p in s.pools} for s in fleet.sites}
    first: dict[tuple[str, str, str, str], int] = {}
    for index, placement in enumerate(fleet.placements):
        where = f"placement[{index}]"
        for outer, inner, known, noun in (
            ("service", "variant", services, "variant of the service"),
            ("site", "pool", sites, "pool of the site"),
        ):
            outer_id, inner_id = getattr(placement, outer), getattr(placement, inner)
            if outer_id not in known:
                yield unknown(f"{where}.{outer}", outer_id, known, outer)
            elif inner_id not in known[outer_id]:
                yield unknown(f"{where}.{inner}", inner_id, known[outer_id], noun)
        four = (placement.service, placement.variant, placement.site, placement.pool)
        if four in first:
            yield Problem(
                where=where,
                got="the same service, variant, site and pool again",
                allowed=f"one placement of these; placement[{first[four]}] has them",
                fix="raise its replicas",
            )
        first.setdefault(four, index)


def _failure_groups(fleet: Fleet) -> Iterator[Problem]:
    ids = {site.id for site in fleet.sites}
    yield from _doubled("failure_group", [g.id for g in fleet.failure_groups])
    for g, group in enumerate(fleet.failure_groups):
        if not group.sites:
            yield Problem(
                where=f"failure_group[{g}].sites", got="none", allowed="at least one site"
            )
        for s, site in enumerate(group.sites):
            if site not in ids:
                yield unknown(f"failure_group[{g}].sites[{s}]", site, ids, "site")
            elif site in group.sites[:s]:
                at = f"failure_group[{g}].sites[{s}]"
                yield Problem(where=at, got=f"{site!r} again", allowed="each once")
        if ids and ids <= set(group.sites):
            yield Problem(
                where=f"failure_group[{g}].sites",
                got="all sites of the fleet",
                allowed="some of them: nothing survives the loss of all",
                fix="leave one out, or remove the group",
            )


def _rooms(fleet: Fleet) -> Iterator[Problem]:
    """Replicas against what a pool and a site's shared page hold; the placement that overflows is named."""
    pools = {(s.id, p.id): p for s in fleet.sites for p in s.pools}
    in_pool: Counter[tuple[str, str]] = Counter()
    chips: Counter[tuple[str, str]] = Counter()
    at_site: Counter[str] = Counter()
    for index, placement in enumerate(fleet.placements):
        where, at = f"placement[{index}].replicas", (placement.site, placement.pool)
        pool = pools.get(at)
        if pool is None or placement.replicas < 1:
            continue
        in_pool[at] += placement.replicas
        held = placement.replicas * (placement.chips or 1)
        chips[at] += held
        at_site[placement.site] += placement.replicas
        replicas = placement.replicas
        for got, more, noun, most, what in (
            (chips[at], held, "chips", pool.count, f"count of pool {pool.id!r}"),
            (
                in_pool[at],
                replicas,
                "replicas",
                len(pool.urls) or math.inf,
                f"number of urls of pool {pool.id!r}",
            ),
            (
                at_site[placement.site],
                replicas,
                "replicas",
                ENGINES_PER_SITE_MAX,
                "engines one site can watch",
            ),
        ):
            if most < got <= most + more:
                yield Problem(
                    where=where,
                    got=f"{got} {'replicas' if noun == 'chips' and got == in_pool[at] else noun} there in all",
                    allowed=f"at most {most}, the {what} at {placement.site!r}",
                )
                break


def _workloads(fleet: Fleet) -> Iterator[Problem]:
    for where, name, who in shared_workloads(fleet):
        allowed = "a workload for each variant"
        fix = "put {service} and {variant} into the name"
        yield Problem(where=where, got=f"{name!r} for {who}", allowed=allowed, fix=fix)
    for where, placed, name, has in odd_chips(fleet):
        allowed = f"{has}, as replicas of workload {name!r} have"
        fix = "set `chips` of the pool's kubernetes, or put {chips} into its name"
        yield Problem(where=where, got=str(placed), allowed=allowed, fix=fix)


def _policy(fleet: Fleet) -> Iterator[Problem]:
    if fleet.feeds and not fleet.feeds.endswith(".toml"):
        yield Problem(where="feeds", got=repr(fleet.feeds), allowed="a *.toml file")
    for index, name in enumerate(fleet.policy.cedar_files):
        if not name.endswith(".cedar"):
            yield Problem(
                where=f"policy.cedar_files[{index}]", got=repr(name), allowed="a *.cedar file"
            )

"""A design as files that run: a fleet for `hanse simulate` or `hanse up`, and a day's trace to try it on.

Here: `fleet_of`, `trace_of`, writing both. Not here: what the twin says of them (`validate`).

Both hold what the design's own sites serve: neither demand that the plan rents out or loses, nor fine-tuning, which is no request. Work with slack is
spread evenly over the day, since the planner built for that; the twin does not put requests off. Work bound to its country is so by a Cedar policy
beside the fleet file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, time
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from hanse.catalogue import City, distance_km, rtt_ms_floor
from hanse.model.check import ENGINES_PER_SITE_MAX
from hanse.model.fleet import (
    DataClass,
    Fleet,
    Key,
    Link,
    Placement,
    Policy,
    Pool,
    Service,
    Site,
    Slo,
    Tenant,
    Value,
    Variant,
)
from hanse.plan.demand import HOURS, Demand
from hanse.plan.design import Design
from hanse.plan.physics import site_of
from hanse.plan.study_file import Study, Workload
from hanse.serving.open_loop import ANSWER_SIGMA, PROMPT_SIGMA
from hanse.signals.traces import Trace
from hanse.signals.traces.generate import generate
from hanse.signals.traces.spec import (
    HOURS_DEFAULT,
    ClassShare,
    Conversation,
    Lognormal,
    OriginShare,
    ServiceShare,
    TenantShare,
    TraceSpec,
)
from hanse.signals.traces.trace import write_trace
from hanse.signals.traces.transform import merged
from hanse.units import s_from_hours

Replicas = Mapping[tuple[int, int], int]
"""(workload, site) -> replicas that stand."""
TENANT: Final = "users"
LONGEST: Final = 8.0
"""Longest request over the mean one."""
MESH_MAX: Final = 40
"""Sites that are all joined pairwise; beyond it a file would hold more links than anything else."""
NEAR: Final = 6
SITE_ACCESS_MS: Final = 2.0
"""Two metro networks; light in fibre comes on top."""
WAN_MBIT_S: Final = 10_000.0
"""A port of a small data center."""
WAN_USD_PER_GB: Final = 0.005
"""Between sites: the middle of transit prices in `assumptions` (`micro_transit_usd_per_gb`)."""
BROKEN_AFTER: Final = 6.0
"""Deadline over the time that a request takes at its SLO."""
OWN_COUNTRY_FILE: Final = "own-country.cedar"
OWN_COUNTRY: Final = """// Work that its study binds to the country of its users (own_country).
@id("own-country")
forbid (principal, action == Action::"process", resource)
when {{ [{classes}].contains(principal.class) }}
unless {{ principal.country == resource.country }};
"""


def cells(replicas: Replicas) -> tuple[tuple[int, dict[int, int]], ...]:
    """(site, workload -> replicas) of each site of the fleet file: a place with more engines than one site can watch becomes several beside each
    other, with its replicas dealt out evenly.
    """
    out = []
    for s in sorted({s for _, s in replicas}):
        mine = {w: n for (w, at), n in replicas.items() if at == s and n > 0}
        parts = -(-sum(mine.values()) // ENGINES_PER_SITE_MAX)
        while parts and any(
            sum(n // parts + (k < n % parts) for n in mine.values()) > ENGINES_PER_SITE_MAX
            for k in range(parts)
        ):
            parts += 1
        for k in range(parts):
            dealt = {w: n // parts + (k < n % parts) for w, n in mine.items()}
            out.append((s, {w: n for w, n in dealt.items() if n > 0}))
    return tuple(out)


def rated_w(design: Design, s: int, held: Mapping[int, int]) -> float:
    """IT power that some replicas at a place are rated for."""
    fits = {w: design.fits[w][s] for w in held}
    return sum(n * fit.rated_w for w, n in held.items() if (fit := fits[w]) is not None)


def fleet_of(
    design: Design, study: Study, replicas: Replicas, rated_kw: Mapping[int, float]
) -> Fleet:
    """The design as it stands in one year: sites with replicas, services, users."""
    sites: list[tuple[Site, int]] = []
    placements: list[Placement] = []
    made = cells(replicas)
    whole_w = {s: sum(rated_w(design, s, held) for at, held in made if at == s) for s, _ in made}
    number: dict[int, int] = {}
    for s, held in made:
        number[s] = number.get(s, 0) + 1
        alone = sum(at == s for at, _ in made) == 1
        name = design.places[s].id if alone else f"{design.places[s].id}-{number[s]}"
        part = rated_w(design, s, held) / whole_w[s]
        site = _site(design, study, s, name, held, rated_kw[s] * part, part)
        sites.append((site, s))
        placements += _placements(design, study, s, name, held)
    return Fleet(
        schema="hanse-fleet/1",
        name=f"{study.name[:40]}-{design.spec.id[:20]}",
        classes=tuple(DataClass(id=id, law=law) for id, law in _classes(study).items()),  # type: ignore[arg-type]
        sites=tuple(site for site, _ in sites),
        services=tuple(_service(work) for work in study.workloads if asked(work)),
        tenants=(
            Tenant(
                id=TENANT,
                classes=tuple(_classes(study)),
                mechanisms=study.mechanisms,
                keys=(Key(id="key", countries=_countries(study)),),
            ),
        ),
        links=_links([(site, design.cities[s]) for site, s in sites]),
        placements=tuple(placements),
        policy=Policy(cedar_files=(OWN_COUNTRY_FILE,) if own_country(study) else ()),
    )


def asked(work: Workload) -> bool:
    """Whether it comes as requests."""
    return work.kind != "finetune"


def own_country(study: Study) -> str:
    """The policy that binds work to its users' country; empty where none is bound."""
    bound = [_class_id(work) for work in study.workloads if work.own_country and asked(work)]
    classes = ", ".join(f'"{id}"' for id in dict.fromkeys(bound))
    return OWN_COUNTRY.format(classes=classes) if classes else ""


def _site(
    design: Design,
    study: Study,
    s: int,
    name: str,
    held: Mapping[int, int],
    rated_kw: float,
    part: float,
) -> Site:
    place, own = design.places[s], design.own[s]
    pools: dict[tuple[str, int], int] = {}
    for w, count in held.items():
        fit = design.fits[w][s]
        assert fit is not None, "only served workloads have replicas"
        kind = (fit.accelerator, fit.chips)
        pools[kind] = pools.get(kind, 0) + count * fit.chips
    site = site_of(
        name,
        design.cities[s],
        place.size,
        operator_hq=study.operator_hq,
        rated_kw=rated_kw,
        own=own.scaled(part),
        price_usd_per_kwh=place.price_usd_per_kwh,
        certifications=study.certifications,
    )
    made = tuple(
        Pool(id=_pool_id(chip, chips), accelerator=chip, count=n)
        for (chip, chips), n in pools.items()
    )
    return msgspec.structs.replace(site, pools=made)


def _placements(
    design: Design, study: Study, s: int, name: str, held: Mapping[int, int]
) -> list[Placement]:
    found = []
    for w, count in held.items():
        fit, work = design.fits[w][s], study.workloads[w]
        assert fit is not None, "only served workloads have replicas"
        found.append(
            Placement(
                service=work.id,
                variant=_variant_id(work),
                site=name,
                pool=_pool_id(fit.accelerator, fit.chips),
                replicas=count,
                slots=fit.slots,
                context_tokens=int(fit.slots * _longest(work)),
            )
        )
    return found


def _links(sites: Sequence[tuple[Site, City]]) -> tuple[Link, ...]:
    """Every pair up to `MESH_MAX` sites; of more, each with its nearest and with the first, so that all are joined."""
    near = len(sites) - 1 if len(sites) <= MESH_MAX else NEAR
    pairs = set()
    for i, (_, here) in enumerate(sites):
        order = sorted(
            (distance_km(here.lat, here.lon, there.lat, there.lon), k)
            for k, (_, there) in enumerate(sites)
            if k != i
        )
        pairs |= {(min(i, k), max(i, k)) for _, k in order[:near]}
        if i:
            pairs.add((0, i))
    found = []
    for i, k in sorted(pairs):
        (a, here), (b, there) = sites[i], sites[k]
        km = distance_km(here.lat, here.lon, there.lat, there.lon)
        found.append(
            Link(
                a=a.id,
                b=b.id,
                rtt_ms=round(rtt_ms_floor(km) + SITE_ACCESS_MS, 3),
                mbit_s=WAN_MBIT_S,
                usd_per_gb=WAN_USD_PER_GB,
            )
        )
    return tuple(found)


def trace_of(
    design: Design, study: Study, demand: Demand, year: int, *, hours: int = 24, first_h: int = 0
) -> Trace:
    """Requests that own sites serve in some hours of a day of a year from a UTC hour on, every workload from its own cities."""
    specs = [
        spec_of(design, study, demand, w, year, hours, first_h)
        for w, work in enumerate(study.workloads)
        if asked(work) and (design.share[demand.workload == w] > 0.0).any()
    ]
    parts = [generate(spec) for spec in specs]
    return parts[0] if len(parts) == 1 else merged(parts, name=study.name)


def start_of(study: Study, year: int, first_h: int) -> datetime:
    """That hour of the first day of a year of the study, UTC."""
    return datetime.combine(study.start.replace(year=study.start.year + year), time(first_h), UTC)


def spec_of(
    design: Design, study: Study, demand: Demand, w: int, year: int, hours: int, first_h: int
) -> TraceSpec:
    """How a workload's trace is made."""
    work = study.workloads[w]
    growth = study.growth_per_year if work.growth_per_year is None else work.growth_per_year
    mine = np.flatnonzero(demand.workload == w)
    served = demand.tokens_per_s[mine] * design.share[mine].sum(axis=1)
    # A generated trace is told the mean of its own hours, not the day's.
    level = 1.0
    if work.slack_h == 0.0:
        at = (first_h + np.arange(hours)) % HOURS
        level = float((served @ demand.day[mine][:, at]).mean() / served.sum())
    tokens = work.tokens_in + work.tokens_out
    return TraceSpec(
        schema="hanse-trace-spec/1",
        name=work.id,
        seed=study.seed,
        start=start_of(study, year, first_h),
        duration_h=hours,
        requests_per_s=float(served.sum()) * (1.0 + growth) ** year * level / tokens,
        hours=HOURS_DEFAULT if work.slack_h == 0.0 else (1.0,) * 24,
        origins=tuple(
            OriginShare(city=place.name, country=place.iso2, weight=float(rate))
            for i, rate in zip(mine, served, strict=True)
            if rate > 0.0
            for place in [demand.places[demand.rows[int(i)].city]]
        ),
        services=(
            ServiceShare(
                id=work.id,
                tokens_in=_lengths(work.tokens_in, PROMPT_SIGMA),
                tokens_out=_lengths(work.tokens_out, ANSWER_SIGMA),
                conversation=Conversation(context_tokens_max=int(_longest(work))),
            ),
        ),
        classes=(ClassShare(id=_class_id(work)),),
        tenants=(TenantShare(id=TENANT),),
        note=f"a day of {study.name}, workload {work.id}, year {year + 1}",
    )


def write_fleet(path: Path, fleet: Fleet, heading: str, policy: str = "") -> None:
    """A fleet file that `hanse check` accepts, and its policy beside it; `heading` becomes comments at its top."""
    write_toml(path, fleet, heading)
    if policy:
        (path.parent / OWN_COUNTRY_FILE).write_text(policy, encoding="utf-8")


def write_toml(path: Path, value: Value, heading: str) -> None:
    """A value as TOML, without what has its default."""
    text = msgspec.toml.encode(_bare(value)).decode()
    comments = "".join(f"# {line}\n" for line in heading.splitlines())
    path.write_text(comments + text, encoding="utf-8")


def write_day(path: Path, trace: Trace) -> None:
    """The trace as Parquet."""
    write_trace(path, trace.meta, trace.chunks())


def _bare(value: Any) -> Any:
    """Structs as tables, defaults left out: what a person would have written."""
    if isinstance(value, msgspec.Struct):
        out = {}
        for field in msgspec.structs.fields(value):
            held = getattr(value, field.name)
            if field.default is not msgspec.NODEFAULT and held == field.default:
                continue
            if field.default_factory is not msgspec.NODEFAULT and held == field.default_factory():
                continue
            if held is not None:
                out[field.encode_name] = _bare(held)
        return out
    if isinstance(value, tuple | list):
        return [_bare(part) for part in value]
    if isinstance(value, dict):
        return {k: _bare(v) for k, v in value.items()}
    return value


def _service(work: Workload) -> Service:
    whole_ms = work.ttft_ms + work.tokens_out * work.tpot_ms
    return Service(
        id=work.id,
        slo=Slo(
            ttft_ms=work.ttft_ms,
            tpot_ms=work.tpot_ms,
            deadline_s=max(60.0, BROKEN_AFTER * whole_ms / 1000.0, s_from_hours(work.slack_h)),
        ),
        output_tokens_max=int(np.ceil(LONGEST * work.tokens_out)),
        variants=(
            Variant(
                id=_variant_id(work),
                model=work.model,
                precision=work.precision,
                quality=1.0,
                quality_source="the only one planned with",
            ),
        ),
    )


def _lengths(mean: float, sigma: float) -> Lognormal:
    """Of that mean: the median of a lognormal is its mean over exp(sigma^2 / 2). The cut at the longest takes under 1 % off."""
    median = mean / float(np.exp(sigma**2 / 2.0))
    return Lognormal(median=median, sigma=sigma, max=max(int(LONGEST * mean), 2))


def _longest(work: Workload) -> float:
    """KV room of a slot: the longest prompt and answer that the trace has. Engines stop at what their memory holds."""
    return 2.0 + LONGEST * (work.tokens_in + work.tokens_out)


def _classes(study: Study) -> dict[str, str]:
    """Class of data -> class of law."""
    return {_class_id(work): work.law for work in study.workloads if asked(work)}


def _countries(study: Study) -> tuple[str, ...]:
    from hanse.catalogue import city

    found = (city(c.city, iso2=c.country or "").iso2 for c in study.cities)
    return tuple(dict.fromkeys(found))


def _class_id(work: Workload) -> str:
    return work.law.replace("_", "-") + ("-own-country" if work.own_country else "")


def _pool_id(chip: str, chips: int) -> str:
    """A pool of a fleet deals its chips out evenly to replicas: those of another size have their own."""
    return chip if chips == 1 else f"{chip}-x{chips}"


def _variant_id(work: Workload) -> str:
    return work.id

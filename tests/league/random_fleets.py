"""Random fleets, law files and requests, all from one seeded generator: what nobody would think of by hand.

Not here: running anything on them (`core_league`), judging (`cedar_oracle`).
"""

from __future__ import annotations

import hashlib
from typing import Final

import numpy as np

from hanse.catalogue.jurisdictions import jurisdiction_rules
from hanse.dispatch.policies import PolicyText
from hanse.model.fleet import (
    DataClass,
    Fleet,
    Key,
    Link,
    Placement,
    Pool,
    Power,
    Service,
    Site,
    Slo,
    Tenant,
    Variant,
)

LAWS: Final = ("personal", "sensitive", "health", "payment", "government")
CERTIFICATIONS: Final = ("hds_certified_host", "baa", "dpf", "dpf_uk", "dpf_ch", "pipeda", "iso")
MECHANISMS: Final = ("scc+tia", "bcr+tia", "bcr", "idta+tra", "derogation49", "tax_office_notice")
OFTEN: Final = ("DE", "FR", "EE", "NL", "IE", "NO", "GB", "CH", "US", "CN", "IN", "BR", "JP")
UNKNOWN_COUNTRIES: Final = ("ZZ", "QX")
"""No law is known for these: nothing may be admitted."""

# Each narrows in its own way: by kind, tenant, certification, country, id; one overflows where it applies.
FORBIDS: Final = (
    '@id("op:no-edge-health") forbid (principal, action, resource) '
    'when { principal.law == "health" && resource.kind == "edge" };',
    '@id("op:tenant-stays") forbid (principal, action, resource) '
    'when { principal.tenant == "tenant-0" } unless { resource in principal.origin };',
    '@id("op:iso-only") forbid (principal, action, resource) when { principal.class == "class-1" } '
    'unless { resource.certifications.contains("iso") };',
    '@id("op:not-site-1") forbid (principal, action, resource == Site::"site-1");',
    '@id("op:overflow") forbid (principal, action, resource) when '
    '{ resource.kind == "region" && 9223372036854775807 + 1 > 0 };',
    '@id("op:permit-all") permit (principal, action, resource);',
)
BROKEN: Final = (
    "forbid (principal, action",  # does not parse
    'forbid (principal, action, resource) when { resource.colour == "red" };',  # not in the schema
    "forbid (principal == ?principal, action, resource);",  # a template that nobody links
)


def random_fleet(rng: np.random.Generator, name: str) -> Fleet:
    """Three to ten sites of any country and operator, up to three tenants, four classes, two services."""
    sites = tuple(_site(rng, i) for i in range(int(rng.integers(3, 11))))
    laws = ["non_personal", *rng.choice(LAWS, size=3, replace=False)]
    classes = tuple(
        DataClass(id=f"class-{i}", law=str(law), quality_min=float(rng.choice([0.0, 0.5])))  # type: ignore[arg-type]
        for i, law in enumerate(laws)
    )
    services = tuple(_service(f"service-{i}") for i in range(int(rng.integers(1, 3))))
    tenants = tuple(_tenant(rng, i, classes, services) for i in range(int(rng.integers(1, 4))))
    return Fleet(
        schema="hanse-fleet/1",
        name=name,
        classes=classes,
        sites=sites,
        links=_links(rng, sites),
        services=services,
        tenants=tenants,
        placements=_placements(rng, sites, services),
    )


def random_policies(rng: np.random.Generator) -> tuple[PolicyText, ...]:
    """None to three of the operator's own files; one fleet in twelve gets one that is broken."""
    chosen = rng.choice(len(FORBIDS), size=int(rng.integers(0, 4)), replace=False)
    files = [PolicyText(name=f"own-{i}.cedar", text=FORBIDS[i]) for i in chosen]
    if rng.random() < 1 / 12:
        files.append(PolicyText(name="broken.cedar", text=str(rng.choice(BROKEN))))
    return tuple(files)


def country(rng: np.random.Generator) -> str:
    """Mostly one of a dozen, so that sites, tenants and rules meet; else any that has known rules."""
    if rng.random() < 0.75:
        return str(rng.choice(OFTEN))
    return str(rng.choice(sorted(jurisdiction_rules().countries)))


def _site(rng: np.random.Generator, index: int) -> Site:
    home = country(rng)
    foreign = rng.random() < 0.4
    return Site(
        id=f"site-{index}",
        kind=str(rng.choice(["micro", "edge", "region"])),  # type: ignore[arg-type]
        city="Somewhere",
        country=home,
        lat_deg=float(rng.uniform(-60, 70)),
        lon_deg=float(rng.uniform(-180, 180)),
        operator_hq=str(rng.choice(["US", "CN", country(rng)])) if foreign else home,
        certifications=tuple(str(c) for c in CERTIFICATIONS if rng.random() < 0.25),
        power=Power(grid_kw_max=50.0),
        pools=(Pool(id="cpu", accelerator="x86-thread", count=4),),
    )


def _service(name: str) -> Service:
    variants = tuple(
        Variant(
            id=precision.replace("_", "-"),
            model="SmolLM2-135M",
            precision=precision,
            quality=quality,
            quality_source="of this test",
        )
        for precision, quality in (("q4_1", 0.6), ("q4_0", 0.4))
    )
    return Service(id=name, slo=Slo(ttft_ms=2000, tpot_ms=200), variants=variants)


def _tenant(
    rng: np.random.Generator,
    index: int,
    classes: tuple[DataClass, ...],
    services: tuple[Service, ...],
) -> Tenant:
    held = rng.choice([c.id for c in classes], size=int(rng.integers(1, 5)), replace=False)
    keys = tuple(_key(rng, f"tenant-{index}-key-{k}") for k in range(int(rng.integers(1, 3))))
    return Tenant(
        id=f"tenant-{index}",
        classes=tuple(map(str, held)),
        services=() if rng.random() < 0.7 else (str(rng.choice([s.id for s in services])),),
        mechanisms=tuple(m for m in MECHANISMS if rng.random() < 0.3),
        sovereign=bool(rng.random() < 0.3),
        keys=keys,
    )


def _key(rng: np.random.Generator, name: str) -> Key:
    countries = [country(rng) for _ in range(int(rng.integers(1, 5)))]
    if rng.random() < 0.15:
        countries.append(str(rng.choice(UNKNOWN_COUNTRIES)))
    digest = hashlib.sha256(name.encode()).hexdigest()
    return Key(id=name, sha256=digest, countries=tuple(dict.fromkeys(countries)))


def _links(rng: np.random.Generator, sites: tuple[Site, ...]) -> tuple[Link, ...]:
    return tuple(
        Link(a=a.id, b=b.id, rtt_ms=float(rng.uniform(2, 150)), mbit_s=1000.0)
        for i, a in enumerate(sites)
        for b in sites[i + 1 :]
    )


def _placements(
    rng: np.random.Generator, sites: tuple[Site, ...], services: tuple[Service, ...]
) -> tuple[Placement, ...]:
    return tuple(
        Placement(
            service=service.id,
            variant=variant.id,
            site=site.id,
            pool="cpu",
            replicas=int(rng.integers(1, 3)),
            slots=2,
        )
        for site in sites
        for service in services
        for variant in service.variants
        if rng.random() < 0.5
    )

"""Random and hand-made fleets, tables and loads for tests of the decision core."""

from __future__ import annotations

import numpy as np

from hanse.catalogue.jurisdictions import jurisdiction_rules
from hanse.dispatch.dispatcher import Dispatcher
from hanse.dispatch.events import FleetLoaded, Ticked
from hanse.dispatch.policies import PolicyText
from hanse.dispatch.table import Table
from hanse.model.fleet import (
    Central,
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

NOW_S = 1_795_000_000.0
"""November 2026, when the shipped rules were compiled."""
CLASSES = (
    DataClass(id="public", law="non_personal", priority=10),
    DataClass(id="personal", law="personal"),
    DataClass(id="health", law="health", quality_min=0.45, priority=90),
    DataClass(id="payment", law="payment"),
    DataClass(id="sensitive", law="sensitive", quality_min=0.6),
    DataClass(id="government", law="government"),
)
CERTIFICATIONS = ("dpf", "dpf_uk", "baa", "hds_certified_host", "pipeda", "iso27001")
MECHANISMS = ("scc+tia", "bcr", "consent", "adequacy", "tax_office_notice", "rkn_notice_for_export")


def site(name: str, country: str = "DE", **fields: object) -> Site:
    """A micro site with one pool of L4 cards."""
    known: dict[str, object] = {
        "id": name,
        "kind": "micro",
        "city": name,
        "country": country,
        "lat_deg": 50.0,
        "lon_deg": 8.0,
        "operator_hq": country,
        "power": Power(grid_kw_max=60.0),
        "pools": (Pool(id="gpu", accelerator="l4", count=8),),
    }
    return Site(**(known | fields))  # type: ignore[arg-type]


def service(name: str = "chat", variants: int = 1, **fields: object) -> Service:
    """Llama 8B at falling precision and quality."""
    precisions = ("fp8", "int4", "q4_0")
    known: dict[str, object] = {
        "id": name,
        "slo": Slo(ttft_ms=1500.0, tpot_ms=150.0),
        "variants": tuple(
            Variant(
                id=f"v{k}",
                model="Llama-3.1-8B",
                precision=precisions[k],
                quality=0.5 - 0.1 * k,
                quality_source="made up",
            )
            for k in range(variants)
        ),
    }
    return Service(**(known | fields))  # type: ignore[arg-type]


def tenant(name: str, countries: tuple[str, ...], **fields: object) -> Tenant:
    """A tenant with one key."""
    known: dict[str, object] = {
        "id": name,
        "classes": ("public", "personal"),
        "keys": (
            Key(id=f"{name}-key", sha256=f"{abs(hash(name)):064x}"[:64], countries=countries),
        ),
    }
    return Tenant(**(known | fields))  # type: ignore[arg-type]


def fleet(
    sites: tuple[Site, ...],
    *,
    services: tuple[Service, ...] = (),
    tenants: tuple[Tenant, ...] = (),
    links: tuple[Link, ...] = (),
    placements: tuple[Placement, ...] | None = None,
    central: Central | None = None,
) -> Fleet:
    """A fleet that places every variant at every site with hardware, unless told otherwise."""
    services = services or (service(),)
    everywhere = tuple(
        Placement(service=q.id, variant=v.id, site=s.id, pool=s.pools[0].id, slots=8)
        for s in sites
        if s.pools
        for q in services
        for v in q.variants
    )
    return Fleet(
        schema="hanse-fleet/1",
        name="test",
        central=central,
        classes=CLASSES,
        sites=sites,
        links=links,
        services=services,
        tenants=tenants or (tenant("t", ("DE",)),),
        placements=everywhere if placements is None else placements,
    )


def random_fleet(rng: np.random.Generator, sites_max: int = 6) -> Fleet:
    """Random countries, operators, certifications, mechanisms, classes and links."""
    known = sorted(jurisdiction_rules().countries)
    # Countries with rules of their own kind come up often, the rest sometimes.
    likely = ("DE", "FR", "EE", "GB", "CH", "US", "RU", "CN", "CA", "BR", "JP", "IN", "AE", "PK")

    def country() -> str:
        return str(rng.choice(likely if rng.random() < 0.8 else known))

    def some(of: tuple[str, ...], most: int) -> tuple[str, ...]:
        return tuple(str(x) for x in rng.permutation(of)[: rng.integers(0, most + 1)])

    count = int(rng.integers(1, sites_max + 1))
    sites = tuple(
        site(
            f"s{i}",
            country(),
            kind=str(rng.choice(["micro", "edge", "region"])),
            operator_hq=country(),
            certifications=some(CERTIFICATIONS, 3),
            lat_deg=float(rng.uniform(-60, 70)),
            lon_deg=float(rng.uniform(-180, 180)),
        )
        for i in range(count)
    )
    tenants = tuple(
        tenant(
            f"t{i}",
            tuple(sorted({country() for _ in range(3)})),
            classes=tuple(c.id for c in CLASSES)[: int(rng.integers(1, len(CLASSES) + 1))],
            mechanisms=some(MECHANISMS, 2),
            sovereign=bool(rng.integers(0, 2)),
        )
        for i in range(int(rng.integers(1, 4)))
    )
    links = tuple(
        Link(a=f"s{a}", b=f"s{b}", rtt_ms=float(rng.uniform(2, 150)), mbit_s=1000.0)
        for a in range(count)
        for b in range(a)
        if rng.random() < 0.7
    )
    services = tuple(service(f"q{j}", variants=int(rng.integers(1, 4))) for j in range(2))
    return fleet(sites, services=services, tenants=tenants, links=links)


def table_of(made: Fleet, policies: tuple[PolicyText, ...] = (), now_s: float = NOW_S) -> Table:
    """The first table that a fleet's dispatcher publishes."""
    dispatcher = Dispatcher("fleet")
    dispatcher.handle(FleetLoaded(at_s=now_s, fleet=made, policies=policies))
    dispatcher.handle(Ticked(at_s=now_s))
    assert dispatcher.table is not None
    return dispatcher.table

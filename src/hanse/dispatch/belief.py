"""What a dispatcher believes of fleet and sites; only `Dispatcher.handle` changes it.

Here: the mutable picture and the names derived from it (offers, engines). Not here: what is true (`World` in the
twin), load (`load`), numbers for kernels (`build`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Final, Literal

import msgspec

from hanse.catalogue import country_electricity
from hanse.dispatch.law import LawTable, subject
from hanse.dispatch.policies import PolicyText
from hanse.dispatch.second_opinion import Verdict
from hanse.energy import pue_at
from hanse.errors import ConfigError
from hanse.model.fleet import DriverKind, Fleet, Id, Placement, Site, Value

EngineState = Literal["starting", "up", "dead", "draining", "resting"]
FailingKey = tuple[str, str, str]
"""(service, variant, pool)."""

PRICE_USD_PER_KWH_UNKNOWN: Final = 0.15
"""Where neither the fleet file nor the country's figures say: middle of industrial prices of 2024, 0.08 to 0.25."""
CARBON_G_PER_KWH_UNKNOWN: Final = 480.0
"""Where the country has no figure: the world's mean of 2023 (Ember, Global Electricity Review 2024)."""


class Floor(Value, frozen=True, kw_only=True):
    """Replicas of a service, whatever the variant, that a site keeps up."""

    site: Id
    service: Id
    replicas_min: int


class EngineSpec(Value, frozen=True, kw_only=True):
    """One replica that a site is to run."""

    name: str
    """Unique at its site and stable: `service-variant-number`."""
    index: int
    """Position among the site's engines, in the order of placements."""
    site: str
    service: str
    variant: str
    model: str
    precision: str
    served_names: tuple[str, ...]
    """Names under which clients may ask for it; the first is what the gateway sends."""
    pool: str
    driver: DriverKind
    url: str
    """Base URL of an `external` engine; empty for one that the site starts."""
    chips: int
    slots: int
    context_tokens: int
    embedding: bool
    alone: bool = False
    """Its chips are placed for itself; else it shares its pool's with the other replicas there."""

    @property
    def offer(self) -> str:
        """Key of the offer it serves."""
        return offer_key(self.site, self.service, self.variant)


@dataclass
class SiteBelief:
    """A site, as last heard of."""

    pue: float
    carbon_g_per_kwh: float
    price_usd_per_kwh: float
    drained: bool = False
    up: bool = False
    heard_at_s: float = float("-inf")
    table_version: int = 0
    shed_level: int = 0
    placement_version: int = 0
    """Of the placement that the site works towards."""
    serving: tuple[Placement, ...] = ()
    """Replicas that are up there now, placed or not yet gone."""
    failing: dict[FailingKey, str] = field(default_factory=dict)
    """What does not start there, and why; others are placed beside it."""
    around: frozenset[FailingKey] = frozenset()
    """What of that the placement in force does not count on."""
    unheard: tuple[str, ...] | None = None
    """Sites whose gateways do not answer its own; None: it does not say."""
    verdict: Verdict = "heard"
    """Of a site that is silent: what the others say of it (`second_opinion`)."""

    @property
    def lost(self) -> bool:
        """Heard once, and silent since. A site never heard is taken as it stands in the file."""
        return not self.up and self.heard_at_s > float("-inf")

    @property
    def dead(self) -> bool:
        """Silent, and nobody else hears it: what ran there is to run elsewhere."""
        return self.lost and self.verdict == "dead"

    @property
    def apart(self) -> bool:
        """Silent and not dead: what runs there goes on, and it can be told nothing."""
        return self.lost and self.verdict != "dead"

    @property
    def hosts(self) -> bool:
        """Work may be put there, or goes on there."""
        return not self.dead and not self.drained


@dataclass
class EngineBelief:
    """An engine, as its own site sees it."""

    spec: EngineSpec
    state: EngineState = "starting"
    since_s: float = 0.0
    misses: int = 0
    attempts: int = 0
    """Deaths in a row."""
    restart_at_s: float = float("inf")
    why: str = ""
    """Of the last death."""
    leaving: bool = False
    """Placed here no more: it drains, then it is stopped."""
    adopted: bool = False
    """It ran before this dispatcher did, and may be at work although nothing of it was heard yet."""
    emptied: bool = False
    """It drains, and no request is at it any more."""
    rests: bool = False
    """It drains, or has been stopped, to save power; it is started again when there is enough."""


@dataclass
class Belief:
    """Everything a dispatcher decides from.

    Attributes:
        offer_keys: `site/service/variant` by offer index; only ever grows, so that indices keep their meaning.
        epoch: Under which this dispatcher acts (fleet scope), or the highest it obeyed (site scope).
    """

    fleet: Fleet
    policies: tuple[PolicyText, ...]
    law: LawTable
    law_at_s: float
    placements: tuple[Placement, ...]
    digests: dict[str, str]
    sites: dict[str, SiteBelief]
    offer_keys: list[str]
    epoch: int = 0
    version: int = 0
    floors: tuple[Floor, ...] = ()
    placement_version: tuple[int, int] = (0, 0)
    """Epoch and version of the placement in force."""
    engines: dict[str, EngineBelief] = field(default_factory=dict)

    def subject_row(self, tenant: str, data_class: str, country: str) -> int:
        """Row of law of who a tenant's data of a class from a country is; 0, which denies everything, where nobody declared it."""
        found = next((t for t in self.fleet.tenants if t.id == tenant), None)
        known = next((c for c in self.fleet.classes if c.id == data_class), None)
        if found is None or known is None or data_class not in found.classes:
            return 0
        # Rows carry the tenant only where an operator's policy names tenants.
        by_tenant = any(s.tenant for s in self.law.subjects)
        return self.law.find(
            subject(
                data_class=data_class,
                law=known.law,
                country=country,
                mechanisms=found.mechanisms,
                sovereign=found.sovereign,
                tenant=tenant if by_tenant else "",
            )
        )


def fleet_digest(fleet: Fleet) -> str:
    """Tells one fleet file from another, as far as placements rest on it: which meters a site reads changes none."""
    written = msgspec.to_builtins(fleet)
    for name in ("facility", "meter"):
        written.pop(name, None)
    return blake2b(msgspec.msgpack.encode(written), digest_size=16).hexdigest()


def offer_key(site: str, service: str, variant: str) -> str:
    """The name of an offer."""
    return f"{site}/{service}/{variant}"


def known_offers(known: list[str], fleet: Fleet, placements: tuple[Placement, ...]) -> list[str]:
    """Offer keys with those of new placements behind the known ones, in a fixed order."""
    placed = {offer_key(p.site, p.service, p.variant) for p in placements}
    sites = {site.id: i for i, site in enumerate(fleet.sites)}
    fresh = sorted(placed - set(known), key=lambda key: (sites[key.split("/")[0]], key))
    return [*known, *fresh]


def possible_offers(fleet: Fleet) -> set[str]:
    """Keys of every offer that sites, services and variants of a fleet can make."""
    return {
        offer_key(site.id, service.id, variant.id)
        for site in fleet.sites
        for service in fleet.services
        for variant in service.variants
    }


def site_defaults(site: Site) -> SiteBelief:
    """Before anything is observed: the fleet file's figures, else the country's yearly means."""
    try:
        yearly = country_electricity(site.country)
        carbon, price = yearly.carbon_g_per_kwh, yearly.price_usd_per_kwh
    except ConfigError:  # Liechtenstein and a few islands have no figures of their own
        carbon = price = None
    declared = site.power.price_usd_per_kwh
    price = declared if declared is not None else price
    return SiteBelief(
        pue=site.power.pue if site.power.pue is not None else pue_at(site.plant_kind, None),
        carbon_g_per_kwh=CARBON_G_PER_KWH_UNKNOWN if carbon is None else carbon,
        price_usd_per_kwh=PRICE_USD_PER_KWH_UNKNOWN if price is None else price,
    )


def all_engines(fleet: Fleet, placements: tuple[Placement, ...]) -> list[EngineSpec]:
    """Engines of all sites, site by site."""
    by_site: dict[str, list[Placement]] = {}
    for placement in placements:
        by_site.setdefault(placement.site, []).append(placement)
    sites = {site.id: site for site in fleet.sites}
    return [
        spec
        for site_id, site in sites.items()
        for spec in _engines_at(fleet, tuple(by_site.get(site_id, ())), site)
    ]


def engines_of(
    fleet: Fleet, placements: tuple[Placement, ...], site_id: str
) -> tuple[EngineSpec, ...]:
    """Engines a site is to run, in the order of placements; a replica gets the chips it is placed on, else an equal share of its pool's."""
    site = next(s for s in fleet.sites if s.id == site_id)
    return _engines_at(fleet, tuple(p for p in placements if p.site == site_id), site)


def _engines_at(fleet: Fleet, mine: tuple[Placement, ...], site: Site) -> tuple[EngineSpec, ...]:
    pools = {pool.id: pool for pool in site.pools}
    services = {service.id: service for service in fleet.services}
    specs: list[EngineSpec] = []
    urls_used: dict[str, int] = {}
    for placement in mine:
        pool, service = pools[placement.pool], services[placement.service]
        variant = next(v for v in service.variants if v.id == placement.variant)
        in_pool = sum(p.replicas for p in mine if p.pool == pool.id)
        first = variant.served_model or service.id
        for _ in range(placement.replicas):
            position = urls_used.get(pool.id, 0)
            urls_used[pool.id] = position + 1
            number = sum(s.service == service.id and s.variant == variant.id for s in specs)
            specs.append(
                EngineSpec(
                    name=f"{service.id}-{variant.id}-{number}",
                    index=len(specs),
                    site=site.id,
                    service=service.id,
                    variant=variant.id,
                    model=variant.model,
                    precision=variant.precision,
                    served_names=tuple(dict.fromkeys((first, service.id, *service.aliases))),
                    pool=pool.id,
                    driver=pool.driver,
                    url=pool.urls[position % len(pool.urls)] if pool.urls else "",
                    chips=placement.chips or max(pool.count // max(in_pool, 1), 1),
                    slots=placement.slots,
                    context_tokens=placement.context_tokens,
                    embedding=service.embeds,
                    alone=placement.chips is not None,
                )
            )
    return tuple(specs)

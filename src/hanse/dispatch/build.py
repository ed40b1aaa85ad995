"""A routing table from a belief: names to indices, facts to numbers. Deterministic; the same belief, the same bytes.

Here: `build_table`. Not here: the table's form (`table`), law (`law`), coefficients of engines (`serving`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, Final

import numpy as np

from hanse.catalogue import accelerator, ai_model
from hanse.dispatch.belief import Belief, EngineSpec, all_engines, engines_of
from hanse.dispatch.choose import QUEUE_PER_SLOT_MAX
from hanse.dispatch.law import LawTable, subject
from hanse.dispatch.rolling import described
from hanse.dispatch.shed import shed_rank
from hanse.dispatch.table import (
    OFFER_DTYPE,
    RANK_LAST,
    SERVICE_DTYPE,
    SITE_DTYPE,
    SUBJECT_DTYPE,
    ClassMeta,
    KeyMeta,
    Records,
    ServiceMeta,
    SiteMeta,
    SubjectMeta,
    Table,
    TableMeta,
    VariantMeta,
)
from hanse.model.fleet import Fleet, Key, Placement, Service, Site, Tenant
from hanse.serving import EngineCoefficients, coefficients
from hanse.units import per_g_from_per_t, per_wh_from_per_kwh

_OF_ENGINE: Final = (
    "ttft_ms_fixed",
    "prefill_ms_per_token",
    "tpot_ms_base",
    "tpot_ms_per_running",
    "prefill_wh_per_token",
    "decode_wh_shared",
    "decode_wh_per_token",
)
"""Fields that an offer takes from `EngineCoefficients` as they are."""


def build_table(belief: Belief, now_s: float) -> Table:
    """The table that a belief amounts to at `now_s`."""
    fleet, law = belief.fleet, belief.law
    specs = all_engines(fleet, described(belief.placements, belief.sites))
    central_specs = _central_specs(fleet, belief.placements)
    central_keys = tuple(dict.fromkeys(s.offer for s in central_specs))
    subjects, rows = _subjects(fleet, law)
    meta = TableMeta(
        version=belief.version,
        epoch=belief.epoch,
        issued_at_s=now_s,
        valid_until_s=now_s + fleet.policy.valid_s,
        fleet=fleet.name,
        heard_stale_s=fleet.policy.heard_stale_s,
        sites=tuple(_site_meta(site) for site in fleet.sites),
        services=tuple(_service_meta(service) for service in fleet.services),
        offers=tuple(belief.offer_keys),
        keys=_keys(fleet, belief.digests, rows),
        subjects=law.subjects,
        rule_sets=law.rule_sets,
        rule_texts=law.rule_texts,
        links=fleet.links,
        central_site=fleet.central.site if fleet.central else "",
        central_offers=central_keys,
        classes=tuple(ClassMeta(id=c.id, priority=c.priority) for c in fleet.classes),
    )
    arrays = {
        "sites": _sites(belief),
        "services": _services(fleet),
        "subjects": subjects,
        "law": law.bits,
        "rule_set": law.rule_set,
        "offers": _offers(fleet, tuple(belief.offer_keys), specs),
        "central_offers": _offers(fleet, central_keys, central_specs),
        "continues": _continues(fleet, tuple(belief.offer_keys), specs),
    }
    return Table(meta, arrays)


def _sites(belief: Belief) -> Records:
    sites = np.zeros(len(belief.fleet.sites), SITE_DTYPE)
    for row, site in zip(sites, belief.fleet.sites, strict=True):
        known = belief.sites[site.id]
        row["pue"] = known.pue
        row["usd_per_wh"] = per_wh_from_per_kwh(known.price_usd_per_kwh)
        row["g_per_wh"] = per_wh_from_per_kwh(known.carbon_g_per_kwh)
        row["drained"] = known.drained
    return sites


def _services(fleet: Fleet) -> Records:
    services = np.zeros(len(fleet.services), SERVICE_DTYPE)
    for row, service in zip(services, fleet.services, strict=True):
        own = service.usd_per_latency_s
        row["ttft_ms_slo"] = service.slo.ttft_ms
        row["tpot_ms_slo"] = service.slo.tpot_ms
        row["usd_per_latency_s"] = fleet.weights.usd_per_latency_s if own is None else own
        row["usd_per_g"] = per_g_from_per_t(fleet.weights.usd_per_tonne_co2e)
    return services


def _offers(fleet: Fleet, keys: tuple[str, ...], specs: list[EngineSpec]) -> Records:
    offers = np.zeros(len(keys), OFFER_DTYPE)
    sites = {site.id: i for i, site in enumerate(fleet.sites)}
    services = {service.id: i for i, service in enumerate(fleet.services)}
    hardware = {(site.id, pool.id): pool.accelerator for site in fleet.sites for pool in site.pools}
    replicas: dict[str, list[EngineSpec]] = {}
    for spec in specs:
        replicas.setdefault(spec.offer, []).append(spec)
    for row, key in zip(offers, keys, strict=True):
        site_id, service_id, variant_id = key.split("/")
        service = fleet.services[services[service_id]]
        variant = next(i for i, v in enumerate(service.variants) if v.id == variant_id)
        row["site"], row["service"], row["variant"] = sites[site_id], services[service_id], variant
        row["quality"] = service.variants[variant].quality
        running = replicas.get(key, [])
        row["replicas"] = len(running)
        if running:
            _fill_engine(row, hardware, running)
    return offers


def _continues(fleet: Fleet, keys: tuple[str, ...], specs: list[EngineSpec]) -> Records:
    """Offers each of whose replicas goes on with an answer that others began."""
    able = {(site.id, pool.id): pool.goes_on for site in fleet.sites for pool in site.pools}
    running: dict[str, bool] = {}
    for spec in specs:
        running[spec.offer] = running.get(spec.offer, True) and able[spec.site, spec.pool]
    return np.array([running.get(key, False) for key in keys], np.uint8)


def _fill_engine(
    row: Any, hardware: Mapping[tuple[str, str], str], running: Sequence[EngineSpec]
) -> None:
    """Of replicas of several kinds the one that holds fewest requests: gateways reckon with one pace, and none may be promised more than the
    replica that it comes to has.
    """
    spec = min(running, key=lambda one: (one.slots, one.chips))
    chip = hardware[spec.site, spec.pool]
    found = _coefficients(spec.model, spec.precision, chip, spec.chips, spec.slots)
    # An engine that we start splits its context over its slots; of others we know only the sum.
    per_request = spec.context_tokens
    if spec.driver == "process":
        per_request = spec.context_tokens // spec.slots
    row["slots"] = spec.slots
    row["requests_max"] = QUEUE_PER_SLOT_MAX * spec.slots
    row["tokens_max"] = QUEUE_PER_SLOT_MAX * min(spec.context_tokens, found.kv_tokens_max)
    row["request_tokens_max"] = per_request
    for name in _OF_ENGINE:
        row[name] = getattr(found, name)


@cache
def _coefficients(
    model: str, precision: str, hardware: str, chips: int, slots: int
) -> EngineCoefficients:
    return coefficients(ai_model(model), precision, accelerator(hardware), count=chips, slots=slots)


def _central_specs(fleet: Fleet, placements: tuple[Placement, ...]) -> list[EngineSpec]:
    """The one big site: of each service its best variant, on the central site's hardware.

    A replica there is what it is in the fleet's placement at that site, else what the service's first placement is.
    """
    if fleet.central is None:
        return []
    site = next(s for s in fleet.sites if s.id == fleet.central.site)
    imagined: list[Placement] = []
    for service in fleet.services:
        best = max(service.variants, key=lambda v: v.quality)
        placed = [p for p in placements if p.service == service.id]
        model = next((p for p in placed if p.site == site.id), placed[0] if placed else None)
        if model is None or not site.pools:
            continue
        declared = fleet.central.replicas
        imagined.append(
            Placement(
                service=service.id,
                variant=best.id,
                site=site.id,
                pool=model.pool if model.site == site.id else site.pools[0].id,
                replicas=sum(p.replicas for p in placed) if declared is None else declared,
                slots=model.slots,
                context_tokens=model.context_tokens,
            )
        )
    # The big site has hardware for all of its replicas: a replica's chips are those of one at that site today.
    pools = {pool.id: pool for pool in site.pools}
    used = {p.pool: 0 for p in imagined}
    for placement in placements:
        if placement.site == site.id:
            used[placement.pool] = used.get(placement.pool, 0) + placement.replicas
    specs = engines_of(fleet, tuple(imagined), site.id)
    chips = {pool: max(pools[pool].count // max(count, 1), 1) for pool, count in used.items()}
    return [_with_chips(spec, chips[spec.pool]) for spec in specs]


def _with_chips(spec: EngineSpec, chips: int) -> EngineSpec:
    fields = {name: getattr(spec, name) for name in spec.__struct_fields__}
    return EngineSpec(**(fields | {"chips": chips}))


def _subjects(fleet: Fleet, law: LawTable) -> tuple[Records, dict[SubjectMeta, int]]:
    quality = {c.id: c.quality_min for c in fleet.classes}
    subjects = np.zeros(len(law.subjects), SUBJECT_DTYPE)
    subjects["profile"] = law.profile
    subjects["quality_min"] = [quality.get(s.data_class, 0.0) for s in law.subjects]
    rank = shed_rank(fleet.classes)
    subjects["shed_rank"] = [rank.get(s.data_class, RANK_LAST) for s in law.subjects]
    return subjects, {s: i for i, s in enumerate(law.subjects) if i}


def _keys(
    fleet: Fleet, digests: dict[str, str], rows: dict[SubjectMeta, int]
) -> dict[str, KeyMeta]:
    found: dict[str, KeyMeta] = {}
    laws = {c.id: c.law for c in fleet.classes}
    by_tenant = any(s.tenant for s in rows)
    for tenant in fleet.tenants:
        for key in tenant.keys:
            sha256 = key.sha256 or digests.get(key.id, "")
            if sha256:
                found[sha256.lower()] = _key_meta(fleet, tenant, key, laws, rows, by_tenant)
    return found


def _key_meta(
    fleet: Fleet,
    tenant: Tenant,
    key: Key,
    laws: Mapping[str, str],
    rows: dict[SubjectMeta, int],
    by_tenant: bool,
) -> KeyMeta:
    subjects = {
        class_id: {
            country: rows.get(
                subject(
                    data_class=class_id,
                    law=laws.get(class_id, ""),
                    country=country,
                    mechanisms=tenant.mechanisms,
                    sovereign=tenant.sovereign,
                    tenant=tenant.id if by_tenant else "",
                ),
                0,
            )
            for country in key.countries
        }
        for class_id in tenant.classes
    }
    return KeyMeta(
        id=key.id,
        tenant=tenant.id,
        classes=tenant.classes,
        countries=key.countries,
        services=tenant.services or tuple(s.id for s in fleet.services),
        requests_per_s_max=key.requests_per_s_max,
        burst=key.burst,
        subjects=subjects,
    )


def _site_meta(site: Site) -> SiteMeta:
    return SiteMeta(
        id=site.id,
        kind=site.kind,
        city=site.city,
        country=site.country,
        lat_deg=site.lat_deg,
        lon_deg=site.lon_deg,
    )


def _service_meta(service: Service) -> ServiceMeta:
    variants = tuple(
        VariantMeta(
            id=v.id,
            model=v.model,
            precision=v.precision,
            quality=v.quality,
            served_model=v.served_model or service.id,
        )
        for v in service.variants
    )
    return ServiceMeta(
        id=service.id,
        protocol=service.protocol,
        endpoints=service.endpoints,
        aliases=service.aliases,
        slo=service.slo,
        body_bytes_max=service.body_bytes_max,
        output_tokens_max=service.output_tokens_max,
        variants=variants,
    )

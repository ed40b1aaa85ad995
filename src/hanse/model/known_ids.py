"""What a fleet names of the catalogue: accelerators, countries, models that suit their service.

Here: `check_known_ids`, `country_codes`. Not here: the catalogue itself, whose ids arrive as arguments; all other meanings (`check`).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Final

from hanse.model.fleet import Fleet, Service
from hanse.model.problem import Problem, unknown

COUNTRY: Final = re.compile(r"^[A-Z]{2}$")
_NOT_COUNTRIES: Final = {"UK": "GB", "EL": "GR", "EU": "a member state", "EN": "GB"}


def check_known_ids(
    fleet: Fleet,
    *,
    accelerators: Collection[str],
    models: Mapping[str, str],
    countries: Collection[str],
) -> list[Problem]:
    """Ids of the catalogue that it does not know, and models (`id: kind`) that cannot do what their service offers."""
    return [
        *_countries(fleet, countries),
        *_accelerators(fleet, accelerators),
        *(
            problem
            for q, service in enumerate(fleet.services)
            for problem in _models(f"service[{q}]", service, models)
        ),
    ]


def country_codes(fleet: Fleet) -> Iterator[tuple[str, str]]:
    """(where, code) of every country that a fleet names."""
    for s, site in enumerate(fleet.sites):
        yield f"site[{s}].country", site.country
        yield f"site[{s}].operator_hq", site.operator_hq
    for t, tenant in enumerate(fleet.tenants):
        for k, key in enumerate(tenant.keys):
            for c, code in enumerate(key.countries):
                yield f"tenant[{t}].key[{k}].countries[{c}]", code


def _countries(fleet: Fleet, known: Collection[str]) -> Iterator[Problem]:
    for where, code in country_codes(fleet):
        if code not in known and COUNTRY.match(code):
            yield unknown(where, code, known, "country", hint=_NOT_COUNTRIES.get(code))


def _accelerators(fleet: Fleet, known: Collection[str]) -> Iterator[Problem]:
    for s, site in enumerate(fleet.sites):
        for p, pool in enumerate(site.pools):
            if pool.accelerator not in known:
                where = f"site[{s}].pool[{p}].accelerator"
                yield unknown(where, pool.accelerator, known, "accelerator")


def _models(where: str, service: Service, kinds: Mapping[str, str]) -> Iterator[Problem]:
    for v, variant in enumerate(service.variants):
        at = f"{where}.variant[{v}].model"
        if variant.model not in kinds:
            yield unknown(at, variant.model, kinds, "AI model")
            continue
        kind = kinds[variant.model]
        if kind == "asr" or (kind == "embedding" and not service.embeds):
            yield Problem(
                where=at,
                got=f"{variant.model!r}, a model of kind {kind}",
                allowed=f"one that can do {' and '.join(service.endpoints) or 'what the service offers'}",
                fix='give it a service of its own with endpoints = ["embeddings"], or name another model',
            )

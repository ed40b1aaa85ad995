"""May this tenant's data be read at this site? Asked of Cedar each time anew, by nothing that the table was made with.

Policies are the product's text (that text is the law); entities, requests and the reading of answers are written here
once more, so that a slip in compiling, grouping or numbering shows as a difference.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from itertools import product
from typing import Any, Final

import cedarpy

from hanse.catalogue.jurisdictions import jurisdiction_rules
from hanse.dispatch.policies import SCHEMA, PolicyText, shipped_policies
from hanse.model.fleet import Fleet

OWN_RULES: Final = {"hanse:no-permit", "hanse:policy-error", "hanse:unknown-subject"}


class CedarOracle:
    """Answers for one fleet, one set of the operator's files and one instant."""

    def __init__(self, fleet: Fleet, policies: tuple[PolicyText, ...], now_s: float) -> None:
        self._fleet = fleet
        self._laws = {c.id: c.law for c in fleet.classes}
        self._broken = any(_is_broken(file.text) for file in policies)
        texts = [policy.text for policy in shipped_policies(jurisdiction_rules(), now_s)]
        if not self._broken:
            texts += [file.text for file in policies]
        self._policies = cedarpy.PolicySet.from_str("\n".join(texts))
        abroad = {site.country for site in fleet.sites}
        abroad |= {c for tenant in fleet.tenants for key in tenant.keys for c in key.countries}
        own = json.dumps([*self._subjects(), *self._places()])[1:]
        self._entities = cedarpy.Entities.from_json_str(
            f"[{_world(tuple(sorted(abroad)))},{own}", SCHEMA
        )
        self._answers: dict[tuple[str, str, str, str], frozenset[str]] = {}

    def denying(self, tenant: str, data_class: str, country: str, site: str) -> frozenset[str]:
        """Ids of the rules that deny; empty: allowed."""
        cell = (tenant, data_class, country, site)
        if cell not in self._answers:
            self._answers[cell] = self._ask(*cell)
        return self._answers[cell]

    def allows(self, tenant: str, data_class: str, country: str, site: str) -> bool:
        return not self.denying(tenant, data_class, country, site)

    def _ask(self, tenant: str, data_class: str, country: str, site: str) -> frozenset[str]:
        if country not in jurisdiction_rules().countries or data_class not in self._laws:
            return frozenset({"hanse:unknown-subject"})
        if self._broken:
            return frozenset({"hanse:policy-error"})
        request = {
            "principal": f'Subject::"{_name(tenant, data_class, country)}"',
            "action": 'Action::"process"',
            "resource": f'Site::"{site}"',
        }
        result = cedarpy.is_authorized(request, self._policies, self._entities)
        named = result.diagnostics.id_annotations_by_reason
        rules = set() if result.allowed else {str(named[r]) for r in result.diagnostics.reasons}
        if result.diagnostics.errors:
            rules.add("hanse:policy-error")
        if not rules and not result.allowed:
            rules.add("hanse:no-permit")
        return frozenset(rules)

    def _subjects(self) -> Iterator[dict[str, Any]]:
        for tenant in self._fleet.tenants:
            countries = {country for key in tenant.keys for country in key.countries}
            for data_class, country in product(tenant.classes, sorted(countries)):
                subject = {
                    "tenant": tenant.id,
                    "class": data_class,
                    "law": self._laws[data_class],
                    "country": country,
                    "origin": {"__entity": {"type": "Country", "id": country}},
                    "mechanisms": list(tenant.mechanisms),
                    "sovereign": tenant.sovereign,
                }
                name = _name(tenant.id, data_class, country)
                yield _entity("Subject", name, subject, [("Country", country)])

    def _places(self) -> Iterator[dict[str, Any]]:
        for site in self._fleet.sites:
            place = {
                "country": site.country,
                "hq": site.operator_hq,
                "kind": site.kind,
                "certifications": list(site.certifications),
            }
            yield _entity("Site", site.id, place, [("Country", site.country)])


def _name(tenant: str, data_class: str, country: str) -> str:
    return f"{tenant}/{data_class}/{country}"


@cache
def _world(more: tuple[str, ...]) -> str:
    """Blocs and every country with known rules, in a bloc or with a site, as members of a JSON array."""
    blocs = jurisdiction_rules().blocs
    members = {code for bloc in blocs.values() for code in bloc}
    rows = [_entity("Bloc", name, {}, []) for name in blocs]
    for code in sorted({*jurisdiction_rules().countries, *members, *more}):
        parents = [("Bloc", name) for name in blocs if code in blocs[name]]
        rows.append(_entity("Country", code, {}, parents))
    return json.dumps(rows)[1:-1]


def _entity(
    kind: str, name: str, attributes: dict[str, Any], parents: list[tuple[str, str]]
) -> dict[str, Any]:
    return {
        "uid": {"type": kind, "id": name},
        "attrs": attributes,
        "parents": [{"type": k, "id": n} for k, n in parents],
    }


def _is_broken(text: str) -> bool:
    """A file that does not parse, does not satisfy the schema, or holds a template that nobody links."""
    try:
        return bool(
            cedarpy.PolicySet.from_str(text).templates()
            or cedarpy.validate_policies(text, SCHEMA).errors
        )
    except ValueError:
        return True

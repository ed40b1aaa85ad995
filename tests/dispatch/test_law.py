"""The law table and Cedar agree in every cell, whatever the fleet; what is unknown or broken admits nothing."""

from __future__ import annotations

import json
from functools import cache

import cedarpy
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dispatch.fleets import CLASSES, NOW_S, fleet, random_fleet, site, tenant
from effort import effort
from hanse.catalogue.jurisdictions import jurisdiction_rules
from hanse.dispatch.law import (
    LAW_OUTLIVES,
    POLICY_ERROR,
    UNKNOWN_SUBJECT,
    LawTable,
    compile_law,
    entities,
    law_check,
    subject,
)
from hanse.dispatch.policies import SCHEMA, PolicyText, shipped_policies
from hanse.model.fleet import Fleet, Key

EXTRAS = {
    "by-site": 'forbid (principal, action, resource == Site::"s0") when { principal.law == "health" };',
    "by-tenant": '@id("acme") forbid (principal, action, resource) when { principal.tenant == "t0" }\n'
    'unless { resource.country == "DE" };',
    "by-kind": 'forbid (principal, action, resource) when { resource.kind == "edge" };',
    "by-class": 'forbid (principal, action, resource) when { principal.class == "public" && resource.hq == "CN" };',
    "home-operators": "forbid (principal, action, resource) when { resource.hq != resource.country };",
    "certified": 'forbid (principal, action, resource) unless { resource.certifications.contains("iso27001") };',
    "bloc": '@id("stay") forbid (principal in Bloc::"EU", action, resource) unless { resource in Bloc::"EU" };',
    # Satisfies the schema, and fails to evaluate where the operator is from a listed country.
    "overflow": '@id("fails") forbid (principal, action, resource) when {\n'
    '  if ["US", "DE"].contains(resource.hq) then 9223372036854775807 + 1 > 0 else false };',
    "permit": "permit (principal, action, resource);",
}
TODAY_S = NOW_S


@cache
def shipped_text(at_s: float) -> str:
    return "\n".join(policy.text for policy in shipped_policies(jurisdiction_rules(), at_s))


def ask_afresh(made: Fleet, law: LawTable, extra: tuple[PolicyText, ...]) -> list[list[bool]]:
    """[subject][site] by one question each to Cedar, with all policies and each site's own entity."""
    at_s = TODAY_S + LAW_OUTLIVES * made.policy.valid_s
    policies = cedarpy.PolicySet.from_str(shipped_text(at_s) + "\n".join(p.text for p in extra))
    world = entities(jurisdiction_rules(), law.subjects[1:], made.sites)
    known = cedarpy.Entities.from_json_str(json.dumps(world), SCHEMA)
    requests = [
        {
            "principal": {"type": "Subject", "id": one.digest},
            "action": {"type": "Action", "id": "process"},
            "resource": {"type": "Site", "id": where.id},
        }
        for one in law.subjects[1:]
        for where in made.sites
    ]
    results = cedarpy.is_authorized_batch(requests, policies, known)
    allowed = [r.allowed and not r.diagnostics.errors for r in results]
    width = len(made.sites)
    return [allowed[i : i + width] for i in range(0, len(allowed), width)]


@settings(max_examples=effort(30))
@given(st.integers(0, 2**32 - 1), st.sets(st.sampled_from(sorted(EXTRAS)), max_size=3))
def test_table_and_cedar_agree_in_every_cell(seed: int, chosen: set[str]) -> None:
    made = random_fleet(np.random.default_rng(seed), sites_max=12)
    extra = tuple(PolicyText(name=f"{n}.cedar", text=EXTRAS[n]) for n in sorted(chosen))
    law = compile_law(made, extra, TODAY_S)
    assert not law.problems
    asked = ask_afresh(made, law, extra)
    for i, row in enumerate(asked, start=1):
        for j, allowed in enumerate(row):
            assert law.lawful(i, j) == allowed, (law.subjects[i], made.sites[j])
            assert bool(law.explain_cell(i, j)) != allowed, "every refusal names a rule"
            assert set(law.explain_cell(i, j)) <= set(law.rule_texts)
    assert not any(law.lawful(0, j) for j in range(len(made.sites)))


def test_every_operators_policy_here_satisfies_the_schema() -> None:
    for name, text in EXTRAS.items():
        assert not law_check((PolicyText(name=name, text=text),)), name


def test_a_policy_that_fails_to_evaluate_denies_the_cell_and_is_named() -> None:
    made = fleet((site("a", "DE"), site("b", "FR")))
    extra = (PolicyText(name="x.cedar", text=EXTRAS["overflow"]),)
    law = compile_law(made, extra, TODAY_S)
    row = law.find(subject(data_class="public", law="non_personal", country="DE"))
    assert row
    assert law.explain_cell(row, 0) == ("fails", POLICY_ERROR)
    assert law.lawful(row, 1)


@pytest.mark.parametrize(
    "text",
    [
        "forbid (principal",
        "forbid (principal, action, resource) when { resource.colour == 1 };",
        "forbid (principal == ?principal, action, resource);",
    ],
)
def test_a_policy_file_that_cannot_be_applied_admits_nothing_and_is_named(text: str) -> None:
    made = fleet((site("a", "DE"),))
    law = compile_law(made, (PolicyText(name="x.cedar", text=text),), TODAY_S)
    assert law.problems
    assert not law.bits.any()
    rules = law.explain_cell(1, 0)
    assert POLICY_ERROR in rules
    assert any("x.cedar" in rule for rule in rules)


def test_an_unknown_country_or_class_is_row_zero() -> None:
    known = tenant("t", ("DE", "AQ"))
    law = compile_law(fleet((site("a", "DE"),), tenants=(known,)), (), TODAY_S)
    assert law.find(subject(data_class="public", law="non_personal", country="AQ")) == 0
    assert law.find(subject(data_class="nonesuch", law="non_personal", country="DE")) == 0
    assert law.explain_cell(0, 0) == (UNKNOWN_SUBJECT,)


def test_a_thousand_sites_and_two_hundred_subjects_ask_cedar_about_few_cells(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rng = np.random.default_rng(5)
    countries = [str(c) for c in rng.choice(["DE", "FR", "GB", "US", "CH", "PL", "SE", "CA"], 1000)]
    sites = tuple(
        site(f"s{i}", c, certifications=("dpf",) if rng.random() < 0.3 else ())
        for i, c in enumerate(countries)
    )
    tenants = tuple(
        tenant(
            f"t{i}",
            ("DE", "FR", "GB", "US", "CH"),
            classes=tuple(c.id for c in CLASSES[:5]),
            sovereign=bool(i % 2),
            mechanisms=("scc+tia",) if i % 3 == 0 else (),
            keys=(Key(id=f"k{i}", countries=("DE", "FR", "GB", "US", "CH")),),
        )
        for i in range(8)
    )
    asked = 0
    real = cedarpy.is_authorized_batch

    def counting(requests: list[dict[str, object]], *rest: object) -> object:
        nonlocal asked
        asked += len(requests)
        return real(requests, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(cedarpy, "is_authorized_batch", counting)
    law = compile_law(fleet(sites, tenants=tenants), (), TODAY_S)
    cells = (len(law.subjects) - 1) * len(sites)
    assert cells >= 100_000
    assert asked < cells / 50, (asked, cells)

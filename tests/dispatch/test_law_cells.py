"""What a careful reader of the catalogue's rules expects of single cells, beside what `compile_law` makes of them."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import NamedTuple

import msgspec
import pytest

from hanse.catalogue.jurisdictions import jurisdiction_rules
from hanse.dispatch.law import compile_law
from hanse.dispatch.policies import PolicyText
from hanse.model.fleet import Fleet

NOW_S = datetime(2026, 11, 22, tzinfo=UTC).timestamp()


class Cell(NamedTuple):
    """Data of a class of law from `origin`, at a site in `country`."""

    origin: str
    law: str
    country: str
    mechanisms: tuple[str, ...] = ()
    certifications: tuple[str, ...] = ()
    hq: str = ""
    sovereign: bool = False


def fleet_of(cell: Cell, valid_s: float = 86_400.0) -> Fleet:
    """A fleet of one site and one tenant."""
    site = {
        "id": "there",
        "kind": "micro",
        "city": "somewhere",
        "country": cell.country,
        "lat_deg": 0.0,
        "lon_deg": 0.0,
        "operator_hq": cell.hq or cell.country,
        "certifications": list(cell.certifications),
        "power": {"grid_kw_max": 1.0},
    }
    variant = {"id": "v", "model": "m", "precision": "p", "quality": 1, "quality_source": "none"}
    service = {"id": "chat", "slo": {"ttft_ms": 1, "tpot_ms": 1}, "variant": [variant]}
    tenant = {
        "id": "tenant",
        "classes": ["data"],
        "mechanisms": list(cell.mechanisms),
        "sovereign": cell.sovereign,
        "key": [{"id": "key", "countries": [cell.origin]}],
    }
    fleet = {
        "schema": "hanse-fleet/1",
        "name": "cells",
        "policy": {"valid_s": valid_s},
        "class": [{"id": "data", "law": cell.law}],
        "site": [site],
        "service": [service],
        "tenant": [tenant],
    }
    return msgspec.convert(fleet, Fleet)


def rules_of(
    cell: Cell, *, now_s: float = NOW_S, extra: Iterable[PolicyText] = (), valid_s: float = 86_400.0
) -> tuple[str, ...]:
    """Rules that deny the cell; empty: allowed."""
    table = compile_law(fleet_of(cell, valid_s), tuple(extra), now_s)
    row = len(table.subjects) - 1  # row 0 where the origin is unknown
    assert table.lawful(row, 0) == (not table.explain_cell(row, 0))
    return table.explain_cell(row, 0)


ALLOWED = [
    # inside the bloc; by adequacy without scope; with a scope that the site meets
    Cell("FR", "personal", "NO"),
    Cell("IS", "personal", "CH"),
    Cell("EE", "personal", "GB"),
    Cell("EE", "personal", "BR"),
    Cell("BR", "personal", "EE"),
    Cell("JP", "personal", "GB"),
    Cell("GB", "personal", "GI"),
    Cell("EE", "personal", "US", certifications=("dpf",)),
    Cell("GB", "personal", "US", certifications=("dpf_uk",)),
    Cell("CH", "personal", "US", certifications=("dpf_ch",)),
    Cell("EE", "personal", "CA", certifications=("pipeda",)),
    # mechanisms of the tenant, and of the site
    Cell("EE", "personal", "US", ("scc+tia",)),
    Cell("CA", "personal", "US", ("pia",)),
    Cell("CN", "personal", "DE", ("exempt_lt_100k_nonsensitive",)),
    Cell("VN", "personal", "SG", ("impact_assessment_filed", "transfer_impact_dossier")),
    Cell("RU", "personal", "DE", ("primary_db_in_country", "rkn_notice_for_export")),
    Cell("KR", "personal", "SG", certifications=("isms_p",)),
    Cell("SG", "personal", "KR", certifications=("cbpr",)),
    Cell("FR", "health", "FR", certifications=("hds_certified_host",)),
    Cell("FR", "health", "US", certifications=("hds_certified_host", "dpf")),
    Cell("US", "health", "US", certifications=("baa",)),
    # free, at home, and what needs no rule
    Cell("US", "personal", "CN"),
    Cell("IN", "personal", "DE"),
    Cell("CA", "personal", "CA"),
    Cell("AU", "health", "AU"),
    Cell("US", "sensitive", "DE"),
    Cell("DE", "payment", "FR"),
    Cell("FR", "payment", "FR"),
    Cell("US", "personal", "EE", hq="US", sovereign=True),
    Cell("EE", "non_personal", "RU"),
]

DENIED = [
    # a scope that nobody showed to be met, or another exporter's; no adequacy the other way round
    (Cell("EE", "personal", "US"), "GDPR-V"),
    (Cell("EE", "personal", "US", certifications=("dpf_uk", "dpf_ch")), "GDPR-V"),
    (Cell("GB", "personal", "US", certifications=("dpf", "dpf_ch")), "UK-GDPR"),
    (Cell("CH", "personal", "US", certifications=("dpf", "dpf_uk")), "CH-FADP"),
    (Cell("EE", "personal", "CA"), "GDPR-V"),
    (Cell("EE", "personal", "RU", certifications=("dpf", "pipeda", "baa")), "GDPR-V"),
    (Cell("GB", "personal", "BR"), "UK-GDPR"),
    (Cell("BR", "personal", "GB"), "BR-LGPD-33"),
    (Cell("JP", "personal", "US"), "JP-APPI-28"),
    # what a site must show, a tenant cannot claim
    (Cell("EE", "personal", "US", ("dpf",)), "GDPR-V"),
    (Cell("EE", "personal", "CN", ("adequacy",)), "GDPR-V"),
    (Cell("FR", "health", "FR", ("hds_certified_host",)), "FR-HDS"),
    (Cell("FR", "health", "FR"), "FR-HDS"),
    (Cell("FR", "health", "US", certifications=("hds_certified_host",)), "GDPR-V"),
    (Cell("US", "health", "US", ("baa",)), "US-HIPAA"),
    (Cell("KR", "personal", "CN", ("certification",)), "KR-PIPA-28-8"),
    (Cell("KR", "personal", "SG", certifications=("cbpr", "certification")), "KR-PIPA-28-8"),
    (Cell("SG", "personal", "CN", ("certification",)), "SG-PDPA-26"),
    # a finding about one destination's law is not one about all
    (Cell("ID", "personal", "KP", ("adequate_law",)), "ID-PDP"),
    (Cell("IL", "personal", "CN", ("adequate_law",)), "IL-2001"),
    (Cell("AU", "personal", "CN", ("similar_law",)), "AU-APP8"),
    # an exemption for data that is not sensitive does not lift the rule for data that is
    (Cell("CN", "sensitive", "DE", ("exempt_lt_100k_nonsensitive",)), "CN-PIPL-38"),
    (Cell("CN", "health", "DE", ("exempt_lt_100k_nonsensitive",)), "CN-PIPL-38"),
    # hard and copy: all mechanisms, not one; a part of a country binds the whole
    (Cell("RU", "personal", "DE", ("primary_db_in_country",)), "RU-152FZ-18(5)"),
    (Cell("VN", "personal", "SG", ("impact_assessment_filed",)), "VN-PDPL"),
    (Cell("AU", "health", "NZ", ("consent",)), "AU-MHR"),
    (Cell("IN", "important", "US", ("consent",)), "IN-DPDP-SDF"),
    (Cell("TR", "payment", "DE", ("scc_notified_5d",)), "TR-BANK"),
    (Cell("CN", "important", "HK"), "CN-CSL-37"),
    (Cell("CA", "personal", "US"), "CA-QC25"),
    # prohibited: by place and by operator
    (Cell("US", "sensitive", "CN"), "US-DOJ-202"),
    (Cell("US", "sensitive", "DE", hq="CN"), "US-DOJ-202"),
    (Cell("US", "government", "HK"), "US-DOJ-202"),
    # within a bloc that is narrower than another
    (Cell("DE", "payment", "NO"), "DE-GOBD"),
    # no rule of the country speaks of the class
    (Cell("FR", "payment", "CN"), "hanse:no-rule"),
    (Cell("FR", "government", "DE"), "hanse:no-rule"),
    (Cell("DE", "telecom", "CN"), "hanse:no-rule"),
    (Cell("US", "ci_operator", "CN"), "hanse:no-rule"),
    # reach of foreign law: over the operator, and over whoever runs a site there
    (Cell("EE", "personal", "EE", hq="US", sovereign=True), "hanse:sovereign"),
    (
        Cell("EE", "personal", "US", certifications=("dpf",), hq="EE", sovereign=True),
        "hanse:sovereign",
    ),
    (Cell("US", "personal", "CN", hq="US", sovereign=True), "hanse:sovereign"),
    (Cell("EE", "non_personal", "CN", hq="DE", sovereign=True), "hanse:sovereign"),
    # no law of the origin is known
    (Cell("PK", "personal", "DE"), "hanse:unknown-subject"),
    (Cell("XX", "personal", "DE"), "hanse:unknown-subject"),
]


@pytest.mark.parametrize("cell", ALLOWED, ids=str)
def test_what_the_rules_allow_is_allowed(cell: Cell) -> None:
    assert rules_of(cell) == ()


@pytest.mark.parametrize(("cell", "rule"), DENIED, ids=str)
def test_what_a_rule_forbids_is_denied_and_the_rule_is_named(cell: Cell, rule: str) -> None:
    assert rule in {name.partition("~")[0] for name in rules_of(cell)}


def test_a_class_without_a_rule_stays_at_home_for_every_country() -> None:
    facts = jurisdiction_rules()
    spoken = {c: {x for r in held.rules for x in r.classes} for c, held in facts.countries.items()}
    one = msgspec.to_builtins(fleet_of(Cell("EE", "personal", "EE")))
    laws = [law for law in facts.data_classes if law != "non_personal"]
    one["class"] = [{"id": law.replace("_", "-"), "law": law} for law in laws]
    one["tenant"][0]["classes"] = [c["id"] for c in one["class"]]
    one["tenant"][0]["key"][0]["countries"] = list(spoken)
    one["site"] = [
        {**one["site"][0], "id": c.lower(), "country": c, "operator_hq": c} for c in spoken
    ]
    table = compile_law(msgspec.convert(one, Fleet), (), NOW_S)
    silent = 0
    for row, subject in enumerate(table.subjects):
        if row and subject.law not in spoken[subject.country]:
            silent += 1
            allowed = [c for i, c in enumerate(spoken) if table.lawful(row, i)]
            assert allowed == [subject.country], subject
    assert silent > 4 * len(spoken)


@pytest.mark.parametrize("valid_s", [3600.0, 86_400.0, 365 * 86_400.0])
def test_no_table_admits_on_a_decision_that_ends_before_the_table_does(valid_s: float) -> None:
    ends_s = datetime(2031, 12, 1, tzinfo=UTC).timestamp()  # of the decision for GB
    cell = Cell("EE", "personal", "GB")
    # A table made half a validity after its law, valid for one: it must have expired by then.
    compiled_s = ends_s - 1.5 * valid_s
    assert rules_of(cell, now_s=compiled_s - 1.0, valid_s=valid_s) == ()
    assert rules_of(cell, now_s=compiled_s, valid_s=valid_s) == ("GDPR-V",)


@pytest.mark.parametrize(
    "text",
    [
        "not cedar",
        "forbid(principal, action, resource) when { principal.unknown };",
        'permit(principal == Subject::"x", action == Action::"proces", resource);',
        "permit(principal == ?principal, action, resource);",
    ],
)
def test_a_policy_that_cannot_be_read_admits_nothing(text: str) -> None:
    broken = PolicyText(name="own.cedar", text=text)
    rules = rules_of(Cell("EE", "personal", "EE"), extra=[broken])
    assert "hanse:policy-error" in rules


def test_a_permit_of_the_operator_lifts_no_rule() -> None:
    permit = PolicyText(name="own.cedar", text="permit(principal, action, resource);")
    assert rules_of(Cell("EE", "personal", "US"), extra=[permit]) == ("GDPR-V",)
    assert rules_of(Cell("XX", "personal", "EE"), extra=[permit]) == ("hanse:unknown-subject",)


@pytest.mark.parametrize("name", ["own.cedar", "o`wn.cedar", "own.cedar#0`"])
def test_a_policy_that_fails_to_evaluate_denies_whatever_its_file_is_called(name: str) -> None:
    overflow = "forbid(principal, action, resource) when { 9223372036854775807 + 1 > 0 };"
    rules = rules_of(Cell("EE", "personal", "EE"), extra=[PolicyText(name=name, text=overflow)])
    assert "hanse:policy-error" in rules

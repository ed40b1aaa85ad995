"""The pages on law and choosing say what the code does."""

from __future__ import annotations

import re
from pathlib import Path

from hanse.catalogue.jurisdictions import jurisdiction_rules
from hanse.dispatch.choose import CANDIDATES_MAX
from hanse.dispatch.law import OWN_CITATIONS
from hanse.dispatch.policies import SCHEMA, SCOPE_CERTIFICATION, PolicyText, check_policy
from hanse.dispatch.reasons import Reason

DOCS = Path(__file__).parents[2] / "docs"
LAW = (DOCS / "law.md").read_text()
CHOOSING = (DOCS / "choosing.md").read_text()


def test_every_reason_is_explained() -> None:
    named = set(re.findall(r"`([A-Z_]+)`", CHOOSING))
    assert {reason.name for reason in Reason if reason} <= named


def test_gates_are_listed_in_their_order() -> None:
    listed = re.findall(r"^\| `([A-Z_]+)` \|", CHOOSING, re.M)
    assert listed == [reason.name for reason in Reason if -10 < reason < 0]


def test_the_number_of_candidates_is_the_stated_one() -> None:
    assert f"First the {CANDIDATES_MAX} offers" in CHOOSING


def test_the_schema_and_the_example_are_those_that_are_checked() -> None:
    schema, example = re.findall(r"```cedar\n(.*?)```", LAW, re.S)
    assert schema.strip() == SCHEMA.strip()
    assert check_policy(PolicyText(name="docs/law.md", text=example)) == []


def test_rule_ids_restrictions_and_certifications_of_our_own_are_explained() -> None:
    for name in (*OWN_CITATIONS, *SCOPE_CERTIFICATION.values()):
        assert f"`{name}`" in LAW
    for restriction in jurisdiction_rules().restriction_values:
        assert f"`{restriction}`" in LAW

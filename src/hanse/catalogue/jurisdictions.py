"""Law as facts: blocs, adequacy decisions, transfer rules by country, reach over operators.

Here: typed access to `data/jurisdictions.json` and plain look-ups in it. Not here: any decision;
whether a request may go somewhere is compiled from these facts by `dispatch.law`.
A planning aid compiled from public summaries of the cited acts, not legal advice.
"""

from __future__ import annotations

from functools import cache
from typing import Literal

import msgspec

from hanse.catalogue.tables import DATA, Fact

DataClassLaw = Literal[
    "non_personal",
    "personal",
    "sensitive",
    "health",
    "payment",
    "telecom",
    "government",
    "important",
    "ci_operator",
]
Restriction = Literal["none", "free", "conditional", "copy", "hard", "prohibited"]
Confidence = Literal["high", "medium", "low"]


class Rule(Fact, frozen=True, kw_only=True):
    """What one act says of data of some classes leaving its country."""

    id: str
    law: str
    classes: tuple[DataClassLaw, ...]
    restriction: Restriction
    mechanisms: tuple[str, ...]
    """Any one of these lifts a `conditional` restriction; `adequacy` refers to the decisions."""
    confidence: Confidence
    within: str = ""
    """Bloc inside which the restriction does not apply."""
    destinations: str = ""
    """Bloc a `prohibited` restriction names; empty means all destinations."""
    thresholds: dict[str, int] = msgspec.field(default_factory=dict)
    """Numbers of persons at which another mechanism is required."""
    subnational: str = ""
    """Part of the country the rule is confined to."""
    penalty: dict[str, float | str] = msgspec.field(default_factory=dict)


class Adequacy(Fact, frozen=True, kw_only=True):
    """One decision that a destination protects personal data well enough."""

    to: str
    act: str
    scope: str = ""
    """Non-empty: holds only for recipients so described, not for the whole country."""
    sunset: str = ""
    """Month `YYYY-MM` in which the decision ends by itself; empty: none."""
    risk: str = ""
    confidence: Confidence = "high"


class CountryRules(Fact, frozen=True, kw_only=True):
    """The transfer rules of one country."""

    rules: tuple[Rule, ...]


class OperatorReach(Fact, frozen=True, kw_only=True):
    """Law by which the operator's home country can reach data held elsewhere."""

    operator_hq: str
    law: str
    effect: str
    planner_use: str = ""


class SiteEnergyRule(Fact, frozen=True, kw_only=True):
    """A duty of a data center above a size; sizes are kW as the act defines them."""

    id: str
    where: str
    duty: str
    law: str
    min_it_kw: float | None = None
    min_total_kw: float | None = None
    min_connection_kw: float | None = None
    pending: str = ""


class AiAct(Fact, frozen=True, kw_only=True):
    """What the EU's AI Act means for placement."""

    law: str
    placement_effect: str
    penalty: dict[str, float]


class Jurisdictions(Fact, frozen=True, kw_only=True):
    """The whole document."""

    schema: Literal["jurisdiction-rules/1"]
    as_of: str
    note: str
    data_classes: tuple[DataClassLaw, ...]
    restriction_values: dict[Restriction, str]
    blocs: dict[str, tuple[str, ...]]
    adequacy: dict[str, tuple[Adequacy, ...]]
    """By exporter: a country code or a bloc."""
    countries: dict[str, CountryRules]
    operator_reach: tuple[OperatorReach, ...]
    site_energy_rules: tuple[SiteEnergyRule, ...]
    ai_act: AiAct

    def blocs_of(self, iso2: str) -> tuple[str, ...]:
        """Blocs a country belongs to, in the document's order."""
        return tuple(name for name, members in self.blocs.items() if iso2 in members)

    def rules_of(self, iso2: str) -> tuple[Rule, ...] | None:
        """Transfer rules of a country; None (not empty) when the document does not know it."""
        found = self.countries.get(iso2)
        return None if found is None else found.rules

    def adequacy_from(self, iso2: str) -> tuple[Adequacy, ...]:
        """Decisions in force for exporters of a country.

        EU decisions bind the whole EEA (Joint Committee Decision 154/2018 takes the GDPR and the
        acts under it into the EEA Agreement), so Iceland, Liechtenstein and Norway share them.
        """
        own = self.adequacy.get(iso2, ())
        return own + (self.adequacy.get("EU", ()) if iso2 in self.blocs["EEA"] else ())

    def reach_of(self, operator_hq: str) -> tuple[OperatorReach, ...]:
        """Foreign-disclosure laws that reach an operator by its home country."""
        return tuple(r for r in self.operator_reach if r.operator_hq == operator_hq)


@cache
def jurisdiction_rules() -> Jurisdictions:
    """The shipped document, decoded once."""
    return msgspec.json.decode((DATA / "jurisdictions.json").read_bytes(), type=Jurisdictions)

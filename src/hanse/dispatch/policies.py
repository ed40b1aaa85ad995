"""Transfer rules as Cedar text: what the catalogue says of law becomes `forbid ... unless` with ids.

Here: the schema, the shipped policies for an instant, and checking the operator's own policy files. Not here:
deciding anything with them (`law`), the facts themselves (`catalogue.jurisdictions`).

How a rule becomes a policy:

* Each known data class gets one broad permit. Everything else only forbids, so no policy can widen another.
* `conditional`: forbidden unless the site is in the country of origin, or in the bloc of `within`, or one mechanism
  holds. `adequacy` means a decision of that exporter for the site's country that has not ended and whose scope the
  site meets. Mechanisms in `SITE_MECHANISMS` count from the site's certifications; a rule that knows only such
  mechanisms has no exemption for staying in the country. `certification` is the recipient's and counts from the site
  too. Findings about a destination's law (`FINDINGS`) never count. Every other mechanism counts from the tenant.
* `hard` and `copy`: forbidden outside the country unless the tenant holds *all* mechanisms. (A copy that stays is
  something routing cannot prove, so `copy` is read as `hard`.)
* `prohibited`: forbidden at sites in the listed countries and at sites of operators from there.
* A rule of a part of a country binds the whole country, since an origin names no part.
* A rule not yet in force binds already. A decision counts as ended from the first day of its last month.
* A class that no rule of a country speaks of stays in that country: silence is no permission (`hanse:no-rule`).
* A sovereign tenant's data goes neither to operators from a country in `operator_reach` nor to sites that stand there.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from hanse.catalogue.jurisdictions import Adequacy, Jurisdictions, Rule
from hanse.errors import ConfigError
from hanse.model.fleet import Value

if TYPE_CHECKING:
    import cedarpy

SCHEMA: Final = """
entity Bloc;
entity Country in [Bloc];
entity Site in [Country] {
  country: String, hq: String, kind: String, certifications: Set<String>
};
entity Subject in [Country] {
  tenant: String, class: String, law: String, country: String, origin: Country,
  mechanisms: Set<String>, sovereign: Bool
};
action process appliesTo { principal: Subject, resource: Site };
"""
"""`process` is reading or executing: entry, forwarding and executing site all need it."""

SITE_MECHANISMS: Final = frozenset({"hds_certified_host", "baa"})
"""Mechanisms that are a property of the host, found in a site's `certifications`."""

RECIPIENT_CERTIFICATION: Final = {"KR": "isms_p", "SG": "cbpr"}
"""Exporter -> the recipient's certification that its mechanism `certification` means: ISMS-P (PIPA Art. 28-8(1)4 with
Art. 32-2), Cross-Border Privacy Rules (PDP Regulations 2021 reg. 12). Of another exporter it is met by nobody."""

FINDINGS: Final = frozenset({"adequate_law", "similar_law"})
"""Mechanisms that say something of one destination. A tenant that held one would hold it for every destination."""

MECHANISM_CLASSES: Final = {"exempt_lt_100k_nonsensitive": ("personal",)}
"""Mechanism -> the only classes it lifts a rule for. Health data is sensitive (PIPL Art. 28)."""

UNRULED: Final = ("non_personal",)
"""Classes that need no transfer rule to travel."""

SCOPE_CERTIFICATION: Final = {
    ("EU", "US"): "dpf",
    ("GB", "US"): "dpf_uk",
    ("CH", "US"): "dpf_ch",
    ("EU", "CA"): "pipeda",
}
"""(exporter, destination) of a decision with a scope -> certification by which a site shows it is inside it. A scope
not listed here is met by nobody: the decision then never counts."""


class LawPolicy(Value, frozen=True, kw_only=True):
    """One policy with the id that refusals name."""

    id: str
    text: str
    citation: str
    countries: tuple[str, ...] = ()
    """Countries of origin it can apply to; empty: any."""
    classes: tuple[str, ...] = ()
    """Classes of law it can apply to; empty: any."""


class PolicyText(Value, frozen=True, kw_only=True):
    """A Cedar file of the operator."""

    name: str
    text: str


def shipped_policies(facts: Jurisdictions, now_s: float) -> tuple[LawPolicy, ...]:
    """All policies that the catalogue's facts amount to at `now_s`."""
    permits = [_permit(law) for law in facts.data_classes]
    return (*permits, _sovereign(facts), *_silent(facts), *_transfer_rules(facts, now_s))


def _permit(law: str) -> LawPolicy:
    text = (
        f'@id("permit:{law}")\npermit (principal, action == Action::"process", resource)\n'
        f"when {{ principal.law == {_quoted(law)} }};\n"
    )
    return LawPolicy(
        id=f"permit:{law}", text=text, citation=f"class {law} is known", classes=(law,)
    )


def _sovereign(facts: Jurisdictions) -> LawPolicy:
    reach = _set(sorted({r.operator_hq for r in facts.operator_reach}))
    text = (
        '@id("hanse:sovereign")\nforbid (principal, action == Action::"process", resource)\n'
        "when { principal.sovereign && (\n"
        f"  ({reach}.contains(resource.hq) && resource.hq != principal.country) ||\n"
        f"  ({reach}.contains(resource.country) && resource.country != principal.country)\n) }};\n"
    )
    laws = "; ".join(f"{r.operator_hq}: {r.law}" for r in facts.operator_reach)
    return LawPolicy(id="hanse:sovereign", text=text, citation=f"sovereign tenant; {laws}")


def _silent(facts: Jurisdictions) -> list[LawPolicy]:
    """What no rule of a country speaks of stays there; one policy for each distinct set of such classes."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for country, held in facts.countries.items():
        spoken = {c for rule in held.rules for c in rule.classes}
        silent = tuple(c for c in facts.data_classes if c not in spoken and c not in UNRULED)
        if silent:
            groups.setdefault(silent, []).append(country)
    found: list[LawPolicy] = []
    for number, (classes, countries) in enumerate(groups.items(), start=1):
        name = "hanse:no-rule" if number == 1 else f"hanse:no-rule~{number}"
        text = (
            f"@id({_quoted(name)})\nforbid (principal, action == Action::"
            '"process", resource)\n'
            f"when {{ {_set(classes)}.contains(principal.law) &&\n"
            f"  {_set(countries)}.contains(principal.country) }}\n"
            "unless { resource in principal.origin };\n"
        )
        found.append(
            LawPolicy(
                id=name,
                text=text,
                citation="no rule of the country on this class is known: it stays there",
                countries=tuple(countries),
                classes=classes,
            )
        )
    return found


def _transfer_rules(facts: Jurisdictions, now_s: float) -> list[LawPolicy]:
    """One policy for each distinct rule; countries that share a rule and its exporter share the policy."""
    groups: dict[tuple[str, bytes], list[tuple[str, Rule, str]]] = {}
    for country, held in facts.countries.items():
        for rule in held.rules:
            text = _transfer_text(rule, country, facts, now_s)
            if text:
                key = (rule.id, text.encode())
                groups.setdefault(key, []).append((country, rule, text))
    found: list[LawPolicy] = []
    seen: dict[str, int] = {}
    for (rule_id, _), members in groups.items():
        seen[rule_id] = seen.get(rule_id, 0) + 1
        name = rule_id if seen[rule_id] == 1 else f"{rule_id}~{seen[rule_id]}"
        countries = tuple(sorted(country for country, _, _ in members))
        rule = members[0][1]
        head = f"@id({_quoted(name)})\nforbid ({_scope(countries, facts)}"
        found.append(
            LawPolicy(
                id=name,
                text=f'{head}, action == Action::"process", resource)\n{members[0][2]}',
                citation=rule.law,
                countries=countries,
                classes=rule.classes,
            )
        )
    return found


def _scope(countries: tuple[str, ...], facts: Jurisdictions) -> str:
    for bloc, members in facts.blocs.items():
        if len(countries) > 1 and set(members) == set(countries):
            return f"principal in Bloc::{_quoted(bloc)}"
    assert len(countries) == 1, f"no bloc is exactly {countries}; the scope of a policy names one"
    return f"principal in Country::{_quoted(countries[0])}"


def _transfer_text(rule: Rule, country: str, facts: Jurisdictions, now_s: float) -> str:
    """Everything after the scope; empty where the rule restricts nothing."""
    applies = f"{_set(rule.classes)}.contains(principal.law)"
    if rule.restriction in ("none", "free"):
        return ""
    if rule.restriction == "prohibited":
        members = facts.blocs.get(rule.destinations, ())
        where = f"resource in Bloc::{_quoted(rule.destinations)}" if members else "true"
        applies += f" &&\n  ({where} || {_set(members)}.contains(resource.hq))"
        return f"when {{ {applies} }}\nunless {{ {_all_held(rule.mechanisms)} }};\n"
    if rule.restriction in ("hard", "copy"):
        lifted = f"resource in principal.origin || {_all_held(rule.mechanisms)}"
        return f"when {{ {applies} }}\nunless {{ {lifted} }};\n"
    lifted = " ||\n  ".join(_conditions(rule, country, facts, now_s))
    return f"when {{ {applies} }}\nunless {{ {lifted} }};\n"


def _conditions(rule: Rule, country: str, facts: Jurisdictions, now_s: float) -> list[str]:
    host = [m for m in rule.mechanisms if m in SITE_MECHANISMS]
    held = [m for m in rule.mechanisms if m not in SITE_MECHANISMS and _is_tenants(m)]
    parts = [_certified(m) for m in host]
    if not host or held:
        parts.insert(0, "resource in principal.origin")
    if rule.within:
        parts.append(f"resource in Bloc::{_quoted(rule.within)}")
    if "adequacy" in rule.mechanisms:
        parts += _adequate(country, facts, now_s)
    if "certification" in rule.mechanisms and country in RECIPIENT_CERTIFICATION:
        parts.append(_certified(RECIPIENT_CERTIFICATION[country]))
    anywhere = [m for m in held if m not in MECHANISM_CLASSES]
    if anywhere:
        parts.append(f"principal.mechanisms.containsAny({_set(anywhere)})")
    for m in held:
        if m in MECHANISM_CLASSES:
            classes = f"{_set(MECHANISM_CLASSES[m])}.contains(principal.law)"
            parts.append(f"({classes} && principal.mechanisms.contains({_quoted(m)}))")
    return parts or ["false"]


def _is_tenants(mechanism: str) -> bool:
    return mechanism not in ("adequacy", "certification") and mechanism not in FINDINGS


def _certified(certification: str) -> str:
    return f"resource.certifications.contains({_quoted(certification)})"


def _adequate(country: str, facts: Jurisdictions, now_s: float) -> list[str]:
    exporter = "EU" if country in facts.blocs["EEA"] else country
    whole: list[str] = []
    scoped: list[str] = []
    for decision in facts.adequacy_from(country):
        if ended(decision, now_s):
            continue
        if not decision.scope:
            whole.append(f"Country::{_quoted(decision.to)}")
        elif certification := SCOPE_CERTIFICATION.get((exporter, decision.to)):
            where = f"resource in Country::{_quoted(decision.to)}"
            scoped.append(
                f"({where} && resource.certifications.contains({_quoted(certification)}))"
            )
    parts = [f"resource in [{', '.join(sorted(set(whole)))}]"] if whole else []
    return parts + scoped


def ended(decision: Adequacy, now_s: float) -> bool:
    """Whether a decision with a sunset month is over; from the first instant of that month."""
    if not decision.sunset:
        return False
    year, month = (int(part) for part in decision.sunset.split("-")[:2])
    return now_s >= datetime(year, month, 1, tzinfo=UTC).timestamp()


def _all_held(mechanisms: tuple[str, ...]) -> str:
    if not mechanisms:
        return "false"
    return f"principal.mechanisms.containsAll({_set(mechanisms)})"


def _set(values: tuple[str, ...] | list[str]) -> str:
    return "[" + ", ".join(map(_quoted, values)) + "]"


def _quoted(text: str) -> str:
    assert text.isascii() and text.isprintable(), text
    return json.dumps(text)


class PolicyBook:
    """Shipped and operator's policies, parsed once, under ids that refusals can name.

    A policy file that does not parse or does not satisfy the schema is a problem; while there is any, the book
    admits nothing (`law` sees to that), because nobody knows what the file was meant to forbid.
    """

    def __init__(self, shipped: tuple[LawPolicy, ...], extra: tuple[PolicyText, ...]) -> None:
        self.citations = {policy.id: policy.citation for policy in shipped}
        self._reach: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {}
        self.problems: list[ConfigError] = []
        self._static: dict[str, Any] = {}
        for policy in shipped:
            self._add_shipped(policy)
        self._rule_of = {policy.id: policy.id for policy in shipped}
        self.extra_json = ""
        for file in extra:
            self._add_file(file)

    def _add_shipped(self, policy: LawPolicy) -> None:
        parsed = _parsed(policy.text)
        assert len(parsed) == 1, policy.id
        self._static[policy.id] = parsed["policy0"]
        self._reach[policy.id] = policy.countries, policy.classes

    def _add_file(self, file: PolicyText) -> None:
        problems = check_policy(file)
        self.problems += problems
        if problems:
            return
        parsed = _parsed(file.text)
        for number, body in enumerate(parsed.values()):
            name = f"{file.name}#{number}"
            self._static[name] = body
            self._reach[name] = (), ()
            self._rule_of[name] = str(body.get("annotations", {}).get("id") or name)
            self.citations.setdefault(self._rule_of[name], f"operator's policy {file.name}")
        self.extra_json += json.dumps(parsed)

    def applicable(self, country: str, law: str) -> dict[str, Any]:
        """Policies that can apply to a country of origin and class of law, as JSON by id; the others never do."""
        return {
            name: body
            for name, body in self._static.items()
            if _holds(self._reach[name][0], country) and _holds(self._reach[name][1], law)
        }

    def policy_set(self, chosen: dict[str, Any] | None = None) -> cedarpy.PolicySet:
        """All policies, or those chosen, parsed."""
        policies = self._static if chosen is None else chosen
        document = {"templates": {}, "staticPolicies": policies, "templateLinks": []}
        import cedarpy

        return cedarpy.PolicySet.from_json_str(json.dumps(document))

    def rule(self, policy_id: str) -> str:
        """The id that refusals name for a policy."""
        return self._rule_of.get(policy_id, policy_id)  # an error message may garble a name

    def mentions(self, word: str) -> bool:
        """Whether any policy of the operator says this word; "yes" may be wrong, "no" never is."""
        return word in self.extra_json


def _holds(allowed: tuple[str, ...], one: str) -> bool:
    return not allowed or one in allowed


def check_policy(file: PolicyText) -> list[ConfigError]:
    """What keeps an operator's policy file from being applied; empty: nothing."""
    where = f"policy {file.name}"
    try:
        import cedarpy

        templates = cedarpy.PolicySet.from_str(file.text).templates()
        result = cedarpy.validate_policies(file.text, SCHEMA)
    except ValueError as error:
        return [
            ConfigError(
                where,
                got=str(error),
                allowed="Cedar policies",
                fix="until then nothing is admitted",
            )
        ]
    if templates:
        return [
            ConfigError(
                where,
                got=f"{len(templates)} templates, which never apply",
                allowed="policies without ?principal and ?resource",
            )
        ]
    return [
        ConfigError(
            f"{where}, {result.id_annotations_by_policy_id.get(e.policy_id) or e.policy_id}",
            got=e.error,
            allowed="what the schema in docs/law.md describes",
            fix="until then nothing is admitted",
        )
        for e in result.errors
    ]


def _parsed(text: str) -> dict[str, Any]:
    import cedarpy

    document: dict[str, dict[str, Any]] = json.loads(cedarpy.policies_to_json_str(text))
    return document["staticPolicies"]

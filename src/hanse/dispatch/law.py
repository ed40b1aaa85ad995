"""Law compiled for a fleet: which subject's data may be read or executed at which site, and by which rules not.

Here: `compile_law`, which asks Cedar once for every group of cells that no policy can tell apart, and `LawTable`.
Not here: the policies' text (`policies`), the routing table that carries the result (`table`).

Cedar fails open where a policy fails to evaluate: it skips the policy. Here any error in a cell denies the cell
(`hanse:policy-error`). A cell without a permit is `hanse:no-permit`. Row 0 denies everything: it stands for every
subject that nobody declared, and for countries of origin without known law.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from hanse.catalogue.jurisdictions import Jurisdictions, jurisdiction_rules
from hanse.dispatch.policies import SCHEMA, PolicyBook, PolicyText, check_policy, shipped_policies
from hanse.dispatch.table import SubjectMeta
from hanse.errors import ConfigError
from hanse.model.fleet import Fleet, Site

if TYPE_CHECKING:
    import cedarpy

POLICY_ERROR: Final = "hanse:policy-error"
NO_PERMIT: Final = "hanse:no-permit"
UNKNOWN_SUBJECT: Final = "hanse:unknown-subject"
LAW_OUTLIVES: Final = 1.5
"""Law is judged this many validities of a table ahead: a table may be made of law half a validity old, and then serves
a whole one. A decision that ends in that time counts as ended, else a table would admit on it after its end."""
RULE_SETS_MAX: Final = 65_536
"""Numbers of rule sets are 16 bit; real fleets have tens."""

OWN_CITATIONS: Final = {
    POLICY_ERROR: "a policy failed to parse, to satisfy the schema, or to evaluate; nothing is admitted on its account",
    NO_PERMIT: "no policy permits this class of data",
    UNKNOWN_SUBJECT: "class or country of origin has no known law in this fleet",
}
_POLICY_IN_ERROR = re.compile(r"policy `([^`]+)`")


class LawTable:
    """Law as numbers.

    Attributes:
        subjects: Rows; row 0 denies everything.
        row: Subject -> row, for subjects that the fleet declares.
        profile: [subject] index into the distinct rows below.
        bits: [profile, site] 1 = allowed.
        rule_set: [profile, site] index into `rule_sets`; 0, the empty set, where allowed.
        problems: What is wrong with the operator's policies; not empty = every cell is denied.
    """

    def __init__(
        self,
        subjects: tuple[SubjectMeta, ...],
        cells: list[tuple[tuple[str, ...], ...]],
        citations: dict[str, str],
        problems: tuple[ConfigError, ...] = (),
    ) -> None:
        self.subjects = subjects
        self.row = {_law_of(subject): i for i, subject in enumerate(subjects) if i}
        self.problems = problems
        sets = {rules: None for row in cells for rules in row}
        self.rule_sets: tuple[tuple[str, ...], ...] = tuple(dict.fromkeys([(), *sorted(sets)]))
        assert len(self.rule_sets) <= RULE_SETS_MAX, "more distinct refusals than a table can name"
        number = {rules: i for i, rules in enumerate(self.rule_sets)}
        profiles = {row: i for i, row in enumerate(dict.fromkeys(cells))}
        self.profile: NDArray[np.int64] = np.array([profiles[row] for row in cells], np.int64)
        self.rule_set: NDArray[np.uint16] = np.array(
            [[number[rules] for rules in row] for row in profiles], np.uint16
        ).reshape(len(profiles), -1)
        self.bits: NDArray[np.uint8] = (self.rule_set == 0).astype(np.uint8)
        named = {rule for rules in self.rule_sets for rule in rules}
        known = citations | OWN_CITATIONS
        self.rule_texts = {rule: known.get(rule, "") for rule in sorted(named)}

    def lawful(self, subject: int, site: int) -> bool:
        """Whether the subject's data may be read or executed at the site."""
        return bool(self.bits[self.profile[subject], site])

    def explain_cell(self, subject: int, site: int) -> tuple[str, ...]:
        """Ids of the rules that deny; empty: allowed."""
        return self.rule_sets[int(self.rule_set[self.profile[subject], site])]

    def find(self, subject: SubjectMeta) -> int:
        """Row of a subject; 0, which denies everything, where nobody declared it."""
        return self.row.get(_law_of(subject), 0)


def compile_law(
    fleet: Fleet,
    extra: tuple[PolicyText, ...],
    now_s: float,
    *,
    facts: Jurisdictions | None = None,
) -> LawTable:
    """Compile shipped rules and the operator's policies for the subjects and sites of a fleet, as they hold from `now_s` until
    the last table made of them has expired.
    """
    facts = facts or jurisdiction_rules()
    ahead_s = LAW_OUTLIVES * fleet.policy.valid_s
    book = PolicyBook(shipped_policies(facts, now_s + ahead_s), extra)
    subjects = (_nobody(), *declared_subjects(fleet, book, facts))
    if book.problems:
        broken = tuple(sorted({POLICY_ERROR, *(problem.where for problem in book.problems)}))
        row = tuple(broken for _ in fleet.sites)
        return LawTable(subjects, [row] * len(subjects), book.citations, tuple(book.problems))
    judge = CedarJudge(book, facts, subjects[1:], fleet.sites)
    cells = judge.rows()
    nothing = tuple((UNKNOWN_SUBJECT,) for _ in fleet.sites)
    return LawTable(subjects, [nothing, *cells], book.citations)


def law_check(extra: tuple[PolicyText, ...]) -> list[ConfigError]:
    """All that is wrong with the operator's policies."""
    return [problem for file in extra for problem in check_policy(file)]


def declared_subjects(fleet: Fleet, book: PolicyBook, facts: Jurisdictions) -> list[SubjectMeta]:
    """Every (tenant's legal profile, class, country of origin) that a key of the fleet can speak for."""
    by_tenant = book.mentions('"tenant"')
    classes = {c.id: c for c in fleet.classes}
    found: dict[SubjectMeta, None] = {}
    for tenant in fleet.tenants:
        countries = sorted({c for key in tenant.keys for c in key.countries})
        for class_id in tenant.classes:
            data_class = classes.get(class_id)
            if data_class is None or data_class.law not in facts.data_classes:
                continue
            for country in countries:
                if facts.rules_of(country) is None:
                    continue
                found[
                    subject(
                        data_class=class_id,
                        law=data_class.law,
                        country=country,
                        mechanisms=tenant.mechanisms,
                        sovereign=tenant.sovereign,
                        tenant=tenant.id if by_tenant else "",
                    )
                ] = None
    return list(found)


def subject(
    *,
    data_class: str,
    law: str,
    country: str,
    mechanisms: Iterable[str] = (),
    sovereign: bool = False,
    tenant: str = "",
) -> SubjectMeta:
    """A subject with its digest; the order of mechanisms does not matter."""
    bare = SubjectMeta(
        digest="",
        data_class=data_class,
        law=law,
        country=country,
        mechanisms=tuple(sorted(set(mechanisms))),
        sovereign=sovereign,
        tenant=tenant,
    )
    digest = hashlib.blake2b(msgspec.msgpack.encode(bare), digest_size=16).hexdigest()
    return msgspec.structs.replace(bare, digest=digest)


def _nobody() -> SubjectMeta:
    return subject(data_class="", law="", country="")


def _law_of(one: SubjectMeta) -> str:
    return one.digest


class CedarJudge:
    """Asks Cedar about (subject, site), once for all pairs that no policy can tell apart."""

    def __init__(
        self,
        book: PolicyBook,
        facts: Jurisdictions,
        subjects: tuple[SubjectMeta, ...],
        sites: tuple[Site, ...],
    ) -> None:
        self.book = book
        self.subjects = subjects
        self.sites = sites
        self.facts = facts
        import cedarpy  # 15 MB that only whoever compiles law needs

        self._entities = cedarpy.Entities.from_json_str(
            json.dumps(entities(facts, subjects, sites)), SCHEMA
        )

    def rows(self) -> list[tuple[tuple[str, ...], ...]]:
        """[subject][site] rule ids that deny; empty: allowed."""
        subject_group = _groups(self.subjects, self._subject_key())
        judged: dict[int, tuple[tuple[str, ...], ...]] = {}
        by_policies: dict[tuple[str, str], list[int]] = {}
        for head in sorted(set(subject_group)):
            one = self.subjects[head]
            by_policies.setdefault((one.country, one.law), []).append(head)
        for (country, law), members in by_policies.items():
            applicable = self.book.applicable(country, law)
            policy_set = self.book.policy_set(applicable)
            site_group = _groups(self.sites, self._site_key(json.dumps(applicable), country))
            heads = sorted(set(site_group))
            column = {head: i for i, head in enumerate(heads)}
            for head in members:
                verdicts = self.ask([(head, site) for site in heads], policy_set)
                judged[head] = tuple(verdicts[column[site]] for site in site_group)
        return [judged[head] for head in subject_group]

    def ask(
        self, cells: list[tuple[int, int]], policy_set: cedarpy.PolicySet
    ) -> list[tuple[str, ...]]:
        """Rule ids that deny, for each (subject, site); one question to Cedar for each."""
        requests = [
            {
                "principal": {"type": "Subject", "id": self.subjects[i].digest},
                "action": {"type": "Action", "id": "process"},
                "resource": {"type": "Site", "id": self.sites[j].id},
            }
            for i, j in cells
        ]
        import cedarpy

        results = cedarpy.is_authorized_batch(requests, policy_set, self._entities)
        return [self._rules(result) for result in results]

    def _rules(self, result: cedarpy.AuthzResult) -> tuple[str, ...]:
        rules = [] if result.allowed else [self.book.rule(p) for p in result.diagnostics.reasons]
        for error in result.diagnostics.errors:
            named = _POLICY_IN_ERROR.search(error)
            rules += [POLICY_ERROR] + ([self.book.rule(named.group(1))] if named else [])
        if not rules and not result.allowed:
            rules = [NO_PERMIT]
        return tuple(sorted(set(rules)))

    def _site_key(self, text: str, origin: str) -> Callable[[Site], Any]:
        """What of a site can matter to policies whose JSON is `text`, for data from `origin`.

        A country or certification that no policy names can matter only by a bloc or by being the origin. Where a
        policy of the operator reads an attribute itself, all of its values are told apart.
        """
        by = {n: self.book.mentions(f'"{n}"') for n in ("Site", "kind", "country", "hq")}
        by_certification = self.book.mentions('"certifications"')
        blocs = {
            c: frozenset(b for b in self.facts.blocs_of(c) if json.dumps(b) in text)
            for c in {site.country for site in self.sites}
        }

        def seen(code: str) -> str:
            return code if code == origin or json.dumps(code) in text else ""

        def key(site: Site) -> Any:
            certifications = frozenset(
                c for c in site.certifications if by_certification or json.dumps(c) in text
            )
            return (
                site.country if by["country"] else (seen(site.country), blocs[site.country]),
                site.operator_hq if by["hq"] else seen(site.operator_hq),
                certifications,
                by["kind"] and site.kind,
                by["Site"] and site.id,
            )

        return key

    def _subject_key(self) -> Callable[[SubjectMeta], Any]:
        by_class = self.book.mentions('"class"')
        own_id = self.book.mentions('"Subject"')

        def key(one: SubjectMeta) -> Any:
            shape = one.law, one.country, one.mechanisms, one.sovereign, one.tenant
            return *shape, by_class and one.data_class, own_id and one.digest

        return key


def entities(
    facts: Jurisdictions, subjects: Iterable[SubjectMeta], sites: Iterable[Site]
) -> list[dict[str, Any]]:
    """Blocs, countries, sites and subjects as Cedar's JSON."""
    subjects, sites = tuple(subjects), tuple(sites)
    members = {c for bloc in facts.blocs.values() for c in bloc}
    named = {s.country for s in sites} | {s.country for s in subjects} | set(facts.countries)
    found = [_entity("Bloc", bloc, {}, []) for bloc in facts.blocs]
    for country in sorted(members | named):
        parents = [("Bloc", bloc) for bloc in facts.blocs_of(country)]
        found.append(_entity("Country", country, {}, parents))
    for site in sites:
        attributes: dict[str, Any] = {
            "country": site.country,
            "hq": site.operator_hq,
            "kind": site.kind,
            "certifications": sorted(set(site.certifications)),
        }
        found.append(_entity("Site", site.id, attributes, [("Country", site.country)]))
    for one in subjects:
        attributes = {
            "tenant": one.tenant,
            "class": one.data_class,
            "law": one.law,
            "country": one.country,
            "origin": {"__entity": {"type": "Country", "id": one.country}},
            "mechanisms": list(one.mechanisms),
            "sovereign": one.sovereign,
        }
        found.append(_entity("Subject", one.digest, attributes, [("Country", one.country)]))
    return found


def _entity(
    kind: str, name: str, attributes: dict[str, Any], parents: list[tuple[str, str]]
) -> dict[str, Any]:
    return {
        "uid": {"type": kind, "id": name},
        "attrs": attributes,
        "parents": [{"type": parent, "id": id_} for parent, id_ in parents],
    }


def _groups(members: tuple[Any, ...], key: Callable[[Any], Any]) -> list[int]:
    """For each member the index of the first that looks the same."""
    first: dict[Any, int] = {}
    return [first.setdefault(key(member), i) for i, member in enumerate(members)]


def no_law() -> LawTable:
    """Of a dispatcher that decides nothing by law: a site's, whose gateways read the league's table."""
    return LawTable((), [()], {})

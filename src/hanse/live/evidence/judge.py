"""One request's story: do its records add up, and to what?

Here: the join of decided, executed and ended records of one request over all sites, with the verdict proven, denied or unproven
and the reasons. Not here: whether a record is genuine (`receipt` and `audit` find that out first and say so in `flaw`).

Proven means: the entry site decided for the site that says it executed, that site had re-checked the law for the same subject and
found it allowed, both wrote how it ended, and the times are in order. Denied means: the last decision refused, nothing was
executed anywhere, and a refusal by law names its rules. Everything else is unproven; there is no fourth answer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, Literal, NamedTuple, TypeVar

from hanse.live.evidence.chain import Decided, Ended, Executed, RequestRecord

CLOCK_SKEW_S_MAX: Final = 2.0
"""Order of instants is judged up to this: far above what NTP leaves, below any answer worth waiting for twice."""
LAW_REFUSALS: Final = frozenset({"no_eligible_site", "entry_not_eligible"})
"""Refusals that must name the rules that barred the sites."""

R = TypeVar("R", Decided, Executed, Ended)
Status = Literal["proven", "denied", "unproven"]


class Subject(NamedTuple):
    """Whose data, of which class, from which country of legal origin."""

    tenant: str
    data_class: str
    country: str
    row: int


LawCheck = Callable[[Subject, str, int], bool]
"""(subject, site, table version) -> may this site process it? Asked of Cedar by the command line."""


class Found(NamedTuple):
    """A record with where it was found."""

    site: str
    """Site in whose log it is (from the verified certificate or the log's own directory)."""
    record: RequestRecord
    flaw: str = ""
    """Why the record proves nothing (not sealed yet, its chain is altered, ...); empty: it is genuine."""
    leaf: bytes = b""
    """Hash of the record's bytes."""


class Judgement(NamedTuple):
    """What the records of one request add up to."""

    status: Status
    reasons: tuple[str, ...]
    """Why it is unproven; empty otherwise."""
    notes: tuple[str, ...]
    """True things a reader should know that take nothing from the status."""
    entry_site: str
    executing_site: str
    """Empty where nothing was executed."""


def judge(found: Sequence[Found], law: LawCheck | None = None) -> Judgement:
    """Judge one request by all its records."""
    reasons = [f"{kind_of(f.record)} of site {f.site}: {f.flaw}" for f in found if f.flaw]
    decided = sorted(_of(found, Decided), key=lambda pair: pair[1].attempt)
    executed, ended = _of(found, Executed), _of(found, Ended)
    if not decided:
        reasons.append("no decision record")
        return Judgement("unproven", tuple(reasons), (), "", "")
    entry = decided[0][1].entry_site
    reasons += _decision_flaws(decided, entry)
    reasons += _execution_flaws(decided, executed)
    reasons += _law_flaws(decided, executed, law)
    last = decided[-1][1]
    ran = [record for _, record in executed if record.engine]
    notes = _silent_attempts(decided, executed, ended)
    if last.refusal and not ran:
        if last.refusal in LAW_REFUSALS and not last.rules:
            reasons.append(f"refusal {last.refusal} names no rule")
        reasons += notes  # a silent site may have executed it, so "nothing was" is not shown
        return Judgement("unproven" if reasons else "denied", tuple(reasons), notes, entry, "")
    site, more = _ending_flaws(decided, executed, ended, entry)
    reasons += more
    status: Status = "unproven" if reasons else "proven"
    return Judgement(status, tuple(dict.fromkeys(reasons)), notes, entry, site)


def kind_of(record: RequestRecord) -> str:
    """The record's kind as people read it."""
    return type(record).__name__.lower()


def _of(found: Sequence[Found], kind: type[R]) -> list[tuple[str, R]]:
    return [(f.site, f.record) for f in found if isinstance(f.record, kind)]


def _decision_flaws(decided: list[tuple[str, Decided]], entry: str) -> list[str]:
    flaws = []
    if [d.attempt for _, d in decided] != list(range(1, len(decided) + 1)):
        flaws.append(f"attempts {[d.attempt for _, d in decided]} have a gap or a double")
    first = decided[0][1]
    for site, d in decided:
        if site != d.entry_site or d.entry_site != entry:
            flaws.append(f"decision for entry site {d.entry_site} stands in the log of {site}")
        if (d.tenant, d.data_class, d.country) != (first.tenant, first.data_class, first.country):
            flaws.append(f"attempt {d.attempt} is for another subject")
        if bool(d.site) == bool(d.refusal):
            flaws.append(f"attempt {d.attempt} both chose and refused, or neither")
    return flaws


def _execution_flaws(
    decided: list[tuple[str, Decided]], executed: list[tuple[str, Executed]]
) -> list[str]:
    flaws = []
    by_attempt = {d.attempt: d for _, d in decided}
    for site, x in executed:
        d = by_attempt.get(x.attempt)
        if site != x.site:
            flaws.append(f"execution at {x.site} stands in the log of {site}")
        if d is None or d.site != x.site:
            flaws.append(f"executed at {x.site} without a decision for it (attempt {x.attempt})")
            continue
        if (x.tenant, x.data_class, x.country) != (d.tenant, d.data_class, d.country) or (
            x.table_version == d.table_version and x.subject_row != d.subject_row
        ):
            flaws.append(f"executed at {x.site} for another subject than decided")
        if x.entry_site != d.entry_site:
            flaws.append(f"executed at {x.site} for entry site {x.entry_site}, not {d.entry_site}")
        if x.variant != d.variant:
            flaws.append(f"executed variant {x.variant}, decided {d.variant}")
        if x.at_s < d.at_s - CLOCK_SKEW_S_MAX:
            flaws.append(f"executed at {x.site} before it was decided")
        if bool(x.engine) == bool(x.refusal):
            flaws.append(f"site {x.site} both ran and refused it, or neither")
        if x.engine and not x.allowed:
            flaws.append(f"executed at {x.site} against the law bit of its own table")
    return flaws


def _law_flaws(
    decided: list[tuple[str, Decided]],
    executed: list[tuple[str, Executed]],
    law: LawCheck | None,
) -> list[str]:
    """Every site that was trusted with the request, asked again, each under its own table."""
    if law is None:
        return []
    asked: dict[tuple[Subject, str, int], None] = {}
    for _, d in decided:
        if not d.refusal:
            subject = Subject(d.tenant, d.data_class, d.country, d.subject_row)
            asked[subject, d.entry_site, d.table_version] = None
            asked[subject, d.site, d.table_version] = None
    for _, x in executed:
        if x.engine:
            subject = Subject(x.tenant, x.data_class, x.country, x.subject_row)
            asked[subject, x.site, x.table_version] = None
    return [
        f"the law bars site {site} for this subject (table {version})"
        for subject, site, version in asked
        if not law(subject, site, version)
    ]


def _ending_flaws(
    decided: list[tuple[str, Decided]],
    executed: list[tuple[str, Executed]],
    ended: list[tuple[str, Ended]],
    entry: str,
) -> tuple[str, list[str]]:
    """The executing site, and what is missing between it and the end."""
    at_entry = [(s, e) for s, e in ended if e.role == "entry"]
    if len(at_entry) != 1:
        return "", [f"{len(at_entry)} records of the end at the entry site, need 1"]
    site, end = at_entry[0]
    flaws = [] if site == entry else [f"end of the request stands in the log of {site}"]
    sent = {d.attempt: d.site for _, d in decided if d.site}
    if end.attempts != len(sent):
        flaws.append(f"ended after {end.attempts} attempts, {len(sent)} were decided")
    if end.outcome == "answered" and end.attempt == 0:
        flaws.append("answered by no attempt")
    ran = [x for _, x in executed if x.engine and end.attempt in (0, x.attempt)]
    if not ran:
        where = sent.get(end.attempt, "any site")
        return "", [*flaws, f"ended {end.outcome}, no record of execution at {where}"]
    winner = max(ran, key=lambda x: (x.attempt, x.at_s))
    if end.at_s < winner.at_s - CLOCK_SKEW_S_MAX:
        flaws.append("ended before it was executed")
    closed = [e for s, e in ended if e.role == "serving" and s == winner.site]
    own = [e for e in closed if e.attempt == winner.attempt]
    if winner.site != entry and len(own) != 1:
        flaws.append(f"{len(own)} records of the end at serving site {winner.site}, need 1")
    if any(e.at_s < winner.at_s - CLOCK_SKEW_S_MAX for e in own):
        flaws.append(f"ended at {winner.site} before it was executed")
    return winner.site, flaws


def _silent_attempts(
    decided: list[tuple[str, Decided]],
    executed: list[tuple[str, Executed]],
    ended: list[tuple[str, Ended]],
) -> tuple[str, ...]:
    """Attempts whose site says nothing: it may have read the request all the same."""
    heard = {x.attempt for _, x in executed}
    heard |= {e.attempt for _, e in ended if e.role == "entry"}  # that one is judged, not noted
    return tuple(
        f"attempt {d.attempt} went to {d.site}, which left no record of it"
        for _, d in decided
        if d.site and d.attempt not in heard
    )

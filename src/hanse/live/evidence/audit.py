"""The audit of whole logs: is every chain unbroken and sealed, and what became of every request?

Here: checks over evidence directories (a site's own, or a hub's copies of many) and the count of proven, denied and unproven
requests. Not here: printing, Cedar (a callback), one request's receipt.

What cannot be shown is UNPROVEN and never success: records behind the first damage of their chain, records no seal covers,
requests whose other site's log is not among the audited.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Final, Literal, NamedTuple

import msgspec
from cryptography import x509

from hanse.errors import ConfigError
from hanse.live.evidence.chain import (
    OWN_WORKER,
    Dropped,
    Frame,
    Metered,
    Opened,
    Record,
    RequestRecord,
    Scan,
    decode_record,
    scan_file,
)
from hanse.live.evidence.judge import CLOCK_SKEW_S_MAX, Found, LawCheck, judge
from hanse.live.evidence.merkle import root_of
from hanse.live.evidence.seal import SEALS_NAME, SealEntry, Segment, read_seals, seal_flaw
from hanse.live.identity import read_certificate
from hanse.live.runtime import HUB

UNPROVEN_LISTED_MAX: Final = 1000
"""Unproven requests named in a report; all are counted."""
CHAIN_NAME: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,62}-\d{1,6}-[0-9a-f]{8,32}")

FindingKind = Literal[
    "site missing",
    "seals missing",
    "seal damaged",
    "seal forged",
    "seal gap",
    "seal time",
    "log cut",
    "log rewritten",
    "chain missing",
    "chain damaged",
    "chain altered",
    "chain cut off",
    "chain misnamed",
    "record unreadable",
    "record out of place",
]


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """Something that an untouched, healthy log never shows."""

    kind: FindingKind
    site: str
    chain: str = ""
    """Empty: the seal log."""
    seq: int = 0
    """First record or seal concerned."""
    detail: str


class UnprovenRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A request whose story does not add up."""

    request_id: str
    reasons: tuple[str, ...]


class SiteSummary(msgspec.Struct, frozen=True, kw_only=True):
    """What was read of one site."""

    site: str
    directory: str
    chains: int
    records: int
    records_proven: int
    """Covered by a valid seal, in a chain unbroken up to there."""
    seals: int
    sealed_until_s: float
    notes: tuple[str, ...]


class AuditReport(msgspec.Struct, frozen=True, kw_only=True):
    """The result of an audit."""

    sites: tuple[SiteSummary, ...]
    findings: tuple[Finding, ...]
    proven: int
    denied: int
    unproven: int
    later: int
    """Requests decided after `until_s`, not judged."""
    unproven_requests: tuple[UnprovenRequest, ...]

    @property
    def exit_status(self) -> int:
        """0: no finding and nothing unproven; 1: otherwise. (2, nothing could be audited, is a `ConfigError`.)"""
        return 1 if self.findings or self.unproven else 0


class Witness(NamedTuple):
    """What somebody else remembers of a site's seal log."""

    seals: int
    head: bytes
    """Head of the log after so many seals."""


def audit(
    root: Path,
    authority_pem: bytes,
    *,
    law: LawCheck | None = None,
    until_s: float = float("inf"),
    sites: Collection[str] = (),
    witnesses: Mapping[str, Witness] = {},
) -> AuditReport:
    """Audit all evidence under a directory.

    Args:
        root: An evidence directory, a directory of such, or a state directory.
        authority_pem: The fleet's `ca.pem`: the trust anchor.
        law: Asked again for every site that a request was entrusted to.
        until_s: Requests decided later are counted apart: in a running league the last second is not sealed yet.
        sites: Sites that must be there; one that left no log at all is a finding.
        witnesses: By site, a seal count and log head kept elsewhere; finds a log cut back to an older, consistent state.

    Raises:
        ConfigError: nothing to audit, no certificate, or one site's log twice.
    """
    logs = read_logs(root, authority_pem, sites=sites, witnesses=witnesses)
    return _report(logs, law, until_s)


class Logs(NamedTuple):
    """What all logs under a directory hold."""

    sites: tuple[SiteSummary, ...]
    findings: tuple[Finding, ...]
    requests: dict[bytes, list[Found]]
    """By request id."""
    quarters: tuple[Metered, ...]
    """Of all sites, under a seal; each quarter once."""
    dropped: tuple[Dropped, ...]
    """Chains that are gone by rule, each as a record under a seal says."""


def read_logs(
    root: Path,
    authority_pem: bytes,
    *,
    sites: Collection[str] = (),
    witnesses: Mapping[str, Witness] = {},
    keep: Callable[[RequestRecord], bool] = lambda record: True,
) -> Logs:
    """Check every chain and seal under a directory, and gather what they hold.

    Args:
        root: As for `audit`, and the rest likewise.
        keep: Records of requests that are to be gathered; all are checked.

    Raises:
        ConfigError: as `audit`.
    """
    try:
        authority = x509.load_pem_x509_certificate(authority_pem)
    except ValueError as error:
        raise ConfigError("authority", got=str(error), allowed="the fleet's ca.pem") from None
    audits = [_SiteAudit(directory, authority, witnesses, keep) for directory in _directories(root)]
    names = [found.site for found in audits]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(str(root), got=f"two logs of site {name}", fix="audit one at a time")
    dropped = [(found.site, record) for found in audits for record in found.dropped]
    for found in audits:
        found.explain_missing([d for by, d in dropped if by in (found.site, HUB)])
    findings = [finding for found in audits for finding in found.findings]
    absent = sorted(set(sites) - set(names))
    findings += [Finding(kind="site missing", site=s, detail="no log of it here") for s in absent]
    requests: dict[bytes, list[Found]] = {}
    for found in audits:
        for held in found.found:
            requests.setdefault(held.record.request_id, []).append(held)
    quarters: dict[tuple[str, float], Metered] = {}
    for found in audits:
        for quarter in found.quarters:
            quarters.setdefault((quarter.site, quarter.start_s), quarter)
    return Logs(
        sites=tuple(found.summary() for found in audits),
        findings=tuple(findings),
        requests=requests,
        quarters=tuple(quarters[key] for key in sorted(quarters)),
        dropped=tuple(record for found in audits for record in found.gone),
    )


def _report(logs: Logs, law: LawCheck | None, until_s: float) -> AuditReport:
    counts = {"proven": 0, "denied": 0, "unproven": 0, "later": 0}
    listed: list[UnprovenRequest] = []
    for request_id, held in logs.requests.items():
        if min(f.record.at_s for f in held) > until_s:
            counts["later"] += 1
            continue
        judgement = judge(held, law)
        counts[judgement.status] += 1
        if judgement.status == "unproven" and len(listed) < UNPROVEN_LISTED_MAX:
            listed.append(UnprovenRequest(request_id=request_id.hex(), reasons=judgement.reasons))
    return AuditReport(
        sites=logs.sites,
        findings=logs.findings,
        proven=counts["proven"],
        denied=counts["denied"],
        unproven=counts["unproven"],
        later=counts["later"],
        unproven_requests=tuple(listed),
    )


def _directories(root: Path) -> list[Path]:
    """Evidence directories at or under `root`, in the layouts that sites, hubs and state directories have."""
    if _is_evidence(root):
        return [root]
    found = [p for pattern in ("*", "*/evidence", "sites/*/evidence") for p in root.glob(pattern)]
    found = sorted(p for p in found if _is_evidence(p))
    if not found:
        raise ConfigError(
            str(root), got="no seal log and no chain", fix="name an evidence or state directory"
        )
    return found


def _is_evidence(directory: Path) -> bool:
    return directory.is_dir() and any(
        path.name == SEALS_NAME or CHAIN_NAME.fullmatch(path.stem)
        for path in directory.glob("*.log")
    )


class _SiteAudit:
    """One site's log: findings, and every request record with what takes its value."""

    def __init__(
        self,
        directory: Path,
        authority: x509.Certificate,
        witnesses: Mapping[str, Witness],
        keep: Callable[[RequestRecord], bool],
    ) -> None:
        self.directory = directory
        self._keep = keep
        self.findings: list[Finding] = []
        self.found: list[Found] = []
        self.quarters: list[Metered] = []
        self.dropped: list[Dropped] = []
        """What this log says was deleted, here or, in the hub's, of another site."""
        self.gone: list[Dropped] = []
        """Chains of this site that are away by rule."""
        self._missing: list[tuple[Segment, float]] = []
        """Chains that are not here: the last that was sealed of each, and when."""
        self.notes: list[str] = []
        self.records = self.records_proven = 0
        self.chains = {p.stem: p for p in sorted(directory.glob("*.log")) if p.name != SEALS_NAME}
        entries, flaw = self._read_seals()
        self.site = entries[0].body.site if entries else self._opened_site()
        self.seals = self._good_seals(entries, flaw, authority)
        self._ask(witnesses.get(self.site))
        segments: dict[str, list[tuple[Segment, float]]] = {}
        for entry in self.seals:
            for segment in entry.body.segments:
                segments.setdefault(segment.chain, []).append((segment, entry.body.at_s))
        for chain in sorted(self.chains.keys() | segments.keys()):
            self._check_chain(chain, segments.get(chain, []))

    def summary(self) -> SiteSummary:
        return SiteSummary(
            site=self.site,
            directory=str(self.directory),
            chains=len(self.chains),
            records=self.records,
            records_proven=self.records_proven,
            seals=len(self.seals),
            sealed_until_s=self.seals[-1].body.at_s if self.seals else 0.0,
            notes=tuple(self.notes),
        )

    def _find(self, kind: FindingKind, detail: str, *, chain: str = "", seq: int = 0) -> None:
        self.findings.append(
            Finding(kind=kind, site=self.site, chain=chain, seq=seq, detail=detail)
        )

    # --- seals

    def _read_seals(self) -> tuple[list[SealEntry], str | None]:
        path = self.directory / SEALS_NAME
        if not path.exists():
            return [], None
        log = read_seals(path)
        if log.ending == "torn" and log.flaw is None:
            self.notes.append("the last seal was being written")
        return log.entries, log.flaw

    def _opened_site(self) -> str:
        """The site by its chains' own word, where no seal names it."""
        for path in self.chains.values():
            for frame in scan_file(path).frames[:1]:
                record = _decoded(frame)
                if isinstance(record, Opened):
                    return record.site
        return self.directory.name

    def _good_seals(
        self, entries: list[SealEntry], flaw: str | None, authority: x509.Certificate
    ) -> list[SealEntry]:
        """The seals up to the first that is not valid; none after it counts."""
        if not entries and flaw is None:
            self._find("seals missing", "no seal at all")
        if flaw is not None:
            self._find("seal damaged", flaw, seq=len(entries))
        good: list[SealEntry] = []
        ends: dict[str, tuple[int, int]] = {}
        for entry in entries:
            forged = _forged(entry, authority)
            if forged is None and entry.body.site != self.site:
                forged = f"seal of site {entry.body.site} in the log of {self.site}"
            if forged is not None:
                self._find("seal forged", forged, seq=entry.body.seq)
                break
            if not self._continues(entry, good, ends):
                break
            good.append(entry)
        return good

    def _continues(
        self, entry: SealEntry, good: list[SealEntry], ends: dict[str, tuple[int, int]]
    ) -> bool:
        """Whether a valid seal goes on where the ones before it ended, in time and in each chain."""
        if good and entry.body.at_s < good[-1].body.at_s - CLOCK_SKEW_S_MAX:
            self._find("seal time", "signed before the seal it follows", seq=entry.body.seq)
        for segment in entry.body.segments:
            start = ends.get(segment.chain, (0, 0))
            if (segment.first, segment.bytes_start) != start or segment.count <= segment.first:
                text = f"chain {segment.chain}: seals record {segment.first}, expected {start[0]}"
                self._find("seal gap", text, seq=entry.body.seq)
                return False
            ends[segment.chain] = (segment.count, segment.bytes_end)
        return True

    def _ask(self, witness: Witness | None) -> None:
        if witness is None:
            return
        seen = witness.seals
        if len(self.seals) < seen:
            text = f"{len(self.seals)} valid seals, the witness has seen {seen}"
            self._find("log cut", text, seq=len(self.seals))
        elif seen and self.seals[seen - 1].frame.head != witness.head:
            self._find("log rewritten", "not the log the witness has seen", seq=seen - 1)

    # --- chains

    def _check_chain(self, chain: str, sealed: list[tuple[Segment, float]]) -> None:
        count = sealed[-1][0].count if sealed else 0
        if chain not in self.chains:
            self._missing.append(sealed[-1])
            return
        found = scan_file(self.chains[chain])
        broken_at = self._broken_at(chain, found, count)
        good = self._covered(chain, found.frames[:broken_at], sealed, broken_at)
        self.records += len(found.frames)
        self.records_proven += len(good)
        for frame in found.frames:
            if frame.seq < len(good):
                self._take(chain, frame, "", good[frame.seq])
            elif broken_at is None:
                self._take(chain, frame, "not covered by a seal", None)
            else:
                text = f"behind damage, chain {chain} from record {broken_at} on"
                self._take(chain, frame, text, None)

    def explain_missing(self, dropped: Sequence[Dropped]) -> None:
        """Chains that are gone by a rule that was stated and kept are a note; all others a finding."""
        by_chain = {record.chain: record for record in dropped if record.site == self.site}
        for segment, sealed_at_s in self._missing:
            record = by_chain.get(segment.chain)
            if record is None:
                why = "the log does not say that it was deleted"
            else:
                why = _not_by_rule(record, segment, sealed_at_s)
            if record is not None and not why:
                self.gone.append(record)
                continue
            text = f"{segment.count} records were sealed; {why}"
            self._find("chain missing", text, chain=segment.chain)
        if self.gone:
            text = f"{len(self.gone)} chains deleted by rule, each recorded under a seal"
            self.notes.append(text)

    def _broken_at(self, chain: str, found: Scan, sealed_count: int) -> int | None:
        """First record that cannot be trusted by the file alone; None: the file is whole."""
        have = len(found.frames)
        altered = next((frame.seq for frame in found.frames if not frame.intact), None)
        if altered is not None:
            text = "altered, removed, repeated or out of order"
            self._find("chain altered", text, chain=chain, seq=altered)
        elif found.frames and not _opens(found.frames[0], chain, self.site):
            self._find("chain misnamed", "does not open as this chain", chain=chain)
            altered = 0
        if found.ending == "damaged":
            text = f"unreadable from byte {found.bytes_end} on"
            self._find("chain damaged", text, chain=chain, seq=have)
        elif have < sealed_count:
            text = f"{have} records left of {sealed_count} sealed"
            self._find("chain cut off", text, chain=chain, seq=have)
        elif found.ending == "torn":
            self.notes.append(f"chain {chain}: torn record {have} at the end, left out")
        if altered is None and (found.ending == "damaged" or have < sealed_count):
            return have
        return altered

    def _covered(
        self,
        chain: str,
        frames: list[Frame],
        sealed: list[tuple[Segment, float]],
        broken_at: int | None,
    ) -> list[float]:
        """By record, the instant of the seal that covers it; ends where seals end or do not fit."""
        covered: list[float] = []
        for segment, at_s in sealed:
            if segment.count > len(frames):
                break
            part = frames[segment.first : segment.count]
            fits = part[-1].head == segment.head and part[-1].bytes_end == segment.bytes_end
            if not fits or root_of([frame.leaf for frame in part]) != segment.root:
                if broken_at is None:
                    text = "the records are not those that were sealed"
                    self._find("chain altered", text, chain=chain, seq=segment.first)
                break
            covered += [at_s] * len(part)
        return covered

    def _take(self, chain: str, frame: Frame, flaw: str, sealed_at_s: float | None) -> None:
        record = _decoded(frame)
        if record is None:
            self._find("record unreadable", "no record", chain=chain, seq=frame.seq)
            return
        if isinstance(record, Opened):
            if frame.seq > 0:
                self._find("record out of place", "a second opening", chain=chain, seq=frame.seq)
            return
        if isinstance(record, Metered | Dropped):
            self._take_own(chain, frame, record, flaw)
            return
        if sealed_at_s is not None and record.at_s > sealed_at_s + CLOCK_SKEW_S_MAX:
            flaw = "younger than its seal"
        if self._keep(record):
            self.found.append(Found(self.site, record, flaw, frame.leaf))

    def _take_own(self, chain: str, frame: Frame, record: Metered | Dropped, flaw: str) -> None:
        """What an agent says of its site, and who deletes of a chain; it counts under a seal only."""
        elsewhere = record.site != self.site and (self.site != HUB or isinstance(record, Metered))
        if f"-{OWN_WORKER}-" not in chain or elsewhere:
            self._find("record out of place", "not its own", chain=chain, seq=frame.seq)
        elif not flaw and isinstance(record, Metered):
            self.quarters.append(record)
        elif not flaw and isinstance(record, Dropped):
            self.dropped.append(record)


def _not_by_rule(record: Dropped, segment: Segment, sealed_at_s: float) -> str:
    """Why a recorded deletion does not explain that a chain is missing; empty: it does."""
    if (record.count, record.head) != (segment.count, segment.head):
        return f"what was deleted had {record.count} records, or others"
    if record.rule == "age" and record.at_s < sealed_at_s + record.kept_s - CLOCK_SKEW_S_MAX:
        return f"deleted by the rule of age before its {record.kept_s:.0f} s were over"
    return ""


def _decoded(frame: Frame) -> Record | None:
    try:
        return decode_record(frame.raw)
    except ValueError:
        return None


def _opens(frame: Frame, chain: str, site: str) -> bool:
    record = _decoded(frame)
    return isinstance(record, Opened) and record.chain == chain and record.site == site


@lru_cache(maxsize=1024)
def _certificate(der: bytes) -> x509.Certificate:
    return read_certificate(der)


def _forged(entry: SealEntry, authority: x509.Certificate) -> str | None:
    """Why a seal is not the site's; None: it is."""
    try:
        certificate = _certificate(entry.certificate_der)
    except ValueError as error:
        return f"no site certificate: {error}"
    return seal_flaw(entry.seal, entry.body, certificate, authority)

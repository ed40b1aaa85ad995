"""`hanse verify` and `hanse audit`: what the evidence proves, without trust in the operator's word."""

from __future__ import annotations

import datetime
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from hanse.cli.output import print_json, say

if TYPE_CHECKING:
    from hanse.live.evidence import AuditReport, Verdict

UNSEALED_S = 3.0
"""Seals come once a second; requests younger than this are counted apart."""
UNPROVEN_SHOWN_MAX = 20
"""The rest are in --json."""


def verify(receipt: Path, /, *, ca: Path, statement: Path | None = None, json: bool = False) -> int:
    """Check a receipt: signatures, inclusion in the sealed log, and that the sites named are the sites that signed.

    Needs the receipt and the fleet's CA certificate, nothing else: no network, no log. Exit code 0 where everything
    holds, 1 where anything does not. What a receipt cannot prove is in docs/evidence.md.

    Parameters
    ----------
    receipt
        The document from `GET /hanse/v1/requests/{id}/receipt`; `-` reads standard input.
    ca
        The fleet's CA certificate (PEM), obtained once from a source you trust.
    statement
        A statement's JSON, its list (.receipts) beside it: is this request in it, exactly as it was counted?
    json
        Print the verdict as one JSON document on standard output.
    """
    from hanse.live.evidence import verify_receipt

    document = sys.stdin.buffer.read() if str(receipt) == "-" else _read(receipt, "receipt")
    authority = _read(ca, "--ca")
    verdict = verify_receipt(document, authority)
    if statement is not None:
        verdict = _counted(verdict, document, statement, authority)
    if json:
        print_json(verdict)
    else:
        say(f"request {verdict.request_id}: {verdict.status.upper()}")
        for heading, lines in (
            ("proven", verdict.proven),
            ("because", verdict.reasons),
            ("note", verdict.notes),
            ("not proven by any receipt", verdict.not_proven),
        ):
            for line in lines:
                say(f"  {heading}: {line}")
    return 1 if verdict.status == "unproven" else 0


def _counted(verdict: Verdict, document: bytes, statement: Path, authority: bytes) -> Verdict:
    """The verdict with what a statement says of the same request."""
    from msgspec.structs import replace

    from hanse.live.evidence.statement_files import (
        LIST_SUFFIX,
        check_statement,
        read_list,
        receipt_flaw,
    )

    checked = check_statement(_read(statement, "--statement"), authority)
    listed = _read(statement.with_suffix(LIST_SUFFIX), "--statement")
    flaw = receipt_flaw(checked.statement, read_list(listed.decode(errors="replace")), document)
    flaws = (*checked.flaws, *([flaw] if flaw else []))
    if flaws:
        reasons = tuple(f"statement: {one}" for one in flaws)
        return replace(verdict, status="unproven", proven=(), reasons=(*verdict.reasons, *reasons))
    said = f"it is counted in the statement with root {checked.statement.receipts_root}"
    return replace(verdict, notes=(*verdict.notes, said))


def audit(state: Path, /, *, ca: Path | None = None, law: bool = True, json: bool = False) -> int:
    """Read all logs and seals under a directory: how many requests are proven, denied, and UNPROVEN.

    Unproven is never success: exit code 1 where a request is unproven or a log was altered, cut or removed. The law is
    asked again for every site a request was entrusted to.

    Parameters
    ----------
    state
        A state directory, the hub's copy, or one site's evidence directory.
    ca
        The fleet's CA certificate; default `ca/ca.pem` of the state directory.
    law
        Ask Cedar again for every decision (needs `fleet.toml` in the state directory).
    json
        Print the report as one JSON document on standard output.
    """
    from hanse.live.evidence import audit as audit_evidence
    from hanse.live.lawcheck import law_check_of
    from hanse.live.runtime import StateDir

    authority = _read(ca or state / "ca" / "ca.pem", "--ca")
    fleet_toml = state / "fleet.toml"
    check = law_check_of(StateDir(state)) if law and fleet_toml.exists() else None
    # What a running league decided in the last seconds is not sealed yet.
    report = audit_evidence(state, authority, law=check, until_s=time.time() - UNSEALED_S)
    if json:
        print_json(report)
    else:
        _say_report(report)
    return report.exit_status


def _say_report(report: AuditReport) -> None:
    for site in report.sites:
        say(
            f"{site.site}: {site.records_proven} of {site.records} records proven in {site.chains} chains, "
            f"{site.seals} seals until {utc(site.sealed_until_s)}"
        )
        for note in site.notes:
            say(f"  note: {note}")
    for finding in report.findings:
        where = f"{finding.site} {finding.chain or 'seals'} {finding.seq}"
        say(f"FOUND {finding.kind}: {where}: {finding.detail}")
    for request in report.unproven_requests[:UNPROVEN_SHOWN_MAX]:
        say(f"UNPROVEN {request.request_id}: {'; '.join(request.reasons)}")
    say(
        f"{report.proven} proven, {report.denied} denied, {report.unproven} UNPROVEN, "
        f"{report.later} too new to judge"
    )


def _read(path: Path, where: str) -> bytes:
    from hanse.errors import ConfigError

    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(
            where, got=f"{path}: {error.strerror}", allowed="a readable file"
        ) from error


def utc(at_s: float) -> str:
    """An instant for people."""
    return datetime.datetime.fromtimestamp(at_s, datetime.UTC).strftime("%Y-%m-%d %H:%M:%S UTC")

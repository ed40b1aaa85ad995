"""A site that holds its own key and signs things an honest sealer never signs."""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from hanse.live import ca, identity
from hanse.live.evidence import audit, make_receipt, verify_receipt
from hanse.live.evidence.chain import FrameWriter
from hanse.live.evidence.receipt import PartSeal, Receipt
from hanse.live.evidence.seal import SEALS_NAME, Seal, SealBody, read_seals
from hanse.live.identity import Identity, SiteName, certificate_flaw
from live.evidence.logbook import NOW_S, Desk, League, request_id


@pytest.fixture
def league(tmp_path: Path) -> Iterator[League]:
    made = League(tmp_path)
    for request in range(3):
        made.local(request)
        made.seal()
    yield made
    made.close()


def signed(who: Identity, body: SealBody) -> Seal:
    raw = msgspec.msgpack.encode(body)
    return Seal(body=raw, signature=who.key.sign(b"hanse-seal/1\x00" + raw))


def resign(desk: Desk, changes: dict[int, dict[str, object]], who: Identity | None = None) -> None:
    """Write the seal log anew with other contents, links and signatures made to fit."""
    path = desk.directory / SEALS_NAME
    bodies = [entry.body for entry in read_seals(path).entries]
    with path.open("wb") as file:
        writer = FrameWriter(path, file.fileno(), head=bytes(32), count=0, bytes_end=0)
        for seq, body in enumerate(bodies):
            fields = {"previous": writer.head, "seq": seq} | changes.get(seq, {})
            seal = signed(who or desk.identity, msgspec.structs.replace(body, **fields))
            writer.write_raw(msgspec.msgpack.encode(seal))


def kinds(league: League) -> list[str]:
    report = audit(league.tallinn.directory, league.authority_pem)
    assert report.exit_status == 1
    return [finding.kind for finding in report.findings]


def test_resigned_log_is_valid_when_nothing_is_changed(league: League) -> None:
    resign(league.tallinn, {})
    assert audit(league.tallinn.directory, league.authority_pem).exit_status == 0


def test_seal_that_leaves_records_out_is_found(league: League) -> None:
    entries = read_seals(league.tallinn.directory / SEALS_NAME).entries
    resign(league.tallinn, {1: {"segments": ()}})
    assert kinds(league) == ["seal gap"]
    assert len(entries) == 3


def test_seal_over_other_records_than_the_chains_is_found(league: League) -> None:
    segment = read_seals(league.tallinn.directory / SEALS_NAME).entries[1].body.segments[0]
    for field in ("head", "root"):
        forged = msgspec.structs.replace(segment, **{field: bytes(32)})
        resign(league.tallinn, {1: {"segments": (forged,)}})
        assert kinds(league) == ["chain altered"]
    resign(league.tallinn, {1: {"segments": (segment,)}})
    assert audit(league.tallinn.directory, league.authority_pem).exit_status == 0


def test_seals_that_go_back_in_time_are_found(league: League) -> None:
    resign(league.tallinn, {0: {"at_s": NOW_S + 60}})
    assert "seal time" in kinds(league)


@pytest.mark.parametrize("field", [{"seq": 7}, {"previous": bytes(32)}], ids=["number", "link"])
def test_seal_out_of_its_place_is_found(league: League, field: dict[str, object]) -> None:
    resign(league.tallinn, {1: field})
    assert kinds(league)[0] == "seal damaged"


def test_seal_that_names_a_certificate_nobody_has_is_found(league: League) -> None:
    resign(league.tallinn, {1: {"certificate_sha256": bytes(32)}})
    assert kinds(league) == ["seal forged"]


def test_seals_of_another_site_in_this_sites_name_are_found(league: League) -> None:
    riga = league.riga.identity
    der = riga.certificate_der()
    own = {"certificate": der, "certificate_sha256": sha256(der).digest()}
    resign(league.tallinn, dict.fromkeys(range(3), own), riga)
    assert kinds(league) == ["seal forged"]
    resign(league.tallinn, {seq: own | {"site": "riga"} for seq in range(1, 3)}, riga)
    assert kinds(league)[0] == "seal forged"
    resign(league.tallinn, {seq: own | {"site": "riga"} for seq in range(3)}, riga)
    assert "chain misnamed" in kinds(league)


def test_log_that_changes_its_site_on_the_way_is_found(league: League) -> None:
    """Both signatures are true, but one log has one author."""
    path = league.tallinn.directory / SEALS_NAME
    bodies = [entry.body for entry in read_seals(path).entries]
    der = league.riga.identity.certificate_der()
    digest = sha256(der).digest()
    with path.open("wb") as file:
        writer = FrameWriter(path, file.fileno(), head=bytes(32), count=0, bytes_end=0)
        for body, who in zip(bodies, [league.tallinn] + [league.riga] * 2, strict=True):
            changes: dict[str, object] = {"previous": writer.head}
            if who is league.riga:
                changes |= {"site": "riga", "certificate": der, "certificate_sha256": digest}
            seal = signed(who.identity, msgspec.structs.replace(body, **changes))
            writer.write_raw(msgspec.msgpack.encode(seal))
    assert kinds(league) == ["seal forged"]


def test_record_from_after_its_seal_proves_nothing(league: League) -> None:
    league.tallinn.writer.append(
        league.decided(9, site="", variant="", refusal="no_room", at_s=league.now_s + 100)
    )
    league.seal()
    report = audit(league.tallinn.directory, league.authority_pem)
    assert (report.proven, report.unproven) == (3, 1)
    verdict = verify_receipt(league.receipt(9, league.tallinn), league.authority_pem)
    for reasons in (report.unproven_requests[0].reasons, verdict.reasons):
        assert any("younger than its seal" in reason for reason in reasons)


def test_receipt_that_repeats_or_pads_is_unproven(league: League) -> None:
    part = league.tallinn.part(0)
    stranger = league.riga.identity.certificate_der()
    bent = [
        msgspec.structs.replace(part, records=(*part.records, part.records[1])),
        msgspec.structs.replace(part, certificates=(*part.certificates, stranger)),
        msgspec.structs.replace(part, certificates=()),
        msgspec.structs.replace(part, seals=()),
        msgspec.structs.replace(
            part, seals=tuple(PartSeal(body=s.body, signature=bytes(64)) for s in part.seals)
        ),
    ]
    for changed in bent:
        document = make_receipt(request_id(0), [changed])
        assert verify_receipt(document, league.authority_pem).status == "unproven"
    twice = Receipt(schema="hanse-receipt/1", request_id=request_id(0).hex(), parts=(part, part))
    assert verify_receipt(msgspec.json.encode(twice), league.authority_pem).status == "unproven"
    other = make_receipt(request_id(1), [part])
    verdict = verify_receipt(other, league.authority_pem)
    assert any("of another request" in reason for reason in verdict.reasons)


def test_site_cannot_issue_and_authority_cannot_name_another_fleet(league: League) -> None:
    tallinn = league.tallinn.identity
    key = league.riga.identity.key
    public, agreement = (
        key.public_key(),
        identity.agreement_key(key).public_key().public_bytes_raw(),
    )
    oslo = SiteName("league", "oslo")
    made = ca._site_certificate(tallinn.certificate, tallinn.key, public, agreement, oslo, 1, NOW_S)
    assert "not issued by" in str(certificate_flaw(made, tallinn.authority, NOW_S))
    assert certificate_flaw(made, tallinn.certificate, NOW_S) == "issuer is no authority"
    ca_key = load_pem_private_key((league.state_dir / "ca" / "ca.key").read_bytes(), None)
    foreign = ca._site_certificate(
        tallinn.authority, ca_key, public, agreement, SiteName("rhine", "oslo"), 1, NOW_S
    )
    assert "names fleet rhine" in str(certificate_flaw(foreign, tallinn.authority, NOW_S))

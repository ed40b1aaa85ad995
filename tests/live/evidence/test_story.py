"""Whole stories: a league writes, seals, ships; receipts verify and the audit counts."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from effort import effort
from hanse.errors import ConfigError, SiteError
from hanse.live.ca import ensure_identity
from hanse.live.evidence import Missing, Sealer, Witness, audit, make_receipt, verify_receipt
from live.evidence.logbook import NOW_S, Desk, League, request_id


@pytest.fixture
def league(tmp_path: Path) -> Iterator[League]:
    made = League(tmp_path)
    yield made
    made.close()


def test_untouched_log_of_every_kind_of_request_is_proven_or_denied(league: League) -> None:
    league.local(0)
    league.forwarded(1)
    league.seal()
    league.retried(2)
    league.refused(3)
    league.seal()
    report = audit(league.state_dir, league.authority_pem, sites=("tallinn", "riga"))
    assert (report.proven, report.denied, report.unproven) == (3, 1, 0)
    assert report.findings == ()
    assert report.exit_status == 0


STEPS = st.lists(
    st.sampled_from(["local", "forwarded", "retried", "refused", "seal", "boot", "resume"]),
    max_size=25,
)


@settings(max_examples=effort(30), deadline=None)
@given(steps=STEPS)
def test_receipts_and_audits_of_untouched_logs_always_verify(
    steps: list[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    league = League(tmp_path_factory.mktemp("league"))
    kinds: list[str] = []
    for step in steps:
        if step == "seal":
            league.seal()
        elif step == "boot":
            league.tallinn.writer.close()
            league.tallinn.boot()
        elif step == "resume":
            desk = league.tallinn
            desk.sealer.close()
            desk.sealer = Sealer(desk.directory, desk.identity, durable=False)
        else:
            getattr(league, step)(len(kinds))
            kinds.append(step)
    league.seal()
    report = audit(league.state_dir, league.authority_pem)
    assert report.findings == ()
    assert report.unproven_requests == ()
    assert report.denied == kinds.count("refused")
    for request, kind in enumerate(kinds):
        desks = league.desks if kind in ("forwarded", "retried") else (league.tallinn,)
        verdict = verify_receipt(league.receipt(request, *desks), league.authority_pem)
        assert verdict.reasons == ()
        assert verdict.status == ("denied" if kind == "refused" else "proven")
        served = {"forwarded": "riga", "refused": ""}.get(kind, "tallinn")
        assert (verdict.entry_site, verdict.executing_site) == ("tallinn", served)
    league.close()


def test_receipt_without_the_serving_sites_part_is_unproven(league: League) -> None:
    league.forwarded(0)
    league.seal()
    verdict = verify_receipt(league.receipt(0, league.tallinn), league.authority_pem)
    assert verdict.status == "unproven"
    assert any("no record of execution at riga" in reason for reason in verdict.reasons)


def test_verdict_says_where_it_ran_and_what_stays_open(league: League) -> None:
    league.forwarded(0)
    league.seal()
    verdict = verify_receipt(league.receipt(0, *league.desks), league.authority_pem)
    text = " ".join(verdict.proven)
    assert "riga serves it with chat/q8" in text
    assert "engine llm-0" in text
    assert any("physically" in open_ for open_ in verdict.not_proven)
    assert msgspec.json.decode(msgspec.json.encode(verdict))["records"][0]["fields"]["country"]


def test_no_part_before_the_seal_and_none_of_a_stranger(league: League) -> None:
    league.local(0)
    assert league.tallinn.book.part(request_id(0)) == Missing(reason="not sealed yet")
    league.seal()
    assert league.tallinn.part(0).site == "tallinn"
    assert league.tallinn.book.part(request_id(1)) == Missing(reason="unknown request")


def test_search_may_start_when_the_request_began(league: League) -> None:
    for request in range(4):
        began_s = league.now_s
        league.local(request)
        league.seal()
    book = league.tallinn.book
    assert book.part(request_id(0), since_s=began_s) == Missing(reason="unknown request")
    assert book.part(request_id(3), since_s=began_s) == league.tallinn.part(3)


def test_receipt_of_another_fleets_authority_is_refused(league: League, tmp_path: Path) -> None:
    league.local(0)
    league.seal()
    forged = Desk(tmp_path / "forged", "tallinn")
    own_pem = (tmp_path / "forged" / "ca" / "ca.pem").read_bytes()
    forged.writer.append(league.decided(0, site="tallinn"))
    forged.writer.append(league.executed(0, site="tallinn"))
    forged.writer.append(league.ended(0, role="entry"))
    forged.sealer.seal(NOW_S + 1)
    document = make_receipt(request_id(0), [forged.part(0)])
    assert verify_receipt(document, own_pem).status == "proven"
    verdict = verify_receipt(document, league.authority_pem)
    assert verdict.status == "unproven"
    assert any("not signed by this authority" in reason for reason in verdict.reasons)
    assert verify_receipt(document, b"no certificate").status == "unproven"
    forged.close()


def test_site_cannot_speak_for_another(league: League) -> None:
    """Riga, a true site of the fleet, writes a whole story under tallinn's name."""
    for record in (
        league.decided(0, site="tallinn"),
        league.executed(0, site="tallinn"),
        league.ended(0, role="entry"),
    ):
        league.riga.writer.append(record)
    league.seal()
    part = league.riga.part(0)
    renamed = msgspec.structs.replace(part, site="tallinn")
    for claimed in (part, renamed):
        document = make_receipt(request_id(0), [claimed])
        assert verify_receipt(document, league.authority_pem).status == "unproven"
    report = audit(league.state_dir, league.authority_pem)
    assert report.unproven == 1


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"tenant": "other"}, "another subject"),
        ({"country": "US"}, "another subject"),
        ({"subject_row": 9}, "another subject"),
        ({"entry_site": "riga"}, "for entry site riga"),
        ({"variant": "q4"}, "variant q4"),
        ({"at_s": NOW_S - 60}, "before it was decided"),
        ({"allowed": False}, "against the law bit"),
        ({"attempt": 2}, "without a decision"),
        ({"engine": "", "refusal": "law", "allowed": False}, "no record of execution"),
        ({"refusal": "room"}, "both ran and refused"),
    ],
)
def test_execution_that_does_not_fit_its_decision_is_unproven(
    league: League, changes: dict[str, object], reason: str
) -> None:
    league.tallinn.writer.append(league.decided(0, site="riga"))
    league.riga.writer.append(league.executed(0, **({"site": "riga"} | changes)))
    league.riga.writer.append(league.ended(0, role="serving"))
    league.tallinn.writer.append(league.ended(0, role="entry"))
    league.seal()
    verdict = verify_receipt(league.receipt(0, *league.desks), league.authority_pem)
    report = audit(league.state_dir, league.authority_pem)
    assert verdict.status == "unproven"
    assert any(reason in text for text in verdict.reasons), verdict.reasons
    assert report.unproven_requests[0].reasons == verdict.reasons


def test_refusal_by_law_must_name_its_rules(league: League) -> None:
    record = league.decided(0, site="", variant="", refusal="no_eligible_site", rules=())
    league.tallinn.writer.append(record)
    league.seal()
    report = audit(league.state_dir, league.authority_pem)
    assert report.unproven_requests[0].reasons == ("refusal no_eligible_site names no rule",)


def test_refusal_after_a_silent_attempt_is_no_denial(league: League) -> None:
    league.tallinn.writer.append(league.decided(0, site="riga"))
    league.tallinn.writer.append(
        league.decided(0, attempt=2, site="", variant="", refusal="no_room")
    )
    league.seal()
    report = audit(league.state_dir, league.authority_pem)
    assert (report.denied, report.unproven) == (0, 1)


def test_audit_asks_the_law_of_every_site_that_got_the_request(league: League) -> None:
    league.forwarded(0)
    league.seal()
    asked: list[str] = []
    report = audit(
        league.state_dir,
        league.authority_pem,
        law=lambda subject, site, version: asked.append(site) or site != "riga",
    )
    assert set(asked) == {"tallinn", "riga"}
    assert report.unproven == 1
    assert "the law bars site riga" in report.unproven_requests[0].reasons[0]


def test_unsealed_requests_are_unproven_unless_they_are_later_than_asked(league: League) -> None:
    league.local(0)
    league.seal()
    sealed_until_s = league.now_s - 0.5
    league.local(1)
    report = audit(league.state_dir, league.authority_pem)
    assert (report.proven, report.unproven, report.exit_status) == (1, 1, 1)
    report = audit(league.state_dir, league.authority_pem, until_s=sealed_until_s)
    assert (report.proven, report.unproven, report.later, report.exit_status) == (1, 0, 1, 0)


def test_log_cut_back_to_an_older_state_is_found_by_a_witness(league: League) -> None:
    league.local(0)
    league.seal()
    old = league.state_dir / "old"
    shutil.copytree(league.tallinn.directory, old)
    league.local(1)
    league.seal()
    sealer = league.tallinn.sealer
    witnesses = {"tallinn": Witness(sealer.count, sealer.log_head)}
    assert audit(old, league.authority_pem).exit_status == 0
    report = audit(old, league.authority_pem, witnesses=witnesses)
    assert [finding.kind for finding in report.findings] == ["log cut"]
    assert audit(league.tallinn.directory, league.authority_pem, witnesses=witnesses).findings == ()
    other = {"tallinn": Witness(sealer.count, bytes(32))}
    report = audit(league.tallinn.directory, league.authority_pem, witnesses=other)
    assert [finding.kind for finding in report.findings] == ["log rewritten"]


def test_missing_site_and_nothing_to_audit_are_named(league: League, tmp_path: Path) -> None:
    league.local(0)
    league.seal()
    report = audit(league.state_dir, league.authority_pem, sites=("tallinn", "riga", "oslo"))
    assert [(f.kind, f.site) for f in report.findings] == [("site missing", "oslo")]
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(ConfigError, match="no seal log"):
        audit(empty, league.authority_pem)


def test_second_sealer_is_refused(league: League) -> None:
    with pytest.raises(SiteError, match="second sealer"):
        Sealer(league.tallinn.directory, league.tallinn.identity, durable=False)


def test_renewed_certificate_signs_on_and_old_seals_stay_valid(league: League) -> None:
    league.local(0)
    league.seal()
    later_s = NOW_S + 25 * 86_400
    renewed = ensure_identity(league.state_dir, "league", "tallinn", later_s)
    assert renewed.certificate_der() != league.tallinn.identity.certificate_der()
    league.now_s = later_s
    league.tallinn.sealer.renew(renewed)
    league.local(1)
    league.seal()
    report = audit(league.tallinn.directory, league.authority_pem)
    assert (report.proven, report.findings) == (2, ())
    for request in (0, 1):
        verdict = verify_receipt(league.receipt(request, league.tallinn), league.authority_pem)
        assert verdict.status == "proven"


def test_seal_outside_the_certificates_life_is_refused(league: League) -> None:
    league.now_s += 31 * 86_400
    league.local(0)
    league.seal()
    verdict = verify_receipt(league.receipt(0, league.tallinn), league.authority_pem)
    assert verdict.status == "unproven"
    assert any("not valid at" in reason for reason in verdict.reasons)
    report = audit(league.tallinn.directory, league.authority_pem)
    assert [finding.kind for finding in report.findings] == ["seal forged"]

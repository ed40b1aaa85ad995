"""What a hand in the log or in a receipt does is always found.

One untouched league is written once; each example copies it, changes it and asks the audit or the verifier.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from effort import effort
from hanse.live.evidence import AuditReport, audit, verify_receipt
from hanse.live.evidence.chain import Frame, FrameWriter, scan_file
from hanse.live.evidence.receipt import Receipt
from hanse.live.evidence.seal import SEALS_NAME
from live.evidence.logbook import League

REQUESTS = 8
DETERMINED = settings(max_examples=effort(150), deadline=None)


@dataclass(frozen=True)
class Original:
    """An untouched state directory, its trust anchor, and receipts of all requests."""

    state_dir: Path
    scratch: Path
    authority_pem: bytes
    receipts: tuple[bytes, ...]

    def files(self) -> list[Path]:
        return sorted((self.state_dir / "sites").glob("*/evidence/*.log"))

    def copy(self) -> Path:
        target = self.scratch / "copy"
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(self.state_dir, target)
        return target

    def audit(self, state_dir: Path) -> AuditReport:
        return audit(state_dir, self.authority_pem, sites=("tallinn", "riga"))


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Original:
    league = League(tmp_path_factory.mktemp("league"))
    for request in range(REQUESTS):
        (league.local, league.forwarded, league.retried, league.refused)[request % 4](request)
        if request % 3 == 2:
            league.seal()
    league.seal()
    receipts = []
    for request in range(REQUESTS):
        desks = league.desks if request % 4 in (1, 2) else (league.tallinn,)
        receipts.append(league.receipt(request, *desks))
    league.close()
    made = Original(
        state_dir=league.state_dir,
        scratch=tmp_path_factory.mktemp("scratch"),
        authority_pem=league.authority_pem,
        receipts=tuple(receipts),
    )
    report = made.audit(league.state_dir)
    assert (report.proven, report.denied, report.exit_status) == (6, 2, 0)
    return made


@DETERMINED
@given(data=st.data())
def test_any_flipped_byte_of_any_log_is_found(data: st.DataObject, original: Original) -> None:
    file = data.draw(st.sampled_from(original.files()))
    at = data.draw(st.integers(0, file.stat().st_size - 1))
    flip = data.draw(st.integers(1, 255))
    state_dir = original.copy()
    target = state_dir / file.relative_to(original.state_dir)
    content = bytearray(target.read_bytes())
    content[at] ^= flip
    target.write_bytes(content)
    report = original.audit(state_dir)
    assert report.findings, (file.name, at)
    assert report.exit_status == 1


@DETERMINED
@given(data=st.data())
def test_any_cut_of_any_log_is_found(data: st.DataObject, original: Original) -> None:
    file = data.draw(st.sampled_from(original.files()))
    size = data.draw(st.integers(0, file.stat().st_size - 1))
    state_dir = original.copy()
    target = state_dir / file.relative_to(original.state_dir)
    target.write_bytes(target.read_bytes()[:size])
    report = original.audit(state_dir)
    # A chain is cut against its seals; a cut seal log leaves records that nothing covers.
    assert report.findings or report.unproven
    assert report.exit_status == 1
    if file.name != SEALS_NAME:
        assert report.findings


@pytest.mark.parametrize("rehash", [False, True], ids=["as they were", "hashes made to fit"])
@DETERMINED
@given(data=st.data())
def test_any_removed_repeated_or_moved_record_or_seal_is_found(
    data: st.DataObject, original: Original, rehash: bool
) -> None:
    file = data.draw(st.sampled_from([f for f in original.files() if scan_file(f).frames[1:]]))
    frames = scan_file(file).frames
    change = data.draw(st.sampled_from(["remove", "repeat", "swap"]))
    at = data.draw(st.integers(0, len(frames) - 1))
    order = list(range(len(frames)))
    if change == "remove":
        del order[at]
    elif change == "repeat":
        order.insert(data.draw(st.integers(0, len(frames))), at)
    else:
        other = data.draw(st.integers(0, len(frames) - 1).filter(lambda i: i != at))
        order[at], order[other] = order[other], order[at]
    state_dir = original.copy()
    target = state_dir / file.relative_to(original.state_dir)
    _write(target, file.read_bytes(), [frames[i] for i in order], rehash=rehash)
    report = original.audit(state_dir)
    assert report.exit_status == 1
    # What is added behind the last seal, or was under a seal now gone, is unproven rather than a finding.
    assert report.findings or report.unproven


def _write(target: Path, content: bytes, frames: list[Frame], *, rehash: bool) -> None:
    """Batches (of one record each) as they stood, or with lengths and chain hashes as a forger would compute them."""
    if not rehash:
        starts = {frame.seq: frame.bytes_end - len(frame.raw) - 20 for frame in frames}
        parts = [content[starts[frame.seq] : frame.bytes_end] for frame in frames]
        target.write_bytes(b"".join(parts))
        return
    with target.open("wb") as file:
        writer = FrameWriter(target, file.fileno(), head=bytes(32), count=0, bytes_end=0)
        for frame in frames:
            writer.write_raw(frame.raw)


@DETERMINED
@given(data=st.data())
def test_rewritten_record_with_fitting_hashes_is_found(
    data: st.DataObject, original: Original
) -> None:
    """The forger changes a field, keeps the length, recomputes the chain; only the seals stand."""
    chains = [f for f in original.files() if f.name != SEALS_NAME]
    file = data.draw(st.sampled_from(chains))
    frames = scan_file(file).frames
    at = data.draw(st.integers(0, len(frames) - 1))
    raw = bytearray(frames[at].raw)
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    frames[at] = frames[at]._replace(raw=bytes(raw))
    state_dir = original.copy()
    _write(state_dir / file.relative_to(original.state_dir), b"", frames, rehash=True)
    report = original.audit(state_dir)
    assert report.findings
    assert report.exit_status == 1


def test_removed_or_exchanged_file_is_found(original: Original) -> None:
    for file in original.files():
        state_dir = original.copy()
        (state_dir / file.relative_to(original.state_dir)).unlink()
        assert original.audit(state_dir).exit_status == 1, file.name
    state_dir = original.copy()
    a, b = (state_dir / f"sites/{site}/evidence/{SEALS_NAME}" for site in ("tallinn", "riga"))
    one, two = a.read_bytes(), b.read_bytes()
    a.write_bytes(two)
    b.write_bytes(one)
    assert original.audit(state_dir).exit_status == 1


def test_what_stands_before_the_damage_stays_proven(original: Original) -> None:
    state_dir = original.copy()
    chain = next(state_dir.glob("sites/tallinn/evidence/tallinn-0-*.log"))
    content = bytearray(chain.read_bytes())
    content[-20] ^= 1
    chain.write_bytes(content)
    report = original.audit(state_dir)
    assert [finding.kind for finding in report.findings] == ["chain altered"]
    assert report.unproven >= 1
    assert report.proven >= 2


@settings(max_examples=effort(400), deadline=None)
@given(data=st.data())
def test_any_flipped_byte_of_a_receipt_is_found(data: st.DataObject, original: Original) -> None:
    document = data.draw(st.sampled_from(original.receipts))
    at = data.draw(st.integers(0, len(document) - 1))
    flip = data.draw(st.integers(1, 255))
    changed = document[:at] + bytes([document[at] ^ flip]) + document[at + 1 :]
    verdict = verify_receipt(changed, original.authority_pem)
    if verdict.status != "unproven":
        # White space, letter case and unused bits of base64 may differ; what is said may not.
        assert _said(changed) == _said(document)


def _said(document: bytes) -> Receipt:
    return msgspec.json.decode(document, type=Receipt)


@DETERMINED
@given(data=st.data())
def test_receipt_with_a_record_left_out_or_borrowed_is_unproven(
    data: st.DataObject, original: Original
) -> None:
    index = data.draw(st.sampled_from([0, 1, 4, 5]))  # requests of one attempt that was served
    receipt = msgspec.json.decode(original.receipts[index], type=Receipt)
    part_at = data.draw(st.integers(0, len(receipt.parts) - 1))
    part = receipt.parts[part_at]
    record_at = data.draw(st.integers(0, len(part.records) - 1))
    records = list(part.records)
    if data.draw(st.booleans()):
        del records[record_at]
    else:
        other = msgspec.json.decode(original.receipts[(index + 4) % 8], type=Receipt)
        records[record_at] = other.parts[part_at].records[record_at]
    parts = list(receipt.parts)
    parts[part_at] = msgspec.structs.replace(part, records=tuple(records))
    changed = msgspec.structs.replace(receipt, parts=tuple(parts))
    verdict = verify_receipt(msgspec.json.encode(changed), original.authority_pem)
    assert verdict.status == "unproven"
    assert verdict.proven == ()


@given(garbage=st.binary(max_size=200))
def test_garbage_is_a_verdict_not_an_exception(garbage: bytes, original: Original) -> None:
    assert verify_receipt(garbage, original.authority_pem).status == "unproven"

"""The way to the hub: in order, exactly once, over restarts of either end."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from effort import effort
from hanse.errors import SiteError
from hanse.live.evidence import ChainShipper, EvidenceCopy, audit, shipping
from live.evidence.logbook import League


@pytest.fixture
def league(tmp_path: Path) -> Iterator[League]:
    made = League(tmp_path)
    for request in range(6):
        made.forwarded(request)
        made.seal()
    yield made
    made.close()


def ship_all(league: League, copy: EvidenceCopy) -> None:
    for desk in league.desks:
        shipper = ChainShipper(desk.directory)
        while messages := shipper.pending(shipper.acked_seq):
            for message in messages:
                assert copy.accept(message, desk.site).outcome in ("stored", "known")
            shipper.acked(shipper.acked_seq + len(messages))


def logs(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.glob("*.log")}


def test_copy_is_the_log_byte_for_byte_and_audits_alone(league: League, tmp_path: Path) -> None:
    ship_all(league, EvidenceCopy(tmp_path / "hub"))
    for desk in league.desks:
        assert logs(tmp_path / "hub" / desk.site) == logs(desk.directory)
    report = audit(tmp_path / "hub", league.authority_pem, sites=("tallinn", "riga"))
    assert (report.proven, report.exit_status) == (6, 0)


def test_what_is_not_sealed_is_not_shipped(league: League) -> None:
    shipper = ChainShipper(league.tallinn.directory)
    count = len(shipper.pending(0))
    league.local(99)
    assert len(shipper.pending(0)) == count
    league.seal()
    assert len(shipper.pending(count)) == 1


STEPS = st.lists(
    st.sampled_from(["write", "seal", "send", "lose", "ack", "restart", "forget", "resend"]),
    max_size=40,
)


@settings(max_examples=effort(40))
@given(steps=STEPS, size=st.integers(150, 2000))
def test_any_order_of_sends_losses_and_restarts_ends_in_the_same_copy(
    steps: list[str], size: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The hub's stream is modelled by its last sequence: a message is taken iff it is the next."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shipping, "MESSAGE_BYTES_MAX", size)
        base = tmp_path_factory.mktemp("ship")
        league, copy = League(base / "state"), EvidenceCopy(base / "hub")
        home = league.tallinn.directory
        shipper, stream, handed = ChainShipper(home), list[bytes](), 0
        for number, step in enumerate([*steps, "seal", "forget", "send", "send"]):
            if step == "write":
                league.local(number)
            elif step == "seal":
                league.seal()
            elif step in ("send", "lose"):
                if step == "send" and number >= len(steps):
                    handed = max(len(stream), shipper.acked_seq)
                while messages := shipper.pending(max(handed, shipper.acked_seq)):
                    handed = max(handed, shipper.acked_seq) + len(messages)
                    for message in messages:
                        seq = msgspec.msgpack.decode(message, type=shipping.Message).seq
                        if step == "send" and seq == len(stream) + 1:
                            stream.append(message)
            elif step == "ack":
                shipper.acked(len(stream))
            elif step == "resend":
                handed = shipper.acked_seq
            else:
                if step == "forget":
                    (home / "shipped").unlink(missing_ok=True)
                shipper, handed = ChainShipper(home), 0
        for message in stream:
            assert copy.accept(message, "tallinn").outcome in ("stored", "known")
        assert logs(base / "hub" / "tallinn") == logs(home)
        for message in stream:
            assert copy.accept(message, "tallinn").outcome == "known"
        league.close()


def test_gap_conflict_and_strangers_are_refused(league: League, tmp_path: Path) -> None:
    copy = EvidenceCopy(tmp_path / "hub")
    first, second, *_ = ChainShipper(league.tallinn.directory).pending(0)
    assert copy.accept(second, "tallinn").outcome == "gap"
    assert copy.accept(first, "riga").outcome == "malformed"
    assert copy.accept(b"\xff", "tallinn").outcome == "malformed"
    assert copy.accept(first, "tallinn").outcome == "stored"
    assert copy.accept(first, "tallinn").outcome == "known"
    message = msgspec.msgpack.decode(first, type=shipping.Message)
    piece = message.pieces[0]
    changed = msgspec.structs.replace(piece, data=piece.data[:-1] + b"\x00")
    forged = msgspec.structs.replace(message, pieces=(changed,))
    assert copy.accept(msgspec.msgpack.encode(forged), "tallinn").outcome == "conflict"


@pytest.mark.parametrize("name", ["../seals.log", "/etc/passwd", "x.log", "a-0-0011aabb.log/b"])
def test_no_name_leads_out_of_the_copy(tmp_path: Path, name: str) -> None:
    piece = shipping.Piece(file=name, offset=0, data=b"x")
    message = shipping.Message(site="tallinn", seq=1, pieces=(piece,))
    received = EvidenceCopy(tmp_path).accept(msgspec.msgpack.encode(message), "tallinn")
    assert received.outcome == "malformed"
    assert list(tmp_path.rglob("*")) == []


def test_acknowledgement_of_more_than_there_is_is_refused(league: League) -> None:
    with pytest.raises(SiteError, match="audit both"):
        ChainShipper(league.tallinn.directory).acked(1000)


def test_shipper_of_an_empty_directory_has_nothing(tmp_path: Path) -> None:
    assert ChainShipper(tmp_path).pending(0) == []


def test_a_message_that_others_should_come_before_leaves_nothing_behind(
    league: League, tmp_path: Path
) -> None:
    """It may begin a chain of its own, but its seal follows seals that are not here."""
    copy, site = EvidenceCopy(tmp_path / "hub"), league.tallinn.site
    league.tallinn.boot()
    league.local(50)
    league.seal()
    last = ChainShipper(league.tallinn.directory).messages_after(0, 1 << 30)[-1]
    assert copy.accept(last, site).outcome == "gap"
    assert not (tmp_path / "hub" / site).exists()


@settings(max_examples=effort(20), deadline=None)
@given(taken=st.integers(0, 7), bytes_max=st.integers(1, 4000))
def test_one_copy_is_filled_from_another_wherever_it_was(taken: int, bytes_max: int) -> None:
    """As hubs do: what one lacks is asked of another's copy, by how far its seals are."""
    with tempfile.TemporaryDirectory() as folder:
        league = League(Path(folder))
        for request in range(7):
            league.local(request)
            league.seal()
        home, site = league.tallinn.directory, league.tallinn.site
        full, behind = Path(folder) / "full", Path(folder) / "behind"
        messages = ChainShipper(home).messages_after(0, 1 << 30)
        for n, message in enumerate(messages):
            EvidenceCopy(full).accept(message, site)
            if n < taken:
                EvidenceCopy(behind).accept(message, site)
        for _ in range(2 * len(messages)):
            seals = behind / site / "seals.log"
            held = seals.stat().st_size if seals.exists() else 0
            more = ChainShipper(full / site).messages_after(held, bytes_max)
            if not more:
                break
            for message in more:
                assert EvidenceCopy(behind).accept(message, site).outcome == "stored"
        assert logs(behind / site) == logs(full / site) == logs(home)
        assert not (full / site / "shipped").exists(), "asking leaves no trace"
        league.close()

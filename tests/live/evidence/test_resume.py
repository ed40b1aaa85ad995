"""A seal log of years: restarts read its end, receipts find their seals, nothing of it is kept in memory; and what does not fit is read anew."""

from __future__ import annotations

import random
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from hanse.errors import SiteError
from hanse.live.evidence import Sealer, audit, verify_receipt
from hanse.live.evidence.seal import (
    RESUME_EVERY,
    SEALS_NAME,
    SealPlace,
    SealReader,
    read_seals,
)
from hanse.live.evidence.shipping import ChainShipper
from live.evidence.logbook import NOW_S, League

NOTE = "sealed"


@pytest.fixture
def league(tmp_path: Path) -> Iterator[League]:
    made = League(tmp_path)
    yield made
    made.close()


def serve(league: League, first: int, count: int) -> None:
    for number in range(first, first + count):
        league.local(number)
        league.seal()


def restart(league: League, *, closed: bool = False) -> None:
    desk = league.tallinn
    if not closed:
        desk.sealer.close()
    desk.sealer = Sealer(desk.directory, desk.identity, durable=False)


@pytest.mark.parametrize("seals", [1, RESUME_EVERY - 1, RESUME_EVERY, 2 * RESUME_EVERY + 7])
def test_a_restart_goes_on_from_the_last_note_with_one_unbroken_log(
    league: League, seals: int
) -> None:
    serve(league, 0, seals)
    before = league.tallinn.sealer.place, league.tallinn.sealer.sealed()
    restart(league)
    assert (league.tallinn.sealer.place, league.tallinn.sealer.sealed()) == before
    assert (league.tallinn.directory / NOTE).exists() == (seals >= RESUME_EVERY)
    serve(league, seals, 3)
    report = audit(league.state_dir, league.authority_pem)
    assert report.findings == ()
    assert report.proven == seals + 3


def test_a_restart_reads_no_more_than_what_came_since_the_note(
    league: League, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve(league, 0, RESUME_EVERY + 5)
    read: list[int] = []
    plain = SealReader._entry

    def counted(self: SealReader, frame):  # type: ignore[no-untyped-def]
        read.append(frame.seq)
        return plain(self, frame)

    monkeypatch.setattr(SealReader, "_entry", counted)
    restart(league)
    assert read == list(range(RESUME_EVERY, RESUME_EVERY + 5))


@pytest.mark.parametrize("harm", ["garbage", "other log", "longer than the log"])
def test_a_note_that_does_not_fit_costs_time_and_nothing_else(
    league: League, tmp_path: Path, harm: str
) -> None:
    serve(league, 0, RESUME_EVERY + 5)
    note = league.tallinn.directory / NOTE
    if harm == "garbage":
        note.write_bytes(b"\xc1")
    elif harm == "other log":
        other = League(tmp_path / "other")
        serve(other, 0, RESUME_EVERY)
        other.close()
        note.write_bytes((other.tallinn.directory / NOTE).read_bytes())
    else:
        path = league.tallinn.directory / SEALS_NAME
        end = read_seals(path).entries[10].frame.bytes_end
        league.tallinn.sealer.close()
        path.write_bytes(path.read_bytes()[:end])
        restart(league, closed=True)
        assert league.tallinn.sealer.count == 11
        return
    before = league.tallinn.sealer.place
    restart(league)
    assert league.tallinn.sealer.place == before
    serve(league, 900, 2)
    assert audit(league.state_dir, league.authority_pem).findings == ()


def test_a_log_damaged_behind_the_note_is_refused(league: League) -> None:
    serve(league, 0, RESUME_EVERY + 5)
    path = league.tallinn.directory / SEALS_NAME
    data = bytearray(path.read_bytes())
    data[-100] ^= 1
    league.tallinn.sealer.close()
    path.write_bytes(data)
    with pytest.raises(SiteError, match="altered"):
        Sealer(league.tallinn.directory, league.tallinn.identity, durable=False)
    path.write_bytes(data[:-200])  # a torn end is none
    restart(league, closed=True)


def test_reading_on_gives_what_reading_all_gives(league: League) -> None:
    rng = random.Random(1)
    path = league.tallinn.directory / SEALS_NAME
    reader, found = SealReader(path, SealPlace()), []
    for number in range(40):
        serve(league, number, 1)
        if rng.random() < 0.3:
            found += list(reader)
    found += list(reader)
    whole = read_seals(path).entries
    assert [(e.body, e.frame) for e in found] == [(e.body, e.frame) for e in whole]
    middle = whole[17].frame
    on = SealReader(path, SealPlace(seals=18, head=middle.head, bytes_end=middle.bytes_end))
    assert [e.body.seq for e in on] == list(range(18, 40))
    wrong = SealReader(path, SealPlace(seals=18, head=bytes(32), bytes_end=middle.bytes_end))
    assert list(wrong) == []
    assert "altered" in str(wrong.flaw)


def test_receipts_of_many_seals_verify(league: League) -> None:
    serve(league, 0, 150)
    for number in (0, 1, 74, 148, 149, 0):
        receipt = league.receipt(number, league.tallinn)
        assert verify_receipt(receipt, league.authority_pem).status == "proven"
    serve(league, 150, 3)
    assert (
        verify_receipt(league.receipt(152, league.tallinn), league.authority_pem).status == "proven"
    )
    since = league.tallinn.book.part((1).to_bytes(16, "big"), since_s=NOW_S + 100)
    assert getattr(since, "reason", "") == "unknown request"


def test_shipping_keeps_nothing_of_what_has_arrived(league: League) -> None:
    serve(league, 0, 10)
    shipper = ChainShipper(league.tallinn.directory)

    def ship() -> None:
        while more := shipper.pending(shipper.acked_seq):
            shipper.acked(shipper.acked_seq + len(more))

    ship()
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    for turn in range(20):
        serve(league, 100 + 20 * turn, 20)
        ship()
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (after - before) / 400 < 300.0  # bytes a seal; 2,300 were kept of each


def test_a_damaged_seal_log_is_not_gone_on_with_and_says_what_works(tmp_path: Path) -> None:
    league = League(tmp_path)
    serve(league, 1, 4)
    league.close()
    path = league.tallinn.directory / SEALS_NAME
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(SiteError, match="join under another id"):
        Sealer(league.tallinn.directory, league.tallinn.identity)
    assert path.read_bytes() == data

"""The sealer: what it signs, where it goes on, what it refuses to sign."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from hanse.errors import SiteError
from hanse.live.evidence import Sealer, audit
from hanse.live.evidence.seal import IDLE_S_MAX, SEALS_NAME, read_seals
from live.evidence.logbook import NOW_S, League


@pytest.fixture
def league(tmp_path: Path) -> Iterator[League]:
    made = League(tmp_path)
    yield made
    made.close()


def reopened(league: League) -> Sealer:
    desk = league.tallinn
    desk.sealer.close()
    desk.sealer = Sealer(desk.directory, desk.identity, durable=False)
    return desk.sealer


def test_idle_site_signs_once_a_minute(league: League) -> None:
    sealer = league.tallinn.sealer
    assert sealer.seal(NOW_S).body is not None
    assert sealer.seal(NOW_S + 1).body is None
    assert sealer.seal(NOW_S + IDLE_S_MAX - 1).body is None
    idle = sealer.seal(NOW_S + IDLE_S_MAX).body
    assert idle is not None
    assert idle.segments == ()


def test_restarted_sealer_goes_on_after_a_torn_seal(league: League) -> None:
    league.local(0)
    league.seal()
    league.local(1)
    league.seal()
    path = league.tallinn.directory / SEALS_NAME
    league.tallinn.sealer.close()
    content = path.read_bytes()
    path.write_bytes(content[:-30])
    league.tallinn.sealer = Sealer(league.tallinn.directory, league.tallinn.identity, durable=False)
    assert league.tallinn.sealer.count == 1
    league.local(2)
    league.seal()
    report = audit(league.tallinn.directory, league.authority_pem)
    assert (report.proven, report.findings) == (3, ())


def test_restarted_sealer_repeats_nothing(league: League) -> None:
    league.local(0)
    league.seal()
    sealer = reopened(league)
    assert sealer.seal(league.now_s + 1).body is None
    league.local(1)
    body = sealer.seal(league.now_s + 2).body
    assert body is not None
    assert [(s.first, s.count) for s in body.segments] == [(4, 7)]
    assert body.certificate == b""  # the log holds it already


def test_damaged_seal_log_is_not_written_on(league: League) -> None:
    league.local(0)
    league.seal()
    path = league.tallinn.directory / SEALS_NAME
    content = bytearray(path.read_bytes())
    content[50] ^= 1
    league.tallinn.sealer.close()
    path.write_bytes(content)
    with pytest.raises(SiteError, match="hanse audit"):
        Sealer(league.tallinn.directory, league.tallinn.identity, durable=False)
    path.write_bytes(path.read_bytes()[:0])
    league.tallinn.sealer = Sealer(league.tallinn.directory, league.tallinn.identity, durable=False)


def test_damaged_chain_stops_alone_and_others_are_sealed_on(league: League) -> None:
    league.local(0)
    league.seal()
    broken = league.tallinn.directory / f"{league.tallinn.writer.chain}.log"
    league.local(1)
    content = bytearray(broken.read_bytes())
    content[-1] ^= 1  # the last record of request 1
    broken.write_bytes(content)
    league.tallinn.writer.close()
    league.tallinn.boot()
    league.local(2)
    league.now_s += 1
    sealed = league.tallinn.sealer.seal(league.now_s)
    assert set(sealed.problems) == {broken.stem}
    assert "damaged at record 6" in sealed.problems[broken.stem]
    assert sealed.body is not None
    assert {s.chain: s.count for s in sealed.body.segments} == {
        broken.stem: 6,
        league.tallinn.writer.chain: 4,
    }
    report = audit(league.tallinn.directory, league.authority_pem)
    assert (report.proven, report.unproven) == (2, 1)


def test_cut_and_foreign_chains_are_not_sealed(league: League) -> None:
    league.local(0)
    league.seal()
    chain = league.tallinn.directory / f"{league.tallinn.writer.chain}.log"
    foreign = league.riga.directory / f"{league.riga.writer.chain}.log"
    (league.tallinn.directory / foreign.name).write_bytes(foreign.read_bytes())
    chain.write_bytes(chain.read_bytes()[:-10])
    sealed = league.tallinn.sealer.seal(league.now_s + 1)
    assert sealed.body is None
    assert "cut off" in sealed.problems[chain.stem]
    assert "does not open" in sealed.problems[foreign.stem]
    chain.unlink()
    assert "gone" in league.tallinn.sealer.seal(league.now_s + 2).problems[chain.stem]


def test_half_written_record_waits_for_the_next_seal(league: League) -> None:
    chain = league.tallinn.directory / f"{league.tallinn.writer.chain}.log"
    league.local(0)
    content = chain.read_bytes()
    chain.write_bytes(content[:-5])
    sealed = league.tallinn.sealer.seal(NOW_S)
    assert sealed.body is not None
    assert [(s.first, s.count) for s in sealed.body.segments] == [(0, 3)]
    assert sealed.problems == {}
    chain.write_bytes(content)
    sealed = league.tallinn.sealer.seal(NOW_S + 1)
    assert sealed.body is not None
    assert [(s.first, s.count) for s in sealed.body.segments] == [(3, 4)]


def test_log_read_in_steps_is_the_log_read_at_once(league: League) -> None:
    path = league.tallinn.directory / SEALS_NAME
    league.seal()
    known = read_seals(path)
    for request in range(3):
        league.local(request)
        league.seal()
        known = read_seals(path, known)
    assert known == read_seals(path)
    assert len(known.entries) == 4

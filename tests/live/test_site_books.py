"""Records become quarters of an hour, each once, whatever ends the agent; quarters are evidence like any other."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from hanse.energy.ledger import QUARTER_S, Look
from hanse.live.evidence import audit
from hanse.live.evidence.audit import read_logs
from hanse.live.evidence.chain import Dropped, Metered
from hanse.live.evidence.quarters import CLOSES_SHARE, summed
from hanse.live.evidence.seal import SealPlace
from hanse.live.facility.metering import EnergyAccount
from hanse.live.facility.readings import Reading
from hanse.live.site_books import FILE, OPEN_S, SiteBooks, own_records
from hanse.model.fleet import PlantMeter
from live.evidence.logbook import NOW_S, League

START_S = NOW_S // QUARTER_S * QUARTER_S
PUE = 1.25
ENERGY_WH = 0.01


@pytest.fixture
def league(tmp_path: Path) -> Iterator[League]:
    made = League(tmp_path)
    yield made
    made.close()


class Agent:
    """What a site's agent does about its books."""

    def __init__(self, league: League, site: str) -> None:
        self.desk = next(desk for desk in league.desks if desk.site == site)
        self.league = league
        self.start()

    def start(self) -> None:
        self.books = SiteBooks(self.desk.directory.parent, self.desk.site)
        self.books.start_at(SealPlace())

    def seal(self) -> None:
        self.desk.sealer.seal(self.league.now_s)
        self.books.charge(self.books.reader.read(), PUE)

    def crash(self) -> None:
        """Without a last word; what was not kept is gone."""
        self.books.close()
        self.start()


def seal_all(league: League, *agents: Agent) -> None:
    league.now_s += 1.0
    for agent in agents:
        agent.seal()


def charged(books: SiteBooks) -> tuple[int, float]:
    quarters = books.quarters()
    return sum(q.requests for q in quarters), sum(sum(q.requests_wh.values()) for q in quarters)


def test_a_request_is_charged_where_it_ran_and_once(league: League) -> None:
    tallinn, riga = Agent(league, "tallinn"), Agent(league, "riga")
    league.local(1)
    league.forwarded(2)
    league.retried(3)
    league.refused(4)
    seal_all(league, tallinn, riga)
    seal_all(league, tallinn, riga)
    assert charged(tallinn.books) == (2, pytest.approx(2 * ENERGY_WH))
    assert charged(riga.books) == (1, pytest.approx(ENERGY_WH))


def test_a_request_that_was_lost_here_and_answered_elsewhere_is_the_other_sites(
    league: League,
) -> None:
    tallinn, riga = Agent(league, "tallinn"), Agent(league, "riga")
    entry, other = league.tallinn.writer, league.riga.writer
    entry.append(league.decided(1, site="tallinn"))
    entry.append(league.executed(1, site="tallinn"))
    entry.append(league.decided(1, site="riga", attempt=2))
    other.append(league.executed(1, site="riga", attempt=2))
    other.append(league.ended(1, role="serving", attempt=2, attempts=2))
    entry.append(league.ended(1, role="entry", attempt=2, attempts=2))
    # And one that nobody answered: the engine here was the last to have it.
    entry.append(league.decided(2, site="tallinn"))
    entry.append(league.executed(2, site="tallinn"))
    entry.append(league.ended(2, role="entry", attempt=0, outcome="failed"))
    seal_all(league, tallinn, riga)
    assert charged(tallinn.books) == (1, pytest.approx(ENERGY_WH))
    assert charged(riga.books) == (1, pytest.approx(ENERGY_WH))


def test_a_request_that_ends_under_a_later_seal_is_still_known_to_run_here(league: League) -> None:
    tallinn = Agent(league, "tallinn")
    writer = league.tallinn.writer
    writer.append(league.decided(1, site="tallinn"))
    writer.append(league.executed(1, site="tallinn"))
    seal_all(league, tallinn)
    assert charged(tallinn.books) == (0, 0.0)
    tallinn.books.keep(league.now_s)
    tallinn.crash()
    writer.append(league.ended(1, role="entry"))
    seal_all(league, tallinn)
    assert charged(tallinn.books) == (1, pytest.approx(ENERGY_WH))


@pytest.mark.parametrize("kept_after", [0, 1, 2, 3])
def test_after_a_crash_each_record_counts_once(league: League, kept_after: int) -> None:
    tallinn = Agent(league, "tallinn")
    for turn in range(4):
        league.local(turn)
        seal_all(league, tallinn)
        if turn == kept_after:
            tallinn.books.keep(league.now_s)
    tallinn.crash()
    league.local(9)
    seal_all(league, tallinn)
    assert charged(tallinn.books) == (5, pytest.approx(5 * ENERGY_WH))


def look(books: SiteBooks, now_s: float, busy_w: float = 0.0) -> None:
    seen = Look(
        it_w=400.0, it_error_share=0.01, drawn_w=550.0, drawn_error_share=0.02, base_w=50.0, busy_w=busy_w,
        pue=PUE, carbon_g_per_kwh=200.0,
    )  # fmt: skip
    books.look(seen, now_s)


def account(measures: str) -> EnergyAccount:
    meter = PlantMeter(id=measures, site="tallinn", facility="f", point="p", energy_point="e", measures=measures)  # type: ignore[arg-type]  # fmt: skip
    return EnergyAccount(meter)


def feed(one: EnergyAccount, wh: float, at_s: float) -> None:
    reading = Reading(point="e", quantity="energy_wh", value=wh, at_s=at_s)
    one.take({("f", "e"): reading})


def test_finished_quarters_are_signed_and_come_to_the_meter(league: League) -> None:
    tallinn = Agent(league, "tallinn")
    meters = [account("site"), account("it")]
    for second in range(int(2 * QUARTER_S + OPEN_S) + 2):
        now_s = START_S + second
        feed(meters[0], 1000.0 + second * 550.0 / 3600.0, now_s)
        feed(meters[1], 7000.0 + second * 400.0 / 3600.0, now_s)
        tallinn.books.count(meters, now_s)
        look(tallinn.books, now_s, busy_w=160.0)
        tallinn.books.close_due(now_s)
    done = [r for r in own_records(tallinn.desk.directory) if isinstance(r, Metered)]
    assert [q.start_s for q in done] == [START_S, START_S + QUARTER_S]
    first = done[1]
    assert first.drawn_method == first.it_method == "measured"
    assert first.drawn_wh == pytest.approx(550.0 / 4, rel=0.01)
    assert first.idle_wh == pytest.approx(240.0 / 4, rel=0.01)
    assert first.others_wh == pytest.approx(50.0 / 4, rel=0.01)
    # No request was charged for the engine that was busy: just that is missing.
    assert first.missing_wh == pytest.approx(160.0 / 4, rel=0.02)
    assert first.carbon_g_per_kwh == pytest.approx(200.0)
    assert first.market_g_per_kwh is None
    league.now_s = now_s
    league.seal()
    report = audit(league.state_dir, league.authority_pem)
    assert report.findings == ()
    assert len(read_logs(league.state_dir, league.authority_pem).quarters) == 2


def test_with_requests_charged_the_sum_is_within_two_percent(league: League) -> None:
    tallinn = Agent(league, "tallinn")
    meters = [account("site")]
    wh_each = 160.0 / 3600.0 * PUE  # a second of the busy engine
    for second in range(int(QUARTER_S + OPEN_S) + 2):
        now_s = league.now_s = START_S + second
        feed(meters[0], second * 550.0 / 3600.0, now_s)
        tallinn.books.count(meters, now_s)
        look(tallinn.books, now_s, busy_w=160.0)
        writer = league.tallinn.writer
        writer.append(league.decided(second, site="tallinn"))
        writer.append(league.executed(second, site="tallinn"))
        ended = league.ended(
            second,
            role="entry",
            at_s=now_s,
            e2e_ms=999.0 * (second > 0),
            energy_wh=wh_each,
            method="estimated",
        )
        writer.append(ended)
        tallinn.seal()
        tallinn.books.close_due(now_s)
    (quarter,) = (r for r in own_records(tallinn.desk.directory) if isinstance(r, Metered))
    together = summed([quarter])
    assert together.open_share <= CLOSES_SHARE
    assert quarter.requests == QUARTER_S
    assert quarter.charged_wh == pytest.approx(160.0 * PUE / 4, rel=0.01)


def test_a_crash_between_writing_a_quarter_and_noting_it_writes_it_once(league: League) -> None:
    tallinn = Agent(league, "tallinn")
    for second in range(20):
        look(tallinn.books, START_S + second)
    tallinn.books.keep(START_S + 20)
    before = (tallinn.desk.directory.parent / FILE).read_bytes()
    over_s = START_S + QUARTER_S + OPEN_S
    assert len(tallinn.books.close_due(over_s)) == 1
    (tallinn.desk.directory.parent / FILE).write_bytes(before)
    tallinn.crash()
    assert tallinn.books.close_due(over_s + 1.0) == []
    assert len(list(own_records(tallinn.desk.directory))) == 1


def test_a_late_part_of_a_long_request_counts_in_the_oldest_open_quarter(league: League) -> None:
    tallinn = Agent(league, "tallinn")
    look(tallinn.books, START_S + 1)
    look(tallinn.books, START_S + 2)
    tallinn.books.close_due(START_S + QUARTER_S + OPEN_S)
    league.now_s = START_S + 2 * QUARTER_S + 10
    writer = league.tallinn.writer
    writer.append(league.decided(1, site="tallinn", at_s=START_S))
    writer.append(league.executed(1, site="tallinn", at_s=START_S))
    writer.append(
        league.ended(1, role="entry", at_s=league.now_s, e2e_ms=(2 * QUARTER_S + 10) * 1000.0)
    )
    tallinn.seal()
    assert charged(tallinn.books) == (1, pytest.approx(ENERGY_WH))
    assert min(q.start_s for q in tallinn.books.quarters()) == START_S + QUARTER_S


def test_a_suspended_machine_leaves_a_hole_and_no_guess(league: League) -> None:
    tallinn = Agent(league, "tallinn")
    look(tallinn.books, START_S + 1)
    look(tallinn.books, START_S + 2)
    look(tallinn.books, START_S + 300)
    look(tallinn.books, START_S + 301)
    (quarter,) = tallinn.books.quarters()
    assert quarter.seen_s == pytest.approx(2.0)


def test_a_broken_file_of_books_begins_anew_and_stops_nothing(league: League) -> None:
    tallinn = Agent(league, "tallinn")
    (tallinn.desk.directory.parent / FILE).write_bytes(b"\xc1")
    tallinn.crash()
    assert tallinn.books.quarters() == []


def test_a_quarter_that_another_site_tells_does_not_count(league: League) -> None:
    tallinn = Agent(league, "tallinn")
    quarter = msgspec.convert(
        {"at_s": league.now_s, "site": "riga", "start_s": START_S, "until_s": START_S + QUARTER_S, "seen_s": 1.0,
         "drawn_wh": 1.0, "drawn_method": "measured", "drawn_error_share": 0.0, "it_wh": 1.0, "it_method": "measured",
         "it_error_share": 0.0, "requests": 0, "requests_wh": {}, "requests_it_wh": 0.0, "idle_wh": 1.0,
         "overhead_wh": 0.0, "others_wh": 0.0, "missing_wh": 0.0, "excess_wh": 0.0, "carbon_g_per_kwh": None,
         "market_g_per_kwh": None, "marginal_g_per_kwh": None, "price_usd_per_kwh": None, "type": "metered"},
        dict,
    )  # fmt: skip
    del quarter["type"]
    tallinn.books._append(Metered(**quarter))
    seal_all(league, tallinn)
    report = audit(league.state_dir, league.authority_pem)
    assert "record out of place" in [f.kind for f in report.findings]
    assert read_logs(league.state_dir, league.authority_pem).quarters == ()


def test_a_deletion_by_rule_explains_a_missing_chain_and_nothing_else_does(league: League) -> None:
    tallinn = Agent(league, "tallinn")
    league.local(1)
    seal_all(league, tallinn)
    old = league.tallinn.writer
    old.close()
    league.tallinn.boot()
    league.local(2)
    seal_all(league, tallinn)
    path = tallinn.desk.directory / f"{old.chain}.log"
    size = path.stat().st_size
    path.unlink()
    kinds = [f.kind for f in audit(league.state_dir, league.authority_pem).findings]
    assert sorted(kinds) == ["chain missing", "seals missing"]  # riga has no log at all

    def dropped(**changes: object) -> Dropped:
        fields = {
            "at_s": league.now_s + 1000.0, "site": "tallinn", "chain": old.chain, "count": old.count, "head": old.head,
            "size_bytes": size, "sealed_at_s": NOW_S + 1.0, "rule": "age", "kept_s": 900.0,
        }  # fmt: skip
        return Dropped(**(fields | changes))

    for wrong in (
        {"count": 1},
        {"head": bytes(32)},
        {"kept_s": 1e6},
        {"chain": "tallinn-0-0000000f"},
    ):
        tallinn.books.drop(dropped(**wrong))
        league.now_s += 2000.0
        tallinn.desk.sealer.forget(old.chain)
        seal_all(league, tallinn)
        kinds = [f.kind for f in audit(league.state_dir, league.authority_pem).findings]
        assert "chain missing" in kinds, wrong
    tallinn.books.drop(dropped(at_s=league.now_s))
    seal_all(league, tallinn)
    report = audit(league.state_dir, league.authority_pem)
    assert [f.kind for f in report.findings] == ["seals missing"]
    assert "1 chains deleted by rule, each recorded under a seal" in report.sites[1].notes

"""Whole sites and entry gateways are lost, with everything that ran there."""

from __future__ import annotations

import time

import pytest

from hanse.live.evidence import audit
from hanse.live.evidence.audit import UnprovenRequest
from hanse.live.evidence.chain import Decided
from hanse.live.lawcheck import law_check_of
from league.harness import Answer, League, Stream, unanswered, wait_until


def test_a_killed_site_loses_no_request_and_comes_back(
    league: League,
) -> None:
    entry = "frankfurt"
    stream = Stream(league, entry, text="Count from one to a hundred in words.")
    stream.wait_for_chunks(2)
    first = next(site for site in league.runtime.sites if league.executing(site))
    lost, inside = league.busy(entry, elsewhere=True)
    pids = league.kill_site(lost)
    killed_at_s = time.time()
    try:
        answers = [future.result(120) for future in inside]
        later = [league.ask_later(entry, f"Say {i}.", stream=bool(i % 2)) for i in range(6)]
        after = [future.result(120) for future in later]
        answers += after
        assert unanswered(answers) == []
        assert all(a.site != lost for a in after)
        begun = stream.answer()
        assert begun.done and not begun.broken, begun
        if first == lost:
            assert any(line.startswith(": continued at ") for line in begun.lines), begun
    finally:
        league.release(lost)
    moved = league.moved(answers, lost)
    assert moved, f"no request was at {lost} when it died"
    for answer, again_at_s in moved:
        print(
            f"{lost} killed ({len(pids)} processes): chosen anew after {again_at_s - killed_at_s:.3f} s, "
            f"first byte after {answer.first_byte_at_s - killed_at_s:.2f} s"
        )
    whole_s = league.wait_until_whole()
    print(f"whole {time.time() - killed_at_s:.1f} s after the kill, {whole_s:.1f} s after release")


@pytest.mark.long
def test_a_client_whose_gateway_is_lost_goes_on_at_the_next_that_may_read_it(
    league: League,
) -> None:
    entry = "lyon"
    how = {"x_hanse_class": "personal", "x_hanse_country": "FR"}
    listed = league.get(entry, "/.well-known/hanse", key="demo", **how).json["gateways"]
    names = [row["site"] for row in listed]
    assert names[0] == entry
    assert "virginia" not in names, "personal data from France may not be read there"
    league.kill_site(entry)
    killed_at_s = time.time()
    try:
        answers = [_at_first_that_answers(league, names) for _ in range(5)]
        assert [a.status for a in answers] == [200] * 5
        assert all(a.site in names for a in answers)
        print(f"first answer elsewhere {answers[0].ended_at_s - killed_at_s:.2f} s after the kill")
        records = league.records()
        decided = [r for a in answers for _, r in records[a.request_id] if isinstance(r, Decided)]
        assert {r.entry_site for r in decided} == {names[1]}
    finally:
        league.release(entry)
    league.wait_until_whole()
    assert league.ask(entry, data_class="personal", country="FR").status == 200


def test_two_workers_share_a_port_and_one_that_dies_is_replaced(league: League) -> None:
    site = "frankfurt"
    asked = [league.ask_later(site, key="mill", data_class="important") for _ in range(60)]
    assert {future.result(30).status for future in asked} == {451}
    ids = {future.result().request_id for future in asked}
    wait_until(lambda: sum(league.decided_by_worker(site, ids).values()) == 60, "records", 10)
    wrote = league.decided_by_worker(site, ids)
    print(f"60 connections: {wrote}")
    assert len(wrote) == 2
    assert min(wrote.values()) >= 5
    old = league.gateway(site, 1).kill()
    during = [league.ask(site, f"Say {i}.") for i in range(4)]
    # A connection that the kernel had handed to the dying worker is reset: the client connects again, as the openai
    # client does by itself, and the other worker answers.
    during = [one if one.status else league.ask(site, "Say it again.") for one in during]
    assert [a.status for a in during] == [200] * 4
    print(f"worker replaced after {league.gateway(site, 1).back(old, 30):.1f} s")


def test_a_worker_that_dies_leaves_no_load_behind(league: League) -> None:
    site = "london"
    stream = Stream(league, site, text="Count from one to a hundred in words.")
    stream.wait_for_chunks(2)
    assert league.in_flight(site) >= 1
    old = league.gateway(site).kill()
    league.gateway(site).back(old, 30)
    wait_until(lambda: league.in_flight(site) == 0, "the dead worker's row is zero", 10)
    answer = stream.answer()
    assert not answer.done, "the client's connection ended with its gateway"
    wait_until(lambda: league.get(site, "/readyz").status == 200, "the next worker is ready", 30)
    assert league.ask(site, "Say hello.", stream=True).done
    league.wait_until_whole()


def test_what_a_killed_gateway_could_not_end_is_unproven_and_nothing_else_is(
    league: League,
) -> None:
    """A record that was never written cannot be made up for: the audit says so, for exactly those requests."""
    site = "london"
    before = {r.request_id for r in _unproven(league)}
    streams = [
        Stream(league, site, text=f"Count from {i} to a hundred in words.") for i in range(2)
    ]
    for stream in streams:
        stream.wait_for_chunks(2)
    old = league.gateway(site).kill()
    cut = {stream.answer().request_id for stream in streams}
    league.gateway(site).back(old, 30)
    league.wait_until_whole()
    after = [league.ask(site, f"Say {i}.").request_id for i in range(2)]
    wait_until(lambda: {r.request_id for r in _unproven(league)} - before == cut, "seals", 20)
    assert not cut & set(after)


def _unproven(league: League) -> tuple[UnprovenRequest, ...]:
    report = audit(league.state.path, league.ca(), law=law_check_of(league.state))
    assert report.findings == ()
    return report.unproven_requests


def _at_first_that_answers(league: League, sites: list[str]) -> Answer:
    """What a client does with the list it holds."""
    for site in sites:
        answer = league.ask(site, data_class="personal", country="FR")
        if answer.status:
            return answer
    raise AssertionError("no listed gateway answered")

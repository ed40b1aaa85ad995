"""Engines die and freeze: real llama.cpp processes, real signals, and what the evidence says of every attempt."""

from __future__ import annotations

import time
from concurrent.futures import wait

import pytest

from league.harness import League, Stream, unanswered, wait_until

REROUTED_S_MAX = 1.0
"""From the freeze to the new decision; the agent needs 0.85 s at worst, a worker's poll 0.02 s."""
SCHEDULING_S_MAX = 0.5
"""What a machine with more to do than cores may add; figures without it are printed."""
STALLED_S = 2.5
"""Longer than load is good for (`heard_stale_s`, 2 s)."""


def test_a_killed_engine_loses_no_request_and_is_started_again(league: League) -> None:
    entry = "frankfurt"
    target, inside = league.busy(entry)
    old = league.engine(target).kill()
    killed_at_s = time.time()
    after = [league.ask_later(entry, f"Say {i}.", stream=bool(i % 2)) for i in range(4)]
    back_s = league.engine(target).back(old)
    answers = [future.result(120) for future in inside + after]
    assert unanswered(answers) == []
    assert all(a.done for a in answers if a.lines)
    moved = league.moved(answers, target)
    assert moved, "no request was in the engine when it died"
    for answer, again_at_s in moved:
        since_s = max(killed_at_s, answer.sent_at_s)
        print(
            f"engine of {target} killed: chosen anew after {again_at_s - since_s:.3f} s, "
            f"first byte after {answer.first_byte_at_s - since_s:.2f} s"
        )
    whole_s = league.wait_until_whole()
    print(f"another process after {back_s:.1f} s, whole {whole_s:.1f} s after the answers")


def test_requests_in_a_frozen_engine_are_answered_elsewhere_within_a_second_and_the_prediction(
    league: League,
) -> None:
    entry = "frankfurt"
    target, inside = league.busy(entry)
    old = league.engine(target).freeze()
    frozen_at_s = time.time()
    late = [league.ask_later(entry, f"Say {i}.", stream=bool(i % 2)) for i in range(2)]
    answers = [future.result(120) for future in inside + late]
    assert unanswered(answers) == []
    moved = league.moved(answers, target)
    assert moved, "no request was in the engine when it froze"
    waits = []
    for answer, again_at_s in moved:
        since_s = max(frozen_at_s, answer.sent_at_s)
        waits.append(again_at_s - since_s)
        predicted_s = answer.predicted_s["ttft" if answer.lines else "e2e"]
        print(
            f"engine of {target} frozen: chosen anew after {waits[-1]:.3f} s, "
            f"first byte after {answer.first_byte_at_s - since_s:.2f} s, predicted {predicted_s:.2f} s"
        )
    back_s = league.engine(target).back(old)
    print(
        f"another process {back_s:.1f} s, whole {league.wait_until_whole():.1f} s after the answers"
    )
    assert max(waits) <= REROUTED_S_MAX + SCHEDULING_S_MAX


def test_a_gateway_that_was_stalled_while_its_engine_died_loses_no_request(league: League) -> None:
    """All it knows of other sites is stale when it goes on, and its own engine is gone."""
    entry = "lyon"
    target, inside = league.busy(entry)
    while (
        target != entry
    ):  # the cheapest for all, and at hand; but others may have been busy before
        assert len(inside) < 24, "nothing from Lyon comes to its own engine"
        wait(inside, 120)
        target, more = league.busy(entry)
        inside += more
    gateway = league.gateway(entry)
    gateway.freeze()
    try:
        old = league.engine(target).kill()
        time.sleep(STALLED_S)
    finally:
        gateway.thaw()
    answers = [future.result(120) for future in inside]
    assert unanswered(answers) == []
    assert all(a.done for a in answers if a.lines)
    assert league.moved(answers, target), "no request was in the engine when it died"
    league.engine(target).back(old)
    league.wait_until_whole()


def test_a_stream_whose_engine_dies_ends_with_an_error_event_where_no_other_may_go_on(
    league: League,
) -> None:
    """French health data may be read in Lyon alone, and Lyon has one engine. Others go on: `test_continued`."""
    site, who = "lyon", {"key": "clinic", "data_class": "health", "country": "FR"}
    stream = Stream(league, site, text="Count from one to a hundred in words.", **who)
    stream.wait_for_chunks(3)
    old = league.engine(site).kill()
    answer = stream.answer()
    assert answer.status == 200
    assert answer.broken
    assert not answer.done
    assert answer.error == ""  # told in words, not by a cut
    assert any("not_continued" in line for line in answer.lines)
    # Until its death is seen, the league looks whole to the next test.
    league.engine(site).back(old)
    league.wait_until_whole()
    assert league.ask(site, "Say hello.", stream=True, **who).done


@pytest.mark.long
def test_an_engine_whose_agent_is_frozen_too_is_left_out(league: League) -> None:
    """The worker's own probes take over where the agent says nothing; the agent restarts the engine when it wakes."""
    site = "lyon"
    league.agent(site).freeze()
    try:
        old = league.engine(site).kill()
        refused = wait_until(lambda: _health(league) == 503, "no room for health data", 30)
        print(f"known by the worker itself after {refused:.1f} s")
        assert [league.ask("frankfurt", f"Say {i}.").status for i in range(3)] == [200] * 3
    finally:
        league.agent(site).thaw()
    league.engine(site).back(old)
    league.wait_until_whole()
    assert _health(league) == 200


def _health(league: League) -> int:
    """French health data may be read in Lyon alone, so its answer says how Lyon's engine is."""
    return league.ask("lyon", key="clinic", data_class="health", country="FR").status

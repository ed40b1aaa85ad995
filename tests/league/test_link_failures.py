"""Links between sites are cut, cut one way, and slowed, while requests are under way."""

from __future__ import annotations

import time

import pytest

from hanse.live.link_control import FaultKind
from hanse.view import link_id
from league.harness import League, Stream, wait_until


@pytest.mark.parametrize("kind", ["cut", "cut_forward", "cut_backward", "reset"])
def test_requests_go_on_elsewhere_over_a_faulty_link_and_return_when_it_heals(
    league: League, kind: FaultKind
) -> None:
    entry = "frankfurt"
    far, inside = league.busy(entry, elsewhere=True)
    league.links.fault(link_id(entry, far), kind)
    cut_at_s = time.time()
    try:
        after = [league.ask_later(entry, f"Say {i}.", stream=bool(i % 2)) for i in range(4)]
        answers = [future.result(120) for future in inside + after]
        assert [(a.status, a.error) for a in answers] == [(200, "")] * len(answers)
        assert all(a.done for a in answers if a.lines)
        moved = league.moved(answers, far)
        known_s = wait_until(lambda: league.gate(entry, far) != "OK", f"{entry} knows", 15)
        later = [league.ask(entry, f"Tell {i}.") for i in range(3)]
        assert [a.status for a in later] == [200] * 3
        assert all(a.site != far for a in later)
    finally:
        league.links.heal(link_id(entry, far))
    healed_s = wait_until(lambda: league.gate(entry, far) == "OK", f"{far} is back", 30)
    slowest_s = max(a.first_byte_at_s - max(cut_at_s, a.sent_at_s) for a in answers)
    for answer, again_at_s in moved:
        since_s = max(cut_at_s, answer.sent_at_s)
        print(
            f"{kind} {entry}~{far}: chosen anew after {again_at_s - since_s:.2f} s, first byte after "
            f"{answer.first_byte_at_s - since_s:.2f} s"
        )
    print(
        f"{len(moved)} of {len(answers)} moved, slowest first byte {slowest_s:.2f} s, "
        f"known {known_s:.2f} s after the answers, back {healed_s:.2f} s after healing"
    )


@pytest.mark.long
def test_a_stream_over_a_link_that_stays_cut_goes_on_at_home(league: League) -> None:
    """Nothing tells a pause from an end but time: three checks missed, and no byte between two looks after that."""
    entry = "frankfurt"
    _, inside = league.busy(entry)  # its own engine has work, so that streams go elsewhere too
    streams = [
        Stream(league, entry, text=f"Count from {i} to one thousand in words.", max_tokens=150)
        for i in range(4)
    ]
    for stream in streams:
        stream.wait_for_chunks(3, 120)
    for link in league.links.links_of(entry):
        league.links.cut(link)
    try:
        answers = [stream.answer(120) for stream in streams]
        went_on = [a for a in answers if f": continued at {entry}" in a.lines]
        assert went_on, "no stream came over a link"
        assert all(a.done and not a.broken for a in answers)
        for answer in went_on:
            print(f"whole after {answer.ended_at_s - answer.sent_at_s:.1f} s")
    finally:
        league.heal_all()
    assert all(future.result(120).status for future in inside)


def test_a_slow_link_loses_nothing(league: League) -> None:
    entry, far = "frankfurt", "lyon"
    league.links.fault(link_id(entry, far), "slow", slow_factor=40.0)
    try:
        asked = [league.ask_later(entry, f"Say {i}.", stream=bool(i % 2)) for i in range(6)]
        answers = [future.result(120) for future in asked]
        assert [(a.status, a.error) for a in answers] == [(200, "")] * 6
        assert all(a.done for a in answers if a.lines)
        print(f"over a link 40 times slower: {sorted(a.site for a in answers)} from {entry}")
    finally:
        league.links.heal(link_id(entry, far))
    league.wait_until_whole()

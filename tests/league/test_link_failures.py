"""Links between sites are cut, cut one way, and slowed, while requests are under way."""

from __future__ import annotations

import time

import pytest

from hanse.live.link_control import FaultKind
from hanse.view import link_id
from league.harness import League, Stream, unanswered, wait_until

FAULTS_MORE: tuple[FaultKind, ...] = ("cut_forward", "cut_backward", "reset")


@pytest.mark.parametrize(
    "kind",
    ["cut", *(pytest.param(k, marks=pytest.mark.long) for k in FAULTS_MORE)],
)
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
        assert unanswered(answers) == []
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
    others = [site for site in league.runtime.sites if site != entry]
    streams: list[Stream] = []
    while not any(league.executing(site) for site in others):
        assert len(streams) < 8, "everything was answered at home"
        text = f"Count from {len(streams)} to one thousand in words."
        streams.append(Stream(league, entry, text=text, max_tokens=150))
        streams[-1].wait_for_chunks(5, 60)
    for link in league.links.links_of(entry):
        league.links.cut(link)
    cut_at_s = time.time()
    try:
        answers = [stream.answer(120) for stream in streams]
        assert all(a.done and not a.broken for a in answers), [a.lines[-2:] for a in answers]
        went_on = [a for a in answers if f": continued at {entry}" in a.lines]
        assert went_on, f"no stream came over a link: {[a.site for a in answers]}"
        for answer in went_on:
            print(f"from {answer.site}, whole {answer.ended_at_s - cut_at_s:.1f} s after the cut")
    finally:
        league.heal_all()
    league.wait_until_whole()


def test_a_slow_link_loses_nothing(league: League) -> None:
    entry, far = "frankfurt", "lyon"
    league.links.fault(link_id(entry, far), "slow", slow_factor=40.0)
    try:
        asked = [league.ask_later(entry, f"Say {i}.", stream=bool(i % 2)) for i in range(6)]
        answers = [future.result(120) for future in asked]
        assert unanswered(answers) == []
        assert all(a.done for a in answers if a.lines)
        print(f"over a link 40 times slower: {sorted(a.site for a in answers)} from {entry}")
    finally:
        league.links.heal(link_id(entry, far))
    league.wait_until_whole()

"""Who is silent, when the listener itself was held up."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hanse.live.silence import Silence

SILENT_S, LOOK_S = 2.0, 0.25


def test_a_site_is_lost_once_after_it_was_silent_for_long_enough() -> None:
    silence = Silence(SILENT_S, LOOK_S, 0.0)
    silence.hear("a", 0.0)
    found = [(turn * LOOK_S, silence.lost(turn * LOOK_S)) for turn in range(1, 40)]
    assert [(at_s, sites) for at_s, sites in found if sites] == [(2.25, ["a"])]


@given(held_up_s=st.floats(0.6, 60.0), heard=st.lists(st.floats(0.0, 1.0), min_size=1, max_size=5))
def test_nobody_is_lost_for_the_time_that_the_listener_was_held_up(
    held_up_s: float, heard: list[float]
) -> None:
    silence = Silence(SILENT_S, LOOK_S, 0.0)
    for number, at_s in enumerate(heard):
        silence.hear(str(number), at_s)
    assert all(not silence.lost(turn * LOOK_S) for turn in range(1, 5))
    assert silence.lost(1.0 + held_up_s) == []
    # Who really is silent is found all the same, at most that much later.
    looks = [1.0 + held_up_s + turn * LOOK_S for turn in range(1, 12)]
    lost = [site for at_s in looks for site in silence.lost(at_s)]
    assert sorted(lost) == sorted(str(number) for number in range(len(heard)))


@given(st.lists(st.floats(0.01, 0.4), min_size=1, max_size=60))
def test_while_nothing_holds_it_up_it_is_the_plain_rule(steps: list[float]) -> None:
    silence, now_s = Silence(SILENT_S, LOOK_S, 0.0), 0.0
    silence.hear("a", 0.0)
    lost_s = None
    for step in steps:
        now_s += step
        if silence.lost(now_s) and lost_s is None:
            lost_s = now_s
    over = [at_s for at_s in _sums(steps) if at_s > SILENT_S]
    assert lost_s == (over[0] if over else None)


def _sums(steps: list[float]) -> list[float]:
    total, found = 0.0, []
    for step in steps:
        total += step
        found.append(total)
    return found

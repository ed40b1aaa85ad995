"""What does not start somewhere, and how often the fleet's Dispatcher hears of it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dispatch.fleets import NOW_S
from hanse.dispatch.failing import Failures
from hanse.dispatch.site_scope import RAN_WELL_S

KEY = "chat", "v0", "gpu"


def told(said: list[tuple[float, bool]]) -> list[tuple[float, bool]]:
    """(instant, fails) of what is heard of a site that says at these instants whether something fails."""
    known = Failures()
    heard = []
    for at_s, fails in said:
        for event in known.events("a", {KEY: "no memory"} if fails else {}, NOW_S + at_s):
            assert (event.site, event.service, event.variant, event.pool) == ("a", *KEY)
            heard.append((at_s, bool(event.why)))
    return heard


def test_it_is_told_once_when_it_begins_and_once_when_it_is_over() -> None:
    said = [(float(s), 10 <= s < 20) for s in range(200)]
    assert told(said) == [(10.0, True), (19.0 + RAN_WELL_S, False)]


@given(st.lists(st.floats(0.5, RAN_WELL_S - 1.0), min_size=1, max_size=30))
def test_an_engine_that_comes_up_and_soon_dies_is_told_once(up_s: list[float]) -> None:
    """Its death is said at once, its life each half second."""
    said, at_s = [(0.0, True)], 0.0
    for one_s in up_s:
        said += [(at_s + 0.5 * n, False) for n in range(1, int(2.0 * one_s))]
        at_s += one_s
        said.append((at_s, True))
    assert told(said) == [(0.0, True)]
    ends = [(at_s + n, False) for n in range(1, 2 * int(RAN_WELL_S))]
    assert told([*said, *ends]) == [(0.0, True), (at_s + RAN_WELL_S, False)]


def test_another_reason_is_news_and_what_never_failed_is_over_never() -> None:
    known = Failures()
    assert [e.why for e in known.events("a", {KEY: "no memory"}, NOW_S)] == ["no memory"]
    assert [e.why for e in known.events("a", {KEY: "no driver"}, NOW_S + 1.0)] == ["no driver"]
    assert known.due_s("a") == NOW_S + 1.0 + RAN_WELL_S
    assert known.events("b", {}, NOW_S) == [] and known.due_s("b") == float("inf")

"""A faster clock: instants go there and back, overrides stay where people dated them, and at speed 1 nothing moves at all."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hanse.errors import FeedError
from hanse.signals import Clock, Feed, Override

NOON_S = datetime(2026, 6, 21, 12, tzinfo=UTC).timestamp()
instants = st.floats(NOON_S - 1e6, NOON_S + 1e6)
speeds = st.floats(0.1, 7200.0)


@given(instants, instants, speeds)
def test_there_and_back(from_s: float, at_s: float, speed: float) -> None:
    clock = Clock(speed=speed, from_s=from_s)
    assert clock.true_s(clock.played_s(at_s)) == pytest.approx(at_s, abs=1e-2)
    assert clock.played_s(at_s + 1.0) - clock.played_s(at_s) == pytest.approx(speed, rel=1e-3)
    assert clock.played_s(from_s) == from_s


@given(instants)
def test_at_speed_one_an_instant_stays_what_it_is(at_s: float) -> None:
    assert Clock().played_s(at_s) == Clock().true_s(at_s) == at_s
    assert Feed().played_s(at_s) == at_s


@pytest.mark.parametrize("speed", [0.0, -1.0, 1e6])
def test_no_clock_stands_still_runs_back_or_leaps(speed: float) -> None:
    with pytest.raises(FeedError, match="clock_speed"):
        Feed(clock_speed=speed)


@given(speeds, st.floats(0.0, 3600.0))
def test_a_faster_feed_plays_later_hours(speed: float, after_s: float) -> None:
    fast = Feed(clock_speed=speed, clock_from_s=NOON_S)
    plain = Feed()
    now_s = NOON_S + after_s
    at = fast.carbon_g_per_kwh("DE", now_s).recorded_at_s
    same = plain.carbon_g_per_kwh("DE", fast.played_s(now_s)).recorded_at_s
    assert at == same


@given(speeds, st.floats(0.0, 7200.0), st.floats(1.0, 3600.0))
def test_overrides_are_dated_by_the_true_clock(speed: float, at_s: float, length_s: float) -> None:
    over = Override(
        kind="carbon_factor", place="DE", value=3.0, from_s=NOON_S + 60.0,
        until_s=NOON_S + 60.0 + length_s, reason="test",
    )  # fmt: skip
    feed = Feed(clock_speed=speed, clock_from_s=NOON_S, overrides=(over,))
    now_s = NOON_S + at_s
    own = feed.by_its_clock()
    here = feed.carbon_g_per_kwh("DE", now_s)
    there = own.carbon_g_per_kwh("DE", feed.clock.played_s(now_s))
    edge = min(abs(at_s - 60.0), abs(at_s - 60.0 - length_s))
    if edge > 1e-3:
        assert here.value == pytest.approx(there.value)
        assert ("times 3" in here.note) == (60.0 <= at_s < 60.0 + length_s)

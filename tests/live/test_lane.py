"""One direction of a link as a pure queue: order, rate, cuts; no socket, no clock."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from effort import effort
from hanse.live.lane import Lane


@given(
    sizes=st.lists(st.integers(0, 200_000), max_size=20),
    gaps_ms=st.lists(st.integers(0, 50), min_size=20, max_size=20),
    delay_ms=st.integers(0, 200),
    mbit_s=st.sampled_from([0.1, 1.0, 25.0, 1_000.0]),
)
def test_lane_is_in_order_and_never_faster_than_delay_and_rate(
    sizes: list[int], gaps_ms: list[int], delay_ms: int, mbit_s: float
) -> None:
    rate = mbit_s * 125_000
    lane = Lane(delay_s=delay_ms / 1e3, bytes_per_s=rate)
    got: list[int] = []
    now_s, sent_bytes, first_s = 0.0, 0, None
    for number, size in enumerate(sizes):
        now_s += gaps_ms[number] / 1e3
        first_s = now_s if first_s is None else first_s
        lane.carry(now_s, lambda _data, n=number: got.append(n), bytes(size))
        sent_bytes += size
    last_s = now_s
    while (wake_at_s := lane.wake_at_s) is not None:
        assert wake_at_s >= now_s or wake_at_s >= (first_s or 0)
        last_s = max(last_s, wake_at_s)
        for chunk in lane.take_due(wake_at_s):
            chunk.act(chunk.payload)
    assert got == sorted(got)
    assert set(got) == set(range(len(sizes)))
    assert lane.held_bytes == 0
    assert lane.delivered_bytes_total == sent_bytes
    if first_s is not None:
        assert last_s >= first_s + delay_ms / 1e3 + sent_bytes / rate - 1e-6


OPS = st.lists(
    st.one_of(
        st.tuples(st.just("send"), st.binary(max_size=5_000)),
        st.tuples(st.just("wait_ms"), st.integers(0, 100)),
        st.tuples(st.just("cut"), st.none()),
        st.tuples(st.just("open"), st.none()),
        st.tuples(st.just("delay_ms"), st.integers(0, 300)),
        st.tuples(st.just("mbit_s"), st.sampled_from([0.1, 1.0, 1_000.0])),
    ),
    max_size=40,
)


@given(OPS)
@settings(max_examples=effort(300))
def test_lane_delivers_a_prefix_under_any_faults_and_everything_after_heal(
    ops: list[tuple[str, object]],
) -> None:
    lane = Lane(delay_s=0.02, bytes_per_s=125_000)
    sent, got = bytearray(), bytearray()
    now_s = 0.0
    figures = {"delay_s": 0.02, "bytes_per_s": 125_000.0, "is_cut": False}
    for op, value in ops:
        if op == "send":
            assert isinstance(value, bytes)
            sent += value
            lane.carry(now_s, got.extend, value)
        elif op == "wait_ms":
            assert isinstance(value, int)
            now_s += value / 1e3
        else:
            figures |= {
                "cut": {"is_cut": True},
                "open": {"is_cut": False},
                "delay_ms": {"delay_s": (value or 0) / 1e3},  # type: ignore[operator]
                "mbit_s": {"bytes_per_s": (value or 1) * 125_000},  # type: ignore[operator]
            }[op]
            lane.change(now_s, **figures)  # type: ignore[arg-type]
        due = lane.take_due(now_s)
        assert not (due and lane.is_cut)
        for chunk in due:
            chunk.act(chunk.payload)
        assert sent.startswith(got)
        assert lane.held_bytes == len(sent) - len(got)
    lane.change(now_s, **(figures | {"is_cut": False}))  # type: ignore[arg-type]
    for chunk in lane.take_due(now_s + 1e9):
        chunk.act(chunk.payload)
    assert got == sent


def test_lane_sends_what_a_cut_held_again_after_the_full_delay() -> None:
    lane = Lane(delay_s=0.1, bytes_per_s=1e6)
    lane.carry(0.0, lambda _data: None, b"x" * 1_000)
    lane.change(0.05, delay_s=0.1, bytes_per_s=1e6, is_cut=True)
    assert lane.wake_at_s is None
    lane.change(5.0, delay_s=0.1, bytes_per_s=1e6, is_cut=False)
    assert lane.wake_at_s == pytest.approx(5.101)


def test_lane_applies_a_new_rate_only_to_what_is_not_on_the_wire_yet() -> None:
    lane = Lane(delay_s=0.0, bytes_per_s=1_000.0)
    lane.carry(0.0, lambda _data: None, b"x" * 1_000)
    lane.change(0.5, delay_s=0.0, bytes_per_s=100.0, is_cut=False)
    assert lane.wake_at_s == pytest.approx(0.5 + 500 / 100)

"""Counts of demand in bins: sums stay, a bin that still counts is not told, restarts lose nothing."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from hanse.signals.demand_counts import DemandCount, DemandCounts, DemandKey


def key(origin: str = "lyon", service: str = "chat") -> DemandKey:
    return DemandKey(
        service=service, tenant="clinic", data_class="health", country="FR", origin=origin
    )


def count(requests: float, origin: str = "lyon") -> tuple[DemandCount, ...]:
    one = DemandCount(
        key=key(origin), requests=requests, tokens_in=100.0 * requests, tokens_out=20.0 * requests
    )
    return (one,)


def test_a_bin_that_still_counts_is_not_told() -> None:
    history = DemandCounts()
    history.add(600.0, count(30.0))
    history.add(899.0, count(30.0))
    assert history.requests_per_s(key(), 899.0).tolist() == []
    assert history.requests_per_s(key(), 900.0).tolist() == [0.2]
    assert history.requests_per_s(key(), 1500.0).tolist() == [0.2, 0.0, 0.0]
    assert history.tokens(key(), 900.0) == (100.0, 20.0)
    assert history.requests_per_s(key("unheard"), 900.0).tolist() == [0.0]


@given(
    st.lists(
        st.tuples(st.floats(0, 40 * 300), st.floats(0, 50), st.sampled_from(["lyon", "oslo"])),
        min_size=1,
        max_size=60,
    )
)
def test_what_was_counted_is_all_there_also_after_a_restart(
    events: list[tuple[float, float, str]],
) -> None:
    events = sorted(events)
    history = DemandCounts(keep_s=100 * 300.0)
    for at_s, requests, origin in events:
        history.add(at_s, count(requests, origin))
    again = DemandCounts.from_bytes(history.to_bytes())
    for origin in ("lyon", "oslo"):
        wanted = sum(requests for _, requests, where in events if where == origin)
        for kept in (history, again):
            rates = kept.requests_per_s(key(origin), 50 * 300.0)
            assert np.isclose(rates.sum() * 300.0, wanted)


def test_what_is_old_goes_and_the_axis_stays_true() -> None:
    history = DemandCounts(keep_s=10 * 300.0)
    for number in range(50):
        history.add(number * 300.0 + 1.0, count(float(number)))
    rates = history.requests_per_s(key(), 50 * 300.0)
    first = round(history.start_s / 300.0)
    assert 10 <= len(rates) <= 20
    assert (rates * 300.0).round(6).tolist() == [float(n) for n in range(first, 50)]
    history.add(0.0, count(5.0))  # long gone: dropped
    assert (history.requests_per_s(key(), 50 * 300.0) == rates).all()


def test_nothing_heard_is_not_nothing_asked() -> None:
    history = DemandCounts()
    history.add(600.0, count(30.0), "lyon", 10.0)
    history.add(1_200.0, (), "lyon", 10.0)  # nobody asked; from 900 to 1190 it was cut off
    history.add(1_800.0, count(60.0, "oslo"))
    for kept in (history, DemandCounts.from_bytes(history.to_bytes())):
        rates = kept.requests_per_s(key(), 2_100.0)
        np.testing.assert_array_equal(rates, [0.1, 0.0, 0.0, np.nan, np.nan])
        assert kept.requests_per_s(key("oslo"), 2_100.0).tolist() == [0.0, 0.0, 0.0, 0.0, 0.2]
        assert kept.heard_until_s("lyon") == 1_500.0


def test_marks_of_who_was_heard_move_with_the_axis() -> None:
    history = DemandCounts(keep_s=10 * 300.0)
    for number in range(50):
        told = count(6.0) if number % 2 else ()
        history.add(number * 300.0 + 20.0, told, "lyon", 10.0)
    history.add(52 * 300.0, (), "lyon")
    first = round(history.start_s / 300.0)
    rates = history.requests_per_s(key(), 53 * 300.0)
    wanted = [
        np.nan if n in (50, 51) else 0.02 * (n % 2 if n < 50 else 0) for n in range(first, 53)
    ]
    np.testing.assert_allclose(rates, wanted)


def test_one_report_from_far_ahead_drops_nothing() -> None:
    history = DemandCounts(keep_s=10 * 300.0)
    for number in range(8):
        history.add(number * 300.0, count(3.0))
    before = history.requests_per_s(key(), 8 * 300.0)
    history.add(4e9, count(1.0), "lyon")
    np.testing.assert_array_equal(history.requests_per_s(key(), 8 * 300.0), before)
    history.add(8 * 300.0, count(3.0))
    assert history.requests_per_s(key(), 9 * 300.0)[-1] == 0.01

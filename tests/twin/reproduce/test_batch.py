"""Batch policies: small days by hand, slot-by-slot oracles, and what every schedule keeps."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from hanse.errors import ConfigError
from hanse.twin.reproduce import batch
from hanse.twin.reproduce.batch import SLOTS_PER_HOUR, Jobs, Pieces, Signal
from hanse.twin.reproduce.gaia import POLICIES, jobs_of, outcomes

H = SLOTS_PER_HOUR


def job(arrival: int, length: int, wait: int, expected: int | None = None, cpus: int = 1) -> Jobs:
    one = {"arrival": arrival, "length": length, "cpus": cpus, "wait_max": wait}
    one["expected"] = length if expected is None else expected
    return Jobs(**{name: np.array([value], np.int64) for name, value in one.items()})


def signal(*hourly: float) -> Signal:
    return Signal(np.array(hourly, float))


def spans(pieces: Pieces) -> list[tuple[int, int]]:
    return list(zip(pieces.start.tolist(), (pieces.start + pieces.length).tolist(), strict=True))


DAY = signal(9, 8, 1, 5, 2, 3, 7, 7, 7, 7)
"""Lowest in hour 2, lowest two hours together are 4 and 5."""


def test_run_at_once_starts_on_arrival() -> None:
    found = batch.at_once(job(H // 2, 2 * H, 5 * H), DAY)
    assert spans(found) == [(H // 2, H // 2 + 2 * H)]


def test_lowest_slot_starts_at_the_full_hour_of_least_intensity() -> None:
    assert spans(batch.lowest_slot(job(H // 2, 2 * H, 5 * H), DAY)) == [(2 * H, 4 * H)]
    # Half an hour of patience ends at hour 1 exactly, which still counts.
    assert spans(batch.lowest_slot(job(H // 2, 2 * H, H // 2), DAY)) == [(H, 3 * H)]
    assert spans(batch.lowest_slot(job(H // 2, 2 * H, H // 2 - 1), DAY)) == [
        (H // 2, H // 2 + 2 * H)
    ]


def test_lowest_window_counts_hours_from_arrival_and_looks_at_the_expected_length() -> None:
    # Two hours from 4 cost 2 + 3; one hour alone is cheapest at 2.
    assert spans(batch.lowest_window(job(0, 2 * H, 6 * H), DAY)) == [(4 * H, 6 * H)]
    assert spans(batch.lowest_window(job(0, 2 * H, 6 * H, H), DAY)) == [(2 * H, 4 * H)]
    # From half past, one hour costs 8.5, 4.5, 3, 3.5, 2.5, 5: least after four hours.
    assert spans(batch.lowest_window(job(H // 2, H, 5 * H), DAY)) == [
        (H // 2 + 4 * H, H // 2 + 5 * H)
    ]


def test_saving_per_wait_prefers_a_smaller_saving_sooner() -> None:
    # One hour from 0: savings 1, 8, 4, 7, 6 over ends at 2, 3, 4, 5, 6 h: 8 / 3 is best.
    assert spans(batch.saving_per_wait(job(0, H, 6 * H), DAY)) == [(2 * H, 3 * H)]
    # Two hours (cost 17): 8/3, 11/4, 10/5, 12/6: the window of least carbon loses to the earlier one.
    assert spans(batch.saving_per_wait(job(0, 2 * H, 6 * H), DAY)) == [(2 * H, 4 * H)]


def test_saving_per_wait_starts_at_once_where_waiting_saves_nothing() -> None:
    assert spans(batch.saving_per_wait(job(0, H, 3 * H), signal(1, 2, 3, 4))) == [(0, H)]
    assert spans(batch.saving_per_wait(job(0, H, 3 * H), signal(2, 2, 2, 2))) == [(0, H)]


def test_the_oracle_takes_the_cleanest_slots_and_the_earlier_of_equals() -> None:
    found = batch.cleanest_slots(job(0, 2 * H + H // 2, 4 * H), DAY)
    assert spans(found) == [(2 * H, 3 * H), (4 * H, 5 * H + H // 2)]
    even = batch.cleanest_slots(job(0, H, 2 * H), signal(3, 3, 3))
    assert spans(even) == [(0, H)]


def test_threshold_waits_for_the_cleanest_third_of_the_day_and_then_runs_on() -> None:
    # 30 % of ten hours: rank 0.3 (10 H - 1) is 0.7 of the way from the last slot at 3 to the first at 5.
    assert batch.day_ahead_quantile(DAY, 0) == pytest.approx(4.4)
    # Below it are hours 2, 4 and 5.
    found = batch.below_threshold(job(0, 3 * H, 4 * H), DAY)
    assert spans(found) == [(2 * H, 3 * H), (4 * H, 6 * H)]
    # Hours 0, 1 and 3 use up three hours of patience: the rest runs on at 7.
    found = batch.below_threshold(job(0, 4 * H, 3 * H), DAY)
    assert spans(found) == [(2 * H, 3 * H), (4 * H, 7 * H)]
    # With one hour of patience it is spent by hour 1.
    assert spans(batch.below_threshold(job(0, 3 * H, H), DAY)) == [(H, 4 * H)]


def test_carbon_is_watt_hours_times_intensity() -> None:
    jobs = job(0, 2 * H, 0, cpus=3)
    found = batch.outcome(jobs, batch.at_once(jobs, DAY), DAY)
    assert found.carbon_g == pytest.approx(3 * (9 + 8) / 1000)


def test_waiting_by_pieces_and_delay_by_jobs() -> None:
    jobs = job(0, 2 * H, 4 * H)
    found = batch.outcome(jobs, batch.cleanest_slots(jobs, DAY), DAY)
    assert found.pieces == 2
    assert found.wait_h_per_piece == pytest.approx((2 + 4) / 2)
    assert found.delay_h_per_job == pytest.approx(5 - 2)


def test_jobs_in_one_piece_start_at_once_where_their_start_was_counted_from_arrival() -> None:
    jobs = Jobs(
        arrival=np.array([H, 0]),
        length=np.array([H, 2 * H]),
        cpus=np.array([1, 1]),
        wait_max=np.array([3 * H, 4 * H]),
        expected=np.array([H, H]),
    )
    planned = batch.cleanest_slots(jobs, DAY)
    assert spans(planned) == [(2 * H, 3 * H), (2 * H, 3 * H), (4 * H, 5 * H)]
    found = batch.whole_ones_at_once(jobs, planned)
    assert spans(found) == [(H, 2 * H), (2 * H, 3 * H), (4 * H, 5 * H)]


def test_a_job_of_two_hours_is_long_and_counts_into_both_means() -> None:
    seconds = np.array([3600.0, 7200.0, 14_404.0])
    jobs = jobs_of(np.array([7.0, 0.0, 0.0]), seconds, np.array([1.0, 2.0, 1.0]))
    assert jobs.arrival.tolist() == [1, 0, 0]
    assert jobs.length.tolist() == [720, 1440, 2880]
    assert jobs.wait_max.tolist() == [6 * H, 24 * H, 24 * H]
    # (720 + 1440) / 2 and (1440 + 2880.8) / 2, cut down.
    assert jobs.expected.tolist() == [1080, 2160, 2160]


def test_a_signal_that_ends_before_the_last_job_is_refused() -> None:
    with pytest.raises(ConfigError, match="carbon signal"):
        outcomes(job(0, H, 10 * H), DAY)


SIGNALS = st.lists(st.integers(1, 6), min_size=40, max_size=40).map(
    lambda hours: Signal(np.array(hours, float))
)
JOBS = st.lists(
    st.tuples(
        st.integers(0, 5 * H), st.integers(1, 9 * H), st.integers(0, 24 * H), st.integers(1, 9 * H)
    ),
    min_size=1,
    max_size=4,
).map(
    lambda rows: Jobs(
        **dict(zip(("arrival", "length", "wait_max", "expected"), np.array(rows).T, strict=True)),
        cpus=np.arange(1, len(rows) + 1),
    )
)


def by_slot(one: Signal) -> NDArray[np.float64]:
    return np.repeat(one.hourly, H)


def ran(pieces: Pieces, owner: int, slots: int) -> NDArray[np.bool_]:
    """Whether a job runs in each slot; pieces of a job must not overlap."""
    found = np.zeros(slots, int)
    for start, end in (
        s for s, o in zip(spans(pieces), pieces.job.tolist(), strict=True) if o == owner
    ):
        found[start:end] += 1
    assert found.max() <= 1
    return found.astype(bool)


@given(SIGNALS, JOBS)
def test_every_policy_runs_each_job_for_its_length_within_its_limits(
    one: Signal, jobs: Jobs
) -> None:
    latest = jobs.arrival + jobs.wait_max + jobs.length
    for policy in POLICIES.values():
        pieces = policy(jobs, one)
        assert (np.bincount(pieces.job, pieces.length) == jobs.length).all()
        assert (pieces.length > 0).all()
        assert (pieces.start >= jobs.arrival[pieces.job]).all()
        assert (pieces.start + pieces.length <= latest[pieces.job]).all()
        for owner in range(len(jobs.arrival)):
            ran(pieces, owner, one.slots)


@given(SIGNALS, JOBS)
def test_no_policy_emits_less_than_the_oracle(one: Signal, jobs: Jobs) -> None:
    found = outcomes(jobs, one)
    least = found["suspend-resume oracle"].carbon_g
    assert all(least <= other.carbon_g + 1e-9 for other in found.values())
    assert found["run at once"].delay_h_per_job == 0.0


@given(SIGNALS, JOBS)
def test_the_oracle_is_the_sum_of_the_cheapest_slots(one: Signal, jobs: Jobs) -> None:
    pieces = batch.cleanest_slots(jobs, one)
    for i, (begin, length) in enumerate(zip(jobs.arrival, jobs.length, strict=True)):
        window = by_slot(one)[begin : begin + length + jobs.wait_max[i]]
        earliest_first = np.argsort(window, kind="stable")[:length]
        assert (np.flatnonzero(ran(pieces, i, one.slots)) == np.sort(earliest_first) + begin).all()


@given(SIGNALS, JOBS)
def test_threshold_equals_a_walk_over_slots(one: Signal, jobs: Jobs) -> None:
    pieces, intensity = batch.below_threshold(jobs, one), by_slot(one)
    for i, begin in enumerate(jobs.arrival.tolist()):
        limit = np.quantile(intensity[begin : begin + 24 * H], 0.3)
        assert batch.day_ahead_quantile(one, begin) == pytest.approx(limit)
        left, patience, slot, expected = int(jobs.length[i]), int(jobs.wait_max[i]), begin, []
        while left:
            if intensity[slot] < limit or patience == 0:
                expected.append(slot)
                left -= 1
            else:
                patience -= 1
            slot += 1
        assert np.flatnonzero(ran(pieces, i, one.slots)).tolist() == expected


@given(SIGNALS, JOBS)
def test_windows_are_the_least_of_those_looked_at(one: Signal, jobs: Jobs) -> None:
    intensity = by_slot(one)
    window, rate = batch.lowest_window(jobs, one), batch.saving_per_wait(jobs, one)
    for i, begin in enumerate(jobs.arrival.tolist()):
        expected = int(jobs.expected[i])
        waits = list(range(0, int(jobs.wait_max[i]) + 1, H))
        cost = [intensity[begin + w : begin + w + expected].sum() for w in waits]
        assert window.start[i] - begin == waits[int(np.argmin(cost))]
        rates = [(cost[0] - c) / (w + expected) for c, w in zip(cost, waits, strict=True)]
        assert rate.start[i] - begin == waits[int(np.argmax(rates))]


@given(SIGNALS, JOBS)
def test_lowest_slot_is_the_first_of_the_lowest(one: Signal, jobs: Jobs) -> None:
    found = batch.lowest_slot(jobs, one)
    for i, begin in enumerate(jobs.arrival.tolist()):
        within = by_slot(one)[begin : begin + int(jobs.wait_max[i]) + 1]
        assert found.start[i] - begin == int(np.argmin(within))


@given(SIGNALS, st.integers(0, 39 * H), st.integers(0, H))
def test_sums_over_stretches_are_sums_over_slots(one: Signal, start: int, length: int) -> None:
    found = one.over(np.array([start]), np.array([length]))
    assert found[0] == by_slot(one)[start : start + length].sum()

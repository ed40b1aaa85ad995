from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hanse.plan.demand import HOURS, demand_of, levelled_peak
from plan import hand

DAYS = st.lists(st.floats(0.0, 10.0), min_size=HOURS, max_size=HOURS).filter(lambda d: sum(d) > 1)


def works_off(day: np.ndarray, capacity: float, slack_h: int) -> bool:
    """Whether a queue, first come first served, never holds work older than its slack: three days, hour by hour in small steps."""
    parts = 20
    arrivals = np.repeat(np.tile(day, 4), parts) / parts
    done = arrived = 0.0
    history = [0.0]
    for n, came in enumerate(arrivals):
        arrived += came
        history.append(arrived)
        done = min(arrived, done + capacity / parts)
        due = n + 1 - slack_h * parts
        if due >= 0 and done < history[due] - 1e-6:
            return False
    return True


@given(DAYS, st.integers(0, 30))
def test_the_levelled_peak_is_the_least_capacity_that_meets_the_slack(day, slack_h):
    shape = np.array(day)
    peak = levelled_peak(shape, slack_h) * shape.mean()
    assert works_off(shape, peak * 1.0001, slack_h)
    if slack_h < 24 and peak > shape.mean() * 1.001:
        assert not works_off(shape, peak * 0.99, slack_h)


@given(DAYS, st.floats(0.0, 30.0), st.floats(0.0, 10.0))
def test_more_slack_never_needs_more(day, slack_h, more_h):
    shape = np.array(day)
    assert levelled_peak(shape, slack_h + more_h) <= levelled_peak(shape, slack_h) + 1e-9
    assert levelled_peak(shape, slack_h) >= 1.0 - 1e-9


def test_rows_sum_to_what_is_asked_and_peak_by_local_time():
    study = hand.study()
    demand = demand_of(study)
    assert demand.tokens_per_s.sum() == pytest.approx(3e10 / 86_400)
    assert demand.day.mean(axis=1) == pytest.approx(1.0)
    assert demand.peak[demand.workload == 0] == pytest.approx(1.456, rel=1e-3)
    assert (demand.peak[demand.workload == 1] < 1.2).all()

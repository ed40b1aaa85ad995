"""Quantiles of histograms, and intervals of few values."""

from __future__ import annotations

import math
import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hanse.twin.arrays import BINS
from hanse.twin.books import bin_of
from hanse.twin.quantiles import mean_and_half_width, quantile_ms, t_975

times_ms = st.floats(0.11, 9e5)


@given(values=st.lists(times_ms, min_size=1, max_size=200), share=st.floats(0.01, 1.0))
def test_a_quantile_errs_by_at_most_one_percent(values: list[float], share: float) -> None:
    counts = np.bincount([bin_of(v) for v in values], minlength=BINS)
    exact = sorted(values)[max(1, math.ceil(share * len(values))) - 1]
    found = quantile_ms(counts, share)
    assert found == pytest.approx(exact, rel=0.01)


def test_of_nothing_there_is_no_quantile() -> None:
    assert quantile_ms(np.zeros(BINS, np.int64), 0.5) is None


@pytest.mark.parametrize(
    ("freedom", "published"),
    [
        (1, 12.7062),
        (4, 2.7764),
        (10, 2.2281),
        (30, 2.0423),
        (40, 2.0211),
        (60, 2.0003),
        (120, 1.9799),
    ],
)
def test_students_t_is_that_of_the_tables(freedom: int, published: float) -> None:
    assert t_975(freedom) == pytest.approx(published, abs=1e-4)


@given(values=st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=30))
def test_an_interval_is_students(values: list[float]) -> None:
    mean, half = mean_and_half_width(values)
    assert half is not None
    expected = t_975(len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    assert mean == pytest.approx(statistics.fmean(values), abs=1e-6)
    assert half == pytest.approx(expected, rel=1e-6, abs=1e-6)


def test_a_single_value_has_no_interval() -> None:
    assert mean_and_half_width([3.0]) == (3.0, None)

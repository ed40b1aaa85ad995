import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hanse.plan.days import HOURS, typical_days


@given(st.integers(0, 2**32), st.integers(2, 12), st.integers(12, 60))
def test_days_stand_for_the_whole_year_and_extremes_for_themselves(
    seed: int, count: int, days: int
) -> None:
    rng = np.random.default_rng(seed)
    series = rng.random((3, days * HOURS))
    extreme = int(rng.integers(0, days))
    found = typical_days(series, count, [extreme])
    assert len(found.day) == count == len(set(found.day.tolist()))
    assert found.weight.sum() == days and (found.weight >= 1).all()
    assert found.weight[found.day == extreme] == [1.0]
    assert (found.stands_in[found.day] == np.arange(count)).all(), "a chosen day stands for itself"
    again = typical_days(series, count, [extreme])
    assert (again.day == found.day).all()


def test_kinds_of_days_are_found(rng: np.random.Generator) -> None:
    kinds = rng.random((4, HOURS)) * 10
    order = np.repeat(np.arange(4), [20, 10, 5, 1])
    series = (kinds[order] + rng.normal(0, 0.01, (36, HOURS))).reshape(1, -1)
    found = typical_days(series, 4, [35])
    assert sorted(order[found.day]) == [0, 1, 2, 3]
    assert sorted(found.weight) == [1, 5, 10, 20]


def test_a_quantity_that_never_changes_tells_no_days_apart(rng: np.random.Generator) -> None:
    series = rng.random((1, 30 * HOURS))
    with_flat = np.concatenate([series, np.full((1, 30 * HOURS), 7.0)])
    assert (typical_days(with_flat, 5, [3]).day == typical_days(series, 5, [3]).day).all()


def test_more_days_than_there_are_is_a_bug_of_the_caller(rng: np.random.Generator) -> None:
    with pytest.raises(AssertionError):
        typical_days(rng.random((1, 5 * HOURS)), 6, [0])

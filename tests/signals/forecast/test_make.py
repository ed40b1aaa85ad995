"""Forecasts know nothing later than their issue, are the same in any company, and beat what they are measured against."""

from __future__ import annotations

import typing

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from effort import effort
from hanse.errors import FeedError
from hanse.signals.forecast import Method, forecast, many, many_told
from signals.forecast.histories import MONDAY_S, history, with_values

METHODS: tuple[Method, ...] = typing.get_args(Method)
HOUR_S = 3600.0


@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=effort(25))
@given(hours=st.floats(1.0, 59.0 * 24.0), seed=st.integers(0, 5), later=st.floats(-1e4, 1e4))
def test_nothing_dated_at_or_after_issue_changes_a_forecast(
    method: Method, hours: float, seed: int, later: float
) -> None:
    issued_at_s = MONDAY_S + hours * HOUR_S
    whole = history(60, seed=seed)
    known = int((issued_at_s - MONDAY_S) // HOUR_S)
    values = whole.values.copy()
    values[known:] = later
    before = forecast(whole, issued_at_s, steps=30, method=method)
    assert forecast(with_values(values), issued_at_s, steps=30, method=method) == before
    cut = with_values(whole.values[:known])
    assert forecast(cut, issued_at_s, steps=30, method=method) == before


@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=effort(10))
@given(
    picked=st.lists(st.floats(1.0, 59.0 * 24.0), min_size=1, max_size=20), seed=st.integers(0, 5)
)
def test_many_equal_one_by_one_bit_for_bit(method: Method, picked: list[float], seed: int) -> None:
    made = history(60, seed=seed)
    issued = [MONDAY_S + hours * HOUR_S for hours in picked]
    batch = many(made, issued, steps=49, method=method)
    for i, issued_at_s in enumerate(issued):
        one = forecast(made, issued_at_s, steps=49, method=method)
        assert one == batch.one(i)


@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=effort(25))
@given(
    days=st.floats(0.05, 40.0),
    step_s=st.sampled_from([600.0, 1800.0, 3600.0]),
    steps=st.integers(1, 300),
    signal=st.sampled_from(["average_location", "price", "demand"]),
    seed=st.integers(0, 3),
)
def test_any_history_of_a_step_or_more_gives_finite_figures(
    method: Method, days: float, step_s: float, steps: int, signal: typing.Any, seed: int
) -> None:
    made = history(days, step_s=step_s, seed=seed, signal=signal, quantity=signal)
    found = forecast(made, made.until_s, steps=steps, method=method)
    assert len(found.mean) == len(found.high) == steps
    assert np.isfinite(found.mean).all() and np.isfinite(found.high).all()
    assert all(high >= mean for high, mean in zip(found.high, found.mean, strict=True))
    if signal != "price":
        assert min(found.mean) >= 0.0


def test_the_first_step_is_the_one_that_holds_the_instant() -> None:
    made = history(10)
    found = forecast(made, MONDAY_S + 100.25 * HOUR_S, steps=5)
    assert found.start_s == MONDAY_S + 100 * HOUR_S
    assert found.issued_at_s == MONDAY_S + 100.25 * HOUR_S
    assert found.until_s == found.start_s + 5 * HOUR_S


def test_gaps_take_the_value_of_the_day_before() -> None:
    whole = history(40, seed=2)
    gaps = whole.values.copy()
    gaps[500:530] = np.nan
    gaps[-3:] = np.nan
    found = forecast(with_values(gaps), whole.until_s, steps=48)
    plain = forecast(whole, whole.until_s, steps=48)
    assert np.isfinite(found.mean).all()
    assert np.abs(np.subtract(found.mean, plain.mean)).mean() < 25.0


def test_a_pure_day_is_forecast_exactly() -> None:
    hours = np.arange(60 * 24)
    made = with_values(200.0 + 50.0 * np.sin(2.0 * np.pi * hours / 24.0))
    found = forecast(made, made.until_s, steps=48)
    ahead = 200.0 + 50.0 * np.sin(2.0 * np.pi * (hours[-1] + 1 + np.arange(48)) / 24.0)
    assert np.abs(np.subtract(found.mean, ahead)).max() < 0.5


@pytest.mark.parametrize("signal", ["average_location", "demand"])
def test_the_shipped_method_beats_every_plain_one_and_its_high_holds_nineteen_of_twenty(
    signal: typing.Any,
) -> None:
    made = history(200, seed=3, signal=signal, quantity=signal)
    index = np.arange(60 * 24, 198 * 24)
    truth = made.values[index[:, None] + np.arange(48)]
    error: dict[str, float] = {}
    for method in METHODS:
        batch = many(made, MONDAY_S + index * HOUR_S, steps=48, method=method)
        error[method] = float(np.abs(batch.mean - truth).mean())
        if method == "blend":
            assert 0.92 <= (truth <= batch.high).mean() <= 0.98
    assert error["blend"] < 0.95 * min(e for m, e in error.items() if m != "blend")


def test_an_instant_before_the_first_step_ended_is_refused() -> None:
    made = history(3)
    for wrong_s in (MONDAY_S - 1.0, MONDAY_S + 1.0, made.until_s + 2.0 * HOUR_S):
        with pytest.raises(FeedError, match="longer history"):
            forecast(made, wrong_s, steps=5)


@pytest.mark.parametrize("missing", [0, 1, 3])
def test_of_hours_not_told_yet_nothing_is_made_up(missing: int) -> None:
    whole = history(60)
    now_s = whole.until_s - 600.0
    ended = len(whole.values) - 1
    early = with_values(whole.values[: ended - missing])
    gaps = with_values(np.where(np.arange(ended + 1) < ended - missing, whole.values, np.nan))
    told = forecast(early, now_s - missing * 3600.0, steps=24 + missing)
    for series in (early, gaps):
        found = many_told(series, [now_s], steps=24).one(0)
        assert found.mean == told.mean[missing:] and found.high == told.high[missing:]
        assert found.expected_error == told.expected_error[missing:]
        assert (found.issued_at_s, found.start_s) == (now_s, whole.until_s - 3600.0)


def test_of_several_instants_each_has_its_own_last_hour_told() -> None:
    whole = history(60)
    instants = [whole.until_s + h * 3600.0 for h in (-200.0, -1.0, 0.0, 2.0, 90.0)]
    found = many_told(whole, instants, steps=24)
    for i, now_s in enumerate(instants):
        assert found.one(i) == many_told(whole, [now_s], steps=24).one(0)
    ended = many(whole, instants[:3], steps=24)
    assert [ended.one(i) for i in range(3)] == [found.one(i) for i in range(3)]

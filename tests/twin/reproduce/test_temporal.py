"""Four hours within a day: starts by hand, no foresight in a forecast's decision, published figures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from effort import effort
from hanse.signals.series import Series
from hanse.twin.reproduce import reproduce
from hanse.twin.reproduce.temporal import (
    BEGIN_2022_S,
    LENGTH_H,
    STARTS,
    best_starts,
    forecast_starts,
    saved,
    suspended_hours,
)

seeds = st.integers(0, 1000)


def drawn(seed: int, hours: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(1, 500, hours).astype(float)


@settings(max_examples=effort(20), deadline=None)
@given(seed=seeds)
def test_best_starts_are_those_of_plain_search(seed: int) -> None:
    hourly = drawn(seed, 60)
    for job, start in enumerate(best_starts(hourly, np.arange(30)).tolist()):
        costs = [hourly[s : s + LENGTH_H].sum() for s in range(job, job + STARTS)]
        assert hourly[start : start + LENGTH_H].sum() == min(costs)
        assert job <= start < job + STARTS


@settings(max_examples=effort(20), deadline=None)
@given(seed=seeds)
def test_with_perfect_forecasts_waiting_finds_the_best_and_suspending_the_cleanest_hours(
    seed: int,
) -> None:
    hourly = drawn(seed, 80)
    jobs = np.arange(30)
    perfect = np.lib.stride_tricks.sliding_window_view(hourly, 24)
    np.testing.assert_array_equal(forecast_starts(perfect, jobs, 0), best_starts(hourly, jobs))
    ran = hourly[suspended_hours(perfect, jobs, 0)].sum(axis=1)
    expected = [np.sort(hourly[j : j + 24])[:LENGTH_H].sum() for j in jobs.tolist()]
    np.testing.assert_allclose(ran, expected)


@settings(max_examples=effort(20), deadline=None)
@given(seed=seeds)
def test_every_job_starts_in_time_whatever_is_forecast(seed: int) -> None:
    forecasts = drawn(seed, 24 * 70).reshape(70, 24)
    jobs = np.arange(40)
    start = forecast_starts(forecasts, jobs, 0)
    assert ((start >= jobs) & (start < jobs + STARTS)).all()
    hours = suspended_hours(forecasts, jobs, 0)
    assert (np.diff(hours, axis=1) > 0).all()
    assert (hours[:, 0] >= jobs).all() and (hours[:, -1] < jobs + 24).all()


def test_a_decision_does_not_know_the_hours_after_it() -> None:
    first = 24 * 100
    hourly = (
        300.0 + 100.0 * np.sin(np.arange(24 * 110) / 24.0 * 2.0 * np.pi) + drawn(1, 24 * 110) / 9.0
    )
    other = hourly.copy()
    change = first + 9
    other[change:] = drawn(2, len(hourly) - change)
    from hanse.signals.forecast.by_hour import day_ahead

    starts = []
    for values in (hourly, other):
        one = series(values)
        issued_s = one.start_s + 3600.0 * np.arange(first, first + 60)
        starts.append(forecast_starts(day_ahead(one, issued_s), np.arange(first, first + 9), first))
    decided = starts[0] <= change
    np.testing.assert_array_equal(decided, starts[1] <= change)
    np.testing.assert_array_equal(starts[0][decided], starts[1][decided])


def series(values: np.ndarray) -> Series:
    return Series(
        start_s=BEGIN_2022_S, step_s=3600.0, values=values, quantity="carbon_intensity",
        unit="gCO2e/kWh", signal="average_location", zone="made up", source="made up", licence="-",
    )  # fmt: skip


def test_perfect_foresight_saves_most() -> None:
    hourly = (
        300.0 + 100.0 * np.sin(np.arange(24 * 120) / 24.0 * 2.0 * np.pi) + drawn(1, 24 * 120) / 9.0
    )
    found = saved(series(hourly), 24 * 100, 24 * 20)
    assert found.perfect >= found.forecast > 0.5 * found.perfect


@pytest.mark.long
def test_published_figures_and_nine_tenths_of_them_with_forecasts(data: Path) -> None:
    found = reproduce("temporal-shift", data)
    assert found.agrees
    shares = {one.name: one.ours for one in found.rows if one.name.endswith("with forecasts")}
    assert shares["2023: mean with forecasts"] >= 90.0
    assert shares["2024: mean with forecasts"] >= 90.0

"""The second opinion on a day: it looks back only, and each issue is the same alone or among others."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from hanse.errors import FeedError
from hanse.signals.forecast import many
from hanse.signals.forecast.by_hour import day_ahead
from hanse.signals.series import Series

START_S = 1_672_531_200.0
HOURS = 24 * 150


def series(values: np.ndarray) -> Series:
    return Series(
        start_s=START_S, step_s=3600.0, values=values, quantity="carbon_intensity", unit="gCO2e/kWh",
        signal="average_location", zone="made up", source="made up", licence="-",
    )  # fmt: skip


def made(seed: int = 0) -> np.ndarray:
    """A day's wave that clouds come over, and an hour's memory."""
    rng = np.random.default_rng(seed)
    hours = np.arange(HOURS)
    wave = np.sin(2.0 * np.pi * hours / 24.0) * (1.0 + 0.3 * np.sin(hours / 61.0))
    noise = np.zeros(HOURS)
    for i in range(1, HOURS):
        noise[i] = 0.9 * noise[i - 1] + rng.normal(0.0, 12.0)
    return 300.0 + 100.0 * wave + noise


def test_the_future_changes_no_forecast() -> None:
    values = made()
    issue = np.array([24 * 100 + 5, 24 * 130 + 17])
    issued_s = START_S + issue * 3600.0
    found = day_ahead(series(values.copy()), issued_s)
    for row, i in enumerate(issue.tolist()):
        other = values.copy()
        other[i:] = np.random.default_rng(1).uniform(0.0, 900.0, HOURS - i)
        again = day_ahead(series(other), issued_s[row : row + 1])
        np.testing.assert_array_equal(again[0], found[row])


def test_it_errs_less_than_the_last_day() -> None:
    values = made()
    issue = np.arange(24 * 100, HOURS - 24)
    found = day_ahead(series(values), START_S + issue * 3600.0)
    actual = values[issue[:, None] + np.arange(24)]
    last = values[issue[:, None] - 24 + np.arange(24)]
    assert np.abs(found - actual).mean() < 0.8 * np.abs(last - actual).mean()


def test_a_young_history_has_the_shipped_method_alone() -> None:
    one = series(made())
    issued_s = START_S + 3600.0 * np.array([24.0 * 20.0])
    shipped = np.maximum(many(one, issued_s, steps=24).mean, 0.0)
    np.testing.assert_array_equal(day_ahead(one, issued_s), shipped)


def test_other_steps_than_hours_are_refused() -> None:
    with pytest.raises(FeedError, match="hours"):
        day_ahead(
            msgspec.structs.replace(series(made()), step_s=1800.0), np.array([START_S + 86400.0])
        )


def test_prices_may_fall_below_nothing_and_carbon_may_not() -> None:
    issued_s = START_S + 3600.0 * np.arange(24 * 100, 24 * 130)
    carbon = series(made() - 300.0)
    price = msgspec.structs.replace(carbon, quantity="price_usd_per_kwh", signal="price")
    assert day_ahead(carbon, issued_s).min() == 0.0
    assert day_ahead(price, issued_s).min() < -50.0

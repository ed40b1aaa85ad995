"""Capital as a yearly cost."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hanse.plan.capital import book, recovery_factor

RATES = st.floats(0.0, 0.5)
LIVES = st.floats(1.0, 60.0)


def units(*by_year: float) -> np.ndarray:
    return np.array(by_year).reshape(1, -1, 1)


def test_the_factor_is_the_textbook_one() -> None:
    """r (1 + r)^n / ((1 + r)^n - 1) at 8 % over 10 years is 0.149029."""
    found = recovery_factor(np.array([0.08, 0.0]), np.array([10.0, 4.0]))
    assert found == pytest.approx([0.149029, 0.25], abs=1e-6)


@given(rate=RATES, life=st.integers(1, 60))
def test_payments_over_the_life_are_worth_the_price(rate: float, life: int) -> None:
    paid = recovery_factor(np.array(rate), np.array(float(life)))
    worth = sum(paid / (1.0 + rate) ** year for year in range(1, life + 1))
    assert worth == pytest.approx(1.0, rel=1e-9)


@given(rate=st.floats(0.0, 1e-9), life=LIVES)
def test_without_interest_capital_costs_its_part_of_a_life(rate: float, life: float) -> None:
    assert recovery_factor(np.array(rate), np.array(life)) == pytest.approx(1.0 / life, rel=1e-6)


def test_a_staged_build_pays_only_for_what_stands_at_the_price_of_its_year() -> None:
    price = units(100.0, 90.0, 80.0)
    found = book(units(1.0, 3.0, 3.0), price, units(10.0))
    assert found.ravel() == pytest.approx([100.0, 100.0 + 2 * 90.0, 280.0])


def test_what_is_worn_out_is_bought_again_at_the_price_of_then() -> None:
    price = units(100.0, 90.0, 80.0, 70.0)
    found = book(units(1.0, 1.0, 2.0, 2.0), price, units(1.5))
    # The first lasts until year 2 (age 2 >= 1.5), and so on: year 2 buys two at 80.
    assert found.ravel() == pytest.approx([100.0, 100.0, 160.0, 160.0])


def test_what_is_given_up_leaves_all_vintages_alike() -> None:
    price = units(100.0, 50.0, 10.0)
    found = book(units(2.0, 4.0, 1.0), price, units(10.0))
    assert found.ravel() == pytest.approx([200.0, 300.0, 75.0])


@given(
    stands=st.lists(st.floats(0.0, 100.0), min_size=1, max_size=8),
    life=LIVES,
    price=st.floats(0.0, 1000.0),
)
def test_at_a_constant_price_value_is_what_stands_times_price(
    stands: list[float], life: float, price: float
) -> None:
    found = book(units(*stands), units(*[price] * len(stands)), units(life))
    assert found.ravel() == pytest.approx(np.array(stands) * price, rel=1e-9, abs=1e-6)


def test_draws_do_not_mix() -> None:
    stands = np.array([[[1.0, 2.0], [2.0, 1.0]]])
    life = np.array([[[1.0, 10.0]]])
    found = book(stands, units(100.0, 50.0), life)
    assert found[0, :, 0] == pytest.approx([100.0, 100.0])
    assert found[0, :, 1] == pytest.approx([200.0, 100.0])

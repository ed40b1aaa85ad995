"""Numbers as people read them."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hanse.web.figures import (
    MISSING,
    age,
    clock,
    count,
    moment,
    number,
    power,
    rough,
    scale_for,
    stamp,
)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (0.000123456, "0.000123"),
        (0.25, "0.250"),
        (1.2345, "1.23"),
        (41.04, "41.0"),
        (999.7, "1,000"),
        (21_452.3, "21,452"),
        (None, MISSING),
        (math.nan, MISSING),
        (math.inf, MISSING),
    ],
)
def test_a_number_shows_three_significant_digits(value: float | None, text: str) -> None:
    assert number(value) == text


@given(st.floats(min_value=1e-9, max_value=1e9))
def test_a_number_is_within_half_a_percent_of_its_value_and_has_no_exponent(value: float) -> None:
    text = number(value)
    assert "e" not in text
    assert float(text.replace(",", "")) == pytest.approx(value, rel=0.0051)


@given(
    st.sampled_from(["Wh", "gCO2e", "USD", "USD total"]),
    st.lists(st.floats(min_value=0, max_value=1e6), max_size=4),
)
def test_the_largest_value_of_a_row_is_at_least_one_unit_unless_the_units_run_out(
    quantity: str, values: list[float]
) -> None:
    scale = scale_for(values, quantity)
    largest = max(values, default=0.0)
    smallest_unit = scale_for([1e-30], quantity)
    assert largest == 0.0 or largest * scale.factor >= 1.0 or scale == smallest_unit


def test_a_scale_ignores_what_is_missing() -> None:
    scale = scale_for([None, math.nan, 0.004], "Wh")
    assert (scale.unit, scale.show(0.004), scale.show(None)) == ("mWh", "4.00", MISSING)


def test_sentences_get_two_digits_and_counts_get_all() -> None:
    assert (rough(71.8), rough(46.83), rough(2.17), rough(0.0)) == ("72", "47", "2.2", "0")
    assert (count(1234), count(2.5)) == ("1,234", "2.5")


def test_times_are_utc_and_ages_are_short() -> None:
    assert (clock(0.0), stamp(0.0)) == ("00:00:00", "1970-01-01T00:00:00Z")
    assert (moment(60.0, 0.0), moment(90_000.0, 0.0)) == ("00:01", "2 Jan 01:00")
    assert (age(2.54), age(42.0), age(600.0)) == ("2.5 s", "42 s", "10 min")


def test_power_is_shown_in_the_unit_that_suits_it() -> None:
    assert [power(kw) for kw in (0.0, 0.0006, 2.5, 21_452.0)] == [
        "0 kW",
        "0.600 W",
        "2.50 kW",
        "21.5 MW",
    ]

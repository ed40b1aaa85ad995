"""Conversions: exact at known points, each undone by its opposite, the same for arrays."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hanse import units

Conversion = Callable[[float], float]

KNOWN = [
    (units.hours_from_s, 5400.0, 1.5),
    (units.ms_from_s, 0.25, 250.0),
    (units.wh_from_j, 7200.0, 2.0),
    (units.kwh_from_j, 3.6e6, 1.0),
    (units.kwh_from_wh, 1500.0, 1.5),
    (units.per_wh_from_per_kwh, 0.2, 0.0002),
    (units.per_kwh_from_per_mwh, 80.0, 0.08),
    (units.per_g_from_per_t, 100.0, 0.0001),
    (units.gb_from_bytes, 2.5e9, 2.5),
    (units.bytes_per_s_from_mbit_s, 8.0, 1e6),
]
OPPOSITES = [
    (units.hours_from_s, units.s_from_hours),
    (units.ms_from_s, units.s_from_ms),
    (units.wh_from_j, units.j_from_wh),
    (units.kwh_from_j, units.j_from_kwh),
    (units.kwh_from_wh, units.wh_from_kwh),
    (units.per_g_from_per_t, units.per_t_from_per_g),
    (units.gb_from_bytes, units.bytes_from_gb),
    (units.bytes_per_s_from_mbit_s, units.mbit_s_from_bytes_per_s),
]


@pytest.mark.parametrize(("convert", "value", "expected"), KNOWN)
def test_a_known_quantity_converts(convert: Conversion, value: float, expected: float) -> None:
    assert math.isclose(convert(value), expected)


@pytest.mark.parametrize(("there", "back"), OPPOSITES)
@given(value=st.floats(min_value=1e-9, max_value=1e15))
def test_a_conversion_is_undone_by_its_opposite(
    there: Conversion, back: Conversion, value: float
) -> None:
    assert math.isclose(back(there(value)), value, rel_tol=1e-12)


def test_arrays_convert_element_by_element() -> None:
    assert units.ms_from_s(np.array([0.5, 2.0])).tolist() == [500.0, 2000.0]

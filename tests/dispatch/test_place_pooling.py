"""Peaks of origins that share sites: between independent and all at once, never more than their sum."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from effort import effort
from hanse.dispatch.place_pooling import peak_shares
from hanse.signals.outlook import DemandOutlook, TotalOutlook

RATES = st.floats(0.0, 50.0)


def origin(mean: float, high: float, service: str = "chat") -> DemandOutlook:
    return DemandOutlook(
        service=service, tenant="t", data_class="public", country="DE", origin="a", requests_per_s=(mean,),
        requests_per_s_high=(high,), input_tokens=1.0, output_tokens=1.0,
    )  # fmt: skip


def total(high: float) -> TotalOutlook:
    return TotalOutlook(service="chat", requests_per_s_high=(high,))


def shares(high: float, *groups: list[DemandOutlook]) -> list[float]:
    found = peak_shares(dict(enumerate(groups)), (total(high),))
    return [float(found[k][0]) for k in range(len(groups))]


def test_four_equal_origins_by_hand() -> None:
    """Each 1 above its mean of 3: independent they need 2 above 12, all at once 4, halfway in variance (rho 1/2) the root of 10."""
    four = [origin(3.0, 4.0)] * 4
    assert shares(14.0, four) == pytest.approx([0.5])
    assert shares(16.0, four) == pytest.approx([1.0])
    assert shares(12.0 + math.sqrt(10.0), four) == pytest.approx([math.sqrt(10.0) / 4.0])
    # Of the four one that no other shares sites with needs all of its own; three need the root of three.
    assert shares(14.0, four[:1], four[1:]) == pytest.approx([1.0, math.sqrt(3.0) / 3.0])


@settings(max_examples=effort(100), deadline=None)
@given(
    st.lists(st.lists(st.tuples(RATES, RATES), min_size=1, max_size=5), min_size=1, max_size=3),
    st.floats(0.0, 500.0),
)
def test_a_group_needs_its_own_root_of_squares_at_least_and_its_sum_at_most(
    rates: list[list[tuple[float, float]]], high: float
) -> None:
    groups = [[origin(mean, mean + more) for mean, more in group] for group in rates]
    for share, group in zip(shares(high, *groups), rates, strict=True):
        apart = np.array([more for _, more in group])
        if apart.sum() > 1e-9:
            least = math.sqrt((apart**2).sum()) / apart.sum()
            assert least * (1.0 - 1e-9) <= share <= 1.0 + 1e-12
    # A total that peaks higher asks for no less.
    more = shares(high * 1.1 + 1.0, *groups)
    assert all(b >= a - 1e-12 for a, b in zip(shares(high, *groups), more, strict=True))


def test_nothing_is_known_of_services_without_a_total() -> None:
    groups = {"one": [origin(1.0, 2.0)], "other": [origin(1.0, 2.0, "code")]}
    assert set(peak_shares(groups, (total(2.0),))) == {"one"}
    assert peak_shares(groups, ()) == {}

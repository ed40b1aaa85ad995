"""Moving by the hour: by hand, in order, the same as a plan's bounds, and what it takes of a bill."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from effort import effort
from hanse.plan.shifting import HOURS, bounds
from hanse.twin.reproduce import reproduce
from hanse.twin.reproduce.spatial import WHOLESALE_SHARE, moved


def test_two_grids_that_take_turns_by_hand() -> None:
    found = moved(np.array([[100.0, 300.0, 100.0, 300.0], [250.0, 50.0, 250.0, 50.0]]))
    assert (found.mean, found.fixed, found.hourly) == (175.0, 150.0, 75.0)
    assert found.gained == 0.5 and found.sited == pytest.approx(1.0 / 7.0)


@settings(max_examples=effort(30), deadline=None)
@given(seed=st.integers(0, 1000), grids=st.integers(1, 6), days=st.integers(1, 5))
def test_each_freedom_costs_no_more_and_is_what_a_plan_bounds(
    seed: int, grids: int, days: int
) -> None:
    series = np.random.default_rng(seed).uniform(-20.0, 500.0, (grids, days * HOURS))
    found = moved(series)
    assert found.hourly <= found.fixed + 1e-9 and found.fixed <= found.mean + 1e-9
    plan = bounds(
        series, np.ones((1, HOURS)), np.full((1, grids), 1.0 / grids), np.ones((1, grids), np.bool_)
    )
    hours = days * HOURS
    got = (found.mean * hours, found.fixed * hours, found.hourly * hours)
    assert got == pytest.approx((plan.assigned, plan.static, plan.hourly), abs=1e-6)


def test_hours_gain_more_of_a_price_than_of_carbon_and_less_of_a_bill_than_of_a_price(
    data: Path,
) -> None:
    rows = {(one.name, one.unit): one for one in reproduce("spatial-shift", data).rows}
    for group in ("3 US, 2023", "4 US, 2022", "8 European, 2022"):
        grams = rows[f"{group}: g/kWh", "% gained"].ours
        usd = rows[f"{group}: USD/MWh", "% gained"].ours
        bill = rows[f"{group}: at least", "% of the bill"]
        assert 0.0 < grams < usd
        assert (bill.ours, bill.also["at most"]) == pytest.approx(
            [usd * s for s in WHOLESALE_SHARE]
        )

"""Who is served where once sizes stand: nothing beyond room or law, and the nearer of what costs the same."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hanse.plan.assign import assigned

PLAIN = np.zeros((1, 2))


@given(st.integers(0, 2**32 - 1))
def test_shares_keep_to_what_is_allowed_and_what_there_is_room_for(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows, sites = int(rng.integers(1, 7)), int(rng.integers(1, 5))
    need = rng.uniform(0.1, 2.0, rows)
    may = rng.random((rows, sites)) < 0.7
    capacity = rng.uniform(0.0, 3.0, sites)
    workload = rng.integers(0, 2, rows)
    replica = rng.uniform(0.0, 0.5, (2, sites))
    usd, rtt = rng.uniform(1.0, 2.0, (rows, sites)), rng.uniform(1.0, 90.0, (rows, sites))
    shares = assigned(need, usd, rtt, may, capacity, workload, replica)
    assert (shares >= 0.0).all() and not shares[~may].any()
    assert (shares.sum(axis=1) <= 1.0 + 1e-6).all()
    assert (need @ shares <= capacity + 1e-4).all()
    # What is left over has no room at any place that it may go to.
    left = 1.0 - shares.sum(axis=1)
    spare = capacity - need @ shares
    for i in np.flatnonzero(left > 1e-4):
        assert (spare[may[i]] < 1e-3).all()


def test_of_places_that_cost_the_same_the_nearer_serves() -> None:
    rtt = np.array([[5.0, 40.0], [40.0, 5.0]])
    shares = assigned(
        np.ones(2), np.ones((2, 2)), rtt, np.ones((2, 2), bool), np.full(2, 2.0), np.zeros(2, int), PLAIN
    )  # fmt: skip
    assert shares == pytest.approx(np.eye(2))


@pytest.mark.parametrize(("room", "together"), [(2.0, True), (1.05, False)])
def test_a_sliver_of_a_replica_is_served_elsewhere_where_there_is_room(
    room: float, together: bool
) -> None:
    shares = assigned(
        np.array([1.0, 0.1]), np.ones((2, 2)), np.array([[5.0, 40.0], [40.0, 5.0]]), np.ones((2, 2), bool),
        np.array([room, 2.0]), np.zeros(2, int), np.array([[1.0, 1.0]]),
    )  # fmt: skip
    assert float(shares[1, 0]) == pytest.approx(1.0 if together else 0.0)
    assert shares.sum(axis=1) == pytest.approx(1.0)

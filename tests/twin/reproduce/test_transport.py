"""Moving load: small cases by hand, and what no optimum may violate."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from hanse.twin.reproduce.eurosys24 import Regions, mean_g_at_best, mean_g_by_rule, savings_g
from hanse.twin.reproduce.transport import cheapest_moves, sequential_moves


def regions(cost: list[float], rtt_ms: list[list[float]]) -> Regions:
    return Regions(
        names=tuple(f"r{i}" for i in range(len(cost))),
        g_per_kwh=tuple(cost),
        rtt_ms=tuple(map(tuple, rtt_ms)),
    )


@st.composite
def random_regions(draw: st.DrawFn) -> Regions:
    n = draw(st.integers(1, 6))
    cost = sorted(draw(st.lists(st.integers(1, 900), min_size=n, max_size=n)))
    rtt = [[5.0 if i == j else draw(st.integers(5, 300)) for j in range(n)] for i in range(n)]
    return regions([float(g) for g in cost], rtt)


# Region 1 reaches 0; region 2 reaches 0 and, 40 ms further, 1.
CHAIN = regions([1.0, 2.0, 10.0], [[5, 99, 99], [10, 5, 99], [10, 50, 5]])


def test_at_half_load_the_dirtiest_region_should_get_the_room_in_the_cleanest() -> None:
    # Region 0 has room for one other. The optimum gives it to region 2: (1 + 2 + 1) / 3.
    assert mean_g_at_best(CHAIN, 10, 50) == pytest.approx(4.0 / 3.0)


def test_the_rule_gives_the_room_to_whoever_comes_first() -> None:
    # Region 1 comes before region 2 and takes it: (1 + 1 + 10) / 3.
    assert mean_g_by_rule(CHAIN, 10, 50) == pytest.approx(4.0)


def test_the_rule_lets_load_into_the_room_that_others_left() -> None:
    # With 50 ms region 2 follows into region 1, which region 1 has left: (1 + 1 + 2) / 3.
    assert mean_g_by_rule(CHAIN, 50, 50) == pytest.approx(4.0 / 3.0)


def test_with_nothing_idle_nothing_moves() -> None:
    assert mean_g_by_rule(CHAIN, 300, 0) == pytest.approx(13.0 / 3.0)
    assert mean_g_at_best(CHAIN, 300, 0) == pytest.approx(13.0 / 3.0)


def test_load_divides_where_room_is_short() -> None:
    # Loads of 3, room for 4: region 0 takes 1 of the others' load.
    flows = cheapest_moves(
        np.full(2, 3.0), np.full(2, 4.0), np.array([1.0, 7.0]), np.ones((2, 2), bool)
    )
    assert flows.sum(0) == pytest.approx([4.0, 2.0])


def test_a_solver_writes_nothing_to_standard_output(capfd: pytest.CaptureFixture[str]) -> None:
    cheapest_moves(np.ones(1), np.ones(1), np.ones(1), np.ones((1, 1), bool))
    assert capfd.readouterr() == ("", "")


@given(random_regions(), st.integers(5, 300), st.integers(0, 99))
def test_all_load_arrives_within_reach_and_room(
    case: Regions, limit_ms: int, idle_pct: int
) -> None:
    load = np.full(len(case.names), 100.0 - idle_pct)
    full, allowed = np.full(len(load), 100.0), case.reachable(limit_ms)
    flows = cheapest_moves(load, full, np.asarray(case.g_per_kwh), allowed)
    assert flows.sum(1) == pytest.approx(load)
    assert (flows.sum(0) <= full + 1e-6).all()
    assert not flows[~allowed].any()
    after = sequential_moves(100.0 - idle_pct, 100.0, np.asarray(case.g_per_kwh), allowed)
    assert after.sum() == pytest.approx(load.sum())
    assert (after >= -1e-9).all() and (after <= 100.0 + 1e-9).all()


@given(random_regions(), st.integers(5, 300), st.integers(0, 99))
def test_no_rule_beats_the_optimum(case: Regions, limit_ms: int, idle_pct: int) -> None:
    best = mean_g_at_best(case, limit_ms, idle_pct)
    assert best <= mean_g_by_rule(case, limit_ms, idle_pct) + 1e-6
    assert best >= case.g_per_kwh[0] - 1e-6


@given(random_regions(), st.integers(5, 300), st.integers(0, 99), st.integers(0, 99))
def test_more_idle_capacity_never_raises_carbon(
    case: Regions, limit_ms: int, one_pct: int, other_pct: int
) -> None:
    less, more = sorted((one_pct, other_pct))
    assert mean_g_at_best(case, limit_ms, more) <= mean_g_at_best(case, limit_ms, less) + 1e-6


@given(random_regions(), st.integers(5, 300), st.integers(5, 300), st.integers(0, 99))
def test_a_longer_reach_never_raises_carbon(
    case: Regions, one_ms: int, other_ms: int, idle_pct: int
) -> None:
    near, far = sorted((one_ms, other_ms))
    assert mean_g_at_best(case, far, idle_pct) <= mean_g_at_best(case, near, idle_pct) + 1e-6


@given(random_regions(), st.integers(5, 300))
def test_with_room_for_all_everyone_goes_to_the_cleanest_within_reach(
    case: Regions, limit_ms: int
) -> None:
    cost, allowed = np.asarray(case.g_per_kwh), case.reachable(limit_ms)
    cleanest = np.where(allowed, cost, np.inf).min(1).mean()
    assert mean_g_at_best(case, limit_ms, 99) == pytest.approx(cleanest)
    assert mean_g_by_rule(case, limit_ms, 99) == pytest.approx(cleanest)


def test_moving_once_and_every_hour_by_hand() -> None:
    # Two zones that take turns at 0 and 10, a third at 4. Mean 14 / 3; lowest mean 4, lowest each hour 0.
    hourly = np.array([[0.0, 10.0, 4.0], [10.0, 0.0, 4.0]])
    assert savings_g(hourly) == pytest.approx((14.0 / 3.0 - 4.0, 14.0 / 3.0))


@given(
    st.integers(1, 5).flatmap(
        lambda n: st.lists(st.lists(st.integers(0, 900), min_size=n, max_size=n), min_size=1)
    )
)
def test_moving_every_hour_saves_no_less_than_moving_once(rows: list[list[int]]) -> None:
    hourly: NDArray[np.float64] = np.array(rows, float)
    once, always = savings_g(hourly)
    assert -1e-9 <= once <= always + 1e-9

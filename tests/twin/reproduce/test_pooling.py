"""Pooling over time zones: square waves by hand, and what shifting cannot change."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hanse.twin.reproduce.pooling import demand_rps, mean_day, saved_share, size_at

DEMANDS = st.lists(st.integers(1, 1000), min_size=24, max_size=144).map(
    lambda rates: np.array(rates, float)
)


def test_two_regions_that_take_turns_need_one_fleet() -> None:
    wave = np.array([10.0, 10.0, 10.0, 0.0, 0.0, 0.0])
    assert saved_share(wave, (0, 3)) == pytest.approx(0.5)
    assert saved_share(wave, (0, 1)) == pytest.approx(0.0)


def test_a_region_ahead_sees_the_demand_that_comes_later_here() -> None:
    ramp = np.array([0.0, 1.0, 5.0, 0.0])
    # One window ahead: (0 + 1, 1 + 5, 5 + 0, 0 + 0); rank floor(0.999 * 3) = 2 leaves out the highest.
    assert saved_share(ramp, (0, 1)) == pytest.approx(1.0 - 5.0 / (2 * 1.0))


def test_a_quantile_is_the_value_at_its_rank_cut_down() -> None:
    ten = np.arange(10.0)
    assert size_at(ten, 1.0) == 9.0
    assert size_at(ten, 0.999) == 8.0
    assert size_at(np.arange(2001.0), 0.999) == 1998.0


@given(DEMANDS, st.integers(1, 7))
def test_regions_on_one_clock_save_nothing(demand: np.ndarray, regions: int) -> None:
    assert saved_share(demand, (3,) * regions) == pytest.approx(0.0)


@given(DEMANDS, st.lists(st.integers(-24, 24), min_size=1, max_size=5), st.integers(0, 24))
def test_only_differences_between_clocks_and_the_shape_of_demand_matter(
    demand: np.ndarray, shifts: list[int], later: int
) -> None:
    saved = saved_share(demand, tuple(shifts))
    assert saved_share(demand, tuple(s + later for s in shifts)) == pytest.approx(saved)
    assert saved_share(3.0 * demand, tuple(shifts)) == pytest.approx(saved)
    assert saved < 1.0


def test_windows_without_traffic_count_as_zero(tmp_path: Path) -> None:
    file = tmp_path / "llm_demand_servegen_2025" / "m_rates.csv.gz"
    file.parent.mkdir()
    lines = ["client,t_s,rate_rps,cv", "0,0,1.5,1", "1,0,0.5,1", "0,86400,4,1", "0,600,3,1"]
    file.write_bytes(gzip.compress("\n".join(lines).encode()))
    demand = demand_rps(tmp_path, "m")
    assert len(demand) == 288  # whole days
    assert demand.sum() == 9.0
    assert mean_day(demand)[:3].tolist() == [3.0, 1.5, 0.0]

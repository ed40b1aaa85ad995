"""Moving work by the hour: bounds on made-up series, in a study, and on recorded grids whose figures are known."""

from __future__ import annotations

import csv
import gzip
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from effort import effort
from hanse.plan.demand import HOURS, demand_of
from hanse.plan.operate import expected_meter
from hanse.plan.shifting import bounds, deferred, shifting_of
from hanse.plan.shifting_room import Room, _fixed, _hourly, roomed
from hanse.plan.study_file import StudyCity
from plan import hand

HOURLY = Path(__file__).parents[3] / "shared/data/grid_ci_emaps_odbl/ci_2023_2024_hourly.csv.gz"
US = ("US-CAL-CISO", "US-MIDA-PJM", "US-NY-NYIS", "US-TEX-ERCO")
HOURS_2023 = 8760


@pytest.fixture(scope="module")
def recorded() -> dict[str, np.ndarray]:
    """Carbon of 2023 [hour] by zone."""
    if not HOURLY.exists():
        pytest.skip("hourly carbon of sixteen grids (shared/data/grid_ci_emaps_odbl) is not here")
    found: dict[str, list[float]] = {}
    with gzip.open(HOURLY, "rt", encoding="ascii") as file:
        for row in csv.DictReader(file):
            if row["utc"].startswith("2023"):
                found.setdefault(row["zone"], []).append(float(row["ci_lca"]))
    return {zone: np.array(values) for zone, values in found.items()}


def flat(series: np.ndarray) -> tuple[float, float, float]:
    """A flat load, split evenly: mean, best fixed and best each hour, per kWh."""
    sites = len(series)
    hours = series.shape[1]
    found = bounds(
        series,
        np.full((1, HOURS), 1.0),
        np.full((1, sites), 1.0 / sites),
        np.ones((1, sites), np.bool_),
    )
    return found.assigned / hours, found.static / hours, found.hourly / hours


def test_four_us_grids_gain_a_fifth_by_siting_and_a_tenth_more_by_the_hour(
    recorded: dict[str, np.ndarray],
) -> None:
    mean, static, hourly = flat(np.stack([recorded[z] for z in US]))
    assert (mean, static, hourly) == pytest.approx((328, 261, 231), abs=1.0)
    assert static / mean - 1.0 == pytest.approx(-0.20, abs=0.01)
    assert hourly / static - 1.0 == pytest.approx(-0.11, abs=0.01)


def test_germany_and_britain_gain_nothing_by_the_hour(recorded: dict[str, np.ndarray]) -> None:
    _, static, hourly = flat(np.stack([recorded[z] for z in ("DE-LU", "GB")]))
    assert (static, hourly) == pytest.approx((188, 187), abs=1.0)
    assert hourly / static - 1.0 == pytest.approx(0.0, abs=0.01)


def test_waiting_gains_what_it_is_known_to_gain(recorded: dict[str, np.ndarray]) -> None:
    # A job of four hours with a day of slack, 2023, perfect foresight.
    known = {"SG": 3, "US-MIDA-PJM": 5, "US-TEX-ERCO": 16, "DE-LU": 23, "GB": 27, "CA-ON": 41}
    for zone, percent in known.items():
        four = np.convolve(recorded[zone], np.full(4, 0.25), "valid")[None]
        waits = deferred(four, 24.0)[:, : four.shape[1] - 24]
        gain = 1.0 - waits.mean() / four[:, : waits.shape[1]].mean()
        assert 100.0 * gain == pytest.approx(percent, abs=3.0), zone


DAYS_MADE = 12


@settings(max_examples=effort(50))
@given(st.integers(0, 2**32), st.integers(1, 4), st.integers(1, 5))
def test_each_freedom_costs_no_more_than_the_one_before(seed: int, sites: int, rows: int) -> None:
    rng = np.random.default_rng(seed)
    series = rng.random((sites, DAYS_MADE * HOURS))
    day = rng.random((rows, HOURS))
    may = rng.random((rows, sites)) < 0.6
    may[:, 0] = True
    share = may * rng.random((rows, sites)) + 1e-9 * may
    share /= share.sum(axis=1, keepdims=True)
    found = bounds(series, day, share, may)
    assert found.hourly <= found.static + 1e-9 <= found.assigned + 2e-9
    by_hand = sum(
        day[r, h % HOURS] * series[may[r], h].min()
        for r in range(rows)
        for h in range(series.shape[1])
    )
    assert found.hourly == pytest.approx(by_hand)
    later = deferred(series, 3.0)
    assert (later <= series).all() and later[0, 5] == series[0, 5:9].min()
    assert np.array_equal(deferred(series, 0.5), series)


def test_two_grids_that_take_turns_gain_by_the_hour_and_one_alone_does_not() -> None:
    hour = np.arange(DAYS_MADE * HOURS) % HOURS
    day, night = np.where(hour < 12, 100.0, 500.0), np.where(hour < 12, 500.0, 100.0)
    mean, static, hourly = flat(np.stack([day, night]))
    assert (mean, static, hourly) == pytest.approx((300.0, 300.0, 100.0))
    assert flat(day[None]) == pytest.approx((300.0, 300.0, 300.0))


@pytest.fixture(scope="module")
def study_of_three():
    study = hand.study(
        cities=tuple(StudyCity(city=c) for c in ("Frankfurt am Main", "Lyon", "London"))
    )
    demand = demand_of(study)
    design = hand.design(study, demand, (0, 2))
    return study, demand, design, expected_meter(design, study, demand)


def test_a_study_is_bounded_in_order_and_waiting_uses_its_slack(study_of_three) -> None:
    study, _, design, meter = study_of_three
    found = shifting_of(design, study, meter)
    assert 0.0 < found.deferrable_share < 1.0
    for ways in (found.carbon_g, found.usd):
        assert ways.hourly <= ways.static <= ways.assigned * (1 + 1e-9)
        assert ways.sited_hourly <= ways.sited <= ways.static * (1 + 1e-9)
        assert ways.sited_deferred <= ways.sited and ways.deferred <= ways.assigned
        # That each freedom costs no more than the one before holds here by construction: the two tests of the programs are below.
        assert ways.room_assigned is not None and ways.room_static is not None
        assert ways.room_hourly is not None
        assert ways.hourly <= ways.room_hourly * 1.05, "room never helps"
    assert found.carbon_g.gain("deferred", "assigned") > 0.005
    # France is far cleaner than both grids that the design has.
    assert found.carbon_g.gain("sited", "static") > 0.5
    # Prices are flat: by the hour only the carbon price moves anything.
    assert found.usd.gain("hourly", "static") == pytest.approx(0.0, abs=0.01)


def test_work_that_may_not_wait_gains_nothing_by_waiting(study_of_three) -> None:
    study, _, design, meter = study_of_three
    works = tuple(msgspec.structs.replace(w, slack_h=0.0) for w in study.workloads)
    found = shifting_of(design, msgspec.structs.replace(study, workloads=works), meter)
    assert found.deferrable_share == 0.0
    assert found.carbon_g.deferred == pytest.approx(found.carbon_g.assigned)


def test_room_limits_what_a_clean_site_can_take(study_of_three) -> None:
    study, demand, design, _ = study_of_three
    rows = np.flatnonzero(demand.workload == 0)
    cheap = np.stack([np.full(HOURS_2023, 1.0), np.full(HOURS_2023, 2.0)])
    tokens = demand.tokens_per_s[rows, None] * demand.day[rows] * 3600.0
    room = Room(w=0, series=cheap, tokens=tokens, share=design.share[rows], may=design.may[rows])
    assigned, static, hourly = roomed(design, study, demand, [room])
    assert assigned is not None and static is not None and hourly is not None
    all_clean = tokens.sum() * 365.0
    assert all_clean < hourly <= static <= assigned
    one = msgspec.structs.replace(design, places=design.places[:1])
    assert roomed(one, study, demand, [room]) == (None, None, None)


@settings(max_examples=effort(50))
@given(st.integers(0, 2**32), st.integers(2, 4), st.integers(1, 4), st.integers(1, 3))
def test_programs_with_room_find_what_bounds_and_any_assignment_allow(
    seed: int, sites: int, groups: int, days: int
) -> None:
    """As the programs answer, before `roomed` takes the least of them and of what is assigned."""
    rng = np.random.default_rng(seed)
    series = rng.uniform(0.1, 1.0, (sites, days, HOURS))
    load = rng.uniform(0.1, 1.0, (groups, HOURS))
    may = rng.random((groups, sites)) < 0.6
    may[np.arange(groups), rng.integers(0, sites, groups)] = True
    share = may * rng.uniform(0.1, 1.0, may.shape)
    share /= share.sum(axis=1, keepdims=True)
    mine = share.T @ load
    assigned = float((mine * series.sum(axis=1)).sum())
    free = bounds(series.reshape(sites, -1), load, share, may)
    fixed, hourly = (f(series, may, load, mine.max(axis=1)) for f in (_fixed, _hourly))
    assert free.static <= fixed * (1 + 1e-7) and free.hourly <= hourly * (1 + 1e-7)
    assert hourly <= fixed * (1 + 1e-7) and fixed <= assigned * (1 + 1e-7)
    endless = np.full(sites, 1e3)
    assert _fixed(series, may, load, endless) == pytest.approx(free.static)
    assert _hourly(series, may, load, endless) == pytest.approx(free.hourly)


def test_with_three_quarters_of_the_room_an_hour_sends_the_rest_to_the_dear_site() -> None:
    # Half of the day one site costs 1 and the other 5, then they change; one unit an hour, and the first holds 0.75.
    day = np.where(np.arange(HOURS) < 12, 1.0, 5.0)
    series = np.stack([day, 6.0 - day])[:, None, :]
    both, load, held = np.ones((1, 2), np.bool_), np.ones((1, HOURS)), np.array([0.75, 1.0])
    assert _hourly(series, both, load, held) == pytest.approx(12 * (0.75 + 0.25 * 5.0) + 12 * 1.0)
    assert _fixed(series, both, load, held) == pytest.approx(24 * 3.0)
    dearer = series * np.array([1.0, 2.0])[:, None, None]
    assert _fixed(dearer, both, load, held) == pytest.approx(24 * (0.75 * 3.0 + 0.25 * 6.0))


def test_work_goes_nowhere_that_law_forbids(study_of_three) -> None:
    study, _, design, meter = study_of_three
    bound = msgspec.structs.replace(design, may=design.share > 0.0)
    found = shifting_of(bound, study, meter)
    assert found.carbon_g.hourly == pytest.approx(found.carbon_g.assigned)
    assert found.carbon_g.static == pytest.approx(found.carbon_g.assigned)

"""A series holds its steps; a recorded year plays at any instant, leap days and edges included."""

import calendar
from datetime import UTC, datetime

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hanse.errors import FeedError
from hanse.signals import Series, recorded, recorded_zones, replay, replay_within
from hanse.signals.recorded import _index
from hanse.units import SECONDS_PER_DAY, SECONDS_PER_HOUR

INSTANT = st.floats(0, 4e9)  # 1970 to 2096


def series(values: list[float], start_s: float = 0.0) -> Series:
    return Series(
        start_s=start_s,
        step_s=SECONDS_PER_HOUR,
        values=np.array(values, dtype=np.float64),
        quantity="carbon_intensity",
        unit="gCO2e/kWh",
        signal="average_location",
        zone="DE",
        source="made for this test",
        licence="none",
    )


def test_a_value_holds_until_the_next_step_begins() -> None:
    s = series([1.0, 2.0])
    assert [s.at(t) for t in (0.0, 3599.9, 3600.0, 7199.9)] == [1.0, 1.0, 2.0, 2.0]


@pytest.mark.parametrize("now_s", [-1.0, 7200.0])
def test_outside_the_recording_nothing_is_guessed(now_s: float) -> None:
    with pytest.raises(FeedError, match="replay"):
        series([1.0, 2.0]).at(now_s)


def test_values_cannot_be_changed_in_place() -> None:
    with pytest.raises(ValueError, match="read-only"):
        series([1.0]).values[0] = 2.0


@given(st.integers(1, 50), st.floats(0, 50), st.floats(0.01, 50))
def test_a_window_answers_as_the_whole_does(count: int, from_h: float, length_h: float) -> None:
    whole = series([float(i) for i in range(count)])
    from_s, until_s = from_h * SECONDS_PER_HOUR, (from_h + length_h) * SECONDS_PER_HOUR
    if from_s >= whole.until_s:
        with pytest.raises(FeedError):
            whole.window(from_s, until_s)
        return
    part = whole.window(from_s, until_s)
    assert part.at(from_s) == whole.at(from_s)
    assert part.until_s >= min(until_s, whole.until_s) - 1e-6
    assert len(part.values) <= length_h + 2


@given(INSTANT, st.integers(2000, 2040))
def test_replay_keeps_month_day_and_time_of_day(now_s: float, year: int) -> None:
    now = datetime.fromtimestamp(now_s, UTC)
    then = datetime.fromtimestamp(replay(now_s, year), UTC)
    assert then.year == year
    assert (then.month, then.hour, then.minute) == (now.month, now.hour, now.minute)
    leap_day = (now.month, now.day) == (2, 29)
    assert then.day == (28 if leap_day and not calendar.isleap(year) else now.day)


def test_a_leap_day_plays_itself_in_a_leap_year_and_the_day_before_in_another() -> None:
    noon_s = datetime(2028, 2, 29, 12, tzinfo=UTC).timestamp()
    assert replay(noon_s, 2020) == datetime(2020, 2, 29, 12, tzinfo=UTC).timestamp()
    assert replay(noon_s, 2022) == datetime(2022, 2, 28, 12, tzinfo=UTC).timestamp()


@given(INSTANT)
def test_replay_of_the_recorded_year_itself_changes_nothing(now_s: float) -> None:
    year = datetime.fromtimestamp(now_s, UTC).year
    assert replay(now_s, year) == pytest.approx(now_s, abs=1e-6)


@given(INSTANT, st.integers(-14, 14), st.integers(2000, 2030))
def test_a_year_recorded_by_a_local_clock_plays_every_instant(
    now_s: float, offset_h: int, year: int
) -> None:
    start_s = datetime(year, 1, 1, tzinfo=UTC).timestamp() - offset_h * SECONDS_PER_HOUR
    until_s = start_s + (366 if calendar.isleap(year) else 365) * SECONDS_PER_DAY
    assert start_s <= replay_within(now_s, start_s=start_s, until_s=until_s) < until_s


def test_less_than_a_year_is_refused() -> None:
    with pytest.raises(FeedError, match="whole year"):
        replay_within(1.8e9, start_s=0.0, until_s=100 * SECONDS_PER_DAY)


def test_every_shipped_recording_is_a_whole_year_of_plausible_hours_with_a_source() -> None:
    limits = {
        "carbon_intensity": (5.0, 1000.0),
        "carbon_free_pct": (0.0, 100.0),
        "marginal_intensity": (10.0, 820.0),
        "temp_c": (-40.0, 55.0),
        "rh_pct": (0.0, 100.0),
        "cloud_pct": (0.0, 100.0),
        "wind10_ms": (0.0, 60.0),
    }
    for recording in _index():
        for column in recording.columns:
            s = recorded(recording.zone, column.quantity)
            assert s is not None
            assert s.source and s.licence
            assert s.until_s - s.start_s >= 365 * SECONDS_PER_DAY
            assert np.isfinite(s.values).all()
            low, high = limits[column.quantity]
            assert low <= s.values.min() and s.values.max() <= high, (recording.file, column)


def test_yearly_means_are_those_of_the_sources() -> None:
    for zone, mean in (("DE", 313), ("FR", 56), ("GB", 213)):
        s = recorded(zone, "carbon_intensity")
        assert s is not None
        assert s.values.mean() == pytest.approx(mean, abs=1.0)


def test_zones_go_by_their_grid_operators_names_too() -> None:
    assert recorded("PJM", "carbon_intensity") is recorded("US-MIDA-PJM", "carbon_intensity")
    assert "PJM" not in recorded_zones("carbon_intensity")
    assert recorded("nowhere", "carbon_intensity") is None


def test_a_series_without_a_source_cannot_be_made() -> None:
    with pytest.raises(AssertionError):
        msgspec.structs.replace(series([1.0]), source="")

"""Playing a recorded year at any instant: same month, day and time of day, in UTC.

Here: the mapping of instants. Not here: values. UTC has no daylight saving, so the mapping is one to
one except for 29 February, which plays 28 February where the recorded year has none. The weekday is
not kept: the season and the sun matter more to carbon and weather than the weekday.
"""

from __future__ import annotations

import calendar
from datetime import UTC, datetime
from functools import lru_cache

from hanse.errors import FeedError
from hanse.units import SECONDS_PER_DAY


def replay(now_s: float, year: int) -> float:
    """The instant of `year` that has the month, day and time of day of `now_s`."""
    since_midnight_s = now_s % SECONDS_PER_DAY
    today = datetime.fromtimestamp(now_s - since_midnight_s, UTC)
    leap_day = today.month == 2 and today.day == 29
    day = 28 if leap_day and not calendar.isleap(year) else today.day
    return datetime(year, today.month, day, tzinfo=UTC).timestamp() + since_midnight_s


@lru_cache(maxsize=256)
def replay_within(now_s: float, *, start_s: float, until_s: float) -> float:
    """The same, for a recording of at least a year that need not begin in January.

    A recording made by local clock begins some hours before or after the UTC year; an instant at
    its edge then plays the calendar year before or after. The sites of a league ask for the same instants.
    """
    if until_s - start_s < 365 * SECONDS_PER_DAY:
        raise FeedError(
            "recording",
            got=f"{(until_s - start_s) / SECONDS_PER_DAY:.1f} days",
            allowed="a whole year or more",
            fix="record at least 365 days, or look values up without replay",
        )
    first = datetime.fromtimestamp(start_s, UTC).year
    for year in (first, first + 1):
        recorded_at_s = replay(now_s, year)
        if start_s <= recorded_at_s < until_s:
            return recorded_at_s
    raise AssertionError(f"{now_s} finds no place in a year from {start_s}")

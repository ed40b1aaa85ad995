"""Demand of a study: who asks for how much, at which hour, and what peak must be built for.

Here: rows (workload, city) with their mean and their day in UTC; the peak that work with slack leaves. Not here: requests one by one
(`signals.traces`), capacity that serves them (`capacity`), growth over years beyond a factor (`operate`).
"""

from __future__ import annotations

from datetime import datetime, time
from typing import Final
from zoneinfo import ZoneInfo

import msgspec
import numpy as np
from numpy.typing import NDArray

from hanse.catalogue import City, city
from hanse.plan.study_file import Study, Workload
from hanse.signals.traces.spec import HOURS_DEFAULT
from hanse.units import SECONDS_PER_DAY, hours_from_s

Floats = NDArray[np.float64]
HOURS: Final = 24


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One workload of one city."""

    workload: int
    city: int


class Demand(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """All rows of a study, in the order of workloads, then cities."""

    places: tuple[City, ...]
    """[city] of the study, from the catalogue."""
    rows: tuple[Row, ...]
    workload: NDArray[np.int64]
    """[row]"""
    city: NDArray[np.int64]
    """[row]"""
    tokens_per_s: Floats
    """[row]: mean of the first year, prompts and answers."""
    day: Floats
    """[row, hour of the UTC day]: demand over its mean."""
    peak: Floats
    """[row]: highest rate that must be served, over the mean, after work with slack has been put off."""


def demand_of(study: Study) -> Demand:
    """Rows of every workload in each of its cities; cities share by weight, else by population."""
    places = tuple(city(c.city, iso2=c.country or "") for c in study.cities)
    weights = np.array(
        [
            float(place.population) if c.weight is None else c.weight
            for c, place in zip(study.cities, places, strict=True)
        ]
    )
    days = np.stack([utc_day(place, study) for place in places])
    rows, rates = [], []
    for w, work in enumerate(study.workloads):
        mine = cities_of(work, study)
        share = weights[mine] / weights[mine].sum() if weights[mine].sum() > 0 else 0.0 * mine
        for c, part in zip(mine, np.broadcast_to(share, len(mine)), strict=True):
            if part > 0.0:
                rows.append(Row(workload=w, city=int(c)))
                rates.append(work.tokens_per_day * float(part) / SECONDS_PER_DAY)
    workload = np.array([r.workload for r in rows], np.int64)
    where = np.array([r.city for r in rows], np.int64)
    day = days[where].reshape(len(rows), HOURS)
    peak = [
        levelled_peak(d, study.workloads[w].slack_h) for d, w in zip(day, workload, strict=True)
    ]
    return Demand(
        places=places,
        rows=tuple(rows),
        workload=workload,
        city=where,
        tokens_per_s=np.array(rates, np.float64),
        day=day,
        peak=np.array(peak, np.float64),
    )


def cities_of(work: Workload, study: Study) -> NDArray[np.int64]:
    """Indices of the study's cities that ask for a workload."""
    named = [i for i, c in enumerate(study.cities) if not work.cities or c.city in work.cities]
    return np.array(named, np.int64)


def utc_day(place: City, study: Study) -> Floats:
    """[hour, UTC] demand over its mean, by the local time of the first of April of the first year (between winter and summer)."""
    at = datetime.combine(study.start.replace(month=4, day=1), time(12), ZoneInfo(place.timezone))
    offset = at.utcoffset()
    assert offset is not None, "a zone has an offset"
    offset_h = hours_from_s(offset.total_seconds())
    local = (np.arange(HOURS) + offset_h) % HOURS
    hours = np.append(HOURS_DEFAULT, HOURS_DEFAULT[0])
    shape = np.interp(local, np.arange(HOURS + 1), hours)
    return np.asarray(shape / shape.mean())


def levelled_peak(day: Floats, slack_h: float) -> float:
    """Lowest constant capacity, over the mean of `day`, that serves a repeating day when work may wait `slack_h`.

    The work that arrives in any stretch [a, b - slack] must be done in [a, b], so capacity is the highest of these means. With no
    slack it is the highest hour; with a day or more it is the mean. Exact for demand that is constant within an hour and slack of
    whole hours; between them linear.
    """
    mean = float(day.mean())
    if slack_h <= 0.0:
        return float(day.max()) / mean
    low, high = int(np.floor(slack_h)), int(np.ceil(slack_h))
    if low != high:
        part = slack_h - low
        return (1 - part) * levelled_peak(day, low) + part * levelled_peak(day, high)
    twice = np.concatenate([[0.0], np.cumsum(np.tile(day, 2))])
    arrived = [
        (twice[a + length] - twice[a]) / (length + low)
        for a in range(HOURS)
        for length in range(1, HOURS + 1)
    ]
    return float(max(max(arrived), mean)) / mean

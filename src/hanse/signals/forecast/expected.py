"""What is expected of every kind of demand that was counted: the shipped method where days were seen, the last minutes where not.

Here: `expected_demand`, `expected_totals`. Not here: counting (`signals.demand_counts`), the method (`make`).
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np

from hanse.signals.demand_counts import DemandCounts, DemandKey
from hanse.signals.forecast.make import many_told
from hanse.signals.forecast.past import Floats
from hanse.signals.outlook import DemandOutlook, TotalOutlook
from hanse.signals.series import Series
from hanse.units import SECONDS_PER_DAY, SECONDS_PER_HOUR

DAYS_MIN: Final = 3.0
"""A daily shape shows on the third day; before, the last minutes say more."""
RECENT_BINS: Final = 3
"""Means over them: a bin alone is a few requests of a small service."""
Z95: Final = 1.645
HIGH_MIN: Final = 1.25
"""Of the mean, where no spread was seen yet: demand grows by about a quarter in the steepest hour of a day (ServeGen, m-small)."""
IDLE_S: Final = 6.0 * SECONDS_PER_HOUR
"""A kind of demand that nobody asked for so long is expected no more while nothing is known of days."""
SILENT_S: Final = SECONDS_PER_DAY
"""An entry unheard for so long is gone, and its users ask elsewhere; links and hubs that fail are back before."""


def expected_demand(counts: DemandCounts, now_s: float, *, steps: int) -> tuple[DemandOutlook, ...]:
    """Demand of the next hours from the one that holds `now_s` on, by kind, from bins that ended by then; of a kind that none is expected of,
    from what the bin that still counts has so far.

    Bins in which an entry was not heard say nothing: what was heard before goes on.
    """
    found: list[DemandOutlook] = []
    for key in counts.kinds():
        rates = counts.requests_per_s(key, now_s)
        heard = np.flatnonzero(~np.isnan(rates))
        begun = counts.begun_per_s(key, now_s)
        if now_s - counts.heard_until_s(key.origin) > SILENT_S:
            continue
        if not np.nansum(rates) > 0.0:
            mean, high = (0.0,) * steps, (0.0,) * steps
        elif (len(rates) - heard[0]) * counts.bin_s >= DAYS_MIN * SECONDS_PER_DAY:
            start_s = counts.start_s + float(heard[0]) * counts.bin_s
            zone = f"{key.service}/{key.tenant}/{key.data_class}/{key.country}/{key.origin}"
            hourly = _hourly(counts.bin_s, zone, start_s, rates[heard[0] :])
            made = many_told(hourly, [now_s], steps=steps).one(0)
            mean, high = made.mean, made.high
        else:
            flat = _carrying_on(counts.bin_s, rates[heard])
            mean, high = (flat[0],) * steps, (flat[1],) * steps
        if max(high) > 0.0:
            found.append(_outlook(key, counts.tokens(key, now_s), mean, high))
        elif begun > 0.0:
            most = _high(counts.bin_s, begun, 1)
            tokens = counts.tokens(key, now_s + counts.bin_s)
            found.append(_outlook(key, tokens, (begun,) * steps, (most,) * steps))
    return tuple(found)


def expected_totals(counts: DemandCounts, now_s: float, *, steps: int) -> tuple[TotalOutlook, ...]:
    """High quantiles of services' totals, where days were seen of all who ask; a bin in which one entry was not heard is a gap."""
    by_service: dict[str, list[Floats]] = {}
    for key in counts.kinds():
        rates = counts.requests_per_s(key, now_s)
        if np.nansum(rates) > 0.0 and now_s - counts.heard_until_s(key.origin) <= SILENT_S:
            by_service.setdefault(key.service, []).append(rates)
    found = []
    for service, each in by_service.items():
        total = np.sum(each, axis=0)
        heard = np.flatnonzero(~np.isnan(total))
        if not len(heard) or len(heard) * counts.bin_s < DAYS_MIN * SECONDS_PER_DAY:
            continue
        start_s = counts.start_s + float(heard[0]) * counts.bin_s
        hourly = _hourly(counts.bin_s, service, start_s, total[heard[0] :])
        made = many_told(hourly, [now_s], steps=steps).one(0)
        found.append(TotalOutlook(service=service, requests_per_s_high=made.high))
    return tuple(found)


def _outlook(
    key: DemandKey, tokens: tuple[float, float], mean: tuple[float, ...], high: tuple[float, ...]
) -> DemandOutlook:
    return DemandOutlook(
        service=key.service,
        tenant=key.tenant,
        data_class=key.data_class,
        country=key.country,
        origin=key.origin,
        requests_per_s=mean,
        requests_per_s_high=high,
        input_tokens=tokens[0],
        output_tokens=tokens[1],
    )


def _hourly(bin_s: float, zone: str, start_s: float, rates: Floats) -> Series:
    """Hourly means of what was heard, from a full hour on; an hour of silence is a gap."""
    each = round(SECONDS_PER_HOUR / bin_s)
    skip = round((-start_s % SECONDS_PER_HOUR) / bin_s)
    hours = (len(rates) - skip) // each
    table = rates[skip : skip + hours * each].reshape(hours, each)
    heard = np.maximum((~np.isnan(table)).sum(axis=1), 1)
    values = np.where(np.isnan(table).all(axis=1), np.nan, np.nansum(table, axis=1) / heard)
    return Series(
        start_s=start_s + skip * bin_s,
        step_s=SECONDS_PER_HOUR,
        values=values,
        quantity="demand",
        unit="requests/s",
        signal="demand",
        zone=zone,
        source="counted at the gateways",
        licence="the operator's own",
    )


def _carrying_on(bin_s: float, rates: Floats) -> tuple[float, float]:
    """As the last minutes were; high by the chance of a bin's count, which is Poisson, and never less than a quarter above."""
    recent = rates[-RECENT_BINS:]
    mean = float(recent.mean())
    if mean <= 0.0:
        mean = float(rates[-int(IDLE_S // bin_s) :].mean())
    if mean <= 0.0:
        return 0.0, 0.0
    return mean, max(_high(bin_s, mean, len(recent)), float(recent.max()))


def _high(bin_s: float, mean: float, bins: int) -> float:
    return max(HIGH_MIN * mean, mean + Z95 * math.sqrt(mean / (bins * bin_s)))

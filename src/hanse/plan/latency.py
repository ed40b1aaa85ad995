"""Time to first token that users of a design wait, in closed form: the way there, the step that is met, the prompt's reading.

Here: `ttft_quantiles_ms`. Not here: steps and prompts that meet in them (`serving.open_loop`); waiting for a slot, which planned capacity makes rare
(`capacity.WAIT_SHARE`), and sites' helping each other, which the twin knows (`validate`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from hanse.plan.capacity import Fit
from hanse.plan.demand import HOURS, Demand
from hanse.plan.design import Design
from hanse.plan.operate import first_replicas, growth_of, loads_of
from hanse.plan.study_file import Study
from hanse.serving.open_loop import waits_ms, weighted_quantile

Floats = NDArray[np.float64]
DAY: Final = tuple(range(0, HOURS, 3))
"""Hours that stand for a day."""


def ttft_quantiles_ms(
    design: Design,
    study: Study,
    demand: Demand,
    shares: Sequence[float],
    *,
    year: int = 0,
    hours: Sequence[int] = DAY,
    rented: bool = True,
) -> Floats:
    """[share] TTFT of interactive requests in some hours of a year's day, over all that are answered; NaN where none is.

    Args:
        rented: With those that rented chips answer.
    """
    ms, weight = samples(design, study, demand, year, hours, rented)
    return np.array([weighted_quantile(ms, weight, share) for share in shares])


def samples(
    design: Design,
    study: Study,
    demand: Demand,
    year: int,
    hours: Sequence[int] = DAY,
    rented: bool = True,
) -> tuple[Floats, Floats]:
    """TTFT in ms and weight (requests/s) of every row, site, hour, wait and quantile of the prompt."""
    rate, day, _ = loads_of(design, study, demand)
    replicas, _ = first_replicas(design, study, demand, year)
    found_ms, found = [np.zeros(0)], [np.zeros(0)]

    def add(
        rtt_ms: Floats, per_s: Floats, fit: Fit, load: float, tokens: float, count: float
    ) -> None:
        """All rows that one replica's load answers: round trips and requests/s [row]."""
        readings = np.array(fit.readings_ms)
        decode = float(np.interp(load, fit.loads, fit.decodes_ms))
        waits, weight = waits_ms(decode, readings, load / tokens / 1000.0, count)
        all_ms = fit.fixed_ms + waits[:, None] + readings
        found_ms.append((rtt_ms[:, None, None] + all_ms).ravel())
        each = per_s[:, None, None] * weight[:, None] * np.full(len(readings), 1.0 / len(readings))
        found.append(each.ravel())

    for w, work in enumerate(study.workloads):
        if work.kind != "interactive":
            continue
        mine = np.flatnonzero(demand.workload == w)
        tokens = work.tokens_in + work.tokens_out
        per_s = demand.tokens_per_s[mine] / tokens
        grown = (1.0 + growth_of(study, w)) ** year
        for s, fit in enumerate(design.fits[w]):
            here = np.flatnonzero(design.share[mine, s] > 0.0)
            if fit is None or not len(here):
                continue
            for hour in hours:
                load = rate[w, s] * grown * day[w, s, hour] / replicas[w, s]
                at_hour = per_s[here] * design.share[mine[here], s] * demand.day[mine[here], hour]
                add(design.rtt_ms[mine[here], s], at_hour, fit, load, tokens, replicas[w, s])
        cloud = design.cloud[w]
        away = np.flatnonzero(design.rented[mine] > 0.0)
        if rented and cloud is not None and len(away):
            part = per_s[away] * design.rented[mine[away]] * len(hours)
            add(design.cloud_rtt_ms[mine[away]], part, cloud, 0.5 * cloud.tokens_per_s, tokens, 1.0)
    return np.concatenate(found_ms), np.concatenate(found)

"""Time to first token that users of a design wait, in closed form: the way there, the prompt's reading, its length's spread.

Here: `ttft_quantiles_ms`. Not here: queues and meeting of requests, which the twin knows (`validate`); planned capacity makes waiting for a slot
rare (`capacity.WAIT_SHARE`).

A request of prompt length q (lognormal) waits the round trip, what is left of a step, a step of its own at the replica's mean load, and reading x q / mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import NormalDist
from typing import Final

import numpy as np
from numpy.typing import NDArray

from hanse.plan.demand import Demand
from hanse.plan.design import Design
from hanse.plan.fleet_out import PROMPT_SIGMA
from hanse.plan.operate import first_replicas, loads_of
from hanse.plan.study_file import Study

Floats = NDArray[np.float64]
POINTS: Final = 64
"""Quantiles of the prompt's length that stand for it."""


def ttft_quantiles_ms(
    design: Design, study: Study, demand: Demand, shares: Sequence[float], *, year: int = 0
) -> Floats:
    """[share] TTFT of interactive requests in a year, over all that are answered; NaN where none is."""
    ms, weight = samples(design, study, demand, year)
    return np.array([weighted_quantile(ms, weight, share) for share in shares])


def samples(design: Design, study: Study, demand: Demand, year: int) -> tuple[Floats, Floats]:
    """TTFT in ms and weight (requests/s) of every row, site and quantile of the prompt."""
    rate, _, _ = loads_of(design, study, demand)
    replicas, _ = first_replicas(design, study, demand, year)
    spread = _spread()
    found_ms, found = [np.zeros(0)], [np.zeros(0)]
    for i, row in enumerate(demand.rows):
        work = study.workloads[row.workload]
        if work.kind != "interactive":
            continue
        per_s = demand.tokens_per_s[i] / (work.tokens_in + work.tokens_out)
        growth = study.growth_per_year if work.growth_per_year is None else work.growth_per_year
        for s, share in enumerate(design.share[i]):
            fit = design.fits[row.workload][s]
            if share <= 0.0 or fit is None:
                continue
            load = rate[row.workload, s] * (1.0 + growth) ** year / replicas[row.workload, s]
            wait_ms = float(np.interp(load, fit.loads, fit.waits_ms))
            found_ms.append(design.rtt_ms[i, s] + wait_ms + fit.prompt_ms * spread)
            found.append(np.full(POINTS, per_s * share / POINTS))
        cloud = design.cloud[row.workload]
        if design.rented[i] > 0.0 and cloud is not None:
            half_ms = float(np.interp(0.5 * cloud.tokens_per_s, cloud.loads, cloud.waits_ms))
            found_ms.append(design.cloud_rtt_ms[i] + half_ms + cloud.prompt_ms * spread)
            found.append(np.full(POINTS, per_s * design.rented[i] / POINTS))
    return np.concatenate(found_ms), np.concatenate(found)


def weighted_quantile(values: Floats, weight: Floats, share: float) -> float:
    """Smallest value at or below which `share` of the weight lies."""
    if len(values) == 0:
        return float("nan")
    order = np.argsort(values, kind="stable")
    reached = np.cumsum(weight[order])
    at = int(np.searchsorted(reached, share * reached[-1]))
    return float(values[order[min(at, len(values) - 1)]])


def _spread() -> Floats:
    """[point] prompt length over its mean."""
    normal = NormalDist()
    z = np.array([normal.inv_cdf((k + 0.5) / POINTS) for k in range(POINTS)])
    found = np.exp(PROMPT_SIGMA * z)
    return np.asarray(found / found.mean())

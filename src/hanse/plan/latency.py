"""Time to first token that users of a design wait, in closed form: the way there, the step that is met, the prompt's reading.

Here: `ttft_quantiles_ms`. Not here: steps and prompts that meet in them (`serving.open_loop`); waiting for a slot, which planned capacity makes rare
(`capacity.WAIT_SHARE`), and sites' helping each other, which the twin knows (`validate`).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from statistics import NormalDist
from typing import Final

import numpy as np
from numpy.typing import NDArray

from hanse.plan.capacity import Fit, running_at
from hanse.plan.demand import HOURS, Demand
from hanse.plan.design import Design
from hanse.plan.operate import first_replicas, growth_of, loads_of
from hanse.plan.study_file import Study, Workload
from hanse.serving.open_loop import (
    POINTS,
    PROMPT_SIGMA,
    prompt_lengths,
    waits_ms,
    weighted_quantile,
)

Floats = NDArray[np.float64]
DAY: Final = tuple(range(0, HOURS, 3))
"""Hours that stand for a day."""
FINE: Final = 32
"""Prompts told apart within each of the `POINTS`: around the 95th percentile two of these are 50 ms apart, an eighth of what is asked for."""
EVENED: Final = 0.5
"""Of the variance of replicas' running requests, as if each had its own: what a site's choice leaves. Found in the twin: at 1.3 to 2.4 requests a second of a 70B
model, of two and three replicas, 4.7 and 5.3 % wait for another's prompt (17 and 30 % at one alone); at 17 to 33 of an 8B model they wait as at one alone."""
STRIDE: Final = 13
"""From one wait's prompts to the next one's: no neighbours, and all `FINE` are reached."""


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
    drawn = 0

    def add(
        rtt_ms: Floats, per_s: Floats, fit: Fit, load: float, work: Workload, count: float
    ) -> None:
        """All rows that one replica's load answers: round trips and requests/s [row]."""
        nonlocal drawn
        readings = np.array(fit.readings_ms)
        decode = float(np.interp(load, fit.loads, fit.decodes_ms))
        per_ms = load / (work.tokens_in + work.tokens_out) / 1000.0
        avoided = preference(fit, load, work.tokens_out)
        waits, weight = waits_ms(decode, readings, per_ms, count, avoided)
        # Every wait meets as many prompts, but others within each of their points, so that together they leave no gaps.
        which = STRIDE * (drawn + np.arange(len(waits))) % FINE
        drawn += len(waits)
        all_ms = fit.fixed_ms + waits[:, None] + fine_readings_ms(fit.readings_ms)[:, which].T
        found_ms.append((rtt_ms[:, None, None] + all_ms).ravel())
        each = per_s[:, None, None] * weight[:, None] * np.full(len(readings), 1.0 / len(readings))
        found.append(each.ravel())

    for w, work in enumerate(study.workloads):
        if work.kind != "interactive":
            continue
        mine = np.flatnonzero(demand.workload == w)
        per_s = demand.tokens_per_s[mine] / (work.tokens_in + work.tokens_out)
        grown = (1.0 + growth_of(study, w)) ** year
        for s, fit in enumerate(design.fits[w]):
            here = np.flatnonzero(design.share[mine, s] > 0.0)
            if fit is None or not len(here):
                continue
            for hour in hours:
                load = rate[w, s] * grown * day[w, s, hour] / replicas[w, s]
                at_hour = per_s[here] * design.share[mine[here], s] * demand.day[mine[here], hour]
                add(design.rtt_ms[mine[here], s], at_hour, fit, load, work, replicas[w, s])
        cloud = design.cloud[w]
        away = np.flatnonzero(design.rented[mine] > 0.0)
        if rented and cloud is not None and len(away):
            part = per_s[away] * design.rented[mine[away]] * len(hours)
            add(design.cloud_rtt_ms[mine[away]], part, cloud, 0.5 * cloud.tokens_per_s, work, 1.0)
    return np.concatenate(found_ms), np.concatenate(found)


def preference(fit: Fit, load: float, tokens_out: float) -> float:
    """How far a request avoids a replica that reads a prompt. A site weighs what is read there against how many run, whose answers it makes longer:
    variance of the one in that of both.

    Args:
        load: Tokens a second of one replica.
    """
    if fit.slots < 2:
        return 1.0
    longer_ms = tokens_out * (fit.decodes_ms[-1] - fit.decodes_ms[0]) / (fit.slots - 1.0)
    prompt_ms = sum(fit.readings_ms) / len(fit.readings_ms)
    spread = EVENED * longer_ms**2 * running_at(fit, load)
    both = prompt_ms**2 + spread
    return prompt_ms**2 / both if both > 0.0 else 1.0


@cache
def fine_readings_ms(readings_ms: tuple[float, ...]) -> Floats:
    """[point, finer point] reading a prompt, equally likely, from what it takes at the middle of each point; on a line beyond the ends."""
    lengths, known = np.array(prompt_lengths()), np.array(readings_ms)
    if len(known) != POINTS:
        return np.repeat(known[:, None], FINE, axis=1)
    normal = NormalDist()
    scores = [normal.inv_cdf((k + 0.5) / (POINTS * FINE)) for k in range(POINTS * FINE)]
    # The same distribution, by its own mean: of so few points the mean misses the tail.
    wanted = np.exp(PROMPT_SIGMA * np.array(scores) - 0.5 * PROMPT_SIGMA**2)
    found = np.interp(wanted, lengths, known)
    for end, inner, beyond in ((0, 1, wanted < lengths[0]), (-1, -2, wanted > lengths[-1])):
        slope = (known[end] - known[inner]) / (lengths[end] - lengths[inner])
        found[beyond] = np.maximum(known[end] + slope * (wanted[beyond] - lengths[end]), 0.0)
    return np.asarray(found.reshape(POINTS, FINE))

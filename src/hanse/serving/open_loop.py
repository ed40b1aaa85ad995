"""A replica under open arrivals: requests come at random moments, with prompts and answers of all lengths.

Here: TTFT, TPOT, throughput and power with b requests running on average, means and what 95 of 100 requests stay below. Not here: closed loops, which
benchmarks run (`serving.steady`); steps one by one, which the twin runs.

S tokens of prompt, O of answer, both lognormal; T_d the step in which b requests decode, T_p what a prompt adds to the step it is read in, r requests a
second, c_S = exp(sigma_S^2) the second moment of a length over the square of its mean.

    a step          L = T_d + r L T_p, so L = T_d / (1 - r T_p)                     prompts that came during the last one are read in it
    TPOT            T_d + (b - 1) T_p / O                                           others' prompts are read in the O steps of one request
    context         b (S + c_O O / 2)                                               long answers run longer (inspection paradox)
    first token     the rest of the step that a request meets (long ones more often), then a step with it and those that came meanwhile;
                    of several replicas it goes to one that reads nothing, if there is one
    spread of TPOT  1.645 T_p / O sqrt(c_S c_O (b - 1))                             a Poisson number of prompts of random length

Valid where step times are linear in tokens and requests wait for no slot.
"""

from __future__ import annotations

import math
from functools import cache
from statistics import NormalDist
from typing import Final

import numpy as np
from numpy.typing import NDArray

from hanse.model.fleet import Value
from hanse.serving.steady import Pace, pace_of
from hanse.serving.steps import StepModel
from hanse.units import s_from_ms

Floats = NDArray[np.float64]
PROMPT_SIGMA: Final = 0.9
ANSWER_SIGMA: Final = 0.6
"""Of the logarithm of tokens: near the conversation service of Azure's trace of 2023."""
POINTS: Final = 64
"""Prompt lengths that stand for all, equally likely."""
FEW: Final = slice(4, None, 8)
"""Of those, where prompts of others are meant: each for an eighth."""
RESTS: Final = (1 / 6, 1 / 2, 5 / 6)
"""Of the step that is met: what is left of it, equally likely."""
CUTS: Final = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98])
"""Shares between which waits are told by their mean."""
Z95: Final = 1.645
ROUNDS: Final = 12
"""Of the fixed point of rate and time; each halves its error."""


class Loaded(Value, frozen=True, kw_only=True):
    """What requests see while `running` of them run; power and throughput are of the whole replica."""

    running: float
    decode_ms: float
    """A step in which all of them decode and no prompt is read."""
    fixed_ms: float
    readings_ms: tuple[float, ...]
    """[point] what reading a prompt adds, the shortest first, equally likely: long ones attend to more."""
    ttft_ms: float
    ttft_ms_p95: float
    tpot_ms: float
    tpot_ms_p95: float
    e2e_s: float
    tokens_per_s: float
    """Prompt and answer tokens."""
    power_w: float


def loaded(step: StepModel, running: float, tokens_in: float, tokens_out: float) -> Loaded:
    """A replica with so many requests running on average."""
    c_out = float(np.exp(ANSWER_SIGMA**2))
    paces = [_pace(step, running, tokens_in * x, tokens_out * c_out) for x in prompt_lengths()]
    at_mean = _pace(step, running, tokens_in, tokens_out * c_out)
    decode, fixed = at_mean.decode_ms, at_mean.ttft_ms_fixed
    readings = np.array([p.prompt_ms for p in paces])
    prompt = float(readings.mean())
    tpot, tpot_p95 = _tpot_ms(decode, prompt, running, tokens_out)
    whole_ms = fixed + 1.5 * decode + prompt + tokens_out * tpot
    waits, weight, wait = np.zeros(1), np.ones(1), 0.0
    for _ in range(ROUNDS):
        waits, weight = waits_ms(decode, readings, running / whole_ms)
        wait = fixed + float(waits @ weight)
        whole_ms = 0.5 * whole_ms + 0.5 * (wait + prompt + (tokens_out - 1.0) * tpot)
    reading = min(running / whole_ms * prompt, 1.0)
    all_ms = fixed + waits[:, None] + readings
    every = np.repeat(weight, POINTS) / POINTS
    return Loaded(
        running=running,
        decode_ms=decode,
        fixed_ms=fixed,
        readings_ms=tuple(readings.tolist()),
        ttft_ms=wait + prompt,
        ttft_ms_p95=weighted_quantile(all_ms.ravel(), every, 0.95),
        tpot_ms=tpot,
        tpot_ms_p95=tpot_p95,
        e2e_s=s_from_ms(whole_ms),
        tokens_per_s=(tokens_in + tokens_out) * running / s_from_ms(whole_ms),
        power_w=at_mean.decode_w * (1.0 - reading) + at_mean.prefill_w * reading,
    )


def tpot_ms_p95(step: StepModel, running: float, tokens_in: float, tokens_out: float) -> float:
    """That of `loaded`, without the waits for a first token, which take twenty times as long to tell."""
    c_out = float(np.exp(ANSWER_SIGMA**2))
    paces = [_pace(step, running, tokens_in * x, tokens_out * c_out) for x in prompt_lengths()]
    decode = _pace(step, running, tokens_in, tokens_out * c_out).decode_ms
    prompt = float(np.array([p.prompt_ms for p in paces]).mean())
    return _tpot_ms(decode, prompt, running, tokens_out)[1]


def _tpot_ms(
    decode_ms: float, prompt_ms: float, running: float, tokens_out: float
) -> tuple[float, float]:
    """Mean, and what 95 of 100 stay below."""
    c_in, c_out = float(np.exp(PROMPT_SIGMA**2)), float(np.exp(ANSWER_SIGMA**2))
    others = max(running - 1.0, 0.0)
    mean = decode_ms + others * prompt_ms / tokens_out
    return mean, mean + Z95 * prompt_ms / tokens_out * float(np.sqrt(c_in * c_out * others))


def waits_ms(
    decode_ms: float,
    readings_ms: Floats,
    per_ms: float,
    replicas: float = 1.0,
    preference: float = 1.0,
) -> tuple[Floats, Floats]:
    """From a request's coming to its first token, without what is fixed and without reading its prompt: [point] times and weights.

    Args:
        per_ms: Requests that come to a replica in a millisecond, at random moments.
        replicas: Among which a request goes to the one that is not reading, if there is one: it meets a prompt only where all are reading.
        preference: How far that holds: 0 where it goes anywhere, whatever is read there.
    """
    prompt_ms = float(readings_ms.mean())
    step = decode_ms / (1.0 - min(per_ms * prompt_ms, 0.95))
    reading = readings_ms[FEW]
    points = len(reading)
    # The step that is met: with 0 to 3 prompts, the more often the longer it is.
    p = _poisson(per_ms * step, 3)
    met = np.concatenate([[0.0], reading, reading + prompt_ms, [3.0 * prompt_ms]]) + decode_ms
    chance = np.repeat([p[0], p[1] / points, p[2] / points, p[3]], [1, points, points, 1]) * met
    chance = _last_resort(chance / chance.sum(), preference * (replicas - 1.0))
    # What came with the request during it is read in the same step.
    some = reading[1::3]
    beside = np.concatenate([[0.0], some, [2.0 * prompt_ms]])
    values, weights = [], []
    for length, share in zip(met, chance, strict=True):
        q = _poisson(per_ms * length, 2)
        more = np.concatenate([[q[0]], np.full(len(some), q[1] / len(some)), [q[2]]])
        more = _last_resort(more, preference * (replicas - 1.0))
        for part in RESTS:
            values.append(part * length + decode_ms + beside)
            weights.append(share / len(RESTS) * more)
    return _thinned(np.concatenate(values), np.concatenate(weights))


def weighted_quantile(values: Floats, weight: Floats, share: float) -> float:
    """Smallest value at or below which `share` of the weight lies."""
    if len(values) == 0:
        return float("nan")
    order = np.argsort(values, kind="stable")
    reached = np.cumsum(weight[order])
    at = int(np.searchsorted(reached, share * reached[-1]))
    return float(values[order[min(at, len(values) - 1)]])


def _last_resort(chance: Floats, others: float) -> Floats:
    """Chances at the best of one and `others` alike, where the first is the one that all prefer."""
    rest = 1.0 - chance[0]
    met = chance[1:] * rest ** max(others, 0.0)
    return np.concatenate([[1.0 - met.sum()], met])


def _poisson(mean: float, most: int) -> list[float]:
    """Chances of 0, 1 ... and of `most` or more."""
    found = [math.exp(-mean) * mean**k / math.factorial(k) for k in range(most)]
    return [*found, max(1.0 - sum(found), 0.0)]


def _thinned(values: Floats, weights: Floats) -> tuple[Floats, Floats]:
    """Means of the stretches between `CUTS`."""
    order = np.argsort(values, kind="stable")
    values, weights = values[order], weights[order]
    middle = np.cumsum(weights) - 0.5 * weights
    at = np.searchsorted(CUTS, middle)
    total = np.bincount(at, weights, len(CUTS) + 1).astype(np.float64)
    mean = np.bincount(at, weights * values, len(CUTS) + 1).astype(np.float64) / np.maximum(
        total, 1e-300
    )
    return mean[total > 0.0], total[total > 0.0]


@cache
def prompt_lengths() -> tuple[float, ...]:
    """[point] prompt lengths over their mean, equally likely, shortest first; their own mean is 1."""
    normal = NormalDist()
    raw = np.exp([PROMPT_SIGMA * normal.inv_cdf((k + 0.5) / POINTS) for k in range(POINTS)])
    return tuple(float(x) for x in raw / raw.mean())


def _pace(step: StepModel, running: float, tokens_in: float, tokens_out: float) -> Pace:
    return pace_of(step, running, max(tokens_in, 1.0), tokens_out)

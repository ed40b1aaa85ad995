"""What a replica serves of random arrivals within its service's promise.

Here: how many requests at once 95 of 100 requests bear (`slots_within`), how many a second that makes when they seldom wait
(`rated`), and the same of a replica that breaks the promise (`rated_late`) or whose slots are given (`rated_at`). Not here: formulas
of a replica's load (`open_loop`), which replicas stand where (`dispatch.place`, `plan`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Final

import numpy as np

from hanse.catalogue import accelerator, ai_model
from hanse.errors import ConfigError
from hanse.model.fleet import Value
from hanse.serving.open_loop import ANSWER_SIGMA, Z95, loaded, tpot_ms_p95
from hanse.serving.precisions import known_precision
from hanse.serving.steady import running_of
from hanse.serving.steps import StepModel, decode_w, step_model
from hanse.units import wh_from_j

SLOTS_MAX: Final = 256
"""vLLM's default `max_num_seqs`; more requests at once than this gain little and wait longer."""
LOAD_BYTES_PER_S: Final = 2e9
"""Weights from a local NVMe disk into accelerator memory; 1 to 3 GB/s are usual, and engines add set-up of their own."""
START_S: Final = 5.0
"""Process start and warm-up of an inference server beside reading its weights."""

LATE_TIMES: Final = 1.5
"""A replica that keeps no promise is loaded until 95 of 100 requests take so many times what one alone takes: late, and not endlessly."""


class Rated(Value, frozen=True, kw_only=True):
    """One replica at the load where requests seldom wait; power and rate are of all its chips."""

    slots: int
    """Requests at once at which the promise is just kept."""
    running: float
    """Of those the mean, so that in nineteen of twenty moments a slot is free."""
    requests_per_s: float
    ttft_ms_p95: float
    tpot_ms_p95: float
    e2e_s: float
    idle_w: float
    """Loaded, nothing to do."""
    wh_per_request: float
    """Above idle, at that load."""
    weights_gb: float
    start_s: float
    """From nothing to the first answer."""
    kv_tokens_max: float
    """What fits beside the weights."""


def slots_within(
    step: StepModel, tokens_in: float, tokens_out: float, *, ttft_ms: float, tpot_ms: float
) -> int:
    """Most requests at once within the promise for 95 of 100; 0: not even one. TPOT and TTFT grow with the batch."""
    room = _room(step, tokens_in, tokens_out)

    def in_time(slots: int) -> bool:
        return slots <= room and tpot_ms_p95(step, slots, tokens_in, tokens_out) <= tpot_ms

    def prompt(slots: int) -> bool:
        return loaded(step, slots, tokens_in, tokens_out).ttft_ms_p95 <= ttft_ms

    # The cheaper question first: it usually decides.
    return _most(_most(SLOTS_MAX, in_time), prompt)


def _most(high: int, meets: Callable[[int], bool]) -> int:
    """The largest number up to `high` that meets what small ones meet; 0: not even one."""
    if high == 0 or meets(high):
        return high
    if not meets(1):
        return 0
    low = 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if meets(middle) else (low, middle)
    return low


def running_mean(slots: float) -> float:
    """Mean of a Poisson number of running requests that stays within `slots` in nineteen of twenty moments: m + 1.645 sqrt(m) = slots.

    Normal approximation, good from about 5 running on; below it is careful.
    """
    return ((-Z95 + math.sqrt(Z95**2 + 4.0 * slots)) / 2.0) ** 2


def replica_step(
    model: str,
    precision: str,
    chip: str,
    chips: int,
    slots: int,
    tokens_in: float,
    tokens_out: float,
) -> StepModel | None:
    """How a replica steps with requests of such lengths in its slots; None where it does not fit."""
    try:
        return step_model(
            ai_model(model),
            known_precision(precision),
            accelerator(chip),
            count=chips,
            slots=slots,
            context_tokens_mean=tokens_in + tokens_out / 2.0,
        )
    except ConfigError:
        return None


@cache
def rated(
    model: str,
    precision: str,
    chip: str,
    chips: int,
    tokens_in: float,
    tokens_out: float,
    ttft_ms: float,
    tpot_ms: float,
) -> Rated | None:
    """A replica on `chips` chips under open arrivals; None where it does not fit or one request alone breaks the promise."""

    def slots_of(step: StepModel, *tokens: float) -> int:
        return slots_within(step, *tokens, ttft_ms=ttft_ms, tpot_ms=tpot_ms)

    return _of_slots((model, precision, chip, chips), tokens_in, tokens_out, slots_of)


@cache
def rated_late(
    model: str,
    precision: str,
    chip: str,
    chips: int,
    tokens_in: float,
    tokens_out: float,
    ttft_ms: float,
    tpot_ms: float,
) -> Rated | None:
    """`rated` with a promise that one request alone keeps (`LATE_TIMES`); None where it does not fit."""

    def slots_of(step: StepModel, *tokens: float) -> int:
        first_ms = LATE_TIMES * loaded(step, 1, *tokens).ttft_ms_p95
        each_ms = LATE_TIMES * tpot_ms_p95(step, 1, *tokens)
        return slots_within(
            step, *tokens, ttft_ms=max(ttft_ms, first_ms), tpot_ms=max(tpot_ms, each_ms)
        )

    return _of_slots((model, precision, chip, chips), tokens_in, tokens_out, slots_of)


@cache
def rated_at(
    model: str,
    precision: str,
    chip: str,
    chips: int,
    tokens_in: float,
    tokens_out: float,
    slots: int,
) -> Rated | None:
    """A replica with so many slots, fewer where its memory holds fewer, whatever that does to a promise; None where it does not fit."""

    def slots_of(step: StepModel, *tokens: float) -> int:
        return int(min(slots, _room(step, *tokens)))

    return _of_slots((model, precision, chip, chips), tokens_in, tokens_out, slots_of)


def _of_slots(
    replica: tuple[str, str, str, int],
    tokens_in: float,
    tokens_out: float,
    slots_of: Callable[[StepModel, float, float], int],
) -> Rated | None:
    """A replica with the slots that its steps are found to bear; None where it does not fit, or bears not even one request."""
    tokens_in, tokens_out = max(tokens_in, 1.0), max(tokens_out, 1.0)
    step = replica_step(*replica, SLOTS_MAX, tokens_in, tokens_out)
    if step is None:
        return None
    try:
        slots = slots_of(step, tokens_in, tokens_out)
    except ConfigError:  # not even one request fits beside the weights
        return None
    return _rated(step, slots, tokens_in, tokens_out) if slots else None


def _room(step: StepModel, tokens_in: float, tokens_out: float) -> float:
    """Requests at once whose answers, longer than the mean while they run, fit beside the weights."""
    return running_of(step, SLOTS_MAX, tokens_in, tokens_out * float(np.exp(ANSWER_SIGMA**2)))


def _rated(step: StepModel, slots: int, tokens_in: float, tokens_out: float) -> Rated:
    mean, tokens = running_mean(slots), tokens_in + tokens_out
    said = loaded(step, mean, tokens_in, tokens_out)
    per_s = said.tokens_per_s / tokens
    # Below one running request the formulas stand for one; the rest of the time it idles.
    watts = (
        said.power_w if mean >= 1.0 else step.idle_w + mean * (decode_w(step, 1.0) - step.idle_w)
    )
    return Rated(
        slots=slots,
        running=mean,
        requests_per_s=per_s,
        ttft_ms_p95=said.ttft_ms_p95,
        tpot_ms_p95=said.tpot_ms_p95,
        e2e_s=said.e2e_s,
        idle_w=step.idle_w,
        wh_per_request=wh_from_j(max(watts - step.idle_w, 0.0) / per_s),
        weights_gb=step.weights_bytes / 1e9,
        start_s=START_S + step.weights_bytes / LOAD_BYTES_PER_S,
        kv_tokens_max=step.kv_tokens_max,
    )

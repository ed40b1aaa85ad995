"""What a chip serves of a workload within its SLO, and what it draws: from the same step model that the twin's engines run.

Here: `fit_of`, the best replica of a workload on an accelerator; how many slots a peak needs so that requests seldom wait. Not here:
where replicas stand (`designs`), formulas of a replica's load (`serving.open_loop`).
"""

from __future__ import annotations

import math
from functools import cache
from typing import Final, NamedTuple

import numpy as np

from hanse.catalogue import accelerator_named, ai_model_named
from hanse.energy.plant import chip_rated_w, empty_w, host_w
from hanse.errors import ConfigError
from hanse.model.fleet import Value
from hanse.plan.study_file import Workload
from hanse.serving.linear import expected_errors
from hanse.serving.open_loop import loaded
from hanse.serving.precisions import arithmetic, known_precision
from hanse.serving.steps import StepModel, step_model
from hanse.serving.within_slo import SLOTS_MAX, slots_within

COUNTS: Final = (1, 2, 4, 8)
"""Chips of one replica: inside one server, where tensor parallelism has fast links."""
BATCHES: Final = (1, 2, 4, 8, 16, 32, 64, 128)
"""Where power over load is asked for; in between it is taken as straight."""
TUNING_MFU: Final = 0.35
"""Share of the rated 16-bit operations: 0.3 to 0.45 in published fine-tuning runs on one server."""
WAIT_SHARE: Final = 0.01
"""Share of a peak's time in which a request may find all slots taken."""
Z_WAIT: Final = 2.326
"""Quantile of the normal distribution that leaves `WAIT_SHARE`."""


class Fit(Value, frozen=True, kw_only=True):
    """One replica of a workload within its SLO."""

    accelerator: str
    chips: int
    slots: int
    """Requests at once at which TPOT and TTFT are just met."""
    tokens_per_s: float
    """Prompt and answer tokens a second with all slots taken."""
    e2e_s: float
    """Of a request, with all slots taken."""
    ttft_ms: float
    tpot_ms: float
    idle_w: float
    """Of all its chips, loaded and waiting."""
    busy_w: float
    """With all slots taken."""
    rated_w: float
    """IT power it needs, server included."""
    host_w: float
    """Of that, what the servers around the chips draw, whatever the load."""
    loads: tuple[float, ...]
    """Tokens a second at 0, 1, 2, 4 ... `slots` requests at once; the next two at the same."""
    watts: tuple[float, ...]
    """Mean power of all its chips."""
    decodes_ms: tuple[float, ...]
    """A step in which all running requests decode."""
    fixed_ms: float
    """Of TTFT, whatever the load."""
    readings_ms: tuple[float, ...]
    """Reading a prompt, from short to long ones, equally likely."""
    method: str
    error: float
    """Expected of times and throughput (median)."""

    @property
    def watts_per_token_s(self) -> float:
        """IT power to install for one token a second."""
        return self.rated_w / self.tokens_per_s


def fit_of(work: Workload, chip: str) -> Fit:
    """The replica that serves most tokens for its rated power.

    Raises:
        ConfigError: no replica of up to 8 chips holds the model and meets the SLO.
    """
    if work.kind == "finetune":
        return _tuning(work.model, chip)
    return _fit(
        work.model,
        work.precision,
        chip,
        work.tokens_in,
        work.tokens_out,
        work.ttft_ms,
        work.tpot_ms,
    )


@cache
def _tuning(model: str, chip: str) -> Fit:
    """Fine-tuning with low-rank adapters on one server: the weights in 16 bit, activations checkpointed.

    tokens/s = MFU x dense 16-bit rate / (6 N) (Kaplan et al., arXiv 2001.08361); adapters save the gradients of weights, but recomputing
    activations costs about as much again. Power is near the rating all the time.
    """
    facts, shape = accelerator_named(chip), ai_model_named(model)
    rate = arithmetic(facts, "bf16").wide_tflops
    held_gb = 2.0 * shape.params_b * 1.3
    counts = [n for n in COUNTS if n * (facts.memory_gb or 0.0) >= held_gb]
    if rate is None or not counts or not facts.tdp_w:
        raise ConfigError(
            f"fine-tuning {model} on {chip}",
            got="too little memory" if rate else "no published rate",
            allowed=f"{held_gb:.0f} GB on at most {COUNTS[-1]} chips",
            fix="name another accelerator",
        )
    count = counts[0]
    active_b = shape.params_active_computed_b or shape.params_active_b or shape.params_b
    tokens_per_s = count * TUNING_MFU * rate * 1e12 / (6.0 * active_b * 1e9)
    watts = 0.9 * count * facts.tdp_w
    return Fit(
        accelerator=facts.id,
        chips=count,
        slots=1,
        tokens_per_s=tokens_per_s,
        e2e_s=1.0,
        ttft_ms=0.0,
        tpot_ms=0.0,
        idle_w=count * empty_w(facts.id),
        busy_w=watts,
        rated_w=count * chip_rated_w(facts.id),
        host_w=count * host_w(facts.id),
        loads=(0.0, tokens_per_s),
        watts=(count * empty_w(facts.id), watts),
        decodes_ms=(0.0, 0.0),
        fixed_ms=0.0,
        readings_ms=(0.0,),
        method="closed form",
        error=0.3,
    )


@cache
def _fit(
    model: str,
    precision: str,
    chip: str,
    tokens_in: float,
    tokens_out: float,
    ttft_ms: float,
    tpot_ms: float,
) -> Fit:
    precision = known_precision(precision, where="workload.precision")
    best: Fit | None = None
    why = ""
    for count in COUNTS:
        try:
            replica = _Replica(model, precision, chip, count, tokens_in, tokens_out)
            slots = replica.slots(ttft_ms, tpot_ms)
        except ConfigError as error:
            why = why or str(error)
            continue
        if slots == 0:
            why = f"{count} chips: one request alone takes longer than TTFT {ttft_ms:g} or TPOT {tpot_ms:g} ms"
            continue
        found = replica.described(slots)
        if best is None or found.watts_per_token_s < best.watts_per_token_s * 0.98:
            best = found
    if best is None:
        raise ConfigError(
            f"{model} {precision} on {chip}",
            got=why,
            allowed=f"a replica of at most {COUNTS[-1]} chips that meets the SLO",
            fix="name another accelerator, a smaller precision or a longer SLO",
        )
    return best


def running_at(fit: Fit, load: float) -> float:
    """Requests that run at once at so many tokens a second."""
    at = (0.0, *(float(b) for b in _batches(fit.slots)))
    return float(np.interp(load, fit.loads, at))


def _batches(slots: int) -> list[int]:
    """Where a replica is described: powers of two, and full."""
    return sorted({*(b for b in BATCHES if b < slots), slots})


def slots_needed(mean_running: float, peakedness: float = 1.0) -> float:
    """Slots so that a Poisson number of running requests seldom (`WAIT_SHARE`) exceeds them: m + z sqrt(m c).

    Normal approximation of the offered load, good from about 5 running requests on; below it is generous. `peakedness` c is variance
    over mean of the number running; above 1 for bursts.
    """
    return mean_running + Z_WAIT * math.sqrt(mean_running * peakedness)


class _Replica(NamedTuple):
    """Chips that serve one model together, for requests of such lengths."""

    model: str
    precision: str
    chip: str
    chips: int
    tokens_in: float
    tokens_out: float

    def slots(self, ttft_ms: float, tpot_ms: float) -> int:
        """Most requests at once within the SLO for 95 of 100; 0: not even one. TPOT and TTFT grow with the batch."""
        step = self.step(SLOTS_MAX)
        return slots_within(step, self.tokens_in, self.tokens_out, ttft_ms=ttft_ms, tpot_ms=tpot_ms)

    def step(self, slots: int) -> StepModel:
        """Its engine, with so many slots."""
        return step_model(
            ai_model_named(self.model),
            self.precision,
            accelerator_named(self.chip),
            count=self.chips,
            slots=slots,
            context_tokens_mean=self.tokens_in + self.tokens_out / 2.0,
        )

    def described(self, slots: int) -> Fit:
        """At rising numbers of running requests, the last of them full."""
        facts, step = accelerator_named(self.chip), self.step(slots)
        course = [loaded(step, b, self.tokens_in, self.tokens_out) for b in _batches(slots)]
        full = course[-1]
        method, _, error, _ = expected_errors(ai_model_named(self.model), self.precision, facts)
        return Fit(
            accelerator=facts.id,
            chips=self.chips,
            slots=slots,
            tokens_per_s=full.tokens_per_s,
            e2e_s=full.e2e_s,
            ttft_ms=full.ttft_ms,
            tpot_ms=full.tpot_ms,
            idle_w=step.idle_w,
            busy_w=full.power_w,
            rated_w=self.chips * chip_rated_w(facts.id),
            host_w=self.chips * host_w(facts.id),
            loads=(0.0, *(c.tokens_per_s for c in course)),
            watts=(step.idle_w, *(c.power_w for c in course)),
            decodes_ms=(course[0].decode_ms, *(c.decode_ms for c in course)),
            fixed_ms=full.fixed_ms,
            readings_ms=full.readings_ms,
            method=method,
            error=error,
        )

"""One replica of a model at the level of an engine's iterations: what a step costs in time and power.

Here: `StepModel`, its record form for kernels, and `step_model`, which picks the method. Not here: the kernels that
evaluate it (`kernels`), its linear form for routing tables (`linear`), where its numbers come from (`roofline`, `thread`).

A step takes n new tokens: chunks of prompts, and one for each request that decodes:

    ms = max(weights + routed (1 - miss^n) + kv * context, compute * n) + attention * pairs + fixed + request * batch + comm * n
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from hanse.catalogue import Accelerator, AiModel
from hanse.errors import ConfigError
from hanse.model.fleet import Value

CONTEXT_TOKENS_MEAN: Final = 1024.0
"""Context of a request in the linear form: between chat turns of 2023 (1,155 in) and short prompts."""


class StepModel(Value, frozen=True, kw_only=True):
    """One replica: times of one engine step, watts of all its chips."""

    weights_ms: float
    """Weights that every step reads."""
    routed_ms: float
    """Weights of routed experts, if a step hit all of them; 0 for dense models."""
    routed_miss: float
    """Probability that one token leaves an expert out, 1 - k/E; 0 for dense models."""
    kv_ms_per_token: float
    """Per token of context that decoding requests attend to."""
    compute_ms_per_token: float
    """Per token processed in a step, prompt or answer."""
    attention_ms_per_pair: float
    """Prompt attention: per new token and token of context before it."""
    step_ms_fixed: float
    """Launches and the scheduler, whatever is in the step."""
    request_ms: float
    """Per request in the batch."""
    comm_ms_per_token: float
    """All-reduce of tensor parallelism, per token processed."""
    ttft_ms_fixed: float
    """API and tokenizer, before the scheduler sees a request."""
    idle_w: float
    """Model loaded, nothing to do."""
    decode_w_base: float
    decode_w_per_log2: float
    """Decoding B requests: base + this * min(log2 B, 8)."""
    prefill_w: float
    kv_tokens_max: float
    """Tokens of context that fit beside the weights."""
    weights_bytes: float
    """To be read from disk when the replica is loaded."""
    chips: float


STEP_DTYPE: Final = np.dtype([(name, "f8") for name in StepModel.__struct_fields__], align=True)
"""A `StepModel` as kernels take it: the same names, all f8."""


def step_rows(models: Sequence[StepModel]) -> npt.NDArray[Any]:
    """Records [replica kind] of `STEP_DTYPE`."""
    names = StepModel.__struct_fields__
    return np.array([tuple(getattr(m, n) for n in names) for m in models], dtype=STEP_DTYPE)


def step_model(
    model: AiModel,
    precision: str,
    accelerator: Accelerator,
    *,
    count: int,
    slots: int,
    context_tokens_mean: float = CONTEXT_TOKENS_MEAN,
) -> StepModel:
    """A replica on `count` chips that decodes up to `slots` requests at once.

    Args:
        context_tokens_mean: Where models with sliding windows are linearised; others do not depend on it.

    Raises:
        ConfigError: a figure is missing that no honest guess replaces, or the weights do not fit.
    """
    # Here, because both make StepModels.
    from hanse.serving import roofline, thread

    if accelerator.id == thread.THREAD:
        return thread.step_model(model, precision, accelerator, count=count)
    if min(count, slots) < 1:
        raise ConfigError("count", got=f"{count} chips, {slots} slots", allowed="at least one")
    return roofline.step_model(
        model, precision, accelerator, count=count, context_tokens_mean=context_tokens_mean
    )


def step_ms(
    step: StepModel, new_tokens: float, prefill_pairs: float, batch: float, context_tokens: float
) -> float:
    """Duration of one step; `kernels.step_ms` is the same, compiled."""
    hit: float = 1.0 - step.routed_miss**new_tokens
    memory_ms = step.weights_ms + step.routed_ms * hit + step.kv_ms_per_token * context_tokens
    return (
        max(memory_ms, step.compute_ms_per_token * new_tokens)
        + step.attention_ms_per_pair * prefill_pairs
        + step.step_ms_fixed
        + step.request_ms * batch
        + step.comm_ms_per_token * new_tokens
    )


def decode_ms(
    step: StepModel, batch: float, context_tokens_mean: float = CONTEXT_TOKENS_MEAN
) -> float:
    """A step in which `batch` requests decode and no prompt is read."""
    return step_ms(step, batch, 0.0, batch, batch * context_tokens_mean)


def decode_w(step: StepModel, batch: float) -> float:
    """Watts of the replica's chips while `batch` requests decode."""
    return step.decode_w_base + step.decode_w_per_log2 * min(math.log2(batch), 8.0)

"""One replica of a model at the level of an engine's iterations: what a step costs in time and power.

Here: `StepModel`, its record form for kernels, and `step_model`, which picks the method. Not here: the kernels that
evaluate it (`kernels`), its linear form for routing tables (`linear`), where its numbers come from (`roofline`, `thread`).

A step takes n new tokens: chunks of prompts, and one for each request that decodes:

    ms = max(weights + routed (1 - miss^n) + kv * context, compute * n) + attention * pairs + fixed + request * batch + comm * n
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from hanse.catalogue import Accelerator, AiModel
from hanse.model.fleet import Value


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
    model: AiModel, precision: str, accelerator: Accelerator, *, count: int, slots: int
) -> StepModel:
    """A replica on `count` chips that decodes up to `slots` requests at once.

    Raises:
        ConfigError: a figure is missing that no honest guess replaces, or the weights do not fit.
    """
    # Here, because both make StepModels.
    from hanse.serving import roofline, thread

    if accelerator.id == thread.THREAD:
        return thread.step_model(model, precision, accelerator, count=count)
    return roofline.step_model(model, precision, accelerator, count=count, slots=slots)

"""What one step of an engine takes, compiled: the same formula as `StepModel` states, for simulators.

Here: njit functions of scalars. Not here: batching and queues. Importing this imports numba; nothing in `hanse.serving`
does so by itself.
"""

from __future__ import annotations

import math
from typing import Any

from numba import njit

from hanse.compiled import HOT


@njit(**HOT)
def step_ms(
    model_row: Any, new_tokens: float, prefill_pairs: float, batch: float, context_tokens: float
) -> float:
    """Duration of one step.

    Args:
        model_row: A record of `STEP_DTYPE`.
        new_tokens: Tokens of prompt chunks in this step plus one for each decoding request.
        prefill_pairs: Sum over prompt tokens in this step of the context before each, itself included.
        batch: Requests in the step.
        context_tokens: Sum of contexts of the decoding requests.
    """
    m = model_row
    hit = 1.0 - m.routed_miss**new_tokens
    memory_ms = m.weights_ms + m.routed_ms * hit + m.kv_ms_per_token * context_tokens
    ms: float = (
        max(memory_ms, m.compute_ms_per_token * new_tokens)
        + m.attention_ms_per_pair * prefill_pairs
        + m.step_ms_fixed
        + m.request_ms * batch
        + m.comm_ms_per_token * new_tokens
    )
    return ms


@njit(**HOT)
def step_w(model_row: Any, batch: float, prefill_tokens: float) -> float:
    """Mean power of one step with `batch` requests decoding, all chips of the replica; idle with none.

    Prompt tokens draw `prefill_w` for their share of the step: their computation beside weights and overhead.
    """
    m = model_row
    w: float = m.idle_w if prefill_tokens <= 0.0 else m.prefill_w
    if batch <= 0.0:
        return w
    decode_w = m.decode_w_base + m.decode_w_per_log2 * min(math.log2(max(batch, 1.0)), 8.0)
    prompt_ms = (m.compute_ms_per_token + m.comm_ms_per_token) * prefill_tokens
    decode_ms = (
        max(
            m.weights_ms + m.routed_ms * (1.0 - m.routed_miss**batch),
            m.compute_ms_per_token * batch,
        )
        + m.step_ms_fixed
        + m.request_ms * batch
    )
    mixed_w: float = (decode_w * decode_ms + m.prefill_w * prompt_ms) / (decode_ms + prompt_ms)
    return mixed_w

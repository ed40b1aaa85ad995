"""One server CPU thread running llama.cpp: measured rows, scaled to other models by their parameters.

Here: the engine of the demo league. Not here: whole CPUs (`roofline`).
"""

from __future__ import annotations

from typing import Final

from hanse.catalogue import Accelerator, AiModel
from hanse.serving.precisions import weight_bytes
from hanse.serving.steps import StepModel
from hanse.units import BYTES_PER_GB

THREAD: Final = "x86-thread"
THREAD_MODEL: Final = "SmolLM2-135M"
THREAD_PREFILL_MS_PER_TOKEN: Final = 477.0 / 110.0
"""Measured: llama.cpp, 1 thread, q4_1, prompt of 110 tokens in 477 ms."""
THREAD_TPOT_MS_BASE: Final = 4.9
THREAD_TPOT_MS_PER_RUNNING: Final = 9.0
"""Measured: 72, 38, 23, 13 tok/s for each of 1, 2, 4, 8 at once; the line gives 72, 44, 24, 13."""
THREAD_FAST: Final = {"q4_0": 1.5}
"""Measured: q4_0 is about 1.5 times as fast as q4_1, prefill and decode."""
THREAD_TTFT_MS_FIXED: Final = 13.0
"""Measured: time to first token of a prompt of a few tokens."""
THREAD_KV_BYTES: Final = BYTES_PER_GB
"""A choice: what a demo engine may hold of a host's memory."""


def step_model(model: AiModel, precision: str, chip: Accelerator, *, count: int) -> StepModel:
    """A replica on `count` threads. Energy assumes that a busy thread draws the catalogue's full-load watts."""
    threads = max(count, 1)
    active = model.params_active_computed_b or model.params_active_b or model.params_b
    scale = active / 0.1345 / THREAD_FAST.get(precision.casefold(), 1.0) / threads
    assert chip.tdp_w is not None
    busy_w = threads * chip.tdp_w
    prefill_ms = THREAD_PREFILL_MS_PER_TOKEN * scale
    return StepModel(
        weights_ms=0.0,
        routed_ms=0.0,
        routed_miss=0.0,
        kv_ms_per_token=0.0,
        compute_ms_per_token=prefill_ms,
        attention_ms_per_pair=0.0,
        step_ms_fixed=THREAD_TPOT_MS_BASE * scale,
        # A decoding request costs its token like a prompt's, and the rest on top: small batches use a CPU worse.
        request_ms=THREAD_TPOT_MS_PER_RUNNING * scale - prefill_ms,
        comm_ms_per_token=0.0,
        ttft_ms_fixed=THREAD_TTFT_MS_FIXED,
        idle_w=threads * (chip.idle_w or 0.0),
        decode_w_base=busy_w,
        decode_w_per_log2=0.0,
        prefill_w=busy_w,
        kv_tokens_max=float(int(THREAD_KV_BYTES / max(model.kv_bytes_per_token_16bit, 1))),
        weights_bytes=model.params_b * 1e9 * weight_bytes(precision),
        chips=float(threads),
    )

"""How long and how much energy an engine takes for a token: a few coefficients per (model, hardware).

Here: a roofline with fitted constants for accelerators, and measured rows for one CPU thread. Each prediction says
its method and expected error. Not here: queues and load (`dispatch.choose`), sites, PUE, price, carbon.

Formulas. n chips; w bytes a weight; P parameters; L layers; q heads of d; S tokens in; B requests decoding; C tokens
of context each. Roofline of BLIS (inference-sim) and AIConfigurator (arXiv 2601.06288), constants fitted on 1,630
published rows of Llama-3.1, Qwen3, gpt-oss and DeepSeek on H100, H200 and B200; 95 rows held out give TPOT 12 %
median error, 35 % for other chip families, TTFT about 50 % where arrivals are not stated.

    prefill  T_p = 2.1 (2 P S + 2 L q d S^2) / (n F)              F peak FLOP/s of the weights' precision
    decode   T_d = max(1.43 W / (n BW) + B C kv / (n BW), 2.1 * 2 P B / (n F)) + 14 us L + 8 us B
    power    P_chip = TDP (0.525 + 0.041 min(log2 B, 8))          ML.ENERGY v3, vLLM; here without idle power

Both are made linear in B between 1 and the replica's slots, where they are exact: TPOT(B) = base + B * per_running.
Energy is dynamic energy of the chips (above idle): idle power belongs to the site, whoever it serves.
"""

from __future__ import annotations

import math
from typing import Final, Literal

from hanse.catalogue import Accelerator, AiModel
from hanse.errors import ConfigError
from hanse.model.fleet import Value
from hanse.units import BYTES_PER_GB, ms_from_s, wh_from_j

Method = Literal["measured", "roofline, calibrated family", "roofline, other hardware"]

WEIGHT_BYTES: Final = {
    "f32": 4.0,
    "fp32": 4.0,
    "bf16": 2.0,
    "fp16": 2.0,
    "f16": 2.0,
    "fp8": 1.0,
    "int8": 1.0,
    "q8_0": 1.0625,
    "q6_k": 0.82,
    "q5_k_m": 0.71,
    "mxfp4": 0.53,
    "nvfp4": 0.56,
    "int4": 0.56,
    "awq": 0.56,
    "gptq": 0.56,
    "q4_k_m": 0.6,
    "q4_1": 0.625,
    "q4_0": 0.5625,
}
"""Bytes a weight with its scales: q4_0 has 18 bytes for 32 weights, q4_1 20, q8_0 34; k-quants are means of a file."""

WEIGHTS_FACTOR: Final = 1.43
"""Fitted: weights stream at 70 % of rated bandwidth."""
COMPUTE_FACTOR: Final = 2.1
"""Fitted: 47 % of peak FLOP/s is reached."""
LAYER_US: Final = 14.0
REQUEST_US: Final = 8.0
MOE_LAYER_US: Final = 32.0
TTFT_MS_FIXED: Final = 73.0
"""Fitted: API, tokenizer, scheduling. Known to be too large for a lone request."""
CONTEXT_TOKENS_MEAN: Final = 1024.0
"""Context at which the linear form is taken: between chat turns of 2023 (1,155 in) and short prompts."""
MEMORY_RESERVED_GB: Final = 3.5
"""Activations, graphs, runtime (AIConfigurator)."""
PREFILL_POWER_SHARE: Final = 0.853
"""Of TDP: the power law at its upper end, B = 256; prefill is compute bound like a large batch."""
IDLE_SHARE_UNKNOWN: Final = 0.10
"""Of TDP where no idle power is published: H100 and H200 have 0.10, A100 0.11, B200 0.14."""
CALIBRATED: Final = ("h100", "h200", "b200")

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


class EngineCoefficients(Value, frozen=True, kw_only=True):
    """One replica, as the routing table carries it."""

    ttft_ms_fixed: float
    prefill_ms_per_token: float
    tpot_ms_base: float
    tpot_ms_per_running: float
    """TPOT with B requests decoding is base + B * this."""
    prefill_wh_per_token: float
    decode_wh_shared: float
    """Of one decode step, shared by all B that decode."""
    decode_wh_per_token: float
    kv_tokens_max: int
    """Tokens that fit beside the weights; the placement may allow fewer."""
    method: Method
    ttft_error: float
    """Expected relative error (median), like the two below."""
    tpot_error: float
    energy_error: float

    def tpot_ms(self, running: float) -> float:
        """Time per output token with so many requests decoding at once."""
        return self.tpot_ms_base + self.tpot_ms_per_running * running

    def decode_wh(self, running: float) -> float:
        """Energy per output token with so many requests decoding at once."""
        return self.decode_wh_shared / running + self.decode_wh_per_token


def coefficients(
    model: AiModel, precision: str, accelerator: Accelerator, *, count: int, slots: int
) -> EngineCoefficients:
    """Coefficients of a replica on `count` chips that decodes up to `slots` requests at once.

    Raises:
        ConfigError: where a figure is missing that no honest guess replaces, or the weights do not fit.
    """
    if accelerator.id == THREAD:
        return _thread(model, precision, accelerator, count=count, slots=slots)
    return _roofline(model, precision, accelerator, count=count, slots=slots)


def weight_bytes(precision: str) -> float:
    """Bytes per weight of a precision by name."""
    found = WEIGHT_BYTES.get(precision.casefold())
    if found is None:
        raise ConfigError(
            "variant.precision", got=repr(precision), allowed=", ".join(sorted(WEIGHT_BYTES))
        )
    return found


def _roofline(
    model: AiModel, precision: str, chip: Accelerator, *, count: int, slots: int
) -> EngineCoefficients:
    bandwidth, flops, memory, tdp_w = _rated(chip, precision)
    active = (model.params_active_computed_b or model.params_active_b or model.params_b) * 1e9
    prefill_s = _prefill_s_per_token(model, active, count * flops)
    one_s = _decode_step_s(model, precision, active, 1, count * bandwidth, count * flops)
    full = max(slots, 2)
    full_s = _decode_step_s(model, precision, active, full, count * bandwidth, count * flops)
    per_running_s = (full_s - one_s) / (full - 1)
    idle_w = chip.idle_w if chip.idle_w is not None else IDLE_SHARE_UNKNOWN * tdp_w
    one_j = count * one_s * max(0.0, _decode_w(tdp_w, 1) - idle_w)
    full_j = count * full_s * max(0.0, _decode_w(tdp_w, full) - idle_w)
    own_j = (full_j - one_j) / (full - 1)
    prefill_j = count * prefill_s * max(0.0, PREFILL_POWER_SHARE * tdp_w - idle_w)
    calibrated = chip.id.startswith(CALIBRATED)
    return EngineCoefficients(
        ttft_ms_fixed=TTFT_MS_FIXED,
        prefill_ms_per_token=ms_from_s(prefill_s),
        tpot_ms_base=ms_from_s(one_s - per_running_s),
        tpot_ms_per_running=ms_from_s(per_running_s),
        prefill_wh_per_token=wh_from_j(prefill_j),
        decode_wh_shared=wh_from_j(one_j - own_j),
        decode_wh_per_token=wh_from_j(own_j),
        kv_tokens_max=_kv_tokens_max(model, precision, count * memory),
        method="roofline, calibrated family" if calibrated else "roofline, other hardware",
        ttft_error=0.5,
        tpot_error=0.15 if calibrated else 0.35,
        energy_error=0.15 if calibrated else 0.35,
    )


def _rated(chip: Accelerator, precision: str) -> tuple[float, float, float, float]:
    """Bandwidth bytes/s, FLOP/s, memory bytes, TDP watts."""
    narrow = chip.fp8_tflops_dense or chip.int8_tops_dense
    wide = chip.bf16_tflops_dense or (narrow / 2 if narrow else None)
    fast = narrow if precision.casefold() in ("fp8", "int8") else None
    tflops = fast or wide
    figures = {
        "memory_bw_gb_s": chip.memory_bw_gb_s,
        "bf16_tflops_dense": tflops,
        "memory_gb": chip.memory_gb,
        "tdp_w": chip.tdp_w,
    }
    missing = [name for name, value in figures.items() if not value]
    if missing:
        raise ConfigError(
            f"accelerator {chip.id}",
            got=f"no published {', '.join(missing)}",
            allowed="an accelerator with rated bandwidth, compute, memory and power",
        )
    assert chip.memory_bw_gb_s and tflops and chip.memory_gb and chip.tdp_w
    return (
        chip.memory_bw_gb_s * BYTES_PER_GB,
        tflops * 1e12,
        chip.memory_gb * BYTES_PER_GB,
        chip.tdp_w,
    )


def _prefill_s_per_token(model: AiModel, active: float, flops: float) -> float:
    attention = 2.0 * model.layers * model.q_heads * (model.head_dim or 0) * CONTEXT_TOKENS_MEAN
    return COMPUTE_FACTOR * (2.0 * active + attention) / flops


def _decode_step_s(
    model: AiModel, precision: str, active: float, batch: int, bandwidth: float, flops: float
) -> float:
    weights = _weights_touched(model, active, batch) * weight_bytes(precision)
    kv = batch * CONTEXT_TOKENS_MEAN * model.kv_bytes_per_token_16bit
    memory_s = (WEIGHTS_FACTOR * weights + kv) / bandwidth
    compute_s = COMPUTE_FACTOR * 2.0 * active * batch / flops
    layer_us = LAYER_US + (MOE_LAYER_US if model.experts else 0.0)
    return max(memory_s, compute_s) + (layer_us * model.layers + REQUEST_US * batch) * 1e-6


def _weights_touched(model: AiModel, active: float, batch: int) -> float:
    """Parameters read in one step; of E experts, top k each, B tokens hit E (1 - (1 - k/E)^B)."""
    total = model.params_b * 1e9
    if not model.experts or not model.experts_per_token:
        return total
    share = model.experts_per_token / model.experts
    routed = max(0.0, (total - active) / (1.0 - share)) if share < 1.0 else 0.0
    hit = 1.0 - (1.0 - share) ** batch
    return total - routed + routed * hit


def _decode_w(tdp_w: float, batch: int) -> float:
    return tdp_w * (0.525 + 0.041 * min(math.log2(batch), 8.0))


def _kv_tokens_max(model: AiModel, precision: str, memory: float) -> int:
    weights = model.params_b * 1e9 * weight_bytes(precision)
    free = memory - weights - MEMORY_RESERVED_GB * BYTES_PER_GB
    if free <= 0:
        raise ConfigError(
            f"model {model.id} at {precision}",
            got=f"{weights / BYTES_PER_GB:.1f} GB of weights on {memory / BYTES_PER_GB:.1f} GB",
            allowed=f"weights and {MEMORY_RESERVED_GB} GB of reserve within memory",
            fix="use more chips, a smaller precision or a smaller model",
        )
    return int(free / max(model.kv_bytes_per_token_16bit, 1))


def _thread(
    model: AiModel, precision: str, chip: Accelerator, *, count: int, slots: int
) -> EngineCoefficients:
    """One server CPU thread running llama.cpp; other models scale with their parameters.

    Energy assumes that a busy thread draws the catalogue's full-load watts of one thread above idle.
    """
    weight_bytes(precision)
    known = model.id == THREAD_MODEL
    threads = max(count, 1)
    active = model.params_active_computed_b or model.params_active_b or model.params_b
    scale = active / 0.1345 / THREAD_FAST.get(precision.casefold(), 1.0) / threads
    assert chip.tdp_w is not None
    dynamic_w = threads * (chip.tdp_w - (chip.idle_w or 0.0))
    prefill_ms = THREAD_PREFILL_MS_PER_TOKEN * scale
    base_ms, per_running_ms = THREAD_TPOT_MS_BASE * scale, THREAD_TPOT_MS_PER_RUNNING * scale
    wh_per_ms = wh_from_j(dynamic_w / 1000.0)
    return EngineCoefficients(
        ttft_ms_fixed=THREAD_TTFT_MS_FIXED,
        prefill_ms_per_token=prefill_ms,
        tpot_ms_base=base_ms,
        tpot_ms_per_running=per_running_ms,
        prefill_wh_per_token=prefill_ms * wh_per_ms,
        decode_wh_shared=base_ms * wh_per_ms,
        decode_wh_per_token=per_running_ms * wh_per_ms,
        kv_tokens_max=int(BYTES_PER_GB / max(model.kv_bytes_per_token_16bit, 1)),
        method="measured" if known else "roofline, other hardware",
        ttft_error=0.3 if known else 0.6,
        tpot_error=0.2 if known else 0.6,
        energy_error=0.5,
    )

"""A roofline with fitted constants: a replica on accelerators from rated figures and a model's shape.

Here: bytes moved and operations done by one step, divided by what a chip reaches of its rating. Not here: CPU threads
(`thread`), measured tables.

Formulas. n chips; w bytes a weight; P parameters; L layers; q heads of d; S tokens in; B requests decoding; C tokens
of context each. Roofline of BLIS (inference-sim) and AIConfigurator (arXiv 2601.06288), constants fitted on 1,630
published rows of Llama-3.1, Qwen3, gpt-oss and DeepSeek on H100, H200 and B200; 95 rows held out give TPOT 12 %
median error, 35 % for other chip families, TTFT about 50 % where arrivals are not stated.

    prefill  T_p = 2.1 (2 P S + 2 L q d S^2) / (n F)              F peak FLOP/s of the weights' precision
    decode   T_d = max(1.43 W / (n BW) + B C kv / (n BW), 2.1 * 2 P B / (n F)) + 14 us L + 8 us B
    power    P_chip = TDP (0.525 + 0.041 min(log2 B, 8))          ML.ENERGY v3, vLLM
"""

from __future__ import annotations

from typing import Final

from hanse.catalogue import Accelerator, AiModel
from hanse.errors import ConfigError
from hanse.serving.precisions import weight_bytes
from hanse.serving.steps import StepModel
from hanse.units import BYTES_PER_GB, ms_from_s

WEIGHTS_FACTOR: Final = 1.43
"""Fitted: weights stream at 70 % of rated bandwidth."""
COMPUTE_FACTOR: Final = 2.1
"""Fitted: 47 % of peak FLOP/s is reached."""
LAYER_US: Final = 14.0
REQUEST_US: Final = 8.0
MOE_LAYER_US: Final = 32.0
TTFT_MS_FIXED: Final = 73.0
"""Fitted: API, tokenizer, scheduling. Known to be too large for a lone request."""
MEMORY_RESERVED_GB: Final = 3.5
"""Activations, graphs, runtime (AIConfigurator)."""
DECODE_SHARE: Final = 0.525
DECODE_SHARE_PER_LOG2: Final = 0.041
PREFILL_POWER_SHARE: Final = 0.853
"""Of TDP: the power law at its upper end, B = 256; prefill is compute bound like a large batch."""
IDLE_SHARE_UNKNOWN: Final = 0.10
"""Of TDP where no idle power is published: H100 and H200 have 0.10, A100 0.11, B200 0.14."""
CALIBRATED: Final = ("h100", "h200", "b200")


def step_model(
    model: AiModel, precision: str, chip: Accelerator, *, count: int, slots: int
) -> StepModel:
    """A replica on `count` chips by the formulas above."""
    bandwidth, flops, memory, tdp_w = (count * rated for rated in _rated(chip, precision))
    size = weight_bytes(precision)
    active = (model.params_active_computed_b or model.params_active_b or model.params_b) * 1e9
    every, routed = _weights(model, active)
    weight_ms = ms_from_s(WEIGHTS_FACTOR * size / bandwidth)
    op_ms = ms_from_s(COMPUTE_FACTOR / flops)
    layer_us = LAYER_US + (MOE_LAYER_US if model.experts else 0.0)
    idle_w = count * chip.idle_w if chip.idle_w is not None else IDLE_SHARE_UNKNOWN * tdp_w
    return StepModel(
        weights_ms=every * weight_ms,
        routed_ms=routed * weight_ms,
        routed_miss=_miss(model),
        kv_ms_per_token=ms_from_s(model.kv_bytes_per_token_16bit / bandwidth),
        compute_ms_per_token=2.0 * active * op_ms,
        attention_ms_per_pair=4.0 * model.layers * model.q_heads * (model.head_dim or 0) * op_ms,
        step_ms_fixed=layer_us * model.layers / 1000.0,
        request_ms=REQUEST_US / 1000.0,
        comm_ms_per_token=0.0,
        ttft_ms_fixed=TTFT_MS_FIXED,
        idle_w=idle_w,
        decode_w_base=DECODE_SHARE * tdp_w,
        decode_w_per_log2=DECODE_SHARE_PER_LOG2 * tdp_w,
        prefill_w=PREFILL_POWER_SHARE * tdp_w,
        kv_tokens_max=_kv_tokens_max(model, precision, memory),
        weights_bytes=model.params_b * 1e9 * size,
        chips=float(count),
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


def _miss(model: AiModel) -> float:
    if not model.experts or not model.experts_per_token:
        return 0.0
    return 1.0 - model.experts_per_token / model.experts


def _weights(model: AiModel, active: float) -> tuple[float, float]:
    """Parameters read in every step, and those of routed experts; B tokens hit 1 - (1 - k/E)^B of them."""
    total, miss = model.params_b * 1e9, _miss(model)
    routed = max(0.0, (total - active) / miss) if miss > 0.0 else 0.0
    return total - routed, routed


def _kv_tokens_max(model: AiModel, precision: str, memory: float) -> float:
    weights = model.params_b * 1e9 * weight_bytes(precision)
    free = memory - weights - MEMORY_RESERVED_GB * BYTES_PER_GB
    if free <= 0:
        raise ConfigError(
            f"model {model.id} at {precision}",
            got=f"{weights / BYTES_PER_GB:.1f} GB of weights on {memory / BYTES_PER_GB:.1f} GB",
            allowed=f"weights and {MEMORY_RESERVED_GB} GB of reserve within memory",
            fix="use more chips, a smaller precision or a smaller model",
        )
    return float(int(free / max(model.kv_bytes_per_token_16bit, 1)))

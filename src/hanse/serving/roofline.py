"""A roofline with fitted constants: a replica on accelerators from rated figures and a model's shape.

Here: bytes moved and operations done by one step (`shapes`), divided by what a family of chips reaches of its ratings
(`families`). Not here: CPU threads (`thread`), measured tables (`measured`).

Formulas. n chips, all working on every token (tensor parallel); e shares of the family; BW, F, link rated figures of a chip;
W bytes; L layers of width h.

    weights    (W_every / e_w + W_routed (1 - miss^n_new) / e_r) / (n BW)        roofline of BLIS and AIConfigurator
    KV         C kv (n_kv or 1) / (e_kv n BW)                                    C tokens of context in all; n_kv: 8-bit caches
    compute    (2 P + 2 P_routed p E/k) / (e_F n F) a token                      P active, without the embedding; p: padding
    attention  4 q d L / (e_a n F16) a pair                                      prompts only
    fixed      (t_layer + t_routed k/8 + t_latent) L + t_step + 2 L t_reduce log2 n
    comm       2 L 2 (n-1)/n 2 h / (e_l link) + passes L 2 h / BW + a * compute  a token; a: compute that does not hide
    power      TDP (base + per_log2 min(log2 B, 8) + routed)                     form: ML.ENERGY v3 with vLLM
"""

from __future__ import annotations

import math
from typing import Final

from hanse.catalogue import Accelerator, AiModel
from hanse.energy.plant import empty_w
from hanse.errors import ConfigError
from hanse.model.fleet import Value
from hanse.serving.families import Family, family_of, runs_llama_cpp
from hanse.serving.precisions import Arithmetic, arithmetic, known_precision, weight_bytes
from hanse.serving.shapes import Shape, shape
from hanse.serving.steps import StepModel
from hanse.units import BYTES_PER_GB, gb_from_bytes, ms_from_s

RESERVED_GB_MAX: Final = 3.5
"""Activations, graphs, runtime of one chip (AIConfigurator)."""
RESERVED_GB: Final = 0.5
RESERVED_SHARE: Final = 0.1
"""Of a small chip's memory beside that half GB: engines leave a tenth free by default (vLLM)."""
LINK_GB_S_UNKNOWN: Final = 32.0
"""PCIe 4.0 x16, one way: what a chip without a published link has at least."""
POWER_SHARE_MAX: Final = 1.0


class Rated(Value, frozen=True, kw_only=True):
    """Rated figures of all chips of a replica."""

    count: int
    bytes_per_s: float
    ops_per_s: float
    wide_ops_per_s: float
    memory_bytes: float
    reserved_bytes: float
    tdp_w: float
    link_bytes_per_s: float
    """Of one chip."""


def step_model(
    model: AiModel,
    precision: str,
    chip: Accelerator,
    *,
    count: int,
    context_tokens_mean: float,
    family: Family | None = None,
) -> StepModel:
    """A replica on `count` chips by the formulas above; `family` replaces the chip's own constants."""
    name = known_precision(precision)
    if model.kind == "asr":
        raise ConfigError(f"model {model.id}", got="kind asr", allowed="a model that reads text")
    known = family or family_of(chip, name)
    how = arithmetic(chip, name)
    rated = rated_of(chip, how, count)
    gguf = runs_llama_cpp(chip, name)
    made = shape(model, name, context_tokens_mean=context_tokens_mean, gguf=gguf)
    weight_s, routed_s = _weights_s(made, known, rated, name, how)
    kv_bytes = made.kv_bytes_per_token * (known.kv_narrow if computes_narrow(how) else 1.0)
    kv_s = kv_bytes / (known.kv_share * rated.bytes_per_s)
    token_s = _padded_ops(made, known) / (_ops_share(known, name, how) * rated.ops_per_s)
    pair_s = made.attention_ops_per_pair / (known.attention_ops_share * rated.wide_ops_per_s)
    base, per_log2, prefill = _power(known, rated, made)
    return StepModel(
        weights_ms=ms_from_s(weight_s),
        routed_ms=ms_from_s(routed_s),
        routed_miss=made.routed_miss,
        kv_ms_per_token=ms_from_s(kv_s * (1.0 + known.latent_kv_extra * made.latent_kv)),
        compute_ms_per_token=ms_from_s(token_s),
        attention_ms_per_pair=ms_from_s(pair_s),
        step_ms_fixed=_fixed_us(made, known, count) / 1000.0,
        request_ms=known.request_us / 1000.0,
        comm_ms_per_token=ms_from_s(_comm_s(made, known, rated) + known.added_compute * token_s),
        ttft_ms_fixed=known.ttft_ms_fixed,
        idle_w=_idle_w(chip, known, count),
        decode_w_base=base,
        decode_w_per_log2=per_log2,
        prefill_w=prefill,
        kv_tokens_max=_kv_tokens_max(model, name, made, rated, kv_bytes),
        weights_bytes=made.stored_bytes,
        chips=float(count),
    )


def rated_of(chip: Accelerator, how: Arithmetic, count: int) -> Rated:
    """Rated figures of `count` chips; refuses with the names of those that nobody published."""
    figures = {
        "memory_bw_gb_s": chip.memory_bw_gb_s,
        "bf16_tflops_dense": how.tflops,
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
    assert chip.memory_bw_gb_s and how.tflops and how.wide_tflops
    assert chip.memory_gb and chip.tdp_w
    reserved_gb = min(RESERVED_GB_MAX, RESERVED_GB + RESERVED_SHARE * chip.memory_gb)
    return Rated(
        count=count,
        bytes_per_s=count * chip.memory_bw_gb_s * BYTES_PER_GB,
        ops_per_s=count * how.tflops * 1e12,
        wide_ops_per_s=count * how.wide_tflops * 1e12,
        memory_bytes=count * chip.memory_gb * BYTES_PER_GB,
        reserved_bytes=count * reserved_gb * BYTES_PER_GB,
        tdp_w=count * chip.tdp_w,
        link_bytes_per_s=(chip.link_gb_s_one_way or LINK_GB_S_UNKNOWN) * BYTES_PER_GB,
    )


def _weights_s(
    made: Shape, known: Family, rated: Rated, precision: str, how: Arithmetic
) -> tuple[float, float]:
    """Seconds to read what every step reads, and all routed experts."""
    shares = {
        16: known.weights_share_16,
        8: known.weights_share_8,
        4: known.weights_share_4,
    }
    every_s = made.every_bytes / (shares[width(precision)] * rated.bytes_per_s)
    routed_share = known.routed_share_4 if width(precision) == 4 else known.routed_share
    if how.weight_only:
        routed_share *= known.weight_only_share
    return every_s, made.routed_bytes / (routed_share * rated.bytes_per_s)


def width(precision: str) -> int:
    """Which share of bandwidth holds: 16, 8 or 4. Integer weights of 4 bit stream as well as those of 8 (Marlin)."""
    size = weight_bytes(precision)
    if size > 1.5:
        return 16
    return 8 if size > 0.9 or precision in ("int4", "awq", "gptq") else 4


def computes_narrow(how: Arithmetic) -> bool:
    """Whether weights are multiplied at 8 or 4 bit."""
    return how.wide_tflops != how.tflops


def _ops_share(known: Family, precision: str, how: Arithmetic) -> float:
    if not computes_narrow(how):
        return known.ops_share_16
    return known.ops_share_8 if precision in ("fp8", "int8") else known.ops_share_4


def _padded_ops(made: Shape, known: Family) -> float:
    """Operations of one token, with those that fill tiles of experts which got few tokens."""
    if not made.routed:
        return made.ops_per_token
    return (
        made.ops_per_token + made.routed_ops_per_token * known.expert_pad / made.tokens_per_expert
    )


def _fixed_us(made: Shape, known: Family, count: int) -> float:
    layer_us = known.layer_us + known.routed_layer_us * made.expert_groups
    layer_us += known.latent_layer_us * made.latent_kv
    reduce_us = 2.0 * known.reduce_us * math.log2(count) if count > 1 else 0.0
    return (layer_us + reduce_us) * made.layers + known.step_us


def _comm_s(made: Shape, known: Family, rated: Rated) -> float:
    """All-reduces, and passes over the hidden state, which every chip makes in full; 2 bytes a value."""
    hidden_bytes = made.layers * made.hidden * 2.0
    passes_s = known.passes * hidden_bytes / (rated.bytes_per_s / rated.count)
    ring = 2.0 * (rated.count - 1) / rated.count
    return passes_s + 2.0 * ring * hidden_bytes / (known.link_share * rated.link_bytes_per_s)


def _power(known: Family, rated: Rated, made: Shape) -> tuple[float, float, float]:
    base = max(known.power_base + known.power_routed * made.routed, 0.05)
    per_log2 = min(known.power_per_log2, (POWER_SHARE_MAX - base) / 8.0)
    prefill = max(known.power_prefill, base + 8.0 * per_log2)
    return base * rated.tdp_w, per_log2 * rated.tdp_w, prefill * rated.tdp_w


def _idle_w(chip: Accelerator, known: Family, count: int) -> float:
    assert chip.tdp_w is not None
    return count * min(empty_w(chip.id) + known.idle_loaded_w, 0.9 * known.power_base * chip.tdp_w)


def _kv_tokens_max(
    model: AiModel, precision: str, made: Shape, rated: Rated, kv_bytes: float
) -> float:
    free = rated.memory_bytes - made.stored_bytes - rated.reserved_bytes
    if free <= 0:
        memory_gb, reserved_gb = (
            gb_from_bytes(rated.memory_bytes),
            gb_from_bytes(rated.reserved_bytes),
        )
        raise ConfigError(
            f"model {model.id} at {precision}",
            got=f"{gb_from_bytes(made.stored_bytes):.1f} GB of weights on {memory_gb:.1f} GB",
            allowed=f"weights and {reserved_gb:.1f} GB of reserve within memory",
            fix="use more chips, a smaller precision or a smaller model",
        )
    return float(int(free / max(kv_bytes, 1.0)))

"""Number formats of weights: bytes each, by name, and what a chip computes with them.

Here: sizes, names, which formats belong to llama.cpp, and whether a chip has the rate or only unpacks weights to 16 bit.
Not here: how much of a rate an engine reaches (`families`).
"""

from __future__ import annotations

import re
from typing import Final

from hanse.catalogue import Accelerator
from hanse.errors import ConfigError
from hanse.model.fleet import Value

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

GGUF: Final = ("q8_0", "q6_k", "q5_k_m", "q4_k_m", "q4_1", "q4_0", "f16", "f32")
"""Formats of llama.cpp, whose kernels differ from those of the batching engines."""
NAMES: Final = {
    "float32": "fp32", "single": "fp32", "float16": "fp16", "half": "fp16", "bfloat16": "bf16", "16bit": "bf16", "w16a16": "bf16",
    "e4m3": "fp8", "fp8_e4m3": "fp8", "int4_awq": "awq", "int4_gptq": "gptq", "awq_4bit": "awq", "gptq_4bit": "gptq", "float8": "fp8", "w8a8_fp8": "fp8", "w8a16_fp8": "fp8", "fp8_block": "fp8", "fp8_dynamic": "fp8",
    "fp8_static": "fp8", "mxfp8": "fp8", "8bit": "int8", "w8a8": "int8", "w8a8_int8": "int8", "w8a16": "int8", "smoothquant": "int8",
    "bnb_int8": "int8", "fp4": "nvfp4", "float4": "nvfp4", "w4a4": "nvfp4", "fp4_e2m1": "nvfp4", "mx_fp4": "mxfp4", "nv_fp4": "nvfp4",
    "w4a16": "int4", "w4a8": "int4", "w4": "int4", "4bit": "int4", "nf4": "int4", "bnb_4bit": "int4", "bnb_nf4": "int4",
    "int4_wo": "int4", "autoround": "int4", "marlin": "int4", "exl2": "int4", "awq_marlin": "awq", "awq_int4": "awq",
    "gptq_int4": "gptq", "gptq_marlin": "gptq", "q8": "q8_0", "q8_k": "q8_0", "gguf_q8": "q8_0", "gguf_q8_0": "q8_0", "q6": "q6_k",
    "q6k": "q6_k", "q5": "q5_k_m", "q5_k": "q5_k_m", "q5_k_s": "q5_k_m", "q5_0": "q5_k_m", "q4_k": "q4_k_m", "q4_k_s": "q4_k_m",
    "q4_k_xl": "q4_k_m", "ud_q4_k_xl": "q4_k_m", "q4": "q4_k_m", "gguf_q4": "q4_k_m", "gguf_q4_k_m": "q4_k_m", "iq4_xs": "q4_0",
    "iq4_nl": "q4_0", "gguf": "q4_k_m", "gguf_f16": "f16",
}  # fmt: skip
"""Other names people use."""


class Arithmetic(Value, frozen=True, kw_only=True):
    """How a chip multiplies weights of one precision."""

    tflops: float | None
    """Dense peak of the rate used, one chip; None: not published."""
    wide_tflops: float | None
    """Dense 16-bit peak: attention, and weights that are only stored narrow."""
    weight_only: bool
    """Weights are unpacked to 16 bit: less to read, no faster to multiply."""


def known_precision(name: str, *, where: str = "variant.precision") -> str:
    """The name as it stands in `WEIGHT_BYTES`, from any case or common spelling."""
    folded = re.sub(r"[-_ .]+", "_", name.casefold().strip())
    found = NAMES.get(folded, folded)
    if found not in WEIGHT_BYTES:
        joined = folded.replace("_", "")
        found = next((n for n in (*WEIGHT_BYTES, *NAMES) if n.replace("_", "") == joined), found)
        found = NAMES.get(found, found)
    if found not in WEIGHT_BYTES:
        raise ConfigError(where, got=repr(name), allowed=", ".join(sorted(WEIGHT_BYTES)))
    return found


def weight_bytes(precision: str) -> float:
    """Bytes per weight of a precision by name."""
    return WEIGHT_BYTES[known_precision(precision)]


def arithmetic(chip: Accelerator, precision: str) -> Arithmetic:
    """Rates of a chip for a precision; a missing 16-bit rate is half the 8-bit one, as on every chip that has both."""
    narrow = chip.fp8_tflops_dense or chip.int8_tops_dense
    wide = chip.bf16_tflops_dense or chip.fp16_tflops_dense or (narrow / 2 if narrow else None)
    own = {
        "fp8": chip.fp8_tflops_dense,
        "int8": chip.int8_tops_dense or chip.fp8_tflops_dense,
        "nvfp4": chip.fp4_tflops_dense,
        "mxfp4": chip.fp4_tflops_dense or chip.fp8_tflops_dense,
    }.get(precision)
    if own is not None and wide is not None and own > wide:
        return Arithmetic(tflops=own, wide_tflops=wide, weight_only=False)
    if precision in ("fp32", "f32") and wide is not None:
        return Arithmetic(tflops=wide / 2, wide_tflops=wide / 2, weight_only=False)
    stored = WEIGHT_BYTES[precision] < 2.0 and precision not in GGUF
    return Arithmetic(tflops=wide, wide_tflops=wide, weight_only=stored)

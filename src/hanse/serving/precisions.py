"""Number formats of weights: bytes each, by name.

Here: sizes. Not here: how fast a chip is at them (`roofline`).
"""

from __future__ import annotations

from typing import Final

from hanse.errors import ConfigError

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


def weight_bytes(precision: str) -> float:
    """Bytes per weight of a precision by name."""
    found = WEIGHT_BYTES.get(precision.casefold())
    if found is None:
        raise ConfigError(
            "variant.precision", got=repr(precision), allowed=", ".join(sorted(WEIGHT_BYTES))
        )
    return found

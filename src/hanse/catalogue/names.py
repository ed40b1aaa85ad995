"""Names of models and chips as people write them, brought to a form in which the same thing is written alike.

Here: what is dropped from a name (owners, quantization, dates, vendors, memory) and how the rest is compared. Not here: the
tables of names (`models`, `accelerators`), and precisions, which a name may carry but never decides.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from hanse.catalogue.tables import folded

MODEL_TAIL: Final = re.compile(
    r"[-_. ]+(instruct|chat|base|it|pt|hf|text|gguf|ggml|awq|gptq|marlin|exl[23]|mlx|bnb|nf4|quark|autoround|modelopt|onnx|"
    r"quantized|dynamic|static|block|tensor|channel|kv|qat|ptq|mixed|ud|xl|"
    r"(nv|mx)?fp(4|8|16)|fp8[-_]e4m3|bf16|f16|f32|int[48]|u?int[48]wo|w\d+a\w*\d+|[2-8][-_ ]?bits?|\d(\.\d+)?bpw|g(32|64|128)|"
    r"i?q[2-8]([-_](0|1|k|nl|xs|xxs|k[-_][sml]|k[-_]xl))?|v\d+(\.\d+)*|20\d\d|2[3-6](0[1-9]|1[0-2])|\d{4})$"
)
"""What follows the name of a checkpoint: kinds of tuning, formats, versions and dates (2507, 0528)."""
MODEL_HEAD: Final = re.compile(r"^(meta|nvidia|unsloth|redhatai|neuralmagic)[-_ ]+")
CHIP_NOISE: Final = re.compile(
    r"\b(nvidia|amd|intel|google|apple|habana|cloud|geforce|radeon|instinct|tesla|quadro|tensor ?core|gpus?|accelerators?|oam|"
    r"graphics|card|hbm\d?e?|generation|hgx|dgx|edition|baseboard)\b"
)
CHIP_MEMORY: Final = re.compile(r"\b\d+ ?gi?b?\b(?= |$)")
CHIP_COUNT: Final = re.compile(r"^\d+ ?x ")


def model_keys(name: str) -> Iterator[str]:
    """Forms of a model's name to look up, the most literal first: tails go one by one, since some belong to the name."""
    short = name.rsplit("/", 1)[-1].casefold().strip().removesuffix(".gguf")
    short = short.replace(":", "-")  # as Ollama writes sizes
    seen = folded(short)
    yield seen
    for start in dict.fromkeys((short, MODEL_HEAD.sub("", short))):
        while True:
            key = folded(start)
            if key != seen:
                yield key
            shorter = MODEL_TAIL.sub("", start)
            if shorter == start:
                break
            start = shorter


def chip_keys(name: str) -> Iterator[str]:
    """Forms of a chip's name to look up: as it is, without vendor words, and at last without its memory and its slot."""
    yield folded(name)
    plain = re.sub(r"[-_/(),]+", " ", name.casefold())
    plain = re.sub(r"\bsxm\d?\b", "sxm", plain)
    plain = CHIP_COUNT.sub("", f"{plain} ".strip() + " ").strip()
    for noise in (None, CHIP_NOISE, CHIP_MEMORY, re.compile(r"\b(sxm|pcie)\b")):
        plain = plain if noise is None else re.sub(r" +", " ", noise.sub(" ", plain)).strip()
        if plain:
            yield folded(plain)

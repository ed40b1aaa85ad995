"""What one step of a model moves and computes, from its shape alone.

Here: bytes of weights by role, bytes of KV cache, operations. Not here: chips and what they reach (`roofline`).

Formulas: BLIS (inference-sim) and AIConfigurator (arXiv 2601.06288), both of models that generate; the same is taken for those that embed,
without a head and a KV cache, and compared with no measurement of one. Two operations a parameter and token, embedding
apart; attention 4 q d L a pair of tokens; K and V of every layer, or the latent of MLA; sliding layers stop at their window.
"""

from __future__ import annotations

from typing import Final

from hanse.catalogue import AiModel
from hanse.model.fleet import Value
from hanse.serving.precisions import GGUF, WEIGHT_BYTES

WIDE_BYTES: Final = 2.0
MLA_HEAD: Final = 160
"""Mean of 192 (scores) and 128 (values) of DeepSeek-V3, for prompt attention."""
HEAD_UNKNOWN: Final = 128


class Shape(Value, frozen=True, kw_only=True):
    """A model at a precision. Bytes are of the whole model, not of one chip."""

    every_bytes: float
    """Read in every step: attention, dense and shared layers, routers, the output head."""
    routed_bytes: float
    """All routed experts."""
    routed_miss: float
    """Probability that one token leaves a given expert out."""
    stored_bytes: float
    """In memory: also the input embedding."""
    ops_per_token: float
    routed_ops_per_token: float
    """Of those, in routed experts."""
    tokens_per_expert: float
    """Share of a step's tokens that an expert gets, k/E; 0 for dense models."""
    attention_ops_per_pair: float
    kv_bytes_per_token: float
    """To read and to keep, a token of context, at the mean context asked for: engines drop what left the window."""
    expert_groups: float
    """Experts a token goes to, over the usual 8; 0 for dense models."""
    layers: int
    hidden: int
    routed: bool
    latent_kv: bool


def shape(
    model: AiModel, precision: str, *, context_tokens_mean: float, gguf: bool = False
) -> Shape:
    """Bytes and operations of a model at a precision as `WEIGHT_BYTES` names it."""
    size = WEIGHT_BYTES[precision]
    total = model.params_b * 1e9
    active = (model.params_active_computed_b or model.params_active_b or model.params_b) * 1e9
    miss = routed_miss(model)
    routed = max(0.0, (total - active) / miss) if miss > 0.0 else 0.0
    head = float((model.vocab or 0) * model.hidden)
    encodes = model.kind == "embedding"  # has no output head
    inner = total - routed - head * (1 if model.tied_embeddings or encodes else 2)
    inner_bytes, head_bytes = _kept_wider(precision, routed > 0.0, gguf)
    every_bytes = inner * inner_bytes + (0.0 if encodes else head * head_bytes)
    embedding_bytes = 0.0 if model.tied_embeddings else head * head_bytes
    latent = model.attention.startswith("MLA")
    head_dim = model.head_dim or (MLA_HEAD if latent else HEAD_UNKNOWN)
    return Shape(
        every_bytes=every_bytes,
        routed_bytes=routed * size,
        routed_miss=miss,
        stored_bytes=every_bytes + routed * size + embedding_bytes,
        # The input embedding is a look-up; the head is not, and stands for it where the two are one.
        ops_per_token=2.0 * (active if model.tied_embeddings else active - head),
        routed_ops_per_token=2.0 * routed * (1.0 - miss),
        tokens_per_expert=1.0 - miss if miss > 0.0 else 0.0,
        attention_ops_per_pair=4.0 * model.layers * model.q_heads * head_dim,
        kv_bytes_per_token=kv_bytes_read(model, context_tokens_mean),
        expert_groups=(model.experts_per_token or 0) / 8.0 if miss > 0.0 else 0.0,
        layers=model.layers,
        hidden=model.hidden,
        routed=miss > 0.0,
        latent_kv=latent,
    )


def routed_miss(model: AiModel) -> float:
    """Probability that a token's k of E experts leave a given one out; 0 for dense models."""
    if not model.experts or not model.experts_per_token:
        return 0.0
    return 1.0 - model.experts_per_token / model.experts


def kv_bytes_read(model: AiModel, context_tokens_mean: float) -> float:
    """KV bytes a token of context that a step reads, where sliding layers read their window at most."""
    whole = float(model.kv_bytes_per_token_16bit)
    if not model.sliding_window or model.full_attention_layers is None:
        return whole
    full = whole * model.full_attention_layers / model.layers
    seen = min(1.0, model.sliding_window / max(context_tokens_mean, 1.0))
    return full + (whole - full) * seen


def _kept_wider(precision: str, routed: bool, gguf: bool) -> tuple[float, float]:
    """Bytes of inner weights and of the head: published checkpoints quantize less than their name says.

    The head stays at 16 bit (llm-compressor, ModelOpt); gpt-oss keeps all but experts at 16 bit, its GGUF at q8_0;
    4-bit checkpoints of other expert models keep attention at 8 to 16 bit, taken as 8.
    """
    size = WEIGHT_BYTES[precision]
    if gguf:
        return (WEIGHT_BYTES["q8_0"],) * 2 if precision == "mxfp4" else (size, size)
    if size >= WIDE_BYTES or precision in GGUF:
        return size, size
    if precision == "mxfp4" and routed:
        return WIDE_BYTES, WIDE_BYTES
    narrow_experts = routed and size < 1.0
    return (1.0 if narrow_experts else size), WIDE_BYTES

"""AI models: architecture figures from which `serving` computes time, memory and energy.

Here: shapes as published. Not here: quality scores (a fleet file states them with a source) and
measured speeds. `*_computed_b` are parameters computed from the shape; they check the named size.
"""

from __future__ import annotations

from functools import cache
from typing import Literal

import msgspec

from hanse.catalogue.names import model_keys
from hanse.catalogue.tables import Fact, folded, look_up, rows


class AiModel(Fact, frozen=True, kw_only=True):
    """One model at its native shape; an absent figure is not published."""

    id: str
    kind: Literal["dense", "moe", "asr", "embedding"]
    params_total_b: float | None = None
    params_active_b: float | None = None
    params_total_computed_b: float | None = None
    params_active_computed_b: float | None = None
    layers: int
    hidden: int
    ffn: int | None = None
    q_heads: int
    kv_heads: int | None = None
    head_dim: int | None = None
    attention: str
    kv_bytes_per_token_16bit: int
    """All layers, 16-bit values, below any sliding window; see `kv_cap_note`."""
    kv_cap_note: str = ""
    sliding_window: int | None = None
    full_attention_layers: int | None = None
    experts: int | None = None
    experts_per_token: int | None = None
    moe_ffn: int | None = None
    shared_experts: int | None = None
    dense_first_layers: int | None = None
    vocab: int | None = None
    tied_embeddings: bool | None = None
    context: int | None = None
    source: str
    source_params: str
    aliases: tuple[str, ...] = ()

    @property
    def params_b(self) -> float:
        """Total parameters in billions: computed from the shape where it can be, else as named."""
        total = self.params_total_computed_b or self.params_total_b
        assert total is not None, f"{self.id} has no parameter count"
        return total


@cache
def ai_models() -> dict[str, AiModel]:
    """All known models by id."""
    return {m.id: m for m in map(_model, rows("models.csv"))}


def ai_model(name: str, *, where: str = "model") -> AiModel:
    """One model by id or alias, upper and lower case alike."""
    names = [n for m in ai_models().values() for n in (m.id, *m.aliases)]
    found = _by_folded_name().get(name.casefold())
    return found or look_up(ai_models(), name, where=where, noun="AI model", names=names)


@cache
def _by_folded_name() -> dict[str, AiModel]:
    return {n.casefold(): m for m in ai_models().values() for n in (m.id, *m.aliases)}


def ai_model_named(name: str, *, where: str = "model") -> AiModel:
    """One model as people write it: with an owner in front (`meta-llama/...`), a format behind (`-AWQ`, `.Q4_K_M.gguf`), in
    any case, blanks and hyphens alike.
    """
    for key in model_keys(name):
        found = _by_written_name().get(key)
        if found is not None:
            return found
    return ai_model(name.rsplit("/", 1)[-1], where=where)


@cache
def _by_written_name() -> dict[str, AiModel]:
    """Names as they stand win over names that a shorter form makes."""
    table: dict[str, AiModel] = {}
    for m in ai_models().values():
        table.setdefault(folded(m.id), m)
    for m in ai_models().values():
        for name in m.aliases:
            table.setdefault(folded(name), m)
    for m in ai_models().values():
        for name in (m.id, *m.aliases):
            for key in model_keys(name):
                table.setdefault(key, m)
    return table


def _model(row: dict[str, str]) -> AiModel:
    aliases = tuple(a for a in row.pop("aliases", "").split(";") if a)
    return msgspec.convert({**row, "aliases": aliases}, AiModel, strict=False)

"""Accelerators: memory, bandwidth, peak rates, power, price, each with its source.

Here: rated figures as published, dense rates only. Not here: what an engine reaches on them
(`serving`). An absent figure is None: nobody published it, and no default stands in for it.
"""

from __future__ import annotations

from functools import cache
from typing import Literal

from hanse.catalogue.tables import Fact, facts, look_up


class Accelerator(Fact, frozen=True, kw_only=True):
    """One kind of chip, card or box; `x86-thread` is one hardware thread of a server CPU."""

    id: str
    name: str
    vendor: str
    tier: Literal["datacenter", "workstation", "edge", "edge-server", "cpu"]
    year: int | None = None
    memory_gb: float | None = None
    memory_bw_gb_s: float | None = None
    bf16_tflops_dense: float | None = None
    fp8_tflops_dense: float | None = None
    fp4_tflops_dense: float | None = None
    int8_tops_dense: float | None = None
    tdp_w: float | None = None
    """Power at full load. `tdp_kind` says whether this is a rating, a measurement or a guess."""
    tdp_kind: Literal["rating", "measured peak", "assumption"] | None = None
    tdp_w_low: float | None = None
    tdp_w_high: float | None = None
    idle_w: float | None = None
    idle_state: str = ""
    link_gb_s_one_way: float | None = None
    price_usd: float | None = None
    price_kind: str = ""
    source: str
    source_idle: str = ""
    source_price: str = ""
    notes: str = ""


@cache
def all_accelerators() -> dict[str, Accelerator]:
    """All known accelerators by id."""
    return {a.id: a for a in facts("accelerators.csv", Accelerator)}


def accelerator(id: str, *, where: str = "accelerator") -> Accelerator:
    """One accelerator by id; `where` is the path the error names when there is none."""
    return look_up(all_accelerators(), id, where=where, noun="accelerator")

"""Accelerators: memory, bandwidth, peak rates, power, price, each with its source.

Here: rated figures as published, dense rates only. Not here: what an engine reaches on them
(`serving`). An absent figure is None: nobody published it, and no default stands in for it.
"""

from __future__ import annotations

from functools import cache
from typing import Literal

import msgspec

from hanse.catalogue.names import chip_keys
from hanse.catalogue.tables import Fact, folded, look_up, rows


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
    fp16_tflops_dense: float | None = None
    """Only where it is not the BF16 rate, or that is not published."""
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
    aliases: tuple[str, ...] = ()


@cache
def all_accelerators() -> dict[str, Accelerator]:
    """All known accelerators by id."""
    return {a.id: a for a in map(_accelerator, rows("accelerators.csv"))}


def accelerator(id: str, *, where: str = "accelerator") -> Accelerator:
    """One accelerator by id; `where` is the path the error names when there is none."""
    return look_up(all_accelerators(), id, where=where, noun="accelerator")


def accelerator_named(name: str, *, where: str = "accelerator") -> Accelerator:
    """One accelerator as people write it: id, full name or alias, in any case, blanks and hyphens alike, with or without
    vendor, memory and socket where these decide nothing.
    """
    for key in chip_keys(name):
        found = _by_folded_name().get(key)
        if found is not None:
            return found
    names = [n for a in all_accelerators().values() for n in (a.id, *a.aliases)]
    return look_up(all_accelerators(), name, where=where, noun="accelerator", names=names)


@cache
def _by_folded_name() -> dict[str, Accelerator]:
    """Names as they stand win over shorter forms; of those the first chip of the table that has it."""
    table: dict[str, Accelerator] = {}
    chips = all_accelerators().values()
    for a in chips:
        for name in (a.id, a.name, *a.aliases):
            table.setdefault(folded(name), a)
    for a in chips:
        for name in (a.id, a.name, *a.aliases):
            for key in chip_keys(name):
                table.setdefault(key, a)
    return table


def _accelerator(row: dict[str, str]) -> Accelerator:
    aliases = tuple(a for a in row.pop("aliases", "").split(";") if a)
    return msgspec.convert({**row, "aliases": aliases}, Accelerator, strict=False)

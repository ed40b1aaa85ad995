"""What an engine reaches of a chip's rated figures: fitted constants per family of chips.

Here: the table `data/families.csv`, its meaning, and which chip belongs where. Not here: formulas (`roofline`), the fit and
its hold-out tests (`benchmarks/predict.py`, which also prints the errors quoted here).

A family is a generation of chips with one kind of engine: batching engines (vLLM, SGLang, TensorRT-LLM), or llama.cpp,
which GGUF files and small machines run. Constants were fitted on published measurements; families with few rows start
from their neighbour's and move only as far as their own rows pull.
"""

from __future__ import annotations

import csv
from functools import cache
from pathlib import Path
from typing import Final

import msgspec

from hanse.catalogue import Accelerator
from hanse.model.fleet import Value
from hanse.serving.precisions import GGUF

CALIBRATED_ERROR: Final = 0.15
"""A median error beyond this is not called calibrated, neither of a family nor of a chip in it."""
TABLE: Final = Path(__file__).parent / "data" / "families.csv"


class Family(Value, frozen=True, kw_only=True):
    """Shares are of rated figures; microseconds are of one step."""

    id: str
    chips: str
    """Those whose measurements it was fitted on, with semicolons."""
    weights_share_16: float
    """Of rated bandwidth, when reading weights of 16 bit; the next two of 8 and of 4 to 6 bit."""
    weights_share_8: float
    weights_share_4: float
    weight_only_share: float
    """Of the next, where weights are unpacked to 16 bit before they multiply."""
    routed_share: float
    """Of rated bandwidth, for routed experts; above 1 means that fewer are hit than chance says. Next of 4 to 6 bit."""
    routed_share_4: float
    kv_share: float
    kv_narrow: float
    """Bytes of KV cache over those at 16 bit, where weights are computed with at 8 or 4 bit: some engines then keep 8-bit
    caches (0.5), others do not (1)."""
    latent_kv_extra: float
    """MLA computes on what it reads: this much longer than reading takes."""
    ops_share_16: float
    ops_share_8: float
    ops_share_4: float
    expert_pad: float
    """Operations wasted in routed experts: this much times E/k, since tiles are padded up to whole tokens. 1/16 means that
    a tile of 128 is filled from steps of 2,048 tokens."""
    attention_ops_share: float
    added_compute: float
    """Added again to the step, hidden by nothing. So engines reach ops_share / (1 + this) of the rated operations."""
    passes: float
    """Times that a layer reads or writes its hidden state: norms, rotary, residuals."""
    link_share: float
    """Of the rated link, for all-reduce."""
    reduce_us: float
    """Latency of one all-reduce, times log2 of the chips."""
    layer_us: float
    routed_layer_us: float
    """Added, where layers route to experts, for each eight that a token goes to."""
    latent_layer_us: float
    """Added, where layers have MLA."""
    step_us: float
    request_us: float
    ttft_ms_fixed: float
    power_base: float
    """Of TDP, decoding one request."""
    power_per_log2: float
    """Of TDP, for each doubling of the requests up to 256."""
    power_routed: float
    """Of TDP, added for models with routed experts."""
    power_prefill: float
    idle_loaded_w: float
    """Above the idle of an empty chip, once a model is loaded."""
    calibrated_dense: bool
    """Dense models held out of the fit are met within 15 % (median), and so are whole sources; next of routed experts."""
    tpot_error_dense: float
    """Median relative error on dense models and on sources that the fit had not seen, the greater of the two."""
    tpot_error_elsewhere_dense: float
    """The same on chips that it had not seen."""
    calibrated_routed: bool
    tpot_error_routed: float
    tpot_error_elsewhere_routed: float
    ttft_error: float
    power_error: float


SERVER: Final = {
    "h100-sxm": "hopper",
    "h100-pcie": "hopper",
    "h200-sxm": "hopper",
    "h100-nvl": "hopper",
    "h200-nvl": "hopper",
    "h20": "hopper",
    "gh200-96": "hopper",
    "b200-sxm": "blackwell",
    "b300-sxm": "blackwell",
    "gb200": "blackwell",
    "gb300": "blackwell",
    "a100-sxm-80": "ampere",
    "a100-sxm-40": "ampere",
    "a100-pcie-80": "ampere",
    "a100-pcie-40": "ampere",
    "a30": "ampere",
    "l40s": "workstation",
    "l20": "workstation",
    "a10": "workstation",
    "v100-sxm-32": "workstation",
    "rtx-3060-12": "workstation",
    "rtx-3090-ti": "workstation",
    "rtx-4060-ti-16": "workstation",
    "rtx-4070-ti-super": "workstation",
    "rtx-5060-ti-16": "workstation",
    "rtx-5070-ti": "workstation",
    "rtx-5080": "workstation",
    "rtx-a5000": "workstation",
    "l4": "workstation",
    "a40": "workstation",
    "a10g": "workstation",
    "t4": "workstation",
    "rtx-3090": "workstation",
    "rtx-4080": "workstation",
    "rtx-4090": "workstation",
    "rtx-5090": "workstation",
    "rtx-6000-ada": "workstation",
    "rtx-a6000": "workstation",
    "rtx-pro-6000-server": "workstation",
    "mi300x": "cdna",
    "mi325x": "cdna",
    "mi350x": "cdna",
    "mi355x": "cdna",
    "mi250": "cdna",
    "gaudi-2": "gaudi",
    "gaudi-3": "gaudi",
    "dgx-spark-gb10": "small",
    "jetson-agx-thor": "small",
    "jetson-agx-orin-64": "small",
    "jetson-orin-nano-super": "small",
}
"""Chips with batching engines; what is not listed has family `other`."""

LLAMA_CPP: Final = {
    "hopper": "llama-datacenter",
    "blackwell": "llama-datacenter",
    "ampere": "llama-datacenter",
    "workstation": "llama-workstation",
    "small": "llama-small",
}
"""The same chips with llama.cpp; other kinds have `llama-other`."""

LLAMA_ONLY: Final = {"Apple": "llama-apple", "Raspberry Pi": "llama-cpu"}
"""Vendors whose machines run llama.cpp or its like whatever the precision."""


@cache
def families() -> dict[str, Family]:
    """All families by id."""
    with TABLE.open(encoding="utf-8", newline="") as f:
        rows = [msgspec.convert(row, Family, strict=False) for row in csv.DictReader(f)]
    return {row.id: row for row in rows}


def runs_llama_cpp(chip: Accelerator, precision: str) -> bool:
    """Whether llama.cpp is the engine that runs this precision there."""
    if chip.vendor in LLAMA_ONLY or chip.tier == "cpu":
        return True
    # On cards for desks gpt-oss is published with llama.cpp and its wrappers, hardly with batching engines.
    return precision in GGUF or (precision == "mxfp4" and chip.tier in ("workstation", "edge"))


def family_id(chip: Accelerator, precision: str) -> str:
    """Which family's constants hold for a chip at a precision."""
    server = SERVER.get(chip.id, "other")
    if not runs_llama_cpp(chip, precision):
        return server
    if chip.tier == "cpu":
        return "llama-cpu"
    return LLAMA_ONLY.get(chip.vendor) or LLAMA_CPP.get(server, "llama-other")


def family_of(chip: Accelerator, precision: str) -> Family:
    """The constants for a chip at a precision."""
    return families()[family_id(chip, precision)]


class Promise(Value, frozen=True, kw_only=True):
    """How near a prediction is to be, as measured on what the fit had not seen."""

    calibrated: bool
    tpot_error: float
    ttft_error: float
    power_error: float


def promise_of(chip: Accelerator, precision: str, *, routed: bool) -> Promise:
    """What a chip's family promises for dense models or those with routed experts."""
    known = family_of(chip, precision)
    seen = chip.id in known.chips.split(";")
    if routed:
        error = known.tpot_error_routed if seen else known.tpot_error_elsewhere_routed
    else:
        error = known.tpot_error_dense if seen else known.tpot_error_elsewhere_dense
    calibrated = known.calibrated_routed if routed else known.calibrated_dense
    return Promise(
        calibrated=calibrated and error <= CALIBRATED_ERROR,
        tpot_error=error,
        ttft_error=known.ttft_error,
        power_error=known.power_error,
    )

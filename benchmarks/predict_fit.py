"""The fit of the constants in `hanse.serving.families` to published measurements.

Here: measurements as arrays, the step of `hanse.serving.roofline` for all of them at once, and a robust least squares of log
ratios in which each group (source, chip, model, precision, engine) weighs the root of its rows. Families start from their
neighbour's constants and move against a spring. Not here: holding out, errors, the table (`predict.py`).
"""

from __future__ import annotations

import csv
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from hanse.catalogue import accelerator, ai_model
from hanse.errors import ConfigError
from hanse.serving import families as fam
from hanse.serving import roofline
from hanse.serving.precisions import arithmetic
from hanse.serving.roofline import rated_of
from hanse.serving.shapes import shape
from hanse.serving.steady import PREFILL_MIX

ROOT = Path(__file__).parents[1]
ROWS = ROOT / "tests" / "serving" / "measurements.csv"
SCALE = 0.15
"""Errors beyond this count linearly, not squared: published numbers have outliers."""

START = {
    "weights_share_16": 0.7, "weights_share_8": 0.65, "weights_share_4": 0.55, "weight_only_share": 0.7,
    "routed_share": 0.6, "routed_share_4": 0.6, "kv_share": 0.9, "latent_kv_extra": 0.5, "ops_share_16": 0.5, "ops_share_8": 0.4,
    "ops_share_4": 0.3, "kv_narrow": 0.75, "expert_pad": 0.06, "attention_ops_share": 0.4, "added_compute": 0.3, "passes": 15.0,
    "link_share": 0.5, "reduce_us": 4.0, "layer_us": 10.0, "routed_layer_us": 15.0, "latent_layer_us": 15.0, "step_us": 300.0,
    "request_us": 6.0,
}  # fmt: skip
"""From the literature (BLIS, AIConfigurator); the fit moves logarithms away from here against a spring."""
NAMES = tuple(START)
SPRING = {"request_us": 8.0, "weights_share_4": 4.0, "weight_only_share": 4.0}
BOUNDS = {"kv_narrow": (0.5, 1.0)}
PARENTS = {
    "hopper": "common", "blackwell": "common", "ampere": "hopper", "cdna": "hopper", "workstation": "ampere",
    "small": "workstation", "gaudi": "common", "llama-datacenter": "llama", "llama-workstation": "llama", "llama-apple": "llama",
    "llama-small": "llama", "llama-cpu": "llama", "llama": "common",
}  # fmt: skip
OLD_ENGINES = {
    "splitwise": 0.1, "llm-inference-bench": 0.5, "lmdeploy": 0.5, "tensorrt-llm": 0.5, "premai": 0.3,
}  # fmt: skip
"""Weights of sources with engines of 2023 and 2024: constants are to describe engines of today."""
WEIGHTIER = {"llm-inference-bench": 2.5, "ml-energy": 4.0}
"""So many rows each stands for: two in five were taken of the first, and throughput and power are published by the second."""
OFFSET_PULL_OLD = 3.0
"""Old engines may be as slow as they were: each source's is off the constants by a factor that is fitted too, and not used
afterwards.
"""
OFFSET_PULL = 22.0
"""The same for today's engines, in families that fewer than three sources measured and in what such families start from: there one
engine would else be taken for the chip. Engines of one year are 15 % off their middle: 1 / (2 * 0.15^2). Where more sources
measured, or a single engine runs (llama.cpp), there is none: who asks does not say which engine, and the sources together are
what may be expected. A tighter pull follows the sources that are there, a looser one their neighbours: on B200, held-out
InferenceX is met within 12, 20, 27, 39 and 48 % (dense) at 6, 12, 25, 60 and none, held-out ML.ENERGY within 30 to 23 %.
"""
OFFSET_NONE = 1e9
OFFSET_ROWS = 30
"""Fewer do not tell an engine from a chip."""
FEW_SOURCES = 3
COMMON_SOURCES = ("aiconfigurator", "inferencex", "ml-energy", "nim-docs")


class Rows:
    """Measurements as arrays [row], and what a step moves and computes for each."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self.rows = rows
        self.features = {k: np.array([r[k] for r in rows], float) for k in rows[0] if k in _FLOATS}
        self.text = {k: np.array([r[k] for r in rows]) for k in _TEXTS}
        self.measured = np.array([_measured_ms(r) for r in rows], float)
        sizes = Counter(self.text["group"])
        trust = [
            OLD_ENGINES.get(s, 1.0) * np.sqrt(WEIGHTIER.get(s, 1.0)) for s in self.text["source"]
        ]
        self.offset_names = sorted(set(self.text["offset"])) if rows else []
        where = {n: i for i, n in enumerate(self.offset_names)}
        self.offset = np.array([where[n] for n in self.text["offset"]], int)
        self.weight = np.array(trust) / np.sqrt([sizes[g] for g in self.text["group"]])

    def where(self, mask: Any) -> Rows:
        return Rows([r for r, keep in zip(self.rows, mask, strict=True) if keep])

    def __len__(self) -> int:
        return len(self.rows)


_TEXTS = (
    "source",
    "engine",
    "model",
    "accelerator",
    "precision",
    "kind",
    "family",
    "group",
    "offset",
)
_FLOATS = (
    "every", "routed_bytes", "miss", "ops", "routed_ops", "pair_ops", "kv", "kv_room", "layers", "hidden", "is_routed", "expert_groups", "latent", "unpacked",
    "width", "narrow", "count", "bytes_per_s", "ops_per_s", "wide_ops_per_s", "link", "batch", "input_tokens", "output_tokens",
)  # fmt: skip


def _measured_ms(row: dict[str, Any]) -> float:
    """What the fit aims at. A median between tokens leaves steps with prompts out, batch by throughput leaves nothing
    out, and both are to be met: where a source has both, their geometric mean.
    """
    if row["kind"] == "prompt":
        return float(row["ttft_ms"])
    if row["source"] != "ml-energy":
        return float(row["tpot_ms"])
    return float(np.sqrt(row["tpot_ms"] * 1000.0 * row["batch"] / row["output_tok_s"]))


def read_rows() -> Rows:
    kept = []
    with ROWS.open(encoding="utf-8", newline="") as f:
        for row in csv.DictReader(f):
            try:
                kept.append(_with_features(dict(row)))
            except ConfigError as error:
                print(
                    f"left out: {row['model']} on {row['count']} {row['accelerator']}: {error}",
                    file=sys.stderr,
                )
    return Rows(kept)


def _with_features(row: dict[str, Any]) -> dict[str, Any]:
    for name in (
        "batch",
        "input_tokens",
        "output_tokens",
        "count",
        "tpot_ms",
        "ttft_ms",
        "output_tok_s",
        "power_w",
    ):
        row[name] = float(row[name]) if row[name] else np.nan
    model, chip, precision = (
        ai_model(row["model"]),
        accelerator(row["accelerator"]),
        row["precision"],
    )
    context = row["input_tokens"] + row["output_tokens"] / 2.0
    # Refuses what does not fit, as the package does.
    roofline.step_model(
        model, precision, chip, count=int(row["count"]), context_tokens_mean=context
    )
    made = shape(
        model, precision, context_tokens_mean=context, gguf=fam.runs_llama_cpp(chip, precision)
    )
    how = arithmetic(chip, precision)
    rated = rated_of(chip, how, int(row["count"]))
    row.update(
        every=made.every_bytes, routed_bytes=made.routed_bytes, miss=made.routed_miss, ops=made.ops_per_token,
        routed_ops=made.routed_ops_per_token / made.tokens_per_expert if made.routed else 0.0,
        pair_ops=made.attention_ops_per_pair, kv=made.kv_bytes_per_token, layers=made.layers,
        kv_room=rated.memory_bytes - made.stored_bytes - rated.reserved_bytes,
        hidden=made.hidden, is_routed=made.routed, expert_groups=made.expert_groups, latent=made.latent_kv, unpacked=how.weight_only,
        width=roofline.width(precision), narrow=0 if how.tflops == how.wide_tflops else 8 if precision in ("fp8", "int8") else 4,
        bytes_per_s=rated.bytes_per_s, ops_per_s=rated.ops_per_s, wide_ops_per_s=rated.wide_ops_per_s,
        link=rated.link_bytes_per_s, family=fam.family_id(chip, precision),
    )  # fmt: skip
    row["offset"] = f"{row['source']}|{row['engine']}"
    row["group"] = "|".join(
        row[k] for k in ("source", "accelerator", "model", "precision", "engine", "kind")
    )
    return row


def step_s(
    f: dict[str, Any], c: dict[str, float], new: Any, pairs: Any, batch: Any, context: Any
) -> Any:
    """The step of `hanse.serving.roofline` for all rows at once."""
    widths = (f["width"] == 16, f["width"] == 8)
    share = np.select(widths, [c["weights_share_16"], c["weights_share_8"]], c["weights_share_4"])
    unpacked = np.where(f["unpacked"] > 0, c["weight_only_share"], 1.0)
    hit = 1.0 - f["miss"] ** new
    routed_share = np.where(f["width"] == 4, c["routed_share_4"], c["routed_share"])
    memory = f["every"] / share + f["routed_bytes"] * hit / routed_share / unpacked
    memory = memory + context * kv_bytes(f, c) / c["kv_share"] * (
        1.0 + c["latent_kv_extra"] * f["latent"]
    )
    ops = np.select(
        [f["narrow"] == 8, f["narrow"] == 4],
        [c["ops_share_8"], c["ops_share_4"]],
        c["ops_share_16"],
    )
    compute = (f["ops"] + f["routed_ops"] * c["expert_pad"]) * new / (f["ops_per_s"] * ops)
    hidden = f["layers"] * f["hidden"] * 2.0
    comm = c["passes"] * hidden / (f["bytes_per_s"] / f["count"])
    comm = comm + 4.0 * (f["count"] - 1.0) / f["count"] * hidden / (c["link_share"] * f["link"])
    layer = (
        c["layer_us"]
        + c["routed_layer_us"] * f["expert_groups"]
        + c["latent_layer_us"] * f["latent"]
        + 2.0 * c["reduce_us"] * np.log2(f["count"])
    )
    fixed = layer * f["layers"] + c["step_us"] + c["request_us"] * batch
    attention = f["pair_ops"] * pairs / (f["wide_ops_per_s"] * c["attention_ops_share"])
    return (
        np.maximum(memory / f["bytes_per_s"], compute)
        + attention
        + fixed * 1e-6
        + comm * new
        + c["added_compute"] * compute
    )


def kv_bytes(f: dict[str, Any], c: dict[str, float]) -> Any:
    """Of a token of context, with the share of 8-bit caches where weights are multiplied at 8 or 4 bit."""
    return f["kv"] * np.where(f["narrow"] > 0, c["kv_narrow"], 1.0)


def tpot_ms(rows: Rows, c: dict[str, float]) -> Any:
    """Predicted time per output token of all rows, by kind of measurement."""
    f, kind = rows.features, rows.text["kind"]
    prompt, answer = f["input_tokens"], f["output_tokens"]
    running = np.minimum(
        f["batch"],
        np.maximum(1.0, np.floor(f["kv_room"] / kv_bytes(f, c)) / (prompt + answer / 2.0)),
    )
    context = running * (prompt + answer / 2.0)
    decode = step_s(f, c, running, 0.0, running, context)
    pairs = prompt * (prompt + 1.0) / 2.0
    extra = np.maximum(step_s(f, c, running + prompt, pairs, running, context) - decode, 0.0)
    closed = decode + PREFILL_MIX * (running - 1.0) * extra / answer
    read = step_s(f, c, running * prompt, running * pairs, running, 0.0)
    static = (read / answer + decode) * f["batch"] / running
    return 1000.0 * np.select(
        [kind == "closed", kind == "static", kind == "prompt"], [closed, static, read], decode
    )


def log_error(rows: Rows, c: dict[str, float]) -> Any:
    return np.log(tpot_ms(rows, c) / rows.measured)


def fit(
    rows: Rows, start: dict[str, float], spring: float, *, few: bool = False
) -> dict[str, float]:
    """Constants that move from `start` only as far as the rows pull; offsets of sources are fitted with them."""
    pull = [max(spring, SPRING.get(n, 0.0)) for n in NAMES]
    pull += _offset_pulls(rows, few_sources=few)

    def constants(x: Any) -> dict[str, float]:
        found = {
            n: float(start[n] * np.exp(v)) for n, v in zip(NAMES, x[: len(NAMES)], strict=True)
        }
        return {n: float(np.clip(v, *BOUNDS.get(n, (0.0, np.inf)))) for n, v in found.items()}

    def residuals(x: Any) -> Any:
        return log_error(rows, constants(x)) + x[len(NAMES) :][rows.offset]

    return constants(_levenberg_marquardt(residuals, rows.weight, np.diag(pull)))


def _offset_pulls(rows: Rows, *, few_sources: bool) -> list[float]:
    sizes = Counter(rows.offset.tolist())
    # What a single source says of a chip is all that is known of it; llama.cpp in a wrapper is known to be slow.
    alone = len(set(rows.text["source"])) == 1 and "premai" not in rows.text["source"]
    old = OFFSET_NONE if alone else OFFSET_PULL_OLD
    return [
        old
        if name.split("|")[0] in OLD_ENGINES
        else OFFSET_PULL
        if few_sources and sizes[i] >= OFFSET_ROWS
        else OFFSET_NONE
        for i, name in enumerate(rows.offset_names)
    ]


def few_sources(rows: Rows, name: str) -> bool:
    """Whether a family's level is in part one engine's: see `OFFSET_PULL`."""
    if name.startswith("llama"):
        return False
    if name == "common":
        return True
    mine = rows.text["source"][_rows_of(rows, name)]
    sizes = Counter(s for s in mine.tolist() if s not in OLD_ENGINES)
    return sum(n >= OFFSET_ROWS for n in sizes.values()) < FEW_SOURCES


def _levenberg_marquardt(residuals: Callable[[Any], Any], weight: Any, pull: Any) -> Any:
    x, damping = np.zeros(len(pull)), 1e-2
    r = residuals(x)

    def cost(r: Any, x: Any) -> float:
        return float(np.sum(weight * (np.sqrt(1.0 + (r / SCALE) ** 2) - 1.0)) + x @ pull @ x)

    now = cost(r, x)
    for _ in range(40):
        slopes = np.stack(
            [(residuals(x + 1e-3 * unit) - r) / 1e-3 for unit in np.eye(len(x))], axis=1
        )
        robust = weight / np.sqrt(1.0 + (r / SCALE) ** 2) / SCALE**2
        normal = slopes.T @ (robust[:, None] * slopes) + 2.0 * pull
        downhill = slopes.T @ (robust * r) + 2.0 * pull @ x
        for _ in range(8):
            move = np.clip(
                -np.linalg.solve(normal + damping * np.diag(np.diag(normal)), downhill), -0.5, 0.5
            )
            tried = residuals(x + move)
            then = cost(tried, x + move)
            if then < now:
                break
            damping *= 4.0
        else:
            return x
        x, r, damping = x + move, tried, damping / 3.0
        if now - then < 1e-5 * now:
            return x
        now = then
    return x


def fit_all(
    rows: Rows, known: dict[str, dict[str, float]] | None = None, out: Any = None
) -> dict[str, dict[str, float]]:
    """Constants of every family that has rows, parents first. With `out` (rows to leave out) those that `known` has are
    taken over where neither they nor their parents lose a row.
    """
    found: dict[str, dict[str, float]] = {}
    without = np.zeros(len(rows), bool) if out is None else out
    for name in ("common", *sorted(PARENTS, key=lambda n: (_depth(n), n))):
        mine = _rows_of(rows, name)
        parent = dict(START) if name == "common" else found[PARENTS[name]]
        same = known is not None and not (mine & without).any()
        if same and (name == "common" or parent == known[PARENTS[name]]):
            found[name] = known[name]
        elif (mine & ~without).any():
            spring = {"common": 2.0, "llama": 3.0}.get(name, 4.0)
            found[name] = fit(
                rows.where(mine & ~without), parent, spring, few=few_sources(rows, name)
            )
        else:
            found[name] = parent
    return found


def _rows_of(rows: Rows, name: str) -> Any:
    if name == "common":
        return np.isin(rows.text["source"], COMMON_SOURCES)
    if name == "llama":
        return np.char.startswith(rows.text["family"], "llama")
    return rows.text["family"] == name


def _depth(name: str) -> int:
    return 0 if name == "common" else 1 + _depth(PARENTS[name])

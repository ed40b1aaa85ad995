"""How far predictions are from published measurements, on models and chips that the fit has not seen.

    python benchmarks/predict.py           fits, holds out, prints the table of errors
    python benchmarks/predict.py --write   also writes src/hanse/serving/data/families.csv

Here: the fit of the constants in `hanse.serving.families` to `tests/serving/measurements.csv` (sources in docs/sources.md), by
a robust least squares of log ratios in which each group (source, chip, model, precision, engine) weighs the root of its
rows; hold-out by model, or by chip where a family has too few models. Not here: predictions (`hanse.serving`); at the end
all rows are predicted by that code, and the two must agree.
"""

from __future__ import annotations

import argparse
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
from hanse.serving.steady import PREFILL_MIX, steady

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
    "splitwise": 0.1, "llm-inference-bench": 0.5, "lmdeploy": 0.5, "tensorrt-llm": 0.5, "premai": 0.3, "autoawq": 0.5,
    "exllamav2": 0.5, "mlc-perf": 0.5,
}  # fmt: skip
"""Weights of sources with engines of 2023 and 2024: constants are to describe engines of today."""
SAMPLED = {"llm-inference-bench": 2.5}
"""So many published rows stand behind one of the table: of this source two in five were taken."""
OFFSET_PULL = 120.0
"""A source's engine is faster or slower than the constants by an offset that is fitted too, and not used afterwards: else the
largest source's engine would pass for physics. Gaussian with a deviation of 0.07: less than engines of one year are apart (0.15), as precisions that
only one source measured are to be met as it measured them."""
OFFSET_PULL_OLD = 3.0
"""Old engines may be as slow as they were."""
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
            OLD_ENGINES.get(s, 1.0) * np.sqrt(SAMPLED.get(s, 1.0)) for s in self.text["source"]
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


def fit(rows: Rows, start: dict[str, float], spring: float) -> dict[str, float]:
    """Constants that move from `start` only as far as the rows pull; offsets of sources are fitted with them."""
    pull = [max(spring, SPRING.get(n, 0.0)) for n in NAMES]
    for name in rows.offset_names:
        old = name.split("|")[0] in OLD_ENGINES
        pull.append(OFFSET_PULL_OLD if old else OFFSET_PULL)

    def constants(x: Any) -> dict[str, float]:
        found = {
            n: float(start[n] * np.exp(v)) for n, v in zip(NAMES, x[: len(NAMES)], strict=True)
        }
        return {n: float(np.clip(v, *BOUNDS.get(n, (0.0, np.inf)))) for n, v in found.items()}

    def residuals(x: Any) -> Any:
        return log_error(rows, constants(x)) + x[len(NAMES) :][rows.offset]

    return constants(_levenberg_marquardt(residuals, rows.weight, np.array(pull)))


def _levenberg_marquardt(residuals: Callable[[Any], Any], weight: Any, pull: Any) -> Any:
    x, damping = np.zeros(len(pull)), 1e-2
    r = residuals(x)

    def cost(r: Any, x: Any) -> float:
        return float(
            np.sum(weight * (np.sqrt(1.0 + (r / SCALE) ** 2) - 1.0)) + np.sum(pull * x * x)
        )

    now = cost(r, x)
    for _ in range(40):
        slopes = np.stack(
            [(residuals(x + 1e-3 * unit) - r) / 1e-3 for unit in np.eye(len(x))], axis=1
        )
        robust = weight / np.sqrt(1.0 + (r / SCALE) ** 2) / SCALE**2
        normal = slopes.T @ (robust[:, None] * slopes) + 2.0 * np.diag(pull)
        downhill = slopes.T @ (robust * r) + 2.0 * pull * x
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
            found[name] = fit(rows.where(mine & ~without), parent, spring)
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


def held_out(rows: Rows, by: str, known: dict[str, dict[str, float]]) -> Any:
    """Log error of each row by a fit that has seen nothing with its model (or chip, or source)."""
    out = np.full(len(rows), np.nan)
    for value in sorted(set(rows.text[by])):
        mask = rows.text[by] == value
        found = fit_all(rows, known, mask)
        for name in sorted(set(rows.text["family"][mask])):
            mine = mask & (rows.text["family"] == name)
            out[mine] = log_error(rows.where(mine), found.get(name, found["common"]))
    return out


KINDS = ("dense", "routed")


def _judged(rows: Rows, family: str, kind: str) -> Any:
    """Rows by which a family is judged for a kind of model."""
    m = (rows.text["family"] == family) & (rows.text["kind"] != "prompt")
    m &= (rows.features["is_routed"] > 0) == (kind == "routed")
    return m & ~np.isin(rows.text["source"], UNLIKE_TODAY)


def class_errors(rows: Rows, m: Any, inside: Any, held: dict[str, Any]) -> dict[str, float]:
    """Sizes and median errors of some rows; `below` is the share of errors below the one that is promised."""
    one: dict[str, float] = {"rows": float(m.sum()), "fitted": median_error(inside[m])}
    for name, column in (("models", "model"), ("chips", "accelerator"), ("sources", "source")):
        one[name] = float(len(set(rows.text[column][m])))
    for name, errors in held.items():
        one[name] = median_error(errors[m])
    one["said"] = float(np.nanmax([one["model"], one["source"], ERROR_FLOOR]))
    both = np.abs(np.expm1(np.concatenate([held["model"][m], held["source"][m]])))
    one["below"] = (
        float(np.mean(both[np.isfinite(both)] <= one["said"]))
        if np.isfinite(both).any()
        else np.nan
    )
    # A batching engine that was measured with lone requests only is not calibrated for batches.
    loads = rows.features["batch"][m].max() > 1.0
    enough = one["rows"] >= CALIBRATED_ROWS and one["sources"] >= CALIBRATED_SOURCES and loads
    one["calibrated"] = float(enough and max(one["model"], one["source"]) <= CALIBRATED_ERROR)
    return one


def median_error(log_errors: Any) -> float:
    seen = log_errors[np.isfinite(log_errors)]
    return float(np.median(np.abs(np.expm1(seen)))) if len(seen) else float("nan")


def fit_power(rows: Rows, mask: Any) -> list[float]:
    """Base, per doubling, and what routing adds, as shares of TDP."""
    x, share, weight = _power_terms(rows)
    x, share, weight = x[mask], share[mask], weight[mask] / share[mask]
    robust = weight
    found = np.zeros(3)
    for _ in range(20):
        ridge = np.diag([1e-6, 1e-6, 1e-2])  # families without routed models keep 0 there
        a, y = x * robust[:, None], share * robust
        found = np.linalg.solve(a.T @ a + ridge, a.T @ y)
        robust = weight / np.sqrt(np.sqrt(1.0 + ((x @ found / share - 1.0) / 0.1) ** 2))
    return [float(v) for v in found]


def power_held_out(rows: Rows, mask: Any) -> float:
    x, share, _ = _power_terms(rows)
    errors = []
    for model in sorted(set(rows.text["model"][mask])):
        mine = mask & (rows.text["model"] == model)
        if (mask & ~mine).sum() >= 8:
            errors.extend(np.abs(x[mine] @ fit_power(rows, mask & ~mine) / share[mine] - 1.0))
    return float(np.median(errors)) if errors else float("nan")


def _power_terms(rows: Rows) -> tuple[Any, Any, Any]:
    watts = np.array([r["power_w"] for r in rows.rows], float)
    tdp = np.array([accelerator(r["accelerator"]).tdp_w or np.nan for r in rows.rows], float)
    doublings = np.minimum(np.log2(np.maximum(rows.features["batch"], 1.0)), 8.0)
    x = np.stack([np.ones(len(rows)), doublings, rows.features["is_routed"]], axis=1)
    return x, watts / (tdp * rows.features["count"]), rows.weight


def steady_errors(rows: Rows) -> dict[str, dict[str, float]]:
    """By family: median errors of TTFT, throughput and power of closed loops, from the package itself."""
    kinds = ("ttft_ms", "tpot_ms", "output_tok_s", "power_w")
    errors: dict[str, dict[str, list[float]]] = {}
    for row in rows.rows:
        if row["kind"] != "closed":
            continue
        context = row["input_tokens"] + row["output_tokens"] / 2.0
        step = roofline.step_model(
            ai_model(row["model"]), row["precision"], accelerator(row["accelerator"]),
            count=int(row["count"]), context_tokens_mean=context,
        )  # fmt: skip
        try:
            said = steady(
                step,
                batch=row["batch"],
                input_tokens=row["input_tokens"],
                output_tokens=row["output_tokens"],
            )
        except ConfigError:
            continue
        mine = errors.setdefault(row["family"], {k: [] for k in kinds})
        for kind in kinds:
            if np.isfinite(row[kind]):
                mine[kind].append(abs(getattr(said, kind) / row[kind] - 1.0))
    return {
        f: {k: float(np.median(v)) if v else float("nan") for k, v in e.items()}
        for f, e in errors.items()
    }


CALIBRATED_ERROR = 0.15
"""Models and sources held out are both met within this (median), or a family is not calibrated for that kind of model."""
CALIBRATED_SOURCES = 2
"""Fewer say nothing of what another person measures."""
UNLIKE_TODAY = ("splitwise",)
"""Not in the errors of families: DeepSpeed of 2023, twice as slow as engines now."""
CALIBRATED_ROWS = 10
ERROR_FLOOR = 0.10
"""Families with a single source look better than they are: another person's machine differs at least by this."""
OTHER_ERROR = 0.35
TTFT_MS_FIXED = {"llama": 15.0, "server": 25.0}
"""API and tokenizer: AccelMark's lone requests have 12 to 30 ms more than the step; llama.cpp 13 ms on one CPU thread."""
POWER_ELSEWHERE = {
    # (base, per doubling, routed, prefill): whole boxes at the wall or package limits, ai-benchmarks (peak while decoding)
    "small": (0.75, 0.02, -0.05, 0.95), "llama-small": (0.85, 0.01, -0.05, 0.95), "llama-apple": (0.78, 0.02, 0.0, 0.95),
    "llama-cpu": (0.95, 0.005, 0.0, 1.0), "llama-workstation": (0.62, 0.03, -0.05, 0.95), "llama-datacenter": (0.55, 0.04, -0.1, 0.9),
}  # fmt: skip
IDLE_LOADED_W = {
    "hopper": 38.0,
    "blackwell": 38.0,
    "ampere": 38.0,
    "cdna": 38.0,
    "workstation": 20.0,
    "other": 20.0,
}
"""arXiv 2605.23918: 26 to 50 W on HBM parts, 66 W on L40S; small boxes 0, their idle is of the whole box."""


def _promises(one: dict[str, float] | None, kind: str) -> dict[str, str]:
    """What the table says of errors; where nothing was measured, or little, at least `OTHER_ERROR`."""
    calibrated = one is not None and bool(one["calibrated"])
    said = (
        max(one["said"], 0.0 if calibrated else OTHER_ERROR if one["rows"] < 30 else 0.0)
        if one
        else OTHER_ERROR
    )
    elsewhere = max(said, 0.25 if calibrated else OTHER_ERROR)
    if one is not None and np.isfinite(one["chip"]) and one["chips"] > 1:
        elsewhere = max(said, one["chip"])
    return {
        f"calibrated_{kind}": str(calibrated).lower(), f"tpot_error_{kind}": f"{said:.2f}",
        f"tpot_error_elsewhere_{kind}": f"{elsewhere:.2f}",
    }  # fmt: skip


def write(found: Any, errors: Any, powers: Any, rows: Rows) -> None:
    """The table that the package reads. Errors are of held-out models, where there are any, else of chips."""
    ttft = {name: one["ttft_ms"] for name, one in steady_errors(rows).items()}
    out = []
    for name in ("hopper", "blackwell", "ampere", "workstation", "cdna", "gaudi", "small", "other", "llama-datacenter", "llama-workstation",
                 "llama-small", "llama-apple", "llama-cpu", "llama-other"):  # fmt: skip
        llama = name.startswith("llama")
        values = found.get(name) or (found["llama"] if llama else found["common"])
        (base, doubling, routed), power_error = powers.get(name, (powers["all"][0], 0.35))
        prefill = 0.9
        if name in POWER_ELSEWHERE:
            base, doubling, routed, prefill = POWER_ELSEWHERE[name]
        mine = rows.text["family"] == name
        out.append(
            {
                "id": name,
                "chips": ";".join(sorted(set(rows.text["accelerator"][mine]))), **{k: f"{v:.3g}" for k, v in values.items()},
                "ttft_ms_fixed": TTFT_MS_FIXED["llama" if llama else "server"],
                "power_base": f"{base:.3f}", "power_per_log2": f"{doubling:.4f}", "power_routed": f"{routed:.3f}",
                "power_prefill": prefill, "idle_loaded_w": IDLE_LOADED_W.get(name, 0.0),
                **{k: v for kind in KINDS for k, v in _promises(errors.get((name, kind)), kind).items()},
                "ttft_error": f"{max(ttft.get(name, 0.5), 0.3):.2f}" if np.isfinite(ttft.get(name, 0.5)) else "0.5",
                "power_error": f"{power_error if name in powers else 0.35:.2f}",
            }
        )  # fmt: skip
    with fam.TABLE.open("w", encoding="utf-8", newline="") as f:
        writer = csv.DictWriter(f, list(fam.Family.__struct_fields__), lineterminator="\n")
        writer.writeheader()
        writer.writerows(out)
    fam.families.cache_clear()


def agreement(rows: Rows) -> float:
    """Largest relative difference between the arrays here and the package, with the package's constants."""
    worst = 0.0
    for i, row in enumerate(rows.rows):
        if row["kind"] != "closed" or i % 10:
            continue
        known = fam.families()[row["family"]]
        here = tpot_ms(
            rows.where(np.arange(len(rows)) == i), {n: getattr(known, n) for n in NAMES}
        )[0]
        context = row["input_tokens"] + row["output_tokens"] / 2.0
        step = roofline.step_model(
            ai_model(row["model"]),
            row["precision"],
            accelerator(row["accelerator"]),
            count=int(row["count"]),
            context_tokens_mean=context,
        )
        load = {k: row[k] for k in ("batch", "input_tokens", "output_tokens")}
        worst = max(worst, abs(here / steady(step, **load).tpot_ms - 1.0))
    return worst


def main() -> None:
    parser = argparse.ArgumentParser(description="Errors of predictions on held-out measurements.")
    parser.add_argument(
        "--write",
        action="store_true",
        help="write the fitted constants and errors into the package",
    )
    parser.add_argument("--fast", action="store_true", help="no hold-out")
    args = parser.parse_args()
    rows = read_rows()
    found = fit_all(rows)
    inside = np.full(len(rows), np.nan)
    for name in set(rows.text["family"]):
        mine = rows.text["family"] == name
        inside[mine] = log_error(rows.where(mine), found.get(name, found["common"]))
    nothing = np.full(len(rows), np.nan)
    by_model = nothing if args.fast else held_out(rows, "model", found)
    by_chip = nothing if args.fast else held_out(rows, "accelerator", found)
    by_source = nothing if args.fast else held_out(rows, "source", found)
    print(
        f"\nTPOT     {'family':18s} kind     rows models chips sources  fitted  held out: model    chip  source  below said"
    )
    errors = {}
    held = {"model": by_model, "chip": by_chip, "source": by_source}
    for name in sorted(set(rows.text["family"])):
        for kind in KINDS:
            m = _judged(rows, name, kind)
            if m.any():
                errors[name, kind] = one = class_errors(rows, m, inside, held)
                print(
                    f"{'':8s} {name:18s} {kind:7s} {one['rows']:5.0f} {one['models']:6.0f} {one['chips']:5.0f} {one['sources']:7.0f}"
                    f"  {one['fitted']:6.1%}  {one['model']:15.1%}  {one['chip']:6.1%}  {one['source']:6.1%}  {one['below']:6.0%}"
                )
    print("\nby source")
    for name in sorted(set(rows.text["source"])):
        m = rows.text["source"] == name
        print(
            f"  {name:22s} {m.sum():4d}  {median_error(inside[m]):6.1%} {median_error(by_model[m]):6.1%} {median_error(by_chip[m]):6.1%} {median_error(by_source[m]):6.1%}"
        )
    print("\nprompts read alone")
    for name in sorted(set(rows.text["family"])):
        m = (rows.text["family"] == name) & (rows.text["kind"] == "prompt")
        if m.any():
            print(
                f"  {name:22s} {m.sum():4d}  {median_error(inside[m]):6.1%} {median_error(by_model[m]):6.1%} {median_error(by_chip[m]):6.1%}"
            )
    watts = np.array([r["power_w"] for r in rows.rows], float)
    powers = {}
    print("\npower           base  per doubling  routed  rows  model held out")
    for name in (*sorted(set(rows.text["family"][np.isfinite(watts)])), "all"):
        m = np.isfinite(watts) & ((rows.text["family"] == name) | (name == "all"))
        powers[name] = (fit_power(rows, m), power_held_out(rows, m))
        print(f"  {name:12s} {np.round(powers[name][0], 3)} {m.sum():4d}  {powers[name][1]:6.1%}")
    if args.write:
        write(found, errors, powers, rows)
    print(
        f"\nlargest difference between this fit's formula and the package's: {agreement(rows):.1e}"
    )
    print("closed loops by the package as it stands")
    for name, one in sorted(steady_errors(rows).items()):
        print(f"  {name:22s} " + "  ".join(f"{k} {v:6.1%}" for k, v in one.items()))


if __name__ == "__main__":
    main()

"""How far predictions are from published measurements, on models, chips and sources that the fit has not seen.

    python benchmarks/predict.py           fits, holds out, prints the table of errors
    python benchmarks/predict.py --write   also writes src/hanse/serving/data/families.csv

Here: holding out by model, by chip and by source, errors by family and kind of model, the law of power, and the table that the
package reads. Measurements are `tests/serving/measurements.csv` (sources in docs/sources.md). Not here: the fit (`predict_fit`),
predictions (`hanse.serving`); at the end all rows are predicted by that code, and the two must agree.
"""

from __future__ import annotations

import argparse
import csv
from typing import Any

import numpy as np
from predict_fit import NAMES, Rows, fit_all, log_error, read_rows, tpot_ms

from hanse.catalogue import accelerator, ai_model
from hanse.errors import ConfigError
from hanse.serving import families as fam
from hanse.serving import roofline
from hanse.serving.steady import steady


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
    """Sizes and median errors of some rows. Promised is the median over models and sources held out; `below` says how many of
    these errors are below it.
    """
    one: dict[str, float] = {"rows": float(m.sum()), "fitted": median_error(inside[m])}
    for name, column in (("models", "model"), ("chips", "accelerator"), ("sources", "source")):
        one[name] = float(len(set(rows.text[column][m])))
    for name, errors in held.items():
        one[name] = median_error(errors[m])
    unseen = np.abs(np.expm1(np.concatenate([held["model"][m], held["source"][m]])))
    unseen = unseen[np.isfinite(unseen)]
    one["said"] = max(float(np.median(unseen)), ERROR_FLOOR) if len(unseen) else np.nan
    one["below"] = float(np.mean(unseen <= one["said"])) if len(unseen) else np.nan
    # A batching engine that was measured with lone requests only is not calibrated for batches.
    loads = rows.features["batch"][m].max() > 1.0
    one_engine = bool(np.all(np.char.startswith(rows.text["family"][m], "llama")))
    sources = CALIBRATED_SOURCES - one_engine
    enough = one["rows"] >= CALIBRATED_ROWS and one["sources"] >= sources and loads
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
CALIBRATED_SOURCES = 3
"""With two, each is held against one other person's engine, which says little of a third's; llama.cpp is one engine, and two do."""
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
POWER_PREFILL = {"hopper": 0.97}
"""Of TDP, reading prompts of 8,192 tokens: 675 to 693 W of 700 on an H100 and an H200 (`kernel_shares.csv`)."""
IDLE_LOADED_W = {
    "hopper": 45.0,
    "blackwell": 38.0,
    "ampere": 38.0,
    "cdna": 38.0,
    "workstation": 20.0,
    "other": 20.0,
}
"""Hopper: 46 W on an H100, 44 W on an H200 (`src/hanse/serving/data/kernel_shares.csv`). arXiv 2605.23918: 26 to 50 W on HBM parts, 66 W on L40S; small boxes 0, their idle is of the whole box."""


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
        prefill = POWER_PREFILL.get(name, 0.9)
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

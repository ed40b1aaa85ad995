"""Published figures of training across sites against ours, and the tables of docs/training.md.

Run: `python benchmarks/training.py [--write]`. Prints the tables; `--write` puts them into the page, between its markers.
Not here: any formula (`hanse.serving.training`); a test checks that the page holds what this prints.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Iterator
from pathlib import Path

from hanse.serving.training import (
    DataParallel,
    DiLoCo,
    Method,
    StreamingDiLoCo,
    TrainingJob,
    Wan,
    bandwidth_needed_mbit_s,
    utilisation_of,
)
from hanse.serving.training.forecast import diloco_share

ROOT = Path(__file__).parents[1]
CELLS = ROOT / "tests" / "serving" / "training_bandwidth.csv"
PAGE = ROOT / "docs" / "training.md"
BEGIN, END = "<!-- tables: benchmarks/training.py --write -->\n", "<!-- end of tables -->\n"
FRAGMENT_LAYERS = 3  # as in the paper
INTELLECT_1_INNER_S = 38 * 60.0
INTELLECT_1 = (
    ("USA", 103.0, 95.7),
    ("USA and Europe", 382.0, 85.6),
    ("global", 469.0, 83.0),
)  # where, exchange in s, published utilisation in %: arXiv 2412.01152 Table 2
DOLMA_HOURS = {
    "data_parallel": ((0.67, 109.0), (2.7, 438.0), (6.75, 1097.0)),
    "streaming_diloco": ((0.67, 0.88), (2.7, 3.5), (6.75, 8.75)),
}  # hours without and with waiting at 1 Gbit/s for 25B, 100B and 250B tokens, 1B: arXiv 2501.18512 Table 1

SCALING_90 = (
    ("10B", 10e9, 0.8, 100, 13.3),
    ("10B", 10e9, 0.8, 300, 4.3),
    ("Llama-3 405B", 405e9, 26.0, 100, 16.0),
    ("Llama-3 405B", 405e9, 26.0, 300, 6.2),
    ("DeepSeek-V3", 671e9, 20.0, 100, 41.0),
    ("DeepSeek-V3", 671e9, 20.0, 300, 13.3),
)  # DiLoCo at 90 %: model, parameters, s a step, inner steps, Gbit/s: arXiv 2503.09799 Table 6


def cells() -> list[dict[str, str]]:
    with CELLS.open(encoding="utf-8", newline="") as f:
        return list(csv.DictReader(f))


def job_of(cell: dict[str, str]) -> TrainingJob:
    return TrainingJob(
        parameters_n=float(cell["parameters_n"]),
        layers_n=int(cell["layers_n"]),
        tokens_n=20 * float(cell["parameters_n"]),
        batch_tokens=1e6,
    )


def method_of(cell: dict[str, str]) -> Method:
    """As published; the 30-step cells send a fragment every step, so each comes round after P steps."""
    bits, inner = float(cell["bits"]), int(cell["inner_steps"])
    if cell["method"] == "data_parallel":
        return DataParallel(bits=bits)
    if cell["method"] == "diloco":
        return DiLoCo(bits=bits, inner_steps=inner)
    fragments = int(cell["layers_n"]) // FRAGMENT_LAYERS
    return StreamingDiLoCo(
        bits=bits,
        fragments_n=fragments,
        inner_steps=fragments if inner == 30 else inner,
        delay_steps=int(cell["delay_steps"]),
    )


def needed_gbit_s(cell: dict[str, str]) -> float:
    found = bandwidth_needed_mbit_s(
        job_of(cell), 2, method_of(cell), float(cell["step_s"]), float(cell["utilisation"])
    )
    assert found is not None
    return found / 1e3


def label(cell: dict[str, str]) -> str:
    name = cell["method"].replace("_", " ").replace("diloco", "DiLoCo")
    if cell["method"] != "streaming_diloco":
        return name
    every = "a fragment every step" if cell["inner_steps"] == "30" else "H 100"
    return f"{name}, {every}, delay {cell['delay_steps']}, {cell['bits']} bit"


def bandwidth_table() -> Iterator[str]:
    shares = sorted({float(c["utilisation"]) for c in cells()})
    yield "| model | method | " + " | ".join(f"{s:.0%}" for s in shares) + " |"
    yield "|---" * (2 + len(shares)) + "|"
    rows: dict[tuple[str, str], list[str]] = {}
    for cell in cells():
        ours, published = needed_gbit_s(cell), float(cell["gbit_s"])
        row = rows.setdefault((cell["model"], label(cell)), [])
        row.append(f"{published:g} / {ours:.3g} ({ours / published:.2f})")
    for (model, name), row in rows.items():
        yield f"| {model} | {name} | " + " | ".join(row) + " |"


def intellect_table() -> Iterator[str]:
    yield "| INTELLECT-1 | exchange | published | ours |"
    yield "|---|---|---|---|"
    for where, exchange_s, published in INTELLECT_1:
        ours = 100.0 * diloco_share(INTELLECT_1_INNER_S, exchange_s)
        yield f"| {where} | {exchange_s:g} s | {published} % | {ours:.1f} % |"


def dolma_hours(method: str, compute_h: float) -> float:
    cell = next(
        c
        for c in cells()
        if c["method"] == method and c["model"] == "1B" and c["bits"] in ("4", "16")
    )
    settings = StreamingDiLoCo(fragments_n=8) if method == "streaming_diloco" else DataParallel()
    wan = Wan(bottleneck_mbit_s=1000.0, one_way_ms=0.0)
    share = utilisation_of(job_of(cell), 2, wan, settings, float(cell["step_s"])).value
    assert share is not None
    return compute_h / share


def dolma_table() -> Iterator[str]:
    yield "| 1B at 1 Gbit/s | computing | published | ours |"
    yield "|---|---|---|---|"
    for method, rows in DOLMA_HOURS.items():
        for compute_h, published in rows:
            ours = dolma_hours(method, compute_h)
            yield f"| {method.replace('_', ' ')} | {compute_h:g} h | {published:g} h | {ours:,.2f} h |"


def scaling_table() -> Iterator[str]:
    yield "| DiLoCo at 90 % | inner steps | published | ours |"
    yield "|---|---|---|---|"
    for name, parameters, step_s, inner, published in SCALING_90:
        job = TrainingJob(parameters_n=parameters, tokens_n=20 * parameters, batch_tokens=1e6)
        found = bandwidth_needed_mbit_s(job, 2, DiLoCo(inner_steps=inner), step_s, 0.9)
        assert found is not None
        yield f"| {name} | {inner} | {published:g} Gbit/s | {found / 1e3:.3g} Gbit/s ({found / 1e3 / published:.2f}) |"


def tables() -> str:
    head = "Bandwidth in Gbit/s, published / ours (ratio), by compute utilisation; two sites:"
    parts = (intellect_table(), dolma_table(), scaling_table())
    small = "\n\n".join("\n".join(part) for part in parts)
    return f"{small}\n\n{head}\n\n" + "\n".join(bandwidth_table()) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="put the tables into docs/training.md")
    found = tables()
    print(found)
    if parser.parse_args().write:
        before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
        _, _, after = rest.partition(END)
        PAGE.write_text(before + BEGIN + "\n" + found + "\n" + END + after, encoding="utf-8")


if __name__ == "__main__":
    main()

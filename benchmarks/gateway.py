"""Gateways side by side in one run: ours, sglang-router, vllm-router, LiteLLM, nginx, direct.

The table goes to stderr, `--json` puts the document on stdout, and a whole run is kept in
benchmarks/results/gateway.json. How to read the figures: benchmarks/README.md.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from cyclopts import App, Parameter
from rich.console import Console
from rig import mock, process, profiling, report, sample, scenarios
from rig.contenders import CONTENDERS, DEFAULTS, Contender, install

HERE = Path(__file__).resolve().parent
Scenario = Literal["plain", "stream", "freeze", "kill"]
EVERY: tuple[Scenario, ...] = ("plain", "stream", "freeze", "kill")
USUAL: tuple[Scenario, ...] = ("plain", "stream", "freeze")
"""Killing is left to `--full`: a refused connection is the easy fault, and costs 25 s for each."""
QUICK_CELLS = tuple(cell for cell in scenarios.CELLS if cell.id in ("c1", "c16", "c64"))
QUICK_CONTENDERS = ("hanse", "nginx", "sglang-router")
"""Ours and a yardstick on either side; LiteLLM alone needs 20 s to start, three times."""
PATIENCE_S = 15.0
"""For waiting and repeating in a whole run on a shared machine; keeps it under six minutes."""

app = App(name="gateway.py", help=__doc__, help_format="plaintext")
console = Console(stderr=True, highlight=False, width=None if sys.stderr.isatty() else 150)
Many = Parameter(consume_multiple=True, negative=())


@dataclass(frozen=True, kw_only=True)
class Options:
    """Flags of the command line."""

    only: Annotated[tuple[str, ...], Many] = ()
    "These contenders beside direct; also haproxy, sglang-router-rr, vllm-router-rr."
    scenario: Annotated[tuple[Scenario, ...], Many] = ()
    "These scenarios; a whole run has plain, stream and freeze."
    quick: bool = False
    "Three gateways, fewer samples, a shorter fault: for a look, not for a claim."
    full: bool = False
    "Every contender and scenario; about 12 minutes."
    seconds: int = 1
    "Length of a plain sample."
    reps: int = 2
    "Interleaved repetitions of each plain sample."
    seed: int = 7
    "Of prompts, stream starts and the clients' choices."
    date: str = "not given"
    "Written into the document as it stands: the benchmark reads no calendar."
    install: bool = False
    "Install the pinned contenders that are not in the cache yet."
    cache: Path = HERE / ".cache"
    "Where the contenders' environments live."
    out: Path | None = None
    "Where the document goes."
    json: bool = False
    "Print the document on stdout."
    profile: bool = False
    "Say where the CPU of the contender named by --only goes."
    gate: bool = False
    "Exit 1 when a target is missed."


def say(text: str) -> None:
    """A line of progress for people."""
    console.print(text, style="dim", markup=False)


@app.default
def main(options: Annotated[Options, Parameter(name="*")] = Options()) -> int:
    """Measure gateways side by side on the same mock backends with the same load."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    started_s = time.monotonic()
    if options.install:
        install(options.cache.resolve(), say)
    with tempfile.TemporaryDirectory(prefix="gateway-bench-") as work:
        bench = build_bench(options, Path(work))
        if options.profile:
            profiling.profile(bench, HERE / "results", say)
            return 0
        taken = measure(bench, options)
    document = build_document(bench, options, taken, wall_s=time.monotonic() - started_s)
    report.print_document(document, console)
    write(document, options)
    return int(options.gate and not all(goal.met for goal in document.goals))


def build_bench(options: Options, work_dir: Path) -> scenarios.Bench:
    """Cores, contenders and lengths of this run."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        say("one core only: gateway and load share it, figures other than CPU mean little")
    missing: list[scenarios.Missing] = []
    return scenarios.Bench(
        contenders=choose_contenders(options, missing),
        cache=options.cache.resolve(),
        work_dir=work_dir,
        gateway_core=cores[0],
        load_core=cores[-1] if len(cores) < 3 else cores[1],
        seed=options.seed,
        seconds=options.seconds,
        reps=1 if options.quick else options.reps,
        stream_rounds=1 if options.quick else 2,
        stream_shapes=scenarios.SHAPES[:2] if options.quick else scenarios.SHAPES,
        fault_before_s=3.0 if options.quick else 5.0,
        fault_after_s=5.0 if options.quick else 20.0,
        with_direct=True,
        patience=sample.Patience(left_s=5.0 if options.quick else PATIENCE_S),
        say=say,
        missing=missing,
    )


def choose_contenders(options: Options, missing: list[scenarios.Missing]) -> list[Contender]:
    """Those asked for that can run here; the others become lines of `missing`."""
    names: Sequence[str] = options.only
    if not names:
        names = QUICK_CONTENDERS if options.quick else DEFAULTS
        names = tuple(CONTENDERS) if options.full else names
    if unknown := set(names) - {*CONTENDERS, scenarios.DIRECT}:
        known = ", ".join([scenarios.DIRECT, *CONTENDERS])
        sys.exit(f"--only: got {', '.join(sorted(unknown))}; allowed: {known}")
    chosen = []
    for name in names:
        if name == scenarios.DIRECT:
            continue
        why = CONTENDERS[name].say_missing(options.cache.resolve())
        if why is None:
            chosen.append(CONTENDERS[name])
            continue
        missing.append(scenarios.Missing(contender=name, scenario="all", why=why))
        say(f"not measured: {name}: {why}")
    return chosen


@dataclass(kw_only=True)
class Taken:
    """The rows of a run."""

    plain: list[scenarios.PlainRow]
    stream: list[scenarios.StreamRow]
    fault: list[scenarios.FaultRow]


def measure(bench: scenarios.Bench, options: Options) -> Taken:
    """The chosen scenarios; one that lacks its tools becomes a line of `missing`."""
    taken = Taken(plain=[], stream=[], fault=[])
    for scenario in options.scenario or (EVERY if options.full else USUAL):
        if why := say_scenario_missing(scenario):
            bench.missing.append(scenarios.Missing(contender="all", scenario=scenario, why=why))
            say(f"not measured: {scenario}: {why}")
        elif scenario == "plain":
            cells = QUICK_CELLS if options.quick else scenarios.CELLS
            taken.plain = scenarios.measure_plain(bench, cells)
        elif scenario == "stream":
            taken.stream = scenarios.measure_stream(bench)
        else:
            taken.fault += scenarios.measure_fault(bench, scenario)
    return taken


def say_scenario_missing(scenario: Scenario) -> str | None:
    """Which tool a scenario lacks here and how to get it."""
    if scenario == "stream":
        return None
    if scenario == "plain" and shutil.which("wrk") is None:
        return "wrk is not installed; get it: apt-get install wrk"
    return mock.say_missing()


def build_document(
    bench: scenarios.Bench, options: Options, taken: Taken, *, wall_s: float
) -> report.Document:
    """Everything this run knows."""
    return report.Document(
        date=options.date,
        seed=options.seed,
        wall_s=round(wall_s, 1),
        settings={
            "plain_s": bench.seconds,
            "plain_reps": bench.reps,
            "stream_rounds": bench.stream_rounds,
            "fault_before_s": bench.fault_before_s,
            "fault_after_s": bench.fault_after_s,
            "foreign_core_max": sample.FOREIGN_CORE_MAX,
        },
        machine=report.describe_machine(),
        versions={one.name: one.read_version(bench.cache) for one in bench.contenders},
        notes={one.name: one.note for one in bench.contenders},
        plain=taken.plain,
        stream=taken.stream,
        fault=taken.fault,
        ratios=report.build_ratios(taken.plain),
        goals=report.build_goals(taken.plain, taken.stream, taken.fault),
        not_measured=bench.missing,
    )


def write(document: report.Document, options: Options) -> None:
    """A whole run replaces the kept document; any other goes beside it and is not kept."""
    whole = not (options.only or options.scenario or options.quick)
    name = "gateway.json" if whole else "gateway-partial.json"
    out = options.out or HERE / "results" / name
    out.parent.mkdir(parents=True, exist_ok=True)
    text = msgspec.json.format(msgspec.json.encode(document), indent=1)
    out.write_bytes(text + b"\n")
    say(f"written to {out.name}")
    if options.json:
        sys.stdout.write(text.decode() + "\n")


if __name__ == "__main__":
    try:
        sys.exit(app(result_action="return_value"))
    except process.StartError as error:
        sys.exit(f"not measured: {error} {error.detail}".rstrip())

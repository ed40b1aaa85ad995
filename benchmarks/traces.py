"""How fast traces are made, written, read, imported and changed, on one core, and how much memory it takes.

Run: `python benchmarks/traces.py [--requests 10000000] [--shared ../shared/data] [--json]`. Each line is a process of its
own: CPU time and the peak of its resident memory (`ru_maxrss`), start included. The limits are those that the simulator
sets: at least a million requests per second of CPU, at most 1 GiB for ten million requests. What cannot run here is a
line "not measured". Not here: what a simulator does with the requests.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from hanse.signals.traces import Trace, open_trace, write_trace
from hanse.signals.traces.trace import SHIPPED

LIMIT_PER_S = 1e6
LIMIT_MIB = 1024.0


def drained(trace: Trace) -> int:
    """Read to the end, looking at every request and block once, as a consumer would."""
    count = 0
    for chunk in trace.chunks():
        count += len(chunk.requests)
        assert chunk.requests["at_s"][0] <= chunk.requests["at_s"][-1]
    return count


def spec_of(requests: int, blocks: bool) -> Trace:
    from hanse.signals.traces.generate import generate
    from hanse.signals.traces.spec import read_spec

    spec = read_spec(SHIPPED / "league_day.toml")
    per_s = requests / (spec.duration_h * 3600.0)
    tokens = spec.block_tokens if blocks else 0
    return generate(msgspec.structs.replace(spec, requests_per_s=per_s, block_tokens=tokens))


def make(folder: Path, requests: int, _: Path) -> int:
    return drained(spec_of(requests, blocks=False))


def make_blocks(folder: Path, requests: int, _: Path) -> int:
    return drained(spec_of(requests, blocks=True))


def make_and_write(folder: Path, requests: int, _: Path) -> int:
    trace = spec_of(requests, blocks=True)
    return write_trace(folder / "blocks.parquet", trace.meta, trace.chunks()).count


def write_plain(folder: Path, requests: int, _: Path) -> int:
    trace = spec_of(requests, blocks=False)
    return write_trace(folder / "plain.parquet", trace.meta, trace.chunks()).count


def read_plain(folder: Path, requests: int, _: Path) -> int:
    return drained(open_trace(folder / "plain.parquet"))


def read_blocks(folder: Path, requests: int, _: Path) -> int:
    return drained(open_trace(folder / "blocks.parquet"))


def double(folder: Path, requests: int, _: Path) -> int:
    from hanse.signals.traces.transform import scaled

    return drained(scaled(open_trace(folder / "blocks.parquet"), 2.0, 1))


def show(folder: Path, requests: int, _: Path) -> int:
    from hanse.signals.traces.figures import figures_of

    return figures_of(open_trace(folder / "blocks.parquet")).requests


def import_csv(folder: Path, requests: int, _: Path) -> int:
    from hanse.signals.traces.tables import Columns, Table, read_table

    columns = Columns(
        at="time", tokens_in="in", tokens_out="out", service="service", session="session"
    )
    done = read_table(Table(path=folder / "rows.csv", form="csv", columns=columns))
    return write_trace(folder / "imported.parquet", done.trace.meta, done.trace.chunks()).count


def rows_of_csv(path: Path, count: int) -> None:
    with path.open("w") as file:
        file.write("time,service,in,out,session\n")
        file.writelines(f"{i * 0.01:.2f},chat,{i % 900},{i % 70},{i // 3}\n" for i in range(count))


def servegen(folder: Path, requests: int, shared: Path) -> int:
    from hanse.signals.traces.servegen import read_servegen

    path = shared / "llm_demand_servegen_2025" / "m-large_rates.csv.gz"
    return drained(read_servegen(path, factor=requests / 2.37e8).trace)


CASES: dict[str, Callable[[Path, int, Path], int]] = {
    "make": make,
    "make with prefix blocks": make_blocks,
    "make and write, with blocks": make_and_write,
    "make and write": write_plain,
    "read": read_plain,
    "read with prefix blocks": read_blocks,
    "read and double": double,
    "figures, with blocks": show,
    "import CSV (two readings) and write": import_csv,
    "ServeGen, 14 days": servegen,
}
NEEDS_SHARED = {"ServeGen, 14 days"}


def one(name: str, folder: Path, requests: int, shared: Path) -> None:
    """Run one case in this process and print its figures."""
    begin_s = time.process_time()
    count = CASES[name](folder, requests, shared)
    cpu_s = time.process_time() - begin_s
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024.0
    print(json.dumps({"case": name, "requests": count, "cpu_s": cpu_s, "peak_mib": peak_mib}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=10_000_000)
    parser.add_argument(
        "--shared", type=Path, default=Path(__file__).parents[2] / "shared" / "data"
    )
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        one(options.one, options.folder, options.requests, options.shared)
        return
    results = []
    with tempfile.TemporaryDirectory() as folder:
        rows_of_csv(Path(folder) / "rows.csv", min(options.requests, 2_000_000))
        for name in CASES:
            if name in NEEDS_SHARED and not options.shared.exists():
                print(f"{name}: not measured: needs the folder of shared data (--shared)")
                continue
            again = ["--one", name, "--folder", folder, "--requests", str(options.requests)]
            command = [sys.executable, __file__, *again, "--shared", str(options.shared)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            results.append(found := json.loads(done.stdout))
            per_s = found["requests"] / found["cpu_s"]
            marks = ("" if per_s >= LIMIT_PER_S else "  BELOW 1e6/s") + (
                "" if found["peak_mib"] <= LIMIT_MIB else "  ABOVE 1 GiB"
            )
            if not options.json:
                print(
                    f"{name:38} {found['requests']:>12,} requests {found['cpu_s']:7.2f} s CPU "
                    f"{per_s / 1e6:6.2f} M/s {found['peak_mib']:6.0f} MiB{marks}"
                )
        sizes = {p.name: p.stat().st_size for p in Path(folder).glob("*.parquet")}
    if options.json:
        print(json.dumps({"cases": results, "bytes": sizes}, indent=2))
        return
    for name, size in sizes.items():
        print(f"{name}: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()

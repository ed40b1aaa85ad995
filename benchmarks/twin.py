"""How fast the twin is: requests a second of whole processes, memory, and how cost grows with requests and sites.

Run: `python benchmarks/twin.py [--quick] [--json] [--others]`. Each figure is a process of its own from start to end: reading the fleet's law,
building the tables, reading the trace from Parquet, simulating, summing up. Requests arrive at the gateways of sites in the largest
cities of the world by local time of day; every site has eight H100 that serve an 8B model; choosing, aged load frames, batching at
iteration level, and energy by five minutes are on. Kernels are compiled before (about half a minute, once). `--others` measures other
simulators beside it in the same run (`rig/simulators.py`); `--install` makes their environments. How to read it: benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rig import simulators
from rig.drivers.peak import rss_mib

from hanse.catalogue.cities import cities as all_cities
from hanse.catalogue.electricity import electricity_by_country
from hanse.catalogue.jurisdictions import jurisdiction_rules
from hanse.model.fleet import (
    DataClass,
    Fleet,
    Key,
    Placement,
    Pool,
    Power,
    Service,
    Site,
    Slo,
    Tenant,
    Variant,
)
from hanse.signals.traces import open_trace, write_trace
from hanse.signals.traces.generate import generate
from hanse.signals.traces.spec import ClassShare, Lognormal, OriginShare, ServiceShare, TraceSpec
from hanse.twin.simulate import Simulation

RPS_PER_SITE = 40.0
"""About 80 % of the time busy at 3 requests a batch: what a site of eight accelerators sees outside its peak."""
GOAL_RPS = 500_000.0
GOAL_RSS_MIB = 1024.0
LOAD_S = 590.0
"""Of every run of the series by sites, so that all simulate two steps of power (300 s each) and the fixed costs of a step are alike."""
LONGER = [(100, 1_000_000), (100, 4_000_000), (100, 10_000_000)]
WIDER = [(count, int(LOAD_S * RPS_PER_SITE * count)) for count in (25, 50, 100, 200, 400)]
"""Sites and requests of the two series; the first of all is the quick look."""
EXPONENT_MAX = 1.05
"""Linear, and n log n, with what a fit over a decade strays on a machine with neighbours."""
CACHE = Path(__file__).resolve().parent / ".cache"


def cities(count: int) -> list[Any]:
    """The largest cities in countries with rules and figures."""
    rules, power = jurisdiction_rules().countries, electricity_by_country()
    able = [
        c for c in all_cities()
        if c.iso2 in rules and c.iso2 in power and power[c.iso2].carbon_g_per_kwh is not None
    ]  # fmt: skip
    return sorted(able, key=lambda c: (-c.population, c.name))[:count]


def fleet_of(count: int) -> Fleet:
    """A site in each of the largest cities."""
    places = cities(count)
    sites = tuple(
        Site(
            id=f"s{i}", kind="micro", city=c.name, country=c.iso2, lat_deg=c.lat, lon_deg=c.lon,
            operator_hq=c.iso2, power=Power(grid_kw_max=60.0, pv_kw_peak=20.0, battery_kwh=40.0, battery_kw_max=20.0),
            pools=(Pool(id="gpu", accelerator="h100-sxm", count=8),),
        )
        for i, c in enumerate(places)
    )  # fmt: skip
    variant = Variant(
        id="fp8", model="Llama-3.1-8B", precision="fp8", quality=0.7, quality_source="assumed"
    )
    return Fleet(
        schema="hanse-fleet/1",
        name=f"cities-{count}",
        classes=(DataClass(id="public", law="non_personal"), DataClass(id="personal", law="personal")),
        sites=sites,
        services=(
            Service(id="chat", slo=Slo(ttft_ms=1000.0, tpot_ms=60.0), variants=(variant,)),
        ),
        tenants=(
            Tenant(
                id="all",
                classes=("public", "personal"),
                keys=(Key(id="k", sha256="ab" * 32, countries=tuple(sorted({c.iso2 for c in places}))),),
            ),
        ),
        placements=tuple(
            Placement(service="chat", variant="fp8", site=s.id, pool="gpu", replicas=8, slots=64, context_tokens=300_000)
            for s in sites
        ),
    )  # fmt: skip


def spec_of(count: int, requests: int, rps: float | None = None) -> TraceSpec:
    """Chat turns from all these cities by their local time."""
    rate = rps or RPS_PER_SITE * count
    return TraceSpec(
        schema="hanse-trace-spec/1",
        name=f"cities-{count}",
        seed=7,
        start=datetime(2026, 3, 2, 12, tzinfo=UTC),
        duration_h=requests / rate / 3600.0,
        requests_per_s=rate,
        origins=tuple(
            OriginShare(city=c.name, country=c.iso2, id=f"o{i}", weight=1.0)
            for i, c in enumerate(cities(count))
        ),
        services=(
            ServiceShare(
                id="chat",
                tokens_in=Lognormal(median=300, sigma=0.9, max=6000),
                tokens_out=Lognormal(median=150, sigma=0.7, max=1500),
            ),
        ),
        classes=(ClassShare(id="public", weight=0.7), ClassShare(id="personal", weight=0.3)),
    )


def child(count: int, path: Path) -> dict[str, Any]:
    """One run, in a process of its own."""
    begun_cpu_s = time.process_time()
    run = Simulation(fleet_of(count), open_trace(path))
    ready_cpu_s = time.process_time()
    run.run()
    w = run.world
    clock, sums = w.clock[0], w.sums[0]
    return {
        "requests": int(clock["requests"]),
        "served": int(sums[0]),
        "good": int(sums[4]),
        "hops": int(clock["hops"]),
        "steps": int(clock["steps"]),
        "simulated_s": float(clock["now_s"]),
        "utilisation": float(w.engines["busy_s"].sum() / clock["now_s"] / len(w.engines)),
        "facility_kwh": float(run.power.sums["facility_kwh"].sum()),
        "rss_mib": rss_mib(),
        "cpu_s": time.process_time(),
        "setup_cpu_s": ready_cpu_s - begun_cpu_s,
        "run_cpu_s": time.process_time() - ready_cpu_s,
    }


def measure(count: int, requests: int, work: Path) -> dict[str, Any]:
    """Wall and CPU time of a whole process."""
    path = work / f"{count}-{requests}.parquet"
    if not path.exists():
        trace = generate(spec_of(count, requests))
        write_trace(path, trace.meta, trace.chunks())
    command = [sys.executable, __file__, "--child", str(count), "--trace", str(path)]
    started_s = time.perf_counter()
    done = subprocess.run(
        command, capture_output=True, check=False, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    wall_s = time.perf_counter() - started_s
    if done.returncode != 0:
        sys.exit(done.stderr.decode())
    found: dict[str, Any] = json.loads(done.stdout)
    found |= {"sites": count, "wall_s": wall_s}
    found["rps"] = found["requests"] / wall_s
    found["rps_cpu"] = found["requests"] / found["cpu_s"]
    return found


def exponents(
    longer: list[dict[str, Any]], wider: list[dict[str, Any]], loading_s: float
) -> dict[str, float]:
    """How the CPU time of simulating grows: with requests at 100 sites; with sites n, each under its own load for as long, as a power
    of n and of n log n. Importing, set-up and loading the kernels are left out: once a run, they would make the growth look smaller.
    """
    sites = [float(r["sites"]) for r in wider]
    requests = [float(r["requests"]) for r in longer]
    costs = [[r["run_cpu_s"] - loading_s for r in rows] for rows in (longer, wider)]
    return {
        "requests": simulators.exponent(requests, costs[0]),
        "sites": simulators.exponent(sites, costs[1]),
        "sites log sites": simulators.exponent([n * math.log(n) for n in sites], costs[1]),
    }


def run_others(args: argparse.Namespace, work: Path) -> tuple[list[simulators.Row], dict[str, str]]:
    """The other simulators, each beside the nearest of ours."""

    def ours(case: simulators.Case) -> simulators.Sample:
        kind, sites = case.ours
        if kind == "power":
            days = int(case.arguments[case.arguments.index("--days") + 1])
            return simulators.run_power(sites, days, work)
        found = measure(sites, 1_000_000, work)
        return simulators.Sample(
            units=found["requests"],
            wall_s=found["wall_s"],
            cpu_s=found["cpu_s"],
            work_cpu_s=found["setup_cpu_s"] + found["run_cpu_s"],
            rss_mib=found["rss_mib"],
        )

    def requests(rps: float, count: int) -> list[tuple[float, int, int]]:
        chunks = generate(spec_of(10, count, rps)).chunks()
        columns = ("at_s", "tokens_in", "tokens_out")
        return [row for c in chunks for row in c.requests[list(columns)].tolist()]

    given = {"splitwise-sim": args.splitwise_sim, "vidur": args.vidur}
    stage = simulators.Stage(
        cache=CACHE,
        checkouts={name: path.resolve() for name, path in given.items() if path is not None},
        work=work,
        rounds=args.rounds or (1 if args.quick else 3),
        ours=ours,
        requests=requests,
        say=tell,
    )
    simulators.run_power(50, 3, work)  # compiles what is not compiled yet
    return simulators.compare(stage, simulators.cases(quick=args.quick))


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a million requests, 100 sites")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--gate", action="store_true", help="exit 1 when a target is missed")
    parser.add_argument("--others", action="store_true", help="other simulators beside it")
    parser.add_argument("--only-others", action="store_true", help="without the twin's own series")
    parser.add_argument("--install", action="store_true", help="make the others' environments")
    parser.add_argument("--splitwise-sim", type=Path, metavar="DIR", help="a checkout of it")
    parser.add_argument("--vidur", type=Path, metavar="DIR", help="a checkout of it")
    parser.add_argument("--rounds", type=int, default=0, help="of the others; 3, quick 1")
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--trace", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> int:
    args = parse()
    if args.child:
        print(json.dumps(child(args.child, args.trace)))
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # takes a running child along
    if args.install:
        simulators.install(CACHE, tell)
    plan = LONGER[:1] if args.quick else [*LONGER, *WIDER]
    rows, beside, missing, loading_s = [], [], {}, 0.0
    with tempfile.TemporaryDirectory(prefix="twin-bench-") as work:
        measure(*plan[0], Path(work))  # compiles what is not compiled yet
        if len(plan) > 1 and not args.only_others:
            # Next to nothing is simulated: what is left is loading the kernels.
            loading_s = measure(2, 1000, Path(work))["run_cpu_s"]
        for count, requests in () if args.only_others else plan:
            rows.append(measure(count, requests, Path(work)))
            say(rows[-1])
        if args.others or args.only_others:
            beside, missing = run_others(args, Path(work))
    longer, wider = rows[: len(LONGER)], rows[len(LONGER) :]
    growth = exponents(longer, wider, loading_s) if wider else {}
    for name, power in growth.items():
        sys.stderr.write(f"CPU time grows as ({name})^{power:.3f}\n")
    if beside:
        sys.stderr.write("\n".join(simulators.lines_of(beside)) + "\n")
    goals = build_goals(rows, growth)
    for goal, met in goals.items():
        sys.stderr.write(f"{'met   ' if met else 'missed'} {goal}\n")
    if args.json:
        others = [asdict(row) for row in beside]
        found = {"rows": rows, "exponents": growth, "others": others, "not_measured": missing}
        print(json.dumps(found | {"goals": goals}, indent=1))
    return int(args.gate and not all(goals.values()))


def build_goals(rows: list[dict[str, Any]], growth: dict[str, float]) -> dict[str, bool]:
    """What was promised, as far as this run measured it."""
    goals = {}
    if rows:
        best = max(r["rps"] for r in rows[: len(LONGER)])
        flat_mib = max(r["rss_mib"] for r in rows)
        goals[f"requests/s >= {GOAL_RPS:,.0f}"] = best >= GOAL_RPS
        goals[f"memory <= {GOAL_RSS_MIB:.0f} MiB"] = flat_mib <= GOAL_RSS_MIB
    if growth:
        goals[f"CPU by requests^{EXPONENT_MAX} at most"] = growth["requests"] <= EXPONENT_MAX
        goals[f"CPU by (n log n)^{EXPONENT_MAX} at most, n sites"] = (
            growth["sites log sites"] <= EXPONENT_MAX
        )
    return goals


def tell(line: str) -> None:
    """A line for people."""
    sys.stderr.write(f"{line}\n")


def say(row: dict[str, Any]) -> None:
    """One line a run."""
    sys.stderr.write(
        f"{row['sites']:>4} sites {row['requests']:>10,} requests: {row['rps']:>9,.0f}/s wall, {row['rps_cpu']:>9,.0f}/s CPU, "
        f"{row['wall_s']:.1f} s (set-up {row['setup_cpu_s']:.1f} s CPU), {row['rss_mib']:.0f} MiB, {row['steps'] / row['requests']:.0f} engine steps each, "
        f"{row['utilisation']:.0%} busy, {row['hops'] / row['requests']:.0%} hopped\n"
    )


if __name__ == "__main__":
    sys.exit(main())

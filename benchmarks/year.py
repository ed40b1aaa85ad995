"""A year at twenty sites: placement fixed at the peak, an autoscaler at every site, the slow loop by forecasts and by the truth.

Run: `python benchmarks/year.py [--months 1-12 | 1,4,7,10] [--days N] [--workers 2] [--json] [--fresh]`. Needs `../shared/data` (weather and wholesale
prices of 2022; carbon of the package). Each month of each alternative is one run of the twin, kept under `benchmarks/out/year`, so that an
interrupted benchmark goes on. `--read FILE` makes the table of runs that are on record (`year_2022.jsonl`: a kept run a line) instead, `--by-month`
tells what each month cost. Here: runs and the table. Not here: the fleet and what is foreseen (`year_world`), any decision.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import multiprocessing
import sys
import time
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from year_world import (
    ALL_MONTHS,
    CHIPS,
    HOUR_S,
    OUT,
    PLACE_GAP,
    SHARED,
    at_peak,
    begin,
    count_month,
    fleet_of,
    hours_in,
    jobs_of,
    outlooks,
    places,
    recordings,
    trace_of,
)

from hanse.dispatch import events as ev
from hanse.dispatch.dispatcher import Dispatcher
from hanse.dispatch.place import solve
from hanse.dispatch.place_problem import problem_from
from hanse.milp import Limits
from hanse.model.fleet import (
    Fleet,
    Placement,
    Weights,
)
from hanse.plan.steps import source_digest
from hanse.signals.outlook import Outlook
from hanse.twin import arrays as ar
from hanse.twin.operation import Operation
from hanse.twin.quantiles import quantile_ms
from hanse.twin.simulate import Simulation
from hanse.twin.tally import Tally, by_reason

ALL = range(1, 13)
ABOVE = ("cli", "live")
"""Packages that nothing here runs: those beside and above the twin, which it may not import (`make check`)."""
ALTERNATIVES = ("fixed", "autoscaler", "forecast", "truth")
LABELS = {
    "fixed": "fixed at each site's peak",
    "autoscaler": "autoscaler at each site",
    "forecast": "slow loop, forecasts",
    "truth": "slow loop, true future",
}


# --- runs


def run_month(alternative: str, month: int, days: float) -> dict[str, Any]:
    """One run of the twin, as sums that months can be added by."""
    counted = [count_month(m) for m in range(ALL_MONTHS)]
    begun = time.process_time()
    fleet = fleet_of(at_peak(counted[1:]))
    jobs = jobs_of(month, days)
    if alternative in ("fixed", "autoscaler"):
        operation = Operation(
            rule="fixed" if alternative == "fixed" else "autoscaler",
            jobs=jobs,
            powers_down=alternative != "fixed",
        )
    else:
        known = outlooks(counted, month, days, truth=alternative == "truth")
        fleet = msgspec.structs.replace(
            fleet, placements=opening(fleet, known[begin(month).timestamp()])
        )
        operation = Operation(
            foresee=lambda now_s, _: known[now_s],
            every_s=HOUR_S,
            jobs=jobs,
            place_limits=Limits(gap=PLACE_GAP, nodes_max=0),
        )
    made_s = time.process_time() - begun
    box: list[Tally] = []
    run = Simulation(
        fleet,
        trace_of(month, round(days * 24)),
        feed=recordings(),
        start_at_s=begin(month).timestamp(),
        operation=operation,
        rows=lambda some: box[0].take(some),
    )
    box.append(Tally(run.world))
    run.run()
    return figures(run, box[0]) | {
        "alternative": alternative,
        "month": month,
        "days": days,
        "cpu_s": time.process_time() - begun,
        "cpu_s_forecasts": made_s,
    }


def opening(fleet: Fleet, outlook: Outlook) -> tuple[Placement, ...]:
    """What would have been placed an hour before a run: a month does not begin with another rule's replicas, and their peak."""
    dispatcher = Dispatcher("fleet")
    digests = {"users": "0" * 64}
    dispatcher.handle(ev.FleetLoaded(at_s=outlook.start_s, fleet=fleet, digests=digests))
    assert dispatcher.belief is not None
    problem = problem_from(dispatcher.belief, outlook, window=(0, 2))
    return solve(problem, Limits(gap=PLACE_GAP, nodes_max=0)).placements


def figures(run: Simulation, tally: Tally) -> dict[str, Any]:
    sums, power, operator = run.world.sums[0], run.power.sums, run.operator
    assert operator is not None
    books = operator.yard.books
    engines = run.world.engines
    chips = np.array([e.chips for e in run.berths.specs])
    usd = {n: float(power[n].sum()) for n in ("usd_import", "usd_export", "usd_demand")}
    return {
        "requests": int(run.world.clock[0]["requests"]),
        "served": int(sums[ar.SUM_SERVED]),
        "good": int(sums[ar.SUM_GOOD]),
        "refused": by_reason(tally.refused.sum(axis=(0, 1, 2))),
        "failed": by_reason(tally.failed.sum(axis=(0, 1, 2))),
        "broken": int(sums[ar.SUM_BROKEN]),
        "ttft_counts": run.world.hist[0, 0].tolist(),
        "hours": float(power["steps"].max()) * 300.0 / HOUR_S,
        **usd,
        "usd_egress": float(tally.egress_usd.sum()),
        "average_g": float(power["carbon_location_g"].sum()),
        "marginal_g": float(power["carbon_marginal_g"].sum()),
        "own_g": float(power["carbon_own_g"].sum()),
        "facility_kwh": float(power["facility_kwh"].sum()),
        "import_kwh": float(power["import_kwh"].sum()),
        "pv_kwh": float(power["pv_kwh"].sum()),
        "curtailed_kwh": float(power["curtailed_kwh"].sum()),
        "carbon_free_kwh": float(power["carbon_free_kwh"].sum()),
        "load_kwh": float(power["facility_kwh"].sum()),
        "idle_kwh": float(run.power.idle_wh.sum()) / 1000.0,
        "busy_chip_h": float((engines["busy_s"] * chips).sum()) / HOUR_S,
        "batch_slot_h": float(engines["batch_s"].sum()) / HOUR_S,
        "engine_chip_h": operator.engine_chip_h,
        "powered_chip_h": operator.powered_chip_h,
        "placements": len(operator.answers),
        "gap_max": max((a.gap for _, a in operator.answers), default=0.0),
        "warnings": sum("refused" in text for _, text in run.log),
        "jobs": msgspec.to_builtins({n: getattr(books, n) for n in books.__slots__}),
        "tables": run.tables,
    }


# --- the table


def kept_path(alternative: str, month: int, days: float) -> Path:
    return OUT / f"{alternative}-{month:02d}-{days:g}.json"


def kept(alternative: str, month: int, days: float) -> dict[str, Any] | None:
    """A run of this very code that is there already."""
    path = kept_path(alternative, month, days)
    if not path.exists():
        return None
    found: dict[str, Any] = json.loads(path.read_text())
    return found if found["file"] == digest() else None


@cache
def digest() -> str:
    """Of everything that decides or counts: a run of other code is no part of the table."""
    assert not any(name.startswith(tuple(f"hanse.{top}" for top in ABOVE)) for name in sys.modules)
    here = (Path(__file__), Path(__file__).with_name("year_world.py"))
    texts = b"".join(path.read_bytes() for path in here)
    return hashlib.blake2b(texts + source_digest(ABOVE).encode(), digest_size=8).hexdigest()


def one(task: tuple[str, int, float]) -> dict[str, Any]:
    found = run_month(*task) | {"file": digest()}
    kept_path(*task).write_text(json.dumps(found))
    return found


def run_all(
    tasks: list[tuple[str, int, float]], workers: int, *, fresh: bool
) -> dict[tuple[str, int, float], dict[str, Any]]:
    """What is not kept is run; all of them, by task."""
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        pool.map(count_month, range(ALL_MONTHS))
        todo = [t for t in tasks if fresh or kept(*t) is None]
        begun = time.monotonic()
        for i, r in enumerate(pool.imap_unordered(one, todo, chunksize=1), 1):
            left_s = (time.monotonic() - begun) / i * (len(todo) - i)
            print(
                f"{i}/{len(todo)} {r['alternative']} month {r['month']}: {r['cpu_s']:.0f} CPU s; {left_s / 60.0:.0f} min left",
                file=sys.stderr,
            )
    found = {task: kept(*task) for task in tasks}
    return {task: run for task, run in found.items() if run is not None}


def scaled(run: dict[str, Any]) -> dict[str, Any]:
    """A demand charge is a month's: of a month's first days only their part of it counts."""
    return run | {"usd_demand": run["usd_demand"] * run["hours"] / hours_in(run["month"])}


def added(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Months as one."""
    total = {k: sum(r[k] for r in runs) for k, v in runs[0].items() if isinstance(v, int | float)}
    total["jobs"] = {k: sum(r["jobs"][k] for r in runs) for k in runs[0]["jobs"]}
    total["ttft_counts"] = np.sum([r["ttft_counts"] for r in runs], axis=0)
    total["gap_max"] = max(r["gap_max"] for r in runs)
    reasons = sorted({k for r in runs for k in r["refused"]})
    total["refused"] = {k: sum(r["refused"].get(k, 0) for r in runs) for k in reasons}
    return total


def row_of(t: dict[str, Any]) -> dict[str, float]:
    """A column of the table: one alternative."""
    energy_usd = t["usd_import"] - t["usd_export"]
    tonnes = (t["average_g"] + t["own_g"]) / 1e6
    carbon_usd = tonnes * Weights().usd_per_tonne_co2e
    return {
        "requests, M": t["requests"] / 1e6,
        "not answered": float(t["requests"] - t["served"]),
        "within TTFT and TPOT, of a million": float(math.floor(1e6 * t["good"] / t["requests"])),
        "TTFT p50, ms": quantile_ms(t["ttft_counts"], 0.5) or math.nan,
        "TTFT p95, ms": quantile_ms(t["ttft_counts"], 0.95) or math.nan,
        "meter, MWh": t["facility_kwh"] / 1000.0,
        "energy, USD": energy_usd,
        "demand charge, USD": t["usd_demand"],
        "egress, USD": t["usd_egress"],
        "average carbon, t": tonnes,
        "marginal carbon, t": (t["marginal_g"] + t["own_g"]) / 1e6,
        "carbon at 100 USD/t, USD": carbon_usd,
        "cost + carbon price, USD": energy_usd + t["usd_demand"] + t["usd_egress"] + carbon_usd,
        "loaded engines that idle, %": 100.0 * (1.0 - t["busy_chip_h"] / t["engine_chip_h"]),
        "chips powered, %": 100.0 * t["powered_chip_h"] / (t["hours"] * CHIPS * len(places())),
        "sun curtailed, %": 100.0 * t["curtailed_kwh"] / t["pv_kwh"],
        "carbon-free by the hour, %": 100.0 * t["carbon_free_kwh"] / t["facility_kwh"],
        "jobs done": float(t["jobs"]["done"]),
        "jobs late, %": 100.0 * t["jobs"]["late"] / max(t["jobs"]["submitted"], 1),
        "job chip hours lost, %": 100.0 * t["jobs"]["lost_chip_h"] / max(t["jobs"]["chip_h"], 1e-9),
    }


def told(columns: dict[str, dict[str, float]]) -> str:
    names = [LABELS[a] for a in columns]
    lines = ["| | " + " | ".join(names) + " |", "|---|" + "---:|" * len(names)]
    for what in next(iter(columns.values())):
        cells = (columns[a][what] for a in columns)
        lines.append(
            f"| {what} | "
            + " | ".join(f"{v:,.4g}" if v < 1e4 else f"{v:,.0f}" for v in cells)
            + " |"
        )
    if {"forecast", "truth"} <= set(columns):
        ours, best = (columns[a]["cost + carbon price, USD"] for a in ("forecast", "truth"))
        lines.append(
            f"\nForecasts cost {100.0 * (ours / best - 1.0):.2f} % more than the true future (at most 5 wanted)."
        )
    return "\n".join(lines)


def told_by_month(runs: dict[str, list[dict[str, Any]]]) -> str:
    """Cost + carbon price of each month, USD."""
    lines = ["| month | " + " | ".join(LABELS[a] for a in runs) + " | forecasts over truth, % |"]
    lines.append("|---:|" + "---:|" * (len(runs) + 1))
    for row in zip(*runs.values(), strict=True):
        cost = {
            r["alternative"]: row_of(added([scaled(r)]))["cost + carbon price, USD"] for r in row
        }
        over = math.nan
        if {"forecast", "truth"} <= set(cost):
            over = 100.0 * (cost["forecast"] / cost["truth"] - 1.0)
        cells = " | ".join(f"{usd:,.0f}" for usd in cost.values())
        lines.append(f"| {row[0]['month']} | {cells} | {over:.1f} |")
    return "\n".join(lines)


def read_runs(path: Path) -> dict[tuple[str, int, float], dict[str, Any]]:
    """Runs that are on record, a line each."""
    found = [json.loads(line) for line in path.read_text().splitlines()]
    return {(r["alternative"], r["month"], r["days"]): r for r in found}


def months_of(text: str) -> list[int]:
    """First to last, or some of them."""
    try:
        first, _, last = text.partition("-")
        found = [*range(int(first), int(last) + 1)] if last else [int(m) for m in text.split(",")]
    except ValueError:
        found = []
    if not found or not set(found) <= set(ALL):
        raise argparse.ArgumentTypeError(f"got {text!r}; allowed: 1-12, or some as 1,4,7,10")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument(
        "--months", type=months_of, help="first-last, or some with commas; all that there are"
    )
    parser.add_argument(
        "--days", type=float, default=0.0, help="of each month, from its first on; 0: all"
    )
    parser.add_argument("--only", default=",".join(ALTERNATIVES), help="alternatives")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--fresh", action="store_true", help="forget runs that are kept")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--read", type=Path, metavar="FILE", help="runs on record, a line each")
    parser.add_argument("--by-month", action="store_true", help="also what each month cost")
    args = parser.parse_args()
    on_record = {} if args.read is None else read_runs(args.read)
    months = args.months or sorted({m for _, m, _ in on_record}) or ALL
    tasks = [(a, m, args.days or hours_in(m) / 24.0) for m in months for a in args.only.split(",")]
    if args.read is not None:
        known = on_record
        if lacking := [task for task in tasks if task not in known]:
            print(f"{args.read}: no run of {lacking}; name others by --months", file=sys.stderr)
            return 2
    elif not SHARED.exists():
        print(f"no data at {SHARED}: weather and prices of 2022 are needed", file=sys.stderr)
        return 2
    else:
        known = run_all(tasks, args.workers, fresh=args.fresh)
    runs: dict[str, list[dict[str, Any]]] = {}
    for task in tasks:
        runs.setdefault(task[0], []).append(known[task])
    columns = {a: row_of(added([scaled(r) for r in mine])) for a, mine in runs.items()}
    print(json.dumps(columns) if args.json else told(columns))
    if args.by_month and not args.json:
        print("\n" + told_by_month(runs))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

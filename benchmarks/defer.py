"""How long a schedule of deferrable work takes to solve, cold and after a change, by sites and jobs; and a call of `now`.

Run: `python benchmarks/defer.py [--json] [--gate] [--seeds 3]`. Made-up sites: sun, tariff and carbon as waves over the day, a
battery each, one pool; each job may run at eight of them, brings a checkpoint and half of them data. Two days, 70 steps. Values
and answer count, not only the solver. The 16-zone study is `hanse reproduce temporal-shift`. Not here: whether schedules are any good.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from typing import Any

import msgspec
import numpy as np

from hanse.dispatch.defer import DeferSolver, check
from hanse.dispatch.defer_now import NowState, PoolNow, RunningNow, SiteNow, now
from hanse.dispatch.defer_problem import (
    DeferBattery,
    DeferJob,
    DeferPath,
    DeferPool,
    DeferProblem,
    DeferSite,
    axis,
)
from hanse.model.job import Job

SIZES = ((1, 5), (10, 0), (10, 20), (50, 0), (50, 100))
LIMITS_S = {(1, 5): 1.0, (10, 0): 1.0, (10, 20): 5.0, (50, 0): 2.0, (50, 100): 30.0}
"""Cold, on one core: a plan for the next hours may take half a minute once."""
START_S = 1_700_000_000.0


def wave(mean: float, swing: float, hours: np.ndarray, period: float = 24.0) -> tuple[float, ...]:
    return tuple((mean + swing * np.sin(hours / period * 2.0 * np.pi)).tolist())


def site(rng: np.random.Generator, name: str, start_s: float) -> DeferSite:
    steps = np.array(axis())
    hours = (start_s + np.cumsum(steps) - steps / 2.0) / 3.6e3 + rng.uniform(0.0, 24.0)
    sun = np.clip(np.sin((hours % 24.0 - 6.0) / 12.0 * np.pi), 0.0, None) * rng.uniform(0.0, 30.0)
    flat = (0.0,) * len(steps)
    free = np.round(4.0 + 4.0 * np.sin(hours / 24.0 * 2.0 * np.pi))
    return DeferSite(
        site=name,
        price_usd_per_kwh=wave(0.1, 0.05, hours, 12.0),
        carbon_g_per_kwh=wave(300.0, 200.0 * rng.random(), hours),
        pue=wave(1.2, 0.1, hours),
        pv_kw=tuple(sun.tolist()),
        wind_kw=flat,
        grid_kw_max=(60.0,) * len(steps),
        base_kw=wave(15.0, 5.0, hours),
        battery=DeferBattery(
            kwh=40.0,
            kw_max=20.0,
            held_kwh=20.0,
            charge_efficiency=0.95,
            discharge_efficiency=0.95,
            self_discharge_per_h=3e-5,
            usd_per_kwh_out=0.03,
            stored_usd_per_kwh=0.1,
        ),
        pools=(
            DeferPool(
                pool="gpu",
                accelerator="l4",
                chips_free=tuple(free.tolist()),
                chip_kw_idle=0.05,
                chip_kw_full=0.11,
            ),
        ),
    )


def job(rng: np.random.Generator, name: str, sites: list[str]) -> DeferJob:
    chosen = rng.choice(len(sites), size=min(len(sites), 8), replace=False)
    lawful = sorted(sites[i] for i in chosen.tolist())
    return DeferJob(
        job=Job(
            id=name,
            kind="batch",
            tenant="t",
            data_class="public",
            country="DE",
            home=lawful[0],
            data_gb=float(rng.integers(0, 2) * 10),
            state_gb=1.0,
            submitted_at_s=START_S - 100.0,
            deadline_at_s=START_S + 3.6e3 * float(rng.integers(6, 80)),
            chip_s={"l4": 3.6e3 * float(rng.integers(1, 20))},
            chips_max=int(rng.integers(1, 5)),
            restart_s=120.0,
        ),
        sites=tuple(lawful),
        state_at=lawful[0],
    )


def made(sites: int, jobs: int, seed: int, shift: int = 0) -> DeferProblem:
    rng = np.random.default_rng(seed)
    start_s = START_S + 300.0 * shift
    names = [f"s{i}" for i in range(sites)]
    its = tuple(site(rng, name, start_s) for name in names)
    return DeferProblem(
        issued_at_s=start_s,
        start_s=start_s,
        step_s=axis(),
        carbon_signal="average_location",
        usd_per_tonne_co2e=100.0,
        sites=its,
        paths=tuple(
            DeferPath(source=a, target=b, mbit_s=1000.0, usd_per_gb=0.02)
            for a in names
            for b in names
            if a != b
        ),
        jobs=tuple(job(rng, f"j{k}", names) for k in range(jobs)),
    )


def timed(solver: DeferSolver, problem: DeferProblem) -> float:
    begun = time.perf_counter()
    answer = solver.solve(problem)
    took = time.perf_counter() - begun
    assert check(problem, answer) == []
    return took


def measured(sites: int, jobs: int, seed: int) -> dict[str, Any]:
    replace = msgspec.structs.replace
    one, solver = made(sites, jobs, seed), DeferSolver()
    row: dict[str, Any] = {"sites": sites, "jobs": jobs, "seed": seed, "cold_s": timed(solver, one)}
    extra = job(np.random.default_rng(seed + 1), "new", [s.site for s in one.sites])
    more = replace(one, jobs=(*one.jobs, extra))
    row["job_s"] = timed(solver, more)
    first = more.sites[0]
    dearer = replace(first, price_usd_per_kwh=tuple(1.1 * x for x in first.price_usd_per_kwh))
    row["price_s"] = timed(solver, replace(more, sites=(dearer, *more.sites[1:])))
    row["later_s"] = timed(solver, made(sites, jobs, seed, shift=1))
    row["now_s"] = now_s(one)
    return row


def now_s(one: DeferProblem) -> float:
    answer = DeferSolver().solve(one)
    state = NowState(
        at_s=one.start_s + 10.0,
        pools=tuple(PoolNow(site=s.site, pool="gpu", chips_free=2) for s in one.sites),
        sites=tuple(SiteNow(site=s.site, kw_free=5.0) for s in one.sites),
    )
    runs = now(one, answer, state).runs
    running = tuple(
        RunningNow(
            job=r.job, site=r.site, pool=r.pool, chips=r.chips, since_s=one.start_s, checkpoint_at_s=one.start_s
        )
        for r in runs
    )  # fmt: skip
    begun = time.perf_counter()
    now(one, answer, replace_running(state, running))
    return time.perf_counter() - begun


def replace_running(state: NowState, running: tuple[RunningNow, ...]) -> NowState:
    """Interactive work takes every chip: all that runs has to go."""
    pools = tuple(msgspec.structs.replace(p, chips_free=0) for p in state.pools)
    return msgspec.structs.replace(state, pools=pools, running=running)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--gate", action="store_true", help="exit 1 above the limit")
    args = parser.parse_args()
    rows, slow = [], False
    for size in SIZES:
        found = [measured(*size, seed) for seed in range(args.seeds)]
        rows += found
        middle = {k: statistics.median(r[k] for r in found) for k in found[0] if k.endswith("_s")}
        slow |= middle["cold_s"] > LIMITS_S[size]
        if not args.json:
            told = ", ".join(f"{k[:-2]} {1e3 * v:.1f}" for k, v in middle.items())
            print(f"{size[0]:3d} sites {size[1]:4d} jobs, ms: {told}", flush=True)
    if args.json:
        print(json.dumps(rows))
    return int(args.gate and slow)


if __name__ == "__main__":
    sys.exit(main())

"""Five regions, conversations with prefixes, demand that follows the sun: the shipped decision against other ways to choose.

Run: `python benchmarks/multisite.py [--quick] [--json FILE] [--policies A,B+held] [--loads 40,50] [--speed 0.5]`. Simulated with the twin: nobody's
hardware, and as good as its models (docs/twin.md). Each line has the utilisation it was reached at, since a latency says nothing
without. Not here: one decision's time (`choose.py`), a gateway on a real socket (`gateway.py`).

Twenty L4 replicas of an 8B model, four a region, as in SkyWalker's evaluation (8 to 12 L4 replicas, Llama-3.1-8B; Xia et al., EuroSys 2026,
arXiv 2505.24095). Two workloads:

    --crowd wildchat,tree2,...   closed loop, as that evaluation (`multisite_clients`): clients wait for their answers, ten minutes, bf16, and
                                 memory as there: 0.8 of 24 GB less the weights. Loads are clients, as multiples of the authors' per replica.
    --mooncake                   an hour of Kimi's conversations (Mooncake, FAST 2025; prompts of 12,000 tokens on average), two H100 a region, which
                                 together hold a twenty-third of its different blocks; read from the folder of data beside the repository.
    (without)                    open loop: an hour in which it is evening in Frankfurt and night in Tokyo and Sydney, FP8, larger caches.
"""

from __future__ import annotations

import argparse
import json
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from multisite_clients import BLOCK_TOKENS, crowd

from hanse.model.fleet import (
    Central,
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
    Weights,
)
from hanse.signals.traces.formats import read_mooncake
from hanse.signals.traces.generate import generate
from hanse.signals.traces.spec import (
    ClassShare,
    Conversation,
    GammaBursts,
    Lognormal,
    OriginShare,
    ServiceShare,
    TenantShare,
    TraceSpec,
)
from hanse.signals.traces.trace import Trace
from hanse.twin import arrays as ar
from hanse.twin.closed import ClosedLoop
from hanse.twin.policies import names
from hanse.twin.scenario import Fault, Scenario
from hanse.twin.simulate import Simulation

REGIONS = (  # id, city, country, latitude, longitude, grid zone
    ("virginia", "New York City", "US", 39.04, -77.49, "US-MIDA-PJM"),
    ("frankfurt", "Frankfurt am Main", "DE", 50.11, 8.68, "DE"),
    ("tokyo", "Tokyo", "JP", 35.68, 139.69, None),
    ("sao-paulo", "Sao Paulo", "BR", -23.55, -46.63, None),
    ("sydney", "Sydney", "AU", -33.87, 151.21, None),
)
REPLICAS = 4
SLOTS = 48
CONTEXT_TOKENS = 48 * 4096
SLO = Slo(ttft_ms=1500.0, tpot_ms=150.0, deadline_s=60.0)
LOADS_RPS = (20.0, 30.0, 40.0, 45.0, 50.0, 52.5, 55.0, 60.0)
QUICK_RPS = (30.0, 50.0)
START = datetime(2026, 3, 18, 18, tzinfo=UTC)
OURS = "shipped"
DEFAULT = tuple(
    n for n in names() if n not in ("central_only", "least_latency", "cheapest", "greenest")
)
"""Not `least_latency`, which the shipped decision is with these weights, nor one site with a fifth of the replicas, nor those that look
at no load."""
CROWD_S = 600.0
CROWD_LOADS = (0.75, 1.0, 1.25)
"""Of the authors' clients per replica: 40 + 30 + 30 on 8 replicas for WildChat, 40 + 20 + 20 on 12 for trees, ..."""
CROWD_SCALES = {
    "wildchat": 20 / 8 * 100 / 160,
    "arena": 20 / 8 * 240 / 400,
    "tree2": 20 / 12 * 80 / 120,
    "tree4": 20 / 12 * 6 / 10,
}
"""Times the clients of `multisite_clients.CROWDS`, which are five regions', to have as many for each of twenty replicas."""
MOONCAKE = Path(__file__).parents[2] / "shared/data/llm_trace_mooncake_2024/conversation.jsonl.gz"
H100_KV_TOKENS = 400_000
"""0.85 of 80 GB less 16.06 GB of weights, at 131,072 bytes a token: 396 k."""
L4_KV_TOKENS = 24_576
"""0.8 of 24 GB (their `--mem-fraction-static`) less 16.06 GB of weights, at 131,072 bytes a token: 23.9 k."""


def fleet(
    usd_per_latency_s: float,
    precision: str = "fp8",
    context_tokens: int = CONTEXT_TOKENS,
    accelerator: str = "l4",
    replicas: int = REPLICAS,
) -> Fleet:
    """Equal sites in five regions."""
    sites = tuple(
        Site(
            id=name, kind="micro", city=city, country=country, lat_deg=lat, lon_deg=lon,
            operator_hq="DE", grid_zone=zone, power=Power(grid_kw_max=60.0),
            pools=(
                Pool(
                    id="gpu", accelerator=accelerator, count=replicas, driver="external",
                    urls=("http://127.0.0.1:8081",) * replicas,
                ),
            ),
        )
        for name, city, country, lat, lon, zone in REGIONS
    )  # fmt: skip
    variant = Variant(
        id="v", model="Llama-3.1-8B", precision=precision, quality=0.7, quality_source="one for all"
    )
    countries = tuple(region[2] for region in REGIONS)
    return Fleet(
        schema="hanse-fleet/1",
        name="multisite",
        weights=Weights(usd_per_latency_s=usd_per_latency_s),
        central=Central(site="virginia"),
        classes=(DataClass(id="public", law="non_personal"),),
        sites=sites,
        services=(Service(id="chat", slo=SLO, variants=(variant,)),),
        tenants=(
            Tenant(
                id="t", classes=("public",),
                keys=(Key(id="k", sha256="ab" * 32, countries=countries),),
            ),
        ),
        placements=tuple(
            Placement(
                service="chat", variant="v", site=site.id, pool="gpu", replicas=replicas,
                slots=SLOTS, context_tokens=context_tokens,
            )
            for site in sites
        ),
    )  # fmt: skip


def trace(rps: float, hours: float, seed: int) -> Trace:
    """Conversations of four turns on one of twenty system prompts."""
    return generate(
        TraceSpec(
            schema="hanse-trace-spec/1",
            name="multisite",
            seed=seed,
            start=START,
            duration_h=hours,
            requests_per_s=rps,
            block_tokens=64,
            bursts=GammaBursts(cv=0.3, interval_s=60.0),
            origins=tuple(OriginShare(city=r[1], country=r[2], id=r[0], weight=1.0) for r in REGIONS),
            services=(
                ServiceShare(
                    id="chat",
                    tokens_in=Lognormal(median=90.0, sigma=0.9, max=1024),
                    tokens_out=Lognormal(median=120.0, sigma=0.6, max=512),
                    conversation=Conversation(
                        turns_mean=4.0, think_s_median=30.0, system_tokens=512, system_prompts=20,
                        context_tokens_max=4096,
                    ),
                ),
            ),
            classes=(ClassShare(id="public"),),
            tenants=(TenantShare(id="t"),),
        )
    )  # fmt: skip


def mooncake() -> Trace:
    """The trace with its conversations dealt to the regions: a third to the first, as `CROWDS` of trees.

    It says neither where people are nor which requests are one conversation; all share their first block of 512 tokens, so the second says.
    """
    chunk = next(iter(read_mooncake(MOONCAKE, service="chat").trace.chunks()))
    requests = chunk.requests.copy()
    second = chunk.blocks[requests["block_at"] + (requests["block_count"] > 1)]
    dealt = (second.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) >> np.uint64(33)) % np.uint64(
        6
    )
    requests["origin"] = np.maximum(dealt.astype(np.int64) - 1, 0)
    requests["cls"] = requests["tenant"] = requests["service"] = 0
    duration_s = float(requests["at_s"][-1]) + 1.0
    meta = msgspec.structs.replace(
        trace(1.0, duration_s / 3600.0, 1).meta,
        block_tokens=512, duration_s=duration_s, count=len(requests),
    )  # fmt: skip
    return Trace.of(meta, requests, chunk.blocks)


def measure_mooncake(policy: str, usd_per_latency_s: float) -> dict[str, Any]:
    """One run of the hour."""
    made = mooncake()
    name, engines = _named(policy)
    there = fleet(usd_per_latency_s, "bf16", H100_KV_TOKENS, "h100-sxm", 2)
    simulation = Simulation(there, made, policy=name, engine_affinity=engines)
    simulation.run()
    rps = made.meta.count / made.meta.duration_s
    sums = simulation.world.sums[0]
    return figures(simulation, policy, rps, made.meta.duration_s) | {
        "ttft_ms_mean": float(sums[ar.SUM_TTFT_MS] / sums[ar.SUM_SERVED])
    }


def mooncakes(args: argparse.Namespace) -> None:
    print(f"{HEAD}{'TTFT mean':>11}")
    rows = []
    for policy in args.policies.split(","):
        rows.append(measure_mooncake(policy, args.usd_per_latency_s))
        print(f"{line(rows[-1])}{rows[-1]['ttft_ms_mean']:11.0f}", flush=True)
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n")


def quantile(histogram: Any, share: float) -> float:
    """Upper edge of the bin in which the quantile lies: at most 2 % too high."""
    upto = np.cumsum(histogram)
    if upto[-1] == 0:
        return float("nan")
    at = int(np.searchsorted(upto, share * upto[-1]))
    return float(ar.BIN_MS_MIN * ar.BIN_RATIO**at)


def measure(
    policy: str, rps: float, hours: float, seed: int, usd_per_latency_s: float, speed: float
) -> dict[str, Any]:
    """One run."""
    began_s = time.process_time()
    slow = Fault(kind="engine_slow", site="virginia", at_s=60.0, factor=speed)
    scenario = Scenario(faults=(slow,) if speed != 1.0 else ())
    made = trace(rps, hours, seed)
    name, engines = _named(policy)
    simulation = Simulation(
        fleet(usd_per_latency_s), made, policy=name, scenario=scenario, engine_affinity=engines
    )
    simulation.run()
    return figures(simulation, policy, rps, hours * 3600.0) | {
        "cpu_s": time.process_time() - began_s
    }


def _named(policy: str) -> tuple[str, bool | None]:
    """`NAME`, `NAME+held` (engines as live sites choose them) or `NAME-held` (by the fewest requests)."""
    for mark, engines in (("+held", True), ("-held", False)):
        if policy.endswith(mark):
            return policy.removesuffix(mark), engines
    return policy, None


def measure_crowd(
    kind: str, policy: str, load: float, seed: int, usd_per_latency_s: float, duration_s: float
) -> dict[str, Any]:
    """One run with clients that wait for their answers."""
    began_s = time.process_time()
    meta = msgspec.structs.replace(
        trace(1.0, duration_s / 3600.0, seed).meta,
        block_tokens=BLOCK_TOKENS,
        duration_s=duration_s,
    )
    name, engines = _named(policy)
    loop = ClosedLoop(
        fleet(usd_per_latency_s, "bf16", L4_KV_TOKENS),
        meta,
        crowd(kind, load * CROWD_SCALES[kind], seed),
        policy=name,
        engine_affinity=engines,
    )
    loop.run()
    rows = np.concatenate(loop.rows)
    ok = rows[rows["outcome"] == ar.ANSWERED]
    tokens = float(ok["tokens_in"].sum() + ok["tokens_out"].sum())
    found = figures(loop, policy, load, duration_s)
    return found | {
        "crowd": kind,
        "tokens_per_s": tokens / duration_s,
        "served_rps": len(ok) / duration_s,
        "ttft_ms_mean": float(ok["ttft_ms"].mean()),
        "e2e_ms_mean": float(ok["e2e_ms"].mean()),
        "cpu_s": time.process_time() - began_s,
    }


def measure_crowds(
    kind: str, policy: str, load: float, seeds: list[int], usd: float, duration_s: float
) -> dict[str, Any]:
    """Means over seeds."""
    rows = [measure_crowd(kind, policy, load, seed, usd, duration_s) for seed in seeds]
    means = {
        key: float(np.mean([row[key] for row in rows]))
        for key, value in rows[0].items()
        if not isinstance(value, str)
    }
    return rows[0] | means


def figures(simulation: Simulation, policy: str, rps: float, elapsed_s: float) -> dict[str, Any]:
    """What a run came to."""
    world = simulation.world
    sums, hist = world.sums[0], world.hist[0]
    served = max(sums[ar.SUM_SERVED], 1.0)
    total = sums[[ar.SUM_SERVED, ar.SUM_REFUSED, ar.SUM_FAILED, ar.SUM_BROKEN]].sum()
    running_s = world.engines["batch_s"].reshape(len(REGIONS), -1).sum(axis=1) / REPLICAS
    assert world.clock[0]["unlawful"] == 0, "no policy gets past the law"
    return {
        "policy": policy,
        "rps": rps,
        "offered_rps": float(total / elapsed_s),
        "utilisation": float(running_s.mean() / elapsed_s / SLOTS),
        "utilisation_most": float(running_s.max() / elapsed_s / SLOTS),
        "batch": float(world.engines["batch_s"].sum() / world.engines["busy_s"].sum()),
        "ttft_ms_p50": quantile(hist[0], 0.5),
        "ttft_ms_p95": quantile(hist[0], 0.95),
        "e2e_ms_p50": quantile(hist[2], 0.5),
        "e2e_ms_p95": quantile(hist[2], 0.95),
        "good_share": float(sums[ar.SUM_GOOD] / total),
        "goodput_rps": float(sums[ar.SUM_GOOD] / elapsed_s),
        "refused_share": float(1.0 - sums[ar.SUM_SERVED] / total),
        "cached_share": float(sums[ar.SUM_CACHED] / max(sums[ar.SUM_TOKENS_IN], 1.0)),
        "away_share": float(sums[ar.SUM_HOPS] / served),
        "usd_per_million": float(sums[ar.SUM_USD] / served * 1e6),
        "g_per_thousand": float(sums[ar.SUM_G] / served * 1e3),
    }


CROWD_HEAD = (
    f"{'crowd':10}{'policy':20}{'load':>5}{'batch':>6}{'tok/s':>8}{'req/s':>7}{'TTFT mean':>10}{'p50':>7}{'p95 ms':>8}{'E2E mean':>9}"
    f"{'p95 ms':>8}{'in SLO':>8}{'cached':>8}{'away':>6}{'USD/M':>8}{'g/k':>7}"
)
CROWD_RATIOS = (
    "tokens_per_s",
    "ttft_ms_mean",
    "ttft_ms_p50",
    "ttft_ms_p95",
    "e2e_ms_mean",
    "goodput_rps",
    "usd_per_million",
    "g_per_thousand",
)


def crowd_line(r: dict[str, Any]) -> str:
    return (
        f"{r['crowd']:10}{r['policy']:20}{r['rps']:5.2f}{r['batch']:6.1f}{r['tokens_per_s']:8.0f}{r['served_rps']:7.2f}{r['ttft_ms_mean']:10.0f}"
        f"{r['ttft_ms_p50']:7.0f}{r['ttft_ms_p95']:8.0f}{r['e2e_ms_mean']:9.0f}{r['e2e_ms_p95']:8.0f}{r['good_share']:8.1%}"
        f"{r['cached_share']:8.1%}{r['away_share']:6.0%}{r['usd_per_million']:8.1f}{r['g_per_thousand']:7.1f}"
    )


def crowds(args: argparse.Namespace) -> None:
    """All crowds, loads and policies; then what ours is against each: of throughput ours over theirs, of the rest theirs over ours."""
    loads = [float(x) for x in args.loads.split(",") if x] or (
        CROWD_LOADS[1:2] if args.quick else CROWD_LOADS
    )
    duration_s = args.hours * 3600.0 or (180.0 if args.quick else CROWD_S)
    seeds = [int(x) for x in args.seeds.split(",") if x] or [args.seed]
    rows = []
    print(CROWD_HEAD)
    for kind in args.crowd.split(","):
        for load in loads:
            for policy in args.policies.split(","):
                rows.append(
                    measure_crowds(kind, policy, load, seeds, args.usd_per_latency_s, duration_s)
                )
                print(crowd_line(rows[-1]), flush=True)
    own = {(r["crowd"], r["rps"]): r for r in rows if r["policy"] == OURS}
    if own:
        print(f"\n{'least and most over loads':30}" + "".join(f"{c:>16}" for c in CROWD_RATIOS))
    for kind in args.crowd.split(",") if own else ():
        for policy in args.policies.split(","):
            pairs = [
                (own[kind, r["rps"]], r)
                for r in rows
                if (r["crowd"], r["policy"]) == (kind, policy)
            ]
            cells = ""
            for column in CROWD_RATIOS:
                ratios = [t[column] / o[column] for o, t in pairs]
                if column in ("tokens_per_s", "goodput_rps"):
                    ratios = [1.0 / max(x, 1e-9) for x in ratios]
                cells += f"{min(ratios):9.2f} to {max(ratios):4.2f}"
            print(f"{kind:10}{policy:20}{cells}")
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n")


HEAD = (
    f"{'policy':24}{'req/s':>6}{'util':>6}{'max':>6}{'batch':>6}{'TTFT p50':>10}{'p95 ms':>8}{'E2E p50':>9}{'p95 ms':>8}"
    f"{'in SLO':>8}{'refused':>8}{'cached':>8}{'away':>6}{'USD/M':>8}{'g/k':>7}"
)


def line(r: dict[str, Any]) -> str:
    return (
        f"{r['policy']:24}{r['rps']:6.1f}{r['utilisation']:6.2f}{r['utilisation_most']:6.2f}{r['batch']:6.1f}{r['ttft_ms_p50']:10.0f}"
        f"{r['ttft_ms_p95']:8.0f}{r['e2e_ms_p50']:9.0f}{r['e2e_ms_p95']:8.0f}{r['good_share']:8.1%}{r['refused_share']:8.1%}"
        f"{r['cached_share']:8.1%}{r['away_share']:6.0%}{r['usd_per_million']:8.1f}{r['g_per_thousand']:7.1f}"
    )


def capacity_rps(rows: list[dict[str, Any]]) -> float:
    """The load at which 95 % of requests still meet the SLO, between two measured loads by a straight line."""
    rows = sorted(rows, key=lambda r: r["rps"])
    best = 0.0
    for before, after in zip([None, *rows], [*rows, None], strict=True):
        if before is not None and before["good_share"] < 0.95:
            break
        if before is not None:
            best = before["rps"]
        if before is not None and after is not None and after["good_share"] < 0.95:
            share = (before["good_share"] - 0.95) / (before["good_share"] - after["good_share"])
            best = before["rps"] + share * (after["rps"] - before["rps"])
    return float(best)


def compare(rows: list[dict[str, Any]], ours: str) -> dict[str, dict[str, Any]]:
    """Theirs over ours at each load that ours carries within the SLO: least and most; above 1 is better for us."""
    by: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by.setdefault(row["policy"], []).append(row)
    own = {r["rps"]: r for r in by[ours]}
    limit = capacity_rps(by[ours])
    found = {}
    for policy, theirs in by.items():
        carried = [r for r in theirs if r["rps"] <= limit]
        ratios = {
            column: [r[column] / own[r["rps"]][column] for r in carried]
            for column in ("ttft_ms_p95", "e2e_ms_p95", "usd_per_million", "g_per_thousand")
        }
        found[policy] = {
            "capacity_rps": capacity_rps(theirs),
            "load": limit / capacity_rps(theirs) if capacity_rps(theirs) > 0.0 else float("inf"),
        } | {c: (min(v, default=0.0), max(v, default=0.0)) for c, v in ratios.items()}
    return found


def print_comparison(rows: list[dict[str, Any]], ours: str) -> None:
    print(
        f"\n{'theirs over ' + ours:24}{'in SLO up to':>13}{'ours x':>8}{'TTFT p95 x':>15}{'E2E p95 x':>15}{'USD x':>14}{'g x':>14}"
    )
    for policy, c in compare(rows, ours).items():
        pairs = [
            f"{low:.2f} to {high:.2f}"
            for low, high in (
                c["ttft_ms_p95"], c["e2e_ms_p95"], c["usd_per_million"], c["g_per_thousand"],
            )
        ]  # fmt: skip
        print(
            f"{policy:24}{c['capacity_rps']:13.1f}{c['load']:8.2f}{pairs[0]:>15}{pairs[1]:>15}{pairs[2]:>14}{pairs[3]:>14}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="two loads, a quarter of an hour")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--policies", default=",".join(DEFAULT))
    parser.add_argument("--loads", default="")
    parser.add_argument("--hours", type=float, default=0.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seeds", default="", help="closed loop: means over these, as 101,102,103")
    parser.add_argument("--usd-per-latency-s", type=float, default=Weights().usd_per_latency_s)
    parser.add_argument(
        "--speed", type=float, default=1.0, help="of the engines in Virginia, which nobody is told"
    )
    parser.add_argument("--crowd", default="", help="closed loop: wildchat, arena, tree2, tree4")
    parser.add_argument("--mooncake", action="store_true", help="an hour of Kimi's conversations")
    args = parser.parse_args()
    if args.crowd:
        crowds(args)
        return
    if args.mooncake:
        mooncakes(args)
        return
    loads = [float(x) for x in args.loads.split(",") if x] or (
        QUICK_RPS if args.quick else LOADS_RPS
    )
    hours = args.hours or (0.25 if args.quick else 1.0)
    rows = []
    print(HEAD)
    for rps in loads:
        for policy in args.policies.split(","):
            rows.append(measure(policy, rps, hours, args.seed, args.usd_per_latency_s, args.speed))
            print(line(rows[-1]), flush=True)
    if OURS in args.policies.split(","):
        print_comparison(rows, OURS)
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()

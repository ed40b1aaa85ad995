"""How long a choice takes: inside compiled code and from Python, for 100 and 1,000 sites.

Run: `python benchmarks/choose.py [--json]`. Times are CPU time, the least of many rounds, so that other work on the
machine disturbs little; ratios are to the limits that the project sets itself and to a plain Python loop over the same
offers. Not here: a gateway's time per request (`benchmarks/gateway.py`).
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

import numba
import numpy as np

from hanse.dispatch import choose as kernels
from hanse.dispatch.dispatcher import Dispatcher
from hanse.dispatch.events import FleetLoaded, Ticked
from hanse.dispatch.load import Load
from hanse.dispatch.router import NONE_CACHED, NONE_TRIED, Router, warm
from hanse.dispatch.table import Table
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

NOW_S = 1_795_000_000.0
COUNTRIES = ("DE", "FR", "EE", "PL", "SE", "GB", "CH", "US", "CA", "JP")
LIMITS_US = {
    ("compiled", 100): 0.5,
    ("compiled", 1000): 5.0,
    ("Python", 100): 5.0,
    ("Python", 1000): 20.0,
}
BATCH = 1000
ROUNDS = 40


@numba.njit(_nrt=False)
def many(
    table: Any,
    lists: Any,
    load: Any,
    subject: int,
    origin: int,
    tried: Any,
    cached: Any,
    out: Any,
    count: int,
) -> int:
    """Choose `count` times with changing prompts, as the twin does."""
    total = 0
    for i in range(count):
        request = (200.0 + i % 128, 100.0, 60_000.0, 900.0)
        total += kernels.choose(
            table,
            lists,
            load,
            0,
            subject,
            origin,
            request,
            NOW_S,
            NOW_S + 1.0,
            2.0,
            tried,
            cached,
            out,
        )
    return total


def fleet(count: int, rng: np.random.Generator) -> Fleet:
    """Sites all over the world with one 8B model each."""
    sites = tuple(
        Site(
            id=f"s{i}",
            kind="micro",
            city="x",
            country=str(rng.choice(COUNTRIES)),
            lat_deg=float(rng.uniform(-50, 65)),
            lon_deg=float(rng.uniform(-180, 180)),
            operator_hq="DE",
            power=Power(grid_kw_max=60.0),
            pools=(Pool(id="gpu", accelerator="l4", count=1),),
        )
        for i in range(count)
    )
    variant = Variant(
        id="v", model="Llama-3.1-8B", precision="fp8", quality=0.7, quality_source="made up"
    )
    return Fleet(
        schema="hanse-fleet/1",
        name="benchmark",
        classes=(
            DataClass(id="public", law="non_personal"),
            DataClass(id="personal", law="personal"),
        ),
        sites=sites,
        services=(Service(id="chat", slo=Slo(ttft_ms=1500.0, tpot_ms=150.0), variants=(variant,)),),
        tenants=(
            Tenant(
                id="t",
                classes=("public", "personal"),
                keys=(Key(id="k", sha256="ab" * 32, countries=("DE", "US")),),
            ),
        ),
        placements=tuple(
            Placement(service="chat", variant="v", site=s.id, pool="gpu", slots=16) for s in sites
        ),
    )


def setting(count: int) -> tuple[Router, int]:
    """A router at a random load, and a subject that may go everywhere."""
    rng = np.random.default_rng(count)
    dispatcher = Dispatcher("fleet")
    dispatcher.handle(FleetLoaded(at_s=NOW_S, fleet=fleet(count, rng)))
    dispatcher.handle(Ticked(at_s=NOW_S))
    assert dispatcher.table is not None
    table = Table.from_bytes(dispatcher.table.to_bytes())
    load = Load(table)
    load.offers["replicas"] = 1.0
    load.offers["requests"] = rng.integers(0, 15, count)
    load.offers["tokens"] = 300.0 * load.offers["requests"]
    load.sites["sampled_at_s"] = NOW_S
    return Router(table, load, 0), table.meta.keys["ab" * 32].subjects["public"]["DE"]


def least_us(work: Callable[[], object], count: int) -> float:
    """CPU microseconds of one of `count` repetitions, least of all rounds."""
    work()
    best = float("inf")
    for _ in range(ROUNDS):
        start = time.process_time()
        work()
        best = min(best, time.process_time() - start)
    return best / count * 1e6


def measure(count: int) -> dict[str, float]:
    """All figures for a number of sites, in microseconds."""
    router, subject = setting(count)

    def compiled() -> object:
        return many(
            router._table,
            router._lists,
            router._load,
            subject,
            0,
            NONE_TRIED,
            NONE_CACHED,
            router.out[0],
            BATCH,
        )

    def from_python() -> None:
        for _ in range(BATCH):
            router.route(
                0,
                subject,
                tokens_in=300,
                tokens_out=100,
                deadline_ms=60_000.0,
                body_bytes=900,
                now_s=NOW_S,
            )

    figures = {
        "compiled": least_us(compiled, BATCH),
        "Python": least_us(from_python, BATCH),
        "plain Python loop": least_us(lambda: plain(router, count), 1),
    }
    # Every site misses the SLO: candidates first, then all offers.
    router.load.offers["ttft_factor"] = 100.0
    figures["compiled, all offers looked at"] = least_us(compiled, BATCH)
    return figures


def plain(router: Router, count: int) -> int:
    """The cheapest by the same terms in plain Python over lists: what the kernel replaces."""
    best, best_cost = -1, float("inf")
    offers, loads = PLAIN[count]
    for o, offer in enumerate(offers):
        load = loads[o]
        if offer[4] < 0.0 or load[0] + 1 > offer[6]:
            continue
        batch = min(load[0] + 1.0, offer[5])
        step = offer[11] + offer[12] * batch
        ttft = offer[9] + offer[10] * 300.0 + step
        wh = offer[13] * 300.0 + (offer[14] / batch + offer[15]) * 100.0
        cost = 0.002 * (ttft + step * 100.0) * 0.001 + wh * 1e-4
        if cost < best_cost:
            best, best_cost = o, cost
    return best


PLAIN: dict[int, tuple[list[Any], list[Any]]] = {}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    as_json = parser.parse_args().json
    warm()
    results: dict[str, dict[str, float]] = {}
    for count in (100, 1000):
        router, _ = setting(count)
        PLAIN[count] = router.table.offers.tolist(), router.load.offers.tolist()
        results[str(count)] = measure(count)
    if as_json:
        print(json.dumps(results, indent=1))
        return
    print(f"{'sites':>6} {'how':<32} {'us':>9} {'limit':>7} {'share':>7}  plain Python loop is")
    for count, figures in results.items():
        for how, us in figures.items():
            limit = LIMITS_US.get((how, int(count)))
            against = f"{limit:7.1f} {us / limit:7.2f}" if limit else f"{'':7} {'':7}"
            times = figures["plain Python loop"] / us
            print(f"{count:>6} {how:<32} {us:9.3f} {against}  {times:7.1f} x as long")


if __name__ == "__main__":
    main()

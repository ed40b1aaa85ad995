"""Random small placement problems, and the least that any placement of one costs, by trying all."""

from __future__ import annotations

import itertools

import msgspec
import numpy as np

from hanse.dispatch.place import (
    FailureSet,
    PlaceDemand,
    PlaceOffer,
    PlacePool,
    PlaceProblem,
    PlaceService,
    PlaceSite,
)
from hanse.dispatch.place_survival import shortfalls
from hanse.milp import INF, Model, Solver


def random_problem(
    rng: np.random.Generator, *, sites: int = 3, services: int = 2, offers: int = 4, rows: int = 4
) -> PlaceProblem:
    """Everything may be scarce: law, chips, power, memory, time, gateways, sites that host."""
    made_sites = tuple(
        PlaceSite(
            id=f"s{i}",
            price_usd_per_kwh=float(rng.uniform(0.02, 0.4)),
            carbon_g_per_kwh=float(rng.uniform(0.0, 700.0)),
            pue=float(rng.uniform(1.0, 2.0)),
            own_kw=float(rng.choice([0.0, 0.5, 3.0])),
            own_kw_low=0.0,
            export_usd_per_kwh=float(rng.choice([0.0, 0.03])),
            grid_kw_max=float(rng.choice([0.5, 2.0, 10.0, 100.0])),
            usd_per_kw_peak=float(rng.choice([0.0, 0.06, 1.0])),
            peak_kw=float(rng.choice([0.0, 0.4, 5.0])),
            engines_max=int(rng.choice([1, 2, 64])),
            hosts=bool(rng.random() < 0.9),
        )
        for i in range(sites)
    )
    pools = tuple(_pool(i, rng) for i in range(sites))
    made_services = tuple(
        PlaceService(
            id=f"q{j}",
            ttft_ms=float(rng.choice([100.0, 300.0])),
            usd_per_latency_s=float(rng.choice([0.0, 1e-5, 1e-3])),
            uncovered_usd_per_request=float(rng.choice([1e-5, 1e-3])),
        )
        for j in range(services)
    )
    made_offers = _one_fixed(tuple(_offer(f"v{k}", services, pools, rng) for k in range(offers)))
    laws = tuple(tuple(int(s) for s in np.flatnonzero(rng.random(sites) < 0.7)) for _ in range(3))
    demand = tuple(_row(sites, services, len(laws), rng) for _ in range(rows))
    ways = rng.uniform(1.0, 200.0, (sites, sites))
    ways = np.where(np.eye(sites) > 0, 0.0, (ways + ways.T) / 2.0)
    groups = tuple(FailureSet(id=f"s{i}", sites=(i,)) for i in range(sites))
    if rng.random() < 0.3:
        groups = (FailureSet(id="two", sites=(0, 1)),) if sites > 1 else ()
    return PlaceProblem(
        issued_at_s=0.0,
        start_s=0.0,
        window_s=float(rng.choice([900.0, 3600.0])),
        usd_per_g=1e-4,
        over_usd_per_kwh=float(rng.choice([1.0, 100.0])),
        sites=made_sites,
        pools=pools,
        services=made_services,
        offers=made_offers,
        demand=demand,
        laws=laws,
        rtt_ms=tuple(tuple(row) for row in ways.tolist()),
        usd_per_gb=tuple(tuple(row) for row in (0.001 * ways).tolist()),
        gateways=tuple(bool(x) for x in rng.random(sites) < 0.9),
        failures=groups,
    )


def _pool(site: int, rng: np.random.Generator) -> PlacePool:
    chips = int(rng.choice([1, 2, 4]))
    nodes = int(rng.integers(1, 3))
    return PlacePool(
        id="gpu",
        site=site,
        accelerator="l4",
        nodes=nodes,
        chips=chips,
        chips_count=chips * nodes,
        memory_gb=float(rng.choice([0.0, 24.0])),
        node_on_w=float(rng.uniform(50.0, 500.0)),
        node_off_w=float(rng.uniform(5.0, 10.0)),
        wake_usd=float(rng.uniform(0.0, 0.02)),
        nodes_on=int(rng.integers(0, nodes + 1)),
    )


def _offer(
    variant: str, services: int, pools: tuple[PlacePool, ...], rng: np.random.Generator
) -> PlaceOffer:
    pool = int(rng.integers(len(pools)))
    chips = int(rng.choice([c for c in (1, 2, 4) if c <= pools[pool].chips]))
    fixed = bool(rng.random() < 0.1) and chips == pools[pool].chips_count == 1
    return PlaceOffer(
        service=int(rng.integers(services)),
        variant=variant,
        pool=pool,
        quality=float(rng.choice([0.4, 0.6])),
        chips=chips,
        memory_gb=float(rng.uniform(4.0, 20.0)),
        slots=8,
        context_tokens=8192,
        requests_per_s=float(rng.uniform(0.5, 4.0)),
        ttft_ms_p95=float(rng.uniform(20.0, 150.0)),
        e2e_s=float(rng.uniform(1.0, 5.0)),
        loaded_w=float(rng.uniform(0.0, 100.0)),
        wh_per_request=float(rng.uniform(0.01, 0.5)),
        start_usd=float(rng.uniform(0.0, 0.05)),
        start_s=20.0,
        replicas=1 if fixed else int(rng.choice([0, 0, 1, 2])),
        fixed=fixed,
    )


def _one_fixed(offers: tuple[PlaceOffer, ...]) -> tuple[PlaceOffer, ...]:
    """At most one engine that runs by itself in a pool of one chip."""
    seen: set[int] = set()
    found = []
    for o in offers:
        again = o.fixed and o.pool in seen
        seen |= {o.pool} if o.fixed else set()
        found.append(msgspec.structs.replace(o, fixed=False, replicas=0) if again else o)
    return tuple(found)


def _row(sites: int, services: int, laws: int, rng: np.random.Generator) -> PlaceDemand:
    high = float(rng.uniform(0.0, 4.0))
    return PlaceDemand(
        service=int(rng.integers(services)),
        origin=int(rng.integers(sites)),
        law=int(rng.integers(laws)),
        quality_min=float(rng.choice([0.0, 0.5])),
        requests_per_s=0.7 * high,
        requests_per_s_high=high,
        requests_per_s_kept=0.8 * high,
        late_usd_per_request=float(rng.choice([1e-4, 1e-3])),
        unserved_usd_per_request=float(rng.choice([1e-2, 1e-1])),
        work=float(rng.choice([0.5, 1.0, 2.0])),
        gb_per_request=1e-4,
    )


def least_usd(p: PlaceProblem) -> float:
    """Of all numbers of replicas and nodes on, each with its best flows: the least cost in an hour, waiting beyond the least."""
    ranges = []
    for o in p.offers:
        pool = p.pools[o.pool]
        most = min(pool.chips_count // o.chips, p.sites[pool.site].engines_max)
        most = most if p.sites[pool.site].hosts else 0
        ranges.append(range(o.replicas, o.replicas + 1) if o.fixed and most else range(most + 1))
    counts = itertools.product(*ranges)
    costs = (_usd(p, n) for n in counts if _fits(p, n))
    return min(costs, default=float("nan"))


def _fits(p: PlaceProblem, n: tuple[int, ...]) -> bool:
    for i, pool in enumerate(p.pools):
        mine = [(o, c) for o, c in zip(p.offers, n, strict=True) if o.pool == i]
        if sum(o.chips * c for o, c in mine) > pool.chips_count:
            return False
        held = pool.memory_gb * pool.chips_count
        if held and sum(o.memory_gb * c for o, c in mine) > held:
            return False
        if sum(c for _, c in mine) > p.sites[pool.site].engines_max:
            return False
    return True


def _nodes(p: PlaceProblem, n: tuple[int, ...]) -> list[int]:
    found = []
    for i, pool in enumerate(p.pools):
        mine = [(o, c) for o, c in zip(p.offers, n, strict=True) if o.pool == i]
        on = -(-sum(o.chips * c for o, c in mine) // pool.chips)
        if pool.memory_gb:
            gb = sum(o.memory_gb * c for o, c in mine)
            on = max(on, int(np.ceil(gb / (pool.memory_gb * pool.chips) - 1e-9)))
        found.append(on)
    return found


def _idle_w(p: PlaceProblem, n: tuple[int, ...], on: list[int]) -> list[float]:
    """[site] what draws power with no request at all."""
    idle_w = [0.0] * len(p.sites)
    for k, q in zip(on, p.pools, strict=True):
        idle_w[q.site] += k * q.node_on_w + (q.nodes - k) * q.node_off_w
    for c, o in zip(n, p.offers, strict=True):
        idle_w[p.pools[o.pool].site] += c * o.loaded_w
    return idle_w


def _usd(p: PlaceProblem, n: tuple[int, ...]) -> float:
    """Flows by a program of its own, one column a (demand, offer); what a failure leaves is counted for full service."""
    on = _nodes(p, n)
    hours = p.window_s / 3600.0
    fresh = sum(
        max(c - o.replicas, 0) * o.start_usd
        for o, c in zip(p.offers, n, strict=True)
        if not o.fixed
    )
    woken = sum(max(k - q.nodes_on, 0) * q.wake_usd for k, q in zip(on, p.pools, strict=True))
    idle_w = _idle_w(p, n, on)
    m = Model()
    pairs = [
        (i, j, *_pair(p, i, j))
        for i, d in enumerate(p.demand)
        for j, o in enumerate(p.offers)
        if _may(p, d, o, j, n)
    ]
    rows = [
        i for i, d in enumerate(p.demand) if _entry(p, d) is not None and d.requests_per_s_high > 0
    ]
    x = m.add_columns("x", np.array([usd for _, _, usd in pairs], float).reshape(len(pairs)))
    u = m.add_columns(
        "u",
        np.array(
            [
                3600.0 * p.demand[i].requests_per_s * p.demand[i].unserved_usd_per_request
                for i in rows
            ],
            float,
        ).reshape(len(rows)),
    )
    g = m.add_columns(
        "g", np.array([s.price_usd_per_kwh + s.carbon_g_per_kwh * p.usd_per_g for s in p.sites])
    )
    own = m.add_columns(
        "own",
        np.array([s.export_usd_per_kwh for s in p.sites]),
        upper=np.array([s.own_kw for s in p.sites]),
    )
    over = m.add_columns("over", np.full(len(p.sites), p.over_usd_per_kwh))
    serve = m.add_rows("serve", 1.0, 1.0, (len(rows),))
    m.put(serve, u, 1.0)
    room = m.add_rows(
        "room",
        -INF,
        np.array([c * o.requests_per_s for c, o in zip(n, p.offers, strict=True)], float),
        (len(n),),
    )
    low = np.array([s.pue * w / 1000.0 for s, w in zip(p.sites, idle_w, strict=True)])
    energy = m.add_rows("energy", low, INF, low.shape)
    cap = m.add_rows(
        "cap", -INF, np.array([s.grid_kw_max + s.own_kw_low for s in p.sites]) - low, low.shape
    )
    m.put(energy, g, 1.0)
    m.put(energy, own, 1.0)
    m.put(cap, over, -1.0)
    peak = _levied(m, p, low)
    for column, (i, j, _) in zip(x, pairs, strict=True):
        d, o = p.demand[i], p.offers[j]
        site = p.pools[o.pool].site
        kwh = p.sites[site].pue * o.wh_per_request * d.work * 3.6
        m.put(serve[rows.index(i)], column, 1.0)
        m.put(room[j], column, d.requests_per_s_high * d.work)
        m.put(energy[site], column, -kwh * d.requests_per_s)
        m.put(np.array([cap[site], peak[site]]), column, kwh * d.requests_per_s_high)
    cover_usd = _cover(p, n, m, u, rows)
    found = Solver(m).relaxed().objective
    assert cover_usd == 0.0
    return found + (fresh + woken) / hours


def _levied(m: Model, p: PlaceProblem, low: np.ndarray) -> np.ndarray:
    """Rows of import beyond the month's peak."""
    above = m.add_columns("above", np.array([s.usd_per_kw_peak for s in p.sites]))
    known = np.array([s.peak_kw + s.own_kw_low for s in p.sites])
    rows = m.add_rows("peak", -INF, known - low, low.shape)
    m.put(rows, above, -1.0)
    return rows


def _cover(p: PlaceProblem, n: tuple[int, ...], m: Model, u: np.ndarray, rows: list[int]) -> float:
    """For each failure a second assignment of what is kept but for one and the same shortage: what Gale's sets say in other words."""
    price = [3600.0 * q.uncovered_usd_per_request for q in p.services]
    standing = {p.offers[j].service for j in range(len(n))}
    shared = {}
    for q in sorted(standing):
        mine = [i for i in rows if p.demand[i].service == q]
        shared[q] = m.add_columns(f"short {q}", np.full(len(mine), price[q]))
    for f, failure in enumerate(p.failures):
        for q in sorted(standing):
            mine = [i for i in rows if p.demand[i].service == q]
            left = [
                j
                for j, c in enumerate(n)
                if c
                and p.offers[j].service == q
                and p.pools[p.offers[j].pool].site not in failure.sites
            ]
            hit = any(
                c and p.offers[j].service == q and p.pools[p.offers[j].pool].site in failure.sites
                for j, c in enumerate(n)
            )
            if not mine or not hit:
                continue
            short = shared[q]
            kept = np.array([p.demand[i].requests_per_s_kept * p.demand[i].work for i in mine])
            need = m.add_rows(f"need {f} {q}", kept, INF, kept.shape)
            m.put(need, short, 1.0)
            m.put(need, u[[rows.index(i) for i in mine]], kept)
            for j in left:
                o = p.offers[j]
                able = [
                    k
                    for k, i in enumerate(mine)
                    if p.pools[o.pool].site in p.laws[p.demand[i].law]
                    and o.quality >= p.demand[i].quality_min
                ]
                if able:
                    y = m.add_columns(f"y {f} {q} {j}", np.zeros(len(able)))
                    m.put(need[able], y, 1.0)
                    top = m.add_rows(f"top {f} {q} {j}", -INF, n[j] * o.requests_per_s, ())
                    m.put(top, y, 1.0)
    return 0.0


def _entry(p: PlaceProblem, d: PlaceDemand) -> int | None:
    usable = [s for s in p.laws[d.law] if p.gateways[s]]
    return min(usable, key=lambda s: p.rtt_ms[d.origin][s]) if usable else None


def _may(p: PlaceProblem, d: PlaceDemand, o: PlaceOffer, j: int, n: tuple[int, ...]) -> bool:
    return (
        n[j] > 0
        and o.service == d.service
        and p.pools[o.pool].site in p.laws[d.law]
        and o.quality >= d.quality_min
        and _entry(p, d) is not None
        and d.requests_per_s_high > 0
    )


def _waiting(p: PlaceProblem, i: int, j: int) -> tuple[float, float]:
    d, o = p.demand[i], p.offers[j]
    entry = _entry(p, d)
    assert entry is not None
    way = p.rtt_ms[d.origin][entry] + p.rtt_ms[entry][p.pools[o.pool].site]
    second = p.services[d.service].usd_per_latency_s
    return way, 3600.0 * d.requests_per_s * second * (way / 1000.0 + o.e2e_s * d.work)


def _pair(p: PlaceProblem, i: int, j: int) -> tuple[float]:
    d, o = p.demand[i], p.offers[j]
    way, usd = _waiting(p, i, j)
    able = [
        k
        for k, other in enumerate(p.offers)
        if other.service == d.service
        and p.pools[other.pool].site in p.laws[d.law]
        and other.quality >= d.quality_min
        and p.sites[p.pools[other.pool].site].hosts
        and _held(p, other)
    ]
    usd -= min(_waiting(p, i, k)[1] for k in able)
    entry = _entry(p, d)
    assert entry is not None
    usd += 3600.0 * d.requests_per_s * d.gb_per_request * p.usd_per_gb[entry][p.pools[o.pool].site]
    if way + o.ttft_ms_p95 > p.services[d.service].ttft_ms:
        usd += 3600.0 * d.requests_per_s * d.late_usd_per_request
    return (usd,)


def _held(p: PlaceProblem, o: PlaceOffer) -> bool:
    pool = p.pools[o.pool]
    return pool.memory_gb == 0.0 or o.memory_gb <= pool.memory_gb * pool.chips_count


__all__ = ["least_usd", "random_problem", "shortfalls"]

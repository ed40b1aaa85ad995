"""Whether an answer may be applied: law, room, memory, nodes, power, promises and failures, by counting.

Here: `check`. It shares no code with the program that made the answer (`place_model`, `place_rows`), so that a mistake there is caught
here. Not here: whether an answer is cheap.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Final

from hanse.dispatch.place_survival import entry_of, shortfalls
from hanse.dispatch.place_values import PlaceAnswer, PlaceProblem, with_what_runs
from hanse.model.fleet import Placement
from hanse.units import SECONDS_PER_HOUR

TOLERANCE: Final = 1e-5
"""Relative; solvers' own is 1e-6."""


def check(problem: PlaceProblem, answer: PlaceAnswer) -> list[str]:
    """Everything that speaks against applying an answer to its problem; empty: nothing."""
    if answer.problem != problem.digest():
        return ["it answers another problem"]
    problem = with_what_runs(problem)
    wrong = _indices(problem, answer)
    if wrong:
        return wrong
    parts = _placements, _hardware, _law, _room, _served, _power, _survival
    return [line for part in parts for line in part(problem, answer)]


def _indices(p: PlaceProblem, a: PlaceAnswer) -> list[str]:
    good = all(0 <= r.offer < len(p.offers) and r.replicas >= 0 for r in a.replicas)
    good &= all(0 <= f.demand < len(p.demand) and 0 <= f.offer < len(p.offers) for f in a.flows)
    good &= sorted(k.pool for k in a.pools) == list(range(len(p.pools)))
    good &= len({r.offer for r in a.replicas}) == len(a.replicas)
    return [] if good else ["it names offers, demand or pools that the problem has not"]


def _counts(a: PlaceAnswer) -> dict[int, int]:
    return {r.offer: r.replicas for r in a.replicas if r.replicas > 0}


def _placements(p: PlaceProblem, a: PlaceAnswer) -> list[str]:
    """Placements say what replicas say, and what is kept is kept."""
    wanted: set[Placement] = set(p.kept)
    for i, count in _counts(a).items():
        o = p.offers[i]
        pool = p.pools[o.pool]
        wanted.add(
            o.placed
            if o.placed is not None
            else Placement(
                service=p.services[o.service].id,
                variant=o.variant,
                site=p.sites[pool.site].id,
                pool=pool.id,
                replicas=count,
                slots=o.slots,
                context_tokens=o.context_tokens,
                chips=o.chips,
            )
        )
    if set(a.placements) != wanted or len(a.placements) != len(wanted):
        return ["placements and replicas differ"]
    return []


def _hardware(p: PlaceProblem, a: PlaceAnswer) -> list[str]:
    found: list[str] = []
    chips: dict[int, list[int]] = defaultdict(list)
    memory: dict[int, float] = defaultdict(float)
    engines: dict[int, int] = defaultdict(int)
    counts = _counts(a)
    for i, count in counts.items():
        o = p.offers[i]
        chips[o.pool] += [o.chips] * count
        memory[o.pool] += o.memory_gb * count
        engines[p.pools[o.pool].site] += count
        if not p.sites[p.pools[o.pool].site].hosts:
            found.append(f"replicas at {p.sites[p.pools[o.pool].site].id}, which hosts nothing now")
    for i, o in enumerate(p.offers):
        site = p.sites[p.pools[o.pool].site]
        if o.fixed and site.hosts and counts.get(i, 0) != o.replicas:
            found.append(f"moves an engine at {site.id} that runs by itself")
    on = {k.pool: k.on for k in a.pools}
    found += [
        f"nodes of pool {p.pools[k.pool].id} do not add up"
        for k in a.pools
        if k.on < 0 or k.off < 0 or k.on + k.off != p.pools[k.pool].nodes
    ]
    for i, pool in enumerate(p.pools):
        name = f"{p.sites[pool.site].id}/{pool.id}"
        shares = [pool.chips // (pool.chips // c) if c <= pool.chips else c for c in chips[i]]
        # What first fit finds no place for may still stand in equal shares of nodes.
        if not any(_fits(c, on[i], pool.chips, pool.chips_count) for c in (chips[i], shares)):
            found.append(f"replicas do not fit on the nodes of {name} that are on")
        held = pool.memory_gb * min(on[i] * pool.chips, pool.chips_count)
        if pool.memory_gb > 0.0 and memory[i] > held * (1.0 + TOLERANCE):
            found.append(f"{memory[i]:.1f} GB of weights on {held:.1f} GB at {name}")
    found += [
        f"{count} engines at {p.sites[s].id}, which can watch {p.sites[s].engines_max}"
        for s, count in engines.items()
        if count > p.sites[s].engines_max
    ]
    return found


def _fits(replicas: list[int], on: int, chips: int, count: int) -> bool:
    """First fit, largest first, on whole nodes and then the last, which may be smaller."""
    whole, rest = divmod(count, chips)
    free = ([chips] * whole + ([rest] if rest else []))[: max(on, 0)]
    for need in sorted(replicas, reverse=True):
        place = next((i for i, left in enumerate(free) if left >= need), None)
        if place is None:
            return False
        free[place] -= need
    return True


def _law(p: PlaceProblem, a: PlaceAnswer) -> list[str]:
    found = []
    for f in a.flows:
        d, o = p.demand[f.demand], p.offers[f.offer]
        site = p.pools[o.pool].site
        where = f"{p.services[d.service].id} from {p.sites[d.origin].id} at {p.sites[site].id}"
        if site not in p.laws[d.law] or entry_of(p, d) is None:
            found.append(f"unlawful: {where}")
        if o.service != d.service or o.quality < d.quality_min - 1e-9:
            found.append(f"another service or too low a quality: {where}")
    return found


def _room(p: PlaceProblem, a: PlaceAnswer) -> list[str]:
    load: dict[int, float] = defaultdict(float)
    for f in a.flows:
        d = p.demand[f.demand]
        load[f.offer] += d.requests_per_s_high * d.work * f.share
    counts = _counts(a)
    found = []
    for i, asked in load.items():
        held = counts.get(i, 0) * p.offers[i].requests_per_s
        if asked > held * (1.0 + TOLERANCE) + 1e-9:
            o = p.offers[i]
            site = p.sites[p.pools[o.pool].site].id
            found.append(
                f"{asked:.3f} requests/s of {p.services[o.service].id} on {held:.3f} at {site}"
            )
    return found


def _served(p: PlaceProblem, a: PlaceAnswer) -> list[str]:
    """All demand has its share, or the answer names what has not; so for what comes late."""
    share: dict[int, float] = defaultdict(float)
    late: set[int] = set()
    for f in a.flows:
        d, o = p.demand[f.demand], p.offers[f.offer]
        share[f.demand] += f.share
        entry = entry_of(p, d)
        if entry is not None and f.share > TOLERANCE:
            way = p.rtt_ms[d.origin][entry] + p.rtt_ms[entry][p.pools[o.pool].site]
            if o.late or way + o.ttft_ms_p95 > p.services[d.service].ttft_ms + 1e-6:
                late.add(d.service)
    named = {(v.kind, v.what.split(" ")[0]) for v in a.violated}
    found = []
    for i, d in enumerate(p.demand):
        name = p.services[d.service].id
        if d.requests_per_s_high <= 0.0:
            continue
        kind = "unlawful" if entry_of(p, d) is None else "unserved"
        missing = share[i] < 1.0 - TOLERANCE and (kind, name) not in named
        if missing or share[i] > 1.0 + TOLERANCE:
            found.append(f"{share[i]:.4f} of {name} from {p.sites[d.origin].id} is served")
    return found + [
        f"late and not named: {p.services[q].id}"
        for q in sorted(late)
        if ("late", p.services[q].id) not in named
    ]


def _power(p: PlaceProblem, a: PlaceAnswer) -> list[str]:
    watts: dict[int, float] = defaultdict(float)
    for k in a.pools:
        pool = p.pools[k.pool]
        watts[pool.site] += k.on * pool.node_on_w + k.off * pool.node_off_w
    for i, count in _counts(a).items():
        watts[p.pools[p.offers[i].pool].site] += count * p.offers[i].loaded_w
    for f in a.flows:
        d, o = p.demand[f.demand], p.offers[f.offer]
        per_h = d.requests_per_s_high * d.work * f.share * SECONDS_PER_HOUR
        watts[p.pools[o.pool].site] += per_h * o.wh_per_request
    named = {v.what: v.amount for v in a.violated if v.kind == "over_power"}
    found = []
    for s, site in enumerate(p.sites):
        kw = site.pue * watts[s] / 1000.0
        supply = site.grid_kw_max + site.own_kw_low + named.get(site.id, 0.0)
        if kw > supply * (1.0 + TOLERANCE) + 1e-6:
            found.append(f"{kw:.2f} kW at {site.id}, which has {supply:.2f}")
    return found


def _survival(p: PlaceProblem, a: PlaceAnswer) -> list[str]:
    """After any one failure what is kept fits into what is left, or the answer names it."""
    named = {v.what: v.amount for v in a.violated if v.kind == "uncovered"}
    found = []
    served: dict[int, float] = defaultdict(float)
    for f in a.flows:
        served[f.demand] += f.share
    for short in shortfalls(p, _counts(a), served):
        what = f"{p.services[short.service].id} without {p.failures[short.failure].id}"
        if named.get(what, 0.0) < short.per_s * (1.0 - 1e-3) - 1e-6:
            found.append(f"{short.per_s:.3f} requests/s of {what} find no replica")
    return found

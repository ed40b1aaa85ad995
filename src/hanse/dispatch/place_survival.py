"""What of some demand finds room in some capacities: a maximum flow, and the set of demand that is short.

Here: `short_of`; what each failure leaves without a replica (`shortfalls`). Not here: rows of the program (`place_model`).

By the theorem of Gale (Pacific J. Math. 7, 1957) demand fits exactly when every set of it fits into what it may use; the set that
misses most is the side of a minimum cut that is reached last.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from hanse.dispatch.place_values import PlaceDemand, PlaceProblem

EPS = 1e-9
"""Relative to all demand: below it, rounding speaks."""


def short_of(
    demand: Sequence[float], capacity: Sequence[float], may: Sequence[Sequence[int]]
) -> tuple[float, list[int]]:
    """What does not fit, and the demand of the worst set; `may` [demand] are the places it may use.

    Shortest augmenting paths (Edmonds and Karp, J. ACM 19, 1972): few kinds of demand and tens of places.
    """
    total = float(np.sum(demand)) if len(demand) else 0.0
    small = EPS * max(total, 1e-12)
    need, room = [float(d) for d in demand], [float(c) for c in capacity]
    flow: list[dict[int, float]] = [{} for _ in demand]
    users: dict[int, list[int]] = {}
    for d, places in enumerate(may):
        for j in places:
            users.setdefault(j, []).append(d)
    while True:
        source: dict[int, int] = {}
        came: dict[int, int] = {d: -1 for d in range(len(need)) if need[d] > small}
        end = _reach(deque(came), came, source, room, flow, may, users, small)
        if end is None:
            return sum(n for n in need if n > small), sorted(came)
        _push(end, came, source, need, room, flow)


def _reach(
    queue: deque[int],
    came: dict[int, int],
    source: dict[int, int],
    room: list[float],
    flow: list[dict[int, float]],
    may: Sequence[Sequence[int]],
    users: dict[int, list[int]],
    small: float,
) -> int | None:
    """A place with room that unmet demand reaches; `came` [demand] by which place, `source` [place] by which demand."""
    while queue:
        d = queue.popleft()
        for j in may[d]:
            if j in source:
                continue
            source[j] = d
            if room[j] > small:
                return j
            for other in users[j]:
                if other not in came and flow[other].get(j, 0.0) > small:
                    came[other] = j
                    queue.append(other)
    return None


def _push(
    end: int,
    came: dict[int, int],
    source: dict[int, int],
    need: list[float],
    room: list[float],
    flow: list[dict[int, float]],
) -> None:
    steps: list[tuple[int, int, int]] = []
    j, most = end, room[end]
    while True:
        d = source[j]
        back = came[d]
        steps.append((d, j, back))
        if back < 0:
            most = min(most, need[d])
            break
        most = min(most, flow[d][back])
        j = back
    for d, j, back in steps:
        flow[d][j] = flow[d].get(j, 0.0) + most
        if back >= 0:
            flow[d][back] -= most
        else:
            need[d] -= most
    room[end] -= most


class Short(NamedTuple):
    """What one failure leaves of a service without a replica."""

    service: int
    failure: int
    per_s: float
    kinds: tuple[tuple[int, float], ...]
    """(law, quality) of the demand that misses most."""


def entry_of(p: PlaceProblem, d: PlaceDemand) -> int | None:
    """The nearest gateway that is up and may read some demand."""
    usable = [s for s in p.laws[d.law] if p.gateways[s]]
    return min(usable, key=lambda s: (p.rtt_ms[d.origin][s], s)) if usable else None


def shortfalls(
    p: PlaceProblem, counts: Mapping[int, int], served: Mapping[int, float]
) -> list[Short]:
    """For replicas [offer] and the share of each demand that is served without a failure: all that some failure leaves short."""
    kinds: dict[int, dict[tuple[int, float], float]] = defaultdict(lambda: defaultdict(float))
    for i, d in enumerate(p.demand):
        if served.get(i, 0.0) > 0.0:
            kept = d.requests_per_s_kept * d.work * served[i]
            kinds[d.service][d.law, d.quality_min] += kept
    laws = [set(sites) for sites in p.laws]
    runs: dict[int, list[int]] = defaultdict(list)
    for i, count in sorted(counts.items()):
        if count > 0:
            runs[p.offers[i].service].append(i)
    found: list[Short] = []
    for q in sorted(kinds):
        names = sorted(kinds[q])
        mine = runs[q]
        site = [p.pools[p.offers[i].pool].site for i in mine]
        may = [
            [
                j
                for j, i in enumerate(mine)
                if site[j] in laws[law] and p.offers[i].quality >= quality - 1e-9
            ]
            for law, quality in names
        ]
        held = [counts[i] * p.offers[i].requests_per_s for i in mine]
        found += _after_each(p, q, names, [kinds[q][k] for k in names], site, held, may)
    return found


def _after_each(
    p: PlaceProblem,
    q: int,
    names: list[tuple[int, float]],
    demand: list[float],
    site: list[int],
    held: list[float],
    may: list[list[int]],
) -> list[Short]:
    found = []
    for f, failure in enumerate(p.failures):
        gone = set(failure.sites)
        if gone & set(site):
            left = [0.0 if s in gone else c for s, c in zip(site, held, strict=True)]
            short, worst = short_of(demand, left, may)
            if short > 1e-6 * max(sum(demand), 1e-3):
                found.append(Short(q, f, short, tuple(names[d] for d in worst)))
    return found

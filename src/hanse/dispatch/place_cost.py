"""What a placement costs, about a million times a second: for search by moves of replicas.

Here: kernels over `Fixed` and `State`, which change replicas and say what the placement costs then. Requests go to the cheapest
replica with room, those first who would lose most by going elsewhere (Vogel's rule; Reinfeld and Vogel, Mathematical Programming, 1958, ch. 4), so
that a placement costs what is said here at most. Not here: which arrays (`place_local`), moves (`place_moves`), what a placement costs exactly
(`place_search`).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from hanse.compiled import KERNEL

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class Fixed(NamedTuple):
    """A problem, offers and rows in the order of their services; nothing here changes."""

    offer_first: Ints
    """[service + 1]"""
    offer: Floats
    """[offer, OFFER]"""
    offer_at: Ints
    """[offer, (site, pool, kind, service, candidate, place among its pool's)]; offers of one kind are one variant on as many chips."""
    row_first: Ints
    row: Floats
    """[row, ROW]; LOST is UNSERVED where any offer may serve the row, else 0."""
    cost_first: Ints
    """[service] where its rows x offers begin in `usd`, `rough`."""
    usd: Floats
    """[...] a whole row there, without energy; inf: may not."""
    rough: Floats
    """The same with energy from the grid: what is decided by."""
    set_first: Ints
    """[service + 1] sets that must survive."""
    set_need: Floats
    set_offer_first: Ints
    set_offer: Ints
    set_row_first: Ints
    set_row: Ints
    set_part_first: Ints
    """[set + 1] smaller sets of the same service that a set holds whole."""
    set_part: Ints
    short_usd: Floats
    """[service] of a request/s that a failure leaves without a replica, USD/h."""
    fail_first: Ints
    fail_site: Ints
    pool: Floats
    """[pool, POOL]"""
    pool_first: Ints
    """[pool + 1] where its offers begin in `pool_offer`."""
    pool_offer: Ints
    pool_site: Ints
    pool_kind: Ints
    """[pool] pools of one kind have the same chips and nodes."""
    of_kind: Ints
    """[pool, kind of offer] offer; -1: none."""
    sign: Ints
    """[offer, then service] by which a service's replicas are told from others (Zobrist, University of Wisconsin, 1970)."""
    site: Floats
    """[site, SITE]"""


class State(NamedTuple):
    """What is changed: the placement, what follows from it, and room to try."""

    n: Floats
    pool_used: Floats
    """[pool, (chips, GB, kW of loaded replicas)]"""
    engines: Floats
    """[site]"""
    pool_on: Floats
    """[pool] nodes that its replicas need; inf: they do not fit."""
    pool_kw: Floats
    """[pool] what those and its loaded replicas draw."""
    service: Floats
    """[service, (requests, uncovered, loaded anew, of requests: unserved)] USD/h"""
    flow_kw: Floats
    """[service, site, (mean, high)] of requests, before overhead."""
    kw: Floats
    """[site, (mean, high)] of all services' requests."""
    tried: Floats
    tried_kw: Floats
    touched: Ints
    """[service] of the move at hand."""
    stand: Ints
    """Offers of a service that have replicas."""
    load: Floats
    """[place in `stand`] requests/s left."""
    room: Floats
    """[place in `stand`] the same, were every row to go where it is cheapest."""
    ways: Floats
    """[row of the service, place in `stand`] `rough`."""
    order: Ints
    regret: Floats
    away: Floats
    """[row] share that nobody serves."""
    lacking: Floats
    """[set] requests/s that its parts do not account for."""
    at_site: Floats
    """[site] zeros between calls."""
    base_kw: Floats
    """[site, (mean, high)] as tried."""
    best: Floats
    """[offer] the placement to go back to."""
    here: Floats
    """[offer] the same, of a move at hand."""
    root: Floats
    """[offer] where chains begin."""
    next: Floats
    """[offer] where the best of them ended."""
    walked: Floats
    """[step] USD/h of placements that the search came by."""
    known: Ints
    """[offer, place in its pool] the round in which room made for it there was of no use; its own place: the whole pool."""
    held: Ints
    """[offer] made room for in the chain at hand: makes way for nobody."""
    was: Floats
    """[service] USD/h of what it did not get when a chain began."""
    near: Ints
    """[service, then pool] that a chain changed."""
    done: Ints
    """[service] nothing more to try."""
    spent: Ints
    """(evaluations, most of them, rounds of `known`)"""
    mark: Ints
    """[service] sum of the signs of its replicas: 64 bits, by which two sets of them are one with a chance of 1 in 1e19."""
    seen: Ints
    """[place] the mark of what was routed last of all with that place."""
    routed: Floats
    """[place, (`tried`, then mean and high of `tried_kw` by site)] what it came to: it rests on the service's own replicas alone, and
    moves come to the same ones again and again."""


RATE, KW_RPS, CHIPS, GB, MOST, LEAST, NOW, FRESH, LOADED_KW = range(9)
SITE, POOL, KIND, SERVICE, CANDIDATE, PLACE = range(6)
HIGH, MEAN, KEPT, UNSERVED, LOST = range(5)
NODES, NODE_CHIPS, NODE_GB, CHIPS_MOST, ON_KW, OFF_KW, ON_NOW, WAKE = range(8)
PUE, GRID, OWN, EXPORT, SUPPLY, OVER, PEAK, PEAK_USD, ENGINES = range(9)


@njit(**KERNEL)
def flow(f: Any, s: Any, q: int) -> None:
    """What a service comes to with its replicas as they stand, into `tried`, `tried_kw`: as found before, or by routing its requests."""
    at = s.mark[q] & (len(s.seen) - 1)
    row = s.routed[at]
    if s.seen[at] == s.mark[q]:
        for k in range(4):
            s.tried[q, k] = row[k]
        for i in range(f.site.shape[0]):
            s.tried_kw[q, i, 0], s.tried_kw[q, i, 1] = row[4 + 2 * i], row[5 + 2 * i]
        return
    requests(f, s, q)
    s.seen[at] = s.mark[q]
    for k in range(4):
        row[k] = s.tried[q, k]
    for i in range(f.site.shape[0]):
        row[4 + 2 * i], row[5 + 2 * i] = s.tried_kw[q, i, 0], s.tried_kw[q, i, 1]


@njit(**KERNEL)
def requests(f: Any, s: Any, q: int) -> None:
    """A service's requests to replicas, into `tried`, `tried_kw`."""
    first, last = f.offer_first[q], f.offer_first[q + 1]
    for i in range(f.site.shape[0]):
        s.tried_kw[q, i, 0] = s.tried_kw[q, i, 1] = 0.0
    stand, anew = 0, 0.0
    for j in range(first, last):
        if s.n[j] > 0.0:
            s.stand[stand] = j
            s.load[stand] = s.n[j] * f.offer[j, RATE]
            stand += 1
            anew += max(0.0, s.n[j] - f.offer[j, NOW]) * f.offer[j, FRESH]
    if full(f, s, q, stand):
        by_regret(f, s, q)
    usd = 0.0
    for k in range(f.row_first[q], f.row_first[q + 1]):
        usd += route(f, s, q, s.order[k], stand)
    s.tried[q, 0] = usd
    s.tried[q, 1] = uncovered(f, s, q)
    s.tried[q, 2] = anew
    s.tried[q, 3] = 0.0
    for i in range(f.row_first[q], f.row_first[q + 1]):
        s.tried[q, 3] += s.away[i] * f.row[i, LOST]


@njit(**KERNEL)
def full(f: Any, s: Any, q: int, stand: int) -> bool:
    """Whether not every row finds room where it is cheapest; else rows are in any order. What each row costs where, and loses by going to
    its second choice, stays in `ways` and `regret`.
    """
    first, last = f.offer_first[q], f.offer_first[q + 1]
    begin = f.row_first[q]
    for k in range(stand):
        s.room[k] = s.load[k]
    over = False
    for i in range(begin, f.row_first[q + 1]):
        base = f.cost_first[q] + (i - begin) * (last - first) - first
        at = (i - begin) * stand
        best = -1
        least = second = f.row[i, UNSERVED]
        for k in range(stand):
            cost = f.rough[base + s.stand[k]]
            s.ways[at + k] = cost
            if cost < least:
                best, least, second = k, cost, least
            elif cost < second:
                second = cost
        s.regret[i] = (second - least) / max(f.row[i, HIGH], 1e-12)
        if best >= 0:
            s.room[best] -= f.row[i, HIGH]
            over = over or s.room[best] < 0.0
        s.order[i] = i
    return over


@njit(**KERNEL)
def by_regret(f: Any, s: Any, q: int) -> None:
    """`order`: rows that lose most by going to their second choice first."""
    begin, end = f.row_first[q], f.row_first[q + 1]
    for i in range(begin, end):
        regret, at = s.regret[i], i
        while at > begin and s.regret[at - 1] < regret:
            s.regret[at], s.order[at] = s.regret[at - 1], s.order[at - 1]
            at -= 1
        s.regret[at], s.order[at] = regret, i


@njit(**KERNEL)
def route(f: Any, s: Any, q: int, i: int, stand: int) -> float:
    """One row to the cheapest room that is left; USD/h."""
    first, last = f.offer_first[q], f.offer_first[q + 1]
    base = f.cost_first[q] + (i - f.row_first[q]) * (last - first) - first
    at = (i - f.row_first[q]) * stand
    high, mean = f.row[i, HIGH], f.row[i, MEAN]
    left, usd = 1.0, 0.0
    while left > 1e-12:
        best, least = -1, f.row[i, UNSERVED]
        for k in range(stand):
            if s.load[k] > 1e-12 and s.ways[at + k] < least:
                best, least = k, s.ways[at + k]
        if best < 0:
            break
        j = s.stand[best]
        share = left if high * left <= s.load[best] else s.load[best] / high
        s.load[best] -= share * high
        left -= share
        usd += share * f.usd[base + j]
        site = f.offer_at[j, SITE]
        s.tried_kw[q, site, 0] += share * mean * f.offer[j, KW_RPS]
        s.tried_kw[q, site, 1] += share * high * f.offer[j, KW_RPS]
    s.away[i] = left
    cost: float = usd + left * f.row[i, UNSERVED]
    return cost


@njit(**KERNEL)
def uncovered(f: Any, s: Any, q: int) -> float:
    """USD/h of what failures leave without a replica: set by set, smaller ones first, what its parts do not account for already. Exact where
    of two sets one holds the other or they have nothing in common, else too much.
    """
    total_short = 0.0
    for c in range(f.set_first[q], f.set_first[q + 1]):
        lacking = f.set_need[c] - survives(f, s, c)
        for k in range(f.set_row_first[c], f.set_row_first[c + 1]):
            lacking -= f.row[f.set_row[k], KEPT] * s.away[f.set_row[k]]
        for k in range(f.set_part_first[c], f.set_part_first[c + 1]):
            lacking -= s.lacking[f.set_part[k]]
        s.lacking[c] = max(0.0, lacking)
        total_short += s.lacking[c]
    cost: float = total_short * f.short_usd[q]
    return cost


@njit(**KERNEL)
def survives(f: Any, s: Any, c: int) -> float:
    """Requests/s that a set's replicas hold after the failure that takes most of them."""
    begin, end = f.set_offer_first[c], f.set_offer_first[c + 1]
    total = 0.0
    for k in range(begin, end):
        j = f.set_offer[k]
        if s.n[j] > 0.0:
            s.at_site[f.offer_at[j, SITE]] += s.n[j] * f.offer[j, RATE]
            total += s.n[j] * f.offer[j, RATE]
    lost = 0.0
    for g in range(len(f.fail_first) - 1):
        gone = 0.0
        for k in range(f.fail_first[g], f.fail_first[g + 1]):
            gone += s.at_site[f.fail_site[k]]
        lost = max(lost, gone)
    for i in range(len(s.at_site)):
        s.at_site[i] = 0.0
    left: float = total - lost
    return left


@njit(**KERNEL)
def change(f: Any, s: Any, j: int, by: float) -> None:
    """Replicas of one offer, more or fewer."""
    pool = f.offer_at[j, POOL]
    s.n[j] += by
    s.mark[f.offer_at[j, SERVICE]] += np.int64(by) * f.sign[j]
    s.pool_used[pool, 0] += by * f.offer[j, CHIPS]
    s.pool_used[pool, 1] += by * f.offer[j, GB]
    s.pool_used[pool, 2] += by * f.offer[j, LOADED_KW]
    draw(f, s, pool)
    s.engines[f.offer_at[j, SITE]] += by
    s.touched[f.offer_at[j, SERVICE]] = 1


@njit(**KERNEL)
def draw(f: Any, s: Any, p: int) -> None:
    """A pool's nodes and power anew."""
    on = nodes(f, s, p)
    s.pool_on[p] = on
    s.pool_kw[p] = on * f.pool[p, ON_KW] + f.pool[p, OFF_KW] + s.pool_used[p, 2]


@njit(**KERNEL)
def nodes(f: Any, s: Any, p: int) -> float:
    """Nodes that a pool's replicas need; more than there are: they do not fit."""
    chips, gb = s.pool_used[p, 0], s.pool_used[p, 1]
    if chips > f.pool[p, CHIPS_MOST] + 1e-9:
        return np.inf
    on = np.ceil(chips / f.pool[p, NODE_CHIPS] - 1e-9)
    if f.pool[p, NODE_GB] > 0.0:
        on = max(on, np.ceil(gb / f.pool[p, NODE_GB] - 1e-9))
    found: float = on if on <= f.pool[p, NODES] else np.inf
    return found


@njit(**KERNEL)
def cost(f: Any, s: Any) -> float:
    """USD/h of the placement as it stands; inf: it does not fit. Services that were touched are routed anew."""
    for i in range(f.site.shape[0]):
        if s.engines[i] > f.site[i, ENGINES] + 1e-9:
            return np.inf
        s.base_kw[i, 0], s.base_kw[i, 1] = s.kw[i, 0], s.kw[i, 1]
    usd = 0.0
    for p in range(f.pool.shape[0]):
        on, each = s.pool_on[p], s.pool_kw[p]
        if on == np.inf:
            return np.inf
        s.base_kw[f.pool_site[p], 0] += each
        s.base_kw[f.pool_site[p], 1] += each
        usd += max(0.0, on - f.pool[p, ON_NOW]) * f.pool[p, WAKE]
    s.spent[0] += 1
    for q in range(len(s.touched)):
        if s.touched[q]:
            flow(f, s, q)
            for i in range(f.site.shape[0]):
                s.base_kw[i, 0] += s.tried_kw[q, i, 0] - s.flow_kw[q, i, 0]
                s.base_kw[i, 1] += s.tried_kw[q, i, 1] - s.flow_kw[q, i, 1]
            usd += s.tried[q, 0] + s.tried[q, 1] + s.tried[q, 2]
        else:
            usd += s.service[q, 0] + s.service[q, 1] + s.service[q, 2]
    for i in range(f.site.shape[0]):
        mean, high = s.base_kw[i, 0] * f.site[i, PUE], s.base_kw[i, 1] * f.site[i, PUE]
        own = min(mean, f.site[i, OWN]) if f.site[i, EXPORT] <= f.site[i, GRID] else 0.0
        usd += own * f.site[i, EXPORT] + (mean - own) * f.site[i, GRID]
        usd += max(0.0, high - f.site[i, SUPPLY]) * f.site[i, OVER]
        usd += max(0.0, high - f.site[i, PEAK]) * f.site[i, PEAK_USD]
    return usd


@njit(**KERNEL)
def keep(f: Any, s: Any) -> None:
    """The placement as it stands is the one that moves are measured from."""
    for q in range(len(s.touched)):
        if s.touched[q]:
            for k in range(4):
                s.service[q, k] = s.tried[q, k]
            for i in range(f.site.shape[0]):
                for k in range(2):
                    s.kw[i, k] += s.tried_kw[q, i, k] - s.flow_kw[q, i, k]
                    s.flow_kw[q, i, k] = s.tried_kw[q, i, k]
        s.touched[q] = 0


@njit(**KERNEL)
def untouch(s: Any) -> None:
    """After a move was taken back."""
    for q in range(len(s.touched)):
        s.touched[q] = 0

"""Replicas moved one by one, pool by pool, as long as that costs less: a placement within milliseconds.

Here: kernels. `descend` makes single moves (one replica less, one more, one elsewhere, one of another service on the same nodes), pairs for
services that one replica alone does not help, room for services that lack some (by chains of replicas that make way), and moves of whole pools
(emptied, or moved to another pool of the same kind), until none helps or the evaluations are used up. Not here: what a placement costs
(`place_cost`), where moves begin (`place_local`).
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numba import njit

from hanse.compiled import KERNEL
from hanse.dispatch.place_cost import (
    CANDIDATE,
    CHIPS,
    CHIPS_MOST,
    KIND,
    LEAST,
    MOST,
    PLACE,
    POOL,
    SERVICE,
    SITE,
    change,
    cost,
    keep,
    untouch,
)

LESS: Final = 1e-9
"""Of USD/h: what is no improvement but rounding."""
LACKS: Final = 1e-4
"""Of USD/h: what is worth making room for."""
CHAIN: Final = 4
"""Replicas that make way for each other."""
WALK: Final = 8
"""Steps without a gain."""


@njit(**KERNEL)
def room(f: Any, s: Any, j: int, banned: int) -> bool:
    """Whether one more replica may be tried."""
    pool = f.offer_at[j, POOL]
    fits: bool = (
        pool != banned
        and f.offer_at[j, CANDIDATE] == 1
        and s.n[j] < f.offer[j, MOST]
        and s.pool_used[pool, 0] + f.offer[j, CHIPS] <= f.pool[pool, CHIPS_MOST] + 1e-9
    )
    return fits


@njit(**KERNEL)
def add_best(f: Any, s: Any, known: float, banned: int, near: bool) -> float:
    """One replica more where that saves most (`near`: of services that are `near`); what the placement costs then."""
    best, least = -1, known - LESS
    for j in range(len(s.n)):
        if near and not s.near[f.offer_at[j, SERVICE]]:
            continue
        if room(f, s, j, banned):
            change(f, s, j, 1.0)
            found = cost(f, s)
            change(f, s, j, -1.0)
            untouch(s)
            if found < least:
                best, least = j, found
    if best < 0:
        return known
    change(f, s, best, 1.0)
    keep_at: float = cost(f, s)
    keep(f, s)
    return keep_at


@njit(**KERNEL)
def move_best(f: Any, s: Any, j: int, known: float, banned: int) -> float:
    """One replica less of an offer, and one of its service elsewhere or of any on the same nodes, or none; the best of these."""
    pool, q = f.offer_at[j, POOL], f.offer_at[j, SERVICE]
    change(f, s, j, -1.0)
    best, least = -1, known - LESS
    found = cost(f, s)
    untouch(s)
    if found < least:
        best, least = j, found
    for k in range(len(s.n)):
        if k == j or (f.offer_at[k, SERVICE] != q and f.offer_at[k, POOL] != pool):
            continue
        if not room(f, s, k, banned):
            continue
        s.touched[q] = 1
        change(f, s, k, 1.0)
        found = cost(f, s)
        change(f, s, k, -1.0)
        untouch(s)
        if found < least:
            best, least = k, found
    if best < 0:
        change(f, s, j, 1.0)
        untouch(s)
        return known
    s.touched[q] = 1
    if best != j:
        change(f, s, best, 1.0)
    keep_at: float = cost(f, s)
    keep(f, s)
    return keep_at


@njit(**KERNEL)
def is_near(f: Any, s: Any, j: int) -> bool:
    """Whether what happened lately concerns an offer: its service or its pool."""
    found: bool = s.near[f.offer_at[j, SERVICE]] + s.near[len(s.done) + f.offer_at[j, POOL]] > 0
    return found


@njit(**KERNEL)
def single(f: Any, s: Any, known: float, banned: int, near: bool) -> float:
    """Moves of single replicas until none helps; `near`: only of services and pools that are `near`."""
    while s.spent[0] < s.spent[1]:
        before = known
        while s.spent[0] < s.spent[1]:
            found = add_best(f, s, known, banned, near)
            if found >= known:
                break
            known = found
        for j in range(len(s.n)):
            if near and (s.held[j] or not is_near(f, s, j)):
                continue
            while s.n[j] > f.offer[j, LEAST] and s.spent[0] < s.spent[1]:
                found = move_best(f, s, j, known, banned)
                if found >= known:
                    break
                known = found
        if known >= before - LESS:
            break
    return known


@njit(**KERNEL)
def move_pool(f: Any, s: Any, p: int, to: int) -> None:
    """All replicas of a pool that may move to another one's same offers, or away where `to` is none."""
    for i in range(f.pool_first[p], f.pool_first[p + 1]):
        j = f.pool_offer[i]
        if s.n[j] <= f.offer[j, LEAST]:
            continue
        count = s.n[j] - f.offer[j, LEAST]
        change(f, s, j, -count)
        k = f.of_kind[to, f.offer_at[j, KIND]] if to >= 0 else -1
        if k >= 0:
            change(f, s, k, min(count, f.offer[k, MOST] - s.n[k]))


@njit(**KERNEL)
def back(f: Any, s: Any, to: Any) -> None:
    """To another placement [offer], services that it changes routed anew."""
    for j in range(len(s.n)):
        if s.n[j] != to[j]:
            change(f, s, j, to[j] - s.n[j])


@njit(**KERNEL)
def pools(f: Any, s: Any, known: float) -> float:
    """Every pool in use moved to each of its kind that stands empty, and emptied for good; what helps stays."""
    copy(s.n, s.best)
    for p in range(f.pool.shape[0]):
        if s.pool_used[p, 0] <= 0.0:
            continue
        for to in range(-1, f.pool.shape[0]):
            if s.spent[0] >= s.spent[1]:
                return known
            if to >= 0 and (
                s.pool_used[to, 0] > 0.0 or f.pool_kind[to] != f.pool_kind[p] or to == p
            ):
                continue
            move_pool(f, s, p, to)
            found = cost(f, s)
            if to < 0 and found < np.inf:
                keep(f, s)
                found = single(f, s, found, p, False)
            if found < known - LESS:
                keep(f, s)
                copy(s.n, s.best)
                known = found
                break
            back(f, s, s.best)
            if to < 0:
                cost(f, s)
                keep(f, s)
            untouch(s)
    return known


@njit(**KERNEL)
def short(f: Any, s: Any, q: int) -> bool:
    """Whether more replicas of a service would serve or cover more."""
    found: bool = lacks(s, q) > LACKS
    return found


@njit(**KERNEL)
def pair_best(f: Any, s: Any, known: float) -> float:
    """Two replicas of a service at two sites, where one alone would be dearer than none: it may fail."""
    for q in range(len(s.touched)):
        if not short(f, s, q):
            continue
        one, other, least = -1, -1, known - LESS
        for j in range(f.offer_first[q], f.offer_first[q + 1]):
            if not room(f, s, j, -1):
                continue
            change(f, s, j, 1.0)
            for k in range(j + 1, f.offer_first[q + 1]):
                if f.offer_at[k, SITE] == f.offer_at[j, SITE] or not room(f, s, k, -1):
                    continue
                if s.spent[0] >= s.spent[1]:
                    break
                change(f, s, k, 1.0)
                found = cost(f, s)
                change(f, s, k, -1.0)
                if found < least:
                    one, other, least = j, k, found
            change(f, s, j, -1.0)
            untouch(s)
        if one >= 0:
            change(f, s, one, 1.0)
            change(f, s, other, 1.0)
            known = cost(f, s)
            keep(f, s)
    return known


@njit(**KERNEL)
def evict(f: Any, s: Any, k: int, j: int) -> bool:
    """One replica more of k in the room of as many of j as that takes, or of all there where j is none; False, and nothing done, where
    that is not enough.
    """
    pool = f.offer_at[k, POOL]
    if j < 0:
        held = 0.0
        for i in range(f.pool_first[pool], f.pool_first[pool + 1]):
            held += f.offer[f.pool_offer[i], LEAST] * f.offer[f.pool_offer[i], CHIPS]
        if held + f.offer[k, CHIPS] > f.pool[pool, CHIPS_MOST] + 1e-9:
            return False
        move_pool(f, s, pool, -1)
    else:
        lacking = s.pool_used[pool, 0] + f.offer[k, CHIPS] - f.pool[pool, CHIPS_MOST]
        count = np.ceil(lacking / f.offer[j, CHIPS] - 1e-9)
        if count > s.n[j] - f.offer[j, LEAST]:
            return False
        change(f, s, j, -count)
    change(f, s, k, 1.0)
    return True


@njit(**KERNEL)
def cheapest_room(f: Any, s: Any, q: int, first: bool) -> tuple[int, int]:
    """An offer of a service without room, and what makes room for it at least cost: an offer, or -1 for the whole pool; (-1, -1): none left
    to try. `first`: what began a chain already is not tried again.
    """
    one, other, least = -1, -1, np.inf
    copy(s.n, s.here)
    for k in range(f.offer_first[q], f.offer_first[q + 1]):
        if s.held[k] or s.n[k] >= f.offer[k, MOST] or not f.offer_at[k, CANDIDATE]:
            continue
        if room(f, s, k, -1):
            continue
        pool, ways = f.offer_at[k, POOL], 0
        for i in range(f.pool_first[pool], f.pool_first[pool + 1]):
            j = f.pool_offer[i]
            if s.held[j] or j == k or s.n[j] <= f.offer[j, LEAST]:
                continue
            if first and s.known[k, f.offer_at[j, PLACE]] == s.spent[2]:
                ways += 1
                continue
            if evict(f, s, k, j):
                ways += 1
                found = weighed(f, s, q, pool)
                if found < least:
                    one, other, least = k, j, found
        whole = first and ways == 0 and s.known[k, f.offer_at[k, PLACE]] != s.spent[2]
        if whole and evict(f, s, k, -1):
            found = weighed(f, s, q, pool)
            if found < least:
                one, other, least = k, -1, found
    return one, other


@njit(**KERNEL)
def weighed(f: Any, s: Any, q: int, pool: int) -> float:
    """What the placement costs with a pool changed, which then is as in `here` again; inf where the service lacks as much as before."""
    found: float = cost(f, s)
    if s.tried[q, 1] + s.tried[q, 3] >= lacks(s, q) - LACKS:
        found = np.inf
    for i in range(f.pool_first[pool], f.pool_first[pool + 1]):
        j = f.pool_offer[i]
        if s.n[j] != s.here[j]:
            change(f, s, j, s.here[j] - s.n[j])
    untouch(s)
    return found


@njit(**KERNEL)
def lacks(s: Any, q: int) -> float:
    """USD/h of what a service does not get."""
    found: float = s.service[q, 1] + s.service[q, 3]
    return found


@njit(**KERNEL)
def chain(f: Any, s: Any, one: int, other: int, known: float) -> float:
    """Room made for one replica, then for who made way, and so on, for as long as that is dearer than what was known (ejection chains; Glover,
    Discrete Applied Mathematics 65, 1996).
    """
    found = known
    for i in range(len(s.near)):
        s.near[i] = 0
    for step in range(CHAIN):
        s.held[one] = 1
        s.near[len(s.done) + f.offer_at[one, POOL]] = 1
        evict(f, s, one, other)
        for q in range(len(s.done)):
            if s.touched[q]:
                s.near[q] = 1
        found = cost(f, s)
        keep(f, s)
        found = single(f, s, found, -1, True)
        if found < known - LESS or step == CHAIN - 1 or s.spent[0] >= s.spent[1]:
            break
        worst, most = -1, LACKS
        for q in range(len(s.done)):
            if lacks(s, q) - s.was[q] > most:
                worst, most = q, lacks(s, q) - s.was[q]
        if worst < 0:
            break
        one, other = cheapest_room(f, s, worst, False)
        if one < 0:
            break
    for j in range(len(s.n)):
        s.held[j] = 0
    return found


@njit(**KERNEL)
def crowded(f: Any, s: Any, known: float) -> float:
    """Room made for services that lack some, the one that lacks most and the cheapest way first, and for those in turn who made way. Where no
    chain helps the search walks on from the end of the best one, some steps without a gain (tabu search; Glover, ORSA J. Computing 1, 1989).
    """
    copy(s.n, s.best)
    walked = 0
    s.walked[0] = known
    while walked < WALK and s.spent[0] < s.spent[1]:
        found = chains(f, s, known, walked)
        if found < known - LESS:
            known = single(f, s, found, -1, False)
            copy(s.n, s.best)
            walked = 0
        elif found < np.inf:
            walked += 1
            back(f, s, s.next)
            found = cost(f, s)
            keep(f, s)
        else:
            break
        s.walked[walked] = found
    back(f, s, s.best)
    cost(f, s)
    keep(f, s)
    return known


@njit(**KERNEL)
def chains(f: Any, s: Any, known: float, walked: int) -> float:
    """Chains from the placement as it stands, until one ends below what is known and stays; else the least that any ended with, where the search
    has not been, is in `next`, and all is as before. inf: none.
    """
    copy(s.n, s.root)
    s.spent[2] += 1
    least = np.inf
    for q in range(len(s.done)):
        s.done[q] = 0
        s.was[q] = lacks(s, q)
    while s.spent[0] < s.spent[1]:
        most, worst = -1, LACKS
        for q in range(len(s.done)):
            if not s.done[q] and s.was[q] > worst:
                most, worst = q, s.was[q]
        if most < 0:
            break
        one, other = cheapest_room(f, s, most, True)
        if one < 0:
            s.done[most] = 1
            continue
        s.known[one, f.offer_at[other if other >= 0 else one, PLACE]] = s.spent[2]
        found: float = chain(f, s, one, other, known)
        if found < known - LESS:
            return found
        been = found >= least
        for i in range(walked + 1):
            been = been or abs(found - s.walked[i]) <= LESS * max(1.0, abs(found))
        if not been:
            least = found
            copy(s.n, s.next)
        back(f, s, s.root)
        cost(f, s)
        keep(f, s)
    return least


@njit(**KERNEL)
def copy(n: Any, to: Any) -> None:
    """Of a placement [offer]."""
    for j in range(len(n)):
        to[j] = n[j]


@njit(**KERNEL)
def opened(f: Any, s: Any, known: float) -> float:
    """Every pool that stands empty given what each of its kind in use has, whose own work may then go; what helps stays."""
    copy(s.n, s.best)
    for to in range(f.pool.shape[0]):
        if s.pool_used[to, 0] > 0.0:
            continue
        for p in range(f.pool.shape[0]):
            if s.spent[0] >= s.spent[1]:
                return known
            if s.pool_used[p, 0] <= 0.0 or f.pool_kind[to] != f.pool_kind[p]:
                continue
            like_pool(f, s, p, to)
            found = cost(f, s)
            if found < np.inf:
                keep(f, s)
                found = single(f, s, found, -1, False)
            if found < known - LESS:
                copy(s.n, s.best)
                known = found
                break
            back(f, s, s.best)
            cost(f, s)
            keep(f, s)
    return known


@njit(**KERNEL)
def like_pool(f: Any, s: Any, p: int, to: int) -> None:
    """Replicas of a pool in another one, too."""
    for i in range(f.pool_first[p], f.pool_first[p + 1]):
        j = f.pool_offer[i]
        if s.n[j] > 0.0:
            k = f.of_kind[to, f.offer_at[j, KIND]]
            if k >= 0:
                change(f, s, k, min(s.n[j], f.offer[k, MOST] - s.n[k]))


@njit(**KERNEL)
def descend(f: Any, s: Any, opens: bool) -> float:
    """From the placement in `n` to one that no move makes cheaper (those of `opened` only where asked), or the last one within the
    evaluations; USD/h.
    """
    for q in range(len(s.touched)):
        s.touched[q] = 1
    known = cost(f, s)
    keep(f, s)
    while s.spent[0] < s.spent[1]:
        known = pair_best(f, s, single(f, s, known, -1, False))
        found = crowded(f, s, known) if opens else known
        if found >= known - LESS:
            found = pools(f, s, known)
        if opens and found >= known - LESS:
            found = opened(f, s, known)
        if found >= known - LESS:
            break
        known = found
    usd: float = known
    return usd

"""Replicas moved one by one, pool by pool, as long as that costs less: a placement within milliseconds.

Here: kernels. `descend` makes single moves (one replica less, one more, one elsewhere, one of another service on the same nodes), pairs for
services that one replica alone does not help, room for services that lack some, and moves of whole pools (emptied, or moved to another pool
of the same kind), until none helps or the evaluations are used up. Not here: what a placement costs (`place_cost`), where moves begin
(`place_local`).
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
def add_best(f: Any, s: Any, known: float, banned: int) -> float:
    """One replica more where that saves most; what the placement costs then."""
    best, least = -1, known - LESS
    for j in range(len(s.n)):
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
def single(f: Any, s: Any, known: float, banned: int) -> float:
    """Moves of single replicas until none helps."""
    while s.spent[0] < s.spent[1]:
        before = known
        while s.spent[0] < s.spent[1]:
            found = add_best(f, s, known, banned)
            if found >= known:
                break
            known = found
        for j in range(len(s.n)):
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
    for j in range(len(s.n)):
        if f.offer_at[j, POOL] != p or s.n[j] <= f.offer[j, LEAST]:
            continue
        count = s.n[j] - f.offer[j, LEAST]
        change(f, s, j, -count)
        k = f.of_kind[to, f.offer_at[j, KIND]] if to >= 0 else -1
        if k >= 0:
            change(f, s, k, min(count, f.offer[k, MOST] - s.n[k]))


@njit(**KERNEL)
def back(f: Any, s: Any) -> None:
    """To the placement in `best`, all services routed anew."""
    for j in range(len(s.n)):
        if s.n[j] != s.best[j]:
            change(f, s, j, s.best[j] - s.n[j])


@njit(**KERNEL)
def mark(s: Any) -> None:
    """The placement as it stands is the one to go back to."""
    for j in range(len(s.n)):
        s.best[j] = s.n[j]


@njit(**KERNEL)
def pools(f: Any, s: Any, known: float) -> float:
    """Every pool in use moved to each of its kind that stands empty, and emptied for good; what helps stays."""
    mark(s)
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
                found = single(f, s, found, p)
            if found < known - LESS:
                keep(f, s)
                mark(s)
                known = found
                break
            back(f, s)
            if to < 0:
                cost(f, s)
                keep(f, s)
            untouch(s)
    return known


@njit(**KERNEL)
def short(f: Any, s: Any, q: int) -> bool:
    """Whether more replicas of a service would serve or cover more."""
    lacks: bool = s.service[q, 1] + s.service[q, 3] > LACKS
    return lacks


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
        for i in range(len(s.n)):
            if f.offer_at[i, POOL] == pool:
                held += f.offer[i, LEAST] * f.offer[i, CHIPS]
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
def cheapest_room(f: Any, s: Any, q: int) -> tuple[int, int]:
    """An offer of a service without room, and what makes room for it at least cost: an offer, or -1 for the whole pool; (-1, -1): none left
    to try.
    """
    one, other, least = -1, -1, np.inf
    for k in range(f.offer_first[q], f.offer_first[q + 1]):
        if s.known[k] > 1 or s.n[k] >= f.offer[k, MOST] or not f.offer_at[k, CANDIDATE]:
            continue
        if room(f, s, k, -1):
            continue
        ways = 0
        for j in range(len(s.n)):
            if s.known[k] or j == k or f.offer_at[j, POOL] != f.offer_at[k, POOL]:
                continue
            if s.n[j] > f.offer[j, LEAST] and evict(f, s, k, j):
                ways += 1
                found = cost(f, s)
                back(f, s)
                untouch(s)
                if found < least:
                    one, other, least = k, j, found
        if ways == 0 and evict(f, s, k, -1):
            s.known[k] = 1
            found = cost(f, s)
            back(f, s)
            untouch(s)
            if found < least:
                one, other, least = k, -1, found
    return one, other


@njit(**KERNEL)
def crowded(f: Any, s: Any, known: float) -> float:
    """Room made for services that lack some, the one that lacks most and the cheapest way first (in place of one offer, then of a whole
    pool), and everything moved from there; what helps stays.
    """
    mark(s)
    for j in range(len(s.n)):
        s.known[j] = 0
    for q in range(len(s.done)):
        s.done[q] = 0
    while s.spent[0] < s.spent[1]:
        most, worst = -1, LACKS
        for q in range(len(s.done)):
            lack = s.service[q, 1] + s.service[q, 3]
            if not s.done[q] and lack > worst:
                most, worst = q, lack
        if most < 0:
            break
        one, other = cheapest_room(f, s, most)
        if one < 0:
            s.done[most] = 1
            continue
        s.known[one] += 1
        evict(f, s, one, other)
        found = cost(f, s)
        keep(f, s)
        found = single(f, s, found, -1)
        if found < known - LESS:
            mark(s)
            known = found
        else:
            back(f, s)
            cost(f, s)
            keep(f, s)
    return known


@njit(**KERNEL)
def opened(f: Any, s: Any, known: float) -> float:
    """Every pool that stands empty given what each of its kind in use has, whose own work may then go; what helps stays."""
    mark(s)
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
                found = single(f, s, found, -1)
            if found < known - LESS:
                mark(s)
                known = found
                break
            back(f, s)
            cost(f, s)
            keep(f, s)
    return known


@njit(**KERNEL)
def like_pool(f: Any, s: Any, p: int, to: int) -> None:
    """Replicas of a pool in another one, too."""
    for j in range(len(s.n)):
        if f.offer_at[j, POOL] == p and s.n[j] > 0.0:
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
        known = pair_best(f, s, single(f, s, known, -1))
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

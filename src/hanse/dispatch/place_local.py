"""A placement found by moves: arrays for the kernels, where they begin, how long they may take.

Here: `Local`. Not here: the moves (`place_moves`), their cost (`place_cost`), the program that they spare or begin (`place_search`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np

from hanse.dispatch import place_cost as pc
from hanse.dispatch.place_model import PlaceModel
from hanse.dispatch.place_moves import WALK, descend
from hanse.milp import INF, Bools, Floats, Ints
from hanse.units import SECONDS_PER_HOUR

EVALUATIONS_EACH: Final = 100
"""Of placements, from one start, for each offer that may get replicas: 15 ms for twenty sites with two services."""
EVALUATIONS_PAIR: Final = 0.6
"""Or for each two of them, where they are many."""
OPENED_TIMES: Final = 3
"""So many times that from the best of all starts, with all moves."""
EVALUATIONS_MAX: Final = 40_000_000
"""Times sites, since each takes as long as there are sites: 2 s a start and 10 s with all moves for 200."""
ROUTED_MAX_BYTES: Final = 24_000_000
"""Of what was found of single services: all that moves come to at twenty sites."""
CANDIDATES_MIN: Final = 400
CANDIDATES_EACH: Final = 4
"""Offers that may get replicas: all where they are few, else so many for each that the relaxed program uses."""


class Local:
    """A model's problem as the kernels take it."""

    def __init__(self, model: PlaceModel) -> None:
        self.model = m = model
        r = m.rows
        self.offers = np.argsort(r.offer_service, kind="stable")
        """[local offer] offer."""
        self.rows = np.argsort(r.service, kind="stable")
        self.local_of = np.empty_like(self.offers)
        self.local_of[self.offers] = np.arange(len(self.offers))
        row_of = np.empty_like(self.rows)
        row_of[self.rows] = np.arange(len(self.rows))
        services = np.arange(len(m.problem.services) + 1)
        self.offer_first = np.searchsorted(r.offer_service[self.offers], services)
        self.row_first = np.searchsorted(r.service[self.rows], services)
        self.fixed = self._fixed(row_of)
        self.most_ways = int((np.diff(self.offer_first) * np.diff(self.row_first)).max(initial=0))
        self.most_places = int(np.bincount(r.offer_pool).max(initial=0))
        wide = 4 + 2 * len(m.problem.sites)
        places = 1 << int(np.log2(max(ROUTED_MAX_BYTES / (8 * wide), 1.0)))
        self.seen, self.routed = np.zeros(places, np.int64), np.zeros((places, wide))

    def _fixed(self, row_of: Ints) -> pc.Fixed:
        m, r, p = self.model, self.model.rows, self.model.problem
        usd, rough, cost_first = self._pairs(row_of)
        failures = m.failures()
        kind, pool_kind, of_kind = self._kinds()
        none = np.zeros(len(kind), np.int64)
        columns = [r.offer_site, r.offer_pool, kind, r.offer_service, none]
        at = np.stack(columns, 1)[self.offers]
        pool = at[:, pc.POOL]
        price = np.array([q.uncovered_usd_per_request for q in p.services], float)
        lost = np.where(np.isin(np.arange(len(r.service)), m.pair_row), r.unserved_usd, 0.0)
        return pc.Fixed(
            offer_first=self.offer_first,
            offer=self._offer()[self.offers],
            offer_at=np.column_stack([at, _places(pool)]),
            row_first=self.row_first,
            row=np.stack([r.high, r.mean, r.kept, r.unserved_usd, lost], 1)[self.rows],
            cost_first=cost_first,
            usd=usd,
            rough=rough,
            **self._sets(row_of),
            short_usd=price * SECONDS_PER_HOUR,
            fail_first=failures[0],
            fail_site=failures[1],
            pool=self._pool(),
            pool_first=np.searchsorted(np.sort(pool), np.arange(len(p.pools) + 1)),
            pool_offer=np.argsort(pool, kind="stable"),
            pool_site=r.pool_site,
            pool_kind=pool_kind,
            of_kind=of_kind,
            sign=_signs(len(r.offer_max) + len(p.services)),
            site=self._site(),
        )  # fmt: skip

    def _offer(self) -> Floats:
        r, p = self.model.rows, self.model.problem
        gb = np.array([o.memory_gb for o in p.offers], float)
        anew = np.array([o.start_usd for o in p.offers], float) / r.window_h
        least = np.where(r.offer_fixed, r.offer_max, 0.0)
        columns = [
            r.offer_rate, r.offer_kw_per_rps, r.offer_chips, gb, r.offer_max, least, r.offer_now,
            np.where(r.offer_fixed, 0.0, anew), r.offer_kw,
        ]  # fmt: skip
        return np.stack(columns, 1)

    def _pool(self) -> Floats:
        m, r, p = self.model, self.model.rows, self.model.problem
        _, _, nodes = m.model.column_arrays()
        chips = np.array([k.chips for k in p.pools], float)
        held = np.bincount(
            r.offer_pool, r.offer_chips * np.where(r.offer_fixed, r.offer_max, 0.0), len(p.pools)
        )
        count = np.maximum(np.array([k.chips_count for k in p.pools], float), held)
        columns = [
            nodes[m.k],
            chips,
            np.array([k.memory_gb for k in p.pools], float) * chips,
            count,
            np.array([k.node_on_w - k.node_off_w for k in p.pools], float) / 1000.0,
            np.array([k.nodes * k.node_off_w for k in p.pools], float) / 1000.0,
            np.array([k.nodes_on for k in p.pools], float),
            np.array([k.wake_usd for k in p.pools], float) / r.window_h,
        ]
        return np.stack(columns, 1)

    def _site(self) -> Floats:
        r, p = self.model.rows, self.model.problem
        low = np.array([s.own_kw_low for s in p.sites], float)
        held = np.bincount(r.offer_site, np.where(r.offer_fixed, r.offer_max, 0.0), len(p.sites))
        columns = [
            r.pue,
            r.grid_usd,
            np.array([s.own_kw for s in p.sites], float),
            np.array([s.export_usd_per_kwh for s in p.sites], float),
            np.array([s.grid_kw_max for s in p.sites], float) + low,
            np.full(len(p.sites), p.over_usd_per_kwh),
            np.array([s.peak_kw for s in p.sites], float) + low,
            np.array([s.usd_per_kw_peak for s in p.sites], float),
            np.maximum(np.array([s.engines_max for s in p.sites], float), held),
        ]
        return np.stack(columns, 1)

    def _pairs(self, row_of: Ints) -> tuple[Floats, Floats, Ints]:
        """`usd`, `rough` and where each service's rows x offers begin."""
        m, r = self.model, self.model.rows
        width, height = np.diff(self.offer_first), np.diff(self.row_first)
        first = np.concatenate([[0], np.cumsum(width * height)])
        usd = np.full(int(first[-1]), np.inf)
        rough = usd.copy()
        row, offer = row_of[m.pair_row], self.local_of[m.pair_offer]
        q = r.service[m.pair_row]
        at = first[q] + (row - self.row_first[q]) * width[q] + offer - self.offer_first[q]
        site = r.offer_site[m.pair_offer]
        usd[at] = m.pair_usd
        rough[at] = m.pair_usd + r.pue[site] * r.grid_usd[site] * m.pair_kw
        return usd, rough, first

    def _sets(self, row_of: Ints) -> dict[str, Any]:
        """Sets that must survive, of each service the smaller first, so that a set's parts come before it."""
        covers = sorted(self.model.sets, key=lambda c: (c.service, len(c.rows)))
        service = np.array([c.service for c in covers], np.int64)
        held = [frozenset(c.rows.tolist()) for c in covers]
        parts = [
            np.array(
                [b for b in range(a) if service[b] == service[a] and held[b] <= held[a]], np.int64
            )
            for a in range(len(covers))
        ]
        offer_first, offers = _ragged([self.local_of[c.offers] for c in covers])
        row_first, rows = _ragged([row_of[c.rows] for c in covers])
        part_first, part = _ragged(parts)
        return {
            "set_first": np.searchsorted(service, np.arange(len(self.model.problem.services) + 1)),
            "set_need": np.array([c.need for c in covers], float),
            "set_offer_first": offer_first,
            "set_offer": offers,
            "set_row_first": row_first,
            "set_row": rows,
            "set_part_first": part_first,
            "set_part": part,
        }

    def _kinds(self) -> tuple[Ints, Ints, Ints]:
        """[offer] kind, [pool] kind, [pool, kind] local offer."""
        p, r = self.model.problem, self.model.rows
        # Of what cannot be moved a pool may hold two alike that differ in slots.
        each = [(o.service, o.variant, o.chips, o.slots if o.placed else 0) for o in p.offers]
        names = sorted(set(each))
        index = {name: i for i, name in enumerate(names)}
        kind = np.array([index[name] for name in each], np.int64)
        likes = sorted({(k.accelerator, k.chips, k.nodes) for k in p.pools})
        pool_kind = [likes.index((k.accelerator, k.chips, k.nodes)) for k in p.pools]
        of_kind = np.full((len(p.pools), max(len(names), 1)), -1, np.int64)
        of_kind[r.offer_pool, kind] = self.local_of
        return kind, np.array(pool_kind, np.int64), of_kind

    # --- descents

    def best(
        self, starts: Sequence[Floats], candidates: Bools, enough: Callable[[float], bool]
    ) -> Floats:
        """[offer] replicas that moves come to at least cost, from whatever stands in `starts` and fits, or the first that cost little `enough`."""
        r = self.model.rows
        if not (r.offer_max > np.where(r.offer_fixed, r.offer_max, 0.0)).any():
            return self.fitted(r.offer_max)
        self.fixed.offer_at[:, pc.CANDIDATE] = candidates[self.offers]
        count = int(candidates.sum())
        wanted = max(EVALUATIONS_EACH * count, round(EVALUATIONS_PAIR * count**2))
        each = min(wanted, EVALUATIONS_MAX // len(self.model.problem.sites))
        # Wishes that differ often fit alike.
        begins = {n.tobytes(): n for n in map(self.fitted, starts)}
        best, least = next(iter(begins.values())), INF
        for begin in begins.values():
            n, usd = self.descend(begin, each, opens=False)
            if usd < least:
                best, least = n, usd
            if enough(least):
                return best
        n, _ = self.descend(best, OPENED_TIMES * each, opens=True)
        return n

    def descend(self, n: Floats, evaluations_max: int, *, opens: bool) -> tuple[Floats, float]:
        state = self.state(n)
        state.spent[1] = evaluations_max
        usd = float(descend(self.fixed, state, opens))
        found = np.empty(len(n))
        found[self.offers] = state.n
        return found, usd

    def state(self, given: Floats) -> pc.State:
        """The placement `given` [offer], nothing known of it yet."""
        n = given[self.offers].astype(float)
        f = self.fixed
        offers, rows, sites = len(f.offer), len(f.row), len(f.site)
        services, pools = len(f.offer_first) - 1, len(f.pool)
        pool, site = f.offer_at[:, pc.POOL], f.offer_at[:, pc.SITE]
        used = [f.offer[:, k] for k in (pc.CHIPS, pc.GB, pc.LOADED_KW)]
        made = pc.State(
            n=n.copy(),
            pool_used=np.stack([np.bincount(pool, n * u, pools) for u in used], 1).astype(float),
            engines=np.bincount(site, n, sites).astype(float),
            pool_on=np.zeros(pools),
            pool_kw=np.zeros(pools),
            service=np.zeros((services, 4)),
            flow_kw=np.zeros((services, sites, 2)),
            kw=np.zeros((sites, 2)),
            tried=np.zeros((services, 4)),
            tried_kw=np.zeros((services, sites, 2)),
            touched=np.zeros(services, np.int64),
            stand=np.zeros(offers, np.int64),
            load=np.zeros(offers),
            room=np.zeros(offers),
            ways=np.zeros(self.most_ways),
            order=np.zeros(rows, np.int64),
            regret=np.zeros(rows),
            away=np.zeros(rows),
            lacking=np.zeros(len(f.set_need)),
            at_site=np.zeros(sites),
            base_kw=np.zeros((sites, 2)),
            best=n.copy(),
            here=n.copy(),
            root=n.copy(),
            next=n.copy(),
            walked=np.zeros(WALK + 1),
            known=np.zeros((offers, self.most_places), np.int64),
            held=np.zeros(offers, np.int64),
            was=np.zeros(services),
            near=np.zeros(services + pools, np.int64),
            done=np.zeros(services, np.int64),
            spent=np.zeros(3, np.int64),
            mark=self._mark(n),
            seen=self.seen,
            routed=self.routed,
        )
        for p in range(pools):
            pc.draw(f, made, p)
        return made

    def _mark(self, n: Floats) -> Ints:
        """[service]; no service's begins like another's."""
        mark = self.fixed.sign[len(n) :].copy()
        np.add.at(
            mark, self.fixed.offer_at[:, pc.SERVICE], n.astype(np.int64) * self.fixed.sign[: len(n)]
        )
        return mark

    def fitted(self, wanted: Floats) -> Floats:
        """[offer] whole replicas near what is wanted, most wanted first, as many as fit."""
        r, f = self.model.rows, self.fixed
        n = np.where(r.offer_fixed, r.offer_max, 0.0)
        state = self.state(n)
        for o in np.argsort(-wanted, kind="stable").tolist():
            j = int(self.local_of[o])
            for _ in range(round(float(wanted[o] - n[o]))):
                pool = r.offer_pool[o]
                pc.change(f, state, j, 1.0)
                over = state.engines[r.offer_site[o]] > f.site[r.offer_site[o], pc.ENGINES]
                if over or not np.isfinite(pc.nodes(f, state, pool)) or n[o] >= r.offer_max[o]:
                    pc.change(f, state, j, -1.0)
                    break
                n[o] += 1.0
        return np.asarray(n)


def candidates(model: PlaceModel, n: Floats, reduced: Floats) -> Bools:
    """[offer] that may get replicas: where they are many, what a relaxed program uses or nearly uses, and what runs."""
    could = model.rows.offer_max > 0.0
    if int(could.sum()) <= CANDIDATES_MIN:
        return np.asarray(could)
    used = (n > 1e-6) | (model.rows.offer_now > 0.0)
    most = max(CANDIDATES_MIN, CANDIDATES_EACH * int(used.sum()))
    rank = np.where(could, np.where(used, -INF, reduced), INF)
    chosen = np.zeros(len(n), bool)
    chosen[np.argsort(rank, kind="stable")[:most]] = True
    return np.asarray(chosen & could)


def _ragged(parts: list[Ints]) -> tuple[Ints, Ints]:
    """Where each begins, and all one after the other."""
    first = np.concatenate([[0], np.cumsum([len(a) for a in parts])]).astype(np.int64)
    joined = np.concatenate(parts) if parts else np.zeros(0)
    return first, joined.astype(np.int64)


def _places(group: Ints) -> Ints:
    """[entry] how many of its group come before it."""
    order = np.argsort(group, kind="stable")
    first = np.searchsorted(group[order], group[order])
    places = np.empty_like(order)
    places[order] = np.arange(len(group)) - first
    return places


def _signs(count: int) -> Ints:
    """Numbers of 64 bits that look drawn (splitmix64; Steele, Lea, Flood, OOPSLA 2014), the same everywhere."""
    z = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (z ^ (z >> np.uint64(31))).view(np.int64)

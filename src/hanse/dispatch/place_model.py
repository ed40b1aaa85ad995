"""Rows and columns of the placement program, in named blocks: one function a family of constraints, its equation above it.

Here: `PlaceModel`. Not here: demand as arrays (`place_rows`), which rows and columns are added while solving (`place_search`),
HiGHS (`milp`).

Symbols. Row d of demand asks a_d requests/s at most and m_d on average, in the service's mean requests; offer o serves r_o of them a
replica, at site s(o) in pool p(o). Columns: x_do share of d that o serves; u_d share that nobody does; n_o replicas, b_o of them
loaded anew; k_p nodes on, w_p of them woken; g_s, f_s, e_s kW from the grid, of own power, and above the supply; h_s kW at the meter
with all demand high, y_s of them above the month's peak; s_k requests/s
of a kind of demand (service, law, need of quality) that some failure leaves without a replica; M_c the most that any failure takes of what a set c of rows may use.

    min  sum of USD/h: energy and carbon (g_s), own power at what it would earn (f_s), egress, waiting and lateness (x_do), loading
         (b_o) and waking (w_p) spread over the window, and prices of what is not met (u_d, s_k, e_s)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np

from hanse.dispatch.place_rows import Rows
from hanse.milp import INF, Bools, Floats, Ints, Model
from hanse.units import SECONDS_PER_HOUR

PAIRS_ALL_MAX: Final = 4_000
"""Up to here every pair of row and offer is a column from the start; beyond, those near, and others as prices call for them."""
PAIRS_EACH: Final = 24
"""Of a row, to begin with where there are more."""
PAIRS_LARGE: Final = 12
LARGE_POOL: Final = 8
"""And so many in pools for so many replicas: near small sites are full when all look at them."""


ShortKinds = tuple[int, tuple[tuple[int, float], ...]]
"""A service, and kinds of its demand (law, quality)."""


class Cover(NamedTuple):
    """Rows of one service that must survive together, and what they may use."""

    service: int
    offers: Ints
    rows: Ints
    need: float
    """Requests/s of the rows, kept."""


class PlaceModel:
    """The program of one problem. Attributes are indices of columns and rows by what they stand for."""

    def __init__(
        self,
        rows: Rows,
        *,
        all_pairs: bool | None = None,
        extra: Sequence[ShortKinds] = (),
    ) -> None:
        self.rows = rows
        self.extra = extra
        """Demand that was found short together."""
        self.problem = rows.problem
        self.model = Model()
        self._candidates()
        self._columns(all_pairs)
        for block in (
            self._serve, self._room, self._nodes, self._memory, self._engines, self._energy,
            self._cap, self._starts, self._cover, self._count,
        ):  # fmt: skip
            block()

    # --- pairs

    def _candidates(self) -> None:
        """All lawful (row, offer) pairs, with costs and what they take; most are left out of large programs at first."""
        r = self.rows
        parts: list[tuple[Ints, Ints, Floats, Floats, Floats]] = []
        for q in range(len(self.problem.services)):
            rows, offers, may, usd, late, egress = r.pairs(q)
            i, j = np.nonzero(may)
            parts.append((rows[i], offers[j], usd[i, j], late[i, j], egress[i, j]))
        joined = [np.concatenate(a) if parts else np.zeros(0) for a in zip(*parts, strict=True)]
        if not joined:
            joined = [np.zeros(0)] * 5
        self.pair_row, self.pair_offer = joined[0].astype(np.int64), joined[1].astype(np.int64)
        self.pair_usd, self.pair_late, self.pair_egress = joined[2], joined[3], joined[4]
        self.lost_usd = float(r.unserved_usd[~r.servable].sum())
        """USD/h of rows that no offer may serve."""
        rate = r.offer_rate[self.pair_offer]
        self.pair_use = r.high[self.pair_row] / rate
        """Replicas that a whole row takes."""
        each_kw = r.offer_kw_per_rps[self.pair_offer]
        self.pair_kw = r.mean[self.pair_row] * each_kw
        self.pair_kw_high = r.high[self.pair_row] * each_kw

    def _near(self) -> Bools:
        """[pair] to begin with: of each row the cheapest, energy and a replica's waiting included."""
        r = self.rows
        site = r.offer_site[self.pair_offer]
        power = r.pue[site] * r.grid_usd[site]
        rough = self.pair_usd + power * (self.pair_kw + self.pair_use * r.offer_kw[self.pair_offer])
        small = r.offer_max[self.pair_offer] < LARGE_POOL
        return np.asarray(
            self._first(rough, PAIRS_EACH) | self._first(rough + 1e12 * small, PAIRS_LARGE)
        )

    def _first(self, cost: Floats, count: int) -> Bools:
        """[pair] the cheapest `count` of each row."""
        order = np.lexsort((cost, self.pair_row))
        first = np.searchsorted(self.pair_row[order], np.arange(len(self.rows.service)))
        keep = np.zeros(len(order), bool)
        keep[order] = np.arange(len(order)) - first[self.pair_row[order]] < count
        return keep

    def _columns(self, all_pairs: bool | None) -> None:
        r, p, m = self.rows, self.problem, self.model
        everything = len(self.pair_row) <= PAIRS_ALL_MAX if all_pairs is None else all_pairs
        self.taken = np.ones(len(self.pair_row), bool) if everything else self._near()
        """[pair] is a column."""
        now = np.flatnonzero(self.taken)
        self.pair_column = np.full(len(self.pair_row), -1, np.int64)
        self.pair_column[now] = m.add_columns("share", self.pair_usd[now])
        self.u = m.add_columns("unserved", r.unserved_usd, upper=1.0)
        self.elsewhere = m.add_columns("elsewhere", np.zeros(self.u.shape), upper=0.0)
        """[row] stands for pairs left out while a bound is proven: their way's cost and nothing else; shut until then."""
        fresh = np.array([o.start_usd for o in p.offers], float) / r.window_h
        runs = r.offer_now > 0.0
        self.n = m.add_columns(
            "replicas",
            np.where(runs, 0.0, fresh),
            lower=np.where(r.offer_fixed, r.offer_max, 0.0),
            upper=r.offer_max,
            integer=True,
        )
        self.b_offer = np.flatnonzero(runs & ~r.offer_fixed & (r.offer_max > 0.0))
        self.b = m.add_columns("loaded", fresh[self.b_offer])
        nodes = np.array([pool.nodes for pool in p.pools], float)
        hosts = np.array([s.hosts for s in p.sites], bool)
        nodes = np.where(hosts[r.pool_site], nodes, 0.0) if p.pools else nodes
        # What runs by itself is there, however many chips the file says.
        nodes = np.maximum(nodes, self.nodes_for(np.where(r.offer_fixed, r.offer_max, 0.0)))
        self.nodes_most = nodes
        """[pool]"""
        self.k = m.add_columns("nodes", np.zeros(len(nodes)), upper=nodes, integer=True)
        wake = np.array([pool.wake_usd for pool in p.pools], float) / r.window_h
        self.w = m.add_columns("woken", wake)
        self.g = m.add_columns("grid", r.grid_usd)
        export = np.array([s.export_usd_per_kwh for s in p.sites], float)
        self.f = m.add_columns("own", export, upper=np.array([s.own_kw for s in p.sites], float))
        self.e = m.add_columns("over", np.full(len(p.sites), p.over_usd_per_kwh))
        self.h = m.add_columns("high", np.zeros(len(p.sites)))
        self.y = m.add_columns("peak", np.array([s.usd_per_kw_peak for s in p.sites], float))
        self._kinds()
        price = np.array([q.uncovered_usd_per_request for q in p.services], float)
        self.s = m.add_columns("uncovered", price[self.kind_service] * SECONDS_PER_HOUR)

    def _kinds(self) -> None:
        """Kinds of demand: rows of one service that any law and need of quality makes alike."""
        r = self.rows
        keys = np.stack([r.service.astype(float), r.law.astype(float), r.quality], 1)
        found, kind = np.unique(keys, axis=0, return_inverse=True)
        self.kind_of = kind.ravel()
        """[row]"""
        self.kind_service, self.kind_law = (
            found[:, 0].astype(np.int64),
            found[:, 1].astype(np.int64),
        )
        self.kind_quality = found[:, 2]
        self.kind_kept = np.bincount(self.kind_of, r.kept, len(found)).astype(float)

    def failures(self) -> tuple[Ints, Ints]:
        """Where each failure's sites begin, and the sites of all, one after the other."""
        sites = [list(f.sites) for f in self.problem.failures]
        first = np.concatenate([[0], np.cumsum([len(s) for s in sites])]).astype(np.int64)
        return first, np.array([i for s in sites for i in s], np.int64)

    def nodes_for(self, n: Floats) -> Floats:
        """[pool] nodes that so many replicas [offer] take."""
        r, p = self.rows, self.problem
        chips = np.bincount(r.offer_pool, r.offer_chips * n, len(p.pools))
        each = np.array([o.memory_gb for o in p.offers], float) * n
        memory = np.bincount(r.offer_pool, each, len(p.pools))
        node_chips = np.array([pool.chips for pool in p.pools], float)
        node_gb = np.array([pool.memory_gb for pool in p.pools], float) * node_chips
        found = np.ceil(chips / node_chips - 1e-9)
        held = np.ceil(memory / np.maximum(node_gb, 1e-12) - 1e-9)
        return np.asarray(np.maximum(found, np.where(node_gb > 0.0, held, 0.0)))

    # --- blocks

    def _serve(self) -> None:
        """sum_o x_do + u_d = 1: all demand is served at a lawful site, or named."""
        m = self.model
        self.serve = m.add_rows("serve", 1.0, 1.0, self.u.shape)
        now = np.flatnonzero(self.taken)
        m.put(self.serve[self.pair_row[now]], self.pair_column[now], 1.0)
        m.put(self.serve, self.u, 1.0)
        m.put(self.serve, self.elsewhere, 1.0)

    def _room(self) -> None:
        """sum_d a_d / r_o x_do <= n_o: replicas enough that requests seldom wait (`serving.within_slo`)."""
        m = self.model
        self.room = m.add_rows("room", -INF, 0.0, self.n.shape)
        now = np.flatnonzero(self.taken)
        m.put(self.room[self.pair_offer[now]], self.pair_column[now], self.pair_use[now])
        m.put(self.room, self.n, -1.0)

    def _nodes(self) -> None:
        """sum_o chips_o n_o <= chips_p k_p, and <= all chips of p: replicas stand on nodes that are on.

        A replica takes an equal share of a node (`room_chips`), or a node is alone, so that what fits in sum fits (`place_check` packs them).
        """
        m, r, pools = self.model, self.rows, self.problem.pools
        chips = np.array([pool.chips for pool in pools], float)
        count = np.array([pool.chips_count for pool in pools], float)
        on = m.add_rows("nodes on", -INF, 0.0, self.k.shape)
        m.put(on[r.offer_pool], self.n, r.offer_chips)
        m.put(on, self.k, -chips)
        short = np.flatnonzero(count < chips * np.array([pool.nodes for pool in pools], float))
        fixed = np.where(r.offer_fixed, r.offer_max, 0.0)
        count = np.maximum(count, np.bincount(r.offer_pool, r.offer_chips * fixed, len(pools)))
        held = m.add_rows("chips", -INF, count[short], short.shape)
        place = np.full(len(pools), -1, np.int64)
        place[short] = held
        mine = np.flatnonzero(place[r.offer_pool] >= 0) if len(pools) else short
        m.put(place[r.offer_pool[mine]], self.n[mine], r.offer_chips[mine])

    def _memory(self) -> None:
        """sum_o memory_o n_o <= memory of the nodes on: where chips do not say it already."""
        m, r, p = self.model, self.rows, self.problem
        each = np.array([o.memory_gb for o in p.offers], float)
        chip_gb = np.array([pool.memory_gb for pool in p.pools], float)
        tight = each > chip_gb[r.offer_pool] * r.offer_chips + 1e-9 if p.offers else each > 0.0
        tight &= chip_gb[r.offer_pool] > 0.0 if p.offers else tight
        pools = np.unique(r.offer_pool[tight])
        rows = m.add_rows("memory", -INF, 0.0, pools.shape)
        place = np.full(len(p.pools), -1, np.int64)
        place[pools] = rows
        mine = np.flatnonzero(place[r.offer_pool] >= 0) if len(p.pools) else pools
        m.put(place[r.offer_pool[mine]], self.n[mine], each[mine])
        node_gb = np.array([p.pools[i].memory_gb * p.pools[i].chips for i in pools], float)
        m.put(rows, self.k[pools], -node_gb)

    def _engines(self) -> None:
        """sum over a site of n_o <= what its agent can watch."""
        m, r, p = self.model, self.rows, self.problem
        most = np.array([s.engines_max for s in p.sites], float)
        fixed = np.where(r.offer_fixed, r.offer_max, 0.0)
        most = np.maximum(most, np.bincount(r.offer_site, fixed, len(p.sites)))
        rows = m.add_rows("engines", -INF, most, most.shape)
        m.put(rows[r.offer_site], self.n, 1.0)

    def _power(self, name: str, pair_kw: Floats, sign: float, lower: Floats, upper: Floats) -> Ints:
        """A row a site of `sign` times its IT power at the meter: nodes on, replicas loaded, requests."""
        m, r, p = self.model, self.rows, self.problem
        rows = m.add_rows(name, lower, upper, (len(p.sites),))
        now = np.flatnonzero(self.taken)
        # Several offers of one site are several columns, so no place is filled twice.
        site = r.offer_site[self.pair_offer[now]]
        m.put(rows[site], self.pair_column[now], sign * r.pue[site] * pair_kw[now])
        m.put(rows[r.offer_site], self.n, sign * r.pue[r.offer_site] * r.offer_kw)
        on_kw = np.array([(pool.node_on_w - pool.node_off_w) / 1000.0 for pool in p.pools], float)
        m.put(rows[r.pool_site], self.k, sign * r.pue[r.pool_site] * on_kw)
        return rows

    def off_kw(self) -> Floats:
        """[site] at the meter with every node off."""
        r, p = self.rows, self.problem
        off = np.array([pool.nodes * pool.node_off_w / 1000.0 for pool in p.pools], float)
        at = np.bincount(r.pool_site, off, len(p.sites)) if len(off) else np.zeros(len(p.sites))
        return np.asarray(r.pue * at)

    def _energy(self) -> None:
        """g_s + f_s >= PUE_s (nodes off and on, replicas loaded, mean demand): own power first where it is cheaper, then the grid."""
        self.energy = self._power(
            "energy", self.pair_kw, -1.0, self.off_kw(), np.full(len(self.problem.sites), INF)
        )
        self.model.put(self.energy, self.g, 1.0)
        self.model.put(self.energy, self.f, 1.0)

    def _cap(self) -> None:
        """PUE_s (... high demand) <= h_s; h_s - e_s <= grid_kw_max_s + own power's least: the supply, or a priced excess;
        h_s - y_s <= the month's peak + own power's least: what an electricity bill levies on top.
        """
        m, sites = self.model, self.problem.sites
        low = np.full(len(sites), -INF)
        self.cap = self._power("cap", self.pair_kw_high, 1.0, low, -self.off_kw())
        m.put(self.cap, self.h, -1.0)
        own = np.array([s.own_kw_low for s in sites], float)
        supply = m.add_rows(
            "supply", -INF, np.array([s.grid_kw_max for s in sites]) + own, own.shape
        )
        m.put(supply, self.h, 1.0)
        m.put(supply, self.e, -1.0)
        levied = np.flatnonzero([s.usd_per_kw_peak > 0.0 for s in sites])
        known = np.array([s.peak_kw for s in sites], float) + own
        peak = m.add_rows("peak", -INF, known[levied], levied.shape)
        m.put(peak, self.h[levied], 1.0)
        m.put(peak, self.y[levied], -1.0)

    def _starts(self) -> None:
        """b_o >= n_o - now_o; w_p >= k_p - on_p: what is loaded or woken is paid once."""
        m, p = self.model, self.problem
        rows = m.add_rows("loaded", -INF, self.rows.offer_now[self.b_offer], self.b.shape)
        m.put(rows, self.n[self.b_offer], 1.0)
        m.put(rows, self.b, -1.0)
        on = np.array([pool.nodes_on for pool in p.pools], float)
        woken = m.add_rows("woken", -INF, on, self.w.shape)
        m.put(woken, self.k, 1.0)
        m.put(woken, self.w, -1.0)

    def covers(self) -> list[Cover]:
        """Sets of rows to survive: each law and need of quality of a service, and each service whole."""
        r = self.rows
        found: dict[tuple[int, bytes], Cover] = {}
        for q in range(len(self.problem.services)):
            rows = np.flatnonzero((r.service == q) & (r.kept > 0.0))
            offers = np.flatnonzero((r.offer_service == q) & (r.offer_max > 0.0))
            if not len(rows) or not len(offers):
                continue
            # Rows of one law and quality may use the same.
            _, first, of = np.unique(self.kind_of[rows], return_index=True, return_inverse=True)
            each = self.usable(rows[first], offers)
            kinds, kind = np.unique(each, axis=0, return_inverse=True)
            may, kind = each[of], kind.ravel()[of]
            sets = [kind == i for i in range(len(kinds))]
            # What may use no more than another set may counts for it, too.
            within = [(kinds <= kinds[i]).all(axis=1)[kind] for i in range(len(kinds))]
            named = [
                np.array([(int(r.law[i]), float(r.quality[i])) in set(kinds_short) for i in rows])
                for service, kinds_short in self.extra
                if service == q
            ]
            for chosen in (*sets, *within, *named, np.ones(len(rows), bool)):
                used = offers[may[chosen].any(axis=0)]
                if not len(used) or not self.failing[r.offer_site[used]].any():
                    continue  # nobody serves it, or nothing takes any of it
                held = rows[chosen & may.any(axis=1)]
                need = float(r.kept[held].sum())
                key = q, used.tobytes()
                if key not in found or found[key].need < need:
                    found[key] = Cover(q, used, held, need)
        return list(found.values())

    def has_set(self, service: int, kinds: tuple[tuple[int, float], ...]) -> bool:
        """Whether just these kinds of a service's demand are one of the sets, or mean no other offers than one with more of them."""
        r = self.rows
        rows = np.array(
            [
                i
                for i in np.flatnonzero((r.service == service) & (r.kept > 0.0)).tolist()
                if (int(r.law[i]), float(r.quality[i])) in kinds
            ],
            np.int64,
        )
        offers = np.flatnonzero((r.offer_service == service) & (r.offer_max > 0.0))
        used = offers[self.usable(rows, offers).any(axis=0)]
        return any(
            c.service == service and np.array_equal(c.offers, used) and np.isin(rows, c.rows).all()
            for c in self.sets
        )

    def usable(self, rows: Ints, offers: Ints) -> Bools:
        """[row, offer] lawful and good enough, whatever the way."""
        r = self.rows
        may = r.lawful[r.law[rows]][:, r.offer_site[offers]]
        return np.asarray(
            may & (r.offer_quality[offers][None, :] >= r.quality[rows][:, None] - 1e-9)
        )

    def _cover(self) -> None:
        """After each failure f all that is kept but s_k of each kind k finds room in what is left, which is so (Gale, Pacific J. Math. 7,
        1957) exactly when for every set c of kinds of a service

        `hold`  sum_o h_co n_o - M_c + sum_(k in c) s_k >= sum_(d in c) kept_d (1 - u_d);   `loss`  M_c >= sum_(o in f) h_co n_o;
        `whole` s_k + sum_(d in k) kept_d u_d <= sum_(d in k) kept_d

        with h_co = min(r_o, sum_(d in c) kept_d): a replica that would hold more than all of a set counts for all of it, whole or not at all
        (coefficients reduced, Savelsbergh, ORSA J. Computing 6, 1994). With r_o itself hundredths of a replica would do.
        """
        m, r, p = self.model, self.rows, self.problem
        self.failing = np.zeros(len(p.sites), np.int64)
        for failure in p.failures:
            self.failing[list(failure.sites)] += 1
        self.sets = self.covers()
        self.most = m.add_columns("most", np.zeros(len(self.sets)), lower=-INF)
        hold = m.add_rows(
            "hold", np.array([c.need for c in self.sets], float), INF, (len(self.sets),)
        )
        gone = np.zeros((len(p.failures), len(p.sites)), bool)
        for f, group in enumerate(p.failures):
            gone[f, list(group.sites)] = True
        self.losses: list[tuple[int, int, Ints]] = []
        """(set, failure, offers it takes): rows of `loss`, which come in where they are broken (`place_search`)."""
        for c, cover in enumerate(self.sets):
            m.put(hold[c], self.n[cover.offers], self.holds(c, cover.offers))
            m.put(hold[c], self.u[cover.rows], r.kept[cover.rows])
            m.put(hold[c], self.s[np.unique(self.kind_of[cover.rows])], 1.0)
            hit = gone[:, r.offer_site[cover.offers]]
            self.losses += [
                (c, f, cover.offers[hit[f]]) for f in np.flatnonzero(hit.any(axis=1)).tolist()
            ]
        m.put(hold, self.most, -1.0)
        whole = m.add_rows("whole", -INF, self.kind_kept, self.kind_kept.shape)
        m.put(whole, self.s, 1.0)
        m.put(whole[self.kind_of], self.u, r.kept)
        self.loss_known = np.zeros(len(self.losses), bool)
        self.loss_set = np.array([c for c, _, _ in self.losses], np.int64)
        lost = [o for _, _, o in self.losses]
        self.loss_offer = np.concatenate(lost) if lost else np.zeros(0, np.int64)
        held = [self.holds(c, o) for c, _, o in self.losses]
        self.loss_rate = np.concatenate(held) if held else np.zeros(0)
        self.loss_of = np.repeat(np.arange(len(lost)), [len(o) for o in lost])
        """[entry] the loss that an offer of `loss_offer` belongs to."""

    def holds(self, c: int, offers: Ints) -> Floats:
        """[offer] requests/s of a set that one replica holds."""
        return np.asarray(np.minimum(self.rows.offer_rate[offers], self.sets[c].need))

    def losses_of(self, offers: Bools) -> Ints:
        """Losses, not yet rows, that take any of some offers [offer]."""
        touched = np.zeros(len(self.losses), bool)
        touched[self.loss_of[offers[self.loss_offer]]] = True
        return np.flatnonzero(touched & ~self.loss_known)

    def broken_losses(self, values: Floats) -> Ints:
        """Losses that a solution makes too little of, the worst of each set first."""
        if not self.losses:
            return np.zeros(0, np.int64)
        taken = self.loss_rate * values[self.n[self.loss_offer]]
        loss = np.bincount(self.loss_of, taken, len(self.losses))
        need = np.array([c.need for c in self.sets], float)[self.loss_set]
        broken = loss - values[self.most[self.loss_set]]
        broken = np.where(self.loss_known, 0.0, broken)
        # Where nothing stands nothing is lost: such a row can wait.
        return np.flatnonzero((broken > 1e-6 * need + 1e-9) & (loss > 1e-6 * need))

    def _count(self) -> None:
        """sum_o n_o + (sum_k s_k + sum_d kept_d u_d) / rest >= fewest: whole replicas, one more where any of them may fail.

        With r the largest rate of the set, fewest = ceil(demand / r) and rest = demand - (fewest - 1) r: the rounding cut of
        Gomory (Nemhauser and Wolsey, Integer and Combinatorial Optimization, 1988, II.1.7). After a failure that takes one replica
        at least, `fewest` are still to stand.
        """
        m, r = self.model, self.rows
        self.fewest: dict[int, float] = {}
        """By service that has a row `fewest`: its `rest`."""
        for c, cover in enumerate(self.sets):
            if cover.need > 1e-9:
                more = self._all_fail(cover)
                self._fewest(f"count {c}", cover.offers, cover.need, more)
                row = m.rows[f"count {c}"]
                rest = self._rest(cover.offers, cover.need)
                kinds = np.unique(self.kind_of[cover.rows])
                m.put(row, self.s[kinds], (1.0 + more) / rest)
                # Of what nobody serves nothing need stand, neither the fewest nor the one more.
                m.put(row, self.u[cover.rows], (1.0 + more) * r.kept[cover.rows] / rest)
        for q in range(len(self.problem.services)):
            rows = np.flatnonzero((r.service == q) & (r.high > 0.0))
            offers = np.flatnonzero((r.offer_service == q) & (r.offer_max > 0.0))
            if len(rows) and len(offers) and self.usable(rows, offers).any(axis=1).all():
                need = float(r.high[rows].sum())
                self._fewest(f"fewest {q}", offers, need, 0)
                self.fewest[q] = rest = self._rest(offers, need)
                m.put(m.rows[f"fewest {q}"], self.u[rows], r.high[rows] / rest)

    def _fewest(self, name: str, offers: Ints, need: float, more: int) -> None:
        most = float(self.rows.offer_rate[offers].max())
        row = self.model.add_rows(name, np.ceil(need / most - 1e-9) + more, INF, ())
        self.model.put(row, self.n[offers], 1.0)

    def _rest(self, offers: Ints, need: float) -> float:
        most = float(self.rows.offer_rate[offers].max())
        return max(float(need - (np.ceil(need / most - 1e-9) - 1.0) * most), 1e-9)

    def _all_fail(self, cover: Cover) -> int:
        """1 where any replica of the set may fail, and not all by one failure alone."""
        sites = np.unique(self.rows.offer_site[cover.offers])
        touching = sum(bool(set(f.sites) & set(sites.tolist())) for f in self.problem.failures)
        return int(bool((self.failing[sites] > 0).all()) and touching > 1)

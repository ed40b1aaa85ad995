"""From the columns of a solved program to an answer: placements, flows, cost by item, and what is violated with its cure.

Here: `answer_of`. Not here: searching (`place_search`), judging somebody's answer (`place_check`).
"""

from __future__ import annotations

from typing import Final

import numpy as np

from hanse.dispatch.place_cures import violations
from hanse.dispatch.place_model import PlaceModel, ShortKinds
from hanse.dispatch.place_search import Found
from hanse.dispatch.place_survival import Short, shortfalls
from hanse.dispatch.place_values import (
    CostItems,
    Flow,
    PlaceAnswer,
    PlacedPool,
    PlacedReplicas,
)
from hanse.milp import Floats, Ints
from hanse.model.fleet import Placement
from hanse.units import SECONDS_PER_HOUR

SHARE_MIN: Final = 1e-7
"""Smaller shares are the solver's tolerance."""


class Plan:
    """A placement in whole numbers with what follows from it.

    Attributes:
        n, k: [offer] replicas, [pool] nodes on.
        x, u: [pair] and [row] shares, which add up to 1 for each row.
        kw, kw_high: [site] at the meter, expected and with all demand high.
        short: [kind] requests/s that some failure leaves without a replica.
    """

    def __init__(self, model: PlaceModel, found: Found) -> None:
        self.model = model
        r, p = model.rows, model.problem
        self.n = np.rint(found.values[model.n]).astype(np.int64)
        self.k = np.rint(found.values[model.k]).astype(np.int64)
        x = np.where(found.pairs > SHARE_MIN, found.pairs, 0.0)
        u = np.where(found.values[model.u] > SHARE_MIN, found.values[model.u], 0.0)
        whole = u + np.bincount(model.pair_row, x, len(u)) if len(x) else u
        self.x = x / whole[model.pair_row] if len(x) else x
        self.u = u / whole
        self.kw = self._kw(model.pair_kw)
        self.kw_high = self._kw(model.pair_kw_high)
        own = np.array([s.own_kw for s in p.sites], float)
        export = np.array([s.export_usd_per_kwh for s in p.sites], float)
        self.own_kw = np.where(export <= r.grid_usd, np.minimum(own, self.kw), 0.0)
        supply = np.array([s.grid_kw_max + s.own_kw_low for s in p.sites], float)
        self.over_kw = np.maximum(self.kw_high - supply, 0.0)
        self.over_kw[self.over_kw < 1e-6 * np.maximum(supply, 1.0)] = 0.0
        self.shortfalls = self._shortfalls()
        self.short = self._short(found.values[model.s])
        load = r.mean[model.pair_row] / r.offer_rate[model.pair_offer] * self.x
        self.load = np.bincount(model.pair_offer, load, len(self.n)) if len(load) else self.n * 0.0
        """[offer] replicas that expected demand keeps at their rate."""

    def _kw(self, pair_kw: Floats) -> Floats:
        m, r, p = self.model, self.model.rows, self.model.problem
        on = np.array([(q.node_on_w - q.node_off_w) / 1000.0 for q in p.pools], float)
        kw = np.zeros(len(p.sites))
        np.add.at(kw, r.pool_site, on * self.k)
        np.add.at(kw, r.offer_site, r.offer_kw * self.n)
        np.add.at(kw, r.offer_site[m.pair_offer], pair_kw * self.x)
        return np.asarray(r.pue * kw + m.off_kw())

    def _short(self, said: Floats) -> Floats:
        """What the program says, and more where a failure leaves more: the answer is not to look better than it is."""
        m = self.model
        short = np.where(said > 1e-6 * np.maximum(m.kind_kept, 1e-3), said, 0.0)
        if not self.shortfalls:
            return short * 0.0
        for one in self.shortfalls:
            mine = self.kinds_of(one)
            missing = one.per_s - float(short[mine].sum())
            if missing > 1e-6 * max(one.per_s, 1e-3) and len(mine):
                short[mine[0]] += missing
        return short

    def kinds_of(self, one: Short) -> Ints:
        m = self.model
        found = np.zeros(len(m.kind_kept), bool)
        for law, quality in one.kinds:
            found |= (m.kind_law == law) & (m.kind_quality == quality)
        return np.flatnonzero(found & (m.kind_service == one.service))

    def _shortfalls(self) -> list[Short]:
        r = self.model.rows
        served = 1.0 - self.u
        share = {d: float(served[row]) for d, row in enumerate(r.member.tolist()) if row >= 0}
        counts = {int(i): int(self.n[i]) for i in np.flatnonzero(self.n > 0)}
        return shortfalls(self.model.problem, counts, share)

    def starts(self) -> Ints:
        """[offer] replicas to load."""
        now = self.model.rows.offer_now.astype(np.int64)
        fixed = self.model.rows.offer_fixed
        return np.where(fixed, 0, np.maximum(self.n - now, 0))

    def cost(self) -> CostItems:
        """By item, from the plan alone: equal to the program's value but for rounding."""
        m, r, p = self.model, self.model.rows, self.model.problem
        grid = self.kw - self.own_kw
        price = np.array([s.price_usd_per_kwh for s in p.sites], float)
        carbon = np.array([s.carbon_g_per_kwh for s in p.sites], float)
        export = np.array([s.export_usd_per_kwh for s in p.sites], float)
        fresh = np.array([o.start_usd for o in p.offers], float)
        wake = np.array([q.wake_usd for q in p.pools], float)
        levy = np.array([s.usd_per_kw_peak for s in p.sites], float)
        known = np.array([s.peak_kw + s.own_kw_low for s in p.sites], float)
        woken = np.maximum(self.k - np.array([q.nodes_on for q in p.pools], float), 0.0)
        bare = np.array([q.uncovered_usd_per_request for q in p.services], float)
        late = float((m.pair_late * self.x).sum())
        egress = float((m.pair_egress * self.x).sum())
        return CostItems(
            energy_usd=float((grid * price + self.own_kw * export).sum()),
            demand_usd=float((levy * np.maximum(self.kw_high - known, 0.0)).sum()),
            carbon_usd=float((grid * carbon).sum()) * p.usd_per_g,
            egress_usd=egress,
            waiting_usd=float((m.pair_usd * self.x).sum()) - late - egress,
            switching_usd=float((self.starts() * fresh).sum() + (woken * wake).sum()) / r.window_h,
            late_usd=late,
            unserved_usd=float((r.unserved_usd * self.u).sum()),
            uncovered_usd=float((bare[m.kind_service] * self.short).sum()) * SECONDS_PER_HOUR,
            over_usd=float(self.over_kw.sum()) * p.over_usd_per_kwh,
        )

    def g_per_h(self) -> float:
        """Of the grid's power."""
        carbon = np.array([s.carbon_g_per_kwh for s in self.model.problem.sites], float)
        return float(((self.kw - self.own_kw) * carbon).sum())


def overlooked(plan: Plan, found: Found) -> list[ShortKinds]:
    """Services and kinds of demand that a failure leaves short by more than the program knew, for it had no such set."""
    said = found.values[plan.model.s]
    return list(
        dict.fromkeys(
            (s.service, s.kinds)
            for s in plan.shortfalls
            if s.per_s > float(said[plan.kinds_of(s)].sum()) * (1.0 + 1e-3) + 1e-4
            and not plan.model.has_set(s.service, s.kinds)
        )
    )


def answer_of(plan: Plan, found: Found) -> PlaceAnswer:
    """The answer that a solved program stands for."""
    model = plan.model
    cost = plan.cost()
    bound = float(min(found.bound, cost.usd))
    return PlaceAnswer(
        problem=model.problem.digest(),
        placements=(*_placements(plan), *model.problem.kept),
        replicas=_replicas(plan),
        pools=tuple(
            PlacedPool(pool=i, on=int(k), off=model.problem.pools[i].nodes - int(k))
            for i, k in enumerate(plan.k)
        ),
        flows=_flows(plan),
        cost=cost,
        g_per_h=plan.g_per_h(),
        bound_usd=bound,
        gap=(cost.usd - bound) / cost.usd if cost.usd > 0.0 else 0.0,
        stopped_by=found.stopped_by,
        nodes=found.nodes,
        clusters=len(model.rows.service),
        violated=violations(plan),
    )


def _placements(plan: Plan) -> tuple[Placement, ...]:
    p = plan.model.problem
    found = []
    for i in np.flatnonzero(plan.n > 0):
        offer = p.offers[i]
        pool = p.pools[offer.pool]
        found.append(
            offer.placed
            if offer.placed is not None
            else Placement(
                service=p.services[offer.service].id,
                variant=offer.variant,
                site=p.sites[pool.site].id,
                pool=pool.id,
                replicas=int(plan.n[i]),
                slots=offer.slots,
                context_tokens=offer.context_tokens,
                chips=offer.chips,
            )
        )
    return tuple(found)


def _replicas(plan: Plan) -> tuple[PlacedReplicas, ...]:
    now = plan.model.rows.offer_now.astype(np.int64)
    starts = plan.starts()
    needed = np.ceil(plan.load - 1e-6).astype(np.int64)
    return tuple(
        PlacedReplicas(
            offer=int(i),
            replicas=int(plan.n[i]),
            standby=int(max(plan.n[i] - needed[i], 0)),
            starts=int(starts[i]),
            stops=int(max(now[i] - plan.n[i], 0)),
        )
        for i in np.flatnonzero((plan.n > 0) | (now > 0))
    )


def _flows(plan: Plan) -> tuple[Flow, ...]:
    """Every member of a row is served in its proportions."""
    m, r = plan.model, plan.model.rows
    used = np.flatnonzero(plan.x > 0.0)
    by_row: dict[int, list[int]] = {}
    for i in used.tolist():
        by_row.setdefault(int(m.pair_row[i]), []).append(i)
    return tuple(
        Flow(demand=d, offer=int(m.pair_offer[i]), share=float(plan.x[i]))
        for d, row in enumerate(r.member.tolist())
        if row >= 0
        for i in by_row.get(row, ())
    )

"""A placement problem as arrays: rows of demand, each with what serving it anywhere costs and takes.

Here: `Rows`, made of a `PlaceProblem`: entry gateways, clusters of demand, hourly cost of every (row, offer), room and power it
takes. Not here: rows and columns of the program (`place_model`), solving (`place_search`).

Clusters. Where there is much demand, origins of a service with the same law and need of quality whose round trips to all sites are
nearly equal become one row, and every member is served in the row's proportions. Costs of a row are sums over its members, so what is
found for clusters costs what it says; what members may save by ways of their own bounds it from below (`place_bound`).
"""

from __future__ import annotations

from itertools import chain
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from hanse.dispatch.place_values import PlaceProblem, room_chips
from hanse.milp import Bools, Floats, Ints
from hanse.units import SECONDS_PER_HOUR, hours_from_s, s_from_ms

ROWS_ALL_MAX: Final = 600
"""Of all services together: up to here each is a row of its own, and the tree's bound is one of all placements."""
ROWS_MAX: Final = 400
"""Where there are more. More rows make the program larger than a minute allows and move few replicas: sites are chosen by regions."""
ROWS_MANY: Final = 1000
OFFERS_MANY: Final = 15_000
"""From so many offers on hardly ever a tree is begun (`place_search.NODES_ROWS`), and rows only make moves slower: 1,000."""
ROWS_EACH_MIN: Final = 8
"""Of one service, however many services there are."""


class Rows:
    """Demand rows of a problem.

    Attributes:
        member: [demand] row it belongs to; -1 where no site may read it.
        service, law, quality: [row].
        high, mean, kept: [row] requests/s in the service's mean requests.
        entry: [demand] gateway where it enters; -1 where none may read it.
        coarse: whether some row has members of unlike ways.
        least_usd, servable: [row] USD/h of waiting that a row has wherever it is served; whether any offer may serve it. Known after `pairs`.
    """

    def __init__(
        self, problem: PlaceProblem, *, clusters: bool = True, only: Floats | None = None
    ) -> None:
        """`clusters`: where there are many; `only`: replicas [offer], where no others are asked about: demand goes to those."""
        self.problem = p = problem
        self.only = only
        self.window_h = max(hours_from_s(p.window_s), 1e-9)
        self.site_count = len(p.sites)
        self.rtt_ms = np.array(p.rtt_ms, float).reshape(self.site_count, -1)
        self.usd_per_gb = np.array(p.usd_per_gb, float).reshape(self.site_count, -1)
        self.lawful = np.zeros((max(len(p.laws), 1), self.site_count), bool)
        for k, sites in enumerate(p.laws):
            self.lawful[k, list(sites)] = True
        self._offers()
        self._demand()
        self._cluster(clusters)

    # --- what stands in the problem, as arrays

    def _offers(self) -> None:
        p = self.problem
        self.pool_site = np.array([pool.site for pool in p.pools], np.int64)
        self.offer_pool = np.array([o.pool for o in p.offers], np.int64)
        self.offer_site = self.pool_site[self.offer_pool] if p.offers else np.zeros(0, np.int64)
        self.offer_service = np.array([o.service for o in p.offers], np.int64)
        self.offer_quality = np.array([o.quality for o in p.offers], float)
        self.offer_rate = np.array([o.requests_per_s for o in p.offers], float)
        self.offer_ttft = np.array([o.ttft_ms_p95 for o in p.offers], float)
        self.offer_chips = np.array([room_chips(p.pools[o.pool], o.chips) for o in p.offers], float)
        """[offer] chips that one replica takes (`room_chips`)."""
        self.offer_late = np.array([o.late for o in p.offers], bool)
        self.offer_now = np.array([o.replicas for o in p.offers], float)
        self.offer_fixed = np.array([o.fixed for o in p.offers], bool)
        self.offer_kw = np.array([o.loaded_w for o in p.offers], float) / 1000.0
        # kW of one request a second: Wh each, 3600 in an hour.
        self.offer_kw_per_rps = (
            np.array([o.wh_per_request for o in p.offers], float) * SECONDS_PER_HOUR / 1000.0
        )
        hosts = np.array([s.hosts for s in p.sites], bool)
        self.offer_could = self._most(hosts)
        """[offer] replicas that its pool and site hold alone, were it not running by itself."""
        runs = np.where(hosts[self.offer_site], self.offer_now, 0.0) if p.offers else np.zeros(0)
        self.offer_max = np.where(self.offer_fixed, runs, self.offer_could)
        self.pue = np.array([s.pue for s in p.sites], float)
        self.grid_usd = np.array(
            [s.price_usd_per_kwh + s.carbon_g_per_kwh * p.usd_per_g for s in p.sites], float
        )

    def _most(self, hosts: Bools) -> Floats:
        p = self.problem
        if not p.offers:
            return np.zeros(0)
        count = np.array([pool.chips_count for pool in p.pools], float)[self.offer_pool]
        watch = np.array([s.engines_max for s in p.sites], float)[self.offer_site]
        most = np.minimum(np.floor(count / self.offer_chips), watch)
        held = np.array([pool.memory_gb * pool.chips_count for pool in p.pools])[self.offer_pool]
        each = np.array([o.memory_gb for o in p.offers], float)
        limited = (held > 0.0) & (each > 0.0)
        most = np.where(limited, np.minimum(most, np.floor(held / np.maximum(each, 1e-9))), most)
        return np.where(hosts[self.offer_site], most, 0.0)

    def _demand(self) -> None:
        p = self.problem
        names = (
            "service", "origin", "law", "quality_min", "requests_per_s", "requests_per_s_high",
            "requests_per_s_kept", "work", "gb_per_request", "late_usd_per_request",
            "unserved_usd_per_request",
        )  # fmt: skip
        self.d: dict[str, NDArray[Any]] = {
            name: np.array(
                [getattr(d, name) for d in p.demand],
                np.int64 if name in ("service", "origin", "law") else float,
            )
            for name in names
        }
        gateways = np.array(p.gateways, bool)
        usable = self.lawful & gateways[None, :]
        # [law, origin]: the nearest gateway that may read it; users of another origin reach it over the same ways.
        away = np.where(usable[:, None, :], self.rtt_ms[None, :, :], np.inf)
        nearest = away.argmin(axis=2) if self.site_count else np.zeros((len(usable), 0), np.int64)
        nearest = np.where(usable.any(axis=1)[:, None], nearest, -1)
        self.entry = nearest[self.d["law"], self.d["origin"]] if p.demand else np.zeros(0, np.int64)
        reach = self.rtt_ms[self.d["origin"], np.maximum(self.entry, 0)]
        self.way_ms = reach[:, None] + self.rtt_ms[np.maximum(self.entry, 0)]
        """[demand, site] from a user by the gateway to the engine, beyond the user's own access."""
        latency = np.array([s.usd_per_latency_s for s in p.services], float)[self.d["service"]]
        self.way_usd = s_from_ms(self.way_ms) * latency[:, None]
        self.gb_usd = self.d["gb_per_request"][:, None] * self.usd_per_gb[np.maximum(self.entry, 0)]

    # --- clusters

    def _cluster(self, clusters: bool) -> None:
        d = self.d
        self.member = np.full(len(self.problem.demand), -1, np.int64)
        services = len(self.problem.services)
        groups = [self._alike(q) for q in range(services)]
        most = ROWS_MANY if len(self.problem.offers) >= OFFERS_MANY else ROWS_MAX
        each = max(ROWS_EACH_MIN, most // max(services, 1))
        count = sum(map(len, groups))
        if clusters and count > ROWS_ALL_MAX:
            groups = [self._merged(mine, each) for mine in groups]
        heads: list[int] = []
        for cluster in chain.from_iterable(groups):
            self.member[cluster] = len(heads)
            heads.append(int(cluster[0]))
        self.coarse = len(heads) < count
        self.head = np.array(heads, np.int64)
        n = len(heads)
        self.least_usd, self.servable = np.zeros(n), np.zeros(n, bool)
        on = self.member >= 0

        def summed(weight: Floats) -> Floats:
            return np.bincount(self.member[on], weight[on], n).astype(float)

        self.service, self.law = d["service"][self.head], d["law"][self.head]
        self.quality = d["quality_min"][self.head]
        self.high = summed(d["requests_per_s_high"] * d["work"])
        self.mean = summed(d["requests_per_s"] * d["work"])
        self.kept = summed(d["requests_per_s_kept"] * d["work"])
        self.unserved_usd = SECONDS_PER_HOUR * summed(
            d["requests_per_s"] * d["unserved_usd_per_request"]
        )
        """[row] USD/h of a row wholly left out."""

    def _alike(self, q: int) -> list[Ints]:
        """A service's demand, what is alike in all that decides put together: one row, exactly."""
        d = self.d
        active = (self.entry >= 0) & (d["requests_per_s_high"] > 0.0)
        mine = np.flatnonzero(active & (d["service"] == q))
        alike = (
            "law", "quality_min", "origin", "late_usd_per_request",
            "unserved_usd_per_request", "gb_per_request", "work",
        )  # fmt: skip
        keys = [d[name][mine] for name in alike]
        high = d["requests_per_s_high"][mine]
        keys += [np.round(d[f"requests_per_s{of}"][mine] / high, 9) for of in ("", "_kept")]
        _, same = np.unique(np.stack(keys), axis=1, return_inverse=True)
        same = same.ravel()
        return [mine[same == k] for k in range(same.max(initial=-1) + 1)]

    def _merged(self, groups: list[Ints], most: int) -> list[Ints]:
        """Groups of demand, those of one law and quality with near ways put together until `most` rows are left."""
        if len(groups) <= most:
            return groups
        d = self.d
        kinds: dict[tuple[int, float], list[Ints]] = {}
        for group in groups:
            kinds.setdefault(
                (int(d["law"][group[0]]), float(d["quality_min"][group[0]])), []
            ).append(group)
        weight = {
            k: sum(float(d["requests_per_s_high"][g].sum()) for g in v) for k, v in kinds.items()
        }
        total = max(sum(weight.values()), 1e-12)
        found: list[Ints] = []
        for kind, members in kinds.items():
            share = max(1, int(most * weight[kind] / total))
            found += self._near(members, share, kind[0])
        return found

    def _near(self, groups: list[Ints], most: int, law: int) -> list[Ints]:
        """Farthest-first centres by the ways to lawful sites; everyone joins the nearest."""
        if len(groups) <= most:
            return groups
        ways = np.array([self.way_ms[g[0], self.lawful[law]] for g in groups])
        rate = np.array([self.d["requests_per_s_high"][g].sum() for g in groups])
        centres = [int(rate.argmax())]
        distance = np.abs(ways - ways[centres[0]]).max(axis=1)
        while len(centres) < most and distance.max() > 0.0:
            # Far and busy first: a quiet far origin matters less.
            centres.append(int((distance * rate).argmax()))
            distance = np.minimum(distance, np.abs(ways - ways[centres[-1]]).max(axis=1))
        near = np.abs(ways[:, None, :] - ways[centres][None, :, :]).max(axis=2).argmin(axis=1)
        return [
            np.concatenate([groups[i] for i in np.flatnonzero(near == k)])
            for k in range(len(centres))
            if (near == k).any()
        ]

    # --- pairs

    def pairs(self, q: int) -> tuple[Ints, Ints, Bools, Floats, Floats, Floats]:
        """Of a service: rows [R], offers [O]; may [R, O]; USD/h of serving a whole row there without energy, of that the late,
        and the egress [R, O].
        """
        rows = np.flatnonzero(self.service == q)
        offers = np.flatnonzero((self.offer_service == q) & (self.offer_could > 0.0))
        site = self.offer_site[offers]
        may = self.lawful[self.law[rows]][:, site]
        may &= self.offer_quality[offers][None, :] >= self.quality[rows][:, None] - 1e-9
        members = np.flatnonzero((self.member >= 0) & (self.d["service"] == q))
        place = np.searchsorted(rows, self.member[members])
        per_h = self.d["requests_per_s"][members] * SECONDS_PER_HOUR
        way = np.zeros((len(rows), self.site_count))
        egress = np.zeros((len(rows), self.site_count))
        np.add.at(way, place, per_h[:, None] * self.way_usd[members])
        np.add.at(egress, place, per_h[:, None] * self.gb_usd[members])
        p = self.problem.services[q]
        limit = np.where(self.offer_late[offers], -np.inf, p.ttft_ms - self.offer_ttft[offers])
        late = np.zeros((len(rows), len(offers)))
        late_usd = self.d["late_usd_per_request"][members]
        is_late = self.way_ms[members][:, site] > limit[None, :] + 1e-9
        np.add.at(late, place, per_h[:, None] * is_late * late_usd[:, None])
        engine_s = np.array([self.problem.offers[o].e2e_s for o in offers], float)
        each = SECONDS_PER_HOUR * self.mean[rows] * p.usd_per_latency_s
        waiting = way[:, site] + each[:, None] * engine_s[None, :]
        # What everybody waits wherever they are served decides nothing, and would flatter the gap. Counted over all that could
        # stand, so that what stands now and what might are measured from one place.
        least = np.where(may, waiting, np.inf).min(axis=1, initial=np.inf)
        self.least_usd[rows] = np.where(np.isfinite(least), least, 0.0)
        waiting -= self.least_usd[rows][:, None]
        usd = waiting + egress[:, site] + late
        may &= (self.offer_max[offers] > 0.0)[None, :]
        self.servable[rows] = may.any(axis=1)
        if self.only is not None:
            may &= (self.only[offers] > 0.0)[None, :]
        return rows, offers, may, usd, late, egress[:, site]

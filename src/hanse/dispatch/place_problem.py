"""The placement problem that a dispatcher's belief and an outlook amount to.

Here: `problem_from`, pure: names to indices, facts to numbers, prices with their reasons. Not here: the values (`place_values`),
solving (`place`), forecasts (`signals`), what a replica serves (`place_offers`, `serving.within_slo`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from hanse.catalogue import accelerator
from hanse.dispatch.belief import Belief, SiteBelief, engines_of
from hanse.dispatch.choose import WIRE_BYTES_PER_TOKEN_OUT
from hanse.dispatch.paths import paths_from
from hanse.dispatch.place_offers import NODE_CHIPS, Here, Power, Work, offers_of, stepped, work_of
from hanse.dispatch.place_pooling import peak_shares
from hanse.dispatch.place_values import (
    Cap,
    FailureSet,
    PlaceDemand,
    PlaceOffer,
    PlacePool,
    PlaceProblem,
    PlaceService,
    PlaceSite,
    room_chips,
)
from hanse.dispatch.prefix import BYTES_PER_TOKEN
from hanse.energy.plant import empty_w, host_w, it_kw_rated, supplies
from hanse.model.check import ENGINES_PER_SITE_MAX
from hanse.model.fleet import Id, Placement, Service, Site
from hanse.model.workloads import any_chips
from hanse.signals.outlook import DemandOutlook, Outlook, SiteOutlook
from hanse.units import (
    SECONDS_PER_HOUR,
    bytes_from_gb,
    gb_from_bytes,
    hours_from_s,
    per_g_from_per_t,
)

Floats = NDArray[np.float64]
NODE_OFF_W: Final = 8.0
"""A server that is off, its BMC awake: 5 to 10 W."""
WAKE_S: Final = 180.0
"""From power-on by a BMC (46 to 60 s until it says so) to a node whose engines can load: 2 to 4 minutes of a server's self-test."""
LATE_WAIT_S: Final = 20.0
"""A late first token is priced like so much waiting; beyond it users have left."""
UNSERVED_WAIT_S: Final = 300.0
"""A request not served, like so much waiting: it is tried again and again, by hand."""
LATE_TIMES, UNCOVERED_TIMES, UNSERVED_TIMES = 3.0, 3.0, 20.0
"""Prices of a row wholly late, of a service short by a replica or by all it has, and of a row not served, at least so many times the
dearest replica for itself: promises are kept wherever hardware can keep them, however few requests they are about."""
OVER_TIMES: Final = 3.0
"""A kW that the supply does not give, over what its requests cost unserved: nothing draws it in the end."""
PEAK_H: Final = 168.0
"""Hours that a new peak of the month is spread over. Paid at once, nothing would ever move; over the month, every site would have its
peak for an hour's gain. A week is between: what it lets through has paid for itself in that time."""
USUAL: Final = Work(256.0, 128.0)
"""A request of a service that nobody asks for now."""
BODY_BYTES: Final = 2000.0
"""Of a request beside its prompt."""


class _Names(NamedTuple):
    site: dict[str, int]
    service: dict[str, int]


def problem_from(
    belief: Belief,
    outlook: Outlook,
    *,
    window: tuple[int, int] | None = None,
    peak_import_kw: Mapping[Id, float] | None = None,
    held_kwh: Mapping[Id, float] | None = None,
) -> PlaceProblem:
    """What to decide for steps [first, end) of an outlook; absent: for all of them. By site: `peak_import_kw` is this month's, `held_kwh` what
    batteries hold; of one that nobody told of nothing is counted on.

    Capacity is sized by the highest step of the high quantile, energy priced by means, what must survive a failure by the highest
    mean. Placements at sites that are drained or not heard any more stay as they are, and so do those that no formula can rate.
    """
    fleet = belief.fleet
    first, end = window or (0, outlook.count)
    steps = slice(first, max(end, first + 1))
    window_s = outlook.step_s * (max(end, first + 1) - first)
    names = _Names(
        {s.id: i for i, s in enumerate(fleet.sites)},
        {q.id: i for i, q in enumerate(fleet.services)},
    )
    works = _works(belief, outlook.demand)
    usd_per_g = per_g_from_per_t(fleet.weights.usd_per_tonne_co2e)
    power = {s.site: s for s in outlook.sites}
    peaks, held = peak_import_kw or {}, held_kwh or {}
    sites = tuple(
        _levied(
            _site(belief, s, power.get(s.id), steps, battery_kw(s, held.get(s.id, 0.0), window_s)),
            s,
            peaks.get(s.id, 0.0),
        )
        for s in fleet.sites
    )
    pools, offers, untold = _hardware(belief, sites, works, usd_per_g)
    rows = Counter[str]()
    for p in untold:
        rows[p.site] += p.replicas
    sites = tuple(replace(s, engines_max=max(s.engines_max - rows[s.id], 0)) for s in sites)
    replica = _replica_usd(sites, pools, offers, usd_per_g, window_s)
    laws, demand = _demand(belief, outlook, steps, names, works, offers, replica)
    services = tuple(
        _service(belief, i, offers, demand, replica) for i in range(len(fleet.services))
    )
    demand = tuple(_served_first(d, services[d.service]) for d in demand)
    ways = _ways(fleet.sites, belief)
    groups = fleet.failure_groups
    return PlaceProblem(
        issued_at_s=outlook.issued_at_s,
        start_s=outlook.start_s + first * outlook.step_s,
        window_s=window_s,
        usd_per_g=usd_per_g,
        over_usd_per_kwh=_over_usd(offers, demand),
        sites=sites,
        pools=pools,
        services=services,
        offers=offers,
        demand=demand,
        laws=laws,
        rtt_ms=ways[0],
        usd_per_gb=ways[1],
        gateways=tuple(not belief.sites[s.id].dead for s in fleet.sites),
        failures=tuple(
            FailureSet(id=g.id, sites=tuple(sorted({names.site[s] for s in g.sites})))
            for g in groups
        )
        if groups
        else tuple(FailureSet(id=s.id, sites=(i,)) for i, s in enumerate(fleet.sites)),
        kept=tuple(p for p in belief.placements if not belief.sites[p.site].hosts or p in untold),
    )


# --- power


def battery_kw(site: Site, held_kwh: float, window_s: float) -> float:
    """What a battery can give all through a window, down to its reserve."""
    row = supplies((site,))[0]
    spare_kwh = held_kwh - row["soc_reserve"] * row["battery_kwh"]
    lasting_kw = max(spare_kwh, 0.0) * row["discharge_efficiency"] / hours_from_s(window_s)
    return float(min(row["battery_kw_max"], lasting_kw))


def _site(
    belief: Belief, site: Site, power: SiteOutlook | None, steps: slice, stored_kw: float
) -> PlaceSite:
    known, base = belief.sites[site.id], site.power.base_kw
    # Where a kWh earns more than its carbon costs, drawing more would pay for itself: the least it may cost is nothing.
    carbon_usd = per_g_from_per_t(belief.fleet.weights.usd_per_tonne_co2e)
    if power is None:
        return PlaceSite(
            id=site.id,
            price_usd_per_kwh=max(known.price_usd_per_kwh, -carbon_usd * known.carbon_g_per_kwh),
            carbon_g_per_kwh=known.carbon_g_per_kwh,
            pue=known.pue,
            export_usd_per_kwh=_export_usd(site),
            grid_kw_max=max(site.power.grid_kw_max - base, 0.0),
            engines_max=ENGINES_PER_SITE_MAX,
            hosts=known.hosts,
        )
    own = np.array(power.pv_kw[steps]) + np.array(power.wind_kw[steps])
    grid = np.array(power.grid_kw_max[steps])
    # Others on the site take own power first; what they import is not there for the league.
    left = np.maximum(own - base, 0.0)
    supply = np.maximum(grid + stored_kw - np.maximum(base - own, 0.0), 0.0) + left
    cap: Cap = "grid"
    if power.cooled_share:
        share = np.array(power.cooled_share[steps])
        cooled = it_kw_rated(site) * share * np.array(power.pue[steps])
        supply, cap = _least(supply, cap, np.where(share < 1.0, cooled, np.inf), "heat")
    if power.load_kw_max:
        asked = np.maximum(np.array(power.load_kw_max[steps]) - base, 0.0)
        supply, cap = _least(supply, cap, asked, "load target")
    carbon_g = float(np.mean(power.carbon_g_per_kwh[steps]))
    return PlaceSite(
        id=site.id,
        price_usd_per_kwh=max(
            float(np.mean(power.price_usd_per_kwh[steps])), -carbon_usd * carbon_g
        ),
        carbon_g_per_kwh=carbon_g,
        pue=float(np.mean(power.pue[steps])),
        own_kw=float(left.mean()),
        # Sun that no plant can cool away feeds nothing.
        own_kw_low=float(min(left.min(), supply.min())),
        export_usd_per_kwh=_export_usd(site),
        grid_kw_max=float(max(supply.min() - left.min(), 0.0)),
        cap=cap,
        engines_max=ENGINES_PER_SITE_MAX,
        hosts=known.hosts,
    )


def _least(supply: Floats, cap: Cap, other: Floats, why: Cap) -> tuple[Floats, Cap]:
    """The lesser of two bounds in each step, and what bounds the least of all."""
    both = np.minimum(supply, other)
    return both, why if both.min() < supply[both.argmin()] else cap


def _levied(made: PlaceSite, site: Site, peak_kw: float) -> PlaceSite:
    """With the demand charge, whose peak others at the site share."""
    levy = site.power.usd_per_kw_month / PEAK_H
    return replace(made, usd_per_kw_peak=levy, peak_kw=max(peak_kw - site.power.base_kw, 0.0))


def _export_usd(site: Site) -> float:
    """What a kWh of own power earns that is not used; where the connection takes none of it back, nothing."""
    return site.power.export_usd_per_kwh if site.power.export_kw_max != 0.0 else 0.0


# --- hardware


def _hardware(
    belief: Belief, sites: tuple[PlaceSite, ...], works: Sequence[Work | None], usd_per_g: float
) -> tuple[tuple[PlacePool, ...], tuple[PlaceOffer, ...], list[Placement]]:
    """Pools, offers, and placements of which nobody can tell what they serve, or that do not start: their chips are no others'."""
    heres: list[Here] = []
    slot_tokens: dict[str, int] = {}
    for p in belief.fleet.placements:
        each = p.context_tokens // p.slots
        slot_tokens[p.service] = max(slot_tokens.get(p.service, 0), each)
    for s, site in enumerate(belief.fleet.sites):
        placed = _placed(belief, site)
        dear = sites[s].price_usd_per_kwh + sites[s].carbon_g_per_kwh * usd_per_g
        for pool in site.pools:
            chip = accelerator(pool.accelerator)
            power = Power(usd_per_kwh=dear * sites[s].pue, empty_w=empty_w(chip.id))
            mine = tuple((p, chips) for p, chips in placed if p.pool == pool.id)
            # Nobody can tell a site that is cut off what to start or end: what runs there is counted on as it is.
            fixed = belief.sites[site.id].apart or pool.driver == "external"
            heres.append(Here(len(heres), s, pool, chip, power, mine, slot_tokens, fixed))
    offers = _offers(belief, heres, works)
    rated = {
        (o.pool, belief.fleet.services[o.service].id, o.variant, o.chips)
        for o in offers
        if not o.fixed
    }
    standing = {(o.pool, o.placed) for o in offers if o.fixed}
    untold = {
        (here.number, p): chips
        for here in heres
        if belief.sites[belief.fleet.sites[here.site].id].hosts
        for p, chips in here.placed
        if (here.number, p.service, p.variant, chips) not in rated
        and (here.number, p) not in standing
    }
    taken = [0] * len(heres)
    for (i, p), chips in untold.items():
        taken[i] += p.replicas * chips
    told = (
        h._replace(placed=tuple((p, c) for p, c in h.placed if (h.number, p) not in untold))
        for h in heres
    )
    pools = tuple(_pool(here, taken[here.number]) for here in told)
    return pools, tuple(offers), [p for _, p in untold]


def _offers(
    belief: Belief, heres: Sequence[Here], works: Sequence[Work | None]
) -> list[PlaceOffer]:
    """Of all services; late ones too of those that nothing in the fleet serves in time."""
    fleet = belief.fleet
    sites = [belief.sites[s.id] for s in fleet.sites]

    def made(services: Sequence[int], late: bool) -> list[PlaceOffer]:
        found: list[PlaceOffer] = []
        for here in heres:
            for q in services:
                service, work = fleet.services[q], works[q]
                mine = tuple((p, c) for p, c in here.placed if p.service == service.id)
                if work is None and not mine:
                    continue
                # What stands at a site that hosts nothing is kept, and is no way to serve.
                known = sites[here.site]
                own = here._replace(placed=mine if known.hosts else ())
                # Of what nobody asks for nothing need be kept.
                ill = set[str]() if work is None and not own.fixed else _ill(service, own, known)
                well = replace(
                    service, variants=tuple(v for v in service.variants if v.id not in ill)
                )
                found += offers_of(q, well, own, work or USUAL, late=late)
                if ill:
                    found += _up_all_the_same(q, service, own, work or USUAL, ill, known)
        return found

    found = made(range(len(works)), False)
    in_time = {o.service for o in found if not o.late and sites[heres[o.pool].site].hosts}
    late = [q for q, work in enumerate(works) if work is not None and q not in in_time]
    return found if not late else [o for o in found if o.service not in late] + made(late, True)


def _ill(service: Service, here: Here, known: SiteBelief) -> set[str]:
    """Variants of a service that do not start in a pool."""
    return {v.id for v in service.variants if (service.id, v.id, here.pool.id) in known.failing}


def _up_all_the_same(
    q: int, service: Service, here: Here, work: Work, ill: set[str], known: SiteBelief
) -> list[PlaceOffer]:
    """Of variants that do not start in a pool: nothing new comes, and of what is placed counts what is up in spite of it. The rest is tried
    again ever more rarely by its site; until it is up it keeps its chips (`_hardware`), and others are placed beside it.
    """
    up = Counter[tuple[str, int | None]]()
    for p in known.serving:
        if (p.service, p.pool) == (service.id, here.pool.id):
            up[p.variant, p.chips] += p.replicas
    found = []
    for p, chips in here.placed:
        there = min(up[p.variant, p.chips], p.replicas) if p.variant in ill else 0
        if there:
            stands = here._replace(placed=((p, chips),), fixed=True)
            found += [
                replace(one, requests_per_s=one.requests_per_s * there / p.replicas)
                for one in offers_of(q, service, stands, work)
            ]
    return found


def _placed(belief: Belief, site: Site) -> list[tuple[Placement, int]]:
    """Placements of a site with the chips of one replica of each."""
    mine = tuple(p for p in belief.placements if p.site == site.id)
    chips = {
        (e.service, e.variant, e.pool): e.chips for e in engines_of(belief.fleet, mine, site.id)
    }
    return [(p, p.chips or chips[p.service, p.variant, p.pool]) for p in mine if p.replicas > 0]


def _pool(here: Here, taken: int) -> PlacePool:
    """Its nodes, without chips that are taken: servers of eight, or what whole replicas fill where a Deployment's are of another size, or
    one server where what runs there fits on none of these.
    """
    chip = here.chip
    count = max(here.pool.count - taken, 0)
    chips = NODE_CHIPS
    if here.pool.kubernetes is not None and not any_chips(here.pool.kubernetes):
        each = here.pool.kubernetes.chips
        chips = NODE_CHIPS if NODE_CHIPS % each == 0 else each
    chips = max(min(chips, count), 1)

    def nodes_of(chips: int) -> PlacePool:
        on_w = chips * (host_w(chip.id) + here.power.empty_w)
        nodes = -(-count // chips)
        return PlacePool(
            id=here.pool.id,
            site=here.site,
            accelerator=chip.id,
            nodes=nodes,
            chips=chips,
            chips_count=count,
            memory_gb=chip.memory_gb or 0.0,
            node_on_w=on_w,
            node_off_w=min(NODE_OFF_W, on_w),
            wake_usd=on_w / 1000.0 * hours_from_s(WAKE_S) * here.power.usd_per_kwh,
            nodes_on=min(-(-used // chips), nodes),
        )

    used = sum(p.replicas * c for p, c in here.placed)
    pool = nodes_of(chips)
    room = sum(p.replicas * room_chips(pool, c) for p, c in here.placed)
    return pool if room <= count else nodes_of(max(count, 1))


def _replica_usd(
    sites: tuple[PlaceSite, ...],
    pools: tuple[PlacePool, ...],
    offers: tuple[PlaceOffer, ...],
    usd_per_g: float,
    window_s: float,
) -> dict[int, float]:
    """By service: an hour of the dearest replica alone on its node, busy, and loaded for this window."""
    found: dict[int, float] = {}
    for o in offers:
        pool = pools[o.pool]
        site = sites[pool.site]
        busy_w = o.wh_per_request * o.requests_per_s * SECONDS_PER_HOUR
        kw = site.pue * (pool.node_on_w + o.loaded_w + busy_w) / 1000.0
        usd = kw * (site.price_usd_per_kwh + site.carbon_g_per_kwh * usd_per_g)
        usd += (o.start_usd + pool.wake_usd) / hours_from_s(window_s)
        found[o.service] = max(found.get(o.service, 0.0), usd)
    return found


# --- demand


def _works(belief: Belief, demand: Sequence[DemandOutlook]) -> list[Work | None]:
    """[service] tokens of its mean request, to the next step; None: nobody asks for it."""
    found: list[Work | None] = []
    for service in belief.fleet.services:
        mine = [d for d in demand if d.service == service.id]
        weight = np.array([sum(d.requests_per_s_high) for d in mine])
        if not mine or weight.sum() <= 0.0:
            found.append(None)
            continue
        tokens_in = np.array([d.input_tokens * (1.0 - d.cached_share) for d in mine])
        tokens_out = np.array([d.output_tokens for d in mine])
        means = (float(a @ weight / weight.sum()) for a in (tokens_in, tokens_out))
        found.append(Work(*(stepped(m) for m in means)))
    return found


def _demand(
    belief: Belief,
    outlook: Outlook,
    steps: slice,
    names: _Names,
    works: Sequence[Work | None],
    offers: tuple[PlaceOffer, ...],
    replica: dict[int, float],
) -> tuple[tuple[tuple[int, ...], ...], tuple[PlaceDemand, ...]]:
    """Laws and rows: subjects of equal law and need of quality at one origin are one."""
    fleet, law = belief.fleet, belief.law
    qualities = {c.id: c.quality_min for c in fleet.classes}
    subjects: dict[tuple[str, str, str], int] = {}
    laws: dict[tuple[int, ...], int] = {}
    rows: dict[tuple[int, int, int, float], list[tuple[DemandOutlook, float]]] = {}
    for d in outlook.demand:
        who = d.tenant, d.data_class, d.country
        if who not in subjects:
            bits = law.bits[law.profile[belief.subject_row(*who)]]
            allowed = tuple(int(i) for i in np.flatnonzero(bits))
            subjects[who] = laws.setdefault(allowed, len(laws))
        q = names.service.get(d.service)
        work = works[q] if q is not None else None
        if q is None or work is None or d.origin not in names.site:
            continue  # an outlook of another fleet than this one
        key = q, names.site[d.origin], subjects[who], qualities.get(d.data_class, 1.0)
        own = work_of(fleet.services[q], fleet, d, work)
        rows.setdefault(key, []).append((d, own))
    shares = _shares(rows, outlook)
    made = tuple(
        _row(belief, key, members, steps, replica.get(key[0], 1.0), shares.get(_kind(key)))
        for key, members in rows.items()
    )
    return tuple(laws), made


_RowKey = tuple[int, int, int, float]


def _kind(key: _RowKey) -> tuple[int, int, float]:
    """Rows that differ in their origin only."""
    return key[0], key[2], key[3]


def _shares(
    rows: Mapping[_RowKey, list[tuple[DemandOutlook, float]]], outlook: Outlook
) -> dict[tuple[int, int, float], NDArray[np.float64]]:
    """By kind of row, [step]: what it needs of its origins' own peaks. Work that may wait is in no total."""
    kinds: dict[tuple[int, int, float], list[DemandOutlook]] = {}
    for key, members in rows.items():
        kinds.setdefault(_kind(key), []).extend(d for d, _ in members if not d.waits)
    return peak_shares({kind: mine for kind, mine in kinds.items() if mine}, outlook.totals)


def _row(
    belief: Belief,
    key: tuple[int, int, int, float],
    members: list[tuple[DemandOutlook, float]],
    steps: slice,
    replica_usd: float,
    peak_share: NDArray[np.float64] | None,
) -> PlaceDemand:
    q, origin, law, quality = key
    rates = np.array([d.requests_per_s[steps] for d, _ in members])
    high = np.array([d.requests_per_s_high[steps] for d, _ in members])
    waits = np.array([d.waits for d, _ in members])
    if peak_share is not None:
        share_of = np.where(waits[:, None], 1.0, peak_share[steps])
        high = rates + share_of * np.maximum(high - rates, 0.0)
    weight = np.maximum(rates.mean(axis=1), 1e-12)
    share = weight / weight.sum()
    work = float(share @ np.array([own for _, own in members]))
    body = np.array([BODY_BYTES + BYTES_PER_TOKEN * d.input_tokens for d, _ in members])
    answer = np.array([WIRE_BYTES_PER_TOKEN_OUT * d.output_tokens for d, _ in members])
    service = belief.fleet.services[q]
    second = service.usd_per_latency_s
    second = belief.fleet.weights.usd_per_latency_s if second is None else second
    per_h = max(float(rates.mean(axis=1).sum()) * SECONDS_PER_HOUR, 1e-6)
    return PlaceDemand(
        service=q,
        origin=origin,
        law=law,
        quality_min=quality,
        requests_per_s=per_h / SECONDS_PER_HOUR,
        requests_per_s_high=float(np.maximum(high, rates).sum(axis=0).max()),
        requests_per_s_kept=float(rates[~waits].sum(axis=0).max(initial=0.0)),
        late_usd_per_request=max(LATE_WAIT_S * second, LATE_TIMES * replica_usd / per_h),
        unserved_usd_per_request=max(
            UNSERVED_WAIT_S * second, UNSERVED_TIMES * replica_usd / per_h
        ),
        work=work,
        gb_per_request=gb_from_bytes(float(share @ (body + answer))),
    )


def _served_first(row: PlaceDemand, service: PlaceService) -> PlaceDemand:
    """Nobody is sent away because of what a failure would take from them: where law leaves one site, it serves, and is named."""
    kept = row.requests_per_s_kept * row.work / row.requests_per_s
    least = UNSERVED_TIMES / UNCOVERED_TIMES * service.uncovered_usd_per_request * kept
    return replace(row, unserved_usd_per_request=max(row.unserved_usd_per_request, least))


def _service(
    belief: Belief,
    q: int,
    offers: tuple[PlaceOffer, ...],
    demand: tuple[PlaceDemand, ...],
    replica: dict[int, float],
) -> PlaceService:
    service = belief.fleet.services[q]
    second = service.usd_per_latency_s
    second = belief.fleet.weights.usd_per_latency_s if second is None else second
    mine = [d.requests_per_s_kept * d.work for d in demand if d.service == q]
    least = min((m for m in mine if m > 0.0), default=1.0)
    rate = max((o.requests_per_s for o in offers if o.service == q), default=1.0)
    short_per_h = SECONDS_PER_HOUR * min(rate, least)
    return PlaceService(
        id=service.id,
        ttft_ms=service.slo.ttft_ms,
        usd_per_latency_s=second,
        uncovered_usd_per_request=max(
            LATE_WAIT_S * second, UNCOVERED_TIMES * replica.get(q, 1.0) / short_per_h
        ),
    )


def _over_usd(offers: tuple[PlaceOffer, ...], demand: tuple[PlaceDemand, ...]) -> float:
    wh: dict[int, float] = {}
    for o in offers:
        wh[o.service] = max(wh.get(o.service, 0.0), o.wh_per_request)
    each = [1000.0 * d.unserved_usd_per_request / max(wh.get(d.service, 1.0), 1e-3) for d in demand]
    # The middle one: a tiny row's price per request says nothing of a kW.
    return OVER_TIMES * float(np.median(each)) if each else 1.0


def _ways(
    sites: Sequence[Site], belief: Belief
) -> tuple[tuple[tuple[float, ...], ...], tuple[tuple[float, ...], ...]]:
    ids = [s.id for s in sites]
    places = [(s.lat_deg, s.lon_deg) for s in sites]
    rows = [paths_from(i, ids, places, belief.fleet.links) for i in range(len(sites))]
    rtt = tuple(tuple(row["rtt_ms"].tolist()) for row in rows)
    usd = tuple(tuple((bytes_from_gb(1.0) * row["usd_per_byte"]).tolist()) for row in rows)
    return rtt, usd

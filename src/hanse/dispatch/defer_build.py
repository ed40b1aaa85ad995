"""A scheduling problem from what a dispatcher believes, what is forecast, and which jobs there are. Pure.

Here: `problem_from`: law by job and site, series brought onto the schedule's steps, batteries and tariffs from the plant, ways
for data. Not here: forecasts (`signals.outlook`), what replicas have to spare (`room`), how many chips interactive work needs (`place`
says; it is an argument).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from hanse.dispatch.belief import Belief
from hanse.dispatch.defer_problem import (
    DeferBattery,
    DeferJob,
    DeferPath,
    DeferPool,
    DeferProblem,
    DeferSite,
    Refused,
    axis,
)
from hanse.dispatch.paths import paths_from
from hanse.dispatch.room import (
    SPARE_SHARE,
    Room,
    Shares,
    busy_shares,
    rooms_of,
    with_rooms,
)
from hanse.dispatch.shed import UNSHED_SHARE
from hanse.energy.plant import Plant, chip_rated_w, empty_w, host_w, supplies
from hanse.model.fleet import Fleet, Id, Site, Value
from hanse.model.job import Job
from hanse.signals.axis import STEP_S
from hanse.signals.outlook import UNBOUND_KW, Outlook, SiteOutlook
from hanse.units import (
    SECONDS_PER_DAY,
    bytes_from_gb,
    mbit_s_from_bytes_per_s,
    per_g_from_per_t,
    s_from_ms,
)

SITES_MAX: Final = 8
"""Candidates a job: its home, where it is, and the cheapest others. More sites hardly lower a schedule's cost, and double its size."""
WEAR_USD_PER_KWH: Final = 0.03
"""Of a kWh taken from a battery: 180 USD/kWh (utility LFP, 2024) over 6,000 full cycles."""
SLACK_SHARE: Final = 0.1
"""Of a job's time, kept before its deadline where replicas follow the hour: they take the chips of the cheapest sites, which is where
work that waited was to run at last. Without it one job in twenty of 36 simulated days was late, by up to hours."""


class Whereabouts(Value, frozen=True, kw_only=True):
    """Where a job is; a job without one is at its home and does not run."""

    state_at: Id
    data_at: tuple[Id, ...] = ()
    pool: Id | None = None
    chips: int = 0


class Measured(Value, frozen=True, kw_only=True):
    """What sites tell of themselves and `place` of their chips; what is absent takes its default."""

    held_kwh: dict[str, float] = {}
    """By site; absent: half of the battery."""
    peak_import_kw: dict[str, float] = {}
    """By site: this month's highest quarter of an hour; absent: 0."""
    chips_free: dict[str, tuple[float, ...]] = {}
    """By `site/pool`, on the outlook's steps; absent: all of a pool that nothing is placed in, none of another."""
    load_kw: dict[str, tuple[float, ...]] = {}
    """By site, on the outlook's steps: all but free chips; absent: `base_kw` and the rating of all chips that are not free."""
    whereabouts: dict[str, Whereabouts] = {}
    """By job."""
    asleep: tuple[str, ...] = ()
    """`site/pool` whose servers are off: a free chip draws nothing there, and work brings its idle power along."""


def problem_from(
    belief: Belief,
    outlook: Outlook,
    jobs: Sequence[Job],
    *,
    start_s: float,
    measured: Measured | None = None,
    plants: Mapping[str, Plant] | None = None,
    step_s: tuple[float, ...] | None = None,
    sites_max: int = SITES_MAX,
    served: Shares | None = None,
) -> DeferProblem:
    """The problem of an instant, `start_s` and jobs by the outlook's clock. Sites without an outlook take no part.

    Jobs of requests bring the room that replicas have to spare with them, as pools of its own (`room`).
    """
    measured = measured or Measured()
    steps = step_s or axis()
    fleet = belief.fleet
    rooms = rooms_of(belief) if any(job.service is not None for job in jobs) else ()
    busy = busy_shares(belief, outlook, rooms, served or {})
    jobs = [with_rooms(belief, job, rooms) for job in jobs]
    foreseen = {one.site: one for one in outlook.sites}
    places = tuple(site for site in fleet.sites if site.id in foreseen)
    rows = supplies(places, plants)
    grid = _Grid(outlook, start_s, steps)
    sites = tuple(
        _site(
            belief,
            site,
            foreseen[site.id],
            row,
            grid,
            measured,
            {room: busy[room.key] for room in rooms if room.site == site.id},
        )
        for site, row in zip(places, rows, strict=True)
    )
    cost = {one.site: _unit_usd(belief, one) for one in sites}
    chosen = tuple(
        _job(belief, job, measured.whereabouts.get(job.id), cost, sites_max)
        for job in sorted(jobs, key=lambda job: job.id)
    )
    return DeferProblem(
        issued_at_s=outlook.issued_at_s,
        start_s=start_s,
        step_s=steps,
        carbon_signal=outlook.sites[0].carbon_signal if outlook.sites else "average_location",
        usd_per_tonne_co2e=fleet.weights.usd_per_tonne_co2e,
        sites=sites,
        paths=_paths(fleet, chosen),
        jobs=chosen,
    )


class _Grid:
    """Brings series of an outlook onto other steps: means over five-minute pieces."""

    def __init__(self, outlook: Outlook, start_s: float, steps: tuple[float, ...]) -> None:
        pieces = [max(1, round(length / STEP_S)) for length in steps]
        lengths = np.repeat(np.array(steps) / pieces, pieces)
        middles_s = start_s + np.cumsum(lengths) - 0.5 * lengths
        index = np.floor((middles_s - outlook.start_s) / outlook.step_s).astype(np.int64)
        day = max(1, round(SECONDS_PER_DAY / outlook.step_s))
        over = np.maximum(0, index - (outlook.count - 1))
        # Beyond the last forecast its last day comes again; a shorter outlook ends on its last value.
        again = index - -(-over // day) * day
        self.index = np.where(again >= 0, np.clip(again, 0, outlook.count - 1), outlook.count - 1)
        self.index = np.where(index < 0, 0, self.index)
        self.first = np.concatenate([[0], np.cumsum(pieces)[:-1]])
        self.pieces = np.array(pieces, float)

    def put(self, series: Sequence[float]) -> tuple[float, ...]:
        """Means over the steps."""
        fine = np.asarray(series, float)[self.index]
        means: NDArray[np.float64] = np.add.reduceat(fine, self.first) / self.pieces
        return tuple(means.tolist())

    def put_least(self, series: Sequence[float]) -> NDArray[np.float64]:
        """The least in each step: a bound that holds for a part of it holds."""
        fine = np.asarray(series, float)[self.index]
        return np.asarray(np.minimum.reduceat(fine, self.first))


def _site(
    belief: Belief,
    site: Site,
    seen: SiteOutlook,
    row: Any,
    grid: _Grid,
    measured: Measured,
    rooms: Mapping[Room, tuple[float, ...]],
) -> DeferSite:
    price, carbon = grid.put(seen.price_usd_per_kwh), grid.put(seen.carbon_g_per_kwh)
    pue = grid.put(seen.pue)
    busy = {p.pool for p in belief.placements if p.site == site.id and p.replicas > 0}
    pools, busy_kw = [], np.zeros(len(pue))
    for pool in site.pools:
        given = measured.chips_free.get(f"{site.id}/{pool.id}")
        free = np.full(len(pue), 0.0 if pool.id in busy else float(pool.count))
        if given is not None:
            free = np.clip(np.array(grid.put(given)), 0.0, float(pool.count))
        full_kw = chip_rated_w(pool.accelerator) / 1000.0
        if not rooms or pool.id not in busy:
            busy_kw += (pool.count - free) * full_kw
        if not belief.sites[site.id].hosts:
            free = np.zeros(len(pue))
        idle_w = empty_w(pool.accelerator) + host_w(pool.accelerator)
        asleep = f"{site.id}/{pool.id}" in measured.asleep
        idle_kw = 0.0 if asleep else min(full_kw, idle_w / 1000.0)
        pools.append(
            DeferPool(
                pool=pool.id,
                accelerator=pool.accelerator,
                chips_free=tuple(free.tolist()),
                chip_kw_idle=idle_kw,
                chip_kw_full=full_kw,
            )
        )
    for room, people in rooms.items():
        used = np.array(grid.put(people))
        pools.append(_room(room, used, hosts=belief.sites[site.id].hosts))
        added_kw = room.chip_kw_full - room.chip_kw_idle
        busy_kw += room.replicas * room.chips * (room.chip_kw_idle + added_kw * used)
    load = measured.load_kw.get(site.id)
    rated = np.array(pue) * busy_kw + float(row["base_kw"])
    base_kw = tuple(rated.tolist()) if load is None else grid.put(load)
    idle_kw = np.sum([np.array(p.chips_free) * p.chip_kw_idle for p in pools], axis=0)
    return DeferSite(
        site=site.id,
        price_usd_per_kwh=price,
        carbon_g_per_kwh=carbon,
        pue=pue,
        pv_kw=grid.put(seen.pv_kw),
        wind_kw=grid.put(seen.wind_kw),
        grid_kw_max=_grid_kw_max(seen, np.array(base_kw) + np.array(pue) * idle_kw, grid),
        base_kw=base_kw,
        load_kw_max=_load_kw_max(seen, row, grid),
        export_kw_max=float(row["export_kw_max"]),
        export_usd_per_kwh=float(row["export_usd_per_kwh"]),
        usd_per_kw_month=float(row["usd_per_kw_month"]),
        peak_import_kw=measured.peak_import_kw.get(site.id, 0.0),
        battery=_battery(belief, site, row, measured, price, carbon),
        pools=tuple(pools),
    )


def _grid_kw_max(
    seen: SiteOutlook, needed_kw: NDArray[np.float64], grid: _Grid
) -> tuple[float, ...]:
    """What may be imported: under a load target no more than that, or than is drawn without work that may wait, so that no battery charges in
    it, and none empties for it.
    """
    most = grid.put(seen.grid_kw_max)
    if not seen.load_kw_max:
        return most
    asked = np.maximum(grid.put_least(seen.load_kw_max), needed_kw)
    return tuple(np.minimum(np.array(most), asked).tolist())


def _load_kw_max(seen: SiteOutlook, row: Any, grid: _Grid) -> tuple[float, ...]:
    """What may be drawn before a site sheds, for heat or because it was asked to: as little as what was shed comes back at."""
    if not seen.cooled_share and not seen.load_kw_max:
        return ()
    most = np.full(len(grid.put(seen.pue)), UNBOUND_KW)
    if seen.cooled_share:
        share = np.array(grid.put(seen.cooled_share))
        cooled = row["base_kw"] + row["it_kw_rated"] * share * np.array(grid.put(seen.pue))
        most = np.where(share < 1.0, UNSHED_SHARE * cooled, most)
    if seen.load_kw_max:
        asked = grid.put_least(seen.load_kw_max)
        most = np.minimum(most, np.where(asked < UNBOUND_KW, UNSHED_SHARE * asked, UNBOUND_KW))
    return tuple(most.tolist())


def _room(room: Room, used: NDArray[np.float64], *, hosts: bool) -> DeferPool:
    """What replicas have to spare; that they idle is in the site's base already."""
    share = np.clip(SPARE_SHARE - used, 0.0, None) if hosts else np.zeros_like(used)
    return DeferPool(
        pool=room.pool,
        accelerator=room.key,
        chips_free=tuple((room.replicas * room.chips * share).tolist()),
        chip_kw_idle=0.0,
        chip_kw_full=room.chip_kw_full - room.chip_kw_idle,
    )


def _battery(
    belief: Belief,
    site: Site,
    row: Any,
    measured: Measured,
    price: tuple[float, ...],
    carbon: tuple[float, ...],
) -> DeferBattery | None:
    if row["battery_kwh"] <= 0.0 or row["battery_kw_max"] <= 0.0:
        return None
    per_g = per_g_from_per_t(belief.fleet.weights.usd_per_tonne_co2e)
    kwh, out = float(row["battery_kwh"]), float(row["discharge_efficiency"])
    usual = float(np.median(np.array(price) + per_g * np.array(carbon)))
    held = measured.held_kwh.get(site.id, 0.5 * kwh)
    return DeferBattery(
        kwh=kwh,
        kw_max=float(row["battery_kw_max"]),
        held_kwh=min(max(held, 0.0), kwh),
        charge_efficiency=float(row["charge_efficiency"]),
        discharge_efficiency=out,
        self_discharge_per_h=float(row["self_discharge_per_h"]),
        soc_min=float(row["soc_min"]),
        soc_max=float(row["soc_max"]),
        soc_reserve=float(row["soc_reserve"]),
        export=bool(row["battery_export"]),
        usd_per_kwh_out=WEAR_USD_PER_KWH,
        # It will replace import of an ordinary hour, less wear.
        stored_usd_per_kwh=max(0.0, out * (usual - WEAR_USD_PER_KWH)),
    )


def _unit_usd(belief: Belief, site: DeferSite) -> float:
    """What a kWh of IT costs at a site, on the mean over the horizon; infinite without chips."""
    if not any(max(pool.chips_free, default=0.0) > 0.0 for pool in site.pools):
        return float("inf")
    per_g = per_g_from_per_t(belief.fleet.weights.usd_per_tonne_co2e)
    usd = np.array(site.price_usd_per_kwh) + per_g * np.array(site.carbon_g_per_kwh)
    return float((usd * np.array(site.pue)).mean())


def _job(
    belief: Belief,
    job: Job,
    whereabouts: Whereabouts | None,
    unit_usd: Mapping[str, float],
    sites_max: int,
) -> DeferJob:
    at = whereabouts or Whereabouts(state_at=job.home)
    lawful, refused = _law(belief, job, tuple(unit_usd))
    near = {job.home, at.state_at, *at.data_at}
    order = sorted(lawful, key=lambda s: (s not in near, unit_usd[s], s))
    return DeferJob(
        job=job,
        sites=tuple(sorted(order[: max(sites_max, len(near))])),
        refused=refused,
        state_at=at.state_at,
        data_at=at.data_at,
        pool=at.pool,
        chips=at.chips,
        slack_s=belief.fleet.slow_loop.places
        * SLACK_SHARE
        * (job.deadline_at_s - job.submitted_at_s),
    )


def _law(
    belief: Belief, job: Job, sites: tuple[str, ...]
) -> tuple[tuple[str, ...], tuple[Refused, ...]]:
    """Sites where law lets a job run, and by which rules the others fall out."""
    fleet, law = belief.fleet, belief.law
    row = belief.subject_row(job.tenant, job.data_class, job.country)
    index = {site.id: i for i, site in enumerate(fleet.sites)}
    lawful, refused = [], []
    for site in sites:
        if law.lawful(row, index[site]):
            lawful.append(site)
        else:
            refused.append(Refused(site=site, rules=law.explain_cell(row, index[site])))
    return tuple(lawful), tuple(refused)


def _paths(fleet: Fleet, jobs: tuple[DeferJob, ...]) -> tuple[DeferPath, ...]:
    """Ways from where jobs' data and state are to where they may run."""
    wanted: set[tuple[str, str]] = set()
    for one in jobs:
        for site in one.sites:
            if one.job.data_gb > 0.0 and site != one.job.home and site not in one.data_at:
                wanted.add((one.job.home, site))
            if one.job.state_gb > 0.0 and site != one.state_at:
                wanted.add((one.state_at, site))
    names = [site.id for site in fleet.sites]
    index = {name: i for i, name in enumerate(names)}
    spots = [(site.lat_deg, site.lon_deg) for site in fleet.sites]
    ways = {
        source: paths_from(index[source], names, spots, fleet.links)
        for source in sorted({source for source, _ in wanted})
        if source in index
    }
    found = []
    for source, target in sorted(wanted):
        if source in ways:
            way = ways[source][index[target]]
            found.append(
                DeferPath(
                    source=source,
                    target=target,
                    mbit_s=float(
                        mbit_s_from_bytes_per_s(1.0 / s_from_ms(float(way["ms_per_byte"])))
                    ),
                    usd_per_gb=float(way["usd_per_byte"]) * bytes_from_gb(1.0),
                )
            )
    return tuple(found)

"""How much moving work by the hour could save, over work that stays where it was put: in space, in time, in gCO2e and in USD.

Here: `shifting_of`, upper bounds for a design by its study's own hourly series, and `Bounds`, the arithmetic on any series. Not here: which site serves
whom at run time (`dispatch`), batch work on given hours (`dispatch.defer`), the same within the room that stands (`shifting_room`).

Perfect foresight, no limit of room, no cost of moving, and all energy of a request moves with it, idle chips' too: what is found is the most that
anybody could gain, not what one would. Own sun and wind are left out: as if all energy came from the grid. First year.

Where nobody records hourly prices a site's price is flat, so that in USD only the carbon price moves work in time.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, time
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hanse.catalogue import City
from hanse.model.fleet import Value
from hanse.plan.assumptions import of_study
from hanse.plan.capacity import Fit
from hanse.plan.demand import HOURS, Demand, demand_of
from hanse.plan.design import Design
from hanse.plan.meter import Meter
from hanse.plan.operate import first_replicas, hourly_watts, loads_of
from hanse.plan.physics import HOURS_OF_YEAR, site_of
from hanse.plan.reach import OK
from hanse.plan.shifting_room import Room, roomed
from hanse.plan.sited import ground_for
from hanse.plan.spots import Spot
from hanse.plan.study_file import SizeClass, Study
from hanse.plan.tco_flows import small_user_share
from hanse.signals import Feed, StepAxis, site_steps
from hanse.units import SECONDS_PER_HOUR, kwh_from_j, per_g_from_per_t

Floats = NDArray[np.float64]
NEVER: Final = 1e30
"""USD or grams a token: never chosen, and still a number."""


class Ways(Value, frozen=True, kw_only=True):
    """A year's figure of the work of a design's own sites, by what may move."""

    assigned: float
    """As the design has it."""
    static: float
    """Every city at its best of the design's sites, all year."""
    hourly: float
    """Every hour at the best of the design's sites."""
    deferred: float
    """Where the design has it, work that may wait in the best hour of its slack."""
    sited: float
    """Every city at the best of all places where sites of these sizes stand or could, all year."""
    sited_hourly: float
    """Every hour at the best of those."""
    sited_deferred: float
    """All year at the best of those, work that may wait in the best hour of its slack."""
    room_assigned: float | None
    """As `assigned`, on the days that stand for the year; None: the design's sites are one, or too many to solve."""
    room_static: float | None
    """As `static`, within the room that stands."""
    room_hourly: float | None
    """As `hourly`, within the room that stands."""

    def gain(self, less: str, over: str) -> float | None:
        """Share that one way saves over another."""
        a, b = getattr(self, less), getattr(self, over)
        return None if a is None or b is None or not b > 0.0 else 1.0 - a / b


class Shifting(Value, frozen=True, kw_only=True):
    """What moving could save on one design."""

    deferrable_share: float
    """Of the energy of its work: may wait an hour or more."""
    carbon_g: Ways
    """Location-based, a year; each way chosen for least carbon."""
    usd: Ways
    """Energy and carbon price, a year; each way chosen for least cost."""


class Bounds(NamedTuple):
    """Cost of loads under series of sites, one figure for each freedom."""

    assigned: float
    static: float
    hourly: float


def bounds(series: Floats, day: Floats, share: Floats, may: NDArray[np.bool_]) -> Bounds:
    """Of rows that repeat a day: where they are, each at its best site for the whole run, each at its best site hour by hour.

    Args:
        series: [site, hour] cost of a unit, whole days.
        day: [row, hour of the day] units.
        share: [row, site], sums to 1.
        may: [row, site].
    """
    by_hour = series.reshape(len(series), -1, HOURS).sum(axis=1)
    alone = day @ by_hour.T
    assigned = float((alone * share).sum())
    static = float(np.where(may, alone, np.inf).min(axis=1).sum())
    hourly = 0.0
    kinds, group = np.unique(may, axis=0, return_inverse=True)
    for k, sites in enumerate(kinds):
        best = series[sites].min(axis=0).reshape(-1, HOURS).sum(axis=0)
        hourly += float((day[group.ravel() == k] @ best).sum())
    return Bounds(assigned=assigned, static=static, hourly=hourly)


def deferred(series: Floats, slack_h: float) -> Floats:
    """[site, hour] cost of a unit that arrives in an hour and may wait whole hours of slack; the run repeats."""
    slack = int(slack_h)
    if slack <= 0:
        return series
    longer = np.concatenate([series, series[:, :slack]], axis=1)
    windows = np.lib.stride_tricks.sliding_window_view(longer, slack + 1, axis=1)
    return np.asarray(windows.min(axis=-1))


def shifting_of(design: Design, study: Study, meter: Meter) -> Shifting:
    """Of a design that builds something."""
    demand, x = demand_of(study), of_study(study).mid()
    own = _own(design, study, meter)
    spots = ground_for(study).spots
    mine = [k for k, s in enumerate(spots) if s.size.id in design.spec.sizes]
    others = _both(own, _others(design, study, meter, [spots[k] for k in mine]))
    may = np.hstack([design.may, ground_for(study).refusal[:, mine] == OK])
    may &= np.isfinite(others.carbon).all(axis=1)
    carbon_usd = per_g_from_per_t(float(x["carbon_usd_per_t"][0]))
    found = []
    for grams, usd in ((1.0, 0.0), (carbon_usd, 1.0)):
        found.append(_ways(design, study, demand, own, others, may, grams, usd))
    waits = np.array([w.slack_h >= 1.0 for w in study.workloads])
    kwh = _energy(design, study, demand, own.kwh_per_token)
    return Shifting(
        deferrable_share=float(kwh[waits].sum() / max(kwh.sum(), 1e-12)),
        carbon_g=found[0],
        usd=found[1],
    )


class _Sites(NamedTuple):
    """Places with their series."""

    carbon: Floats
    """[site, hour] g/kWh; NaN where nobody knows."""
    price: Floats
    """[site, hour] USD/kWh, delivered."""
    kwh_per_token: Floats
    """[workload, site] at the meter; NaN where it is not served."""


def _own(design: Design, study: Study, meter: Meter) -> _Sites:
    line = meter.lines["facility_kwh"]
    pue = line.value[:, 0] / np.maximum(line.at[:, 0], 1e-12)
    use = _use(design, study)
    per_token = _per_token(design.fits, use) * pue
    places = [(c, p.size, p.price_usd_per_kwh) for c, p in zip(design.cities, design.places, strict=True)]  # fmt: skip
    return _Sites(*_series(study, places), kwh_per_token=per_token)


def _others(design: Design, study: Study, meter: Meter, spots: Sequence[Spot]) -> _Sites:
    """Sites that could be, with overhead as the design's own sites of that size have it, or all of them where it has none."""
    line = meter.lines["facility_kwh"]
    sizes = np.array([p.size.id for p in design.places])

    def pue(size: str) -> float:
        at = sizes == size if (sizes == size).any() else np.ones(len(sizes), bool)
        return float(line.value[at, 0].sum() / max(line.at[at, 0].sum(), 1e-12))

    ground = ground_for(study)
    columns = [ground.spots.index(s) for s in spots]
    fits = tuple(tuple(row[c] for c in columns) for row in ground.fits)
    per_token = _per_token(fits, _use(design, study)) * np.array([pue(s.size.id) for s in spots])
    places = [(s.city, s.size, s.price_usd_per_kwh) for s in spots]
    return _Sites(*_series(study, places), kwh_per_token=per_token)


def _both(first: _Sites, second: _Sites) -> _Sites:
    """The design's own sites beside those that could be, so that the best of all is never worse than the best of its own."""
    return _Sites(
        carbon=np.concatenate([first.carbon, second.carbon]),
        price=np.concatenate([first.price, second.price]),
        kwh_per_token=np.hstack([first.kwh_per_token, second.kwh_per_token]),
    )


def _use(design: Design, study: Study) -> Floats:
    """[workload] load over what all its chips could do, mean of the first year."""
    rate, _, _ = loads_of(design, study, demand_of(study))
    replicas, _ = first_replicas(design, study, demand_of(study), 0)
    held = np.zeros(len(study.workloads))
    for (w, s), count in replicas.items():
        fit = design.fits[w][s]
        assert fit is not None, "a replica that stands fits"
        held[w] += count * fit.tokens_per_s
    return np.asarray(np.clip(rate.sum(axis=1) / np.maximum(held, 1e-12), 1e-3, 1.0))


def _per_token(fits: Sequence[Sequence[Fit | None]], use: Floats) -> Floats:
    """[workload, site] kWh of IT a token, all sites equally used, so that none looks better for being fuller."""
    out = np.full((len(fits), len(fits[0]) if fits else 0), np.nan)
    for w, row in enumerate(fits):
        for s, fit in enumerate(row):
            if fit is not None:
                load = use[w] * fit.tokens_per_s
                watts = float(hourly_watts(fit, np.array(load))) + fit.host_w
                out[w, s] = kwh_from_j(watts / load)
    return out


def _series(study: Study, places: Sequence[tuple[City, SizeClass, float]]) -> tuple[Floats, Floats]:
    """Carbon and delivered price [site, hour] of the first calendar year."""
    start = datetime.combine(study.start.replace(month=1, day=1), time(), UTC)
    axis = StepAxis(start_s=start.timestamp(), count=HOURS_OF_YEAR, step_s=SECONDS_PER_HOUR)
    x = of_study(study).mid()
    carbon, price = [], []
    known: dict[str, Floats] = {}
    for city, size, listed in places:
        key = city.iso2
        if key not in known:
            site = site_of("s", city, size, operator_hq=study.operator_hq, rated_kw=1.0)
            known[key] = site_steps(site, Feed(), axis).carbon_g_per_kwh
        small = float(small_user_share(np.array(size.it_kw)))
        dearer = 1.0 + small * (float(x["small_user_price_factor"][0]) - 1.0)
        usd = listed * float(x["delivered_price_factor"][0]) * dearer
        carbon.append(known[key])
        price.append(np.full(axis.count, usd))
    shape = (len(places), axis.count)
    return np.array(carbon).reshape(shape), np.array(price).reshape(shape)


def _energy(design: Design, study: Study, demand: Demand, per_token: Floats) -> Floats:
    """[workload] kWh of a mean hour at own sites."""
    rate, _, _ = loads_of(design, study, demand)
    return np.asarray(np.nansum(rate * per_token, axis=1) * SECONDS_PER_HOUR)


def _ways(
    design: Design, study: Study, demand: Demand, own: _Sites, others: _Sites,
    may_sited: NDArray[np.bool_], grams: float, usd: float,
) -> Ways:  # fmt: skip
    """Sums over workloads of a year's cost: `grams` a gram and `usd` a dollar of energy."""
    sums = dict.fromkeys(("assigned", "static", "hourly", "deferred", "sited", "sited_hourly", "sited_deferred"), 0.0)  # fmt: skip
    rooms: list[Room] = []
    for w, work in enumerate(study.workloads):
        served = design.share.sum(axis=1)
        mine = np.flatnonzero((demand.workload == w) & (served > 0.0))
        if not len(mine):
            continue
        tokens = (demand.tokens_per_s * served)[mine, None] * demand.day[mine] * SECONDS_PER_HOUR
        share = design.share[mine] / served[mine, None]
        here = _costs(own, w, grams, usd)
        later = deferred(here, work.slack_h)
        first = bounds(here, tokens, share, design.may[mine])
        there = _costs(others, w, grams, usd)
        nowhere = np.zeros(may_sited[mine].shape)
        best = bounds(there, tokens, nowhere, may_sited[mine])
        waits = bounds(deferred(there, work.slack_h), tokens, nowhere, may_sited[mine])
        for name, value in (
            ("assigned", first.assigned),
            ("static", first.static),
            ("hourly", first.hourly),
            ("deferred", bounds(later, tokens, share, design.may[mine]).assigned),
            ("sited", best.static),
            ("sited_hourly", best.hourly),
            ("sited_deferred", waits.static),
        ):
            sums[name] += value
        rooms.append(Room(w=w, series=here, tokens=tokens, share=share, may=design.may[mine]))
    inside = roomed(design, study, demand, rooms)
    return Ways(**sums, room_assigned=inside[0], room_static=inside[1], room_hourly=inside[2])


def _costs(sites: _Sites, w: int, grams: float, usd: float) -> Floats:
    """[site, hour] of a token; where the work is not served a cost that nothing chooses."""
    per_kwh = usd * sites.price + grams * sites.carbon
    found = sites.kwh_per_token[w][:, None] * per_kwh
    return np.where(np.isnan(found), NEVER, found)

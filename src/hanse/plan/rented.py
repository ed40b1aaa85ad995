"""Chips for rent: which replica, how far away, for whom.

Here: `cloud_of`; rent as a column of the siting problem, so that a search weighs it against own sites (`with_rented`). Not here: what rented chips
cost (`tco_flows`), how many are rented in a year and draw (`operate`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from hanse.catalogue import city
from hanse.errors import ConfigError
from hanse.plan.assumptions import of_study
from hanse.plan.capacity import Fit, fit_of
from hanse.plan.demand import Demand
from hanse.plan.inventory import Inventory
from hanse.plan.operate import traffic_gb
from hanse.plan.physics import HOURS_OF_YEAR
from hanse.plan.policy import localised
from hanse.plan.reach import LAW, OK, lawful, round_trips_ms
from hanse.plan.siting_problem import Siting, SitingAnswer
from hanse.plan.study_file import Study
from hanse.plan.tco import costs
from hanse.units import SECONDS_PER_HOUR

Floats = NDArray[np.float64]
ID: Final = "rented"
PARTS: Final = (
    1.0,
    0.9,
    0.8,
    0.7,
    0.6,
    0.5,
    0.4,
    0.3,
    0.25,
    0.2,
    0.15,
    0.1,
    0.07,
    0.05,
    0.03,
    0.02,
    0.01,
)
"""Of what may be rented: how much the search can rent. Own sites come in coarser steps."""
STANDBY_MIN: Final = 0.005
"""Of what is rented: less is the step of `PARTS`, not a reserve."""


def cloud_of(
    study: Study, demand: Demand
) -> tuple[tuple[Fit | None, ...], Floats, NDArray[np.bool_]]:
    """Rented replicas [workload], round trip to the nearest lawful place [row], and whether there is one in time."""
    fits = []
    for work in study.workloads:
        options = []
        for chip in (work.accelerator,) if work.accelerator else ("h100-sxm", "l40s", "l4"):
            try:
                options.append(fit_of(work, chip))
            except ConfigError:
                continue
        fits.append(min(options, key=lambda f: f.watts_per_token_s, default=None))
    places = [city(c.city, iso2=c.country or "") for c in study.clouds]
    rtt = np.full(len(demand.rows), np.inf)
    ok = np.zeros(len(demand.rows), np.bool_)
    if places:
        theirs = replace(study, operator_hq=study.clouds[0].operator_hq)
        allowed = lawful(theirs, demand.places, places, study.start)
        ways = round_trips_ms(demand.places, places)[demand.city]
        for i, row in enumerate(demand.rows):
            work, origin = study.workloads[row.workload], demand.places[row.city]
            may = allowed[row.workload, row.city].copy()
            if work.own_country or bool(
                np.any(localised(study.policies, work.law, origin.iso2, study))
            ):
                may &= np.array([p.iso2 == origin.iso2 for p in places])
            if work.rtt_ms_max is not None:
                may &= ways[i] <= work.rtt_ms_max
            if may.any() and fits[row.workload] is not None:
                ok[i], rtt[i] = True, float(ways[i][may].min())
    return tuple(fits), rtt, ok


def rent_usd_per_kw(
    study: Study,
    demand: Demand,
    cloud: Sequence[Fit | None],
    fits: Sequence[Sequence[Fit | None]],
) -> Floats:
    """[workload] USD a year of rented chips for what a kW of the best own chips serves in its peak, traffic and carbon included; most likely figures.

    Rented for the peak all year, as `operate` does it; infinite where nothing is for rent.
    """
    x = of_study(study).mid()
    year = replace(study, years=1)
    found = np.full(len(study.workloads), np.inf)
    for w, fit in enumerate(cloud):
        best = min((f.watts_per_token_s for f in fits[w] if f is not None), default=0.0)
        if fit is None or best <= 0.0:
            continue
        mine = demand.workload == w
        tokens_s = 1000.0 / best
        over_mean = float(np.average(demand.peak[mine], weights=demand.tokens_per_s[mine]))
        tokens = tokens_s / over_mean * SECONDS_PER_HOUR * HOURS_OF_YEAR
        chip_h = fit.chips * tokens_s / fit.tokens_per_s * HOURS_OF_YEAR
        held = _nothing_own(fit.accelerator, chip_h, float(traffic_gb(study, w, np.array(tokens))))
        paid = costs(held, x, year).annual("cloud_rent", "cloud_egress", "cloud_carbon")
        found[w] = float(paid.mean())
    return found


def with_rented(problem: Siting, usd_per_kw: Floats, ok: NDArray[np.bool_]) -> Siting:
    """The problem with rent as one more column: a place that is paid by its capacity, in steps of `PARTS`, and never fails.

    Args:
        usd_per_kw: [row] of rented capacity.
        ok: [row] whether it may be rented.

    A row that is rented needs no own room after a failure; capacity that nobody uses stands by. What a row costs above the cheapest is paid by use.
    """
    ok = ok & np.isfinite(usd_per_kw)
    total = float(problem.demand[-1][ok].sum())
    if total <= 0.0:
        return problem
    parts = np.ceil(total * np.array(PARTS) * 1e6) / 1e6
    capacity = np.unique(np.concatenate([problem.capacity, parts[parts > 0.0]]))
    old = np.searchsorted(capacity, problem.capacity)
    new = np.searchsorted(capacity, parts[parts > 0.0])
    sites = len(problem.site_ids)
    fixed = np.zeros((sites + 1, len(capacity)))
    allowed = np.zeros(fixed.shape, np.bool_)
    fixed[:sites, old] = problem.fixed_usd
    allowed[:sites, old] = problem.sizes_allowed
    cheapest = float(usd_per_kw[ok].min())
    fixed[sites, new] = cheapest * capacity[new]
    allowed[sites, new] = True
    more = np.where(ok, usd_per_kw - cheapest, 0.0)
    fields = {name: getattr(problem, name) for name in problem.__struct_fields__}
    return Siting(
        **fields
        | {
            "site_ids": (*problem.site_ids, ID),
            "size_ids": tuple(f"k{n}" for n in range(len(capacity))),
            "capacity": capacity,
            "fixed_usd": fixed,
            "allowed": allowed,
            "unit_usd": np.hstack([problem.unit_usd, more[:, None]]),
            "refusal": np.hstack([problem.refusal, np.where(ok, OK, LAW)[:, None]]),
            "sites_max": None if problem.sites_max is None else problem.sites_max + 1,
            "failures": problem.failures or tuple((s,) for s in problem.site_ids),
        }
    )


def rented_kw(problem: Siting, answer: SitingAnswer, own: int) -> float:
    """Rented capacity in all."""
    if len(problem.site_ids) == own or answer.size[-1, own] < 0:
        return 0.0
    return float(problem.capacity[answer.size[-1, own]])


def standby_kw(problem: Siting, answer: SitingAnswer, own: int) -> float:
    """Rented capacity that serves nobody while all `own` sites work."""
    held = rented_kw(problem, answer, own)
    if held <= 0.0:
        return 0.0
    left = held - float(problem.demand[-1] @ answer.shares[-1][:, own])
    return left if left > STANDBY_MIN * held else 0.0


def _nothing_own(chip: str, chip_h: float, gb: float) -> Inventory:
    none = np.zeros((0, 1, 1))
    one = np.ones((1, 1, 1))
    return Inventory(
        places=(), years=1, it_kw=none, chips={}, chips_used={}, it_kwh=none, facility_kwh=none, import_kwh=none, export_kwh=none,
        peak_kw=none, water_l=none, pv_kw=none, wind_kw=none, battery_kwh=none, battery_kw=none, location_t=none, market_t=none,
        marginal_t=none, own_t=none, wan_gb=none, tokens=one, tokens_lost=0.0 * one, rented_chip_h={chip: chip_h * one},
        rented_gb=gb * one, personal=False,
    )  # fmt: skip

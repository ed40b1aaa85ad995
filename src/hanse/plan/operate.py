"""A design over the years and draws: demand grows, sites are built ahead of it by what is known then, chips work, meters turn.

Here: `operate`, which turns structure into an `Inventory`. Not here: the structure (`designs`), cost (`tco`).

Building. A module or a chip that serves in year y is ordered `lead` years before, for the demand that then was, grown at the rate that was
planned with. Demand that grows faster meets too little: the excess of the busy hours is rented, where law lets it, else lost. Demand that
grows slower leaves idle what was built. Plant is not taken down; chips are not sold before their life ends.

Energy. IT power of a replica over its load comes from the step model, over the hours of the day; what it becomes at the meter: `meter`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from hanse.plan.assumptions import Values, shocks
from hanse.plan.capacity import Z_WAIT, Fit
from hanse.plan.demand import HOURS, Demand, levelled_peak
from hanse.plan.design import Design
from hanse.plan.inventory import Inventory
from hanse.plan.meter import Meter, meter_of
from hanse.plan.physics import HOURS_OF_YEAR
from hanse.plan.study_file import Study
from hanse.units import SECONDS_PER_HOUR, kwh_from_wh

Floats = NDArray[np.float64]
CHIP_LEAD_YEARS: Final = 0.5
"""From order to service of servers: quarters rather than weeks for accelerators since 2023 (an assumption)."""
GRID: Final = np.linspace(0.0, 4.0, 161)
"""Capacity over mean load, where the served share is tabulated: the highest hour of the shipped day is 1.46."""
PERSONAL: Final = frozenset(
    ("personal", "sensitive", "health", "payment", "telecom", "government", "important")
)
SLACK_BUSY: Final = 0.95
"""Of the slots of work that may wait: its queue is long, but it ends."""
SECONDS_PER_YEAR: Final = HOURS_OF_YEAR * SECONDS_PER_HOUR
BYTES_PER_TOKEN: Final = 4.0
"""Of text, in UTF-8; English is near it."""
FRAME_BYTES: Final = 250.0
"""A streamed token travels in an event of JSON and its headers of transport; 200 to 300 in OpenAI's form."""


class Work(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """What a design builds and does, before meters: [site, year, draw] where not said otherwise."""

    it_kw: Floats
    chips: dict[str, Floats]
    chips_used: dict[str, Floats]
    it_kwh: Floats
    wan_gb: Floats
    tokens: Floats
    """[workload, year, draw] served by own chips."""
    short: Floats
    """[workload, year, draw] asked of own sites in busy hours, and too much for them."""


def operate(
    design: Design,
    study: Study,
    demand: Demand,
    x: Values,
    meter: Meter,
    paths: Floats | None = None,
) -> Inventory:
    """What the design has and uses, [site, year, draw]; `paths` of demand where `x` is a part of all draws."""
    paths = growth_paths(study, x) if paths is None else paths
    work = worked(design, study, demand, paths)
    rented = rent(design, study, demand, paths, work.short)
    full = np.maximum(meter.full_kw, 1e-9)[:, None, None]
    stands = np.minimum(work.it_kw / full, 1.0)
    own = np.array([[o.pv_kw, o.wind_kw, o.battery_kwh, o.battery_kw] for o in design.own])
    own = own.reshape(len(design.places), 4)[:, :, None, None]
    return Inventory(
        places=design.places,
        years=study.years,
        it_kw=work.it_kw,
        chips=work.chips,
        chips_used=work.chips_used,
        it_kwh=work.it_kwh,
        **meter.of(work.it_kwh, x),
        pv_kw=own[:, 0] * stands,
        wind_kw=own[:, 1] * stands,
        battery_kwh=own[:, 2] * stands,
        battery_kw=own[:, 3] * stands,
        wan_gb=work.wan_gb,
        tokens=work.tokens + rented.tokens,
        tokens_lost=rented.lost,
        rented_chip_h=rented.chip_h,
        rented_gb=rented.gb,
        personal=any(work.law in PERSONAL for work in study.workloads),
    )


def expected_meter(design: Design, study: Study, demand: Demand) -> Meter:
    """The design's meters when demand grows as planned."""
    paths = growth_paths(study, {"demand_growth_factor": np.ones(1)})
    work = worked(design, study, demand, paths)
    return meter_of(design, study, work.it_kwh[:, :, 0], work.it_kw[:, :, 0])


def worked(design: Design, study: Study, demand: Demand, paths: Floats) -> Work:
    """Sites built ahead of demand, chips at work."""
    rate, day, level = loads_of(design, study, demand)
    replicas: dict[tuple[str, int, int], Floats] = {}
    shape = (len(design.places), study.years, paths.shape[2])
    need_kw = {"plant": np.zeros(shape), "chips": np.zeros(shape)}
    for w, s, fit in served(design, rate):
        lead = max(design.places[s].size.lead_years, CHIP_LEAD_YEARS)
        for what, ahead in (("chips", CHIP_LEAD_YEARS), ("plant", lead)):
            expected = expected_path(paths[w], growth_of(study, w), ahead)
            peak = (rate[w, s] * level[w, s] + design.reserve[w, s]) * expected
            count = np.ceil(_replicas(fit, study, w, peak) * design.spare[s] - 1e-9)
            replicas[what, w, s] = count
            need_kw[what][s] += kwh_from_wh(fit.rated_w) * count
    it_kw = _built(design, need_kw["plant"])
    fits_in = np.minimum(1.0, it_kw / np.maximum(need_kw["chips"], 1e-9))
    out = Work(
        it_kw=it_kw,
        chips={},
        chips_used={},
        it_kwh=np.zeros(shape),
        wan_gb=np.zeros(shape),
        tokens=np.zeros(paths.shape),
        short=np.zeros(paths.shape),
    )
    for w, s, fit in served(design, rate):
        # Replicas are whole where all fit; where plant is short, what fits of them.
        count = np.maximum.accumulate(replicas["chips", w, s] * fits_in[s], axis=0)
        mean = rate[w, s] * paths[w]
        capacity = capacity_tokens_s(fit, study, w, count / design.spare[s])
        share = np.interp(capacity / np.maximum(mean, 1e-12), GRID, served_share(day[w, s]))
        _add(out, w, s, fit, study, count, mean, share, day[w, s])
    return out


def served(design: Design, rate: Floats) -> Iterator[tuple[int, int, Fit]]:
    """(workload, site, replica) that have work."""
    for w, row in enumerate(design.fits):
        for s, fit in enumerate(row):
            if fit is not None and rate[w, s] + design.reserve[w, s] > 0.0:
                yield w, s, fit


def _add(
    out: Work,
    w: int,
    s: int,
    fit: Fit,
    study: Study,
    count: Floats,
    mean: Floats,
    share: Floats,
    day: Floats,
) -> None:
    """One workload at one site into the sums."""
    done = mean * share * SECONDS_PER_YEAR
    out.tokens[w] += done
    out.short[w] += mean * (1.0 - share) * SECONDS_PER_YEAR
    load = mean * share / np.maximum(count, 1e-12)
    watts = _watts(fit, day, load) + fit.host_w
    out.it_kwh[s] += kwh_from_wh(watts * count * HOURS_OF_YEAR)
    for table, chips in (
        (out.chips, count * fit.chips),
        (out.chips_used, count * fit.chips * np.minimum(load / fit.tokens_per_s, 1.0)),
    ):
        table.setdefault(fit.accelerator, np.zeros(out.it_kw.shape))[s] += chips
    out.wan_gb[s] += traffic_gb(study, w, done)


def growth_paths(study: Study, x: Values) -> Floats:
    """[workload, year, draw] demand over that of the first year.

    The study's growth times `demand_growth_factor`, and a shock of each year that stays: a random walk of the logarithm with standard
    deviation `demand_shock_sd`. A single draw is the expected course, without shocks.
    """
    factor = x["demand_growth_factor"]
    draws = len(factor)
    out = np.ones((len(study.workloads), study.years, draws))
    moved = np.zeros((study.years, draws))
    if draws > 1:
        moved[1:] = x["demand_shock_sd"] * shocks(study.seed, "demand", study.years, draws)[1:]
    walk = np.exp(np.cumsum(moved, axis=0))
    for w in range(len(study.workloads)):
        rate = np.maximum(1.0 + growth_of(study, w) * factor, 0.01)
        out[w] = rate ** np.arange(study.years)[:, None] * walk
    return out


def expected_path(path: Floats, growth: float, lead_years: float) -> Floats:
    """[year, draw]: what was expected `lead_years` before, from what demand was then at the planned growth. Before the first year demand had
    grown as planned; between years it moves evenly.
    """
    years = path.shape[0]
    out = np.empty_like(path)
    for year in range(years):
        at = year - lead_years
        if at <= 0.0:
            out[year] = (1.0 + growth) ** year * path[0]
            continue
        low = int(np.floor(at))
        part = at - low
        known = path[low] ** (1.0 - part) * path[min(low + 1, years - 1)] ** part
        out[year] = known * (1.0 + growth) ** lead_years
    return out


def served_share(day: Floats) -> Floats:
    """[GRID] share of a day's demand that a constant capacity serves, by capacity over the mean; what comes above it is not put off."""
    over = day / day.mean()
    return np.asarray(np.minimum(over[None, :], GRID[:, None]).mean(axis=1))


def first_replicas(
    design: Design, study: Study, demand: Demand, year: int
) -> tuple[dict[tuple[int, int], int], dict[int, float]]:
    """Replicas that stand in a year, (workload, site), and IT power of the plant in kW by site, when demand grows as planned."""
    rate, _, level = loads_of(design, study, demand)
    replicas: dict[tuple[int, int], int] = {}
    need_kw = np.zeros((len(design.places), year + 1, 1))
    for w in range(len(study.workloads)):
        for s in range(len(design.places)):
            fit = design.fits[w][s]
            if fit is None or rate[w, s] + design.reserve[w, s] == 0.0:
                continue
            grown = (1.0 + growth_of(study, w)) ** np.arange(year + 1.0)
            peak = (rate[w, s] * level[w, s] + design.reserve[w, s]) * grown
            count = _replicas(fit, study, w, peak) * design.spare[s]
            whole = np.ceil(count - 1e-9)
            replicas[w, s] = int(whole[-1])
            need_kw[s, :, 0] += kwh_from_wh(fit.rated_w) * whole
    stood = _built(design, need_kw)[:, -1, 0]
    return replicas, {s: float(stood[s]) for s in range(len(design.places))}


def growth_of(study: Study, w: int) -> float:
    """Planned growth of a workload a year."""
    own = study.workloads[w].growth_per_year
    return study.growth_per_year if own is None else own


def loads_of(design: Design, study: Study, demand: Demand) -> tuple[Floats, Floats, Floats]:
    """Tokens/s of the first year [workload, site], their day [workload, site, hour] and peak over mean [workload, site]."""
    kinds, sites = len(study.workloads), len(design.places)
    rate, day = np.zeros((kinds, sites)), np.ones((kinds, sites, HOURS))
    level = np.ones((kinds, sites))
    for w in range(kinds):
        mine = demand.workload == w
        part = demand.tokens_per_s[mine, None] * design.share[mine]
        rate[w] = part.sum(axis=0)
        whole = np.einsum("rs,rh->sh", part, demand.day[mine])
        for s in np.flatnonzero(rate[w] > 0.0):
            day[w, s] = whole[s] / rate[w, s]
            level[w, s] = levelled_peak(day[w, s], study.workloads[w].slack_h)
    return rate, day, level


def _replicas(fit: Fit, study: Study, w: int, peak_tokens_s: Floats) -> Floats:
    """Replicas (not rounded) so that a peak finds a free slot."""
    work = study.workloads[w]
    running = peak_tokens_s / (work.tokens_in + work.tokens_out) * fit.e2e_s
    needed = running / SLACK_BUSY if work.slack_h > 0.0 else running + Z_WAIT * np.sqrt(running)
    return np.asarray(needed / fit.slots)


def capacity_tokens_s(fit: Fit, study: Study, w: int, replicas: Floats) -> Floats:
    """The peak that `replicas` serve: `_replicas` turned round."""
    work = study.workloads[w]
    slots = replicas * fit.slots * (SLACK_BUSY if work.slack_h > 0.0 else 1.0)
    if work.slack_h == 0.0:
        slots = ((np.sqrt(Z_WAIT**2 + 4.0 * slots) - Z_WAIT) / 2.0) ** 2
    return np.asarray(slots * (work.tokens_in + work.tokens_out) / fit.e2e_s)


def _built(design: Design, need_kw: Floats) -> Floats:
    """Plant [site, year, draw] in whole modules; never taken down, never above the size class."""
    out = np.zeros_like(need_kw)
    for s, place in enumerate(design.places):
        module, most = place.size.module_kw, place.size.it_kw
        stood = np.zeros(need_kw.shape[2])
        for year in range(need_kw.shape[1]):
            asked = np.ceil(need_kw[s, year] / module - 1e-9) * module
            stood = np.maximum(stood, np.minimum(asked, np.ceil(most / module) * module))
            out[s, year] = stood
    return out


def hourly_watts(fit: Fit, load: Floats) -> Floats:
    """Power of a replica's chips by its load in tokens/s."""
    return np.asarray(np.interp(load, fit.loads, fit.watts))


def _watts(fit: Fit, day: Floats, load: Floats) -> Floats:
    """Mean power of a replica's chips over the hours of a day, by its mean load in tokens/s."""
    points = np.linspace(0.0, fit.tokens_per_s, 33)
    hourly = hourly_watts(fit, points[:, None] * day[None, :]).mean(axis=1)
    return np.asarray(np.interp(load, points, hourly))


def traffic_gb(study: Study, w: int, tokens: Floats) -> Floats:
    """GB of users' traffic: prompts as text, answers as a stream of events."""
    work = study.workloads[w]
    answers = work.tokens_out / (work.tokens_in + work.tokens_out)
    per_token = BYTES_PER_TOKEN * (1.0 - answers) + FRAME_BYTES * answers
    return tokens * per_token / 1e9


class Rent(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """What is rented from a cloud, and what nobody serves."""

    chip_h: dict[str, Floats]
    """[1, year, draw] by accelerator."""
    tokens: Floats
    """[workload, year, draw]"""
    lost: Floats
    """[workload, year, draw]"""
    gb: Floats
    """[1, year, draw] to users."""


def rent(design: Design, study: Study, demand: Demand, paths: Floats, short: Floats) -> Rent:
    """Rows that are always rented, for their peak all year, with what stands by; and what was too much for own sites, by the hour."""
    kinds, years, draws = paths.shape
    out = Rent(
        chip_h={},
        tokens=np.zeros(paths.shape),
        lost=np.zeros(paths.shape),
        gb=np.zeros((1, years, draws)),
    )
    for w in range(kinds):
        mine = demand.workload == w
        base = demand.tokens_per_s[mine]
        always = float((base * design.rented[mine]).sum()) * paths[w]
        out.lost[w] += float((base * design.lost[mine]).sum()) * paths[w] * SECONDS_PER_YEAR
        fit = design.cloud[w]
        if fit is None:
            out.lost[w] += short[w] + always * SECONDS_PER_YEAR
            continue
        out.tokens[w] += always * SECONDS_PER_YEAR + short[w]
        out.gb[0] += traffic_gb(study, w, out.tokens[w])
        day = ((base * design.rented[mine])[:, None] * demand.day[mine]).sum(axis=0)
        level = levelled_peak(day, study.workloads[w].slack_h) if day.sum() > 0.0 else 1.0
        held = always * level + float(design.standby[w]) * paths[w]
        replicas = np.ceil(_replicas(fit, study, w, held) - 1e-9)
        hours = replicas * HOURS_OF_YEAR + short[w] / (fit.tokens_per_s * SECONDS_PER_HOUR)
        rented_h = out.chip_h.setdefault(fit.accelerator, np.zeros((1, years, draws)))
        rented_h[0] += fit.chips * hours
    return out

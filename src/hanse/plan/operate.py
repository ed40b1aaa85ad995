"""A design over the years and draws: demand grows, sites are built ahead of it by what is known then, chips work, meters turn.

Here: `operate`, which turns structure into an `Inventory`. Not here: the structure (`designs`), a year's physics (`physics`), cost (`tco`).

Building. A module or a chip that serves in year y is ordered `lead` years before, for the demand that then was, grown at the rate that was
planned with. Demand that grows faster meets too little: the excess of the busy hours is rented, where law lets it, else lost. Demand that
grows slower leaves idle what was built. Plant is not taken down; chips are not sold before their life ends.

Energy. IT power of a replica over its load comes from the step model, over the hours of the day. A site's year is run through the energy
balance at the expected load and a tenth above; other loads are put on the line through both (`Line`).
"""

from __future__ import annotations

from datetime import UTC, datetime, time
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from hanse.plan.assumptions import Values, shocks
from hanse.plan.capacity import Z_WAIT, Fit
from hanse.plan.demand import HOURS, Demand, levelled_peak
from hanse.plan.design import Design
from hanse.plan.inventory import Inventory
from hanse.plan.physics import HOURS_OF_YEAR, peak_kw, site_of, years_of
from hanse.plan.study_file import Study
from hanse.units import SECONDS_PER_HOUR, kwh_from_wh

Floats = NDArray[np.float64]
CHIP_LEAD_YEARS: Final = 0.5
"""From order to service of servers: quarters rather than weeks for accelerators since 2023 (an assumption)."""
RISE: Final = 1.1
"""The second load at which a site's year is run."""
GRID: Final = np.linspace(0.0, 4.0, 161)
"""Capacity over mean load, where the served share is tabulated: the highest hour of the shipped day is 1.46."""
PERSONAL: Final = frozenset(
    ("personal", "sensitive", "health", "payment", "telecom", "government", "important")
)
BYTES_PER_TOKEN: Final = 4.0
"""Of text, in UTF-8; English is near it."""
FRAME_BYTES: Final = 250.0
"""A streamed token travels in an event of JSON and its headers of transport; 200 to 300 in OpenAI's form."""


def operate(design: Design, study: Study, demand: Demand, x: Values) -> Inventory:
    """What the design has and uses, [site, year, draw]."""
    paths = growth_paths(study, x)
    sites, kinds = len(design.places), len(study.workloads)
    years, draws = study.years, paths.shape[2]
    shape = (sites, years, draws)
    rate, day, level = loads_of(design, study, demand)
    replicas = {}
    plant_need = np.zeros(shape)
    for w in range(kinds):
        for s in range(sites):
            fit = design.fits[w][s]
            if fit is None or rate[w, s] == 0.0:
                continue
            lead = max(design.places[s].size.lead_years, CHIP_LEAD_YEARS)
            for what, years_ahead in (("chips", CHIP_LEAD_YEARS), ("plant", lead)):
                expected = expected_path(paths[w], growth_of(study, w), years_ahead)
                count = (
                    _replicas(fit, study, w, rate[w, s] * expected * level[w, s]) * design.spare[s]
                )
                replicas[what, w, s] = np.ceil(count - 1e-9)
            plant_need[s] += kwh_from_wh(fit.rated_w) * replicas["plant", w, s]
    it_kw = _built(design, plant_need)
    return _used(design, study, demand, x, paths, rate, day, replicas, it_kw)


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
            if fit is None or rate[w, s] == 0.0:
                continue
            grown = (1.0 + growth_of(study, w)) ** np.arange(year + 1.0)
            count = _replicas(fit, study, w, rate[w, s] * grown * level[w, s]) * design.spare[s]
            whole = np.ceil(count - 1e-9)
            replicas[w, s] = int(whole[-1])
            need_kw[s, :, 0] += kwh_from_wh(fit.rated_w) * whole
    stood = _built(design, need_kw)[:, -1, 0]
    return replicas, {s: float(stood[s]) for s in range(len(design.places))}


class Line(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """A year's figure [site, year] at the expected IT energy, and what one more kWh adds."""

    at: Floats
    value: Floats
    slope: Floats

    def of(self, it_kwh: Floats) -> Floats:
        """[site, year, draw]"""
        found = self.value[:, :, None] + self.slope[:, :, None] * (it_kwh - self.at[:, :, None])
        return np.maximum(found, 0.0)


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
    needed = running if work.slack_h > 0.0 else running + Z_WAIT * np.sqrt(running)
    return np.asarray(needed / fit.slots)


def capacity_tokens_s(fit: Fit, study: Study, w: int, replicas: Floats) -> Floats:
    """The peak that `replicas` serve: `_replicas` turned round."""
    work = study.workloads[w]
    slots = replicas * fit.slots
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


def _used(
    design: Design,
    study: Study,
    demand: Demand,
    x: Values,
    paths: Floats,
    rate: Floats,
    day: Floats,
    replicas: dict[Any, Floats],
    it_kw: Floats,
) -> Inventory:
    sites, years, draws = it_kw.shape
    kinds = len(study.workloads)
    shape = it_kw.shape
    asked_kw = np.zeros(shape)
    for (what, w, s), count in replicas.items():
        if what == "chips":
            fit = design.fits[w][s]
            assert fit is not None, "only served workloads have replicas"
            asked_kw[s] += kwh_from_wh(fit.rated_w) * count
    fits_in = np.minimum(1.0, it_kw / np.maximum(asked_kw, 1e-9))
    chips: dict[str, Floats] = {}
    used: dict[str, Floats] = {}
    it_kwh = np.zeros(shape)
    tokens, short = np.zeros((kinds, years, draws)), np.zeros((kinds, years, draws))
    wan_gb = np.zeros(shape)
    for w in range(kinds):
        for s in range(sites):
            fit = design.fits[w][s]
            if fit is None or ("chips", w, s) not in replicas:
                continue
            # Replicas are whole where all fit; where plant is short, what fits of them.
            count = np.maximum.accumulate(replicas["chips", w, s] * fits_in[s], axis=0)
            mean = rate[w, s] * paths[w]
            capacity = capacity_tokens_s(fit, study, w, count / design.spare[s])
            share = np.interp(capacity / np.maximum(mean, 1e-12), GRID, served_share(day[w, s]))
            year_s = HOURS_OF_YEAR * SECONDS_PER_HOUR
            tokens[w] += mean * share * year_s
            short[w] += mean * (1.0 - share) * year_s
            load = mean * share / np.maximum(count, 1e-12)
            watts = _watts(fit, day[w, s], load) + fit.host_w
            it_kwh[s] += kwh_from_wh(watts * count * HOURS_OF_YEAR)
            held = chips.setdefault(fit.accelerator, np.zeros(shape))
            held[s] += count * fit.chips
            busy = used.setdefault(fit.accelerator, np.zeros(shape))
            busy[s] += count * fit.chips * np.minimum(load / fit.tokens_per_s, 1.0)
            wan_gb[s] += _gb(study, w, mean * share * year_s)
    rented_h, rented_tokens, lost = _rented(design, study, demand, paths, short)
    sums = _years(design, study, x, it_kwh, it_kw)
    own = np.array([[o.pv_kw, o.wind_kw, o.battery_kwh, o.battery_kw] for o in design.own])
    own = own.reshape(sites, 4)[:, :, None, None]
    return Inventory(
        places=design.places,
        years=years,
        it_kw=it_kw,
        chips=chips,
        chips_used=used,
        it_kwh=it_kwh,
        **{name: line.of(it_kwh) for name, line in sums.items()},
        pv_kw=own[:, 0],
        wind_kw=own[:, 1],
        battery_kwh=own[:, 2],
        battery_kw=own[:, 3],
        wan_gb=wan_gb,
        tokens=tokens + rented_tokens,
        tokens_lost=lost,
        rented_chip_h=rented_h,
        personal=any(work.law in PERSONAL for work in study.workloads),
    )


def hourly_watts(fit: Fit, load: Floats) -> Floats:
    """Power of a replica's chips by its load in tokens/s."""
    return np.asarray(np.interp(load, fit.loads, fit.watts))


def _watts(fit: Fit, day: Floats, load: Floats) -> Floats:
    """Mean power of a replica's chips over the hours of a day, by its mean load in tokens/s."""
    points = np.linspace(0.0, fit.tokens_per_s, 33)
    hourly = hourly_watts(fit, points[:, None] * day[None, :]).mean(axis=1)
    return np.asarray(np.interp(load, points, hourly))


def _gb(study: Study, w: int, tokens: Floats) -> Floats:
    """GB of users' traffic: prompts as text, answers as a stream of events."""
    work = study.workloads[w]
    answers = work.tokens_out / (work.tokens_in + work.tokens_out)
    per_token = BYTES_PER_TOKEN * (1.0 - answers) + FRAME_BYTES * answers
    return tokens * per_token / 1e9


def _rented(
    design: Design, study: Study, demand: Demand, paths: Floats, short: Floats
) -> tuple[dict[str, Floats], Floats, Floats]:
    """Chip-hours rented [1, year, draw], tokens served by them and tokens lost [workload, year, draw]."""
    kinds, years, draws = paths.shape
    hours: dict[str, Floats] = {}
    served, lost = np.zeros(paths.shape), np.zeros(paths.shape)
    for w in range(kinds):
        mine = demand.workload == w
        base = demand.tokens_per_s[mine]
        year_s = HOURS_OF_YEAR * SECONDS_PER_HOUR
        always = float((base * design.rented[mine]).sum()) * paths[w] * year_s
        lost[w] = float((base * design.lost[mine]).sum()) * paths[w] * year_s
        fit = design.cloud[w]
        if fit is None:
            lost[w] += short[w] + always
            continue
        served[w] = always + short[w]
        day = (base[:, None] * demand.day[mine]).sum(axis=0)
        full = fit.tokens_per_s * SECONDS_PER_HOUR
        # Reserved all year for the peak of what is always rented; what is rented for busy hours is paid by the hour.
        level = levelled_peak(day, study.workloads[w].slack_h)
        mean = always / year_s
        replicas = np.ceil(_replicas(fit, study, w, mean * level) - 1e-9)
        found = hours.setdefault(fit.accelerator, np.zeros((1, years, draws)))
        found[0] += fit.chips * (replicas * HOURS_OF_YEAR + short[w] / full)
    return hours, served, lost


def _years(
    design: Design, study: Study, x: Values, it_kwh: Floats, it_kw: Floats
) -> dict[str, Line]:
    """Year's figures by site and year as lines over IT energy, from two runs of the balance at the mean over draws."""
    names = {
        "facility_kwh": "facility_kwh",
        "import_kwh": "import_kwh",
        "export_kwh": "export_kwh",
        "water_l": "water_l",
        "location_t": "carbon_location_g",
        "market_t": "carbon_market_g",
        "marginal_t": "carbon_marginal_g",
        "own_t": "carbon_own_g",
    }
    sites, years, _ = it_kwh.shape
    middle = it_kwh.mean(axis=2)
    if sites == 0:
        nothing = np.zeros((0, years))
        return {n: Line(at=nothing, value=nothing, slope=nothing) for n in (*names, "peak_kw")}
    rated = it_kw.mean(axis=2)
    found = [_run(design, study, rated, middle * rise) for rise in (1.0, RISE)]
    step = np.maximum(middle * (RISE - 1.0), 1e-9)
    lines = {}
    for name in (*names, "peak_kw"):
        if name == "peak_kw":
            low, high = (peak_kw(result) for result in found)
        else:
            unit = 1e-6 if name.endswith("_t") else 1.0
            low, high = (result.sums[names[name]] * unit for result in found)
        low, high = low.reshape(sites, years), high.reshape(sites, years)
        lines[name] = Line(at=middle, value=low, slope=(high - low) / step)
    return lines


def _run(design: Design, study: Study, rated_kw: Floats, it_kwh: Floats) -> Any:
    """A year of every (site, year), all in the weather of the first."""
    sites = []
    for s, (place, city) in enumerate(zip(design.places, design.cities, strict=True)):
        for year in range(study.years):
            full = max(float(rated_kw[s].max()), 1e-9)
            part = float(rated_kw[s, year]) / full
            own = design.own[s]
            grown = msgspec.structs.replace(
                own, **{f: getattr(own, f) * part for f in own.__struct_fields__}
            )
            sites.append(
                site_of(
                    f"{place.id}-{year}",
                    city,
                    place.size,
                    operator_hq=study.operator_hq,
                    rated_kw=float(rated_kw[s, year]),
                    own=grown,
                    price_usd_per_kwh=place.price_usd_per_kwh,
                )
            )
    mean_kw = (it_kwh / HOURS_OF_YEAR).reshape(-1, 1)
    start_s = datetime.combine(study.start.replace(month=1, day=1), time(), UTC).timestamp()
    return years_of(sites, np.repeat(mean_kw, HOURS, axis=1), start_s)

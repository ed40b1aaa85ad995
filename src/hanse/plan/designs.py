"""Designs of a study: each way to build that its file names, as the cheapest structure that way allows.

Here: `designs_of`: the study's demand, prices, law and sizes as a siting problem (`candidates`), solved once a design, and the answer as a
`Design`. Not here: the search itself, years and draws (`operate`), full cost (`tco`).

What the search sees: demand of the last year, so that what is built in steps ends in the right places; each size class at a few stages of being
built; figures at their most likely values. Cost of what stands is fixed, cost of chips and energy goes with use. Rows that may go to the same places
are one; who is served where is decided when sizes stand (`assign`). Capacity is IT power; a size class whose chips need more of it for the study's mix holds less.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import msgspec
import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from hanse.errors import ConfigError
from hanse.plan.assign import assigned
from hanse.plan.assumptions import of_study
from hanse.plan.candidates import Limits, Siting, SitingAnswer, site_plan
from hanse.plan.capacity import Fit, fit_of
from hanse.plan.demand import Demand
from hanse.plan.design import Design
from hanse.plan.inventory import Inventory
from hanse.plan.operate import growth_of, traffic_gb
from hanse.plan.physics import HOURS_OF_YEAR, Own, site_of, years_of
from hanse.plan.policy import localised
from hanse.plan.reach import FIT, LAW, NAMES, OK, RTT, lawful, round_trips_ms
from hanse.plan.regret import UNASKED, regrets
from hanse.plan.rented import cloud_of, rent_usd_per_kw, rented_kw, standby_kw, with_rented
from hanse.plan.reserve import standby_classes, standby_usd, with_reserve
from hanse.plan.spots import Spot, spots_of
from hanse.plan.study_file import DesignSpec, SizeClass, Study
from hanse.plan.tco import costs
from hanse.units import SECONDS_PER_HOUR

Floats = NDArray[np.float64]
Progress = Callable[[float], None]
STAGE_RATIO: Final = 3.0
"""From one stage of being built to the next; finer ones make the search longer and its answer hardly cheaper."""
STAGES_MAX: Final = 8
"""From a module of a row to a campus a thousand times as large."""
HEADROOM: Final = 1.15
"""Plant over mean need that the search provides: rounding to whole replicas, and the spread that its straight lines leave out."""
GAP: Final = 0.02
"""Figures of cost are not known to 2 %; half of it takes the search several times as long."""
GAP_QUICK: Final = 0.03
UNCOVERED_USD: Final = 1e6
"""A year of a kW that would not survive a failure: fifty times what one costs, so that it is a last resort, and no more, since solvers lose
their footing over twelve decades of prices.
"""
NODES_MAX: Final = 300
"""What is not proven by then is the answer, with its gap beside it."""


STANDBY_PAIRS_MAX: Final = 2000
"""Groups of rows times spots: beyond it a price of what stands by, a maximum, costs the search minutes, so that it goes without."""


class Ground(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """What all designs of a study share."""

    study: Study
    demand: Demand
    spots: tuple[Spot, ...]
    fits: tuple[tuple[Fit | None, ...], ...]
    """[workload][spot]"""
    refusal: NDArray[np.int64]
    """[row, spot]"""
    rtt_ms: Floats
    """[row, spot]"""
    unit_usd: Floats
    """[row, spot]: a kW of need served for a year."""
    need_kw: Floats
    """[row]: IT power in the last year, on the chip that takes least."""
    stretch: Floats
    """[spot]: IT power that the study's mix takes on the spot's chips, over what it takes on the best."""
    fixed_usd: Floats
    """[spot, stage]"""
    stages_kw: Floats
    """[spot, stage]"""
    standby_usd: float
    """A year of chips for a kW of need that stand by, on the chips that take least: no energy, no traffic."""
    cloud: tuple[Fit | None, ...]
    cloud_rtt_ms: Floats
    """[row]; infinite where law forbids every place with rented chips."""
    cloud_ok: NDArray[np.bool_]
    """[row]"""


def designs_of(
    study: Study, demand: Demand, *, quick: bool = False, progress: Progress | None = None
) -> tuple[Design, ...]:
    """One design for each way that the study names.

    Raises:
        ConfigError: a workload that no size class's chips hold.
    """
    tell = progress or (lambda share: None)
    if not study.workloads:
        return ()
    ground = ground_of(study, demand)
    found = []
    for number, spec in enumerate(study.designs):
        tell(0.2 + 0.8 * number / len(study.designs))
        found.append(design_of(ground, spec, GAP_QUICK if quick else GAP))
    tell(1.0)
    return tuple(found)


def ground_of(study: Study, demand: Demand) -> Ground:
    """Places, chips, law, prices."""
    spots = spots_of(study)
    fits = _fits(study, spots)
    refusal, rtt = _refusals(study, demand, spots, fits)
    need, stretch = _needs(study, demand, spots, fits)
    stages = np.stack([_stages_kw(s.size) for s in spots])
    fixed, usd_per_kw, chips_per_kw = _prices(study, spots, fits, stages)
    cloud, cloud_rtt, cloud_ok = cloud_of(study, demand)
    unit = np.zeros(refusal.shape)
    for i, row in enumerate(demand.rows):
        unit[i] = usd_per_kw[row.workload] * stretch
    return Ground(
        study=study,
        demand=demand,
        spots=spots,
        fits=fits,
        refusal=refusal,
        rtt_ms=rtt,
        unit_usd=unit,
        need_kw=need,
        stretch=stretch,
        fixed_usd=fixed,
        stages_kw=stages,
        standby_usd=standby_usd(study, demand, fits, need, chips_per_kw),
        cloud=cloud,
        cloud_rtt_ms=cloud_rtt,
        cloud_ok=cloud_ok,
    )


def _fits(study: Study, spots: Sequence[Spot]) -> tuple[tuple[Fit | None, ...], ...]:
    """[workload][spot]: the chip of the size class that takes least power, and a replica small enough for the site."""
    found = []
    for work in study.workloads:
        by_size: dict[str, Fit | None] = {}
        why = ""
        for size in study.sizes:
            chips = (work.accelerator,) if work.accelerator else size.accelerators
            options = []
            for chip in chips:
                try:
                    fit = fit_of(work, chip)
                except ConfigError as error:
                    why = str(error)
                    continue
                if fit.rated_w / 1000.0 <= size.it_kw:
                    options.append(fit)
                else:
                    why = f"one replica takes {fit.rated_w / 1000.0:.1f} kW, {size.id} has {size.it_kw:g}"
            by_size[size.id] = min(options, key=lambda f: f.watts_per_token_s, default=None)
        if not any(by_size.values()):
            raise ConfigError(
                f"workload {work.id}",
                got=why,
                allowed="a model and an SLO that chips of one size class at least can meet",
                fix="name other accelerators, a smaller precision or a longer SLO",
            )
        found.append(tuple(by_size[s.size.id] for s in spots))
    return tuple(found)


def _refusals(
    study: Study, demand: Demand, spots: Sequence[Spot], fits: Sequence[Sequence[Fit | None]]
) -> tuple[NDArray[np.int64], Floats]:
    cities = [s.city for s in spots]
    allowed = lawful(study, demand.places, cities, study.start)
    rtt = round_trips_ms(demand.places, cities)[demand.city].reshape(len(demand.rows), len(spots))
    out = np.full((len(demand.rows), len(spots)), OK, np.int64)
    countries = np.array([s.city.iso2 for s in spots])
    for i, row in enumerate(demand.rows):
        work, origin = study.workloads[row.workload], demand.places[row.city]
        out[i, [f is None for f in fits[row.workload]]] = FIT
        if work.rtt_ms_max is not None:
            out[i, rtt[i] > work.rtt_ms_max] = RTT
        out[i, ~allowed[row.workload, row.city]] = LAW
        bound = localised(study.policies, work.law, origin.iso2, study)
        if work.own_country or bool(np.any(bound)):
            out[i, countries != origin.iso2] = LAW
    return out, rtt


def _needs(
    study: Study, demand: Demand, spots: Sequence[Spot], fits: Sequence[Sequence[Fit | None]]
) -> tuple[Floats, Floats]:
    """kW of each row in the last year, on the best chip; and what each spot's chips take of the mix over that."""
    last = study.years - 1
    need = np.zeros(len(demand.rows))
    best = [min((f.watts_per_token_s for f in row if f), default=0.0) for row in fits]
    of_work = np.zeros(len(study.workloads))
    for i, row in enumerate(demand.rows):
        grown = (1.0 + growth_of(study, row.workload)) ** last
        peak = demand.tokens_per_s[i] * demand.peak[i] * grown
        need[i] = peak * best[row.workload] / 1000.0 * HEADROOM
        of_work[row.workload] += need[i]
    stretch = np.ones(len(spots))
    for s in range(len(spots)):
        held = [w for w in range(len(study.workloads)) if fits[w][s] is not None]
        total = sum(of_work[w] for w in held)
        if total > 0.0:
            taken = sum(of_work[w] * fits[w][s].watts_per_token_s / best[w] for w in held)  # type: ignore[union-attr]
            stretch[s] = taken / total
    return need, stretch


def _stages_kw(size: SizeClass) -> Floats:
    """[stage] in whole modules, the full size first; padded with it."""
    kw = [size.it_kw]
    while kw[-1] > size.module_kw * 1.0001 and len(kw) < STAGES_MAX:
        less = max(kw[-1] / STAGE_RATIO, size.module_kw)
        kw.append(float(np.ceil(less / size.module_kw - 1e-9) * size.module_kw))
        if kw[-1] >= kw[-2]:
            kw.pop()
            break
    return np.array(kw + [size.it_kw] * (STAGES_MAX - len(kw)))


def _prices(
    study: Study,
    spots: Sequence[Spot],
    fits: Sequence[Sequence[Fit | None]],
    stages_kw: Floats,
) -> tuple[Floats, Floats, Floats]:
    """Yearly USD of what stands [spot, stage], of a kW of IT in use [workload, spot] (chips, energy, carbon, traffic), and of its chips alone."""
    x = of_study(study).mid()
    years = replace(study, years=1)
    nothing = _bare(spots, {})
    fixed = np.stack(
        [
            costs(replace(nothing, it_kw=stages_kw[:, k].reshape(-1, 1, 1)), x, years)
            .by_site()
            .mean(axis=(1, 2))
            for k in range(stages_kw.shape[1])
        ],
        axis=1,
    )
    meters = _meters(study, spots, stages_kw[:, 0])
    usd = np.zeros((len(study.workloads), len(spots)))
    of_chips = np.zeros(usd.shape)
    for w, row in enumerate(fits):
        chips: dict[str, Floats] = {}
        tokens = np.zeros(len(spots))
        for s, fit in enumerate(row):
            if fit is not None:
                count = stages_kw[s, 0] / (fit.rated_w / 1000.0)
                held = chips.setdefault(fit.accelerator, np.zeros((len(spots), 1, 1)))
                held[s] = count * fit.chips
                tokens[s] = 0.5 * count * fit.tokens_per_s * SECONDS_PER_HOUR * HOURS_OF_YEAR
        gb = traffic_gb(study, w, tokens).reshape(-1, 1, 1)
        full = replace(
            nothing, it_kw=stages_kw[:, :1].reshape(-1, 1, 1), chips=chips, wan_gb=gb, **meters
        )
        whole = costs(full, x, years).by_site().mean(axis=(1, 2))
        usd[w] = np.maximum(whole - fixed[:, 0], 0.0) / stages_kw[:, 0]
        idle = replace(nothing, it_kw=full.it_kw, chips=chips)
        alone = costs(idle, x, years).by_site().mean(axis=(1, 2))
        of_chips[w] = np.maximum(alone - fixed[:, 0], 0.0) / stages_kw[:, 0]
    return np.maximum(fixed, 0.0), usd, of_chips


def _bare(spots: Sequence[Spot], chips: Mapping[str, Floats]) -> Inventory:
    none = np.zeros((len(spots), 1, 1))
    return Inventory(
        places=tuple(s.place() for s in spots), years=1, it_kw=none, chips=dict(chips), chips_used={},
        it_kwh=none, facility_kwh=none, import_kwh=none, export_kwh=none, peak_kw=none, water_l=none,
        pv_kw=none, wind_kw=none, battery_kwh=none, battery_kw=none, location_t=none, market_t=none,
        marginal_t=none, own_t=none, wan_gb=none, tokens=np.ones((1, 1, 1)),
        tokens_lost=np.zeros((1, 1, 1)), rented_chip_h={}, personal=False,
    )  # fmt: skip


def _meters(study: Study, spots: Sequence[Spot], it_kw: Floats) -> dict[str, Floats]:
    """A year of every spot at six tenths of its plant: near what chips, servers and hours of the day leave of the rating."""
    from datetime import UTC, datetime, time

    sites = [
        site_of(
            f"spot-{i}",
            s.city,
            s.size,
            operator_hq=study.operator_hq,
            rated_kw=float(kw),
            price_usd_per_kwh=s.price_usd_per_kwh,
        )
        for i, (s, kw) in enumerate(zip(spots, it_kw, strict=True))
    ]
    start_s = datetime.combine(study.start.replace(month=1, day=1), time(), UTC).timestamp()
    result = years_of(sites, np.repeat(0.6 * it_kw[:, None], 24, axis=1), start_s)
    names: dict[str, tuple[str, float]] = {
        "it_kwh": ("it_kwh", 1.0),
        "facility_kwh": ("facility_kwh", 1.0),
        "import_kwh": ("import_kwh", 1.0),
        "water_l": ("water_l", 1.0),
        "location_t": ("carbon_location_g", 1e-6),
        "peak_kw": ("demand_kw_months", 1.0 / 12.0),
    }
    sums: Any = result.sums
    return {n: (sums[f] * unit).reshape(-1, 1, 1) for n, (f, unit) in names.items()}


def design_of(
    ground: Ground,
    spec: DesignSpec,
    gap: float,
    *,
    nodes_max: int = NODES_MAX,
    regret: bool = False,
    rent_times: float = 1.0,
) -> Design:
    """One way to build; `regret`: with what each of its sites is worth, which takes a search a site; `rent_times`: on the price of rented chips."""
    if not spec.sizes:
        return _rented(ground, spec)
    chosen = [i for i, s in enumerate(ground.spots) if s.size.id in spec.sizes]
    groups = _groups(ground, chosen, spec.rent)
    problem = _problem(ground, spec, chosen, groups)
    if spec.rent:
        usd = rent_usd_per_kw(ground.study, ground.demand, ground.cloud, ground.fits)
        mean = [
            np.average(
                [usd[ground.demand.rows[int(i)].workload] for i in g], weights=ground.need_kw[g]
            )
            for g in groups
        ]
        ok = np.array([bool(ground.cloud_ok[g[0]]) for g in groups])
        problem = with_rented(problem, rent_times * np.array(mean), ok)
    answer = site_plan(problem, Limits(gap=gap, nodes_max=nodes_max))
    design = _built(ground, spec, chosen, problem, answer)
    if not regret:
        return design
    said = regrets(problem, answer)
    own, more = said[: len(design.places)], said[len(design.places) :]
    more = tuple(s for s in more if not s.startswith(UNASKED))
    return replace(design, regret=own, notes=(*design.notes, *(f"rented chips: {s}" for s in more)))


def _groups(ground: Ground, chosen: Sequence[int], rent: bool) -> list[NDArray[np.int64]]:
    """Rows that may go to the same places are one row of the search, wherever they come from: each such group."""
    by_key: dict[tuple[bytes, bool, bool], list[int]] = {}
    for i, row in enumerate(ground.demand.rows):
        live = ground.study.workloads[row.workload].kind == "interactive"
        rentable = rent and bool(ground.cloud_ok[i])
        key = (ground.refusal[i, list(chosen)].tobytes(), live, rentable)
        by_key.setdefault(key, []).append(i)
    return [np.array(rows, np.int64) for rows in by_key.values()]


def _problem(
    ground: Ground,
    spec: DesignSpec,
    chosen: Sequence[int],
    groups: Sequence[NDArray[np.int64]],
) -> Siting:
    """The siting problem: capacity in kW of the best chips, a size for each stage of each class."""
    spots = [ground.spots[i] for i in chosen]
    at = np.array(chosen, np.int64)
    levels, index = _levels(ground, chosen)
    fixed = np.zeros((len(spots), len(levels)))
    allowed = np.zeros(fixed.shape, np.bool_)
    for row, i in enumerate(chosen):
        for stage in range(STAGES_MAX):
            k = index[row, stage]
            allowed[row, k] = True
            fixed[row, k] = ground.fixed_usd[i, stage]
    need = np.array([ground.need_kw[g].sum() for g in groups])
    weight = [ground.need_kw[g] / max(ground.need_kw[g].sum(), 1e-12) for g in groups]
    unit = np.stack([w @ ground.unit_usd[g][:, at] for g, w in zip(groups, weight, strict=True)])
    refusal = np.stack([ground.refusal[g[0], at] for g in groups])
    live = [
        ground.study.workloads[ground.demand.rows[int(g[0])].workload].kind == "interactive"
        for g in groups
    ]
    survive = None
    if ground.study.sites_lost and spec.sites_max != 1:
        survive = np.array([1.0 if one else 0.0 for one in live])
    return Siting(
        demand_ids=tuple(_named(ground, rows) for rows in groups),
        site_ids=tuple(s.id for s in spots),
        size_ids=tuple(f"k{n}" for n in range(len(levels))),
        demand=need[None, :],
        unit_usd=unit,
        capacity=levels,
        fixed_usd=fixed,
        refusal=refusal,
        reasons=NAMES,
        allowed=allowed,
        sites_max=spec.sites_max,
        survive_share=survive,
        uncovered_usd=UNCOVERED_USD,
        standby_usd=0.0
        if survive is None or refusal.size > STANDBY_PAIRS_MAX
        else ground.standby_usd,
        standby_class=standby_classes([s.city.iso2 for s in spots], refusal, live),
    )


def _named(ground: Ground, rows: NDArray[np.int64]) -> str:
    """What a group of rows is, in words."""
    mine = [ground.demand.rows[int(i)] for i in rows]
    work = sorted({ground.study.workloads[r.workload].id for r in mine})
    places = sorted({r.city for r in mine}, key=lambda c: -ground.demand.places[c].population)
    names = [ground.demand.places[c].name for c in places[:3]]
    more = f" and {len(places) - 3} more" if len(places) > 3 else ""
    return f"{', '.join(work)} of {', '.join(names)}{more}"


def _levels(ground: Ground, chosen: Sequence[int]) -> tuple[Floats, NDArray[np.int64]]:
    """Capacities that occur, rising, in kW of the best chips; and which of them each (spot, stage) has."""
    at = np.array(chosen, np.int64)
    held = ground.stages_kw[at] / ground.stretch[at][:, None]
    levels = np.unique(np.round(held, 6))
    return levels, np.searchsorted(levels, np.round(held, 6))


def _built(
    ground: Ground,
    spec: DesignSpec,
    chosen: Sequence[int],
    problem: Siting,
    answer: SitingAnswer,
) -> Design:
    """The search's answer as a design."""
    stand = np.flatnonzero(answer.size[-1, : len(chosen)] >= 0)
    spots = [ground.spots[chosen[int(s)]] for s in stand]
    columns = [chosen[int(s)] for s in stand]
    fits = tuple(tuple(row[c] for c in columns) for row in ground.fits)
    plant_kw = problem.capacity[answer.size[-1][stand]]
    share, chosen_rent = _shares(
        ground, columns, fits, plant_kw, rented_kw(problem, answer, len(chosen))
    )
    left = np.clip(1.0 - share.sum(axis=1), 0.0, 1.0)
    left[left < 1e-6] = 0.0
    rented = np.where(ground.cloud_ok, left, np.minimum(chosen_rent, left))
    design = Design(
        spec=spec,
        places=tuple(s.place() for s in spots),
        cities=tuple(s.city for s in spots),
        share=share,
        rented=rented,
        lost=left - rented,
        fits=fits,
        cloud=ground.cloud,
        cloud_may=ground.cloud_ok,
        cloud_rtt_ms=np.where(np.isfinite(ground.cloud_rtt_ms), ground.cloud_rtt_ms, 0.0),
        reserve=np.zeros((len(fits), len(spots))),
        standby=np.zeros(len(fits)),
        spare=np.ones(len(spots)),
        own=(Own(),) * len(spots),
        rtt_ms=ground.rtt_ms[:, columns],
        may=ground.refusal[:, columns] == OK,
        regret=("",) * len(spots),
        gap=float(answer.gap),
        notes=tuple(f"{v.where}: {v.why}; {v.cure}" for v in answer.violations[:10]),
    )
    spare_kw = standby_kw(problem, answer, len(chosen))
    return with_reserve(design, ground.study, ground.demand, plant_kw, spare_kw)


def _shares(
    ground: Ground,
    columns: Sequence[int],
    fits: Sequence[Sequence[Fit | None]],
    plant_kw: Floats,
    rent_kw: float,
) -> tuple[Floats, Floats]:
    """[row, site] of a row's demand in own sites, and [row] in rented chips, which are one place more."""
    rows = len(ground.need_kw)
    replica = np.array([[f.rated_w / 1000.0 if f else 0.0 for f in row] for row in fits])
    replica = replica.reshape(len(fits), len(columns)) / ground.stretch[columns]
    places = 1 if rent_kw > 0.0 else 0
    cloud_ms = np.where(ground.cloud_ok, ground.cloud_rtt_ms, 0.0)
    # Rented chips are paid whether they serve or not.
    share = assigned(
        ground.need_kw,
        np.hstack([ground.unit_usd[:, columns], np.zeros((rows, places))]),
        np.hstack([ground.rtt_ms[:, columns], np.repeat(cloud_ms[:, None], places, axis=1)]),
        np.hstack(
            [ground.refusal[:, columns] == OK, np.repeat(ground.cloud_ok[:, None], places, axis=1)]
        ),
        np.append(plant_kw, [rent_kw] * places),
        ground.demand.workload,
        np.hstack([replica, np.zeros((len(fits), places))]),
    )
    return share[:, : len(columns)], share[:, len(columns) :].sum(axis=1)


def _rented(ground: Ground, spec: DesignSpec) -> Design:
    rows = len(ground.demand.rows)
    ok = ground.cloud_ok.astype(np.float64)
    lost = int((~ground.cloud_ok).sum())
    note = f"{lost} of {rows} rows may not be rented: law, or no cloud near enough" if lost else ""
    return Design(
        spec=spec,
        places=(),
        cities=(),
        share=np.zeros((rows, 0)),
        rented=ok,
        lost=1.0 - ok,
        fits=tuple(() for _ in ground.study.workloads),
        cloud=ground.cloud,
        cloud_may=ground.cloud_ok,
        cloud_rtt_ms=np.where(np.isfinite(ground.cloud_rtt_ms), ground.cloud_rtt_ms, 0.0),
        reserve=np.zeros((len(ground.study.workloads), 0)),
        standby=np.zeros(len(ground.study.workloads)),
        spare=np.zeros(0),
        own=(),
        rtt_ms=np.zeros((rows, 0)),
        may=np.zeros((rows, 0), np.bool_),
        regret=(),
        gap=0.0,
        notes=(note,) if note else (),
    )

"""How much PV, wind and battery a site should have: a linear program over typical days, judged by the whole year.

Here: `size_own_power` for many sites at once, `own_power_year` for given sizes; figures of the program and of the year side by
side. The year is the house's own physics at five minutes (`energy.run_year`): its figures are the ones that count. Not here:
capital turned into yearly cost (`capital.recovery_factor`), which IT load a site has.

Where the battery follows its surplus (`rule` "surplus") the program sees a day ahead and the year does not; where it
follows a plan, the plan is made month by month with perfect foresight, which flatters it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, Final, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from hanse.catalogue import emission_factor
from hanse.energy.plant import PLANTS, Plant, it_kw_rated
from hanse.energy.series import OwnSeries, SiteSeries
from hanse.energy.year import YearResult, run_year
from hanse.errors import ConfigError
from hanse.model.fleet import Site, Value
from hanse.plan.days import HOURS, typical_days
from hanse.plan.own_power_lp import Hours, OwnPowerModel, Terms
from hanse.signals import Feed, StepAxis
from hanse.units import SECONDS_PER_DAY, SECONDS_PER_HOUR, per_g_from_per_t

Floats = NDArray[np.float64]
DAYS_FIRST, DAYS_MORE = 12, 24
"""Typical days to begin with, and where 12 miss the year: one a month, two a month."""
DIFFERENCE_MAX = 0.05
"""Of cost, between program and year: a program further away has chosen for another year."""
POLISH_FACTORS: Final = (1.15, 1.05)
"""Steps of the search in the year: from what a program misses to what nobody would notice."""
UNLIMITED_KW: Final = 1e9
DUST_KW: Final = 0.001
"""A watt, or a watt-hour: nobody builds so little, and a solver leaves 1e-14 of what it means to be none."""
YEAR_2026: Final = StepAxis(start_s=datetime(2026, 1, 1, tzinfo=UTC).timestamp(), count=365 * 288)
QUANTITIES: Final = (
    "price_usd_per_kwh",
    "carbon_g_per_kwh",
    "residual_g_per_kwh",
    "carbon_free_share",
)


class Prices(Value, frozen=True, kw_only=True):
    """Yearly cost of owning a unit, capital and upkeep; the caller has the lives and the rate."""

    pv_usd_per_kw: float
    wind_usd_per_kw: float
    battery_usd_per_kwh: float
    battery_usd_per_kw: float
    carbon_usd_per_t: float = 0.0
    """Of imported energy at the grid's average, and of own generation's lifecycle."""


class Room(Value, frozen=True, kw_only=True):
    """What the place can hold."""

    pv_kw_max: float = UNLIMITED_KW
    wind_kw_max: float = UNLIMITED_KW
    battery_kwh_max: float = UNLIMITED_KW
    c_rate_max: float = 1.0
    """Power over capacity of the battery; lithium systems are sold from 1/4 to 1."""


class Case(Value, frozen=True, kw_only=True, eq=False):
    """One site to size. `site.power` gives connection, price and PUE; its own generation is ignored."""

    site: Site
    it_kw: float | Floats
    """One figure, or [step] of the axis."""
    prices: Prices
    room: Room = Room()
    plant: Plant | None = None
    """Absent: of the site's kind. Its contracts hold demand charge and export price, its storage the efficiencies."""
    rule: Literal["surplus", "plan"] = "surplus"


class OwnPower(Value, frozen=True, kw_only=True):
    """Sizes."""

    pv_kw: float = 0.0
    wind_kw: float = 0.0
    battery_kwh: float = 0.0
    battery_kw: float = 0.0


class OwnPowerFigures(Value, frozen=True, kw_only=True):
    """A year, by the program or by the physics."""

    load_kwh: float
    generated_kwh: float
    import_kwh: float
    export_kwh: float
    curtailed_kwh: float
    unserved_kwh: float
    carbon_free_share: float
    """Of load, matched hour by hour (by the physics: step by step); the grid's own carbon-free share counts."""
    own_share: float
    """Of load, from own generation, directly or through the battery: 1 - import / load."""
    self_used_share: float
    """Of own generation, neither sold nor thrown away; 0 without any."""
    capital_usd: float
    import_usd: float
    demand_usd: float
    export_usd: float
    """Earned; the other `_usd` are spent."""
    carbon_usd: float
    carbon_location_g: float
    carbon_market_g: float
    carbon_own_g: float
    """Lifecycle of own generation that was not sold; beside the two, never part of them."""

    @property
    def usd(self) -> float:
        """All of it, a year."""
        spent = self.capital_usd + self.import_usd + self.demand_usd + self.carbon_usd
        return spent - self.export_usd


class Sized(Value, frozen=True, kw_only=True):
    """The answer for one site."""

    site: str
    own: OwnPower
    days: int
    """Typical days that the program had."""
    sought: bool
    """The program missed the year by more than `DIFFERENCE_MAX`: sizes are from a search in the year itself, which began at
    the program's, so its figures are those of other sizes."""
    program: OwnPowerFigures
    year: OwnPowerFigures
    """The figures that count."""
    none: OwnPowerFigures
    """The same year without own generation and battery."""
    difference: float
    """Of cost: program over year, less 1."""


class SiteHours(Value, frozen=True, kw_only=True, eq=False):
    """What a site's year brings, hour by hour [hour]."""

    load_kw: Floats
    pv_share: Floats
    wind_share: Floats
    price_usd_per_kwh: Floats
    carbon_g_per_kwh: Floats
    residual_g_per_kwh: Floats
    carbon_free_share: Floats
    month: NDArray[np.int64]
    """[hour]: counted from the axis' first."""


class World(Value, frozen=True, kw_only=True, eq=False):
    """The year that sites live in."""

    axis: StepAxis = YEAR_2026
    """Whole days, UTC."""
    feed: Feed | None = None
    series: OwnSeries | None = None
    """The operator's own prices and carbon, by site id."""


def size_own_power(cases: Sequence[Case], world: World | None = None) -> tuple[Sized, ...]:
    """Size every site by the program and run all their years together; those that it misses by more than
    `DIFFERENCE_MAX` anew with more typical days; where that does not help, better sizes are sought in the year itself
    (not for batteries by plan: each try would plan a year).
    """
    world = world or World()
    _check(cases, world.axis)
    hours = site_hours(cases, world)
    none = own_power_year(cases, [OwnPower()] * len(cases), world)
    found: dict[int, Sized] = {}
    todo = list(range(len(cases)))
    for days in (DAYS_FIRST, DAYS_MORE):
        if not todo:
            break
        sized = [program(cases[i], hours[i], days) for i in todo]
        picked, its_hours = [cases[i] for i in todo], [hours[i] for i in todo]
        owns = [own for own, _ in sized]
        years = list(own_power_year(picked, owns, world, its_hours))
        if days == DAYS_MORE:
            missed = [
                k
                for k, (_, figures) in enumerate(sized)
                if _difference(figures, years[k]) > DIFFERENCE_MAX and picked[k].rule == "surplus"
            ]
            owns, years = _polished(picked, owns, years, missed, world)
        for i, own, (first, figures), year in zip(todo, owns, sized, years, strict=True):
            found[i] = Sized(
                site=cases[i].site.id,
                own=own,
                days=days,
                sought=own != first,
                program=figures,
                year=year,
                none=none[i],
                difference=figures.usd / year.usd - 1.0 if year.usd else 0.0,
            )
        todo = [i for i in todo if _difference(found[i].program, found[i].year) > DIFFERENCE_MAX]
    return tuple(found[i] for i in range(len(cases)))


def _difference(program: OwnPowerFigures, year: OwnPowerFigures) -> float:
    return abs(program.usd - year.usd) / abs(year.usd) if year.usd else 0.0


def _polished(
    cases: Sequence[Case],
    owns: list[OwnPower],
    years: list[OwnPowerFigures],
    missed: Sequence[int],
    world: World,
) -> tuple[list[OwnPower], list[OwnPowerFigures]]:
    """Sizes moved one at a time as long as the year gets cheaper, in steps that are halved (Hooke, Jeeves, J. ACM 8, 1961)."""
    owns, years = list(owns), list(years)
    for factor in POLISH_FACTORS:
        for move in (
            (factor, 1, 1),
            (1 / factor, 1, 1),
            (1, factor, 1),
            (1, 1 / factor, 1),
            (1, 1, factor),
            (1, 1, 1 / factor),
        ):
            tried = {i: _moved(cases[i], owns[i], move) for i in missed}
            places = [i for i in missed if tried[i] != owns[i]]
            if not places:
                continue
            ran = own_power_year([cases[i] for i in places], [tried[i] for i in places], world)
            for i, year in zip(places, ran, strict=True):
                if year.usd < years[i].usd:
                    owns[i], years[i] = tried[i], year
    return owns, years


def _moved(case: Case, own: OwnPower, factors: tuple[float, float, float]) -> OwnPower:
    """Sizes times factors, within the room; a battery keeps its C-rate."""
    pv, wind, battery = factors
    if own.battery_kwh > 0.0:
        battery = min(battery, max(1.0, case.room.battery_kwh_max / own.battery_kwh))
    return OwnPower(
        pv_kw=min(own.pv_kw * pv, case.room.pv_kw_max),
        wind_kw=min(own.wind_kw * wind, case.room.wind_kw_max),
        battery_kwh=own.battery_kwh * battery,
        battery_kw=own.battery_kw * battery,
    )


def site_hours(cases: Sequence[Case], world: World | None = None) -> tuple[SiteHours, ...]:
    """Load with all overhead, one kW of PV and of wind, price and carbon of every site's year."""
    world = world or World()
    axis = world.axis
    unit = OwnPower(pv_kw=1.0, wind_kw=1.0)
    sites = [_built(case.site, unit, UNLIMITED_KW) for case in cases]
    parts: list[dict[str, Floats]] = []

    def keep(month: SiteSeries) -> None:
        per_hour = round(SECONDS_PER_HOUR / axis.step_s)
        names = ("pv_kw", "wind_kw", *QUANTITIES)
        rows = len(month.outside)
        parts.append({n: month.outside[n].reshape(rows, -1, per_hour).mean(2) for n in names})

    ran = _run(cases, sites, world, keep)
    whole = {name: np.concatenate([p[name] for p in parts], axis=1) for name in parts[0]}
    count = [p["pv_kw"].shape[1] for p in parts]
    month = np.repeat(np.arange(len(count)), count)
    known = np.nan_to_num(whole["carbon_free_share"])
    return tuple(
        SiteHours(
            load_kw=ran.hourly["load_kwh"][i],
            pv_share=whole["pv_kw"][i],
            wind_share=whole["wind_kw"][i],
            price_usd_per_kwh=whole["price_usd_per_kwh"][i],
            carbon_g_per_kwh=whole["carbon_g_per_kwh"][i],
            residual_g_per_kwh=whole["residual_g_per_kwh"][i],
            carbon_free_share=known[i],
            month=month,
        )
        for i in range(len(cases))
    )


def program(case: Case, hours: SiteHours, days: int) -> tuple[OwnPower, OwnPowerFigures]:
    """Size one site over typical days; the program's own figures."""
    terms = terms_of(case, grid_charges=case.rule == "plan", cyclic_days=True)
    chosen = days_of(hours, days)
    model = OwnPowerModel(chosen, terms)
    values = model.solve()
    pv, wind, kwh, kw = (float(v) for v in np.maximum(values[model.size], 0.0))
    own = without_dust(OwnPower(pv_kw=pv, wind_kw=wind, battery_kwh=kwh, battery_kw=kw))
    return own, _program_figures(case, model, values, own)


def without_dust(own: OwnPower) -> OwnPower:
    """Sizes without what a solver's tolerance leaves; a battery without capacity or without power is none."""
    battery = own.battery_kwh >= DUST_KW and own.battery_kw >= DUST_KW
    return OwnPower(
        pv_kw=own.pv_kw if own.pv_kw >= DUST_KW else 0.0,
        wind_kw=own.wind_kw if own.wind_kw >= DUST_KW else 0.0,
        battery_kwh=own.battery_kwh if battery else 0.0,
        battery_kw=own.battery_kw if battery else 0.0,
    )


def days_of(hours: SiteHours, count: int) -> Hours:
    """Typical days of a site, scaled so that each quantity's weighted sum is the year's.

    The day with the least sun and wind for its load is among them. Every month's leanest day among them (for demand charges)
    was tried and made the program miss the year by more, not less: it leaves fewer days for the ordinary ones.
    """
    names = ("load_kw", "pv_share", "wind_share", *QUANTITIES)
    table = np.array([getattr(hours, name) for name in names])
    # Nobody's carbon is known everywhere: an unknown quantity tells days apart by nothing.
    clear = np.nan_to_num(table)
    lean = hours.load_kw / max(hours.load_kw.mean(), 1e-12)
    for name in ("pv_share", "wind_share"):
        made = getattr(hours, name)
        lean = lean - made / max(made.mean(), 1e-12)
    leanest = int(lean.reshape(-1, HOURS).sum(axis=1).argmax())
    found = typical_days(clear, count, [leanest])
    by_day = table.reshape(len(names), -1, HOURS)
    picked = by_day[:, found.day]
    total = (picked * found.weight[:, None]).sum(axis=(1, 2))
    factor = np.divide(table.sum(axis=1), total, out=np.ones(len(names)), where=total != 0.0)
    scaled = {n: picked[k] * factor[k] for k, n in enumerate(names)}
    scaled["carbon_free_share"] = np.minimum(1.0, scaled["carbon_free_share"])
    month = hours.month[::HOURS]
    in_month = np.zeros((month.max() + 1, count), bool)
    in_month[month, found.stands_in] = True
    return Hours(**scaled, weight=found.weight, in_month=in_month)


def terms_of(case: Case, *, grid_charges: bool, cyclic_days: bool) -> Terms:
    """A case's prices and limits as the program takes them."""
    plant = case.plant or PLANTS[case.site.kind]
    power, prices, room = case.site.power, case.prices, case.room
    sale = plant.contracts.export_kw_max
    return Terms(
        pv_usd_per_kw=prices.pv_usd_per_kw,
        wind_usd_per_kw=prices.wind_usd_per_kw,
        battery_usd_per_kwh=prices.battery_usd_per_kwh,
        battery_usd_per_kw=prices.battery_usd_per_kw,
        pv_kw_max=room.pv_kw_max,
        wind_kw_max=room.wind_kw_max,
        battery_kwh_max=room.battery_kwh_max,
        c_rate_max=room.c_rate_max,
        charge_efficiency=plant.storage.charge_efficiency,
        discharge_efficiency=plant.storage.discharge_efficiency,
        self_discharge_per_h=plant.storage.self_discharge_per_h,
        grid_kw_max=power.grid_kw_max,
        export_kw_max=power.grid_kw_max if sale is None else sale,
        export_usd_per_kwh=plant.contracts.export_usd_per_kwh,
        usd_per_kw_month=plant.contracts.usd_per_kw_month,
        carbon_usd_per_g=per_g_from_per_t(prices.carbon_usd_per_t),
        pv_g_per_kwh=emission_factor("solar_rooftop_pv").gco2e_kwh_median,
        wind_g_per_kwh=emission_factor("wind_onshore").gco2e_kwh_median,
        grid_charges=grid_charges,
        cyclic_days=cyclic_days,
    )


def own_power_year(
    cases: Sequence[Case],
    sizes: Sequence[OwnPower],
    world: World | None = None,
    hours: Sequence[SiteHours] | None = None,
) -> tuple[OwnPowerFigures, ...]:
    """The physics' year of every site at given sizes. `hours` is needed for cases that follow a plan and have a battery."""
    world = world or World()
    axis = world.axis
    sites = [
        _built(c.site, own, c.site.power.grid_kw_max) for c, own in zip(cases, sizes, strict=True)
    ]
    plans: dict[int, tuple[Floats, Floats]] = {}
    for i, (case, own) in enumerate(zip(cases, sizes, strict=True)):
        if case.rule == "plan" and own.battery_kwh > 0.0:
            assert hours is not None, "a plan is made from the site's hours"
            plans[i] = battery_plan(case, hours[i], own)
    done = [0]

    def instruct(month: SiteSeries) -> None:
        per_hour = round(SECONDS_PER_HOUR / axis.step_s)
        count = month.axis.count // per_hour
        for i, (charge, discharge) in plans.items():
            assert hours is not None
            here, rows = slice(done[0], done[0] + count), month.outside[i]
            load_kw = np.repeat(hours[i].load_kw[here], per_hour)
            surplus = (rows["pv_kw"] + rows["wind_kw"] - load_kw).reshape(count, per_hour)
            rows["plan_charge_kw"] = spread(charge[here], np.maximum(surplus, 0.0))
            rows["plan_discharge_kw"] = spread(discharge[here], np.maximum(-surplus, 0.0))
        done[0] += count

    ran = _run(cases, sites, world, instruct)
    return tuple(
        _year_figures(case, own, ran, i)
        for i, (case, own) in enumerate(zip(cases, sizes, strict=True))
    )


def battery_plan(case: Case, hours: SiteHours, own: OwnPower) -> tuple[Floats, Floats]:
    """Charge and discharge [hour] that cost least at given sizes, month by month, all of it known before."""
    terms = terms_of(case, grid_charges=True, cyclic_days=False)
    sizes = np.array([own.pv_kw, own.wind_kw, own.battery_kwh, own.battery_kw])
    names = ("load_kw", "pv_share", "wind_share", *QUANTITIES)
    charge, discharge = np.zeros(len(hours.month)), np.zeros(len(hours.month))
    for month in range(hours.month.max() + 1):
        here = np.flatnonzero(hours.month == month)
        days = len(here) // HOURS
        parts = {n: getattr(hours, n)[here].reshape(days, HOURS) for n in names}
        parts["carbon_g_per_kwh"] = np.nan_to_num(parts["carbon_g_per_kwh"])
        one = Hours(**parts, weight=np.ones(days), in_month=np.ones((1, days), bool))
        model = OwnPowerModel(one, terms)
        model.fix(sizes)
        values = model.solve()
        charge[here] = values[model.charge].ravel()
        discharge[here] = values[model.discharge].ravel()
    return np.maximum(charge, 0.0), np.maximum(discharge, 0.0)


def spread(hourly_kw: Floats, room_kw: Floats) -> Floats:
    """A plan [hour] over its steps [hour, step] in proportion to the surplus (or lack) there, what is beyond it evenly.

    An even plan would buy in a cloud's minutes what the hour as a whole has to spare, and the quarter-hour peak shows it.
    """
    mean = room_kw.mean(axis=1)
    within = np.minimum(hourly_kw, mean)
    part = np.divide(within, mean, out=np.zeros_like(mean), where=mean > 0.0)
    return np.asarray((room_kw * part[:, None] + (hourly_kw - within)[:, None]).ravel())


def _run(
    cases: Sequence[Case],
    sites: Sequence[Site],
    world: World,
    prepare: Callable[[SiteSeries], None],
) -> YearResult:
    plants = {}
    for case in cases:
        plant = case.plant or PLANTS[case.site.kind]
        rated = it_kw_rated(case.site) if plant.it_kw_rated is None else plant.it_kw_rated
        rule: Any = case.rule
        storage = msgspec.structs.replace(plant.storage, rule=rule)
        plants[case.site.id] = msgspec.structs.replace(plant, it_kw_rated=rated, storage=storage)
    loads = np.array([np.broadcast_to(case.it_kw, world.axis.count) for case in cases])
    return run_year(
        sites,
        loads,
        world.axis,
        feed=world.feed,
        plants=plants,
        own=world.series,
        prepare=prepare,
    )


def _built(site: Site, own: OwnPower, grid_kw_max: float) -> Site:
    power = msgspec.structs.replace(
        site.power,
        grid_kw_max=grid_kw_max,
        pv_kw_peak=own.pv_kw,
        wind_kw_rated=own.wind_kw,
        battery_kwh=own.battery_kwh,
        battery_kw_max=own.battery_kw,
    )
    return msgspec.structs.replace(site, power=power)


def _check(cases: Sequence[Case], axis: StepAxis) -> None:
    ids = [case.site.id for case in cases]
    if len(set(ids)) != len(ids):
        raise ConfigError("cases", got="a site twice", allowed="every site once")
    days = axis.count * axis.step_s / SECONDS_PER_DAY
    if axis.start_s % SECONDS_PER_DAY != 0.0 or days % 1.0 != 0.0 or days < DAYS_MORE:
        raise ConfigError(
            "axis", got=f"{days:g} days", allowed=f"{DAYS_MORE} whole days, UTC, or more"
        )


def capital_usd(prices: Prices, own: OwnPower) -> float:
    """Yearly cost of owning these sizes."""
    plants = own.pv_kw * prices.pv_usd_per_kw + own.wind_kw * prices.wind_usd_per_kw
    battery = (
        own.battery_kwh * prices.battery_usd_per_kwh + own.battery_kw * prices.battery_usd_per_kw
    )
    return plants + battery


def _program_figures(
    case: Case, model: OwnPowerModel, values: Floats, own: OwnPower
) -> OwnPowerFigures:
    h, t, weight = model.hours, model.terms, model.hours.weight[:, None]

    def total(kw: Floats) -> float:
        return float((weight * kw).sum())

    bought, sold = values[model.load], values[model.export]
    pv, wind = own.pv_kw * h.pv_share, own.wind_kw * h.wind_share
    made, load = total(pv + wind), total(h.load_kw)
    spare, short = total(values[model.spare]), total(values[model.short])
    kept = 1.0 - total(sold) / made if made > 0.0 else 0.0
    own_g = kept * (t.pv_g_per_kwh * total(pv) + t.wind_g_per_kwh * total(wind))
    location_g = total(bought * h.carbon_g_per_kwh)
    peaks = float(values[model.peak].sum()) if t.usd_per_kw_month > 0.0 else 0.0
    return OwnPowerFigures(
        load_kwh=load,
        generated_kwh=made,
        import_kwh=total(bought),
        export_kwh=total(sold),
        curtailed_kwh=spare,
        unserved_kwh=short,
        carbon_free_share=1.0 - (short + total(bought * (1.0 - h.carbon_free_share))) / load,
        own_share=1.0 - (total(bought) + short) / load,
        self_used_share=(made - total(sold) - spare) / made if made > 0.0 else 0.0,
        capital_usd=capital_usd(case.prices, own),
        import_usd=total(bought * h.price_usd_per_kwh),
        demand_usd=peaks * t.usd_per_kw_month,
        export_usd=total(sold) * t.export_usd_per_kwh,
        carbon_usd=t.carbon_usd_per_g * (location_g + own_g),
        carbon_location_g=location_g,
        carbon_market_g=total(bought * h.residual_g_per_kwh),
        carbon_own_g=own_g,
    )


def _year_figures(case: Case, own: OwnPower, ran: YearResult, i: int) -> OwnPowerFigures:
    s = ran.sums[i]
    served = float(ran.hourly["load_kwh"][i].sum())
    made = float(s["pv_kwh"] + s["wind_kwh"])
    used = float(s["pv_used_kwh"] + s["wind_used_kwh"])
    location_g, own_g = float(s["carbon_location_g"]), float(s["carbon_own_g"])
    carbon = per_g_from_per_t(case.prices.carbon_usd_per_t)
    return OwnPowerFigures(
        load_kwh=float(s["facility_kwh"]),
        generated_kwh=made,
        import_kwh=float(s["import_kwh"]),
        export_kwh=float(s["export_kwh"]),
        curtailed_kwh=float(s["curtailed_kwh"]),
        unserved_kwh=float(s["unserved_kwh"]),
        carbon_free_share=float(s["carbon_free_kwh"]) / served if served > 0.0 else 0.0,
        own_share=1.0 - float(s["import_kwh"] + s["unserved_kwh"]) / float(s["facility_kwh"]),
        self_used_share=used / made if made > 0.0 else 0.0,
        capital_usd=capital_usd(case.prices, own),
        import_usd=float(s["usd_import"]),
        demand_usd=float(s["usd_demand"]),
        export_usd=float(s["usd_export"]),
        carbon_usd=carbon * (location_g + own_g),
        carbon_location_g=location_g,
        carbon_market_g=float(s["carbon_market_g"]),
        carbon_own_g=own_g,
    )

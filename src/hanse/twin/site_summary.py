"""What each site and the whole fleet came to: use of engines, energy to the meter, carbon, money, the carbon-free hours.

Here: `sites_of`, `fleet_of`. Not here: requests (`summary`), the balance itself (`energy`, `power`).

A site's meter also counts what it draws for others (`base_kw`). Carbon and money are of the whole meter; what an answer is charged
is their part by energy, as if the site's mix and price were the same for both, and the egress of its answers on top. What a battery lost of the content
it began with was not free: it is charged at the grid's mean carbon and price of the run. A gain is not credited: mostly it is surplus sun,
which is worth less than what it would replace.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from hanse.energy import states
from hanse.energy.balance import plant
from hanse.energy.series import site_series
from hanse.signals import StepAxis
from hanse.twin import arrays as ar
from hanse.twin.course import CourseTaker
from hanse.twin.power import STEP_S
from hanse.twin.quantiles import quantile_ms
from hanse.twin.result import CarbonUse, CostUse, EnergyUse, SiteResult, SupplyUse
from hanse.twin.simulate import Simulation
from hanse.twin.tally import Tally
from hanse.units import SECONDS_PER_DAY, hours_from_s, kwh_from_j, kwh_from_wh, wh_from_kwh

V = TypeVar("V", EnergyUse, SupplyUse, CarbonUse, CostUse)
STORES: Final = ("battery_start_kwh", "battery_end_kwh")
SUPPLY_FIELDS: Final = tuple(f for f in SupplyUse.__struct_fields__ if f not in STORES)


class Books(NamedTuple):
    """What of a site is added up for the fleet, and what ratios are made of."""

    engines: int
    slots: int
    served: int
    busy_s: float
    batch_s: float
    used_max: float
    ttft_ms_p95: float | None
    it_kwh: float
    rated_kwh: float
    full_kw: tuple[float, float]
    """IT and overhead at rated load."""
    energy: EnergyUse
    supply: SupplyUse
    carbon: CarbonUse
    cost: CostUse
    ai_wh: float
    ai_g: float | None
    ai_usd: float
    hours: NDArray[np.float64]
    """[hour, 2] carbon-free and served kWh."""


def ratio(part: float, whole: float) -> float | None:
    """None where the whole is nothing or the part unknown."""
    return float(part) / float(whole) if whole > 0.0 and not math.isnan(part) else None


def sites_of(simulation: Simulation, tally: Tally, course: CourseTaker) -> list[Books]:
    """Books of every site, in the order of the fleet file."""
    used = course.slots_used()
    steps = min(int(simulation.power.sums["steps"].max()), int(SECONDS_PER_DAY / STEP_S))
    axis = StepAxis(start_s=simulation.start_at_s, count=max(steps, 1), step_s=STEP_S)
    outside = site_series(simulation.fleet.sites, simulation.feed, axis).outside
    return [
        _books(simulation, i, outside[i], float(tally.egress_usd[i]), float(used[:, i].max()))
        for i in range(len(simulation.fleet.sites))
    ]


def site_results(
    simulation: Simulation, parts: Sequence[Books], elapsed_s: float
) -> tuple[SiteResult, ...]:
    """Every site."""
    return tuple(
        _result(part, elapsed_s, id=s.id, kind=s.kind, city=s.city, country=s.country)
        for s, part in zip(simulation.fleet.sites, parts, strict=True)
    )


def fleet_result(
    simulation: Simulation, parts: Sequence[Books], course: CourseTaker, elapsed_s: float
) -> SiteResult:
    """All sites as one: sums, and ratios of sums."""
    unknown = any(part.ai_g is None for part in parts)
    whole = Books(
        engines=sum(p.engines for p in parts),
        slots=sum(p.slots for p in parts),
        served=sum(p.served for p in parts),
        busy_s=sum(p.busy_s for p in parts),
        batch_s=sum(p.batch_s for p in parts),
        used_max=float(course.slots_used().sum(axis=1).max()),
        ttft_ms_p95=quantile_ms(simulation.world.hist[0, 0], 0.95),
        it_kwh=sum(p.it_kwh for p in parts),
        rated_kwh=sum(p.rated_kwh for p in parts),
        full_kw=(sum(p.full_kw[0] for p in parts), sum(p.full_kw[1] for p in parts)),
        energy=_added([p.energy for p in parts]),
        supply=_added([p.supply for p in parts]),
        carbon=_added([p.carbon for p in parts]),
        cost=_added([p.cost for p in parts]),
        ai_wh=sum(p.ai_wh for p in parts),
        ai_g=None if unknown else sum(p.ai_g or 0.0 for p in parts),
        ai_usd=sum(p.ai_usd for p in parts),
        hours=np.sum([p.hours for p in parts], axis=0),
    )
    name = simulation.fleet.name
    return _result(whole, elapsed_s, id=name, kind="fleet", city="", country="")


def _books(
    simulation: Simulation, i: int, outside: Any, egress_usd: float, used_max: float
) -> Books:
    fleet, world, power = simulation.fleet, simulation.world, simulation.power
    sums = power.sums[i]
    k = 1 + len(fleet.services) + len(fleet.classes) + i
    engines = world.engines[world.engine_first[i] : world.engine_first[i + 1]]
    hours = hours_from_s(int(sums["steps"]) * STEP_S)
    energy = _energy(power, i, engines, hours)
    carbon = CarbonUse(
        own_g=float(sums["carbon_own_g"]),
        **{f"{m}_g": _known(sums[f"carbon_{m}_g"]) for m in ("location", "marginal", "market")},
    )
    cost = CostUse(
        energy_usd=float(sums["usd_import"]),
        export_usd=float(sums["usd_export"]),
        demand_usd=float(sums["usd_demand"]),
        egress_usd=egress_usd,
    )
    supply = SupplyUse(
        battery_start_kwh=float(states(fleet.sites[i : i + 1])[0]["battery_kwh"]),
        battery_end_kwh=float(power.state[i]["battery_kwh"]),
        **{f: float(sums[f]) for f in SUPPLY_FIELDS},
    )
    share = _ai_share(energy) or 0.0
    store_g, store_usd = _store(outside, supply)
    of_meter_usd = cost.energy_usd - cost.export_usd + cost.demand_usd + store_usd
    of_meter_g = None if carbon.location_g is None else carbon.location_g + carbon.own_g + store_g
    return Books(
        engines=len(engines),
        slots=int(engines["slots"].sum()),
        served=int(world.sums[k, ar.SUM_SERVED]),
        busy_s=float(engines["busy_s"].sum()),
        batch_s=float(engines["batch_s"].sum()),
        used_max=used_max,
        ttft_ms_p95=quantile_ms(world.hist[k, 0], 0.95),
        it_kwh=float(sums["it_kwh"]),
        rated_kwh=float(power.params[i]["it_kw_rated"]) * hours,
        full_kw=_full_kw(power.params[i], outside),
        energy=energy,
        supply=supply,
        carbon=carbon,
        cost=cost,
        ai_wh=wh_from_kwh(energy.facility_kwh) * share,
        ai_g=None if of_meter_g is None else of_meter_g * share,
        ai_usd=of_meter_usd * share + egress_usd,
        hours=_hours(power.hourly[i], hours),
    )


def _result(
    b: Books, elapsed_s: float, *, id: str, kind: str, city: str, country: str
) -> SiteResult:
    busy = ratio(b.busy_s, b.engines * elapsed_s)
    energy = b.energy
    overhead_kwh = energy.cooling_kwh + energy.ups_kwh + energy.other_kwh
    return SiteResult(
        id=id,
        kind=kind,
        city=city,
        country=country,
        engines=b.engines,
        slots=b.slots,
        served=b.served,
        ttft_ms_p95=b.ttft_ms_p95,
        busy_share=busy,
        slots_share=ratio(b.batch_s, b.slots * elapsed_s),
        idle_share=None if busy is None else 1.0 - busy,
        slots_used_max=b.used_max,
        it_load_share=ratio(b.it_kwh, b.rated_kwh),
        pue=ratio(b.it_kwh + overhead_kwh, b.it_kwh),
        pue_full_load=ratio(sum(b.full_kw), b.full_kw[0]),
        energy=energy,
        supply=b.supply,
        carbon=b.carbon,
        cost=b.cost,
        ai_share=_ai_share(energy),
        wh_per_answer=ratio(b.ai_wh, b.served),
        g_per_answer=None if b.ai_g is None else ratio(b.ai_g, b.served),
        usd_per_answer=ratio(b.ai_usd, b.served),
        carbon_free_share=ratio(float(b.hours[:, 0].sum()), float(b.hours[:, 1].sum())),
        carbon_free_hourly=tuple(ratio(clean, load) for clean, load in b.hours.tolist()),
    )


def _energy(power: Any, i: int, engines: Any, hours: float) -> EnergyUse:
    sums = power.sums[i]
    dynamic_kwh = kwh_from_wh(float(power.dynamic_wh[i]))
    prefill_kwh = kwh_from_j(float(engines["prefill_j"].sum()))
    parts = {
        "prefill_kwh": prefill_kwh,
        "decode_kwh": dynamic_kwh - prefill_kwh,
        "idle_kwh": kwh_from_wh(float(power.idle_wh[i])),
        "deferrable_kwh": kwh_from_wh(float(power.deferrable_wh[i])),
        "cooling_kwh": float(sums["cooling_kwh"]),
        "ups_kwh": float(sums["ups_loss_kwh"]),
        "other_kwh": float(sums["other_kwh"]),
        "base_kwh": float(power.params[i]["base_kw"]) * hours,
    }
    facility_kwh = float(sums["facility_kwh"])
    return EnergyUse(
        facility_kwh=facility_kwh,
        difference_kwh=facility_kwh - math.fsum(parts.values()),
        wasted_kwh=kwh_from_j(float(engines["wasted_j"].sum())),
        **parts,
    )


def _store(outside: Any, supply: SupplyUse) -> tuple[float, float]:
    """Carbon and money of what the battery lost of its first content, at the means of the run's first day."""
    lost_kwh = max(0.0, supply.battery_start_kwh - supply.battery_end_kwh)
    if lost_kwh == 0.0:
        return 0.0, 0.0
    g_per_kwh = float(outside["carbon_g_per_kwh"].mean())
    return lost_kwh * g_per_kwh, lost_kwh * float(outside["price_usd_per_kwh"].mean())


def _full_kw(params: Any, outside: Any) -> tuple[float, float]:
    """IT and overhead at rated load, in mean weather."""
    it_kw = float(params["it_kw_rated"])
    wetbulb_c = float(outside["wetbulb_c"].mean())
    ups, cooling, other, _ = plant(params, it_kw, float(outside["outdoor_c"].mean()), wetbulb_c)
    return it_kw, ups + cooling + other


def _hours(hourly: Any, hours: float) -> NDArray[np.float64]:
    some = hourly[: math.ceil(hours)]
    return np.stack([some["carbon_free_kwh"], some["load_kwh"]], axis=1)


def _ai_share(energy: EnergyUse) -> float | None:
    return ratio(energy.facility_kwh - energy.base_kwh, energy.facility_kwh)


def _known(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def _added(parts: Sequence[V]) -> V:
    """Field by field; what one does not know the sum does not know."""
    columns = {f: [getattr(p, f) for p in parts] for f in parts[0].__struct_fields__}
    sums: dict[str, Any] = {
        f: None if None in values else math.fsum(values) for f, values in columns.items()
    }
    return type(parts[0])(**sums)

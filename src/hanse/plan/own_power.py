"""Sun, wind and batteries of a design's sites: as much as pays, site by site, with the credits, tariffs and carbon taxes of the study's rules.

Here: `with_own_power`, prices from the assumptions and room from the study, around `renewables.size_own_power`. Not here: that sizing, and what a
year with it comes to (`meter`).
"""

from __future__ import annotations

from datetime import UTC, datetime, time
from typing import Final

import msgspec
import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from hanse.energy.plant import PLANTS
from hanse.plan.assumptions import Values, of_study
from hanse.plan.capital import recovery_factor
from hanse.plan.demand import Demand
from hanse.plan.design import Design
from hanse.plan.inventory import Place
from hanse.plan.operate import growth_paths, worked
from hanse.plan.physics import HOURS_OF_YEAR, Own, site_of
from hanse.plan.policy import Asset, carbon_tax_usd_per_t, credit_share, feed_in_gain
from hanse.plan.renewables import Case, Prices, Room, World, size_own_power
from hanse.plan.study_file import Study
from hanse.plan.tco_flows import MONTHS, small_user_share
from hanse.signals import StepAxis

PV_OVER_IT: Final = 5.0
"""Roof and land where the study says nothing: 25 to 35 m2 of modules per kW of IT, which a hall in a suburb can find."""
TOO_SMALL_KW: Final = 0.5
"""Below it a site gets none: an inverter's visit costs more than the sun brings."""


def with_own_power(design: Design, study: Study, demand: Demand) -> Design:
    """The design with own generation and batteries where they lower yearly cost, carbon price included; its load is that of the last year."""
    if not design.places or not design.spec.own_power:
        return design
    x = of_study(study).mid()
    work = worked(design, study, demand, growth_paths(study, x))
    it_kw = work.it_kwh[:, -1, 0] / HOURS_OF_YEAR
    stands = [
        s for s in range(len(design.places)) if not _tower(design, s) and it_kw[s] > TOO_SMALL_KW
    ]
    if not stands:
        return design
    cases = [_case(design, study, x, s, float(it_kw[s]), work.it_kw[s, :, 0]) for s in stands]
    start = datetime.combine(study.start.replace(month=1, day=1), time(), UTC)
    world = World(axis=StepAxis(start_s=start.timestamp(), count=365 * 288))
    own = list(design.own)
    for s, sized in zip(stands, size_own_power(cases, world), strict=True):
        found = sized.own
        own[s] = Own(
            pv_kw=found.pv_kw,
            wind_kw=found.wind_kw,
            battery_kwh=found.battery_kwh,
            battery_kw=found.battery_kw,
        )
    return replace(design, own=tuple(own))


def _tower(design: Design, s: int) -> bool:
    """A cabinet on somebody's mast has no roof."""
    return design.places[s].size.kind == "edge"


def _case(
    design: Design, study: Study, x: Values, s: int, it_kw: float, stands_kw: NDArray[np.float64]
) -> Case:
    """`stands_kw` [year] of plant: own power is bought with it."""
    place, rated_kw = design.places[s], float(stands_kw[-1])
    paid = _delivered_usd(study, x, place)
    moved = float(x["demand_charge_share"][0])
    bought = np.diff(stands_kw, prepend=0.0) / max(rated_kw, 1e-12)
    here = next((c for c in study.candidates if c.city == design.cities[s].name), None)
    pv_max = PV_OVER_IT * rated_kw if here is None or here.pv_kw_max is None else here.pv_kw_max
    site = site_of(
        place.id,
        design.cities[s],
        place.size,
        operator_hq=study.operator_hq,
        rated_kw=rated_kw,
        price_usd_per_kwh=paid * (1.0 - moved),
    )
    wind_max = 0.0 if here is None else here.wind_kw_max
    plant = PLANTS[place.size.plant]
    # As the bill of the full cost has it (`tco_flows`): a part of the price is asked for the peak.
    peak = moved * paid * HOURS_OF_YEAR * float(x["tariff_load_factor"][0]) / MONTHS
    contracts = msgspec.structs.replace(
        plant.contracts,
        export_usd_per_kwh=_sold_usd(study, x, place),
        usd_per_kw_month=peak + float(x["demand_charge_usd_per_kw_month"][0]),
    )
    return Case(
        site=site,
        it_kw=it_kw,
        prices=_prices(x, study, place, bought),
        room=Room(pv_kw_max=pv_max, wind_kw_max=wind_max),
        plant=msgspec.structs.replace(plant, contracts=contracts),
    )


def _delivered_usd(study: Study, x: Values, place: Place) -> float:
    """What a kWh costs this site, mean of the study's years."""
    small = float(small_user_share(np.array(place.size.it_kw)))
    dearer = 1.0 + small * (float(x["small_user_price_factor"][0]) - 1.0)
    first = place.price_usd_per_kwh * float(x["delivered_price_factor"][0]) * dearer
    return first * float(_drift(study, x).mean())


def _drift(study: Study, x: Values) -> NDArray[np.float64]:
    """[year] price of electricity over that of the first year: as the full bill has it, for what is bought and what is sold."""
    years = np.arange(float(study.years))
    return np.asarray((1.0 + float(x["electricity_drift_per_year"][0])) ** years)


def _sold_usd(study: Study, x: Values, place: Place) -> float:
    """What an exported kWh earns, mean of the study's years: the market's part of the price, or a tariff while it pays more."""
    market = place.price_usd_per_kwh * x["export_price_share"].reshape(1, 1, -1)
    market = market * _drift(study, x).reshape(1, -1, 1)
    return float((market + feed_in_gain(study.policies, (place,), study, market)).mean())


def _prices(x: Values, study: Study, place: Place, bought: NDArray[np.float64]) -> Prices:
    """Yearly USD a unit: capital recovered over its life less what a credit pays back of it in the years in which it is `bought` [year], and upkeep."""
    money = x["eur_usd"] * x["eur_price_level"]

    def yearly(capital: str, name: str, asset: Asset, upkeep: str) -> float:
        factor = recovery_factor(x["discount_rate"], x[f"{name}_life_years"])
        paid = 1.0 - float(bought @ credit_share(study.policies, asset, (place,), study)[0, :, 0])
        return float(np.asarray(x[capital] * money * (paid * factor + x[upkeep]))[0])

    pv = "pv_utility_eur_per_kw" if place.size.kind == "region" else "pv_rooftop_eur_per_kw"
    store = "battery_fom_share_per_year"
    taxes = carbon_tax_usd_per_t(study.policies, (place,), study)
    return Prices(
        pv_usd_per_kw=yearly(pv, "pv", "pv", "pv_fom_share_per_year"),
        wind_usd_per_kw=yearly("wind_eur_per_kw", "wind", "wind", "wind_fom_share_per_year"),
        battery_usd_per_kwh=yearly("battery_eur_per_kwh", "battery", "battery", store),
        battery_usd_per_kw=yearly("inverter_eur_per_kw", "inverter", "battery", store),
        carbon_usd_per_t=float(x["carbon_usd_per_t"][0] + taxes.mean()),
    )

"""`Plant`: what a site's cooling, UPS, storage and contracts are, with defaults by kind; parameters for the balance.

Here: values with a reason each, and `supply_of`, which joins them with the fleet file into a row of `SUPPLY_DTYPE`.
Not here: arithmetic (`balance`), weather.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from hanse.catalogue import accelerator, emission_factor
from hanse.energy.records import (
    BY_CARBON,
    BY_PLAN,
    BY_PRICE,
    BY_SURPLUS,
    STATE_DTYPE,
    SUPPLY_DTYPE,
)
from hanse.energy.supply import (
    CHARGE_EFFICIENCY,
    DISCHARGE_EFFICIENCY,
    SELF_DISCHARGE_PER_H,
)
from hanse.errors import ConfigError
from hanse.model.fleet import Site, SiteKind, Value

BatteryRule = Literal["surplus", "price", "carbon", "plan"]
RULES: Final[dict[BatteryRule, int]] = {
    "surplus": BY_SURPLUS,
    "price": BY_PRICE,
    "carbon": BY_CARBON,
    "plan": BY_PLAN,
}
SERVER_OVER_CHIP: Final = 1.45
"""IT power over the rated power of data-centre accelerators: CPUs, memory, NICs, fans. A DGX H100 is rated 10.2 kW for
eight chips of 700 W, which is 1.8; that a server at work draws 0.8 of its rating is an assumption. Edge boxes and CPU
threads are rated whole."""
IDLE_SHARE_UNKNOWN: Final = 0.10
"""Of TDP where no idle power is published: H100 and H200 have 0.10, A100 0.11, B200 0.14."""
IN_SERVERS: Final = ("datacenter", "workstation", "edge-server")
"""Tiers of chips that need a server around them."""
PUE_DESIGN: Final = 1.5
"""Divides the connection where a site has no hall of its own: near the mean PUE of Uptime's surveys of 2023 to 2025."""


class Cooling(Value, frozen=True, kw_only=True):
    """How heat leaves the hall."""

    economiser: bool
    """Outside air (or a dry cooler) carries heat off while it is cool enough."""
    evaporative: bool
    """What outside air cannot take goes to a tower that evaporates water."""
    free_c: float
    """Up to this dry bulb no compressor and no water."""
    free_band_k: float
    """So much warmer outside air takes nothing any more: the rise of air through the racks."""
    tower_free_c: float = 12.0
    """Up to this wet bulb the tower alone makes the water cold enough: 18 degC water less an approach of 6 K."""
    tower_band_k: float = 10.0
    condenser_approach_k: float
    """Condensation above the sink: 15 K to air, 8 K to tower water (usual design values)."""
    condenser_c_min: float = 30.0
    """Head pressure control holds condensation up on cold days."""
    evaporator_c: float
    """Below the supply temperature by coil and approach."""
    carnot_share: float
    """Share of Carnot's COP; 0.3 to 0.5 for direct expansion, up to 0.6 for centrifugal chillers."""
    fan_share: float
    """Fans and pumps over heat at full load."""
    fan_fixed_share: float
    """Part of that which runs whatever the load: 1 for fixed speed."""
    concentration_cycles: float = 5.0
    """Blowdown is evaporation / (cycles - 1); towers run at 3 to 15."""
    drift_share: float = 0.002
    """Droplets lost, over evaporation; drift eliminators keep it this low."""


class Ups(Value, frozen=True, kw_only=True):
    """Loss curve and stored energy of the UPS, per kW of rated IT load."""

    rated_share: float = 1.0
    """Rating over rated IT load; 0: no UPS."""
    k0: float
    k1: float = 0.01
    k2: float = 0.01
    """Loss over rating = k0 + k1 L + k2 L^2 (Rasmussen, Schneider Electric WP 113)."""
    ride_min: float
    """Minutes at rated load."""
    recharge_h: float = 8.0
    """From empty to full: usual for lead-acid strings."""
    charge_efficiency: float = 0.85
    """Lead-acid, kWh kept over kWh in."""


class Storage(Value, frozen=True, kw_only=True):
    """How the battery of the fleet file behaves; its capacity there is usable capacity."""

    charge_efficiency: float = CHARGE_EFFICIENCY
    discharge_efficiency: float = DISCHARGE_EFFICIENCY
    self_discharge_per_h: float = SELF_DISCHARGE_PER_H
    soc_min: float = 0.0
    soc_max: float = 1.0
    """Shares of usable capacity."""
    soc_reserve: float = 0.0
    """Kept for outages and for load beyond the connection; no rule goes below it otherwise."""
    rule: BatteryRule = "surplus"
    signal_low: float = 0.0
    signal_high: float = 0.0
    """USD/kWh or gCO2e/kWh, for the rules `price` and `carbon`."""
    export: bool = False
    """The rule `plan` may sell from the battery."""
    start_share: float = 0.5
    """Half full favours neither sun nor night."""


class Contracts(Value, frozen=True, kw_only=True):
    """What the operator buys and sells under contract."""

    renewable_share: float = 0.0
    """Of each step's import, bought as carbon-free and matched hour by hour."""
    renewable_g_per_kwh: float = 11.0
    """Lifecycle of onshore wind (IPCC AR5), the usual contract; 48 for a solar park."""
    export_usd_per_kwh: float = 0.0
    """0: what the fleet file says (`Power`)."""
    usd_per_kw_month: float = 0.0
    """Demand charge; 0: what the fleet file says. One US example: 16.79 (NREL, 2017)."""
    export_kw_max: float | None = None
    """Absent: what the fleet file says."""


class Plant(Value, frozen=True, kw_only=True):
    """Everything about a site's plant that the fleet file leaves open."""

    cooling: Cooling
    ups: Ups
    storage: Storage = Storage()
    contracts: Contracts = Contracts()
    distribution_share: float = 0.02
    """Transformer, switchgear, PDU and cable losses over IT power: 1.5 to 3 % in most designs."""
    lights_share: float
    """Lights, controls, offices, over rated IT power, day and night."""
    island: bool = True
    """Own generation and battery carry the site without the grid, if there is a battery to hold the frequency; false:
    grid-tied inverters switch off."""
    it_kw_rated: float | None = None
    """IT power the plant was built for; absent: the site's chips, else what its connection can carry."""


PLANTS: Final[dict[SiteKind, Plant]] = {
    # Hyperscale: outside air, then evaporation, then chillers; variable speed, efficient UPS. Fitted by hand on five
    # published yearly means (docs/energy.md), within 0.025.
    "region": Plant(
        cooling=Cooling(
            economiser=True,
            evaporative=True,
            free_c=18.0,
            free_band_k=10.0,
            condenser_approach_k=8.0,
            evaporator_c=14.0,
            carnot_share=0.4,
            fan_share=0.045,
            fan_fixed_share=0.3,
        ),
        ups=Ups(k0=0.008, k1=0.005, k2=0.008, ride_min=5.0),
        distribution_share=0.015,
        lights_share=0.005,
    ),
    # A room with direct expansion and no free cooling: what most small sites are.
    "micro": Plant(
        cooling=Cooling(
            economiser=False,
            evaporative=False,
            free_c=10.0,
            free_band_k=12.0,
            condenser_approach_k=15.0,
            evaporator_c=10.0,
            carnot_share=0.4,
            fan_share=0.06,
            fan_fixed_share=0.8,
        ),
        ups=Ups(k0=0.02, ride_min=10.0),
        lights_share=0.01,
    ),
    # A cabinet at a tower: the same cooling, an oversized UPS for hours of a repair crew's way.
    "edge": Plant(
        cooling=Cooling(
            economiser=False,
            evaporative=False,
            free_c=10.0,
            free_band_k=12.0,
            condenser_approach_k=15.0,
            evaporator_c=10.0,
            carnot_share=0.4,
            fan_share=0.06,
            fan_fixed_share=0.8,
        ),
        ups=Ups(k0=0.02, ride_min=60.0),
        lights_share=0.01,
    ),
}
"""By kind of site. docs/energy.md compares what comes of them with published PUE and WUE."""


def it_kw_rated(site: Site) -> float:
    """IT power that a site was built for: as declared, else of its chips at full load, else what the connection carries at
    `PUE_DESIGN`.
    """
    if site.power.it_kw_rated is not None:
        return site.power.it_kw_rated
    chips_w = sum(pool.count * chip_rated_w(pool.accelerator) for pool in site.pools)
    if chips_w > 0.0:
        return chips_w / 1000.0
    return max(0.0, site.power.grid_kw_max - site.power.base_kw) / PUE_DESIGN


def chip_rated_w(chip: str) -> float:
    """IT power to provide for one chip: its rating and the server around it."""
    return (accelerator(chip).tdp_w or 0.0) + host_w(chip)


def host_w(chip: str) -> float:
    """What the server around one chip draws, taken as constant: fans and CPUs follow the load by little against that."""
    facts = accelerator(chip)
    return (SERVER_OVER_CHIP - 1.0) * (facts.tdp_w or 0.0) if facts.tier in IN_SERVERS else 0.0


def empty_w(chip: str) -> float:
    """What one chip draws that is on and holds nothing, without its server."""
    facts = accelerator(chip)
    return facts.idle_w if facts.idle_w is not None else IDLE_SHARE_UNKNOWN * (facts.tdp_w or 0.0)


def supply_of(site: Site, plant: Plant | None = None) -> Any:
    """One site's parameters: a row of `SUPPLY_DTYPE`."""
    return supplies((site,), None if plant is None else {site.id: plant})[0]


def supplies(sites: Sequence[Site], plants: Mapping[str, Plant] | None = None) -> NDArray[np.void]:
    """Parameters of all sites [site]; `plants` by site id, else the default of the site's kind."""
    rows = np.zeros(len(sites), SUPPLY_DTYPE)
    for row, site in zip(rows, sites, strict=True):
        _fill(row, site, (plants or {}).get(site.id, PLANTS[site.plant_kind]))
    return rows


def states(sites: Sequence[Site], plants: Mapping[str, Plant] | None = None) -> NDArray[np.void]:
    """States at the start of a run [site]: batteries filled to their `start_share`, as carbon-free as nobody knows
    (none), UPS full.
    """
    params, rows = supplies(sites, plants), np.zeros(len(sites), STATE_DTYPE)
    shares = [(plants or {}).get(s.id, PLANTS[s.plant_kind]).storage.start_share for s in sites]
    rows["battery_kwh"] = params["battery_kwh"] * shares
    rows["ups_kwh"] = params["ups_kwh"]
    return rows


def _fill(row: Any, site: Site, plant: Plant) -> None:
    power, storage, contracts = site.power, plant.storage, plant.contracts
    _check(site, plant)
    rated = it_kw_rated(site) if plant.it_kw_rated is None else plant.it_kw_rated
    row["it_kw_rated"] = rated
    for name in ("grid_kw_max", "base_kw", "pv_kw_peak", "wind_kw_rated"):
        row[name] = getattr(power, name)
    sale = power.export_kw_max if contracts.export_kw_max is None else contracts.export_kw_max
    row["export_kw_max"] = power.grid_kw_max if sale is None else sale
    row["pue_fixed"] = power.pue or 0.0
    row["pv_g_per_kwh"] = emission_factor("solar_rooftop_pv").gco2e_kwh_median
    row["wind_g_per_kwh"] = emission_factor("wind_onshore").gco2e_kwh_median
    row["battery_kwh"] = power.battery_kwh
    row["battery_kw_max"] = power.battery_kw_max
    for name in ("charge_efficiency", "discharge_efficiency", "self_discharge_per_h"):
        row[name] = getattr(storage, name)
    for name in ("soc_min", "soc_max", "soc_reserve", "signal_low", "signal_high"):
        row[name] = getattr(storage, name)
    row["battery_rule"] = RULES[storage.rule]
    row["battery_export"] = storage.export
    row["island"] = plant.island and power.battery_kwh > 0.0 and power.battery_kw_max > 0.0
    _fill_ups(row, plant.ups, rated)
    for name in Cooling.__struct_fields__:
        row[name] = getattr(plant.cooling, name)
    row["distribution_share"] = plant.distribution_share
    row["lights_share"] = plant.lights_share
    row["contract_share"] = contracts.renewable_share
    row["contract_g_per_kwh"] = contracts.renewable_g_per_kwh
    row["export_usd_per_kwh"] = contracts.export_usd_per_kwh or power.export_usd_per_kwh
    row["usd_per_kw_month"] = contracts.usd_per_kw_month or power.usd_per_kw_month


def _fill_ups(row: Any, ups: Ups, it_kw_rated: float) -> None:
    kw_rated = ups.rated_share * it_kw_rated
    row["ups_kw_rated"] = kw_rated
    row["ups_k0"], row["ups_k1"], row["ups_k2"] = ups.k0, ups.k1, ups.k2
    row["ups_kwh"] = kw_rated * ups.ride_min / 60.0
    row["ups_charge_kw_max"] = row["ups_kwh"] / ups.charge_efficiency / ups.recharge_h
    row["ups_charge_efficiency"] = ups.charge_efficiency


def _check(site: Site, plant: Plant) -> None:
    """Refuse what the balance would turn into nonsense."""
    storage, cooling = plant.storage, plant.cooling
    shares = {
        "storage.charge_efficiency": 0.0 < storage.charge_efficiency <= 1.0,
        "storage.discharge_efficiency": 0.0 < storage.discharge_efficiency <= 1.0,
        "storage.soc_min": 0.0 <= storage.soc_min <= storage.soc_max <= 1.0,
        "storage.soc_reserve": 0.0 <= storage.soc_reserve <= 1.0,
        "storage.start_share": 0.0 <= storage.start_share <= 1.0,
        "ups.charge_efficiency": 0.0 < plant.ups.charge_efficiency <= 1.0,
        "contracts.renewable_share": 0.0 <= plant.contracts.renewable_share <= 1.0,
        "cooling.fan_fixed_share": 0.0 <= cooling.fan_fixed_share <= 1.0,
    }
    positive = {
        "cooling.concentration_cycles": cooling.concentration_cycles > 1.0,
        "cooling.free_band_k": cooling.free_band_k > 0.0,
        "cooling.tower_band_k": cooling.tower_band_k > 0.0,
        "cooling.condenser_c_min": cooling.condenser_c_min > cooling.evaporator_c,
        "ups.recharge_h": plant.ups.recharge_h > 0.0,
    }
    for checks, allowed in ((shares, "a share of 0 to 1, in order"), (positive, "a larger figure")):
        for name, holds in checks.items():
            if not holds:
                part, field = name.split(".")
                got = getattr(getattr(plant, part), field)
                raise ConfigError(f"plant of {site.id}: {name}", got=got, allowed=allowed)


@cache
def plant_row(kind: SiteKind) -> Any:
    """A site of 1 kW of a kind, with a UPS of 1 kW and nothing else: for figures per kW."""
    row = np.zeros(1, SUPPLY_DTYPE)[0]
    plant = PLANTS[kind]
    row["it_kw_rated"] = 1.0
    _fill_ups(row, plant.ups, 1.0)
    for name in Cooling.__struct_fields__:
        row[name] = getattr(plant.cooling, name)
    row["distribution_share"] = plant.distribution_share
    row["lights_share"] = plant.lights_share
    return row

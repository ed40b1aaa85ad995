"""Cost of what flows: electricity, water, traffic, carbon, lost work, rented chips; and what a design uses and emits, per year.

Here: yearly USD by item, [site, year, draw] or of the whole fleet, [1, year, draw]; embodied emissions; energy, emissions and water of rented
chips. Not here: equipment (`plan.tco_plant`), people (`plan.tco_people`).
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from hanse.catalogue import accelerator
from hanse.energy.plant import SERVER_OVER_CHIP
from hanse.plan.case import Case
from hanse.plan.policy import carbon_tax_usd_per_t, feed_in_gain

Floats = NDArray[np.float64]

HOURS_PER_YEAR: Final = 8760.0
MONTHS: Final = 12.0
L_PER_M3: Final = 1000.0
KG_PER_T: Final = 1000.0
PER_M: Final = 1e6
PORT_KW: Final = 100.0
"""IT power of the site whose port `wan_port_usd_per_month` describes."""
SMALL_USER_KW: Final = (30.0, 3000.0)
"""Up to the first a site pays the small user's price, from the second on the large one's: 0.3 and 26 GWh a year, near the ends of
Eurostat's bands for businesses."""


def flows(case: Case) -> dict[str, Floats]:
    """Yearly cost of flows at sites, by item."""
    inventory, carbon = case.inventory, case.of("carbon_usd_per_t")
    tax = carbon_tax_usd_per_t(case.policies, case.places, case.study)
    market = _export_usd_per_kwh(case)
    gain = feed_in_gain(case.policies, case.places, case.study, market)
    return {
        "energy": _energy(case),
        "export_revenue": -inventory.export_kwh * market,
        "feed_in_tariff": -inventory.export_kwh * gain,
        "water": inventory.water_l / L_PER_M3 * case.of("water_usd_per_m3"),
        "wan_ports": _ports(case),
        "wan_transit": _by_kind(case, "transit_usd_per_gb") * inventory.wan_gb,
        "operational_carbon": (inventory.location_t + inventory.own_t) * carbon,
        "embodied_carbon": embodied_t(case) * carbon,
        "carbon_tax": inventory.location_t * tax,
        "outages": _outages(case),
    }


def fleet_flows(case: Case) -> dict[str, Floats]:
    """Yearly cost of rented chips and of lost work, [1, year, draw]."""
    inventory, falls = case.inventory, case.fallen("cloud_price_decline_per_year")
    reserved = case.of("cloud_reserved_share")
    rent = np.zeros((1, inventory.years, 1))
    for chip, hours in inventory.rented_chip_h.items():
        by_hour, by_year = case.of(f"{chip}_cloud_usd_per_h"), case.of(f"{chip}_reserved_usd_per_h")
        rent = rent + hours * (by_hour * (1.0 - reserved) + by_year * reserved)
    lost = inventory.tokens_lost.sum(axis=0, keepdims=True) / PER_M
    carbon = case.of("carbon_usd_per_t")
    rented = rented_use(case)
    return {
        "cloud_rent": rent * falls * (1.0 + case.of("cloud_extra_share")),
        "cloud_egress": inventory.rented_gb * case.of("cloud_egress_usd_per_gb"),
        "cloud_carbon": (rented["location_t"] + rented["embodied_t"]) * carbon,
        "lost_work": lost * case.of("lost_work_usd_per_mtoken"),
    }


def rented_use(case: Case) -> dict[str, Floats]:
    """Energy, water, operational and embodied emissions of rented chips, [1, year, draw].

    A chip-hour takes rated power x what stands around the chip x mean load x the cloud's PUE; its share of making the server is an hour's
    part of the server's life. Location-based: what a cloud buys for itself is not known, nor are marginal emissions of its grids.
    """
    none = np.zeros((1, case.inventory.years, 1))
    it_kwh, embodied = none, none
    life_h = case.of("server_life_years") * HOURS_PER_YEAR
    for chip, hours in case.inventory.rented_chip_h.items():
        facts = accelerator(chip)
        around = SERVER_OVER_CHIP if facts.tier in ("datacenter", "workstation") else 1.0
        it_kwh = it_kwh + hours * (facts.tdp_w or 0.0) * around / 1000.0
        embodied = embodied + hours * _embodied_kg(case, chip) / life_h / KG_PER_T
    it_kwh = it_kwh * case.of("cloud_power_share")
    kwh = it_kwh * case.of("cloud_pue")
    return {
        "kwh": kwh,
        "water_l": it_kwh * case.of("cloud_water_l_per_kwh"),
        "location_t": kwh * case.of("cloud_grid_g_per_kwh") / (KG_PER_T * 1000.0),
        "embodied_t": embodied,
    }


def embodied_t(case: Case) -> Floats:
    """Emissions of making what stands, spread evenly over its life, t CO2e a year, [site, year, draw] (SCI, ISO/IEC 21031: M = TE x time share).

    Servers, building and batteries. Making PV and wind is in the life-cycle factors of their energy (`Inventory.own_t`), as it is for the grid.
    """
    inventory = case.inventory
    servers = sum(
        (count * _embodied_kg(case, chip) for chip, count in inventory.chips.items()),
        np.zeros((len(case.places), 1, 1)),
    )
    stands = np.where(case.rooms > 0.0, case.of("room_embodied_factor"), 1.0)
    building = case.it_kw * case.of("building_embodied_kg_per_kw") * stands
    battery = inventory.battery_kwh * case.of("battery_embodied_kg_per_kwh")
    kg = (
        servers / case.of("server_life_years")
        + building / case.of("shell_life_years")
        + battery / case.of("battery_life_years")
    )
    return np.asarray(kg / KG_PER_T, np.float64)


def _embodied_kg(case: Case, chip: str) -> Floats:
    """By chip where there is a figure, else by the tier of the chip."""
    own = f"{chip}_embodied_kg"
    return case.of(own if own in case.values else f"{accelerator(chip).tier}_embodied_kg")


def _energy(case: Case) -> Floats:
    """Electricity bill: energy and peak power at the delivered price.

    The published price is all in, so a part of it is asked for peak power instead: bill = p ((1 - d) E + d 8760 f P), which is p E for a user of
    the load factor f that the price describes, less for a flatter one. A tariff's own demand charge can be added.
    """
    inventory = case.inventory
    small = 1.0 + _small_share(case) * (case.of("small_user_price_factor") - 1.0)
    price = case.site(lambda p: p.price_usd_per_kwh) * case.of("delivered_price_factor") * small
    price = price * case.grown("electricity_drift_per_year")
    moved = case.of("demand_charge_share")
    for_peak = inventory.peak_kw * HOURS_PER_YEAR * case.of("tariff_load_factor")
    charge = inventory.peak_kw * MONTHS * case.of("demand_charge_usd_per_kw_month")
    return price * ((1.0 - moved) * inventory.import_kwh + moved * for_peak) + charge


def _small_share(case: Case) -> Floats:
    """How far a site pays a small user's price, 0 to 1, by the logarithm of its size, [site, 1, 1]."""
    return small_user_share(case.site(lambda p: p.size.it_kw))


def small_user_share(it_kw: Floats) -> Floats:
    """Same by size."""
    low, high = SMALL_USER_KW
    return np.asarray(np.clip(np.log(high / it_kw) / np.log(high / low), 0.0, 1.0), np.float64)


def _export_usd_per_kwh(case: Case) -> Floats:
    listed = case.site(lambda p: p.price_usd_per_kwh)
    return listed * case.of("export_price_share") * case.grown("electricity_drift_per_year")


def _ports(case: Case) -> Floats:
    size = case.extent_kw / PORT_KW
    ports = np.where(case.towers > 0.0, 1.0, case.of("wan_ports_per_site"))
    price = case.of("wan_port_usd_per_month") * size ** case.of("wan_exponent")
    return case.open * ports * price * MONTHS


def _by_kind(case: Case, name: str) -> Floats:
    """A figure that depends on the kind of site, [site, 1, draw]."""
    total = np.zeros((len(case.places), 1, 1))
    for kind in sorted({p.size.kind for p in case.places}):
        mark = np.array([float(p.size.kind == kind) for p in case.places]).reshape(-1, 1, 1)
        total = total + mark * case.of(f"{kind}_{name}")
    return total


def _outages(case: Case) -> Floats:
    """Expected loss: time without the site x its mean power x severity; where other sites hold reserve, they take most of it over.

    Availability is the site's own (Uptime Institute's tiers); losses that several sites share are not in it.
    """
    down = case.site(lambda p: 1.0 - p.size.availability) * case.inventory.it_kwh
    others = case.open.sum(axis=0, keepdims=True) - case.open
    taken = (others > 0.0) * float(case.study.sites_lost > 0) * case.of("outage_taken_over_share")
    return np.asarray(down * (1.0 - taken) * case.of("outage_usd_per_kwh"), np.float64)

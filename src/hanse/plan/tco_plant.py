"""Cost of what stands: servers, plant, building, own generation and batteries, land and rent, and their upkeep.

Here: what is bought at which price, its yearly capital cost, credits on it, maintenance and insurance. Arrays are [site, year, draw].
Not here: what flows through it (`plan.tco_flows`), people (`plan.tco_people`).
"""

from __future__ import annotations

from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from hanse.catalogue import accelerator
from hanse.plan.assumptions import market_factor
from hanse.plan.capital import book, recovery_factor
from hanse.plan.case import Case
from hanse.plan.policy import Asset, credit_share

Floats = NDArray[np.float64]

LIQUID_W: Final = 900.0
"""Chips of this power and more need liquid: parts of 700 W are sold for air, parts of 1,000 W mostly with plates."""
SMALLEST_KW: Final = 3.0
"""The scale law is not asked below the smallest module of a tower; nobody publishes figures there."""
MONTHS: Final = 12.0


class Stock(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """One kind of equipment of a design."""

    item: str
    asset: Asset
    units: Floats
    price: Floats
    """USD per unit by year of purchase."""
    life_years: Floats


def capital(case: Case) -> dict[str, Floats]:
    """Yearly cost of all capital by item, with the upkeep that goes by its value.

    Annual cost = value x CRF(r, life), on what stands in the year (Barroso, Hoelzle, Ranganathan, The datacenter as a computer, 3rd ed., 2018,
    chapter 6, use the same annuity). Credits lower the price of what is bought while they hold; upkeep and insurance go by the full value.
    """
    value: dict[str, Floats] = {}
    items: dict[str, Floats] = {}
    credit = np.zeros((1, 1, 1))
    for stock in stocks(case):
        worth = book(stock.units, stock.price, stock.life_years)
        factor = recovery_factor(case.of("discount_rate"), stock.life_years)
        value[stock.item] = value.get(stock.item, 0.0) + worth
        items[stock.item] = items.get(stock.item, 0.0) + worth * factor
        paid = credit_share(case.policies, stock.asset, case.places, case.study)
        if np.any(paid > 0.0):
            credit = credit + factor * book(stock.units, stock.price * paid, stock.life_years)
    items["investment_credit"] = -credit * np.ones((len(case.places), 1, 1))
    return items | _upkeep(case, value) | _land_and_rent(case)


def stocks(case: Case) -> list[Stock]:
    """Everything a design buys."""
    return [*_servers(case), *_plant(case), *_own_power(case)]


def _servers(case: Case) -> list[Stock]:
    around = 1.0 + case.of("network_share") + case.of("install_share")
    falls = case.fallen("chip_price_decline_per_year")
    found = []
    for chip, count in case.inventory.chips.items():
        server = 1.0 + case.of(f"{accelerator(chip).tier}_server_share")
        found.append(
            Stock(
                item="servers",
                asset="servers",
                units=count,
                price=case.of(f"{chip}_chip_usd") * server * around * falls,
                life_years=case.of("server_life_years"),
            )
        )
    return found


def _plant(case: Case) -> list[Stock]:
    """Mechanical and electrical plant, and the shell; a room is all plant, since its shell stands."""
    cost = build_usd_per_kw(case)
    plant = np.where(case.rooms > 0.0, 1.0, case.of("mep_share"))
    parts = (("plant", plant, "mep_life_years"), ("building", 1.0 - plant, "shell_life_years"))
    return [
        Stock(
            item=item, asset="plant", units=case.it_kw, price=cost * share, life_years=case.of(life)
        )
        for item, share, life in parts
    ]


def build_usd_per_kw(case: Case) -> Floats:
    """Cost of building per kW of IT power, [site, year, draw].

    c_ref (P / P_ref)^(b - 1) with P the site's power when fully built, times the market's factor; valid from some 100 kW to 100 MW, asked down to
    a tower's cabinet as a swept assumption (no open study of the exponent was found).
    """
    size_kw = case.site(lambda p: max(p.size.it_kw, SMALLEST_KW))
    scale = (size_kw / case.of("build_reference_kw")) ** (case.of("build_exponent") - 1.0)
    market = case.site(lambda p: market_factor(p.city, p.country)) * case.of("build_market_factor")
    steps = case.site(lambda p: float(p.size.module_kw < p.size.it_kw))
    room = np.where(case.rooms > 0.0, case.of("room_build_factor"), 1.0)
    cost = 1000.0 * case.of("build_usd_per_w") * scale * market * room
    cost = cost * (1.0 + steps * case.of("module_premium_share"))
    cost = cost * (1.0 + _liquid_share(case) * case.of("liquid_premium_share"))
    return cost * case.grown("build_drift_per_year")


def _liquid_share(case: Case) -> Floats:
    """Share of the chips' power in parts that need liquid, [site, year, draw]."""
    total, liquid = np.zeros((1, 1, 1)), np.zeros((1, 1, 1))
    for chip, count in case.inventory.chips.items():
        watts = accelerator(chip).tdp_w or 0.0
        total = total + count * watts
        liquid = liquid + count * watts * (watts >= LIQUID_W)
    return np.where(total > 0.0, liquid / np.where(total > 0.0, total, 1.0), 0.0)


def _own_power(case: Case) -> list[Stock]:
    inventory = case.inventory
    money = case.of("eur_usd") * case.of("eur_price_level")
    region = case.site(lambda p: float(p.size.kind == "region"))
    sun = np.where(region > 0.0, case.of("pv_utility_eur_per_kw"), case.of("pv_rooftop_eur_per_kw"))
    parts: tuple[tuple[str, Asset, Floats, Floats, str], ...] = (
        ("pv", "pv", inventory.pv_kw, sun, "pv"),
        ("wind", "wind", inventory.wind_kw, case.of("wind_eur_per_kw"), "wind"),
        ("battery", "battery", inventory.battery_kwh, case.of("battery_eur_per_kwh"), "battery"),
        ("battery", "battery", inventory.battery_kw, case.of("inverter_eur_per_kw"), "inverter"),
    )
    return [
        Stock(
            item=item,
            asset=asset,
            units=units,
            price=price * money * case.fallen(f"{name}_price_decline_per_year"),
            life_years=case.of(f"{name}_life_years"),
        )
        for item, asset, units, price, name in parts
    ]


def _upkeep(case: Case, value: dict[str, Floats]) -> dict[str, Floats]:
    none = np.zeros((len(case.places), 1, 1))
    servers = value.get("servers", none)
    buildings = value["plant"] + value["building"]
    own = (
        value["pv"] * case.of("pv_fom_share_per_year")
        + value["wind"] * case.of("wind_fom_share_per_year")
        + value["battery"] * case.of("battery_fom_share_per_year")
    )
    return {
        "server_support": servers * case.of("server_support_share_per_year"),
        "spares": servers * case.of("spares_share_per_year"),
        "maintenance": buildings * case.of("maintenance_share_per_year"),
        "own_power_upkeep": own,
        "insurance": sum(value.values(), none) * case.of("insurance_share_per_year"),
    }


def _land_and_rent(case: Case) -> dict[str, Floats]:
    """Land keeps its value, so that it costs the interest; it is bought for the full size when the site opens."""
    owned = np.where(case.rooms > 0.0, 0.0, case.extent_kw)
    region = case.site(lambda p: float(p.size.kind == "region"))
    near_city = np.where(region > 0.0, 1.0, case.of("land_city_factor"))
    land = owned * case.of("land_m2_per_kw") * case.of("land_usd_per_m2") * near_city
    by_kw = case.rooms * (1.0 - case.towers) * case.it_kw * case.of("room_rent_usd_per_kw_month")
    lease = case.towers * case.open * case.of("tower_lease_usd_per_month")
    return {
        "land": land * case.of("discount_rate") * case.open,
        "rent": MONTHS * (by_kw + lease),
    }

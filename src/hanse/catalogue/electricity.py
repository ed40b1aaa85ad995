"""Electricity of a country: yearly mean carbon intensity, mix, industrial price; lifecycle factors.

Here: yearly figures with their year and source. Not here: hourly series (`signals`).
Prices are for large industrial users without VAT and levies; many are single published figures.
"""

from __future__ import annotations

from functools import cache
from typing import Literal

from hanse.catalogue.tables import Fact, facts, look_up

CARBON_SOURCE = "Our World in Data / Ember (CC BY 4.0), yearly mean, lifecycle, generation based"

EnergySource = Literal[
    "coal",
    "gas_combined_cycle",
    "biomass_dedicated",
    "solar_utility_pv",
    "solar_rooftop_pv",
    "csp",
    "geothermal",
    "hydro",
    "nuclear",
    "wind_offshore",
    "wind_onshore",
    "oil",
]


class CountryElectricity(Fact, frozen=True, kw_only=True):
    """Yearly electricity figures of one country; shares are percent of generation."""

    iso2: str
    iso3: str
    name: str
    ci_ember_owid: float | None = None
    ci_year: int | None = None
    coal_pct: float | None = None
    gas_pct: float | None = None
    oil_pct: float | None = None
    nuclear_pct: float | None = None
    hydro_pct: float | None = None
    wind_pct: float | None = None
    solar_pct: float | None = None
    generation_twh: float | None = None
    price_usd_kwh: float | None = None
    price_source: str = ""

    @property
    def carbon_g_per_kwh(self) -> float | None:
        """Mean lifecycle gCO2e per kWh generated, in the year `ci_year`; a published 0 is a figure that is missing, since no
        way to make electricity emits nothing over its life.
        """
        return self.ci_ember_owid or None

    @property
    def price_usd_per_kwh(self) -> float | None:
        """Industrial price; `price_source` says how good the figure is."""
        return self.price_usd_kwh


class EmissionFactor(Fact, frozen=True, kw_only=True):
    """Lifecycle emissions of one way to make electricity, gCO2e/kWh."""

    source: EnergySource
    gco2e_kwh_median: float
    min: float | None = None
    max: float | None = None
    ref: str


@cache
def electricity_by_country() -> dict[str, CountryElectricity]:
    """All countries' figures by two-letter code."""
    table = facts("country_electricity.csv", CountryElectricity)
    return {c.iso2: c for c in table}


def country_electricity(iso2: str, *, where: str = "country") -> CountryElectricity:
    """One country's figures by its two-letter code."""
    return look_up(electricity_by_country(), iso2, where=where, noun="country")


@cache
def price_usd_per_kwh_median() -> tuple[float, int]:
    """Median industrial price over the countries that have one, and how many those are."""
    prices = sorted(
        c.price_usd_kwh for c in electricity_by_country().values() if c.price_usd_kwh is not None
    )
    middle = len(prices) // 2
    return (prices[middle] + prices[~middle]) / 2, len(prices)


@cache
def _factors() -> dict[str, EmissionFactor]:
    return {f.source: f for f in facts("emission_factors.csv", EmissionFactor)}


def emission_factor(source: EnergySource) -> EmissionFactor:
    """Lifecycle factor of an energy source (IPCC AR5 WG3, Annex III, Table A.III.2)."""
    return look_up(_factors(), source, where="source", noun="energy source")

"""What routing needs to know of a site's energy: PUE, own power, carbon and price of its next kWh.

Here: putting feed and physics together for one site at one instant. Not here: the choice between
sites, the battery's schedule (a battery moves energy in time; its kWh is no cheaper than the one
that charged it, so it does not change the signal of the next kWh here).

Basis of carbon: lifecycle, for the grid and for own generation alike (PV 41, wind 11 gCO2e/kWh), since
the recorded grid figures are lifecycle too. Counting own power as zero beside them would mix methods.
Own power has no fuel and no export revenue is assumed, so its marginal price is zero.
"""

from __future__ import annotations

import msgspec

from hanse.catalogue import emission_factor
from hanse.energy.balance import BLOCK_SHARE, own_g_per_kwh, own_share
from hanse.energy.cooling import PUE_DAY_UNKNOWN, pue_at
from hanse.energy.solar import pv_kw
from hanse.energy.wind import wind_kw
from hanse.model.fleet import Site
from hanse.signals import Feed, Reading, Weather, site_places
from hanse.signals.kinds import LIFECYCLE


class SiteSignals(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Energy signals of one site at one instant. Carbon and price are per kWh at the site's supply:
    multiply an engine's energy by `pue` first.
    """

    pue: float
    pv_kw: float
    wind_kw: float
    own_share: float
    """Share of the next block of load that own generation would cover, 0 to 1."""
    carbon_g_per_kwh: float
    price_usd_per_kwh: float
    grid_carbon: Reading
    grid_price: Reading
    weather: Weather
    notes: tuple[str, ...]
    """One sentence a figure: method, source, and the recorded hour it plays."""


def site_signals(
    site: Site,
    feed: Feed,
    now_s: float,
    *,
    load_kw: float,
    pv_measured_kw: float | None = None,
    wind_measured_kw: float | None = None,
) -> SiteSignals:
    """Signals for routing.

    Args:
        load_kw: All the site draws now, overhead included.
        pv_measured_kw: What its inverters tell, in place of what the sky lets expect.
        wind_measured_kw: The same of its turbines.
    """
    assert load_kw >= 0.0, "flows are unsigned"
    weather = site_weather(site, feed, now_s)
    power = site.power
    pue = (
        power.pue
        if power.pue is not None
        else pue_at(site.plant_kind, weather.temp_c, weather.rh_pct)
    )
    solar = pv_kw(
        pv_kw_peak=power.pv_kw_peak,
        lat_deg=site.lat_deg,
        lon_deg=site.lon_deg,
        tilt_deg=power.pv_tilt_deg,
        now_s=feed.played_s(now_s),
        cloud_pct=weather.cloud_pct,
        temp_c=weather.temp_c,
        wind_ms=weather.wind10_ms,
    )
    wind = wind_kw(wind_kw_rated=power.wind_kw_rated, wind10_ms=weather.wind10_ms)
    solar = solar if pv_measured_kw is None else pv_measured_kw
    wind = wind if wind_measured_kw is None else wind_measured_kw
    carbon = site_carbon(site, feed, now_s)
    price = site_price(site, feed, now_s)
    own = own_share(solar, wind, load_kw, BLOCK_SHARE * power.grid_kw_max)
    return SiteSignals(
        pue=pue,
        pv_kw=solar,
        wind_kw=wind,
        own_share=own,
        carbon_g_per_kwh=own * own_carbon_g_per_kwh(solar, wind) + (1.0 - own) * carbon.value,
        price_usd_per_kwh=(1.0 - own) * price.value,
        grid_carbon=carbon,
        grid_price=price,
        weather=weather,
        notes=_notes(site, weather, carbon, price),
    )


def site_weather(site: Site, feed: Feed, now_s: float) -> Weather:
    """Weather of the site's zone, else of the nearest recorded place."""
    if site.weather_zone:
        return feed.weather(site.weather_zone, now_s, site=site.id)
    return feed.weather_near(site.lat_deg, site.lon_deg, now_s, site=site.id)


def site_carbon(site: Site, feed: Feed, now_s: float) -> Reading:
    """Average carbon of the site's grid."""
    zone = site.grid_zone or site.country
    return feed.carbon_g_per_kwh(zone, now_s, places=site_places(site))


def site_price(site: Site, feed: Feed, now_s: float) -> Reading:
    """The declared delivered price, else the country's industrial price; overrides hold for both."""
    declared = site.power.price_usd_per_kwh
    places = site_places(site)
    return feed.price_usd_per_kwh(site.country, now_s, places=places, declared=declared)


def own_carbon_g_per_kwh(pv_kw: float, wind_kw: float) -> float:
    """Lifecycle carbon of the site's own mix, gCO2e/kWh (IPCC AR5 WG3, Annex III medians)."""
    solar = emission_factor("solar_rooftop_pv").gco2e_kwh_median
    wind = emission_factor("wind_onshore").gco2e_kwh_median
    return own_g_per_kwh(pv_kw, wind_kw, solar, wind)


class OtherCarbon(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a kWh at a site emits by the two other methods; None: nobody tells. Never to be added to the average, or to each other."""

    market_g_per_kwh: float | None
    """By the residual mix, where a provider tells one: contracts are not known live."""
    marginal_g_per_kwh: float | None


def other_carbon(site: Site, feed: Feed, now_s: float, signals: SiteSignals) -> OtherCarbon:
    """The same mix of grid and own generation as in `signals`, the grid's part by other methods. Own generation's grams are lifecycle: direct
    ones (WattTime's) are not added to them, and count as unknown.
    """
    zone = site.grid_zone or site.country
    own_g = own_carbon_g_per_kwh(signals.pv_kw, signals.wind_kw)
    residual = [
        o.value
        for o in feed.observed
        if (o.quantity, o.unit) == ("residual_intensity", LIFECYCLE)
        if o.place in (*site_places(site), zone)
        if o.fresh(now_s)
    ]
    marginal = feed.marginal_g_per_kwh(zone, now_s, places=site_places(site))

    def mixed(grid: float | None) -> float | None:
        own = signals.own_share
        return None if grid is None else own * own_g + (1.0 - own) * grid

    return OtherCarbon(
        market_g_per_kwh=mixed(residual[0] if residual else None),
        marginal_g_per_kwh=mixed(
            None if marginal is None or marginal.unit != LIFECYCLE else marginal.value
        ),
    )


def _notes(site: Site, weather: Weather, carbon: Reading, price: Reading) -> tuple[str, ...]:
    notes = [
        _note("carbon", carbon.method, carbon.source, carbon.note),
        _note("price", price.method, price.source, price.note),
        _note("weather", weather.method, weather.source, weather.note),
    ]
    if site.power.pue is not None:
        notes.append("pue: declared in the fleet file")
    elif weather.temp_c is None:
        notes.append(f"pue: by kind and weather, {PUE_DAY_UNKNOWN}")
    if weather.cloud_pct is None and site.power.pv_kw_peak > 0.0:
        notes.append("pv: no clouds recorded, mean cloud factor used")
    if weather.wind10_ms is None and site.power.wind_kw_rated > 0.0:
        notes.append("wind: no wind recorded, counted as none")
    return tuple(notes)


def _note(what: str, method: str, source: str, more: str) -> str:
    return f"{what}: {method}, {source}" + (f" ({more})" if more else "")

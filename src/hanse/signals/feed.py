"""`Feed`: what carbon, price and weather are at an instant, and where each figure comes from.

Here: what providers last said, recordings replayed, yearly means where neither is, and dated overrides for scenarios.
Not here: the network (`providers`), the clock (instants are arguments), site physics (`energy`).

Order of preference: an override, what a provider said and is not too old, the zone's recorded hour, the country's yearly
figure. Where a provider has fallen silent carbon falls to the yearly mean, never to another year's hour. Nothing is made
up in silence: every reading names its method, source and age.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Annotated, Literal

import msgspec

from hanse.catalogue import country_electricity
from hanse.catalogue.electricity import CARBON_SOURCE, price_usd_per_kwh_median
from hanse.errors import FeedError
from hanse.model.fleet import Site
from hanse.signals.clock import Clock
from hanse.signals.kinds import LIFECYCLE
from hanse.signals.recorded import nearest_weather_zone, recorded
from hanse.signals.replay import replay_within
from hanse.signals.series import Series, SignalType
from hanse.units import hours_from_s

Method = Literal[
    "live",
    "recorded hour",
    "estimated hour",
    "yearly mean",
    "list price",
    "median price",
    "declared",
    "none",
]

MARGINAL_NOTE = (
    "slope of hourly emissions against generation other than wind and sun, by hour of day and quarter; "
    "no imports, no curtailment"
)
PRICE = "price_usd_per_kwh"
FACTOR_MAX = 1e6
"""What a scenario makes of a price or a carbon figure stays a number that can be reckoned with."""
INSTANT_S_MAX = 1e15
"""Either way; what has no end is written so."""
WEATHER_KM_MAX = 750.0
"""Beyond this another place's weather says little: mid-latitude systems are about 1,000 km across."""


class Reading(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One value with its provenance."""

    value: float
    unit: str
    zone: str
    signal: SignalType
    method: Method
    source: str
    licence: str
    recorded_at_s: float | None = None
    """The recorded instant that is played; None where the figure is no hour's."""
    age_s: float | None = None
    """Since the end of the step that a provider last gave; None where none was asked."""
    note: str = ""


class Weather(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Outdoor conditions at an instant; None where nobody recorded them."""

    zone: str
    temp_c: float | None = None
    rh_pct: float | None = None
    cloud_pct: float | None = None
    wind10_ms: float | None = None
    """At 10 m above ground."""
    method: Method
    source: str
    licence: str
    recorded_at_s: float | None = None
    age_s: float | None = None
    """Of the oldest live quantity in it."""
    note: str = ""


class Observed(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The last good value of a provider, as it was said: ageing is whoever reads it."""

    quantity: str
    place: str
    """A site, or a zone as sites call it."""
    value: float
    unit: str
    signal: SignalType
    until_s: float
    """End of the step that it holds for."""
    stale_after_s: float
    source: str
    licence: str
    note: str = ""

    def age_s(self, now_s: float) -> float:
        """0 while its step lasts."""
        return max(0.0, now_s - self.until_s)

    def fresh(self, now_s: float) -> bool:
        """Whether it still counts."""
        return self.age_s(now_s) <= self.stale_after_s


class Override(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A scenario's change: at one place (a site, a zone or `*`), from one instant until another."""

    kind: Literal["cloud_pct", "carbon_factor", "price_factor", "grid_factor", "warmer_k"]
    """`cloud_pct` replaces the recorded cover; the factors multiply the replayed figure, `grid_factor` what a site's grid connection
    gives (0: an outage); `warmer_k` is added to the outdoor temperature."""
    place: str
    value: Annotated[float, msgspec.Meta(ge=0.0, le=FACTOR_MAX)]
    from_s: Annotated[float, msgspec.Meta(ge=-INSTANT_S_MAX, le=INSTANT_S_MAX)]
    until_s: Annotated[float, msgspec.Meta(ge=-INSTANT_S_MAX, le=INSTANT_S_MAX)]
    reason: str

    def __post_init__(self) -> None:
        limit = 100.0 if self.kind == "cloud_pct" else FACTOR_MAX
        if not 0.0 <= self.value <= limit:
            raise FeedError("override", got=f"{self.kind} {self.value}", allowed=f"0 to {limit:g}")

    def holds(self, now_s: float, places: tuple[str, ...]) -> bool:
        """Whether it is in force at an instant, for any of these names of one place."""
        return self.from_s <= now_s < self.until_s and self.meets(places)

    def meets(self, places: tuple[str, ...]) -> bool:
        """Whether it is about a place of these names."""
        return self.place == "*" or self.place in places


class Feed(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Recorded years plus overrides. A value like any other: a change makes a new one."""

    overrides: tuple[Override, ...] = ()
    clock_offset_s: float = 0.0
    """Added to the instant before it is replayed: plays another hour of the year. Overrides are
    dated by the true clock."""
    clock_speed: float = 1.0
    """Of the recorded years against the true clock, from `clock_from_s` on; 60 plays an hour in a minute."""
    clock_from_s: float = 0.0
    observed: tuple[Observed, ...] = ()
    """By true clock too."""
    recordings: tuple[Series, ...] = ()
    """Of a whole year or more, replayed in place of the shipped ones; `price_usd_per_kwh` has none shipped."""

    def recorded(self, zone: str, quantity: str) -> Series | None:
        """The recording of a zone that is replayed: one that was brought, else the shipped one; None where there is none."""
        brought = _by_name(self.recordings).get((zone, quantity))
        return recorded(zone, quantity) if brought is None else brought  # type: ignore[arg-type]

    def __post_init__(self) -> None:
        assert self.clock.speed > 0.0, "said by the clock itself"

    @property
    def clock(self) -> Clock:
        """The clock that recordings are played by, without the offset."""
        return Clock(speed=self.clock_speed, from_s=self.clock_from_s)

    def played_s(self, now_s: float) -> float:
        """The instant that is replayed."""
        return self.clock.played_s(now_s) + self.clock_offset_s

    def by_its_clock(self) -> Feed:
        """The same feed for instants of its own clock: overrides dated by that, nothing observed, since providers tell of true hours."""
        clock = self.clock
        return msgspec.structs.replace(
            self,
            clock_speed=1.0,
            clock_from_s=0.0,
            observed=(),
            overrides=tuple(
                msgspec.structs.replace(
                    one, from_s=clock.played_s(one.from_s), until_s=clock.played_s(one.until_s)
                )
                for one in self.overrides
            ),
        )

    def with_override(self, override: Override) -> Feed:
        """A feed in which the override holds too; of two that hold, the later added counts."""
        return msgspec.structs.replace(self, overrides=(*self.overrides, override))

    def carbon_g_per_kwh(
        self, zone_or_country: str, now_s: float, *, places: tuple[str, ...] = ()
    ) -> Reading:
        """Average location-based lifecycle carbon intensity of the grid, gCO2e/kWh; `places` are its further names."""
        names = (*places, zone_or_country)
        series = self.recorded(zone_or_country, "carbon_intensity")
        told = self._told("carbon_intensity", names)
        of_kind = [o for o in told if (o.signal, o.unit) == ("average_location", LIFECYCLE)]
        live = _first_fresh(of_kind, now_s)
        if live is not None:
            reading = (
                _said(live, now_s)
                if live.fresh(now_s)
                else _silent(_carbon_yearly_mean(zone_or_country), live, now_s)
            )
        elif series is None:
            reading = _carbon_yearly_mean(zone_or_country)
        else:
            reading = self._replayed(series, now_s)
        if told and live is None:
            note = f"{told[0].source} tells {told[0].signal} in {told[0].unit}: not counted"
            reading = msgspec.structs.replace(reading, note=_joined(reading.note, note))
        return self._scaled(reading, "carbon_factor", now_s, names)

    def marginal_g_per_kwh(
        self, zone_or_country: str, now_s: float, *, places: tuple[str, ...] = ()
    ) -> Reading | None:
        """What one more kWh of demand emits, gCO2e/kWh; None where nobody tells. Never mix it with the average. `places` are its further names."""
        live = self._live("marginal_intensity", (*places, zone_or_country), now_s)
        if live is not None and live.signal == "marginal" and live.fresh(now_s):
            return _said(live, now_s)
        series = self.recorded(zone_or_country, "marginal_intensity")
        if series is None:
            return None
        reading = self._replayed(series, now_s)
        reading = msgspec.structs.replace(reading, method="estimated hour", note=MARGINAL_NOTE)
        return reading if live is None else _silent(reading, live, now_s)

    def carbon_free_share(self, zone_or_country: str, now_s: float) -> Reading | None:
        """Share of generation in the zone that is wind, sun, water or nuclear, 0 to 1; None where nobody tells.

        Production based: imports are not counted. Biomass and geothermal are not, so it is a lower end.
        """
        series = self.recorded(zone_or_country, "carbon_free_pct")
        if series is None:
            return _carbon_free_yearly(zone_or_country)
        reading = self._replayed(series, now_s)
        return msgspec.structs.replace(reading, value=reading.value / 100.0, unit="share")

    def price_usd_per_kwh(
        self,
        zone_or_country: str,
        now_s: float,
        *,
        places: tuple[str, ...] = (),
        declared: float | None = None,
    ) -> Reading:
        """Price of a delivered kWh: as recorded, else as declared, else of a large industrial user, without VAT."""
        iso2 = country_of(zone_or_country)
        names = (*places, zone_or_country)
        series = self.price_recording(names)
        if series is not None:
            reading = self._replayed(series, now_s)
        else:
            reading = (
                _price_of_country(iso2) if declared is None else _price_declared(iso2, declared)
            )
        live = self._live("price_usd_per_kwh", names, now_s)
        if live is not None:
            fresh = live.fresh(now_s)
            reading = _said(live, now_s) if fresh else _silent(reading, live, now_s)
        return self._scaled(reading, "price_factor", now_s, names)

    def price_recording(self, places: tuple[str, ...]) -> Series | None:
        """Hourly prices that were brought for the first of some names; None ships."""
        found = (self.recorded(place, PRICE) for place in places)
        return next((series for series in found if series is not None), None)

    def grid_factor(self, site: str, now_s: float) -> float:
        """Of a site's grid connection: 1 unless a scenario takes some of it away."""
        override = self._in_force("grid_factor", now_s, (site,))
        return 1.0 if override is None else override.value

    def weather(self, zone: str, now_s: float, *, site: str = "") -> Weather:
        """Outdoor conditions recorded for a zone."""
        temp = self.recorded(zone, "temp_c")
        if temp is None:
            raise FeedError(
                "weather zone",
                got=repr(zone),
                allowed="a zone with a recording (`hanse.signals.recorded_zones`)",
                fix="name one in weather_zone, or leave it empty to take the nearest",
            )
        at_s = self._recorded_at_s(temp, now_s)
        weather = Weather(
            zone=temp.zone,
            temp_c=temp.at(at_s),
            rh_pct=self._at(zone, "rh_pct", at_s),
            cloud_pct=self._at(zone, "cloud_pct", at_s),
            wind10_ms=self._at(zone, "wind10_ms", at_s),
            method="recorded hour",
            source=temp.source,
            licence=temp.licence,
            recorded_at_s=at_s,
        )
        weather = self._weather_said(weather, now_s, (site, zone, temp.zone))
        return self._overcast(weather, now_s, (site, zone, temp.zone))

    def weather_near(
        self, lat_deg: float, lon_deg: float, now_s: float, *, site: str = ""
    ) -> Weather:
        """Conditions at the nearest recorded place; where that is too far away to tell, what the site's own feed says, else None."""
        zone, away_km = nearest_weather_zone(lat_deg, lon_deg)
        note = f"nearest recording is {zone}, {away_km:.0f} km away"
        if away_km > WEATHER_KM_MAX:
            unknown = Weather(
                zone="", method="none", source="no recording near", licence="-", note=note
            )
            return self._overcast(self._weather_said(unknown, now_s, (site,)), now_s, (site,))
        weather = self.weather(zone, now_s, site=site)
        return msgspec.structs.replace(weather, note=_joined(weather.note, note))

    def _at(self, zone: str, quantity: str, recorded_at_s: float) -> float | None:
        series = self.recorded(zone, quantity)
        return None if series is None else series.at(recorded_at_s)

    def _told(self, quantity: str, places: tuple[str, ...]) -> list[Observed]:
        """By the first name that it goes by, then the next."""
        return [
            one
            for place in places
            for one in self.observed
            if place and one.place == place and one.quantity == quantity
        ]

    def _live(self, quantity: str, places: tuple[str, ...], now_s: float) -> Observed | None:
        return _first_fresh(self._told(quantity, places), now_s)

    def _weather_said(self, weather: Weather, now_s: float, places: tuple[str, ...]) -> Weather:
        names = "temp_c", "rh_pct", "cloud_pct", "wind10_ms"
        said = [self._live(name, places, now_s) for name in names]
        asked = [one for one in said if one is not None]
        fresh = [one for one in asked if one.fresh(now_s)]
        if not asked:
            return weather
        age_s = max(one.age_s(now_s) for one in fresh or asked)
        stale = [one for one in asked if one not in fresh]
        note = _joined(weather.note, _too_old(stale[0], now_s)) if stale else weather.note
        if not fresh:
            return msgspec.structs.replace(weather, age_s=age_s, note=note)
        return msgspec.structs.replace(
            weather,
            note=note,
            method="live",
            source=fresh[0].source,
            licence=fresh[0].licence,
            recorded_at_s=None,
            age_s=age_s,
            **{one.quantity: one.value for one in fresh},
        )

    def _recorded_at_s(self, series: Series, now_s: float) -> float:
        return replay_within(self.played_s(now_s), start_s=series.start_s, until_s=series.until_s)

    def _replayed(self, series: Series, now_s: float) -> Reading:
        recorded_at_s = self._recorded_at_s(series, now_s)
        return Reading(
            value=series.at(recorded_at_s),
            unit=series.unit,
            zone=series.zone,
            signal=series.signal,
            method="recorded hour",
            source=series.source,
            licence=series.licence,
            recorded_at_s=recorded_at_s,
        )

    def _in_force(self, kind: str, now_s: float, places: tuple[str, ...]) -> Override | None:
        names = tuple(p for p in places if p)
        found = [o for o in self.overrides if o.kind == kind and o.holds(now_s, names)]
        return found[-1] if found else None

    def _scaled(
        self, reading: Reading, kind: str, now_s: float, places: tuple[str, ...]
    ) -> Reading:
        override = self._in_force(kind, now_s, (*places, reading.zone))
        if override is None:
            return reading
        note = _joined(reading.note, f"times {override.value:g}: {override.reason}")
        return msgspec.structs.replace(reading, value=reading.value * override.value, note=note)

    def _overcast(self, weather: Weather, now_s: float, places: tuple[str, ...]) -> Weather:
        warmer = self._in_force("warmer_k", now_s, places)
        if warmer is not None and weather.temp_c is not None:
            note = _joined(weather.note, f"{warmer.value:g} K warmer: {warmer.reason}")
            temp_c = weather.temp_c + warmer.value
            weather = msgspec.structs.replace(weather, temp_c=temp_c, note=note)
        override = self._in_force("cloud_pct", now_s, places)
        if override is None:
            return weather
        note = _joined(weather.note, f"cloud {override.value:g} %: {override.reason}")
        return msgspec.structs.replace(weather, cloud_pct=override.value, note=note)


@lru_cache(maxsize=16)
def _by_name(recordings: tuple[Series, ...]) -> dict[tuple[str, str], Series]:
    """The first of each zone and quantity."""
    return {(one.zone, one.quantity): one for one in reversed(recordings)}


def _first_fresh(told: list[Observed], now_s: float) -> Observed | None:
    """The first that is not too old: a feed that has fallen silent hides no other; of none that is fresh the first."""
    return next((one for one in told if one.fresh(now_s)), told[0] if told else None)


def _said(live: Observed, now_s: float) -> Reading:
    return Reading(
        value=live.value,
        unit=live.unit,
        zone=live.place,
        signal=live.signal,
        method="live",
        source=live.source,
        licence=live.licence,
        age_s=live.age_s(now_s),
        note=live.note,
    )


def _silent(instead: Reading, live: Observed, now_s: float) -> Reading:
    note = _joined(_too_old(live, now_s), instead.note)
    return msgspec.structs.replace(instead, age_s=live.age_s(now_s), note=note)


def _too_old(live: Observed, now_s: float) -> str:
    age_h, limit_h = hours_from_s(live.age_s(now_s)), hours_from_s(live.stale_after_s)
    return f"{live.source} last told {live.value:g} {live.unit} {age_h:.1f} h ago, counts {limit_h:.1f} h"


def site_places(site: Site) -> tuple[str, ...]:
    """Names that a site's grid goes by, its own first: feeds, histories and overrides may use any."""
    return tuple(name for name in (site.id, site.grid_zone, site.country) if name)


def weather_places(site: Site) -> tuple[str, ...]:
    """Names that a site's grid and weather recordings go by: overrides may use them too."""
    grid = recorded(site.grid_zone or site.country, "carbon_intensity")
    near, away_km = nearest_weather_zone(site.lat_deg, site.lon_deg)
    weather = site.weather_zone or (near if away_km <= WEATHER_KM_MAX else "")
    sky = recorded(weather, "temp_c") if weather else None
    names = weather, "" if grid is None else grid.zone, "" if sky is None else sky.zone
    return tuple(name for name in names if name)


def country_of(zone_or_country: str) -> str:
    """The country of a grid zone: zone names begin with its two-letter code."""
    series = recorded(zone_or_country, "carbon_intensity")
    return (series.zone if series else zone_or_country).split("-")[0]


def _carbon_yearly_mean(zone_or_country: str) -> Reading:
    iso2 = country_of(zone_or_country)
    figures = country_electricity(iso2, where="grid zone or country")
    if figures.carbon_g_per_kwh is None:
        raise FeedError(
            "grid zone or country",
            got=repr(zone_or_country),
            allowed="a zone with a recording or a country with a published mean",
            fix="name the grid zone the site draws from",
        )
    note = f"no hours recorded for {zone_or_country}; mean of {iso2}, {figures.ci_year}"
    return Reading(
        value=figures.carbon_g_per_kwh,
        unit="gCO2e/kWh",
        zone=iso2,
        signal="average_location",
        method="yearly mean",
        source=CARBON_SOURCE,
        licence="CC BY 4.0",
        note=note,
    )


def _carbon_free_yearly(zone_or_country: str) -> Reading | None:
    iso2 = country_of(zone_or_country)
    mix = country_electricity(iso2, where="grid zone or country")
    parts = (mix.nuclear_pct, mix.hydro_pct, mix.wind_pct, mix.solar_pct)
    known = [part for part in parts if part is not None]
    if not known:
        return None
    note = f"no hours recorded for {zone_or_country}; mean of {iso2}, {mix.ci_year}"
    return Reading(
        value=min(1.0, sum(known) / 100.0),
        unit="share",
        zone=iso2,
        signal="carbon_free",
        method="yearly mean",
        source=CARBON_SOURCE,
        licence="CC BY 4.0",
        note=note,
    )


def _price_of_country(iso2: str) -> Reading:
    figures = country_electricity(iso2, where="country")
    value, method, source, note = figures.price_usd_per_kwh, "list price", figures.price_source, ""
    if value is None:
        value, count = price_usd_per_kwh_median()
        method, source = "median price", "median of the countries with a published price"
        note = f"no published price for {iso2}; median of {count} countries"
    return Reading(
        value=value,
        unit="USD/kWh",
        zone=iso2,
        signal="price",
        method="list price" if method == "list price" else "median price",
        source=source,
        licence="published statistics, cited",
        note=note,
    )


def _price_declared(iso2: str, price_usd_per_kwh: float) -> Reading:
    return Reading(
        value=price_usd_per_kwh,
        unit="USD/kWh",
        zone=iso2,
        signal="price",
        method="declared",
        source="fleet file",
        licence="the operator's own",
    )


def _joined(note: str, more: str) -> str:
    return "; ".join(part for part in (note, more) if part)

"""A fleet's `Outlook`: weather, own power, carbon and price of every site over the next steps, from forecasts.

Here: forecasts of each zone's signals turned into PUE, PV and wind at each site; for one instant or many at once. Not
here: how a series is forecast (`signals.forecast`), the past itself: it is replayed from the recordings, or brought.

The sun's path is known exactly and only the sky is forecast: the factor that clouds leave of a clear sky, by the fitted
rule of `solar.cloud_factor`, and the share of a turbine's rating rather than the wind, since both are far from linear
and the mean of a curve is not the curve of a mean.

Of scenarios an outlook knows what is in force when it is issued, and until when.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from hanse.energy.cooling import pue_at
from hanse.energy.limits import cooled_share
from hanse.energy.site import site_carbon, site_price, site_weather
from hanse.energy.solar import (
    AIR_UNKNOWN_C,
    WIND_MODULE_MS,
    cloud_factors,
    site_sun,
)
from hanse.energy.steps import fill_pv
from hanse.energy.wind import wind_shares
from hanse.errors import FeedError
from hanse.model.fleet import Site, SiteKind
from hanse.signals import Feed, Series, recorded, recorded_zones, site_places
from hanse.signals.axis import StepAxis, series_steps
from hanse.signals.forecast import SHIPPED, Forecast, Method, many_told, preferred
from hanse.signals.kinds import LIFECYCLE, Kinded, one_kind
from hanse.signals.outlook import CarbonSignal, DemandOutlook, Outlook, SiteOutlook
from hanse.signals.recorded import Quantity
from hanse.units import SECONDS_PER_DAY, SECONDS_PER_HOUR

HISTORY_DAYS: Final = 200.0
"""Before the first issue: the window of the shipped method and two weeks."""

Brought = Mapping[tuple[str, str], Series]
"""(site or zone id, quantity) -> a history that goes before the recordings: `carbon_intensity`, `marginal_intensity`,
`residual_intensity`, `price_usd_per_kwh`, `temp_c`, `rh_pct`, `cloud_pct`, `wind10_ms`; hourly, dated, with gaps (NaN) and an early end allowed."""
Provided = Mapping[tuple[str, str], Forecast]
"""(site or zone id, quantity) -> a provider's own forecast, which goes first."""
Floats = NDArray[np.float64]


def outlook_from(
    sites: Sequence[Site],
    feed: Feed,
    issued_at_s: float,
    *,
    steps: int,
    demand: Sequence[DemandOutlook] = (),
    carbon_signal: CarbonSignal = "average_location",
    brought: Brought | None = None,
    provided: Provided | None = None,
    method: Method = SHIPPED,
) -> Outlook:
    """What is expected at an instant of the next hours; nothing dated later than it is read."""
    one = outlooks_from(
        sites,
        feed,
        [issued_at_s],
        steps=steps,
        carbon_signal=carbon_signal,
        brought=brought,
        provided=provided,
        method=method,
    )[0]
    return msgspec.structs.replace(one, demand=tuple(demand))


def outlooks_from(
    sites: Sequence[Site],
    feed: Feed,
    issued_at_s: Sequence[float],
    *,
    steps: int,
    carbon_signal: CarbonSignal = "average_location",
    brought: Brought | None = None,
    provided: Provided | None = None,
    method: Method = SHIPPED,
) -> list[Outlook]:
    """Outlooks of many instants, without demand; a zone is forecast once for all sites in it."""
    issued = np.asarray(issued_at_s, np.float64)
    zones = _Zones(feed, issued, steps, method, brought or {}, provided or {})
    carbon = [_carbon(site, zones, carbon_signal) for site in sites]
    one_kind(*(told for _, told in carbon))
    rows = [
        _site(site, zones, g, carbon_signal) for site, (g, _) in zip(sites, carbon, strict=True)
    ]
    return [
        Outlook(
            issued_at_s=float(issued[i]),
            start_s=float(zones.starts_s[i]),
            step_s=SECONDS_PER_HOUR,
            demand=(),
            sites=tuple(row[i] for row in rows),
        )
        for i in range(len(issued))
    ]


class _Zones:
    """Forecasts [issue, step] by zone and quantity, each made once."""

    def __init__(
        self,
        feed: Feed,
        issued_at_s: Floats,
        steps: int,
        method: Method,
        brought: Brought,
        provided: Provided,
    ) -> None:
        self.feed, self.issued_at_s, self.steps, self.method = feed, issued_at_s, steps, method
        self.plain = msgspec.structs.replace(feed, overrides=())
        self.starts_s: Floats = np.floor(issued_at_s / SECONDS_PER_HOUR) * SECONDS_PER_HOUR
        self._brought = {key: one for key, one in brought.items() if _counts(key, one)}
        self._provided = {key: one for key, one in provided.items() if _counts(key, one)}
        self._made: dict[tuple[str, str], tuple[Floats, Kinded] | None] = {}
        self._pues: dict[tuple[SiteKind, bytes, bytes], Floats] = {}

    @property
    def shape(self) -> tuple[int, int]:
        """[issue, step]."""
        return len(self.issued_at_s), self.steps

    def of(self, names: tuple[str, ...], quantity: str, form: str = "") -> Floats | None:
        """Means of the first of some names (a site, its zone) that has a history or a recording; None where none has."""
        found = self.told(names, quantity, form)
        return None if found is None else found[0]

    def told(
        self, names: tuple[str, ...], quantity: str, form: str = ""
    ) -> tuple[Floats, Kinded] | None:
        """The same, and of which kind and unit they are."""
        told = [n for n in names if (n, quantity) in {*self._brought, *self._provided}]
        for name in (
            *told,
            *names,
        ):  # what somebody tells of a country goes before its zone's recorded year
            key = (name, quantity + form)
            if key not in self._made:
                self._made[key] = self._forecast(name, quantity, form)
            if (found := self._made[key]) is not None:
                return found
        return None

    def changed(self, kind: str, places: tuple[str, ...], values: Floats) -> Floats:
        """Values with the overrides in force at each issue, until they end; one that is yet to come is not known."""
        hours = np.arange(self.steps) * SECONDS_PER_HOUR
        issued = self.issued_at_s[:, None]
        begins = np.maximum(self.starts_s[:, None] + hours, issued)
        for one in self.feed.overrides:
            if one.kind == kind and one.meets(places):
                holds = (one.from_s <= issued) & (begins < one.until_s)
                values = np.where(holds, one.value, values)
        return values

    def pue(self, kind: SiteKind, temp_c: Floats, rh_pct: Floats) -> Floats:
        """Of a kind of site in some weather, which those of a zone have in common; no humidity: NaN."""
        key = kind, temp_c.tobytes(), rh_pct.tobytes()
        if key not in self._pues:
            flat = [
                pue_at(kind, t, None if math.isnan(rh) else rh)
                for t, rh in zip(temp_c.ravel().tolist(), rh_pct.ravel().tolist(), strict=True)
            ]
            self._pues[key] = np.array(flat).reshape(self.shape)
        return self._pues[key]

    def _forecast(self, name: str, quantity: str, form: str) -> tuple[Floats, Kinded] | None:
        history = self._history(name, quantity)
        theirs = self._provided.get((name, quantity))
        if history is None and theirs is None:
            return None
        if theirs is not None and (history is None or history.unit != theirs.unit):
            # A provider that counts otherwise than the recording is not continued by it.
            history = _constant(theirs, self.issued_at_s)
        assert history is not None, "one of the two is there"
        if form:
            history = msgspec.structs.replace(
                history, values=_formed(form, history.values), quantity=form
            )
        batch = many_told(history, self.issued_at_s, steps=self.steps, method=self.method)
        if theirs is None:
            return batch.mean, history
        if form:
            theirs = msgspec.structs.replace(
                theirs, quantity=form, mean=tuple(_formed(form, np.array(theirs.mean)).tolist())
            )
        means = [
            # Of several issues only those made after the provider's may know of it.
            preferred(
                theirs if own >= theirs.issued_at_s else None,
                batch.one(i),
                self._running(name, quantity, form, theirs, own),
            ).mean
            for i, own in enumerate(self.issued_at_s.tolist())
        ]
        return np.array(means), history

    def _running(
        self, name: str, quantity: str, form: str, theirs: Forecast, now_s: float
    ) -> float | None:
        """What a feed last said, for the hour that a provider's forecast may leave out; None where that is old or of another kind."""
        for one in self.feed.observed:
            of_kind = (one.signal, one.unit) == (theirs.signal, theirs.unit)
            if (one.place, one.quantity) == (name, quantity) and of_kind and one.fresh(now_s):
                return float(_formed(form, np.array(one.value))) if form else one.value
        return None

    def _history(self, name: str, quantity: str) -> Series | None:
        own = self._brought.get((name, quantity))
        if own is not None:
            return own
        series = self.feed.recorded(name, quantity)
        if series is None:
            return None
        span_s = (float(self.issued_at_s.min()), float(self.issued_at_s.max()))
        return _replayed(series, *span_s, self.feed.clock_offset_s)


def _counts(key: tuple[str, str], told: Kinded) -> bool:
    """Averages of two units never stand beside each other; every recorded one is lifecycle."""
    return key[1] != "carbon_intensity" or told.unit == LIFECYCLE


def replayed_history(zone: str, quantity: Quantity, issued_at_s: float) -> Series:
    """A recorded year as if it had just happened: the months before an instant, dated up to it."""
    series = recorded(zone, quantity)
    if series is None:
        raise FeedError(
            f"{quantity} of {zone}",
            got="no recording",
            allowed=", ".join(recorded_zones(quantity)),
        )
    return _replayed(series, issued_at_s, issued_at_s, 0.0)


def _replayed(series: Series, first_s: float, last_s: float, offset_s: float) -> Series:
    day_s = math.floor(first_s / SECONDS_PER_DAY) * SECONDS_PER_DAY
    start_s = day_s - HISTORY_DAYS * SECONDS_PER_DAY
    count = math.ceil((last_s - start_s) / SECONDS_PER_HOUR)
    axis = StepAxis(start_s=start_s, count=count, step_s=SECONDS_PER_HOUR)
    values = series_steps(series, axis, offset_s=offset_s, linear=False)
    return msgspec.structs.replace(series, start_s=start_s, step_s=SECONDS_PER_HOUR, values=values)


FORMS: Final = {"cloud_factor": cloud_factors, "wind_share": wind_shares}
"""What a history is turned into before it is forecast."""


def _formed(form: str, values: Floats) -> Floats:
    """A gap stays one: the mean sky and no wind are for places that nobody knows of."""
    return np.where(np.isnan(values), math.nan, FORMS[form](values))


def _constant(theirs: Forecast, issued_at_s: Floats) -> Series:
    """Where only a provider knows a quantity, its own mean stands in beyond its reach."""
    first_s = min(theirs.start_s, float(issued_at_s.min()))
    start_s = math.floor(first_s / SECONDS_PER_HOUR) * SECONDS_PER_HOUR - SECONDS_PER_DAY
    count = math.ceil((float(issued_at_s.max()) - start_s) / SECONDS_PER_HOUR)
    return Series(
        start_s=start_s,
        step_s=SECONDS_PER_HOUR,
        values=np.full(count, float(np.mean(theirs.mean))),
        quantity=theirs.quantity,
        unit=theirs.unit,
        signal=theirs.signal,
        zone=theirs.zone,
        source=theirs.source,
        licence="the provider's",
    )


def _site(
    site: Site, zones: _Zones, carbon: Floats, carbon_signal: CarbonSignal
) -> list[SiteOutlook]:
    """One site at every issue."""
    weather = site_weather(site, zones.plain, float(zones.issued_at_s[0]))
    sky = tuple(name for name in (site.id, site.weather_zone, weather.zone) if name)
    temp_c, rh_pct = zones.of(sky, "temp_c"), zones.of(sky, "rh_pct")
    if temp_c is not None:
        temp_c = temp_c + zones.changed("warmer_k", sky, np.zeros(zones.shape))
    price = _price(site, zones)
    pue, pv = _pue(site, zones, temp_c, rh_pct), _pv(site, zones, sky, temp_c)
    wind = zones.of(sky, "wind10_ms", "wind_share") if site.power.wind_kw_rated > 0.0 else None
    wind_kw = np.zeros(zones.shape) if wind is None else site.power.wind_kw_rated * wind
    grid = site.power.grid_kw_max * zones.changed("grid_factor", (site.id,), np.ones(zones.shape))
    return [
        SiteOutlook(
            site=site.id,
            price_usd_per_kwh=tuple(price[i].tolist()),
            carbon_g_per_kwh=tuple(carbon[i].tolist()),
            carbon_signal=carbon_signal,
            pue=tuple(pue[i].tolist()),
            pv_kw=tuple(pv[i].tolist()),
            wind_kw=tuple(wind_kw[i].tolist()),
            grid_kw_max=tuple(grid[i].tolist()),
            cooled_share=() if temp_c is None else tuple(map(cooled_share, temp_c[i].tolist())),
        )
        for i in range(len(zones.issued_at_s))
    ]


def _price(site: Site, zones: _Zones) -> Floats:
    places = site_places(site)
    price = zones.of(places, "price_usd_per_kwh")
    if price is None:
        readings = [site_price(site, zones.plain, s).value for s in zones.issued_at_s]
        price = _flat(zones.shape, readings)
    return price * zones.changed("price_factor", places, np.ones(zones.shape))


def _carbon(site: Site, zones: _Zones, signal: CarbonSignal) -> tuple[Floats, Kinded]:
    """Of one kind only: a zone whose marginal or market figure nobody tells is refused, never given its average."""
    quantity = {"marginal": "marginal_intensity", "average_market": "residual_intensity"}.get(
        signal, "carbon_intensity"
    )
    places = site_places(site)
    found = zones.told(places, quantity)
    if found is None and signal != "average_location":
        raise FeedError(
            f"{quantity} of site {site.id}",
            got="no history and no provider",
            allowed=f"a {signal} intensity of {' or '.join(places)}",
            fix="bring one, or decide by average_location",
        )
    if found is None:
        readings = [site_carbon(site, zones.plain, s) for s in zones.issued_at_s]
        found = _flat(zones.shape, [one.value for one in readings]), readings[0]
    if signal != "average_location":
        return found  # a carbon factor changes the average alone, as everywhere
    return found[0] * zones.changed("carbon_factor", places, np.ones(zones.shape)), found[1]


def _pue(site: Site, zones: _Zones, temp_c: Floats | None, rh_pct: Floats | None) -> Floats:
    if site.power.pue is not None:
        return np.full(zones.shape, site.power.pue)
    if temp_c is None:
        return np.full(zones.shape, pue_at(site.plant_kind, None, None))
    damp = np.full(zones.shape, math.nan) if rh_pct is None else rh_pct
    return zones.pue(site.plant_kind, temp_c, damp)


def _pv(site: Site, zones: _Zones, sky: tuple[str, ...], temp_c: Floats | None) -> Floats:
    shape = zones.shape
    out = np.zeros(shape)
    if site.power.pv_kw_peak <= 0.0:
        return out
    factor = zones.of(sky, "cloud_pct", "cloud_factor")
    wind = zones.of(sky, "wind10_ms")
    if factor is None:
        factor = np.full(shape, float(cloud_factors(np.array(math.nan))))
    cover_pct = zones.changed("cloud_pct", sky, np.full(shape, math.nan))
    factor = np.where(np.isnan(cover_pct), factor, cloud_factors(cover_pct))
    air = np.full(shape, AIR_UNKNOWN_C) if temp_c is None else temp_c
    breeze = np.full(shape, WIND_MODULE_MS) if wind is None else wind
    sun = site_sun(site.lat_deg, site.lon_deg, site.power.pv_tilt_deg)
    starts_s = zones.starts_s[:, None] + zones.feed.clock_offset_s
    middles_s = starts_s + (np.arange(shape[1]) + 0.5) * SECONDS_PER_HOUR
    sky_now = (np.array(a, np.float64).ravel() for a in (factor, air, breeze))
    fill_pv(*sun.arrays, site.power.pv_kw_peak, middles_s.ravel(), *sky_now, out.ravel())
    return out


def _flat(shape: tuple[int, int], values: Sequence[float]) -> Floats:
    return np.repeat(np.asarray(values, np.float64)[:, None], shape[1], axis=1)

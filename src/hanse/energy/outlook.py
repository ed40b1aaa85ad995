"""A fleet's `Outlook`: weather, own power, carbon and price of every site over the next steps, from forecasts.

Here: forecasts of each zone's signals turned into PUE, PV and wind at each site; for one instant or many at once. Not
here: how a series is forecast (`signals.forecast`), the past itself: it is replayed from the recordings, or brought.

The sun's path is known exactly and only the sky is forecast: the factor that clouds leave of a clear sky, by the fitted
rule of `solar.cloud_factor`, and the share of a turbine's rating rather than the wind, since both are far from linear
and the mean of a curve is not the curve of a mean.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from hanse.energy.cooling import pue_at
from hanse.energy.site import site_price, site_weather
from hanse.energy.solar import (
    AIR_UNKNOWN_C,
    WIND_MODULE_MS,
    cloud_factors,
    irradiance_w_per_m2,
    pv_share,
    site_sun,
)
from hanse.energy.wind import wind_shares
from hanse.errors import FeedError
from hanse.model.fleet import Site
from hanse.signals import Feed, Series, recorded, recorded_zones
from hanse.signals.axis import StepAxis, series_steps
from hanse.signals.forecast import SHIPPED, Forecast, Method, many, preferred
from hanse.signals.outlook import CarbonSignal, DemandOutlook, Outlook, SiteOutlook
from hanse.signals.recorded import Quantity
from hanse.units import SECONDS_PER_DAY, SECONDS_PER_HOUR

HISTORY_DAYS: Final = 200.0
"""Before the first issue: the window of the shipped method and two weeks."""

Brought = Mapping[tuple[str, str], Series]
"""(site or zone id, quantity) -> a history that goes before the recordings: `carbon_intensity`, `marginal_intensity`,
`price_usd_per_kwh`, `temp_c`, `rh_pct`, `cloud_pct`, `wind10_ms`; hourly, dated, no gaps needed."""
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
    rows = [[*_site(site, zones, carbon_signal)] for site in sites]
    starts = np.floor(issued / SECONDS_PER_HOUR) * SECONDS_PER_HOUR
    return [
        Outlook(
            issued_at_s=float(issued[i]),
            start_s=float(starts[i]),
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
        self._brought, self._provided = brought, provided
        self._made: dict[tuple[str, str], Floats | None] = {}

    def of(self, names: tuple[str, ...], quantity: str, form: str = "") -> Floats | None:
        """Means of the first of some names (a site, its zone) that has a history or a recording; None where none has."""
        for name in names:
            key = (name, quantity + form)
            if key not in self._made:
                self._made[key] = self._forecast(name, quantity, form)
            if (found := self._made[key]) is not None:
                return found
        return None

    def _forecast(self, name: str, quantity: str, form: str) -> Floats | None:
        history = self._history(name, quantity)
        theirs = self._provided.get((name, quantity))
        if history is None and theirs is None:
            return None
        if theirs is not None and (history is None or history.unit != theirs.unit):
            # A provider that counts otherwise than the recording is not continued by it.
            history = _constant(theirs)
        assert history is not None, "one of the two is there"
        if form:
            history = msgspec.structs.replace(
                history, values=FORMS[form](history.values), quantity=form
            )
        batch = many(history, self.issued_at_s, steps=self.steps, method=self.method)
        if theirs is None:
            return batch.mean
        if form:
            theirs = msgspec.structs.replace(
                theirs, quantity=form, mean=tuple(FORMS[form](np.array(theirs.mean)).tolist())
            )
        means = [
            # Of several issues only those made after the provider's may know of it.
            preferred(theirs if own >= theirs.issued_at_s else None, batch.one(i)).mean
            for i, own in enumerate(self.issued_at_s.tolist())
        ]
        return np.array(means)

    def _history(self, name: str, quantity: str) -> Series | None:
        own = self._brought.get((name, quantity))
        if own is not None:
            return own
        series = recorded(name, quantity)  # type: ignore[arg-type]
        if series is None:
            return None
        span_s = (float(self.issued_at_s.min()), float(self.issued_at_s.max()))
        return _replayed(series, *span_s, self.feed.clock_offset_s)


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


def _constant(theirs: Forecast) -> Series:
    """Where only a provider knows a quantity, its own mean stands in beyond its reach."""
    count = 48
    return Series(
        start_s=theirs.start_s - count * SECONDS_PER_HOUR,
        step_s=SECONDS_PER_HOUR,
        values=np.full(2 * count, float(np.mean(theirs.mean))),
        quantity=theirs.quantity,
        unit=theirs.unit,
        signal=theirs.signal,
        zone=theirs.zone,
        source=theirs.source,
        licence="the provider's",
    )


def _site(site: Site, zones: _Zones, carbon_signal: CarbonSignal) -> Sequence[SiteOutlook]:
    """One site at every issue."""
    shape = (len(zones.issued_at_s), zones.steps)
    weather = site_weather(site, zones.feed, float(zones.issued_at_s[0]))
    sky = (site.id, weather.zone)
    grid = (site.id, site.grid_zone or site.country)
    temp_c, rh_pct = zones.of(sky, "temp_c"), zones.of(sky, "rh_pct")
    price = zones.of((site.id, grid[1]), "price_usd_per_kwh")
    if price is None:
        price = _flat(shape, [site_price(site, zones.feed, s).value for s in zones.issued_at_s])
    pue, pv = _pue(site, temp_c, rh_pct, shape), _pv(site, zones, sky, temp_c, shape)
    carbon = _carbon(site, zones, grid, carbon_signal, shape)
    wind = zones.of(sky, "wind10_ms", "wind_share") if site.power.wind_kw_rated > 0.0 else None
    wind_kw = np.zeros(shape) if wind is None else site.power.wind_kw_rated * wind
    return [
        SiteOutlook(
            site=site.id,
            price_usd_per_kwh=tuple(price[i].tolist()),
            carbon_g_per_kwh=tuple(carbon[i].tolist()),
            carbon_signal=carbon_signal,
            pue=tuple(pue[i].tolist()),
            pv_kw=tuple(pv[i].tolist()),
            wind_kw=tuple(wind_kw[i].tolist()),
            grid_kw_max=(site.power.grid_kw_max,) * zones.steps,
        )
        for i in range(shape[0])
    ]


def _carbon(
    site: Site,
    zones: _Zones,
    grid: tuple[str, ...],
    signal: CarbonSignal,
    shape: tuple[int, int],
) -> Floats:
    """Of one kind only: a zone whose marginal or market figure nobody tells is refused, never given its average."""
    quantity = {"marginal": "marginal_intensity", "average_market": "residual_intensity"}.get(
        signal, "carbon_intensity"
    )
    found = zones.of(grid, quantity)
    if found is not None:
        return found
    if signal == "average_location":
        readings = [
            zones.feed.carbon_g_per_kwh(grid[-1], s, site=site.id).value for s in zones.issued_at_s
        ]
        return _flat(shape, readings)
    raise FeedError(
        f"{quantity} of site {site.id}",
        got="no history and no provider",
        allowed=f"a {signal} intensity of {grid[-1]}",
        fix="bring one, or decide by average_location",
    )


def _pue(
    site: Site, temp_c: Floats | None, rh_pct: Floats | None, shape: tuple[int, int]
) -> Floats:
    if site.power.pue is not None:
        return np.full(shape, site.power.pue)
    if temp_c is None:
        return np.full(shape, pue_at(site.plant_kind, None, None))
    damp = np.full(shape, math.nan) if rh_pct is None else rh_pct
    flat = [
        pue_at(site.plant_kind, t, None if math.isnan(rh) else rh)
        for t, rh in zip(temp_c.ravel().tolist(), damp.ravel().tolist(), strict=True)
    ]
    return np.array(flat).reshape(shape)


def _pv(
    site: Site, zones: _Zones, sky: tuple[str, ...], temp_c: Floats | None, shape: tuple[int, int]
) -> Floats:
    out = np.zeros(shape)
    if site.power.pv_kw_peak <= 0.0:
        return out
    factor = zones.of(sky, "cloud_pct", "cloud_factor")
    wind = zones.of(sky, "wind10_ms")
    if factor is None:
        factor = np.full(shape, float(cloud_factors(np.array(math.nan))))
    air = np.full(shape, AIR_UNKNOWN_C) if temp_c is None else temp_c
    breeze = np.full(shape, WIND_MODULE_MS) if wind is None else wind
    sun = site_sun(site.lat_deg, site.lon_deg, site.power.pv_tilt_deg)
    starts = np.floor(zones.issued_at_s / SECONDS_PER_HOUR) * SECONDS_PER_HOUR
    for i, start_s in enumerate((starts + zones.feed.clock_offset_s).tolist()):
        for h in range(shape[1]):
            middle_s = start_s + (h + 0.5) * SECONDS_PER_HOUR
            arguments = (*sun.arrays, middle_s, float(factor[i, h]))
            light = irradiance_w_per_m2(*arguments)
            out[i, h] = site.power.pv_kw_peak * pv_share(
                light, float(air[i, h]), float(breeze[i, h])
            )
    return out


def _flat(shape: tuple[int, int], values: Sequence[float]) -> Floats:
    return np.repeat(np.asarray(values, np.float64)[:, None], shape[1], axis=1)

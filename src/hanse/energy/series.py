"""`SiteSeries`: what comes from outside to every site of a fleet at every step, ready for the kernels.

Here: signals (`signals.axis`) turned into own generation and wet bulb, [site, step]. Not here: the IT load, which the
twin gives, and the balance. Imports numba; a process without it uses `energy.site`.

A year of fifty sites at five minutes would take 550 MB: build and use it month by month (`StepAxis.months`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from hanse.energy.cooling import COOL_DAY_C, wet_bulb_c
from hanse.energy.records import OUTSIDE_DTYPE
from hanse.energy.solar import AIR_UNKNOWN_C, WIND_MODULE_MS, cloud_factors, site_sun
from hanse.energy.steps import fill_pv
from hanse.energy.wind import wind_shares
from hanse.model.fleet import Site
from hanse.signals import Feed, Series, SiteSignalSteps, SourceNote, StepAxis, site_steps
from hanse.signals.axis import Own

OwnSeries = Mapping[str, Mapping[Own, Series]]
"""By site id: series that the operator brings in place of recordings."""


class SiteSeries(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """Weather, own generation and grid of all sites over an axis. `outside` may be changed in place before it is
    used: `grid_up` for outages, `plan_*` for a battery schedule.
    """

    axis: StepAxis
    site_ids: tuple[str, ...]
    outside: NDArray[np.void]
    """[site, step] of `OUTSIDE_DTYPE`."""
    notes: tuple[tuple[SourceNote, ...], ...]
    """[site]: where each quantity comes from."""

    def set_outage(self, site_id: str, from_s: float, until_s: float) -> None:
        """The grid is away at a site in every step whose middle lies in between."""
        middles_s = self.axis.middles_s()
        gone = (from_s <= middles_s) & (middles_s < until_s)
        self.outside["grid_up"][self.site_ids.index(site_id), gone] = 0.0


def site_series(
    sites: Sequence[Site], feed: Feed, axis: StepAxis, own: OwnSeries | None = None
) -> SiteSeries:
    """Build the series of some sites over an axis."""
    outside = np.zeros((len(sites), axis.count), OUTSIDE_DTYPE)
    outside["grid_up"] = 1.0
    # Sites of one city share zones: their signals differ only by overrides and what the operator brings.
    notes = []
    for row, site in zip(outside, sites, strict=True):
        signals = site_steps(site, feed, axis, (own or {}).get(site.id))
        _fill(row, site, signals, axis, feed.clock_offset_s)
        notes.append(signals.notes)
    ids = tuple(site.id for site in sites)
    return SiteSeries(axis=axis, site_ids=ids, outside=outside, notes=tuple(notes))


def _fill(
    row: NDArray[np.void], site: Site, signals: SiteSignalSteps, axis: StepAxis, offset_s: float
) -> None:
    row["outdoor_c"] = _known(signals.temp_c, COOL_DAY_C)
    row["wetbulb_c"] = wet_bulb_c(signals.temp_c, signals.rh_pct)
    row["pv_kw"] = pv_kw_steps(site, signals, axis, offset_s)
    if site.power.wind_kw_rated > 0.0:
        row["wind_kw"] = site.power.wind_kw_rated * wind_shares(signals.wind10_ms)
    for name in (
        "price_usd_per_kwh",
        "carbon_g_per_kwh",
        "marginal_g_per_kwh",
        "residual_g_per_kwh",
        "carbon_free_share",
        "contract_kw",
    ):
        row[name] = getattr(signals, name)


def pv_kw_steps(
    site: Site, signals: SiteSignalSteps, axis: StepAxis, offset_s: float
) -> NDArray[np.float64]:
    """AC power of a site's array [step], `solar.pv_kw` at each step's middle."""
    out = np.zeros(axis.count)
    if site.power.pv_kw_peak <= 0.0:
        return out
    sun = site_sun(site.lat_deg, site.lon_deg, site.power.pv_tilt_deg)
    fill_pv(
        *sun.arrays,
        site.power.pv_kw_peak,
        axis.middles_s() + offset_s,
        cloud_factors(signals.cloud_pct),
        _known(signals.temp_c, AIR_UNKNOWN_C),
        _known(signals.wind10_ms, WIND_MODULE_MS),
        out,
    )
    return out


def _known(values: NDArray[np.float64], otherwise: float) -> NDArray[np.float64]:
    return np.where(np.isnan(values), otherwise, values)

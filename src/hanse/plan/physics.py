"""A site's year: what its IT load becomes at the meter, by the same balance that the twin and the live site use.

Here: `site_of`, a place of a design as a site of a fleet file; `years_of`, a year of many sites at given loads. Not here: the balance
(`energy`), which load a design has (`operate`), sizing of own generation (`renewables`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from hanse.catalogue import City
from hanse.energy.year import YearResult, run_year
from hanse.model.fleet import CountryCode, Power, Site
from hanse.plan.study_file import SizeClass
from hanse.signals import Feed, StepAxis
from hanse.units import SECONDS_PER_HOUR

Floats = NDArray[np.float64]
HOURS_OF_YEAR: Final = 8760
MARGIN: Final = 1.6
"""Connection over rated IT power where the study names none: the worst PUE of small plant on a hot day, and charging."""


class Own(msgspec.Struct, frozen=True, kw_only=True):
    """Own generation and storage of one site."""

    pv_kw: float = 0.0
    wind_kw: float = 0.0
    battery_kwh: float = 0.0
    battery_kw: float = 0.0

    def scaled(self, part: float) -> Own:
        """As much of all of it."""
        return Own(
            pv_kw=self.pv_kw * part,
            wind_kw=self.wind_kw * part,
            battery_kwh=self.battery_kwh * part,
            battery_kw=self.battery_kw * part,
        )


def site_of(
    id: str,
    place: City,
    size: SizeClass,
    *,
    operator_hq: CountryCode,
    rated_kw: float,
    own: Own | None = None,
    price_usd_per_kwh: float | None = None,
    certifications: tuple[str, ...] = (),
) -> Site:
    """A place of a design as a fleet file names it, without pools."""
    own = own or Own()
    return Site(
        id=id,
        kind=size.kind,
        plant=size.plant,
        city=place.name,
        country=place.iso2,
        lat_deg=place.lat,
        lon_deg=place.lon,
        operator_hq=operator_hq,
        certifications=certifications,
        power=Power(
            grid_kw_max=max(rated_kw, 0.001) * MARGIN,
            it_kw_rated=rated_kw,
            pv_kw_peak=own.pv_kw,
            wind_kw_rated=own.wind_kw,
            battery_kwh=own.battery_kwh,
            battery_kw_max=own.battery_kw,
            price_usd_per_kwh=price_usd_per_kwh,
        ),
    )


def years_of(
    sites: Sequence[Site],
    it_kw: Floats,
    start_s: float,
    *,
    hours: int = HOURS_OF_YEAR,
    step_s: float = SECONDS_PER_HOUR,
) -> YearResult:
    """A year, or some hours, of every site.

    Args:
        it_kw: [site, hour of the UTC day].
        start_s: Unix seconds, a full hour; weather and prices of recorded years are replayed from there.
        step_s: An hour for many designs, five minutes where it must be as in the twin.
    """
    count = int(hours * SECONDS_PER_HOUR / step_s)
    axis = StepAxis(start_s=start_s, count=count, step_s=step_s)

    def load(month: StepAxis) -> Floats:
        at = (month.middles_s() // SECONDS_PER_HOUR).astype(np.int64) % 24
        return np.asarray(it_kw[:, at])

    return run_year(sites, load, axis, feed=Feed())


def peak_kw(result: YearResult) -> Floats:
    """[site] mean of the monthly maxima of imported power."""
    months: Any = result.sums["demand_kw_months"] / 12.0
    return np.asarray(months)

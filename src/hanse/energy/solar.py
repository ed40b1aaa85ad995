"""Photovoltaic power from place, instant, cloud cover, temperature and wind.

Here: reading the clear-sky table, the cloud rule, cell temperature, module output; for an instant as they are, for a
year of steps compiled (`steps.fill_pv`), which is why the inner functions take plain arrays. Not here: the sun's
position and the clear sky themselves: pvlib computed them once into `data/clear_sky.npz`
(`scripts/data/build_clear_sky.py`; `docs/decisions/0002-clear-sky-table.md` says why).
"""

from __future__ import annotations

from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from hanse.units import SECONDS_PER_DAY, SECONDS_PER_HOUR

TABLE = Path(__file__).parent / "data" / "clear_sky.npz"
CLOUD_SCALE, CLOUD_EXPONENT = 0.54, 8.3
"""GHI / clear-sky GHI = 1 - 0.54 N^8.3 (N cloud fraction), fitted on eight US typical years; yearly
sums come within 11 % of those (Dallas -1 %, New York +2 %, San Jose -10 %)."""
CLOUD_FACTOR_MEAN = 0.78
"""Mean of the rule's factor over the 16 recorded weather years, weighted by clear-sky GHI; stands
in where nobody recorded the clouds (`tests/energy` recomputes it)."""
FAIMAN_U0, FAIMAN_U1 = 25.0, 6.84
"""W/(m2 K) and W s/(m3 K): Faiman, Progress in Photovoltaics 16(4), 2008, open rack."""
PV_GAMMA_PER_K = -0.0035
"""Loss of output per kelvin above 25 degC: usual for crystalline silicon (-0.003 to -0.004)."""
PV_LOSSES = 0.14
"""Soiling, wiring, mismatch, inverter and outages: PVWatts default (NREL/TP-6A20-62641)."""
WIND_MODULE_MS = 1.0
"""Wind at the modules where none was recorded: PVWatts' sheltered case, warm cells."""
AIR_UNKNOWN_C = 15.0
"""Air of a standard day where no temperature was recorded: 1 % of output per 3 K of error."""
LAT_DEG_MAX = 70.0
"""The table's reach to the north (60 to the south); beyond it the edge row is used."""


class _Table(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """The clear-sky table, axes first."""

    lat_deg: NDArray[np.float64]
    day: NDArray[np.float64]
    from_noon_h: NDArray[np.float64]
    tilt_deg: NDArray[np.float64]
    cloud_factor: NDArray[np.float64]
    poa_w_per_m2: NDArray[np.float64]
    """`[latitude, day, half hour from noon, tilt, cloud factor] W/m2`, sea level, Linke 3."""
    grid_lat_deg: NDArray[np.float64]
    grid_lon_deg: NDArray[np.float64]
    factor_permille: NDArray[np.float64]
    """`[latitude, longitude, month]`: local clear-sky sum over the reference's, in 1/1000."""
    eot_min: NDArray[np.float64]
    """`[day] min`: true solar time ahead of mean solar time."""


class SiteSun(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """The table read at one latitude and tilt; what is left depends on the instant and the clouds."""

    lon_deg: float
    day: NDArray[np.float64]
    from_noon_h: NDArray[np.float64]
    cloud_factor: NDArray[np.float64]
    poa_w_per_m2: NDArray[np.float64]
    """`[day, half hour from noon, cloud factor] W/m2`."""
    local: NDArray[np.float64]
    """`[month]`: the local clear sky over the reference's."""
    eot_min: NDArray[np.float64]

    @property
    def arrays(self) -> tuple[Any, ...]:
        """What `irradiance_w_per_m2` and `fill_pv` take first."""
        axes = (self.day, self.from_noon_h, self.cloud_factor)
        return (*axes, self.poa_w_per_m2, self.local, self.eot_min, self.lon_deg)


def pv_kw(
    *,
    pv_kw_peak: float,
    lat_deg: float,
    lon_deg: float,
    tilt_deg: float,
    now_s: float,
    cloud_pct: float | None = None,
    temp_c: float | None = None,
    wind_ms: float | None = None,
) -> float:
    """AC power of an array facing the equator, kW.

    P = P_peak G/1000 (1 + gamma (T_cell - 25)) (1 - losses), T_cell = T_air + G/(u0 + u1 v).
    Valid for fixed tilts of 0 to 60 degrees between 60 S and 70 N, without shade or snow.
    """
    if pv_kw_peak <= 0.0:
        return 0.0
    irradiance = plane_irradiance_w_per_m2(
        lat_deg=lat_deg, lon_deg=lon_deg, tilt_deg=tilt_deg, now_s=now_s, cloud_pct=cloud_pct
    )
    air_c = AIR_UNKNOWN_C if temp_c is None else temp_c
    wind = WIND_MODULE_MS if wind_ms is None else wind_ms
    return pv_kw_peak * pv_share(irradiance, air_c, wind)


def plane_irradiance_w_per_m2(
    *, lat_deg: float, lon_deg: float, tilt_deg: float, now_s: float, cloud_pct: float | None = None
) -> float:
    """Irradiance on a tilted plane facing the equator under cloud, W/m2."""
    sun = site_sun(lat_deg, lon_deg, tilt_deg)
    arguments = (*sun.arrays, now_s, cloud_factor(cloud_pct))
    return float(irradiance_w_per_m2(*arguments))


def clear_sky_ghi_w_per_m2(*, lat_deg: float, lon_deg: float, now_s: float) -> float:
    """Global horizontal irradiance of a cloudless sky, W/m2 (Ineichen, by way of the table)."""
    return plane_irradiance_w_per_m2(
        lat_deg=lat_deg, lon_deg=lon_deg, tilt_deg=0.0, now_s=now_s, cloud_pct=0.0
    )


@lru_cache(maxsize=256)
def cloud_factor(cloud_pct: float | None) -> float:
    """GHI over clear-sky GHI: 0.46 under full cover, 1 under none, the mean where unknown."""
    if cloud_pct is None:
        return CLOUD_FACTOR_MEAN
    return float(cloud_factors(np.array(cloud_pct, float)))


def cloud_factors(cloud_pct: NDArray[np.float64]) -> NDArray[np.float64]:
    """The same, element by element; NaN is unknown."""
    cover = np.clip(cloud_pct, 0.0, 100.0) / 100.0
    return np.where(np.isnan(cover), CLOUD_FACTOR_MEAN, 1.0 - CLOUD_SCALE * cover**CLOUD_EXPONENT)


@lru_cache(maxsize=256)
def site_sun(lat_deg: float, lon_deg: float, tilt_deg: float) -> SiteSun:
    """The clear-sky table read at one place and tilt; a few kilobytes."""
    table = _table()
    by_tilt = np.moveaxis(_between(table.poa_w_per_m2, table.lat_deg, lat_deg), 2, 0)
    return SiteSun(
        lon_deg=lon_deg,
        day=table.day,
        from_noon_h=table.from_noon_h,
        cloud_factor=table.cloud_factor,
        poa_w_per_m2=np.ascontiguousarray(_between(by_tilt, table.tilt_deg, tilt_deg)),
        local=_local_factors(table, lat_deg, lon_deg),
        eot_min=table.eot_min,
    )


@cache
def _table() -> _Table:
    with np.load(TABLE) as arrays:
        return _Table(**{name: arrays[name].astype(np.float64) for name in arrays.files})


def _local_factors(table: _Table, lat_deg: float, lon_deg: float) -> NDArray[np.float64]:
    """Local turbidity and altitude against the reference sky by month, between grid points."""
    at_lat = _between(table.factor_permille, table.grid_lat_deg, lat_deg)
    step_deg = table.grid_lon_deg[1] - table.grid_lon_deg[0]
    position = (lon_deg - table.grid_lon_deg[0]) / step_deg
    west = int(np.floor(position)) % len(at_lat)
    share = position - np.floor(position)
    east = (west + 1) % len(at_lat)
    local: NDArray[np.float64] = (at_lat[west] * (1.0 - share) + at_lat[east] * share) / 1000.0
    return local


def _between(
    values: NDArray[np.float64], axis: NDArray[np.float64], x: float
) -> NDArray[np.float64]:
    """Values at x along the first axis, linear between its points, held beyond its ends."""
    i, share = place(axis, x)
    result: NDArray[np.float64] = values[i] * (1.0 - share) + values[i + 1] * share
    return result


def place(axis: Any, x: float) -> tuple[int, float]:
    """Where x lies on a rising axis: the point at or below it and the share of the way to the next."""
    low, high = 0, len(axis) - 1
    x = min(axis[high], max(axis[low], x))
    while high - low > 1:
        middle = (low + high) // 2
        if axis[middle] <= x:
            low = middle
        else:
            high = middle
    return low, (x - axis[low]) / (axis[low + 1] - axis[low])


def irradiance_w_per_m2(
    days: Any,
    hours: Any,
    clouds: Any,
    poa: Any,
    local: Any,
    eot_min: Any,
    lon_deg: float,
    now_s: float,
    factor: float,
) -> float:
    """Irradiance on a site's plane at an instant under a cloud factor, W/m2 (first arguments: `SiteSun.arrays`).

    365.2425 days a year since 1 January 1970: within a day of the calendar, and the sun follows the tropical year, not
    the calendar.
    """
    day = 1.0 + now_s / SECONDS_PER_DAY % 365.2425
    minutes = eot_min[min(364, int(day) - 1)]
    hour = now_s % SECONDS_PER_DAY / SECONDS_PER_HOUR + lon_deg / 15.0 + minutes / 60.0
    h, h_share = place(hours, abs(hour % 24.0 - 12.0))
    d, d_share = place(days, day)
    c, c_share = place(clouds, factor)
    total = 0.0
    for i in range(2):
        for j in range(2):
            weight = (d_share if i else 1.0 - d_share) * (h_share if j else 1.0 - h_share)
            cell = poa[d + i, h + j]
            total += weight * (cell[c] * (1.0 - c_share) + cell[c + 1] * c_share)
    month = (day - 15.0) / 30.4 % 12.0
    m = int(month)
    near, next_ = local[m % 12], local[(m + 1) % 12]
    return total * (near + (month - m) * (next_ - near))  # type: ignore[no-any-return]


def pv_share(irradiance_w_per_m2: float, air_c: float, wind_ms: float) -> float:
    """AC output over peak, 0 to 1."""
    cell_c = air_c + irradiance_w_per_m2 / (FAIMAN_U0 + FAIMAN_U1 * wind_ms)
    share = irradiance_w_per_m2 / 1000.0 * (1.0 + PV_GAMMA_PER_K * (cell_c - 25.0))
    # Inverters are sized to the peak: colder and brighter than standard conditions is cut off.
    return min(1.0, max(0.0, share * (1.0 - PV_LOSSES)))


def fill_pv(
    days: Any,
    hours: Any,
    clouds: Any,
    poa: Any,
    local: Any,
    eot_min: Any,
    lon_deg: float,
    pv_kw_peak: float,
    instants_s: Any,
    factors: Any,
    temp_c: Any,
    wind_ms: Any,
    out_kw: Any,
) -> None:
    """AC power of a site's array at each instant [step]; nothing may be NaN."""
    for t in range(len(instants_s)):
        sun = irradiance_w_per_m2(
            days, hours, clouds, poa, local, eot_min, lon_deg, instants_s[t], factors[t]
        )
        out_kw[t] = pv_kw_peak * pv_share(sun, temp_c[t], wind_ms[t])

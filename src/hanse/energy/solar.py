"""Photovoltaic power from place, instant, cloud cover, temperature and wind.

Here: reading the clear-sky table, the cloud rule, cell temperature, module output. Not here: the sun's
position and the clear sky themselves: pvlib computed them once into `data/clear_sky.npz`
(`scripts/data/build_clear_sky.py`; `docs/decisions/0002-clear-sky-table.md` says why).
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

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
    # Without a record the cell is taken at the air of a standard day, 15 degC: 1 % per 3 K of error.
    air_c = 15.0 if temp_c is None else temp_c
    wind = WIND_MODULE_MS if wind_ms is None else wind_ms
    cell_c = air_c + irradiance / (FAIMAN_U0 + FAIMAN_U1 * wind)
    share = irradiance / 1000.0 * (1.0 + PV_GAMMA_PER_K * (cell_c - 25.0)) * (1.0 - PV_LOSSES)
    # Inverters are sized to the peak: colder and brighter than standard conditions is cut off.
    return pv_kw_peak * min(1.0, max(0.0, share))


def plane_irradiance_w_per_m2(
    *, lat_deg: float, lon_deg: float, tilt_deg: float, now_s: float, cloud_pct: float | None = None
) -> float:
    """Irradiance on a tilted plane facing the equator under cloud, W/m2."""
    table = _table()
    day, from_noon_h, month = _solar_clock(table, lon_deg, now_s)
    at_lat = _between(table.poa_w_per_m2, table.lat_deg, lat_deg)
    at_day = _between(at_lat, table.day, day)
    at_hour = _between(at_day, table.from_noon_h, from_noon_h)
    at_tilt = _between(at_hour, table.tilt_deg, tilt_deg)
    clear = _between(at_tilt, table.cloud_factor, cloud_factor(cloud_pct))
    return float(clear) * _local_factor(table, lat_deg, lon_deg, month)


def clear_sky_ghi_w_per_m2(*, lat_deg: float, lon_deg: float, now_s: float) -> float:
    """Global horizontal irradiance of a cloudless sky, W/m2 (Ineichen, by way of the table)."""
    return plane_irradiance_w_per_m2(
        lat_deg=lat_deg, lon_deg=lon_deg, tilt_deg=0.0, now_s=now_s, cloud_pct=0.0
    )


def cloud_factor(cloud_pct: float | None) -> float:
    """GHI over clear-sky GHI: 0.46 under full cover, 1 under none, the mean where unknown."""
    if cloud_pct is None:
        return CLOUD_FACTOR_MEAN
    cover = min(100.0, max(0.0, cloud_pct)) / 100.0
    return float(1.0 - CLOUD_SCALE * cover**CLOUD_EXPONENT)


@cache
def _table() -> _Table:
    with np.load(TABLE) as arrays:
        return _Table(**{name: arrays[name].astype(np.float64) for name in arrays.files})


def _solar_clock(table: _Table, lon_deg: float, now_s: float) -> tuple[float, float, float]:
    """Day of the year (1 to 365), hours from true solar noon, month as a number from 0 to 12."""
    days = now_s / SECONDS_PER_DAY
    # 365.2425 days a year since 1 January 1970: within a day of the calendar, and the sun follows
    # the tropical year, not the calendar.
    day = 1.0 + days % 365.2425
    minutes = table.eot_min[min(364, int(day) - 1)]
    hour = now_s % SECONDS_PER_DAY / SECONDS_PER_HOUR + lon_deg / 15.0 + minutes / 60.0
    from_noon_h = abs((hour - 12.0 + 12.0) % 24.0 - 12.0)
    return day, from_noon_h, (day - 15.0) / 30.4 % 12.0


def _local_factor(table: _Table, lat_deg: float, lon_deg: float, month: float) -> float:
    """Local turbidity and altitude against the reference sky, between grid points and months."""
    at_lat = _between(table.factor_permille, table.grid_lat_deg, lat_deg)
    step_deg = table.grid_lon_deg[1] - table.grid_lon_deg[0]
    at_lon = _around(at_lat, (lon_deg - table.grid_lon_deg[0]) / step_deg)
    return float(_around(at_lon, month)) / 1000.0


def _between(
    values: NDArray[np.float64], axis: NDArray[np.float64], x: float
) -> NDArray[np.float64]:
    """Values at x along the first axis, linear between its points, held beyond its ends."""
    x = min(float(axis[-1]), max(float(axis[0]), x))
    i = min(len(axis) - 2, int(np.searchsorted(axis, x, side="right")) - 1)
    share = (x - axis[i]) / (axis[i + 1] - axis[i])
    result: NDArray[np.float64] = values[i] * (1.0 - share) + values[i + 1] * share
    return result


def _around(values: NDArray[np.float64], position: float) -> NDArray[np.float64]:
    """The same on an axis that closes on itself, at a position counted in its steps."""
    n = len(values)
    i = int(np.floor(position)) % n
    share = position - np.floor(position)
    result: NDArray[np.float64] = values[i] * (1.0 - share) + values[(i + 1) % n] * share
    return result

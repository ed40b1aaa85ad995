"""Build `src/hanse/energy/data/clear_sky.npz` with pvlib (not needed to run Hanse).

Run: `python scripts/data/build_clear_sky.py OUT.npz` in an environment with pvlib 0.16.1.

`poa` holds plane-of-array irradiance of an equator-facing panel at sea level and Linke turbidity 3
(Ineichen clear sky, Erbs split, Hay-Davies transposition, albedo 0.2); `factor` is the ratio of the
local monthly clear-sky sum (bundled turbidity and altitude maps) to that reference; `eot_min` is
the equation of time. Both maps are read on a 2.5 degree grid. Nothing here is decided by Hanse:
the sun and the sky are pvlib's.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pvlib

warnings.simplefilter("ignore")
LAT = np.arange(-60.0, 70.1, 5.0)
DAY = np.arange(1, 366, 10)
FROM_NOON_H = np.arange(0, 12.01, 0.5)
TILT = np.array([0.0, 15.0, 30.0, 45.0, 60.0])
CLOUD_FACTOR = np.array([0.46, 0.73, 1.0])  # overcast, between, clear (1 - 0.54 N^8.3)
GRID_LAT = np.arange(-60.0, 70.1, 2.5)
GRID_LON = np.arange(-180.0, 180.0, 2.5)
LINKE_REFERENCE = 3.0


def equation_of_time_min() -> np.ndarray:
    """Minutes that true solar time is ahead of mean solar time, by day of the year."""
    noon = pd.date_range("2023-01-01T12:00", periods=365, freq="1D", tz="UTC")
    return pvlib.solarposition.spa_python(noon, 0.0, 0.0)["equation_of_time"].to_numpy()


def instants(day: int, from_noon_h: np.ndarray, eot_min: float) -> pd.DatetimeIndex:
    """UTC instants on the Greenwich meridian that lie so many hours after true noon."""
    noon = pd.Timestamp("2023-01-01T12:00", tz="UTC") + pd.Timedelta(days=int(day) - 1)
    hours = from_noon_h - eot_min / 60.0
    return noon + pd.to_timedelta(hours * 3600.0, unit="s")


def sun(day: int, lat: float, eot: np.ndarray) -> pd.DataFrame:
    """Solar position from noon to midnight at one latitude."""
    when = instants(day, FROM_NOON_H, eot[day - 1])
    return pvlib.solarposition.get_solarposition(when, lat, 0.0)


def clear_ghi(sp: pd.DataFrame, linke: float, altitude_m: float) -> np.ndarray:
    """Ineichen and Perez clear-sky GHI, W/m2."""
    airmass = pvlib.atmosphere.get_relative_airmass(sp.apparent_zenith)
    pressure = pvlib.atmosphere.alt2pres(altitude_m)
    absolute = pvlib.atmosphere.get_absolute_airmass(airmass, pressure)
    extra = pvlib.irradiance.get_extra_radiation(sp.index)
    sky = pvlib.clearsky.ineichen(sp.apparent_zenith, absolute, linke, altitude_m, extra)
    return sky["ghi"].fillna(0).to_numpy()


def plane_of_array(sp: pd.DataFrame, ghi: np.ndarray, lat: float, tilt: float) -> np.ndarray:
    """Irradiance on a tilted plane facing the equator, W/m2."""
    split = pvlib.irradiance.erbs(ghi, sp.zenith, sp.index)
    total = pvlib.irradiance.get_total_irradiance(
        tilt,
        180.0 if lat >= 0 else 0.0,
        sp.apparent_zenith,
        sp.azimuth,
        split["dni"],
        ghi,
        split["dhi"],
        dni_extra=pvlib.irradiance.get_extra_radiation(sp.index),
        albedo=0.2,
        model="haydavies",
    )
    up = (sp.apparent_zenith < 89.5).to_numpy()
    return np.where(up, np.nan_to_num(total["poa_global"].to_numpy()), 0.0)


def build_poa(eot: np.ndarray) -> np.ndarray:
    """`[latitude, day, half hour from noon, tilt, cloud factor] W/m2`."""
    axes = (LAT, DAY, FROM_NOON_H, TILT, CLOUD_FACTOR)
    poa = np.zeros(tuple(len(a) for a in axes))
    for i, lat in enumerate(LAT):
        for j, day in enumerate(DAY):
            sp = sun(day, lat, eot)
            clear = clear_ghi(sp, LINKE_REFERENCE, 0.0)
            for n, tilt in enumerate(TILT):
                for m, c in enumerate(CLOUD_FACTOR):
                    poa[i, j, :, n, m] = plane_of_array(sp, clear * c, lat, tilt)
    return poa


def maps() -> tuple[np.ndarray, np.ndarray]:
    """pvlib's Linke turbidity by month and altitude (m) on the grid."""
    data = Path(pvlib.__file__).parent / "data"
    with h5py.File(data / "LinkeTurbidities.h5") as f:
        full = f["LinkeTurbidity"]
        rows = np.clip(((90 - GRID_LAT) / 180 * full.shape[0]).astype(int), 0, full.shape[0] - 1)
        cols = np.clip(((GRID_LON + 180) / 360 * full.shape[1]).astype(int), 0, full.shape[1] - 1)
        linke = np.stack([full[r][cols] for r in rows]) / 20.0
    altitude = np.array(
        [[pvlib.location.lookup_altitude(la, lo) for lo in GRID_LON] for la in GRID_LAT]
    )
    return linke, np.clip(altitude, 0, None)


def build_factor(eot: np.ndarray) -> np.ndarray:
    """`[latitude, longitude, month]`: local clear-sky sum over the reference's."""
    linke, altitude = maps()
    out = np.ones(linke.shape)
    for i, lat in enumerate(GRID_LAT):
        for month in range(12):
            sp = sun(15 + int(month * 30.4), lat, eot)
            reference = clear_ghi(sp, LINKE_REFERENCE, 0.0).sum()
            if reference < 50.0:  # polar night
                continue
            for k in range(len(GRID_LON)):
                local = clear_ghi(sp, linke[i, k, month], altitude[i, k]).sum()
                out[i, k, month] = local / reference
    return out


def main() -> None:
    """Write the table to the path given."""
    eot = equation_of_time_min()
    np.savez_compressed(
        sys.argv[1],
        lat_deg=LAT,
        day=DAY,
        from_noon_h=FROM_NOON_H,
        tilt_deg=TILT,
        cloud_factor=CLOUD_FACTOR,
        poa_w_per_m2=np.rint(build_poa(eot)).astype(np.uint16),
        grid_lat_deg=GRID_LAT,
        grid_lon_deg=GRID_LON,
        factor_permille=np.rint(build_factor(eot) * 1000).astype(np.uint16),
        eot_min=eot.astype(np.float32),
    )


if __name__ == "__main__":
    main()

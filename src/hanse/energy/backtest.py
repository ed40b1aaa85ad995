"""Back-tests of own power: what a kilowatt of modules or of a turbine was forecast to give, against what the weather made.

Here: the same forecasts of sky and wind as in `outlook`, turned into power on both sides. Not here: errors
(`signals.forecast.backtest`). Truth is the recorded weather through the same site physics, so the error is the
weather's alone. Imports numba.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

from hanse.energy.outlook import FORMS, Floats
from hanse.energy.solar import WIND_MODULE_MS, site_sun
from hanse.energy.steps import fill_pv
from hanse.signals import Series
from hanse.signals.forecast.backtest import METHODS, Score, backtest, instants, renamed, scores
from hanse.signals.forecast.make import Batch, many
from hanse.signals.forecast.methods import Method
from hanse.units import SECONDS_PER_HOUR

TILT_DEG = 30.0


def backtest_wind(wind10_ms: Series, *, methods: Sequence[Method] = METHODS) -> list[Score]:
    """Share of a turbine's rating, kW per kW."""
    return renamed(backtest(_formed(wind10_ms, "wind_share"), methods=methods), "wind")


def backtest_pv(
    cloud_pct: Series,
    temp_c: Series,
    *,
    lat_deg: float,
    lon_deg: float,
    steps: int = 48,
    methods: Sequence[Method] = METHODS,
) -> list[Score]:
    """AC power over peak; persistence and the other plain methods hold power itself, the shipped one the sky."""
    sky = _formed(cloud_pct, "cloud_factor")
    issued = instants(sky, steps)
    place = (lat_deg, lon_deg)
    axis: Floats = sky.start_s + np.arange(len(sky.values), dtype=np.float64) * sky.step_s
    power = msgspec.structs.replace(
        sky, values=_power(axis, sky.values, temp_c.values, place), quantity="pv"
    )
    made: dict[Method, tuple[Floats, Floats]] = {}
    like: Batch | None = None
    for method in methods:
        if method == "blend":
            made[method] = _by_sky(sky, temp_c, issued, steps, place)
        else:
            like = many(power, issued, steps=steps, method=method)
            made[method] = (like.mean, like.high)
    like = like or many(power, issued, steps=steps, method="persistence")
    index = np.rint((like.start_s - sky.start_s) / sky.step_s).astype(np.int64)
    truth = power.values[index[:, None] + np.arange(steps)]
    return renamed(scores(truth, made, like), "pv")


def _by_sky(
    sky: Series, temp_c: Series, issued: Floats, steps: int, place: tuple[float, float]
) -> tuple[Floats, Floats]:
    factor = many(sky, issued, steps=steps)
    air = many(temp_c, issued, steps=steps)
    axis: Floats = factor.start_s[:, None] + np.arange(steps, dtype=np.float64) * sky.step_s
    mean = _power(axis, factor.mean, air.mean, place)
    return mean, _power(axis, factor.high, air.mean, place)


def _power(axis_s: Floats, factor: Floats, temp_c: Floats, place: tuple[float, float]) -> Floats:
    out = np.zeros(axis_s.size)
    wind = np.full(axis_s.size, WIND_MODULE_MS)
    middles = axis_s.ravel() + 0.5 * SECONDS_PER_HOUR
    sun = site_sun(*place, TILT_DEG)
    fill_pv(*sun.arrays, 1.0, middles, factor.ravel(), temp_c.ravel(), wind, out)
    return out.reshape(axis_s.shape)


def _formed(series: Series, form: str) -> Series:
    return msgspec.structs.replace(
        series, values=FORMS[form](series.values), quantity=form, unit="kW per kW"
    )

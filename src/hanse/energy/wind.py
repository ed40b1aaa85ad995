"""Wind power of a small turbine from the wind at 10 m.

Here: a generic power curve. Not here: a maker's curve, wakes, air density (within 10 % below 1,000 m).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

HUB_M = 35.0
"""Usual hub height of turbines of 50 to 250 kW."""
SHEAR = 0.17
"""Exponent of the wind profile; 0.14 over open land to 0.2 among trees and houses."""
CUT_IN_MS, RATED_MS, CUT_OUT_MS = 3.0, 12.0, 25.0
"""Of most pitch-controlled turbines; rated speeds run from 11 to 14."""
POWER = 2.5
"""Between cut-in and rated speed. Of power curves of makers (E48/800, E-82/2300, V80/2000 in the turbine library of the Open Energy Platform, as windpowerlib
0.2.2 ships it) the signed mean error over 0 to 14 m/s is 0.1 to 0.8 % of the rating, the mean absolute one 1.4 to 1.9 %; a cube is 1.5 to 2.3 % too low in the mean
and takes a third of the year's energy at light winds, a square 3 % too high. Those machines have 0.8 to 2.35 MW; here the curve stands for 50 to 250 kW."""
WIND_LOSSES = 0.10
"""Availability, wiring, icing and blade soiling."""


def wind_kw(*, wind_kw_rated: float, wind10_ms: float | None) -> float:
    """Power, kW: a power of the wind between cut-in and rated speed, flat to cut-out, less losses.

    v_hub = v_10 (h/10)^a; P = P_rated (v^k - v_in^k)/(v_rated^k - v_in^k), k = `POWER` (general form of the quadratic and
    cubic models in Carrillo et al., Renewable and Sustainable Energy Reviews 21, 2013). No recorded wind counts as none.
    """
    if wind_kw_rated <= 0.0 or wind10_ms is None:
        return 0.0
    return wind_kw_rated * float(wind_shares(np.array(wind10_ms, float)))


def wind_shares(wind10_ms: NDArray[np.float64]) -> NDArray[np.float64]:
    """Power over rating, element by element; NaN, no recorded wind, counts as none."""
    hub_ms = np.maximum(0.0, wind10_ms) * (HUB_M / 10.0) ** SHEAR
    share = (hub_ms**POWER - CUT_IN_MS**POWER) / (RATED_MS**POWER - CUT_IN_MS**POWER)
    runs = (hub_ms >= CUT_IN_MS) & (hub_ms < CUT_OUT_MS)
    return np.where(runs, np.minimum(1.0, share) * (1.0 - WIND_LOSSES), 0.0)

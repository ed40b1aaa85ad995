"""Power usage effectiveness and water use from outdoor conditions, kind of site and load.

Here: the wet bulb, and figures per kW for a kind of site. Not here: the arithmetic (`balance.plant`, the same that
the twin runs), its parameters with their reasons (`plant`).
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from hanse.energy.balance import LOAD_SHARE_USUAL, plant
from hanse.energy.plant import plant_row
from hanse.model.fleet import SiteKind

COOL_DAY_C: Final = 15.0
PUE_DAY_UNKNOWN: Final = "no temperature recorded: a day of 15 degC"


def wet_bulb_c(temp_c: NDArray[np.float64], rh_pct: NDArray[np.float64]) -> NDArray[np.float64]:
    """Wet-bulb temperature at sea level, element by element (Stull, J. Appl. Meteor. Climatol. 50, 2011).

    Valid for 5 to 99 % and -20 to 50 degC, error within 1 K; humidity is held in that range, and colder air is
    returned as it is: no plant needs water then. 20 degC and 50 % give 13.7 degC.
    """
    rh = np.clip(rh_pct, 5.0, 99.0)
    wet = (
        temp_c * np.arctan(0.151977 * np.sqrt(rh + 8.313659))
        + np.arctan(temp_c + rh)
        - np.arctan(rh - 1.676331)
        + 0.00391838 * rh**1.5 * np.arctan(0.023101 * rh)
        - 4.686035
    )
    return np.where(temp_c < -20.0, temp_c, np.minimum(wet, temp_c))


def pue_at(
    kind: SiteKind,
    temp_c: float | None,
    rh_pct: float | None = None,
    *,
    load_share: float = LOAD_SHARE_USUAL,
) -> float:
    """PUE of a kind of site at a load, outdoors -40 to 50 degC. An unknown temperature counts as 15 degC."""
    ups, cooling, other, _ = _per_kw(kind, temp_c, rh_pct, load_share)
    return 1.0 + (ups + cooling + other) / load_share


def wue_l_per_kwh_at(
    kind: SiteKind,
    temp_c: float | None,
    rh_pct: float | None = None,
    *,
    load_share: float = LOAD_SHARE_USUAL,
) -> float:
    """Water evaporated, blown down and lost as drift on the site, litres per kWh of IT."""
    return _per_kw(kind, temp_c, rh_pct, load_share)[3] / load_share


@lru_cache(maxsize=1024)
def _per_kw(
    kind: SiteKind, temp_c: float | None, rh_pct: float | None, load_share: float
) -> tuple[float, float, float, float]:
    """Recorded weather holds for an hour and a whole zone, and is asked for every five minutes and by every site."""
    assert load_share > 0.0, "PUE is a ratio to IT load"
    dry = COOL_DAY_C if temp_c is None else temp_c
    wet = math.nan
    if temp_c is not None and rh_pct is not None:
        wet = float(wet_bulb_c(np.array(dry), np.array(rh_pct)))
    ups, cooling, other, litres = plant(plant_row(kind), load_share, dry, wet)
    return float(ups), float(cooling), float(other), float(litres)

"""`Inventory`: what a design has and what it uses, year by year; the one thing that the cost model needs to know of a design.

Axes are [site, year, draw] unless said otherwise; an axis of length 1 stands for all (numpy broadcasting): a figure that no draw changes
has one draw. Here: the layout. Not here: how a design comes to it (`plan.designs`, `plan.operate`), what it costs (`plan.tco`).
"""

from __future__ import annotations

import msgspec
import numpy as np
from numpy.typing import NDArray

from hanse.plan.study_file import SizeClass

Draws = NDArray[np.float64]
"""[draw], or any shape that broadcasts with [site, year, draw]."""


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """One site of a design."""

    id: str
    city: str
    country: str
    size: SizeClass
    price_usd_per_kwh: float
    """Delivered, before the draw's factor."""


class Inventory(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """A design in figures. Powers are mean powers, energies are of one year."""

    places: tuple[Place, ...]
    """[site]; empty for a design that only rents."""
    years: int
    it_kw: Draws
    """IT power that the plant can carry: what plant and building were paid for."""
    chips: dict[str, Draws]
    """Accelerators installed, by catalogue id."""
    chips_used: dict[str, Draws]
    """Mean number of chips' worth of work: 1 - used / installed stands idle."""
    it_kwh: Draws
    facility_kwh: Draws
    import_kwh: Draws
    export_kwh: Draws
    peak_kw: Draws
    """Mean of the twelve monthly maxima of imported power."""
    water_l: Draws
    pv_kw: Draws
    wind_kw: Draws
    battery_kwh: Draws
    battery_kw: Draws
    location_t: Draws
    """Tonnes CO2e of imported energy by the grid's average; own generation's life cycle is in `own_t`."""
    market_t: Draws
    marginal_t: Draws
    """NaN where nobody publishes it for the zone."""
    own_t: Draws
    wan_gb: Draws
    """Over the site's WAN port, users' traffic and transfers between sites."""
    tokens: Draws
    """[workload, year, draw]: delivered within the SLO, own and rented."""
    tokens_lost: Draws
    """[workload, year, draw]: asked for and not delivered."""
    rented_chip_h: dict[str, Draws]
    """[1, year, draw]: chip-hours rented from a cloud, by catalogue id of the nearest equal chip."""
    rented_gb: Draws = msgspec.field(default_factory=lambda: np.zeros((1, 1, 1)))
    """[1, year, draw]: sent from rented chips to users."""
    personal: bool
    """Personal data is served, so that compliance work is due."""

"""`Design`: a way to build, as structure: which sites in which sizes, who serves whom, with which chips.

Here: the value. Not here: finding it (`designs`), what it comes to year by year (`operate`).
"""

from __future__ import annotations

import msgspec
import numpy as np
from numpy.typing import NDArray

from hanse.catalogue import City
from hanse.plan.capacity import Fit
from hanse.plan.inventory import Place
from hanse.plan.physics import Own
from hanse.plan.study_file import DesignSpec

Floats = NDArray[np.float64]


def freedom(spec: DesignSpec) -> tuple[bool, int]:
    """How much a way to build leaves open: of two that come to the same, the answer names the one that leaves less."""
    return spec.rent, len(spec.sizes)


class Design(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """Structure of a design; it holds for all years, only how much of it stands changes."""

    spec: DesignSpec
    places: tuple[Place, ...]
    """[site]"""
    cities: tuple[City, ...]
    """[site]"""
    share: Floats
    """[row, site] of a row's demand."""
    rented: Floats
    """[row]: share that goes to rented chips."""
    lost: Floats
    """[row]: share that nobody may or can serve, with the reason in `notes`."""
    fits: tuple[tuple[Fit | None, ...], ...]
    """[workload][site]; None: the workload is not served there."""
    cloud: tuple[Fit | None, ...]
    """[workload]: the replica rented where the own ones do not suffice; None: law forbids or nothing is for rent."""
    cloud_may: NDArray[np.bool_]
    """[row]: law and round trip allow rented chips."""
    cloud_rtt_ms: Floats
    """[row]: to the place of the rented chips."""
    reserve: Floats
    """[workload, site] tokens/s of the first year that stand by for the loss of another site; they grow with demand."""
    standby: Floats
    """[workload] tokens/s of the first year, rented to stand by for the loss of an own site; they grow with demand."""
    spare: Floats
    """[site]: capacity over what the formulas ask for, as the twin found it needs; at least 1."""
    own: tuple[Own, ...]
    """[site], when fully built."""
    rtt_ms: Floats
    """[row, site]"""
    may: NDArray[np.bool_]
    """[row, site]: law, round trip and chips allow it."""
    regret: tuple[str, ...]
    """[site]: what leaving it out would cost, in words."""
    gap: float
    """Proven relative distance to the best structure; 0 where there was nothing to choose."""
    notes: tuple[str, ...]

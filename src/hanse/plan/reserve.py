"""Capacity that stands by for the loss of a site.

Here: `with_reserve`. Not here: how large sites are (`candidates`), what the reserve costs (`operate`).
"""

from __future__ import annotations

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from hanse.plan.demand import Demand
from hanse.plan.design import Design
from hanse.plan.study_file import Study

Floats = NDArray[np.float64]


def with_reserve(
    design: Design, study: Study, demand: Demand, plant_kw: Floats, rented_kw: float
) -> Design:
    """The design with what stands by for the loss of any one site, own and rented.

    Interactive work of a lost site goes to those that may serve it, in proportion to the plant that the search gave them (`plant_kw` [site]) and to
    rented chips that serve nobody (`rented_kw`); each keeps the most that any one loss brings it.
    """
    sites = len(design.places)
    if not study.sites_lost or sites + (rented_kw > 0.0) < 2:
        return design
    plant = np.append(plant_kw, rented_kw)
    reserve = np.zeros((len(study.workloads), sites + 1))
    peak = demand.tokens_per_s * demand.day.max(axis=1)
    for lost in range(sites):
        moved = np.zeros_like(reserve)
        for i in np.flatnonzero(design.share[:, lost] > 0.0):
            w = demand.rows[int(i)].workload
            others = np.append(design.may[i] & (np.arange(sites) != lost), design.cloud_may[i])
            others &= plant > 0.0
            if study.workloads[w].kind != "interactive" or not others.any():
                continue
            part = np.where(others, plant, 0.0)
            moved[w] += peak[i] * design.share[i, lost] * part / part.sum()
        reserve = np.maximum(reserve, moved)
    return replace(design, reserve=reserve[:, :sites], standby=reserve[:, sites])

"""Capacity that stands by for the loss of a site.

Here: `with_reserve`; what the search is told of it (`standby_usd`, `standby_classes`). Not here: how large sites are (`candidates`), what the reserve
costs in full (`operate`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from hanse.plan.capacity import Fit
from hanse.plan.demand import Demand
from hanse.plan.design import Design
from hanse.plan.reach import OK
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


def standby_usd(
    study: Study,
    demand: Demand,
    fits: Sequence[Sequence[Fit | None]],
    need_kw: Floats,
    of_chips: Floats,
) -> float:
    """USD a year of chips for a kW of need that stand by: mean over interactive work by need, each on its best chips, where they are cheapest."""
    usd, weight = [0.0], [1e-12]
    for w, work in enumerate(study.workloads):
        best = min((f.watts_per_token_s for f in fits[w] if f), default=np.inf)
        at = [s for s, f in enumerate(fits[w]) if f and f.watts_per_token_s <= best * 1.001]
        if work.kind == "interactive" and at:
            usd.append(float(of_chips[w, at].min()))
            weight.append(float(need_kw[demand.workload == w].sum()))
    return float(np.average(usd, weights=weight))


def standby_classes(
    countries: Sequence[str], refusal: NDArray[np.int64], live: Sequence[bool]
) -> NDArray[np.int64]:
    """[group] rows that a country keeps have a reserve there; all others share one; work that may wait has none."""
    names = sorted(set(countries))
    out = np.full(len(refusal), -1, np.int64)
    for g, row in enumerate(refusal):
        at = {c for c, ok in zip(countries, row == OK, strict=True) if ok}
        if live[g] and at:
            out[g] = 1 + names.index(next(iter(at))) if len(at) == 1 else 0
    return out

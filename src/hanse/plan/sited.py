"""Single steps of a study as functions of values alone, so that any process can do any of them.

Here: `sited`, a design's places; `powered`, its own generation; `metered`, its meters. Not here: their order (`solve`), who does them (`workers`).
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final, NamedTuple

import msgspec
import numpy as np

from hanse.plan.assumptions import of_study
from hanse.plan.demand import cities_of, demand_of
from hanse.plan.design import Design
from hanse.plan.designs import GAP, GAP_QUICK, NODES_MAX, Ground, design_of, ground_of
from hanse.plan.doubt import most_likely, outcome
from hanse.plan.meter import Meter
from hanse.plan.operate import expected_meter
from hanse.plan.own_power import with_own_power
from hanse.plan.study_file import DesignSpec, Study

RENT_TIMES: Final = (1.0, 0.65, 0.0)
"""Prices of rent at which a mix is searched; the plan that costs least in full is taken. The search prices chips by use and not by
whole replicas and nights, so that own sites look cheaper to it than they are; at no price all is rented that may be.
"""
GAP_COARSE, NODES_COARSE = 0.05, 1
"""Of a point of a curve in a large study: the root's heuristics find what costs a few percent more; all points are alike in that."""
CELLS_MAX: Final = 20_000
"""Of larger problems one search more is minutes: the middle price is left out, and points of curves are fewer and coarse."""


def sited(study: Study, spec: DesignSpec, quick: bool, coarse: bool = False) -> Design:
    """One way to build, as the cheapest structure that it allows; unless `quick`, with what its sites are worth.

    Args:
        coarse: The first structure that the search finds good, for a point of a curve.
    """
    ground = ground_for(study)
    if coarse:
        gap, nodes_max = GAP_COARSE, NODES_COARSE
    else:
        gap, nodes_max = GAP_QUICK if quick else GAP, NODES_MAX

    blind = msgspec.structs.replace(ground, standby_usd=0.0)

    def made(one: Try, regret: bool = False) -> Design:
        at = ground if one.standby else blind
        return design_of(
            at, one.spec, gap, nodes_max=nodes_max, regret=regret, rent_times=one.rent_times
        )

    tries = _tries(study, spec, quick)
    if len(tries) == 1:
        return made(tries[0], regret=not quick)
    found = [made(one) for one in tries]
    usd = [full_usd_per_mtoken(design, study) for design in found]
    best = min(range(len(found)), key=usd.__getitem__)
    if not quick:
        found[best] = made(tries[best], regret=True)
    return msgspec.structs.replace(found[best], spec=spec)


class Try(NamedTuple):
    """One search; of several the plan that costs least in full is taken."""

    spec: DesignSpec
    rent_times: float = 1.0
    standby: bool = True
    """With a price of what stands by."""


def _tries(study: Study, spec: DesignSpec, quick: bool) -> list[Try]:
    """A mix at several prices of rent and as each of the narrower designs; in small problems, but for a first look, each with and without a price of what
    stands by, since a search is done when it is within its gap and both may be the better one in full.
    """
    small = cells(study) <= CELLS_MAX
    both = small and not quick and bool(spec.sizes) and spec.sites_max != 1
    found = [Try(spec), Try(spec, standby=False)] if both else [Try(spec)]
    if spec.rent and spec.sizes:
        times = RENT_TIMES[1:] if small else RENT_TIMES[-1:]
        found += [Try(spec, t) for t in times] + [Try(other) for other in narrower(study, spec)]
        found += [Try(other, standby=False) for other in narrower(study, spec) if both]
    return found


def narrower(study: Study, spec: DesignSpec) -> list[DesignSpec]:
    """Designs of the study that a mix could be, too, all rented among them: what the search sees of cost is not all, so the mix is never dearer than they."""
    return [
        msgspec.structs.replace(d, own_power=spec.own_power)
        for d in study.designs
        if not d.rent and set(d.sizes) <= set(spec.sizes)
    ]


def full_usd_per_mtoken(design: Design, study: Study) -> float:
    """Full cost at the most likely figures, infinite where nothing is delivered."""
    x = most_likely(of_study(study), 1)
    demand = demand_of(study)
    made = outcome(design, study, demand, x, expected_meter(design, study, demand))
    usd = float(made.usd_per_mtoken[0])
    return np.inf if np.isnan(usd) else usd


def cells(study: Study) -> int:
    """Rows of demand times places, all size classes: how large its siting problem is."""
    rows = sum(len(cities_of(work, study)) for work in study.workloads)
    return rows * len(study.candidates or study.cities) * len(study.sizes)


def powered(design: Design, study: Study) -> Design:
    """With sun, wind and batteries where they pay."""
    return with_own_power(design, study, demand_of(study))


def metered(design: Design, study: Study) -> Meter:
    """Its meters when demand grows as planned."""
    return expected_meter(design, study, demand_of(study))


def ground_for(study: Study) -> Ground:
    """What all designs of a study share; kept for the next design of the same study."""
    return _ground(msgspec.json.encode(study))


@lru_cache(maxsize=1)
def _ground(raw: bytes) -> Ground:
    study = msgspec.json.decode(raw, type=Study)
    return ground_of(study, demand_of(study))

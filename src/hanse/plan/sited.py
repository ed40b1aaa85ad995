"""Single steps of a study as functions of values alone, so that any process can do any of them.

Here: `sited`, a design's places; `powered`, its own generation; `metered`, its meters. Not here: their order (`solve`), who does them (`workers`).
"""

from __future__ import annotations

from functools import lru_cache

import msgspec

from hanse.plan.demand import demand_of
from hanse.plan.design import Design
from hanse.plan.designs import GAP, GAP_QUICK, Ground, design_of, ground_of
from hanse.plan.meter import Meter
from hanse.plan.operate import expected_meter
from hanse.plan.own_power import with_own_power
from hanse.plan.study_file import DesignSpec, Study


def sited(study: Study, spec: DesignSpec, quick: bool) -> Design:
    """One way to build, as the cheapest structure that it allows; unless `quick`, with what its sites are worth."""
    gap = GAP_QUICK if quick else GAP
    return design_of(ground_for(study), spec, gap, regret=not quick)


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

"""Chips for rent: which replica, how far away, for whom.

Here: `cloud_of`. Not here: what rented chips cost (`tco_flows`), how many are rented (`operate`).
"""

from __future__ import annotations

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from hanse.catalogue import city
from hanse.errors import ConfigError
from hanse.plan.capacity import Fit, fit_of
from hanse.plan.demand import Demand
from hanse.plan.policy import localised
from hanse.plan.reach import lawful, round_trips_ms
from hanse.plan.study_file import Study

Floats = NDArray[np.float64]


def cloud_of(
    study: Study, demand: Demand
) -> tuple[tuple[Fit | None, ...], Floats, NDArray[np.bool_]]:
    """Rented replicas [workload], round trip to the nearest lawful place [row], and whether there is one in time."""
    fits = []
    for work in study.workloads:
        options = []
        for chip in (work.accelerator,) if work.accelerator else ("h100-sxm", "l40s", "l4"):
            try:
                options.append(fit_of(work, chip))
            except ConfigError:
                continue
        fits.append(min(options, key=lambda f: f.watts_per_token_s, default=None))
    places = [city(c.city, iso2=c.country or "") for c in study.clouds]
    rtt = np.full(len(demand.rows), np.inf)
    ok = np.zeros(len(demand.rows), np.bool_)
    if places:
        theirs = replace(study, operator_hq=study.clouds[0].operator_hq)
        allowed = lawful(theirs, demand.places, places, study.start)
        ways = round_trips_ms(demand.places, places)[demand.city]
        for i, row in enumerate(demand.rows):
            work, origin = study.workloads[row.workload], demand.places[row.city]
            may = allowed[row.workload, row.city].copy()
            if work.own_country or bool(
                np.any(localised(study.policies, work.law, origin.iso2, study))
            ):
                may &= np.array([p.iso2 == origin.iso2 for p in places])
            if work.rtt_ms_max is not None:
                may &= ways[i] <= work.rtt_ms_max
            if may.any() and fits[row.workload] is not None:
                ok[i], rtt[i] = True, float(ways[i][may].min())
    return tuple(fits), rtt, ok

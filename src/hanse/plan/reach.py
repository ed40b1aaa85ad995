"""Which site may and can serve which row of demand: law, round trip, and room for one replica; with the reason where not.

Here: the law of the fleet file asked for a study's places (`dispatch.law`), the latency floor, reasons. Not here: choosing (`candidates`).
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime, time
from typing import Final

import numpy as np
from numpy.typing import NDArray

from hanse.catalogue import City, distance_km, rtt_ms_floor
from hanse.dispatch.law import compile_law, subject
from hanse.model.fleet import DataClass, Fleet, Key, Power, Service, Site, Slo, Tenant, Variant
from hanse.plan.study_file import Study
from hanse.twin.world import USER_ACCESS_MS

OK: Final = 0
LAW: Final = 1
RTT: Final = 2
FIT: Final = 3
NAMES: Final = ("", "law", "round trip", "no replica fits")


def lawful(
    study: Study, origins: Sequence[City], places: Sequence[City], on: date
) -> NDArray[np.bool_]:
    """[workload, origin, place]: whether law lets the workload's data of an origin's country be executed at a place.

    Asked once for every country and class, by the very rules that a gateway routes by. Countries whose law is not known allow nothing.
    """
    fleet = _fleet(study, origins, places)
    now_s = datetime.combine(on, time(), UTC).timestamp()
    table = compile_law(fleet, (), now_s)
    out = np.zeros((len(study.workloads), len(origins), len(places)), np.bool_)
    for w, work in enumerate(study.workloads):
        for o, origin in enumerate(origins):
            row = table.find(
                subject(
                    data_class=_class_id(work.law),
                    law=work.law,
                    country=origin.iso2,
                    mechanisms=study.mechanisms,
                )
            )
            out[w, o] = table.bits[table.profile[row]].astype(np.bool_)
    return out


def round_trips_ms(origins: Sequence[City], places: Sequence[City]) -> NDArray[np.float64]:
    """[origin, place] ms: light in fibre over the usual detour, and the last mile. A floor: real paths take up to twice as long."""
    return np.array(
        [
            [rtt_ms_floor(distance_km(o.lat, o.lon, p.lat, p.lon)) + USER_ACCESS_MS for p in places]
            for o in origins
        ]
    ).reshape(len(origins), len(places))


def _fleet(study: Study, origins: Sequence[City], places: Sequence[City]) -> Fleet:
    """As much of a fleet file as law looks at."""
    laws = tuple(dict.fromkeys(work.law for work in study.workloads))
    countries = tuple(dict.fromkeys(o.iso2 for o in origins))
    variant = Variant(id="v", model="any", precision="fp8", quality=1.0, quality_source="none")
    return Fleet(
        schema="hanse-fleet/1",
        name="study",
        classes=tuple(DataClass(id=_class_id(law), law=law) for law in laws),
        sites=tuple(
            Site(
                id=f"s{i}",
                kind="micro",
                city=place.name,
                country=place.iso2,
                lat_deg=place.lat,
                lon_deg=place.lon,
                operator_hq=study.operator_hq,
                certifications=study.certifications,
                power=Power(grid_kw_max=1.0),
            )
            for i, place in enumerate(places)
        ),
        services=(Service(id="any", slo=Slo(ttft_ms=1.0, tpot_ms=1.0), variants=(variant,)),),
        tenants=(
            Tenant(
                id="t",
                classes=tuple(_class_id(law) for law in laws),
                mechanisms=study.mechanisms,
                keys=(Key(id="k", countries=countries),),
            ),
        ),
    )


def _class_id(law: str) -> str:
    return law.replace("_", "-")

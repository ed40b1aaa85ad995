"""Designs made by hand: every row goes to the nearest of a few sites."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date

import numpy as np
import pytest

from hanse.catalogue import country_electricity
from hanse.plan.capacity import fit_of
from hanse.plan.demand import Demand
from hanse.plan.design import Design
from hanse.plan.inventory import Place
from hanse.plan.physics import Own
from hanse.plan.quick import QuickOptions
from hanse.plan.reach import round_trips_ms
from hanse.plan.read import checked
from hanse.plan.study_file import DESIGNS, Study, StudyCity, Workload

QUICK = QuickOptions(
    cities=("frankfurt", "lyon", "milan"), tokens_per_day=2e9, data_class="health", growth=0.4, latency_ms=80.0
)  # fmt: skip


def without_curves(patch: pytest.MonkeyPatch) -> None:
    """Solve without break-even curves, which site a study some twenty times and are nine tenths of a small one's time; `test_curves` has them."""
    patch.setattr("hanse.plan.solve.curves_of", lambda *_, **__: ())


def study(**changes: object) -> Study:
    """Three cities, chat and batch."""
    given: dict[str, object] = {
        "schema": "hanse-study/1",
        "name": "small",
        "start": date(2027, 1, 1),
        "years": 3,
        "growth_per_year": 0.4,
        "operator_hq": "DE",
        "mechanisms": ("scc+tia",),
        "draws": 50,
        "cities": tuple(StudyCity(city=c) for c in ("Frankfurt am Main", "Lyon", "Milan")),
        "workloads": (
            Workload(id="chat", model="Llama-3.1-8B", tokens_per_day=2e10, tpot_ms=60.0),
            Workload(
                id="batch", kind="batch", model="Llama-3.1-8B", tokens_per_day=1e10, slack_h=8.0,
                ttft_ms=10_000.0, tpot_ms=200.0,
            ),
        ),
    }  # fmt: skip
    return checked(Study(**(given | changes)))  # type: ignore[arg-type]


def design(
    study: Study, demand: Demand, sites: Sequence[int], size: str = "hall", *, rent: bool = False
) -> Design:
    """Sites of one size at some of the study's cities, each row at the nearest."""
    kind = next(s for s in study.sizes if s.id == size)
    places = [demand.places[i] for i in sites]
    rtt = round_trips_ms(demand.places, places)[demand.city]
    share = np.zeros((len(demand.rows), len(sites)))
    share[np.arange(len(demand.rows)), rtt.argmin(axis=1)] = 1.0
    fits = tuple(tuple(fit_of(w, kind.accelerators[0]) for _ in sites) for w in study.workloads)
    cloud = tuple(fit_of(w, "h100-sxm") if rent else None for w in study.workloads)
    rows = len(demand.rows)
    return Design(
        spec=next(d for d in DESIGNS if d.id == "micro"),
        places=tuple(
            Place(
                id=f"s{i}",
                city=p.name,
                country=p.iso2,
                size=kind,
                price_usd_per_kwh=country_electricity(p.iso2).price_usd_per_kwh or 0.15,
            )
            for i, p in enumerate(places)
        ),
        cities=tuple(places),
        share=share,
        rented=np.zeros(rows),
        lost=np.zeros(rows),
        fits=fits,
        cloud=cloud,
        cloud_may=np.full(rows, rent),
        cloud_rtt_ms=np.full(rows, 20.0),
        reserve=np.zeros((len(study.workloads), len(sites))),
        standby=np.zeros(len(study.workloads)),
        spare=np.ones(len(sites)),
        own=(Own(),) * len(sites),
        rtt_ms=rtt,
        may=np.ones((rows, len(sites)), np.bool_),
        regret=("",) * len(sites),
        gap=0.0,
        notes=(),
    )

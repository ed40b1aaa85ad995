"""The twin judges a design: one day of its requests on the fleet file it writes, and what was planned for that very day.

Here: `tried`, at most three rounds of plan, simulate, tighten. Not here: the twin (`hanse.twin`), what is written (`fleet_out`).

What the plan says beforehand: IT energy from the step model's power over mean load, hour by hour; the meter, money and carbon by the same
balance as the twin's, on the same day's weather. What it cannot know is how requests meet: queues, batches, retries, other sites' help. A round
that misses the SLO makes all sites larger by `TIGHTEN`; the ratio of IT energy found corrects the plan's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from hanse.errors import ConfigError
from hanse.model.fleet import Fleet, Value
from hanse.plan.demand import HOURS, Demand
from hanse.plan.design import Design
from hanse.plan.fleet_out import (
    asked,
    cells,
    fleet_of,
    own_country,
    start_of,
    trace_of,
    write_fleet,
)
from hanse.plan.latency import ttft_quantiles_ms
from hanse.plan.operate import first_replicas, growth_of, hourly_watts, loads_of
from hanse.plan.physics import years_of
from hanse.plan.study_file import Study
from hanse.signals.traces import Trace
from hanse.twin.arrays import ANSWERED
from hanse.twin.inputs import read_inputs
from hanse.twin.power import STEP_S
from hanse.twin.result import Result
from hanse.twin.runs import run_inputs
from hanse.units import hours_from_s, kwh_from_wh

Floats = NDArray[np.float64]
ROUNDS: Final = 3
TIGHTEN: Final = 1.15
GOOD: Final = 0.95
"""Share of requests that must meet TTFT and TPOT: what a p95 objective means."""
REQUESTS_MAX: Final = 1_500_000
"""Simulated at most, in hours of mean demand: some ten seconds. Of busier studies the busiest hours of the day."""


class Round(Value, frozen=True, kw_only=True):
    """One try, planned beside simulated."""

    number: int
    spare: float
    """Capacity over what the formulas asked for."""
    requests: int
    hours: float
    good_share: float
    """Of interactive requests: answered within their TTFT and TPOT; so the next three."""
    ttft_ms_p50: float | None
    ttft_ms_p95: float | None
    e2e_ms_p95: float | None
    ttft_ms_p50_planned: float | None
    ttft_ms_p95_planned: float | None
    """In the same hours."""
    it_kwh: float
    it_kwh_planned: float
    facility_kwh: float
    facility_kwh_planned: float
    energy_usd: float
    energy_usd_planned: float


class Tried(msgspec.Struct, frozen=True, kw_only=True):
    """A design after the twin has judged it."""

    design: Design
    """As large as the last round found it needs to be."""
    rounds: tuple[Round, ...]

    @property
    def confirmed(self) -> bool:
        """The last round met the SLO."""
        return self.rounds[-1].good_share >= GOOD


def tried(
    design: Design,
    study: Study,
    demand: Demand,
    *,
    year: int = 0,
    rounds: int = ROUNDS,
    requests_max: int = REQUESTS_MAX,
    known: Sequence[Round] = (),
    told: Callable[[Round], None] | None = None,
    progress: Callable[[int, float], None] | None = None,
) -> Tried:
    """Simulate the design's day; enlarge it while it misses the SLO, `rounds` times at most.

    Args:
        known: Rounds of the same study and design that were run before; they are not run again.
        told: Given each round as it ends.

    Raises:
        ConfigError: an hour of the study is more than `requests_max` requests.
    """
    hours = hours_of(study, year, requests_max)
    if hours < 1:
        raise ConfigError(
            "study",
            got=f"more than {requests_max:,} requests an hour",
            allowed="an hour that the twin simulates within half a minute",
            fix="try a tenth of tokens_per_day; large studies are not tried",
        )
    trace: Trace | None = None
    found: list[Round] = []
    for number in range(1, rounds + 1):
        if number <= len(known):
            found.append(known[number - 1])
        else:
            if trace is None:
                first_h = busiest_hour(demand, hours)
                trace = trace_of(design, study, demand, year, hours=hours, first_h=first_h)
            said = (lambda n: lambda part: progress(n, part))(number) if progress else None
            found.append(_simulated(number, design, study, demand, year, hours, trace, said))
            if told is not None:
                told(found[-1])
        if found[-1].good_share >= GOOD or number == rounds:
            return Tried(design=design, rounds=tuple(found))
        design = msgspec.structs.replace(design, spare=design.spare * TIGHTEN)
    raise AssertionError("the last round returns")


def _simulated(
    number: int,
    design: Design,
    study: Study,
    demand: Demand,
    year: int,
    hours: int,
    trace: Trace,
    progress: Callable[[float], None] | None,
) -> Round:
    """One round: the design's fleet file, run."""
    fleet = fleet_at(design, study, demand, year)
    with TemporaryDirectory() as folder:
        file = Path(folder) / "fleet.toml"
        write_fleet(file, fleet, "", own_country(study))
        inputs = read_inputs(file, trace, seed=study.seed)
    waits = _Waits(fleet, study)
    result = run_inputs(inputs, progress=progress, rows=waits.take)
    return _round(number, design, study, demand, year, hours, fleet, result, waits)


class _Waits:
    """What users of interactive work waited; work that may wait has no share in it."""

    def __init__(self, fleet: Fleet, study: Study) -> None:
        live = {work.id for work in study.workloads if work.kind == "interactive"}
        self.services = [k for k, s in enumerate(fleet.services) if s.id in live]
        self.slo = np.array([[s.slo.ttft_ms, s.slo.tpot_ms] for s in fleet.services])
        self.ttft_ms: list[Floats] = []
        self.e2e_ms: list[Floats] = []
        self.asked = 0
        self.good = 0

    def take(self, rows: Any) -> None:
        """Finished requests of `ROW_DTYPE`."""
        mine = rows[np.isin(rows["service"], self.services)]
        self.asked += len(mine)
        done = mine[mine["outcome"] == ANSWERED]
        slo = self.slo[done["service"]]
        self.good += int(((done["ttft_ms"] <= slo[:, 0]) & (done["tpot_ms"] <= slo[:, 1])).sum())
        self.ttft_ms.append(done["ttft_ms"].astype(np.float64))
        self.e2e_ms.append(done["e2e_ms"].astype(np.float64))


def fleet_at(design: Design, study: Study, demand: Demand, year: int) -> Fleet:
    """The design as it stands in a year, as a fleet file has it."""
    replicas, rated_kw = first_replicas(design, study, demand, year)
    return fleet_of(design, study, requested(study, replicas), rated_kw)


def requested(study: Study, replicas: dict[tuple[int, int], int]) -> dict[tuple[int, int], int]:
    """Replicas of what comes as requests."""
    return {(w, s): n for (w, s), n in replicas.items() if asked(study.workloads[w])}


def hours_of(study: Study, year: int, requests_max: int = REQUESTS_MAX) -> int:
    """Whole hours of the day that are simulated, so that a run stays small; 0: not even one is."""
    per_day = sum(
        work.tokens_per_day
        * (1.0 + growth_of(study, w)) ** year
        / (work.tokens_in + work.tokens_out)
        for w, work in enumerate(study.workloads)
        if asked(work)
    )
    return min(HOURS, int(HOURS * requests_max / max(per_day, 1.0)))


def busiest_hour(demand: Demand, hours: int) -> int:
    """First UTC hour of the busiest so many; 0 for a whole day."""
    if hours >= HOURS:
        return 0
    day = demand.tokens_per_s @ demand.day
    sums = [day[(h + np.arange(hours)) % HOURS].sum() for h in range(HOURS)]
    return int(np.argmax(sums))


def _round(
    number: int,
    design: Design,
    study: Study,
    demand: Demand,
    year: int,
    hours: int,
    fleet: Fleet,
    result: Result,
    waits: _Waits,
) -> Round:
    replicas, _ = first_replicas(design, study, demand, year)
    rate, day, _ = loads_of(design, study, demand)
    sites = cells(requested(study, replicas))
    it_kw = np.zeros((len(sites), HOURS))
    for k, (s, held) in enumerate(sites):
        for w, count in held.items():
            fit = design.fits[w][s]
            assert fit is not None, "only served workloads have replicas"
            level = (1.0 + growth_of(study, w)) ** year
            shape = day[w, s] if study.workloads[w].slack_h == 0.0 else np.ones(HOURS)
            load = rate[w, s] * level * shape / replicas[w, s]
            it_kw[k] += kwh_from_wh(count * (hourly_watts(fit, load) + fit.host_w))
    start = start_of(study, year, busiest_hour(demand, hours))
    planned = years_of(fleet.sites, it_kw, start.timestamp(), hours=hours, step_s=STEP_S)
    # The twin's meter runs until the last request has ended; engines then wait.
    rest_h = max(hours_from_s(result.run.metered_s) - hours, 0.0)
    idle_kw = sum(
        kwh_from_wh(n * (fit.idle_w + fit.host_w))
        for s, held in sites
        for w, n in held.items()
        if (fit := design.fits[w][s]) is not None
    )
    more = 1.0 + idle_kw * rest_h / max(float(planned.sums["it_kwh"].sum()), 1e-9)
    window = (busiest_hour(demand, hours) + np.arange(hours)) % HOURS
    planned_ms = ttft_quantiles_ms(
        design, study, demand, (0.5, 0.95), year=year, hours=window.tolist(), rented=False
    )
    site = result.fleet
    group = result.group("all")
    it_kwh = site.energy.prefill_kwh + site.energy.decode_kwh + site.energy.idle_kwh
    return Round(
        number=number,
        spare=float(np.mean(design.spare)),
        requests=group.requests,
        hours=float(hours),
        good_share=waits.good / waits.asked if waits.asked else 1.0,
        ttft_ms_p50=_quantile(waits.ttft_ms, 0.5),
        ttft_ms_p95=_quantile(waits.ttft_ms, 0.95),
        e2e_ms_p95=_quantile(waits.e2e_ms, 0.95),
        ttft_ms_p50_planned=_known(planned_ms[0]),
        ttft_ms_p95_planned=_known(planned_ms[1]),
        it_kwh=it_kwh,
        it_kwh_planned=more * float(planned.sums["it_kwh"].sum()),
        facility_kwh=site.energy.facility_kwh,
        facility_kwh_planned=more * float(planned.sums["facility_kwh"].sum()),
        energy_usd=site.cost.energy_usd,
        energy_usd_planned=more * float(planned.sums["usd_import"].sum()),
    )


def _quantile(values: Sequence[Floats], share: float) -> float | None:
    """None where nothing was answered."""
    whole = np.concatenate([np.zeros(0), *values])
    return float(np.quantile(whole, share)) if len(whole) else None


def _known(value: float) -> float | None:
    return None if np.isnan(value) else float(value)

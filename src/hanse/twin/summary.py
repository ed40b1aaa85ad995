"""A finished simulation as a `Result`.

Here: `summarise`: groups, flows, pooling, latency return, and putting the parts together. Not here: sites (`site_summary`),
law (`residency`), what the figures rest on (`assumptions`), running anything (`runs`).
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
import numpy as np

from hanse.twin import arrays as ar
from hanse.twin.assumptions import assumptions_of
from hanse.twin.course import CourseTaker
from hanse.twin.quantiles import quantile_ms
from hanse.twin.residency import residency_of
from hanse.twin.result import (
    Distribution,
    Flows,
    GroupKind,
    GroupResult,
    Happened,
    LatencyReturn,
    Place,
    Pooling,
    Result,
    RunInfo,
    Spread,
)
from hanse.twin.simulate import Simulation
from hanse.twin.site_summary import fleet_result, ratio, site_results, sites_of
from hanse.twin.tally import Tally, by_reason

TTFT, TPOT, E2E = 0, 1, 2
SHARES: Final = (
    (0.005, 0.01, 0.02, 0.03, 0.05)
    + tuple(i / 20.0 for i in range(2, 19))
    + (0.92, 0.94, 0.95, 0.96, 0.97, 0.98, 0.99, 0.995, 0.999)
)
"""Where a distribution is told: densest where services promise something."""


def summarise(
    simulation: Simulation,
    run: RunInfo,
    tally: Tally,
    course: CourseTaker,
    first_table: Any,
    notes: tuple[str, ...] = (),
) -> Result:
    """The result of a simulation that has run."""
    world = simulation.world
    groups = _groups(simulation, run, tally)
    parts = sites_of(simulation, tally, course)
    return Result(
        run=run,
        notes=notes,
        groups=groups,
        fleet=fleet_result(simulation, parts, course, run.elapsed_s),
        sites=site_results(simulation, parts, run.elapsed_s),
        pooling=_pooling(simulation, course, run.elapsed_s),
        flows=Flows(
            origins=tuple(_place(o) for o in simulation.trace.meta.origins),
            sites=tuple(_place(s) for s in simulation.fleet.sites),
            served=tuple(tuple(row) for row in world.flow.tolist()),
        ),
        residency=residency_of(simulation, tally, first_table),
        distributions=tuple(
            Distribution(
                what=what,  # type: ignore[arg-type]
                share=SHARES if answered else (),
                ms=tuple(ms for s in SHARES if (ms := quantile_ms(counts, s)) is not None),
            )
            for what, counts in (
                ("ttft_ms", world.hist[0, TTFT]),
                ("tpot_ms", _many_tokens(world.hist[0, TPOT])),
                ("e2e_ms", world.hist[0, E2E]),
            )
            for answered in (counts.sum() > 0,)
        ),
        course=course.course(),
        happened=happened_of(simulation),
        assumptions=assumptions_of(simulation),
    )


def origin_names(simulation: Simulation) -> tuple[str, ...]:
    """Origins by index; a trace without any has one that is everywhere."""
    return tuple(o.id for o in simulation.trace.meta.origins) or ("everywhere",)


def latency_return(result: Result, reference: Result) -> LatencyReturn:
    """What `result` saved and how much longer its users waited, per answer, against a reference."""
    one, two = result.group("all"), reference.group("all")
    added_ms = _less(one.e2e_ms.mean, two.e2e_ms.mean)
    saved_wh = _less(reference.fleet.wh_per_answer, result.fleet.wh_per_answer)
    saved_g = _less(reference.fleet.g_per_answer, result.fleet.g_per_answer)
    saved_usd = _less(reference.fleet.usd_per_answer, result.fleet.usd_per_answer)
    paid_ms = added_ms if added_ms is not None and added_ms > 0.0 else None
    return LatencyReturn(
        reference=f"{reference.run.fleet}, {reference.run.policy}",
        added_ttft_ms=_less(one.ttft_ms.mean, two.ttft_ms.mean),
        added_e2e_ms=added_ms,
        saved_wh=saved_wh,
        saved_g=saved_g,
        saved_usd=saved_usd,
        wh_per_ms=_per(saved_wh, paid_ms),
        g_per_ms=_per(saved_g, paid_ms),
        usd_per_ms=_per(saved_usd, paid_ms),
    )


def with_reference(result: Result, reference: Result | None) -> Result:
    """The result with its latency return, where there is a reference."""
    if reference is None:
        return result
    return msgspec.structs.replace(result, latency_return=latency_return(result, reference))


def _place(thing: Any) -> Place:
    return Place(id=thing.id, lat_deg=thing.lat_deg, lon_deg=thing.lon_deg, country=thing.country)


def happened_of(simulation: Simulation) -> tuple[Happened, ...]:
    """The log, each line with its end where it had one."""
    until_s = simulation.until_s
    return tuple(
        Happened(at_s=at_s, until_s=until_s.get(i), text=text)
        for i, (at_s, text) in enumerate(simulation.log)
    )


def _less(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a - b


def _per(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a / b


def _groups(simulation: Simulation, run: RunInfo, tally: Tally) -> tuple[GroupResult, ...]:
    fleet = simulation.fleet
    names: list[tuple[GroupKind, str]] = [("all", "all")]
    names += [("service", s.id) for s in fleet.services]
    names += [("class", c.id) for c in fleet.classes]
    names += [("site", s.id) for s in fleet.sites]
    names += [("origin", name) for name in origin_names(simulation)]
    refused, failed = (
        _reasons_of_groups(c, len(fleet.sites)) for c in (tally.refused, tally.failed)
    )
    return tuple(
        _group(simulation.world, k, kind, name, run.duration_s, refused[k], failed[k])
        for k, (kind, name) in enumerate(names)
    )


def _reasons_of_groups(counts: Any, sites: int) -> list[Any]:
    """[group][reason] of counts [service, class, origin, reason], in the order of the books."""
    per_origin = counts.sum(axis=(0, 1))
    return [
        per_origin.sum(axis=0),
        *counts.sum(axis=(1, 2)),
        *counts.sum(axis=(0, 2)),
        *np.zeros((sites, ar.REASONS), np.int64),
        *per_origin,
    ]


def _group(
    world: Any, k: int, kind: GroupKind, name: str, duration_s: float, refused: Any, failed: Any
) -> GroupResult:
    sums, hist = world.sums[k], world.hist[k]
    served, good = int(sums[ar.SUM_SERVED]), int(sums[ar.SUM_GOOD])
    outcomes = (ar.SUM_SERVED, ar.SUM_REFUSED, ar.SUM_FAILED, ar.SUM_BROKEN)
    requests = int(sum(sums[i] for i in outcomes))
    with_tokens = _many_tokens(hist[TPOT])
    return GroupResult(
        kind=kind,
        name=name,
        requests=requests,
        served=served,
        refused=by_reason(refused),
        failed=by_reason(failed),
        broken=int(sums[ar.SUM_BROKEN]),
        good=good,
        goodput_share=ratio(good, requests),
        goodput_per_s=good / duration_s,
        ttft_ms=_spread(hist[TTFT], sums[ar.SUM_TTFT_MS], served),
        tpot_ms=_spread(with_tokens, sums[ar.SUM_TPOT_MS], int(with_tokens.sum())),
        e2e_ms=_spread(hist[E2E], sums[ar.SUM_E2E_MS], served),
        path_rtt_ms_mean=ratio(sums[ar.SUM_PATH_MS], served),
        tokens_in=int(sums[ar.SUM_TOKENS_IN]),
        tokens_out=int(sums[ar.SUM_TOKENS_OUT]),
        tokens_cached=int(sums[ar.SUM_CACHED]),
        forwarded=int(sums[ar.SUM_HOPS]),
        retries=int(sums[ar.SUM_RETRIES]),
        energy_wh=float(sums[ar.SUM_WH]),
        carbon_g=float(sums[ar.SUM_G]),
        cost_usd=float(sums[ar.SUM_USD]),
    )


def _many_tokens(counts: Any) -> Any:
    """Of a TPOT histogram, answers of more than one token: the others have none, and are booked as 0."""
    some = counts.copy()
    some[0] = 0
    return some


def _spread(counts: Any, total_ms: float, count: int) -> Spread:
    return Spread(
        mean=ratio(total_ms, count),
        p50=quantile_ms(counts, 0.5),
        p95=quantile_ms(counts, 0.95),
        p99=quantile_ms(counts, 0.99),
    )


def _pooling(simulation: Simulation, course: CourseTaker, elapsed_s: float) -> Pooling:
    used, demand = course.slots_used(), course.origin_rps()
    fleet_max, sites_max = float(used.sum(axis=1).max()), float(used.max(axis=0).sum())
    demand_max, origins_max = float(demand.sum(axis=1).max()), float(demand.max(axis=0).sum())
    engines = simulation.world.engines
    slots_s = float(engines["slots"].sum()) * elapsed_s
    over = ratio(sites_max, fleet_max)
    alone = ratio(origins_max, demand_max)
    idle = ratio(float(engines["batch_s"].sum()), slots_s)
    return Pooling(
        slots_fleet_max=fleet_max,
        slots_sites_max=sites_max,
        loss_share=None if over is None else over - 1.0,
        demand_fleet_rps_max=demand_max,
        demand_origins_rps_max=origins_max,
        alone_share=None if alone is None else alone - 1.0,
        slots_idle_share=None if idle is None else 1.0 - idle,
    )

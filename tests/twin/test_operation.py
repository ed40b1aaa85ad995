"""Placements that change while requests flow: they follow demand, lose nothing, and never stand below what is asked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from hanse.dispatch.belief import site_defaults
from hanse.model.fleet import Fleet, Pool, SlowLoop
from hanse.signals.demand_counts import DemandCounts
from hanse.signals.outlook import DemandOutlook, Outlook, SiteOutlook
from hanse.signals.traces.trace import Trace
from hanse.twin import arrays as ar
from hanse.twin.keeper import Keeper
from hanse.twin.operation import Operation, _kinds
from hanse.twin.scenario import Fault, Scenario
from hanse.twin.simulate import Simulation
from twin.fleets import random_trace
from twin.test_faults import three_sites

STEP_S = 3600.0


def small_chips() -> Fleet:
    """Three sites of eight L4 each, on which the controller decides."""
    made = three_sites()
    pools = (Pool(id="gpu", accelerator="l4", count=8),)
    sites = tuple(msgspec.structs.replace(s, pools=pools) for s in made.sites)
    placed = tuple(
        msgspec.structs.replace(p, replicas=1, slots=16, context_tokens=60_000, chips=1)
        for p in made.placements
    )
    slow = SlowLoop(places=True, place_every_s=300.0, window_s=1800.0)
    return msgspec.structs.replace(made, sites=sites, placements=placed, slow_loop=slow)


def as_it_was(fleet: Fleet) -> Callable[[float, DemandCounts], Outlook]:
    """The next hours are as the last quarter was, and a third more is possible."""

    def foresee(now_s: float, history: DemandCounts) -> Outlook:
        demand = []
        for key in history.kinds():
            rates = history.requests_per_s(key, now_s)[-3:]
            mean = float(rates.mean()) if len(rates) else 0.0
            tokens = history.tokens(key, now_s)
            if mean > 0.0:
                demand.append(
                    DemandOutlook(
                        service=key.service, tenant=key.tenant, data_class=key.data_class, country=key.country,
                        origin=key.origin, requests_per_s=(mean,), requests_per_s_high=(1.33 * mean,),
                        input_tokens=tokens[0], output_tokens=tokens[1],
                    )
                )  # fmt: skip
        sites = []
        for site in fleet.sites:
            known = site_defaults(site)
            sites.append(
                SiteOutlook(
                    site=site.id, price_usd_per_kwh=(known.price_usd_per_kwh,), carbon_g_per_kwh=(known.carbon_g_per_kwh,),
                    carbon_signal="average_location", pue=(known.pue,), pv_kw=(0.0,), wind_kw=(0.0,),
                    grid_kw_max=(site.power.grid_kw_max,),
                )
            )  # fmt: skip
        return Outlook(
            issued_at_s=now_s,
            start_s=now_s,
            step_s=STEP_S,
            demand=tuple(demand),
            sites=tuple(sites),
        )

    return foresee


def known_before(
    fleet: Fleet, rates: tuple[float, ...], each_s: float
) -> Callable[[float, DemandCounts], Outlook]:
    """The truth of demand, ten minutes ahead; what is counted says between whom it is shared."""
    now = as_it_was(fleet)

    def foresee(now_s: float, counts: DemandCounts) -> Outlook:
        outlook = now(now_s, counts)
        begun_s = now_s % 86_400.0
        ahead = rates[min(int((begun_s + 600.0) // each_s), len(rates) - 1)]
        here = rates[min(int(begun_s // each_s), len(rates) - 1)]
        total = sum(d.requests_per_s[0] for d in outlook.demand)
        factor = max(ahead, here) / total if total else 1.0
        demand = tuple(
            msgspec.structs.replace(
                d,
                requests_per_s=(factor * d.requests_per_s[0],),
                requests_per_s_high=(1.2 * factor * d.requests_per_s[0],),
            )
            for d in outlook.demand
        )
        return msgspec.structs.replace(outlook, demand=demand)

    return foresee


def swelling(fleet: Fleet, low_rps: float, high_rps: float, each_s: float) -> Trace:
    """Few requests, then many, then few."""
    parts, begun_s = [], 0.0
    rng = np.random.default_rng(7)
    for rate in (low_rps, high_rps, low_rps):
        trace = random_trace(fleet, rng, count=int(rate * each_s), rate_rps=rate)
        requests = next(trace.chunks()).requests.copy()
        requests["at_s"] += begun_s
        requests["cls"] = requests["tenant"] = 0
        parts.append(requests)
        begun_s += each_s
    merged = np.concatenate(parts)
    merged.sort(order="at_s")
    return Trace.of(msgspec.structs.replace(trace.meta, duration_s=begun_s), merged)


def ran(
    fleet: Fleet,
    trace: Trace,
    *faults: Fault,
    foresee: Callable[[float, DemandCounts], Outlook] | None = None,
) -> Simulation:
    run = Simulation(
        fleet,
        trace,
        scenario=Scenario(faults=faults),
        operation=Operation(foresee=foresee or as_it_was(fleet), every_s=300.0),
    )
    run.run()
    return run


def replicas_up(run: Simulation) -> int:
    return int((run.world.engines["mode"] != ar.DOWN).sum())


def test_replicas_come_with_demand_and_go_with_it() -> None:
    fleet = small_chips()
    rates = (4.0, 40.0, 4.0)
    foresee = known_before(fleet, rates, 1200.0)
    run = ran(fleet, swelling(fleet, rates[0], rates[1], 1200.0), foresee=foresee)
    assert run.operator is not None
    placed = [sum(p.replicas for p in a.placements) for _, a in run.operator.answers]
    sums, asked = run.world.sums[0], int(run.world.clock[0]["requests"])
    assert max(placed) >= 2 * placed[-1]
    assert replicas_up(run) < max(placed)
    assert sums[ar.SUM_SERVED] == asked
    assert sums[ar.SUM_GOOD] >= 0.99 * asked


def test_a_site_that_is_lost_is_placed_around() -> None:
    fleet = small_chips()
    trace = swelling(fleet, 6.0, 6.0, 900.0)
    run = ran(fleet, trace, Fault(kind="site_down", at_s=1300.0, for_s=800.0, site="b"))
    assert run.operator is not None
    while_down = [a for at_s, a in run.operator.answers if 1400.0 < at_s < 2000.0]
    assert while_down
    for answer in while_down:
        assert {p.site for p in answer.placements if p.replicas > 0} >= {"a", "c"}
        assert not answer.violated
    sums, asked = run.world.sums[0], int(run.world.clock[0]["requests"])
    assert sums[ar.SUM_SERVED] >= asked - 100  # those in flight at the site's gateway


def test_what_does_not_start_is_placed_around_and_tried_again() -> None:
    fleet = small_chips()
    rates = (4.0, 20.0, 20.0)
    foresee = known_before(fleet, rates, 1200.0)
    trace = swelling(fleet, rates[0], rates[1], 1200.0)
    usual = ran(fleet, trace, foresee=foresee)
    assert usual.operator is not None
    most = max(
        (a for _, a in usual.operator.answers), key=lambda a: sum(p.replicas for p in a.placements)
    )
    used = Counter({p.site: p.replicas for p in most.placements})
    ((site, replicas),) = used.most_common(1)
    assert replicas > 1
    broken = Fault(kind="engine_no_start", at_s=0.0, for_s=3000.0, site=site, service="chat")
    run = ran(fleet, trace, broken, foresee=foresee)
    assert run.operator is not None
    told = [text for _, text in run.log if "does not start" in text]
    assert told
    around = [a for at_s, a in run.operator.answers if 1500.0 < at_s < 2400.0]
    for answer in around:
        there = sum(p.replicas for p in answer.placements if p.site == site)
        others = sum(p.replicas for p in answer.placements if p.site != site)
        assert there < replicas and others > sum(used.values()) - replicas
        assert not answer.violated
    belief = run.dispatcher.belief
    assert belief is not None
    assert not belief.sites[site].failing, "once it starts again, that is told too"
    sums, asked = run.world.sums[0], int(run.world.clock[0]["requests"])
    assert sums[ar.SUM_SERVED] == asked


def test_the_same_run_twice_gives_the_same_placements() -> None:
    fleet = small_chips()
    one, two = (ran(fleet, swelling(fleet, 3.0, 9.0, 600.0)) for _ in range(2))
    assert one.operator is not None and two.operator is not None
    assert [a for _, a in one.operator.answers] == [a for _, a in two.operator.answers]
    assert (one.world.sums == two.world.sums).all()


def test_an_agent_that_looks_only_where_something_can_have_changed_misses_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fleet = small_chips()
    trace = swelling(fleet, 3.0, 20.0, 600.0)
    faults = (
        Fault(kind="engine_freeze", at_s=200.0, site="a", engine=0),
        Fault(kind="engine_kill", at_s=700.0, site="b"),
        Fault(kind="site_down", at_s=900.0, for_s=200.0, site="c"),
    )
    sparing = ran(fleet, trace, *faults)
    monkeypatch.setattr(Keeper, "_still", lambda *_: False)
    eager = ran(fleet, trace, *faults)
    assert sparing.log == eager.log and len(sparing.log) > 3
    assert (sparing.world.sums == eager.world.sums).all()
    assert sparing.tables == eager.tables
    assert sparing.operator is not None and eager.operator is not None
    assert sparing.operator.answers == eager.operator.answers


@given(
    arrays(np.int64, st.tuples(st.integers(1, 5), st.integers(1, 40)), elements=st.integers(-1, 3))
)
def test_kinds_of_requests_come_in_order_and_each_finds_its_own(columns: np.ndarray) -> None:
    columns[0] += 460_000  # bins of a demand that began in 1970
    kinds, which = _kinds(columns)
    assert (kinds[:, which] == columns).all()
    assert (kinds == np.unique(columns, axis=1)).all()

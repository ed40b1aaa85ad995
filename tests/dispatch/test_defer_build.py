"""From belief, outlook and jobs to a problem: law as the table has it, steps as the outlook has them."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dispatch.fleets import NOW_S, fleet, random_fleet, site, tenant
from effort import effort
from hanse.dispatch.belief import Belief
from hanse.dispatch.defer import check, solve
from hanse.dispatch.defer_build import SLACK_SHARE, UNBOUND_KW, Measured, Whereabouts, problem_from
from hanse.dispatch.defer_problem import DeferProblem
from hanse.dispatch.dispatcher import Dispatcher
from hanse.dispatch.events import DrainRequested, FleetLoaded
from hanse.dispatch.shed import UNSHED_SHARE
from hanse.energy.limits import cooled_share
from hanse.energy.plant import it_kw_rated
from hanse.model.fleet import Fleet, Link, Power
from hanse.model.job import Job
from hanse.signals.outlook import Outlook, SiteOutlook

HOURS = 50
replace = msgspec.structs.replace


def belief_of(one: Fleet) -> Belief:
    dispatcher = Dispatcher("fleet")
    dispatcher.handle(FleetLoaded(at_s=NOW_S, fleet=one))
    assert dispatcher.belief is not None
    return dispatcher.belief


def outlook_of(one: Fleet, hours: int = HOURS) -> Outlook:
    def flat(value: float) -> tuple[float, ...]:
        return (value,) * hours

    return Outlook(
        issued_at_s=NOW_S,
        start_s=NOW_S,
        step_s=3600.0,
        demand=(),
        sites=tuple(
            SiteOutlook(
                site=s.id,
                price_usd_per_kwh=tuple(0.1 + 0.01 * (h % 24) for h in range(hours)),
                carbon_g_per_kwh=flat(300.0),
                carbon_signal="average_location",
                pue=flat(1.2),
                pv_kw=flat(0.0),
                wind_kw=flat(0.0),
                grid_kw_max=flat(s.power.grid_kw_max),
            )
            for s in one.sites
        ),
    )


def job(name: str = "j", **fields: object) -> Job:
    known: dict[str, object] = {
        "id": name, "kind": "batch", "tenant": "t", "data_class": "personal", "country": "DE",
        "home": "a", "data_gb": 1.0, "submitted_at_s": NOW_S, "deadline_at_s": NOW_S + 86400.0,
        "chip_s": {"l4": 7200.0}, "chips_max": 2,
    }  # fmt: skip
    return Job(**(known | fields))  # type: ignore[arg-type]


def league() -> Fleet:
    power = Power(grid_kw_max=60.0, battery_kwh=10.0, battery_kw_max=5.0, base_kw=1.0)
    sites = (site("a", power=power), site("b", power=power), site("c", "CN"))
    links = (Link(a="a", b="b", rtt_ms=5.0, mbit_s=1000.0, usd_per_gb=0.01),)
    return fleet(sites, links=links, tenants=(tenant("t", ("DE",)),), placements=())


def test_law_decides_where_a_job_may_run_and_says_why_not() -> None:
    one = league()
    found = problem_from(belief_of(one), outlook_of(one), (job(),), start_s=NOW_S)
    assert found.jobs[0].sites == ("a", "b")
    (refused,) = found.jobs[0].refused
    assert refused.site == "c" and refused.rules
    answer = solve(found)
    assert check(found, answer) == [] and answer.violations == ()
    assert {run.site for run in answer.jobs[0].runs} <= {"a", "b"}


def test_an_unknown_tenant_runs_nowhere() -> None:
    one = league()
    found = problem_from(belief_of(one), outlook_of(one), (job(tenant="other"),), start_s=NOW_S)
    assert found.jobs[0].sites == ()
    assert [v.kind for v in solve(found).violations] == ["no_site"]


@settings(max_examples=effort(15), deadline=None)
@given(seed=st.integers(0, 500))
def test_lawful_sites_are_those_of_the_law_table(seed: int) -> None:
    one = random_fleet(np.random.default_rng(seed))
    belief = belief_of(one)
    who = one.tenants[0]
    asked = job(
        tenant=who.id, data_class=who.classes[0], country=who.keys[0].countries[0],
        home=one.sites[0].id,
    )  # fmt: skip
    found = problem_from(belief, outlook_of(one), (asked,), start_s=NOW_S, sites_max=99)
    sites, law = [s.id for s in one.sites], belief.law
    rows = [
        r for r, s in enumerate(law.subjects)
        if r and (s.data_class, s.country) == (asked.data_class, asked.country)
        and s.tenant in ("", who.id) and s.sovereign == who.sovereign
        and s.mechanisms == tuple(sorted(set(who.mechanisms)))
    ]  # fmt: skip
    expected = {
        name for i, name in enumerate(sites) if rows and all(law.lawful(r, i) for r in rows)
    }
    assert set(found.jobs[0].sites) == expected
    assert set(found.jobs[0].sites) | {r.site for r in found.jobs[0].refused} == set(sites)


def test_hours_come_onto_five_minute_steps_and_repeat_beyond_the_outlook() -> None:
    one = league()
    found = problem_from(belief_of(one), outlook_of(one, 24), (), start_s=NOW_S + 1800.0)
    price = found.sites[0].price_usd_per_kwh
    assert price[:6] == pytest.approx((0.1,) * 6) and price[6] == pytest.approx(0.11)
    # From half past two: the mean of half an hour of each.
    assert price[24] == pytest.approx(0.125)
    assert price[24 + 24] == pytest.approx(price[24])


def test_placed_pools_and_drained_sites_have_no_free_chips() -> None:
    one = league()
    dispatcher = Dispatcher("fleet")
    dispatcher.handle(FleetLoaded(at_s=NOW_S, fleet=one))
    dispatcher.handle(DrainRequested(at_s=NOW_S, site="b", drained=True))
    belief = dispatcher.belief
    assert belief is not None
    found = problem_from(belief, outlook_of(one), (), start_s=NOW_S)
    free = {s.site: s.pools[0].chips_free[0] for s in found.sites}
    assert free == {"a": 8.0, "b": 0.0, "c": 8.0}
    placed = fleet((site("a"),))
    assert problem_from(belief_of(placed), outlook_of(placed), (), start_s=NOW_S).sites[0].pools[
        0
    ].chips_free == (0.0,) * len(found.step_s)
    measured = Measured(
        chips_free={"a/gpu": (3.0,) * HOURS},
        held_kwh={"a": 7.0},
        whereabouts={"j": Whereabouts(state_at="b", pool="gpu", chips=1)},
    )
    told = problem_from(belief, outlook_of(one), (job(),), start_s=NOW_S, measured=measured)
    battery = told.sites[0].battery
    assert battery is not None and battery.held_kwh == 7.0
    assert told.sites[0].pools[0].chips_free[0] == 3.0
    assert told.jobs[0].state_at == "b" and told.jobs[0].chips == 1


def test_ways_follow_links_and_a_problem_travels() -> None:
    one = league()
    found = problem_from(belief_of(one), outlook_of(one), (job(),), start_s=NOW_S)
    (way,) = found.paths
    assert (way.source, way.target) == ("a", "b")
    assert way.mbit_s == pytest.approx(1000.0) and way.usd_per_gb == pytest.approx(0.01)
    sent = msgspec.msgpack.encode(found)
    assert msgspec.msgpack.decode(sent, type=DeferProblem).digest() == found.digest()


def test_in_the_heat_work_that_may_wait_keeps_clear_of_what_would_be_shed() -> None:
    one = league()
    cool = outlook_of(one)
    share = tuple(cooled_share(40.0 if 12 <= h % 24 < 18 else 25.0) for h in range(HOURS))
    hot: Outlook = replace(cool, sites=tuple(replace(s, cooled_share=share) for s in cool.sites))
    jobs = tuple(job(f"j{n}", deadline_at_s=NOW_S + 172_800.0) for n in range(3))
    found = problem_from(belief_of(one), hot, jobs, start_s=NOW_S)
    a = found.sites[0]
    rated_kw = it_kw_rated(one.sites[0])
    assert a.load_kw_max[0] == UNBOUND_KW, "no heat, no bound"
    noon = 24 + 11  # two hours of fine steps, then hours: 13 o'clock
    assert a.load_kw_max[noon] == pytest.approx(UNSHED_SHARE * (1.0 + 1.2 * rated_kw * 0.925))
    answer = solve(found)
    assert check(found, answer) == []
    assert problem_from(belief_of(one), cool, jobs, start_s=NOW_S).sites[0].load_kw_max == ()


def test_under_a_load_target_work_that_may_wait_and_batteries_keep_clear_of_it() -> None:
    one = league()
    free = outlook_of(one)
    asked = tuple(3.0 if 12 <= h % 24 < 18 else UNBOUND_KW for h in range(HOURS))
    told: Outlook = replace(free, sites=tuple(replace(s, load_kw_max=asked) for s in free.sites))
    jobs = tuple(job(f"j{n}", deadline_at_s=NOW_S + 172_800.0) for n in range(3))
    found = problem_from(belief_of(one), told, jobs, start_s=NOW_S)
    a, noon = found.sites[0], 24 + 11
    assert a.load_kw_max[0] == UNBOUND_KW
    assert a.load_kw_max[noon] == pytest.approx(UNSHED_SHARE * 3.0)
    assert a.grid_kw_max[0] == one.sites[0].power.grid_kw_max
    assert a.grid_kw_max[noon] == max(3.0, a.base_kw[noon])
    answer = solve(found)
    assert check(found, answer) == []
    plan = next(s for s in answer.sites if s.site == "a")
    assert plan.import_kw[noon] <= a.grid_kw_max[noon] + 1e-6


@pytest.mark.parametrize("begun_h", [0.0, 0.42])
def test_a_load_target_hours_ahead_binds_whenever_it_is_planned(begun_h: float) -> None:
    one, asked = league(), tuple(3.0 if h == 12 else UNBOUND_KW for h in range(HOURS))
    free = outlook_of(one)
    told: Outlook = replace(free, sites=tuple(replace(s, load_kw_max=asked) for s in free.sites))
    start_s = NOW_S + 3600.0 * begun_h
    found = problem_from(belief_of(one), told, (job(),), start_s=start_s)
    at_s = start_s
    for t, length_s in enumerate(found.step_s):
        touched = at_s < NOW_S + 13 * 3600.0 and at_s + length_s > NOW_S + 12 * 3600.0
        assert (found.sites[0].load_kw_max[t] < UNBOUND_KW) == touched
        at_s += length_s


def test_a_load_target_below_what_a_site_draws_idle_empties_no_battery() -> None:
    one, asked = league(), tuple(1.2 if 2 <= h < 6 else UNBOUND_KW for h in range(HOURS))
    free = outlook_of(one)
    told: Outlook = replace(free, sites=tuple(replace(s, load_kw_max=asked) for s in free.sites))
    answer = solve(problem_from(belief_of(one), told, (job(),), start_s=NOW_S))
    plan = next(s for s in answer.sites if s.site == "a")
    assert plan.discharge_kw[24:28] == (0.0,) * 4
    assert answer.costs.unserved_usd == 0.0 and not answer.violations


def test_a_server_that_sleeps_costs_its_idle_power_to_the_work_that_wakes_it() -> None:
    one = league()
    known = Measured(asleep=("a/gpu",))
    found = problem_from(belief_of(one), outlook_of(one), (), start_s=NOW_S, measured=known)
    idle = {s.site: s.pools[0].chip_kw_idle for s in found.sites}
    assert idle["a"] == 0.0 and idle["b"] > 0.0


def test_work_is_due_early_where_replicas_follow_the_hour() -> None:
    one = league()
    moving: Fleet = replace(one, slow_loop=replace(one.slow_loop, places=True))
    due = [
        problem_from(belief_of(f), outlook_of(f), (job(),), start_s=NOW_S).jobs[0].due_s
        for f in (one, moving)
    ]
    assert due[0] - due[1] == pytest.approx(SLACK_SHARE * 86_400.0)

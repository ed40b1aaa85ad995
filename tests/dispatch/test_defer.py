"""The schedule: least cost by a second opinion, limits kept, warm equals cold, nothing left unsaid."""

from __future__ import annotations

import random

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dispatch.defer_cases import SHORT, START_S, problem, whole
from dispatch.defer_oracle import least_usd
from effort import effort
from hanse.dispatch.defer import DeferSolver, check, solve
from hanse.dispatch.defer_frame import Frame
from hanse.dispatch.defer_problem import (
    DeferAnswer,
    DeferJob,
    DeferProblem,
    Refused,
    axis,
)
from hanse.dispatch.defer_settle import settle
from hanse.energy.balance import supply_step
from hanse.energy.records import (
    BY_PLAN,
    OUT_DTYPE,
    OUTSIDE_DTYPE,
    STATE_DTYPE,
    SUPPLY_DTYPE,
)

seeds = st.integers(0, 10_000)
FLAT = ("price_usd_per_kwh", "carbon_g_per_kwh", "pue", "base_kw")
replace = msgspec.structs.replace


@settings(max_examples=effort(60), deadline=None)
@given(seed=seeds)
def test_no_schedule_of_fractions_costs_less(seed: int) -> None:
    one = problem(seed)
    answer = solve(one)
    assert answer.bound_usd == pytest.approx(least_usd(one), abs=2e-4, rel=1e-6)


@settings(max_examples=effort(60), deadline=None)
@given(seed=seeds)
def test_an_answer_keeps_every_limit_and_costs_what_it_says(seed: int) -> None:
    one = problem(seed, sites=3, jobs=5)
    answer = solve(one)
    assert check(one, answer) == []
    # Where power has a price above nothing, physics adds nothing to the program's cost. Emergencies make it cheaper:
    # the battery's reserve is for them.
    slack = 1e-4 + 1e-6 * abs(answer.bound_usd)
    if any(v.kind == "power" for v in answer.violations):
        assert answer.costs.usd <= answer.bound_usd + slack or below_reserve(one)
    elif below_reserve(one):
        assert answer.costs.usd >= answer.bound_usd - slack
    else:
        assert answer.costs.usd == pytest.approx(answer.bound_usd, abs=slack)


def below_reserve(one: DeferProblem) -> bool:
    batteries = [s.battery for s in one.sites if s.battery is not None]
    return any(b.held_kwh < b.soc_reserve * b.kwh for b in batteries)


@settings(max_examples=effort(30), deadline=None)
@given(seed=seeds)
def test_every_job_is_done_in_time_or_named_with_reason_and_cure(seed: int) -> None:
    one = problem(seed, jobs=6)
    answer = solve(one)
    named = {v.where: v for v in answer.violations}
    for asked, plan in zip(one.jobs, answer.jobs, strict=True):
        in_time = plan.finish_at_s is not None and plan.finish_at_s <= asked.job.deadline_at_s + 1.0
        later = plan.finish_at_s is None and asked.job.deadline_at_s > one.end_s
        assert in_time or later or asked.job.id in named
    assert all(v.why and v.cure and v.amount > 0.0 for v in answer.violations)


@settings(max_examples=effort(25), deadline=None)
@given(
    seed=seeds,
    changes=st.lists(
        st.sampled_from(["later", "job", "done", "law", "ways", "worked"]), max_size=4
    ),
)
def test_warm_costs_what_cold_costs(seed: int, changes: list[str]) -> None:
    solver = DeferSolver()
    one = problem(seed, jobs=4)
    solver.solve(one)
    for k, change in enumerate(changes):
        one = changed(one, change, seed + k)
        warm, cold = solver.solve(one), solve(one)
        assert check(one, warm) == []
        assert warm.bound_usd == pytest.approx(cold.bound_usd, abs=2e-4, rel=1e-6)
        assert warm.problem == cold.problem


def changed(one: DeferProblem, change: str, seed: int) -> DeferProblem:
    if change == "later":
        other = problem(seed, jobs=4)
        sites = tuple(
            replace(s, price_usd_per_kwh=o.price_usd_per_kwh, pue=o.pue, pv_kw=o.pv_kw)
            for s, o in zip(one.sites, other.sites, strict=True)
        )
        return replace(one, start_s=one.start_s + 300.0, sites=sites)
    if change == "job":
        new = problem(seed + 1, jobs=1).jobs[0]
        known = {j.job.id for j in one.jobs}
        new = replace(new, job=replace(new.job, id=f"new{len(known)}-{seed}"))
        return replace(one, jobs=(*one.jobs, new))
    if change == "done":
        return replace(one, jobs=one.jobs[1:])
    if change == "worked":
        jobs = tuple(
            replace(j, job=replace(j.job, chip_s={a: 0.6 * s for a, s in j.job.chip_s.items()}))
            for j in one.jobs
        )
        return replace(one, jobs=jobs)
    if change == "ways":  # in another order, without some, at other rates
        ways = random.Random(seed).sample(one.paths, random.Random(seed).randint(0, len(one.paths)))
        return replace(one, paths=tuple(replace(w, mbit_s=w.mbit_s + 1.0) for w in ways))
    jobs = tuple(replace(j, sites=j.sites[:1]) for j in one.jobs)
    return replace(one, jobs=jobs)


def test_two_days_warm_equals_cold_and_no_model_is_made_anew() -> None:
    solver = DeferSolver()
    for shift in range(3):
        one = whole(3, shift=shift)
        assert solver.solve(one).bound_usd == pytest.approx(solve(one).bound_usd, abs=1e-3)
    assert solver.cold == 1


@settings(max_examples=effort(30), deadline=None)
@given(hours=st.floats(0.2, 6.0), restart_s=st.sampled_from([0.0, 30.0, 60.0, 170.0, 600.0]))
def test_where_every_hour_costs_the_same_work_is_done_at_once(
    hours: float, restart_s: float
) -> None:
    one = problem(1, sites=1, jobs=1, step_s=axis())
    count = len(one.step_s)
    (site,), (asked,) = one.sites, one.jobs
    flat = {name: (getattr(site, name)[0],) * count for name in FLAT}
    pool = replace(site.pools[0], accelerator="l4", chips_free=(2.0,) * count)
    none = (0.0,) * count
    power = {
        "pv_kw": none,
        "wind_kw": none,
        "grid_kw_max": (99.0,) * count,
        "load_kw_max": (),
        "usd_per_kw_month": 0.0,
    }
    site = replace(site, **flat, **power, battery=None, pools=(pool,))
    work = {
        "chip_s": {"l4": hours * 3600.0}, "chips_max": 2, "restart_s": restart_s, "home": site.site, "data_gb": 0.0, "state_gb": 0.0,
        "deadline_at_s": START_S + 40.0 * 3600.0,
    }  # fmt: skip
    asked = replace(
        asked,
        job=replace(asked.job, **work),
        sites=(site.site,),
        state_at=site.site,
        pool=None,
        chips=0,
    )
    (plan,) = solve(replace(one, sites=(site,), jobs=(asked,))).jobs
    (run,) = plan.runs
    done = np.flatnonzero(np.array(run.chips) > 1e-6)
    # Among five-minute steps the solver's tolerance decides; neither hours, where beginnings are not counted, nor thin slices win.
    assert done[0] <= 1 and plan.finish_at_s is not None
    assert plan.finish_at_s <= START_S + 1800.0 * hours + 2.0 * restart_s + 3600.0


def test_ways_come_and_go_with_jobs_and_no_model_is_made_anew() -> None:
    one = whole(3)
    used = {(j.job.home, s) for j in one.jobs[:-1] for s in j.sites if s != j.job.home}
    few = replace(
        one, jobs=one.jobs[:-1], paths=tuple(w for w in one.paths if (w.source, w.target) in used)
    )
    assert len(few.paths) < len(one.paths)
    solver = DeferSolver()
    for asked in (few, one, few):
        assert solver.solve(asked).bound_usd == pytest.approx(solve(asked).bound_usd, abs=1e-3)
    assert solver.cold == 1


def test_same_problem_same_bytes_and_values_travel() -> None:
    one = whole(5)
    answer = solve(one)
    assert msgspec.msgpack.encode(answer) == msgspec.msgpack.encode(solve(one))
    sent = msgspec.msgpack.encode(one)
    assert msgspec.msgpack.decode(sent, type=DeferProblem).digest() == one.digest()
    again = msgspec.msgpack.decode(msgspec.msgpack.encode(answer), type=DeferAnswer)
    assert again == answer and check(one, again) == []


def test_a_job_that_nobody_may_run_says_by_which_rule() -> None:
    one = problem(1, jobs=1)
    barred = replace(
        one.jobs[0], sites=(), refused=(Refused(site="s0", rules=("eu:no-adequacy",)),)
    )
    answer = solve(replace(one, jobs=(barred,)))
    assert [v.kind for v in answer.violations] == ["no_site"]
    assert "eu:no-adequacy" in answer.violations[0].why + answer.violations[0].cure
    assert answer.jobs[0].runs == ()


def test_a_job_without_its_chip_says_so() -> None:
    one = problem(1, jobs=1)
    odd = replace(one.jobs[0], job=replace(one.jobs[0].job, chip_s={"tpu": 60.0}))
    assert [v.kind for v in solve(replace(one, jobs=(odd,))).violations] == ["no_chip"]


def test_work_waits_for_the_clean_hour_and_the_battery_for_the_dear_one() -> None:
    one = quiet(price=(0.1, 0.1, 0.1, 0.1, 0.02, 0.5))
    answer = solve(one)
    chips = np.array(answer.jobs[0].runs[0].chips)
    assert chips.argmax() == 4 and chips[[0, 1, 2, 3, 5]].sum() == pytest.approx(0.0)
    site = answer.sites[0]
    assert site.charge_kw[4] > 0.5 and site.discharge_kw[5] > 0.5


def quiet(price: tuple[float, ...]) -> DeferProblem:
    """One site, one chip hour of work, a battery; only the price moves."""
    one = problem(11, sites=1, jobs=1, restarts=False)
    flat = (1.0,) * len(SHORT)
    none = (0.0,) * len(SHORT)
    battery = replace(_battery(), held_kwh=0.0, soc_reserve=0.0, stored_usd_per_kwh=0.0)
    pool = replace(one.sites[0].pools[0], accelerator="l4", chips_free=flat)
    site = replace(
        one.sites[0], price_usd_per_kwh=price, carbon_g_per_kwh=none, pue=flat, pv_kw=none, wind_kw=none,
        grid_kw_max=(9.0,) * len(SHORT), load_kw_max=(), base_kw=flat, battery=battery, pools=(pool,), usd_per_kw_month=0.0,
    )  # fmt: skip
    job = replace(
        one.jobs[0].job, chip_s={"l4": 3600.0}, chips_max=1, deadline_at_s=START_S + 1e5, restart_s=0.0
    )  # fmt: skip
    wanted: DeferJob = replace(
        one.jobs[0], sites=("s0",), state_at="s0", pool=None, chips=0,
        job=replace(job, home="s0", deadline_at_s=one.end_s),
    )  # fmt: skip
    return replace(one, sites=(site,), jobs=(wanted,))


def test_a_plan_leaves_time_to_yield_once() -> None:
    """The cheapest hour is the last one before the deadline: whoever waits for it has none to spare."""
    one = quiet(price=(0.5, 0.4, 0.3, 0.2, 0.1, 0.02))

    def last_chips(checkpoint_s: float, restart_s: float) -> float:
        wanted = one.jobs[0]
        job = replace(wanted.job, checkpoint_every_s=checkpoint_s, restart_s=restart_s)
        plan = solve(replace(one, jobs=(replace(wanted, job=job),))).plan_of(job.id)
        assert plan is not None and plan.late_s == 0.0
        return sum(run.chips[-1] for run in plan.runs)

    assert last_chips(0.0, 0.0) > 0.9
    assert last_chips(3_600.0, 0.0) == last_chips(3_000.0, 600.0) == 0.0


def _battery():  # type: ignore[no-untyped-def]
    for seed in range(50):
        found = problem(seed, sites=1, jobs=1).sites[0].battery
        if found is not None:
            return found
    raise AssertionError("no case with a battery")


@settings(max_examples=effort(40), deadline=None)
@given(seed=seeds, export=st.booleans(), short=st.booleans())
def test_settled_flows_are_those_of_the_site_balance(seed: int, export: bool, short: bool) -> None:
    one = problem(seed, sites=2, jobs=0)
    sites = tuple(
        replace(
            s, battery=replace(_battery(), export=export, soc_min=0.1),
            grid_kw_max=tuple(0.3 * k if short else k for k in s.grid_kw_max),
        )
        for s in one.sites
    )  # fmt: skip
    frame = Frame(replace(one, sites=sites))
    rng = np.random.default_rng(seed)
    shape = frame.pue.shape
    load = rng.uniform(0.0, 6.0, shape)
    charge, discharge = rng.uniform(0.0, 2.5, (2, *shape)) * (rng.random((2, *shape)) < 0.6)
    flows = settle(frame, load, charge, discharge)
    for i, site in enumerate(sites):
        p, s, x, out = (
            np.zeros(1, d)[0] for d in (SUPPLY_DTYPE, STATE_DTYPE, OUTSIDE_DTYPE, OUT_DTYPE)
        )
        for name in (
            "kwh", "kw_max", "charge_efficiency", "discharge_efficiency",
            "self_discharge_per_h", "soc_min", "soc_max", "soc_reserve", "export",
        ):  # fmt: skip
            field = f"battery_{name}" if name in ("kwh", "kw_max", "export") else name
            p[field] = getattr(site.battery, name)
        p["export_kw_max"], p["battery_rule"] = site.export_kw_max, BY_PLAN
        s["battery_kwh"] = site.battery.held_kwh
        x["grid_up"] = 1.0
        for t, length_s in enumerate(one.step_s):
            p["grid_kw_max"] = site.grid_kw_max[t]
            x["pv_kw"], x["wind_kw"] = site.pv_kw[t], site.wind_kw[t]
            x["plan_charge_kw"], x["plan_discharge_kw"] = charge[i, t], discharge[i, t]
            supply_step(p, s, x, load[i, t], 0.0, length_s, out)
            for name in ("import_kw", "export_kw", "charge_kw", "discharge_kw", "curtailed_kw",
                         "unserved_kw", "battery_kwh"):  # fmt: skip
                assert getattr(flows, name)[i, t] == pytest.approx(float(out[name]), abs=1e-9)


@settings(max_examples=effort(20), deadline=None)
@given(seed=seeds)
def test_negative_prices_move_no_energy_in_a_circle(seed: int) -> None:
    one = problem(seed)
    sites = tuple(
        replace(s, price_usd_per_kwh=tuple(0.1 - x for x in s.price_usd_per_kwh)) for s in one.sites
    )
    one = replace(one, sites=sites)
    answer = solve(one)
    assert check(one, answer) == []
    for site in answer.sites:
        assert all(
            a == 0.0 or b == 0.0 for a, b in zip(site.charge_kw, site.discharge_kw, strict=True)
        )
    assert answer.costs.usd >= answer.bound_usd - 1e-4


def test_check_finds_what_is_wrong() -> None:
    one = next(p for p in map(problem, range(50)) if solve(p).jobs[0].runs)
    answer = solve(one)
    run = answer.jobs[0].runs[0]
    twice = replace(run, chips=tuple(c + 9.0 for c in run.chips))
    plan = replace(answer.jobs[0], runs=(twice, *answer.jobs[0].runs[1:]))
    found = " ".join(check(one, replace(answer, jobs=(plan, *answer.jobs[1:]))))
    assert "help" in found and "are free" in found and "its work draws" in found
    elsewhere = replace(one.jobs[0], sites=())
    moved = replace(one, jobs=(elsewhere, *one.jobs[1:]))
    assert check(moved, answer) == ["it answers another problem"]
    relabelled = replace(answer, problem=moved.digest())
    assert any("law" in text for text in check(moved, relabelled))
    plans = tuple(replace(s, import_kw=tuple(k + 1.0 for k in s.import_kw)) for s in answer.sites)
    assert any("kW in" in text for text in check(one, replace(answer, sites=plans)))


def test_the_axis_is_five_minutes_then_hours_over_two_days() -> None:
    steps = axis()
    assert steps[:24] == (300.0,) * 24 and set(steps[24:]) == {3600.0}
    assert sum(steps) == 48 * 3600.0

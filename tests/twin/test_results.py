"""What a result says is what the run was, however the fleet, the requests and the faults."""

from __future__ import annotations

import math
from pathlib import Path

import msgspec
import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import hanse
from effort import effort
from hanse.errors import ConfigError
from hanse.model.fleet import Fleet
from hanse.signals.traces import shipped_trace
from hanse.signals.traces.trace import Trace
from hanse.signals.traces.transform import window
from hanse.twin.inputs import Inputs, bootstrapped, fitted, read_inputs
from hanse.twin.residency import residency_of
from hanse.twin.result import Result
from hanse.twin.runs import run_inputs
from hanse.twin.scenario import Scenario
from hanse.twin.simulate import Simulation
from hanse.twin.summary import latency_return
from hanse.twin.tally import Tally
from twin.fleets import powered_fleet, random_faults, random_trace

LEAGUE = Path(__file__).parents[2] / "examples" / "league.toml"
BAD_EVENING = LEAGUE.with_name("bad-evening.toml")
SETTINGS = settings(
    max_examples=effort(20),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


def inputs_of(made: Fleet, trace: Trace, scenario: Scenario | None = None) -> Inputs:
    return Inputs(
        fleet=made,
        policies=(),
        trace=trace,
        scenario=scenario or Scenario(),
        scenario_dir=Path(),
        start_at_s=0.0,
        policy="shipped",
        seed=1,
        scale=1.0,
        notes=(),
    )


@pytest.fixture(scope="module")
def day(tmp_path_factory: pytest.TempPathFactory) -> tuple[Result, Path]:
    """The example league's day with the bad evening, and its requests."""
    path = tmp_path_factory.mktemp("day") / "requests.parquet"
    return hanse.simulate(LEAGUE, scenario=BAD_EVENING, requests=path), path


@SETTINGS
@given(seed=st.integers(0, 2**32 - 1), faults=st.integers(0, 5))
def test_a_result_adds_up(seed: int, faults: int) -> None:
    rng = np.random.default_rng(seed)
    made = powered_fleet(rng)
    trace = random_trace(made, rng, rate_rps=float(rng.choice([2.0, 20.0, 200.0])))
    faulty = random_faults(made, rng, trace.meta.duration_s, faults)
    result = run_inputs(inputs_of(made, trace, faulty))
    whole = result.group("all")
    assert whole.requests == trace.meta.count == result.run.requests
    for group in result.groups:
        ends = group.served + sum(group.refused.values()) + sum(group.failed.values())
        assert ends + group.broken == group.requests, group.name
        assert group.good <= group.served
    for kind in ("service", "class", "origin"):
        some = [g for g in result.groups if g.kind == kind]
        assert sum(g.requests for g in some) == whole.requests
        for reason, count in whole.refused.items():
            assert sum(g.refused.get(reason, 0) for g in some) == count
    assert sum(g.served for g in result.groups if g.kind == "site") == whole.served
    assert sum(map(sum, result.flows.served)) == whole.served
    assert sum(c.executed for c in result.residency.cells) == whole.served
    assert result.residency.unlawful == result.residency.unlawful_recount == 0
    assert all(cell.lawful for cell in result.residency.cells)


@SETTINGS
@given(seed=st.integers(0, 2**32 - 1), faults=st.integers(0, 5))
def test_energy_adds_up_to_the_meter(seed: int, faults: int) -> None:
    rng = np.random.default_rng(seed)
    made = powered_fleet(rng)
    trace = random_trace(made, rng, rate_rps=float(rng.choice([2.0, 20.0, 200.0])))
    faulty = random_faults(made, rng, trace.meta.duration_s, faults)
    result = run_inputs(inputs_of(made, trace, faulty))
    for site in (*result.sites, result.fleet):
        energy = site.energy
        assert abs(energy.difference_kwh) <= 1e-9 * energy.facility_kwh + 1e-12
        assert energy.wasted_kwh <= energy.prefill_kwh + energy.decode_kwh + 1e-12
        assert all(
            getattr(energy, f) >= -1e-12 for f in energy.__struct_fields__ if f != "difference_kwh"
        )
        for share in (site.busy_share, site.slots_share, site.ai_share):
            assert share is None or -1e-9 <= share <= 1.0 + 1e-9
    # Every joule of an engine is in the meters, the last ones too.
    spent = sum(s.energy.prefill_kwh + s.energy.decode_kwh for s in result.sites)
    answered_wh = result.group("all").energy_wh
    assert answered_wh <= 1e3 * spent * max((s.pue or 1.0) for s in result.sites) * 3.0 + 1e-9


def test_the_same_seed_gives_the_same_bytes() -> None:
    made = powered_fleet(np.random.default_rng(7))
    trace = random_trace(made, np.random.default_rng(8))
    one, two = (msgspec.json.encode(run_inputs(inputs_of(made, trace))) for _ in range(2))
    assert one == two


def test_a_result_survives_json(day: tuple[Result, Path]) -> None:
    result, _ = day
    assert msgspec.json.decode(msgspec.json.encode(result), type=Result) == result


def test_peaks_of_sites_are_never_less_than_that_of_all(day: tuple[Result, Path]) -> None:
    pooling = day[0].pooling
    assert pooling.slots_sites_max >= pooling.slots_fleet_max > 0.0
    assert pooling.demand_origins_rps_max >= pooling.demand_fleet_rps_max > 0.0


def test_the_course_is_the_run(day: tuple[Result, Path]) -> None:
    result, _ = day
    course, whole = result.course, result.group("all")
    arrived = sum(course.arrived_per_s) * course.step_s
    assert arrived == pytest.approx(whole.requests)
    lost = sum(course.unanswered_per_s) * course.step_s
    assert lost == pytest.approx(whole.requests - whole.served)
    for site in result.sites:
        kwh = sum(course.facility_kw[site.id]) * course.step_s / 3600.0
        assert kwh == pytest.approx(site.energy.facility_kwh)


def test_faults_stand_in_the_result_with_their_ends(day: tuple[Result, Path]) -> None:
    happened = {h.text: (h.at_s, h.until_s) for h in day[0].happened}
    assert happened["site_down lyon"] == (66_600.0, 68_400.0)
    assert happened["engine_kill frankfurt"] == (70_200.0, None)
    assert happened["carbon x 1.5"] == (68_400.0, 82_800.0)


def test_carbon_free_hours_are_as_many_as_the_run_has(day: tuple[Result, Path]) -> None:
    for site in day[0].sites:
        assert len(site.carbon_free_hourly) == 24
        assert all(h is None or 0.0 <= h <= 1.0 + 1e-9 for h in site.carbon_free_hourly)


def test_what_a_battery_lost_is_not_free(day: tuple[Result, Path]) -> None:
    """Tallinn imports nothing that day and lives on its battery: its answers still carry the grid's carbon."""
    tallinn = next(s for s in day[0].sites if s.id == "tallinn")
    assert tallinn.supply.import_kwh == 0.0
    assert tallinn.supply.battery_end_kwh < tallinn.supply.battery_start_kwh
    assert tallinn.g_per_answer is not None and tallinn.g_per_answer > 0.0


def test_what_a_battery_gained_is_not_credited() -> None:
    """By a June afternoon Frankfurt's array has filled the battery: carbon and money of an answer are not below nothing."""
    result = hanse.simulate(LEAGUE, start="2026-06-15T16:00Z")
    frankfurt = next(s for s in result.sites if s.id == "frankfurt")
    assert frankfurt.supply.battery_end_kwh > frankfurt.supply.battery_start_kwh
    assert all(s.g_per_answer is None or s.g_per_answer >= 0.0 for s in result.sites)
    assert all(s.usd_per_answer is None or s.usd_per_answer >= 0.0 for s in result.sites)


def test_rows_say_what_the_groups_say(day: tuple[Result, Path]) -> None:
    result, path = day
    table = pq.read_table(path)
    assert table.num_rows == result.run.requests
    rows = table.to_pylist()
    answered = [r for r in rows if r["outcome"] == "answered"]
    for site in result.sites:
        assert sum(r["site"] == site.id for r in answered) == site.served
    refused = [r["reason"] for r in rows if r["outcome"] == "refused"]
    assert {r: refused.count(r) for r in set(refused)} == result.group("all").refused
    mean = sum(r["ttft_ms"] for r in answered) / len(answered)
    assert mean == pytest.approx(result.group("all").ttft_ms.mean)
    exact = float(np.quantile([r["e2e_ms"] for r in answered], 0.95, method="inverted_cdf"))
    assert result.group("all").e2e_ms.p95 == pytest.approx(exact, rel=0.01)
    assert sum(r["cost_usd"] for r in answered) == pytest.approx(result.group("all").cost_usd)
    assert b"hanse.run" in table.schema.metadata


def test_egress_is_what_the_links_bill(day: tuple[Result, Path]) -> None:
    """Only ways to and from Virginia cost anything in the league: 0.05 USD a GB."""
    result, path = day
    rows = [r for r in pq.read_table(path).to_pylist() if r["outcome"] == "answered"]
    for site in result.sites:
        paid = [
            r
            for r in rows
            if r["site"] == site.id
            and r["entry"] != r["site"]
            and "virginia" in (r["site"], r["entry"])
        ]
        sent_bytes = sum(200.0 + 4.0 * r["tokens_in"] + 200.0 * r["tokens_out"] for r in paid)
        assert site.cost.egress_usd == pytest.approx(0.05 * sent_bytes / 1e9)
    assert result.fleet.cost.egress_usd > 0.0


def test_the_recount_finds_what_is_unlawful() -> None:
    """Health data of France at Frankfurt, which is not certified for it."""
    inputs = read_inputs(LEAGUE, trace=window(shipped_trace(), 0.0, 600.0))
    run = Simulation(inputs.fleet, inputs.trace)
    run.run()
    health = [c.id for c in inputs.fleet.classes].index("health")
    paris = [o.id for o in inputs.trace.meta.origins].index("paris")
    frankfurt = [s.id for s in inputs.fleet.sites].index("frankfurt")
    tally = Tally(run.world)
    tally.executed[health, paris, frankfurt] = 5
    tally.entered[health, paris, frankfurt] = 2
    found = residency_of(run, tally, run.table)
    assert found.unlawful == 0 and found.unlawful_recount == 7
    (cell,) = found.cells
    assert (cell.country, cell.site, cell.executed, cell.entered, cell.lawful) == (
        "FR",
        "frankfurt",
        5,
        2,
        False,
    )
    rules = {
        b.rules
        for b in found.barred
        if (b.data_class, b.country, b.site) == ("health", "FR", "frankfurt")
    }
    assert rules == {("FR-HDS",)} and "HDS" in found.rules["FR-HDS"]


def test_a_latency_return_is_of_what_was_paid(day: tuple[Result, Path]) -> None:
    """More waiting than the reference has a rate; less has none, and says so by its sign."""
    slow, _ = day
    fast = msgspec.structs.replace(
        slow,
        groups=tuple(
            msgspec.structs.replace(
                g, e2e_ms=msgspec.structs.replace(g.e2e_ms, mean=g.e2e_ms.mean - 10.0)
            )
            if g.kind == "all"
            else g
            for g in slow.groups
        ),
        fleet=msgspec.structs.replace(slow.fleet, wh_per_answer=slow.fleet.wh_per_answer + 0.5),
    )
    paid = latency_return(slow, fast)
    assert paid.added_e2e_ms == pytest.approx(10.0) and paid.saved_wh == pytest.approx(0.5)
    assert paid.wh_per_ms == pytest.approx(0.05) and paid.g_per_ms == 0.0
    back = latency_return(fast, slow)
    assert back.added_e2e_ms == pytest.approx(-10.0)
    assert back.wh_per_ms is back.g_per_ms is back.usd_per_ms is None


def bare(count: int = 3000) -> Trace:
    """A recording that says nothing but when and how long."""
    made = powered_fleet(np.random.default_rng(3))
    full = random_trace(made, np.random.default_rng(4), count=count)
    (chunk,) = full.chunks(count)
    requests = chunk.requests.copy()
    for column in ("service", "cls", "origin", "tenant", "session"):
        requests[column] = -1
    meta = msgspec.structs.replace(full.meta, services=(), classes=(), origins=(), tenants=())
    return Trace.of(meta, requests)


def test_a_trace_that_says_little_gets_what_it_lacks_and_says_so() -> None:
    made = read_inputs(LEAGUE).fleet
    trace, notes = fitted(bare(), made, 1)
    assert len(notes) == 3
    assert trace.meta.services == ("chat",)
    assert {o.country for o in trace.meta.origins} <= {"EE", "DE", "FR", "GB", "US"}
    (chunk,) = trace.chunks(10_000)
    for column in ("service", "cls", "origin"):
        assert chunk.requests[column].min() >= 0
    # Users live in large cities, not where the fleet has its sites.
    assert [o.id for o in trace.meta.origins[:2]] == ["London, GB", "New York City, US"]


def test_the_shipped_day_runs_on_any_fleet() -> None:
    """Of a fleet that does not know the league's services, classes and tenants it takes times and lengths only."""
    league = read_inputs(LEAGUE).fleet
    talk = msgspec.structs.replace(league.services[0], id="talk", aliases=())
    placements = [p for p in league.placements if p.service == "chat"]
    other = msgspec.structs.replace(
        league,
        services=(talk,),
        placements=tuple(msgspec.structs.replace(p, service="talk") for p in placements),
    )
    result = hanse.simulate(other, scale=0.05)
    assert result.run.requests > 500 and "example league" in result.notes[0]
    assert result.group("service", "talk").requests == result.run.requests
    assert "NOT_ALLOWED" not in result.group("all").refused
    assert hanse.simulate(LEAGUE, scale=0.01).notes == ()


def test_a_bootstrap_keeps_demand_and_changes_who_comes() -> None:
    recorded = bare()
    (before,) = recorded.chunks(10_000)
    draws = [next(bootstrapped(recorded, seed).chunks(100_000)).requests for seed in range(12)]
    counts = [len(d) for d in draws]
    # Poisson copies of 3,000 requests: the mean of twelve draws is within four of its standard errors.
    assert abs(np.mean(counts) - 3000.0) < 4.0 * math.sqrt(3000.0 / 12.0)
    assert len({d["tokens_in"].sum() for d in draws}) == len(draws)
    assert set(draws[0]["tokens_in"]) <= set(before.requests["tokens_in"])
    again = next(bootstrapped(recorded, 0).chunks(100_000)).requests
    assert np.array_equal(again, draws[0])


@pytest.mark.parametrize("start", ["tomorrow", "2026-07-01T06:30Z", "1969-01-01T00:00Z"])
def test_a_start_that_is_no_full_hour_is_refused(start: str) -> None:
    with pytest.raises(ConfigError, match="--start"):
        read_inputs(LEAGUE, start=start)


def test_names_of_another_fleet_are_refused_with_a_way_out() -> None:
    trace = bare()
    odd = Trace(msgspec.structs.replace(trace.meta, services=("vision",)), trace.chunks)
    with pytest.raises(ConfigError, match=r"vision.*hanse trace change"):
        read_inputs(LEAGUE, odd)
    odd = Trace(msgspec.structs.replace(trace.meta, tenants=("nobody",)), trace.chunks)
    with pytest.raises(ConfigError, match=r"nobody.*--tenants"):
        read_inputs(LEAGUE, odd)


def test_importing_hanse_imports_no_part_of_it() -> None:
    import subprocess
    import sys

    code = "import sys, hanse; print([m for m in sys.modules if m.startswith('hanse.')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    with pytest.raises(AttributeError, match="nothing"):
        hanse.nothing  # noqa: B018


STEPS = (
    "model,accelerator,count,precision,batch,input_tokens,prefill_ms,tpot_ms,ttft_ms_fixed\n"
    "SmolLM2-135M,x86-thread,1,q4_1,1,100,{prefill_ms},{tpot_ms},40\n"
)


def test_engines_take_the_steps_that_were_measured(tmp_path: Path) -> None:
    made = read_inputs(LEAGUE).fleet
    slow = tmp_path / "slow.csv"
    slow.write_text(STEPS.format(prefill_ms=900, tpot_ms=60))
    trace = window(shipped_trace(), 0.0, 3600.0)
    plain = hanse.simulate(made, trace=trace)
    found = hanse.simulate(made, trace=trace, measured=slow)
    said = [a for a in found.assumptions if "table slow" in a.method]
    assert said and "q4_1" in said[0].quantity and "lyon" in said[0].about
    assert not any("tallinn" in a.about for a in said), "it has q4_0, which the table has not"
    assert not any("table slow" in a.method for a in plain.assumptions)
    world = Simulation(made, trace, measured=read_inputs(made, measured=slow).measured).world
    fixed = {float(e["ttft_ms_fixed"]) for e in world.engines if e["ttft_ms_fixed"] == 40.0}
    assert fixed == {40.0}
    chat = [r.group("service", "chat").tpot_ms.p50 for r in (plain, found)]
    assert chat[1] > 2.0 * chat[0], chat


def test_a_result_says_where_a_fleet_file_is_what_makes_requests_too_long() -> None:
    league = read_inputs(LEAGUE).fleet
    changed = msgspec.structs.replace
    short = changed(
        league, placements=tuple(changed(p, context_tokens=256) for p in league.placements)
    )
    said = hanse.simulate(short, scale=0.01).notes[-1]
    assert "refused as too long" in said
    assert "hold 128 tokens at most" in said, "256 over the two slots of Tallinn"

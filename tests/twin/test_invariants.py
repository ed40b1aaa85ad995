"""What holds in every run, whatever goes wrong in it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from effort import effort
from hanse.twin import arrays as ar
from hanse.twin.simulate import Simulation
from twin.fleets import powered_fleet, random_faults, random_trace, simulated

SETTINGS = settings(
    max_examples=effort(30),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
seeds = st.integers(0, 2**32 - 1)


def run_of(seed: int, faults: int) -> Simulation:
    rng = np.random.default_rng(seed)
    made = powered_fleet(rng)
    trace = random_trace(made, rng, rate_rps=float(rng.choice([2.0, 20.0, 200.0])))
    return simulated(made, trace, random_faults(made, rng, trace.meta.duration_s, faults))


@SETTINGS
@given(seed=seeds, faults=st.integers(0, 6))
def test_every_request_is_served_refused_failed_or_broken_once(seed: int, faults: int) -> None:
    run = run_of(seed, faults)
    w = run.world
    ends = [ar.SUM_SERVED, ar.SUM_REFUSED, ar.SUM_FAILED, ar.SUM_BROKEN]
    assert w.sums[0, ends].sum() == run.trace.meta.count
    assert w.refused.sum() == w.sums[0, ar.SUM_REFUSED]
    assert w.flow.sum() == w.sums[0, ar.SUM_SERVED]
    q, c, s = len(run.fleet.services), len(run.fleet.classes), len(run.fleet.sites)
    for first, end in ((1, 1 + q), (1 + q, 1 + q + c), (1 + q + c + s, len(w.sums))):
        np.testing.assert_array_equal(w.sums[first:end, ends].sum(axis=0), w.sums[0, ends])
    assert w.hist[0, 0].sum() == w.sums[0, ar.SUM_SERVED]


@SETTINGS
@given(seed=seeds, faults=st.integers(0, 6))
def test_what_was_counted_in_is_counted_out(seed: int, faults: int) -> None:
    run = run_of(seed, faults)
    w = run.world
    assert int(w.clock[0]["attempts"]) == 0 and not w.attempts["stage"].any()
    for counts in (w.own, w.executing, w.site_load):
        for name in ("requests", "tokens", "prefill_tokens"):
            assert not counts[name].any(), name
    well = w.engines["mode"] == ar.IDLE
    for name in ("running", "prefilling", "kv_used", "context"):
        assert not w.engines[name][well].any(), name


@SETTINGS
@given(seed=seeds, faults=st.integers(0, 6))
def test_joules_are_conserved(seed: int, faults: int) -> None:
    run = run_of(seed, faults)
    engines = run.world.engines
    booked = engines["served_j"] + engines["wasted_j"]
    np.testing.assert_allclose(booked, engines["dynamic_j"], rtol=1e-9, atol=1e-6)
    assert (engines["dynamic_j"] >= 0.0).all()


@SETTINGS
@given(seed=seeds, faults=st.integers(0, 6))
def test_nothing_runs_where_the_law_forbids(seed: int, faults: int) -> None:
    run = run_of(seed, faults)
    assert int(run.world.clock[0]["unlawful"]) == 0


@SETTINGS
@given(seed=seeds, faults=st.integers(0, 6))
def test_no_battery_is_negative_and_no_flow_is(seed: int, faults: int) -> None:
    power = run_of(seed, faults).power
    assert (power.state["battery_kwh"] >= 0.0).all()
    for name in power.sums.dtype.names:
        if name.endswith(("_kwh", "_l")):
            assert (power.sums[name] >= -1e-9).all(), name


@SETTINGS
@given(seed=seeds, faults=st.integers(0, 6))
def test_no_answer_before_its_request(seed: int, faults: int) -> None:
    rng = np.random.default_rng(seed)
    made = powered_fleet(rng)
    trace = random_trace(made, rng)
    scenario = random_faults(made, rng, trace.meta.duration_s, faults)
    kept: list[np.ndarray] = []
    run = Simulation(made, trace, scenario=scenario, rows=lambda rows: kept.append(rows.copy()))
    run.run()
    rows = np.concatenate(kept) if kept else np.zeros(0, ar.ROW_DTYPE)
    assert len(rows) == trace.meta.count and len(set(rows["request"].tolist())) == len(rows)
    served = rows[rows["outcome"] == ar.ANSWERED]
    assert (served["ttft_ms"] > 0.0).all()
    assert (served["e2e_ms"] >= served["ttft_ms"]).all()
    assert (rows["e2e_ms"] >= 0.0).all()
    assert (served["user_rtt_ms"] <= served["ttft_ms"]).all()


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_same_run_gives_the_same_bytes(seed: int) -> None:
    one, two = run_of(seed, 4), run_of(seed, 4)
    for name in ("sums", "hist", "refused", "flow", "engines", "load_offers"):
        assert getattr(one.world, name).tobytes() == getattr(two.world, name).tobytes(), name
    assert one.power.sums.tobytes() == two.power.sums.tobytes()


def test_chunks_of_a_trace_change_nothing() -> None:
    rng = np.random.default_rng(5)
    made = powered_fleet(rng)
    trace = random_trace(made, rng, count=1000)
    whole = simulated(made, trace)
    pieces = Simulation(made, trace)
    chunks = trace.chunks
    trace.chunks = lambda size=0: chunks(37)  # type: ignore[method-assign]
    pieces.run()
    assert whole.world.sums.tobytes() == pieces.world.sums.tobytes()

"""Engines of a league that runs on one machine share its cores; others do not know of it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dispatch.fleets import fleet, site
from effort import effort
from hanse.model.fleet import Fleet
from hanse.signals.traces.trace import Origin, Trace, TraceMeta, empty_requests
from hanse.twin import arrays as ar
from hanse.twin.simulate import Machine, Simulation
from twin.fleets import powered_fleet, random_trace

SETTINGS = settings(
    max_examples=effort(8), deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
THREE = fleet((site("a"), site("b", "FR", lat_deg=45.0), site("c", "GB", lat_deg=55.0)))


def played(made: Fleet, trace: Trace, machine: Machine | None) -> tuple[np.ndarray, np.ndarray]:
    """(finished requests in their order, engines)."""
    rows: list[np.ndarray] = []
    run = Simulation(
        made, trace, policy="nearest", rows=lambda some: rows.append(some.copy()), machine=machine
    )
    run.run()
    found = np.concatenate(rows)
    return found[np.argsort(found["request"], kind="stable")], run.world.engines


def at_once(made: Fleet, sites: int, *, tokens_in: int = 500, tokens_out: int = 200) -> Trace:
    """One request from each of so many sites' cities, all at the same instant; each is served where it enters."""
    requests = empty_requests(sites)
    requests["at_s"] = 1.0
    requests["session"] = -1
    requests["origin"] = np.arange(sites)
    requests["tokens_in"], requests["tokens_out"] = tokens_in, tokens_out
    requests["tenant"] = 0
    meta = TraceMeta(
        name="made", source="a test", licence="none", services=(made.services[0].id,), classes=(made.classes[0].id,),
        origins=tuple(Origin(id=s.id, lat_deg=s.lat_deg, lon_deg=s.lon_deg, country=s.country) for s in made.sites),
        tenants=(made.tenants[0].id,), count=sites, duration_s=1.0,
    )  # fmt: skip
    return Trace.of(meta, requests)


@pytest.mark.parametrize("cores", [1.0, 2.0, 2.5])
def test_three_at_once_take_as_much_longer_as_cores_are_too_few(cores: float) -> None:
    trace = at_once(THREE, 3)
    free, engines = played(THREE, trace, None)
    shared, others = played(THREE, trace, Machine(cores=cores))
    busy = engines["busy_s"] > 0.0
    assert busy.sum() == 3, "one request at each engine"
    np.testing.assert_allclose(
        others["busy_s"][busy].sum() * cores / 3.0, engines["busy_s"][busy].sum(), rtol=0.02
    )
    np.testing.assert_allclose(others["cpu_s"], engines["cpu_s"], rtol=0.01)
    assert (shared["e2e_ms"] > free["e2e_ms"]).all()


def test_what_carries_tokens_takes_from_engines_that_write_and_not_from_those_that_read() -> None:
    machine = Machine(cores=3.0, token_cpu_s=0.002)
    writing, reading = at_once(THREE, 3, tokens_in=1), at_once(THREE, 3, tokens_out=1)
    for trace, slower in ((writing, True), (reading, False)):
        free, shared = played(THREE, trace, None)[0], played(THREE, trace, machine)[0]
        assert (shared["e2e_ms"] > 1.02 * free["e2e_ms"]).all() == slower


@SETTINGS
@given(seed=st.integers(0, 2**32 - 1))
def test_enough_cores_change_nothing_and_too_few_lose_nothing(seed: int) -> None:
    rng = np.random.default_rng(seed)
    made = powered_fleet(rng)
    trace = random_trace(made, rng, count=200, rate_rps=20.0)
    free, engines = played(made, trace, None)
    ample, others = played(made, trace, Machine(cores=10_000.0))
    for name in ("site", "outcome", "ttft_ms", "e2e_ms"):
        np.testing.assert_allclose(ample[name], free[name], rtol=1e-9)
    np.testing.assert_allclose(others["busy_s"], engines["busy_s"])
    scarce, few = played(made, trace, Machine(cores=0.7))
    assert len(scarce) == len(free), "every request ends"
    assert (few["demand"][few["mode"] == ar.IDLE] == 0.0).all() and (few["granted"] <= 1.0).all()
    assert (few["cpu_s"] <= few["busy_s"] + 1e-9).all()
    twice = played(made, trace, Machine(cores=0.7))[0]
    assert (twice == scarce).all(), "the same bytes again"

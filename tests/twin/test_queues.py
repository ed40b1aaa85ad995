"""The simulated engine against what queueing theory says in closed form."""

from __future__ import annotations

import math

import numpy as np
import pytest

from dispatch.fleets import fleet, service, site
from hanse.model.fleet import Fleet, Placement, Slo
from hanse.signals.traces.trace import REQUEST_DTYPE, Trace, TraceMeta
from hanse.twin import arrays as ar
from hanse.twin.handle import Handle
from hanse.twin.scenario import Fault, Scenario
from hanse.twin.simulate import Simulation

STEP_MS = 1.0


def one_engine(slots: int) -> Fleet:
    return fleet(
        (site("a"),),
        services=(service(slo=Slo(ttft_ms=1e9, tpot_ms=1e9, deadline_s=1e6)),),
        placements=(
            Placement(service="chat", variant="v0", site="a", pool="gpu", slots=slots, context_tokens=10**6),
        ),
    )  # fmt: skip


def run_of(slots: int, rate_rps: float, tokens: np.ndarray, seed: int) -> Simulation:
    """A step takes 1 ms whatever is in it, so a request of n tokens is served in n ms, and slots are servers."""
    rng = np.random.default_rng(seed)
    requests = np.zeros(len(tokens), REQUEST_DTYPE)
    requests["at_s"] = np.cumsum(rng.exponential(1.0 / rate_rps, len(tokens)))
    requests["tenant"] = requests["origin"] = -1
    requests["tokens_in"] = 1
    requests["tokens_out"] = tokens
    meta = TraceMeta(
        name="queue", source="a test", licence="none", services=("chat",), classes=("public",),
        duration_s=float(requests["at_s"][-1]) + 1.0,
    )  # fmt: skip
    no_new_tables = Scenario(faults=(Fault(kind="hub_loss", at_s=0.0),))
    run = Simulation(one_engine(slots), Trace.of(meta, requests), scenario=no_new_tables)
    w = run.world
    for name in ar.STEP_FIELDS:
        if name.endswith("_ms") or "_ms_" in name:
            w.engines[name] = 0.0
    w.engines["step_ms_fixed"] = STEP_MS
    w.engines["kv_max"] = 10**9
    w.engine_requests_max[:] = w.engine_tokens_max[:] = 1e12
    w.offers["requests_max"] = w.offers["tokens_max"] = w.offers["request_tokens_max"] = 1e12
    run.handle = Handle(w)
    run.run()
    return run


def waited_ms(run: Simulation, tokens: np.ndarray) -> float:
    """Mean time between arrival and the start of service: E2E less service, user's way and half a step to its boundary."""
    sums = run.world.sums[0]
    assert sums[ar.SUM_SERVED] == len(tokens)
    return float(sums[ar.SUM_E2E_MS] / len(tokens) - tokens.mean() * STEP_MS - 10.0)


@pytest.mark.parametrize("load", [0.3, 0.6, 0.8])
def test_one_slot_waits_as_m_g_1_says(load: float) -> None:
    """Pollaczek-Khinchine: W = rate E[S^2] / (2 (1 - load)); geometric lengths are M/M/1, constant ones M/D/1."""
    rng = np.random.default_rng(11)
    for tokens in (rng.geometric(1 / 200, 100_000), np.full(100_000, 200)):
        rate_rps = load / (tokens.mean() * STEP_MS / 1000.0)
        found = waited_ms(run_of(1, rate_rps, tokens, 12), tokens)
        second = float((tokens.astype(float) ** 2).mean()) * STEP_MS**2
        expected = rate_rps / 1000.0 * second / (2.0 * (1.0 - load))
        assert found == pytest.approx(expected, rel=0.08, abs=0.6 * STEP_MS)


@pytest.mark.parametrize("slots", [2, 8])
def test_many_slots_wait_as_m_m_c_says(slots: int) -> None:
    """Erlang C; the batch of c slots is c servers where steps do not depend on the batch."""
    load = 0.85
    rng = np.random.default_rng(21)
    tokens = rng.geometric(1 / 200, 300_000)
    service_s = tokens.mean() * STEP_MS / 1000.0
    rate_rps = load * slots / service_s
    found = waited_ms(run_of(slots, rate_rps, tokens, 22), tokens)
    offered = rate_rps * service_s
    below = sum(offered**k / math.factorial(k) for k in range(slots))
    top = offered**slots / math.factorial(slots) / (1.0 - load)
    expected = top / (below + top) / (slots / service_s - rate_rps) * 1000.0
    assert found == pytest.approx(expected, rel=0.08, abs=0.6 * STEP_MS)

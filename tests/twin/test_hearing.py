"""What a simulated gateway knows of others' load, and when: own counts, heads of answers, users' limits."""

from __future__ import annotations

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numba import njit

from dispatch.fleets import fleet, site
from effort import effort
from hanse.model.fleet import Fleet
from hanse.signals.traces.trace import Origin, Requests, Trace, TraceMeta, empty_requests
from hanse.twin import hearing
from hanse.twin.simulate import Simulation
from twin.fleets import powered_fleet, random_trace

SETTINGS = settings(
    max_examples=effort(8), deadline=None, suppress_health_check=[HealthCheck.too_slow]
)


@njit(_nrt=False)
def hear_all(w, t):  # type: ignore[no-untyped-def]
    for g in range(w.site_up.shape[0]):
        for s in range(w.site_up.shape[0]):
            if s != g:
                hearing.hear(w, g, s, t)


def rows(made: Fleet, trace: Trace, *, eager_s: float = 0.0) -> np.ndarray:
    """Finished requests; `eager_s`: every gateway takes in all frames so often, asked or not."""
    found: list[np.ndarray] = []
    run = Simulation(made, trace, rows=lambda some: found.append(some.copy()))

    def look(now_s: float) -> None:
        hear_all(run.handle, now_s)
        run.at(now_s + eager_s, look)

    if eager_s:
        run.at(eager_s, look)
    run.run()
    done = np.concatenate(found)
    return done[np.argsort(done["request"], kind="stable")]


@SETTINGS
@given(seed=st.integers(0, 2**32 - 1))
def test_a_frame_counts_from_when_it_came_and_not_from_when_somebody_looked(seed: int) -> None:
    """Own requests that ended between a frame's coming and the next choice are not seen there for ever."""
    rng = np.random.default_rng(seed)
    made = powered_fleet(rng)
    trace = random_trace(made, rng, count=60, rate_rps=3.0)
    asked, eager = rows(made, trace), rows(made, trace, eager_s=0.05)
    # Corrections are forgotten in more, smaller steps where frames are looked at more often: no bit is the same, few choices differ.
    assert (asked["site"] == eager["site"]).mean() >= 0.9


TWO = fleet((site("a"), site("b", "FR", lat_deg=45.0)))


def trace_of(count: int, **columns: object) -> Trace:
    """`count` requests of the first service and class, a quarter of a second apart, from the first site's city."""
    requests: Requests = empty_requests(count)
    requests["at_s"] = 2.0 + 0.25 * np.arange(count)
    requests["session"] = -1
    requests["tenant"] = 0
    requests["tokens_in"], requests["tokens_out"] = 40, 40
    for name, values in columns.items():
        requests[name] = values
    meta = TraceMeta(
        name="made", source="a test", licence="none", services=(TWO.services[0].id,), classes=(TWO.classes[0].id,),
        origins=(Origin(id="here", lat_deg=TWO.sites[0].lat_deg, lon_deg=TWO.sites[0].lon_deg, country="DE"),),
        tenants=(TWO.tenants[0].id,), count=count, duration_s=float(requests["at_s"][-1]),
    )  # fmt: skip
    return Trace.of(meta, requests)


def test_the_head_of_an_answer_tells_what_was_there_when_it_began() -> None:
    far = rows(TWO, trace_of(2))[1]
    entry, at, o = int(far["entry"]), int(far["site"]), int(far["offer"])
    assert entry != at, "the first one's site is busy with it"
    found: list[tuple[float, float, float]] = []
    run = Simulation(TWO, trace_of(2))

    def look(now_s: float) -> None:
        row, told = run.world.load_offers[entry, o], run.world.load_sites[entry, at]
        found.append((now_s, float(row["requests"]), float(told["sampled_at_s"])))
        run.at(now_s + 0.001, look)

    run.at(2.0, look)
    run.run()
    now_s, requests, sampled_at_s = next(one for one in found if one[1] > 0.0)
    began_s = far["at_s"] + 0.001 * far["user_rtt_ms"]
    assert requests == 1.0 and now_s < began_s + 0.001 * far["ttft_ms"] + 0.002
    assert sampled_at_s < began_s, "no frame of its own could say so yet"


def test_a_users_limit_and_a_gateways_guess_are_what_it_decides_by() -> None:
    free, limited = (rows(TWO, trace_of(1, limit_out=limit)) for limit in (0, 4))
    longer = rows(TWO, trace_of(1, limit_out=4, guess_in=400))
    assert limited["e2e_ms_predicted"] < free["e2e_ms_predicted"]
    assert longer["ttft_ms_predicted"] > limited["ttft_ms_predicted"]
    assert free["ttft_ms"] == limited["ttft_ms"], "the engine reads and writes what it did"
    assert limited["tokens_out"] == 40

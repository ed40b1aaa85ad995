"""KV memory in blocks: what is shared counts once, what is free is found again until its room is needed."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dispatch.fleets import fleet, service, site
from effort import effort
from hanse.model.fleet import Fleet, Placement, Slo
from hanse.signals.traces.trace import REQUEST_DTYPE, Trace, TraceMeta
from hanse.twin import arrays as ar
from hanse.twin import blocks as kernels
from hanse.twin.simulate import Simulation
from twin.fleets import powered_fleet, random_faults, random_trace, simulated

BLOCK = 16


def one_engine(slots: int = 8, context_tokens: int = 4096) -> Fleet:
    return fleet(
        (site("a"),),
        services=(service(slo=Slo(ttft_ms=1e6, tpot_ms=1e6, deadline_s=600.0)),),
        placements=(
            Placement(
                service="chat", variant="v0", site="a", pool="gpu", slots=slots, context_tokens=context_tokens,
            ),
        ),
    )  # fmt: skip


def trace_of(asks: list[tuple[float, int, int, list[int]]]) -> Trace:
    """Requests of (instant, tokens in, tokens out, block ids)."""
    requests = np.zeros(len(asks), REQUEST_DTYPE)
    requests["tenant"] = requests["origin"] = -1
    for row, (at_s, tokens_in, tokens_out, ids) in zip(requests, asks, strict=True):
        row["at_s"], row["tokens_in"], row["tokens_out"] = at_s, tokens_in, tokens_out
        row["block_count"] = len(ids)
    requests["block_at"] = np.cumsum(requests["block_count"]) - requests["block_count"]
    meta = TraceMeta(
        name="blocks", source="a test", licence="none", services=("chat",), classes=("public",),
        duration_s=asks[-1][0] + 100.0, block_tokens=BLOCK,
    )  # fmt: skip
    return Trace.of(meta, requests, np.array([i for ask in asks for i in ask[3]], np.int64))


def ring(w: Any, e: int) -> list[int]:
    """Block ids that nobody holds, the oldest first."""
    found, at = [], int(w.kv_blocks[e, 0]["newer"])
    while at != 0:
        found.append(int(w.kv_blocks[e, at]["block"]))
        at = int(w.kv_blocks[e, at]["newer"])
    return found


@given(
    events=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3), st.integers(1, 12)), max_size=60),
    most=st.integers(1, 40),
)  # fmt: skip
@settings(
    max_examples=effort(60),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
def test_blocks_are_what_a_counted_dictionary_says(
    events: list[tuple[int, int, int]], most: int
) -> None:
    """Six requests come and go, each the beginning of one of four texts, against dictionaries."""
    run = Simulation(one_engine(), trace_of([(0.0, 16, 16, [1])]))
    w, h = run.world, run.handle
    w.engines["kv_max"] = most * BLOCK
    holders: dict[int, int] = {}
    idle: OrderedDict[int, None] = OrderedDict()
    held: dict[int, list[int]] = {}
    for a, text, count in events:
        ids = [text * 100 + i for i in range(count)]
        if a in held:
            for block in reversed(held.pop(a)):
                holders[block] -= 1
                if holders[block] == 0:
                    del holders[block]
                    idle[block] = None
            tokens = int(w.attempts[a]["tokens_in"])
            still = kernels.let_go(h, 0, a, tokens, tokens)
            w.engines["kv_used"][0] -= tokens - still
        else:
            if len(holders) + len([i for i in ids if i not in holders]) > most:
                continue
            w.blocks[a * 100 : a * 100 + count] = ids
            row = w.attempts[a]
            row["block_at"], row["block_count"], row["tokens_in"] = a * 100, count, count * BLOCK
            found, shared = kernels.look(h, 0, a, count * BLOCK)
            known = [i in holders or i in idle for i in ids]
            assert found == min([*known, False].index(False), count - 1) * BLOCK
            assert shared == sum(i in holders for i in ids) * BLOCK
            kernels.hold(h, 0, a, count * BLOCK)
            w.engines["kv_used"][0] += count * BLOCK - shared
            for block in ids:
                idle.pop(block, None)
                holders[block] = holders.get(block, 0) + 1
            held[a] = ids
        while len(holders) + len(idle) > most:
            idle.popitem(last=False)
        kernels.trim(h, 0)
        assert ring(w, 0) == list(idle) and int(w.engines["blocks_idle"][0]) == len(idle)
        assert int(w.engines["kv_used"][0]) == len(holders) * BLOCK


def at_once(asks: list[tuple[float, int, int, list[int]]]) -> tuple[Simulation, int]:
    """A run of requests at an engine of 2,400 tokens, and how many of them ran at once after a second."""
    run = Simulation(one_engine(), trace_of(asks))
    w = run.world
    w.engines["kv_max"], w.engines["speed"] = 2400, 0.2
    w.offers["request_tokens_max"] = w.offers["tokens_max"] = 1e9
    w.engine_tokens_max[:] = 1e9
    seen: list[int] = []
    run.at(1.0, lambda _: seen.append(int(w.engines["running"][0])))
    run.run()
    return run, seen[0]


def test_what_requests_share_takes_room_once() -> None:
    """Four answers to one prompt of 1,600 tokens run at once in a memory of 2,400, each block of it read once."""
    prompt = list(range(100))
    asks = [(0.0, 1600, 64, [*prompt, *range(1000 * i, 1000 * i + 4)]) for i in range(1, 5)]
    run, most = at_once(asks)
    assert most == 4 and run.world.sums[0, ar.SUM_SERVED] == 4
    # The prompt's last token is computed for each: its block is not found by the others.
    assert run.world.sums[0, ar.SUM_CACHED] == 3 * 99 * BLOCK
    assert run.world.engines["preempted"][0] == 0


def test_the_same_prompts_without_common_blocks_wait_for_each_other() -> None:
    asks = [(0.0, 1600, 64, list(range(1000 * i, 1000 * i + 104))) for i in range(1, 5)]
    run, most = at_once(asks)
    assert most == 1 and run.world.sums[0, ar.SUM_CACHED] == 0


@given(seed=st.integers(0, 2**32 - 1), faults=st.integers(0, 6), texts=st.integers(1, 40))
@settings(
    max_examples=effort(30),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
def test_nobody_holds_anything_after_everything_ended(seed: int, faults: int, texts: int) -> None:
    rng = np.random.default_rng(seed)
    made = powered_fleet(rng)
    rate_rps = float(rng.choice([20.0, 200.0]))
    trace = random_trace(made, rng, rate_rps=rate_rps, texts=texts)
    run = simulated(made, trace, random_faults(made, rng, trace.meta.duration_s, faults))
    w = run.world
    ends = [ar.SUM_SERVED, ar.SUM_REFUSED, ar.SUM_FAILED, ar.SUM_BROKEN]
    assert w.sums[0, ends].sum() == trace.meta.count
    assert w.sums[0, ar.SUM_CACHED] <= w.sums[0, ar.SUM_TOKENS_IN]
    for e in np.flatnonzero(w.engines["mode"] == ar.IDLE).tolist():
        engine = w.engines[e]
        assert engine["kv_used"] == 0 and engine["running"] == 0
        assert not w.kv_blocks[e, 1 : engine["blocks_made"] + 1]["holders"].any()
        known = ring(w, e)
        assert len(known) == engine["blocks_idle"] == len(set(known))
        assert len(known) * BLOCK <= engine["kv_max"]

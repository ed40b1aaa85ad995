"""Choosing an engine at a site: never one without room, always the one at which a request costs all together least."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from dispatch.fleets import fleet, site, table_of
from effort import effort
from hanse.dispatch import choose as kernels
from hanse.dispatch.load import OWN_DTYPE
from hanse.dispatch.reasons import Reason
from hanse.dispatch.router import choose_engine

seeds = st.integers(0, 2**32 - 1)


def test_the_replica_with_least_requests_is_taken_among_those_alive_with_room() -> None:
    offers = np.array([0, 0, 0, 1, 0])
    states = np.array([1, 1, 0, 1, 1])
    executing = np.zeros((2, 5), OWN_DTYPE)
    executing["requests"] = [[1, 0, 0, 0, 0], [0, 1, 0, 0, 1]]
    limits = np.full(5, 2.0), np.full(5, 1e4)
    records = np.concatenate([table_of(fleet((site("a"),))).offers[:1]] * 8)

    def choice(offer: int, tokens: int = 1) -> int:
        return choose_engine(
            offers, *limits, states, executing, offers=records, offer=offer, tokens_in=tokens, tokens_out=1
        )  # fmt: skip

    assert choice(0) == 0, "three have one request each; the lowest"
    executing["requests"][0, 0] = 2
    assert choice(0) == 1
    assert choice(1) == 3
    assert choice(7) == Reason.DEAD
    assert choice(0, tokens=20_000) == Reason.ROOM
    executing["requests"] = 2
    assert choice(0) == Reason.ROOM
    states[:] = 0
    assert choice(0) == Reason.DEAD


def engines_of(seed: int, held: list[tuple[int, int]]) -> tuple[Any, ...]:
    """Some engines of two offers, and which of them hold how much of a prompt, as look-ups give it."""
    rng = np.random.default_rng(seed)
    engines = int(rng.integers(1, 7))
    offer = rng.integers(0, 2, engines)
    states = (rng.random(engines) < 0.8).astype(np.int64)
    executing = np.zeros((2, engines), OWN_DTYPE)
    executing["requests"] = rng.integers(0, 18, executing.shape)
    executing["tokens"] = 10 * executing["requests"]
    executing["prefill_tokens"] = rng.integers(0, 400, executing.shape)
    tokens_max = np.full(engines, float(rng.choice([200.0, 1e6])))
    known = np.full((4, 2), -1, np.int64)
    for i, (engine, tokens) in enumerate({e: t for e, t in held if e >= 0}.items()):
        known[i] = engine, tokens
    table = table_of(fleet((site("a"),)))
    records = np.concatenate([table.offers[:1]] * 2)
    return (offer, np.full(engines, 32.0), tokens_max, states, executing, records), known


holdings = st.lists(st.tuples(st.integers(-1, 6), st.integers(0, 500)), min_size=4, max_size=4)


@given(seed=seeds, held=holdings, tokens_in=st.integers(1, 1000))
@settings(max_examples=effort(100))
def test_no_engine_with_room_would_cost_all_together_less(
    seed: int, held: list[tuple[int, int]], tokens_in: int
) -> None:
    arrays, known = engines_of(seed, held)
    offer, most, tokens_max, states, executing, records = arrays
    asked = float(tokens_in), 50.0
    found = kernels.choose_engine(*arrays, 0, *asked, known)
    sums = {name: executing[name].sum(axis=0).astype(float) for name in executing.dtype.names}
    has = {int(e): float(t) for e, t in known if e >= 0}
    here = [e for e in range(len(offer)) if offer[e] == 0 and states[e] == 1]
    room = [
        e
        for e in here
        if sums["requests"][e] + 1 <= most[e] and sums["tokens"][e] + sum(asked) <= tokens_max[e]
    ]
    if not room:
        assert found == (Reason.ROOM if here else Reason.DEAD)
        return
    cost = {
        e: kernels.added_ms(
            records[0], sums["requests"][e], sums["tokens"][e], sums["prefill_tokens"][e],
            tokens_max[e] / 4.0, *asked, max(asked[0] - has.get(e, 0.0), 1.0),
        )
        for e in room
    }  # fmt: skip
    assert found == min(room, key=lambda e: (cost[e], e))


@given(seed=seeds, held=holdings, engine=st.integers(0, 6), more=st.integers(1, 500))
@settings(max_examples=effort(100))
def test_holding_more_never_loses_a_request(
    seed: int, held: list[tuple[int, int]], engine: int, more: int
) -> None:
    arrays, known = engines_of(seed, held)
    found = kernels.choose_engine(*arrays, 0, 600.0, 50.0, known)
    at = [i for i in range(4) if known[i, 0] in (engine, -1)]
    if found == engine and at:
        known[at[0]] = engine, max(known[at[0], 1], 0) + more
        assert kernels.choose_engine(*arrays, 0, 600.0, 50.0, known) == engine


def test_of_equal_engines_the_holder_and_of_equal_holders_the_idler() -> None:
    arrays, known = engines_of(1, [])
    offer, _, tokens_max, states, executing, _ = arrays
    offer[:], states[:], executing[:], tokens_max[:] = 0, 1, 0, 1e6
    last = len(offer) - 1
    assert kernels.choose_engine(*arrays, 0, 600.0, 50.0, known) == 0
    known[0] = last, 600
    assert kernels.choose_engine(*arrays, 0, 600.0, 50.0, known) == last
    executing["requests"][0, last] = 30
    assert kernels.choose_engine(*arrays, 0, 600.0, 50.0, known) != last, (
        "worth a wait, not any wait"
    )
    assert kernels.least_requests(*arrays[:5], 0, 650.0) == 0

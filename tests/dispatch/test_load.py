"""Load: every request counted once, age kept, corrections bounded, no herd."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dispatch.fleets import NOW_S, fleet, site, table_of
from effort import effort
from hanse.dispatch.load import (
    FACTOR_MAX,
    FACTOR_MEMORY_S,
    FACTOR_MIN,
    FACTOR_SHARE,
    OWN_DTYPE,
    PEERS_RATIO_MAX,
    TPOT_RATIO_SURE,
    TTFT_RATIO_SURE,
    Load,
    Ticket,
)
from hanse.dispatch.router import Predicted, Router
from hanse.dispatch.table import Table
from hanse.model.fleet import Link

TABLE = table_of(fleet((site("a"), site("b"), site("c"))))


def begun(load: Load) -> dict[str, int]:
    return {name: int(load.own[name].sum()) for name in OWN_DTYPE.names or ()}


@given(
    st.lists(
        st.tuples(
            st.integers(0, 2),
            st.integers(0, 5000),
            st.integers(0, 5000),
            st.permutations(["first", "first", "end", "end", "first"]),
        ),
        max_size=12,
    ),
    st.randoms(use_true_random=False),
)
def test_counts_return_to_zero_however_requests_end(
    requests: list[tuple[int, int, int, list[str]]], random: Any
) -> None:
    """Steps of all requests are interleaved; cancel, error and time-out are an `end` without a first byte."""
    load = Load(TABLE)
    steps = [(i, step) for i, (_, _, _, steps) in enumerate(requests) for step in ["begin", *steps]]
    random.shuffle(steps)
    # A request's own steps keep their order.
    queues = {i: iter(["begin", *requests[i][3]]) for i in range(len(requests))}
    tickets: dict[int, Ticket] = {}
    for i, _ in steps:
        offer, tokens_in, tokens_out, _ = requests[i]
        step = next(queues[i])
        if step == "begin":
            tickets[i] = load.begin(offer, tokens_in, tokens_out, NOW_S)
        elif step == "first":
            load.first_byte(tickets[i])
        else:
            load.end(tickets[i])
        for name in OWN_DTYPE.names or ():
            assert load.own[name].min() >= 0
        assert begun(load)["requests"] == sum(t.running for t in tickets.values())
    for ticket in tickets.values():
        load.end(ticket)
    assert begun(load) == {"requests": 0, "tokens": 0, "prefill_tokens": 0}


def test_workers_share_rows_and_each_writes_its_own() -> None:
    own = np.zeros((2, len(TABLE.offers)), OWN_DTYPE)
    one, two = Load(TABLE, own=own, worker=0), Load(TABLE, own=own, worker=1)
    ticket = one.begin(0, 100, 50, NOW_S)
    two.begin(0, 10, 5, NOW_S)
    assert own["requests"][:, 0].tolist() == [1, 1]
    assert own["tokens"][:, 0].tolist() == [150, 15]
    one.end(ticket)
    assert own["tokens"][:, 0].tolist() == [0, 15]


def frame(load: Load, s: int, now_s: float, *figures: float, age_s: float = 0.0) -> bool:
    replicas, requests, tokens, prefill, rate = (*figures, 0.0, 0.0, 0.0, 0.0)[:5]
    return load.heard(
        s,
        now_s,
        age_s=age_s,
        power_ok=True,
        offers=[(s, replicas, requests, tokens, prefill, rate)],
    )


def known_requests(load: Load, offer: int) -> float:
    """What the kernel takes an offer's requests to be."""
    for s in range(3):
        if load.sites[s]["sampled_at_s"] < NOW_S:
            frame(load, s, NOW_S, 1.0)
    router = Router(TABLE, load, 0)
    tried = [o for o in range(3) if o != offer]
    found = router.route(
        0,
        1,
        tokens_in=10,
        tokens_out=10,
        deadline_ms=6e4,
        body_bytes=10,
        now_s=NOW_S,
        tried=tried,
    )
    assert found == offer
    return router.predicted().requests


def test_load_is_what_was_heard_plus_own_change_since() -> None:
    load = Load(TABLE)
    before = [load.begin(1, 10, 10, NOW_S) for _ in range(3)]
    frame(load, 1, NOW_S, 1.0, 10.0)
    assert known_requests(load, 1) == 10.0, "the three were in the sample"
    more = [load.begin(1, 10, 10, NOW_S) for _ in range(2)]
    assert known_requests(load, 1) == 12.0
    for ticket in (*before, *more):
        load.end(ticket)
    assert known_requests(load, 1) == 7.0


def test_load_is_never_less_than_our_own() -> None:
    load = Load(TABLE)
    for _ in range(4):
        load.begin(1, 10, 10, NOW_S)
    frame(load, 1, NOW_S, 1.0, 0.0)
    assert known_requests(load, 1) == 4.0, "the sample was taken before ours arrived there"


def test_an_older_sample_than_the_known_one_changes_nothing() -> None:
    load = Load(TABLE)
    assert frame(load, 1, NOW_S, 1.0, 5.0)
    assert not frame(load, 1, NOW_S + 0.3, 1.0, 9.0, age_s=0.5)
    assert load.offers[1]["requests"] == 5.0
    assert frame(load, 1, NOW_S + 0.3, 1.0, 9.0, age_s=0.1)
    assert load.offers[1]["requests"] == 9.0
    assert load.sites[1]["sampled_at_s"] == pytest.approx(NOW_S + 0.2)


def test_offers_that_a_frame_does_not_name_have_no_replica_alive() -> None:
    load = Load(TABLE)
    frame(load, 1, NOW_S, 2.0)
    assert load.offers[1]["replicas"] == 2.0
    load.heard(1, NOW_S + 1.0, age_s=0.0, power_ok=True, offers=[])
    assert load.offers[1]["replicas"] == 0.0


def prediction(ttft_ms: float, tpot_ms: float, path_ms: float = 20.0) -> Predicted:
    rest = dict.fromkeys(
        ("e2e_ms", "wh", "g", "usd", "cost_usd", "requests", "tokens", "prefill_tokens"), 0.0
    )
    return Predicted(
        ttft_ms=ttft_ms,
        tpot_ms=tpot_ms,
        path_ms=path_ms,
        slo_missed=False,
        cached_tokens=0.0,
        batch=1.0,
        **rest,
    )


def observe(load: Load, ttft_ms: float, tpot_ms: float, times: int) -> None:
    """A replica whose engine takes so long, whatever is predicted for it."""
    for _ in range(times):
        row = load.offers[0]
        predicted = prediction(20.0 + 100.0 * row["ttft_factor"], 10.0 * row["tpot_factor"])
        load.observed(0, predicted, ttft_ms=20.0 + ttft_ms, tpot_ms=tpot_ms)


def test_corrections_follow_what_is_observed_without_the_path() -> None:
    load = Load(TABLE)
    observe(load, 300.0, 15.0, 2000)
    assert load.offers[0]["ttft_factor"] == pytest.approx(3.0, rel=1e-3)
    assert load.offers[0]["tpot_factor"] == pytest.approx(1.5, rel=1e-3)
    assert load.offers[1]["ttft_factor"] == 1.0


def test_ten_answers_in_a_row_hardly_move_a_factor() -> None:
    """They may all tell of the same busy ten seconds that are over now."""
    load = Load(TABLE)
    observe(load, 300.0, 20.0, 10)
    assert 1.0 < load.offers[0]["ttft_factor"] < 1.0 + 2.0 * 10 * FACTOR_SHARE
    assert 1.0 < load.offers[0]["tpot_factor"] < 1.0 + 1.0 * 10 * FACTOR_SHARE


def test_an_error_that_no_load_explains_counts_at_once() -> None:
    load = Load(TABLE)
    observe(load, 100.0 * 2 * TTFT_RATIO_SURE, 10.0 * 2 * TPOT_RATIO_SURE, 10)
    # A tenth at a time until what is left is within what load explains.
    assert load.offers[0]["ttft_factor"] > 2.0
    assert load.offers[0]["tpot_factor"] > 2.0


def test_an_offer_in_use_forgets_nothing() -> None:
    load = Load(TABLE)
    load.offers["ttft_factor"][1] = 3.0
    ticket = load.begin(1, 10, 10, NOW_S)
    frame(load, 1, NOW_S, 1.0)
    frame(load, 1, NOW_S + FACTOR_MEMORY_S, 1.0)
    assert load.offers["ttft_factor"][1] == 3.0
    load.end(ticket)
    frame(load, 1, NOW_S + 2 * FACTOR_MEMORY_S, 1.0)
    assert load.offers["ttft_factor"][1] == 1.0


@given(st.lists(st.tuples(st.floats(0, 1e9), st.floats(0, 1e9)), max_size=60))
def test_corrections_stay_within_bounds(seen: list[tuple[float, float]]) -> None:
    load = Load(TABLE)
    for ttft_ms, tpot_ms in seen:
        load.observed(0, prediction(50.0, 10.0), ttft_ms=ttft_ms, tpot_ms=tpot_ms)
        assert FACTOR_MIN <= load.offers[0]["ttft_factor"] <= FACTOR_MAX
        assert FACTOR_MIN <= load.offers[0]["tpot_factor"] <= FACTOR_MAX


def test_an_unused_offer_is_tried_again_after_a_minute_or_two() -> None:
    load = Load(TABLE)
    load.offers["ttft_factor"][1] = FACTOR_MAX
    now_s = NOW_S
    frame(load, 1, now_s, 1.0)
    while now_s < NOW_S + 3 * FACTOR_MEMORY_S:
        now_s += 0.5
        frame(load, 1, now_s, 1.0)
    assert 1.0 <= load.offers["ttft_factor"][1] < 1.0 + (FACTOR_MAX - 1.0) * 0.06


def test_a_new_table_is_adopted_only_if_indices_keep_their_meaning() -> None:
    load = Load(TABLE, offers_max=8)
    assert load.adopt(table_of(fleet((site("a"), site("b"), site("c")))))
    assert not load.adopt(table_of(fleet((site("b"), site("a"), site("c")))))
    assert not load.adopt(table_of(fleet((site("a"), site("b")))))


def test_how_busy_peers_are_is_bounded_and_comes_from_arrivals() -> None:
    load = Load(TABLE)
    for s in range(3):
        frame(load, s, NOW_S, 1.0, 0.0, 0.0, 0.0, 20.0)
    assert load.services[0]["heard_rps"] == pytest.approx(60.0)
    for i in range(40):  # 10 a second of our own
        load.begin(0, 1, 1, NOW_S + i * 0.1)
    assert load.services[0]["peers_ratio"] == pytest.approx(5.0, rel=0.1)
    quiet = Load(TABLE)
    frame(quiet, 0, NOW_S, 1.0, 0.0, 0.0, 0.0, 1e6)
    quiet.begin(0, 1, 1, NOW_S)
    assert quiet.services[0]["peers_ratio"] == PEERS_RATIO_MAX


# --- herding: several gateways, stale figures, equal sites

GATEWAYS, SITES = 8, 10


def league() -> Table:
    servers = tuple(site(f"s{i}") for i in range(SITES))
    gates = tuple(site(f"g{i}", pools=()) for i in range(GATEWAYS))
    links = tuple(Link(a=g.id, b=s.id, rtt_ms=10.0, mbit_s=1000.0) for g in gates for s in servers)
    return table_of(fleet(servers + gates, links=links))


class Herd:
    """8 gateways with loads of their own, 10 equal sites, frames at 2 Hz that take 5 ms."""

    def __init__(self, table: Table, rule: str, rng: np.random.Generator) -> None:
        self.rule, self.rng = rule, rng
        self.loads = [Load(table) for _ in range(GATEWAYS)]
        self.routers = [Router(table, load, SITES + g) for g, load in enumerate(self.loads)]
        self.true = np.zeros(SITES)
        self.arrivals: list[list[float]] = [[] for _ in range(SITES)]
        self.queue: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self.serial = 0
        self.ratios: list[float] = []

    def at(self, when_s: float, what: Callable[..., None], *args: Any) -> None:
        self.serial += 1
        heapq.heappush(self.queue, (when_s, self.serial, what, args))

    def run(self, *, rps: float, seconds: float) -> float:
        """Mean over arrivals of the largest site's requests over the mean site's."""
        self.gap_s = GATEWAYS / rps
        for g in range(GATEWAYS):
            self.at(NOW_S + float(self.rng.exponential(self.gap_s)), self.arrive, g)
            for s in range(SITES):
                self.loads[g].heard(
                    s, NOW_S, age_s=0.0, power_ok=True, offers=[(s, 1.0, 0.0, 0.0, 0.0, 0.0)]
                )
                self.at(NOW_S + float(self.rng.uniform(0.0, 0.5)), self.sample, g, s)
        while self.queue[0][0] < NOW_S + seconds:
            now_s, _, what, args = heapq.heappop(self.queue)
            what(now_s, *args)
        return float(np.mean(self.ratios))

    def arrive(self, now_s: float, g: int) -> None:
        load = self.loads[g]
        self.at(now_s + float(self.rng.exponential(self.gap_s)), self.arrive, g)
        if self.rule == "heard only":
            load.own[:] = 0
            for name in ("own_requests_at", "own_tokens_at", "own_prefill_at"):
                load.offers[name] = 0
        if self.rule != "with peers":
            load.services["peers_ratio"] = 0.0
        o = self.routers[g].route(
            0,
            1,
            tokens_in=200,
            tokens_out=100,
            deadline_ms=6e4,
            body_bytes=800,
            now_s=now_s,
        )
        assert o >= 0
        ticket = load.begin(o, 200, 100, now_s)
        self.true[o] += 1
        self.arrivals[o].append(now_s)
        self.at(now_s + float(self.rng.uniform(0.5, 1.5)), self.leave, g, o, ticket)
        if now_s > NOW_S + 3.0:
            self.ratios.append(float(self.true.max() / self.true.mean()))

    def leave(self, now_s: float, g: int, o: int, ticket: Ticket) -> None:
        self.true[o] -= 1
        if self.rule != "heard only":
            self.loads[g].end(ticket)

    def sample(self, now_s: float, g: int, s: int) -> None:
        self.at(now_s + 0.5, self.sample, g, s)
        self.arrivals[s] = [t for t in self.arrivals[s] if t > now_s - 2.0]
        figures = s, 1.0, self.true[s], 300.0 * self.true[s], 0.0, len(self.arrivals[s]) / 2.0
        self.at(now_s + 0.005, self.hear, g, s, figures)

    def hear(self, now_s: float, g: int, s: int, figures: tuple[Any, ...]) -> None:
        self.loads[g].heard(s, now_s, age_s=0.005, power_ok=True, offers=[figures])  # type: ignore[list-item]


@settings(max_examples=effort(4))
@given(st.integers(0, 1000))
def test_gateways_with_the_same_stale_figures_do_not_herd(seed: int) -> None:
    """Fullest site over mean: about 1.5 with peers, 1.7 with own change only, 2.4 by heard figures alone."""
    table = league()
    ratio = {
        rule: Herd(table, rule, np.random.default_rng(seed)).run(rps=48.0, seconds=20.0)
        for rule in ("heard only", "own change", "with peers")
    }
    assert ratio["with peers"] < 1.75, ratio
    assert ratio["with peers"] < ratio["own change"] < ratio["heard only"], ratio
    assert ratio["with peers"] < 0.75 * ratio["heard only"], ratio

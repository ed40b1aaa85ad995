"""Choosing: never past a gate, always the least of one total order, the same bits as plain Python."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dispatch.fleets import NOW_S, fleet, random_fleet, service, site, table_of
from effort import effort
from hanse.dispatch import choose as kernels
from hanse.dispatch.load import OWN_DTYPE, PEERS_RATIO_MAX, Load
from hanse.dispatch.reasons import Reason
from hanse.dispatch.router import NONE_CACHED, Router
from hanse.dispatch.table import Table

FLEETS = 24
seeds = st.integers(0, 2**32 - 1)


@cache
def tables() -> list[Table]:
    made = []
    for seed in range(FLEETS):
        rng = np.random.default_rng(seed)
        made.append(table_of(random_fleet(rng, sites_max=40 if seed % 4 == 0 else 6)))
    return made


class Case:
    """A random table, load and request."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.table = tables()[int(rng.integers(FLEETS))]
        offers, sites = len(self.table.offers), len(self.table.sites)
        own = np.zeros((int(rng.integers(1, 4)), offers), OWN_DTYPE)
        self.load = Load(self.table, own=own, worker=0)
        own["requests"] = rng.integers(0, 6, own.shape)
        own["tokens"] = own["requests"] * rng.integers(10, 500, own.shape)
        own["prefill_tokens"] = own["tokens"] // 2
        heard = self.load.offers
        # Small integers, so that ties between offers and figures at a limit really come up.
        heard["replicas"] = rng.integers(0, 3, offers)
        heard["requests"] = rng.integers(0, 30, offers)
        heard["tokens"] = heard["requests"] * rng.integers(10, 800, offers)
        heard["prefill_tokens"] = rng.integers(0, 2000, offers)
        heard["own_requests_at"] = rng.integers(0, 8, offers)
        heard["own_tokens_at"] = rng.integers(0, 2000, offers)
        heard["ttft_factor"] = rng.choice([0.5, 1.0, 4.0, 200.0], offers)
        heard["tpot_factor"] = rng.choice([0.5, 1.0, 2.0], offers)
        self.load.sites["sampled_at_s"] = NOW_S - rng.choice([0.1, 1.9, 2.0, 2.5], sites)
        self.load.sites["reachable"] = rng.random(sites) < 0.9
        self.load.sites["power_ok"] = rng.choice(
            [1, 0, -1, -2, -4], sites, p=[0.8, 0.05, 0.05, 0.05, 0.05]
        )
        self.load.services["peers_ratio"] = rng.choice([0.0, 3.0], len(self.table.services))
        self.origin = int(rng.integers(sites))
        self.router = Router(self.table, self.load, self.origin)
        self.service = int(rng.integers(len(self.table.services)))
        self.subject = int(rng.integers(len(self.table.subjects)))
        self.tried = [int(o) for o in rng.permutation(offers)[: rng.integers(0, 3)]]
        self.cached = NONE_CACHED.copy()
        for i in range(int(rng.integers(0, 3))):
            self.cached[i] = int(rng.integers(sites)), int(rng.integers(1, 600))
        self.request: dict[str, Any] = {
            "tokens_in": int(rng.choice([1, 300, 1023, 5000])),
            "tokens_out": int(rng.integers(1, 400)),
            "deadline_ms": float(rng.choice([400.0, 60_000.0])),
            "body_bytes": int(rng.integers(0, 10_000)),
            "now_s": NOW_S,
        }

    def route(self) -> int:
        return self.router.route(
            self.service, self.subject, tried=self.tried, cached=self.cached, **self.request
        )

    def weigh(self, o: int) -> tuple[int, dict[str, float]]:
        """One offer in plain Python floats: the gate and the figures."""
        table, request = self.table, self.request
        row = {n: table.offers[o][n].item() for n in table.offers.dtype.names or ()}
        known = {n: self.load.offers[o][n].item() for n in self.load.offers.dtype.names or ()}
        s = row["site"]
        where = {n: table.sites[s][n].item() for n in table.sites.dtype.names or ()}
        heard = {n: self.load.sites[s][n].item() for n in self.load.sites.dtype.names or ()}
        path = table.paths_from(self.origin)[s]
        subject = table.subjects[self.subject]
        tokens_in, tokens_out = float(request["tokens_in"]), float(request["tokens_out"])
        if not table.lawful(self.subject, s):
            return Reason.LAW, {}
        if row["quality"] < subject["quality_min"]:
            return Reason.QUALITY, {}
        if tokens_in >= row["request_tokens_max"]:
            return Reason.LENGTH, {}
        if o in self.tried:
            return Reason.TRIED, {}
        gate = heard["power_ok"]
        if gate == 0 or (gate < 0 and subject["shed_rank"] < -gate):
            return Reason.POWER, {}
        if not heard["reachable"] or where["drained"]:
            return Reason.DEAD, {}
        if s != self.origin and NOW_S - heard["sampled_at_s"] > table.meta.heard_stale_s:
            return Reason.STALE, {}
        if known["replicas"] <= 0:
            return Reason.DEAD, {}
        ratio = self.load.services[row["service"]]["peers_ratio"].item()

        def now(figure: str, at: str, peers: float = ratio) -> float:
            own = int(self.load.own[figure][:, o].sum())
            change = float(own - known[at])
            return max(known[figure] + change + max(change, 0.0) * peers, float(own))

        requests = now("requests", "own_requests_at")
        prefill = now("prefill_tokens", "own_prefill_at")
        at_once = now("tokens", "own_tokens_at")
        replicas = known["replicas"]
        if now("requests", "own_requests_at", 0.0) + 1.0 > row["requests_max"] * replicas:
            return Reason.ROOM, {}
        tokens = now("tokens", "own_tokens_at", 0.0)
        if tokens + tokens_in + tokens_out > row["tokens_max"] * replicas:
            return Reason.ROOM, {}
        hits = [min(float(t), tokens_in) for site_, t in self.cached.tolist() if site_ == s]
        figures = self._figures(
            row, known, where, path, requests, at_once, prefill, max(hits, default=0.0)
        )
        if figures["ttft_ms"] > request["deadline_ms"]:
            return Reason.DEADLINE, figures
        return Reason.OK, figures

    def _figures(
        self,
        row: dict[str, Any],
        known: dict[str, Any],
        where: dict[str, Any],
        path: Any,
        requests: float,
        tokens: float,
        prefill: float,
        cached: float,
    ) -> dict[str, float]:
        request = self.request
        service = self.table.services[row["service"]]
        tokens_in, tokens_out = float(request["tokens_in"]), float(request["tokens_out"])
        body_bytes = float(request["body_bytes"])
        rtt_ms, ms_per_byte, usd_per_byte = (float(x) for x in path.item())
        share = 1.0 / known["replicas"]
        mine = requests * share
        batch = min(mine + 1.0, row["slots"])
        step_ms = row["tpot_ms_base"] + row["tpot_ms_per_running"] * batch
        uncached = max(tokens_in - cached, 1.0)
        by_slots = max((mine + share - row["slots"]) / row["slots"], 0.0)
        kv_tokens = row["tokens_max"] * 0.25
        short = (tokens + tokens_in - cached + tokens_out) * share - kv_tokens
        waiting = prefill * share * (1.0 + tokens_out / max(tokens_in, 1.0))
        over = max(by_slots, min(short, waiting) / kv_tokens) if short > 0.0 else by_slots
        service_ms = row["prefill_ms_per_token"] * tokens_in + step_ms * tokens_out
        queue_ms = over * service_ms
        ahead_ms = prefill * share * row["prefill_ms_per_token"]
        prompt_ms = row["prefill_ms_per_token"] * uncached
        engine_ms = row["ttft_ms_fixed"] + queue_ms + ahead_ms + prompt_ms + step_ms
        path_ms = rtt_ms + ms_per_byte * body_bytes
        ttft_ms = path_ms + engine_ms * known["ttft_factor"]
        beside = max(tokens * share - mine * tokens_out, 0.0)
        each = 1.0 / tokens_out if tokens_out > 1.0 else 0.0
        beside_ms = beside * row["prefill_ms_per_token"] * each
        tpot_ms = (step_ms + beside_ms) * known["tpot_factor"]
        e2e_ms = ttft_ms + tpot_ms * tokens_out
        decode_wh = (row["decode_wh_shared"] / batch + row["decode_wh_per_token"]) * tokens_out
        wh = (row["prefill_wh_per_token"] * uncached + decode_wh) * where["pue"]
        g = wh * where["g_per_wh"]
        egress_usd = usd_per_byte * (body_bytes + 200.0 * tokens_out)
        usd = wh * where["usd_per_wh"] + g * float(service["usd_per_g"]) + egress_usd
        spared_ms = row["prefill_ms_per_token"] * cached * (batch - 1.0)
        wait_usd = float(service["usd_per_latency_s"]) * (max(e2e_ms - spared_ms, 0.0) * 0.001)
        late = (
            ttft_ms > service["ttft_ms_slo"]
            or tpot_ms > service["tpot_ms_slo"]
            or e2e_ms > request["deadline_ms"]
        )
        return {
            "ttft_ms": ttft_ms,
            "tpot_ms": tpot_ms,
            "e2e_ms": e2e_ms,
            "wh": wh,
            "g": g,
            "usd": usd,
            "cost_usd": usd + wait_usd,
            "path_ms": path_ms,
            "late": float(late),
            "wait_usd": wait_usd,
            "requests": requests,
            "batch": batch,
        }

    def candidates(self) -> list[int]:
        """Offers that the kernel looks at first, in any order."""
        candidate, listed, first = self.router._lists
        profile = self.table.subjects[self.subject]["profile"]
        found = [o for o in candidate[self.service, profile].tolist() if o >= 0]
        for s in [self.origin, *(int(x) for x in self.cached[:, 0] if x >= 0)]:
            found += listed[first[self.service, s] : first[self.service, s + 1]].tolist()
        return found

    def everything(self) -> list[int]:
        _, listed, first = self.router._lists
        return listed[first[self.service, 0] : first[self.service, -1]].tolist()  # type: ignore[no-any-return]

    def best_of(self, offers: list[int]) -> tuple[int, dict[str, float]]:
        """The least of the total order (late, value, index), or the furthest gate."""
        weighed = {o: self.weigh(o) for o in sorted(set(offers))}
        passed = {o: f for o, (gate, f) in weighed.items() if gate == Reason.OK}
        if not passed:
            return min([int(g) for g, _ in weighed.values()], default=0), {}

        def order(o: int) -> tuple[float, float, int]:
            figures = passed[o]
            value = figures["cost_usd"]
            if figures["late"]:
                home = int(self.table.offers[o]["site"]) == self.origin
                value = figures["wait_usd"] * (kernels.LATE_AT_HOME if home else 1.0)
            return figures["late"], value, o

        best = min(passed, key=order)
        return best, passed[best]

    def expected(self) -> tuple[int, dict[str, float]]:
        """What the kernel must answer, by brute force."""
        if not self.everything():
            return Reason.NO_OFFER, {}
        if not self.table.lawful(self.subject, self.origin):
            return Reason.LAW, {}
        near, figures = self.best_of(self.candidates())
        if near >= 0 and not figures["late"]:
            return near, figures
        return self.best_of(self.everything())


@given(seeds)
@settings(max_examples=effort(100))
def test_the_kernel_answers_what_brute_force_in_python_answers_bit_for_bit(seed: int) -> None:
    case = Case(seed)
    expected, figures = case.expected()
    assert case.route() == expected
    if expected >= 0:
        row = case.router.out[0]
        assert row[kernels.OUT_TTFT_MS] == figures["ttft_ms"]
        assert row[kernels.OUT_TPOT_MS] == figures["tpot_ms"]
        assert row[kernels.OUT_E2E_MS] == figures["e2e_ms"]
        assert row[kernels.OUT_WH] == figures["wh"]
        assert row[kernels.OUT_G] == figures["g"]
        assert row[kernels.OUT_USD] == figures["usd"]
        assert row[kernels.OUT_COST_USD] == figures["cost_usd"]
        assert row[kernels.OUT_PATH_MS] == figures["path_ms"]
        assert row[kernels.OUT_SLO_MISSED] == figures["late"]
        assert row[kernels.OUT_REQUESTS] == figures["requests"]
        assert row[kernels.OUT_BATCH] == figures["batch"]


def test_the_random_cases_reach_every_gate_and_both_kinds_of_choice() -> None:
    reached = {Case(seed).expected()[0] for seed in range(1200)}
    wanted = {Reason.LAW, Reason.QUALITY, Reason.LENGTH, Reason.TRIED, Reason.POWER, Reason.DEAD}
    wanted |= {Reason.STALE, Reason.ROOM, Reason.DEADLINE}
    assert {int(r) for r in wanted} <= reached
    assert any(r >= 0 for r in reached)


@given(seeds)
@settings(max_examples=effort(100))
def test_no_choice_is_unlawful_dead_full_stale_tried_or_below_quality(seed: int) -> None:
    case = Case(seed)
    o = case.route()
    if o < 0:
        return
    s = int(case.table.offers[o]["site"])
    assert case.table.lawful(case.subject, s)
    assert case.table.lawful(case.subject, case.origin)
    assert o not in case.tried
    assert case.load.sites[s]["reachable"]
    assert case.load.sites[s]["power_ok"]
    assert case.load.offers[o]["replicas"] > 0
    assert (
        s == case.origin
        or NOW_S - case.load.sites[s]["sampled_at_s"] <= case.table.meta.heard_stale_s
    )
    assert case.table.offers[o]["quality"] >= case.table.subjects[case.subject]["quality_min"]
    own = int(case.load.own["requests"][:, o].sum())
    most = case.table.offers[o]["requests_max"] * case.load.offers[o]["replicas"]
    assert own + 1 <= most


@given(seeds)
@settings(max_examples=effort(100))
def test_explain_names_the_gate_of_every_offer_and_the_same_choice(seed: int) -> None:
    case = Case(seed)
    chosen, verdicts = case.router.explain(
        case.service, case.subject, tried=case.tried, cached=case.cached, **case.request
    )
    assert chosen == case.route()
    assert [v.chosen for v in verdicts].count(True) == (1 if chosen >= 0 else 0)
    entry_lawful = case.table.lawful(case.subject, case.origin)
    for o, verdict in zip(sorted(case.everything()), verdicts, strict=True):
        gate, figures = case.weigh(o)
        assert verdict.gate == (Reason(gate).name if entry_lawful else "LAW")
        assert bool(verdict.rules) == (gate == Reason.LAW)
        if verdict.predicted is not None:
            assert verdict.predicted.cost_usd == figures["cost_usd"]


@given(seeds)
@settings(max_examples=effort(100))
def test_a_worse_offer_is_never_chosen_because_it_got_worse(seed: int) -> None:
    """Monotone: if anything but the choice becomes slower, the choice stays."""
    case = Case(seed)
    o = case.route()
    if o < 0:
        return
    others = np.arange(len(case.table.offers)) != o
    case.load.offers["ttft_factor"][others] *= 1.5
    assert case.route() == o


@given(seeds)
@settings(max_examples=effort(100))
def test_a_choice_that_becomes_cheaper_stays(seed: int) -> None:
    case = Case(seed)
    o = case.route()
    if o < 0:
        return
    case.load.offers["tpot_factor"][o] *= 0.5
    assert case.route() == o


@given(seeds)
@settings(max_examples=effort(100))
def test_candidates_and_a_full_scan_agree_where_the_best_is_a_candidate(seed: int) -> None:
    case = Case(seed)
    best, figures = case.best_of(case.everything())
    if not case.table.lawful(case.subject, case.origin) or best < 0:
        return
    if best in case.candidates() or figures["late"]:
        assert case.route() == best


@given(seeds)
@settings(max_examples=effort(60))
def test_the_order_of_sites_in_the_file_does_not_matter_but_for_ties(seed: int) -> None:
    rng = np.random.default_rng(seed)
    made = random_fleet(rng, sites_max=5)
    order = rng.permutation(len(made.sites))
    shuffled = fleet(
        tuple(made.sites[i] for i in order),
        services=made.services,
        tenants=made.tenants,
        links=made.links,
    )
    answers = []
    for one in (made, shuffled):
        table = table_of(one)
        load = Load(table)
        load.sites["sampled_at_s"] = NOW_S
        for o, key in enumerate(table.meta.offers):
            digest = sum(key.encode())
            load.offers[o]["replicas"], load.offers[o]["requests"] = 1, digest % 11
        answers.append(_answers(table, load, made.sites[0].id))
    assert answers[0] == answers[1]


def _answers(table: Table, load: Load, entry: str) -> list[tuple[str, float]]:
    router = Router(table, load, table.site_index[entry])
    found = []
    for digest, subject in sorted((s.digest, i) for i, s in enumerate(table.meta.subjects)):
        o = router.route(
            0,
            subject,
            tokens_in=100,
            tokens_out=50,
            deadline_ms=6e4,
            body_bytes=400,
            now_s=NOW_S,
        )
        # A tie shows as equal cost; which of the tied is taken may differ.
        found.append((digest, router.predicted().cost_usd if o >= 0 else float(o)))
    return found


def ready(table: Table, origin: int = 0) -> Router:
    load = Load.of_shadow(table)
    return Router(table, load, origin)


def ask(router: Router, **changed: Any) -> int:
    request: dict[str, Any] = {
        "tokens_in": 200,
        "tokens_out": 100,
        "deadline_ms": 6e4,
        "body_bytes": 800,
        "now_s": NOW_S,
    }
    return router.route(0, 1, **(request | changed))


def test_an_expired_table_admits_nothing() -> None:
    router = ready(table_of(fleet((site("a"),))))
    assert ask(router) == 0
    assert ask(router, now_s=NOW_S + 86_400.0) == 0
    assert ask(router, now_s=NOW_S + 86_400.1) == Reason.TABLE_EXPIRED
    assert ask(router, now_s=float("nan")) == Reason.TABLE_EXPIRED


def test_a_service_placed_nowhere_has_no_offer() -> None:
    router = ready(table_of(fleet((site("a"),), placements=())))
    assert ask(router) == Reason.NO_OFFER


def test_subject_zero_is_admitted_nowhere() -> None:
    router = ready(table_of(fleet((site("a"), site("b")))))
    chosen = router.route(
        0, 0, tokens_in=1, tokens_out=1, deadline_ms=6e4, body_bytes=1, now_s=NOW_S
    )
    assert chosen == Reason.LAW


def test_ties_go_to_the_lowest_index() -> None:
    table = table_of(fleet((site("a", pools=()), site("b"), site("c"))))
    assert table.meta.offers[ask(ready(table))] == "b/chat/v0"


def test_a_conversation_returns_to_its_cache_until_the_load_there_costs_more() -> None:
    # Both as far from the entry; c holds the long prompt's prefix.
    table = table_of(fleet((site("a", pools=()), site("b"), site("c"))))
    router = ready(table)
    b, c = table.offer_index["b/chat/v0"], table.offer_index["c/chat/v0"]
    cached = NONE_CACHED.copy()
    cached[0] = table.site_index["c"], 850
    long = {"tokens_in": 900, "tokens_out": 50, "cached": cached}
    assert ask(router, tokens_in=900, tokens_out=50) == b
    assert ask(router, **long) == c
    load = router.load.offers
    loads = []
    for requests in range(32):
        load["requests"][c] = requests
        loads.append(ask(router, **long))
    turned = loads.index(b)
    assert 0 < turned < 32
    assert set(loads[:turned]) == {c}
    assert set(loads[turned:]) == {b}


def test_the_slo_comes_before_cost_and_a_miss_is_flagged() -> None:
    table = table_of(fleet((site("a"), site("b")), services=(service(usd_per_latency_s=0.0),)))
    router = ready(table)
    router.load.offers["ttft_factor"][0] = 100.0
    assert ask(router) == 1, "a is as cheap, and nearer, but misses the SLO"
    assert not router.predicted().slo_missed
    router.load.offers["ttft_factor"][1] = 100.0
    router.load.offers["ttft_factor"][0] = 90.0
    ask(router)
    assert router.predicted().slo_missed


@pytest.mark.parametrize("column", ["requests", "tokens"])
def test_a_full_offer_takes_nothing_more(column: str) -> None:
    table = table_of(fleet((site("a"),)))
    router = ready(table)
    limit = table.offers[0][f"{column}_max"]
    room = 1.0 if column == "requests" else 300.0
    router.load.offers[column][0] = limit - room
    assert ask(router) == 0
    router.load.offers[column][0] = limit - room + 1.0
    assert ask(router) == Reason.ROOM


def test_a_prefix_held_by_a_site_that_is_gone_changes_nothing() -> None:
    table = table_of(fleet((site("a"), site("b"))))
    router = Router(table, Load.of_shadow(table), 0)
    asked: dict[str, Any] = {
        "tokens_in": 100,
        "tokens_out": 10,
        "deadline_ms": 1e6,
        "body_bytes": 400,
        "now_s": NOW_S,
    }
    gone = NONE_CACHED.copy()
    gone[0] = (40, 100)
    first_subject = next(u for u in range(len(table.subjects)) if table.lawful(u, 0))
    plain = router.route(0, first_subject, **asked)
    assert plain >= 0
    assert router.route(0, first_subject, **asked, cached=gone) == plain


def test_what_peers_may_have_sent_makes_an_offer_dearer_but_not_full() -> None:
    """A guess must not refuse a request: the serving site knows whether it has room, and says no itself."""
    router = ready(table_of(fleet((site("a"),))))
    assert ask(router) == 0
    alone_ms = router.predicted().ttft_ms
    router.load.begin(0, 10, 10, NOW_S)
    router.load.services["peers_ratio"] = PEERS_RATIO_MAX
    assert ask(router) == 0
    assert router.predicted().requests == 1.0 + PEERS_RATIO_MAX
    assert router.predicted().ttft_ms > alone_ms


def test_what_cannot_be_in_time_stays_at_home_unless_elsewhere_takes_a_quarter_as_long() -> None:
    table = table_of(fleet((site("a"), site("b")), services=(service(usd_per_latency_s=1.0),)))
    router = ready(table)
    router.load.offers["ttft_factor"] = 100.0
    router.load.offers["tpot_factor"] = 100.0
    assert ask(router) == 0 and router.predicted().slo_missed
    for factor, home in ((150.0, True), (350.0, True), (450.0, False)):
        router.load.offers["ttft_factor"][0] = router.load.offers["tpot_factor"][0] = factor
        assert (ask(router) == 0) is home


def test_who_waits_for_memory_makes_the_next_one_wait() -> None:
    """Tokens beyond memory are a queue only as far as somebody has no first token: else prompts are shared."""
    table = table_of(fleet((site("a"),)))
    router = ready(table)
    offer, known = table.offers[0], router.load.offers
    kv = float(offer["tokens_max"]) / kernels.QUEUE_PER_SLOT_MAX
    known["requests"][0], known["tokens"][0] = 2.0, 2.0 * kv
    assert ask(router, deadline_ms=1e9) == 0
    shared_ms = router.predicted().ttft_ms
    known["prefill_tokens"][0] = 400.0
    ask(router, deadline_ms=1e9)
    waited_ms = router.predicted().ttft_ms
    known["tokens"][0] = 0.5 * kv
    ask(router, deadline_ms=1e9)
    read_ms = router.predicted().ttft_ms - shared_ms
    assert read_ms == pytest.approx(400.0 * float(offer["prefill_ms_per_token"]), rel=1e-6)
    batch_ms = offer["tpot_ms_base"] + 3.0 * offer["tpot_ms_per_running"]
    service_ms = 200.0 * offer["prefill_ms_per_token"] + 100.0 * batch_ms
    assert waited_ms - shared_ms - read_ms == pytest.approx(400.0 * 1.5 / kv * service_ms, rel=1e-6)

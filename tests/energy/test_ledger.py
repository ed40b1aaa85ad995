"""A quarter's parts come to what the meter counted, and what does not is told."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hanse.energy.ledger import QUARTER_S, Look, Quarter, parts_of, spread, worst_method
from hanse.units import wh_from_j

watts = st.floats(0.0, 1e6)


def identity(quarter: Quarter) -> None:
    parts = parts_of(quarter)
    left = math.fsum((parts.drawn_wh, parts.excess_wh))
    right = math.fsum((
        *parts.requests_wh.values(), parts.idle_wh, parts.overhead_wh, parts.others_wh, parts.missing_wh,
    ))  # fmt: skip
    assert left == pytest.approx(right, rel=1e-9, abs=1e-9)
    figures = (parts.drawn_wh, parts.it_wh, parts.idle_wh, parts.overhead_wh, parts.others_wh)
    assert min(*figures, parts.missing_wh, parts.excess_wh) >= 0.0
    assert min(parts.missing_wh, parts.excess_wh) == 0.0


looks = st.builds(
    Look,
    it_w=watts,
    it_error_share=st.none() | st.floats(0.0, 0.1),
    drawn_w=watts,
    drawn_error_share=st.none() | st.floats(0.0, 0.1),
    base_w=watts,
    busy_w=watts,
    silent_idle_w=watts,
    pue=st.floats(1.0, 5.0),
)
charges = st.tuples(
    st.sampled_from(["measured", "estimated", "modelled"]),
    st.floats(0.0, 1e5),
    st.floats(1.0, 5.0),
)


@given(
    seen=st.lists(st.tuples(looks, st.floats(0.0, 60.0)), max_size=20),
    charged=st.lists(charges, max_size=8),
    counted=st.lists(
        st.tuples(st.sampled_from(["site", "it"]), st.floats(0.0, 1e5), st.floats(0.0, 5.0)),
        max_size=6,
    ),
)
def test_parts_and_what_is_open_always_come_to_what_was_drawn(seen, charged, counted) -> None:
    quarter = Quarter(start_s=0.0)
    for look, elapsed_s in seen:
        quarter.look(look, elapsed_s)
    for method, wh, pue in charged:
        quarter.charge(method, wh, pue, 1)
    for kind, wh, gap_s in counted:
        quarter.count(kind, wh, gap_s)
    identity(quarter)


@st.composite
def days(draw: st.DrawFn):
    """Engines that are busy now and then, W of each second; what they draw is shared among their requests as gateways do."""
    seconds = draw(st.integers(120, QUARTER_S))
    idle_w = draw(st.lists(st.floats(20.0, 400.0), min_size=1, max_size=4))
    dynamic_w = [draw(st.floats(0.0, 600.0)) for _ in idle_w]
    turns = [
        draw(st.lists(st.integers(1, 200), min_size=1, max_size=12)) for _ in idle_w
    ]  # seconds idle, busy, idle, ...
    pue = draw(st.floats(1.0, 2.5))
    base_w = draw(st.floats(0.0, 5000.0))
    return seconds, idle_w, dynamic_w, turns, pue, base_w


def busy_at(turns: list[int], second: int) -> bool:
    at, busy = 0, False
    while True:
        for length in turns:
            at += length
            if second < at:
                return busy
            busy = not busy


@given(day=days(), it_metered=st.booleans(), error=st.floats(-0.005, 0.005))
def test_with_a_meter_requests_idle_and_overhead_are_within_two_percent_of_it(
    day, it_metered: bool, error: float
) -> None:
    seconds, idle_w, dynamic_w, turns, pue, base_w = day
    quarter = Quarter(start_s=0.0)
    truth_wh = it_truth_wh = 0.0
    for second in range(seconds):
        busy = [busy_at(t, second) for t in turns]
        each_w = [i + d * b for i, d, b in zip(idle_w, dynamic_w, busy, strict=True)]
        it_w, busy_w = sum(each_w), sum(w for w, b in zip(each_w, busy, strict=True) if b)
        drawn_w = base_w + it_w * pue
        truth_wh += wh_from_j(drawn_w)
        it_truth_wh += wh_from_j(it_w)
        seen = Look(
            it_w=it_w,
            it_error_share=0.02 if it_metered else None,
            drawn_w=drawn_w,
            drawn_error_share=0.02,
            base_w=base_w,
            busy_w=busy_w,
            pue=pue,
        )
        quarter.look(seen, 1.0)
        quarter.charge("estimated", wh_from_j(busy_w) * pue, pue, 0)  # as records say
    quarter.count("site", truth_wh * (1.0 + error), 0.0)
    quarter.count("it", it_truth_wh, 0.0)
    identity(quarter)
    parts = parts_of(quarter)
    assert parts.drawn_method == "measured"
    assert parts.drawn_wh == pytest.approx(truth_wh * (1.0 + error))
    assert parts.open_share <= 0.02
    assert parts.it_method == ("measured" if it_metered else "estimated")


def test_a_request_charged_twice_or_left_out_shows() -> None:
    def quarter(times: float) -> Quarter:
        made = Quarter(start_s=0.0)
        seen = Look(
            it_w=1000.0, it_error_share=0.02, drawn_w=1300.0, drawn_error_share=0.02,
            base_w=0.0, busy_w=800.0, pue=1.3,
        )  # fmt: skip
        made.look(seen, 900.0)
        made.charge("estimated", 200.0 * 1.3 * times, 1.3, 10)
        made.count("site", 325.0, 0.0)
        return made

    assert parts_of(quarter(1.0)).open_share < 1e-9
    assert parts_of(quarter(2.0)).excess_wh == pytest.approx(520.0 + 50.0 - 325.0)
    assert parts_of(quarter(0.0)).missing_wh == pytest.approx(200.0)


def test_without_a_meter_the_method_says_so_with_its_error() -> None:
    quarter = Quarter(start_s=0.0)
    seen = Look(
        it_w=100.0, it_error_share=None, drawn_w=150.0, drawn_error_share=None, base_w=10.0, busy_w=60.0, pue=1.4,
    )  # fmt: skip
    quarter.look(seen, 900.0)
    quarter.charge("estimated", 15.0 * 1.4, 1.4, 3)
    parts = parts_of(quarter)
    assert (parts.drawn_method, parts.it_method) == ("estimated", "estimated")
    assert parts.it_error_share == 0.4
    assert 0.3 < parts.drawn_error_share < 0.5
    assert parts.open_share < 1e-9


def test_an_engine_that_nobody_measures_is_modelled_and_stands_in_the_sums() -> None:
    quarter = Quarter(start_s=0.0)
    seen = Look(
        it_w=0.0, it_error_share=None, drawn_w=100.0, drawn_error_share=None, base_w=100.0, busy_w=0.0,
        silent_idle_w=50.0, pue=1.2,
    )  # fmt: skip
    quarter.look(seen, 900.0)
    quarter.charge("modelled", 12.0, 1.2, 3)
    parts = parts_of(quarter)
    assert (parts.drawn_method, parts.it_method) == ("modelled", "modelled")
    assert parts.it_wh == pytest.approx(12.5 + 10.0)
    assert parts.drawn_wh == pytest.approx(25.0 + 22.5 * 1.2)
    assert parts.idle_wh == pytest.approx(12.5)
    assert parts.open_share < 1e-9
    assert parts.it_error_share == 0.35


def test_a_meter_with_a_gap_is_no_measured_quarter() -> None:
    quarter = Quarter(start_s=0.0)
    seen = Look(
        it_w=10.0, it_error_share=None, drawn_w=20.0, drawn_error_share=0.01, base_w=0.0, busy_w=0.0, pue=2.0,
    )  # fmt: skip
    quarter.look(seen, 900.0)
    quarter.count("site", 4.0, 61.0)
    parts = parts_of(quarter)
    assert parts.drawn_method == "estimated"
    assert parts.drawn_wh == pytest.approx(5.0)


@given(at_s=st.floats(1e9, 2e9), lasted_s=st.floats(0.0, 5000.0))
def test_a_request_is_spread_over_the_quarters_that_it_ran_in(at_s: float, lasted_s: float) -> None:
    shares = spread(at_s, lasted_s)
    assert math.fsum(shares.values()) == pytest.approx(1.0, abs=1e-6)
    assert min(shares.values()) >= 0.0
    assert all(start_s % QUARTER_S == 0.0 for start_s in shares)
    assert min(shares) <= at_s - lasted_s + 1e-6
    assert max(shares) <= at_s < max(shares) + QUARTER_S


def test_factors_are_means_of_what_was_known_throughout() -> None:
    quarter = Quarter(start_s=0.0)

    def seen(**factors: float) -> Look:
        return Look(
            it_w=0.0, it_error_share=None, drawn_w=0.0, drawn_error_share=None, base_w=0.0, busy_w=0.0, **factors
        )  # fmt: skip

    quarter.look(seen(carbon_g_per_kwh=100.0, market_g_per_kwh=50.0), 600.0)
    quarter.look(seen(carbon_g_per_kwh=400.0), 300.0)
    assert quarter.factor("carbon_g_per_kwh") == pytest.approx(200.0)
    assert quarter.factor("market_g_per_kwh") is None
    assert quarter.factor("marginal_g_per_kwh") is None


def test_the_weakest_method_of_a_sum_is_the_sums() -> None:
    assert worst_method(["measured", "modelled", "estimated"]) == "modelled"
    assert worst_method([""]) == ""

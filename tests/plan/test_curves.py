"""Break-even curves: each point is the study solved with that value; a flip is where the winner changes, and nowhere nearer."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from hanse.plan.answer import Answer
from hanse.plan.assumptions import of_study
from hanse.plan.curves import (
    CELLS_MAX_QUICK,
    Point,
    Points,
    _curve,
    curves_of,
    limit_of,
    limited,
    resited,
    scaled,
)
from hanse.plan.demand import demand_of
from hanse.plan.designs import designs_of
from hanse.plan.doubt import most_likely, scorer
from hanse.plan.operate import expected_meter
from hanse.plan.quick import quick_study
from hanse.plan.report.verdict import headline, nearest_flip
from hanse.plan.sited import cells, sited
from hanse.plan.study_file import Study, StudyCity
from plan import hand
from plan.answers import rich


@pytest.fixture(scope="module")
def answer(solved: tuple[Answer, Path]) -> Answer:
    return solved[0]


def by_hand(study: Study) -> dict[str, float]:
    """USD per million tokens of each design of a study, the long way round."""
    demand = demand_of(study)
    x = most_likely(of_study(study), 1)
    found = [sited(study, spec, True) for spec in study.designs]
    meters = {d.spec.id: expected_meter(d, study, demand) for d in found}
    score = scorer(study, demand, meters)
    return {d.spec.id: float(score(d, x)[0]) for d in found}


LONG = pytest.mark.long


@pytest.mark.parametrize(
    "limit_ms", [pytest.param(10.5, marks=LONG), 21.0, pytest.param(80.0, marks=LONG)]
)
def test_a_point_of_the_latency_curve_is_the_study_with_that_limit(
    answer: Answer, limit_ms: float
) -> None:
    curve = next(c for c in answer.curves if c.id == "rtt_ms_max")
    k = curve.values.index(limit_ms)
    expected = by_hand(quick_study(replace(hand.QUICK, latency_ms=limit_ms)))
    for design, usd in expected.items():
        found = curve.usd_per_mtoken[design][k]
        assert (np.inf if found is None else found) == pytest.approx(usd, rel=1e-9)
    assert expected[curve.winners[k]] <= min(expected.values()) * 1.005
    assert curve.winners[k] != "mix" or expected["mix"] < 0.995 * expected["rent"]


def test_a_point_of_the_demand_curve_is_the_study_with_that_demand(answer: Answer) -> None:
    curve = next(c for c in answer.curves if c.id == "tokens_per_day")
    assert (curve.low, curve.high) == (1e8, 1e12)
    expected = by_hand(quick_study(replace(hand.QUICK, tokens_per_day=1e10)))
    for design, usd in expected.items():
        at = curve.values.index(1e10)
        assert curve.usd_per_mtoken[design][at] == pytest.approx(usd, rel=1e-9)


def test_curves_of_figures_pass_through_the_most_likely_cost(answer: Answer) -> None:
    study = quick_study(hand.QUICK)
    expected = by_hand(study)
    ids = {c.id for c in answer.curves}
    assert {"carbon_usd_per_t", "demand_growth_factor", "module_premium_share", "rtt_ms_max"} <= ids
    for curve in answer.curves:
        k = curve.values.index(curve.at)
        for design, usd in expected.items():
            assert curve.usd_per_mtoken[design][k] == pytest.approx(usd, rel=1e-9), curve.id


def test_the_latency_limit_that_flips_the_answer_is_told(answer: Answer) -> None:
    """At 2 billion tokens a day renting is the cheapest, until the limit leaves no cloud near enough for all."""
    curve = next(c for c in answer.curves if c.id == "rtt_ms_max")
    (flip,) = curve.flips
    assert 10.0 < flip.at < 80.0 and flip.winner != "rent"
    rent = answer.design("rent")
    assert curve.served_share["rent"][0] < rent.served_share
    assert "answer flips to" in headline(answer)[1]


def test_one_input_is_named_that_flips_the_answer() -> None:
    with_inputs = replace(rich(), flips=())
    assert nearest_flip(with_inputs) == rich().curves[1].flips[0]
    said = headline(with_inputs)[1]
    assert "many micro sites where latency limit, round trip falls from 80.0 to 10.5 ms" in said
    assert "No single figure or input" in headline(replace(with_inputs, curves=()))[1]


@given(st.lists(st.sampled_from("abc"), min_size=3, max_size=9), st.integers(0, 8))
def test_a_flip_is_the_nearest_value_at_which_another_wins(winners: list[str], own: int) -> None:
    own %= len(winners)
    at = [
        Points(
            by_design={
                d: Point(usd_per_mtoken=1.0 if d == w else 2.0, served_share=1.0) for d in "abc"
            }
        )
        for w in winners
    ]
    values = [float(k + 1) for k in range(len(winners))]
    curve = _curve("x", "x", "", values[own], values, at, note="")
    for flip in curve.flips:
        far = values.index(flip.at)
        assert winners[far] == flip.winner != winners[own]
        nearer = range(min(own, far), max(own, far) + 1)
        assert all(winners[k] == winners[own] for k in nearer if k != far)
    below, above = winners[:own], winners[own + 1 :]
    expected = sum(any(w != winners[own] for w in side) for side in (below, above))
    assert len(curve.flips) == expected


def test_limits_are_capped_below_and_scaled_above() -> None:
    study = hand.study()
    assert limit_of(study) > 0.0
    mixed = replace(
        study,
        workloads=tuple(
            replace(study.workloads[0], id=f"w{k}", rtt_ms_max=ms)
            for k, ms in enumerate((20.0, 40.0))
        ),
    )
    assert limit_of(mixed) == 40.0
    assert [w.rtt_ms_max for w in limited(mixed, 30.0).workloads] == [20.0, 30.0]
    assert [w.rtt_ms_max for w in limited(mixed, 80.0).workloads] == [40.0, 80.0]
    assert limited(mixed, 40.0) == mixed
    batch = next(w for w in limited(study, 12.0).workloads if w.kind == "batch")
    assert batch.rtt_ms_max is None
    total = sum(w.tokens_per_day for w in scaled(study, 9e9).workloads)
    assert total == pytest.approx(9e9)


def test_a_design_that_delivers_nothing_never_wins() -> None:
    points = Points(
        by_design={
            "a": Point(usd_per_mtoken=None, served_share=0.0),
            "b": Point(usd_per_mtoken=5.0, served_share=1.0),
        }
    )
    assert points.winner == "b"


def test_a_large_study_is_not_sited_again_and_again() -> None:
    many = tuple(
        StudyCity(city=c)
        for c in ("Frankfurt am Main", "Lyon", "Milan", "Paris", "Madrid", "Vienna", "Berlin", "Turin", "Hamburg", "Munich", "Rome", "Prague", "Warsaw")
    )  # fmt: skip
    study = hand.study(cities=many)
    assert cells(study) > CELLS_MAX_QUICK
    demand = demand_of(study)
    found = designs_of(replace(study, designs=study.designs[4:]), demand, quick=True)
    meters = {d.spec.id: expected_meter(d, study, demand) for d in found}
    from hanse.plan.steps import Steps

    curves = curves_of(study, found, meters, Steps(), quick=True)
    assert curves and not any(c.resited for c in curves)


def test_points_read_back() -> None:
    study = quick_study(replace(hand.QUICK, cities=("lyon",)))
    points = resited(replace(study, designs=study.designs[:1]))
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(points), type=Points) == points

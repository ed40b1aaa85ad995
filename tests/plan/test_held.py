"""Which size class holds which model, and what goes over the WAN because none of the small ones does."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hanse.plan.assumptions import of_study
from hanse.plan.demand import Demand, demand_of
from hanse.plan.design import Design
from hanse.plan.held import ALL, Held, away_of, held_by, references
from hanse.plan.read import read_study
from hanse.plan.study_file import SIZES, Study, Workload
from hanse.units import SECONDS_PER_DAY
from plan import hand

BIG = Workload(id="big", model="Llama-3.1-405B", tokens_per_day=4e9, ttft_ms=3000.0, tpot_ms=100.0)


def split(study: Study, demand: Demand) -> Design:
    """A room in Lyon and a region in Frankfurt, which everything goes to."""
    design = hand.design(study, demand, (0, 1))
    large = next(s for s in SIZES if s.kind == "region")
    small = next(s for s in SIZES if s.id == "room")
    places = tuple(
        msgspec.structs.replace(p, size=size)
        for p, size in zip(design.places, (large, small), strict=True)
    )
    share = np.zeros(design.share.shape)
    share[:, 0] = 1.0
    return msgspec.structs.replace(design, places=places, share=share)


def test_the_number_that_decides_is_said() -> None:
    held = {(h.workload, h.size): h for h in held_by(hand.study(workloads=(BIG,)))}
    assert not held["big", "tower"].held and not held["big", "room"].held
    assert held["big", "hyperscale"].in_time
    assert held["big", "tower"].replica_gb == 8 * 24 and held["big", "room"].replica_gb == 8 * 48
    assert held["big", "tower"].weights_gb == pytest.approx(405.85, rel=0.01)
    assert "406 GB of weights, 192 GB in 8 x l4: 3 such servers" in held["big", "tower"].why


def test_a_model_that_fits_and_is_too_slow_is_not_called_too_large() -> None:
    held = [h for h in held_by(read_study()) if h.workload == "chat"]
    by_size = {h.size: h for h in held}
    assert by_size["tower"].held and not by_size["tower"].in_time
    assert "not within the SLO" in by_size["tower"].why
    assert by_size["hall"].in_time


def test_for_scale_stand_the_largest_model_and_the_largest_that_is_held() -> None:
    study = read_study()
    largest, holdable = references(study)
    assert largest.model == "Kimi-K2"
    held = [h for h in held_by(study) if not h.workload]
    assert not any(h.held for h in held if h.model == largest.model)
    assert any(h.held for h in held if h.model == holdable.model)
    assert "joined, which the planner does not size" in held[0].why


def test_what_no_small_site_holds_goes_to_the_region_with_the_way_there() -> None:
    study = hand.study(workloads=(BIG,))
    demand = demand_of(study)
    design = split(study, demand)
    away = away_of(design, study, demand, held_by(study), of_study(study).mid())
    one = next(a for a in away if a.work == "big")
    asked = 4e9 / (BIG.tokens_in + BIG.tokens_out)
    assert one.held_by == () and one.share == pytest.approx(1.0)
    assert one.requests_per_day == pytest.approx(asked)
    answers = BIG.tokens_out / (BIG.tokens_in + BIG.tokens_out)
    assert one.gb_per_day == pytest.approx(4e9 * (4.0 * (1 - answers) + 250.0 * answers) / 1e9)
    weight = demand.tokens_per_s / demand.tokens_per_s.sum()
    added = weight @ (design.rtt_ms[:, 0] - 10.0)
    assert one.added_ms == pytest.approx(added) and added > 1.0
    usd = float(of_study(study).mid()["region_transit_usd_per_gb"][0])
    assert one.usd_per_year == pytest.approx(365 * usd * one.gb_per_day)


def test_what_a_small_site_holds_in_time_stays() -> None:
    study = hand.study()
    demand = demand_of(study)
    away = away_of(split(study, demand), study, demand, held_by(study), of_study(study).mid())
    for one in away:
        if not one.reference:
            assert one.held_by == ("room",)
            assert one.gb_per_day == 0.0 and one.added_ms is None and one.usd_per_year == 0.0
    scale = [a for a in away if a.reference]
    assert len(scale) == 2 and all(a.work == ALL and a.gb_per_day > 0.0 for a in scale)


def test_law_says_who_may_take_it() -> None:
    study = hand.study(workloads=(BIG,))
    demand = demand_of(study)
    design = split(study, demand)
    nobody = msgspec.structs.replace(design, may=np.zeros(design.may.shape, np.bool_))
    away = away_of(nobody, study, demand, held_by(study), of_study(study).mid())
    assert all(a.unserved_share == pytest.approx(1.0) for a in away if a.reference)
    rented = msgspec.structs.replace(nobody, cloud_may=np.ones(len(demand.rows), np.bool_))
    taken = away_of(rented, study, demand, held_by(study), of_study(study).mid())
    egress = float(of_study(study).mid()["cloud_egress_usd_per_gb"][0])
    for a in taken:
        if a.reference:
            assert a.unserved_share == 0.0
            assert a.usd_per_year == pytest.approx(365 * egress * a.gb_per_day)


@given(st.floats(0.0, 1.0), st.floats(0.0, 1.0))
def test_shares_never_make_more_than_is_asked(own: float, rest: float) -> None:
    study = hand.study(workloads=(BIG,))
    demand = demand_of(study)
    design = split(study, demand)
    share = design.share * own
    parts = {"share": share, "rented": np.full(len(demand.rows), (1.0 - own) * rest)}
    design = msgspec.structs.replace(design, **parts)
    held: tuple[Held, ...] = ()
    for a in away_of(design, study, demand, held, of_study(study).mid()):
        if not a.reference:
            whole = own + (1.0 - own) * rest
            assert a.share == pytest.approx(whole, abs=1e-9)
            assert a.share + a.unserved_share == pytest.approx(1.0, abs=1e-9)
            assert a.requests_per_day <= demand.tokens_per_s.sum() * SECONDS_PER_DAY

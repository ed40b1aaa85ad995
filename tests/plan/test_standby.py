"""Capacity that stands by for the loss of a site has a price in the search, so that work is not heaped up where it is a trifle cheaper."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from effort import effort
from hanse.plan.candidates import site_plan
from hanse.plan.demand import demand_of
from hanse.plan.designs import design_of, ground_of
from hanse.plan.siting_model import SitingModel
from hanse.plan.siting_problem import Siting
from plan import hand
from plan.random_sitings import EXACT, problem


def two(usd: float) -> Siting:
    """Two rows, two sites that hold all; the first is a little cheaper to run."""
    return Siting(
        demand_ids=("a", "b"),
        site_ids=("s", "t"),
        size_ids=("one",),
        demand=np.array([[1.0, 1.0]]),
        unit_usd=np.array([[1.0, 1.2], [1.0, 1.2]]),
        capacity=np.array([2.0]),
        fixed_usd=np.array([[1.0], [1.0]]),
        refusal=np.zeros((2, 2), np.int64),
        survive_share=np.ones(2),
        standby_usd=usd,
        standby_class=np.zeros(2, np.int64),
    )


def test_a_reserve_of_two_halves_is_half_of_one_of_all() -> None:
    heaped, spread = site_plan(two(0.0), EXACT), site_plan(two(1.0), EXACT)
    assert heaped.shares[0].sum(axis=0) == pytest.approx([2.0, 0.0])
    assert heaped.usd == pytest.approx(4.0)
    assert spread.shares[0].sum(axis=0) == pytest.approx([1.0, 1.0])
    # Two sites, 1.0 + 1.2 to run, and one unit that stands by.
    assert spread.usd == pytest.approx(2.0 + 2.2 + 1.0)
    assert spread.gap == pytest.approx(0.0, abs=1e-6)


def test_rows_that_cannot_help_each_other_have_a_reserve_each() -> None:
    p = replace(two(1.0), standby_class=np.array([0, 1]))
    assert site_plan(p, EXACT).usd == pytest.approx(2.0 + 2.2 + 1.0)
    nobody = replace(two(1.0), standby_class=np.array([-1, -1]))
    assert site_plan(nobody, EXACT).usd == pytest.approx(4.0)


@settings(max_examples=effort(25))
@given(st.integers(0, 2**32), st.floats(0.1, 5.0))
def test_a_plan_that_knows_the_price_is_never_dearer_under_it(seed: int, usd: float) -> None:
    rng = np.random.default_rng(seed)
    free = replace(problem(rng, n=5, m=4, k=2), survive_share=rng.uniform(0.2, 1.0, 5))
    classes = rng.integers(-1, 2, 5)
    priced = replace(free, standby_usd=usd, standby_class=classes)
    without, with_price = site_plan(free, EXACT), site_plan(priced, EXACT)
    model = SitingModel(priced)
    blind = without.usd + without.penalty_usd + usd * float(model.standby(without.shares).sum())
    knowing = with_price.usd + with_price.penalty_usd
    assert knowing <= blind * (1.0 + 1e-6)
    assert knowing >= (without.usd + without.penalty_usd) * (1.0 - 1e-6)
    fixed, running = model.yearly_usd(with_price.size, with_price.shares)
    assert with_price.usd == pytest.approx(float((fixed + running).sum()), rel=1e-6)


def test_a_study_prices_the_chips_that_stand_by_and_a_design_of_one_site_has_none() -> None:
    study = hand.study()
    ground = ground_of(study, demand_of(study))
    lowest = min(ground.unit_usd[i, s] for i, s in np.argwhere(ground.refusal == 0))
    assert 0.0 < ground.standby_usd < lowest, "chips alone cost less than chips at work"
    one = next(d for d in study.designs if d.sites_max == 1)
    assert design_of(ground, one, 0.01).reserve.sum() == 0.0

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hanse.plan import forms
from hanse.plan.capital import recovery_factor


@pytest.mark.parametrize(("years", "percent"), [(3, 8), (5, 16), (10, 38)])
def test_a_linear_ramp_at_eight_percent_pays_for_dearer_units(years: int, percent: int) -> None:
    premium = forms.staged_build_premium(np.ones(years), 0.08)
    assert round(100 * float(premium)) == percent


@given(st.floats(0, 0.5), st.floats(1, 50))
def test_recovered_capital_is_worth_what_was_spent(rate: float, life: float) -> None:
    life = round(life)
    yearly = float(recovery_factor(np.array(rate), np.array(float(life))))
    worth = sum(yearly * (1 + rate) ** -t for t in range(1, life + 1))
    assert worth == pytest.approx(1.0, rel=1e-9)


def test_capital_without_interest_is_spread_evenly() -> None:
    assert recovery_factor(np.array([0.0, 0.08]), np.array(10.0)) == pytest.approx(
        [0.1, 0.14903], rel=1e-4
    )


@given(st.integers(1, 50), st.floats(0.1, 5), st.floats(0.1, 4), st.floats(0, 1))
def test_pooling_loss_is_what_sites_hold_apart_less_the_pool(
    n: int, sigma: float, z: float, rho: float
) -> None:
    mean = 10.0
    apart = n * (mean + z * sigma)
    lost = float(forms.pooling_loss(sigma, z, n, rho))
    assert lost == pytest.approx(
        apart - float(forms.pooled_capacity(mean, sigma, z, n, rho)), abs=1e-6
    )
    alone = z * math.sqrt(n) * sigma * (math.sqrt(n) - 1)
    assert float(forms.pooling_loss(sigma, z, n)) == pytest.approx(alone, abs=1e-9)
    assert -1e-9 <= lost <= alone + 1e-9


def test_sites_up_together_by_counting_every_state() -> None:
    a, beta, n = 0.9, 0.2, 4
    own = 1 - (1 - beta) * (1 - a)
    for k in range(n + 1):
        states = (bin(s).count("1") for s in range(2**n))
        by_hand = sum(own**up * (1 - own) ** (n - up) for up in states if up >= k)
        found = forms.availability_k_of_n(np.array([a, 1.0]), k, n, beta)
        assert found == pytest.approx([(1 - beta * (1 - a)) * by_hand, 1.0])


def test_no_number_of_sites_gets_past_the_common_cause() -> None:
    found = float(forms.availability_k_of_n(0.99, 1, 50, 0.1))
    assert found == pytest.approx(1 - 0.1 * 0.01)


def test_carbon_per_unit_on_a_case_by_hand() -> None:
    # 2 of 8 chips of a server of 1,200 kg over 4 years, for 100 hours; 50 kWh at 300 g; 1,000 requests.
    embodied = forms.embodied_share(1.2e6, 100.0, 4 * 8760.0, 2.0, 8.0)
    assert float(embodied) == pytest.approx(1.2e6 / 350.4 / 4)
    sci = forms.software_carbon_intensity(50.0, np.array([300.0, 0.0]), embodied, 1000.0)
    assert sci == pytest.approx([15.0 + 0.8562, 0.8562], rel=1e-4)


def test_no_hour_lends_to_another() -> None:
    load, own = np.array([2.0, 2.0, 2.0, 2.0]), np.array([4.0, 1.0, 0.0, 3.0])
    assert float(forms.hourly_carbon_free_score(load, own)) == pytest.approx(5 / 8)
    assert float(forms.hourly_carbon_free_score(load, own, 0.5)) == pytest.approx(6.5 / 8)


def test_draws_go_through_together() -> None:
    rates, lives = np.array([[0.05], [0.1]]), np.array([5.0, 10.0, 20.0])
    table = recovery_factor(rates, lives)
    assert table.shape == (2, 3) and (np.diff(table, axis=1) < 0).all()
    assert forms.staged_build_premium(np.ones((2, 5)), rates[:, 0]).shape == (2,)

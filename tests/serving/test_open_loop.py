"""A replica under open arrivals beside the twin's engine of the same model, and its limits."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hanse.catalogue import accelerator_named, ai_model_named
from hanse.serving.open_loop import loaded, prompt_lengths, waits_ms, weighted_quantile
from hanse.serving.steps import step_model

STEP = step_model(
    ai_model_named("Llama-3.1-70B"), "fp8", accelerator_named("h100-sxm"), count=2, slots=64
)


@given(st.floats(1.0, 100.0), st.floats(0.1, 500.0), st.floats(0.0, 0.05), st.floats(1.0, 60.0))
def test_waits_are_chances_of_at_least_one_step(
    decode: float, prompt: float, per_ms: float, replicas: float
) -> None:
    values, weights = waits_ms(decode, prompt * np.array(prompt_lengths()), per_ms, replicas)
    assert weights.sum() == pytest.approx(1.0) and (weights >= 0.0).all()
    assert (values >= decode).all()


def test_without_others_a_request_waits_half_a_step_and_its_own() -> None:
    values, weights = waits_ms(20.0, np.full(64, 100.0), 0.0)
    assert values @ weights == pytest.approx(30.0)


def test_more_replicas_never_wait_longer() -> None:
    readings = 100.0 * np.array(prompt_lengths())
    means = [
        float(np.dot(*waits_ms(20.0, readings, 0.004, m))) for m in (1.0, 2.0, 4.0, 16.0, 64.0)
    ]
    assert all(a >= b - 1e-9 for a, b in pairwise(means))
    assert means[-1] == pytest.approx(30.0, rel=0.01)


def test_load_makes_everything_slower_and_more() -> None:
    course = [loaded(STEP, b, 1155.0, 211.0) for b in (1, 8, 32, 52)]
    for field in ("ttft_ms", "tpot_ms", "tpot_ms_p95", "e2e_s", "tokens_per_s", "power_w"):
        values = [getattr(c, field) for c in course]
        assert values == sorted(values), field
    assert all(c.ttft_ms_p95 > c.ttft_ms and c.tpot_ms_p95 >= c.tpot_ms for c in course)


def test_a_quantile_of_weights_is_that_of_copies() -> None:
    assert weighted_quantile(np.array([3.0, 1.0, 2.0]), np.array([1.0, 2.0, 1.0]), 0.5) == 1.0
    assert np.isnan(weighted_quantile(np.zeros(0), np.zeros(0), 0.5))

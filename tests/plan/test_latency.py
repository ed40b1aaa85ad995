"""The planned TTFT: quantiles without gaps, and what they are held against."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hanse.plan.capacity import fit_of, running_at
from hanse.plan.latency import FINE, fine_readings_ms, preference
from hanse.plan.study_file import Workload
from hanse.serving.open_loop import POINTS, PROMPT_SIGMA, prompt_lengths


@given(st.floats(0.0, 200.0), st.floats(0.1, 500.0))
def test_finer_prompts_have_the_quantiles_of_the_lengths(at_none: float, per_mean: float) -> None:
    """Of readings that are linear in length; 64 points alone miss the 95th percentile by up to an eighth."""
    known = tuple(at_none + per_mean * np.array(prompt_lengths()))
    fine = np.sort(fine_readings_ms(known).ravel())
    assert fine.shape == (POINTS * FINE,) and (fine >= 0.0).all()
    for share in (0.05, 0.5, 0.9, 0.95, 0.99):
        score = NormalDist().inv_cdf(share)
        length = float(np.exp(PROMPT_SIGMA * score - 0.5 * PROMPT_SIGMA**2))
        expected = at_none + per_mean * length
        assert np.quantile(fine, share) == pytest.approx(expected, rel=0.01)


def test_a_replica_that_reads_nothing_has_nothing_finer() -> None:
    assert fine_readings_ms((0.0,)).tolist() == [[0.0] * FINE]


@pytest.mark.parametrize(
    ("model", "low", "high"), [("Llama-3.1-70B", 0.4, 0.9), ("Llama-3.1-8B", 0.0, 0.2)]
)
def test_a_busy_replica_of_short_prompts_is_avoided_least(
    model: str, low: float, high: float
) -> None:
    fit = fit_of(Workload(id="w", model=model, tokens_per_day=1e9, tpot_ms=60.0), "h100-sxm")
    loads = [part * fit.tokens_per_s for part in (0.0, 0.2, 0.5, 0.9)]
    avoided = [preference(fit, load, 211.0) for load in loads]
    assert avoided[0] == 1.0 and avoided == sorted(avoided, reverse=True)
    assert low <= avoided[1] <= high
    running = [running_at(fit, load) for load in loads]
    assert running[0] == 0.0 and running == sorted(running) and running[-1] < fit.slots

"""Coefficients against published and measured figures, within the errors they state."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hanse.catalogue import accelerator, ai_model
from hanse.errors import ConfigError
from hanse.serving import WEIGHT_BYTES, EngineCoefficients, coefficients


def of(model: str, precision: str, chip: str, *, count: int = 1, slots: int) -> EngineCoefficients:
    return coefficients(ai_model(model), precision, accelerator(chip), count=count, slots=slots)


@pytest.mark.parametrize(
    ("model", "precision", "chip", "count", "batch", "itl_ms"),
    [
        # ML.ENERGY v3, vLLM; inter-token latency includes mixed prefill, which coefficients leave to load
        ("Llama-3.1-8B", "bf16", "h100-sxm", 1, 16, 7.9),
        ("Llama-3.1-8B", "bf16", "h100-sxm", 1, 64, 11.5),
        ("Llama-3.1-8B", "bf16", "b200-sxm", 1, 8, 4.6),
        ("Llama-3.1-70B", "bf16", "h100-sxm", 4, 8, 16.9),
        ("Llama-3.1-70B", "bf16", "h100-sxm", 4, 64, 22.3),
    ],
)
def test_decode_speed_is_near_what_was_published(
    model: str, precision: str, chip: str, count: int, batch: int, itl_ms: float
) -> None:
    found = of(model, precision, chip, count=count, slots=batch)
    assert found.tpot_ms(batch) == pytest.approx(itl_ms, rel=2 * 0.15)
    assert found.tpot_error == 0.15


@pytest.mark.parametrize(("batch", "joules"), [(16, 0.263), (64, 0.119), (256, 0.077)])
def test_energy_per_token_is_near_what_was_published(batch: int, joules: float) -> None:
    found = of("Llama-3.1-8B", "bf16", "h100-sxm", slots=batch)
    idle_j = 70.0 * found.tpot_ms(batch) / 1000.0 / batch
    assert found.decode_wh(batch) * 3600.0 + idle_j == pytest.approx(joules, rel=0.45)


def test_one_thread_speaks_as_measured() -> None:
    found = of("SmolLM2-135M", "q4_1", "x86-thread", slots=8)
    assert found.method == "measured"
    assert 110 * found.prefill_ms_per_token == pytest.approx(477.0)
    for running, tokens_per_s in {1: 72.0, 2: 38.0, 4: 23.0, 8: 13.0}.items():
        assert 1000.0 / found.tpot_ms(running) == pytest.approx(tokens_per_s, rel=found.tpot_error)
    fast = of("SmolLM2-135M", "q4_0", "x86-thread", slots=8)
    assert found.tpot_ms(4) / fast.tpot_ms(4) == pytest.approx(1.5)


@given(
    st.sampled_from(["Llama-3.1-8B", "Llama-3.1-70B", "Qwen3-32B", "gpt-oss-120b"]),
    st.sampled_from(["bf16", "fp8", "int4"]),
    st.sampled_from(["h100-sxm", "h200-sxm", "b200-sxm"]),
    st.integers(4, 8),
    st.integers(1, 256),
)
def test_more_at_once_is_slower_for_each_and_cheaper_for_all(
    model: str, precision: str, chip: str, count: int, slots: int
) -> None:
    found = of(model, precision, chip, count=count, slots=slots)
    figures = [
        found.tpot_ms_base,
        found.tpot_ms_per_running,
        found.prefill_ms_per_token,
        found.prefill_wh_per_token,
        found.decode_wh_per_token,
    ]
    assert min(figures) >= 0.0
    assert found.tpot_ms(slots) >= found.tpot_ms(1)
    assert found.decode_wh(slots) <= found.decode_wh(1)
    assert found.kv_tokens_max > 0


def test_narrower_weights_are_faster_to_decode() -> None:
    speeds = [
        of("Llama-3.1-8B", p, "l4", slots=8).tpot_ms(1) for p in ("int4", "q4_1", "fp8", "bf16")
    ]
    assert speeds == sorted(speeds)


def test_what_is_unknown_or_does_not_fit_is_refused_with_a_reason() -> None:
    with pytest.raises(ConfigError, match=r"variant\.precision"):
        of("Llama-3.1-8B", "q3_xyz", "l4", slots=8)
    with pytest.raises(ConfigError, match="GB of weights"):
        of("Llama-3.1-70B", "bf16", "l4", slots=8)
    assert all(0.0 < size <= 4.0 for size in WEIGHT_BYTES.values())

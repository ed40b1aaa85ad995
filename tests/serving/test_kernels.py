"""The compiled step is the formula, and steps grow with everything that is put into them."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hanse.catalogue import accelerator, ai_model
from hanse.serving import STEP_DTYPE, StepModel, step_model, step_rows
from hanse.serving.kernels import step_ms, step_w
from hanse.serving.steps import decode_ms, decode_w

REPLICAS = [
    ("Llama-3.1-8B", "bf16", "h100-sxm", 1),
    ("gpt-oss-120b", "mxfp4", "b200-sxm", 2),
    ("DeepSeek-V3", "fp8", "h200-sxm", 8),
    ("Qwen3-30B-A3B", "fp8", "l40s", 2),
    ("SmolLM2-135M", "q4_1", "x86-thread", 1),
]


def of(index: int) -> tuple[StepModel, Any]:
    model, precision, chip, count = REPLICAS[index]
    step = step_model(ai_model(model), precision, accelerator(chip), count=count, slots=64)
    return step, step_rows([step])[0]


replicas = st.integers(0, len(REPLICAS) - 1)
amounts = st.floats(0.0, 1e5)
batches = st.integers(1, 512)


def test_a_record_has_the_same_names_and_values() -> None:
    step, row = of(1)
    assert STEP_DTYPE.names == StepModel.__struct_fields__
    assert all(row[name] == getattr(step, name) for name in STEP_DTYPE.names)


@given(replicas, batches, amounts, st.floats(0.0, 1e8), st.floats(0.0, 1e6))
def test_the_kernel_is_the_stated_formula(
    index: int, batch: int, prompt: float, pairs: float, context: float
) -> None:
    m, row = of(index)
    n = batch + prompt
    memory = m.weights_ms + m.routed_ms * (1 - m.routed_miss**n) + m.kv_ms_per_token * context
    expected = max(memory, m.compute_ms_per_token * n) + m.attention_ms_per_pair * pairs
    expected += m.step_ms_fixed + m.request_ms * batch + m.comm_ms_per_token * n
    assert step_ms(row, n, pairs, batch, context) == pytest.approx(expected, rel=1e-12)


@given(replicas, batches, st.floats(1.0, 1e5))
def test_the_linear_form_is_taken_from_the_same_steps(
    index: int, batch: int, context: float
) -> None:
    m, row = of(index)
    expected = decode_ms(m, batch, context)
    assert step_ms(row, float(batch), 0.0, batch, batch * context) == pytest.approx(expected)
    assert step_w(row, batch, 0.0) == pytest.approx(decode_w(m, batch))


@given(replicas, amounts, amounts, batches, amounts, st.integers(0, 3), st.floats(1.0, 1e4))
def test_more_of_anything_never_takes_less_time(
    index: int, new: float, pairs: float, batch: int, context: float, which: int, more: float
) -> None:
    _, row = of(index)
    before = [new, pairs, float(batch), context]
    after = [value + more * (place == which) for place, value in enumerate(before)]
    assert step_ms(row, *after) >= step_ms(row, *before) > 0.0


@given(replicas, st.integers(0, 512), amounts)
def test_power_lies_between_idle_and_the_busiest(index: int, batch: int, prompt: float) -> None:
    m, row = of(index)
    watts = step_w(row, batch, prompt)
    busiest = max(m.prefill_w, m.decode_w_base + 8.0 * m.decode_w_per_log2)
    assert m.idle_w <= watts <= busiest * (1.0 + 1e-12)
    assert math.isfinite(watts)
    assert (watts == m.idle_w) == (batch == 0 and prompt == 0.0)

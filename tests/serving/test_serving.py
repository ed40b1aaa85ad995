"""Coefficients and step models against published and measured figures, within the errors they state."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from hanse.catalogue import accelerator, ai_model, ai_models, all_accelerators
from hanse.errors import ConfigError
from hanse.serving import WEIGHT_BYTES, EngineCoefficients, coefficients, step_model
from hanse.serving.families import CALIBRATED_ERROR, families, family_id, family_of
from hanse.serving.shapes import kv_bytes_read, shape
from hanse.serving.steps import decode_ms

CHIPS = ["h100-sxm", "h200-sxm", "b200-sxm", "a100-sxm-80", "l40s", "mi300x"]


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
    assert found.tpot_ms(batch) == pytest.approx(itl_ms, rel=0.25)
    assert found.method == (
        "roofline, calibrated family" if chip == "h100-sxm" else "roofline, not calibrated"
    )


@pytest.mark.parametrize(("batch", "joules"), [(16, 0.263), (64, 0.119), (256, 0.077)])
def test_energy_per_token_is_near_what_was_published(batch: int, joules: float) -> None:
    found = of("Llama-3.1-8B", "bf16", "h100-sxm", slots=batch)
    idle_j = 108.0 * found.tpot_ms(batch) / 1000.0 / batch  # 70 W empty, 38 W for a loaded model
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
    st.sampled_from(CHIPS),
    st.integers(1, 256),
)
def test_more_at_once_is_slower_for_each_and_cheaper_for_all(
    model: str, precision: str, chip: str, slots: int
) -> None:
    found = of(model, precision, chip, count=8, slots=slots)
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


@given(
    st.sampled_from(sorted(ai_models())),
    st.sampled_from(sorted(WEIGHT_BYTES)),
    st.sampled_from(sorted(all_accelerators())),
    st.sampled_from([1, 2, 4, 8]),
    st.integers(1, 512),
)
def test_every_pair_of_the_catalogue_answers_or_says_why_not(
    model: str, precision: str, chip: str, count: int, slots: int
) -> None:
    refusals: list[ConfigError] = []
    try:
        step = step_model(ai_model(model), precision, accelerator(chip), count=count, slots=slots)
    except ConfigError as refused:
        refusals.append(refused)
    if refusals:
        assert refusals[0].got and refusals[0].allowed
        return
    values = {name: getattr(step, name) for name in step.__struct_fields__}
    assert all(0.0 <= value < float("inf") for value in values.values()), values
    assert step.chips == count
    assert step.idle_w <= step.decode_w_base
    assert step.decode_w_base + 8.0 * step.decode_w_per_log2 <= step.prefill_w * (1.0 + 1e-9)
    assert decode_ms(step, slots) > 0.0


@given(st.sampled_from(CHIPS), st.sampled_from(["bf16", "fp8"]), st.integers(1, 256))
def test_more_bandwidth_is_never_slower(chip: str, precision: str, batch: int) -> None:
    slow = accelerator(chip)
    assert slow.memory_bw_gb_s is not None
    fast = msgspec.structs.replace(slow, memory_bw_gb_s=2.0 * slow.memory_bw_gb_s)
    times = [
        decode_ms(step_model(ai_model("Qwen3-8B"), precision, c, count=1, slots=batch), batch)
        for c in (slow, fast)
    ]
    assert times[1] < times[0]


@pytest.mark.parametrize(
    "precisions", [("int4", "fp8", "bf16"), ("q4_0", "q4_k_m", "q5_k_m", "q6_k", "q8_0", "f16")]
)
def test_narrower_weights_are_faster_to_decode(precisions: tuple[str, ...]) -> None:
    speeds = [of("Llama-3.1-8B", p, "l4", slots=8).tpot_ms(1) for p in precisions]
    assert speeds == sorted(speeds)


def test_what_is_unknown_or_does_not_fit_is_refused_with_a_reason() -> None:
    with pytest.raises(ConfigError, match=r"variant\.precision"):
        of("Llama-3.1-8B", "q3_xyz", "l4", slots=8)
    with pytest.raises(ConfigError, match="GB of weights"):
        of("Llama-3.1-70B", "bf16", "l4", slots=8)
    with pytest.raises(ConfigError, match="no published"):
        of("Qwen3-0.6B", "int8", "hailo-10h", slots=1)
    asr = next(model for model in ai_models().values() if model.kind == "asr")
    with pytest.raises(ConfigError, match="reads text"):
        of(asr.id, "bf16", "l4", slots=1)
    with pytest.raises(ConfigError, match="at least one"):
        of("Llama-3.1-8B", "bf16", "h100-sxm", count=0, slots=8)
    assert all(0.0 < size <= 4.0 for size in WEIGHT_BYTES.values())


@pytest.mark.parametrize(
    ("model", "precision", "gb"),
    [
        # sizes of the published files
        ("gpt-oss-120b", "mxfp4", 65.2),
        ("gpt-oss-20b", "mxfp4", 13.8),
        ("Llama-3.1-8B", "bf16", 16.06),
        ("DeepSeek-V3", "fp8", 688.0),
        ("Llama-3.1-70B", "fp8", 72.7),
    ],
)
def test_a_model_takes_the_memory_that_its_files_take(
    model: str, precision: str, gb: float
) -> None:
    made = shape(ai_model(model), precision, context_tokens_mean=1024.0)
    assert made.stored_bytes / 1e9 == pytest.approx(gb, rel=0.04)


def test_a_model_that_embeds_has_no_head_and_no_cache() -> None:
    model = ai_model("bge-small-en-v1.5")
    made = shape(model, "f16", context_tokens_mean=256.0)
    assert made.stored_bytes == pytest.approx(2.0 * 33.2e6, rel=0.01)
    assert made.every_bytes == pytest.approx(made.stored_bytes - 2.0 * 30_522 * 384)
    assert made.kv_bytes_per_token == 0.0
    small, large = (
        of(name, "bf16", "l4", slots=8) for name in ("bge-small-en-v1.5", "Llama-3.1-8B")
    )
    assert 0.0 < small.prefill_ms_per_token < large.prefill_ms_per_token / 50.0
    assert small.prefill_wh_per_token > 0.0
    assert of("bge-small-en-v1.5", "bf16", "h100-sxm", slots=8).method == "roofline, not calibrated"


@given(st.floats(1.0, 1e6), st.floats(1.0, 1e6))
def test_a_sliding_window_bounds_what_a_step_reads(shorter: float, longer: float) -> None:
    assume(shorter < longer)
    model = ai_model("Gemma-3-12B")
    read = [kv_bytes_read(model, c) * c for c in (shorter, longer)]
    assert read[0] <= read[1] * (1.0 + 1e-12)
    assert kv_bytes_read(model, longer) <= model.kv_bytes_per_token_16bit
    full_share = (model.full_attention_layers or 0) / model.layers
    assert kv_bytes_read(model, 1e9) == pytest.approx(
        full_share * model.kv_bytes_per_token_16bit, rel=1e-4
    )


def test_every_family_is_used_and_has_honest_errors() -> None:
    used = {
        family_id(chip, precision)
        for chip in all_accelerators().values()
        for precision in WEIGHT_BYTES
    }
    assert used == set(families())
    for family in families().values():
        for calibrated, said, elsewhere in (
            (family.calibrated_dense, family.tpot_error_dense, family.tpot_error_elsewhere_dense),
            (
                family.calibrated_routed,
                family.tpot_error_routed,
                family.tpot_error_elsewhere_routed,
            ),
        ):
            assert 0.0 < said <= elsewhere < 1.0, family.id
            assert not calibrated or said <= CALIBRATED_ERROR, family.id
        listed = [c for c in family.chips.split(";") if c]
        assert all(c in all_accelerators() for c in listed), family.id


def test_a_chip_without_measurements_promises_less_than_its_family() -> None:
    measured, sibling = accelerator("h100-sxm"), accelerator("h100-pcie")
    assert family_of(measured, "bf16") == family_of(sibling, "bf16")
    errors = [of("Llama-3.1-8B", "bf16", c.id, slots=8).tpot_error for c in (measured, sibling)]
    assert errors[0] < errors[1]


def test_llama_cpp_runs_its_own_formats_and_small_machines() -> None:
    assert family_id(accelerator("h100-sxm"), "q4_k_m") == "llama-datacenter"
    assert family_id(accelerator("h100-sxm"), "fp16") == "hopper"
    assert family_id(accelerator("apple-m3-ultra"), "bf16") == "llama-apple"
    assert family_id(accelerator("rtx-4090"), "awq") == "workstation"

"""Measured tables override the roofline where they reach, and say so where they do not."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hanse.catalogue import accelerator, ai_model
from hanse.errors import ConfigError
from hanse.serving import step_model
from hanse.serving.measured import (
    ERROR,
    MeasuredReplica,
    MeasuredStep,
    MeasuredTable,
    read_table,
    shipped,
)
from hanse.serving.predict import Prediction, predict
from hanse.serving.steady import pace_of
from hanse.serving.steps import decode_ms, step_ms

HEAD = "model,accelerator,count,precision,batch,input_tokens,prefill_ms,tpot_ms,power_w\n"
LLAMA = ai_model("Llama-2-70B")
H100 = accelerator("h100-sxm")


def replica(count: int = 4) -> MeasuredReplica:
    found = shipped("splitwise").replica(LLAMA, "fp16", H100, count)
    assert found is not None
    return found


def answer(batch: float, prompt: float, *tables: MeasuredTable) -> Prediction:
    return predict(
        LLAMA,
        "bf16",
        H100,
        count=4,
        batch=batch,
        input_tokens=prompt,
        output_tokens=128,
        tables=tables,
    )


def test_the_shipped_table_has_both_models_and_chips() -> None:
    rows = shipped("splitwise").rows
    assert {r.model for r in rows} == {"Llama-2-70B", "BLOOM-176B"}
    assert {r.accelerator for r in rows} == {"a100-sxm-80", "h100-sxm"}
    assert len(rows) == 104
    assert all(r.power_w is None or r.power_w > 100.0 for r in rows)


def test_at_a_point_the_measurement_itself_holds() -> None:
    step = step_model(LLAMA, "fp16", H100, count=4, slots=8)
    for point in replica().points:
        said = pace_of(step, point.batch, point.input_tokens, 0.0)
        found = replica().pace(step, said, point.batch, point.input_tokens, 0.0)
        assert found.decode_ms == pytest.approx(point.tpot_ms, rel=1e-6)


def test_a_point_left_out_is_met_by_its_neighbours() -> None:
    errors = []
    for count in (2, 4, 8):
        step = step_model(LLAMA, "fp16", H100, count=count, slots=8)
        points = replica(count).points
        for i, point in enumerate(points):
            others = MeasuredReplica(table="rest", points=points[:i] + points[i + 1 :])
            said = pace_of(step, point.batch, point.input_tokens, 0.0)
            found = others.pace(step, said, point.batch, point.input_tokens, 0.0)
            errors.append(abs(found.decode_ms / point.tpot_ms - 1.0))
    errors.sort()
    assert errors[len(errors) // 2] <= ERROR / 2


@given(st.floats(1.0, 64.0), st.floats(128.0, 8192.0))
def test_between_points_the_ratio_stays_between_theirs(batch: float, prompt: float) -> None:
    step = step_model(LLAMA, "fp16", H100, count=4, slots=8)
    ratios = [p.tpot_ms / decode_ms(step, p.batch, p.input_tokens) for p in replica().points]
    said = pace_of(step, batch, prompt, 0.0)
    ratio = replica().pace(step, said, batch, prompt, 0.0).decode_ms / said.decode_ms
    assert min(ratios) * (1 - 1e-9) <= ratio <= max(ratios) * (1 + 1e-9)


def test_a_prediction_with_the_table_says_so_and_differs() -> None:
    plain, measured = answer(8, 512), answer(8, 512, shipped("splitwise"))
    assert measured.method == "measured, interpolated"
    assert measured.expected_error == ERROR < plain.expected_error
    assert measured.tpot_ms != pytest.approx(plain.tpot_ms, rel=0.02)


def test_far_beyond_the_measurements_nothing_is_said() -> None:
    answer(128, 512, shipped("splitwise"))
    with pytest.raises(ConfigError, match="twice the measured range"):
        answer(300, 512, shipped("splitwise"))
    with pytest.raises(ConfigError, match="context tokens"):
        answer(1, 40_000, shipped("splitwise"))


def test_other_replicas_are_left_to_the_roofline() -> None:
    table = shipped("splitwise")
    assert table.replica(LLAMA, "fp8", H100, 4) is None
    assert table.replica(LLAMA, "bf16", H100, 3) is None
    assert table.replica(ai_model("Llama-3.1-8B"), "bf16", H100, 4) is None


def test_an_adjusted_step_model_meets_the_measurements_on_average() -> None:
    step = step_model(LLAMA, "fp16", H100, count=4, slots=8)
    adjusted = replica().adjusted(step)
    product = 1.0
    for point in replica().points:
        product *= point.tpot_ms / decode_ms(adjusted, point.batch, point.input_tokens)
    assert product ** (1 / len(replica().points)) == pytest.approx(1.0, rel=0.01)
    assert msgspec.structs.asdict(adjusted).keys() == msgspec.structs.asdict(step).keys()
    assert adjusted.kv_tokens_max == step.kv_tokens_max


@given(tpot_ms=st.floats(6.0, 200.0), token_ms=st.floats(0.5, 50.0), fixed_ms=st.floats(0.0, 100.0))
def test_an_adjusted_thread_meets_prompts_and_answers_at_once(
    tpot_ms: float, token_ms: float, fixed_ms: float
) -> None:
    """Its prompts and answers share the time of a token, so that neither can be set without the other."""
    chip, model = accelerator("x86-thread"), ai_model("SmolLM2-135M")
    # An answer's token costs more than a prompt's, and a prompt more than the step that it is read in.
    token_ms = min(max(token_ms, 0.05 * tpot_ms), 0.7 * tpot_ms)
    point = MeasuredStep(
        model=model.id, accelerator=chip.id, count=1, precision="q4_1", batch=1, input_tokens=100,
        prefill_ms=100.0 * token_ms, tpot_ms=tpot_ms, ttft_ms_fixed=fixed_ms,
    )  # fmt: skip
    found = MeasuredReplica(table="one", points=(point,))
    adjusted = found.adjusted(step_model(model, "q4_1", chip, count=1, slots=4))
    assert decode_ms(adjusted, 1.0, 100.0) == pytest.approx(tpot_ms, rel=1e-3)
    assert step_ms(adjusted, 100.0, 5050.0, 1.0, 0.0) == pytest.approx(100.0 * token_ms, rel=1e-3)
    assert adjusted.ttft_ms_fixed == pytest.approx(fixed_ms)


@given(step=st.floats(0.5, 50.0), request=st.floats(2.0, 50.0), token_ms=st.floats(0.5, 1.5))
def test_what_a_step_and_what_a_request_takes_are_told_apart(
    step: float, request: float, token_ms: float
) -> None:
    """An engine whose step takes `step` and a request in it `request`, whatever the thread's own proportions are."""
    chip, model = accelerator("x86-thread"), ai_model("SmolLM2-135M")
    points = tuple(
        MeasuredStep(
            model=model.id, accelerator=chip.id, count=1, precision="q4_1", batch=batch, input_tokens=1000,
            prefill_ms=1000.0 * token_ms * batch + step, tpot_ms=step + request * batch,
        )
        for batch in (1, 2, 4)
    )  # fmt: skip
    declared = step_model(model, "q4_1", chip, count=1, slots=4)
    adjusted = MeasuredReplica(table="three", points=points).adjusted(declared)
    for point in points:
        assert decode_ms(adjusted, point.batch, 1000.0) == pytest.approx(point.tpot_ms, rel=0.02)
    assert decode_ms(adjusted, 8, 1000.0) == pytest.approx(step + request * 8, rel=0.05)


@given(
    lone=st.floats(3.0, 12.0),
    each=st.floats(1.05, 1.4),
    token=st.floats(0.3, 0.9),
    cut=st.floats(0.02, 0.4),
)
def test_steps_that_grow_faster_than_their_requests_are_met(
    lone: float, each: float, token: float, cut: float
) -> None:
    """A lone answer on one thread is quicker than each of several: no step with a cost of its own has that shape."""
    points = tuple(
        MeasuredStep(
            model="SmolLM2-135M", accelerator="x86-thread", count=1, precision="q4_1", batch=b, input_tokens=tokens,
            prefill_ms=b * (3.0 + token * lone * tokens), tpot_ms=lone * (1.0 + (1.0 + each) * (b - 1.0)),
        )
        for b in (1.0, 2.0 - cut, 2.0) for tokens in (56.0, 110.0)
    )  # fmt: skip
    step = step_model(ai_model("SmolLM2-135M"), "q4_1", accelerator("x86-thread"), count=1, slots=4)
    found = MeasuredReplica(table="made", points=points).adjusted(step)
    for p in points:
        made_ms = step_ms(found, p.batch, 0.0, p.batch, p.batch * p.input_tokens)
        assert made_ms == pytest.approx(p.tpot_ms, rel=0.12)
    prompts = [p for p in points if p.batch == 1.0]
    for p in prompts:
        pairs = p.input_tokens * (p.input_tokens + 1.0) / 2.0
        assert step_ms(found, p.input_tokens, pairs, 1.0, 0.0) == pytest.approx(
            p.prefill_ms, rel=0.12
        )
    assert step_ms(found, 1.0, 0.0, 1.0, 1.0) > 0.0


def test_a_table_of_ones_own_is_read_with_names_as_people_write_them(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text(HEAD + "meta-llama/Llama-3.1-8B-Instruct,RTX 4090,1,AWQ,1,512,60,7.5,\n")
    table = read_table(path)
    assert table.name == "mine"
    row = table.rows[0]
    assert (row.model, row.accelerator, row.precision) == ("Llama-3.1-8B", "rtx-4090", "awq")
    assert row.power_w is None


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (HEAD, "no rows"),
        ("model,accelerator\nLlama-2-70B,h100-sxm\n", "columns"),
        (HEAD + "Llama-2-70B,h100-sxm,4,fp16,one,512,80,30,\n", r":2"),
        (HEAD + "Llama-2-70B,h100-sxm,4,fp16,1,512,80,-30,\n", "not positive"),
        (
            HEAD.replace("power_w", "ttft_ms_fixed") + "Llama-2-70B,H100,4,fp16,1,512,80,30,-1\n",
            "0 or more",
        ),
        (HEAD + "Llama-2-71B,h100-sxm,4,fp16,1,512,80,30,\n", "Llama-2-70B"),
        (HEAD + "Llama-2-70B,h100-sxm,4,fp17,1,512,80,30,\n", "precision"),
    ],
)
def test_a_wrong_table_is_refused_with_its_line(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "wrong.csv"
    path.write_text(text)
    with pytest.raises(ConfigError, match=says):
        read_table(path)


def test_an_unknown_shipped_table_is_refused() -> None:
    with pytest.raises(ConfigError, match="splitwise"):
        shipped("vidur")

"""`hanse predict`: answers on standard output, files that come back with answers or reasons, exit codes."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest

from hanse.cli import main

COLUMNS = "model,accelerator,count,precision,batch,input_tokens,output_tokens"


def hanse(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    said = capsys.readouterr()
    return int(ended.value.code or 0), said.out, said.err


def test_one_question_is_answered_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    load = (
        "--count",
        "2",
        "--precision",
        "fp8",
        "--batch",
        "64",
        "--input",
        "500",
        "--output",
        "300",
    )
    code, out, _ = hanse(
        capsys, "predict", "meta-llama/Llama-3.3-70B-Instruct", "H100 SXM", *load, "--json"
    )
    found = json.loads(out)
    assert code == 0
    assert (found["model"], found["accelerator"], found["count"]) == (
        "Llama-3.1-70B",
        "h100-sxm",
        2,
    )
    assert found["output_tok_s"] > found["batch"] * 1000.0 / found["tpot_ms"] * 0.8
    assert 0.0 < found["expected_error"] <= 0.2


def test_one_question_is_answered_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = hanse(capsys, "predict", "Qwen3-8B", "L4", "--precision", "awq")
    assert code == 0
    assert err == ""
    assert "time per output token" in out and "expected error" in out
    assert "unpacked" in out


def test_a_file_comes_back_with_answers_or_reasons(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = [
        f"{COLUMNS},note",
        "Llama-3.1-8B,h100-sxm,1,bf16,16,300,400,first",
        "Llama-3.1-70B,l4,1,bf16,1,10,10,too large",
        "no-such-model,l4,1,bf16,1,10,10,unknown",
        "Qwen3-8B,hailo-10h,1,int4,1,10,10,unpublished",
        "Qwen3-8B,a100-80gb,1,bf16,many,10,10,no number",
        "Qwen3-8B,a100-80gb,1,bf16,4,10,,empty",
    ]
    path = tmp_path / "questions.csv"
    path.write_text("\n".join(asked) + "\n")
    code, out, _ = hanse(capsys, "predict", "--csv", str(path))
    rows = list(csv.DictReader(io.StringIO(out)))
    assert code == 0
    assert [row["note"] for row in rows] == [line.rsplit(",", 1)[1] for line in asked[1:]]
    assert rows[0]["why"] == ""
    assert float(rows[0]["tpot_ms"]) == pytest.approx(9.0, rel=0.3)
    assert float(rows[0]["j_per_token"]) == pytest.approx(
        float(rows[0]["power_w"]) / float(rows[0]["output_tok_s"]), rel=1e-4
    )
    for row in rows[1:]:
        assert row["why"] and not row["tpot_ms"] and not row["expected_error"], row


def test_a_file_from_a_spreadsheet_is_read_and_what_is_not_calibrated_is_marked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "questions.csv"
    asked = [
        COLUMNS.title(),
        "Llama-3.1-8B,H100,1,FP8,16,300,400",
        "Llama-3.1-8B,H20,1,w4a16,nan,1,1",
    ]
    asked.append("meta-llama/Llama-3.1-8B-Instruct-AWQ,Gaudi 3,1,bfloat16,16,300,400")
    path.write_text("\ufeff" + "\n".join(asked) + "\n", encoding="utf-8")
    code, out, _ = hanse(capsys, "predict", "--csv", str(path))
    known, none, other = csv.DictReader(io.StringIO(out))
    assert code == 0
    assert known["method"] == "roofline, calibrated family"
    assert float(known["expected_error"]) <= 0.15
    assert none["why"] and not none["method"]
    assert other["method"] == "roofline, not calibrated"
    assert float(other["expected_error"]) >= 0.35


def test_an_answered_file_can_be_asked_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "questions.csv"
    path.write_text(f"{COLUMNS}\nLlama-3.1-8B,b200-sxm,1,nvfp4,16,300,400\n")
    _, once, _ = hanse(capsys, "predict", "--csv", str(path))
    path.write_text(once)
    _, twice, _ = hanse(capsys, "predict", "--csv", str(path))
    assert once == twice


def test_a_measured_table_is_used_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    question = ("predict", "Llama-2-70b-hf", "a100-80gb", "--count", "4", "--precision", "fp16")
    load = ("--batch", "8", "--input", "512", "--output", "128", "--json")
    code, out, _ = hanse(capsys, *question, *load, "--table", "splitwise")
    assert code == 0
    assert json.loads(out)["method"] == "measured, interpolated"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("predict",), "--csv FILE"),
        (("predict", "Llama-3.1-9B", "l4"), "Llama-3.1-8B"),
        (("predict", "Llama-3.1-8B", "l5"), "did you mean"),
        (("predict", "Llama-3.1-8B", "l4", "--precision", "fp7"), "bf16"),
        (("predict", "Llama-3.1-70B", "l4"), "GB of weights"),
        (("predict", "--csv", "nowhere.csv"), "nowhere.csv"),
        (("predict", "Llama-3.1-8B", "l4", "--table", "nowhere.csv"), "nowhere.csv"),
        (("predict", "Llama-3.1-8B", "l4", "--count", "0"), "at least one"),
    ],
)
def test_bad_input_ends_with_2_and_says_what_was_wrong(
    arguments: tuple[str, ...], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = hanse(capsys, *arguments)
    assert code == 2
    assert says in err
    assert out == ""


def test_a_file_without_the_columns_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "short.csv"
    path.write_text("model,accelerator\nLlama-3.1-8B,l4\n")
    code, _, err = hanse(capsys, "predict", "--csv", str(path))
    assert code == 2
    assert "no column count" in err

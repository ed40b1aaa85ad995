"""The table of claims goes between its markers, and nowhere else."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from tests.plan.answers import rich

from hanse.cli import main
from hanse.errors import ConfigError
from hanse.plan.claims_page import BEGIN, END, table, written_into

README = Path(__file__).parents[2] / "README.md"


def test_only_what_lies_between_the_markers_changes(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"# A\n\n{BEGIN}\nold\n{END}\n\nrest\n", encoding="utf-8")
    answer = rich()
    for _ in range(2):
        written_into(page, answer)
        assert page.read_text(encoding="utf-8") == (
            f"# A\n\n{BEGIN}\n{table(answer)}\n{END}\n\nrest\n"
        )


def test_every_claim_is_a_row_as_wide_as_the_head() -> None:
    answer = rich()
    lines = table(answer).splitlines()
    assert len(lines) == len(answer.claims) + 2
    widths = {line.replace("\\|", "").count("|") for line in lines}
    assert widths == {len(answer.designs) + 4}


@pytest.mark.parametrize("text", ["", BEGIN, f"{END} {BEGIN}", f"{BEGIN}{BEGIN}{END}"])
def test_a_page_without_the_markers_is_left_as_it_was(tmp_path: Path, text: str) -> None:
    page = tmp_path / "page.md"
    page.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match="markers"):
        written_into(page, rich())
    assert page.read_text(encoding="utf-8") == text


def test_the_readme_has_a_table() -> None:
    page = README.read_text(encoding="utf-8")
    held = page[page.index(BEGIN) : page.index(END)]
    assert held.count("\n|") > 10, "run hanse claims --into README.md"


def test_claims_of_a_study_that_was_planned_come_from_its_answer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, page = tmp_path / "answer.json", tmp_path / "page.md"
    file.write_bytes(msgspec.json.encode(rich()))
    page.write_text(f"{BEGIN}\n{END}\n", encoding="utf-8")
    with pytest.raises(SystemExit) as ended:
        main(["claims", str(file), "--into", str(page)])
    assert ended.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    for claim in rich().claims:
        assert f"{claim.claim}: {claim.verdict}" in shown
        assert all(f"{name} {value}" in shown for name, value in claim.by_design.items())
    assert table(rich()) in page.read_text(encoding="utf-8")


@pytest.mark.parametrize("content", [None, b"", b"{}", b'{"schema": "hanse-plan/1"}'])
def test_what_is_no_answer_is_said(
    tmp_path: Path, content: bytes | None, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "answer.json"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(SystemExit) as ended:
        main(["claims", str(file)])
    assert ended.value.code == 2
    assert "answer.json" in capsys.readouterr().err

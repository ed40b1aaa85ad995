"""The table of claims goes between its markers, and nowhere else."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.plan.answers import rich

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

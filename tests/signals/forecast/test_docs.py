"""The pages' examples run as they stand."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from hanse.signals.forecast.methods import PREDICT
from hanse.signals.providers import csv_table, read_settings
from hanse.signals.providers.live import ASK

DOCS = Path(__file__).parents[3] / "docs"


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (DOCS / page).read_text(), re.S)


def test_the_program_runs(capsys: pytest.CaptureFixture[str]) -> None:
    (program,) = blocks("forecast.md", "python")
    exec(compile(program, "docs/forecast.md", "exec"), {})
    assert "average_location blend" in capsys.readouterr().out


def test_every_method_is_described() -> None:
    text = (DOCS / "forecast.md").read_text()
    assert all(f"`{name}`" in text for name in PREDICT)


def test_the_feeds_file_is_right_and_shows_every_provider(tmp_path: Path) -> None:
    (text,) = blocks("feeds.md", "toml")
    (tmp_path / "feeds.toml").write_text(text)
    assert {one.provider for one in read_settings(tmp_path / "feeds.toml")} == set(ASK)
    (table,) = blocks("feeds.md", "csv")
    assert list(csv_table.rows(table.encode(), "docs").values()) == [120.0, 117.0]

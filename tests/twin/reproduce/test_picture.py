"""Pictures: published and ours are both drawn, the same bytes each time."""

from __future__ import annotations

from pathlib import Path

import pytest

from hanse.errors import ConfigError
from hanse.twin.reproduce.picture import draw
from hanse.twin.reproduce.values import Reproduction, row

pytest.importorskip("matplotlib", reason="pictures need matplotlib")


def reproduction(name: str) -> Reproduction:
    also = {"optimum": 1.0, "all 34": 3.0}
    rows = (
        row("5 ms, 0 % idle", "g", ours=2.0, paper=2.5, tolerance=1.0, also=also),
        row("50 ms, 0 % idle", "g", ours=1.0, paper=1.5, tolerance=1.0, also=also),
        row("5 ms, 50 % idle", "h", ours=1.5, paper=1.5, tolerance=1.0, also=also),
    )
    return Reproduction(
        name=name, question="How?", source="", method="", rows=rows, files=(), agrees=True
    )


@pytest.mark.parametrize("name", ["eurosys24-latency", "any"])
def test_a_picture_is_the_same_bytes_each_time_and_says_what_it_shows(
    name: str, tmp_path: Path
) -> None:
    draw(reproduction(name), tmp_path / "a.svg")
    draw(reproduction(name), tmp_path / "b.svg")
    text = (tmp_path / "a.svg").read_text()
    assert text == (tmp_path / "b.svg").read_text()
    assert "How?" in text and "published" in text and "ours" in text


def test_rows_nobody_published_are_drawn_by_themselves(tmp_path: Path) -> None:
    alone = reproduction("any")
    alone = Reproduction(
        name="any",
        question="How?",
        source="",
        method="",
        rows=(row("x", "g", ours=1.0),),
        files=(),
        agrees=True,
    )
    draw(alone, tmp_path / "a.svg")
    assert ">x<" in (tmp_path / "a.svg").read_text()


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--svg"):
        draw(reproduction("any"), tmp_path / "gone" / "a.svg")

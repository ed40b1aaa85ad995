"""docs/threats.md: what it names as proof is there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "threats.md").read_text()


def test_every_test_that_the_threat_model_names_exists() -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", TEXT)
    assert len(named) > 30
    for path, test in named:
        assert (ROOT / path).is_file(), path
        assert not test or f"def {test}(" in (ROOT / path).read_text(), (path, test)


def test_every_cannot_of_a_part_that_was_taken_over_has_its_proof() -> None:
    rows = [line.split("|")[1:-1] for line in TEXT.splitlines() if line.startswith("| **")]
    assert len(rows) >= 15
    for part, _, cannot in rows:
        assert "tests/" in cannot or "the same as" in cannot, part

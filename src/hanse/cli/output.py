"""Where output goes: documents on standard output, everything for people on standard error or a console."""

from __future__ import annotations

import sys
from typing import Any

import msgspec


def print_json(document: Any) -> None:
    """One JSON document on standard output."""
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(document), indent=2).decode() + "\n")


def say(text: str) -> None:
    """One line for a person."""
    sys.stderr.write(text + "\n")

"""Where output goes: a command's answer on standard output, all that is said beside it on standard error.

Here: one function for each: `print_json` and `say` and `table_console` for the answer, `note` for the rest. With `--json` the answer is
one document, and standard output holds nothing else. Not here: bars of progress, which go to standard error where they are made.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Final

import msgspec

if TYPE_CHECKING:
    from rich.console import Console

PIPED_CHARS: Final = 1000
"""Width where nobody's screen sets one: every row of a table, and every sentence, is one line for `grep` and `less -S`."""


def print_json(document: Any) -> None:
    """The answer as one JSON document."""
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(document), indent=2).decode() + "\n")


def say(text: str) -> None:
    """One line of the answer, for a person."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()  # in order with what is noted meanwhile


def note(text: str) -> None:
    """One line beside the answer: what is awaited, what was written, what to mind, what is wrong."""
    sys.stderr.write(text + "\n")


def table_console() -> Console:
    """Where tables of the answer are printed: as wide as the terminal, and elsewhere as wide as they are."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else PIPED_CHARS, highlight=False)

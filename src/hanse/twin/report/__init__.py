"""A result for people: tables for the terminal, and one HTML page that needs no network.

Here: `write_report`, `check_place`. Not here: tables (`tables`), charts (`charts`), the page (`page`), figures (`twin.summary`).
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from hanse.errors import ConfigError
from hanse.twin.result import Result

__all__ = ["check_place", "write_report"]


def check_place(path: Path) -> None:
    """Say before minutes are spent that a report cannot be written there.

    Raises:
        ConfigError: there is no such folder.
    """
    if path.suffix in (".html", ".htm") and not path.parent.is_dir():
        allowed = "a file that ends in .html in a folder that exists, or a folder"
        raise ConfigError(f"--report {path}", got=f"no folder {path.parent}", allowed=allowed)


def write_report(result: Result, path: Path) -> None:
    """Write the page to a file that ends in `.html`, or the page and the result as JSON into a folder.

    Raises:
        ConfigError: nothing can be written there.
    """
    from hanse.twin.report.page import page

    text = page(result)
    try:
        if path.suffix in (".html", ".htm"):
            path.write_text(text, encoding="utf-8")
            return
        path.mkdir(parents=True, exist_ok=True)
        (path / "report.html").write_text(text, encoding="utf-8")
        document = msgspec.json.format(msgspec.json.encode(result), indent=2)
        (path / "result.json").write_bytes(document + b"\n")
    except OSError as error:
        allowed = "a file that ends in .html, or a folder, that can be written"
        raise ConfigError(f"--report {path}", got=str(error), allowed=allowed) from error

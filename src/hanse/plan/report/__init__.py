"""A planning study for a board: one page that needs no network, a CSV for every figure and table on it, and the answer as JSON.

Here: `write_report`. Not here: tables (`tables`), figures (`figures`), words (`verdict`), what figures rest on (`methods`), the page (`page`).
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from hanse.errors import ConfigError
from hanse.plan.answer import Answer

__all__ = ["write_report"]


def write_report(answer: Answer, folder: Path) -> Path:
    """Write `index.html`, `figures/NAME.csv` and `answer.json` into a folder; returns the page's path.

    Raises:
        ConfigError: nothing can be written there.
    """
    from hanse.plan.report.figures import figures
    from hanse.plan.report.page import page
    from hanse.plan.report.table import csv_text
    from hanse.plan.report.tables import tables

    made = tables(answer)
    drawn = figures(answer, made)
    text = page(answer, made, drawn)
    sheets = made | {figure.key: figure.table for figure in drawn.values()}
    try:
        (folder / "figures").mkdir(parents=True, exist_ok=True)
        for key, table in sheets.items():
            (folder / "figures" / f"{key}.csv").write_text(csv_text(table), encoding="utf-8")
        document = msgspec.json.format(msgspec.json.encode(answer), indent=2)
        (folder / "answer.json").write_bytes(document + b"\n")
        path = folder / "index.html"
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        allowed = "a folder that can be written, or the name of a new one"
        raise ConfigError(f"report folder {folder}", got=str(error), allowed=allowed) from error
    return path

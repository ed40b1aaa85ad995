"""Claims as a table in a Markdown page, between two markers, so that a README shows what was computed and nothing else.

Here: `table`, `written_into`. Not here: the claims (`claims`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from hanse.errors import ConfigError
from hanse.plan.answer import Answer

BEGIN: Final = "<!-- claims: made by `hanse claims --into FILE` -->"
END: Final = "<!-- /claims -->"


def table(answer: Answer) -> str:
    """Claim, each design's measured value, condition, verdict."""
    designs = answer.designs
    heads = ["claim", *(d.name for d in designs), "where it holds", "verdict"]
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    for claim in answer.claims:
        values = [claim.by_design.get(d.id, "–") for d in designs]
        if not set(claim.by_design) & {d.id for d in designs}:
            said = "; ".join(f"{name}: {value}" for name, value in claim.by_design.items())
            values = [said or "–", *[""] * (len(designs) - 1)]
        cells = [claim.claim, *values, claim.condition, f"**{claim.verdict}**"]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)


def written_into(path: Path, answer: Answer) -> None:
    """Put the table between the markers of a page; all else stays.

    Raises:
        ConfigError: the page is not there or has no such markers.
    """
    try:
        page = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError("--into", got=f"{path}: {error.strerror}", allowed="a page") from error
    if page.count(BEGIN) != 1 or page.count(END) != 1 or page.index(BEGIN) > page.index(END):
        raise ConfigError(
            "--into",
            got=f"{path} without the two markers",
            allowed="a page that has both, each once, in this order",
            fix=f"write the lines {BEGIN} and {END} where the table shall stand",
        )
    before, after = page[: page.index(BEGIN)], page[page.index(END) :]
    path.write_text(f"{before}{BEGIN}\n{table(answer)}\n{after}", encoding="utf-8")

"""The page `docs/assumptions.md`, made from the figures: `python -m hanse.plan.assumptions_page > docs/assumptions.md`.

Here: Markdown of a set of figures. Not here: the figures (`plan.assumptions`).
"""

from __future__ import annotations

import sys
from typing import Final

from hanse.plan.assumptions import Assumption, Assumptions, build_markets, read

HEAD: Final = """# Assumptions of the planner

Every uncertain figure that decides between small and big, with its range and where that comes from. Made from `src/hanse/plan/data/assumptions.toml`.
A study replaces any of them: a number, or low, most likely and high, under `[assumptions]`, and its origin under `[sources]`, by the same name.

* **Basis**: *read*, published and read by us; *vendor*, published by who sells it; *assumption*, ours, and the source says what it leans on.
* **Cost**: what a larger figure does to the cost of a design: up, down, either (mixed), or nothing (none: it belongs to a design's operation).
* Figures are drawn independently of each other from a triangle over low, most likely and high, or evenly over the logarithm (log), by Latin hypercube.
  All designs see the same draws. Money is of the study's first year; interest and drifts are real.

What is left out: taxes on profit and property, residual values, the cost of moving people and data between designs, wages by country.
Emissions of making PV and wind plants are in the life-cycle factors of their energy, as they are for the grid, so they are not counted again.
A carbon tax of a study comes on top of the shadow price `carbon_usd_per_t`; set that to 0 for costs in cash alone.
"""


def page(assumptions: Assumptions) -> str:
    """All figures by group, and what building costs by market."""
    groups: dict[str, list[Assumption]] = {}
    for figure in assumptions.figures.values():
        groups.setdefault(figure.group, []).append(figure)
    parts = [HEAD, *(_table(name, figures) for name, figures in groups.items()), _markets()]
    return "\n".join(parts)


def _table(group: str, figures: list[Assumption]) -> str:
    head = f"## {group.replace('_', ' ')}\n\n| figure | unit | low, likely, high | valid | cost | basis | source |\n|---|---|---|---|---|---|---|\n"
    return head + "".join(_row(figure) for figure in figures)


def _row(figure: Assumption) -> str:
    low, mid, high = (_short(x) for x in (figure.low, figure.mid, figure.high))
    spread = {"fixed": mid, "loguniform": f"{low}, {mid}, {high} (log)"}
    drawn = spread.get(figure.shape, f"{low}, {mid}, {high}")
    valid = f"{_short(figure.valid_min)} to {_short(figure.valid_max)}"
    source = f"{figure.source}. {figure.note}" if figure.note else figure.source
    return f"| `{figure.id}` | {figure.unit} | {drawn} | {valid} | {figure.cost} | {figure.basis} | {source} |\n"


def _markets() -> str:
    head = "## What building costs by market\n\nTurner & Townsend, Data centre construction cost index 2025-26. A city's factor is its figure over the mean; other cities take their country's mean, else 1.\n\n| city | country | USD/W |\n|---|---|---|\n"
    return head + "".join(
        f"| {m.city} | {m.country} | {m.usd_per_w:.2f} |\n" for m in build_markets()
    )


def _short(number: float) -> str:
    return f"{number:,.0f}" if abs(number) >= 10_000.0 else f"{number:g}"


if __name__ == "__main__":
    sys.stdout.write(page(read()))

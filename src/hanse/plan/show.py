"""An answer on one screen: what it says, the designs side by side, what flips it, which files were written.

Here: `show`. Not here: the words and tables (`plan.report`), arguments of the command line (`cli`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.padding import Padding
from rich.table import Table as Grid
from rich.text import Text

from hanse.plan.answer import Answer
from hanse.plan.report.table import Table, shown
from hanse.plan.report.tables import designs
from hanse.plan.report.verdict import headline, tokens, without_policies

NAME_CHARS: Final = 24
"""Of what a row is called, with its unit."""
DESIGN_CHARS: Final = 11
"""Of a design's column, gap included: five fit on 80."""
NOTES_MAX: Final = 3
POLICIES_MAX: Final = 5
"""One of each kind."""
QUICK: Final = (
    ("usd_per_mtoken_p50", "USD/Mtoken"),
    ("win_share", "cheapest in"),
    ("location_g_per_mtoken_p50", "gCO2e/Mtoken location"),
    ("embodied_g_per_mtoken_p50", "  embodied, beside it"),
    ("ttft_ms_p95", "TTFT p95 ms, planned"),
    ("served_share", "served"),
    ("sites", "sites"),
    ("staff_fte", "staff"),
)
"""What a first look needs: half a screen."""
ROWS: Final = (
    ("usd_per_mtoken_p50", "USD/Mtoken p50"),
    ("usd_per_mtoken_p5", "  p5"),
    ("usd_per_mtoken_p95", "  p95"),
    ("win_share", "cheapest in"),
    ("location_g_per_mtoken_p50", "gCO2e/Mtoken location"),
    ("market_g_per_mtoken_p50", "  or market"),
    ("marginal_g_per_mtoken_p50", "  or marginal"),
    ("embodied_g_per_mtoken_p50", "  embodied, beside it"),
    ("kwh_per_mtoken_p50", "kWh/Mtoken"),
    ("water_l_per_mtoken_p50", "litres/Mtoken"),
    ("ttft_ms_p95", "TTFT p95 ms, planned"),
    ("hours_ttft_ms_p95", "  in the twin's hours"),
    ("twin_ttft_ms_p95", "  by the twin in those"),
    ("served_share", "served"),
    ("served_without_1", "  largest site gone"),
    ("available", "availability"),
    ("idle_share", "idle chips"),
    ("pooling_extra_share", "pooling loss"),
    ("pue", "PUE"),
    ("ups_load_share", "UPS load"),
    ("shift_space_share", "by-hour routing saves"),
    ("shift_time_share", "waiting saves"),
    ("away_gb_per_day", "too large: GB/day WAN"),
    ("sites", "sites"),
    ("it_kw_last_year", "IT kW, last year"),
    ("staff_fte", "staff"),
    ("operator_actions_per_month", "operator actions/month"),
    ("jurisdictions", "jurisdictions"),
)
"""What speaks for a design and what speaks against it, in one column."""


def show(
    answer: Answer, console: Console, *, files: Sequence[Path] = (), quick: bool = False
) -> None:
    """Print the answer; `quick`: a page of 24 lines, of a study that was solved without the twin."""
    first, second = headline(answer)
    console.print(Text(f"{answer.study}: {tokens(answer.tokens_per_day)}, {answer.years} years, {answer.draws:,} draws, seed {answer.seed}"))  # fmt: skip
    console.print(Text(first, style="bold"))
    console.print(Text(second))
    table = designs(answer)
    most = max(1, (console.width - NAME_CHARS) // DESIGN_CHARS)
    console.print(_grid(table, QUICK if quick else ROWS, most))
    if len(table.rows) > most:
        console.print(Text(f"and {len(table.rows) - most} dearer designs; a wider terminal shows them", style="dim"))  # fmt: skip
    if not quick:
        _say_rest(answer, console)
    for path in files:
        console.print(Text(f"written: {path}"), soft_wrap=True)
    if quick:
        console.print(Text("a first look: no twin, a wider gap; run without --quick for ranges to rely on", style="dim"))  # fmt: skip


def _grid(table: Table, rows: Sequence[tuple[str, str]], most: int) -> Grid:
    """Rows are figures, columns designs, cheapest first."""
    grid = Grid(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    grid.add_column("", no_wrap=True, max_width=NAME_CHARS)
    for row in table.rows[:most]:
        grid.add_column(Text(str(row[0])), justify="right", overflow="fold")
    at = {column.key: i for i, column in enumerate(table.columns)}
    for key, name in rows:
        i = at[key]
        grid.add_row(Text(name), *(Text(shown(table.columns[i], r[i])) for r in table.rows[:most]))
    return grid


def _say_rest(answer: Answer, console: Console) -> None:
    """Notes, and how to do it again; what else flips the answer is in the report."""
    said = without_policies(answer)
    for sentence in said[:POLICIES_MAX]:
        console.print(Text(sentence))
    if len(said) > POLICIES_MAX:
        console.print(Text(f"and {len(said) - POLICIES_MAX} policies more in the report"))
    for note in answer.notes[:NOTES_MAX]:
        console.print(Text(f"note: {note}", style="dim"))
    if len(answer.notes) > NOTES_MAX:
        console.print(Text(f"and {len(answer.notes) - NOTES_MAX} notes more in the report", style="dim"))  # fmt: skip
    if answer.command:
        console.print(Text(f"again: {answer.command}", style="dim"), soft_wrap=True)


def show_claims(answer: Answer, console: Console) -> None:
    """What is claimed for and against small sites: verdict, then what was measured, then each design's figure."""
    names = [d.id for d in answer.designs]
    for claim in answer.claims:
        known = [name for name in (*names, *claim.by_design) if name in claim.by_design]
        values = " · ".join(f"{name} {claim.by_design[name]}" for name in dict.fromkeys(known))
        console.print(Text.assemble((claim.claim, "bold"), f": {claim.verdict}"))
        console.print(Padding(Text(claim.condition, style="dim"), (0, 0, 0, 2), expand=False))
        console.print(Padding(Text(values or "-"), (0, 0, 1, 2), expand=False))

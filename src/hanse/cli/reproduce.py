"""`hanse reproduce`: published results, rerun on data that a user points to, beside the published numbers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hanse.cli.output import print_json, say, table_console

if TYPE_CHECKING:
    from rich.table import Table

    from hanse.twin.reproduce.values import Reproduction, Row


def reproduce(
    name: str = "",
    /,
    *,
    data: Path | None = None,
    svg: Path | None = None,
    json: bool = False,
) -> int:
    """Rerun a published result and print it beside the published numbers.

    Without a name, list what can be rerun. Ends with 1 if a row is outside its tolerance.
    Example: `hanse reproduce eurosys24-latency --data ../shared/data`

    Parameters
    ----------
    name
        What to rerun; leave out for the list.
    data
        Folder with the data; default the environment variable HANSE_DATA, else ../shared/data beside the repository.
        docs/reproduce.md says what it must hold.
    svg
        File to draw a picture into; needs matplotlib.
    json
        Print the answer as one JSON document on standard output.
    """
    from hanse.twin.reproduce import REPRODUCTIONS
    from hanse.twin.reproduce import reproduce as rerun

    if not name:
        _list({one: question for one, (_, question) in REPRODUCTIONS.items()}, json)
        return 0
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    from hanse.twin.reproduce.inputs import data_dir

    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        progress.add_task(f"Running {name}", total=None)
        # an unknown name is the first thing to hear of
        answer = rerun(name, data_dir(data) if name in REPRODUCTIONS else Path())
    if svg is not None:
        from hanse.twin.reproduce.picture import draw

        draw(answer, svg)
    if json:
        print_json(answer)
    else:
        _say(answer)
    return 0 if answer.agrees else 1


def _list(questions: dict[str, str], json: bool) -> None:
    if json:
        print_json([{"name": one, "question": text} for one, text in questions.items()])
        return
    wide = max(map(len, questions))
    for one, text in questions.items():
        say(f"  {one:{wide}}  {text}")


def _say(answer: Reproduction) -> None:
    console = table_console()
    console.print(answer.question, style="bold")
    for unit in dict.fromkeys(one.unit for one in answer.rows):
        console.print(_table(unit, [one for one in answer.rows if one.unit == unit]))
    for text in (
        f"Source: {answer.source}.",
        f"Method: {answer.method}",
        *(f"* {note}" for note in answer.notes),
    ):
        console.print(text, markup=False)
    apart = [one.name for one in answer.rows if not one.agrees]
    say(f"outside tolerance: {'; '.join(apart)}" if apart else "every row within its tolerance")


def _table(unit: str, rows: list[Row]) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    also = list(dict.fromkeys(column for one in rows for column in one.also))
    table = Table(box=SIMPLE_HEAD)
    table.add_column(unit)
    for column in ("published", "ours", "difference", *also):
        table.add_column(column, justify="right", no_wrap=True)
    for one in rows:
        numbers = [one.paper, one.ours, one.difference, *(one.also.get(c) for c in also)]
        cells = ["" if number is None else _figure(number) for number in numbers]
        table.add_row(one.name, *cells, style="" if one.agrees else "bold red")
    return table


def _figure(number: float) -> str:
    if abs(number) < 5e-5:
        return "0"
    if number == int(number) or abs(number) >= 1000.0:
        return f"{number:,.0f}"
    return f"{number:.2f}" if abs(number) >= 0.01 else f"{number:.4f}"

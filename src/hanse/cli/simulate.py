"""`hanse simulate`: a fleet on a trace, with faults or without, as tables, JSON, Parquet and a report.

Here: arguments, progress, tables. Not here: the run (`twin.runs`), figures (`twin.summary`), the report (`twin.report`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from hanse.cli.options import Scale, Seed
from hanse.cli.output import note, print_json, say, table_console
from hanse.model.told import UNREADABLE

if TYPE_CHECKING:
    from rich.table import Table

    from hanse.twin.report.tables import Sheet
    from hanse.twin.result import Result


def simulate(
    fleet: Path,
    /,
    *,
    trace: Path | None = None,
    scenario: Path | None = None,
    start: str | None = None,
    scale: Scale = 1.0,
    seed: Seed = 1358,
    policy: str = "shipped",
    measured: Path | None = None,
    requests: Path | None = None,
    report: Path | None = None,
    reference: Path | None = None,
    json: bool = False,
) -> int:
    """Simulate a fleet on a trace: who is served where, how fast, with what energy, carbon and money, and what law closed.

    Placements hold as in the file, also where `[slow_loop] places = true`. Ends with 1 if a request was executed where its law forbids. Example: `hanse simulate examples/league.toml --report report.html`

    Parameters
    ----------
    fleet
        Path of the fleet file.
    trace
        Trace, or a spec (.toml) to make one from; default the day of the example league that ships with Hanse.
    scenario
        Faults: a TOML file as in docs/twin.md.
    start
        Full hour at which the run starts, ISO 8601; default as the trace says.
    scale
        Demand times this.
    seed
        Of everything that is drawn; the same seed gives the same bytes.
    policy
        How to choose a site; docs/policies.md has the names. FILE.py:FUNCTION is your own.
    measured
        CSV of measured steps (`hanse calibrate` writes one): engines that it has take these in place of the predicted ones.
    requests
        Parquet file to write every finished request to.
    report
        HTML file to write a report to, or a folder for it and the result as JSON.
    reference
        Result of another run (its --json) to compare latency and savings with.
    json
        Print the result as one JSON document on standard output.
    """
    from hanse.twin import runs

    other = _read_result(reference) if reference is not None else None
    with progress_bar(f"simulating {fleet.name}") as told:
        result = runs.simulate(
            fleet,
            trace=trace,
            scenario=scenario,
            start=start,
            scale=scale,
            seed=seed,
            policy=policy,
            measured=measured,
            requests=requests,
            report=report,
            reference=other,
            progress=told,
        )
    print_json(result) if json else _say(result)
    _say_rest(result, {"requests": requests, "report": report}, note if json else say)
    return 1 if result.residency.unlawful or result.residency.unlawful_recount else 0


def _say_rest(result: Result, files: dict[str, Path | None], tell: Callable[[str], None]) -> None:
    """Files that were written, what was assumed, and how to do it again."""
    for what, path in files.items():
        if path is not None:
            note(f"{what}: {path}")
    for one in result.notes:
        tell(f"mind: {one}")
    tell(f"seed {result.run.seed}; again: {result.run.command}")


@contextmanager
def progress_bar(what: str) -> Iterator[Callable[[float], None]]:
    """A bar with the time that is left, on standard error where that is a terminal; told the share that is done."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task(f"{what} (the first time kernels compile: half a minute)", total=1.0)
        yield lambda share: bars.update(task, completed=share, description=what)


def _read_result(path: Path) -> Result:
    import msgspec

    from hanse.errors import ConfigError
    from hanse.twin.result import Result

    try:
        return msgspec.json.decode(path.read_bytes(), type=Result)
    except (*UNREADABLE, OSError) as error:
        raise ConfigError(
            f"--reference {path}", got=str(error), allowed="what `hanse simulate --json` printed"
        ) from None


def _say(result: Result) -> None:
    from hanse.twin.report.tables import sheets
    from hanse.units import hours_from_s

    console = table_console()
    run = result.run
    console.print(
        f"{run.fleet} on {run.trace}: {run.requests:,} requests in {hours_from_s(run.duration_s):,.1f} h from {run.start_at}, "
        f"policy {run.policy}, scenario {run.scenario}",
        style="bold",
        highlight=False,
    )
    for sheet in sheets(result):
        if sheet.screen:
            console.print(table_of(sheet))
            for one in sheet.notes:
                console.print(f"  {one}", style="dim", markup=False)
    law = result.residency
    verdict = "every request was executed where its law allows"
    if law.unlawful or law.unlawful_recount:
        verdict = f"{max(law.unlawful, law.unlawful_recount)} requests were executed where their law forbids: a defect"
    say(
        f"residency: {verdict}; {len(law.barred)} combinations of class, country and site are closed by law"
    )


def table_of(sheet: Sheet) -> Table:
    """What of a sheet fits a terminal, figures to the right."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, title=sheet.title, title_justify="left", pad_edge=False)
    table.padding = (0, 1, 0, 0)
    for i in sheet.screen:
        if i == 0:
            table.add_column(sheet.columns[i], overflow="fold")
        else:  # a head may take several lines, a figure may not
            head = sheet.columns[i].replace(" ", "\n")
            table.add_column(head, justify="right", no_wrap=True)
    rows = sheet.rows[: sheet.screen_rows]
    if sheet.total and len(rows) < len(sheet.rows):
        rows = (*rows, sheet.rows[-1])
    for row in rows:
        table.add_row(*(row[i] for i in sheet.screen))
    return table

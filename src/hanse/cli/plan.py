"""`hanse plan` and `hanse claims`: how to build AI capacity, with the full cost and its doubts.

Here: arguments, progress, files, output. Not here: the answer (`plan.solve`), its table (`plan.show`), its report (`plan.report`).
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from hanse.cli.options import Draws, Processes, Seed
from hanse.cli.output import note, print_json, table_console

if TYPE_CHECKING:
    from hanse.plan.answer import Answer
    from hanse.plan.steps import Store
    from hanse.plan.study_file import Study

INTERRUPTED = 130
"""Exit code of what a person stopped, as shells have it: 128 and the number of SIGINT."""


def plan(
    study: Path | None = None,
    /,
    *,
    quick: bool = False,
    cities: str | None = None,
    tokens_per_day: float = 2e9,
    data_class: Annotated[str, Parameter(name="--class")] = "personal",
    growth: float = 0.3,
    latency_ms: float | None = None,
    out: Path | None = None,
    draws: Draws | None = None,
    seed: Seed | None = None,
    processes: Processes | None = None,
    ray: str | None = None,
    json: bool = False,
) -> int:
    """Say how to build AI capacity: small sites, a big one, a mix, or rent; with cost, carbon, latency and doubt.

    Without a study file and without --cities it answers the embedded study of sixty European cities: some nine minutes on two free
    cores, two with --quick. A few cities with --quick take half a minute. Example: `hanse plan --quick --cities frankfurt,lyon,milan --tokens-per-day 2e9 --class health`

    Parameters
    ----------
    study
        Path of the study file (docs/plan.md).
    quick
        A first look: a study made of the options below, or a study file without own power and the twin.
    cities
        With --quick: where users are, with commas.
    tokens_per_day
        With --quick: prompts and answers together, in the first year.
    data_class
        With --quick: class of law: non_personal, personal, health, payment, government ...
    growth
        With --quick: of demand, per year; 0.4 is 40 %.
    latency_ms
        With --quick: longest round trip from a user to a site.
    out
        Folder for the report, fleet files, a day's trace and the study; default plan-NAME.
    draws
        Random draws of all figures; default as the study says.
    seed
        Of everything that is drawn; default as the study says.
    processes
        How many compute; default one for each core, with --quick one. The numbers are the same.
    ray
        Address of a Ray cluster that computes instead, e.g. auto or 10.0.0.1:6379 (needs the extra `ray`). The numbers are the same.
    json
        Print the answer as one JSON document on standard output.
    """
    found = _study(study, quick, cities, tokens_per_day, data_class, growth, latency_ms)
    found = _with(found, draws, seed)
    folder = out or Path(f"plan-{found.name}")
    store = _store(found, folder, quick)
    try:
        answer = _solved(found, folder, quick, _processes(processes, quick), ray, store)
    except KeyboardInterrupt:
        note(f"interrupted with {store.count()} steps done; the same command goes on from there")
        return INTERRUPTED
    store.clear()
    print_json(answer) if json else _show(answer, quick)
    note(f"written to {folder}/: {', '.join(sorted(p.name for p in folder.iterdir()))}")
    return 0


def _solved(
    study: Study, folder: Path, quick: bool, processes: int | None, ray: str | None, store: Store
) -> Answer:
    """The answer, with all its files written."""
    from hanse.plan.solve import solve
    from hanse.plan.workers import workers

    command = "hanse " + shlex.join(sys.argv[1:])
    with (
        workers(processes=processes, ray=ray) as who,
        _progress(f"planning {study.name}") as told,
    ):
        answer = solve(
            study, out=folder, quick=quick, command=command, progress=told, workers=who, store=store
        )
        _report(answer, folder)
    return answer


def claims(
    study: Path | None = None,
    /,
    *,
    quick: bool = False,
    draws: Draws | None = None,
    out: Path | None = None,
    processes: Processes | None = None,
    into: Path | None = None,
    json: bool = False,
) -> int:
    """Hold what is usually claimed for and against micro data centers against a study.

    Parameters
    ----------
    study
        Path of a study file, or of an answer.json that `hanse plan` wrote; default the embedded study, which takes minutes.
    quick
        A first look: no own power, no twin; of the embedded study in two minutes instead of nine, on two free cores. Nothing is written.
    draws
        Random draws of all figures; default as the study says.
    out
        Folder for what `hanse plan` writes; default plan-NAME.
    processes
        How many compute; default one for each core, with --quick one. The numbers are the same.
    into
        Markdown page whose table of claims, between two markers, is made anew.
    json
        Print the claims as one JSON document on standard output.
    """
    if study is not None and study.suffix == ".json":
        from hanse.plan.read import read_answer

        answer = read_answer(study)
    else:
        answer = _first_look(study, draws) if quick else _whole(study, draws, out, processes)
    if into is not None:
        from hanse.plan.claims_page import written_into

        written_into(into, answer)
    if json:
        print_json(answer.claims)
    else:
        _show_claims(answer)
    return 0


def _first_look(study: Path | None, draws: int | None) -> Answer:
    from hanse.plan.read import read_study
    from hanse.plan.solve import solve

    found = _with(read_study(study), draws, None)
    with _progress(f"planning {found.name}") as told:
        return solve(found, quick=True, progress=told)


def _whole(
    study: Path | None, draws: int | None, out: Path | None, processes: int | None
) -> Answer:
    """As `hanse plan` has it, with all that it writes."""
    from hanse.plan.read import read_study

    found = _with(read_study(study), draws, None)
    folder = out or Path(f"plan-{found.name}")
    store = _store(found, folder, False)
    answer = _solved(found, folder, False, _processes(processes, False), None, store)
    store.clear()
    return answer


def _study(
    path: Path | None,
    quick: bool,
    cities: str | None,
    tokens_per_day: float,
    data_class: str,
    growth: float,
    latency_ms: float | None,
) -> Study:
    from hanse.errors import ConfigError
    from hanse.plan.quick import QuickOptions, quick_study
    from hanse.plan.read import read_study

    if cities is None:
        found = read_study(path)
        if quick and path is None:
            note(
                f"no --cities: the embedded study of {len(found.cities)} cities, which takes minutes"
            )
        return found
    if path is not None or not quick:
        raise ConfigError(
            "--cities",
            got="beside a study file" if path else "without --quick",
            allowed="either a study file, or --quick with --cities",
        )
    return quick_study(
        QuickOptions(
            cities=tuple(cities.split(",")),
            tokens_per_day=tokens_per_day,
            data_class=data_class,
            growth=growth,
            latency_ms=latency_ms,
        )
    )


def _with(study: Study, draws: int | None, seed: int | None) -> Study:
    from msgspec.structs import replace

    return replace(
        study,
        draws=study.draws if draws is None else draws,
        seed=study.seed if seed is None else seed,
    )


def _store(study: Study, folder: Path, quick: bool) -> Store:
    """What an interrupted run of the same study left, and where this one leaves it."""
    from hanse.plan.steps import Store, digest_of

    store = Store(folder, digest_of(study, [quick]))
    if left := store.count():
        note(f"going on with {left} steps of an interrupted run; delete {store.root} to begin anew")
    return store


def _processes(asked: int | None, quick: bool) -> int | None:
    """Starting processes takes as long as a first look."""
    return 1 if asked is None and quick else asked


def _report(answer: Answer, folder: Path) -> None:
    from hanse.plan.report import write_report

    write_report(answer, folder)


def _show(answer: Answer, quick: bool) -> None:
    from hanse.plan.show import show

    show(answer, table_console(), quick=quick)


def _show_claims(answer: Answer) -> None:
    from hanse.plan.show import show_claims

    show_claims(answer, table_console())


@contextmanager
def _progress(what: str) -> Iterator[Callable[[str, float], None]]:
    """A bar on standard error, with what is being done."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task(what, total=1.0)
        yield lambda doing, share: bars.update(
            task, completed=share, description=f"{what}: {doing}"
        )

"""`hanse compare`: fleets and policies side by side on the same traffic, with intervals for what differs.

Here: arguments, progress, tables. Not here: runs, draws, differences (`twin.compare`).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from hanse.cli.options import Runs, Scale, Seed, Workers
from hanse.cli.output import note, print_json, say, table_console

ALIKE = 0.01
"""Difference of answered shares beyond which latencies and costs per answer are not of the same requests."""

if TYPE_CHECKING:
    from hanse.twin.compare import Comparison, Figure, Metric
    from hanse.twin.report.tables import Sheet


def compare(
    fleets: Annotated[list[Path], Parameter(consume_multiple=True)],
    /,
    *,
    policy: Annotated[list[str] | None, Parameter(consume_multiple=True)] = None,
    central: bool = False,
    trace: Path | None = None,
    scenario: Path | None = None,
    start: str | None = None,
    scale: Scale = 1.0,
    seed: Seed = 1358,
    runs: Runs = 5,
    workers: Workers = 0,
    json: bool = False,
) -> int:
    """Compare fleets, policies, or both in all combinations, on the same traffic and over several draws of it.

    Differences are from the first, run by run, with 95 % intervals. Example: `hanse compare examples/league.toml --central`

    Parameters
    ----------
    fleets
        Paths of fleet files.
    policy
        Ways to choose, one or more; docs/policies.md has the names.
    central
        Compare also with the one big site that the first fleet names in [central], holding as many replicas as the whole fleet.
    trace
        Trace, or a spec (.toml) to make them from; default that of the day which ships with Hanse.
    scenario
        Faults, the same for all.
    start
        Full hour at which runs start, ISO 8601; default as the trace says.
    scale
        Demand times this.
    seed
        Draw n of the traffic has this plus n.
    runs
        Draws. A generated trace is made anew, a recorded one bootstrapped by conversation.
    workers
        Processes; 0: as many as there are cores.
    json
        Print the comparison as one JSON document on standard output.
    """
    from hanse.cli.simulate import progress_bar
    from hanse.twin import compare as comparing

    policies = tuple(policy or ["shipped"])
    count = (len(fleets) + central) * len(policies)
    with progress_bar(f"{count} alternatives, {runs} runs each") as told:
        found = comparing.compare(
            *fleets,
            policies=policies,
            central=central,
            trace=trace,
            scenario=scenario,
            start=start,
            scale=scale,
            seed=seed,
            runs=runs,
            workers=workers,
            progress=told,
        )
    print_json(found) if json else _say(found)
    tell = note if json else say
    for line in (*(f"mind: {one}" for one in found.notes), f"again: {found.command}"):
        tell(line)
    return 0


def _say(found: Comparison) -> None:
    from hanse.cli.simulate import table_of

    console = table_console()
    console.print(f"{found.trace}: {found.draws}", style="bold")
    for sheet in (_means(found), _differences(found), _returns(found)):
        console.print(table_of(sheet))
    say(
        "intervals are 95 %, of chance in the traffic; * marks a difference that is more than chance"
    )


def _points(difference: float) -> str:
    return f"{100.0 * abs(difference):.1f} pp {'more' if difference > 0.0 else 'fewer'}"


def _means(found: Comparison) -> Sheet:
    rows = [
        (
            _named(metric),
            *(
                _with_width(a.figures[m].mean, a.figures[m].half_width, metric)
                for a in found.alternatives
            ),
        )
        for m, metric in enumerate(found.metrics)
    ]
    return _sheet("Means over the runs", [a.label for a in found.alternatives], rows)


def _differences(found: Comparison) -> Sheet:
    others = found.alternatives[1:]
    rows = [
        (_named(metric), *(_difference(a.figures[m], metric) for a in others))
        for m, metric in enumerate(found.metrics)
    ]
    title = f"Differences from {found.alternatives[0].label}"
    return _sheet(title, [a.label for a in others], rows)


def _returns(found: Comparison) -> Sheet:
    from hanse.web.figures import number

    others = [a for a in found.alternatives if a.latency_return is not None]
    returns = [a.latency_return for a in others if a.latency_return is not None]
    rows = [
        ("added E2E, ms", *(number(r.added_e2e_ms) for r in returns)),
        ("saved, Wh an answer", *(number(r.saved_wh) for r in returns)),
        ("saved, g an answer", *(number(r.saved_g) for r in returns)),
        ("saved, USD an answer", *(number(r.saved_usd) for r in returns)),
        ("Wh per added ms", *(number(r.wh_per_ms) for r in returns)),
        ("g per added ms", *(number(r.g_per_ms) for r in returns)),
        ("USD per added ms", *(number(r.usd_per_ms) for r in returns)),
    ]
    title = f"Return on latency, against {found.alternatives[0].label}"
    return _sheet(title, [a.label for a in others], rows)


def _sheet(title: str, labels: list[str], rows: list[tuple[str, ...]]) -> Sheet:
    from hanse.twin.report.tables import Sheet

    return Sheet(
        key="",
        title=title,
        columns=("", *labels),
        rows=tuple(rows),
        screen=tuple(range(len(labels) + 1)),
        screen_rows=len(rows),
    )


def _named(metric: Metric) -> str:
    return f"{metric.name}, {metric.unit}" if metric.unit not in ("", "share") else metric.name


def _with_width(value: float | None, width: float | None, metric: Metric) -> str:
    text = _text(value, metric)
    return text if width is None or value is None else f"{text} ± {_text(width, metric)}"


def _difference(figure: Figure, metric: Metric) -> str:
    if figure.difference is None:
        return _text(None, metric)
    sign = "+" if figure.difference > 0.0 else ""
    star = " *" if figure.differs else ""
    text = _with_width(figure.difference, figure.difference_half_width, metric)
    return sign + text.replace(" %", " pp") + star  # a difference of shares is one of points


def _text(value: float | None, metric: Metric) -> str:
    from hanse.web.figures import number

    if value is None or metric.unit != "share":
        return number(value)
    return f"{100.0 * value:.2f} %"

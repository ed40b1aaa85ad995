"""`hanse trace`: requests as data: import them, make them, change them, look at them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

from cyclopts import App, Parameter

from hanse.cli.options import Seed
from hanse.cli.output import note, print_json, say, table_console
from hanse.errors import ConfigError

if TYPE_CHECKING:
    from hanse.signals.traces import Chunk, Trace, TraceMeta
    from hanse.signals.traces.figures import Figures, Group, Tokens
    from hanse.signals.traces.rows import Progress
    from hanse.signals.traces.tables import Imported

Format: TypeAlias = Literal["azure", "mooncake", "burstgpt", "servegen", "csv", "jsonl"]
Time: TypeAlias = Literal["auto", "s", "ms", "us", "ns", "iso"]

app = App(name="trace", help="Requests as data: import, make, change and show traces.")


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class OfTables:
    """Options of csv and jsonl."""

    map: Annotated[
        str,
        Parameter(
            help="csv, jsonl: columns at=, in=, out=, and where there are service=, class=, origin=, "
            "tenant=, session=, blocks=."
        ),
    ] = ""
    time: Annotated[
        Time, Parameter(help="csv, jsonl: what times are in; detected and said where it is auto.")
    ] = "auto"
    block_tokens: Annotated[
        int, Parameter(help="jsonl: tokens of a prefix block, where --map names blocks.")
    ] = 0
    licence: Annotated[
        str, Parameter(help="csv, jsonl: terms of the file, to be carried in the trace.")
    ] = "unknown"


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class OfServeGen:
    """Options of servegen."""

    factor: Annotated[float, Parameter(help="servegen: demand times this.")] = 1.0
    from_s: Annotated[float, Parameter(help="servegen: second of the record to begin with.")] = 0.0
    until_s: Annotated[float, Parameter(help="servegen: second of the record to end with.")] = inf
    seed: Annotated[Seed, Parameter(help="servegen: same seed, same requests.")] = 1


@app.command(name="import")
def import_(
    files: Annotated[list[Path], Parameter(consume_multiple=True)],
    /,
    *,
    format: Format,
    out: Path,
    tables: OfTables | None = None,
    service: str = "",
    skip_bad: bool = False,
    servegen: OfServeGen | None = None,
    json: bool = False,
) -> int:
    """Make a trace of other people's files; several files become one trace, by their dates where all have one.

    Example: `hanse trace import log.csv --format csv --map at=timestamp,in=prompt,out=answer --out trace.parquet`

    Parameters
    ----------
    files
        Files to read, plain or .gz.
    format
        Whose format it is; csv and jsonl need --map.
    out
        Trace to write.
    service
        Name of the service where the file has none; default the file's name.
    skip_bad
        Leave rows that cannot be read out and count them, instead of stopping at the first.
    json
        Print what was done as one JSON document on standard output.
    """
    from hanse.signals.traces.transform import merged

    found = []
    for path in files:
        with _bar(f"reading {path.name}", _size(path)) as progress:
            how: dict[str, Any] = {"skip_bad": skip_bad, "progress": progress}
            if format == "servegen":
                found.append(_read_servegen(path, servegen or OfServeGen(), progress))
            elif format in ("csv", "jsonl"):
                found.append(_read_table(path, format, tables or OfTables(), service, how))
            else:
                found.append(_read_public(path, format, service, how))
    traces = [one.trace for one in found]
    meta = _write(traces[0] if len(traces) == 1 else merged(traces, by_clock=True), out)
    said = [line for one in found for line in one.said]
    for line in said:
        note(line)
    return _done(meta, out, json, {"said": said, "skipped": sum(one.skipped for one in found)})


@app.command
def make(*, spec: Path, out: Path, seed: Seed | None = None, json: bool = False) -> int:
    """Make a trace from a spec: users in cities, local days, bursts, crowds, conversations. See docs/traces.md.

    Example: `hanse trace make --spec day.toml --out day.parquet`

    Parameters
    ----------
    spec
        Spec in TOML.
    out
        Trace to write.
    seed
        In place of the spec's: same seed, same requests.
    json
        Print what was made as one JSON document on standard output.
    """
    import msgspec

    from hanse.signals.traces.generate import generate
    from hanse.signals.traces.spec import read_spec

    asked = read_spec(spec)
    if seed is not None:
        asked = msgspec.structs.replace(asked, seed=seed)
    trace = generate(asked)
    return _done(_write(trace, out, asked.requests_per_s * trace.meta.duration_s), out, json, {})


@app.command
def change(
    file: Path,
    /,
    *,
    out: Path,
    window: str = "",
    rotate_h: float = 0.0,
    scale: float = 1.0,
    origins: str = "",
    classes: str = "",
    tenants: str = "",
    services: str = "",
    rename: str = "",
    seed: Seed = 1,
    json: bool = False,
) -> int:
    """Make another trace of one, in the order of the options below.

    Example: `hanse trace change day.parquet --window 0:3600 --scale 2 --origins Lyon=2,Tallinn=1 --out hour.parquet`

    Parameters
    ----------
    file
        Trace to read.
    out
        Trace to write.
    window
        FROM:UNTIL in seconds from its start.
    rotate_h
        Hours later, what leaves at the end comes in at the beginning.
    scale
        Demand times this; whole conversations are copied or left out.
    origins
        CITY=WEIGHT,...: give every conversation an origin.
    classes
        CLASS=WEIGHT,...: give every conversation a data class.
    tenants
        TENANT=WEIGHT,...: give every conversation a tenant.
    services
        SERVICE=WEIGHT,...: give every conversation a service.
    rename
        OLD=NEW,...: services of a recording to those of a fleet.
    seed
        For all that is drawn.
    json
        Print what was done as one JSON document on standard output.
    """
    from hanse.signals.traces import open_trace
    from hanse.signals.traces import transform as t
    from hanse.units import s_from_hours

    trace = open_trace(file)
    if window:
        trace = t.window(trace, *_span(window))
    if rotate_h:
        trace = t.rotated(trace, s_from_hours(rotate_h))
    if scale != 1.0:
        trace = t.scaled(trace, scale, seed)
    drawn = {"origin": origins, "cls": classes, "tenant": tenants, "service": services}
    for column, text in drawn.items():
        if text:
            trace = _assigned(trace, column, text, seed)
    if rename:
        pairs = dict(pair.partition("=")[::2] for pair in rename.split(","))
        trace = t.renamed(trace, "service", pairs)
    return _done(_write(trace, out), out, json, {})


@app.command
def show(file: Path, /, *, json: bool = False) -> int:
    """Say what a trace is like: how much, how even, tokens, who, and how much of its prefixes comes again.

    Example: `hanse trace show day.parquet`

    Parameters
    ----------
    file
        Trace to read.
    json
        Print the figures as one JSON document on standard output.
    """
    from hanse.signals.traces import open_trace
    from hanse.signals.traces.figures import figures_of

    trace = open_trace(file)
    with _bar(f"reading {file.name}", trace.meta.count) as progress:
        figures = figures_of(trace, _counted(trace.chunks(), progress))
    if json:
        print_json({"meta": trace.meta, "figures": figures})
    else:
        _say(trace.meta, figures)
    return 0


def _read_servegen(path: Path, asked: OfServeGen, progress: Progress) -> Imported:
    from hanse.signals.traces.servegen import read_servegen

    return read_servegen(path, progress=progress, **asdict(asked))


def _read_public(path: Path, format: Format, service: str, how: dict[str, Any]) -> Imported:
    from hanse.signals.traces.formats import read_azure, read_burstgpt, read_mooncake

    if format == "burstgpt":
        return read_burstgpt(path, **how)
    return (read_azure if format == "azure" else read_mooncake)(path, service=service, **how)


def _read_table(
    path: Path, format: Any, asked: OfTables, service: str, how: dict[str, Any]
) -> Imported:
    from hanse.signals.traces.formats import columns_of
    from hanse.signals.traces.tables import Table, read_table

    columns = columns_of(asked.map)
    table = Table(
        path=path,
        form=format,
        columns=columns,
        time=asked.time,
        service="" if columns.service else service or path.name.split(".")[0],
        block_tokens=asked.block_tokens,
        licence=asked.licence,
        skip_bad=how["skip_bad"],
    )
    return read_table(table, how["progress"])


def _write(trace: Trace, out: Path, expected: float = -1.0) -> TraceMeta:
    from hanse.signals.traces import write_trace

    total = trace.meta.count if trace.meta.count >= 0 else int(expected)
    with _bar(f"writing {out.name}", total) as progress:
        return write_trace(out, trace.meta, _counted(trace.chunks(), progress))


def _done(meta: TraceMeta, out: Path, json: bool, more: dict[str, Any]) -> int:
    if json:
        print_json({"file": str(out), "meta": meta, **more})
    else:
        say(f"{out}: {meta.count:,} requests in {_time(meta.duration_s)}")
    return 0


@contextmanager
def _bar(what: str, total: int) -> Iterator[Progress]:
    """A bar on standard error, where that is a terminal; told how much of `total` is done."""
    from rich.console import Console
    from rich.progress import Progress as Bars

    console = Console(stderr=True)
    with Bars(console=console, transient=True, disable=not console.is_terminal) as bars:
        task = bars.add_task(what, total=total if total > 0 else None)
        yield lambda done: bars.update(task, completed=done)


def _counted(chunks: Iterable[Chunk], progress: Progress) -> Iterator[Chunk]:
    done = 0
    for chunk in chunks:
        yield chunk
        done += len(chunk.requests)
        progress(done)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _assigned(trace: Trace, column: str, text: str, seed: int) -> Trace:
    from hanse.signals.traces.tables import place
    from hanse.signals.traces.transform import assigned

    option = "--classes" if column == "cls" else f"--{column}s"
    names, weights = _weights(text, option)
    if column == "origin":
        return assigned(trace, column, [place(name, option) for name in names], weights, seed)
    return assigned(trace, column, names, weights, seed)


def _span(text: str) -> tuple[float, float]:
    begin, colon, end = text.partition(":")
    try:
        if not colon:
            raise ValueError
        return float(begin or 0.0), float(end or "inf")
    except ValueError:
        allowed = "FROM:UNTIL in seconds, such as 3600:7200"
        raise ConfigError("--window", got=repr(text), allowed=allowed) from None


def _weights(text: str, option: str) -> tuple[list[str], list[float]]:
    names, weights = [], []
    for pair in text.split(","):
        name, _, weight = pair.partition("=")
        try:
            names.append(name.strip())
            weights.append(float(weight or 1.0))
        except ValueError:
            allowed = "NAME=WEIGHT,NAME=WEIGHT with numbers as weights"
            raise ConfigError(option, got=repr(pair), allowed=allowed) from None
    return names, weights


def _say(meta: TraceMeta, figures: Figures) -> None:
    from rich.table import Table

    say(f"{meta.name}: {figures.requests:,} requests in {_time(figures.duration_s)}")
    say(f"source {meta.source}; licence {meta.licence}" + (f"; {meta.note}" if meta.note else ""))
    say(
        f"{figures.requests_per_s:.3g} requests/s, peak {figures.peak_over_mean:.2f} times that "
        f"(in {figures.bin_s:.3g} s)"
    )
    for name, tokens in (("in", figures.tokens_in), ("out", figures.tokens_out)):
        say(f"tokens {name}: {_tokens(tokens)}")
    if figures.conversations:
        say(f"{figures.conversations:,} conversations of {figures.turns_mean:.2f} requests")
    if figures.prefixes:
        p = figures.prefixes
        about = "" if p.exact else "about "
        say(
            f"prefixes: {p.blocks:,} blocks of {p.block_tokens} tokens, {about}{p.distinct:,} different; "
            f"{p.reused_share:.1%} come again"
        )
    table = Table()
    for name in ("", "requests", "share", "tokens in", "tokens out"):
        table.add_column(name, justify="left" if not name else "right")
    for what, groups in (
        ("service", figures.services),
        ("class", figures.classes),
        ("origin", figures.origins),
        ("tenant", figures.tenants),
    ):
        _rows(table, what, groups)
    table_console().print(table)


def _rows(table: Any, what: str, groups: tuple[Group, ...]) -> None:
    most = 20  # fits a screen; --json has all
    for group in sorted(groups, key=lambda g: -g.requests)[:most]:
        table.add_row(
            f"{what} {group.name}",
            f"{group.requests:,}",
            f"{group.share:.1%}",
            f"{group.tokens_in_mean:,.0f}",
            f"{group.tokens_out_mean:,.0f}",
        )
    if len(groups) > most:
        table.add_row(f"and {len(groups) - most} more", "", "", "", "", end_section=True)
    elif groups:
        table.add_section()


def _tokens(tokens: Tokens) -> str:
    return (
        f"mean {tokens.mean:,.1f}, p50 {tokens.p50:,}, p95 {tokens.p95:,}, p99 {tokens.p99:,}, "
        f"most {tokens.max:,}"
    )


def _time(duration_s: float) -> str:
    from hanse.units import SECONDS_PER_DAY, hours_from_s

    if duration_s < 600.0:
        return f"{duration_s:.1f} s"
    if duration_s < 2 * SECONDS_PER_DAY:
        return f"{hours_from_s(duration_s):.2f} h"
    return f"{duration_s / SECONDS_PER_DAY:.1f} days"

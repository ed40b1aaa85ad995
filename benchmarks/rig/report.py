"""What a run says: the JSON document, the ratios, the targets, and the tables for people.

Not here: measuring anything but the machine's description.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from rich.console import Console
from rich.table import Table

from rig.scenarios import DIRECT, FaultRow, Missing, PlainRow, StreamRow, Value

Row = TypeVar("Row", PlainRow, StreamRow, FaultRow)
OURS = "hanse"
YARDSTICK = "sglang-router"
CPU_US_MAX = 66.0
"""Two thirds of what sglang-router needs with its default policy (99 us on the same rig)."""
RPS_RATIO_MIN = 1.4
TTFT_ADDED_MS_MAX = 2.0
KEPT_MIN = 0.7
"""What HAProxy with active checks keeps; routers without keep under 22 %."""


class Machine(Value, frozen=True, kw_only=True):
    """Where it ran."""

    cpu: str
    cores: int
    memory_gib: float
    kernel: str
    python: str


class Ratio(Value, frozen=True, kw_only=True):
    """Ours beside another, in one cell; above 1 is better for us in both figures."""

    cell: str
    other: str
    rps: float
    cpu: float | None
    """CPU of the other for one request / ours; None beside direct."""


class Goal(Value, frozen=True, kw_only=True):
    """A target and what this run measured for it."""

    name: str
    wanted: str
    got: float
    met: bool


class Document(Value, frozen=True, kw_only=True):
    """benchmarks/results/gateway.json."""

    schema: str = "hanse-bench-gateway/1"
    date: str
    """As given on the command line; the benchmark reads no calendar."""
    seed: int
    wall_s: float
    settings: dict[str, float]
    machine: Machine
    versions: dict[str, str]
    notes: dict[str, str]
    plain: list[PlainRow]
    stream: list[StreamRow]
    fault: list[FaultRow]
    ratios: list[Ratio]
    goals: list[Goal]
    not_measured: list[Missing]


def describe_machine() -> Machine:
    """Processor, memory and kernel of this machine."""
    model = "unknown"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    pages, page_bytes = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    return Machine(
        cpu=model,
        cores=len(os.sched_getaffinity(0)),
        memory_gib=round(pages * page_bytes / 2**30, 1),
        kernel=platform.release(),
        python=platform.python_version(),
    )


def build_ratios(plain: Sequence[PlainRow]) -> list[Ratio]:
    """Ours beside everybody, cell by cell."""
    ours = {row.cell: row for row in plain if row.contender == OURS}
    ratios = []
    for row in plain:
        mine = ours.get(row.cell)
        if mine is None or row.contender == OURS or not row.rps:
            continue
        cpu = row.cpu_us / mine.cpu_us if row.cpu_us and mine.cpu_us else None
        ratios.append(Ratio(cell=row.cell, other=row.contender, rps=mine.rps / row.rps, cpu=cpu))
    return ratios


def build_goals(
    plain: Sequence[PlainRow], stream: Sequence[StreamRow], fault: Sequence[FaultRow]
) -> list[Goal]:
    """The targets that this run has figures for."""
    goals = [
        _at_most("CPU us per request, c=16", row.cpu_us, CPU_US_MAX)
        for row in _pick(plain, OURS)
        if row.cell == "c16" and row.cpu_us is not None
    ]
    goals += [
        _at_least(f"req/s / {YARDSTICK}, c=16", ratio.rps, RPS_RATIO_MIN)
        for ratio in build_ratios(plain)
        if ratio.other == YARDSTICK and ratio.cell == "c16"
    ]
    direct = {(row.streams, row.mode): row for row in _pick(stream, DIRECT)}
    for one in _pick(stream, OURS):
        base = direct.get((one.streams, one.mode))
        if one.streams > 1 and base is not None:
            added = one.ttft_ms_p50 - base.ttft_ms_p50
            name = f"added TTFT p50 ms, {one.streams} streams {one.mode}"
            goals.append(_at_most(name, added, TTFT_ADDED_MS_MAX))
    for lost in _pick(fault, OURS):
        goals.append(_at_least(f"req/s kept, {lost.fault}", lost.kept, KEPT_MIN))
        goals.append(_at_most(f"client time-outs, {lost.fault}", lost.timeouts, 0))
    return goals


def print_document(document: Document, console: Console) -> None:
    """All tables, for people."""
    if document.plain:
        console.print(build_plain_table(document.plain, document.ratios))
    if document.stream:
        console.print(build_stream_table(document.stream))
    if document.fault:
        console.print(build_fault_table(document.fault))
    for goal in document.goals:
        mark = "[green]met[/]   " if goal.met else "[red]missed[/]"
        console.print(f"{mark} {goal.name}: {goal.got:.2f} (wanted {goal.wanted})")
    for one in document.not_measured:
        console.print(f"not measured: {one.contender} ({one.scenario}): {one.why}", markup=False)
    console.print(
        f"{document.machine.cpu}, {document.machine.cores} cores, Linux {document.machine.kernel}, "
        f"seed {document.seed}, {document.wall_s:.0f} s. ~ = noisy: strangers took CPU."
    )


def build_plain_table(rows: Sequence[PlainRow], ratios: Sequence[Ratio]) -> Table:
    """Plain answers, one line a contender and cell."""
    table = Table(title="Plain answers: one core, one worker", title_justify="left")
    columns = ("cell", "gateway", "req/s", "p50 ms", "p99 ms", "CPU us/req", "errors")
    for name in (*columns, "foreign core", "hanse: req/s x", "hanse: CPU x"):
        table.add_column(name, justify="left" if name in ("cell", "gateway") else "right")
    beside = {(ratio.cell, ratio.other): ratio for ratio in ratios}
    previous = rows[0].cell
    for row in sorted(rows, key=_order_by_cell(rows)):
        if row.cell != previous:
            table.add_section()
            previous = row.cell
        ratio = beside.get((row.cell, row.contender))
        table.add_row(
            row.cell,
            row.contender,
            f"{'~' if row.noisy else ''}{row.rps:,.0f}",
            f"{row.p50_ms:.3f}",
            f"{row.p99_ms:.2f}",
            _show(row.cpu_us, ".1f"),
            str(row.errors),
            f"{row.foreign_core:.2f}",
            _show(ratio.rps if ratio else None, ".2f"),
            _show(ratio.cpu if ratio else None, ".2f"),
        )
    return table


def build_stream_table(rows: Sequence[StreamRow]) -> Table:
    """Streams, with what each gateway adds to direct."""
    table = Table(title="Streams: 64 chunks every 20 ms", title_justify="left")
    columns = ("streams", "gateway", "TTFT p50 ms", "added", "TTFT p99 ms", "E2E p50 ms")
    for name in (*columns, "CPU us/chunk", "failed", "foreign core"):
        table.add_column(name, justify="left" if name in ("streams", "gateway") else "right")
    direct = {(row.streams, row.mode): row for row in rows if row.contender == DIRECT}
    previous = (rows[0].streams, rows[0].mode)
    for row in rows:
        shape = (row.streams, row.mode)
        if shape != previous:
            table.add_section()
            previous = shape
        base = direct.get(shape)
        added = None
        if base is not None and row.contender != DIRECT:
            added = row.ttft_ms_p50 - base.ttft_ms_p50
        table.add_row(
            f"{row.streams} {row.mode if row.streams > 1 else ''}",
            row.contender,
            f"{'~' if row.noisy else ''}{row.ttft_ms_p50:.2f}",
            _show(added, "+.2f"),
            f"{row.ttft_ms_p99:.2f}",
            f"{row.e2e_ms_p50:.0f}",
            _show(row.cpu_us_per_chunk, ".1f"),
            str(row.failed),
            f"{row.foreign_core:.2f}",
        )
    return table


def build_fault_table(rows: Sequence[FaultRow]) -> Table:
    """One of four backends lost under sixteen closed-loop clients."""
    title = "One of 4 backends lost, 16 clients, 5 s client time-out"
    table = Table(title=title, title_justify="left")
    columns = ("fault", "gateway", "req/s before", "req/s after", "kept", "errors")
    for name in (*columns, "time-outs", "service lost s", "slowest ms", "foreign core"):
        table.add_column(name, justify="left" if name in ("fault", "gateway") else "right")
    for row in rows:
        kinds = ", ".join(f"{kind} x{count}" for kind, count in row.error_kinds.items())
        table.add_row(
            row.fault,
            row.contender,
            f"{row.rps_before:,.0f}",
            f"{row.rps_after:,.0f}",
            f"{row.kept:.0%}",
            kinds or "0",
            str(row.timeouts),
            f"{row.lost_s:.1f}",
            f"{row.slowest_ms:,.0f}",
            f"{row.foreign_core:.2f}",
        )
    return table


def _order_by_cell(rows: Sequence[PlainRow]) -> Callable[[PlainRow], int]:
    cells = list(dict.fromkeys(row.cell for row in rows))
    return lambda row: cells.index(row.cell)


def _pick(rows: Sequence[Row], contender: str) -> list[Row]:
    return [row for row in rows if row.contender == contender]


def _at_most(name: str, got: float, limit: float) -> Goal:
    return Goal(name=name, wanted=f"at most {limit:g}", got=float(got), met=got <= limit)


def _at_least(name: str, got: float, limit: float) -> Goal:
    return Goal(name=name, wanted=f"at least {limit:g}", got=float(got), met=got >= limit)


def _show(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)

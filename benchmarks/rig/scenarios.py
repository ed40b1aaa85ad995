"""The three questions put to every contender: plain answers, streams, one backend lost.

Here: what is sampled in which order and the rows that come out. Not here: how a sample is taken
(`sample`), who takes part (`contenders`), printing (`report`).
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Literal

from msgspec import Struct

from rig import fault_load, mock, payload, process, sample, stream_load
from rig.contenders import Contender, Launch

DIRECT = "direct"
Fault = Literal["freeze", "kill"]
SIGNALS: dict[Fault, signal.Signals] = {"freeze": signal.SIGSTOP, "kill": signal.SIGKILL}


class Value(Struct, frozen=True, kw_only=True):
    """What every row is."""


class Cell(Value, frozen=True, kw_only=True):
    """One shape of plain load."""

    id: str
    clients: int
    body_bytes: int = payload.CHAT_BYTES
    unique: bool = False


CELLS = (
    Cell(id="c1", clients=1),
    Cell(id="c16", clients=16),
    Cell(id="c64", clients=64),
    Cell(id="unique-c16", clients=16, unique=True),
    Cell(id="8k-c16", clients=16, body_bytes=payload.LONG_BYTES),
)


Shape = tuple[int, Literal["burst", "spread"]]
SHAPES: tuple[Shape, ...] = ((1, "burst"), (64, "burst"), (64, "spread"))
"""Streams, and whether all of a round start at once."""


class PlainRow(Value, frozen=True, kw_only=True):
    """Medians over the quiet samples of one contender in one cell."""

    contender: str
    cell: str
    rps: float
    p50_ms: float
    p99_ms: float
    cpu_us: float | None
    """CPU microseconds of the gateway's process tree for one request; None for direct."""
    errors: int
    foreign_core: float
    noisy: bool
    rps_samples: list[float]
    cpu_us_samples: list[float]


class StreamRow(Value, frozen=True, kw_only=True):
    """Time to first token through one contender."""

    contender: str
    streams: int
    mode: str
    ttft_ms_p50: float
    ttft_ms_p99: float
    e2e_ms_p50: float
    cpu_us_per_chunk: float | None
    failed: int
    foreign_core: float
    noisy: bool


class FaultRow(Value, frozen=True, kw_only=True):
    """Sixteen clients while one of four backends is lost."""

    contender: str
    fault: Fault
    rps_before: float
    rps_after: float
    kept: float
    """rps_after / rps_before."""
    errors: int
    error_kinds: dict[str, int]
    timeouts: int
    lost_s: float
    """Service lost after the fault, in seconds at the rate before it."""
    slowest_ms: float
    """The slowest good answer after the fault."""
    foreign_core: float


class Missing(Value, frozen=True, kw_only=True):
    """What was not measured, why, and what to do."""

    contender: str
    scenario: str
    why: str


@dataclass(kw_only=True)
class Bench:
    """Settings of one run and what it collects."""

    contenders: Sequence[Contender]
    cache: Path
    work_dir: Path
    gateway_core: int
    load_core: int
    seed: int
    seconds: int
    reps: int
    stream_rounds: int
    stream_shapes: Sequence[Shape]
    fault_before_s: float
    fault_after_s: float
    with_direct: bool
    patience: sample.Patience
    say: Callable[[str], None]
    missing: list[Missing] = field(default_factory=list)
    prompts_sent: int = 0
    """Numbers unique prompts through the whole run, so that none comes twice."""


@dataclass(frozen=True, kw_only=True)
class Running:
    """A contender that answers, or the mock itself as `direct`."""

    name: str
    slow: bool
    target: sample.Target


def measure_plain(bench: Bench, cells: Sequence[Cell] = CELLS) -> list[PlainRow]:
    """Every cell, repetitions interleaved over the contenders so that noise hits all alike."""
    taken: dict[tuple[str, str], list[sample.Measured[sample.WrkResult]]] = {}
    with ExitStack() as stack:
        backends = stack.enter_context(
            mock.run_nginx(core=bench.load_core, work_dir=bench.work_dir / "plain", separate=False)
        )
        running = _start_all(stack, bench, "plain", lambda _name: backends)
        for one in running:
            _sample_plain(bench, one, CELLS[1])  # warm-up, thrown away
        for rep in range(bench.reps):
            for cell in cells:
                bench.say(f"plain {cell.id} {rep + 1}/{bench.reps}")
                for one in running:
                    if one.slow and rep > 0:
                        continue
                    measured = sample.repeat_until_quiet(
                        lambda one=one, cell=cell: _sample_plain(bench, one, cell),  # type: ignore[misc]
                        bench.patience,
                    )
                    taken.setdefault((one.name, cell.id), []).append(measured)
    return [_build_plain_row(name, cell, each) for (name, cell), each in taken.items()]


def measure_stream(bench: Bench) -> list[StreamRow]:
    """TTFT of one stream, of 64 at once, and of 64 spread over time."""
    rows: list[StreamRow] = []
    with ExitStack() as stack:
        backends = stack.enter_context(
            mock.run_sse(core=bench.load_core, work_dir=bench.work_dir / "stream")
        )
        running = _start_all(stack, bench, "stream", lambda _name: backends)
        for streams, mode in bench.stream_shapes:
            bench.say(f"stream {streams} {mode}")
            for one in running:
                plan = _plan_stream(bench, one, streams, mode)
                measured = sample.repeat_until_quiet(
                    lambda one=one, plan=plan: sample.run_module(  # type: ignore[misc]
                        one.target, "rig.stream_load", plan, stream_load.Outcome, limit_s=150
                    ),
                    bench.patience,
                )
                rows.append(_build_stream_row(one, plan, measured))
    return rows


def measure_fault(bench: Bench, fault: Fault) -> list[FaultRow]:
    """One backend of four frozen or killed; each contender has four backends of its own."""
    rows: list[FaultRow] = []
    with ExitStack() as stack:
        own: dict[str, mock.Backends] = {}
        for contender in bench.contenders:
            work_dir = bench.work_dir / fault / contender.name
            own[contender.name] = stack.enter_context(
                mock.run_nginx(core=bench.load_core, work_dir=work_dir, separate=True)
            )
        running = _start_all(stack, bench, fault, own.__getitem__, direct=False)
        for one in running:
            bench.say(f"{fault} {one.name}")
            plan = fault_load.Plan(
                port=one.target.port,
                clients=16,
                total_s=bench.fault_before_s + bench.fault_after_s,
                fault_after_s=bench.fault_before_s,
                victim_pid=own[one.name].pids[1],
                signal=SIGNALS[fault],
                timeout_s=5.0,
                seed=bench.seed,
            )
            limit_s = plan.total_s + 30
            sample.wait_for_quiet(bench.patience)
            measured = sample.run_module(
                one.target, "rig.fault_load", plan, fault_load.Outcome, limit_s=limit_s
            )
            rows.append(_build_fault_row(one.name, fault, plan, measured))
    return rows


def _start_all(
    stack: ExitStack,
    bench: Bench,
    scenario: str,
    find_backends: Callable[[str], mock.Backends],
    *,
    direct: bool = True,
) -> list[Running]:
    """Start every contender at once, then wait for each; those that fail become `missing`."""
    bench.say(f"{scenario}: starting {', '.join(one.name for one in bench.contenders)}")
    started: list[tuple[Contender, Launch, process.Process]] = []
    for contender in bench.contenders:
        launch = _plan_launch(bench, scenario, contender, find_backends(contender.name))
        one = contender.start(launch)
        stack.callback(process.stop, one)
        started.append((contender, launch, one))
    running: list[Running] = []
    if direct and bench.with_direct:
        backends = find_backends(DIRECT)
        target = _build_target(bench, backends.ports[0], (), backends)
        running.append(Running(name=DIRECT, slow=False, target=target))
    request = payload.build_request(payload.build_chat("Are you there?"), close=True)
    for contender, launch, one in started:
        try:
            process.wait_for_answer(
                one, port=launch.port, request=request, wanted=b"choices", limit_s=contender.ready_s
            )
        except process.StartError as error:
            why = str(error)
            bench.missing.append(Missing(contender=contender.name, scenario=scenario, why=why))
            bench.say(f"not measured: {contender.name} ({scenario}): {why}; {error.detail}")
            continue
        backends = find_backends(contender.name)
        target = _build_target(bench, launch.port, (one.pid,), backends)
        running.append(Running(name=contender.name, slow=contender.slow, target=target))
    return running


def _plan_launch(
    bench: Bench, scenario: str, contender: Contender, backends: mock.Backends
) -> Launch:
    (port,) = process.find_free_ports(1)
    return Launch(
        urls=backends.urls,
        port=port,
        core=bench.gateway_core,
        work_dir=bench.work_dir / scenario / contender.name,
        cache=bench.cache,
    )


def _build_target(
    bench: Bench, port: int, gateway_pids: tuple[int, ...], backends: mock.Backends
) -> sample.Target:
    return sample.Target(
        port=port,
        gateway_pids=gateway_pids,
        mock_pids=tuple(sorted(set(backends.pids))),
        load_core=bench.load_core,
        work_dir=bench.work_dir,
    )


def _sample_plain(bench: Bench, one: Running, cell: Cell) -> sample.Measured[sample.WrkResult]:
    start = "@" * 12 if cell.unique else ""
    body = payload.build_padded_chat(cell.body_bytes, start)
    first = bench.seed % 1000 * 10**9 + bench.prompts_sent if cell.unique else None
    seconds = bench.seconds * (2 if one.slow else 1)
    measured = sample.run_wrk(
        one.target, clients=cell.clients, seconds=seconds, body=body, unique_first=first
    )
    bench.prompts_sent += measured.result.requests + cell.clients
    return measured


def _build_plain_row(
    name: str, cell: str, taken: list[sample.Measured[sample.WrkResult]]
) -> PlainRow:
    """Medians of the quiet samples, or of all (marked noisy) when none was quiet."""
    kept = [one for one in taken if not one.noisy] or taken
    rps = [one.result.requests / one.result.wall_us * 1e6 for one in kept]
    cpu_us = [one.usage.gateway_s * 1e6 / max(1, one.result.requests) for one in kept]
    return PlainRow(
        contender=name,
        cell=cell,
        rps=median(rps),
        p50_ms=median(one.result.p50_us for one in kept) / 1e3,
        p99_ms=median(one.result.p99_us for one in kept) / 1e3,
        cpu_us=None if name == DIRECT else median(cpu_us),
        errors=sum(
            one.result.status_errors + one.result.socket_errors + one.result.timeouts
            for one in taken
        ),
        foreign_core=median(one.usage.foreign_core for one in kept),
        noisy=all(one.noisy for one in taken),
        rps_samples=rps,
        cpu_us_samples=[] if name == DIRECT else cpu_us,
    )


def _plan_stream(
    bench: Bench, one: Running, streams: int, mode: Literal["burst", "spread"]
) -> stream_load.Plan:
    """One stream: many short answers. Many streams: whole answers, few rounds."""
    rounds = 20 if streams == 1 else (1 if one.slow else bench.stream_rounds)
    return stream_load.Plan(
        port=one.target.port,
        streams=streams,
        rounds=rounds,
        chunks=4 if streams == 1 else payload.CHUNKS,
        mode=mode,
        seed=bench.seed,
    )


def _build_stream_row(
    one: Running, plan: stream_load.Plan, measured: sample.Measured[stream_load.Outcome]
) -> StreamRow:
    result, usage = measured.result, measured.usage
    cpu_us = usage.gateway_s * 1e6 / max(1, result.events)
    return StreamRow(
        contender=one.name,
        streams=plan.streams,
        mode=plan.mode,
        ttft_ms_p50=_find_quantile(result.ttft_ms, 0.50),
        ttft_ms_p99=_find_quantile(result.ttft_ms, 0.99),
        e2e_ms_p50=_find_quantile(result.e2e_ms, 0.50),
        cpu_us_per_chunk=None if one.name == DIRECT else cpu_us,
        failed=result.failed,
        foreign_core=usage.foreign_core,
        noisy=measured.noisy,
    )


def _build_fault_row(
    name: str, fault: Fault, plan: fault_load.Plan, measured: sample.Measured[fault_load.Outcome]
) -> FaultRow:
    """Before: from 1 s to the fault. After: from the middle of what follows to the end."""
    result = measured.result
    fault_bin, end_bin = (
        round(at_s / fault_load.BIN_S) for at_s in (plan.fault_after_s, plan.total_s)
    )
    late_bin = (fault_bin + end_bin) // 2
    before = _find_rate(result.good[round(1 / fault_load.BIN_S) : fault_bin])
    after = _find_rate(result.good[late_bin:end_bin])
    in_bin = before * fault_load.BIN_S
    following = result.good[fault_bin:end_bin]
    lost = sum(max(0.0, 1 - count / in_bin) for count in following) if in_bin else 0.0
    return FaultRow(
        contender=name,
        fault=fault,
        rps_before=before,
        rps_after=after,
        kept=after / before if before else 0.0,
        errors=sum(result.errors),
        error_kinds=result.error_kinds,
        timeouts=sum(result.timeouts),
        lost_s=lost * fault_load.BIN_S,
        slowest_ms=max(result.slowest_ms[fault_bin:]),
        foreign_core=measured.usage.foreign_core,
    )


def _find_rate(counts: Sequence[int]) -> float:
    return sum(counts) / (len(counts) * fault_load.BIN_S) if counts else 0.0


def _find_quantile(values: Sequence[float], share: float) -> float:
    """Nearest-rank quantile; infinite when nothing succeeded."""
    if not values:
        return float("inf")
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


@contextmanager
def run_one(bench: Bench) -> Iterator[Running]:
    """The only contender of this bench in front of the plain mock, for profilers."""
    with ExitStack() as stack:
        backends = stack.enter_context(
            mock.run_nginx(core=bench.load_core, work_dir=bench.work_dir / "plain", separate=False)
        )
        running = _start_all(stack, bench, "profile", lambda _name: backends, direct=False)
        if not running:
            why = bench.missing[-1].why if bench.missing else "--only names no gateway"
            raise process.StartError(why, "")
        yield running[0]


def sample_once(bench: Bench, one: Running, cell: Cell) -> sample.Measured[sample.WrkResult]:
    """A single sample, for profilers."""
    return _sample_plain(bench, one, cell)

"""`simulate`: one run from what a person gives to its `Result`, with rows, report and progress on the way.

Here: the order of things, the run's identity and the command that repeats it. Not here: reading inputs (`inputs`), the run itself
(`simulate`), what is made of it (`summary`), several runs (`compare`).
"""

from __future__ import annotations

import shlex
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from hanse import __version__
from hanse.dispatch.reasons import Reason
from hanse.model.fleet import Fleet
from hanse.serving.measured import MeasuredTable
from hanse.signals.traces import Trace
from hanse.twin.course import CourseTaker
from hanse.twin.inputs import SEED, SHIPPED_POLICY, Inputs, chosen_policy, read_inputs
from hanse.twin.power import STEP_S
from hanse.twin.report import check_place, write_report
from hanse.twin.result import Result, RunInfo
from hanse.twin.scenario import Scenario
from hanse.twin.simulate import Simulation
from hanse.twin.summary import summarise, with_reference
from hanse.twin.tally import Tally, each

TOO_LONG_SHARE = 0.05
"""Of all requests: more than a few that no fleet would hold."""
Progress = Callable[[float], None]
"""Told the share of simulated time that is over."""


def simulate(
    fleet: Fleet | Path | str,
    *,
    trace: Trace | Path | str | None = None,
    scenario: Scenario | Path | str | None = None,
    start: str | datetime | None = None,
    scale: float = 1.0,
    seed: int = SEED,
    policy: str = SHIPPED_POLICY,
    measured: MeasuredTable | Path | str | None = None,
    requests: Path | str | None = None,
    report: Path | str | None = None,
    reference: Result | None = None,
    progress: Progress | None = None,
) -> Result:
    """Simulate a fleet on a trace.

    Args:
        fleet: A fleet, or its file.
        trace: A trace, its file, a spec to generate one from (`.toml`); None: the day that ships with Hanse.
        scenario: Faults, or their file (docs/twin.md).
        start: ISO 8601, a full hour; None: as the trace says, else the first hour of 2026.
        scale: Demand times this.
        seed: Of everything that is drawn; the same seed gives the same result.
        policy: A name, or `FILE.py:FUNCTION` (docs/policies.md).
        measured: Table of measured steps of some replicas, or its file, as `hanse calibrate` writes it.
        requests: Parquet file for every finished request.
        report: HTML file, or folder for it and the result as JSON.
        reference: A result to compare latency and savings with.
        progress: Told the share of simulated time that is over, now and then.

    Raises:
        ConfigError: what is wrong with any of it.
    """
    if report is not None:
        check_place(Path(report))
    inputs = read_inputs(
        fleet, trace, scenario=scenario, start=start, scale=scale, seed=seed, policy=policy, measured=measured
    )  # fmt: skip
    paths = {"fleet": fleet, "trace": trace, "scenario": scenario, "measured": measured}
    command = command_of(paths, start=start, scale=scale, seed=seed, policy=policy)
    result = run_inputs(inputs, command, requests=requests, progress=progress)
    result = with_reference(result, reference)
    if report is not None:
        write_report(result, Path(report))
    return result


def run_inputs(
    inputs: Inputs,
    command: str = "",
    *,
    requests: Path | str | None = None,
    progress: Progress | None = None,
    rows: Callable[[Any], None] | None = None,
) -> Result:
    """One run of inputs that were read already; `rows` gets finished requests some ten thousand at a time."""
    policy = chosen_policy(inputs.policy)
    takers = [rows] if rows is not None else []
    simulation = Simulation(
        inputs.fleet,
        inputs.trace,
        policies=inputs.policies,
        scenario=inputs.scenario,
        scenario_dir=inputs.scenario_dir,
        start_at_s=inputs.start_at_s,
        policy=policy,
        rows=lambda some: each(*takers)(some),
        measured=inputs.measured,
    )
    first_table = simulation.table
    tally = Tally(simulation.world)
    takers.append(tally.take)
    told = None
    if progress is not None:
        duration_s = simulation.duration_s
        told = lambda now_s: progress(min(now_s / duration_s, 1.0))  # noqa: E731
    course = CourseTaker(simulation, told)
    with ExitStack() as files:
        if requests is not None:
            from hanse.twin.request_table import RequestWriter

            about = {"command": command, "seed": inputs.seed, "software": f"hanse {__version__}"}
            writer = files.enter_context(RequestWriter(Path(requests), simulation, about))
            takers.append(writer.take)
        simulation.run()
    course.close()
    info, notes = _run_info(inputs, simulation, command), (*inputs.notes, *policy.notes)
    result = summarise(simulation, info, tally, course, first_table, notes)
    return msgspec.structs.replace(result, notes=(*notes, *_too_long(simulation, result)))


def _too_long(simulation: Simulation, result: Result) -> tuple[str, ...]:
    """Where many requests are longer than placements hold, though their chips would hold them: what a fleet file that says nothing comes to."""
    everybody = result.group("all")
    count = everybody.refused.get(Reason.LENGTH.name, 0)
    if count == 0 or count < TOO_LONG_SHARE * everybody.requests:
        return ()
    engines, offers = simulation.world.engines, simulation.table.offers
    held = offers["request_tokens_max"][engines["offer"]]
    longest = int(held.argmax())
    holds, memory = int(held[longest]), int(engines["kv_tokens_max"][longest])
    if memory < 2 * holds:
        return ()
    return (
        f"{count:,} of {everybody.requests:,} requests ({count / everybody.requests:.1%}) were refused as too long: by its"
        f" context_tokens a placement lets one hold {holds:,} tokens at most, the memory of its chips {memory:,}",
    )


def command_of(paths: dict[str, Any], **options: Any) -> str:
    """The command that repeats a run; empty where a value was given that no file holds."""
    if any(value is not None and not isinstance(value, (str, Path)) for value in paths.values()):
        return ""
    words = ["hanse", "simulate", str(paths["fleet"])]
    for name in ("trace", "scenario", "measured"):
        words += [f"--{name}", str(paths[name])] if paths.get(name) is not None else []
    defaults = {"start": None, "scale": 1.0, "policy": SHIPPED_POLICY}
    for name, value in options.items():
        if name == "seed" or value != defaults[name]:
            words += [f"--{name}", value.isoformat() if isinstance(value, datetime) else str(value)]
    return shlex.join(words)


def _run_info(inputs: Inputs, simulation: Simulation, command: str) -> RunInfo:
    world, meta = simulation.world, inputs.trace.meta
    at = datetime.fromtimestamp(simulation.start_at_s, UTC)
    return RunInfo(
        fleet=inputs.fleet.name,
        trace=meta.name,
        trace_source=meta.source,
        trace_licence=meta.licence,
        policy=inputs.policy,
        scenario=inputs.scenario.name,
        seed=inputs.seed,
        scale=inputs.scale,
        start_at=at.isoformat().replace("+00:00", "Z"),
        duration_s=simulation.duration_s,
        elapsed_s=float(world.clock[0]["now_s"]),
        metered_s=int(simulation.power.sums["steps"].max()) * STEP_S,
        requests=int(world.clock[0]["requests"]),
        software=f"hanse {__version__}",
        command=command,
    )

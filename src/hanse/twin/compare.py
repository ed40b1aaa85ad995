"""Several fleets or ways to choose on the same traffic, several times over, with intervals for the differences.

Here: `compare`: alternatives times draws in parallel processes; paired differences. Not here: one run (`runs`), draws (`inputs`).

Every alternative sees the same draws (common random numbers), so that what they share cancels in the differences; the interval of a
difference is Student's t of the paired differences, 95 %. A generated trace is drawn anew with another seed, a recorded one by
bootstrap of its conversations (`inputs.bootstrapped`). Intervals speak of chance in the traffic, not of errors of the models: those
stand in each run's table of assumptions, and are mostly the same for all alternatives.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

from hanse import __version__
from hanse.errors import ConfigError
from hanse.model.fleet import Fleet, Value
from hanse.signals.traces import Trace
from hanse.twin.alike import Answers, Kept, alike
from hanse.twin.inputs import SEED, SHIPPED_POLICY, Central, FleetLike, chosen_policy, read_inputs
from hanse.twin.quantiles import mean_and_half_width
from hanse.twin.result import LatencyReturn, Result
from hanse.twin.runs import run_inputs
from hanse.twin.scenario import Scenario

RUNS: Final = 5
"""Draws: a t interval of five is 2.8 standard errors wide to each side; of two it would be 12.7."""


class Metric(Value, frozen=True, kw_only=True):
    """A figure that alternatives are compared by."""

    key: str
    name: str
    unit: str
    better: Literal["less", "more", "neither"]


class Figure(Value, frozen=True, kw_only=True):
    """One metric of one alternative; None: not known in every run, or no interval from a single run."""

    metric: str
    runs: tuple[float | None, ...]
    mean: float | None
    half_width: float | None
    """Of the 95 % interval of the mean."""
    difference: float | None
    """From the first alternative: mean of the differences run by run."""
    difference_half_width: float | None
    differs: bool | None
    """Whether 0 lies outside the difference's interval."""


class Alternative(Value, frozen=True, kw_only=True):
    """One fleet and way to choose."""

    label: str
    fleet: str
    policy: str
    figures: tuple[Figure, ...]
    latency_return: LatencyReturn | None = None
    """Against the first alternative, from the mean differences: latency over the requests that all answer, the rest per answer."""


class Comparison(Value, frozen=True, kw_only=True):
    """All of it; the first alternative is what the others are compared with."""

    schema: Literal["hanse-comparison/1"] = "hanse-comparison/1"
    trace: str
    draws: str
    """How the runs' traffic was drawn."""
    seed: int
    runs: int
    software: str
    command: str
    notes: tuple[str, ...]
    metrics: tuple[Metric, ...]
    alternatives: tuple[Alternative, ...]

    def figure(self, label: str, metric: str) -> Figure:
        """A figure by name."""
        found = next(a for a in self.alternatives if a.label == label)
        return next(f for f in found.figures if f.metric == metric)


def _metric(
    key: str, name: str, unit: str, better: Any, get: Callable[[Result], float | None]
) -> tuple[Metric, Callable[[Result], float | None]]:
    return Metric(key=key, name=name, unit=unit, better=better), get


def _share(part: float, whole: float) -> float | None:
    return part / whole if whole else None


METRICS: Final = (
    _metric("served", "answered", "share", "more", lambda r: _share(r.group("all").served, r.group("all").requests)),
    _metric("good", "within SLO", "share", "more", lambda r: r.group("all").goodput_share),
    _metric(
        "refused", "refused", "share", "less",
        lambda r: _share(sum(r.group("all").refused.values()), r.group("all").requests),
    ),
    _metric(
        "failed", "failed or broken", "share", "less",
        lambda r: _share(sum(r.group("all").failed.values()) + r.group("all").broken, r.group("all").requests),
    ),
    _metric("ttft_mean", "TTFT, mean", "ms", "less", lambda r: r.group("all").ttft_ms.mean),
    _metric("ttft_p95", "TTFT, p95", "ms", "less", lambda r: r.group("all").ttft_ms.p95),
    _metric("tpot_p95", "TPOT, p95", "ms", "less", lambda r: r.group("all").tpot_ms.p95),
    _metric("e2e_mean", "E2E, mean", "ms", "less", lambda r: r.group("all").e2e_ms.mean),
    _metric("e2e_p95", "E2E, p95", "ms", "less", lambda r: r.group("all").e2e_ms.p95),
    _metric("forwarded", "forwarded", "share", "neither", lambda r: _share(r.group("all").forwarded, r.group("all").served)),
    _metric("busy", "engines busy", "share", "neither", lambda r: r.fleet.busy_share),
    _metric("idle", "idle capacity", "share", "less", lambda r: r.fleet.idle_share),
    _metric("pooling_loss", "pooling loss", "share", "less", lambda r: r.pooling.loss_share),
    _metric("pue", "PUE at that load", "", "less", lambda r: r.fleet.pue),
    _metric("wh", "energy, all in", "Wh an answer", "less", lambda r: r.fleet.wh_per_answer),
    _metric(
        "wasted", "wasted of dynamic energy", "share", "less",
        lambda r: _share(r.fleet.energy.wasted_kwh, r.fleet.energy.prefill_kwh + r.fleet.energy.decode_kwh),
    ),
    _metric("g", "carbon, location-based", "g an answer", "less", lambda r: r.fleet.g_per_answer),
    _metric("carbon_free", "carbon-free share", "share", "more", lambda r: r.fleet.carbon_free_share),
    _metric("usd", "energy and egress", "USD per 1,000 answers", "less",
        lambda r: None if r.fleet.usd_per_answer is None else 1000.0 * r.fleet.usd_per_answer),
    _metric("peak_kw", "peaks of the sites, added", "kW", "less", lambda r: r.fleet.supply.import_kw_max),
    _metric("water_l", "water", "l", "less", lambda r: r.fleet.supply.water_l),
    _metric("unlawful", "executed unlawfully", "requests", "less", lambda r: float(r.residency.unlawful)),
)  # fmt: skip


ALIKE: Final = (
    Metric(key="alike", name="answered by all alternatives", unit="share", better="neither"),
    Metric(key="alike_ttft", name="of these: TTFT, mean", unit="ms", better="less"),
    Metric(key="alike_e2e", name="of these: E2E, mean", unit="ms", better="less"),
    Metric(key="alike_wh", name="of these: dynamic energy", unit="Wh an answer", better="less"),
    Metric(key="alike_g", name="of these: its carbon", unit="g an answer", better="less"),
)
"""Like for like (`alike`); in the order of its fields."""
KEYS: Final = tuple(metric.key for metric in (*(m for m, _ in METRICS), *ALIKE))


class _Job(NamedTuple):
    alternative: int
    draw: int
    fleet: FleetLike
    first: FleetLike
    policy: str
    rest: dict[str, Any]


_Run = tuple[list[float | None], Kept]


def compare(
    *fleets: FleetLike,
    policies: Sequence[str] = (SHIPPED_POLICY,),
    central: bool = False,
    trace: Trace | Path | str | None = None,
    scenario: Scenario | Path | str | None = None,
    start: str | None = None,
    scale: float = 1.0,
    seed: int = SEED,
    runs: int = RUNS,
    workers: int = 0,
    progress: Callable[[float], None] | None = None,
) -> Comparison:
    """Compare fleets, policies, or both in all combinations, on the same traffic.

    Args:
        fleets: Fleets or their files; the first, with the first policy, is what the others are compared with.
        policies: Ways to choose.
        central: Also the one big site that the first fleet names, with as many replicas as the whole fleet.
        trace: As for `simulate`. A `Trace` in memory cannot travel to other processes and is run in this one.
        scenario: Faults, the same for all.
        start: As for `simulate`.
        scale: Demand times this.
        seed: Of the first draw's predecessor: draw n has seed + n. With one run the trace is taken as it is.
        runs: Draws.
        workers: Processes; 0: as many as there are cores. More than one need the caller's `if __name__ == "__main__":`.
        progress: Told the share of runs that are done.

    Raises:
        ConfigError: what is wrong with any of it.
    """
    if central and fleets and not isinstance(fleets[0], Central):
        fleets = (*fleets, Central(fleets[0]))
    if runs < 1 or len(fleets) * len(policies) < 2:
        got = f"{len(fleets)} fleets, {len(policies)} policies, {runs} runs"
        raise ConfigError("compare", got=got, allowed="two alternatives or more, one run or more")
    rest: dict[str, Any] = {
        "trace": trace,
        "scenario": scenario,
        "start": start,
        "scale": scale,
        "seed": seed,
    }
    pairs = [(fleet, policy) for fleet in fleets for policy in policies]
    draws = range(1, runs + 1) if runs > 1 else range(1)
    # What is wrong is said before minutes are spent.
    slow = [note for policy in policies for note in chosen_policy(policy).notes]
    read = [read_inputs(f, policy=p, fit=fleets[0], **rest) for f, p in pairs]
    jobs = [
        _Job(i, draw, fleet, fleets[0], policy, rest)
        for draw in draws
        for i, (fleet, policy) in enumerate(pairs)
    ]
    values = _values(jobs, 1 if isinstance(trace, Trace) else workers, progress)
    labels = _labels(fleets, policies, [inputs.fleet.name for inputs in read])
    return Comparison(
        trace=read[0].trace.meta.name,
        draws=_how(trace, runs),
        seed=seed,
        runs=runs,
        software=f"hanse {__version__}",
        command=_command(fleets, policies, runs, rest),
        notes=(*read[0].notes, *slow),
        metrics=(*(metric for metric, _ in METRICS), *ALIKE),
        alternatives=tuple(
            _alternative(label, inputs.fleet.name, inputs.policy, values[i], values[0], labels[0])
            for i, (label, inputs) in enumerate(zip(labels, read, strict=True))
        ),
    )


def _values(
    jobs: Sequence[_Job], workers: int, progress: Callable[[float], None] | None
) -> list[list[list[float | None]]]:
    """[alternative][draw][metric], in whatever order the runs come back."""
    found: dict[tuple[int, int], list[float | None]] = {}
    answers: dict[tuple[int, int], Kept] = {}
    alternatives = sorted({job.alternative for job in jobs})
    draws = sorted({job.draw for job in jobs})
    for job, (figures, kept) in _run(jobs, workers):
        found[job.alternative, job.draw] = figures
        answers[job.alternative, job.draw] = kept
        if all((i, job.draw) in answers for i in alternatives):
            same = alike([answers.pop((i, job.draw)) for i in alternatives])
            for i in alternatives:
                found[i, job.draw] += same[i]
        if progress is not None:
            progress(len(found) / len(jobs))
    return [[found[i, draw] for draw in draws] for i in alternatives]


def _run(jobs: Sequence[_Job], workers: int) -> Iterator[tuple[_Job, _Run]]:
    workers = min(workers or os.cpu_count() or 1, len(jobs))
    if workers == 1:
        for job in jobs:
            yield job, _one(job)
        return
    # Not forked: threads of numba and Arrow do not survive that.
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        futures = {pool.submit(_one, job): job for job in jobs}
        for future in as_completed(futures):
            yield futures[future], future.result()


def _one(job: _Job) -> _Run:
    """All metrics of one run, and what its answers were like."""
    inputs = read_inputs(job.fleet, policy=job.policy, draw=job.draw, fit=job.first, **job.rest)
    answers = Answers()
    result = run_inputs(inputs, rows=answers.take)
    return [get(result) for _, get in METRICS], answers.kept(result.run.requests)


def _alternative(
    label: str,
    fleet: str,
    policy: str,
    values: Sequence[Sequence[float | None]],
    first: Sequence[Sequence[float | None]],
    first_label: str,
) -> Alternative:
    figures = tuple(
        _figure(key, [run[m] for run in values], [run[m] for run in first])
        for m, key in enumerate(KEYS)
    )
    again = _return(figures, first_label) if label != first_label else None
    return Alternative(
        label=label, fleet=fleet, policy=policy, figures=figures, latency_return=again
    )


def _figure(key: str, values: Sequence[float | None], first: Sequence[float | None]) -> Figure:
    known = [v for v in values if v is not None]
    pairs = [v - f for v, f in zip(values, first, strict=True) if v is not None and f is not None]
    mean = half = difference = width = None
    if len(known) == len(values):
        mean, half = mean_and_half_width(known)
    if len(pairs) == len(values):
        difference, width = mean_and_half_width(pairs)
    differs = None if difference is None or width is None else abs(difference) > width
    return Figure(
        metric=key,
        runs=tuple(values),
        mean=mean,
        half_width=half,
        difference=difference,
        difference_half_width=width,
        differs=differs,
    )


def _return(figures: Sequence[Figure], reference: str) -> LatencyReturn:
    by_key = {f.metric: f.difference for f in figures}
    added_ms = by_key["alike_e2e"]
    saved: dict[str, float | None] = {}
    for key, answers in (("wh", 1.0), ("g", 1.0), ("usd", 1000.0)):
        cost = by_key[key]
        saved[key] = None if cost is None else 0.0 - cost / answers
    rates = {
        key: value / added_ms
        if value is not None and added_ms is not None and added_ms > 0.0
        else None
        for key, value in saved.items()
    }
    return LatencyReturn(
        reference=reference,
        added_ttft_ms=by_key["alike_ttft"],
        added_e2e_ms=added_ms,
        saved_wh=saved["wh"],
        saved_g=saved["g"],
        saved_usd=saved["usd"],
        wh_per_ms=rates["wh"],
        g_per_ms=rates["g"],
        usd_per_ms=rates["usd"],
    )


def _labels(
    fleets: Sequence[FleetLike], policies: Sequence[str], names: Sequence[str]
) -> list[str]:
    """What tells alternatives apart: the fleet, the policy, or both; the file's name where fleets share theirs."""
    heads = list(names[:: len(policies)])
    if len(set(heads)) < len(heads):
        heads = [_stem(fleet) for fleet in fleets]
    if len(set(heads)) < len(heads):
        heads = [f"{head} {i}" for i, head in enumerate(heads, 1)]
    if len(policies) == 1:
        return heads
    if len(fleets) == 1:
        return list(policies)
    return [f"{head}, {policy}" for head in heads for policy in policies]


def _stem(fleet: FleetLike) -> str:
    if isinstance(fleet, Central):
        return f"{_stem(fleet.of)}, central"
    return fleet.name if isinstance(fleet, Fleet) else Path(fleet).stem


def _how(trace: Any, runs: int) -> str:
    if runs == 1:
        return "one run on the trace as it is: no intervals"
    if trace is None or (not isinstance(trace, Trace) and Path(trace).suffix == ".toml"):
        return f"{runs} traces generated from one spec with different seeds"
    return f"{runs} bootstraps of the trace's conversations (Poisson, mean 1): chance in who comes, not in the day"


def _command(
    fleets: Sequence[FleetLike], policies: Sequence[str], runs: int, rest: dict[str, Any]
) -> str:
    central = [f for f in fleets if isinstance(f, Central)]
    fleets = [f for f in fleets if not isinstance(f, Central)]
    values = (*fleets, *(v for v in (rest["trace"], rest["scenario"]) if v is not None))
    if not all(isinstance(v, (str, Path)) for v in values):
        return ""
    words = ["hanse", "compare", *map(str, fleets), *["--central" for _ in central]]
    for policy in policies if tuple(policies) != (SHIPPED_POLICY,) else ():
        words += ["--policy", policy]
    for name, default in (("trace", None), ("scenario", None), ("start", None), ("scale", 1.0)):
        words += [f"--{name}", str(rest[name])] if rest[name] != default else []
    return shlex.join([*words, "--runs", str(runs), "--seed", str(rest["seed"])])

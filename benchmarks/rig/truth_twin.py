"""The twin of what was played against a live league, and how far it is from it.

Here: `Run` (one play, as kept), `twin_of` (the same requests simulated), `verdicts`. Not here: the live side (`league_load`).

The twin plays the run that calibrated it first, since live gateways learn from answers; then the other, with tokens as they really
were, and with users' limits and gateways' guesses of prompts, which decide. A prompt counts without the head that engines had in their
cache from the first request on, as far as the calibration run shows it. All engines share the machine (`machine_of`). Nobody knows when
a live site told its load between two requests, so the twin plays some times, a little later each, and its figures are the means. What is
judged:

    median and p95 of TTFT and E2E   within max(10 %, 1.5 x the difference of the two live runs) of their mean
    share of each site               within 3 points of the mean of the live runs
    CPU seconds of each engine       within 10 % of the mean of the live runs; the twin's are what its steps computed, at as many CPU
                                     seconds each as in the calibration run, and what an idle engine was measured to take

Where the live runs themselves differ by more than 3 points or 10 %, a share or an engine is shown and not judged: no twin could meet both.
Nor is an engine of a site of fewer than `REQUESTS_MIN` requests, or one that took less than a second.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np

from hanse.model.fleet import Fleet, Value
from hanse.serving.measured import MeasuredTable
from hanse.signals.traces.trace import NO_BLOCKS, Origin, Trace, TraceMeta, empty_requests, pack
from hanse.twin.arrays import ANSWERED
from hanse.twin.simulate import Machine, Simulation
from rig.league_load import Seen

SHARE_LIMIT = 0.03
CPU_LIMIT = 0.10
CPU_S_MIN = 1.0
"""The kernel counts in hundredths of a second: an engine with less is not judged."""
REQUESTS_MIN = 35
"""Of an engine whose CPU time is judged: of fewer, 10 % are three requests or less, which chance moves from site to site."""
PLAYS = 16
"""Of the twin. They differ by when requests come between two load frames, which nobody knows of a live run: one play alone would add the luck
of its own instants."""
FRAMES_S = 0.5
TIME_LIMIT = 0.10
TIME_FACTOR = 1.5


class Run(Value, frozen=True, kw_only=True):
    """One play of a trace against the live league."""

    began_at_s: float
    """Unix seconds of the trace's start."""
    seen: tuple[Seen, ...]
    cpu_s: dict[str, float]
    """Engine -> user and system time meanwhile."""
    elapsed_s: float
    machine_busy: float
    """Share of all processors, by anybody."""
    foreign_busy: float
    """Of them by processes that are neither the league nor its users."""


class Live(Value, frozen=True, kw_only=True):
    """Everything that was measured; the twin needs nothing else."""

    calibration: Run
    runs: tuple[Run, Run]
    idle_cpu: dict[str, float]
    """Engine -> CPU seconds a second while nobody asked."""
    cores: int = 2
    idle_cores: float = 0.1
    """Of them, what the whole league took while nobody asked."""


class Side(Value, frozen=True, kw_only=True):
    """A run in figures; ms."""

    requests: int
    answered: int
    ttft_p50: float
    ttft_p95: float
    tpot_p50: float
    e2e_p50: float
    e2e_p95: float
    shares: dict[str, float]
    cpu_s: dict[str, float]


class Twin(Value, frozen=True, kw_only=True):
    """The simulated side, and of each play per request (site, TTFT, E2E) to look at; -1 where it was not answered."""

    side: Side
    """Means of the plays."""
    duty: float
    """CPU seconds that an engine was measured to take for one that its steps say, by the calibration run."""
    cores: float
    token_cpu_ms: float
    """`machine_of`."""
    sites: tuple[tuple[str, ...], ...]
    ttft_ms: tuple[tuple[float, ...], ...]
    e2e_ms: tuple[tuple[float, ...], ...]


class Verdict(Value, frozen=True, kw_only=True):
    """One figure."""

    what: str
    live: tuple[float, float]
    twin: float
    allowed: float
    """Absolute difference from the mean of the live runs."""
    met: bool | None
    """None: the live runs differ too much to judge."""

    @property
    def off(self) -> float:
        return self.twin - sum(self.live) / 2.0


def side_of(run: Run) -> Side:
    """A live run in figures."""
    good = [one for one in run.seen if one.answered]
    return _side(
        len(run.seen),
        np.array([one.ttft_ms for one in good]),
        np.array([one.e2e_ms for one in good]),
        np.array([one.tpot_ms for one in good if one.tokens_out > 1]),
        [one.site for one in good],
        run.cpu_s,
    )


def _side(
    requests: int,
    ttft: np.ndarray,
    e2e: np.ndarray,
    tpot: np.ndarray,
    sites: list[str],
    cpu_s: dict[str, float],
) -> Side:
    if not len(ttft):
        raise SystemExit("no request was answered: nothing to compare")
    return Side(
        requests=requests,
        answered=len(ttft),
        ttft_p50=float(np.median(ttft)),
        ttft_p95=float(np.quantile(ttft, 0.95)),
        tpot_p50=float(np.median(tpot)) if len(tpot) else 0.0,
        e2e_p50=float(np.median(e2e)),
        e2e_p95=float(np.quantile(e2e, 0.95)),
        shares={site: sites.count(site) / len(sites) for site in sorted(set(sites))},
        cpu_s=cpu_s,
    )


def twin_of(
    fleet: Fleet, live: Live, measured: MeasuredTable | None, *, plays: int = PLAYS
) -> Twin:
    """Simulate calibration and second run, one after the other as they were, and look at the second; the mean of some plays."""
    all_plays = [_play(fleet, live, measured, FRAMES_S * i / plays) for i in range(plays)]
    return Twin(
        side=_mean_side([side for side, _ in all_plays]),
        duty=sum(one.duty for _, one in all_plays) / plays,
        cores=all_plays[0][1].cores,
        token_cpu_ms=all_plays[0][1].token_cpu_ms,
        sites=tuple(one.sites for _, one in all_plays),
        ttft_ms=tuple(one.ttft_ms for _, one in all_plays),
        e2e_ms=tuple(one.e2e_ms for _, one in all_plays),
    )


class _Play(Value, frozen=True, kw_only=True):
    duty: float
    cores: float
    token_cpu_ms: float
    sites: tuple[str, ...]
    ttft_ms: tuple[float, ...]
    e2e_ms: tuple[float, ...]


def machine_of(live: Live) -> Machine:
    """What engines share, as the calibration run shows it: CPU time that neither they nor strangers nor an idle league took."""
    run = live.calibration
    ours_s = (run.machine_busy - run.foreign_busy) * live.cores * run.elapsed_s
    beside_s = ours_s - sum(run.cpu_s.values()) - live.idle_cores * run.elapsed_s
    tokens = sum(one.tokens_out for one in run.seen)
    return Machine(
        cores=live.cores - live.idle_cores, token_cpu_s=max(beside_s, 0.0) / max(tokens, 1)
    )


def _play(
    fleet: Fleet, live: Live, measured: MeasuredTable | None, late_s: float
) -> tuple[Side, _Play]:
    """One play; all requests `late_s` later than they were."""
    first, second = live.calibration, live.runs[0]
    trace, later_s = _trace(fleet, first, second, late_s)
    machine = machine_of(live)
    rows: list[np.ndarray] = []
    run = Simulation(
        fleet, trace, measured=measured, rows=lambda some: rows.append(some.copy()), start_at_s=0.0, machine=machine,
    )  # fmt: skip
    before: list[np.ndarray] = []
    run.at(later_s, lambda _: before.append(run.world.engines[["busy_s", "cpu_s"]].copy()))
    run.run()
    found = np.concatenate(rows)
    found = found[found["at_s"] >= later_s]
    found = found[np.argsort(found["at_s"], kind="stable")]
    names = engine_names(fleet)
    duty = sum(first.cpu_s.values()) / max(float(before[0]["cpu_s"].sum()), 1e-9)
    computed = run.world.engines["cpu_s"] - before[0]["cpu_s"]
    idle_s = np.maximum(second.elapsed_s - (run.world.engines["busy_s"] - before[0]["busy_s"]), 0.0)
    idle = np.array([live.idle_cpu.get(name, 0.0) for name in names])
    cpu_s = dict(zip(names, (duty * computed + idle * idle_s).tolist(), strict=True))
    good = found["outcome"] == ANSWERED
    # The loopback has no last mile: live figures begin at the gateway's door.
    ttft = np.where(good, found["ttft_ms"] - found["user_rtt_ms"], -1.0)
    e2e = np.where(good, found["e2e_ms"] - found["user_rtt_ms"], -1.0)
    sites = [fleet.sites[row["site"]].id if ok else "" for row, ok in zip(found, good, strict=True)]
    tpot = found["tpot_ms"][good & (found["tokens_out"] > 1)]
    side = _side(len(found), ttft[good], e2e[good], tpot, [s for s in sites if s], cpu_s)
    return side, _Play(
        duty=duty,
        cores=machine.cores,
        token_cpu_ms=1000.0 * machine.token_cpu_s,
        sites=tuple(sites),
        ttft_ms=tuple(ttft.tolist()),
        e2e_ms=tuple(e2e.tolist()),
    )


def _mean_side(sides: list[Side]) -> Side:
    def mean(of: Callable[[Side], float]) -> float:
        return sum(map(of, sides)) / len(sides)

    sites = sorted({site for one in sides for site in one.shares})
    return Side(
        requests=sides[0].requests,
        answered=min(one.answered for one in sides),
        **{name: mean(lambda one, name=name: getattr(one, name)) for name in FIGURES},
        shares={site: mean(lambda one, site=site: one.shares.get(site, 0.0)) for site in sites},
        cpu_s={name: mean(lambda one, name=name: one.cpu_s[name]) for name in sides[0].cpu_s},
    )


def engine_names(fleet: Fleet) -> list[str]:
    """`site/name` of every engine, in the twin's order."""
    from hanse.dispatch.belief import all_engines

    return [f"{spec.site}/{spec.name}" for spec in all_engines(fleet, fleet.placements)]


def _trace(fleet: Fleet, first: Run, second: Run, late_s: float = 0.0) -> tuple[Trace, float]:
    """Both runs as one trace, `late_s` after its start, and where the second begins."""
    head = _head_tokens(first)
    later_s = second.began_at_s - first.began_at_s
    pairs = [(late_s + one.at_s, one) for one in first.seen]
    pairs += [(late_s + later_s + one.at_s, one) for one in second.seen]
    pairs.sort(key=lambda pair: pair[0])
    origins = {one.request.origin: one.request for _, one in pairs}
    classes = sorted({one.request.data_class for _, one in pairs})
    tenants = sorted({one.request.tenant for _, one in pairs})
    usual = int(median(one.tokens_in for _, one in pairs if one.answered))
    requests = empty_requests(len(pairs))
    requests["session"] = -1
    for row, (at_s, one) in zip(requests, pairs, strict=True):
        row["at_s"] = at_s
        row["cls"] = classes.index(one.request.data_class)
        row["origin"] = list(origins).index(one.request.origin)
        row["tenant"] = tenants.index(one.request.tenant)
        row["tokens_in"] = max((one.tokens_in or usual) - head, 1)
        row["tokens_out"] = one.tokens_out or one.request.tokens_out
        row["limit_out"] = one.request.tokens_out
        row["guess_in"] = one.guess_in
    meta = TraceMeta(
        name="as played",
        source="benchmarks/truth.py",
        licence="own",
        services=("chat",),
        classes=tuple(classes),
        origins=tuple(
            Origin(id=name, lat_deg=one.lat_deg, lon_deg=one.lon_deg, country=one.country)
            for name, one in origins.items()
        ),
        tenants=tuple(tenants),
        count=len(pairs),
        duration_s=float(requests["at_s"][-1]),
        start_at_s=first.began_at_s,
        note="tokens as engines counted them, without the head that all prompts share",
    )
    chunk = pack(requests, NO_BLOCKS)
    return Trace.of(meta, chunk.requests, chunk.blocks), late_s + later_s


def _head_tokens(run: Run) -> int:
    """Of each prompt, what engines had read before."""
    known = [one.cached for one in run.seen if one.answered]
    return int(median(known)) if known else 0


def verdicts(live: Live, twin: Twin) -> list[Verdict]:
    """Every figure that is judged."""
    one, two = (side_of(run) for run in live.runs)
    found = []
    for name, what in TIMES:
        pair = getattr(one, name), getattr(two, name)
        allowed = max(TIME_LIMIT * sum(pair) / 2.0, TIME_FACTOR * abs(pair[0] - pair[1]))
        found.append(_verdict(what, pair, getattr(twin.side, name), allowed))
    for site in sorted({*one.shares, *two.shares, *twin.side.shares}):
        pair = one.shares.get(site, 0.0), two.shares.get(site, 0.0)
        twin_share = twin.side.shares.get(site, 0.0)
        judged = abs(pair[0] - pair[1]) <= SHARE_LIMIT
        found.append(_verdict(f"share of {site}", pair, twin_share, SHARE_LIMIT, judged=judged))
    for engine in sorted(one.cpu_s):
        pair = one.cpu_s[engine], two.cpu_s.get(engine, 0.0)
        mean = sum(pair) / 2.0
        answers = [
            side.answered * side.shares.get(engine.partition("/")[0], 0.0) for side in (one, two)
        ]
        busy = min(answers) >= REQUESTS_MIN and mean >= CPU_S_MIN
        judged = busy and abs(pair[0] - pair[1]) <= CPU_LIMIT * mean
        twin_s = twin.side.cpu_s.get(engine, 0.0)
        found.append(_verdict(f"CPU s of {engine}", pair, twin_s, CPU_LIMIT * mean, judged=judged))
    return found


FIGURES = ("ttft_p50", "ttft_p95", "tpot_p50", "e2e_p50", "e2e_p95")
TIMES = (
    ("ttft_p50", "TTFT p50, ms"),
    ("ttft_p95", "TTFT p95, ms"),
    ("e2e_p50", "E2E p50, ms"),
    ("e2e_p95", "E2E p95, ms"),
)


def _verdict(
    what: str, live: tuple[float, float], twin: float, allowed: float, *, judged: bool = True
) -> Verdict:
    met = abs(twin - sum(live) / 2.0) <= allowed if judged else None
    return Verdict(what=what, live=live, twin=twin, allowed=allowed, met=met)


def same_site(live: Live, twin: Twin) -> tuple[float, float]:
    """Share of requests that the second live run, and the twin, gave to the same site as the first."""
    one, two = ([s.site for s in sorted(r.seen, key=lambda s: s.request.at_s)] for r in live.runs)
    by_sent = [s.site for s in sorted(live.runs[0].seen, key=lambda s: s.at_s)]
    again = sum(a == b for a, b in zip(one, two, strict=True)) / len(one)
    same = sum(a == b for play in twin.sites for a, b in zip(by_sent, play, strict=True))
    return again, same / len(one) / len(twin.sites)


def read_live(path: Path) -> Live:
    """What `truth.py --keep` wrote."""
    import msgspec

    return msgspec.json.decode(path.read_bytes(), type=Live)

"""Other simulators beside the twin, in the same run: what they are, how they get here, one measured process, ratios.

Each runs in a virtual environment of its own by a script from `drivers`. LEAF and Vessim come from the package index; SplitwiseSim and
Vidur do not, and are read from a checkout that the caller names. Not here: the twin's own run (`twin.py`).
"""

from __future__ import annotations

import csv
import json
import math
import os
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rig.contenders import BENCHMARKS, OFFLINE_ENV

PINS = BENCHMARKS / "simulators.toml"
DRIVERS = Path(__file__).parent / "drivers"
INSTALL = "python benchmarks/twin.py --install"
QUIET_ENV = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "WANDB_MODE": "disabled",
    "PYTHONWARNINGS": "ignore",
}
"""One thread for everybody, ours too, and nobody reports home."""
LLM_COMPARABLE = "arrivals, token counts, batching iteration by iteration, a queue a replica"
LLM_DIFFERENT = (
    "they have one cluster: no sites, law, network, power supply or aged load; and other models: SplitwiseSim a 70B on eight H100, "
    "Vidur a 7B on an A100, ours an 8B on an H100"
)


@dataclass(frozen=True, kw_only=True)
class Case:
    """One task for one other simulator and the nearest of ours."""

    id: str
    home: str
    """Name of its environment, and of the checkout's option where there is one."""
    unit: str
    driver: str
    arguments: tuple[str, ...]
    ours: tuple[str, int]
    """("twin", sites) or ("power", sites)."""
    comparable: str
    different: str
    requests: tuple[float, int] | None = None
    """Requests a second and how many, where it reads a request table."""
    trains: bool = False
    """It needs a first run that is not measured, and keeps what that made."""
    needs: tuple[str, ...] = ()
    """Files of its checkout."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One process from start to end, and what it says it did."""

    units: int
    wall_s: float
    cpu_s: float
    work_cpu_s: float
    """Without starting the interpreter and importing."""
    rss_mib: float


@dataclass(kw_only=True)
class Pair:
    """Both sides' samples of one case."""

    case: Case
    version: str
    theirs: list[Sample] = field(default_factory=list)
    ours: list[Sample] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Row:
    """What a case came to: units a second by the least time of all rounds. Ratios: ours over theirs."""

    case: str
    version: str
    unit: str
    theirs_units: int
    ours_units: int
    theirs_per_s: float
    ours_per_s: float
    theirs_per_work_cpu_s: float
    ours_per_work_cpu_s: float
    theirs_per_cpu_s: float
    ours_per_cpu_s: float
    theirs_mib: float
    ours_mib: float
    ratio: float
    ratio_work_cpu: float
    ratio_cpu: float
    comparable: str
    different: str


class FailedError(Exception):
    """A driver that did not come to its end."""


def cases(*, quick: bool) -> list[Case]:
    """All of them; `quick` is for a look: smaller, so that starting weighs more."""
    apps, days, requests = (2000, 3, 1000) if quick else (20_000, 30, 8000)
    placed = "each unit is a place chosen among all sites, with load and power kept by time"
    coarse = "LEAF's unit is placed and removed on links with a bandwidth; no tokens, batches, queues, grid or law"
    leaf = [
        Case(
            id=f"LEAF, {sites} sites", home="leaf", unit="placements", driver="leaf_placements.py",
            arguments=("--sites", str(sites), "--count", str(apps)), ours=("twin", sites), comparable=placed, different=coarse,
        )
        for sites in (10, 100)
    ]  # fmt: skip
    vessim = Case(
        id=f"Vessim, 50 microgrids, {days} days", home="vessim", unit="site-steps", driver="vessim_microgrids.py",
        arguments=("--sites", "50", "--days", str(days)), ours=("power", 50),
        comparable="load, solar, battery and grid balanced at five minutes",
        different="Vessim is given solar as a series; ours makes it from weather and adds cooling, UPS, price, carbon, water",
    )  # fmt: skip
    splitwise = [
        Case(
            id=f"SplitwiseSim, {servers} DGX-H100", home="splitwise-sim", unit="requests", driver="splitwise_requests.py",
            arguments=("--servers", str(servers)), ours=("twin", servers), requests=(rps, requests * (1 + (servers > 4))),
            comparable=LLM_COMPARABLE, different=LLM_DIFFERENT, needs=("run.py", "data/perf_model.csv"),
        )
        for servers, rps in ((4, 5.4), (40, 27.0))
    ]  # fmt: skip
    profiles = "data/profiling/compute/a100/meta-llama/Llama-2-7b-hf"
    vidur = Case(
        id="Vidur, 8 replicas", home="vidur", unit="requests", driver="vidur_requests.py", arguments=("--replicas", "8"),
        ours=("twin", 1), requests=(40.0, requests), comparable=LLM_COMPARABLE, different=LLM_DIFFERENT, trains=True,
        needs=("vidur/main.py", f"{profiles}/mlp.csv", f"{profiles}/attention.csv"),
    )  # fmt: skip
    return [*leaf, vessim, *splitwise, vidur]


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Where a comparison runs and what it asks of the twin's side."""

    cache: Path
    checkouts: Mapping[str, Path]
    work: Path
    rounds: int
    ours: Callable[[Case], Sample]
    requests: Callable[[float, int], Sequence[tuple[float, int, int]]]
    """Requests a second and how many: seconds, tokens in, tokens out."""
    say: Callable[[str], None]


def compare(stage: Stage, chosen: Sequence[Case]) -> tuple[list[Row], dict[str, str]]:
    """All cases by turns, ours beside theirs, and why some are missing. Who fails once is out."""
    missing: dict[str, str] = {}
    pairs = {}
    for case in chosen:
        why = say_missing(case, stage.cache, stage.checkouts)
        if why is None:
            pairs[case.id] = Pair(case=case, version=read_version(case, stage.checkouts))
            try:
                _prepare(stage, case)
                continue
            except FailedError as error:
                why = str(error)
        missing[case.id] = why
        pairs.pop(case.id, None)
        stage.say(f"not measured: {case.id}: {why}")
    for _ in range(stage.rounds):
        for pair in list(pairs.values()):
            try:
                pair.theirs.append(run_theirs(stage, pair.case))
            except FailedError as error:
                missing[pair.case.id] = str(error)
                stage.say(f"not measured: {pair.case.id}: {error}")
                del pairs[pair.case.id]
                continue
            pair.ours.append(stage.ours(pair.case))
            theirs, ours = pair.theirs[-1], pair.ours[-1]
            stage.say(
                f"{pair.case.id}: {theirs.units:,} {pair.case.unit} in {theirs.wall_s:.1f} s ({theirs.work_cpu_s:.1f} s CPU without starting); "
                f"ours {ours.units:,} in {ours.wall_s:.1f} s ({ours.work_cpu_s:.1f} s)"
            )
    return [sum_up(pair) for pair in pairs.values()], missing


def _prepare(stage: Stage, case: Case) -> None:
    """Its folder and request table; where it trains, a run of a few requests, so that what is measured finds the models."""
    work = _work(stage, case)
    work.mkdir(parents=True)
    if case.requests is None:
        return
    requests = stage.requests(*case.requests)
    if case.trains:
        stage.say(f"{case.id}: training what is not trained yet (half a minute of CPU, once)")
        write_requests(work / "requests.csv", case.home, requests[:20])
        run_theirs(stage, case)
    write_requests(work / "requests.csv", case.home, requests)


def _work(stage: Stage, case: Case) -> Path:
    return stage.work / case.id.replace(" ", "-").replace(",", "")


def install(cache: Path, say: Callable[[str], None]) -> None:
    """Make every environment whose pins are not what stands in it."""
    for name, pins in read_pins().items():
        home = cache / name
        if _is_installed(home, pins):
            continue
        say(f"installing {name} (200 to 700 MB)")
        subprocess.run([sys.executable, "-m", "venv", str(home)], check=True)
        pip = [str(home / "bin" / "python"), "-m", "pip", "install", "--quiet", *pins]
        if subprocess.run(pip, check=False, stdout=sys.stderr).returncode != 0:
            say(f"{name} could not be installed; it will be reported as not measured")
            continue
        (home / "pins.json").write_text(json.dumps(pins))


def read_pins() -> dict[str, list[str]]:
    """Requirements by environment."""
    found: dict[str, list[str]] = tomllib.loads(PINS.read_text())
    return found


def say_missing(case: Case, cache: Path, checkouts: Mapping[str, Path]) -> str | None:
    """Why a case cannot run and how to get it; None when it can."""
    pins = read_pins()[case.home]
    if case.needs:
        flag = f"--{case.home} DIR"
        if case.home not in checkouts:
            return f"no checkout given; get it: clone its repository, then {flag}"
        lacking = [name for name in case.needs if not (checkouts[case.home] / name).is_file()]
        if lacking:
            return f"{flag} has no {', '.join(lacking)}; get it: a whole clone, large files too"
    if not _is_installed(cache / case.home, pins):
        return f"its environment is not installed; get it: {INSTALL}"
    return None


def read_version(case: Case, checkouts: Mapping[str, Path]) -> str:
    """The pin, or the commit of the checkout."""
    if not case.needs:
        return read_pins()[case.home][0].partition("==")[2]
    command = ["git", "-C", str(checkouts[case.home]), "rev-parse", "--short", "HEAD"]
    top = ["git", "-C", str(checkouts[case.home]), "rev-parse", "--show-toplevel"]
    where = subprocess.run(top, capture_output=True, check=False, text=True).stdout.strip()
    if not where or Path(where).resolve() != checkouts[case.home].resolve():
        return "no commit"
    return subprocess.run(command, capture_output=True, check=False, text=True).stdout.strip()


def run_theirs(stage: Stage, case: Case) -> Sample:
    """One process of another simulator."""
    cache, work = stage.cache, _work(stage, case)
    command = [str(cache / case.home / "bin" / "python"), str(DRIVERS / case.driver)]
    command += case.arguments
    if case.needs:
        command += ["--work", str(work), "--requests", str(work / "requests.csv")]
    if case.trains:
        command += ["--models", str(cache / f"{case.home}-models")]
    env = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    env |= OFFLINE_ENV | QUIET_ENV | {"PYTHONPYCACHEPREFIX": str(cache / "pycache")}
    return measure(command, env=env, cwd=stage.checkouts.get(case.home, work), log=work / "log")


def run_power(sites: int, days: int, work: Path) -> Sample:
    """Ours beside Vessim."""
    command = [sys.executable, str(DRIVERS / "hanse_power.py")]
    command += ["--sites", str(sites), "--days", str(days)]
    return measure(command, env=os.environ | QUIET_ENV, cwd=None, log=work / "log")


def measure(
    command: Sequence[str], *, env: Mapping[str, str], cwd: Path | None, log: Path
) -> Sample:
    """Wall and CPU time of a process, its children included; its last line of output is JSON."""
    with log.open("wb") as err, log.with_suffix(".out").open("w+b") as out:
        started_s = time.perf_counter()
        popen = subprocess.Popen(list(command), env=dict(env), cwd=cwd, stdout=out, stderr=err)
        try:
            _, status, usage = os.wait4(popen.pid, 0)
        except BaseException:
            popen.kill()
            raise
        wall_s = time.perf_counter() - started_s
        popen.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        lines = out.read().decode(errors="replace").splitlines()
    said = next((line for line in reversed(lines) if line.startswith("{")), None)
    if popen.returncode != 0 or said is None:
        last = log.read_text(errors="replace").strip().splitlines()[-1:] or ["it said nothing"]
        raise FailedError(f"its driver ended with code {popen.returncode}: {last[0][:200]}")
    found = json.loads(said)
    return Sample(
        units=found["units"],
        wall_s=wall_s,
        cpu_s=usage.ru_utime + usage.ru_stime,
        work_cpu_s=found["work_cpu_s"],
        rss_mib=found["rss_mib"],
    )


def write_requests(path: Path, home: str, requests: Sequence[tuple[float, int, int]]) -> None:
    """Seconds, tokens in, tokens out, as the columns each of them reads."""
    with path.open("w", newline="") as file:
        table = csv.writer(file)
        if home == "vidur":
            table.writerow(["arrived_at", "num_prefill_tokens", "num_decode_tokens"])
            table.writerows(requests)
            return
        names = "request_id request_type application_id arrival_timestamp batch_size prompt_size token_size"
        table.writerow(names.split())
        # 2: a generative request, the only type it has.
        table.writerows([i, 2, 0, at_s, 1, *tokens] for i, (at_s, *tokens) in enumerate(requests))


def sum_up(pair: Pair) -> Row:
    """The least time of the rounds on either side, for each kind of time by itself: noise only adds."""
    rates = {}
    for side, samples in (("theirs", pair.theirs), ("ours", pair.ours)):
        for name in ("wall_s", "cpu_s", "work_cpu_s"):
            rates[side, name] = max(s.units / getattr(s, name) for s in samples)
    return Row(
        case=pair.case.id,
        version=pair.version,
        unit=pair.case.unit,
        theirs_units=pair.theirs[0].units,
        ours_units=pair.ours[0].units,
        theirs_per_s=rates["theirs", "wall_s"],
        ours_per_s=rates["ours", "wall_s"],
        theirs_per_work_cpu_s=rates["theirs", "work_cpu_s"],
        ours_per_work_cpu_s=rates["ours", "work_cpu_s"],
        theirs_per_cpu_s=rates["theirs", "cpu_s"],
        ours_per_cpu_s=rates["ours", "cpu_s"],
        theirs_mib=max(s.rss_mib for s in pair.theirs),
        ours_mib=max(s.rss_mib for s in pair.ours),
        ratio=rates["ours", "wall_s"] / rates["theirs", "wall_s"],
        ratio_work_cpu=rates["ours", "work_cpu_s"] / rates["theirs", "work_cpu_s"],
        ratio_cpu=rates["ours", "cpu_s"] / rates["theirs", "cpu_s"],
        comparable=pair.case.comparable,
        different=pair.case.different,
    )


def lines_of(rows: Sequence[Row]) -> list[str]:
    """The table, and under it what is alike and what is not."""
    lines = [
        f"{'':<34}{'theirs/s':>11}{'ours/s':>12}{'x whole':>9}{'x work':>9}{'x CPU':>9}{'MiB':>12}"
    ]
    lines += [
        f"{r.case:<34}{r.theirs_per_s:>11,.0f}{r.ours_per_s:>12,.0f}{r.ratio:>9,.1f}{r.ratio_work_cpu:>9,.1f}{r.ratio_cpu:>9,.1f}"
        f"{f'{r.theirs_mib:.0f}/{r.ours_mib:.0f}':>12}  {r.unit}, {r.version}"
        for r in rows
    ]
    said: dict[tuple[str, str], list[str]] = {}
    for r in rows:
        said.setdefault((r.comparable, r.different), []).append(r.case)
    for (alike, unlike), names in said.items():
        lines += [f"{'; '.join(names)}:", f"  alike: {alike}", f"  not alike: {unlike}"]
    return lines


def exponent(sizes: Sequence[float], costs: Sequence[float]) -> float:
    """Slope of the least-squares line through log cost over log size."""
    if len(set(sizes)) < 2:
        raise ValueError("an exponent needs two sizes")
    x, y = [math.log(s) for s in sizes], [math.log(c) for c in costs]
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    over = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True))
    return over / sum((a - mean_x) ** 2 for a in x)


def _is_installed(home: Path, pins: Sequence[str]) -> bool:
    path = home / "pins.json"
    return path.is_file() and json.loads(path.read_text()) == list(pins)

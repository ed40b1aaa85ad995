"""Is the simulated world right? A live league and its twin on the same requests.

Starts the league as real processes, plays a calibration trace, then a second one twice, a quarter of an hour in all; calibrates the twin on the
first and simulates the second; prints both sides, what the two live runs differ by, and whether the twin is within it. Limits: `rig/truth_twin.py`; what the figures can
and cannot show: benchmarks/README.md. The table goes to stderr, `--json` puts a document on stdout.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
from cyclopts import App, Parameter
from rich.console import Console
from rich.table import Table
from rig import league_load, truth_twin

from hanse.live.runtime import StateDir
from hanse.model.read import read_fleet
from hanse.serving.measured import read_table
from hanse.twin.calibrate import calibrated, observations, write_steps

LEAGUE = Path(__file__).resolve().parents[1] / "examples" / "league.toml"
START_S_MAX = 180.0
STOP_S_MAX = 40.0
QUIET_S = 8.0
"""With nobody asking: what an idle engine takes, and the whole idle league."""
WARM_REQUESTS = 24
"""The first prompts of an engine read the template's head and touch its memory for the first time; gateways compile and learn heads."""
CPU_S_PER_REQUEST = 0.45
"""About 40 unread prompt tokens at 4.3 ms and 20 of an answer at 13.9 ms (`serving.thread`)."""
SHARE = 0.25
"""Of the machine's processors that engines shall take. With gateways, links and users two cores are then 28 % busy; at 0.4 they are 38 to 48 %. More is
possible, but three engines at once on two cores are what a fleet's own hosts never see."""
TICKS = os.sysconf("SC_CLK_TCK")

app = App(name="truth.py", help=__doc__, help_format="plaintext")
console = Console(stderr=True, highlight=False, width=None if sys.stderr.isatty() else 130)


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Options:
    """Flags of the command line."""

    fleet: Path = LEAGUE
    minutes: float = 4.0
    "Length of each of the three plays. Three points of shares are a dozen requests at four minutes, and three at one."
    share: float = SHARE
    "Of all processors that engines shall take; at most 0.5."
    seed: int = 5
    keep: Path | None = None
    "Directory that gets what was measured, and the calibration, for `--judge`."
    judge: Path | None = None
    "Start nothing: simulate and judge what an earlier run kept there."
    json: bool = False
    gate: bool = False
    "Exit 1 where a figure is missed."


def cpu_s(pid: int) -> float:
    """User and system time of a process; 0 where it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / TICKS


class League:
    """A running league by its pid files, and the clocks of its processes."""

    def __init__(self, state: Path) -> None:
        self.state = state

    def engines(self) -> dict[str, int]:
        """`site/engine` -> pid."""
        found = {}
        for path in sorted((self.state / "sites").glob("*/pid/engine-*.pid")):
            name = path.stem.removeprefix("engine-")
            with contextlib.suppress(OSError, ValueError):
                found[f"{path.parents[1].name}/{name}"] = int(path.read_text())
        return found

    def ours_s(self) -> float:
        """CPU of all processes of the league and of this one."""
        mark = str(self.state).encode()
        pids = {os.getpid()}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    if mark in (entry / "cmdline").read_bytes():
                        pids.add(int(entry.name))
        return sum(map(cpu_s, pids))


def machine_s() -> tuple[float, float]:
    """(busy, all) CPU seconds of the machine since it booted."""
    fields = [int(x) / TICKS for x in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    return sum(fields) - fields[3] - fields[4], sum(fields)


@contextlib.contextmanager
def league(fleet: Path, state: Path) -> Iterator[League]:
    """`hanse up --record`, until every gateway is ready; ended as Ctrl-C does."""
    program = "import sys; from hanse.cli import main; main(sys.argv[1:])"
    command = [sys.executable, "-c", program, "up", str(fleet), "--state", str(state)]
    with (state / "up.log").open("wb") as log:
        up = subprocess.Popen(
            [*command, "--no-traffic", "--record"],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    try:
        _wait_until_ready(up, state)
        yield League(state)
    finally:
        up.send_signal(signal.SIGINT)
        try:
            up.wait(STOP_S_MAX)
        except subprocess.TimeoutExpired:
            os.killpg(up.pid, signal.SIGKILL)
            up.wait()


def _wait_until_ready(up: subprocess.Popen[bytes], state: Path) -> None:
    from hanse.cli.league import call
    from hanse.errors import SiteError

    until_s = time.monotonic() + START_S_MAX
    while time.monotonic() < until_s:
        if up.poll() is not None:
            break
        if StateDir(state).runtime_json.exists():
            sites = StateDir(state).read_runtime().sites.values()
            with contextlib.suppress(SiteError):
                if all(call("GET", f"{one.client_url}/readyz")[0] == 200 for one in sites):
                    return
        time.sleep(0.3)
    raise SystemExit("the league did not start:\n" + (state / "up.log").read_text()[-3000:])


def measure(options: Options, state: Path) -> truth_twin.Live:
    """Start the league and play: a few requests to warm up, the calibration trace, the other one twice."""
    rate = min(options.share, 0.5) * (os.cpu_count() or 1) / CPU_S_PER_REQUEST
    traces = [
        league_load.requests_of(league_load.planned(name, seed, options.minutes, rate))
        for name, seed in (("calibration", options.seed), ("second", options.seed + 1))
    ]
    say(f"{rate:.2f} requests/s, {' and '.join(str(len(t)) for t in traces)} requests")
    with league(options.fleet, state) as running:
        doors = league_load.Doors(state, read_fleet(options.fleet))
        league_load.play(doors, traces[0][:WARM_REQUESTS], options.seed + 900_001)
        plays = []
        for number, requests in enumerate((traces[0], traces[1], traces[1])):
            plays.append(_play(running, doors, requests, options.seed + 100_003 * number))
            _say_run(("calibration", "live 1", "live 2")[number], plays[-1])
        idle_cores, idle = _idle(running)
    return truth_twin.Live(
        calibration=plays[0], runs=(plays[1], plays[2]), idle_cpu=idle, cores=os.cpu_count() or 1, idle_cores=idle_cores
    )  # fmt: skip


def _idle(running: League) -> tuple[float, dict[str, float]]:
    """Cores that the league, and each engine, takes while nobody asks; at the end, when nothing is still being started."""
    before, ours_s = {name: cpu_s(pid) for name, pid in running.engines().items()}, running.ours_s()
    time.sleep(QUIET_S)
    return (running.ours_s() - ours_s) / QUIET_S, {
        n: (cpu_s(p) - before[n]) / QUIET_S for n, p in running.engines().items()
    }


def _play(
    running: League, doors: league_load.Doors, requests: list[league_load.Request], seed: int
) -> truth_twin.Run:
    engines = running.engines()
    before = {name: cpu_s(pid) for name, pid in engines.items()}
    ours_s, (busy_s, all_s) = running.ours_s(), machine_s()
    began_at_s, since_s = time.time(), time.monotonic()
    seen = league_load.play(doors, requests, seed)
    elapsed_s = time.monotonic() - since_s
    ours_s, machine = running.ours_s() - ours_s, machine_s()
    busy, whole = machine[0] - busy_s, machine[1] - all_s
    return truth_twin.Run(
        began_at_s=began_at_s,
        seen=tuple(seen),
        cpu_s={name: cpu_s(pid) - before[name] for name, pid in engines.items()},
        elapsed_s=elapsed_s,
        machine_busy=busy / whole,
        foreign_busy=max(busy - ours_s, 0.0) / whole,
    )


def calibrate(options: Options, state: Path, run: truth_twin.Run) -> Path:
    """The first play's steps as a table, from the league's own input logs."""
    until_s = run.began_at_s + run.elapsed_s
    fleet = read_fleet(options.fleet)
    found = calibrated(observations(state, fleet, until_s=until_s))
    path = state / "steps.csv"
    write_steps(path, found.steps)
    return path


def say(text: str) -> None:
    """A line of progress for people."""
    console.print(text, style="dim", markup=False)


def _say_run(name: str, run: truth_twin.Run) -> None:
    side = truth_twin.side_of(run)
    say(
        f"{name}: {side.answered} of {side.requests} answered in {run.elapsed_s:.0f} s, TTFT {side.ttft_p50:.0f} ms, TPOT {side.tpot_p50:.1f} ms; "
        f"machine {run.machine_busy:.0%} busy, {run.foreign_busy:.0%} of it by others"
    )


def show(live: truth_twin.Live, twin: truth_twin.Twin, found: list[truth_twin.Verdict]) -> None:
    """The table for people."""
    table = Table(title="live and simulated", title_justify="left", box=None, pad_edge=False)
    for name in ("figure", "live 1", "live 2", "twin", "off", "allowed", ""):
        table.add_column(name, justify="left" if name in ("figure", "") else "right")
    for one in found:
        share = one.what.startswith("share")
        form = (lambda x: f"{x:.1%}") if share else (lambda x: f"{x:.1f}")
        verdict = {True: "met", False: "MISSED", None: "not judged"}[one.met]
        cells = (*one.live, one.twin, one.off, one.allowed)
        table.add_row(one.what, *(form(x) for x in cells), verdict)
    console.print(table)
    again, same = truth_twin.same_site(live, twin)
    say(
        f"by the calibration run: {twin.cores:.2f} cores for engines and tokens, {twin.token_cpu_ms:.1f} ms of CPU to carry a token, "
        f"engines' CPU {twin.duty:.2f} of their steps'"
    )
    say(f"same site as in live 1: live 2 {again:.0%} of requests, twin {same:.0%}")
    loud = max(run.foreign_busy for run in (live.calibration, *live.runs))
    if loud > 0.1:
        say(f"others took up to {loud:.0%} of the machine: these figures say little")


@app.default
def main(options: Options = Options()) -> int:
    """Measure, calibrate, simulate, judge."""
    with tempfile.TemporaryDirectory(prefix="hanse-truth-") as scratch:
        where = options.judge
        if where is None:
            where = options.keep or Path(scratch) / "kept"
            where.mkdir(parents=True, exist_ok=True)
            state = (options.keep or Path(scratch)) / "state"
            state.mkdir(exist_ok=True)
            live = measure(options, state)
            (where / "live.json").write_bytes(msgspec.json.encode(live))
            steps = calibrate(options, state, live.calibration)
            (where / "steps.csv").write_bytes(steps.read_bytes())
        live = truth_twin.read_live(where / "live.json")
        twin = truth_twin.twin_of(read_fleet(options.fleet), live, read_table(where / "steps.csv"))
    found = truth_twin.verdicts(live, twin)
    show(live, twin, found)
    missed = [one.what for one in found if one.met is False]
    if options.json:
        runs = [truth_twin.side_of(run) for run in live.runs]
        document = {"live": runs, "twin": twin.side, "verdicts": found, "missed": missed}
        document["foreign_busy"] = [run.foreign_busy for run in (live.calibration, *live.runs)]
        sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(document)) + b"\n")
    return 1 if options.gate and missed else 0


if __name__ == "__main__":
    sys.exit(app())

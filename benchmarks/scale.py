"""Many sites against one hub: how long until all of them act by what the hub decides, and what the hub takes for it.

    python benchmarks/scale.py 100 300 1000 [--tables 10] [--losses 8] [--json]

The hub is the real one (`hanse hub`: NATS, controller, door); the sites are light ones in two processes (`rig/scale_sites.py`) that speak over
the real bus, each as its own user. All of it shares this machine. Measured: a table from its tick to every site, a site's changed replicas
and a site taken out of service until every site acts by it, a silent site until the controller says so and, since silence by itself puts no
site out of the table (gateways find that out in under two seconds from each other), until a table without it is in force at all others
after somebody takes it out; memory, CPU, sizes. Not here: TLS and JetStream of a thousand leaf servers, requests.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from rig.process import build_rig_env, start, stop
from rig.report import describe_machine
from rig.scale_fleet import prepared

from hanse.dispatch import events as ev
from hanse.dispatch.eventlog import entries
from hanse.live.ask_change import ask_again, change_of_standing
from hanse.live.first_start import Prepared
from hanse.live.league_file import Standing
from hanse.live.runtime import StateDir

SITE_PROCESSES = 2
READY_S_MAX = 100.0
DONE_S_MAX = 40.0
CALM_S = 1.5
"""Between two measurements, so that one does not wait for the other."""
IDLE_S = 10.0
PROCESSES = ("nats", "controller", "door")
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class Sites:
    """The processes of light sites, and what they said."""

    def __init__(self) -> None:
        self.processes: list[asyncio.subprocess.Process] = []
        self.said: list[dict[str, Any]] = []
        self._news = asyncio.Event()
        self._readers: list[asyncio.Task[None]] = []

    async def begin(self, state: StateDir, port: int, names: list[str]) -> None:
        for number in range(SITE_PROCESSES):
            mine = names[number::SITE_PROCESSES]
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "rig.scale_sites", "--state", str(state.path),
                "--port", str(port), "--sites", ",".join(mine),
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=2**24,
                env=build_rig_env() | {"PYTHONPATH": _python_path()},
            )  # fmt: skip
            self.processes.append(process)
            self._readers.append(asyncio.create_task(self._read(process)))

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        while line := await process.stdout.readline():
            value = json.loads(line)
            if "error" in value:
                print(value["error"], file=sys.stderr)
            self.said.append(value)
            self._news.set()

    def order(self, **words: Any) -> None:
        for process in self.processes:
            assert process.stdin is not None
            process.stdin.write(json.dumps(words).encode() + b"\n")

    async def until(self, found: Callable[[], Any], limit_s: float, what: str) -> Any:
        """What `found` gives, once it gives something."""
        async with asyncio.timeout(limit_s) as limit:
            while (value := found()) is None:
                self._news.clear()
                try:
                    await self._news.wait()
                except asyncio.CancelledError:
                    if limit.expired():
                        print(f"waited {limit_s:g} s for {what}", file=sys.stderr)
                    raise
        return value

    def complete(self, kind: str, number: int) -> dict[str, Any] | None:
        """All processes' words on one table or revision, joined."""
        parts = [one for one in self.said if one.get(kind) == number]
        if len(parts) < SITE_PROCESSES:
            return None
        joined = dict(parts[0])
        for key in ("delivered", "acked"):
            joined[key] = [at_s for part in parts for at_s in part[key]]
        return joined

    def tables(self, after_s: float) -> list[int]:
        """Tables that were issued after an instant and are in force everywhere."""
        found = {one["table"] for one in self.said if one.get("issued_at_s", 0.0) > after_s}
        return sorted(n for n in found if self.complete("table", n) is not None)

    async def end(self) -> None:
        for process in self.processes:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
        await asyncio.gather(*self._readers)


class Hub:
    """The hub's processes: what they take."""

    def __init__(self, state: StateDir) -> None:
        self._state = state
        self.pss_mib: dict[str, list[float]] = {name: [] for name in PROCESSES}

    def pid(self, name: str) -> int:
        return int((self._state.hub / "pid" / f"{name}.pid").read_text())

    def cpu_s(self) -> dict[str, float]:
        found = {}
        for name in PROCESSES:
            stat = Path(f"/proc/{self.pid(name)}/stat").read_text().rpartition(")")[2].split()
            found[name] = (int(stat[11]) + int(stat[12])) / TICKS_PER_S
        return found

    async def watch(self) -> None:
        """Memory, each second."""
        while True:
            for name in PROCESSES:
                with contextlib.suppress(OSError, ValueError):
                    text = Path(f"/proc/{self.pid(name)}/smaps_rollup").read_text()
                    kib = next(x.split()[1] for x in text.splitlines() if x.startswith("Pss:"))
                    self.pss_mib[name].append(int(kib) / 1024)
            await asyncio.sleep(1.0)

    def log(self) -> str:
        return (self._state.hub / "log" / "controller.log").read_text()


class Scale:
    """One number of sites."""

    def __init__(self, done: Prepared, arguments: argparse.Namespace) -> None:
        self.state = done.state
        self.names = [site.id for site in done.fleet.sites]
        self.port = done.runtime.hub.client_port if done.runtime.hub else 0
        self.arguments = arguments
        self.sites = Sites()
        self.hub = Hub(self.state)
        self.draw = random.Random(11)
        self.found: dict[str, Any] = {"sites": len(self.names)}

    async def run(self) -> dict[str, Any]:
        began_s = time.monotonic()
        watching: asyncio.Task[None] | None = None
        try:
            await _until(lambda: " leads under epoch" in self.hub.log(), READY_S_MAX, "a leader")
            watching = asyncio.create_task(self.hub.watch())
            joins_s = time.monotonic()
            await self.sites.begin(self.state, self.port, self.names)
            await self.sites.until(self._all_connected, READY_S_MAX, "connections")
            await self.sites.until(lambda: self.sites.tables(0.0) or None, READY_S_MAX, "a table")
            self.found["leads_s"] = round(joins_s - began_s, 2)
            self.found["all_act_by_a_table_s"] = round(time.monotonic() - joins_s, 2)
            await asyncio.sleep(self.arguments.settle)
            await self._idle()
            await self._standing()
            await self._replicas()
            await self._losses()
            self._sum_up()
        finally:
            if watching is not None:
                watching.cancel()
            await self.sites.end()
        return self.found

    def _all_connected(self) -> bool | None:
        return len([one for one in self.sites.said if "connected" in one]) == SITE_PROCESSES or None

    async def _idle(self) -> None:
        """Nothing happens but reports."""
        before, at_s = self.hub.cpu_s(), time.monotonic()
        await asyncio.sleep(IDLE_S)
        after, wall_s = self.hub.cpu_s(), time.monotonic() - at_s
        self.found["cpu_idle_cores"] = {n: (after[n] - before[n]) / wall_s for n in PROCESSES}

    async def _standing(self) -> None:
        """One site is taken out of service, and put back: a revision and a table."""
        answered, revised, in_force, tables, reached = [], [], [], [], []
        for _ in range(self.arguments.tables):
            site = self.draw.choice(self.names)
            for out in (True, False):
                asked_s = time.time()
                revision = await asyncio.to_thread(self._stand, site, out)
                answered.append(time.time() - asked_s)
                table = await self._table_with(
                    asked_s, lambda t, site=site, out=out: (site in t["drained"]) == out
                )
                league = await self.sites.until(
                    lambda revision=revision: self.sites.complete("revision", revision),
                    DONE_S_MAX,
                    "a revision",
                )
                revised.append(max(league["acked"]) - asked_s)
                in_force.append(max(max(table["acked"]), max(league["acked"])) - asked_s)
                tables.append(table)
                reached += [at_s - table["issued_at_s"] for at_s in table["delivered"]]
                await asyncio.sleep(CALM_S)
        self.found["change_answered_s"] = _shares(answered)
        self.found["change_everywhere_s"] = _shares(in_force)
        self.found["table_reaches_site_s"] = _shares(reached)
        self.found["table_last_reached_s"] = _shares(
            [max(t["delivered"]) - t["issued_at_s"] for t in tables]
        )
        self.found["table_last_ack_s"] = _shares(
            [max(t["acked"]) - t["issued_at_s"] for t in tables]
        )
        self.found["table_bytes"] = tables[-1]["bytes"]

    def _stand(self, site: str, out: bool) -> int:
        standing = Standing(state="drained", since_s=time.time()) if out else None
        return ask_again(
            self.state,
            lambda known: change_of_standing(
                known, site, standing, "benchmark", "scale", force=True
            ),
        )

    async def _table_with(
        self, after_s: float, fits: Callable[[dict[str, Any]], bool]
    ) -> dict[str, Any]:
        def found() -> dict[str, Any] | None:
            whole = (self.sites.complete("table", number) for number in self.sites.tables(after_s))
            return next((t for t in whole if t is not None and fits(t)), None)

        table: dict[str, Any] = await self.sites.until(found, DONE_S_MAX, "a table")
        return table

    async def _replicas(self) -> None:
        """One site reports replicas of another kind; everybody's table lists them."""
        spent = []
        for _ in range(self.arguments.tables):
            site = self.draw.choice(self.names)
            for lost in (True, False):
                self.sites.said.clear()
                at_s = time.time()
                self.sites.order(change=site, lost=lost, watch=site)
                changed = await self.sites.until(
                    lambda: next((x for x in self.sites.said if "changed" in x), None),
                    DONE_S_MAX, "a report",
                )  # fmt: skip
                table = await self._table_with(at_s, lambda t: True)
                spent.append(max(table["acked"]) - changed["at_s"])
                await asyncio.sleep(CALM_S)
        self.found["replicas_everywhere_s"] = _shares(spent)

    async def _losses(self) -> None:
        """A site falls silent; somebody who reads the log takes it out of service."""
        noticed, in_force = [], []
        for _ in range(self.arguments.losses):
            site = self.draw.choice(self.names)
            await asyncio.sleep(self.draw.random())
            self.sites.said.clear()
            offset = len(self.hub.log())
            self.sites.order(silence=site)
            silent = await self.sites.until(
                lambda: next((x for x in self.sites.said if "silent" in x), None),
                DONE_S_MAX, "silence",
            )  # fmt: skip
            said = f"site {site} is silent"
            await _until(
                lambda said=said, offset=offset: said in self.hub.log()[offset:], DONE_S_MAX, said
            )
            noticed.append((site, silent["at_s"]))
            asked_s = time.time()
            await asyncio.to_thread(self._stand, site, True)
            table = await self._table_with(asked_s, lambda t, site=site: site in t["drained"])
            in_force.append(max(table["acked"]) - silent["at_s"])
            self.sites.order(resume=site)
            await asyncio.to_thread(self._stand, site, False)
            await asyncio.sleep(2 * CALM_S)
        lost = self._events(ev.SiteLost)
        spent = [
            min(e.at_s for e in lost if e.site == site and e.at_s > at_s) - at_s
            for site, at_s in noticed
        ]
        self.found["loss_noticed_s"] = _shares(spent)
        self.found["loss_everywhere_s"] = _shares(in_force)
        self.found["false_losses"] = len(lost) - len(noticed)

    def _events(self, kind: type[Any]) -> list[Any]:
        found = []
        for path in sorted((self.state.hub / "events").glob("*.events")):
            for entry in entries(path.read_bytes()):
                if entry is not None and entry.event:
                    event = ev.event_from_bytes(entry.event)
                    found += [event] if isinstance(event, kind) else []
        return found

    def _sum_up(self) -> None:
        self.found["pss_mib_max"] = {n: max(v) for n, v in self.hub.pss_mib.items() if v}
        together = [sum(v) for v in zip(*self.hub.pss_mib.values(), strict=False)]
        self.found["pss_mib_together_max"] = max(together)
        files = (self.state.hub / "events").glob("*.events")
        self.found["event_log_mib"] = sum(f.stat().st_size for f in files) / 2**20


def _shares(values: list[float]) -> dict[str, float]:
    return {
        "n": len(values),
        **{f"p{p}": float(np.percentile(values, p)) for p in (50, 95, 99)},
        "max": max(values, default=0.0),
    }


async def _until(found: Callable[[], bool], limit_s: float, what: str) -> None:
    until_s = time.monotonic() + limit_s
    while time.monotonic() < until_s:
        with contextlib.suppress(FileNotFoundError):
            if found():
                return
        await asyncio.sleep(0.05)
    raise TimeoutError(f"waited {limit_s:g} s for {what}")


def _python_path() -> str:
    here = Path(__file__).resolve().parent
    return f"{here}{os.pathsep}{here.parent / 'src'}"


def measure(sites_n: int, arguments: argparse.Namespace) -> dict[str, Any]:
    folder = Path(tempfile.mkdtemp(prefix="scale-"))
    try:
        done = prepared(folder, sites_n)
        let_in = Path(__file__).resolve().parent / "rig" / "scale_hub"
        env = build_rig_env() | {"PYTHONPATH": f"{let_in}{os.pathsep}{_python_path()}"}
        command = (sys.executable, "-m", "hanse.live.hub", "--state", str(done.state.path))
        hub = start("hub", command, core=None, work_dir=folder, env=env)
        try:
            return asyncio.run(Scale(done, arguments).run())
        except TimeoutError:
            print(hub.read_log_tail(4000), file=sys.stderr)
            raise
        finally:
            if arguments.keep:
                shutil.copytree(done.state.hub, arguments.keep, dirs_exist_ok=True)
            stop(hub)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


LINES = (
    ("table_reaches_site_s", "a table, tick to one site"),
    ("table_last_reached_s", "a table, tick to the last site"),
    ("table_last_ack_s", "a table, tick to the last acknowledgement"),
    ("replicas_everywhere_s", "one site's changed replicas, in everybody's table"),
    ("change_answered_s", "one site out of service: the hub has taken it"),
    ("change_everywhere_s", "one site out of service: revision and table in force everywhere"),
    ("loss_noticed_s", "a silent site: the controller says so"),
    ("loss_everywhere_s", "a silent site: then taken out, in force at all others"),
)


def show(found: dict[str, Any]) -> None:
    print(
        f"\n## {found['sites']} sites\n\n| seconds | n | p50 | p95 | p99 | max |\n|---|---|---|---|---|---|"
    )
    for name, text in LINES:
        one = found[name]
        shares = " | ".join(f"{one[p]:.2f}" for p in ("p50", "p95", "p99", "max"))
        print(f"| {text} | {one['n']} | {shares} |")
    cores = ", ".join(f"{n} {c:.2f}" for n, c in found["cpu_idle_cores"].items())
    memory = ", ".join(f"{n} {m:.0f}" for n, m in found["pss_mib_max"].items())
    print(
        f"\nCores while nothing changes: {cores}. PSS max in MiB: {memory}; together {found['pss_mib_together_max']:.0f}."
    )
    print(
        f"Table {found['table_bytes'] / 1000:.0f} kB. Losses that were none: {found['false_losses']}. All act by a table"
    )
    print(
        f"{found['all_act_by_a_table_s']} s after the first connects. Event log {found['event_log_mib']:.1f} MiB."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sites", type=int, nargs="*", default=[100, 300, 1000])
    parser.add_argument(
        "--tables", type=int, default=10, help="changes of each kind, there and back"
    )
    parser.add_argument("--losses", type=int, default=8)
    parser.add_argument(
        "--settle", type=float, default=5.0, help="seconds before anything is measured"
    )
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--keep", type=Path, help="copy the hub's directory there at the end")
    arguments = parser.parse_args()
    results = [measure(sites_n, arguments) for sites_n in arguments.sites]
    if arguments.json:
        machine = msgspec.to_builtins(describe_machine())
        print(json.dumps({"machine": machine, "results": results}, indent=1))
        return
    machine = describe_machine()
    print(
        f"{machine.cores} cores of {machine.cpu}, {machine.memory_gib} GiB, Linux {machine.kernel}"
    )
    for found in results:
        show(found)


if __name__ == "__main__":
    main()

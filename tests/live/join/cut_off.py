"""A league whose machines are namespaces on a WAN of real packets: a hub, three sites, and the hands to cut, kill and start them.

The hub's machine is `hub`, with the site `berlin` beside it in processes of its own; `lyon` and `paris` joined; `spare` is empty. The hub is
known by a name, `hub.league`, that each namespace looks up in a hosts file of its own.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from hanse.live.evidence import audit
from hanse.live.evidence.chain import scan_file
from hanse.live.runtime import StateDir
from hanse.live.tun import TunLink, TunWan
from live.join.machines import HANSE, SERVER, Machine, address, until

MODEL, SERVICE = "tiny-135m-q4_1", "tiny-135m-q4-1"
HUB_NAME = "hub.league"
PLACES = ("hub", "lyon", "paris", "spare")
CITIES = {"lyon": "Lyon", "paris": "Paris"}
LINK = TunLink(delay_ms=10.0, mbit_s=100.0)
"""As a leased line across a country."""


class Wide:
    """The league; a context manager."""

    def __init__(self, home: Path, places: tuple[str, ...] = PLACES) -> None:
        self._home = home
        self._places = places
        self._wan = TunWan(places, LINK)
        self.machines: dict[str, Machine] = {}
        self.ports: dict[str, str] = {}
        self._hosts: list[Path] = []
        self.key = ""

    def __enter__(self) -> Wide:
        with contextlib.ExitStack() as undo:
            undo.callback(self.__exit__)
            self._wan.__enter__()
            for name in self._places:
                space = self._wan[name]
                self._hosts.append(Path("/etc/netns") / space.name)
                self.machines[name] = Machine(self._home / name, space.address, space.name)
            self.name_hub("hub")
            self._found()
            undo.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        for machine in self.machines.values():
            with contextlib.suppress(AssertionError, subprocess.CalledProcessError):
                self.kill(machine)
            for process in machine.started:
                process.wait(15)
        self._wan.close()
        for path in self._hosts:
            shutil.rmtree(path, ignore_errors=True)

    def _found(self) -> None:
        hub = self.machines["hub"]
        url = self.serve("hub")
        hub.hanse("init", "--city", "Berlin", "--host", hub.host, "--url", url, "--grid-kw", "2")
        fleet = hub.home / "fleet.toml"
        text = fleet.read_text().replace(
            f'[hub]\nhost = "{hub.host}"', f'[hub]\nhost = "0.0.0.0"\nadvertise = "{HUB_NAME}"'
        )
        head, mark, rest = text.partition("[policy]")
        fleet.write_text(f"{head}[batch]\nhome_copies = 2\n\n{mark}{rest}")
        assert HUB_NAME in text
        self.start_hub("fleet.toml")
        until(self.hub.runtime_json.exists, "the hub is prepared")
        self.start_site("hub", "berlin")
        until(lambda: self.ready("hub", "berlin"), "the hub's site is ready", 120)
        for site in CITIES:
            token = hub.hanse("token", site, "--state", "S").strip()
            where = ("--city", CITIES[site], "--host", self.machines[site].host)
            come = ("--url", self.serve(site), "--grid-kw", "2", "--no-start", "--state", "S")
            self.machines[site].hanse("join", token, *where, *come)
            self.start_site(site, site)
        self.key = (hub.home / "S/keys/own.key").read_text().strip()
        self.wait_until_whole()

    # --- what runs

    @property
    def hub(self) -> StateDir:
        return self.machines["hub"].state("S")

    def state(self, site: str) -> StateDir:
        return self.machines["hub" if site == "berlin" else site].state("S")

    def serve(self, place: str) -> str:
        """The OpenAI server of a machine, under the same port each time."""
        machine, port = self.machines[place], self.ports.get(place, "18000")
        self.ports[place] = port
        machine.start("engine", sys.executable, str(SERVER), port, MODEL)
        until(lambda: f":{port} " in listening(machine), "the engine listens", 20)
        return f"http://127.0.0.1:{port}"

    def start_hub(self, *fleet: str, place: str = "hub") -> None:
        self.machines[place].start(
            "hub", sys.executable, "-c", HANSE, "hub", *fleet, "--state", "S"
        )

    def start_site(self, place: str, site: str) -> None:
        machine = self.machines[place]
        machine.start("site", sys.executable, "-c", HANSE, "site", site, "--state", "S")

    def kill(self, machine: Machine) -> int:
        """kill -9 of everything on a machine, as a power cut does."""
        pids = self.all_pids(machine)
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        until(lambda: not self.all_pids(machine), "everything on the machine is gone", 10)
        return len(pids)

    def all_pids(self, machine: Machine) -> list[int]:
        done = subprocess.run(
            ["ip", "netns", "pids", machine.namespace], capture_output=True, text=True, check=False
        )
        for process in machine.started:
            process.poll()
        return [int(pid) for pid in done.stdout.split() if not zombie(int(pid))]

    def kill_hub(self) -> int:
        """The hub's processes alone; the site beside it goes on."""
        killed = 0
        for path in (self.hub.hub / "pid").glob("*.pid"):
            with contextlib.suppress(OSError, ValueError):
                os.kill(int(path.read_text()), signal.SIGKILL)
                killed += 1
        return killed

    def pids(self, site: str) -> dict[str, int]:
        """Of a site's processes, by name."""
        home = self.state(site).site(site) / "pid"
        return {path.stem: int(path.read_text()) for path in sorted(home.glob("*.pid"))}

    # --- the WAN

    def cut(self, a: str, b: str) -> None:
        self._wan.cut(a, b)

    def alone(self, place: str) -> None:
        """From everybody."""
        for other in self._places:
            if other != place:
                self._wan.cut(place, other)

    def heal(self) -> None:
        for i, a in enumerate(self._places):
            for b in self._places[i + 1 :]:
                self._wan.set_link(a, b, is_cut=False, ports_lost=())
                self._wan.set_link(b, a, is_cut=False, ports_lost=())

    def lose_ports(self, a: str, b: str, *ports: int) -> None:
        """Packets of connections with these ports vanish, both ways; all others pass."""
        self._wan.set_link(a, b, ports_lost=ports)
        self._wan.set_link(b, a, ports_lost=ports)

    def name_hub(self, place: str) -> None:
        """Which machine `hub.league` is, for everybody; by rewriting the file, which namespaces have mounted."""
        wanted = f"127.0.0.1 localhost\n{self.machines[place].host} {HUB_NAME}\n"
        for path in self._hosts:
            path.mkdir(parents=True, exist_ok=True)
            (path / "hosts").write_text(wanted)

    # --- what is seen

    def view(self, place: str = "hub") -> dict[str, Any]:
        """What the hub shows; empty where it does not."""
        hub = self.machines[place].state("S").read_runtime().hub
        assert hub is not None
        url = f"{hub.dashboard_url}/api/view.json"
        done = subprocess.run(
            self.machines[place].within("curl", "-s", "-m", "2", url),
            capture_output=True,
            check=False,
        )
        return dict(json.loads(done.stdout)) if done.returncode == 0 else {}

    def site(self, name: str, place: str = "hub") -> dict[str, Any]:
        sites = self.view(place).get("sites", [])
        return next((one for one in sites if one["id"] == name), {})

    def verdict(self, name: str) -> str:
        return str(self.site(name).get("verdict", ""))

    def up(self, name: str, place: str = "hub") -> bool:
        return self.site(name, place).get("state") == "up"

    def ready(self, place: str, site: str) -> bool:
        url = address(self.state(site), site).local_url
        done = subprocess.run(
            self.machines[place].within("curl", "-s", "-m", "2", "-o", "/dev/null", "-w", "%{http_code}", f"{url}/readyz"),
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        return done.stdout == "200"

    def wait_until_whole(self) -> None:
        """Every site is up at the hub, acts by the newest fleet, and hears every other."""

        def whole() -> bool:
            sites = self.view().get("sites", [])
            return len(sites) == 3 and all(
                s["state"] == "up" and s["fleet_in_force"] and s["status"]["unheard"] == []
                for s in sites
            )  # fmt: skip

        until(whole, "the league is whole", 120)

    def ask(self, site: str) -> dict[str, Any]:
        place = "hub" if site == "berlin" else site
        url = address(self.state(site), site).local_url
        return self.machines[place].ask(url, self.key, SERVICE)

    def hub_log(self) -> str:
        return (self.hub.hub / "log/controller.log").read_text()

    def site_log(self, site: str, name: str) -> str:
        return (self.state(site).site(site) / "log" / f"{name}.log").read_text()

    def proven(self, until_s: float, place: str = "hub") -> tuple[int, int]:
        """(proven, unproven) by the hub's own copy; nothing in it may be amiss."""
        hub = self.machines[place].state("S")
        report = audit(hub.hub / "evidence", (hub.ca_dir / "ca.pem").read_bytes(), until_s=until_s)
        assert [f for f in report.findings if f.site == "lyon"] == []
        return report.proven, report.unproven

    def proven_between(self, began_s: float, ended_s: float, place: str = "hub") -> tuple[int, int]:
        """The same of requests that were decided in between."""
        late, early = self.proven(ended_s, place), self.proven(began_s, place)
        return late[0] - early[0], late[1] - early[1]

    def copied(self, site: str) -> tuple[int, int]:
        """(files, records) of a site's log at the hub: byte for byte the site's own, from the beginning and nothing twice."""
        own = self.state(site).site(site) / "evidence"
        records = files = 0
        for path in sorted((self.hub.hub / "evidence" / site).glob("*.log")):
            held = path.read_bytes()
            assert (own / path.name).read_bytes()[: len(held)] == held, path.name
            files += 1
            records += len(scan_file(path).frames) if path.name != "seals.log" else 0
        return files, records


class Users:
    """Somebody who asks one site all the time; what was answered, and when."""

    def __init__(self, ask: Callable[[], dict[str, Any]]) -> None:
        self._ask = ask
        self.statuses: list[int] = []
        self._end, self._pause = threading.Event(), threading.Event()
        self._quiet = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._end.wait(0.2):
            if self._pause.is_set():
                self._quiet.set()
                continue
            self._quiet.clear()
            self.statuses.append(int(self._ask()["status"]))
        self._quiet.set()

    @contextlib.contextmanager
    def quiet(self) -> Iterator[None]:
        """Nobody asks inside."""
        self._quiet.clear()
        self._pause.set()
        assert self._quiet.wait(30)
        yield
        self._pause.clear()

    def stop(self) -> float:
        """When the last answer was there."""
        self._end.set()
        self._thread.join()
        return time.time()


def zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


def listening(machine: Machine) -> str:
    done = subprocess.run(machine.within("ss", "-Hltn"), capture_output=True, text=True, check=True)
    return done.stdout

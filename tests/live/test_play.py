"""A script on a league: what is posted, who is killed, which link is cut, each when it is due, and all undone at its end."""

from __future__ import annotations

import http.server
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hanse.cli.play import happening
from hanse.errors import ConfigError, SiteError
from hanse.live.control_client import ensure_control_key
from hanse.live.play import KINDS, Happening, Player
from hanse.live.runtime import HubAddress, Runtime, StateDir
from hanse.live.supervise import write_pid
from hanse.model.read import read_fleet
from hanse.twin.scenario import Fault, read_scenario


class Hub(http.server.BaseHTTPRequestHandler):
    """Notes what is posted."""

    posted: list[dict[str, Any]] = []

    def do_POST(self) -> None:
        size = int(self.headers["content-length"])
        self.posted.append(json.loads(self.rfile.read(size)))
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def hub() -> Iterator[tuple[int, list[dict[str, Any]]]]:
    Hub.posted = []
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield server.server_address[1], Hub.posted
    server.shutdown()
    thread.join()
    server.server_close()


def runtime(port: int) -> Runtime:
    address = HubAddress(host="127.0.0.1", client_port=1, leaf_port=2, control_port=port)
    return Runtime(fleet="f", hub=address, sites={})


class Links:
    """What the emulator was asked for."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []

    def cut(self, link: str) -> None:
        self.asked.append(("cut", link))

    def heal(self, link: str) -> None:
        self.asked.append(("heal", link))


def played(tmp_path: Path, port: int, *script: Happening, speed: float) -> tuple[Player, Links]:
    state = StateDir(tmp_path)
    state.make((), hub=True)
    ensure_control_key(state)
    player = Player(state, runtime(port), script, speed=speed, offset_s=100.0)
    player._links = links = Links()  # type: ignore[assignment]
    return player, links


def test_hours_pass_in_moments_and_all_is_undone(
    tmp_path: Path, hub: tuple[int, list[dict[str, Any]]]
) -> None:
    script = (
        Happening(kind="clouds", at_s=600.0, for_s=600.0, site="lyon", factor=90.0),
        Happening(kind="link_cut", at_s=300.0, for_s=600.0, site="tallinn", other="lyon"),
        Happening(kind="grid_outage", at_s=0.0, site="lyon"),
    )
    player, links = played(tmp_path, hub[0], *script, speed=3600.0)
    began_s = time.time()
    player.play(1800.0)
    took_s = time.time() - began_s
    assert 0.45 <= took_s < 5.0
    first, last = hub[1]
    assert first["clock_speed"] == 3600.0 and first["clock_offset_s"] == 100.0
    sky, outage = first["overrides"]
    assert (sky["kind"], sky["place"], sky["value"]) == ("cloud_pct", "lyon", 90.0)
    assert sky["from_s"] - first["clock_from_s"] == pytest.approx(600.0 / 3600.0, abs=1e-3)
    assert sky["until_s"] - sky["from_s"] == pytest.approx(600.0 / 3600.0, abs=1e-3)
    assert (outage["kind"], outage["value"]) == ("grid_factor", 0.0)
    assert last["overrides"] == [] and last["clock_speed"] == 1.0
    assert links.asked[:2] == [("cut", "lyon~tallinn"), ("heal", "lyon~tallinn")]


def test_a_site_dies_and_may_come_back(
    tmp_path: Path, hub: tuple[int, list[dict[str, Any]]]
) -> None:
    state = StateDir(tmp_path)
    state.make(("lyon",), hub=True)
    sleeper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        write_pid(state.site("lyon") / "pid" / "agent.pid", sleeper.pid)
        script = (Happening(kind="site_down", at_s=60.0, for_s=600.0, site="lyon"),)
        player, _ = played(tmp_path, hub[0], *script, speed=600.0)
        held = []
        player.play(1200.0, lambda: held.append((state.site("lyon") / "hold").exists()) is not None)
        assert sleeper.wait(5) == -signal.SIGKILL
    finally:
        if sleeper.poll() is None:
            os.kill(sleeper.pid, signal.SIGKILL)
            sleeper.wait()
    assert True in held and held[0] is False
    assert not (state.site("lyon") / "hold").exists()


def test_what_cannot_be_done_to_processes_is_said(tmp_path: Path) -> None:
    for kind in ("clouds", "carbon", "site_down", "link_cut", "engine_kill", "grid_cap"):
        fault = Fault(kind=kind, at_s=1.0, site="lyon", other="tallinn", factor=2.0)  # type: ignore[arg-type]
        assert happening(fault).kind in KINDS
    with pytest.raises(ConfigError, match="hanse simulate"):
        happening(Fault(kind="telemetry_wrong", at_s=1.0, site="lyon", factor=2.0))
    player, _ = played(tmp_path, 1, speed=1.0)
    with pytest.raises(SiteError, match="api/scenario"):
        player.play(1.0)


def test_the_example_is_a_script_of_the_example_league() -> None:
    examples = Path(__file__).parents[2] / "examples"
    script = read_scenario(examples / "follow.toml", read_fleet(examples / "league.toml"))
    assert [happening(one).kind for one in script.faults] == [
        "clouds", "clouds", "carbon", "site_down", "link_cut",
    ]  # fmt: skip

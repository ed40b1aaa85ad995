"""`hanse up` with real engines: ready, resumed, and nothing left running, whichever way it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hanse.live.runtime import Runtime, StateDir

LEAGUE = Path(__file__).parents[2] / "examples" / "league.toml"
START = "import sys; from pathlib import Path; from hanse.live.up import run_up; sys.exit(run_up(Path(sys.argv[1]), Path(sys.argv[2]), traffic=False, site_restart_s=3.0))"
READY_S_MAX = 170.0
STOP_S_MAX = 10.0

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]


@pytest.fixture
def fleet(tmp_path: Path) -> Path:
    pytest.importorskip("xllamacpp", reason="the embedded model server is not installed")
    text = LEAGUE.read_text()
    for port in range(8101, 8106):
        text = text.replace(f"port = {port}", "port = 0")
    (tmp_path / "league.toml").write_text(text)
    return tmp_path / "league.toml"


@contextmanager
def up(fleet: Path) -> Iterator[tuple[subprocess.Popen[bytes], StateDir]]:
    state = StateDir(fleet.parent / "state")
    with (fleet.parent / "up.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", START, str(fleet), str(state.path)], stdout=log, stderr=log
        )
    try:
        until(lambda: all_ready(state) or process.poll() is not None, READY_S_MAX)
        assert process.poll() is None, (fleet.parent / "up.log").read_text()
        yield process, state
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(STOP_S_MAX)


def until(claim: Callable[[], bool], limit_s: float) -> None:
    end_s = time.monotonic() + limit_s
    while not claim():
        assert time.monotonic() < end_s, "did not come true in time"
        time.sleep(0.1)


def runtime(state: StateDir) -> Runtime | None:
    return state.read_runtime() if state.runtime_json.exists() else None


def is_ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/readyz", timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def all_ready(state: StateDir) -> bool:
    found = runtime(state)
    return found is not None and all(is_ready(one.client_url) for one in found.sites.values())


def of(state: StateDir) -> list[str]:
    """Command lines of all processes that name this state directory."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(state.path) in command:
            found.append(command)
    return found


def ask(state: StateDir, site: str) -> str:
    found = runtime(state)
    assert found is not None
    key = (state.keys_dir / "demo.key").read_text().strip()
    body = {"model": "chat", "max_tokens": 2, "messages": [{"role": "user", "content": "Hi"}]}
    request = urllib.request.Request(
        f"{found.sites[site].client_url}/v1/chat/completions",
        data=json.dumps(body).encode(),
        headers={"authorization": f"Bearer {key}", "content-type": "application/json"},
    )
    end_s = time.monotonic() + 60
    while True:
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return str(json.load(answer)["object"])
        except urllib.error.HTTPError as error:
            # 503 says when to come again, as it may on a machine busy with other tests.
            if error.code != 503 or time.monotonic() > end_s:
                return f"{error.code} {error.read().decode()}"
            time.sleep(float(error.headers["retry-after"]))


def test_it_answers_ends_with_nothing_left_and_resumes(fleet: Path) -> None:
    with up(fleet) as (process, state):
        assert ask(state, "frankfurt") == "chat.completion"
        first = runtime(state)
        secret = (state.keys_dir / "demo.key").read_bytes()
        certificate = (state.site("lyon") / "identity" / "site.pem").read_bytes()
        version = int((state.site("lyon") / "current").read_text())
        assert (state.keys_dir / "demo.key").stat().st_mode & 0o777 == 0o600
        assert not any(secret.decode().strip() in command for command in of(state))
        process.send_signal(signal.SIGINT)
        assert process.wait(STOP_S_MAX) == 0
        assert of(state) == []
    with up(fleet) as (process, state):
        assert runtime(state) == first
        assert (state.keys_dir / "demo.key").read_bytes() == secret
        assert (state.site("lyon") / "identity" / "site.pem").read_bytes() == certificate
        assert int((state.site("lyon") / "current").read_text()) >= version
        assert ask(state, "tallinn") == "chat.completion"
        process.kill()
        process.wait()
        until(lambda: of(state) == [], STOP_S_MAX)


def test_a_killed_site_comes_back_unless_it_is_held(fleet: Path) -> None:
    with up(fleet) as (_, state):
        group = state.site("lyon") / "pid" / "site.pid"
        first = int(group.read_text())
        hold = state.site("lyon") / "hold"
        hold.touch()
        os.kill(first, signal.SIGKILL)
        found = runtime(state)
        assert found is not None
        url = found.sites["lyon"].client_url
        until(lambda: not any("lyon" in command for command in of(state)), STOP_S_MAX)
        assert ask(state, "frankfurt") == "chat.completion"
        time.sleep(4.0)  # longer than the delay of a restart
        assert not any("lyon" in command for command in of(state))
        hold.unlink()
        until(lambda: is_ready(url), READY_S_MAX)
        assert int(group.read_text()) != first


def test_a_second_start_of_a_running_league_is_refused(fleet: Path) -> None:
    with up(fleet) as (_, state):
        second = subprocess.run(
            [sys.executable, "-c", START, str(fleet), str(state.path)],
            capture_output=True,
            timeout=60,
        )
        assert second.returncode != 0
        assert b"a league that runs" in second.stderr
        assert all_ready(state)


def test_a_site_runs_by_itself(fleet: Path) -> None:
    state = StateDir(fleet.parent / "alone")
    code = "import sys; from pathlib import Path; from hanse.live.site_group import run_site; sys.exit(run_site('tallinn', Path(sys.argv[1]), Path(sys.argv[2])))"
    with (fleet.parent / "site.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", code, str(fleet), str(state.path)], stdout=log, stderr=log
        )
    try:
        until(lambda: all_ready(state) or process.poll() is not None, READY_S_MAX)
        assert process.poll() is None, (fleet.parent / "site.log").read_text()
        assert ask(state, "tallinn") == "chat.completion"
    finally:
        process.terminate()
        process.wait(STOP_S_MAX)
    assert of(state) == []

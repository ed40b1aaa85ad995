"""Machines of a new user: a directory each, an address or a network namespace each, the command line and nothing else.

What is started is found by its pid file or kept as a process, and ended; nothing is left running.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hanse.live.runtime import SiteAddress, StateDir

SERVER = Path(__file__).with_name("openai_server.py")
HANSE = "import sys; from hanse.cli import main; main(sys.argv[1:])"


def until(holds: Callable[[], Any], what: str, within_s: float = 60.0) -> float:
    """Seconds until the condition held; fails with what was awaited, and with what it last said."""
    since_s = time.monotonic()
    while not (found := holds()):
        took_s = time.monotonic() - since_s
        assert took_s < within_s, f"not within {within_s:.0f} s: {what} (last: {found!r})"
        time.sleep(0.05)
    return time.monotonic() - since_s


@dataclass
class Machine:
    """One machine: where it is reached, its directory, and its namespace where it has one."""

    home: Path
    host: str
    namespace: str = ""
    environment: dict[str, str] = field(default_factory=dict)
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)
    said: str = ""
    """By the last command, on both streams."""
    noted: str = ""
    """Beside its answer."""
    """Standard error of the last command."""

    def __post_init__(self) -> None:
        self.home.mkdir(parents=True, exist_ok=True)

    def within(self, *command: str) -> list[str]:
        return (["ip", "netns", "exec", self.namespace] if self.namespace else []) + list(command)

    def start(self, name: str, *command: str) -> subprocess.Popen[bytes]:
        """A process in the background; its output goes to `<name>.log`."""
        with (self.home / f"{name}.log").open("ab") as log:
            made = subprocess.Popen(
                self.within(*command),
                cwd=self.home,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env=os.environ | self.environment,
            )
        self.started.append(made)
        return made

    def hanse(self, *arguments: str, code: int = 0, stdin: str = "") -> str:
        """Standard output of a command that ends with this code."""
        done = subprocess.run(
            self.within(sys.executable, "-c", HANSE, *arguments),
            cwd=self.home,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
            env=os.environ | self.environment,
        )
        self.said, self.noted = done.stdout + done.stderr, done.stderr
        assert done.returncode == code, f"{arguments[0]}: {done.returncode}\n{done.stderr}"
        return done.stdout

    def server(self, name: str) -> str:
        """An OpenAI-compatible server; its base URL as this machine sees it."""
        log = self.home / f"server-{name}.log"
        self.start(f"server-{name}", sys.executable, str(SERVER), "0", name)
        until(lambda: log.exists() and log.read_text().strip().isdigit(), "the server listens", 20)
        return f"http://127.0.0.1:{log.read_text().strip()}"

    def state(self, name: str) -> StateDir:
        return StateDir(self.home / name)

    def ask(
        self, url: str, key: str, model: str, *, authority: Path | None = None
    ) -> dict[str, Any]:
        """One chat completion by curl, as a user types it; status, headers and body."""
        body = {"model": model, "max_tokens": 4, "messages": [{"role": "user", "content": "Hi"}]}
        trust = ["--cacert", str(authority)] if authority else []
        done = subprocess.run(
            self.within(
                "curl", "-s", "-i", "-m", "20", *trust, f"{url}/v1/chat/completions",
                "-H", f"authorization: Bearer {key}", "-H", "content-type: application/json",
                "-d", json.dumps(body),
            ),
            capture_output=True,
            text=True,
            check=False,
        )  # fmt: skip
        head, _, rest = done.stdout.partition("\r\n\r\n")
        status = re.match(r"HTTP/1\.1 (\d+)", head)
        site = re.search(r"(?mi)^x-hanse-site: (\S+)", head)
        return {
            "status": int(status[1]) if status else 0,
            "site": site[1] if site else "",
            "body": rest,
            "error": done.stderr or f"curl {done.returncode}",
        }

    def stop(self) -> None:
        for path in self.home.glob("*/sites/*/pid/site.pid"):
            with contextlib.suppress(OSError, ValueError):
                os.kill(int(path.read_text()), signal.SIGTERM)
        for process in reversed(self.started):
            process.terminate()
        for process in self.started:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(15)
            if process.poll() is None:
                process.kill()
                process.wait()
        until(lambda: self.running() == [], f"nothing of {self.home} runs any more", 20)

    def running(self) -> list[str]:
        """Command lines of all processes that name this machine's directory."""
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                command = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
                if str(self.home) in command:
                    found.append(command)
        return found


def address(state: StateDir, site: str) -> SiteAddress:
    return state.read_runtime().site(site)


def get(url: str, *, authority: Path | None = None) -> tuple[int, bytes]:
    context = ssl.create_default_context(cafile=str(authority)) if authority else None
    try:
        with urllib.request.urlopen(url, timeout=5, context=context) as answer:
            return int(answer.status), bytes(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, error.read()
    except OSError as error:
        return 0, repr(error).encode()


def footprint_mb(state: StateDir) -> tuple[float, dict[str, float]]:
    """Memory that the processes naming a state directory would take on a machine with nothing else, MB; private part by process.

    Private pages of each, and every page of a file once, in whichever process has most of that mapping. PSS would be lower wherever
    other programs map the same libraries.
    """
    files: dict[tuple[str, str, str], int] = {}
    private: dict[str, float] = {}
    for directory in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            command = (directory / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            if str(state.path) not in command:
                continue
            private[command[:160]] = _count(directory / "smaps", files) / 1024
    return sum(private.values()) + sum(files.values()) / 1024, private


def _count(smaps: Path, files: dict[tuple[str, str, str], int]) -> int:
    anonymous, mapping, rss = 0, ("", "", ""), 0
    for line in smaps.read_text().splitlines():
        found = re.match(r"^[0-9a-f]+-[0-9a-f]+ (\S+) (\S+) \S+ (\d+)", line)
        if found:
            mapping = found[3], found[2], found[1]
        elif line.startswith("Rss:"):
            rss = int(line.split()[1])
        elif line.startswith("Anonymous:"):
            own = int(line.split()[1])
            anonymous += own
            if mapping[0] != "0":
                files[mapping] = max(files.get(mapping, 0), rss - own)
    return anonymous


def cpu_s(state: StateDir) -> float:
    """Processor seconds that the living processes naming a state directory have taken so far."""
    total = 0.0
    for directory in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if str(state.path) in (directory / "cmdline").read_bytes().decode(errors="replace"):
                fields = (directory / "stat").read_text().rpartition(")")[2].split()
                total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return total


@contextlib.contextmanager
def machines(*made: Machine) -> Iterator[tuple[Machine, ...]]:
    try:
        yield made
    finally:
        for machine in made:
            machine.stop()

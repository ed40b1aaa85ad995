"""The engines of one site: which there are, and how the agent starts, adopts, stops and probes them.

Here: `engine_specs` (one row a replica, the order that the shared page and the gateway use), the driver
`process`, the health probe. Not here: when to restart (`dispatch.dispatcher`), the engine
process itself (`live.engine`).
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from hanse.dispatch.belief import EngineSpec, engines_of
from hanse.live.drivers import Seen
from hanse.live.engine import EngineConfig
from hanse.live.runtime import SiteAddress
from hanse.live.secret_file import ensure_secret
from hanse.model.fleet import Fleet, Placement
from hanse.model.told import UNREADABLE

PROBE_PATH = "/health"
ENGINE_KEY = "engine.key"
"""In a site's directory: what the engines that it starts ask for. `/health` they tell anybody."""
PROBE_BYTES_MAX = 512
"""Enough for a status line; the rest of a probe's answer is not read."""

LAST_WORDS_BYTES_MAX = 4096
"""Of a log's end; a traceback's last line is within it."""
LAST_WORDS_MAX = 200
"""Characters of an error that are told on."""
_EXCEPTION = re.compile(r"[A-Za-z_][\w.]*(Error|Exception|Exit|Interrupt)\b")


def engine_specs(
    fleet: Fleet, address: SiteAddress, placements: tuple[Placement, ...] | None = None
) -> tuple[EngineSpec, ...]:
    """Every replica placed at the site with the URL it is reached under, in the order of placements.

    A replica in a `process` pool takes the site's next engine port; one in an `external` pool has its URL already.
    """
    ports = iter(address.engine_ports)
    placed = engines_of(fleet, fleet.placements if placements is None else placements, address.site)
    return tuple(
        spec if spec.url else msgspec.structs.replace(spec, url=f"http://127.0.0.1:{next(ports)}")
        for spec in placed
    )


def host_port(spec: EngineSpec) -> tuple[str, int]:
    """Where an engine listens; port 80 where its URL names none."""
    url = urlsplit(spec.url)
    return url.hostname or "", url.port or 80


class ProcessDriver:
    """Starts llama.cpp engines as processes of their own that outlive the agent.

    A restarted agent finds them by pid file and adopts them; they end with the site group, whose lifeline they hold.
    """

    def __init__(self, directory: Path, cache_dir: Path, lifeline_fd: int | None) -> None:
        self._directory = directory
        self._cache_dir = cache_dir
        self._lifeline_fd = lifeline_fd
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._log_from: dict[str, int] = {}
        """Where in its log an engine's last start begins."""

    def start(self, spec: EngineSpec) -> None:
        """It listens some seconds later."""
        if self.pid(spec):
            return
        ensure_secret(self._directory / ENGINE_KEY)
        config = EngineConfig(
            name=spec.name,
            model=spec.model,
            precision=spec.precision,
            served_names=spec.served_names,
            port=host_port(spec)[1],
            host=host_port(spec)[0],
            slots=spec.slots,
            context_tokens=spec.context_tokens,
            embedding=spec.embedding,
            cache_dir=str(self._cache_dir),
            key_file=str(self._directory / ENGINE_KEY),
            lifeline_fd=self._lifeline_fd,
        )
        path = self._directory / f"engine-{spec.name}.json"
        path.write_bytes(msgspec.json.format(msgspec.json.encode(config), indent=1))
        with self._log_path(spec).open("ab") as log:
            self._log_from[spec.name] = log.tell()
            child = subprocess.Popen(
                [sys.executable, "-m", "hanse.live.engine", str(path)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=() if self._lifeline_fd is None else (self._lifeline_fd,),
                start_new_session=True,
            )
        self._children[spec.name] = child
        self._pid_path(spec).write_text(f"{child.pid}\n")

    def restart(self, spec: EngineSpec) -> None:
        """A frozen one does not end by itself."""
        self.stop(spec)
        self.start(spec)

    def drain(self, spec: EngineSpec) -> None:
        """A process needs no preparation for its end."""

    def keep(self, spec: EngineSpec) -> None:
        """Nor for going on."""

    def observe(self, spec: EngineSpec) -> Seen:
        """Whether the process is there; where it is not, how it ended, and the error that it told last."""
        pid = self.pid(spec)
        if pid:
            return Seen(url=spec.url, pid=pid)
        child = self._children.get(spec.name)
        if child is None:
            return Seen(gone="process ended")
        if child.returncode < 0:
            name = signal.strsignal(-child.returncode) or "unknown"
            return Seen(gone=f"process ended by signal {-child.returncode} ({name})")
        told = self._last_error(spec)
        return Seen(gone=f"process ended (exit status {child.returncode}{told and f': {told}'})")

    def runs(self, spec: EngineSpec) -> bool:
        """By its pid file."""
        return self.pid(spec) > 0

    def port(self, spec: EngineSpec) -> int:
        """Where a running engine listens, by what it was started with; 0 where there is none."""
        if not self.pid(spec):
            return 0
        try:
            content = (self._directory / f"engine-{spec.name}.json").read_bytes()
            return msgspec.json.decode(content, type=EngineConfig).port
        except (*UNREADABLE, OSError):
            return 0

    def stop(self, spec: EngineSpec) -> None:
        """End one engine at once: a frozen one would not hear SIGTERM."""
        pid = self.pid(spec)
        if pid:
            os.kill(pid, signal.SIGKILL)
        child = self._children.pop(spec.name, None)
        if child is not None:
            child.wait()
        self._pid_path(spec).unlink(missing_ok=True)

    def pid(self, spec: EngineSpec) -> int:
        """Process id of a running engine; 0 where there is none (a recycled pid does not count)."""
        child = self._children.get(spec.name)
        if child is not None:
            # Our own child needs no proof, and /proc shows no command line for a moment after its start.
            return child.pid if child.poll() is None else 0
        try:
            pid = int(self._pid_path(spec).read_text())
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
        except (OSError, ValueError):
            return 0
        return pid if f"engine-{spec.name}.json".encode() in command else 0

    def cpu_s(self, spec: EngineSpec) -> float:
        """CPU seconds (user and system) the engine has used since its start; 0 where it does not run."""
        pid = self.pid(spec)
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return 0.0
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def _last_error(self, spec: EngineSpec) -> str:
        """The last line of its log since it was started, where that is the end of a traceback; else empty."""
        try:
            with self._log_path(spec).open("rb") as log:
                end = log.seek(0, os.SEEK_END)
                log.seek(max(self._log_from.get(spec.name, 0), end - LAST_WORDS_BYTES_MAX))
                lines = (
                    log.read(LAST_WORDS_BYTES_MAX).decode(errors="replace").rstrip().splitlines()
                )
        except OSError:
            return ""
        line = lines[-1].strip() if lines else ""
        return (
            textwrap.shorten(line, LAST_WORDS_MAX, placeholder=" ...")
            if _EXCEPTION.match(line)
            else ""
        )

    def _log_path(self, spec: EngineSpec) -> Path:
        return self._directory / "log" / f"engine-{spec.name}.log"

    def _pid_path(self, spec: EngineSpec) -> Path:
        return self._directory / "pid" / f"engine-{spec.name}.pid"


async def probe(spec: EngineSpec, timeout_s: float) -> bool:
    """True where the engine answers its health path in time; a frozen one accepts and never answers."""
    host, port = host_port(spec)
    request = f"GET {PROBE_PATH} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
    try:
        async with asyncio.timeout(timeout_s):
            reader, writer = await asyncio.open_connection(host, port)
            try:
                writer.write(request.encode())
                head = await reader.read(PROBE_BYTES_MAX)
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return False
    # An external engine without /health answers 404: it is alive.
    return head.startswith(b"HTTP/1.") and head[9:10] in (b"2", b"4")

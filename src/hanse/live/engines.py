"""The engines of one site: which there are, and how the agent starts, adopts, stops and probes them.

Here: `engine_specs` (one row a replica, the order that the shared page and the gateway use), the drivers
`process` and `external`, the health probe. Not here: when to restart (`dispatch.dispatcher`), the engine
process itself (`live.engine`).
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from hanse.live.engine import EngineConfig
from hanse.live.runtime import SiteAddress
from hanse.model.fleet import DriverKind, Endpoint, Fleet, Pool, Value

PROBE_PATH = "/health"
PROBE_BYTES_MAX = 512
"""Enough for a status line; the rest of a probe's answer is not read."""


class EngineSpec(Value, frozen=True, kw_only=True):
    """One replica at one site."""

    index: int
    """Position in the site's list: its row in the shared page."""
    name: str
    service: str
    variant: str
    endpoints: tuple[Endpoint, ...]
    served_model: str
    """Name the engine answers to; empty: whatever the client sent."""
    driver: DriverKind
    url: str
    model: str
    precision: str
    slots: int
    context_tokens: int

    @property
    def host(self) -> str:
        """Host of its URL."""
        return urlsplit(self.url).hostname or ""

    @property
    def port(self) -> int:
        """Port of its URL; 80 where none is written."""
        return urlsplit(self.url).port or 80


def engine_specs(fleet: Fleet, address: SiteAddress) -> tuple[EngineSpec, ...]:
    """Every replica placed at the site, in the order of placements.

    A replica in a `process` pool takes the site's next engine port; in an `external` pool the pool's next URL.
    """
    site = next(one for one in fleet.sites if one.id == address.site)
    pools = {pool.id: pool for pool in site.pools}
    variants = {
        (service.id, variant.id): (service, variant)
        for service in fleet.services
        for variant in service.variants
    }
    ports = iter(address.engine_ports)
    urls = {pool.id: iter(pool.urls) for pool in site.pools}
    specs: list[EngineSpec] = []
    for placement in fleet.placements:
        if placement.site != address.site:
            continue
        service, variant = variants[placement.service, placement.variant]
        pool = pools[placement.pool]
        for replica in range(placement.replicas):
            url = next(urls[pool.id]) if pool.urls else f"http://127.0.0.1:{next(ports)}"
            specs.append(
                EngineSpec(
                    index=len(specs),
                    name=f"{service.id}-{variant.id}-{pool.id}-{replica}",
                    service=service.id,
                    variant=variant.id,
                    endpoints=service.endpoints,
                    served_model=variant.served_model,
                    driver=pool.driver,
                    url=url.rstrip("/"),
                    model=variant.model,
                    precision=variant.precision,
                    slots=placement.slots,
                    context_tokens=placement.context_tokens,
                )
            )
    return tuple(specs)


def pool_of(fleet: Fleet, site_id: str, service: str, variant: str) -> Pool:
    """The pool that serves a variant at a site (the first placement's)."""
    site = next(one for one in fleet.sites if one.id == site_id)
    wanted = next(
        placement.pool
        for placement in fleet.placements
        if (placement.site, placement.service, placement.variant) == (site_id, service, variant)
    )
    return next(pool for pool in site.pools if pool.id == wanted)


class ProcessDriver:
    """Starts llama.cpp engines as processes of their own that outlive the agent.

    A restarted agent finds them by pid file and adopts them; they end with the site group, whose lifeline they hold.
    """

    def __init__(self, directory: Path, cache_dir: Path, lifeline_fd: int | None) -> None:
        self._directory = directory
        self._cache_dir = cache_dir
        self._lifeline_fd = lifeline_fd
        self._children: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, spec: EngineSpec) -> int:
        """Start one engine unless it already runs; returns its pid. It listens some seconds later."""
        running = self.pid(spec)
        if running:
            return running
        config = EngineConfig(
            name=spec.name,
            model=spec.model,
            precision=spec.precision,
            served_names=(spec.served_model or spec.service,),
            port=spec.port,
            host=spec.host,
            slots=spec.slots,
            context_tokens=spec.context_tokens,
            embedding="embeddings" in spec.endpoints,
            cache_dir=str(self._cache_dir),
            lifeline_fd=self._lifeline_fd,
        )
        path = self._directory / f"engine-{spec.name}.json"
        path.write_bytes(msgspec.json.format(msgspec.json.encode(config), indent=1))
        with (self._directory / "log" / f"engine-{spec.name}.log").open("ab") as log:
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
        return child.pid

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
        if child is not None and child.poll() is not None:
            return 0
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

    def _pid_path(self, spec: EngineSpec) -> Path:
        return self._directory / "pid" / f"engine-{spec.name}.pid"


async def probe(spec: EngineSpec, timeout_s: float) -> bool:
    """True where the engine answers its health path in time; a frozen one accepts and never answers."""
    try:
        async with asyncio.timeout(timeout_s):
            reader, writer = await asyncio.open_connection(spec.host, spec.port)
            try:
                request = (
                    f"GET {PROBE_PATH} HTTP/1.1\r\nHost: {spec.host}\r\nConnection: close\r\n\r\n"
                )
                writer.write(request.encode())
                head = await reader.read(PROBE_BYTES_MAX)
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return False
    # An external engine without /health answers 404: it is alive.
    return head.startswith(b"HTTP/1.") and head[9:10] in b"24"

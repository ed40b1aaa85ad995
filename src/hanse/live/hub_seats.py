"""Who may sit at the hub's bus: its users and streams kept as the fleet and the register of certificates say.

Here: `HubSeats.tend`, called every second by each hub's controller. Not here: the configuration itself (`live.bus`), issuing and
revoking (`live.ca`).

The bus knows names and no lists of revoked certificates: a revoked site's seat name is a user no more, and since NATS asks for a name
only when a connection is made, connections of leaves are ended then. Those that may come again are back within two seconds.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from nats.aio.client import Client

from hanse.live import bus
from hanse.live.ca import seats
from hanse.live.logline import log_line
from hanse.live.runtime import Runtime, StateDir
from hanse.live.supervise import signal_pid

RELOAD_S: float = 0.5
"""A server reads its file within milliseconds of the signal."""


class HubSeats:
    """One hub's own bus."""

    def __init__(self, runtime: Runtime, state: StateDir, client: Client) -> None:
        self._runtime = runtime
        self._state = state
        self._client = client
        self._sites: tuple[str, ...] = ()
        self._list = b""
        self._rests_on: tuple[object, ...] = ()
        """What the configuration was last made of."""
        self._put_out = False
        """Connections have yet to be ended."""

    async def tend(self, sites: Sequence[str]) -> None:
        """Let in who joined, put out who was revoked, tell all sites what is revoked."""
        rests_on = (tuple(sites), *(_stamp(path) for path in self._files()))
        if rests_on != self._rests_on:
            self._write(sites)
            # Of before it was looked at, but for what was just written: what changed meanwhile is looked at next time.
            self._rests_on = (*rests_on[:-1], _stamp(self._conf))
        if self._put_out:
            await self._end_connections()
            self._put_out = False
        if tuple(sites) != self._sites:
            await bus.ensure_hub_streams(self._client, sites)
            self._sites = tuple(sites)
        await self._tell_revoked()

    @property
    def _conf(self) -> Path:
        return self._state.hub / "hub.conf"

    def _files(self) -> tuple[Path, ...]:
        """What the configuration is made of, and the configuration itself, which somebody may have written over."""
        return self._state.ca_dir / "issued.json", self._state.hub / "bus.json", self._conf

    def _write(self, sites: Sequence[str]) -> None:
        """The configuration anew, where it comes out otherwise: of a thousand sites it is more than a megabyte, too much for every second."""
        known = seats(self._state.ca_dir, sites)
        conf = json.dumps(bus.hub_conf(self._runtime, self._state, known), indent=1)
        before = self._conf.read_text() if self._conf.exists() else ""
        if conf != before:
            gone = _users(before) - _users(conf)
            bus.write_hub_conf(self._runtime, self._state, known)
            signal_pid(self._state.hub / "pid" / "nats.pid")
            log_line(f"hub bus: {len(known)} sites may sit, {len(gone)} no more")
            self._put_out = self._put_out or bool(gone)

    async def _end_connections(self) -> None:
        client = await bus.connect_keeper(self._runtime, self._state, name="seats")
        try:
            await bus.end_leaves(client, RELOAD_S)
        finally:
            await bus.leave(client)

    async def _tell_revoked(self) -> None:
        """Once for each list; the stream keeps it for sites that are away."""
        path = self._state.ca_dir / "revoked.crl"
        data = path.read_bytes() if path.exists() else b""
        if data == self._list:
            return
        await self._client.jetstream(timeout=2.0).publish(bus.REVOKED_SUBJECT, data)
        self._list = data
        log_line("sent the list of revoked certificates")


def _stamp(path: Path) -> tuple[int, int, int]:
    """Tells one writing of a file from another; each is by rename, so it has another inode as well."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return 0, 0, 0
    return found.st_ino, found.st_mtime_ns, found.st_size


def _users(conf: str) -> set[str]:
    if not conf:
        return set()
    users = json.loads(conf)["accounts"][bus.ACCOUNT]["users"]
    return {str(user["user"]) for user in users}

"""Who may sit at the hub's bus: its users and streams kept as the fleet and the register of certificates say.

Here: `HubSeats.tend`, called every second by each hub's controller. Not here: the configuration itself (`live.bus`), issuing and
revoking (`live.ca`).

The bus knows names and no lists of revoked certificates: a revoked site's seat name is a user no more, and since NATS asks for a name
only when a connection is made, connections of leaves are ended then. Those that may come again are back within two seconds.

Of several hubs one issues certificates, and tells the others through the stream HUBS who has one that counts. A hub whose bus hears none of
the others ends its leaves' connections too: sites then connect to one that does.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.js.errors import NotFoundError

from hanse.live import bus
from hanse.live.ca import seats, write_file
from hanse.live.hub_bus import is_clustered, take_in
from hanse.live.hub_server import end_leaves, routes_of
from hanse.live.hubs import TOGETHER, Cluster
from hanse.live.logline import log_line
from hanse.live.register import told_register
from hanse.live.revoked import REVOKED
from hanse.live.runtime import Runtime, StateDir
from hanse.live.supervise import signal_pid
from hanse.model.fleet import Value

RELOAD_S: float = 0.5
"""A server reads its file within milliseconds of the signal."""


class Seated(Value, frozen=True, kw_only=True):
    """What the hub with the authority's key tells the others."""

    register: bytes
    """`ca/issued.json`."""
    revoked: bytes
    """The newest list of revoked certificates, DER; empty: there is none."""


class HubSeats:
    """One hub's own bus."""

    def __init__(self, runtime: Runtime, state: StateDir, client: Client) -> None:
        assert runtime.hub is not None, "a hub's controller"
        self._runtime = runtime
        self._hub = runtime.hub
        self._state = state
        self._client = client
        self._streams_for: tuple[tuple[str, ...], bool] = ((), False)
        self._list = self._register = b""
        self._rests_on: tuple[object, ...] = ()
        """What the configuration was last made of."""
        self._put_out = False
        """Connections have yet to be ended."""
        self._keeper: Client | None = None
        """To ask the own server for its routes."""

    async def tend(
        self, sites: Sequence[str], cluster: Cluster | None = None, *, leads: bool = True
    ) -> None:
        """Let in who joined, put out who was revoked, tell all sites what is revoked.

        Args:
            sites: Of the fleet in force.
            cluster: The other hubs; None: there are none.
            leads: Whether this hub does what one has to do for all.
        """
        issues = (self._state.ca_dir / "ca.key").exists()
        alone = cluster is not None and not await self._hears_others()
        if cluster is not None and not issues and not alone:
            await self._hear_register()
        rests_on = (tuple(sites), cluster, *(_stamp(path) for path in self._files()))
        if rests_on != self._rests_on:
            self.render(sites, cluster)
            # Of before it was looked at, but for what was just written: what changed meanwhile is looked at next time.
            self._rests_on = (*rests_on[:-1], _stamp(self._conf))
        if self._put_out:
            await self._end_connections(RELOAD_S)
            self._put_out = False
        if alone:
            await self._end_connections(0.0)
            return  # the streams have no majority here
        if cluster is not None:
            await take_in(self._client, self._state, TOGETHER)
        if leads or cluster is None:
            await self._keep_streams(tuple(sites), cluster is not None)
        if issues:
            await self._tell_revoked()
            if cluster is not None:
                await self._tell_register()

    @property
    def _conf(self) -> Path:
        return self._state.hub / "hub.conf"

    def _files(self) -> tuple[Path, ...]:
        """What the configuration is made of, and the configuration itself, which somebody may have written over."""
        return self._state.ca_dir / "issued.json", self._state.hub / "bus.json", self._conf

    def render(self, sites: Sequence[str], cluster: Cluster | None) -> None:
        """The configuration anew, where it comes out otherwise: of a thousand sites it is more than a megabyte, too much for every second."""
        known = seats(self._state.ca_dir, sites)
        conf = json.dumps(bus.hub_conf(self._runtime, self._state, known, cluster), indent=1)
        before = self._conf.read_text() if self._conf.exists() else ""
        if conf == before:
            return
        gone = _users(before) - _users(conf)
        was = is_clustered(self._conf)
        bus.write_hub_conf(self._runtime, self._state, known, cluster)
        pid_path = self._state.hub / "pid" / "nats.pid"
        if was == (cluster is not None):
            signal_pid(pid_path)
        else:  # nothing that a running server learns; its keeper starts it again (`live.hub_bus`)
            log_line("hub bus: becomes one of several")
            signal_pid(pid_path, signal.SIGTERM)
        log_line(f"hub bus: {len(known)} sites may sit, {len(gone)} no more")
        self._put_out = self._put_out or bool(gone)

    async def _keep_streams(self, sites: tuple[str, ...], clustered: bool) -> None:
        if (sites, clustered) != self._streams_for:
            await bus.ensure_hub_streams(self._client, sites, TOGETHER if clustered else 1)
            self._streams_for = sites, clustered

    async def _hears_others(self) -> bool:
        """A bus without any other hub's decides nothing and hands nothing on; sites that sit there are better off elsewhere."""
        try:
            if self._keeper is None:
                self._keeper = await bus.connect_keeper(self._runtime, self._state, name="routes")
            return await routes_of(self._keeper, self._hub.id) > 0
        except NatsError:  # it does not answer, and tells nothing of its routes
            return True

    async def _end_connections(self, wait_s: float) -> None:
        client = await bus.connect_keeper(self._runtime, self._state, name="seats")
        try:
            await end_leaves(client, self._hub.id, wait_s)
        finally:
            await bus.leave(client)

    async def _tell_revoked(self) -> None:
        """Once for each list; the stream keeps it for sites that are away."""
        data = _content(self._state.ca_dir / REVOKED)
        if data == self._list:
            return
        await self._client.jetstream(timeout=2.0).publish(bus.REVOKED_SUBJECT, data)
        self._list = data
        log_line("sent the list of revoked certificates")

    # --- who may sit, from the hub that issues to the others

    async def _tell_register(self) -> None:
        """Once for each state of it."""
        told = Seated(
            register=told_register(self._state.ca_dir),
            revoked=_content(self._state.ca_dir / REVOKED),
        )
        data = msgspec.msgpack.encode(told)
        if data != self._register:
            await self._client.jetstream(timeout=2.0).publish(bus.REGISTER_SUBJECT, data)
            self._register = data

    async def _hear_register(self) -> None:
        """Onto this hub's disk, where everything here reads it."""
        try:
            js = self._client.jetstream(timeout=2.0)
            newest: Any = await js.get_last_msg(bus.HUBS, bus.REGISTER_SUBJECT)
        except NotFoundError:
            return
        data = bytes(newest.data or b"")
        if data == self._register:
            return
        told = msgspec.msgpack.decode(data, type=Seated)
        write_file(self._state.ca_dir / "issued.json", told.register, secret=True)
        if told.revoked:
            write_file(self._state.ca_dir / REVOKED, told.revoked)
        self._register = data


def _content(path: Path) -> bytes:
    return path.read_bytes() if path.exists() else b""


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

"""The bus: NATS servers' configuration, who may say what, the streams, and how to connect.

Here: the hub and every site's leaf as rendered configuration with generated secrets; TABLES (hub to
sites), EVIDENCE (sites to hub) and the lease bucket; connections that outlive cuts. Not here:
starting the servers (`live.supervise`), what the messages mean (`view`, `dispatch`).

One account spans the league; a second one at each leaf, to which no link is bound, holds what never leaves
the site: results of batches are content, and the hub cannot ask for what is in an account it is not in. A leaf and the hub know each
other by certificate (mutual TLS, also over emulated links); a leaf's user is the seat name in its certificate (`live.ca`). At the hub each site is a user that may publish `site.<id>.>` alone and
hear `hanse.table`, `hanse.control` and its own prefix, so a leaf that was taken over speaks for
itself only. Streams cross between JetStream domains through deliver subjects below those prefixes.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
from nats.aio.client import Client
from nats.js import JetStreamContext
from nats.js.api import (
    DiscardPolicy,
    ExternalStream,
    KeyValueConfig,
    StorageType,
    StreamConfig,
    StreamSource,
)
from nats.js.errors import BucketNotFoundError, NotFoundError
from nats.js.kv import KeyValue

from hanse.errors import ConfigError, SiteError
from hanse.live.facility.listener import mqtt_listener
from hanse.live.hubs import Cluster
from hanse.live.runtime import HUB, LOOPBACK, Runtime, StateDir, private_folder, replace_file
from hanse.live.supervise import nats_command
from hanse.model.fleet import Value
from hanse.model.read import read_fleet
from hanse.model.told import UNREADABLE

ACCOUNT: Final = "LEAGUE"
OWN_ACCOUNT: Final = "SITE"
"""Of one leaf alone: nothing crosses to the hub, by whatever name it is asked for."""
CONTROLLER: Final = "controller"
"""User of the controller at the hub."""
TABLES: Final = "TABLES"
EVIDENCE: Final = "EVIDENCE"
BATCH: Final = "BATCH"
"""Commits of batches, in the leaf's own account: copied nowhere."""
BATCH_SUBJECTS: Final = "batch.*.*"
OWNERS_SUBJECTS: Final = "site.*.own.*"
OWNERS: Final = "OWNERS"
"""Who owns a batch of two homes, at the hub; names only."""
LEASES: Final = "leases"
TABLE_SUBJECT: Final = "hanse.table"
PLACEMENT_SUBJECT: Final = "hanse.placement"
"""In the stream TABLES too: what comes down to sites comes one way, and is there for a site that starts late."""
CONTROL_SUBJECT: Final = "hanse.control"
FLEET_SUBJECT: Final = "hanse.fleet"
"""The fleet file in force (`live.league_file.LeagueFile`), in TABLES likewise."""
REVOKED_SUBJECT: Final = "hanse.revoked"
"""The authority's list of revoked certificates, in TABLES likewise."""
DOWNWARD: Final = (TABLE_SUBJECT, PLACEMENT_SUBJECT, FLEET_SUBJECT, REVOKED_SUBJECT)
HUBS: Final = "HUBS"
"""What the first of several hubs tells the others: who may sit at their buses. No site may read it."""
REGISTER_SUBJECT: Final = "hanse.hub.register"
BEAT_SUBJECT: Final = "hanse.hub.beat"
RENEW_SUBJECT: Final = "hanse.hub.renew"
"""A further hub asks the door for another certificate."""
CHANGE_SUBJECT: Final = "hanse.hub.change"
"""Asks the leading controller for another fleet file (`live.league_file.Change`); programs of the hub only."""
DOOR: Final = "door"
"""User of the hub's door."""
KEEPER: Final = "keeper"
"""User of the hub's own server account, which may end connections."""
SYSTEM_ACCOUNT: Final = "SYS"

TABLES_KEPT: Final = 8
"""Of each subject. Enough to see the last changes; each is whole, so one would do."""
EVIDENCE_BYTES_MAX: Final = 1024**3
"""Per site and stream. A request leaves about 1 kB of chain: a million requests. The oldest go first;
the site's own files under `evidence/` still have them."""
EVIDENCE_AGE_S_MAX: Final = 14 * 86_400
"""Two weeks outlive any cut that a table outlives (`Policy.valid_s`) many times over."""
OWNERS_AGE_S_MAX: Final = 120 * 86_400
"""A batch's window and its files' default life are 30 days each: twice both. Claims of batches that are long gone go by themselves."""
PAYLOAD_BYTES_MAX: Final = 8 * 1024 * 1024
"""A table of 1,000 sites is about 3 MB; NATS advises against more than 8 MB."""
FILE_STORE_BYTES_MAX: Final = 8 * 1024**3
PING_S: Final = 2
PINGS_MISSED_MAX: Final = 2
"""With 2 s pings a cut is known after 4 to 6 s; measured to resume 1.8 s after an 8 s cut heals."""
LEAF_RECONNECT_S: Final = 1
LEASE_S: Final = 5.0
"""A controller that is gone is replaced after this; tables outlive it by hours, so no shorter."""
CONNECT_S_MAX: Final = 2.0
"""On one machine a NATS server accepts within milliseconds of listening."""
RECONNECT_S: Final = 1
"""Between attempts of a client; nats-py takes whole seconds."""
LEAVE_S_MAX: Final = 1.0
"""A close flushes what is pending; a server that is gone takes none of it."""
API_S_MAX: Final = 5.0
"""JetStream answers in milliseconds; a server that just started on two busy cores in under 2 s."""


class HubSecrets(Value, frozen=True, kw_only=True, forbid_unknown_fields=False):
    """Passwords of the hub's own processes, which reach its bus over loopback."""

    controller: str
    door: str = ""
    keeper: str = ""
    cluster: str = ""
    """Of all hubs: without it no certificate of the league is enough to be a hub's bus."""


class LeafSecrets(Value, frozen=True, kw_only=True, forbid_unknown_fields=False):
    """Password of a site's own processes at its leaf."""

    local: str


def site_subject(site: str, what: str) -> str:
    """`site.<id>.<what>`."""
    return f"site.{site}.{what}"


def ensure_secrets(
    state: StateDir, site_ids: Iterable[str], *, hub: bool, cluster: str = ""
) -> None:
    """Make the passwords that are missing (files of mode 0600); those that exist stay. `cluster` is the one that a further hub was told."""
    for site in site_ids:
        leaf_path = state.site(site) / "bus.json"
        if _read(leaf_path, LeafSecrets) is None:
            private_folder(leaf_path.parent)
            replace_file(leaf_path, msgspec.json.encode(LeafSecrets(local=_password())))
    if hub:
        path = state.hub / "bus.json"
        known = _read(path, HubSecrets) or HubSecrets(controller=_password())
        full = HubSecrets(
            controller=known.controller,
            door=known.door or _password(),
            keeper=known.keeper or _password(),
            cluster=cluster or known.cluster or _password(),
        )
        private_folder(path.parent)
        replace_file(path, msgspec.json.encode(full))


def write_hub_conf(
    runtime: Runtime, state: StateDir, seats: Mapping[str, str], cluster: Cluster | None = None
) -> Path:
    """Render `hub/hub.conf` (mode 0600: it holds passwords); `seats` are the names in certificates by site (`live.ca`)."""
    return _write_conf(state.hub / "hub.conf", hub_conf(runtime, state, seats, cluster))


def hub_conf(
    runtime: Runtime, state: StateDir, seats: Mapping[str, str], cluster: Cluster | None = None
) -> dict[str, Any]:
    """The hub's configuration; `cluster`: where it is one of several."""
    hub = runtime.hub
    assert hub is not None, "a runtime without a hub has no hub to configure"
    known = _secrets(state.hub / "bus.json", HubSecrets)
    users: list[dict[str, Any]] = [
        {"user": CONTROLLER, "password": known.controller},
        _door_user(known.door),
    ]
    users += [_site_user(site, seat) for site, seat in sorted(seats.items())]
    conf = _server(hub.id, hub.host, hub.client_port, state.hub, users)
    conf["jetstream"]["domain"] = HUB
    conf["accounts"][SYSTEM_ACCOUNT] = {"users": [{"user": KEEPER, "password": known.keeper}]}
    conf["system_account"] = SYSTEM_ACCOUNT
    tls = _tls(state.site(HUB)) | {"verify_and_map": True}
    conf["leafnodes"] = {"host": hub.leaf_host, "port": hub.leaf_port, "tls": tls}
    if cluster is not None:
        conf["leafnodes"]["no_advertise"] = True  # sites know all hubs by the fleet in force
        conf["cluster"] = {
            "name": runtime.fleet,
            "host": hub.leaf_host,
            "port": cluster.port,
            "no_advertise": True,
            "tls": _tls(state.site(HUB)),
            "authorization": {"user": HUB, "password": known.cluster, "timeout": 5},
            "routes": [f"nats-route://{HUB}:{known.cluster}@{way}" for way in cluster.routes],
        }
    return conf


def write_leaf_conf(
    runtime: Runtime, state: StateDir, site: str, hubs: Collection[str] = ()
) -> Path:
    """Render `sites/<site>/leaf.conf` (mode 0600: it holds passwords); `hubs` are the further ones (`hubs.other_leaves`)."""
    address, home = runtime.site(site), state.site(site)
    known = _secrets(home / "bus.json", LeafSecrets)
    users = [{"user": site, "password": known.local}]
    conf = _server(site, LOOPBACK, address.leaf_port, home, users)
    own = [{"user": _own_user(site), "password": known.local}]
    conf["accounts"][OWN_ACCOUNT] = {"jetstream": "enabled", "users": own}
    mqtt: dict[str, Any] = {}
    publishers: list[dict[str, Any]] = []
    if state.fleet_toml.exists():  # a bus alone, as tests have one, has no plant
        mqtt, publishers = mqtt_listener(read_fleet(state.fleet_toml), site, home, known.local)
    if mqtt:
        conf["mqtt"] = mqtt
        conf["accounts"][OWN_ACCOUNT]["users"] = own + publishers
    if address.hub_leaf:
        remote = {
            "urls": [f"nats-leaf://{way}" for way in dict.fromkeys((address.hub_leaf, *hubs))],
            "account": ACCOUNT,
            "first_info_timeout": "5s",
            "tls": _tls(home),
        }
        conf["leafnodes"] = {"reconnect": f"{LEAF_RECONNECT_S}s", "remotes": [remote]}
    return _write_conf(home / "leaf.conf", conf)


def _tls(home: Path) -> dict[str, Any]:
    """Own certificate and whom to trust; 5 s for a handshake over the slowest WAN under load."""
    identity = home / "identity"
    return {
        "cert_file": str(identity / "site.pem"),
        "key_file": str(identity / "site.key"),
        "ca_file": str(identity / "ca.pem"),
        "timeout": 5,
    }


def server_command(conf: Path) -> list[str]:
    """Command line of a NATS server; secrets are in the file, never in the process list."""
    return list(nats_command(conf))


async def connect_hub(runtime: Runtime, state: StateDir, *, name: str) -> Client:
    """A connection to the hub as the controller that comes back by itself after every loss."""
    assert runtime.hub is not None, "no hub in this runtime"
    known = _secrets(state.hub / "bus.json", HubSecrets)
    return await _connect(
        runtime.hub.client_address, CONTROLLER, known.controller, name=name, inbox=HUB
    )


async def connect_door(runtime: Runtime, state: StateDir, *, name: str) -> Client:
    """A connection to the hub as its door: hears requests for renewal, asks for changes of the fleet."""
    assert runtime.hub is not None, "no hub in this runtime"
    known = _secrets(state.hub / "bus.json", HubSecrets)
    return await _connect(runtime.hub.client_address, DOOR, known.door, name=name, inbox=DOOR)


async def connect_keeper(runtime: Runtime, state: StateDir, *, name: str) -> Client:
    """A connection to the hub's server account, to end connections of leaves."""
    assert runtime.hub is not None, "no hub in this runtime"
    known = _secrets(state.hub / "bus.json", HubSecrets)
    return await _connect(runtime.hub.client_address, KEEPER, known.keeper, name=name, inbox=KEEPER)


async def connect_leaf(runtime: Runtime, state: StateDir, site: str, *, name: str) -> Client:
    """A connection to a site's own leaf that comes back by itself after every loss."""
    known = _secrets(state.site(site) / "bus.json", LeafSecrets)
    return await _connect(runtime.site(site).leaf_address, site, known.local, name=name, inbox=site)


async def connect_own(runtime: Runtime, state: StateDir, site: str, *, name: str) -> Client:
    """The same to the account that no other server takes part in."""
    known = _secrets(state.site(site) / "bus.json", LeafSecrets)
    address, user = runtime.site(site).leaf_address, _own_user(site)
    return await _connect(address, user, known.local, name=name, inbox=site)


def write_restoring_conf(state: StateDir, port: int, password: str) -> Path:
    """Render the configuration of a server that takes streams back into the hub's directory: on loopback, for one user."""
    users = [{"user": CONTROLLER, "password": password}]
    conf = _server(HUB, LOOPBACK, port, state.hub, users)
    return _write_conf(state.hub / "restore.conf", conf)


async def connect_restoring(port: int, password: str) -> Client:
    """A connection to that server."""
    return await _connect(f"{LOOPBACK}:{port}", CONTROLLER, password, name="restore", inbox=HUB)


def hub_secrets(state: StateDir) -> HubSecrets:
    """Of the hub that this is the directory of."""
    found: HubSecrets = _secrets(state.hub / "bus.json", HubSecrets)
    return found


def local_password(state: StateDir, site: str) -> str:
    """Of a site's own processes at its own leaf."""
    password: str = _secrets(state.site(site) / "bus.json", LeafSecrets).local
    return password


async def ensure_hub_streams(client: Client, site_ids: Iterable[str], copies: int = 1) -> None:
    """TABLES, EVIDENCE (sourced from every leaf) and the lease bucket, made or brought up to date; each at so many hubs."""
    js = client.jetstream(timeout=API_S_MAX)
    await _ensure_stream(js, _tables(subjects=list(DOWNWARD)), copies)
    sources = [
        StreamSource(
            name=EVIDENCE,
            filter_subject=site_subject(site, "evidence"),
            external=ExternalStream(api=f"$JS.{site}.API", deliver=site_subject(site, "sync")),
        )
        for site in sorted(site_ids)
    ]
    await _ensure_stream(js, StreamConfig(name=EVIDENCE, sources=sources), copies)
    owners = StreamConfig(
        name=OWNERS, subjects=[OWNERS_SUBJECTS], allow_direct=True, max_age=OWNERS_AGE_S_MAX
    )
    await _ensure_stream(js, owners, copies)
    if copies > 1:
        register = StreamConfig(name=HUBS, subjects=[REGISTER_SUBJECT], max_msgs_per_subject=1)
        await _ensure_stream(js, register, copies)
    await lease_bucket(client, copies=copies)
    leases = (await js.stream_info(f"KV_{LEASES}")).config
    if leases.num_replicas != copies:
        leases.num_replicas = copies
        await js.update_stream(leases)


async def ensure_leaf_streams(client: Client, site: str, *, hub: bool) -> None:
    """TABLES (sourced from the hub, where there is one) and EVIDENCE of one site."""
    js = client.jetstream(timeout=API_S_MAX)
    source = StreamSource(
        name=TABLES, external=ExternalStream(api=f"$JS.{HUB}.API", deliver=f"hanse.sync.{site}")
    )
    subjects = None if hub else list(DOWNWARD)
    await _ensure_stream(js, _tables(subjects=subjects, sources=[source] if hub else None))
    evidence = StreamConfig(
        name=EVIDENCE,
        subjects=[site_subject(site, "evidence")],
        max_bytes=EVIDENCE_BYTES_MAX,
        max_age=EVIDENCE_AGE_S_MAX,
        discard=DiscardPolicy.OLD,
    )
    await _ensure_stream(js, evidence)


def _tables(
    *, subjects: list[str] | None = None, sources: list[StreamSource] | None = None
) -> StreamConfig:
    return StreamConfig(
        name=TABLES,
        subjects=subjects,
        sources=sources,
        max_msgs=-1,  # of an earlier release's stream, over both subjects
        max_msgs_per_subject=TABLES_KEPT,
    )


async def lease_bucket(
    client: Client, *, copies: int = 1, answer_s_max: float = API_S_MAX, make: bool = True
) -> KeyValue:
    """The key-value bucket of leases; an entry not renewed within `LEASE_S` is gone."""
    js = client.jetstream(timeout=answer_s_max)
    try:
        return await js.key_value(LEASES)
    except (BucketNotFoundError, NotFoundError):
        if not make:
            raise
        config = KeyValueConfig(bucket=LEASES, history=1, ttl=LEASE_S, replicas=copies)
        return await js.create_key_value(config)


class EvidencePublisher:
    """Appends to a site's EVIDENCE exactly once and in order, whatever the connection does.

    Each message names the sequence it must follow (`Nats-Expected-Last-Subject-Sequence`), so a
    repeated send after a lost answer is found or refused, never stored twice. One writer a site.
    """

    def __init__(self, client: Client, site: str) -> None:
        self._js = client.jetstream(timeout=API_S_MAX)
        self._subject = site_subject(site, "evidence")
        self._last_seq: int | None = None
        """Sequence of the newest message; None while it has to be asked for."""
        self._unsure: tuple[int, bytes] | None = None
        """A send without an answer: what it had to follow, and its payload."""

    async def newest(self) -> bytes | None:
        """Payload of the newest stored message: where a restarted writer goes on after."""
        last = await self._ask()
        return None if last is None else bytes(last.data or b"")

    async def publish(self, payload: bytes) -> int:
        """Store one message; returns its sequence. After an error, call again with the same payload.

        Raises:
            SiteError: the leaf did not answer, or another writer appended in between.
        """
        if self._last_seq is None:
            last = await self._ask()
            self._last_seq = 0 if last is None else int(last.seq)
            if self._unsure is not None and self._last_seq > self._unsure[0]:
                if bytes(last.data or b"") != self._unsure[1]:
                    raise SiteError(self._subject, got="another writer's message", allowed="ours")
                stored, self._unsure = self._unsure[1], None
                if stored == payload:
                    return self._last_seq
        headers = {"Nats-Expected-Last-Subject-Sequence": str(self._last_seq)}
        try:
            ack = await self._js.publish(self._subject, payload, headers=headers)
        except Exception as error:
            self._unsure, self._last_seq = (self._last_seq, payload), None
            raise SiteError(
                self._subject, got=f"no acknowledgement ({error!r})", fix="send it again"
            ) from error
        self._last_seq, self._unsure = int(ack.seq), None
        return self._last_seq

    async def _ask(self) -> Any:
        try:
            return await self._js.get_last_msg(EVIDENCE, self._subject)
        except NotFoundError:
            return None
        except Exception as error:
            raise SiteError(
                self._subject, got=f"no answer from the leaf bus ({error!r})", fix="send it again"
            ) from error


async def leave(client: Client) -> None:
    """Close a connection within a second, whether its server is still there or not.

    nats-py's own tasks swallow the cancellation at a loop's end; one left open keeps its process.
    """
    with contextlib.suppress(Exception):
        async with asyncio.timeout(LEAVE_S_MAX):
            await client.close()


async def leaf_connected(client: Client) -> bool:
    """Whether the hub answers through this leaf right now (at most half a second)."""
    try:
        await client.request(f"$JS.{HUB}.API.STREAM.INFO.{TABLES}", b"", timeout=0.5)
    except Exception:
        return False
    return True


async def _connect(address: str, user: str, password: str, *, name: str, inbox: str) -> Client:
    reasons: list[Exception] = []

    async def note(error: Exception) -> None:
        """Later losses are seen by callers' own requests; nats-py would print each attempt."""
        reasons[:] = [error]

    client = Client()
    try:
        # nats-py tries for ever where it may reconnect for ever, the first time too.
        async with asyncio.timeout(CONNECT_S_MAX):
            await client.connect(
                f"nats://{address}",
                user=user,
                password=password,
                name=name,
                inbox_prefix=f"_INBOX.{inbox}".encode(),
                ping_interval=PING_S,
                max_outstanding_pings=PINGS_MISSED_MAX,
                reconnect_time_wait=RECONNECT_S,
                max_reconnect_attempts=-1,
                error_cb=note,
            )
    except asyncio.CancelledError:
        await leave(client)
        raise
    except Exception as error:
        await leave(client)
        reason = reasons[0] if reasons else error
        raise SiteError(f"nats://{address}", got=repr(reason), allowed="a NATS server") from error
    return client


async def connect_when_up(
    connect: Callable[[], Awaitable[Client]], *, give_up_s: float = 30.0
) -> Client:
    """Call `connect` until a server that is just starting answers."""
    loop = asyncio.get_running_loop()
    until_s = loop.time() + give_up_s
    while True:
        try:
            return await connect()
        except SiteError:
            if loop.time() > until_s:
                raise
            await asyncio.sleep(0.1)


def _server(
    name: str, host: str, port: int, home: Path, users: list[dict[str, Any]]
) -> dict[str, Any]:
    return {
        "server_name": name,
        "host": host,
        "port": port,
        "max_payload": PAYLOAD_BYTES_MAX,
        "ping_interval": f"{PING_S}s",
        "ping_max": PINGS_MISSED_MAX,
        "lame_duck_duration": "30s",
        "jetstream": {
            "store_dir": str(home / "jetstream"),
            "domain": name,
            "max_memory_store": 64 * 1024 * 1024,
            "max_file_store": FILE_STORE_BYTES_MAX,
        },
        "accounts": {ACCOUNT: {"jetstream": "enabled", "users": users}},
    }


def _own_user(site: str) -> str:
    return f"{site}.own"


def _door_user(password: str) -> dict[str, Any]:
    """What the hub's door may do: answer sites that ask for a certificate, and ask for another fleet file."""
    publish = [CHANGE_SUBJECT, "_INBOX.>"]
    subscribe = [site_subject("*", "renew"), RENEW_SUBJECT, f"_INBOX.{DOOR}.>"]
    return {
        "user": DOOR,
        "password": password,
        "permissions": {"publish": {"allow": publish}, "subscribe": {"allow": subscribe}},
    }


def _site_user(site: str, seat: str) -> dict[str, Any]:
    """What a site's leaf may do at the hub; its certificate says who it is.

    Beside its prefix: create the consumer that feeds its TABLES and no other; let the hub create one on
    its EVIDENCE, ask how that stream is and nothing more; flow control, and replies (their subjects carry random tokens).
    """
    api, own = f"$JS.{HUB}.API", f"$JS.{site}.API"
    replies = ["$JSC.R.*", "$JS.FC.>"]
    publish = [
        f"site.{site}.>",
        f"{api}.CONSUMER.CREATE.{TABLES}",
        f"{api}.CONSUMER.CREATE.{TABLES}.>",
        f"{api}.STREAM.INFO.{TABLES}",
        f"{api}.STREAM.MSG.GET.{OWNERS}",
        f"_INBOX.{HUB}.>",
        *replies,
    ]
    subscribe = [
        *DOWNWARD,
        CONTROL_SUBJECT,
        f"hanse.sync.{site}.>",
        f"site.{site}.>",
        f"{own}.CONSUMER.CREATE.{EVIDENCE}",
        f"{own}.CONSUMER.CREATE.{EVIDENCE}.>",
        f"{own}.STREAM.INFO.{EVIDENCE}",
        f"_INBOX.{site}.>",
        *replies,
    ]
    return {
        "user": seat,
        "permissions": {"publish": {"allow": publish}, "subscribe": {"allow": subscribe}},
    }


def _write_conf(path: Path, conf: dict[str, Any]) -> Path:
    replace_file(path, json.dumps(conf, indent=1).encode())  # NATS reads JSON as its own format
    return path


async def _ensure_stream(js: JetStreamContext, config: StreamConfig, copies: int = 1) -> None:
    config.storage, config.num_replicas = StorageType.FILE, copies
    assert config.name is not None, "streams here are named"
    try:
        await js.stream_info(config.name)
    except NotFoundError:
        await js.add_stream(config)
    else:
        await js.update_stream(config)


def _password() -> str:
    return secrets.token_urlsafe(32)


def _read(path: Path, kind: type[Any]) -> Any:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except FileNotFoundError:
        return None
    except (*UNREADABLE, OSError) as error:
        raise ConfigError(
            str(path), got=str(error), fix="restore the file, or remove the state directory"
        ) from error


def _secrets(path: Path, kind: type[Any]) -> Any:
    found = _read(path, kind)
    if found is None:
        raise ConfigError(os.fspath(path), got="no such file", fix="start with `hanse up` first")
    return found

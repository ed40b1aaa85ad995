"""Where everything of one running fleet listens, dials and keeps its files.

Here: `Runtime` (the content of `runtime.json`), `StateDir` (the layout of a state directory) and `plan_runtime`, which
chooses free ports and lays a relay for every directed pair of sites and for every site's way to the hub. Not here:
starting anything (`live.supervise`), what a relay does to bytes (`live.links`).
"""

from __future__ import annotations

import ipaddress
import os
import random
import socket
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from hanse.errors import ConfigError
from hanse.live.logline import log_line
from hanse.model import versions
from hanse.model.fleet import Fleet, Hub, Id, Site, Value
from hanse.model.told import UNREADABLE
from hanse.view import link_id

T = TypeVar("T")

HUB: Final = "hub"
"""Name of the hub among link ends; no site may be called so."""

LOOPBACK: Final = "127.0.0.1"

PORT_FIRST: Final = 20_000
"""Free ports are sought from here up to the kernel's ephemeral range, so that no outgoing connection takes one between
planning and listening."""
EPHEMERAL_FIRST: Final = 32_768
"""Linux's default start of the ephemeral range, where /proc does not tell."""
STATE_PATH_BYTES_MAX: Final = 85
"""A Unix socket's path has at most 107 bytes; `sites/<id>/...` and `links.sock` must still fit behind this."""


class HubAddress(Value, frozen=True, kw_only=True):
    """Where the hub's bus and the controller listen."""

    id: str = HUB
    """Another one where this is a further hub of its league."""
    host: str = "127.0.0.1"
    client_port: int
    """NATS clients (controller, CLI)."""
    leaf_port: int
    """Leaf nodes of sites, through their relays."""
    monitor_port: int = 0
    """Of earlier versions, whose bus told anybody on the machine who is connected. Nothing listens there."""
    control_port: int
    """Dashboard and control API of the controller."""
    leaf_host: str = "127.0.0.1"
    """Listening address of leaf port and door."""
    door_port: int = 0
    """Machines that join."""
    reached_at: str = "127.0.0.1"
    """Name or address under which sites on other machines reach both."""

    @property
    def client_address(self) -> str:
        """`host:port` of the NATS client port."""
        return f"{self.host}:{self.client_port}"

    @property
    def dashboard_url(self) -> str:
        """Address of dashboard and control API, without a trailing slash."""
        return f"http://{self.host}:{self.control_port}"


class SiteAddress(Value, frozen=True, kw_only=True):
    """Where one site listens, and where it dials to reach the others."""

    site: Id
    host: str
    """Listening address of client port and hop port; the leaf bus is on loopback."""
    reached_at: str = ""
    """Name or address under which others reach those; empty: `host`."""
    client_port: int
    hop_port: int
    leaf_port: int
    """NATS client port of the site's own leaf server; never reached from outside the site."""
    monitor_port: int = 0
    """As the hub's."""
    engine_ports: tuple[int, ...] = ()
    """One a replica placed in a `process` pool of this site, in the order of placements."""
    workers: int = 1
    peers: dict[str, str] = {}
    """Site id -> `host:port` that THIS site dials to reach that site's hop port (a relay, where links are emulated)."""
    hub_leaf: str = ""
    """`host:port` that this site's leaf server dials to reach the hub; empty: there is no hub."""

    @property
    def client_url(self) -> str:
        """Base URL of the OpenAI-compatible port for others, without a trailing slash."""
        return client_url(self.reached_at or self.host, self.client_port)

    @property
    def local_url(self) -> str:
        """The same for programs on this machine: always in plain HTTP over loopback."""
        host = self.host if is_loopback(self.host) else LOOPBACK
        return f"http://{host}:{self.client_port}"

    @property
    def leaf_address(self) -> str:
        """`host:port` of the site's own NATS server for local clients."""
        return f"{LOOPBACK}:{self.leaf_port}"


class Relay(Value, frozen=True, kw_only=True):
    """One emulated WAN path in one direction of dialling: `source` dials `listen`, bytes go to `connect` and back."""

    source: str
    """Site id."""
    target: str
    """Site id or `hub`."""
    link: str
    """`view.link_id` of the two ends: both directions of dialling share the link."""
    listen: str
    connect: str
    rtt_ms: float
    mbit_s: float
    hops: tuple[str, ...]
    """Sites passed on the way, both ends included; more than two where the fleet has no direct link."""


class Runtime(Value, frozen=True, kw_only=True):
    """Every address and port of one running fleet, as `runtime.json` keeps it."""

    schema: str = versions.RUNTIME.now
    fleet: Id
    hub: HubAddress | None = None
    sites: dict[str, SiteAddress]
    relays: tuple[Relay, ...] = ()
    """Empty in a deployment over real links."""

    def site(self, site_id: str) -> SiteAddress:
        """The addresses of one site.

        Raises:
            ConfigError: where the site is not part of this runtime.
        """
        found = self.sites.get(site_id)
        if found is None:
            raise ConfigError(
                "site", got=repr(site_id), allowed=f"one of {', '.join(sorted(self.sites))}"
            )
        return found


def is_loopback(host: str) -> bool:
    """Whether what listens there is reached from this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def client_url(host: str, port: int) -> str:
    """Base URL of a gateway: keys and prompts go in plain text over loopback only."""
    shown = f"[{host}]" if ":" in host else host
    return f"{'http' if is_loopback(host) else 'https'}://{shown}:{port}"


class StateDir:
    """Paths inside a state directory; nothing is created but by `make`."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()

    @property
    def fleet_toml(self) -> Path:
        """The fleet file as started."""
        return self.path / "fleet.toml"

    @property
    def runtime_json(self) -> Path:
        """The `Runtime`."""
        return self.path / "runtime.json"

    @property
    def links_json(self) -> Path:
        """Configuration of the link emulator."""
        return self.path / "links.json"

    @property
    def links_sock(self) -> Path:
        """Control socket of the link emulator."""
        return self.path / "links.sock"

    @property
    def keys_dir(self) -> Path:
        """Secrets made at first start."""
        return self.path / "keys"

    @property
    def keys_json(self) -> Path:
        """{key id: hex SHA-256} of those."""
        return self.path / "keys.json"

    @property
    def ca_dir(self) -> Path:
        """The fleet's certificate authority."""
        return self.path / "ca"

    @property
    def hub(self) -> Path:
        """The hub's own directory."""
        return self.path / "hub"

    def site(self, site_id: str) -> Path:
        """A site's own directory."""
        return self.path / "sites" / site_id

    @property
    def log_dir(self) -> Path:
        """Logs of what `up` starts directly."""
        return self.path / "log"

    @property
    def pid_dir(self) -> Path:
        """Process ids of what `up` starts directly."""
        return self.path / "pid"

    def make(self, site_ids: tuple[str, ...], *, hub: bool) -> None:
        """Create the directories of a fleet (mode 0700: chains and secrets are inside)."""
        own = [self.log_dir, self.pid_dir]
        if hub:
            own += [self.hub / name for name in ("jetstream", "log", "pid")]
        for site_id in site_ids:
            parts = ("jetstream", "log", "pid", "identity", "evidence")
            own += [self.site(site_id) / name for name in parts]
        for directory in (self.path, *own):
            private_folder(directory)

    def read_runtime(self) -> Runtime:
        """Decode `runtime.json`.

        Raises:
            ConfigError: where it is missing or not of this version.
        """
        try:
            return msgspec.json.decode(self.runtime_json.read_bytes(), type=Runtime)
        except FileNotFoundError:
            raise ConfigError(
                str(self.runtime_json), got="no such file", fix="start the fleet with `hanse up`"
            ) from None
        except (*UNREADABLE, OSError) as error:
            raise ConfigError(
                str(self.runtime_json), got=str(error), fix="remove the file, then `hanse up`"
            ) from error

    def write_runtime(self, runtime: Runtime) -> None:
        """Replace `runtime.json` by rename, so that no reader sees half of it."""
        text = msgspec.json.format(msgspec.json.encode(runtime), indent=1)
        replace_file(self.runtime_json, text)


def private_folder(path: Path) -> None:
    """A directory for its owner alone, and those above it that are not there yet: `mkdir` by itself gives those the usual mode."""
    if not path.is_dir():
        private_folder(path.parent)
        path.mkdir(exist_ok=True, mode=0o700)


def replace_file(path: Path, content: bytes, *, mode: int = 0o600) -> None:
    """Write beside, then rename: readers see the old file or the new one, whole."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(fd, "wb") as file:
        file.write(content)
    beside.replace(path)


def read_kept(path: Path, kind: type[T]) -> T | None:
    """What was kept there as MessagePack; None, and a line in the log where there was something, if it cannot be read: begin anew."""
    try:
        return msgspec.msgpack.decode(path.read_bytes(), type=kind)
    except FileNotFoundError:
        return None
    except (*UNREADABLE, OSError) as error:
        log_line(f"{path}: {error}; begun anew")
        return None


def private_socket(path: Path) -> socket.socket:
    """A Unix socket to listen on that its owner alone may open; one left by a killed process is replaced."""
    path.unlink(missing_ok=True)
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    made.bind(str(path))
    path.chmod(0o600)
    return made


def default_state_dir(fleet: Fleet) -> Path:
    """`.hanse/<fleet name>` under the working directory."""
    return Path(".hanse") / fleet.name


def plan_runtime(
    fleet: Fleet,
    state_dir: Path,
    *,
    only_site: str | None = None,
    elsewhere: Collection[str] = (),
    seed: int | None = None,
) -> Runtime:
    """Choose every port and relay of a fleet on this machine; a fleet file with `[hub]` is of real links and gets no relays.

    Ports named in the fleet file are kept or refused; port 0 becomes what the last `runtime.json` of `state_dir` had
    while that is free, else a free one.

    Args:
        fleet: What to run.
        state_dir: Where an earlier `runtime.json` may lie.
        only_site: Plan this site alone: no hub, no peers, no relays.
        elsewhere: Sites on other machines; nothing is planned for them.
        seed: Where the search for free ports begins; None takes it from the operating system.

    Raises:
        ConfigError: where a port that the file names is taken, or the path is too long for Unix sockets.
    """
    state = StateDir(state_dir)
    if len(os.fsencode(state.path)) > STATE_PATH_BYTES_MAX:
        raise ConfigError(
            "--state",
            got=f"a path of {len(os.fsencode(state.path))} bytes",
            allowed=f"at most {STATE_PATH_BYTES_MAX} (Unix sockets lie inside)",
        )
    ports = _Ports(_previous(state), random.Random(seed))
    here = [s for s in fleet.sites if only_site in (None, s.id) and s.id not in elsewhere]
    _claim_named_ports(fleet, {site.id for site in here}, ports)
    sites = {site.id: _site_address(fleet, site, ports) for site in here}
    if only_site is not None:
        if not sites:
            known = ", ".join(site.id for site in fleet.sites)
            raise ConfigError("site", got=repr(only_site), allowed=f"one of {known}")
        return Runtime(fleet=fleet.name, sites=sites)
    hub = HubAddress(
        client_port=ports.take(LOOPBACK, "hub.client_port"),
        leaf_port=fleet.hub.leaf_port or ports.take(fleet.hub.host, "hub.leaf_port"),
        control_port=ports.take(LOOPBACK, "hub.control_port"),
        leaf_host=fleet.hub.host,
        door_port=fleet.hub.door_port or ports.take(fleet.hub.host, "hub.door_port"),
        reached_at=fleet.hub.reached_at,
    )
    if (
        fleet.hub != Hub()
    ):  # the file says where the hub is reached: these are real machines and links
        leaf = f"{_dialled(hub.leaf_host)}:{hub.leaf_port}"
        sites = {id: msgspec.structs.replace(one, hub_leaf=leaf) for id, one in sites.items()}
        return Runtime(fleet=fleet.name, hub=hub, sites=sites)
    relays = tuple(_relays(fleet, sites, hub, ports))
    return Runtime(fleet=fleet.name, hub=hub, sites=_with_relays(sites, relays), relays=relays)


def plan_site(fleet: Fleet, site: Site, state_dir: Path, *, hub_leaf: str) -> SiteAddress:
    """Addresses of one site that runs alone on its machine and reports to a hub elsewhere.

    Its client and hop port are in the fleet file, where others find them; the rest is chosen here.
    """
    ports = _Ports(_previous(StateDir(state_dir)), random.Random())
    address = _site_address(fleet, site, ports)
    return msgspec.structs.replace(address, hub_leaf=hub_leaf)


def hub_site(fleet: Fleet) -> str:
    """The site whose city the hub shares: the one big site, else the first region, else the first site.

    Emulation needs the hub to be somewhere; a league that grew out of a cloud has it there.
    """
    if fleet.central is not None:
        return fleet.central.site
    regions = [site.id for site in fleet.sites if site.kind == "region"]
    return regions[0] if regions else fleet.sites[0].id


class WanPath(Value, frozen=True, kw_only=True):
    """The way between two sites: their own link, else the chain of links of least RTT."""

    hops: tuple[str, ...]
    rtt_ms: float
    mbit_s: float
    """Rate of the slowest link on it."""


def wan_paths(fleet: Fleet) -> dict[tuple[str, str], WanPath]:
    """The path of every ordered pair that links connect (Floyd and Warshall, 1962); none for (x, x).

    A pair with a link of its own uses it even where a detour would be a little faster, as routing by
    contract does; so a fault of that link is felt by exactly that pair.
    """
    direct: dict[tuple[str, str], WanPath] = {}
    for link in fleet.links:
        for a, b in ((link.a, link.b), (link.b, link.a)):
            direct[a, b] = WanPath(hops=(a, b), rtt_ms=link.rtt_ms, mbit_s=link.mbit_s)
    paths = dict(direct)
    ids = [site.id for site in fleet.sites]
    for via in ids:
        for a in ids:
            for b in ids:
                head, tail = paths.get((a, via)), paths.get((via, b))
                if head is None or tail is None or a == b:
                    continue
                old = paths.get((a, b))
                if old is None or head.rtt_ms + tail.rtt_ms < old.rtt_ms:
                    paths[a, b] = WanPath(
                        hops=head.hops + tail.hops[1:],
                        rtt_ms=head.rtt_ms + tail.rtt_ms,
                        mbit_s=min(head.mbit_s, tail.mbit_s),
                    )
    return paths | direct


def free_port(
    host: str, taken: Collection[int], rng: random.Random, preferred: Sequence[int] = ()
) -> int:
    """A TCP port that nobody listens on, below the range of outgoing connections, which could take it meanwhile."""
    for port in preferred:
        if port not in taken and _is_free(host, port):
            return port
    candidates = range(PORT_FIRST, _ephemeral_first())
    start = rng.randrange(len(candidates))
    for step in range(len(candidates)):
        port = candidates[(start + step) % len(candidates)]
        if port not in taken and _is_free(host, port):
            return port
    raise ConfigError(
        "ports",
        got=f"none free in {candidates.start} to {candidates.stop - 1}",
        fix="end other servers on this machine",
    )


class _Ports:
    """Hands out free TCP ports, each once; remembers by label what an earlier start used."""

    def __init__(self, previous: dict[str, int], rng: random.Random) -> None:
        self._previous = previous
        self._taken: set[int] = set()
        self._range = range(PORT_FIRST, _ephemeral_first())
        self._next = rng.randrange(len(self._range))
        self.labels: dict[str, int] = {}

    def claim(self, host: str, port: int, where: str) -> None:
        """Keep a port that the fleet file names for its owner."""
        if not _is_free(host, port):
            raise ConfigError(
                where,
                got=f"{port}, which another process on {host} holds",
                allowed="a free TCP port",
                fix="end that process, or write 0 to let a free one be chosen",
            )
        self._taken.add(port)

    def take(self, host: str, label: str) -> int:
        """The port this label had last time if it is free now, else any free one."""
        port = self._previous.get(label, 0)
        if port == 0 or port in self._taken or not _is_free(host, port):
            port = next(p for p in self._candidates() if _is_free(host, p))
        self._taken.add(port)
        self.labels[label] = port
        return port

    def _candidates(self) -> Iterator[int]:
        kept = set(self._previous.values())
        for _ in self._range:
            port = self._range[self._next]
            self._next = (self._next + 1) % len(self._range)
            if port not in self._taken and port not in kept:
                yield port
        raise ConfigError(
            "ports",
            got=f"none free in {self._range.start} to {self._range.stop - 1}",
            fix="end other servers on this machine, or run fewer sites on it",
        )


def _claim_named_ports(fleet: Fleet, here: Collection[str], ports: _Ports) -> None:
    for index, site in enumerate(fleet.sites):
        if site.id not in here:
            continue
        gateway = site.gateway
        for name, port in (("port", gateway.port), ("hop_port", gateway.hop_port)):
            if port:
                ports.claim(gateway.host, port, f"site[{index}].gateway.{name}")


def _site_address(fleet: Fleet, site: Site, ports: _Ports) -> SiteAddress:
    host, label = site.gateway.host, f"site.{site.id}"
    process_pools = {pool.id for pool in site.pools if pool.driver == "process"}
    engine_count = sum(
        placement.replicas
        for placement in fleet.placements
        if placement.site == site.id and placement.pool in process_pools
    )
    return SiteAddress(
        site=site.id,
        host=host,
        reached_at=site.gateway.reached_at,
        client_port=site.gateway.port or ports.take(host, f"{label}.client_port"),
        hop_port=site.gateway.hop_port or ports.take(host, f"{label}.hop_port"),
        leaf_port=ports.take(LOOPBACK, f"{label}.leaf_port"),
        engine_ports=tuple(
            ports.take(LOOPBACK, f"{label}.engine_port[{index}]") for index in range(engine_count)
        ),
        workers=site.gateway.workers,
    )


def _relays(
    fleet: Fleet, sites: dict[str, SiteAddress], hub: HubAddress, ports: _Ports
) -> Iterator[Relay]:
    paths = wan_paths(fleet)
    at = hub_site(fleet)
    beside = WanPath(hops=(at,), rtt_ms=0.0, mbit_s=10_000.0)  # same building: 10 Gbit/s Ethernet
    for source in sites:
        for target in sites:
            path = paths.get((source, target))
            if source != target and path is not None:
                to = sites[target]
                yield _relay(source, target, f"{_dialled(to.host)}:{to.hop_port}", path, ports)
        path = beside if source == at else paths.get((source, at))
        if path is not None:
            yield _relay(source, HUB, f"{_dialled(hub.leaf_host)}:{hub.leaf_port}", path, ports)


def _dialled(host: str) -> str:
    """What a relay on this machine dials to reach a listener on `host`."""
    return LOOPBACK if host in ("", "0.0.0.0", "::") else host


def _relay(source: str, target: str, connect: str, path: WanPath, ports: _Ports) -> Relay:
    return Relay(
        source=source,
        target=target,
        link=link_id(source, target),
        listen=f"127.0.0.1:{ports.take('127.0.0.1', f'relay.{source}.{target}')}",
        connect=connect,
        rtt_ms=path.rtt_ms,
        mbit_s=path.mbit_s,
        hops=path.hops,
    )


def _with_relays(
    sites: dict[str, SiteAddress], relays: tuple[Relay, ...]
) -> dict[str, SiteAddress]:
    dials = {(relay.source, relay.target): relay.listen for relay in relays}
    return {
        site_id: msgspec.structs.replace(
            address,
            peers={peer: dials[site_id, peer] for peer in sites if (site_id, peer) in dials},
            hub_leaf=dials.get((site_id, HUB), ""),
        )
        for site_id, address in sites.items()
    }


def _previous(state: StateDir) -> dict[str, int]:
    """Ports of the last start by label; none where there was no start or its file is unreadable."""
    try:
        runtime = state.read_runtime()
    except ConfigError:
        return {}
    labels: dict[str, int] = {}
    if runtime.hub is not None:
        for name in ("client_port", "leaf_port", "control_port", "door_port"):
            labels[f"hub.{name}"] = getattr(runtime.hub, name)
    for site_id, address in runtime.sites.items():
        for name in ("client_port", "hop_port", "leaf_port"):
            labels[f"site.{site_id}.{name}"] = getattr(address, name)
        for index, port in enumerate(address.engine_ports):
            labels[f"site.{site_id}.engine_port[{index}]"] = port
    for relay in runtime.relays:
        labels[f"relay.{relay.source}.{relay.target}"] = int(relay.listen.rsplit(":", 1)[1])
    return labels


def _is_free(host: str, port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # TIME_WAIT is not taken
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def _ephemeral_first() -> int:
    try:
        text = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text()
        return max(int(text.split()[0]), PORT_FIRST + 1)
    except (OSError, ValueError, IndexError):
        return EPHEMERAL_FIRST

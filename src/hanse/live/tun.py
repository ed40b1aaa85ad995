"""A WAN of network namespaces for tests with root: real kernel TCP over emulated packet links.

Here: ``Wire`` (one directed link, pure), ``TunWan`` (namespaces ``hz-<pid>-<n>``, each with a TUN
interface 10.77.0.n/24) and the process that moves the packets. Not here: the relays that need no
root (``live/links.py``), IPv6, fragmentation. For tests and studies; nothing in production needs it.

Theory of operation. ``TunWan`` starts ``python -m hanse.live.tun``, which makes the namespaces and
keeps the TUN descriptors. That process removes everything when told to, on SIGTERM, and when its
standard input ends, so a killed test leaves nothing behind. A namespace that a killed emulator
itself left behind (SIGKILL) is replaced when its name comes up again.
"""

import contextlib
import fcntl
import heapq
import math
import os
import random
import select
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import IO, Any, Final, Self, cast

import msgspec

from hanse.errors import ConfigError, SiteError
from hanse.units import bytes_per_s_from_mbit_s, s_from_ms

NETWORK: Final = "10.77.0"  # private (RFC 1918) and rarely used; only ever seen inside namespaces
SITES_MAX: Final = 250  # the hosts of one /24, with room to spare
TCP: Final = 6  # protocol number, RFC 790
MTU_BYTES: Final = 1_500  # Ethernet's, the usual size on leased links and the internet
READS_MAX: Final = 256  # packets taken from one interface before the others get their turn
TICK_S: Final = 0.001  # epoll's; half a tick early counts as due, so errors cancel out
START_TIMEOUT_S: Final = 30.0  # 100 namespaces take about 4 s
ASK_TIMEOUT_S: Final = 5.0  # answers take well under 1 ms; later means stuck or gone
ENTER_S: Final = 0.001  # between looks at a process on its way into a namespace: a few ms
SWEEPS_MAX: Final = 100  # of a namespace's processes; more than two only where one cannot die yet
TUN_PATH: Final = "/dev/net/tun"
TUNSETIFF: Final = 0x400454CA  # linux/if_tun.h
IFF_TUN: Final = 0x0001  # IP packets, no Ethernet header
IFF_NO_PI: Final = 0x1000  # no packet information before the packet


class TunLink(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one direction does to packets; a full queue drops the newest packet."""

    delay_ms: float = 0.0
    jitter_ms: float = 0.0
    mbit_s: float = 1_000.0
    loss: float = 0.0
    queue_ms_max: float = 100.0  # a usual router buffer, in time at the link's rate
    is_cut: bool = False
    ports_lost: tuple[int, ...] = ()
    """Packets from or to these TCP ports vanish: a connection that hangs while others pass, as a wedged middlebox makes it."""


class WireView(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one direction has done so far, in packets but for `bytes_total`."""

    src: str
    dst: str
    packets_total: int
    bytes_total: int
    lost_total: int
    overflowed_total: int
    cut_total: int


class _Setup(msgspec.Struct, frozen=True, kw_only=True):
    sites: tuple[str, ...]
    link: TunLink
    seed: int


class _Set(msgspec.Struct, frozen=True, kw_only=True, tag_field="op", tag="set"):
    src: str
    dst: str
    link: TunLink


class _Get(msgspec.Struct, frozen=True, kw_only=True, tag_field="op", tag="get"):
    pass


class _Reply(msgspec.Struct, frozen=True, kw_only=True):
    error: str = ""
    namespaces: tuple[str, ...] = ()
    wires: tuple[WireView, ...] = ()


class Wire:
    """One directed link: decides when a packet arrives, or that it does not. No clock, no socket."""

    def __init__(self, link: TunLink, rng: random.Random) -> None:
        self.link = link
        self.packets_total = self.bytes_total = 0
        self.lost_total = self.overflowed_total = self.cut_total = 0
        self._rng = rng
        self._free_at_s = self._last_due_at_s = -math.inf

    def admit(self, now_s: float, size_bytes: int) -> float | None:
        """When a packet that enters now arrives; None when it is dropped. Order is kept."""
        link = self.link
        if link.is_cut:
            self.cut_total += 1
            return None
        if link.loss and self._rng.random() < link.loss:
            self.lost_total += 1
            return None
        start_s = max(now_s, self._free_at_s)
        if start_s - now_s > s_from_ms(link.queue_ms_max):
            self.overflowed_total += 1
            return None
        self._free_at_s = start_s + size_bytes / bytes_per_s_from_mbit_s(link.mbit_s)
        jitter_ms = self._rng.random() * link.jitter_ms if link.jitter_ms else 0.0
        due_at_s = self._free_at_s + s_from_ms(link.delay_ms + jitter_ms)
        self._last_due_at_s = max(self._last_due_at_s, due_at_s)
        self.packets_total += 1
        self.bytes_total += size_bytes
        return self._last_due_at_s


def why_not() -> str | None:
    """Why this machine cannot run a ``TunWan``, None when it can."""
    if os.geteuid() != 0:
        return "needs root, for network namespaces and TUN devices"
    if shutil.which("ip") is None:
        return "needs the command ip: apt-get install iproute2"
    if not os.path.exists(TUN_PATH):
        return f"needs {TUN_PATH}, which this kernel or container lacks"
    probe = f"hz-{os.getpid()}-probe"
    try:
        _ip("netns", "add", probe)
    except SiteError as error:
        return f"may not make network namespaces: {error.got}"
    _ip("netns", "del", probe)
    return None


class Namespace:
    """One site: a network namespace with an address on the WAN.

    Attributes:
        processes: What ``popen`` started, ended with the WAN.
    """

    def __init__(self, name: str, address: str) -> None:
        self.name = name
        self.address = address
        self.processes: list[subprocess.Popen[Any]] = []

    def run(self, command: Sequence[str], **options: Any) -> subprocess.CompletedProcess[Any]:
        """``subprocess.run`` inside the namespace."""
        return subprocess.run(["ip", "netns", "exec", self.name, *command], check=True, **options)

    def popen(self, command: Sequence[str], **options: Any) -> subprocess.Popen[Any]:
        """``subprocess.Popen`` inside the namespace, as a process group of its own.

        Returns once the process is inside or has ended: one still on its way in is not among the
        namespace's processes, and would outlive its removal.
        """
        process = subprocess.Popen(
            ["ip", "netns", "exec", self.name, *command], start_new_session=True, **options
        )
        self.processes.append(process)
        outside = _network_of("self")
        while process.poll() is None and _network_of(process.pid) in (None, outside):
            time.sleep(ENTER_S)
        return process

    def kill_all(self) -> None:
        """End every process group that ``popen`` started here."""
        for process in self.processes:
            if process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            for pipe in (process.stdin, process.stdout, process.stderr):
                if pipe is not None:
                    with contextlib.suppress(OSError):  # unflushed input of a dead process
                        pipe.close()
        self.processes.clear()


class TunWan:
    """Sites joined by a full mesh of directed links, as a context manager."""

    def __init__(self, sites: Sequence[str], link: TunLink, *, seed: int = 0) -> None:
        if not 1 <= len(sites) <= SITES_MAX or len(set(sites)) != len(sites):
            raise ConfigError("sites", got=list(sites), allowed=f"1 to {SITES_MAX} distinct names")
        self._setup = _Setup(sites=tuple(sites), link=link, seed=seed)
        self._links = {(a, b): link for a in sites for b in sites if a != b}
        self._process: subprocess.Popen[bytes] | None = None
        self.spaces: dict[str, Namespace] = {}

    def __enter__(self) -> Self:
        if (reason := why_not()) is not None:
            raise ConfigError(
                "TUN emulator",
                got=reason,
                fix="use the relays of hanse.live.links, which need no root",
            )
        self._process = subprocess.Popen(
            [sys.executable, "-m", "hanse.live.tun"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C ends the test, and then its end ends the emulator
        )
        try:
            names = self._ask(self._setup, START_TIMEOUT_S).namespaces
        except BaseException:
            self.close()
            raise
        self.spaces = {
            site: Namespace(name, f"{NETWORK}.{number}")
            for number, (site, name) in enumerate(zip(self._setup.sites, names, strict=True), 1)
        }
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __getitem__(self, site: str) -> Namespace:
        return self.spaces[site]

    def close(self) -> None:
        """End all processes and remove all namespaces; a second call does nothing."""
        for space in self.spaces.values():
            space.kill_all()
        self.spaces = {}
        process, self._process = self._process, None
        if process is not None:
            assert process.stdin is not None
            assert process.stdout is not None
            with contextlib.suppress(OSError):
                process.stdin.close()
            process.wait(START_TIMEOUT_S)
            process.stdout.close()

    def set_link(self, src: str, dst: str, **changes: float | bool | tuple[int, ...]) -> None:
        """Change fields of ``TunLink`` in one direction; what is under way still arrives."""
        link = msgspec.structs.replace(self._links[src, dst], **changes)
        self._links[src, dst] = link
        self._ask(_Set(src=src, dst=dst, link=link), ASK_TIMEOUT_S)

    def cut_one_way(self, src: str, dst: str) -> None:
        """Drop every packet from `src` to `dst`; the other way stays as it is."""
        self.set_link(src, dst, is_cut=True)

    def cut(self, a: str, b: str) -> None:
        """Drop every packet between two sites."""
        self.set_link(a, b, is_cut=True)
        self.set_link(b, a, is_cut=True)

    def heal(self, a: str, b: str) -> None:
        """End a cut, both ways."""
        self.set_link(a, b, is_cut=False)
        self.set_link(b, a, is_cut=False)

    def counters(self) -> dict[tuple[str, str], WireView]:
        """Counters by (source, destination)."""
        wires = self._ask(_Get(), ASK_TIMEOUT_S).wires
        return {(wire.src, wire.dst): wire for wire in wires}

    def _ask(self, request: _Setup | _Set | _Get, timeout_s: float) -> _Reply:
        assert self._process is not None, "the WAN is closed"
        stdin = cast(IO[bytes], self._process.stdin)
        stdout = cast(IO[bytes], self._process.stdout)
        with contextlib.suppress(BrokenPipeError):  # then no answer comes, which is reported
            stdin.write(msgspec.json.encode(request) + b"\n")
            stdin.flush()
        readable, _, _ = select.select([stdout], [], [], timeout_s)
        line = stdout.readline() if readable else b""
        if not line:
            raise SiteError("TUN emulator", got="no answer", allowed="a running emulator")
        reply = msgspec.json.decode(line, type=_Reply)
        if reply.error:
            raise SiteError("TUN emulator", got=reply.error)
        return reply


class _Emulator:
    """The process side: interfaces, wires and the packets on their way."""

    def __init__(self, setup: _Setup) -> None:
        self.setup = setup
        self.fds: list[int] = []
        self.namespaces: list[str] = []
        self.wires = {
            (src, dst): Wire(setup.link, random.Random(f"{setup.seed}/{src}/{dst}"))
            for src in setup.sites
            for dst in setup.sites
            if src != dst
        }
        self._by_fd: dict[int, list[tuple[Wire, int] | None]] = {}
        self._due: list[tuple[float, int, int, bytes]] = []
        self._count = 0
        self._epoll = select.epoll()
        self._line = b""

    def open(self) -> None:
        for number in range(1, len(self.setup.sites) + 1):
            name, interface = f"hz-{os.getpid()}-{number}", f"hz{os.getpid()}t{number}"
            with contextlib.suppress(SiteError):  # usually there is none to remove
                _ip("netns", "del", name)
            self.namespaces.append(name)
            _ip("netns", "add", name)
            self.fds.append(_open_tun(interface))
            _ip("link", "set", interface, "netns", name)
            _ip("-n", name, "addr", "add", f"{NETWORK}.{number}/24", "dev", interface)
            _ip("-n", name, "link", "set", interface, "mtu", str(MTU_BYTES), "up")
            _ip("-n", name, "link", "set", "lo", "up")
        # By source interface and last byte of the destination: one look-up a packet.
        for fd, src in zip(self.fds, self.setup.sites, strict=True):
            routes: list[tuple[Wire, int] | None] = [None] * 256
            for number, dst in enumerate(self.setup.sites, 1):
                if dst != src:
                    routes[number] = (self.wires[src, dst], self.fds[number - 1])
            self._by_fd[fd] = routes
            self._epoll.register(fd, select.EPOLLIN)

    def close(self) -> None:
        for name in self.namespaces:
            with contextlib.suppress(SiteError):  # made only half way
                for _ in range(SWEEPS_MAX):
                    if not (pids := _ip("netns", "pids", name).split()):
                        break
                    for pid in pids:  # what one of them forks meanwhile, the next sweep ends
                        with contextlib.suppress(ProcessLookupError):
                            os.kill(int(pid), signal.SIGKILL)
            with contextlib.suppress(SiteError):
                _ip("netns", "del", name)
        for fd in self.fds:
            os.close(fd)

    def run(self, control_fd: int) -> None:
        """Move packets until the control input ends."""
        os.set_blocking(control_fd, False)
        self._epoll.register(control_fd, select.EPOLLIN)
        while True:
            for fd, _mask in self._epoll.poll(self._wait_s()):
                if fd == control_fd:
                    if not self._obey(control_fd):
                        return
                else:
                    self._read(fd)
            self._write_due()

    def _wait_s(self) -> float:
        if not self._due:
            return -1.0  # until something is readable
        # epoll rounds up to its tick; half a tick less makes that rounding to the nearest.
        return max(0.0, self._due[0][0] - time.monotonic() - TICK_S / 2)

    def _read(self, fd: int) -> None:
        routes = self._by_fd[fd]
        for _ in range(READS_MAX):
            try:
                packet = os.read(fd, 65_536)
            except BlockingIOError:
                return
            # Version 4 only; the mesh has no routes beyond its /24.
            route = routes[packet[19]] if len(packet) >= 20 and packet[0] >> 4 == 4 else None
            if route is None:
                continue
            wire, out_fd = route
            if wire.link.ports_lost and not ports_of(packet).isdisjoint(wire.link.ports_lost):
                wire.cut_total += 1
                continue
            due_at_s = wire.admit(time.monotonic(), len(packet))
            if due_at_s is not None:
                self._count += 1  # breaks ties, so that packets due together keep their order
                heapq.heappush(self._due, (due_at_s, self._count, out_fd, packet))

    def _write_due(self) -> None:
        due_by_s = time.monotonic() + TICK_S / 2
        while self._due and self._due[0][0] <= due_by_s:
            _due_at_s, _count, fd, packet = heapq.heappop(self._due)
            with contextlib.suppress(OSError):  # an interface that a test took down loses it
                os.write(fd, packet)

    def _obey(self, control_fd: int) -> bool:
        with contextlib.suppress(BlockingIOError):
            data = os.read(control_fd, 65_536)
            if not data:
                return False
            *lines, self._line = (self._line + data).split(b"\n")
            for line in lines:
                request = msgspec.json.decode(line, type=_Set | _Get)
                if isinstance(request, _Set):
                    self.wires[request.src, request.dst].link = request.link
                    _say(_Reply())
                else:
                    _say(_Reply(wires=tuple(self._views())))
        return True

    def _views(self) -> Iterator[WireView]:
        for (src, dst), wire in self.wires.items():
            yield WireView(
                src=src,
                dst=dst,
                packets_total=wire.packets_total,
                bytes_total=wire.bytes_total,
                lost_total=wire.lost_total,
                overflowed_total=wire.overflowed_total,
                cut_total=wire.cut_total,
            )


def ports_of(packet: bytes) -> frozenset[int]:
    """Source and destination port of an IPv4 packet that carries TCP, unfragmented as all here are; empty for any other."""
    if len(packet) < 20 or packet[9] != TCP:
        return frozenset()
    at = 4 * (packet[0] & 15)  # the header's length is in words of four bytes (RFC 791)
    return (
        frozenset(struct.unpack_from("!HH", packet, at)) if len(packet) >= at + 4 else frozenset()
    )


def _open_tun(interface: str) -> int:
    fd = os.open(TUN_PATH, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", interface.encode(), IFF_TUN | IFF_NO_PI))
    except OSError:
        os.close(fd)
        raise
    return fd


def _network_of(pid: int | str) -> str | None:
    """The network namespace a process is in, None for one that has ended."""
    try:
        return os.readlink(f"/proc/{pid}/ns/net")
    except OSError:
        return None


def _ip(*arguments: str) -> str:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True)
    if done.returncode != 0:
        raise SiteError(f"ip {' '.join(arguments)}", got=done.stderr.strip() or done.returncode)
    return done.stdout


def _say(reply: _Reply) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(reply) + b"\n")
    sys.stdout.buffer.flush()


def _main() -> int:
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, lambda *_: sys.exit(0))
    # Unbuffered, so that nothing the loop should see stays in a buffer of this process.
    line = b""
    while not line.endswith(b"\n"):
        if not (byte := os.read(0, 1)):
            return 0
        line += byte
    emulator = _Emulator(msgspec.json.decode(line, type=_Setup))
    try:
        try:
            emulator.open()
        except (OSError, SiteError) as error:
            _say(_Reply(error=str(error)))
            return 1
        _say(_Reply(namespaces=tuple(emulator.namespaces)))
        emulator.run(0)
    finally:
        for signum in (signal.SIGTERM, signal.SIGINT):
            signal.signal(signum, signal.SIG_IGN)  # removal must not stop half way
        emulator.close()
    return 0


if __name__ == "__main__":
    sys.exit(_main())

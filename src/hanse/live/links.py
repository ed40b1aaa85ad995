"""The link emulator: TCP relays that give loopback connections the figures and faults of a WAN.

Here: ``LinkEmulator``, its checks, its control socket and ``python -m hanse.live.links
CONFIG.json``. No root is needed. Not here: the queue of a direction (``live/lane.py``), relayed
connections (``live/relay.py``), values and client of the control socket
(``live/link_control.py``), packet loss and jitter (``live/tun.py``, with root). Which sites are
joined is decided by whoever writes the configuration.
"""

import asyncio
import contextlib
import math
import os
import resource
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec
import uvloop

from hanse.errors import ConfigError, HanseError
from hanse.live.link_control import (
    CONTROL_LINE_BYTES_MAX,
    ControlError,
    ControlReply,
    Fault,
    FaultKind,
    GetState,
    LinkControl,
    LinksConfig,
    LinkSpec,
    LinksState,
    RelaySpec,
    RelayView,
    Request,
    SetLink,
)
from hanse.live.relay import Link, Pair, Relay
from hanse.model.told import UNREADABLE

__all__ = ["LinkControl", "LinkEmulator", "LinkSpec", "LinksConfig", "RelaySpec", "main"]

EXIT_CONFIG: Final = 2  # as every command of this program that was given something wrong
UNIX_PATH_BYTES_MAX: Final = 107  # sun_path of Linux is 108 bytes with its end mark
BACKLOG: Final = 512  # connects during one loop turn; the kernel caps it by itself

# What a named fault sets. `cut_forward` and `cut_backward` leave the other direction as it was.
FAULTS: Final[dict[FaultKind, dict[str, object]]] = {
    "cut": {"a_to_b": "cut", "b_to_a": "cut", "refusing": False},
    "cut_forward": {"a_to_b": "cut", "refusing": False},
    "cut_backward": {"b_to_a": "cut", "refusing": False},
    "reset": {"refusing": True},
    "slow": {},
    "heal": {"a_to_b": "open", "b_to_a": "open", "refusing": False, "slow_factor": 1.0},
}


class LinkEmulator:
    """All links and relays of one configuration, on the running event loop."""

    def __init__(self, config: LinksConfig) -> None:
        for wrong in wrongs(config):
            raise wrong
        self.config = config
        self.links = {name: Link(spec, self._pairs_count) for name, spec in config.links.items()}
        self.relays = [self._relay(spec) for spec in config.relays]
        self._control: asyncio.Server | None = None

    def _pairs_count(self) -> int:
        return sum(len(link.pairs) for link in self.links.values())

    def _relay(self, spec: RelaySpec) -> Relay:
        link = self.links[spec.link]
        backward = link.pumps["b_to_a" if spec.forward == "a_to_b" else "a_to_b"]
        target = split_target(spec.target)
        assert target is not None
        return Relay(
            spec=spec,
            target=target,
            link=link,
            forward=link.pumps[spec.forward],
            backward=backward,
        )

    async def start(self) -> None:
        """Bind every listener and the control socket, or none of them."""
        try:
            for index, relay in enumerate(self.relays):
                relay.server = await self._listen(index, relay)
            self._control = await self._listen_control()
        except BaseException:
            await self.close()
            raise

    async def _listen(self, index: int, relay: Relay) -> asyncio.Server:
        loop, spec = asyncio.get_running_loop(), relay.spec
        try:
            return await loop.create_server(
                lambda: Pair(relay).client, spec.listen_host, spec.listen_port, backlog=BACKLOG
            )
        except OSError as error:
            raise ConfigError(
                f"relays[{index}].listen_port",
                got=f"{spec.listen_host}:{spec.listen_port} ({error.strerror or error})",
                allowed="a free port on an address of this machine",
                fix=f"end what listens there (ss -ltnp 'sport = :{spec.listen_port}') "
                "or choose another port",
            ) from error

    async def _listen_control(self) -> asyncio.Server:
        path = Path(self.config.control_path)
        if _is_served(path):
            raise ConfigError(
                "control_path",
                got=f"{path}, on which another emulator answers",
                allowed="a path of its own",
                fix="end the other emulator or choose another state directory",
            )
        try:
            _remove(path)
            server = await asyncio.start_unix_server(
                self._serve_control, path, limit=CONTROL_LINE_BYTES_MAX
            )
            os.chmod(path, 0o600)  # whoever may write here may cut the links
        except OSError as error:
            raise ConfigError(
                "control_path", got=f"{path} ({error.strerror or error})", allowed="a writable path"
            ) from error
        return server

    async def close(self) -> None:
        """Stop listening and reset every connection."""
        servers = [relay.server for relay in self.relays if relay.server is not None]
        if self._control is not None:
            servers.append(self._control)
            _remove(Path(self.config.control_path))
        for server in servers:
            server.close()
        for link in self.links.values():
            for pair in list(link.pairs):
                pair.abort()
        await asyncio.sleep(0)  # transports close on the next turn of the loop

    def handle(self, request: Request) -> LinksState:
        """Apply one control request; raise ``ConfigError`` when it means nothing."""
        if isinstance(request, Fault):
            request = _as_set(request)
        if isinstance(request, SetLink):
            for wrong in wrongs_of_set(request, tuple(self.links)):
                raise wrong
            self.links[request.link].apply(request)
        return self.state()

    def state(self) -> LinksState:
        """Figures, faults and counters of everything, as ``get`` answers them."""
        return LinksState(
            links={name: link.view() for name, link in self.links.items()},
            relays=tuple(
                RelayView(
                    id=relay.spec.id or f"{relay.spec.link}#{index}",
                    link=relay.spec.link,
                    listen_host=relay.spec.listen_host,
                    listen_port=relay.listen_port,
                    target=relay.spec.target,
                    forward=relay.spec.forward,
                )
                for index, relay in enumerate(self.relays)
            ),
        )

    def _answer(self, line: bytes) -> ControlReply:
        try:
            request = msgspec.json.decode(line, type=SetLink | Fault | GetState)
            return ControlReply(state=self.handle(request))
        except UNREADABLE as error:
            wrong = HanseError("control", got=str(error), allowed="a set, fault or get request")
        except ConfigError as error:
            wrong = error
        return ControlReply(
            error=ControlError(
                where=wrong.where, got=str(wrong.got), allowed=wrong.allowed, fix=wrong.fix
            )
        )

    async def _serve_control(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        with contextlib.suppress(
            OSError, ValueError
        ):  # the asker went away, or its line never ends
            while line := await reader.readline():
                writer.write(msgspec.json.encode(self._answer(line)) + b"\n")
                await writer.drain()
        writer.close()


def wrongs(config: LinksConfig) -> Iterator[ConfigError]:
    """Every wrong meaning of a configuration whose shape is right."""
    if not 0 < len(os.fsencode(config.control_path)) <= UNIX_PATH_BYTES_MAX:
        allowed = f"1 to {UNIX_PATH_BYTES_MAX} bytes, the kernel's limit for a socket's path"
        yield ConfigError("control_path", got=repr(config.control_path), allowed=allowed)
    for name, spec in config.links.items():
        yield from _wrong_figures(f"links.{name}", spec.rtt_ms, spec.mbit_s)
    taken: set[tuple[str, int]] = set()
    for index, relay in enumerate(config.relays):
        yield from _wrong_relay(f"relays[{index}]", relay, config)
        address = (relay.listen_host, relay.listen_port)
        if relay.listen_port != 0 and address in taken:
            allowed = "an address no other relay listens on"
            yield ConfigError(
                f"relays[{index}].listen_port", got=relay.listen_port, allowed=allowed
            )
        taken.add(address)


def _wrong_relay(where: str, relay: RelaySpec, config: LinksConfig) -> Iterator[ConfigError]:
    if relay.link not in config.links:
        yield ConfigError(f"{where}.link", got=repr(relay.link), allowed=_listed(config.links))
    if not 0 <= relay.listen_port <= 65_535:
        yield ConfigError(f"{where}.listen_port", got=relay.listen_port, allowed="0 (any) to 65535")
    if split_target(relay.target) is None:
        yield ConfigError(f"{where}.target", got=repr(relay.target), allowed='"host:port"')


def wrongs_of_set(request: SetLink, known: tuple[str, ...]) -> Iterator[ConfigError]:
    """Every wrong meaning of a change at run time."""
    if request.link not in known:
        yield ConfigError("link", got=repr(request.link), allowed=_listed(known))
    yield from _wrong_figures(request.link, request.rtt_ms, request.mbit_s)
    slow_factor = request.slow_factor
    if slow_factor is not None and not 1 <= slow_factor < math.inf:
        yield ConfigError(f"{request.link}.slow_factor", got=slow_factor, allowed="1 or more")


def _wrong_figures(where: str, rtt_ms: float | None, mbit_s: float | None) -> Iterator[ConfigError]:
    if rtt_ms is not None and not 0 <= rtt_ms < math.inf:
        yield ConfigError(f"{where}.rtt_ms", got=rtt_ms, allowed="0 or more")
    if mbit_s is not None and not 0 < mbit_s < math.inf:
        yield ConfigError(f"{where}.mbit_s", got=mbit_s, allowed="more than 0")


def _listed(names: dict[str, LinkSpec] | tuple[str, ...]) -> str:
    return "one of " + ", ".join(sorted(names))


def split_target(target: str) -> tuple[str, int] | None:
    """``host:port`` or ``[v6]:port`` as a pair, None when it is neither."""
    host, colon, port = target.rpartition(":")
    if not colon or not host or not (port.isascii() and port.isdigit()):
        return None
    return (host.strip("[]"), int(port)) if 0 < int(port) <= 65_535 else None


def _as_set(fault: Fault) -> SetLink:
    given = FAULTS[fault.kind] | (
        {"slow_factor": fault.slow_factor} if fault.kind == "slow" else {}
    )
    return msgspec.convert({"link": fault.link, "op": "set"} | given, type=SetLink)


def _is_served(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        return probe.connect_ex(str(path)) == 0


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)


def _write_pid(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{os.getpid()}\n")


async def serve(config: LinksConfig) -> None:
    """Run until SIGTERM or SIGINT; the line ``ready`` on stdout says that all is bound."""
    emulator = LinkEmulator(config)
    ended = asyncio.Event()
    for signum in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(signum, ended.set)
    await emulator.start()
    if config.pid_path:
        _write_pid(Path(config.pid_path))
    with contextlib.suppress(OSError):  # the reader of stdout may have gone; the links still matter
        sys.stdout.write("ready\n")
        sys.stdout.flush()
    await ended.wait()
    await emulator.close()


def read_config(path: str) -> LinksConfig:
    """Read and decode a configuration; wrong meanings are found by ``LinkEmulator``."""
    try:
        return msgspec.json.decode(Path(path).read_bytes(), type=LinksConfig)
    except OSError as error:
        raise ConfigError(path, got=error.strerror, allowed="a readable file") from error
    except UNREADABLE as error:
        raise ConfigError(
            path, got=str(error), allowed="the links configuration as JSON"
        ) from error


def main(arguments: list[str]) -> int:
    """Command line: one argument, the configuration's path."""
    try:
        if len(arguments) != 1:
            usage = "CONFIG.json, one argument"
            raise ConfigError("python -m hanse.live.links", got=arguments, allowed=usage)
        _raise_descriptor_limit()
        uvloop.run(serve(read_config(arguments[0])))
    except HanseError as error:
        sys.stderr.write(f"{error}\n")
        return EXIT_CONFIG
    return 0


def _raise_descriptor_limit() -> None:
    # Two descriptors a connection: the usual soft limit of 1,024 would end at 500 connections.
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

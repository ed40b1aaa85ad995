"""What the link emulator is told and what it answers, and a client for its control socket.

Here: configuration and control values, ``LinkControl``. Not here: the emulator
(``live/links.py``). The control socket is a Unix socket; one JSON object a line in, one
``ControlReply`` a line out, any number of lines a connection.
"""

import socket
from pathlib import Path
from typing import Final, Literal

import msgspec

from hanse.errors import ConfigError, SiteError
from hanse.model.told import UNREADABLE
from hanse.view import LinkStatus

Way = Literal["a_to_b", "b_to_a"]
WayState = Literal["open", "cut"]
FaultKind = Literal["cut", "cut_forward", "cut_backward", "reset", "slow", "heal"]

SLOW_FACTOR: Final = 10.0  # of a `slow` fault that names none: far outside noise, still alive
CONTROL_LINE_BYTES_MAX: Final = 4_194_304  # a `get` of 1,000 links is under 1 MB
CONTROL_TIMEOUT_S: Final = 5.0  # answers take well under 1 ms; later means stuck or gone


class Value(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A frozen value; unknown fields are an error."""


class LinkSpec(Value, frozen=True, kw_only=True):
    """What a healthy link does, the same both ways."""

    rtt_ms: float
    mbit_s: float


class RelaySpec(Value, frozen=True, kw_only=True):
    """One listener whose connections cross `link`; `forward` is the way from client to target."""

    link: str
    listen_port: int
    target: str
    forward: Way
    listen_host: str = "127.0.0.1"
    id: str = ""


class LinksConfig(Value, frozen=True, kw_only=True):
    """All links and relays of one emulator process."""

    control_path: str
    links: dict[str, LinkSpec]
    relays: tuple[RelaySpec, ...]
    pid_path: str = ""


class SetLink(Value, frozen=True, kw_only=True, tag_field="op", tag="set"):
    """Change only the fields that are given."""

    link: str
    rtt_ms: float | None = None
    mbit_s: float | None = None
    a_to_b: WayState | None = None
    b_to_a: WayState | None = None
    slow_factor: float | None = None
    refusing: bool | None = None


class Fault(Value, frozen=True, kw_only=True, tag_field="op", tag="fault"):
    """A named fault, or its end; `slow_factor` matters to `slow` only."""

    link: str
    kind: FaultKind
    slow_factor: float = SLOW_FACTOR


class GetState(Value, frozen=True, kw_only=True, tag_field="op", tag="get"):
    """Ask for everything."""


class WayView(Value, frozen=True, kw_only=True):
    """One direction; `delivered_bytes_total` counts payload that left the link."""

    state: WayState
    delivered_bytes_total: int
    held_bytes: int
    held_bytes_max: int


class LinkView(Value, frozen=True, kw_only=True):
    """One link as it is now; `rtt_ms` and `mbit_s` are without the slow factor."""

    rtt_ms: float
    mbit_s: float
    slow_factor: float
    refusing: bool
    connections: int
    connections_total: int
    refused_total: int
    a_to_b: WayView
    b_to_a: WayView


class RelayView(Value, frozen=True, kw_only=True):
    """One relay with the port it really listens on."""

    id: str
    link: str
    listen_host: str
    listen_port: int
    target: str
    forward: Way


class LinksState(Value, frozen=True, kw_only=True):
    """The answer to every control request that succeeded."""

    links: dict[str, LinkView]
    relays: tuple[RelayView, ...]


class ControlError(Value, frozen=True, kw_only=True):
    """The answer to a control request that did not succeed."""

    where: str
    got: str
    allowed: str | None
    fix: str | None


class ControlReply(Value, frozen=True, kw_only=True):
    """Exactly one of the two is set."""

    state: LinksState | None = None
    error: ControlError | None = None


Request = SetLink | Fault | GetState


class LinkControl:
    """A client of one emulator; every call is one short connection, so it outlives a restart.

    From a coroutine, call it through ``asyncio.to_thread``.
    """

    def __init__(self, control_path: str | Path) -> None:
        self.control_path = str(control_path)

    def get(self) -> LinksState:
        """All links and relays with their counters."""
        return self._ask(GetState())

    def set(
        self,
        link: str,
        *,
        rtt_ms: float | None = None,
        mbit_s: float | None = None,
        a_to_b: WayState | None = None,
        b_to_a: WayState | None = None,
        slow_factor: float | None = None,
        refusing: bool | None = None,
    ) -> LinksState:
        """Change what is given of one link."""
        return self._ask(
            SetLink(
                link=link,
                rtt_ms=rtt_ms,
                mbit_s=mbit_s,
                a_to_b=a_to_b,
                b_to_a=b_to_a,
                slow_factor=slow_factor,
                refusing=refusing,
            )
        )

    def fault(self, link: str, kind: FaultKind, *, slow_factor: float = SLOW_FACTOR) -> LinksState:
        """Inject a named fault, or end all faults of the link with ``heal``."""
        return self._ask(Fault(link=link, kind=kind, slow_factor=slow_factor))

    def cut(self, link: str) -> LinksState:
        """Make both directions a black hole."""
        return self.fault(link, "cut")

    def heal(self, link: str) -> LinksState:
        """Both directions open, not slow, not refusing; a changed `rtt_ms` or `mbit_s` stays."""
        return self.fault(link, "heal")

    def links_of(self, site: str) -> tuple[str, ...]:
        """Ids ``a~b`` of the links that end at `site`."""
        return tuple(link for link in self.get().links if site in link.split("~"))

    def _ask(self, request: Request) -> LinksState:
        line = msgspec.json.encode(request) + b"\n"
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
                sock.settimeout(CONTROL_TIMEOUT_S)
                sock.connect(self.control_path)
                sock.sendall(line)
                with sock.makefile("rb") as answers:
                    answer = answers.readline(CONTROL_LINE_BYTES_MAX)
            reply = msgspec.json.decode(answer, type=ControlReply)
        except (*UNREADABLE, OSError) as error:
            raise SiteError(
                self.control_path,
                got=f"no answer from the link emulator ({error})",
                fix="start it: python -m hanse.live.links CONFIG.json",
            ) from error
        if reply.error is not None:
            wrong = reply.error
            raise ConfigError(wrong.where, got=wrong.got, allowed=wrong.allowed, fix=wrong.fix)
        assert reply.state is not None
        return reply.state


def links_shown(sock: Path) -> tuple[LinkStatus, ...]:
    """All emulated links for people's eyes; none where nothing emulates them.

    Raises:
        HanseError: the emulator does not answer.
    """
    if not sock.exists():
        return ()
    links = LinkControl(sock).get().links
    return tuple(_shown(name, one) for name, one in links.items())


def _shown(name: str, link: LinkView) -> LinkStatus:
    a, _, b = name.partition("~")
    return LinkStatus(
        a=a,
        b=b,
        rtt_ms=link.rtt_ms * link.slow_factor,
        mbit_s=link.mbit_s / link.slow_factor,
        a_to_b=link.a_to_b.state,
        b_to_a=link.b_to_a.state,
        bytes_a_to_b=link.a_to_b.delivered_bytes_total,
        bytes_b_to_a=link.b_to_a.delivered_bytes_total,
    )

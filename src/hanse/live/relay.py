"""TCP connections relayed over emulated links, on the event loop.

Here: ``LanePump`` (a lane with a timer), ``Link`` (two pumps, faults, connections), ``Relay`` and
the protocols of its connections. Not here: the queue itself (``live/lane.py``), configuration and
control (``live/links.py``).

Theory of operation. All relays of a link share its two lanes. A handshake crosses them as three
empty chunks (SYN, SYN-ACK, ACK), end of file and reset as one more each, so that delay and faults
hit them as they hit bytes. Until its handshake is over, a socket's bytes wait outside the lane.
"""

import asyncio
import contextlib
import socket
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, cast

import msgspec

from hanse.live.lane import Lane, Payload
from hanse.live.link_control import LinkSpec, LinkView, RelaySpec, SetLink, Way, WayView
from hanse.units import bytes_per_s_from_mbit_s, s_from_ms

EARLY_BYTES_MAX: Final = 65_536  # sent before the handshake is over: a usual first receive window
CONNECTIONS_MAX: Final = 4_096  # two descriptors each; far above five sites with 64 streams each
GIVE_UP_S: Final = 30.0  # a hung-up connect is then forgotten; Linux tries a SYN for about 2 min
TIMER_TICK_S: Final = 0.001  # libuv's; half a tick early counts as due, so errors cancel out


class LanePump:
    """A lane on the event loop: one timer, and the sockets that feed it."""

    def __init__(self, lane: Lane) -> None:
        self.lane = lane
        self.sources: set[End] = set()
        self.is_full = False
        self._timer: asyncio.TimerHandle | None = None

    def send(self, act: Callable[[Payload], None], payload: Payload = b"") -> None:
        """Put `payload` on the lane, and stop the senders when it is full."""
        now_s = time.monotonic()
        self.lane.carry(now_s, act, payload)
        self._arm(now_s)
        self._regulate()

    def changed(self) -> None:
        """The lane's figures or queue changed: start again from them."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._arm(time.monotonic())
        self._regulate()

    def _arm(self, now_s: float) -> None:
        wake_at_s = self.lane.wake_at_s
        if self._timer is None and wake_at_s is not None:
            wait_s = max(0.0, wake_at_s - now_s)
            self._timer = asyncio.get_running_loop().call_later(wait_s, self._fire)

    def _fire(self) -> None:
        self._timer = None
        for chunk in self.lane.take_due(time.monotonic() + TIMER_TICK_S / 2):
            chunk.act(chunk.payload)
        self._arm(time.monotonic())
        self._regulate()

    def _regulate(self) -> None:
        # Half the router's buffer must drain before reading resumes, or every chunk would stop and
        # start all senders; not half of everything held, or the wire would run dry.
        held_bytes, held_bytes_max = self.lane.held_bytes, self.lane.held_bytes_max
        if not self.is_full and held_bytes >= held_bytes_max:
            self.is_full = True
        elif self.is_full and held_bytes <= held_bytes_max - self.lane.queue_bytes_max // 2:
            self.is_full = False
        else:
            return
        for end in self.sources:
            end.regulate()


class End(asyncio.Protocol):
    """One socket of a relayed connection; what it receives goes out on `pump` to `peer`.

    Attributes:
        early: What came before the handshake was over; None from then on.
        is_over: Closed or reset by this program, so that its loss is no news to the peer.
    """

    peer: "End"

    def __init__(self, pair: "Pair", pump: LanePump) -> None:
        self.pair = pair
        self.pump = pump
        self.transport: asyncio.Transport | None = None
        self.early: list[bytes] | None = []
        self.early_bytes = 0
        self.has_read_eof = self.has_sent_eof = False
        self.is_over = self.is_lost = False
        self.is_backed_up = self.is_paused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.pump.sources.add(self)
        if self.is_over:  # reset while the connect was under way
            self.abort()
        self.pair.opened(self)
        self.regulate()

    def data_received(self, data: bytes) -> None:
        if self.early is None:
            self.pump.send(self.peer.take_data, data)
            return
        self.early.append(data)
        self.early_bytes += len(data)
        self.regulate()

    def eof_received(self) -> bool:
        self.has_read_eof = True
        if self.early is None:
            self.pump.send(self.peer.take_eof)
        else:
            asyncio.get_running_loop().call_later(GIVE_UP_S, self.pair.give_up)
        self._close_when_done()
        return True  # half open: the other way may still have bytes to come

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_lost = True
        self.pump.sources.discard(self)
        if self is self.pair.client and self.early is not None:
            self.pair.give_up()
        elif not self.is_over:
            self.pump.send(self.peer.take_reset)
        self.pair.lost()

    def pause_writing(self) -> None:
        self.peer.is_backed_up = True
        self.peer.regulate()

    def resume_writing(self) -> None:
        self.peer.is_backed_up = False
        self.peer.regulate()

    def end_handshake(self) -> None:
        """From now on bytes go straight to the lane; first those that waited."""
        early, self.early = self.early or [], None
        for data in early:
            self.pump.send(self.peer.take_data, data)
        if self.has_read_eof:
            self.pump.send(self.peer.take_eof)
        self.regulate()

    def regulate(self) -> None:
        """Read, or stop reading, as the lane, the peer's socket and the handshake allow."""
        if self.early is None:
            must_pause = self.pump.is_full or self.is_backed_up
        else:
            must_pause = self.early_bytes >= EARLY_BYTES_MAX
        if self.transport is None or self.transport.is_closing() or self.has_read_eof:
            return
        if must_pause == self.is_paused:
            return
        self.is_paused = must_pause
        if must_pause:
            self.transport.pause_reading()
        else:
            self.transport.resume_reading()

    def take_data(self, payload: Payload) -> None:
        """Bytes from the peer have crossed."""
        if self.transport is not None and not self.transport.is_closing():
            self.transport.write(payload)

    def take_eof(self, _mark: Payload = b"") -> None:
        """The peer's end of file has crossed."""
        if self.transport is not None and not self.transport.is_closing():
            self.transport.write_eof()
            self.has_sent_eof = True
            self._close_when_done()

    def take_reset(self, _mark: Payload = b"") -> None:
        """The peer's reset has crossed."""
        self.abort()

    def _close_when_done(self) -> None:
        if self.has_read_eof and self.has_sent_eof and self.transport is not None:
            self.is_over = True
            self.transport.close()

    def abort(self) -> None:
        """Reset this socket: lingering for zero seconds makes the kernel send RST, not FIN."""
        self.is_over = True
        if self.transport is None or self.transport.is_closing():
            return
        with contextlib.suppress(OSError):  # the other side may have reset it first
            sock = self.transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()


class Pair:
    """One relayed connection: the client's socket, the target's, and the handshake between them."""

    def __init__(self, relay: "Relay") -> None:
        self.relay = relay
        self.client = End(self, relay.forward)
        self.upstream = End(self, relay.backward)
        self.client.peer, self.upstream.peer = self.upstream, self.client
        self._connecting: asyncio.Task[None] | None = None

    def opened(self, end: End) -> None:
        """A socket is open; the client's starts the handshake."""
        if end is self.client and self.relay.link.admits(self):
            self.relay.forward.send(self._syn_arrived)

    def _syn_arrived(self, _mark: Payload) -> None:
        if not self.client.is_lost:
            self._connecting = asyncio.get_running_loop().create_task(self._connect())

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        host, port = self.relay.target
        try:
            await loop.create_connection(lambda: self.upstream, host, port)
        except OSError:
            self.relay.backward.send(self.client.take_reset)
        else:
            if self.client.is_lost:  # its reset may have been dropped with the link's chunks
                self.upstream.abort()
            self.relay.backward.send(self._syn_ack_arrived)

    def _syn_ack_arrived(self, _mark: Payload) -> None:
        self.relay.forward.send(self._ack_arrived)
        self.client.end_handshake()

    def _ack_arrived(self, _mark: Payload) -> None:
        self.upstream.end_handshake()

    def give_up(self) -> None:
        """The client left while its handshake was on its way: forget both, also on the lanes."""
        if self.client.early is not None:
            self.abort()
            self.relay.forward.lane.discard(self._syn_arrived)
            self.relay.backward.lane.discard(self._syn_ack_arrived)

    def abort(self) -> None:
        """Reset both sockets."""
        if self._connecting is not None:
            self._connecting.cancel()
        self.client.abort()
        self.upstream.abort()

    def lost(self) -> None:
        """A socket is gone; with the last one the link forgets the connection."""
        if self.client.is_lost and (self.upstream.transport is None or self.upstream.is_lost):
            self.relay.link.pairs.discard(self)


class Link:
    """A link's figures, its two pumps and its connections."""

    def __init__(self, spec: LinkSpec, pairs_total: Callable[[], int]) -> None:
        self.now = SetLink(
            link="",
            rtt_ms=spec.rtt_ms,
            mbit_s=spec.mbit_s,
            a_to_b="open",
            b_to_a="open",
            slow_factor=1.0,
            refusing=False,
        )
        delay_s, rate = s_from_ms(spec.rtt_ms) / 2, bytes_per_s_from_mbit_s(spec.mbit_s)
        self.pumps: dict[Way, LanePump] = {
            "a_to_b": LanePump(Lane(delay_s=delay_s, bytes_per_s=rate)),
            "b_to_a": LanePump(Lane(delay_s=delay_s, bytes_per_s=rate)),
        }
        self.pairs: set[Pair] = set()
        self.connections_total = self.refused_total = 0
        self._pairs_total = pairs_total

    def admits(self, pair: Pair) -> bool:
        """Count the connection in, or reset it while the link refuses or the process is full."""
        if self.now.refusing or self._pairs_total() >= CONNECTIONS_MAX:
            self.refused_total += 1
            pair.abort()
            return False
        self.connections_total += 1
        self.pairs.add(pair)
        return True

    def apply(self, wanted: SetLink) -> None:
        """Change what is given, also for what is already on its way."""
        given = {k: v for k, v in msgspec.structs.asdict(wanted).items() if v is not None}
        now = self.now = msgspec.structs.replace(self.now, **given)
        assert now.rtt_ms is not None
        assert now.mbit_s is not None
        assert now.slow_factor is not None
        if now.refusing:
            for pair in list(self.pairs):
                pair.abort()
        for way, pump in self.pumps.items():
            if now.refusing:
                pump.lane.drop_all()
            pump.lane.change(
                time.monotonic(),
                delay_s=s_from_ms(now.rtt_ms) / 2 * now.slow_factor,
                bytes_per_s=bytes_per_s_from_mbit_s(now.mbit_s) / now.slow_factor,
                is_cut=getattr(now, way) == "cut",
            )
            pump.changed()

    def view(self) -> LinkView:
        """Figures, faults and counters."""
        now = msgspec.structs.asdict(self.now)
        ways = {
            way: WayView(
                state=now[way],
                delivered_bytes_total=pump.lane.delivered_bytes_total,
                held_bytes=pump.lane.held_bytes,
                held_bytes_max=pump.lane.held_bytes_max,
            )
            for way, pump in self.pumps.items()
        }
        return LinkView(
            **{k: now[k] for k in ("rtt_ms", "mbit_s", "slow_factor", "refusing")},
            a_to_b=ways["a_to_b"],
            b_to_a=ways["b_to_a"],
            connections=len(self.pairs),
            connections_total=self.connections_total,
            refused_total=self.refused_total,
        )


@dataclass(slots=True)
class Relay:
    """One listener, and the pumps its connections cross."""

    spec: RelaySpec
    target: tuple[str, int]
    link: Link
    forward: LanePump
    backward: LanePump
    server: asyncio.Server | None = None

    @property
    def listen_port(self) -> int:
        """The port it is bound to, or asked for while it is not."""
        sockets = self.server.sockets if self.server is not None else ()
        return int(sockets[0].getsockname()[1]) if sockets else self.spec.listen_port

"""The relay emulator over real sockets: delay, rate, faults, limits."""

import asyncio
import contextlib
import os
import socket
import struct
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import msgspec
import pytest
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st

from effort import effort
from hanse.live import relay as relay_module
from hanse.live.link_control import Fault, LinkView
from hanse.live.links import (
    LinkEmulator,
    LinksConfig,
    LinkSpec,
    RelaySpec,
)

LINK = "north~south"
TICK_S = 0.001  # a crossing may come half a tick early; a round trip has two
WAIT_S = 10.0  # an upper bound on a loaded machine, never a measured figure

Scenario = Callable[["World"], Awaitable[None]]


class World:
    """An emulator with one link, two relays, and an echoing target in the same loop."""

    def __init__(self, emulator: LinkEmulator, target: asyncio.Server) -> None:
        self.emulator = emulator
        self.target = target
        self.accepted: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    @property
    def port(self) -> int:
        return self.emulator.relays[0].listen_port

    @property
    def port_back(self) -> int:
        return self.emulator.relays[1].listen_port

    def fault(self, kind: str, **more: float) -> None:
        self.emulator.handle(
            msgspec.convert({"op": "fault", "link": LINK, "kind": kind} | more, Fault)
        )

    def link(self) -> LinkView:
        return self.emulator.state().links[LINK]

    def way(self, way: str) -> relay_module.LanePump:
        return self.emulator.links[LINK].pumps[way]  # type: ignore[index]


@contextlib.asynccontextmanager
async def a_world(*, rtt_ms: float, mbit_s: float, echo: bool = True) -> AsyncIterator[World]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        world.accepted.append((reader, writer))
        if not echo:
            return
        with contextlib.suppress(OSError):
            while data := await reader.read(65_536):
                writer.write(data)
                await writer.drain()
        writer.close()

    target = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = target.sockets[0].getsockname()[1]
    directory = tempfile.TemporaryDirectory()
    config = LinksConfig(
        control_path=f"{directory.name}/links.sock",
        links={LINK: LinkSpec(rtt_ms=rtt_ms, mbit_s=mbit_s)},
        relays=(
            RelaySpec(link=LINK, listen_port=0, target=f"127.0.0.1:{port}", forward="a_to_b"),
            RelaySpec(link=LINK, listen_port=0, target=f"127.0.0.1:{port}", forward="b_to_a"),
        ),
    )
    emulator = LinkEmulator(config)
    world = World(emulator, target)
    await emulator.start()
    try:
        yield world
    finally:
        await emulator.close()
        target.close()
        for _reader, writer in world.accepted:
            writer.close()
        directory.cleanup()


def live(**settings_: float | bool) -> Callable[[Scenario], Callable[[], None]]:
    """Run an async scenario against a fresh world on uvloop."""

    def decorate(scenario: Scenario) -> Callable[[], None]:
        def test() -> None:
            async def body() -> None:
                async with a_world(**settings_) as world:  # type: ignore[arg-type]
                    await asyncio.wait_for(scenario(world), 4 * WAIT_S)

            uvloop.run(body())

        test.__name__ = scenario.__name__
        test.__doc__ = scenario.__doc__
        return test

    return decorate


async def ask(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, data: bytes = b"ping"
) -> float:
    began = time.monotonic()
    writer.write(data)
    assert await asyncio.wait_for(reader.readexactly(len(data)), WAIT_S) == data
    return time.monotonic() - began


async def nothing_within(reader: asyncio.StreamReader, wait_s: float) -> bool:
    try:
        await asyncio.wait_for(reader.read(1), wait_s)
    except TimeoutError:
        return True
    return False


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not condition():
            await asyncio.sleep(0.005)


# --- over real sockets


@pytest.mark.parametrize("rtt_ms", [10.0, 60.0])
def test_relay_answers_after_one_round_trip(rtt_ms: float) -> None:
    @live(rtt_ms=rtt_ms, mbit_s=1_000.0)
    async def scenario(world: World) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", world.port)
        await ask(reader, writer)
        best_s = min([await ask(reader, writer) for _ in range(5)])
        writer.close()
        assert best_s >= rtt_ms / 1e3 - TICK_S
        assert best_s < 2 * rtt_ms / 1e3

    scenario()


@live(rtt_ms=60.0, mbit_s=1_000.0)
async def test_first_answer_of_a_new_connection_costs_two_round_trips(world: World) -> None:
    took_s = []
    for _ in range(3):
        began = time.monotonic()
        reader, writer = await asyncio.open_connection("127.0.0.1", world.port)
        await ask(reader, writer)
        took_s.append(time.monotonic() - began)
        writer.close()
    assert min(took_s) >= 0.120 - 2 * TICK_S
    assert min(took_s) < 0.180


def test_a_target_that_speaks_first_is_heard_after_two_round_trips() -> None:
    async def body() -> None:
        async with a_world(rtt_ms=60.0, mbit_s=1_000.0, echo=False) as world:
            began = time.monotonic()
            reader, writer = await asyncio.open_connection("127.0.0.1", world.port)
            await until(lambda: bool(world.accepted))
            world.accepted[0][1].write(b"INFO")
            assert await asyncio.wait_for(reader.readexactly(4), WAIT_S) == b"INFO"
            assert time.monotonic() - began >= 0.120 - 2 * TICK_S
            writer.close()

    uvloop.run(body())


@live(rtt_ms=2.0, mbit_s=8.0)
async def test_rate_is_shared_by_the_relays_of_one_direction(world: World) -> None:
    async def push(port: int, size: int) -> tuple[float, float]:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        began = time.monotonic()
        writer.write(bytes(size))
        await asyncio.wait_for(reader.readexactly(size), WAIT_S)
        writer.close()
        return began, time.monotonic()

    spans = await asyncio.gather(push(world.port, 200_000), push(world.port, 200_000))
    alone = await push(world.port, 200_000)
    both_s = max(end for _, end in spans) - min(began for began, _ in spans)
    assert both_s >= 400_000 / 1e6  # 8 Mbit/s are 1e6 bytes a second
    assert alone[1] - alone[0] >= 200_000 / 1e6
    assert alone[1] - alone[0] < both_s


@live(rtt_ms=20.0, mbit_s=100.0)
async def test_cut_holds_bytes_and_heal_delivers_them_in_order(world: World) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", world.port)
    await ask(reader, writer)
    world.fault("cut")
    sent = b"".join(bytes([n]) * 700 for n in range(100))
    for start in range(0, len(sent), 7_000):
        writer.write(sent[start : start + 7_000])
    assert await nothing_within(reader, 0.15)
    assert world.way("a_to_b").lane.held_bytes == len(sent)
    healed_at_s = time.monotonic()
    world.fault("heal")
    assert await asyncio.wait_for(reader.readexactly(len(sent)), WAIT_S) == sent
    assert time.monotonic() - healed_at_s >= 0.020 - TICK_S
    writer.close()


@live(rtt_ms=10.0, mbit_s=100.0)
async def test_connect_during_a_cut_succeeds_at_once_and_answers_after_heal(world: World) -> None:
    world.fault("cut")
    reader, writer = await asyncio.open_connection("127.0.0.1", world.port)
    writer.write(b"hello")
    assert await nothing_within(reader, 0.1)
    assert world.accepted == []
    world.fault("heal")
    assert await asyncio.wait_for(reader.readexactly(5), WAIT_S) == b"hello"
    writer.close()


def test_one_way_cut_passes_the_other_way() -> None:
    async def body() -> None:
        async with a_world(rtt_ms=10.0, mbit_s=100.0, echo=False) as world:
            reader, writer = await asyncio.open_connection("127.0.0.1", world.port)
            writer.write(b"up")
            await until(lambda: bool(world.accepted))
            far_reader, far_writer = world.accepted[0]
            assert await asyncio.wait_for(far_reader.readexactly(2), WAIT_S) == b"up"
            world.fault("cut_forward")
            writer.write(b"lost")
            far_writer.write(b"down")
            assert await asyncio.wait_for(reader.readexactly(4), WAIT_S) == b"down"
            assert await nothing_within(far_reader, 0.1)
            world.fault("heal")
            assert await asyncio.wait_for(far_reader.readexactly(4), WAIT_S) == b"lost"
            world.fault("cut_backward")
            far_writer.write(b"held")
            writer.write(b"seen")
            assert await asyncio.wait_for(far_reader.readexactly(4), WAIT_S) == b"seen"
            assert await nothing_within(reader, 0.1)
            writer.close()

    uvloop.run(body())


@live(rtt_ms=10.0, mbit_s=100.0)
async def test_both_directions_of_relays_share_a_links_lanes(world: World) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", world.port_back)
    await ask(reader, writer, b"12345678")
    state = world.link()
    assert state.b_to_a.delivered_bytes_total == 8
    assert state.a_to_b.delivered_bytes_total == 8
    world.fault("cut_forward")
    writer.write(b"x")
    far_reader, _ = world.accepted[0]
    await until(lambda: world.way("b_to_a").lane.delivered_bytes_total == 9)
    assert await nothing_within(reader, 0.1)
    writer.close()
    assert far_reader is not None


@pytest.mark.parametrize("stalled", ["cut", "slow reader"])
def test_back_pressure_bounds_what_is_held(stalled: str) -> None:
    """A sender that never stops is stopped by its own socket, far below what it wants to send."""
    wanted_bytes = 64_000_000

    async def body() -> None:
        async with a_world(rtt_ms=4.0, mbit_s=1_000.0, echo=False) as world:
            sock = socket.create_connection(("127.0.0.1", world.port))
            sock.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_sendall(sock, b"first")
            await until(lambda: bool(world.accepted))
            world.accepted[0][0]._transport.pause_reading()  # type: ignore[attr-defined]
            if stalled == "cut":
                world.fault("cut")
            sent_bytes, quiet_turns = 0, 0
            block = memoryview(bytes(65_536))
            while sent_bytes < wanted_bytes and quiet_turns < 40:
                try:
                    sent_bytes += sock.send(block)
                    quiet_turns = 0
                except BlockingIOError:
                    quiet_turns += 1
                    await asyncio.sleep(0.01)
            lane = world.way("a_to_b").lane
            upstream = next(iter(world.emulator.links[LINK].pairs)).upstream.transport
            assert upstream is not None
            # uvloop reads at most 256 KiB at once, and that may come on top of the limit.
            assert lane.held_bytes <= lane.held_bytes_max + 262_144
            assert upstream.get_write_buffer_size() <= lane.held_bytes_max + 2 * 262_144
            assert sent_bytes < wanted_bytes
            sock.close()

    uvloop.run(body())


@live(rtt_ms=10.0, mbit_s=1_000.0)
async def test_a_full_lane_flows_again_after_heal(world: World) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", world.port)
    await ask(reader, writer)
    world.fault("cut_forward")
    data = os.urandom(8_000_000)
    writer.write(data)
    await until(lambda: world.way("a_to_b").is_full)
    world.fault("heal")
    assert await asyncio.wait_for(reader.readexactly(len(data)), WAIT_S) == data
    writer.close()


@live(rtt_ms=10.0, mbit_s=100.0)
async def test_reset_resets_open_and_new_connections_until_heal(world: World) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", world.port)
    await ask(reader, writer)
    far_reader, _ = world.accepted[0]
    world.fault("reset")
    with pytest.raises(ConnectionResetError):
        await asyncio.wait_for(reader.read(1), WAIT_S)
    await until(lambda: far_reader.exception() is not None or far_reader.at_eof())
    fresh_reader, fresh_writer = await asyncio.open_connection("127.0.0.1", world.port)
    with pytest.raises(ConnectionResetError):
        await asyncio.wait_for(fresh_reader.read(1), WAIT_S)
    assert world.link().refused_total == 1
    world.fault("heal")
    again_reader, again_writer = await asyncio.open_connection("127.0.0.1", world.port)
    await ask(again_reader, again_writer)
    for each in (writer, fresh_writer, again_writer):
        each.close()


@live(rtt_ms=10.0, mbit_s=100.0)
async def test_slow_multiplies_the_round_trip_and_heal_restores_it(world: World) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", world.port)
    await ask(reader, writer)
    world.fault("slow", slow_factor=10.0)
    slow_s = await ask(reader, writer)
    assert slow_s >= 0.100 - TICK_S
    world.fault("heal")
    assert min([await ask(reader, writer) for _ in range(3)]) < slow_s / 2
    writer.close()


@live(rtt_ms=10.0, mbit_s=100.0)
async def test_end_of_file_crosses_and_leaves_no_connection_behind(world: World) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", world.port)
    writer.write(b"last words")
    writer.write_eof()
    assert await asyncio.wait_for(reader.read(-1), WAIT_S) == b"last words"
    writer.close()
    await until(lambda: world.link().connections == 0)


def test_a_client_that_goes_away_is_noticed_by_the_target_after_half_a_round_trip() -> None:
    async def body() -> None:
        async with a_world(rtt_ms=40.0, mbit_s=100.0, echo=False) as world:
            _reader, writer = await asyncio.open_connection("127.0.0.1", world.port)
            writer.write(b"x")
            await until(lambda: bool(world.accepted))
            far_reader, _ = world.accepted[0]
            await asyncio.wait_for(far_reader.readexactly(1), WAIT_S)
            began = time.monotonic()
            writer.close()
            assert await asyncio.wait_for(far_reader.read(1), WAIT_S) == b""
            assert time.monotonic() - began >= 0.020 - TICK_S

    uvloop.run(body())


@live(rtt_ms=10.0, mbit_s=100.0)
async def test_a_dead_target_resets_the_client_after_a_round_trip(world: World) -> None:
    world.target.close()
    await world.target.wait_closed()
    began = time.monotonic()
    reader, writer = await asyncio.open_connection("127.0.0.1", world.port)
    with pytest.raises(ConnectionResetError):
        await asyncio.wait_for(reader.read(1), WAIT_S)
    assert time.monotonic() - began >= 0.010 - TICK_S
    await until(lambda: world.link().connections == 0)
    writer.close()


@pytest.mark.parametrize("kind", ["cut", "cut_forward", "cut_backward"])
@pytest.mark.parametrize("leaves_by", ["close", "reset"])
def test_connects_given_up_during_a_cut_leave_nothing_behind(
    monkeypatch: pytest.MonkeyPatch, kind: str, leaves_by: str
) -> None:
    monkeypatch.setattr(relay_module, "GIVE_UP_S", 0.05)

    @live(rtt_ms=10.0, mbit_s=100.0)
    async def scenario(world: World) -> None:
        world.fault(kind)
        for number in range(1, 6):
            sock = socket.create_connection(("127.0.0.1", world.port))
            sock.sendall(b"probe")
            await until(lambda n=number: world.link().connections_total == n)
            if leaves_by == "reset":
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            sock.close()
        await until(lambda: world.link().connections == 0)
        await until(lambda: world.way("a_to_b").lane.held_count == 0)
        await until(lambda: world.way("b_to_a").lane.held_count == 0)
        accepted_before_count = len(world.accepted)
        world.fault("heal")
        reader, writer = await asyncio.open_connection("127.0.0.1", world.port)
        await ask(reader, writer)
        assert len(world.accepted) == accepted_before_count + 1
        writer.close()

    scenario()


def test_connections_above_the_limit_are_reset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay_module, "CONNECTIONS_MAX", 2)

    @live(rtt_ms=2.0, mbit_s=100.0)
    async def scenario(world: World) -> None:
        opened = [await asyncio.open_connection("127.0.0.1", world.port) for _ in range(2)]
        for reader, writer in opened:
            await ask(reader, writer)
        reader, writer = await asyncio.open_connection("127.0.0.1", world.port)
        with pytest.raises(ConnectionResetError):
            await asyncio.wait_for(reader.read(1), WAIT_S)
        for _reader, each in [*opened, (reader, writer)]:
            each.close()

    scenario()


STREAM_OPS = st.lists(
    st.sampled_from(["send", "cut", "cut_forward", "cut_backward", "heal", "slow", "turn"]),
    max_size=12,
)


@given(ops=STREAM_OPS, seed=st.integers(0, 255))
@settings(max_examples=effort(25), deadline=None)
def test_a_stream_survives_any_faults_byte_for_byte(ops: list[str], seed: int) -> None:
    async def body() -> None:
        async with a_world(rtt_ms=2.0, mbit_s=1_000.0) as world:
            reader, writer = await asyncio.open_connection("127.0.0.1", world.port)
            sent = bytearray()
            for number, op in enumerate(ops):
                if op == "send":
                    data = bytes([(seed + number) % 256]) * (1 + 9_973 * number)
                    sent += data
                    writer.write(data)
                elif op == "turn":
                    await asyncio.sleep(0.002)
                else:
                    world.fault(op)
                assert bytes(sent).startswith(bytes(reader._buffer))  # type: ignore[attr-defined]
            world.fault("heal")
            writer.write_eof()
            assert await asyncio.wait_for(reader.read(-1), WAIT_S) == bytes(sent)
            writer.close()

    uvloop.run(body())

"""The TUN emulator: the pure wire, and with root real TCP between namespaces."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hanse.errors import ConfigError
from hanse.live.tun import TunLink, TunWan, Wire, ports_of, why_not

TICK_S = 0.001  # a crossing may come half a tick early; a round trip has two
WAIT_S = 10.0  # an upper bound on a loaded machine, never a measured figure

ECHO = """
import socket, sys
server = socket.create_server(("0.0.0.0", 7000))
print("ready", flush=True)
while True:
    connection, _ = server.accept()
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    while data := connection.recv(65536):
        connection.sendall(data)
"""

# Prints connect time and the best of ten request-answer times, in seconds.
PING = """
import socket, sys, time
began = time.monotonic()
connection = socket.create_connection((sys.argv[1], 7000), timeout=10)
print(time.monotonic() - began)
times = []
for _ in range(10):
    began = time.monotonic()
    connection.sendall(b"ping")
    connection.recv(4)
    times.append(time.monotonic() - began)
print(min(times))
"""

# Prints how long the given number of bytes took there and back.
PUSH = """
import socket, sys, threading, time
connection = socket.create_connection((sys.argv[1], 7000), timeout=10)
size = int(sys.argv[2])
began = time.monotonic()
threading.Thread(target=connection.sendall, args=(bytes(size),)).start()
got = 0
while got < size:
    got += len(connection.recv(65536))
print(time.monotonic() - began)
"""

# Prints one received UDP payload a line.
UDP_EAR = """
import socket
ear = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
ear.bind(("0.0.0.0", 7001))
print("ready", flush=True)
while True:
    print(ear.recv(100).decode(), flush=True)
"""

UDP_SAY = """
import socket, sys
socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(sys.argv[2].encode(), (sys.argv[1], 7001))
"""

# Says "connected", and then echoes each line of its input through the echo server.
TALK = """
import socket, sys
connection = socket.create_connection((sys.argv[1], 7000), timeout=30)
print("connected", flush=True)
for line in sys.stdin:
    connection.sendall(line.encode())
    print(connection.recv(100).decode(), end="", flush=True)
"""


@pytest.fixture(scope="module")
def wan() -> Iterator[TunWan]:
    """Three sites, 20 ms one way, 50 Mbit/s; tests change links and put them back."""
    if (reason := why_not()) is not None:
        pytest.skip(reason)
    with TunWan(("north", "south", "west"), TunLink(delay_ms=20.0, mbit_s=50.0)) as wan:
        serve(wan, "south", ECHO)
        yield wan


def serve(wan: TunWan, site: str, code: str) -> "subprocess.Popen[str]":
    process = wan[site].popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    return process


def output(wan: TunWan, site: str, code: str, *arguments: str) -> list[float]:
    command = [sys.executable, "-c", code, *arguments]
    done = wan[site].run(command, capture_output=True, text=True, timeout=4 * WAIT_S)
    return [float(line) for line in done.stdout.split()]


def namespaces() -> str:
    return subprocess.run(["ip", "netns"], capture_output=True, text=True, check=True).stdout


# --- the pure wire


@given(
    packets=st.lists(st.tuples(st.integers(0, 20), st.integers(20, 1_500)), max_size=60),
    delay_ms=st.floats(0, 100),
    jitter_ms=st.floats(0, 50),
    mbit_s=st.sampled_from([0.5, 10.0, 1_000.0]),
    loss=st.sampled_from([0.0, 0.3]),
    seed=st.integers(0, 1_000),
)
def test_wire_keeps_order_delay_rate_and_counts_every_packet_once(
    packets: list[tuple[int, int]],
    delay_ms: float,
    jitter_ms: float,
    mbit_s: float,
    loss: float,
    seed: int,
) -> None:
    link = TunLink(delay_ms=delay_ms, jitter_ms=jitter_ms, mbit_s=mbit_s, loss=loss)
    wire = Wire(link, random.Random(seed))
    now_s, last_s, carried_bytes = 0.0, 0.0, 0
    for gap_ms, size in packets:
        now_s += gap_ms / 1e3
        due_at_s = wire.admit(now_s, size)
        if due_at_s is None:
            continue
        carried_bytes += size
        assert due_at_s >= last_s
        assert due_at_s >= now_s + delay_ms / 1e3 + size / (mbit_s * 125_000) - 1e-9
        assert due_at_s - now_s <= 0.1 + (delay_ms + jitter_ms) / 1e3 + 1_500 * 61 / 62_500
        last_s = due_at_s
    if carried_bytes:
        assert last_s >= carried_bytes / (mbit_s * 125_000) + delay_ms / 1e3 - 1e-9
    assert wire.bytes_total == carried_bytes
    dropped = wire.lost_total + wire.overflowed_total + wire.cut_total
    assert wire.packets_total + dropped == len(packets)


@given(
    st.integers(0, 65_535),
    st.integers(0, 65_535),
    st.integers(5, 15),
    st.sampled_from([1, 6, 17]),
    st.integers(0, 120),
)
def test_ports_are_found_behind_any_header_and_of_tcp_alone(
    source: int, target: int, words: int, protocol: int, cut_to: int
) -> None:
    head = bytearray(4 * words)
    head[0], head[9] = 4 << 4 | words, protocol
    packet = bytes(head) + source.to_bytes(2, "big") + target.to_bytes(2, "big") + bytes(16)
    assert ports_of(packet) == ({source, target} if protocol == 6 else set())
    whole = cut_to >= 4 * words + 4
    assert ports_of(packet[:cut_to]) == (ports_of(packet) if whole else set())


def test_wire_drops_the_newest_packet_when_its_queue_is_full() -> None:
    wire = Wire(TunLink(mbit_s=1.0, queue_ms_max=100.0), random.Random(0))
    admitted = [wire.admit(0.0, 1_250) is not None for _ in range(30)]  # 10 ms each
    assert admitted == [True] * 11 + [False] * 19
    assert wire.overflowed_total == 19


def test_wire_loses_about_the_asked_share_and_the_same_packets_again() -> None:
    def run() -> list[bool]:
        wire = Wire(TunLink(loss=0.1), random.Random(7))
        return [wire.admit(number, 100) is None for number in range(5_000)]

    lost = run()
    assert 0.08 < sum(lost) / len(lost) < 0.12  # five standard deviations are 0.021
    assert lost == run()


def test_cut_wire_passes_nothing() -> None:
    wire = Wire(TunLink(is_cut=True), random.Random(0))
    assert wire.admit(0.0, 100) is None
    assert wire.cut_total == 1


def test_same_site_twice_is_refused() -> None:
    with pytest.raises(ConfigError, match="distinct names"):
        TunWan(("north", "north"), TunLink())


def test_without_root_the_reason_and_the_way_out_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1_000)
    with pytest.raises(ConfigError, match=r"needs root.*hanse\.live\.links"):
        TunWan(("north",), TunLink()).__enter__()


# --- with root


@pytest.mark.root
def test_connect_and_request_take_one_round_trip_each(wan: TunWan) -> None:
    connect_s, request_s = output(wan, "north", PING, wan["south"].address)
    assert connect_s >= 0.040 - TICK_S
    assert 0.040 - TICK_S <= request_s < 0.080


@pytest.mark.root
def test_rate_bounds_a_transfer_from_below(wan: TunWan) -> None:
    (took_s,) = output(wan, "north", PUSH, wan["south"].address, "2000000")
    assert took_s >= 2_000_000 / 6.25e6


@pytest.mark.root
def test_loss_is_repaired_by_the_kernels_tcp(wan: TunWan) -> None:
    wan.set_link("north", "south", loss=0.02)
    try:
        output(wan, "north", PUSH, wan["south"].address, "1000000")
    finally:
        wan.set_link("north", "south", loss=0.0)
    assert wan.counters()["north", "south"].lost_total > 0


@pytest.mark.root
def test_cut_stops_a_connection_and_heal_lets_it_go_on(wan: TunWan) -> None:
    command = [sys.executable, "-c", TALK, wan["south"].address]
    talk = wan["west"].popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    )
    try:
        assert talk.stdout.readline() == "connected\n"
        talk.stdin.write("before\n")
        assert talk.stdout.readline() == "before\n"
        wan.cut("west", "south")
        dropped = wan.counters()["west", "south"].cut_total
        delivered = wan.counters()["south", "west"].packets_total
        talk.stdin.write("during\n")
        deadline_s = time.monotonic() + WAIT_S
        while wan.counters()["west", "south"].cut_total < dropped + 3:  # a packet, two repeats
            assert time.monotonic() < deadline_s
            time.sleep(0.01)
        assert wan.counters()["south", "west"].packets_total == delivered
        wan.heal("west", "south")
        assert talk.stdout.readline() == "during\n"
    finally:
        wan.heal("west", "south")
        wan["west"].kill_all()


@pytest.mark.root
def test_one_way_cut_passes_packets_the_other_way(wan: TunWan) -> None:
    ear_west, ear_north = serve(wan, "west", UDP_EAR), serve(wan, "north", UDP_EAR)
    try:
        wan.cut_one_way("west", "north")
        output(wan, "west", UDP_SAY, wan["north"].address, "lost")
        output(wan, "north", UDP_SAY, wan["west"].address, "arrived")
        assert ear_west.stdout.readline() == "arrived\n"
        assert wan.counters()["west", "north"].cut_total == 1
        wan.heal("west", "north")
        output(wan, "west", UDP_SAY, wan["north"].address, "after")
        assert ear_north.stdout.readline() == "after\n"  # and so "lost" never came
    finally:
        wan.heal("west", "north")
        wan["west"].kill_all()
        wan["north"].kill_all()


@pytest.mark.root
def test_nothing_is_left_after_close_and_closing_twice_is_fine() -> None:
    if (reason := why_not()) is not None:
        pytest.skip(reason)
    with TunWan(("a", "b"), TunLink()) as wan:
        process = wan["a"].popen(["sleep", "1000"])
        names = [space.name for space in wan.spaces.values()]
        assert all(name in namespaces() for name in names)
    assert process.returncode == -signal.SIGKILL
    assert not any(name in namespaces() for name in names)
    wan.close()


@pytest.mark.root
def test_a_killed_owner_leaves_no_namespace_and_no_process(tmp_path: Path) -> None:
    if (reason := why_not()) is not None:
        pytest.skip(reason)
    code = """
import time
from hanse.live.tun import TunLink, TunWan
with TunWan(("a", "b"), TunLink()) as wan:
    process = wan["a"].popen(["sleep", "1000"])
    print(wan["a"].name, wan["b"].name, process.pid, wan._process.pid, flush=True)
    time.sleep(1000)
"""
    owner = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    first, second, inner, emulator = owner.stdout.readline().split()
    owner.kill()
    owner.wait()
    owner.stdout.close()
    deadline_s = time.monotonic() + WAIT_S
    while left := _left((first, second), {"sleep": inner, "emulator": emulator}):
        assert time.monotonic() < deadline_s, left
        time.sleep(0.01)


@pytest.mark.root
def test_a_started_process_is_inside_its_namespace() -> None:
    """Else the namespace's removal would not find it, and it would outlive its owner."""
    if (reason := why_not()) is not None:
        pytest.skip(reason)
    with TunWan(("a", "b"), TunLink()) as wan:
        process = wan["a"].popen(["sleep", "1000"])
        assert os.readlink(f"/proc/{process.pid}/ns/net") != os.readlink("/proc/self/ns/net")
        gone = wan["b"].popen(["no-such-command"], stderr=subprocess.PIPE)
        assert gone.wait(WAIT_S) != 0


def _left(names: tuple[str, ...], pids: dict[str, str]) -> list[str]:
    left = namespaces().split()
    return [name for name in names if name in left] + [
        f"{what} {stat}" for what, pid in pids.items() if (stat := _running(pid)) is not None
    ]


def _running(pid: str) -> str | None:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if stat.rpartition(")")[2].split()[0] == "Z" else stat

"""The emulator as a process: ready line, control socket, refusals of wrong configurations."""

import contextlib
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import uvloop

from hanse.errors import ConfigError, SiteError
from hanse.live.link_control import SetLink
from hanse.live.links import (
    LinkControl,
    LinkEmulator,
    LinksConfig,
    LinkSpec,
    main,
)

LINK = "north~south"
WAIT_S = 10.0  # an upper bound on a loaded machine, never a measured figure


def write_config(directory: Path, **changes: object) -> Path:
    config = {
        "control_path": str(directory / "links.sock"),
        "pid_path": str(directory / "pid" / "links.pid"),
        "links": {LINK: {"rtt_ms": 10, "mbit_s": 100}},
        "relays": [{"link": LINK, "listen_port": 0, "target": "127.0.0.1:9", "forward": "a_to_b"}],
    } | changes
    path = directory / "links.json"
    path.write_bytes(msgspec.json.encode(config))
    return path


@contextlib.contextmanager
def a_process(config: Path) -> "Iterator[subprocess.Popen[str]]":
    process = subprocess.Popen(
        [sys.executable, "-m", "hanse.live.links", str(config)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n", process.communicate()[1]
        yield process
    finally:
        process.kill()
        process.communicate()


def test_process_says_ready_obeys_control_and_ends_on_sigterm(tmp_path: Path) -> None:
    with a_process(write_config(tmp_path)) as process:
        control = LinkControl(tmp_path / "links.sock")
        assert (tmp_path / "pid" / "links.pid").read_text() == f"{process.pid}\n"
        assert (tmp_path / "links.sock").stat().st_mode & 0o077 == 0
        assert control.get().relays[0].listen_port > 0
        assert control.links_of("north") == (LINK,)
        assert control.links_of("nort") == ()
        link = control.set(LINK, rtt_ms=70.0, a_to_b="cut").links[LINK]
        assert (link.rtt_ms, link.mbit_s, link.a_to_b.state, link.b_to_a.state) == (
            70.0,
            100.0,
            "cut",
            "open",
        )
        assert control.cut(LINK).links[LINK].b_to_a.state == "cut"
        assert control.fault(LINK, "slow", slow_factor=3.0).links[LINK].slow_factor == 3.0
        healed = control.heal(LINK).links[LINK]
        assert (healed.a_to_b.state, healed.b_to_a.state, healed.slow_factor) == (
            "open",
            "open",
            1.0,
        )
        with pytest.raises(ConfigError, match=r"west~east.*need one of north~south"):
            control.cut("west~east")
        with pytest.raises(ConfigError, match="need more than 0"):
            control.set(LINK, mbit_s=0.0)
        process.send_signal(signal.SIGTERM)
        assert process.wait(WAIT_S) == 0
        assert not (tmp_path / "links.sock").exists()
        with pytest.raises(SiteError, match="no answer from the link emulator"):
            control.get()


def test_control_answers_nonsense_with_an_error_and_goes_on(tmp_path: Path) -> None:
    with (
        a_process(write_config(tmp_path)),
        socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock,
    ):
        sock.connect(str(tmp_path / "links.sock"))
        with sock.makefile("rwb") as lines:
            for line in (b"nonsense\n", b'{"op":"set"}\n', b'{"op":"get","x":1}\n'):
                lines.write(line)
                lines.flush()
                assert "error" in msgspec.json.decode(lines.readline())
            lines.write(b'{"op":"get"}\n')
            lines.flush()
            assert LINK in msgspec.json.decode(lines.readline())["state"]["links"]


def test_second_emulator_on_the_same_control_socket_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write_config(tmp_path)
    with a_process(config):
        assert main([str(config)]) == 2
        assert "another emulator answers" in capsys.readouterr().err
        assert LinkControl(tmp_path / "links.sock").get().links


def test_a_taken_port_is_named_with_its_fix(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        relay = {"link": LINK, "listen_port": port, "target": "127.0.0.1:9", "forward": "a_to_b"}
        config = write_config(tmp_path, relays=[relay])
        assert main([str(config)]) == 2
    message = capsys.readouterr().err
    assert f"127.0.0.1:{port}" in message
    assert "relays[0].listen_port" in message
    assert "To fix" in message
    assert not (tmp_path / "links.sock").exists()


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"links": {LINK: {"rtt_ms": -1, "mbit_s": 100}}}, f"links.{LINK}.rtt_ms"),
        ({"links": {LINK: {"rtt_ms": 1, "mbit_s": 0}}}, f"links.{LINK}.mbit_s"),
        ({"links": {}}, "relays[0].link"),
        ({"control_path": "x" * 120}, "control_path"),
        ({"control_path": ""}, "control_path"),
        ({"relays": [{"link": LINK, "listen_port": 70_000, "target": "h:1", "forward": "a_to_b"}]}, "relays[0].listen_port"),
        ({"relays": [{"link": LINK, "listen_port": 0, "target": "h", "forward": "a_to_b"}]}, "relays[0].target"),
        ({"relays": [{"link": LINK, "listen_port": 4_000, "target": "h:1", "forward": "a_to_b"}] * 2}, "relays[1].listen_port"),
        ({"relays": [{"link": LINK, "listen_port": 0, "target": "h:1", "forward": "up"}]}, "$.relays[0].forward"),
    ],
)  # fmt: skip
def test_a_wrong_configuration_is_refused_with_its_place(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, object], where: str
) -> None:
    assert main([str(write_config(tmp_path, **changes))]) == 2
    assert where in capsys.readouterr().err


def test_set_link_leaves_what_is_not_given() -> None:
    config = LinksConfig(
        control_path="x", links={LINK: LinkSpec(rtt_ms=10.0, mbit_s=50.0)}, relays=()
    )
    emulator = LinkEmulator(config)

    async def body() -> None:
        link = emulator.handle(SetLink(link=LINK, mbit_s=5.0)).links[LINK]
        assert (link.rtt_ms, link.mbit_s, link.a_to_b.state) == (10.0, 5.0, "open")

    uvloop.run(body())

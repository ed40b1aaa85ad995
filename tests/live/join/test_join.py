"""Two machines on loopback addresses become a league by the command line alone; real processes, real TLS."""

from __future__ import annotations

import hashlib
import json
import os
import pty
import shutil
import socket
import ssl
import subprocess
import time
from pathlib import Path

import pytest
from cryptography import x509

from hanse.errors import ConfigError
from hanse.live.ca import seat_of
from hanse.live.join.come import meet
from hanse.live.join.token import Token, read_token
from hanse.live.league_file import LEAGUE, read_league
from live.join.machines import (
    Machine,
    address,
    cpu_s,
    footprint_mb,
    get,
    machines,
    until,
)
from ports import free_port

pytestmark = pytest.mark.timeout(240)

FOOTPRINT_MB_MAX = 250.0
CPU_SHARE_MAX = 0.10
"""Of one core, without requests; docs/join.md has the measured figure, 0.03."""


@pytest.fixture
def two(tmp_path: Path):
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    a, b = Machine(tmp_path / "a", "127.0.0.1"), Machine(tmp_path / "b", "127.0.0.2")
    with machines(a, b):
        yield a, b


def founded(a: Machine, *, model: str = "tiny-135m-q4_1") -> None:
    """`init` and `up` on the first machine."""
    url = a.server(model)
    a.hanse("init", "--city", "Berlin", "--host", a.host, "--grid-kw", "2", "--url", url)
    a.hanse("check", "fleet.toml")
    a.start("up", *_hanse("up", "fleet.toml", "--state", "A"))
    until(lambda: a.state("A").runtime_json.exists(), "up is prepared")
    ready(a, "A", "berlin")


def _hanse(*arguments: str) -> list[str]:
    import sys

    from live.join.machines import HANSE

    return [sys.executable, "-c", HANSE, *arguments]


def ready(machine: Machine, state: str, site: str) -> float:
    url = address(machine.state(state), site).local_url
    return until(lambda: get(f"{url}/readyz")[0] == 200, f"{site} is ready")


def test_a_second_machine_joins_serves_is_revoked_and_joins_again(
    two: tuple[Machine, Machine],
) -> None:
    a, b = two
    founded(a)
    key = (a.home / "A/keys/own.key").read_text().strip()
    token = a.hanse("token", "lyon", "--state", "A").strip()
    assert read_token(token).secret not in (a.home / "A/hub/tokens.json").read_text()

    url = b.server("tiny-135m-q4_1")
    since_s = time.monotonic()
    come = ("join", "--city", "Lyon", "--host", b.host, "--grid-kw", "2", "--url", url)
    b.hanse(*come, "--state", "B", stdin=token + "\n")
    joined_s = time.monotonic() - since_s
    assert joined_s < 300, "five minutes are promised"
    lyon = b.state("B")
    ready(b, "B", "lyon")

    # Its key was made there and is nowhere else; no secret is in any log or command line.
    site_key = (lyon.site("lyon") / "identity/site.key").read_bytes()
    assert not any(site_key in path.read_bytes() for path in a.home.rglob("*") if path.is_file())
    secrets = [read_token(token).secret, token, key]
    for machine in (a, b):
        logs = "".join(p.read_text(errors="replace") for p in machine.home.rglob("*.log"))
        shown = " ".join(machine.running()) + machine.noted
        assert not any(secret in logs or secret in shown for secret in secrets)

    # The first site's engine ends; what it is asked runs at the second. Nothing was restarted for it.
    a.started[0].terminate()
    berlin_url = address(a.state("A"), "berlin").local_url

    def runs_at(url: str, site: str) -> bool:
        return a.ask(url, key, "tiny-135m-q4-1")["site"] == site

    until(lambda: runs_at(berlin_url, "lyon"), "the first site sends to the second", 30)
    assert read_league(a.state("A").site("berlin") / LEAGUE).revision == 2
    assert read_league(lyon.site("lyon") / LEAGUE).toml == (a.home / "A/fleet.toml").read_text()

    # The token is spent, for this machine's key alone.
    b.hanse(*come, "--state", "C", "--no-start", stdin=token, code=2)
    assert "spent" in b.said

    # Revoked: out at the hub and at the other site, though its certificate is in time.
    a.hanse("revoke", "lyon", "--state", "A")
    until(lambda: hop_refused(a, b), "the other site talks to it no more", 20)
    until(lambda: not runs_at(berlin_url, "lyon"), "nor sends it anything", 20)
    old = seat_of(certificate(b))
    until(
        lambda: '"hub_connected":false' in status_of(a, "lyon") or "silent" in status_of(a, "lyon"),
        "the hub hears it no more",
        20,
    )

    # And again, with a new token, the same directory and its own key: the running site goes on.
    again = a.hanse("token", "lyon", "--state", "A").strip()
    b.hanse(*come, "--state", "B", stdin=again)
    assert seat_of(certificate(b)) != old
    until(lambda: runs_at(berlin_url, "lyon"), "the first site sends to it again", 45)


def certificate(b: Machine) -> x509.Certificate:
    path = b.state("B").site("lyon") / "identity/site.pem"
    return x509.load_pem_x509_certificate(path.read_bytes())


def status_of(a: Machine, site: str) -> str:
    hub = a.state("A").read_runtime().hub
    assert hub is not None
    found = json.loads(get(f"{hub.dashboard_url}/api/view.json")[1])
    return json.dumps(next(s for s in found["sites"] if s["id"] == site), separators=(",", ":"))


def hop_refused(a: Machine, b: Machine) -> bool:
    """With the revoked site's own key and certificate, at the other site's hop port."""
    identity = b.state("B").site("lyon") / "identity"
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(identity / "ca.pem")
    context.load_cert_chain(identity / "site.pem", identity / "site.key")
    at = address(a.state("A"), "berlin")
    with (
        socket.create_connection((at.host, at.hop_port), 5) as plain,
        context.wrap_socket(plain, server_hostname="berlin.hanse") as tls,
    ):
        tls.sendall(b"GET /hanse/v1/check HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        return b"403" in tls.recv(64)


@pytest.mark.long
def test_a_site_without_engines_takes_little_memory_and_next_to_no_time(
    two: tuple[Machine, Machine],
) -> None:
    """It is a way in for its users: requests run at the other site."""
    a, b = two
    founded(a)
    key = (a.home / "A/keys/own.key").read_text().strip()
    token = a.hanse("token", "door", "--state", "A").strip()
    nothing = f"http://127.0.0.1:{free_port('127.0.0.1')}"
    b.hanse(*("join", token, "--city", "Lyon", "--host", b.host, "--url", nothing, "--state", "B"))
    state = b.state("B")
    url = address(state, "door").local_url
    until(lambda: b.ask(url, key, "tiny-135m-q4-1")["site"] == "berlin", "it forwards", 30)
    took_mb, private = footprint_mb(state)
    assert len(private) == 5, "keeper, bus, agent, gateway worker, batches"
    assert took_mb < FOOTPRINT_MB_MAX, f"{took_mb:.0f} MB: {private}"
    before_s, since_s = cpu_s(state), time.monotonic()
    time.sleep(5)  # a rate needs a duration
    share = (cpu_s(state) - before_s) / (time.monotonic() - since_s)
    assert share < CPU_SHARE_MAX, f"{share:.2f} of a core"


@pytest.mark.long
def test_a_restart_with_the_same_file_goes_on_with_whoever_joined(
    two: tuple[Machine, Machine],
) -> None:
    a, b = two
    founded(a)
    token = a.hanse("token", "lyon", "--state", "A").strip()
    url = b.server("tiny-135m-q4_1")
    come = ("--city", "Lyon", "--host", b.host, "--grid-kw", "2", "--url", url, "--state", "B")
    b.hanse("join", token, *come)
    up = a.started.pop()
    up.terminate()
    assert up.wait(15) == 0
    agent = (b.state("B").site("lyon") / "pid/agent.pid").read_text()
    a.start("up", *_hanse("up", "fleet.toml", "--state", "A"))
    ready(a, "A", "berlin")
    until(lambda: '"state":"up"' in status_of(a, "lyon"), "the joined site reports again", 30)
    assert read_league(a.state("A").site("berlin") / LEAGUE).joined == ("lyon",)
    assert (b.state("B").site("lyon") / "pid/agent.pid").read_text() == agent, "nothing restarted"


def test_a_hub_with_another_authority_never_sees_the_token(tmp_path: Path) -> None:
    """Somebody in between who answers with a certificate of his own making."""
    from hanse.live.ca import ensure_identity

    evil = ensure_identity(tmp_path, "home", "hub", time.time())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(evil.certificate_path, evil.key_path)
    heard = bytearray()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        import threading

        def answer() -> None:
            connection, _ = listening.accept()
            with context.wrap_socket(connection, server_side=True) as tls:
                heard.extend(tls.recv(65536))
                body = evil.authority_path.read_bytes()
                tls.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body))

        thread = threading.Thread(target=answer)
        thread.start()
        token = Token(
            fleet="home",
            site="lyon",
            hub=(f"127.0.0.1:{listening.getsockname()[1]}",),
            authority_sha256=hashlib.sha256(b"the right one").hexdigest(),
            secret="a-secret-that-nobody-must-hear",
        )
        with pytest.raises(ConfigError, match="not the token's"):
            meet(token)
        thread.join()
    assert b"GET /v1/authority" in heard
    assert token.secret.encode() not in heard


def test_init_asks_on_a_terminal_what_it_cannot_see(two: tuple[Machine, Machine]) -> None:
    a, _ = two
    url = a.server("tiny-135m-q4_1")
    ours, theirs = pty.openpty()
    with os.fdopen(ours, "wb", buffering=0) as keyboard:
        keyboard.write(b"127.0.0.1\nsaint-etienne\n")
        done = subprocess.run(
            _hanse("init", "--url", url),
            cwd=a.home,
            stdin=theirs,
            capture_output=True,
            text=True,
            check=True,
        )
        os.close(theirs)
    assert "City of this machine" in done.stderr
    a.hanse("check", "fleet.toml")
    text = (a.home / "fleet.toml").read_text()
    assert 'id = "saint-etienne"' in text
    assert 'country = "FR"' in text
    a.hanse("init", "--url", url, "--city", "Lyon", "--host", "127.0.0.1", code=2)
    assert "--force" in a.said, "a file that is there is not replaced"


def test_init_without_a_terminal_and_without_a_server_says_what_to_do(
    two: tuple[Machine, Machine],
) -> None:
    a, _ = two
    a.hanse("init", "--host", "127.0.0.1", code=2)
    assert "--city" in a.said
    nothing = f"http://127.0.0.1:{free_port('127.0.0.1')}"
    a.hanse("init", "--host", "127.0.0.1", "--city", "Lyon", "--url", nothing, code=2)
    assert "vLLM" in a.said
    assert not (a.home / "fleet.toml").exists()


def test_no_process_is_left_when_a_join_fails(two: tuple[Machine, Machine]) -> None:
    _, b = two
    token = Token(
        fleet="home",
        site="lyon",
        hub=(f"127.0.0.1:{free_port('127.0.0.1')}",),
        authority_sha256="0" * 64,
        secret="x",
    )
    b.hanse("join", token.text(), "--city", "Lyon", "--host", b.host, "--state", "B", code=2)
    assert "is it running" in b.said
    assert b.running() == []
    assert subprocess.run(["true"], check=False).returncode == 0

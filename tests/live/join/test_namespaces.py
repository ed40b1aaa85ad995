"""Machines as network namespaces: the whole way of a new user within ten minutes, and an identity that outlives a week alone."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from hanse.live.ca import make_request, open_authority, renews_at_s
from hanse.live.identity import SiteName, load_key
from hanse.live.league_file import LEAGUE, read_league
from hanse.live.revoked import REVOKED, RevokedFile
from hanse.live.runtime import StateDir
from live.join.machines import HANSE, Machine, address, machines, until

DAY_S = 86_400.0
MODEL = "tiny-135m-q4_1"
SERVICE = "tiny-135m-q4-1"

pytestmark = [
    pytest.mark.long,
    pytest.mark.root,
    pytest.mark.timeout(900),
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root"),
    pytest.mark.skipif(shutil.which("ip") is None, reason="iproute2 is not installed"),
    pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed"),
]


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


class Network:
    """A bridge in a namespace of its own, and a namespace a machine with one leg on it."""

    def __init__(self, count: int) -> None:
        self.stem = f"hj{os.getpid() % 100_000}"
        self.bridge = f"{self.stem}b"
        self.names = [f"{self.stem}m{number}" for number in range(count)]

    def __enter__(self) -> Network:
        with contextlib.ExitStack() as undo:
            undo.callback(self.__exit__)
            try:
                ip("netns", "add", self.bridge)
            except subprocess.CalledProcessError as error:
                pytest.skip(f"network namespaces are not allowed here: {error.stderr!r}")
            ip("-n", self.bridge, "link", "add", "name", "lan", "type", "bridge")
            ip("-n", self.bridge, "link", "set", "lan", "up")
            for number, name in enumerate(self.names):
                ip("netns", "add", name)
                leg = f"leg{number}"
                ip("-n", name, "link", "add", "wan", "type", "veth", "peer", "name", leg)
                ip("-n", name, "link", "set", leg, "netns", self.bridge)
                ip("-n", self.bridge, "link", "set", leg, "master", "lan", "up")
                ip("-n", name, "addr", "add", f"10.78.0.{number + 1}/24", "dev", "wan")
                ip("-n", name, "link", "set", "wan", "up")
                ip("-n", name, "link", "set", "lo", "up")
            undo.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        for name in (*self.names, self.bridge):
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)

    def cut(self, number: int) -> None:
        """Everything of one machine to and from the others is lost without a word."""
        ip("-n", self.bridge, "link", "set", f"leg{number}", "nomaster")

    def heal(self, number: int) -> None:
        ip("-n", self.bridge, "link", "set", f"leg{number}", "master", "lan")


@pytest.fixture
def network() -> Iterator[Network]:
    with Network(3) as made:
        yield made


def machine(network: Network, number: int, home: Path) -> Machine:
    return Machine(home, f"10.78.0.{number + 1}", network.names[number])


def test_two_fresh_machines_and_a_first_request_within_ten_minutes(
    network: Network, tmp_path: Path
) -> None:
    """As a new user: nothing compiled yet, no file edited by hand, curl and the openai client."""
    pytest.importorskip("openai")
    a, b = (machine(network, n, tmp_path / "ab"[n]) for n in range(2))
    for one in (a, b):
        one.environment = {"NUMBA_CACHE_DIR": str(one.home / "compiled")}
    with machines(a, b):
        urls = [one.server(MODEL) for one in (a, b)]  # what the user has already
        since_s = time.monotonic()
        a.hanse("init", "--city", "Berlin", "--host", a.host, "--url", urls[0])
        a.start("up", sys.executable, "-c", HANSE, "up", "fleet.toml", "--state", "A")
        hub = a.state("A")
        until(hub.runtime_json.exists, "up is prepared")
        key_path = a.home / "A/keys/own.key"
        until(lambda: ready(a, hub, "berlin"), "the first site is ready", 300)
        key = key_path.read_text().strip()
        token = a.hanse("token", "lyon", "--state", "A").strip()
        joining_s = time.monotonic()
        b.hanse("join", token, "--city", "Lyon", "--host", b.host, "--url", urls[1], "--state", "B")
        joined_s = time.monotonic() - joining_s
        lyon = b.state("B")
        until(lambda: ready(b, lyon, "lyon"), "the second site is ready", 60)
        first = b.ask(address(lyon, "lyon").local_url, key, SERVICE)
        assert first["status"] == 200, first
        took_s = time.monotonic() - since_s
        sys.stderr.write(f"joined in {joined_s:.0f} s, first answer after {took_s:.0f} s\n")
        assert joined_s < 300
        assert took_s < 600

        # From the other machine, over TLS that the league's authority vouches for; never in plain text.
        there = address(lyon, "lyon").client_url
        assert there == f"https://{b.host}:{address(lyon, 'lyon').client_port}"
        authority = hub.ca_dir / "ca.pem"
        assert a.ask(there, key, SERVICE, authority=authority)["status"] == 200
        assert a.ask(there.replace("https", "http"), key, SERVICE)["status"] == 0
        assert a.ask(there, key, SERVICE)["status"] == 0, "unknown authority"
        code = (
            "import ssl, sys, httpx; from openai import OpenAI; "
            "client = OpenAI(base_url=sys.argv[1], api_key=sys.argv[2], http_client=httpx.Client("
            "verify=ssl.create_default_context(cafile=sys.argv[3]))); "
            "print(client.chat.completions.create(model=sys.argv[4], max_tokens=4, "
            "messages=[{'role': 'user', 'content': 'Hi'}]).choices[0].message.content)"
        )
        answered = subprocess.run(
            a.within(sys.executable, "-c", code, f"{there}/v1", key, str(authority), SERVICE),
            capture_output=True,
            text=True,
            check=True,
        )
        assert answered.stdout.startswith("from ")

        assert status_of(a, f"{there}/metrics", authority) == "401"
        assert status_of(a, f"{there}/metrics", authority, key) == "200"
        assert status_of(a, f"{there}/readyz", authority) == "200"

        # What listens on the machine's address asks for a certificate or a key.
        nothing = b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
        for port in listening(b):
            assert spoken_to(a, b.host, port, nothing) in (b"", b"HTTP/1.1 400", b"INFO {"), port


def ready(one: Machine, state: StateDir, site: str) -> bool:
    url = address(state, site).local_url
    done = subprocess.run(
        one.within(
            "curl", "-s", "-m", "2", "-o", "/dev/null", "-w", "%{http_code}", f"{url}/readyz"
        ),
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout == "200"


def status_of(one: Machine, url: str, authority: Path, key: str = "") -> str:
    trust = ["--cacert", str(authority), "-H", f"authorization: Bearer {key}"]
    done = subprocess.run(
        one.within("curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", *trust, url),
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout


def listening(one: Machine) -> list[int]:
    """TCP ports that are open on the machine's own address."""
    done = subprocess.run(one.within("ss", "-Hltn"), capture_output=True, text=True, check=True)
    shown = [line.split()[3] for line in done.stdout.splitlines()]
    return sorted({int(s.rpartition(":")[2]) for s in shown if not s.startswith("127.")})


def spoken_to(one: Machine, host: str, port: int, data: bytes) -> bytes:
    """The first bytes that a port answers to plain text."""
    code = (
        "import socket, sys; s = socket.create_connection((sys.argv[1], int(sys.argv[2])), 5); "
        "s.settimeout(5); s.sendall(sys.stdin.buffer.read()); "
        "sys.stdout.buffer.write(s.recv(12))"
    )
    done = subprocess.run(
        one.within(sys.executable, "-c", code, host, str(port)),
        input=data,
        capture_output=True,
        check=False,
    )
    return done.stdout


def test_promise_f_identity_outlives_seven_days_cut_off_and_revocation_still_works(
    network: Network, tmp_path: Path
) -> None:
    """The clock is moved by what certificates say: both were 9.9 days old, not yet to be renewed, when a cut of seven days began.

    In the cut both sites start cold, serve, and talk to each other; meanwhile the hub revokes one. When the cut heals the other renews
    by itself, without a restart, and refuses the revoked one.
    """
    a, b, c = (machine(network, n, tmp_path / "abc"[n]) for n in range(3))
    with machines(a, b, c):
        hub, lyon, paris, key = league_of_three(a, b, c)
        for state, site in ((lyon, "lyon"), (paris, "paris")):
            end(state, site)
            age(hub, state, site, days=16.9)

        network.cut(0)
        for one, site in ((b, "lyon"), (c, "paris")):
            one.start("site", sys.executable, "-c", HANSE, "site", site, "--state", "S")
        until(lambda: ready(b, lyon, "lyon"), "lyon comes back cold, without a hub", 120)
        until(lambda: ready(c, paris, "paris"), "paris comes back cold, without a hub", 120)
        lyon_url = address(lyon, "lyon").local_url
        assert b.ask(lyon_url, key, SERVICE)["status"] == 200
        b.started[0].terminate()  # its engine
        until(
            lambda: b.ask(lyon_url, key, SERVICE)["site"] == "paris",
            "lyon reaches paris by certificates of nearly 17 days",
            40,
        )
        a.hanse("revoke", "paris", "--state", "A")
        assert b.ask(lyon_url, key, SERVICE)["site"] == "paris", "lyon cannot have heard of it"
        agents = [(s.site(n) / "pid/agent.pid").read_text() for s, n in ((lyon, "lyon"),)]
        before = certificate(lyon, "lyon")

        network.heal(0)
        healed_s = time.monotonic()
        until(
            lambda: (lyon.site("lyon") / "identity" / REVOKED).exists(),
            "the list of revoked certificates arrives",
            60,
        )
        listed_s = time.monotonic() - healed_s
        until(
            lambda: b.ask(lyon_url, key, SERVICE)["site"] == "berlin",
            "lyon sends nothing to paris any more, and to the hub's site instead",
            30,
        )
        until(lambda: certificate(lyon, "lyon") != before, "lyon's certificate is renewed", 90)
        renewed_s = time.monotonic() - healed_s
        sys.stderr.write(f"list after {listed_s:.1f} s, renewed after {renewed_s:.1f} s\n")
        after = certificate(lyon, "lyon")
        assert after.public_key() == before.public_key(), "the key never left"
        assert after.not_valid_after_utc.timestamp() > time.time() + 28 * DAY_S
        assert [(lyon.site("lyon") / "pid/agent.pid").read_text()] == agents, "nothing restarted"
        kept = RevokedFile(lyon.site("lyon") / "identity", load_authority(hub))
        assert not kept.holds(certificate(paris, "paris").public_bytes(Encoding.DER))
        assert renews_at_s(certificate(paris, "paris")) < time.time()
        until(lambda: "authentication error" in hub_log(hub), "the hub's bus refuses paris", 30)
        assert certificate(paris, "paris").serial_number in kept.revoked.serials


def league_of_three(a: Machine, b: Machine, c: Machine) -> tuple[StateDir, StateDir, StateDir, str]:
    """The hub's state, the states of two sites that joined, and a key; all know of each other."""
    a.hanse("init", "--city", "Berlin", "--host", a.host, "--url", a.server(MODEL))
    a.start("up", sys.executable, "-c", HANSE, "up", "fleet.toml", "--state", "A")
    hub = a.state("A")
    until(hub.runtime_json.exists, "up is prepared")
    until(lambda: ready(a, hub, "berlin"), "the hub's site is ready", 120)
    for one, site, city in ((b, "lyon", "Lyon"), (c, "paris", "Paris")):
        token = a.hanse("token", site, "--state", "A").strip()
        where = ("--city", city, "--host", one.host, "--url", one.server(MODEL))
        one.hanse("join", token, *where, "--state", "S")
    lyon, paris = b.state("S"), c.state("S")
    until(lambda: read_league(lyon.site("lyon") / LEAGUE).revision == 3, "lyon knows paris", 30)
    until(lambda: table_sites(lyon, "lyon") == 3, "lyon has the table with all three", 30)
    return hub, lyon, paris, (a.home / "A/keys/own.key").read_text().strip()


def end(state: StateDir, site: str) -> None:
    import signal

    pid = int((state.site(site) / "pid/site.pid").read_text())
    os.kill(pid, signal.SIGTERM)
    until(lambda: not Path(f"/proc/{pid}").exists() or zombie(pid), f"{site} ends", 20)


def zombie(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


def age(hub: StateDir, state: StateDir, site: str, *, days: float) -> None:
    """The certificate that the site would have, had it been issued so many days ago."""
    home = state.site(site) / "identity"
    authority = open_authority(hub.ca_dir, "home", time.time(), make=False)
    assert authority is not None
    request = make_request(load_key(home / "site.key"), SiteName("home", site))
    made = authority.answer(request, site, time.time() - days * DAY_S)
    (home / "site.pem").write_bytes(made.public_bytes(Encoding.PEM))


def certificate(state: StateDir, site: str) -> x509.Certificate:
    path = state.site(site) / "identity/site.pem"
    return x509.load_pem_x509_certificate(path.read_bytes())


def load_authority(hub: StateDir) -> x509.Certificate:
    return x509.load_pem_x509_certificate((hub.ca_dir / "ca.pem").read_bytes())


def hub_log(hub: StateDir) -> str:
    return (hub.hub / "log/nats.log").read_text()


def table_sites(state: StateDir, site: str) -> int:
    from hanse.dispatch.table import Table

    home = state.site(site)
    version = (home / "current").read_text().strip()
    return len(Table.from_bytes((home / f"table-{version}.tbl").read_bytes()).meta.sites)

"""A running league as its neighbours on the machine meet it: what listens, what it tells whom, and where its secrets are to be found."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import os
import re
import socket
import ssl
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import pytest

from league.harness import League

SILENT_S: Final = 1.0
"""Ports that say nothing are left after this; one that would have answered later is found by the others of its role."""
LISTEN: Final = "0A"
OPEN_AT_GATEWAY: Final = {"/healthz", "/readyz", "/metrics"}
"""On loopback; `/metrics` asks for a key on any other address."""


def listeners(pids: dict[int, str]) -> dict[tuple[str, int], set[int]]:
    """(address, port) -> processes, of every TCP socket that listens."""
    by_inode = {}
    for name in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == LISTEN:
                host, _, port = fields[1].partition(":")
                by_inode[fields[9]] = (_address(host), int(port, 16))
    found: dict[tuple[str, int], set[int]] = {}
    for pid in pids:
        for inode in sockets(pid):
            if inode in by_inode:
                found.setdefault(by_inode[inode], set()).add(pid)
    return found


def sockets(pid: int) -> Iterator[str]:
    with contextlib.suppress(OSError):
        for fd in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                if (found := re.fullmatch(r"socket:\[(\d+)\]", os.readlink(fd))) is not None:
                    yield found[1]


def _address(text: str) -> str:
    if len(text) == 8:
        return socket.inet_ntop(socket.AF_INET, bytes.fromhex(text)[::-1])
    words = bytes.fromhex(text)
    return socket.inet_ntop(
        socket.AF_INET6, b"".join(words[i : i + 4][::-1] for i in (0, 4, 8, 12))
    )


def roles(league: League) -> dict[int, str]:
    """Port -> what it is for, of all that docs name."""
    runtime = league.runtime
    hub = runtime.hub
    assert hub is not None
    found = {
        hub.client_port: "bus",
        hub.leaf_port: "leaf",
        hub.control_port: "control",
        hub.door_port: "door",
    }
    for address in runtime.sites.values():
        found |= {address.client_port: "client", address.hop_port: "hop", address.leaf_port: "bus"}
        found |= dict.fromkeys(address.engine_ports, "engine")
    for relay in runtime.relays:
        target = int(relay.connect.rpartition(":")[2])
        found[int(relay.listen.rpartition(":")[2])] = found[target]
    return found


def talk(port: int, sent: bytes, *, tls: bool = False) -> bytes:
    """What a stranger is told: plain, or by TLS without a certificate of one's own."""
    back = bytearray()
    with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
        link = stack.enter_context(socket.create_connection(("127.0.0.1", port), SILENT_S))
        if tls:
            trust = ssl.create_default_context()
            trust.check_hostname, trust.verify_mode = False, ssl.CERT_NONE
            # Its own shaking of hands, so that the socket is closed whatever comes of it.
            link = stack.enter_context(trust.wrap_socket(link, do_handshake_on_connect=False))
        link.settimeout(SILENT_S)
        if isinstance(link, ssl.SSLSocket):
            link.do_handshake()
        link.sendall(sent)
        while data := link.recv(65536):
            back += data
            if len(back) > 1_000_000 or b"Authorization Violation" in back:
                break
    return bytes(back)


def get(path: str, *, method: str = "GET", body: bytes = b"") -> bytes:
    head = f"{method} {path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
    return f"{head}content-length: {len(body)}\r\nconnection: close\r\n\r\n".encode() + body


def status_of(answer: bytes) -> int:
    return int(answer[9:12]) if answer.startswith(b"HTTP/1.") else 0


CHAT = json.dumps(
    {"model": "chat", "max_tokens": 1, "messages": [{"role": "user", "content": "x"}]}
).encode()
ASKED: Final = (
    get("/v1/models"), get("/v1/files"), get("/v1/batches"), get("/.well-known/hanse"), get("/hanse/v1/requests/" + "0" * 32),
    get("/hanse/v1/check"), get("/slots"), get("/props"), get("/api/scenario"), get("/varz"), get("/connz"),
    get("/v1/chat/completions", method="POST", body=CHAT), get("/completion", method="POST", body=b'{"prompt":"x","n_predict":1}'),
    get("/hanse/v1/explain", method="POST", body=b'{"service":"chat","tokens_in":1}'),
    get("/api/scenario", method="POST", body=b'{"overrides":[]}'), get("/join", method="POST", body=b"{}"),
)  # fmt: skip
NATS: Final = b'CONNECT {"verbose":false}\r\nSUB > 1\r\nPUB hanse.table 1\r\nx\r\nPING\r\n'


def told_to_strangers(port: int, role: str) -> list[str]:
    """What a port gives without credentials beyond what it is meant to."""
    wrong = []
    if role == "bus" or role == "leaf":
        for tls in (False, True):
            answer = talk(port, NATS, tls=tls)
            if b"PONG" in answer or b"MSG" in answer:
                wrong.append(f"{role} {port}: {answer[-80:]!r}")
        return wrong
    for number, asked in enumerate(ASKED):
        path = asked.split(b" ")[1].decode()
        for tls in (False, True):
            if number >= 2 and (role == "hop" or tls != (role == "door")):
                continue  # in a tongue that it does not speak it is asked twice, not sixteen times
            status = status_of(talk(port, asked, tls=tls))
            served = 200 <= status < 400
            if role == "control":
                # For people's eyes: reading is open on loopback, changing is not.
                served = served and not (asked.startswith(b"GET") and not tls)
            if role == "client":
                served = served and path not in OPEN_AT_GATEWAY and path != "/.well-known/hanse"
            if role == "engine":
                served = served and path not in ("/v1/models",)  # llama.cpp tells names to anybody
            if role == "hop":
                served = served or status != 0  # nothing is said before the certificate
            if served:
                wrong.append(
                    f"{role} {port}: {asked.split(b' HTTP')[0].decode()} -> {status} (TLS: {tls})"
                )
    return wrong


def test_every_socket_that_listens_is_known_and_tells_strangers_nothing(league: League) -> None:
    pids = {pid: line for pid, line in league.processes().items() if pid != os.getpid()}
    known = roles(league)
    found = listeners(pids)
    strange = {
        at: [pids[p][:120] for p in by]
        for at, by in found.items()
        if at[1] not in known or at[0] != "127.0.0.1"
    }
    assert strange == {}
    assert {known[port] for _, port in found} == {
        "bus",
        "leaf",
        "control",
        "door",
        "client",
        "hop",
        "engine",
    }
    with ThreadPoolExecutor(32) as pool:
        told = pool.map(lambda at: told_to_strangers(at[1], known[at[1]]), found)
        assert [flaw for flaws in told for flaw in flaws] == []
    for site in league.runtime.sites:
        for path in OPEN_AT_GATEWAY:
            assert league.get(site, path).status == 200
    assert league.ask("frankfurt").status == 200  # and the gateway has what its engines ask for


def test_no_socket_of_the_file_system_and_no_file_is_open_to_other_users(league: League) -> None:
    for path in (
        league.state.path,
        *(p for p in league.state.path.glob("*") if p.is_dir()),
        *league.state.path.glob("sites/*"),
    ):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path
    lines = Path("/proc/net/unix").read_text().splitlines()[1:]
    listening = {line.split()[-1] for line in lines if line.split()[3] == "00010000"}
    mine = [Path(path) for path in listening if path.startswith(str(league.state.path))]
    assert len(mine) >= len(league.runtime.sites)
    for path in mine:
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path
    held = secrets_of(league)
    assert len(held) > 12
    for name, (path, _) in held.items():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, name
        for above in (p for p in path.parents if league.state.path in (p, *p.parents)):
            assert stat.S_IMODE(above.stat().st_mode) & 0o077 == 0, above


def secrets_of(league: League) -> dict[str, tuple[Path, bytes]]:
    """Everything that opens something: name -> file, and a piece of it that stands nowhere else."""
    state = league.state
    found: dict[str, tuple[Path, bytes]] = {}
    for path in sorted(state.keys_dir.glob("*.key")):
        found[f"API key {path.stem}"] = path, path.read_bytes().strip()
    for path in sorted(state.path.rglob("bus.json")):
        for user, password in json.loads(path.read_bytes()).items():
            found[f"bus password {path.parent.name} {user}"] = path, password.encode()
    for path in sorted(
        [
            *state.path.rglob("*.key.pem"),
            *state.ca_dir.glob("*.key"),
            *state.path.glob("sites/*/identity/*.key"),
        ]
    ):
        found[f"private key {path.relative_to(state.path)}"] = path, pem_middle(path)
    for path in sorted([*state.path.rglob("engine.key"), *state.path.rglob("control.key")]):
        found[f"secret {path.relative_to(state.path)}"] = path, path.read_bytes().strip()
    for path in sorted(state.path.rglob("prefix.secret")):
        found[f"secret {path.relative_to(state.path)}"] = path, path.read_bytes()
    return found


def pem_middle(path: Path) -> bytes:
    lines = [line for line in path.read_bytes().splitlines() if not line.startswith(b"-")]
    return lines[0][-24:]


def forms(secret: bytes) -> list[bytes]:
    """As it is, and as logs might have dressed it."""
    return [secret, base64.b64encode(secret).rstrip(b"=")[:-1], secret.hex().encode()]


MENTIONED: Final = {"leaf.conf", "hub.conf", "bus.json"}
"""Files of mode 0600 whose purpose is to hold a password."""


@pytest.mark.long
def test_secrets_stand_in_their_own_files_and_nowhere_else(league: League) -> None:
    held = secrets_of(league)
    use_and_misuse(league, held)
    haystacks = dict(everything_readable(league, {path for path, _ in held.values()}))
    assert any("cmdline" in name for name in haystacks) and any(
        name.endswith(".log") for name in haystacks
    )
    found = [
        f"{secret} in {where}"
        for secret, (_, value) in held.items()
        for where, text in haystacks.items()
        for form in forms(value)
        if form in text
    ]
    assert found == []


def use_and_misuse(league: League, held: dict[str, tuple[Path, bytes]]) -> None:
    """Requests that succeed, that are refused at each step, that crash an engine and a worker; all with real secrets in hand."""
    key = league.secret("demo")
    assert league.ask("lyon").status == 200
    for wrong in (key[:-1], key + "x", "Bearer " + key):
        league.get("lyon", "/v1/models", authorization=wrong)
    address = league.runtime.site("lyon")
    for data in (
        f"GET /v1/models HTTP/1.1\r\nhost: x\r\nauthorization: Basic {key}\r\n\r\n",
        f"GET /v1/models?key={key} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\nauthorization: Bearer {key}\r\n\r\n",
        f"POST /v1/chat/completions HTTP/1.1\r\nauthorization: Bearer {key}\r\ncontent-length: x\r\n\r\n",
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\ncontent-length: 9999\r\n\r\n{{",
    ):
        talk(address.client_port, data.encode())
    hub = league.runtime.hub
    assert hub is not None
    for name, (_, value) in held.items():
        if name.startswith("bus password"):
            wrong_connect = json.dumps({"user": "controller", "pass": value.decode() + "x"})
            talk(hub.client_port, f"CONNECT {wrong_connect}\r\nPING\r\n".encode())
    control = next(value for name, (_, value) in held.items() if name.endswith("control.key"))
    link = http.client.HTTPConnection(hub.host, hub.control_port, timeout=10)
    link.request(
        "POST",
        "/api/scenario",
        b"{",
        {"authorization": f"Bearer {control.decode()}", "content-type": "application/json"},
    )
    assert link.getresponse().status == 400
    link.close()
    pid = league.gateway("lyon").kill()
    league.gateway("lyon").back(pid)
    pid = league.engine("lyon").kill()
    league.wait_until_whole()
    assert league.ask("lyon").status == 200


def everything_readable(league: League, own: set[Path]) -> Iterator[tuple[str, bytes]]:
    """Logs, tables, evidence, streams of the bus, processes' arguments and surroundings, and what ports tell people."""
    for path in league.root.rglob("*"):
        with contextlib.suppress(OSError):
            if (
                path.is_file()
                and path not in own
                and path.name not in MENTIONED
                and path.stat().st_size < 1 << 28
            ):
                yield str(path), path.read_bytes()
    for pid in league.processes():
        for name in ("cmdline", "environ"):
            with contextlib.suppress(OSError):
                yield f"{name} of {pid}", Path(f"/proc/{pid}/{name}").read_bytes()
    hub = league.runtime.hub
    assert hub is not None
    for path in ("/", "/api/view.json", "/api/history.json", "/api/scenario", "/openapi.json"):
        yield f"dashboard {path}", talk(hub.control_port, get(path))
    for site in league.runtime.sites:
        for path in ("/metrics", "/healthz", "/.well-known/hanse"):
            yield f"{site} {path}", league.get(site, path, key="demo").body
        request_id = league.ask(site, key="shop").request_id
        if request_id:
            yield f"{site} receipt", league.receipt(site, request_id, key="shop").body

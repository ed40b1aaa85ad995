"""The door over real TLS: whatever is sent, it answers with a refusal and never with a secret or a certificate."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from effort import effort
from hanse.live.ca import Authority, make_request, open_authority
from hanse.live.first_start import prepare
from hanse.live.fleet_change import change_problem, kept, numbered
from hanse.live.identity import SiteName, client_context, load_identity
from hanse.live.join import caller
from hanse.live.join import messages as m
from hanse.live.join.caller import OF_AN_ADDRESS_MAX
from hanse.live.join.door import Door
from hanse.live.join.token import TokenBook
from hanse.live.league_file import Answered, Change, LeagueStore
from hanse.live.runtime import StateDir
from live.join.test_compose import hosts_example
from ports import free_port

LEAGUE = (Path(__file__).parents[3] / "examples" / "league.toml").read_text()


@dataclass
class Open:
    """A door that listens, with the hub's files behind it and a controller that obeys."""

    door: Door
    state: StateDir
    authority: Authority
    port: int
    context: ssl.SSLContext

    def call(
        self, method: str, path: str, body: bytes = b"", *, source: str = "127.0.0.1"
    ) -> tuple[int, bytes]:
        connection = http.client.HTTPSConnection(
            "127.0.0.1", self.port, context=self.context, timeout=10, source_address=(source, 0)
        )
        try:
            connection.request(method, path, body)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def token(self, site: str = "joiner") -> str:
        return TokenBook(self.state.hub / "tokens.json").make(site, time.time())


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Open]:
    text = LEAGUE
    for port in range(8101, 8106):
        text = text.replace(f"port = {port}", "port = 0")
    with open_door(tmp_path_factory.mktemp("hub"), text) as made:
        yield made


@contextmanager
def open_door(home: Path, text: str) -> Iterator[Open]:
    (home / "league.toml").write_text(text)
    prepared = prepare(home / "league.toml", home / "state")
    hub, state = prepared.runtime.hub, prepared.state
    assert hub is not None
    hub = msgspec.structs.replace(hub, door_port=free_port("127.0.0.1"))
    name = prepared.fleet.name
    authority = open_authority(state.ca_dir, name, time.time(), make=False)
    assert authority is not None
    door = Door(state, authority, name, hub)

    async def obey(change: Change) -> Answered:
        known = LeagueStore(state.hub).newest()
        assert known is not None
        problem = change_problem(known, change)
        if problem:
            return Answered(revision=known.revision, problem=problem)
        league = numbered(known, change, state, time.time())
        kept(league, state)
        return Answered(revision=league.revision)

    door._ask = obey  # type: ignore[method-assign]
    identity = load_identity(state.site("hub") / "identity", name, "hub", time.time())
    context = client_context(identity)
    context.check_hostname = False
    loop = asyncio.new_event_loop()
    serving: list[asyncio.Task[Any]] = []

    def serve() -> None:
        asyncio.set_event_loop(loop)
        serving.append(loop.create_task(door._listen(identity)))
        loop.run_until_complete(asyncio.wait(serving))

    thread = threading.Thread(target=serve)
    thread.start()
    made = Open(door, state, authority, hub.door_port, context)
    end_s = time.monotonic() + 10
    while True:
        try:
            made.call("GET", m.AUTHORITY)
            break
        except OSError:
            assert time.monotonic() < end_s
            time.sleep(0.05)
    yield made
    loop.call_soon_threadsafe(serving[0].cancel)
    thread.join(10)
    loop.close()


def request_pem(key: Ed25519PrivateKey, site: str = "joiner", fleet: str = "league") -> str:
    return make_request(key, SiteName(fleet, site)).decode()


def asked(secret: str, pem: str, site: str = "joiner", **host: Any) -> bytes:
    facts = msgspec.structs.replace(hosts_example(), **host)
    return msgspec.json.encode(m.JoinRequest(site=site, secret=secret, request_pem=pem, host=facts))


def issued(opened: Open) -> int:
    return len(json.loads((opened.state.ca_dir / "issued.json").read_text())["issued"])


@settings(max_examples=effort(80), deadline=None)
@given(
    path=st.sampled_from([m.HELLO, m.JOIN, m.AUTHORITY, "/", "/../ca/ca.key", "/v1/join/"]),
    body=st.one_of(
        st.binary(max_size=300),
        st.recursive(
            st.none() | st.booleans() | st.floats(allow_nan=False) | st.text(max_size=20),
            lambda inner: (
                st.lists(inner, max_size=4)
                | st.dictionaries(st.text(max_size=12), inner, max_size=4)
            ),
            max_leaves=12,
        ).map(lambda value: json.dumps(value).encode()),
    ),
)
def test_noise_is_refused_and_makes_nothing(opened: Open, path: str, body: bytes) -> None:
    before = issued(opened)
    status, answer = opened.call("POST", path, body)
    assert 400 <= status < 500
    assert b"PRIVATE" not in answer
    assert issued(opened) == before


def test_a_wrong_token_is_told_nothing_and_a_right_one_is_let_in_once(opened: Open) -> None:
    key, other = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    secret = opened.token()
    status, answer = opened.call("POST", m.JOIN, asked("wrong", request_pem(key)))
    assert (status, json.loads(answer)) == (403, {"error": "token unknown"})
    status, answer = opened.call("POST", m.JOIN, asked(secret, request_pem(key)))
    assert status == 200
    taken = msgspec.json.decode(answer, type=m.JoinAnswer)
    made = x509.load_pem_x509_certificate(taken.certificate_pem.encode())
    assert made.public_key() == key.public_key()
    again, _ = opened.call("POST", m.JOIN, asked(secret, request_pem(key)))
    assert again == 200, "the answer may have been lost"
    status, answer = opened.call("POST", m.JOIN, asked(secret, request_pem(other)))
    assert (status, json.loads(answer)) == (403, {"error": "token spent"})


def test_a_token_of_one_site_gets_no_certificate_of_another(opened: Open) -> None:
    key, secret = Ed25519PrivateKey.generate(), opened.token("mine")
    before = issued(opened)
    for site, name in (("frankfurt", "frankfurt"), ("hub", "hub"), ("mine", "frankfurt")):
        status, _ = opened.call("POST", m.JOIN, asked(secret, request_pem(key, name), site))
        assert 400 <= status < 500
    assert issued(opened) == before


def test_a_site_cannot_have_the_hubs_or_anothers_name_in_its_certificate(opened: Open) -> None:
    """Its own word says where it is reached: names that mean somebody else are left out."""
    for number, name in enumerate(
        ("hub.hanse", "frankfurt.hanse", "frankfurt.1.hanse", "Hub.Hanse", "hub.hanse.")
    ):
        site = f"evil{number}"
        key, secret = Ed25519PrivateKey.generate(), opened.token(site)
        body = asked(
            secret,
            request_pem(key, site),
            site,
            reached_at=name,
            host="10.0.0.7",
            port=9000 + number,
            hop_port=9100 + number,
        )
        status, answer = opened.call("POST", m.JOIN, body)
        assert status == 200, answer
        taken = msgspec.json.decode(answer, type=m.JoinAnswer)
        made = x509.load_pem_x509_certificate(taken.certificate_pem.encode())
        names = made.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert set(names.get_values_for_type(x509.DNSName)) == {f"{site}.hanse", f"{site}.1.hanse"}


@pytest.mark.parametrize(
    ("hub", "asked"),
    [
        ("hub.example.org", "HUB.example.org"),
        ("hub.example.org", "hub.example.org."),
        ("Hub.Example.org", "hub.example.org"),
        ("10.0.0.1", "::ffff:10.0.0.1"),
        ("10.0.0.1", "::FFFF:a00:1"),
        ("fd00::1", "fd00:0:0:0:0:0:0:1"),
    ],
)
def test_the_hubs_name_is_known_however_it_is_written(
    opened: Open, monkeypatch: pytest.MonkeyPatch, hub: str, asked: str
) -> None:
    here = msgspec.structs.replace(opened.door._hub, reached_at=hub)
    monkeypatch.setattr(opened.door, "_hub", here)
    assert opened.door._own_names(asked, "10.0.0.7", "Lyon.example.org") == (
        "10.0.0.7",
        "Lyon.example.org",
    )


def test_a_question_for_renewal_after_revocation_is_refused(opened: Open) -> None:
    key, secret = Ed25519PrivateKey.generate(), opened.token("gone")
    body = asked(secret, request_pem(key, "gone"), "gone", port=9700, hop_port=9701)
    assert opened.call("POST", m.JOIN, body)[0] == 200

    def renew() -> m.RenewAnswer:
        answers: list[bytes] = []

        async def respond(data: bytes) -> None:
            answers.append(data)

        data = request_pem(key, "gone").encode()
        message = SimpleNamespace(subject="site.gone.renew", data=data, respond=respond)
        asyncio.run(opened.door._renew(message))
        return msgspec.msgpack.decode(answers[0], type=m.RenewAnswer)

    assert renew().error == ""
    opened.authority.revoke("gone", time.time())
    assert "revoked" in renew().error


def test_a_fleet_that_would_be_wrong_spends_no_token(opened: Open) -> None:
    key, secret = Ed25519PrivateKey.generate(), opened.token("late")
    status, answer = opened.call(
        "POST", m.JOIN, asked(secret, request_pem(key, "late"), "late", country="XX")
    )
    assert status == 409, answer
    assert (
        opened.call(
            "POST",
            m.JOIN,
            asked(secret, request_pem(key, "late"), "late", port=9500, hop_port=9501),
        )[0]
        == 200
    )


def silent(opened: Open, begun: bytes = b"") -> ssl.SSLSocket:
    """A connection that says no more than the beginning of a request."""
    plain = socket.create_connection(("127.0.0.1", opened.port), timeout=10)
    made = opened.context.wrap_socket(plain, server_hostname="door")
    made.sendall(begun)
    return made


def ended(connection: ssl.SSLSocket) -> bool:
    try:
        return connection.recv(1) == b""
    except ConnectionError:
        return True


def test_who_holds_many_connections_keeps_no_other_out(opened: Open) -> None:
    with ExitStack() as held:
        for _ in range(OF_AN_ADDRESS_MAX):
            held.enter_context(silent(opened))
        for _ in range(3 * OF_AN_ADDRESS_MAX):
            assert ended(held.enter_context(silent(opened)))
        assert opened.call("GET", m.AUTHORITY, source="127.0.0.2")[0] == 200


@pytest.mark.parametrize(
    "begun",
    [b"", b"POST /v1/jo", b"POST %b HTTP/1.1\r\nhost: door\r\ncontent-length: 9\r\n\r\nx" % m.JOIN.encode()],
)  # fmt: skip
def test_a_connection_on_which_nothing_comes_is_closed(
    opened: Open, monkeypatch: pytest.MonkeyPatch, begun: bytes
) -> None:
    monkeypatch.setattr(caller, "ARRIVES_S_MAX", 0.2)
    with silent(opened, begun) as connection:
        assert ended(connection)


def test_too_much_is_refused_before_it_is_read(opened: Open) -> None:
    status, _ = opened.call("POST", m.JOIN, b" " * (m.BODY_BYTES_MAX + 1))
    assert status == 413

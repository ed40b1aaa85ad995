"""A further hub comes with a token of its own, gets what a hub needs, and never the authority's key."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from hanse.errors import ConfigError
from hanse.live import bus
from hanse.live.ca import make_request
from hanse.live.first_start import resume
from hanse.live.fleet_change import change_problem
from hanse.live.hubs import together
from hanse.live.identity import SiteName
from hanse.live.join import messages as m
from hanse.live.join.compose import first_fleet
from hanse.live.join.hub import come_as_hub, until_together
from hanse.live.join.token import Token, TokenBook
from hanse.live.league_file import Change, LeagueStore
from hanse.live.runtime import StateDir
from hanse.model.fleet import OtherHub
from live.join.test_compose import hosts_example
from live.join.test_door import Open, open_door, request_pem
from ports import free_port


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Open]:
    home = tmp_path / "first"
    home.mkdir()
    leaf, door = free_port("127.0.0.1"), free_port("127.0.0.1")
    host = msgspec.structs.replace(
        hosts_example(), host="127.0.0.1", reached_at="127.0.0.1",
        port=free_port("127.0.0.1"), hop_port=free_port("127.0.0.1"),
    )  # fmt: skip
    text = first_fleet("home", "berlin", host, hub_host="127.0.0.1", leaf_port=leaf, door_port=door)
    with open_door(home, text) as made:
        yield made


def come(opened: Open, name: str, home: Path, secret: str = "") -> StateDir:
    book = TokenBook(opened.state.hub / "tokens.json")
    token = Token(
        role="hub",
        fleet="home",
        site=name,
        hub=(f"127.0.0.1:{opened.port}",),
        authority_sha256=opened.authority.fingerprint,
        secret=secret or book.make(name, time.time(), role="hub"),
    )
    own = OtherHub(id=name, host="127.0.0.9", leaf_port=free_port("127.0.0.1"), cluster_port=9)
    state = StateDir(home)
    come_as_hub(token, own, state, lambda _line: None)
    return state


def test_two_come_and_the_first_of_them_waits_for_the_second(opened: Open, tmp_path: Path) -> None:
    second = come(opened, "second", tmp_path / "second")
    assert not (second.ca_dir / "ca.key").exists()
    assert bus.hub_secrets(second).cluster == bus.hub_secrets(opened.state).cluster
    assert bus.hub_secrets(second).controller != bus.hub_secrets(opened.state).controller
    prepared = resume(second.path)
    hub = prepared.runtime.hub
    assert hub is not None
    assert (hub.id, hub.reached_at) == ("second", "127.0.0.9")
    assert not together(prepared.fleet)
    assert not list(second.keys_dir.glob("*")), "keys are known by their digests"
    come(opened, "third", tmp_path / "third")

    async def wait() -> Any:
        return await until_together(prepared, asyncio.Event(), lambda _line: None)

    fleet = asyncio.run(asyncio.wait_for(wait(), 20))
    assert [other.id for other in fleet.hub.others] == ["second", "third"]
    newest = LeagueStore(second.hub).newest()
    assert newest is not None
    assert newest.fleet() == fleet
    with pytest.raises(ConfigError, match="3 hubs"):
        come(opened, "fourth", tmp_path / "fourth")
    come(opened, "third", tmp_path / "another-third")  # in the place of one that is lost


def test_a_sites_token_makes_no_hub_and_news_are_for_hubs_alone(
    opened: Open, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="token other site"):
        come(opened, "second", tmp_path / "second", opened.token("second"))
    waits = m.HubWaits(hub="second", cluster_secret="guessed")
    status, answer = opened.call("POST", m.HUB_NEWS, msgspec.json.encode(waits))
    assert status == 403
    assert b"issued" not in answer


def test_the_same_key_is_renewed_by_a_certificate_that_stands_and_no_other(
    opened: Open, tmp_path: Path
) -> None:
    second = come(opened, "second", tmp_path / "second")
    pem = (second.site("hub") / "identity" / "site.pem").read_text()
    from hanse.live.identity import load_key

    key = load_key(second.site("hub") / "identity" / "site.key")

    def renew(asked: bytes) -> m.RenewAnswer:
        answers: list[bytes] = []

        async def respond(data: bytes) -> None:
            answers.append(data)

        message = SimpleNamespace(data=asked, respond=respond)
        asyncio.run(opened.door._hubs.renew(message))
        return msgspec.msgpack.decode(answers[0], type=m.RenewAnswer)

    def asked(request: str, certificate: str) -> bytes:
        renewal = m.HubRenewal(request_pem=request, certificate_pem=certificate)
        return msgspec.msgpack.encode(renewal)

    mine = make_request(key, SiteName("home", "hub")).decode()
    made = renew(asked(mine, pem))
    assert made.error == ""
    old, new = (x509.load_pem_x509_certificate(p.encode()) for p in (pem, made.certificate_pem))
    names = [
        one.extensions.get_extension_for_class(x509.SubjectAlternativeName) for one in (old, new)
    ]
    assert set(names[0].value) == set(names[1].value)
    assert new.public_key() == old.public_key()
    other = request_pem(Ed25519PrivateKey.generate(), "hub", "home")
    assert renew(asked(other, pem)).error
    assert renew(asked(mine, pem.replace("A", "B"))).error
    assert renew(b"noise").error
    opened.authority.revoke("hub", time.time())
    assert renew(asked(mine, pem)).error


def test_a_hub_that_joins_changes_the_hubs_of_a_file_and_nobody_else_may(opened: Open) -> None:
    known = LeagueStore(opened.state.hub).newest()
    assert known is not None
    asked = m.HubRequest(
        hub=OtherHub(id="second", host="10.0.0.2", leaf_port=1, cluster_port=2),
        secret="", request_pem="",
    )  # fmt: skip
    change = opened.door._hubs.change(known, asked)
    assert change is not None
    runs = {site.id for site in known.fleet().sites}
    assert change_problem(known, change, runs=runs) == ""
    by_hand: Change = msgspec.structs.replace(change, by="root")
    assert "hub." in change_problem(known, by_hand, runs=runs)

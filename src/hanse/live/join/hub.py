"""A machine becomes a further hub of a league, and waits until the league has three.

Here: `come_as_hub` (key, certificate, everything that `hanse hub` reads) and `until_together`. Not here: the first hub's side
(`join.hub_door`), what a hub does (`live.hub`).

Everything a further hub has, it has from the first one: the fleet in force, who may sit at a hub's bus, and the secret that hubs share.
It never has the authority's key.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import random
import time
from collections.abc import Callable
from typing import Final

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from hanse.errors import ConfigError, HanseError
from hanse.live import bus
from hanse.live.ca import ensure_key, make_request, write_file
from hanse.live.first_start import Prepared
from hanse.live.fleet_change import kept
from hanse.live.hub_bus import CLUSTERED
from hanse.live.hubs import together
from hanse.live.identity import SiteName, load_identity
from hanse.live.join import messages as m
from hanse.live.join.come import ask_door, meet, trusting
from hanse.live.join.token import Token
from hanse.live.league_file import LeagueFile, LeagueStore, league_from_bytes, league_refusal
from hanse.live.revoked import REVOKED
from hanse.live.runtime import (
    HUB,
    LOOPBACK,
    HubAddress,
    Runtime,
    StateDir,
    free_port,
    replace_file,
)
from hanse.model.fleet import Fleet, OtherHub

NEWS_EVERY_S: Final = 2.0
DOOR: Final = "door.json"
"""Where the first hub's door is, in a further hub's directory."""

Say = Callable[[str], None]


def come_as_hub(token: Token, own: OtherHub, state: StateDir, say: Say) -> LeagueFile:
    """Make the key, ask to be taken in, and write what a start needs; may be called again after a failure.

    Raises:
        ConfigError: the first hub refuses; says why.
        SiteError: it does not answer.
    """
    refuse_other_hub(state, token)
    door, authority = meet(token)
    say(f"hub {door}: its authority is the token's ({token.authority_sha256[:16]}...)")
    home = state.site(HUB) / "identity"
    key = ensure_key(home)
    request = make_request(key, SiteName(token.fleet, HUB)).decode()
    asked = m.HubRequest(hub=own, secret=token.secret, request_pem=request)
    answer = ask_door(door, m.HUB, asked, trusting(authority), m.HubAnswer)
    state.make((HUB,), hub=True)
    write_file(home / "ca.pem", authority.public_bytes(Encoding.PEM))
    write_file(home / "site.pem", answer.certificate_pem.encode())
    load_identity(home, token.fleet, HUB, time.time())
    write_file(state.ca_dir / "ca.pem", authority.public_bytes(Encoding.PEM))
    bus.ensure_secrets(state, (), hub=True, cluster=answer.cluster_secret)
    league = take_news(answer.news, state)
    replace_file(state.hub / DOOR, msgspec.json.encode(door))
    if not (state.hub / CLUSTERED).exists():
        replace_file(state.hub / CLUSTERED, b"")  # it never was alone: nothing to bring along
    state.write_runtime(Runtime(fleet=token.fleet, hub=_address(own, state), sites={}))
    return league


def _address(own: OtherHub, state: StateDir) -> HubAddress:
    """Loopback ports are chosen once."""
    if state.runtime_json.exists():
        known = state.read_runtime().hub
        assert known is not None, "refuse_other_hub has looked"
        return msgspec.structs.replace(known, leaf_port=own.leaf_port, reached_at=own.host)
    ports: list[int] = []
    for _ in range(2):
        ports.append(free_port(LOOPBACK, ports, random.Random()))
    return HubAddress(
        id=own.id,
        client_port=ports[0],
        control_port=ports[1],
        leaf_port=own.leaf_port,
        leaf_host=_listening(own.host),
        reached_at=own.host,
    )


def _listening(host: str) -> str:
    """Where others reach it; behind a name, everywhere."""
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        return "0.0.0.0"


def refuse_other_hub(state: StateDir, token: Token) -> None:
    """A state directory holds one hub, and nothing else.

    Raises:
        ConfigError: it holds another, or a site.
    """
    if not state.runtime_json.exists():
        return
    known = state.read_runtime()
    if known.fleet != token.fleet or known.hub is None or known.hub.id != token.site:
        raise ConfigError(
            "--state",
            got=f"{state.path}, which holds something else of fleet {known.fleet!r}",
            allowed="a directory of its own for this hub",
        )


def take_news(news: m.HubNews, state: StateDir) -> LeagueFile:
    """Onto the disk, as if it had been decided here.

    Raises:
        ConfigError: it is of a version that this one does not read.
    """
    league = league_from_bytes(news.league)
    if league is None:
        why = league_refusal(news.league)
        raise ConfigError("hub", got=why, fix="install the hub's version")
    write_file(state.ca_dir / "issued.json", news.register, secret=True)
    if news.revoked:
        write_file(state.ca_dir / REVOKED, news.revoked)
    newest = LeagueStore(state.hub).newest()
    if newest is None or newest.revision <= league.revision:
        kept(league, state)
    return league


async def until_together(prepared: Prepared, ended: asyncio.Event, say: Say) -> Fleet | None:
    """The fleet in force once it has three hubs; None: ended before."""
    fleet = prepared.fleet
    if not together(fleet):
        say("waits: a league is decided by one hub or by three, and this is the second")
    while not together(fleet) and not ended.is_set():
        try:
            fleet = await asyncio.to_thread(_ask_for_news, prepared)
        except (HanseError, OSError) as error:
            say(f"no news of the first hub: {error}")
        if not together(fleet):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(NEWS_EVERY_S):
                    await ended.wait()
    return fleet if together(fleet) else None


def _ask_for_news(prepared: Prepared) -> Fleet:
    state, hub = prepared.state, prepared.runtime.hub
    assert hub is not None, "a further hub"
    authority = x509.load_pem_x509_certificate((state.ca_dir / "ca.pem").read_bytes())
    door = msgspec.json.decode((state.hub / DOOR).read_bytes(), type=str)
    asked = m.HubWaits(hub=hub.id, cluster_secret=bus.hub_secrets(state).cluster)
    news = ask_door(door, m.HUB_NEWS, asked, trusting(authority), m.HubNews)
    return take_news(news, state).fleet()

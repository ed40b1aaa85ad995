"""The joining machine's side: from a token to a site that is ready to start.

Here: talking to the hub's door, making the key, measuring ways, writing the state directory. Not here: questions to a person (`cli.join`),
looking at the host (`join.probe`), running the site (`live.site_group`).

Nothing that the machine is told counts before the authority's certificate has the fingerprint in the token, and the token's secret is
said only inside TLS that this authority vouches for.
"""

from __future__ import annotations

import asyncio
import hashlib
import http.client
import ssl
import time
from collections.abc import Callable
from typing import Any, Final, TypeVar

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from hanse.errors import ConfigError, SiteError
from hanse.live import bus
from hanse.live.ca import ensure_key, fingerprint, make_request, write_file
from hanse.live.hubs import other_leaves
from hanse.live.identity import SiteName, host_name, load_identity
from hanse.live.join import messages as m
from hanse.live.join.probe import rtt_ms
from hanse.live.join.token import Token
from hanse.live.league_file import (
    LEAGUE,
    LeagueFile,
    lay_out,
    league_bytes,
    league_from_bytes,
    league_refusal,
)
from hanse.live.revoked import RevokedFile
from hanse.live.runtime import (
    HUB,
    Runtime,
    SiteAddress,
    StateDir,
    plan_site,
    replace_file,
)
from hanse.live.supervise import signal_pid
from hanse.model.fleet import Value
from hanse.model.told import UNREADABLE

T = TypeVar("T")

ANSWER_S_MAX: Final = 15.0
"""The door asks the controller, which solves nothing for it; the rest is the WAN."""
TRIES: Final = 3
ANSWER_BYTES_MAX: Final = 16 * 1024 * 1024

Say = Callable[[str], None]


class Come(Value, frozen=True, kw_only=True):
    """A machine that is a site now."""

    site: str
    fleet: str
    state_path: str
    address: SiteAddress
    revision: int
    rtt_ms: dict[str, float]


def meet(token: Token) -> tuple[str, x509.Certificate]:
    """The address of the first door that answers, and the authority that the token names.

    Raises:
        SiteError: none answers.
        ConfigError: who answers shows another authority: a wrong address, or somebody in between.
    """
    reasons = []
    for address in token.hub:
        try:
            status, body = _call(address, "GET", m.AUTHORITY, b"", _blind())
        except (OSError, http.client.HTTPException) as error:
            reasons.append(f"{address}: {error}")
            continue
        authority = _certificate(body) if status == 200 else None
        if authority is None or fingerprint(authority) != token.authority_sha256:
            raise ConfigError(
                address,
                got="an authority that is not the token's",
                allowed=f"SHA-256 {token.authority_sha256[:16]}...",
                fix="do not trust the network in between; make a new token at the hub",
            )
        return address, authority
    raise SiteError(
        "hub",
        got="; ".join(reasons),
        allowed="one that answers",
        fix="is it running (`hanse up` or `hanse hub`), and is its door's port open to this machine?",
    )


def come(token: Token, host: m.Host, state: StateDir, say: Say) -> Come:
    """Make the key, ask to be taken in, and write what a start needs; may be called again after a failure.

    Raises:
        ConfigError: the hub refuses; says why.
        SiteError: the hub does not answer.
    """
    refuse_other(state, token)
    door, authority = meet(token)
    say(f"hub {door}: its authority is the token's ({token.authority_sha256[:16]}...)")
    identity_dir = state.site(token.site) / "identity"
    key = ensure_key(identity_dir)
    der = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    tls = trusting(authority)
    hello = m.Hello(
        site=token.site, secret=token.secret, public_sha256=hashlib.sha256(der).hexdigest()
    )
    ways = ask_door(door, m.HELLO, hello, tls, m.HelloAnswer)
    measured = asyncio.run(_measure(ways.hops | {HUB: door}))
    for site, took_ms in measured.items():
        say(f"way to {site}: {took_ms:.2f} ms")
    request = make_request(key, SiteName(token.fleet, token.site)).decode()
    asked = m.JoinRequest(
        site=token.site, secret=token.secret, request_pem=request, host=host, rtt_ms=measured
    )
    answer = ask_door(door, m.JOIN, asked, tls, m.JoinAnswer)
    league = league_from_bytes(answer.league)
    if league is None:
        why = league_refusal(answer.league)
        raise ConfigError("hub", got=why, fix="install the hub's version")
    address = _settle(token, host, state, authority, answer, league)
    return Come(
        site=token.site,
        fleet=token.fleet,
        state_path=str(state.path),
        address=address,
        revision=league.revision,
        rtt_ms=measured,
    )


def refuse_other(state: StateDir, token: Token) -> None:
    """A state directory holds one fleet; on a machine that joined, one site.

    Raises:
        ConfigError: it holds another.
    """
    if not state.runtime_json.exists():
        return
    known = state.read_runtime()
    if known.fleet != token.fleet or set(known.sites) != {token.site} or known.hub is not None:
        raise ConfigError(
            "--state",
            got=f"{state.path}, which holds fleet {known.fleet!r}, sites {', '.join(known.sites)}",
            allowed="a directory of its own for this site",
        )


def _settle(
    token: Token,
    host: m.Host,
    state: StateDir,
    authority: x509.Certificate,
    answer: m.JoinAnswer,
    league: LeagueFile,
) -> SiteAddress:
    """Write everything that `hanse site` reads; `runtime.json` last, since it says that the rest is there."""
    site, home = token.site, state.site(token.site)
    state.make((site,), hub=False)
    write_file(home / "identity" / "ca.pem", authority.public_bytes(Encoding.PEM))
    write_file(home / "identity" / "site.pem", answer.certificate_pem.encode())
    if answer.revoked:
        RevokedFile(home / "identity", authority).accept(answer.revoked)
    load_identity(
        home / "identity", token.fleet, site, time.time()
    )  # what cannot start is said now
    lay_out(league, state)
    replace_file(state.keys_json, msgspec.json.encode(league.digests))
    replace_file(home / LEAGUE, league_bytes(league))
    found = next(one for one in league.fleet().sites if one.id == site)
    address = plan_site(league.fleet(), found, state.path, hub_leaf=answer.hub_leaf)
    runtime = Runtime(fleet=token.fleet, sites={site: address})
    bus.ensure_secrets(state, (site,), hub=False)
    bus.write_leaf_conf(runtime, state, site, other_leaves(league.fleet()))
    state.write_runtime(runtime)
    signal_pid(home / "pid" / "nats.pid")  # of a site that runs and joins again
    return address


async def _measure(ways: dict[str, str]) -> dict[str, float]:
    async def one(address: str) -> float | None:
        host, _, port = address.rpartition(":")
        return await rtt_ms(host.strip("[]"), int(port))

    taken = await asyncio.gather(*(one(address) for address in ways.values()))
    return {name: ms for name, ms in zip(ways, taken, strict=True) if ms is not None}


# --- HTTPS to the door -----------------------------------------------------------------------------


def ask_door(door: str, path: str, value: Any, tls: ssl.SSLContext, kind: type[T]) -> T:
    """What a door answers.

    Raises:
        ConfigError: it refuses; says why.
        SiteError: it does not answer.
    """
    last: Exception | None = None
    for attempt in range(TRIES):
        try:
            status, body = _call(door, "POST", path, msgspec.json.encode(value), tls)
        except (OSError, http.client.HTTPException) as error:
            last = error
            time.sleep(attempt)
            continue
        try:
            if status == 200:
                return msgspec.json.decode(body, type=kind)
            why = msgspec.json.decode(body, type=m.Refused).error
        except UNREADABLE:
            why = f"status {status}"
        raise ConfigError("hub", got=f"refusal: {why}", fix=_cure(why))
    raise SiteError(door, got=repr(last), fix="try again: the token holds for this machine's key")


def _cure(why: str) -> str:
    return "`hanse token SITE` at the hub makes a new one" if why.startswith("token") else ""


def _call(
    address: str, method: str, path: str, body: bytes, tls: ssl.SSLContext
) -> tuple[int, bytes]:
    host, _, port = address.rpartition(":")
    connection = _Pinned(host.strip("[]"), int(port), context=tls, timeout=ANSWER_S_MAX)
    try:
        headers = {"content-type": "application/json", "connection": "close"}
        connection.request(method, path, body or None, headers)
        response = connection.getresponse()
        return response.status, response.read(ANSWER_BYTES_MAX)
    finally:
        connection.close()


class _Pinned(http.client.HTTPSConnection):
    """TLS that expects the hub's name in the certificate, whatever the address is."""

    def connect(self) -> None:
        http.client.HTTPConnection.connect(self)
        context: ssl.SSLContext = self._context  # type: ignore[attr-defined]
        self.sock = context.wrap_socket(self.sock, server_hostname=host_name(HUB))


def _blind() -> ssl.SSLContext:
    """Only to fetch the authority's certificate, which is public and compared with the token's fingerprint."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def trusting(authority: x509.Certificate) -> ssl.SSLContext:
    """TLS that takes whom this authority has certified."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_verify_locations(cadata=authority.public_bytes(Encoding.PEM).decode())
    return context


def _certificate(pem: bytes) -> x509.Certificate | None:
    try:
        return x509.load_pem_x509_certificate(pem)
    except ValueError:
        return None

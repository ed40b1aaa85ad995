"""The hub's door: `python -m hanse.live.join.door --state DIR`, the one process that uses the authority's key.

Here: letting machines with a token in (HTTPS), renewing certificates (over the bus), keeping the hub's own fresh. Not here: what a
machine's arrival makes of the fleet file (`join.compose`), taking that into force (the controller).

Who reaches it without a token learns the authority's certificate, which is public, and nothing else. The door says who it is before
a token is shown: the machine compares the authority with the fingerprint in its token (`join.come`). A token is spent only when the
fleet has taken the site in, so that a refusal for another reason costs nobody a walk.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import ssl
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec
import uvicorn
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from nats.aio.client import Client
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from hanse.errors import ConfigError, HanseError, SiteError
from hanse.live import bus
from hanse.live.ask_change import FOLLOWED_S_MAX
from hanse.live.ca import Authority, ensure_identity, key_digest, open_authority, read_request
from hanse.live.fleet_change import JOINING
from hanse.live.hubs import names_of_hubs, plain_name
from hanse.live.identity import Identity
from hanse.live.join import messages as m
from hanse.live.join.caller import Caller
from hanse.live.join.compose import with_site
from hanse.live.join.hub_door import HubDoor
from hanse.live.join.token import TokenBook
from hanse.live.league_file import Answered, Change, LeagueFile, LeagueStore, league_bytes
from hanse.live.logline import log_line
from hanse.live.reach import hop_addresses
from hanse.live.runtime import HUB, HubAddress, StateDir
from hanse.live.supervise import end_on_signals, signal_pid, write_pid
from hanse.model.told import UNREADABLE
from hanse.units import SECONDS_PER_HOUR

T = TypeVar("T")

CHANGE_S_MAX: Final = 5.0
TRIES: Final = 4
"""Two machines that join in the same second: the second is asked to be composed anew."""
OWN_ENDING: Final = ".hanse"
"""Of `identity.host_name` and `ca.seat_name`."""
OWN_EVERY_S: Final = SECONDS_PER_HOUR
"""How often the hub looks at its own certificate; it has twenty days."""
REQUESTS_AT_ONCE_MAX: Final = 32


class Door:
    """See the module."""

    def __init__(self, state: StateDir, authority: Authority, fleet: str, hub: HubAddress) -> None:
        self._state = state
        self._authority = authority
        self._fleet = fleet
        self._hub = hub
        self._tokens = TokenBook(state.hub / "tokens.json")
        self._hubs = HubDoor(state, authority, hub)
        self._client = Client()
        self._tls: ssl.SSLContext | None = None
        self.app = Starlette(
            routes=[
                Route(m.AUTHORITY, self._say_authority),
                Route(m.HELLO, self._hello, methods=["POST"]),
                Route(m.JOIN, self._join, methods=["POST"]),
                Route(m.HUB, self._join_hub, methods=["POST"]),
                Route(m.HUB_NEWS, self._tell_hub, methods=["POST"]),
            ]
        )

        self.app.router.redirect_slashes = False

    async def run(self) -> None:
        """Serve until cancelled."""
        identity = self._own_identity()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._listen(identity))
            tasks.create_task(self._keep_own())
            self._client = await bus.connect_when_up(self._connect, give_up_s=float("inf"))
            await self._client.subscribe(bus.site_subject("*", "renew"), cb=self._renew)
            await self._client.subscribe(bus.RENEW_SUBJECT, cb=self._hubs.renew)

    async def close(self) -> None:
        """Leave the bus."""
        await bus.leave(self._client)

    async def _connect(self) -> Client:
        return await bus.connect_door(self._state.read_runtime(), self._state, name="door")

    async def _listen(self, identity: Identity) -> None:
        config = uvicorn.Config(
            self.app,
            http=Caller,
            host=self._hub.leaf_host,
            port=self._hub.door_port,
            ssl_certfile=identity.certificate_path,
            ssl_keyfile=identity.key_path,
            log_level="warning",
            access_log=False,
            limit_concurrency=REQUESTS_AT_ONCE_MAX,
            timeout_keep_alive=5,
            timeout_graceful_shutdown=1,
            server_header=False,
        )
        config.load()
        assert config.ssl is not None, "a certificate was given"
        config.ssl.minimum_version = ssl.TLSVersion.TLSv1_3
        self._tls = config.ssl
        server = _Server(config)
        serving = asyncio.create_task(server.serve())
        try:
            await asyncio.shield(serving)
        except asyncio.CancelledError:
            server.should_exit = True
            await serving
            raise

    # --- the hub's own certificate

    def _own_identity(self) -> Identity:
        hosts = (self._hub.reached_at, self._hub.leaf_host)
        return ensure_identity(self._state.path, self._fleet, HUB, time.time(), hosts=hosts)

    async def _keep_own(self) -> None:
        """New connections see a renewed certificate; the bus reads it anew without losing one."""
        known = self._own_identity().certificate
        while True:
            await asyncio.sleep(OWN_EVERY_S)
            identity = self._own_identity()
            if identity.certificate != known and self._tls is not None:
                known = identity.certificate
                self._tls.load_cert_chain(identity.certificate_path, identity.key_path)
                signal_pid(self._state.hub / "pid" / "nats.pid")
                log_line("the hub's certificate is renewed")

    # --- machines

    async def _say_authority(self, _request: Request) -> Response:
        pem = self._authority.certificate.public_bytes(Encoding.PEM)
        return Response(pem, media_type="application/x-pem-file")

    async def _hello(self, request: Request) -> Response:
        asked = await _read(request, m.Hello)
        if isinstance(asked, Response):
            return asked
        refusal = self._tokens.refusal(asked.secret, asked.site, asked.public_sha256, time.time())
        if refusal is not None:
            return _refused(asked.site, f"token {refusal}", 403)
        fleet = self._newest().fleet()
        hops = hop_addresses(fleet, without=asked.site)
        return _answer(m.HelloAnswer(fleet=fleet.name, hops=hops))

    async def _join(self, request: Request) -> Response:
        asked = await _read(request, m.JoinRequest)
        if isinstance(asked, Response):
            return asked
        try:
            signing = read_request(asked.request_pem.encode())
        except ConfigError as error:
            return _refused(asked.site, str(error), 400)
        key = public_digest(signing)
        refusal = self._tokens.refusal(asked.secret, asked.site, key, time.time())
        if refusal is not None:
            return _refused(asked.site, f"token {refusal}", 403)
        try:
            league = await self._take_in(asked)
            refusal = self._tokens.spend(asked.secret, asked.site, key, time.time())
            if refusal is not None:
                return _refused(asked.site, f"token {refusal}", 403)
            hosts = self._own_names(asked.host.reached_at, asked.host.host)
            made = self._authority.answer(
                asked.request_pem.encode(), asked.site, time.time(), hosts
            )
        except HanseError as error:
            return _refused(asked.site, str(error), 409)
        log_line(f"{asked.site} joined from {_who(request)}: fleet revision {league.revision}")
        return _answer(
            m.JoinAnswer(
                certificate_pem=made.public_bytes(Encoding.PEM).decode(),
                hub_leaf=f"{self._hub.reached_at}:{self._hub.leaf_port}",
                league=league_bytes(league),
                revoked=self._revoked(),
            )
        )

    async def _take_in(self, asked: m.JoinRequest) -> LeagueFile:
        """The revision that has the site in it; one that has it just so already is enough.

        Raises:
            ConfigError: the fleet would not be a right one with it.
            SiteError: no controller leads.
        """

        def change(known: LeagueFile) -> Change | None:
            text = with_site(known.toml, asked.site, asked.host, asked.rtt_ms)
            joined = tuple(dict.fromkeys((*known.joined, asked.site)))
            if text == known.toml and joined == known.joined:
                return None
            return Change(
                base=known.revision,
                toml=text,
                files=known.files,
                by=JOINING,
                why=f"{asked.site} joined",
                joined=joined,
            )

        return await self._change(change)

    async def _change(self, make: Callable[[LeagueFile], Change | None]) -> LeagueFile:
        """The revision that a change makes, composed anew where others changed the fleet meanwhile; None of it to do: the one in force."""
        for _ in range(TRIES):
            known = self._newest()
            change = make(known)
            if change is None:
                return known
            answer = await self._ask(change)
            await self._until_here(answer.revision)
            if not answer.problem:
                return LeagueStore(self._state.hub).get(answer.revision)
            if answer.revision == change.base:
                raise ConfigError("fleet", got=answer.problem)
        raise SiteError("fleet", got="others changed it meanwhile", fix="try again")

    async def _until_here(self, revision: int) -> None:
        """Where another hub leads, this one's disk has its decisions a second later."""
        until_s = time.monotonic() + FOLLOWED_S_MAX
        while self._newest().revision < revision and time.monotonic() < until_s:  # noqa: ASYNC110  (a file)
            await asyncio.sleep(0.1)

    # --- further hubs

    async def _join_hub(self, request: Request) -> Response:
        asked = await _read(request, m.HubRequest)
        if isinstance(asked, Response):
            return asked
        hub = asked.hub
        try:
            key = public_digest(read_request(asked.request_pem.encode()))
        except ConfigError as error:
            return _refused(hub.id, str(error), 400)
        refusal = self._tokens.refusal(asked.secret, hub.id, key, time.time(), "hub")
        if refusal is not None:
            return _refused(hub.id, f"token {refusal}", 403)
        try:
            league = await self._change(lambda known: self._hubs.change(known, asked))
            refusal = self._tokens.spend(asked.secret, hub.id, key, time.time(), "hub")
            if refusal is not None:
                return _refused(hub.id, f"token {refusal}", 403)
            made = self._hubs.certificate(asked.request_pem, (hub.host,))
        except HanseError as error:
            return _refused(hub.id, str(error), 409)
        log_line(f"hub {hub.id} joined from {_who(request)}: fleet revision {league.revision}")
        news = self._hubs.news(league)
        secret = self._hubs.secret
        return _answer(m.HubAnswer(certificate_pem=made, cluster_secret=secret, news=news))

    async def _tell_hub(self, request: Request) -> Response:
        asked = await _read(request, m.HubWaits)
        if isinstance(asked, Response):
            return asked
        if not self._hubs.is_hub(asked):
            return _refused(asked.hub, "not a hub of this league", 403)
        return _answer(self._hubs.news(self._newest()))

    async def _ask(self, change: Change) -> Answered:
        try:
            answer: Any = await self._client.request(
                bus.CHANGE_SUBJECT, msgspec.msgpack.encode(change), timeout=CHANGE_S_MAX
            )
        except Exception as error:
            raise SiteError(
                "hub", got=f"no controller that leads ({error!r})", fix="try again in a few seconds"
            ) from error
        return msgspec.msgpack.decode(answer.data, type=Answered)

    def _newest(self) -> LeagueFile:
        league = LeagueStore(self._state.hub).newest()
        assert league is not None, "the hub was prepared"
        return league

    def _revoked(self) -> bytes:
        path = self._authority.list_path
        return path.read_bytes() if path.exists() else b""

    def _own_names(self, *asked: str) -> tuple[str, ...]:
        """Names that a site may have in its certificate: none that stands for the hub or, by the league's own ending, for a site."""
        hubs = names_of_hubs(self._newest().fleet(), self._hub)
        plain = {name: plain_name(name) for name in asked}
        return tuple(n for n, p in plain.items() if p not in hubs and not p.endswith(OWN_ENDING))

    # --- certificates that age

    async def _renew(self, message: Any) -> None:
        """The bus says who asks: only the site itself may publish there, and only with a certificate that stands."""
        site = message.subject.split(".")[1]
        try:
            fleet = self._newest().fleet()
            address = next((s.gateway for s in fleet.sites if s.id == site), None)
            if address is None:
                raise ConfigError("site", got=repr(site), allowed="a site of the fleet")
            hosts = self._own_names(address.reached_at, address.host)
            made = self._authority.renew(bytes(message.data), site, time.time(), hosts)
            answer = m.RenewAnswer(certificate_pem=made.public_bytes(Encoding.PEM).decode())
            log_line(f"{site}: certificate renewed until {made.not_valid_after_utc:%Y-%m-%d}")
        except HanseError as error:
            answer = m.RenewAnswer(error=str(error))
            log_line(f"{site}: certificate not renewed: {error}")
        await message.respond(msgspec.msgpack.encode(answer))


def public_digest(request: x509.CertificateSigningRequest) -> str:
    """Hex SHA-256 of the key that asks."""
    return key_digest(request.public_key())


async def _read(request: Request, kind: type[T]) -> T | Response:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > m.BODY_BYTES_MAX:
            return _error(f"more than {m.BODY_BYTES_MAX} bytes", 413)
    try:
        return msgspec.json.decode(bytes(body), type=kind)
    except UNREADABLE as error:
        return _error(str(error), 400)  # names the field, never repeats a value


def _refused(site: str, why: str, status: int) -> Response:
    log_line(f"{site}: refused: {why}")
    return _error(why, status)


def _error(why: str, status: int) -> Response:
    return _answer(m.Refused(error=why), status)


def _answer(value: Any, status: int = 200) -> Response:
    return Response(msgspec.json.encode(value), status, media_type="application/json")


def _who(request: Request) -> str:
    return request.client.host if request.client is not None else "?"


class _Server(uvicorn.Server):
    """Leaves signals to the process it is a part of."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def _main(state: StateDir) -> None:
    runtime = state.read_runtime()
    authority = open_authority(state.ca_dir, runtime.fleet, time.time(), make=False)
    if authority is None or runtime.hub is None:
        raise ConfigError(str(state.ca_dir), got="no authority's key", allowed="the hub's machine")
    ended = end_on_signals(asyncio.get_running_loop())
    door = Door(state, authority, runtime.fleet, runtime.hub)
    running = asyncio.create_task(door.run())
    ending = asyncio.create_task(ended.wait())
    await asyncio.wait({running, ending}, return_when=asyncio.FIRST_COMPLETED)
    ended_by_itself = running.done()
    running.cancel()
    await asyncio.wait({running})
    await door.close()
    if ended_by_itself:
        running.result()


def main() -> int:
    """Run until SIGTERM."""
    parser = argparse.ArgumentParser(prog="hanse.live.join.door")
    parser.add_argument("--state", type=Path, required=True)
    arguments = parser.parse_args()
    state = StateDir(arguments.state)
    try:
        write_pid(state.hub / "pid" / "door.pid", os.getpid())
        asyncio.run(_main(state))
    except HanseError as error:
        log_line(str(error))
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

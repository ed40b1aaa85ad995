"""The door's side of further hubs: letting one in, telling it what is new while it waits, and renewing its certificate.

Here: `HubDoor`, a part of the door, since certificates are issued. Not here: the further hub's side (`join.hub`, `live.hub_renewal`), sites
(`join.door`).
"""

from __future__ import annotations

import hmac
import random
import time
from typing import Any, Final

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from hanse.errors import ConfigError, HanseError
from hanse.live import bus
from hanse.live.ca import Authority, read_request
from hanse.live.fleet_change import HUB_JOINING
from hanse.live.hubs import TOGETHER
from hanse.live.identity import SiteName, name_of
from hanse.live.join import messages as m
from hanse.live.join.compose import with_hub
from hanse.live.league_file import Change, LeagueFile, league_bytes
from hanse.live.register import told_register
from hanse.live.runtime import HUB, HubAddress, StateDir, free_port

CLUSTER_PORTS: Final = range(8447, 8547)
"""Where the first hub's own is sought: behind leaf port and door as `hanse init` chooses them."""


class HubDoor:
    """What a further hub asks of the first one."""

    def __init__(self, state: StateDir, authority: Authority, hub: HubAddress) -> None:
        self._state = state
        self._authority = authority
        self._hub = hub

    def change(self, known: LeagueFile, asked: m.HubRequest) -> Change | None:
        """The change that takes it in; None: it is in just so.

        Raises:
            ConfigError: there are three without it, or the file is of a shape that cannot be added to.
        """
        fleet = known.fleet()
        others = {other.id for other in fleet.hub.others} - {asked.hub.id}
        if len(others) + 1 >= TOGETHER:
            raise ConfigError(
                "hub",
                got=f"{asked.hub.id!r} beside {', '.join(sorted(others))}",
                allowed=f"{TOGETHER} hubs",
                fix="let it join under the id of the one that it is to replace",
            )
        if asked.hub in fleet.hub.others:
            return None
        port = fleet.hub.cluster_port or free_port(
            self._hub.leaf_host, (), random.Random(), CLUSTER_PORTS
        )
        return Change(
            base=known.revision,
            toml=with_hub(known.toml, asked.hub, port),
            files=known.files,
            by=HUB_JOINING,
            why=f"hub {asked.hub.id} joined",
        )

    def certificate(self, request_pem: str, hosts: tuple[str, ...]) -> str:
        """A certificate of the role that all hubs have; PEM.

        Raises:
            ConfigError: the request is none of a hub.
        """
        made = self._authority.answer(request_pem.encode(), HUB, time.time(), hosts)
        return made.public_bytes(Encoding.PEM).decode()

    def news(self, league: LeagueFile) -> m.HubNews:
        """What a further hub has to know."""
        revoked = self._authority.list_path
        return m.HubNews(
            league=league_bytes(league),
            register=told_register(self._state.ca_dir),
            revoked=revoked.read_bytes() if revoked.exists() else b"",
        )

    def is_hub(self, asked: m.HubWaits) -> bool:
        """Whether it knows the secret that hubs share."""
        return hmac.compare_digest(asked.cluster_secret, self.secret)

    @property
    def secret(self) -> str:
        """What hubs share."""
        return bus.hub_secrets(self._state).cluster

    async def renew(self, message: Any) -> None:
        """Another certificate for the key of one that stands, with the same names."""
        try:
            answer = m.RenewAnswer(certificate_pem=self._renewed(bytes(message.data)))
        except (HanseError, ValueError, msgspec.DecodeError) as error:
            answer = m.RenewAnswer(error=str(error))
        await message.respond(msgspec.msgpack.encode(answer))

    def _renewed(self, data: bytes) -> str:
        asked = msgspec.msgpack.decode(data, type=m.HubRenewal)
        held = x509.load_pem_x509_certificate(asked.certificate_pem.encode())
        request = read_request(asked.request_pem.encode())
        stands = self._authority.stands(held, time.time())
        if not stands or name_of(held) != SiteName(self._authority.fleet, HUB):
            raise ConfigError(
                "certificate", got="none of a hub that stands", allowed="one that does"
            )
        if held.public_key() != request.public_key():
            raise ConfigError("certificate request", got="another key", allowed="the same")
        names = held.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        hosts = (
            *(str(one) for one in names.get_values_for_type(x509.IPAddress)),
            *names.get_values_for_type(x509.DNSName),
        )
        return self.certificate(asked.request_pem, hosts)

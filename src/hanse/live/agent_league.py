"""What comes down to a site beside tables and placements: the fleet file and the list of revoked certificates; and its own renewal.

Here: taking them from the leaf's stream onto the disk, once a second, and asking for another certificate in time. Not here: what the
site makes of another fleet (`live.agent`), who reads the files (`live.gateway.surroundings`), issuing (`live.ca`).

All of it rests on the disk: a site that starts while cut off has the last fleet, the last list and a certificate of twenty days or more.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any, Final

import msgspec
from cryptography import x509
from nats.js.errors import NotFoundError

from hanse.errors import HanseError
from hanse.live import bus
from hanse.live.ca import make_request, renews_at_s, write_file
from hanse.live.hubs import other_leaves
from hanse.live.identity import SiteName, certificate_flaw, load_identity, load_key, name_of
from hanse.live.join.messages import RenewAnswer
from hanse.live.league_file import (
    LEAGUE,
    LeagueFile,
    Standing,
    league_bytes,
    league_from_bytes,
    league_refusal,
    newer,
    read_league,
    site_fleet,
)
from hanse.live.logline import log_line
from hanse.live.reach import reach_of, write_reach
from hanse.live.revoked import RevokedFile
from hanse.live.runtime import Runtime, StateDir, replace_file
from hanse.live.supervise import signal_pid
from hanse.model.fleet import Fleet

TAKE_S: Final = 1.0
RENEW_LOOK_S: Final = 30.0
"""How often the certificate's age is looked at; a hub that was away is asked again after this."""
RENEW_ANSWER_S_MAX: Final = 5.0
DRAIN_AFTER_S: Final = 2.0
"""Gateways hear of a drain by their tables, within two seconds; a site that refused at once would cost requests a detour."""

Clock = Callable[[], float]


class LeagueKeeper:
    """One site's; `on_fleet` hears of every fleet that takes another's place, `on_certificate` of a renewed one."""

    def __init__(
        self,
        state: StateDir,
        site: str,
        runtime: Runtime,
        on_fleet: Callable[[Fleet, LeagueFile], None],
        on_certificate: Callable[[], None],
        now_s: Clock = time.time,
    ) -> None:
        self._site = site
        self._state = state
        self._home = state.site(site)
        self._runtime = runtime
        self._on_fleet = on_fleet
        self._on_certificate = on_certificate
        self._now_s = now_s
        self.fleet = site_fleet(state, site)
        path = self._home / LEAGUE
        self.league = read_league(path) if path.exists() else None
        authority = x509.load_pem_x509_certificate(
            (self._home / "identity" / "ca.pem").read_bytes()
        )
        self._authority = authority
        self._revoked = RevokedFile(self._home / "identity", authority)
        self._certificate = (self._home / "identity" / "site.pem").read_bytes()
        self._refused = (0, 0)
        """A revision that this version or this site cannot follow; said once."""
        self._flaw = ""
        self._stood_s = -math.inf
        """Since when this process knows how the site stands; what was on disk at its start, others know as well."""
        self._tell_site()

    @property
    def revision(self) -> int:
        """Of the fleet in force here; 0: of a site without a hub."""
        return 0 if self.league is None else self.league.revision

    @property
    def standing(self) -> Standing | None:
        """How this site is out of service; None: it is in it."""
        return None if self.league is None else self.league.standing.get(self._site)

    def drained(self) -> bool:
        """Whether engines here are to take nothing new: others are given time to hear of it first."""
        told = time.monotonic() - self._stood_s >= DRAIN_AFTER_S
        return self.standing is not None and told

    def _tell_site(self) -> None:
        standing = self.standing
        reach = reach_of(self.fleet, self._runtime, self._site)
        closed = standing is not None and standing.state == "maintenance"
        write_reach(self._home, msgspec.structs.replace(reach, maintenance=closed))

    async def take(self, client: Any) -> None:
        """The newest fleet file and list, where they are newer than ours."""
        data = await _newest(client, bus.FLEET_SUBJECT)
        league = league_from_bytes(data) if data else None
        if league is not None and newer(league, self.league):
            self._follow(league)
        elif league is None and data:
            self._say_once(league_refusal(data))
        data = await _newest(client, bus.REVOKED_SUBJECT)
        if data and self._revoked.accept(data):
            log_line(f"list of revoked certificates: {len(self._revoked.revoked.serials)} on it")

    def _follow(self, league: LeagueFile) -> None:
        if (league.epoch, league.revision) == self._refused:
            return
        try:
            fleet = league.fleet()
        except HanseError as error:
            self._refuse(league, str(error))
            return
        if fleet.name != self.fleet.name or all(s.id != self._site for s in fleet.sites):
            self._refuse(league, "this site is not in it; what runs goes on as it was")
            return
        replace_file(self._home / LEAGUE, league_bytes(league))
        before, self.league = self.standing, league
        if (before is None) != (self.standing is None):
            self._stood_s = time.monotonic()
            log_line("out of service: drains" if self.standing else "in service again")
        other, self.fleet = fleet != self.fleet, fleet
        self._tell_site()
        if other:
            log_line(f"fleet revision {league.revision} by {league.by}: {league.why}")
            self._dial(fleet)
            self._on_fleet(fleet, league)

    def _dial(self, fleet: Fleet) -> None:
        """The bus knows all hubs of the fleet; it reads its file anew, and connects to any of them."""
        if not self._runtime.site(self._site).hub_leaf:
            return
        path = self._home / "leaf.conf"
        before = path.read_bytes() if path.exists() else b""
        bus.write_leaf_conf(self._runtime, self._state, self._site, other_leaves(fleet))
        if path.read_bytes() != before:
            signal_pid(self._home / "pid" / "nats.pid")
            log_line(f"bus: {1 + len(other_leaves(fleet))} hubs to connect to")

    def _say_once(self, flaw: str) -> None:
        if flaw != self._flaw:
            self._flaw = flaw
            log_line(f"not followed: {flaw}")

    def _refuse(self, league: LeagueFile, why: str) -> None:
        self._refused = league.epoch, league.revision
        log_line(f"fleet revision {league.revision} not followed: {why}")

    async def renew(self, client: Any) -> None:
        """Ask for another certificate once ours is old enough; the key stays, so sessions and seals go on."""
        if not self._runtime.site(self._site).hub_leaf:
            return
        home = self._home / "identity"
        pem = (home / "site.pem").read_bytes()
        if pem != self._certificate:  # this site has joined again
            self._certificate = pem
            self._on_certificate()
        if self._now_s() < renews_at_s(x509.load_pem_x509_certificate(pem)):
            return
        name, key = SiteName(self.fleet.name, self._site), load_key(home / "site.key")
        message = await client.request(
            bus.site_subject(self._site, "renew"),
            make_request(key, name),
            timeout=RENEW_ANSWER_S_MAX,
        )
        answer = msgspec.msgpack.decode(message.data, type=RenewAnswer)
        if answer.error:
            log_line(f"certificate not renewed: {answer.error}")
            return
        made = x509.load_pem_x509_certificate(answer.certificate_pem.encode())
        flaw = certificate_flaw(made, self._authority, self._now_s())
        if flaw is not None or name_of(made) != name or made.public_key() != key.public_key():
            log_line(f"certificate not renewed: {flaw or 'another name or key'}")
            return
        write_file(home / "site.pem", answer.certificate_pem.encode())
        self._certificate = answer.certificate_pem.encode()
        load_identity(home, self.fleet.name, self._site, self._now_s())
        signal_pid(self._home / "pid" / "nats.pid")  # the next handshake with the hub shows it
        log_line(f"certificate renewed until {made.not_valid_after_utc:%Y-%m-%d}")
        self._on_certificate()


async def _newest(client: Any, subject: str) -> bytes:
    try:
        newest = await client.jetstream(timeout=2.0).get_last_msg(bus.TABLES, subject)
    except NotFoundError:
        return b""
    return bytes(newest.data or b"")

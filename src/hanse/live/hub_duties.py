"""What a hub's controller does beside deciding: its bus, its copy of evidence, and the other hubs.

Here: `HubDuties`, one controller's. Not here: deciding (`live.controller`), each duty itself (`live.hub_seats`, `live.archive`,
`live.fleet_in_force`).

Of several hubs each keeps its own bus and copy; one leads, and does for the league what one alone has to do. The others take over what it
decides as it is published, so that they can lead at once. A decision about the fleet counts when most hubs have it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, Final

import msgspec
from cryptography import x509
from nats.aio.client import Client
from nats.js.errors import NotFoundError

from hanse import __version__
from hanse.errors import ConfigError
from hanse.live import bus
from hanse.live.archive import archive_evidence, held
from hanse.live.bus_sources import watch_sources
from hanse.live.ca import make_request, renews_at_s, write_file
from hanse.live.first_start import Prepared
from hanse.live.fleet_in_force import FleetInForce
from hanse.live.hub_bus import take_in
from hanse.live.hub_seats import HubSeats
from hanse.live.hub_server import streams_there
from hanse.live.hubs import BEAT_S, HubBeat, Peers, cluster_of, replicas
from hanse.live.identity import SiteName, load_identity, load_key
from hanse.live.join.messages import HubRenewal, RenewAnswer
from hanse.live.keep_on import end_if_cancelled, every, passes
from hanse.live.league_file import LeagueFile
from hanse.live.logline import log_line
from hanse.live.runtime import HUB
from hanse.live.supervise import signal_pid
from hanse.model.fleet import Fleet
from hanse.units import SECONDS_PER_HOUR
from hanse.view import HubView

SEATS_EVERY_S: Final = 1.0
"""How soon a joined site's bus is let in, and a revoked one's put out."""
FOLLOW_EVERY_S: Final = 1.0
AGREE_S_MAX: Final = 8.0
"""For a revision on the disks of most hubs, while they may have to elect who keeps the stream; who asked waits for ten."""
AGREE_TRY_S: Final = 1.5
AGREE_PAUSE_S: Final = 0.2
RENEW_LOOK_S: Final = SECONDS_PER_HOUR


class HubDuties:
    """See the module; `fleet`, `leads` and `epoch` ask the controller."""

    def __init__(
        self,
        prepared: Prepared,
        fleets: FleetInForce,
        fleet: Callable[[], Fleet],
        leads: Callable[[], bool],
        epoch: Callable[[], int],
    ) -> None:
        assert prepared.runtime.hub is not None, "a hub's controller"
        self._prepared = prepared
        self._state = prepared.state
        self._own = prepared.runtime.hub.id
        self._fleets = fleets
        self._fleet = fleet
        self._leads = leads
        self._epoch = epoch
        self._client = Client()
        self.peers = Peers(self._own, fleet, leads)

    async def join(self, client: Client) -> None:
        """Raise until the streams are there: the first hub makes them, further ones find them."""
        self._client = client
        self._seats = HubSeats(self._prepared.runtime, self._state, client)
        sites, cluster = self._sites(), cluster_of(self._fleet(), self._own)
        if cluster is None:
            await bus.ensure_hub_streams(client, sites)
            return
        self._seats.render(sites, cluster)
        await take_in(client, self._state, replicas(self._fleet()))
        try:
            await streams_there(client)
        except NotFoundError:
            if self._own != HUB:
                raise
            await bus.ensure_hub_streams(client, sites, replicas(self._fleet()))

    async def start(self, tasks: asyncio.TaskGroup) -> None:
        """Every duty as a task."""
        client = self._client
        await client.subscribe(f"{bus.BEAT_SUBJECT}.*", cb=self._hear_beat)
        tasks.create_task(every(SEATS_EVERY_S, self._tend))
        tasks.create_task(every(FOLLOW_EVERY_S, self._follow))
        tasks.create_task(every(BEAT_S, self._beat))
        tasks.create_task(every(RENEW_LOOK_S, self._renew))
        tasks.create_task(watch_sources(client, bus.EVIDENCE, wanted=lambda: self.peers.acts))
        tasks.create_task(archive_evidence(client, self._state, self._fleet, self.peers))

    def view(self) -> tuple[HubView, ...]:
        """For people's eyes; none of a league of one hub."""
        if self.peers.alone:
            return ()
        heard = self.peers.heard()

        def state(hub: str) -> str:
            if hub == self._own:
                return "leads" if self._leads() else "follows"
            return "not heard" if hub not in heard else "leads" if heard[hub].leads else "follows"

        return tuple(HubView(id=hub, state=state(hub)) for hub in self.peers.ids())

    def epoch_heard(self) -> int:
        """Of the hub that leads, as the others hear it."""
        return max((beat.epoch for beat in self.peers.heard().values()), default=0)

    # --- duties

    def _sites(self) -> list[str]:
        return [site.id for site in self._fleet().sites]

    async def _tend(self) -> None:
        cluster = cluster_of(self._fleet(), self._own)
        await self._seats.tend(self._sites(), cluster, leads=self._leads())

    async def _beat(self) -> None:
        if self.peers.alone:
            return
        league = self._fleets.league
        beat = HubBeat(
            hub=self._own,
            leads=self._leads(),
            epoch=self._epoch() if self._leads() else 0,
            release=__version__,
            revision=0 if league is None else league.revision,
            held=held(self._state.hub / "evidence"),
        )
        await self._client.publish(f"{bus.BEAT_SUBJECT}.{self._own}", msgspec.msgpack.encode(beat))

    async def _hear_beat(self, message: Any) -> None:
        self.peers.hear(bytes(message.data))

    async def _follow(self) -> None:
        """Who does not lead has the fleet of who does; who leads, what came of a decision whose answer was lost."""
        if not self.peers.alone:
            await self._fleets.look_up(self._client)

    async def begin(self, epoch: int) -> None:
        """Return when most hubs know that this one leads, and it knows what they decided before.

        Whatever it has read may be of a copy that is behind; but what it publishes then is taken only behind the last decision.
        """
        await self._fleets.look_up(self._client)
        league = self._fleets.league
        assert league is not None, "a hub has a fleet"
        await self._fleets.agree(self._client, league, epoch, AGREE_TRY_S, self._fleets.known)

    async def agree(self, league: LeagueFile) -> None:
        """Return when most hubs have a revision on disk; raise where they do not say so. What is said twice is the same."""
        until_s = time.monotonic() + AGREE_S_MAX
        base, epoch = self._fleets.known, self._epoch()
        while True:
            try:
                await self._fleets.agree(self._client, league, epoch, AGREE_TRY_S, base)
            except Exception as error:
                if not passes(error) or not self._leads() or time.monotonic() > until_s:
                    raise
                end_if_cancelled()
                await asyncio.sleep(AGREE_PAUSE_S)
            else:
                return

    # --- a further hub's certificate

    async def _renew(self) -> None:
        """Where the authority's key is, the door does it."""
        home = self._state.site(HUB) / "identity"
        pem = (home / "site.pem").read_bytes()
        held_one = x509.load_pem_x509_certificate(pem)
        if (self._state.ca_dir / "ca.key").exists() or time.time() < renews_at_s(held_one):
            return
        name = SiteName(self._fleet().name, HUB)
        request = make_request(load_key(home / "site.key"), name).decode()
        asked = HubRenewal(request_pem=request, certificate_pem=pem.decode())
        message = await self._client.request(
            bus.RENEW_SUBJECT, msgspec.msgpack.encode(asked), timeout=bus.API_S_MAX
        )
        answer = msgspec.msgpack.decode(message.data, type=RenewAnswer)
        if answer.error:
            raise ConfigError("certificate", got=f"not renewed: {answer.error}")
        write_file(home / "site.pem", answer.certificate_pem.encode())
        load_identity(home, name.fleet, HUB, time.time())
        signal_pid(self._state.hub / "pid" / "nats.pid")
        log_line("the hub's certificate is renewed")

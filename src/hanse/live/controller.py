"""The controller: the fleet Dispatcher at the hub, fed from the bus; it publishes tables and shows the league.

Here: leadership, events in, actions out, the scenario, the picture. Not here: any decision
(`dispatch`), the bus (`live.bus`), HTTP (`live.control_api`). Run as `python -m hanse.live.controller
--state DIR`, or with `--local SITE` for a site that has no hub: the same on the site's own bus.

It owns nothing that is not elsewhere too: the fleet is the operator's file, tables are in the TABLES
stream and on every site's disk, the highest epoch is with the sites. Its end stops no request.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import secrets
import sys
import time
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec.structs import replace
from nats.aio.client import Client
from nats.js.errors import NotFoundError

from hanse.dispatch import actions as act
from hanse.dispatch import events as ev
from hanse.dispatch.belief import fleet_digest
from hanse.dispatch.dispatcher import Dispatcher
from hanse.dispatch.failing import Failures
from hanse.dispatch.rolling import carried_over, league_problem
from hanse.dispatch.snapshot import state_of
from hanse.dispatch.table import Table
from hanse.energy import site_signals
from hanse.errors import FeedError, HanseError
from hanse.live import bus
from hanse.live.control_api import ControlApi, LeagueSource
from hanse.live.control_client import ensure_control_key, key_path
from hanse.live.event_log import EventLog
from hanse.live.first_start import Prepared, resume
from hanse.live.fleet_change import policies_here, policies_in, settle
from hanse.live.fleet_in_force import Agree, FleetInForce
from hanse.live.hearsay import EpochClaims, own_rows
from hanse.live.hub_duties import HubDuties
from hanse.live.jobs import JobBook, site_in
from hanse.live.keep_on import end_if_cancelled, every, passes, until_signalled, until_up
from hanse.live.league_file import LeagueFile
from hanse.live.lease import RENEW_EVERY_S, EpochFile, Lease, next_epoch
from hanse.live.link_control import links_shown
from hanse.live.logline import log_line
from hanse.live.placements import newest_placement, send_placement
from hanse.live.reach import client_urls
from hanse.live.runtime import StateDir
from hanse.live.schedules import Schedules
from hanse.live.silence import Silence
from hanse.live.slow_loop import SlowLoop
from hanse.live.supervise import write_pid
from hanse.model.fleet import Fleet, Site
from hanse.model.told import UNREADABLE
from hanse.signals import Feed
from hanse.signals.providers import FeedSetting, LiveFeed, read_settings
from hanse.view import DecisionRow, StandingView, ViewState, read_status

TICK_S: Final = 0.25
SITE_SILENT_S: Final = 2.0
"""Four missed 2 Hz reports."""
HEAR_FIRST_S: Final = 1.25
"""A new leader listens for two reports of each site before it takes an epoch."""
TAKE_OVER_PAUSE_S: Final = 0.2
SIGNALS_EVERY_S: Final = 30.0
"""Recorded figures are hourly and weather moves in minutes; half a minute follows both closely."""
SCENARIO_EVERY_S: Final = 5.0
"""A restarted agent knows the scenario after this."""
FEEDS_EVERY_S: Final = 5.0
"""How often it is looked whether a provider is due; each has its own interval of minutes."""
PLACES_LOOK_S: Final = 1.0
"""How soon a controller that is told to place begins."""
LINKS_EVERY_S: Final = 1.0
"""How often the emulator is asked what it does; for people's eyes."""


class Controller:
    """One controller; `run` until cancelled."""

    def __init__(self, prepared: Prepared, local_site: str | None) -> None:
        self._prepared = prepared
        self._local_site = local_site
        self._state = prepared.state
        self._fleet = prepared.fleet
        home = self._state.hub if local_site is None else self._state.site(local_site)
        self._epochs = EpochFile(home / "controller-epoch")
        self._claims = EpochClaims()
        self._dispatcher = Dispatcher("fleet")
        self._log = EventLog(home / "events", time.time(), lambda: state_of(self._dispatcher))
        self._feed = Feed()
        self._feeds = _feeds(self._state, self._fleet)
        self._live = LiveFeed(self._feeds)
        self._slow = SlowLoop(
            self._fleet, home, lambda: self._feed_at(time.time()), self._live, self._tell, lambda: self._dispatcher.belief,
        )  # fmt: skip
        self._jobs = JobBook(self._fleet.slow_loop.schedule_every_s)
        self._schedules = Schedules()
        self._scenario_changed = asyncio.Event()
        self._fleets: FleetInForce | None = None
        self._duties: HubDuties | None = None
        if local_site is None:  # a site by itself has no revisions
            self._fleets = FleetInForce(self._state, prepared.runtime, self._adopt)
            self._duties = HubDuties(
                prepared,
                self._fleets,
                lambda: self._fleet,
                lambda: self._leads,
                lambda: self._dispatcher.epoch,
            )
        self._unsent: act.PublishTable | None = None
        self._unsent_placement: act.SendPlacement | None = None
        self._silence = Silence(SITE_SILENT_S, TICK_S, time.monotonic())
        self._failures = Failures()
        self._figureless: dict[str, str] = {}  # sites of whose power nothing is known, and why
        self._rule_texts: dict[str, str] = {}
        self._view = ViewState(self._fleet, client_urls(self._fleet, prepared.runtime))
        self._source = LeagueSource(self._view)
        self._client: Client = Client()
        self._lease = Lease(self._client, "")

    async def run(self) -> None:
        """Serve people at once, the league as soon as its bus answers."""
        async with asyncio.TaskGroup() as tasks:
            hub = self._prepared.runtime.hub
            if hub is not None and self._local_site is None:
                api = ControlApi(
                    self._source, rule_texts=self._rule_texts, on_scenario=self._take_scenario, secret=ensure_control_key(self._state),
                    key_file=str(key_path(self._state)), sites=lambda: self._fleet.sites,
                )  # fmt: skip
                tasks.create_task(api.serve(hub.host, hub.control_port))
                tasks.create_task(every(LINKS_EVERY_S, self._look_at_links))
            await self._join()
            if self._duties is not None:
                await self._client.subscribe(bus.CHANGE_SUBJECT, cb=self._hear_change)
                await self._client.subscribe(bus.CONTROL_SUBJECT, cb=self._hear_scenario)
                await self._duties.start(tasks)
            tasks.create_task(every(TICK_S, self._listen))
            tasks.create_task(every(TICK_S, self._tick))
            tasks.create_task(every(SCENARIO_EVERY_S, self._tell_scenario))
            tasks.create_task(self._observe_signals())
            tasks.create_task(every(FEEDS_EVERY_S, self._ask_providers))
            tasks.create_task(self._look_ahead())
            tasks.create_task(self._lead())

    async def close(self) -> None:
        """Give the lease back and leave the bus."""
        with contextlib.suppress(Exception):
            async with asyncio.timeout(1.0):
                await self._lease.release()
        await bus.leave(self._client)
        self._log.close()

    # --- the bus

    async def _join(self) -> None:
        runtime, state, site = self._prepared.runtime, self._state, self._local_site
        if site is None:
            self._client = await until_up(
                lambda: bus.connect_hub(runtime, state, name="controller")
            )
            duties = self._duties
            assert duties is not None, "made for a hub"
            await until_up(lambda: duties.join(self._client))
        else:
            self._client = await until_up(
                lambda: bus.connect_leaf(runtime, state, site, name="controller")
            )
            await until_up(lambda: bus.ensure_leaf_streams(self._client, site, hub=False))
        name = f"{os.getpid()}-{secrets.token_hex(8)}"
        self._lease = Lease(self._client, name, lambda: self._alone)
        placed = await until_up(lambda: newest_placement(self._client))
        self._load(await until_up(self._newest_table), placed)
        await self._client.subscribe("site.*.status", cb=self._hear_status)
        await self._client.subscribe("site.*.decisions", cb=self._hear_decisions)
        await self._client.subscribe("site.*.demand", cb=self._slow.hear)
        await self._client.subscribe("site.*.batches", cb=self._hear_batches)

    @property
    def _alone(self) -> bool:
        """Whether no other hub decides with this one."""
        return self._duties is None or self._duties.peers.alone

    async def _newest_table(self) -> bytes:
        js = self._client.jetstream(timeout=bus.API_S_MAX)
        try:
            newest = await js.get_last_msg(bus.TABLES, bus.TABLE_SUBJECT)
        except NotFoundError:
            return b""
        return bytes(newest.data or b"")

    def _load(self, newest_table: bytes, placed: ev.PlacementDecided | None) -> None:
        """The fleet, going on from the newest table so that offers keep their indices, and from the last placement."""
        offers, version = tuple[str, ...](), 0
        if placed is not None:
            self._epochs.see(placed.epoch)
            if placed.fleet_digest != fleet_digest(self._fleet):
                placed = None  # the operator's file is newer
        with contextlib.suppress(HanseError):
            if newest_table:
                meta = Table.from_bytes(newest_table).meta
                offers, version = meta.offers, meta.version
                self._epochs.see(meta.epoch)
        league = None if self._fleets is None else self._fleets.league
        event = ev.FleetLoaded(
            at_s=time.time(),
            fleet=self._fleet,
            policies=policies_here(self._state, self._fleet, league),
            offers_known=offers,
            version_known=version,
            placements=None if placed is None else placed.placements,
            placement_epoch=0 if placed is None else placed.epoch,
            placement_version=0 if placed is None else placed.version,
        )
        self._tell(event)
        self._stand(league)

    # --- the fleet

    async def _hear_change(self, message: Any) -> None:
        """Another fleet file is asked for. Who does not lead says nothing: the one that does is asked as well."""
        belief = self._dispatcher.belief
        if self._leads and self._fleets is not None and belief is not None:
            lost = [site for site, known in belief.sites.items() if known.lost]
            agree = self._agree()
            await self._fleets.hear(message, time.time(), self._dispatcher.table, lost, agree)

    def _agree(self) -> Agree | None:
        return None if self._alone or self._duties is None else self._duties.agree

    def _adopt(self, league: LeagueFile) -> None:
        """Act by another revision from now on."""
        old, self._fleet = self._fleet, league.fleet()
        self._view.follow(self._fleet, client_urls(self._fleet, self._prepared.runtime))
        if (feeds := _feeds(self._state, self._fleet)) != self._feeds:
            self._feeds, self._live = feeds, LiveFeed(feeds)
        self._slow.follow(self._fleet, self._live)
        self._jobs.follow(self._fleet.slow_loop.schedule_every_s)
        belief = self._dispatcher.belief
        assert belief is not None, "a fleet was loaded before any leads"
        event = ev.FleetLoaded(
            at_s=time.time(),
            fleet=self._fleet,
            policies=policies_in(self._fleet, league.files),
            placements=carried_over(old, belief.placements, self._fleet),
            placement_epoch=belief.placement_version[0],
            placement_version=belief.placement_version[1],
        )
        self._tell(event)
        self._stand(league)
        self._scenario_changed.set()  # a new site's power and carbon at once
        self._source.tell()

    def _stand(self, league: LeagueFile | None) -> None:
        """Which sites are out of service, and which are in it again."""
        belief = self._dispatcher.belief
        assert belief is not None, "a fleet was loaded"
        standing = {} if league is None else league.standing
        epoch = self._dispatcher.epoch
        for site, known in belief.sites.items():
            if known.drained != (drained := site in standing):
                event = ev.DrainRequested(at_s=time.time(), site=site, drained=drained, epoch=epoch)
                self._tell(event)
        self._view.standing = {
            site: StandingView(
                state=one.state, since_s=one.since_s, until_s=one.until_s, by=one.by, why=one.why
            )
            for site, one in standing.items()
        }
        # Of several hubs who leads makes the tables: others see of a site which fleet it acts by.
        makes = self._alone or self._leads
        version = belief.version + 1 if makes else 1
        self._view.see_league(0 if league is None else league.revision, version)

    # --- leadership

    async def _lead(self) -> None:
        """Hold the lease whenever it is free; take an epoch each time it becomes ours."""
        led = False
        while True:
            leads = await self._lease.keep()
            end_if_cancelled()
            if leads and not led:
                await asyncio.sleep(HEAR_FIRST_S)
                leads = await self._take_over()
                if leads:
                    self._take_epoch()
            elif led and not leads:
                log_line("lost the lease")
            led = leads
            await asyncio.sleep(RENEW_EVERY_S if leads else 1.0)

    async def _take_over(self) -> bool:
        """Who waited for the lease knows what was decided before its own start; another leader may have decided since."""
        if self._duties is not None and not self._alone:
            return await self._take_over_from_others(self._duties)
        if self._fleets is not None:
            fleets = self._fleets
            await until_up(lambda: fleets.look_up(self._client))
        newest = await until_up(lambda: newest_placement(self._client))
        belief = self._dispatcher.belief
        if newest is None or belief is None or newest.placements == belief.placements:
            return True
        if not league_problem(self._fleet, newest.placements):
            self._tell(replace(newest, at_s=time.time()))
        return True

    async def _take_over_from_others(self, duties: HubDuties) -> bool:
        """Of several hubs: what most of them have; False where the lease was lost meanwhile."""
        while await self._lease.keep():
            epoch = next_epoch(self._lease.first_revision, self._epochs.epoch)
            try:
                await duties.begin(epoch)
                table = await self._newest_table()
                placed = await newest_placement(self._client)
                belief = self._dispatcher.belief
                lacks = placed is None and belief is not None and belief.placement_version[0] > 0
                if table and not lacks:  # else of a copy that is behind
                    self._epochs.see(epoch)
                    self._load(table, placed)
                    return True
            except Exception as error:
                if not passes(error):
                    raise
            await asyncio.sleep(TAKE_OVER_PAUSE_S)
        return False

    def _take_epoch(self) -> None:
        epoch = next_epoch(self._lease.first_revision, self._epochs.epoch)
        self._epochs.see(epoch)
        if self._fleets is not None:
            self._fleets.unsent = True
        log_line(f"leads under epoch {epoch}")
        self._tell(ev.EpochGranted(at_s=time.time(), epoch=epoch))
        self._slow.look_soon()
        self._view.epoch = epoch

    @property
    def _leads(self) -> bool:
        return self._lease.held and self._dispatcher.epoch > 0

    # --- events in

    async def _hear_status(self, message: Any) -> None:
        site = site_in(message.subject)
        status, flaw = read_status(bytes(message.data))
        if flaw != self._view.not_understood.get(site, ""):
            self._view.not_understood[site] = flaw
            log_line(f"reports of {site}: {flaw or 'understood again'}")
        if status is None or message.subject != bus.site_subject(status.site, "status"):
            return  # a site speaks for itself only; the bus enforces it, a bug could not
        self._silence.hear(status.site, time.monotonic())
        epoch = self._claims.believed(
            status.site, status.epoch, self._epochs.epoch, time.monotonic()
        )
        self._epochs.see(epoch)
        self._view.hear_status(status, time.time())
        self._jobs.see(status)
        self._slow.see(status)
        self._source.tell()
        heard = ev.SiteHeard(
            at_s=time.time(),
            site=status.site,
            epoch=epoch,
            table_version=status.table_version,
            shed_level=status.shed_level,
            placement_version=status.placement_version,
            serving=status.serving,
            unheard=status.unheard,
        )
        self._tell(heard)
        for event in self._failures.events(status.site, status.failing, time.time()):
            self._tell(event)

    async def _hear_batches(self, message: Any) -> None:
        self._jobs.hear(bytes(message.data), site_in(message.subject), time.time())

    async def _hear_decisions(self, message: Any) -> None:
        try:
            rows = msgspec.msgpack.decode(message.data, type=list[DecisionRow])
        except UNREADABLE:
            return
        self._view.hear_decisions(own_rows(rows, site_in(message.subject), self._view.site_ids))
        self._source.tell()

    async def _tick(self) -> None:
        now_s = time.time()
        self._view.hub_up = self._client.is_connected
        if self._duties is not None:
            self._view.hubs = self._duties.view()
        if not self._leads:
            if self._duties is not None and not self._alone:
                self._view.epoch = self._duties.epoch_heard()
            self._schedules.drop()
            self._view.work = ()
            return
        if (changed := self._jobs.due(now_s)) is not None:
            self._tell(changed)
        self._view.work = self._schedules.shown(self._jobs.open, now_s)
        self._tell(ev.Ticked(at_s=now_s))
        if self._fleets is not None:
            await self._fleets.look(now_s, self._agree())
            await self._fleets.send(self._client, self._dispatcher.epoch)
        await self._send_table()
        await self._send_placement()
        await self._schedules.send(self._client, holds=self._fleet.slow_loop.places)

    async def _listen(self) -> None:
        """Waits for nothing, so a look that comes late says that all of this process was held up."""
        for site in self._silence.lost(time.monotonic()):
            self._tell(ev.SiteLost(at_s=time.time(), site=site))
            self._source.tell()

    async def _observe_signals(self) -> None:
        """Every half minute, and at once when the scenario changes."""
        while True:
            self._scenario_changed.clear()
            now_s = time.time()
            feed = self._feed_at(now_s)
            for site in self._fleet.sites:
                try:
                    found = site_signals(site, feed, now_s, load_kw=self._load_kw(site))
                except FeedError as error:  # no figures: what the table has goes on
                    if self._figureless.setdefault(site.id, "") != str(error):
                        self._figureless[site.id] = str(error)
                        log_line(f"figures of {site.id}: {error}")
                    continue
                event = ev.SignalsObserved(
                    at_s=now_s,
                    site=site.id,
                    pue=found.pue,
                    carbon_g_per_kwh=found.carbon_g_per_kwh,
                    price_usd_per_kwh=found.price_usd_per_kwh,
                )
                self._tell(event)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(SIGNALS_EVERY_S):
                    await self._scenario_changed.wait()

    async def _ask_providers(self) -> None:
        """In a thread, since a provider may take its time; what it said is heard by sites at once."""
        now_s = time.time()
        if self._live.next_s() > now_s:
            return
        for line in await asyncio.to_thread(self._live.ask, now_s):
            log_line(line)
        self._scenario_changed.set()

    async def _look_ahead(self) -> None:
        """At the pace of the fleet in force, where that says that the controller places."""
        while True:
            if self._leads and self._fleet.slow_loop.places:
                try:
                    await self._slow.look()
                except (HanseError, OSError, TimeoutError) as error:
                    log_line(repr(error))
            places = self._leads and self._fleet.slow_loop.places
            await self._slow.pause(self._slow.every_s if places else PLACES_LOOK_S)

    def _feed_at(self, now_s: float) -> Feed:
        """The scenario with what providers last said."""
        if self._feed.clock_speed != 1.0:
            return self._feed  # providers tell of true hours
        return msgspec.structs.replace(self._feed, observed=self._live.observed(now_s))

    def _load_kw(self, site: Site) -> float:
        """What the site draws: its declared base and the IT load it last reported."""
        status = self._view.statuses.get(site.id)
        if status is None:
            return site.power.base_kw
        return site.power.base_kw + status.power.it_kw * status.power.pue

    def _take_scenario(self, feed: Feed) -> None:
        if feed.clock_speed != 1.0 and not feed.clock_from_s:
            feed = replace(feed, clock_from_s=time.time())  # both clocks meet now
        self._feed = feed
        self._slow.look_soon()
        self._view.notes = tuple(dict.fromkeys(one.reason for one in feed.overrides))
        self._scenario_changed.set()
        self._source.tell()
        self._telling = asyncio.ensure_future(self._tell_scenario())  # kept: tasks are weak

    async def _tell_scenario(self) -> None:
        """Agents compute their power from the same scenario; of several hubs the one that leads says it."""
        if self._client.is_connected and (self._alone or self._leads):
            feed = self._feed_at(time.time())
            await self._client.publish(bus.CONTROL_SUBJECT, msgspec.msgpack.encode(feed))

    async def _hear_scenario(self, message: Any) -> None:
        """Of the hub that leads: this one may have to go on with it. What providers say it asks itself."""
        if not self._alone and not self._leads:
            feed = msgspec.msgpack.decode(message.data, type=Feed)
            self._feed = replace(feed, observed=()) if feed.clock_speed == 1.0 else feed

    async def _look_at_links(self) -> None:
        with contextlib.suppress(HanseError):
            self._view.links = await asyncio.to_thread(links_shown, self._state.links_sock)

    # --- actions out

    def _tell(self, event: ev.Event) -> None:
        """To the Dispatcher; what it decides is logged, then done."""
        actions = self._dispatcher.handle(event)
        self._log.add(event, actions)
        if actions:
            self._view.verdicts = self._dispatcher.silent()
        self._carry_out(actions)

    def _carry_out(self, actions: list[act.Action]) -> None:
        for action in actions:
            if isinstance(action, act.PublishTable):
                self._unsent = action  # a newer one replaces one that could not be sent
            elif isinstance(action, act.SendPlacement):
                self._unsent_placement = action
            elif isinstance(action, act.SolvePlacement | act.SolveSchedule):
                self._slow.solve(action)
            elif isinstance(action, act.SendSchedule):
                self._schedules.take(action)
            elif isinstance(action, act.StepDown):
                self._epochs.see(action.epoch_seen)
                if self._leads or self._alone:
                    text = f"a site has obeyed epoch {action.epoch_seen}, ours is {action.epoch}"
                    log_line(text)
                if self._leads:
                    self._take_epoch()
            elif isinstance(action, act.Log):
                log_line(f"{action.level}: {action.text}")
            else:
                raise AssertionError(f"not an action of fleet scope: {action}")

    async def _send_placement(self) -> None:
        """As with tables. A table comes first: gateways know an offer before a site may have it up."""
        placement = self._unsent_placement
        if placement is None or self._unsent is not None:
            return
        try:
            await send_placement(self._client, placement.content)
        except Exception as error:
            log_line(f"placement {placement.version} not sent yet: {error!r}")
            return
        if self._unsent_placement is placement:
            self._unsent_placement = None
        log_line(f"sent placement {placement.version} of epoch {placement.epoch}")

    async def _send_table(self) -> None:
        """Publish what is unsent; on any failure it is tried again at the next tick."""
        table = self._unsent
        if table is None:
            return
        js = self._client.jetstream(timeout=2.0)
        try:
            await js.publish(bus.TABLE_SUBJECT, table.content)
        except Exception as error:
            log_line(f"table {table.version} not sent yet: {error!r}")
            return
        if self._unsent is table:
            self._unsent = None
        self._view.table_version = table.version
        if self._dispatcher.table is not None:
            self._rule_texts.update(self._dispatcher.table.meta.rule_texts)
        log_line(f"published table {table.version} of epoch {table.epoch}")


def _feeds(state: StateDir, fleet: Fleet) -> tuple[FeedSetting, ...]:
    return read_settings(state.path / fleet.feeds) if fleet.feeds else ()


async def _main(prepared: Prepared, local_site: str | None) -> None:
    controller = Controller(prepared, local_site)
    await until_signalled(controller.run(), controller.close)


def main() -> int:
    """Run until SIGTERM."""
    parser = argparse.ArgumentParser(prog="hanse.live.controller")
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--local", metavar="SITE", help="publish on this site's own bus")
    arguments = parser.parse_args()
    try:
        settle(StateDir(arguments.state))
        prepared = resume(arguments.state)
        home = prepared.state.site(arguments.local) if arguments.local else prepared.state.hub
        write_pid(home / "pid" / "controller.pid", os.getpid())
        asyncio.run(_main(prepared, arguments.local))
    except HanseError as error:
        log_line(str(error))
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

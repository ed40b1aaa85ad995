"""The hub's side of the fleet in force: hearing who wants another, judging it, numbering it, sending it down.

Here: `FleetInForce`, one controller's. Not here: what a controller makes of another fleet (`live.controller`), the document
(`live.league_file`), what makes a change wrong (`live.fleet_change`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection
from typing import Any, NamedTuple

import msgspec
from msgspec.structs import replace
from nats.aio.client import Client
from nats.js.errors import APIError

from hanse.dispatch.stranded import stranded
from hanse.dispatch.table import Table
from hanse.live import bus
from hanse.live.ca import certified
from hanse.live.fleet_change import change_problem, kept, newest_league, numbered
from hanse.live.league_file import Answered, Change, LeagueFile, LeagueStore, league_bytes
from hanse.live.logline import log_line
from hanse.live.runtime import Runtime, StateDir
from hanse.model.told import UNREADABLE

Adopt = Callable[[LeagueFile], None]
Agree = Callable[[LeagueFile], Awaitable[None]]
STRANDED_SAID_MAX = 5
TIME_LIMIT = "time limit"
SEND_S_MAX = 2.0
WRONG_LAST_SEQUENCE = 10071
"""JetStream's number for a message that was to follow another than the last."""
LOOK_AGAIN_S = 60.0
"""After an end of a time out of service was refused, which is said in the log: a disk that is full, a file that a newer version refuses."""


class Known(NamedTuple):
    """The revision in force as one hub knows it, and its place in the stream."""

    league: LeagueFile | None
    place: int


class FleetInForce:
    """`league` is the revision in force; `adopt` is called with every one that takes its place."""

    def __init__(self, state: StateDir, runtime: Runtime, adopt: Adopt) -> None:
        self._state = state
        self._runtime = runtime
        self._adopt = adopt
        self.league: LeagueFile | None = LeagueStore(state.hub).newest()
        self.unsent = self.league is not None
        self._look_again_s = 0.0
        self.place = 0
        """In the stream, of the last one published that is known here: another follows that one, or is refused."""
        self._turn = asyncio.Lock()

    async def hear(
        self,
        message: Any,
        now_s: float,
        table: Table | None,
        lost: Collection[str],
        agree: Agree | None = None,
    ) -> None:
        """Another fleet file is asked for; called on the leader alone.

        Args:
            message: The question.
            now_s: The clock.
            table: In force; who would be left without a lawful site is read from it.
            lost: Sites that are not heard.
            agree: Where several hubs decide: returns when most of them have a revision.
        """
        assert self.league is not None, "a hub has a fleet"
        try:
            change = msgspec.msgpack.decode(message.data, type=Change)
        except UNREADABLE as error:
            answer = Answered(revision=self.league.revision, problem=str(error))
        else:
            async with self._turn:
                answer = await self.change(change, now_s, table, lost, agree)
        await message.respond(msgspec.msgpack.encode(answer))

    async def change(
        self,
        change: Change,
        now_s: float,
        table: Table | None = None,
        lost: Collection[str] = (),
        agree: Agree | None = None,
    ) -> Answered:
        """Check a change and take it into force: most hubs where there are several, disk, Dispatcher, and with the next tick the sites.

        What most hubs may not have is not in force here either. If it turns out that they have it, `follow` takes it.
        """
        known = self.league
        assert known is not None, "a hub has a fleet"
        runs = {*self._runtime.sites, *certified(self._state.ca_dir, now_s)}
        problem = change_problem(known, change, runs=runs, emulated=bool(self._runtime.relays))
        problem = problem or _left_without(known, change, table, lost)
        if problem:
            log_line(f"change by {change.by} refused: {problem}")
            return Answered(revision=known.revision, problem=problem)
        league = numbered(known, change, self._state, now_s)
        if agree is not None:
            try:
                await agree(league)
            except Exception as error:
                log_line(f"fleet revision {league.revision}: most hubs did not take it: {error!r}")
                return Answered(
                    revision=known.revision,
                    problem="most hubs did not say that they have it; `hanse history` tells whether they do",
                )
        kept(league, self._state)
        self.take(league)
        return Answered(revision=league.revision)

    def take(self, league: LeagueFile) -> None:
        """Act by another revision from now on."""
        log_line(f"fleet revision {league.revision} by {league.by}: {league.why}")
        self.league, self.unsent = league, True
        self._adopt(league)

    def follow(self, published: LeagueFile | None) -> bool:
        """Another leader, at another hub, may have decided what this one's disk does not know; whether there was something to take.

        Of one number the published one counts: what a leader that lost its lease meanwhile wrote by itself never was in force.
        """
        known = self.league
        if known is None or published is None or published.revision < known.revision:
            return False
        if (published := replace(published, epoch=0)) == known:
            return False
        kept(published, self._state)
        self.take(published)
        return True

    async def look(self, now_s: float, agree: Agree | None = None) -> None:
        """Sites whose time out of service is over take work again."""
        known = self.league
        if known is None:
            return
        if now_s < self._look_again_s:
            return
        over = [
            site
            for site, one in known.standing.items()
            if one.until_s is not None and one.until_s <= now_s
        ]
        if over:
            stay = {site: one for site, one in known.standing.items() if site not in over}
            why = f"{', '.join(over)} in service again"
            change = Change(
                base=known.revision,
                toml=known.toml,
                files=known.files,
                by=TIME_LIMIT,
                why=why,
                standing=stay,
            )
            async with self._turn:
                answer = await self.change(change, now_s, agree=agree)
            if answer.problem:
                self._look_again_s = now_s + LOOK_AGAIN_S

    async def look_up(self, client: Client) -> None:
        """What another leader has published since; a copy that is behind what is known here says nothing new."""
        published, place = await newest_league(client)
        if published is None or place >= self.place:
            self.place = place
            self.follow(published)

    async def publish(
        self, client: Client, league: LeagueFile, epoch: int, s_max: float, behind: int
    ) -> None:
        """Return when the stream has a revision, at most hubs where there are several.

        Nothing is published over what is not known here: a leader that was cut off, or reads a copy that is behind, is refused.

        Args:
            client: Of the hub.
            league: The revision.
            epoch: Of the leader.
            s_max: For an answer.
            behind: Place of the one that it was made from.
        """
        data = league_bytes(replace(league, epoch=epoch))
        headers = {"Nats-Expected-Last-Subject-Sequence": str(behind)}
        js = client.jetstream(timeout=s_max)
        self.place = (await js.publish(bus.FLEET_SUBJECT, data, headers=headers)).seq

    @property
    def known(self) -> Known:
        """What a decision that is made now is made from."""
        return Known(self.league, self.place)

    async def agree(
        self, client: Client, league: LeagueFile, epoch: int, s_max: float, base: Known
    ) -> None:
        """The same for a revision made from `base`; an answer that was lost is looked up. Raise where others have published something else."""
        try:
            await self.publish(client, league, epoch, s_max, base.place)
        except APIError as error:
            if error.err_code != WRONG_LAST_SEQUENCE:
                raise
            published, place = await newest_league(client)
            if published is None or place <= base.place:
                raise  # of a copy that is behind
            if published != replace(league, epoch=epoch):
                if replace(published, epoch=0) != base.league:
                    raise
                # What it was made from, said once more since.
                await self.publish(client, league, epoch, s_max, place)
            self.place = max(self.place, place)

    async def send(self, client: Client, epoch: int) -> None:
        """The fleet file before anything that rests on it; sites take either order."""
        league = self.league
        if league is None or not self.unsent:
            return
        try:
            await self.publish(client, league, epoch, SEND_S_MAX, self.place)
        except Exception as error:
            log_line(f"fleet revision {league.revision} not sent yet: {error!r}")
            if getattr(error, "err_code", None) == WRONG_LAST_SEQUENCE:
                await self.look_up(client)
            return
        if self.league is not None and self.league.revision == league.revision:
            self.unsent = False
        log_line(f"sent fleet revision {league.revision}")


def _left_without(
    known: LeagueFile, change: Change, table: Table | None, lost: Collection[str]
) -> str:
    """Why sites should not be taken out of service; empty: nobody is left without a lawful one."""
    out = set(change.standing or ()) - set(known.standing)
    if change.force or not out:
        return ""
    if table is None:
        return "this hub has just begun to lead and has no table yet; try again in a second"
    left = stranded(table, out, lost)
    if not left:
        return ""
    said = "; ".join(one.text for one in left[:STRANDED_SAID_MAX])
    more = f"; and {len(left) - STRANDED_SAID_MAX} more" if len(left) > STRANDED_SAID_MAX else ""
    return f"no other site may and can answer: {said}{more}"

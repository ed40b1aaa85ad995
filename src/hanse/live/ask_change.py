"""Asking the hub for another fleet, as a person at the hub's machine does.

Here: what a file, an earlier revision, or taking a site out of service amounts to as a `Change`; asking the leading controller; which
revisions there are. Not here: judging and doing it (`live.fleet_in_force`), what is shown (`cli.change`, `cli.site`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec

from hanse.errors import ConfigError, SiteError
from hanse.live import bus
from hanse.live.ca import certified
from hanse.live.first_start import files_of, refuse_wrong
from hanse.live.fleet_change import JOINING, policy_flaws
from hanse.live.fleet_restart import restart_problems
from hanse.live.league_file import (
    Answered,
    Change,
    LeagueFile,
    LeagueStore,
    Standing,
    source_digest,
)
from hanse.live.runtime import StateDir
from hanse.model.fleet import Fleet
from hanse.model.read import parse_fleet, read_fleet

ANSWER_S_MAX: Final = 10.0
"""Another fleet of a thousand sites has its law compiled first: seconds."""
LEADER_S_MAX: Final = 15.0
"""A hub that has just been started leads after some seconds; another's lease ends after five."""
TRIES: Final = 4
"""Others may change the fleet in the same second."""
FOLLOWED_S_MAX: Final = 5.0
"""A hub that does not lead has the leader's revision a second later."""


class History:
    """The revisions at a hub."""

    def __init__(self, state: StateDir) -> None:
        self._store = LeagueStore(state.hub)

    def newest(self) -> LeagueFile:
        """The one in force.

        Raises:
            ConfigError: there is none: this league was never started.
        """
        found = self._store.newest()
        if found is None:
            raise ConfigError(
                str(self._store.home),
                got="no revision",
                fix="start the league with `hanse up FLEET`",
            )
        return found

    def get(self, revision: int) -> LeagueFile:
        """One of them."""
        return self._store.get(revision)

    def last(self, count: int) -> list[LeagueFile]:
        """So many, the newest first."""
        numbers = self._store.numbers()[::-1][: max(count, 0)]
        return [self._store.get(number) for number in numbers]

    def earlier(self, revision: int) -> LeagueFile | None:
        """The one before a revision; None: it is the first that is kept."""
        numbers = [number for number in self._store.numbers() if number < revision]
        return self._store.get(numbers[-1]) if numbers else None

    def before(self, league: LeagueFile) -> LeagueFile:
        """The newest earlier one with another file.

        Raises:
            ConfigError: there is none.
        """
        for number in reversed(self._store.numbers()):
            if number < league.revision:
                found = self._store.get(number)
                if content(found) != content(league):
                    return found
        raise ConfigError(
            "revision",
            got=f"{league.revision}, the first of its content",
            allowed="a league whose file was changed",
        )

    def in_force_since_s(self, league: LeagueFile) -> float:
        """Since when this file is in force: revisions that only took sites out of service changed nothing of it."""
        since_s = league.at_s
        for number in reversed(self._store.numbers()):
            found = self._store.get(number)
            if number <= league.revision:
                if content(found) != content(league):
                    break
                since_s = found.at_s
        return since_s


def content(league: LeagueFile) -> tuple[str, dict[str, str]]:
    """What an operator writes of a revision."""
    return league.toml, league.files


def change_to_file(known: LeagueFile, path: Path, by: str, why: str) -> Change:
    """The change that puts an operator's file in force.

    Raises:
        ConfigError: it is wrong, or names a file that is missing or wrong.
    """
    fleet = read_fleet(path)
    refuse_wrong(fleet, path)
    text, files = path.read_text(), files_of(fleet, path.parent)
    for flaw in policy_flaws(known, fleet, files):
        raise flaw
    return Change(
        base=known.revision,
        toml=text,
        files=files,
        by=by,
        why=why,
        source_sha256=source_digest(text, files),
    )


def change_back(known: LeagueFile, earlier: LeagueFile, by: str, why: str) -> Change:
    """The change that puts an earlier revision's file in force again."""
    why = why or f"back to revision {earlier.revision}"
    return Change(base=known.revision, toml=earlier.toml, files=earlier.files, by=by, why=why)


def change_of_standing(
    known: LeagueFile, site: str, standing: Standing | None, by: str, why: str, *, force: bool
) -> Change:
    """The change that takes a site out of service, or (None) puts it back."""
    stay = {name: one for name, one in known.standing.items() if name != site}
    if standing is not None:
        stay[site] = standing
    return Change(
        base=known.revision,
        toml=known.toml,
        files=known.files,
        by=by,
        why=why,
        standing=stay,
        force=force,
    )


def wanted_fleet(change: Change) -> Fleet:
    """What a change would put in force; keys that have no digest yet have none."""
    return parse_fleet(change.toml.encode(), source="fleet")


def refuse_unsafe(state: StateDir, known: LeagueFile, change: Change, without: set[str]) -> None:
    """What can be said before anybody is asked.

    Args:
        without: Sites that the operator says may leave.

    Raises:
        ConfigError: something would have to be restarted for it, or a site would leave unsaid.
    """
    old, new = known.fleet(), wanted_fleet(change)
    runtime = state.read_runtime()
    runs = {*runtime.sites, *certified(state.ca_dir, time.time())}
    problems = restart_problems(old, new, runs=runs, emulated=bool(runtime.relays))
    if problems:
        raise _first_of(problems)
    names = {site.id for site in new.sites}
    out = [site.id for site in old.sites if site.id not in names and site.id not in without]
    if out and change.by != JOINING:
        one = out[0]
        joined = ", which joined with a token" if one in known.joined else ""
        raise ConfigError(
            "site",
            got=f"a fleet without {', '.join(out)}{joined}",
            allowed="one that names every site, or the word that they leave",
            fix=f"take the [[site]] block over from {state.fleet_toml}, or say --without {one}",
        )


def _first_of(problems: list[ConfigError]) -> ConfigError:
    first = problems[0]
    if len(problems) == 1:
        return first
    others = ", ".join(problem.where for problem in problems[1:6])
    fix = f"{first.fix}; likewise {others}"
    return ConfigError(first.where, got=first.got, allowed=first.allowed, fix=fix)


def ask(state: StateDir, change: Change) -> int:
    """Ask for a change; the revision that is in force then.

    Raises:
        ConfigError: it was refused; says why. Nothing was changed.
        SiteError: no controller leads.
    """
    answer = asyncio.run(_ask(state, change))
    if answer.problem:
        raise ConfigError("change", got=f"a refusal, nothing was changed: {answer.problem}")
    return answer.revision


def ask_again(state: StateDir, make: Callable[[LeagueFile], Change]) -> int:
    """The same for a change that may be made anew where others changed the fleet meanwhile."""
    history = History(state)
    for attempt in range(TRIES):
        change = make(history.newest())
        answer = asyncio.run(_ask(state, change))
        if not answer.problem:
            return answer.revision
        if answer.revision == change.base or attempt == TRIES - 1:
            raise ConfigError("change", got=f"a refusal, nothing was changed: {answer.problem}")
        heard_s = time.monotonic() + FOLLOWED_S_MAX  # where another hub leads
        while history.newest().revision < answer.revision and time.monotonic() < heard_s:
            time.sleep(0.2)
    raise AssertionError("the last attempt returns or raises")


async def _ask(state: StateDir, change: Change) -> Answered:
    try:
        client = await bus.connect_door(state.read_runtime(), state, name="change")
    except SiteError as error:
        raise SiteError(
            "hub",
            got=f"no answer at {error.where} ({error.got})",
            allowed="a hub that runs: it alone changes the fleet in force",
            fix="start the league with `hanse up FLEET`, or the hub alone with `hanse hub FLEET`, and say it again",
        ) from error
    until_s = time.monotonic() + LEADER_S_MAX
    try:
        while True:
            try:
                answer: Any = await client.request(
                    bus.CHANGE_SUBJECT, msgspec.msgpack.encode(change), timeout=ANSWER_S_MAX
                )
            except Exception as error:
                if time.monotonic() < until_s:
                    await asyncio.sleep(0.25)
                    continue
                raise SiteError(
                    "hub",
                    got=f"no controller that leads ({error!r})",
                    fix="is the hub running (`hanse status`)? Try again in a few seconds",
                ) from error
            return msgspec.msgpack.decode(answer.data, type=Answered)
    finally:
        await bus.leave(client)

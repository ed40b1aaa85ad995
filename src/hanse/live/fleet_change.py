"""Judging a change of the fleet file and writing it where the hub's processes and a restart find it.

Here: what makes a change wrong, what a taken one leaves on disk. Not here: the document (`live.league_file`), what follows from a
fleet (`dispatch`).
"""

from __future__ import annotations

import tempfile
from collections.abc import Collection
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec.structs import replace
from nats.aio.client import Client
from nats.js.errors import NotFoundError

from hanse.dispatch.policies import PolicyText, check_policy
from hanse.errors import ConfigError, HanseError
from hanse.live import bus
from hanse.live.first_start import problems_of, with_keys
from hanse.live.fleet_restart import restart_problems, without_joins
from hanse.live.league_file import (
    FILES_ALLOWED,
    Change,
    LeagueFile,
    LeagueStore,
    changed,
    lay_out,
    league_from_bytes,
    may_lie,
    named_files,
    parsed,
    read_digests,
)
from hanse.live.runtime import StateDir, replace_file
from hanse.model.fleet import Fleet
from hanse.signals.providers import read_settings

PROBLEMS_SAID_MAX: Final = 5
JOINING: Final = "join"
"""Who asks for the change that lets a site in."""
HUB_JOINING: Final = "join of a hub"


def change_problem(
    known: LeagueFile, change: Change, *, runs: Collection[str] = (), emulated: bool = False
) -> str:
    """Why a change cannot be taken; empty: it can.

    Args:
        runs: Sites that run, or may (`live.fleet_restart`).
        emulated: Links are.
    """
    if change.base != known.revision:
        return f"made from revision {change.base}; {known.revision} is in force"
    try:
        fleet = parsed(change.toml)
        name = known.fleet().name
        if fleet.name != name:
            return f"name: got {fleet.name!r}, need {name!r}"
        missing = [name for name in named_files(fleet) if name not in change.files]
        if missing:
            return f"{missing[0]}: named by the fleet file, and not sent with it"
        if wrong := [name for name in change.files if not may_lie(name)]:
            return f"{wrong[0]}: got {wrong[0]!r}, need {FILES_ALLOWED}"
        if fleet.feeds:
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "feeds.toml"
                path.write_text(change.files[fleet.feeds])
                read_settings(path)
    except HanseError as error:
        return str(error)
    if problems := problems_of(fleet):
        return "; ".join(str(problem.error()) for problem in problems[:PROBLEMS_SAID_MAX])
    if flaws := policy_flaws(known, fleet, change.files):
        return "; ".join(str(flaw) for flaw in flaws[:PROBLEMS_SAID_MAX])
    old, new = known.fleet(), fleet
    for site in (change.joined or ()) if change.by == JOINING else ():
        old, new = without_joins(old, new, site)
    if change.by == HUB_JOINING:
        old = replace(old, hub=new.hub)
    errors = restart_problems(old, new, runs=runs, emulated=emulated)
    return "; ".join(str(error) for error in errors[:PROBLEMS_SAID_MAX])


def policy_flaws(known: LeagueFile, fleet: Fleet, files: dict[str, str]) -> list[ConfigError]:
    """What is wrong with policies that are new or changed: while one is, nothing at all would be admitted."""
    return [
        flaw
        for policy in policies_in(fleet, files)
        if known.files.get(policy.name) != policy.text
        for flaw in check_policy(policy)
    ]


def numbered(known: LeagueFile, change: Change, state: StateDir, now_s: float) -> LeagueFile:
    """The next revision, with keys made for whoever has none; in force nowhere yet."""
    fleet = with_keys(parsed(change.toml), state)
    league = changed(known, change, fleet, now_s)
    digests = {key.id: key.sha256 for tenant in fleet.tenants for key in tenant.keys}
    return replace(league, digests=digests)


def settle(state: StateDir) -> None:
    """A hub that was killed between numbering a revision and laying it out does the rest now: the number is what counts."""
    newest = LeagueStore(state.hub).newest()
    if newest is not None and newest.toml.encode() != state.fleet_toml.read_bytes():
        lay_out(newest, state)


def kept(league: LeagueFile, state: StateDir) -> None:
    """Take over a revision that another hub's leader has decided: on this hub's disk as if it had been decided here.

    Digests of keys too: whoever makes the next revision must not make keys anew that were made elsewhere.
    """
    LeagueStore(state.hub).put(replace(league, epoch=0))
    known = read_digests(state)
    if (digests := known | league.digests) != known:
        replace_file(state.keys_json, msgspec.json.encode(digests))
    lay_out(league, state)


async def newest_league(client: Client) -> tuple[LeagueFile | None, int]:
    """The last one that a leader has published, and its place in the stream; (None, 0) where there never was any."""
    try:
        newest: Any = await client.jetstream(timeout=2.0).get_last_msg(
            bus.TABLES, bus.FLEET_SUBJECT
        )
    except NotFoundError:
        return None, 0
    return league_from_bytes(bytes(newest.data or b"")), int(newest.seq)


def policies_in(fleet: Fleet, files: dict[str, str]) -> tuple[PolicyText, ...]:
    """The operator's policies that a fleet names."""
    return tuple(PolicyText(name=name, text=files[name]) for name in fleet.policy.cedar_files)


def policies_here(
    state: StateDir, fleet: Fleet, league: LeagueFile | None
) -> tuple[PolicyText, ...]:
    """Those of the fleet in force; a site by itself has them as files."""
    names = fleet.policy.cedar_files
    files = {name: (state.path / name).read_text() for name in names} if league is None else {}
    return policies_in(fleet, files if league is None else league.files)

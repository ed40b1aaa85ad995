"""What one leader publishes goes behind what it knows, or not at all: no decision is written over by one that was cut off."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from msgspec.structs import replace
from nats.js.errors import APIError

from hanse.live import bus
from hanse.live.first_start import prepare
from hanse.live.fleet_change import kept, newest_league
from hanse.live.fleet_in_force import FleetInForce, Known
from hanse.live.league_file import Change, LeagueFile, LeagueStore
from hanse.live.runtime import StateDir
from live.test_controller import LEAGUE, Hub, run

NOW_S = 1_800_000_000.0


def change(known: LeagueFile, why: str) -> Change:
    text = known.toml.replace("valid_s = ", "valid_s = 1", 1)
    if text == known.toml:
        text = known.toml + f"\n# {why}\n"
    return Change(base=known.revision, toml=text, files=known.files, by="x", why=why)


@pytest.fixture
def fleets(tmp_path: Path) -> FleetInForce:
    text = LEAGUE.read_text()
    for port in range(8101, 8106):
        text = text.replace(f"port = {port}", "port = 0")
    (tmp_path / "league.toml").write_text(text)
    prepared = prepare(tmp_path / "league.toml", tmp_path / "state")
    return FleetInForce(prepared.state, prepared.runtime, lambda _league: None)


def on_disk(fleets: FleetInForce) -> int:
    newest = LeagueStore(fleets._state.hub).newest()
    assert newest is not None
    return newest.revision


def test_what_most_hubs_do_not_take_is_in_force_nowhere(fleets: FleetInForce) -> None:
    known = fleets.league
    assert known is not None

    async def nobody(_league: LeagueFile) -> None:
        raise TimeoutError

    async def all_of_them(_league: LeagueFile) -> None:
        assert on_disk(fleets) == known.revision, "they have it before this one acts by it"

    answer = asyncio.run(fleets.change(change(known, "one"), NOW_S, agree=nobody))
    assert "most hubs" in answer.problem
    assert (on_disk(fleets), fleets.league) == (known.revision, known)
    answer = asyncio.run(fleets.change(change(known, "one"), NOW_S, agree=all_of_them))
    assert answer.problem == ""
    assert on_disk(fleets) == known.revision + 1


def test_of_one_number_the_published_one_counts_and_an_older_one_never(
    fleets: FleetInForce,
) -> None:
    known = fleets.league
    assert known is not None
    mine = replace(known, revision=known.revision + 1, why="mine")
    kept(mine, fleets._state)
    fleets.take(mine)
    assert not fleets.follow(replace(known, epoch=9))
    assert not fleets.follow(None)
    assert not fleets.follow(replace(mine, epoch=9)), "the same"
    assert fleets.follow(replace(mine, epoch=9, why="theirs"))
    assert fleets.league is not None
    assert (fleets.league.why, fleets.league.epoch) == ("theirs", 0)


def test_keys_made_at_another_hub_are_not_made_again(fleets: FleetInForce) -> None:
    known = fleets.league
    assert known is not None
    tenant = '\n[[tenant]]\nid = "late"\nclasses = ["public"]\n[[tenant.key]]\nid = "late"\ncountries = ["FR"]\n'
    theirs = replace(
        known,
        revision=known.revision + 1,
        toml=known.toml + tenant,
        digests=known.digests | {"late": "a" * 64},
    )
    assert fleets.follow(theirs)
    after = fleets.league
    assert after is not None
    answer = asyncio.run(fleets.change(change(after, "next"), NOW_S))
    assert answer.problem == ""
    assert fleets.league is not None
    assert fleets.league.digests["late"] == "a" * 64
    assert not (fleets._state.keys_dir / "late.key").exists()


def test_a_leader_that_was_away_publishes_over_nothing(tmp_path: Path) -> None:
    """On a real bus: another has published since; the stale one is refused, takes that, and goes on behind it."""

    async def body(hub: Hub) -> None:
        await bus.ensure_hub_streams(hub.client, ())
        runtime, state = hub.prepared.runtime, hub.state
        other = StateDir(tmp_path / "other")
        other.make((), hub=True)
        known = LeagueStore(state.hub).newest()
        assert known is not None
        kept(known, other)
        old = FleetInForce(state, runtime, lambda _league: None)
        new = FleetInForce(other, runtime, lambda _league: None)
        await old.agree(hub.client, known, 2, 2.0, old.known)
        await new.look_up(hub.client)
        decided = replace(known, revision=known.revision + 1, why="by most")
        await new.agree(hub.client, decided, 3, 2.0, new.known)
        alone = replace(known, revision=known.revision + 1, why="by one")
        with pytest.raises(APIError, match="wrong last sequence"):
            await old.agree(hub.client, alone, 4, 2.0, old.known)
        await old.send(hub.client, 4)  # of what it still believes: refused, and looked up
        assert old.league is not None
        assert old.league.why == "by most"
        await old.send(hub.client, 4)
        published, place = await newest_league(hub.client)
        assert published is not None
        assert (published.why, published.epoch, place) == ("by most", 4, old.place)
        await old.agree(hub.client, old.league, 4, 2.0, Known(old.league, 0))  # an answer was lost
        base = old.known
        await old.publish(hub.client, old.league, 5, 2.0, base.place)  # said once more meanwhile
        after = replace(old.league, revision=known.revision + 2, why="next")
        await old.agree(hub.client, after, 5, 2.0, base)
        published, _ = await newest_league(hub.client)
        assert published is not None
        assert published.why == "next"

    run(tmp_path, body)

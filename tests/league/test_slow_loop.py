"""The controller places by itself: replicas go where users ask, around a site that is lost, and every decision can be made again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from hanse.dispatch.eventlog import Repeated, repeat
from hanse.dispatch.events import PlacementDecided
from hanse.live.placements import PlacementFile
from league.harness import League, running, wait_until
from league.small_fleet import fleet_text
from league.test_actuation import Traffic, status_of

DECIDED_S_MAX = 90.0


@pytest.fixture(scope="module")
def placed() -> Iterator[League]:
    with running(fleet_text(places=True, placed=("frankfurt", "lyon"), slots=6)) as league:
        yield league


def placement(league: League, site: str = "frankfurt") -> PlacementDecided | None:
    """The newest that a site has on its disk."""
    return PlacementFile(league.state.site(site), league.state.fleet_toml).read()


def replayed(league: League) -> Repeated:
    """The controller's decisions, made again from its log."""
    newest = max((league.state.hub / "events").glob("*.events"))
    return repeat(newest.read_bytes())


def settled(league: League, sites: set[str]) -> bool:
    """Whether sites run what the newest placement says, all of it up."""
    decided = placement(league)
    if decided is None:
        return False
    for site in sorted(sites):
        status = status_of(league, site)
        wanted = sum(p.replicas for p in decided.placements if p.site == site)
        states = [engine.state for engine in status.engines]
        if status.placement_version != decided.version or states != ["up"] * wanted:
            return False
    return True


def at(decided: PlacementDecided | None) -> set[str]:
    return set() if decided is None else {p.site for p in decided.placements if p.replicas > 0}


@pytest.mark.long
def test_no_request_misses_while_all_is_placed_anew_and_a_site_is_lost(placed: League) -> None:
    league = placed
    with Traffic(league, "frankfurt") as traffic:
        wait_until(lambda: len(traffic.answers) > 20, "requests were answered", 60)
        first, lost = {"frankfurt", "lyon"}, "lyon"
        wait_until(lambda: settled(league, first), "both run what was decided", DECIDED_S_MAX)
        league.kill_site(lost)
        before = replayed(league).placements
        took_s = wait_until(
            lambda: (
                replayed(league).placements > before and len(at(placement(league)) - {lost}) >= 2
            ),
            "it is placed anew, and two sites serve",
            DECIDED_S_MAX,
        )
        print(f"placed anew after {took_s:.1f} s: {sorted(at(placement(league)))}")
        served = len(traffic.answers)
        wait_until(lambda: len(traffic.answers) > served + 10, "requests go on", 60)
    traffic.check()
    made = replayed(league)
    print(msgspec.json.encode(made).decode())
    assert made.placements >= 2 and made.decided >= made.placements
    assert made.differ == ()


@pytest.mark.long
def test_logs_are_private(placed: League) -> None:
    for path in (placed.state.hub / "events").glob("*.events"):
        assert Path(path).stat().st_mode & 0o077 == 0

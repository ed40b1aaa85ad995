"""The controller places by itself: replicas go where users ask, around a site that is lost, and every decision can be made again."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from hanse.dispatch.eventlog import repeat
from hanse.dispatch.events import PlacementDecided
from hanse.live.placements import PlacementFile
from league.harness import League, running, wait_until
from league.small_fleet import SITES, fleet_text
from league.test_actuation import Traffic

DECIDED_S_MAX = 90.0


@pytest.fixture(scope="module")
def placed() -> Iterator[League]:
    with running(fleet_text(places=True)) as league:
        yield league


def placement(league: League, site: str = "frankfurt") -> PlacementDecided | None:
    """The newest that a site has on its disk."""
    return PlacementFile(league.state.site(site), league.state.fleet_toml).read()


def at(decided: PlacementDecided | None) -> set[str]:
    return set() if decided is None else {p.site for p in decided.placements if p.replicas > 0}


def test_replicas_go_where_users_ask_and_around_a_lost_site(placed: League) -> None:
    league = placed
    with Traffic(league, "frankfurt") as traffic:
        wait_until(
            lambda: 0 < len(at(placement(league))) < len(SITES), "fewer sites serve", DECIDED_S_MAX
        )
        wait_until(lambda: len(traffic.answers) > 20, "requests were answered", 60)
        first = at(placement(league))
        lost = next(site for site in sorted(first) if site != "frankfurt")
        begun_s = time.monotonic()
        league.kill_site(lost)
        wait_until(
            lambda: len(at(placement(league)) - {lost}) > len(first - {lost}),
            "another site stands in for the lost one",
            DECIDED_S_MAX,
        )
        print(
            f"first {sorted(first)}; {lost} lost; after {time.monotonic() - begun_s:.1f} s {sorted(at(placement(league)))}"
        )
        time.sleep(3)
    traffic.check()
    logs = sorted((league.state.hub / "events").glob("*.events"))
    made = repeat(logs[-1].read_bytes())
    print(msgspec.json.encode(made).decode())
    assert made.placements >= 2 and made.decided > made.placements
    assert made.differ == ()


def test_logs_are_private(placed: League) -> None:
    for path in (placed.state.hub / "events").glob("*.events"):
        assert Path(path).stat().st_mode & 0o077 == 0

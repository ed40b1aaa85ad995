"""`hanse placement`: from a controller's log to what stands, what it costs and what the next best would cost."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dispatch.placing import OWN, Fleet, placed
from hanse.cli import app, main
from hanse.dispatch.eventlog import last_placement
from hanse.dispatch.place import explain
from hanse.live.runtime import StateDir

LEAGUE = Path(__file__).parents[2] / "examples" / "league.toml"


def run(*arguments: str) -> int:
    """The exit code of one command."""
    try:
        code = app(list(arguments), exit_on_error=False, result_action="return_value")
    except SystemExit as left:
        code = left.code
    return int(code or 0)


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """Of a league that ended after two placements."""
    league = Fleet(OWN, OWN, placements=(placed("a", chips=1, slots=16),))
    league.expect(rate=3.0)
    league.place()
    league.expect(rate=60.0)
    league.place()
    events = tmp_path / "hub" / "events"
    events.mkdir(parents=True)
    (events / "1.events").write_bytes(league.log + b"\0")  # killed inside an entry
    return tmp_path


def test_the_last_placement_is_the_one_in_force() -> None:
    league = Fleet(OWN, OWN, placements=(placed("a", chips=1, slots=16),))
    league.expect(rate=3.0)
    league.place()
    problem, answer = league.place()
    found = last_placement(league.log)
    assert found is not None
    assert (found.problem, found.answer) == (problem, answer)
    assert last_placement(Fleet(OWN, placements=()).log) is None


def test_it_says_what_stands_and_why(state: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run("placement", "--state", str(state), "--json") == 0
    alone = json.loads(capfd.readouterr().out)
    assert sum(r["replicas"] for r in alone["replicas"]) > 1
    assert alone["usd_per_h"]["total"] == pytest.approx(
        sum(usd for name, usd in alone["usd_per_h"].items() if name != "total")
    )
    site = alone["replicas"][0]["site"]
    asked = ("placement", "--state", str(state), "--service", "chat", "--site", site)
    assert run(*asked, "--json") == 0
    why = json.loads(capfd.readouterr().out)["why"]
    log = (state / "hub" / "events" / "1.events").read_bytes()
    found = last_placement(log)
    assert found is not None
    assert why["usd_more"] == explain(found.problem, found.answer, "chat", site).usd_more
    assert run(*asked) == 0
    said = "".join(capfd.readouterr())
    assert f"chat at {site}" in said
    assert "the next best" in said
    assert "USD/h" in said


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("--service", "chat"), "both"),
        (("--service", "zz", "--site", "a"), "chat"),
        (("--service", "chat", "--site", "zz"), "a, b"),
    ],
)
def test_what_it_cannot_explain_ends_with_2(
    state: Path, arguments: tuple[str, ...], word: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        main(["placement", "--state", str(state), *arguments])
    assert left.value.code == 2
    assert word in capfd.readouterr().err


def test_a_league_that_places_nothing_says_how_to(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    events = tmp_path / "hub" / "events"
    events.mkdir(parents=True)
    (events / "1.events").write_bytes(Fleet(OWN, placements=()).log)
    with pytest.raises(SystemExit) as left:
        main(["placement", "--state", str(tmp_path)])
    assert left.value.code == 2
    assert "set `places = true`" in capfd.readouterr().err


def test_a_league_that_places_and_has_not_yet_says_so(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    events = tmp_path / "hub" / "events"
    events.mkdir(parents=True)
    (events / "1.events").write_bytes(Fleet(OWN, placements=()).log)
    text = LEAGUE.read_text() + "\n[slow_loop]\nplaces = true\n"
    StateDir(tmp_path).fleet_toml.write_text(text)
    with pytest.raises(SystemExit):
        main(["placement", "--state", str(tmp_path)])
    said = capfd.readouterr().err
    assert "has made none yet" in said and "set `places = true`" not in said


def test_it_says_how_long_a_placement_is_for(
    state: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run("placement", "--state", str(state)) == 0
    said = " ".join(capfd.readouterr().out.split())
    assert "minutes: the whole steps of the outlook (hours) that `window_s`" in said

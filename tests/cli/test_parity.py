"""`hanse replay`, `hanse record`, `hanse calibrate` as a person types them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hanse.cli import main
from hanse.signals.traces import open_trace
from live.gateway.rig import fleet_toml
from live.gateway.test_journal import SITES, STORY, Site
from live.test_event_log import Led
from twin.test_recorded import engine_log


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    return int(ended.value.code or 0)


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A state directory with the logs of one worker."""
    home = tmp_path / "sites" / "lyon" / "journal"
    site = Site(home, 1)
    for step in STORY:
        site.do(step)
    site.close()
    (tmp_path / "fleet.toml").write_text(fleet_toml(SITES, 2))
    return tmp_path


def test_replay_ends_with_0_where_all_bits_are_the_same(
    state: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("replay", str(state)) == 0
    assert "all bits are the same" in capsys.readouterr().out
    assert run("replay", str(state), "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["mismatches"] == 0 and found["compared"]["choice"] == 60


def test_replay_ends_with_1_and_says_where(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = next(state.glob("sites/*/journal/*.jnl"))
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)
    assert run("replay", str(state)) == 1
    said = capsys.readouterr().out
    assert "1 mismatches" in said and "logged:" in said and "replayed:" in said


def test_what_if_says_what_would_go_where(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = state / "other.toml"
    links = "".join(
        f'[[link]]\na = "lyon"\nb = "{site}"\nrtt_ms = 20\nmbit_s = 1000\n' for site in SITES[1:]
    )
    other.write_text(fleet_toml(SITES, 2).replace("slots = 8", "slots = 1") + links)
    assert run("replay", str(state), "--fleet", str(other), "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["decisions"] == 60 and found["decisions"] > found["same"]
    assert run("replay", str(state), "--fleet", str(other)) == 0
    assert "would have gone elsewhere" in capsys.readouterr().out


def test_nothing_there_is_an_error_that_says_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in (
        ["replay", str(tmp_path)],
        ["record", "--state", str(tmp_path), "--out", "t.parquet"],
    ):
        assert run(*command) == 2
        assert "--record" in capsys.readouterr().err


def test_record_and_calibrate_write_their_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = tmp_path / "sites" / "lyon" / "journal"
    home.mkdir(parents=True)
    engine_log(home, seed=5)
    (tmp_path / "fleet.toml").write_text(fleet_toml(SITES, 2))
    trace, steps = tmp_path / "day.parquet", tmp_path / "steps.csv"
    assert run("record", "--state", str(tmp_path), "--out", str(trace)) == 0
    assert open_trace(trace).meta.count == 450
    assert run("calibrate", "--state", str(tmp_path), "--out", str(steps)) == 0
    assert "450 streams" in capsys.readouterr().out
    assert steps.read_text().startswith("model,accelerator,count,precision,batch,input_tokens")


@pytest.fixture
def led(tmp_path: Path) -> Path:
    """A state directory with the log of a controller."""
    led = Led(tmp_path / "hub" / "events", 1.0)
    led.told(20)
    led.log.close()
    return tmp_path


def test_a_controllers_decisions_are_made_again(
    led: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for where in (led, led / "hub" / "events", next(led.glob("hub/events/*"))):
        assert run("replay", "--controller", str(where)) == 0
        assert "42 events" in (said := capsys.readouterr().out) and "all the same" in said
    assert run("replay", str(led), "--controller", "--json") == 0
    (file,) = json.loads(capsys.readouterr().out)["files"]
    assert file["events"] == 42 and file["decided"] > 0 and file["differ"] == []


def test_a_controllers_decision_that_differs_ends_with_1(
    led: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = next(led.glob("hub/events/*"))
    log = bytearray(path.read_bytes())
    log[-1] ^= 1  # of the digest of what followed the last event
    path.write_bytes(log)
    assert run("replay", "--controller", str(led)) == 1
    said = capsys.readouterr().out
    assert "1 differ" in said and "event 42 (SiteLost)" in said
    path.write_bytes(log[:-3])
    assert run("replay", "--controller", str(led)) == 0
    assert "ends inside an event" in capsys.readouterr().out


def test_a_controllers_log_that_is_none_ends_with_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("replay", "--controller", str(tmp_path)) == 2
    (tmp_path / "x.events").write_bytes(b"something else")
    assert run("replay", "--controller", str(tmp_path)) == 2
    assert "begins with" in capsys.readouterr().err
    assert run("replay", "--controller", str(tmp_path), "--fleet", "x.toml") == 2

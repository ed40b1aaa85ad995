"""`hanse schedule`: from a controller's log to what runs when and where, and what batteries do."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from cli.test_placement import run
from dispatch.fleets import NOW_S
from dispatch.test_slow import made, outlook
from dispatch.test_snapshot import Shell, job
from hanse.cli import main
from hanse.dispatch import events as ev
from hanse.dispatch.defer_build import Measured
from hanse.dispatch.eventlog import MAGIC, frame, last_schedule


def shell() -> Shell:
    """A league with a battery at its first site, after a batch came."""
    told, league = Shell(), made()
    first, *others = league.sites
    power = msgspec.structs.replace(first.power, battery_kwh=50.0, battery_kw_max=20.0)
    sites = (msgspec.structs.replace(first, power=power), *others)
    told.tell(ev.FleetLoaded(at_s=NOW_S, fleet=msgspec.structs.replace(league, sites=sites)))
    told.tell(ev.EpochGranted(at_s=NOW_S, epoch=1))
    told.tell(ev.OutlookIssued(at_s=NOW_S, outlook=outlook()))
    told.tell(ev.JobsChanged(at_s=NOW_S, jobs=(job(50_000.0),), measured=Measured()))
    told.tell(ev.Ticked(at_s=NOW_S + 1.0))
    return told


@pytest.fixture
def state(tmp_path: Path) -> Path:
    events = tmp_path / "hub" / "events"
    events.mkdir(parents=True)
    log = MAGIC + b"".join(frame(event, actions) for event, actions in shell().all)
    (events / "1.events").write_bytes(log)
    return tmp_path


def test_it_says_what_runs_when_and_what_batteries_do(
    state: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run("schedule", "--state", str(state), "--json") == 0
    told = json.loads(capfd.readouterr().out)
    found = last_schedule((state / "hub" / "events" / "1.events").read_bytes())
    assert found is not None
    (one,), (plan,) = told["jobs"], found.answer.jobs
    assert one["job"] == "batch-1" and one["done_share"] == plan.done_share > 0.0
    for shown, planned in zip(one["runs"], plan.runs, strict=True):
        chip_s = sum(s["mean"] * (s["end_s"] - s["begin_s"]) for s in shown["spans"])
        steps = zip(planned.chips, found.answer.step_s, strict=True)
        assert chip_s == pytest.approx(sum(c * s for c, s in steps), abs=0.01 * 48 * 3600)
        ends = [s["end_s"] for s in shown["spans"]]
        assert all(a < b["begin_s"] for a, b in zip(ends, shown["spans"][1:], strict=False))
    costs = told["usd"]
    less = costs["export_usd"] + costs["stored_usd"]
    added = sum(v for k, v in costs.items() if k.endswith("_usd")) - 2.0 * less
    assert costs["total"] == pytest.approx(added)
    assert run("schedule", "--state", str(state)) == 0
    said = capfd.readouterr().out
    assert "batch-1" in said and "of 50 kWh" in said and "kgCO2e (average_location)" in said


def test_a_site_is_shown_step_by_step(state: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run("schedule", "--state", str(state), "--site", "a", "--hours", "1") == 0
    lines = capfd.readouterr().out.splitlines()
    assert sum(line.startswith("│") for line in lines) == 12
    assert "of 50 kWh" in lines[0]


@pytest.mark.parametrize(
    ("arguments", "word"), [(("--site", "zz"), "a, b"), (("--hours", "0"), "1 or more")]
)
def test_what_it_cannot_show_ends_with_2(
    state: Path, arguments: tuple[str, ...], word: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        main(["schedule", "--state", str(state), *arguments])
    assert left.value.code == 2
    assert word in capfd.readouterr().err


def test_a_league_without_a_schedule_says_how_to_get_one(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    events = tmp_path / "hub" / "events"
    events.mkdir(parents=True)
    (events / "1.events").write_bytes(MAGIC)
    with pytest.raises(SystemExit) as left:
        main(["schedule", "--state", str(tmp_path)])
    assert left.value.code == 2
    assert "places = true" in capfd.readouterr().err

"""`hanse forecast`: errors against persistence on shipped data, a forecast, feeds asked once."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
AMBER = ROOT.parent / "shared" / "data"


def hanse(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from hanse.cli import main; main()", "forecast", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=100)


def errors(*arguments: str) -> dict[tuple[str, str, str], dict[str, float]]:
    done = hanse("backtest", *arguments, "--json")
    assert done.returncode == 0, done.stderr
    return {(s["quantity"], s["method"], s["horizon"]): s for s in json.loads(done.stdout)}


@pytest.mark.parametrize(
    ("quantity", "zone", "skill_min"),
    [
        ("carbon", "DE", 0.15),
        pytest.param("pv", "GB", 0.6, marks=pytest.mark.long),
        pytest.param("wind", "GB", 0.1, marks=pytest.mark.long),
        ("demand", "m-small", 0.3),
    ],
)
def test_the_shipped_method_beats_every_other_on_the_shipped_data(
    quantity: str, zone: str, skill_min: float
) -> None:
    found = errors("--quantity", quantity, "--zone", zone)
    every = {method: s for (_, method, horizon), s in found.items() if horizon == "all"}
    assert every["persistence"]["skill"] == 0.0
    assert every["blend"]["skill"] > skill_min
    for method in ("persistence", "day_before", "week_before", "climatology"):
        assert every["blend"]["mae"] < every[method]["mae"]
        assert every["blend"]["rmse"] < every[method]["rmse"]
    assert 0.85 <= every["blend"]["under_high"] <= 0.99


@pytest.mark.skipif(not AMBER.exists(), reason="no ../shared/data: prices ship with no release")
@pytest.mark.long
def test_prices_of_a_folder_are_measured_too() -> None:
    found = errors("--quantity", "price", "--zone", "DE-LU", "--data", str(AMBER))
    assert found["price", "blend", "all"]["skill"] > 0.2
    assert found["price", "blend", "all"]["mae"] < found["price", "day_before", "all"]["mae"]


def test_tables_are_for_people_and_what_is_not_there_is_named() -> None:
    done = hanse("backtest", "--quantity", "carbon", "--zone", "GB")
    assert done.returncode == 0, done.stderr
    assert "persistence" in done.stdout and "blend" in done.stdout and "25-48 h" in done.stdout
    for arguments, says in (
        (("--quantity", "price"), "--data"),
        (("--quantity", "carbon", "--zone", "Atlantis"), "Atlantis"),
        (("--quantity", "carbon", "--data", "nowhere"), "nowhere"),
    ):
        wrong = hanse("backtest", *arguments)
        assert wrong.returncode == 2 and says in wrong.stderr


def test_a_forecast_says_kind_method_and_when_it_was_issued() -> None:
    done = hanse("show", "GB", "--at", "2026-08-01T12:00Z", "--hours", "6", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["signal"], found["method"], len(found["mean"])) == (
        "average_location",
        "blend",
        6,
    )
    assert found["issued_at_s"] == found["start_s"] == 1_785_585_600.0
    assert "#" in hanse("show", "GB", "--hours", "2").stdout
    assert hanse("show", "Atlantis").returncode == 2


@pytest.mark.parametrize("hours", ["-1", "0", "1441", "100000"])
def test_a_horizon_that_no_history_can_give_is_refused(hours: str) -> None:
    done = hanse("show", "GB", "--hours", hours)
    assert done.returncode == 2 and not done.stdout
    assert done.stderr == f"--hours: got {hours}, need 1 or more, at most 1440\n"


def test_feeds_are_asked_once_and_a_failure_is_told(tmp_path: Path) -> None:
    (tmp_path / "own.csv").write_text("utc,g\n2026-08-01T11:00Z,100\n2026-08-01T12:00Z,110\n")
    feeds = tmp_path / "feeds.toml"
    feeds.write_text(f'[[feed]]\nprovider = "csv"\nzone = "GB"\npath = "{tmp_path / "own.csv"}"\n')
    done = hanse("feeds", str(feeds), "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["observed"][0]["value"] == 110.0
    feeds.write_text('[[feed]]\nprovider = "csv"\nzone = "GB"\npath = "nowhere.csv"\n')
    done = hanse("feeds", str(feeds))
    assert done.returncode == 1 and "nowhere.csv" in done.stdout

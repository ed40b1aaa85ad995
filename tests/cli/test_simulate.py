"""`hanse simulate` and `hanse compare`: what goes where, and what exit codes say."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from hanse.cli import main

ROOT = Path(__file__).parents[2]
LEAGUE = "examples/league.toml"


def hanse(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from hanse.cli import main; main()", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=100)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("absent.toml",), "absent.toml"),
        ((LEAGUE, "--trace", "absent.parquet"), "absent.parquet"),
        ((LEAGUE, "--start", "noon"), "--start"),
        ((LEAGUE, "--scale", "-1"), "scale"),
        ((LEAGUE, "--scenario", LEAGUE), "need name, fault"),
        ((LEAGUE, "--reference", LEAGUE), "--reference"),
        ((LEAGUE, "--report", "absent/report.html"), "--report"),
        ((LEAGUE, "--requests", "absent/requests.parquet"), "--requests"),
    ],
)
def test_bad_input_ends_with_2_and_says_what_is_allowed(
    arguments: tuple[str, ...],
    said: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit) as ended:
        main(["simulate", *arguments])
    out, err = capsys.readouterr()
    assert ended.value.code == 2 and out == ""
    assert said in err and "Traceback" not in err


def test_the_document_is_on_stdout_and_the_same_each_time(tmp_path: Path) -> None:
    report = tmp_path / "report.html"
    first = hanse("simulate", LEAGUE, "--scale", "0.2", "--json", "--report", str(report))
    assert first.returncode == 0, first.stderr
    document = json.loads(first.stdout)
    assert document["schema"] == "hanse-result/1" and document["run"]["scale"] == 0.2
    assert document["residency"]["unlawful"] == 0
    assert report.read_text().startswith("<!doctype html>")
    (tmp_path / "first.json").write_text(first.stdout)
    command = document["run"]["command"]
    assert command in first.stderr
    again = hanse(*command.split()[1:], "--json")
    assert again.stdout == first.stdout
    beside = hanse(*command.split()[1:], "--json", "--reference", str(tmp_path / "first.json"))
    assert json.loads(beside.stdout)["latency_return"]["added_e2e_ms"] == 0.0


def test_tables_are_for_people(tmp_path: Path) -> None:
    done = hanse("simulate", LEAGUE, "--scale", "0.2", "--requests", str(tmp_path / "r.parquet"))
    assert done.returncode == 0 and "r.parquet" in done.stderr
    for said in ("engines", "busy", "idle", "PUE", "residency: every request", "seed 1358"):
        assert said in " ".join(done.stdout.split()), said
    heads = [line for line in done.stdout.splitlines() if "\u2500" in line]
    assert heads and max(map(len, heads)) <= 100, "tables fit a screen, sentences are a line each"
    assert (tmp_path / "r.parquet").exists()


def test_a_comparison_needs_two() -> None:
    done = hanse("compare", LEAGUE)
    assert done.returncode == 2 and "two alternatives" in done.stderr

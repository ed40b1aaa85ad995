"""The figures of benchmarks/year.py that are on record, and the page that tells of them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
sys.path.append(str(BENCHMARKS))
import year  # noqa: E402

sys.path.remove(str(BENCHMARKS))  # its twin.py is not these tests' `twin`

RECORD = BENCHMARKS / "year_2022.jsonl"
PAGE = (BENCHMARKS / "README.md").read_text(encoding="utf-8")


def runs() -> dict[str, list[dict[str, object]]]:
    """By alternative, in the order of months."""
    found: dict[str, list[dict[str, object]]] = {name: [] for name in year.ALTERNATIVES}
    for (name, _, _), run in sorted(year.read_runs(RECORD).items()):
        found[name].append(run)
    return found


def test_the_page_holds_the_year_and_what_each_month_cost() -> None:
    found = runs()
    assert [run["month"] for run in found["truth"]] == list(range(1, 13))
    columns = {
        name: year.row_of(year.added([year.scaled(run) for run in mine]))
        for name, mine in found.items()
    }
    table, _, verdict = year.told(columns).partition("\n\n")
    assert table in PAGE, "put what `year.py --read` prints into the page"
    assert verdict.startswith("Forecasts cost 2.62 % more")
    assert year.told_by_month(found) in PAGE, "and by month"


def test_every_month_on_record_is_whole_of_one_source_and_asked_of_all_alternatives_alike() -> None:
    found = runs()
    assert len({run["file"] for mine in found.values() for run in mine}) == 1
    for month in zip(*found.values(), strict=True):
        assert len({run["month"] for run in month}) == 1
        assert len({run["requests"] for run in month}) == 1
        assert {run["days"] for run in month} == {year.hours_in(month[0]["month"]) / 24.0}


@pytest.mark.parametrize(
    ("asked", "word"), [("3,4", "'fixed', 4"), ("13", "1-12"), ("spring", "1-12")]
)
def test_what_is_not_on_record_or_no_month_ends_with_2(
    tmp_path: Path, asked: str, word: str
) -> None:
    march = tmp_path / "march.jsonl"
    lines = [line for line in RECORD.read_text().splitlines() if '"month": 3,' in line]
    march.write_text("\n".join(lines))
    command = [sys.executable, BENCHMARKS / "year.py", "--read", march, "--months", asked]
    left = subprocess.run(command, capture_output=True, text=True, check=False)
    assert left.returncode == 2
    assert word in left.stderr

"""The published numbers, from the data that is not part of the repository; what cannot be told without it is skipped."""

from __future__ import annotations

import functools
import re
from pathlib import Path

import msgspec
import pytest

from hanse.errors import ConfigError
from hanse.twin.reproduce import REPRODUCTIONS, eurosys24, reproduce
from hanse.twin.reproduce.inputs import VARIABLE, columns, data_dir
from hanse.twin.reproduce.values import Reproduction, agreed, row

LONG = ("temporal-shift",)
"""A minute or two each: 70,000 choices by forecasts that are fitted anew."""
NAMES = [
    pytest.param(name, marks=pytest.mark.long) if name in LONG else name for name in REPRODUCTIONS
]
DOCS = Path(__file__).parents[3] / "docs" / "reproduce.md"


@functools.cache
def found_in(name: str, data: Path) -> Reproduction:
    """One run for all tests that read it."""
    return reproduce(name, data)


@pytest.mark.parametrize("name", NAMES)
def test_every_row_is_within_its_tolerance(name: str, data: Path) -> None:
    found = found_in(name, data)
    assert [one.name for one in found.rows if not one.agrees] == []
    assert found.agrees and found.name == name
    assert any(one.paper is not None for one in found.rows)
    names = [(one.name, one.unit) for one in found.rows]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("name", NAMES)
def test_the_same_data_gives_the_same_document(name: str, data: Path) -> None:
    once, again = map(msgspec.json.encode, (found_in(name, data), reproduce(name, data)))
    assert once == again
    assert msgspec.json.encode(msgspec.json.decode(once, type=Reproduction)) == once


@pytest.mark.parametrize("name", NAMES)
def test_the_page_names_every_reproduction_and_every_file_it_reads(name: str, data: Path) -> None:
    page = DOCS.read_text()
    assert f"`{name}`" in page
    for file in found_in(name, data).files:
        assert file.split("/")[0] in page
        assert re.sub(r"^(m-large|m-mid|m-small|deepseek-r1)_", "*_", file.split("/")[1]) in page


def test_eurosys_is_met_to_the_last_digit_and_the_optimum_is_never_above(data: Path) -> None:
    rows = found_in("eurosys24-latency", data).rows
    assert len(rows) == 21
    assert all(abs(one.difference or 0.0) < 1e-9 for one in rows)
    assert all(one.also["optimum"] <= one.ours + 1e-6 for one in rows)
    found = {one.name: one.ours for one in rows}
    assert found["250 ms, 50 % idle"] > found["200 ms, 50 % idle"], "the rule is no optimum"


def test_eurosys_5_ms_rows_need_the_studys_own_round_trip(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(eurosys24, "STUDY_MS", {})
    rows = {one.name: one for one in reproduce("eurosys24-latency", data).rows}
    assert rows["5 ms, 99 % idle"].ours == pytest.approx(369.94, abs=0.005)
    assert not rows["5 ms, 99 % idle"].agrees
    assert rows["50 ms, 99 % idle"].agrees


def test_gaias_policies_come_in_the_published_order(data: Path) -> None:
    saved = {
        one.name.removesuffix(": saved"): one.ours
        for one in reproduce("gaia-batch", data).rows
        if one.name.endswith(": saved")
    }
    # What GAIA 62a5efc itself gives on the same whole-gram signal.
    expected = {
        "run at once": 0.0,
        "lowest slot": 21.98812,
        "saving per waiting time": 27.45606,
        "lowest window": 31.63378,
        "saving per waiting time, length known": 34.18667,
        "threshold suspend": 36.07972,
        "lowest window, length known": 38.55166,
        "suspend-resume, as published": 39.40643,
        "suspend-resume oracle": 45.35704,
    }
    assert sorted(saved, key=lambda name: saved[name]) == list(expected)
    for name, pct in expected.items():
        assert saved[name] == pytest.approx(pct, abs=1e-4), name


def test_a_row_outside_its_tolerance_is_told_apart() -> None:
    near = row("a", "ms", ours=1.04, paper=1.0, tolerance=0.05)
    far = row("b", "ms", ours=1.06, paper=1.0, tolerance=0.05)
    unknown = row("c", "ms", ours=9.0)
    assert (near.agrees, far.agrees, unknown.agrees) == (True, False, True)
    assert agreed((near, unknown)) and not agreed((near, far))


def test_a_published_number_without_a_tolerance_is_our_own_bug() -> None:
    with pytest.raises(AssertionError, match="tolerance"):
        row("a", "ms", ours=1.0, paper=1.0)


def test_missing_data_is_named_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "nowhere"))
    with pytest.raises(ConfigError, match=rf"{VARIABLE}: got .*nowhere.*--data DIR"):
        data_dir()
    with pytest.raises(ConfigError, match=r"--data: got .*gone"):
        data_dir(tmp_path / "gone")
    assert data_dir(tmp_path) == tmp_path
    for name in REPRODUCTIONS:
        with pytest.raises(ConfigError, match=r"no such file.*docs/reproduce\.md"):
            reproduce(name, tmp_path)


def test_a_file_without_the_column_is_refused(tmp_path: Path) -> None:
    (tmp_path / "jobs.csv").write_text("a,b\n1,2\n3,4\n")
    assert [one.tolist() for one in columns(tmp_path, "jobs.csv", "b", "a")] == [[2, 4], [1, 3]]
    with pytest.raises(ConfigError, match="columns a, b, need c"):
        columns(tmp_path, "jobs.csv", "a", "c")


def test_an_unknown_name_lists_the_known(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="eurosys24-latency"):
        reproduce("nonsense", tmp_path)

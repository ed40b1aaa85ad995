"""Taking a site out of service reads no fleet file again."""

from __future__ import annotations

from pathlib import Path

import pytest

from hanse.live import league_file
from hanse.live.fleet_change import change_problem
from hanse.live.league_file import Change, LeagueFile, Standing
from hanse.model.fleet import Fleet
from hanse.model.read import parse_fleet

TOML = (Path(__file__).parents[2] / "examples" / "league.toml").read_text()
RUNS = {"frankfurt", "lyon", "london", "tallinn", "virginia"}


def test_a_text_that_is_in_force_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[bytes] = []

    def counted(content: bytes, *, source: str) -> Fleet:
        read.append(content)
        return parse_fleet(content, source=source)

    monkeypatch.setattr(league_file, "parse_fleet", counted)
    league_file.parsed.cache_clear()
    known = LeagueFile(revision=1, at_s=0.0, toml=TOML)
    for turn in range(5):
        standing = {"lyon": Standing(state="drained", since_s=float(turn))}
        change = Change(base=1, toml=TOML, by="me", standing=standing)
        assert change_problem(known, change, runs=RUNS) == ""
        assert known.fleet().name == "league"
    assert len(read) == 1
    other = Change(
        base=1, toml=TOML.replace("usd_per_tonne_co2e = 100", "usd_per_tonne_co2e = 90"), by="me"
    )
    assert change_problem(known, other, runs=RUNS) == ""
    assert len(read) == 2, "another text is read"
    league_file.parsed.cache_clear()

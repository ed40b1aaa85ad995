"""Every wrong shape of a fleet file is one error with path, got, allowed and, where it can be guessed, a fix."""

from __future__ import annotations

from pathlib import Path

import pytest

from hanse.errors import ConfigError, ConfigErrors
from hanse.model.read import parse_fleet, read_fleet

LEAGUE = Path(__file__).with_name("five_sites.toml")


def test_reads_the_example_league() -> None:
    fleet = read_fleet(LEAGUE)
    assert [site.id for site in fleet.sites] == [
        "frankfurt",
        "lyon",
        "london",
        "tallinn",
        "virginia",
    ]
    assert fleet.sites[0].pools[0].accelerator == "x86-thread"


@pytest.mark.parametrize(
    ("old", "new", "where", "got", "allowed", "fix"),
    [
        ("grid_kw_max = 6,", "grid_kw_max = '6',", "site[3].power.grid_kw_max", "'6'", "float", ""),
        (
            "grid_kw_max = 6,",
            "grid_kw_mx = 6,",
            "site[3].power.grid_kw_mx",
            "a field of no meaning",
            "grid_kw_max",
            "did you mean 'grid_kw_max'?",
        ),
        ("[weights]", "[weihgts]", "weihgts", "no meaning", "policy", "did you mean 'weights'?"),
        ('"edge"', '"edg"', "site[3].kind", "'edg'", "'micro', 'edge'", "did you mean 'edge'?"),
        ("lat_deg = 59.44", "lat_deg = 99", "site[3].lat_deg", "99", "<= 90", ""),
        ("lat_deg = 59.44\n", "", "site[3].lat_deg", "nothing", "a value", "add lat_deg"),
        ('id = "tallinn"', 'id = "Tallinn"', "site[3].id", "'Tallinn'", "0-9 and hyphen", ""),
        ('country = "EE"', 'country = "ee"', "site[3].country", "'ee'", "two capital letters", ""),
        (
            '"chat", "completions"]',
            '"chat", "compl"]',
            "service[0].endpoints[1]",
            "'compl'",
            "'embeddings'",
            "did you mean 'completions'?",
        ),
        ("hanse-fleet/1", "hanse-fleet/9", "schema", "'hanse-fleet/9'", "'hanse-fleet/1'", ""),
    ],
)
def test_names_path_got_allowed_and_fix(
    old: str, new: str, where: str, got: str, allowed: str, fix: str
) -> None:
    text = LEAGUE.read_text()
    assert old in text
    with pytest.raises(ConfigError) as caught:
        parse_fleet(text.replace(old, new, 1).encode(), source="x.toml")
    error = caught.value
    assert error.where == where
    assert got in str(error.got)
    assert allowed in str(error.allowed)
    assert fix in (error.fix or "")


def test_what_is_no_toml_names_file_and_line() -> None:
    with pytest.raises(ConfigError, match=r"x\.toml: got .*line 2") as caught:
        parse_fleet(b"a = 1\nb = \n", source="x.toml")
    assert caught.value.where == "x.toml"


def test_what_is_no_text_is_refused() -> None:
    with pytest.raises(ConfigError, match="UTF-8"):
        parse_fleet(b"\xff\xfe", source="x.toml")


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        read_fleet(tmp_path / "none.toml")
    assert caught.value.where.endswith("none.toml")


def test_all_fields_of_no_meaning_are_told_at_once() -> None:
    text = LEAGUE.read_text()
    text = text.replace("grid_kw_max = 6,", "grid_kw_mx = 6, pv_kwpeak = 1,", 1)
    text = text.replace("[weights]", "[weihgts]", 1)
    with pytest.raises(ConfigErrors) as caught:
        parse_fleet(text.encode(), source="x.toml")
    assert {one.where for one in caught.value.each} == {
        "weihgts", "site[3].power.grid_kw_mx", "site[3].power.pv_kwpeak",
    }  # fmt: skip
    assert len(str(caught.value).splitlines()) == 3


def test_a_wrong_shape_is_told_beside_fields_of_no_meaning() -> None:
    text = LEAGUE.read_text() + "\n[slow_loop]\nplaces = 'yes'\nwindow = 3\n"
    with pytest.raises(ConfigErrors) as caught:
        parse_fleet(text.encode(), source="x.toml")
    said = str(caught.value).splitlines()
    assert "slow_loop.places: got 'yes', need true or false" in said
    assert any(line.startswith("slow_loop.window: got a field of no meaning") for line in said)

"""A fleet file for whoever runs it: what is refused, and what is only warned of."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from hanse.cli import main
from hanse.errors import ConfigError
from hanse.model.check import check_fleet
from hanse.model.fleet import FailureGroup, Fleet, SlowLoop
from hanse.model.read import read_fleet
from hanse.twin.fleet_file import checked_fleet, warnings_of

LEAGUE = Path(__file__).parents[2] / "examples" / "league.toml"
MARGINAL = SlowLoop(carbon_signal="marginal")


def league(**changed: object) -> Fleet:
    return msgspec.structs.replace(read_fleet(LEAGUE), **changed)


def test_one_problem_alone_names_no_list_and_no_empty_cure(tmp_path: Path) -> None:
    path = tmp_path / "f.toml"
    path.write_text(LEAGUE.read_text().replace("grid_kw_max = 60", "grid_kw_max = 600000000", 1))
    with pytest.raises(ConfigError) as caught:
        checked_fleet(path)
    assert "To fix" not in str(caught.value)


def test_the_example_is_worth_no_warning() -> None:
    assert warnings_of(read_fleet(LEAGUE), LEAGUE.parent) == []


def test_a_carbon_signal_that_nobody_tells_is_warned_of(tmp_path: Path) -> None:
    (warning,) = warnings_of(league(slow_loop=MARGINAL), tmp_path)
    assert warning.where == "slow_loop.carbon_signal" and "lyon" in warning.got
    feeds = [
        f'[[feed]]\nprovider = "csv"\npath = "x.csv"\nquantity = "marginal_intensity"\nzone = "{s.id}"\n'
        for s in read_fleet(LEAGUE).sites
    ]
    (tmp_path / "feeds.toml").write_text("".join(feeds))
    assert warnings_of(league(slow_loop=MARGINAL, feeds="feeds.toml"), tmp_path) == []
    (tmp_path / "feeds.toml").write_text("".join(feeds[1:]))
    (warning,) = warnings_of(league(slow_loop=MARGINAL, feeds="feeds.toml"), tmp_path)
    assert warning.got == "'marginal', which nobody tells for frankfurt"


def test_a_load_that_no_supply_can_carry_is_warned_of_and_stops_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "f.toml"
    path.write_text(LEAGUE.read_text().replace("base_kw = 35", "base_kw = 200", 1))
    with pytest.raises(SystemExit) as ended:
        main(["check", str(path)])
    out, _ = capsys.readouterr()
    assert ended.value.code == 0
    assert "warning: site[0].power.base_kw: got 200, need at most 140" in out
    assert "nothing wrong" in out


@pytest.mark.parametrize(
    ("sites", "where", "got"),
    [
        (tuple(s.id for s in read_fleet(LEAGUE).sites), "failure_group[0].sites", "all sites"),
        (("lyon", "london", "lyon"), "failure_group[0].sites[2]", "'lyon' again"),
    ],
)
def test_a_failure_group_of_everything_or_with_a_site_twice_is_wrong(
    sites: tuple[str, ...], where: str, got: str
) -> None:
    fleet = league(failure_groups=(FailureGroup(id="g", sites=sites),))
    (problem,) = [p for p in check_fleet(fleet) if p.where.startswith("failure_group")]
    assert problem.where == where and got in problem.got

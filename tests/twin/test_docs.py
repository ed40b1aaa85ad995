"""The page on the twin says what the code does."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import msgspec
import pytest

from hanse.errors import ConfigError
from hanse.model.read import read_fleet
from hanse.twin.scenario import (
    NEEDS_FACTOR,
    NEEDS_OTHER,
    NEEDS_SITE,
    Fault,
    FaultKind,
    Scenario,
    problems,
    read_scenario,
)
from hanse.twin.strikes import SILENCE_S

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "twin.md").read_text()
LEAGUE = ROOT / "examples" / "league.toml"


def test_every_kind_of_fault_is_described_with_the_fields_it_needs() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \|([^|]*)\|", PAGE, re.M))
    del rows["kind"]  # the head of the table
    assert set(rows) == set(FaultKind.__args__)  # type: ignore[attr-defined]
    for kind, fields in rows.items():
        said = {field.strip() for field in fields.split(",")}
        assert ("site" in said) == (kind in NEEDS_SITE), kind
        assert ("other" in said) == (kind in NEEDS_OTHER), kind
        assert ("factor" in said) == (kind in NEEDS_FACTOR), kind


def test_the_example_scenarios_are_right() -> None:
    league = read_fleet(LEAGUE)
    (text,) = re.findall(r"```toml\n(.*?)```", PAGE, re.S)
    scenario = msgspec.convert(tomllib.loads(text), Scenario)
    found = [p for i, fault in enumerate(scenario.faults) for p in problems(fault, i, league)]
    assert scenario.faults and found == []
    assert read_scenario(ROOT / "examples" / "bad-evening.toml", league).name == "bad evening"


def test_the_python_example_runs() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.S)
    printed: list[tuple[object, ...]] = []
    exec(
        compile(code.replace('"examples/', f'"{ROOT}/examples/'), "docs/twin.md", "exec"),
        {"print": lambda *values: printed.append(values)},
    )
    assert len(printed) == 6 and all(value is not None for values in printed for value in values)


def test_the_options_are_those_of_the_command() -> None:
    from hanse.cli.simulate import simulate

    named = set(re.findall(r"^\| `--(\w+)", PAGE, re.M))
    arguments = set(simulate.__kwdefaults__ or {})
    assert named == arguments


def test_times_are_those_of_the_code() -> None:
    assert f"notice after {SILENCE_S:g} s" in PAGE


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ('kind = "cloud"\nsite = "lyon"', "fault[1].kind: got 'cloud', need one of 'site_down', "),
        (
            'kind = "clouds"\nsite = "lyon"\nfactor = 1000',
            "fault[1] (clouds).factor: got 1000, need 0 to 100 (percent)",
        ),
        (
            'kind = "engine_no_start"\nsite = "lyon"\nfactor = 2',
            "fault[1] (engine_no_start).factor: got 2, need none: only carbon, clouds, ",
        ),
        (
            'kind = "site_down"\nsite = "atlantis"',
            "fault[1] (site_down).site: got 'atlantis', need one of frankfurt, lyon, ",
        ),
        ('kind = "carbon"', "fault[1] (carbon).factor: got nothing, need 0 to 1e+06"),
        (
            'kind = "engine_slow"\nsite = "lyon"\nfactor = 0',
            "fault[1] (engine_slow).factor: got 0, need above 0, up to 1e+06. To fix: use engine_freeze for 0",
        ),
    ],
)
def test_a_wrong_fault_is_told_with_file_number_and_what_is_allowed(
    tmp_path: Path, fault: str, said: str
) -> None:
    path = tmp_path / "s.toml"
    path.write_text(f'[[fault]]\nkind = "hub_loss"\nat_s = 0\n[[fault]]\nat_s = 0\n{fault}\n')
    with pytest.raises(ConfigError) as caught:
        read_scenario(path, read_fleet(LEAGUE))
    assert str(caught.value).startswith(f"{path}: {said}")
    assert "need see" not in str(caught.value)


def test_all_wrong_faults_are_told_at_once(tmp_path: Path) -> None:
    path = tmp_path / "s.toml"
    path.write_text('[[fault]]\nkind = "drain"\nat_s = 0\n[[fault]]\nkind = "law"\nat_s = 0\n')
    with pytest.raises(ConfigError) as caught:
        read_scenario(path, read_fleet(LEAGUE))
    assert [line.split(": got ")[0] for line in str(caught.value).splitlines()] == [
        f"{path}: fault[0] (drain).site", f"{path}: fault[1] (law).policy",
    ]  # fmt: skip


def test_faults_are_told_by_what_they_do_and_where() -> None:
    def text(**said: object) -> str:
        return msgspec.convert({"at_s": 0, **said}, Fault).text

    assert text(kind="clouds", site="lyon", factor=100) == "clouds lyon 100 %"
    assert text(kind="engine_no_start", site="lyon", service="chat") == "engine_no_start lyon chat"
    assert text(kind="heat_wave", site="lyon", factor=8) == "heat_wave lyon +8 K"
    assert text(kind="link_cut", site="lyon", other="london") == "link_cut lyon london"
    assert text(kind="carbon", factor=1.5) == "carbon x 1.5"

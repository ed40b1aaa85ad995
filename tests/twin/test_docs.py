"""The page on the twin says what the code does."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import msgspec

from hanse.model.read import read_fleet
from hanse.twin.scenario import (
    NEEDS_FACTOR,
    NEEDS_OTHER,
    NEEDS_SITE,
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

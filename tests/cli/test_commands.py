"""What a person types: answers on the right stream, exit codes, errors that say where and what to do."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from hanse.cli import COMMANDS

ROOT = Path(__file__).parents[2]
LEAGUE = ROOT / "examples" / "league.toml"


def hanse(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from hanse.cli import main; main()", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=100)


def test_the_example_league_has_nothing_wrong() -> None:
    done = hanse("check", str(LEAGUE))
    assert done.returncode == 0, done.stderr
    assert "nothing wrong" in done.stderr


def test_check_lists_every_wrong_meaning_at_once(tmp_path: Path) -> None:
    text = LEAGUE.read_text()
    text = text.replace('site = "virginia"', 'site = "virgina"', 1)
    text = text.replace("grid_kw_max = 60", "grid_kw_max = -60", 1)
    text = text.replace('accelerator = "x86-thread"', 'accelerator = "h1000"', 1)
    wrong = tmp_path / "wrong.toml"
    wrong.write_text(text)
    done = hanse("check", "--json", str(wrong))
    assert done.returncode == 2
    problems = json.loads(done.stdout)["problems"]
    where = {one["where"] for one in problems}
    assert {"central.site", "site[0].power.grid_kw_max", "site[0].pool[0].accelerator"} <= where
    assert all(one["got"] and one["allowed"] for one in problems)


def test_check_finds_two_services_in_one_workload(tmp_path: Path) -> None:
    text = LEAGUE.read_text().replace(
        "count = 2\n",
        'count = 2\ndriver = "kubernetes"\nkubernetes = { name = "llm" }\n',
        1,
    )
    (tmp_path / "one.toml").write_text(text)
    done = hanse("check", str(tmp_path / "one.toml"))
    assert done.returncode == 2
    assert "site[0].pool[0].kubernetes.name: got 'llm' for chat/q4-1, embed/minilm" in done.stderr
    assert "{service}" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("check", "nowhere.toml"), "nowhere.toml"),
        (("nonsense",), "nonsense"),
        (("explain", "--key", "demo"), "--service"),
        (("status", "--state", "nowhere"), "hanse up"),
        (("verify", "nowhere.json", "--ca", "nowhere.pem"), "nowhere"),
    ],
)
def test_bad_input_ends_with_2_and_says_what_was_wrong(
    arguments: tuple[str, ...], says: str
) -> None:
    done = hanse(*arguments)
    assert done.returncode == 2
    assert says in done.stderr + done.stdout
    assert "Traceback" not in done.stderr


def test_explain_of_a_request_that_nothing_takes_names_the_gate() -> None:
    asked = ("--key", "demo", "--from", "lyon", "--service", "chat", "--tokens-in", "99999")
    done = hanse("explain", "--fleet", str(LEAGUE), *asked)
    assert done.returncode == 1
    assert "refused: " in done.stdout + done.stderr
    assert json.loads(hanse("explain", "--fleet", str(LEAGUE), *asked, "--json").stdout)["gate"]


def test_explain_names_the_rule_that_bars_a_site_and_the_cost_of_the_chosen() -> None:
    asked = ("--key", "clinic", "--class", "health", "--from", "tallinn", "--service", "chat")
    done = hanse("explain", "--fleet", str(LEAGUE), *asked, "--json")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    offers = {one["site"]: one for one in answer["offers"]}
    assert "GDPR-V" in offers["virginia"]["rules"] and not offers["virginia"]["eligible"]
    assert offers["tallinn"]["gate"] == "QUALITY"
    chosen = [one for one in answer["offers"] if one["chosen"]]
    assert len(chosen) == 1 and chosen[0]["predicted"]["wh"] > 0.0
    assert answer["chosen"].startswith(chosen[0]["site"])


def test_a_city_that_is_no_site_enters_at_the_nearest_lawful_gateway() -> None:
    asked = ("--key", "clinic", "--class", "health", "--from", "boston", "--service", "chat")
    answer = json.loads(hanse("explain", "--fleet", str(LEAGUE), *asked, "--json").stdout)
    assert answer["entry"] == "london"


def test_what_embeds_answers_no_tokens_unless_asked_for_some() -> None:
    def ms(*more: str) -> tuple[float, float]:
        asked = (
            "--key",
            "clinic",
            "--from",
            "london",
            "--service",
            "text-embedding-3-small",
            *more,
        )
        answer = json.loads(hanse("explain", "--fleet", str(LEAGUE), *asked, "--json").stdout)
        chosen = next(one["predicted"] for one in answer["offers"] if one["chosen"])
        return chosen["ttft_ms"], chosen["e2e_ms"]

    first, last = ms()
    assert ms("--tokens-out", "0") == (first, last)
    assert ms("--tokens-out", "64")[1] > last


def test_every_command_has_help_and_stands_in_the_readme_or_the_docs() -> None:
    texts = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    said = "\n".join(path.read_text() for path in texts)
    missing = [name for name in COMMANDS if not re.search(rf"hanse {name}\b", said)]
    assert not missing
    done = hanse("--help")
    assert done.returncode == 0 and all(name in done.stdout for name in COMMANDS)


def test_files_that_the_readme_points_to_exist() -> None:
    text = (ROOT / "README.md").read_text()
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in link]
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []

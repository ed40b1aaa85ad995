"""What a person types: answers on the right stream, exit codes, errors that say where and what to do."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from rich.table import Table

from hanse.cli import COMMANDS, READER_GONE
from hanse.cli.explain import _say as said_of
from hanse.cli.output import table_console

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "src" / "hanse" / "signals" / "data" / "traces"
LEAGUE = ROOT / "examples" / "league.toml"


def hanse(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from hanse.cli import main; main()", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=100)


def test_the_example_league_has_nothing_wrong() -> None:
    done = hanse("check", str(LEAGUE))
    assert done.returncode == 0, done.stderr
    assert "nothing wrong" in done.stdout


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


def test_check_tells_wrong_fields_where_it_tells_wrong_meanings(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.toml"
    wrong.write_text(LEAGUE.read_text().replace("grid_kw_max = 60", "grid_kw = 60, pv_kw = 1", 1))
    done = hanse("check", str(wrong))
    assert done.returncode == 2 and done.stderr == ""
    assert [line.split(":")[0] for line in done.stdout.splitlines()] == [
        "site[0].power.grid_kw", "site[0].power.pv_kw",
    ]  # fmt: skip
    problems = json.loads(hanse("check", "--json", str(wrong)).stdout)["problems"]
    assert [one["where"] for one in problems] == ["site[0].power.grid_kw", "site[0].power.pv_kw"]


def test_flags_that_say_no_have_no_second_no() -> None:
    for command in (("up",), ("join",), ("site", "drain")):
        done = hanse(*command, "--help")
        assert "--no-" in done.stdout and "--no-no-" not in done.stdout, command


def test_explain_names_a_rule_once(capsys: pytest.CaptureFixture[str]) -> None:
    """Entry and executing site may be closed by the same one."""
    offer = {"site": "a", "variant": "v", "eligible": False, "chosen": False, "gate": "LAW"}
    rules = {"entry_rules": ["CN-PIPL-38"], "rules": ["CN-PIPL-38", "other"]}
    said_of({"entry": "a", "basis": "", "offers": [offer | rules], "chosen": "", "gate": "LAW"})
    out = capsys.readouterr().out
    assert out.count("CN-PIPL-38") == 1 and "other" in out


def test_check_finds_two_services_in_one_workload(tmp_path: Path) -> None:
    text = LEAGUE.read_text().replace(
        "count = 2\n",
        'count = 2\ndriver = "kubernetes"\nkubernetes = { name = "llm" }\n',
        1,
    )
    (tmp_path / "one.toml").write_text(text)
    done = hanse("check", str(tmp_path / "one.toml"))
    assert done.returncode == 2
    assert "site[0].pool[0].kubernetes.name: got 'llm' for chat/q4-1, embed/minilm" in done.stdout
    assert "{service}" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("check", "nowhere.toml"), "nowhere.toml"),
        (("nonsense",), "nonsense"),
        (("explain", "--key", "demo"), "--service"),
        (("status", "--state", "nowhere"), "hanse up"),
        (("verify", "nowhere.json", "--ca", "nowhere.pem"), "nowhere"),
        (("simulate", str(LEAGUE), "--scale", "0"), "--scale: got 0.0, need above 0"),
        (("simulate", str(LEAGUE), "--scale", "nan"), "--scale: got nan"),
        (("simulate", str(LEAGUE), "--seed", "-1"), "--seed: got -1, need 0 or more"),
        (("compare", str(LEAGUE), "--central", "--seed", "-1"), "--seed: got -1"),
        (("compare", str(LEAGUE), "--central", "--runs", "0"), "--runs: got 0, need 1 or more"),
        (("compare", str(LEAGUE), "--central", "--workers", "-1"), "--workers: got -1"),
        (("plan", "--seed", str(2**64)), "--seed: got 18446744073709551616"),
        (("claims", "--draws", "0"), "--draws: got 0, need 1 or more"),
        (("plan", "--processes", "0"), "--processes: got 0, need 1 or more"),
        (("trace", "make", "--spec", "x", "--out", "y", "--seed", "-1"), "--seed: got -1"),
        (("trace", "change", "x", "--out", "y", "--seed", "-1"), "--seed: got -1"),
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


ANSWERS = [
    (("check", str(LEAGUE)), "nothing wrong"),
    (("predict", "Qwen3-8B", "L4", "--precision", "awq"), "time per output token"),
    (("reproduce",), "eurosys24-latency"),
    (("forecast", "show", "GB", "--hours", "3"), "carbon_intensity of GB"),
    (("trace", "show", str(SHIPPED / "league_day.parquet")), "service chat"),
]


@pytest.mark.parametrize(("arguments", "says"), ANSWERS)
def test_the_answer_is_on_standard_output_in_lines_or_as_a_document(
    arguments: tuple[str, ...], says: str
) -> None:
    done = hanse(*arguments)
    assert (done.returncode, done.stderr) == (0, "")
    assert says in done.stdout
    done = hanse(*arguments, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)


def test_a_table_that_nobody_looks_at_is_as_wide_as_it_is(
    capsys: pytest.CaptureFixture[str],
) -> None:
    table = Table()
    table.add_column("why")
    table.add_row("a cause of " + "very " * 40 + "many words")
    table_console().print(table)
    assert "very " * 40 in capsys.readouterr().out


def test_a_reader_that_has_gone_ends_a_command_without_a_word() -> None:
    ours, theirs = os.pipe()
    os.close(ours)
    with os.fdopen(theirs, "w") as gone:
        command = [sys.executable, "-c", "from hanse.cli import main; main()", "reproduce"]
        done = subprocess.run(
            command, stdout=gone, stderr=subprocess.PIPE, text=True, timeout=60, check=False
        )
    assert (done.returncode, done.stderr) == (READER_GONE, "")


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

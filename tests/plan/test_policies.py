"""Rules with dates, end to end: a study with each kind, solved by the command, says what the answer is with and without each."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from hanse.plan.read import read_study
from hanse.plan.solve import solve
from plan import hand

ACTS = {
    "itc": 'kind = "investment_credit"\nvalue = 0.3\non = ["pv", "plant", "servers"]\nbloc = "EU"\nuntil = 2029-01-01',
    "fit": 'kind = "feed_in_tariff"\nvalue = 0.4\ncountries = ["DE", "FR", "IT"]',
    "tax": 'kind = "carbon_tax"\nvalue = 200.0',
    "home": 'kind = "localisation"\nlaws = ["personal"]\ncountries = ["FR"]',
    "pue": 'kind = "efficiency_duty"\nvalue = 1.2\nabove_kw = 1.0\nbloc = "EU"',
}
STUDY = """
schema = "hanse-study/1"
name = "ruled"
start = 2027-01-01
years = 3
operator_hq = "DE"
mechanisms = ["scc+tia"]
draws = 40
[[city]]
city = "Frankfurt am Main"
[[city]]
city = "Lyon"
[[candidate]]
city = "Frankfurt am Main"
pv_kw_max = 4000.0
price_usd_per_kwh = 0.3
[[candidate]]
city = "Lyon"
pv_kw_max = 4000.0
price_usd_per_kwh = 0.3
[[workload]]
id = "chat"
model = "Llama-3.1-8B"
law = "personal"
tokens_per_day = 2e9
"""


def written(acts: dict[str, str]) -> str:
    rules = [f'[[policy]]\nid = "{id}"\nfrom = 2026-06-01\nsource = "Act {id} of 2026, section 3"\n{act}\n' for id, act in acts.items()]  # fmt: skip
    return STUDY + "".join(rules)


def solved(folder: Path, acts: dict[str, str]) -> tuple[dict[str, Any], str]:
    """By the command."""
    folder.mkdir()
    (folder / "s.toml").write_text(written(acts))
    code = "from hanse.cli import main; main()"
    run = (sys.executable, "-c", code, "plan", "s.toml", "--out", "out", "--processes", "1")
    done = subprocess.run(run, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "out" / "answer.json").read_text()), done.stdout


@pytest.fixture(scope="module")
def ruled(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str, Path]:
    folder = tmp_path_factory.mktemp("ruled") / "all"
    return (*solved(folder, ACTS), folder / "out")


@pytest.mark.long
def test_each_kind_of_rule_changes_the_cost_in_its_direction(
    ruled: tuple[dict[str, Any], str, Path],
) -> None:
    answer, _, _ = ruled
    effects = {p["id"]: p["usd_by_design"] for p in answer["policies"]}
    assert set(effects) == set(ACTS)
    building = [d["id"] for d in answer["designs"] if d["sites"]]
    assert all(effects["itc"][d] < 0.0 for d in building) and effects["itc"]["rent"] == 0.0
    assert all(effects["fit"][d] <= 0.0 for d in building)
    assert min(effects["fit"].values()) < 0.0, "own sun is exported somewhere"
    # Own power is sized at the most likely figures, the effect is a median of draws: a tax that moves the size may seem to save a thousandth.
    npv = {d["id"]: d["usd_npv"]["p50"] for d in answer["designs"]}
    assert all(effects["tax"][d] >= -0.002 * npv[d] for d in building)
    assert max(effects["tax"].values()) > 0.0
    assert all(effects["pue"][d] > 0.0 for d in building)
    assert max(effects["home"].values()) > 0.0, "a site at home costs more than one anywhere"


@pytest.mark.long
def test_the_answer_without_a_rule_is_that_of_the_study_that_has_it_not(
    tmp_path: Path, ruled: tuple[dict[str, Any], str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other studies are solved without curves and without what their own rules bring, neither of which is compared."""
    answer, _, _ = ruled
    hand.without_curves(monkeypatch)
    monkeypatch.setattr("hanse.plan.solve.policy_answers", lambda *_: ())
    for id in ("tax", "home"):
        fewer = {name: act for name, act in ACTS.items() if name != id}
        (tmp_path / "s.toml").write_text(written(fewer))
        other = msgspec.to_builtins(solve(read_study(tmp_path / "s.toml")))
        (policy,) = [p for p in answer["policies"] if p["id"] == id]
        assert policy["resited"] == (id == "home")
        for design in other["designs"]:
            found = policy["usd_per_mtoken_without"][design["id"]]
            assert found == pytest.approx(design["usd_per_mtoken"]["p50"], rel=0.03), (id, design["id"])  # fmt: skip
            if id == "tax":
                assert found == pytest.approx(design["usd_per_mtoken"]["p50"], rel=1e-9)
                assert policy["win_share_without"][design["id"]] == pytest.approx(design["win_share"])  # fmt: skip
        assert policy["winner_without"] == other["designs"][0]["id"]


@pytest.mark.long
def test_text_and_report_say_it_too(ruled: tuple[dict[str, Any], str, Path]) -> None:
    answer, text, out = ruled
    said = " ".join(text.split())
    page = (out / "index.html").read_text()
    rows = list(csv.DictReader((out / "figures" / "policies.csv").read_text().splitlines()))
    assert len(rows) == len(ACTS) * len(answer["designs"])
    for policy in answer["policies"]:
        kind = policy["kind"].replace("_", " ")
        assert f"without {policy['id']} ({kind}) the cheapest" in said
        assert f"Without {policy['id']} ({kind}) the cheapest" in page
        assert f"Act {policy['id']} of 2026, section 3" in page
        mine = {r["design"]: r for r in rows if r["policy"] == policy["id"]}
        for design in answer["designs"]:
            row = mine[design["name"]]
            assert float(row["usd_per_mtoken_with"]) == design["usd_per_mtoken"]["p50"]
            assert (
                float(row["usd_per_mtoken_without"])
                == policy["usd_per_mtoken_without"][design["id"]]
            )

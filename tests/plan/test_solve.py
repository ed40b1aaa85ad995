"""Studies solved whole: what is written runs, what is said adds up."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hanse.cli import main
from hanse.errors import ConfigError
from hanse.model.check import ENGINES_PER_SITE_MAX, check_fleet
from hanse.model.read import read_fleet
from hanse.plan.answer import Answer
from hanse.plan.demand import demand_of
from hanse.plan.designs import designs_of
from hanse.plan.fleet_out import cells, trace_of
from hanse.plan.quick import quick_study
from hanse.plan.read import parse_toml, problems, read_study
from hanse.plan.solve import heading_of, solve
from hanse.plan.study_file import Study, Training
from hanse.plan.validate import busiest_hour, tried
from plan import hand
from plan.answers import rich


def test_every_row_is_served_rented_or_lost_and_never_against_law_or_latency() -> None:
    study = hand.study(
        cities=tuple(
            msgspec.convert({"city": c}, type(hand.study().cities[0]))
            for c in ("Frankfurt am Main", "Lyon", "Milan", "New York City")
        )
    )
    for design in designs_of(study, demand_of(study), quick=True):
        whole = design.share.sum(axis=1) + design.rented + design.lost
        assert whole == pytest.approx(1.0, abs=1e-5)
        assert not design.share[~design.may].any()
        for w, row in enumerate(design.fits):
            assert all(
                fit is not None or not design.share[_rows(study, w), s].any()
                for s, fit in enumerate(row)
            )


def _rows(study: Study, w: int) -> np.ndarray:
    return demand_of(study).workload == w


def test_health_data_stays_in_its_country(solved: tuple[Answer, Path]) -> None:
    study = quick_study(hand.QUICK)
    demand = demand_of(study)
    for design in designs_of(study, demand, quick=True):
        for i, row in enumerate(demand.rows):
            at_home = [p.country == demand.places[row.city].iso2 for p in design.places]
            assert not design.share[i, ~np.array(at_home, bool)].any()


def test_an_answer_says_who_wins_and_reads_back(solved: tuple[Answer, Path]) -> None:
    answer, _ = solved
    assert sum(d.win_share for d in answer.designs) == pytest.approx(1.0)
    assert [d.usd_per_mtoken.p50 for d in answer.designs] == sorted(
        d.usd_per_mtoken.p50 for d in answer.designs
    )
    assert {d.id for d in answer.designs} == {"region", "micro", "edge-region", "mix", "rent"}
    mix = answer.design("mix").usd_npv.p50
    assert all(mix <= 1.1 * answer.design(d).usd_npv.p50 for d in ("micro", "edge-region"))
    for design in answer.designs:
        assert 0.0 < design.served_share <= 1.0
        total = sum(design.usd_by_group.values())
        assert total == pytest.approx(sum(design.usd_by_item.values()), rel=0.05)
    assert msgspec.json.decode(msgspec.json.encode(answer), type=Answer) == answer
    assert answer.claims and all(c.verdict for c in answer.claims)


@pytest.mark.long
def test_the_same_study_gives_the_same_bytes(solved: tuple[Answer, Path]) -> None:
    again = solve(quick_study(hand.QUICK), quick=True)
    files = {"fleet_file": "", "trace_file": ""}
    first = msgspec.structs.replace(
        solved[0], designs=tuple(msgspec.structs.replace(d, **files) for d in solved[0].designs)
    )
    assert msgspec.json.encode(again) == msgspec.json.encode(first)


def test_fleets_that_are_written_are_in_order_and_the_study_reads_back(
    solved: tuple[Answer, Path],
) -> None:
    answer, folder = solved
    written = [d for d in answer.designs if d.sites]
    assert written
    for design in written:
        fleet = read_fleet(folder / design.fleet_file)
        assert check_fleet(fleet) == []
        assert len(fleet.sites) == len(design.sites)
    study = read_study(folder / "study.toml")
    assert study == quick_study(hand.QUICK)


def test_the_twin_confirms_a_design_and_its_energy() -> None:
    study = hand.study()
    demand = demand_of(study)
    found = tried(hand.design(study, demand, (0, 1, 2)), study, demand, requests_max=1_000_000)
    last = found.rounds[-1]
    assert found.confirmed
    assert last.it_kwh_planned == pytest.approx(last.it_kwh, rel=0.15)
    assert last.facility_kwh_planned == pytest.approx(last.facility_kwh, rel=0.15)
    assert last.ttft_ms_p95_planned == pytest.approx(last.ttft_ms_p95, rel=0.05)
    assert last.ttft_ms_p50_planned == pytest.approx(last.ttft_ms_p50, rel=0.05)


def test_a_fleet_file_says_what_a_run_of_it_is_to_be_held_against() -> None:
    study = hand.study()
    judged_one = next(d for d in rich().designs if d.rounds)
    said = heading_of(study, judged_one, "hanse simulate a.toml --trace a.parquet").splitlines()
    assert said[1] == "hanse simulate a.toml --trace a.parquet"
    last = judged_one.rounds[-1]
    assert last.ttft_ms_p95 is not None and last.ttft_ms_p95_planned is not None
    assert f"TTFT p95 {last.ttft_ms_p95_planned:.1f} ms, {last.ttft_ms_p95:.1f} ms" in said[-2]
    assert study.workloads[0].id in said[-2]
    assert f"{last.energy_usd_planned:.2f} USD, {last.energy_usd:.2f} USD" in said[-1]
    untried = msgspec.structs.replace(judged_one, rounds=())
    assert len(heading_of(study, untried, "hanse simulate").splitlines()) == len(said) - 3


@pytest.mark.long
def test_training_is_answered_with_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    hand.without_curves(monkeypatch)
    study = hand.study(trainings=(Training(id="t", parameters_b=4.0, tokens_b=100.0),))
    answer = solve(study, quick=True)
    (training,) = answer.trainings
    assert training.choice in ("central", "across sites", "none") and training.why
    assert training.days_central is not None and training.days_central > 0.0


def test_the_embedded_study_is_sound() -> None:
    study = read_study()
    assert len(study.cities) == 60 and list(problems(study)) == []


@pytest.mark.parametrize(
    ("change", "where"),
    [
        (
            '[[workload]]\nid = "a"\nmodel = "Lama-3.1-8B"\ntokens_per_day = 1.0',
            "workload[0].model",
        ),
        (
            '[[workload]]\nid = "a"\nmodel = "Llama-3.1-8B"\ntokens_per_day = 1.0\ncities = ["Rom"]',
            "workload[0].cities",
        ),
        ('[[design]]\nid = "a"\nname = "a"\nsizes = ["huge"]', "design[0].sizes"),
    ],
)
def test_what_a_study_must_not_say_is_said_where(change: str, where: str) -> None:
    text = 'schema = "hanse-study/1"\nname = "s"\nstart = 2027-01-01\noperator_hq = "DE"\n[[city]]\ncity = "Berlin"\n'
    study = parse_toml((text + change).encode(), Study, source="s", noun="study")
    assert any(error.where == where for error in problems(study))


@pytest.mark.parametrize(
    "arguments",
    [
        ("--cities", "frankfurt"),
        ("--quick", "--cities", "atlantis"),
        ("--quick", "--cities", ","),
        ("--quick", "--cities", ""),
        ("--quick", "--cities", "lyon", "--seed", "-1"),
        ("--quick", "--cities", "lyon", "--growth", "inf"),
        ("--quick", "--cities", "lyon", "--draws", "0"),
        ("--quick", "--cities", "lyon", "--class", "secret"),
        ("--quick", "--cities", "lyon", "--tokens-per-day", "0"),
        ("--quick", "--cities", "lyon", "--latency-ms", "-1"),
        ("no-such-study.toml",),
    ],
)
def test_bad_input_ends_with_two_and_one_clear_line(
    arguments: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["plan", *arguments, "--out", str(tmp_path / "out")])
    said = capsys.readouterr().err
    assert ended.value.code == 2 and "got" in said and "Traceback" not in said


@pytest.mark.long
def test_quick_on_the_command_line_prints_a_document_and_writes_a_report(tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = _hanse(
        "plan", "--quick", "--cities", "lyon,milan", "--tokens-per-day", "1e9", "--draws", "20", "--out", str(out), "--json"
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["draws"] == 20 and len(answer["designs"]) == 5
    assert (out / "index.html").exists() and (out / "study.toml").exists()


def test_a_lookup_of_a_workload_that_nothing_holds_says_why() -> None:
    study = hand.study()
    works = (
        msgspec.structs.replace(
            study.workloads[0], model="DeepSeek-V3", ttft_ms=1.0, precision="bf16"
        ),
    )
    broken = msgspec.structs.replace(study, workloads=works)
    with pytest.raises(ConfigError, match="workload chat"):
        designs_of(broken, demand_of(broken), quick=True)


def _hanse(*arguments: str) -> subprocess.CompletedProcess[str]:
    code = "from hanse.cli import main; main()"
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False
    )


@given(
    st.dictionaries(
        st.tuples(st.integers(0, 3), st.integers(0, 4)), st.integers(0, 700), min_size=1
    )
)
def test_cells_hold_every_replica_and_no_more_than_one_site_can_watch(replicas) -> None:
    made = cells(replicas)
    for (w, s), count in replicas.items():
        assert sum(held.get(w, 0) for at, held in made if at == s) == count
    assert all(0 < sum(held.values()) <= ENGINES_PER_SITE_MAX for _, held in made)


def test_the_twin_sees_the_busiest_hours_at_their_own_rate() -> None:
    study = hand.study()
    demand = demand_of(study)
    first_h = busiest_hour(demand, 2)
    design = designs_of(study, demand, quick=True)[0]
    trace = trace_of(design, study, demand, 0, hours=2, first_h=first_h)
    day = demand.tokens_per_s @ demand.day
    assert day[first_h] == pytest.approx(day.max(), rel=0.15)
    tokens = sum(
        float((c.requests["tokens_in"] + c.requests["tokens_out"]).sum()) for c in trace.chunks()
    )
    at = (first_h + np.arange(2)) % 24
    chat = demand.workload == 0
    served = demand.tokens_per_s * design.share.sum(axis=1)
    live = (served[chat] @ demand.day[chat])[at].sum() * 3600
    waiting = served[~chat].sum() * 2 * 3600
    assert tokens == pytest.approx(live + waiting, rel=0.1)

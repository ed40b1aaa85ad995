"""Comparisons: the same draws for all, differences run by run, intervals that hold."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest

from hanse.dispatch.belief import all_engines
from hanse.errors import ConfigError
from hanse.model.read import read_fleet
from hanse.twin.alike import Answers, alike
from hanse.twin.arrays import ANSWERED, REFUSED_OUT, ROW_DTYPE
from hanse.twin.central import central_fleet
from hanse.twin.compare import Comparison, _figure, compare
from hanse.twin.fleet_file import problems_of

LEAGUE = Path(__file__).parents[2] / "examples" / "league.toml"
SPEC = """
schema = "hanse-trace-spec/1"
name = "small"
seed = 1
start = 2026-06-01T08:00:00Z
duration_h = 0.25
requests_per_s = 0.5
[[origin]]
city = "Paris"
[[origin]]
city = "Tallinn"
[[service]]
id = "chat"
tokens_in = { kind = "lognormal", median = 60, sigma = 0.9, max = 600 }
tokens_out = { kind = "lognormal", median = 40, sigma = 0.7, max = 200 }
[[class]]
id = "personal"
[[tenant]]
id = "demo"
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    """The league, itself again, and a league whose users' time is worth much, on a quarter of an hour, three times."""
    spec = tmp_path_factory.mktemp("compare") / "small.toml"
    spec.write_text(SPEC)
    league = read_fleet(LEAGUE)
    same = msgspec.structs.replace(league, name="same")
    weights = msgspec.structs.replace(league.weights, usd_per_latency_s=0.01)
    hurried = msgspec.structs.replace(league, name="hurried", weights=weights)
    return compare(league, same, hurried, trace=spec, runs=3, workers=1)


def test_the_same_fleet_on_the_same_draws_differs_in_nothing(found: Comparison) -> None:
    for metric in found.metrics:
        figure = found.figure("same", metric.key)
        if figure.mean is not None:
            assert figure.difference == 0.0 and figure.difference_half_width == 0.0
            assert figure.differs is False
            assert figure.runs == found.figure("league", metric.key).runs


def test_draws_differ_from_each_other(found: Comparison) -> None:
    assert len(set(found.figure("league", "ttft_mean").runs)) == 3


def test_users_whose_time_is_dear_wait_less(found: Comparison) -> None:
    """What the weight of latency is for; and the interval of the difference is narrower than those of the means."""
    figure = found.figure("hurried", "alike_e2e")
    assert figure.difference is not None and figure.difference < 0.0
    rate = next(a for a in found.alternatives if a.label == "hurried").latency_return
    assert rate is not None and rate.added_e2e_ms == figure.difference and rate.wh_per_ms is None


def test_nothing_is_executed_unlawfully(found: Comparison) -> None:
    assert all(found.figure(a.label, "unlawful").runs == (0.0,) * 3 for a in found.alternatives)


def test_a_difference_is_of_pairs() -> None:
    """Runs that vary much but always by the same step: the step is certain though the means are not."""
    figure = _figure("x", [11.0, 101.0, 1001.0], [10.0, 100.0, 1000.0])
    assert figure.difference == pytest.approx(1.0)
    assert figure.difference_half_width == pytest.approx(0.0, abs=1e-9)
    assert figure.differs and figure.half_width is not None and figure.half_width > 100.0


def test_what_one_run_does_not_know_is_not_known() -> None:
    figure = _figure("x", [1.0, None], [1.0, 2.0])
    assert figure.mean is None and figure.difference is None and figure.differs is None


def test_one_run_has_no_intervals() -> None:
    figure = _figure("x", [2.0], [1.0])
    assert (figure.difference, figure.difference_half_width, figure.differs) == (1.0, None, None)


def test_one_alternative_is_no_comparison() -> None:
    with pytest.raises(ConfigError, match="two alternatives"):
        compare(LEAGUE)


def test_the_central_counterpart_has_as_many_replicas_on_its_own_hardware() -> None:
    league = read_fleet(LEAGUE)
    one = central_fleet(league)
    assert [s.id for s in one.sites] == ["virginia"]
    for service in league.services:
        mine = [p for p in one.placements if p.service == service.id]
        placed = sum(p.replicas for p in league.placements if p.service == service.id)
        assert [p.replicas for p in mine] == [placed]
        assert mine[0].variant == max(service.variants, key=lambda v: v.quality).id
    chips = {s.chips for s in all_engines(league, league.placements) if s.site == "virginia"}
    assert {s.chips for s in all_engines(one, one.placements)} == chips
    assert problems_of(one, LEAGUE.parent) == []


def test_what_law_closes_to_the_central_site_stays_unanswered(tmp_path: Path) -> None:
    spec = tmp_path / "small.toml"
    spec.write_text(SPEC)
    found = compare(LEAGUE, central=True, trace=spec, runs=1, workers=1)
    assert [a.label for a in found.alternatives] == ["league", "league-central"]
    assert found.figure("league-central", "unlawful").mean == 0.0
    refused = found.figure("league-central", "refused").difference
    assert refused is not None and refused > 0.5  # personal data of Europe may not go to Virginia
    assert "--central" in found.command


def test_a_fleet_that_names_no_central_site_has_no_counterpart() -> None:
    league = msgspec.structs.replace(read_fleet(LEAGUE), central=None)
    with pytest.raises(ConfigError, match="central"):
        compare(league, central=True)


def test_like_for_like_is_over_what_all_answer() -> None:
    rows = np.zeros(4, ROW_DTYPE)
    rows["request"] = [3, 0, 1, 2]
    rows["ttft_ms"] = [40.0, 10.0, 20.0, 30.0]
    rows["energy_wh"] = 1.0
    one, two = Answers(), Answers()
    one.take(rows)
    rows["outcome"] = [REFUSED_OUT, ANSWERED, ANSWERED, REFUSED_OUT]
    rows["ttft_ms"] *= 2.0
    two.take(rows[:2])
    two.take(rows[2:])
    first, second = alike([one.kept(4), two.kept(4)])
    assert first == [0.5, 15.0, 0.0, 1.0, 0.0] and second == [0.5, 30.0, 0.0, 1.0, 0.0]
    nobody = Answers().kept(4)
    assert alike([one.kept(4), nobody])[0] == [0.0, None, None, None, None]


def test_like_for_like_without_refusals_is_the_mean(found: Comparison) -> None:
    for label in ("league", "hurried"):
        assert found.figure(label, "alike").runs == (1.0,) * 3
        mean, same = (found.figure(label, key).mean for key in ("e2e_mean", "alike_e2e"))
        assert same == pytest.approx(mean, rel=1e-6)

"""The comparison says who is better, also where that is not us."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from hanse.view import CentralVerdict, Cost
from hanse.web.verdict import NOTHING_YET, Comparison, Line, compare
from web.fake_league import FakeLeague


def cost(ttft_ms: float, energy_wh: float = 1.0) -> Cost:
    return Cost(
        ttft_ms=ttft_ms,
        e2e_ms=2 * ttft_ms,
        energy_wh=energy_wh,
        carbon_g=energy_wh,
        cost_usd=energy_wh,
    )


def line(comparison: Comparison, key: str) -> Line:
    return next(one for one in comparison.lines if one.key == key)


def test_an_empty_league_claims_nothing(rng: np.random.Generator) -> None:
    comparison = compare(FakeLeague(rng).snapshot())
    claims = {one.verdict for one in comparison.lines}
    assert {one.better for one in comparison.lines} == {"unknown"}
    assert claims == {NOTHING_YET}
    assert "No request yet" in comparison.headline


def test_it_says_where_one_big_site_is_better(rng: np.random.Generator) -> None:
    league = FakeLeague(rng)
    big = CentralVerdict(outcome="served", predicted=cost(50.0, 0.5))
    league.serve("tallinn", "lyon", predicted=cost(200.0), measured=cost(210.0), central=big)
    comparison = compare(league.snapshot())
    assert line(comparison, "ttft").verdict == "One big site is 150 ms sooner"
    assert line(comparison, "energy").verdict == "One big site takes 50 % less"
    assert {
        line(comparison, key).better for key in ("ttft", "e2e", "energy", "carbon", "cost")
    } == {"central"}


def test_verdicts_compare_prediction_with_prediction(rng: np.random.Generator) -> None:
    league = FakeLeague(rng)
    big = CentralVerdict(outcome="served", predicted=cost(100.0))
    league.serve("tallinn", "lyon", predicted=cost(80.0), measured=cost(900.0), central=big)
    assert line(compare(league.snapshot()), "ttft").verdict == "The league is 20 ms sooner"


def test_what_law_bars_from_one_big_site_is_counted(rng: np.random.Generator) -> None:
    league = FakeLeague(rng)
    barred = CentralVerdict(outcome="refused", rules=("GDPR-V",))
    for _ in range(3):
        league.serve("tallinn", "lyon", central=barred)
    league.serve("tallinn", "lyon")
    comparison = compare(league.snapshot())
    assert line(comparison, "law").cells == ("0", "0", "3")
    assert line(comparison, "law").verdict == "Law bars 3 more from one big site"
    assert line(comparison, "served").verdict == "The league answers 3 more"
    assert "law bars 3 from it" in comparison.headline
    assert "over the 1 latest" in comparison.like_for_like


def test_a_failure_of_the_league_counts_against_it(rng: np.random.Generator) -> None:
    league = FakeLeague(rng)
    league.serve("tallinn", "lyon", outcome="failed", measured=None)
    lost = line(compare(league.snapshot()), "lost")
    assert (lost.better, lost.verdict) == ("central", "One big site loses 1 fewer")


def test_shares_are_compared_when_the_shadow_was_asked_about_fewer(
    rng: np.random.Generator,
) -> None:
    league = FakeLeague(rng)
    league.serve("tallinn", "lyon")
    league.serve("tallinn", "lyon", central=None)
    league.refuse("tallinn", "GDPR-V", central=None)
    served = line(compare(league.snapshot()), "served")
    assert (served.better, served.verdict) == (
        "central",
        "The league answers 66.7 %, one big site 100.0 %",
    )


@given(st.floats(0.001, 1e5), st.floats(0.001, 1e5))
def test_the_side_called_better_has_the_smaller_mean(league_ms: float, central_ms: float) -> None:
    league = FakeLeague(np.random.default_rng(0))
    big = CentralVerdict(outcome="served", predicted=cost(central_ms))
    league.serve("tallinn", "lyon", predicted=cost(league_ms), central=big)
    better = line(compare(league.snapshot()), "ttft").better
    smaller = "league" if league_ms < central_ms else "central"
    close = abs(league_ms - central_ms) <= 0.0101 * max(league_ms, central_ms)
    assert better == smaller or (better == "even" and close)

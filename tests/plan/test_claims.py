"""Claims that every design is asked about, not the smallest alone."""

from __future__ import annotations

import pytest
from msgspec.structs import replace
from tests.plan.answers import HELD, away, design, site

from hanse.plan.answer import DesignAnswer, away_gb
from hanse.plan.claims import _days, _inference_wan
from hanse.plan.held import Held
from hanse.plan.report.verdict import away_ms

HELD_IN_HALL = replace(
    HELD, size="hall", chip="h100-sxm", in_time=True, why="71 GB of weights, 640 GB in 8 x h100-sxm"
)
"""The same model, where it is in time."""  # fmt: skip
SMALLER = replace(HELD, workload="code", model="Llama-3.1-8B", weights_gb=8.0, why="8 GB of weights")  # fmt: skip


def built(id: str, *sizes: str, goes: bool) -> DesignAnswer:
    one, scale = away(True)
    if not goes:
        one = replace(one, held_by=("hall",), share=0.0, requests_per_day=0.0, gb_per_day=0.0, added_ms=None)  # fmt: skip
    sites = tuple(site(k, size, id) for k, size in enumerate(sizes))
    return design(id, id, sites, 0.4, away=(one, scale))


REGION = built("region", "hyperscale", goes=True)
EDGE = built("edge-region", "hyperscale", "tower", goes=True)
MICRO = built("micro", "hall", "hall", "tower", goes=False)
RENT = design("rent", "rent", (), 0.9, away=REGION.away)


def test_designs_that_disagree_are_named_by_their_range_and_explained_by_what_does_not_fit() -> (
    None
):
    claim = _inference_wan((REGION, EDGE, MICRO, RENT), (HELD_IN_HALL, SMALLER, HELD))
    assert claim.verdict == "depends on the design: 0 to 210 GB a day"
    assert claim.by_design == {"region": "–", "edge-region": "210", "micro": "0", "rent": "–"}
    assert claim.condition.endswith(f"Llama-3.1-70B in tower: {HELD.why}")
    assert "not within the SLO" in claim.condition


@pytest.mark.parametrize(
    ("ranked", "verdict", "told"),
    [
        ((REGION, EDGE), "holds", HELD.why),
        ((REGION, MICRO), "does not hold", HELD_IN_HALL.why),
        ((REGION, RENT), "not known", ""),
    ],
)
def test_where_all_agree_the_verdict_is_theirs(
    ranked: tuple[DesignAnswer, ...], verdict: str, told: str
) -> None:
    held: tuple[Held, ...] = (HELD_IN_HALL, HELD)
    claim = _inference_wan(ranked, held)
    assert claim.verdict == verdict
    assert claim.condition.endswith(told) and ("; Llama" in claim.condition) == bool(told)


def test_without_small_sites_nothing_could_be_held_and_so_nothing_goes_away_for_that() -> None:
    for one in (REGION, RENT):
        assert away_gb(one) is None and away_ms(one) is None
    assert away_gb(EDGE) == pytest.approx(210.0) and away_ms(EDGE) == pytest.approx(11.5)
    assert away_gb(MICRO) == 0.0 and away_ms(MICRO) is None


def test_a_training_job_is_told_with_its_cost() -> None:
    """Sites together have more chips: days alone would speak for them."""
    said = _days(27.43, 262_761.4), _days(73.1, None), _days(None, None)
    assert said == ("27.4 days for 262,761 USD", "73.1 days", "-")

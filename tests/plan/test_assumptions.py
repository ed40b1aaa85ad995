"""Figures with ranges and sources: what is shipped, what a study changes, and how they are drawn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hanse.catalogue import all_accelerators, city
from hanse.catalogue.accelerators import accelerator
from hanse.errors import ConfigError
from hanse.plan.assumptions import (
    BY_CHIP,
    Assumption,
    build_markets,
    market_factor,
    of_study,
    read,
    shocks,
)
from hanse.plan.assumptions_page import page
from hanse.plan.study_file import SIZES
from plan.designs import study

FIGURES = read().figures
DOCS = Path(__file__).parents[2] / "docs"


def test_every_figure_says_where_it_comes_from() -> None:
    for figure in FIGURES.values():
        assert len(figure.source) > 10, figure.id
        assert figure.basis in ("read", "vendor", "assumption")


def test_every_range_is_in_order_and_valid() -> None:
    for f in FIGURES.values():
        assert f.valid_min <= f.low <= f.mid <= f.high <= f.valid_max, f.id
        assert (f.shape == "fixed") == (f.low == f.high), f.id


def test_prices_of_chips_agree_with_the_catalogue() -> None:
    for chip in all_accelerators().values():
        figure = FIGURES.get(f"{chip.id}_chip_usd")
        if chip.price_usd is not None:
            assert figure is not None, chip.id
            assert figure.low <= chip.price_usd <= figure.high, chip.id


def test_what_may_stand_at_a_site_can_be_bought_and_rented() -> None:
    for size in SIZES:
        for chip in size.accelerators:
            for name in ("chip_usd", "cloud_usd_per_h", "reserved_usd_per_h"):
                assert f"{chip}_{name}" in FIGURES
            assert f"{accelerator(chip).tier}_server_share" in FIGURES


def test_reserved_chips_cost_less_than_chips_by_the_hour() -> None:
    for id, figure in FIGURES.items():
        if id.endswith("_reserved_usd_per_h"):
            by_hour = FIGURES[id.replace("_reserved_", "_cloud_")]
            assert figure.low <= by_hour.low
            assert figure.mid < by_hour.mid
            assert figure.high <= by_hour.high


def test_an_unknown_figure_is_answered_with_near_ones() -> None:
    with pytest.raises(ConfigError, match="server_life_years"):
        read().figure("server_life_year")
    with pytest.raises(ConfigError, match=r"assumptions\.discount_rte.*discount_rate"):
        of_study(study(assumptions={"discount_rte": 0.05}))


def test_a_study_replaces_figures_and_says_why() -> None:
    found = of_study(
        study(
            assumptions={"discount_rate": 0.05, "build_usd_per_w": (8.0, 9.0, 12.0)},
            sources={"discount_rate": "the treasurer, 2026"},
        )
    ).figures
    rate, build = found["discount_rate"], found["build_usd_per_w"]
    assert (rate.low, rate.high, rate.shape, rate.source) == (
        0.05,
        0.05,
        "fixed",
        "the treasurer, 2026",
    )
    assert (build.low, build.mid, build.high, build.shape) == (8.0, 9.0, 12.0, "triangular")
    assert build.basis == "study"
    assert found["mep_share"] == FIGURES["mep_share"]


def test_a_study_may_price_any_accelerator_of_the_catalogue() -> None:
    assert "groq-lpu-v1_chip_usd" not in FIGURES
    found = of_study(study(assumptions={"groq-lpu-v1_chip_usd": (15000.0, 20000.0, 25000.0)}))
    assert found.figures["groq-lpu-v1_chip_usd"].unit == BY_CHIP["chip_usd"][0]
    assert 15000.0 < found.draws(1, 10)["groq-lpu-v1_chip_usd"].mean() < 25000.0


@pytest.mark.parametrize(
    ("given_figure", "message"),
    [
        ((3.0, 2.0, 4.0), "low <= mid <= high"),
        ((-1.0, 0.5, 1.0), "0.5 to 1.2"),
        (2.0, "0.5 to 1.2"),
    ],
)
def test_a_study_is_told_when_a_range_is_wrong(given_figure: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        of_study(study(assumptions={"build_exponent": given_figure}))


def test_a_source_of_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"sources\.discount_rate"):
        of_study(study(sources={"discount_rate": "nobody"}))


@given(seed=st.integers(0, 2**32), n=st.integers(2, 300))
def test_draws_visit_every_part_of_a_range_once(seed: int, n: int) -> None:
    drawn = read().draws(seed, n)
    for id in ("discount_rate", "land_city_factor"):
        figure = FIGURES[id]
        edges = figure.quantiles(np.arange(n + 1) / n)
        assert np.array_equal(np.digitize(np.sort(drawn[id]), edges[1:-1]), np.arange(n))


def test_draws_of_one_figure_do_not_depend_on_others() -> None:
    few = {id: FIGURES[id] for id in ("discount_rate", "mep_share")}
    alone = read().__class__(figures=few).draws(7, 50)
    changed = of_study(study(assumptions={"discount_rate": (0.01, 0.02, 0.2)})).draws(7, 50)
    everything = read().draws(7, 50)
    assert np.array_equal(alone["mep_share"], everything["mep_share"])
    assert np.array_equal(changed["mep_share"], everything["mep_share"])
    assert not np.array_equal(changed["discount_rate"], everything["discount_rate"])
    assert not np.array_equal(read().draws(8, 50)["mep_share"], everything["mep_share"])


def test_figures_are_drawn_independently() -> None:
    drawn = read().draws(3, 1000)
    spread = [v for id, v in sorted(drawn.items()) if FIGURES[id].shape != "fixed"]
    together = np.corrcoef(np.array(spread)) - np.eye(len(spread))
    # 17,000 pairs of 1,000 independent draws: five standard deviations of 1/sqrt(1000).
    assert np.abs(together).max() < 0.16


@given(low=st.floats(0.1, 10.0), left=st.floats(0.0, 5.0), right=st.floats(0.01, 5.0))
def test_a_triangle_has_its_mean(low: float, left: float, right: float) -> None:
    """Mean of a triangular distribution: (low + mid + high) / 3."""
    figure = Assumption(
        id="x",
        group="x",
        unit="1",
        low=low,
        mid=low + left,
        high=low + left + right,
        shape="triangular",
        valid_min=0.0,
        valid_max=100.0,
        cost="none",
        basis="study",
        source="",
    )
    shares = (np.arange(20_000) + 0.5) / 20_000
    mean = (figure.low + figure.mid + figure.high) / 3.0
    assert figure.quantiles(shares).mean() == pytest.approx(mean, rel=1e-3)


def test_the_middle_has_one_draw() -> None:
    assert {v.shape for v in read().mid().values()} == {(1,)}
    assert read().mid()["discount_rate"][0] == FIGURES["discount_rate"].mid


def test_yearly_shocks_are_normal_and_have_streams_of_their_own() -> None:
    drawn = shocks(1, "demand", 5, 4000)
    assert drawn.shape == (5, 4000)
    assert abs(drawn.mean()) < 0.02
    assert drawn.std() == pytest.approx(1.0, abs=0.02)
    assert np.array_equal(drawn, shocks(1, "demand", 5, 4000))
    assert not np.array_equal(drawn, shocks(1, "price", 5, 4000))


def test_markets_are_those_published() -> None:
    assert len(build_markets()) == 14
    for market in build_markets():
        assert city(market.city, iso2=market.country).iso2 == market.country
    mean = sum(m.usd_per_w for m in build_markets()) / 14
    assert FIGURES["build_usd_per_w"].mid == pytest.approx(mean, abs=0.01)
    assert market_factor("zurich", "CH") == market_factor("Zürich", "CH") > 1.2
    assert market_factor("Boston", "US") == pytest.approx((13.31 + 11.23 + 10.92 + 9.54) / 4 / mean)
    assert market_factor("Lima", "PE") == 1.0


def test_the_page_lists_every_figure_as_it_is() -> None:
    written = (DOCS / "assumptions.md").read_text(encoding="utf-8")
    assert written == page(read()), (
        "run python -m hanse.plan.assumptions_page > docs/assumptions.md"
    )

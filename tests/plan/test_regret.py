"""What a site is worth, in words: an upper limit that the search without it keeps, and nothing where it was not asked."""

from __future__ import annotations

import re

import numpy as np
import pytest
from msgspec.structs import replace

from hanse.plan import regret
from hanse.plan.candidates import site_plan
from hanse.plan.regret import regrets, site_usd
from hanse.plan.sited import sited
from hanse.plan.solve import solve
from plan import hand
from plan.random_sitings import EXACT, problem


def test_words_are_the_loss_that_a_search_without_the_site_finds(rng: np.random.Generator) -> None:
    p = problem(rng, n=6, m=5, k=2, unserved_usd=50.0)
    answer = site_plan(p, EXACT)
    said = regrets(p, answer)
    assert len(said) == len(answer.sites) > 0
    asked = 0
    for site, words in zip(answer.sites, said, strict=True):
        found = re.match(r"([\d.]+) % dearer at most", words)
        fixed = p.fixed_usd.copy()
        fixed[p.site_ids.index(site.id)] = 1e6
        less = site_plan(replace(p, fixed_usd=fixed), EXACT)
        loss = less.usd + less.penalty_usd - answer.usd - answer.penalty_usd
        if found is None:
            assert "cannot be left out" in words or "not dearer" in words
            continue
        asked += 1
        assert float(found[1]) >= 100.0 * loss / answer.usd - 0.06
        least = re.search(r"([\d.]+) % at least", words)
        assert least is None or float(least[1]) <= 100.0 * loss / answer.usd + 0.06
    assert asked


def test_a_site_that_nothing_replaces_cannot_be_left_out(rng: np.random.Generator) -> None:
    p = problem(rng, n=2, m=1, k=2)
    p = replace(p, refusal=np.zeros((2, 1), int))
    assert "cannot be left out" in regrets(p, site_plan(p, EXACT))[0]


def test_of_many_sites_those_that_cost_most_are_asked_and_the_others_say_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = (problem(np.random.default_rng(seed), n=8, m=6, k=2, unserved_usd=50.0) for seed in range(50))  # fmt: skip
    p, answer = next((p, a) for p in made if len((a := site_plan(p, EXACT)).sites) >= 3)
    all_asked = regrets(p, answer)
    monkeypatch.setattr(regret, "SITES_MAX", 2)
    monkeypatch.setattr(regret, "DEAREST", 2)
    said = regrets(p, answer)
    cost = site_usd(p, answer)
    assert cost.sum() == pytest.approx(answer.fixed_usd[-1] + answer.running_usd[-1])
    chosen = np.flatnonzero(answer.size[-1] >= 0)
    dearest = set(chosen[np.argsort(-cost[chosen], kind="stable")[:2]].tolist())
    for site, words, whole in zip(chosen.tolist(), said, all_asked, strict=True):
        if site in dearest:
            assert words == whole, "the same search"
        else:
            assert words == f"not asked: only of the 2 of {len(chosen)} sites that cost most"


@pytest.mark.parametrize("quick", [True, False])
def test_a_first_look_does_not_ask_what_sites_are_worth(quick: bool) -> None:
    study = hand.study()
    design = sited(study, next(d for d in study.designs if d.id == "micro"), quick)
    assert len(design.regret) == len(design.places) > 0
    assert all(bool(words) != quick for words in design.regret)


def test_the_answer_carries_it(monkeypatch: pytest.MonkeyPatch) -> None:
    hand.without_curves(monkeypatch)
    study = hand.study(years=1, draws=5, designs=hand.study().designs[1:2])
    (design,) = solve(study, twin=()).designs
    assert design.sites and all(site.next_best for site in design.sites)

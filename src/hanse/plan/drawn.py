"""What is kept of a design under many draws: a few figures a draw, where the draws themselves fill gigabytes.

Here: `Drawn`, `draw` for a stretch of draws, `together` for stretches. Draws are computed in stretches of `STRETCH`, whoever computes them, so that
a number does not depend on how many do. Not here: quantiles and medians (`figures`), the draws (`assumptions`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from hanse.plan.assumptions import of_study
from hanse.plan.demand import demand_of
from hanse.plan.design import Design
from hanse.plan.doubt import Outcome, outcome
from hanse.plan.meter import Meter
from hanse.plan.study_file import Study
from hanse.plan.tco import policy_effects

Floats = NDArray[np.float64]
STRETCH: Final = 250
"""Draws at once: of a hundred sites half a gigabyte."""


class Drawn(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """A design under all draws; the last axis is [draw]."""

    items: dict[str, Floats]
    """USD a year, mean of years, all sites."""
    by_site: Floats
    """[site, draw] USD a year, mean of years."""
    npv: Floats
    usd_per_mtoken: Floats
    """NaN where nothing is delivered."""
    per_mtoken: dict[str, Floats]
    """kWh, litres, grams: as `Costs.per_mtoken`."""
    it_kw: Floats
    """[site, year, draw]"""
    chips_last: dict[str, Floats]
    """[site, draw] of the last year."""
    chip_years: dict[str, Floats]
    """All sites, sum of years."""
    chip_years_used: dict[str, Floats]
    tokens: Floats
    """All years."""
    tokens_lost: Floats
    wan_gb: Floats
    """Mean of years."""
    pue_excess: Floats
    """[site, draw] above what is lawful, the worst year."""
    policies: dict[str, Floats]
    """What each policy does to `npv`."""

    def annual(self, *names: str) -> Floats:
        """Yearly cost of the named items, of all without a name, mean of years."""
        chosen = names or tuple(self.items)
        return np.asarray(sum((self.items[n] for n in chosen), np.zeros(self.npv.shape)))


def draw(design: Design, study: Study, meter: Meter, first: int, last: int) -> Drawn:
    """Draws `first` to before `last` of the study's."""
    x = of_study(study).draws(study.seed, study.draws)
    part = slice(first, last)
    found = outcome(design, study, demand_of(study), x, meter, part)
    effects = policy_effects(found.inventory, {id: v[part] for id, v in x.items()}, study)
    return kept(found, effects)


def stretches(study: Study) -> list[tuple[int, int]]:
    """First draw and the one after the last."""
    ends = range(0, study.draws, STRETCH)
    return [(first, min(first + STRETCH, study.draws)) for first in ends]


def kept(found: Outcome, policies: dict[str, Floats]) -> Drawn:
    """Of an outcome."""
    inventory, costs = found.inventory, found.costs
    draws = costs.use.tokens.shape[1]
    sites, years = len(inventory.places), inventory.years

    def whole(array: Floats, shape: tuple[int, ...]) -> Floats:
        return np.ascontiguousarray(np.broadcast_to(array, shape))

    def of_sites(array: Floats) -> Floats:
        return whole(array, (sites, years, draws))

    excess = np.asarray(costs.duty.pue_excess)
    wan = of_sites(inventory.wan_gb).sum(axis=0) + np.asarray(inventory.rented_gb)[0]
    return Drawn(
        items={name: costs.annual(name).mean(axis=0) for name in costs.items},
        by_site=costs.by_site().mean(axis=1),
        npv=costs.npv(),
        usd_per_mtoken=costs.usd_per_mtoken(),
        per_mtoken=costs.per_mtoken(),
        it_kw=of_sites(inventory.it_kw),
        chips_last={chip: of_sites(v)[:, -1] for chip, v in inventory.chips.items()},
        chip_years={chip: of_sites(v).sum(axis=(0, 1)) for chip, v in inventory.chips.items()},
        chip_years_used={c: of_sites(v).sum(axis=(0, 1)) for c, v in inventory.chips_used.items()},
        tokens=inventory.tokens.sum(axis=(0, 1)),
        tokens_lost=inventory.tokens_lost.sum(axis=(0, 1)),
        wan_gb=whole(wan, (years, draws)).mean(axis=0),
        pue_excess=of_sites(excess).max(axis=1) if years else np.zeros((sites, draws)),
        policies={id: whole(v, (draws,)) for id, v in policies.items()},
    )


def together(parts: Sequence[Drawn]) -> Drawn:
    """One after the other."""

    def joined(name: str) -> Any:
        values = [getattr(p, name) for p in parts]
        if isinstance(values[0], dict):
            return {key: np.concatenate([v[key] for v in values], axis=-1) for key in values[0]}
        return np.concatenate(values, axis=-1)

    return Drawn(**{name: joined(name) for name in Drawn.__struct_fields__})

"""How sure an answer is: who wins in how many draws, which figure moves it most, at which value it flips.

Here: `Outcome` of a design over all draws, `wins`, `tornado`, `flips`. Draws are common to all designs: in draw k every design meets the same
demand, prices and lives, so that differences between designs are not noise. Not here: the figures (`assumptions`), the cost (`tco`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from hanse.model.fleet import Value
from hanse.plan.assumptions import Assumptions, Values
from hanse.plan.demand import Demand
from hanse.plan.design import Design, freedom
from hanse.plan.inventory import Inventory
from hanse.plan.meter import Meter
from hanse.plan.operate import growth_paths, operate
from hanse.plan.study_file import Study
from hanse.plan.tco import Costs, costs

Floats = NDArray[np.float64]
Score = Callable[[Design, Values], Floats]
"""What is compared: [draw], less is better."""
SWINGS_MAX: Final = 12
"""Bars of a tornado that are worth looking at."""
SHOCKS: Final = "demand_shock_sd"
"""Scales random numbers that differ from draw to draw: what is compared one by one goes without."""
STEPS: Final = 24
"""Values of a figure that are tried between its ends to find where the answer flips; then halved."""


class Outcome(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """A design under all draws."""

    design: Design
    inventory: Inventory
    costs: Costs

    @property
    def usd_per_mtoken(self) -> Floats:
        """[draw]"""
        return self.costs.usd_per_mtoken()


class Swing(Value, frozen=True, kw_only=True):
    """One figure's pull on the difference between two designs."""

    id: str
    low: float
    high: float
    """Ends of its range."""
    at_low: float
    at_high: float
    """USD per million tokens by which the first design is dearer than the second at those ends, all else most likely."""


class Flip(Value, frozen=True, kw_only=True):
    """The value of a figure at which another design becomes the cheapest, all else most likely."""

    id: str
    mid: float
    at: float
    winner: str
    """Design that wins beyond."""


class Curve(Value, frozen=True, kw_only=True):
    """Cost of every design over one figure or input, all else most likely, and where the cheapest changes."""

    id: str
    """Of a figure of the assumptions, or `rtt_ms_max`, `tokens_per_day`."""
    name: str
    unit: str
    at: float
    """As the study has it."""
    low: float
    high: float
    resited: bool
    """Each point is a search of its own; else the designs stay as they are."""
    values: tuple[float, ...]
    """Rising."""
    usd_per_mtoken: dict[str, tuple[float | None, ...]]
    """[value] by design; None: nothing is delivered."""
    served_share: dict[str, tuple[float, ...]]
    """[value] by design; of what is asked."""
    winners: tuple[str, ...]
    """[value]"""
    flips: tuple[Flip, ...]
    """Nearest to the study's own value, below and above it."""
    note: str


def outcome(
    design: Design,
    study: Study,
    demand: Demand,
    x: Values,
    meter: Meter,
    part: slice = slice(None),
) -> Outcome:
    """The design, operated and paid for, under some of the draws; demand of a draw is the same whatever the others are."""
    paths = growth_paths(study, x)[:, :, part]
    x = {id: values[part] for id, values in x.items()}
    inventory = operate(design, study, demand, x, meter, paths)
    return Outcome(design=design, inventory=inventory, costs=costs(inventory, x, study))


def scorer(study: Study, demand: Demand, meters: Mapping[str, Meter]) -> Score:
    """Cost per million delivered tokens; a design that delivers none is infinitely dear. `meters` by id of the design."""

    def score(design: Design, x: Values) -> Floats:
        found = outcome(design, study, demand, x, meters[design.spec.id]).usd_per_mtoken
        return np.where(np.isnan(found), np.inf, found)

    return score


def wins(scores: Sequence[Floats]) -> Floats:
    """[design] share of draws in which it is the best; ties are split."""
    table = np.stack(scores)
    best = table == table.min(axis=0)
    return np.asarray((best / best.sum(axis=0)).mean(axis=1))


def apart(designs: Sequence[Design], scores: Sequence[Floats]) -> list[Floats]:
    """Scores in which, of designs that come to the very same, only the one that leaves least open can win; nothing delivered never wins."""
    known = [np.where(np.isnan(s), np.inf, s) for s in scores]
    out = list(known)
    for k, design in enumerate(designs):
        for j, other in enumerate(designs):
            if freedom(other.spec) < freedom(design.spec) and np.array_equal(known[j], known[k]):
                out[k] = np.full_like(known[k], np.inf)
    return out


def tornado(first: Design, second: Design, figures: Assumptions, score: Score) -> tuple[Swing, ...]:
    """Pull of every figure on the difference first - second, widest first: each at its ends, all others most likely."""
    ids = [id for id, f in figures.figures.items() if f.low < f.high and id != SHOCKS]
    x = corners(figures, ids)
    difference = score(first, x) - score(second, x)
    swings = [
        Swing(
            id=id,
            low=figures.figures[id].low,
            high=figures.figures[id].high,
            at_low=float(difference[2 * k]),
            at_high=float(difference[2 * k + 1]),
        )
        for k, id in enumerate(ids)
    ]
    swings.sort(key=lambda s: (-abs(s.at_high - s.at_low), s.id))
    return tuple(s for s in swings[:SWINGS_MAX] if s.at_low != s.at_high)


def corners(figures: Assumptions, ids: Sequence[str]) -> dict[str, Floats]:
    """Draws in which one figure is at an end of its range and all others are most likely: [low of first, high of first, low of second, ...]."""
    count = 2 * len(ids)
    x = most_likely(figures, count)
    for k, id in enumerate(ids):
        x[id][2 * k] = figures.figures[id].low
        x[id][2 * k + 1] = figures.figures[id].high
    return x


def most_likely(figures: Assumptions, count: int) -> dict[str, Floats]:
    """`count` times the most likely figures, without shocks of demand."""
    return {id: np.full(count, 0.0 if id == SHOCKS else f.mid) for id, f in figures.figures.items()}


def flips(
    designs: Sequence[Design], figures: Assumptions, score: Score, ids: Sequence[str]
) -> tuple[Flip, ...]:
    """For each figure the value nearest to its most likely one at which another design wins; none where nothing in its valid range does."""
    found = []
    for id in ids:
        figure = figures.figures[id]
        for end in (figure.low, figure.high):
            flip = _flip(designs, figures, score, id, end)
            if flip is not None:
                found.append(flip)
    return tuple(found)


def distance(flip: Flip, figures: Assumptions) -> float:
    """How far through its range a figure must go: 0 at once, 1 at its end."""
    figure = figures.figures[flip.id]
    end = figure.high if flip.at > flip.mid else figure.low
    return abs(flip.at - flip.mid) / max(abs(end - flip.mid), 1e-12)


def _flip(
    designs: Sequence[Design], figures: Assumptions, score: Score, id: str, end: float
) -> Flip | None:
    mid = figures.figures[id].mid
    if end == mid:
        return None
    values = np.linspace(mid, end, STEPS + 1)
    best = _best(designs, figures, score, id, values)
    changed = np.flatnonzero(best != best[0])
    if len(changed) == 0:
        return None
    first = int(changed[0])
    low, high = float(values[first - 1]), float(values[first])
    inside = np.linspace(low, high, STEPS + 1)
    finer = _best(designs, figures, score, id, inside)
    at = int(np.flatnonzero(finer != best[0])[0])
    winner = designs[int(finer[at])].spec.id
    return Flip(id=id, mid=mid, at=float(inside[at]), winner=winner)


def _best(
    designs: Sequence[Design],
    figures: Assumptions,
    score: Score,
    id: str,
    values: Floats,
) -> NDArray[np.int64]:
    x = most_likely(figures, len(values))
    x[id][:] = values
    table = np.stack([score(design, x) for design in designs])
    return np.asarray(table.argmin(axis=0))

"""How much worse the loss is than data parallel's, from published runs.

Here: `data/training_loss.csv` and its interpolation. Not here: time, energy, why an algorithm works.

The penalty is linear in (log parameters, log2 sites) between the published cells around it; where one of them was not published, nothing is
said. Cells: DiLoCo with H 30, 35M to 10B parameters, 1 to 8 sites (arXiv 2503.09799, Table 4); streaming DiLoCo with 4 bits and one step of
delay, H 30 and H 100, 35M to 1B (one cell at 4B), 2 and 4 sites (arXiv 2501.18512, Tables 5 and 6; losses there have two decimals,
so a penalty is within 0.2 to 0.3 points). In both, the penalty grows with H and with sites and shrinks with parameters: so an H
below a published one gets an upper bound, and an H above it a lower bound.
"""

from __future__ import annotations

import csv
import math
from bisect import bisect_left
from functools import cache
from pathlib import Path
from typing import Final

from hanse.model.fleet import Value
from hanse.serving.training.job import (
    DataParallel,
    Figure,
    Method,
    StreamingDiLoCo,
    TrainingJob,
    known,
    method_name,
    not_known,
)

TABLE: Final = Path(__file__).parents[1] / "data" / "training_loss.csv"
SOURCES: Final = {
    "diloco": "arXiv 2503.09799 Table 4",
    "streaming_diloco": "arXiv 2501.18512 Tables 5 and 6",
}
TOKENS_PER_PARAMETER: Final = (15.0, 250.0)
"""Published cells have about 20 (compute optimal); at 1B and two sites the gap had not grown at 250 (arXiv 2501.18512, Table 1)."""
SHARE_SPREAD_MAX: Final = 1.1
"""Largest over smallest site: published sites were equal, and a tenth more tokens is less than between neighbouring cells."""
DELAY_STEPS_MAX: Final = 5
"""Loss hardly moves up to here (arXiv 2501.18512, section 3.3.2)."""

Cells = dict[tuple[float, int], float]


class _Asked(Value, frozen=True, kw_only=True):
    parameters_n: float
    sites_n: int
    inner_steps: int
    kind: str


def loss_penalty(
    job: TrainingJob, method: Method, sites_n: int, share_spread: float = 1.0
) -> Figure:
    """Percent by which the final loss is above data parallel's with the same tokens; negative: below."""
    if isinstance(method, DataParallel) or sites_n == 1:
        return known(0.0, "the same steps as at one site: no difference by definition")
    outside = _outside(job, method, share_spread)
    if outside:
        return not_known(outside, SOURCES[method_name(method)])
    asked = _Asked(
        parameters_n=job.parameters_n,
        sites_n=sites_n,
        inner_steps=method.inner_steps,
        kind=method_name(method),
    )
    return _looked_up(asked)


def _outside(job: TrainingJob, method: Method, share_spread: float) -> str:
    """Why no published run is like this one; empty: some are."""
    if job.computed_n < job.parameters_n:
        return "published runs are dense models"
    low, high = TOKENS_PER_PARAMETER
    ratio = job.tokens_n / job.parameters_n
    if not low <= ratio <= high:
        return f"{ratio:.3g} tokens per parameter; published runs have {low:g} to {high:g}"
    if share_spread > SHARE_SPREAD_MAX:
        return f"sites differ in speed by {share_spread:.2f}; published sites are equal"
    if isinstance(method, StreamingDiLoCo) and method.delay_steps > DELAY_STEPS_MAX:
        return f"{method.delay_steps} steps of delay; published losses hold up to {DELAY_STEPS_MAX}"
    return ""


def _looked_up(asked: _Asked) -> Figure:
    tables = _tables()[asked.kind]
    exact = [h for h in tables if h == asked.inner_steps]
    above = [h for h in tables if h > asked.inner_steps]
    if exact:
        return _figure(asked, exact[0], "")
    if above:
        return _figure(asked, min(above), "upper bound")
    return _figure(asked, max(tables), "lower bound")


def _figure(asked: _Asked, inner_steps: int, bound: str) -> Figure:
    cells = _tables()[asked.kind][inner_steps]
    value = _interpolated(cells, asked.parameters_n, asked.sites_n)
    source = SOURCES[asked.kind]
    if value is None:
        sizes, sites = [n for n, _ in cells], [m for _, m in cells]
        return not_known(
            f"{asked.parameters_n:.3g} parameters at {asked.sites_n} sites is outside the published cells "
            f"({min(sizes):.3g} to {max(sizes):.3g} parameters, {min(sites)} to {max(sites)} sites, not all combinations)",
            source,
        )
    why = f"interpolated at {inner_steps} inner steps"
    if bound == "upper bound":
        return Figure(
            value=value,
            validity="upper bound",
            why=f"{why}; fewer inner steps lose less",
            source=source,
        )
    if bound:
        return Figure(
            value=value,
            validity="lower bound",
            why=f"{why}; more inner steps lose more",
            source=source,
        )
    return known(value, why, source)


def _interpolated(cells: Cells, parameters_n: float, sites_n: int) -> float | None:
    """Linear in (log parameters, log2 sites); None where a cell around the place is missing."""
    sizes = _around(sorted({n for n, _ in cells}), parameters_n)
    counts = _around([float(m) for m in sorted({m for _, m in cells})], float(sites_n))
    if not sizes or not counts:
        return None
    value = 0.0
    for size, size_weight in sizes:
        for count, count_weight in counts:
            found = cells.get((size, int(count)))
            if found is None:
                return None
            value += found * size_weight * count_weight
    return value


def _around(points: list[float], at: float) -> list[tuple[float, float]]:
    """The one or two points around a place, with weights linear in the logarithm; empty: outside."""
    if not points[0] <= at <= points[-1]:
        return []
    right = bisect_left(points, at)
    if points[right] == at:
        return [(at, 1.0)]
    low, high = points[right - 1], points[right]
    weight = math.log(at / low) / math.log(high / low)
    return [(low, 1.0 - weight), (high, weight)]


@cache
def _tables() -> dict[str, dict[int, Cells]]:
    """Published cells by method and inner steps."""
    found: dict[str, dict[int, Cells]] = {}
    with TABLE.open(encoding="utf-8", newline="") as f:
        for row in csv.DictReader(f):
            cells = found.setdefault(row["method"], {}).setdefault(int(row["inner_steps"]), {})
            cells[float(row["parameters_n"]), int(row["sites_n"])] = float(row["penalty_pct"])
    return found

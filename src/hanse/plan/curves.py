"""Break-even curves: what every design costs over one figure or one input, and where another becomes the cheapest.

Here: `curves_of`: figures with a range (unit-cost premium, growth, carbon price), for which the designs stay as they are, and inputs (latency limit,
tokens a day), for which every point is sited anew. All else is most likely. Not here: figures that flip the answer anywhere in their range
(`doubt.flips`), draws.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from hanse.catalogue import city
from hanse.model.fleet import Value
from hanse.plan.assumptions import of_study
from hanse.plan.demand import demand_of
from hanse.plan.design import Design, freedom
from hanse.plan.doubt import Curve, Flip, most_likely, outcome
from hanse.plan.meter import Meter
from hanse.plan.operate import expected_meter
from hanse.plan.reach import round_trips_ms
from hanse.plan.sited import CELLS_MAX, cells, sited
from hanse.plan.steps import Steps
from hanse.plan.study_file import Study, Workload

Floats = NDArray[np.float64]
Changed = Callable[[Study, float], Study]
FIGURES: Final = {
    "build_exponent": "how much dearer small plant is a kW: exponent of size",
    "module_premium_share": "unit-cost premium of prefabricated modules",
    "demand_growth_factor": "growth over the study's",
    "carbon_usd_per_t": "carbon price",
}
"""Whose curve is always drawn."""
POINTS: Final = 13
"""Of a figure's curve, ends and most likely value included."""
LIMITS_MS: Final = (10.5, 12.0, 14.0, 17.0, 21.0, 27.0, 36.0, 50.0, 75.0, 120.0, 200.0)
"""Round trips that are tried as limits: 10 ms of last mile leave half a millisecond within a city, 190 ms across the world."""
LIMITS_MS_QUICK: Final = LIMITS_MS[::2]
TIMES: Final = (0.1, 0.2, 0.5, 2.0, 5.0, 10.0)
"""Of the study's tokens a day."""
TIMES_QUICK: Final = (0.2, 5.0)
DECADES: Final = (1e8, 1e9, 1e10, 1e11, 1e12)
"""Tokens a day that are tried beyond those: from a company's assistant to what the largest services say they serve. A range of a decade about the study's own
demand finds nothing to flip where two decades do."""
DECADES_QUICK: Final = (DECADES[0], DECADES[-1])
CELLS_MAX_QUICK: Final = 600
"""Same for a first look: ten cities and one kind of work."""
TIE: Final = 0.005
"""Costs nearer than this are one: a search ends within 3 % of the best."""
FINER: Final = 2
"""Halvings of the step in which an input flips the answer."""


class Point(Value, frozen=True, kw_only=True):
    """A design at one value of an input."""

    usd_per_mtoken: float | None
    served_share: float


class Points(Value, frozen=True, kw_only=True):
    """All designs, those first that leave least open: a mix that comes to a design of one kind is no answer of its own."""

    by_design: dict[str, Point]

    @property
    def winner(self) -> str:
        """The cheapest; among those that are within `TIE` of it the one that leaves least open."""
        priced = {
            d: np.inf if p.usd_per_mtoken is None else p.usd_per_mtoken
            for d, p in self.by_design.items()
        }
        return next(d for d, usd in priced.items() if usd <= min(priced.values()) * (1.0 + TIE))


def curves_of(
    study: Study,
    designs: Sequence[Design],
    meters: dict[str, Meter],
    steps: Steps,
    *,
    quick: bool = False,
    progress: Callable[[float], None] | None = None,
) -> tuple[Curve, ...]:
    """All curves of a study; for a first look, inputs only where its siting problem is small."""
    tell = progress or (lambda share: None)
    if not designs:
        return ()
    figures = of_study(study).figures
    found = [
        _figure_curve(id, name, study, designs, meters)
        for id, name in FIGURES.items()
        if id in figures and figures[id].low < figures[id].high
    ]
    tell(0.1)
    if quick and cells(study) > CELLS_MAX_QUICK:
        return tuple(found)
    few = quick or cells(study) > CELLS_MAX
    finer = 0 if few and not quick else FINER
    limits = _latency_curve(study, steps, LIMITS_MS_QUICK if few else LIMITS_MS, finer)
    tell(0.6)
    tokens = _tokens_curve(study, steps, TIMES_QUICK if few else TIMES, finer)
    return (*found, *((limits,) if limits else ()), tokens)


def resited(study: Study) -> Points:
    """Every design of a study, sited, operated and paid for at the most likely figures; without own power."""
    demand = demand_of(study)
    x = most_likely(of_study(study), 1)
    found = {}
    for spec in sorted(study.designs, key=freedom):
        design = sited(study, spec, True, cells(study) > CELLS_MAX)
        meter = expected_meter(design, study, demand)
        made = outcome(design, study, demand, x, meter)
        found[spec.id] = _point(made.usd_per_mtoken, made.inventory.tokens, made.inventory.tokens_lost)[0]  # fmt: skip
    return Points(by_design=found)


def limited(study: Study, limit_ms: float) -> Study:
    """The study with another latency limit: below its own one a cap, above it all limits in proportion."""
    own = limit_of(study)

    def changed(work: Workload) -> Workload:
        if work.kind != "interactive":
            return work
        if limit_ms <= own:
            return msgspec.structs.replace(
                work, rtt_ms_max=min(work.rtt_ms_max or np.inf, limit_ms)
            )
        if work.rtt_ms_max is None:
            return work
        return msgspec.structs.replace(work, rtt_ms_max=work.rtt_ms_max * limit_ms / own)

    return msgspec.structs.replace(study, workloads=tuple(map(changed, study.workloads)))


def limit_of(study: Study) -> float:
    """The longest of the interactive workloads' limits; where one has none, the longest way there is."""
    limits = [w.rtt_ms_max for w in study.workloads if w.kind == "interactive"]
    if not limits:
        return 0.0
    return max(_longest_ms(study) if limit is None else limit for limit in limits)


def scaled(study: Study, tokens_per_day: float) -> Study:
    """The study with so many tokens a day, all workloads in proportion."""
    part = tokens_per_day / sum(w.tokens_per_day for w in study.workloads)
    works = tuple(
        msgspec.structs.replace(w, tokens_per_day=w.tokens_per_day * part) for w in study.workloads
    )
    return msgspec.structs.replace(study, workloads=works)


def _figure_curve(
    id: str, name: str, study: Study, designs: Sequence[Design], meters: dict[str, Meter]
) -> Curve:
    """The designs as they are, over the range of a figure."""
    demand, assumed = demand_of(study), of_study(study)
    figure = assumed.figures[id]
    values = np.unique(np.append(np.linspace(figure.low, figure.high, POINTS - 1), figure.mid))
    x = most_likely(assumed, len(values))
    x[id][:] = values
    points = []
    designs = sorted(designs, key=lambda d: freedom(d.spec))
    for design in designs:
        made = outcome(design, study, demand, x, meters[design.spec.id])
        points.append(_point(made.usd_per_mtoken, made.inventory.tokens, made.inventory.tokens_lost))  # fmt: skip
    at = [
        Points(by_design={d.spec.id: p[k] for d, p in zip(designs, points, strict=True)})
        for k in range(len(values))
    ]
    return _curve(id, name, figure.unit, figure.mid, values.tolist(), at, note="")


def _point(usd: Floats, tokens: Floats, lost: Floats) -> list[Point]:
    """[draw]"""
    served, asked = tokens.sum(axis=(0, 1)), (tokens + lost).sum(axis=(0, 1))
    return [
        Point(usd_per_mtoken=None if np.isnan(u) else float(u), served_share=float(s / a))
        for u, s, a in zip(usd, served, asked, strict=True)
    ]


def _latency_curve(
    study: Study, steps: Steps, limits_ms: Sequence[float], finer: int
) -> Curve | None:
    """Over the limit of the round trip; None where nothing is interactive."""
    own = limit_of(study)
    if own <= 0.0:
        return None
    values = [ms for ms in limits_ms if ms < _longest_ms(study) and abs(ms / own - 1.0) > 0.02]
    note = "as far as light allows: above the longest way nothing changes"
    if all(w.rtt_ms_max is None for w in study.workloads if w.kind == "interactive"):
        note += "; the study has no limit, so its own value is that way"
    return _resited_curve(
        "rtt_ms_max",
        "latency limit, round trip",
        "ms",
        own,
        values,
        study,
        limited,
        steps,
        note,
        finer,
    )


def _tokens_curve(study: Study, steps: Steps, times: Sequence[float], finer: int) -> Curve:
    own = sum(w.tokens_per_day for w in study.workloads)
    values = [own * t for t in times]
    decades = DECADES if times is TIMES or finer == 0 else DECADES_QUICK
    beyond = [v for v in decades if v < 0.5 * min(values) or v > 2.0 * max(values)]
    return _resited_curve(
        "tokens_per_day", "demand of the first year", "tokens a day", own, [*values, *beyond],
        study, scaled, steps, "all workloads in proportion", finer,
    )  # fmt: skip


def _resited_curve(
    id: str, name: str, unit: str, own: float, values: Sequence[float], study: Study,
    changed: Changed, steps: Steps, note: str, finer: int,
) -> Curve:  # fmt: skip
    """Each value sited; between two neighbours with different winners, nearest to the study's own, finer."""
    found: dict[float, Points] = {}
    alike: dict[bytes, Points] = {}

    def solve(asked: Sequence[float]) -> None:
        keys = {v: _alike(changed(study, v)) for v in asked}
        new = {keys[v]: v for v in reversed(asked) if keys[v] not in alike}
        tasks = {f"{id}-{v:.9g}": (changed(study, v),) for v in new.values()}
        alike.update(zip(new, steps.map(Points, resited, tasks), strict=True))
        found.update({v: alike[keys[v]] for v in asked})

    solve(sorted({own, *values}))
    for _ in range(finer):
        between = [float(np.sqrt(near * far)) for near, far in _turns(own, found) if near and far]
        solve(between)
    order = sorted(found)
    if finer == 0:
        note += "; few points: a flip lies between the value that is named and the one before it"
    return _curve(
        id, name, unit, own, order, [found[v] for v in order], note=note, resited=True
    )  # fmt: skip


def _alike(study: Study) -> bytes:
    """Equal for two studies that differ in limits which forbid the same ways."""
    places = [city(c.city, iso2=c.country or "") for c in (*(study.candidates or study.cities), *study.clouds)]  # fmt: skip
    ways = round_trips_ms(demand_of(study).places, places)
    said = [np.packbits(ways <= (w.rtt_ms_max or np.inf)).tobytes() for w in study.workloads]
    free = tuple(msgspec.structs.replace(w, rtt_ms_max=None) for w in study.workloads)
    return b"".join(said) + msgspec.json.encode(free)


def _longest_ms(study: Study) -> float:
    """From any city of the study to any place for a site or a cloud."""
    places = [city(c.city, iso2=c.country or "") for c in (*(study.candidates or study.cities), *study.clouds)]  # fmt: skip
    ways = round_trips_ms([city(c.city, iso2=c.country or "") for c in study.cities], places)
    return float(np.ceil(ways.max()))


def _turns(own: float, found: dict[float, Points]) -> list[tuple[float, float]]:
    """(nearer value, further value) between which another design becomes the cheapest, below and above the study's own value."""
    mine = found[own].winner
    turns = []
    for way in (sorted(v for v in found if v <= own)[::-1], sorted(v for v in found if v >= own)):
        for near, far in pairwise(way):
            if found[far].winner != mine:
                turns.append((near, far))
                break
    return turns


def _curve(
    id: str, name: str, unit: str, own: float, values: list[float], at: list[Points], *, note: str,
    resited: bool = False,
) -> Curve:  # fmt: skip
    points = dict(zip(values, at, strict=True))
    ids = list(at[0].by_design)
    turns = [
        Flip(id=id, mid=own, at=far, winner=points[far].winner) for _, far in _turns(own, points)
    ]
    return Curve(
        id=id,
        name=name,
        unit=unit,
        at=own,
        low=values[0],
        high=values[-1],
        resited=resited,
        values=tuple(values),
        usd_per_mtoken={d: tuple(p.by_design[d].usd_per_mtoken for p in at) for d in ids},
        served_share={d: tuple(p.by_design[d].served_share for p in at) for d in ids},
        winners=tuple(p.winner for p in at),
        flips=tuple(turns),
        note=note,
    )

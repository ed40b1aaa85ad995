"""What is usually claimed for micro data centers, and against them, held against a study.

Here: the claims, the figure that decides each, a verdict. Not here: the figures (`figures`).

Small is the design with most sites that it builds, big the one with fewest. A claim holds where small's figure is better by `MARGIN`, or, of claims
of equality, within it; it depends on a figure where another value in that figure's range turns it, and then the break-even is named. Of models
too large for small sites and of moving work every design is asked that can tell; where they disagree it depends on the design.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from hanse.plan.answer import ClaimAnswer, DesignAnswer, TrainingAnswer, away_gb
from hanse.plan.assumptions import Assumptions
from hanse.plan.demand import Demand
from hanse.plan.design import Design
from hanse.plan.doubt import Score, distance, flips, scorer
from hanse.plan.held import Held
from hanse.plan.meter import Meter
from hanse.plan.study_file import Study

MARGIN: Final = 0.02
"""Differences below it are within what the models can tell."""
COST_IDS: Final = (
    "build_exponent",
    "room_build_factor",
    "module_premium_share",
    "demand_growth_factor",
    "delivered_price_factor",
    "staff_fte_at_1mw",
    "truck_rolls_per_site_year",
    "carbon_usd_per_t",
    "build_usd_per_w",
    "outage_usd_per_kwh",
    "audit_usd_per_site_year",
)
"""Figures whose break-even is looked for where cost decides."""
Value = Callable[[DesignAnswer], float | None]


def claims_of(
    study: Study,
    ranked: Sequence[DesignAnswer],
    designs: Sequence[Design],
    meters: Mapping[str, Meter],
    figures: Assumptions,
    demand: Demand,
    trainings: Sequence[TrainingAnswer] = (),
    held: Sequence[Held] = (),
) -> tuple[ClaimAnswer, ...]:
    """All claims; none where fewer than two designs build something."""
    building = [d for d in ranked if d.sites]
    if len(building) < 2:
        return ()
    small = max(building, key=lambda d: len(d.sites))
    big = min(building, key=lambda d: len(d.sites))
    score = scorer(study, demand, meters)
    pair = [next(d for d in designs if d.spec.id == one.id) for one in (small, big)]
    return (
        *_for_small(ranked, small, big),
        _cost(ranked, small, big, pair, figures, score),
        *_against(ranked, small, big, trainings),
        _matching(ranked),
        _inference_wan(ranked, held),
        *_moving(ranked),
    )


def _for_small(
    ranked: Sequence[DesignAnswer], small: DesignAnswer, big: DesignAnswer
) -> tuple[ClaimAnswer, ...]:
    return (
        _claim(
            "per-accelerator",
            "A chip serves as much in a small site as in a large one",
            "kWh of IT and overhead per million tokens",
            ranked,
            lambda d: d.kwh_per_mtoken.p50,
            small,
            big,
            equal=True,
        ),
        _claim(
            "idle", "Less capacity stands idle", "share of chips' work that stands idle",
            ranked, lambda d: d.idle_share, small, big,
        ),
        _claim(
            "conversion", "Less is lost on the way to the chip", "facility over IT energy (PUE)",
            ranked, lambda d: d.pue, small, big,
        ),
        _claim(
            "sun-and-wind", "Local sun and wind fit small loads", "share of hours' energy that is carbon-free",
            ranked, lambda d: d.carbon_free_share, small, big, more=True,
        ),
        _claim(
            "law", "Data stays where law wants it", "share of what is asked for that is delivered lawfully, in time",
            ranked, lambda d: d.served_share, small, big, more=True,
        ),
        _claim(
            "latency", "Users wait less", "TTFT p95 in ms, way included",
            ranked, lambda d: d.ttft_ms_p95, small, big,
        ),
        _claim(
            "resilience", "A lost site hurts less", "share served when the largest site is gone",
            ranked, lambda d: d.served_without[1], small, big, more=True,
        ),
        _claim(
            "staged", "Building in small steps strands less capital", "USD a year of capital that stands idle, per million USD a year of cost",
            ranked, lambda d: 1e6 * d.stranded_usd_per_year / max(sum(d.usd_by_group.values()), 1e-9), small, big,
        ),
    )  # fmt: skip


def _cost(
    ranked: Sequence[DesignAnswer],
    small: DesignAnswer,
    big: DesignAnswer,
    pair: Sequence[Design],
    figures: Assumptions,
    score: Score,
) -> ClaimAnswer:
    found = _claim(
        "total-cost", "The total cost is lower", "USD per million tokens, median of draws",
        ranked, lambda d: d.usd_per_mtoken.p50, small, big,
    )  # fmt: skip
    ids = tuple(i for i in COST_IDS if i in figures.figures)
    turning = flips(pair, figures, score, ids)
    if not turning:
        return found
    nearest = min(turning, key=lambda f: distance(f, figures))
    now = "small" if found.verdict == "holds" else "big"
    verdict = f"depends on {nearest.id}: {now} is cheaper at {nearest.mid:.3g}, {nearest.winner} from {nearest.at:.3g}"
    return ClaimAnswer(
        id=found.id,
        claim=found.claim,
        by_design=found.by_design,
        condition="; ".join(f"{f.winner} from {f.id} = {f.at:.3g}" for f in turning),
        verdict=verdict,
    )


def _against(
    ranked: Sequence[DesignAnswer],
    small: DesignAnswer,
    big: DesignAnswer,
    trainings: Sequence[TrainingAnswer],
) -> tuple[ClaimAnswer, ...]:
    found = [
        _claim(
            "operations", "Many sites are harder to run", "operator actions a month",
            ranked, lambda d: d.operator_actions_per_month, small, big, more=True,
        ),
        _claim(
            "pooling", "Separate sites need more room for the same peaks", "slots over one pool, less 1",
            ranked, lambda d: d.pooling_extra_share, small, big, more=True,
        ),
        _claim(
            "unit-cost", "Small plant costs more per kW", "USD a year of plant, building and land per kW",
            ranked, _plant_usd_per_kw, small, big, more=True,
        ),
        _claim(
            "ups", "A small site's UPS works at lower efficiency", "IT over input of the UPS, first year, at its mean load",
            ranked, lambda d: d.ups_efficiency, small, big,
        ),
    ]  # fmt: skip
    for t in trainings:
        across = t.choice == "across sites"
        figures = {
            "central": _days(t.days_central, t.usd_central),
            "across sites": _days(t.days_across, t.usd_across),
        }
        lost = t.loss_penalty_pct
        loss = "not known" if lost is None else f"{lost:.1f} %"
        found.append(
            ClaimAnswer(
                id=f"training-{t.id}",
                claim="Training wants one large place",
                by_design=figures,
                condition=f"{t.why}; loss of quality across sites: {loss}",
                verdict="does not hold" if across else "holds",
            )
        )
        sent = "-" if t.wan_gbit_s is None else f"{t.wan_gbit_s:.2f} Gbit/s per site"
        found.append(
            ClaimAnswer(
                id=f"wan-{t.id}",
                claim="Training across sites fills the WAN",
                by_design={"across sites": sent},
                condition="of a port of 10 Gbit/s",
                verdict="holds" if (t.wan_gbit_s or 0.0) > 5.0 else "does not hold",
            )
        )
    return tuple(found)


def _matching(ranked: Sequence[DesignAnswer]) -> ClaimAnswer:
    """By the year against by the hour, of each design's own generation."""
    pairs = {d.id: (d.annual_match_share, d.hourly_match_share) for d in ranked}
    lost = [1.0 - b / a for a, b in pairs.values() if a and b is not None]
    verdict = "not known" if not lost else "holds" if max(lost) > MARGIN else "does not hold"
    return ClaimAnswer(
        id="annual-matching",
        claim="Matching by the year claims more than the hours give",
        by_design={
            id: "–" if a is None or b is None else f"{a:.0%} by the year, {b:.0%} by the hour"
            for id, (a, b) in pairs.items()
        },
        condition="own generation over use",
        verdict=verdict,
    )


def _inference_wan(ranked: Sequence[DesignAnswer], held: Sequence[Held]) -> ClaimAnswer:
    """Of work that is asked for, in designs that have small sites; what larger models would do stands in the tables."""
    found = {d.id: away_gb(d) for d in ranked}
    known = [gb for gb in found.values() if gb is not None]
    if not known:
        verdict = "not known"
    elif min(known) > 0.0:
        verdict = "holds"
    elif max(known) <= 0.0:
        verdict = "does not hold"
    else:
        verdict = f"depends on the design: {_said(min(known))} to {_said(max(known))} GB a day"
    condition = "GB a day that no small site of the design holds in time; – has no small site"
    told = _telling(ranked, held)
    if told is not None:
        condition += f"; {told.model} in {told.size}: {told.why}"
    return ClaimAnswer(
        id="wan-inference",
        claim="Models too large for small sites go over the WAN",
        by_design={id: _said(gb) for id, gb in found.items()},
        condition=condition,
        verdict=verdict,
    )


def _telling(ranked: Sequence[DesignAnswer], held: Sequence[Held]) -> Held | None:
    """The largest model beside a size class that does not hold it in time and so sends it away; where nothing goes, the largest that is held."""
    built, gone = set[str](), set[tuple[str, str]]()
    for d in ranked:
        sizes = {site.size for site in d.sites if site.kind != "region"}
        built |= sizes
        works = {a.work for a in d.away if not a.reference and a.gb_per_day > 0.0}
        gone |= {(work, size) for work in works for size in sizes}
    late = [h for h in held if (h.workload, h.size) in gone and not h.in_time]
    fits = [h for h in held if h.workload and h.size in built and h.in_time]
    return max(late or fits, key=lambda h: (h.weights_gb, -h.replica_gb), default=None)


def _moving(ranked: Sequence[DesignAnswer]) -> tuple[ClaimAnswer, ...]:
    """In space and in time, each over the design's sites; upper bounds."""
    several = [d for d in ranked if d.shifting is not None and len(d.sites) > 1]
    if not several:
        return ()
    space: dict[str, str] = {}
    most = []
    for d in several:
        assert d.shifting is not None
        ways = d.shifting.carbon_g
        free = ways.gain("hourly", "static") or 0.0
        inside = ways.gain("room_hourly", "room_static")
        most.append(free if inside is None else inside)
        room = "" if inside is None else f", {inside:.1%} within room"
        space[d.id] = f"{free:.1%}{room}"
    time = {d.id: d.shifting.carbon_g.gain("deferred", "assigned") or 0.0 for d in several if d.shifting}  # fmt: skip
    return (
        _moved("shift-space", "Routing by the hour cuts carbon below the best fixed sites", space, most),
        _moved("shift-time", "Waiting for clean hours cuts carbon", {i: f"{v:.1%}" for i, v in time.items()}, list(time.values())),
    )  # fmt: skip


def _moved(id: str, claim: str, said: dict[str, str], gains: Sequence[float]) -> ClaimAnswer:
    if min(gains) > MARGIN:
        verdict = "holds"
    elif max(gains) <= MARGIN:
        verdict = "does not hold"
    else:
        verdict = f"depends on the design: {min(gains):.1%} to {max(gains):.1%}"
    return ClaimAnswer(
        id=id,
        claim=claim,
        by_design=said,
        condition="share of gCO2e that perfect foresight saves at most",
        verdict=verdict,
    )


def _claim(
    id: str,
    text: str,
    unit: str,
    ranked: Sequence[DesignAnswer],
    value: Value,
    small: DesignAnswer,
    big: DesignAnswer,
    *,
    more: bool = False,
    equal: bool = False,
) -> ClaimAnswer:
    """`more`: the claim says that small's figure is larger."""
    a, b = value(small), value(big)
    if a is None or b is None:
        verdict = "not known"
    else:
        scale = max(abs(a), abs(b), 1e-12)
        better = (a - b if more else b - a) / scale
        holds = abs(better) <= 5.0 * MARGIN if equal else better > MARGIN
        verdict = "holds" if holds or (equal and better > 0.0) else "does not hold"
    return ClaimAnswer(
        id=id,
        claim=text,
        by_design={d.id: _said(value(d)) for d in ranked},
        condition=unit,
        verdict=verdict,
    )


def _days(days: float | None, usd: float | None) -> str:
    """Of a training job; sites together may have more chips, so that days alone would mislead."""
    if days is None:
        return "-"
    return f"{days:.1f} days" if usd is None else f"{days:.1f} days for {usd:,.0f} USD"


def _plant_usd_per_kw(d: DesignAnswer) -> float | None:
    kw = sum(s.it_kw[-1] for s in d.sites)
    cost = d.usd_by_group.get("plant", 0.0) + d.usd_by_group.get("land and rent", 0.0)
    return cost / kw if kw > 0.0 else None


def _said(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:,.0f}" if abs(value) >= 1000.0 else f"{value:,.4g}"

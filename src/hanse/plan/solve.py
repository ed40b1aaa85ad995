"""`solve`: a study from its file to its answer: designs, their years under all draws, doubt, the twin's judgement, files.

Here: the order of things. Not here: any of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from hanse import __version__
from hanse.plan.answer import (
    Answer,
    AssumptionAnswer,
    DesignAnswer,
    PolicyAnswer,
)
from hanse.plan.assumptions import Assumptions, Values, of_study
from hanse.plan.claims import claims_of
from hanse.plan.demand import Demand, demand_of
from hanse.plan.design import Design
from hanse.plan.designs import designs_of
from hanse.plan.doubt import Flip, Outcome, Swing, distance, flips, outcome, scorer, tornado, wins
from hanse.plan.figures import Facts, design_answer
from hanse.plan.fleet_out import fleet_of, trace_of, write_day, write_fleet, write_toml
from hanse.plan.meter import Meter
from hanse.plan.operate import expected_meter, first_replicas
from hanse.plan.own_power import with_own_power
from hanse.plan.study_file import Study
from hanse.plan.tco import policy_effects
from hanse.plan.trainings import training_answers
from hanse.plan.validate import REQUESTS_MAX, Tried, busiest_hour, hours_of, tried

Floats = NDArray[np.float64]
Progress = Callable[[str, float], None]
"""Told what is being done and the share of the whole that is over."""
FLIP_IDS: Final = (
    "demand_growth_factor",
    "carbon_usd_per_t",
    "build_exponent",
    "module_premium_share",
    "room_build_factor",
    "delivered_price_factor",
    "truck_rolls_per_site_year",
    "staff_fte_at_1mw",
)
"""Figures whose break-even is always asked for, beside those that pull most."""


class Found(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """All that was computed of a study."""

    study: Study
    demand: Demand
    figures: Assumptions
    x: Values
    designs: tuple[Design, ...]
    meters: dict[str, Meter]
    outcomes: tuple[Outcome, ...]
    tried: dict[str, Tried]


def solve(
    study: Study,
    *,
    out: Path | None = None,
    twin: Sequence[str] | None = None,
    quick: bool = False,
    command: str = "",
    progress: Progress | None = None,
) -> Answer:
    """Answer a study.

    Args:
        out: Folder that gets fleet files, a day's trace and the study as it was solved; None: nothing is written.
        twin: Ids of designs that the twin judges; None: the cheapest that builds anything.
        quick: No twin, a wider gap; for an answer within seconds.
        command: Repeats the study.
        progress: Told what is being done.

    Raises:
        ConfigError: a workload that no size class holds, or what a study file must not say.
    """
    tell = progress or (lambda what, share: None)
    tell("demand and law", 0.0)
    demand, figures = demand_of(study), of_study(study)
    designs = designs_of(
        study, demand, quick=quick, progress=lambda p: tell("siting", 0.05 + 0.35 * p)
    )
    if not quick:
        tell("sun, wind and batteries", 0.42)
        designs = tuple(with_own_power(d, study, demand) for d in designs)
    tell("a year of every site", 0.45)
    x = figures.draws(study.seed, study.draws)
    meters = {d.spec.id: expected_meter(d, study, demand) for d in designs}
    tell(f"{study.draws} draws", 0.55)
    outcomes = tuple(outcome(d, study, demand, x, meters[d.spec.id]) for d in designs)
    judged: dict[str, Tried] = {}
    if not quick and hours_of(study, 0) > 0:
        names = _to_try(outcomes) if twin is None else tuple(twin)
        for number, name in enumerate(names):
            design = next(d for d in designs if d.spec.id == name)
            first = 0.6 + 0.25 * number / max(len(names), 1)
            tell(f"the twin tries {name}", first)
            judged[name] = tried(design, study, demand)
    found = Found(
        study=study,
        demand=demand,
        figures=figures,
        x=x,
        designs=designs,
        meters=meters,
        outcomes=outcomes,
        tried=judged,
    )
    tell("doubt", 0.85)
    answer = _answer(found, command)
    if out is not None:
        tell("files", 0.95)
        answer = _written(found, answer, out)
    tell("done", 1.0)
    return answer


def _to_try(outcomes: Sequence[Outcome]) -> tuple[str, ...]:
    building = [o for o in outcomes if o.design.places]
    if not building:
        return ()
    best = min(building, key=lambda o: float(np.median(o.usd_per_mtoken)))
    return (best.design.spec.id,)


def _answer(found: Found, command: str) -> Answer:
    study = found.study
    cost_wins = wins([o.usd_per_mtoken for o in found.outcomes])
    carbon = [_carbon_g(o) for o in found.outcomes]
    carbon_wins = wins(carbon)
    answers = []
    for o, by_cost, by_carbon in zip(found.outcomes, cost_wins, carbon_wins, strict=True):
        facts = Facts(
            study=study,
            demand=found.demand,
            meter=found.meters[o.design.spec.id],
            outcome=o,
            x=found.x,
        )
        made = design_answer(facts, win_share=float(by_cost), win_share_carbon=float(by_carbon))
        judged = found.tried.get(made.id)
        if judged is not None:
            made = msgspec.structs.replace(made, rounds=judged.rounds)
        answers.append(made)
    order = sorted(range(len(answers)), key=lambda i: answers[i].usd_per_mtoken.p50)
    ranked = tuple(answers[i] for i in order)
    swings, turning = _doubt(found, [found.designs[i] for i in order])
    trainings = training_answers(study, found.outcomes, found.meters)
    return Answer(
        study=study.name,
        start=study.start.isoformat(),
        years=study.years,
        draws=study.draws,
        seed=study.seed,
        software=f"hanse {__version__}",
        command=command,
        tokens_per_day=sum(w.tokens_per_day for w in study.workloads),
        designs=ranked,
        swings=swings,
        flips=turning,
        trainings=trainings,
        policies=_policies(found),
        claims=claims_of(
            study, ranked, found.designs, found.meters, found.figures, found.demand, trainings
        ),
        assumptions=_assumptions(found.figures),
        notes=_notes(study),
    )


def _doubt(found: Found, ranked: Sequence[Design]) -> tuple[tuple[Swing, ...], tuple[Flip, ...]]:
    """What pulls between the first two, and what makes another the cheapest."""
    if len(ranked) < 2:
        return (), ()
    score = scorer(found.study, found.demand, found.meters)
    swings = tornado(ranked[0], ranked[1], found.figures, score)
    known = [i for i in FLIP_IDS if i in found.figures.figures]
    ids = dict.fromkeys([*(s.id for s in swings), *known])
    turning = flips(ranked, found.figures, score, tuple(ids))
    return swings, tuple(sorted(turning, key=lambda f: (distance(f, found.figures), f.id)))


def _carbon_g(o: Outcome) -> Floats:
    per = o.costs.per_mtoken()
    total = per["location_g"] + per["embodied_g"]
    return np.where(np.isnan(total), np.inf, total)


def _policies(found: Found) -> tuple[PolicyAnswer, ...]:
    effects = {
        o.design.spec.id: policy_effects(o.inventory, found.x, found.study) for o in found.outcomes
    }
    return tuple(
        PolicyAnswer(
            id=policy.id,
            kind=policy.kind,
            source=policy.source,
            usd_by_design={d: float(np.median(e[policy.id])) for d, e in effects.items()},
        )
        for policy in found.study.policies
    )


def _assumptions(figures: Assumptions) -> tuple[AssumptionAnswer, ...]:
    return tuple(
        AssumptionAnswer(
            id=f.id,
            group=f.group,
            unit=f.unit,
            low=f.low,
            mid=f.mid,
            high=f.high,
            basis=f.basis,
            source=f.source,
            note=f.note,
        )
        for f in figures.figures.values()
    )


def _notes(study: Study) -> tuple[str, ...]:
    large = f"an hour is more than {REQUESTS_MAX:,} requests: the twin was not asked, and no trace is written"
    return (
        f"weather, carbon and prices of recorded years, replayed from {study.start.year}; carbon and price then move with their assumptions",
        "round trips are floors: light in fibre over 1.3 times the great circle, and 10 ms of last mile",
        "users' demand beyond what stands is rented by the hour where law lets it, else lost",
        *((large,) if study.workloads and hours_of(study, 0) == 0 else ()),
    )


def _written(found: Found, answer: Answer, out: Path) -> Answer:
    """Files to go on from: a fleet per design that builds, a day to try them on, the study."""
    out.mkdir(parents=True, exist_ok=True)
    study = found.study
    hours = hours_of(study, 0)
    day = "day.parquet" if study.workloads and hours > 0 else ""
    if day:
        write_day(
            out / day, trace_of(study, 0, hours=hours, first_h=busiest_hour(found.demand, hours))
        )
    write_toml(out / "study.toml", study, f"The study {study.name} as it was solved.")
    designs: list[DesignAnswer] = []
    for made in answer.designs:
        judged = found.tried.get(made.id)
        design = next(d for d in found.designs if d.spec.id == made.id)
        if judged is not None:
            design = judged.design
        if not design.places:
            designs.append(made)
            continue
        replicas, rated_kw = first_replicas(design, study, found.demand, 0)
        name = f"fleet-{made.id}.toml"
        heading = (
            f"{made.name}, the first year of {study.name}: {len(design.places)} sites\n"
            f"hanse simulate {name} --trace {day or 'TRACE'}"
        )
        write_fleet(out / name, fleet_of(design, study, replicas, rated_kw), heading)
        designs.append(msgspec.structs.replace(made, fleet_file=name, trace_file=day))
    return msgspec.structs.replace(answer, designs=tuple(designs))

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
from hanse.plan.answer import Answer, AssumptionAnswer, DesignAnswer, PolicyAnswer, unlike
from hanse.plan.assumptions import Assumptions, Values, of_study
from hanse.plan.claims import claims_of
from hanse.plan.curves import curves_of
from hanse.plan.demand import Demand, demand_of
from hanse.plan.design import Design, freedom
from hanse.plan.doubt import Curve, Flip, Swing, apart, distance, flips, scorer, tornado, wins
from hanse.plan.drawn import Drawn, draw, stretches, together
from hanse.plan.figures import Facts, design_answer
from hanse.plan.fleet_out import own_country, trace_of, write_day, write_fleet, write_toml
from hanse.plan.held import held_by
from hanse.plan.meter import Meter
from hanse.plan.policies import policy_answers
from hanse.plan.shifting import Shifting, shifting_of
from hanse.plan.sited import metered, powered, sited
from hanse.plan.steps import Steps, Store
from hanse.plan.study_file import Study
from hanse.plan.trainings import Built, training_answers
from hanse.plan.validate import (
    REQUESTS_MAX,
    ROUNDS,
    Round,
    Tried,
    busiest_hour,
    fleet_at,
    hours_of,
    tried,
)
from hanse.plan.workers import Workers

Floats = NDArray[np.float64]
Progress = Callable[[str, float], None]
"""Told what is being done and the share of the whole that is over."""
RENTED_MAX: Final = 0.01
"""Share of demand above which a fleet file says that it is not all: rented chips are not in it."""
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
    drawn: tuple[Drawn, ...]
    """[design]"""
    tried: dict[str, Tried]
    curves: tuple[Curve, ...]
    policies: tuple[PolicyAnswer, ...]
    shifting: dict[str, Shifting]
    """By design that builds."""


def solve(
    study: Study,
    *,
    out: Path | None = None,
    twin: Sequence[str] | None = None,
    quick: bool = False,
    command: str = "",
    progress: Progress | None = None,
    workers: Workers | None = None,
    store: Store | None = None,
) -> Answer:
    """Answer a study.

    Args:
        out: Folder that gets fleet files, a day's trace and the study as it was solved; None: nothing is written.
        twin: Ids of designs that the twin judges; None: all that build anything.
        quick: No twin, no own power, a wider gap; for an answer within seconds.
        command: Repeats the study.
        progress: Told what is being done.
        workers: Who computes; None: this process. The numbers are the same.
        store: Keeps what is done, and has what was done before an interruption; the caller clears it.

    Raises:
        ConfigError: a workload that no size class holds, or what a study file must not say.
    """
    tell = progress or (lambda what, share: None)
    tell("demand and law", 0.0)
    steps = Steps(workers, store)
    demand, figures = demand_of(study), of_study(study)
    designs = _designs(study, steps, quick, tell)
    judged: dict[str, Tried] = {}
    if not quick and hours_of(study, 0) > 0:
        names = [d.spec.id for d in designs if d.places] if twin is None else list(twin)
        for number, name in enumerate(names):
            tell(f"the twin tries {name}", 0.38 + 0.17 * number / max(len(names), 1))
            design = next(d for d in designs if d.spec.id == name)
            judged[name] = _judged(design, study, demand, steps)
        # What the twin found to be too small is paid for as large as it must be.
        designs = tuple(judged[d.spec.id].design if d.spec.id in judged else d for d in designs)
    tell("a year of every site", 0.55)
    each = {f"meter-{d.spec.id}": (d, study) for d in designs}
    made = steps.map(Meter, metered, each)
    meters = {d.spec.id: m for d, m in zip(designs, made, strict=True)}
    shifting = _shifting(study, designs, meters, steps)
    drawn = _drawn(study, designs, meters, steps, tell)
    tell("policies", 0.72)
    policies = policy_answers(study, designs, drawn, steps, quick)
    tell("doubt", 0.75)
    found = Found(
        study=study,
        demand=demand,
        figures=figures,
        x=figures.draws(study.seed, study.draws),
        designs=designs,
        meters=meters,
        drawn=drawn,
        tried=judged,
        policies=policies,
        shifting=shifting,
        curves=curves_of(
            study, designs, meters, steps, quick=quick, progress=lambda p: tell("break-even", 0.75 + 0.2 * p)
        ),
    )  # fmt: skip
    answer = _answer(found, command)
    if out is not None:
        tell("files", 0.95)
        answer = _written(found, answer, out)
    tell("done", 1.0)
    return answer


def _designs(study: Study, steps: Steps, quick: bool, tell: Progress) -> tuple[Design, ...]:
    """Sited, and with their own power."""
    if not study.workloads:
        return ()
    tell("siting", 0.02)
    specs = {f"site-{spec.id}": (study, spec, quick) for spec in study.designs}
    designs = steps.map(Design, sited, specs, lambda p: tell("siting", 0.02 + 0.26 * p))
    if quick:
        return tuple(designs)
    tell("sun, wind and batteries", 0.28)
    bare = {f"power-{d.spec.id}": (d, study) for d in designs}
    return tuple(
        steps.map(Design, powered, bare, lambda p: tell("sun, wind and batteries", 0.28 + 0.1 * p))
    )


def _drawn(
    study: Study,
    designs: Sequence[Design],
    meters: dict[str, Meter],
    steps: Steps,
    tell: Progress,
) -> tuple[Drawn, ...]:
    """[design] under all draws, computed in stretches."""
    what = f"{study.draws:,} draws"
    tell(what, 0.58)
    parts = stretches(study)
    tasks = {
        f"draws-{d.spec.id}-{first}": (d, study, meters[d.spec.id], first, last)
        for d in designs
        for first, last in parts
    }
    found = steps.map(Drawn, draw, tasks, lambda p: tell(what, 0.58 + 0.12 * p))
    n = len(parts)
    return tuple(together(found[k * n : (k + 1) * n]) for k in range(len(designs)))


def _shifting(
    study: Study, designs: Sequence[Design], meters: dict[str, Meter], steps: Steps
) -> dict[str, Shifting]:
    """By design that builds."""
    building = [d.spec.id for d in designs if d.places]
    tasks = {f"shift-{d.spec.id}": (d, study, meters[d.spec.id]) for d in designs if d.places}
    return dict(zip(building, steps.map(Shifting, shifting_of, tasks), strict=True))


def _judged(design: Design, study: Study, demand: Demand, steps: Steps) -> Tried:
    """By the twin; rounds that were run before an interruption stand."""
    names = [f"twin-{design.spec.id}-{n}" for n in range(1, ROUNDS + 1)]
    known = []
    for name in names:
        found = steps.load(name, Round)
        if found is None:
            break
        known.append(found)
    steps.found += len(known)
    return tried(
        design, study, demand, known=known, told=lambda r: steps.save(names[r.number - 1], r)
    )


def _cheapest(designs: Sequence[Design], drawn: Sequence[Drawn]) -> tuple[str, ...]:
    """Of those that build anything."""
    building = [(d, r) for d, r in zip(designs, drawn, strict=True) if d.places]
    if not building:
        return ()
    best, _ = min(building, key=lambda pair: float(np.median(pair[1].usd_per_mtoken)))
    return (best.spec.id,)


def _answer(found: Found, command: str) -> Answer:
    study = found.study
    cost_wins = wins(apart(found.designs, [r.usd_per_mtoken for r in found.drawn]))
    carbon_wins = wins(apart(found.designs, [_carbon_g(r) for r in found.drawn]))
    held = held_by(study)
    answers = []
    for design, r, by_cost, by_carbon in zip(
        found.designs, found.drawn, cost_wins, carbon_wins, strict=True
    ):
        facts = Facts(
            study=study,
            demand=found.demand,
            meter=found.meters[design.spec.id],
            design=design,
            drawn=r,
            x=found.x,
            held=held,
            shifting=found.shifting.get(design.spec.id),
        )
        made = design_answer(facts, win_share=float(by_cost), win_share_carbon=float(by_carbon))
        judged = found.tried.get(made.id)
        if judged is not None:
            made = msgspec.structs.replace(made, rounds=judged.rounds)
        answers.append(made)
    order = sorted(
        range(len(answers)),
        key=lambda i: (answers[i].usd_per_mtoken.p50, freedom(found.designs[i].spec)),
    )
    ranked = tuple(answers[i] for i in order)
    apart_ids = [d.id for d in unlike(ranked)]
    ranked = tuple(_likened(d, ranked, apart_ids) for d in ranked)
    by_id = {d.spec.id: d for d in found.designs}
    swings, turning = _doubt(found, [by_id[id] for id in apart_ids])
    built = [Built(design=d, drawn=r) for d, r in zip(found.designs, found.drawn, strict=True)]
    trainings = training_answers(study, built, found.meters)
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
        curves=found.curves,
        trainings=trainings,
        held=held,
        policies=found.policies,
        claims=claims_of(
            study, ranked, found.designs, found.meters, found.figures, found.demand, trainings, held
        ),
        assumptions=_assumptions(found.figures),
        notes=_notes(study),
    )


def _likened(d: DesignAnswer, ranked: Sequence[DesignAnswer], kept: Sequence[str]) -> DesignAnswer:
    """With a note where it comes to the same as another."""
    if d.id in kept:
        return d
    same = next(o for o in ranked if o.id in kept and o.usd_per_mtoken == d.usd_per_mtoken)
    return msgspec.structs.replace(d, notes=(*d.notes, f"comes to the same as {same.name}, which is counted for both"))  # fmt: skip


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


def _carbon_g(r: Drawn) -> Floats:
    total = r.per_mtoken["location_g"] + r.per_mtoken["embodied_g"]
    return np.where(np.isnan(total), np.inf, total)


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


def heading_of(study: Study, made: DesignAnswer, command: str) -> str:
    """What a fleet file says of itself: whose it is, how to run it, what a run is to be held against."""
    said = [
        f"{made.name}, the first year of {study.name}: {len(made.sites)} site{'s' * (len(made.sites) != 1)}",
        command,
    ]
    if made.rented_share > RENTED_MAX:
        said.append(f"It rents {made.rented_share:.0%} of demand for good, which is not in this file.")  # fmt: skip
    if made.rounds:
        last = made.rounds[-1]
        waits = ", ".join(w.id for w in study.workloads if w.kind == "interactive")
        said.append("In these hours planned, and found by the twin:")
        if last.ttft_ms_p95 is not None and last.ttft_ms_p95_planned is not None:
            said.append(f"  TTFT p95 {last.ttft_ms_p95_planned:.1f} ms, {last.ttft_ms_p95:.1f} ms (of {waits} together)")  # fmt: skip
        said.append(f"  energy {last.facility_kwh_planned:.1f} kWh, {last.facility_kwh:.1f} kWh; {last.energy_usd_planned:.2f} USD, {last.energy_usd:.2f} USD")  # fmt: skip
    return "\n".join(said)


def _written(found: Found, answer: Answer, out: Path) -> Answer:
    """Files to go on from: a fleet per design that builds, a day to try them on, the study."""
    out.mkdir(parents=True, exist_ok=True)
    study = found.study
    hours = hours_of(study, 0)
    write_toml(out / "study.toml", study, f"The study {study.name} as it was solved.")
    designs: list[DesignAnswer] = []
    with_day = found.tried or _cheapest(found.designs, found.drawn)
    for made in answer.designs:
        design = next(d for d in found.designs if d.spec.id == made.id)
        if not design.places:
            designs.append(made)
            continue
        name, day = f"fleet-{made.id}.toml", ""
        if hours > 0 and made.id in with_day:
            day = f"day-{made.id}.parquet"
            first_h = busiest_hour(found.demand, hours)
            trace = trace_of(design, study, found.demand, 0, hours=hours, first_h=first_h)
            write_day(out / day, trace)
        heading = heading_of(study, made, f"hanse simulate {name} --trace {day or 'TRACE'}")
        fleet = fleet_at(design, study, found.demand, 0)
        write_fleet(out / name, fleet, heading, own_country(study))
        designs.append(msgspec.structs.replace(made, fleet_file=name, trace_file=day))
    return msgspec.structs.replace(answer, designs=tuple(designs))

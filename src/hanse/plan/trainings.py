"""A study's training jobs: in one place or across its sites, by the forms of `serving.training`, with what either costs.

Here: sizing both so that they could end in time, and money. Not here: formulas of training.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from hanse.catalogue import accelerator_named, distance_km, rtt_ms_floor
from hanse.energy.plant import chip_rated_w
from hanse.plan.answer import TrainingAnswer
from hanse.plan.design import Design
from hanse.plan.drawn import Drawn
from hanse.plan.fleet_out import WAN_MBIT_S
from hanse.plan.meter import Meter
from hanse.plan.physics import HOURS_OF_YEAR
from hanse.plan.study_file import Study, Training
from hanse.serving.training import (
    DataParallel,
    DiLoCo,
    StreamingDiLoCo,
    TrainingForecast,
    TrainingJob,
    TrainingSite,
    Wan,
    compare_training,
)
from hanse.units import SECONDS_PER_DAY, hours_from_s

MFU: Final = 0.4
"""Inside one site: INTELLECT-1 reached 0.433 on H100 (arXiv 2412.01152); large dense runs publish 0.38 to 0.43."""
SITES_MAX: Final = 8
"""Replicas across sites: the most for which losses are published (arXiv 2503.09799, Table 4)."""
PER_SERVER: Final = 8
METHODS: Final = (
    DataParallel(),
    DiLoCo(inner_steps=30),
    StreamingDiLoCo(fragments_n=8, inner_steps=100, delay_steps=1, bits=4.0),
)


class Built(Struct, frozen=True, kw_only=True, eq=False):
    """A design under all draws."""

    design: Design
    drawn: Drawn


def training_answers(
    study: Study, outcomes: Sequence[Built], meters: Mapping[str, Meter]
) -> tuple[TrainingAnswer, ...]:
    """[training] of the study. Central: at the design with the fewest sites; across: at the largest sites of the one with the most."""
    building = [o for o in outcomes if o.design.places]
    if not building:
        return ()
    central = min(building, key=lambda o: len(o.design.places))
    spread = max(building, key=lambda o: len(o.design.places))
    return tuple(_one(t, central, spread, meters) for t in study.trainings)


def _one(
    training: Training, central: Built, spread: Built, meters: Mapping[str, Meter]
) -> TrainingAnswer:
    chips = _chips(training)
    order = np.argsort(-spread.drawn.it_kw[:, -1].mean(axis=-1), kind="stable")[:SITES_MAX]
    each = max(PER_SERVER, math.ceil(chips / max(len(order), 1) / PER_SERVER) * PER_SERVER)
    one = _site("central", training, chips, _pue(central, meters, 0))
    sites = [
        _site(spread.design.places[s].id, training, each, _pue(spread, meters, int(s)))
        for s in order
    ]
    job = TrainingJob(
        parameters_n=training.parameters_b * 1e9,
        tokens_n=training.tokens_b * 1e9,
        batch_tokens=training.batch_tokens_m * 1e6,
        layers_n=training.layers,
    )
    wan = Wan(bottleneck_mbit_s=WAN_MBIT_S, one_way_ms=_one_way_ms(spread.design, order))
    methods = METHODS if len(sites) > 1 else ()
    found = compare_training(
        job,
        central=one,
        sites=sites,
        wan=wan,
        methods=methods,
        deadline_s=training.days_max * SECONDS_PER_DAY,
    )
    across = min(found.across, key=_wall_or_inf, default=None)
    return TrainingAnswer(
        id=training.id,
        choice=found.choice,
        why=found.reasons[0],
        days_central=_days(found.central),
        days_across=_days(across),
        utilisation_across=None if across is None else across.utilisation.value,
        loss_penalty_pct=None if across is None else across.loss_penalty_pct.value,
        usd_central=_usd(found.central, chips, central),
        usd_across=_usd(across, each * len(sites), spread),
        kwh_central=_kwh(found.central),
        kwh_across=_kwh(across),
        wan_gbit_s=None if across is None else across.wan_gbit_s_mean.value,
        notes=(
            f"central {chips} chips, across {len(sites)} sites with {each} each, {WAN_MBIT_S / 1000:g} Gbit/s",
            *found.reasons[1:],
        ),
    )


def _chips(training: Training) -> int:
    """Whole servers that end in nine tenths of the time allowed."""
    rate = accelerator_named(training.accelerator).bf16_tflops_dense or 0.0
    work = 6.0 * training.parameters_b * 1e9 * training.tokens_b * 1e9
    seconds = 0.9 * training.days_max * SECONDS_PER_DAY
    needed = work / (seconds * MFU * max(rate, 1e-9) * 1e12)
    return math.ceil(needed / PER_SERVER) * PER_SERVER


def _site(id: str, training: Training, chips: int, pue: float) -> TrainingSite:
    return TrainingSite(
        id=id,
        accelerator=training.accelerator,
        chips_n=chips,
        pue=pue,
        mfu=MFU,
        busy_w=chip_rated_w(accelerator_named(training.accelerator).id),
    )


def _pue(o: Built, meters: Mapping[str, Meter], site: int) -> float:
    line = meters[o.design.spec.id].lines["facility_kwh"]
    return max(1.0, float(line.value[site, -1] / max(line.at[site, -1], 1e-9)))


def _one_way_ms(design: Design, order: NDArray[np.int64]) -> float:
    """Of the longest hop when sites stand in a ring from west to east."""
    places = sorted((design.cities[s] for s in order), key=lambda c: c.lon)
    hops = [
        rtt_ms_floor(distance_km(a.lat, a.lon, b.lat, b.lon)) / 2.0
        for a, b in zip(places, [*places[1:], places[0]], strict=True)
    ]
    return max(hops, default=0.0)


def _usd(found: TrainingForecast | None, chips: int, o: Built) -> float | None:
    """Chip-hours at what a chip-hour of the design costs, all items together."""
    if found is None or found.wall_s.value is None:
        return None
    held = sum(o.drawn.chip_years.values())
    years = o.drawn.it_kw.shape[1]
    a_year = years * (o.drawn.annual() - o.drawn.annual("lost_work", "cloud_rent"))
    per_hour = np.median(a_year / np.maximum(np.asarray(held), 1e-9)) / HOURS_OF_YEAR
    return float(per_hour * chips * hours_from_s(found.wall_s.value))


def _wall_or_inf(found: TrainingForecast) -> float:
    return math.inf if found.wall_s.value is None else found.wall_s.value


def _days(found: TrainingForecast | None) -> float | None:
    if found is None or found.wall_s.value is None:
        return None
    return found.wall_s.value / SECONDS_PER_DAY


def _kwh(found: TrainingForecast | None) -> float | None:
    return None if found is None else found.energy.total_kwh.value

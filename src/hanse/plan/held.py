"""Models that a small site cannot hold, and what therefore goes over the WAN to large sites and to rented chips.

Here: `held_by`, each model of a study beside the memory of each size class, with two models of the catalogue for scale; `away_of`, requests, GB, added
round trip and cost of what a design's small sites do not hold. Not here: which site serves whom (`designs`), traffic between training sites (`trainings`).

A replica stands in one server, so that memory of at most `COUNTS[-1]` chips decides, not the site's: a model is held where its weights and the context of one
request fit, and in time where the SLO is met besides.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from hanse.catalogue import accelerator_named, ai_model_named, city
from hanse.catalogue.models import AiModel, ai_models
from hanse.energy.plant import chip_rated_w
from hanse.errors import ConfigError
from hanse.model.fleet import Value
from hanse.plan.assumptions import Values
from hanse.plan.capacity import COUNTS, fit_of
from hanse.plan.demand import Demand
from hanse.plan.design import Design
from hanse.plan.operate import traffic_gb
from hanse.plan.reach import round_trips_ms
from hanse.plan.study_file import SizeClass, Study, Workload
from hanse.serving.precisions import weight_bytes
from hanse.serving.steady import running_of
from hanse.serving.steps import step_model
from hanse.units import SECONDS_PER_DAY

Floats = NDArray[np.float64]
REFERENCE_PRECISION: Final = "fp8"
"""What models of hundreds of billions of parameters are served in, and published in since DeepSeek-V3."""
DAYS_PER_YEAR: Final = 365.0
ALL: Final = "all interactive work"
"""What a model for scale is asked for."""


class Held(Value, frozen=True, kw_only=True):
    """One model beside one size class."""

    workload: str
    """Of the study; empty: a model of the catalogue, for scale."""
    model: str
    precision: str
    weights_gb: float
    size: str
    chip: str
    """Of the size class, the one that comes nearest to serving it."""
    replica_gb: float
    """Memory of the largest replica: as many chips as a server and the site's power allow."""
    site_gb: float
    """Memory of the whole site when it is full of that chip."""
    held: bool
    in_time: bool
    """Held, and within the workload's SLO."""
    why: str
    """The number that decides."""


class Away(Value, frozen=True, kw_only=True):
    """What a design sends over the WAN because none of its small sites holds the model in time."""

    work: str
    model: str
    reference: bool
    """Not asked for: what it would be if all interactive work of the study asked for this model."""
    held_by: tuple[str, ...]
    """Size classes of small sites that the design builds and that hold it in time; then nothing goes away for that."""
    share: float
    """Of the work's requests that go to large sites or rented chips for that."""
    requests_per_day: float
    """Of the first year."""
    gb_per_day: float
    added_ms: float | None
    """Mean round trip above that of the nearest place where the study could build a small site; None where nothing goes away."""
    usd_per_year: float
    """Transit of a large site, or egress of a cloud."""
    unserved_share: float
    """Of the requests: no large site and no rented chip may take them."""


def held_by(study: Study) -> tuple[Held, ...]:
    """Each model that the study asks for (fine-tuning apart) and the two for scale, in each size class."""
    asked = [(w.id, w) for w in study.workloads if w.kind != "finetune"]
    found: dict[tuple[str, str, str], Held] = {}
    for id, work in (*asked, *(("", w) for w in references(study))):
        for size in study.sizes:
            found[id, work.model, size.id] = _held(id, work, size)
    return tuple(found.values())


def references(study: Study) -> tuple[Workload, ...]:
    """Work as the study's largest interactive one, of the largest model of the catalogue and of the largest that one of the size classes holds."""
    live = [w for w in study.workloads if w.kind == "interactive"]
    if not live:
        return ()
    like = max(live, key=lambda w: w.tokens_per_day)
    found: list[Workload] = []
    for model in sorted(_generating(), key=lambda m: -m.params_b):
        work = msgspec.structs.replace(
            like, model=model.id, precision=REFERENCE_PRECISION, accelerator=""
        )
        if not found:
            found.append(work)
        if any(_held("", work, size).held for size in study.sizes):
            return tuple(dict.fromkeys((*found, work)))
    return tuple(found)


def _generating() -> list[AiModel]:
    return [m for m in ai_models().values() if m.kind in ("dense", "moe")]


def _held(id: str, work: Workload, size: SizeClass) -> Held:
    """The chip that serves it in time, else that holds it, else the one with most memory."""
    chips = (work.accelerator,) if work.accelerator else size.accelerators
    tried = [_on(id, work, size, chip) for chip in chips]
    return max(tried, key=lambda h: (h.in_time, h.held, h.replica_gb))


def _on(id: str, work: Workload, size: SizeClass, chip: str) -> Held:
    facts, model = accelerator_named(chip), ai_model_named(work.model)
    rated_kw, memory_gb = chip_rated_w(facts.id) / 1000.0, facts.memory_gb or 0.0
    room = int(size.it_kw / rated_kw + 1e-9) if rated_kw > 0.0 else COUNTS[-1]
    count = max((n for n in COUNTS if n <= room), default=0)
    weights_gb = weight_bytes(work.precision) * model.params_b
    held = _fits(work, chip, count)
    in_time, late = held, ""
    if held:
        try:
            in_time = fit_of(work, chip).rated_w / 1000.0 <= size.it_kw
        except ConfigError as error:
            in_time, late = False, str(error.got)
    said = f"{weights_gb:,.0f} GB of weights, {count * memory_gb:,.0f} GB in {count} x {facts.id}"
    if not held and count and count * memory_gb > weights_gb:
        said += ", of which the engine keeps a part for itself and the context of one request finds no room"
    if not held and count and count * memory_gb <= weights_gb:
        servers = int(np.ceil(weights_gb / (count * memory_gb)))
        said += f": {servers} such servers at least, joined, which the planner does not size"
    if held and not in_time:
        said += f": held, but not within the SLO ({late or 'too little power for a replica that meets it'})"
    return Held(
        workload=id,
        model=model.id,
        precision=work.precision,
        weights_gb=weights_gb,
        size=size.id,
        chip=facts.id,
        replica_gb=count * memory_gb,
        site_gb=room * memory_gb,
        held=held,
        in_time=in_time,
        why=said,
    )


def _fits(work: Workload, chip: str, count: int) -> bool:
    """Weights and the context of one request."""
    if count == 0:
        return False
    try:
        step = step_model(
            ai_model_named(work.model),
            work.precision,
            accelerator_named(chip),
            count=count,
            slots=1,
        )
        running_of(step, 1.0, work.tokens_in, work.tokens_out)
    except ConfigError:
        return False
    return True


class _Asked(NamedTuple):
    """Demand by row, as it travels."""

    requests: Floats
    """[row] a day."""
    gb: Floats
    """[row] a day."""
    nearest_ms: Floats
    """[row] round trip to the nearest city where the study could build: what a small site next door would take."""


class _Ways(NamedTuple):
    """Where rows go when no small site holds their model."""

    own: Floats
    """[row] share at the design's large sites."""
    rented: Floats
    """[row] share at rented chips."""
    ms: Floats
    """[row] mean round trip there."""


def away_of(
    design: Design, study: Study, demand: Demand, held: Sequence[Held], x: Values
) -> tuple[Away, ...]:
    """Each work of a design, and each model for scale as if all interactive work asked for it."""
    small = {p.size.id for p in design.places if p.size.kind != "region"}
    asked, usd_per_gb = _asked(study, demand), _usd_per_gb(x)

    def one(work: str, model: str, rows: NDArray[np.bool_], reference: bool) -> Away:
        mine = [h for h in held if h.workload == ("" if reference else work) and h.model == model]
        at = tuple(h.size for h in mine if h.in_time and h.size in small)
        found = _away(asked, _ways(design, reference), rows, at, usd_per_gb)
        return msgspec.structs.replace(found, work=work, model=model, reference=reference)

    kinds = np.array([study.workloads[r.workload].kind for r in demand.rows])
    works = [(w, work) for w, work in enumerate(study.workloads) if work.kind != "finetune"]
    return (
        *(one(k.id, ai_model_named(k.model).id, demand.workload == w, False) for w, k in works),
        *(one(ALL, k.model, kinds == "interactive", True) for k in references(study)),
    )


def _away(
    asked: _Asked, ways: _Ways, rows: NDArray[np.bool_], at: tuple[str, ...], usd_per_gb: Floats
) -> Away:
    """The flows of some rows; none where a small site holds their model."""
    requests, gb = asked.requests * rows, asked.gb * rows
    total = max(float(requests.sum()), 1e-12)
    goes = 0.0 if at else 1.0
    gone = goes * (ways.own + ways.rented)
    away = float((requests * gone).sum())
    added_ms = np.maximum(ways.ms - asked.nearest_ms, 0.0)
    usd = gb * goes * (ways.own * usd_per_gb[0] + ways.rented * usd_per_gb[1])
    lost = goes * np.maximum(1.0 - ways.own - ways.rented, 0.0)
    return Away(
        work="",
        model="",
        reference=False,
        held_by=at,
        share=away / total,
        requests_per_day=away,
        gb_per_day=float((gb * gone).sum()),
        added_ms=float((requests * gone * added_ms).sum()) / away if away > 0.0 else None,
        usd_per_year=float(usd.sum()) * DAYS_PER_YEAR,
        unserved_share=float((requests * lost).sum()) / total,
    )


def _asked(study: Study, demand: Demand) -> _Asked:
    works = [study.workloads[r.workload] for r in demand.rows]
    tokens = demand.tokens_per_s * SECONDS_PER_DAY
    places = [city(c.city, iso2=c.country or "") for c in study.candidates or study.cities]
    return _Asked(
        requests=tokens / np.array([w.tokens_in + w.tokens_out for w in works]),
        gb=np.array(
            [float(traffic_gb(study, r.workload, t)) for r, t in zip(demand.rows, tokens, strict=True)]
        ),
        nearest_ms=round_trips_ms(demand.places, places).min(axis=1)[demand.city],
    )  # fmt: skip


def _usd_per_gb(x: Values) -> Floats:
    """Of a large site's transit and of a cloud's egress."""
    names = ("region_transit_usd_per_gb", "cloud_egress_usd_per_gb")
    return np.array([float(np.median(x[name])) for name in names])


def _ways(design: Design, reference: bool) -> _Ways:
    """As the design has it; for scale, to the nearest large site that may take the row, else to rented chips."""
    large = np.array([p.size.kind == "region" for p in design.places], bool)
    rtt_ms = design.rtt_ms[:, large]
    if not reference:
        share = design.share[:, large]
        own, rented = share.sum(axis=1), design.rented
        way_ms = (share * rtt_ms).sum(axis=1) + rented * design.cloud_rtt_ms
        return _Ways(own=own, rented=rented, ms=way_ms / np.maximum(own + rented, 1e-12))
    best_ms = np.where(design.may[:, large], rtt_ms, np.inf).min(axis=1, initial=np.inf)
    may = np.isfinite(best_ms)
    return _Ways(
        own=may.astype(np.float64),
        rented=(~may & design.cloud_may).astype(np.float64),
        ms=np.where(may, best_ms, design.cloud_rtt_ms),
    )

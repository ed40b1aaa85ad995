"""Ways to run a replica of a service in a pool: variants by chips, with what each serves and draws; the dominated left out.

Here: `offers_of`. Not here: what a replica serves within its promise (`serving.within_slo`), pools and sites (`place_problem`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

import numpy as np
from msgspec.structs import replace

from hanse.catalogue import Accelerator, accelerator, ai_model
from hanse.dispatch.place_values import PlaceOffer
from hanse.model.fleet import Fleet, Placement, Pool, Service, Variant
from hanse.model.workloads import any_chips
from hanse.serving.within_slo import Rated, rated, rated_at, rated_late
from hanse.signals.outlook import DemandOutlook
from hanse.units import hours_from_s

COUNTS: Final = (1, 2, 4, 8)
"""Chips of one replica: inside one server, where tensor parallelism has fast links."""
NODE_CHIPS: Final = 8
"""Of one server: HGX and OAM boards have eight; a smaller pool is one server."""
WAY_SHARE: Final = 0.25
"""Of the promised time to first token, kept for the way between user and engine: 4,000 km in a second's promise take 60 ms, and a
promise that leaves less is checked pair by pair."""
TOKENS_STEP: Final = 1.25
"""Means of tokens are taken to the next of a geometric row, so that a day of outlooks asks for few replicas anew; times change by
less than the step model's own error."""
RENT_YEARS: Final = 4.0
"""Over which a chip's price is spread: hours of loading are hours of chips that serve nobody."""
PRICE_USD_PER_TDP_W: Final = 30.0
"""Where no price is published: 10 to 45 USD per rated watt of the catalogue's chips."""
CONTEXT_TIMES: Final = 4.0
"""Tokens that a slot holds, over the mean request's; what is longer is refused there."""
CONTEXT_SLOT: Final = 2048
"""And at least so many, where no `[[placement]]` of the service says how many: its own default. A slot holds no longer request than that."""
HOURS_PER_YEAR: Final = 8766.0


class Work(NamedTuple):
    """A service's mean request."""

    tokens_in: float
    tokens_out: float


class Power(NamedTuple):
    """What a chip's hour costs at a site."""

    usd_per_kwh: float
    """With PUE and carbon."""
    empty_w: float
    """A chip with no model loaded."""


def stepped(tokens: float) -> float:
    """The next of the geometric row from 16."""
    at = 16.0
    while at < tokens:
        at *= TOKENS_STEP
    return at


def work_of(service: Service, fleet: Fleet, demand: DemandOutlook, mean: Work) -> float:
    """A request of some demand over the service's mean request: by what a replica serves of each.

    Of the first replica in the fleet that can be told; else by tokens, of which an answer's takes about four of a prompt's.
    """
    tokens_in = stepped(demand.input_tokens * (1.0 - demand.cached_share))
    own = Work(tokens_in, stepped(demand.output_tokens))
    if own == mean:
        return 1.0
    for chip in dict.fromkeys(p.accelerator for s in fleet.sites for p in s.pools):
        for chips in COUNTS:
            for variant in service.variants:
                one = _rated(service, variant, accelerator(chip), chips, own)
                other = _rated(service, variant, accelerator(chip), chips, mean)
                if one is not None and other is not None:
                    return other.requests_per_s / one.requests_per_s
    return (own.tokens_in + 4.0 * own.tokens_out) / (mean.tokens_in + 4.0 * mean.tokens_out)


class Here(NamedTuple):
    """A pool, and what one service has in it now."""

    number: int
    """Of all pools."""
    site: int
    pool: Pool
    chip: Accelerator
    power: Power
    placed: tuple[tuple[Placement, int], ...]
    """With the chips of one replica of each."""
    slot_tokens: dict[str, int]
    """By service: what a slot is to hold at least."""
    fixed: bool
    """Driver `external`, or a site that can be told nothing: what runs there stays as it is, and nothing comes."""


def offers_of(
    q: int, service: Service, here: Here, work: Work, *, late: bool = False
) -> list[PlaceOffer]:
    """Offers of one service in one pool. What runs there is one of them also where it keeps no promise: users whose answers come late are
    better off than users who are sent away. `late`: so are others, since nothing in the fleet is in time.
    """
    found: list[PlaceOffer] = []
    counts = {c for c in COUNTS if c <= min(here.pool.count, NODE_CHIPS)}
    if here.pool.kubernetes is not None and not any_chips(here.pool.kubernetes):
        counts = {here.pool.kubernetes.chips}
    for variant in service.variants:
        mine = [(p, chips) for p, chips in here.placed if p.variant == variant.id]
        if here.fixed:
            found += [o for p, c in mine if (o := _standing(q, service, variant, here, p, c, work))]
            continue
        # A replica that runs may have a number of chips of its own.
        for chips in sorted(counts | {c for _, c in mine}):
            runs = sum(p.replicas for p, c in mine if c == chips)
            said = _rated(service, variant, here.chip, chips, work)
            is_late = said is None
            if is_late and (runs or late):
                said = _rated(service, variant, here.chip, chips, work, rated_late)
            if said is not None:
                one = _sized(q, service, variant, here, chips, said, work)
                found.append(replace(one, replicas=runs, late=is_late))
    return _undominated(found)


def _sized(
    q: int, service: Service, variant: Variant, here: Here, chips: int, said: Rated, work: Work
) -> PlaceOffer:
    """With tokens for its slots: no more than its model reads at once and than fits. An engine that we start splits them, so it has fewer slots
    rather than such that a usual prompt is too long for.
    """
    reads = float(ai_model(variant.model).context or np.inf)
    least = min(float(here.slot_tokens.get(service.id, CONTEXT_SLOT)), reads)
    if here.pool.driver == "process" and said.slots * least > said.kv_tokens_max:
        fewer = max(1, int(said.kv_tokens_max // least))
        model, precision = variant.model, variant.precision
        said = rated_at(model, precision, here.chip.id, chips, *work, fewer) or said
    each = min(max(CONTEXT_TIMES * sum(work), least), reads)
    context = int(min(said.kv_tokens_max, said.slots * each))
    return replace(_offer(q, variant, here, chips, said), context_tokens=context)


def _standing(
    q: int,
    service: Service,
    variant: Variant,
    here: Here,
    placed: Placement,
    chips: int,
    work: Work,
) -> PlaceOffer | None:
    """What cannot be changed, with the slots that it has; None where nobody can tell what it serves."""
    model, precision = variant.model, variant.precision
    said = rated_at(model, precision, here.chip.id, chips, *work, placed.slots)
    if said is None:
        return None
    slo = service.slo
    return replace(
        _offer(q, variant, here, chips, said),
        slots=placed.slots,
        context_tokens=placed.context_tokens,
        replicas=placed.replicas,
        fixed=True,
        placed=placed,
        late=said.ttft_ms_p95 > slo.ttft_ms or said.tpot_ms_p95 > slo.tpot_ms,
    )


def _rated(
    service: Service,
    variant: Variant,
    chip: Accelerator,
    chips: int,
    work: Work,
    by: Callable[..., Rated | None] = rated,
) -> Rated | None:
    return by(
        variant.model,
        variant.precision,
        chip.id,
        chips,
        work.tokens_in,
        work.tokens_out,
        service.slo.ttft_ms * (1.0 - WAY_SHARE),
        service.slo.tpot_ms,
    )


def _offer(q: int, variant: Variant, here: Here, chips: int, said: Rated) -> PlaceOffer:
    chip, power = here.chip, here.power
    price = chip.price_usd or PRICE_USD_PER_TDP_W * (chip.tdp_w or 0.0)
    hours = hours_from_s(said.start_s)
    kw = max(said.idle_w, chips * power.empty_w) / 1000.0
    start_usd = hours * (kw * power.usd_per_kwh + chips * price / (RENT_YEARS * HOURS_PER_YEAR))
    return PlaceOffer(
        service=q,
        variant=variant.id,
        pool=here.number,
        quality=variant.quality,
        chips=chips,
        memory_gb=said.weights_gb,
        slots=said.slots,
        context_tokens=int(said.kv_tokens_max),
        requests_per_s=said.requests_per_s,
        ttft_ms_p95=said.ttft_ms_p95,
        e2e_s=said.e2e_s,
        loaded_w=max(said.idle_w - chips * power.empty_w, 0.0),
        wh_per_request=said.wh_per_request,
        start_usd=start_usd,
        start_s=said.start_s,
    )


def _undominated(offers: list[PlaceOffer]) -> list[PlaceOffer]:
    """Without those that another does all of, for no more chips, power and time; what runs now stays."""

    def beats(a: PlaceOffer, b: PlaceOffer) -> bool:
        times = b.chips // a.chips if b.chips % a.chips == 0 else 0
        rate = times * a.requests_per_s
        return (
            times >= 1
            and a.quality >= b.quality
            and a.late <= b.late
            and rate >= b.requests_per_s
            and a.ttft_ms_p95 <= b.ttft_ms_p95
            and a.e2e_s <= b.e2e_s
            and a.wh_per_request <= b.wh_per_request
            and times * a.loaded_w <= b.loaded_w + 1e-9
            and times * a.start_usd <= b.start_usd + 1e-12
            and times * a.memory_gb <= b.memory_gb + 1e-9
        )

    kept: list[PlaceOffer] = []
    for i, b in enumerate(offers):
        others = (a for j, a in enumerate(offers) if j != i and beats(a, b))
        # Of two that beat each other the first stays.
        worse = any(not beats(b, a) or offers.index(a) < i for a in others)
        if b.replicas or b.fixed or not worse:
            kept.append(b)
    return kept

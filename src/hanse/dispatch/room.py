"""Room that replicas have to spare, as pools of a schedule: where requests that may wait can run, how many, how fast.

Here: how much of a replica is spare (`SPARE_SHARE`), how much of it people are expected to use (`busy_shares`), what a request that waits
takes of it (`with_rooms`), and what such jobs ask of a placement (`asked_for`). Not here: who gives way at an engine (the gateway),
the schedule (`defer`).

A replica of k chips and s slots has k chips; while people use a share u of its slots, k (SPARE_SHARE - u) of them are spare. With
SPARE_SHARE of its slots in use it answers r requests a second, so one request takes k SPARE_SHARE / r chip seconds, or, where it was
seen to take e seconds, k e / s.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final

from msgspec.structs import replace

from hanse.dispatch.belief import Belief, engines_of
from hanse.dispatch.place_offers import stepped
from hanse.energy.plant import chip_rated_w, empty_w, host_w
from hanse.model.fleet import Id, Service, Value, Variant
from hanse.model.job import Job
from hanse.serving.running import pace_at
from hanse.signals.clock import Clock
from hanse.signals.outlook import DemandOutlook, Outlook

SPARE_SHARE: Final = 0.75
"""Of an offer's slots that work which may wait brings it to: the last quarter is free when somebody comes, as hedges stop at four fifths."""
ID_MAX: Final = 63
"""Characters of an id."""
FEW_RPS: Final = 1e-6
"""Weight of demand that is expected to be none."""

Shares = Mapping[tuple[str, str], float]
"""(service, site) -> share of a service's demand that is served there."""


class Room(Value, frozen=True, kw_only=True):
    """Replicas of one offer in one pool."""

    site: Id
    pool: Id
    """The room's own name in a schedule."""
    chip: str
    service: Id
    variant: Id
    replicas: int
    chips: int
    """Of one replica."""
    slots: int

    @property
    def key(self) -> str:
        """Under which a job says what it takes there (`Job.chip_s`)."""
        return f"{self.site}/{self.pool}"

    @property
    def requests(self) -> float:
        """Of work that waits, in one replica at once."""
        return max(1.0, math.floor(SPARE_SHARE * self.slots))

    @property
    def chip_kw_idle(self) -> float:
        """IT power of a chip with nothing to do."""
        idle_w = empty_w(self.chip) + host_w(self.chip)
        return min(chip_rated_w(self.chip), idle_w) / 1000.0

    @property
    def chip_kw_full(self) -> float:
        """The same at work."""
        return chip_rated_w(self.chip) / 1000.0


def rooms_of(belief: Belief) -> tuple[Room, ...]:
    """All replicas that are placed, site by site."""
    found: list[Room] = []
    for site in belief.fleet.sites:
        chips = {pool.id: pool.accelerator for pool in site.pools}
        names: set[str] = set(chips)
        counts: dict[tuple[str, str, str, int, int], int] = {}
        for engine in engines_of(belief.fleet, belief.placements, site.id):
            kind = engine.pool, engine.service, engine.variant, engine.chips, engine.slots
            counts[kind] = counts.get(kind, 0) + 1
        for (pool, service, variant, each, slots), replicas in sorted(counts.items()):
            name = f"{pool}-{service}-{variant}"
            if len(name) > ID_MAX or name in names:
                name = f"room-{len(found)}"
            names.add(name)
            found.append(
                Room(
                    site=site.id,
                    pool=name,
                    chip=chips[pool],
                    service=service,
                    variant=variant,
                    replicas=replicas,
                    chips=each,
                    slots=slots,
                )
            )
    return tuple(found)


# --- people


def busy_shares(
    belief: Belief, outlook: Outlook, rooms: Sequence[Room], served: Shares
) -> dict[str, tuple[float, ...]]:
    """Room -> [step of the outlook] share of its slots that people are expected to use, 0 to 1.

    Args:
        served: Where a placement expects demand; a service that is not in it is spread over its replicas by slots.
    """
    found: dict[str, tuple[float, ...]] = {}
    for service in belief.fleet.services:
        mine = [room for room in rooms if room.service == service.id]
        demand = [d for d in outlook.demand if d.service == service.id]
        rates = [sum(d.requests_per_s[t] for d in demand) for t in range(outlook.count)]
        tokens = _mean_tokens(demand)
        slots = dict.fromkeys(dict.fromkeys(room.site for room in mine), 0.0)
        for room in mine:
            slots[room.site] += float(room.slots * room.replicas)
        known = sum(served.get((service.id, site), 0.0) for site in slots)
        for room in mine:
            share = slots[room.site] / sum(slots.values())
            if known > 0.0:
                share = served.get((service.id, room.site), 0.0) / known
            e2e_s = _e2e_s(service, room, *tokens)
            each = share * e2e_s / slots[room.site]
            found[room.key] = tuple(min(1.0, rate * each) for rate in rates)
    return found


def _mean_tokens(demand: Sequence[DemandOutlook]) -> tuple[float, float]:
    """Of a request, to the next step of a geometric row: asked anew every few minutes, models answer from memory."""
    weights = [max(sum(d.requests_per_s), FEW_RPS) for d in demand]
    total = sum(weights)
    if not demand:
        return stepped(1.0), stepped(1.0)
    pairs = list(zip(weights, demand, strict=True))
    tokens_in = sum(w * d.input_tokens * (1.0 - d.cached_share) for w, d in pairs) / total
    tokens_out = sum(w * d.output_tokens for w, d in pairs) / total
    return stepped(tokens_in), stepped(tokens_out)


def _e2e_s(service: Service, room: Room, tokens_in: float, tokens_out: float) -> float:
    """Of people's requests in a replica that is half full; the promise's deadline where no model tells."""
    variant = _variant(service, room)
    half = max(1.0, room.slots / 2.0)
    going = pace_at(
        variant.model, variant.precision, room.chip, room.chips, half, tokens_in, tokens_out
    )
    return service.slo.deadline_s if going is None else going.e2e_s


def _variant(service: Service, room: Room) -> Variant:
    return next(v for v in service.variants if v.id == room.variant)


# --- work that may wait


def with_rooms(belief: Belief, job: Job, rooms: Sequence[Room]) -> Job:
    """A job of requests with what is left of it in every room of its service; any other job as it is."""
    service = next((s for s in belief.fleet.services if s.id == job.service), None)
    if service is None:
        return job
    quality = next((c.quality_min for c in belief.fleet.classes if c.id == job.data_class), 0.0)
    mine = [
        (room, variant)
        for room in rooms
        if room.service == service.id and (variant := _variant(service, room)).quality >= quality
    ]
    each = _request_chip_s(job, mine)
    useful = [room for room, _ in mine if room.key in each]
    chips = float(sum(room.chips * room.replicas for room in useful))
    # No more at once than a home sends, to whichever takes most chips for a line.
    a_line = max((room.chips / room.slots for room in useful), default=0.0)
    chips = min(chips, max(belief.fleet.batch.lines_at_once_max * a_line, 1.0))
    return replace(
        job,
        chip_s={key: job.requests * chip_s for key, chip_s in each.items()},
        chips_max=max(1, math.ceil(chips)),
    )


def _request_chip_s(job: Job, mine: Sequence[tuple[Room, Variant]]) -> dict[str, float]:
    """Room -> chip seconds of one request: as seen there, else as predicted, times what was seen elsewhere over what was predicted there.

    Without that a site that nobody has tried would look better or worse than all others by the model's error.
    """
    predicted, seen = {}, {}
    for room, variant in mine:
        going = pace_at(
            variant.model,
            variant.precision,
            room.chip,
            room.chips,
            room.requests,
            stepped(job.input_tokens),
            stepped(job.output_tokens),
        )
        if going is not None:
            predicted[room.key] = room.chips * SPARE_SHARE / going.requests_per_s
        if room.site in job.request_s:
            seen[room.key] = room.chips * job.request_s[room.site] / room.slots
    both = [math.log(seen[key] / predicted[key]) for key in seen if key in predicted]
    off = math.exp(sum(both) / len(both)) if both else 1.0
    return {key: off * chip_s for key, chip_s in predicted.items()} | seen


def by_clock(job: Job, clock: Clock) -> Job:
    """A job whose instants and seconds are a played clock's."""
    if clock.speed == 1.0:
        return job
    return replace(
        job,
        submitted_at_s=clock.played_s(job.submitted_at_s),
        deadline_at_s=clock.played_s(job.deadline_at_s),
        chip_s={name: clock.speed * s for name, s in job.chip_s.items()},
        checkpoint_every_s=clock.speed * job.checkpoint_every_s,
        restart_s=clock.speed * job.restart_s,
    )


def asked_for(
    jobs: Sequence[Job], outlook: Outlook, late: frozenset[str], now_s: float
) -> tuple[DemandOutlook, ...]:
    """Demand to place replicas for: of jobs whose service nobody else asks for, and of those that a schedule finds no room for in time.

    Spread evenly over the time that is left. Others need no replica of their own: they run in what people leave.
    """
    asked = {d.service for d in outlook.demand}
    found = []
    for job in jobs:
        if job.service is None or job.requests <= 0.0:
            continue
        if job.service in asked and job.id not in late:
            continue
        rate = job.requests / max(job.deadline_at_s - now_s, 1.0)
        found.append(
            DemandOutlook(
                service=job.service,
                tenant=job.tenant,
                data_class=job.data_class,
                country=job.country,
                origin=job.home,
                requests_per_s=(rate,) * outlook.count,
                requests_per_s_high=(rate,) * outlook.count,
                input_tokens=job.input_tokens,
                output_tokens=job.output_tokens,
                waits=True,
            )
        )
    return tuple(found)

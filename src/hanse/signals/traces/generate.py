"""Making requests from a spec: the same seed gives the same bytes, however they are cut; memory flat in the trace's length.

Here: slabs of time, each with random numbers of its own; what is asked in a conversation (`_Conversations`) and the
requests of later slabs that earlier conversations still owe. Not here: when they begin (`demand`), what a spec may say
(`spec`).

Beginnings are Poisson in each step and place with the mean of `Demand` times the factor of bursts (a Cox process; Cox,
J. R. Stat. Soc. B 17(2), 1955), evenly spread within the step. Times are whole multiples of 2^-20 s, which is exact in
binary: sorting needs no floats, and files get smaller.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from functools import cache
from statistics import NormalDist
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from hanse.errors import ConfigError
from hanse.signals.traces.demand import Demand, burst_factors
from hanse.signals.traces.draws import Draws
from hanse.signals.traces.spec import Histogram, Lognormal, ServiceShare, TraceSpec
from hanse.signals.traces.trace import (
    NO_BLOCKS,
    REQUEST_DTYPE,
    Blocks,
    Chunk,
    Requests,
    Trace,
    TraceMeta,
    pack,
)
from hanse.signals.traces.wheel import Wheel

Ints = NDArray[np.int64]
TICKS_PER_S: Final = 1 << 20
STEP_S_MAX: Final = 60.0
"""Demand is constant for at most a minute; the day's shape changes by under 1 % in that."""
SLAB_REQUESTS: Final = 32_768
"""Expected requests drawn at once: enough that numpy's calls cost nothing, few enough for the cache."""
SLAB_STEPS_MAX: Final = 4096
WARM_SPANS: Final = 3.0
"""A trace begins this many mean conversations early: 95 % of those running at its start are then there."""
WARM_S_MAX: Final = 86_400.0
QUANTILES: Final = 65_536
SLAB_STREAM: Final = 2
PILOT_STREAM: Final = 3
PILOT_CONVERSATIONS: Final = 65_536


def generate(spec: TraceSpec) -> Trace:
    """The trace that a spec describes; every reading makes it anew.

    Raises:
        ConfigError: where an origin is no known city, or no tenant may send from one.
    """
    maker = _Maker(spec)
    meta = TraceMeta(
        name=spec.name,
        source=f"{spec.source}, seed {spec.seed}",
        licence=spec.licence,
        services=tuple(s.id for s in spec.services),
        classes=tuple(c.id for c in spec.classes),
        origins=maker.demand.origins,
        tenants=tuple(t.id for t in spec.tenants),
        block_tokens=spec.block_tokens,
        duration_s=maker.demand.duration_s,
        start_at_s=maker.demand.start_s,
        note=spec.note,
    )
    return Trace(meta, maker.pieces)


class _Maker:
    """Steps, slabs and what one slab leaves to the next."""

    def __init__(self, spec: TraceSpec) -> None:
        self.spec = spec
        self.demand = Demand(spec)
        self.talk = _Conversations(spec)
        self.who = _Who(spec, [o.country for o in self.demand.origins])
        shares = self.who.service_shares(self.demand.shares)
        turns_mean = float(shares @ [self.talk.turns_mean(i) for i in range(len(spec.services))])
        self.beginnings_per_s = spec.requests_per_s / turns_mean
        self._lay_out()

    def _lay_out(self) -> None:
        """Length of a step, steps of a slab and of the warm-up: from the spec alone, never from a chunk's size."""
        spec = self.spec
        interval_s = spec.bursts.interval_s if spec.bursts else STEP_S_MAX
        interval_ticks = round(interval_s * TICKS_PER_S)
        per_interval = 1
        while (
            interval_s / per_interval > STEP_S_MAX
            or spec.requests_per_s * interval_s / per_interval * self.demand.peak_factor
            > SLAB_REQUESTS
        ):
            per_interval *= 2
        self.steps_per_interval = per_interval
        self.step_ticks = max(1, -(-interval_ticks // per_interval))
        self.step_s = self.step_ticks / TICKS_PER_S
        per_step = spec.requests_per_s * self.step_s * self.demand.peak_factor
        self.slab_steps = int(np.clip(SLAB_REQUESTS / per_step, 1, SLAB_STEPS_MAX))
        warm_s = min(WARM_S_MAX, WARM_SPANS * self.talk.span_s)
        self.warm_steps = per_interval * -int(-warm_s // (self.step_s * per_interval))
        self.end_tick = round(self.demand.duration_s * TICKS_PER_S)

    def pieces(self) -> Iterator[Chunk]:
        """Slab after slab, sorted: what it begins and what earlier ones owe it."""
        origins = len(self.demand.origins)
        bursts = (
            row
            for factors in burst_factors(self.spec, origins)
            for row in itertools.repeat(factors, self.steps_per_interval)
        )
        wheel, serial = Wheel(), 0
        slab_ticks = self.slab_steps * self.step_ticks
        first_tick = -self.warm_steps * self.step_ticks
        for slab in range(-((first_tick - self.end_tick) // slab_ticks)):
            factors = np.array(list(itertools.islice(bursts, self.slab_steps)))
            begun, started = self._begin(
                slab, slab * self.slab_steps - self.warm_steps, factors, serial
            )
            serial += started
            wheel.add(slab, begun, (_ticks(begun) - first_tick) // slab_ticks)
            due = wheel.take(slab)
            if len(due):
                yield self.talk.finished(_sorted(due))

    def _begin(
        self, slab: int, first: int, factors: NDArray[np.float64], serial: int
    ) -> tuple[Requests, int]:
        """All requests of the conversations that begin in a slab, and how many conversations those are."""
        steps = np.arange(first, first + len(factors))
        mean = self.demand.relative(steps.astype(np.float64) * self.step_s, self.step_s)
        mean *= factors * (self.beginnings_per_s * self.step_s)
        draws = Draws(self.spec.seed, SLAB_STREAM, slab)
        counts = draws.poisson(mean)
        total = int(counts.sum())
        origin = np.repeat(np.tile(np.arange(counts.shape[1]), len(steps)), counts.ravel())
        ticks = np.repeat(steps * self.step_ticks, counts.sum(axis=1))
        ticks += (draws.uniform(total) * self.step_ticks).astype(np.int64)
        requests = self.talk.begun(draws, ticks, origin, self.who, serial)
        # The warm-up's own requests are before the trace, those beyond its end nobody sees.
        at_s = requests["at_s"]
        return requests[(at_s >= 0.0) & (at_s < self.end_tick / TICKS_PER_S)], total


class _Who:
    """Tenant, class and service of a conversation, by the country that it comes from."""

    def __init__(self, spec: TraceSpec, countries: list[str]) -> None:
        self.countries = countries
        services = {s.id: (i, s.weight) for i, s in enumerate(spec.services)}
        classes = {c.id: (i, c.weight) for i, c in enumerate(spec.classes)} or {"": (-1, 1.0)}
        rows, per_origin = [], []
        for country in countries:
            own = []
            tenants = [
                (i, t.weight, t.classes, t.services)
                for i, t in enumerate(spec.tenants)
                if not t.countries or country in t.countries
            ] or [(-1, 1.0, (), ())]
            if spec.tenants and sum(t[1] for t in tenants if t[0] >= 0) <= 0.0:
                allowed = "a tenant with weight that has users in each origin's country"
                raise ConfigError("tenant.countries", got=f"none for {country}", allowed=allowed)
            for tenant, weight, named_classes, named_services in tenants:
                for cls, cls_share in _shares(classes, named_classes):
                    for service, service_share in _shares(services, named_services):
                        own.append((tenant, cls, service, weight * cls_share * service_share))
            per_origin.append(np.array([o[3] for o in own]) / sum(o[3] for o in own))
            rows += [o[:3] for o in own]
        self.tenant, self.cls, self.service = np.array(rows, np.int32).T
        self.share = np.concatenate(per_origin)
        # Origin o owns (o, o + 1]: one sorted array serves all, and one search finds a row.
        self._upto = np.concatenate([np.cumsum(p) + o for o, p in enumerate(per_origin)])
        last = np.cumsum([len(p) for p in per_origin]) - 1
        self._upto[last] = np.arange(1, len(per_origin) + 1)
        self._sizes = [len(p) for p in per_origin]

    def of(self, draws: Draws, origin: Ints) -> Ints:
        """Row of `tenant`, `cls` and `service` for each conversation."""
        where = origin + draws.uniform(len(origin)) * (
            1.0 - 2.0**-40
        )  # stays below the next origin's
        return np.searchsorted(self._upto, where, side="right")

    def service_shares(self, origin_shares: NDArray[np.float64]) -> NDArray[np.float64]:
        """Share of conversations of each service over all origins."""
        weights = np.repeat(origin_shares, self._sizes) * self.share
        return np.bincount(self.service, weights=weights).astype(np.float64)


class _Conversations:
    """Turns, lengths, pauses and prefix blocks of conversations."""

    def __init__(self, spec: TraceSpec) -> None:
        self.spec = spec
        talks = [s.conversation for s in spec.services]
        self._turns = np.array([_turn_table(s) for s in spec.services])
        self._in = np.array([_token_table(s.tokens_in) for s in spec.services])
        self._out = np.array([_token_table(s.tokens_out) for s in spec.services])
        self._think = np.array(
            [_lognormal_table(t.think_s_median, t.think_s_sigma) * TICKS_PER_S for t in talks]
        ).astype(np.int64)
        self._system = np.array([t.system_tokens for t in talks])
        self._context = np.array([t.context_tokens_max for t in talks])
        self._prompts = np.array([t.system_prompts for t in talks])
        self._alone = np.array([t.turns_mean == 1.0 for t in talks])
        size = max(1, spec.block_tokens)
        self._system_blocks = self._system // size
        # Ids of system prompts come first, then each conversation owns a range that its context cannot outgrow.
        shared = self._prompts * self._system_blocks
        self._prompt_at = np.cumsum(shared) - shared
        self._own_at = int(shared.sum())
        self._own_ids = int(self._context.max()) // size + 1
        means = [
            float(t) for t in self._turns.mean(axis=1) * self._think.mean(axis=1) / TICKS_PER_S
        ]
        self.span_s = max(
            [m for m, alone in zip(means, self._alone, strict=True) if not alone], default=0.0
        )

    def turns_mean(self, service: int) -> float:
        """Mean requests of a conversation after the context's limit, counted on a pilot."""
        draws = Draws(self.spec.seed, PILOT_STREAM, service)
        services = np.full(PILOT_CONVERSATIONS, service)
        conversation, *_ = self._turns_of(draws, services)
        return len(conversation) / PILOT_CONVERSATIONS

    def begun(self, draws: Draws, ticks: Ints, origin: Ints, who: _Who, serial: int) -> Requests:
        """Every request of conversations that begin at `ticks`; unsorted, with `finished` still to come.

        Until then `session` is the conversation's number and `block_at` the first id of its system prompt.
        """
        rows = who.of(draws, origin)
        service = who.service[rows]
        of, tokens_in, tokens_out, after, prompt = self._turns_of(draws, service)
        requests = np.zeros(len(of), REQUEST_DTYPE)
        requests["at_s"] = (ticks[of] + after) * (1.0 / TICKS_PER_S)
        requests["service"] = service[of]
        requests["cls"] = who.cls[rows][of]
        requests["origin"] = origin[of]
        requests["tenant"] = who.tenant[rows][of]
        requests["tokens_in"] = tokens_in
        requests["tokens_out"] = tokens_out
        requests["session"] = serial + of
        requests["block_at"] = prompt[of]
        size = self.spec.block_tokens
        requests["block_count"] = tokens_in // size if size else 0
        return requests

    def _turns_of(self, draws: Draws, service: NDArray[Any]) -> tuple[Ints, Ints, Ints, Ints, Ints]:
        """Of each request: conversation, tokens in and out, ticks after its beginning; of each conversation: prompt."""
        first = draws.quarters(len(service))
        turns = self._turns[service, first[:, 0]]
        starts = np.cumsum(turns) - turns
        of = np.repeat(np.arange(len(service)), turns)
        which = service[of]
        quarters = draws.quarters(len(of))
        user, answer = self._in[which, quarters[:, 0]], self._out[which, quarters[:, 1]]
        pause = self._think[which, quarters[:, 2]]
        pause[starts] = 0
        after = np.cumsum(pause)
        after -= np.repeat(after[starts], turns)
        said = np.cumsum(user + answer)
        before = said[starts] - user[starts] - answer[starts]
        total = said - np.repeat(before - self._system[service], turns)
        fits = total <= self._context[which]
        prompt_number = (first[:, 1] + 65_536 * first[:, 2].astype(np.int64)) % self._prompts[
            service
        ]
        prompt = self._prompt_at[service] + prompt_number * self._system_blocks[service]
        return of[fits], (total - answer)[fits], answer[fits], after[fits], prompt

    def finished(self, requests: Requests) -> Chunk:
        """Sorted requests with block ids and sessions as a trace has them."""
        service = requests["service"]
        blocks = self._blocks(requests) if self.spec.block_tokens else NO_BLOCKS
        requests["session"][self._alone[service]] = -1
        return pack(requests, blocks)

    def _blocks(self, requests: Requests) -> Blocks:
        """Two runs of ids a request: its system prompt's full blocks, then its conversation's."""
        counts = requests["block_count"].astype(np.int64)
        shared = np.minimum(counts, self._system_blocks[requests["service"]])
        lengths = np.stack((shared, counts - shared), axis=1).ravel()
        own = self._own_at + requests["session"] * self._own_ids + shared
        begins = np.stack((requests["block_at"], own), axis=1).ravel()
        begins -= np.cumsum(lengths) - lengths
        ids: Blocks = np.repeat(begins, lengths)
        ids += np.arange(len(ids))
        return ids


def _ticks(requests: Requests) -> Ints:
    ticks: Ints = (requests["at_s"] * TICKS_PER_S).astype(np.int64)
    return ticks


def _sorted(requests: Requests) -> Requests:
    """By time; the place in the array decides between equal times."""
    ticks, count = _ticks(requests), len(requests)
    # The place as the low bits: keys differ, so every sorting algorithm gives one order.
    low, bits = int(ticks.min()), count.bit_length()
    assert (int(ticks.max()) - low) << bits < 1 << 62, "a slab is short"
    keys = np.sort(((ticks - low) << bits) | np.arange(count))
    ordered: Requests = requests[keys & ((1 << bits) - 1)]
    return ordered


def _shares(known: dict[str, tuple[int, float]], named: tuple[str, ...]) -> list[tuple[int, float]]:
    chosen = [known[name] for name in named] if named else list(known.values())
    total = sum(weight for _, weight in chosen)
    return [(index, weight / total) for index, weight in chosen if weight > 0.0]


def _middles() -> NDArray[np.float64]:
    return (np.arange(QUANTILES) + 0.5) / QUANTILES


def _lognormal_table(median: float, sigma: float) -> NDArray[np.float64]:
    """Quantiles at the middles of 65,536 equal parts: to 4.3 standard deviations."""
    if sigma == 0.0:
        return np.full(QUANTILES, median)
    return median * np.exp(sigma * _normal_table())


@cache
def _normal_table() -> NDArray[np.float64]:
    normal = NormalDist()
    half = np.array([normal.inv_cdf(p) for p in _middles()[QUANTILES // 2 :]])
    return np.concatenate((-half[::-1], half))


def _token_table(lengths: Lognormal | Histogram) -> Ints:
    table: Ints
    if isinstance(lengths, Lognormal):
        drawn = np.rint(_lognormal_table(lengths.median, lengths.sigma))
        table = np.clip(drawn, lengths.min, lengths.max).astype(np.int64)
        return table
    share = np.array(lengths.share) / sum(lengths.share)
    edges = np.array([*lengths.bin_low, lengths.max], np.float64)
    upto = np.concatenate(([0.0], np.cumsum(share)))
    table = np.floor(np.interp(_middles() * upto[-1], upto, edges)).astype(np.int64)
    return table


def _turn_table(service: ServiceShare) -> Ints:
    """Geometric from 1 with the mean of the spec: P(more) = 1 - 1 / mean."""
    talk = service.conversation
    if talk.turns_mean == 1.0:
        return np.ones(QUANTILES, np.int64)
    turns = 1 + np.floor(np.log1p(-_middles()) / np.log1p(-1.0 / talk.turns_mean))
    table: Ints = np.minimum(turns, talk.turns_max).astype(np.int64)
    return table

"""What the engines of a recorded league really took, as measured steps that predictions can be made of.

Here: `observations` (one a streamed answer, of input logs), `calibrated` (medians by batch and prompt), `write_steps`. Not here: the
table's use (`serving.measured`), the logs' form (`dispatch.journal`).

    TPOT   of b answers at once: the time from first byte to end that an answer was one of b, over the tokens that it wrote in it. An
           engine that reads a prompt makes its answers wait, with one token for each in that step: when who comes is what a twin plays by
           itself, and not a token's time, so such stretches and their tokens are taken out. A stretch with fewer answers has the tokens
           that its own TPOT says. An answer speaks for the b that it was longest among, with the context halfway through it
    first  first byte - begin, of streams that found the engine empty, against the prompt tokens that the engine did not have in its
           cache: a line whose slope is the time of a prompt token. Its height at no tokens is one step without any (what one token of
           a lone answer takes beyond its own prompt-like part) and a fixed time before the engine's first step: gateway, API, tokenizer
    prefill  first - fixed

Medians, since a busy machine errs in one direction and now and then by much; rows of fewer than `COUNT_MIN` answers are left out.
Prompts of a batch are read one after another, so a row of b requests has b times the prefill of one. A size of prompt that was never
seen alone has the time of the line (Theil 1950, Sen 1968: median of slopes). Where prompts were too alike for a line, the fixed time is the
declared one, and other sizes have none.
"""

from __future__ import annotations

import csv
import math
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from itertools import combinations, pairwise
from pathlib import Path
from statistics import median
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hanse.catalogue import accelerator, ai_model
from hanse.dispatch.belief import all_engines
from hanse.dispatch.journal import Ended
from hanse.errors import ConfigError
from hanse.model.fleet import Fleet, Value
from hanse.serving import coefficients
from hanse.twin.recorded import Seen, recorded_requests
from hanse.twin.replay import journal_files

TOKENS_MIN: Final = 4
"""Of an answer: the time of one token, out of fewer, is mostly that of the last packet."""
COUNT_MIN: Final = 3
"""Answers of a row: a median of fewer is one answer's luck."""
SAME_STEP_MS: Final = 2.0
"""First bytes of prompts that were read in one step come so close together."""
MOST_MIN: Final = 0.4
"""Of an answer's time: below, the tokens of its other stretches, by their medians, are too much of it."""
ABOVE_MAX: Final = 0.1
"""Of an answer's time among more than the batch that it speaks for."""
ALONE_MAX: Final = 1.05
"""Mean requests at the engine while a prompt was read, itself included, that still count as one."""
PROMPTS_MIN: Final = 8
"""Lone prompts that a line is drawn through."""
SPREAD_MIN: Final = 1.5
"""Longest over shortest of them: below, a line's height at no tokens is mostly noise."""
PROMPTS_MAX: Final = 400
"""Evenly taken from more: slopes of all pairs grow with the square."""
COLUMNS: Final = (
    "model", "accelerator", "count", "precision", "batch", "input_tokens", "prefill_ms", "tpot_ms", "ttft_ms_fixed",
)  # fmt: skip
"""Of `serving.measured`; power is not measured here, and left out."""


class Kind(NamedTuple):
    """Replicas that are alike."""

    model: str
    accelerator: str
    chips: int
    precision: str
    slots: int


class Beside(NamedTuple):
    """Another request at the engine while an answer was written; ms from that answer's first byte."""

    begin_ms: float
    first_ms: float
    end_ms: float


class Observed(NamedTuple):
    """One streamed answer at its engine."""

    kind: Kind
    context: float
    """Prompt and half of the answer."""
    tokens: int
    """After the first."""
    decode_ms: float
    """From first byte to end; 0: too short to say."""
    beside: tuple[Beside, ...]
    prompt_tokens: int
    """That the engine had to read: not those in its cache."""
    first_ms: float
    """From its begin here to the first byte; 0: not alone, or nothing to read."""


class Step(Value, frozen=True, kw_only=True):
    """One row, and what it rests on."""

    model: str
    accelerator: str
    count: int
    precision: str
    batch: float
    input_tokens: float
    prefill_ms: float
    tpot_ms: float
    ttft_ms_fixed: float
    answers: int
    tpot_ms_quartiles: tuple[float, float]
    prompts: int
    """Seen alone in this size; 0: the line through other sizes."""


class Calibration(Value, frozen=True, kw_only=True):
    """All rows, and what was not enough for one."""

    steps: tuple[Step, ...]
    answers: int
    """Streams seen."""
    left_out: int
    """Answers in groups of fewer than `COUNT_MIN`, or without a time for their prompt."""


def observations(where: Path, fleet: Fleet, *, until_s: float = math.inf) -> list[Observed]:
    """Every streamed answer of every engine, of all logs at a path, that had ended by `until_s`.

    Raises:
        ConfigError: no log.
    """
    at_engine: dict[tuple[str, int], list[Seen]] = {}
    for path in journal_files(where):
        for one in recorded_requests(path):
            if one.ended.engine >= 0 and one.ended.ended_at_s <= until_s:
                at_engine.setdefault((one.site, one.ended.engine), []).append(one)
    specs = {(spec.site, spec.index): spec for spec in all_engines(fleet, fleet.placements)}
    hardware = {(site.id, pool.id): pool.accelerator for site in fleet.sites for pool in site.pools}
    found: list[Observed] = []
    for key, seen in sorted(at_engine.items()):
        spec = specs.get(key)
        if spec is not None and not spec.embedding:
            kind = Kind(
                spec.model, hardware[spec.site, spec.pool], spec.chips, spec.precision, spec.slots
            )
            found += _of_engine(kind, seen)
    return found


def _declared_ms(kind: Kind) -> float:
    return coefficients(
        ai_model(kind.model), kind.precision, accelerator(kind.accelerator), count=kind.chips, slots=kind.slots
    ).ttft_ms_fixed  # fmt: skip


def _of_engine(kind: Kind, seen: Sequence[Seen]) -> list[Observed]:
    running = _Running([(one.ended.began_at_s, one.ended.ended_at_s) for one in seen])
    ended = sorted((one.ended for one in seen), key=lambda e: e.began_at_s)
    begins = [e.began_at_s for e in ended]
    longest_s = max(e.ended_at_s - e.began_at_s for e in ended)
    found = []
    for e in ended:
        if (
            e.outcome != "answered"
            or e.status != 200
            or not e.began_at_s < e.first_byte_at_s < e.ended_at_s
        ):
            continue
        decode_ms = first_ms = 0.0
        beside: tuple[Beside, ...] = ()
        if e.tokens_out >= TOKENS_MIN:
            decode_ms = (e.ended_at_s - e.first_byte_at_s) * 1000.0
            from_s = e.first_byte_at_s - longest_s
            near = ended[bisect_left(begins, from_s) : bisect_left(begins, e.ended_at_s)]
            beside = tuple(_beside(e, other) for other in near if _meets(e, other))
        unread = e.tokens_in - e.cached
        if unread > 0 and running.mean(e.began_at_s, e.first_byte_at_s) <= ALONE_MAX:
            first_ms = (e.first_byte_at_s - e.began_at_s) * 1000.0
        context = e.tokens_in + e.tokens_out / 2.0
        found.append(Observed(kind, context, e.tokens_out - 1, decode_ms, beside, unread, first_ms))
    return found


def _meets(one: Ended, other: Ended) -> bool:
    """Whether another request was at the engine while this answer was written."""
    return (
        other is not one
        and other.began_at_s < one.ended_at_s
        and other.ended_at_s > one.first_byte_at_s
    )


def _beside(one: Ended, other: Ended) -> Beside:
    zero_s = one.first_byte_at_s
    # Of a whole answer nobody saw the first byte, and its begin stands for it.
    first_s = other.first_byte_at_s or other.began_at_s
    ends = (other.began_at_s, first_s, other.ended_at_s)
    return Beside(*((at_s - zero_s) * 1000.0 for at_s in ends))


class _Stretches(NamedTuple):
    """An answer's time while no prompt was read, by how many answers were being written."""

    ms: tuple[float, ...]
    """[batch - 1]."""
    tokens: float
    """Written in it."""

    @property
    def batch(self) -> int:
        """How many it was longest among."""
        return max(range(len(self.ms)), key=self.ms.__getitem__) + 1


def _stretches(one: Observed, fixed_ms: float) -> _Stretches:
    """`fixed_ms` after a request's begin its prompt is begun; until its first byte nothing else comes of the step."""
    end_ms = one.decode_ms
    reading = sorted(
        (max(o.begin_ms + fixed_ms, 0.0), min(o.first_ms, end_ms))
        for o in one.beside
        if o.first_ms > SAME_STEP_MS and o.first_ms > o.begin_ms + fixed_ms
    )
    cuts = {0.0, end_ms}
    cuts.update(x for span in reading for x in span if 0.0 < x < end_ms)
    cuts.update(x for o in one.beside for x in (o.first_ms, o.end_ms) if 0.0 < x < end_ms)
    ms = [0.0] * one.kind.slots
    for begin, end in pairwise(sorted(cuts)):
        middle = 0.5 * (begin + end)
        if not any(a < middle < b for a, b in reading):
            batch = 1 + sum(o.first_ms < middle < o.end_ms for o in one.beside)
            ms[min(batch, one.kind.slots) - 1] += end - begin
    firsts = sorted(end for _, end in reading if end < end_ms)
    steps = sum(b - a > SAME_STEP_MS for a, b in pairwise([-math.inf, *firsts]))
    return _Stretches(tuple(ms), max(one.tokens - steps, 0))


class _Running:
    """How many requests were at an engine, as a function of time."""

    def __init__(self, spans: Iterable[tuple[float, float]]) -> None:
        events = sorted([(a, 1) for a, _ in spans] + [(b, -1) for _, b in spans])
        self._at: NDArray[np.float64] = np.array([at for at, _ in events])
        self._count = np.cumsum([change for _, change in events])
        passed = np.diff(self._at) * self._count[:-1]
        self._area: NDArray[np.float64] = np.concatenate(([0.0], np.cumsum(passed)))

    def mean(self, from_s: float, until_s: float) -> float:
        """Over a stretch of time."""
        return (self._until(until_s) - self._until(from_s)) / (until_s - from_s)

    def _until(self, at_s: float) -> float:
        last = int(np.searchsorted(self._at, at_s, side="right")) - 1
        if last < 0:
            return 0.0
        return float(self._area[last] + (at_s - self._at[last]) * self._count[last])


def calibrated(observed: Sequence[Observed]) -> Calibration:
    """Medians by kind of replica, batch (nearest whole number) and context (nearest power of two).

    Raises:
        ConfigError: not one row has enough answers.
    """
    prompts = {
        kind: _Prompts([o for o in observed if o.kind == kind], _declared_ms(kind))
        for kind in {o.kind for o in observed}
    }
    steps: list[Step] = []
    told = 0
    for kind, prompt in sorted(prompts.items()):
        for (batch, _), group in sorted(_groups(kind, observed, prompt.fixed_ms).items()):
            tokens = median(one.context for one, _ in group)
            prefill_ms, seen = prompt.prefill_ms(tokens)
            if len(group) >= COUNT_MIN and prefill_ms > 0.0:
                told += len(group)
                found = batch, tokens, (prefill_ms, prompt.fixed_ms, seen)
                steps.append(_step(kind, [tpot_ms for _, tpot_ms in group], *found))
    left_out = sum(one.decode_ms > 0.0 for one in observed) - told
    if not steps:
        raise ConfigError(
            "input logs", got=f"{len(observed)} streamed answers, none of {COUNT_MIN} alike with their prompt's time",
            allowed=f"streams of at least {TOKENS_MIN} tokens, some alone at their engine",
            fix="record longer, with streams (`stream: true`)",
        )  # fmt: skip
    return Calibration(steps=tuple(steps), answers=len(observed), left_out=left_out)


def _groups(
    kind: Kind, observed: Sequence[Observed], fixed_ms: float
) -> dict[tuple[int, int], list[tuple[Observed, float]]]:
    """(batch, context as a power of two) -> answers with their ms a token; smaller batches first, since larger ones rest on them."""
    mine = [(o, _stretches(o, fixed_ms)) for o in observed if o.kind == kind and o.decode_ms > 0.0]
    groups: dict[tuple[int, int], list[tuple[Observed, float]]] = {}
    known: dict[int, float] = {}
    for batch in range(1, kind.slots + 1):
        tpots = []
        for one, at in mine:
            tpot_ms = _tpot_ms(at, batch, known) if at.batch == batch else 0.0
            if tpot_ms > 0.0:
                tpots.append(tpot_ms)
                key = batch, round(math.log2(max(one.context, 1.0)))
                groups.setdefault(key, []).append((one, tpot_ms))
        if tpots:
            known[batch] = median(tpots)
    return groups


def _tpot_ms(at: _Stretches, batch: int, known: dict[int, float]) -> float:
    """Of one answer among `batch`; 0: it was too little among so many, or among more, to say."""
    below, own_ms, above_ms = at.ms[: batch - 1], at.ms[batch - 1], sum(at.ms[batch:])
    if own_ms < MOST_MIN * sum(at.ms) or above_ms > ABOVE_MAX * sum(at.ms):
        return 0.0
    tokens = at.tokens
    for number, ms in enumerate(below, start=1):
        if ms > 0.0:
            if number not in known:
                return 0.0
            tokens -= ms / known[number]
    return (own_ms + above_ms) / tokens if tokens >= TOKENS_MIN - 1 else 0.0


def _step(
    kind: Kind, tpots: Sequence[float], batch: int, tokens: float, prompt: tuple[float, float, int]
) -> Step:
    prefill_ms, fixed_ms, seen = prompt
    low, high = np.quantile(tpots, (0.25, 0.75)).tolist()
    return Step(
        model=kind.model,
        accelerator=kind.accelerator,
        count=kind.chips,
        precision=kind.precision,
        batch=float(batch),
        input_tokens=round(tokens, 1),
        prefill_ms=round(prefill_ms * batch, 3),
        tpot_ms=round(median(tpots), 3),
        ttft_ms_fixed=round(fixed_ms, 3),
        answers=len(tpots),
        tpot_ms_quartiles=(round(low, 3), round(high, 3)),
        prompts=seen,
    )


class _Prompts:
    """Times of prompts that were read alone, by their size."""

    def __init__(self, observed: Sequence[Observed], declared_ms: float) -> None:
        alone = [one for one in observed if one.first_ms > 0.0 and one.prompt_tokens > 0]
        self._line = _line([(float(one.prompt_tokens), one.first_ms) for one in alone])
        self.fixed_ms, self.token_ms = declared_ms, 0.0
        if self._line is not None:
            height_ms, self.token_ms = self._line
            step_ms = _lone_tpot_ms(observed) - self.token_ms
            self.fixed_ms = max(height_ms - max(step_ms, 0.0), 0.0)
        sizes: dict[int, list[Observed]] = {}
        for one in alone:
            sizes.setdefault(round(math.log2(one.prompt_tokens)), []).append(one)
        self._sizes = {
            size: (
                median(o.prompt_tokens for o in group),
                max(median(o.first_ms for o in group) - self.fixed_ms, 0.0),
                len(group),
            )
            for size, group in sizes.items()
            if len(group) >= COUNT_MIN
        }

    def prefill_ms(self, tokens: float) -> tuple[float, int]:
        """(ms, how many of that size were seen); 0 ms where nothing can be said."""
        known = self._sizes.get(round(math.log2(max(tokens, 1.0))))
        if self._line is not None:
            height_ms, token_ms = self._line
            return height_ms + token_ms * tokens - self.fixed_ms, known[2] if known else 0
        if known is None:
            return 0.0, 0
        at, prefill_ms, count = known
        return prefill_ms * tokens / at, count


def _lone_tpot_ms(observed: Sequence[Observed]) -> float:
    """Of answers that had their engine to themselves; 0: none had."""
    tpots = [o.decode_ms / o.tokens for o in observed if o.decode_ms > 0.0 and not o.beside]
    return median(tpots) if tpots else 0.0


def _line(points: Sequence[tuple[float, float]]) -> tuple[float, float] | None:
    """(height at 0, slope) that most of the points agree on; None where they are too few, too alike, or fall."""
    points = sorted(points)[:: max(1, len(points) // PROMPTS_MAX)]
    if len(points) < PROMPTS_MIN or points[-1][0] < SPREAD_MIN * points[0][0]:
        return None
    slope = median((b[1] - a[1]) / (b[0] - a[0]) for a, b in combinations(points, 2) if b[0] > a[0])
    height = median(ms - slope * tokens for tokens, ms in points)
    return (height, slope) if slope > 0.0 and height > 0.0 else None


def write_steps(path: Path, steps: Sequence[Step]) -> None:
    """The rows as `serving.measured` reads them."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows([getattr(step, name) for name in COLUMNS] for step in steps)

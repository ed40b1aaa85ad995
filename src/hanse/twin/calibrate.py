"""What the engines of a recorded league really took, as measured steps that predictions can be made of.

Here: `observations` (one a streamed answer, of input logs), `calibrated` (medians by batch and prompt), `write_steps`. Not here: the
table's use (`serving.measured`), the logs' form (`dispatch.journal`).

    TPOT   (end - first byte - reading of others' prompts meanwhile) / (answer tokens - 1) of streams with at least `TOKENS_MIN`
           tokens, against the mean number of requests at the engine meanwhile (at most its slots) and the context halfway through
           the answer. An engine that reads a prompt makes all its answers wait (that is a matter of who comes when, which a twin
           plays by itself, and not of a token's time): the tokens of prompts whose first byte came meanwhile, at the time of one
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
from collections.abc import Iterable, Sequence
from itertools import combinations
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
SAME_STEP_S: Final = 0.002
"""First bytes of prompts that were read in one step come so close together."""
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


class Observed(NamedTuple):
    """One streamed answer at its engine."""

    kind: Kind
    batch: float
    """Mean of requests at the engine from first byte to end, at most its slots."""
    context: float
    """Prompt and half of the answer."""
    tpot_ms: float
    """With others' prompts; 0: too short to say."""
    beside: float
    """Tokens of others' prompts that the engine read meanwhile, for each token of this answer."""
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
    read = _Read([one.ended for one in seen])
    found = []
    for one in seen:
        e = one.ended
        if (
            e.outcome != "answered"
            or e.status != 200
            or not e.began_at_s < e.first_byte_at_s < e.ended_at_s
        ):
            continue
        tpot_ms = first_ms = beside = 0.0
        if e.tokens_out >= TOKENS_MIN:
            tpot_ms = (e.ended_at_s - e.first_byte_at_s) * 1000.0 / (e.tokens_out - 1)
            beside = read.tokens(e.first_byte_at_s + SAME_STEP_S, e.ended_at_s) / (e.tokens_out - 1)
        unread = e.tokens_in - e.cached
        if unread > 0 and running.mean(e.began_at_s, e.first_byte_at_s) <= ALONE_MAX:
            first_ms = (e.first_byte_at_s - e.began_at_s) * 1000.0
        batch = min(running.mean(e.first_byte_at_s, e.ended_at_s), float(kind.slots))
        context = e.tokens_in + e.tokens_out / 2.0
        found.append(Observed(kind, max(batch, 1.0), context, tpot_ms, beside, unread, first_ms))
    return found


class _Read:
    """Prompt tokens that an engine has read, as a function of time."""

    def __init__(self, ended: Iterable[Ended]) -> None:
        # A prompt is read when its first byte comes; of a whole answer nobody saw that, and its begin stands for it.
        reads = sorted(
            (e.first_byte_at_s or e.began_at_s, max(e.tokens_in - e.cached, 0)) for e in ended
        )
        self._at: NDArray[np.float64] = np.array([at for at, _ in reads])
        self._tokens = np.concatenate(([0.0], np.cumsum([tokens for _, tokens in reads])))

    def tokens(self, from_s: float, until_s: float) -> float:
        """In a stretch of time."""
        first, end = np.searchsorted(self._at, (from_s, until_s), side="right")
        return float(self._tokens[end] - self._tokens[first])


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
    groups: dict[tuple[Kind, int, int], list[Observed]] = {}
    for one in observed:
        tpot_ms = one.tpot_ms - one.beside * prompts[one.kind].token_ms
        if one.tpot_ms > 0.0 and tpot_ms > 0.0:
            key = one.kind, round(one.batch), round(math.log2(max(one.context, 1.0)))
            groups.setdefault(key, []).append(one._replace(tpot_ms=tpot_ms))
    steps, left_out = [], 0
    for (kind, _, _), group in sorted(groups.items()):
        tokens = median(one.context for one in group)
        prefill_ms, seen = prompts[kind].prefill_ms(tokens)
        if len(group) < COUNT_MIN or prefill_ms <= 0.0:
            left_out += len(group)
            continue
        steps.append(_step(kind, group, tokens, (prefill_ms, prompts[kind].fixed_ms, seen)))
    if not steps:
        raise ConfigError(
            "input logs", got=f"{len(observed)} streamed answers, none of {COUNT_MIN} alike with their prompt's time",
            allowed=f"streams of at least {TOKENS_MIN} tokens, some alone at their engine",
            fix="record longer, with streams (`stream: true`)",
        )  # fmt: skip
    return Calibration(steps=tuple(steps), answers=len(observed), left_out=left_out)


def _step(
    kind: Kind, group: Sequence[Observed], tokens: float, prompt: tuple[float, float, int]
) -> Step:
    prefill_ms, fixed_ms, seen = prompt
    tpots = [one.tpot_ms for one in group]
    batch = median(one.batch for one in group)
    low, high = np.quantile(tpots, (0.25, 0.75)).tolist()
    return Step(
        model=kind.model,
        accelerator=kind.accelerator,
        count=kind.chips,
        precision=kind.precision,
        batch=round(batch, 2),
        input_tokens=round(tokens, 1),
        prefill_ms=round(prefill_ms * batch, 3),
        tpot_ms=round(median(tpots), 3),
        ttft_ms_fixed=round(fixed_ms, 3),
        answers=len(group),
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
    tpots = [o.tpot_ms for o in observed if o.tpot_ms > 0.0 and o.batch <= ALONE_MAX]
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

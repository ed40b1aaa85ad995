"""Measured steps of a replica, which override the roofline where they reach.

Here: the table's form, reading it, the shipped one, and interpolation. Not here: measuring, the roofline.

A table is a CSV with the columns of `MeasuredStep`. Between its points the ratio of measured to modelled is interpolated,
by inverse squared distance in log2 of requests and log2 of tokens (Shepard, 1968): at a point the measurement itself holds,
between points the roofline gives the shape. Beyond twice the measured range nothing is said.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from statistics import median
from typing import Final

import msgspec

from hanse.catalogue import Accelerator, AiModel, accelerator_named, ai_model_named
from hanse.errors import ConfigError
from hanse.model.fleet import Value
from hanse.serving.precisions import known_precision
from hanse.serving.steady import Pace
from hanse.serving.steps import StepModel, decode_w, step_ms

DATA: Final = Path(__file__).parent / "data"
SHIPPED: Final = ("splitwise",)
REACH: Final = 2.0
"""So many times outside the measured range is still answered."""
ERROR: Final = 0.10
"""Expected relative error between points; leaving out one point of the shipped table gives 2 % (TPOT), 8 % (prompts), 4 % (power)."""
TURNS_MAX: Final = 40
SETTLED: Final = 1e-4
"""Relative; a hundredth of a percent is far below what any measurement knows."""
APART: Final = 1.5
"""Largest over smallest batch: below, what each request takes is not to be seen."""
SHARE_MIN: Final = 1e-6
"""Neither part vanishes wholly, or no ratio would bring it back."""
LONE_MIN: Final = 0.5
"""Of the least time that a request was measured to add: a lone token that the line makes quicker than that is no measurement's word."""
STEP_TIMES: Final = ("weights_ms", "routed_ms", "step_ms_fixed")
REQUEST_TIMES: Final = ("kv_ms_per_token", "request_ms")
PROMPT_TIMES: Final = ("compute_ms_per_token", "attention_ms_per_pair", "comm_ms_per_token")
POWERS: Final = ("decode_w_base", "decode_w_per_log2")
SIXTEEN_BIT: Final = ("bf16", "fp16", "f16")


class MeasuredStep(Value, frozen=True, kw_only=True):
    """One measurement: `batch` requests, started together, of `input_tokens` each."""

    model: str
    accelerator: str
    count: int
    precision: str
    batch: float
    input_tokens: float
    prefill_ms: float
    """Reading all their prompts."""
    tpot_ms: float
    """One token for each of them, at about this context."""
    power_w: float | None = None
    """Mean of all chips meanwhile."""
    ttft_ms_fixed: float | None = None
    """Of a time to first token what comes before any step: gateway, API, tokenizer. None: not measured."""


class MeasuredReplica(Value, frozen=True, kw_only=True):
    """The measurements of one replica."""

    table: str
    points: tuple[MeasuredStep, ...]

    def pace(
        self, step: StepModel, said: Pace, running: float, input_tokens: float, output_tokens: float
    ) -> Pace:
        """What was measured, in the place of what `step` said.

        Raises:
            ConfigError: the load is too far from any measurement.
        """
        self._within_reach(running, input_tokens + output_tokens / 2.0)
        decode, prompt, power = self._ratios(step, running, input_tokens, output_tokens)
        return Pace(
            decode_ms=said.decode_ms * decode,
            prompt_ms=said.prompt_ms * prompt,
            ttft_ms_fixed=self._fixed_ms(said.ttft_ms_fixed),
            decode_w=said.decode_w * power,
            prefill_w=max(said.prefill_w, said.decode_w * power),
        )

    def adjusted(self, step: StepModel) -> StepModel:
        """`step` with times that meet the measurements in the geometric mean, for simulators.

        A step has a part that prompts move and one that answers move, and either kind of measurement has some of both. So each
        part takes the ratio that is left of its own kind, turn by turn, until neither is left. Where batches of different size
        were measured, what a step takes and what each request in it takes are told apart, by least squares of relative errors.
        """
        found = step
        apart = max(p.batch for p in self.points) >= APART * min(p.batch for p in self.points)
        for _ in range(TURNS_MAX):
            if apart:
                once, each = _apart(found, self.points)
                found = _scaled(_scaled(found, STEP_TIMES, once), REQUEST_TIMES, each)
            decode = _mean([_decode_ratio(found, p) for p in self.points])
            found = _scaled(found, (*STEP_TIMES, *REQUEST_TIMES), decode)
            prompt = _mean([_prompt_ratio(found, p) for p in self.points])
            found = _scaled(found, PROMPT_TIMES, prompt)
            if max(abs(math.log(decode)), abs(math.log(prompt))) < SETTLED:
                break
        once_ms = sum(getattr(found, name) for name in STEP_TIMES)
        if apart and once_ms < SHARE_MIN * min(p.tpot_ms for p in self.points):
            found = _steeper(found, self.points) or found
        power = _mean([r for p in self.points if (r := _power_ratio(step, p)) is not None] or [1.0])
        found = _scaled(found, POWERS, power)
        fixed_ms = self._fixed_ms(step.ttft_ms_fixed)
        return msgspec.structs.replace(found, ttft_ms_fixed=fixed_ms)

    def _fixed_ms(self, otherwise: float) -> float:
        measured = [p.ttft_ms_fixed for p in self.points if p.ttft_ms_fixed is not None]
        return median(measured) if measured else otherwise

    def _within_reach(self, running: float, context: float) -> None:
        for name, asked, at in (
            ("batch", running, [p.batch for p in self.points]),
            ("context tokens", context, [p.input_tokens for p in self.points]),
        ):
            low, high = min(at) / REACH, max(at) * REACH
            if not low <= asked <= high:
                raise ConfigError(
                    f"measured table {self.table}",
                    got=f"{name} {asked:g}",
                    allowed=f"{low:g} to {high:g}: twice the measured range",
                    fix="measure there, or predict without the table",
                )

    def _ratios(
        self, step: StepModel, running: float, input_tokens: float, output_tokens: float
    ) -> tuple[float, float, float]:
        context = input_tokens + output_tokens / 2.0
        decode = _shepard(
            [(_place(p), _decode_ratio(step, p)) for p in self.points], running, context
        )
        # A prompt that joins is one prompt: measurements of several at once say the same for each.
        prompts = [(_place(p), _prompt_ratio(step, p)) for p in self.points]
        prompt = _shepard(prompts, 1.0, input_tokens)
        powers = [(_place(p), r) for p in self.points if (r := _power_ratio(step, p)) is not None]
        return decode, prompt, _shepard(powers, running, context) if powers else 1.0


class MeasuredTable(Value, frozen=True, kw_only=True):
    """Measurements of any number of replicas."""

    name: str
    rows: tuple[MeasuredStep, ...]

    def replica(
        self, model: AiModel, precision: str, chip: Accelerator, count: int
    ) -> MeasuredReplica | None:
        """Those of one replica; None where there are none. 16-bit formats are the same to an engine."""
        wanted = _alike(precision)
        points = tuple(
            row
            for row in self.rows
            if row.model == model.id
            and row.accelerator == chip.id
            and row.count == count
            and _alike(row.precision) == wanted
        )
        return MeasuredReplica(table=self.name, points=points) if points else None


def read_table(path: Path) -> MeasuredTable:
    """A table from a file; names of models and chips as people write them.

    Raises:
        ConfigError: unreadable, a column missing, or a value that is none; says the line.
    """
    try:
        with path.open(encoding="utf-8", newline="") as f:
            lines = list(csv.DictReader(f))
    except OSError as error:
        raise ConfigError(str(path), got=error.strerror, allowed="a readable CSV file") from error
    rows = tuple(_row(line, f"{path}:{number}") for number, line in enumerate(lines, start=2))
    if not rows:
        raise ConfigError(str(path), got="no rows", allowed="at least one measured step")
    return MeasuredTable(name=path.stem, rows=rows)


@cache
def shipped(name: str) -> MeasuredTable:
    """A table that comes with the package."""
    if name not in SHIPPED:
        raise ConfigError("--table", got=repr(name), allowed=f"{', '.join(SHIPPED)} or a CSV file")
    return read_table(DATA / f"{name}.csv")


def _row(line: dict[str, str | None], where: str) -> MeasuredStep:
    given = {k: v for k, v in line.items() if v}
    try:
        row = msgspec.convert(given, MeasuredStep, strict=False)
    except msgspec.ValidationError as error:
        columns = ", ".join(MeasuredStep.__struct_fields__)
        raise ConfigError(where, got=str(error), allowed=f"columns {columns}") from error
    if min(row.count, row.batch, row.input_tokens, row.prefill_ms, row.tpot_ms) <= 0:
        raise ConfigError(where, got="a figure that is not positive", allowed="figures above 0")
    if row.ttft_ms_fixed is not None and row.ttft_ms_fixed < 0.0:
        raise ConfigError(where, got=f"ttft_ms_fixed {row.ttft_ms_fixed:g}", allowed="0 or more")
    return msgspec.structs.replace(
        row,
        model=ai_model_named(row.model, where=f"{where} model").id,
        accelerator=accelerator_named(row.accelerator, where=f"{where} accelerator").id,
        precision=known_precision(row.precision, where=f"{where} precision"),
    )


def _alike(precision: str) -> str:
    return "16" if precision in SIXTEEN_BIT else precision


def _decode_ms(step: StepModel, p: MeasuredStep) -> float:
    return step_ms(step, p.batch, 0.0, p.batch, p.batch * p.input_tokens)


def _decode_ratio(step: StepModel, p: MeasuredStep) -> float:
    return p.tpot_ms / _decode_ms(step, p)


def _apart(step: StepModel, points: Sequence[MeasuredStep]) -> tuple[float, float]:
    """Ratios for what a decoding step takes once and for what each of its requests takes; neither negative."""
    rows, rest = [], []
    for p in points:
        whole_ms = step_ms(step, p.batch, 0.0, p.batch, p.batch * p.input_tokens)
        once_ms = whole_ms - step_ms(
            _scaled(step, STEP_TIMES, 0.0), p.batch, 0.0, p.batch, p.batch * p.input_tokens
        )
        each_ms = whole_ms - step_ms(
            _scaled(step, REQUEST_TIMES, 0.0), p.batch, 0.0, p.batch, p.batch * p.input_tokens
        )
        rows.append((once_ms / p.tpot_ms, each_ms / p.tpot_ms))
        rest.append(1.0 - (whole_ms - once_ms - each_ms) / p.tpot_ms)
    found = _two_least_squares(rows, rest)
    return max(found[0], SHARE_MIN), max(found[1], SHARE_MIN)


def _steeper(step: StepModel, points: Sequence[MeasuredStep]) -> StepModel | None:
    """`step` with steps that grow faster than their requests do; None where the measurements do not say so.

    Small batches of a CPU engine do: a lone token multiplies vectors, several a matrix that is too small to gain from it. The line
    through them meets no answer at all below zero, which no step ever has.
    """
    found = _scaled(step, STEP_TIMES, 0.0)
    for _ in range(TURNS_MAX):
        bare = msgspec.structs.replace(found, step_ms_fixed=0.0, request_ms=0.0)
        rows = [(1.0 / p.tpot_ms, p.batch / p.tpot_ms) for p in points]
        line = _line(rows, [1.0 - _decode_ms(bare, p) / p.tpot_ms for p in points])
        if line is None or line[0] > 0.0 or line[1] <= 0.0:
            return None
        found = msgspec.structs.replace(found, step_ms_fixed=line[0], request_ms=line[1])
        prompt = _mean([_prompt_ratio(found, p) for p in points])
        found = _scaled(found, PROMPT_TIMES, prompt)
        if abs(math.log(prompt)) < SETTLED:
            break
    lone_ms = step_ms(found, 1.0, 0.0, 1.0, min(p.input_tokens for p in points))
    return found if lone_ms > LONE_MIN * min(p.tpot_ms / p.batch for p in points) else None


def _line(rows: Sequence[tuple[float, float]], rest: Sequence[float]) -> tuple[float, float] | None:
    """(a, b) of any sign that bring a x + b y nearest to `rest`; None where they cannot be told apart."""
    xx, yy = sum(x * x for x, _ in rows), sum(y * y for _, y in rows)
    xy = sum(x * y for x, y in rows)
    xr = sum(x * r for (x, _), r in zip(rows, rest, strict=True))
    yr = sum(y * r for (_, y), r in zip(rows, rest, strict=True))
    decided = xx * yy - xy * xy
    if decided <= 1e-9 * xx * yy:
        return None
    return (yy * xr - xy * yr) / decided, (xx * yr - xy * xr) / decided


def _two_least_squares(
    rows: Sequence[tuple[float, float]], rest: Sequence[float]
) -> tuple[float, float]:
    """(a, b), neither negative, that bring a x + b y nearest to `rest`."""
    xx, yy = sum(x * x for x, _ in rows), sum(y * y for _, y in rows)
    xy = sum(x * y for x, y in rows)
    xr = sum(x * r for (x, _), r in zip(rows, rest, strict=True))
    yr = sum(y * r for (_, y), r in zip(rows, rest, strict=True))
    only_x, only_y = xr / xx if xx else 0.0, yr / yy if yy else 0.0
    found = _line(rows, rest)
    if found is None:  # they cannot be told apart: both alike
        both = (xr + yr) / (xx + 2.0 * xy + yy) if xx + yy else 1.0
        return max(both, 0.0), max(both, 0.0)
    a, b = found
    if a < 0.0:
        return 0.0, max(only_y, 0.0)
    if b < 0.0:
        return max(only_x, 0.0), 0.0
    return a, b


def _prompt_ratio(step: StepModel, p: MeasuredStep) -> float:
    pairs = p.batch * p.input_tokens * (p.input_tokens + 1.0) / 2.0
    return p.prefill_ms / step_ms(step, p.batch * p.input_tokens, pairs, p.batch, 0.0)


def _power_ratio(step: StepModel, p: MeasuredStep) -> float | None:
    return None if p.power_w is None else p.power_w / decode_w(step, p.batch)


def _place(p: MeasuredStep) -> tuple[float, float]:
    return math.log2(p.batch), math.log2(p.input_tokens)


def _shepard(points: list[tuple[tuple[float, float], float]], batch: float, tokens: float) -> float:
    """Interpolated ratio at a place; logs are averaged, so that half and double cancel."""
    x, y = math.log2(max(batch, 1.0)), math.log2(max(tokens, 1.0))
    weights, sums = 0.0, 0.0
    for (px, py), ratio in points:
        squared = (px - x) ** 2 + (py - y) ** 2
        if squared < 1e-12:
            return ratio
        weights += 1.0 / squared
        sums += math.log(ratio) / squared
    return math.exp(sums / weights)


def _scaled(step: StepModel, names: tuple[str, ...], ratio: float) -> StepModel:
    return msgspec.structs.replace(step, **{name: getattr(step, name) * ratio for name in names})


def _mean(ratios: list[float]) -> float:
    return math.exp(sum(map(math.log, ratios)) / len(ratios))

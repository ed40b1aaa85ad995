"""One question answered: how fast and at what energy a replica serves a steady load, and how far off that may be.

Here: `predict`, which joins a step model, measured tables and expected errors. Not here: formulas (`steady`, `roofline`), files
and output (`cli.predict`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from hanse.catalogue import Accelerator, AiModel
from hanse.errors import ConfigError
from hanse.model.fleet import Value
from hanse.serving.families import runs_llama_cpp
from hanse.serving.linear import Method, expected_errors
from hanse.serving.measured import ERROR, MeasuredReplica, MeasuredTable
from hanse.serving.precisions import arithmetic, known_precision
from hanse.serving.steady import closed_loop, pace_of, running_of
from hanse.serving.steps import step_model
from hanse.serving.thread import THREAD

Basis = Method | Literal["measured, interpolated"]


class Prediction(Value, frozen=True, kw_only=True):
    """A replica in steady state; power, energy and throughput are of all its chips."""

    model: str
    accelerator: str
    count: int
    precision: str
    batch: float
    input_tokens: float
    output_tokens: float
    running: float
    """Requests in the batch; fewer than `batch` where memory holds no more."""
    ttft_ms: float
    tpot_ms: float
    output_tok_s: float
    power_w: float
    j_per_token: float
    expected_error: float
    """Median relative error of TPOT and throughput on measurements that the fit had not seen."""
    ttft_error: float
    power_error: float
    method: Basis
    notes: tuple[str, ...]
    """What a reader should know beside the figures."""


def predict(
    model: AiModel,
    precision: str,
    chip: Accelerator,
    *,
    count: int,
    batch: float,
    input_tokens: float,
    output_tokens: float,
    tables: Sequence[MeasuredTable] = (),
) -> Prediction:
    """The steady state of `batch` requests in flight on `count` chips.

    The first of `tables` that has this replica overrides the roofline.

    Raises:
        ConfigError: it does not fit, a figure is not published, or a table is asked too far from its measurements.
    """
    name = known_precision(precision, where="precision")
    if model.kind == "embedding":
        raise ConfigError(
            f"model {model.id}", got="kind embedding", allowed="a model that generates text"
        )
    slots = max(int(batch), 1)
    context = input_tokens + output_tokens / 2.0
    if count < 1:
        raise ConfigError("count", got=str(count), allowed="at least one chip")
    step = step_model(
        model, name, chip, count=count, slots=slots, context_tokens_mean=max(context, 1.0)
    )
    running = running_of(step, batch, input_tokens, output_tokens)
    pace = pace_of(step, running, input_tokens, output_tokens)
    replica = _first(tables, model, name, chip, count)
    method, ttft_error, tpot_error, power_error = expected_errors(model, name, chip)
    basis: Basis = method
    if replica is not None:
        pace = replica.pace(step, pace, running, input_tokens, output_tokens)
        basis, tpot_error = "measured, interpolated", ERROR
        if any(point.power_w is not None for point in replica.points):
            power_error = ERROR
    said = closed_loop(
        pace, batch=batch, running=running, input_tokens=input_tokens, output_tokens=output_tokens
    )
    return Prediction(
        model=model.id,
        accelerator=chip.id,
        count=count,
        precision=name,
        batch=batch,
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        running=running,
        ttft_ms=said.ttft_ms,
        tpot_ms=said.tpot_ms,
        output_tok_s=said.output_tok_s,
        power_w=said.power_w,
        j_per_token=said.j_per_token,
        expected_error=tpot_error,
        ttft_error=ttft_error,
        power_error=power_error,
        method=basis,
        notes=_notes(model, name, chip, batch, running, context + output_tokens / 2.0),
    )


def _first(
    tables: Sequence[MeasuredTable], model: AiModel, precision: str, chip: Accelerator, count: int
) -> MeasuredReplica | None:
    found = (table.replica(model, precision, chip, count) for table in tables)
    return next((replica for replica in found if replica is not None), None)


def _notes(
    model: AiModel, precision: str, chip: Accelerator, batch: float, running: float, longest: float
) -> tuple[str, ...]:
    notes = []
    if chip.id != THREAD and arithmetic(chip, precision).weight_only:
        notes.append(
            f"{precision} is unpacked to 16 bit before it multiplies: {chip.id} has no such rate"
        )
    if runs_llama_cpp(chip, precision):
        notes.append("llama.cpp is taken as the engine")
    if running < batch:
        notes.append(f"memory holds {running:.0f} requests at once; the others wait")
    if model.context and longest > model.context:
        notes.append(f"longer than the {model.context} tokens that {model.id} was made for")
    if chip.tdp_kind == "measured peak":
        notes.append("power is of the whole machine")
    return tuple(notes)

"""How fast a replica goes with so many requests on it, whatever its promise.

Here: `pace_at`. Not here: how many it should take (`within_slo`).
"""

from __future__ import annotations

from functools import cache

from hanse.catalogue import accelerator, ai_model
from hanse.errors import ConfigError
from hanse.model.fleet import Value
from hanse.serving.open_loop import loaded
from hanse.serving.precisions import known_precision
from hanse.serving.steps import step_model


class Going(Value, frozen=True, kw_only=True):
    """A replica with some requests on it, on the mean."""

    requests_per_s: float
    e2e_s: float


@cache
def pace_at(
    model: str,
    precision: str,
    chip: str,
    chips: int,
    running: float,
    tokens_in: float,
    tokens_out: float,
) -> Going | None:
    """A replica on `chips` chips with `running` requests of such lengths; None where it does not fit."""
    tokens_in, tokens_out = max(tokens_in, 1.0), max(tokens_out, 1.0)
    try:
        step = step_model(
            ai_model(model),
            known_precision(precision),
            accelerator(chip),
            count=chips,
            slots=max(1, round(running)),
            context_tokens_mean=tokens_in + tokens_out / 2.0,
        )
    except ConfigError:
        return None
    said = loaded(step, max(running, 1.0), tokens_in, tokens_out)
    return Going(
        requests_per_s=said.tokens_per_s / (tokens_in + tokens_out),
        e2e_s=said.e2e_s,
    )

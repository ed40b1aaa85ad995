"""How fast a replica goes with so many requests on it, whatever its promise.

Here: `pace_at`. Not here: how many it should take (`within_slo`).
"""

from __future__ import annotations

from functools import cache

from hanse.model.fleet import Value
from hanse.serving.open_loop import loaded
from hanse.serving.within_slo import replica_step


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
    slots = max(1, round(running))
    step = replica_step(model, precision, chip, chips, slots, tokens_in, tokens_out)
    if step is None:
        return None
    said = loaded(step, max(running, 1.0), tokens_in, tokens_out)
    return Going(
        requests_per_s=said.tokens_per_s / (tokens_in + tokens_out),
        e2e_s=said.e2e_s,
    )

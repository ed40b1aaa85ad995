"""The linear form of a replica that a routing table carries: a few coefficients per (model, hardware).

Here: `EngineCoefficients`, taken from `StepModel` between one request decoding and all slots, where it is exact:
TPOT(B) = base + B * per_running. Not here: the step model itself (`steps`).

Energy is dynamic energy of the chips (above idle): idle power belongs to the site, whoever it serves.
"""

from __future__ import annotations

from typing import Literal

from hanse.catalogue import Accelerator, AiModel
from hanse.model.fleet import Value
from hanse.serving.families import promise_of
from hanse.serving.precisions import known_precision
from hanse.serving.shapes import routed_miss
from hanse.serving.steps import CONTEXT_TOKENS_MEAN, decode_ms, decode_w, step_model
from hanse.serving.thread import THREAD, THREAD_MODEL
from hanse.units import wh_from_j

Method = Literal["measured", "roofline, calibrated family", "roofline, not calibrated"]


class EngineCoefficients(Value, frozen=True, kw_only=True):
    """One replica, as the routing table carries it."""

    ttft_ms_fixed: float
    prefill_ms_per_token: float
    tpot_ms_base: float
    tpot_ms_per_running: float
    """TPOT with B requests decoding is base + B * this."""
    prefill_wh_per_token: float
    decode_wh_shared: float
    """Of one decode step, shared by all B that decode."""
    decode_wh_per_token: float
    kv_tokens_max: int
    """Tokens that fit beside the weights; the placement may allow fewer."""
    method: Method
    ttft_error: float
    """Expected relative error (median), like the two below."""
    tpot_error: float
    energy_error: float

    def tpot_ms(self, running: float) -> float:
        """Time per output token with so many requests decoding at once."""
        return self.tpot_ms_base + self.tpot_ms_per_running * running

    def decode_wh(self, running: float) -> float:
        """Energy per output token with so many requests decoding at once."""
        return self.decode_wh_shared / running + self.decode_wh_per_token


def coefficients(
    model: AiModel, precision: str, accelerator: Accelerator, *, count: int, slots: int
) -> EngineCoefficients:
    """Coefficients of a replica on `count` chips that decodes up to `slots` requests at once.

    Raises:
        ConfigError: where a figure is missing that no honest guess replaces, or the weights do not fit.
    """
    step = step_model(model, precision, accelerator, count=count, slots=slots)
    full = max(slots, 2)
    one_ms, full_ms = decode_ms(step, 1), decode_ms(step, full)
    per_running_ms = (full_ms - one_ms) / (full - 1)
    one_j = one_ms / 1000.0 * max(0.0, decode_w(step, 1) - step.idle_w)
    full_j = full_ms / 1000.0 * max(0.0, decode_w(step, full) - step.idle_w)
    own_j = (full_j - one_j) / (full - 1)
    prefill_ms = step.compute_ms_per_token + step.comm_ms_per_token
    prefill_ms += step.attention_ms_per_pair * CONTEXT_TOKENS_MEAN / 2.0
    prefill_j = prefill_ms / 1000.0 * max(0.0, step.prefill_w - step.idle_w)
    method, ttft_error, tpot_error, energy_error = expected_errors(model, precision, accelerator)
    return EngineCoefficients(
        ttft_ms_fixed=step.ttft_ms_fixed,
        prefill_ms_per_token=prefill_ms,
        tpot_ms_base=one_ms - per_running_ms,
        tpot_ms_per_running=per_running_ms,
        prefill_wh_per_token=wh_from_j(prefill_j),
        decode_wh_shared=wh_from_j(one_j - own_j),
        decode_wh_per_token=wh_from_j(own_j),
        kv_tokens_max=int(step.kv_tokens_max),
        method=method,
        ttft_error=ttft_error,
        tpot_error=tpot_error,
        energy_error=energy_error,
    )


def expected_errors(
    model: AiModel, precision: str, chip: Accelerator
) -> tuple[Method, float, float, float]:
    """How the figures were got, and expected relative errors (median) of TTFT, TPOT and energy."""
    if chip.id == THREAD and model.id == THREAD_MODEL:
        return "measured", 0.3, 0.2, 0.5
    if chip.id == THREAD or model.kind == "embedding":  # compared with no measurement
        return "roofline, not calibrated", 0.6, 0.6, 0.5
    said = promise_of(chip, known_precision(precision), routed=routed_miss(model) > 0.0)
    method: Method = (
        "roofline, calibrated family" if said.calibrated else "roofline, not calibrated"
    )
    return method, said.ttft_error, said.tpot_error, said.power_error

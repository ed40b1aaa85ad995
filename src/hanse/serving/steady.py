"""A replica in steady state: so many requests always in flight, each answered one followed by the next.

Here: TTFT, TPOT, throughput and mean power of a closed loop, from a `StepModel`. Not here: open arrivals and queues
(simulated at the level of steps), where a `StepModel` comes from, measured tables (`measured`).

Formulas. B requests in flight, of which b fit into memory; S tokens in, O out; T(.) the step of `StepModel`.

    decode      T_d = T(b new tokens, b (S + O/2) of context)
    a prompt    T_p = T(b + S new tokens, S^2/2 pairs) - T_d       what a prompt adds to the step it is read in
    TPOT        T_d + m (b - 1) T_p / O                            others' prompts are read in O steps of one request
    TTFT        fixed + T_d + T_p (1 + a (b - 1))                  a: share of the others whose prompt is read before
    requests/s  b / (TTFT + (O - 1) TPOT);  where b < B, the rest waits its turn

m is 1 if requests come at random moments and 0 if all start together; benchmarks with fixed lengths are between.
"""

from __future__ import annotations

from typing import Final

from hanse.errors import ConfigError
from hanse.model.fleet import Value
from hanse.serving.steps import StepModel, decode_w, step_ms
from hanse.units import s_from_ms

PREFILL_MIX: Final = 0.6
"""m above. Errors of TPOT hardly depend on it (0.45 to 0.75 tried); at 0.6 prompts read alone are met best as well."""
BURST_SHARE: Final = 0.1
"""a above: of 0, 0.1, 0.5 and a square root, what comes nearest to TTFT of 781 published closed loops."""


class Steady(Value, frozen=True, kw_only=True):
    """What a closed loop of B requests sees; power and throughput are of the whole replica."""

    running: float
    """Requests that are in the batch; the others wait for memory."""
    ttft_ms: float
    tpot_ms: float
    output_tok_s: float
    power_w: float
    """Mean at the chips."""
    j_per_token: float
    """Per output token, prompts included."""


class Pace(Value, frozen=True, kw_only=True):
    """Times and watts of a replica at one load, from a model or from measurements."""

    decode_ms: float
    """A step in which all running requests decode."""
    prompt_ms: float
    """What one prompt adds to the step it is read in."""
    ttft_ms_fixed: float
    decode_w: float
    prefill_w: float


def steady(step: StepModel, *, batch: float, input_tokens: float, output_tokens: float) -> Steady:
    """The steady state of `batch` requests in flight.

    Raises:
        ConfigError: nothing to do, or one request's context does not fit into memory.
    """
    running = running_of(step, batch, input_tokens, output_tokens)
    pace = pace_of(step, running, input_tokens, output_tokens)
    return closed_loop(
        pace, batch=batch, running=running, input_tokens=input_tokens, output_tokens=output_tokens
    )


def pace_of(step: StepModel, running: float, input_tokens: float, output_tokens: float) -> Pace:
    """What `step` says of so many running requests."""
    context = running * (input_tokens + output_tokens / 2.0)
    decode = step_ms(step, running, 0.0, running, context)
    pairs = input_tokens * (input_tokens + 1.0) / 2.0
    both = step_ms(step, running + input_tokens, pairs, running, context)
    return Pace(
        decode_ms=decode,
        prompt_ms=max(both - decode, 0.0),
        ttft_ms_fixed=step.ttft_ms_fixed,
        decode_w=decode_w(step, running),
        prefill_w=step.prefill_w,
    )


def closed_loop(
    pace: Pace, *, batch: float, running: float, input_tokens: float, output_tokens: float
) -> Steady:
    """The steady state at a pace; formulas above."""
    prompt = pace.prompt_ms
    tpot = pace.decode_ms + PREFILL_MIX * (running - 1.0) * prompt / output_tokens
    first = pace.ttft_ms_fixed + pace.decode_ms + prompt * (1.0 + BURST_SHARE * (running - 1.0))
    whole_ms = first + (output_tokens - 1.0) * tpot
    tokens_per_s = running * output_tokens / s_from_ms(whole_ms)
    reading = min(prompt * running / (output_tokens * tpot + prompt), 1.0)
    watts = pace.decode_w * (1.0 - reading) + pace.prefill_w * reading
    return Steady(
        running=running,
        ttft_ms=first + (batch / running - 1.0) * whole_ms,
        tpot_ms=tpot,
        output_tok_s=tokens_per_s,
        power_w=watts,
        j_per_token=watts / tokens_per_s,
    )


def running_of(step: StepModel, batch: float, input_tokens: float, output_tokens: float) -> float:
    """Requests whose KV cache fits: on average each holds its prompt and half its answer.

    Raises:
        ConfigError: nothing to do, or one request's context does not fit into memory.
    """
    if min(batch, input_tokens, output_tokens) < 1:
        got = f"batch {batch:g}, input {input_tokens:g}, output {output_tokens:g}"
        raise ConfigError("request", got=got, allowed="at least 1 of each")
    if step.kv_tokens_max < input_tokens + output_tokens:
        raise ConfigError(
            "request",
            got=f"{input_tokens + output_tokens:g} tokens of context",
            allowed=f"at most {step.kv_tokens_max:g}, which fit beside the weights",
            fix="use more chips, a smaller precision or shorter requests",
        )
    return min(batch, max(1.0, step.kv_tokens_max / (input_tokens + output_tokens / 2.0)))

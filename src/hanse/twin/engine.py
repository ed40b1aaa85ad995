"""An engine at the level of its iterations: continuous batching as vLLM v1 does it.

Here: admission, chunked prefill, decoding in bulk, KV memory with preemption, energy of each step. Not here: what prompts share (`blocks`), how
long a step takes (`serving.kernels`), who sends requests (`gateway`), when engines are looked at (`loop`).

Theory of operation. An engine's state is true at a step boundary, `at_s`. At a boundary it admits what has come (first come, first
served, while slots and KV memory last) and puts the next step together: one token for every request that decodes, then chunks of
prompts up to `chunk_tokens`. Steps without prompts change nothing that anybody sees until a request ends, so they are run as one bulk
whose length follows in closed form; an arrival in the middle of a bulk ends it at the boundary after the arrival:

    IDLE --arrival--> (compose) --prompts--> STEP --end--> (compose) --none--> BULK --end--> (compose) ...
                                             BULK --arrival that would be admitted--> BOUNDARY --> (compose)

When KV memory is full the request admitted last gives way and is computed again later (vLLM's recompute preemption).
Energy: `serving.kernels.step_w` of the step; the part above idle power is dynamic. Prompts take the time by which they lengthen a step;
what is left is shared equally by the requests that decode.
"""

from __future__ import annotations

from typing import Any, Final

from numba import njit

from hanse.compiled import HOT, KERNEL
from hanse.serving.kernels import step_ms, step_w
from hanse.twin.arrays import (
    AT_ENGINE,
    BACK,
    BOUNDARY,
    BULK,
    DOWN,
    END,
    FIRST_BYTE,
    FROZEN,
    IDLE,
    LOST,
    NEVER,
    OPTION_CORES,
    OPTION_TOKEN_S,
    STEP,
)
from hanse.twin.blocks import hold, let_go, look
from hanse.twin.queues import free_slot, next_change_s, push, push_now, retime

INF: Final = float("inf")


@njit(**KERNEL)
def enqueue(w: Any, e: int, a: int, t: float) -> None:
    """A request reaches the engine's queue at `t`."""
    engine, attempt = w.engines[e], w.attempts[a]
    attempt.stage = AT_ENGINE
    attempt.engine = e
    attempt.queued_next = -1
    if engine.queue_head < 0:
        engine.queue_head = a
    else:
        w.attempts[engine.queue_tail].queued_next = a
    engine.queue_tail = a
    if engine.mode == IDLE:
        engine.at_s = t
        compose(w, e, t)
    elif engine.mode == BULK and engine.running < engine.slots:
        interrupt(w, e, t)


@njit(**HOT)
def interrupt(w: Any, e: int, t: float) -> None:
    """End a bulk at the first step boundary at or after `t`."""
    engine = w.engines[e]
    if engine.mode != BULK:
        return
    steps = 0
    at_s = engine.at_s
    context = float(engine.context)
    batch = float(engine.running)
    while steps < engine.bulk_steps and at_s < t:
        at_s += (
            step_ms(engine, batch, 0.0, batch, context) * 0.001 / (engine.speed * engine.granted)
        )
        context += batch
        steps += 1
    decode(w, e, steps, at_s)
    engine.mode = BOUNDARY
    retime(w, e, max(at_s, t))


@njit(**HOT)
def decode(w: Any, e: int, steps: int, until_s: float) -> None:
    """Apply `steps` steps of pure decoding that end at `until_s`."""
    engine = w.engines[e]
    batch = engine.running
    elapsed_s = until_s - engine.at_s
    joules = (step_w(engine, float(batch), 0.0) - engine.idle_w) * elapsed_s
    engine.busy_s += elapsed_s
    engine.cpu_s += elapsed_s * engine.granted
    engine.batch_s += elapsed_s * batch
    engine.dynamic_j += joules
    if batch > 0:
        engine.share_j += joules / batch
    engine.steps += steps
    engine.context += batch * steps
    engine.kv_used += batch * steps
    engine.tokens_decoded += batch * steps
    engine.at_s = until_s
    w.clock[0].steps += steps


@njit(**HOT)
def bulk_ms(engine: Any, steps: int) -> float:
    """Duration of `steps` decode steps from the engine's state on: the sum of `step_ms` over growing contexts."""
    batch, context = float(engine.running), float(engine.context)
    last = context + batch * (steps - 1)
    # Each step is max(a + k context, c) + r. Both branches are linear in the context, so that a sum has a closed form
    # where one of them holds from first to last; else the steps are added up.
    first_ms = step_ms(engine, batch, 0.0, batch, context)
    last_ms = step_ms(engine, batch, 0.0, batch, last)
    slope = engine.kv_ms_per_token * batch * (steps - 1)
    if abs((last_ms - first_ms) - slope) <= 1e-9 * last_ms or last_ms == first_ms:
        return 0.5 * steps * (first_ms + last_ms)
    total = 0.0
    for _ in range(steps):
        total += step_ms(engine, batch, 0.0, batch, context)
        context += batch
    return total


@njit(**HOT)
def event(w: Any, e: int, t: float) -> None:
    """The engine's next change has come: end the step or bulk, then put the next one together."""
    engine = w.engines[e]
    if engine.mode == BULK:
        decode(w, e, engine.bulk_steps, t)
        finish_due(w, e, t)
    elif engine.mode == STEP:
        end_step(w, e, t)
    else:
        finish_due(w, e, t)
    compose(w, e, t)


@njit(**HOT)
def end_step(w: Any, e: int, t: float) -> None:
    """Effects of a step with prompts in it: progress, first tokens, ends."""
    engine, attempts, running = w.engines[e], w.attempts, w.running
    decoding = engine.running - engine.prefilling
    prefill_tokens = 0
    for i in range(engine.running):
        prefill_tokens += attempts[running[e, i]].take
    book_step(engine, decoding, prefill_tokens, t)
    engine.steps += 1
    engine.context += decoding
    engine.kv_used += decoding
    engine.tokens_decoded += decoding
    engine.tokens_prefilled += prefill_tokens
    engine.at_s = t
    w.clock[0].steps += 1
    for i in range(engine.running):
        a = running[e, i]
        attempt = attempts[a]
        if attempt.take > 0:
            attempt.prefill_left -= attempt.take
            attempt.prefill_done += attempt.take
            attempt.joules += engine.step_prompt_j * attempt.take
            attempt.take = 0
            if attempt.prefill_left == 0:
                prefilled(w, e, a, t)
                w.due[e, i] = attempt.finish_step
    finish_due(w, e, t)


@njit(**HOT)
def book_step(engine: Any, decoding: int, prefill_tokens: int, t: float) -> None:
    """Energy of a step with prompts: theirs is the time by which they made it longer."""
    elapsed_s = t - engine.at_s
    joules = (step_w(engine, float(decoding), float(prefill_tokens)) - engine.idle_w) * elapsed_s
    alone_s = 0.0
    if decoding > 0:
        ms = step_ms(engine, float(decoding), 0.0, float(decoding), float(engine.context))
        alone_s = min(ms * 0.001 / (engine.speed * engine.granted), elapsed_s)
    prompts_j = joules * (1.0 - alone_s / elapsed_s) if elapsed_s > 0.0 else 0.0
    engine.busy_s += elapsed_s
    engine.cpu_s += engine.step_cpu_s
    engine.batch_s += elapsed_s * engine.running
    engine.dynamic_j += joules
    engine.prefill_j += prompts_j
    engine.share_j += (joules - prompts_j) / decoding if decoding > 0 else 0.0
    engine.step_prompt_j = prompts_j / prefill_tokens if prefill_tokens > 0 else 0.0


@njit(**HOT)
def prefilled(w: Any, e: int, a: int, t: float) -> None:
    """A prompt is read: its first token is out, and it decodes from the next step on."""
    engine, attempt = w.engines[e], w.attempts[a]
    engine.prefilling -= 1
    engine.context += attempt.tokens_in + attempt.generated + 1
    attempt.generated += 1
    attempt.finish_step = engine.steps + (attempt.tokens_out - attempt.generated)
    engine.kv_used += 1
    attempt.share_mark_j = engine.share_j
    if attempt.first_at_s == 0.0:
        attempt.first_at_s = t
        site_load = w.site_load[attempt.offer]
        told = w.telemetry[attempt.site]
        attempt.head_requests = told * site_load.requests
        attempt.head_tokens = told * site_load.tokens
        # This one's prompt with it: its gateway hears first and takes it out of its own count then.
        attempt.head_prefill = told * site_load.prefill_tokens
        site_load.prefill_tokens -= attempt.told_prefill
        w.executing[0, e].prefill_tokens -= attempt.told_prefill
        attempt.told_prefill = 0
        if attempt.dropped == 0:
            send_first_byte(w, a, t)


@njit(**HOT)
def send_first_byte(w: Any, a: int, t: float) -> None:
    """Tell the gateway; a cut link loses it."""
    attempt = w.attempts[a]
    if attempt.site == attempt.gateway:
        attempt.heard_at_s = t
        push_now(w, FIRST_BYTE, a)
    elif w.link_up[attempt.site, attempt.gateway] != 0:
        attempt.heard_at_s = t + 0.0005 * w.ways[attempt.site, attempt.gateway].rtt_ms
        push(w, attempt.heard_at_s, FIRST_BYTE, a)


@njit(**HOT)
def finish_due(w: Any, e: int, t: float) -> None:
    """Take out of the batch what has all its tokens; the others close ranks."""
    engine, running, due = w.engines[e], w.running, w.due
    kept = 0
    for i in range(engine.running):
        a = running[e, i]
        step = due[e, i]
        if step > engine.steps:
            running[e, kept] = a
            due[e, kept] = step
            kept += 1
        else:
            leave_batch(w, e, a)
            leave_engine(w, e, a)
            send_end(w, a, t)
    engine.running = kept


@njit(**HOT)
def leave_batch(w: Any, e: int, a: int) -> None:
    """Give back what an attempt holds of the engine; its decoding energy is booked."""
    engine, attempt = w.engines[e], w.attempts[a]
    read = attempt.prefill_left == 0
    if read:
        attempt.generated = attempt.tokens_out - (attempt.finish_step - engine.steps)
        engine.context -= attempt.tokens_in + attempt.generated
        attempt.joules += engine.share_j - attempt.share_mark_j
    else:
        engine.prefilling -= 1
    tokens = attempt.tokens_in + attempt.generated
    still = 0
    if attempt.block_count > 0:
        computed = tokens if read else attempt.cached + attempt.prefill_done
        still = let_go(w, e, a, tokens, computed)
    engine.kv_used -= tokens - still


@njit(**HOT)
def leave_engine(w: Any, e: int, a: int) -> None:
    """The engine is done with the attempt: the site's counts of it go back."""
    attempt = w.attempts[a]
    site_load, executing = w.site_load[attempt.offer], w.executing[0, e]
    site_load.requests -= 1
    site_load.tokens -= attempt.told_tokens
    site_load.prefill_tokens -= attempt.told_prefill
    executing.requests -= 1
    executing.tokens -= attempt.told_tokens
    executing.prefill_tokens -= attempt.told_prefill
    attempt.told_prefill = attempt.told_tokens = 0


@njit(**HOT)
def send_end(w: Any, a: int, t: float) -> None:
    """The last token leaves the engine."""
    attempt = w.attempts[a]
    if attempt.dropped != 0:
        waste(w, a)
    elif attempt.site == attempt.gateway:
        attempt.stage = BACK
        push_now(w, END, a)
    elif w.link_up[attempt.site, attempt.gateway] == 0:
        attempt.stage = LOST
        attempt.lost_kind = END
    else:
        attempt.stage = BACK
        push(w, t + 0.0005 * w.ways[attempt.site, attempt.gateway].rtt_ms, END, a)


@njit(**HOT)
def compose(w: Any, e: int, t: float) -> None:
    """At a boundary: drop what nobody wants, admit, and start the next step or bulk."""
    engine = w.engines[e]
    engine.at_s = t
    if engine.purge != 0:
        purge(w, e)
    admit(w, e)
    while engine.running > 1 and engine.kv_used + engine.running > engine.kv_max:
        preempt(w, e)
    if w.options[OPTION_CORES] > 0.0:
        engine.mode = (
            BOUNDARY  # what it did is over, and `share_cores` has nothing of it to stretch
        )
        share_cores(w, e, next_demand(w, e), t)
    if engine.running == 0:
        engine.mode = IDLE
        retime(w, e, INF)
    elif engine.prefilling > 0:
        compose_step(w, e, t)
    else:
        compose_bulk(w, e, t)


@njit(**HOT)
def compose_step(w: Any, e: int, t: float) -> None:
    """One step: a token for each that decodes, then chunks of prompts in order of admission."""
    engine, attempts, running = w.engines[e], w.attempts, w.running
    decoding = engine.running - engine.prefilling
    budget = max(engine.chunk_tokens - decoding, 1)
    new_tokens = 0
    pairs = 0.0
    for i in range(engine.running):
        attempt = attempts[running[e, i]]
        if attempt.prefill_left > 0 and budget > 0:
            take = min(attempt.prefill_left, budget)
            attempt.take = take
            budget -= take
            new_tokens += take
            pairs += take * (attempt.cached + attempt.prefill_done + 0.5 * (take + 1))
    ms = step_ms(
        engine, float(decoding + new_tokens), pairs, float(engine.running), float(engine.context)
    )
    engine.mode = STEP
    engine.step_cpu_s = ms * 0.001 / engine.speed
    retime(w, e, t + engine.step_cpu_s / engine.granted)


@njit(**HOT)
def compose_bulk(w: Any, e: int, t: float) -> None:
    """As many steps as pass until a request ends or memory is full."""
    engine, due = w.engines[e], w.due
    finish = due[e, 0]
    for i in range(1, engine.running):
        finish = min(finish, due[e, i])
    steps = finish - engine.steps
    steps = max(min(steps, (engine.kv_max - engine.kv_used) // engine.running), 1)
    engine.mode = BULK
    engine.bulk_steps = steps
    retime(w, e, t + bulk_ms(engine, steps) * 0.001 / (engine.speed * engine.granted))


# --- engines that share a machine


@njit(**KERNEL)
def next_demand(w: Any, e: int) -> float:
    """Cores that an engine's next step asks for: its own, and what carries a token of each answer during a step."""
    engine = w.engines[e]
    if engine.running == 0:
        return 0.0
    decoding = float(engine.running - engine.prefilling)
    new_tokens = decoding
    for i in range(engine.running):
        new_tokens += w.attempts[w.running[e, i]].prefill_left
    ms = step_ms(engine, new_tokens, 0.0, float(engine.running), float(engine.context))
    return 1.0 + decoding * w.options[OPTION_TOKEN_S] * 1000.0 * engine.speed / ms


@njit(**KERNEL)
def share_cores(w: Any, e: int, demand: float, t: float) -> None:
    """Engine `e` asks for `demand` cores from now on: where all ask for more than there are, all get less, as of fair scheduling.

    A step with prompts goes on at the new speed at once, a bulk from its next boundary on, a few milliseconds later.
    """
    engines = w.engines
    engines[e].demand = demand
    wanted = 0.0
    for i in range(engines.shape[0]):
        wanted += engines[i].demand
    granted = min(1.0, w.options[OPTION_CORES] / wanted) if wanted > 0.0 else 1.0
    for i in range(engines.shape[0]):
        engine = engines[i]
        if engine.granted == granted:
            continue
        if engine.mode == STEP:
            retime(w, i, t + (next_change_s(w, i) - t) * engine.granted / granted)
        elif engine.mode == BULK:
            interrupt(w, i, t)
        engine.granted = granted


@njit(**HOT)
def admit(w: Any, e: int) -> None:
    """Move from queue to batch while slots and memory last, in order."""
    engine, attempts = w.engines[e], w.attempts
    while engine.queue_head >= 0:
        a = engine.queue_head
        attempt = attempts[a]
        if attempt.dropped != 0:
            engine.queue_head = attempt.queued_next
            leave_engine(w, e, a)
            waste(w, a)
            continue
        need = attempt.tokens_in + attempt.generated
        if engine.running >= engine.slots:
            break
        found, shared = 0, 0
        if attempt.block_count > 0:
            found, shared = look(w, e, a, need)
        room = engine.kv_max - engine.kv_used - engine.running - 1
        if engine.running > 0 and need - shared > room:
            break
        engine.queue_head = attempt.queued_next
        attempt.cached = found
        if attempt.block_count > 0:
            hold(w, e, a, need)
        attempt.prefill_done = 0
        attempt.prefill_left = need - attempt.cached
        attempt.take = 0
        w.running[e, engine.running] = a
        w.due[e, engine.running] = NEVER
        engine.running += 1
        engine.prefilling += 1
        engine.kv_used += need - shared
    if engine.queue_head < 0:
        engine.queue_tail = -1


@njit(**KERNEL)
def preempt(w: Any, e: int) -> None:
    """The request admitted last gives its memory back and waits at the head of the queue."""
    engine, attempts = w.engines[e], w.attempts
    engine.running -= 1
    a = w.running[e, engine.running]
    attempt = attempts[a]
    leave_batch(w, e, a)
    attempt.prefill_left = attempt.prefill_done = attempt.take = 0
    attempt.queued_next = engine.queue_head
    engine.queue_head = a
    if attempt.queued_next < 0:
        engine.queue_tail = a
    engine.preempted += 1


@njit(**KERNEL)
def purge(w: Any, e: int) -> None:
    """Take what gateways gave up out of the batch."""
    engine, attempts, running = w.engines[e], w.attempts, w.running
    engine.purge = 0
    kept = 0
    for i in range(engine.running):
        a = running[e, i]
        if attempts[a].dropped == 0:
            running[e, kept] = a
            w.due[e, kept] = w.due[e, i]
            kept += 1
        else:
            leave_batch(w, e, a)
            leave_engine(w, e, a)
            waste(w, a)
    engine.running = kept


@njit(**KERNEL)
def drop(w: Any, a: int, t: float) -> None:
    """The gateway gives an attempt up; whoever holds the slot next lets it go."""
    attempt = w.attempts[a]
    attempt.dropped = 1
    if attempt.stage == LOST:
        waste(w, a)
    elif attempt.stage == AT_ENGINE:
        e = attempt.engine
        w.engines[e].purge = 1
        interrupt(w, e, t)


@njit(**KERNEL)
def waste(w: Any, a: int) -> None:
    """Nobody waits for this attempt any more: its joules were spent for nothing."""
    attempt = w.attempts[a]
    if attempt.engine >= 0:
        w.engines[attempt.engine].wasted_j += attempt.joules
    free_slot(w, a)


@njit(**KERNEL)
def halt(w: Any, e: int, t: float, mode: int) -> None:
    """Freeze the engine or take it down at `t`: steps that had ended by then count, the one in progress does not."""
    engine, attempts, running = w.engines[e], w.attempts, w.running
    if engine.mode == BULK:
        interrupt(w, e, t)
    for i in range(engine.running):
        attempts[running[e, i]].take = 0
    if w.options[OPTION_CORES] > 0.0:
        engine.mode = BOUNDARY
        share_cores(w, e, 0.0, t)
    engine.mode = mode
    engine.at_s = t
    retime(w, e, INF)


@njit(**KERNEL)
def resume(w: Any, e: int, t: float) -> None:
    """A frozen engine goes on where it was; one that was down starts empty."""
    engine = w.engines[e]
    if engine.mode == FROZEN or engine.mode == DOWN:
        finish_due(w, e, t)
        compose(w, e, t)

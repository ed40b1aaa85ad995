"""The simulation's loop: what happens next, until an instant or the end of a chunk of requests.

Here: `run`, compiled; the order of causes at one instant. Not here: what each cause does (`gateway`, `engine`), whatever happens
rarely enough for Python (`simulate`: tables, faults, weather, power).

At one instant: what an engine has just told its own gateway, then events, then engines, then frames of sites, then the look for late attempts, then new requests. Among events of one
instant the older goes first, among engines the lower number.
"""

from __future__ import annotations

from typing import Any, Final

from numba import njit

from hanse.compiled import HOT, KERNEL
from hanse.dispatch import choose as kernels
from hanse.twin import gateway as gateways
from hanse.twin.arrays import (
    ARRIVE,
    ASK_AGAIN,
    BACK,
    END,
    FAILED,
    FIRST_BYTE,
    LOST,
    OPTION_BLOCK_TOKENS,
    OPTION_ROWS,
    RAN_OUT,
    READY,
    REASON_NO_ENTRY,
    REASON_NOT_ALLOWED,
    REFUSED,
    REFUSED_OUT,
    ROOM,
    SPARE,
    TIME,
    TRIED_MAX,
)
from hanse.twin.books import book
from hanse.twin.engine import event as engine_event
from hanse.twin.engine import waste
from hanse.twin.hearing import make_frame
from hanse.twin.queues import KIND_SHIFT, SLOT_MASK, free_slot, pop, take_slot

FRAME_EVERY_S: Final = 0.5
"""Gateways check their peers twice a second."""
SWEEP_EVERY_S: Final = 0.1
"""A live gateway looks for late requests every 20 ms; a deadline is a second or more."""
INF: Final = float("inf")


@njit(**KERNEL)
def run(w: Any, until_s: float, more: bool) -> int:
    """Let time pass until `until_s`, or until the chunk's requests have all arrived (`more`: others will follow)."""
    clock = w.clock[0]
    count = w.chunk.shape[0]
    while True:
        if clock.ready_head != clock.ready_tail:
            item = w.ready[clock.ready_head & (READY - 1)]
            clock.ready_head += 1
            clock.events += 1
            dispatch(w, item >> KIND_SHIFT, item & SLOT_MASK, clock.now_s)
            continue
        if clock.heap_size + 4 * SPARE > w.heap_s.shape[0]:
            return ROOM
        if clock.attempts + SPARE > w.attempts.shape[0]:
            return ROOM
        if w.options[OPTION_ROWS] != 0.0 and clock.rows + SPARE > w.rows.shape[0]:
            return ROOM
        event_s = w.heap_s[0] if clock.heap_size > 0 else INF
        engine_s = w.tree_s[1]
        arrival_s = w.chunk[clock.arrived].at_s if clock.arrived < count else INF
        if arrival_s == INF and more:
            return RAN_OUT
        t = min(min(event_s, engine_s), min(min(clock.tick_s, clock.sweep_s), arrival_s))
        if t > until_s:
            clock.now_s = until_s
            return TIME
        clock.now_s = t
        clock.events += 1
        if event_s <= t:
            item = pop(w)
            dispatch(w, item >> KIND_SHIFT, item & SLOT_MASK, t)
        elif engine_s <= t:
            engine_event(w, w.tree_engine[1], t)
        elif clock.tick_s <= t:
            frame(w, t)
        elif clock.sweep_s <= t:
            gateways.sweep(w, t)
            clock.sweep_s = t + SWEEP_EVERY_S
        else:
            enter(w, clock.arrived, t)
            clock.arrived += 1


@njit(**KERNEL)
def dispatch(w: Any, kind: int, a: int, t: float) -> None:
    """One event from the heap; what was on a link when it was cut never comes."""
    attempt = w.attempts[a]
    if attempt.cut != 0:
        if kind != FIRST_BYTE:
            attempt.cut = 0
            attempt.stage = LOST
            attempt.lost_kind = kind
            if attempt.dropped != 0:
                waste(w, a)
    elif kind == END:
        gateways.ended(w, a, t)
    elif kind == FIRST_BYTE:
        gateways.first_byte(w, a, t)
    elif kind == ARRIVE:
        gateways.arrive(w, a, t)
    elif kind == REFUSED:
        gateways.refused(w, a, t)
    elif kind == FAILED:
        gateways.failed(w, a, t)
    elif kind == ASK_AGAIN:
        gateways.ask_again(w, a, t)


@njit(**KERNEL)
def frame(w: Any, t: float) -> None:
    """The next site in turn makes its frame; turns are spread evenly, so that sites do not speak in chorus."""
    clock = w.clock[0]
    sites = w.site_up.shape[0]
    s = w.tick_site[clock.turn]
    if w.site_up[s] != 0 and w.telemetry[s] >= 0.0:
        make_frame(w, s, t, FRAME_EVERY_S)
    clock.turn = (clock.turn + 1) % sites
    clock.tick += 1
    clock.tick_s = clock.tick * (FRAME_EVERY_S / sites)


@njit(**HOT)
def enter(w: Any, at: int, t: float) -> None:
    """A new request at the nearest gateway that may read it and is up."""
    clock = w.clock[0]
    request = w.chunk[at]
    a = take_slot(w)
    attempt = w.attempts[a]
    attempt.request = clock.requests
    clock.requests += 1
    attempt.service = w.service_of[max(request.service, 0)]
    attempt.cls = w.class_of[max(request.cls, 0)]
    attempt.origin = max(request.origin, 0)
    attempt.tokens_in = max(request.tokens_in, 1)
    attempt.tokens_out = max(request.tokens_out, 1)
    attempt.started_at_s = t
    attempt.held_at_s = -1.0
    attempt.number = 1
    attempt.tried_count = attempt.switches = attempt.late = 0
    attempt.cut = attempt.executed = attempt.answering = attempt.byteless = attempt.dropped = 0
    attempt.excluded = attempt.slow = attempt.slow_engines = attempt.full = 0
    attempt.stage = BACK
    attempt.site = attempt.offer = attempt.engine = attempt.gateway = -1
    attempt.cached = 0
    attempt.ttft_ms_predicted = attempt.e2e_ms_predicted = 0.0
    attempt.user_ms = 0.0
    attempt.block_count = attempt.blocks_held = attempt.block_last = 0
    subject = w.subject_of[request.tenant + 1, attempt.cls, attempt.origin]
    attempt.subject = max(subject, 0)
    g = entry_gateway(w, attempt.origin, attempt.subject, clock.requests) if subject >= 0 else -1
    if g < 0:
        # The nearest gateway answers 403 or 451 itself; nothing of the request is read.
        book(w, a, t, REFUSED_OUT, -REASON_NOT_ALLOWED if subject < 0 else -REASON_NO_ENTRY)
        free_slot(w, a)
        return
    attempt.gateway = g
    attempt.user_ms = w.user_ms[attempt.origin, g]
    attempt.guess_in = request.guess_in if request.guess_in > 0 else attempt.tokens_in
    guess = int(w.guess_out[g, attempt.service])
    if request.limit_out > 0:
        guess = min(guess, request.limit_out)
    attempt.guess_out = max(guess, 1)
    attempt.expires_at_s = t + w.deadline_s[attempt.service]
    if w.options[OPTION_BLOCK_TOKENS] > 0.0 and request.block_count > 0:
        copy_blocks(w, a, request.block_at, request.block_count)
    gateways.seek(w, a, t)


@njit(**HOT)
def entry_gateway(w: Any, origin: int, subject: int, number: int) -> int:
    """The nearest lawful gateway that is up, of the four nearest; those of one place take turns, as names with several addresses do. -1: none."""
    count = w.entry.shape[2]
    for i in range(count):
        g = w.entry[origin, subject, i]
        if g < 0 or w.site_up[g] == 0:
            continue
        alike = 1
        while (
            i + alike < count
            and w.entry[origin, subject, i + alike] >= 0
            and (w.user_ms[origin, w.entry[origin, subject, i + alike]] == w.user_ms[origin, g])
        ):
            alike += 1
        turn = w.entry[origin, subject, i + number % alike]
        return turn if w.site_up[turn] != 0 else g
    return -1


@njit(**KERNEL)
def copy_blocks(w: Any, a: int, at: int, count: int) -> None:
    """Keep a request's prefix blocks while it is in flight: chunks come and go."""
    clock = w.clock[0]
    size = w.blocks.shape[0]
    attempt = w.attempts[a]
    attempt.block_at = clock.blocks_at
    attempt.block_count = count
    for i in range(count):
        w.blocks[(clock.blocks_at + i) % size] = w.chunk_blocks[at + i]
    clock.blocks_at += count


assert kernels.TRIED_MAX == TRIED_MAX

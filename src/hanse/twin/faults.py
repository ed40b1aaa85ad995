"""What faults do to requests in flight, at the instant they strike.

Here: compiled walks over all attempts: an engine dies, a site goes dark, a gateway notices that a peer is silent. Not here: when
faults strike (`scenario`), how engines come back (`keeper`).
"""

from __future__ import annotations

from typing import Any

from numba import njit

from hanse.compiled import KERNEL
from hanse.dispatch import choose as kernels
from hanse.twin.affinity import pick_engine
from hanse.twin.arrays import (
    ARRIVE,
    AT_ENGINE,
    BACK,
    BROKEN,
    DOWN,
    FAILED,
    FAILED_OUT,
    FREE,
    FROZEN,
    HELD,
    LOST,
    TO_SITE,
)
from hanse.twin.blocks import lose
from hanse.twin.books import book
from hanse.twin.engine import drop, halt, interrupt, leave_batch, leave_engine, resume, waste
from hanse.twin.gateway import answer_back, execute, failed, settle
from hanse.twin.queues import push


@njit(**KERNEL)
def empty_engine(w: Any, e: int, t: float, told: bool) -> None:
    """Everything at the engine is gone. `told`: its site lives and passes the news on, after trying its other engines."""
    engine = w.engines[e]
    for i in range(engine.running):
        leave_batch(w, e, w.running[e, i])
    engine.running = engine.prefilling = 0
    engine.context = engine.kv_used = 0
    engine.queue_head = engine.queue_tail = -1
    lose(w, e)
    for a in range(w.clock[0].slots_used):
        attempt = w.attempts[a]
        if attempt.stage != AT_ENGINE or attempt.engine != e:
            continue
        leave_engine(w, e, a)
        if attempt.dropped != 0:
            waste(w, a)
        elif not told:
            attempt.stage = LOST
            attempt.lost_kind = 0
        elif attempt.first_at_s == 0.0 and attempt.site != attempt.gateway:
            again_here(w, a, e, t)
        else:
            answer_back(w, a, t, FAILED, kernels.DEAD)


@njit(**KERNEL)
def again_here(w: Any, a: int, e: int, t: float) -> None:
    """A serving site tries its other engines before it tells the entry site."""
    attempt = w.attempts[a]
    s = attempt.site
    w.engines[e].wasted_j += attempt.joules
    attempt.joules = 0.0
    attempt.generated = 0
    other = pick_engine(w, a, t, s, attempt.offer, 1 << (e - w.engine_first[s]))
    if other >= 0:
        execute(w, a, other, t)
    else:
        attempt.engine = -1
        answer_back(w, a, t, FAILED, kernels.DEAD)


@njit(**KERNEL)
def kill_engine(w: Any, e: int, t: float, told: bool) -> None:
    """The engine's process ends."""
    halt(w, e, t, DOWN)
    empty_engine(w, e, t, told)


@njit(**KERNEL)
def freeze_engine(w: Any, e: int, t: float) -> None:
    """The engine accepts and never answers."""
    if w.engines[e].mode != DOWN:
        halt(w, e, t, FROZEN)


@njit(**KERNEL)
def set_speed(w: Any, e: int, t: float, speed: float) -> None:
    """The engine's steps take 1/speed of what they should, from the next boundary on."""
    interrupt(w, e, t)
    w.engines[e].speed = speed


@njit(**KERNEL)
def start_engine(w: Any, e: int, t: float) -> None:
    """The engine is loaded and answers."""
    resume(w, e, t)


@njit(**KERNEL)
def darken_site(w: Any, s: int, t: float) -> None:
    """A site is gone, with its gateway, its engines and what they held; nobody is told."""
    w.site_up[s] = 0
    for e in range(w.engine_first[s], w.engine_first[s + 1]):
        kill_engine(w, e, t, False)
    for a in range(w.clock[0].slots_used):
        attempt = w.attempts[a]
        if attempt.stage != FREE and attempt.gateway == s and attempt.dropped == 0:
            if attempt.stage != HELD:  # then it is settled
                settle(w, a, t)
            book(w, a, t, BROKEN if attempt.answering == 1 else FAILED_OUT, kernels.DEAD)
            drop(w, a, t)


@njit(**KERNEL)
def notice_silence(w: Any, g: int, s: int, t: float) -> None:
    """A gateway missed so many checks of a peer that it counts as gone: what it has not begun to answer goes elsewhere."""
    w.load_sites[g, s].reachable = 0
    for a in range(w.clock[0].slots_used):
        attempt = w.attempts[a]
        if (
            attempt.stage == FREE
            or attempt.dropped != 0
            or attempt.gateway != g
            or attempt.site != s
        ):
            continue
        if attempt.stage == LOST:
            failed(w, a, t)
        elif attempt.byteless == 1 and attempt.stage == AT_ENGINE:
            give_up(w, a, t)


@njit(**KERNEL)
def give_up(w: Any, a: int, t: float) -> None:
    """Its answer, should one come, is not waited for: what was asked goes out again as a new attempt."""
    w.attempts[a].deadline_at_s = t


@njit(**KERNEL)
def cut_link(w: Any, a: int, b: int) -> None:
    """No byte gets from `a` to `b` any more; what is under way is lost."""
    w.link_up[a, b] = 0
    w.link_both[a, b] = w.link_both[b, a] = 0
    for i in range(w.clock[0].slots_used):
        attempt = w.attempts[i]
        there = attempt.stage == TO_SITE and attempt.gateway == a and attempt.site == b
        back = attempt.stage == BACK and attempt.gateway == b and attempt.site == a
        if there or back:
            attempt.cut = 1


@njit(**KERNEL)
def heal_link(w: Any, a: int, b: int, t: float) -> None:
    """Bytes get from `a` to `b` again: what was lost on the way and is still waited for is sent once more, as TCP does."""
    w.link_up[a, b] = 1
    w.link_both[a, b] = w.link_both[b, a] = w.link_up[b, a]
    for i in range(w.clock[0].slots_used):
        attempt = w.attempts[i]
        if attempt.stage != LOST or attempt.lost_kind == 0:
            continue
        forward = attempt.lost_kind == ARRIVE and attempt.gateway == a and attempt.site == b
        back = attempt.lost_kind != ARRIVE and attempt.site == a and attempt.gateway == b
        if forward or back:
            attempt.stage = TO_SITE if forward else BACK
            push(w, t + 0.0005 * w.ways[a, b].rtt_ms, attempt.lost_kind, i)

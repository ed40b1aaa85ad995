"""Two queues of the simulation: events by instant, and engines by their next change.

Here: a binary heap of events with a counter as tie-break, so that equal instants keep their order; a knock-out tournament of engines, in
which an engine's instant may move both ways; the lists of free and of byteless attempts. Not here: what events mean.

An engine has exactly one next change, so it plays again instead of leaving stale entries among the events. A tournament needs one comparison
a round with an opponent whose place is known beforehand, where a heap of engines looks for its way.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numba import njit

from hanse.compiled import HOT
from hanse.twin.arrays import FREE, READY

KIND_SHIFT: Final = 32
SLOT_MASK: Final = (1 << KIND_SHIFT) - 1


@njit(**HOT)
def push(w: Any, at_s: float, kind: int, attempt: int) -> None:
    """Add an event; the caller has made sure of room (`loop.run` leaves while two slots a request are free)."""
    clock = w.clock[0]
    heap_s, heap_seq, heap_item = w.heap_s, w.heap_seq, w.heap_item
    at = clock.heap_size
    clock.heap_size = at + 1
    seq = clock.seq
    clock.seq = seq + 1
    while at > 0:
        up = (at - 1) >> 1
        if heap_s[up] <= at_s:  # an older event of the same instant goes first
            break
        heap_s[at] = heap_s[up]
        heap_seq[at] = heap_seq[up]
        heap_item[at] = heap_item[up]
        at = up
    heap_s[at] = at_s
    heap_seq[at] = seq
    heap_item[at] = (kind << KIND_SHIFT) | attempt


@njit(**HOT)
def push_now(w: Any, kind: int, attempt: int) -> None:
    """An event of this instant: no way to go, no place in the heap to find. The loop takes these first."""
    clock = w.clock[0]
    w.ready[clock.ready_tail & (READY - 1)] = (kind << KIND_SHIFT) | attempt
    clock.ready_tail += 1


@njit(**HOT)
def pop(w: Any) -> int:
    """Remove the earliest event; its kind and attempt in one number."""
    clock = w.clock[0]
    heap_s, heap_seq, heap_item = w.heap_s, w.heap_seq, w.heap_item
    item: int = heap_item[0]
    size = clock.heap_size - 1
    clock.heap_size = size
    at_s = heap_s[size]
    seq = heap_seq[size]
    last = heap_item[size]
    at = 0
    while True:
        down = 2 * at + 1
        if down >= size:
            break
        other = down + 1
        if other < size and (
            heap_s[other] < heap_s[down]
            or (heap_s[other] == heap_s[down] and heap_seq[other] < heap_seq[down])
        ):
            down = other
        if at_s < heap_s[down] or (at_s == heap_s[down] and seq < heap_seq[down]):
            break
        heap_s[at] = heap_s[down]
        heap_seq[at] = heap_seq[down]
        heap_item[at] = heap_item[down]
        at = down
    heap_s[at] = at_s
    heap_seq[at] = seq
    heap_item[at] = last
    return item


@njit(**HOT)
def next_change_s(w: Any, engine: int) -> float:
    """When an engine changes next; never: infinite."""
    at_s: float = w.tree_s[(w.tree_s.shape[0] >> 1) + engine]
    return at_s


@njit(**HOT)
def retime(w: Any, engine: int, at_s: float) -> None:
    """An engine's next change is at `at_s` (infinity: none): play its matches again, up to the first that ends as before."""
    tree_s, tree_engine = w.tree_s, w.tree_engine
    node = np.uintp((tree_s.shape[0] >> 1) + engine)
    tree_s[node] = at_s
    winner, winner_s = engine, at_s
    while node > 1:
        other = node ^ 1
        other_s, rival = tree_s[other], tree_engine[other]
        # Of equals the left one, whose engines have the lower numbers.
        if other_s < winner_s or (other_s == winner_s and other < node):
            winner, winner_s = rival, other_s
        node >>= 1
        if tree_engine[node] == winner and tree_s[node] == winner_s:
            break
        tree_engine[node] = winner
        tree_s[node] = winner_s


@njit(**HOT)
def take_slot(w: Any) -> int:
    """A free attempt, the last that was let go, else one never used; the caller has made sure that there is one."""
    clock = w.clock[0]
    clock.attempts += 1
    a: int = clock.free
    if a < 0:
        a = clock.slots_used
        clock.slots_used = a + 1
    else:
        clock.free = w.attempts[a].next
    return a


@njit(**HOT)
def free_slot(w: Any, a: int) -> None:
    """Nobody refers to this attempt any more."""
    clock = w.clock[0]
    attempt = w.attempts[a]
    attempt.stage = FREE
    attempt.next = clock.free
    clock.free = a
    clock.attempts -= 1


@njit(**HOT)
def watch(w: Any, a: int) -> None:
    """Put an attempt without a first byte into the list that deadlines are kept of."""
    clock = w.clock[0]
    attempts = w.attempts
    attempts[a].byteless = 1
    attempts[a].next = clock.waiting
    attempts[a].previous = -1
    if clock.waiting >= 0:
        attempts[clock.waiting].previous = a
    clock.waiting = a


@njit(**HOT)
def unwatch(w: Any, a: int) -> None:
    """Its first byte came, or it is over; a second call changes nothing."""
    attempts = w.attempts
    attempt = attempts[a]
    if attempt.byteless == 0:
        return
    attempt.byteless = 0
    if attempt.previous >= 0:
        attempts[attempt.previous].next = attempt.next
    else:
        w.clock[0].waiting = attempt.next
    if attempt.next >= 0:
        attempts[attempt.next].previous = attempt.previous

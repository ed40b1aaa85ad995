"""A private copy of what other processes write, brought up to date before it is read; what changed is noted.

Here: kernels over rows of `Load.own`, of executing counts and of prefix slots. Not here: who notes it (`live.gateway.journal`), the
log's form (`journal`).

A kernel that reads shared memory reads what stands there in that very microsecond, and nobody can say afterwards what it was. With a
copy that only this process writes, what was noted is what was read.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numba import njit

from hanse.compiled import KERNEL
from hanse.dispatch.prefix import WAYS

ROWS_MAX: Final = 256
"""Changes noted in one call; a caller goes on while a call fills all of them."""


@njit(**KERNEL)
def changed_own(shared: Any, copy: Any, skip: int, count: int, rows: Any) -> int:
    """Bring columns below `count` up to date, but for the row `skip`; how many of `rows` (`journal.OWN_ROW`) were filled."""
    found = 0
    for worker in range(shared.shape[0]):
        if worker == skip:
            continue
        for offer in range(count):
            theirs = shared[worker, offer]
            mine = copy[worker, offer]
            requests, tokens, prefill = theirs.requests, theirs.tokens, theirs.prefill_tokens
            if (
                requests == mine.requests
                and tokens == mine.tokens
                and prefill == mine.prefill_tokens
            ):
                continue
            if found == rows.shape[0]:
                return found
            mine.requests = requests
            mine.tokens = tokens
            mine.prefill_tokens = prefill
            row = rows[found]
            row.worker = worker
            row.offer = offer
            row.requests = requests
            row.tokens = tokens
            row.prefill_tokens = prefill
            found += 1
    return found


@njit(**KERNEL)
def changed_executing(
    shared: Any, copy: Any, count: int, states: Any, usable: Any, rows: Any
) -> int:
    """The same for what is at engines below `count`, of all workers (`journal.EXECUTING_ROW`).

    `usable` [1] gets the engines whose state is 1 as bits.
    """
    bits = np.uint64(0)
    for engine in range(states.shape[0]):
        if states[engine] == 1:
            bits |= np.uint64(1) << np.uint64(engine)
    usable[0] = bits
    found = 0
    for worker in range(shared.shape[0]):
        for engine in range(count):
            theirs = shared[worker, engine]
            mine = copy[worker, engine]
            requests, tokens, prefill = theirs.requests, theirs.tokens, theirs.prefill_tokens
            if (
                requests == mine.requests
                and tokens == mine.tokens
                and prefill == mine.prefill_tokens
            ):
                continue
            if found == rows.shape[0]:
                return found
            mine.requests = requests
            mine.tokens = tokens
            mine.prefill_tokens = prefill
            row = rows[found]
            row.worker = worker
            row.engine = engine
            row.requests = requests
            row.tokens = tokens
            row.prefill_tokens = prefill
            found += 1
    return found


@njit(**KERNEL)
def changed_slots(shared: Any, copy: Any, digests: Any, count: int, rows: Any) -> int:
    """The same for the prefix slots in which these digests may lie (`journal.SLOT_ROW`)."""
    found = 0
    sets = shared.shape[0] // WAYS
    for i in range(count):
        first = int(digests[i] % np.uint64(sets)) * WAYS
        for way in range(WAYS):
            theirs = shared[first + way]
            mine = copy[first + way]
            digest, site, tokens, at_s = theirs.digest, theirs.site, theirs.tokens, theirs.at_s
            if (
                digest == mine.digest
                and site == mine.site
                and tokens == mine.tokens
                and at_s == mine.at_s
            ):
                continue
            if found == rows.shape[0]:
                return found
            mine.digest = digest
            mine.site = site
            mine.tokens = tokens
            mine.at_s = at_s
            row = rows[found]
            row.slot = first + way
            row.digest = digest
            row.site = site
            row.tokens = tokens
            row.at_s = at_s
            found += 1
    return found

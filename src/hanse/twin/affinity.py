"""Which sites and which engines are believed to hold a prompt's prefix, and which engine a site picks.

Here: digests of an attempt's prefix blocks, looking them up in a gateway's table of sites and in a site's table of engines. Not here: the
tables (`dispatch.prefix`), what a held prefix is worth (`dispatch.choose`), what engines really hold (`engine`).
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numba import njit

from hanse.compiled import HOT, KERNEL
from hanse.dispatch import choose as kernels
from hanse.dispatch import prefix as prefixes
from hanse.twin.arrays import (
    ENGINES_HELD,
    ENGINES_IN_TURN,
    OPTION_AFFINITY,
    OPTION_BLOCK_TOKENS,
)

DIGESTS_MAX: Final = prefixes.DIGESTS_MAX


@njit(**HOT)
def digest(w: Any, a: int) -> int:
    """Fill `digests` from the prompt's last whole blocks, not those of its answer; how many there are."""
    attempt = w.attempts[a]
    block_tokens = int(w.options[OPTION_BLOCK_TOKENS])
    if block_tokens == 0:
        return 0
    whole = min(attempt.block_count, attempt.tokens_in // block_tokens)
    count: int = min(whole, DIGESTS_MAX)
    start = whole - count
    size = w.blocks.shape[0]
    for i in range(count):
        block = w.blocks[(attempt.block_at + start + i) % size]
        w.digests[i] = np.uint64(block * 0x9E3779B97F4A7C1 + 0x7F4A7C15)
        w.digest_tokens[i] = min((start + i + 1) * block_tokens, attempt.tokens_in)
    return count


@njit(**HOT)
def clear(held: Any) -> None:
    """Nothing is held anywhere."""
    for i in range(kernels.CACHED_MAX):
        held[i, 0] = -1
        held[i, 1] = -1


@njit(**HOT)
def look_up_prefixes(w: Any, a: int, t: float) -> int:
    """Fill `cached` with the sites that hold this prompt's prefix; how many digests it has."""
    clear(w.cached)
    count: int = digest(w, a)
    if count > 0:
        table = w.prefix[w.attempts[a].gateway]
        trust = w.trust[w.attempts[a].gateway]
        prefixes.look_up(table, w.digests, w.digest_tokens, count, t, trust, w.cached)
    return count


@njit(**HOT)
def look_up_engines(w: Any, a: int, s: int, t: float) -> None:
    """Fill `held_engines` with the engines of a site that hold it, where the run wants that."""
    clear(w.held_engines)
    if w.options[OPTION_AFFINITY] == ENGINES_HELD and w.engine_first[s + 1] - w.engine_first[s] > 1:
        count = digest(w, a)
        if count > 0:
            table = w.engine_prefix[s]
            trust = w.engine_trust[s]
            prefixes.look_up(table, w.digests, w.digest_tokens, count, t, trust, w.held_engines)


@njit(**HOT)
def believe_site(w: Any, a: int, s: int, count: int, t: float) -> None:
    """Note what a site is believed to hold of the prompt, whose digests are at hand, as it is sent there."""
    attempt = w.attempts[a]
    attempt.believed_site = 0
    if count > 0:
        table = w.prefix[attempt.gateway]
        attempt.believed_site = prefixes.believed(table, w.digests, w.digest_tokens, count, s, t)


@njit(**KERNEL)
def pick_engine(w: Any, a: int, t: float, s: int, offer: int, excluded: int) -> int:
    """`choose_engine` at a site: global number of the engine, or the reason."""
    attempt = w.attempts[a]
    first, end = w.engine_first[s], w.engine_first[s + 1]
    states = w.engine_state[first:end]
    if excluded != 0:
        scratch = w.scratch_state[first:end]
        for i in range(end - first):
            scratch[i] = 0 if (excluded >> min(i, 62)) & 1 else states[i]
        states = scratch
    look_up_engines(w, a, s, t)
    tokens_in, tokens_out = float(attempt.guess_in), float(attempt.guess_out)
    if w.options[OPTION_AFFINITY] == ENGINES_HELD:
        found = kernels.choose_engine(
            w.engine_offer[first:end], w.engine_requests_max[first:end], w.engine_tokens_max[first:end],
            states, w.executing[:, first:end], w.offers[w.version[s]], offer, tokens_in, tokens_out, w.held_engines,
        )  # fmt: skip
    elif w.options[OPTION_AFFINITY] == ENGINES_IN_TURN:
        found = next_in_turn(w, s, states, offer, tokens_in + tokens_out)
    else:
        found = kernels.least_requests(
            w.engine_offer[first:end], w.engine_requests_max[first:end], w.engine_tokens_max[first:end],
            states, w.executing[:, first:end], offer, tokens_in + tokens_out,
        )  # fmt: skip
    return first + found if found >= 0 else found


@njit(**KERNEL)
def next_in_turn(w: Any, s: int, states: Any, offer: int, tokens: float) -> int:
    """The engine of a site after the one that was chosen last, if it is the offer's, alive and has room, else the next; or the reason."""
    first, count = w.engine_first[s], w.engine_first[s + 1] - w.engine_first[s]
    reason = kernels.DEAD
    for step in range(1, count + 1):
        i = (w.engine_turns[s] + step) % count
        e = first + i
        if w.engine_offer[e] != offer or states[i] != 1:
            continue
        mine = w.executing[0, e]
        if (
            mine.requests + 1 > w.engine_requests_max[e]
            or mine.tokens + tokens > w.engine_tokens_max[e]
        ):
            reason = kernels.ROOM
            continue
        w.engine_turns[s] = i
        return int(i)
    return reason


@njit(**HOT)
def remember_engine(w: Any, a: int, e: int, t: float) -> None:
    """An engine of a site reads this prompt: note what it is believed to hold of it, and that it will hold it."""
    attempt = w.attempts[a]
    attempt.believed_engine = 0
    s = w.engines[e].site
    if w.options[OPTION_AFFINITY] == ENGINES_HELD and w.engine_first[s + 1] - w.engine_first[s] > 1:
        count = digest(w, a)
        if count > 0:
            table = w.engine_prefix[s]
            engine = e - w.engine_first[s]
            attempt.believed_engine = prefixes.believed(
                table, w.digests, w.digest_tokens, count, engine, t
            )
            prefixes.remember(table, w.digests, w.digest_tokens, count, engine, t)


@njit(**HOT)
def answered(w: Any, a: int, t: float) -> None:
    """The answer told what was cached: entry and serving site learn how far to believe, and the entry remembers the site."""
    attempt = w.attempts[a]
    count = digest(w, a)
    if count > 0:
        g, s = attempt.gateway, attempt.site
        prefixes.proved(w.trust[g], s, attempt.believed_site, attempt.cached)
        engine = attempt.engine - w.engine_first[s]
        prefixes.proved(w.engine_trust[s], engine, attempt.believed_engine, attempt.cached)
        prefixes.remember(w.prefix[g], w.digests, w.digest_tokens, count, s, t)

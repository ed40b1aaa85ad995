"""An engine's KV memory in blocks: what running requests share counts once, what nobody uses is kept until its room is needed.

Here: the table of blocks of each engine, which requests hold them, which give way first. Not here: when requests come and go
(`engine`), what a held prefix is worth (`dispatch.choose`).

As vLLM does it (docs.vllm.ai, design/prefix_caching): a block is known by all tokens up to its end; a request holds its blocks while it runs; blocks
are found again from when they are given out, so that requests of one batch share them; a prompt's last token is always computed;
when nobody holds a block it waits in a queue and the one longest there gives way, of one request's the last first.

Differences: a prompt has all of its memory from its admission on, not as its chunks are read. Of an answer only whole blocks are found again, from its
end on. Memory that was never a whole block of anybody is taken before blocks that could be found again; vLLM takes strictly the oldest.

A block is found only behind the block that came before it in the prompt (`parent`). Whoever holds a block holds those before it, and lets go of the
last first: so a parent never gives way before its child, and the way back over parents needs no ids.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numba import njit

from hanse.compiled import HOT, KERNEL
from hanse.twin.arrays import OPTION_BLOCK_TOKENS

BLOCK_DTYPE: Final = np.dtype(
    [
        ("block", "i8"),
        ("parent", "i4"),
        ("holders", "i4"),
        ("next", "i4"),
        ("newer", "i4"),
        ("older", "i4"),
    ],
    align=True,
)
"""[E, 1 + most]. Entry 0 is the end of every list: of the buckets' chains and of spare entries (`next`), of prompts (`parent`), and of
the ring of blocks that nobody holds (`newer` of 0 is the oldest)."""
BLOCKS_TOTAL: Final = 1 << 23
BLOCKS_LEAST: Final = 4096
"""Entries for all engines together, a quarter of a gigabyte, but so many for each: of larger memories only that much is remembered."""


def no_blocks(engines: int, kv_tokens: int, block_tokens: int) -> dict[str, Any]:
    """The arrays of `World`, nothing held."""
    if block_tokens == 0:
        return {
            "kv_blocks": np.zeros((engines, 1), BLOCK_DTYPE),
            "kv_buckets": np.zeros((engines, 1), np.int32),
        }
    most = min(max(kv_tokens // block_tokens, 1), max(BLOCKS_LEAST, BLOCKS_TOTAL // engines))
    return {
        "kv_blocks": np.zeros((engines, 1 + most), BLOCK_DTYPE),
        "kv_buckets": np.zeros((engines, 1 << (most - 1).bit_length()), np.int32),
    }


@njit(**HOT)
def bucket_of(w: Any, block: int) -> int:
    """Where a block's chain begins."""
    mixed = np.uint64(block) * np.uint64(0x9E3779B97F4A7C15) >> np.uint64(32)
    return int(mixed & np.uint64(w.kv_buckets.shape[1] - 1))


@njit(**HOT)
def find(w: Any, e: int, block: int, parent: int) -> int:
    """Entry of a block behind its parent; 0: not held."""
    blocks = w.kv_blocks
    entry = w.kv_buckets[e, bucket_of(w, block)]
    while entry != 0 and (blocks[e, entry].block != block or blocks[e, entry].parent != parent):
        entry = blocks[e, entry].next
    return int(entry)


@njit(**KERNEL)
def forget(w: Any, e: int, entry: int) -> None:
    """A block that nobody holds is not found any more; it is in no ring."""
    blocks, buckets = w.kv_blocks, w.kv_buckets
    bucket = bucket_of(w, blocks[e, entry].block)
    at = buckets[e, bucket]
    if at == entry:
        buckets[e, bucket] = blocks[e, entry].next
    else:
        while blocks[e, at].next != entry:
            at = blocks[e, at].next
        blocks[e, at].next = blocks[e, entry].next
    blocks[e, entry].next = w.engines[e].blocks_spare
    w.engines[e].blocks_spare = entry


@njit(**HOT)
def take_out(w: Any, e: int, entry: int) -> None:
    """Out of the ring of what nobody holds."""
    blocks = w.kv_blocks
    newer, older = blocks[e, entry].newer, blocks[e, entry].older
    blocks[e, newer].older = older
    blocks[e, older].newer = newer
    w.engines[e].blocks_idle -= 1


@njit(**HOT)
def put_in(w: Any, e: int, entry: int) -> None:
    """Into the ring, as its newest."""
    blocks = w.kv_blocks
    newest = blocks[e, 0].older
    blocks[e, entry].older = newest
    blocks[e, entry].newer = 0
    blocks[e, newest].newer = entry
    blocks[e, 0].older = entry
    w.engines[e].blocks_idle += 1


@njit(**KERNEL)
def give_way(w: Any, e: int) -> None:
    """The oldest block that nobody holds goes."""
    oldest = w.kv_blocks[e, 0].newer
    take_out(w, e, oldest)
    forget(w, e, oldest)


@njit(**KERNEL)
def trim(w: Any, e: int) -> None:
    """What running requests have grown into by now is not found again."""
    engine = w.engines[e]
    block_tokens = int(w.options[OPTION_BLOCK_TOKENS])
    while engine.blocks_idle > 0 and (
        engine.kv_used + engine.blocks_idle * block_tokens > engine.kv_max
    ):
        give_way(w, e)


@njit(**KERNEL)
def add(w: Any, e: int, block: int, parent: int) -> int:
    """A new entry that nobody holds yet and that is in no ring; 0: all entries are held."""
    engine, blocks = w.engines[e], w.kv_blocks
    if engine.blocks_spare == 0 and engine.blocks_made + 1 == blocks.shape[1]:
        if engine.blocks_idle == 0:
            return 0
        give_way(w, e)
    entry = engine.blocks_spare
    if entry != 0:
        engine.blocks_spare = blocks[e, entry].next
    else:
        engine.blocks_made += 1
        entry = engine.blocks_made
    bucket = bucket_of(w, block)
    blocks[e, entry].block = block
    blocks[e, entry].parent = parent
    blocks[e, entry].holders = 0
    blocks[e, entry].next = w.kv_buckets[e, bucket]
    w.kv_buckets[e, bucket] = entry
    return int(entry)


@njit(**KERNEL)
def look(w: Any, e: int, a: int, tokens: int) -> tuple[int, int]:
    """Of a request's first tokens: how many need not be computed, and how many of these running requests hold already."""
    trim(w, e)
    attempt, blocks = w.attempts[a], w.kv_blocks
    size = w.blocks.shape[0]
    block_tokens = int(w.options[OPTION_BLOCK_TOKENS])
    found, held, parent = 0, 0, 0
    for i in range(min(attempt.block_count, tokens // block_tokens)):
        parent = find(w, e, w.blocks[(attempt.block_at + i) % size], parent)
        if parent == 0:
            break
        found += 1
        held += 1 if blocks[e, parent].holders > 0 else 0
    found = min(found, (tokens - 1) // block_tokens)
    return found * block_tokens, held * block_tokens


@njit(**KERNEL)
def hold(w: Any, e: int, a: int, tokens: int) -> None:
    """The request holds the whole blocks of its first tokens, from those on that it holds already."""
    attempt, blocks = w.attempts[a], w.kv_blocks
    size = w.blocks.shape[0]
    last = attempt.block_last
    most = min(attempt.block_count, tokens // int(w.options[OPTION_BLOCK_TOKENS]))
    for i in range(attempt.blocks_held, most):
        block = w.blocks[(attempt.block_at + i) % size]
        entry = find(w, e, block, last)
        if entry == 0:
            entry = add(w, e, block, last)
            if entry == 0:
                break
        elif blocks[e, entry].holders == 0:
            take_out(w, e, entry)
        blocks[e, entry].holders += 1
        last = entry
        attempt.blocks_held += 1
    attempt.block_last = last


@njit(**KERNEL)
def let_go(w: Any, e: int, a: int, tokens: int, computed: int) -> int:
    """The request, of so many tokens, ends or gives way; how many of its tokens stay in use by others.

    What was not `computed` is not found again.
    """
    trim(w, e)
    attempt, blocks = w.attempts[a], w.kv_blocks
    block_tokens = int(w.options[OPTION_BLOCK_TOKENS])
    admitted = attempt.blocks_held
    # Ids of requests in flight lie in a ring: where it has come round they are another's.
    if computed == tokens and w.clock[0].blocks_at - attempt.block_at <= w.blocks.shape[0]:
        hold(w, e, a, tokens)
    entry = attempt.block_last
    still = 0
    for back in range(attempt.blocks_held):
        i = attempt.blocks_held - 1 - back
        parent = blocks[e, entry].parent
        blocks[e, entry].holders -= 1
        if blocks[e, entry].holders > 0:
            still += block_tokens if i < admitted else 0
        elif (i + 1) * block_tokens <= computed:
            put_in(w, e, entry)
        else:
            forget(w, e, entry)
        entry = parent
    attempt.blocks_held = attempt.block_last = 0
    return still


@njit(**KERNEL)
def lose(w: Any, e: int) -> None:
    """The engine's memory is gone; nobody holds any of it."""
    engine, blocks = w.engines[e], w.kv_blocks
    w.kv_buckets[e, :] = 0
    blocks[e, 0].newer = blocks[e, 0].older = 0
    engine.blocks_made = engine.blocks_idle = engine.blocks_spare = 0

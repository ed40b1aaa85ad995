"""How much of a prompt was read before: reuse of cached prefix blocks in an hour of chat.

A request's prompt is a list of block ids; equal ids are equal blocks with equal text before them, so a cached id can be
reused. Trace: one hour of online Kimi traffic (Mooncake; Qin et al., FAST 2025; repository kvcache-ai/Mooncake 3b5a594,
conversation trace), one id for each 512 tokens.

Here: the share of blocks found in a cache, in one cache or in one a site, unbounded or evicting the least recently used.
Not here: time (a prompt is in the cache as soon as it was seen), answers, which may be reused too.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import msgspec

from hanse.twin.reproduce.inputs import opened
from hanse.twin.reproduce.values import Reproduction, agreed, row

TRACE_FILE = "llm_trace_mooncake_2024/conversation.jsonl.gz"
SITES = 5
"""Of the split rows; as many as the time zones of `pooling-timezones`."""
BLOCKS_BOUND = 10_000
"""5.1 M tokens, a thirtieth of what the hour brings: enough for eviction to show."""
PUBLISHED_PCT = 36.6
"""Share of blocks that an unbounded cache has."""


class Cache:
    """Blocks one site holds; the least recently used go first where there is a bound."""

    def __init__(self, blocks_max: int | None = None) -> None:
        self.blocks_max = blocks_max
        self._held: OrderedDict[int, None] = OrderedDict()

    def reusable(self, blocks: Sequence[int]) -> int:
        """How many leading blocks are held."""
        return next((i for i, block in enumerate(blocks) if block not in self._held), len(blocks))

    def read(self, blocks: Sequence[int]) -> None:
        """Take up a prompt's blocks."""
        for block in reversed(
            blocks
        ):  # the first blocks are the last to go: without them the others are of no use
            self._held[block] = None
            self._held.move_to_end(block)
        while self.blocks_max is not None and len(self._held) > self.blocks_max:
            self._held.popitem(last=False)


Route = Callable[[int, Sequence[int], Sequence[Cache]], int]
"""(number of the request, its blocks, caches) -> the site it goes to."""


def round_robin(number: int, blocks: Sequence[int], caches: Sequence[Cache]) -> int:
    """One site after the other."""
    return number % len(caches)


def longest_prefix(number: int, blocks: Sequence[int], caches: Sequence[Cache]) -> int:
    """The site that holds most of the prompt where that is at least half of it, else by turns.

    Without the half, one system prompt that all requests share would send every request to one site.
    """
    held = [cache.reusable(blocks) for cache in caches]
    most = max(held)
    return held.index(most) if 2 * most >= len(blocks) else round_robin(number, blocks, caches)


def reused_share(prompts: Iterable[Sequence[int]], caches: Sequence[Cache], route: Route) -> float:
    """Share of all blocks that the site a request goes to has already."""
    found = total = 0
    for number, blocks in enumerate(prompts):
        cache = caches[route(number, blocks, caches)]
        found += cache.reusable(blocks)
        total += len(blocks)
        cache.read(blocks)
    return found / total


class _Request(msgspec.Struct):
    hash_ids: list[int]


def prompts_of(data: Path) -> list[list[int]]:
    """Block ids of each request, in order of arrival."""
    decoder = msgspec.json.Decoder(_Request)
    with opened(data, TRACE_FILE) as lines:
        return [decoder.decode(line).hash_ids for line in lines]


def mooncake(data: Path) -> Reproduction:
    """Reuse of prefix blocks in the Mooncake conversation hour."""
    prompts = prompts_of(data)

    def pct(sites: int, route: Route, blocks_max: int | None = None) -> float:
        caches = [Cache(blocks_max) for _ in range(sites)]
        return 100.0 * reused_share(prompts, caches, route)

    bound = f"{BLOCKS_BOUND:,} blocks"
    rows = (
        row(
            "one cache, unbounded",
            "% of blocks",
            paper=PUBLISHED_PCT,
            ours=pct(1, round_robin),
            tolerance=0.05,
        ),
        row(f"one cache of {bound}", "% of blocks", ours=pct(1, round_robin, BLOCKS_BOUND)),
        row(f"{SITES} sites by turns, unbounded", "% of blocks", ours=pct(SITES, round_robin)),
        row(
            f"{SITES} sites, longest prefix, unbounded",
            "% of blocks",
            ours=pct(SITES, longest_prefix),
        ),
        row(
            f"{SITES} sites, longest prefix, {bound} each",
            "% of blocks",
            ours=pct(SITES, longest_prefix, BLOCKS_BOUND),
        ),
    )
    return Reproduction(
        name="mooncake-reuse",
        question="Share of prompt blocks that were read before and can be reused",
        source=(
            "conversation trace of Mooncake (Qin et al., FAST 2025), kvcache-ai/Mooncake 3b5a594: 182,790 of 288,500"
            " blocks are distinct"
        ),
        method=(
            f"{len(prompts):,} requests in order; a prompt's leading blocks that its site holds are reused, then the site"
            " holds them all. Bounded caches drop the least recently used block."
        ),
        rows=rows,
        notes=(
            "Blocks are 512 tokens; a smaller block reuses more of a prompt that parts from another inside one.",
            "No time passes: requests that arrive together would not find each other's blocks.",
        ),
        files=(TRACE_FILE,),
        agrees=agreed(rows),
    )

"""Reuse of prefix blocks: short conversations by hand, and what a larger cache may not lose."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hanse.twin.reproduce.prefix import Cache, longest_prefix, reused_share, round_robin

TURNS = [[1, 2], [1, 2, 3], [1, 9], [1, 2, 3, 4]]
"""A conversation of three turns with another in between that shares the first block: 0, 2, 1 and 3 of 11 are held."""

PROMPTS = st.lists(
    st.lists(st.integers(0, 2), min_size=1, max_size=5).map(
        lambda path: [hash(tuple(path[: i + 1])) for i in range(len(path))]
    ),
    max_size=30,
)
"""Ids stand for a block and all text before it, as in the trace."""


def test_one_unbounded_cache() -> None:
    assert reused_share(TURNS, [Cache()], round_robin) == pytest.approx(6 / 11)


def test_by_turns_a_conversation_loses_what_it_left_elsewhere() -> None:
    # Site 0 reads turns 1 and 3 (finds 1), site 1 reads turns 2 and 4 (finds 3).
    assert reused_share(TURNS, [Cache(), Cache()], round_robin) == pytest.approx(4 / 11)


def test_the_longest_prefix_keeps_a_conversation_together() -> None:
    assert reused_share(TURNS, [Cache(), Cache()], longest_prefix) == pytest.approx(6 / 11)


def test_a_shared_first_block_alone_does_not_draw_everyone_to_one_site() -> None:
    prompts = [[1, 10, 11], [1, 20, 21], [1, 30, 31]]
    caches = [Cache(), Cache(), Cache()]
    assert [
        (site := longest_prefix(i, p, caches), caches[site].read(p))[0]
        for i, p in enumerate(prompts)
    ] == [0, 1, 2]


def test_the_least_recently_used_blocks_go_first_and_a_prompts_end_before_its_start() -> None:
    cache = Cache(3)
    cache.read([1, 2])
    cache.read([5, 6])
    assert [cache.reusable(p) for p in ([1, 2], [5, 6])] == [1, 2]
    cache.read([1])
    cache.read([7])
    assert [cache.reusable(p) for p in ([1], [5, 6], [7])] == [1, 1, 1]


@given(PROMPTS)
def test_unbounded_reuse_is_what_is_not_distinct(prompts: list[list[int]]) -> None:
    blocks = [block for prompt in prompts for block in prompt]
    if blocks:
        expected = 1.0 - len(set(blocks)) / len(blocks)
        assert reused_share(prompts, [Cache()], round_robin) == pytest.approx(expected)


@given(PROMPTS.filter(bool), st.integers(1, 20), st.integers(1, 20))
def test_a_larger_cache_never_reuses_less(prompts: list[list[int]], one: int, other: int) -> None:
    small, large = sorted((one, other))
    assert reused_share(prompts, [Cache(small)], round_robin) <= reused_share(
        prompts, [Cache(large)], round_robin
    )

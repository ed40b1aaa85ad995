"""Prefixes: a growing conversation finds where it was, and nobody else's."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from dispatch.fleets import NOW_S
from hanse.dispatch.prefix import (
    AGES,
    BLOCK_BYTES,
    DIGESTS_MAX,
    PREFIX_DTYPE,
    TTL_S,
    WAYS,
    PrefixTable,
    prefixes_of,
    text_parts,
)

Parts = list[tuple[str, bytes]]
parts = st.lists(
    st.tuples(
        st.sampled_from(["system", "user", "assistant"]), st.binary(max_size=3 * BLOCK_BYTES)
    ),
    min_size=1,
    max_size=6,
)


def held(
    table: PrefixTable, what: Parts, secret: bytes = b"k", now_s: float = NOW_S
) -> dict[int, int]:
    rows = table.look_up(prefixes_of(what, secret, b"chat"), now_s).tolist()
    return {site: tokens for site, tokens in rows if site >= 0}


@given(parts, parts)
def test_a_conversation_that_grew_is_found_with_all_it_had(first: Parts, more: Parts) -> None:
    table = PrefixTable(slots_max=1024)
    table.remember(prefixes_of(first, b"k", b"chat"), 3, NOW_S)
    length = sum(len(content) for _, content in first)
    grown = held(table, [*first, *more])
    found = held(table, first)
    assert found == {3: length // 4}
    assert len(more) + len(first) > DIGESTS_MAX or grown[3] >= length // 4


@given(parts)
def test_another_tenant_finds_nothing(what: Parts) -> None:
    table = PrefixTable(slots_max=1024)
    table.remember(prefixes_of(what, b"one", b"chat"), 3, NOW_S)
    assert held(table, what, secret=b"two") == {}


def test_the_same_bytes_split_otherwise_are_another_conversation() -> None:
    table = PrefixTable(slots_max=64)
    table.remember(prefixes_of([("user", b"ab"), ("user", b"c")], b"k", b"chat"), 1, NOW_S)
    assert held(table, [("user", b"a"), ("user", b"bc")]) == {}
    assert held(table, [("system", b"ab"), ("user", b"c")]) == {}


def test_a_shared_system_prompt_is_credited_to_the_block() -> None:
    table = PrefixTable(slots_max=64)
    system = ("system", b"x" * (2 * BLOCK_BYTES))
    table.remember(prefixes_of([system, ("user", b"one")], b"k", b"chat"), 1, NOW_S)
    assert held(table, [system, ("user", b"two")]) == {1: 2 * BLOCK_BYTES // 4}


def test_the_longest_prefix_of_each_of_four_sites_is_given_longest_first() -> None:
    table = PrefixTable(slots_max=4096)
    turns = [("user", b"w" * 400) for _ in range(8)]
    for site in range(6):
        table.remember(prefixes_of(turns[: site + 1], b"k", b"chat"), site, NOW_S)
    rows = table.look_up(prefixes_of(turns, b"k", b"chat"), NOW_S).tolist()
    assert [site for site, _ in rows] == [5, 4, 3, 2]
    assert [tokens for _, tokens in rows] == [600, 500, 400, 300]


def test_a_prefix_is_forgotten_with_time_and_with_its_site() -> None:
    table = PrefixTable(slots_max=64)
    what = [("user", b"hello")]
    table.remember(prefixes_of(what, b"k", b"chat"), 1, NOW_S)
    assert held(table, what, now_s=NOW_S + TTL_S) == {1: 1}
    assert held(table, what, now_s=NOW_S + 2.0 * TTL_S) == {1: 0}
    table.forget(1)
    assert held(table, what) == {}


def test_the_oldest_of_four_gives_way() -> None:
    table = PrefixTable(slots_max=WAYS)
    for i in range(WAYS + 1):
        table.remember(prefixes_of([("user", bytes([i]))], b"k", b"chat"), i, NOW_S + i)
    late_s = NOW_S + WAYS
    assert held(table, [("user", bytes([0]))], now_s=late_s) == {}
    for i in range(1, WAYS + 1):
        assert held(table, [("user", bytes([i]))], now_s=late_s) == {i: 0}


def test_workers_share_a_table_and_a_zeroed_one_holds_nothing() -> None:
    shared = np.zeros(64, PREFIX_DTYPE)
    one, two = PrefixTable(slots=shared), PrefixTable(slots=shared)
    what = [("user", b"hello there")]
    assert held(one, what) == {}
    one.remember(prefixes_of(what, b"k", b"chat"), 2, NOW_S)
    assert held(two, what) == {2: 2}


def test_messages_of_any_shape_have_parts() -> None:
    found = text_parts([{"role": "user", "content": "hi"}, {"content": [{"type": "text"}]}, "odd"])
    assert found[0] == ("user", b"hi")
    assert len(found) == 3


@given(
    st.lists(st.tuples(st.sampled_from([1.0, 30.0, 1000.0]), st.integers(0, 2000)), max_size=60),
    st.integers(0, 3),
)
def test_credit_is_a_share_of_what_is_believed_and_of_one_holder_and_age(
    answers: list[tuple[float, int]], other: int
) -> None:
    table = PrefixTable(slots_max=1024)
    what = [("user", b"x" * 4000)]
    prefixes = prefixes_of(what, b"k", b"chat")
    for holder in (5, other):
        table.remember(prefixes, holder, NOW_S)
    for age_s, found in answers:
        packed = table.believed(prefixes, 5, NOW_S + age_s)
        assert packed // AGES == 1000
        table.proved(5, packed, found)
    assert ((table.trust > 0.0) & (table.trust <= 1.0)).all()
    for age_s in (1.0, 30.0, 1000.0):
        rows = held(table, what, now_s=NOW_S + age_s)
        assert rows[other] == (1000 if age_s < TTL_S else 15), (
            "what one proved says nothing of another"
        )
        told = [min(found, 1000) for a, found in answers if a == age_s]
        if told:
            before = 1000 if age_s < TTL_S else 15
            assert min(*told, before) - 1 <= rows[5] or rows[5] >= 15
            assert rows[5] <= max(*told, before) + 1


def test_a_holder_that_forgets_loses_its_credit_and_earns_it_again() -> None:
    table = PrefixTable(slots_max=64)
    what = [("user", b"x" * 4000)]
    prefixes = prefixes_of(what, b"k", b"chat")
    table.remember(prefixes, 1, NOW_S)
    for _ in range(100):
        table.proved(1, table.believed(prefixes, 1, NOW_S + 60.0), 0)
    assert held(table, what, now_s=NOW_S + 60.0) == {1: 15}
    assert held(table, what, now_s=NOW_S + 1.0) == {1: 1000}
    for _ in range(100):
        table.proved(1, table.believed(prefixes, 1, NOW_S + 60.0), 1000)
    assert held(table, what, now_s=NOW_S + 60.0)[1] > 990


def test_nothing_believed_teaches_nothing() -> None:
    table = PrefixTable(slots_max=64)
    prefixes = prefixes_of([("user", b"x" * 4000)], b"k", b"chat")
    assert table.believed(prefixes, 1, NOW_S) == 0
    before = table.trust.copy()
    table.proved(1, 0, 500)
    assert (table.trust == before).all()

"""Transforms keep what they should: order, counts, conversations, blocks; what they draw has the stated rate."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from effort import effort
from hanse.errors import ConfigError, FeedError
from hanse.signals.traces import Chunk, Origin, Trace
from hanse.signals.traces.trace import checked, cut
from hanse.signals.traces.transform import (
    OWN_IDS_BELOW,
    _own,
    assigned,
    concatenated,
    merged,
    mixed,
    renamed,
    rotated,
    scaled,
    shifted,
    thinned,
    window,
)
from signals.traces.made_traces import META, TRACES, lists, made, same, whole

SEEDS = st.integers(0, 1_000_000)
TRANSFORMS: dict[str, Callable[[Trace], Trace]] = {
    "window": lambda t: window(t, 100.0, 700.5),
    "shifted": lambda t: shifted(t, 33.0),
    "rotated": lambda t: rotated(t, 250.0),
    "concatenated": lambda t: concatenated([t, made(40, 5), t]),
    "merged": lambda t: merged([t, made(40, 5), t]),
    "thinned": lambda t: thinned(t, 0.5, 3),
    "scaled": lambda t: scaled(t, 2.5, 3),
    "assigned": lambda t: assigned(t, "cls", ("a", "b"), (1, 2), 3),
    "renamed": lambda t: renamed(t, "service", {"embed": "chat"}),
}


def in_pieces(trace: Trace, size: int) -> Trace:
    """The same trace, which comes in pieces of `size` whatever is asked."""
    chunk = whole(trace)
    return Trace(
        trace.meta,
        lambda: (cut(chunk, i, i + size) for i in range(0, len(chunk.requests), size)),
    )


@pytest.mark.parametrize("name", TRANSFORMS)
@settings(max_examples=effort(15))
@given(trace=TRACES, size=st.integers(1, 250), pieces=st.integers(1, 90))
def test_every_transform_is_sorted_in_its_window_and_independent_of_chunks(
    name: str, trace: Trace, size: int, pieces: int
) -> None:
    transform = TRANSFORMS[name]
    made_of_one = transform(trace)
    list(checked(made_of_one.chunks(size), made_of_one.meta, "transform"))
    result = whole(made_of_one)
    assert same(whole(made_of_one, size), result)
    assert same(whole(transform(in_pieces(trace, pieces))), result)
    if len(result.requests):
        assert result.requests["at_s"][-1] <= made_of_one.meta.duration_s
    assert made_of_one.meta.count in (-1, len(result.requests))


@given(TRACES, st.floats(0, 1000), st.floats(0, 1000))
def test_windows_side_by_side_are_the_whole(trace: Trace, a: float, b: float) -> None:
    a, b = sorted((a, b))
    parts = [(x, y) for x, y in ((0.0, a), (a, b), (b, np.inf)) if x < y]
    counts = [len(whole(window(trace, x, y)).requests) for x, y in parts]
    assert sum(counts) == len(whole(trace).requests)


def test_a_window_counts_from_its_start_and_keeps_the_clock() -> None:
    trace = made(300)
    dated = Trace(msgspec.structs.replace(META, start_at_s=1e9), lambda: trace.chunks())
    part = window(dated, 200.0, 300.0)
    assert (part.meta.start_at_s, part.meta.duration_s) == (1e9 + 200.0, 100.0)
    all_s = whole(trace).requests["at_s"]
    expected = all_s[(all_s >= 200.0) & (all_s < 300.0)] - 200.0
    assert np.array_equal(whole(part).requests["at_s"], expected)


@given(TRACES, st.floats(0, 3000))
def test_a_rotated_trace_has_the_same_requests_and_block_ids(trace: Trace, by_s: float) -> None:
    def what(chunk: Chunk) -> Counter[tuple[object, ...]]:
        return Counter(row[1:] for row in lists(chunk))

    turned = rotated(trace, by_s)
    assert what(whole(turned)) == what(whole(trace))
    assert turned.meta == trace.meta


def test_a_trace_of_one_instant_can_be_turned_and_doubled() -> None:
    requests = whole(made(3)).requests
    requests["at_s"] = 0.0
    meta = msgspec.structs.replace(META, duration_s=0.0)
    trace = Trace.of(meta, requests, whole(made(3)).blocks)
    assert same(whole(rotated(trace, 5.0)), whole(trace))
    assert len(whole(scaled(trace, 2.0, 1)).requests) == 6


@given(TRACES, TRACES, st.sampled_from([concatenated, merged]))
def test_joining_conserves_requests_and_keeps_conversations_apart(
    a: Trace, b: Trace, joining: Callable[..., Trace]
) -> None:
    result = joining([a, b])
    chunk = whole(result)
    counts = [len(whole(t).requests) for t in (a, b)]
    assert len(chunk.requests) == sum(counts)
    sessions = [set(whole(t).requests["session"].tolist()) - {-1} for t in (a, b)]
    joined = set(chunk.requests["session"].tolist()) - {-1}
    assert len(joined) == sum(map(len, sessions))
    blocks = [set(whole(t).blocks.tolist()) for t in (a, b)]
    assert len(set(chunk.blocks.tolist())) == sum(map(len, blocks))
    if joining is concatenated:
        assert (chunk.requests["at_s"][counts[0] :] >= 1000.0).all()


@given(TRACES, TRACES)
def test_merging_keeps_the_order_of_each_trace_and_of_equal_times(a: Trace, b: Trace) -> None:
    chunk = whole(merged([a, b], ids="same"))
    tagged = [
        (row[0], i, n, row[1:])
        for i, t in enumerate((a, b))
        for n, row in enumerate(lists(whole(t)))
    ]
    expected = [(at_s, *rest) for at_s, _, _, rest in sorted(tagged, key=lambda row: row[:3])]
    assert list(lists(chunk)) == expected


def test_names_of_several_traces_become_one_set() -> None:
    other_meta = msgspec.structs.replace(
        META, services=("embed", "vision"), origins=(), tenants=("shop",)
    )
    requests = whole(made(50, 1)).requests
    requests["origin"], requests["tenant"] = -1, 0
    other = Trace.of(other_meta, requests, whole(made(50, 1)).blocks)
    result = merged([made(50), other], ids="same")
    assert result.meta.services == ("chat", "embed", "vision")
    assert result.meta.tenants == ("demo", "shop")
    seen = whole(result).requests
    assert ((seen["origin"] == -1).sum(), (seen["tenant"] == 1).sum()) == (50, 50)
    vision = (seen["service"] == 2).sum()
    assert vision == (requests["service"] == 1).sum()


def test_traces_that_contradict_each_other_are_refused() -> None:
    a, b = made(5), made(5)
    moved = (Origin(id="lyon", lat_deg=0.0, lon_deg=0.0, country="FR"), *META.origins[1:])
    for change, where in (
        ({"block_tokens": 99}, "block_tokens"),
        ({"origins": moved}, "origin lyon"),
    ):
        other = Trace(msgspec.structs.replace(META, **change), b.chunks)
        with pytest.raises(FeedError, match=where):
            merged([a, other])
    with pytest.raises(ConfigError):
        merged([])


@pytest.mark.parametrize("keep", [0.0, 0.1, 0.5, 0.93, 1.0])
def test_thinning_keeps_the_stated_part_and_whole_conversations(keep: float) -> None:
    chunk = whole(made(30_000))
    kept = whole(thinned(made(30_000), keep, seed=11))
    sessions = np.unique(chunk.requests["session"])
    left = np.unique(kept.requests["session"])
    # About 9,500 conversations: three standard errors are 0.0154 at most.
    assert len(left) / len(sessions) == pytest.approx(keep, abs=0.0154)
    inside = np.isin(chunk.requests["session"], left[left >= 0])
    assert (kept.requests["session"] >= 0).sum() == inside.sum()


def test_thinning_of_single_requests_has_the_stated_rate_and_follows_the_seed() -> None:
    requests = whole(made(30_000)).requests
    requests["session"] = -1
    trace = Trace.of(META, requests, whole(made(30_000)).blocks)
    kept = [whole(thinned(trace, 0.3, seed)) for seed in (1, 1, 2)]
    assert same(kept[0], kept[1]) and not same(kept[0], kept[2])
    assert len(kept[0].requests) / 30_000 == pytest.approx(0.3, abs=0.008)


@pytest.mark.parametrize("factor", [1.0, 2.0, 3.0])
def test_whole_factors_multiply_counts_exactly(factor: float) -> None:
    result = scaled(made(500), factor, seed=1)
    chunk = whole(result)
    assert len(chunk.requests) == 500 * factor
    assert result.meta.duration_s == META.duration_s
    assert (
        chunk.requests["tokens_in"].sum() == whole(made(500)).requests["tokens_in"].sum() * factor
    )


def test_copies_do_not_arrive_in_the_same_instant_but_close_by() -> None:
    requests = whole(made(300)).requests
    requests["session"] = np.arange(300)
    requests["tokens_in"] = np.arange(300)
    trace = Trace.of(META, requests, whole(made(300)).blocks)
    doubled = whole(scaled(trace, 2.0, seed=1)).requests
    order = np.lexsort((doubled["at_s"], doubled["tokens_in"]))
    first, second = doubled["at_s"][order][::2], doubled["at_s"][order][1::2]
    assert (second - first).max() <= 60.0
    assert np.mean(second - first) == pytest.approx(30.0, abs=5.0)


def test_a_broken_factor_lies_between() -> None:
    count = len(whole(scaled(made(20_000), 1.25, seed=4)).requests)
    assert count == pytest.approx(25_000, rel=0.02)


def test_assigning_draws_by_weight_once_a_conversation() -> None:
    places = (META.origins[0], Origin(id="paris", lat_deg=48.9, lon_deg=2.35, country="FR"))
    result = assigned(made(30_000), "origin", places, (1, 3), seed=2)
    requests = whole(result).requests
    assert result.meta.origins == places
    assert (requests["origin"] == 1).mean() == pytest.approx(0.75, abs=0.02)
    talks = requests[requests["session"] >= 0]
    pairs = np.unique(talks[["session", "origin"]])
    assert len(pairs) == len(np.unique(talks["session"]))
    classes = whole(assigned(result, "cls", ("a", "b"), (1, 1), seed=2)).requests["cls"]
    assert abs(np.corrcoef(classes, requests["origin"])[0, 1]) < 0.03, "columns are independent"


def test_renaming_joins_services() -> None:
    result = renamed(made(100), "service", {"chat": "talk", "embed": "talk"})
    assert result.meta.services == ("talk",)
    assert (whole(result).requests["service"] == 0).all()
    with pytest.raises(ConfigError, match="chat, embed"):
        renamed(made(1), "service", {"chta": "talk"})


WRONG: dict[str, Callable[[Trace], Trace]] = {
    "an empty window": lambda t: window(t, 5.0, 5.0),
    "an earlier start": lambda t: shifted(t, -1.0),
    "more than all": lambda t: thinned(t, 1.5, 0),
    "less than nothing": lambda t: scaled(t, -1.0, 0),
    "a weight too few": lambda t: assigned(t, "cls", ("a", "b"), (1,), 0),
    "no weight": lambda t: assigned(t, "cls", ("a",), (0,), 0),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_cannot_be_meant_is_refused(what: str) -> None:
    with pytest.raises(ConfigError):
        WRONG[what](made(10))


@given(st.lists(st.integers(-1, (1 << 63) - 1), unique=True), st.integers(1, 50))
def test_own_numbers_collide_with_nobodys(ids: list[int], count: int) -> None:
    given_ids = np.array(ids, np.int64)
    seen = np.concatenate([_own(given_ids, count, i) for i in range(count)])
    seen = seen[seen != -1]
    assert (seen >= 0).all()
    assert len(np.unique(seen)) == len(seen) == count * len([i for i in ids if i >= 0])
    assert (seen[seen < 1 << 62] < OWN_IDS_BELOW * count).all()


def test_mixing_is_splitmix64() -> None:
    # The first two outputs of the reference implementation for seed 0. Value 1 cancels the key of salt 0.
    states = np.array([1, 1 ^ 0x9E3779B97F4A7C15], np.uint64)
    assert mixed(states, 0).tolist() == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4]

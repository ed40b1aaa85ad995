"""Floors of the league: what sites keep up while a placement becomes another, counted as room for requests."""

from __future__ import annotations

import dataclasses
from collections import Counter

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from dispatch.test_rolling import _believed, made, placed
from hanse.dispatch.belief import Floor
from hanse.dispatch.rolling import league_floors
from hanse.model.fleet import Placement


def test_small_replicas_stay_until_a_large_one_that_takes_their_place_is_up() -> None:
    small = msgspec.structs.replace(placed((4, 0, 0))[0], slots=2)
    large = msgspec.structs.replace(placed((1, 0, 0), at="b")[0], slots=8)
    sites = {"a": _believed("a", Counter()), "b": _believed("b", Counter())}

    def floors(*up: Placement) -> tuple[Floor, ...]:
        there = {
            name: dataclasses.replace(site, serving=tuple(p for p in up if p.site == name))
            for name, site in sites.items()
        }
        return league_floors(made(4), (large,), there)

    assert floors(small) == (Floor(site="a", service="chat", replicas_min=4),)
    assert floors(small, large) == ()


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from("ab"), st.integers(1, 4), st.integers(1, 9)), max_size=5),
    st.lists(st.tuples(st.sampled_from("ab"), st.integers(1, 4), st.integers(1, 9)), max_size=5),
)
def test_whatever_a_site_lets_go_first_a_floor_leaves_room_for_what_both_ends_have(
    now: list[tuple[str, int, int]], then: list[tuple[str, int, int]]
) -> None:
    """With a chip to spare for all, so that no floor gives way."""
    one = placed((1, 0, 0))[0]

    def of(kinds: list[tuple[str, int, int]]) -> tuple[Placement, ...]:
        merged: Counter[tuple[str, int]] = Counter()
        for at, count, slots in kinds:
            merged[at, slots] += count
        return tuple(
            msgspec.structs.replace(one, site=at, slots=slots, replicas=count)
            for (at, slots), count in sorted(merged.items())
        )

    up, wanted = of(now), of(then)
    sites = {
        name: dataclasses.replace(
            _believed(name, Counter()), serving=tuple(p for p in up if p.site == name)
        )
        for name in "ab"
    }
    held = {f.site: f.replicas_min for f in league_floors(made(64), wanted, sites)}
    to_be = {(p.site, p.slots): p.replicas for p in wanted}
    left = 0
    for name in "ab":
        stays = [
            p.slots
            for p in up
            if p.site == name
            for _ in range(min(p.replicas, to_be.get((name, p.slots), 0)))
        ]
        goes = sorted(
            p.slots
            for p in up
            if p.site == name
            for _ in range(max(p.replicas - to_be.get((name, p.slots), 0), 0))
        )
        left += sum(stays) + sum(goes[: max(held.get(name, 0) - len(stays), 0)])
    ends = (sum(p.slots * p.replicas for p in ps) for ps in (up, wanted))
    assert left >= min(ends)

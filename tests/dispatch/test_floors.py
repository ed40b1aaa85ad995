"""Floors of the league: what sites keep up while a placement becomes another, counted as room for requests."""

from __future__ import annotations

import dataclasses
from collections import Counter

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dispatch.fleets import fleet, site
from dispatch.test_rolling import SERVICES, counts, made, placed, services_in
from effort import effort
from hanse.dispatch.belief import Floor, SiteBelief
from hanse.dispatch.rolling import league_floors
from hanse.model.fleet import Fleet, Placement, Pool


def test_small_replicas_stay_until_a_large_one_that_takes_their_place_is_up() -> None:
    small = msgspec.structs.replace(placed((4, 0, 0))[0], slots=2)
    large = msgspec.structs.replace(placed((1, 0, 0), at="b")[0], slots=8)
    sites = {"a": believed("a", Counter()), "b": believed("b", Counter())}

    def floors(*up: Placement) -> tuple[Floor, ...]:
        there = {
            name: dataclasses.replace(site, serving=tuple(p for p in up if p.site == name))
            for name, site in sites.items()
        }
        return league_floors(made(4), (large,), there)

    assert floors(small) == (Floor(site="a", service="chat", replicas_min=4),)
    assert floors(small, large) == ()


@settings(max_examples=effort(100), deadline=None)
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
            believed(name, Counter()), serving=tuple(p for p in up if p.site == name)
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


@settings(max_examples=effort(30), deadline=None)
@given(counts, counts, counts, counts, st.integers(0, 2**32 - 1))
def test_what_moves_between_sites_is_up_somewhere_all_the_time(
    a: tuple[int, ...], b: tuple[int, ...], to_a: tuple[int, ...], to_b: tuple[int, ...], seed: int
) -> None:
    """Both sites act at once, one step a round in random order; the league's count never falls below what both ends have."""
    rng = np.random.default_rng(seed)
    chips = max(map(sum, (a, b, to_a, to_b))) + 1
    league = made(chips)
    up = {"a": services_in(a), "b": services_in(b)}
    to_be = {"a": services_in(to_a), "b": services_in(to_b)}
    wanted = tuple(
        Placement(service=s, variant="v0", site=at, pool="gpu", replicas=n)
        for at, of in to_be.items()
        for s, n in of.items()
        if n
    )
    least = (up["a"] + up["b"]) & (to_be["a"] + to_be["b"])
    given_way = set()
    for _ in range(200):
        sites = {name: believed(name, of) for name, of in up.items()}
        floors = league_floors(league, wanted, sites)
        if floors == () and (up["a"] + up["b"]) & least != least:
            break
        held = {(f.site, f.service): f.replicas_min for f in floors}
        name = str(rng.choice(["a", "b"]))
        for s in rng.permutation(["chat", "code"]):
            more, over = to_be[name][s] - up[name][s], up[name][s] - to_be[name][s]
            if more > 0 and up[name].total() < chips:
                up[name][s] += 1
                break
            if over > 0 and up[name][s] > held.get((name, s), 0):
                up[name][s] -= 1
                break
        kept = up["a"] + up["b"]
        given_way |= {s for s in least if kept[s] < least[s]}
        if +up["a"] == +to_be["a"] and +up["b"] == +to_be["b"]:
            break
    assert +up["a"] == +to_be["a"] and +up["b"] == +to_be["b"], "they wait for each other"
    # With one chip to spare at both, nothing ever had to give way.
    assert not given_way


def believed(name: str, up: Counter[str]) -> SiteBelief:
    serving = tuple(
        Placement(service=s, variant="v0", site=name, pool="gpu", replicas=n)
        for s, n in sorted(up.items())
        if n
    )
    return SiteBelief(
        pue=1.2, carbon_g_per_kwh=1.0, price_usd_per_kwh=0.1, up=True, serving=serving
    )


def test_a_silent_site_keeps_its_floor_while_it_may_serve_on_and_no_other_leans_on_it() -> None:
    league = made(2)
    wanted = placed((1, 0, 0), at="b")

    def floors(**sites: SiteBelief) -> tuple[Floor, ...]:
        return league_floors(league, wanted, sites)

    here, there = (
        dataclasses.replace(
            believed(name, Counter()),
            serving=placed((1, 0, 0), at=name),
            up=False,
            heard_at_s=1.0,
            verdict="cut",
        )
        for name in "ab"
    )
    empty = believed("b", Counter())
    assert floors(a=here, b=empty) == (Floor(site="a", service="chat", replicas_min=1),)
    assert floors(a=dataclasses.replace(here, verdict="dead"), b=empty) == ()
    up = dataclasses.replace(here, up=True)
    assert floors(a=up, b=dataclasses.replace(there, up=True)) == ()
    assert floors(a=up, b=there) == (Floor(site="a", service="chat", replicas_min=1),)


CHAT = ("chat", "v0", "gpu")


def fleet_of_three(chips: int) -> Fleet:
    pools = (Pool(id="gpu", accelerator="l4", count=chips),)
    return fleet(tuple(site(name, pools=pools) for name in "abc"), services=SERVICES)


def three(**sites: SiteBelief) -> dict[str, SiteBelief]:
    nobody = believed("c", Counter())
    return {"a": nobody, "b": nobody, "c": nobody} | sites


def test_nobody_waits_for_what_others_were_placed_beside() -> None:
    """chat goes from a to b, does not start there, and is placed at c beside it."""
    was = dataclasses.replace(believed("a", Counter()), serving=placed((1, 0, 0)))
    league = fleet_of_three(4)
    stuck = dataclasses.replace(believed("b", Counter()), failing={CHAT: "no driver"})
    kept = placed((1, 0, 0), at="b")
    one = msgspec.structs.replace(kept[0], site="c")
    held = (Floor(site="a", service="chat", replicas_min=1),)
    assert league_floors(league, kept, three(a=was, b=stuck)) == held, "nothing else is up"
    around = dataclasses.replace(stuck, around=frozenset((CHAT,)))
    wanted = (*kept, one)
    assert league_floors(league, wanted, three(a=was, b=around)) == held, "c loads still"
    there = dataclasses.replace(believed("c", Counter()), serving=(one,))
    assert league_floors(league, wanted, three(a=was, b=around, c=there)) == ()
    # Elsewhere two full sites that exchange services go on with it.
    swap = (*placed((0, 0, 1)), *placed((1, 0, 0), at="c"))
    full = fleet_of_three(1)
    sites = three(a=believed("a", Counter(chat=1)), b=around, c=believed("c", Counter(code=1)))
    assert len(league_floors(full, (*kept, *swap), sites)) < 2


def test_a_site_that_can_be_told_nothing_keeps_no_others_waiting() -> None:
    """b and c are full and exchange services; a is cut off with a replica that was to leave."""
    sites = {
        "a": dataclasses.replace(
            believed("a", Counter(embed=1)), up=False, heard_at_s=1.0, verdict="cut"
        ),
        "b": believed("b", Counter(chat=1)),
        "c": believed("c", Counter(code=1)),
    }
    there = placed((1, 0, 0), at="c")
    wanted = (*placed((0, 0, 1), at="b"), *there)
    floors = league_floors(fleet_of_three(1), wanted, sites)
    assert len([f for f in floors if f.site in ("b", "c")]) == 1, "one of both gives way"


@pytest.mark.parametrize("state", ["drained", "draining", "dead"])
def test_nobody_waits_for_what_is_placed_at_a_site_that_is_drained_or_dead(state: str) -> None:
    """b and c are full and exchange services; what is placed at a, where there is room, is not to come."""
    away = believed("a", Counter(chat=1) if state == "draining" else Counter())
    if state == "dead":
        away = dataclasses.replace(away, up=False, heard_at_s=1.0, verdict="dead")
    else:
        away = dataclasses.replace(away, drained=True)
    sites = {"a": away, "b": believed("b", Counter(chat=1)), "c": believed("c", Counter(code=1))}
    wanted = (
        *placed((1, 0, 0)),
        *placed((0, 0, 1), at="b"),
        *placed((1, 0, 0), at="c"),
    )
    floors = league_floors(fleet_of_three(1), wanted, sites)
    assert len(floors) == 1, "one of both gives way"


def test_two_full_sites_that_exchange_services_do_not_wait_for_each_other_for_ever() -> None:
    league = made(1)
    sites = {"a": believed("a", Counter(chat=1)), "b": believed("b", Counter(code=1))}
    wanted = (*placed((0, 0, 1)), *placed((1, 0, 0), at="b"))
    floors = league_floors(league, wanted, sites)
    assert floors == (Floor(site="b", service="code", replicas_min=1),), "the first gives way"


def test_what_gives_way_is_one_replica_of_the_service_that_has_most() -> None:
    """Chat's only two replicas and two of many of code wait for each other's chips at full sites."""
    sites = {
        "a": believed("a", Counter(chat=1, code=2)),
        "b": believed("b", Counter(chat=1, code=2)),
        "c": believed("c", Counter(code=3)),
        "d": believed("d", Counter(code=3)),
    }
    base = made(3)
    more = tuple(msgspec.structs.replace(base.sites[0], id=name) for name in "cd")
    league = msgspec.structs.replace(base, sites=(*base.sites, *more))
    wanted = tuple(
        Placement(service=service, variant="v0", site=site, pool="gpu", replicas=count)
        for site, service, count in (
            ("a", "code", 3), ("b", "code", 3), ("c", "chat", 1), ("c", "code", 2), ("d", "chat", 1), ("d", "code", 2),
        )
    )  # fmt: skip
    floors = {(f.site, f.service): f.replicas_min for f in league_floors(league, wanted, sites)}
    assert floors[("a", "chat")] == floors[("b", "chat")] == 1, "of two it has none to spare"
    code = sum(floors.get((site, "code"), 2) for site in "cd") + 4
    assert code == 9, "one of ten"

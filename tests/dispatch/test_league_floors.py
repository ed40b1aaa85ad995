"""What sites keep up for each other while replicas move between them."""

from __future__ import annotations

from collections import Counter

import msgspec
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from dispatch.test_rolling import counts, made, placed, services_in
from hanse.dispatch.belief import Floor, SiteBelief
from hanse.dispatch.rolling import league_floors
from hanse.model.fleet import Placement


@settings(max_examples=30, deadline=None)
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
        sites = {name: _believed(name, of) for name, of in up.items()}
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


def _believed(name: str, up: Counter[str]) -> SiteBelief:
    serving = tuple(
        Placement(service=s, variant="v0", site=name, pool="gpu", replicas=n)
        for s, n in sorted(up.items())
        if n
    )
    return SiteBelief(
        pue=1.2, carbon_g_per_kwh=1.0, price_usd_per_kwh=0.1, up=True, serving=serving
    )


def test_two_full_sites_that_exchange_services_do_not_wait_for_each_other_for_ever() -> None:
    league = made(1)
    sites = {"a": _believed("a", Counter(chat=1)), "b": _believed("b", Counter(code=1))}
    wanted = (*placed((0, 0, 1)), *placed((1, 0, 0), at="b"))
    floors = league_floors(league, wanted, sites)
    assert floors == (Floor(site="b", service="code", replicas_min=1),), "the first gives way"


def test_what_gives_way_is_one_replica_of_the_service_that_has_most() -> None:
    """Chat's only two replicas and two of many of code wait for each other's chips at full sites."""
    sites = {
        "a": _believed("a", Counter(chat=1, code=2)),
        "b": _believed("b", Counter(chat=1, code=2)),
        "c": _believed("c", Counter(code=3)),
        "d": _believed("d", Counter(code=3)),
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

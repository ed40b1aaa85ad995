"""One variant on one and on two chips at the same site: what starts first, what gateways are told, what workloads of Kubernetes can be."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dispatch.fleets import NOW_S, fleet, site
from dispatch.test_rolling import SERVICES, Ground, made, placed
from effort import effort
from hanse.dispatch import events as ev
from hanse.dispatch.belief import Floor
from hanse.dispatch.dispatcher import Dispatcher
from hanse.dispatch.place_offers import Here, offers_of
from hanse.dispatch.rolling import placement_problem
from hanse.model.check import check_fleet
from hanse.model.fleet import Kubernetes, Placement, Pool

CHAT = placed((1, 0, 0), chips=1)[0]
CODE = placed((0, 0, 1), chips=4)[0]


def of(one: Placement, chips: int, replicas: int, slots: int = 8) -> Placement:
    return msgspec.structs.replace(one, chips=chips, replicas=replicas, slots=slots)


@settings(max_examples=effort(30), deadline=None)
@given(st.integers(0, 10_000), st.permutations(["large", "small"]))
def test_a_small_engine_starts_where_the_room_of_a_large_one_waits_for_it(
    seed: int, order: list[str]
) -> None:
    """Four small ones must stay until their successor on two chips is up, and the large newcomer needs two of their chips."""
    ground = Ground(made(6, of(CHAT, 1, 4)), np.random.default_rng(seed))
    ground.run(60.0)
    new = {"large": of(CODE, 4, 1), "small": of(CHAT, 2, 1)}
    wanted = tuple(new[name] for name in order)
    ground.place(wanted, (Floor(site="a", service="chat", replicas_min=4),))
    ground.run(60.0)
    up = {(e.spec.service, e.spec.chips) for e in ground.belief.engines.values() if e.state == "up"}
    assert ("chat", 2) in up and ground.up()["chat"] >= 4
    ground.place(wanted)
    ground.run(200.0)
    assert sorted((e.spec.service, e.spec.chips) for e in ground.belief.engines.values()) == [
        ("chat", 2),
        ("code", 4),
    ]


def test_a_table_describes_what_is_up_while_another_kind_is_to_come() -> None:
    dispatcher = Dispatcher("fleet")
    old, new = of(CHAT, 1, 2, slots=8), of(CHAT, 2, 1, slots=40)
    dispatcher.handle(ev.FleetLoaded(at_s=NOW_S, fleet=made(8, old)))
    dispatcher.handle(ev.EpochGranted(at_s=NOW_S, epoch=1))

    def slots(at_s: float, *serving: Placement) -> list[float]:
        event = ev.SiteHeard(at_s=at_s, site="a", epoch=1, table_version=0, serving=serving)
        dispatcher.handle(event)
        dispatcher.handle(ev.Ticked(at_s=at_s))
        assert dispatcher.table is not None
        return [float(n) for n in dispatcher.table.offers["slots"]]

    assert slots(NOW_S, old) == [8.0]
    dispatcher.handle(ev.PlacementDecided(at_s=NOW_S, source="test", placements=(new,)))
    assert slots(NOW_S + 1.0, old) == [8.0]
    # None may be promised more than the replica has that it comes to.
    assert slots(NOW_S + 2.0, old, new) == [8.0]
    assert slots(NOW_S + 3.0, new) == [40.0]


@pytest.mark.parametrize(
    ("name", "has", "fits"), [("llm", 2, False), ("llm", 4, True), ("llm-{chips}", 2, True)]
)
def test_a_replica_of_a_workload_has_the_chips_of_its_pod(name: str, has: int, fits: bool) -> None:
    known = Kubernetes(name=name, chips=has)
    pool = Pool(id="gpu", accelerator="l4", count=8, driver="kubernetes", kubernetes=known)
    league = fleet((site("a", pools=(pool,)),), services=SERVICES, placements=(CODE,))
    assert (placement_problem(league, league.sites[0], (CODE,)) == "") == fits
    told = [str(problem) for problem in check_fleet(league)]
    assert any("placement[0].chips" in problem for problem in told) == (not fits)


def test_placements_choose_chips_only_where_there_is_a_workload_for_each_number() -> None:
    from hanse.catalogue import accelerator
    from hanse.dispatch.place_offers import Power, Work

    def chips(known: Kubernetes) -> set[int]:
        pool = Pool(id="gpu", accelerator="l40s", count=8, driver="kubernetes", kubernetes=known)
        power = Power(usd_per_kwh=0.1, empty_w=50.0)
        here = Here(0, 0, pool, accelerator("l40s"), power, (), {}, False)
        found = offers_of(0, SERVICES[0], here, Work(300.0, 100.0))
        return {offer.chips for offer in found}

    assert chips(Kubernetes(name="llm", chips=2)) == {2}
    assert len(chips(Kubernetes(name="llm-{chips}"))) > 1

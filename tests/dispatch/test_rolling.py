"""Placements that change under a site: capacity, chips, drains, and that it always gets there."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Literal

import msgspec
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from dispatch.fleets import NOW_S, fleet, service, site
from effort import effort
from hanse.dispatch import actions as act
from hanse.dispatch import events as ev
from hanse.dispatch.actions import Action
from hanse.dispatch.belief import Belief, Floor
from hanse.dispatch.dispatcher import Dispatcher
from hanse.dispatch.failing import FAILING_FROM
from hanse.dispatch.rolling import (
    league_problem,
    placement_problem,
    recipe,
    routable,
)
from hanse.model.check import check_fleet
from hanse.model.fleet import Fleet, Kubernetes, Placement, Pool, SlowLoop

SERVICES = (service("chat", variants=2), service("code", variants=1))
VARIANTS = (("chat", "v0"), ("chat", "v1"), ("code", "v0"))
TICK_S = 0.5
"""Twice an agent's: half the time to simulate."""


def made(chips: int, *placements: Placement) -> Fleet:
    here = site("a", pools=(Pool(id="gpu", accelerator="l4", count=chips),))
    there = site("b", pools=(Pool(id="gpu", accelerator="l4", count=chips),))
    return fleet((here, there), services=SERVICES, placements=placements)


def placed(
    counts: tuple[int, ...], chips: int | None = None, at: str = "a"
) -> tuple[Placement, ...]:
    return tuple(
        Placement(service=s, variant=v, site=at, pool="gpu", replicas=n, slots=8, chips=chips)
        for (s, v), n in zip(VARIANTS, counts, strict=True)
        if n
    )


@dataclass
class Engine:
    ready_at_s: float
    alive: bool = True
    requests_until_s: float = 0.0
    told: str = "starting"
    drained_at_s: float = float("inf")


@dataclass
class Ground:
    """What really happens at a site; the dispatcher hears of it by events alone."""

    made: Fleet
    rng: np.random.Generator
    fails: float = 0.0
    now_s: float = NOW_S
    engines: dict[str, Engine] = field(default_factory=dict)
    log: list[tuple[float, Counter[str]]] = field(default_factory=list)
    version: int = 0
    floors: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.dispatcher = Dispatcher("site", site="a")
        self.do(self.dispatcher.handle(ev.FleetLoaded(at_s=self.now_s, fleet=self.made)))

    @property
    def belief(self) -> Belief:
        assert self.dispatcher.belief is not None
        return self.dispatcher.belief

    def tell(self, event: ev.Event) -> None:
        self.do(self.dispatcher.handle(event))

    def place(self, placements: tuple[Placement, ...], floors: tuple[Floor, ...] = ()) -> None:
        self.version += 1
        self.floors = {f.service: f.replicas_min for f in floors}
        self.tell(
            ev.PlacementDecided(
                at_s=self.now_s,
                source="test",
                placements=placements,
                version=self.version,
                floors=floors,
            )
        )

    def up(self) -> Counter[str]:
        return Counter(
            name.split("-")[0] for name, e in self.engines.items() if e.told == "up" and e.alive
        )

    def do(self, actions: list[Action]) -> None:
        for action in actions:
            if isinstance(action, act.StartEngine | act.RestartEngine):
                name = action.engine.name
                assert isinstance(action, act.RestartEngine) == (name in self.engines)
                fails = self.rng.random() < self.fails
                wait_s = float(self.rng.uniform(0.5, 20))
                self.engines[name] = Engine(self.now_s + wait_s, alive=not fails)
            elif isinstance(action, act.MarkEngine):
                engine = self.engines[action.engine.name]
                if action.state == "draining" and engine.told == "up":
                    self._may_drain(action.engine.service)
                    engine.drained_at_s = self.now_s
                    engine.requests_until_s = self.now_s + float(self.rng.uniform(0, 30))
                engine.told = action.state
            elif isinstance(action, act.StopEngine):
                engine = self.engines.pop(action.engine.name)
                served = self.now_s >= engine.ready_at_s and engine.alive
                over = self.now_s - engine.drained_at_s >= 60.0
                assert not served or over or self.now_s >= engine.requests_until_s, "requests lost"
                assert not served or engine.drained_at_s < float("inf"), "stopped without a drain"
        held = sum(e.spec.chips if e.spec.alone else 1 for e in self.belief.engines.values())
        assert held <= self.made.sites[0].pools[0].count, "more chips than there are"
        rows = [e.spec.index for e in self.belief.engines.values()]
        assert len(set(rows)) == len(rows)
        assert set(self.engines) == set(self.belief.engines)

    def _may_drain(self, of: str) -> None:
        assert self.up()[of] - 1 >= self.floors.get(of, 0), "below a floor"

    def run(self, for_s: float, deaths: float = 0.0) -> None:
        until_s = self.now_s + for_s
        while self.now_s < until_s:
            self.now_s += TICK_S
            for name, engine in list(self.engines.items()):
                if engine.alive and self.rng.random() < deaths:
                    engine.alive = False
                if self.now_s < engine.ready_at_s or name not in self.engines:
                    continue
                if not engine.alive:
                    if engine.told != "dead":
                        self.tell(ev.EngineDied(at_s=self.now_s, engine=name))
                        engine.told = "dead"
                    continue
                self.tell(ev.EngineProbed(at_s=self.now_s, engine=name, answered=True))
                if engine.told == "draining" and self.now_s >= engine.requests_until_s:
                    self.tell(ev.EngineEmptied(at_s=self.now_s, engine=name))
            self.tell(ev.Ticked(at_s=self.now_s))
            self.log.append((self.now_s, self.up()))

    def arrived(self) -> bool:
        """Whether exactly what is placed is up."""
        wanted = Counter(
            {(p.service, p.variant): p.replicas for p in self.belief.placements if p.site == "a"}
        )
        found = Counter(
            (e.spec.service, e.spec.variant)
            for e in self.belief.engines.values()
            if e.state == "up" and not e.leaving
        )
        return wanted == found and len(self.engines) == wanted.total()


counts = st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 3))


def services_in(c: tuple[int, ...]) -> Counter[str]:
    total: Counter[str] = Counter()
    for (name, _), n in zip(VARIANTS, c, strict=True):
        total[name] += n
    return total


@settings(max_examples=effort(30), deadline=None)
@given(st.lists(counts, min_size=2, max_size=4), st.integers(0, 2**32 - 1))
def test_with_room_for_both_a_service_never_has_fewer_than_before_or_after(
    steps: list[tuple[int, ...]], seed: int
) -> None:
    ground = Ground(made(40, *placed(steps[0])), np.random.default_rng(seed))
    ground.run(25)
    before = services_in(steps[0])
    for step in steps[1:]:
        ground.log.clear()
        ground.place(placed(step))
        ground.run(120)
        least = before & services_in(step)
        assert all(up[name] >= n for _, up in ground.log for name, n in least.items())
        assert ground.arrived()
        before = services_in(step)


@settings(max_examples=effort(30), deadline=None)
@given(st.lists(counts, min_size=2, max_size=4), st.integers(0, 2**32 - 1))
def test_in_a_full_pool_replicas_are_swapped_one_by_one(
    steps: list[tuple[int, ...]], seed: int
) -> None:
    """Nine chips for nine replicas: at any time at most one is missing of what both placements have."""
    ground = Ground(made(9, *placed(steps[0])), np.random.default_rng(seed))
    ground.run(25)
    before = services_in(steps[0])
    for step in steps[1:]:
        ground.log.clear()
        ground.place(placed(step))
        ground.run(500)
        least = before & services_in(step)
        assert all((least - up).total() <= 1 for _, up in ground.log)
        assert ground.arrived()
        before = services_in(step)


@settings(max_examples=effort(30), deadline=None)
@given(
    st.lists(st.tuples(counts, st.sampled_from([1, 2, None])), min_size=2, max_size=5),
    st.integers(0, 2**32 - 1),
    st.floats(0, 0.01),
    st.floats(0, 0.5),
    st.floats(1, 60),
)
def test_whatever_dies_and_fails_chips_are_kept_requests_end_and_it_gets_there(
    steps: list[tuple[tuple[int, ...], int | None]],
    seed: int,
    deaths: float,
    fails: float,
    every_s: float,
) -> None:
    ground = Ground(made(12, *placed(steps[0][0])), np.random.default_rng(seed), fails=fails)
    for step, chips in steps[1:]:
        ground.run(every_s, deaths)
        want = placed(step, chips)
        if placement_problem(ground.made, ground.made.sites[0], want):
            before = ground.belief.placements
            ground.place(want)
            assert ground.belief.placements == before, "what does not fit changes nothing"
        else:
            ground.place(want)
    ground.fails = 0.0
    ground.run(900)
    assert ground.arrived()


@settings(max_examples=effort(20), deadline=None)
@given(counts, counts, st.integers(0, 3), st.integers(4, 12), st.integers(0, 2**32 - 1))
def test_a_floor_of_the_league_holds_until_it_is_lifted(
    first: tuple[int, ...], then: tuple[int, ...], least: int, chips: int, seed: int
) -> None:
    chips = max(chips, sum(first), sum(then))
    ground = Ground(made(chips, *placed(first)), np.random.default_rng(seed))
    ground.run(25)
    floor = Floor(site="a", service="chat", replicas_min=min(least, services_in(first)["chat"]))
    ground.place(placed(then), (floor,))
    ground.log.clear()
    ground.run(150)  # `_may_drain` asserts with every step
    assert all(up["chat"] >= floor.replicas_min for _, up in ground.log)
    ground.place(placed(then))
    ground.run(500)
    assert ground.arrived()


def test_a_start_that_fails_again_and_again_leaves_the_old_one_serving() -> None:
    ground = Ground(made(8, *placed((1, 0, 0))), np.random.default_rng(1))
    ground.run(25)
    ground.fails = 1.0
    ground.place(placed((0, 1, 0)))
    ground.run(300)
    assert ground.up()["chat"] == 1
    failing = ground.belief.engines["chat-v1-0"]
    assert failing.attempts >= FAILING_FROM
    ground.place(placed((1, 0, 0)))
    ground.run(5)
    assert ground.arrived()


def test_an_engine_that_is_wanted_again_stays_as_if_nothing_had_been() -> None:
    ground = Ground(made(8, *placed((2, 0, 0))), np.random.default_rng(3))
    ground.run(25)
    ground.place(placed((1, 0, 0)))
    assert ground.belief.engines["chat-v0-1"].state == "draining"
    ground.place(placed((2, 0, 0)))
    assert ground.belief.engines["chat-v0-1"].state == "up"
    ground.run(100)
    assert ground.arrived()


def test_an_earlier_version_and_an_earlier_epoch_change_nothing() -> None:
    ground = Ground(made(8, *placed((2, 0, 0))), np.random.default_rng(3))
    ground.version = 5
    ground.place(placed((1, 0, 0)))
    late = ev.PlacementDecided(at_s=ground.now_s, source="late", placements=(), version=5)
    for event in (late, msgspec.structs.replace(late, version=9, epoch=1)):
        ground.tell(event)
    assert ground.belief.placement_version == (1, 9), "a later epoch may count from anywhere"
    ground.tell(msgspec.structs.replace(late, version=30, placements=placed((1, 0, 0))))
    assert ground.belief.placements == ()


def test_a_successor_adopts_what_runs_and_drains_what_is_placed_no_more() -> None:
    ground = Ground(made(8, *placed((3, 0, 0))), np.random.default_rng(3))
    ground.run(25)
    left = tuple(engine.spec for engine in ground.belief.engines.values())
    successor = Dispatcher("site", site="a")
    load = ev.FleetLoaded(
        at_s=NOW_S, fleet=ground.made, placements=placed((1, 0, 1)), engines_known=left
    )
    first = successor.handle(load)
    assert successor.belief is not None
    started = [a.engine.name for a in first if isinstance(a, act.StartEngine)]
    assert started == ["chat-v0-0", "chat-v0-1", "chat-v0-2", "code-v0-0"], (
        "known ones are found again"
    )
    assert not [a for a in first if isinstance(a, act.StopEngine)], "they may be at work"
    done = []
    for name in started:
        probed = ev.EngineProbed(at_s=NOW_S + 1, engine=name, answered=True)
        done += successor.handle(probed)
    states = {n: e.state for n, e in successor.belief.engines.items()}
    assert states == {
        "chat-v0-0": "up",
        "chat-v0-1": "draining",
        "chat-v0-2": "draining",
        "code-v0-0": "up",
    }


# --- in a brownout


def brownout(ground: Ground, available_kw: float, drawn_kw: float) -> None:
    idle = tuple(n for n, e in ground.belief.engines.items() if e.state == "up")
    ground.tell(
        ev.PowerChanged(
            at_s=ground.now_s,
            available_kw=available_kw,
            drawn_kw=drawn_kw,
            cause="battery low",
            idle=idle,
        )
    )


def test_idle_engines_rest_when_all_else_is_given_up_and_come_back() -> None:
    ground = Ground(made(8, *placed((3, 0, 2))), np.random.default_rng(3))
    ground.run(25)
    brownout(ground, 1.0, 5.0)
    assert ground.dispatcher.at_site.reasons[-1].startswith("battery low: no class")
    names = {n for n, e in ground.belief.engines.items() if e.rests}
    assert len(names) == 3, "one of each service stays"
    for name in names:
        ground.engines[name].requests_until_s = ground.now_s
    for _ in range(4):
        ground.now_s += TICK_S
        for name in names:
            if ground.belief.engines[name].state == "draining":
                stopped = ground.dispatcher.handle(ev.EngineEmptied(at_s=ground.now_s, engine=name))
                kinds = [type(a).__name__ for a in stopped]
                assert kinds in ([], ["MarkEngine", "StopEngine"])
    states = Counter(e.state for e in ground.belief.engines.values())
    assert states == {"resting": 3, "up": 2}
    rows = {e.spec.index for e in ground.belief.engines.values()}
    assert len(rows) == 5, "who rests keeps its row"
    woken = []
    for _ in range(8):
        ground.now_s += 60.0
        event = ev.PowerChanged(at_s=ground.now_s, available_kw=20.0, drawn_kw=1.0)
        woken += ground.dispatcher.handle(event)
    assert sum(isinstance(a, act.StartEngine) for a in woken) == 3
    assert isinstance(woken[-1], act.Unshed)


def test_an_engine_that_rested_is_not_failing_when_it_starts_again() -> None:
    ground = Ground(made(8, *placed((3, 0, 2))), np.random.default_rng(3))
    ground.run(25)
    name = "chat-v0-2"
    engine = ground.belief.engines[name]
    engine.attempts = 5
    brownout(ground, 1.0, 5.0)
    assert engine.rests
    ground.dispatcher.handle(ev.EngineEmptied(at_s=ground.now_s + 1.0, engine=name))
    assert (engine.state, engine.attempts) == ("resting", 0)


def cluster_fleet(
    *placements: Placement,
    kind: Literal["Deployment", "LeaderWorkerSet"] = "LeaderWorkerSet",
    chips: int = 8,
) -> Fleet:
    known = Kubernetes(kind=kind, name="{service}-{variant}")
    pools = tuple(
        Pool(id=name, accelerator="l4", count=chips, driver="kubernetes", kubernetes=known)
        for name in ("gpu", "gpu-2")
    )
    return fleet((site("a", pools=pools),), services=SERVICES, placements=placements)


def test_of_a_workload_that_is_cut_from_its_end_only_the_last_engine_rests() -> None:
    ground = Ground(cluster_fleet(*placed((3, 0, 0))), np.random.default_rng(3))
    ground.run(25)
    now_s = ground.now_s

    def short(*idle: str) -> set[str]:
        ground.dispatcher.handle(
            ev.PowerChanged(
                at_s=now_s, available_kw=1.0, drawn_kw=5.0, cause="battery low", idle=idle
            )
        )
        return {n for n, e in ground.belief.engines.items() if e.rests}

    assert short("chat-v0-0", "chat-v0-1") == set(), "the last is at work"
    assert short("chat-v0-0", "chat-v0-1", "chat-v0-2") == {"chat-v0-2"}
    assert short("chat-v0-0", "chat-v0-1") == {"chat-v0-2"}, "it has not ended yet"
    ground.dispatcher.handle(ev.EngineEmptied(at_s=now_s + 1.0, engine="chat-v0-2"))
    assert ground.belief.engines["chat-v0-2"].state == "resting"
    assert short("chat-v0-0", "chat-v0-1") == {"chat-v0-1", "chat-v0-2"}


def draining(kind: Literal["Deployment", "LeaderWorkerSet"]) -> tuple[Ground, float]:
    """Four replicas of which the last two drain, and when they do for long enough to be empty."""
    ground = Ground(cluster_fleet(*placed((4, 0, 0)), kind=kind), np.random.default_rng(3))
    ground.run(25)
    ground.place(placed((2, 0, 0)))
    states = [e.state for e in ground.belief.engines.values()]
    assert states == ["up", "up", "draining", "draining"]
    return ground, ground.now_s + 1.0


def stopped(ground: Ground, event: ev.Event) -> list[str]:
    done = ground.dispatcher.handle(event)
    return [action.engine.name for action in done if isinstance(action, act.StopEngine)]


def test_of_a_set_that_is_cut_by_two_the_last_group_ends_before_the_one_before_it() -> None:
    ground, now_s = draining("LeaderWorkerSet")
    assert stopped(ground, ev.EngineEmptied(at_s=now_s, engine="chat-v0-2")) == []
    assert stopped(ground, ev.Ticked(at_s=now_s)) == [], "it would end group 3, which is at work"
    both = stopped(ground, ev.EngineEmptied(at_s=now_s, engine="chat-v0-3"))
    assert sorted(both) == ["chat-v0-2", "chat-v0-3"]
    ground, now_s = draining("LeaderWorkerSet")
    assert stopped(ground, ev.EngineEmptied(at_s=now_s, engine="chat-v0-3")) == ["chat-v0-3"]
    ground, now_s = draining("LeaderWorkerSet")
    over = stopped(ground, ev.Ticked(at_s=now_s + 3600.0))
    assert sorted(over) == ["chat-v0-2", "chat-v0-3"], "no longer than the limit of a drain"


def test_of_a_deployment_whichever_is_empty_ends() -> None:
    ground, now_s = draining("Deployment")
    assert stopped(ground, ev.EngineEmptied(at_s=now_s, engine="chat-v0-2")) == ["chat-v0-2"]


def test_a_dead_group_that_waits_for_the_ones_behind_it_keeps_no_swap_waiting() -> None:
    whole = cluster_fleet(*placed((4, 0, 0)), chips=4)
    ground = Ground(whole, np.random.default_rng(3))
    ground.run(25)
    ground.place(placed((0, 4, 0)))  # the pool is full: one after the other
    assert ground.belief.engines["chat-v0-3"].state == "draining"
    ground.place(placed((4, 0, 0)))
    ground.tell(ev.EngineDied(at_s=ground.now_s, engine="chat-v0-1"))
    ground.engines["chat-v0-1"].alive = False
    ground.place(placed((0, 4, 0)))
    assert "chat-v0-1" in ground.belief.engines, "behind it are two that serve"
    ground.run(200)
    assert ground.arrived()


def test_a_new_replica_of_a_workload_is_its_last() -> None:
    second = msgspec.structs.replace(placed((1, 0, 0))[0], pool="gpu-2")
    ground = Ground(cluster_fleet(*placed((1, 0, 0)), second), np.random.default_rng(3))
    ground.run(25)
    assert set(ground.belief.engines) == {"chat-v0-0", "chat-v0-1"}
    ground.place((second,))
    ground.run(100)
    assert set(ground.belief.engines) == {"chat-v0-1"}
    ground.place((msgspec.structs.replace(second, replicas=2),))
    assert set(ground.belief.engines) == {"chat-v0-1", "chat-v0-2"}


# --- what is told and heard over the league


def test_a_table_lists_what_is_up_until_it_is_gone() -> None:
    dispatcher = Dispatcher("fleet")
    start = placed((1, 0, 0))
    dispatcher.handle(ev.FleetLoaded(at_s=NOW_S, fleet=made(8, *start)))
    dispatcher.handle(ev.EpochGranted(at_s=NOW_S, epoch=1))

    def heard(at_s: float, serving: tuple[Placement, ...]) -> list[int]:
        event = ev.SiteHeard(at_s=at_s, site="a", epoch=1, table_version=0, serving=serving)
        dispatcher.handle(event)
        dispatcher.handle(ev.Ticked(at_s=at_s))
        assert dispatcher.table is not None
        return [int(n) for n in dispatcher.table.offers["replicas"]]

    assert heard(NOW_S, start) == [1]
    dispatcher.handle(ev.PlacementDecided(at_s=NOW_S, source="test", placements=placed((0, 2, 0))))
    assert heard(NOW_S + 1, start) == [1, 2]
    assert heard(NOW_S + 2, placed((0, 1, 0))) == [0, 2]
    assert dispatcher.belief is not None
    assert routable(dispatcher.belief.placements, dispatcher.belief.sites) == ()


def test_a_report_of_another_fleet_file_is_no_part_of_the_table() -> None:
    dispatcher = Dispatcher("fleet")
    dispatcher.handle(ev.FleetLoaded(at_s=NOW_S, fleet=made(8, *placed((1, 0, 0)))))
    gone = Placement(service="gone", variant="v9", site="a", pool="gpu")
    heard = ev.SiteHeard(at_s=NOW_S, site="a", epoch=0, table_version=0, serving=(gone,))
    dispatcher.handle(heard)
    assert dispatcher.handle(ev.Ticked(at_s=NOW_S))


def test_failing_replicas_are_noted_once_and_forgotten_when_they_start() -> None:
    dispatcher = Dispatcher("fleet")
    dispatcher.handle(ev.FleetLoaded(at_s=NOW_S, fleet=made(8, *placed((1, 0, 0)))))
    fails = ev.EngineFailing(
        at_s=NOW_S, site="a", service="chat", variant="v0", pool="gpu", why="no memory"
    )
    assert len(dispatcher.handle(fails)) == 1
    assert dispatcher.handle(fails) == []
    assert dispatcher.belief is not None
    assert dispatcher.belief.sites["a"].failing == {("chat", "v0", "gpu"): "no memory"}
    dispatcher.handle(msgspec.structs.replace(fails, why=""))
    assert dispatcher.belief.sites["a"].failing == {}


def test_replicas_of_one_recipe_are_one_as_good_as_the_other() -> None:
    ground = Ground(made(8, *placed((2, 0, 0))), np.random.default_rng(3))
    one, two = (e.spec for e in ground.belief.engines.values())
    assert recipe(one) == recipe(two)
    assert recipe(one) != recipe(msgspec.structs.replace(one, slots=one.slots + 1))
    wider = msgspec.structs.replace(one, chips=one.chips + 1)
    assert recipe(one) == recipe(wider), "a share of the pool that changes restarts nothing"
    assert recipe(msgspec.structs.replace(one, alone=True)) != recipe(
        msgspec.structs.replace(wider, alone=True)
    )


# --- what a fleet file may ask


@st.composite
def asked(draw: st.DrawFn) -> Fleet:
    """Pools of all drivers, and placements of which some do not fit."""
    pools = []
    for name in ("p", "q"):
        driver = draw(st.sampled_from(("process", "external", "kubernetes")))
        urls = tuple(f"http://127.0.0.1:{n + 1}" for n in range(draw(st.integers(1, 4))))
        known = Kubernetes(
            name=draw(st.sampled_from(("llm", "{service}", "{service}-{variant}", "{variant}")))
            + draw(st.sampled_from(("", "", "-{chips}"))),
            chips=draw(st.sampled_from((1, 2))),
        )
        pools.append(
            Pool(
                id=name,
                accelerator="l4",
                count=draw(st.integers(1, 70)),
                driver=driver,
                urls=urls if driver == "external" else (),
                kubernetes=known if driver == "kubernetes" else None,
            )
        )
    sites = tuple(site(name, pools=tuple(pools)) for name in ("a", "b"))
    kinds = [
        (s.id, p.id, q, v) for s in sites for p in s.pools for q, v in (*VARIANTS, ("no", "v0"))
    ]
    placements = tuple(
        Placement(
            service=q,
            variant=v,
            site=at,
            pool=pool,
            replicas=draw(st.sampled_from((1, 2, 20, 40))),
            chips=draw(st.sampled_from((None, 1, 2))),
        )
        for at, pool, q, v in draw(st.lists(st.sampled_from(kinds), max_size=5, unique=True))
    )
    return fleet(sites, services=SERVICES, placements=placements)


def wrong(made: Fleet) -> list[str]:
    where = [problem.where for problem in check_fleet(made)]
    return [w for w in where if w.startswith("placement") or ".pool[" in w]


@settings(max_examples=effort(150), deadline=None)
@given(asked())
def test_what_a_site_would_refuse_is_wrong_in_the_file_and_nothing_else(made: Fleet) -> None:
    assert bool(league_problem(made, made.placements)) == bool(wrong(made))


@settings(max_examples=effort(100), deadline=None)
@given(asked())
def test_where_the_controller_places_every_variant_has_a_workload_of_its_own(made: Fleet) -> None:
    loop = SlowLoop(places=True)
    made = msgspec.structs.replace(made, placements=(), slow_loop=loop)
    names = {p.kubernetes.name for s in made.sites for p in s.pools if p.kubernetes}
    assert bool(wrong(made)) == bool(
        {name.removesuffix("-{chips}") for name in names} - {"{service}-{variant}"}
    )

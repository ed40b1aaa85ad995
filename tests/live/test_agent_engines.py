"""An agent's engines as pods: what its Dispatcher decides reaches the cluster, and what it takes back too."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from hanse.dispatch import events as ev
from hanse.dispatch.belief import EngineSpec
from hanse.dispatch.site_scope import START_S_MAX
from hanse.live import agent_engines
from hanse.live.agent_engines import LOADING_S_MAX, PROBE_TIMEOUT_S, EngineKeeper
from hanse.live.kubernetes import DELETION_COST
from hanse.live.runtime import SiteAddress
from hanse.live.shared import SharedPage
from live.kube_server import Cluster, serving
from live.test_kubernetes import CHAT, SET, made


class Kept:
    """A keeper of three engines that are up."""

    def __init__(
        self, cluster: Cluster, config: Path, home: Path, kind: str = "Deployment"
    ) -> None:
        self.cluster = cluster
        self.fleet = made(config, kind, replicas=3)
        address = SiteAddress(site="a", host="127.0.0.1", client_port=1, hop_port=2, leaf_port=3)
        page = SharedPage.open(home / "shared.mmap")
        self.keeper = EngineKeeper(self.fleet, address, home, home, page, None)
        self.version = 0
        self.round()
        cluster.ready()
        self.round()
        for name in self.states():
            probed = ev.EngineProbed(at_s=time.time(), engine=name, answered=True)
            self.keeper._handle(probed)

    def round(self) -> None:
        asyncio.run(self.keeper.act_on_clusters())

    def states(self) -> dict[str, str]:
        return {engine.name: engine.state for engine in self.keeper.statuses()}

    def place(self, replicas: int) -> None:
        self.version += 1
        (before,) = self.fleet.placements
        decided = ev.PlacementDecided(
            at_s=0.0,
            source="test",
            placements=(msgspec.structs.replace(before, replicas=replicas),),
            version=self.version,
        )
        assert self.keeper.place(decided)

    def marked(self) -> list[str]:
        return [
            name
            for name, pod in sorted(self.cluster.pods.items())
            if DELETION_COST in pod["metadata"]["annotations"]
        ]


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Kept]:
    with serving(tmp_path) as (cluster, config):
        cluster.add(CHAT, 0)
        yield Kept(cluster, config, tmp_path)


def test_a_drain_marks_a_pod_until_it_is_revoked(kept: Kept) -> None:
    assert set(kept.states().values()) == {"up"}
    kept.place(2)
    assert kept.states()["chat-v0-2"] == "draining"
    kept.round()
    (pod,) = kept.marked()
    kept.place(3)
    assert kept.states()["chat-v0-2"] == "up"
    kept.round()
    assert kept.marked() == [] and pod in kept.cluster.pods


def test_an_engine_that_is_drained_and_stopped_between_two_rounds_ends_with_its_own_pod(
    kept: Kept,
) -> None:
    first, _, last = sorted(kept.cluster.pods)
    kept.cluster.remove(first)  # its successor is the newest, which a Deployment would end first
    kept.cluster.settle()
    kept.round()
    kept.cluster.ready()
    kept.round()
    kept.place(2)
    kept.keeper._handle(ev.EngineEmptied(at_s=time.time() + 1.0, engine="chat-v0-2"))
    assert set(kept.states()) == {"chat-v0-0", "chat-v0-1"}
    kept.round()
    assert kept.cluster.ended == [first, last]


class Clock:
    """The agent's clock, set by hand; and pods that answer probes or do not."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.now_s = time.time()
        self.answers = True
        patch.setattr(agent_engines, "time", self)
        patch.setattr(agent_engines, "probe", self._probe)

    def time(self) -> float:
        return self.now_s

    def monotonic(self) -> float:
        return self.now_s

    async def _probe(self, spec: EngineSpec, timeout_s: float) -> bool:
        assert spec.url and timeout_s == PROBE_TIMEOUT_S
        return self.answers

    def look(self, kept: Kept, after_s: float = 0.25, rounds: int = 1) -> dict[str, str]:
        """What the agent believes after so many looks."""
        for _ in range(rounds):
            self.now_s += after_s
            asyncio.run(kept.keeper._look_once())
        return kept.states()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


@pytest.mark.parametrize("kind", ["Deployment", "LeaderWorkerSet"])
def test_an_engine_whose_pod_loads_for_long_is_waited_for(
    tmp_path: Path, clock: Clock, kind: str
) -> None:
    with serving(tmp_path) as (cluster, config):
        cluster.add(CHAT if kind == "Deployment" else SET, 0)
        kept = Kept(cluster, config, tmp_path, kind)
        name, pod = "chat-v0-2", sorted(cluster.pods)[-1]
        if kind == "LeaderWorkerSet":
            pod = "chat-v0-2"
        cluster.remove(pod)
        cluster.settle()
        kept.round()
        kept.keeper._handle(ev.EngineDied(at_s=clock.now_s, engine=name, why="it went"))
        assert clock.look(kept, 2.0)[name] == "starting"
        assert clock.look(kept, 10.0, 100)[name] == "starting", "beyond the limit of a start"
        cluster.broken = True
        kept.round()
        assert clock.look(kept, 10.0, 100)[name] == "starting", "nor is it the API's trouble"
        cluster.broken = False
        left = int(LOADING_S_MAX + START_S_MAX) // 10 - 202
        assert clock.look(kept, 10.0, left)[name] == "starting"
        assert clock.look(kept, 10.0, 2)[name] == "dead", "not for ever"
        assert clock.look(kept, 10.0)[name] == "starting"
        kept.round()
        assert cluster.ended == [pod], "and nothing that it has loaded is lost"
        cluster.ready()
        kept.round()
        assert clock.look(kept)[name] == "up"


def test_a_pod_that_is_ready_and_does_not_answer_is_deleted(kept: Kept, clock: Clock) -> None:
    pods = sorted(kept.cluster.pods)
    clock.answers = False
    assert set(clock.look(kept, rounds=3).values()) == {"dead"}
    assert set(clock.look(kept, 2.0).values()) == {"starting"}
    kept.round()
    assert sorted(kept.cluster.ended) == pods


def test_one_that_answers_again_before_it_is_restarted_keeps_its_pod(
    kept: Kept, clock: Clock
) -> None:
    clock.answers = False
    assert set(clock.look(kept, rounds=3).values()) == {"dead"}
    clock.answers = True
    assert set(clock.look(kept, 2.0).values()) == {"starting"}
    kept.round()
    assert set(clock.look(kept).values()) == {"up"}
    assert kept.cluster.ended == []


@pytest.mark.parametrize("kind", ["Deployment", "LeaderWorkerSet"])
@pytest.mark.parametrize("drained", [False, True])
def test_an_engine_whose_pod_goes_or_is_not_ready_is_dead_until_one_is_ready(
    tmp_path: Path, clock: Clock, kind: str, drained: bool
) -> None:
    with serving(tmp_path) as (cluster, config):
        cluster.add(CHAT if kind == "Deployment" else SET, 0)
        kept = Kept(cluster, config, tmp_path, kind)
        kept.keeper.drain(drained)
        well = "draining" if drained else "up"
        (workload,) = kept.keeper._drivers["kubernetes"]._workloads.values()
        pod = workload.pod_of["chat-v0-1"]

        def heard(after_s: float = 0.25) -> tuple[str, str]:
            kept.round()
            states = clock.look(kept, after_s)
            assert states.pop("chat-v0-1") and set(states.values()) == {well}
            (found,) = (e for e in kept.keeper.statuses() if e.name == "chat-v0-1")
            return found.state, found.why

        assert heard()[0] == well
        cluster.unready(pod)
        assert heard() == ("dead", "its pod is not ready")
        cluster.ready()  # sooner than it would be restarted
        assert heard() == ("dead", "its pod is not ready")
        assert heard(1.0)[0] == "starting"
        assert heard()[0] == well
        assert cluster.ended == [], "none was deleted for it"
        cluster.evict(pod)
        assert heard() == ("dead", "its pod is being deleted")
        assert heard(10.0)[0] == "starting"
        cluster.remove(pod)
        cluster.settle()
        assert heard()[0] == "starting"
        cluster.ready()
        assert heard()[0] == well
        assert cluster.ended == [pod], "nor its successor"

"""An agent's engines as pods: what its Dispatcher decides reaches the cluster, and what it takes back too."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from hanse.dispatch import events as ev
from hanse.live.agent_engines import EngineKeeper
from hanse.live.kubernetes import DELETION_COST
from hanse.live.runtime import SiteAddress
from hanse.live.shared import SharedPage
from live.kube_server import Cluster, serving
from live.test_kubernetes import CHAT, made


class Kept:
    """A keeper of three engines that are up."""

    def __init__(self, cluster: Cluster, config: Path, home: Path) -> None:
        self.cluster = cluster
        self.fleet = made(config, replicas=3)
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

"""Engines as replicas of workloads, against an API server on a real socket."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from dispatch.fleets import fleet, service, site
from hanse.dispatch.belief import EngineSpec, engines_of
from hanse.errors import SiteError
from hanse.live.kube_api import KubeApi, KubeError, cluster_of
from hanse.live.kubernetes import DELETION_COST, KubernetesDriver, trouble
from hanse.model.fleet import Fleet, Kubernetes, Placement, Pool
from live.kube_server import DEPLOYMENTS, PODS, SETS, Cluster, serving

CHAT = DEPLOYMENTS + "chat-v0"
SET = SETS + "chat-v0"


@pytest.fixture
def there(tmp_path: Path) -> Iterator[tuple[Cluster, Path]]:
    with serving(tmp_path) as found:
        yield found


def made(config: Path, kind: str = "Deployment", replicas: int = 4) -> Fleet:
    known = Kubernetes(
        kind=kind,  # type: ignore[arg-type]
        name="{service}-{variant}",
        namespace="llm",
        kubeconfig=str(config),
    )
    pool = Pool(id="k8s", accelerator="l4", count=8, driver="kubernetes", kubernetes=known)
    placed = Placement(service="chat", variant="v0", site="a", pool="k8s", replicas=replicas)
    return fleet((site("a", pools=(pool,)),), services=(service(),), placements=(placed,))


class Round:
    """A driver and the engines of its fleet."""

    def __init__(self, cluster: Cluster, config: Path, kind: str = "Deployment") -> None:
        self.cluster = cluster
        whole = made(config, kind)
        self.specs: tuple[EngineSpec, ...] = engines_of(whole, whole.placements, "a")
        self.driver = KubernetesDriver(whole, "a")

    def sync(self, rounds: int = 1) -> None:
        for _ in range(rounds):
            asyncio.run(self.driver.sync())

    def urls(self) -> list[str]:
        return [self.driver.observe(spec).url for spec in self.specs]

    @property
    def replicas(self) -> int:
        return int(next(iter(self.cluster.workloads.values()))["spec"]["replicas"])


def test_replicas_follow_what_is_wanted_and_ready_pods_become_engines(
    there: tuple[Cluster, Path],
) -> None:
    cluster, config = there
    cluster.add(CHAT, 0)
    here = Round(cluster, config)
    for spec in here.specs[:2]:
        here.driver.start(spec)
    here.sync()
    assert here.replicas == 2
    assert here.urls() == ["", "", "", ""], "not ready yet"
    assert not here.driver.observe(here.specs[0]).gone, "and nothing is wrong"
    cluster.ready()
    here.sync()
    assert here.urls()[:2] == ["http://10.1.0.10:8000", "http://10.1.0.11:8000"]
    assert here.urls()[2:] == ["", ""]


def test_the_drained_pod_is_the_one_that_ends_and_the_others_keep_their_engines(
    there: tuple[Cluster, Path],
) -> None:
    cluster, config = there
    cluster.add(CHAT, 0)
    here = Round(cluster, config)
    for spec in here.specs[:3]:
        here.driver.start(spec)
    here.sync()
    cluster.ready()
    here.sync()
    before = here.urls()
    first = sorted(cluster.pods)[0]  # the oldest, which a Deployment would keep
    here.driver.drain(here.specs[0])
    here.sync()
    assert here.urls() == before, "it answers until it is stopped"
    here.driver.stop(here.specs[0])
    here.sync(2)
    assert cluster.ended == [first]
    assert here.urls()[1:3] == before[1:3]
    assert here.replicas == 2


def test_an_agent_that_comes_back_finds_its_engines_where_they_were(
    there: tuple[Cluster, Path],
) -> None:
    cluster, config = there
    cluster.add(CHAT, 0)
    here = Round(cluster, config)
    for spec in here.specs[:3]:
        here.driver.start(spec)
    here.sync()
    cluster.ready()
    here.sync()
    turned = (here.urls()[2], here.urls()[0], here.urls()[1])
    after = Round(cluster, config)
    after.specs = tuple(
        msgspec.structs.replace(spec, url=url)
        for spec, url in zip(after.specs[:3], turned, strict=True)
    )
    for spec in after.specs:
        after.driver.start(spec)
    after.sync()
    assert tuple(after.urls()) == turned
    assert here.replicas == 3, "and none was started or ended"


def test_of_a_set_engine_n_is_the_leader_of_group_n(there: tuple[Cluster, Path]) -> None:
    cluster, config = there
    cluster.add(SET, 0)
    here = Round(cluster, config, "LeaderWorkerSet")
    for spec in here.specs[:3]:
        here.driver.start(spec)
    here.sync()
    cluster.ready()
    here.sync()
    addresses = [cluster.pods[f"chat-v0-{n}"]["status"]["podIP"] for n in range(3)]
    assert here.urls()[:3] == [f"http://{a}:8000" for a in addresses]
    here.driver.drain(here.specs[2])
    here.driver.stop(here.specs[2])
    here.sync(2)
    assert here.urls()[:3] == [f"http://{a}:8000" for a in addresses[:2]] + [""]
    assert ("PATCH", f"{PODS}/chat-v0-2") not in cluster.asked, "a set needs no mark"


def test_a_frozen_pod_is_deleted_and_its_successor_is_the_engine(
    there: tuple[Cluster, Path],
) -> None:
    cluster, config = there
    cluster.add(CHAT, 0)
    here = Round(cluster, config)
    here.driver.start(here.specs[0])
    here.sync()
    cluster.ready()
    here.sync()
    (old,) = cluster.pods
    here.driver.restart(here.specs[0])
    here.sync()
    assert cluster.ended == [old]
    cluster.ready()
    here.sync()
    assert here.urls()[0]
    assert here.replicas == 1


@pytest.mark.parametrize("kind", ["Deployment", "LeaderWorkerSet"])
def test_a_pod_that_is_not_ready_is_never_deleted(there: tuple[Cluster, Path], kind: str) -> None:
    cluster, config = there
    cluster.add(CHAT if kind == "Deployment" else SET, 0)
    here = Round(cluster, config, kind)
    (pod,) = up(here, 1)
    for loads in (False, True):  # it was ready once; or never yet
        if loads:
            cluster.remove(pod)
            cluster.settle()
        else:
            cluster.unready(pod)
        here.sync()
        ended = list(cluster.ended)
        here.driver.restart(here.specs[0])
        here.sync(2)
        assert cluster.ended == ended
        cluster.ready()
        here.sync()
        assert here.urls()[0], "and is taken once it is ready"
        assert cluster.ended == ended
        pod = sorted(cluster.pods)[0]


def test_a_pod_that_went_by_itself_before_its_turn_is_not_deleted_with_its_successor(
    there: tuple[Cluster, Path],
) -> None:
    cluster, config = there
    cluster.add(SET, 0)
    here = Round(cluster, config, "LeaderWorkerSet")
    (pod,) = up(here, 1)
    cluster.denied.add(("DELETE", PODS))
    here.driver.restart(here.specs[0])
    here.sync()
    cluster.remove(pod)
    cluster.settle()
    here.sync()
    cluster.denied.clear()
    here.sync(2)
    assert cluster.ended == [pod]


@pytest.mark.parametrize("kind", ["Deployment", "LeaderWorkerSet"])
def test_trouble_of_the_api_server_is_no_death_of_an_engine_whose_pod_loads(
    there: tuple[Cluster, Path], kind: str
) -> None:
    cluster, config = there
    cluster.add(CHAT if kind == "Deployment" else SET, 0)
    here = Round(cluster, config, kind)
    here.driver.start(here.specs[0])
    here.sync()
    assert here.driver.observe(here.specs[0]).loads
    cluster.broken = True
    here.sync()
    seen = here.driver.observe(here.specs[0])
    assert (seen.gone, seen.loads) == ("", True)
    here.driver.start(here.specs[1])
    if kind == "LeaderWorkerSet":
        assert "500" in here.driver.observe(here.specs[1]).gone, "of one without a pod it is"


def test_who_changes_the_workload_in_between_costs_another_try(
    there: tuple[Cluster, Path],
) -> None:
    cluster, config = there
    cluster.add(CHAT, 0)
    here = Round(cluster, config)
    here.driver.start(here.specs[0])
    cluster.conflicts = 2
    here.sync()
    assert here.replicas == 1
    cluster.conflicts = 1000
    here.driver.start(here.specs[1])
    here.sync()
    assert "409" in here.driver.observe(here.specs[0]).gone
    cluster.conflicts = 0
    here.sync()
    assert here.replicas == 2
    assert here.driver.observe(here.specs[1]).gone == ""


def test_an_overloaded_server_is_left_alone_for_as_long_as_it_asks(
    there: tuple[Cluster, Path],
) -> None:
    cluster, config = there
    cluster.add(CHAT, 0)
    here = Round(cluster, config)
    here.driver.start(here.specs[0])
    workload = next(iter(here.driver._workloads.values()))
    cluster.busy = 1
    workload.sync(100.0)
    assert here.driver.observe(here.specs[0]).gone == "", "no engine is dead for it"
    asked = len(cluster.asked)
    workload.sync(101.9)
    assert len(cluster.asked) == asked
    workload.sync(102.0)
    assert here.replicas == 1


def test_missing_rights_are_said_in_the_servers_words(there: tuple[Cluster, Path]) -> None:
    cluster, config = there
    cluster.add(CHAT, 0)
    cluster.forbidden = True
    here = Round(cluster, config)
    here.driver.start(here.specs[0])
    here.sync()
    gone = here.driver.observe(here.specs[0]).gone
    assert "403" in gone and "deployments/scale" in gone
    cluster.forbidden = False
    here.sync()
    assert here.driver.observe(here.specs[0]).gone == ""


@pytest.mark.parametrize("as_event", [False, True])
def test_a_watch_whose_past_is_forgotten_begins_with_a_list_again(
    there: tuple[Cluster, Path], as_event: bool
) -> None:
    cluster, config = there
    cluster.add(CHAT, 0)
    here = Round(cluster, config)
    here.driver.start(here.specs[0])
    here.sync()
    cluster.ready()
    cluster.oldest, cluster.gone_as_event = cluster.version, as_event
    cluster.changes.clear()
    here.sync()
    assert here.urls()[0], "seen by a list"
    lists = [path for method, path in cluster.asked if (method, path) == ("GET", PODS)]
    here.sync()
    again = [path for method, path in cluster.asked if (method, path) == ("GET", PODS)]
    assert len(again) == len(lists) + 1, "and then watched as before"


@pytest.mark.parametrize("reason", ["ImagePullBackOff", "CrashLoopBackOff", "Unschedulable"])
def test_a_pod_that_cannot_come_up_says_why(there: tuple[Cluster, Path], reason: str) -> None:
    cluster, config = there
    cluster.trouble = reason
    cluster.add(CHAT, 0)
    here = Round(cluster, config)
    here.driver.start(here.specs[0])
    here.sync()
    assert reason in here.driver.observe(here.specs[0]).gone


def test_a_wrong_certificate_or_token_is_no_way_in(there: tuple[Cluster, Path]) -> None:
    cluster, config = there
    cluster.add(CHAT, 0)
    known = json.loads(config.read_text())
    known["users"][0]["user"]["token"] = "wrong"
    config.write_text(json.dumps(known))
    with pytest.raises(KubeError) as error:
        KubeApi(cluster_of(str(config))).get(CHAT)
    assert error.value.status == 401
    del known["clusters"][0]["cluster"]["certificate-authority-data"]
    config.write_text(json.dumps(known))
    with pytest.raises(KubeError) as error:
        KubeApi(cluster_of(str(config))).get(CHAT)
    assert "CERTIFICATE_VERIFY_FAILED" in str(error.value)
    config.write_text("apiVersion: v1\n")
    with pytest.raises(SiteError, match="JSON"):
        cluster_of(str(config))


def test_a_pod_that_only_waits_is_in_no_trouble() -> None:
    waiting = {"reason": "ContainerCreating"}
    status = {"containerStatuses": [{"name": "engine", "state": {"waiting": waiting}}]}
    assert trouble({"status": status}) == ""
    assert trouble({}) == ""


def up(here: Round, count: int) -> list[str]:
    """So many engines that answer; the names of their pods, in their order."""
    for spec in here.specs[:count]:
        here.driver.start(spec)
    here.sync()
    here.cluster.ready()
    here.sync()
    (workload,) = here.driver._workloads.values()
    return [workload.pod_of[spec.name] for spec in here.specs[:count]]


def cost(cluster: Cluster, pod: str) -> str:
    return str(cluster.pods[pod]["metadata"]["annotations"].get(DELETION_COST, ""))


@pytest.mark.parametrize("drained", [True, False])
def test_an_engine_that_is_stopped_before_any_round_is_still_the_one_whose_pod_ends(
    there: tuple[Cluster, Path], drained: bool
) -> None:
    cluster, config = there
    cluster.add(CHAT, 0)
    here = Round(cluster, config)
    pods = up(here, 3)
    before = here.urls()
    if drained:
        here.driver.drain(here.specs[0])
    here.driver.stop(here.specs[0])
    here.sync(2)
    assert cluster.ended == [pods[0]]
    assert here.urls()[:3] == ["", *before[1:3]]
    patched = [path for method, path in cluster.asked if method == "PATCH"]
    assert patched[-2:] == [f"{PODS}/{pods[0]}", f"{CHAT}/scale"], "marked, then scaled"


def test_a_drain_that_is_revoked_leaves_no_mark(there: tuple[Cluster, Path]) -> None:
    cluster, config = there
    cluster.add(CHAT, 0)
    here = Round(cluster, config)
    pods = up(here, 3)
    here.driver.drain(here.specs[0])
    here.sync()
    assert cost(cluster, pods[0]) == "-1000"
    here.driver.keep(here.specs[0])
    here.sync()
    assert cost(cluster, pods[0]) == ""
    asked = len(cluster.asked)
    here.sync()
    assert ("PATCH", f"{PODS}/{pods[0]}") not in cluster.asked[asked:], "and that is all"
    here.driver.stop(here.specs[1])
    here.sync(2)
    assert cluster.ended == [pods[1]]


def test_a_pod_that_was_stopped_ends_before_one_that_only_drains(
    there: tuple[Cluster, Path],
) -> None:
    cluster, config = there
    cluster.add(CHAT, 0)
    here = Round(cluster, config)
    pods = up(here, 4)
    here.driver.drain(here.specs[3])  # the newest, which a Deployment would end first
    here.driver.drain(here.specs[2])
    here.sync()
    assert [cost(cluster, pod) for pod in pods] == ["", "", "-1000", "-1000"]
    here.driver.stop(here.specs[2])
    here.sync(2)
    assert cluster.ended == [pods[2]]
    assert cost(cluster, pods[3]) == "-1000"
    here.driver.stop(here.specs[3])
    here.sync(2)
    assert cluster.ended == [pods[2], pods[3]]


def test_a_mark_of_an_earlier_agent_goes_with_its_reason(there: tuple[Cluster, Path]) -> None:
    cluster, config = there
    cluster.add(CHAT, 0)
    here = Round(cluster, config)
    pods = up(here, 2)
    here.driver.drain(here.specs[0])
    here.sync()
    after = Round(cluster, config)
    for spec in after.specs[:2]:
        after.driver.start(spec)
    after.sync(2)
    assert cost(cluster, pods[0]) == ""


def test_an_engine_that_is_wanted_again_before_its_pod_went_gets_it_back(
    there: tuple[Cluster, Path],
) -> None:
    cluster, config = there
    cluster.add(CHAT, 0)
    here = Round(cluster, config)
    pods = up(here, 2)
    before = here.urls()
    here.driver.drain(here.specs[1])
    here.driver.stop(here.specs[1])
    here.driver.start(here.specs[1])
    here.sync(2)
    assert here.urls() == before and cluster.ended == []
    assert cost(cluster, pods[1]) == ""


def test_engines_of_a_set_are_its_groups_in_their_order_wherever_numbers_begin(
    there: tuple[Cluster, Path],
) -> None:
    cluster, config = there
    cluster.add(SET, 0)
    here = Round(cluster, config, "LeaderWorkerSet")
    here.specs = tuple(
        msgspec.structs.replace(spec, name=f"chat-v0-{number}")
        for spec, number in zip(here.specs[:3], (3, 4, 10), strict=True)
    )
    assert up(here, 3) == [f"chat-v0-{n}" for n in range(3)]
    here.driver.drain(here.specs[2])
    here.driver.stop(here.specs[2])
    here.sync(2)
    assert here.urls()[0] and here.urls()[1] and not here.urls()[2]
    assert set(cluster.ended) == {"chat-v0-2", "chat-v0-2-1"}


@pytest.mark.parametrize("method", ["PATCH", "DELETE"])
def test_a_missing_right_to_pods_keeps_nothing_else_from_being_done(
    there: tuple[Cluster, Path], method: str, capfd: pytest.CaptureFixture[str]
) -> None:
    cluster, config = there
    cluster.add(CHAT, 0)
    here = Round(cluster, config)
    up(here, 3)
    cluster.denied.add((method, PODS))
    here.driver.restart(here.specs[2])
    here.driver.stop(here.specs[0])
    here.sync(2)
    assert here.replicas == 2 and len(cluster.pods) == 2
    assert [bool(here.driver.observe(spec).gone) for spec in here.specs[:3]] == [False] * 3
    said = capfd.readouterr().err
    assert said.count("403") == 1, "once"
    assert "delete on pods" in said and "Role" in said


def test_a_cluster_that_does_not_answer_keeps_no_other_waiting(tmp_path: Path) -> None:
    (tmp_path / "slow").mkdir()
    (tmp_path / "quick").mkdir()
    with (
        serving(tmp_path / "slow") as (slow, config),
        serving(tmp_path / "quick") as (quick, other),
    ):
        slow.add(CHAT, 0)
        quick.add(DEPLOYMENTS + "chat-v1", 0)
        whole = made(config)
        pool = whole.sites[0].pools[0]
        quick_pool = msgspec.structs.replace(
            pool,
            id="k8s-2",
            kubernetes=msgspec.structs.replace(pool.kubernetes, kubeconfig=str(other)),
        )
        here = msgspec.structs.replace(whole.sites[0], pools=(pool, quick_pool))
        driver = KubernetesDriver(msgspec.structs.replace(whole, sites=(here,)), "a")
        first = engines_of(whole, whole.placements, "a")[0]
        driver.start(first)
        driver.start(msgspec.structs.replace(first, pool="k8s-2", variant="v1", name="chat-v1-0"))

        async def rounds() -> None:
            slow.answers.clear()
            try:
                await asyncio.wait_for(driver.sync(), 8)  # less than a call may take
                driver.start(
                    msgspec.structs.replace(first, pool="k8s-2", variant="v1", name="chat-v1-1")
                )
                await asyncio.wait_for(driver.sync(), 8)
                assert quick.workloads[DEPLOYMENTS + "chat-v1"]["spec"]["replicas"] == 2
                assert slow.workloads[CHAT]["spec"]["replicas"] == 0
                assert [path for _, path in slow.asked] == [f"{CHAT}/scale"], "one round at a time"
            finally:
                slow.answers.set()
            while slow.workloads[CHAT]["spec"]["replicas"] == 0:
                await driver.sync()

        asyncio.run(rounds())


@pytest.mark.parametrize("status", [0, 401, 403, 404, 409, 500])
def test_an_error_says_what_is_needed_and_what_to_do(status: int) -> None:
    error = KubeError("/api", status, "no")
    assert error.allowed and error.fix
    if status == 403:
        for verb in ("get", "patch", "list", "watch", "delete"):
            assert verb in error.allowed


def test_credentials_of_a_plugin_are_refused_with_what_to_do(
    there: tuple[Cluster, Path],
) -> None:
    _, config = there
    known = json.loads(config.read_text())
    known["users"][0]["user"] = {"exec": {"command": "aws"}}
    config.write_text(json.dumps(known))
    with pytest.raises(SiteError, match="plugin") as error:
        cluster_of(str(config))
    assert "token" in str(error.value.fix)

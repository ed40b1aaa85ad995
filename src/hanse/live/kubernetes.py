"""Engines as replicas of a Deployment or a LeaderWorkerSet: the driver `kubernetes`.

Here: `KubernetesDriver`: how many replicas a workload should have, which pod is which engine, why a pod does not come up. Not here:
the API (`live.kube_api`); what the pods run, which is the workload's own manifest: this driver sets `spec.replicas` (through the
`scale` subresource, so that it needs no right to change anything else) and nothing else.

An engine is one ready pod; of a LeaderWorkerSet the leader of a group: engines in order of their numbers are the groups in order, as
numbers are a site's and may begin anywhere. Which pod a Deployment ends first can be said (`controller.kubernetes.io/pod-deletion-cost`),
and is said before there is one less; a LeaderWorkerSet ends its last group, and the engine of the highest number is drained first
(`dispatch.rolling`, `site_scope`). `drain`, `keep`, `start` and `stop` note what is wanted; `sync` says it to the clusters, a thread a
workload, and hears how it stands. A workload that something else scales too (an autoscaler) is scaled back: leave it to one of them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from hanse.dispatch.belief import EngineSpec
from hanse.errors import SiteError
from hanse.live.drivers import Seen
from hanse.live.kube_api import KubeApi, KubeError, cluster_of
from hanse.live.logline import log_line
from hanse.model.fleet import Fleet, Kubernetes
from hanse.model.workloads import workload_name

CONFLICTS_MAX: Final = 5
"""Tries against others who change the same object; each reads it anew."""
ROUND_S_MAX: Final = 2.0
"""How long a round is waited for: a look takes 1 s, a cluster that does not answer takes ten; it goes on beside the others' next rounds."""
WORKLOADS_MAX: Final = 64
"""As many as a site has engines: no workload waits for another's thread."""
COST_NEXT: Final = "-1000"
"""Of a pod whose engine drains; below the default 0, and far from what other controllers use."""
COST_FIRST: Final = "-2000"
"""Of one whose engine was stopped: it goes before any that still has requests."""
DELETION_COST: Final = "controller.kubernetes.io/pod-deletion-cost"
GROUP_INDEX: Final = "leaderworkerset.sigs.k8s.io/group-index"
WORKER_INDEX: Final = "leaderworkerset.sigs.k8s.io/worker-index"
SET_NAME: Final = "leaderworkerset.sigs.k8s.io/name"
PATHS: Final = {
    "Deployment": "/apis/apps/v1/namespaces/{}/deployments/{}",
    "LeaderWorkerSet": "/apis/leaderworkerset.x-k8s.io/v1/namespaces/{}/leaderworkersets/{}",
}
HOPELESS: Final = frozenset(
    (
        "CrashLoopBackOff",
        "CreateContainerConfigError",
        "CreateContainerError",
        "ErrImageNeverPull",
        "ErrImagePull",
        "ImagePullBackOff",
        "InvalidImageName",
        "RunContainerError",
    )
)
"""Reasons of a waiting container that time alone does not heal (kubelet's names)."""


class KubernetesDriver:
    """All workloads of one site's `kubernetes` pools."""

    def __init__(self, fleet: Fleet, site_id: str) -> None:
        site = next(site for site in fleet.sites if site.id == site_id)
        self._pools = {pool.id: pool.kubernetes for pool in site.pools if pool.kubernetes}
        self._workloads: dict[tuple[str, str], Workload] = {}
        self._rounds: dict[tuple[str, str], asyncio.Future[None]] = {}
        self._threads = ThreadPoolExecutor(WORKLOADS_MAX, thread_name_prefix="kubernetes")

    def follow(self, fleet: Fleet, site_id: str) -> None:
        """Another fleet is in force; of a pool that is gone, what runs is still to be ended."""
        site = next(site for site in fleet.sites if site.id == site_id)
        self._pools |= {pool.id: pool.kubernetes for pool in site.pools if pool.kubernetes}

    def start(self, spec: EngineSpec) -> None:
        """One more replica of its workload is wanted."""
        self._workload(spec).want(spec)

    def restart(self, spec: EngineSpec) -> None:
        """A pod that is ready and yet of no use goes, and the cluster makes another; one that loads is left to load."""
        self._workload(spec).renew(spec)

    def drain(self, spec: EngineSpec) -> None:
        """Its pod is the first to end when there is one less."""
        self._workload(spec).ending.add(spec.name)

    def keep(self, spec: EngineSpec) -> None:
        """Its pod ends no sooner than others."""
        self._workload(spec).ending.discard(spec.name)

    def stop(self, spec: EngineSpec) -> None:
        """One less is wanted."""
        self._workload(spec).release(spec)

    def observe(self, spec: EngineSpec) -> Seen:
        """As of the last `sync`."""
        return self._workload(spec).seen(spec.name)

    def runs(self, spec: EngineSpec) -> bool:
        """A workload goes on without its agent; its pods are found again."""
        return True

    async def sync(self) -> None:
        """One round with every workload at once; one whose cluster is slow goes on with its own and keeps no other waiting."""
        loop = asyncio.get_running_loop()
        for key, workload in list(self._workloads.items()):
            if key not in self._rounds or self._rounds[key].done():
                self._rounds[key] = loop.run_in_executor(
                    self._threads, workload.sync, time.monotonic()
                )
        if self._rounds:
            await asyncio.wait(self._rounds.values(), timeout=ROUND_S_MAX)
        for key in [key for key, one in self._rounds.items() if one.done()]:
            self._rounds.pop(key).result()  # a bug to tell

    def _workload(self, spec: EngineSpec) -> Workload:
        known = self._pools[spec.pool]
        chips = spec.chips if spec.alone else known.chips
        name = workload_name(known, spec.service, spec.variant, chips)
        key = spec.pool, name
        if key not in self._workloads:
            self._workloads[key] = Workload(known, name)
        return self._workloads[key]


class Workload:
    """One Deployment or LeaderWorkerSet and the engines that are its replicas."""

    def __init__(self, known: Kubernetes, name: str) -> None:
        self.known = known
        self.path = PATHS[known.kind].format(known.namespace, name)
        self.name = name
        self.pods_path = f"/api/v1/namespaces/{known.namespace}/pods"
        self.wanted: dict[str, EngineSpec] = {}
        self.ending: set[str] = set()
        self.pod_of: dict[str, str] = {}
        """Engine -> pod."""
        self._had: dict[str, str] = {}
        """The same, and of engines without a pod the one that they had last."""
        self.pods: dict[str, dict[str, Any]] = {}
        self.problem = ""
        """Why the cluster cannot be spoken to, or says no."""
        self.denied = ""
        """What it says no to that engines come up without."""
        self._unheard = False
        """The problem is the API server's own: no answer, or an error of its side."""
        self._going: set[str] = set()
        """Pods of engines that were stopped, until they are gone."""
        self._renewed: set[str] = set()
        self._version = ""
        self._selector = ""
        self._not_before_s = 0.0
        self._api: KubeApi | None = None

    # --- what the agent wants; on the event loop

    def want(self, spec: EngineSpec) -> None:
        self.wanted[spec.name] = spec
        self.ending.discard(spec.name)

    def renew(self, spec: EngineSpec) -> None:
        """Of a pod that is not ready the cluster knows itself: to delete it would lose what it has loaded."""
        self.want(spec)
        pod = self.pod_of.get(spec.name, "")
        if self._serves(pod):
            self._renewed.add(self.pod_of.pop(spec.name))

    def release(self, spec: EngineSpec) -> None:
        """Its pod is remembered: it may have to be marked yet."""
        if spec.name in self.pod_of:
            self._going.add(self.pod_of.pop(spec.name))
        self.ending.discard(spec.name)
        self.wanted.pop(spec.name, None)
        self._had.pop(spec.name, None)

    def seen(self, engine: str) -> Seen:
        pod = self.pods.get(self.pod_of.get(engine, ""))
        if pod is not None and _stays(pod):
            if _ready(pod):
                return Seen(url=self._url(pod))
            why = trouble(pod)
            return Seen(gone=why, away=why or "its pod is not ready", loads=not why)
        reason = next((why for p in list(self.pods.values()) if (why := trouble(p))), "")
        loads = not reason and self._one_loads()
        problem = "" if loads and self._unheard else self.problem
        going = self._had.get(engine) in self.pods
        away = "its pod is being deleted" if going else "its pod is gone"
        return Seen(gone=problem or reason, away=away, loads=loads)

    def _one_loads(self) -> bool:
        """Whether a pod that is no engine's yet may become one: a Deployment's are given out once they are ready."""
        taken = set(self.pod_of.values())
        pods = list(self.pods.items())
        return any(name not in taken and _stays(p) and not _ready(p) for name, p in pods)

    def _serves(self, name: str) -> bool:
        pod = self.pods.get(name)
        return pod is not None and _ready(pod) and _stays(pod)

    def _url(self, pod: dict[str, Any]) -> str:
        address = pod["status"].get("podIP", "")
        host = f"[{address}]" if ":" in address else address
        return f"http://{host}:{self.known.port}"

    # --- one round; in a thread

    def sync(self, now_s: float) -> None:
        """Mark, scale, renew, look. An error is kept as the reason and tried again at the next round."""
        if now_s < self._not_before_s:
            return
        before, denied = self.problem, self.denied
        self.denied = ""
        wanted = len(
            self.wanted
        )  # before marks are: whoever goes from here on is marked in the next round
        try:
            if self._api is None:
                self._api = KubeApi(cluster_of(self.known.kubeconfig))
            self._if_allowed(self._mark, self._api)
            self._scale(self._api, wanted)
            self._if_allowed(self._renew, self._api)
            self._look(self._api)
            self.problem = ""
        except KubeError as error:
            # An overloaded server says when to come again; that is no reason to call engines dead.
            self._not_before_s = now_s + error.retry_after_s
            if not error.retry_after_s:
                self._unheard = error.status == 0 or error.status >= 500
                self.problem = self._said(error)
        except SiteError as error:
            self._unheard = False
            self.problem = str(error)
        for now, then in ((self.problem, before), (self.denied, denied)):
            if now and now != then:
                log_line(f"kubernetes: {now}")

    def _if_allowed(self, act: Callable[[KubeApi], None], api: KubeApi) -> None:
        """A right that is missing for this keeps nothing else from being done."""
        try:
            act(api)
        except KubeError as error:
            if error.status != 403:
                raise
            self.denied = self._said(error)

    def _said(self, error: KubeError) -> str:
        return f"{self.known.kind} {self.name}: {error}"

    def _scale(self, api: KubeApi, wanted: int) -> None:
        """Optimistic: who changed it in between is read again, for as many tries as are sane."""
        for last in (*[False] * (CONFLICTS_MAX - 1), True):
            scale = api.get(f"{self.path}/scale")
            if int(scale["spec"].get("replicas", 0)) == wanted:
                return
            version = scale["metadata"]["resourceVersion"]
            patch = {"metadata": {"resourceVersion": version}, "spec": {"replicas": wanted}}
            try:
                api.merge(f"{self.path}/scale", patch)
            except KubeError as error:
                if error.status != 409 or last:
                    raise
            else:
                return

    def _mark(self, api: KubeApi) -> None:
        """Say which pods go first, before there is one less; and of whom it is true no more."""
        if self.known.kind != "Deployment":
            return
        pod_of = self.pod_of
        costs = {pod_of[e]: COST_NEXT for e in tuple(self.ending) if e in pod_of}
        costs |= dict.fromkeys(set(self._going), COST_FIRST)
        said = {n: _cost(pod) for n, pod in self.pods.items() if _stays(pod)}
        marked = {n for n, cost in said.items() if cost in (COST_NEXT, COST_FIRST)}
        for name in sorted(set(costs) | marked):
            if costs.get(name, "") == said.get(name):
                continue
            patch = {"metadata": {"annotations": {DELETION_COST: costs.get(name)}}}
            try:
                self.pods[name] = api.merge(f"{self.pods_path}/{name}", patch)
            except KubeError as error:
                if error.status != 404:
                    raise
                self.pods.pop(name, None)
                self._going.discard(name)

    def _renew(self, api: KubeApi) -> None:
        for pod in sorted(self._renewed):
            if self._serves(pod):  # else it went by itself, and a successor of its name may load
                try:
                    api.delete(f"{self.pods_path}/{pod}")
                except KubeError as error:
                    if error.status != 404:
                        raise
            self._renewed.discard(pod)

    def _look(self, api: KubeApi) -> None:
        """A list once, then what changes since; a list again where the server has forgotten since when."""
        if not self._selector:
            self._selector = self._selector_of(api.get(self.path))
        try:
            if not self._version:
                self._list(api)
            else:
                for event in api.watch(
                    self.pods_path, self._version, 1, labelSelector=self._selector
                ):
                    self._take(event)
        except KubeError as error:
            if error.status != 410:
                raise
            self._list(api)
        self._bind()

    def _list(self, api: KubeApi) -> None:
        self._version = ""
        found = api.get(self.pods_path, labelSelector=self._selector)
        self.pods = {pod["metadata"]["name"]: pod for pod in found["items"] if self._counts(pod)}
        self._version = found["metadata"]["resourceVersion"]

    def _take(self, event: dict[str, Any]) -> None:
        changed = event["object"]
        self._version = changed["metadata"]["resourceVersion"]
        if event["type"] == "BOOKMARK" or not self._counts(changed):
            return
        name = changed["metadata"]["name"]
        if event["type"] == "DELETED":
            self.pods.pop(name, None)
        else:
            self.pods[name] = changed

    def _counts(self, pod: dict[str, Any]) -> bool:
        """Of a group only its leader is an engine."""
        labels = pod["metadata"].get("labels", {})
        return self.known.kind == "Deployment" or labels.get(WORKER_INDEX) == "0"

    def _selector_of(self, workload: dict[str, Any]) -> str:
        if self.known.kind == "LeaderWorkerSet":
            return f"{SET_NAME}={self.name}"
        labels = workload["spec"]["selector"].get("matchLabels", {})
        if not labels or workload["spec"]["selector"].get("matchExpressions"):
            raise SiteError(
                f"Deployment {self.name}",
                got="a selector of expressions",
                allowed="one of matchLabels",
            )
        return ",".join(f"{key}={labels[key]}" for key in sorted(labels))

    def _bind(self) -> None:
        """Give every wanted engine without a pod one that is nobody's; who has one keeps it."""
        alive = {n: p for n, p in self.pods.items() if _stays(p)}
        for name in set(self._going) - set(alive):
            self._going.discard(name)
        wanted = dict(self.wanted)  # the agent may change it meanwhile
        if self.known.kind == "LeaderWorkerSet":
            by_group = {
                int(pod["metadata"]["labels"][GROUP_INDEX]): name for name, pod in alive.items()
            }
            ranks = enumerate(sorted(wanted, key=_number))
            self.pod_of = {e: by_group[rank] for rank, e in ranks if rank in by_group}
        else:
            self.pod_of = self._bound(alive, wanted)
        self._had |= self.pod_of

    def _bound(
        self, alive: dict[str, dict[str, Any]], wanted: dict[str, EngineSpec]
    ) -> dict[str, str]:
        pod_of = {e: p for e, p in self.pod_of.items() if p in alive and e in wanted}
        # A pod whose engine was stopped ends any moment, unless one is wanted again and no other is there.
        going = set(self._going)
        taken = set(pod_of.values()) | (going if len(alive) - len(going) >= len(wanted) else set())
        spare = sorted(n for n, pod in alive.items() if n not in taken and _ready(pod))
        spare.sort(key=lambda name: name in going)
        for engine in sorted(wanted, key=_number):
            if engine not in pod_of and spare:
                # After a restart of the agent gateways still send to the pod that it was.
                same = (n for n in spare if self._url(alive[n]) == wanted[engine].url)
                pod_of[engine] = next(same, spare[0])
                spare.remove(pod_of[engine])
                self._going.discard(pod_of[engine])
        return pod_of


def _number(engine: str) -> int:
    return int(engine.rpartition("-")[2])


def _cost(pod: dict[str, Any]) -> str:
    """What an earlier agent said of a pod is there too."""
    annotations = pod["metadata"].get("annotations") or {}
    return str(annotations.get(DELETION_COST, ""))


def _stays(pod: dict[str, Any]) -> bool:
    return "deletionTimestamp" not in pod["metadata"]


def _ready(pod: dict[str, Any]) -> bool:
    conditions = pod.get("status", {}).get("conditions", ())
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


def trouble(pod: dict[str, Any]) -> str:
    """Why a pod will not come up by itself; empty: it may."""
    status = pod.get("status", {})
    for container in (
        *status.get("initContainerStatuses", ()),
        *status.get("containerStatuses", ()),
    ):
        waiting = container.get("state", {}).get("waiting", {})
        if waiting.get("reason") in HOPELESS:
            message = waiting.get("message", "")
            return f"{container['name']}: {waiting['reason']}{': ' if message else ''}{message}"
    for condition in status.get("conditions", ()):
        if condition["type"] == "PodScheduled" and condition.get("reason") == "Unschedulable":
            return f"Unschedulable: {condition.get('message', '')}"
    return f"pod failed: {status.get('reason', '')}" if status.get("phase") == "Failed" else ""

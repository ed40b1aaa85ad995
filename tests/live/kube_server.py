"""An API server of Kubernetes, small: Deployments, LeaderWorkerSets, pods, scale, merge patches, watches, over TLS on a real socket.

Shapes and status codes as in the API reference v1.30 and leaderworkerset.x-k8s.io/v1; the controllers are played by `settle`.
"""

from __future__ import annotations

import base64
import datetime
import json
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

TOKEN = "a-service-account-token"
DEPLOYMENTS = "/apis/apps/v1/namespaces/llm/deployments/"
SETS = "/apis/leaderworkerset.x-k8s.io/v1/namespaces/llm/leaderworkersets/"
PODS = "/api/v1/namespaces/llm/pods"
LWS = "leaderworkerset.sigs.k8s.io"


class Cluster:
    """Its objects, and how it misbehaves."""

    def __init__(self) -> None:
        self.version = 1000
        self.workloads: dict[str, dict[str, Any]] = {}
        self.pods: dict[str, dict[str, Any]] = {}
        self.changes: list[tuple[int, dict[str, Any]]] = []
        self.oldest = 0
        """Watches from before are Gone."""
        self.gone_as_event = False
        self.conflicts = 0
        self.busy = 0
        self.broken = False
        """It answers everything with an error of its own."""
        self.forbidden = False
        self.denied: set[tuple[str, str]] = set()
        """(method, beginning of a path) that the account has no right to."""
        self.answers = threading.Event()
        self.answers.set()
        self.trouble = ""
        self.asked: list[tuple[str, str]] = []
        self.ended: list[str] = []
        self.lock = threading.RLock()
        self._made = 0

    # --- objects

    def add(self, path: str, replicas: int) -> None:
        name = path.rsplit("/", 1)[1]
        spec: dict[str, Any] = {"replicas": replicas}
        if path.startswith(DEPLOYMENTS):
            spec["selector"] = {"matchLabels": {"app": name}}
        self.workloads[path] = self._stamped({"metadata": {"name": name}, "spec": spec})
        self.settle()

    def _stamped(self, thing: dict[str, Any]) -> dict[str, Any]:
        self.version += 1
        thing["metadata"]["resourceVersion"] = str(self.version)
        return thing

    def _change(self, kind: str, pod: dict[str, Any]) -> None:
        self._stamped(pod)
        self.changes.append((self.version, {"type": kind, "object": json.loads(json.dumps(pod))}))

    def settle(self) -> None:
        """What the controllers of Deployments, LeaderWorkerSets and kubelets do."""
        with self.lock:
            for path, workload in self.workloads.items():
                name, wanted = workload["metadata"]["name"], workload["spec"]["replicas"]
                if path.startswith(DEPLOYMENTS):
                    self._settle_deployment(name, wanted)
                else:
                    self._settle_set(name, wanted)

    def _settle_deployment(self, name: str, wanted: int) -> None:
        mine = [p for p in self.pods.values() if p["metadata"]["labels"].get("app") == name]
        for _ in range(len(mine), wanted):
            self._made += 1
            self._create(f"{name}-7c9d-{self._made:03d}", {"app": name})
        key = "controller.kubernetes.io/pod-deletion-cost"
        cost = {p["metadata"]["name"]: int(p["metadata"]["annotations"].get(key, 0)) for p in mine}
        # Not ready ones first, then the lower cost, then the newer.
        mine.sort(key=lambda p: p["metadata"]["name"], reverse=True)
        mine.sort(key=lambda p: (self._is_ready(p), cost[p["metadata"]["name"]]))
        for pod in mine[: max(len(mine) - wanted, 0)]:
            self.remove(pod["metadata"]["name"])

    def _settle_set(self, name: str, wanted: int) -> None:
        for group in range(wanted):
            for worker in range(2):
                pod = f"{name}-{group}" + (f"-{worker}" if worker else "")
                if pod not in self.pods:
                    labels = {
                        f"{LWS}/name": name,
                        f"{LWS}/group-index": str(group),
                        f"{LWS}/worker-index": str(worker),
                    }
                    self._create(pod, labels)
        for pod in [
            n
            for n, p in self.pods.items()
            if p["metadata"]["labels"].get(f"{LWS}/name") == name
            and int(p["metadata"]["labels"][f"{LWS}/group-index"]) >= wanted
        ]:
            self.remove(pod)

    @staticmethod
    def _is_ready(pod: dict[str, Any]) -> bool:
        return any(
            c["type"] == "Ready" and c["status"] == "True" for c in pod["status"]["conditions"]
        )

    def _create(self, name: str, labels: dict[str, str]) -> None:
        status: dict[str, Any] = {"phase": "Pending", "conditions": []}
        if self.trouble == "Unschedulable":
            status["conditions"] = [
                {
                    "type": "PodScheduled",
                    "status": "False",
                    "reason": "Unschedulable",
                    "message": "0/3 nodes are available: 3 Insufficient nvidia.com/gpu.",
                }
            ]
        elif self.trouble:
            waiting = {"reason": self.trouble, "message": 'Back-off pulling image "x"'}
            status["containerStatuses"] = [
                {"name": "engine", "ready": False, "state": {"waiting": waiting}}
            ]
        pod = {"metadata": {"name": name, "labels": labels, "annotations": {}}, "status": status}
        self.pods[name] = pod
        self._change("ADDED", pod)

    def ready(self) -> None:
        """Every pod that can comes up."""
        with self.lock:
            for number, pod in enumerate(self.pods.values()):
                if not self._is_ready(pod) and not self.trouble:
                    pod["status"] = {
                        "phase": "Running",
                        "podIP": f"10.1.0.{10 + number}",
                        "conditions": [{"type": "Ready", "status": "True"}],
                    }
                    self._change("MODIFIED", pod)

    def unready(self, name: str) -> None:
        """A pod fails its readiness probe."""
        with self.lock:
            self.pods[name]["status"]["conditions"] = [{"type": "Ready", "status": "False"}]
            self._change("MODIFIED", self.pods[name])

    def evict(self, name: str) -> None:
        """A pod is being deleted, and ready for as long as its grace period lasts."""
        with self.lock:
            self.pods[name]["metadata"]["deletionTimestamp"] = "2024-05-01T12:00:00Z"
            self._change("MODIFIED", self.pods[name])

    def remove(self, name: str) -> None:
        with self.lock:
            self.ended.append(name)
            self._change("DELETED", self.pods.pop(name))


class Handler(BaseHTTPRequestHandler):
    cluster: Cluster
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Quiet."""

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        query = {k: v[0] for k, v in parse_qs(parts.query).items()}
        with self.cluster.lock:
            if self._refused(parts.path):
                return
            if parts.path == PODS and query.get("watch"):
                self._watch(query)
            elif parts.path == PODS:
                items = [p for p in self.cluster.pods.values() if self._selected(p, query)]
                meta = {"resourceVersion": str(self.cluster.version)}
                self._answer(200, {"kind": "PodList", "metadata": meta, "items": items})
            else:
                self._object(parts.path)

    def _object(self, path: str) -> None:
        found = self.cluster.workloads.get(path.removesuffix("/scale"))
        if found is None:
            self._status(404, "NotFound", f'"{path}" not found')
        elif path.endswith("/scale"):
            spec = {"replicas": found["spec"]["replicas"]}
            self._answer(200, {"kind": "Scale", "metadata": found["metadata"], "spec": spec})
        else:
            self._answer(200, found)

    def do_PATCH(self) -> None:
        patch = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        path = urlsplit(self.path).path
        with self.cluster.lock:
            if self._refused(path):
                return
            if self.headers["Content-Type"] != "application/merge-patch+json":
                self._status(
                    415, "UnsupportedMediaType", "the body of the request was in an unknown format"
                )
                return
            if path.startswith(PODS + "/"):
                self._patch_pod(path.rsplit("/", 1)[1], patch)
                return
            workload = self.cluster.workloads[path.removesuffix("/scale")]
            if self.cluster.conflicts:
                self.cluster.conflicts -= 1
                self.cluster._stamped(workload)  # somebody was quicker
            if patch["metadata"]["resourceVersion"] != workload["metadata"]["resourceVersion"]:
                self._status(
                    409,
                    "Conflict",
                    "the object has been modified; please apply your changes to the latest version and try again",
                )
                return
            workload["spec"]["replicas"] = patch["spec"]["replicas"]
            self.cluster._stamped(workload)
            self.cluster.settle()
            self._answer(200, {"kind": "Scale", "metadata": workload["metadata"]})

    def _patch_pod(self, name: str, patch: dict[str, Any]) -> None:
        pod = self.cluster.pods.get(name)
        if pod is None:
            self._status(404, "NotFound", f'pods "{name}" not found')
            return
        for key, value in patch["metadata"]["annotations"].items():  # RFC 7386: null removes
            if value is None:
                pod["metadata"]["annotations"].pop(key, None)
            else:
                pod["metadata"]["annotations"][key] = value
        self.cluster._change("MODIFIED", pod)
        self._answer(200, pod)

    def do_DELETE(self) -> None:
        path = urlsplit(self.path).path
        with self.cluster.lock:
            if self._refused(path):
                return
            name = path.rsplit("/", 1)[1]
            if name not in self.cluster.pods:
                self._status(404, "NotFound", f'pods "{name}" not found')
                return
            self.cluster.remove(name)
            self.cluster.settle()
            self._answer(200, {"kind": "Status", "status": "Success"})

    def _refused(self, path: str) -> bool:
        self.cluster.asked.append((self.command, path))
        self.cluster.answers.wait(30)
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._status(401, "Unauthorized", "Unauthorized")
        elif self.cluster.broken:
            self._status(500, "InternalError", "etcdserver: request timed out")
        elif self.cluster.forbidden:
            self._status(
                403,
                "Forbidden",
                'deployments.apps "chat" is forbidden: User "system:serviceaccount:llm:hanse" cannot get resource "deployments/scale"',
            )
        elif any(
            self.command == method and path.startswith(begin)
            for method, begin in self.cluster.denied
        ):
            self._status(
                403, "Forbidden", f'pods is forbidden: User "hanse" cannot {self.command} "{path}"'
            )
        elif self.cluster.busy:
            self.cluster.busy -= 1
            self._status(
                429, "TooManyRequests", "Too many requests, please try again later.", retry="2"
            )
        else:
            return False
        return True

    def _watch(self, query: dict[str, str]) -> None:
        since = int(query["resourceVersion"])
        if since < self.cluster.oldest:
            gone = _status(
                410, "Expired", f"too old resource version: {since} ({self.cluster.oldest})"
            )
            if not self.cluster.gone_as_event:
                self._answer(410, gone)
                return
            changes = [{"type": "ERROR", "object": gone}]
        else:
            changes = [
                c
                for v, c in self.cluster.changes
                if v > since and self._selected(c["object"], query)
            ]
            mark = {"kind": "Pod", "metadata": {"resourceVersion": str(self.cluster.version)}}
            changes.append({"type": "BOOKMARK", "object": mark})
        lines = b"".join(json.dumps(change).encode() + b"\n" for change in changes)
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.wfile.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(lines), lines))

    @staticmethod
    def _selected(pod: dict[str, Any], query: dict[str, str]) -> bool:
        wanted = dict(pair.split("=") for pair in query["labelSelector"].split(","))
        return wanted.items() <= pod["metadata"]["labels"].items()

    def _status(self, code: int, reason: str, message: str, retry: str = "") -> None:
        self._answer(code, _status(code, reason, message), retry)

    def _answer(self, code: int, body: dict[str, Any], retry: str = "") -> None:
        content = json.dumps(body).encode()
        self.send_response(code)
        if retry:
            self.send_header("Retry-After", retry)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


def _status(code: int, reason: str, message: str) -> dict[str, Any]:
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "status": "Failure",
        "code": code,
        "reason": reason,
        "message": message,
    }


@contextmanager
def serving(directory: Path) -> Iterator[tuple[Cluster, Path]]:
    """A cluster, and a kubeconfig that leads to it."""
    key, certificate = _certificate()
    (directory / "tls.pem").write_bytes(key + certificate)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(directory / "tls.pem")
    cluster = Cluster()
    handler = type("Bound", (Handler,), {"cluster": cluster})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.socket = tls.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    config = {
        "current-context": "here",
        "contexts": [{"name": "here", "context": {"cluster": "local", "user": "hanse"}}],
        "clusters": [
            {
                "name": "local",
                "cluster": {
                    "server": f"https://127.0.0.1:{server.server_address[1]}",
                    "certificate-authority-data": base64.b64encode(certificate).decode(),
                },
            }
        ],
        "users": [{"name": "hanse", "user": {"token": TOKEN}}],
    }
    path = directory / "kubeconfig.json"
    path.write_text(json.dumps(config))
    try:
        yield cluster, path
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _certificate() -> tuple[bytes, bytes]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "kube-apiserver")])
    now = datetime.datetime.fromtimestamp(time.time(), datetime.UTC)
    day = datetime.timedelta(days=1)
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - day)
        .not_valid_after(now + day)
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    raw = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return raw, built.public_bytes(serialization.Encoding.PEM)

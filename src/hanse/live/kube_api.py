"""The little that is needed of a Kubernetes API server: credentials, JSON over HTTPS, errors, and a watch.

Here: `Cluster` (where and as whom), `KubeApi`. Not here: what is asked for and why (`live.kubernetes`). Blocking calls: run them in a
thread. Plain HTTP over the standard library; a client for all of Kubernetes would weigh more than this project.

Shapes (Kubernetes API concepts, v1.30): errors are `Status` objects with `code`, `reason`, `message`; a watch is a line a change,
`{"type": ADDED | MODIFIED | DELETED | BOOKMARK | ERROR, "object": ...}`, and one whose `resourceVersion` has been compacted away ends
with HTTP 410, or 200 and an ERROR event whose object has code 410: list anew.
"""

from __future__ import annotations

import base64
import http.client
import json
import ssl
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode, urlsplit

from hanse.errors import SiteError
from hanse.model.fleet import Value

ACCOUNT_DIR: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""Where a pod finds its own credentials."""
SERVER_IN_POD: Final = "https://kubernetes.default.svc"
ANSWER_S_MAX: Final = 10.0
RETRY_AFTER_S: Final = 1.0
"""Where a 429 names no time."""
ANSWER_BYTES_MAX: Final = 32 * 1024 * 1024
"""A list of a thousand pods is a few megabytes."""


RIGHTS: Final = (
    "get and patch on deployments/scale or leaderworkersets/scale, get on deployments or leaderworkersets, "
    "list, watch, patch and delete on pods, in the workload's namespace"
)
ADVICE: Final = {
    0: ("an API server that answers", "see that the kubeconfig's server and CA are right and can be reached"),
    401: ("credentials that the server knows", "put a valid token or client certificate into the kubeconfig"),
    403: (RIGHTS, "bind a Role with these verbs to the account, see docs/actuation.md"),
    404: ("a workload that exists", "apply its manifest, or correct kind, name and namespace of the pool"),
    409: ("a workload that nobody else scales", "remove its autoscaler"),
}  # fmt: skip
"""Status (0: no answer) -> what is needed, and what to do."""


class KubeError(SiteError):
    """The API server said no, or nothing."""

    def __init__(self, where: str, status: int, message: str, retry_after_s: float = 0.0) -> None:
        allowed, fix = ADVICE.get(status, ("an API server that does as asked", "read its log"))
        got = f"{status}: {message}" if status else message
        super().__init__(where, got=got, allowed=allowed, fix=fix)
        self.status = status
        self.retry_after_s = retry_after_s
        self.message = message


class Cluster(Value, frozen=True, kw_only=True):
    """An API server and how to speak to it."""

    server: str
    ca_pem: str = ""
    """Empty: the machine's own roots."""
    token: str = ""
    token_file: str = ""
    """Read anew with every call: service account tokens are rotated hourly."""
    client_pem: str = ""
    """Certificate and key."""


def cluster_of(kubeconfig: str) -> Cluster:
    """From a kubeconfig in JSON (`kubectl config view --raw -o json`), or the service account of this pod.

    Raises:
        SiteError: there is no such file, or not what it should be.
    """
    if not kubeconfig:
        return Cluster(
            server=SERVER_IN_POD,
            ca_pem=_text(ACCOUNT_DIR / "ca.crt"),
            token_file=str(ACCOUNT_DIR / "token"),
        )
    path = Path(kubeconfig)
    try:
        config = json.loads(_text(path))
        name = config["current-context"]
        context = next(c["context"] for c in config["contexts"] if c["name"] == name)
        cluster = next(c["cluster"] for c in config["clusters"] if c["name"] == context["cluster"])
        user = next(u["user"] for u in config["users"] if u["name"] == context["user"])
    except (ValueError, KeyError, TypeError, StopIteration) as error:
        raise SiteError(
            kubeconfig,
            got=repr(error),
            allowed="a kubeconfig in JSON",
            fix="kubectl config view --raw --minify -o json > FILE",
        ) from None
    if "exec" in user or "auth-provider" in user:
        raise SiteError(
            kubeconfig,
            got="a user whose credentials come from a plugin",
            allowed="a token, tokenFile, or client certificate in the file",
            fix="make a service account with the rights in docs/actuation.md and put its token there",
        )
    certificate = _pem(user, "client-certificate")
    return Cluster(
        server=cluster["server"],
        ca_pem=_pem(cluster, "certificate-authority"),
        token=user.get("token", ""),
        token_file=user.get("tokenFile", ""),
        client_pem=certificate + "\n" + _pem(user, "client-key") if certificate else "",
    )


class KubeApi:
    """Calls to one API server; a connection a call, as they come about once a second."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        parts = urlsplit(cluster.server)
        self._host, self._port = parts.hostname or "", parts.port or 443
        self._base = parts.path.rstrip("/")
        self._tls = ssl.create_default_context(cadata=cluster.ca_pem or None)
        self._tls.minimum_version = ssl.TLSVersion.TLSv1_2
        if cluster.client_pem:
            with tempfile.NamedTemporaryFile("w", suffix=".pem") as file:  # mode 0600
                file.write(cluster.client_pem)
                file.flush()
                self._tls.load_cert_chain(file.name)

    def get(self, path: str, **query: str) -> dict[str, Any]:
        """One object or list."""
        return self._call("GET", _with(path, query))

    def merge(self, path: str, patch: dict[str, Any]) -> dict[str, Any]:
        """JSON merge patch (RFC 7386). One that names `metadata.resourceVersion` fails with 409 where the object has changed."""
        return self._call("PATCH", path, patch, "application/merge-patch+json")

    def delete(self, path: str) -> dict[str, Any]:
        """Delete one object."""
        return self._call("DELETE", path)

    def watch(
        self, path: str, resource_version: str, for_s: int, **query: str
    ) -> Iterator[dict[str, Any]]:
        """Changes since a list, until `for_s` are over.

        Raises:
            KubeError: 410 where the list is too old; 0 where the connection ended.
        """
        asked = query | {
            "watch": "1",
            "resourceVersion": resource_version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(for_s),
        }
        connection, answer = self._ask("GET", _with(path, asked), timeout_s=for_s + ANSWER_S_MAX)
        try:
            if answer.status != 200:
                raise _error(path, answer, answer.read(ANSWER_BYTES_MAX))
            while line := answer.readline():
                event = json.loads(line)
                if event["type"] == "ERROR":
                    status = event["object"]
                    raise KubeError(path, int(status.get("code", 0)), status.get("message", ""))
                yield event
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise KubeError(path, 0, repr(error)) from error
        finally:
            connection.close()

    def _call(
        self, method: str, path: str, body: dict[str, Any] | None = None, kind: str = ""
    ) -> dict[str, Any]:
        connection, answer = self._ask(method, path, body, kind)
        try:
            content = answer.read(ANSWER_BYTES_MAX)
            if answer.status >= 300:
                raise _error(path, answer, content)
            found: dict[str, Any] = json.loads(content)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise KubeError(path, 0, repr(error)) from error
        finally:
            connection.close()
        return found

    def _ask(
        self,
        method: str,
        path: str,
        body: dict[str, Any] | None = None,
        kind: str = "",
        timeout_s: float = ANSWER_S_MAX,
    ) -> tuple[http.client.HTTPSConnection, http.client.HTTPResponse]:
        connection = http.client.HTTPSConnection(
            self._host, self._port, timeout=timeout_s, context=self._tls
        )
        headers = {"Accept": "application/json"}
        if body is not None:
            headers["Content-Type"] = kind
        try:
            if token := self._token():
                headers["Authorization"] = f"Bearer {token}"
            sent = None if body is None else json.dumps(body)
            connection.request(method, self._base + path, sent, headers)
            return connection, connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise KubeError(path, 0, repr(error)) from error

    def _token(self) -> str:
        file = self._cluster.token_file
        return Path(file).read_text().strip() if file else self._cluster.token


def _error(path: str, answer: http.client.HTTPResponse, content: bytes) -> KubeError:
    try:
        message = str(json.loads(content).get("message", ""))
    except (ValueError, AttributeError):
        message = content[:200].decode(errors="replace")
    wait_s = 0.0
    if answer.status in (429, 503):
        asked = answer.headers.get("Retry-After", "")
        wait_s = float(asked) if asked.isdigit() else RETRY_AFTER_S
    return KubeError(path, answer.status, message or answer.reason, wait_s)


def _with(path: str, query: dict[str, str]) -> str:
    return f"{path}?{urlencode(query)}" if query else path


def _pem(of: dict[str, Any], name: str) -> str:
    data = of.get(f"{name}-data", "")
    if data:
        return base64.b64decode(data).decode()
    return _text(Path(of[name])) if of.get(name) else ""


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError as error:
        raise SiteError(str(path), got=str(error), allowed="a readable file") from None

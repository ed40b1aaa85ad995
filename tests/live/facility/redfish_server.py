"""A Redfish service on a real socket: TLS, sessions and basic authentication, privileges, ETags, PATCH, POST, DELETE, queries, errors.

Speaks after DSP0266 1.15 well enough for DMTF's Redfish-Protocol-Validator, which `test_redfish_protocol` runs against it. HTTP on the same
port is answered with a redirect to HTTPS, as a BMC's port 80 does.
"""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from live.facility.redfish_tree import (
    ACCOUNTS,
    PRIVILEGES_OF,
    REPLACE,
    RESET,
    RESETS,
    ROOT,
    SESSIONS,
    SUBSCRIPTIONS,
    Machine,
)

ADMIN = "admin"
BASE = "Base.1.15.0."
OPEN = {
    "/redfish",
    ROOT,
    ROOT.rstrip("/"),
    ROOT + "odata",
    ROOT + "$metadata",
    ROOT + "openapi.yaml",
}
METADATA = """<?xml version="1.0" encoding="UTF-8"?>
<edmx:Edmx xmlns:edmx="http://docs.oasis-open.org/odata/ns/edmx" Version="4.0">
<edmx:DataServices><Schema xmlns="http://docs.oasis-open.org/odata/ns/edm" Namespace="Service">
<EntityContainer Name="Service" Extends="ServiceRoot.v1_15_0.ServiceContainer"/></Schema></edmx:DataServices></edmx:Edmx>"""
OPENAPI = "openapi: 3.0.1\ninfo: {title: Facility test server, version: '1'}\npaths: {}\n"
VERBS = ("GET", "HEAD", "POST", "PATCH", "PUT", "DELETE")


class Refusal(Exception):
    """An answer other than success."""

    def __init__(self, status: int, key: str, message: str, *args: str) -> None:
        super().__init__(message)
        self.status, self.key, self.message, self.args_of_message = status, key, message, list(args)

    def info(self) -> dict[str, Any]:
        return {
            "@odata.type": "#Message.v1_1_2.Message",
            "MessageId": BASE + self.key,
            "Message": self.message,
            "MessageArgs": self.args_of_message,
            "Severity": "Critical",
            "Resolution": "None.",
        }

    def body(self) -> dict[str, Any]:
        first = {"code": BASE + self.key, "message": self.message}
        return {"error": first | {"@Message.ExtendedInfo": [self.info()]}}


class Service:
    """A machine with its accounts and sessions."""

    def __init__(self, machine: Machine, password: str) -> None:
        self.machine = machine
        self.lock = threading.RLock()
        self.passwords = {machine.account(ADMIN, "Administrator"): password}
        self.tokens: dict[str, tuple[str, str]] = {}
        """Token -> (account path, session path)."""
        self.asked: list[tuple[str, str]] = []
        self.trouble = ""
        """`busy`: 503; `mute`: no answer at all; `expired`: every token is unknown."""
        self.needs_etag = False
        """PATCH without If-Match is refused, as by iDRAC 9."""
        self.numbers = 0

    def account_of(self, user: str, password: str) -> str:
        for path, known in self.passwords.items():
            account = self.machine.tree[path]
            if account["UserName"] == user and account["Enabled"] and known == password:
                return path
        raise Refusal(401, "NoValidSession", "There is no valid session.")

    def next_number(self) -> int:
        self.numbers += 1
        return self.numbers


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    timeout = 20
    service: Service
    server: Any

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What http.server refuses by itself, in Redfish's shape."""
        refusal = Refusal(code, "GeneralError", message or "The request was refused.")
        self._send(code, refusal.body(), {"Connection": "close"})
        self.close_connection = True

    def do_GET(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        content = self.rfile.read(length)
        if not isinstance(self.connection, ssl.SSLSocket) and self.server.tls is not None:
            target = f"https://{self.headers['Host']}{self.path}"
            self._send(308, {}, {"Location": target})
            return
        service = self.service
        service.asked.append((self.command, self.path))
        if service.trouble == "mute":
            self.close_connection = True
            self.connection.close()
            return
        try:
            with service.lock:
                if service.trouble == "busy":
                    raise Refusal(503, "ServiceTemporarilyUnavailable", "Busy.", "1")
                status, body, headers = Request(self, content).answer()
        except Refusal as refusal:
            status, body, headers = refusal.status, refusal.body(), {}
            if status == 401:
                headers["WWW-Authenticate"] = 'Basic realm="Redfish"'
        self._send(status, body, headers)

    do_HEAD = do_POST = do_PATCH = do_PUT = do_DELETE = do_GET  # noqa: N815

    def _send(self, status: int, body: Any, headers: dict[str, str]) -> None:
        kind = "application/json;charset=utf-8"
        if isinstance(body, str):
            kind, content = headers.pop("Content-Type"), body.encode()
        else:
            content = b"" if body is None else json.dumps(body).encode()
        self.send_response(status)
        told = {"OData-Version": "4.0", "Cache-Control": "no-cache"} | headers
        told["Allow"] = ", ".join(self._allowed())
        if content:
            told["Content-Type"] = kind
        if status != 304 and status != 204:
            told["Content-Length"] = str(len(content))
        if isinstance(body, dict) and "@odata.type" in body:
            schema = body["@odata.type"].lstrip("#").rpartition(".")[0]
            file = f"http://redfish.dmtf.org/schemas/v1/{schema}.json"
            told["Link"] = f"<{file}>; rel=describedby"
        for name, value in told.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _allowed(self) -> list[str]:
        path, machine = _clean(self.path), self.service.machine
        if path in machine.actions:
            return ["POST"]
        allowed = ["GET", "HEAD"]
        if path in machine.creates or path == SESSIONS + "/Members":
            allowed.append("POST")
        if path in machine.patchable:
            allowed.append("PATCH")
        if path in machine.deletes:
            allowed.append("DELETE")
        return allowed


class Request:
    """One request being answered, under the service's lock."""

    def __init__(self, handler: Handler, content: bytes) -> None:
        self.handler, self.content = handler, content
        self.service, self.machine = handler.service, handler.service.machine
        self.path, self.method = _clean(handler.path), handler.command
        self.query = parse_qsl(urlsplit(handler.path).query, keep_blank_values=True)
        self.headers = handler.headers

    def answer(self) -> tuple[int, Any, dict[str, str]]:
        if self.headers.get("OData-Version", "4.0") != "4.0":
            raise Refusal(412, "PreconditionFailed", "OData-Version must be 4.0.")
        creates_session = self.method == "POST" and self.path in (SESSIONS, SESSIONS + "/Members")
        account = ""
        if not (self.path in OPEN and self.method in ("GET", "HEAD")) and not creates_session:
            account = self._authenticated()
        if self.method in ("GET", "HEAD"):
            return self._read()
        if self.method not in self.handler._allowed():
            raise Refusal(405, "OperationNotAllowed", "The method is not allowed here.")
        if creates_session:
            return self._new_session()
        self._authorised(account)
        return {"POST": self._create, "PATCH": self._patch, "DELETE": self._delete}[self.method](
            account
        )

    # --- who

    def _authenticated(self) -> str:
        token, basic = self.headers.get("X-Auth-Token"), self.headers.get("Authorization", "")
        if token is not None:
            if token not in self.service.tokens or self.service.trouble == "expired":
                raise Refusal(401, "NoValidSession", "There is no valid session.")
            account = self.service.tokens[token][0]
        elif basic.startswith("Basic "):
            try:
                user, _, password = base64.b64decode(basic[6:]).decode().partition(":")
            except ValueError:
                user, password = "", ""
            account = self.service.account_of(user, password)
        else:
            raise Refusal(401, "NoValidSession", "There is no valid session.")
        if self.machine.tree[account]["PasswordChangeRequired"] and self.path != account:
            raise Refusal(403, "PasswordChangeRequired", "The password must be changed.", account)
        return account

    def _authorised(self, account: str) -> None:
        privileges = PRIVILEGES_OF[self.machine.tree[account]["RoleId"]]
        needed = "ConfigureComponents"
        if self.path.startswith(ACCOUNTS):
            needed = "ConfigureSelf" if self.path == account else "ConfigureUsers"
        elif self.path.startswith((SESSIONS, ROOT + "Managers", SUBSCRIPTIONS)):
            needed = "ConfigureManager"
        if needed == "ConfigureSelf" and self._json().keys() - {"Password"}:
            needed = "ConfigureUsers"
        if needed not in privileges:
            raise Refusal(403, "InsufficientPrivilege", "There are insufficient privileges.")

    # --- reading

    def _read(self) -> tuple[int, Any, dict[str, str]]:
        if self.path == "/redfish":
            return 200, {"v1": ROOT}, {}
        if self.path == ROOT + "$metadata":
            return 200, METADATA, {"Content-Type": "application/xml"}
        if self.path == ROOT + "openapi.yaml":
            return 200, OPENAPI, {"Content-Type": "application/yaml"}
        if self.path == ROOT + "odata":
            root = self.machine.tree[ROOT]
            names = [n for n, v in root.items() if isinstance(v, dict) and "@odata.id" in v]
            value = [{"name": n, "kind": "Singleton", "url": root[n]["@odata.id"]} for n in names]
            return 200, {"@odata.context": ROOT + "$metadata", "value": value}, {}
        found = self.machine.read(self.path)
        if found is None:
            raise Refusal(
                404, "ResourceMissingAtURI", "There is no resource at the URI.", self.path
            )
        for name, value in self.query:
            if name == "only":
                if value:
                    raise Refusal(
                        400, "QueryParameterValueFormatError", "only takes no value.", value, name
                    )
                if len(found.get("Members", ())) == 1:
                    found = self.machine.read(found["Members"][0]["@odata.id"]) or found
            elif name.startswith("$"):
                raise Refusal(501, "QueryNotSupported", "The query is not supported.")
        etag = _etag(found)
        if etag in _tags(self.headers.get("If-None-Match", "")):
            return 304, None, {"ETag": etag}
        return 200, found | {"@odata.etag": etag}, {"ETag": etag}

    # --- changing

    def _json(self) -> dict[str, Any]:
        try:
            found = json.loads(self.content) if self.content else {}
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise Refusal(400, "MalformedJSON", "The body is no JSON object.")
        return found

    def _fresh(self) -> None:
        """The client changes what it has seen, or nothing."""
        found = self.machine.read(self.path)
        given = self.headers.get("If-Match")
        if given is None and self.service.needs_etag and self.method == "PATCH":
            raise Refusal(428, "PreconditionRequired", "If-Match is required.")
        if given is not None and found is not None and not _tags(given) & {"*", _etag(found)}:
            raise Refusal(412, "PreconditionFailed", "The ETag did not match.")

    def _patch(self, account: str) -> tuple[int, Any, dict[str, str]]:
        self._fresh()
        asked = self._json()
        wanted = {k: v for k, v in asked.items() if "@" not in k}
        if not wanted:
            raise Refusal(400, "NoOperation", "The request changes nothing.")
        known = self.machine.patchable[self.path]
        bad = [
            name
            for name in _leaves(wanted)
            if name not in known and name.split(".")[0] not in known
        ]
        good = {k: v for k, v in wanted.items() if not any(b.split(".")[0] == k for b in bad)}
        unknown = [
            Refusal(400, "PropertyUnknown", f"The property {name} is unknown.", name)
            for name in bad
        ]
        if not good:
            raise unknown[0]
        self._check_values(good)
        if "Password" in good and self.path in self.service.passwords:
            self.service.passwords[self.path] = good.pop("Password")
            good.setdefault("PasswordChangeRequired", False)
        self.machine.patched(self.path, good)
        found = self.machine.read(self.path) or {}
        etag = _etag(found)
        if unknown:
            found["@Message.ExtendedInfo"] = [u.info() for u in unknown]
        return 200, found | {"@odata.etag": etag}, {"ETag": etag}

    def _check_values(self, good: dict[str, Any]) -> None:
        password = good.get("Password")
        if password is not None and not 8 <= len(password) <= 64:
            raise Refusal(400, "PropertyValueFormatError", "8 to 64 characters.", "***", "Password")
        limits = self.machine.limits_of(self.path)
        asked = (good.get("PowerLimitWatts") or {}).get("SetPoint")
        if limits and asked is not None and not limits[0] <= asked <= limits[1]:
            raise Refusal(400, "PropertyValueOutOfRange", "Out of range.", str(asked), "SetPoint")
        if good.get("RoleId", "ReadOnly") not in PRIVILEGES_OF:
            raise Refusal(400, "PropertyValueNotInList", "No such role.", good["RoleId"], "RoleId")

    def _create(self, account: str) -> tuple[int, Any, dict[str, str]]:
        asked = self._json()
        if self.path == RESET:
            return self._reset(asked.get("ResetType", "On"))
        if self.path == REPLACE:
            return 204, None, {}
        if self.path == ACCOUNTS:
            return self._new_account(asked)
        assert self.path == SUBSCRIPTIONS, self.path
        if asked.get("Protocol") != "Redfish" or not str(asked.get("Destination", "")).startswith(
            "http"
        ):
            raise Refusal(
                400,
                "PropertyValueNotInList",
                "Not supported.",
                str(asked.get("Protocol")),
                "Protocol",
            )
        path = f"{SUBSCRIPTIONS}/{self.service.next_number()}"
        fields = {k: asked.get(k) for k in ("Destination", "Protocol", "Context")}
        kind = "EventDestination.v1_13_0.EventDestination"
        return self._created(path, kind, "Subscription", fields, SUBSCRIPTIONS)

    def _created(
        self, path: str, kind: str, name: str, fields: dict[str, Any], collection: str
    ) -> tuple[int, Any, dict[str, str]]:
        self.machine.add(path, kind, name, **fields)
        self.machine.tree[collection]["Members"].append({"@odata.id": path})
        self.machine.deletes.add(path)
        return 201, self.machine.read(path), {"Location": path}

    def _new_account(self, asked: dict[str, Any]) -> tuple[int, Any, dict[str, str]]:
        missing = [name for name in ("UserName", "Password", "RoleId") if not asked.get(name)]
        if missing:
            raise Refusal(400, "CreateFailedMissingReqProperties", "Missing.", missing[0])
        if any(
            a["UserName"] == asked["UserName"]
            for p, a in self.machine.tree.items()
            if p in self.service.passwords
        ):
            raise Refusal(400, "ResourceAlreadyExists", "There is one already.")
        self._check_values(asked)
        path = self.machine.account(asked["UserName"], asked["RoleId"])
        self.service.passwords[path] = asked["Password"]
        found = self.machine.read(path) or {}
        return 201, found, {"Location": path, "ETag": _etag(found)}

    def _new_session(self) -> tuple[int, Any, dict[str, str]]:
        asked = self._json()
        user, password = str(asked.get("UserName", "")), str(asked.get("Password", ""))
        account = self.service.account_of(user, password)
        token = secrets.token_hex(32)
        path = f"{SESSIONS}/{self.service.next_number()}"
        self.service.tokens[token] = account, path
        kind = "Session.v1_6_0.Session"
        _, body, headers = self._created(path, kind, "Session", {"UserName": user}, SESSIONS)
        if self.machine.tree[account]["PasswordChangeRequired"]:
            told = Refusal(403, "PasswordChangeRequired", "The password must be changed.", account)
            body = (body or {}) | {"@Message.ExtendedInfo": [told.info()]}
        return 201, body, headers | {"X-Auth-Token": token}

    def _reset(self, kind: str) -> tuple[int, Any, dict[str, str]]:
        if kind not in RESETS:
            raise Refusal(400, "ActionParameterNotSupported", "No such reset.", kind, "ResetType")
        self.machine.resets.append(kind)
        self.machine.power_state = "Off" if kind == "ForceOff" else "On"
        return 204, None, {}

    def _delete(self, account: str) -> tuple[int, Any, dict[str, str]]:
        self._fresh()
        collection = self.path.rpartition("/")[0]
        del self.machine.tree[self.path]
        members = self.machine.tree[collection]["Members"]
        members[:] = [m for m in members if m["@odata.id"] != self.path]
        self.machine.deletes.discard(self.path)
        self.machine.patchable.pop(self.path, None)
        self.service.passwords.pop(self.path, None)
        self.service.tokens = {
            t: owned for t, owned in self.service.tokens.items() if self.path not in owned
        }
        return 204, None, {}


class Server(ThreadingHTTPServer):
    """TLS where the first byte says so; the handshake is each connection's own thread's."""

    daemon_threads = True
    tls: ssl.SSLContext | None = None

    def finish_request(self, request: Any, client_address: Any) -> None:
        request.settimeout(20)
        if self.tls is not None and request.recv(1, socket.MSG_PEEK) == b"\x16":
            with self.tls.wrap_socket(request, server_side=True) as wrapped:
                super().finish_request(wrapped, client_address)
        else:
            super().finish_request(request, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # clients that refuse our certificate, and those that left


@contextmanager
def redfish_server(
    machine: Machine, tls: ssl.SSLContext | None = None, password: str = "correct-horse-9"
) -> Iterator[tuple[str, Service]]:
    """A running service: its URL and itself."""
    service = Service(machine, password)
    handler = type("Bound", (Handler,), {"service": service})
    server = Server(("127.0.0.1", 0), handler)
    server.tls = tls
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        scheme = "http" if tls is None else "https"
        yield f"{scheme}://127.0.0.1:{server.server_address[1]}", service
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _clean(target: str) -> str:
    path = unquote(urlsplit(target).path)
    return ROOT if path.rstrip("/") == ROOT.rstrip("/") else path.rstrip("/")


def _etag(found: dict[str, Any]) -> str:
    text = json.dumps({k: v for k, v in found.items() if k != "@odata.etag"}, sort_keys=True)
    return f'"{hashlib.sha256(text.encode()).hexdigest()[:16]}"'


def _tags(header: str) -> set[str]:
    return {tag.strip() for tag in header.split(",") if tag.strip()}


def _leaves(value: dict[str, Any], path: str = "") -> list[str]:
    found: list[str] = []
    for name, inner in value.items():
        at = f"{path}{name}"
        found += _leaves(inner, at + ".") if isinstance(inner, dict) and inner else [at]
    return found


def server_tls(folder: Path) -> tuple[ssl.SSLContext, Path, str]:
    """A certificate for 127.0.0.1 of a CA made for this: context, the CA's file, the certificate's fingerprint."""
    from live.facility.certificates import certificate_for

    pem, ca_pem, fingerprint = certificate_for("127.0.0.1")
    (folder / "server.pem").write_bytes(pem)
    (folder / "ca.pem").write_bytes(ca_pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.pem")
    return context, folder / "ca.pem", fingerprint

"""The REST shapes of NetBox 4 on a real socket: token, filters, pages, nested references, choices, unique keys, all-or-nothing lists.

Fields and rules are those of NetBox's OpenAPI document for the endpoints that an inventory needs; what it refuses, it refuses with NetBox's words.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

TOKEN = "0123456789abcdef0123456789abcdef01234567"
REQUIRED: dict[str, tuple[str, ...]] = {
    "extras/tags": ("name", "slug"),
    "dcim/sites": ("name", "slug"),
    "dcim/manufacturers": ("name", "slug"),
    "dcim/device-types": ("manufacturer", "model", "slug"),
    "dcim/device-roles": ("name", "slug"),
    "dcim/power-panels": ("site", "name"),
    "dcim/power-feeds": ("power_panel", "name"),
    "dcim/devices": ("device_type", "role", "site"),
}
OPTIONAL: dict[str, set[str]] = {
    "extras/tags": {"color", "description"},
    "dcim/sites": {"status", "latitude", "longitude", "physical_address", "comments", "tags", "description"},
    "dcim/manufacturers": {"tags", "description"},
    "dcim/device-types": {"u_height", "tags", "description"},
    "dcim/device-roles": {"color", "tags", "description"},
    "dcim/power-panels": {"tags", "description"},
    "dcim/power-feeds": {"status", "type", "supply", "phase", "voltage", "amperage", "max_utilization", "tags"},
    "dcim/devices": {"name", "status", "comments", "tags", "serial"},
}  # fmt: skip
UNIQUE: dict[str, tuple[tuple[str, ...], ...]] = {
    "dcim/device-types": (("manufacturer", "slug"), ("manufacturer", "model")),
    "dcim/power-panels": (("site", "name"),),
    "dcim/power-feeds": (("power_panel", "name"),),
    "dcim/devices": (("site", "name"),),
}
REFERENCES = {
    "manufacturer": "dcim/manufacturers",
    "device_type": "dcim/device-types",
    "role": "dcim/device-roles",
    "site": "dcim/sites",
    "power_panel": "dcim/power-panels",
}
CHOICES: dict[str, tuple[str, ...]] = {
    "status": ("active", "planned", "staging", "decommissioning", "retired", "offline", "failed", "inventory", "staged"),
    "type": ("primary", "redundant"),
    "supply": ("ac", "dc"),
    "phase": ("single-phase", "three-phase"),
}  # fmt: skip
BRIEF = ("id", "url", "display", "name", "slug", "model", "description")


class Invalid(Exception):
    """An object that is refused: field -> why."""


class Netbox:
    """Its objects by endpoint."""

    def __init__(self) -> None:
        self.objects: dict[str, list[dict[str, Any]]] = {name: [] for name in REQUIRED}
        self.asked: list[tuple[str, str]] = []
        self.lock = threading.RLock()
        self._last = 0

    def resolve(self, endpoint: str, reference: Any) -> dict[str, Any]:
        """The one object that has these attributes."""
        if isinstance(reference, int):
            found = [o for o in self.objects[endpoint] if o["id"] == reference]
        else:
            wanted = {
                k: self.resolve(REFERENCES[k], v)["id"] if k in REFERENCES else v
                for k, v in reference.items()
            }
            found = [
                o
                for o in self.objects[endpoint]
                if all(
                    (o[k]["id"] if k in REFERENCES else o.get(k)) == v for k, v in wanted.items()
                )
            ]
        if len(found) != 1:
            text = (
                "Related object not found using the provided attributes"
                if not found
                else "Multiple objects match"
            )
            raise Invalid(f"{text}: {reference}")
        return found[0]

    def cleaned(
        self, endpoint: str, given: dict[str, Any], old: dict[str, Any] | None
    ) -> dict[str, Any]:
        known = set(REQUIRED[endpoint]) | OPTIONAL[endpoint]
        if unknown := given.keys() - known:
            raise Invalid({name: ["Unknown field."] for name in sorted(unknown)})
        if old is None and (
            missing := [n for n in REQUIRED[endpoint] if given.get(n) in (None, "")]
        ):
            raise Invalid({name: ["This field is required."] for name in missing})
        made = dict(old or {})
        for name, value in given.items():
            if name in REFERENCES:
                made[name] = self.resolve(REFERENCES[name], value)
            elif name == "tags":
                made[name] = [self.resolve("extras/tags", tag) for tag in value]
            elif name in CHOICES:
                if value not in CHOICES[name]:
                    raise Invalid({name: [f"{value} is not a valid choice."]})
                made[name] = value
            elif name == "slug" and not all(c.isalnum() or c in "-_" for c in value):
                raise Invalid({name: ["Enter a valid slug."]})
            elif name == "name" and len(value) > (64 if endpoint == "dcim/devices" else 100):
                raise Invalid({name: ["Ensure this field has no more characters."]})
            elif name in ("voltage", "amperage") and not (
                isinstance(value, int) and 0 < value <= 32767
            ):
                raise Invalid({name: ["A valid integer is required."]})
            elif name in ("latitude", "longitude") and len(str(abs(value)).partition(".")[2]) > 6:
                raise Invalid({name: ["Ensure that there are no more than 6 decimal places."]})
            else:
                made[name] = value
        self.unique(endpoint, made)
        return made

    def unique(self, endpoint: str, made: dict[str, Any]) -> None:
        for keys in UNIQUE.get(endpoint, (("slug",), ("name",))):
            mark = [made[k]["id"] if k in REFERENCES else made.get(k) for k in keys]
            for other in self.objects[endpoint]:
                theirs = [other[k]["id"] if k in REFERENCES else other.get(k) for k in keys]
                if theirs == mark and other["id"] != made.get("id"):
                    raise Invalid(
                        {"__all__": [f"The fields {', '.join(keys)} must make a unique set."]}
                    )

    def create(self, endpoint: str, many: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """All of them, or none."""
        before, last = list(self.objects[endpoint]), self._last
        made = []
        try:
            for one in many:
                new = self.cleaned(endpoint, one, None)
                self._last += 1
                new["id"] = self._last
                self.objects[endpoint].append(new)
                made.append(new)
        except Invalid:
            self.objects[endpoint], self._last = before, last
            raise
        return made

    def shown(self, endpoint: str, one: dict[str, Any], base: str) -> dict[str, Any]:
        found: dict[str, Any] = {
            "url": f"{base}/api/{endpoint}/{one['id']}/",
            "display": one.get("name") or one.get("model"),
        }
        for name, value in one.items():
            if name in REFERENCES:
                brief = {k: value[k] for k in BRIEF if k in value}
                found[name] = brief | {"url": f"{base}/api/{REFERENCES[name]}/{value['id']}/"}
            elif name == "tags":
                found[name] = [
                    {k: tag[k] for k in ("id", "name", "slug", "color")} for tag in value
                ]
            elif name in CHOICES:
                found[name] = {"value": value, "label": value.title()}
            else:
                found[name] = value
        return found


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    netbox: Netbox

    def log_message(self, format: str, *args: Any) -> None:
        pass

    @property
    def base(self) -> str:
        return f"http://{self.headers['Host']}"

    def send(self, status: int, body: Any) -> None:
        content = b"" if body is None else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("API-Version", "4.4")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def do_GET(self) -> None:
        content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = urlsplit(self.path)
        path = parts.path.removeprefix("/api/").strip("/")
        with self.netbox.lock:
            self.netbox.asked.append((self.command, path))
            if self.headers.get("Authorization") != f"Token {TOKEN}":
                self.send(403, {"detail": "Authentication credentials were not provided."})
                return
            if not parts.path.endswith("/"):
                self.send(404, {"detail": "Not found."})
                return
            try:
                self.answer(path, parse_qs(parts.query), content)
            except Invalid as error:
                self.send(
                    400, error.args[0] if isinstance(error.args[0], dict) else [error.args[0]]
                )

    do_POST = do_PATCH = do_GET  # noqa: N815

    def answer(self, path: str, query: dict[str, list[str]], content: bytes) -> None:
        netbox = self.netbox
        endpoint, _, number = path.rpartition("/")
        if path in REQUIRED:
            endpoint, number = path, ""
        if endpoint not in REQUIRED:
            self.send(404, {"detail": "Not found."})
        elif self.command == "GET":
            found = [o for o in netbox.objects[endpoint] if self.matches(o, query)]
            first, limit = (
                int(query.get("offset", ["0"])[0]),
                int(query.get("limit", ["50"])[0]) or 1000,
            )
            shown = [netbox.shown(endpoint, o, self.base) for o in found[first : first + limit]]
            self.send(200, {"count": len(found), "next": None, "previous": None, "results": shown})
        elif self.command == "POST":
            given = json.loads(content)
            made = netbox.create(endpoint, given if isinstance(given, list) else [given])
            shown = [netbox.shown(endpoint, o, self.base) for o in made]
            self.send(201, shown if isinstance(given, list) else shown[0])
        else:
            old = netbox.resolve(endpoint, int(number))
            new = netbox.cleaned(endpoint, json.loads(content), old)
            old.update(new)
            self.send(200, netbox.shown(endpoint, old, self.base))

    def matches(self, one: dict[str, Any], query: dict[str, list[str]]) -> bool:
        for name, wanted in query.items():
            if name in ("limit", "offset"):
                continue
            value = one.get(name)
            if name == "site" and name not in one:
                value = one["power_panel"]["site"]
            shown = value.get("slug", value.get("name")) if isinstance(value, dict) else value
            if str(shown) not in wanted:
                return False
        return True


@contextmanager
def netbox_server() -> Iterator[tuple[str, Netbox]]:
    """URL and state."""
    netbox = Netbox()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"netbox": netbox}))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", netbox
    finally:
        server.shutdown()
        thread.join()
        server.server_close()

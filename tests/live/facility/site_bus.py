"""A site's own bus with its MQTT listener, as the site group configures it, and a publisher who speaks to it over the socket."""

from __future__ import annotations

import json
import socket
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from hanse.live import bus
from hanse.live.runtime import StateDir, plan_runtime
from hanse.model.read import read_fleet

SITE = "harbour"
PASSWORD = "publishers-password"

FLEET = """
schema = "hanse-fleet/1"
name = "plant-test"

[[class]]
id = "public"
law = "non_personal"
priority = 90

[[class]]
id = "bulk"
law = "non_personal"
priority = 10

[[site]]
id = "harbour"
kind = "micro"
city = "Hamburg"
country = "DE"
lat_deg = 53.55
lon_deg = 9.99
operator_hq = "DE"
[site.power]
grid_kw_max = 40.0
base_kw = 1.0
pue = 1.2
{pools}

[[service]]
id = "chat"
[service.slo]
ttft_ms = 4000
tpot_ms = 500
[[service.variant]]
id = "q8"
model = "SmolLM2-135M"
precision = "q8_0"
quality = 0.2
quality_source = "a test"

[[tenant]]
id = "tester"
classes = ["public", "bulk"]
[[tenant.key]]
id = "tester-key"
countries = ["DE"]
{more}
"""


def keys(kind: str = "ES256") -> tuple[Any, bytes]:
    """A private key, and its public half's PEM."""
    key = (
        ec.generate_private_key(ec.SECP256R1())
        if kind == "ES256"
        else rsa.generate_private_key(65537, 2048)
    )
    return key, key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def private_pem(key: Any) -> bytes:
    pem: bytes = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return pem


def sign(payload: Any, key: Any, kid: str, alg: str = "ES256") -> str:
    from joserfc import jws
    from joserfc.jwk import ECKey, RSAKey

    kind = ECKey if alg == "ES256" else RSAKey
    own = kind.import_key(private_pem(key))
    signed: str = jws.serialize_compact(
        {"alg": alg, "kid": kid}, json.dumps(payload), own, algorithms=[alg]
    )
    return signed


def event(signed: str, correlation_id: str = "", kind: str = "grid.loadtarget.set.v1") -> bytes:
    return json.dumps(
        {
            "specversion": "1.0.2",
            "id": str(uuid.uuid4()),
            "source": "//grid/v1/isv/acme",
            "type": kind,
            "time": "2026-05-14T12:00:00Z",
            "datacontenttype": "application/json",
            "subject": "loadtarget",
            "correlationid": correlation_id or str(uuid.uuid4()),
            "traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "data": signed,
        }
    ).encode()


class SiteBus:
    """State directory of one site whose fleet file has the given plant."""

    def __init__(self, root: Path, fleet_text: str) -> None:
        self.state = StateDir(root / "state")
        self.state.make((SITE,), hub=False)
        self.state.fleet_toml.write_text(fleet_text)
        self.fleet = read_fleet(self.state.fleet_toml)
        self.home = self.state.site(SITE)
        self.runtime = plan_runtime(self.fleet, self.state.path, only_site=SITE)
        bus.ensure_secrets(self.state, [SITE], hub=False)
        self.password = bus.local_password(self.state, SITE)
        self.process: subprocess.Popen[bytes] | None = None

    def secret(self, name: str, text: str) -> None:
        path = self.home / name
        path.write_text(text)
        path.chmod(0o600)

    def start(self) -> None:
        conf = bus.write_leaf_conf(self.runtime, self.state, SITE)
        log = (self.home / "log" / "nats.log").open("ab")
        self.process = subprocess.Popen(bus.server_command(conf), stdout=log, stderr=log)
        log.close()
        host, _, port = self.fleet.facilities[0].listen.rpartition(":")
        until_s = time.monotonic() + 20
        while True:
            try:
                socket.create_connection((host, int(port)), 0.5).close()
                return
            except OSError:
                assert self.process.poll() is None, (self.home / "log" / "nats.log").read_text()
                assert time.monotonic() < until_s, (self.home / "log" / "nats.log").read_text()
                time.sleep(0.05)

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait()
            self.process = None


class Publisher:
    """An ISV, a building system or an observer: MQTT 3.1.1 by a stock client."""

    def __init__(
        self, port: int, user: str, password: str, topics: list[tuple[str, int]] | None = None
    ) -> None:
        import paho.mqtt.client as paho

        self.heard: list[tuple[str, bytes, int]] = []
        self.refused = ""
        self.up = False
        self._topics = topics or []
        client_id = f"publisher-{uuid.uuid4().hex[:8]}"
        self.client = paho.Client(
            paho.CallbackAPIVersion.VERSION2, client_id=client_id, clean_session=False
        )
        self.client.username_pw_set(user, password)
        self.client.on_connect = self._on_connect
        self.client.on_subscribe = lambda *_: setattr(self, "up", True)
        self.client.on_message = lambda _c, _d, m: self.heard.append(
            (m.topic, bytes(m.payload), m.qos)
        )
        self.client.connect_async("127.0.0.1", port)
        self.client.loop_start()

    def _on_connect(self, client: Any, _data: Any, _flags: Any, reason: Any, _more: Any) -> None:
        if reason.is_failure:
            self.refused = str(reason)
        elif self._topics:
            client.subscribe(self._topics)
        else:
            self.up = True

    def send(self, topic: str, payload: bytes, qos: int = 1, retain: bool = False) -> None:
        """Returns when the broker has it."""
        wait_until(lambda: self.up, "the publisher is connected")
        self.client.publish(topic, payload, qos, retain).wait_for_publish(10)

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()


@contextmanager
def publisher(*args: Any, **fields: Any) -> Iterator[Publisher]:
    made = Publisher(*args, **fields)
    try:
        yield made
    finally:
        made.close()


def wait_until(holds: Callable[[], Any], what: str, within_s: float = 20.0) -> Any:
    until_s = time.monotonic() + within_s
    while not (found := holds()):
        assert time.monotonic() < until_s, f"not within {within_s:.0f} s: {what}"
        time.sleep(0.02)
    return found

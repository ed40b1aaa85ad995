"""MQTT 3.1.1: one session to a broker, and building systems' points as NVIDIA DSX names them.

Here: `MqttSession` (shared with `flex`) and `BmsDriver`. Not here: grid targets (`flex`), the broker (`listener`, or another's).

The client library runs its network in a thread of its own and comes back by itself after every loss; a message is acknowledged only after it
was dealt with, so a target that arrives while the agent dies is sent again. BMS topics are those of DSX BMS 1.0.0:
`BMS/v1/PUB/Value|Metadata/{objectType}/{pointType}/{tagPath}`. A value means nothing without its metadata, which names the unit and is retained.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

import msgspec

from hanse.errors import SiteError
from hanse.live.facility.access import secret_of, tls_of
from hanse.live.facility.listener import plant_user
from hanse.live.facility.readings import Reading, needed
from hanse.live.logline import log_line
from hanse.model.fleet import Facility, Quantity
from hanse.model.told import UNREADABLE

PORTS: Final = {"mqtt": 1883, "mqtts": 8883}
KEEP_ALIVE_S: Final = 10
"""A broker that is gone is known after 15 s; points come every 100 s, so the link itself has to say."""
RECONNECT_S_MAX: Final = 30
PAYLOAD_BYTES_MAX: Final = 1024 * 1024
POINTS_MAX: Final = 20_000
"""Of one building system; each is some hundred bytes here."""
UNIT_SCALES: Final[dict[str, tuple[Quantity, float, float]]] = {
    "w": ("power_w", 1.0, 0.0),
    "kw": ("power_w", 1e3, 0.0),
    "mw": ("power_w", 1e6, 0.0),
    "wh": ("energy_wh", 1.0, 0.0),
    "kwh": ("energy_wh", 1e3, 0.0),
    "mwh": ("energy_wh", 1e6, 0.0),
    "c": ("temp_c", 1.0, 0.0),
    "degc": ("temp_c", 1.0, 0.0),
    "celsius": ("temp_c", 1.0, 0.0),
    "f": ("temp_c", 5.0 / 9.0, -32.0),
    "degf": ("temp_c", 5.0 / 9.0, -32.0),
    "v": ("voltage_v", 1.0, 0.0),
    "kv": ("voltage_v", 1e3, 0.0),
    "a": ("current_a", 1.0, 0.0),
    "hz": ("frequency_hz", 1.0, 0.0),
    "lpm": ("flow_l_per_min", 1.0, 0.0),
    "l/min": ("flow_l_per_min", 1.0, 0.0),
    "l/s": ("flow_l_per_min", 60.0, 0.0),
}
"""Unit in a point's metadata -> quantity, and (value + offset) x scale."""
STATES: Final = {
    "RackLeakDetect", "LeakDetect", "RackElectricalIsolationStatus", "RackLiquidIsolationStatus", "Alarm", "Status",
}  # fmt: skip
"""Point types without a unit that are worth seeing: 1 is the state of their name."""

Heard = Callable[[str, bytes], None]


class MqttSession:
    """A persistent session: what is published while this side is away is kept for it (QoS 1 and 2)."""

    def __init__(
        self,
        facility: Facility,
        home: Path,
        *,
        client_id: str,
        topics: Sequence[tuple[str, int]],
        heard: Heard,
        own_password: str = "",
    ) -> None:
        self._facility, self._home, self._heard = facility, home, heard
        self._topics = list(topics)
        self._paho = needed("paho.mqtt.client", "paho-mqtt", facility.driver)
        self._loop = asyncio.get_running_loop()
        self._own_password = own_password
        self.connected = False
        self.trouble = "not connected yet"
        self._client = self._make(client_id)

    @property
    def where(self) -> str:
        """For errors."""
        facility = self._facility
        return f"{facility.driver} {facility.id} ({facility.url or 'mqtt://' + facility.listen})"

    def start(self) -> None:
        """Connect, now and after every loss."""
        parts = urlsplit(self._facility.url or f"mqtt://{self._facility.listen}")
        port = parts.port or PORTS[parts.scheme]
        self._client.connect_async(parts.hostname or "", port, keepalive=KEEP_ALIVE_S)
        self._client.loop_start()

    def publish(self, topic: str, payload: bytes, qos: int, *, keep: bool) -> bool:
        """Whether it is on its way; while nothing is connected, `keep` sends it afterwards and else it is dropped."""
        if not self.connected and not keep:
            return False
        return bool(self._client.publish(topic, payload, qos=qos).rc in (0, 4))  # 4: queued

    async def close(self) -> None:
        """Leave; the broker keeps the session."""
        self._client.on_disconnect = None
        with contextlib.suppress(OSError):
            self._client.disconnect()
        await asyncio.to_thread(self._client.loop_stop)
        self.connected = False

    def _make(self, client_id: str) -> Any:
        facility = self._facility
        client = self._paho.Client(
            self._paho.CallbackAPIVersion.VERSION2,
            client_id=client_id,
            clean_session=False,
            protocol=self._paho.MQTTv311,
            manual_ack=True,
        )
        client.reconnect_delay_set(1, RECONNECT_S_MAX)
        if facility.url:
            user, secret = facility.user, secret_of(facility, self._home)
        else:
            user, secret = plant_user(facility.site), self._own_password
        if user:
            client.username_pw_set(user, secret or None)
        host = (facility.url or facility.listen).rpartition(":")[0]
        if facility.url.startswith("mqtts") or (not facility.url and _needs_tls(host)):
            client.tls_set_context(self._tls())
        client.on_connect = self._on_connect
        client.on_subscribe = self._on_subscribe
        client.on_disconnect = self._on_disconnect
        client.on_message = self._on_message
        return client

    def _tls(self) -> Any:
        if self._facility.url:
            return tls_of(self._facility, self._home)
        own = msgspec.structs.replace(self._facility, ca_file="identity/ca.pem")
        context = tls_of(own, self._home)
        context.check_hostname = False  # the league's CA signs sites' names, not addresses
        return context

    # --- in the library's thread

    def _on_connect(self, client: Any, _data: Any, _flags: Any, reason: Any, _more: Any) -> None:
        if reason.is_failure:
            self._tell(False, f"refused: {reason}")
            return
        if self._topics:
            client.subscribe(self._topics)
        else:
            self._tell(True, "")

    def _on_subscribe(
        self, _client: Any, _data: Any, _mid: int, reasons: Sequence[Any], _more: Any
    ) -> None:
        """Only now does nothing that is published pass by."""
        answers = zip(self._topics, reasons, strict=False)
        refused = [topic for (topic, _), reason in answers if reason.is_failure]
        heard = len(refused) < len(self._topics)
        self._tell(heard, f"may not hear {', '.join(refused)}" if refused else "")

    def _on_disconnect(
        self, _client: Any, _data: Any, _flags: Any, reason: Any, _more: Any
    ) -> None:
        self._tell(False, f"connection lost: {reason}")

    def _on_message(self, client: Any, _data: Any, message: Any) -> None:
        """Unacknowledged, a message comes again: from a site's own bus after half a minute, from other brokers with the next connection."""
        topic, payload = message.topic, bytes(message.payload)
        done, failed = threading.Event(), threading.Event()

        def deal() -> None:
            try:
                if len(payload) <= PAYLOAD_BYTES_MAX:
                    self._heard(topic, payload)
            except Exception as error:  # a full disk, as a rule
                failed.set()
                log_line(f"{self.where}: {topic}: not taken, so not acknowledged: {error!r}")
            finally:
                done.set()

        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(deal)
            if done.wait(KEEP_ALIVE_S) and not failed.is_set():
                client.ack(message.mid, message.qos)

    def _tell(self, connected: bool, trouble: str) -> None:
        def note() -> None:
            self.connected, self.trouble = connected, trouble

        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(note)


# --- points of a building system


class _Value(msgspec.Struct):
    value: float | None
    timestamp: float
    quality: int


class _Metadata(msgspec.Struct, rename="camel"):
    eng_unit: str = ""


class _Held(NamedTuple):
    value: float
    at_s: float


class BmsDriver:
    """Points that a building system publishes; `read` is what is known of each now."""

    def __init__(self, facility: Facility, home: Path, own_password: str = "") -> None:
        self._facility, self._home, self._password = facility, home, own_password
        self._session: MqttSession | None = None
        self._values: dict[str, _Held] = {}
        self._units: dict[str, str] = {}

    async def read(self) -> tuple[Reading, ...]:
        """Points whose unit is known.

        Raises:
            SiteError: the broker is not there, or lets nobody in.
        """
        if self._session is None:
            self._session = self._open()
            self._session.start()
            await _until(lambda: self._session is not None and self._session.connected)
        if not self._session.connected:
            raise SiteError(self._session.where, got=self._session.trouble, allowed="a broker")
        found = [self._reading(name, held) for name, held in self._values.items()]
        return tuple(reading for reading in found if reading is not None)

    async def close(self) -> None:
        """Leave the broker."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    def hear(self, topic: str, payload: bytes) -> None:
        """One message; what is none of DSX BMS is passed over."""
        parts = topic.split("/")
        if len(parts) < 7 or parts[:2] != ["BMS", "v1"] or parts[3] not in ("Value", "Metadata"):
            return
        name = ".".join(parts[4:])
        try:
            if parts[3] == "Metadata":
                unit = msgspec.json.decode(payload, type=_Metadata).eng_unit
                if name in self._units or len(self._units) < POINTS_MAX:
                    self._units[name] = unit
                return
            told = msgspec.json.decode(payload, type=_Value)
        except (*UNREADABLE, ValueError):
            return
        if told.quality != 1 or told.value is None:
            self._values.pop(name, None)  # the BMS itself does not trust it
        elif name in self._values or len(self._values) < POINTS_MAX:
            at_s = told.timestamp / 1000.0
            held = self._values.get(name)
            if held is None or at_s >= held.at_s:
                self._values[name] = _Held(told.value, min(at_s, time.time()))

    def _open(self) -> MqttSession:
        values = [(topic, 0) for topic in self._facility.topics]
        metadata = [(t.replace("/Value/", "/Metadata/", 1), 1) for t in self._facility.topics]
        return MqttSession(
            self._facility,
            self._home,
            client_id=f"hanse-{self._facility.site}-{self._facility.id}",
            topics=[*metadata, *values],
            heard=self.hear,
            own_password=self._password,
        )

    def _reading(self, name: str, held: _Held) -> Reading | None:
        unit = self._units.get(name)
        if unit is None:
            return None
        scaled = UNIT_SCALES.get(unit.lower().replace("°", "").strip())
        if scaled is not None:
            quantity, scale, offset = scaled
            value = (held.value + offset) * scale
            return Reading(point=name, quantity=quantity, value=value, at_s=held.at_s)
        if name.split(".")[1] in STATES:
            return Reading(point=name, quantity="state", value=held.value, at_s=held.at_s)
        return None


def _needs_tls(host: str) -> bool:
    return not (host == "localhost" or host.startswith("127.") or host == "::1")


async def _until(holds: Callable[[], bool], within_s: float = 5.0) -> None:
    """Give a connection a moment; whoever asks looks again."""
    for _ in range(int(within_s / 0.05)):
        if holds():
            return
        await asyncio.sleep(0.05)

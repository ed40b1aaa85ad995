"""A site's side of DSX Flex: load targets from the grid in, what the site does about them out, over MQTT.

Here: `FlexAgent`: the session, the schedule on disk, status and breach messages. Not here: what a target makes the site do (the site-scope
Dispatcher), the messages' shapes (`flex_messages`).

A target counts from when it is on disk; only then is its message acknowledged, so that neither a crash nor a cut loses one, and a site that
starts while cut off still keeps to what it was told. A message that was taken is known by the digest of its signed part, also after a
restart: sent twice by the broker, or again by somebody who recorded it, it changes nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import math
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from hanse.dispatch.load_targets import (
    Breach,
    LoadTarget,
    Told,
    Watch,
    in_force,
    look,
    merged,
)
from hanse.errors import SiteError
from hanse.live.facility.flex_messages import (
    ALERT,
    ENFORCEMENT,
    ENFORCEMENT_TOPICS,
    ROLE,
    SET_TARGET,
    STATUS,
    TARGET_TOPICS,
    FeedFacts,
    StatusEvent,
    breach_data,
    cloud_event,
    envelope_of,
    status_data,
    targets_of,
)
from hanse.live.facility.jws import Keyring
from hanse.live.facility.mqtt import MqttSession
from hanse.live.logline import log_line
from hanse.live.runtime import read_kept, replace_file
from hanse.model.fleet import Facility, Value

HEARTBEAT_S: Final = 30.0
"""Between periodic statuses; a grid's operator reckons in minutes."""
SEEN_MAX: Final = 4096
"""Messages that are known again: at one a minute, those of three days."""

ScheduleChanged = Callable[[tuple[LoadTarget, ...]], None]


class Kept(Value, frozen=True, kw_only=True):
    """What is on disk."""

    schedule: tuple[LoadTarget, ...] = ()
    seen: tuple[bytes, ...] = ()
    """Digests of signed parts, oldest first."""


class Drawn(Value, frozen=True, kw_only=True):
    """What the site draws and does, at a look."""

    kw: float
    shed_level: int
    minimum_kw: float
    maximum_kw: float
    hints: tuple[tuple[str, str, float], ...] = ()
    """(engine, pool, kW) of what could still be given up, first first."""


class FlexAgent:
    """One grid connection of one site; all methods on the agent's loop."""

    def __init__(
        self, facility: Facility, home: Path, own_password: str, changed: ScheduleChanged
    ) -> None:
        self._facility, self._home, self._password = facility, home, own_password
        self._identifier = facility.identifier or facility.site
        self._changed = changed
        self._keys = Keyring(facility, home)
        self._path = home / "facility" / f"{facility.id}.targets"
        self._kept = self._read()
        self._to_write = False
        """What is over is on disk still."""
        self._watch = Watch()
        self._breach_id = ""
        self._said_at_s = -math.inf
        self._news: list[StatusEvent] = []
        self._session: MqttSession | None = None
        self.refused: dict[str, int] = {}
        """Why messages were not taken -> how many."""

    @property
    def name(self) -> str:
        """Of its facility."""
        return self._facility.id

    @property
    def schedule(self) -> tuple[LoadTarget, ...]:
        """What the grid has asked for."""
        return self._kept.schedule

    @property
    def connected(self) -> bool:
        """Whether the broker is there."""
        return self._session is not None and self._session.connected

    @property
    def trouble(self) -> str:
        """Why it is not; empty where it is."""
        return self._session.trouble if self._session is not None else "not started"

    async def start(self) -> None:
        """Connect; what was asked for before the start binds at once, with or without a broker."""
        if self._kept.schedule:
            self._changed(self._kept.schedule)
        topics = [(t, 1) for t in TARGET_TOPICS] + [(t, 2) for t in ENFORCEMENT_TOPICS]
        self._session = MqttSession(
            self._facility,
            self._home,
            client_id=f"hanse-{self._facility.site}-{self._facility.id}",
            topics=topics,
            heard=self.hear,
            own_password=self._password,
        )
        self._session.start()
        await asyncio.sleep(0)

    async def close(self) -> None:
        """Leave; the broker keeps what comes meanwhile."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    # --- in

    def hear(self, topic: str, payload: bytes) -> None:
        """One message of the broker."""
        parts = topic.split("/")
        try:
            event = envelope_of(payload)
            if event.type == SET_TARGET and parts[2:3] == ["isv"]:
                self._take(parts[3], event.data, event.correlationid or event.id)
            elif event.type == ENFORCEMENT:
                _, told = self._keys.opened(event.data)
                log_line(
                    f"{self._facility.id}: enforcement {told.get('action')} {told.get('code')} "
                    f"for breach {told.get('breach_id')}"
                )
            else:
                raise SiteError("message.type", got=repr(event.type), allowed=SET_TARGET)
        except SiteError as error:
            self._refuse(topic, error)

    def _take(self, isv: str, signed: str, correlation_id: str) -> None:
        digest = hashlib.blake2b(signed.encode(), digest_size=16).digest()
        if digest in self._kept.seen:
            return
        # Who signed it is whose word it is; the topic's name is anybody's claim.
        signer, payload = self._keys.opened(signed)
        now_s = time.time()
        new = targets_of(payload, signer, correlation_id, self._facility.feed, now_s)
        schedule = merged(self._kept.schedule, new, now_s)
        seen = (*self._kept.seen, digest)[-SEEN_MAX:]
        self._write(Kept(schedule=schedule, seen=seen))
        if new:
            self._news.append("target_set")
            limits = ", ".join(f"{t.limit_kw:g} kW" for t in new)
            log_line(
                f"{self._facility.id}: load target {correlation_id} of {signer} (as {isv}): {limits}"
            )
            self._changed(schedule)

    def _refuse(self, topic: str, error: SiteError) -> None:
        text = str(error)
        first = text not in self.refused
        if len(self.refused) < 100 or not first:
            self.refused[text] = self.refused.get(text, 0) + 1
        if first:
            log_line(f"{self._facility.id}: {topic}: refused: {text}")

    # --- out

    def look(self, drawn: Drawn, now_s: float) -> None:
        """Twice a second: say what has changed, and now and then that nothing has."""
        self._forget(now_s)
        active = in_force(self.schedule, now_s)
        told = look(self._watch, active, drawn.kw, drawn.shed_level, now_s)
        self._watch = told.watch
        self._alert(told, drawn, now_s)
        events: list[StatusEvent] = [*self._news, *told.ramps]
        if not events and now_s - self._said_at_s >= HEARTBEAT_S:
            events = ["periodic"]
        if events and self.connected:
            self._news.clear()
            for event in events:
                self._status(event, active, drawn, now_s)
        elif told.ramps:
            self._news = [*self._news, *told.ramps][-16:]  # said when the broker is back

    def _forget(self, now_s: float) -> None:
        """Targets that are over are nobody's any more, also while the disk takes nothing: there they go when it does again."""
        left = merged(self._kept.schedule, [], now_s)
        if left != self._kept.schedule:
            self._kept, self._to_write = msgspec.structs.replace(self._kept, schedule=left), True
            self._changed(left)
        if self._to_write:
            with contextlib.suppress(OSError):
                self._write(self._kept)

    def _status(
        self, event: StatusEvent, active: LoadTarget | None, drawn: Drawn, now_s: float
    ) -> None:
        data = status_data(
            feed=self._facility.feed,
            facts=FeedFacts(minimum_kw=drawn.minimum_kw, maximum_kw=drawn.maximum_kw),
            schedule=self.schedule,
            active=active,
            watch=self._watch,
            drawn_kw=drawn.kw,
            event=event,
            now_s=now_s,
        )
        about = active.id.partition("#")[0] if active is not None else ""
        self._send("powerstate/status", STATUS, "powerstate", data, about, qos=1, keep=False)
        self._said_at_s = now_s

    def _alert(self, told: Told, drawn: Drawn, now_s: float) -> None:
        if told.breach is None or told.breached is None:
            return
        if told.breach == "active":
            self._breach_id = str(uuid.uuid4())
        breach: Breach = told.breached
        log_line(
            f"{self._facility.id}: breach {told.breach}: {drawn.kw:.3f} kW, "
            f"target {breach.target.limit_kw:g} kW"
        )
        data = breach_data(
            feed=self._facility.feed,
            breach=breach,
            breach_id=self._breach_id,
            step=told.breach,
            drawn_kw=drawn.kw,
            hints=_hints(drawn.hints),
            now_s=now_s,
        )
        about = breach.target.id.partition("#")[0]
        self._send("powerbreach", ALERT, "powerbreach", data, about, qos=2, keep=True)

    def _send(
        self,
        what: str,
        kind: str,
        subject: str,
        data: dict[str, Any],
        about: str,
        *,
        qos: int,
        keep: bool,
    ) -> None:
        if self._session is None:
            return
        topic = f"grid/v1/{ROLE}/{self._identifier}/{what}"
        signed = self._keys.sign(data)
        event = cloud_event(kind, self._identifier, subject, signed, time.time(), about)
        self._session.publish(topic, event, qos, keep=keep)

    # --- disk

    def _read(self) -> Kept:
        # Better without targets than without a site; the senders repeat theirs.
        kept = read_kept(self._path, Kept) or Kept()
        return msgspec.structs.replace(kept, schedule=merged(kept.schedule, [], time.time()))

    def _write(self, kept: Kept) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        replace_file(self._path, msgspec.msgpack.encode(kept))
        self._kept, self._to_write = kept, False


def _hints(found: Sequence[tuple[str, str, float]]) -> list[dict[str, Any]]:
    return [
        {
            "resource_id": f"{pool}/{engine}",
            "resource_type": "gpu",
            "action": "suspend",
            "priority": rank,
            "target_power": {"value": 0.0, "unit": "kilowatt"},
        }
        for rank, (engine, pool, _) in enumerate(found, 1)
    ]

"""Messages of DSX Flex 1.7.0: load targets in, power state and breaches out, as CloudEvents 1.0.2 with a signed payload.

Here: topics, reading a load target (`targets_of`), writing own messages. Not here: signatures (`jws`), sending (`flex`), which target binds
(`dispatch.load_targets`).

The envelope is not signed, so nothing that decides is taken from it but the correlation id, by which a target is called: whoever could change it
could only give a signed target another name. A message that was seen is not taken again, whatever its envelope says (`flex`).
"""

from __future__ import annotations

import json
import secrets
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final, Literal

import msgspec

from hanse.dispatch.load_targets import (
    FOREVER,
    Breach,
    BreachStep,
    LoadTarget,
    Watch,
    compliant,
    severity,
)
from hanse.errors import SiteError
from hanse.model.told import UNREADABLE

SPEC_VERSION: Final = "1.0.2"
SET_TARGET: Final = "grid.loadtarget.set.v1"
STATUS: Final = "grid.powerstate.status.v1"
ALERT: Final = "grid.powerbreach.alert.v1"
ENFORCEMENT: Final = "grid.powerbreach.enforcement.v1"
TARGET_TOPICS: Final = ("grid/v1/isv/+/loadtarget/set",)
ENFORCEMENT_TOPICS: Final = ("grid/v1/infra/+/powerbreach/enforcement",)
ROLE: Final = "dsx-flex-agent"
W_PER: Final = {"watt": 1.0, "kilowatt": 1e3, "megawatt": 1e6}
TARGETS_PER_MESSAGE_MAX: Final = 64
LATEST_S: Final = datetime(9999, 1, 1, tzinfo=UTC).timestamp()
"""From here on an end is none: "for ever" is often written as the last instant of the calendar."""
INFRASTRUCTURE: Final = ("SHUTDOWN_NODES", "SHUTDOWN_RACKS", "CUT_DATA_FEEDS", "TRIP_BREAKERS")
"""Escalations, from the least disruptive. This agent asks for nothing beyond the first: it knows nodes, not breakers."""

StatusEvent = Literal[
    "target_set", "start_ramp_down", "end_ramp_down", "start_ramp_up", "end_ramp_up", "periodic"
]


class Envelope(msgspec.Struct, frozen=True):
    """The parts of a CloudEvent that matter; others are allowed and ignored."""

    specversion: str
    id: str
    source: str
    type: str
    data: str
    correlationid: str = ""


class _Limit(msgspec.Struct, frozen=True):
    value: float
    unit: Literal["watt", "kilowatt", "megawatt"]


class _Interval(msgspec.Struct, frozen=True):
    start_time: datetime | None = None
    end_time: datetime | None = None


class _Strategy(msgspec.Struct, frozen=True):
    best_effort: bool = True
    """Left out by many; what disrupts every user has to be asked for in so many words."""


class _Target(msgspec.Struct, frozen=True):
    load_constraint: _Limit
    interval: _Interval = _Interval()
    strategy: _Strategy = _Strategy()
    feed_tags: tuple[str, ...] = ()


class _SetLoadTarget(msgspec.Struct, frozen=True):
    targets: tuple[_Target, ...]


def envelope_of(payload: bytes) -> Envelope:
    """Read a CloudEvent.

    Raises:
        SiteError: it is none of those spoken here.
    """
    try:
        found = msgspec.json.decode(payload, type=Envelope)
    except (*UNREADABLE, ValueError) as error:
        raise SiteError("message", got=str(error), allowed="a CloudEvent in JSON") from None
    if not found.specversion.startswith("1.0"):
        raise SiteError("message.specversion", got=repr(found.specversion), allowed=SPEC_VERSION)
    return found


def targets_of(
    payload: dict[str, Any], source: str, correlation_id: str, feed: str, now_s: float
) -> list[LoadTarget]:
    """The targets of a verified payload that are for this site's feed.

    Raises:
        SiteError: it does not say what a load target says.
    """
    where = f"load target of {source}"
    try:
        told = msgspec.convert(payload, _SetLoadTarget)
    except msgspec.ValidationError as error:
        raise SiteError(
            where, got=str(error), allowed="targets as DSX Flex 1.7.0 has them"
        ) from None
    if len(told.targets) > TARGETS_PER_MESSAGE_MAX:
        got = f"{len(told.targets)} targets"
        raise SiteError(where, got=got, allowed=f"at most {TARGETS_PER_MESSAGE_MAX}")
    found = []
    for index, target in enumerate(told.targets):
        if target.feed_tags and feed not in target.feed_tags:
            continue
        limit = target.load_constraint
        if not limit.value > 0.0:
            raise SiteError(where, got=f"a limit of {limit.value:g}", allowed="more than 0")
        start_s = min(_instant(target.interval.start_time, now_s), LATEST_S)
        end_s = _instant(target.interval.end_time, FOREVER)
        end_s = FOREVER if end_s >= LATEST_S else end_s
        if end_s <= start_s:
            raise SiteError(where, got="an interval that ends before it begins", allowed="a time")
        name = correlation_id if len(told.targets) == 1 else f"{correlation_id}#{index}"
        found.append(
            LoadTarget(
                id=name,
                source=source,
                limit_kw=limit.value * W_PER[limit.unit] / 1e3,
                start_at_s=start_s,
                end_at_s=end_s,
                best_effort=target.strategy.best_effort,
            )
        )
    return found


class FeedFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What does not change about a site's supply."""

    minimum_kw: float
    """What stays when all that can be given up is."""
    maximum_kw: float


def status_data(
    *,
    feed: str,
    facts: FeedFacts,
    schedule: Sequence[LoadTarget],
    active: LoadTarget | None,
    watch: Watch,
    drawn_kw: float,
    event: StatusEvent,
    now_s: float,
) -> dict[str, Any]:
    """A whole snapshot, as each status is one."""
    state: dict[str, Any] = {
        "metadata": {
            "power_minimum": _power(facts.minimum_kw),
            "power_maximum": _power(facts.maximum_kw),
            "default_constraint": _power(facts.maximum_kw),
        },
        "targets": [_target(t, t is active) for t in schedule],
        "calculated_load": _power(drawn_kw),
        "in_flight": watch.ramping is not None,
        "event": event,
        "compliant": compliant(active, drawn_kw),
    }
    if watch.event_since_s is not None:
        state["power_event_start_time"] = rfc3339(watch.event_since_s)
    return {"snapshot_time": rfc3339(now_s), "feeds": {feed: state}}


def breach_data(
    *,
    feed: str,
    breach: Breach,
    breach_id: str,
    step: BreachStep,
    drawn_kw: float,
    hints: Sequence[dict[str, Any]],
    now_s: float,
) -> dict[str, Any]:
    """One word about a breach."""
    details = {"breach_id": breach_id, "detected_at": rfc3339(breach.since_s)}
    told: dict[str, Any] = {
        "feed_tag": feed,
        "status": step,
        "severity": severity(breach.target, drawn_kw),
        "breach": details,
        "target": {
            "correlation_id": breach.target.id.partition("#")[0],
            "load_constraint": _power(breach.target.limit_kw),
        },
        "measured_load": _power(drawn_kw),
        "infrastructure_actions": [INFRASTRUCTURE[0]] if step == "escalated" else [],
    }
    if step == "resolved":
        details["resolved_at"] = rfc3339(now_s)
    else:
        told["shed_hints"] = list(hints)
    return told


def cloud_event(
    kind: str, identifier: str, subject: str, signed: str, now_s: float, correlation_id: str = ""
) -> bytes:
    """The envelope around a signed payload."""
    event = {
        "specversion": SPEC_VERSION,
        "id": str(uuid.uuid4()),
        "source": f"//grid/v1/{ROLE}/{identifier}",
        "type": kind,
        "time": rfc3339(now_s),
        "datacontenttype": "application/json",
        "subject": subject,
        "traceparent": f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-01",
        "data": signed,
    }
    if correlation_id:
        event["correlationid"] = correlation_id
    return json.dumps(event).encode()


def rfc3339(at_s: float) -> str:
    """An instant, UTC, to the millisecond; what no calendar has is the nearest that it has."""
    text = datetime.fromtimestamp(min(max(at_s, 0.0), LATEST_S), UTC).isoformat(
        timespec="milliseconds"
    )
    return text.replace("+00:00", "Z")


def _target(target: LoadTarget, active: bool) -> dict[str, Any]:
    interval = {"start_time": rfc3339(target.start_at_s)}
    if target.end_at_s != FOREVER:
        interval["end_time"] = rfc3339(target.end_at_s)
    return {
        "active": active,
        "load_constraint": _power(target.limit_kw),
        "interval": interval,
        "strategy": {"best_effort": target.best_effort},
        "correlation_id": target.id.partition("#")[0],
    }


def _power(kw: float) -> dict[str, Any]:
    return {"value": round(max(kw, 0.0), 6), "unit": "kilowatt"}


def _instant(at: datetime | None, absent_s: float) -> float:
    if at is None:
        return absent_s
    told_s = (at if at.tzinfo is not None else at.replace(tzinfo=UTC)).timestamp()
    return max(told_s, 0.0)  # "since ever" is long enough ago

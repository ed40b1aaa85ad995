"""OpenADR 3: what a utility's server (VTN) lets this site import, asked as its client (VEN).

Here: `OpenAdrDriver` and `targets_of`. Not here: OpenADR 2.0b (SOAP-like XML, other servers), prices (those are feeds), subscriptions: a VEN
behind a firewall polls. Events are kept by the VTN and told whole each time, so an event that is deleted there is over here. What was told last lies
on the site's disk: it binds after a restart, whether the VTN can be reached or not, until it is over or the VTN tells something else.

After OpenADR 3.1.0: an event's `intervalPeriod` is the default of its intervals; one without a start of its own follows the one before. The payload
that binds is `IMPORT_CAPACITY_LIMIT`, in kW unless its descriptor says W or MW. Lower `priority` is more important, none is least.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode, urlsplit

import msgspec

from hanse.dispatch.load_targets import FOREVER, LoadTarget, merged, replaced
from hanse.errors import SiteError
from hanse.live.facility.access import secret_of, tls_of
from hanse.live.facility.readings import Reading
from hanse.live.facility.web import Answer, Web
from hanse.live.logline import log_line
from hanse.live.runtime import read_kept, replace_file
from hanse.model.fleet import Facility, Value
from hanse.model.told import UNREADABLE
from hanse.units import SECONDS_PER_DAY, SECONDS_PER_HOUR

LIMIT: Final = "IMPORT_CAPACITY_LIMIT"
KW_PER: Final = {"KW": 1.0, "W": 1e-3, "MW": 1e3}
PAGE: Final = 50
"""What a VTN gives at most in one answer (specification)."""
EVENTS_MAX: Final = 1000
TOKEN_LIFE_S: Final = 600.0
"""Where a VTN does not say: half of the shortest life that is common."""
DAYS_PER: Final = {"Y": 365.0, "M": 30.0, "W": 7.0, "D": 1.0}
ENDLESS_DAYS: Final = 3650.0
"""`P9999Y` is how OpenADR writes for ever."""
_DURATION: Final = re.compile(
    r"^P(?:(\d+(?:\.\d+)?)Y)?(?:(\d+(?:\.\d+)?)M)?(?:(\d+(?:\.\d+)?)W)?(?:(\d+(?:\.\d+)?)D)?"
    r"(?:T(?:(\d+(?:\.\d+)?)H)?(?:(\d+(?:\.\d+)?)M)?(?:(\d+(?:\.\d+)?)S)?)?$"
)


class _Period(msgspec.Struct, frozen=True, rename="camel"):
    start: str | None = None
    duration: str | None = None


class _Payload(msgspec.Struct, frozen=True):
    type: str
    values: tuple[Any, ...] = ()


class _Interval(msgspec.Struct, frozen=True, rename="camel"):
    id: int = 0
    interval_period: _Period | None = None
    payloads: tuple[_Payload, ...] = ()


class _Descriptor(msgspec.Struct, frozen=True, rename="camel"):
    payload_type: str = ""
    units: str | None = None


class Event(msgspec.Struct, frozen=True, rename={"program_id": "programID", "interval_period": "intervalPeriod",
            "payload_descriptors": "payloadDescriptors", "created": "createdDateTime"}):  # fmt: skip
    """An event as a VTN tells it; other fields are allowed and ignored."""

    id: str
    program_id: str
    created: str = ""
    priority: int | None = None
    interval_period: _Period | None = None
    payload_descriptors: tuple[_Descriptor, ...] | None = None
    intervals: tuple[_Interval, ...] | None = None


class Kept(Value, frozen=True, kw_only=True):
    """What is on disk."""

    schedule: tuple[LoadTarget, ...] = ()
    first_seen: dict[str, float] = {}
    """Events that begin "now" begin when they were first heard of, not with every poll."""


class OpenAdrDriver:
    """One VTN."""

    def __init__(
        self,
        facility: Facility,
        home: Path,
        taken: Callable[[str, tuple[LoadTarget, ...]], None],
    ) -> None:
        self._facility, self._home, self._taken = facility, home, taken
        tls = tls_of(facility, home) if facility.url.startswith("https") else None
        self._web = Web(facility.url, tls=tls, fingerprint_sha256=facility.fingerprint_sha256)
        self._token = ""
        self._token_until_s = 0.0
        self._path = home / "facility" / f"{facility.id}.targets"
        self._kept = self._read_kept()
        self._told = False
        """What an earlier agent left was passed on."""

    async def read(self) -> tuple[Reading, ...]:
        """Take note of all events; how many bind or will.

        Raises:
            SiteError: no answer, or none of a VTN.
        """
        if not self._told and self._kept.schedule:
            self._taken(self._facility.id, self._kept.schedule)
        self._told = True
        events = await self._events()
        now_s = time.time()
        seen = {e.id: self._kept.first_seen.get(e.id, now_s) for e in events}
        schedule: tuple[LoadTarget, ...] = ()
        for program in sorted({e.program_id for e in events}):
            own = [e for e in events if e.program_id == program]
            schedule = replaced(schedule, program, targets_of(own, seen), now_s)
        was, self._kept = self._kept, Kept(schedule=schedule, first_seen=seen)
        if self._kept != was:
            self._write()
        if schedule != was.schedule:
            self._taken(self._facility.id, schedule)
        count = float(len(schedule))
        return (Reading(point="targets", quantity="state", value=count, at_s=now_s),)

    async def close(self) -> None:
        """Close the connection."""
        await self._web.close()

    def _read_kept(self) -> Kept:
        kept = read_kept(self._path, Kept) or Kept()  # the VTN repeats what it tells
        return msgspec.structs.replace(kept, schedule=merged(kept.schedule, [], time.time()))

    def _write(self) -> None:
        """A disk that refuses loosens no limit: only a restart would not know of it."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            replace_file(self._path, msgspec.msgpack.encode(self._kept))
        except OSError as error:
            log_line(f"{self._path}: not kept: {error}")

    async def _events(self) -> list[Event]:
        found: list[Event] = []
        while len(found) < EVENTS_MAX:
            query = {"skip": str(len(found)), "limit": str(PAGE)}
            if self._facility.program:
                query["programID"] = self._facility.program
            path = f"{self._web.base_path}/events?{urlencode(query)}"
            answer = await self._ask(path)
            try:
                page = msgspec.json.decode(bytes(answer.body), type=list[Event])
            except (*UNREADABLE, ValueError) as error:
                raise SiteError(self._where, got=str(error), allowed="events") from None
            found += page
            if len(page) < PAGE:
                break
        return found

    @property
    def _where(self) -> str:
        return f"openadr {self._facility.id} ({self._web.url}{self._web.base_path})"

    async def _ask(self, path: str) -> Answer:
        headers = await self._identity(fresh=False)
        answer = await self._web.ask("GET", path, headers=headers)
        if answer.status == 401 and headers:
            headers = await self._identity(fresh=True)
            answer = await self._web.ask("GET", path, headers=headers)
        if answer.status == 200:
            return answer
        raise SiteError(
            self._where,
            got=f"{answer.status} for {path}",
            allowed="200",
            fix="correct user (client id) and secret, and its rights at the VTN"
            if answer.status in (401, 403)
            else None,
        )

    async def _identity(self, *, fresh: bool) -> dict[str, str]:
        """A token by client credentials (RFC 6749, 4.4); none where no user is named."""
        if not self._facility.user:
            return {}
        if fresh or time.monotonic() > self._token_until_s:
            path = await self._token_path()
            form = {
                "grant_type": "client_credentials",
                "client_id": self._facility.user,
                "client_secret": secret_of(self._facility, self._home),
            }
            answer = await self._web.ask("POST", path, form=urlencode(form))
            if answer.status != 200:
                got = f"{answer.status} for a token"
                fix = "correct user (client id) and secret"
                raise SiteError(self._where, got=got, allowed="200", fix=fix)
            told = answer.json(self._where)
            self._token = str(told.get("access_token", ""))
            life_s = told.get("expires_in")
            life_s = float(life_s) if isinstance(life_s, int | float) else TOKEN_LIFE_S
            self._token_until_s = time.monotonic() + life_s / 2.0
        return {"Authorization": f"Bearer {self._token}"}

    async def _token_path(self) -> str:
        """By the VTN's own word, where that is at its own address: the secret goes nowhere else."""
        answer = await self._web.ask("GET", f"{self._web.base_path}/auth/server")
        if answer.status == 200:
            parts = urlsplit(str(answer.json(self._where).get("tokenURL", "")))
            if f"{parts.scheme}://{parts.netloc}" == self._web.url:
                return parts.path
        return f"{self._web.base_path}/auth/token"


def targets_of(events: Sequence[Event], first_seen: dict[str, float]) -> list[LoadTarget]:
    """Limits of one program's events, the most important last, so that its word holds where several overlap."""
    ordered = sorted(
        events,
        key=lambda e: (-(math.inf if e.priority is None else e.priority), e.created, e.id),
    )
    return [t for event in ordered for t in _of_event(event, first_seen.get(event.id, 0.0))]


def _of_event(event: Event, seen_s: float) -> list[LoadTarget]:
    units = next(
        (d.units for d in event.payload_descriptors or () if d.payload_type == LIMIT), None
    )
    per = KW_PER.get((units or "KW").upper())
    if per is None:
        return []  # amperes and the like: not a limit of power
    found = []
    default = event.interval_period or _Period()
    following_s = _start(default.start, seen_s)
    for interval in event.intervals or ():
        own = interval.interval_period or _Period()
        start_s = following_s if own.start is None else _start(own.start, seen_s)
        length_s = _length_s(own.duration if own.duration is not None else default.duration)
        following_s += length_s
        limits = [_limit(p.values) for p in interval.payloads if p.type == LIMIT]
        found += [
            LoadTarget(
                id=f"{event.id}#{interval.id}",
                source=event.program_id,
                limit_kw=limit * per,
                start_at_s=start_s,
                end_at_s=start_s + length_s,
            )
            for limit in limits
            if limit is not None
        ]
    return found


def _limit(values: Sequence[Any]) -> float | None:
    """The first value, where it is a quantity."""
    value = values[0] if values else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) and value >= 0.0 else None


def _start(text: str | None, seen_s: float) -> float:
    """An instant; absent, or all zeros, is now."""
    if not text or text.startswith("0000"):
        return seen_s
    try:
        at = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        return FOREVER  # nobody knows when: it never begins
    return (at if at.tzinfo is not None else at.replace(tzinfo=UTC)).timestamp()


def _length_s(text: str | None) -> float:
    """ISO 8601; absent, zero or thousands of years is for ever."""
    match = _DURATION.match(text or "")
    if match is None:
        return FOREVER
    years, months, weeks, days, hours, minutes, seconds = (float(g or 0.0) for g in match.groups())
    whole_days = years * DAYS_PER["Y"] + months * DAYS_PER["M"] + weeks * DAYS_PER["W"] + days
    if whole_days >= ENDLESS_DAYS:
        return FOREVER
    length_s = whole_days * SECONDS_PER_DAY + hours * SECONDS_PER_HOUR + minutes * 60.0 + seconds
    return length_s or FOREVER

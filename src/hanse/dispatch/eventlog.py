"""The slow path's log: events of one Dispatcher in order, each with what it made of it; enough to make every decision again.

Here: frames and their reading, which events may be left out (`Changes`), `repeat`, `last_placement`, `last_schedule`. Not here: files (`live.event_log`), the
requests' own log (`journal`), the state that a log may begin with (`snapshot`). Answers of solvers are events: a replay solves nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple

import msgspec

from hanse.dispatch import actions as act
from hanse.dispatch import events as ev
from hanse.dispatch.defer_check import check as defer_check
from hanse.dispatch.defer_problem import DeferAnswer, DeferProblem
from hanse.dispatch.dispatcher import Dispatcher, Scope
from hanse.dispatch.place_check import check as place_check
from hanse.dispatch.place_values import PlaceAnswer, PlaceProblem
from hanse.dispatch.snapshot import restored, state_of
from hanse.errors import ConfigError
from hanse.model import versions
from hanse.model.told import UNREADABLE

MAGIC: Final = versions.EVENT_LOG.now.encode()
LENGTH_BYTES: Final = 4
FRAME_BYTES_MAX: Final = 64 * 1024 * 1024
"""An outlook and a placement of a thousand sites are a few megabytes."""


class Entry(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """One event and the digest of the actions that followed."""

    event: bytes
    actions: bytes
    """BLAKE2b, 16 bytes, of the encoded actions; empty: there were none."""
    state: bytes = b""
    """Of a log's first entry, which then has no event: what the Dispatcher was when the file before was full."""


class Repeated(msgspec.Struct, frozen=True, kw_only=True):
    """A log made again."""

    events: int
    decided: int
    """Events that actions followed."""
    placements: int
    """Answers of solvers among the events."""
    differ: tuple[str, ...]
    """What came out otherwise."""
    truncated: bool
    """The log ends inside a frame: its writer was killed there."""
    began: str = ""
    """Digest of the state that it begins with; empty: it begins where nothing was known."""
    ended: str = ""
    """Digest of the state at its end: another file that goes on from there begins with it."""


class LastPlacement(NamedTuple):
    """A placement that was taken, and what it answers."""

    at_s: float
    problem: PlaceProblem
    answer: PlaceAnswer


class LastSchedule(NamedTuple):
    """A schedule that was taken, and what it answers."""

    at_s: float
    problem: DeferProblem
    answer: DeferAnswer


class Changes:
    """Events that change nothing that a decision rests on, and led to none, need no place in a log."""

    def __init__(self) -> None:
        self._heard: dict[str, tuple[object, ...]] = {}

    def needed(self, event: ev.Event, actions: list[act.Action]) -> bool:
        """Whether a replay without the event could come to another end. Instants of reports decide nothing."""
        if isinstance(event, ev.SiteLost):
            self._heard.pop(event.site, None)
        if isinstance(event, ev.SiteHeard):
            said = (
                event.epoch,
                event.table_version,
                event.shed_level,
                event.placement_version,
                event.serving,
                event.unheard,
            )
            same = self._heard.get(event.site) == said
            self._heard[event.site] = said
            return bool(actions) or not same
        return bool(actions) or not isinstance(event, ev.Ticked)


def digest_of(actions: list[act.Action]) -> bytes:
    """Of everything that followed an event; empty where nothing did."""
    if not actions:
        return b""
    found = hashlib.blake2b(digest_size=16)
    for action in actions:
        found.update(act.action_to_bytes(action))
    return found.digest()


def frame(event: ev.Event, actions: list[act.Action]) -> bytes:
    """One entry with its length."""
    return _framed((ev.event_to_bytes(event), digest_of(actions)))


def state_frame(state: bytes) -> bytes:
    """A log's first entry, where it goes on from another's end."""
    return _framed((b"", b"", state))


def _framed(entry: tuple[bytes, ...]) -> bytes:
    """An `Entry`; one without a state is as it was before there were any."""
    content = msgspec.msgpack.encode(entry)
    return len(content).to_bytes(LENGTH_BYTES, "little") + content


def entries(log: bytes, *, where: str = "log") -> Iterator[Entry | None]:
    """Entries of a log; None at last where it ends inside one.

    Raises:
        ConfigError: it is no such log, or is damaged.
    """
    if not log.startswith(MAGIC):
        raise ConfigError(
            where,
            got=f"{log[: len(MAGIC)]!r} at its beginning",
            allowed=f"a log of a controller, which begins with {MAGIC!r}",
            fix="give a *.events file as it lies under hub/events of a state directory",
        )
    at = len(MAGIC)
    while at < len(log):
        size = int.from_bytes(log[at : at + LENGTH_BYTES], "little")
        if size > FRAME_BYTES_MAX:
            raise _damaged(where, at, f"a frame of {size} bytes")
        content = log[at + LENGTH_BYTES : at + LENGTH_BYTES + size]
        if len(content) < size or len(log) < at + LENGTH_BYTES:
            yield None
            return
        try:
            yield msgspec.msgpack.decode(content, type=Entry)
        except UNREADABLE as error:
            raise _damaged(where, at, str(error)) from None
        at += LENGTH_BYTES + size


def _damaged(where: str, at: int, got: str) -> ConfigError:
    return ConfigError(
        f"{where}, byte {at}",
        got=got,
        allowed=f"an entry of at most {FRAME_BYTES_MAX} bytes",
        fix=f"copy it anew, or replay its first {at} bytes alone",
    )


def repeat(log: bytes, *, scope: Scope = "fleet", site: str = "", where: str = "log") -> Repeated:
    """Make every decision of a log again, with a Dispatcher that knows nothing but the log.

    Raises:
        ConfigError: it is no such log, or is damaged; `where` is what it is called.
    """
    again = _Again(log, scope, site, where)
    events = decided = placements = 0
    differ: list[str] = []
    for event, actions, recorded in again:
        events += 1
        decided += bool(actions)
        placements += isinstance(event, ev.PlacementSolved | ev.ScheduleSolved)
        if digest_of(actions) != recorded:
            names = ", ".join(type(action).__name__ for action in actions) or "nothing"
            was = "other actions" if recorded else "nothing"
            differ.append(f"event {events} ({type(event).__name__}): now {names}, then {was}")
    return Repeated(
        events=events,
        decided=decided,
        placements=placements,
        differ=tuple(differ),
        truncated=again.truncated,
        began=again.began,
        ended=_digest(state_of(again.dispatcher)) if scope == "fleet" else "",
    )


def last_placement(log: bytes, *, where: str = "log") -> LastPlacement | None:
    """The last answer of the optimiser that may be applied, with its question, made again; None where there is none.

    Raises:
        ConfigError: it is no such log, or is damaged.
    """
    found = _last(log, where, ev.PlacementSolved, act.SolvePlacement, place_check)
    return None if found is None else LastPlacement(*found)


def last_schedule(log: bytes, *, where: str = "log") -> LastSchedule | None:
    """Likewise of jobs and batteries."""
    found = _last(log, where, ev.ScheduleSolved, act.SolveSchedule, defer_check)
    return None if found is None else LastSchedule(*found)


def _last(
    log: bytes, where: str, answers: type, asks: type, check: Callable[[Any, Any], list[str]]
) -> tuple[float, Any, Any] | None:
    """When, question and answer."""
    asked = found = None
    for event, actions, _ in _Again(log, "fleet", "", where):
        answer = event.answer if isinstance(event, answers) else None  # type: ignore[union-attr]
        if answer is not None and asked is not None and not check(asked, answer):
            found = event.at_s, asked, answer
        for action in actions:
            asked = action.problem if isinstance(action, asks) else asked  # type: ignore[union-attr]
    return found


class _Again:
    """Events of a log with what a Dispatcher that knows nothing but the log makes of each, and the digest of what it made then."""

    def __init__(self, log: bytes, scope: Scope, site: str, where: str) -> None:
        self._log, self._where = log, where
        self.dispatcher = Dispatcher(scope, site=site)
        self.truncated, self.began = False, ""

    def __iter__(self) -> Iterator[tuple[ev.Event, list[act.Action], bytes]]:
        events = 0
        for entry in entries(self._log, where=self._where):
            if entry is None:
                self.truncated = True
                break
            try:
                if entry.state and not events:
                    self.dispatcher, self.began = restored(entry.state), _digest(entry.state)
                    continue
                event = ev.event_from_bytes(entry.event)
            except UNREADABLE as error:
                raise ConfigError(
                    f"{self._where}, event {events + 1}",
                    got=str(error),
                    allowed="an event of this version",
                    fix="replay it with the version that wrote it, or copy it anew",
                ) from None
            events += 1
            yield event, self.dispatcher.handle(event), entry.actions


def _digest(state: bytes) -> str:
    return hashlib.blake2b(state, digest_size=16).hexdigest()

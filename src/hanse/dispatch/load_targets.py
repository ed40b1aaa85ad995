"""Load targets: what a grid's operator, or a person, lets a site draw for a while, and whether the site keeps to it.

Here: `LoadTarget`, one schedule out of many messages (`merged`), the target in force (`in_force`), what devices are limited to (`next_cap`),
and the account of keeping it (`Watch`). Not here: how targets arrive (`live.facility`), what is given up for one (`shed`, `site_scope`).

Of one sender the later word holds where two overlap, so that a target can be replaced or relaxed; between senders the least holds, because each
may rely on its own. A target without an end holds until its sender replaces it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

from hanse.model.fleet import Value
from hanse.signals.outlook import UNBOUND_KW, Bound
from hanse.units import SECONDS_PER_HOUR

FOREVER: Final = float("inf")
BOUNDS_MAX: Final = 64
"""Pieces of a schedule that a site tells of at once; where there are more, the least of each hour."""
TARGETS_MAX: Final = 256
"""Of one site: a year of monthly windows and some; a sender that floods pushes out its own oldest, nobody else's."""
CAP_STEP_SHARE: Final = 0.05
"""A device's limit is raised only by so much: BMCs take a second for each change, and own generation wavers."""
BREACH_AFTER_S: Final = 30.0
"""Over a target for so long is a breach: requests that run are not ended, and most take less; then two steps of shedding."""
ESCALATE_AFTER_S: Final = 120.0
"""A breach that lasts so long is more than work that is ending."""
CRITICAL_SHARE: Final = 0.2
"""Excess over the target from which a breach is critical (DSX Flex 1.7.0)."""

Ramp = Literal["start_ramp_down", "end_ramp_down", "start_ramp_up", "end_ramp_up"]
BreachStep = Literal["active", "escalated", "resolved"]


class LoadTarget(Value, frozen=True, kw_only=True):
    """What a site may draw at its meter in a time."""

    id: str
    """As its sender calls it; with the sender's name it is one of a kind."""
    source: str
    """The sender."""
    limit_kw: float
    start_at_s: float
    end_at_s: float = FOREVER
    best_effort: bool = True
    """The last class is served even where the target is missed for it; else it is refused too."""

    def holds(self, now_s: float) -> bool:
        """Whether it is in its time."""
        return self.start_at_s <= now_s < self.end_at_s


def merged(
    schedule: Sequence[LoadTarget], new: Sequence[LoadTarget], now_s: float
) -> tuple[LoadTarget, ...]:
    """A schedule with new targets, in the order in which they came; without what no longer matters.

    A target with the id of an earlier one of its sender takes its place, and the last word. One that leaves nothing of an earlier one takes it
    back for good: should it itself be replaced, the earlier one does not come back.
    """
    kept = list(schedule)
    for target in new:
        kept = [t for t in kept if (t.source, t.id) != (target.source, target.id)]
        if target.end_at_s > max(now_s, target.start_at_s):
            kept = [t for t in kept if not _covers(target, t, now_s)]
            kept.append(target)
    kept = [t for t in kept if t.end_at_s > now_s]
    for source in {t.source for t in kept}:
        own = [t for t in kept if t.source == source]
        dropped = own[: max(0, len(own) - TARGETS_MAX)]
        kept = [t for t in kept if t not in dropped]
    return tuple(kept)


def replaced(
    schedule: Sequence[LoadTarget], source: str, new: Sequence[LoadTarget], now_s: float
) -> tuple[LoadTarget, ...]:
    """A schedule where all that a sender said is what it says now: for senders that tell everything each time."""
    return merged([t for t in schedule if t.source != source], new, now_s)


def in_force(schedule: Sequence[LoadTarget], now_s: float) -> LoadTarget | None:
    """The target that binds now: each sender's last word, of those the least; the first of equals."""
    last: dict[str, LoadTarget] = {}
    for target in schedule:
        if target.holds(now_s):
            last[target.source] = target
    return min(last.values(), key=lambda t: t.limit_kw, default=None)


def next_change_s(schedule: Sequence[LoadTarget], now_s: float) -> float:
    """The next instant at which another target may bind."""
    edges = [edge for t in schedule for edge in (t.start_at_s, t.end_at_s) if edge > now_s]
    return min(edges, default=FOREVER)


def bounds(schedule: Sequence[LoadTarget], from_s: float, until_s: float) -> tuple[Bound, ...]:
    """What a schedule lets a site draw in a time: (from, until, kW), in order; what is in no piece is not bound. Unix seconds UTC. The last
    piece ends when its target does, if later.
    """
    found: list[Bound] = []
    at_s = from_s
    while at_s < until_s:
        target, next_s = in_force(schedule, at_s), next_change_s(schedule, at_s)
        if target is not None and target.limit_kw < UNBOUND_KW:
            _add(found, (at_s, next_s, target.limit_kw))
        at_s = next_s
    if len(found) <= BOUNDS_MAX:
        return tuple(found)
    hourly: list[Bound] = []
    begin_s = from_s - from_s % SECONDS_PER_HOUR
    while begin_s < until_s:
        end_s = begin_s + SECONDS_PER_HOUR
        least = min((kw for a, b, kw in found if a < end_s and b > begin_s), default=None)
        if least is not None:
            _add(hourly, (begin_s, end_s, least))
        begin_s = end_s
    return tuple(hourly)


def _add(pieces: list[Bound], piece: Bound) -> None:
    """One more piece, as part of the last where that goes on."""
    if pieces and pieces[-1][1:] == (piece[0], piece[2]):
        piece = (pieces.pop()[0], *piece[1:])
    pieces.append(piece)


def next_cap(before_kw: float | None, bound_kw: float | None) -> float | None:
    """What capped devices are to be held to, given what they are held to: down at once, up in steps; None: nothing."""
    if bound_kw is None or before_kw is None or bound_kw < before_kw:
        return bound_kw
    return bound_kw if bound_kw > before_kw * (1.0 + CAP_STEP_SHARE) else before_kw


def compliant(target: LoadTarget | None, drawn_kw: float) -> bool:
    """Whether a draw keeps to the target; none binds: it does."""
    return target is None or drawn_kw <= target.limit_kw


def _covers(later: LoadTarget, earlier: LoadTarget, now_s: float) -> bool:
    """Whether nothing is left of an earlier word of the same sender, from now on."""
    begins = later.start_at_s <= max(earlier.start_at_s, now_s)
    return later.source == earlier.source and begins and later.end_at_s >= earlier.end_at_s


class Breach(Value, frozen=True, kw_only=True):
    """A target that is missed."""

    target: LoadTarget
    since_s: float
    """When the draw first went over it."""
    told: BreachStep | None = None
    """What was last said of it."""


class Watch(Value, frozen=True, kw_only=True):
    """The account of keeping to targets, carried from one look to the next."""

    target: LoadTarget | None = None
    ramping: Literal["down", "up"] | None = None
    """Work is being given up, or taken back, because of a target."""
    event_since_s: float | None = None
    """When the present event began; None: none is on."""
    breach: Breach | None = None


class Told(Value, frozen=True, kw_only=True):
    """What a look found worth saying, in order."""

    watch: Watch
    ramps: tuple[Ramp, ...] = ()
    breach: BreachStep | None = None
    breached: Breach | None = None
    """The breach that `breach` is about."""


def look(
    before: Watch, target: LoadTarget | None, drawn_kw: float, shed_level: int, now_s: float
) -> Told:
    """What has changed since the last look.

    Args:
        shed_level: Steps of shedding in force: a target that ended is over for the world when all work is back.
    """
    ramps: list[Ramp] = []
    ramping, since_s = before.ramping, before.event_since_s
    keeps = compliant(target, drawn_kw)
    tightened = target is not None and (
        before.target is None or target.limit_kw < before.target.limit_kw
    )
    if target is not None and since_s is None:
        since_s = now_s
    if ramping == "down" and (target is None or keeps):
        ramping = None
        ramps.append("end_ramp_down")
    if ramping == "up" and (target is not None or shed_level == 0):
        ramping = None
        ramps.append("end_ramp_up")
    if ramping is None and tightened and not keeps:
        ramping = "down"
        ramps.append("start_ramp_down")
    if ramping is None and before.target is not None and target is None and shed_level > 0:
        ramping = "up"
        ramps.append("start_ramp_up")
    if target is None and ramping is None:
        since_s = None
    breach, said = _breach(before.breach, target, drawn_kw, now_s)
    watch = Watch(target=target, ramping=ramping, event_since_s=since_s, breach=breach)
    about = before.breach if said == "resolved" else breach
    return Told(watch=watch, ramps=tuple(ramps), breach=said, breached=about if said else None)


def severity(target: LoadTarget, drawn_kw: float) -> Literal["warning", "critical"]:
    """Of a breach."""
    return "critical" if drawn_kw > target.limit_kw * (1.0 + CRITICAL_SHARE) else "warning"


def _breach(
    before: Breach | None, target: LoadTarget | None, drawn_kw: float, now_s: float
) -> tuple[Breach | None, BreachStep | None]:
    """The breach now, and what is to be said of it or of the one before."""
    if target is None or compliant(target, drawn_kw):
        return None, "resolved" if before is not None and before.told else None
    if before is None or before.target.id != target.id or before.target.source != target.source:
        fresh = Breach(target=target, since_s=now_s)
        return fresh, "resolved" if before is not None and before.told else None
    over_s = now_s - before.since_s
    said: BreachStep | None = None
    if before.told is None and over_s >= BREACH_AFTER_S:
        said = "active"
    elif before.told == "active" and over_s >= ESCALATE_AFTER_S:
        said = "escalated"
    told = said or before.told
    return Breach(target=target, since_s=before.since_s, told=told), said

"""What a site gives up first when power runs short: one order, stated here, for live sites and the twin alike.

Here: the order (`shed_steps`), how far down it a site goes and when it comes back (`shed`), what that means for a request
(`power_gate`). Not here: what power there is (`live.agent_power`, `twin.power`), refusing a request (`choose`, the gateway),
stopping an engine (`rolling`).

The order: deferrable work; work that other sites sent; own classes by priority, lowest first, those of equal priority together,
all but the last; engines with nothing to do; and the last class only where engines would brown out otherwise, which is
`SHED_ALL_SHARE` of what there is. A step is in force with all before it. Down at once as far as the draws say, then a
step at a time while it is not enough; back a step at a time, when what the step gave up fits again with room to spare.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Final, Literal, Protocol

from hanse.energy.limits import Cause
from hanse.model.fleet import Value

Work = Literal["deferrable", "others", "class", "idle"]

SHED_ALL_SHARE: Final = 1.1
"""Of the available power: what a supply bears for the minutes that running requests take to end. Beyond, engines brown out."""
UNSHED_SHARE: Final = 0.9
"""Work comes back only below this share of the available power, else it would flap."""
SETTLE_S: Final = 5.0
"""After a step the next waits so long: requests that run are not ended, and most take a few seconds."""
HOLD_S: Final = 10.0
"""No step is taken back sooner: two meter readings of half a second would otherwise refuse and admit in turn."""
RETRY_S: Final = 300.0
"""What a step gave up is not known for ever: demand changes within a five-minute step of the balance."""

OPEN: Final = 1
"""`power_gate` of a site that sheds nothing that comes as a request."""
SHUT: Final = 0
"""`power_gate` of a site that takes nothing."""


class Draw(Value, frozen=True, kw_only=True):
    """What one kind of work draws at the meter now, kW."""

    work: Work
    kw: float
    priority: int = 0
    """Of a class."""


class ShedStep(Value, frozen=True, kw_only=True):
    """One step of the order."""

    work: Work
    classes: tuple[str, ...] = ()
    """Data classes that it refuses."""
    priority: int = 0
    last: bool = False
    """Only where engines would brown out."""

    @property
    def text(self) -> str:
        """What is given up, for people."""
        if self.work == "class":
            names = ", ".join(self.classes)
            return f"class {names} (priority {self.priority})"
        return {
            "deferrable": "deferrable work",
            "others": "work of other sites",
            "idle": "idle engines",
        }[self.work]

    @property
    def rule(self) -> str:
        """Id of the rule that refuses by it."""
        suffix = f"-priority-{self.priority}" if self.work == "class" else f"-{self.work}"
        return f"hanse:power{suffix}"


class Shedding(Value, frozen=True, kw_only=True):
    """How far down the order a site is."""

    level: int = 0
    """Steps in force, from the first."""
    cause: Cause = "grid cap"
    given_up_kw: tuple[float | None, ...] = ()
    """By each step in force when it was taken; None: not known."""
    changed_at_s: float = float("-inf")


NOTHING_SHED: Final = Shedding()


class Prioritised(Protocol):
    """A data class, of a fleet file or of a table."""

    @property
    def id(self) -> str: ...

    @property
    def priority(self) -> int: ...


def shed_steps(classes: Sequence[Prioritised]) -> tuple[ShedStep, ...]:
    """The order for a fleet's data classes."""
    ordered = sorted(classes, key=lambda c: c.priority)
    by_class = [
        ShedStep(work="class", priority=priority, classes=tuple(c.id for c in equal))
        for priority, equal in groupby(ordered, key=lambda c: c.priority)
    ]
    last = [
        ShedStep(work="class", priority=s.priority, classes=s.classes, last=True)
        for s in by_class[-1:]
    ]
    before = ShedStep(work="deferrable"), ShedStep(work="others")
    return (*before, *by_class[:-1], ShedStep(work="idle"), *last)


def shed_rank(classes: Sequence[Prioritised]) -> dict[str, int]:
    """Class -> its place among the steps that are classes, from 1: those with a lower number go first."""
    of_classes = [step for step in shed_steps(classes) if step.work == "class"]
    return {name: rank for rank, step in enumerate(of_classes, 1) for name in step.classes}


def power_gate(level: int, ranks: int) -> int:
    """What a site with `ranks` ranks of classes takes at a level: 1 all, 0 nothing, -1 none of other sites, -1 - k that and no rank to k.

    The numbers are `choose`'s: a site's own requests pass where the rank is at least the negated gate.
    """
    if level < 2:
        return OPEN
    if level >= ranks + 3:  # the last class, behind the idle engines
        return SHUT
    return -1 - min(level - 2, max(ranks - 1, 0))


def flags_of_gate(gate: int) -> int:
    """A gate in a byte of an input log: bit 0 for 1, bits from 2 on for what is below 0. A peer's gate is 0 or 1."""
    return int(gate == OPEN) if gate >= SHUT else min(-gate, 63) << 2


def gate_of_flags(flags: int) -> int:
    """The gate again."""
    return -(flags >> 2) or int(flags & 1)


def shed(
    steps: Sequence[ShedStep],
    before: Shedding,
    now_s: float,
    *,
    available_kw: float,
    drawn_kw: float,
    cause: Cause,
    draws: Sequence[Draw] = (),
    supply_kw: float | None = None,
    strict: bool = False,
) -> Shedding:
    """How far down the order a site goes now.

    Args:
        available_kw: What may be drawn.
        supply_kw: What the supply bears, where less may be drawn than that: engines brown out only beyond it.
        strict: The last class goes too where the rest is not enough, though nothing browns out.
    """
    if drawn_kw > available_kw:
        browning_out = drawn_kw > SHED_ALL_SHARE * (
            available_kw if supply_kw is None else supply_kw
        )
        return _further(
            steps, before, now_s, available_kw, drawn_kw, cause, draws, browning_out, strict
        )
    if before.level and drawn_kw <= UNSHED_SHARE * available_kw:
        return _back(before, now_s, available_kw, drawn_kw, cause)
    return before


def _further(
    steps: Sequence[ShedStep],
    before: Shedding,
    now_s: float,
    available_kw: float,
    drawn_kw: float,
    cause: Cause,
    draws: Sequence[Draw],
    browning_out: bool,
    strict: bool,
) -> Shedding:
    if now_s - before.changed_at_s < SETTLE_S and before.level and not browning_out:
        return before
    given_up = list(before.given_up_kw)
    over_kw = drawn_kw - available_kw
    for step in steps[before.level :]:
        if over_kw <= 0.0 or (step.last and not (browning_out or strict)):
            break
        kw = _drawn(step, draws)
        given_up.append(kw)
        # A step of unknown size may be enough: look again before the next, unless there is no time for that.
        over_kw = over_kw - kw if kw is not None else (over_kw if browning_out else 0.0)
    if len(given_up) == before.level:
        return before
    return Shedding(
        level=len(given_up), cause=cause, given_up_kw=tuple(given_up), changed_at_s=now_s
    )


def _back(
    before: Shedding, now_s: float, available_kw: float, drawn_kw: float, cause: Cause
) -> Shedding:
    waited_s = now_s - before.changed_at_s
    returns_kw = before.given_up_kw[-1] or 0.0
    fits = drawn_kw + returns_kw <= UNSHED_SHARE * available_kw
    if waited_s < HOLD_S or not (fits or waited_s >= RETRY_S):
        return before
    return Shedding(
        level=before.level - 1,
        cause=before.cause if before.level > 1 else cause,
        given_up_kw=before.given_up_kw[:-1],
        changed_at_s=now_s,
    )


def _drawn(step: ShedStep, draws: Sequence[Draw]) -> float | None:
    known = [
        draw.kw
        for draw in draws
        if draw.work == step.work and (step.work != "class" or draw.priority == step.priority)
    ]
    return sum(known) if known else None


def shed_reasons(steps: Sequence[ShedStep], now: Shedding) -> tuple[str, ...]:
    """What is given up and why, for people, in order."""
    return tuple(f"{now.cause}: no {step.text}" for step in steps[: now.level])

"""What a dispatcher asks its shell to do, as values.

Here: actions, imperative, each with the epoch under which it was decided; whoever carries one out refuses an epoch
lower than the highest it has seen. Not here: doing it (`live`, `twin`).
"""

from __future__ import annotations

from typing import Literal

import msgspec

from hanse.dispatch.belief import EngineSpec
from hanse.dispatch.defer_problem import DeferAnswer, DeferProblem
from hanse.dispatch.follow import SiteSchedule
from hanse.dispatch.place_values import PlaceProblem
from hanse.energy.limits import Cause


class _Action(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="action"
):
    epoch: int


class PublishTable(_Action, frozen=True, kw_only=True, tag="publish_table"):
    """Send a routing table to all sites (fleet scope)."""

    version: int
    content: bytes
    """`Table.to_bytes()`."""


class SendPlacement(_Action, frozen=True, kw_only=True, tag="send_placement"):
    """Send a placement to all sites (fleet scope)."""

    version: int
    content: bytes
    """A `PlacementDecided`, as `events.event_to_bytes` makes it."""


class SolvePlacement(_Action, frozen=True, kw_only=True, tag="solve_placement"):
    """Solve it (`place.solve`) and tell the answer as `PlacementSolved` (fleet scope)."""

    problem: PlaceProblem


class SolveSchedule(_Action, frozen=True, kw_only=True, tag="solve_schedule"):
    """Solve it (`defer.DeferSolver`) and tell the answer as `ScheduleSolved` (fleet scope)."""

    problem: DeferProblem


class SendSchedule(_Action, frozen=True, kw_only=True, tag="send_schedule"):
    """A schedule that holds from now on: tell each site its part, which follows it by `follow` (fleet scope)."""

    answer: DeferAnswer
    sites: tuple[SiteSchedule, ...] = ()


class StepDown(_Action, frozen=True, kw_only=True, tag="step_down"):
    """A site has obeyed a higher epoch: another leads; stop acting (fleet scope)."""

    epoch_seen: int


class StartEngine(_Action, frozen=True, kw_only=True, tag="start_engine"):
    """Start an engine that is not running (site scope)."""

    engine: EngineSpec


class RestartEngine(_Action, frozen=True, kw_only=True, tag="restart_engine"):
    """End an engine by force if it is still there, and start it again (site scope)."""

    engine: EngineSpec
    attempt: int
    """1 for the first restart since it last ran well."""


class StopEngine(_Action, frozen=True, kw_only=True, tag="stop_engine"):
    """End an engine that is placed here no more (site scope)."""

    engine: EngineSpec


class MarkEngine(_Action, frozen=True, kw_only=True, tag="mark_engine"):
    """Tell the site's gateway workers what an engine is good for now (site scope)."""

    engine: EngineSpec
    state: Literal["up", "dead", "draining"]


class Shed(_Action, frozen=True, kw_only=True, tag="shed"):
    """Take less work (site scope)."""

    level: int
    """Steps of `shed.shed_steps` in force, from the first."""
    cause: Cause
    reasons: tuple[str, ...]
    """For people, one a step."""


class Unshed(_Action, frozen=True, kw_only=True, tag="unshed"):
    """Take all work again (site scope)."""


class CapPower(_Action, frozen=True, kw_only=True, tag="cap_power"):
    """Hold devices that can be limited to a site's draw (site scope)."""

    limit_kw: float | None
    """Of the whole site, at its meter; None: limits are lifted."""


class Log(_Action, frozen=True, kw_only=True, tag="log"):
    """Tell a person."""

    level: Literal["info", "warning"]
    text: str


Action = (
    PublishTable
    | SendPlacement
    | SolvePlacement
    | SolveSchedule
    | SendSchedule
    | StepDown
    | StartEngine
    | RestartEngine
    | StopEngine
    | MarkEngine
    | Shed
    | Unshed
    | CapPower
    | Log
)


def action_to_bytes(action: Action) -> bytes:
    """For a log or the wire."""
    return msgspec.msgpack.encode(action)


def action_from_bytes(content: bytes) -> Action:
    """From a log or the wire."""
    found: Action = msgspec.msgpack.decode(content, type=Action)
    return found

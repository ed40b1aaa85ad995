"""What happened, as values: the only way anything reaches a dispatcher's belief.

Here: events, past tense, each with the instant the dispatcher learnt of it. Not here: what follows (`dispatcher`).
All events of one dispatcher in order are enough to replay it; they travel as tagged msgpack.
"""

from __future__ import annotations

import msgspec

from hanse.dispatch.belief import EngineSpec, Floor
from hanse.dispatch.defer_build import Measured
from hanse.dispatch.defer_problem import DeferAnswer
from hanse.dispatch.load_targets import LoadTarget
from hanse.dispatch.place_values import PlaceAnswer
from hanse.dispatch.policies import PolicyText
from hanse.dispatch.shed import Draw
from hanse.energy.limits import Cause
from hanse.model.fleet import Fleet, Placement
from hanse.model.job import Job
from hanse.signals.outlook import Outlook


class _Event(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="event"
):
    at_s: float


class FleetLoaded(_Event, frozen=True, kw_only=True, tag="fleet_loaded"):
    """An operator's fleet file, its policy files and keys; also after a restart."""

    fleet: Fleet
    policies: tuple[PolicyText, ...] = ()
    digests: dict[str, str] = {}
    """Key id -> SHA-256 hex of keys that the fleet file does not state itself."""
    offers_known: tuple[str, ...] = ()
    """`TableMeta.offers` of the newest table on disk, so that offers keep their indices."""
    version_known: int = 0
    """Its version; the next table gets a higher one."""
    placements: tuple[Placement, ...] | None = None
    """In force instead of the fleet file's, as last decided (kept by the stream and on each site's disk)."""
    placement_epoch: int = 0
    placement_version: int = 0
    """Of `placements`."""
    engines_known: tuple[EngineSpec, ...] = ()
    """Site scope: engines that an earlier dispatcher left running."""


class EpochGranted(_Event, frozen=True, kw_only=True, tag="epoch_granted"):
    """This dispatcher leads under a new epoch (fleet), or has obeyed it before a restart (site)."""

    epoch: int


class PlacementDecided(_Event, frozen=True, kw_only=True, tag="placement_decided"):
    """Which engines run where, all over the league, from the fleet file or an optimiser; travels to the sites as it is.

    Epoch and version are checked at site scope: of two, the site works towards the later one.
    """

    source: str
    placements: tuple[Placement, ...]
    epoch: int = 0
    version: int = 0
    """Rises with every placement that an epoch's leader decides."""
    floors: tuple[Floor, ...] = ()
    """Replicas that a site keeps up, whatever it is to run, until a later placement says otherwise."""
    fleet_digest: str = ""
    """Of the fleet that it was decided for (`belief.fleet_digest`): a leader that starts with another one begins with its file."""


class KeysChanged(_Event, frozen=True, kw_only=True, tag="keys_changed"):
    """All key digests, anew."""

    digests: dict[str, str]


class DrainRequested(_Event, frozen=True, kw_only=True, tag="drain_requested"):
    """A site is to get no new requests, or (`drained` false) to get them again."""

    site: str
    drained: bool
    epoch: int = 0


class SignalsObserved(_Event, frozen=True, kw_only=True, tag="signals_observed"):
    """A site's PUE and what its next kWh costs and emits."""

    site: str
    pue: float
    carbon_g_per_kwh: float
    price_usd_per_kwh: float


class SiteHeard(_Event, frozen=True, kw_only=True, tag="site_heard"):
    """A site's agent reported."""

    site: str
    epoch: int
    table_version: int
    shed_level: int = 0
    placement_version: int = 0
    serving: tuple[Placement, ...] = ()
    """Replicas that are up there now, as placements: also those that are placed no more and not yet replaced."""
    unheard: tuple[str, ...] | None = None
    """Other sites whose gateways do not answer its own; None: it does not say (an earlier release, or its gateway has just started)."""


class EngineFailing(_Event, frozen=True, kw_only=True, tag="engine_failing"):
    """Fleet scope: replicas of a variant do not start at a site, however often it is tried; or they do again (`why` empty)."""

    site: str
    service: str
    variant: str
    pool: str
    why: str = ""


class SiteLost(_Event, frozen=True, kw_only=True, tag="site_lost"):
    """Nothing heard of a site for longer than its reports take; whether it is cut off or dead the others say (`second_opinion`)."""

    site: str


class EngineStarted(_Event, frozen=True, kw_only=True, tag="engine_started"):
    """The process of an engine runs; it answers no request yet."""

    engine: str


class EngineProbed(_Event, frozen=True, kw_only=True, tag="engine_probed"):
    """An engine answered its probe in time, or did not."""

    engine: str
    answered: bool


class EngineDied(_Event, frozen=True, kw_only=True, tag="engine_died"):
    """The process of an engine ended."""

    engine: str
    why: str = ""


class EngineEmptied(_Event, frozen=True, kw_only=True, tag="engine_emptied"):
    """No request is at a draining engine any more."""

    engine: str


class PowerChanged(_Event, frozen=True, kw_only=True, tag="power_changed"):
    """What the site's supply can give now and what the site draws."""

    available_kw: float
    drawn_kw: float
    cause: Cause = "grid cap"
    """What bounds `available_kw`."""
    draws: tuple[Draw, ...] = ()
    """How much of `drawn_kw` each kind of work is; what is not named is not known."""
    idle: tuple[str, ...] = ()
    """Engines that had no request for a while."""


class LoadTargetsChanged(_Event, frozen=True, kw_only=True, tag="load_targets_changed"):
    """Site scope: the whole schedule of what the site may draw, anew, in the order in which its targets were set."""

    schedule: tuple[LoadTarget, ...]


class OutlookIssued(_Event, frozen=True, kw_only=True, tag="outlook_issued"):
    """Fleet scope: what the next hours are expected to bring."""

    outlook: Outlook


class JobsChanged(_Event, frozen=True, kw_only=True, tag="jobs_changed"):
    """Fleet scope: all deferrable jobs that are not done, anew, where each is, and what their sites tell of batteries and chips."""

    jobs: tuple[Job, ...]
    measured: Measured


class PlacementSolved(_Event, frozen=True, kw_only=True, tag="placement_solved"):
    """Fleet scope: the answer to a `SolvePlacement`. It is checked before anything is made of it."""

    answer: PlaceAnswer


class ScheduleSolved(_Event, frozen=True, kw_only=True, tag="schedule_solved"):
    """Fleet scope: the answer to a `SolveSchedule`, checked likewise."""

    answer: DeferAnswer


class Ticked(_Event, frozen=True, kw_only=True, tag="ticked"):
    """Time passed; the only cause of anything that waits (publishing, restarts)."""


Event = (
    FleetLoaded
    | EpochGranted
    | PlacementDecided
    | KeysChanged
    | DrainRequested
    | SignalsObserved
    | SiteHeard
    | EngineFailing
    | SiteLost
    | EngineStarted
    | EngineProbed
    | EngineDied
    | EngineEmptied
    | PowerChanged
    | LoadTargetsChanged
    | OutlookIssued
    | JobsChanged
    | PlacementSolved
    | ScheduleSolved
    | Ticked
)


def event_to_bytes(event: Event) -> bytes:
    """For a log or the wire."""
    return msgspec.msgpack.encode(event)


def event_from_bytes(content: bytes) -> Event:
    """From a log or the wire."""
    found: Event = msgspec.msgpack.decode(content, type=Event)
    return found

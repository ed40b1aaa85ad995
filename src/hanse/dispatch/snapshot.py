"""A Dispatcher of fleet scope as bytes, and the same one from them: where a log goes on in another file.

Here: `state_of`, `restored`. Not here: the log (`eventlog`). A field that is added to a Dispatcher and not to this is found at once: the
names are compared each time.

Not kept: the last table (what is sent, not what is decided from), compiled law (made again from fleet, policies and its instant), the
instants of reports (which decide nothing but that there was one).
"""

from __future__ import annotations

from typing import Final

import msgspec

from hanse.dispatch.belief import Belief, Floor, SiteBelief
from hanse.dispatch.defer_build import Measured
from hanse.dispatch.defer_problem import DeferProblem
from hanse.dispatch.dispatcher import Dispatcher
from hanse.dispatch.law import compile_law
from hanse.dispatch.place_values import PlaceProblem
from hanse.dispatch.policies import PolicyText
from hanse.dispatch.second_opinion import Verdict
from hanse.dispatch.slow import SlowScope
from hanse.model.fleet import Fleet, Placement, Value
from hanse.model.job import Job
from hanse.signals.clock import Clock
from hanse.signals.outlook import Outlook

NEVER: Final = float("-inf")
HEARD_S: Final = 0.0
"""Stands for any instant at which a site was heard."""

DISPATCHER: Final = frozenset(
    [
        "scope",
        "site",
        "belief",
        "table",
        "stale",
        "published_at_s",
        "at_site",
        "_slow",
        "_epoch",
        "_placed_by",
        "_told",
    ]
)
SLOW: Final = frozenset(
    [
        "outlook",
        "jobs",
        "measured",
        "_place_open",
        "_defer_open",
        "_place_due",
        "_defer_due",
        "_asked_at_s",
        "_defer_clock",
        "_served",
        "_late",
        "_said",
        "_supply_kw",
        "_epoch",
    ]
)


class SiteState(Value, frozen=True, kw_only=True):
    """`SiteBelief`, with its failures as rows."""

    pue: float
    carbon_g_per_kwh: float
    price_usd_per_kwh: float
    drained: bool
    up: bool
    heard: bool
    table_version: int
    shed_level: int
    placement_version: int
    serving: tuple[Placement, ...]
    failing: tuple[tuple[tuple[str, str, str], str], ...]
    unheard: tuple[str, ...] | None = None
    verdict: Verdict = "heard"
    around: tuple[tuple[str, str, str], ...] = ()


class BeliefState(Value, frozen=True, kw_only=True):
    """`Belief` at fleet scope."""

    fleet: Fleet
    policies: tuple[PolicyText, ...]
    law_at_s: float
    placements: tuple[Placement, ...]
    digests: dict[str, str]
    sites: dict[str, SiteState]
    offer_keys: tuple[str, ...]
    epoch: int
    version: int
    floors: tuple[Floor, ...]
    placement_version: tuple[int, int]


class SlowState(Value, frozen=True, kw_only=True):
    """`SlowScope`."""

    outlook: Outlook | None
    jobs: tuple[Job, ...]
    measured: Measured
    place_open: PlaceProblem | None
    defer_open: DeferProblem | None
    place_due: bool
    defer_due: bool
    asked_at_s: dict[str, float]
    defer_clock: Clock
    served: tuple[tuple[tuple[str, str], float], ...]
    late: tuple[str, ...]
    said: tuple[str, ...]
    epoch: int
    supply_kw: dict[str, float] = {}


class State(Value, frozen=True, kw_only=True):
    """All of it."""

    belief: BeliefState | None
    slow: SlowState
    stale: bool
    published_at_s: float
    epoch: int
    placed_by: str
    told: tuple[int, tuple[Placement, ...], tuple[Floor, ...]] | None


def state_of(dispatcher: Dispatcher) -> bytes:
    """What a Dispatcher decides from."""
    d, slow = dispatcher, dispatcher.slow
    assert d.scope == "fleet", "a site's log has no second file"
    assert set(vars(d)) == DISPATCHER and set(vars(slow)) == SLOW, "a field that is not kept"
    told = d._told
    state = State(
        belief=None if d.belief is None else _belief(d.belief),
        slow=_slow(slow),
        stale=d.stale,
        published_at_s=d.published_at_s,
        epoch=d._epoch,
        placed_by=d._placed_by,
        told=(told[0], told[1], told[2]) if told else None,  # type: ignore[arg-type]
    )
    return msgspec.msgpack.encode(state)


def restored(content: bytes) -> Dispatcher:
    """A Dispatcher that goes on as the one before.

    Raises:
        msgspec.MsgspecError: it is no state of this version.
    """
    state = msgspec.msgpack.decode(content, type=State)
    d = Dispatcher("fleet")
    d.belief = None if state.belief is None else _believed(state.belief)
    d.stale, d.published_at_s = state.stale, state.published_at_s
    d._epoch, d._placed_by = state.epoch, state.placed_by
    d._told = () if state.told is None else state.told
    kept, slow = state.slow, d.slow
    slow.outlook, slow.jobs, slow.measured = kept.outlook, kept.jobs, kept.measured
    slow._place_open, slow._defer_open = kept.place_open, kept.defer_open
    slow._place_due, slow._defer_due = kept.place_due, kept.defer_due
    slow._asked_at_s = dict(kept.asked_at_s)
    slow._defer_clock, slow._served = kept.defer_clock, dict(kept.served)
    slow._late, slow._said, slow._epoch = frozenset(kept.late), kept.said, kept.epoch
    slow._supply_kw = dict(kept.supply_kw)
    return d


def _belief(belief: Belief) -> BeliefState:
    return BeliefState(
        fleet=belief.fleet,
        policies=belief.policies,
        law_at_s=belief.law_at_s,
        placements=belief.placements,
        digests=belief.digests,
        sites={name: _site(site) for name, site in belief.sites.items()},
        offer_keys=tuple(belief.offer_keys),
        epoch=belief.epoch,
        version=belief.version,
        floors=belief.floors,
        placement_version=belief.placement_version,
    )


def _site(site: SiteBelief) -> SiteState:
    return SiteState(
        pue=site.pue,
        carbon_g_per_kwh=site.carbon_g_per_kwh,
        price_usd_per_kwh=site.price_usd_per_kwh,
        drained=site.drained,
        up=site.up,
        heard=site.heard_at_s > NEVER,
        table_version=site.table_version,
        shed_level=site.shed_level,
        placement_version=site.placement_version,
        serving=site.serving,
        failing=tuple(site.failing.items()),
        unheard=site.unheard,
        verdict=site.verdict,
        around=tuple(sorted(site.around)),
    )


def _slow(slow: SlowScope) -> SlowState:
    return SlowState(
        outlook=slow.outlook,
        jobs=slow.jobs,
        measured=slow.measured,
        place_open=slow._place_open,
        defer_open=slow._defer_open,
        place_due=slow._place_due,
        defer_due=slow._defer_due,
        asked_at_s=slow._asked_at_s,
        defer_clock=slow._defer_clock,
        served=tuple(slow._served.items()),
        late=tuple(sorted(slow._late)),
        said=slow._said,
        epoch=slow._epoch,
        supply_kw=dict(slow._supply_kw),
    )


def _believed(kept: BeliefState) -> Belief:
    return Belief(
        fleet=kept.fleet,
        policies=kept.policies,
        law=compile_law(kept.fleet, kept.policies, kept.law_at_s),
        law_at_s=kept.law_at_s,
        placements=kept.placements,
        digests=dict(kept.digests),
        sites={name: _site_belief(site) for name, site in kept.sites.items()},
        offer_keys=list(kept.offer_keys),
        epoch=kept.epoch,
        version=kept.version,
        floors=kept.floors,
        placement_version=kept.placement_version,
    )


def _site_belief(site: SiteState) -> SiteBelief:
    return SiteBelief(
        pue=site.pue,
        carbon_g_per_kwh=site.carbon_g_per_kwh,
        price_usd_per_kwh=site.price_usd_per_kwh,
        drained=site.drained,
        up=site.up,
        heard_at_s=HEARD_S if site.heard else NEVER,
        table_version=site.table_version,
        shed_level=site.shed_level,
        placement_version=site.placement_version,
        serving=site.serving,
        failing=dict(site.failing),
        around=frozenset(site.around),
        unheard=site.unheard,
        verdict=site.verdict,
    )

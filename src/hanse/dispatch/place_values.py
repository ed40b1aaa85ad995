"""The placement problem and its answer, as values that travel and are logged.

Here: `PlaceProblem` (all that a solve needs: nothing is looked up anywhere else), `PlaceAnswer`, `Violation`, `Explanation`. Not here:
how a problem comes of what a dispatcher believes (`place_problem`), solving (`place`), judging an answer (`place_check`).

Indices are positions in the problem's own tuples. USD are an hour's unless a name says otherwise; `high` is what nineteen of twenty
steps stay under and sizes capacity, means price energy.
"""

from __future__ import annotations

import hashlib
from typing import Literal

import msgspec

from hanse.model.fleet import Id, Placement, Value

ViolationKind = Literal["unlawful", "unserved", "late", "uncovered", "over_power"]


Cap = Literal["grid", "heat", "load target"]


class PlaceSite(Value, frozen=True, kw_only=True):
    """Power at one site over the window."""

    id: Id
    price_usd_per_kwh: float
    carbon_g_per_kwh: float
    pue: float
    own_kw: float = 0.0
    """Mean of own sun and wind beyond what others on the site draw."""
    own_kw_low: float = 0.0
    """The least of any step: what a cap may count on."""
    export_usd_per_kwh: float = 0.0
    """What own power earns elsewhere, so what using it costs."""
    grid_kw_max: float
    """Import left for the league."""
    usd_per_kw_peak: float = 0.0
    """What a kW of import beyond this month's highest costs, an hour's share of it."""
    peak_kw: float = 0.0
    """This month's highest import so far, less what others draw."""
    cap: Cap = "grid"
    """What its supply ends at: the connection, the plant that cools it, or a load target."""
    engines_max: int = 64
    """Replicas that its agent can watch."""
    hosts: bool = True
    """False: lost or drained, nothing may run there."""


class PlacePool(Value, frozen=True, kw_only=True):
    """Equal nodes at a site; a node is switched on and off as one."""

    id: Id
    site: int
    accelerator: str
    nodes: int
    chips: int
    """Of one node."""
    chips_count: int
    """Of all nodes: the last may be smaller."""
    memory_gb: float
    """Of one chip; 0: not known, and not limited."""
    node_on_w: float
    """Switched on, no model loaded: server and empty chips."""
    node_off_w: float
    """Switched off, its BMC awake."""
    wake_usd: float
    """Of switching one node on, once."""
    nodes_on: int
    """Now."""


class PlaceOffer(Value, frozen=True, kw_only=True):
    """One way to run a replica: a variant of a service on some chips of a pool."""

    service: int
    variant: Id
    pool: int
    quality: float
    chips: int
    memory_gb: float
    """Weights of a replica, beside what engines keep free."""
    slots: int
    context_tokens: int
    requests_per_s: float
    """Of the service's mean request, so that requests seldom wait and 95 of 100 keep the promise."""
    ttft_ms_p95: float
    e2e_s: float
    loaded_w: float
    """Of a replica that waits, above its chips' share of `PlacePool.node_on_w`."""
    wh_per_request: float
    """Above waiting; of the mean request, at the chips."""
    start_usd: float
    """Of loading one replica, once: its chips' power and rent while they serve nobody."""
    start_s: float
    replicas: int = 0
    """Now."""
    fixed: bool = False
    """Runs by itself (driver `external`), at a site that can be told nothing, or is tried on where some of it does not start: what is up can be counted on,
    none moved."""
    placed: Placement | None = None
    """What of it is in force, where it is fixed: an answer has it word for word."""
    late: bool = False
    """Keeps no promise, however near: what runs so goes on, and others come where nothing in the fleet is in time."""


class PlaceService(Value, frozen=True, kw_only=True):
    """Prices of one service's requests."""

    id: Id
    ttft_ms: float
    usd_per_latency_s: float
    uncovered_usd_per_request: float
    """Of a request of an hour that would find no replica after one failure; a failure is rare, so it is less than one not served."""


class PlaceDemand(Value, frozen=True, kw_only=True):
    """Requests of one service that enter at one gateway under one law."""

    service: int
    origin: int
    """Site whose users they are."""
    law: int
    """Index into `PlaceProblem.laws`."""
    quality_min: float
    requests_per_s: float
    """Mean of the window."""
    requests_per_s_high: float
    """Highest of the window's steps."""
    requests_per_s_kept: float
    """What has to survive a failure."""
    late_usd_per_request: float
    """Served lawfully, its first token after the promised time."""
    unserved_usd_per_request: float
    work: float = 1.0
    """Of a request, over the service's mean request."""
    gb_per_request: float = 0.0
    """Both ways, on the link between gateway and engine."""


class FailureSet(Value, frozen=True, kw_only=True):
    """Sites that fail together."""

    id: str
    sites: tuple[int, ...]


class PlaceProblem(Value, frozen=True, kw_only=True):
    """One placement to decide."""

    issued_at_s: float
    start_s: float
    window_s: float
    """How long the answer is to hold; what is paid once is spread over it."""
    usd_per_g: float
    """Carbon price."""
    over_usd_per_kwh: float
    """Price of a kW above a site's supply, for an hour."""
    sites: tuple[PlaceSite, ...]
    pools: tuple[PlacePool, ...]
    services: tuple[PlaceService, ...]
    offers: tuple[PlaceOffer, ...]
    demand: tuple[PlaceDemand, ...]
    laws: tuple[tuple[int, ...], ...]
    """Each: the sites where the data of some subjects may be read or executed, rising."""
    rtt_ms: tuple[tuple[float, ...], ...]
    """[site][site]."""
    usd_per_gb: tuple[tuple[float, ...], ...]
    """[site][site]."""
    gateways: tuple[bool, ...]
    """[site]: its gateway is up."""
    failures: tuple[FailureSet, ...]
    kept: tuple[Placement, ...] = ()
    """At sites that are not heard or drained, or of which nobody can tell what they serve: they stay as they are, and nothing counts on them."""

    def digest(self) -> str:
        """Names this problem and no other."""
        return hashlib.blake2b(msgspec.msgpack.encode(self), digest_size=16).hexdigest()


def room_chips(pool: PlacePool, chips: int) -> int:
    """Chips of a pool that a replica takes where whatever fits in sum shall fit on nodes: an equal share of a node, or just its own on one alone."""
    if pool.nodes <= 1:
        return chips
    return pool.chips // (pool.chips // chips) if chips <= pool.chips else pool.chips_count + 1


def with_what_runs(problem: PlaceProblem) -> PlaceProblem:
    """The problem with pools and sites that hold at least what runs there by itself.

    Whoever started an `external` engine may have put two on a chip, or more than an agent watches: that is not ours to undo, and no
    placement becomes impossible by it.
    """
    chips = [0] * len(problem.pools)
    memory_gb = [0.0] * len(problem.pools)
    engines = [0] * len(problem.sites)
    for offer in problem.offers:
        if offer.fixed:
            pool = problem.pools[offer.pool]
            chips[offer.pool] += room_chips(pool, offer.chips) * offer.replicas
            memory_gb[offer.pool] += offer.memory_gb * offer.replicas
            engines[pool.site] += offer.replicas
    pools = [_with_room(pool, chips[i], memory_gb[i]) for i, pool in enumerate(problem.pools)]
    sites = tuple(
        msgspec.structs.replace(site, engines_max=max(site.engines_max, engines[i]))
        for i, site in enumerate(problem.sites)
    )
    return msgspec.structs.replace(problem, pools=tuple(pools), sites=sites)


def _with_room(pool: PlacePool, chips: int, memory_gb: float) -> PlacePool:
    """A pool for at least so many chips and GB; where they are too many for its nodes, one node of them all."""
    if chips > pool.chips_count:
        pool = msgspec.structs.replace(
            pool,
            chips=chips,
            chips_count=chips,
            nodes=1,
            node_on_w=pool.node_on_w * pool.nodes,
            node_off_w=pool.node_off_w * pool.nodes,
            wake_usd=pool.wake_usd * pool.nodes,
            nodes_on=min(pool.nodes_on, 1),
        )
    least_gb = memory_gb / pool.chips_count if pool.memory_gb > 0.0 and memory_gb else 0.0
    return msgspec.structs.replace(pool, memory_gb=max(pool.memory_gb, least_gb))


class PlacedReplicas(Value, frozen=True, kw_only=True):
    """Replicas of one offer in the answer."""

    offer: int
    replicas: int
    standby: int
    """Of those, loaded for a failure or a peak: what is expected needs the others only."""
    starts: int
    stops: int


class PlacedPool(Value, frozen=True, kw_only=True):
    """A pool's nodes in the answer."""

    pool: int
    on: int
    off: int


class Flow(Value, frozen=True, kw_only=True):
    """Where demand is expected to be served."""

    demand: int
    offer: int
    share: float


class CostItems(Value, frozen=True, kw_only=True):
    """What an answer costs in an hour."""

    energy_usd: float
    demand_usd: float
    """Of peaks beyond the month's so far, an hour's share."""
    carbon_usd: float
    egress_usd: float
    waiting_usd: float
    """Of users: round trip and engine, at the service's value of a second, beyond the least that a lawful replica anywhere would let
    them wait."""
    switching_usd: float
    """Paid once, spread over the window."""
    late_usd: float
    unserved_usd: float
    uncovered_usd: float
    over_usd: float

    @property
    def usd(self) -> float:
        """All of it: what is minimised."""
        return float(sum(getattr(self, name) for name in self.__struct_fields__))

    @property
    def own_usd(self) -> float:
        """Without penalties."""
        penalties = self.late_usd + self.unserved_usd + self.uncovered_usd + self.over_usd
        return self.usd - penalties


class Violation(Value, frozen=True, kw_only=True):
    """A wish that the answer does not meet."""

    kind: ViolationKind
    what: str
    """Service, origin, site or failure, by name."""
    amount: float
    unit: str
    why: str
    cure: str


StoppedBy = Literal["gap", "nodes"]
"""What ended a search: what was asked for is proven, or the tree's limit."""


class PlaceAnswer(Value, frozen=True, kw_only=True):
    """What runs where, and what is proven of it."""

    problem: str
    """`PlaceProblem.digest()`."""
    placements: tuple[Placement, ...]
    replicas: tuple[PlacedReplicas, ...]
    pools: tuple[PlacedPool, ...]
    flows: tuple[Flow, ...]
    cost: CostItems
    g_per_h: float
    """gCO2e."""
    bound_usd: float
    """No placement costs less in an hour, however demand goes to replicas."""
    gap: float
    """(cost - bound) / cost, penalties included."""
    stopped_by: StoppedBy
    nodes: int
    clusters: int
    """Rows of demand that the search saw."""
    violated: tuple[Violation, ...]


class Explanation(Value, frozen=True, kw_only=True):
    """Why a service has what it has at a site, and what something else would cost."""

    service: Id
    site: Id
    replicas: int
    why: str
    instead: str
    """The next best, in words."""
    usd_more: float
    """An hour; found by a short search, so an upper limit of the difference. Below zero by at most the answer's own gap."""
    usd_more_min: float
    """Proven lower limit, from the relaxed problem; 0 where nothing is proven."""
    method: str

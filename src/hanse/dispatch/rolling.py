"""How a placement becomes another while requests flow: what a site may start, drain and stop next, and what it must keep.

Here: `Floor`; which engines stay, leave, or are missing (`sort_out`); the next steps at a site (`next_steps`); what the league keeps
while replicas move between sites (`league_floors`), and what a table lists meanwhile (`described`). Not here: the life of one engine
(`site_scope`), which placement is best (`place`).

The rule of a site. New engines start first, wherever chips allow. One that is placed no more gets no new requests once its
service has as many other replicas up as it is to have; it is stopped when its last request has ended, or after its drain limit.
Where a pool is full and a new engine waits for room, one old engine goes early and the new one comes up before the next goes:
a swap one by one. A floor of the league holds even then.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from math import inf
from typing import Final, Literal

from msgspec.structs import replace

from hanse.dispatch.belief import EngineBelief, EngineSpec, Floor, SiteBelief
from hanse.model.check import ENGINES_PER_SITE_MAX, within_limits
from hanse.model.fleet import Fleet, Kubernetes, Placement, Site, Value
from hanse.model.workloads import any_chips, workload_name

DRAIN_SLACK_S: Final = 5.0
"""Beyond a service's deadline, after which a gateway has ended every request: a clock and a tick apart."""

Recipe = tuple[object, ...]


class Step(Value, frozen=True, kw_only=True):
    """What to do with one engine."""

    kind: Literal["start", "drain", "stop"]
    engine: EngineSpec


def recipe(spec: EngineSpec) -> Recipe:
    """What a running engine cannot change: replicas of equal recipe are one as good as the other."""
    kind = (
        spec.service,
        spec.variant,
        spec.model,
        spec.precision,
        spec.served_names,
        spec.pool,
        spec.driver,
    )
    chips = spec.chips if spec.alone else 0
    if spec.driver == "external":  # started by others, as they see fit
        return (*kind, spec.url)
    if spec.driver == "kubernetes":
        return (*kind, "", chips)
    return (*kind, spec.slots, spec.context_tokens, spec.embedding, chips)


def chips_held(spec: EngineSpec) -> int:
    """Chips that nothing else can have while the engine is there; one that shares its pool holds one at least."""
    return spec.chips if spec.alone else 1


def serving_of(site: str, engines: Mapping[str, EngineBelief]) -> tuple[Placement, ...]:
    """Replicas that are up at a site, as placements; those that drain serve nobody new."""
    kinds = Counter(
        (s.service, s.variant, s.pool, s.slots, s.context_tokens, s.chips if s.alone else 0)
        for s in (engine.spec for engine in engines.values() if engine.state == "up")
    )
    return tuple(
        Placement(
            service=service, variant=variant, site=site, pool=pool, replicas=count, slots=slots, context_tokens=context,
            chips=chips or None,
        )
        for (service, variant, pool, slots, context, chips), count in sorted(kinds.items())
    )  # fmt: skip


def sort_out(
    engines: Mapping[str, EngineBelief], wanted: Sequence[EngineSpec]
) -> tuple[set[str], list[EngineSpec]]:
    """Names of engines that stay, and what is missing, in the order of placements."""
    at_hand: dict[Recipe, list[str]] = {}
    for name in sorted(engines, key=lambda name: _worth(engines[name])):
        at_hand.setdefault(recipe(engines[name].spec), []).append(name)
    stay: set[str] = set()
    missing = []
    for spec in wanted:
        alike = at_hand.get(recipe(spec), [])
        if alike:
            stay.add(alike.pop(0))
        else:
            missing.append(spec)
    return stay, missing


def _worth(engine: EngineBelief) -> tuple[int, int, int]:
    """Low: the one to keep. A workload of Kubernetes is cut from its end, whatever runs there."""
    if engine.spec.driver == "kubernetes":
        return 0, 0, number_of(engine.spec)
    states = ("up", "draining", "starting", "resting", "dead")
    return int(engine.leaving), states.index(engine.state), number_of(engine.spec)


def next_steps(
    site: Site,
    engines: Mapping[str, EngineBelief],
    wanted: Sequence[EngineSpec],
    floors: Mapping[str, int],
    now_s: float,
    drain_s: Mapping[str, float],
) -> list[Step]:
    """What to do now. Engines that leave are marked so already; what is to be started has no name of its own yet.

    Args:
        floors: Service -> replicas that stay up in any case.
        drain_s: Service -> how long a request may still run at a draining engine.
    """
    _, missing = sort_out({n: e for n, e in engines.items() if not e.leaving}, wanted)
    ends = [step for e in engines.values() if e.leaving for step in _farewell(e, now_s, drain_s)]
    steps = _from_the_end(site, engines, ends)
    gone = {step.engine.name for step in steps}
    held = {step.engine.name for step in ends} - gone
    left = {name: engine for name, engine in engines.items() if name not in gone}
    free = _free(site, left)
    rows = ENGINES_PER_SITE_MAX - len(left)
    blocked: list[EngineSpec] = []
    for spec in missing:
        need = chips_held(spec)
        waits_for_url = any(e.spec.url == spec.url for e in left.values() if spec.url)
        # First come first served: a large engine would wait for ever if small ones went round it.
        behind = any(other.pool == spec.pool for other in blocked)
        if need <= free[spec.pool] and rows > 0 and not waits_for_url and not behind:
            free[spec.pool] -= need
            rows -= 1
            steps.append(Step(kind="start", engine=spec))
        else:
            blocked.append(spec)
    # Not on its way is who waits for another to go first: that other is, or is to be sent.
    moving = {e.spec.pool for name, e in left.items() if _on_its_way(e) and name not in held}
    drains = _drains(left, wanted, floors, blocked, moving)
    moving |= {step.engine.pool for step in drains}
    return steps + _round(blocked, left, moving, free, rows) + drains


def _round(
    blocked: Sequence[EngineSpec],
    engines: Mapping[str, EngineBelief],
    moving: set[str],
    free: Counter[str],
    rows: int,
) -> list[Step]:
    """Small engines that go round a large one after all: where nothing will make room for it, they may be what its room waits for."""
    steps: list[Step] = []
    for spec in blocked:
        waits_for_url = any(e.spec.url == spec.url for e in engines.values() if spec.url)
        if spec.pool in moving or waits_for_url or chips_held(spec) > free[spec.pool]:
            continue
        if len(steps) < rows:
            free[spec.pool] -= chips_held(spec)
            steps.append(Step(kind="start", engine=spec))
    return steps


def _farewell(engine: EngineBelief, now_s: float, drain_s: Mapping[str, float]) -> Iterator[Step]:
    """The end of an engine that leaves, where nothing has to be waited for any more."""
    if engine.state == "draining":
        over = now_s - engine.since_s >= drain_s.get(engine.spec.service, 0.0)
        ends = over or engine.emptied
    else:
        ends = engine.state != "up" and not (engine.state == "starting" and engine.adopted)
    if ends:
        yield Step(kind="stop", engine=engine.spec)


def _from_the_end(site: Site, engines: Mapping[str, EngineBelief], ends: list[Step]) -> list[Step]:
    """Without those that another one of their LeaderWorkerSet has to go before: of one less, it ends its last group, at work or not."""
    sets = {p.id for p in site.pools if p.kubernetes and p.kubernetes.kind == "LeaderWorkerSet"}
    ending = {step.engine.name for step in ends}
    there = [
        e.spec
        for name, e in engines.items()
        if e.leaving and e.spec.pool in sets and name not in ending
    ]
    return [
        step
        for step in ends
        if not any(
            one_workload(spec, step.engine) and number_of(spec) > number_of(step.engine)
            for spec in there
        )
    ]


def one_workload(a: EngineSpec, b: EngineSpec) -> bool:
    """Whether both are replicas of one workload of Kubernetes."""
    one, other = ((e.pool, e.service, e.variant, e.chips if e.alone else 0) for e in (a, b))
    return one == other and a.driver == b.driver == "kubernetes"


def number_of(spec: EngineSpec) -> int:
    """Of its variant's engines at the site."""
    return int(spec.name.rpartition("-")[2])


def _free(site: Site, engines: Mapping[str, EngineBelief]) -> Counter[str]:
    free = Counter({pool.id: pool.count for pool in site.pools})
    for engine in engines.values():
        free[engine.spec.pool] -= chips_held(engine.spec)
    return free


def _drains(
    engines: Mapping[str, EngineBelief],
    wanted: Sequence[EngineSpec],
    floors: Mapping[str, int],
    blocked: Sequence[EngineSpec],
    moving: set[str],
) -> list[Step]:
    """Which of the engines that leave get no new requests from now on."""
    to_have = Counter(spec.service for spec in wanted)
    up = Counter(e.spec.service for e in engines.values() if e.state == "up")
    leaving = [e for e in engines.values() if e.leaving and e.state == "up"]
    steps = []
    for engine in sorted(leaving, key=_leaves_first):
        service = engine.spec.service
        if up[service] - 1 >= max(to_have[service], floors.get(service, 0)):
            up[service] -= 1
            steps.append(Step(kind="drain", engine=engine.spec))
    drained = {step.engine.name for step in steps}
    for pool in dict.fromkeys(spec.pool for spec in blocked):
        here = [e for e in engines.values() if e.spec.pool == pool]
        if pool in moving or any(e.spec.name in drained for e in here):
            continue
        able = [
            e for e in here if e in leaving and up[e.spec.service] > floors.get(e.spec.service, 0)
        ]
        if able:
            # The service that has most left gives first.
            first = min(able, key=lambda e: (-up[e.spec.service], _leaves_first(e)))
            up[first.spec.service] -= 1
            steps.append(Step(kind="drain", engine=first.spec))
    return steps


def _on_its_way(engine: EngineBelief) -> bool:
    """An engine after which there may be room, or on which a swap still waits."""
    if engine.leaving:
        return engine.state != "up"
    return engine.state in ("starting", "dead")


def _leaves_first(engine: EngineBelief) -> tuple[str, str, int]:
    """The highest number of a variant goes first."""
    spec = engine.spec
    return spec.service, spec.variant, -number_of(spec)


# --- over the league


def routable(
    placements: Sequence[Placement], sites: Mapping[str, SiteBelief]
) -> tuple[Placement, ...]:
    """What is up somewhere although it is placed there no more: a table lists it until it is gone."""
    placed = {(p.site, p.service, p.variant) for p in placements}
    return tuple(
        serving
        for name in sorted(sites)
        for serving in sites[name].serving
        if (serving.site, serving.service, serving.variant) not in placed
    )


def described(
    placements: Sequence[Placement], sites: Mapping[str, SiteBelief]
) -> tuple[Placement, ...]:
    """What a table describes: of each site, service and variant the replicas that are placed there, or those that are up while they are of
    other kinds (more chips, other slots), and `routable` ones.
    """
    placed: dict[tuple[str, str, str], list[Placement]] = {}
    for p in placements:
        placed.setdefault((p.site, p.service, p.variant), []).append(p)
    found: list[Placement] = []
    for (site, service, variant), mine in placed.items():
        known = sites[site].serving if site in sites else ()
        up = [p for p in known if (p.service, p.variant) == (service, variant)]
        other = up and {_kind(p) for p in up} != {_kind(p) for p in mine}
        found += up if other else mine
    return (*found, *routable(placements, sites))


def league_floors(
    fleet: Fleet, placements: Sequence[Placement], sites: Mapping[str, SiteBelief]
) -> tuple[Floor, ...]:
    """What sites keep up that are to lose replicas, until as many requests find room where they are to be.

    Counted are slots, not replicas: one large replica takes the place of several small ones. A floor is in replicas all the same, and as many as
    hold what is needed even where the site lets its largest go first.

    A site that waits for room waits for another site's floor, and that may wait for it in turn. So where nothing can start
    or go anywhere, one floor gives way, by one replica: of the service that loses the least share of its slots. Full sites change one after
    the other, each when the one before is up again; the last replica of a service goes only where every other choice is one, too.
    """
    # A site that is silent may serve on, and then keeps what is asked of it; others do not lean on it. What drains serves nobody new.
    there_now = [site for site in sites.values() if (site.up or site.apart) and not site.drained]
    up = _by_service(p for site in there_now for p in site.serving)
    heard = _by_service(p for site in there_now if site.up for p in site.serving)
    placements = [p for p in placements if _counts(p, sites[p.site])]
    wanted = _by_service(placements)
    free = _league_room(fleet, sites)
    floors: list[Floor] = []
    lost: list[float] = []
    """[floor] share of its service's slots that goes with one replica more."""
    moves = False
    for service in sorted(up):
        to_be, there = wanted.get(service, Counter()), up[service]
        alike = to_be & there
        sure = _slots(alike & heard.get(service, Counter()))
        short = min(_slots(to_be), _slots(there)) - sure
        stay: Counter[str] = Counter()
        keep: Counter[str] = Counter()
        for kind in sorted(there):
            stay[kind[0]] += alike[kind]
        over = there - to_be
        for site in sorted({kind[0] for kind in over}, key=lambda s: (not sites[s].up, s)):
            leaving = sorted(k[3] for k in over.elements() if k[0] == site)
            while short > 0 and keep[site] < len(leaving):
                short -= leaving[keep[site]]
                keep[site] += 1
            moves = moves or (sites[site].up and len(leaving) > keep[site])
        for site in sorted(site for site in keep if keep[site] > 0):
            floors.append(Floor(site=site, service=service, replicas_min=stay[site] + keep[site]))
            largest = max(k[3] for k in over if k[0] == site)
            # What a silent site has may not be there: nothing gives way that may be all there is, and no floor there that nobody hears of.
            kept = sites[site].up and sure == _slots(alike)
            lost.append(largest / _slots(there) if kept else inf)
    for p in placements:
        if sites[p.site].apart:
            continue
        if heard.get(p.service, Counter())[_kind(p)] < wanted[p.service][_kind(p)]:
            moves = moves or free.get((p.site, p.pool), 0) >= (p.chips or 1)
            # To be placed elsewhere: nothing goes for its sake.
            moves = moves or bool(sites[p.site].failing)
    return tuple(floors if moves else _giving_way(floors, lost))


def _counts(p: Placement, site: SiteBelief) -> bool:
    """Whether anybody may wait for a replica: not where its site is drained or dead, nor where it does not start and others were placed beside it."""
    if not site.hosts:
        return False
    key = p.service, p.variant, p.pool
    return not (key in site.around and key in site.failing)


def _giving_way(floors: list[Floor], lost: Sequence[float]) -> list[Floor]:
    """One replica less of one of them; of equals the first."""
    least = min(range(len(floors)), key=lambda i: lost[i], default=-1)
    if least < 0 or lost[least] == inf:
        return floors
    one = floors[least]
    less = replace(one, replicas_min=one.replicas_min - 1)
    return [*floors[:least], *([less] if less.replicas_min else []), *floors[least + 1 :]]


_Kind = tuple[str, str, str, int, int, int]


def _kind(p: Placement) -> _Kind:
    """A site's replicas of one kind are alike; another kind in the same place has to be started anew."""
    return p.site, p.variant, p.pool, p.slots, p.context_tokens, p.chips or 0


def _slots(kinds: Counter[_Kind]) -> int:
    """Requests that find room in some replicas at once."""
    return sum(count * kind[3] for kind, count in kinds.items())


def _by_service(
    placements: Sequence[Placement] | Iterator[Placement],
) -> dict[str, Counter[_Kind]]:
    """Service -> kind -> replicas."""
    found: dict[str, Counter[_Kind]] = {}
    for p in placements:
        found.setdefault(p.service, Counter())[_kind(p)] += p.replicas
    return found


def _league_room(fleet: Fleet, sites: Mapping[str, SiteBelief]) -> dict[tuple[str, str], int]:
    free = {(site.id, pool.id): pool.count for site in fleet.sites for pool in site.pools}
    for belief in sites.values():
        for p in belief.serving:
            if (p.site, p.pool) in free:
                free[p.site, p.pool] -= p.replicas * (p.chips or 1)
    return free


# --- what can be carried out at all


def placement_problem(fleet: Fleet, site: Site, placements: Sequence[Placement]) -> str:
    """Why a site cannot run what is placed there; empty: it can."""
    pools = {pool.id: pool for pool in site.pools}
    variants = {(q.id, v.id) for q in fleet.services for v in q.variants}
    held: Counter[str] = Counter()
    rows = 0
    for p in (p for p in placements if p.site == site.id):
        if p.pool not in pools or (p.service, p.variant) not in variants:
            return f"no pool {p.pool!r}, or no variant {p.service}/{p.variant}"
        pool = pools[p.pool]
        held[p.pool] += p.replicas * (p.chips or 1)
        rows += p.replicas
        # Whoever started engines by hand may have put two on a chip.
        if held[p.pool] > pool.count and pool.driver != "external":
            return f"pool {p.pool!r} has {pool.count} chips, placed are {held[p.pool]}"
        replicas = sum(o.replicas for o in placements if (o.site, o.pool) == (site.id, p.pool))
        if pool.urls and replicas > len(pool.urls):
            return f"pool {p.pool!r} names {len(pool.urls)} engines, placed are {replicas}"
        if pool.driver == "kubernetes":
            if pool.kubernetes is None:
                return f"pool {p.pool!r} names no workload of Kubernetes"
            known = pool.kubernetes
            if p.chips not in (None, known.chips) and not any_chips(known):
                return f"a replica of workload {known.name!r} has {known.chips} chips, placed are {p.chips}: set its `chips`, or put {{chips}} into its name"
            name = _workload(known, p)
            for o in placements:
                other = (o.site, o.pool) == (site.id, p.pool) and _workload(
                    pool.kubernetes, o
                ) == name
                if other and (o.service, o.variant) != (p.service, p.variant):
                    return f"{p.service}/{p.variant} and {o.service}/{o.variant} are both workload {name!r}"
    return (
        f"{rows} engines, a site has rows for {ENGINES_PER_SITE_MAX}"
        if rows > ENGINES_PER_SITE_MAX
        else ""
    )


def _workload(known: Kubernetes, p: Placement) -> str:
    return workload_name(known, p.service, p.variant, p.chips or known.chips)


def league_problem(fleet: Fleet, placements: Sequence[Placement]) -> str:
    """The first site that cannot run what is placed there; empty: all can."""
    sites = {site.id: site for site in fleet.sites}
    lost = [p.site for p in placements if p.site not in sites]
    if lost:
        return f"no site {lost[0]!r}"
    for name in dict.fromkeys(p.site for p in placements):
        problem = placement_problem(fleet, sites[name], placements)
        if problem:
            return f"{name}: {problem}"
    return ""


def carried_over(
    old: Fleet, in_force: tuple[Placement, ...], new: Fleet
) -> tuple[Placement, ...] | None:
    """The placement to go on with when a fleet file takes another's place; None: the new file's own.

    Where the old file's own was in force, or the operator has placed anything anew at a site that stays, or wants no controller to place any
    more, the new file's holds. Else
    what was decided since goes on, as far as sites still have it, and sites that are new begin with what the file places there.
    """
    before = {site.id for site in old.sites}
    after = {site.id for site in new.sites}

    def of(placements: Sequence[Placement], sites: set[str]) -> set[Placement]:
        return {p for p in placements if p.site in sites}

    stay = before & after
    if old.slow_loop.places and not new.slow_loop.places:
        return None
    if in_force == old.placements or of(old.placements, stay) != of(new.placements, stay):
        return None
    kept = tuple(p for p in in_force if p.site in stay)
    kept += tuple(p for p in new.placements if p.site in after - before)
    return None if league_problem(new, kept) else kept


PLACEMENTS_MAX = 1024
"""Of one site's report; a site has 64 offers at most, and a few sizes of each while they change."""


def known_placements(
    fleet: Fleet, site_id: str, placements: Sequence[Placement]
) -> tuple[Placement, ...]:
    """Those of a site whose pool and variant the fleet has (a report may be of an older fleet file), as large as any may be."""
    pools = {pool.id for site in fleet.sites if site.id == site_id for pool in site.pools}
    variants = {(q.id, v.id) for q in fleet.services for v in q.variants}
    return tuple(
        p
        for p in placements
        if p.site == site_id and p.pool in pools and (p.service, p.variant) in variants
        if within_limits(p)
    )[:PLACEMENTS_MAX]

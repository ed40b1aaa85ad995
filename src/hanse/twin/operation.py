"""The slow loop of a simulated fleet: demand is counted, outlooks are issued, placements are solved and carried out while requests flow.

Here: `Operation`, what a run is given for it; `Operator`, the shell around the fleet's Dispatcher; `room_of`, every engine that could
ever be. Not here: any decision (`dispatch.slow`, `dispatch.place`), what a site does with a placement (`keeper`), forecasts (given as
a function: the live controller's, or the truth for comparison).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from hanse.catalogue import accelerator
from hanse.dispatch import actions as act
from hanse.dispatch import events as ev
from hanse.dispatch.belief import all_engines
from hanse.dispatch.place import solve
from hanse.dispatch.place_offers import COUNTS, NODE_CHIPS, stepped
from hanse.dispatch.place_values import PlaceAnswer
from hanse.model.fleet import Fleet, Placement, Value, Variant
from hanse.serving.within_slo import SLOTS_MAX, rated
from hanse.signals.demand_counts import DemandCount, DemandCounts, DemandKey
from hanse.signals.outlook import Outlook

if TYPE_CHECKING:
    from hanse.twin.simulate import Simulation

Foresee = Callable[[float, DemandCounts], Outlook]
"""What is expected at an instant (Unix seconds), from what was counted by then."""

SOLVE_S: Final = 1.0
"""From a question to its answer; 20 sites and 10 services take less than 2 s of one core."""
REPORT_S: Final = 0.5
"""An agent reports twice a second."""
TOKENS_TYPICAL: Final = (512.0, 256.0)
"""Of a request, where only the order of what fits is asked for."""


class Operation(Value, frozen=True, kw_only=True):
    """A run in which placements change."""

    foresee: Any
    """`Foresee`."""
    every_s: float
    """Between two outlooks."""


class Operator:
    """Events of the slow loop into the Dispatcher, its actions back to the fleet."""

    def __init__(self, simulation: Simulation, operation: Operation) -> None:
        self._sim = simulation
        self._operation = operation
        fleet = simulation.fleet
        self.history = DemandCounts(bin_s=fleet.slow_loop.demand_bin_s)
        self.answers: list[tuple[float, PlaceAnswer]] = []
        """(instant, answer) as they were applied or refused."""
        self._reported: dict[str, tuple[Placement, ...]] = {}
        self._decided: ev.PlacementDecided | None = None

    def begin(self, now_s: float) -> None:
        """All agents are there; engines that are not placed are down."""
        sim = self._sim
        for site in sim.fleet.sites:
            sim.keeper(site.id, now_s)
        used = {e for keeper in sim.keepers() for e in keeper.berths_used()}
        for e in range(len(sim.berths.specs)):
            if e not in used:
                sim.take_down(e, now_s)
        sim.grant(1)
        for site in sim.fleet.sites:
            self._report(site.id, now_s)
        self._look(now_s)

    def count(self, requests: Any) -> None:
        """Requests of a chunk, as their gateways will have counted them; nothing is told before its bin is over."""
        sim = self._sim
        world, meta, fleet = sim.world, sim.trace.meta, sim.fleet
        bin_s = self.history.bin_s
        bins = ((sim.start_at_s + requests["at_s"]) // bin_s).astype(np.int64)
        columns = [bins, requests["service"], requests["cls"], requests["tenant"]]
        columns.append(requests["origin"])
        keys, inverse = np.unique(np.stack(columns), axis=1, return_inverse=True)
        inverse = inverse.ravel()
        sums = [np.bincount(inverse)]
        sums += [np.bincount(inverse, requests[name]) for name in ("tokens_in", "tokens_out")]
        for i, (number, q, c, t, r) in enumerate(keys.T.tolist()):
            q, c = max(q, 0), max(c, 0)  # a trace that names none, as the loop takes it
            subject = int(world.subject_of[t + 1, world.class_of[c], max(r, 0)])
            entry = int(world.entry[max(r, 0), subject, 0]) if subject > 0 else -1
            if entry < 0:
                continue  # law lets nobody read it: no placement could serve it
            data_class = fleet.classes[int(world.class_of[c])].id
            country = meta.origins[r].country if meta.origins else ""
            tenant, country = _speaks(fleet, meta.tenants[t] if t >= 0 else "", data_class, country)
            key = DemandKey(
                service=fleet.services[int(world.service_of[q])].id,
                tenant=tenant,
                data_class=data_class,
                country=country,
                origin=fleet.sites[entry].id,
            )
            counted = DemandCount(
                key=key,
                requests=float(sums[0][i]),
                tokens_in=float(sums[1][i]),
                tokens_out=float(sums[2][i]),
            )
            self.history.add(number * bin_s, (counted,))

    def carry_out(self, actions: list[act.Action], now_s: float) -> None:
        """What the Dispatcher asks for beside tables."""
        sim = self._sim
        for action in actions:
            if isinstance(action, act.SendPlacement):
                decided = ev.event_from_bytes(action.content)
                assert isinstance(decided, ev.PlacementDecided)
                sim.send(now_s, lambda at_s, decided=decided: self._reach(decided, at_s))  # type: ignore[misc]
            elif isinstance(action, act.SolvePlacement):
                answer = solve(action.problem)
                sim.at(now_s + SOLVE_S, lambda at_s, answer=answer: self._answer(answer, at_s))  # type: ignore[misc]
            elif isinstance(action, act.Log):
                sim.log.append((now_s, action.text))

    def changed(self, site: str, now_s: float) -> None:
        """A site's agent looked at its engines: what it has up is told with its next report."""
        serving = self._sim.keeper(site, now_s).serving()
        if serving != self._reported.get(site):
            self._sim.at(now_s + REPORT_S, lambda at_s: self._report(site, at_s))

    def _look(self, now_s: float) -> None:
        sim = self._sim
        if now_s < sim.duration_s:
            outlook = self._operation.foresee(sim.start_at_s + now_s, self.history)
            sim.tell_fleet(ev.OutlookIssued(at_s=sim.start_at_s + now_s, outlook=outlook), now_s)
        sim.tick(now_s)
        if now_s < sim.duration_s:
            sim.at(now_s + self._operation.every_s, self._look)

    def _answer(self, answer: PlaceAnswer, now_s: float) -> None:
        self.answers.append((now_s, answer))
        event = ev.PlacementSolved(at_s=self._sim.start_at_s + now_s, answer=answer)
        self._sim.tell_fleet(event, now_s)
        self._sim.tick(now_s)

    def heard_again(self, now_s: float) -> None:
        """A site or the hub is back: the newest placement is in the stream, as it is live. Sites that know it do nothing."""
        if self._decided is not None:
            self._sim.send(now_s, lambda at_s: self._reach(self._newest(), at_s))

    def _newest(self) -> ev.PlacementDecided:
        assert self._decided is not None
        return self._decided

    def _reach(self, decided: ev.PlacementDecided, now_s: float) -> None:
        self._decided = decided
        for site in self._sim.fleet.sites:
            if self._sim.hears_hub(site.id):
                self._sim.keeper(site.id, now_s).place(decided, self._sim.handle, now_s)
                self._sim.keep(site.id, now_s)

    def _report(self, site: str, now_s: float) -> None:
        sim = self._sim
        if not sim.hears_hub(site):
            return
        serving = sim.keeper(site, now_s).serving()
        self._reported[site] = serving
        sim.tell_fleet(
            ev.SiteHeard(
                at_s=sim.start_at_s + now_s, site=site, epoch=1, table_version=0, serving=serving
            ),
            now_s,
        )
        sim.tick(now_s)


def room_of(fleet: Fleet) -> tuple[Placement, ...]:
    """Every replica that could stand somewhere: each variant, on each number of chips that holds it, and on what the file places it."""
    placed: dict[tuple[str, str, str, str, int], int] = {}
    for spec in all_engines(fleet, fleet.placements):
        key = spec.site, spec.pool, spec.service, spec.variant, spec.chips
        placed[key] = placed.get(key, 0) + 1
    room = []
    for site in fleet.sites:
        for pool in site.pools:
            counts = [c for c in COUNTS if c <= min(pool.count, NODE_CHIPS)]
            for service in fleet.services:
                for variant in service.variants:
                    kind = site.id, pool.id, service.id, variant.id
                    able = {c for c in counts if _fits(variant, pool.accelerator, c)}
                    able |= {c for *of, c in placed if tuple(of) == kind}
                    for chips in sorted(able):
                        count = max(pool.count // chips, placed.get((*kind, chips), 0))
                        room.append(_room(kind, chips, count))
    return tuple(room)


def _room(kind: tuple[str, str, str, str], chips: int, replicas: int) -> Placement:
    site, pool, service, variant = kind
    return Placement(
        service=service,
        variant=variant,
        site=site,
        pool=pool,
        replicas=replicas,
        slots=SLOTS_MAX,
        context_tokens=1_000_000,
        chips=chips,
    )


def _fits(variant: Variant, chip: str, chips: int) -> bool:
    """Whether a replica fits into memory; promises depend on requests to come."""
    tokens = (stepped(TOKENS_TYPICAL[0]), stepped(TOKENS_TYPICAL[1]))
    found = rated(variant.model, variant.precision, accelerator(chip).id, chips, *tokens, 1e9, 1e6)
    return found is not None


def _speaks(fleet: Fleet, tenant: str, data_class: str, country: str) -> tuple[str, str]:
    """Who sends it, and for which country: as `world.subject_numbers` says."""
    for one in fleet.tenants:
        if tenant in ("", one.id) and data_class in one.classes:
            countries = [c for key in one.keys for c in key.countries]
            return one.id, country if country in countries else countries[0]
    return tenant, country

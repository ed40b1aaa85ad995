"""The slow loop of a simulated fleet: demand is counted, outlooks are issued, placements are solved and carried out while requests flow.

Here: `Operation`, what a run is given for it; `Operator`, the shell around the fleet's Dispatcher; `room_of`, every engine that could
ever be. Not here: any decision (`dispatch.slow`, `dispatch.place`, `dispatch.defer`; for comparison `scaling`), what a site does with a
placement (`keeper`), jobs (`yard`), servers (`nodes`), forecasts (given as a function: the live controller's, or the truth).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import inf
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from hanse.catalogue import accelerator
from hanse.dispatch import actions as act
from hanse.dispatch import events as ev
from hanse.dispatch.belief import EngineSpec, FailingKey, all_engines
from hanse.dispatch.defer import DeferSolver
from hanse.dispatch.defer_build import Measured
from hanse.dispatch.defer_problem import DeferAnswer, DeferProblem
from hanse.dispatch.failing import Failures
from hanse.dispatch.follow import BatteryPlan, battery_plan_of
from hanse.dispatch.place import solve
from hanse.dispatch.place_offers import COUNTS, NODE_CHIPS, stepped
from hanse.dispatch.place_values import PlaceAnswer
from hanse.dispatch.shed import UNSHED_SHARE
from hanse.energy.limits import cooled_share
from hanse.milp import Limits
from hanse.model.fleet import Fleet, Placement, Value, Variant
from hanse.model.job import Job
from hanse.serving.within_slo import SLOTS_MAX, rated
from hanse.signals.demand_counts import DemandCount, DemandCounts, DemandKey
from hanse.signals.outlook import Outlook
from hanse.twin.arrays import AT_ENGINE
from hanse.twin.nodes import Nodes, PoolKey
from hanse.twin.power import STEP_S, Beside
from hanse.twin.scaling import EVERY_S, Autoscaler
from hanse.twin.yard import Yard
from hanse.units import SECONDS_PER_HOUR, hours_from_s

if TYPE_CHECKING:
    from hanse.twin.simulate import Simulation

Foresee = Callable[[float, DemandCounts], Outlook]
"""What is expected at an instant (Unix seconds), from what was counted by then."""

SOLVE_S: Final = 1.0
"""From a question to its answer; 20 sites take 0.3 s of one core with 2 services, 1.5 to 5 s with ten."""
REPORT_S: Final = 0.5
"""An agent reports twice a second."""
TOKENS_TYPICAL: Final = (512.0, 256.0)
"""Of a request, where only the order of what fits is asked for."""


class Operation(Value, frozen=True, kw_only=True):
    """A run in which placements change, or jobs run beside requests."""

    rule: Literal["slow_loop", "autoscaler", "fixed"] = "slow_loop"
    """Who decides: the fleet's Dispatcher; every site for itself by the use of its slots; nobody, so that the fleet file's placements
    hold. Only the slow loop plans batteries and when jobs run; else batteries take surplus, and jobs begin as soon as they can."""
    foresee: Any = None
    """`Foresee`, for the slow loop."""
    every_s: float = SECONDS_PER_HOUR
    """Between two outlooks."""
    slots_target: float = 0.7
    """Share of slots that the autoscaler aims at: 50 to 80 % are usual."""
    jobs: tuple[Job, ...] = ()
    """Deferrable work, on the run's clock in Unix seconds."""
    place_limits: Limits | None = None
    """Of a placement's search; None: as live. A year of hourly questions may want a wider gap; it is in every answer."""
    powers_down: bool = True
    """Servers that hold nothing are switched off, and take `place_problem.WAKE_S` to come back."""


class Operator:
    """Events of the slow loop into the Dispatcher, its actions back to the fleet."""

    def __init__(self, simulation: Simulation, operation: Operation) -> None:
        self._sim = simulation
        self._operation = operation
        fleet = simulation.fleet
        self._plans_ahead = operation.rule == "slow_loop"
        self.yard = Yard(fleet, operation.jobs, at_once=not self._plans_ahead)
        self._nodes = Nodes(fleet, powers_down=operation.powers_down)
        self._counts = {(s.id, p.id): p.count for s in fleet.sites for p in s.pools}
        self._scaler: Autoscaler | None = None
        self._schedule: DeferProblem | None = None
        """The question that is open, for its answer."""
        self._batteries: tuple[BatteryPlan | None, ...] = ()
        self._solver = DeferSolver()
        self.engine_chip_h = self.powered_chip_h = 0.0
        """Chip hours that engines held, and that servers were on."""
        self.history = DemandCounts(bin_s=fleet.slow_loop.demand_bin_s)
        self.answers: list[tuple[float, PlaceAnswer]] = []
        """(instant, answer) as they were applied or refused."""
        self._reported: dict[str, tuple[tuple[Placement, ...], dict[FailingKey, str]]] = {}
        self._failures = Failures()
        self._looks_again: dict[str, float] = {}
        """By site: when a failure may be over."""
        self._decided: ev.PlacementDecided | None = None

    def begin(self, now_s: float) -> None:
        """All agents are there; engines that are not placed are down."""
        sim = self._sim
        for site in sim.fleet.sites:
            sim.keeper(site.id, now_s).wakes = self._wakes
        for key, chips in self._engine_chips().items():
            self._nodes.ready_s(key, 0, chips, float("-inf"))
        used = {e for keeper in sim.keepers() for e in keeper.berths_used()}
        for e in range(len(sim.berths.specs)):
            if e not in used:
                sim.take_down(e, now_s)
        sim.grant(1)
        for site in sim.fleet.sites:
            self._report(site.id, now_s)
        if self._operation.rule == "autoscaler":
            self._scaler = Autoscaler(sim.fleet, self._operation.slots_target)
            sim.at(now_s + EVERY_S, self._scale)
        elif self._plans_ahead:
            self._look(now_s)

    def count(self, requests: Any) -> None:
        """Requests of a chunk, as their gateways will have counted them; nothing is told before its bin is over."""
        sim = self._sim
        world, meta, fleet = sim.world, sim.trace.meta, sim.fleet
        bin_s = self.history.bin_s
        bins = ((sim.start_at_s + requests["at_s"]) // bin_s).astype(np.int64)
        columns = [bins, requests["service"], requests["cls"], requests["tenant"]]
        columns.append(requests["origin"])
        keys, inverse = _kinds(np.stack(columns))
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
                answer = solve(action.problem, self._operation.place_limits)
                sim.at(now_s + SOLVE_S, lambda at_s, answer=answer: self._answer(answer, at_s))  # type: ignore[misc]
            elif isinstance(action, act.SolveSchedule):
                self._schedule = action.problem
                plan = self._solver.solve(action.problem)
                sim.at(now_s + SOLVE_S, lambda at_s, plan=plan: self._planned(plan, at_s))  # type: ignore[misc]
            elif isinstance(action, act.SendSchedule):
                self._follow(action.answer)
            elif isinstance(action, act.Log):
                sim.log.append((now_s, action.text))

    def changed(self, site: str, now_s: float) -> None:
        """A site's agent looked at its engines: what it has up is told with its next report."""
        keeper = self._sim.keeper(site, now_s)
        told = keeper.serving(), keeper.failing()
        if told != self._reported.get(site):
            self._sim.at(now_s + REPORT_S, lambda at_s: self._report(site, at_s))

    # --- jobs, batteries, servers

    def beside(self, now_s: float) -> Beside:
        """What happened beside requests in the step that ends."""
        self.yard.advance(self._sim.start_at_s + now_s)
        used = self._engine_chips()
        self.engine_chip_h += hours_from_s(STEP_S * sum(used.values()))
        for key, chips in self.yard.chips().items():
            used[key] = used.get(key, 0) + chips
        idle_w = self._nodes.step_w(used, now_s)
        self.powered_chip_h += hours_from_s(STEP_S * self._nodes.on())
        return Beside(
            idle_w=idle_w,
            deferrable_j=self.yard.take_j(),
            plans=self._batteries,
        )

    def look_after_jobs(self, now_s: float) -> None:
        """Chips and power that requests leave go to jobs, and come back when requests need them."""
        sim = self._sim
        at_s = sim.start_at_s + now_s
        self.yard.advance(at_s)
        used = self._engine_chips()
        free = {key: max(0, count - used.get(key, 0)) for key, count in self._counts.items()}
        before = self.yard.chips()
        self.yard.decide(at_s, free, self._kw_for_jobs(used, free))
        for key, chips in self.yard.chips().items():
            if chips > before.get(key, 0):
                self._nodes.ready_s(key, used.get(key, 0), chips, now_s)

    def close(self, now_s: float) -> None:
        """The run is over."""
        self.yard.close(self._sim.start_at_s + now_s)

    def _engine_chips(self) -> dict[PoolKey, int]:
        """Chips that engines hold, loading and draining ones too."""
        held: dict[PoolKey, int] = {}
        specs = self._sim.berths.specs
        for keeper in self._sim.keepers():
            for e in keeper.berths_used():
                key = specs[e].site, specs[e].pool
                held[key] = held.get(key, 0) + specs[e].chips
        return held

    def _kw_for_jobs(
        self, used: Mapping[PoolKey, int], free: Mapping[PoolKey, int]
    ) -> dict[str, float]:
        """By site that takes jobs: supply less all but them, in kW at the meter.

        Chips that jobs may have count as idle, on or off, as far as the schedule counts them so: it adds to that what work draws.
        """
        sim, power = self._sim, self._sim.power
        idle_kw = self._idle_kw(free)
        found, jobs = {}, self.yard.chips()
        for s, site in enumerate(sim.fleet.sites):
            if not sim.hears_hub(site.id) or sim.brownouts.sites[s].level:
                continue
            out = power.out[s]
            own_kw = float(power.outside_now["pv_kw"][s] + power.outside_now["wind_kw"][s])
            pue = float(out["pue"]) if out["it_kw"] > 0.0 else 1.0
            empty_kw = self._nodes.empty_w(site.id, used, jobs) / 1000.0
            others_kw = float(out["facility_kw"]) - pue * (power.deferrable_kw[s] + empty_kw)
            others_kw += self._pue(site.id) * idle_kw.get(site.id, 0.0)
            supply_kw = float(power.params[s]["grid_kw_max"]) + own_kw
            found[site.id] = float(
                max(0.0, min(supply_kw, self._cooled_kw(s, site.id)) - others_kw)
            )
        return found

    def _idle_kw(self, free: Mapping[PoolKey, int]) -> dict[str, float]:
        """By site: IT power of the chips that jobs may have, as the schedule counts it while they idle."""
        found: dict[str, float] = {}
        for site in self._schedule.sites if self._schedule is not None else ():
            found[site.site] = sum(
                free.get((site.site, pool.pool), 0) * pool.chip_kw_idle for pool in site.pools
            )
        return found

    def _pue(self, site: str) -> float:
        """Of a usual load, as it is reported: an empty site's says nothing of a full one."""
        belief = self._sim.dispatcher.belief
        assert belief is not None
        return belief.sites[site].pue

    def _cooled_kw(self, s: int, site: str) -> float:
        """What heat lets a site draw; jobs begin where it leaves room to spare, else they would be shed as soon as they run."""
        power = self._sim.power
        row, share = power.params[s], cooled_share(float(power.outside_now["outdoor_c"][s]))
        if share >= 1.0:
            return inf
        begins = power.deferrable_kw[s] <= 0.0
        cooled_kw = float(row["base_kw"]) + float(row["it_kw_rated"]) * share * self._pue(site)
        return cooled_kw * (UNSHED_SHARE if begins else 1.0)

    def _wakes(self, spec: EngineSpec, now_s: float) -> float:
        key = spec.site, spec.pool
        others = self._engine_chips().get(key, 0) - spec.chips + self.yard.chips().get(key, 0)
        return self._nodes.ready_s(key, max(others, 0), spec.chips, now_s)

    def _measured(self, outlook: Outlook) -> Measured:
        """What sites tell: batteries, this month's peaks, and what requests will leave of chips and power as demand goes."""
        sim, power = self._sim, self._sim.power
        ratio = _demand_ratio(outlook)
        used, jobs = self._engine_chips(), self.yard.chips()
        chips_free, load_kw = {}, {}
        for key, count in self._counts.items():
            needed = np.ceil(used.get(key, 0) * ratio - 1e-9)
            chips_free["/".join(key)] = tuple(np.maximum(count - needed, 0.0).tolist())
        for s, site in enumerate(sim.fleet.sites):
            out, row = power.out[s], power.params[s]
            pue = float(out["pue"]) if out["it_kw"] > 0.0 else 1.0
            empty_w = self._nodes.empty_w(site.id, used, jobs)
            own_kw = float(out["it_kw"]) - float(power.deferrable_kw[s]) - empty_w / 1000.0
            load = float(row["base_kw"]) + pue * max(own_kw, 0.0) * ratio
            load_kw[site.id] = tuple(load.tolist())
        return Measured(
            held_kwh={
                s.id: float(power.state[i]["battery_kwh"]) for i, s in enumerate(sim.fleet.sites)
            },
            peak_import_kw={
                s.id: float(power.state[i]["peak_import_kw"]) for i, s in enumerate(sim.fleet.sites)
            },
            chips_free=chips_free,
            load_kw=load_kw,
            whereabouts=self.yard.whereabouts(),
            asleep=tuple("/".join(key) for key in self._nodes.asleep()),
        )

    def _planned(self, answer: DeferAnswer, now_s: float) -> None:
        event = ev.ScheduleSolved(at_s=self._sim.start_at_s + now_s, answer=answer)
        self._sim.tell_fleet(event, now_s)

    def _follow(self, answer: DeferAnswer) -> None:
        assert self._schedule is not None
        self.yard.follow(self._schedule, answer)
        plans = {
            plan.site: battery_plan_of(answer, plan, site)
            for plan, site in zip(answer.sites, self._schedule.sites, strict=True)
        }
        self._batteries = tuple(plans.get(site.id) for site in self._sim.fleet.sites)

    # --- placements

    def _scale(self, now_s: float) -> None:
        sim = self._sim
        if now_s >= sim.duration_s:
            return
        assert self._scaler is not None
        world = sim.world
        attempts = world.attempts[: int(world.clock[0]["slots_used"])]
        engines = attempts["engine"][attempts["stage"] == AT_ENGINE]
        counts = np.bincount(engines, minlength=len(sim.berths.specs))
        used: dict[tuple[str, ...], int] = {}
        for e in np.flatnonzero(counts).tolist():
            spec = sim.berths.specs[e]
            key = spec.site, spec.pool, spec.service, spec.variant
            used[key] = used.get(key, 0) + int(counts[e])
        at_s = sim.start_at_s + now_s
        placements = self._scaler.look(used)
        belief = sim.dispatcher.belief
        assert belief is not None
        if placements != belief.placements:
            event = ev.PlacementDecided(
                at_s=at_s, source="autoscaler", placements=placements, epoch=1
            )
            sim.tell_fleet(event, now_s)
            sim.tick(now_s)
        sim.at(now_s + EVERY_S, self._scale)

    def _look(self, now_s: float) -> None:
        sim = self._sim
        if now_s < sim.duration_s:
            outlook = self._operation.foresee(sim.start_at_s + now_s, self.history)
            at_s = sim.start_at_s + now_s
            self.yard.advance(at_s)
            changed = ev.JobsChanged(
                at_s=at_s, jobs=self.yard.left(), measured=self._measured(outlook)
            )
            sim.tell_fleet(changed, now_s)
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
        self.look_after_jobs(now_s)

    def _report(self, site: str, now_s: float) -> None:
        sim = self._sim
        if not sim.hears_hub(site):
            return
        keeper, at_s = sim.keeper(site, now_s), sim.start_at_s + now_s
        serving, failing = keeper.serving(), keeper.failing()
        self._reported[site] = serving, failing
        sim.tell_fleet(
            ev.SiteHeard(at_s=at_s, site=site, epoch=1, table_version=0, serving=serving),
            now_s,
        )
        for event in self._failures.events(site, failing, at_s):
            sim.tell_fleet(event, now_s)
        due_s = max(self._failures.due_s(site) - sim.start_at_s, now_s + REPORT_S)
        if due_s < sim.duration_s and due_s != self._looks_again.get(site):
            self._looks_again[site] = due_s
            sim.at(due_s, lambda at_s: self._report(site, at_s))
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


def _kinds(columns: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Different columns in their order, and which each is: `np.unique` of one number each, which sorts ten times as fast."""
    least = columns.min(axis=1, initial=0)[:, None]
    spans = tuple(((columns - least).max(axis=1, initial=0) + 1).tolist())
    numbers, which = np.unique(np.ravel_multi_index(columns - least, spans), return_inverse=True)
    return np.stack(np.unravel_index(numbers, spans)) + least, which


def _demand_ratio(outlook: Outlook) -> NDArray[np.float64]:
    """[step] of an outlook: demand over that of its first step, as far as it says anything of it."""
    if not outlook.demand:
        return np.ones(max(outlook.count, 1))
    total = np.sum([d.requests_per_s for d in outlook.demand], axis=0)
    return np.asarray(total / total[0]) if total[0] > 0.0 else np.ones(len(total))


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

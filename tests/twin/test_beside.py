"""Jobs, batteries and servers beside requests: people notice nothing, every joule is at the meter, the plan is followed."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from hanse.model.fleet import Fleet, Power
from hanse.model.job import Job
from hanse.signals.demand_counts import DemandCounts
from hanse.signals.outlook import Outlook
from hanse.twin import arrays as ar
from hanse.twin.operation import Operation
from hanse.twin.simulate import Simulation
from twin.test_operation import as_it_was, small_chips, swelling

replace = msgspec.structs.replace
START_S = 1_767_225_600.0
HOUR_S = 3600.0


def jobs_of(fleet: Fleet, count: int = 4, chips: int = 2) -> tuple[Job, ...]:
    return tuple(
        Job(
            id=f"job-{i}",
            kind="fine_tuning",
            tenant="t",
            data_class=fleet.classes[0].id,
            country="DE",
            home=fleet.sites[i % len(fleet.sites)].id,
            submitted_at_s=START_S + 60.0 * i,
            deadline_at_s=START_S + 24.0 * HOUR_S,
            chip_s={"l4": 900.0 * chips},
            chips_max=chips,
            checkpoint_every_s=600.0,
            restart_s=30.0,
        )
        for i in range(count)
    )


def ran(fleet: Fleet, operation: Operation, *, hours: float = 1.0) -> Simulation:
    trace = swelling(fleet, 3.0, 6.0, hours * HOUR_S / 3.0)
    run = Simulation(fleet, trace, start_at_s=START_S, operation=operation)
    run.run()
    return run


def served(run: Simulation) -> tuple[int, int, int]:
    sums = run.world.sums[0]
    asked = int(run.world.clock[0]["requests"])
    return asked, int(sums[ar.SUM_SERVED]), int(sums[ar.SUM_GOOD])


def adds_up(run: Simulation) -> None:
    """IT energy at the meter is what engines, jobs and servers took."""
    power = run.power
    parts = power.dynamic_wh + power.idle_wh + power.deferrable_wh
    assert power.sums["it_kwh"] * 1000.0 == pytest.approx(parts)


@pytest.mark.parametrize(
    "rule", [pytest.param("fixed", marks=pytest.mark.long), "autoscaler", "slow_loop"]
)
def test_jobs_run_beside_people_who_notice_nothing(rule: str) -> None:
    fleet = small_chips()
    jobs = jobs_of(fleet)
    run = ran(
        fleet,
        Operation(rule=rule, foresee=as_it_was(fleet), every_s=300.0, jobs=jobs),  # type: ignore[arg-type]
        hours=2.0,
    )
    assert run.operator is not None
    books = run.operator.yard.books
    asked, answered, good = served(run)
    assert answered == asked and good >= 0.99 * asked
    assert (books.submitted, books.done, books.late) == (len(jobs), len(jobs), 0)
    least_h = sum(j.chip_s["l4"] for j in jobs) / HOUR_S
    assert (
        least_h <= books.chip_h <= least_h + books.lost_chip_h + len(jobs) * 2 * 4 * 30.0 / HOUR_S
    )
    assert run.power.deferrable_wh.sum() > 0.0
    adds_up(run)


def test_an_autoscaler_follows_demand_in_the_twin() -> None:
    fleet = small_chips()
    few = tuple(replace(p, slots=4, context_tokens=16_000) for p in fleet.placements)
    fleet = replace(fleet, placements=few)
    trace = swelling(fleet, 2.0, 24.0, 900.0)
    run = Simulation(fleet, trace, operation=Operation(rule="autoscaler", slots_target=0.5))
    seen: list[int] = []

    def look(now_s: float) -> None:
        belief = run.dispatcher.belief
        assert belief is not None
        seen.append(sum(p.replicas for p in belief.placements))
        if now_s < 2600.0:
            run.at(now_s + 60.0, look)

    run.at(30.0, look)
    run.run()
    asked, answered, _ = served(run)
    assert answered >= 0.95 * asked  # twelvefold at once: minutes pass until replicas are up
    assert seen[0] == 3 and max(seen) >= 9 and seen[-1] < max(seen)


def sunny(fleet: Fleet) -> Fleet:
    """Sun on every roof, a battery, nothing taken back, dear evenings to come."""
    power = Power(
        grid_kw_max=60.0, pv_kw_peak=8.0, battery_kwh=10.0, battery_kw_max=4.0, export_kw_max=0.0
    )
    return replace(fleet, sites=tuple(replace(s, power=power) for s in fleet.sites))


def test_batteries_follow_a_plan_and_fill_from_the_grid_when_it_is_cheap() -> None:
    fleet = sunny(small_chips())
    plain = as_it_was(fleet)

    def dear_soon(now_s: float, counts: DemandCounts) -> Outlook:
        """A kWh costs ten times as much from the next hour on."""
        outlook = plain(now_s, counts)
        hours = np.arange(4)
        sites = tuple(
            replace(
                one,
                price_usd_per_kwh=tuple(np.where(hours == 0, 0.05, 0.5).tolist()),
                carbon_g_per_kwh=(300.0,) * 4,
                pue=one.pue * 4,
                pv_kw=(0.0,) * 4,
                wind_kw=(0.0,) * 4,
                grid_kw_max=one.grid_kw_max * 4,
            )
            for one in outlook.sites
        )
        demand = tuple(
            replace(
                d,
                requests_per_s=d.requests_per_s * 4,
                requests_per_s_high=d.requests_per_s_high * 4,
            )
            for d in outlook.demand
        )
        return replace(outlook, sites=sites, demand=demand)

    def held(rule: str) -> float:
        run = ran(
            fleet,
            Operation(rule=rule, foresee=dear_soon, every_s=300.0),  # type: ignore[arg-type]
            hours=0.75,
        )
        adds_up(run)
        return float(run.power.state["battery_kwh"].sum())

    # At night in January there is no surplus that could fill them: half full they begin, and unplanned they empty.
    assert held("slow_loop") > 20.0 > held("fixed")


def test_servers_that_hold_nothing_are_off_and_cost_next_to_nothing() -> None:
    fleet = small_chips()
    one = (fleet.placements[0],)
    fleet = replace(fleet, placements=one)
    on = ran(fleet, Operation(rule="fixed", powers_down=False), hours=0.5)
    off = ran(fleet, Operation(rule="fixed"), hours=0.5)
    assert served(on) == served(off)
    assert on.operator is not None and off.operator is not None
    assert on.operator.powered_chip_h == pytest.approx(3 * off.operator.powered_chip_h)
    spared = on.power.idle_wh - off.power.idle_wh
    assert spared[0] == 0.0 and (spared[1:] > 100.0).all()
    adds_up(on)
    adds_up(off)

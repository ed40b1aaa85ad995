"""The slow loop's questions and answers: when it asks, what it takes, what it refuses."""

from __future__ import annotations

import itertools

import msgspec
import pytest

from dispatch.fleets import NOW_S, fleet, service, site, tenant
from hanse.dispatch import actions as act
from hanse.dispatch import events as ev
from hanse.dispatch.defer import DeferProblem
from hanse.dispatch.defer import solve as solve_schedule
from hanse.dispatch.defer_build import Measured
from hanse.dispatch.dispatcher import Dispatcher
from hanse.dispatch.eventlog import MAGIC, frame, repeat
from hanse.dispatch.follow import PLAN_VALID_S
from hanse.dispatch.place import PlaceProblem, solve
from hanse.dispatch.slow import ANSWER_S_MAX, CALM_S, as_running
from hanse.dispatch.snapshot import restored, state_of
from hanse.energy.limits import cooled_share
from hanse.energy.plant import it_kw_rated
from hanse.model.fleet import Fleet, Link, Placement, Pool, Power, Slo, SlowLoop
from hanse.model.job import Job
from hanse.signals.clock import Clock
from hanse.signals.outlook import DemandOutlook, Outlook, SiteOutlook

SITES = ("a", "b", "c")


def made() -> Fleet:
    """Three sites of four L4 each; the file places one replica at each."""
    sites = tuple(
        site(
            name,
            "DE",
            lat_deg=50.0 + i,
            pools=(Pool(id="gpu", accelerator="l4", count=4),),
            power=Power(grid_kw_max=20.0),
        )
        for i, name in enumerate(SITES)
    )
    placed = tuple(
        Placement(service="chat", variant="v0", site=name, pool="gpu", slots=16, chips=1)
        for name in SITES
    )
    links = tuple(
        Link(a=x, b=y, rtt_ms=8.0, mbit_s=1000.0) for x, y in (("a", "b"), ("a", "c"), ("b", "c"))
    )
    league = fleet(
        sites,
        services=(service(slo=Slo(ttft_ms=1000.0, tpot_ms=100.0)),),
        tenants=(tenant("t", ("DE",)),),
        links=links,
        placements=placed,
    )
    return msgspec.structs.replace(league, slow_loop=SlowLoop(places=True, place_every_s=900.0))


def outlook(rate_rps: float = 3.0, price: float = 0.2) -> Outlook:
    league = made()
    demand = DemandOutlook(
        service="chat", tenant="t", data_class=league.tenants[0].classes[0], country="DE", origin="a",
        requests_per_s=(rate_rps,) * 2, requests_per_s_high=(1.3 * rate_rps,) * 2, input_tokens=400.0, output_tokens=150.0,
    )  # fmt: skip
    sites = tuple(
        SiteOutlook(
            site=s, price_usd_per_kwh=(price,) * 2, carbon_g_per_kwh=(300.0,) * 2, carbon_signal="average_location",
            pue=(1.3,) * 2, pv_kw=(0.0,) * 2, wind_kw=(0.0,) * 2, grid_kw_max=(20.0,) * 2,
        )
        for s in SITES
    )  # fmt: skip
    some = (demand,) if rate_rps > 0.0 else ()
    return Outlook(issued_at_s=NOW_S, start_s=NOW_S, step_s=3600.0, demand=some, sites=sites)


class Shell:
    """A fleet's dispatcher, its log, and what it asked for last."""

    def __init__(self) -> None:
        self.dispatcher = Dispatcher("fleet")
        self.log = MAGIC
        self.tell(ev.FleetLoaded(at_s=NOW_S, fleet=made()))
        self.tell(ev.EpochGranted(at_s=NOW_S, epoch=1))

    def tell(self, event: ev.Event) -> list[act.Action]:
        actions = self.dispatcher.handle(event)
        self.log += frame(event, actions)
        return actions

    def asked(self, at_s: float) -> PlaceProblem | None:
        """By a tick."""
        found = [a for a in self.tell(ev.Ticked(at_s=at_s)) if isinstance(a, act.SolvePlacement)]
        return found[0].problem if found else None

    def answer(self, problem: PlaceProblem | None, at_s: float) -> bool:
        """Solved and told; whether it was applied."""
        assert problem is not None
        before = self.placements
        self.tell(ev.PlacementSolved(at_s=at_s, answer=solve(problem)))
        return self.placements != before

    @property
    def placements(self) -> tuple[Placement, ...]:
        assert self.dispatcher.belief is not None
        return self.dispatcher.belief.placements


def batch(due_s: float) -> Job:
    """One at `a`, that is due so long after now."""
    return Job(
        id="batch-1", kind="batch", tenant="t", data_class=made().tenants[0].classes[0], country="DE", home="a",
        submitted_at_s=NOW_S, deadline_at_s=NOW_S + due_s, chip_s={}, service="chat", requests=900.0,
        input_tokens=300.0, output_tokens=100.0, data_gb=2.0,
    )  # fmt: skip


@pytest.fixture
def shell() -> Shell:
    one = Shell()
    one.tell(ev.OutlookIssued(at_s=NOW_S, outlook=outlook(40.0)))
    return one


def test_nothing_is_asked_before_anybody_was_counted() -> None:
    one = Shell()
    assert one.asked(NOW_S + 1.0) is None
    one.tell(ev.OutlookIssued(at_s=NOW_S, outlook=outlook(0.0)))
    assert one.asked(NOW_S + 2.0) is None


def test_heat_bounds_what_is_placed_and_cool_weather_does_not() -> None:
    """A cool site may draw what its connection gives, whatever its chips are rated at: engines of a CPU are rated at next to nothing."""
    weather: dict[str, tuple[float, ...]] = {
        "unknown": (), "cool": (1.0, 1.0), "hot": (1.0, cooled_share(39.0)),
    }  # fmt: skip
    most = {}
    for name, share in weather.items():
        known = outlook(40.0)
        sites = tuple(msgspec.structs.replace(s, cooled_share=share) for s in known.sites)
        one = Shell()
        told = msgspec.structs.replace(known, sites=sites)
        one.tell(ev.OutlookIssued(at_s=NOW_S, outlook=told))
        problem = one.asked(NOW_S + 1.0)
        assert problem is not None
        most[name] = problem.sites[0].grid_kw_max
    assert most["unknown"] == most["cool"] == 20.0
    rated_kw = it_kw_rated(made().sites[0])
    assert most["hot"] == pytest.approx(1.3 * 0.94 * rated_kw) and most["hot"] < 20.0


@pytest.mark.parametrize("speed", [1.0, 60.0, 600.0])
def test_by_a_clock_that_runs_ahead_schedules_are_made_before_plans_are_over(
    shell: Shell, speed: float
) -> None:
    loop = made().slow_loop
    asked_s, clock = [], Clock(speed=speed, from_s=NOW_S)
    job = batch(due_s=86_400.0)
    shell.tell(ev.JobsChanged(at_s=NOW_S, jobs=(job,), measured=Measured()))
    for n in range(700):
        if n % 10 == 0:
            told = msgspec.structs.replace(
                outlook(40.0), start_s=clock.played_s(NOW_S + n), clock=clock
            )
            shell.tell(ev.OutlookIssued(at_s=NOW_S + n, outlook=told))
        shell.dispatcher.slow._defer_open = None  # answered
        done = shell.dispatcher.handle(ev.Ticked(at_s=NOW_S + n))
        asked_s += [n for a in done if isinstance(a, act.SolveSchedule)]
    gaps = [later - before for before, later in itertools.pairwise(asked_s)]
    assert max(gaps) <= min(loop.schedule_every_s, PLAN_VALID_S / speed / 2.0) + 1.0


def test_by_another_clock_all_is_asked_anew_and_what_is_open_is_answered_in_vain(
    shell: Shell,
) -> None:
    """Also of a fleet without jobs: its battery follows a schedule too."""
    power = msgspec.structs.replace(
        made().sites[0].power, battery_kwh=40.0, battery_kw_max=10.0, pv_kw_peak=5.0
    )
    stored = msgspec.structs.replace(made().sites[0], power=power)
    league = msgspec.structs.replace(made(), sites=(stored, *made().sites[1:]))
    shell.tell(ev.FleetLoaded(at_s=NOW_S, fleet=league))

    def foresee(at_s: float, clock: Clock) -> None:
        known = msgspec.structs.replace(outlook(40.0), clock=clock, start_s=clock.played_s(at_s))
        shell.tell(ev.OutlookIssued(at_s=at_s, outlook=known))

    def asked(at_s: float) -> tuple[PlaceProblem | None, DeferProblem | None]:
        done = shell.tell(ev.Ticked(at_s=at_s))
        places = [a.problem for a in done if isinstance(a, act.SolvePlacement)]
        defers = [a.problem for a in done if isinstance(a, act.SolveSchedule)]
        return places[0] if places else None, defers[0] if defers else None

    def sent(at_s: float, problem: DeferProblem) -> list[act.SendSchedule]:
        done = shell.tell(ev.ScheduleSolved(at_s=at_s, answer=solve_schedule(problem)))
        return [a for a in done if isinstance(a, act.SendSchedule)]

    true, fast = Clock(), Clock(speed=60.0, from_s=NOW_S + 20.0)
    foresee(NOW_S, true)
    place, defer = asked(NOW_S + 1.0)
    assert place is not None and defer is not None
    assert shell.answer(place, NOW_S + 2.0)
    (first,) = sent(NOW_S + 2.0, defer)
    assert first.sites[0].valid_s == PLAN_VALID_S
    foresee(NOW_S + 10.0, true)
    assert asked(NOW_S + 11.0) == (None, None), "the clock is the same"
    foresee(NOW_S + 20.0, fast)
    place, defer = asked(NOW_S + 21.0)
    assert place is not None and defer is not None
    foresee(NOW_S + 30.0, true)  # the end, while both are open
    assert sent(NOW_S + 30.1, defer) == []
    assert not shell.answer(place, NOW_S + 30.1)
    place, defer = asked(NOW_S + 31.0)
    assert place is not None and defer is not None
    (last,) = sent(NOW_S + 32.0, defer)
    assert last.sites[0].valid_s == PLAN_VALID_S
    assert last.sites[0].battery is not None and last.sites[0].battery.start_s == NOW_S + 31.0
    assert repeat(shell.log).differ == ()


def test_schedules_end_with_what_is_foreseen(shell: Shell) -> None:
    one = batch(due_s=86_400.0)
    shell.tell(ev.JobsChanged(at_s=NOW_S, jobs=(one,), measured=Measured()))
    asked = []
    for minutes in (1, 60, 119, 120, 240):
        shell.dispatcher.slow._defer_open = None  # answered
        done = shell.tell(ev.Ticked(at_s=NOW_S + 60.0 * minutes))
        asked.append(any(isinstance(a, act.SolveSchedule) for a in done))
    assert asked == [True, True, True, False, False]


def test_an_answer_is_applied_sent_and_made_again_from_the_log(shell: Shell) -> None:
    problem = shell.asked(NOW_S + 1.0)
    assert problem is not None
    before = shell.placements
    shell.tell(ev.PlacementSolved(at_s=NOW_S + 3.0, answer=solve(problem)))
    assert shell.placements != before
    assert sum(p.replicas for p in shell.placements) > 3, "forty requests a second take more"
    sent = [a for a in shell.tell(ev.Ticked(at_s=NOW_S + 4.0)) if isinstance(a, act.SendPlacement)]
    decided = ev.event_from_bytes(sent[0].content)
    assert isinstance(decided, ev.PlacementDecided)
    assert decided.placements == shell.placements and decided.source == "optimiser"
    again = repeat(shell.log)
    assert again.differ == () and again.placements == 1
    assert shell.asked(NOW_S + 600.0) is None, "a quarter of an hour has not passed"
    assert shell.asked(NOW_S + 902.0) is not None


def test_an_answer_to_another_question_or_a_spoiled_one_is_refused(shell: Shell) -> None:
    problem = shell.asked(NOW_S + 1.0)
    assert problem is not None
    before, answer = shell.placements, solve(problem)
    spoiled = msgspec.structs.replace(answer, placements=answer.placements[1:])
    said = shell.tell(ev.PlacementSolved(at_s=NOW_S + 2.0, answer=spoiled))
    assert any("refused" in a.text for a in said if isinstance(a, act.Log))
    said = shell.tell(ev.PlacementSolved(at_s=NOW_S + 2.0, answer=answer))
    assert any("nobody asks" in a.text for a in said if isinstance(a, act.Log))
    assert shell.placements == before


def test_a_site_that_is_drained_meanwhile_makes_the_answer_old_and_is_asked_for_anew(
    shell: Shell,
) -> None:
    problem = shell.asked(NOW_S + 1.0)
    assert problem is not None
    shell.tell(ev.DrainRequested(at_s=NOW_S + 1.5, site="b", drained=True))
    before = shell.placements
    shell.tell(ev.PlacementSolved(at_s=NOW_S + 2.0, answer=solve(problem)))
    assert shell.placements == before
    assert shell.asked(NOW_S + 2.0) is None
    anew = shell.asked(NOW_S + 1.0 + CALM_S + 0.5)
    assert anew is not None and [s.hosts for s in anew.sites] == [True, False, True]


def test_a_placement_that_goes_on_is_sent_again_under_another_fleet_file(shell: Shell) -> None:
    """A site whose agent restarts takes none that was decided for the file before."""
    problem = shell.asked(NOW_S + 1.0)
    assert problem is not None
    shell.tell(ev.PlacementSolved(at_s=NOW_S + 2.0, answer=solve(problem)))
    belief = shell.dispatcher.belief
    assert belief is not None

    def sent(at_s: float) -> list[ev.PlacementDecided]:
        actions = shell.tell(ev.Ticked(at_s=at_s))
        found = [
            ev.event_from_bytes(a.content) for a in actions if isinstance(a, act.SendPlacement)
        ]
        return [one for one in found if isinstance(one, ev.PlacementDecided)]

    (before,) = sent(NOW_S + 3.0)
    assert sent(NOW_S + 4.0) == []
    dearer = msgspec.structs.replace(
        made(), weights=msgspec.structs.replace(made().weights, usd_per_tonne_co2e=99.0)
    )
    epoch, version = belief.placement_version
    shell.tell(
        ev.FleetLoaded(
            at_s=NOW_S + 5.0, fleet=dearer, placements=belief.placements,
            placement_epoch=epoch, placement_version=version,
        )
    )  # fmt: skip
    (after,) = sent(NOW_S + 6.0)
    assert after.placements == before.placements
    assert after.fleet_digest != before.fleet_digest
    assert (after.epoch, after.version) == (before.epoch, before.version + 1)
    assert sent(NOW_S + 7.0) == []


def test_progress_of_a_batch_asks_for_no_schedule_before_its_time(shell: Shell) -> None:
    def schedules(at_s: float) -> int:
        return len(
            [a for a in shell.tell(ev.Ticked(at_s=at_s)) if isinstance(a, act.SolveSchedule)]
        )

    def told(at_s: float, *jobs: Job) -> None:
        shell.tell(ev.JobsChanged(at_s=at_s, jobs=jobs, measured=Measured()))

    one = batch(due_s=7200.0)
    told(NOW_S, one)
    assert schedules(NOW_S + 1.0) == 1
    shell.dispatcher.slow._defer_open = None  # answered
    less = msgspec.structs.replace(
        one, requests=890.0, data_gb=1.9, input_tokens=301.0, output_tokens=99.0
    )
    told(NOW_S + 60.0, less)
    assert schedules(NOW_S + 61.0) == 0
    told(NOW_S + 70.0, less, msgspec.structs.replace(one, id="batch-2"))
    assert schedules(NOW_S + 71.0) == 1


def test_a_question_that_nobody_answers_is_asked_anew(shell: Shell) -> None:
    assert shell.asked(NOW_S + 1.0) is not None
    assert shell.asked(NOW_S + ANSWER_S_MAX) is None
    assert shell.asked(NOW_S + 2.0 + ANSWER_S_MAX) is not None


def test_a_new_leader_waits_for_an_outlook_of_its_own(shell: Shell) -> None:
    shell.tell(ev.EpochGranted(at_s=NOW_S + 1.0, epoch=2))
    assert shell.asked(NOW_S + 10.0) is None
    shell.tell(ev.OutlookIssued(at_s=NOW_S + 11.0, outlook=outlook(40.0)))
    assert shell.asked(NOW_S + 12.0) is not None


NO_DRIVER = ev.EngineFailing(
    at_s=NOW_S, site="a", service="chat", variant="v0", pool="gpu", why="no driver"
)


def up(shell: Shell, site: str, replicas: int) -> None:
    """A site says how many replicas of its placement are up."""
    mine = next(p for p in shell.placements if p.site == site)
    serving = (msgspec.structs.replace(mine, replicas=replicas),) if replicas else ()
    shell.tell(ev.SiteHeard(at_s=NOW_S + 1.0, site=site, epoch=1, table_version=1, serving=serving))


def capacity_rps(problem: PlaceProblem, placements: tuple[Placement, ...], but: str) -> float:
    """Of all replicas that are placed, without one site's."""
    each = {
        (problem.sites[problem.pools[o.pool].site].id, o.variant, o.chips): o.requests_per_s
        for o in problem.offers
    }
    return sum(
        each[p.site, p.variant, p.chips or 1] * p.replicas for p in placements if p.site != but
    )


def test_what_does_not_start_somewhere_is_not_placed_there(shell: Shell) -> None:
    shell.tell(ev.PlacementDecided(at_s=NOW_S, source="test", placements=shell.placements[1:]))
    shell.tell(NO_DRIVER)
    problem = shell.asked(NOW_S + 20.0)
    assert problem is not None
    assert not [o for o in problem.offers if problem.pools[o.pool].site == 0]
    shell.tell(ev.PlacementSolved(at_s=NOW_S + 21.0, answer=solve(problem)))
    assert shell.placements and "a" not in {p.site for p in shell.placements}


def test_what_is_placed_and_does_not_start_is_not_counted_on_and_goes_on_trying(
    shell: Shell,
) -> None:
    stuck = next(p for p in shell.placements if p.site == "a")
    up(shell, "a", 0)
    shell.tell(NO_DRIVER)
    problem = shell.asked(NOW_S + 20.0)
    assert problem is not None
    assert problem.kept == (stuck,)
    assert problem.pools[0].chips == 3
    assert not [o for o in problem.offers if problem.pools[o.pool].site == 0]
    shell.tell(ev.PlacementSolved(at_s=NOW_S + 21.0, answer=solve(problem)))
    assert [p for p in shell.placements if p.site == "a"] == [stuck], "neither more nor other"
    assert capacity_rps(problem, shell.placements, but="a") >= 40.0

    up(shell, "a", 1)
    shell.tell(msgspec.structs.replace(NO_DRIVER, at_s=NOW_S + 60.0, why=""))
    problem = shell.asked(NOW_S + 61.0)
    assert problem is not None and problem.kept == ()
    assert [o.replicas for o in problem.offers if problem.pools[o.pool].site == 0 and o.replicas]


def test_of_replicas_of_which_some_do_not_start_those_that_are_up_are_counted_on() -> None:
    rates = {}
    for there in (1, 2, 3):
        one = Shell()
        one.tell(ev.OutlookIssued(at_s=NOW_S, outlook=outlook(40.0)))
        placed = (msgspec.structs.replace(one.placements[0], replicas=3), *one.placements[1:])
        one.tell(ev.PlacementDecided(at_s=NOW_S, source="test", placements=placed))
        up(one, "a", there)
        one.tell(NO_DRIVER)
        problem = one.asked(NOW_S + 20.0)
        assert problem is not None
        (ill,) = [o for o in problem.offers if problem.pools[o.pool].site == 0]
        assert ill.fixed and ill.placed == placed[0]
        rates[there] = ill.requests_per_s
        one.tell(ev.PlacementSolved(at_s=NOW_S + 21.0, answer=solve(problem)))
        assert [p for p in one.placements if p.site == "a"] == [placed[0]]
    assert rates[3] == pytest.approx(3.0 * rates[1]) == pytest.approx(1.5 * rates[2])


def test_what_does_not_start_takes_rows_and_chips_and_hides_no_other_variant() -> None:
    two = service(variants=2, slo=Slo(ttft_ms=1000.0, tpot_ms=100.0))
    one = Shell()
    one.tell(ev.FleetLoaded(at_s=NOW_S, fleet=msgspec.structs.replace(made(), services=(two,))))
    one.tell(ev.OutlookIssued(at_s=NOW_S, outlook=outlook(40.0)))
    well = one.asked(NOW_S + 1.0)
    up(one, "a", 0)
    one.tell(NO_DRIVER)
    problem = one.asked(NOW_S + ANSWER_S_MAX + 20.0)
    assert problem is not None and well is not None
    assert {o.variant for o in problem.offers if problem.pools[o.pool].site == 0} == {"v1"}
    assert problem.sites[0].engines_max == well.sites[0].engines_max - 1
    assert (well.pools[0].chips_count, problem.pools[0].chips_count) == (4, 3)
    assert problem.pools[0].nodes_on == 0


def test_a_snapshot_keeps_what_a_placement_was_planned_around(shell: Shell) -> None:
    up(shell, "a", 0)
    shell.tell(NO_DRIVER)
    problem = shell.asked(NOW_S + 20.0)
    assert problem is not None
    shell.tell(ev.PlacementSolved(at_s=NOW_S + 21.0, answer=solve(problem)))
    for one in (shell.dispatcher, restored(state_of(shell.dispatcher))):
        assert one.belief is not None
        assert one.belief.sites["a"].around == {("chat", "v0", "gpu")}
        assert one.belief.sites["b"].around == frozenset()


def test_what_nobody_asks_for_is_not_tried_again(shell: Shell) -> None:
    up(shell, "a", 0)
    shell.tell(NO_DRIVER)
    nobody = outlook(40.0)
    shell.tell(
        ev.OutlookIssued(
            at_s=NOW_S + 2.0,
            outlook=msgspec.structs.replace(
                nobody,
                demand=tuple(
                    msgspec.structs.replace(
                        d, requests_per_s=(0.0, 0.0), requests_per_s_high=(0.0, 0.0)
                    )
                    for d in nobody.demand
                ),
            ),
        )
    )
    problem = shell.asked(NOW_S + 20.0)
    assert problem is not None and problem.kept == ()
    shell.tell(ev.PlacementSolved(at_s=NOW_S + 21.0, answer=solve(problem)))
    assert "a" not in {p.site for p in shell.placements}


def test_power_that_costs_less_than_nothing_is_no_reason_to_draw_without_end() -> None:
    one = Shell()
    one.tell(ev.OutlookIssued(at_s=NOW_S, outlook=outlook(3.0, price=-0.5)))
    problem = one.asked(NOW_S + 1.0)
    assert problem is not None
    assert solve(problem).cost.usd >= 0.0


def test_a_replica_that_runs_keeps_its_slots_where_they_are_near_what_was_sized_for() -> None:
    old = Placement(service="q", variant="v", site="s", pool="p", slots=100, chips=1)
    near = msgspec.structs.replace(old, slots=110, replicas=2)
    longer = msgspec.structs.replace(near, context_tokens=20_000)
    far = msgspec.structs.replace(old, slots=200, replicas=2)
    assert as_running((old,), (near,))[0].slots == 100
    assert as_running((old,), (near,))[0].replicas == 2
    assert as_running((old,), (far,))[0].slots == 200
    assert (
        as_running((old,), (longer,))[0].context_tokens == 20_000
    )  # a slot of the old holds too little

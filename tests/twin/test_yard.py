"""Jobs beside requests: no chip twice, no joule lost, no more than a checkpoint's interval done again."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from effort import effort
from hanse.energy.plant import chip_rated_w
from hanse.model.fleet import Pool
from hanse.model.job import Job
from hanse.twin.nodes import ASLEEP, Nodes
from hanse.twin.scaling import Autoscaler
from hanse.twin.yard import Yard
from twin.test_operation import small_chips

CHIP = "l4"
STEP_S = 300.0


def a_job(name: str, *, at_s: float = 0.0, chips: int = 1, hours: float = 1.0, home: str) -> Job:
    return Job(
        id=name,
        kind="fine_tuning",
        tenant="t",
        data_class="c",
        country="DE",
        home=home,
        submitted_at_s=at_s,
        deadline_at_s=at_s + 86_400.0,
        chip_s={CHIP: hours * 3600.0 * chips},
        chips_max=chips,
        checkpoint_every_s=900.0,
        restart_s=60.0,
    )


def test_a_job_that_nobody_disturbs_takes_its_time_and_its_energy() -> None:
    fleet = small_chips()
    home = fleet.sites[0].id
    yard = Yard(fleet, [a_job("a", chips=2, home=home)], at_once=True)
    kw = {home: 1e9}
    joules = 0.0
    for step in range(20):
        yard.advance(step * STEP_S)
        yard.decide(step * STEP_S, {(home, "gpu"): 8}, kw)
        joules += float(yard.take_j().sum())
    yard.close(20 * STEP_S)
    assert (yard.books.done, yard.books.late, yard.books.yields) == (1, 0, 0)
    assert yard.books.chip_h == pytest.approx(2 * (3600.0 + 60.0) / 3600.0)
    assert joules == pytest.approx(2 * 3660.0 * chip_rated_w(CHIP))


@settings(max_examples=effort(60), deadline=None)
@given(st.data())
def test_chips_are_never_promised_twice_and_work_is_kept(data: st.DataObject) -> None:
    fleet = small_chips()
    sites = [s.id for s in fleet.sites]
    jobs = [
        a_job(
            f"j{i}",
            at_s=float(data.draw(st.integers(0, 20))) * 150.0,
            chips=data.draw(st.integers(1, 4)),
            hours=data.draw(st.sampled_from((0.1, 0.5, 2.0))),
            home=data.draw(st.sampled_from(sites)),
        )
        for i in range(data.draw(st.integers(1, 6)))
    ]
    yard = Yard(fleet, jobs, at_once=True)
    chip_s = {j.id: j.chip_s[CHIP] for j in jobs}
    watts, joules = chip_rated_w(CHIP), 0.0
    for step in range(60):
        now_s = step * STEP_S
        before = {j.id: j.chip_s[CHIP] for j in yard.left()}
        yard.advance(now_s)
        free = {(s, "gpu"): data.draw(st.integers(0, 8)) for s in sites}
        takes = {s: 1e9 for s in sites if data.draw(st.integers(0, 9))}
        lost = yard.books.lost_chip_h
        yard.decide(now_s, free, takes)
        for key, held in yard.chips().items():
            assert held <= free[key] and key[0] in takes
        again = 3600.0 * (yard.books.lost_chip_h - lost)
        most = sum(j.chips_max for j in jobs) * (900.0 + STEP_S)
        assert again <= most + 1e-6, "a checkpoint's interval, seen every five minutes"
        for j in yard.left():
            assert j.chip_s[CHIP] <= chip_s[j.id] + 1e-6
            assert before.get(j.id, chip_s[j.id]) >= 0.0
        joules += float(yard.take_j().sum())
    yard.close(60 * STEP_S)
    joules += float(yard.take_j().sum())
    assert joules == pytest.approx(3600.0 * yard.books.chip_h * watts)
    left = {j.id: j.chip_s[CHIP] for j in yard.left()}
    worked = sum(chip_s[n] - left.get(n, 0.0) for n in chip_s) / 3600.0
    assert worked + yard.books.lost_chip_h <= yard.books.chip_h + 1e-6, "the rest is loading"
    assert yard.books.done + len(left) == len(jobs)


def test_servers_wake_sleep_and_are_paid_for() -> None:
    fleet = small_chips()
    sites = tuple(
        replace(s, pools=(Pool(id="gpu", accelerator=CHIP, count=20),)) for s in fleet.sites
    )
    fleet = replace(fleet, sites=sites)
    key = sites[0].id, "gpu"
    nodes = Nodes(fleet, powers_down=True)
    asleep = nodes.step_w({}, 0.0)
    assert asleep.tolist() == [24.0] * 3, "three servers of 8, 8 and 4 chips, each with its BMC"
    assert nodes.ready_s(key, 0, 3, 100.0) == 280.0
    assert nodes.ready_s(key, 3, 5, 110.0) == 280.0, "the same server, on its way"
    assert nodes.ready_s(key, 8, 1, 120.0) == 300.0, "a second one"
    on = nodes.step_w({key: 9}, 300.0)
    empty_w = nodes.empty_w(sites[0].id, {key: 9}, {}) / 7.0
    assert on[0] == pytest.approx(7 * empty_w + 8.0)
    assert nodes.on() == 16
    assert nodes.step_w({key: 4}, 600.0)[0] == pytest.approx(4 * empty_w + 16.0)
    assert nodes.on() == 8
    always = Nodes(fleet, powers_down=False)
    assert always.ready_s(key, 0, 20, 5.0) == 5.0
    assert always.step_w({}, 0.0)[0] == pytest.approx(20 * empty_w)
    assert math.inf == ASLEEP


@given(st.lists(st.integers(0, 200), min_size=1, max_size=30), st.floats(0.3, 1.0))
def test_an_autoscaler_keeps_to_its_chips(load: list[int], target: float) -> None:
    fleet = small_chips()
    scaler = Autoscaler(fleet, target)
    one = fleet.placements[0]
    key = one.site, one.pool, one.service, one.variant
    for waiting in load:
        made = scaler.look({key: waiting})
        by_site: dict[str, int] = {}
        for p in made:
            assert p.replicas >= 1
            by_site[p.site] = by_site.get(p.site, 0) + p.replicas * (p.chips or 1)
        assert all(chips <= 8 for chips in by_site.values())
        mine = next(p for p in made if (p.site, p.pool, p.service, p.variant) == key)
        enough = waiting <= target * one.slots * mine.replicas * 1.1 + 1e-9
        assert enough or by_site[one.site] == 8


def test_an_autoscaler_rises_at_once_and_falls_after_five_calm_minutes() -> None:
    scaler = Autoscaler(small_chips(), 0.5)
    one = small_chips().placements[0]
    key = one.site, one.pool, one.service, one.variant

    def replicas(waiting: int) -> int:
        made = scaler.look({key: waiting})
        return next(p.replicas for p in made if (p.site, p.service) == (one.site, one.service))

    assert replicas(int(1.5 * one.slots)) == 3
    assert [replicas(0) for _ in range(6)] == [3, 3, 3, 3, 1, 1]

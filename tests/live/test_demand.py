"""What a site's users asked for: all rows, or a sample of them times what was counted."""

import asyncio
import math
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest
from msgspec.structs import replace

import views
from hanse.dispatch import events as ev
from hanse.dispatch.dispatcher import Dispatcher
from hanse.live.agent import Agent
from hanse.live.demand import DemandMeter, DemandReport
from hanse.live.slow_loop import SlowLoop
from hanse.model.fleet import Fleet
from hanse.model.read import read_fleet
from hanse.signals import Feed
from hanse.signals.demand_counts import KEEP_S
from hanse.signals.outlook import UNBOUND_KW
from hanse.signals.providers import FeedSetting, LiveFeed
from hanse.signals.providers.answer import Answer, Meaning, history
from hanse.view import DecisionRow

LEAGUE = Path(__file__).parents[2] / "examples" / "league.toml"


@pytest.fixture(scope="module")
def fleet() -> Fleet:
    return read_fleet(LEAGUE)


def row(fleet: Fleet, **other: object) -> DecisionRow:
    tenant = fleet.tenants[0]
    fields: dict[str, object] = {
        "at_s": 0.0, "request_id": "1", "key_id": tenant.keys[0].id, "data_class": tenant.classes[0],
        "country": tenant.keys[0].countries[0], "service": fleet.services[0].id, "entry": "lyon", "outcome": "served",
        "tokens_in": 50, "tokens_out": 10,
    }  # fmt: skip
    return DecisionRow(**(fields | other))  # type: ignore[arg-type]


def test_every_row_counts_once(fleet: Fleet) -> None:
    meter = DemandMeter(fleet, "lyon")
    meter.take(0.0, 7.0)
    for _ in range(3):
        meter.add(row(fleet))
    report = meter.take(10.0, 10.0)
    (one,) = report.counts
    assert (one.requests, one.tokens_in, one.tokens_out) == (3.0, 150.0, 30.0)
    assert one.key.tenant == fleet.tenants[0].id and one.key.origin == "lyon"
    assert meter.take(20.0, 10.0).counts == ()


def test_a_sample_stands_for_all_that_was_counted(fleet: Fleet) -> None:
    meter = DemandMeter(fleet, "lyon")
    meter.take(0.0, 0.0)
    for _ in range(200):
        meter.add(row(fleet))
    report = meter.take(1.0, 1000.0)
    assert report.sampled == 5.0 and report.counts[0].requests == pytest.approx(1000.0)


def test_what_may_wait_is_no_demand_and_no_part_of_the_mixture(fleet: Fleet) -> None:
    meter = DemandMeter(fleet, "lyon")
    meter.take(0.0, 0.0)
    for number in range(40):
        meter.add(row(fleet, deferrable=number % 4 > 0))
    report = meter.take(1.0, 80.0)  # twice as many were counted as there are rows
    assert [one.requests for one in report.counts] == [20.0]


def test_what_law_refuses_is_no_demand_and_what_power_refuses_is(fleet: Fleet) -> None:
    meter = DemandMeter(fleet, "lyon")
    meter.take(0.0, 0.0)
    meter.add(row(fleet))
    meter.add(row(fleet, outcome="refused", rules=("GDPR-V",), tokens_in=0, tokens_out=0))
    meter.add(row(fleet, outcome="refused", reason="power", tokens_in=0, tokens_out=0))
    (one,) = meter.take(1.0, 3.0).counts
    assert one.requests == 2.0
    assert one.tokens_in / one.requests == 50.0  # the refused one is as long as the others


def test_a_counter_that_begins_anew_takes_nothing_away(fleet: Fleet) -> None:
    meter = DemandMeter(fleet, "lyon")
    meter.take(0.0, 5_000.0)
    meter.add(row(fleet))
    assert meter.take(1.0, 1.0).counts[0].requests == 1.0


def test_a_site_where_nobody_asks_is_heard_all_the_same(fleet: Fleet) -> None:
    agent, told = Agent.__new__(Agent), []

    async def publish(what: str, value: Any) -> None:
        told.append((what, value))

    agent.page = SimpleNamespace(counters=np.zeros((1, 64)))  # type: ignore[assignment]
    agent._demand = DemandMeter(fleet, "lyon")
    agent._publish = publish  # type: ignore[method-assign]
    asyncio.run(agent._report_demand())
    ((what, report),) = told
    assert (what, report.site, report.counts) == ("demand", "lyon", ())


def slow_loop(fleet: Fleet, home: Path) -> SlowLoop:
    return SlowLoop(fleet, home, Feed, LiveFeed([]), lambda _: None, lambda: None)


def hear(loop: SlowLoop, report: DemandReport) -> None:
    data = msgspec.msgpack.encode(report)
    asyncio.run(loop.hear(SimpleNamespace(data=data, subject=f"site.{report.site}.demand")))


def test_a_report_from_the_future_changes_nothing_and_is_logged_once(
    fleet: Fleet, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    loop, now_s = slow_loop(fleet, tmp_path), time.time()
    meter = DemandMeter(fleet, "lyon")
    meter.add(row(fleet))
    hear(loop, meter.take(now_s, 0.0))
    (key,) = loop.counts.kinds()
    before = loop.counts.to_bytes()
    for later_s in (2.0 * loop.counts.bin_s, 1e9, KEEP_S):
        meter.add(row(fleet))
        hear(loop, meter.take(now_s + later_s, 0.0))
    assert loop.counts.to_bytes() == before
    said = capfd.readouterr()
    assert (said.out + said.err).count("lyon: dated ahead") == 1
    rates = loop.counts.requests_per_s(key, now_s + loop.counts.bin_s)
    assert rates.tolist() == [1.0 / loop.counts.bin_s]


@pytest.mark.parametrize("away_s", [-KEEP_S - 3_600.0, 7_200.0])
def test_counts_of_another_time_are_begun_anew(fleet: Fleet, tmp_path: Path, away_s: float) -> None:
    loop = slow_loop(fleet, tmp_path)
    loop.counts.add(time.time() + away_s, (), "lyon")
    (tmp_path / "demand.msgpack").write_bytes(loop.counts.to_bytes())
    assert slow_loop(fleet, tmp_path).counts.heard_until_s("lyon") == float("inf")
    loop = slow_loop(fleet, tmp_path)
    loop.counts.add(time.time(), (), "lyon")
    (tmp_path / "demand.msgpack").write_bytes(loop.counts.to_bytes())
    assert slow_loop(fleet, tmp_path).counts.heard_until_s("lyon") > time.time()


def test_the_slow_loop_decides_by_the_carbon_signal_that_the_fleet_names(
    fleet: Fleet, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    now_s = time.time() // 3_600.0 * 3_600.0

    def ask(setting: FeedSetting, _: float) -> Answer:
        meaning = Meaning(
            quantity=setting.quantity, unit="gCO2e/kWh", signal="marginal", zone=setting.zone,
            source="made", licence="-",
        )  # fmt: skip
        return Answer(
            series=(history({now_s - h * 3_600.0: 700.0 for h in range(480)}, 3_600.0, meaning),)
        )

    settings = [
        FeedSetting(provider="csv", zone=one.id, quantity="marginal_intensity", path="x")
        for one in fleet.sites
    ]
    live = LiveFeed(settings, ask={"csv": ask})
    live.ask(now_s)
    slow = replace(fleet.slow_loop, carbon_signal="marginal")
    for one, wanted in ((fleet, "average_location"), (replace(fleet, slow_loop=slow), "marginal")):
        loop = SlowLoop(one, tmp_path, Feed, live, lambda _: None, lambda: None)
        for site in loop._outlook(now_s).sites:
            assert site.carbon_signal == wanted
            assert (site.carbon_g_per_kwh[0] == pytest.approx(700.0)) == (wanted == "marginal")
    # A feed that has fallen silent keeps nobody from a placement: by averages, everywhere, until it speaks again.
    for later_s, known in ((5 * 3_600.0, False), (6 * 3_600.0, False), (0.0, True)):
        found = {site.carbon_signal for site in loop._outlook(now_s + later_s).sites}
        assert found == {"marginal" if known else "average_location"}
    said = capfd.readouterr()
    told = [line for line in (said.out + said.err).splitlines() if "outlooks go by" in line]
    assert len(told) == 2 and "average_location instead of marginal" in told[0]
    assert told[1].endswith("outlooks go by marginal")


def test_who_asks_for_what_stands_nowhere_wakes_the_slow_loop_and_once_is_enough(
    fleet: Fleet, tmp_path: Path
) -> None:
    dispatcher = Dispatcher("fleet")
    dispatcher.handle(ev.FleetLoaded(at_s=0.0, fleet=fleet))
    loop = SlowLoop(fleet, tmp_path, Feed, LiveFeed([]), lambda _: None, lambda: dispatcher.belief)
    meter = DemandMeter(fleet, "lyon")

    def wakes() -> bool:
        meter.add(row(fleet))
        hear(loop, meter.take(time.time(), 0.0))
        return loop._woken.is_set()

    assert not wakes()  # it is placed by the file
    dispatcher.handle(ev.PlacementDecided(at_s=1.0, source="a person", placements=()))
    assert wakes()
    asyncio.run(asyncio.wait_for(loop.pause(60.0), 5.0))
    assert not wakes()


def test_a_load_target_is_in_the_outlook_and_a_new_one_waits_for_nobody(
    fleet: Fleet, tmp_path: Path
) -> None:
    loop, now_s = slow_loop(fleet, tmp_path), time.time()

    def wakes(*told: tuple[float, float, float], later_s: float = 0.0) -> bool:
        loop._woken.clear()
        loop.see(replace(views.status("lyon"), at_s=now_s + later_s, load_bounds=told))
        return loop._woken.is_set()

    assert not wakes()
    assert wakes((now_s, now_s + 5_000.0, 7.5))
    assert not wakes((now_s + 1.0, now_s + 5_000.0, 7.5), later_s=1.0), (
        "the same, told a second later"
    )
    sites = {site.site: site.load_kw_max for site in loop._outlook(now_s).sites}
    assert set(sites.pop("lyon")[:1]) == {7.5}
    assert set(sites.values()) == {()}
    last = loop._outlook(now_s).sites
    assert next(s for s in last if s.site == "lyon").load_kw_max[3:] == (UNBOUND_KW,) * 45
    assert wakes((now_s + 2.0, math.inf, 7.5))
    assert wakes((now_s + 900.0, math.inf, 7.5)) and wakes((now_s + 600.0, math.inf, 7.5))
    loop._woken.clear()
    loop.see(replace(views.status("lyon"), load_bounds=None))
    assert not loop._woken.is_set(), "an agent that has just begun does not know yet"
    assert wakes()
    assert all(site.load_kw_max == () for site in loop._outlook(now_s).sites)

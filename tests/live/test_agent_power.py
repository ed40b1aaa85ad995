"""A live site's power account: the same balance as the twin's, carried from tick to tick."""

from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hanse.dispatch.follow import BatteryPlan, SiteSchedule
from hanse.live.agent_battery import FILE, BatteryFile
from hanse.live.agent_power import BATTERY_SHARE_START, PEAK, STEP_S_MAX, PowerKeeper
from hanse.model.fleet import Power, SlowLoop
from hanse.model.read import read_fleet
from hanse.signals import Feed, Override
from hanse.view import PowerStatus

FILED = read_fleet(Path(__file__).parents[2] / "examples/league.toml")
FLEET = msgspec.structs.replace(FILED, slow_loop=SlowLoop(places=True))
JUNE_NOON_S = datetime(2026, 6, 9, 12, tzinfo=UTC).timestamp()
MIDNIGHT_S = datetime(2026, 6, 9, 23, tzinfo=UTC).timestamp()


def scenario(**fields: object) -> bytes:
    raw = {"place": "*", "from_s": 0.0, "until_s": 4e9, "reason": "a test's sky", **fields}
    return msgspec.msgpack.encode(Feed(overrides=(msgspec.convert(raw, Override),)))


@given(st.floats(0, 20_000), st.floats(0, 86_400), st.sampled_from([s.id for s in FLEET.sites]))
def test_what_a_site_draws_is_what_it_is_given(it_w: float, later_s: float, site: str) -> None:
    keeper = PowerKeeper(FLEET, site)
    status = keeper.status(JUNE_NOON_S + later_s, it_w)
    own = status.pv_kw + status.wind_kw
    assert min(own, status.import_kw, status.export_kw) >= 0.0
    assert status.import_kw == 0.0 or status.export_kw == 0.0
    base_kw = next(s.power.base_kw for s in FLEET.sites if s.id == site)
    assert keeper.drawn_kw == pytest.approx(base_kw + it_w / 1000.0 * status.pue)
    if keeper.drawn_kw <= keeper.available_kw:
        assert status.import_kw <= keeper.drawn_kw - min(own, keeper.drawn_kw) + 1e-9


def test_at_night_the_battery_serves_until_it_is_empty_and_then_the_grid() -> None:
    keeper = PowerKeeper(FLEET, "frankfurt")
    power = next(s.power for s in FLEET.sites if s.id == "frankfurt")
    imports = [keeper.status(MIDNIGHT_S + STEP_S_MAX * i, 0.0).import_kw for i in range(120)]
    assert imports[0] == imports[60] == 0.0
    assert imports[-1] == pytest.approx(power.base_kw)
    held_kwh = power.battery_kwh * BATTERY_SHARE_START
    empty_at = next(i for i, kw in enumerate(imports) if kw > 0.0)
    assert empty_at == pytest.approx(0.95 * held_kwh / power.base_kw * 60, abs=3)
    assert keeper.available_kw == pytest.approx(power.grid_kw_max, abs=1.0)


def test_a_scenario_of_the_controller_is_heard_and_noise_is_not() -> None:
    keeper = PowerKeeper(FLEET, "frankfurt")
    plain = keeper.status(JUNE_NOON_S, 0.0)
    keeper.hear_control(b"not a feed")
    assert keeper.status(JUNE_NOON_S, 0.0).pv_kw == plain.pv_kw
    keeper.hear_control(scenario(kind="cloud_pct", value=100.0))
    assert keeper.status(JUNE_NOON_S, 0.0).pv_kw < plain.pv_kw or plain.pv_kw == 0.0
    keeper.hear_control(scenario(kind="cloud_pct", value=0.0))
    assert keeper.status(JUNE_NOON_S, 0.0).pv_kw > 40.0


def test_a_capped_grid_an_empty_battery_and_a_heat_wave_are_told_apart() -> None:
    keeper = PowerKeeper(FLEET, "frankfurt")
    power = next(s.power for s in FLEET.sites if s.id == "frankfurt")
    keeper.status(MIDNIGHT_S, 0.0)
    whole_kw = keeper.available_kw
    keeper.hear_control(scenario(kind="grid_factor", value=0.0))
    keeper.status(MIDNIGHT_S + 1, 0.0)
    assert keeper.cause == "grid cap"
    assert keeper.available_kw == pytest.approx(whole_kw - power.grid_kw_max, abs=1.0)
    causes = set()
    for minute in range(240):
        keeper.status(MIDNIGHT_S + 60.0 * minute, 0.0)
        causes.add(keeper.cause)
    assert causes == {"grid cap", "battery low"}
    assert keeper.available_kw < 1.0
    hot = PowerKeeper(FLEET, "frankfurt")
    hot.hear_control(scenario(kind="warmer_k", value=40.0))
    hot.status(JUNE_NOON_S, 0.0)
    assert hot.cause == "heat"
    assert hot.available_kw < PowerKeeper(FLEET, "frankfurt").available_kw + 1e3


def test_another_price_is_not_another_battery() -> None:
    keeper = PowerKeeper(FLEET, "frankfurt")
    held = [keeper.status(MIDNIGHT_S + STEP_S_MAX * i, 0.0).battery_kwh for i in range(20)][-1]
    site = next(s for s in FLEET.sites if s.id == "frankfurt")
    assert held is not None and held < site.power.battery_kwh * BATTERY_SHARE_START

    def after(power: Power) -> float | None:
        others = tuple(s for s in FLEET.sites if s.id != "frankfurt")
        changed = msgspec.structs.replace(site, power=power)
        keeper.follow(msgspec.structs.replace(FLEET, sites=(changed, *others)))
        return keeper.status(MIDNIGHT_S + STEP_S_MAX * 19, 0.0).battery_kwh

    dearer = msgspec.structs.replace(site.power, usd_per_kw_month=20.0, base_kw=40.0)
    assert after(dearer) == pytest.approx(held)
    larger = msgspec.structs.replace(dearer, battery_kwh=2.0 * site.power.battery_kwh)
    assert after(larger) == pytest.approx(2.0 * site.power.battery_kwh * BATTERY_SHARE_START)


# --- the plan of the battery


def planned(
    *,
    start_s: float,
    charge: float = 0.0,
    discharge: float = 0.0,
    epoch: int = 1,
    site: str = "frankfurt",
) -> bytes:
    steps = 24
    battery = BatteryPlan(
        start_s=start_s,
        step_s=(300.0,) * steps,
        own_charge_kw=(0.0,) * steps,
        grid_charge_kw=(charge,) * steps,
        discharge_kw=(discharge,) * steps,
    )
    told = SiteSchedule(
        site=site, epoch=epoch, issued_at_s=start_s, valid_s=7200.0, battery=battery
    )
    return msgspec.msgpack.encode(told)


def test_a_battery_follows_its_plan_and_goes_back_to_its_own_rule_when_that_is_old() -> None:
    keeper = PowerKeeper(FLEET, "frankfurt")
    assert keeper.status(MIDNIGHT_S, 0.0).battery_why.startswith("no plan")
    assert keeper.hear_schedule(planned(start_s=MIDNIGHT_S, charge=5.0), epoch=1)
    held = [keeper.status(MIDNIGHT_S + 60.0 * n, 0.0) for n in range(1, 5)]
    assert all(s.charge_kw == pytest.approx(5.0) and s.discharge_kw == 0.0 for s in held)
    assert held[-1].import_kw == pytest.approx(keeper.drawn_kw + 5.0), "bought for later"
    assert held[-1].battery_kwh > held[0].battery_kwh  # type: ignore[operator]
    later = keeper.status(MIDNIGHT_S + 7200.0, 0.0)
    assert later.battery_why.startswith("the plan is too old")
    assert later.charge_kw == 0.0 and later.discharge_kw > 0.0


def test_a_battery_that_covers_a_shortage_does_not_say_that_it_waits() -> None:
    keeper = PowerKeeper(FLEET, "frankfurt")
    assert keeper.hear_schedule(planned(start_s=MIDNIGHT_S), epoch=1)
    waits = keeper.status(MIDNIGHT_S + 1.0, 0.0)
    assert (waits.battery_why, waits.discharge_kw) == ("planned: it waits", 0.0)
    keeper.hear_control(scenario(kind="grid_factor", value=0.0))
    gives = keeper.status(MIDNIGHT_S + 2.0, 0.0)
    assert gives.discharge_kw == pytest.approx(keeper.drawn_kw)
    assert gives.battery_why.startswith("the connection gives too little")


def test_what_is_old_or_anothers_changes_no_plan() -> None:
    keeper = PowerKeeper(FLEET, "frankfurt")
    assert keeper.hear_schedule(planned(start_s=100.0, epoch=3), epoch=3)
    for content, epoch in (
        (planned(start_s=99.0, epoch=3), 3),
        (planned(start_s=200.0, epoch=2), 2),
        (planned(start_s=200.0, epoch=3), 4),
        (planned(start_s=300.0, epoch=9, site="lyon"), 3),
        (b"\xc1", 3),
    ):
        assert not keeper.hear_schedule(content, epoch)
    assert keeper.hear_schedule(planned(start_s=200.0, epoch=3), epoch=3)


def test_what_a_battery_holds_and_its_plan_outlive_the_agent(tmp_path: Path) -> None:
    keeper = PowerKeeper(FLEET, "frankfurt", tmp_path, MIDNIGHT_S)
    keeper.hear_schedule(planned(start_s=MIDNIGHT_S, charge=5.0, epoch=3), epoch=3)
    held = [keeper.status(MIDNIGHT_S + 60.0 * n, 0.0).battery_kwh for n in range(11)][-1]
    again = PowerKeeper(FLEET, "frankfurt", tmp_path, MIDNIGHT_S + 620.0)
    first = again.status(MIDNIGHT_S + 620.0, 0.0)
    assert first.battery_kwh == pytest.approx(held, abs=0.01)
    assert (first.battery_why, first.charge_kw) == ("planned", pytest.approx(5.0))
    assert not again.hear_schedule(planned(start_s=MIDNIGHT_S, epoch=3), epoch=3), "the same"
    assert again.hear_schedule(planned(start_s=MIDNIGHT_S + 300.0, epoch=3), epoch=3)
    (tmp_path / FILE).write_bytes(b"no battery")
    power = next(s.power for s in FLEET.sites if s.id == "frankfurt")
    anew = PowerKeeper(FLEET, "frankfurt", tmp_path, MIDNIGHT_S + 620.0)
    assert anew.status(MIDNIGHT_S + 620.0, 0.0).battery_kwh == pytest.approx(
        power.battery_kwh * BATTERY_SHARE_START, abs=0.1
    )


def test_of_what_was_kept_only_what_can_still_be_true_is_taken(tmp_path: Path) -> None:
    site = next(s for s in FLEET.sites if s.id == "frankfurt")
    half_kwh = site.power.battery_kwh * BATTERY_SHARE_START
    keeper = PowerKeeper(FLEET, "frankfurt", tmp_path, MIDNIGHT_S)
    plan = planned(start_s=MIDNIGHT_S, charge=20.0)
    assert keeper.hear_schedule(plan, epoch=0)
    held = [keeper.status(MIDNIGHT_S + 60.0 * n, 0.0).battery_kwh for n in range(61)][-1]
    assert held is not None and held > half_kwh + 5.0
    at_s = MIDNIGHT_S + 3600.0

    def told(now_s: float, kwh: float = site.power.battery_kwh) -> PowerStatus:
        small = msgspec.structs.replace(
            site, power=msgspec.structs.replace(site.power, battery_kwh=kwh)
        )
        fleet = msgspec.structs.replace(FLEET, sites=(small,))
        one = PowerKeeper(fleet, "frankfurt", None, now_s)
        one._battery_file = BatteryFile(tmp_path)
        one._go_on(now_s)
        return one.status(now_s, 0.0)

    assert told(at_s + 1.0).battery_kwh == pytest.approx(held, abs=0.1)
    assert told(at_s + 1.0, held - 3.0).battery_kwh == pytest.approx(held - 3.0, abs=0.1)
    for another_hour_s in (at_s + 3700.0, at_s - 3700.0):
        late = told(another_hour_s)
        assert late.battery_kwh == pytest.approx(half_kwh, abs=0.1)
        assert late.battery_why.startswith("no plan")
    sped = msgspec.msgpack.decode(plan, type=SiteSchedule)
    short = msgspec.structs.replace(sped, valid_s=240.0, issued_at_s=sped.issued_at_s + 1.0)
    assert keeper.hear_schedule(msgspec.msgpack.encode(short), epoch=0)
    keeper.status(at_s + 60.0, 0.0)
    over = told(at_s + 61.0)
    assert over.battery_why.startswith("no plan")
    assert over.battery_kwh == pytest.approx(held, abs=1.0)


def test_a_disk_that_keeps_no_battery_costs_no_report(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    keeper = PowerKeeper(FLEET, "frankfurt", tmp_path, MIDNIGHT_S)
    keeper._battery_file = BatteryFile(tmp_path / "gone")
    held = [keeper.status(MIDNIGHT_S + 6.0 * n, 0.0).battery_kwh for n in range(10)]
    assert held[-1] is not None and held[0] is not None and held[-1] < held[0]
    said = capfd.readouterr()
    assert (said.out + said.err).count("is not kept") == 1


def test_a_battery_lives_by_the_clock_that_the_weather_is_played_by() -> None:
    slow, fast = PowerKeeper(FLEET, "frankfurt"), PowerKeeper(FLEET, "frankfurt")
    fast.hear_control(msgspec.msgpack.encode(Feed(clock_speed=30.0, clock_from_s=MIDNIGHT_S)))
    for keeper in (slow, fast):
        keeper.hear_schedule(planned(start_s=MIDNIGHT_S, charge=2.0), epoch=0)
        keeper.status(MIDNIGHT_S, 0.0)
    before = fast.status(MIDNIGHT_S + 1.0, 0.0).battery_kwh
    after = fast.status(MIDNIGHT_S + 11.0, 0.0).battery_kwh
    slow.status(MIDNIGHT_S + 1.0, 0.0)
    first = slow.status(MIDNIGHT_S + 11.0, 0.0).battery_kwh
    again = slow.status(MIDNIGHT_S + 21.0, 0.0).battery_kwh
    assert None not in (before, after, first, again)
    assert after - before == pytest.approx(30.0 * (again - first), rel=1e-3)  # type: ignore[operator]


def test_the_months_peak_outlives_the_agent_and_not_the_month(tmp_path: Path) -> None:
    """A quarter of an hour counts when it is over."""

    def drawn(keeper: PowerKeeper, from_s: float, minutes: int, it_w: float) -> float:
        found = [keeper.status(from_s + 60.0 * i, it_w) for i in range(minutes + 1)]
        return found[-1].peak_import_kw

    bare = tuple(msgspec.structs.replace(s, power=Power(grid_kw_max=60.0)) for s in FLEET.sites)
    fleet = msgspec.structs.replace(FLEET, sites=bare)
    keeper = PowerKeeper(fleet, "frankfurt", tmp_path)
    assert drawn(keeper, MIDNIGHT_S, 14, 20_000.0) == 0.0
    peak_kw = drawn(keeper, MIDNIGHT_S + 15 * 60.0, 30, 10_000.0)
    pue = keeper.status(MIDNIGHT_S + 46 * 60.0, 0.0).pue
    assert peak_kw == pytest.approx(20.0 * pue, rel=0.07), (
        "less the first step, which nobody saw whole"
    )
    again = PowerKeeper(fleet, "frankfurt", tmp_path)
    assert drawn(again, MIDNIGHT_S + 3600.0, 30, 1_000.0) == pytest.approx(peak_kw)
    assert drawn(again, MIDNIGHT_S + 40 * 86_400.0, 31, 1_000.0) < 0.2 * peak_kw
    (tmp_path / PEAK).write_bytes(b"no peak")
    assert PowerKeeper(fleet, "frankfurt", tmp_path).status(MIDNIGHT_S, 0.0).peak_import_kw == 0.0


def test_what_the_grid_does_not_take_back_goes_into_the_battery_and_then_is_lost() -> None:
    power = Power(
        grid_kw_max=60.0, pv_kw_peak=40.0, battery_kwh=5.0, battery_kw_max=50.0, export_kw_max=0.0
    )
    fleet = msgspec.structs.replace(
        FLEET, sites=tuple(msgspec.structs.replace(s, power=power) for s in FLEET.sites)
    )
    keeper = PowerKeeper(fleet, "frankfurt")
    keeper.hear_control(scenario(kind="cloud_pct", value=0.0))
    said = [keeper.status(JUNE_NOON_S + 60.0 * i, 0.0) for i in range(60)]
    assert said[0].pv_kw > 20.0
    assert all(one.export_kw == 0.0 for one in said)
    assert said[-1].battery_kwh == pytest.approx(5.0, rel=0.01)


def test_where_no_controller_places_no_plan_of_one_is_followed() -> None:
    keeper = PowerKeeper(FLEET, "frankfurt")
    assert keeper.hear_schedule(planned(start_s=MIDNIGHT_S, charge=5.0), epoch=1)
    keeper.follow(FILED)
    assert "no plan" in keeper.status(MIDNIGHT_S + 1.0, 0.0).battery_why
    assert not keeper.hear_schedule(planned(start_s=MIDNIGHT_S + 60.0, charge=5.0), epoch=1)
    keeper.follow(FLEET)
    assert keeper.hear_schedule(planned(start_s=MIDNIGHT_S + 120.0, charge=5.0), epoch=1)

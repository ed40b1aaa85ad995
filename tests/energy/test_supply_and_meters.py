"""Power and energy balance: nothing negative, nothing lost, nobody charged for idle."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hanse.energy import Battery, site_supply, split_energy
from hanse.energy.supply import CHARGE_EFFICIENCY, DISCHARGE_EFFICIENCY
from hanse.units import SECONDS_PER_HOUR

KW = st.floats(0, 1e4)
BATTERY = st.builds(
    lambda capacity, power, share: Battery(
        capacity_kwh=capacity, power_kw_max=power, stored_kwh=capacity * share
    ),
    st.floats(0, 1e4),
    KW,
    st.floats(0, 1),
)
WH = st.floats(0, 1e6)


@given(KW, KW, KW, KW, BATTERY, st.floats(1, SECONDS_PER_HOUR))
def test_every_flow_is_unsigned_and_the_site_balances(
    load: float, pv: float, wind: float, grid: float, battery: Battery, step_s: float
) -> None:
    f = site_supply(
        load_kw=load, pv_kw=pv, wind_kw=wind, grid_kw_max=grid, battery=battery, step_s=step_s
    )
    flows = (f.charge_kw, f.discharge_kw, f.import_kw, f.export_kw, f.curtailed_kw, f.unserved_kw)
    assert min(flows) >= 0.0
    used = f.load_kw + f.charge_kw + f.export_kw + f.curtailed_kw
    given_kw = f.generated_kw + f.discharge_kw + f.import_kw + f.unserved_kw
    assert used == pytest.approx(given_kw, rel=1e-9, abs=1e-9)


@given(KW, KW, KW, BATTERY, st.floats(1, SECONDS_PER_HOUR))
def test_limits_of_grid_and_battery_hold_and_energy_is_not_made(
    load: float, pv: float, grid: float, battery: Battery, step_s: float
) -> None:
    f = site_supply(
        load_kw=load, pv_kw=pv, wind_kw=0.0, grid_kw_max=grid, battery=battery, step_s=step_s
    )
    assert max(f.import_kw, f.export_kw) <= grid
    assert max(f.charge_kw, f.discharge_kw) <= battery.power_kw_max
    assert 0.0 <= f.stored_kwh <= battery.capacity_kwh
    assert f.import_kw == 0.0 or f.export_kw == 0.0
    assert f.charge_kw == 0.0 or f.discharge_kw == 0.0
    hours = step_s / SECONDS_PER_HOUR
    gained = (f.charge_kw * CHARGE_EFFICIENCY - f.discharge_kw / DISCHARGE_EFFICIENCY) * hours
    assert f.stored_kwh - battery.stored_kwh == pytest.approx(gained, rel=1e-9, abs=1e-6)


def test_the_sun_serves_first_then_the_battery_then_the_grid() -> None:
    battery = Battery(capacity_kwh=100, power_kw_max=10, stored_kwh=50)
    f = site_supply(load_kw=40, pv_kw=20, wind_kw=5, grid_kw_max=60, battery=battery, step_s=300)
    assert (f.discharge_kw, f.import_kw, f.export_kw) == (10, 5, 0)


def test_surplus_fills_the_battery_first_and_what_the_grid_cannot_take_is_curtailed() -> None:
    battery = Battery(capacity_kwh=100, power_kw_max=10, stored_kwh=0)
    f = site_supply(load_kw=5, pv_kw=80, wind_kw=0, grid_kw_max=60, battery=battery, step_s=300)
    assert (f.charge_kw, f.export_kw, f.curtailed_kw) == (10, 60, 5)


def test_load_beyond_the_connection_is_named_not_hidden() -> None:
    battery = Battery(capacity_kwh=0, power_kw_max=0, stored_kwh=0)
    f = site_supply(load_kw=10, pv_kw=0, wind_kw=0, grid_kw_max=6, battery=battery, step_s=300)
    assert (f.import_kw, f.unserved_kw) == (6, 4)


@given(WH, WH, st.lists(st.floats(0, 1e6), max_size=40))
def test_shares_are_unsigned_and_add_up_to_the_meter(
    measured: float, idle: float, work: list[float]
) -> None:
    split = split_energy(measured_wh=measured, idle_wh=idle, work_units=work)
    assert len(split.request_wh) == len(work)
    assert min((*split.request_wh, split.site_wh)) >= 0.0
    assert sum(split.request_wh) + split.site_wh == pytest.approx(measured, rel=1e-9, abs=1e-12)


@given(WH, WH, st.lists(st.floats(1e-3, 1e6), min_size=2, max_size=20))
def test_more_work_never_gets_less_energy_and_idle_is_never_charged(
    measured: float, idle: float, work: list[float]
) -> None:
    split = split_energy(measured_wh=measured, idle_wh=idle, work_units=work)
    shares = [wh for _, wh in sorted(zip(work, split.request_wh, strict=True))]
    assert shares == sorted(shares)
    assert split.site_wh >= min(idle, measured) - 1e-12 * measured  # the rounding of a sum


def test_two_requests_share_the_dynamic_energy_by_work() -> None:
    split = split_energy(measured_wh=10.0, idle_wh=4.0, work_units=[1.0, 2.0])
    assert split.request_wh == pytest.approx((2.0, 4.0))
    assert split.site_wh == pytest.approx(4.0)


def test_an_interval_without_work_is_all_the_sites() -> None:
    assert split_energy(measured_wh=7.0, idle_wh=4.0, work_units=[]).site_wh == 7.0
    assert split_energy(measured_wh=3.0, idle_wh=4.0, work_units=[5.0]).request_wh == (0.0,)

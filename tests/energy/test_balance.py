"""A step of a site: in equals out, no store runs over or dry, and order and rules are kept."""

import math
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from energy.cases import KW, MILD, outsides, params, plain_of, plain_outside, record, site, sites
from hanse.energy import PLANTS, Plant, Storage, states
from hanse.energy.balance import site_step
from hanse.energy.records import OUT_DTYPE
from hanse.model.fleet import Site
from hanse.units import SECONDS_PER_HOUR

STEP_S = st.sampled_from([1.0, 60.0, 300.0, 900.0, 3600.0])
RUNS = st.lists(st.tuples(outsides(), KW), min_size=1, max_size=6)


def run(
    one: Site, plant: Plant, steps: list[tuple[dict[str, float], float]], step_s: float = 300.0
) -> tuple[list[Any], Any]:
    """Output rows and the state at the end, by the plain functions."""
    p, s = params(one, plant), states((one,), {one.id: plant})[0]
    rows = np.zeros(len(steps), OUT_DTYPE)
    for row, (x, it_kw) in zip(rows, steps, strict=True):
        site_step(p, s, record(x), it_kw, step_s, row)
    return list(rows), s


def battery(share: float = 0.5, **fields: Any) -> Plant:
    """A site of nothing but a lossless battery, so that flows can be told in the head."""
    storage = Storage(
        charge_efficiency=1, discharge_efficiency=1, self_discharge_per_h=0, start_share=share
    )
    return msgspec.structs.replace(
        PLANTS["micro"],
        storage=msgspec.structs.replace(storage, **fields),
        ups=msgspec.structs.replace(PLANTS["micro"].ups, rated_share=0.0),
        it_kw_rated=0.0,
    )


@given(sites(), RUNS, STEP_S)
def test_what_goes_in_comes_out_within_a_billionth(
    case: tuple[Site, Plant], steps: list[tuple[dict[str, float], float]], step_s: float
) -> None:
    rows, _ = run(*case, steps, step_s)
    for row, (x, _it) in zip(rows, steps, strict=True):
        given_kw = x["pv_kw"] + x["wind_kw"] + row["discharge_kw"] + row["ups_discharge_kw"]
        given_kw += row["import_kw"] + row["unserved_kw"]
        taken_kw = row["facility_kw"] + row["charge_kw"] + row["ups_charge_kw"]
        taken_kw += row["export_kw"] + row["curtailed_kw"]
        assert taken_kw == pytest.approx(given_kw, rel=1e-9, abs=1e-9)


@given(sites(), RUNS, STEP_S)
def test_what_stores_gain_is_what_went_in_less_losses(
    case: tuple[Site, Plant], steps: list[tuple[dict[str, float], float]], step_s: float
) -> None:
    one, plant = case
    before = float(np.sum([states((one,), {one.id: plant})[n] for n in ("battery_kwh", "ups_kwh")]))
    rows, s = run(one, plant, steps, step_s)
    hours = step_s / SECONDS_PER_HOUR
    gained, moved = 0.0, before
    for row in rows:
        came = row["charge_kw"] + row["ups_charge_kw"]
        went = row["discharge_kw"] + row["ups_discharge_kw"] + row["storage_loss_kw"]
        gained += (came - went) * hours
        moved += (came + went) * hours
    assert s["battery_kwh"] + s["ups_kwh"] - before == pytest.approx(gained, abs=1e-9 * moved)


@given(sites(), RUNS, STEP_S)
def test_limits_hold_and_no_flow_is_signed(
    case: tuple[Site, Plant], steps: list[tuple[dict[str, float], float]], step_s: float
) -> None:
    one, plant = case
    p = params(one, plant)
    rows, s = run(one, plant, steps, step_s)
    for row, (x, it_kw) in zip(rows, steps, strict=True):
        numbers = [row[name] for name in OUT_DTYPE.names or () if name != "pue"]
        assert min(numbers) >= 0.0
        assert row["import_kw"] <= p["grid_kw_max"] * (1 + 1e-12)
        assert row["export_kw"] <= p["export_kw_max"]
        assert max(row["charge_kw"], row["discharge_kw"]) <= p["battery_kw_max"]
        assert row["charge_kw"] == 0.0 or row["discharge_kw"] == 0.0
        assert row["import_kw"] == 0.0 or row["export_kw"] == 0.0
        assert 0.0 <= row["battery_kwh"] <= p["battery_kwh"]
        assert row["unserved_kw"] <= row["facility_kw"]
        assert row["carbon_free_kwh"] * SECONDS_PER_HOUR <= row["facility_kw"] * step_s * (1 + 1e-9)
        used = row["pv_used_kw"] + row["wind_used_kw"]
        assert used <= (x["pv_kw"] + x["wind_kw"]) * (1 + 1e-12)
        if x["grid_up"] == 0.0:
            assert row["import_kw"] == row["export_kw"] == 0.0
        assert row["pue"] > 1.0 if it_kw > 0.0 else math.isnan(row["pue"])
    assert 0.0 <= s["battery_clean_kwh"] <= s["battery_kwh"]
    assert 0.0 <= s["ups_kwh"] <= p["ups_kwh"]


@given(sites(), RUNS, STEP_S)
def test_every_figure_is_that_of_the_plain_reference(
    case: tuple[Site, Plant], steps: list[tuple[dict[str, float], float]], step_s: float
) -> None:
    one, plant = case
    plain = plain_of(one, plant)
    rows, s = run(one, plant, steps, step_s)
    hours = step_s / SECONDS_PER_HOUR
    for x, it_kw in steps:
        plain.step(it_kw, plain_outside(x), hours)
    scale = sum(r["facility_kw"] for r in rows) + sum(x["pv_kw"] + x["wind_kw"] for x, _ in steps)
    slack_kwh = 1e-9 * (scale * hours + one.power.battery_kwh + plain.ups_kwh)
    for name, amount in plain.sums.items():
        column = name.replace("_kwh", "_kw") if name != "carbon_free_kwh" else name
        factor = hours if column.endswith("_kw") else 1.0
        got = sum(float(row[column]) * factor for row in rows)
        slack = slack_kwh * (1000.0 if "_g" in name else 10.0)
        assert got == pytest.approx(amount, rel=1e-9, abs=slack), name
    assert s["battery_kwh"] == pytest.approx(plain.held, rel=1e-9, abs=slack_kwh)
    assert s["battery_clean_kwh"] == pytest.approx(plain.clean, rel=1e-9, abs=slack_kwh)
    assert s["ups_kwh"] == pytest.approx(plain.ups_held, rel=1e-9, abs=slack_kwh)


def test_by_surplus_the_sun_serves_first_then_the_battery_then_the_grid() -> None:
    one = site(grid_kw_max=60, base_kw=40, battery_kwh=100, battery_kw_max=10)
    (row,), _ = run(one, battery(), [({**MILD, "pv_kw": 20.0, "wind_kw": 5.0}, 0.0)])
    assert (row["discharge_kw"], row["import_kw"], row["export_kw"]) == (10, 5, 0)
    assert (row["pv_used_kw"], row["wind_used_kw"]) == (20, 5)


def test_surplus_fills_the_battery_then_the_line_and_the_rest_is_curtailed() -> None:
    one = site(grid_kw_max=60, base_kw=5, battery_kwh=100, battery_kw_max=10)
    (row,), _ = run(one, battery(0.0), [({**MILD, "pv_kw": 80.0}, 0.0)])
    assert (row["charge_kw"], row["export_kw"], row["curtailed_kw"]) == (10, 60, 5)
    assert row["pv_used_kw"] == pytest.approx(15)


@pytest.mark.parametrize(
    ("rule", "field", "cheap", "dear"),
    [("price", "price_usd_per_kwh", 0.1, 0.4), ("carbon", "carbon_g_per_kwh", 100, 400)],
)
def test_by_threshold_the_grid_fills_the_battery_below_and_it_serves_above_and_rests_between(
    rule: str, field: str, cheap: float, dear: float
) -> None:
    one = site(grid_kw_max=60, base_kw=20, battery_kwh=100, battery_kw_max=10)
    plant = battery(rule=rule, signal_low=cheap, signal_high=dear)
    steps = [({**MILD, field: v}, 0.0) for v in (cheap, (cheap + dear) / 2, dear)]
    rows, _ = run(one, plant, steps)
    assert [(r["charge_kw"], r["discharge_kw"]) for r in rows] == [(10, 0), (0, 0), (0, 10)]
    assert [r["import_kw"] for r in rows] == [30, 20, 10]


def test_a_plan_is_followed_as_far_as_room_content_and_line_let() -> None:
    one = site(grid_kw_max=25, base_kw=20, battery_kwh=10, battery_kw_max=50)
    plans = [(40.0, 0.0), (0.0, 40.0), (3.0, 7.0)]
    steps = [
        ({**MILD, "plan_charge_kw": c, "plan_discharge_kw": d, "base": 0.0}, 0.0) for c, d in plans
    ]
    rows, _ = run(one, battery(rule="plan"), steps)
    assert [(r["charge_kw"], r["discharge_kw"]) for r in rows] == [(5, 0), (0, 20), (3, 0)]
    sold, _ = run(one, battery(rule="plan", export=True), steps[1:2])
    assert (sold[0]["discharge_kw"], sold[0]["export_kw"]) == (40, 20)


def test_whatever_the_rule_the_battery_gives_what_the_connection_cannot_down_to_its_floor() -> None:
    one = site(grid_kw_max=15, base_kw=20, battery_kwh=10, battery_kw_max=50)
    for rule in ("price", "carbon", "plan"):
        plant = battery(rule=rule, soc_reserve=0.9, soc_min=0.49, signal_low=1e9)
        rows, _ = run(one, plant, [(MILD, 0.0)] * 2)
        assert [r["discharge_kw"] for r in rows] == pytest.approx([1.2, 0.0])
        assert [r["unserved_kw"] for r in rows] == pytest.approx([3.8, 5.0])


def test_in_an_outage_sun_and_battery_carry_on_and_the_ups_gives_it_load_its_last_minutes() -> None:
    one = site(grid_kw_max=100, battery_kwh=1, battery_kw_max=50)
    plant = msgspec.structs.replace(PLANTS["micro"], it_kw_rated=50.0)
    dark = {**MILD, "grid_up": 0.0, "pv_kw": 5.0}
    rows, s = run(one, plant, [(dark, 20.0)] * 7 + [(MILD, 20.0)])
    served = [1 - r["unserved_kw"] / r["facility_kw"] for r in rows]
    assert rows[0]["discharge_kw"] > 5.0
    # Cooling is not on the UPS, so part is unserved at once; then the UPS runs dry.
    assert 0.5 < served[1] < 1.0 and served[5] < 0.2
    assert rows[1]["ups_discharge_kw"] > 20.0
    held_kwh = 50.0 * 10.0 / 60.0
    assert sum(r["ups_discharge_kw"] for r in rows) / 12 == pytest.approx(held_kwh)
    assert rows[-1]["ups_charge_kw"] > 0.0 and served[-1] == 1.0 and s["ups_kwh"] > 0.0


def test_without_island_mode_or_battery_own_generation_stops_with_the_grid() -> None:
    dark = {**MILD, "grid_up": 0.0, "pv_kw": 20.0}
    tied = msgspec.structs.replace(battery(0.0), island=False)
    both = {"battery_kwh": 10.0, "battery_kw_max": 10.0}
    for one, plant in ((site(base_kw=5, **both), tied), (site(base_kw=5), battery())):
        (row,), _ = run(one, plant, [(dark, 0.0)])
        assert (row["pv_used_kw"], row["curtailed_kw"], row["unserved_kw"]) == (0, 20, 5)
    (row,), _ = run(site(base_kw=5, **both), battery(0.0), [(dark, 0.0)])
    assert (row["pv_used_kw"], row["charge_kw"], row["unserved_kw"]) == (15, 10, 0)


def test_three_carbon_methods_answer_apart_and_an_unknown_one_is_nan_not_zero() -> None:
    plant = battery()
    contracts = msgspec.structs.replace(plant.contracts, renewable_share=0.5)
    plant = msgspec.structs.replace(plant, contracts=contracts)
    x = {**MILD, "carbon_g_per_kwh": 400.0, "residual_g_per_kwh": 600.0, "contract_kw": 3.0}
    (row,), _ = run(site(base_kw=12), plant, [(x, 0.0)])
    assert row["carbon_location_g"] == pytest.approx(400.0)
    assert row["carbon_market_g"] == pytest.approx(0.25 * 600 + 0.75 * 11)
    assert math.isnan(row["carbon_marginal_g"])


def test_exported_sun_takes_its_lifecycle_carbon_along_and_curtailed_sun_leaves_it() -> None:
    half = run(site(grid_kw_max=6, base_kw=6), battery(), [({**MILD, "pv_kw": 12.0}, 0.0)])[0][0]
    assert half["carbon_own_g"] == pytest.approx(41.0 / 2)
    none = run(site(grid_kw_max=0, base_kw=6), battery(), [({**MILD, "pv_kw": 12.0}, 0.0)])[0][0]
    assert none["carbon_own_g"] == pytest.approx(41.0)


def test_a_battery_gives_back_the_carbon_free_share_that_it_took() -> None:
    one = site(grid_kw_max=60, base_kw=10, battery_kwh=10, battery_kw_max=60)
    sunny, dark = {**MILD, "pv_kw": 70.0}, {**MILD, "carbon_free_share": 0.0}
    rows, _ = run(one, battery(0.0), [(sunny, 0.0), (dark, 0.0)])
    assert rows[1]["discharge_kw"] == 10.0
    assert rows[1]["carbon_free_kwh"] == pytest.approx(10.0 / 12)
    plan = [({**MILD, "plan_charge_kw": 50.0}, 0.0), ({**dark, "plan_discharge_kw": 50.0}, 0.0)]
    bought, _ = run(one, battery(0.0, rule="plan"), plan)
    assert bought[1]["carbon_free_kwh"] == pytest.approx(0.5 * 50 / 12 * 10 / 50)


def test_the_demand_peak_is_the_highest_quarter_of_an_hour() -> None:
    one, plant = site(base_kw=0), battery()
    loads = [30.0, 0.0, 0.0, 12.0, 12.0, 12.0, 90.0]
    steps = [({**MILD, "pv_kw": 0.0}, load) for load in loads]
    rows, _ = run(one, plant, steps)
    first, second = (np.mean([r["import_kw"] for r in rows[i : i + 3]]) for i in (0, 3))
    peaks = [r["peak_import_kw"] for r in rows]
    assert peaks == pytest.approx([0, 0, first, first, first, max(first, second)] * 1 + [peaks[-1]])
    assert peaks[-1] == peaks[-2]  # a window that has not ended does not count

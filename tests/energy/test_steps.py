"""Compiled and plain are one arithmetic, and a run of months is the sum of its steps."""

import ast
import csv
import gzip
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from effort import effort
from energy.cases import KW, MILD, outsides, plain_of, record, site, sites
from hanse.energy import (
    PLANTS,
    Contracts,
    Plant,
    Storage,
    balance,
    site_signals,
    solar,
    states,
    steps,
    supplies,
)
from hanse.energy.plant import it_kw_rated
from hanse.energy.records import HOUR_DTYPE, OUT_DTYPE, REPORT_DTYPE, SUMS_DTYPE
from hanse.energy.series import SiteSeries, site_series
from hanse.energy.solar import pv_kw
from hanse.energy.wind import wind_kw
from hanse.energy.year import YearResult, run_year
from hanse.errors import ConfigError
from hanse.model.fleet import Pool, Site
from hanse.signals import Feed, Series, StepAxis, site_steps
from hanse.units import SECONDS_PER_DAY, SECONDS_PER_HOUR

JUNE_S = datetime(2026, 6, 29, tzinfo=UTC).timestamp()
THREE_DAYS = StepAxis(start_s=JUNE_S, count=3 * 288)
FRANKFURT = site(
    base_kw=10.0, pv_kw_peak=80.0, wind_kw_rated=20.0, battery_kwh=100.0, battery_kw_max=50.0
)
DALLAS = msgspec.structs.replace(
    site("region", grid_kw_max=300.0),
    id="dallas",
    country="US",
    lat_deg=32.9,
    lon_deg=-97.0,
    grid_zone="US-TEX-ERCO",
    weather_zone="US-TEX-ERCO",
)
PLANTS_HERE = {
    "frankfurt": msgspec.structs.replace(
        PLANTS["micro"],
        it_kw_rated=50.0,
        contracts=Contracts(renewable_share=0.3, usd_per_kw_month=10.0, export_usd_per_kwh=0.05),
    )
}
BOTH = (FRANKFURT, DALLAS)


def bytes_of(array: np.ndarray) -> bytes:
    return array.tobytes()


@settings(max_examples=effort(60))
@given(sites(), st.lists(st.tuples(outsides(), KW), min_size=1, max_size=8))
def test_compiled_steps_are_bit_equal_to_plain_ones(
    case: tuple[Site, Plant], made: list[tuple[dict[str, float], float]]
) -> None:
    one, plant = case
    outside = np.array([[record(x) for x, _ in made]])
    it_kw = np.array([[kw for _, kw in made]])
    results = []
    for run in (steps.run_steps, balance.run_steps):
        state, out = states((one,), {one.id: plant}), np.zeros((1, len(made)), OUT_DTYPE)
        sums, hourly = np.zeros(1, SUMS_DTYPE), np.zeros((1, 1), HOUR_DTYPE)
        run(supplies((one,), {one.id: plant}), state, outside, it_kw, 300.0, sums, hourly, 0, out)
        results.append([bytes_of(a) for a in (state, out, sums, hourly)])
    assert results[0] == results[1]


def test_a_step_at_a_time_is_the_same_run() -> None:
    series = site_series(BOTH, Feed(), StepAxis(start_s=JUNE_S, count=24))
    params = supplies(BOTH, PLANTS_HERE)
    it_kw = np.full((2, 24), 30.0)
    whole, single = (
        (
            states(BOTH, PLANTS_HERE),
            np.zeros(2, SUMS_DTYPE),
            np.zeros((2, 2), HOUR_DTYPE),
            np.zeros((2, 24), OUT_DTYPE),
        )
        for _ in range(2)
    )
    state, sums, hourly, out = whole
    steps.run_steps(params, state, series.outside, it_kw, 300.0, sums, hourly, 0, out)
    state, sums, hourly, _ = single
    row = np.zeros(2, OUT_DTYPE)
    for t in range(24):
        arguments = (params, state, series.outside, t, it_kw[:, t].copy(), 300.0, sums, hourly)
        steps.step_sites(*arguments, t // 12, row)
        assert bytes_of(row) == bytes_of(out[:, t].copy())
    assert [bytes_of(a) for a in whole[:3]] == [bytes_of(a) for a in single[:3]]


def test_the_series_of_a_site_are_what_the_scalar_functions_say() -> None:
    series = site_series((FRANKFURT,), Feed(), THREE_DAYS)
    signals = site_steps(FRANKFURT, Feed(), THREE_DAYS)
    for t in range(0, THREE_DAYS.count, 7):
        pv = pv_kw(
            pv_kw_peak=80.0,
            lat_deg=FRANKFURT.lat_deg,
            lon_deg=FRANKFURT.lon_deg,
            tilt_deg=FRANKFURT.power.pv_tilt_deg,
            now_s=THREE_DAYS.start_s + (t + 0.5) * 300.0,
            cloud_pct=float(signals.cloud_pct[t]),
            temp_c=float(signals.temp_c[t]),
            wind_ms=float(signals.wind10_ms[t]),
        )
        wind = wind_kw(wind_kw_rated=20.0, wind10_ms=float(signals.wind10_ms[t]))
        assert series.outside["pv_kw"][0, t] == pytest.approx(pv, rel=1e-12, abs=1e-12)
        assert series.outside["wind_kw"][0, t] == pytest.approx(wind, rel=1e-12)
    assert series.outside["pv_kw"].max() > 30.0


def test_a_run_of_months_is_the_sum_of_its_steps_by_the_plain_reference() -> None:
    it_kw = 8.0 + 6.0 * np.sin(np.arange(THREE_DAYS.count) / 40.0)
    result = run_year((FRANKFURT,), it_kw[None, :], THREE_DAYS, plants=PLANTS_HERE)
    series = site_series((FRANKFURT,), Feed(), THREE_DAYS).outside[0]
    plain = plain_of(FRANKFURT, PLANTS_HERE["frankfurt"])
    for t in range(THREE_DAYS.count):
        x = {
            "dry": float(series["outdoor_c"][t]),
            "wet": float(series["wetbulb_c"][t]),
            "pv": float(series["pv_kw"][t]),
            "wind": float(series["wind_kw"][t]),
            "price": float(series["price_usd_per_kwh"][t]),
            "carbon": float(series["carbon_g_per_kwh"][t]),
            "marginal": 0.0,
            "residual": float(series["residual_g_per_kwh"][t]),
            "cfe": float(series["carbon_free_share"][t]),
            "contract": 0.0,
            "up": 1.0,
            "plan_in": 0.0,
            "plan_out": 0.0,
        }
        plain.step(float(it_kw[t]), x, 1 / 12)
    for name, amount in plain.sums.items():
        if "marginal" not in name:
            got = float(result.sums[name][0])
            assert got == pytest.approx(amount, rel=1e-9, abs=1e-6), name
    assert plain.sums["discharge_kwh"] > 10.0 and plain.sums["export_kwh"] > 1.0


def test_chunks_change_nothing() -> None:
    result = run_year(BOTH, [20.0, 100.0], THREE_DAYS, plants=PLANTS_HERE)
    series = site_series(BOTH, Feed(), THREE_DAYS)  # over the month's end, in one piece
    state, sums = states(BOTH, PLANTS_HERE), np.zeros(2, SUMS_DTYPE)
    hourly, out = np.zeros((2, 72), HOUR_DTYPE), np.zeros((2, 1), OUT_DTYPE)
    it_kw = np.broadcast_to(np.array([[20.0], [100.0]]), (2, THREE_DAYS.count)).copy()
    params = supplies(BOTH, PLANTS_HERE)
    steps.run_steps(params, state, series.outside, it_kw, 300.0, sums, hourly, 0, out)
    assert bytes_of(hourly) == bytes_of(result.hourly)
    for name in SUMS_DTYPE.names or ():
        if name not in ("usd_demand", "demand_kw_months"):
            np.testing.assert_array_equal(sums[name], result.sums[name], err_msg=name)


def peaks(result: YearResult) -> float:
    return float(result.sums["demand_kw_months"][0])


def test_a_demand_charge_is_levied_on_each_months_own_peak() -> None:
    result = run_year((FRANKFURT,), 20.0, THREE_DAYS, plants=PLANTS_HERE)
    june = run_year((FRANKFURT,), 20.0, StepAxis(start_s=JUNE_S, count=2 * 288), plants=PLANTS_HERE)
    assert 0.0 < peaks(june) < peaks(result) < 2 * result.sums["import_kw_max"][0]
    assert result.sums["usd_demand"][0] == pytest.approx(10.0 * peaks(result))


def test_an_outage_is_unserved_only_where_stores_end_and_the_rest_of_the_fleet_goes_on() -> None:
    def cut(series: SiteSeries) -> None:
        series.set_outage("dallas", JUNE_S + SECONDS_PER_DAY, JUNE_S + 1.5 * SECONDS_PER_DAY)

    calm = run_year(BOTH, [20.0, 100.0], THREE_DAYS, plants=PLANTS_HERE)
    cut_off = run_year(BOTH, [20.0, 100.0], THREE_DAYS, plants=PLANTS_HERE, prepare=cut)
    assert cut_off.sums["outage_steps"].tolist() == [0, 144]
    assert bytes_of(cut_off.sums[:1]) == bytes_of(calm.sums[:1])
    assert cut_off.sums["ups_discharge_kwh"][1] == pytest.approx(supplies(BOTH)["ups_kwh"][1])
    assert cut_off.sums["unserved_kwh"][1] == pytest.approx(
        calm.sums["facility_kwh"][1] / 6 - cut_off.sums["ups_discharge_kwh"][1], rel=0.05
    )


def test_a_plan_given_for_each_step_moves_energy_into_the_dear_hours() -> None:
    storage = Storage(rule="plan", start_share=0.0)
    plants = {"dallas": msgspec.structs.replace(PLANTS["region"], storage=storage)}
    power = msgspec.structs.replace(DALLAS.power, battery_kwh=400.0, battery_kw_max=100.0)
    dallas = msgspec.structs.replace(DALLAS, power=power)

    def prepare(series: SiteSeries) -> None:
        hour = np.arange(series.axis.count) // 12 % 24
        series.outside["price_usd_per_kwh"] = np.where(hour < 12, 0.05, 0.30)
        series.outside["plan_charge_kw"] = np.where(hour < 5, 90.0, 0.0)
        series.outside["plan_discharge_kw"] = np.where(hour >= 18, 90.0, 0.0)

    def idle(series: SiteSeries) -> None:
        prepare(series)
        series.outside["plan_charge_kw"] = 0.0

    moved = run_year((dallas,), 80.0, THREE_DAYS, plants=plants, prepare=prepare).sums[0]
    still = run_year((dallas,), 80.0, THREE_DAYS, plants=plants, prepare=idle).sums[0]
    assert moved["usd_import"] < 0.85 * still["usd_import"]
    assert moved["import_kwh"] > still["import_kwh"]  # losses


def test_matching_step_by_step_is_a_little_stricter_than_by_the_hour() -> None:
    axis = StepAxis(start_s=JUNE_S, count=30 * 288)
    power = msgspec.structs.replace(FRANKFURT.power, battery_kwh=0.0)
    sunny = msgspec.structs.replace(FRANKFURT, power=power)
    result = run_year((sunny,), 20.0, axis, plants=PLANTS_HERE)
    hours = result.hourly[0]
    grid_share = 0.0
    for note in result.notes[0]:
        if note.quantity == "carbon_free_share":
            assert note.method == "yearly mean"
            grid_share = float(site_steps(sunny, Feed(), axis).carbon_free_share[0])
    load, made = hours["load_kwh"], hours["generated_kwh"]
    matched = np.minimum(load, made) + np.maximum(0.0, load - made) * grid_share
    by_hour, ours = matched.sum() / load.sum(), float(result.carbon_free_score()[0])
    assert by_hour - 0.01 < ours <= by_hour + 1e-9
    assert 0.5 < ours < 1.0


def test_power_may_be_a_figure_one_a_site_a_profile_or_a_function() -> None:
    axis = StepAxis(start_s=JUNE_S, count=36)
    given_as = (
        30.0,
        [30.0, 30.0],
        np.full((2, 36), 30.0),
        lambda month: np.full((2, month.count), 30.0),
    )
    runs = [run_year(BOTH, power, axis) for power in given_as]
    assert len({bytes_of(r.sums) for r in runs}) == 1
    assert runs[0].sums["it_kwh"] == pytest.approx([90.0, 90.0])


def test_power_of_another_shape_or_below_nothing_is_refused() -> None:
    axis = StepAxis(start_s=JUNE_S, count=36)
    for wrong in ([1.0, 2.0, 3.0], np.ones((2, 7)), -1.0, float("nan")):
        with pytest.raises(ConfigError, match="it_kw"):
            run_year(BOTH, wrong, axis)
    with pytest.raises(ConfigError, match="start_s"):
        run_year(BOTH, 1.0, StepAxis(start_s=JUNE_S + 300.0, count=36))


def test_a_plant_that_cannot_be_is_refused_with_its_field() -> None:
    storage = Storage(charge_efficiency=0.0)
    with pytest.raises(ConfigError, match=r"storage\.charge_efficiency"):
        supplies((FRANKFURT,), {"frankfurt": Plant(**{**fields(), "storage": storage})})


def fields() -> dict[str, object]:
    return {name: getattr(PLANTS["micro"], name) for name in Plant.__struct_fields__}


def test_a_hall_is_built_for_its_chips_and_servers_else_for_its_connection() -> None:
    pools = [
        {"id": "a", "accelerator": "h100-sxm", "count": 8},
        {"id": "b", "accelerator": "x86-thread", "count": 100},
    ]
    bare = site(grid_kw_max=100.0, base_kw=40.0)
    built = msgspec.structs.replace(bare, pools=msgspec.convert(pools, tuple[Pool, ...]))
    assert it_kw_rated(bare) == pytest.approx(60.0 / 1.5)
    assert it_kw_rated(built) == pytest.approx(1.45 * 8 * 0.7 + 100 * 0.00278, rel=1e-6)


def test_stored_prices_of_a_real_market_are_arbitraged_by_threshold_and_the_books_close() -> None:
    path = Path(__file__).parents[3] / "shared/data/wholesale_price/price_2023_2024_hourly.csv.gz"
    if not path.exists():
        pytest.skip("market prices (shared/data/wholesale_price) are not here")
    with gzip.open(path, "rt", newline="") as f:
        rows = [r for r in csv.DictReader(f) if r["zone"] == "DE-LU"]
    start_s = datetime.fromisoformat(rows[0]["utc"].rstrip("Z")).replace(tzinfo=UTC).timestamp()
    usd = np.array([float(r["usd_mwh"]) for r in rows]) / 1000.0
    price = Series(
        start_s=start_s,
        step_s=3600.0,
        values=usd,
        quantity="price",
        unit="USD/kWh",
        signal="price",
        zone="DE-LU",
        source="market operator",
        licence="amber",
    )
    axis = StepAxis(start_s=datetime(2023, 6, 1, tzinfo=UTC).timestamp(), count=30 * 288)
    low, high = np.quantile(usd, [0.25, 0.75])
    cost = {}
    for rule in ("plan", "price"):  # no plan given: the battery rests
        storage = Storage(rule=rule, signal_low=low, signal_high=high)
        plants = {"frankfurt": msgspec.structs.replace(PLANTS_HERE["frankfurt"], storage=storage)}
        own = {"frankfurt": {"price_usd_per_kwh": price}}
        sums = run_year((FRANKFURT,), 40.0, axis, plants=plants, own=own).sums[0]
        made = sum(sums[f"{n}_kwh"] for n in ("pv", "wind", "discharge", "import", "unserved"))
        used = sum(sums[f"{n}_kwh"] for n in ("facility", "charge", "export", "curtailed"))
        assert made == pytest.approx(used, rel=1e-9)
        cost[rule] = sums["usd_import"] - sums["usd_export"]
    # A hundred kWh a day, moved over a spread of one to several cents.
    assert 30.0 < cost["plan"] - cost["price"] < 300.0


def test_a_cached_kernel_calls_nothing_outside_its_own_file() -> None:
    # numba looks for changes in the kernel's own file only: arithmetic imported from elsewhere would go stale.
    for module, kernels in (
        (balance, ("run_steps", "step_sites", "site_step", "report_sites")),
        (solar, ("fill_pv",)),
    ):
        for name in kernels:
            assert getattr(steps, name).py_func.__module__ == module.__name__
        tree = ast.parse(Path(module.__file__ or "").read_text())
        imports = {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
        assert {m for m in imports if m and m.startswith("hanse")} == {"hanse.units"}


@given(st.integers(0, 8759), st.floats(0, 200))
def test_what_a_simulated_agent_reports_is_what_the_live_one_computes(
    hour: int, load_kw: float
) -> None:
    # The middle of the step is the full hour, where the line between recorded hours meets the hour itself.
    now_s = datetime(2026, 1, 1, tzinfo=UTC).timestamp() + hour * SECONDS_PER_HOUR
    axis = StepAxis(start_s=now_s - 150.0, count=1)
    params, state = supplies(BOTH), states(BOTH)
    series = site_series(BOTH, Feed(), axis)
    rows = np.zeros(2, REPORT_DTYPE)
    steps.report_sites(params, state, series.outside, 0, np.full(2, load_kw), 60.0, rows)
    for row, one in zip(rows, BOTH, strict=True):
        live = site_signals(one, Feed(), now_s, load_kw=load_kw)
        for name in ("pue", "pv_kw", "wind_kw", "own_share"):
            assert row[name] == pytest.approx(getattr(live, name), rel=1e-9, abs=1e-9), name
        assert row["carbon_g_per_kwh"] == pytest.approx(live.carbon_g_per_kwh, rel=1e-9)
        assert row["price_usd_per_kwh"] == pytest.approx(live.price_usd_per_kwh, rel=1e-9)


def test_a_report_counts_grid_sun_wind_and_what_the_battery_can_still_give() -> None:
    params, state = supplies((FRANKFURT,)), states((FRANKFURT,))
    outside, row = np.array([[record({**MILD, "pv_kw": 7.0})]]), np.zeros(1, REPORT_DTYPE)
    balance.report_sites(params, state, outside, 0, np.zeros(1), 3600.0, row)
    assert row["available_kw"][0] == pytest.approx(100.0 + 7.0 + 50.0 * 0.95)
    outside["grid_up"] = 0.0
    balance.report_sites(params, state, outside, 0, np.zeros(1), 60.0, row)
    assert row["available_kw"][0] == pytest.approx(7.0 + 50.0)


def test_an_agent_needs_no_compiler() -> None:
    code = "import sys, hanse.energy, hanse.live.agent_power; sys.exit('numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_year_finds_every_kernel_warm() -> None:
    steps.warm()
    kernels = (
        steps.run_steps,
        steps.step_sites,
        steps.site_step,
        steps.report_sites,
        steps.fill_pv,
    )
    before = [list(kernel.signatures) for kernel in kernels]
    assert all(before)
    run_year(BOTH, np.full((2, THREE_DAYS.count), 20.0), THREE_DAYS)
    assert [list(kernel.signatures) for kernel in kernels] == before

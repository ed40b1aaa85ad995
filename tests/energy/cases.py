"""Sites, plants and weather for tests of the balance: random ones, and the same site for the plain reference."""

import math
from typing import Any

import msgspec
import numpy as np
from hypothesis import strategies as st

from energy.plain_site import PlainSite
from hanse.energy import PLANTS, Contracts, Plant, Storage, supplies
from hanse.energy.records import OUTSIDE_DTYPE
from hanse.model.fleet import Site

KW = st.one_of(st.just(0.0), st.floats(0.01, 1e4))
SHARE = st.floats(0, 1)
MILD = {
    "outdoor_c": 10.0,
    "wetbulb_c": 8.0,
    "pv_kw": 0.0,
    "wind_kw": 0.0,
    "price_usd_per_kwh": 0.2,
    "carbon_g_per_kwh": 300.0,
    "marginal_g_per_kwh": math.nan,
    "residual_g_per_kwh": 300.0,
    "carbon_free_share": 0.5,
    "contract_kw": 0.0,
    "grid_up": 1.0,
    "plan_charge_kw": 0.0,
    "plan_discharge_kw": 0.0,
}


def site(kind: str = "micro", **power: float) -> Site:
    raw = {
        "id": "frankfurt",
        "kind": kind,
        "city": "Frankfurt am Main",
        "country": "DE",
        "lat_deg": 50.11,
        "lon_deg": 8.68,
        "operator_hq": "DE",
        "grid_zone": "DE",
        "weather_zone": "DE-LU",
        "power": {"grid_kw_max": 100.0, **power},
    }
    return msgspec.convert(raw, Site)


@st.composite
def sites(draw: st.DrawFn) -> tuple[Site, Plant]:
    kind = draw(st.sampled_from(["micro", "edge", "region"]))
    low, middle, high = sorted(draw(st.tuples(SHARE, SHARE, SHARE)))
    one = site(
        kind,
        grid_kw_max=draw(KW),
        base_kw=draw(KW),
        pv_kw_peak=1.0,
        battery_kwh=draw(KW),
        battery_kw_max=draw(KW),
    )
    storage = Storage(
        charge_efficiency=draw(st.floats(0.5, 1)),
        discharge_efficiency=draw(st.floats(0.5, 1)),
        self_discharge_per_h=draw(st.floats(0, 0.01)),
        soc_min=low,
        soc_reserve=middle,
        soc_max=high,
        rule=draw(st.sampled_from(["surplus", "price", "carbon", "plan"])),
        signal_low=draw(st.floats(0, 300)),
        signal_high=draw(st.floats(0, 300)),
        export=draw(st.booleans()),
        start_share=draw(st.floats(low, max(low, high))),
    )
    contracts = Contracts(
        renewable_share=draw(SHARE),
        export_usd_per_kwh=draw(SHARE),
        export_kw_max=draw(st.one_of(st.none(), KW)),
    )
    plant = msgspec.structs.replace(
        PLANTS[one.kind],
        storage=storage,
        contracts=contracts,
        island=draw(st.booleans()),
        it_kw_rated=draw(st.floats(1, 1e4)),
    )
    return one, plant


@st.composite
def outsides(draw: st.DrawFn) -> dict[str, float]:
    """One step's record as a dictionary by field."""
    return {
        "outdoor_c": draw(st.floats(-40, 50)),
        "wetbulb_c": draw(st.one_of(st.just(math.nan), st.floats(-40, 40))),
        "pv_kw": draw(KW),
        "wind_kw": draw(KW),
        "price_usd_per_kwh": draw(st.floats(0, 1)),
        "carbon_g_per_kwh": draw(st.floats(0, 1000)),
        "marginal_g_per_kwh": draw(st.floats(0, 1000)),
        "residual_g_per_kwh": draw(st.floats(0, 1000)),
        "carbon_free_share": draw(SHARE),
        "contract_kw": draw(KW),
        "grid_up": draw(st.sampled_from([1.0, 1.0, 1.0, 0.0])),
        "plan_charge_kw": draw(KW),
        "plan_discharge_kw": draw(KW),
    }


def record(values: dict[str, float]) -> Any:
    row = np.zeros(1, OUTSIDE_DTYPE)[0]
    for name in OUTSIDE_DTYPE.names or ():
        row[name] = values[name]
    return row


def params(one: Site, plant: Plant) -> Any:
    return supplies((one,), {one.id: plant})[0]


def plain_of(one: Site, plant: Plant) -> PlainSite:
    """The same site for the reference, from the values and not from the parameters' row."""
    storage, contracts, ups, cooling = plant.storage, plant.contracts, plant.ups, plant.cooling
    power, rated = one.power, plant.it_kw_rated
    assert rated is not None
    sale, ups_kwh = contracts.export_kw_max, rated * ups.rated_share * ups.ride_min / 60
    return PlainSite(
        grid_kw=power.grid_kw_max,
        export_kw=power.grid_kw_max if sale is None else sale,
        base_kw=power.base_kw,
        it_rated_kw=rated,
        battery_kwh=power.battery_kwh,
        battery_kw=power.battery_kw_max,
        eta_in=storage.charge_efficiency,
        eta_out=storage.discharge_efficiency,
        leak_per_h=storage.self_discharge_per_h,
        floor=storage.soc_min,
        top=storage.soc_max,
        reserve=storage.soc_reserve,
        rule=storage.rule,
        low=storage.signal_low,
        high=storage.signal_high,
        sells_battery=storage.export,
        island=plant.island and power.battery_kwh > 0 and power.battery_kw_max > 0,
        ups=(rated * ups.rated_share, ups.k0, ups.k1, ups.k2),
        ups_kwh=ups_kwh,
        ups_in_kw=ups_kwh / ups.charge_efficiency / ups.recharge_h,
        ups_eta=ups.charge_efficiency,
        distribution=plant.distribution_share,
        lights=plant.lights_share,
        fans=(cooling.fan_share, cooling.fan_fixed_share),
        economiser=cooling.economiser,
        evaporative=cooling.evaporative,
        free=(cooling.free_c, cooling.free_band_k),
        tower=(cooling.tower_free_c, cooling.tower_band_k),
        condenser=(cooling.condenser_approach_k, cooling.condenser_c_min),
        evaporator_c=cooling.evaporator_c,
        carnot=cooling.carnot_share,
        cycles=cooling.concentration_cycles,
        drift=cooling.drift_share,
        contract_share=contracts.renewable_share,
        contract_g=contracts.renewable_g_per_kwh,
        export_usd=contracts.export_usd_per_kwh,
        held=power.battery_kwh * storage.start_share,
        ups_held=ups_kwh,
    )


def plain_outside(x: dict[str, float]) -> dict[str, float]:
    plain = {
        "dry": x["outdoor_c"],
        "pv": x["pv_kw"],
        "wind": x["wind_kw"],
        "price": x["price_usd_per_kwh"],
        "carbon": x["carbon_g_per_kwh"],
        "marginal": x["marginal_g_per_kwh"],
        "residual": x["residual_g_per_kwh"],
        "cfe": x["carbon_free_share"],
        "contract": x["contract_kw"],
        "up": x["grid_up"],
        "plan_in": x["plan_charge_kw"],
        "plan_out": x["plan_discharge_kw"],
    }
    return plain if math.isnan(x["wetbulb_c"]) else {**plain, "wet": x["wetbulb_c"]}

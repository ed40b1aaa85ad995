"""What a battery plan comes to at each site: the balance of `energy.balance`, all sites at once.

Here: `settle`, the rule `plan` of `balance.supply_step` in numpy, step by step over the horizon, and what it costs. Not here: UPS,
island operation (a plan is made for the grid), the accounts of a run (`energy`). The plan of a linear program may move energy
in a circle where power has a negative price; what is promised to sites is what their physics makes of it.
"""

from __future__ import annotations

import numpy as np

from hanse.dispatch.defer_frame import Frame
from hanse.dispatch.defer_problem import DeferBattery
from hanse.milp import Floats
from hanse.model.fleet import Value

NO_BATTERY = DeferBattery(
    kwh=0.0, kw_max=0.0, held_kwh=0.0, charge_efficiency=1.0, discharge_efficiency=1.0
)


class Flows(Value, frozen=True, kw_only=True, eq=False):
    """kW and kWh, [site, step]."""

    facility_kw: Floats
    charge_kw: Floats
    discharge_kw: Floats
    import_kw: Floats
    export_kw: Floats
    curtailed_kw: Floats
    unserved_kw: Floats
    battery_kwh: Floats


def one_way(frame: Frame, charge_kw: Floats, discharge_kw: Floats) -> tuple[Floats, Floats]:
    """A plan that never charges and discharges at once, with the same content after each step."""
    batteries = [site.battery or NO_BATTERY for site in frame.problem.sites]
    into = np.array([b.charge_efficiency for b in batteries])[:, None]
    out = np.array([b.discharge_efficiency for b in batteries])[:, None]
    gained_kw = into * charge_kw - discharge_kw / out
    return np.clip(gained_kw, 0.0, None) / into, np.clip(-gained_kw, 0.0, None) * out


def settle(
    frame: Frame, facility_kw: Floats, plan_charge_kw: Floats, plan_discharge_kw: Floats
) -> Flows:
    """Flows of all sites under a plan."""
    batteries = [site.battery or NO_BATTERY for site in frame.problem.sites]
    b = {
        name: np.array([float(getattr(one, name)) for one in batteries])
        for name in DeferBattery.__struct_fields__
    }
    sold_max = np.array([site.export_kw_max for site in frame.problem.sites])
    grid = frame.rows("grid_kw_max")
    rows: dict[str, Floats] = {name: np.zeros_like(facility_kw) for name in Flows.__struct_fields__}
    held = b["held_kwh"]
    for t, hours in enumerate(frame.hours.tolist()):
        held = held * np.maximum(0.0, 1.0 - b["self_discharge_per_h"] * hours)
        limits = _limits(b, held, hours)
        step = _step(
            (facility_kw[:, t], frame.own_kw[:, t]),
            (grid[:, t], np.where(grid[:, t] > 0.0, sold_max, 0.0)),
            (plan_charge_kw[:, t], plan_discharge_kw[:, t]),
            limits,
            b["export"],
        )
        moved = b["charge_efficiency"] * step["charge_kw"]
        moved = moved - step["discharge_kw"] / b["discharge_efficiency"]
        held = np.clip(held + moved * hours, 0.0, b["kwh"])
        for name, values in step.items():
            rows[name][:, t] = values
        rows["battery_kwh"][:, t] = held
    rows["facility_kw"] = facility_kw
    return Flows(**rows)


def _limits(b: dict[str, Floats], held: Floats, hours: float) -> tuple[Floats, Floats, Floats]:
    """Most that batteries can take, give above the reserve, and give down to the floor (`balance.battery_limits`)."""
    give = b["discharge_efficiency"] / hours
    room = b["soc_max"] * b["kwh"] - held
    above_floor = held - b["soc_min"] * b["kwh"]
    above_reserve = held - np.maximum(b["soc_min"], b["soc_reserve"]) * b["kwh"]
    return (
        np.clip(room / b["charge_efficiency"] / hours, 0.0, b["kw_max"]),
        np.clip(above_reserve * give, 0.0, b["kw_max"]),
        np.clip(above_floor * give, 0.0, b["kw_max"]),
    )


def _step(
    power: tuple[Floats, Floats],
    grid: tuple[Floats, Floats],
    plan: tuple[Floats, Floats],
    limits: tuple[Floats, Floats, Floats],
    sells: Floats,
) -> dict[str, Floats]:
    """One step of `balance.supply_step` under the rule `plan`; without the grid under self-consumption."""
    (load, generated), (import_max, export_max) = power, grid
    charge_max, discharge_max, floor_max = limits
    own = np.minimum(load, generated)
    surplus, missing = generated - own, load - own
    from_grid_max = surplus + np.maximum(0.0, import_max - missing)
    charge = np.clip(plan[0], 0.0, np.minimum(charge_max, from_grid_max))
    sale_max = sells * np.maximum(0.0, export_max - surplus)
    asked = np.clip(plan[1], 0.0, np.minimum(discharge_max, missing + sale_max))
    discharge = np.where(charge > 0.0, 0.0, asked)
    cut = import_max <= 0.0
    charge = np.where(cut, np.minimum(surplus, charge_max), charge)
    discharge = np.where(cut, np.minimum(missing, discharge_max), discharge)
    beyond = missing > import_max
    charge = np.where(beyond, 0.0, charge)
    rescue = np.maximum(discharge, np.minimum(missing - import_max, floor_max))
    discharge = np.where(beyond, rescue, discharge)
    to_load = np.minimum(missing, discharge)
    from_grid = np.minimum(missing - to_load, import_max)
    own_charge = np.minimum(charge, surplus)
    grid_charge = np.minimum(charge - own_charge, import_max - from_grid)
    sold, spare = discharge - to_load, surplus - own_charge
    exported = np.minimum(spare + sold, export_max)
    return {
        "charge_kw": own_charge + grid_charge,
        "discharge_kw": discharge,
        "import_kw": from_grid + grid_charge,
        "export_kw": exported,
        "curtailed_kw": spare + sold - exported,
        "unserved_kw": missing - to_load - from_grid,
    }

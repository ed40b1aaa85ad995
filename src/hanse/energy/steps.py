"""The compiled balance: `run_steps`, `step_sites`, `site_step`, `report_sites`, `fill_pv`.

Here: numba, and nothing else; the text compiled is that of `balance` and `solar`, which the live site calls as plain
Python. Not here: anything a process without numba may import; `hanse.energy` does not import this module. Kernels are
cached on disk with the file that holds all they call, so a change there compiles anew.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numba.extending import register_jitable

from hanse.compiled import KERNEL
from hanse.energy import balance, solar
from hanse.energy.records import (
    HOUR_DTYPE,
    OUT_DTYPE,
    OUTSIDE_DTYPE,
    REPORT_DTYPE,
    STATE_DTYPE,
    SUMS_DTYPE,
    SUPPLY_DTYPE,
)
from hanse.signals.axis import STEP_S

for _inner in (
    balance.clip,
    balance.ups_loss_kw,
    balance.heat_paths,
    balance.plant,
    balance.battery_kw,
    balance.battery_limits,
    balance.ups_charge_kw,
    balance.store,
    balance.account,
    balance.supply_step,
    balance.add_step,
    balance.add_hour,
    balance.site_step,
    balance.own_share,
    balance.own_g_per_kwh,
    balance.available_kw,
    balance.report,
    solar.place,
    solar.irradiance_w_per_m2,
    solar.pv_share,
):
    register_jitable(_inner)

site_step: Any = njit(**KERNEL)(balance.site_step)
"""`balance.site_step`, compiled: one site, one step."""
step_sites: Any = njit(**KERNEL)(balance.step_sites)
"""`balance.step_sites`, compiled: all sites, one step."""
run_steps: Any = njit(**KERNEL)(balance.run_steps)
"""`balance.run_steps`, compiled: all sites, many steps."""
report_sites: Any = njit(**KERNEL)(balance.report_sites)
"""`balance.report_sites`, compiled: what every site's agent says of it."""
fill_pv: Any = njit(**KERNEL)(solar.fill_pv)
"""`solar.fill_pv`, compiled."""


def warm() -> None:
    """Compile every kernel and leave it in the cache on disk; seconds once, then milliseconds."""
    params, state = np.zeros(1, SUPPLY_DTYPE), np.zeros(1, STATE_DTYPE)
    for name in ("charge_efficiency", "discharge_efficiency", "ups_charge_efficiency"):
        params[name] = 1.0
    params["free_band_k"] = params["tower_band_k"] = params["condenser_c_min"] = 1.0
    params["concentration_cycles"] = 2.0
    outside, it_kw = np.zeros((1, 1), OUTSIDE_DTYPE), np.zeros((1, 1))
    sums, out = np.zeros(1, SUMS_DTYPE), np.zeros((1, 1), OUT_DTYPE)
    hourly = np.zeros((1, 1), HOUR_DTYPE)
    run_steps(params, state, outside, it_kw, STEP_S, sums, hourly, 0, out)
    step_sites(params, state, outside, 0, it_kw[0], STEP_S, sums, hourly, 0, out[:, 0])
    site_step(params[0], state[0], outside[0, 0], 0.0, STEP_S, out[0, 0])
    report_sites(params, state, outside, 0, it_kw[0], STEP_S, np.zeros(1, REPORT_DTYPE))
    sun = solar.site_sun(0.0, 0.0, 0.0)
    one = np.zeros(1)
    fill_pv(*sun.arrays, 0.0, one, one, one, one, np.zeros(1))

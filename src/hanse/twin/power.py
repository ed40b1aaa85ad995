"""Power of all sites on the five-minute grid, while requests are simulated.

Here: what engines drew since the last step, the site balance of `energy`, what each site's next kWh costs and emits as its agent would
report it. Not here: physics (`energy`), series (`signals`), what routing makes of the signals (`dispatch`).
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hanse.dispatch.belief import EngineSpec
from hanse.dispatch.events import SignalsObserved
from hanse.dispatch.follow import BatteryPlan, battery_now
from hanse.energy import site_signals
from hanse.energy.plant import host_w, states, supplies
from hanse.energy.records import HOUR_DTYPE, OUT_DTYPE, OUTSIDE_DTYPE, SUMS_DTYPE
from hanse.energy.series import SiteSeries, site_series
from hanse.energy.steps import step_sites
from hanse.energy.year import close_month
from hanse.model.fleet import Fleet
from hanse.signals import Feed, SourceNote, StepAxis
from hanse.twin.arrays import DOWN
from hanse.twin.handle import Handle
from hanse.twin.scenario import Scenario
from hanse.units import SECONDS_PER_DAY, SECONDS_PER_HOUR

STEP_S: Final = 300.0


class Beside(NamedTuple):
    """What happens at sites beside requests, for one step."""

    idle_w: NDArray[np.float64]
    """[site] of servers' chips that nothing runs on, and of servers that are off."""
    deferrable_j: NDArray[np.float64]
    """[site] that jobs took in the step, their share of servers included."""
    plans: tuple[BatteryPlan | None, ...]
    """[site] battery plans that sites have; empty: batteries are left to the rule of their plant."""


UNSERVED_SHARE_MAX: Final = 0.01
"""Of a step's energy: 3 s of 5 minutes, more than any power supply holds."""


class SitePower:
    """The energy side of a run; `step` is called at the end of every five minutes."""

    def __init__(
        self,
        fleet: Fleet,
        specs: Sequence[EngineSpec],
        feed: Feed,
        scenario: Scenario,
        start_s: float,
        duration_s: float,
    ) -> None:
        self.fleet = fleet
        self.feed = feed
        self.start_s = start_s
        self.params, self.state = supplies(fleet.sites), states(fleet.sites)
        count = len(fleet.sites)
        self.sums = np.zeros(count, SUMS_DTYPE)
        hours = int(duration_s // SECONDS_PER_HOUR) + 2
        self.hourly = np.zeros((count, hours), HOUR_DTYPE)
        self.out = np.zeros(count, OUT_DTYPE)
        # Until the first step is over a site draws what the live controller takes it to before it has said anything: with nothing,
        # all of its sun and wind would be surplus, and its requests free.
        self.out["facility_kw"] = [site.power.base_kw for site in fleet.sites]
        self.notes: tuple[tuple[SourceNote, ...], ...] = ()
        chips = {(s.id, p.id): p.accelerator for s in fleet.sites for p in s.pools}
        self._host_w = np.array([e.chips * host_w(chips[e.site, e.pool]) for e in specs])
        self.dynamic_kw = np.zeros(count)
        """[site] what requests drew in the last step, before cooling."""
        self.outside_now: NDArray[np.void] = np.zeros(count, OUTSIDE_DTYPE)
        """[site] weather, own generation and grid of the last step."""
        self.idle_wh = np.zeros(count)
        self.dynamic_wh = np.zeros(count)
        self.deferrable_wh = np.zeros(count)
        self.deferrable_kw = np.zeros(count)
        """[site] what jobs drew in the last step, before cooling."""
        self._scenario = scenario
        self._series: SiteSeries | None = None
        self._taken_j = np.zeros(0)
        self._month = -1

    def step(self, handle: Handle, number: int, beside: Beside | None = None) -> None:
        """Close step `number`: engines' and jobs' energy becomes IT power, and the site's balance is drawn up."""
        world = handle.world
        it_kw = self._it_kw(world.engines, len(self.fleet.sites))
        if beside is not None:
            it_kw = it_kw + self._beside_kw(beside)
        at_s = self.start_s + number * STEP_S
        month = datetime.fromtimestamp(at_s, UTC).month
        if self._month not in (-1, month):
            close_month(self.params, self.state, self.sums)
        self._month = month
        series, t = self._outside(at_s)
        self.outside_now = series.outside[:, t]
        if beside is not None and beside.plans:
            self._order(beside.plans, series.outside, t, at_s)
        hour = int(number * STEP_S // SECONDS_PER_HOUR)
        step_sites(
            self.params, self.state, series.outside, t, it_kw, STEP_S, self.sums, self.hourly, hour,
            self.out,
        )  # fmt: skip
        self._price(world)

    def unserved(self) -> NDArray[np.bool_]:
        """[site] whether so much of the last step's load was not given that computers cannot have run."""
        asked = np.maximum(self.out["facility_kw"], 1e-9)
        return self.out["unserved_kw"] / asked > UNSERVED_SHARE_MAX

    def close(self) -> None:
        """Bill the last month's peak."""
        close_month(self.params, self.state, self.sums)

    def signals(self, now_s: float) -> list[SignalsObserved]:
        """What the agents report at `now_s` (Unix seconds), in the order of sites."""
        observed = []
        for i, site in enumerate(self.fleet.sites):
            load_kw = float(self.out["facility_kw"][i])
            found = site_signals(site, self.feed, now_s, load_kw=load_kw)
            observed.append(
                SignalsObserved(
                    at_s=now_s,
                    site=site.id,
                    pue=found.pue,
                    carbon_g_per_kwh=found.carbon_g_per_kwh,
                    price_usd_per_kwh=found.price_usd_per_kwh,
                )
            )
        return observed

    def _it_kw(self, engines: Any, sites: int) -> NDArray[np.float64]:
        if len(self._taken_j) != len(engines):
            self._taken_j = np.zeros(len(engines))
        spent_j = engines["dynamic_j"] - self._taken_j
        self._taken_j = engines["dynamic_j"].copy()
        waiting_w = engines["idle_w"] + self._host_w
        idle_j = np.where(engines["mode"] == DOWN, 0.0, waiting_w) * STEP_S
        dynamic_j = np.bincount(engines["site"], spent_j, sites)
        self.dynamic_kw = dynamic_j / STEP_S / 1000.0
        idle = np.bincount(engines["site"], idle_j, sites)
        self.idle_wh += idle / SECONDS_PER_HOUR
        self.dynamic_wh += dynamic_j / SECONDS_PER_HOUR
        return np.maximum(dynamic_j + idle, 0.0) / STEP_S / 1000.0

    def _beside_kw(self, beside: Beside) -> NDArray[np.float64]:
        self.idle_wh += beside.idle_w * STEP_S / SECONDS_PER_HOUR
        self.deferrable_wh += beside.deferrable_j / SECONDS_PER_HOUR
        self.deferrable_kw = beside.deferrable_j / STEP_S / 1000.0
        return beside.idle_w / 1000.0 + self.deferrable_kw

    def _order(
        self, plans: Sequence[BatteryPlan | None], outside: Any, t: int, at_s: float
    ) -> None:
        """Batteries do what their sites' agents would tell them, who know the load of a moment ago."""
        for i, plan in enumerate(plans):
            if self.params[i]["battery_kwh"] <= 0.0:
                continue
            own_kw = float(outside["pv_kw"][i, t] + outside["wind_kw"][i, t])
            order = battery_now(
                plan,
                at_s,
                surplus_kw=own_kw - float(self.out["facility_kw"][i]),
                export_kw_max=float(self.params[i]["export_kw_max"]),
            )
            self.params[i]["battery_rule"] = order.rule
            outside["plan_charge_kw"][i, t] = order.charge_kw
            outside["plan_discharge_kw"][i, t] = order.discharge_kw

    def _outside(self, at_s: float) -> tuple[SiteSeries, int]:
        """Series of the day that holds the instant, and the step in it: memory does not grow with the run."""
        series = self._series
        if series is None or at_s >= series.axis.until_s:
            count = int(SECONDS_PER_DAY // STEP_S)
            axis = StepAxis(start_s=at_s, count=count, step_s=STEP_S)
            series = self._series = site_series(self.fleet.sites, self.feed, axis)
            self._apply_outages(series)
            self.notes = self.notes or series.notes
        return series, round((at_s - series.axis.start_s) / STEP_S)

    def _apply_outages(self, series: SiteSeries) -> None:
        for fault in self._scenario.faults:
            from_s = self.start_s + fault.at_s
            if fault.kind == "grid_outage":
                series.set_outage(fault.site, from_s, from_s + fault.for_s)
            elif fault.kind == "heat_wave":
                middles_s = series.axis.middles_s()
                hot = (from_s <= middles_s) & (middles_s < from_s + fault.for_s)
                row = series.outside[series.site_ids.index(fault.site)]
                for name in ("outdoor_c", "wetbulb_c"):
                    row[name][hot] += fault.factor

    def _price(self, world: Any) -> None:
        """What a Wh of a chip costs and emits from now on: the site's balance of the last step."""
        out = self.out
        it_kwh = out["it_kw"] * STEP_S / SECONDS_PER_HOUR
        busy = it_kwh > 0.0
        pue = np.where(busy, out["pue"], world.site_pue)
        served = (
            np.maximum(out["facility_kw"] - out["unserved_kw"], 1e-12) * STEP_S / SECONDS_PER_HOUR
        )
        carbon = out["carbon_location_g"] + out["carbon_own_g"]
        world.site_pue[:] = np.where(np.isfinite(pue), pue, world.site_pue)
        known = np.isfinite(carbon) & busy
        world.site_g_per_wh[known] = (carbon / served / 1000.0)[known]
        world.site_usd_per_wh[busy] = (out["usd_import"] / served / 1000.0)[busy]

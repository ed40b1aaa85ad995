"""What a site draws and what its next kWh is made of, as its agent reports it; its battery follows the league's plan.

Here: putting IT load, signals, scenario overrides and the plan together. Not here: the physics (`energy`), the recordings
(`signals`), what a battery does by a plan and without one (`dispatch.follow`), the plan (`dispatch.defer`), its file (`live.agent_battery`).

An emulated battery lives by the clock that the weather is played by: a day of sun in minutes fills and empties it as a day does. What it
holds and the plan that holds survive the agent.
"""

from __future__ import annotations

from pathlib import Path

import msgspec
from msgspec.structs import replace

from hanse.dispatch.follow import SiteSchedule, battery_now, holds
from hanse.energy import SiteFlows, SiteSignals, battery_of, site_signals, site_supply
from hanse.energy.ledger import Look
from hanse.energy.limits import Cause, power_limit
from hanse.energy.meters import ImportPeak
from hanse.energy.plant import it_kw_rated
from hanse.energy.site import other_carbon
from hanse.energy.supply import DISCHARGE_EFFICIENCY
from hanse.live.agent_battery import BatteryFile, Kept
from hanse.live.facility.metering import Measured
from hanse.live.logline import log_line
from hanse.live.runtime import replace_file
from hanse.model.fleet import Fleet
from hanse.model.told import UNREADABLE
from hanse.signals import Feed
from hanse.view import PowerStatus

BATTERY_SHARE_START = 0.5
"""No meter tells what an emulated battery holds; where no earlier agent left word, half full favours neither sun nor night."""
STEP_S_MAX = 60.0
"""True seconds. After a pause (a suspended machine) the balance goes on from now, not through the gap; and the battery counts
with what it can give for so long."""


PEAK = "peak.json"
"""The month's peak of import, in the site's directory; written four times an hour."""
PUE_MIN, PUE_MAX = 1.0, 5.0
"""The range that a fleet file may declare too."""


class PowerKeeper:
    """A site's power account; `hear_control` takes the controller's scenario feed, `hear_schedule` the plan of its battery."""

    def __init__(
        self, fleet: Fleet, site_id: str, home: Path | None = None, now_s: float = 0.0
    ) -> None:
        """An account that goes on from the last one.

        Args:
            fleet: In force.
            site_id: The site.
            home: Its directory, where peak, battery and plan outlive the agent; None: nothing is kept.
            now_s: Goes on from a battery that was kept within the hour before.
        """
        self._peak_path = home / PEAK if home is not None else None
        self._peak = _kept_peak(self._peak_path)
        self._site = next(site for site in fleet.sites if site.id == site_id)
        self._feed = Feed()
        self._follows = fleet.slow_loop.places
        """Its controller plans what batteries do."""
        self._battery = battery_of(self._site.power, BATTERY_SHARE_START)
        self._stepped_at_s: float | None = None
        self.drawn_kw = 0.0
        """All the site draws, kW."""
        self.available_kw = self._site.power.grid_kw_max
        """What grid, sun, wind and battery can give, kW."""
        self.cause: Cause = "grid cap"
        """What bounds it."""
        self._battery_low = False
        self._schedule: SiteSchedule | None = None
        self._schedule_kept = b""
        """The battery's part of it, for the file."""
        self._why = ""
        self._seen: Look | None = None
        """Of the last report, for the energy books."""
        self._battery_file = BatteryFile(home) if home is not None else None
        self._go_on(now_s)

    def hear_schedule(self, data: bytes, epoch: int) -> bool:
        """A schedule of the league; False: it is another site's, older than what is known, or of an epoch below `epoch`."""
        try:
            told = msgspec.msgpack.decode(data, type=SiteSchedule)
        except UNREADABLE as error:
            log_line(f"schedule not understood: {error}")
            return False
        known = self._schedule
        old = known is not None and told.version <= known.version
        if told.site != self._site.id or told.epoch < epoch or old or not self._follows:
            return False
        self._schedule = told
        self._schedule_kept = msgspec.msgpack.encode(replace(told, works=()))
        return True

    def _go_on(self, now_s: float) -> None:
        """With what the battery held and the plan that it followed under the agent before, as far as fleet and clock still let."""
        kept = None if self._battery_file is None else self._battery_file.read(now_s)
        if kept is None:
            return
        stored_kwh = min(kept.stored_kwh, self._battery.capacity_kwh)
        self._battery = replace(self._battery, stored_kwh=stored_kwh)
        self._battery_low = kept.low
        if kept.schedule:
            self.hear_schedule(kept.schedule, 0)
        told = self._schedule
        plan = None if told is None else told.battery
        if told is None or plan is None or not holds(plan.start_s, now_s, told.valid_s):
            self._schedule, self._schedule_kept = None, b""

    def _keep_battery(self, now_s: float) -> None:
        if self._battery_file is not None and self._battery.capacity_kwh > 0.0:
            self._battery_file.keep(
                Kept(
                    at_s=now_s,
                    stored_kwh=self._battery.stored_kwh,
                    low=self._battery_low,
                    schedule=self._schedule_kept,
                )
            )

    def follow(self, fleet: Fleet) -> None:
        """Another fleet is in force; what the battery holds stays, unless it is another battery."""
        site = next(site for site in fleet.sites if site.id == self._site.id)
        made = battery_of(site.power, BATTERY_SHARE_START)
        if replace(made, stored_kwh=0.0) != replace(self._battery, stored_kwh=0.0):
            self._battery = made
        self._site = site
        self._follows = fleet.slow_loop.places
        if not self._follows:
            self._schedule, self._schedule_kept = None, b""

    def hear_control(self, data: bytes) -> None:
        """A scenario (overrides of weather, carbon, price) from the controller; anything else is not ours."""
        try:
            self._feed = msgspec.msgpack.decode(data, type=Feed)
        except UNREADABLE:
            return

    def status(self, now_s: float, it_w: float, measured: Measured | None = None) -> PowerStatus:
        """Supply right now: own generation first, the grid for the rest.

        Args:
            it_w: Of all engines, measured or estimated.
            measured: What the site's meters tell; what they do not is modelled.
        """
        measured = measured or Measured()
        base_kw = self._site.power.base_kw
        it_kw = it_w / 1000.0
        first = site_signals(
            self._site,
            self._feed,
            now_s,
            load_kw=base_kw,
            pv_measured_kw=None if measured.pv is None else measured.pv.w / 1e3,
            wind_measured_kw=None if measured.wind is None else measured.wind.w / 1e3,
        )
        pue = _measured_pue(first.pue, measured, it_kw, base_kw)
        load_kw = base_kw + it_kw * pue if measured.site is None else measured.site.w / 1e3
        grid_kw = self._site.power.grid_kw_max * self._feed.grid_factor(self._site.id, now_s)
        supply = self._step(load_kw, first.pv_kw, first.wind_kw, grid_kw, now_s)
        limit = power_limit(
            grid_kw=grid_kw,
            generated_kw=first.pv_kw + first.wind_kw,
            load_kw=load_kw,
            stored_kwh=self._battery.stored_kwh,
            battery_kwh=self._battery.capacity_kwh,
            battery_kw_max=self._battery.power_kw_max,
            efficiency=DISCHARGE_EFFICIENCY,
            step_s=STEP_S_MAX,
            outdoor_c=first.weather.temp_c,
            base_kw=base_kw,
            it_kw_rated=it_kw_rated(self._site),
            pue=pue,
            was_low=self._battery_low,
        )
        self._seen = self._look(first, measured, it_w, load_kw, pue, now_s)
        self.drawn_kw, self.available_kw = load_kw, limit.available_kw
        self.cause, self._battery_low = limit.cause, limit.battery_low
        self._keep_battery(now_s)
        return PowerStatus(
            it_kw=it_kw,
            pue=pue,
            pv_kw=first.pv_kw,
            wind_kw=first.wind_kw,
            import_kw=supply.import_kw,
            export_kw=supply.export_kw,
            carbon_g_per_kwh=first.carbon_g_per_kwh,
            price_usd_per_kwh=first.price_usd_per_kwh,
            sources=(*first.notes, *measured.sources),
            drawn_kw=load_kw,
            available_kw=limit.available_kw,
            it_method="estimated" if measured.it is None else "measured",
            it_error_share=None if measured.it is None else measured.it.error_share,
            drawn_method="estimated" if measured.site is None else "measured",
            drawn_error_share=None if measured.site is None else measured.site.error_share,
            charge_kw=supply.charge_kw,
            discharge_kw=supply.discharge_kw,
            battery_kwh=supply.stored_kwh if self._battery.capacity_kwh > 0.0 else None,
            battery_why=self._why,
            peak_import_kw=self._peak.kw,
        )

    def look(self, busy_w: float, silent_idle_w: float) -> Look | None:
        """The site as last reported, with what its engines do this moment; None before the first report."""
        if self._seen is None:
            return None
        return msgspec.structs.replace(self._seen, busy_w=busy_w, silent_idle_w=silent_idle_w)

    def _look(
        self,
        signals: SiteSignals,
        measured: Measured,
        it_w: float,
        load_kw: float,
        pue: float,
        now_s: float,
    ) -> Look:
        other = other_carbon(self._site, self._feed, now_s, signals)
        return Look(
            it_w=it_w,
            it_error_share=None if measured.it is None else measured.it.error_share,
            drawn_w=load_kw * 1e3,
            drawn_error_share=None if measured.site is None else measured.site.error_share,
            base_w=self._site.power.base_kw * 1e3,
            busy_w=0.0,
            pue=pue,
            carbon_g_per_kwh=signals.carbon_g_per_kwh,
            market_g_per_kwh=other.market_g_per_kwh,
            marginal_g_per_kwh=other.marginal_g_per_kwh,
            price_usd_per_kwh=signals.price_usd_per_kwh,
        )

    def _step(
        self, load_kw: float, pv_kw: float, wind_kw: float, grid_kw: float, now_s: float
    ) -> SiteFlows:
        """Balance since the last step; the battery carries over."""
        since_s = now_s - self._stepped_at_s if self._stepped_at_s is not None else 1.0
        schedule = self._schedule
        limit_kw = self._site.power.export_kw_max
        export_kw = grid_kw if limit_kw is None else min(limit_kw, grid_kw)
        order = battery_now(
            schedule.battery if schedule is not None else None,
            now_s,
            surplus_kw=pv_kw + wind_kw - load_kw,
            export_kw_max=export_kw,
            import_kw_max=grid_kw,
            valid_s=schedule.valid_s if schedule is not None else 0.0,
        )
        if self._battery.capacity_kwh > 0.0 and order.why != self._why:
            self._why = order.why
            log_line(f"battery: {order.why}")
        flows = site_supply(
            load_kw=load_kw,
            pv_kw=pv_kw,
            wind_kw=wind_kw,
            grid_kw_max=grid_kw,
            export_kw_max=export_kw,
            battery=self._battery,
            step_s=min(max(since_s, 0.001), STEP_S_MAX) * self._feed.clock_speed,
            rule=order.rule,
            plan_charge_kw=order.charge_kw,
            plan_discharge_kw=order.discharge_kw,
        )
        self._battery = msgspec.structs.replace(self._battery, stored_kwh=flows.stored_kwh)
        self._stepped_at_s = now_s
        self._note_import(flows.import_kw, min(max(since_s, 0.0), STEP_S_MAX), now_s)
        return flows

    def _note_import(self, import_kw: float, since_s: float, now_s: float) -> None:
        before = self._peak
        self._peak = before.with_import(import_kw, since_s, now_s)
        if self._peak_path is not None and self._peak.window != before.window:
            replace_file(self._peak_path, msgspec.json.encode(self._peak))


def _kept_peak(path: Path | None) -> ImportPeak:
    """What an earlier agent had seen of this month; the quarter in which it ended counts from there on."""
    if path is None or not path.exists():
        return ImportPeak()
    try:
        return msgspec.json.decode(path.read_bytes(), type=ImportPeak)
    except (*UNREADABLE, OSError) as error:
        log_line(f"{path}: {error}; the month's peak begins anew")
        return ImportPeak()


def _measured_pue(modelled: float, measured: Measured, it_kw: float, base_kw: float) -> float:
    """Two meters' ratio; outside what a hall can be, one of them measures something else."""
    if measured.site is None or measured.it is None or it_kw <= 0.0:
        return modelled
    return min(max((measured.site.w / 1e3 - base_kw) / it_kw, PUE_MIN), PUE_MAX)

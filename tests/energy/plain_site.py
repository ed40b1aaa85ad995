"""A site's power written once more, for comparison: buckets of kWh emptied into one another in order.

Nothing here is imported from the balance; what the two share is docs/energy.md.
"""

from dataclasses import dataclass, field


@dataclass
class PlainSite:
    """What the reference needs to know; energies in kWh, powers in kW."""

    grid_kw: float
    export_kw: float
    base_kw: float
    it_rated_kw: float
    battery_kwh: float
    battery_kw: float
    eta_in: float
    eta_out: float
    leak_per_h: float
    floor: float
    top: float
    reserve: float
    rule: str
    low: float
    high: float
    sells_battery: bool
    island: bool
    ups: tuple[float, float, float, float]  # rating, k0, k1, k2
    ups_kwh: float
    ups_in_kw: float
    ups_eta: float
    distribution: float
    lights: float
    fans: tuple[float, float]  # share, of it fixed
    economiser: bool
    evaporative: bool
    free: tuple[float, float]
    tower: tuple[float, float]
    condenser: tuple[float, float]  # approach, least
    evaporator_c: float
    carnot: float
    cycles: float
    drift: float
    contract_share: float = 0.0
    contract_g: float = 11.0
    export_usd: float = 0.0
    held: float = 0.0
    clean: float = 0.0
    ups_held: float = 0.0
    sums: dict[str, float] = field(default_factory=dict)

    def overhead(self, it: float, dry: float, wet: float | None) -> dict[str, float]:
        rating, k0, k1, k2 = self.ups
        load = it / rating if rating else 0.0
        ups = rating * (k0 + k1 * load + k2 * load**2)
        wires = it * self.distribution
        heat = it + ups + wires
        share, fixed = self.fans
        fans = share * (fixed * self.it_rated_kw + (1 - fixed) * heat)
        air_left = 1.0
        if self.economiser:
            air_left = min(1.0, max(0.0, (dry - self.free[0]) / self.free[1]))
        sink, compressed, watered = dry, air_left, 0.0
        if self.evaporative:
            sink = dry if wet is None else min(wet, dry)
            warm = min(1.0, max(0.0, (sink - self.tower[0]) / self.tower[1]))
            compressed, watered = min(air_left, warm), air_left
        hot = max(self.condenser[1], sink + self.condenser[0])
        cop = self.carnot * (self.evaporator_c + 273.15) / (hot - self.evaporator_c)
        compressor = (heat + fans) * compressed / cop
        water = 1.48 * (heat + fans + compressor) * watered
        water *= 1 + 1 / (self.cycles - 1) + self.drift
        return {
            "ups": ups,
            "cooling": fans + compressor,
            "other": wires + self.lights * self.it_rated_kw,
            "water_per_h": water,
        }

    def step(self, it: float, x: dict[str, float], hours: float) -> None:
        over = self.overhead(it, x["dry"], x.get("wet"))
        load = (self.base_kw + it + over["ups"] + over["cooling"] + over["other"]) * hours
        up = x["up"] > 0
        cap = self.grid_kw * hours if up else 0.0
        sale = self.export_kw * hours if up else 0.0
        made = (x["pv"] + x["wind"]) * hours
        sun = made if up or self.island else 0.0
        refill = self._refill(sun + cap - load, hours) if up else 0.0
        need = load + refill
        own = min(need, sun)
        over_kwh, lack = sun - own, need - own

        self.held, before = self.held * (1 - self.leak_per_h * hours), self.held
        clean_share = self.clean / before if before > 0 else 0.0
        charge, discharge = self._battery(x, up, over_kwh, lack, cap, sale, hours)
        from_battery = min(lack, discharge)
        grid_load = min(lack - from_battery, cap)
        charge_own = min(charge, over_kwh)
        charge_grid = charge - charge_own
        sold = discharge - from_battery
        export = min(over_kwh - charge_own + sold, sale)
        short = lack - from_battery - grid_load
        ups_out = 0.0 if up else min(short, (it + over["ups"]) * hours, self.ups_held)

        cfe = x["cfe"]
        self.clean = clean_share * (self.held - discharge / self.eta_out)
        self.clean += (charge_own + charge_grid * cfe) * self.eta_in
        self.held += charge * self.eta_in - discharge / self.eta_out
        self.ups_held += refill * self.ups_eta - ups_out
        bought = grid_load + charge_grid
        covered = min(bought, bought * self.contract_share + x["contract"] * hours)
        own_exported = export - min(sold, export)
        kept = 1 - own_exported / made if made > 0 else 0.0
        matched = own + from_battery * clean_share + grid_load * cfe
        self._book(
            facility_kwh=load,
            it_kwh=it * hours,
            ups_loss_kwh=over["ups"] * hours,
            cooling_kwh=over["cooling"] * hours,
            other_kwh=over["other"] * hours,
            water_l=over["water_per_h"] * hours,
            charge_kwh=charge,
            discharge_kwh=discharge,
            ups_charge_kwh=refill,
            ups_discharge_kwh=ups_out,
            import_kwh=bought,
            export_kwh=export,
            curtailed_kwh=made + sold - own - charge_own - export,
            unserved_kwh=short - ups_out,
            carbon_location_g=bought * x["carbon"],
            carbon_marginal_g=bought * x["marginal"],
            avoided_marginal_g=export * x["marginal"],
            carbon_market_g=covered * self.contract_g + (bought - covered) * x["residual"],
            carbon_own_g=(41 * x["pv"] + 11 * x["wind"]) * hours * kept,
            usd_import=bought * x["price"],
            usd_export=export * self.export_usd,
            carbon_free_kwh=matched * load / need if need else 0.0,
        )

    def _refill(self, spare: float, hours: float) -> float:
        room = self.ups_kwh - self.ups_held
        if room <= 0:
            return 0.0
        return max(0.0, min(self.ups_in_kw * hours, room / self.ups_eta, spare))

    def _battery(
        self,
        x: dict[str, float],
        up: bool,
        surplus: float,
        lack: float,
        cap: float,
        sale: float,
        hours: float,
    ) -> tuple[float, float]:
        power = self.battery_kw * hours
        takes = min(power, max(0.0, (self.top * self.battery_kwh - self.held) / self.eta_in))
        floor, reserve = self.floor, max(self.floor, self.reserve)
        gives = min(power, max(0.0, (self.held - reserve * self.battery_kwh) * self.eta_out))
        gives_all = min(power, max(0.0, (self.held - floor * self.battery_kwh) * self.eta_out))
        offered = surplus + max(0.0, cap - lack)
        if not up:
            return min(surplus, takes), min(lack, gives_all)
        charge, discharge = 0.0, 0.0
        if self.rule == "surplus":
            charge, discharge = min(surplus, takes), min(lack, gives)
        elif self.rule == "plan":
            charge = min(x["plan_in"] * hours, takes, offered)
            if charge <= 0:
                room = max(0.0, sale - surplus) if self.sells_battery else 0.0
                discharge = min(x["plan_out"] * hours, gives, lack + room)
        else:
            signal = x["price"] if self.rule == "price" else x["carbon"]
            if signal <= self.low:
                charge = min(takes, offered)
            elif signal >= self.high and lack > 0:
                discharge = min(lack, gives)
            else:
                charge = min(surplus, takes)
        if lack > cap:
            return 0.0, max(discharge, min(lack - cap, gives_all))
        return charge, discharge

    def _book(self, **amounts: float) -> None:
        for name, amount in amounts.items():
            self.sums[name] = self.sums.get(name, 0.0) + amount

"""The linear program behind `renewables`: sizes of PV, wind and battery and their hourly use over some days.

Here: rows and columns for one site, sizing over typical days or use over whole months at given sizes. Not here: which
days (`days`), prices by year, the year's own figures (`renewables`).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hanse.milp import INF, Floats, Model, Solver
from hanse.model.fleet import Value

UNSERVED_USD_PER_KWH = 10.0
"""Far above any energy price, so that load is left out only where the connection and all own power are too small."""


class Hours(Value, frozen=True, kw_only=True, eq=False):
    """Hourly series of some days, [day, hour], and what the days stand for."""

    load_kw: Floats
    pv_share: Floats
    """kW per kW of PV."""
    wind_share: Floats
    price_usd_per_kwh: Floats
    carbon_g_per_kwh: Floats
    residual_g_per_kwh: Floats
    carbon_free_share: Floats
    weight: Floats
    """[day]."""
    in_month: NDArray[np.bool_]
    """[month, day]: the day stands for one of that month."""


class Terms(Value, frozen=True, kw_only=True):
    """Yearly prices and technical limits of one site. The carbon price is in USD per gram here."""

    pv_usd_per_kw: float
    wind_usd_per_kw: float
    battery_usd_per_kwh: float
    battery_usd_per_kw: float
    pv_kw_max: float
    wind_kw_max: float
    battery_kwh_max: float
    c_rate_max: float
    charge_efficiency: float
    discharge_efficiency: float
    self_discharge_per_h: float
    grid_kw_max: float
    export_kw_max: float
    export_usd_per_kwh: float
    usd_per_kw_month: float
    carbon_usd_per_g: float
    pv_g_per_kwh: float
    wind_g_per_kwh: float
    grid_charges: bool
    """The battery may also be filled from the grid."""
    cyclic_days: bool
    """Each day's battery ends as it began; false: the days follow each other and only the last one does."""


class OwnPowerModel:
    """Columns of one site over some days; solved again after `reprice` from where it was."""

    def __init__(self, hours: Hours, terms: Terms) -> None:
        self.hours, self.terms = hours, terms
        m = self.model = Model()
        shape = hours.load_kw.shape
        self.size = m.add_columns("pv, wind, kWh, kW", np.zeros(4))
        self.peak = m.add_columns("peak", np.zeros(len(hours.in_month)))
        self.load, self.export = (m.add_columns(n, np.zeros(shape)) for n in ("import", "export"))
        self.charge, self.discharge = (m.add_columns(n, np.zeros(shape)) for n in ("in", "out"))
        self.held = m.add_columns("held", np.zeros(shape))
        self.spare, self.short = (m.add_columns(n, np.zeros(shape)) for n in ("spare", "short"))
        self._balance()
        self._battery()
        if terms.usd_per_kw_month > 0.0:
            self._peaks()
        # Basis changes are cheap at this size and presolve is not: simplex keeps its basis between solves.
        self.solver = Solver(m, options={"solver": "simplex"})
        self.reprice(terms)

    def reprice(self, terms: Terms) -> None:
        """Other prices and limits for the same days and efficiencies."""
        self.terms = terms
        h, weight = self.hours, self.hours.weight[:, None]
        carbon = terms.carbon_usd_per_g
        own = [
            carbon * g * float((weight * share).sum())
            for g, share in ((terms.pv_g_per_kwh, h.pv_share), (terms.wind_g_per_kwh, h.wind_share))
        ]
        usd = [terms.pv_usd_per_kw + own[0], terms.wind_usd_per_kw + own[1]]
        usd += [terms.battery_usd_per_kwh, terms.battery_usd_per_kw]
        upper = [terms.pv_kw_max, terms.wind_kw_max, terms.battery_kwh_max, INF]
        s = self.solver
        s.set_costs(self.size, usd)
        s.set_columns(self.size, 0.0, upper)
        # Unknown carbon has no price here; the figures stay unknown.
        grid_usd = carbon * np.nan_to_num(h.carbon_g_per_kwh)
        s.set_costs(self.load, weight * (h.price_usd_per_kwh + grid_usd))
        s.set_columns(self.load, 0.0, terms.grid_kw_max)
        # What is sold takes its lifecycle carbon along, at the lower of the two figures.
        sold_g = min(terms.pv_g_per_kwh, terms.wind_g_per_kwh)
        s.set_costs(self.export, -weight * (terms.export_usd_per_kwh + carbon * sold_g))
        s.set_columns(self.export, 0.0, terms.export_kw_max)
        s.set_costs(self.short, weight * UNSERVED_USD_PER_KWH)
        s.set_costs(self.peak, terms.usd_per_kw_month)

    def fix(self, sizes: Floats) -> None:
        """Use of given sizes: pv kW, wind kW, battery kWh, battery kW."""
        self.solver.set_columns(self.size, sizes, sizes)

    def solve(self) -> Floats:
        """Optimal columns."""
        return self.solver.relaxed().values

    def _balance(self) -> None:
        """pv + wind + out + import + short = load + in + export + spare, every hour."""
        h, m = self.hours, self.model
        row = m.add_rows("balance", h.load_kw, h.load_kw, h.load_kw.shape)
        m.put(row, self.size[0], h.pv_share)
        m.put(row, self.size[1], h.wind_share)
        for block, sign in (
            (self.discharge, 1.0),
            (self.load, 1.0),
            (self.short, 1.0),
            (self.charge, -1.0),
            (self.export, -1.0),
            (self.spare, -1.0),
        ):
            m.put(row, block, sign)
        # The grid feeds the load only, or also the battery; the battery feeds the load only.
        only = m.add_rows("to load", -INF, h.load_kw, h.load_kw.shape)
        m.put(only, self.discharge, 1.0)
        if not self.terms.grid_charges:
            m.put(only, self.load, 1.0)
            m.put(only, self.short, 1.0)

    def _battery(self) -> None:
        """held = (1 - s) held before + eta_c in - out / eta_d; held <= kWh; in and out <= kW <= C-rate kWh."""
        t, m = self.terms, self.model
        step = m.add_rows("held", 0.0, 0.0, self.held.shape)
        before = np.roll(self.held, 1, axis=1)
        if not t.cyclic_days:
            before = np.roll(self.held.ravel(), 1).reshape(self.held.shape)
        m.put(step, self.held, 1.0)
        m.put(step, before, -(1.0 - t.self_discharge_per_h))
        m.put(step, self.charge, -t.charge_efficiency)
        m.put(step, self.discharge, 1.0 / t.discharge_efficiency)
        for name, block, size in (
            ("room", self.held, self.size[2]),
            ("in", self.charge, self.size[3]),
            ("out", self.discharge, self.size[3]),
        ):
            rows = m.add_rows(f"limit {name}", -INF, 0.0, block.shape)
            m.put(rows, block, 1.0)
            m.put(rows, size, -1.0)
        rate = m.add_rows("C-rate", -INF, 0.0, (1,))
        m.put(rate, self.size[3:4], 1.0)
        m.put(rate, self.size[2:3], -t.c_rate_max)

    def _peaks(self) -> None:
        """peak of a month >= import of every hour of the days that stand for its days."""
        month, day = np.nonzero(self.hours.in_month)
        rows = self.model.add_rows("peak", -INF, 0.0, (len(month), self.load.shape[1]))
        self.model.put(rows, self.load[day], 1.0)
        self.model.put(rows, self.peak[month][:, None], -1.0)
